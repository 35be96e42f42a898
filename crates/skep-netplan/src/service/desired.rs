//! What one service needs on one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::view::{Endpoint, EndpointSlice, L4, Service, ServicePort, ServiceType};
use super::{Family, Frontend, Place};

/// Whose connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Of pods and nodes of the cluster.
    Internal,
    /// From outside: node ports and external addresses.
    External,
}

/// Which of a service's groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The family of its endpoints.
    pub family: Family,
    /// The port's name.
    pub port: String,
    /// The port's protocol.
    pub protocol: L4,
    /// Whose connections.
    pub scope: Scope,
}

/// Endpoints that connections are spread over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The endpoints, in order, each once; at least one.
    pub endpoints: Vec<SocketAddr>,
    /// Those of them that are on this node: they may connect to themselves.
    pub local: Vec<SocketAddr>,
    /// How long a client stays with an endpoint, in seconds.
    pub affinity_s: Option<u32>,
    /// Whether the client's address is hidden, so that answers come back through here.
    pub masquerade: bool,
}

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Endpoints.
    Group(GroupKey),
    /// Nobody is there: the client is told.
    Reject,
    /// Nobody is there on this node, but elsewhere: the client is not told, for it may try another node.
    Drop,
}

/// What one service needs on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What clients connect to.
    pub frontends: BTreeMap<Frontend, Target>,
    /// What stands behind.
    pub groups: BTreeMap<GroupKey, Group>,
}

/// Plans one service.
#[must_use]
pub fn desired(service: &Service, slices: &[&EndpointSlice], place: &Place) -> Desired {
    let mut plan = Desired::default();
    if service.kind == ServiceType::ExternalName || service.cluster_ips.is_empty() {
        return plan;
    }
    for port in &service.ports {
        for family in [Family::V4, Family::V6] {
            plan_port(service, slices, place, port, family, &mut plan);
        }
    }
    plan
}

fn plan_port(
    service: &Service,
    slices: &[&EndpointSlice],
    place: &Place,
    port: &ServicePort,
    family: Family,
    plan: &mut Desired,
) {
    let mine = |ip: &&std::net::IpAddr| Family::of(**ip) == family;
    if !service.cluster_ips.iter().any(|ip| Family::of(*ip) == family) {
        return;
    }
    let all = candidates(service, slices, port, family);
    let has_external =
        port.node_port.is_some() || service.external_ips.iter().any(|ip| Family::of(*ip) == family);
    let key = |scope| GroupKey { family, port: port.name.clone(), protocol: port.protocol, scope };
    let mut target_of = |scope: Scope, local_only: bool, masquerade: bool| {
        let chosen = choose(&all, place, local_only);
        if chosen.is_empty() {
            let elsewhere = local_only && !choose(&all, place, false).is_empty();
            return if elsewhere { Target::Drop } else { Target::Reject };
        }
        let on_node = |c: &&Candidate<'_>| c.endpoint.node.as_deref() == Some(&place.node);
        let group = Group {
            local: chosen.iter().copied().filter(on_node).map(|c| c.address).collect(),
            endpoints: chosen.iter().map(|c| c.address).collect(),
            affinity_s: service.affinity_s,
            masquerade,
        };
        plan.groups.insert(key(scope), group);
        Target::Group(key(scope))
    };
    let internal = target_of(Scope::Internal, service.internal_local, false);
    let external =
        has_external.then(|| target_of(Scope::External, service.external_local, !service.external_local));
    let mut lead = |ip, number, target: &Target| {
        let frontend = Frontend { family, ip, protocol: port.protocol, port: number };
        plan.frontends.insert(frontend, target.clone());
    };
    for ip in service.cluster_ips.iter().filter(mine) {
        lead(Some(*ip), port.port, &internal);
    }
    if let Some(external) = &external {
        for ip in service.external_ips.iter().filter(mine) {
            lead(Some(*ip), port.port, external);
        }
        if let Some(node_port) = port.node_port {
            lead(None, node_port, external);
        }
    }
}

/// How many ready endpoints a service has on a node, each address once: what load balancers outside are told.
#[must_use]
pub fn ready_here(slices: &[&EndpointSlice], place: &Place) -> usize {
    let all = slices.iter().flat_map(|s| &s.endpoints);
    let here = all.filter(|e| e.ready && e.node.as_deref() == Some(&place.node));
    here.filter_map(|e| e.address).collect::<BTreeSet<_>>().len()
}

struct Candidate<'a> {
    address: SocketAddr,
    endpoint: &'a Endpoint,
    ready: bool,
}

/// The endpoints of a service's port, each address once.
fn candidates<'a>(
    service: &Service,
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    family: Family,
) -> Vec<Candidate<'a>> {
    let mut found: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.v6 == (family == Family::V6)) {
        let of_port = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
        let Some(number) = of_port.and_then(|p| p.port) else { continue };
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.address.filter(|ip| Family::of(*ip) == family) else { continue };
            let address = SocketAddr::new(ip, number);
            let ready = endpoint.ready || service.publish_not_ready;
            // While an endpoint moves between slices it may be in two: the one that is ready counts.
            let better = found.get(&address).is_none_or(|old| ready && !old.ready);
            if better {
                found.insert(address, Candidate { address, endpoint, ready });
            }
        }
    }
    found.into_values().collect()
}

/// Those that connections go to: the ready ones, near ones first; while there is none, those that are ending but
/// still answer.
fn choose<'c, 'a>(all: &'c [Candidate<'a>], place: &Place, local_only: bool) -> Vec<&'c Candidate<'a>> {
    let here = |c: &&Candidate<'_>| !local_only || c.endpoint.node.as_deref() == Some(&place.node);
    let ready: Vec<_> = all.iter().filter(|c| c.ready).filter(here).collect();
    if ready.is_empty() {
        return all.iter().filter(|c| c.endpoint.serving && c.endpoint.terminating).filter(here).collect();
    }
    if local_only {
        return ready;
    }
    // Hints hold when every endpoint has one, and some are for this zone.
    if let Some(zone) = &place.zone
        && ready.iter().all(|c| !c.endpoint.zones.is_empty())
    {
        let near: Vec<_> = ready.iter().copied().filter(|c| c.endpoint.zones.contains(zone)).collect();
        if !near.is_empty() {
            return near;
        }
    }
    ready
}
