//! One turn of programming: what is to be of a network, and what the data plane is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use parking_lot::Mutex;
use skep_base::TenantName;
use skep_client::ObjectKey;
use skep_net::Namespace;
use skep_net::netlink::Result;
use skep_netplan::fabric::{Fabric, Live, Place, Port, plan};
use skep_netplan::filter::Desired;
use skep_netplan::public::Entrance;

use crate::copies::{BY_NODE, Copies, Touched};
use crate::plane::NetworkSwitch;
use crate::{Here, NetworkKey, Shared, guard, public};

/// What is to be programmed of one network in one go.
pub(crate) struct Turn {
    /// Of machines that are touched, what each needs.
    pub(crate) fabrics: BTreeMap<String, Fabric>,
    pub(crate) entrances: BTreeMap<String, Entrance>,
    /// What security groups say, if that is touched.
    pub(crate) groups: Option<Desired>,
    /// Whether bandwidth may have to be another.
    pub(crate) bandwidth: bool,
}

/// A network here as its data plane was told.
pub(crate) struct Programmed {
    pub(crate) switch: Box<dyn NetworkSwitch>,
    /// The network's number.
    pub(crate) vni: u32,
    /// The public addresses that lead in, as the host's edge was told; not known at first.
    led: Option<BTreeSet<IpAddr>>,
    /// What is programmed of each machine, and by which public addresses it is reached.
    live: Live,
    entrances: BTreeMap<String, Entrance>,
}

impl Programmed {
    /// Of what is there, nothing is known.
    pub(crate) fn new(switch: Box<dyn NetworkSwitch>, vni: u32) -> Programmed {
        Programmed { switch, vni, led: None, live: Live::default(), entrances: BTreeMap::new() }
    }

    /// Connects a machine. Behind an interface that is new there is nothing yet.
    pub(crate) fn attach(&mut self, interface: &str, machine: &Namespace) -> Result<()> {
        if self.switch.attach(interface, machine)? {
            self.live.forget(interface);
        }
        Ok(())
    }

    pub(crate) fn detach(&mut self, interface: &str) -> Result<()> {
        self.switch.detach(interface)?;
        self.live.forget(interface);
        Ok(())
    }

    /// Says what a turn changes. `lead` has public addresses led into this network, and no others; it is called when they change.
    pub(crate) fn program(
        &mut self,
        turn: Turn,
        lead: impl FnOnce(u32, &BTreeSet<IpAddr>) -> Result<()>,
    ) -> Result<()> {
        // Whom a port may talk to is said before it can.
        if let Some(groups) = &turn.groups {
            self.switch.guard(groups)?;
        }
        self.switch.apply(&self.live.set(turn.fabrics))?;
        for (node, entrance) in turn.entrances {
            if entrance == Entrance::default() {
                self.entrances.remove(&node);
            } else {
                self.entrances.insert(node, entrance);
            }
        }
        let mut all = Entrance::default();
        for entrance in self.entrances.values() {
            all.addresses.extend(&entrance.addresses);
            all.openings.extend(entrance.openings.iter().cloned());
        }
        self.switch.let_in(&all)?;
        let led: BTreeSet<IpAddr> = all.addresses.keys().copied().collect();
        if self.led.as_ref() != Some(&led) {
            lead(self.vni, &led)?;
            self.led = Some(led);
        }
        Ok(())
    }
}

/// What a machine is in a network.
enum Member {
    /// In it, and where, if that is known.
    Yes(Option<Place>),
    /// In another network of its tenant.
    No,
}

impl Shared {
    /// What is to be programmed of a network, of that which is touched.
    pub(crate) fn turn(&self, key: &NetworkKey, here: &Mutex<Here>, mut touched: Touched) -> Turn {
        let tenant = &key.tenant;
        let (machines, copies) = {
            let here = here.lock();
            if touched.everything {
                touched.machines.extend(here.programmed.live.machines().map(str::to_owned));
                touched.machines.extend(here.machines.keys().cloned());
            }
            (here.machines.clone(), here.copies.clone())
        };
        if touched.everything {
            let all = copies.machines.of_tenant(tenant);
            touched.machines.extend(all.iter().map(|m| m.view.node(&m.key.name).to_owned()));
        }
        let publics = public::publics_of(&copies, tenant);
        let bandwidth = touched.bandwidth || touched.machines.iter().any(|node| machines.contains_key(node));
        let groups = touched.groups.then(|| guard::guarded(&copies, key, &machines));
        let mut turn = Turn { fabrics: BTreeMap::new(), entrances: BTreeMap::new(), groups, bandwidth };
        for node in touched.machines {
            let (fabric, entrance) = match self.member(&copies, key, &node, &machines) {
                // What an earlier machine of the name had here goes.
                Member::No => Default::default(),
                Member::Yes(place) => {
                    let of_node = copies.ports.by_index(BY_NODE, tenant, &node);
                    let in_network = of_node.iter().filter(|p| p.view.spec.network_name == *key.network);
                    let ports: Vec<Port> = in_network.filter_map(|p| p.view.port()).collect();
                    let places: BTreeMap<String, Place> =
                        place.map(|p| (node.clone(), p)).into_iter().collect();
                    let mut fabric = plan(&ports, &places);
                    let led = publics.get(&node).map_or(&[][..], Vec::as_slice);
                    let entrance = skep_netplan::public::plan(led, &ports, &places, &mut fabric);
                    (fabric, entrance)
                }
            };
            turn.entrances.insert(node.clone(), entrance);
            turn.fabrics.insert(node, fabric);
        }
        turn
    }

    /// Where a tenant's machine is: here, or on another host whose address is known.
    fn member(
        &self,
        copies: &Copies,
        NetworkKey { tenant, network }: &NetworkKey,
        node: &str,
        here: &BTreeMap<String, String>,
    ) -> Member {
        if let Some(interface) = here.get(node) {
            return Member::Yes(Some(Place::Here(interface.clone())));
        }
        let of_node = copies.machines.by_index(BY_NODE, tenant, node);
        if !of_node.is_empty() && of_node.iter().all(|m| m.view.network() != network.as_str()) {
            return Member::No;
        }
        let elsewhere = |host: &&str| *host != self.config.host;
        Member::Yes(of_node.iter().find_map(|m| {
            let host = m.view.spec.host_name.as_deref().filter(elsewhere)?;
            let key = ObjectKey::new(&TenantName::system(), "", host);
            Some(Place::There(self.hosts.get(&key)?.view.address()?))
        }))
    }
}
