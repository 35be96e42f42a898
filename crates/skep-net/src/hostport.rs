//! Ports of a machine that lead to ports of its pods (`hostPort`), in nf_tables.
//!
//! Two maps, one for ports of one of the machine's addresses and one for ports of all of them, and rules that never change. A machine has few
//! such ports, so all of them are put anew in one step whenever they change.

use std::net::{IpAddr, SocketAddr};

use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, ElementData, Expr, Family, Hook, MapTo, MetaKey, NatKind, NewElement,
    Nft, PayloadBase, Reg, Set, Table, Verdict,
};
use crate::ns::Namespace;

/// What the tables are called.
const NAME: &str = "skep-hostports";
/// Before services: who has a port of the machine by a pod of its own is meant before a service that says the same.
const PRIORITY_DNAT: i32 = -101;
/// Where sources are hidden: where everybody does (`srcnat`).
const PRIORITY_SNAT: i32 = 100;
/// Where the pod is put: its address, then its port.
const POD: Reg = Reg(9);

/// A port of the machine that is a pod's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Of this address of the machine only.
    pub host_ip: Option<IpAddr>,
    /// The protocol's number: 6, 17, 132.
    pub protocol: u8,
    /// The machine's port.
    pub port: u16,
    /// Where it leads.
    pub pod: SocketAddr,
}

/// What differs between the families.
#[derive(Clone, Copy)]
struct Layout {
    table: Table,
    v6: bool,
    len: u8,
    source: u32,
    destination: u32,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        table: Table { family: Family::Ip, name: NAME },
        v6: false,
        len: 4,
        source: 12,
        destination: 16,
    },
    Layout {
        table: Table { family: Family::Ip6, name: NAME },
        v6: true,
        len: 16,
        source: 8,
        destination: 24,
    },
];

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn padded(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

/// Puts a machine's ports in one step; what was there before goes. Connections that there are go on.
///
/// # Errors
/// What the kernel says; then the old state holds.
pub fn replace(namespace: &Namespace, ports: &[HostPort]) -> Result<()> {
    let mut batch = Batch::new();
    for layout in LAYOUTS {
        batch.delete_table(layout.table);
        let own: Vec<&HostPort> = ports.iter().filter(|p| p.pod.is_ipv6() == layout.v6).collect();
        if !own.is_empty() {
            put(&mut batch, layout, &own);
        }
    }
    Nft::open(namespace)?.commit(batch)
}

fn put(batch: &mut Batch, l: Layout, ports: &[&HostPort]) {
    let t = l.table;
    batch.add_table(t);
    let to = Some(MapTo::Bytes(u32::from(l.len) + 4));
    batch.add_set(t, &Set { name: "one".into(), key: vec![l.len, 1, 2], map: to, ..Set::default() });
    batch.add_set(t, &Set { name: "all".into(), key: vec![1, 2], map: to, ..Set::default() });
    batch.add_set(t, &Set { name: "hairpin".into(), key: vec![l.len, l.len], ..Set::default() });
    batch.add_chain(t, "ports");
    let chain =
        |hook, priority| BaseChain { kind: ChainKind::Nat, hook, priority, drop: false, device: None };
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.add_base_chain(t, name, &chain(hook, PRIORITY_DNAT));
        batch.add_rule(t, name, &[Expr::Verdict(Verdict::Jump("ports".into()))]);
    }
    batch.add_base_chain(t, "postrouting", &chain(Hook::Postrouting, PRIORITY_SNAT));
    let regs = l.len / 4;
    let address = |offset, to| Expr::Payload { base: PayloadBase::Network, offset, len: l.len.into(), to };
    let port = |to| Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to };
    let own = [
        Expr::DestinationType { to: Reg(0) },
        // RTN_LOCAL.
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &2u32.to_ne_bytes() },
    ];
    let one = [
        address(l.destination, Reg(0)),
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(regs) },
        port(Reg(regs + 1)),
    ];
    let all = [Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) }, port(Reg(1))];
    for (keys, map) in [(&one[..], "one"), (&all[..], "all")] {
        let mut rule = own.to_vec();
        rule.extend_from_slice(keys);
        rule.extend([
            Expr::Lookup { set: map, from: Reg(0), to: Some(POD), inverted: false },
            Expr::Nat { kind: NatKind::Destination, v6: l.v6, address: POD, port: Some(Reg(POD.0 + regs)) },
        ]);
        batch.add_rule(t, "ports", &rule);
    }
    // A pod that comes to itself: its answers must come back through here.
    let itself = [
        address(l.source, Reg(0)),
        address(l.destination, Reg(regs)),
        Expr::Lookup { set: "hairpin", from: Reg(0), to: None, inverted: false },
        Expr::Masquerade,
    ];
    batch.add_rule(t, "postrouting", &itself);
    let mut pods = std::collections::BTreeSet::new();
    for p in ports {
        let rest = [vec![p.protocol, 0, 0, 0], padded(p.port).to_vec()].concat();
        let (set, key) = match p.host_ip {
            Some(ip) => ("one", [octets(ip), rest].concat()),
            None => ("all", rest),
        };
        let data = [octets(p.pod.ip()), padded(p.pod.port()).to_vec()].concat();
        batch.add_element(t, set, NewElement { key, key_end: None, data: Some(ElementData::Bytes(data)) });
        if pods.insert(p.pod.ip()) {
            let key = [octets(p.pod.ip()), octets(p.pod.ip())].concat();
            batch.add_element(t, "hairpin", NewElement { key, ..NewElement::default() });
        }
    }
}
