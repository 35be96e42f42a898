//! A machine's network in real namespaces: needs root, and says so where there is none.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use common::{Mounts, arrives, can, machine, pod, talk};
use skep_net::machine::{MachineNetwork, pod_interface};
use skep_net::nft::{Family, Nft};
use skep_net::{MacAddr, Namespace, Net};

#[test]
fn pods_reach_each_other_and_the_machine() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let (a, b) = (pod(1, &mounts.path("a")), pod(2, &mounts.path("b")));
    machine.set_up_pod(&a).unwrap();
    machine.set_up_pod(&b).unwrap();
    let (ns_a, ns_b) = (Namespace::open(&a.namespace).unwrap(), Namespace::open(&b.namespace).unwrap());
    assert_eq!(talk(&ns_a, &ns_b, "10.7.1.2").unwrap().to_string(), "10.7.1.1");
    assert_eq!(talk(&ns_b, &ns_a, "fd07::1:1").unwrap().to_string(), "fd07::1:2");
    assert_eq!(talk(&ns_a, machine.namespace(), "10.7.0.1").unwrap().to_string(), "10.7.1.1");
    // The machine answers to its second address too, and what a pod sends elsewhere goes to the gateway.
    assert_eq!(talk(&ns_b, machine.namespace(), "10.7.0.2").unwrap().to_string(), "10.7.1.2");
    let routes = Net::open(&ns_a).unwrap().routes().unwrap();
    let gateways: Vec<_> = routes.iter().filter_map(|r| Some(r.gateway?.to_string())).collect();
    assert_eq!(gateways, ["10.7.0.1", "fd07::1"]);
}

#[test]
fn a_pod_speaks_as_itself_only() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let (mut a, b) = (pod(1, &mounts.path("a")), pod(2, &mounts.path("b")));
    a.pairs = vec!["10.7.1.100".parse().unwrap()];
    machine.guard_pods(&[], &[]).unwrap();
    machine.set_up_pod(&a).unwrap();
    machine.set_up_pod(&b).unwrap();
    let (ns_a, ns_b) = (Namespace::open(&a.namespace).unwrap(), Namespace::open(&b.namespace).unwrap());
    let reach = |source: &str, target: &str| arrives(&ns_a, &ns_b, source, target);
    let mut inside = Net::open(&ns_a).unwrap();
    let nic = inside.expect_link("eth0").unwrap().index;
    for (own, forged, target) in
        [("10.7.1.1", "10.7.1.9", "10.7.1.2"), ("fd07::1:1", "fd07::1:9", "fd07::1:2")]
    {
        assert!(reach(own, target));
        let prefix = if own.contains(':') { 64 } else { 16 };
        inside.add_address(nic, format!("{forged}/{prefix}").parse().unwrap()).unwrap();
        assert!(!reach(forged, target), "{forged} is not its own");
        assert!(reach(own, target));
    }
    inside.add_address(nic, "10.7.1.100/16".parse().unwrap()).unwrap();
    assert!(reach("10.7.1.100", "10.7.1.2"), "one that it may send from");
    inside.set_mac(nic, MacAddr([2, 0, 0, 0, 1, 9])).unwrap();
    assert!(!reach("10.7.1.1", "10.7.1.2"));
    inside.set_mac(nic, a.mac).unwrap();
    assert!(reach("10.7.1.1", "10.7.1.2"));
    // A new agent says it anew, and nothing of what was said before is lost meanwhile.
    let mut machine =
        MachineNetwork::set_up(machine.namespace().try_clone().unwrap(), machine.config().clone()).unwrap();
    machine.guard_pods(&[a.speaker(), b.speaker()], &[]).unwrap();
    assert!(reach("10.7.1.1", "10.7.1.2") && !reach("10.7.1.9", "10.7.1.2"));
    a.pairs.clear();
    machine.set_up_pod(&a).unwrap();
    inside.add_address(nic, "10.7.1.100/16".parse().unwrap()).unwrap();
    assert!(!reach("10.7.1.100", "10.7.1.2") && reach("10.7.1.1", "10.7.1.2"));
}

#[test]
fn set_up_again_changes_nothing() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let a = pod(1, &mounts.path("a"));
    machine.set_up_pod(&a).unwrap();
    let ns = Namespace::open(&a.namespace).unwrap();
    let id = ns.id().unwrap();
    let before = Net::open(&ns).unwrap().expect_link("eth0").unwrap();
    machine.set_up_pod(&a).unwrap();
    // A new agent finds the same machine.
    let mut machine =
        MachineNetwork::set_up(machine.namespace().try_clone().unwrap(), machine.config().clone()).unwrap();
    machine.set_up_pod(&a).unwrap();
    assert_eq!(Namespace::open(&a.namespace).unwrap().id().unwrap(), id);
    let after = Net::open(&ns).unwrap().expect_link("eth0").unwrap();
    assert_eq!((after.index, after.mac, after.mtu), (before.index, before.mac, before.mtu));
    assert_eq!(machine.pods().unwrap().iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["pod-1"]);
}

#[test]
fn a_changed_pod_is_changed() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let mut a = pod(1, &mounts.path("a"));
    machine.set_up_pod(&a).unwrap();
    a.addresses = vec!["10.7.1.99/16".parse().unwrap()];
    a.gateways.pop();
    a.mtu = 1400;
    machine.set_up_pod(&a).unwrap();
    let ns = Namespace::open(&a.namespace).unwrap();
    let mut inside = Net::open(&ns).unwrap();
    let link = inside.expect_link("eth0").unwrap();
    assert_eq!((link.mtu, link.up, link.carrier), (1400, true, true));
    assert_eq!(inside.addresses(link.index).unwrap(), a.addresses);
}

#[test]
fn what_was_half_done_is_completed_or_removed() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let a = pod(1, &mounts.path("a"));
    // Killed after the namespace; after the file for its mount; after the pair.
    std::fs::write(&a.namespace, b"").unwrap();
    machine.set_up_pod(&a).unwrap();
    let mut outside = Net::open(machine.namespace()).unwrap();
    let ns = Namespace::open(&a.namespace).unwrap();
    Net::open(&ns).unwrap().delete_link("eth0").unwrap();
    assert!(outside.link(&pod_interface("pod-1")).unwrap().is_none());
    machine.set_up_pod(&a).unwrap();
    assert_eq!(talk(&ns, machine.namespace(), "10.7.0.1").unwrap().to_string(), "10.7.1.1");

    for _ in 0..2 {
        machine.tear_down_pod(&a.id, &a.namespace).unwrap();
        assert!(!a.namespace.exists());
        assert_eq!(machine.pods().unwrap(), []);
    }
}

#[test]
fn nothing_is_left() {
    if !can() {
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let namespace = machine.namespace().try_clone().unwrap();
    machine.guard_pods(&[], &[]).unwrap();
    for n in 1..=3 {
        machine.set_up_pod(&pod(n, &mounts.path(&n.to_string()))).unwrap();
    }
    assert_eq!(machine.pods().unwrap().len(), 3);
    machine.tear_down_pod("pod-3", &mounts.path("3")).unwrap();
    machine.tear_down().unwrap();
    assert_eq!(Nft::open(&namespace).unwrap().tables(Family::Bridge).unwrap(), [""; 0]);
    let names: Vec<_> = Net::open(&namespace).unwrap().links().unwrap().into_iter().map(|l| l.name).collect();
    assert_eq!(names, ["lo"]);
}

/// What connection tracking holds in a namespace that contains a text.
fn tracked(ns: &Namespace, text: &str) -> usize {
    let all = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack")).unwrap();
    all.unwrap().lines().filter(|l| l.contains(text)).count()
}

/// Asks a server of a machine; how often that is tracked there.
fn asked(machine: &Namespace, client: &Namespace, server: SocketAddrV4) -> usize {
    let there = machine.run(|| UdpSocket::bind(server)).unwrap().unwrap();
    let here = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for socket in [&there, &here] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let mut buf = [0; 16];
    here.send_to(b"ask", server).unwrap();
    let (_, from) = there.recv_from(&mut buf).unwrap();
    there.send_to(b"answer", from).unwrap();
    here.recv_from(&mut buf).unwrap();
    tracked(machine, &format!("sport={} dport={}", from.port(), server.port()))
}

#[test]
fn questions_to_the_name_server_are_not_tracked() {
    if !can() {
        return;
    }
    if !std::path::Path::new("/proc/net/nf_conntrack").exists() {
        eprintln!("SKIPPED: this kernel does not show what it tracks");
        return;
    }
    let (mut machine, mounts) = (machine(), Mounts::new());
    let config = pod(1, &mounts.path("p1"));
    machine.set_up_pod(&config).unwrap();
    // As in every machine: services bring connection tracking with them.
    skep_net::service::Services::open(machine.namespace()).unwrap().replace(&[]).unwrap();
    let server: SocketAddrV4 = "10.7.0.2:53".parse().unwrap();
    let client = Namespace::open(&config.namespace).unwrap();
    let tracks = |machine: &MachineNetwork, server| asked(machine.namespace(), &client, server);
    assert_eq!(tracks(&machine, server), 1, "without it, it is tracked");
    machine.leave_untracked(server).unwrap();
    machine.leave_untracked(server).unwrap();
    assert_eq!(tracks(&machine, server), 0);
    assert_eq!(tracks(&machine, "10.7.0.2:54".parse().unwrap()), 1, "everything else is");
}
