//! One network on one host: where its ports are, and what those of this host may send.
//!
//! Nothing is learned and nothing is flooded to other hosts: where each Ethernet address is and which one each IP address
//! has is known beforehand, and said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A port of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Other addresses that it may send from, with the Ethernet address that it does.
    pub pairs: Vec<(IpAddr, Mac)>,
    /// The machine that it is in.
    pub machine: String,
    /// Whether it is the machine's own: through it, its pods' packets to services and to the outside leave.
    pub is_machine: bool,
}

/// Where a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this host, behind an interface.
    Here(String),
    /// On another host, which has this address.
    There(IpAddr),
}

/// What one network needs on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fabric {
    /// Ethernet addresses on other hosts, and on which.
    pub remote: BTreeMap<Mac, IpAddr>,
    /// Ethernet addresses here, and behind which interface.
    pub local: BTreeMap<Mac, String>,
    /// The Ethernet addresses of IP addresses on other hosts, which are answered for here.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// What may come from an interface: source Ethernet and IP address.
    pub allowed: BTreeSet<(String, Mac, IpAddr)>,
}

/// One change of what is programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Change {
    SetRemote(Mac, IpAddr),
    RemoveRemote(Mac, IpAddr),
    SetLocal(Mac, String),
    RemoveLocal(Mac, String),
    SetNeighbour(IpAddr, Mac),
    RemoveNeighbour(IpAddr),
    Allow(String, Mac, IpAddr),
    Disallow(String, Mac, IpAddr),
    /// An interface may send from an Ethernet address.
    AllowMac(String, Mac),
    DisallowMac(String, Mac),
}

/// Plans a network on a host. A port whose machine has no place yet is nowhere.
#[must_use]
pub fn plan(ports: &[Port], places: &BTreeMap<String, Place>) -> Fabric {
    let mut fabric = Fabric::default();
    let gates: BTreeMap<&str, Mac> =
        ports.iter().filter(|p| p.is_machine).map(|p| (p.machine.as_str(), p.mac)).collect();
    for port in ports {
        match places.get(&port.machine) {
            Some(Place::Here(interface)) => {
                fabric.local.insert(port.mac, interface.clone());
                for ip in &port.addresses {
                    fabric.allowed.insert((interface.clone(), port.mac, *ip));
                    // What is routed in the machine leaves with the machine's Ethernet address.
                    if let Some(gate) = gates.get(port.machine.as_str()) {
                        fabric.allowed.insert((interface.clone(), *gate, *ip));
                    }
                }
                for (ip, mac) in &port.pairs {
                    fabric.allowed.insert((interface.clone(), *mac, *ip));
                }
            }
            Some(Place::There(host)) => {
                fabric.remote.insert(port.mac, *host);
                for ip in &port.addresses {
                    fabric.neighbours.insert(*ip, port.mac);
                }
            }
            None => {}
        }
    }
    fabric
}

impl Fabric {
    fn macs(&self) -> BTreeSet<(&String, &Mac)> {
        self.allowed.iter().map(|(interface, mac, _)| (interface, mac)).collect()
    }

    /// The changes from this to what is wanted, in an order in which each can be made: what goes comes first.
    #[must_use]
    pub fn changes(&self, wanted: &Fabric) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone = |old: &BTreeMap<IpAddr, Mac>, new: &BTreeMap<IpAddr, Mac>| {
            old.keys().filter(|k| !new.contains_key(*k)).copied().collect::<Vec<_>>()
        };
        changes.extend(gone(&self.neighbours, &wanted.neighbours).into_iter().map(Change::RemoveNeighbour));
        for (mac, host) in &self.remote {
            if wanted.remote.get(mac) != Some(host) {
                changes.push(Change::RemoveRemote(*mac, *host));
            }
        }
        for (mac, interface) in &self.local {
            if wanted.local.get(mac) != Some(interface) {
                changes.push(Change::RemoveLocal(*mac, interface.clone()));
            }
        }
        for (i, mac, ip) in self.allowed.difference(&wanted.allowed) {
            changes.push(Change::Disallow(i.clone(), *mac, *ip));
        }
        let (old, new) = (self.macs(), wanted.macs());
        changes.extend(old.difference(&new).map(|(i, mac)| Change::DisallowMac((*i).clone(), **mac)));
        changes.extend(new.difference(&old).map(|(i, mac)| Change::AllowMac((*i).clone(), **mac)));
        for (i, mac, ip) in wanted.allowed.difference(&self.allowed) {
            changes.push(Change::Allow(i.clone(), *mac, *ip));
        }
        for (mac, interface) in &wanted.local {
            if self.local.get(mac) != Some(interface) {
                changes.push(Change::SetLocal(*mac, interface.clone()));
            }
        }
        for (mac, host) in &wanted.remote {
            if self.remote.get(mac) != Some(host) {
                changes.push(Change::SetRemote(*mac, *host));
            }
        }
        for (ip, mac) in &wanted.neighbours {
            if self.neighbours.get(ip) != Some(mac) {
                changes.push(Change::SetNeighbour(*ip, *mac));
            }
        }
        changes
    }
}

/// A network on a host as it is programmed, machine by machine: a change of one machine's ports costs what that machine has, however
/// large the network is.
#[derive(Clone, Debug, Default)]
pub struct Live {
    parts: BTreeMap<String, Fabric>,
    /// Where Ethernet addresses were said to be, and for which machine. While a port moves, both its old machine and its new one may
    /// seem to have it: who said it last has it, and the other takes nothing away.
    owners: BTreeMap<Mac, (String, At)>,
    neighbours: BTreeMap<IpAddr, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Remote(IpAddr),
    Local(String),
}

impl At {
    fn removed(self, mac: Mac) -> Change {
        match self {
            At::Remote(host) => Change::RemoveRemote(mac, host),
            At::Local(interface) => Change::RemoveLocal(mac, interface),
        }
    }
}

impl Live {
    /// The changes that bring some machines to what is wanted of each, as [`plan`] gives it for one machine; nothing wanted removes it. They
    /// are to be made in order, and taken as made.
    pub fn set(&mut self, wanted: BTreeMap<String, Fabric>) -> Vec<Change> {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let nothing = Fabric::default();
        for (machine, fabric) in &wanted {
            for change in self.parts.get(machine).unwrap_or(&nothing).changes(fabric) {
                match &change {
                    Change::RemoveRemote(mac, _) | Change::RemoveLocal(mac, _) => {
                        if self.owners.get(mac).is_some_and(|(owner, _)| owner == machine) {
                            self.owners.remove(mac);
                            gone.push(change);
                        }
                    }
                    Change::RemoveNeighbour(ip) => {
                        if self.neighbours.get(ip) == Some(machine) {
                            self.neighbours.remove(ip);
                            gone.push(change);
                        }
                    }
                    Change::Disallow(..) | Change::DisallowMac(..) => gone.push(change),
                    _ => new.push((machine, change)),
                }
            }
        }
        for (machine, change) in &new {
            let at = match change {
                Change::SetRemote(mac, host) => (mac, At::Remote(*host)),
                Change::SetLocal(mac, interface) => (mac, At::Local(interface.clone())),
                Change::SetNeighbour(ip, _) => {
                    self.neighbours.insert(*ip, (*machine).clone());
                    continue;
                }
                _ => continue,
            };
            let (mac, at) = at;
            if let Some((_, old)) = self.owners.insert(*mac, ((*machine).clone(), at)) {
                gone.push(old.removed(*mac));
            }
        }
        gone.extend(new.into_iter().map(|(_, change)| change));
        for (machine, fabric) in wanted {
            if fabric == nothing {
                self.parts.remove(&machine);
            } else {
                self.parts.insert(machine, fabric);
            }
        }
        gone
    }

    /// An interface was made anew, or is gone, and with it what was said to be behind it.
    pub fn forget(&mut self, interface: &str) {
        for part in self.parts.values_mut() {
            part.local.retain(|_, at| at != interface);
        }
        self.owners.retain(|_, (_, at)| *at != At::Local(interface.to_owned()));
    }

    /// The machines that something is programmed of.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn port(n: u8, machine: &str) -> Port {
        Port {
            mac: [2, 0, 0, 0, 0, n],
            addresses: vec![IpAddr::from([10, 0, 0, n])],
            pairs: Vec::new(),
            machine: machine.into(),
            is_machine: n >= 100,
        }
    }

    fn places(all: &[(&str, Place)]) -> BTreeMap<String, Place> {
        all.iter().map(|(m, p)| ((*m).to_owned(), p.clone())).collect()
    }

    #[test]
    fn a_port_is_here_there_or_nowhere() {
        let there = IpAddr::from([192, 0, 2, 2]);
        let places = places(&[("a", Place::Here("m-a".into())), ("b", Place::There(there))]);
        let fabric = plan(&[port(1, "a"), port(100, "a"), port(2, "b"), port(3, "c")], &places);
        assert_eq!(fabric.remote, [([2, 0, 0, 0, 0, 2], there)].into());
        assert_eq!(fabric.local.keys().map(|m| m[5]).collect::<Vec<_>>(), [1, 100]);
        assert_eq!(fabric.neighbours.len(), 1, "only who is elsewhere is answered for");
        let allowed: Vec<_> = fabric.allowed.iter().map(|(_, mac, ip)| (mac[5], ip.to_string())).collect();
        assert_eq!(
            allowed,
            [(1, "10.0.0.1".into()), (100, "10.0.0.1".into()), (100, "10.0.0.100".into())],
            "pods' packets may leave routed"
        );
    }

    #[test]
    fn a_machine_that_moves_is_found_elsewhere() {
        let there = IpAddr::from([192, 0, 2, 2]);
        let ports = [port(1, "a")];
        let before = plan(&ports, &places(&[("a", Place::There(there))]));
        let after = plan(&ports, &places(&[("a", Place::Here("m-a".into()))]));
        let mac = ports[0].mac;
        let changes = before.changes(&after);
        assert_eq!(changes[0], Change::RemoveNeighbour(ports[0].addresses[0]));
        assert_eq!(changes[1], Change::RemoveRemote(mac, there));
        assert_eq!(changes.last(), Some(&Change::SetLocal(mac, "m-a".into())));
        assert_eq!(before.changes(&before), []);
    }

    /// A kernel that refuses what it has and what it has not.
    fn apply(fabric: &mut Fabric, macs: &mut BTreeSet<(String, Mac)>, changes: &[Change]) {
        for change in changes {
            let ok = match change.clone() {
                Change::SetRemote(mac, host) => fabric.remote.insert(mac, host).is_none(),
                Change::RemoveRemote(mac, host) => fabric.remote.remove(&mac) == Some(host),
                Change::SetLocal(mac, i) => fabric.local.insert(mac, i).is_none(),
                Change::RemoveLocal(mac, i) => fabric.local.remove(&mac) == Some(i),
                Change::SetNeighbour(ip, mac) => {
                    fabric.neighbours.insert(ip, mac);
                    true
                }
                Change::RemoveNeighbour(ip) => fabric.neighbours.remove(&ip).is_some(),
                Change::Allow(i, mac, ip) => fabric.allowed.insert((i, mac, ip)),
                Change::Disallow(i, mac, ip) => fabric.allowed.remove(&(i, mac, ip)),
                Change::AllowMac(i, mac) => macs.insert((i, mac)),
                Change::DisallowMac(i, mac) => macs.remove(&(i, mac)),
            };
            assert!(ok, "{change:?} of {changes:?}");
        }
    }

    #[test]
    fn who_has_a_port_now_keeps_it() {
        let there = IpAddr::from([192, 0, 2, 2]);
        let part =
            |n: u8, machine: &str, place: Place| plan(&[port(n, machine)], &places(&[(machine, place)]));
        let (mut live, mac) = (Live::default(), [2, 0, 0, 0, 0, 1]);
        live.set([("a".into(), part(1, "a", Place::There(there)))].into());
        // The news of where it is come before those of where it is not any more.
        let changes = live.set([("b".into(), part(1, "b", Place::Here("m-b".into())))].into());
        assert_eq!(changes[0], Change::RemoveRemote(mac, there));
        assert!(changes.contains(&Change::SetLocal(mac, "m-b".into())));
        let changes = live.set([("a".into(), Fabric::default())].into());
        assert_eq!(changes, [Change::RemoveNeighbour([10, 0, 0, 1].into())], "where it is now stays");
        assert_eq!(live.machines().collect::<Vec<_>>(), ["b"]);
        live.forget("m-b");
        let changes = live.set([("b".into(), part(1, "b", Place::Here("m-b".into())))].into());
        assert_eq!(changes, [Change::SetLocal(mac, "m-b".into())]);
    }

    /// Machines that are nowhere (0), here (1), or on another host.
    fn placed(whereabouts: &[u8], machines: &[&str]) -> BTreeMap<String, Place> {
        let place = |n: u8, machine: &str| match n {
            0 => None,
            1 => Some(Place::Here(format!("m-{machine}"))),
            n => Some(Place::There(IpAddr::from([192, 0, 2, n]))),
        };
        let all = whereabouts.iter().zip(machines);
        all.filter_map(|(n, machine)| Some(((*machine).to_owned(), place(*n, machine)?))).collect()
    }

    proptest! {
        #[test]
        fn machine_by_machine_leads_to_the_same(
            steps in prop::collection::vec(
                (prop::collection::btree_map(0u8..6, 0usize..4, 0..6), prop::collection::vec(0u8..4, 4), any::<bool>()), 1..8)
        ) {
            let machines = ["a", "b", "c", "d"];
            let (mut kernel, mut macs, mut live) = (Fabric::default(), BTreeSet::new(), Live::default());
            for (ports, whereabouts, at_once) in steps {
                let ports: Vec<Port> = ports.into_iter().map(|(n, m)| port(n, machines[m])).collect();
                let places = placed(&whereabouts, &machines);
                let parts = machines.map(|m| {
                    let own: Vec<Port> = ports.iter().filter(|p| p.machine == m).cloned().collect();
                    (m.to_owned(), plan(&own, &places))
                });
                if at_once {
                    let changes = live.set(parts.into());
                    apply(&mut kernel, &mut macs, &changes);
                } else {
                    for (machine, part) in parts {
                        let changes = live.set([(machine, part)].into());
                        apply(&mut kernel, &mut macs, &changes);
                    }
                }
                prop_assert_eq!(&kernel, &plan(&ports, &places));
                let expected: BTreeSet<(String, Mac)> = kernel.macs().into_iter().map(|(i, m)| (i.clone(), *m)).collect();
                prop_assert_eq!(&macs, &expected);
            }
        }

        #[test]
        fn changes_lead_to_what_is_wanted(
            steps in prop::collection::vec(
                (prop::collection::btree_map(0u8..6, 0usize..4, 0..6), prop::collection::vec(0u8..4, 3)), 1..8)
        ) {
            let (mut kernel, mut macs, mut known) = (Fabric::default(), BTreeSet::new(), Fabric::default());
            for (ports, whereabouts) in steps {
                let machines = ["a", "b", "c", "d"];
                let ports: Vec<Port> = ports.into_iter().map(|(n, m)| port(n, machines[m])).collect();
                let places = placed(&whereabouts, &machines);
                let wanted = plan(&ports, &places);
                apply(&mut kernel, &mut macs, &known.changes(&wanted));
                prop_assert_eq!(&kernel, &wanted);
                let expected: BTreeSet<(String, Mac)> = wanted.macs().into_iter().map(|(i, m)| (i.clone(), *m)).collect();
                prop_assert_eq!(&macs, &expected);
                known = wanted;
            }
        }
    }
}
