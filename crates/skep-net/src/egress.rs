//! The way out of a network: from its switch through the host, under the host's address.
//!
//! ```text
//! machine ── br (169.254.1.1) ── up ══ sku… ── host ── outside
//!            └─ hidden behind up's address     └─ hidden behind the host's
//! ```
//!
//! A switch's namespace routes between its bridge and a pair of interfaces to the host. Addresses are changed twice: in the
//! switch, since equal addresses of other tenants must be told apart on the host, and on the host. Only answers come in.
//! What comes out never reaches the host itself, other hosts, other networks, or what is only on the link (where clouds keep
//! their metadata); what it sends to the port of VXLAN is dropped, for it would come from a host's address.
//!
//! Public addresses are the exception: they are let in (see [`crate::edge`]) and leave as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::link::{MacAddr, Net, Peer};
use crate::machine::default_route;
use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, CtKey, Expr, Family, Hook, KeyType, MetaKey, NewElement, Nft,
    PayloadBase, Reg, Set, Table, Verdict,
};
use crate::ns::{Namespace, sysctl};
use crate::route::{Neighbour, Route};

/// Whom machines send what leaves their network: the switch, the same on every host.
pub const ROUTER_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same over IPv6, for who has a public address of that family. Everybody else has no way out there: nothing is hidden in IPv6.
pub const ROUTER_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0x101);
/// Its Ethernet address.
pub const ROUTER_MAC: MacAddr = MacAddr([0x0e, 0, 0, 0, 0, 1]);
/// Whom the switch sends it: the host's end, which needs no address of its own and so has this one in name only.
const HOST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
/// The same over IPv6, and the switch's end, whom the host sends what comes for public addresses.
const HOST_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0x102);
pub(crate) const SWITCH_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0x103);
/// The switch's bridge, with its ending zero.
const BRIDGED: &[u8] = b"br\0";
/// The switch's end.
pub(crate) const UP: &str = "up";
/// What the host's ends are called, before the network's number in hexadecimal.
pub(crate) const PREFIX: &str = "sku";
/// Addresses of switches on their host: shared address space (RFC 6598), which nobody outside is reached by.
const FIRST: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const ADDRESS_BITS: u32 = 22;
/// The largest packet between a switch and its host.
const MTU: u32 = 1500;
/// On a switch: what may pass, and whose source is hidden.
const INSIDE: Table = Table { family: Family::Ip, name: "skep-egress" };
/// The same on the host, for all networks.
const OUTSIDE: Table = INSIDE;
/// Of IPv6, in both places: only public addresses come and go.
const SIX: Table = Table { family: Family::Ip6, name: "skep-egress" };
/// The mark of packets that come from a network, until they have left.
const MARK: u32 = 0x534b_0001;
/// On a switch, the set of what may begin a connection from outside: see [`crate::entrance`].
pub(crate) const ENTRY: &str = "entry";
/// On a switch and on the host, the set of public addresses: they are nobody's to hide.
pub(crate) const PUBLIC: &str = "public";
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SNAT: i32 = 100;
/// Connection tracking's bits for packets of a known connection and what belongs to one.
const ESTABLISHED_OR_RELATED: u32 = 0b110;
/// What connection tracking says of the direction of answers.
const REPLY: [u8; 1] = [1];
const UDP: u8 = 17;
/// How addresses begin that are only on a link.
const LINK_LOCAL: [u8; 2] = [169, 254];

/// What differs between the families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The table on a switch, and on its host.
    pub(crate) inside: Table,
    /// Bytes of an address, and where source and destination are.
    pub(crate) len: u8,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

impl Layout {
    pub(crate) const ALL: [Layout; 2] = [
        Layout { inside: INSIDE, len: 4, source: 12, destination: 16 },
        Layout { inside: SIX, len: 16, source: 8, destination: 24 },
    ];

    pub(crate) fn of(ip: IpAddr) -> Layout {
        Layout::ALL[usize::from(ip.is_ipv6())]
    }
}

/// An address as packets have it.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The name of the host's end.
pub(crate) fn host_end(vni: u32) -> String {
    format!("{PREFIX}{vni:x}")
}

/// Leads a switch's network out through the host. Called again, it changes nothing that is right.
pub(crate) fn set_up(
    host: &Namespace,
    switch: &Namespace,
    inside: &mut Net,
    bridge: u32,
    vni: u32,
    subnets: &[Ipv4Net],
) -> Result<()> {
    let mut outside = Net::open(host)?;
    let name = host_end(vni);
    if inside.link(UP)?.is_none() {
        outside.delete_link(&name)?;
        let peer = Peer { name: UP, mac: None, namespace: Some(switch) };
        outside.add_veth(&name, None, MTU, &peer)?;
    }
    let (ours, theirs) = (inside.expect_link(UP)?, outside.expect_link(&name)?);
    let own = address_of(theirs.index);
    switch.run(|| silent(UP).and_then(|()| switch_sysctls()))??;
    host.run(|| silent(&name).and_then(|()| sysctl("ipv4/ip_forward", "1")))??;

    inside.set_up(ours.index)?;
    for old in inside.addresses(ours.index)?.into_iter().filter(|a| a.addr() != IpAddr::V4(own)) {
        inside.delete_address(ours.index, old)?;
    }
    inside.add_address(ours.index, single(own.into()))?;
    for up in [IpAddr::from(HOST_IP), HOST_IP6.into()] {
        inside.set_neighbour(ours.index, Neighbour { ip: up, mac: theirs.mac })?;
        inside.replace_route(&default_route(up, ours.index))?;
    }
    inside.add_address(bridge, single(ROUTER_IP.into()))?;
    for subnet in subnets {
        let route = Route { destination: IpNet::V4(*subnet), gateway: None, link: bridge, source: None };
        inside.replace_route(&route)?;
    }
    Nft::open(switch)?.commit(inside_filters())?;

    outside.set_up(theirs.index)?;
    for down in [IpAddr::from(own), SWITCH_IP6.into()] {
        outside.set_neighbour(theirs.index, Neighbour { ip: down, mac: ours.mac })?;
    }
    outside.replace_route(&Route {
        destination: single(own.into()),
        gateway: None,
        link: theirs.index,
        source: None,
    })
}

pub(crate) fn single(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// No packets of its own on an interface that only leads on.
fn silent(interface: &str) -> Result<()> {
    sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "0")?;
    // No addresses that are made up.
    sysctl(&format!("ipv6/conf/{interface}/addr_gen_mode"), "1")?;
    sysctl(&format!("ipv6/conf/{interface}/accept_ra"), "0")
}

/// The switch's address on its host: of an interface's number, which nothing else there has.
pub(crate) fn address_of(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + (index & ((1 << ADDRESS_BITS) - 1)))
}

fn switch_sysctls() -> Result<()> {
    sysctl("ipv4/ip_forward", "1")?;
    sysctl("ipv4/conf/all/send_redirects", "0")?;
    sysctl("ipv4/conf/all/rp_filter", "0")?;
    sysctl("ipv4/conf/default/rp_filter", "0")?;
    sysctl("ipv6/conf/all/accept_ra", "0")?;
    sysctl("ipv6/conf/all/forwarding", "1")
}

pub(crate) fn named<'a>(key: MetaKey, name: &'a [u8]) -> [Expr<'a>; 2] {
    [Expr::Meta { key, to: Reg(0) }, Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: name }]
}

const KNOWN: [Expr<'static>; 3] = [
    Expr::Ct { key: CtKey::State, to: Reg(0) },
    Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &ESTABLISHED_OR_RELATED.to_ne_bytes(), xor: &[0; 4] },
    Expr::Cmp { from: Reg(0), op: Cmp::Ne, value: &[0; 4] },
];

const ACCEPT: [Expr<'static>; 1] = [Expr::Verdict(Verdict::Accept)];
/// What is counted of packets that are dropped on a host: sent to the host itself, to one of all hosts, to what is only on the link,
/// as packets of networks; and what comes for a network that it did not ask for.
const DROPPED: [&str; 5] = ["to-this-host", "to-hosts", "to-the-link", "vxlan", "from-outside"];

fn chain(kind: ChainKind, hook: Hook, drop: bool) -> BaseChain<'static> {
    let priority = match kind {
        ChainKind::Filter => PRIORITY_FILTER,
        ChainKind::Nat => PRIORITY_SNAT,
    };
    BaseChain { kind, hook, priority, drop, device: None }
}

/// In the switch: out of the bridge everything, into it only answers, and to the switch itself nothing.
fn inside_filters() -> Batch {
    // With its ending zero: not only the beginning of a name.
    let up = b"up\0";
    let mut batch = Batch::new();
    batch.delete_table(INSIDE);
    batch.add_table(INSIDE);
    batch.add_set(INSIDE, &Set { name: PUBLIC.into(), key: vec![4], ..Set::default() });
    let kinds = vec![KeyType::Ipv4, KeyType::Protocol, KeyType::Port, KeyType::Ipv4];
    let entry =
        Set { name: ENTRY.into(), key: vec![4, 1, 2, 4], key_types: kinds, interval: true, ..Set::default() };
    batch.add_set(INSIDE, &entry);
    batch.add_base_chain(INSIDE, "input", &chain(ChainKind::Filter, Hook::Input, true));
    batch.add_rule(INSIDE, "input", &[&KNOWN[..], &ACCEPT].concat());
    batch.add_base_chain(INSIDE, "forward", &chain(ChainKind::Filter, Hook::Forward, true));
    batch.add_rule(INSIDE, "forward", &[&KNOWN[..], &ACCEPT].concat());
    batch.add_rule(INSIDE, "forward", &[&named(MetaKey::Oifname, up)[..], &ACCEPT].concat());
    // Public address, protocol, port, and who asks.
    let asked = [
        Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: Reg(0) },
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(1) },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(2) },
        Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, to: Reg(3) },
        Expr::Lookup { set: ENTRY, from: Reg(0), to: None, inverted: false },
    ];
    batch.add_rule(INSIDE, "forward", &[&named(MetaKey::Iifname, up)[..], &asked, &ACCEPT].concat());
    // What the bridge forwards comes by where it is filtered by connection, and is for those filters to judge.
    let bridged = [named(MetaKey::Iifname, BRIDGED), named(MetaKey::Oifname, BRIDGED)].concat();
    batch.add_rule(INSIDE, "forward", &[&bridged[..], &ACCEPT].concat());
    batch.add_base_chain(INSIDE, "postrouting", &chain(ChainKind::Nat, Hook::Postrouting, false));
    let private = [
        Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, to: Reg(0) },
        Expr::Lookup { set: PUBLIC, from: Reg(0), to: None, inverted: true },
        Expr::Masquerade,
    ];
    batch.add_rule(INSIDE, "postrouting", &[&named(MetaKey::Oifname, up)[..], &private].concat());
    inside_filters6(&mut batch);
    batch
}

/// The same of IPv6: out only public addresses, and in what may begin a connection to one.
fn inside_filters6(batch: &mut Batch) {
    let up = b"up\0";
    batch.delete_table(SIX);
    batch.add_table(SIX);
    batch.add_set(SIX, &Set { name: PUBLIC.into(), key: vec![16], ..Set::default() });
    let kinds = vec![KeyType::Ipv6, KeyType::Protocol, KeyType::Port, KeyType::Ipv6];
    let entry = Set {
        name: ENTRY.into(),
        key: vec![16, 1, 2, 16],
        key_types: kinds,
        interval: true,
        ..Set::default()
    };
    batch.add_set(SIX, &entry);
    batch.add_base_chain(SIX, "input", &chain(ChainKind::Filter, Hook::Input, true));
    batch.add_base_chain(SIX, "forward", &chain(ChainKind::Filter, Hook::Forward, true));
    // Neighbours are asked for on the bridge: what it forwards is for filters by connection to judge.
    let bridged = [named(MetaKey::Iifname, BRIDGED), named(MetaKey::Oifname, BRIDGED)].concat();
    batch.add_rule(SIX, "forward", &[&bridged[..], &ACCEPT].concat());
    let public = [
        Expr::Payload { base: PayloadBase::Network, offset: 8, len: 16, to: Reg(0) },
        Expr::Lookup { set: PUBLIC, from: Reg(0), to: None, inverted: false },
    ];
    batch.add_rule(SIX, "forward", &[&named(MetaKey::Oifname, up)[..], &public, &ACCEPT].concat());
    batch.add_rule(SIX, "forward", &[&KNOWN[..], &ACCEPT].concat());
    let asked = [
        Expr::Payload { base: PayloadBase::Network, offset: 24, len: 16, to: Reg(0) },
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(4) },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(5) },
        Expr::Payload { base: PayloadBase::Network, offset: 8, len: 16, to: Reg(6) },
        Expr::Lookup { set: ENTRY, from: Reg(0), to: None, inverted: false },
    ];
    batch.add_rule(SIX, "forward", &[&named(MetaKey::Iifname, up)[..], &asked, &ACCEPT].concat());
    // Who has no public address is told at once that there is no way, and tries IPv4.
    batch.add_rule(
        SIX,
        "forward",
        &[&named(MetaKey::Oifname, up)[..], &[Expr::Refuse { v6: true }]].concat(),
    );
}

/// Sets the host's own filters, for all networks: `hosts` are never reached from one, nor `vxlan_port` anywhere. Hosts and ports
/// that were said before stay closed until the last network is gone from here.
///
/// # Errors
/// What the kernel says.
pub fn guard_host(host: &Namespace, hosts: &[Ipv4Addr], vxlan_port: u16) -> Result<()> {
    let mut batch = Batch::new();
    batch.add_table(OUTSIDE);
    batch.add_set(OUTSIDE, &Set { name: "hosts".into(), key: vec![4], ..Set::default() });
    batch.add_set(OUTSIDE, &Set { name: "carried".into(), key: vec![2], ..Set::default() });
    batch.add_set(OUTSIDE, &Set { name: PUBLIC.into(), key: vec![4], ..Set::default() });
    for ip in hosts {
        let element = NewElement { key: ip.octets().to_vec(), ..NewElement::default() };
        batch.add_element(OUTSIDE, "hosts", element);
    }
    let [a, b] = vxlan_port.to_be_bytes();
    batch.add_element(OUTSIDE, "carried", NewElement { key: vec![a, b, 0, 0], ..NewElement::default() });
    for counter in DROPPED {
        batch.add_counter(OUTSIDE, counter);
    }
    for (name, hook, kind) in [
        ("input", Hook::Input, ChainKind::Filter),
        ("forward", Hook::Forward, ChainKind::Filter),
        ("postrouting", Hook::Postrouting, ChainKind::Nat),
    ] {
        batch.add_base_chain(OUTSIDE, name, &chain(kind, hook, false));
        batch.flush_chain(OUTSIDE, name);
    }
    let from = named(MetaKey::Iifname, PREFIX.as_bytes());
    let to = named(MetaKey::Oifname, PREFIX.as_bytes());
    let address = Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: Reg(0) };
    let source = Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, to: Reg(0) };
    let in_set = |set| Expr::Lookup { set, from: Reg(0), to: None, inverted: false };
    let to_public = [address.clone(), in_set(PUBLIC)];
    let from_public = [source, in_set(PUBLIC)];
    let first_two = [Expr::Payload { base: PayloadBase::Network, offset: 16, len: 2, to: Reg(0) }];
    let link = [Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &LINK_LOCAL }];
    let udp = [
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[UDP] },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(0) },
    ];
    let mark = MARK.to_ne_bytes();
    let marked =
        [Expr::Immediate { to: Reg(0), value: &mark }, Expr::MetaSet { key: MetaKey::Mark, from: Reg(0) }];
    let is_answer = [
        Expr::Ct { key: CtKey::Direction, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &REPLY },
    ];
    let drop = |counter| [Expr::Count(counter), Expr::Verdict(Verdict::Drop)];
    let mut rule = |chain: &str, parts: &[&[Expr<'_>]]| batch.add_rule(OUTSIDE, chain, &parts.concat());
    rule("input", &[&from, &KNOWN, &ACCEPT]);
    rule("input", &[&from, &drop("to-this-host")]);
    rule("forward", &[&to, &KNOWN, &ACCEPT]);
    // From one network here to a public address in another: as from outside, under the host's address, or the own public one.
    rule("forward", &[&from, &to, &from_public, &to_public, &ACCEPT]);
    rule("forward", &[&from, &to, &to_public, &marked, &ACCEPT]);
    rule("forward", &[&to, &to_public, &ACCEPT]);
    rule("forward", &[&to, &drop("from-outside")]);
    // Answers go to whoever asked a public address, be it another host.
    rule("forward", &[&from, &KNOWN, &is_answer, &ACCEPT]);
    rule("forward", &[&from, &[address, in_set("hosts")], &drop("to-hosts")]);
    rule("forward", &[&from, &first_two, &link, &drop("to-the-link")]);
    rule("forward", &[&from, &udp, &[in_set("carried")], &drop("vxlan")]);
    rule("forward", &[&from, &from_public, &ACCEPT]);
    rule("forward", &[&from, &marked, &ACCEPT]);
    let is_marked = [
        Expr::Meta { key: MetaKey::Mark, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &mark },
    ];
    rule("postrouting", &[&is_marked, &[Expr::Masquerade]]);
    guard_host6(&mut batch, vxlan_port);
    Nft::open(host)?.commit(batch)
}

/// The host's own filters of IPv6: between networks and outside there are only public addresses, and the host itself is not reached.
fn guard_host6(batch: &mut Batch, vxlan_port: u16) {
    batch.add_table(SIX);
    batch.add_set(SIX, &Set { name: PUBLIC.into(), key: vec![16], ..Set::default() });
    for counter in DROPPED {
        batch.add_counter(SIX, counter);
    }
    for (name, hook) in [("input", Hook::Input), ("forward", Hook::Forward)] {
        batch.add_base_chain(SIX, name, &chain(ChainKind::Filter, hook, false));
        batch.flush_chain(SIX, name);
    }
    let from = named(MetaKey::Iifname, PREFIX.as_bytes());
    let to = named(MetaKey::Oifname, PREFIX.as_bytes());
    let port = vxlan_port.to_be_bytes();
    let is_public = |offset| {
        [
            Expr::Payload { base: PayloadBase::Network, offset, len: 16, to: Reg(0) },
            Expr::Lookup { set: PUBLIC, from: Reg(0), to: None, inverted: false },
        ]
    };
    let carried = [
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[UDP] },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &port },
    ];
    let drop = |counter| [Expr::Count(counter), Expr::Verdict(Verdict::Drop)];
    let mut rule = |chain: &str, parts: &[&[Expr<'_>]]| batch.add_rule(SIX, chain, &parts.concat());
    rule("input", &[&from, &KNOWN, &ACCEPT]);
    rule("input", &[&from, &drop("to-this-host")]);
    rule("forward", &[&from, &carried, &drop("vxlan")]);
    rule("forward", &[&to, &is_public(24), &ACCEPT]);
    rule("forward", &[&to, &drop("from-outside")]);
    rule("forward", &[&from, &is_public(8), &ACCEPT]);
    rule("forward", &[&from, &drop("to-hosts")]);
}

/// Whether any network is led out through a host.
pub(crate) fn is_used(host: &mut Net) -> Result<bool> {
    Ok(host.links()?.iter().any(|l| l.name.starts_with(PREFIX)))
}

/// Removes the host's filters when no network is led out here any more.
///
/// # Errors
/// What the kernel says.
pub fn unguard_host(host: &Namespace) -> Result<()> {
    if is_used(&mut Net::open(host)?)? {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.delete_table(OUTSIDE);
    batch.delete_table(SIX);
    Nft::open(host)?.commit(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_have_addresses_and_names_of_their_own() {
        assert_eq!(address_of(1).to_string(), "100.64.0.1");
        assert_eq!(address_of(0x40_0007), address_of(7), "numbers begin again after four million");
        assert!(host_end(u32::MAX).len() <= 15);
    }
}
