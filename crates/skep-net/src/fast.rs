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
use crate::short;

/// Where devices receive and send.
pub(crate) const DEVICES: Table = Table { family: Family::Netdev, name: "skep-fast" };
/// Where connection tracking and filters have spoken.
pub(crate) const MARKS: Table = Table { family: Family::Ip, name: "skep-fast" };
pub(crate) const FLOWS: &str = "flows";
/// The interfaces of pods by their Ethernet addresses.
const PODS: &str = "pods";
/// Behind all who filter: see [`crate::filter`].
const PRIORITY_MARK: i32 = 10;
/// Before what is for the machine itself leaves the bridge.
const PRIORITY_FAST: i32 = -10;
/// Behind what changes packets on the uplink.
const PRIORITY_LEARN: i32 = 10;
/// Says that a flow may be known. Groups of services are below, and other marks have other high bits.
pub(crate) const FAST: u32 = 0x2000_0000;
/// How long a flow goes the short way before it is looked at again. Longer saves nothing; connection tracking forgets a connection that it does
/// not hear of only after minutes.
pub(crate) const KNOWN_MS: u64 = 10_000;
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

pub(crate) fn chain(hook: Hook, priority: i32, device: Option<&str>) -> BaseChain<'_> {
    BaseChain { kind: ChainKind::Filter, hook, priority, drop: false, device }
}

/// Matches packets that neither begin nor end a connection, if they are of TCP over IPv4 without options: whether they are says the key.
fn goes_on() -> [Expr<'static>; 3] {
    // The half word with the flags, and the window.
    [
        Expr::Payload { base: PayloadBase::Network, offset: 32, len: 4, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &[0, BEGINS_OR_ENDS, 0, 0], xor: &[0; 4] },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[0; 4] },
    ]
}

/// Of the headers what is the same in all packets of a flow. What differs lies between, and is blanked: lengths, numbers, sums, times to live.
/// There is one read of all headers instead of one for each field, and no comparisons, for this is what each packet costs.
pub(crate) const HEADERS: Reg = Reg(0);
/// Where Ethernet's type and the length of IP's header are.
const KINDS: Reg = Reg(3);
/// Where there is what differs: three registers, in the middle one fragments and the protocol.
const DIFFERS: Reg = Reg(4);
const FRAGMENT: Reg = Reg(5);
/// The destination's port, with what comes behind it.
const PORT: Reg = Reg(9);
/// Behind the headers: the interface that the flow comes from.
pub(crate) const FROM: Reg = Reg(10);
/// What a flow's key is made of: the headers to the ports, and the interface.
pub(crate) const KEY: [u8; 2] = [38, 4];
/// Where it goes.
const LEAVES: Reg = Reg(12);
const SAME: [u8; 12] = [0, 0, 0, 0, 0x3f, 0xff, 0, 0xff, 0, 0, 0xff, 0xff];

/// Finds the flow of a packet that goes on, and what the set has for it.
pub(crate) fn known(set: &str, to: Reg) -> Vec<Expr<'_>> {
    let mut all = goes_on().to_vec();
    all.extend([
        Expr::Payload { base: PayloadBase::Link, offset: 0, len: 38, to: HEADERS },
        Expr::Bitwise { from: DIFFERS, to: DIFFERS, mask: &SAME, xor: &[0; 12] },
        Expr::Meta { key: MetaKey::Iif, to: FROM },
        Expr::Lookup { set, from: HEADERS, to: Some(to), inverted: false },
    ]);
    all
}

/// Matches what may be learned, and leaves its key but for the interface.
pub(crate) fn begins() -> Vec<Expr<'static>> {
    let mut all = goes_on().to_vec();
    all.extend([
        // As long as the whole key: programs that print rules do not get on with keys of parts of unknown lengths.
        Expr::Payload { base: PayloadBase::Link, offset: 0, len: 44, to: HEADERS },
        Expr::Bitwise { from: DIFFERS, to: DIFFERS, mask: &SAME, xor: &[0; 12] },
        Expr::Bitwise { from: PORT, to: PORT, mask: &[0xff, 0xff, 0, 0], xor: &[0; 4] },
        // IPv4 without options; no fragment, not even the first: they belong together; TCP.
        Expr::Cmp { from: KINDS, op: Cmp::Eq, value: &[0x08, 0x00, 0x45] },
        Expr::Cmp { from: FRAGMENT, op: Cmp::Eq, value: &[0, 0, 0, TCP] },
    ]);
    all
}

/// Matches what is marked.
fn marked(mark: &[u8; 4]) -> [Expr<'_>; 2] {
    [Expr::Meta { key: MetaKey::Mark, to: Reg(0) }, Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: mark }]
}

/// The short way between a bridge's uplink and pods, in place of what there is of it. `links` are the namespace's.
pub(crate) fn set_up(nft: &mut Nft, bridge: &Link, uplink: Option<&Link>, links: &[Link]) -> Result<()> {
    let mut batch = Batch::new();
    for table in [DEVICES, MARKS] {
        batch.delete_table(table);
    }
    batch.add_table(DEVICES);
    let to = Some(MapTo::Bytes(4));
    let flows =
        Set { name: FLOWS.into(), key: KEY.into(), map: to, timeout_ms: Some(KNOWN_MS), ..Set::default() };
    batch.add_set(DEVICES, &flows);
    batch.add_set(DEVICES, &Set { name: PODS.into(), key: vec![6], map: to, ..Set::default() });
    batch.add_chain(DEVICES, "learn");
    let source = [
        Expr::Payload { base: PayloadBase::Link, offset: 6, len: 6, to: Reg(13) },
        // What is routed has the bridge's own address by now, and came from elsewhere.
        Expr::Cmp { from: Reg(13), op: Cmp::Ne, value: &bridge.mac.0 },
    ];
    let of_pod = [Expr::Lookup { set: PODS, from: Reg(13), to: Some(FROM), inverted: false }];
    let remember = [
        Expr::Meta { key: MetaKey::Oif, to: LEAVES },
        Expr::Remember { set: FLOWS, key: HEADERS, data: Some(LEAVES), timeout_ms: KNOWN_MS },
        Expr::Verdict(Verdict::Accept),
    ];
    let begins = [&begins()[..], &source].concat();
    batch.add_rule(DEVICES, "learn", &[&begins[..], &of_pod, &remember].concat());
    if let Some(uplink) = uplink {
        let index = uplink.index.to_ne_bytes();
        let from_uplink = [Expr::Immediate { to: FROM, value: &index }];
        batch.add_rule(DEVICES, "learn", &[&begins[..], &from_uplink, &remember].concat());
    }
    remember_established(&mut batch);
    let pods = links.iter().filter(|l| l.name.starts_with(POD_PREFIX) && !l.name.starts_with(PUBLIC_PREFIX));
    let of_bridge = pods.filter(|l| l.master == Some(bridge.index));
    for link in of_bridge.chain(uplink) {
        device(&mut batch, &link.name);
    }
    nft.commit(batch)
}

/// Marks what may be learned: packets of connections that are established in both directions, whose addresses nothing changes, and
/// that every filter has let through.
pub(crate) fn remember_established(batch: &mut Batch) {
    let mark = FAST.to_ne_bytes();
    batch.add_table(MARKS);
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
}

fn device(batch: &mut Batch, name: &str) {
    let fast = [&known(FLOWS, LEAVES)[..], &[Expr::Redirect { device: LEAVES }]].concat();
    hook(batch, name, PRIORITY_FAST, &fast, "learn");
}

/// What is done with packets that a device receives, and where those that it sends are learned.
pub(crate) fn hook(batch: &mut Batch, device: &str, priority: i32, fast: &[Expr<'_>], learn: &str) {
    for (prefix, at, priority) in [("in", Hook::Ingress, priority), ("out", Hook::Egress, PRIORITY_LEARN)] {
        let own = format!("{prefix}-{device}");
        batch.add_base_chain(DEVICES, &own, &chain(at, priority, Some(device)));
        batch.flush_chain(DEVICES, &own);
        match at {
            Hook::Ingress => batch.add_rule(DEVICES, &own, fast),
            _ => learns(batch, &own, learn),
        }
    }
}

fn learns(batch: &mut Batch, chain: &str, learn: &str) {
    let mark = FAST.to_ne_bytes();
    let jump = [Expr::Verdict(Verdict::Jump(learn.into()))];
    batch.add_rule(DEVICES, chain, &[&marked(&mark)[..], &jump].concat());
}

/// Does something with what a device sends before it is learned, where otherwise there would be a chain for each: to be in one costs a packet more
/// than most rules. `rules` adds them to a chain that has none.
pub(crate) fn first(batch: &mut Batch, device: &str, rules: impl FnOnce(&mut Batch, Table, &str)) {
    let own = format!("out-{device}");
    batch.flush_chain(DEVICES, &own);
    rules(batch, DEVICES, &own);
    learns(batch, &own, "learn");
}

fn element(mac: MacAddr, data: Option<u32>) -> NewElement {
    let mut key = mac.0.to_vec();
    key.extend([0, 0]);
    NewElement { key, key_end: None, data: data.map(|i| ElementData::Bytes(i.to_ne_bytes().to_vec())) }
}

/// What a set of the short way holds, if that is there.
pub(crate) fn elements(nft: &mut Nft, set: &str) -> Result<Option<Vec<crate::nft::Element>>> {
    match nft.elements(DEVICES, set) {
        Ok(said) => Ok(Some(said)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A pod's interface is there, and where the pod is; or it is gone. All flows are forgotten.
pub(crate) fn set_pod(nft: &mut Nft, link: &str, index: u32, mac: Option<MacAddr>) -> Result<()> {
    let Some(said) = elements(nft, PODS)? else { return Ok(()) };
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

/// Who may talk to whom has changed, in a machine or on a switch: all flows are looked at again.
pub(crate) fn forget_flows(nft: &mut Nft) -> Result<()> {
    let mut batch = Batch::new();
    if elements(nft, PODS)?.is_some() {
        batch.flush_set(DEVICES, FLOWS);
    } else if short::is_there(nft)? {
        short::forget(&mut batch);
    }
    nft.commit(batch)
}

/// Takes the short way away.
pub(crate) fn remove(batch: &mut Batch) {
    for table in [DEVICES, MARKS] {
        batch.delete_table(table);
    }
}
