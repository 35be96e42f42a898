//! The way into a network by public addresses, on its switch: what may enter, where it goes, and what is counted.
//!
//! An address is a route to the bridge, the Ethernet address that has it there, and entries of sets: of [`ENTRY`], which connections may begin
//! (by address, protocol, port and source), and of [`PUBLIC`], whose source is not hidden on the way out.

use std::net::IpAddr;

use skep_netplan::public::{Entrance, Opening};

use crate::egress::{ENTRY, Layout, PUBLIC, UP, named, octets, single};
use crate::link::{MacAddr, Net};
use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, ElementData, Expr, Hook, MapTo, MetaKey, NewElement, Nft, PayloadBase, Reg,
    Set, Table,
};
use crate::route::{Neighbour, Route};

/// What came and went.
const COUNTS: &str = "skep-public";
const RECEIVED: &str = "received";
const SENT: &str = "sent";
/// Before anything is dropped: what was sent here was received.
const PRIORITY: i32 = -10;

/// What went through a public address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicTraffic {
    /// Bytes of packets that came to it.
    pub received_bytes: u64,
    /// Bytes of packets that went out from it.
    pub sent_bytes: u64,
}

fn counts(ip: IpAddr) -> Table {
    Table { family: Layout::of(ip).inside.family, name: COUNTS }
}

fn inside(ip: IpAddr) -> Table {
    Layout::of(ip).inside
}

fn counter(way: &str, ip: IpAddr) -> String {
    format!("{way}-{ip}")
}

fn element(opening: &Opening) -> NewElement {
    let key = |protocol: u8, port: u16, source: IpAddr| {
        let [high, low] = port.to_be_bytes();
        let mut key = octets(opening.address);
        key.extend([protocol, 0, 0, 0, high, low, 0, 0]);
        key.extend(octets(source));
        key
    };
    NewElement {
        key: key(opening.protocols.0, opening.ports.0, opening.sources.0),
        key_end: Some(key(opening.protocols.1, opening.ports.1, opening.sources.1)),
        data: None,
    }
}

fn only(ip: IpAddr) -> NewElement {
    NewElement { key: octets(ip), ..NewElement::default() }
}

fn counted(way: &str, ip: IpAddr) -> NewElement {
    NewElement { data: Some(ElementData::Counter(counter(way, ip))), ..only(ip) }
}

fn route(bridge: u32, ip: IpAddr) -> Route {
    Route { destination: single(ip), gateway: None, link: bridge, source: None }
}

/// What was said to be behind the bridge of public addresses.
pub(crate) fn routes(net: &mut Net, bridge: u32) -> Result<Vec<Route>> {
    let all = net.routes()?.into_iter();
    Ok(all
        .filter(|r| r.link == bridge && r.destination.prefix_len() == r.destination.max_prefix_len())
        .collect())
}

/// Lets in what is wanted, in place of what an earlier process let in; connections go on. Counters begin anew: their sums are in the
/// addresses' statuses.
pub(crate) fn begin(net: &mut Net, nft: &mut Nft, bridge: u32, wanted: &Entrance) -> Result<()> {
    let mut batch = Batch::new();
    for layout in Layout::ALL {
        batch.delete_table(Table { family: layout.inside.family, name: COUNTS });
    }
    nft.commit(batch)?;
    set(net, nft, bridge, &Entrance::default(), wanted)?;
    for route in routes(net, bridge)? {
        let ip = route.destination.addr();
        if !wanted.addresses.contains_key(&ip) {
            net.delete_route(&route)?;
            net.delete_neighbour(bridge, ip)?;
        }
    }
    Ok(())
}

/// The table that counts, without anything in it; what is there stays.
fn counting(batch: &mut Batch, layout: Layout) {
    let table = Table { family: layout.inside.family, name: COUNTS };
    batch.add_table(table);
    for way in [RECEIVED, SENT] {
        let map =
            Set { name: way.into(), key: vec![layout.len], map: Some(MapTo::Counter), ..Set::default() };
        batch.add_set(table, &map);
    }
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: PRIORITY,
        drop: false,
        device: None,
    };
    batch.add_base_chain(table, "forward", &base);
    batch.flush_chain(table, "forward");
    let mut up = UP.as_bytes().to_vec();
    // With its ending zero: not only the beginning of a name.
    up.push(0);
    for (key, offset, set) in
        [(MetaKey::Iifname, layout.destination, RECEIVED), (MetaKey::Oifname, layout.source, SENT)]
    {
        let len = layout.len.into();
        let by = [
            Expr::Payload { base: PayloadBase::Network, offset, len, to: Reg(0) },
            Expr::CountBy { set, from: Reg(0) },
        ];
        batch.add_rule(table, "forward", &[&named(key, &up)[..], &by].concat());
    }
}

/// Brings the entrance from one state to another. What goes is closed before its route goes, and what comes is open last.
pub(crate) fn set(
    net: &mut Net,
    nft: &mut Nft,
    bridge: u32,
    known: &Entrance,
    wanted: &Entrance,
) -> Result<()> {
    let (closed, opened) = known.changes(wanted);
    let gone: Vec<IpAddr> =
        known.addresses.keys().filter(|ip| !wanted.addresses.contains_key(*ip)).copied().collect();
    let new: Vec<IpAddr> =
        wanted.addresses.keys().filter(|ip| !known.addresses.contains_key(*ip)).copied().collect();
    let mut batch = Batch::new();
    for opening in closed {
        batch.delete_element(inside(opening.address), ENTRY, element(opening));
    }
    for ip in &gone {
        batch.delete_element(inside(*ip), PUBLIC, only(*ip));
    }
    for way in [RECEIVED, SENT] {
        for ip in &gone {
            batch.delete_element(counts(*ip), way, counted(way, *ip));
        }
    }
    nft.commit(batch)?;
    let mut batch = Batch::new();
    for ip in &gone {
        for way in [RECEIVED, SENT] {
            batch.delete_counter(counts(*ip), &counter(way, *ip));
        }
    }
    nft.commit(batch)?;
    for ip in gone {
        net.delete_route(&route(bridge, ip))?;
        net.delete_neighbour(bridge, ip)?;
    }
    for (ip, mac) in &wanted.addresses {
        if known.addresses.get(ip) != Some(mac) {
            net.set_neighbour(bridge, Neighbour { ip: *ip, mac: MacAddr(*mac) })?;
            net.replace_route(&route(bridge, *ip))?;
        }
    }
    let mut batch = Batch::new();
    for layout in Layout::ALL {
        if new.iter().any(|ip| Layout::of(*ip).len == layout.len) {
            counting(&mut batch, layout);
        }
    }
    for way in [RECEIVED, SENT] {
        for ip in &new {
            batch.add_counter(counts(*ip), &counter(way, *ip));
        }
        for ip in &new {
            batch.add_element(counts(*ip), way, counted(way, *ip));
        }
    }
    for ip in &new {
        batch.add_element(inside(*ip), PUBLIC, only(*ip));
    }
    for opening in opened {
        batch.add_element(inside(opening.address), ENTRY, element(opening));
    }
    nft.commit(batch)
}

/// What is counted.
pub(crate) fn traffic(nft: &mut Nft) -> Result<Vec<(IpAddr, PublicTraffic)>> {
    let mut found = std::collections::BTreeMap::<IpAddr, PublicTraffic>::new();
    let mut counters = Vec::new();
    for layout in Layout::ALL {
        match nft.counters(Table { family: layout.inside.family, name: COUNTS }) {
            Err(error) if error.is_missing() => {}
            other => counters.extend(other?),
        }
    }
    for counter in counters {
        let Some((way, ip)) = counter.name.split_once('-') else { continue };
        let Ok(ip) = ip.parse() else { continue };
        let traffic = found.entry(ip).or_default();
        match way {
            RECEIVED => traffic.received_bytes = counter.bytes,
            _ => traffic.sent_bytes = counter.bytes,
        }
    }
    Ok(found.into_iter().collect())
}
