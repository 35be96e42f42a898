//! Who may speak as whom on a bridge: an interface's packets must come from addresses that are its own.
//!
//! A packet passes, in this order:
//!
//! | Counter | Dropped |
//! |---|---|
//! | `mac` | from an Ethernet address that is not one of the interface's |
//! | `dhcp`, `ra` | answers of DHCP servers, advertisements of routers |
//! | `ip` | IPv4 or IPv6 from an address that does not belong to the Ethernet address |
//! | `arp` | ARP that tells somebody else's address, and the same of IPv6 |
//! | `other` | anything that is neither IP nor ARP |
//!
//! Where it was asked for with [`count_for`], each interface has counters of its own beside: `mac@INTERFACE` and so on.

use std::net::IpAddr;

use skep_netplan::fabric::Mac;

use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, ElementData, Expr, Hook, MapTo, MetaKey, NewElement, PayloadBase, Reg,
    Set, Table, Verdict,
};

/// Before anything else that looks at bridged packets.
const PRIORITY: i32 = -300;
/// Names of interfaces are this long in the kernel.
const NAME_BYTES: usize = 16;
/// Why packets are dropped here.
pub(crate) const REASONS: [&str; 6] = ["mac", "dhcp", "ra", "ip", "arp", "other"];
/// The set of Ethernet addresses that may be spoken from.
pub(crate) const MACS: &str = "macs";
/// All sets whose keys begin with an interface.
pub(crate) const SETS: [&str; 3] = [MACS, "allowed4", "allowed6"];

fn element(key: Vec<u8>) -> NewElement {
    NewElement { key, ..NewElement::default() }
}

/// Interface and Ethernet address, as keys have them.
fn source(interface: &str, mac: &Mac) -> Vec<u8> {
    let mut key = interface.as_bytes().to_vec();
    key.resize(NAME_BYTES, 0);
    key.extend(mac);
    key.extend([0, 0]);
    key
}

/// What lets an IP address through from an Ethernet address behind an interface: the set, and its element.
pub(crate) fn allowed(interface: &str, mac: &Mac, ip: IpAddr) -> (&'static str, NewElement) {
    let mut key = source(interface, mac);
    let set = match ip {
        IpAddr::V4(ip) => {
            key.extend(ip.octets());
            "allowed4"
        }
        IpAddr::V6(ip) => {
            key.extend(ip.octets());
            "allowed6"
        }
    };
    (set, element(key))
}

/// What lets an Ethernet address through from an interface: an element of the set [`MACS`].
pub(crate) fn allowed_mac(interface: &str, mac: &Mac) -> NewElement {
    element(source(interface, mac))
}

/// Whether an element of one of the sets is an interface's.
pub(crate) fn is_of(key: &[u8], interface: &str) -> bool {
    key.get(..NAME_BYTES) == source(interface, &[0; 6]).get(..NAME_BYTES)
}

/// The chain that counts and drops, and the map of interfaces' own counters.
fn place(reason: &str) -> (String, String) {
    (format!("drop-{reason}"), format!("by-{reason}"))
}

fn counter(reason: &str, interface: &str) -> String {
    format!("{reason}@{interface}")
}

/// The interface and the place of the reason in [`REASONS`] that a counter is of, if it is an interface's.
pub(crate) fn counted(name: &str) -> Option<(&str, usize)> {
    let (reason, interface) = name.split_once('@')?;
    Some((interface, REASONS.iter().position(|r| *r == reason)?))
}

fn interface_key(interface: &str) -> Vec<u8> {
    let mut key = interface.as_bytes().to_vec();
    key.resize(NAME_BYTES, 0);
    key
}

/// Counts what is dropped of an interface's packets by itself too, from now on.
pub(crate) fn count_for(batch: &mut Batch, table: Table, interface: &str) {
    for reason in REASONS {
        let counter = counter(reason, interface);
        batch.add_counter(table, &counter);
        let data = Some(ElementData::Counter(counter));
        let element = NewElement { key: interface_key(interface), data, ..NewElement::default() };
        batch.add_element(table, &place(reason).1, element);
    }
}

/// The interface is gone, and its counters with it.
pub(crate) fn forget(batch: &mut Batch, table: Table, interface: &str) {
    for reason in REASONS {
        let element = NewElement { key: interface_key(interface), ..NewElement::default() };
        batch.delete_element(table, &place(reason).1, element);
        batch.delete_counter(table, &counter(reason, interface));
    }
}

/// Where the key's parts are: four registers for the interface, two for the Ethernet address, then the IP address.
const INTERFACE: Reg = Reg(0);
const ETHER: Reg = Reg(4);
const ADDRESS: Reg = Reg(6);
/// For comparisons.
const ANY: Reg = Reg(12);

fn bytes(base: PayloadBase, offset: u32, len: u32, to: Reg) -> Expr<'static> {
    Expr::Payload { base, offset, len, to }
}

/// Matches when some bytes are so.
fn is<'a>(base: PayloadBase, offset: u32, value: &'a [u8]) -> [Expr<'a>; 2] {
    // Values here are numbers of protocols and ports.
    let len = u32::try_from(value.len()).unwrap_or(4);
    [bytes(base, offset, len, ANY), Expr::Cmp { from: ANY, op: Cmp::Eq, value }]
}

/// Matches what comes from an interface.
pub(crate) fn from_interface(name: &str) -> Trusted {
    let mut name = name.as_bytes().to_vec();
    name.resize(NAME_BYTES, 0);
    Trusted { name, inverted: false }
}

/// Matches what comes from elsewhere than interfaces whose names begin so.
pub(crate) fn from_others(prefix: &str) -> Trusted {
    Trusted { name: prefix.as_bytes().to_vec(), inverted: true }
}

/// Interfaces whose packets are not looked at.
pub(crate) struct Trusted {
    name: Vec<u8>,
    inverted: bool,
}

/// A table that lets nothing through yet, but from who is trusted. What is there of it already stays.
pub(crate) fn filters(batch: &mut Batch, table: Table, trusted: &Trusted) {
    use PayloadBase::{Link, Network, Transport};
    const NAME: u8 = NAME_BYTES as u8;
    batch.add_table(table);
    for (name, key) in [(MACS, &[NAME, 6][..]), ("allowed4", &[NAME, 6, 4]), ("allowed6", &[NAME, 6, 16])] {
        batch.add_set(table, &Set { name: name.into(), key: key.into(), ..Set::default() });
    }
    for reason in REASONS {
        let (chain, by) = place(reason);
        batch.add_counter(table, reason);
        batch.add_set(
            table,
            &Set { name: by.clone(), key: vec![NAME], map: Some(MapTo::Counter), ..Set::default() },
        );
        batch.add_chain(table, &chain);
        batch.flush_chain(table, &chain);
        let whose = Expr::Meta { key: MetaKey::Iifname, to: INTERFACE };
        // In a rule of its own: it ends where an interface has no counter.
        batch.add_rule(table, &chain, &[whose, Expr::CountBy { set: &by, from: INTERFACE }]);
        batch.add_rule(table, &chain, &[Expr::Count(reason), Expr::Verdict(Verdict::Drop)]);
    }
    let ingress = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: PRIORITY,
        drop: false,
        device: None,
    };
    batch.add_base_chain(table, "ingress", &ingress);
    batch.flush_chain(table, "ingress");
    for chain in ["ip4", "arp", "ip6", "neighbours"] {
        batch.add_chain(table, chain);
        batch.flush_chain(table, chain);
    }
    let drop = |reason| [Expr::Verdict(Verdict::Goto(place(reason).0))];
    let who = [Expr::Meta { key: MetaKey::Iifname, to: INTERFACE }, bytes(Link, 6, 6, ETHER)];
    let in_set = |set, inverted| Expr::Lookup { set, from: INTERFACE, to: None, inverted };
    let accept = || Expr::Verdict(Verdict::Accept);
    let goto = |chain: &str| Expr::Verdict(Verdict::Goto(chain.into()));
    let mut rule = |chain: &str, parts: &[&[Expr<'_>]]| batch.add_rule(table, chain, &parts.concat());

    let op = if trusted.inverted { Cmp::Ne } else { Cmp::Eq };
    let from_trusted = [
        Expr::Meta { key: MetaKey::Iifname, to: INTERFACE },
        Expr::Cmp { from: INTERFACE, op, value: &trusted.name },
        accept(),
    ];
    rule("ingress", &[&from_trusted]);
    // What is nearly all that comes is let through first: who may speak from an address may from its Ethernet address, so one lookup
    // says both. Only what fails it is looked at closer, to be counted as what it is.
    let udp = |offset| [bytes(Network, offset, 1, ANY), Expr::Cmp { from: ANY, op: Cmp::Ne, value: &[17] }];
    let right4 = [bytes(Network, 12, 4, ADDRESS), in_set("allowed4", false), accept()];
    rule("ingress", &[&is(Link, 12, &[0x08, 0x00]), &udp(9), &who, &right4]);
    rule("ingress", &[&who, &[in_set(MACS, true)], &drop("mac")]);
    for (kind, chain) in [([0x08, 0x00], "ip4"), ([0x08, 0x06], "arp"), ([0x86, 0xdd], "ip6")] {
        rule("ingress", &[&is(Link, 12, &kind), &[goto(chain)]]);
    }
    rule("ingress", &[&drop("other")]);

    // A fragment has no ports to look at, but then it has no beginning of a packet either.
    rule("ip4", &[&is(Network, 9, &[17]), &is(Transport, 0, &67u16.to_be_bytes()), &drop("dhcp")]);
    rule("ip4", &[&who, &right4]);
    rule("ip4", &[&drop("ip")]);

    // Who tells, and who sends: both must be the same, and have the address that is told.
    let told = [
        Expr::Meta { key: MetaKey::Iifname, to: INTERFACE },
        bytes(Network, 8, 6, ETHER),
        bytes(Network, 14, 4, ADDRESS),
    ];
    rule("arp", &[&told, &[in_set("allowed4", true)], &drop("arp")]);
    rule("arp", &[&who, &[bytes(Network, 14, 4, ADDRESS), in_set("allowed4", true)], &drop("arp")]);
    rule("arp", &[&[accept()]]);

    rule("ip6", &[&is(Network, 6, &[17]), &is(Transport, 0, &547u16.to_be_bytes()), &drop("dhcp")]);
    rule("ip6", &[&is(Network, 6, &[58]), &is(Transport, 0, &[134]), &drop("ra")]);
    rule("ip6", &[&is(Network, 6, &[58]), &is(Transport, 0, &[136]), &[goto("neighbours")]]);
    rule("ip6", &[&who, &[bytes(Network, 8, 16, ADDRESS), in_set("allowed6", false), accept()]]);
    // An interface's own address on the link is only good for asking neighbours, and so is none at all.
    let asks = [is(Network, 6, &[58]), is(Transport, 0, &[135])].concat();
    rule("ip6", &[&asks, &is(Network, 8, &[0xfe, 0x80]), &[accept()]]);
    rule("ip6", &[&asks, &is(Network, 8, &[0; 16]), &[accept()]]);
    // What every system says by itself on a link, which groups it is in and that it looks for a router, leads nowhere
    // here. It is no forgery, and not counted.
    for own in [&[0xfe, 0x80][..], &[0; 16]] {
        let unheard = [Expr::Verdict(Verdict::Drop)];
        rule("ip6", &[&is(Network, 6, &[58]), &is(Network, 8, own), &unheard]);
    }
    // Membership reports come behind an option.
    rule("ip6", &[&is(Network, 6, &[0]), &is(Network, 8, &[0xfe, 0x80]), &[Expr::Verdict(Verdict::Drop)]]);
    rule("ip6", &[&is(Network, 6, &[0]), &is(Network, 8, &[0; 16]), &[Expr::Verdict(Verdict::Drop)]]);
    rule("ip6", &[&drop("ip")]);
    // What is told must be the teller's: the target of the advertisement.
    rule("neighbours", &[&who, &[bytes(Transport, 8, 16, ADDRESS), in_set("allowed6", false), accept()]]);
    rule("neighbours", &[&drop("arp")]);
}
