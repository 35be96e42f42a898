//! Certificates and keys: made on the first start, kept in a directory, renewed in time.
//!
//! There are two authorities. The *serving* CA signs the API server's own certificate and nothing else; it is
//! what clients and pods trust. The *client* CA signs everything that is handed out: administrators', tenants'
//! and nodes' certificates, and whatever tenants get through certificate signing requests. If it were one CA,
//! a tenant could have a certificate for the API server's name signed, and stand between the API server and
//! its clients. The TLS layer must trust the client CA for clients only.
//!
//! | File | What |
//! |---|---|
//! | `ca.crt`, `ca.key` | the serving CA |
//! | `apiserver.crt`, `apiserver.key` | the API server's certificate |
//! | `client-ca.crt`, `client-ca.key` | the client CA |
//! | `admin.crt`, `admin.key` | the system administrator's certificate |
//! | `service-account.secret` | the master secret of all tenants' signing keys, base64 |

mod ca;
mod der;
mod files;
mod kubeconfig;
mod sign;
#[cfg(test)]
mod tests;

pub use ca::{CertificateAuthority, KeyedCertificate};
pub use kubeconfig::Kubeconfig;
pub use sign::{SignError, Signer, is_node_client_request};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use ring::rand::{SecureRandom, SystemRandom};
use skep_base::TenantName;

use crate::authn::SECRET_BYTES;
use crate::identity::groups;
use ca::AltName;

const DAY: i64 = 24 * 3600;
/// Life of the authorities.
const CA_VALIDITY: SignedDuration = SignedDuration::from_secs(10 * 365 * DAY);
/// Life of a certificate that this program makes for itself or for an administrator.
pub const CERTIFICATE_VALIDITY: SignedDuration = SignedDuration::from_secs(365 * DAY);
/// A certificate with less than this left is made anew: long enough that a weekly restart would do.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_secs(30 * DAY);
/// The administrator's user name.
pub const ADMIN_USER: &str = "skep-admin";

/// What can go wrong with certificates and their files.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error(
        "{path} is damaged: {detail}; restore it, or remove it together with its partner to have both made anew"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: &'static str,
    },
    /// A certificate without its key.
    #[error(
        "{certificate} is there but {key} is not; restore the key, or remove the certificate to have both made anew"
    )]
    KeyMissing {
        /// The certificate.
        certificate: PathBuf,
        /// The key that should be beside it.
        key: PathBuf,
    },
    /// An authority has expired, and with it all it signed.
    #[error(
        "the certificate authority {path} has expired; remove it and its key to have a new one made, and hand out new kubeconfigs"
    )]
    Expired {
        /// Its certificate.
        path: PathBuf,
    },
    /// Making a key or a signature failed.
    #[error("the system gives no randomness for keys")]
    Randomness,
    /// A name that cannot stand in a certificate.
    #[error("{0:?} cannot stand in a certificate")]
    Name(String),
}

/// The certificates and keys of one installation.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    serving_ca: CertificateAuthority,
    client_ca: CertificateAuthority,
    serving_names: Vec<AltName>,
    serving: RwLock<Arc<KeyedCertificate>>,
    admin: KeyedCertificate,
    master_secret: [u8; SECRET_BYTES],
}

impl Pki {
    /// Opens the directory, making what is missing. `names` are host names and addresses by which clients
    /// reach the API server, besides the local ones.
    ///
    /// # Errors
    /// [`PkiError`]. What is there but damaged is never replaced.
    pub fn open(dir: &Path, names: &[String], now: Timestamp) -> Result<Pki, PkiError> {
        files::create_dir(dir)?;
        let serving_ca = open_ca(dir, "ca", "skep-ca", now)?;
        let client_ca = open_ca(dir, "client-ca", "skep-client-ca", now)?;
        let serving_names = serving_names(names)?;
        let serving = match files::load_pair(dir, "apiserver")? {
            Some(pair) if serving_is_good(&pair, &serving_ca, &serving_names, now) => pair,
            _ => make_serving(dir, &serving_ca, &serving_names, now)?,
        };
        let admin = match files::load_pair(dir, "admin")? {
            Some(pair) if pair.issued_by(&client_ca) && pair.lasts_until(now, RENEW_BEFORE) => pair,
            _ => {
                let pair = client_ca.issue_client(
                    ADMIN_USER,
                    &[groups::MASTERS.to_owned()],
                    None,
                    CERTIFICATE_VALIDITY,
                    now,
                )?;
                files::save_pair(dir, "admin", &pair)?;
                pair
            }
        };
        let master_secret = open_secret(&dir.join("service-account.secret"))?;
        Ok(Pki {
            dir: dir.to_owned(),
            serving_ca,
            client_ca,
            serving_names,
            serving: RwLock::new(Arc::new(serving)),
            admin,
            master_secret,
        })
    }

    /// What clients must trust: the PEM of the serving CA. It goes into kubeconfigs and into the
    /// `kube-root-ca.crt` of every namespace.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.serving_ca.certificate_pem()
    }

    /// Whom the API server must trust for client certificates, and for nothing else.
    #[must_use]
    pub fn client_ca(&self) -> &CertificateAuthority {
        &self.client_ca
    }

    /// The API server's certificate as it is now.
    #[must_use]
    pub fn serving(&self) -> Arc<KeyedCertificate> {
        self.serving.read().clone()
    }

    /// Makes the API server's certificate anew if it is about to expire. A long-running server calls this
    /// daily. Returns the new one, if there is one.
    ///
    /// # Errors
    /// [`PkiError`]; the certificate in use stays.
    pub fn renew_serving(&self, now: Timestamp) -> Result<Option<Arc<KeyedCertificate>>, PkiError> {
        if serving_is_good(&self.serving(), &self.serving_ca, &self.serving_names, now) {
            return Ok(None);
        }
        let new = Arc::new(make_serving(&self.dir, &self.serving_ca, &self.serving_names, now)?);
        *self.serving.write() = new.clone();
        Ok(Some(new))
    }

    /// The master secret of the service-account keys.
    #[must_use]
    pub fn master_secret(&self) -> &[u8; SECRET_BYTES] {
        &self.master_secret
    }

    /// The system administrator's certificate.
    #[must_use]
    pub fn admin(&self) -> &KeyedCertificate {
        &self.admin
    }

    /// The system administrator's kubeconfig, for an API server at `server` (`https://host:port`).
    #[must_use]
    pub fn admin_kubeconfig(&self, server: &str) -> Kubeconfig {
        Kubeconfig::with_certificate("skep", server, self.ca_pem(), ADMIN_USER, &self.admin)
    }

    /// A new kubeconfig for a user of a tenant. The server is addressed at `/`, for the certificate says
    /// which tenant it is; the context has the tenant's name.
    ///
    /// # Errors
    /// [`PkiError`] when the certificate cannot be made.
    pub fn tenant_kubeconfig(
        &self,
        server: &str,
        (tenant, tenant_uid): (&TenantName, &str),
        user: &str,
        user_groups: &[String],
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<Kubeconfig, PkiError> {
        let pair = self.issue_client(tenant, tenant_uid, user, user_groups, validity, now)?;
        Ok(Kubeconfig::with_certificate(tenant.as_str(), server, self.ca_pem(), user, &pair))
    }

    /// A new client certificate for a user of a tenant (the system tenant's carry no tenant name).
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue_client(
        &self,
        tenant: &TenantName,
        tenant_uid: &str,
        user: &str,
        user_groups: &[String],
        validity: SignedDuration,
        now: Timestamp,
    ) -> Result<KeyedCertificate, PkiError> {
        let of = (!tenant.is_system()).then_some((tenant, tenant_uid));
        self.client_ca.issue_client(user, user_groups, of, validity, now)
    }
}

/// Writes a text so that only its owner can read it, all or nothing.
///
/// # Errors
/// [`PkiError::Io`].
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    files::write_atomic(path, text.as_bytes())
}

fn open_ca(
    dir: &Path,
    file: &str,
    common_name: &str,
    now: Timestamp,
) -> Result<CertificateAuthority, PkiError> {
    let ca = match files::load_pair(dir, file)? {
        Some(pair) => CertificateAuthority::from_pair(pair),
        None => {
            let pair = CertificateAuthority::make(common_name, CA_VALIDITY, now)?;
            files::save_pair(dir, file, &pair)?;
            CertificateAuthority::from_pair(pair)
        }
    };
    let damaged = |detail| PkiError::Damaged { path: dir.join(format!("{file}.crt")), detail };
    let ca = ca.map_err(|_| damaged("it is not a certificate authority"))?;
    if ca.not_after() <= now {
        return Err(PkiError::Expired { path: dir.join(format!("{file}.crt")) });
    }
    Ok(ca)
}

fn serving_is_good(
    pair: &KeyedCertificate,
    ca: &CertificateAuthority,
    names: &[AltName],
    now: Timestamp,
) -> bool {
    pair.issued_by(ca) && pair.lasts_until(now, RENEW_BEFORE) && pair.has_names(names)
}

fn make_serving(
    dir: &Path,
    ca: &CertificateAuthority,
    names: &[AltName],
    now: Timestamp,
) -> Result<KeyedCertificate, PkiError> {
    let pair = ca.issue_serving("skep-apiserver", names, CERTIFICATE_VALIDITY, now)?;
    files::save_pair(dir, "apiserver", &pair)?;
    Ok(pair)
}

/// The names of the API server: local ones, the ones that pods use, and those given.
fn serving_names(given: &[String]) -> Result<Vec<AltName>, PkiError> {
    let mut names: Vec<AltName> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(|n| AltName::Dns(n.to_owned()))
    .into();
    names.push(AltName::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    names.push(AltName::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    for name in given.iter().filter(|n| !n.is_empty()) {
        let name = match name.parse() {
            Ok(ip) => AltName::Ip(ip),
            // Host names may hold upper case and underscores; what matters is that they are plain text.
            Err(_) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b)) => {
                AltName::Dns(name.to_ascii_lowercase())
            }
            Err(_) => return Err(PkiError::Name(name.clone())),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn open_secret(path: &Path) -> Result<[u8; SECRET_BYTES], PkiError> {
    if let Some(text) = files::read(path)? {
        let damaged = PkiError::Damaged { path: path.to_owned(), detail: "it is not 32 bytes in base64" };
        let bytes = STANDARD.decode(text.trim_ascii()).ok();
        return bytes.and_then(|b| b.try_into().ok()).ok_or(damaged);
    }
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut secret).map_err(|_| PkiError::Randomness)?;
    let mut text = STANDARD.encode(secret);
    text.push('\n');
    files::write_atomic(path, text.as_bytes())?;
    Ok(secret)
}
