//! What a request is about.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;

use crate::digest::Digest;
use crate::error::{Code, RegistryError};
use crate::name::{Reference, RepositoryName};

/// Longest path and query together. Names, tags and digests are far shorter.
const PATH_MAX_BYTES: usize = 8 * 1024;

/// What the path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Ping,
    Catalog,
    Manifest(RepositoryName, Reference),
    Blob(RepositoryName, Digest),
    Uploads(RepositoryName),
    Upload(RepositoryName, String),
    Tags(RepositoryName),
    Referrers(RepositoryName, Digest),
}

impl Endpoint {
    pub(crate) fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Endpoint::Ping | Endpoint::Catalog => None,
            Endpoint::Manifest(name, _)
            | Endpoint::Blob(name, _)
            | Endpoint::Uploads(name)
            | Endpoint::Upload(name, _)
            | Endpoint::Tags(name)
            | Endpoint::Referrers(name, _) => Some(name),
        }
    }
}

/// The query's parameters; of a repeated one all values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub(crate) fn parse(query: &str) -> Query {
        // A '+' is one: media types have them, and nothing here has spaces.
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(decode(key)).or_default().push(decode(value));
        }
        Query(all)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.first()).map(String::as_str)
    }

    pub(crate) fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

fn no_such_path() -> RegistryError {
    RegistryError::new(Code::NameUnknown, "there is nothing at this path")
}

/// Takes a path below `/v2/` apart. `source` is the registry that a mirror is asked for (`ns`), which is not part of the path then.
pub(crate) fn parse(path: &str, source: Option<&str>) -> Result<Endpoint, RegistryError> {
    if path.len() > PATH_MAX_BYTES {
        return Err(no_such_path());
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| no_such_path())?;
    let rest = match decoded.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Endpoint::Ping),
        Some("/_catalog") => return Ok(Endpoint::Catalog),
        Some(rest) => rest.strip_prefix('/').ok_or_else(no_such_path)?,
        None => return Err(no_such_path()),
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let name = |parts: &[&str]| -> Result<RepositoryName, RegistryError> {
        let name = parts.join("/");
        Ok(match source {
            Some(source) => format!("{source}/{name}").parse()?,
            None => name.parse()?,
        })
    };
    Ok(match parts.as_slice() {
        [of @ .., "manifests", reference] => Endpoint::Manifest(name(of)?, reference.parse()?),
        [of @ .., "referrers", digest] => Endpoint::Referrers(name(of)?, digest.parse()?),
        [of @ .., "tags", "list"] => Endpoint::Tags(name(of)?),
        [of @ .., "blobs", "uploads"] | [of @ .., "blobs", "uploads", ""] => Endpoint::Uploads(name(of)?),
        [of @ .., "blobs", "uploads", id] => Endpoint::Upload(name(of)?, (*id).to_owned()),
        [of @ .., "blobs", digest] => Endpoint::Blob(name(of)?, digest.parse()?),
        _ => return Err(no_such_path()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        assert_eq!(parse("/v2/", None).unwrap(), Endpoint::Ping);
        assert_eq!(parse("/v2", None).unwrap(), Endpoint::Ping);
        assert_eq!(parse("/v2/_catalog", None).unwrap(), Endpoint::Catalog);
        assert_eq!(
            parse("/v2/a/blobs/uploads/manifests/x", None).unwrap(),
            Endpoint::Manifest(name("a/blobs/uploads"), "x".parse().unwrap())
        );
        assert_eq!(
            parse(&format!("/v2/a/b/blobs/{}", digest.replace(':', "%3A")), None).unwrap(),
            Endpoint::Blob(name("a/b"), digest.parse().unwrap())
        );
        for path in ["/v2/a/b/blobs/uploads", "/v2/a/b/blobs/uploads/"] {
            assert_eq!(parse(path, None).unwrap(), Endpoint::Uploads(name("a/b")));
        }
        assert_eq!(parse("/v2/a/b/tags/list", None).unwrap(), Endpoint::Tags(name("a/b")));
        assert_eq!(
            parse("/v2/library/x/manifests/1", Some("docker.io")).unwrap().repository(),
            Some(&name("docker.io/library/x"))
        );
        for (bad, code) in [
            ("/v3/", Code::NameUnknown),
            ("/v2x", Code::NameUnknown),
            ("/v2/a/b", Code::NameUnknown),
            ("/v2/a/manifests/x", Code::NameUnknown),
            ("/v2/a/B/manifests/x", Code::NameInvalid),
            ("/v2/a/../b/manifests/x", Code::NameInvalid),
            ("/v2/a/%2e%2e/manifests/x", Code::NameInvalid),
            ("/v2/a/b/manifests/.x", Code::ManifestInvalid),
            ("/v2/a/b/manifests/sha256:x", Code::DigestInvalid),
            ("/v2/a/b/blobs/x", Code::DigestInvalid),
        ] {
            assert_eq!(parse(bad, None).unwrap_err().code, code, "{bad}");
        }
    }

    #[test]
    fn queries_keep_repeated_values_and_plus_signs() {
        let q = Query::parse("tag=a&tag=b&artifactType=application/x+json&empty&m=sha256%3Aff");
        assert_eq!(q.all("tag"), ["a", "b"]);
        assert_eq!(q.get("artifactType"), Some("application/x+json"));
        assert_eq!(q.get("m"), Some("sha256:ff"));
        assert_eq!(q.get("empty"), Some(""));
        assert_eq!(q.get("none"), None);
    }
}
