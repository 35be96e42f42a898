//! What is programmed, and the changes from it to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{AddressRange, Class, Desired, Direction, Name, Peers, PortRange, Ports, ProtocolPort};
use crate::service::Family;

/// The number of a set in the tables of its family.
pub type SetId = u32;

/// The number of a class in the tables of its family.
pub type ClassId = u32;

/// What the elements of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Addresses.
    Addresses,
    /// Ranges of addresses.
    Ranges,
    /// Protocols with ranges of ports.
    Ports,
    /// Addresses with a protocol and a port.
    Named,
}

/// An element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// An address.
    Address(IpAddr),
    /// A range of addresses.
    Range(AddressRange),
    /// A protocol with a range of ports.
    Ports(PortRange),
    /// An address with a protocol and a port.
    Named(IpAddr, ProtocolPort),
}

/// A rule with the sets that it looks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who is on the other side.
    pub peers: Option<(SetId, SetKind)>,
    /// Where it leads.
    pub ports: Option<(SetId, SetKind)>,
}

/// One change of the kernel's tables. They are to be made in order, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Change {
    AddSet(Family, SetId, SetKind),
    /// With all that is in it. It comes after the rules that looked into it have gone.
    RemoveSet(Family, SetId),
    AddElement(Family, SetId, Element),
    RemoveElement(Family, SetId, Element),
    AddClass(Family, Direction, ClassId, Vec<Step>),
    /// It comes after those that it guarded have gone.
    RemoveClass(Family, Direction, ClassId),
    Guard(Direction, IpAddr, ClassId),
    Unguard(Direction, IpAddr, ClassId),
    /// An address is guarded, in one direction or both. Nobody keeps anything from itself.
    AddSelf(IpAddr),
    RemoveSelf(IpAddr),
}

/// What a set is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SetKey {
    Members(Name),
    Ranges(Vec<AddressRange>),
    Numbers(Vec<PortRange>),
    Named(Name),
}

impl SetKey {
    fn kind(&self) -> SetKind {
        match self {
            SetKey::Members(_) => SetKind::Addresses,
            SetKey::Ranges(_) => SetKind::Ranges,
            SetKey::Numbers(_) => SetKind::Ports,
            SetKey::Named(_) => SetKind::Named,
        }
    }

    /// What is in it, of one family.
    fn elements(&self, family: Family, desired: &Desired) -> BTreeSet<Element> {
        let here = |ip: IpAddr| Family::of(ip) == family;
        match self {
            SetKey::Members(name) => {
                let all = desired.members.get(name).into_iter().flatten();
                all.filter(|ip| here(**ip)).map(|ip| Element::Address(*ip)).collect()
            }
            SetKey::Ranges(ranges) => {
                ranges.iter().filter(|r| here(r.first)).map(|r| Element::Range(*r)).collect()
            }
            SetKey::Numbers(ports) => ports.iter().map(|p| Element::Ports(*p)).collect(),
            SetKey::Named(name) => {
                let all = desired.named.get(name).into_iter().flatten();
                all.filter(|(ip, _)| here(*ip)).map(|(ip, port)| Element::Named(*ip, *port)).collect()
            }
        }
    }
}

fn peers_key(peers: &Peers) -> SetKey {
    match peers {
        Peers::Members(name) => SetKey::Members(name.clone()),
        Peers::Ranges(ranges) => SetKey::Ranges(ranges.clone()),
    }
}

fn ports_key(ports: &Ports) -> SetKey {
    match ports {
        Ports::Numbers(ports) => SetKey::Numbers(ports.clone()),
        Ports::Named(name) => SetKey::Named(name.clone()),
    }
}

#[derive(Clone, Debug)]
struct Set {
    id: SetId,
    elements: BTreeSet<Element>,
}

/// What is programmed.
#[derive(Clone, Debug, Default)]
pub struct Table {
    sets: BTreeMap<(Family, SetKey), Set>,
    classes: BTreeMap<(Family, Direction, Arc<Class>), ClassId>,
    guarded: BTreeMap<(Direction, IpAddr), (ClassId, Arc<Class>)>,
    /// Numbers are never used twice: what goes and what comes in one transaction are apart.
    last: u32,
}

impl Table {
    /// The changes to what is wanted, which is what is programmed from then on. Each can be made when those before it have been.
    pub fn set(&mut self, desired: &Desired) -> Vec<Change> {
        let mut changes = Vec::new();
        let classes: BTreeSet<(Family, Direction, Arc<Class>)> =
            desired.guarded.iter().map(|((d, ip), class)| (Family::of(*ip), *d, class.clone())).collect();
        let mut sets = BTreeSet::new();
        for (family, _, class) in &classes {
            for rule in class.iter() {
                sets.extend(rule.peers.iter().map(|p| (*family, peers_key(p))));
                sets.extend(rule.ports.iter().map(|p| (*family, ports_key(p))));
            }
        }
        self.fill_sets(&sets, desired, &mut changes);
        for key in &classes {
            if !self.classes.contains_key(key) {
                let steps = key.2.iter().map(|r| Step {
                    peers: r.peers.as_ref().and_then(|p| self.place(key.0, peers_key(p))),
                    ports: r.ports.as_ref().and_then(|p| self.place(key.0, ports_key(p))),
                });
                let steps = steps.collect();
                let id = self.number();
                changes.push(Change::AddClass(key.0, key.1, id, steps));
                self.classes.insert(key.clone(), id);
            }
        }
        self.set_guards(desired, &mut changes);
        let gone = |key: &(Family, Direction, Arc<Class>)| !classes.contains(key);
        changes.extend(
            self.classes
                .iter()
                .filter(|(key, _)| gone(key))
                .map(|((family, direction, _), id)| Change::RemoveClass(*family, *direction, *id)),
        );
        self.classes.retain(|key, _| classes.contains(key));
        let gone = self.sets.iter().filter(|(key, _)| !sets.contains(key));
        changes.extend(gone.map(|((family, _), set)| Change::RemoveSet(*family, set.id)));
        self.sets.retain(|key, _| sets.contains(key));
        changes
    }

    /// Whether nothing is programmed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.guarded.is_empty() && self.classes.is_empty() && self.sets.is_empty()
    }

    fn number(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    fn place(&self, family: Family, key: SetKey) -> Option<(SetId, SetKind)> {
        let kind = key.kind();
        self.sets.get(&(family, key)).map(|set| (set.id, kind))
    }

    fn fill_sets(
        &mut self,
        wanted: &BTreeSet<(Family, SetKey)>,
        desired: &Desired,
        changes: &mut Vec<Change>,
    ) {
        for (family, key) in wanted {
            let elements = key.elements(*family, desired);
            let place = (*family, key.clone());
            if !self.sets.contains_key(&place) {
                let id = self.number();
                changes.push(Change::AddSet(*family, id, key.kind()));
                self.sets.insert(place.clone(), Set { id, elements: BTreeSet::new() });
            }
            let Some(set) = self.sets.get_mut(&place) else { continue };
            let gone = set.elements.difference(&elements);
            changes.extend(gone.map(|e| Change::RemoveElement(*family, set.id, *e)));
            let new = elements.difference(&set.elements);
            changes.extend(new.map(|e| Change::AddElement(*family, set.id, *e)));
            set.elements = elements;
        }
    }

    fn set_guards(&mut self, desired: &Desired, changes: &mut Vec<Change>) {
        let both = |guarded: &dyn Fn((Direction, IpAddr)) -> bool, ip: IpAddr| {
            Direction::ALL.iter().any(|d| guarded((*d, ip)))
        };
        let mut touched = BTreeSet::new();
        for ((direction, ip), (id, class)) in &self.guarded {
            if desired.guarded.get(&(*direction, *ip)) != Some(class) {
                changes.push(Change::Unguard(*direction, *ip, *id));
                touched.insert(*ip);
            }
        }
        let was = self.guarded.clone();
        self.guarded.retain(|key, (_, class)| desired.guarded.get(key) == Some(class));
        for ((direction, ip), class) in &desired.guarded {
            if self.guarded.contains_key(&(*direction, *ip)) {
                continue;
            }
            let Some(id) = self.classes.get(&(Family::of(*ip), *direction, class.clone())) else { continue };
            changes.push(Change::Guard(*direction, *ip, *id));
            self.guarded.insert((*direction, *ip), (*id, class.clone()));
            touched.insert(*ip);
        }
        for ip in touched {
            let before = both(&|key| was.contains_key(&key), ip);
            let now = both(&|key| desired.guarded.contains_key(&key), ip);
            match (before, now) {
                (false, true) => changes.push(Change::AddSelf(ip)),
                (true, false) => changes.push(Change::RemoveSelf(ip)),
                _ => {}
            }
        }
    }
}
