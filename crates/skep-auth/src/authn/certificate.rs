//! Client certificates: whom they name.
//!
//! Whether a certificate is ours and in its time is the TLS handshake's business. Here is only read what it
//! says; once per connection.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use ring::digest;
use skep_api::UserInfo;
use skep_base::{TenantName, name};
use x509_parser::oid_registry::asn1_rs::{Oid, oid};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use crate::identity::{Credential, Identity, add_authenticated, extra};

/// What a tenant's URI name begins with.
pub const TENANT_URI_PREFIX: &str = "skep://tenant/";
/// The scheme that only the CA may use.
pub(crate) const TENANT_URI_SCHEME: &str = "skep:";
/// The subject attribute that holds a user's uid.
const UID_OID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);
/// The longest uid that a certificate may carry.
const MAX_UID_BYTES: usize = 64;

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be read, or has an extension twice.
    #[error("the client certificate cannot be read")]
    Malformed,
    /// It has no common name, or several.
    #[error("the client certificate must have exactly one common name")]
    CommonName,
    /// A subject attribute is not text.
    #[error("the client certificate's subject holds what is not text")]
    Subject,
    /// It has several uids, or an empty one.
    #[error("the client certificate must have at most one uid, and not an empty one")]
    Uid,
    /// Its tenant is not in the form that the CA writes, or is there twice.
    #[error("the client certificate's tenant is not valid")]
    Tenant,
}

/// The URI that a tenant's certificates carry.
#[must_use]
pub fn tenant_uri(tenant: &TenantName, uid: &str) -> String {
    format!("{TENANT_URI_PREFIX}{tenant}/{uid}")
}

/// A tenant's uid as it may stand in a URI: letters, digits and `-`.
pub(crate) fn is_tenant_uid(uid: &str) -> bool {
    !uid.is_empty()
        && uid.len() <= MAX_UID_BYTES
        && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn parse_tenant_uri(uri: &str) -> Option<(TenantName, String)> {
    let (tenant, uid) = uri.strip_prefix(TENANT_URI_PREFIX)?.split_once('/')?;
    // The system tenant's certificates have no URI; one that has was not made by this CA.
    (name::is_dns1123_label(tenant) && tenant != TenantName::SYSTEM && is_tenant_uid(uid))
        .then(|| TenantName::new(tenant).ok().map(|t| (t, uid.to_owned())))
        .flatten()
}

pub(crate) fn is_tenant_uri(uri: &str) -> bool {
    uri.get(..TENANT_URI_SCHEME.len()).is_some_and(|s| s.eq_ignore_ascii_case(TENANT_URI_SCHEME))
}

/// The names in a certificate's subject that make a user.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    uid: String,
}

pub(crate) fn read_subject(subject: &X509Name<'_>) -> Result<Subject, CertificateError> {
    use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
    let texts = |oid: &Oid<'_>| -> Result<Vec<String>, CertificateError> {
        subject
            .iter_attributes()
            .filter(|a| a.attr_type() == oid)
            .map(|a| a.as_str().map(str::to_owned).map_err(|_| CertificateError::Subject))
            .collect()
    };
    // Go takes the last of several common names, other readers the first: so there must be one.
    let [common_name] =
        <[String; 1]>::try_from(texts(&OID_X509_COMMON_NAME)?).map_err(|_| CertificateError::CommonName)?;
    if common_name.is_empty() {
        return Err(CertificateError::CommonName);
    }
    let mut uids = texts(&UID_OID)?;
    let uid = uids.pop().unwrap_or_default();
    if !uids.is_empty() || (uid.is_empty() && subject.iter_attributes().any(|a| *a.attr_type() == UID_OID)) {
        return Err(CertificateError::Uid);
    }
    Ok(Subject { common_name, organizations: texts(&OID_X509_ORGANIZATION_NAME)?, uid })
}

/// Whom a verified client certificate (DER, the leaf of the chain) names: the common name is the user, the
/// organizations are the groups, the URI name is the tenant. A certificate without a tenant is the system
/// tenant's; one whose tenant is not in order is refused.
///
/// # Errors
/// [`CertificateError`]; the connection's requests are then unauthorized, not anonymous.
pub fn identity_of_certificate(der: &[u8]) -> Result<Arc<Identity>, CertificateError> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    if !rest.is_empty() {
        return Err(CertificateError::Malformed);
    }
    let subject = read_subject(cert.subject())?;
    let alternatives = cert.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
    let mut tenant = None;
    for general in alternatives.iter().flat_map(|san| &san.value.general_names) {
        match general {
            GeneralName::URI(uri) if is_tenant_uri(uri) => {
                let parsed = parse_tenant_uri(uri).ok_or(CertificateError::Tenant)?;
                if tenant.replace(parsed).is_some() {
                    return Err(CertificateError::Tenant);
                }
            }
            // What cannot be read might be a tenant.
            GeneralName::Invalid(..) => return Err(CertificateError::Malformed),
            _ => {}
        }
    }
    let (tenant, tenant_uid) = match tenant {
        Some((tenant, uid)) => (tenant, Some(uid)),
        None => (TenantName::system(), None),
    };
    let mut fingerprint = String::with_capacity(11 + 64);
    fingerprint.push_str("X509SHA256=");
    for byte in digest::digest(&digest::SHA256, der).as_ref() {
        // Writing to a String does not fail.
        let _ = write!(fingerprint, "{byte:02x}");
    }
    let mut groups = subject.organizations;
    add_authenticated(&mut groups);
    Ok(Arc::new(Identity {
        tenant,
        tenant_uid,
        user: UserInfo {
            name: subject.common_name,
            uid: subject.uid,
            groups,
            extra: BTreeMap::from([(extra::CREDENTIAL_ID.to_owned(), vec![fingerprint])]),
        },
        credential: Credential::ClientCert,
    }))
}
