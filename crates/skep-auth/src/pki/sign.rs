//! Signing certificate signing requests, by the rules of upstream's signers, for a tenant.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use skep_base::TenantName;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, GeneralName};

use super::ca::{AltName, BACKDATE, CertificateAuthority, Request, alt_name, pem};
use super::der::usage;
use crate::attributes::quoted_list;
use crate::authn::certificate::{is_tenant_uid, is_tenant_uri, read_subject};
use crate::authn::tenant_uri;
use crate::identity::groups;

pub(super) const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
pub(super) const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

/// Life of a certificate whose request does not say, and the longest one.
const DEFAULT_DURATION: SignedDuration = SignedDuration::from_hours(365 * 24);
/// The shortest.
const MIN_DURATION: SignedDuration = SignedDuration::from_mins(10);
/// The end of a certificate that lives shorter than this is not moved back with its beginning.
const SHORT_DURATION: SignedDuration = SignedDuration::from_hours(8);
/// The longest request that is read.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// The signers that are part of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// `kubernetes.io/kube-apiserver-client`: users.
    ApiServerClient,
    /// `kubernetes.io/kube-apiserver-client-kubelet`: nodes as clients.
    ApiServerClientKubelet,
    /// `kubernetes.io/kubelet-serving`: nodes as servers.
    KubeletServing,
    /// `kubernetes.io/legacy-unknown`: anything.
    LegacyUnknown,
}

impl Signer {
    /// All of them.
    pub const ALL: [Signer; 4] = [
        Signer::ApiServerClient,
        Signer::ApiServerClientKubelet,
        Signer::KubeletServing,
        Signer::LegacyUnknown,
    ];

    /// The signer of a name; `None` if it is not one of these.
    #[must_use]
    pub fn parse(name: &str) -> Option<Signer> {
        Signer::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Signer::ApiServerClient => "kubernetes.io/kube-apiserver-client",
            Signer::ApiServerClientKubelet => "kubernetes.io/kube-apiserver-client-kubelet",
            Signer::KubeletServing => "kubernetes.io/kubelet-serving",
            Signer::LegacyUnknown => "kubernetes.io/legacy-unknown",
        }
    }
}

/// Why a request is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Not a request in PEM.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    /// The request cannot be read.
    #[error("unable to parse certificate request: {0}")]
    Malformed(&'static str),
    /// Its signature is not its key's.
    #[error("unable to verify certificate request signature")]
    Signature,
    /// The signer's rules forbid it: the request fails with reason `SignerValidationFailure`.
    #[error("{0}")]
    Validation(String),
    /// It names a tenant itself.
    #[error("URI subjectAltNames of the scheme \"skep\" are not allowed")]
    TenantName,
    /// The authority's time is over.
    #[error("the signer has expired")]
    Expired,
    /// The tenant's uid cannot stand in a certificate.
    #[error("the tenant's uid {0:?} cannot stand in a certificate")]
    TenantUid(String),
    /// This machine cannot sign.
    #[error("the system gives no randomness for a certificate")]
    Randomness,
}

impl SignError {
    /// Whether the request itself is at fault, so that it is marked as failed and not tried again.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, SignError::Expired | SignError::Randomness)
    }
}

fn invalid(message: impl Into<String>) -> SignError {
    SignError::Validation(message.into())
}

/// A key usage of the API, as the certificate has it.
enum Usage {
    Key(u16),
    /// Position in the order in which Go writes them, and the object identifier.
    Extended(u8, &'static [u64]),
}

fn usage_of(name: &str) -> Option<Usage> {
    use Usage::{Extended, Key};
    Some(match name {
        "signing" | "digital signature" => Key(usage::DIGITAL_SIGNATURE),
        "content commitment" => Key(usage::CONTENT_COMMITMENT),
        "key encipherment" => Key(usage::KEY_ENCIPHERMENT),
        "key agreement" => Key(usage::KEY_AGREEMENT),
        "data encipherment" => Key(usage::DATA_ENCIPHERMENT),
        "cert sign" => Key(usage::CERT_SIGN),
        "crl sign" => Key(usage::CRL_SIGN),
        "encipher only" => Key(usage::ENCIPHER_ONLY),
        "decipher only" => Key(usage::DECIPHER_ONLY),
        "any" => Extended(0, &[2, 5, 29, 37, 0]),
        "server auth" => Extended(1, SERVER_AUTH),
        "client auth" => Extended(2, CLIENT_AUTH),
        "code signing" => Extended(3, &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
        "email protection" | "s/mime" => Extended(4, &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
        "ipsec end system" => Extended(5, &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
        "ipsec tunnel" => Extended(6, &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
        "ipsec user" => Extended(7, &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
        "timestamping" => Extended(8, &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
        "ocsp signing" => Extended(9, &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
        "microsoft sgc" => Extended(10, &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => Extended(11, &[2, 16, 840, 1, 113730, 4, 1]),
        _ => return None,
    })
}

/// What the signers' rules look at.
struct Parsed<'a> {
    common_name: &'a str,
    organizations: &'a [String],
    names: &'a [AltName],
}

impl Parsed<'_> {
    fn has(&self, f: impl Fn(&AltName) -> bool) -> bool {
        self.names.iter().any(f)
    }

    fn validate(&self, signer: Signer, usages: &[String]) -> Result<(), SignError> {
        match signer {
            Signer::ApiServerClient => self.validate_client(usages),
            Signer::ApiServerClientKubelet => {
                self.validate_organization()?;
                if self.has(|n| matches!(n, AltName::Dns(_))) {
                    return Err(invalid("DNS subjectAltNames are not allowed"));
                }
                self.no_mail()?;
                if self.has(|n| matches!(n, AltName::Ip(_))) {
                    return Err(invalid("IP subjectAltNames are not allowed"));
                }
                self.no_uri()?;
                self.validate_common_name()?;
                exact_usages(usages, "client auth")
            }
            Signer::KubeletServing => {
                self.validate_organization()?;
                if !self.has(|n| matches!(n, AltName::Dns(_) | AltName::Ip(_))) {
                    return Err(invalid("DNS or IP subjectAltName is required"));
                }
                self.no_mail()?;
                self.no_uri()?;
                exact_usages(usages, "server auth")?;
                self.validate_common_name()
            }
            Signer::LegacyUnknown => Ok(()),
        }
    }

    fn validate_client(&self, usages: &[String]) -> Result<(), SignError> {
        for u in usages {
            if !matches!(u.as_str(), "digital signature" | "key encipherment" | "client auth") {
                return Err(invalid(format!("invalid usage for client certificate: {u}")));
            }
        }
        if !usages.iter().any(|u| u == "client auth") {
            return Err(invalid("missing required usage for client certificate: client auth"));
        }
        // Admission refuses such requests when they are created; this is the second lock.
        if self.organizations.iter().any(|o| o == groups::MASTERS) {
            return Err(invalid(format!(
                "use of {} signer with {} group is not allowed",
                Signer::ApiServerClient.name(),
                groups::MASTERS
            )));
        }
        Ok(())
    }

    fn validate_organization(&self) -> Result<(), SignError> {
        if self.organizations == [groups::NODES] {
            Ok(())
        } else {
            Err(invalid("subject organization is not system:nodes"))
        }
    }

    fn validate_common_name(&self) -> Result<(), SignError> {
        if self.common_name.starts_with(groups::NODE_USER_PREFIX) {
            Ok(())
        } else {
            Err(invalid("subject common name does not begin with system:node:"))
        }
    }

    fn no_mail(&self) -> Result<(), SignError> {
        if self.has(|n| matches!(n, AltName::Email(_))) {
            return Err(invalid("Email subjectAltNames are not allowed"));
        }
        Ok(())
    }

    fn no_uri(&self) -> Result<(), SignError> {
        if self.has(|n| matches!(n, AltName::Uri(_))) {
            return Err(invalid("URI subjectAltNames are not allowed"));
        }
        Ok(())
    }
}

/// The usages must be digital signature and `auth`, and may hold key encipherment.
fn exact_usages(usages: &[String], auth: &str) -> Result<(), SignError> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut wanted = BTreeSet::from(["digital signature", "key encipherment", auth]);
    if given == wanted {
        return Ok(());
    }
    wanted.remove("key encipherment");
    if given == wanted {
        return Ok(());
    }
    wanted.insert("key encipherment");
    Err(invalid(format!("usages did not match [{}]", wanted.into_iter().collect::<Vec<_>>().join(" "))))
}

fn duration(expiration_seconds: Option<i32>) -> SignedDuration {
    match expiration_seconds {
        None => DEFAULT_DURATION,
        Some(s) => SignedDuration::from_secs(s.into()).clamp(MIN_DURATION, DEFAULT_DURATION),
    }
}

impl CertificateAuthority {
    /// Signs an approved certificate signing request (PEM) of a tenant; gives the certificate (PEM). The
    /// certificate is the tenant's: its name is added. Pass `None` for the system tenant only.
    ///
    /// Subject, key and DNS, IP, mail and URI names are taken over; other extensions that the request asks
    /// for are not.
    ///
    /// # Errors
    /// [`SignError`]; see [`SignError::is_permanent`].
    pub fn sign(
        &self,
        request_pem: &[u8],
        signer: Signer,
        usages: &[String],
        expiration_seconds: Option<i32>,
        tenant: Option<(&TenantName, &str)>,
        now: Timestamp,
    ) -> Result<String, SignError> {
        if request_pem.len() > MAX_REQUEST_BYTES {
            return Err(SignError::Malformed("it is too large"));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(request_pem).map_err(|_| SignError::Pem)?;
        let (rest, request) = X509CertificationRequest::from_der(&der)
            .map_err(|_| SignError::Malformed("it is not in PKCS#10 form"))?;
        if !rest.is_empty() {
            return Err(SignError::Malformed("trailing data"));
        }
        request.verify_signature().map_err(|_| SignError::Signature)?;
        let info = &request.certification_request_info;
        let subject =
            read_subject(&info.subject).map_err(|_| SignError::Malformed("its subject is ambiguous"))?;
        let mut names = requested_names(&request)?;
        Parsed { common_name: &subject.common_name, organizations: &subject.organizations, names: &names }
            .validate(signer, usages)?;
        let mut key_usage = 0;
        let mut extended: Vec<(u8, &[u64])> = Vec::new();
        let mut unknown = Vec::new();
        for name in usages {
            match usage_of(name) {
                Some(Usage::Key(bit)) => key_usage |= bit,
                Some(Usage::Extended(order, oid)) => extended.push((order, oid)),
                None => unknown.push(name),
            }
        }
        if !unknown.is_empty() {
            return Err(invalid(format!("unrecognized usage values: {}", quoted_list(&unknown))));
        }
        extended.sort_unstable();
        extended.dedup();
        match tenant {
            Some((_, uid)) if !is_tenant_uid(uid) => return Err(SignError::TenantUid(uid.to_owned())),
            Some((tenant, uid)) => names.push(AltName::Uri(tenant_uri(tenant, uid))),
            None => {}
        }
        if now >= self.not_after() {
            return Err(SignError::Expired);
        }
        let lifetime = duration(expiration_seconds);
        let lifetime = if lifetime < SHORT_DURATION { lifetime } else { lifetime - BACKDATE };
        let oids: Vec<&[u64]> = extended.into_iter().map(|(_, oid)| oid).collect();
        let certificate = self
            .issue(&Request {
                subject_der: info.subject.as_raw(),
                spki_der: info.subject_pki.raw,
                not_before: now.saturating_sub(BACKDATE).unwrap_or(Timestamp::MIN),
                not_after: now.saturating_add(lifetime).unwrap_or(Timestamp::MAX),
                key_usage,
                extended_key_usage: &oids,
                alt_names: &names,
            })
            .map_err(|_| SignError::Randomness)?;
        Ok(pem("CERTIFICATE", &certificate))
    }
}

impl CertificateAuthority {
    /// Signs the request (PEM) of one node of a tenant for its client certificate: subject `system:node:NODE` of
    /// `system:nodes`, nothing else. Gives the certificate (PEM), and until when it is good.
    ///
    /// # Errors
    /// As for [`CertificateAuthority::sign`], and when it is another node's.
    pub fn sign_node(
        &self,
        request_pem: &[u8],
        node: &str,
        lifetime: SignedDuration,
        tenant: Option<(&TenantName, &str)>,
        now: Timestamp,
    ) -> Result<(String, Timestamp), SignError> {
        let der = CertificateSigningRequestDer::from_pem_slice(request_pem).map_err(|_| SignError::Pem)?;
        let (_, request) = X509CertificationRequest::from_der(&der)
            .map_err(|_| SignError::Malformed("it is not in PKCS#10 form"))?;
        let subject = read_subject(&request.certification_request_info.subject)
            .map_err(|_| SignError::Malformed("its subject is ambiguous"))?;
        if subject.common_name.strip_prefix(groups::NODE_USER_PREFIX) != Some(node) {
            return Err(invalid(format!("subject common name is not {}{node}", groups::NODE_USER_PREFIX)));
        }
        let usages = ["digital signature", "client auth"].map(str::to_owned);
        let lifetime = lifetime.clamp(MIN_DURATION, SHORT_DURATION);
        // The clamp keeps it far below what an i32 holds.
        let seconds = i32::try_from(lifetime.as_secs()).ok();
        let pem = self.sign(request_pem, Signer::ApiServerClientKubelet, &usages, seconds, tenant, now)?;
        // `sign` may take a little off, to make up for a beginning in the past.
        let until = now.saturating_add(lifetime - BACKDATE).unwrap_or(Timestamp::MAX);
        Ok((pem, until))
    }
}

/// The user (`system:node:NAME`) of a request for a node's client certificate that
/// [`Signer::ApiServerClientKubelet`] would sign; `None` for anything else. What it says of itself is not
/// proved by this.
#[must_use]
pub fn is_node_client_request(request_pem: &[u8], usages: &[String]) -> Option<String> {
    if request_pem.len() > MAX_REQUEST_BYTES {
        return None;
    }
    let der = CertificateSigningRequestDer::from_pem_slice(request_pem).ok()?;
    let (rest, request) = X509CertificationRequest::from_der(&der).ok()?;
    if !rest.is_empty() || request.verify_signature().is_err() {
        return None;
    }
    let subject = read_subject(&request.certification_request_info.subject).ok()?;
    let names = requested_names(&request).ok()?;
    let parsed =
        Parsed { common_name: &subject.common_name, organizations: &subject.organizations, names: &names };
    parsed.validate(Signer::ApiServerClientKubelet, usages).ok()?;
    Some(subject.common_name)
}

/// The names that a request asks for. A tenant's name is the authority's to give.
fn requested_names(request: &X509CertificationRequest<'_>) -> Result<Vec<AltName>, SignError> {
    let mut names = Vec::new();
    let mut seen = false;
    for extension in request.requested_extensions().into_iter().flatten() {
        let san = match extension {
            ParsedExtension::SubjectAlternativeName(san) => san,
            ParsedExtension::ParseError { .. } => {
                return Err(SignError::Malformed("an extension cannot be read"));
            }
            _ => continue,
        };
        if std::mem::replace(&mut seen, true) {
            return Err(SignError::Malformed("it has subject alternative names twice"));
        }
        for general in &san.general_names {
            match general {
                GeneralName::URI(uri) if is_tenant_uri(uri) => return Err(SignError::TenantName),
                GeneralName::DNSName(s) | GeneralName::URI(s) | GeneralName::RFC822Name(s)
                    if !s.is_ascii() =>
                {
                    return Err(SignError::Malformed("a name is not ASCII"));
                }
                GeneralName::Invalid(..) => return Err(SignError::Malformed("a name cannot be read")),
                other => names.extend(alt_name(other)),
            }
        }
    }
    Ok(names)
}
