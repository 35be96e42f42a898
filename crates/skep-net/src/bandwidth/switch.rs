//! The part of a network's switch: maxima, packet limits, what went through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use skep_netplan::bandwidth::{PortShape, Rate, Shape, Side};

use super::{AT_ONCE, CARRIED_OFFSET, NAME, PRIORITY_DEVICE, Retired, found, set_priority};
use crate::link::Net;
use crate::netlink::{Result, unless_exists};
use crate::nft::Verdict;
use crate::nft::{
    BaseChain, Batch, ChainKind, Cmp, ElementData, Expr, Family, Hook, MapTo, MetaKey, NewElement, Nft,
    PayloadBase, Reg, Set, Table,
};
use crate::ns::Namespace;
use crate::short;
use crate::switch::Forged;
use crate::tc::class_priority;

/// Counters, packet limits, classes: never made anew while the switch stands.
const PORTS: Table = Table { family: Family::Bridge, name: NAME };
/// What leads packets through the queueing device: made anew when another machine has a port with a maximum.
const DEVICES: Table = Table { family: Family::Netdev, name: NAME };
/// The queueing device for what machines send.
const QUEUES: &str = "q";
/// What is on the wire is nobody's here.
const WIRE: &[u8; NAME_BYTES] = b"vx\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// The way out through the host.
const UP: &str = "up";
const NAME_BYTES: usize = 16;
/// After the filters have found what a packet says of its source to be true.
const PRIORITY_RECEIVED: i32 = -200;
/// Behind everything that changes packets.
const PRIORITY_SENT: i32 = 200;
/// Packets that may come at once, as a part of what may come in a second: as long as senders' timers are coarse.
const BURST_PARTS: u64 = 20;

/// Where keys lie: interface, then address. The class comes behind.
const INTERFACE: Reg = Reg(0);
const ADDRESS: Reg = Reg(4);
const CLASS: Reg = Reg(8);
const ANY: Reg = Reg(12);

/// What went through a port since its counters were made, seen from the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTraffic {
    /// Packets that it sent.
    pub sent_packets: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
    /// Packets that it received.
    pub received_packets: u64,
    /// Bytes that it received.
    pub received_bytes: u64,
    /// Packets it sent that its limit of packets dropped.
    pub sent_over_limit: u64,
    /// Packets for it that its limit of packets dropped.
    pub received_over_limit: u64,
    /// Packets it sent for which its maximum left no room in the queue.
    pub sent_over_maximum: u64,
    /// Packets for it, of the same kind.
    pub received_over_maximum: u64,
    /// Packets of the machine that were not what they said: filled in by who knows which port is a machine's own.
    pub forged: Forged,
}

/// The bandwidth of one network's ports here.
#[derive(Debug)]
pub struct Shaper {
    net: Net,
    nft: Nft,
    elements: Elements,
    objects: BTreeSet<Object>,
    rest: Option<Option<u16>>,
    /// Interfaces whose packets go through the queueing device.
    led: BTreeSet<String>,
    /// What classes have; nothing of those that an earlier process has left.
    classes: BTreeMap<(String, u16), Option<Rate>>,
    retired: Retired,
    /// Who goes the short way, and by which counter that is counted: by direction, interface, address. Nothing before it was said.
    short: Option<BTreeMap<ShortKey, u16>>,
}

type ShortKey = (char, u32, Ipv4Addr);

/// What maps hold, by map and key.
type Elements = BTreeMap<(String, Vec<u8>), Mapped>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mapped {
    Class(u16),
    Counter(String),
    Limit(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Counter(String),
    Limit(String, u64),
}

/// How the names of maps begin that are in the table of devices, not in that of ports.
const QUEUE: &str = "queue";
/// The two directions, by which sets and counters are named.
const SENT: char = 's';
const RECEIVED: char = 'r';

fn limit_name(direction: char, number: u16, packets_per_s: u64) -> String {
    // With the rate in the name, another rate is another limit: there is none to be changed.
    format!("l{direction}{number}-{packets_per_s}")
}

impl Shaper {
    /// Begins in a switch; what an earlier process said holds until it is said anew by [`Shaper::set`], in one step. Gives the numbers of classes that it
    /// left, which are not to be given out.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set_up(switch: &Namespace) -> Result<(Shaper, BTreeSet<u16>)> {
        let (mut net, nft) = (Net::open(switch)?, Nft::open(switch)?);
        let mut classes = BTreeMap::new();
        let mut numbers = BTreeSet::new();
        for link in net.links()? {
            for class in found(&mut net, link.index)? {
                numbers.insert(class);
                classes.insert((link.name.clone(), class), None);
            }
        }
        let shaper = Shaper {
            net,
            nft,
            elements: BTreeMap::new(),
            objects: BTreeSet::new(),
            rest: None,
            led: BTreeSet::new(),
            classes,
            retired: Retired::default(),
            short: None,
        };
        Ok((shaper, numbers))
    }

    /// A machine's interface was made anew, or is gone: what was said of it holds no more.
    pub fn forget(&mut self, interface: &str) {
        self.classes.retain(|(of, _), _| of != interface);
        self.led.remove(interface);
    }

    /// Brings the switch to what is wanted, by what has changed since the last call; packets go on meanwhile. Interfaces that are
    /// named must be attached.
    ///
    /// # Errors
    /// What the kernel says: then it is to be set up anew.
    pub fn set(&mut self, wanted: &Shape) -> Result<()> {
        let (elements, objects) = elements(wanted);
        let classes = classes(wanted);
        for (place, rate) in &classes {
            if self.classes.get(place) != Some(&Some(*rate)) {
                let (interface, class) = place;
                let link = self.device(interface)?;
                self.net.set_class_below(link, *class, 0, rate, true)?;
                self.classes.insert(place.clone(), Some(*rate));
            }
        }
        let mut batch = Batch::new();
        if self.rest.is_none() {
            // What an earlier process said holds until now.
            batch.delete_table(DEVICES);
            batch.delete_table(PORTS);
            tables(&mut batch);
        }
        self.change_ports(&mut batch, wanted, &elements, &objects);
        let led: BTreeSet<String> = wanted.led().into_iter().collect();
        self.change_devices(&mut batch, &led, wanted, &elements)?;
        let is_other = self.elements != elements || self.rest != Some(wanted.rest);
        let short = self.change_short(&mut batch, wanted, &objects, is_other)?;
        self.nft.commit(batch)?;
        self.short = short;
        (self.elements, self.objects, self.rest, self.led) = (elements, objects, Some(wanted.rest), led);
        let gone: Vec<_> = self.classes.keys().filter(|p| !classes.contains_key(p)).cloned().collect();
        for place in gone {
            self.classes.remove(&place);
            let (interface, class) = place;
            if let Some(link) = self.net.link(&interface)? {
                self.net.set_class_below(link.index, class, 0, &AT_ONCE, true)?;
                self.retired.0.push((link.index, class));
            }
        }
        Ok(())
    }

    /// An interface that has classes, or will.
    fn device(&mut self, interface: &str) -> Result<u32> {
        if interface == QUEUES && self.net.link(QUEUES)?.is_none() {
            unless_exists(self.net.add_queue_device(QUEUES))?;
        }
        let link = self.net.expect_link(interface)?;
        if interface == QUEUES && !link.up {
            self.net.set_up(link.index)?;
        }
        self.net.limit_bandwidth(link.index)?;
        Ok(link.index)
    }

    fn change_ports(
        &self,
        batch: &mut Batch,
        wanted: &Shape,
        elements: &Elements,
        objects: &BTreeSet<Object>,
    ) {
        let begins = (wanted.rest, classified(wanted.rest, elements));
        let began = self.rest.map(|rest| (rest, classified(rest, &self.elements)));
        if began != Some(begins) {
            fresh(batch, wanted.rest, begins.1);
        }
        for direction in [SENT, RECEIVED] {
            for v6 in [false, true] {
                let used =
                    |all: &Elements| ["limit", "class"].map(|what| uses(all, &set_name(what, direction, v6)));
                let (old, new) = (used(&self.elements), used(elements));
                if old != new {
                    port_rules(batch, direction, v6, new);
                }
            }
        }
        for object in objects.difference(&self.objects) {
            match object {
                Object::Counter(name) => batch.add_counter(PORTS, name),
                Object::Limit(name, per_s) => {
                    let burst = u32::try_from((per_s / BURST_PARTS).max(1)).unwrap_or(u32::MAX);
                    batch.add_limit(PORTS, name, *per_s, burst);
                }
            }
        }
        let here = |set: &&String| !set.starts_with(QUEUE);
        for ((set, key), mapped) in self.elements.iter().filter(|((set, _), _)| here(&set)) {
            if elements.get(&(set.clone(), key.clone())) != Some(mapped) {
                batch.delete_element(PORTS, set, NewElement { key: key.clone(), ..NewElement::default() });
            }
        }
        for ((set, key), mapped) in elements.iter().filter(|((set, _), _)| here(&set)) {
            if self.elements.get(&(set.clone(), key.clone())) != Some(mapped) {
                batch.add_element(PORTS, set, element(key, mapped));
            }
        }
        for object in self.objects.difference(objects) {
            match object {
                Object::Counter(name) => batch.delete_counter(PORTS, name),
                Object::Limit(name, _) => batch.delete_limit(PORTS, name),
            }
        }
    }

    /// What leads packets of machines through the queueing device, and marks those that leave through the host.
    fn change_devices(
        &mut self,
        batch: &mut Batch,
        led: &BTreeSet<String>,
        wanted: &Shape,
        elements: &Elements,
    ) -> Result<()> {
        let key = |set: &str| set.starts_with(QUEUE);
        let of = |all: &Elements| -> Vec<_> {
            all.iter().filter(|((set, _), _)| key(set)).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let carries = |rest: Option<u16>| rest.is_some();
        let same = *led == self.led && self.rest.map(carries) == Some(carries(wanted.rest));
        if same && of(&self.elements) == of(elements) {
            return Ok(());
        }
        if same {
            let (old, new) = (of(&self.elements), of(elements));
            for ((set, key), _) in old.iter().filter(|e| !new.contains(e)) {
                batch.delete_element(DEVICES, set, NewElement { key: key.clone(), ..NewElement::default() });
            }
            for ((set, key), mapped) in new.iter().filter(|e| !old.contains(e)) {
                batch.add_element(DEVICES, set, element(key, mapped));
            }
            return Ok(());
        }
        batch.delete_table(DEVICES);
        if led.is_empty() && wanted.rest.is_none() {
            return Ok(());
        }
        batch.add_table(DEVICES);
        if wanted.rest.is_some() && self.net.link(UP)?.is_some() {
            carry(batch);
        }
        if led.is_empty() {
            return Ok(());
        }
        let queues = self.net.expect_link(QUEUES)?.index;
        lead(batch, led, queues);
        for ((set, key), mapped) in of(elements) {
            batch.add_element(DEVICES, &set, element(&key, &mapped));
        }
        Ok(())
    }

    /// Who goes the short way from now on. Where anything has changed, all flows are looked at again.
    fn change_short(
        &mut self,
        batch: &mut Batch,
        wanted: &Shape,
        objects: &BTreeSet<Object>,
        is_other: bool,
    ) -> Result<Option<BTreeMap<ShortKey, u16>>> {
        if !short::is_there(&mut self.nft)? {
            return Ok(None);
        }
        let interfaces: BTreeMap<String, u32> =
            self.net.links()?.into_iter().map(|l| (l.name, l.index)).collect();
        let new = shortened(wanted, &interfaces);
        let old = self.short.clone().unwrap_or_default();
        if self.short.is_none() {
            // What an earlier process said.
            for set in [short::MAY_SEND, short::MAY_RECEIVE, short::SENT, short::RECEIVED] {
                batch.flush_set(short::TABLE, set);
            }
            for counter in self.nft.counters(short::TABLE)? {
                batch.delete_counter(short::TABLE, &counter.name);
            }
            short::count_elsewhere(batch);
        }
        // A port that has a limit for a while keeps its counters: they would begin anew.
        let counters = |all: &BTreeSet<Object>| -> BTreeSet<String> {
            let names =
                all.iter().filter_map(|o| if let Object::Counter(name) = o { Some(name) } else { None });
            names.filter(|name| name.starts_with('c')).cloned().collect()
        };
        let had = if self.short.is_some() { counters(&self.objects) } else { BTreeSet::new() };
        let has = counters(objects);
        for name in has.difference(&had) {
            batch.add_counter(short::TABLE, name);
        }
        for (key, number) in old.iter().filter(|(key, number)| new.get(key) != Some(number)) {
            let (may, counted) = short_elements(key, *number);
            batch.delete_element(short::TABLE, may.0, may.1);
            batch.delete_element(short::TABLE, counted.0, counted.1);
        }
        for (key, number) in new.iter().filter(|(key, number)| old.get(key) != Some(number)) {
            let (may, counted) = short_elements(key, *number);
            batch.add_element(short::TABLE, counted.0, counted.1);
            batch.add_element(short::TABLE, may.0, may.1);
        }
        for name in had.difference(&has) {
            batch.delete_counter(short::TABLE, name);
        }
        if is_other || self.short.as_ref() != Some(&new) {
            short::forget(batch);
        }
        Ok(Some(new))
    }

    /// What went through each port since its counters were made, by its number; and removes classes that have emptied.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn traffic(&mut self) -> Result<BTreeMap<u16, PortTraffic>> {
        self.retired.remove(&mut self.net)?;
        let mut all: BTreeMap<u16, PortTraffic> = BTreeMap::new();
        if self.rest.is_none() {
            // What is there was counted under other numbers.
            return Ok(all);
        }
        let mut counters = self.nft.counters(PORTS)?;
        if self.short.is_some() {
            counters.extend(self.nft.counters(short::TABLE)?);
        }
        for counter in counters {
            let Some((kind, number)) = counter_of(&counter.name) else { continue };
            let port = all.entry(number).or_default();
            let (packets, bytes) = match kind {
                "cs" => (&mut port.sent_packets, Some(&mut port.sent_bytes)),
                "cr" => (&mut port.received_packets, Some(&mut port.received_bytes)),
                "os" => (&mut port.sent_over_limit, None),
                _ => (&mut port.received_over_limit, None),
            };
            *packets += counter.packets;
            if let Some(bytes) = bytes {
                *bytes += counter.bytes;
            }
        }
        let interfaces: BTreeSet<String> =
            self.classes.keys().map(|(interface, _)| interface.clone()).collect();
        for interface in interfaces {
            // One that was unplugged meanwhile has nothing to tell.
            let Some(link) = self.net.link(&interface)? else { continue };
            for class in self.net.classes(link.index)? {
                let Some(port) = all.get_mut(&class.class) else { continue };
                if interface == QUEUES {
                    port.sent_over_maximum += class.dropped;
                } else {
                    port.received_over_maximum += class.dropped;
                }
            }
        }
        Ok(all)
    }
}

fn counter_of(name: &str) -> Option<(&str, u16)> {
    let (kind, number) = name.split_at_checked(2)?;
    Some((["cs", "cr", "os", "or"].contains(&kind).then_some(kind)?, number.parse().ok()?))
}

trait Led {
    /// Interfaces of machines that have a port whose sending has a maximum.
    fn led(&self) -> Vec<String>;
}

impl Led for Shape {
    fn led(&self) -> Vec<String> {
        let limited = self.ports.values().filter(|p| p.sending.maximum.is_some());
        limited.map(|p| p.interface.clone()).collect()
    }
}

/// Who may go the short way: whose direction has neither a maximum nor a limit of packets.
fn shortened(shape: &Shape, interfaces: &BTreeMap<String, u32>) -> BTreeMap<ShortKey, u16> {
    let mut all = BTreeMap::new();
    for ((interface, ip), number) in &shape.keys {
        let (Some(port), IpAddr::V4(ip), Some(index)) =
            (shape.ports.get(number), ip, interfaces.get(interface))
        else {
            continue;
        };
        for (direction, side) in [(SENT, &port.sending), (RECEIVED, &port.receiving)] {
            if *side == Side::default() {
                all.insert((direction, *index, *ip), *number);
            }
        }
    }
    all
}

/// What lets it go, and what counts it: sets, and their elements.
fn short_elements(
    (direction, interface, ip): &ShortKey,
    number: u16,
) -> ((&'static str, NewElement), (&'static str, NewElement)) {
    let mut key = ip.octets().to_vec();
    key.extend(interface.to_ne_bytes());
    let (may, counted) = if *direction == SENT {
        (short::MAY_SEND, short::SENT)
    } else {
        (short::MAY_RECEIVE, short::RECEIVED)
    };
    let data = Some(ElementData::Counter(format!("c{direction}{number}")));
    let element = |data| NewElement { key: key.clone(), data, ..NewElement::default() };
    ((may, element(None)), (counted, element(data)))
}

/// The classes of maxima.
fn classes(shape: &Shape) -> BTreeMap<(String, u16), Rate> {
    let mut all = BTreeMap::new();
    for (number, port) in &shape.ports {
        if let Some(rate) = port.sending.maximum {
            all.insert((QUEUES.to_owned(), *number), rate);
        }
        if let Some(rate) = port.receiving.maximum {
            all.insert((port.interface.clone(), *number), rate);
        }
    }
    all
}

fn set_name(what: &str, direction: char, v6: bool) -> String {
    format!("{what}-{direction}{}", if v6 { 6 } else { 4 })
}

fn key_of(interface: &str, ip: &IpAddr) -> Vec<u8> {
    let mut key = interface.as_bytes().to_vec();
    key.resize(NAME_BYTES, 0);
    match ip {
        IpAddr::V4(ip) => key.extend(ip.octets()),
        IpAddr::V6(ip) => key.extend(ip.octets()),
    }
    key
}

/// Everything that sets hold, and what it refers to.
fn elements(shape: &Shape) -> (Elements, BTreeSet<Object>) {
    let (mut elements, mut objects) = (BTreeMap::new(), BTreeSet::new());
    for ((interface, ip), number) in &shape.keys {
        let Some(port) = shape.ports.get(number) else { continue };
        let key = key_of(interface, ip);
        let v6 = ip.is_ipv6();
        let mut put = |what: &str, direction, mapped| {
            elements.insert((set_name(what, direction, v6), key.clone()), mapped);
        };
        let PortShape { class, sending, receiving, .. } = port;
        for (direction, side) in [(SENT, sending), (RECEIVED, receiving)] {
            let counter = format!("c{direction}{number}");
            objects.insert(Object::Counter(counter.clone()));
            put("count", direction, Mapped::Counter(counter));
            if let Side { packets_per_s: Some(per_s), .. } = side {
                let (limit, over) = (limit_name(direction, *number, *per_s), format!("o{direction}{number}"));
                objects.insert(Object::Limit(limit.clone(), *per_s));
                objects.insert(Object::Counter(over.clone()));
                put("limit", direction, Mapped::Limit(limit));
                put("over", direction, Mapped::Counter(over));
            }
        }
        if let Some(class) = class {
            put("class", SENT, Mapped::Class(*class));
        }
        if receiving.maximum.is_some() {
            put("class", RECEIVED, Mapped::Class(*number));
        }
        if sending.maximum.is_some() {
            put(QUEUE, SENT, Mapped::Class(*number));
        }
    }
    (elements, objects)
}

fn element(key: &[u8], mapped: &Mapped) -> NewElement {
    let data = match mapped {
        Mapped::Class(class) => ElementData::Bytes(class_priority(*class).to_ne_bytes().to_vec()),
        Mapped::Counter(name) => ElementData::Counter(name.clone()),
        Mapped::Limit(name) => ElementData::Limit(name.clone()),
    };
    NewElement { key: key.to_vec(), data: Some(data), ..NewElement::default() }
}

/// How the families differ: the bytes of an address, and where source and destination are.
fn address(v6: bool) -> (u8, u32, u32) {
    if v6 { (16, 8, 24) } else { (4, 12, 16) }
}

fn protocol(v6: bool) -> &'static [u8; 2] {
    if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] }
}

fn map(name: String, v6: bool, to: MapTo) -> Set {
    let (len, ..) = address(v6);
    Set { name, key: vec![NAME_BYTES as u8, len], map: Some(to), ..Set::default() }
}

fn tables(batch: &mut Batch) {
    batch.add_table(PORTS);
    let base =
        |hook, priority| BaseChain { kind: ChainKind::Filter, hook, priority, drop: false, device: None };
    batch.add_base_chain(PORTS, "received", &base(Hook::Prerouting, PRIORITY_RECEIVED));
    batch.add_base_chain(PORTS, "sent", &base(Hook::Postrouting, PRIORITY_SENT));
    batch.add_chain(PORTS, "fresh");
    let from_wire = [
        Expr::Meta { key: MetaKey::Iifname, to: INTERFACE },
        Expr::Cmp { from: INTERFACE, op: Cmp::Eq, value: WIRE },
        Expr::Verdict(Verdict::Accept),
    ];
    batch.add_rule(PORTS, "received", &from_wire);
    batch.add_rule(PORTS, "received", &[Expr::Verdict(Verdict::Jump("fresh".into()))]);
    for (direction, entry) in [(SENT, "received"), (RECEIVED, "sent")] {
        for v6 in [false, true] {
            for (what, to) in [
                ("count", MapTo::Counter),
                ("limit", MapTo::Limit),
                ("over", MapTo::Counter),
                ("class", MapTo::Bytes(4)),
            ] {
                batch.add_set(PORTS, &map(set_name(what, direction, v6), v6, to));
            }
            let chain = set_name("port", direction, v6);
            batch.add_chain(PORTS, &chain);
            let is_ours = [
                Expr::Meta { key: MetaKey::Protocol, to: ANY },
                Expr::Cmp { from: ANY, op: Cmp::Eq, value: protocol(v6) },
                Expr::Verdict(Verdict::Jump(chain)),
            ];
            batch.add_rule(PORTS, entry, &is_ours);
            port_rules(batch, direction, v6, [false; 2]);
        }
    }
}

/// Whether a set has anything in it.
fn uses(elements: &Elements, set: &str) -> bool {
    elements.keys().any(|(of, _)| of == set)
}

/// Whether packets have classes at all, in this switch or on the host's uplink.
fn classified(rest: Option<u16>, elements: &Elements) -> bool {
    rest.is_some() || elements.keys().any(|(set, _)| set.starts_with("class") || set.starts_with(QUEUE))
}

/// What is done with a port's packets in one direction. Where no port has a limit or a class, nobody is asked for one: each of these
/// is a lookup for every packet.
fn port_rules(batch: &mut Batch, direction: char, v6: bool, [limits, classes]: [bool; 2]) {
    // What machines send is known by where it comes from and its source, what they receive by where it goes.
    let (len, source, destination) = address(v6);
    let (key, offset) =
        if direction == SENT { (MetaKey::Iifname, source) } else { (MetaKey::Oifname, destination) };
    let who = [
        Expr::Meta { key, to: INTERFACE },
        Expr::Payload { base: PayloadBase::Network, offset, len: len.into(), to: ADDRESS },
    ];
    let chain = set_name("port", direction, v6);
    let [limit, over, count, class] =
        ["limit", "over", "count", "class"].map(|what| set_name(what, direction, v6));
    batch.flush_chain(PORTS, &chain);
    if limits {
        let drop = [
            Expr::OverLimitBy { set: &limit, from: INTERFACE },
            Expr::CountBy { set: &over, from: INTERFACE },
            Expr::Verdict(Verdict::Drop),
        ];
        batch.add_rule(PORTS, &chain, &[&who[..], &drop].concat());
    }
    let counted = [Expr::CountBy { set: &count, from: INTERFACE }];
    batch.add_rule(PORTS, &chain, &[&who[..], &counted].concat());
    if classes {
        let classified = [
            Expr::Lookup { set: &class, from: INTERFACE, to: Some(CLASS), inverted: false },
            set_priority(CLASS),
            Expr::MetaSet { key: MetaKey::Mark, from: CLASS },
        ];
        batch.add_rule(PORTS, &chain, &[&who[..], &classified].concat());
    }
}

/// What every packet from a machine begins with: the class of the network's rest, or none. A queueing device has left its own. Where
/// nothing has a class, nothing looks at it.
fn fresh(batch: &mut Batch, rest: Option<u16>, classified: bool) {
    batch.flush_chain(PORTS, "fresh");
    if !classified {
        return;
    }
    let class = rest.map_or(0, class_priority).to_ne_bytes();
    let begin = [
        Expr::Immediate { to: CLASS, value: &class },
        set_priority(CLASS),
        Expr::MetaSet { key: MetaKey::Mark, from: CLASS },
    ];
    batch.add_rule(PORTS, "fresh", &begin);
}

/// What leaves through the host carries its class in its source's Ethernet address, which nobody looks at there.
fn carry(batch: &mut Batch) {
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Egress,
        priority: PRIORITY_DEVICE,
        drop: false,
        device: Some(UP),
    };
    batch.add_base_chain(DEVICES, "leaves", &base);
    let rule = [
        Expr::Meta { key: MetaKey::Mark, to: CLASS },
        Expr::Cmp { from: CLASS, op: Cmp::Ne, value: &[0; 4] },
        Expr::PayloadSet { base: PayloadBase::Link, offset: CARRIED_OFFSET, len: 4, from: CLASS },
    ];
    batch.add_rule(DEVICES, "leaves", &rule);
}

fn lead(batch: &mut Batch, led: &BTreeSet<String>, queues: u32) {
    batch.add_chain(DEVICES, "lead");
    for v6 in [false, true] {
        let set = set_name(QUEUE, SENT, v6);
        batch.add_set(DEVICES, &map(set.clone(), v6, MapTo::Bytes(4)));
        let (len, source, _) = address(v6);
        let device = queues.to_ne_bytes();
        let rule = [
            Expr::Meta { key: MetaKey::Protocol, to: ANY },
            Expr::Cmp { from: ANY, op: Cmp::Eq, value: protocol(v6) },
            Expr::Meta { key: MetaKey::Iifname, to: INTERFACE },
            Expr::Payload { base: PayloadBase::Network, offset: source, len: len.into(), to: ADDRESS },
            Expr::Lookup { set: &set, from: INTERFACE, to: Some(CLASS), inverted: false },
            set_priority(CLASS),
            Expr::Immediate { to: ANY, value: &device },
            Expr::Redirect { device: ANY },
        ];
        batch.add_rule(DEVICES, "lead", &rule);
    }
    for interface in led {
        let device = Some(interface.as_str());
        let base = BaseChain {
            kind: ChainKind::Filter,
            hook: Hook::Ingress,
            priority: PRIORITY_DEVICE,
            drop: false,
            device,
        };
        batch.add_base_chain(DEVICES, interface, &base);
        batch.add_rule(DEVICES, interface, &[Expr::Verdict(Verdict::Jump("lead".into()))]);
    }
}
