//! Authorities, and certificates with their keys.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use skep_base::TenantName;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::der::{self, Tbs, usage};
use super::{PkiError, sign};
use crate::authn::certificate::is_tenant_uid;
use crate::authn::tenant_uri;

/// Certificates begin this much in the past, for clients whose clock is behind.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
const PEM_COLUMNS: usize = 64;
/// RFC 7093: the leftmost 160 bits of the SHA-256 of the key.
const KEY_ID_BYTES: usize = 20;

/// A name in the subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AltName {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
    Email(String),
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // The alphabet is ASCII, so every position is a boundary.
        let (line, more) = rest.split_at(rest.len().min(PEM_COLUMNS));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A certificate and its private key.
pub struct KeyedCertificate {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    certificate_pem: String,
    key_pem: String,
    not_after: Timestamp,
    issuer_der: Vec<u8>,
    authority_key_id: Vec<u8>,
    alt_names: Vec<AltName>,
}

impl std::fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl KeyedCertificate {
    fn new(certificate_der: Vec<u8>, key_der: Vec<u8>) -> Result<KeyedCertificate, &'static str> {
        let (_, cert) =
            X509Certificate::from_der(&certificate_der).map_err(|_| "the certificate cannot be read")?;
        let pair = key_pair(&key_der).map_err(|_| "the key cannot be read")?;
        if cert.public_key().subject_public_key.data != pair.public_key().as_ref() {
            return Err("the key is not the certificate's");
        }
        let not_after = Timestamp::from_second(cert.validity().not_after.timestamp())
            .map_err(|_| "the certificate's time is out of range")?;
        let authority_key_id = cert
            .iter_extensions()
            .find_map(|e| match e.parsed_extension() {
                x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                    id.key_identifier.as_ref().map(|k| k.0.to_vec())
                }
                _ => None,
            })
            .unwrap_or_default();
        let mut alt_names = Vec::new();
        if let Ok(Some(san)) = cert.subject_alternative_name() {
            alt_names.extend(san.value.general_names.iter().filter_map(alt_name));
        }
        let issuer_der = cert.issuer().as_raw().to_vec();
        Ok(KeyedCertificate {
            certificate_pem: pem("CERTIFICATE", &certificate_der),
            key_pem: pem("PRIVATE KEY", &key_der),
            certificate: CertificateDer::from(certificate_der),
            key: PrivatePkcs8KeyDer::from(key_der),
            not_after,
            issuer_der,
            authority_key_id,
            alt_names,
        })
    }

    pub(super) fn from_pem(certificate: &[u8], key: &[u8]) -> Result<KeyedCertificate, &'static str> {
        let certificate =
            CertificateDer::from_pem_slice(certificate).map_err(|_| "it holds no certificate in PEM")?;
        let key =
            PrivatePkcs8KeyDer::from_pem_slice(key).map_err(|_| "its key file holds no PKCS#8 key in PEM")?;
        KeyedCertificate::new(certificate.to_vec(), key.secret_pkcs8_der().to_vec())
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    pub(super) fn issued_by(&self, ca: &CertificateAuthority) -> bool {
        self.issuer_der == ca.subject_der && self.authority_key_id == ca.key_id
    }

    pub(super) fn lasts_until(&self, now: Timestamp, ahead: SignedDuration) -> bool {
        now.saturating_add(ahead).is_ok_and(|t| t < self.not_after)
    }

    pub(super) fn has_names(&self, names: &[AltName]) -> bool {
        names.iter().all(|n| self.alt_names.contains(n))
    }
}

pub(super) fn alt_name(name: &GeneralName<'_>) -> Option<AltName> {
    match name {
        GeneralName::DNSName(s) => Some(AltName::Dns((*s).to_owned())),
        GeneralName::URI(s) => Some(AltName::Uri((*s).to_owned())),
        GeneralName::RFC822Name(s) => Some(AltName::Email((*s).to_owned())),
        GeneralName::IPAddress(bytes) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                Some(AltName::Ip(IpAddr::from(v4)))
            } else {
                <[u8; 16]>::try_from(*bytes).ok().map(|v6| AltName::Ip(IpAddr::from(v6)))
            }
        }
        _ => None,
    }
}

fn key_pair(pkcs8: &[u8]) -> Result<EcdsaKeyPair, PkiError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|_| PkiError::Randomness)
}

fn new_key() -> Result<(Vec<u8>, EcdsaKeyPair), PkiError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| PkiError::Randomness)?;
    let pair = key_pair(document.as_ref())?;
    Ok((document.as_ref().to_vec(), pair))
}

pub(super) fn key_id(public_key: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, public_key).as_ref()[..KEY_ID_BYTES].to_vec()
}

fn serial() -> Result<[u8; 16], PkiError> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| PkiError::Randomness)?;
    // Positive, and of full length whatever the rest is.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

/// The parts of a certificate that differ from case to case.
pub(super) struct Request<'a> {
    pub(super) subject_der: &'a [u8],
    pub(super) spki_der: &'a [u8],
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) key_usage: u16,
    pub(super) extended_key_usage: &'a [&'a [u64]],
    pub(super) alt_names: &'a [AltName],
}

/// A certificate authority that can sign.
pub struct CertificateAuthority {
    pair: EcdsaKeyPair,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    subject_der: Vec<u8>,
    key_id: Vec<u8>,
    not_after: Timestamp,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// A new self-signed authority.
    pub(super) fn make(
        common_name: &str,
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<KeyedCertificate, PkiError> {
        let (key_der, pair) = new_key()?;
        let point = pair.public_key().as_ref();
        let subject = der::name(common_name, &[]);
        let id = key_id(point);
        let tbs = der::tbs(&Tbs {
            serial: serial()?,
            issuer_der: &subject,
            subject_der: &subject,
            spki_der: &der::p256_spki(point),
            not_before: begin(now),
            not_after: now.saturating_add(validity).unwrap_or(Timestamp::MAX),
            is_ca: true,
            key_usage: usage::DIGITAL_SIGNATURE | usage::CERT_SIGN | usage::CRL_SIGN,
            extended_key_usage: &[],
            alt_names: &[],
            subject_key_id: Some(&id),
            authority_key_id: &id,
        });
        let signature = pair.sign(&SystemRandom::new(), &tbs).map_err(|_| PkiError::Randomness)?;
        KeyedCertificate::new(der::certificate(&tbs, signature.as_ref()), key_der)
            .map_err(|_| PkiError::Name(common_name.to_owned()))
    }

    /// The authority of a CA certificate and its key.
    pub(super) fn from_pair(pair: KeyedCertificate) -> Result<CertificateAuthority, PkiError> {
        let key = key_pair(pair.key.secret_pkcs8_der())?;
        let (subject_der, is_ca, id) = {
            let (_, cert) = X509Certificate::from_der(&pair.certificate)
                .map_err(|_| PkiError::Name("certificate authority".to_owned()))?;
            let id = cert.iter_extensions().find_map(|e| match e.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
            (cert.subject().as_raw().to_vec(), cert.is_ca(), id)
        };
        if !is_ca {
            return Err(PkiError::Name("certificate authority".to_owned()));
        }
        Ok(CertificateAuthority {
            key_id: id.unwrap_or_else(|| key_id(key.public_key().as_ref())),
            pair: key,
            certificate: pair.certificate,
            certificate_pem: pair.certificate_pem,
            subject_der,
            not_after: pair.not_after,
        })
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs. The certificate does not outlive the authority.
    pub(super) fn issue(&self, r: &Request<'_>) -> Result<Vec<u8>, PkiError> {
        let tbs = der::tbs(&Tbs {
            serial: serial()?,
            issuer_der: &self.subject_der,
            subject_der: r.subject_der,
            spki_der: r.spki_der,
            not_before: r.not_before,
            not_after: r.not_after.min(self.not_after),
            is_ca: false,
            key_usage: r.key_usage,
            extended_key_usage: r.extended_key_usage,
            alt_names: r.alt_names,
            subject_key_id: None,
            authority_key_id: &self.key_id,
        });
        let signature = self.pair.sign(&SystemRandom::new(), &tbs).map_err(|_| PkiError::Randomness)?;
        Ok(der::certificate(&tbs, signature.as_ref()))
    }

    fn issue_pair(
        &self,
        common_name: &str,
        organizations: &[String],
        extended_key_usage: &[u64],
        alt_names: &[AltName],
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<KeyedCertificate, PkiError> {
        let (key_der, pair) = new_key()?;
        let der = self.issue(&Request {
            subject_der: &der::name(common_name, organizations),
            spki_der: &der::p256_spki(pair.public_key().as_ref()),
            not_before: begin(now),
            not_after: now.saturating_add(validity).unwrap_or(Timestamp::MAX),
            key_usage: usage::DIGITAL_SIGNATURE,
            extended_key_usage: &[extended_key_usage],
            alt_names,
        })?;
        KeyedCertificate::new(der, key_der).map_err(|_| PkiError::Name(common_name.to_owned()))
    }

    pub(super) fn issue_serving(
        &self,
        common_name: &str,
        names: &[AltName],
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<KeyedCertificate, PkiError> {
        self.issue_pair(common_name, &[], sign::SERVER_AUTH, names, validity, now)
    }

    /// A new client certificate with a new key. Without a tenant it is the system tenant's.
    pub(super) fn issue_client(
        &self,
        user: &str,
        groups: &[String],
        tenant: Option<(&TenantName, &str)>,
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<KeyedCertificate, PkiError> {
        if user.is_empty() {
            return Err(PkiError::Name(user.to_owned()));
        }
        let names = match tenant {
            Some((_, uid)) if !is_tenant_uid(uid) => return Err(PkiError::Name(uid.to_owned())),
            Some((tenant, uid)) => vec![AltName::Uri(tenant_uri(tenant, uid))],
            None => Vec::new(),
        };
        self.issue_pair(user, groups, sign::CLIENT_AUTH, &names, validity, now)
    }
}

fn begin(now: Timestamp) -> Timestamp {
    now.saturating_sub(BACKDATE).unwrap_or(Timestamp::MIN)
}
