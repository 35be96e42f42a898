//! Bare connections: for what a well-behaved client would never send.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use skep_client::Access;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A TLS connection on which a test writes what it likes.
pub struct Wire(pub TlsStream<TcpStream>);

/// What came back: the code of the status line, and everything after the headers.
#[derive(Debug)]
pub struct Answer {
    /// 0 when the connection was closed without an answer.
    pub code: u16,
    /// Chunks as they are on the wire.
    pub body: String,
}

impl Wire {
    /// Connects with the credential of a kubeconfig, or with none.
    pub async fn connect(kubeconfig: &Path, with_identity: bool) -> Wire {
        let access = Access::load(kubeconfig).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in access.ca {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match access.identity.filter(|_| with_identity) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect((access.host.as_str(), access.port)).await.unwrap();
        let name = ServerName::try_from(access.host).unwrap();
        Wire(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }

    /// Sends bytes and reads until the server closes.
    pub async fn ask(mut self, request: &[u8]) -> Answer {
        // A server may refuse and close before it has read everything.
        let _ = self.0.write_all(request).await;
        let mut bytes = Vec::new();
        // A server may close without TLS' goodbye: what came before counts.
        let _ = self.0.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes);
        let code = text.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Answer { code, body }
    }
}

/// A request of HTTP/1.1 after which the server closes.
#[must_use]
pub fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
