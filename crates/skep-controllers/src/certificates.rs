//! Approved certificate signing requests are signed, by whoever has the key.
//!
//! The key of the client authority is the API server's alone, so this controller runs in its process and is given a
//! [`Sign`]; `skep controllers` elsewhere goes without.

use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::json;
use skep_base::TenantName;
use skep_client::{Client, Event, Informer, ObjectKey, Patch, Resource, Tenants};

use crate::{Controller, Kind, Next, Setup, SyncError};

const NAME: &str = "certificatesigningrequest-signing-controller";
const TENANTS: Resource = Resource::new("tenancy.skep.io", "v1", "tenants");

/// What is to be signed.
#[derive(Clone, Debug)]
pub struct SignRequest<'a> {
    /// The request in PEM.
    pub request_pem: &'a [u8],
    /// The signer that it names.
    pub signer: &'a str,
    /// What the certificate is to be used for.
    pub usages: &'a [String],
    /// How long it is to live.
    pub expiration_s: Option<i32>,
    /// Whose it will be: the tenant and its uid, which is empty for the operator's own.
    pub tenant: (&'a TenantName, &'a str),
    /// The time.
    pub now: Timestamp,
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSigned {
    /// The signer is somebody else.
    NotMine,
    /// The request breaks the signer's rules.
    Invalid(String),
    /// It may work later.
    Later(String),
}

/// Whoever has the key.
pub trait Sign: Send + Sync + 'static {
    /// Signs a request; gives the certificate in PEM.
    ///
    /// # Errors
    /// [`NotSigned`].
    fn sign(&self, request: &SignRequest<'_>) -> Result<String, NotSigned>;
}

/// Whole requests: there are few, and they do not live long.
impl Kind for CertificateSigningRequest {
    const RESOURCE: Resource = Resource::of::<CertificateSigningRequest>();
}

struct Signing {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    key: Arc<dyn Sign>,
}

/// The controller, for processes that have the key.
pub fn signing(setup: &mut Setup, key: Arc<dyn Sign>) -> Arc<dyn Controller> {
    let requests = setup.informer::<CertificateSigningRequest>();
    let enqueue = setup.enqueue(NAME);
    requests.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && is_due(event.object()) {
            enqueue.event(event);
        }
    });
    Arc::new(Signing { client: setup.client().clone(), requests, key })
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == kind && c.status == "True"))
}

/// Whether it is approved, and neither signed nor given up.
fn is_due(request: &CertificateSigningRequest) -> bool {
    let signed =
        request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty());
    !signed && has(request, "Approved") && !has(request, "Denied") && !has(request, "Failed")
}

impl Signing {
    /// `None` when the tenant is gone.
    async fn tenant_uid(&self, tenant: &TenantName) -> Result<Option<String>, SyncError> {
        #[derive(Deserialize)]
        struct Tenant {
            metadata: Meta,
        }
        #[derive(Deserialize)]
        struct Meta {
            uid: String,
        }
        match self.client.read::<Tenant>(&TENANTS.at(Tenants::Own).name(tenant.as_str())).await {
            Ok(tenant) => Ok(Some(tenant.metadata.uid)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(request) = self.requests.get(key).filter(|r| is_due(r)) else { return Ok(Next::Wait) };
        let uid =
            if key.tenant.is_system() { Some(String::new()) } else { self.tenant_uid(&key.tenant).await? };
        let Some(uid) = uid else { return Ok(Next::Wait) };
        let spec = &request.spec;
        let wanted = SignRequest {
            request_pem: &spec.request.0,
            signer: &spec.signer_name,
            usages: spec.usages.as_deref().unwrap_or_default(),
            expiration_s: spec.expiration_seconds,
            tenant: (&key.tenant, &uid),
            now: Timestamp::now(),
        };
        let status = match self.key.sign(&wanted) {
            Ok(certificate) => json!({"certificate": ByteString(certificate.into_bytes())}),
            Err(NotSigned::NotMine) => return Ok(Next::Wait),
            Err(NotSigned::Later(why)) => return Err(SyncError::NotYet(why)),
            Err(NotSigned::Invalid(why)) => {
                let now = Time(wanted.now);
                let failed = CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(why),
                    last_update_time: Some(now.clone()),
                    last_transition_time: Some(now),
                };
                let mut conditions =
                    request.status.clone().unwrap_or_default().conditions.unwrap_or_default();
                conditions.push(failed);
                json!({"conditions": conditions})
            }
        };
        let patch = json!({"metadata": {"resourceVersion": request.revision.to_string()}, "status": status});
        let at = CertificateSigningRequest::RESOURCE.at(&key.tenant).name(&key.name).subresource("status");
        self.requests.patch(&at, &Patch::Merge(patch)).await?;
        Ok(Next::Wait)
    }
}

impl Controller for Signing {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
