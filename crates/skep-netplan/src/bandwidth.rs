//! Bandwidth of the ports on one host: which classes of traffic there are, and what each may have.
//!
//! | Where | What it shares | Between |
//! |---|---|---|
//! | the host's uplink, each direction | what the wire carries: guarantees, and what is idle | tenants, and within a tenant its ports |
//! | the port, each direction | nothing: a maximum, and a number of packets | - |
//!
//! Guarantees only mean something where everybody's packets pass, and that is the uplink; a port's maximum also holds
//! between two machines of one host, whose packets never see the uplink. What each port is guaranteed in all is never more than
//! [`GUARANTEED_PERCENT`] of the uplink: who comes first keeps it, and who comes too late is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::fabric::Mac;

/// How much of an uplink may be guaranteed. The rest is for the host itself (without its heartbeats it is given up) and for ports
/// that nothing is guaranteed to; more would let a few ports silence all others.
pub const GUARANTEED_PERCENT: u64 = 95;
/// What of an uplink the host itself is guaranteed: enough for its daemon's requests, which are small.
const HOST_PERCENT: u64 = 2;
/// What of an uplink the ports of a tenant that nothing is guaranteed to have together at least.
const REST_PER_MILLE: u64 = 1;
/// What arrives is shaped behind the wire: only where it queues is it shared, and it queues here only if less is let through than
/// the wire brings.
const ARRIVING_PERCENT: u64 = 97;
/// An Ethernet frame takes at least so much of a wire: 64 bytes, preamble and gap.
pub const WIRE_MPU_BYTES: u16 = 84;
/// What a wire adds to what the kernel counts of a frame: preamble, checksum, gap.
pub const WIRE_OVERHEAD_BYTES: u16 = 24;
/// The class above all others of an uplink.
pub const ROOT: u16 = 1;
/// The class of what is no tenant's.
pub const HOST: u16 = 2;
/// The first number that is given out.
const FIRST: u16 = 3;

/// What one direction of a port may have, as its policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bits a second that are there when they are needed.
    pub guaranteed_bits_per_s: Option<u64>,
    /// Bits a second that are never exceeded.
    pub maximum_bits_per_s: Option<u64>,
    /// Packets a second that are never exceeded.
    pub packets_per_s: Option<u64>,
}

/// A policy, as far as it is programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What the port sends.
    pub sending: Limits,
    /// What it receives.
    pub receiving: Limits,
    /// The length that shorter packets count as.
    pub mpu_bytes: u16,
}

/// A port on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// A name that no other port of this host has.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// Its network's number.
    pub vni: u32,
    /// The interface of its machine.
    pub interface: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// When it was made: who comes first is served first. In milliseconds.
    pub created_ms: i64,
    /// What it may have.
    pub policy: Option<Policy>,
}

/// The rates of a class, in bits a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What is there when it is needed.
    pub guaranteed_bits_per_s: u64,
    /// What is never exceeded.
    pub maximum_bits_per_s: u64,
    /// The length that shorter packets count as.
    pub mpu_bytes: u16,
    /// What is added to the length of each packet.
    pub overhead_bytes: u16,
}

/// A class of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Of whose bandwidth it takes.
    pub parent: u16,
    /// How much.
    pub rate: Rate,
    /// Whether packets are in it, and not other classes.
    pub leaf: bool,
}

/// One direction of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// All of it.
    pub total: Rate,
    /// Its classes. One that stands above others has a lower number than none of them in particular.
    pub classes: BTreeMap<u16, Class>,
}

/// An uplink that is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// What the host sends.
    pub sending: Line,
    /// What it receives.
    pub arriving: Line,
    /// The class of what arrives for a port, by its network's number and its Ethernet address.
    pub ports: BTreeMap<(u32, Mac), u16>,
    /// The class of what else arrives for a network.
    pub networks: BTreeMap<u32, u16>,
}

/// One direction of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Its rate, if it has a maximum.
    pub maximum: Option<Rate>,
    /// Packets a second.
    pub packets_per_s: Option<u64>,
}

/// A port, as its network's switch has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortShape {
    /// The interface of its machine.
    pub interface: String,
    /// Its class on the uplink; none if the uplink is not shared.
    pub class: Option<u16>,
    /// What it sends.
    pub sending: Side,
    /// What it receives.
    pub receiving: Side,
}

/// The ports of one network here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The class on the uplink of what is no port's.
    pub rest: Option<u16>,
    /// Which port it is that has an address behind an interface.
    pub keys: BTreeMap<(String, IpAddr), u16>,
    /// Ports by number.
    pub ports: BTreeMap<u16, PortShape>,
}

/// What is guaranteed to a port, in bits a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// What it sends.
    pub sending_bits_per_s: u64,
    /// What it receives.
    pub receiving_bits_per_s: u64,
}

/// What is to be programmed on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The uplink, if anything was ever guaranteed on it.
    pub uplink: Option<Uplink>,
    /// Networks, by number.
    pub networks: BTreeMap<u32, Shape>,
    /// The number of each port.
    pub numbers: BTreeMap<String, u16>,
    /// What is guaranteed to each port that asks.
    pub granted: BTreeMap<String, Granted>,
    /// Ports that there was no number for.
    pub unnumbered: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Tenant(String),
    Rest(String),
    Port(String),
}

/// What a plan goes on from, so that numbers and guarantees stay with who has them.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    numbers: BTreeMap<Owner, u16>,
    taken: BTreeSet<u16>,
    last: u16,
    granted: BTreeMap<String, Granted>,
    shared: bool,
}

impl Memory {
    /// Never gives these numbers out: they are in use by what an earlier process left.
    pub fn avoid(&mut self, numbers: impl IntoIterator<Item = u16>) {
        self.taken.extend(numbers);
    }

    /// The number of an owner. Those given up are given out again as late as possible: what they stood for may still be
    /// about to go.
    fn number(&mut self, owner: Owner) -> Option<u16> {
        if let Some(number) = self.numbers.get(&owner) {
            return Some(*number);
        }
        // 0xffff stands for "none" in the kernel.
        let free = (self.last.saturating_add(1).max(FIRST)..u16::MAX).chain(FIRST..self.last.max(FIRST));
        let number = free.into_iter().find(|n| !self.taken.contains(n))?;
        self.last = number;
        self.taken.insert(number);
        self.numbers.insert(owner, number);
        Some(number)
    }

    fn keep(&mut self, owners: &BTreeSet<Owner>) {
        let taken = &mut self.taken;
        self.numbers.retain(|owner, number| {
            let stays = owners.contains(owner);
            if !stays {
                taken.remove(number);
            }
            stays
        });
    }
}

/// Gives out what may be guaranteed: first everybody keeps what they have, then in order of age, each all that it asks for or
/// nothing more.
fn grant(asked: &[(&str, u64, u64)], available: u64) -> BTreeMap<String, u64> {
    let mut free = available;
    let mut granted: BTreeMap<String, u64> = BTreeMap::new();
    for (name, wanted, had) in asked {
        let keeps = (*wanted).min(*had).min(free);
        free -= keeps;
        granted.insert((*name).to_owned(), keeps);
    }
    for (name, wanted, _) in asked {
        if let Some(has) = granted.get_mut(*name) {
            let more = wanted - *has;
            if more <= free {
                *has += more;
                free -= more;
            }
        }
    }
    granted
}

fn percent(of: u64, percent: u64) -> u64 {
    of / 100 * percent
}

/// Plans a host. `uplink_bits_per_s` is what its uplink carries, if that is known.
pub fn plan(ports: &[Port], uplink_bits_per_s: Option<u64>, memory: &mut Memory) -> Plan {
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
    let guaranteed =
        |l: fn(&Policy) -> Limits, p: &Port| p.policy.as_ref().and_then(|p| l(p).guaranteed_bits_per_s);
    let ask =
        |l: fn(&Policy) -> Limits, had: fn(&Granted) -> u64, memory: &Memory| -> Vec<(&str, u64, u64)> {
            let had = |p: &Port| memory.granted.get(&p.name).map_or(0, had);
            sorted.iter().filter_map(|p| Some((p.name.as_str(), guaranteed(l, p)?, had(p)))).collect()
        };
    let (sending, receiving) = (
        ask(|p| p.sending, |g| g.sending_bits_per_s, memory),
        ask(|p| p.receiving, |g| g.receiving_bits_per_s, memory),
    );
    let capacity = uplink_bits_per_s.unwrap_or(0);
    let sending = grant(&sending, percent(capacity, GUARANTEED_PERCENT));
    let receiving = grant(&receiving, percent(percent(capacity, ARRIVING_PERCENT), GUARANTEED_PERCENT));
    let mut granted: BTreeMap<String, Granted> = BTreeMap::new();
    for (name, bits) in &sending {
        granted.entry(name.clone()).or_default().sending_bits_per_s = *bits;
    }
    for (name, bits) in &receiving {
        granted.entry(name.clone()).or_default().receiving_bits_per_s = *bits;
    }
    memory.shared |= uplink_bits_per_s.is_some() && !granted.is_empty();
    memory.granted.clone_from(&granted);

    let mut owners = BTreeSet::new();
    for port in ports {
        owners.insert(Owner::Port(port.name.clone()));
        if memory.shared {
            owners.insert(Owner::Tenant(port.tenant.clone()));
            owners.insert(Owner::Rest(port.tenant.clone()));
        }
    }
    memory.keep(&owners);
    let mut plan = Plan { granted, ..Plan::default() };
    let mut uplink = memory.shared.then(|| empty_uplink(capacity));
    for port in &sorted {
        let of_tenant = uplink.as_mut().and_then(|uplink| tenant_classes(uplink, &port.tenant, memory));
        let shape = plan.networks.entry(port.vni).or_default();
        shape.rest = of_tenant.map(|(_, rest)| rest);
        if let (Some(uplink), Some((_, rest))) = (&mut uplink, of_tenant) {
            uplink.networks.insert(port.vni, rest);
        }
        let Some(number) = memory.number(Owner::Port(port.name.clone())) else {
            plan.unnumbered.insert(port.name.clone());
            continue;
        };
        plan.numbers.insert(port.name.clone(), number);
        let has = plan.granted.get(&port.name).copied().unwrap_or_default();
        let mut class = shape.rest;
        if let (Some(uplink), Some((tenant, _))) = (&mut uplink, of_tenant) {
            let of = |limits: fn(&Policy) -> Limits| port.policy.as_ref().map(limits).unwrap_or_default();
            let mpu = port.policy.map_or(WIRE_MPU_BYTES, |p| p.mpu_bytes);
            if has.sending_bits_per_s > 0 {
                uplink.sending.add(number, tenant, has.sending_bits_per_s, of(|p| p.sending), mpu);
                class = Some(number);
            }
            if has.receiving_bits_per_s > 0 {
                uplink.arriving.add(number, tenant, has.receiving_bits_per_s, of(|p| p.receiving), mpu);
                uplink.ports.insert((port.vni, port.mac), number);
            }
        }
        let side = |limits: Limits, mpu_bytes: u16| Side {
            maximum: limits.maximum_bits_per_s.map(|bits| Rate {
                guaranteed_bits_per_s: bits,
                maximum_bits_per_s: bits,
                mpu_bytes,
                overhead_bytes: WIRE_OVERHEAD_BYTES,
            }),
            packets_per_s: limits.packets_per_s,
        };
        let (sending, receiving) = port.policy.map_or_else(Default::default, |p| {
            (side(p.sending, p.mpu_bytes), side(p.receiving, p.mpu_bytes))
        });
        for ip in &port.addresses {
            shape.keys.insert((port.interface.clone(), *ip), number);
        }
        let interface = port.interface.clone();
        shape.ports.insert(number, PortShape { interface, class, sending, receiving });
    }
    plan.uplink = uplink;
    plan
}

fn on_wire(guaranteed_bits_per_s: u64, maximum_bits_per_s: u64, mpu_bytes: u16) -> Rate {
    Rate { guaranteed_bits_per_s, maximum_bits_per_s, mpu_bytes, overhead_bytes: WIRE_OVERHEAD_BYTES }
}

fn empty_uplink(capacity: u64) -> Uplink {
    let line = |bits: u64| {
        let host = on_wire(percent(bits, HOST_PERCENT), bits, WIRE_MPU_BYTES);
        let classes = BTreeMap::from([(HOST, Class { parent: ROOT, rate: host, leaf: true })]);
        Line { total: on_wire(bits, bits, WIRE_MPU_BYTES), classes }
    };
    Uplink {
        sending: line(capacity),
        arriving: line(percent(capacity, ARRIVING_PERCENT)),
        ports: BTreeMap::new(),
        networks: BTreeMap::new(),
    }
}

/// The class of a tenant, and in it that of its ports that nothing is guaranteed to; made when they are not there.
fn tenant_classes(uplink: &mut Uplink, tenant: &str, memory: &mut Memory) -> Option<(u16, u16)> {
    let above = memory.number(Owner::Tenant(tenant.to_owned()))?;
    let rest = memory.number(Owner::Rest(tenant.to_owned()))?;
    for line in [&mut uplink.sending, &mut uplink.arriving] {
        let bits = line.total.maximum_bits_per_s;
        let least = on_wire(bits / 1000 * REST_PER_MILLE, bits, WIRE_MPU_BYTES);
        line.classes.entry(above).or_insert(Class { parent: ROOT, rate: least, leaf: false });
        line.classes.entry(rest).or_insert(Class { parent: above, rate: least, leaf: true });
    }
    Some((above, rest))
}

impl Line {
    /// A port's class, within its tenant's, which is guaranteed what its ports are.
    fn add(&mut self, number: u16, tenant: u16, guaranteed: u64, limits: Limits, mpu: u16) {
        let all = self.total.maximum_bits_per_s;
        let most = limits.maximum_bits_per_s.map_or(all, |m| m.min(all)).max(guaranteed);
        let rate = on_wire(guaranteed, most, mpu);
        self.classes.insert(number, Class { parent: tenant, rate, leaf: true });
        if let Some(above) = self.classes.get_mut(&tenant) {
            above.rate.guaranteed_bits_per_s += guaranteed;
        }
    }
}

#[cfg(test)]
#[path = "bandwidth_tests.rs"]
mod tests;
