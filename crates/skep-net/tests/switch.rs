//! Tenants' networks over three hosts, each host a namespace on one wire.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use common::{Mounts, Wire, arrives, can, talk};
use serde_json::json;
use skep_net::bandwidth::Shaper;
use skep_net::filter::{Filter, Purpose, filter_bridged};
use skep_net::nft::{Family, Nft, Table};
use skep_net::switch::{Forged, Switch, SwitchConfig};
use skep_net::{MacAddr, Namespace, Net};
use skep_netplan::bandwidth::{self, Limits, Memory, Policy, WIRE_MPU_BYTES};
use skep_netplan::fabric::{Place, Port, plan};
use skep_netplan::filter::group::{self, Group, Member};

/// A computer: its namespace, its address, and a switch for each tenant.
struct Host {
    ns: Namespace,
    ip: IpAddr,
    switches: Vec<Switch>,
}

struct Cloud {
    hosts: Vec<Host>,
    /// By tenant, then by host: one machine each.
    machines: Vec<Vec<Namespace>>,
    wire: Wire,
    mounts: Mounts,
    mtu: u32,
}

fn machine_ip(host: usize) -> IpAddr {
    IpAddr::from([10, 64, 0, 11 + host as u8])
}

fn machine_ip6(host: usize) -> IpAddr {
    format!("fd64::{}", 11 + host).parse().unwrap()
}

/// Equal in both tenants, as the addresses are.
fn machine_mac(host: usize) -> MacAddr {
    MacAddr([2, 0x53, 10, 64, 0, 11 + host as u8])
}

fn ports(hosts: usize) -> Vec<Port> {
    let of = |host: usize| Port {
        mac: machine_mac(host).0,
        addresses: vec![machine_ip(host), machine_ip6(host)],
        pairs: Vec::new(),
        machine: format!("m{host}"),
        is_machine: true,
    };
    (0..hosts).map(of).collect()
}

impl Cloud {
    fn new(hosts: usize, tenants: usize) -> Cloud {
        Cloud::with(hosts, tenants, 1500, 1450)
    }

    /// With the largest packets of the wire, and of the networks.
    fn with(hosts: usize, tenants: usize, wire: u32, mtu: u32) -> Cloud {
        let wire = Wire::new(wire, None);
        let mounts = Mounts::new();
        let machines = (0..tenants).map(|_| Vec::new()).collect();
        let mut cloud = Cloud { hosts: Vec::new(), machines, wire, mounts, mtu };
        for n in 0..hosts {
            let (ns, ip) = cloud.wire.host(n);
            let mut host = Host { ns, ip, switches: Vec::new() };
            for tenant in 0..tenants {
                let mut switch = cloud.switch(&host.ns, ip, n, tenant);
                let machine = Namespace::new().unwrap();
                switch.attach("m", &machine, "eth0").unwrap();
                let mut inside = Net::open(&machine).unwrap();
                let nic = inside.expect_link("eth0").unwrap().index;
                inside.set_mac(nic, machine_mac(n)).unwrap();
                inside.add_address(nic, format!("{}/16", machine_ip(n)).parse().unwrap()).unwrap();
                inside.add_address(nic, format!("{}/64", machine_ip6(n)).parse().unwrap()).unwrap();
                host.switches.push(switch);
                cloud.machines[tenant].push(machine);
            }
            cloud.hosts.push(host);
        }
        cloud.program(hosts);
        cloud
    }

    fn path(&self, host: usize, tenant: usize) -> PathBuf {
        self.mounts.path(&format!("h{host}t{tenant}"))
    }

    fn switch(&self, ns: &Namespace, local: IpAddr, host: usize, tenant: usize) -> Switch {
        let config = SwitchConfig { vni: 5000 + tenant as u32, mtu: self.mtu, local, port: 4789 };
        Switch::set_up(ns, &self.path(host, tenant), &config).unwrap()
    }

    /// Says to every switch where everybody is.
    fn program(&mut self, count: usize) {
        let addresses: Vec<IpAddr> = self.hosts.iter().map(|h| h.ip).collect();
        for (n, host) in self.hosts.iter_mut().enumerate() {
            let places: BTreeMap<String, Place> = (0..count)
                .map(|m| {
                    let place = if m == n { Place::Here("m".into()) } else { Place::There(addresses[m]) };
                    (format!("m{m}"), place)
                })
                .collect();
            for switch in &mut host.switches {
                switch.set(&plan(&ports(count), &places)).unwrap();
            }
        }
    }

    fn dropped(&mut self, host: usize, tenant: usize) -> BTreeMap<String, u64> {
        let counters = self.hosts[host].switches[tenant].dropped().unwrap();
        counters.into_iter().map(|c| (c.name, c.packets)).collect()
    }
}

#[test]
fn three_hosts_two_tenants_same_addresses() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new(3, 2);
    // Interfaces had other Ethernet addresses before they were given theirs.
    let before: Vec<_> = (0..6).map(|n| cloud.dropped(n / 2, n % 2)).collect();
    for tenant in 0..2 {
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                let machines = &cloud.machines[tenant];
                for ip in [machine_ip as fn(usize) -> IpAddr, machine_ip6] {
                    let saw = talk(&machines[from], &machines[to], &ip(to).to_string()).unwrap();
                    assert_eq!(saw, ip(from), "tenant {tenant}, {from} to {to}");
                }
            }
        }
    }
    // What one tenant sends, the other's machine of the same address does not see.
    let target = machine_ip(1).to_string();
    let other = cloud.machines[1][1].run(|| UdpSocket::bind(format!("{target}:7000"))).unwrap().unwrap();
    other.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(arrives(&cloud.machines[0][0], &cloud.machines[0][1], &machine_ip(0).to_string(), &target));
    assert!(other.recv_from(&mut [0; 16]).is_err(), "a packet crossed over");
    let after: Vec<_> = (0..6).map(|n| cloud.dropped(n / 2, n % 2)).collect();
    assert_eq!(after, before, "nothing honest was dropped");
    // The host's own services and addresses are nowhere in the network.
    let error = talk(&cloud.machines[0][0], &cloud.hosts[0].ns, "192.0.2.1").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable);
}

#[test]
fn a_host_that_was_cut_off_comes_back_and_a_restarted_daemon_disturbs_nobody() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new(2, 1);
    let (from, to) = (machine_ip(0).to_string(), machine_ip(1).to_string());
    let reach = |cloud: &Cloud| arrives(&cloud.machines[0][0], &cloud.machines[0][1], &from, &to);
    assert!(reach(&cloud));
    let mut wire = Net::open(&cloud.wire.ns).unwrap();
    let end = wire.expect_link("h1").unwrap().index;
    wire.set_down(end).unwrap();
    assert!(!reach(&cloud));
    wire.set_up(end).unwrap();
    assert!(reach(&cloud));
    // The daemon of host 1 starts anew.
    let (ns, ip) = (cloud.hosts[1].ns.try_clone().unwrap(), cloud.hosts[1].ip);
    let switch = cloud.switch(&ns, ip, 1, 0);
    cloud.hosts[1].switches[0] = switch;
    cloud.program(2);
    assert!(reach(&cloud));
    // Nothing more to say: nothing is changed.
    let places =
        [("m0".to_owned(), Place::There(cloud.hosts[0].ip)), ("m1".to_owned(), Place::Here("m".into()))];
    let wanted = plan(&ports(2), &places.into());
    assert_eq!(cloud.hosts[1].switches[0].set(&wanted).unwrap(), 0);
}

#[test]
fn what_is_forged_is_dropped_and_counted() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new(2, 1);
    let (own, other, forged) = (machine_ip(0).to_string(), machine_ip(1).to_string(), "10.64.0.77");
    let mut inside = Net::open(&cloud.machines[0][0]).unwrap();
    let nic = inside.expect_link("eth0").unwrap().index;
    assert!(arrives(&cloud.machines[0][0], &cloud.machines[0][1], &own, &other));
    let begin = cloud.dropped(0, 0);

    // Another's IP address: the neighbour is known already, so that it is the packet itself that is dropped.
    inside.add_address(nic, format!("{forged}/16").parse().unwrap()).unwrap();
    assert!(!arrives(&cloud.machines[0][0], &cloud.machines[0][1], forged, &other));
    let dropped = cloud.dropped(0, 0);
    assert!(dropped["ip"] > begin["ip"] && dropped["mac"] == begin["mac"], "{dropped:?}");
    // And ARP that tells it.
    inside.delete_neighbour(nic, machine_ip(1)).unwrap();
    assert!(!arrives(&cloud.machines[0][0], &cloud.machines[0][1], forged, &other));
    let dropped = cloud.dropped(0, 0);
    assert!(dropped["arp"] > begin["arp"], "{dropped:?}");
    inside.delete_address(nic, format!("{forged}/16").parse().unwrap()).unwrap();
    assert!(arrives(&cloud.machines[0][0], &cloud.machines[0][1], &own, &other), "the own one goes on");

    // IPv6 alike.
    inside.add_address(nic, "fd64::77/64".parse().unwrap()).unwrap();
    let before = cloud.dropped(0, 0);
    assert!(!arrives(&cloud.machines[0][0], &cloud.machines[0][1], "fd64::77", &machine_ip6(1).to_string()));
    let after = cloud.dropped(0, 0);
    assert!(after["ip"] + after["arp"] > before["ip"] + before["arp"], "{after:?}");

    // Another's Ethernet address.
    inside.set_mac(nic, machine_mac(1)).unwrap();
    assert!(!arrives(&cloud.machines[0][0], &cloud.machines[0][1], &own, &other));
    assert!(cloud.dropped(0, 0)["mac"] > begin["mac"]);
    inside.set_mac(nic, machine_mac(0)).unwrap();
    assert!(arrives(&cloud.machines[0][0], &cloud.machines[0][1], &own, &other));

    // A DHCP server in a machine.
    let server = cloud.machines[0][0].run(|| UdpSocket::bind(format!("{own}:67"))).unwrap().unwrap();
    server.send_to(b"offer", format!("{other}:68")).unwrap();
    assert_eq!(cloud.dropped(0, 0)["dhcp"], 1);

    // All of it is counted for the machine's interface too, and nothing else is.
    let mut forged = cloud.hosts[0].switches[0].forged().unwrap();
    let all = cloud.dropped(0, 0);
    let by_reason = ["mac", "dhcp", "ra", "ip", "arp", "other"].map(|reason| all[reason]);
    assert_eq!(forged.keys().collect::<Vec<_>>(), ["m"]);
    assert_eq!(*forged.get_mut("m").unwrap().counts(), by_reason, "{all:?}");
    // An interface that goes takes its counters along, and comes back with none.
    let machine = cloud.machines[0][0].try_clone().unwrap();
    let switch = &mut cloud.hosts[0].switches[0];
    switch.detach("m").unwrap();
    assert!(switch.forged().unwrap().is_empty());
    assert!(switch.attach("m", &machine, "eth0").unwrap());
    assert_eq!(switch.forged().unwrap()["m"], Forged::default());
}

#[test]
fn security_groups_hold_outside_of_machines() {
    if !can() {
        return;
    }
    let cloud = Cloud::new(3, 1);
    let machines = &cloud.machines[0];
    let reach = |from: usize, to: usize| {
        let all = [machine_ip as fn(usize) -> IpAddr, machine_ip6];
        let heard =
            all.map(|ip| arrives(&machines[from], &machines[to], &ip(from).to_string(), &ip(to).to_string()));
        assert_eq!(heard[0], heard[1], "both families alike");
        heard[0]
    };
    // The second is in a group that the first may come to; it may itself go nowhere but to the third.
    let groups: BTreeMap<String, Group> = serde_json::from_value(json!({
        "door": {"spec": {"ingress": [{"protocol": "UDP", "ports": [{"first": 7000}], "groupNames": ["guests"]}],
                          "egress": [{"cidrs": ["10.64.0.13/32", "fd64::13/128"]}]}},
        "guests": {"spec": {"ingress": []}},
    }))
    .unwrap();
    let member = |n: usize, names: &[&str], here: bool| Member {
        addresses: vec![machine_ip(n), machine_ip6(n)],
        groups: names.iter().map(|g| (*g).into()).collect(),
        here,
    };
    let mut filters: Vec<Filter> = (0..3)
        .map(|n| Filter::open(cloud.hosts[n].switches[0].namespace(), Purpose::Groups).unwrap())
        .collect();
    let mut set = |guests: &[&str], doors: &[&str]| {
        for (n, filter) in filters.iter_mut().enumerate() {
            let members = [member(0, guests, n == 0), member(1, doors, n == 1)];
            let wanted = group::plan(&groups, &members);
            filter_bridged(cloud.hosts[n].switches[0].namespace(), !wanted.guarded.is_empty()).unwrap();
            filter.set(&wanted).unwrap();
        }
    };
    set(&["guests"], &["door"]);
    assert!(reach(0, 1), "from a port of the group");
    assert!(!reach(2, 1), "from elsewhere");
    assert!(reach(1, 2), "where it may go, and back");
    assert!(!reach(1, 0), "where it may not");
    assert!(!reach(2, 0), "nobody comes to a guest");
    assert!(reach(0, 2));
    // In the machine itself there are no filters that its root could take away.
    assert_eq!(Nft::open(&machines[1]).unwrap().tables(Family::Ip).unwrap(), [""; 0]);
    // One that leaves the group.
    set(&[], &["door"]);
    assert!(!reach(0, 1) && reach(2, 0));
    // And nothing to guard any more.
    set(&[], &[]);
    assert!(reach(0, 1) && reach(1, 0) && reach(2, 1));
}

/// A connection that echoes, and says whether it does.
struct Echo {
    client: TcpStream,
    server: TcpStream,
}

impl Echo {
    fn open(from: &Namespace, to: &Namespace, ip: IpAddr) -> Echo {
        let listener = to.run(|| TcpListener::bind((ip, 9000))).unwrap().unwrap();
        let client = from.run(|| TcpStream::connect((ip, 9000))).unwrap().unwrap();
        Echo { client, server: listener.accept().unwrap().0 }
    }

    /// Bytes that have not arrived come later: what is expected is that they come at all, or that none does for so long.
    fn holds(&mut self, patience: Duration) -> bool {
        for stream in [&self.client, &self.server] {
            stream.set_read_timeout(Some(patience)).unwrap();
        }
        let mut got = [0; 4];
        self.client.write_all(b"ping").unwrap();
        self.server.read_exact(&mut got).is_ok()
            && self.server.write_all(&got).is_ok()
            && self.client.read_exact(&mut got).is_ok()
    }
}

/// The namespaces of the first tenant's switches on two hosts.
fn spaces(cloud: &Cloud) -> [Namespace; 2] {
    [0, 1].map(|n| cloud.hosts[n].switches[0].namespace().try_clone().unwrap())
}

/// Packets that went past the bridge of a switch.
fn went_past(switch: &Namespace) -> u64 {
    let table = Table { family: Family::Netdev, name: "skep-fast" };
    Nft::open(switch).unwrap().counters(table).unwrap().iter().map(|c| c.packets).sum()
}

#[test]
fn connections_under_way_go_past_the_bridge_as_long_as_they_may() {
    const PATIENCE: Duration = Duration::from_secs(60);
    const NEVER: Duration = Duration::from_secs(2);
    if !can() {
        return;
    }
    let mut cloud = Cloud::new(2, 1);
    let spaces = spaces(&cloud);
    let mut shapers = spaces.each_ref().map(|ns| Shaper::set_up(ns).unwrap().0);
    let mut memory = Memory::default();
    let mut shape = |shapers: &mut [Shaper; 2], packets_per_s: Option<u64>| {
        for (n, shaper) in shapers.iter_mut().enumerate() {
            let port = bandwidth::Port {
                name: "p".into(),
                tenant: "t".into(),
                vni: 5000,
                interface: "m".into(),
                mac: machine_mac(n).0,
                addresses: vec![machine_ip(n)],
                created_ms: 0,
                policy: packets_per_s.map(|_| Policy {
                    sending: Limits { packets_per_s, ..Limits::default() },
                    receiving: Limits { packets_per_s, ..Limits::default() },
                    mpu_bytes: WIRE_MPU_BYTES,
                }),
            };
            shaper.set(&bandwidth::plan(&[port], None, &mut memory).networks[&5000]).unwrap();
        }
    };
    shape(&mut shapers, None);
    let mut echo = Echo::open(&cloud.machines[0][0], &cloud.machines[0][1], machine_ip(1));
    let rounds = |echo: &mut Echo| (0..20).for_each(|_| assert!(echo.holds(PATIENCE)));
    let past = || spaces.each_ref().map(went_past);

    // Nobody has said whether connections are looked at: all of them are.
    rounds(&mut echo);
    assert_eq!(past(), [0, 0]);
    spaces.iter().for_each(|ns| filter_bridged(ns, false).unwrap());
    rounds(&mut echo);
    let now = past();
    assert!(now.iter().all(|n| *n >= 38), "all but the first in each direction went past: {now:?}");
    // Each packet is counted once, for both who send and who receive.
    for shaper in &mut shapers {
        let traffic = shaper.traffic().unwrap();
        let one = traffic.values().next().unwrap();
        assert!(one.sent_packets >= 40 && one.received_packets >= 40, "{one:?}");
        assert!(one.sent_bytes > 40 * 56 && one.received_bytes > 40 * 56, "{one:?}");
    }
    let links = Net::open(&spaces[0]).unwrap().expect_link("m").unwrap().stats;
    let traffic = shapers[0].traffic().unwrap();
    let one = traffic.values().next().unwrap();
    assert!(
        one.sent_packets <= links.rx_packets && one.received_packets <= links.tx_packets,
        "{one:?} {links:?}"
    );

    // Who says anything else is looked at: an address that is somebody else's, for the same ports.
    let before = cloud.dropped(0, 0)["ip"];
    let forged = "10.64.0.77";
    let mut inside = Net::open(&cloud.machines[0][0]).unwrap();
    let nic = inside.expect_link("eth0").unwrap().index;
    inside.add_address(nic, format!("{forged}/16").parse().unwrap()).unwrap();
    assert!(!arrives(&cloud.machines[0][0], &cloud.machines[0][1], forged, &machine_ip(1).to_string()));
    assert!(cloud.dropped(0, 0)["ip"] > before);

    // Ports with a limit are looked at, each packet of them.
    shape(&mut shapers, Some(100_000));
    // What was counted of them stays.
    let before: u64 = past().iter().sum();
    rounds(&mut echo);
    assert_eq!(past().iter().sum::<u64>(), before);
    shape(&mut shapers, None);
    rounds(&mut echo);
    let before = past();
    rounds(&mut echo);
    assert!(past()[0] >= before[0] + 38);

    // A port that is not there any more says nothing, nor is it said anything, from that moment on.
    let all: BTreeMap<String, Place> =
        [("m0".into(), Place::Here("m".into())), ("m1".into(), Place::There(cloud.hosts[1].ip))].into();
    cloud.hosts[0].switches[0].set(&plan(&ports(2)[1..], &all)).unwrap();
    assert!(!echo.holds(NEVER), "its packets went on by the way that they had");
    cloud.hosts[0].switches[0].set(&plan(&ports(2), &all)).unwrap();
    let mut echo = Echo::open(&cloud.machines[0][0], &cloud.machines[0][1], machine_ip(1));
    rounds(&mut echo);

    // Security groups end it at once, and let it past the bridge where they allow it.
    let rule = |cidr: &str| -> BTreeMap<String, Group> {
        let rule = json!({"ingress": [{"cidrs": [cidr]}], "egress": [{}]});
        [("g".to_owned(), serde_json::from_value(json!({"spec": rule})).unwrap())].into()
    };
    let member = Member { addresses: vec![machine_ip(1)], groups: vec!["g".into()], here: true };
    let mut filter = Filter::open(&spaces[1], Purpose::Groups).unwrap();
    filter_bridged(&spaces[1], true).unwrap();
    filter.set(&group::plan(&rule("10.64.0.11/32"), std::slice::from_ref(&member))).unwrap();
    rounds(&mut echo);
    let before = went_past(&spaces[1]);
    rounds(&mut echo);
    assert!(went_past(&spaces[1]) >= before + 38, "it is established, and allowed");
    filter.set(&group::plan(&rule("10.99.0.0/16"), &[member])).unwrap();
    assert!(!echo.holds(NEVER), "the group says no, and flows went on");
    filter.set(&group::plan(&BTreeMap::new(), &[])).unwrap();
    filter_bridged(&spaces[1], false).unwrap();
    let mut echo = Echo::open(&cloud.machines[0][0], &cloud.machines[0][1], machine_ip(1));
    rounds(&mut echo);
}

#[test]
fn large_packets_pass_where_the_wire_takes_them_and_where_it_does_not() {
    const MANY: usize = 1 << 20;
    if !can() {
        return;
    }
    // A wire of jumbo frames, and networks whose packets are larger than the wire's.
    for (wire, mtu) in [(9216, 9146), (1500, 9146), (1500, 1450)] {
        let cloud = Cloud::with(2, 1, wire, mtu);
        let machines = &cloud.machines[0];
        spaces(&cloud).iter().for_each(|ns| filter_bridged(ns, false).unwrap());
        for ip in [machine_ip as fn(usize) -> IpAddr, machine_ip6] {
            let mut echo = Echo::open(&machines[0], &machines[1], ip(1));
            let mut client = echo.client.try_clone().unwrap();
            let sends = std::thread::spawn(move || client.write_all(&vec![7; MANY]));
            let mut got = vec![0; MANY];
            echo.server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            echo.server.read_exact(&mut got).unwrap_or_else(|e| panic!("{wire} {mtu} {}: {e}", ip(1)));
            sends.join().unwrap().unwrap();
            assert!(got.iter().all(|b| *b == 7));
            // And a packet that its sender does not cut; what is too large for the way the sender is told.
            let (from, to) = (SocketAddr::new(ip(0), 0), SocketAddr::new(ip(1), 7001));
            let server = machines[1].run(|| UdpSocket::bind(to)).unwrap().unwrap();
            server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let client = machines[0].run(|| UdpSocket::bind(from)).unwrap().unwrap();
            let heard = (0..50).any(|_| {
                // The first may be refused, until the sender knows.
                let _ = client.send_to(&[7; 8000], to);
                server.recv(&mut got).is_ok_and(|len| len == 8000)
            });
            assert!(heard, "{wire} {mtu} {to}");
        }
    }
}

#[test]
fn a_switch_leaves_nothing() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new(1, 1);
    let path = cloud.path(0, 0);
    assert!(path.exists());
    let mut switch = cloud.hosts[0].switches.remove(0);
    switch.detach("m").unwrap();
    switch.detach("m").unwrap();
    assert!(Net::open(&cloud.machines[0][0]).unwrap().link("eth0").unwrap().is_none());
    switch.remove().unwrap();
    assert!(!path.exists());
    let left: Vec<_> =
        Net::open(&cloud.hosts[0].ns).unwrap().links().unwrap().into_iter().map(|l| l.name).collect();
    assert_eq!(left, ["lo", "eth0"]);
}
