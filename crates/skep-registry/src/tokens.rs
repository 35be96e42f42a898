//! Tokens of the registry's own, for clients that show their credential once and then a token (Docker's protocol).
//!
//! A token says who somebody is and not what they may do: that is asked at every request, as for any credential. Keys live as long as the
//! process; after a restart a client is asked for its credential again.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use skep_base::TenantName;

use crate::gate::Caller;

/// How long a token is good. A client gets a new one by itself; a credential that was taken back works so long at most.
pub(crate) const LIFE: Duration = Duration::from_secs(300);
/// Tells these tokens from others.
const PREFIX: &str = "skep.";

pub(crate) struct Tokens {
    key: hmac::Key,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    tenant: String,
    uid: String,
    user: String,
    groups: Vec<String>,
    until_s: u64,
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Tokens {
    /// With a new key; `None` when the system gives no randomness.
    pub(crate) fn new() -> Option<Tokens> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).ok()?;
        Some(Tokens { key })
    }

    pub(crate) fn issue(&self, caller: &Caller, now: SystemTime) -> String {
        let claims = Claims {
            tenant: caller.tenant.as_str().to_owned(),
            uid: caller.tenant_uid.clone(),
            user: caller.user.clone(),
            groups: caller.groups.clone(),
            until_s: seconds(now) + LIFE.as_secs(),
        };
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let tag = hmac::sign(&self.key, claims.as_bytes());
        format!("{PREFIX}{claims}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whether it looks like one of these at all.
    pub(crate) fn is_own(token: &str) -> bool {
        token.starts_with(PREFIX)
    }

    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Option<Caller> {
        let (claims, tag) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.key, claims.as_bytes(), &tag).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        (seconds(now) < claims.until_s).then_some(())?;
        Some(Caller {
            tenant: TenantName::new(&claims.tenant).ok()?,
            tenant_uid: claims.uid,
            user: claims.user,
            groups: claims.groups,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_and_cannot_be_made_up() {
        let tokens = Tokens::new().unwrap();
        let caller = Caller {
            tenant: TenantName::new("shop").unwrap(),
            tenant_uid: "u".into(),
            user: "ann".into(),
            groups: vec!["g".into()],
        };
        let now = SystemTime::now();
        let token = tokens.issue(&caller, now);
        assert!(Tokens::is_own(&token));
        assert_eq!(tokens.verify(&token, now), Some(caller));
        assert_eq!(tokens.verify(&token, now + LIFE), None);
        assert_eq!(Tokens::new().unwrap().verify(&token, now), None, "another key");
        let forged = token.replacen("skep.ey", "skep.eX", 1);
        assert_ne!(forged, token);
        assert_eq!(tokens.verify(&forged, now), None);
        assert_eq!(tokens.verify("skep.x.y", now), None);
    }
}
