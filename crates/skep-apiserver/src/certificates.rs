//! Signs approved certificate signing requests of all tenants, and approves what nodes may ask for.
//!
//! This belongs to the API server's process because the key of the client CA is there and goes nowhere
//! else. What it writes goes through the same door as a client's writes.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skep_api::UserInfo;
use skep_auth::attributes::Attributes;
use skep_auth::authorize::Target;
use skep_auth::pki::{Signer, is_node_client_request};
use skep_base::{GroupResource, Key, Scope};
use skep_store::{ListOptions, Value};

use crate::app::App;
use crate::request::Action;
use crate::rest::Call;
use crate::rest::write::{Preconditions, update_with};
use crate::status::ApiError;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
/// As whom upstream's signers and approver write.
const SIGNER_USER: &str = "system:serviceaccount:kube-system:certificate-controller";

/// What is to be done with a request. Decided on the object alone, except for who may be approved.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// Sign it for this signer.
    Sign(Signer),
    /// Approve it if the requestor may do this to the subresource named.
    ApproveIfAllowed,
}

fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

fn plan(request: &CertificateSigningRequest) -> Plan {
    let has = |kind: &str| condition(request, kind).is_some();
    let certificate = request.status.as_ref().and_then(|s| s.certificate.as_ref());
    if has("Denied") || has("Failed") || certificate.is_some_and(|c| !c.0.is_empty()) {
        return Plan::Nothing;
    }
    let signer = match Signer::parse(&request.spec.signer_name) {
        Some(signer @ (Signer::ApiServerClient | Signer::ApiServerClientKubelet)) => signer,
        // Serving certificates of kubelets are not checked by anybody: agents only dial out.
        _ => return Plan::Nothing,
    };
    if has("Approved") {
        return Plan::Sign(signer);
    }
    if signer == Signer::ApiServerClientKubelet { Plan::ApproveIfAllowed } else { Plan::Nothing }
}

/// Watches the requests of all tenants.
pub fn start(app: &Arc<App>) {
    let app = app.clone();
    tokio::spawn(async move {
        let mut down = app.shutdown.subscribe();
        let store = app.objects.store().clone();
        let scope = Scope::AllTenants(GroupResource::new(GROUP, PLURAL));
        loop {
            let Ok(listing) = store.list(&scope, &ListOptions::default()) else { continue };
            for (key, value) in &listing.items {
                look(&app, key, value).await;
            }
            let Ok(mut watcher) = store.watch(scope.clone(), None, listing.revision) else { continue };
            loop {
                let batch = tokio::select! {
                    () = crate::app::ended(&mut down) => return,
                    batch = watcher.next() => match batch { Ok(b) => b, Err(_) => break },
                };
                for change in batch {
                    if let Some(value) = &change.value {
                        look(&app, &change.key, value).await;
                    }
                }
            }
        }
    });
}

/// A request is looked at again whenever it changes, and at every start: what fails here because others write
/// meanwhile is done then.
async fn look(app: &Arc<App>, key: &Key, value: &Value) {
    let Ok(request) = serde_json::from_slice::<CertificateSigningRequest>(value.json()) else {
        return tracing::error!(%key, "a certificate signing request that cannot be read");
    };
    let done = match plan(&request) {
        Plan::Nothing => return,
        Plan::Sign(signer) => sign(app, key, &request, signer).await,
        Plan::ApproveIfAllowed => approve(app, key, &request).await,
    };
    match done {
        Ok(()) => {}
        // Gone, or changed by somebody else, which brings it here again.
        Err(error) if error.code == 404 || error.code == 409 => {}
        Err(error) => tracing::warn!(%key, %error, "a certificate signing request cannot be handled"),
    }
}

async fn sign(
    app: &Arc<App>,
    key: &Key,
    request: &CertificateSigningRequest,
    signer: Signer,
) -> Result<(), ApiError> {
    let tenant = app.tenants.get(&key.tenant).filter(|t| !t.closed);
    let Some(tenant) = tenant else { return Ok(()) };
    let of = (!key.tenant.is_system()).then_some((&key.tenant, &*tenant.uid_text));
    let spec = &request.spec;
    let usages = spec.usages.clone().unwrap_or_default();
    let signed = app.pki.client_ca().sign(
        &spec.request.0,
        signer,
        &usages,
        spec.expiration_seconds,
        of,
        Timestamp::now(),
    );
    let signed = match signed {
        Err(error) if !error.is_permanent() => return Err(ApiError::internal(error)),
        signed => signed,
    };
    write(app, key, request, "status", |status, now| match &signed {
        Ok(pem) => status.certificate = Some(k8s_openapi::ByteString(pem.clone().into_bytes())),
        Err(error) => {
            let failed = made("Failed", "SignerValidationFailure", &error.to_string(), now);
            status.conditions.get_or_insert_default().push(failed);
        }
    })
    .await
}

/// Approves a node's certificate where the tenant's policy lets the requestor have it: `selfnodeclient` for
/// its own, `nodeclient` for any node's.
async fn approve(app: &Arc<App>, key: &Key, request: &CertificateSigningRequest) -> Result<(), ApiError> {
    let spec = &request.spec;
    let usages = spec.usages.clone().unwrap_or_default();
    let Some(node) = is_node_client_request(&spec.request.0, &usages) else { return Ok(()) };
    let user = UserInfo {
        name: spec.username.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    let may = |sub: &str| {
        let attributes = Attributes::resource(&user, "create", GROUP, PLURAL).subresource(sub);
        app.authorizer.authorize(&key.tenant, Target::Tenant(&key.tenant), &attributes).is_allowed()
    };
    let message = if node == user.name && may("selfnodeclient") {
        "Auto approving self kubelet client certificate after SubjectAccessReview."
    } else if may("nodeclient") {
        "Auto approving kubelet client certificate after SubjectAccessReview."
    } else {
        return Ok(());
    };
    write(app, key, request, "approval", |status, now| {
        let approved = made("Approved", "AutoApproved", message, now);
        status.conditions.get_or_insert_default().push(approved);
    })
    .await
}

fn made(kind: &str, reason: &str, message: &str, now: Timestamp) -> CertificateSigningRequestCondition {
    let now = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: now.clone(),
        last_transition_time: now,
    }
}

/// Writes the status, if the request is still the one that was decided on.
async fn write(
    app: &Arc<App>,
    key: &Key,
    request: &CertificateSigningRequest,
    subresource: &str,
    change: impl Fn(&mut CertificateSigningRequestStatus, Timestamp),
) -> Result<(), ApiError> {
    let Some(kind) = app.kind(GROUP, "v1", PLURAL) else { return Ok(()) };
    let mut call = Call::own(app, &key.tenant, kind, SIGNER_USER, Action::Update);
    call.path.name = key.name.to_string();
    call.path.subresource = subresource.to_owned();
    let now = call.now;
    update_with(&call, key, Preconditions::default(), |old| {
        let mut new = old.clone_box();
        new.meta_mut().resource_version.clone_from(&request.metadata.resource_version);
        if let Some(new) = new.downcast_mut::<CertificateSigningRequest>() {
            change(new.status.get_or_insert_default(), now);
        }
        Ok(new)
    })
    .await
    .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_approved_requests_of_client_certificates_are_signed() {
        let request = |signer: &str, conditions: &[&str], certificate: Option<&str>| {
            let conditions: Vec<_> =
                conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect();
            let tree = json!({
                "spec": {"signerName": signer, "request": ""},
                "status": {"conditions": conditions, "certificate": certificate},
            });
            plan(&serde_json::from_value(tree).unwrap())
        };
        let client = "kubernetes.io/kube-apiserver-client";
        let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
        assert_eq!(request(client, &[], None), Plan::Nothing);
        assert_eq!(request(client, &["Approved"], None), Plan::Sign(Signer::ApiServerClient));
        assert_eq!(request(kubelet, &[], None), Plan::ApproveIfAllowed);
        assert_eq!(request(kubelet, &["Approved"], None), Plan::Sign(Signer::ApiServerClientKubelet));
        assert_eq!(request(client, &["Approved", "Denied"], None), Plan::Nothing);
        assert_eq!(request(client, &["Approved", "Failed"], None), Plan::Nothing);
        assert_eq!(request(client, &["Approved"], Some("eA==")), Plan::Nothing);
        assert_eq!(request("kubernetes.io/kubelet-serving", &["Approved"], None), Plan::Nothing);
        assert_eq!(request("example.com/own", &["Approved"], None), Plan::Nothing);
    }
}
