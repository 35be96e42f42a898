//! The short way through a network's switch for connections that are under way: what [`crate::fast`] is in a machine.
//!
//! ```text
//! machine ─► [fast] ──── known flow: counted ────────────────► machine or wire
//!    wire ─►   └─ anything else ─► bridge · filters · [mark] ─► [learn] ─► machine or wire
//! ```
//!
//! A flow is known by where it comes from, both Ethernet addresses, both IP addresses and both ports. So what says who it is not is no known
//! flow, and takes the long way, where it is found to be forged. What a switch does beside is kept:
//!
//! - **What is counted** on the long way is counted here, in counters of the same name: [`Switch`](crate::switch::Switch) and
//!   [`Shaper`](crate::bandwidth::Shaper) know of each other by this table only.
//! - **Classes** of the uplink go with the flow: it is sent with the priority that its packets had in the end.
//! - **Ports with a maximum or a limit of packets** have no flows here, in that direction: only what [`MAY_SEND`] and [`MAY_RECEIVE`] name is learned.
//! - **Security groups**: while a network has some, only what connection tracking has found established is learned ([`track`]). While it has
//!   none, a switch does not look at connections at all.
//! - **All is forgotten** whenever ports, where they are, groups or bandwidth change.

use crate::fast::{
    DEVICES, FAST, FLOWS, FROM, HEADERS, KEY, KNOWN_MS, MARKS, begins, chain, elements, hook, known,
    remember_established, tracking,
};
use crate::link::MacAddr;
use crate::netlink::Result;
use crate::nft::{
    Batch, Cmp, ElementData, Expr, Family, Hook, MapTo, MetaKey, NewElement, Nft, PayloadBase, Reg, Set,
    Table, Verdict,
};
use crate::ns::Namespace;

/// Where bridged packets may be learned, while nobody looks at connections.
const SWITCHED: Table = Table { family: Family::Bridge, name: "skep-fast" };
/// Machines' interfaces by the Ethernet addresses that are behind them.
const MACS: &str = "macs";
/// Who sends, and who receives, without a limit: address and interface.
pub(crate) const MAY_SEND: &str = "may-send";
pub(crate) const MAY_RECEIVE: &str = "may-receive";
/// Their counters.
pub(crate) const SENT: &str = "sent";
pub(crate) const RECEIVED: &str = "received";
/// The counter of what goes to other hosts, whose ports are not here.
const ELSEWHERE: &str = "elsewhere";
/// The table that holds all of it.
pub(crate) const TABLE: Table = DEVICES;
/// Before what leads packets through queues: flows of ports that have one are not here.
const PRIORITY_FAST: i32 = -200;
/// Behind all who filter bridged packets.
const PRIORITY_SWITCHED: i32 = 100;

/// Where a flow's data is: the priority, and the interface that it leaves by.
const PRIORITY: Reg = Reg(11);
const LEAVES: Reg = Reg(12);
/// Before the interfaces, where nothing else is needed any more: addresses, to be looked for with them.
const SOURCE: Reg = Reg(9);
const DESTINATION: Reg = Reg(11);
/// The Ethernet address of who sends.
const TEACHER: Reg = Reg(13);

fn source() -> Expr<'static> {
    Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, to: SOURCE }
}

fn destination() -> Expr<'static> {
    Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: DESTINATION }
}

/// What is done with what arrives from the wire, which has the priority that it arrives with, and from a machine.
fn fast(is_wire: bool) -> Vec<Expr<'static>> {
    let sent = [
        Expr::MetaSet { key: MetaKey::Priority, from: PRIORITY },
        source(),
        Expr::CountBy { set: SENT, from: SOURCE },
    ];
    let received = [
        destination(),
        Expr::CountBy { set: RECEIVED, from: DESTINATION },
        Expr::Redirect { device: LEAVES },
    ];
    [&known(FLOWS, PRIORITY)[..], if is_wire { &[] } else { &sent }, &received].concat()
}

/// Makes the short way of a switch, without anything that may go it yet. What is there stays, but for the rules.
pub(crate) fn set_up(nft: &mut Nft, bridge: MacAddr, wire: (u32, &str), machines: &[&str]) -> Result<()> {
    let mut batch = Batch::new();
    batch.add_table(DEVICES);
    let map = |name: &str, key: Vec<u8>, to| Set { name: name.into(), key, map: to, ..Set::default() };
    let flows = map(FLOWS, KEY.into(), Some(MapTo::Bytes(8)));
    batch.add_set(DEVICES, &Set { timeout_ms: Some(KNOWN_MS), ..flows });
    batch.add_set(DEVICES, &map(MACS, vec![6], Some(MapTo::Bytes(4))));
    for (name, to) in [
        (MAY_SEND, None),
        (MAY_RECEIVE, None),
        (SENT, Some(MapTo::Counter)),
        (RECEIVED, Some(MapTo::Counter)),
    ] {
        batch.add_set(DEVICES, &map(name, vec![4, 4], to));
    }
    for name in ["learn", "learn-wire"] {
        batch.add_chain(DEVICES, name);
        batch.flush_chain(DEVICES, name);
    }
    let teacher = [
        Expr::Payload { base: PayloadBase::Link, offset: 6, len: 6, to: TEACHER },
        // What is routed has the bridge's own address by now, and came from elsewhere.
        Expr::Cmp { from: TEACHER, op: Cmp::Ne, value: &bridge.0 },
    ];
    // The source's address is read with what is behind it: see what is said of the key.
    let may_send = [
        Expr::Payload { base: PayloadBase::Network, offset: 12, len: 8, to: SOURCE },
        Expr::Lookup { set: MACS, from: TEACHER, to: Some(FROM), inverted: false },
        Expr::Lookup { set: MAY_SEND, from: SOURCE, to: None, inverted: false },
    ];
    let index = wire.0.to_ne_bytes();
    let may_receive = [
        destination(),
        Expr::Meta { key: MetaKey::Oif, to: LEAVES },
        Expr::Lookup { set: MAY_RECEIVE, from: DESTINATION, to: None, inverted: false },
    ];
    let remember = [
        Expr::Meta { key: MetaKey::Priority, to: PRIORITY },
        Expr::Meta { key: MetaKey::Oif, to: LEAVES },
        Expr::Remember { set: FLOWS, key: HEADERS, data: Some(PRIORITY), timeout_ms: KNOWN_MS },
        Expr::Verdict(Verdict::Accept),
    ];
    let key = begins();
    let of_machine = [Expr::Lookup { set: MACS, from: TEACHER, to: Some(FROM), inverted: false }];
    let of_wire = [Expr::Immediate { to: FROM, value: &index }];
    let mut learn = |chain, parts: &[&[Expr<'_>]]| batch.add_rule(DEVICES, chain, &parts.concat());
    // Who may is asked first: the key takes the registers.
    learn("learn", &[&teacher, &may_send, &may_receive, &key, &of_machine, &remember]);
    // Who is no machine of this host has come by the wire, where other hosts have looked at it.
    learn("learn", &[&teacher, &may_receive, &key, &of_wire, &remember]);
    learn("learn-wire", &[&teacher, &may_send, &key, &of_machine, &remember]);
    hook(&mut batch, wire.1, PRIORITY_FAST, &fast(true), "learn-wire");
    for machine in machines {
        hook(&mut batch, machine, PRIORITY_FAST, &fast(false), "learn");
    }
    nft.commit(batch)
}

/// Whether there is a short way here.
pub(crate) fn is_there(nft: &mut Nft) -> Result<bool> {
    Ok(elements(nft, MACS)?.is_some())
}

/// A machine is plugged in.
pub(crate) fn attach(batch: &mut Batch, name: &str) {
    hook(batch, name, PRIORITY_FAST, &fast(false), "learn");
    forget(batch);
}

/// A machine's interface is gone, or about to be.
pub(crate) fn detach(nft: &mut Nft, name: &str) -> Result<()> {
    let mut batch = Batch::new();
    forget(&mut batch);
    nft.commit(batch)?;
    let mut batch = Batch::new();
    for prefix in ["in", "out"] {
        let own = format!("{prefix}-{name}");
        batch.flush_chain(DEVICES, &own);
        batch.delete_chain(DEVICES, &own);
    }
    // Some kernels remove them with the interface.
    crate::netlink::unless_missing(nft.commit(batch))
}

fn located(mac: MacAddr, data: Option<u32>) -> NewElement {
    let mut key = mac.0.to_vec();
    key.extend([0, 0]);
    NewElement { key, key_end: None, data: data.map(|i| ElementData::Bytes(i.to_ne_bytes().to_vec())) }
}

/// An Ethernet address is behind a machine's interface.
pub(crate) fn add_mac(batch: &mut Batch, mac: MacAddr, interface: u32) {
    batch.add_element(DEVICES, MACS, located(mac, Some(interface)));
}

/// It is not any more.
pub(crate) fn delete_mac(batch: &mut Batch, mac: MacAddr) {
    batch.delete_element(DEVICES, MACS, located(mac, None));
}

/// No Ethernet address is behind any.
pub(crate) fn no_macs(batch: &mut Batch) {
    batch.flush_set(DEVICES, MACS);
}

/// All flows are looked at again.
pub(crate) fn forget(batch: &mut Batch) {
    batch.flush_set(DEVICES, FLOWS);
}

/// The counter of what is not received here; when all counters go, it is to be made anew.
pub(crate) fn count_elsewhere(batch: &mut Batch) {
    batch.add_counter(DEVICES, ELSEWHERE);
    let data = Some(ElementData::Counter(ELSEWHERE.to_owned()));
    batch.add_element(DEVICES, RECEIVED, NewElement { data, ..NewElement::default() });
}

/// Says whether connections are looked at in a switch, and so what may be learned: to be called before they are, and when they are
/// not any more. Elsewhere than in a switch, and where there is no short way, nothing happens.
pub(crate) fn track(namespace: &Namespace, connections: bool) -> Result<()> {
    let mut nft = Nft::open(namespace)?;
    if !is_there(&mut nft)? {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.delete_table(SWITCHED);
    batch.delete_table(MARKS);
    forget(&mut batch);
    if connections {
        remember_established(&mut batch);
    } else {
        batch.add_table(SWITCHED);
        batch.add_base_chain(SWITCHED, "forward", &chain(Hook::Forward, PRIORITY_SWITCHED, None));
        let mark = FAST.to_ne_bytes();
        let rule = [
            Expr::Immediate { to: Reg(0), value: &mark },
            Expr::MetaSet { key: MetaKey::Mark, from: Reg(0) },
        ];
        batch.add_rule(SWITCHED, "forward", &rule);
    }
    nft.commit(batch)?;
    if connections && namespace.run(tracking)?.is_err() {
        // Then connection tracking would take for wrong what it sees little of: nothing is learned.
        let mut batch = Batch::new();
        batch.delete_table(MARKS);
        forget(&mut batch);
        nft.commit(batch)?;
    }
    Ok(())
}
