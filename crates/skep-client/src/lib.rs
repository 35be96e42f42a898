//! The client side of the API.
//!
//! **Job.** Read a kubeconfig, speak HTTPS with the API server, turn `Status` answers into typed errors.
//! **State.** One HTTP/2 connection, made when first needed and again when it breaks. **Tasks.** One per
//! connection. **Must not know.** Any kind of object: bodies are JSON.

mod kubeconfig;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

pub use kubeconfig::{Access, KubeconfigError};

/// Why a request got no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The server cannot be reached.
    #[error("the API server at {server} cannot be reached: {why}; is it running?")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        why: String,
    },
    /// The server answered with an error.
    #[error("{message}")]
    Status {
        /// The HTTP status code.
        code: u16,
        /// The machine-readable reason.
        reason: String,
        /// The sentence for people.
        message: String,
    },
    /// The server's answer is not what was asked for.
    #[error("the API server's answer cannot be read: {0}")]
    Answer(String),
}

impl Error {
    /// Whether the server said that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Status { code: 404, .. })
    }

    /// Whether the server said that the name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Error::Status { code: 409, reason, .. } if reason == "AlreadyExists")
    }
}

/// A client of one API server with one credential. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    connector: TlsConnector,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

fn tls(access: &Access) -> Result<rustls::ClientConfig, KubeconfigError> {
    let bad = |what: &'static str| move |e: rustls::Error| KubeconfigError::Tls { what, why: e.to_string() };
    let mut roots = rustls::RootCertStore::empty();
    for ca in &access.ca {
        roots.add(ca.clone()).map_err(bad("certificate-authority"))?;
    }
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(bad("TLS"))?
            .with_root_certificates(roots);
    let identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> =
        access.identity.as_ref().map(|(chain, key)| (chain.clone(), key.clone_key()));
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(bad("client-certificate"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

impl Client {
    /// A client for what a kubeconfig says.
    ///
    /// # Errors
    /// When its certificates cannot be used.
    pub fn new(access: Access) -> Result<Client, Error> {
        let connector = TlsConnector::from(Arc::new(tls(&access)?));
        Ok(Client { shared: Arc::new(Shared { access, connector, connection: Mutex::new(None) }) })
    }

    /// The server's address, as the kubeconfig has it.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.shared.access.server
    }

    fn unreachable(&self, why: impl ToString) -> Error {
        Error::Unreachable { server: self.shared.access.server.clone(), why: why.to_string() }
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let mut slot = self.shared.connection.lock().await;
        if let Some(sender) = slot.as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
        }
        let access = &self.shared.access;
        let stream =
            TcpStream::connect((access.host.as_str(), access.port)).await.map_err(|e| self.unreachable(e))?;
        stream.set_nodelay(true).map_err(|e| self.unreachable(e))?;
        let name = ServerName::try_from(access.host.clone()).map_err(|e| self.unreachable(e))?;
        let stream = self.shared.connector.connect(name, stream).await.map_err(|e| self.unreachable(e))?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| self.unreachable(e))?;
        tokio::spawn(async move {
            // A broken connection shows in the requests on it.
            let _ = connection.await;
        });
        *slot = Some(sender.clone());
        Ok(sender)
    }

    /// Sends a request and returns the answer's body.
    ///
    /// # Errors
    /// [`Error`]: answers of 400 and above are [`Error::Status`].
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        let mut sender = self.connection().await?;
        let access = &self.shared.access;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", access.server))
            .header("accept", "application/json")
            .header("content-type", content_type);
        if let Some(token) = &access.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| Error::Answer(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| self.unreachable(e))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| self.unreachable(e))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(status_error(status, &body)) }
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        parse(&self.request(Method::GET, path, "application/json", Vec::new()).await?)
    }

    /// Creates an object, or asks a question that is answered by creating one.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, Error> {
        parse(&self.request(Method::POST, path, "application/json", body.to_string().into_bytes()).await?)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        self.request(Method::DELETE, path, "application/json", Vec::new()).await.map(|_| ())
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::Answer(e.to_string()))
}

fn status_error(code: StatusCode, body: &[u8]) -> Error {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        reason: String,
        message: String,
    }
    let status: Status = serde_json::from_slice(body).unwrap_or_default();
    let message =
        if status.message.is_empty() { format!("the API server answered {code}") } else { status.message };
    Error::Status { code: code.as_u16(), reason: status.reason, message }
}
