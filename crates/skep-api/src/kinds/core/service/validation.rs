//! What a service may be, and how it may change. Rules and words: upstream `pkg/apis/core/validation`.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    IpFamily, NONE, externally_accessible, is_external_name, is_headless, is_load_balancer, is_type, list,
    needs_health_check, spec_of, text,
};
use crate::field::{Bare, Errors, Json, Path};
use crate::kinds::core::shared;
use crate::meta;
use crate::meta::format::parse_ip_sloppy;

/// A day: the longest that a client may stick to a backend.
const MAX_CLIENT_IP_TIMEOUT_S: i32 = 86_400;
/// One of each family.
const MAX_CLUSTER_IPS: usize = 2;

const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_ANNOTATION: &str = "service.kubernetes.io/topology-mode";
const OLD_TOPOLOGY_ANNOTATION: &str = "service.kubernetes.io/topology-aware-hints";

// In the order in which messages list them.
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const TRAFFIC_POLICIES: &[&str] = &["Cluster", "Local"];
const IP_FAMILIES: &[&str] = &["IPv4", "IPv6"];
const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
const IP_MODES: &[&str] = &["Proxy", "VIP"];

const ONLY_FOR_LOAD_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";
const NOT_ONCE_SET: &str = "may not change once set";

pub(super) fn validate(service: &Service, old: Option<&Service>, errors: &mut Errors) {
    let spec = spec_of(service);
    let old_spec = old.map(spec_of);
    let path = Path::root("spec");

    validate_topology_annotations(service, errors);
    if list(&spec.ports).is_empty() && !is_headless(spec) && !is_external_name(spec) {
        errors.required(&path.child("ports"), "");
    }
    validate_type(spec, &path, errors);
    let ports_path = path.child("ports");
    for (i, port) in list(&spec.ports).iter().enumerate() {
        validate_port(spec, i, port, &ports_path.index(i), errors);
    }
    if let Some(selector) = &spec.selector {
        meta::validate_labels(selector, &path.child("selector"), errors);
    }
    validate_affinity(spec, &path, errors);
    validate_cluster_ips(spec, old_spec, errors);

    let known = old_spec.map(|o| list(&o.external_ips)).unwrap_or_default();
    for (i, ip) in list(&spec.external_ips).iter().enumerate() {
        let path = path.child("externalIPs");
        let path = path.index(i);
        if shared::legacy_ip(ip, &path, known, errors) {
            shared::endpoint_ip(ip, &path, errors);
        }
    }

    match text(&spec.type_) {
        "" => errors.required(&path.child("type"), ""),
        name if !TYPES.contains(&name) => errors.not_supported(&path.child("type"), name, TYPES),
        _ => {}
    }
    if is_type(spec, "ClusterIP") {
        for (i, _) in
            list(&spec.ports).iter().enumerate().filter(|(_, p)| p.node_port.is_some_and(|n| n != 0))
        {
            errors.forbidden(
                &ports_path.index(i).child("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            );
        }
    }
    validate_port_duplicates(list(&spec.ports), &ports_path, errors);
    validate_source_ranges(service, old, &path, errors);

    let allocates = spec.allocate_load_balancer_node_ports.is_some();
    if allocates && !is_load_balancer(spec) {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_FOR_LOAD_BALANCERS);
    }
    if !allocates && is_load_balancer(spec) {
        errors.required(&Path::root("allocateLoadBalancerNodePorts"), "");
    }
    validate_load_balancer_class(spec, &path, errors);
    validate_traffic(spec, &path, errors);
}

fn validate_topology_annotations(service: &Service, errors: &mut Errors) {
    let Some(annotations) = &service.metadata.annotations else { return };
    if let (Some(mode), Some(hints)) =
        (annotations.get(TOPOLOGY_ANNOTATION), annotations.get(OLD_TOPOLOGY_ANNOTATION))
        && mode != hints
    {
        let path = Path::root("metadata");
        let detail = format!("must match annotations[{OLD_TOPOLOGY_ANNOTATION}] when both are specified");
        errors.invalid(&path.child("annotations").key(TOPOLOGY_ANNOTATION), mode, &detail);
    }
}

fn validate_type(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    match text(&spec.type_) {
        name @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {name} services");
            errors.invalid(&path.child("clusterIPs").index(0), NONE, &detail);
        }
        "ExternalName" => {
            let detail = "may not be set for ExternalName services";
            if !list(&spec.cluster_ips).is_empty() {
                errors.forbidden(&path.child("clusterIPs"), detail);
            }
            if !list(&spec.ip_families).is_empty() {
                errors.forbidden(&path.child("ipFamilies"), detail);
            }
            if spec.ip_family_policy.is_some() {
                errors.forbidden(&path.child("ipFamilyPolicy"), detail);
            }
            // A trailing dot marks a name as fully qualified.
            let name = text(&spec.external_name);
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.required(&path.child("externalName"), "");
            } else {
                shared::dns_subdomain(name, &path.child("externalName"), errors);
            }
        }
        _ => {}
    }
}

fn validate_port(spec: &ServiceSpec, i: usize, port: &ServicePort, path: &Path<'_>, errors: &mut Errors) {
    let ports = list(&spec.ports);
    let name = text(&port.name);
    if !name.is_empty() {
        shared::dns_label(name, &path.child("name"), errors);
        if ports[..i].iter().any(|p| text(&p.name) == name) {
            errors.duplicate(&path.child("name"), name);
        }
    } else if ports.len() > 1 {
        errors.required(&path.child("name"), "");
    }
    meta::validate_port_num(port.port, &path.child("port"), errors);
    shared::protocol(text(&port.protocol), &path.child("protocol"), errors);
    let target_port = port.target_port.as_ref().unwrap_or(&IntOrString::Int(0));
    meta::validate_port_num_or_name(target_port, &path.child("targetPort"), errors);
    if let Some(protocol) = &port.app_protocol {
        meta::validate_qualified_name(protocol, &path.child("appProtocol"), errors);
    }
}

/// Services have few ports: comparing all pairs needs no memory.
fn validate_port_duplicates(ports: &[ServicePort], path: &Path<'_>, errors: &mut Errors) {
    let node_port = |p: &ServicePort| p.node_port.filter(|n| *n != 0);
    for (i, port) in ports.iter().enumerate() {
        let twin = |p: &ServicePort| p.protocol == port.protocol && p.node_port == port.node_port;
        if let Some(number) = node_port(port)
            && ports[..i].iter().any(twin)
        {
            errors.duplicate(&path.index(i).child("nodePort"), number);
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if ports[..i].iter().any(|p| p.protocol == port.protocol && p.port == port.port) {
            let shown = format!(
                r#"{{"Name":"","Protocol":{:?},"AppProtocol":null,"Port":{},"TargetPort":0,"NodePort":0}}"#,
                text(&port.protocol),
                port.port
            );
            errors.duplicate(&path.index(i), Bare(&shown));
        }
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let affinity = text(&spec.session_affinity);
    if affinity.is_empty() {
        errors.required(&path.child("sessionAffinity"), "");
    } else if !AFFINITIES.contains(&affinity) {
        errors.not_supported(&path.child("sessionAffinity"), affinity, AFFINITIES);
    }
    let path = path.child("sessionAffinityConfig");
    let config = spec.session_affinity_config.as_ref();
    match affinity {
        "ClientIP" => {
            let needed = "when session affinity type is ClientIP";
            let Some(config) = config else { return errors.required(&path, needed) };
            let path = path.child("clientIP");
            let Some(client_ip) = &config.client_ip else { return errors.required(&path, needed) };
            let path = path.child("timeoutSeconds");
            match client_ip.timeout_seconds {
                None => errors.required(&path, needed),
                Some(s) if s <= 0 || s > MAX_CLIENT_IP_TIMEOUT_S => {
                    let detail = format!("must be greater than 0 and less than {MAX_CLIENT_IP_TIMEOUT_S}");
                    errors.invalid(&path, s, &detail);
                }
                Some(_) => {}
            }
        }
        "None" if config.is_some() => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`, which go together.
pub(super) fn validate_cluster_ips(spec: &ServiceSpec, old: Option<&ServiceSpec>, errors: &mut Errors) {
    if is_external_name(spec) {
        return;
    }
    let path = Path::root("spec");
    let ips_path = path.child("clusterIPs");
    let ips = list(&spec.cluster_ips);
    let families = list(&spec.ip_families);

    let first = text(&spec.cluster_ip);
    if first.is_empty() {
        if !ips.is_empty() {
            errors.invalid(&ips_path, Json(&ips), "must be empty when `clusterIP` is not specified");
        }
    } else if ips.is_empty() {
        errors.required(&ips_path, "");
    } else if ips[0] != first {
        errors.invalid(&ips_path, Json(&ips), "first value must match `clusterIP`");
    }

    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies");
        if !IP_FAMILIES.contains(&family.as_str()) {
            errors.not_supported(&path.index(i), family, IP_FAMILIES);
        }
        if families[..i].contains(family) {
            errors.duplicate(&path.index(i), family);
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref().filter(|p| !FAMILY_POLICIES.contains(p)) {
        errors.not_supported(&path.child("ipFamilyPolicy"), policy, FAMILY_POLICIES);
    }

    let known = old.map(|o| list(&o.cluster_ips)).unwrap_or_default();
    let mut well_formed = true;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == NONE {
            if ips.len() > 1 {
                well_formed = false;
                errors.invalid(&ips_path, Json(&ips), "'None' must be the first and only value");
            }
            continue;
        }
        well_formed &= shared::legacy_ip(ip, &ips_path.index(i), known, errors);
    }
    if ips.len() > MAX_CLUSTER_IPS {
        errors.invalid(&ips_path, Json(&ips), "may only hold up to 2 values");
    }
    // The rest would only add noise.
    if !well_formed {
        return;
    }
    if ips.len() > 1 {
        let v6 = ips.iter().filter(|ip| IpFamily::of(ip) == IpFamily::V6).count();
        if v6 == 0 || v6 == ips.len() {
            errors.invalid(&ips_path, Json(&ips), "may specify no more than one IP for each IP family");
        }
    }
    if !is_headless(spec) {
        for (i, (ip, family)) in ips.iter().zip(families).enumerate() {
            let Some(family) = IpFamily::parse(family) else { continue };
            if IpFamily::of(ip) != family {
                let detail =
                    format!("expected an {} value as indicated by `ipFamilies[{i}]`", family.as_str());
                errors.invalid(&ips_path.index(i), ip, &detail);
            }
        }
    }
}

fn validate_source_ranges(service: &Service, old: Option<&Service>, path: &Path<'_>, errors: &mut Errors) {
    let spec = spec_of(service);
    let ranges = list(&spec.load_balancer_source_ranges);
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !is_load_balancer(spec) {
            errors.forbidden(&path, ONLY_FOR_LOAD_BALANCERS);
        }
        let known = old.map(|o| list(&spec_of(o).load_balancer_source_ranges)).unwrap_or_default();
        for (i, range) in ranges.iter().enumerate() {
            // Padding is allowed because the annotation, which came first, allowed it.
            let range = range.trim();
            if !known.iter().any(|k| k.trim() == range) {
                shared::legacy_cidr(range, &path.index(i), errors);
            }
        }
        return;
    }
    let annotation = |s: &Service| -> Option<String> {
        s.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE_RANGES_ANNOTATION)).cloned()
    };
    let Some(value) = annotation(service) else { return };
    let metadata = Path::root("metadata");
    let path = metadata.child("annotations");
    let path = path.key(SOURCE_RANGES_ANNOTATION);
    if !is_load_balancer(spec) {
        errors.forbidden(&path, ONLY_FOR_LOAD_BALANCERS);
    }
    let unchanged = old.is_some_and(|o| annotation(o).unwrap_or_default() == value);
    if !unchanged && !value.trim().is_empty() {
        for range in value.trim().split(',') {
            shared::legacy_cidr(range.trim(), &path, errors);
        }
    }
}

fn validate_load_balancer_class(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(class) = &spec.load_balancer_class else { return };
    let path = path.child("loadBalancerClass");
    if is_load_balancer(spec) {
        meta::validate_qualified_name(class, &path, errors);
    } else {
        errors.forbidden(&path, ONLY_FOR_LOAD_BALANCERS);
    }
}

fn validate_traffic(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let external = text(&spec.external_traffic_policy);
    let external_path = path.child("externalTrafficPolicy");
    if !externally_accessible(spec) {
        if !external.is_empty() {
            errors.invalid(&external_path, external, "may only be set for externally-accessible services");
        }
    } else if external.is_empty() {
        errors.required(&external_path, "");
    } else if !TRAFFIC_POLICIES.contains(&external) {
        errors.not_supported(&external_path, external, TRAFFIC_POLICIES);
    }

    let health_path = path.child("healthCheckNodePort");
    let health_port = spec.health_check_node_port.unwrap_or_default();
    if !needs_health_check(spec) {
        if health_port != 0 {
            errors.invalid(
                &health_path,
                health_port,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            );
        }
    } else if health_port == 0 {
        errors.required(&health_path, "");
    } else {
        meta::validate_port_num(health_port, &health_path, errors);
    }

    let internal_path = path.child("internalTrafficPolicy");
    match spec.internal_traffic_policy.as_deref() {
        None if matches!(text(&spec.type_), "NodePort" | "LoadBalancer" | "ClusterIP") => {
            errors.required(&internal_path, "");
        }
        Some(policy) if !TRAFFIC_POLICIES.contains(&policy) => {
            errors.not_supported(&internal_path, policy, TRAFFIC_POLICIES);
        }
        _ => {}
    }
    if let Some(d) = spec.traffic_distribution.as_deref().filter(|d| !DISTRIBUTIONS.contains(d)) {
        errors.not_supported(&path.child("trafficDistribution"), d, DISTRIBUTIONS);
    }
}

/// The rules for a change, beyond those for the new service alone.
pub(super) fn validate_change(new: &ServiceSpec, old: &ServiceSpec, errors: &mut Errors) {
    let path = Path::root("spec");
    if !is_external_name(new) && !is_external_name(old) {
        validate_ip_change(new, old, &path, errors);
        validate_family_change(new, old, &path, errors);
    }
    if is_load_balancer(old) && is_load_balancer(new) && old.load_balancer_class != new.load_balancer_class {
        errors.invalid(&path.child("loadBalancerClass"), Json(&new.load_balancer_class), NOT_ONCE_SET);
    }
    // Upstream checks the class here and again with the whole object.
    validate_load_balancer_class(new, &path, errors);
    if needs_health_check(old)
        && needs_health_check(new)
        && old.health_check_node_port.unwrap_or_default() != new.health_check_node_port.unwrap_or_default()
    {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

/// Addresses may be added to and taken from the end; the first one stays.
fn validate_ip_change(new: &ServiceSpec, old: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    if is_headless(old) && is_headless(new) {
        return;
    }
    let (now, before) = (list(&new.cluster_ips), list(&old.cluster_ips));
    let path_of_ips = path.child("clusterIPs");
    if now.len() == before.len() {
        for (i, _) in before.iter().zip(now).enumerate().filter(|(_, (a, b))| a != b) {
            errors.invalid(&path_of_ips.index(i), Json(&now), NOT_ONCE_SET);
        }
        return;
    }
    if now.is_empty() {
        errors.invalid(&path_of_ips.index(0), Json(&new.cluster_ips), "primary clusterIP can not be unset");
    } else if before.first().is_some_and(|b| *b != now[0]) {
        errors.invalid(&path_of_ips.index(0), Json(&now), NOT_ONCE_SET);
    }
    if now.len() < before.len() && now.len() == 1 && text(&new.ip_family_policy) != "SingleStack" {
        errors.invalid(
            &path.child("ipFamilyPolicy"),
            Json(&new.ip_family_policy),
            "must be set to 'SingleStack' when releasing the secondary clusterIP",
        );
    }
}

fn validate_family_change(new: &ServiceSpec, old: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    // What is or becomes headless may change its families.
    if is_headless(old) || is_headless(new) {
        return;
    }
    let (now, before) = (list(&new.ip_families), list(&old.ip_families));
    let path_of_families = path.child("ipFamilies");
    let first = path_of_families.index(0);
    if now.len() == before.len() {
        for _ in before.iter().zip(now).filter(|(a, b)| a != b) {
            errors.invalid(&first, Json(&now), NOT_ONCE_SET);
        }
        return;
    }
    if now.len() < before.len() && list(&new.cluster_ips).is_empty() {
        errors.invalid(&first, Json(&new.ip_families), "primary ipFamily can not be unset");
    }
    if let (Some(a), Some(b)) = (now.first(), before.first())
        && a != b
    {
        errors.invalid(&first, Json(&new.cluster_ips), NOT_ONCE_SET);
    }
    if now.len() < before.len() && now.len() == 1 && text(&new.ip_family_policy) != "SingleStack" {
        errors.invalid(
            &path.child("ipFamilyPolicy"),
            Json(&new.ip_family_policy),
            "must be set to 'SingleStack' when releasing the secondary ipFamily",
        );
    }
}

pub(super) fn validate_status(service: &Service, old: &Service, errors: &mut Errors) {
    let points = |s: &Service| -> Vec<k8s_openapi::api::core::v1::LoadBalancerIngress> {
        let balancer = s.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        balancer.map(|b| list(&b.ingress)).unwrap_or_default().to_vec()
    };
    let now = points(service);
    if now.is_empty() {
        return;
    }
    let path = Path::root("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    if !is_load_balancer(spec_of(service)) {
        errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    let known: Vec<String> = points(old).into_iter().filter_map(|p| p.ip).collect();
    for (i, point) in now.iter().enumerate() {
        let path = path.index(i);
        let ip = text(&point.ip);
        if !ip.is_empty() {
            shared::legacy_ip(ip, &path.child("ip"), &known, errors);
        }
        let mode_path = path.child("ipMode");
        match point.ip_mode.as_deref() {
            None if !ip.is_empty() => errors.required(&mode_path, "must be specified when `ip` is set"),
            Some(_) if ip.is_empty() => {
                errors.forbidden(&mode_path, "may not be specified when `ip` is not set");
            }
            Some(mode) if !IP_MODES.contains(&mode) => errors.not_supported(&mode_path, mode, IP_MODES),
            _ => {}
        }
        let hostname = text(&point.hostname);
        if !hostname.is_empty() {
            shared::dns_subdomain(hostname, &path.child("hostname"), errors);
            if parse_ip_sloppy(hostname).is_some() {
                let detail = "must be a DNS name, not an IP address";
                errors.invalid(&path.child("hostname"), hostname, detail);
            }
        }
    }
}
