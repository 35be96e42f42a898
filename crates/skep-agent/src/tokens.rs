//! Service account tokens of a pod's volumes: asked for, kept in memory, and renewed in time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use serde::Deserialize;
use serde_json::json;
use skep_client::{Client, Resource, Tenants};

use crate::spec;
use crate::volume::payload::{TokenKey, tokens};

/// No token is kept longer, however long it is good for.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// A token is renewed when less than this part of its life is left.
const RENEW_AT_PART: i64 = 5;
/// Tokens are renewed up to this much early, so that not all pods ask at once.
const JITTER_SECONDS: f64 = 10.0;

struct Token {
    token: String,
    renew_at: Timestamp,
}

/// See the module.
pub struct Tokens {
    client: Client,
    kept: BTreeMap<TokenKey, Token>,
}

#[derive(Deserialize)]
struct TokenRequest {
    status: TokenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    token: String,
    expiration_timestamp: Timestamp,
}

/// When to renew a token that was got at `now` and ends at `expires`.
fn renew_at(now: Timestamp, expires: Timestamp, jitter: f64) -> Timestamp {
    let life = expires.duration_since(now);
    let early = SignedDuration::from_millis((jitter * JITTER_SECONDS * 1000.0) as i64);
    let part = SignedDuration::from_millis(
        i64::try_from(life.as_millis()).unwrap_or(i64::MAX) / RENEW_AT_PART * (RENEW_AT_PART - 1),
    );
    now.checked_add(part.min(MAX_AGE) - early).unwrap_or(now).max(now)
}

impl Tokens {
    /// None yet.
    #[must_use]
    pub fn new(client: Client) -> Tokens {
        Tokens { client, kept: BTreeMap::new() }
    }

    /// The tokens that the pod's volumes need, all good, and when the first must be renewed.
    ///
    /// # Errors
    /// When one cannot be had and none is left that is still good.
    pub async fn fresh(
        &mut self,
        pod: &Pod,
        now: Timestamp,
    ) -> Result<(BTreeMap<TokenKey, String>, Option<Timestamp>), String> {
        let wanted = tokens(pod);
        self.kept.retain(|key, _| wanted.contains(key));
        for key in &wanted {
            if self.kept.get(key).is_some_and(|t| t.renew_at > now) {
                continue;
            }
            match self.request(pod, key).await {
                Ok(status) => {
                    let renew_at = renew_at(now, status.expiration_timestamp, rand::random());
                    self.kept.insert(key.clone(), Token { token: status.token, renew_at });
                }
                Err(error) => match self.kept.get_mut(key) {
                    // The old one is good for a while.
                    Some(old) => {
                        tracing::warn!(pod = %spec::format_pod(pod), %error, "a token could not be renewed; it will be tried again");
                        old.renew_at = now.checked_add(RENEW_RETRY).unwrap_or(now);
                    }
                    None => return Err(format!("failed to fetch token: {error}")),
                },
            }
        }
        let next = self.kept.values().map(|t| t.renew_at).min();
        Ok((self.kept.iter().map(|(k, t)| (k.clone(), t.token.clone())).collect(), next))
    }

    async fn request(&self, pod: &Pod, key: &TokenKey) -> Result<TokenStatus, skep_client::Error> {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let at = Resource::of::<ServiceAccount>()
            .at(Tenants::Own)
            .namespace(spec::namespace(pod))
            .name(account)
            .subresource("token");
        let audiences: Vec<&str> = if key.audience.is_empty() { Vec::new() } else { vec![&key.audience] };
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": key.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": spec::name(pod), "uid": spec::uid(pod)},
            },
        });
        self.client.create::<TokenRequest>(&at, &request).await.map(|r| r.status)
    }
}

/// Pause after a renewal that failed.
const RENEW_RETRY: SignedDuration = SignedDuration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_leaves_a_fifth() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        assert_eq!(renew_at(at(0), at(3600), 0.0), at(2880));
        assert_eq!(renew_at(at(0), at(3600), 1.0), at(2870));
        assert_eq!(renew_at(at(0), at(1_000_000), 0.0), at(86_400), "a day at most");
        assert_eq!(renew_at(at(100), at(50), 0.5), at(100), "what has expired is renewed at once");
    }
}
