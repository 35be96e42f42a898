//! The short way through a machine for connections that are under way.
//!
//! ```text
//! pod ─► [fast] ─ known flow ──────────────────────────► pod or uplink
//!          └─ anything else ─► bridge · filters · [mark] ─► [learn] ─► pod or uplink
//! ```
//!
//! A bridged packet passes the bridge's filters, connection tracking, services and network policies. For a connection that all of these have
//! found right, that they change nothing of, and that neither begins nor ends with this packet, they would say the same again: so it goes straight to
//! the interface where the last such packet went. Only TCP over IPv4: it is where the bytes are.
//!
//! - **What is known** of a flow is the interface that it comes from, both Ethernet addresses, both IP addresses and both ports: whoever changes
//!   one of them takes the long way, with all that is looked at there.
//! - **Who makes it known** is the long way's end: connection tracking must know the connection in both directions and translate nothing of it, and
//!   everybody who filters must have let the packet through ([`PRIORITY_MARK`] is behind all of them).
//! - **How long**: [`KNOWN_MS`], and then the long way looks again: connection tracking hears that the connection lives. Whenever pods or policies
//!   change, all is forgotten.
//! - Packets that begin, end or break a connection always take the long way, so that connection tracking ends with it. It does not see how far
//!   a connection has come, and so is told not to judge that ([`tracking`]).

use crate::link::{Link, MacAddr};
use crate::machine::POD_PREFIX;
use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, CtKey, ElementData, Expr, Family, Hook, MapTo, MetaKey, NewElement,
    Nft, PayloadBase, Reg, Set, Table, Verdict,
};
use crate::ns::sysctl;
use crate::podpublic::PUBLIC_PREFIX;

/// Where devices receive and send.
const DEVICES: Table = Table { family: Family::Netdev, name: "skep-fast" };
/// Where connection tracking and filters have spoken.
const MARKS: Table = Table { family: Family::Ip, name: "skep-fast" };
const FLOWS: &str = "flows";
/// The interfaces of pods by their Ethernet addresses.
const PODS: &str = "pods";
/// Behind all who filter: see [`crate::filter`].
const PRIORITY_MARK: i32 = 10;
/// Before what is for the machine itself leaves the bridge.
const PRIORITY_FAST: i32 = -10;
/// Behind what changes packets on the uplink.
const PRIORITY_LEARN: i32 = 10;
/// Says that a flow may be known. Groups of services are below, and other marks have other high bits.
const FAST: u32 = 0x2000_0000;
/// How long a flow goes the short way before it is looked at again. Longer saves nothing; connection tracking forgets a connection that it does
/// not hear of only after minutes.
const KNOWN_MS: u64 = 10_000;
const TCP: u8 = 6;
/// FIN, SYN and RST.
const BEGINS_OR_ENDS: u8 = 0b111;
const ESTABLISHED: u32 = 0b010;
/// Connection tracking's bits for connections whose addresses are changed: source, destination.
const TRANSLATED: u32 = 0b11_0000;

/// What connection tracking is told in a namespace that has the short way: it sees few packets of a connection, and must neither take one for
/// wrong because it has not seen those before, nor forget the connection early because it has not seen an answer.
pub(crate) fn tracking() -> Result<()> {
    const ESTABLISHED_S: &str = "432000";
    sysctl("netfilter/nf_conntrack_tcp_be_liberal", "1")?;
    sysctl("netfilter/nf_conntrack_tcp_timeout_unacknowledged", ESTABLISHED_S)?;
    sysctl("netfilter/nf_conntrack_tcp_timeout_max_retrans", ESTABLISHED_S)
}

fn chain(hook: Hook, priority: i32, device: Option<&str>) -> BaseChain<'_> {
    BaseChain { kind: ChainKind::Filter, hook, priority, drop: false, device }
}

fn is_plain_tcp() -> [Expr<'static>; 8] {
    const NOTHING: [u8; 2] = [0; 2];
    [
        Expr::Payload { base: PayloadBase::Network, offset: 9, len: 1, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[TCP] },
        // No fragment, not even the first: they belong together.
        Expr::Payload { base: PayloadBase::Network, offset: 6, len: 2, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &[0x3f, 0xff], xor: &NOTHING },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &NOTHING },
        Expr::Payload { base: PayloadBase::Transport, offset: 13, len: 1, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &[BEGINS_OR_ENDS], xor: &[0] },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[0] },
    ]
}

/// The key but for the interface, which is before it: Ethernet addresses, IP addresses, ports.
fn flow() -> [Expr<'static>; 3] {
    [
        Expr::Payload { base: PayloadBase::Link, offset: 0, len: 12, to: Reg(1) },
        Expr::Payload { base: PayloadBase::Network, offset: 12, len: 8, to: Reg(4) },
        Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 4, to: Reg(6) },
    ]
}

/// The short way between a bridge's uplink and pods, in place of what there is of it. `links` are the namespace's.
pub(crate) fn set_up(nft: &mut Nft, bridge: &Link, uplink: Option<&Link>, links: &[Link]) -> Result<()> {
    let mut batch = Batch::new();
    for table in [DEVICES, MARKS] {
        batch.delete_table(table);
        batch.add_table(table);
    }
    let to = Some(MapTo::Bytes(4));
    let flows = Set {
        name: FLOWS.into(),
        key: vec![4, 12, 8, 4],
        map: to,
        timeout_ms: Some(KNOWN_MS),
        ..Set::default()
    };
    batch.add_set(DEVICES, &flows);
    batch.add_set(DEVICES, &Set { name: PODS.into(), key: vec![6], map: to, ..Set::default() });
    for name in ["fast", "learn"] {
        batch.add_chain(DEVICES, name);
    }
    let own = &bridge.mac.0;
    let known = [
        Expr::Meta { key: MetaKey::Iif, to: Reg(0) },
        Expr::Lookup { set: FLOWS, from: Reg(0), to: Some(Reg(8)), inverted: false },
        Expr::Redirect { device: Reg(8) },
    ];
    let is_ip = [
        Expr::Meta { key: MetaKey::Protocol, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[0x08, 0x00] },
    ];
    let fast = [&is_ip[..], &is_plain_tcp(), &known[..1], &flow(), &known[1..]].concat();
    batch.add_rule(DEVICES, "fast", &fast);
    let mark = FAST.to_ne_bytes();
    let marked = [
        Expr::Meta { key: MetaKey::Mark, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &mark },
    ];
    let source = [Expr::Payload { base: PayloadBase::Link, offset: 6, len: 6, to: Reg(10) }];
    // What is routed has the bridge's own address by now, and came from elsewhere.
    let is_bridged = [Expr::Cmp { from: Reg(10), op: Cmp::Ne, value: own }];
    let of_pod = [Expr::Lookup { set: PODS, from: Reg(10), to: Some(Reg(0)), inverted: false }];
    let remember = [
        Expr::Meta { key: MetaKey::Oif, to: Reg(8) },
        Expr::Remember { set: FLOWS, key: Reg(0), data: Some(Reg(8)), timeout_ms: KNOWN_MS },
        Expr::Verdict(Verdict::Accept),
    ];
    let begins = [&marked[..], &is_plain_tcp(), &source, &is_bridged].concat();
    batch.add_rule(DEVICES, "learn", &[&begins[..], &of_pod, &flow(), &remember].concat());
    if let Some(uplink) = uplink {
        let index = uplink.index.to_ne_bytes();
        let from_uplink = [Expr::Immediate { to: Reg(0), value: &index }];
        batch.add_rule(DEVICES, "learn", &[&begins[..], &from_uplink, &flow(), &remember].concat());
    }
    batch.add_base_chain(MARKS, "forward", &chain(Hook::Forward, PRIORITY_MARK, None));
    let right = [
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[TCP] },
        Expr::Ct { key: CtKey::State, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &ESTABLISHED.to_ne_bytes(), xor: &[0; 4] },
        Expr::Cmp { from: Reg(0), op: Cmp::Ne, value: &[0; 4] },
        Expr::Ct { key: CtKey::Status, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &TRANSLATED.to_ne_bytes(), xor: &[0; 4] },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[0; 4] },
        Expr::Immediate { to: Reg(0), value: &mark },
        Expr::MetaSet { key: MetaKey::Mark, from: Reg(0) },
    ];
    batch.add_rule(MARKS, "forward", &right);
    let pods = links.iter().filter(|l| l.name.starts_with(POD_PREFIX) && !l.name.starts_with(PUBLIC_PREFIX));
    let of_bridge = pods.filter(|l| l.master == Some(bridge.index));
    for link in of_bridge.chain(uplink) {
        device(&mut batch, &link.name);
    }
    nft.commit(batch)
}

fn device(batch: &mut Batch, name: &str) {
    for (prefix, hook, priority, to) in
        [("in", Hook::Ingress, PRIORITY_FAST, "fast"), ("out", Hook::Egress, PRIORITY_LEARN, "learn")]
    {
        let own = format!("{prefix}-{name}");
        batch.add_base_chain(DEVICES, &own, &chain(hook, priority, Some(name)));
        batch.flush_chain(DEVICES, &own);
        batch.add_rule(DEVICES, &own, &[Expr::Verdict(Verdict::Jump(to.into()))]);
    }
}

fn element(mac: MacAddr, data: Option<u32>) -> NewElement {
    let mut key = mac.0.to_vec();
    key.extend([0, 0]);
    NewElement { key, key_end: None, data: data.map(|i| ElementData::Bytes(i.to_ne_bytes().to_vec())) }
}

/// Whether the short way is there.
fn elements(nft: &mut Nft) -> Result<Option<Vec<crate::nft::Element>>> {
    match nft.elements(DEVICES, PODS) {
        Ok(said) => Ok(Some(said)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A pod's interface is there, and where the pod is; or it is gone. All flows are forgotten.
pub(crate) fn set_pod(nft: &mut Nft, link: &str, index: u32, mac: Option<MacAddr>) -> Result<()> {
    let Some(said) = elements(nft)? else { return Ok(()) };
    let mut batch = Batch::new();
    let data = index.to_ne_bytes();
    for old in said {
        let is_its = old.data.as_deref().is_some_and(|d| d.get(..4) == Some(&data[..]));
        let has_its_address = mac.is_some_and(|mac| old.key.get(..6) == Some(&mac.0[..]));
        if is_its || has_its_address {
            batch.delete_element(DEVICES, PODS, NewElement { key: old.key, ..NewElement::default() });
        }
    }
    if let Some(mac) = mac {
        batch.add_element(DEVICES, PODS, element(mac, Some(index)));
        device(&mut batch, link);
    }
    batch.flush_set(DEVICES, FLOWS);
    nft.commit(batch)?;
    if mac.is_none() {
        let mut batch = Batch::new();
        for prefix in ["in", "out"] {
            let own = format!("{prefix}-{link}");
            batch.flush_chain(DEVICES, &own);
            batch.delete_chain(DEVICES, &own);
        }
        // Some kernels remove them with the interface.
        match nft.commit(batch) {
            Err(error) if error.is_missing() => {}
            other => other?,
        }
    }
    Ok(())
}

/// Who may talk to whom has changed: all flows are looked at again.
pub(crate) fn forget_flows(nft: &mut Nft) -> Result<()> {
    if elements(nft)?.is_none() {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.flush_set(DEVICES, FLOWS);
    nft.commit(batch)
}

/// Takes the short way away.
pub(crate) fn remove(batch: &mut Batch) {
    for table in [DEVICES, MARKS] {
        batch.delete_table(table);
    }
}
