//! Security groups, at the switch: outside of machines, whose tenants change nothing here.
//!
//! What two pods of one machine say to each other never comes by; their machine's agent looks at that. Here counts what a
//! machine as a whole may do, even when whoever is root in it has taken its own filters away.

use std::collections::BTreeMap;

use skep_net::filter::{Filter, Purpose, filter_bridged};
use skep_net::netlink::Result;
use skep_net::switch::Switch;
use skep_netplan::filter::Desired;
use skep_netplan::filter::group::{self, Group, Member};

use crate::NetworkKey;
use crate::copies::{Copies, GROUPED};
use crate::public::OfPods;

/// The security groups of one network on this host.
pub(crate) struct Guard {
    filter: Filter,
    /// Whether packets pass the filter; not known at first.
    is_on: Option<bool>,
}

impl Guard {
    pub(crate) fn open(switch: &Switch) -> Result<Guard> {
        Ok(Guard { filter: Filter::open(switch.namespace(), Purpose::Groups)?, is_on: None })
    }

    /// Guards what is to be. A network without guarded ports passes by the filter, and pays nothing for it.
    pub(crate) fn set(&mut self, switch: &Switch, wanted: &Desired) -> Result<usize> {
        let on = !wanted.guarded.is_empty();
        if on && self.is_on != Some(true) {
            filter_bridged(switch.namespace(), true)?;
            self.is_on = Some(true);
        }
        let changes = self.filter.set(wanted)?;
        if !on && self.is_on != Some(false) {
            filter_bridged(switch.namespace(), false)?;
            self.is_on = Some(false);
        }
        Ok(changes)
    }
}

/// What security groups say about a network's machines here, by node.
pub(crate) fn guarded(
    copies: &Copies,
    NetworkKey { tenant, network }: &NetworkKey,
    here: &BTreeMap<String, String>,
) -> Desired {
    let ports = copies.ports.by_index(GROUPED, tenant, GROUPED);
    let near = ports.iter().filter(|p| p.view.spec.network_name == **network);
    let public = OfPods::of(copies, tenant);
    let members: Vec<Member> = near
        .map(|p| p.view.member(|node| here.contains_key(node), public.of_port(&p.key.namespace, &p.view)))
        .filter(|m| !m.groups.is_empty())
        .collect();
    if !members.iter().any(|m| m.here) {
        return Desired::default();
    }
    let all = copies.groups.of_tenant(tenant);
    let groups: BTreeMap<String, Group> =
        all.iter().map(|g| (g.key.name.to_string(), g.view.clone())).collect();
    group::plan(&groups, &members)
}
