//! Packets between pods all the time, each with who sent it to whom: what arrives where it should not is noticed, whoever let it
//! through.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use skep_net::Namespace;
use std::io::{Read, Write};

use crate::computers::{PATIENCE, eventually};

/// How often everybody sends to everybody of the tenant.
const EVERY: Duration = Duration::from_millis(50);
/// Where packets go, by family.
const PORTS: [u16; 2] = [7004, 7006];

/// Who sent, to whom, by which family: tenant, pod, pod, port.
pub type Pair = (String, String, String, u16);

struct Pod {
    tenant: String,
    name: String,
    addresses: Vec<IpAddr>,
    /// One for each address.
    sockets: Vec<UdpSocket>,
}

#[derive(Default)]
struct State {
    pods: Vec<Arc<Pod>>,
    /// By period.
    sent: BTreeMap<(u64, Pair), u64>,
    heard: BTreeMap<(u64, Pair), u64>,
    wrong: Vec<String>,
}

/// See the module. It ends when it is dropped.
#[derive(Default)]
pub struct Traffic {
    state: Arc<Mutex<State>>,
    period: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Begins, among nobody yet.
    #[must_use]
    pub fn start() -> Traffic {
        let mut traffic = Traffic::default();
        let (state, period, end) = (traffic.state.clone(), traffic.period.clone(), traffic.end.clone());
        traffic.threads.push(std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                send(&state, period.load(Ordering::Relaxed));
                std::thread::sleep(EVERY);
            }
        }));
        let (state, end) = (traffic.state.clone(), traffic.end.clone());
        traffic.threads.push(std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                hear(&state);
                std::thread::sleep(Duration::from_millis(2));
            }
        }));
        traffic
    }

    /// A pod takes part. Its addresses are of different families.
    pub fn add(&self, tenant: &str, name: &str, namespace: &Namespace, addresses: &[IpAddr]) {
        let open = |ip: &IpAddr| {
            let port = PORTS[usize::from(ip.is_ipv6())];
            // To its own address: what came for another would be nobody's.
            let socket = namespace.run(|| UdpSocket::bind((*ip, port))).unwrap().unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let sockets = addresses.iter().map(open).collect();
        let pod = Pod { tenant: tenant.into(), name: name.into(), addresses: addresses.to_vec(), sockets };
        self.state.lock().unwrap().pods.push(Arc::new(pod));
    }

    /// What was sent before does not count any more; gives the number of the period that begins.
    pub fn begin(&self) -> u64 {
        let period = self.period.fetch_add(1, Ordering::Relaxed) + 1;
        // Who is sending now says the old one.
        std::thread::sleep(2 * EVERY);
        period
    }

    fn pairs(state: &State) -> Vec<Pair> {
        let mut all = Vec::new();
        for from in &state.pods {
            for to in state.pods.iter().filter(|to| to.tenant == from.tenant && to.name != from.name) {
                for ip in &to.addresses {
                    let port = PORTS[usize::from(ip.is_ipv6())];
                    all.push((from.tenant.clone(), from.name.clone(), to.name.clone(), port));
                }
            }
        }
        all
    }

    /// Waits until everybody has heard everybody of the tenant, by each family, since now.
    pub fn everybody_hears(&self, when: &str) {
        let period = self.begin();
        eventually(&format!("everybody hears everybody {when}"), || {
            let state = self.state.lock().unwrap();
            let missing: Vec<Pair> = Traffic::pairs(&state)
                .into_iter()
                .filter(|p| !state.heard.contains_key(&(period, p.clone())))
                .collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
        });
        self.nothing_wrong(when);
    }

    /// Ends a period; what of it was lost between pairs that are looked for.
    #[must_use]
    pub fn lost(&self, period: u64, of: impl Fn(&Pair) -> bool) -> Vec<(Pair, u64, u64)> {
        self.begin();
        let end = std::time::Instant::now() + PATIENCE / 6;
        loop {
            let state = self.state.lock().unwrap();
            let mut sent = 0;
            let mut lost = Vec::new();
            for ((at, pair), count) in state.sent.iter().filter(|((at, pair), _)| *at == period && of(pair)) {
                sent += count;
                let heard = state.heard.get(&(*at, pair.clone())).copied().unwrap_or_default();
                if heard != *count {
                    lost.push((pair.clone(), *count, heard));
                }
            }
            assert!(sent > 0, "nothing was sent");
            if lost.is_empty() || std::time::Instant::now() > end {
                return lost;
            }
            drop(state);
            std::thread::sleep(EVERY);
        }
    }

    /// Nothing has arrived where it should not.
    pub fn nothing_wrong(&self, when: &str) {
        let state = self.state.lock().unwrap();
        assert!(state.wrong.is_empty(), "{when}: {:?}", state.wrong);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send(state: &Mutex<State>, period: u64) {
    let pods = state.lock().unwrap().pods.clone();
    for from in &pods {
        for to in pods.iter().filter(|to| to.tenant == from.tenant && to.name != from.name) {
            for (ip, socket) in to.addresses.iter().filter_map(|ip| {
                let own = from.addresses.iter().position(|own| own.is_ipv4() == ip.is_ipv4())?;
                Some((ip, &from.sockets[own]))
            }) {
                let port = PORTS[usize::from(ip.is_ipv6())];
                let words = format!("{} {} {} {period}", from.tenant, from.name, to.name);
                // Counted before: it may have arrived when this goes on.
                let pair = (from.tenant.clone(), from.name.clone(), to.name.clone(), port);
                *state.lock().unwrap().sent.entry((period, pair.clone())).or_default() += 1;
                if socket.send_to(words.as_bytes(), (*ip, port)).is_err() {
                    // A neighbour that was not there a moment ago is said to be away.
                    let mut state = state.lock().unwrap();
                    if let Some(sent) = state.sent.get_mut(&(period, pair)) {
                        *sent -= 1;
                    }
                }
            }
        }
    }
}

fn hear(state: &Mutex<State>) {
    let pods = state.lock().unwrap().pods.clone();
    let mut buffer = [0; 2048];
    for pod in &pods {
        for (socket, ip) in pod.sockets.iter().zip(&pod.addresses) {
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let said = String::from_utf8_lossy(&buffer[..len]).into_owned();
                let words: Vec<&str> = said.split(' ').collect();
                let port = PORTS[usize::from(ip.is_ipv6())];
                let mut state = state.lock().unwrap();
                match words[..] {
                    [tenant, sender, to, period] if tenant == pod.tenant && to == pod.name => {
                        let pair = (tenant.to_owned(), sender.to_owned(), to.to_owned(), port);
                        *state.heard.entry((period.parse().unwrap(), pair)).or_default() += 1;
                    }
                    _ => state.wrong.push(format!("{}/{} heard {said:?} from {from}", pod.tenant, pod.name)),
                }
            }
        }
    }
}

/// A connection that is held open while other things happen.
pub struct Connection {
    stream: TcpStream,
    said: u32,
}

impl Connection {
    /// Somebody who says back what he hears, in a namespace. For as long as the process lives.
    pub fn serve(namespace: &Namespace, port: u16) {
        let listener = namespace.run(|| TcpListener::bind(("0.0.0.0", port))).unwrap().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut buffer = [0; 4];
                    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
                });
            }
        });
    }

    /// Connects from a namespace.
    #[must_use]
    pub fn open(namespace: &Namespace, to: SocketAddr) -> Connection {
        let stream = eventually("somebody is connected to", || {
            let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
            namespace.run(connect).map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection { stream, said: 0 }
    }

    /// Something is said over it, and comes back.
    pub fn holds(&mut self, when: &str) {
        self.said += 1;
        let words = self.said.to_be_bytes();
        let mut back = [0; 4];
        let result = self.stream.write_all(&words).and_then(|()| self.stream.read_exact(&mut back));
        assert!(result.is_ok() && back == words, "{when}: the connection is gone: {result:?}");
    }
}
