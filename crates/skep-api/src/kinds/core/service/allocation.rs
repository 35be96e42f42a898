//! Which addresses and ports a write of a service takes and gives back.
//!
//! Pure: nothing is allocated here. The API server asks [`wanted_allocations`], takes what is asked for from
//! its pools, and fills it in with [`WantedIp::fill`] and [`WantedPort::fill`].

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::strategy::gets_node_ports;
use super::{
    NONE, is_external_name, is_headless, is_load_balancer, is_type, list, needs_health_check, spec_of, text,
    validation,
};
use crate::field::{Errors, Json, Path};

/// IP version 4 or 6, as `spec.ipFamilies` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    /// As in `spec.ipFamilies`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            IpFamily::V4 => "IPv4",
            IpFamily::V6 => "IPv6",
        }
    }

    /// The family named in `spec.ipFamilies`.
    #[must_use]
    pub fn parse(name: &str) -> Option<IpFamily> {
        match name {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            _ => None,
        }
    }

    /// The family of an address that was checked before.
    #[must_use]
    pub fn of(ip: &str) -> IpFamily {
        match ip.parse::<std::net::Ipv6Addr>() {
            Ok(address) if address.to_ipv4_mapped().is_none() => IpFamily::V6,
            _ => IpFamily::V4,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> IpFamily {
        match self {
            IpFamily::V4 => IpFamily::V6,
            IpFamily::V6 => IpFamily::V4,
        }
    }
}

/// Which families service addresses can be had in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterFamilies {
    /// What a service gets that does not ask.
    pub primary: IpFamily,
    /// Whether the other family can be had too.
    pub dual: bool,
}

impl ClusterFamilies {
    fn has(self, family: IpFamily) -> bool {
        self.dual || family == self.primary
    }
}

const SINGLE: &str = "SingleStack";
const PREFER_DUAL: &str = "PreferDualStack";
const REQUIRE_DUAL: &str = "RequireDualStack";

/// Sets `ipFamilyPolicy` and `ipFamilies` as far as the user did not, and says what is wrong with them.
/// To be called on what `prepare_create` or `prepare_update` left, before [`wanted_allocations`].
///
/// # Errors
/// What the client is to be told; the service is then not to be written.
pub fn init_ip_families(
    service: &mut Service,
    old: Option<&Service>,
    cluster: ClusterFamilies,
) -> Result<(), Errors> {
    let old_spec = old.map(spec_of);
    let spec = service.spec.get_or_insert_default();
    if is_external_name(spec) || old_spec.is_some_and(|old| keeps_preferring_dual(spec, old)) {
        return Ok(());
    }
    let selectorless_headless = text(&spec.cluster_ip) == NONE && spec.selector.is_none();
    if spec.ip_family_policy.is_none() {
        let before = old_spec.and_then(|o| o.ip_family_policy.clone());
        let default = if selectorless_headless { REQUIRE_DUAL } else { SINGLE };
        spec.ip_family_policy = Some(before.unwrap_or_else(|| default.to_owned()));
    }

    // What follows relies on well-formed addresses and families.
    let mut errors = Errors::new();
    validation::validate_cluster_ips(spec, old_spec, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let single = text(&spec.ip_family_policy) == SINGLE;
    let path = Path::root("spec");
    let policy_path = path.child("ipFamilyPolicy");

    if let Some(old) = old_spec {
        if single {
            // The policy alone says that the second family is to go.
            if spec.cluster_ips == old.cluster_ips
                && let Some(ips) = &mut spec.cluster_ips
            {
                ips.truncate(1);
            }
            if spec.ip_families == old.ip_families
                && let Some(families) = &mut spec.ip_families
            {
                families.truncate(1);
            }
        } else {
            let reduced = |new: usize, old: usize| new > 0 && new < old;
            if reduced(list(&spec.cluster_ips).len(), list(&old.cluster_ips).len()) {
                let detail = "must be 'SingleStack' to release the secondary cluster IP";
                errors.invalid(&policy_path, text(&spec.ip_family_policy), detail);
            }
            if reduced(list(&spec.ip_families).len(), list(&old.ip_families).len()) {
                let detail = "must be 'SingleStack' to release the secondary IP family";
                errors.invalid(&policy_path, text(&spec.ip_family_policy), detail);
            }
        }
    }
    if single {
        for (many, what) in
            [(list(&spec.cluster_ips).len(), "cluster IPs"), (list(&spec.ip_families).len(), "IP families")]
        {
            if many == 2 {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errors.invalid(&policy_path, text(&spec.ip_family_policy), &detail);
            }
        }
    }
    infer_families(spec, cluster, &path, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    complete_families(spec, selectorless_headless, single, cluster, &path)
}

/// Families that the addresses speak of and the user left out.
fn infer_families(spec: &mut ServiceSpec, cluster: ClusterFamilies, path: &Path<'_>, errors: &mut Errors) {
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let known = list(&spec.ip_families).len();
    let mut inferred = Vec::new();
    for (i, ip) in ips.iter().enumerate().take_while(|(_, ip)| *ip != NONE).skip(known) {
        let family = IpFamily::of(ip);
        if cluster.has(family) {
            inferred.push(family.as_str().to_owned());
        } else {
            let detail = format!("{} is not configured on this cluster", family.as_str());
            errors.invalid(&path.child("clusterIPs").index(i), Json(&ips), &detail);
        }
    }
    if !inferred.is_empty() {
        spec.ip_families.get_or_insert_default().extend(inferred);
    }
}

fn complete_families(
    spec: &mut ServiceSpec,
    selectorless_headless: bool,
    single: bool,
    cluster: ClusterFamilies,
    path: &Path<'_>,
) -> Result<(), Errors> {
    if !selectorless_headless {
        let mut errors = Errors::new();
        if text(&spec.ip_family_policy) == REQUIRE_DUAL && !cluster.dual {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid(&path.child("ipFamilyPolicy"), text(&spec.ip_family_policy), detail);
        }
        for (i, family) in list(&spec.ip_families).iter().enumerate() {
            if !IpFamily::parse(family).is_some_and(|f| cluster.has(f)) {
                errors.invalid(&path.child("ipFamilies").index(i), family, "not configured on this cluster");
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    let families = spec.ip_families.get_or_insert_default();
    if families.is_empty() {
        families.push(cluster.primary.as_str().to_owned());
    }
    // A headless service without selector may name families that the cluster has no addresses in: its
    // endpoints come from elsewhere.
    if !single
        && (cluster.dual || selectorless_headless)
        && let [only] = families.as_slice()
        && let Some(family) = IpFamily::parse(only)
    {
        families.push(family.other().as_str().to_owned());
    }
    Ok(())
}

/// Services that take a second family if there is one do not gain or lose it with the cluster's
/// configuration, but only when somebody changes one of these fields.
fn keeps_preferring_dual(new: &ServiceSpec, old: &ServiceSpec) -> bool {
    new.type_ == old.type_
        && matches!(text(&new.type_), "ClusterIP" | "NodePort" | "LoadBalancer")
        && text(&new.ip_family_policy) == PREFER_DUAL
        && old.ip_family_policy.as_deref().is_none_or(|p| p == PREFER_DUAL)
        && new.cluster_ips == old.cluster_ips
        && new.ip_families == old.ip_families
}

/// An address to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedIp {
    /// Its place in `spec.clusterIPs`.
    pub index: usize,
    /// Its family.
    pub family: IpFamily,
    /// The very address that the user asks for; any will do otherwise.
    pub requested: Option<String>,
}

impl WantedIp {
    /// Puts the address that was taken into its place. In the order of [`Allocations::cluster_ips`].
    pub fn fill(&self, service: &mut Service, ip: &str) {
        let spec = service.spec.get_or_insert_default();
        let ips = spec.cluster_ips.get_or_insert_default();
        match ips.get_mut(self.index) {
            Some(place) => ip.clone_into(place),
            None => ips.push(ip.to_owned()),
        }
        if self.index == 0 {
            spec.cluster_ip = Some(ip.to_owned());
        }
    }

    /// The error when the address that the user asks for cannot be had.
    pub fn refuse(&self, service: &Service, reason: &str, errors: &mut Errors) {
        let detail = match &self.requested {
            Some(ip) => format!("failed to allocate IP {ip}: {reason}"),
            None => format!("failed to allocate IP: {reason}"),
        };
        let path = Path::root("spec");
        errors.invalid(&path.child("clusterIPs"), Json(&spec_of(service).cluster_ips), &detail);
    }
}

/// Where a node port belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortPlace {
    /// `nodePort` of these elements of `spec.ports`: more than one when they differ in protocol only.
    Ports(Vec<usize>),
    /// `healthCheckNodePort`.
    HealthCheck,
}

/// A node port to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPort {
    /// Where it belongs.
    pub place: NodePortPlace,
    /// The very port that the user asks for; any will do otherwise.
    pub requested: Option<i32>,
}

impl WantedPort {
    /// Puts the port that was taken into its places.
    pub fn fill(&self, service: &mut Service, port: i32) {
        let spec = service.spec.get_or_insert_default();
        match &self.place {
            NodePortPlace::HealthCheck => spec.health_check_node_port = Some(port),
            NodePortPlace::Ports(indices) => {
                for &i in indices {
                    if let Some(p) = spec.ports.as_mut().and_then(|p| p.get_mut(i)) {
                        p.node_port = Some(port);
                    }
                }
            }
        }
    }

    /// The error when the port that the user asks for cannot be had.
    pub fn refuse(&self, reason: &str, errors: &mut Errors) {
        let port = self.requested.unwrap_or_default();
        let path = Path::root("spec");
        match &self.place {
            NodePortPlace::Ports(indices) => {
                let path = path.child("ports");
                let path = path.index(indices.first().copied().unwrap_or_default());
                errors.invalid(&path.child("nodePort"), port, reason);
            }
            NodePortPlace::HealthCheck => errors.internal(
                &path.child("healthCheckNodePort"),
                &format!("failed to allocate requested HealthCheck NodePort {port}: {reason}"),
            ),
        }
    }
}

/// What a write takes and gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// Addresses to take, in the order of `spec.clusterIPs`.
    pub cluster_ips: Vec<WantedIp>,
    /// Ports to take.
    pub node_ports: Vec<WantedPort>,
    /// Addresses that are no longer needed once the write is done.
    pub release_ips: Vec<String>,
    /// Ports that are no longer needed once the write is done.
    pub release_ports: Vec<i32>,
}

impl Allocations {
    /// Whether the write takes and gives nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Allocations::default()
    }
}

fn has_addresses(spec: &ServiceSpec) -> bool {
    !is_external_name(spec) && !is_headless(spec)
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    is_type(spec, "NodePort") || is_load_balancer(spec)
}

/// Addresses and ports that a stored service holds.
fn held(spec: &ServiceSpec) -> (Vec<String>, Vec<i32>) {
    let ips = if has_addresses(spec) {
        list(&spec.cluster_ips).iter().filter(|ip| !ip.is_empty()).cloned().collect()
    } else {
        Vec::new()
    };
    let mut ports: Vec<i32> = Vec::new();
    let own = list(&spec.ports).iter().filter_map(|p| p.node_port);
    let health = spec.health_check_node_port.filter(|_| needs_health_check(spec));
    for port in own.chain(health) {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    (ips, ports)
}

/// What has to be taken and given back for a create (`old` absent), an update, or a delete (`new` absent).
/// `new` has gone through [`init_ip_families`].
#[must_use]
pub fn wanted_allocations(old: Option<&Service>, new: Option<&Service>) -> Allocations {
    let (mut held_ips, mut held_ports) = old.map(|o| held(spec_of(o))).unwrap_or_default();
    let mut wanted = Allocations::default();
    if let Some(new) = new {
        let spec = spec_of(new);
        if has_addresses(spec) {
            want_addresses(spec, &mut held_ips, &mut wanted);
        }
        want_ports(spec, old.is_none(), &mut held_ports, &mut wanted);
    }
    wanted.release_ips = held_ips;
    wanted.release_ports = held_ports;
    wanted
}

/// What stays is taken out of `held`.
fn want_addresses(spec: &ServiceSpec, held: &mut Vec<String>, wanted: &mut Allocations) {
    let ips = list(&spec.cluster_ips);
    for (index, family) in list(&spec.ip_families).iter().enumerate() {
        let requested = ips.get(index).filter(|ip| !ip.is_empty());
        if let Some(at) = requested.and_then(|ip| held.iter().position(|h| h == ip)) {
            held.remove(at);
            continue;
        }
        let Some(family) = IpFamily::parse(family) else { continue };
        wanted.cluster_ips.push(WantedIp { index, family, requested: requested.cloned() });
    }
}

fn want_ports(spec: &ServiceSpec, creating: bool, held: &mut Vec<i32>, wanted: &mut Allocations) {
    let ports = list(&spec.ports);
    // Several ports may name one node port for different protocols: it is asked for once.
    let mut kept: Vec<i32> = Vec::new();
    let mut want = |port: i32, place: NodePortPlace, wanted: &mut Allocations| {
        if held.contains(&port) {
            kept.push(port);
        } else if !wanted.node_ports.iter().any(|w| w.requested == Some(port)) {
            wanted.node_ports.push(WantedPort { place, requested: Some(port) });
        }
    };
    if has_node_ports(spec) {
        for (i, port) in ports.iter().enumerate() {
            if let Some(node_port) = port.node_port {
                want(node_port, NodePortPlace::Ports(vec![i]), wanted);
            }
        }
    }
    if needs_health_check(spec) {
        match spec.health_check_node_port {
            Some(port) => want(port, NodePortPlace::HealthCheck, wanted),
            None => wanted.node_ports.push(WantedPort { place: NodePortPlace::HealthCheck, requested: None }),
        }
    }
    held.retain(|p| !kept.contains(p));
    if has_node_ports(spec) && gets_node_ports(spec) {
        want_any_ports(spec, creating, wanted);
    }
}

/// Ports that ask for no node port in particular. When a service is created, ports of one number (DNS over
/// TCP and UDP) share a node port; later each gets its own.
fn want_any_ports(spec: &ServiceSpec, creating: bool, wanted: &mut Allocations) {
    let ports = list(&spec.ports);
    for (i, port) in ports.iter().enumerate().filter(|(_, p)| p.node_port.is_none()) {
        if creating {
            let requested = ports.iter().filter(|p| p.port == port.port).find_map(|p| p.node_port);
            let twin = wanted.node_ports.iter_mut().find_map(|w| {
                let NodePortPlace::Ports(places) = &mut w.place else { return None };
                // A named node port may be on record for another number already; an unnamed one may not.
                let shared = requested.is_some() || places.iter().any(|&p| ports[p].port == port.port);
                (w.requested == requested && shared).then_some(places)
            });
            if let Some(places) = twin {
                places.push(i);
                continue;
            }
        }
        wanted.node_ports.push(WantedPort { place: NodePortPlace::Ports(vec![i]), requested: None });
    }
}
