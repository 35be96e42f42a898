//! Tenants' networks over three hosts, each host a namespace on one wire.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use common::{Mounts, can, talk};
use skep_net::link::{Bridge, Peer};
use skep_net::switch::{Switch, SwitchConfig};
use skep_net::{MacAddr, Namespace, Net};
use skep_netplan::fabric::{Place, Port, plan};

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
    wire: Namespace,
    mounts: Mounts,
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
        let wire = Namespace::new().unwrap();
        let mut on_wire = Net::open(&wire).unwrap();
        on_wire.add_bridge("wire", MacAddr([2, 0, 0, 0, 9, 9]), 1500, Bridge::default()).unwrap();
        let bridge = on_wire.expect_link("wire").unwrap().index;
        on_wire.set_up(bridge).unwrap();
        let mounts = Mounts::new();
        let mut cloud =
            Cloud { hosts: Vec::new(), machines: (0..tenants).map(|_| Vec::new()).collect(), wire, mounts };
        for n in 0..hosts {
            let ns = Namespace::new().unwrap();
            let ip = IpAddr::from([192, 0, 2, 1 + n as u8]);
            let peer = Peer { name: "eth0", mac: None, namespace: Some(&ns) };
            on_wire.add_veth(&format!("h{n}"), None, 1500, &peer).unwrap();
            let end = on_wire.expect_link(&format!("h{n}")).unwrap().index;
            on_wire.set_master(end, bridge).unwrap();
            on_wire.set_up(end).unwrap();
            let mut net = Net::open(&ns).unwrap();
            let eth0 = net.expect_link("eth0").unwrap().index;
            net.add_address(eth0, format!("{ip}/24").parse().unwrap()).unwrap();
            net.set_up(eth0).unwrap();
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
        let config = SwitchConfig { vni: 5000 + tenant as u32, mtu: 1450, local, port: 4789 };
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

/// A packet there; whether it arrives.
fn arrives(from: &Namespace, to: &Namespace, source: &str, target: &str) -> bool {
    let server = to.run(|| UdpSocket::bind((target.parse::<IpAddr>().unwrap(), 7000))).unwrap().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let client = from.run(|| UdpSocket::bind((source.parse::<IpAddr>().unwrap(), 0))).unwrap().unwrap();
    let target = SocketAddr::new(target.parse().unwrap(), 7000);
    let mut buf = [0; 16];
    (0..2).any(|_| client.send_to(b"x", target).is_ok() && server.recv_from(&mut buf).is_ok())
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
    let mut wire = Net::open(&cloud.wire).unwrap();
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
