//! Who asks: client certificates and bearer tokens.
//!
//! [`identity_of_certificate`] reads a certificate once per connection. [`Authenticator`] checks bearer
//! tokens on every request: the static file first, then service accounts. Nothing here looks at the path of
//! the request; a token names its tenant by its issuer, and the tenant's own key must have signed it.

mod cache;
pub(crate) mod certificate;
mod jws;
mod keys;
mod service_account;
mod static_tokens;
#[cfg(test)]
mod tests;
mod token_request;

pub use certificate::{CertificateError, TENANT_URI_PREFIX, identity_of_certificate, tenant_uri};
pub use jws::MAX_TOKEN_BYTES;
pub use keys::{KeyError, KeyRing, SECRET_BYTES, TenantKey};
pub use static_tokens::{StaticTokens, TokenFileError};
pub use token_request::{
    BoundObject, Issued, MAX_EXPIRATION_SECONDS, MIN_EXPIRATION_SECONDS, ServiceAccountRef,
    TokenRequestError, WARN_ONLY_EXPIRATION_SECONDS,
};

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus, UserInfo as ApiUserInfo};
use parking_lot::RwLock;
use serde_json::json;
use skep_api::UserInfo;
use skep_base::TenantName;

use crate::attributes::quoted_list;
use crate::identity::Identity;
use cache::TokenCache;
use service_account::{Claims, Verified};

/// The audiences, besides the tenant's own issuer, that mean the API server: what clients put into tokens
/// that they ask for by name.
pub const WELL_KNOWN_AUDIENCES: [&str; 2] =
    ["https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local"];

/// The tenants that exist now.
pub trait TenantDirectory {
    /// The uid of the tenant of this name; `None` if there is none. The system tenant has one too.
    fn tenant_uid(&self, tenant: &TenantName) -> Option<Arc<str>>;
}

/// The kinds that tokens are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LiveKind {
    /// The account itself.
    ServiceAccount,
    /// A pod.
    Pod,
    /// A secret.
    Secret,
    /// A node.
    Node,
}

impl fmt::Display for LiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LiveKind::ServiceAccount => "service account",
            LiveKind::Pod => "pod",
            LiveKind::Secret => "secret",
            LiveKind::Node => "node",
        })
    }
}

/// How an object that a token names is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// There, with the uid that was asked for, and not being deleted.
    Alive,
    /// There, with that uid, and its deletion timestamp is set.
    Terminating {
        /// The deletion timestamp.
        since: Timestamp,
    },
    /// There, with another uid.
    Replaced {
        /// That uid.
        uid: String,
    },
    /// Not there.
    Absent,
}

/// The live objects. Asked on every request with a service-account token, so an answer should cost one
/// look-up in memory; it must see a deletion as soon as the deletion is acknowledged.
pub trait Liveness {
    /// How the object is. `namespace` is empty for nodes.
    fn state(
        &self,
        tenant: &TenantName,
        kind: LiveKind,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> ObjectState;
}

/// Why a token is not accepted. All of them are 401; the text is for logs and token reviews.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// In no form that is known here, and not in the token file.
    #[error("invalid bearer token")]
    Malformed,
    /// The issuer is none of ours, or its tenant does not exist.
    #[error("invalid bearer token, unknown issuer")]
    UnknownIssuer,
    /// Not signed by the key of the tenant that it names.
    #[error("invalid bearer token, invalid signature")]
    Signature,
    /// Its time is over.
    #[error("invalid bearer token, service account token has expired")]
    Expired,
    /// Its time has not come.
    #[error("invalid bearer token, service account token is not valid yet")]
    NotYetValid,
    /// It claims to be from the future.
    #[error("invalid bearer token, service account token is issued in the future")]
    IssuedInFuture,
    /// It is for others.
    #[error("invalid bearer token, token audiences {} is invalid for the target audiences {}", quoted_list(.token), quoted_list(.wanted))]
    Audience {
        /// Whom it is for.
        token: Vec<String>,
        /// Who asked.
        wanted: Vec<String>,
    },
    /// The account, or what the token is bound to, is gone.
    #[error("invalid bearer token, {kind} {name} {detail}")]
    Invalidated {
        /// What is gone.
        kind: LiveKind,
        /// Its name.
        name: String,
        /// What happened to it.
        detail: String,
    },
    /// This machine cannot derive keys.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// An accepted token.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Whose it is.
    pub identity: Arc<Identity>,
    /// Which of the asked audiences it is for; empty for tokens without audiences.
    pub audiences: Vec<String>,
    /// The client should have renewed it: worth an audit annotation and a metric.
    pub stale: bool,
}

/// Checks and issues bearer tokens.
#[derive(Debug)]
pub struct Authenticator {
    keys: KeyRing,
    /// Base URLs that issuers may begin with, without a slash at the end; the first is put into new tokens.
    bases: Vec<String>,
    static_tokens: RwLock<Arc<StaticTokens>>,
    cache: TokenCache,
}

impl Authenticator {
    /// An authenticator whose issuers are `<base>/tenants/<name>`. `bases` are the base URLs by which the
    /// API server is or was known (`https://host:port`); the first is the current one, tokens of the others
    /// are still accepted.
    #[must_use]
    pub fn new(master: &[u8; SECRET_BYTES], bases: &[String]) -> Authenticator {
        Authenticator {
            keys: KeyRing::new(master),
            bases: bases.iter().map(|b| b.trim_end_matches('/').to_owned()).collect(),
            static_tokens: RwLock::default(),
            cache: TokenCache::default(),
        }
    }

    /// Takes over the static tokens in place of the ones before.
    pub fn set_static_tokens(&self, tokens: StaticTokens) {
        *self.static_tokens.write() = Arc::new(tokens);
    }

    /// The issuer of a tenant's tokens.
    #[must_use]
    pub fn issuer(&self, tenant: &TenantName) -> String {
        format!("{}/tenants/{tenant}", self.bases.first().map_or("", String::as_str))
    }

    /// The tenant whose issuer this is.
    fn tenant_of_issuer(&self, issuer: &str) -> Option<TenantName> {
        self.bases.iter().find_map(|base| {
            let name = issuer.strip_prefix(base.as_str())?.strip_prefix("/tenants/")?;
            TenantName::new(name).ok()
        })
    }

    /// The audiences that mean the API server, for a tenant. The first goes into tokens that are asked for
    /// without audiences.
    #[must_use]
    pub fn api_audiences(&self, tenant: &TenantName) -> Vec<String> {
        let mut list = vec![self.issuer(tenant)];
        list.extend(self.bases.iter().skip(1).map(|base| format!("{base}/tenants/{tenant}")));
        list.extend(WELL_KNOWN_AUDIENCES.iter().map(|a| (*a).to_owned()));
        list
    }

    fn is_api_audience(&self, tenant: &TenantName, audience: &str) -> bool {
        WELL_KNOWN_AUDIENCES.contains(&audience)
            || self.tenant_of_issuer(audience).is_some_and(|t| t == *tenant)
    }

    /// The document at `/.well-known/openid-configuration` of a tenant.
    #[must_use]
    pub fn openid_configuration(&self, tenant: &TenantName) -> serde_json::Value {
        let issuer = self.issuer(tenant);
        json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The document at `/openid/v1/jwks` of a tenant.
    ///
    /// # Errors
    /// [`KeyError`] when the key cannot be derived.
    pub fn jwks(&self, tenant_uid: &str) -> Result<serde_json::Value, KeyError> {
        Ok(self.keys.key(tenant_uid)?.jwks())
    }

    /// Whose token this is. `audiences` are the ones asked for (a token review's); empty means the API
    /// server.
    ///
    /// # Errors
    /// [`TokenError`]: unauthorized.
    pub fn authenticate<L>(
        &self,
        token: &str,
        audiences: &[String],
        live: &L,
        now: Timestamp,
    ) -> Result<Authenticated, TokenError>
    where
        L: TenantDirectory + Liveness + ?Sized,
    {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let digest = static_tokens::sha256(token);
        if let Some(verified) = self.cache.get(&digest) {
            let result = self.holds(&verified, audiences, live, now);
            if matches!(
                result,
                Err(TokenError::Expired | TokenError::UnknownIssuer | TokenError::Invalidated { .. })
            ) {
                self.cache.remove(&digest);
            }
            return result;
        }
        let known = self.static_tokens.read().get(&digest).cloned();
        if let Some(identity) = known {
            live.tenant_uid(&identity.tenant).ok_or(TokenError::UnknownIssuer)?;
            // Like upstream's, a token of the file is for whoever asks.
            return Ok(Authenticated { identity, audiences: audiences.to_vec(), stale: false });
        }
        let verified = Arc::new(self.verify(token, live)?);
        let result = self.holds(&verified, audiences, live, now)?;
        self.cache.insert(digest, verified);
        Ok(result)
    }

    /// What never changes about a token: form, issuer, signature.
    fn verify(
        &self,
        token: &str,
        directory: &(impl TenantDirectory + ?Sized),
    ) -> Result<Verified, TokenError> {
        let unverified = jws::parse::<Claims>(token).ok_or(TokenError::Malformed)?;
        let tenant = self.tenant_of_issuer(&unverified.claims.iss).ok_or(TokenError::UnknownIssuer)?;
        let uid = directory.tenant_uid(&tenant).ok_or(TokenError::UnknownIssuer)?;
        let key = self.keys.key(&uid)?;
        if !unverified.verified_by(&key) {
            return Err(TokenError::Signature);
        }
        let audiences = &unverified.claims.aud.0;
        let for_api = audiences.is_empty() || audiences.iter().any(|a| self.is_api_audience(&tenant, a));
        Ok(Verified::new(tenant, uid.to_string(), unverified.claims, for_api))
    }

    /// What must hold now: the tenant, the time, the audience, the account.
    fn holds<L>(
        &self,
        verified: &Verified,
        audiences: &[String],
        live: &L,
        now: Timestamp,
    ) -> Result<Authenticated, TokenError>
    where
        L: TenantDirectory + Liveness + ?Sized,
    {
        let tenant = &verified.identity.tenant;
        if live.tenant_uid(tenant).as_deref() != Some(&*verified.tenant_uid) {
            return Err(TokenError::UnknownIssuer);
        }
        verified.check_time(now)?;
        let audiences = self.common_audiences(verified, audiences)?;
        verified.check_alive(live, now)?;
        Ok(Authenticated { identity: verified.identity.clone(), audiences, stale: verified.is_stale(now) })
    }

    /// Which of the wanted audiences the token is for.
    fn common_audiences(&self, verified: &Verified, wanted: &[String]) -> Result<Vec<String>, TokenError> {
        let tenant = &verified.identity.tenant;
        let token = &verified.claims.aud.0;
        let common: Vec<String> = if wanted.is_empty() {
            // The usual case: a request to this server. Nobody looks at the list, so it is not made.
            if verified.for_api {
                return Ok(Vec::new());
            }
            Vec::new()
        } else if token.is_empty() {
            wanted.iter().filter(|a| self.is_api_audience(tenant, a)).cloned().collect()
        } else {
            token.iter().filter(|a| wanted.contains(a)).cloned().collect()
        };
        if common.is_empty() {
            let wanted = if wanted.is_empty() { self.api_audiences(tenant) } else { wanted.to_vec() };
            return Err(TokenError::Audience { token: token.clone(), wanted });
        }
        Ok(common)
    }

    /// Answers a token review of a tenant: tokens of other tenants do not exist there. The system tenant
    /// reviews its own.
    ///
    /// `None` when the review names no token, which is a bad request ("token is required for TokenReview in
    /// authentication").
    pub fn review<L>(
        &self,
        tenant: &TenantName,
        review: &TokenReview,
        live: &L,
        now: Timestamp,
    ) -> Option<TokenReview>
    where
        L: TenantDirectory + Liveness + ?Sized,
    {
        if review.spec.token.is_empty() {
            return None;
        }
        let wanted = match review.spec.audiences.as_deref() {
            Some(list) if !list.is_empty() => list.to_vec(),
            _ => self.api_audiences(tenant),
        };
        let result = match self.authenticate(&review.spec.token, &wanted, live, now) {
            Ok(a) if a.identity.tenant != *tenant => Err(TokenError::UnknownIssuer),
            result => result,
        };
        let status = match result {
            Ok(a) => TokenReviewStatus {
                authenticated: Some(true),
                user: Some(api_user(&a.identity.user)),
                audiences: Some(a.audiences),
                error: None,
            },
            Err(e) => TokenReviewStatus {
                // A token that nobody here knows and one that is wrong look the same from outside the
                // tenant.
                error: Some(match e {
                    TokenError::UnknownIssuer => TokenError::Malformed.to_string(),
                    e => e.to_string(),
                }),
                ..TokenReviewStatus::default()
            },
        };
        Some(TokenReview { status: Some(status), ..review.clone() })
    }
}

/// A user as the API shows one.
#[must_use]
pub fn api_user(user: &UserInfo) -> ApiUserInfo {
    ApiUserInfo {
        username: (!user.name.is_empty()).then(|| user.name.clone()),
        uid: (!user.uid.is_empty()).then(|| user.uid.clone()),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
    }
}
