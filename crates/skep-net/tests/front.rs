//! What comes to a machine from outside of it, and goes on to another machine.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Mounts, Wire, can};
use skep_net::egress::{ROUTER_IP, ROUTER_MAC};
use skep_net::machine::{MachineConfig, MachineNetwork, PodConfig};
use skep_net::route::Neighbour;
use skep_net::service::Services;
use skep_net::switch::{Switch, SwitchConfig};
use skep_net::{MacAddr, Namespace, nft};
use skep_netplan::fabric::{Place as Where, Port, plan};
use skep_netplan::public::{self, Holder, Public};
use skep_netplan::service::{
    Endpoint, EndpointPort, EndpointSlice, L4, Place, Service, ServicePort, ServiceType, Table, desired,
};

const MACHINES: u8 = 3;
const VIP: &str = "192.0.2.100";

/// Machines of one tenant on one host, each with a pod; the number 0 is the machine's own.
struct World {
    switch: Switch,
    machines: Vec<MachineNetwork>,
    pods: Vec<Namespace>,
    services: Vec<(Services, Table)>,
    stop: Arc<AtomicBool>,
    _wire: Wire,
    _mounts: Mounts,
}

fn mac(machine: u8, pod: u8) -> MacAddr {
    MacAddr([2, 0x53, 10, 64, machine, pod])
}

fn ip(machine: u8, pod: u8) -> IpAddr {
    IpAddr::from([10, 64, machine, 10 + pod])
}

fn ip6(machine: u8, pod: u8) -> IpAddr {
    format!("fd64::{machine}:{}", 10 + pod).parse().unwrap()
}

fn nets(machine: u8, pod: u8) -> Vec<ipnet::IpNet> {
    vec![
        format!("{}/16", ip(machine, pod)).parse().unwrap(),
        format!("{}/64", ip6(machine, pod)).parse().unwrap(),
    ]
}

impl World {
    fn new() -> World {
        let (wire, mounts) = (Wire::new(1500, None), Mounts::new());
        let (host, local) = wire.host(0);
        let config = SwitchConfig { vni: 5000, mtu: 1450, local, port: 4789 };
        let mut switch = Switch::set_up(&host, &mounts.path("switch"), &config).unwrap();
        switch.lead_out(&host, &["10.64.0.0/16".parse().unwrap()]).unwrap();
        let (mut machines, mut pods, mut services, mut ports) = (vec![], vec![], vec![], vec![]);
        let mut places = BTreeMap::new();
        let stop = Arc::new(AtomicBool::new(false));
        for m in 1..=MACHINES {
            let (inside, interface) = (Namespace::new().unwrap(), format!("m{m}"));
            switch.attach(&interface, &inside, "eth0").unwrap();
            places.insert(m.to_string(), Where::Here(interface));
            let mut kernel = Services::open(&inside).unwrap();
            kernel.replace(&[]).unwrap();
            services.push((kernel, Table::default()));
            let config = MachineConfig {
                bridge: "skep0".into(),
                mac: mac(m, 0),
                mtu: 1450,
                addresses: nets(m, 0),
                uplink: Some("eth0".into()),
                gateways: vec![Neighbour { ip: ROUTER_IP.into(), mac: ROUTER_MAC }],
            };
            let mut machine = MachineNetwork::set_up(inside, config).unwrap();
            // Each speaks as itself only, as wherever an agent runs.
            machine.guard_pods(&[], &[]).unwrap();
            let pod = PodConfig {
                id: format!("pod-{m}"),
                namespace: mounts.path(&format!("pod-{m}")),
                mac: mac(m, 1),
                addresses: nets(m, 1),
                pairs: vec![],
                gateways: vec![ip(m, 0), ip6(m, 0)],
                mtu: 1450,
            };
            machine.set_up_pod(&pod).unwrap();
            pods.push(Namespace::open(&pod.namespace).unwrap());
            serve(pods.last().unwrap(), m, &stop);
            for pod in 0..=1 {
                let addresses = vec![ip(m, pod), ip6(m, pod)];
                let (mac, machine) = (mac(m, pod).0, m.to_string());
                ports.push(Port { mac, addresses, pairs: vec![], machine, is_machine: pod == 0 });
            }
            machines.push(machine);
        }
        let ports_open = vec![(L4::Tcp, 80)];
        let vip = Public {
            address: VIP.parse().unwrap(),
            machine: "1".into(),
            holder: Holder::Service { ports: ports_open, sources: vec![] },
        };
        let mut fabric = plan(&ports, &places);
        let entrance = public::plan(&[vip], &ports, &places, &mut fabric);
        switch.set(&fabric).unwrap();
        switch.let_in(&entrance).unwrap();
        World { switch, machines, pods, services, stop, _wire: wire, _mounts: mounts }
    }

    /// A service whose endpoints are the pods of some machines, as each machine's agent programs it.
    fn serve(&mut self, local: bool, machines: &[u8]) {
        let service = Service {
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec!["10.96.0.7".parse().unwrap(), "fd96::7".parse().unwrap()],
            external_ips: vec![VIP.parse().unwrap()],
            ports: vec![ServicePort {
                protocol: L4::Tcp,
                port: 80,
                node_port: Some(30080),
                ..ServicePort::default()
            }],
            external_local: local,
            ..Service::default()
        };
        let slice = |v6: bool| EndpointSlice {
            v6,
            ports: vec![EndpointPort { name: String::new(), protocol: L4::Tcp, port: Some(8080) }],
            endpoints: machines
                .iter()
                .map(|m| Endpoint {
                    address: Some(if v6 { ip6(*m, 1) } else { ip(*m, 1) }),
                    ready: true,
                    serving: true,
                    node: Some(m.to_string()),
                    ..Endpoint::default()
                })
                .collect(),
        };
        for (i, (kernel, table)) in self.services.iter_mut().enumerate() {
            let place = Place { node: (i + 1).to_string(), zone: None };
            let wanted = desired(&service, &[&slice(false), &slice(true)], &place);
            kernel.apply(&table.set(&("default".into(), "web".into()), &wanted)).unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers each connection with `N ADDRESS`: who it is, and whom it sees.
fn serve(ns: &Namespace, n: u8, stop: &Arc<AtomicBool>) {
    let stop = stop.clone();
    let listener = ns.run(|| TcpListener::bind("[::]:8080")).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut s, from)) => drop(write!(s, "{n} {}", from.ip().to_canonical())),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}

fn ask(from: &Namespace, to: SocketAddr) -> std::io::Result<(u8, IpAddr)> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (n, ip) = text.split_once(' ').ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((n.parse().unwrap(), ip.parse().unwrap()))
}

#[test]
fn connections_from_outside_reach_endpoints_of_all_machines() {
    if !can() {
        return;
    }
    let mut world = World::new();
    world.serve(false, &[1, 2, 3]);
    let (outside, vip) =
        (world.switch.namespace().try_clone().unwrap(), SocketAddr::new(VIP.parse().unwrap(), 80));
    let mut seen = BTreeMap::new();
    for _ in 0..60 {
        let (n, who) = ask(&outside, vip).unwrap();
        assert_eq!(who, ip(1, 0), "the client is hidden behind the machine that it came to");
        *seen.entry(n).or_insert(0) += 1;
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [1, 2, 3], "{seen:?}");
    // Only on other machines.
    world.serve(false, &[3]);
    assert_eq!(ask(&outside, vip).unwrap(), (3, ip(1, 0)));
    // At a machine's node port, from a pod of a second, to a pod of a third; in both families.
    for to in [ip(1, 0), ip6(1, 0)] {
        let (n, who) = ask(&world.pods[1], SocketAddr::new(to, 30080)).unwrap();
        assert_eq!(n, 3, "by {to}");
        assert!(who == ip(1, 0) || who == ip6(1, 0), "{who}");
    }
    // With the policy `Local` the client is seen, and nobody elsewhere is asked.
    world.serve(true, &[1, 3]);
    for _ in 0..10 {
        let (n, who) = ask(&outside, vip).unwrap();
        assert_eq!((n, who), (1, ROUTER_IP.into()));
    }
    // Pods go on to speak to each other, and to machines, in both families; nothing was taken for forged.
    for (to, port) in [(ip(1, 1), 8080), (ip6(1, 1), 8080), (ip(3, 1), 8080), (ip6(3, 1), 8080)] {
        let (_, who) = ask(&world.pods[1], SocketAddr::new(to, port)).unwrap();
        assert!(who == ip(2, 1) || who == ip6(2, 1), "{who}");
    }
    let dropped = world.switch.dropped().unwrap();
    assert!(dropped.iter().all(|c| c.packets == 0), "{dropped:?}");
    for machine in &world.machines {
        let table = nft::Table { family: nft::Family::Bridge, name: "skep-pods" };
        let dropped = nft::Nft::open(machine.namespace()).unwrap().counters(table).unwrap();
        assert!(dropped.iter().all(|c| c.packets == 0), "{dropped:?}");
    }
    let machine = world.machines.remove(0);
    let namespace = machine.namespace().try_clone().unwrap();
    machine.tear_down().unwrap();
    let left = skep_net::Net::open(&namespace).unwrap().links().unwrap();
    let left: Vec<_> = left.into_iter().filter(|l| l.name != "lo" && l.name != "eth0").collect();
    assert_eq!(left, []);
}
