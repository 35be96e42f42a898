//! `POST machines/NAME/credential`: the certificate with which the agent in a machine speaks as its node.
//!
//! A host asks for it on behalf of a machine that has been placed on it; the key never leaves the host, and the
//! authority that signs never leaves the server.

use bytes::Bytes;
use http::Response;
use jiff::SignedDuration;
use skep_api::compute::Machine;

use crate::body::Body;
use crate::rest::Call;
use crate::rest::sub::read_body;
use crate::status::ApiError;

/// The group and user names of host daemons.
const HOSTS_GROUP: &str = "system:hosts";
const HOST_USER_PREFIX: &str = "system:host:";

/// How long a credential is good for when nothing is said: long enough for the API server to be away for a while,
/// short enough that a stolen one is soon worth nothing.
const DEFAULT_S: i64 = 3600;
const SECONDS: std::ops::RangeInclusive<i64> = 600..=8 * 3600;

#[derive(serde::Deserialize)]
struct MachineCredential {
    spec: Spec,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    /// A PKCS#10 request in PEM for `system:node:NODE` of `system:nodes`.
    request: String,
    expiration_seconds: Option<i64>,
}

/// Signs a node's certificate.
///
/// # Errors
/// 403 for anybody but the operator and the machine's host, 409 for a machine without a host, 422 for a request that
/// is not the node's.
pub(super) fn credential(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let about = call.about();
    if !call.caller.home().is_system() {
        let why = "the credentials of machines are the operator's to hand out";
        return Err(ApiError::forbidden(about, why));
    }
    let wanted: MachineCredential = read_body(call, body, "MachineCredential")?;
    let tenant = call.tenant()?;
    let record =
        call.app.tenants.get(tenant).filter(|t| !t.closed).ok_or_else(|| ApiError::not_found(about))?;
    let key = call.key(&call.path.name)?;
    let stored = call.app.objects.get(&key).ok_or_else(|| ApiError::not_found(about))?;
    let machine: Machine = serde_json::from_slice(stored.json()).map_err(ApiError::internal)?;
    let host = machine.spec.host_name.as_deref().unwrap_or_default();
    if host.is_empty() {
        return Err(ApiError::conflict(about, "the machine has no host yet"));
    }
    let user = call.user();
    if user.groups.iter().any(|g| g == HOSTS_GROUP) && user.name.strip_prefix(HOST_USER_PREFIX) != Some(host)
    {
        return Err(ApiError::forbidden(about, &format!("{:?} is not its host", user.name)));
    }
    let seconds = wanted.spec.expiration_seconds.unwrap_or(DEFAULT_S);
    if !SECONDS.contains(&seconds) {
        return Err(ApiError::bad_request(format!(
            "spec.expirationSeconds: {seconds} is not between {} and {}",
            SECONDS.start(),
            SECONDS.end()
        )));
    }
    let of = (!tenant.is_system()).then_some((tenant, &*record.uid_text));
    let lifetime = SignedDuration::from_secs(seconds);
    let request = wanted.spec.request.as_bytes();
    let (certificate, until) = call
        .app
        .pki
        .client_ca()
        .sign_node(request, machine.node_name(), lifetime, of, call.now)
        .map_err(|e| ApiError::new(422, "Invalid", format!("the request cannot be signed: {e}")))?;
    let answer = serde_json::json!({
        "kind": "MachineCredential", "apiVersion": "compute.skep.io/v1", "metadata": {"name": &call.path.name},
        "status": {
            "certificate": certificate, "certificateAuthority": call.app.pki.ca_pem(),
            "server": call.app.config.base_url, "expirationTimestamp": until.to_string(),
        },
    });
    call.respond(201, "application/json", answer.to_string().into_bytes().into())
}
