//! The bandwidth of this host's ports: gathered from the copies, planned, programmed.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use skep_client::ObjectKey;
use skep_net::Namespace;
use skep_net::bandwidth::{PortTraffic, Uplink};
use skep_netplan::bandwidth::{Granted, Memory, Plan, Policy, Port, plan};

use crate::copies::BY_NODE;
use crate::public::OfPods;
use crate::{NetworkKey, Shared};

/// Which port it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    /// The policy that it names, whether there is one or not.
    pub(crate) policy_name: Option<String>,
    pub(crate) policy: Option<Policy>,
    /// The interface of the machine whose own port it is.
    pub(crate) machine: Option<String>,
}

/// A port of this host, as it is.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) identity: Identity,
    pub(crate) traffic: PortTraffic,
    /// What is guaranteed to it.
    pub(crate) granted: Granted,
    /// Whether it is known what the uplink carries.
    pub(crate) uplink_known: bool,
}

/// What is known of the bandwidth of this host.
#[derive(Default)]
pub(crate) struct Bandwidth {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: bool,
    /// What the uplink carries, in bits a second.
    capacity: Option<u64>,
    memory: Memory,
    plan: Plan,
    uplink: Option<Uplink>,
    identities: BTreeMap<String, Identity>,
}

impl Bandwidth {
    /// Numbers that are in use by what an earlier process left.
    pub(crate) fn avoid(&self, numbers: BTreeSet<u16>) {
        self.state.lock().memory.avoid(numbers);
    }
}

fn name_of(key: &ObjectKey) -> String {
    format!("{}/{}/{}", key.tenant, key.namespace, key.name)
}

impl Shared {
    /// The ports of machines here.
    fn ports_here(&self) -> (Vec<Port>, BTreeMap<String, Identity>) {
        let (mut ports, mut identities) = (Vec::new(), BTreeMap::new());
        for (NetworkKey { tenant, network }, here) in self.networks() {
            let (machines, copies, vni) = {
                let here = here.lock();
                (here.machines.clone(), here.copies.clone(), here.programmed.vni)
            };
            let public = OfPods::of(&copies, &tenant);
            for (node, interface) in machines {
                for object in copies.ports.by_index(BY_NODE, &tenant, &node) {
                    let view = &object.view;
                    let Some(port) = view.port().filter(|_| view.spec.network_name == *network) else {
                        continue;
                    };
                    let mut addresses = port.addresses;
                    addresses.extend(public.of_port(&object.key.namespace, view));
                    let policy_name = view.spec.qos_policy_name.clone();
                    let of = |name: &str| copies.policies.get(&ObjectKey::new(&tenant, "", name));
                    let policy = policy_name.as_deref().and_then(of).map(|p| p.view.policy());
                    let name = name_of(&object.key);
                    ports.push(Port {
                        name: name.clone(),
                        tenant: tenant.to_string(),
                        vni,
                        interface: interface.clone(),
                        mac: port.mac,
                        addresses,
                        created_ms: view.created_ms(),
                        policy,
                    });
                    let uid = object.uid.to_string();
                    let machine = port.is_machine.then(|| interface.clone());
                    let key = object.key.clone();
                    identities.insert(name, Identity { key, uid, policy_name, policy, machine });
                }
            }
        }
        (ports, identities)
    }

    /// Programs what ports may have, by what has changed. Of a network that the kernel refused something of, gives the name: it
    /// is to be set up anew.
    pub(crate) async fn shape(&self) -> Vec<NetworkKey> {
        let (ports, identities) = self.ports_here();
        let all = self.networks();
        let (bandwidth, config) = (self.bandwidth.clone(), self.config.clone());
        let work = move || {
            let host = Namespace::current()?;
            let mut state = bandwidth.state.lock();
            let state = &mut *state;
            if !state.begun {
                let left = Uplink::left(&host, config.address)?;
                state.memory.avoid(left);
                state.capacity = match config.uplink_bits_per_s {
                    Some(bits) => Some(bits),
                    // A host without its address has no uplink either.
                    None => Uplink::speed(&host, config.address).unwrap_or_default(),
                };
                state.begun = true;
            }
            state.plan = plan(&ports, state.capacity, &mut state.memory);
            state.identities = identities;
            for name in &state.plan.unnumbered {
                tracing::warn!(
                    port = name,
                    "there are too many ports on this host: it is not limited, nor counted"
                );
            }
            if let Some(wanted) = &state.plan.uplink {
                let set = match state.uplink.take() {
                    Some(uplink) => Ok(uplink),
                    None => Uplink::set_up(&host, config.address, config.port),
                }
                .and_then(|mut uplink| uplink.set(wanted).map(|()| uplink));
                match set {
                    Ok(uplink) => state.uplink = Some(uplink),
                    Err(error) => {
                        tracing::warn!(%error, "what is guaranteed on the uplink could not be set; it is tried again");
                    }
                }
            }
            let mut broken = Vec::new();
            for (key, here) in all {
                let programmed = &mut here.lock().programmed;
                let shape = state.plan.networks.get(&programmed.vni).cloned().unwrap_or_default();
                if let Err(error) = programmed.switch.shape(&shape) {
                    let NetworkKey { tenant, network } = &key;
                    tracing::warn!(%tenant, %network, %error, "the bandwidth of ports could not be changed; it is set up anew");
                    broken.push(key);
                }
            }
            Ok((broken, state.plan.uplink.is_some() && state.uplink.is_none()))
        };
        match self.in_kernel("", work).await {
            Ok((broken, again)) => {
                if again {
                    self.later();
                }
                broken
            }
            Err(error) => {
                tracing::warn!(%error, "bandwidth could not be set; it is tried again");
                self.later();
                Vec::new()
            }
        }
    }

    /// What went through each port here so far; and removes classes that have emptied.
    pub(crate) async fn readings(&self) -> Vec<Reading> {
        let all: Vec<_> = self.here.lock().values().cloned().collect();
        let bandwidth = self.bandwidth.clone();
        let work = move || {
            let (mut traffic, mut forged) = (BTreeMap::new(), BTreeMap::new());
            for here in all {
                let mut here = here.lock();
                traffic.extend(here.programmed.switch.port_traffic()?);
                forged.extend(here.programmed.switch.forged()?);
            }
            let mut state = bandwidth.state.lock();
            if let Some(uplink) = &mut state.uplink {
                uplink.clean()?;
            }
            let reading = |(name, identity): (&String, &Identity)| {
                let mut traffic = *state.plan.numbers.get(name).and_then(|n| traffic.get(n))?;
                // Whatever a machine forges, it is the machine: nobody knows which of its pods it was.
                let of = identity.machine.as_ref().and_then(|machine| forged.get(machine));
                traffic.forged = of.copied().unwrap_or_default();
                Some(Reading {
                    identity: identity.clone(),
                    traffic,
                    granted: state.plan.granted.get(name).copied().unwrap_or_default(),
                    uplink_known: state.capacity.is_some(),
                })
            };
            Ok(state.identities.iter().filter_map(reading).collect())
        };
        self.in_kernel("", work).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what went through ports could not be read; it is tried again");
            Vec::new()
        })
    }
}
