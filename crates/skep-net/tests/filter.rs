//! Filters of connections in real namespaces: in a machine, and on a switch between machines. Needs root, and says so where there
//! is none.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{Mounts, can, machine, pod, talk};
use serde_json::{Value, json};
use skep_net::Namespace;
use skep_net::filter::{Filter, Purpose};
use skep_net::nft::{Family, Nft};
use skep_netplan::filter::Desired;
use skep_netplan::filter::policy::{self, Labels, NamedPort, Pod, Policy};
use skep_netplan::service::L4;

/// How long somebody tries who is not to arrive. Who arrives does so in microseconds, and is waited for longer.
const TRY: Duration = Duration::from_millis(400);

fn labels(name: &str) -> Labels {
    [("name".into(), name.into())].into()
}

/// The pods of [`common::pod`], named by their numbers.
fn views(all: &[u8]) -> Vec<Pod> {
    let view = |n: &u8| Pod {
        namespace: "default".into(),
        labels: labels(&n.to_string()),
        addresses: vec![IpAddr::from([10, 7, 1, *n]), format!("fd07::1:{n}").parse().unwrap()],
        ports: vec![NamedPort { name: "http".into(), protocol: L4::Tcp, port: 8080 }],
        here: true,
    };
    all.iter().map(view).collect()
}

fn plan(pods: &[u8], specs: &[Value]) -> Desired {
    let read = |spec: &Value| -> (String, Policy) {
        ("default".to_owned(), serde_json::from_value(json!({"spec": spec})).unwrap())
    };
    policy::plan(&specs.iter().map(read).collect::<Vec<_>>(), &BTreeMap::new(), &views(pods))
}

/// Whether a connection comes about.
fn reaches(client: &Namespace, server: &Namespace, to: &str) -> bool {
    let address = SocketAddr::new(to.parse().unwrap(), 8080);
    let _listener = server.run(|| TcpListener::bind(address)).unwrap().unwrap();
    client.run(|| TcpStream::connect_timeout(&address, TRY)).unwrap().is_ok()
}

fn drops(filter: &mut Filter) -> BTreeMap<String, u64> {
    filter.dropped().unwrap().into_iter().filter(|c| c.packets > 0).map(|c| (c.name, c.packets)).collect()
}

#[test]
fn pods_of_a_machine_talk_to_whom_they_may() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let configs: Vec<_> = (1..=3).map(|n| pod(n, &mounts.path(&n.to_string()))).collect();
    for config in &configs {
        machine.set_up_pod(config).unwrap();
    }
    let ns: Vec<Namespace> = configs.iter().map(|c| Namespace::open(&c.namespace).unwrap()).collect();
    let (a, b, c) = (&ns[0], &ns[1], &ns[2]);
    let mut filter = Filter::open(machine.namespace(), Purpose::Policies).unwrap();
    let here = machine.namespace();

    // Nobody may come to the second but the first, by a range of ports that leaves out nothing that is asked for.
    let only_first = json!({"podSelector": {"matchLabels": {"name": "2"}}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"name": "1"}}}], "ports": [{"port": 8000, "endPort": 8100}]}]});
    filter.set(&plan(&[1, 2, 3], std::slice::from_ref(&only_first))).unwrap();
    assert_eq!(talk(a, b, "10.7.1.2").unwrap().to_string(), "10.7.1.1");
    assert_eq!(talk(a, b, "fd07::1:2").unwrap().to_string(), "fd07::1:1");
    assert!(!reaches(c, b, "10.7.1.2") && !reaches(c, b, "fd07::1:2"));
    assert!(reaches(b, c, "10.7.1.3"), "it is guarded in one direction only");
    assert!(reaches(b, b, "10.7.1.2"), "nobody is kept from itself");
    assert!(reaches(here, b, "10.7.1.2"), "the machine reaches its own");
    assert!(reaches(b, here, "10.7.0.1"));
    let dropped = drops(&mut filter);
    assert!(
        dropped["ingress"] > 0 && dropped["ingress-10.7.1.2"] > 0 && dropped["ingress-fd07::1:2"] > 0,
        "{dropped:?}"
    );

    // Blocks of addresses with an exception; a port by its name; both directions of one pod.
    let others = json!({"podSelector": {"matchLabels": {"name": "2"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.7.0.0/16", "except": ["10.7.1.3/32"]}},
                              {"ipBlock": {"cidr": "fd07::/64", "except": ["fd07::1:1/128"]}}],
                     "ports": [{"port": "http"}]}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.7.1.0/30"}}], "ports": [{"port": 8080}]}]});
    filter.set(&plan(&[1, 2, 3], &[others])).unwrap();
    assert!(reaches(a, b, "10.7.1.2") && !reaches(c, b, "10.7.1.2"));
    assert!(!reaches(a, b, "fd07::1:2") && reaches(c, b, "fd07::1:2"));
    assert!(reaches(b, a, "10.7.1.1") && reaches(b, c, "10.7.1.3"));
    assert!(!reaches(b, a, "fd07::1:1"), "nothing of this family is allowed out");
    assert!(drops(&mut filter)["egress-fd07::1:2"] > 0);

    // Who looks into it with the usual program can.
    for family in ["ip", "ip6"] {
        let list =
            || std::process::Command::new("nft").args(["list", "table", family, "skep-policies"]).output();
        match here.run(list).unwrap() {
            Ok(said) => {
                let text = String::from_utf8_lossy(&said.stdout).into_owned();
                assert!(said.status.success(), "{said:?}");
                assert!(text.contains("counter ingress") && text.contains("tcp . 8080"), "{text}");
            }
            Err(error) => eprintln!("SKIPPED: nft cannot be asked: {error}"),
        }
    }

    // A connection goes on for as long as it is allowed, whatever else changes.
    let address: SocketAddr = "10.7.1.2:8080".parse().unwrap();
    let listener = b.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let mut client = a.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5))).unwrap().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    drop(listener);
    let mut echo = |wait: Duration| -> bool {
        client.set_read_timeout(Some(wait)).unwrap();
        server.set_read_timeout(Some(wait)).unwrap();
        let mut got = [0; 2];
        client.write_all(b"on").is_ok()
            && server.read_exact(&mut got).is_ok()
            && server.write_all(&got).is_ok()
            && client.read_exact(&mut got).is_ok()
    };
    let long = Duration::from_secs(5);
    assert!(echo(long));
    filter.set(&plan(&[1, 2, 3], std::slice::from_ref(&only_first))).unwrap();
    assert!(echo(long), "another policy allows it too");
    // An agent that begins anew.
    drop(filter);
    let mut filter = Filter::open(here, Purpose::Policies).unwrap();
    filter.set(&plan(&[1, 2, 3], std::slice::from_ref(&only_first))).unwrap();
    assert!(echo(long));
    assert!(!reaches(c, b, "10.7.1.2"));
    filter.set(&plan(&[1, 2, 3], &[json!({"podSelector": {}, "policyTypes": ["Ingress"]})])).unwrap();
    assert!(!echo(TRY), "what is not allowed any more ends");

    // Datagrams, and their answers.
    let udp = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"name": "1"}}}], "ports": [{"protocol": "UDP", "port": 53}]}]});
    filter.set(&plan(&[1, 2, 3], &[udp])).unwrap();
    let server = b.run(|| UdpSocket::bind("10.7.1.2:53")).unwrap().unwrap();
    for (client, ip, arrives) in [(a, "10.7.1.1:0", true), (c, "10.7.1.3:0", false)] {
        let client = client.run(|| UdpSocket::bind(ip)).unwrap().unwrap();
        let wait = Some(if arrives { long } else { TRY });
        server.set_read_timeout(wait).unwrap();
        client.set_read_timeout(wait).unwrap();
        client.send_to(b"hi", "10.7.1.2:53").unwrap();
        let mut got = [0; 2];
        let heard = server.recv_from(&mut got).and_then(|(_, from)| server.send_to(&got, from)).is_ok();
        assert_eq!(heard && client.recv(&mut got).is_ok(), arrives, "{ip}");
    }

    // Pods come and go: entries, and everything goes with the last policy.
    filter.set(&plan(&[1, 2], &[json!({"podSelector": {}, "policyTypes": ["Ingress"]})])).unwrap();
    assert!(reaches(a, c, "10.7.1.3") && !reaches(c, a, "10.7.1.1"));
    filter.set(&Desired::default()).unwrap();
    assert!(reaches(c, a, "10.7.1.1"));
    let mut nft = Nft::open(here).unwrap();
    for family in [Family::Ip, Family::Ip6] {
        let mut left = nft.tables(family).unwrap();
        // The machine's own, with policies or without.
        left.retain(|name| name != "skep-fast");
        assert_eq!(left, [""; 0]);
    }
}
