//! Filters of connections: what [`skep_netplan::filter`] plans, in nf_tables.
//!
//! The same in two places: in a machine, where its pods' packets are bridged and routed, and on a switch, outside of all
//! machines. Both look where packets go through (`forward`), after services have been translated and before a source is
//! hidden: what is seen are the addresses of those who talk.
//!
//! | Map or set | From | To |
//! |---|---|---|
//! | `egress`, `ingress` | the source's, the destination's address | the chain with the rules of its class |
//! | `egress-drops`, `ingress-drops` | the same | a counter of its own |
//! | `self` | address twice | (a set) guarded addresses, which may always reach themselves |
//! | `s1`, `s2`, … | what rules look for | (sets) |
//!
//! What was dropped is counted in `egress` and `ingress` for all, and in `egress-ADDRESS` and `ingress-ADDRESS` for each.
//!
//! **Established connections.** Answers pass, and errors that belong to a connection. Packets of the side that began are
//! looked at each time: a connection that is not allowed any more ends at once, one that still is goes on. For what is not
//! guarded this costs one lookup a packet.

use std::net::IpAddr;
use std::path::Path;

use skep_netplan::filter::{self, Change, Desired, Direction, Element, SetKind, Step};
use skep_netplan::service::Family;

use crate::fast;
use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, Counter, CtKey, ElementData, Expr, Hook, KeyType, MapTo, MetaKey,
    NewElement, Nft, PayloadBase, Reg, Set, Table, Verdict,
};
use crate::ns::{Namespace, sysctl};
use crate::short;

/// What a filter is for: each has tables of its own, and a packet must pass all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Network policies.
    Policies,
    /// Security groups.
    Groups,
}

impl Purpose {
    fn table(self, family: Family) -> Table {
        let family = match family {
            Family::V4 => crate::nft::Family::Ip,
            Family::V6 => crate::nft::Family::Ip6,
        };
        let name = match self {
            Purpose::Policies => "skep-policies",
            Purpose::Groups => "skep-groups",
        };
        Table { family, name }
    }

    /// What leaves is looked at before what comes in, so that a drop is counted where it began.
    fn priority(self, direction: Direction) -> i32 {
        let first = match self {
            Purpose::Policies => 0,
            Purpose::Groups => 2,
        };
        first + i32::from(direction == Direction::Ingress)
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Connection tracking's bits for packets of a known connection, and for what belongs to one.
const ESTABLISHED: u32 = 0b010;
const RELATED: u32 = 0b100;
/// Of connection tracking's two directions, the one of answers.
const REPLY: u8 = 1;
const ICMP6: u8 = 58;
/// Router and neighbour discovery, without which nobody finds anybody: types of ICMP of IPv6.
const DISCOVERY_FIRST: u8 = 133;
const DISCOVERY_LAST: u8 = 137;
/// A set of ranges has keys of two parts at least in the kernel; the second, the protocol, is then any.
const ANY_PROTOCOL: (u8, u8) = (0, u8::MAX);

/// What differs between the families.
#[derive(Clone, Copy)]
struct Layout {
    len: u8,
    source: u32,
    destination: u32,
    kind: KeyType,
}

impl Layout {
    const fn of(family: Family) -> Layout {
        match family {
            Family::V4 => Layout { len: 4, source: 12, destination: 16, kind: KeyType::Ipv4 },
            Family::V6 => Layout { len: 16, source: 8, destination: 24, kind: KeyType::Ipv6 },
        }
    }

    fn address(self, offset: u32, to: u8) -> Expr<'static> {
        Expr::Payload { base: PayloadBase::Network, offset, len: self.len.into(), to: Reg(to) }
    }

    /// The address that is guarded in a direction.
    fn guarded(self, direction: Direction) -> u32 {
        match direction {
            Direction::Egress => self.source,
            Direction::Ingress => self.destination,
        }
    }

    /// The other side's.
    fn other(self, direction: Direction) -> u32 {
        match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        }
    }

    /// Registers that an address takes.
    fn regs(self) -> u8 {
        self.len / 4
    }
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

/// The filters of one purpose in one namespace.
#[derive(Debug)]
pub struct Filter {
    nft: Nft,
    purpose: Purpose,
    /// What is programmed; none when that is not known.
    known: Option<filter::Table>,
}

impl Filter {
    /// Of a namespace. What an earlier process programmed goes on until [`Filter::set`].
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn open(namespace: &Namespace, purpose: Purpose) -> Result<Filter> {
        Ok(Filter { nft: Nft::open(namespace)?, purpose, known: None })
    }

    /// Brings the filters to what is wanted, in one step, by what has changed since the last call. The first call puts everything
    /// anew, in one step too: no packet meets a place without its filters. When nothing is guarded, nothing is left.
    ///
    /// # Errors
    /// What the kernel says; then the old state holds, and the next call puts everything anew.
    pub fn set(&mut self, wanted: &Desired) -> Result<usize> {
        let known = self.known.take();
        let anew = known.as_ref().is_none_or(filter::Table::is_empty);
        let is_first = known.is_none();
        let mut table = known.unwrap_or_default();
        let changes = table.set(wanted);
        let mut batch = Batch::new();
        if is_first || (!changes.is_empty() && (anew || table.is_empty())) {
            for family in FAMILIES {
                batch.delete_table(self.purpose.table(family));
            }
            if table.is_empty() {
                self.nft.commit(batch)?;
                self.known = Some(table);
                return Ok(changes.len());
            }
            for family in FAMILIES {
                base(&mut batch, self.purpose, family);
            }
        }
        for change in &changes {
            add(&mut batch, self.purpose, change);
        }
        self.nft.commit(batch)?;
        self.known = Some(table);
        if !changes.is_empty() {
            fast::forget_flows(&mut self.nft)?;
        }
        Ok(changes.len())
    }

    /// What was dropped, of each family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn dropped(&mut self) -> Result<Vec<Counter>> {
        let mut all = self.nft.counters(self.purpose.table(Family::V4))?;
        all.extend(self.nft.counters(self.purpose.table(Family::V6))?);
        Ok(all)
    }
}

/// Whether what a bridge of the namespace forwards passes its filters too.
///
/// # Errors
/// When the kernel cannot do it, and it was asked for.
pub fn filter_bridged(namespace: &Namespace, on: bool) -> Result<()> {
    if on {
        short::track(namespace, true)?;
    }
    namespace.run(|| {
        for name in ["iptables", "ip6tables"] {
            let name = format!("bridge/bridge-nf-call-{name}");
            if on || Path::new("/proc/sys/net").join(&name).exists() {
                sysctl(&name, if on { "1" } else { "0" })?;
            }
        }
        Result::Ok(())
    })??;
    if on { Ok(()) } else { short::track(namespace, false) }
}

/// The tables without anything in them.
fn base(batch: &mut Batch, purpose: Purpose, family: Family) {
    let (t, l) = (purpose.table(family), Layout::of(family));
    batch.add_table(t);
    let twice =
        Set { name: "self".into(), key: vec![l.len; 2], key_types: vec![l.kind; 2], ..Set::default() };
    batch.add_set(t, &twice);
    let state = |bits: &'static [u8; 4]| {
        [
            Expr::Ct { key: CtKey::State, to: Reg(0) },
            Expr::Bitwise { from: Reg(0), to: Reg(0), mask: bits, xor: &[0; 4] },
            Expr::Cmp { from: Reg(0), op: Cmp::Ne, value: &[0; 4] },
        ]
    };
    const ESTABLISHED_BITS: [u8; 4] = ESTABLISHED.to_ne_bytes();
    const RELATED_BITS: [u8; 4] = RELATED.to_ne_bytes();
    let accept = [Expr::Verdict(Verdict::Accept)];
    let answer = [
        Expr::Ct { key: CtKey::Direction, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[REPLY] },
    ];
    let discovery = [
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[ICMP6] },
        Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 1, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Gt, value: &[DISCOVERY_FIRST - 1] },
        Expr::Cmp { from: Reg(0), op: Cmp::Lt, value: &[DISCOVERY_LAST + 1] },
    ];
    let itself = [
        l.address(l.source, 0),
        l.address(l.destination, l.regs()),
        Expr::Lookup { set: "self", from: Reg(0), to: None, inverted: false },
    ];
    for direction in Direction::ALL {
        let name = name(direction);
        let map = |name: &str, to| Set {
            name: name.into(),
            key: vec![l.len],
            key_types: vec![l.kind],
            map: Some(to),
            ..Set::default()
        };
        batch.add_set(t, &map(name, MapTo::Verdict));
        batch.add_set(t, &map(&drops(direction), MapTo::Counter));
        batch.add_counter(t, name);
        let chain = BaseChain {
            kind: ChainKind::Filter,
            hook: Hook::Forward,
            priority: purpose.priority(direction),
            drop: false,
            device: None,
        };
        // A chain and a map may not have one name.
        let hook = format!("{name}-hook");
        batch.add_base_chain(t, &hook, &chain);
        let mut rule = |parts: &[&[Expr<'_>]]| batch.add_rule(t, &hook, &parts.concat());
        rule(&[&answer, &state(&ESTABLISHED_BITS), &accept]);
        rule(&[&state(&RELATED_BITS), &accept]);
        if family == Family::V6 {
            rule(&[&discovery, &accept]);
        }
        rule(&[&itself, &accept]);
        rule(&[&[l.address(l.guarded(direction), 0), Expr::VerdictMap { set: name, from: Reg(0) }]]);
    }
}

fn drops(direction: Direction) -> String {
    format!("{}-drops", name(direction))
}

fn set_name(id: u32) -> String {
    format!("s{id}")
}

fn class_name(id: u32) -> String {
    format!("c{id}")
}

/// The parts of a set's keys, what they are, and whether they are ranges.
fn keys(kind: SetKind, l: Layout) -> (Vec<u8>, Vec<KeyType>, bool) {
    use KeyType::{Port, Protocol};
    match kind {
        SetKind::Addresses => (vec![l.len], vec![l.kind], false),
        SetKind::Ranges => (vec![l.len, 1], vec![l.kind, Protocol], true),
        SetKind::Ports => (vec![1, 2], vec![Protocol, Port], true),
        SetKind::Named => (vec![l.len, 1, 2], vec![l.kind, Protocol, Port], false),
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn padded(byte: u8) -> [u8; 4] {
    [byte, 0, 0, 0]
}

fn padded_port(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

fn element(element: &Element) -> NewElement {
    let (key, key_end) = match element {
        Element::Address(ip) => (octets(*ip), None),
        Element::Range(r) => {
            let end = |ip, protocol| [octets(ip), padded(protocol).to_vec()].concat();
            (end(r.first, ANY_PROTOCOL.0), Some(end(r.last, ANY_PROTOCOL.1)))
        }
        Element::Ports(r) => {
            let end = |port| [padded(r.protocol), padded_port(port)].concat();
            (end(r.first), Some(end(r.last)))
        }
        Element::Named(ip, (protocol, port)) => {
            ([octets(*ip), padded(*protocol).to_vec(), padded_port(*port).to_vec()].concat(), None)
        }
    };
    NewElement { key, key_end, data: None }
}

fn guard(ip: IpAddr, data: ElementData) -> NewElement {
    NewElement { key: octets(ip), key_end: None, data: Some(data) }
}

fn add(batch: &mut Batch, purpose: Purpose, change: &Change) {
    match change {
        Change::AddSet(family, id, kind) => {
            let (key, key_types, interval) = keys(*kind, Layout::of(*family));
            let set = Set { name: set_name(*id), key, key_types, interval, ..Set::default() };
            batch.add_set(purpose.table(*family), &set);
        }
        Change::RemoveSet(family, id) => batch.delete_set(purpose.table(*family), &set_name(*id)),
        Change::AddElement(family, id, e) => {
            batch.add_element(purpose.table(*family), &set_name(*id), element(e));
        }
        Change::RemoveElement(family, id, e) => {
            batch.delete_element(purpose.table(*family), &set_name(*id), element(e));
        }
        Change::AddClass(family, direction, id, steps) => {
            class(batch, purpose.table(*family), Layout::of(*family), *direction, &class_name(*id), steps);
        }
        Change::RemoveClass(family, _, id) => {
            batch.flush_chain(purpose.table(*family), &class_name(*id));
            batch.delete_chain(purpose.table(*family), &class_name(*id));
        }
        Change::Guard(direction, ip, id) => {
            let (t, counter) = (purpose.table(Family::of(*ip)), format!("{}-{ip}", name(*direction)));
            batch.add_counter(t, &counter);
            batch.add_element(t, &drops(*direction), guard(*ip, ElementData::Counter(counter)));
            let class = ElementData::Verdict(Verdict::Goto(class_name(*id)));
            batch.add_element(t, name(*direction), guard(*ip, class));
        }
        Change::Unguard(direction, ip, id) => {
            let (t, counter) = (purpose.table(Family::of(*ip)), format!("{}-{ip}", name(*direction)));
            let class = ElementData::Verdict(Verdict::Goto(class_name(*id)));
            batch.delete_element(t, name(*direction), guard(*ip, class));
            batch.delete_element(t, &drops(*direction), guard(*ip, ElementData::Counter(counter.clone())));
            batch.delete_counter(t, &counter);
        }
        Change::AddSelf(ip) | Change::RemoveSelf(ip) => {
            let t = purpose.table(Family::of(*ip));
            let element = NewElement { key: [octets(*ip), octets(*ip)].concat(), ..NewElement::default() };
            if matches!(change, Change::AddSelf(_)) {
                batch.add_element(t, "self", element);
            } else {
                batch.delete_element(t, "self", element);
            }
        }
    }
}

/// The chain of a class: what one of its rules matches passes, the rest is counted and dropped.
fn class(batch: &mut Batch, t: Table, l: Layout, direction: Direction, chain: &str, steps: &[Step]) {
    batch.add_chain(t, chain);
    let protocol = |to| Expr::Meta { key: MetaKey::L4Proto, to: Reg(to) };
    let port = |to| Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(to) };
    for step in steps {
        let names = [step.peers, step.ports].map(|set| set.map(|(id, kind)| (set_name(id), kind)));
        let mut rule: Vec<Expr<'_>> = Vec::new();
        for (set, kind) in names.iter().flatten() {
            match kind {
                SetKind::Addresses => rule.push(l.address(l.other(direction), 0)),
                SetKind::Ranges => rule.extend([l.address(l.other(direction), 0), protocol(l.regs())]),
                SetKind::Ports => rule.extend([protocol(0), port(1)]),
                SetKind::Named => {
                    rule.extend([l.address(l.destination, 0), protocol(l.regs()), port(l.regs() + 1)]);
                }
            }
            rule.push(Expr::Lookup { set, from: Reg(0), to: None, inverted: false });
        }
        rule.push(Expr::Verdict(Verdict::Accept));
        batch.add_rule(t, chain, &rule);
    }
    let whose = l.address(l.guarded(direction), 0);
    batch.add_rule(t, chain, &[whose, Expr::CountBy { set: &drops(direction), from: Reg(0) }]);
    batch.add_rule(t, chain, &[Expr::Count(name(direction)), Expr::Verdict(Verdict::Drop)]);
}
