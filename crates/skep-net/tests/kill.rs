//! Who programs a host's networks and its machines dies after each single change that they ask the kernel for, and begins anew:
//! connections that there are go on, all of it is there in the end, and when it is removed nothing is left. Not in releases, which
//! nobody can kill so exactly.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Mounts, Wire, can};
use serde_json::json;
use skep_net::bandwidth::{Shaper, Uplink, release_host};
use skep_net::edge::{self, Edge};
use skep_net::egress::{ROUTER_IP, ROUTER_MAC, guard_host, unguard_host};
use skep_net::filter::{Filter, Purpose, filter_bridged};
use skep_net::machine::{MachineConfig, MachineNetwork, PodConfig};
use skep_net::netlink::{Result, dying};
use skep_net::nft::{Family, Nft, Table as NftTable};
use skep_net::route::Neighbour;
use skep_net::service::Services;
use skep_net::switch::{Switch, SwitchConfig};
use skep_net::{MacAddr, Namespace, Net};
use skep_netplan::bandwidth::{self, Limits, Memory, Policy, WIRE_MPU_BYTES};
use skep_netplan::fabric::{Place as Where, Port, plan};
use skep_netplan::filter::group::{self, Group, Member};
use skep_netplan::filter::policy::{self, Labels, Pod};
use skep_netplan::public::{self, Holder, Public};
use skep_netplan::service::{
    Endpoint, EndpointPort, EndpointSlice, L4, Place, Service, ServicePort, ServiceType, Table, desired,
};

const VNI: u32 = 5000;
const VXLAN_PORT: u16 = 4789;
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
/// Two machines, each with two pods; the number 0 is the machine's own.
const MACHINES: [u8; 2] = [1, 2];
const PODS: [u8; 2] = [1, 2];
/// Removals at the same time: before each step at which one dies, everything is made.
const WORLDS: usize = 4;
/// Steps between those after which somebody lives to the end, and all that is in the kernel is compared.
const COMPARED: usize = 5;

fn mac(machine: u8, pod: u8) -> MacAddr {
    MacAddr([2, 0x53, 10, 64, machine, pod])
}

fn ip(machine: u8, pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, machine, 10 + pod)
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

/// What outlives programs: the host, the machines' namespaces, places of mounts.
struct World {
    host: Namespace,
    local: IpAddr,
    machines: Vec<Namespace>,
    wire: Wire,
    mounts: Mounts,
}

impl World {
    fn new() -> World {
        let (wire, mounts) = (Wire::new(1550, Some("192.0.2.254/24")), Mounts::new());
        let (host, local) = wire.host(0);
        let machines = MACHINES.map(|_| Namespace::new().unwrap()).into();
        World { host, local, machines, wire, mounts }
    }

    fn switch(&self) -> PathBuf {
        self.mounts.path("switch")
    }

    fn pod_path(&self, machine: u8, pod: u8) -> PathBuf {
        self.mounts.path(&format!("pod-{machine}-{pod}"))
    }

    fn pod(&self, machine: u8, pod: u8) -> Namespace {
        Namespace::open(&self.pod_path(machine, pod)).unwrap()
    }

    fn pod_config(&self, machine: u8, pod: u8) -> PodConfig {
        PodConfig {
            id: format!("pod-{machine}-{pod}"),
            namespace: self.pod_path(machine, pod),
            mac: mac(machine, pod),
            addresses: nets(machine, pod),
            pairs: vec![],
            gateways: vec![ip(machine, 0).into(), ip6(machine, 0)],
            mtu: 1450,
        }
    }

    fn machine_config(machine: u8) -> MachineConfig {
        MachineConfig {
            bridge: "skep0".into(),
            mac: mac(machine, 0),
            mtu: 1450,
            addresses: nets(machine, 0),
            uplink: Some("eth0".into()),
            gateways: vec![Neighbour { ip: ROUTER_IP.into(), mac: ROUTER_MAC }],
        }
    }

    /// All that daemons of hosts do, as one that knows nothing yet.
    fn host_begins(&self) -> Result<()> {
        let config = SwitchConfig { vni: VNI, mtu: 1450, local: self.local, port: VXLAN_PORT };
        let mut switch = Switch::set_up(&self.host, &self.switch(), &config)?;
        switch.lead_out(&self.host, &["10.64.0.0/16".parse().unwrap()])?;
        guard_host(&self.host, &[Ipv4Addr::new(192, 0, 2, 2)], VXLAN_PORT)?;
        let mut groups = Filter::open(switch.namespace(), Purpose::Groups)?;
        let (mut shaper, _) = Shaper::set_up(switch.namespace())?;
        let mut places = BTreeMap::from([("far".to_owned(), Where::There([192, 0, 2, 2].into()))]);
        for (m, namespace) in MACHINES.into_iter().zip(&self.machines) {
            switch.attach(&format!("m{m}"), namespace, "eth0")?;
            places.insert(m.to_string(), Where::Here(format!("m{m}")));
        }
        let mut ports = vec![Port {
            mac: [2, 0x53, 9, 9, 9, 9],
            addresses: vec![[10, 64, 9, 9].into()],
            pairs: vec![],
            machine: "far".into(),
            is_machine: true,
        }];
        for m in MACHINES {
            for pod in [0, PODS[0], PODS[1]] {
                let addresses = vec![ip(m, pod).into(), ip6(m, pod)];
                let (mac, machine) = (mac(m, pod).0, m.to_string());
                ports.push(Port { mac, addresses, pairs: vec![], machine, is_machine: pod == 0 });
            }
        }
        // The second machine's pods are only for the first's.
        let rule = json!({"ingress": [{"cidrs": ["10.64.0.0/16", "192.0.2.0/24"]}], "egress": [{}]});
        let all: BTreeMap<String, Group> =
            [("near".to_owned(), serde_json::from_value(json!({"spec": rule})).unwrap())].into();
        let members: Vec<Member> = PODS
            .map(|pod| Member { addresses: vec![ip(2, pod).into()], groups: vec!["near".into()], here: true })
            .into();
        filter_bridged(switch.namespace(), true)?;
        groups.set(&group::plan(&all, &members))?;
        let vip = Public {
            address: VIP.into(),
            machine: "1".into(),
            holder: Holder::Service { ports: vec![(L4::Tcp, 80)], sources: vec![] },
        };
        let mut fabric = plan(&ports, &places);
        let entrance = public::plan(&[vip], &ports, &places, &mut fabric);
        switch.set(&fabric)?;
        switch.let_in(&entrance)?;
        let mut edge = Edge::open(self.host.try_clone()?, self.local)?;
        edge.set(VNI, &entrance.addresses.keys().copied().collect())?;
        let limits = |guaranteed, maximum| Limits {
            guaranteed_bits_per_s: guaranteed,
            maximum_bits_per_s: maximum,
            packets_per_s: Some(100_000),
        };
        let gold = Policy {
            sending: limits(Some(10_000_000), Some(800_000_000)),
            receiving: limits(None, Some(800_000_000)),
            mpu_bytes: WIRE_MPU_BYTES,
        };
        let shaped: Vec<bandwidth::Port> = MACHINES
            .map(|m| bandwidth::Port {
                name: m.to_string(),
                tenant: "t".into(),
                vni: VNI,
                interface: format!("m{m}"),
                mac: mac(m, 1).0,
                addresses: vec![ip(m, 1).into()],
                created_ms: 0,
                policy: Some(gold),
            })
            .into();
        let mut memory = Memory::default();
        let bandwidth = bandwidth::plan(&shaped, Some(500_000_000), &mut memory);
        let mut uplink = Uplink::set_up(&self.host, self.local, VXLAN_PORT)?;
        uplink.set(bandwidth.uplink.as_ref().unwrap())?;
        shaper.set(&bandwidth.networks[&VNI])
    }

    /// All that agents of nodes do, as ones that know nothing yet.
    fn agents_begin(&self) -> Result<()> {
        let service = Service {
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec![CLUSTER_IP.into()],
            external_ips: vec![VIP.into()],
            ports: vec![ServicePort { protocol: L4::Tcp, port: 80, ..ServicePort::default() }],
            affinity_s: Some(600),
            ..Service::default()
        };
        let endpoint = Endpoint {
            address: Some(ip(2, 1).into()),
            ready: true,
            serving: true,
            node: Some("2".into()),
            ..Endpoint::default()
        };
        let slice = EndpointSlice {
            v6: false,
            ports: vec![EndpointPort { name: String::new(), protocol: L4::Tcp, port: Some(8080) }],
            endpoints: vec![endpoint],
        };
        let open: policy::Policy = serde_json::from_value(json!({"spec": {
            "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}}))
        .unwrap();
        for (m, namespace) in MACHINES.into_iter().zip(&self.machines) {
            let pods = PODS.map(|pod| self.pod_config(m, pod));
            let mut machine = MachineNetwork::set_up(namespace.try_clone()?, World::machine_config(m))?;
            machine.add_routes(&["10.96.0.0/16".parse().unwrap()])?;
            machine.guard_pods(&pods.each_ref().map(PodConfig::speaker), &[])?;
            machine.leave_untracked(SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 53))?;
            let place = Place { node: m.to_string(), zone: None };
            let wanted = desired(&service, &[&slice], &place);
            let changes = Table::default().set(&("default".into(), "web".into()), &wanted);
            Services::open(namespace)?.replace(&changes)?;
            let views = PODS.map(|pod| Pod {
                namespace: "default".into(),
                labels: Labels::default(),
                addresses: vec![ip(m, pod).into()],
                ports: vec![],
                here: true,
            });
            let policies = [("default".to_owned(), open.clone())];
            let plan = policy::plan(&policies, &BTreeMap::new(), &views);
            Filter::open(namespace, Purpose::Policies)?.set(&plan)?;
            for pod in &pods {
                machine.set_up_pod(pod)?;
            }
        }
        Ok(())
    }

    fn begin(&self) -> Result<()> {
        self.host_begins()?;
        self.agents_begin()
    }

    /// All that is done when machines go for good.
    fn end(&self) -> Result<()> {
        for (m, namespace) in MACHINES.into_iter().zip(&self.machines) {
            // An agent that begins finds what there is.
            let mut machine = MachineNetwork::set_up(namespace.try_clone()?, World::machine_config(m))?;
            for pod in PODS {
                machine.tear_down_pod(&format!("pod-{m}-{pod}"), &self.pod_path(m, pod))?;
            }
            Services::open(namespace)?.clear()?;
            Filter::open(namespace, Purpose::Policies)?.set(&Default::default())?;
            machine.tear_down()?;
        }
        Switch::remove_at(&self.switch())?;
        edge::sweep(&self.host)?;
        release_host(&self.host)?;
        unguard_host(&self.host)
    }

    /// What is in the kernel, without what counts and what it numbers itself.
    fn state(&self) -> Vec<String> {
        let switch = Namespace::open(&self.switch()).unwrap();
        let all = [&self.host, &switch].into_iter().chain(&self.machines);
        let mut found = Vec::new();
        for (n, namespace) in all.enumerate() {
            for words in [
                &["ip", "-br", "addr"][..],
                &["ip", "route"],
                &["ip", "-6", "route"],
                &["ip", "neigh", "show", "nud", "permanent"],
                &["ip", "neigh", "show", "proxy"],
                &["bridge", "fdb", "show"],
                &["tc", "class", "show", "dev", ["eth0", "q", "lo", "lo"][n]],
            ] {
                let said =
                    namespace.run(|| Command::new(words[0]).args(&words[1..]).output()).unwrap().unwrap();
                assert!(said.status.success(), "{words:?}: {said:?}");
                // Which groups an interface is in, the kernel says itself.
                const GROUP: &str = "33:33:";
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                let lines = said.lines().filter(|line| !line.starts_with(GROUP));
                found.extend(lines.map(|line| format!("{n} {line}")));
            }
            let mut nft = Nft::open(namespace).unwrap();
            for (family, name, sets) in SETS {
                let table = NftTable { family: *family, name };
                if !nft.tables(*family).unwrap().iter().any(|t| t == name) {
                    continue;
                }
                found.push(format!("{n} {family:?} {name}: {} rules", nft.count_rules(table).unwrap()));
                for set in *sets {
                    match nft.elements(table, set) {
                        Ok(all) => found.extend(all.iter().map(|e| format!("{n} {name} {set} {e:?}"))),
                        Err(error) => assert!(error.is_missing(), "{name} {set}: {error}"),
                    }
                }
            }
        }
        found.sort_unstable();
        found
    }
}

/// All that is filtered by. The numbers of interfaces in it do not change: none is made anew.
const SETS: &[(Family, &str, &[&str])] = &[
    (Family::Bridge, "skep-ports", &["macs", "allowed4", "allowed6"]),
    (Family::Bridge, "skep-pods", &["macs", "allowed4", "allowed6"]),
    (Family::Bridge, "skep-bandwidth", &["count-s4", "count-r4", "limit-s4", "class-s4", "class-r4"]),
    (Family::Netdev, "skep-bandwidth", &["queue-s4", "ports", "networks"]),
    (Family::Netdev, "skep-uplink", &[]),
    (
        Family::Netdev,
        "skep-fast",
        &["pods", "own4", "own6", "macs", "may-send", "may-receive", "sent", "received"],
    ),
    (Family::Bridge, "skep-fast", &[]),
    (Family::Ip, "skep-fast", &[]),
    (Family::Ip, "skep-bandwidth", &[]),
    (Family::Ip, "skep-names", &[]),
    (Family::Ip, "skep-public", &["received", "sent"]),
    (Family::Ip, "skep-egress", &["hosts", "carried", "public", "entry"]),
    (Family::Ip, "skep-groups", &["ingress", "egress", "self"]),
    (Family::Ip, "skep-policies", &["ingress", "egress", "self"]),
    (Family::Ip, "skep-services", &["frontends", "groups", "endpoints", "live", "hairpin"]),
];

/// A connection that echoes.
struct Held {
    what: &'static str,
    client: TcpStream,
    server: TcpStream,
}

impl Held {
    fn open(what: &'static str, from: &Namespace, to: SocketAddr, server: &Namespace, port: u16) -> Held {
        let at: SocketAddr = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let listener = server.run(|| TcpListener::bind(at)).unwrap().unwrap();
        let client = from
            .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(20)))
            .unwrap()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        Held { what, client, server }
    }

    fn holds(&mut self, when: &str) {
        let mut got = [0; 4];
        let what = self.what;
        self.client.write_all(b"ping").unwrap();
        self.server.read_exact(&mut got).unwrap_or_else(|e| panic!("{what} {when}: {e}"));
        self.server.write_all(&got).unwrap();
        self.client.read_exact(&mut got).unwrap_or_else(|e| panic!("{what} {when}: {e}"));
    }
}

fn open_all(world: &World) -> Vec<Held> {
    let (near, far, outside) = (world.pod(1, 1), world.pod(2, 1), &world.wire.ns);
    let neighbour = world.pod(1, 2);
    vec![
        Held::open("within a machine", &near, (ip(1, 2), 9000).into(), &neighbour, 9000),
        Held::open("between machines", &near, (ip(2, 1), 9001).into(), &far, 9001),
        Held::open("through a service", &near, (CLUSTER_IP, 80).into(), &far, 8080),
        Held::open("from outside", outside, (VIP, 80).into(), &far, 8080),
        Held::open("to outside", &near, "192.0.2.254:9002".parse().unwrap(), outside, 9002),
    ]
}

#[test]
fn who_dies_at_any_step_and_begins_anew_drops_no_connection() {
    if !can() {
        return;
    }
    let world = World::new();
    world.begin().unwrap();
    let mut held = open_all(&world);
    world.begin().unwrap();
    let whole = world.state();
    let mut steps = 0;
    loop {
        dying::after(Some(steps));
        let died = world.begin();
        dying::after(None);
        let when = match &died {
            Ok(()) => format!("after all {steps} steps"),
            Err(error) => format!("dead at step {steps}: {error}"),
        };
        held.iter_mut().for_each(|c| c.holds(&when));
        if steps % COMPARED != 0 && died.is_err() {
            // The next begins with what this one left, and dies a step later.
            steps += 1;
            continue;
        }
        world.begin().unwrap_or_else(|e| panic!("begun anew when {when}: {e}"));
        held.iter_mut().for_each(|c| c.holds(&format!("begun anew, {when}")));
        let now = world.state();
        let less: Vec<_> = whole.iter().filter(|w| !now.contains(w)).collect();
        let more: Vec<_> = now.iter().filter(|w| !whole.contains(w)).collect();
        assert!(now == whole, "{when}: {less:?} are not there, {more:?} are");
        if died.is_ok() {
            break;
        }
        steps += 1;
    }
    println!("{} connections outlived {steps} deaths", held.len());
    assert!(steps > 50, "{steps} steps are not all");
    drop(open_all(&world));
}

#[test]
fn who_dies_while_all_is_removed_leaves_nothing_in_the_end() {
    if !can() {
        return;
    }
    // Each dies at other steps, of a world of its own; most of the time is the kernel's waiting.
    let steps: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..WORLDS).map(|first| scope.spawn(move || removed(first))).collect();
        all.into_iter().map(|world| world.join().unwrap()).min().unwrap()
    });
    println!("nothing was left after {steps} deaths");
    assert!(steps > 15, "{steps} steps are not all");
}

/// Dies at the step `first` of a removal, at the one [`WORLDS`] further, and so on to the end; gives how many steps there are.
fn removed(first: usize) -> usize {
    let world = World::new();
    let mut steps = first;
    loop {
        world.begin().unwrap_or_else(|e| panic!("before step {steps}: {e}"));
        dying::after(Some(steps));
        let died = world.end();
        dying::after(None);
        // Machines that are half gone are found, and gone in the end.
        if let Err(error) = &died {
            // Where the switch is gone already, so is the machine's interface: its agent ends with it.
            if !world.machines.iter().all(|m| Net::open(m).unwrap().link("eth0").unwrap().is_some()) {
                Switch::remove_at(&world.switch()).unwrap();
                edge::sweep(&world.host).unwrap();
                release_host(&world.host).unwrap();
                unguard_host(&world.host).unwrap();
            } else {
                world.end().unwrap_or_else(|e| panic!("again, dead at step {steps} ({error}): {e}"));
            }
        }
        let mut left = Vec::new();
        for (n, namespace) in [&world.host].into_iter().chain(&world.machines).enumerate() {
            let links = Net::open(namespace).unwrap().links().unwrap();
            let mine = |name: &str| name == "lo" || (n == 0 && name == "eth0");
            left.extend(links.into_iter().map(|l| l.name).filter(|name| !mine(name)));
            for words in [&["nft", "list", "tables"][..], &["tc", "qdisc", "show", "dev", "eth0"]] {
                let said =
                    namespace.run(|| Command::new(words[0]).args(&words[1..]).output()).unwrap().unwrap();
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                left.extend(
                    said.lines()
                        .filter(|l| !l.contains("noqueue") && !l.contains("skep-names"))
                        .map(str::to_owned),
                );
            }
        }
        assert_eq!(left, Vec::<String>::new(), "after step {steps}: {died:?}");
        if died.is_ok() {
            return steps;
        }
        steps += WORLDS;
    }
}
