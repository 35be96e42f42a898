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

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::link::{MacAddr, Net, Peer};
use crate::machine::{default_route, quiet};
use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, CtKey, Expr, Family, Hook, KeyType, MetaKey, NewElement, Nft,
    PayloadBase, Reg, Set, Table, Verdict,
};
use crate::ns::{Namespace, sysctl};
use crate::route::{Neighbour, Route};

/// Whom machines send what leaves their network: the switch, the same on every host.
pub const ROUTER_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Its Ethernet address.
pub const ROUTER_MAC: MacAddr = MacAddr([0x0e, 0, 0, 0, 0, 1]);
/// Whom the switch sends it: the host's end, which needs no address of its own and so has this one in name only.
const HOST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
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
pub(crate) const INSIDE: Table = Table { family: Family::Ip, name: "skep-egress" };
/// The same on the host, for all networks.
pub(crate) const OUTSIDE: Table = Table { family: Family::Ip, name: "skep-egress" };
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
    switch.run(|| quiet(UP).and_then(|()| switch_sysctls()))??;
    host.run(|| quiet(&name).and_then(|()| sysctl("ipv4/ip_forward", "1")))??;

    inside.set_up(ours.index)?;
    for old in inside.addresses(ours.index)?.into_iter().filter(|a| a.addr() != IpAddr::V4(own)) {
        inside.delete_address(ours.index, old)?;
    }
    inside.add_address(ours.index, single(own))?;
    inside.set_neighbour(ours.index, Neighbour { ip: HOST_IP.into(), mac: theirs.mac })?;
    inside.replace_route(&default_route(HOST_IP.into(), ours.index))?;
    inside.add_address(bridge, single(ROUTER_IP))?;
    for subnet in subnets {
        let route = Route { destination: IpNet::V4(*subnet), gateway: None, link: bridge, source: None };
        inside.replace_route(&route)?;
    }
    Nft::open(switch)?.commit(inside_filters())?;

    outside.set_up(theirs.index)?;
    outside.set_neighbour(theirs.index, Neighbour { ip: own.into(), mac: ours.mac })?;
    outside.replace_route(&Route {
        destination: single(own),
        gateway: None,
        link: theirs.index,
        source: None,
    })
}

pub(crate) fn single(ip: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(ip))
}

/// The switch's address on its host: of an interface's number, which nothing else there has.
pub(crate) fn address_of(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + (index & ((1 << ADDRESS_BITS) - 1)))
}

fn switch_sysctls() -> Result<()> {
    sysctl("ipv4/ip_forward", "1")?;
    sysctl("ipv4/conf/all/send_redirects", "0")?;
    sysctl("ipv4/conf/all/rp_filter", "0")?;
    sysctl("ipv4/conf/default/rp_filter", "0")
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
    batch
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
    Nft::open(host)?.commit(batch)
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
