//! Issuing service-account tokens: what a TokenRequest gets.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenRequestStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skep_api::{Errors, Path};
use skep_base::TenantName;

use super::service_account::{Audience, Claims, Kubernetes, Ref};
use super::{Authenticator, KeyError, jws};
use crate::identity::{ObjectRef, service_account_user};

/// The shortest life of a token.
pub const MIN_EXPIRATION_SECONDS: i64 = 600;
/// The longest.
pub const MAX_EXPIRATION_SECONDS: i64 = 1 << 32;
/// What a request without an expiration gets.
const DEFAULT_EXPIRATION_SECONDS: i64 = 3600;
/// The expiration that the service-account admission writes into pods. Clients that never reload their
/// token still exist, so such a token lives for [`EXTENDED_EXPIRATION_SECONDS`] and warns after this time.
pub const WARN_ONLY_EXPIRATION_SECONDS: i64 = 3607;
const EXTENDED_EXPIRATION_SECONDS: i64 = 365 * 24 * 60 * 60;

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenRequestError {
    /// The request is not valid: 422.
    #[error("{0}")]
    Invalid(Errors),
    /// Its uid is another account's: 409.
    #[error(
        "the UID in the token request ({requested}) does not match the UID of the service account ({actual})"
    )]
    UidConflict {
        /// The request's.
        requested: String,
        /// The account's.
        actual: String,
    },
    /// The bound object's uid is another one's: 409.
    #[error(
        "the UID in the bound object reference ({requested}) does not match the UID in record. The object might have been deleted and then recreated"
    )]
    BoundUidConflict {
        /// The request's.
        requested: String,
    },
    /// The pod runs under another account: 400.
    #[error("cannot bind token for serviceaccount {0:?} to pod running with different serviceaccount name.")]
    OtherAccountsPod(String),
    /// Tokens are not bound to such objects: 400.
    #[error("cannot bind token to object of type {0}")]
    UnsupportedKind(String),
    /// This machine cannot sign: 500.
    #[error("failed to generate token: {0}")]
    Key(#[from] KeyError),
}

/// The account that a token is for.
#[derive(Clone, Copy, Debug)]
pub struct ServiceAccountRef<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

/// What the request's `boundObjectRef` points to, as the API server found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BoundObject {
    /// Nothing.
    #[default]
    None,
    /// A pod.
    Pod {
        /// Name and uid.
        pod: ObjectRef,
        /// Its `spec.serviceAccountName`.
        service_account: String,
        /// The node that it is bound to; without a uid when there is no such node object.
        node: Option<ObjectRef>,
    },
    /// A secret.
    Secret(ObjectRef),
    /// A node.
    Node(ObjectRef),
}

/// A new token.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// Its id, for the audit log.
    pub jti: String,
}

impl Authenticator {
    /// What the API server must look up before [`create_token`](Authenticator::create_token): kind and name
    /// of the bound object.
    ///
    /// # Errors
    /// [`TokenRequestError::UnsupportedKind`].
    pub fn bound_object(request: &TokenRequest) -> Result<Option<(&'static str, &str)>, TokenRequestError> {
        let Some(reference) = request.spec.as_ref().and_then(|s| s.bound_object_ref.as_ref()) else {
            return Ok(None);
        };
        let version = reference.api_version.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or_default();
        let name = reference.name.as_deref().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        match (group, kind) {
            ("", "Pod") => Ok(Some(("Pod", name))),
            ("", "Secret") => Ok(Some(("Secret", name))),
            ("", "Node") => Ok(Some(("Node", name))),
            _ => Err(TokenRequestError::UnsupportedKind(format!("{group}/{version}, Kind={kind}"))),
        }
    }

    /// Answers a TokenRequest for an account of a tenant.
    ///
    /// # Errors
    /// [`TokenRequestError`].
    pub fn create_token(
        &self,
        tenant: &TenantName,
        tenant_uid: &str,
        account: ServiceAccountRef<'_>,
        request: &TokenRequest,
        bound: &BoundObject,
        now: Timestamp,
    ) -> Result<(TokenRequest, Issued), TokenRequestError> {
        let mut out = request.clone();
        check_metadata(&mut out, account)?;
        out.metadata.creation_timestamp = Some(Time(now));
        let mut spec = out.spec.take().unwrap_or_default();
        let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_EXPIRATION_SECONDS);
        check_expiration(seconds)?;
        let audiences = spec.audiences.take().filter(|a| !a.is_empty());
        let audiences = audiences.unwrap_or_else(|| vec![self.issuer(tenant)]);
        spec.audiences = Some(audiences.clone());
        check_bound(&spec, account, bound)?;

        let extended = seconds == WARN_ONLY_EXPIRATION_SECONDS
            && matches!(bound, BoundObject::Pod { .. })
            && audiences.iter().all(|a| self.is_api_audience(tenant, a));
        let (lifetime, warn_after) = if extended {
            (EXTENDED_EXPIRATION_SECONDS, Some(now.as_second().saturating_add(seconds)))
        } else {
            (seconds, None)
        };
        let exp = Some(now.as_second().saturating_add(lifetime));
        let issued = self.sign(tenant, tenant_uid, account, audiences, bound, exp, warn_after, now)?;
        out.spec = Some(spec);
        out.status = Some(TokenRequestStatus {
            token: Some(issued.token.clone()),
            expiration_timestamp: Some(Time(
                now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX),
            )),
        });
        Ok((out, issued))
    }

    /// The token of a secret of type `kubernetes.io/service-account-token`: bound to the secret, without an
    /// end and without audiences.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn create_secret_token(
        &self,
        tenant: &TenantName,
        tenant_uid: &str,
        account: ServiceAccountRef<'_>,
        secret: ObjectRef,
        now: Timestamp,
    ) -> Result<Issued, KeyError> {
        let bound = BoundObject::Secret(secret);
        self.sign(tenant, tenant_uid, account, Vec::new(), &bound, None, None, now)
    }

    #[allow(clippy::too_many_arguments)] // The claims, one by one; a struct would only repeat `Claims`.
    fn sign(
        &self,
        tenant: &TenantName,
        tenant_uid: &str,
        account: ServiceAccountRef<'_>,
        audiences: Vec<String>,
        bound: &BoundObject,
        exp: Option<i64>,
        warnafter: Option<i64>,
        now: Timestamp,
    ) -> Result<Issued, KeyError> {
        let key = self.keys.key(tenant_uid)?;
        let jti = uuid::Uuid::new_v4().to_string();
        let (pod, node, secret) = match bound {
            BoundObject::None => (None, None, None),
            BoundObject::Pod { pod, node, .. } => (Some(Ref::from(pod)), node.as_ref().map(Ref::from), None),
            BoundObject::Secret(secret) => (None, None, Some(Ref::from(secret))),
            BoundObject::Node(node) => (None, Some(Ref::from(node)), None),
        };
        let claims = Claims {
            aud: Audience(audiences),
            exp,
            iat: Some(now.as_second()),
            iss: self.issuer(tenant),
            jti: jti.clone(),
            kubernetes: Kubernetes {
                namespace: account.namespace.to_owned(),
                node,
                pod,
                secret,
                serviceaccount: Ref { name: account.name.to_owned(), uid: account.uid.to_owned() },
                warnafter,
            },
            nbf: Some(now.as_second()),
            sub: service_account_user(account.namespace, account.name),
        };
        Ok(Issued { token: jws::sign(&claims, &key, self.keys.rng())?, jti })
    }
}

/// The request's own name, namespace and uid must be the account's; what is missing is filled in.
fn check_metadata(
    request: &mut TokenRequest,
    account: ServiceAccountRef<'_>,
) -> Result<(), TokenRequestError> {
    let meta = &mut request.metadata;
    let mut errors = Errors::new();
    let metadata = Path::root("metadata");
    if let Some(name) = meta.name.as_deref().filter(|n| !n.is_empty() && *n != account.name) {
        errors.invalid(&metadata.child("name"), name, "must match the service account name if specified");
    } else if let Some(ns) = meta.namespace.as_deref().filter(|n| !n.is_empty() && *n != account.namespace) {
        errors.invalid(
            &metadata.child("namespace"),
            ns,
            "must match the service account namespace if specified",
        );
    }
    if !errors.is_empty() {
        return Err(TokenRequestError::Invalid(errors));
    }
    if let Some(uid) = meta.uid.as_deref().filter(|u| !u.is_empty() && *u != account.uid) {
        return Err(TokenRequestError::UidConflict {
            requested: uid.to_owned(),
            actual: account.uid.to_owned(),
        });
    }
    meta.name = Some(account.name.to_owned());
    meta.namespace = Some(account.namespace.to_owned());
    meta.uid = Some(account.uid.to_owned());
    Ok(())
}

fn check_expiration(seconds: i64) -> Result<(), TokenRequestError> {
    let mut errors = Errors::new();
    let spec = Path::root("spec");
    let path = spec.child("expirationSeconds");
    if seconds < MIN_EXPIRATION_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_EXPIRATION_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(()) } else { Err(TokenRequestError::Invalid(errors)) }
}

fn check_bound(
    spec: &TokenRequestSpec,
    account: ServiceAccountRef<'_>,
    bound: &BoundObject,
) -> Result<(), TokenRequestError> {
    let object = match bound {
        BoundObject::None => return Ok(()),
        BoundObject::Pod { pod, service_account, .. } => {
            if service_account != account.name {
                return Err(TokenRequestError::OtherAccountsPod(account.name.to_owned()));
            }
            pod
        }
        BoundObject::Secret(o) | BoundObject::Node(o) => o,
    };
    match spec.bound_object_ref.as_ref().and_then(|r| r.uid.as_deref()) {
        Some(uid) if !uid.is_empty() && uid != object.uid => {
            Err(TokenRequestError::BoundUidConflict { requested: uid.to_owned() })
        }
        _ => Ok(()),
    }
}
