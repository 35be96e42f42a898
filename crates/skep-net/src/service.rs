//! Services in a machine: what [`skep_netplan::service`] plans, in nf_tables.
//!
//! A few rules, which never change, look everything up in maps:
//!
//! | Map | From | To |
//! |---|---|---|
//! | `frontends`, `nodeports` | address, protocol, port | the group's number, put into the packet's mark |
//! | `groups` | number | the chain that picks one of so many places at random |
//! | `endpoints` | number, place | address and port, which become the connection's destination |
//! | `affinity` | number, client | the endpoint that the client stays with, for a time |
//! | `live` | number, endpoint | (a set) that a client may stay with |
//! | `reject`, `drop` | address, protocol, port | (sets) nobody is there |
//! | `hairpin` | address twice | (a set) an endpoint that came to itself: its answers must come back through here |
//!
//! A lookup is the same for ten services and ten thousand, and a change touches some entries.

use std::net::{IpAddr, SocketAddr};

use skep_netplan::service::{Change, Family, Frontend, L4, Pick};

use crate::conntrack::Conntrack;
use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, CtKey, ElementData, Expr, Hook, MapTo, MetaKey, NatKind, NewElement,
    Nft, PayloadBase, Reg, Set, Table, Verdict,
};
use crate::ns::Namespace;

/// What the tables are called.
const NAME: &str = "skep-services";
/// The mark of packets whose source is to be hidden. Groups' numbers are below.
const HIDE: u32 = 0x4000_0000;
/// Where services' addresses are changed: where everybody does (`dstnat`).
const PRIORITY_DNAT: i32 = -100;
/// Before that: packets to where nobody is.
const PRIORITY_REFUSE: i32 = -110;
/// Where sources are hidden: where everybody does (`srcnat`).
const PRIORITY_SNAT: i32 = 100;
/// Connection tracking's bit for the first packets of a connection.
const NEW: u32 = 0b1000;
/// How long a client stays with an endpoint if the rule says nothing: each says its own.
const AFFINITY_DEFAULT_MS: u64 = 10_800_000;

fn table(family: Family) -> Table {
    let family = match family {
        Family::V4 => crate::nft::Family::Ip,
        Family::V6 => crate::nft::Family::Ip6,
    };
    Table { family, name: NAME }
}

/// What differs between the families.
#[derive(Clone, Copy)]
struct Layout {
    v6: bool,
    /// Bytes of an address.
    len: u8,
    /// Where addresses are in the header.
    source: u32,
    destination: u32,
}

impl Layout {
    const fn of(family: Family) -> Layout {
        match family {
            Family::V4 => Layout { v6: false, len: 4, source: 12, destination: 16 },
            Family::V6 => Layout { v6: true, len: 16, source: 8, destination: 24 },
        }
    }

    /// Registers that an address takes.
    fn regs(self) -> u8 {
        self.len / 4
    }

    fn address(self, offset: u32, to: Reg) -> Expr<'static> {
        Expr::Payload { base: PayloadBase::Network, offset, len: self.len.into(), to }
    }
}

/// The number of the group, from the mark.
const GROUP: Reg = Reg(0);
/// The endpoint: first its address, then its port. Before it there is room for the group's number.
const ENDPOINT: Reg = Reg(9);

/// The services of one machine.
#[derive(Debug)]
pub struct Services {
    nft: Nft,
    conntrack: Conntrack,
}

impl Services {
    /// Of a machine's namespace. What an earlier process programmed goes on until [`Services::replace`].
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn open(namespace: &Namespace) -> Result<Services> {
        Ok(Services { nft: Nft::open(namespace)?, conntrack: Conntrack::open(namespace)? })
    }

    /// Puts everything anew, in one step: no connection meets a machine without services. Connections that there are
    /// go on as they are.
    ///
    /// # Errors
    /// What the kernel says; then the old state holds.
    pub fn replace(&mut self, changes: &[Change]) -> Result<()> {
        let mut batch = Batch::new();
        for family in [Family::V4, Family::V6] {
            batch.delete_table(table(family));
            base(&mut batch, family);
        }
        add(&mut batch, changes);
        self.nft.commit(batch)
    }

    /// Makes some changes, in one step.
    ///
    /// # Errors
    /// What the kernel says; then nothing has changed, and the whole is to be put anew.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut batch = Batch::new();
        add(&mut batch, changes);
        self.nft.commit(batch)?;
        for change in changes {
            if let Change::Forget(protocol, endpoint) = change {
                self.conntrack.forget_endpoint(protocol.number(), *endpoint)?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete_table(table(Family::V4));
        batch.delete_table(table(Family::V6));
        self.nft.commit(batch)
    }
}

/// The tables without anything in them.
fn base(batch: &mut Batch, family: Family) {
    let (t, l) = (table(family), Layout::of(family));
    batch.add_table(t);
    let mut set = |name: &str, key: &[u8], map: Option<MapTo>| {
        let timeout_ms = (name == "affinity").then_some(AFFINITY_DEFAULT_MS);
        batch.add_set(t, &Set { name: name.into(), key: key.into(), map, timeout_ms, ..Set::default() });
    };
    let (a, endpoint) = (l.len, Some(MapTo::Bytes(u32::from(l.len) + 4)));
    set("frontends", &[a, 1, 2], Some(MapTo::Bytes(4)));
    set("nodeports", &[1, 2], Some(MapTo::Bytes(4)));
    set("groups", &[4], Some(MapTo::Verdict));
    set("endpoints", &[4, 4], endpoint);
    set("affinity", &[4, a], endpoint);
    set("live", &[4, a, 2], None);
    set("hairpin", &[a, a], None);
    for name in ["reject", "drop"] {
        set(name, &[a, 1, 2], None);
        set(&format!("{name}-nodeports"), &[1, 2], None);
    }
    batch.add_chain(t, "services");
    batch.add_chain(t, "refuse");
    let chain = |kind, hook, priority| BaseChain { kind, hook, priority, drop: false, device: None };
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.add_base_chain(t, name, &chain(ChainKind::Nat, hook, PRIORITY_DNAT));
        batch.add_rule(t, name, &[Expr::Verdict(Verdict::Jump("services".into()))]);
        let refuse = format!("refuse-{name}");
        batch.add_base_chain(t, &refuse, &chain(ChainKind::Filter, hook, PRIORITY_REFUSE));
        // Who is connected already goes on with whom it has, until that ends.
        let begins = [
            Expr::Ct { key: CtKey::State, to: Reg(0) },
            Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &NEW.to_ne_bytes(), xor: &[0; 4] },
            Expr::Cmp { from: Reg(0), op: Cmp::Ne, value: &[0; 4] },
            Expr::Verdict(Verdict::Jump("refuse".into())),
        ];
        batch.add_rule(t, &refuse, &begins);
    }
    batch.add_base_chain(t, "postrouting", &chain(ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT));

    let after = Reg(l.regs());
    let port = Reg(l.regs() + 1);
    let to = [
        l.address(l.destination, Reg(0)),
        Expr::Meta { key: MetaKey::L4Proto, to: after },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: port },
    ];
    let to_own = [
        Expr::DestinationType { to: Reg(0) },
        // RTN_LOCAL.
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &2u32.to_ne_bytes() },
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(1) },
    ];
    for (keys, map) in [(&to[..], "frontends"), (&to_own[..], "nodeports")] {
        let mut rule = keys.to_vec();
        rule.extend([
            Expr::Lookup { set: map, from: Reg(0), to: Some(ENDPOINT), inverted: false },
            Expr::MetaSet { key: MetaKey::Mark, from: ENDPOINT },
            Expr::VerdictMap { set: "groups", from: ENDPOINT },
        ]);
        batch.add_rule(t, "services", &rule);
    }
    let tcp = [
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &[L4::Tcp.number()] },
        Expr::Reset,
    ];
    // The kernel tells each client by ICMP only once a second that nobody is there, and who asks again meanwhile waits for an answer that
    // does not come: a connection of TCP is reset.
    let (drop, told) = ([Expr::Verdict(Verdict::Drop)], [Expr::Refuse { v6: l.v6 }]);
    for (name, what) in [("drop", &drop[..]), ("reject", &tcp), ("reject", &told)] {
        let ports = format!("{name}-nodeports");
        for (keys, set) in [(&to[..], name), (&to_own[..], ports.as_str())] {
            let found = Expr::Lookup { set, from: Reg(0), to: None, inverted: false };
            batch.add_rule(t, "refuse", &[keys, &[found], what].concat());
        }
    }
    let hidden = [
        Expr::Meta { key: MetaKey::Mark, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &HIDE.to_ne_bytes() },
        Expr::Masquerade,
    ];
    batch.add_rule(t, "postrouting", &hidden);
    let itself = [
        l.address(l.source, Reg(0)),
        l.address(l.destination, after),
        Expr::Lookup { set: "hairpin", from: Reg(0), to: None, inverted: false },
        Expr::Masquerade,
    ];
    batch.add_rule(t, "postrouting", &itself);
}

fn pick_name(pick: &Pick) -> String {
    let affinity = pick.affinity_s.map(|s| format!("-stay{s}")).unwrap_or_default();
    let hide = if pick.masquerade { "-hide" } else { "" };
    format!("pick{}{affinity}{hide}", pick.count)
}

/// The chain that picks one of so many places.
fn pick_chain(batch: &mut Batch, pick: &Pick) {
    let (t, l, name) = (table(pick.family), Layout::of(pick.family), pick_name(pick));
    batch.add_chain(t, &name);
    let mark = if pick.masquerade { HIDE } else { 0 }.to_ne_bytes();
    let client = l.address(l.source, Reg(1));
    let group = |to| Expr::Meta { key: MetaKey::Mark, to };
    let go = [
        Expr::Immediate { to: Reg(14), value: &mark },
        Expr::MetaSet { key: MetaKey::Mark, from: Reg(14) },
        Expr::Nat {
            kind: NatKind::Destination,
            v6: l.v6,
            address: ENDPOINT,
            port: Some(Reg(ENDPOINT.0 + l.regs())),
        },
    ];
    let remember = pick.affinity_s.map(|s| Expr::Remember {
        set: "affinity",
        key: GROUP,
        data: Some(ENDPOINT),
        timeout_ms: u64::from(s) * 1000,
    });
    if let Some(remember) = &remember {
        // The endpoint of the last time, if it is still one.
        let mut rule = vec![
            group(GROUP),
            client.clone(),
            Expr::Lookup { set: "affinity", from: GROUP, to: Some(ENDPOINT), inverted: false },
            group(Reg(ENDPOINT.0 - 1)),
            Expr::Lookup { set: "live", from: Reg(ENDPOINT.0 - 1), to: None, inverted: false },
            remember.clone(),
        ];
        rule.extend(go.clone());
        batch.add_rule(t, &name, &rule);
    }
    let mut rule = vec![
        group(GROUP),
        Expr::Random { below: pick.count, to: Reg(1) },
        Expr::Lookup { set: "endpoints", from: GROUP, to: Some(ENDPOINT), inverted: false },
    ];
    if let Some(remember) = remember {
        // To remember anew does not change what is remembered: an endpoint that is gone is forgotten first.
        rule.extend([client, Expr::Forget { set: "affinity", key: GROUP, data: Some(ENDPOINT) }, remember]);
    }
    rule.extend(go);
    batch.add_rule(t, &name, &rule);
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn padded_port(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

fn endpoint_bytes(endpoint: SocketAddr) -> Vec<u8> {
    let mut bytes = octets(endpoint.ip());
    bytes.extend(padded_port(endpoint.port()));
    bytes
}

fn service_key(protocol: L4, port: u16) -> Vec<u8> {
    let mut bytes = vec![protocol.number(), 0, 0, 0];
    bytes.extend(padded_port(port));
    bytes
}

/// Where a frontend stands: in the map of addresses, or in that of node ports.
fn frontend_key(frontend: &Frontend) -> (bool, Vec<u8>) {
    let rest = service_key(frontend.protocol, frontend.port);
    match frontend.ip {
        Some(ip) => (false, [octets(ip), rest].concat()),
        None => (true, rest),
    }
}

fn add(batch: &mut Batch, changes: &[Change]) {
    let bytes =
        |key: Vec<u8>, data: Vec<u8>| NewElement { key, key_end: None, data: Some(ElementData::Bytes(data)) };
    let only = |key: Vec<u8>| NewElement { key, ..NewElement::default() };
    for change in changes {
        let (family, set, element, is_new) = match change {
            Change::AddPick(pick) => {
                pick_chain(batch, pick);
                continue;
            }
            Change::RemovePick(pick) => {
                let name = pick_name(pick);
                batch.flush_chain(table(pick.family), &name);
                batch.delete_chain(table(pick.family), &name);
                continue;
            }
            Change::Forget(..) => continue,
            Change::SetGroup(id, pick) | Change::RemoveGroup(id, pick) => {
                let data = Some(ElementData::Verdict(Verdict::Goto(pick_name(pick))));
                let element = NewElement { key: id.to_ne_bytes().to_vec(), key_end: None, data };
                (pick.family, "groups", element, matches!(change, Change::SetGroup(..)))
            }
            Change::SetEndpoint(family, id, place, endpoint)
            | Change::RemoveEndpoint(family, id, place, endpoint) => {
                let key = [id.to_ne_bytes(), place.to_ne_bytes()].concat();
                let element = bytes(key, endpoint_bytes(*endpoint));
                (*family, "endpoints", element, matches!(change, Change::SetEndpoint(..)))
            }
            Change::AddLive(id, endpoint) | Change::RemoveLive(id, endpoint) => {
                let key = [id.to_ne_bytes().to_vec(), endpoint_bytes(*endpoint)].concat();
                (Family::of(endpoint.ip()), "live", only(key), matches!(change, Change::AddLive(..)))
            }
            Change::SetFrontend(frontend, id) | Change::RemoveFrontend(frontend, id) => {
                let (any, key) = frontend_key(frontend);
                let set = if any { "nodeports" } else { "frontends" };
                let element = bytes(key, id.to_ne_bytes().to_vec());
                (frontend.family, set, element, matches!(change, Change::SetFrontend(..)))
            }
            Change::SetEmpty(frontend, told) | Change::RemoveEmpty(frontend, told) => {
                let (any, key) = frontend_key(frontend);
                let set = match (told, any) {
                    (true, false) => "reject",
                    (true, true) => "reject-nodeports",
                    (false, false) => "drop",
                    (false, true) => "drop-nodeports",
                };
                (frontend.family, set, only(key), matches!(change, Change::SetEmpty(..)))
            }
            Change::AddHairpin(ip) | Change::RemoveHairpin(ip) => {
                let key = [octets(*ip), octets(*ip)].concat();
                (Family::of(*ip), "hairpin", only(key), matches!(change, Change::AddHairpin(..)))
            }
        };
        if is_new {
            batch.add_element(table(family), set, element);
        } else {
            batch.delete_element(table(family), set, element);
        }
    }
}
