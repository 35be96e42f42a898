//! The sockets.
//!
//! What comes by UDP has a thread of its own, which waits for questions in the kernel and answers what is known here itself: most of what a question costs
//! is otherwise to be woken for it. What others are asked, and what comes by TCP, is the runtime's.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use parking_lot::RwLock;
use rustix::net::{RecvFlags, SendFlags, Shutdown, shutdown, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answer::{Reply, answer, answer_in_turn};
use crate::answered::{Answered, Kept};
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

/// What the thread is called that answers by UDP.
const THREAD: &str = "names";
/// How much may wait in the socket, in bytes of the kernel's memory: some thousand questions. With the usual size a few hundred fit, which is what comes
/// in 15 ms, and a computer with other work lets a thread wait for longer.
const WAITING_BYTES: usize = 4 << 20;
/// Of the thread that answers: it keeps no more than a few answers on it.
const STACK_BYTES: usize = 256 << 10;

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

pub(crate) struct Shared {
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
    packets: Vec<Packets>,
}

/// A thread that answers what comes by UDP; it ends when this is dropped.
#[derive(Debug)]
struct Packets {
    socket: Arc<UdpSocket>,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the thread. The kernel says that nobody is connected, and does it all the same.
        let _ = shutdown(&*self.socket, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It says by itself what it could not do.
            let _ = thread.join();
        }
    }
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
        let mut server = Server { tasks: JoinSet::new(), addresses: Vec::new(), packets: Vec::new() };
        for address in listen {
            let tcp = TcpListener::bind(address).await?;
            // With port 0, both get the same.
            let address = tcp.local_addr()?;
            let socket = Arc::new(UdpSocket::bind(address)?);
            // Who may not have as much has what is usual.
            if sockopt::set_socket_recv_buffer_size_force(&*socket, WAITING_BYTES).is_err() {
                let _ = sockopt::set_socket_recv_buffer_size(&*socket, WAITING_BYTES);
            }
            server.addresses.push(address);
            let ends = Arc::new(AtomicBool::new(false));
            let (own, handle, over, asked) =
                (socket.clone(), Handle::current(), ends.clone(), shared.clone());
            let thread = std::thread::Builder::new()
                .name(THREAD.to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || serve_udp(&asked, &own, &handle, &over))?;
            server.packets.push(Packets { socket, ends, thread: Some(thread) });
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

    /// The same for one packet, with what has changed until then and whether the answer is the same as long as nothing has.
    pub(crate) fn answer_packet(&self, query: &[u8]) -> (Reply, u64, bool) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let names = self.names.read();
        let (reply, takes_turns) = answer_in_turn(query, &names, &self.config.domain, turn, true);
        (reply, names.changes(), !takes_turns)
    }

    /// What has changed until now.
    pub(crate) fn changes(&self) -> u64 {
        self.names.read().changes()
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

fn serve_udp(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, runtime: &Handle, ends: &AtomicBool) {
    let mut buf = vec![0; QUESTION_BYTES];
    let mut answered = Answered::default();
    while !ends.load(Ordering::SeqCst) {
        let (len, from) = match rustix::net::recvfrom(&**socket, &mut buf[..], RecvFlags::empty()) {
            Ok((len, _, Some(from))) => match SocketAddr::try_from(from) {
                Ok(from) => (len, from),
                Err(_) => continue,
            },
            // It was shut.
            Ok((_, _, None)) => continue,
            // What an earlier answer met (nobody there) comes back here.
            Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "the name server's socket failed; it goes on");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let query = &buf[..len];
        match answered.answer(query, shared) {
            Kept::Answer(bytes) => send(socket, bytes, from),
            Kept::Other(Reply::Answer(bytes)) => send(socket, &bytes, from),
            Kept::Other(Reply::Forward(name)) => {
                let (shared, socket, query) = (shared.clone(), socket.clone(), query.to_vec());
                runtime.spawn(async move {
                    let Ok(_permit) = shared.forwarded.try_acquire() else { return };
                    let answer = over_udp(&query, shared.servers(&name)).await;
                    if let Some(bytes) = or_failure(answer, &query, &name) {
                        send(&socket, &bytes, from);
                    }
                });
            }
            Kept::Other(Reply::Nothing) => {}
        }
    }
}

/// Answers wait for nobody: one that the kernel has no room for is lost, and asked for again.
fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = rustix::net::sendto(socket, bytes, SendFlags::DONTWAIT, &to) {
        tracing::debug!(%to, %error, "an answer could not be sent");
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
