//! Public addresses: two hosts on a wire, two tenants, somebody outside.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Mounts, Wire, arrives, can, talk};
use skep_net::edge::{Edge, sweep};
use skep_net::egress::{ROUTER_IP, ROUTER_IP6, ROUTER_MAC, guard_host};
use skep_net::route::{Neighbour, Route};
use skep_net::switch::{Switch, SwitchConfig};
use skep_net::{MacAddr, Namespace, Net};
use skep_netplan::fabric::{Place, Port, plan};
use skep_netplan::public::{self, Holder, Public, public_mac};
use skep_netplan::service::L4;

const OUTSIDE: &str = "192.0.2.254";
const WEB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const POD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const OUTSIDE6: &str = "2001:db8:9::fe";
const WEB6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 1, 0x100);
const POD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 1, 0x101);
const TENANTS: usize = 2;
const HOSTS: usize = 2;

struct Host {
    ns: Namespace,
    address: IpAddr,
    edge: Edge,
    switches: Vec<Switch>,
}

struct World {
    wire: Namespace,
    hosts: Vec<Host>,
    /// By tenant, then by host.
    machines: Vec<Vec<Namespace>>,
    /// What is said to be in the pod of the first tenant, by host: an interface that has a public address's Ethernet address.
    pods: Vec<Namespace>,
    pods6: Vec<Namespace>,
    _mounts: Mounts,
}

fn mac(host: usize) -> MacAddr {
    MacAddr([2, 0x53, 10, 64, 0, 11 + host as u8])
}

fn ip(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, 0, 11 + host as u8)
}

fn ip6(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 11 + host as u16)
}

fn vni(tenant: usize) -> u32 {
    5000 + tenant as u32
}

fn single(ip: impl Into<IpAddr>) -> ipnet::IpNet {
    ip.into().into()
}

fn own(host: usize) -> [ipnet::IpNet; 2] {
    [format!("{}/16", ip(host)).parse().unwrap(), format!("{}/64", ip6(host)).parse().unwrap()]
}

/// An interface inside that leads out by the switch.
fn inside(ns: &Namespace, mac: MacAddr, addresses: &[ipnet::IpNet]) {
    let mut net = Net::open(ns).unwrap();
    let nic = net.expect_link("eth0").unwrap().index;
    net.set_mac(nic, mac).unwrap();
    net.set_up(nic).unwrap();
    net.set_up(1).unwrap();
    for address in addresses {
        net.add_address(nic, *address).unwrap();
    }
    for (all, router) in [("0.0.0.0/0", IpAddr::from(ROUTER_IP)), ("::/0", ROUTER_IP6.into())] {
        net.set_neighbour(nic, Neighbour { ip: router, mac: ROUTER_MAC }).unwrap();
        let default =
            Route { destination: all.parse().unwrap(), gateway: Some(router), link: nic, source: None };
        net.replace_route(&default).unwrap();
    }
}

impl World {
    fn new() -> World {
        let wire = Wire::new(1500, Some(&format!("{OUTSIDE}/24")));
        let mut net = Net::open(&wire.ns).unwrap();
        let bridge = net.expect_link("wire").unwrap().index;
        net.add_address(bridge, format!("{OUTSIDE6}/64").parse().unwrap()).unwrap();
        let mounts = Mounts::new();
        let (mut hosts, mut pods, mut pods6) = (Vec::new(), Vec::new(), Vec::new());
        let mut machines: Vec<Vec<Namespace>> = (0..TENANTS).map(|_| Vec::new()).collect();
        for n in 0..HOSTS {
            let (ns, address) = wire.host(n);
            let mut net = Net::open(&ns).unwrap();
            let uplink = net.expect_link("eth0").unwrap().index;
            net.add_address(uplink, format!("2001:db8:9::{}/64", n + 1).parse().unwrap()).unwrap();
            let mut switches = Vec::new();
            for (tenant, machines) in machines.iter_mut().enumerate() {
                let config = SwitchConfig { vni: vni(tenant), mtu: 1450, local: address, port: 4789 };
                let mut switch =
                    Switch::set_up(&ns, &mounts.path(&format!("net-{n}-{tenant}")), &config).unwrap();
                switch.lead_out(&ns, &["10.64.0.0/16".parse().unwrap()]).unwrap();
                let machine = Namespace::new().unwrap();
                switch.attach("m", &machine, "eth0").unwrap();
                inside(&machine, mac(n), &own(n));
                machines.push(machine);
                if tenant == 0 {
                    let pod = Namespace::new().unwrap();
                    switch.attach("p", &pod, "eth0").unwrap();
                    inside(&pod, MacAddr(public_mac(POD.into())), &[single(POD)]);
                    pods.push(pod);
                    let pod = Namespace::new().unwrap();
                    switch.attach("p6", &pod, "eth0").unwrap();
                    inside(&pod, MacAddr(public_mac(POD6.into())), &[single(POD6)]);
                    pods6.push(pod);
                }
                switches.push(switch);
            }
            let others = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
            guard_host(&ns, &others, 4789).unwrap();
            let edge = Edge::open(ns.try_clone().unwrap(), address).unwrap();
            hosts.push(Host { ns, address, edge, switches });
        }
        World { wire: wire.ns, hosts, machines, pods, pods6, _mounts: mounts }
    }

    /// Says to all hosts where each network's ports are, and where the first tenant's public addresses lead.
    fn set(&mut self, publics: &[Public]) {
        for n in 0..HOSTS {
            for tenant in 0..TENANTS {
                let port = |host: usize| Port {
                    mac: mac(host).0,
                    addresses: vec![ip(host).into(), ip6(host).into()],
                    pairs: Vec::new(),
                    machine: format!("m{host}"),
                    is_machine: true,
                };
                let ports: Vec<Port> = (0..HOSTS).map(port).collect();
                let mut places = BTreeMap::new();
                for (host, other) in self.hosts.iter().enumerate() {
                    let here = host == n;
                    let place = if here { Place::Here("m".into()) } else { Place::There(other.address) };
                    places.insert(format!("m{host}"), place);
                    if here {
                        places.insert(format!("p{host}"), Place::Here("p".into()));
                        places.insert(format!("p6-{host}"), Place::Here("p6".into()));
                    }
                }
                let publics = if tenant == 0 { publics } else { &[] };
                let mut fabric = plan(&ports, &places);
                let entrance = public::plan(publics, &ports, &places, &mut fabric);
                let host = &mut self.hosts[n];
                host.switches[tenant].set(&fabric).unwrap();
                host.switches[tenant].let_in(&entrance).unwrap();
                let lead: BTreeSet<IpAddr> = entrance.addresses.keys().copied().collect();
                host.edge.set(vni(tenant), &lead).unwrap();
            }
        }
    }

    /// Gives a machine an address of a service: as its agent does with it, but without endpoints.
    fn serve(&self, tenant: usize, host: usize, address: impl Into<IpAddr>) {
        let mut net = Net::open(&self.machines[tenant][host]).unwrap();
        let nic = net.expect_link("eth0").unwrap().index;
        net.add_address(nic, single(address)).unwrap();
    }
}

fn web(machine: &str, sources: &[&str]) -> Public {
    let sources = sources.iter().map(|s| s.parse().unwrap()).collect();
    let holder = Holder::Service { ports: vec![(L4::Tcp, 8080)], sources };
    Public { address: WEB.into(), machine: machine.into(), holder }
}

fn pod(machine: &str) -> Public {
    Public { address: POD.into(), machine: machine.into(), holder: Holder::Pod }
}

/// Whether a connection comes about, to a port where somebody listens.
fn connects(client: &Namespace, server: &Namespace, to: impl Into<IpAddr>, port: u16) -> bool {
    let address = SocketAddr::new(to.into(), port);
    let _listening = server.run(|| TcpListener::bind(address)).unwrap().unwrap();
    client.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1))).unwrap().is_ok()
}

/// Connects from an address of somebody's own; gives who the other side sees.
fn seen_from(client: &Namespace, source: Ipv4Addr, server: &Namespace) -> IpAddr {
    // The standard library binds no clients: a program of the system does.
    let listener = server.run(|| TcpListener::bind((OUTSIDE, 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    let asking = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        let _ = stream.read(&mut [0; 256]);
        from.ip()
    });
    let url = format!("http://{OUTSIDE}:{port}/");
    let said = client
        .run(|| {
            std::process::Command::new("curl")
                .args(["-s", "-m", "5", "--interface", &source.to_string(), &url])
                .output()
        })
        .unwrap()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "ok", "{said:?}");
    asking.join().unwrap()
}

#[test]
fn public_addresses_come_in_go_out_and_move() {
    if !can() {
        return;
    }
    let mut world = World::new();
    world.serve(0, 0, WEB);
    world.serve(0, 1, WEB);
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    assert!(!connects(&world.wire, &world.machines[0][0], WEB, 8080), "nobody answers for it yet");

    world.set(&[web("m0", &[]), pod("p0")]);
    // From outside, as who is there; only what is open.
    assert_eq!(talk(&world.wire, &world.machines[0][0], "192.0.2.100").unwrap(), outside);
    assert_eq!(talk(&world.wire, &world.pods[0], "192.0.2.101").unwrap(), outside);
    assert!(!connects(&world.wire, &world.machines[0][0], WEB, 8081));
    assert!(connects(&world.wire, &world.pods[0], POD, 8081), "a pod's is its own");
    // From the host itself, from another host, from another tenant's machine on either.
    assert!(connects(&world.hosts[0].ns, &world.machines[0][0], WEB, 8080));
    assert!(connects(&world.hosts[1].ns, &world.machines[0][0], WEB, 8080));
    for host in 0..HOSTS {
        assert!(connects(&world.machines[1][host], &world.machines[0][0], WEB, 8080), "from the host {host}");
        assert!(connects(&world.machines[1][host], &world.pods[0], POD, 8081), "from the host {host}");
    }
    // Out as itself.
    assert_eq!(seen_from(&world.pods[0], POD, &world.wire), IpAddr::V4(POD));
    assert_eq!(seen_from(&world.machines[0][0], WEB, &world.wire), IpAddr::V4(WEB));
    assert_eq!(seen_from(&world.machines[0][0], ip(0), &world.wire), world.hosts[0].address);
    // What went through is counted.
    let traffic: BTreeMap<IpAddr, _> =
        world.hosts[0].switches[0].public_traffic().unwrap().into_iter().collect();
    for ip in [WEB, POD] {
        let ip = IpAddr::from(ip);
        assert!(traffic[&ip].received_bytes > 100 && traffic[&ip].sent_bytes > 100, "{traffic:?}");
    }

    // Nobody else speaks as it: not the other tenant, not the same tenant elsewhere.
    for (tenant, host) in [(1, 0), (1, 1), (0, 1)] {
        world.serve(tenant, host, POD);
        let target = "192.0.2.254";
        assert!(
            !arrives(&world.machines[tenant][host], &world.wire, "192.0.2.101", target),
            "{tenant} {host}"
        );
    }
    assert!(arrives(&world.pods[0], &world.wire, "192.0.2.101", "192.0.2.254"));

    // Only some may ask.
    world.set(&[web("m0", &["198.51.100.0/24"]), pod("p0")]);
    assert!(!connects(&world.wire, &world.machines[0][0], WEB, 8080));
    world.set(&[web("m0", &["192.0.2.128/25"]), pod("p0")]);
    assert!(connects(&world.wire, &world.machines[0][0], WEB, 8080));
    assert!(!connects(&world.hosts[1].ns, &world.machines[0][0], WEB, 8080));

    // To the other host, whoever still knows where it was.
    world.set(&[web("m1", &[]), pod("p1")]);
    assert_eq!(talk(&world.wire, &world.machines[0][1], "192.0.2.100").unwrap(), outside);
    assert_eq!(talk(&world.wire, &world.pods[1], "192.0.2.101").unwrap(), outside);

    // And nowhere: nothing is left.
    world.set(&[]);
    assert!(!connects(&world.wire, &world.machines[0][1], WEB, 8080));
    for host in &mut world.hosts {
        let mut net = Net::open(&host.ns).unwrap();
        assert_eq!(net.proxies().unwrap(), []);
        let left: Vec<Route> = net
            .routes()
            .unwrap()
            .into_iter()
            .filter(|r| [single(WEB), single(POD)].contains(&r.destination))
            .collect();
        assert_eq!(left, []);
        for switch in &mut host.switches {
            assert_eq!(switch.public_traffic().unwrap(), []);
        }
    }
}

#[test]
fn what_a_daemon_left_is_taken_over_or_swept_up() {
    if !can() {
        return;
    }
    let mut world = World::new();
    world.serve(0, 0, WEB);
    world.set(&[web("m0", &[]), pod("p0")]);
    // Another process: it knows nothing, and wants the half.
    let host = &mut world.hosts[0];
    host.edge = Edge::open(host.ns.try_clone().unwrap(), host.address).unwrap();
    host.edge.set(vni(0), &[WEB.into()].into()).unwrap();
    let mut net = Net::open(&host.ns).unwrap();
    assert_eq!(net.proxies().unwrap().into_iter().map(|(_, ip)| ip).collect::<Vec<_>>(), [IpAddr::from(WEB)]);
    assert!(talk(&world.wire, &world.machines[0][0], "192.0.2.100").is_ok(), "it goes on");
    // A network that goes takes with it what led in.
    let host = &mut world.hosts[0];
    host.switches.remove(0).remove().unwrap();
    sweep(&host.ns).unwrap();
    assert_eq!(net.proxies().unwrap(), []);
}

#[test]
fn addresses_of_ipv6_come_in_go_out_and_move() {
    if !can() {
        return;
    }
    let mut world = World::new();
    world.serve(0, 0, WEB6);
    world.serve(0, 1, WEB6);
    let outside: IpAddr = OUTSIDE6.parse().unwrap();
    let web = |machine: &str, sources: &[&str]| Public { address: WEB6.into(), ..web(machine, sources) };
    let pod = |machine: &str| Public { address: POD6.into(), ..pod(machine) };
    assert!(!connects(&world.wire, &world.machines[0][0], WEB6, 8080), "nobody answers for it yet");
    world.set(&[web("m0", &[]), pod("p6-0")]);
    let name = WEB6.to_string();
    assert_eq!(talk(&world.wire, &world.machines[0][0], &name).unwrap(), outside);
    assert!(!connects(&world.wire, &world.machines[0][0], WEB6, 8081), "only what is open");
    assert_eq!(talk(&world.wire, &world.pods6[0], &POD6.to_string()).unwrap(), outside);
    assert!(connects(&world.wire, &world.pods6[0], POD6, 8081), "a pod's is its own");
    // From another host, and out as itself.
    assert!(connects(&world.hosts[1].ns, &world.machines[0][0], WEB6, 8080));
    let from: IpAddr = talk(&world.pods6[0], &world.wire, OUTSIDE6).unwrap();
    assert_eq!(from, IpAddr::from(POD6));
    // Who has none goes nowhere, if a machine led it out at all.
    let gone = world.machines[1][0]
        .run(|| TcpStream::connect_timeout(&SocketAddr::new(outside, 9), Duration::from_secs(1)))
        .unwrap();
    assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    // The host is not reached by it.
    let host: IpAddr = "2001:db8:9::1".parse().unwrap();
    assert!(!connects(&world.pods6[0], &world.hosts[0].ns, host, 8082));
    let traffic: BTreeMap<IpAddr, _> =
        world.hosts[0].switches[0].public_traffic().unwrap().into_iter().collect();
    for ip in [WEB6, POD6] {
        let counted = &traffic[&IpAddr::from(ip)];
        assert!(counted.received_bytes > 100 && counted.sent_bytes > 100, "{traffic:?}");
    }
    // Nobody else speaks as it.
    for (tenant, host) in [(1, 0), (1, 1), (0, 1)] {
        world.serve(tenant, host, POD6);
        let machine = &world.machines[tenant][host];
        assert!(!arrives(machine, &world.wire, &POD6.to_string(), OUTSIDE6), "{tenant} {host}");
    }
    assert!(arrives(&world.pods6[0], &world.wire, &POD6.to_string(), OUTSIDE6));
    // Only some may ask; then it moves, and then it is gone.
    world.set(&[web("m0", &["2001:db8:7::/48", "0.0.0.0/0"]), pod("p6-0")]);
    assert!(!connects(&world.wire, &world.machines[0][0], WEB6, 8080));
    world.set(&[web("m1", &["2001:db8:9::/48"]), pod("p6-1")]);
    assert_eq!(talk(&world.wire, &world.machines[0][1], &name).unwrap(), outside);
    assert_eq!(talk(&world.wire, &world.pods6[1], &POD6.to_string()).unwrap(), outside);
    world.set(&[]);
    assert!(!connects(&world.wire, &world.machines[0][1], WEB6, 8080));
    for host in &mut world.hosts {
        let mut net = Net::open(&host.ns).unwrap();
        assert_eq!(net.proxies().unwrap(), []);
        let left: Vec<Route> =
            net.routes().unwrap().into_iter().filter(|r| r.destination == single(WEB6)).collect();
        assert_eq!(left, []);
    }
}
