//! The network transport: HTTP/2 over TLS, over TCP or through a Unix socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use http_body_util::{BodyDataStream, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::error::Error;
use crate::kubeconfig::{Access, KubeconfigError};
use crate::transport::{Request, Response, Transport};

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that does not answer a ping within this time is gone: watches on it would else wait forever.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Flow-control window of one answer: a long list should not wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Flow-control window of a connection. Several answers share it; a slow reader of one must not stop others.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Largest frame that is taken: a long list in the protocol's usual frames of 16 KiB costs both sides a head, an encrypted
/// record and a wake-up for each. A frame is held whole, so much larger ones would cost memory.
const FRAME_BYTES: u32 = 128 * 1024;

/// Watches on one connection. The server allows 250 requests on it (`MAX_STREAMS`, skep-apiserver); one more would wait, without
/// a word, for another to end. Below that there is room for what two tasks begin at once.
const WATCHES_PER_CONNECTION: usize = 200;

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// At the kubeconfig's address.
    Tcp,
    /// Through a Unix socket that leads there: an agent's way out of its machine. TLS is spoken inside, so whoever holds
    /// the socket learns and changes nothing.
    Unix(PathBuf),
}

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

type Sender = SendRequest<Full<Bytes>>;

/// A connection, once it is made.
#[derive(Default)]
struct Slot {
    sender: Mutex<Option<Sender>>,
    /// Held once by each watch on it, and once here.
    watches: Arc<()>,
}

/// See the module.
pub struct Network {
    access: Access,
    route: Route,
    connector: TlsConnector,
    /// The first carries watches, the rest take turns with everything else. With one, it does both.
    connections: Vec<Arc<Slot>>,
    /// More for watches, made when the first has no room. One that is idle again is used first.
    more: parking_lot::Mutex<Vec<Arc<Slot>>>,
    turn: AtomicUsize,
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
    let mut config = match &access.identity {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(bad("client-certificate"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

impl Network {
    /// To what a kubeconfig says, over so many connections (at least one). One is enough for tools; a role with many
    /// workers gains from more, for each is read and decrypted by one task.
    ///
    /// # Errors
    /// When its certificates cannot be used.
    pub fn new(access: Access, route: Route, connections: usize) -> Result<Network, Error> {
        let connector = TlsConnector::from(Arc::new(tls(&access)?));
        let connections = (0..connections.max(1)).map(|_| Arc::default()).collect();
        Ok(Network {
            access,
            route,
            connector,
            connections,
            more: Default::default(),
            turn: AtomicUsize::new(0),
        })
    }

    fn unreachable(&self, why: impl ToString) -> Error {
        Error::Unreachable { server: self.access.server.clone(), why: why.to_string() }
    }

    /// Where a request goes, and what its answer holds as long as it lasts.
    fn slot(&self, endless: bool) -> (Arc<Slot>, Option<Arc<()>>) {
        let others = self.connections.len() - 1;
        if endless {
            let mut more = self.more.lock();
            let room = |slot: &&Arc<Slot>| Arc::strong_count(&slot.watches) <= WATCHES_PER_CONNECTION;
            let slot = match self.connections.iter().take(1).chain(more.iter()).find(room) {
                Some(slot) => slot.clone(),
                None => {
                    let slot = Arc::<Slot>::default();
                    more.push(slot.clone());
                    slot
                }
            };
            let watch = slot.watches.clone();
            return (slot, Some(watch));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let index = if others == 0 { 0 } else { 1 + turn % others };
        (self.connections[index].clone(), None)
    }

    async fn connection(&self, slot: &Slot) -> Result<Sender, Error> {
        let mut slot = slot.sender.lock().await;
        if let Some(sender) = slot.as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
        }
        let connecting = async { self.handshake(self.dial(&self.connector).await?).await };
        let sender = self.in_time(connecting).await?;
        *slot = Some(sender.clone());
        Ok(sender)
    }

    async fn in_time<T>(&self, connecting: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| self.unreachable(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))?
    }

    /// A connection with TLS on it.
    async fn dial(&self, connector: &TlsConnector) -> Result<Box<dyn ByteStream>, Error> {
        let name = ServerName::try_from(self.access.host.clone()).map_err(|e| self.unreachable(e))?;
        Ok(match &self.route {
            Route::Tcp => {
                let stream = TcpStream::connect((self.access.host.as_str(), self.access.port))
                    .await
                    .map_err(|e| self.unreachable(e))?;
                stream.set_nodelay(true).map_err(|e| self.unreachable(e))?;
                Box::new(connector.connect(name, stream).await.map_err(|e| self.unreachable(e))?)
            }
            Route::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(|e| self.unreachable(format!("{}: {e}", path.display())))?;
                Box::new(connector.connect(name, stream).await.map_err(|e| self.unreachable(e))?)
            }
        })
    }

    async fn handshake(&self, stream: Box<dyn ByteStream>) -> Result<Sender, Error> {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .keep_alive_interval(Some(PING_INTERVAL))
            .keep_alive_timeout(PING_INTERVAL)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.unreachable(e))?;
        tokio::spawn(async move {
            // A broken connection shows in the requests on it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Makes a connection of its own, and makes something else than HTTP of it (`Upgrade`): what an agent's tunnel begins with.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not agree: then with what it says.
    pub async fn upgrade(&self, path: &str, protocol: &'static str) -> Result<Box<dyn ByteStream>, Error> {
        // HTTP/2 knows no upgrades.
        let mut config = tls(&self.access)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let exchange = async {
            let stream = self.dial(&connector).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|e| self.unreachable(e))?;
            tokio::spawn(async move {
                let _ = connection.with_upgrades().await;
            });
            let mut request = http::Request::post(path)
                .header(http::header::HOST, &self.access.host)
                .header(http::header::CONNECTION, "Upgrade")
                .header(http::header::UPGRADE, protocol)
                .body(Full::new(Bytes::new()))
                .map_err(|e| Error::Answer(format!("the path {path:?} is not one: {e}")))?;
            self.authorize(request.headers_mut());
            sender.send_request(request).await.map_err(|e| self.unreachable(e))
        };
        let response = self.in_time(exchange).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = response.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.map_err(|e| self.unreachable(e))?;
            return Err(crate::error::of_answer(head.status, &head.headers, &body.to_bytes()));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| self.unreachable(e))?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    fn authorize(&self, headers: &mut http::HeaderMap) {
        if let Some(token) = &self.access.token
            && let Ok(value) = http::HeaderValue::from_str(&format!("Bearer {token}"))
        {
            headers.insert(http::header::AUTHORIZATION, value);
        }
    }

    async fn exchange(&self, request: Request) -> Result<Response, Error> {
        let mut parts = http::Request::builder()
            .method(request.method)
            .uri(format!("{}{}", self.access.server, request.path))
            .body(Full::new(request.body))
            .map_err(|e| Error::Answer(format!("the path {:?} is not one: {e}", request.path)))?;
        *parts.headers_mut() = request.headers;
        self.authorize(parts.headers_mut());
        let mut unsent = parts;
        for _ in 0..=self.connections.len() {
            let (slot, watch) = self.slot(request.endless);
            let mut sender = self.connection(&slot).await?;
            match sender.try_send_request(unsent).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let server = self.access.server.clone();
                    let body = BodyDataStream::new(body).map(move |chunk| {
                        let _room = &watch;
                        chunk.map_err(|e| Error::Unreachable { server: server.clone(), why: e.to_string() })
                    });
                    return Ok(Response { status: head.status, headers: head.headers, body: Box::pin(body) });
                }
                // The connection ended before the request was on it: it may go on another.
                Err(mut error) => match error.take_message() {
                    Some(message) => unsent = message,
                    None => return Err(self.unreachable(error.into_error())),
                },
            }
        }
        Err(self.unreachable("connections end as soon as they are made"))
    }
}

impl Transport for Network {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Error>> {
        Box::pin(self.exchange(request))
    }

    fn server(&self) -> &str {
        &self.access.server
    }
}
