//! Service-account tokens: what they say, and when that still holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use skep_api::UserInfo;
use skep_base::TenantName;

use super::{LiveKind, Liveness, ObjectState, TokenError};
use crate::identity::{
    Credential, Identity, ObjectRef, ServiceAccountCredential, add_authenticated, extra,
    service_account_groups, service_account_user,
};

/// How far another server's clock may be ahead of ours when it issues a token.
const CLOCK_LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// How long an object that is being deleted still counts, as upstream has it. (The deletion timestamp of a
/// pod is the end of its grace period, so a pod's token works until then.)
const DELETION_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// The claims of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(default, skip_serializing_if = "Audience::is_empty")]
    pub(super) aud: Audience,
    /// Absent only in the tokens of token secrets, which do not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iat: Option<i64>,
    pub(super) iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Kubernetes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<i64>,
    #[serde(default)]
    pub(super) sub: String,
}

/// One audience or several.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Audience(pub(super) Vec<String>);

impl Audience {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        Ok(Audience(match Either::deserialize(d)? {
            Either::One(s) => vec![s],
            Either::Many(list) => list,
        }))
    }
}

/// The private claims.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kubernetes {
    pub(super) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Ref>,
    pub(super) serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) warnafter: Option<i64>,
}

/// An object that a token names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ref {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
}

impl From<&ObjectRef> for Ref {
    fn from(o: &ObjectRef) -> Ref {
        Ref { name: o.name.clone(), uid: o.uid.clone() }
    }
}

impl From<&Ref> for ObjectRef {
    fn from(r: &Ref) -> ObjectRef {
        ObjectRef { name: r.name.clone(), uid: r.uid.clone() }
    }
}

/// A token whose signature and issuer are right. Whether it holds *now* is asked every time.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) identity: Arc<Identity>,
    pub(super) tenant_uid: String,
    pub(super) claims: Claims,
    /// Whether the API server is among the audiences: found out once, because every request asks.
    pub(super) for_api: bool,
}

impl Verified {
    pub(super) fn new(tenant: TenantName, tenant_uid: String, claims: Claims, for_api: bool) -> Verified {
        let k = &claims.kubernetes;
        let account = &k.serviceaccount;
        let mut extra_values = BTreeMap::new();
        let mut put = |key: &str, value: String| {
            extra_values.insert(key.to_owned(), vec![value]);
        };
        if !claims.jti.is_empty() {
            put(extra::CREDENTIAL_ID, format!("JTI={}", claims.jti));
        }
        if let Some(pod) = &k.pod {
            put(extra::POD_NAME, pod.name.clone());
            put(extra::POD_UID, pod.uid.clone());
        }
        if let Some(node) = &k.node {
            put(extra::NODE_NAME, node.name.clone());
            if !node.uid.is_empty() {
                put(extra::NODE_UID, node.uid.clone());
            }
        }
        let mut groups = service_account_groups(&k.namespace);
        add_authenticated(&mut groups);
        let identity = Identity {
            tenant,
            tenant_uid: Some(tenant_uid.clone()),
            user: UserInfo {
                name: service_account_user(&k.namespace, &account.name),
                uid: account.uid.clone(),
                groups,
                extra: extra_values,
            },
            credential: Credential::ServiceAccount(Box::new(ServiceAccountCredential {
                namespace: k.namespace.clone(),
                name: account.name.clone(),
                uid: account.uid.clone(),
                pod: k.pod.as_ref().map(ObjectRef::from),
                node: k.node.as_ref().map(ObjectRef::from),
                secret: k.secret.as_ref().map(ObjectRef::from),
            })),
        };
        Verified { identity: Arc::new(identity), tenant_uid, claims, for_api }
    }

    /// Whether the token's time has come and not passed.
    ///
    /// The start may lie a minute ahead (another server's clock); the end is the end. (Upstream gives a
    /// minute there too; nothing needs it, for clients renew long before.)
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), TokenError> {
        let claims = &self.claims;
        let latest_start = now.saturating_add(CLOCK_LEEWAY).unwrap_or(now).as_second();
        if claims.nbf.is_some_and(|t| t > latest_start) {
            return Err(TokenError::NotYetValid);
        }
        if claims.iat.is_some_and(|t| t > latest_start) {
            return Err(TokenError::IssuedInFuture);
        }
        match claims.exp {
            Some(exp) if now.as_second() >= exp => Err(TokenError::Expired),
            None if claims.kubernetes.secret.is_none() => Err(TokenError::Malformed),
            _ => Ok(()),
        }
    }

    /// Whether the account and what the token is bound to are still there.
    pub(super) fn check_alive(
        &self,
        live: &(impl Liveness + ?Sized),
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let tenant = &self.identity.tenant;
        let k = &self.claims.kubernetes;
        let check = |kind: LiveKind, namespace: &str, object: &Ref| {
            let state = live.state(tenant, kind, namespace, &object.name, &object.uid);
            let gone =
                |detail: String| Err(TokenError::Invalidated { kind, name: object.name.clone(), detail });
            match state {
                ObjectState::Alive => Ok(()),
                ObjectState::Terminating { since } => {
                    if since.saturating_add(DELETION_LEEWAY).is_ok_and(|end| end >= now) {
                        Ok(())
                    } else {
                        gone("has been deleted".to_owned())
                    }
                }
                ObjectState::Replaced { uid } => {
                    gone(format!("UID ({uid}) does not match claim ({})", object.uid))
                }
                ObjectState::Absent => gone("not found".to_owned()),
            }
        };
        check(LiveKind::ServiceAccount, &k.namespace, &k.serviceaccount)?;
        if let Some(secret) = &k.secret {
            check(LiveKind::Secret, &k.namespace, secret)?;
        }
        match (&k.pod, &k.node) {
            (Some(pod), _) => check(LiveKind::Pod, &k.namespace, pod),
            (None, Some(node)) => check(LiveKind::Node, "", node),
            (None, None) => Ok(()),
        }
    }

    /// Whether a client still uses a token that it should have renewed.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.claims.kubernetes.warnafter.is_some_and(|t| t != 0 && now.as_second() > t)
    }
}
