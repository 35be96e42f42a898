//! The static token file: `token,user,uid,"group1,group2",tenant`.
//!
//! Tokens are kept and looked up by their SHA-256, so that neither memory nor the time of a look-up gives
//! one away.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use ring::digest;
use skep_api::UserInfo;
use skep_base::TenantName;

use super::cache::Digest;
use crate::identity::{Credential, Identity, add_authenticated};

/// What is wrong with a token file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileError {
    /// Too few or too many columns.
    #[error(
        "line {line} of the token file has {columns} columns; it must have 3 to 5: token, user, uid, groups, tenant"
    )]
    Columns {
        /// The line, from 1.
        line: usize,
        /// How many it has.
        columns: usize,
    },
    /// An empty token or user name.
    #[error("line {line} of the token file has no {what}")]
    Empty {
        /// The line, from 1.
        line: usize,
        /// `token` or `user`.
        what: &'static str,
    },
    /// The tenant is not a name.
    #[error("line {line} of the token file: {source}")]
    Tenant {
        /// The line, from 1.
        line: usize,
        /// Why.
        source: skep_base::TenantNameError,
    },
    /// A quote that does not close, or text after a closing quote.
    #[error("line {line} of the token file has a misplaced quote")]
    Quote {
        /// The line, from 1.
        line: usize,
    },
    /// The same token twice.
    #[error("line {line} of the token file repeats a token")]
    Duplicate {
        /// The line, from 1.
        line: usize,
    },
}

/// The tokens of a file.
#[derive(Debug, Default)]
pub struct StaticTokens {
    by_digest: HashMap<Digest, Arc<Identity>>,
}

pub(super) fn sha256(token: &str) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    out
}

impl StaticTokens {
    /// Reads the text of a token file. Empty lines and lines that begin with `#` do not count.
    ///
    /// # Errors
    /// [`TokenFileError`] with the line; the tokens themselves are never shown.
    pub fn parse(text: &str) -> Result<StaticTokens, TokenFileError> {
        let mut by_digest = HashMap::new();
        for (i, raw) in text.lines().enumerate() {
            let line = i + 1;
            if raw.trim().is_empty() || raw.starts_with('#') {
                continue;
            }
            let columns = columns(raw).ok_or(TokenFileError::Quote { line })?;
            if !(3..=5).contains(&columns.len()) {
                return Err(TokenFileError::Columns { line, columns: columns.len() });
            }
            let [token, user, uid] = [&columns[0], &columns[1], &columns[2]];
            for (value, what) in [(token, "token"), (user, "user")] {
                if value.is_empty() {
                    return Err(TokenFileError::Empty { line, what });
                }
            }
            let mut groups: Vec<String> = columns
                .get(3)
                .map(|g| g.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect())
                .unwrap_or_default();
            add_authenticated(&mut groups);
            let tenant = match columns.get(4).filter(|t| !t.is_empty()) {
                Some(t) => TenantName::new(t).map_err(|source| TokenFileError::Tenant { line, source })?,
                None => TenantName::system(),
            };
            let identity = Identity {
                tenant,
                tenant_uid: None,
                user: UserInfo { name: user.clone(), uid: uid.clone(), groups, extra: BTreeMap::new() },
                credential: Credential::Token,
            };
            if by_digest.insert(sha256(token), Arc::new(identity)).is_some() {
                return Err(TokenFileError::Duplicate { line });
            }
        }
        Ok(StaticTokens { by_digest })
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<&Arc<Identity>> {
        self.by_digest.get(digest)
    }
}

/// The columns of a CSV line; `None` for a misplaced quote.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = line;
    loop {
        let unpadded = rest.trim_start();
        if let Some(mut quoted) = unpadded.strip_prefix('"') {
            let mut value = String::new();
            loop {
                let end = quoted.find('"')?;
                value.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => {
                        value.push('"');
                        quoted = more;
                    }
                    None => break,
                }
            }
            out.push(value);
            let after = quoted.trim_start();
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None if after.is_empty() => return Some(out),
                None => return None,
            }
        } else {
            match rest.split_once(',') {
                Some((value, more)) => {
                    if value.contains('"') {
                        return None;
                    }
                    out.push(value.trim().to_owned());
                    rest = more;
                }
                None => {
                    if rest.contains('"') {
                        return None;
                    }
                    out.push(rest.trim().to_owned());
                    return Some(out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_file() {
        let t = StaticTokens::parse(
            "# comment\n\ntok1,jane,u1\ntok2, joe ,u2,\"dev,ops\"\r\ntok3,ann,,\"system:masters\",acme\ntok4,bob,4,,acme\n",
        )
        .unwrap();
        let get = |s: &str| t.get(&sha256(s)).cloned();
        assert_eq!(get("tok1").unwrap().user.groups, ["system:authenticated"]);
        let joe = get("tok2").unwrap();
        assert_eq!(joe.user.name, "joe");
        assert_eq!(joe.user.groups, ["dev", "ops", "system:authenticated"]);
        assert!(joe.tenant.is_system());
        let ann = get("tok3").unwrap();
        assert_eq!(ann.tenant.as_str(), "acme");
        assert!(ann.is_master() && !ann.is_system_master());
        assert_eq!(get("tok4").unwrap().tenant.as_str(), "acme");
        assert!(get("tok5").is_none() && get("").is_none());
    }

    #[test]
    fn refuses_what_is_not_clear() {
        let error = |s: &str| StaticTokens::parse(s).unwrap_err();
        assert_eq!(error("a,b"), TokenFileError::Columns { line: 1, columns: 2 });
        assert_eq!(error("a,b,c,d,e,f"), TokenFileError::Columns { line: 1, columns: 6 });
        assert_eq!(error("x,y,z\n,b,c"), TokenFileError::Empty { line: 2, what: "token" });
        assert_eq!(error("a,,c"), TokenFileError::Empty { line: 1, what: "user" });
        assert_eq!(error("a,b,c,\"d"), TokenFileError::Quote { line: 1 });
        assert_eq!(error("a,b,c,\"d\"x"), TokenFileError::Quote { line: 1 });
        assert_eq!(error("a,b,c\na,d,e"), TokenFileError::Duplicate { line: 2 });
        assert!(matches!(error("a,b,c,,Not A Name"), TokenFileError::Tenant { line: 1, .. }));
        for e in [error("secret,b,c\nsecret,d,e"), error("secret,b")] {
            assert!(!e.to_string().contains("secret"), "{e}");
        }
    }
}
