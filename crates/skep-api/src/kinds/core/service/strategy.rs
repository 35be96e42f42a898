//! What happens to a service's spec before it is checked: linked fields are brought into step, allocated
//! values that the client left out are kept, and fields that a new type has no use for are dropped.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{
    NONE, externally_accessible, is_external_name, is_headless, is_load_balancer, is_type, list,
    needs_health_check, spec_of, text,
};
use crate::field::Path;
use crate::kinds::core::shared;

const OLD_TOPOLOGY_ANNOTATION: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_ANNOTATION: &str = "service.kubernetes.io/topology-mode";

pub(super) fn create(spec: &mut ServiceSpec) {
    // Old clients know the singular only.
    if let (Some(ip), None) = (&spec.cluster_ip, &spec.cluster_ips) {
        spec.cluster_ips = Some(vec![ip.clone()]);
    }
    forget_internal_policy(spec);
}

pub(super) fn update(new: &mut ServiceSpec, old: &ServiceSpec) {
    keep_allocated(new, old);
    sync_cluster_ips(new, old);
    drop_what_type_forbids(new, old);
    forget_internal_policy(new);
}

/// A name that stands for another has no traffic of its own.
fn forget_internal_policy(spec: &mut ServiceSpec) {
    if is_external_name(spec) {
        spec.internal_traffic_policy.take_if(|p| p == "Cluster" || p == "Local");
    }
}

fn may_have_node_ports(spec: &ServiceSpec) -> bool {
    is_type(spec, "NodePort") || is_load_balancer(spec)
}

/// Whether node ports are given to ports that ask for none in particular.
pub(super) fn gets_node_ports(spec: &ServiceSpec) -> bool {
    is_type(spec, "NodePort")
        || (is_load_balancer(spec) && spec.allocate_load_balancer_node_ports != Some(false))
}

/// Sending the same manifest again must not change what was allocated for it.
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if !is_external_name(old) && !is_external_name(new) {
        if new.cluster_ip.is_none() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.is_none() {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if gets_node_ports(old) && gets_node_ports(new) {
        let ports = |spec: &ServiceSpec| -> Vec<i32> {
            list(&spec.ports).iter().filter_map(|p| p.node_port).collect()
        };
        let mut used = ports(new);
        let old_used = ports(old);
        used.retain(|p| old_used.contains(p));
        for port in new.ports.iter_mut().flatten().filter(|p| p.node_port.is_none()) {
            // The last of equal names wins, as in a map.
            let before = list(&old.ports).iter().rev().find(|p| text(&p.name) == text(&port.name));
            port.node_port = before.and_then(|p| p.node_port).filter(|p| !used.contains(p));
        }
    }
    if needs_health_check(old) && needs_health_check(new) && new.health_check_node_port.is_none() {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// Clients may change either of `clusterIP` and `clusterIPs`; the other one follows if it was left alone.
fn sync_cluster_ips(new: &mut ServiceSpec, old: &ServiceSpec) {
    if old.cluster_ips.is_some() && new.cluster_ips.is_none() && old.cluster_ip == new.cluster_ip {
        new.cluster_ips.clone_from(&old.cluster_ips);
    }
    if old.cluster_ip != new.cluster_ip && old.cluster_ips == new.cluster_ips {
        new.cluster_ips = new.cluster_ip.clone().map(|ip| vec![ip]);
    }
}

/// Only drops what the user did not touch in the same write: a contradiction is for validation to refuse.
fn drop_what_type_forbids(new: &mut ServiceSpec, old: &ServiceSpec) {
    if !is_external_name(old) && is_external_name(new) {
        if old.cluster_ip == new.cluster_ip && old.cluster_ips == new.cluster_ips {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if old.ip_families == new.ip_families {
            new.ip_families = None;
        }
        if old.ip_family_policy == new.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if may_have_node_ports(old) && !may_have_node_ports(new) {
        let known = |p: i32| list(&old.ports).iter().any(|o| o.node_port == Some(p));
        if list(&new.ports).iter().filter_map(|p| p.node_port).all(known) {
            for port in new.ports.iter_mut().flatten() {
                port.node_port = None;
            }
        }
    }
    if needs_health_check(old)
        && !needs_health_check(new)
        && old.health_check_node_port == new.health_check_node_port
    {
        new.health_check_node_port = None;
    }
    if is_load_balancer(old) && !is_load_balancer(new) {
        if old.allocate_load_balancer_node_ports == new.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if old.load_balancer_class == new.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if externally_accessible(old)
        && !externally_accessible(new)
        && old.external_traffic_policy == new.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
}

pub(super) fn warnings(service: &Service, warnings: &mut Vec<String>) {
    let spec = spec_of(service);
    let path = Path::root("spec");
    let headless = is_type(spec, "ClusterIP") && text(&spec.cluster_ip) == NONE;
    let external_ips = list(&spec.external_ips);

    if service.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OLD_TOPOLOGY_ANNOTATION)) {
        warnings.push(format!(
            "annotation {OLD_TOPOLOGY_ANNOTATION} is deprecated, please use {TOPOLOGY_ANNOTATION} instead"
        ));
    }
    if spec.cluster_ip.is_some() && text(&spec.cluster_ip) != NONE && !is_headless(spec) {
        let path = path.child("clusterIPs");
        for (i, ip) in list(&spec.cluster_ips).iter().enumerate() {
            shared::ip_warnings(ip, &path.index(i), warnings);
        }
    }
    if headless {
        if spec.load_balancer_ip.is_some() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !external_ips.is_empty() {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(&spec.session_affinity) != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    for (i, ip) in external_ips.iter().enumerate() {
        shared::ip_warnings(ip, &path.child("externalIPs").index(i), warnings);
    }
    if !external_ips.is_empty() && !headless && !is_external_name(spec) {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if let Some(ip) = &spec.load_balancer_ip {
        shared::ip_warnings(ip, &path.child("loadBalancerIP"), warnings);
    }
    for (i, cidr) in list(&spec.load_balancer_source_ranges).iter().enumerate() {
        shared::cidr_warnings(cidr, &path.child("loadBalancerSourceRanges").index(i), warnings);
    }
    if is_external_name(spec) && !external_ips.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_external_name(spec) && spec.external_name.is_some() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(&spec.traffic_distribution) == "PreferClose" {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
}
