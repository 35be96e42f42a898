//! Services in a machine, with real connections in real namespaces.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Mounts, can, machine, pod};
use skep_net::Namespace;
use skep_net::machine::MachineNetwork;
use skep_net::service::Services;
use skep_netplan::service::{
    Change, Desired, Endpoint, EndpointPort, EndpointSlice, L4, Place, Service, ServicePort, ServiceType,
    Table, desired,
};

/// A machine with pods, each with a server that says the pod's name and who it sees.
struct World {
    machine: MachineNetwork,
    pods: Vec<Namespace>,
    services: Services,
    table: Table,
    stop: Arc<AtomicBool>,
    _mounts: Mounts,
}

impl World {
    fn new(count: u8) -> World {
        let (mut machine, mounts) = (machine(), Mounts::new());
        let stop = Arc::new(AtomicBool::new(false));
        let mut pods = Vec::new();
        for n in 1..=count {
            let config = pod(n, &mounts.path(&format!("p{n}")));
            machine.set_up_pod(&config).unwrap();
            let ns = Namespace::open(&config.namespace).unwrap();
            serve(&ns, n, &stop);
            pods.push(ns);
        }
        let mut services = Services::open(machine.namespace()).unwrap();
        services.replace(&[]).unwrap();
        World { machine, pods, services, table: Table::default(), stop, _mounts: mounts }
    }

    fn set(&mut self, name: &str, wanted: &Desired) -> usize {
        let changes = self.table.set(&("default".into(), name.into()), wanted);
        self.services.apply(&changes).unwrap();
        changes.len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers each connection and each packet with `N ADDRESS`.
fn serve(ns: &Namespace, n: u8, stop: &Arc<AtomicBool>) {
    let stop = stop.clone();
    for any in ["0.0.0.0:8080", "[::]:8081"] {
        let stop = stop.clone();
        let listener = ns.run(|| TcpListener::bind(any)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut s, from)) => drop(write!(s, "{n} {}", from.ip())),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    }
    let socket = ns.run(|| UdpSocket::bind("0.0.0.0:8080")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    std::thread::spawn(move || {
        let mut buf = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((_, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(format!("{n} {}", from.ip()).as_bytes(), from);
            }
        }
    });
}

/// Connects; the pod that answered, and whom it saw.
fn ask(from: &Namespace, to: &str) -> std::io::Result<(u8, String)> {
    let address: SocketAddr = to.parse().unwrap();
    let mut stream = from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(3))).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (n, ip) = text.split_once(' ').ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((n.parse().unwrap(), ip.to_owned()))
}

fn service(change: impl FnOnce(&mut Service)) -> Service {
    let mut service = Service {
        cluster_ips: vec!["10.96.0.7".parse().unwrap()],
        ports: vec![ServicePort { protocol: L4::Tcp, port: 80, ..ServicePort::default() }],
        ..Service::default()
    };
    change(&mut service);
    service
}

/// Endpoints, by the numbers of pods; those from 100 on are on another node.
fn endpoints(pods: &[u8], protocol: L4) -> EndpointSlice {
    let endpoint = |n: &u8| Endpoint {
        address: Some(format!("10.7.1.{}", n % 100).parse().unwrap()),
        ready: true,
        serving: true,
        node: Some(if *n < 100 { "n1".into() } else { "n2".into() }),
        ..Endpoint::default()
    };
    EndpointSlice {
        v6: false,
        ports: vec![EndpointPort { name: String::new(), protocol, port: Some(8080) }],
        endpoints: pods.iter().map(endpoint).collect(),
    }
}

fn plan(service: &Service, pods: &[u8]) -> Desired {
    let place = Place { node: "n1".into(), zone: None };
    desired(service, &[&endpoints(pods, service.ports[0].protocol)], &place)
}

fn spread(from: &Namespace, to: &str, times: usize) -> BTreeMap<u8, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        *seen.entry(ask(from, to).unwrap().0).or_default() += 1;
    }
    seen
}

#[test]
fn connections_are_spread_over_endpoints_that_see_the_client() {
    if !can() {
        return;
    }
    let mut world = World::new(4);
    world.set("web", &plan(&service(|_| ()), &[1, 2, 3]));
    let seen = spread(&world.pods[3], "10.96.0.7:80", 60);
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [1, 2, 3], "{seen:?}");
    assert_eq!(ask(&world.pods[3], "10.96.0.7:80").unwrap().1, "10.7.1.4");
    // The machine itself too.
    ask(world.machine.namespace(), "10.96.0.7:80").unwrap();
    // A pod reaches itself, and then does not see itself.
    world.set("web", &plan(&service(|_| ()), &[1]));
    assert_eq!(ask(&world.pods[0], "10.96.0.7:80").unwrap(), (1, "10.7.0.1".into()));
    assert_eq!(ask(&world.pods[1], "10.96.0.7:80").unwrap(), (1, "10.7.1.2".into()));
    world.set("web", &Desired::default());
    let error = ask(&world.pods[1], "10.96.0.7:80").unwrap_err();
    assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused, "nobody answers: {error}");
}

#[test]
fn established_connections_stay_when_everything_changes() {
    if !can() {
        return;
    }
    let mut world = World::new(2);
    world.set("web", &plan(&service(|s| s.ports[0].port = 90), &[2]));
    // A connection through a service, to a server of our own.
    let mut echo_plan = plan(&service(|_| ()), &[2]);
    for group in echo_plan.groups.values_mut() {
        group.endpoints = vec!["10.7.1.2:9000".parse().unwrap()];
    }
    world.set("echo", &echo_plan);
    let listener = world.pods[1].run(|| TcpListener::bind("0.0.0.0:9000")).unwrap().unwrap();
    let mut client = world.pods[0].run(|| TcpStream::connect("10.96.0.7:80")).unwrap().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut check = |note: &str| {
        let mut got = [0; 2];
        client.write_all(b"hi").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        server.read_exact(&mut got).unwrap_or_else(|e| panic!("{note}: {e}"));
        server.write_all(&got).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        client.read_exact(&mut got).unwrap_or_else(|e| panic!("{note}: {e}"));
    };
    check("before");
    // Its endpoint ends, the agent starts anew, the service goes.
    world.set("echo", &plan(&service(|_| ()), &[1]));
    check("after the endpoint went");
    world.services.replace(&[]).unwrap();
    world.table = Table::default();
    check("after everything was put anew");
}

#[test]
fn nobody_behind_is_refused_or_dropped() {
    if !can() {
        return;
    }
    let mut world = World::new(1);
    let local = service(|s| {
        s.kind = ServiceType::NodePort;
        s.ports[0].node_port = Some(30080);
        s.external_local = true;
    });
    world.set("web", &plan(&local, &[]));
    let before = Instant::now();
    let error = ask(&world.pods[0], "10.96.0.7:80").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    assert!(before.elapsed() < Duration::from_secs(2), "told at once");
    world.set("web", &plan(&local, &[102]));
    let error = ask(&world.pods[0], "10.7.0.2:30080").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
}

#[test]
fn node_ports_hide_the_client_unless_they_are_local() {
    if !can() {
        return;
    }
    let mut world = World::new(3);
    let mut wanted = service(|s| {
        s.kind = ServiceType::NodePort;
        s.ports[0].node_port = Some(30080);
    });
    world.set("web", &plan(&wanted, &[1, 2]));
    let (_, saw) = ask(&world.pods[2], "10.7.0.2:30080").unwrap();
    assert!(saw.starts_with("10.7.0."), "{saw}");
    wanted.external_local = true;
    world.set("web", &plan(&wanted, &[1, 102]));
    for _ in 0..10 {
        assert_eq!(ask(&world.pods[2], "10.7.0.2:30080").unwrap(), (1, "10.7.1.3".into()));
    }
}

#[test]
fn clients_stay_with_their_endpoint_while_it_lives() {
    if !can() {
        return;
    }
    let mut world = World::new(4);
    let wanted = service(|s| s.affinity_s = Some(60));
    world.set("web", &plan(&wanted, &[1, 2, 3]));
    let first = ask(&world.pods[3], "10.96.0.7:80").unwrap().0;
    assert_eq!(spread(&world.pods[3], "10.96.0.7:80", 20), [(first, 20)].into());
    let rest: Vec<u8> = [1, 2, 3].into_iter().filter(|n| *n != first).collect();
    world.set("web", &plan(&wanted, &rest));
    let second = ask(&world.pods[3], "10.96.0.7:80").unwrap().0;
    assert!(rest.contains(&second));
    assert_eq!(spread(&world.pods[3], "10.96.0.7:80", 10), [(second, 10)].into());
}

#[test]
fn packets_leave_an_endpoint_that_is_gone() {
    if !can() {
        return;
    }
    let mut world = World::new(3);
    let wanted = service(|s| s.ports[0].protocol = L4::Udp);
    world.set("dns", &plan(&wanted, &[1]));
    let socket = world.pods[2].run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let ask = |expected: &str| {
        let mut buf = [0; 64];
        socket.send_to(b"?", "10.96.0.7:80").unwrap();
        let (len, from) = socket.recv_from(&mut buf).unwrap();
        assert_eq!(from.to_string(), "10.96.0.7:80");
        assert_eq!(std::str::from_utf8(&buf[..len]).unwrap(), expected);
    };
    ask("1 10.7.1.3");
    world.set("dns", &plan(&wanted, &[2]));
    // The same socket: without forgetting, it would go on to the first.
    ask("2 10.7.1.3");
}

#[test]
fn ipv6_works_alike() {
    if !can() {
        return;
    }
    let mut world = World::new(2);
    let wanted = service(|s| {
        s.cluster_ips = vec!["fd96::7".parse().unwrap()];
        s.affinity_s = Some(5);
    });
    let mut slice = endpoints(&[1], L4::Tcp);
    slice.v6 = true;
    slice.ports[0].port = Some(8081);
    slice.endpoints[0].address = Some("fd07::1:1".parse().unwrap());
    let place = Place { node: "n1".into(), zone: None };
    world.set("web", &desired(&wanted, &[&slice], &place));
    for _ in 0..3 {
        assert_eq!(ask(&world.pods[1], "[fd96::7]:80").unwrap(), (1, "fd07::1:2".into()));
    }
    assert_eq!(ask(&world.pods[0], "[fd96::7]:80").unwrap().1, "fd07::1", "itself");
}

#[test]
fn a_change_costs_the_same_among_many() {
    if !can() {
        return;
    }
    let mut world = World::new(1);
    let many: Vec<Change> = (0..2000u32)
        .flat_map(|n| {
            let wanted = service(|s| {
                s.cluster_ips = vec![std::net::Ipv4Addr::from(0x0a60_1000 + n).into()];
            });
            world.table.set(&("many".into(), n.to_string()), &plan(&wanted, &[1, 2, 3, 4, 5]))
        })
        .collect();
    world.services.replace(&many).unwrap();
    let mut worst = Duration::ZERO;
    for round in 0..20u8 {
        let pods: &[u8] = if round % 2 == 0 { &[1] } else { &[1, 2] };
        let changes = world.table.set(&("default".into(), "web".into()), &plan(&service(|_| ()), pods));
        let before = Instant::now();
        world.services.apply(&changes).unwrap();
        worst = worst.max(before.elapsed());
    }
    println!("slowest change among 2,000 services and 10,000 endpoints: {worst:?}");
    // What issue 5 asks for is 20 ms; this test runs beside others.
    assert!(worst < Duration::from_millis(200), "{worst:?}");
}
