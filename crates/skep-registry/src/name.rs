//! Names of repositories and tags.

use std::fmt;
use std::str::FromStr;

use skep_base::TenantName;

use crate::digest::{Digest, DigestError};

/// Longest name of a repository, its tenant included: clients refuse more together with the host.
pub const NAME_MAX_BYTES: usize = 255;
/// Longest tag: the specification's.
pub const TAG_MAX_BYTES: usize = 128;

/// Whose repositories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// A tenant's.
    Tenant(TenantName),
    /// Those of a registry outside, by the name that images call it.
    Mirror(Box<str>),
}

impl Space {
    /// The first part of its repositories' names.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Space::Tenant(tenant) => tenant.as_str(),
            Space::Mirror(host) => host,
        }
    }
}

/// A repository's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName {
    /// Whose it is.
    pub space: Space,
    /// The rest, such as `team/web`.
    pub path: Box<str>,
}

/// Why a text is not a repository's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is not a name at all.
    #[error(
        "{0:?} is not a repository's name: use parts of lower-case letters and digits, with single '.', '_' or '-' between them, joined by '/'"
    )]
    Form(String),
    /// It names nobody's repository.
    #[error("{0:?} names no tenant: a repository is called TENANT/NAME")]
    Space(String),
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_part(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|b| alnum(*b)) || !bytes.last().is_some_and(|b| alnum(*b)) {
        return false;
    }
    bytes.split(|b| alnum(*b)).all(|between| {
        matches!(between, b"" | b"." | b"_" | b"__")
            || (!between.is_empty() && between.iter().all(|b| *b == b'-'))
    })
}

/// Whether every part of a path is one that the specification allows.
#[must_use]
pub fn is_path(path: &str) -> bool {
    !path.is_empty() && path.len() <= NAME_MAX_BYTES && path.split('/').all(is_part)
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<RepositoryName, NameError> {
        if !is_path(text) {
            return Err(NameError::Form(text.to_owned()));
        }
        let nobody = || NameError::Space(text.to_owned());
        let (first, path) = text.split_once('/').ok_or_else(nobody)?;
        let space = match first.contains('.') {
            true => Space::Mirror(first.into()),
            false => Space::Tenant(TenantName::new(first).map_err(|_| nobody())?),
        };
        Ok(RepositoryName { space, path: path.into() })
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space.as_str(), self.path)
    }
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a tag: use up to 128 letters, digits, '.', '_' and '-', beginning with a letter, digit or '_'"
)]
pub struct TagError(pub String);

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Tag, TagError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = text.len() <= TAG_MAX_BYTES
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if good { Ok(Tag(text.into())) } else { Err(TagError(text.to_owned())) }
    }
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A name that may mean something else tomorrow.
    Tag(Tag),
    /// This very content.
    Digest(Digest),
}

/// Why a text is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It looks like a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It looks like a tag.
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        // A tag has no colon.
        match text.contains(':') {
            true => Ok(Reference::Digest(text.parse()?)),
            false => Ok(Reference::Tag(text.parse()?)),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_specifications_form_and_an_owner() {
        for good in ["shop/web", "shop/a/b-c/d.e_f__g", "shop/a---b", "docker.io/library/busybox", "a-b/c"] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().to_string(), good);
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "a/B", "a/b..c", "a/b___c", "a/.b", "a/b.", "a/_b", "a/..",
            "a/b-_c", "a/b c", "a/ä",
        ] {
            assert_eq!(bad.parse::<RepositoryName>(), Err(NameError::Form(bad.to_owned())), "{bad}");
        }
        for nobodys in ["web", "a_b/c"] {
            assert_eq!(nobodys.parse::<RepositoryName>(), Err(NameError::Space(nobodys.to_owned())));
        }
        assert!(format!("a/{}", "b".repeat(300)).parse::<RepositoryName>().is_err());
        assert_eq!("docker.io/x".parse::<RepositoryName>().unwrap().space, Space::Mirror("docker.io".into()));
    }

    #[test]
    fn tags_and_digests_are_told_apart() {
        for good in ["latest", "_x", "1.2-3_4", &"a".repeat(128)] {
            assert_eq!(good.parse::<Reference>().unwrap().to_string(), good);
        }
        for bad in ["", ".a", "-a", "a b", "a/b", "..", &"a".repeat(129), "ä"] {
            assert!(matches!(bad.parse::<Reference>(), Err(ReferenceError::Tag(_))), "{bad}");
        }
        assert!(matches!("sha256:bad".parse::<Reference>(), Err(ReferenceError::Digest(_))));
    }

    proptest::proptest! {
        /// Whatever gets in as a name stays below the directory that it is put in.
        #[test]
        fn no_name_leaves_its_directory(text in "[a-z0-9._/-]{0,40}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                for part in name.to_string().split('/') {
                    proptest::prop_assert!(!part.starts_with(['.', '_']) && !part.is_empty());
                }
            }
        }
    }
}
