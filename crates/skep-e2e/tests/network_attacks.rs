//! Tenants' networks while hosts come, go and lose their programs, and under attack by who is root in a machine. On several
//! computers, each a network namespace. Needs root; without it the tests say that they are skipped.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::Kubectl;
use skep_e2e::cloud::kill;
use skep_e2e::computers::{Cloud, IMAGE, eventually, inside, possible};
use skep_e2e::frames;
use skep_e2e::networks::{POD_VARIABLE, agents_in, machine_of, nft_counters, pod_namespace, switches_of};
use skep_e2e::traffic::{Connection, Traffic};
use skep_net::Namespace;
use skep_net::egress::{ROUTER_IP, ROUTER_MAC};

const PROGRAMS: [&str; 5] = ["nft", "ip", "tc", "busybox", "python3"];
const TENANTS: [&str; 2] = ["red", "blue"];
/// Equal in both tenants.
const SUBNET6: &str = "fd00:64::/64";

fn addresses(n: u8) -> [IpAddr; 2] {
    // The first of a subnet is its gateway's.
    let last = 0x10 + u16::from(n);
    [Ipv4Addr::new(10, 65, 0, n).into(), Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, last).into()]
}

/// What a pod's process is found by.
fn word(tenant: &str, name: &str) -> String {
    // Threads of tests have their names.
    let thread = std::thread::current();
    format!("{}-{}-{tenant}-{name}", std::process::id(), thread.name().unwrap_or_default())
}

/// A pod on a machine of its own.
fn pod(tenant: &str, n: u8) -> Value {
    let name = format!("p{n}");
    let addresses = addresses(n).map(|ip| ip.to_string()).join(",");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "name": name}, "annotations": {
            "network.skep.io/addresses": addresses, "network.skep.io/qos-policy": "plain"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}},
            "containers": [{
                "name": "c", "image": IMAGE, "env": [{"name": POD_VARIABLE, "value": word(tenant, &name)}],
                "command": ["sh", "-c", "echo $POD > /w/index.html; exec httpd -f -p 8080 -h /w"],
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            }],
        },
    })
}

/// A tenant with a subnet of each family, both equal in all of them, and a policy by which there are queues to be left behind.
fn tenant(cloud: &Cloud, name: &str) -> Kubectl {
    let kubectl = cloud.tenant(name);
    let net = "network.skep.io/v1";
    kubectl.apply(&[
        json!({"apiVersion": net, "kind": "Subnet", "metadata": {"name": "six"},
               "spec": {"networkName": "default", "cidr": SUBNET6}}),
        json!({"apiVersion": net, "kind": "QosPolicy", "metadata": {"name": "plain"},
               "spec": {"egress": {"maximum": "900M"}, "ingress": {"maximum": "900M"}}}),
    ]);
    kubectl
}

fn namespace(tenant: &str, n: u8) -> Namespace {
    pod_namespace(&word(tenant, &format!("p{n}")))
}

/// On which computer a pod's machine is.
fn host_of(cloud: &Cloud, tenant: &str, kubectl: &Kubectl, pod: &str) -> usize {
    cloud.host_with(&machine_of(cloud, tenant, kubectl, pod))
}

fn service(name: &str, pod: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
           "spec": {"selector": {"name": pod}, "ports": [{"port": 80, "targetPort": port}]}})
}

/// Everything that networks have made on a computer.
fn left_on(host: &Path) -> Vec<String> {
    let lines = |words: &[&str], of: fn(&str) -> bool| {
        let said = inside(host, words).1;
        said.lines().filter(|l| of(l)).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut left = lines(&["ip", "-o", "link"], |l| !l.contains(": lo:") && !l.contains(": eth0@"));
    left.extend(lines(&["nft", "list", "tables"], |l| !l.is_empty()));
    left.extend(lines(&["tc", "qdisc"], |l| {
        l.contains("htb") || l.contains("ingress") || l.contains("clsact")
    }));
    left
}

#[test]
fn equal_subnets_stay_apart_while_hosts_come_and_go_and_programs_die() {
    if !possible(&PROGRAMS) {
        return;
    }
    let mut cloud = Cloud::with_hosts(2);
    let tenants = TENANTS.map(|name| (name, tenant(&cloud, name)));
    let traffic = Traffic::start();
    let join = |numbers: &[u8]| {
        for (name, kubectl) in &tenants {
            kubectl.apply(&numbers.iter().map(|n| pod(name, *n)).collect::<Vec<_>>());
        }
        for (name, kubectl) in &tenants {
            for n in numbers {
                kubectl.ready(&[&format!("p{n}")]);
                traffic.add(name, &format!("p{n}"), &namespace(name, *n), &addresses(*n));
            }
        }
    };
    join(&[1, 2, 3]);
    traffic.everybody_hears("at first");
    // A host is added, and what comes then is reached as well.
    let added = cloud.add_host();
    join(&[4]);
    traffic.everybody_hears("with another host");
    let (_, red) = &tenants[0];
    let of_pods: BTreeMap<(String, String), usize> = tenants
        .iter()
        .flat_map(|(name, kubectl)| (1..=4).map(move |n| (*name, kubectl, format!("p{n}"))))
        .map(|(name, kubectl, pod)| ((name.to_owned(), pod.clone()), host_of(&cloud, name, kubectl, &pod)))
        .collect();
    eprintln!("pods are on {of_pods:?}; {added} was added");

    // A connection through a service, from one host to another, that must outlive everything that follows.
    red.apply(&[service("echo", "p1", 9100)]);
    Connection::serve(&namespace("red", 1), 9100);
    let ip = red.run(&["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"]);
    let target = SocketAddr::new(ip.parse().unwrap(), 80);
    let far =
        (2..=4).find(|n| of_pods[&("red".into(), format!("p{n}"))] != of_pods[&("red".into(), "p1".into())]);
    let mut connection = Connection::open(&namespace("red", far.unwrap_or(2)), target);
    connection.holds("at first");

    // A host is cut off: the others lose nothing, not one packet, and afterwards it is as before.
    let cut = 1;
    let period = traffic.begin();
    cloud.plug(cut, false);
    std::thread::sleep(Duration::from_secs(2));
    let on = |tenant: &str, pod: &str| of_pods[&(tenant.to_owned(), pod.to_owned())];
    let untouched = |p: &(String, String, String, u16)| on(&p.0, &p.1) != cut && on(&p.0, &p.2) != cut;
    if of_pods.values().filter(|h| **h != cut).count() > 4 {
        let lost = traffic.lost(period, untouched);
        assert!(lost.is_empty(), "lost between hosts that were never cut off: {lost:?}");
    }
    cloud.plug(cut, true);
    traffic.everybody_hears("after a host was cut off");
    connection.holds("after a host was cut off");

    // Daemons and agents die in the middle of programming.
    for round in 0..3 {
        let mut objects: Vec<Value> =
            (0..6).map(|n| service(&format!("s{round}-{n}"), &format!("p{}", 1 + n % 4), 8080)).collect();
        objects.push(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("n{round}")},
            "spec": {"podSelector": {"matchLabels": {"name": "p3"}}, "ingress": [{}]}}));
        let machines: Vec<PathBuf> =
            (1..=4).map(|n| machine_of(&cloud, "red", red, &format!("p{n}"))).collect();
        red.apply(&objects);
        for host in 0..cloud.hosts() {
            cloud.kill_host(host);
        }
        for machine in &machines {
            agents_in(machine).into_iter().for_each(kill);
        }
        // While nobody is there who programs.
        connection.holds("while daemons and agents are dead");
        red.run(&["delete", "service", &format!("s{round}-0")]);
        for host in 0..cloud.hosts() {
            cloud.start_host(host);
        }
        connection.holds("when daemons begin anew");
        traffic.everybody_hears("after daemons and agents were killed");
        connection.holds("after daemons and agents were killed");
    }
    // All of it is programmed in the end: in each machine, what came and not what went.
    for n in 1..=4 {
        let hears = |url: &str| {
            red.sh(&format!("p{n}"), &format!("timeout 3 wget -q -O /dev/null {url} && echo yes"))
        };
        for round in 0..3 {
            eventually(&format!("p{n} reaches what was made in round {round}"), || {
                hears(&format!("http://s{round}-5/"))
            });
            eventually("what was deleted has no name", || match hears(&format!("http://s{round}-0/")) {
                Ok(said) if said.contains("yes") => Err(said),
                _ => Ok(()),
            });
        }
    }
    traffic.everybody_hears("in the end");
    connection.holds("in the end");
    drop(traffic);

    let hosts: Vec<PathBuf> =
        (0..cloud.hosts()).map(|i| PathBuf::from(format!("/run/netns/{}", cloud.host_name(i)))).collect();
    assert!(hosts.iter().any(|h| !left_on(h).is_empty()), "there is something to be left behind");
    for name in TENANTS {
        cloud.skep(&["tenant", "delete", name]);
    }
    eventually("nothing is left of the tenants", || {
        let mut left = cloud.leftovers();
        left.extend(hosts.iter().flat_map(|h| left_on(h)));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
}

/// Somebody who listens for anything.
fn listener(namespace: &Namespace, at: &str) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

fn heard(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 2048];
    let (len, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

#[test]
fn who_is_root_in_a_machine_speaks_as_nobody_else() {
    const TIMES: usize = 3;
    const PORT: u16 = 7004;
    if !possible(&PROGRAMS) {
        return;
    }
    let cloud = Cloud::with_hosts(2);
    let tenants = TENANTS.map(|name| (name, tenant(&cloud, name)));
    for (name, kubectl) in &tenants {
        kubectl.apply(&[pod(name, 1), pod(name, 2)]);
    }
    for (_, kubectl) in &tenants {
        kubectl.ready(&["p1", "p2"]);
    }
    let (red, blue) = (&tenants[0].1, &tenants[1].1);
    let machine = machine_of(&cloud, "red", red, "p1");
    let host = cloud.host_with(&machine);
    let node = red.run(&["get", "pod", "p1", "-o", "jsonpath={.spec.nodeName}"]);
    let ports = red.object(&["ports", "-A"]);
    let ports = ports["items"].as_array().unwrap();
    let own =
        ports.iter().find(|p| p["spec"]["nodeInterface"] == true && p["spec"]["nodeName"] == node.as_str());
    let own = own.unwrap();
    let who = |port: &Value| -> (frames::Mac, Ipv4Addr, Ipv6Addr) {
        let ips: Vec<IpAddr> = port["spec"]["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a.as_str().unwrap().parse().unwrap())
            .collect();
        let v4 = ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let v6 = ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        (frames::mac(port["spec"]["mac"].as_str().unwrap()), v4.unwrap(), v6.unwrap())
    };
    let (me, me4, me6) = who(own);
    let (them, them4, them6) = who(&red.object(&["port", "p2"]));
    let stranger: frames::Mac = [2, 0x11, 0x22, 0x33, 0x44, 0x55];
    let (nobody4, nobody6) = (Ipv4Addr::new(10, 65, 0, 99), "fd00:64::99".parse::<Ipv6Addr>().unwrap());

    // Who could hear it: all other pods, of both tenants, and both hosts.
    let mut ears = Vec::new();
    for (name, n) in [("red", 2), ("blue", 1), ("blue", 2)] {
        for at in [format!("0.0.0.0:{PORT}"), format!("[::]:{}", PORT + 2)] {
            ears.push((format!("{name}/p{n} {at}"), listener(&namespace(name, n), &at)));
        }
    }
    let host_namespaces: Vec<PathBuf> =
        (0..2).map(|i| PathBuf::from(format!("/run/netns/{}", cloud.host_name(i)))).collect();
    for (n, path) in host_namespaces.iter().enumerate() {
        let at = format!("0.0.0.0:{PORT}");
        ears.push((format!("host {n}"), listener(&Namespace::open(path).unwrap(), &at)));
    }
    let send = |frame: &[u8]| frames::send(&machine, "eth0", &vec![frame.to_vec(); TIMES]);
    let v4 = |ip: Ipv4Addr| IpAddr::V4(ip);
    let v6 = |ip: Ipv6Addr| IpAddr::V6(ip);
    let to = (them, v4(them4));
    let say = |from: frames::Mac, ip: Ipv4Addr| frames::udp((from, v4(ip)), to, (1000, PORT), b"FORGED");
    let say6 = |from: frames::Mac, ip: Ipv6Addr| {
        frames::udp((from, v6(ip)), (them, v6(them6)), (1000, PORT + 2), b"FORGED")
    };

    // What is honest arrives: frames are made as they should be.
    send(&frames::udp((me, v4(me4)), to, (1000, PORT), b"HONEST"));
    send(&frames::udp((me, v6(me6)), (them, v6(them6)), (1000, PORT + 2), b"HONEST"));
    for at in [0, 1] {
        let (who, ear) = &ears[at];
        eventually(&format!("{who} hears what is honest"), || heard(ear).ok_or_else(|| "nothing".to_owned()));
        while heard(ear).is_some() {}
    }

    // What the machine itself sees to, its root takes away.
    for table in ["skep-uplink", "skep-fast"] {
        let (ok, said) = inside(&machine, &["nft", "delete", "table", "netdev", table]);
        assert!(ok, "{said}");
    }
    let switch = switches_of(&cloud, red).into_iter().find(|s| cloud.host_with(s) == host).unwrap();
    let count = || nft_counters(&switch, "table bridge skep-ports");
    let blue_vni: u32 =
        blue.run(&["get", "network", "default", "-o", "jsonpath={.spec.vni}"]).parse().unwrap();
    let forgeries: Vec<(&str, &str, Vec<u8>)> = vec![
        ("another Ethernet address", "mac", say(stranger, me4)),
        ("another port's Ethernet address", "mac", say(them, me4)),
        ("another port altogether", "mac", say(them, them4)),
        ("another port altogether, IPv6", "mac", say6(them, them6)),
        ("an address that nobody has", "ip", say(me, nobody4)),
        ("another port's address", "ip", say(me, them4)),
        ("an address that nobody has, IPv6", "ip", say6(me, nobody6)),
        ("another port's address, IPv6", "ip", say6(me, them6)),
        ("ARP for another", "arp", frames::arp(me, (me, them4))),
        ("ARP with another's Ethernet address inside", "arp", frames::arp(me, (stranger, me4))),
        ("ARP for the gateway", "arp", frames::arp(me, (me, Ipv4Addr::new(10, 64, 0, 1)))),
        ("a neighbour's advertisement for another", "arp", frames::neighbour((me, me6), (me, them6))),
        ("a neighbour's question as another", "ip", frames::solicitation((me, them6), nobody6)),
        ("a router", "ra", frames::router(me)),
        ("a DHCP server", "dhcp", frames::udp((me, v4(me4)), to, (67, 68), b"FORGED")),
        ("neither IP nor ARP", "other", frames::ethernet(me, them, 0x88cc, b"FORGED")),
        (
            "a tagged frame",
            "other",
            frames::ethernet(me, them, 0x8100, &[&[0, 7, 8, 0], &say(me, them4)[14..]].concat()),
        ),
    ];
    for (what, reason, frame) in &forgeries {
        let before = count();
        send(frame);
        // By the switch, and for the machine's interface by itself.
        eventually(&format!("{what} is counted as {reason}"), || {
            let after = count();
            let more = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
            let own: u64 =
                after.keys().filter(|n| n.starts_with(&format!("{reason}@"))).map(|n| more(n)).sum();
            let enough = more(reason) >= TIMES as u64 && own >= TIMES as u64;
            if enough { Ok(()) } else { Err(format!("{before:?} {after:?}")) }
        });
    }

    // Packets of another network, to each host, to a host's own services, to the link: as an honest sender.
    let router = (ROUTER_MAC.0, v4(ROUTER_IP));
    let me = (me, v4(me4));
    let inner = frames::udp((them, v4(them4)), (them, addresses(1)[0]), (1000, PORT), b"FORGED");
    let outside = || nft_counters(&host_namespaces[host], "table ip skep-egress");
    // Chosen at a host's first start, or the usual one.
    let chosen = std::fs::read_to_string(cloud.host_data(host).join("vxlan-port"));
    let vxlan_port = chosen.map_or(4789, |text| text.trim().parse().unwrap());
    for (what, reason, target, carried) in [
        ("a packet of another network to a host", "to-hosts", cloud.host_address(1 - host), true),
        ("a host's own service", "to-hosts", cloud.host_address(1 - host), false),
        ("its own host's service", "to-this-host", cloud.host_address(host), false),
        ("a packet of another network to its own host", "to-this-host", cloud.host_address(host), true),
        ("a packet of another network to anybody", "vxlan", cloud.outside().to_owned(), true),
        ("what is only on the link", "to-the-link", "169.254.169.254".to_owned(), false),
    ] {
        let target = (router.0, IpAddr::V4(target.parse().unwrap()));
        let frame = match carried {
            true => frames::vxlan(me, target, vxlan_port, blue_vni, &inner),
            false => frames::udp(me, target, (1000, PORT), b"FORGED"),
        };
        let before = outside();
        send(&frame);
        eventually(&format!("{what} is counted as {reason}"), || {
            let after = outside();
            let enough = after[reason] >= before[reason] + TIMES as u64;
            if enough { Ok(()) } else { Err(format!("{before:?} {after:?}")) }
        });
    }
    send(&frames::udp(me, router, (1000, PORT), b"FORGED"));

    // None of it has arrived anywhere.
    for (who, ear) in &ears {
        let said: Vec<String> = std::iter::from_fn(|| heard(ear)).collect();
        assert!(said.is_empty(), "{who} hears {said:?}");
    }
    // And who speaks honestly still does.
    let hears = |url: &str| red.sh("p2", &format!("timeout 3 wget -q -O /dev/null {url} && echo yes"));
    eventually("p1 is still reached", || hears("http://10.65.0.1:8080/"));
    // The operator reads it where the machine's port says what went through it, and so does the tenant.
    let (at, name) =
        (own["metadata"]["namespace"].as_str().unwrap(), own["metadata"]["name"].as_str().unwrap());
    eventually("the machine's port says what was forged", || {
        let status = red.object(&["port", name, "-n", at])["status"].clone();
        let said = |reason: &str| status["dropped"][reason].as_u64().unwrap_or_default();
        let reasons = [
            ("ForgedEthernetAddress", 4),
            ("ForgedAddress", 5),
            ("ForgedNeighbour", 4),
            ("RouterAdvertisement", 1),
            ("AddressServer", 1),
            ("UnknownProtocol", 2),
        ];
        let all = reasons.iter().all(|(reason, times)| said(reason) >= (times * TIMES) as u64);
        if all { Ok(()) } else { Err(format!("{status:#}")) }
    });
}
