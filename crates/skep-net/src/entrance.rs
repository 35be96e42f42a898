//! The way into a network by public addresses, on its switch: what may enter, where it goes, and what is counted.
//!
//! An address is a route to the bridge, the Ethernet address that has it there, and entries of sets: of [`ENTRY`], which connections may begin
//! (by address, protocol, port and source), and of [`PUBLIC`], whose source is not hidden on the way out.

use std::net::{IpAddr, Ipv4Addr};

use skep_netplan::public::{Entrance, Opening};

use crate::egress::{ENTRY, INSIDE, PUBLIC, UP, named, single};
use crate::link::{MacAddr, Net};
use crate::netlink::Result;
use crate::nft::{
    BaseChain, Batch, ChainKind, ElementData, Expr, Family, Hook, MapTo, MetaKey, NewElement, Nft,
    PayloadBase, Reg, Set, Table,
};
use crate::route::{Neighbour, Route};

/// What came and went.
const COUNTS: Table = Table { family: Family::Ip, name: "skep-public" };
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

fn counter(way: &str, ip: Ipv4Addr) -> String {
    format!("{way}-{ip}")
}

fn element(opening: &Opening) -> NewElement {
    let key = |protocol: u8, port: u16, source: Ipv4Addr| {
        let [high, low] = port.to_be_bytes();
        let mut key = opening.address.octets().to_vec();
        key.extend([protocol, 0, 0, 0, high, low, 0, 0]);
        key.extend(source.octets());
        key
    };
    NewElement {
        key: key(opening.protocols.0, opening.ports.0, opening.sources.0),
        key_end: Some(key(opening.protocols.1, opening.ports.1, opening.sources.1)),
        data: None,
    }
}

fn only(ip: Ipv4Addr) -> NewElement {
    NewElement { key: ip.octets().to_vec(), ..NewElement::default() }
}

fn counted(way: &str, ip: Ipv4Addr) -> NewElement {
    NewElement { data: Some(ElementData::Counter(counter(way, ip))), ..only(ip) }
}

fn route(bridge: u32, ip: Ipv4Addr) -> Route {
    Route { destination: single(ip), gateway: None, link: bridge, source: None }
}

/// What was said to be behind the bridge of public addresses.
pub(crate) fn routes(net: &mut Net, bridge: u32) -> Result<Vec<Route>> {
    let all = net.routes()?.into_iter();
    Ok(all.filter(|r| r.link == bridge && r.destination.prefix_len() == 32).collect())
}

/// Lets in what is wanted, in place of what an earlier process let in; connections go on. Counters begin anew: their sums are in the
/// addresses' statuses.
pub(crate) fn begin(net: &mut Net, nft: &mut Nft, bridge: u32, wanted: &Entrance) -> Result<()> {
    let mut batch = Batch::new();
    batch.delete_table(COUNTS);
    nft.commit(batch)?;
    set(net, nft, bridge, &Entrance::default(), wanted)?;
    for route in routes(net, bridge)? {
        let ip = route.destination.addr();
        if !matches!(ip, IpAddr::V4(ip) if wanted.addresses.contains_key(&ip)) {
            net.delete_route(&route)?;
            net.delete_neighbour(bridge, ip)?;
        }
    }
    Ok(())
}

/// The table that counts, without anything in it; what is there stays.
fn counting(batch: &mut Batch) {
    batch.add_table(COUNTS);
    for way in [RECEIVED, SENT] {
        let map = Set { name: way.into(), key: vec![4], map: Some(MapTo::Counter), ..Set::default() };
        batch.add_set(COUNTS, &map);
    }
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: PRIORITY,
        drop: false,
        device: None,
    };
    batch.add_base_chain(COUNTS, "forward", &base);
    batch.flush_chain(COUNTS, "forward");
    let mut up = UP.as_bytes().to_vec();
    // With its ending zero: not only the beginning of a name.
    up.push(0);
    for (key, offset, set) in [(MetaKey::Iifname, 16, RECEIVED), (MetaKey::Oifname, 12, SENT)] {
        let by = [
            Expr::Payload { base: PayloadBase::Network, offset, len: 4, to: Reg(0) },
            Expr::CountBy { set, from: Reg(0) },
        ];
        batch.add_rule(COUNTS, "forward", &[&named(key, &up)[..], &by].concat());
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
    let gone: Vec<Ipv4Addr> =
        known.addresses.keys().filter(|ip| !wanted.addresses.contains_key(*ip)).copied().collect();
    let new: Vec<Ipv4Addr> =
        wanted.addresses.keys().filter(|ip| !known.addresses.contains_key(*ip)).copied().collect();
    let mut batch = Batch::new();
    for opening in closed {
        batch.delete_element(INSIDE, ENTRY, element(opening));
    }
    for ip in &gone {
        batch.delete_element(INSIDE, PUBLIC, only(*ip));
    }
    for way in [RECEIVED, SENT] {
        for ip in &gone {
            batch.delete_element(COUNTS, way, counted(way, *ip));
        }
    }
    nft.commit(batch)?;
    let mut batch = Batch::new();
    for ip in &gone {
        for way in [RECEIVED, SENT] {
            batch.delete_counter(COUNTS, &counter(way, *ip));
        }
    }
    nft.commit(batch)?;
    for ip in gone {
        net.delete_route(&route(bridge, ip))?;
        net.delete_neighbour(bridge, IpAddr::V4(ip))?;
    }
    for (ip, mac) in &wanted.addresses {
        if known.addresses.get(ip) != Some(mac) {
            net.set_neighbour(bridge, Neighbour { ip: (*ip).into(), mac: MacAddr(*mac) })?;
            net.replace_route(&route(bridge, *ip))?;
        }
    }
    let mut batch = Batch::new();
    if !new.is_empty() {
        counting(&mut batch);
    }
    for way in [RECEIVED, SENT] {
        for ip in &new {
            batch.add_counter(COUNTS, &counter(way, *ip));
        }
        for ip in &new {
            batch.add_element(COUNTS, way, counted(way, *ip));
        }
    }
    for ip in &new {
        batch.add_element(INSIDE, PUBLIC, only(*ip));
    }
    for opening in opened {
        batch.add_element(INSIDE, ENTRY, element(opening));
    }
    nft.commit(batch)
}

/// What is counted.
pub(crate) fn traffic(nft: &mut Nft) -> Result<Vec<(Ipv4Addr, PublicTraffic)>> {
    let mut found = std::collections::BTreeMap::<Ipv4Addr, PublicTraffic>::new();
    let counters = match nft.counters(COUNTS) {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        other => other?,
    };
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
