//! The sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answer::{Reply, answer};
use crate::forward::{over_tcp, over_udp, read_framed, write_framed};
use crate::names::Names;

/// Longest question.
const QUESTION_BYTES: usize = 1232;
/// Questions that others are asked at the same time. Each holds a socket; beyond, clients are told to come again.
const MAX_FORWARDED: usize = 512;
/// Clients that are connected at the same time.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// Servers for the names below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The domain, in small letters, without a dot at its end.
    pub domain: String,
    /// Who is asked, in this order.
    pub servers: Vec<SocketAddr>,
}

/// Where it listens, and whom it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens, each over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The tenant's domain, without a dot at its end.
    pub domain: String,
    /// Who is asked what is not known, in this order.
    pub upstreams: Vec<SocketAddr>,
    /// Others who are asked for some domains.
    pub stubs: Vec<Stub>,
}

struct Shared {
    names: Arc<RwLock<Names>>,
    config: Config,
    turn: AtomicUsize,
    forwarded: Semaphore,
    connections: Arc<Semaphore>,
}

/// A running name server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    tasks: JoinSet<()>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Opens the sockets and starts to answer.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn start(names: Arc<RwLock<Names>>, config: Config) -> io::Result<Server> {
        let listen = config.listen.clone();
        let shared = Arc::new(Shared {
            names,
            config,
            turn: AtomicUsize::new(0),
            forwarded: Semaphore::new(MAX_FORWARDED),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        });
        let mut server = Server { tasks: JoinSet::new(), addresses: Vec::new() };
        for address in listen {
            let tcp = TcpListener::bind(address).await?;
            // With port 0, both get the same.
            let address = tcp.local_addr()?;
            let udp = Arc::new(UdpSocket::bind(address).await?);
            server.addresses.push(address);
            server.tasks.spawn(serve_udp(shared.clone(), udp));
            server.tasks.spawn(serve_tcp(shared.clone(), tcp));
        }
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Shared {
    fn answer(&self, query: &[u8], is_packet: bool) -> Reply {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        answer(query, &self.names.read(), &self.config.domain, turn, is_packet)
    }

    /// Who is asked for a name: those of the longest domain that it is below.
    fn servers(&self, name: &str) -> &[SocketAddr] {
        let below = |s: &&Stub| {
            name.strip_suffix(s.domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let stub = self.config.stubs.iter().filter(below).max_by_key(|s| s.domain.len());
        stub.map_or(&self.config.upstreams, |s| &s.servers)
    }
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut buf = vec![0; QUESTION_BYTES];
    loop {
        while tasks.try_join_next().is_some() {}
        let (len, from) = match socket.recv_from(&mut buf).await {
            Ok(got) => got,
            // What an earlier answer met (nobody there) comes back here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "the name server's socket failed; it goes on");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let query = &buf[..len];
        match shared.answer(query, true) {
            Reply::Answer(bytes) => {
                if let Err(error) = socket.send_to(&bytes, from).await {
                    tracing::debug!(%from, %error, "an answer could not be sent");
                }
            }
            Reply::Forward(name) => {
                let (shared, socket, query) = (shared.clone(), socket.clone(), query.to_vec());
                tasks.spawn(async move {
                    let Ok(_permit) = shared.forwarded.try_acquire() else { return };
                    let answer = over_udp(&query, shared.servers(&name)).await;
                    if let Some(bytes) = or_failure(answer, &query, &name)
                        && let Err(error) = socket.send_to(&bytes, from).await
                    {
                        tracing::debug!(%from, %error, "an answer could not be sent");
                    }
                });
            }
            Reply::Nothing => {}
        }
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(permit) = shared.connections.clone().try_acquire_owned() else { continue };
                let shared = shared.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve_connection(&shared, stream).await {
                        tracing::debug!(%error, "a client of the name server went");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the name server cannot take connections; it goes on");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let query = match timeout(IDLE, read_framed(&mut stream)).await {
            Ok(Ok(query)) => query,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let bytes = match shared.answer(&query, false) {
            Reply::Answer(bytes) => bytes,
            Reply::Forward(name) => {
                let answer = over_tcp(&query, shared.servers(&name)).await;
                match or_failure(answer, &query, &name) {
                    Some(bytes) => bytes,
                    None => return Ok(()),
                }
            }
            Reply::Nothing => return Ok(()),
        };
        write_framed(&mut stream, &bytes).await?;
    }
}

/// What is said when nobody knows.
fn or_failure(answer: io::Result<Vec<u8>>, query: &[u8], name: &str) -> Option<Vec<u8>> {
    let error = match answer {
        Ok(bytes) => return Some(bytes),
        Err(error) => error,
    };
    tracing::debug!(name, %error, "no server answered");
    let query = Message::from_vec(query).ok()?;
    let mut response = Message::error_msg(query.metadata.id, OpCode::Query, ResponseCode::ServFail);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries);
    response.to_vec().ok()
}
