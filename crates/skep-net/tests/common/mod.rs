//! A machine with pods, in namespaces that end with the test.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_net::link::{Bridge, Peer};
use skep_net::machine::{MachineConfig, MachineNetwork, PodConfig};
use skep_net::{MacAddr, Namespace, Net};

pub fn can() -> bool {
    let can = rustix_is_root();
    if !can {
        eprintln!("SKIPPED: network namespaces need root");
    }
    can
}

fn rustix_is_root() -> bool {
    Namespace::new().is_ok()
}

/// A folder for mounts that takes them away at the end, also when the test fails.
pub struct Mounts(tempfile::TempDir);

impl Mounts {
    pub fn new() -> Mounts {
        Mounts(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0.path()).into_iter().flatten().flatten() {
            let _ = Namespace::remove(&entry.path());
        }
    }
}

/// A wire that joins hosts, in a namespace of its own.
pub struct Wire {
    pub ns: Namespace,
    mtu: u32,
}

impl Wire {
    /// Somebody on the wire itself has `address`, if it is given.
    pub fn new(mtu: u32, address: Option<&str>) -> Wire {
        let ns = Namespace::new().unwrap();
        let mut net = Net::open(&ns).unwrap();
        net.add_bridge("wire", MacAddr([2, 0, 0, 0, 9, 9]), mtu, Bridge::default()).unwrap();
        let bridge = net.expect_link("wire").unwrap().index;
        if let Some(address) = address {
            net.add_address(bridge, address.parse().unwrap()).unwrap();
        }
        net.set_up(bridge).unwrap();
        Wire { ns, mtu }
    }

    /// A host on the wire, and its address: 192.0.2.1 for the first.
    pub fn host(&self, n: usize) -> (Namespace, IpAddr) {
        let (host, ip) = (Namespace::new().unwrap(), IpAddr::from([192, 0, 2, 1 + n as u8]));
        let mut net = Net::open(&self.ns).unwrap();
        let peer = Peer { name: "eth0", mac: None, namespace: Some(&host) };
        net.add_veth(&format!("h{n}"), None, self.mtu, &peer).unwrap();
        let (end, bridge) =
            (net.expect_link(&format!("h{n}")).unwrap().index, net.expect_link("wire").unwrap().index);
        net.set_master(end, bridge).unwrap();
        net.set_up(end).unwrap();
        let mut net = Net::open(&host).unwrap();
        let eth0 = net.expect_link("eth0").unwrap().index;
        net.add_address(eth0, format!("{ip}/24").parse().unwrap()).unwrap();
        net.set_up(eth0).unwrap();
        (host, ip)
    }
}

pub fn machine() -> MachineNetwork {
    let config = MachineConfig {
        bridge: "skep0".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
        addresses: vec![
            "10.7.0.1/16".parse().unwrap(),
            "10.7.0.2/16".parse().unwrap(),
            "fd07::1/64".parse().unwrap(),
        ],
        uplink: None,
        gateways: vec![],
    };
    let mut machine = MachineNetwork::set_up(Namespace::new().unwrap(), config).unwrap();
    machine.add_routes(&["10.96.0.0/16".parse().unwrap(), "fd96::/64".parse().unwrap()]).unwrap();
    machine
}

pub fn pod(n: u8, namespace: &Path) -> PodConfig {
    PodConfig {
        id: format!("pod-{n}"),
        namespace: namespace.to_owned(),
        mac: MacAddr([2, 0, 0, 0, 1, n]),
        addresses: vec![
            format!("10.7.1.{n}/16").parse().unwrap(),
            format!("fd07::1:{n}/64").parse().unwrap(),
        ],
        pairs: vec![],
        gateways: vec!["10.7.0.1".parse().unwrap(), "fd07::1".parse().unwrap()],
        mtu: 1450,
    }
}

/// One line to a server there and back; the address that the server saw.
pub fn talk(client: &Namespace, server: &Namespace, to: &str) -> std::io::Result<IpAddr> {
    let address = SocketAddr::new(to.parse().unwrap(), 8080);
    let listener = server.run(|| TcpListener::bind(address)).unwrap()?;
    let accept = std::thread::spawn(move || {
        let (mut s, from) = listener.accept()?;
        s.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut got = [0; 5];
        s.read_exact(&mut got)?;
        s.write_all(&got)?;
        std::io::Result::Ok(from.ip())
    });
    let mut stream = client.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5))).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"hello");
    accept.join().unwrap()
}

/// A packet there; whether it arrives.
pub fn arrives(from: &Namespace, to: &Namespace, source: &str, target: &str) -> bool {
    let server = to.run(|| UdpSocket::bind((target.parse::<IpAddr>().unwrap(), 7000))).unwrap().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let client = from.run(|| UdpSocket::bind((source.parse::<IpAddr>().unwrap(), 0))).unwrap().unwrap();
    let target = SocketAddr::new(target.parse().unwrap(), 7000);
    let mut buf = [0; 16];
    // More than a second in all: on a busy computer neighbours take a while to find each other.
    (0..4).any(|_| client.send_to(b"x", target).is_ok() && server.recv_from(&mut buf).is_ok())
}
