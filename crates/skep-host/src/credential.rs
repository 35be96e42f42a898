//! A machine's credential: made for its node, good for hours, renewed before it ends. The key is made here and goes
//! nowhere but into the machine; the certificate comes from the API server.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;
use skep_api::compute::Machine;
use skep_base::TenantName;
use skep_client::{Client, Resource};

/// How long a credential is asked for. It is renewed when half of it is over, so the API server may be away for as long
/// as the other half.
const LIFETIME: SignedDuration = SignedDuration::from_hours(8);

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// The key or the request for the certificate.
    #[error("a key and a request for its certificate cannot be made")]
    Key(#[from] rcgen::Error),
    /// The API server.
    #[error(transparent)]
    Client(#[from] skep_client::Error),
    /// The file.
    #[error("the credential cannot be written")]
    Write(#[from] std::io::Error),
}

#[derive(Deserialize)]
struct Answer {
    status: Issued,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    certificate: String,
    certificate_authority: String,
    server: String,
}

/// Gets a credential for a machine's node and writes it as a kubeconfig, all or nothing.
pub(crate) async fn obtain(
    client: &Client,
    tenant: &TenantName,
    machine: &Machine,
    path: &Path,
) -> Result<(), CredentialError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{}", machine.node_name()));
    params.distinguished_name = subject;
    let request = params.serialize_request(&key)?.pem()?;
    let name = machine.metadata.name.as_deref().unwrap_or_default();
    let at = Resource::of::<Machine>().at(tenant).name(name).subresource("credential");
    let body = json!({
        "apiVersion": "compute.skep.io/v1", "kind": "MachineCredential",
        "spec": {"request": request, "expirationSeconds": LIFETIME.as_secs()},
    });
    let answer: Answer = client.post(&at.to_string(), &body).await?;
    let Issued { certificate, certificate_authority, server } = answer.status;
    // JSON is YAML: nothing else is needed to write one.
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "node",
        "clusters": [{"name": "api", "cluster": {
            "server": server, "certificate-authority-data": STANDARD.encode(certificate_authority),
        }}],
        "users": [{"name": "node", "user": {
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(key.serialize_pem()),
        }}],
        "contexts": [{"name": "node", "context": {"cluster": "api", "user": "node"}}],
    });
    write_private(path, kubeconfig.to_string().as_bytes())?;
    Ok(())
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// The certificate and the key of the credential that lies at a path, in PEM.
pub(crate) fn read(path: &Path) -> Result<(String, String), String> {
    let text = std::fs::read(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    let kubeconfig: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let user = &kubeconfig["users"][0]["user"];
    let part = |name: &str| {
        let data = user[name].as_str().and_then(|t| STANDARD.decode(t).ok());
        let text = data.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| format!("{} has no {name}", path.display()))
    };
    Ok((part("client-certificate-data")?, part("client-key-data")?))
}

/// Something in DER as PEM.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    // Base64 is ASCII: every place is between two characters.
    let lines: Vec<&str> =
        (0..text.len()).step_by(PEM_LINE).map(|at| &text[at..text.len().min(at + PEM_LINE)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Characters of a line in PEM: the standard's.
const PEM_LINE: usize = 64;

/// When the credential that lies at a path is to be renewed; `None` when there is none, or none that can be read.
pub(crate) fn renew_at(path: &Path) -> Option<Timestamp> {
    let text = std::fs::read(path).ok()?;
    let kubeconfig: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let data = kubeconfig["users"][0]["user"]["client-certificate-data"].as_str()?;
    half_life(&STANDARD.decode(data).ok()?)
}

/// The middle of a certificate's life.
fn half_life(pem: &[u8]) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Timestamp::from_second(from + (until - from) / 2).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_credential_is_renewed_in_the_middle_of_its_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        assert_eq!(renew_at(&path), None);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 3);
        let pem = params.self_signed(&key).unwrap().pem();
        let json = json!({"users": [{"user": {"client-certificate-data": STANDARD.encode(&pem)}}]});
        write_private(&path, json.to_string().as_bytes()).unwrap();
        assert_eq!(renew_at(&path), Some("2026-01-02T00:00:00Z".parse().unwrap()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path).unwrap_err().contains("client-key-data"));
        let json = json!({"users": [{"user": {
            "client-certificate-data": STANDARD.encode(&pem), "client-key-data": STANDARD.encode("key")}}]});
        write_private(&path, json.to_string().as_bytes()).unwrap();
        assert_eq!(read(&path).unwrap(), (pem.clone(), "key".to_owned()));
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let again = super::pem("CERTIFICATE", &der);
        assert_eq!(CertificateDer::from_pem_slice(again.as_bytes()).unwrap(), der);
        std::fs::write(&path, "half").unwrap();
        assert_eq!(renew_at(&path), None, "a new one is fetched");
    }
}
