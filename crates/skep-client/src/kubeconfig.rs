//! Kubeconfig files: whom to reach, and as whom.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error("the kubeconfig {} cannot be read: {source}; name one with --kubeconfig", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a kubeconfig, or lacks something.
    #[error("the kubeconfig {} cannot be used: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Its certificates cannot be used.
    #[error("the kubeconfig's {what} cannot be used: {why}")]
    Tls {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Whom to reach and as whom: the current context of a kubeconfig.
#[derive(Debug)]
pub struct Access {
    /// `https://HOST:PORT`, perhaps with a path.
    pub server: String,
    /// The host in it.
    pub host: String,
    /// The port in it.
    pub port: u16,
    /// Whom the server's certificate must come from.
    pub ca: Vec<CertificateDer<'static>>,
    /// The client's certificate chain and key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// A bearer token.
    pub token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<Named<Entry>>,
    #[serde(default)]
    contexts: Vec<Named<Entry>>,
    #[serde(default)]
    users: Vec<Named<Entry>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    entry: T,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    cluster: Cluster,
    context: Context,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
}

impl Access {
    /// Reads a kubeconfig's current context.
    ///
    /// # Errors
    /// [`KubeconfigError`].
    pub fn load(path: &Path) -> Result<Access, KubeconfigError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
        };
        let bad = |why: String| KubeconfigError::Content { path: path.to_owned(), why };
        let text = read(path)?;
        let file: File = serde_yaml_ng::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        let find = |list: Vec<Named<Entry>>, name: &str, what: &str| {
            list.into_iter()
                .find(|e| e.name == name)
                .map(|e| e.entry)
                .ok_or_else(|| bad(format!("it has no {what} {name:?}")))
        };
        let context = find(file.contexts, &file.current_context, "context")?.context;
        let cluster = find(file.clusters, &context.cluster, "cluster")?.cluster;
        let user = find(file.users, &context.user, "user")?.user;
        // Paths inside are relative to the file.
        let folder = path.parent().unwrap_or(Path::new("."));
        let blob =
            |data: Option<String>, file: Option<PathBuf>| -> Result<Option<Vec<u8>>, KubeconfigError> {
                match (data, file) {
                    (Some(data), _) => STANDARD.decode(data.trim()).map(Some).map_err(|e| bad(e.to_string())),
                    (None, Some(file)) => read(&folder.join(file)).map(Some),
                    (None, None) => Ok(None),
                }
            };
        let certificates = |pem: Option<Vec<u8>>| -> Result<Vec<CertificateDer<'static>>, KubeconfigError> {
            let Some(pem) = pem else { return Ok(Vec::new()) };
            CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|e| bad(format!("a certificate: {e}")))
        };
        let ca = certificates(blob(cluster.certificate_authority_data, cluster.certificate_authority)?)?;
        let chain = certificates(blob(user.client_certificate_data, user.client_certificate)?)?;
        let identity = match blob(user.client_key_data, user.client_key)? {
            Some(pem) if !chain.is_empty() => Some((
                chain,
                PrivateKeyDer::from_pem_slice(&pem).map_err(|e| bad(format!("the client key: {e}")))?,
            )),
            _ => None,
        };
        let token = match (user.token, user.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => Some(String::from_utf8_lossy(&read(&folder.join(file))?).trim().to_owned()),
            (None, None) => None,
        };
        let server = cluster.server.trim_end_matches('/').to_owned();
        let uri: http::Uri = server.parse().map_err(|e| bad(format!("the server {server:?}: {e}")))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad(format!("the server {server:?} is not an https:// address")));
        }
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
        Ok(Access { port: uri.port_u16().unwrap_or(443), host, server, ca, identity, token })
    }
}
