//! Bandwidth of ports over two hosts and two tenants, by what really arrives. Figures here have room for a busy computer; exact ones
//! are the benchmark's.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Mounts, Wire, can};
use skep_net::bandwidth::{Shaper, Uplink, release_host};
use skep_net::switch::{Switch, SwitchConfig};
use skep_net::{MacAddr, Namespace, Net};
use skep_netplan::bandwidth::{self, HOST, Limits, Memory, Plan, Policy, WIRE_MPU_BYTES};
use skep_netplan::fabric::{Place, Port, plan};

const MBIT: u64 = 1_000_000;
/// Of VXLAN, as the standard has it: each host has a namespace of its own.
const VXLAN_PORT: u16 = 4789;

/// A tenant, and a host and machine on either end.
type Way = (usize, (usize, usize), (usize, usize));

struct Host {
    ns: Namespace,
    ip: IpAddr,
    switches: Vec<(Switch, Shaper)>,
    uplink: Option<Uplink>,
    memory: Memory,
    plan: Plan,
}

/// Two hosts on a wire, two tenants with a machine on each and a second one on the first.
struct Cloud {
    hosts: Vec<Host>,
    machines: BTreeMap<(usize, usize, usize), Namespace>,
    wire: Wire,
    _mounts: Mounts,
}

fn interface(n: usize) -> String {
    format!("m{n}")
}

fn ip_of(host: usize, n: usize) -> IpAddr {
    IpAddr::from([10, 64, host as u8, 10 + n as u8])
}

fn mac_of(host: usize, n: usize) -> MacAddr {
    MacAddr([2, 0x53, 10, 64, host as u8, 10 + n as u8])
}

fn vni(tenant: usize) -> u32 {
    5000 + tenant as u32
}

const PLACES: [(usize, usize); 3] = [(0, 0), (0, 1), (1, 0)];

impl Cloud {
    fn new() -> Cloud {
        let (wire, mounts) = (Wire::new(1550, Some("192.0.2.254/24")), Mounts::new());
        let mut cloud = Cloud { hosts: Vec::new(), machines: BTreeMap::new(), wire, _mounts: mounts };
        for n in 0..2 {
            let (ns, ip) = cloud.wire.host(n);
            skep_net::egress::guard_host(&ns, &[], VXLAN_PORT).unwrap();
            let mut switches = Vec::new();
            for tenant in 0..2 {
                let path = cloud._mounts.path(&format!("h{n}t{tenant}"));
                let config = SwitchConfig { vni: vni(tenant), mtu: 1450, local: ip, port: VXLAN_PORT };
                let mut switch = Switch::set_up(&ns, &path, &config).unwrap();
                switch.lead_out(&ns, &["10.64.0.0/16".parse().unwrap()]).unwrap();
                for m in PLACES.iter().filter(|(host, _)| *host == n).map(|(_, m)| *m) {
                    let machine = Namespace::new().unwrap();
                    switch.attach(&interface(m), &machine, "eth0").unwrap();
                    let mut inside = Net::open(&machine).unwrap();
                    let nic = inside.expect_link("eth0").unwrap().index;
                    inside.set_mac(nic, mac_of(n, m)).unwrap();
                    inside.add_address(nic, format!("{}/16", ip_of(n, m)).parse().unwrap()).unwrap();
                    let router: IpAddr = skep_net::egress::ROUTER_IP.into();
                    let neighbour =
                        skep_net::route::Neighbour { ip: router, mac: skep_net::egress::ROUTER_MAC };
                    inside.set_neighbour(nic, neighbour).unwrap();
                    let out = skep_net::route::Route {
                        destination: "192.0.2.0/24".parse().unwrap(),
                        gateway: Some(router),
                        link: nic,
                        source: None,
                    };
                    inside.replace_route(&out).unwrap();
                    cloud.machines.insert((tenant, n, m), machine);
                }
                let (shaper, _) = Shaper::set_up(&Namespace::open(&path).unwrap()).unwrap();
                switches.push((switch, shaper));
            }
            let (memory, plan) = (Memory::default(), Plan::default());
            cloud.hosts.push(Host { ns, ip, switches, uplink: None, memory, plan });
        }
        let ports: Vec<Port> = PLACES
            .iter()
            .map(|(host, n)| Port {
                mac: mac_of(*host, *n).0,
                addresses: vec![ip_of(*host, *n)],
                pairs: Vec::new(),
                machine: format!("{host}-{n}"),
                is_machine: true,
            })
            .collect();
        let addresses: Vec<IpAddr> = cloud.hosts.iter().map(|h| h.ip).collect();
        for (here, host) in cloud.hosts.iter_mut().enumerate() {
            let place = |(there, n): &(usize, usize)| {
                let place =
                    if *there == here { Place::Here(interface(*n)) } else { Place::There(addresses[*there]) };
                (format!("{there}-{n}"), place)
            };
            let places = PLACES.iter().map(place).collect();
            for (switch, _) in &mut host.switches {
                switch.set(&plan(&ports, &places)).unwrap();
            }
        }
        cloud
    }

    fn path(&self, host: usize, tenant: usize) -> PathBuf {
        self._mounts.path(&format!("h{host}t{tenant}"))
    }

    /// Gives ports of a host their policies, by tenant and machine.
    fn set(&mut self, host: usize, uplink: Option<u64>, policies: &[(usize, usize, Policy)]) {
        let here = &mut self.hosts[host];
        let mut ports = Vec::new();
        for tenant in 0..2 {
            for n in PLACES.iter().filter(|(h, _)| *h == host).map(|(_, n)| *n) {
                let policy = policies.iter().find(|(t, m, _)| (*t, *m) == (tenant, n)).map(|(_, _, p)| *p);
                ports.push(bandwidth::Port {
                    name: format!("{tenant}/{n}"),
                    tenant: tenant.to_string(),
                    vni: vni(tenant),
                    interface: interface(n),
                    mac: mac_of(host, n).0,
                    addresses: vec![ip_of(host, n)],
                    created_ms: n as i64,
                    policy,
                });
            }
        }
        here.plan = bandwidth::plan(&ports, uplink, &mut here.memory);
        if let Some(wanted) = &here.plan.uplink {
            if here.uplink.is_none() {
                here.uplink = Some(Uplink::set_up(&here.ns, here.ip, VXLAN_PORT).unwrap());
            }
            here.uplink.as_mut().unwrap().set(wanted).unwrap();
        }
        for (tenant, (_, shaper)) in here.switches.iter_mut().enumerate() {
            shaper.set(&here.plan.networks[&vni(tenant)]).unwrap();
        }
    }

    fn number(&self, host: usize, tenant: usize, n: usize) -> u16 {
        self.hosts[host].plan.numbers[&format!("{tenant}/{n}")]
    }

    /// TCP as fast as it goes on several ways at the same time; what arrived of each, in bits a second.
    fn flood(&self, ways: &[Way], time: Duration) -> Vec<f64> {
        const BEFORE: Duration = Duration::from_millis(500);
        let running: Vec<_> = ways
            .iter()
            .enumerate()
            .map(|(i, (tenant, from, to))| {
                let address = SocketAddr::new(ip_of(to.0, to.1), 7000 + i as u16);
                let (client, server) =
                    (&self.machines[&(*tenant, from.0, from.1)], &self.machines[&(*tenant, to.0, to.1)]);
                let listener = server.run(|| TcpListener::bind(address)).unwrap().unwrap();
                let mut client = client.run(|| TcpStream::connect(address)).unwrap().unwrap();
                let (mut server, _) = listener.accept().unwrap();
                let begin = Instant::now();
                std::thread::spawn(move || {
                    let data = vec![0; 64 * 1024];
                    while begin.elapsed() < BEFORE + time + Duration::from_millis(200) {
                        if client.write_all(&data).is_err() {
                            break;
                        }
                    }
                });
                std::thread::spawn(move || {
                    let mut buf = vec![0; 256 * 1024];
                    while begin.elapsed() < BEFORE {
                        assert!(server.read(&mut buf).unwrap() > 0, "nothing arrives");
                    }
                    let (from, mut bytes) = (Instant::now(), 0);
                    while from.elapsed() < time {
                        bytes += server.read(&mut buf).unwrap();
                    }
                    bytes as f64 * 8.0 / from.elapsed().as_secs_f64()
                })
            })
            .collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    }

    /// Small packets for some time; how many arrive in a second.
    fn small(&self, tenant: usize, from: (usize, usize), to: (usize, usize), time: Duration) -> f64 {
        let address = SocketAddr::new(ip_of(to.0, to.1), 6000);
        let client =
            self.machines[&(tenant, from.0, from.1)].run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        let server = self.machines[&(tenant, to.0, to.1)].run(|| UdpSocket::bind(address)).unwrap().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        client.connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        let begin = Instant::now();
        let sender = std::thread::spawn(move || {
            while begin.elapsed() < time {
                for _ in 0..20 {
                    // A full queue is what is wanted.
                    let _ = client.send(&[0; 22]);
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let (mut buf, mut count) = ([0; 64], 0_u32);
        while begin.elapsed() < time {
            count += u32::from(server.recv(&mut buf).is_ok());
        }
        sender.join().unwrap();
        f64::from(count) / begin.elapsed().as_secs_f64()
    }
}

fn sending(limits: Limits) -> Policy {
    Policy { sending: limits, receiving: Limits::default(), mpu_bytes: WIRE_MPU_BYTES }
}

fn guaranteed(mbit: u64) -> Limits {
    Limits { guaranteed_bits_per_s: Some(mbit * MBIT), ..Limits::default() }
}

fn at_most(mbit: u64) -> Limits {
    Limits { maximum_bits_per_s: Some(mbit * MBIT), ..Limits::default() }
}

const TIME: Duration = Duration::from_millis(1500);

#[test]
fn guarantees_hold_between_tenants_on_the_hosts_uplink() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new();
    cloud.set(0, Some(50 * MBIT), &[(0, 0, sending(guaranteed(30))), (1, 0, sending(guaranteed(10)))]);
    let ways = [(0, (0, 0), (1, 0)), (1, (0, 0), (1, 0)), (1, (0, 1), (1, 0))];
    let all = cloud.flood(&ways, TIME);
    println!("contention: {all:?}");
    // Payload is about nine tenths of what is on the wire.
    assert!(all[0] > 0.8 * 30e6 && all[1] > 0.8 * 10e6, "guaranteed 30 and 10 Mbit/s: {all:?}");
    assert!(all.iter().sum::<f64>() < 1.05 * 50e6, "the line has 50 Mbit/s: {all:?}");
    let alone = cloud.flood(&ways[2..], TIME);
    assert!(alone[0] > 0.7 * 50e6, "what is idle is lent: {alone:?}");
    // Out through the host the same class is used.
    let link = |cloud: &Cloud| Net::open(&cloud.hosts[0].ns).unwrap().expect_link("eth0").unwrap().index;
    let sent = |cloud: &Cloud, class: u16| {
        let classes = Net::open(&cloud.hosts[0].ns).unwrap().classes(link(cloud)).unwrap();
        classes.iter().find(|c| c.class == class).map_or(0, |c| c.packets)
    };
    let number = cloud.number(0, 0, 0);
    let before = sent(&cloud, number);
    let outside = cloud.wire.ns.run(|| UdpSocket::bind("192.0.2.254:9")).unwrap().unwrap();
    outside.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let client = cloud.machines[&(0, 0, 0)].run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for _ in 0..50 {
        client.send_to(&[1; 100], "192.0.2.254:9").unwrap();
    }
    let (_, peer) = outside.recv_from(&mut [0; 200]).unwrap();
    assert_eq!(peer.ip(), cloud.hosts[0].ip);
    assert!(sent(&cloud, number) >= before + 50, "{before} {}", sent(&cloud, number));
    // What is taken away is lent again, at once, and a class that is not needed goes.
    cloud.set(0, Some(50 * MBIT), &[(1, 0, sending(guaranteed(10)))]);
    let equal = cloud.flood(&ways[..2], TIME);
    assert!(equal[1] > 0.8 * 10e6 && equal[0] < 1.05 * 40e6, "{equal:?}");
    let uplink = cloud.hosts[0].uplink.as_mut().unwrap();
    uplink.clean().unwrap();
    assert_eq!(sent(&cloud, number), 0);
    // Nothing is left on the host when its networks are gone.
    let ns = cloud.hosts[0].ns.try_clone().unwrap();
    release_host(&ns).unwrap();
    assert!(Net::open(&ns).unwrap().link("skq").unwrap().is_some(), "its networks are still there");
    for tenant in 0..2 {
        Switch::remove_at(&cloud.path(0, tenant)).unwrap();
    }
    release_host(&ns).unwrap();
    release_host(&ns).unwrap();
    let mut net = Net::open(&ns).unwrap();
    assert!(net.link("skq").unwrap().is_none());
    let eth0 = net.expect_link("eth0").unwrap().index;
    assert_eq!(net.classes(eth0).unwrap(), []);
}

#[test]
fn what_arrives_is_shared_too_and_a_new_process_takes_over() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new();
    let receiving =
        |limits| Policy { sending: Limits::default(), receiving: limits, mpu_bytes: WIRE_MPU_BYTES };
    let policies = [(0, 0, receiving(guaranteed(30))), (1, 0, receiving(guaranteed(10)))];
    cloud.set(1, Some(50 * MBIT), &policies);
    let ways = [(0, (0, 0), (1, 0)), (1, (0, 0), (1, 0))];
    let all = cloud.flood(&ways, TIME);
    println!("arriving: {all:?}");
    assert!(all[0] > 0.75 * 30e6 && all[1] > 0.75 * 10e6, "{all:?}");
    assert!(all.iter().sum::<f64>() < 1.05 * 50e6, "{all:?}");
    // A daemon that begins anew finds the classes of the last one, and replaces them while packets go on.
    let (ns, ip) = (cloud.hosts[1].ns.try_clone().unwrap(), cloud.hosts[1].ip);
    let left = Uplink::left(&ns, ip).unwrap();
    let uplink = Uplink::set_up(&ns, ip, VXLAN_PORT).unwrap();
    assert!(left.contains(&cloud.number(1, 0, 0)), "{left:?}");
    let old = cloud.number(1, 0, 0);
    let mut memory = Memory::default();
    memory.avoid(left);
    cloud.hosts[1].memory = memory;
    cloud.hosts[1].uplink = Some(uplink);
    for tenant in 0..2 {
        let (shaper, _) = Shaper::set_up(&Namespace::open(&cloud.path(1, tenant)).unwrap()).unwrap();
        cloud.hosts[1].switches[tenant].1 = shaper;
    }
    cloud.set(1, Some(50 * MBIT), &policies);
    assert_ne!(cloud.number(1, 0, 0), old);
    let again = cloud.flood(&ways, TIME);
    assert!(again[0] > 0.75 * 30e6 && again.iter().sum::<f64>() < 1.05 * 50e6, "{again:?}");
    cloud.hosts[1].uplink.as_mut().unwrap().clean().unwrap();
    let mut net = Net::open(&ns).unwrap();
    let (eth0, skq) = (net.expect_link("eth0").unwrap().index, net.expect_link("skq").unwrap().index);
    for link in [eth0, skq] {
        let classes = net.classes(link).unwrap();
        assert!(!classes.iter().any(|c| c.class == old), "{classes:?}");
        assert!(classes.iter().any(|c| c.class == HOST), "{classes:?}");
    }
}

#[test]
fn a_maximum_holds_on_one_host_too_and_changes_under_way() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new();
    let both = |mbit| Policy { sending: at_most(mbit), receiving: at_most(mbit), mpu_bytes: WIRE_MPU_BYTES };
    cloud.set(0, None, &[(0, 0, both(20))]);
    assert!(cloud.hosts[0].uplink.is_none(), "nothing is guaranteed");
    for way in [((0, 0), (0, 1)), ((0, 1), (0, 0)), ((0, 0), (1, 0)), ((1, 0), (0, 0))] {
        let rate = cloud.flood(&[(0, way.0, way.1)], TIME)[0];
        println!("{way:?}: {rate}");
        assert!(rate > 0.7 * 20e6 && rate < 1.2 * 20e6, "{way:?}: {rate}");
    }
    // Others have no limit.
    assert!(cloud.flood(&[(1, (0, 0), (0, 1))], TIME)[0] > 40e6);
    // While a connection goes on, its limit changes, and goes, and comes again: it is never broken.
    let address = SocketAddr::new(ip_of(0, 1), 7100);
    let listener = cloud.machines[&(0, 0, 1)].run(|| TcpListener::bind(address)).unwrap().unwrap();
    let mut client = cloud.machines[&(0, 0, 0)].run(|| TcpStream::connect(address)).unwrap().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut buf, mut all) = (vec![0; 256 * 1024], 0_u64);
        while let Ok(n @ 1..) = server.read(&mut buf) {
            all += n as u64;
        }
        all
    });
    let mut written = 0_u64;
    for step in 0..12 {
        match step % 3 {
            0 => cloud.set(0, None, &[(0, 0, both(10 + step))]),
            1 => cloud.set(0, None, &[]),
            _ => cloud.set(0, None, &[(0, 0, sending(at_most(50))), (1, 0, both(5))]),
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(150) {
            client.write_all(&[7; 16 * 1024]).unwrap();
            written += 16 * 1024;
        }
        let traffic = cloud.hosts[0].switches[0].1.traffic().unwrap();
        assert!(traffic[&cloud.number(0, 0, 0)].sent_bytes > 0);
    }
    drop(client);
    assert_eq!(reader.join().unwrap(), written);
}

#[test]
fn packets_are_counted_and_limited_and_small_ones_count_as_the_least_unit() {
    if !can() {
        return;
    }
    let mut cloud = Cloud::new();
    let packets = |per_s| Limits { packets_per_s: Some(per_s), ..Limits::default() };
    let unlimited = cloud.small(0, (0, 0), (0, 1), Duration::from_secs(1));
    cloud.set(0, None, &[(0, 0, sending(packets(1000)))]);
    let limited = cloud.small(0, (0, 0), (0, 1), Duration::from_secs(2));
    println!("{unlimited} packets a second, limited to {limited}");
    // Half a burst more than in a second.
    assert!((800.0..1080.0).contains(&limited), "{limited}");
    let number = cloud.number(0, 0, 0);
    let traffic = cloud.hosts[0].switches[0].1.traffic().unwrap()[&number];
    assert!(traffic.sent_over_limit > 1000, "{traffic:?}");
    // Another rate, at once; what was counted stays.
    cloud.set(0, None, &[(0, 0, sending(packets(2000)))]);
    let more = cloud.small(0, (0, 0), (0, 1), Duration::from_secs(2));
    assert!((1500.0..2150.0).contains(&more), "{more}");
    let later = cloud.hosts[0].switches[0].1.traffic().unwrap()[&number];
    assert!(later.sent_over_limit >= traffic.sent_over_limit && later.sent_packets > traffic.sent_packets);
    // The other direction, of the other port.
    let receiving =
        Policy { sending: Limits::default(), receiving: packets(1000), mpu_bytes: WIRE_MPU_BYTES };
    cloud.set(0, None, &[(0, 1, receiving)]);
    let received = cloud.small(0, (0, 0), (0, 1), Duration::from_secs(2));
    assert!((800.0..1080.0).contains(&received), "{received}");
    // 8 Mbit/s are a million bytes, of which a small packet takes a thousand and what the wire adds.
    let unit = Policy { sending: at_most(8), receiving: Limits::default(), mpu_bytes: 1000 };
    cloud.set(0, None, &[(0, 0, unit)]);
    let small = cloud.small(0, (0, 0), (0, 1), Duration::from_secs(2));
    println!("{small} small packets a second");
    assert!((750.0..1080.0).contains(&small), "{small}");
}
