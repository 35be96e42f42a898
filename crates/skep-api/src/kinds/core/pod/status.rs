//! What a node agent may write into a pod's status.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodCondition, PodExtendedResourceClaimStatus, PodSpec, PodStatus,
};

use super::checks;
use super::resources;
use super::update::{spec_of, validate_annotations};
use super::view::{Names, items, text};
use crate::field::{Errors, Json, Path, Shown};
use crate::kinds::core::resources::is_native;
use crate::kinds::core::shared;
use crate::meta;

const STATE_FINAL: &str = "may not be transitioned to non-terminated state";
/// Longest message about the health of a device.
const HEALTH_MESSAGE_MAX_BYTES: usize = 1024;

/// A write to `status`.
pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    let no_status = PodStatus::default();
    let (new_spec, old_spec) = (spec_of(new), spec_of(old));
    let (new_spec, old_spec) = (new_spec.as_ref(), old_spec.as_ref());
    let status = new.status.as_ref().unwrap_or(&no_status);
    let old_status = old.status.as_ref().unwrap_or(&no_status);
    let path = Path::root("status");

    validate_annotations(new, old, errors);
    validate_conditions(items(&status.conditions), &path.child("conditions"), errors);
    if text(&new_spec.node_name) != text(&old_spec.node_name) {
        errors.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let nominated = text(&status.nominated_node_name);
    if !nominated.is_empty() && nominated != text(&old_status.nominated_node_name) {
        let path = path.child("nominatedNodeName");
        checks::dns_subdomain(nominated, &path, errors);
        if !text(&old_spec.node_name).is_empty() {
            errors.forbidden(&path, "may not be set on pods that are already bound to a node");
        }
    }
    if let Some(generation) = status.observed_generation.filter(|g| *g < 0) {
        errors.invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer");
    }
    meta::validate_immutable_field(&status.qos_class, &old_status.qos_class, &path.child("qosClass"), errors);
    validate_transitions(status, old_status, old_spec, &path, errors);
    validate_claims(status, new_spec, &path, errors);
    if let Some(claim) = &status.extended_resource_claim_status {
        validate_extended_claim(claim, new_spec, &path.child("extendedResourceClaimStatus"), errors);
    }
    validate_node_allocatable_claims(status, new_spec, &path, errors);
    validate_addresses(status, old_status, &path, errors);

    let lists = [
        (&status.container_statuses, "containerStatuses"),
        (&status.init_container_statuses, "initContainerStatuses"),
        (&status.ephemeral_container_statuses, "ephemeralContainerStatuses"),
    ];
    for (list, name) in lists {
        validate_users(items(list), new_spec, &path.child(name), errors);
    }
    let containers = [new_spec.containers.as_slice(), items(&new_spec.init_containers)];
    for ((list, name), containers) in lists.into_iter().zip(containers) {
        validate_allocated(items(list), containers, &path.child(name), errors);
    }
    let ephemeral_path = path.child("ephemeralContainerStatuses");
    for (i, c) in items(&status.ephemeral_container_statuses).iter().enumerate() {
        if !items(&c.allocated_resources_status).is_empty() {
            let path = ephemeral_path.index(i);
            errors.forbidden(
                &path.child("allocatedResourcesStatus"),
                "must not be specified in container status",
            );
        }
    }
}

fn validate_conditions(list: &[PodCondition], path: &Path<'_>, errors: &mut Errors) {
    for (i, condition) in list.iter().enumerate() {
        let path = path.index(i);
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            errors.invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer");
        }
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            checks::qualified_name(&condition.type_, &path.child("Type"), errors);
        }
    }
}

/// Whether a container that ended with this code is started again.
fn restarts(container: &Container, spec: &PodSpec, exit_code: i32) -> bool {
    if let Some(policy) = &container.restart_policy {
        let rule = items(&container.restart_policy_rules).iter().find(|rule| {
            let Some(codes) = &rule.exit_codes else { return false };
            let listed = items(&codes.values).contains(&exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        });
        if rule.is_some_and(|r| matches!(r.action.as_str(), "Restart" | "RestartAllContainers")) {
            return true;
        }
        match policy.as_str() {
            "Always" => return true,
            "OnFailure" => return exit_code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match text(&spec.restart_policy) {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    }
}

/// Containers that are not restarted stay as they ended.
fn validate_transitions(
    new: &PodStatus,
    old: &PodStatus,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let init = items(&spec.init_containers);
    let restarts_all = spec
        .containers
        .iter()
        .chain(init)
        .any(|c| items(&c.restart_policy_rules).iter().any(|rule| rule.action == "RestartAllContainers"));
    let check = |new: &[ContainerStatus],
                 old: &[ContainerStatus],
                 containers: &[Container],
                 path: &Path<'_>,
                 errors: &mut Errors| {
        for (i, before) in old.iter().enumerate() {
            let Some(end) = before.state.as_ref().and_then(|s| s.terminated.as_ref()) else { continue };
            let Some(now) = new.iter().find(|c| c.name == before.name) else { continue };
            let ended = now.state.as_ref().is_some_and(|s| s.terminated.is_some());
            let container = containers.iter().find(|c| c.name == before.name);
            if !ended && !container.is_some_and(|c| restarts(c, spec, end.exit_code)) {
                errors.forbidden(&path.index(i).child("state"), STATE_FINAL);
            }
        }
    };
    if !restarts_all {
        let (n, o) = (items(&new.container_statuses), items(&old.container_statuses));
        check(n, o, &spec.containers, &path.child("containerStatuses"), errors);
        let (n, o) = (items(&new.init_container_statuses), items(&old.init_container_statuses));
        check(n, o, init, &path.child("initContainerStatuses"), errors);
    }
    let (n, o) = (items(&new.ephemeral_container_statuses), items(&old.ephemeral_container_statuses));
    check(n, o, &[], &path.child("ephemeralContainerStatuses"), errors);
}

fn validate_claims(status: &PodStatus, spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("resourceClaimStatuses");
    let mut names = Names::new();
    for (i, claim) in items(&status.resource_claim_statuses).iter().enumerate() {
        let path = path.index(i);
        if !items(&spec.resource_claims).iter().any(|c| c.name == claim.name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&path.child("name"), &claim.name, detail);
        }
        if !names.add(&claim.name) {
            errors.duplicate(&path.child("name"), &claim.name);
        }
        if let Some(name) = &claim.resource_claim_name {
            checks::dns_subdomain(name, &path.child("resourceClaimName"), errors);
        }
    }
}

fn validate_extended_claim(
    status: &PodExtendedResourceClaimStatus,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mappings_path = path.child("requestMappings");
    if status.request_mappings.is_empty() {
        errors.required(&mappings_path, "at least one request mapping is required");
    }
    let mut seen = HashSet::new();
    for (i, mapping) in status.request_mappings.iter().enumerate() {
        let item_path = mappings_path.index(i);
        let named = |c: &&Container| c.name == mapping.container_name;
        let container =
            spec.containers.iter().find(named).or_else(|| items(&spec.init_containers).iter().find(named));
        match container {
            None => errors.invalid(
                &item_path.child("containerName"),
                &mapping.container_name,
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            ),
            Some(c) => {
                let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
                if !requests.is_some_and(|r| r.contains_key(&mapping.resource_name)) {
                    errors.invalid(
                        &item_path.child("resourceName"),
                        &mapping.resource_name,
                        "must match the extended resource name of an entry in \
                         spec.initContainers.resources.requests or spec.containers.resources.requests",
                    );
                }
            }
        }
        checks::dns_label(&mapping.request_name, &path.child("requestName"), errors);
        if !seen.insert((&mapping.container_name, &mapping.resource_name, &mapping.request_name)) {
            errors.duplicate(&item_path.child("containerName"), &mapping.container_name);
            errors.duplicate(&item_path.child("resourceName"), &mapping.resource_name);
            errors.duplicate(&item_path.child("requestName"), &mapping.request_name);
        }
    }
    let name_path = path.child("resourceClaimName");
    if status.resource_claim_name.is_empty() {
        errors.required(&name_path, "");
    } else {
        checks::dns_subdomain(&status.resource_claim_name, &name_path, errors);
    }
}

fn validate_node_allocatable_claims(
    status: &PodStatus,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("nodeAllocatableResourceClaimStatuses");
    for (i, claim) in items(&status.node_allocatable_resource_claim_statuses).iter().enumerate() {
        let path = path.index(i);
        let (name_path, name) = (path.child("resourceClaimName"), claim.resource_claim_name.as_str());
        if name.is_empty() {
            errors.required(&name_path, "must not be empty");
        }
        let is = |n: &Option<String>| n.as_deref() == Some(name);
        let known = items(&spec.resource_claims).iter().any(|c| is(&c.resource_claim_name))
            || items(&status.resource_claim_statuses).iter().any(|c| is(&c.resource_claim_name));
        if !known {
            errors.invalid(&name_path, name, "no mapping found in pod reference");
        }
        if items(&claim.containers).is_empty() {
            errors.required(&path.child("containers"), "must not be empty");
        }
        let resources_path = path.child("resources");
        if claim.resources.is_empty() {
            errors.required(&resources_path, "must not be empty");
        }
        for (resource, quantity) in &claim.resources {
            let path = resources_path.key(resource);
            if !is_native(resource) {
                errors.invalid(&path, resource, "must be a node allocatable resource name");
            }
            if resources::amount(quantity).is_none_or(|a| a.signum() < 0) {
                errors.invalid(&path, &quantity.0, "must be non-negative");
            }
        }
    }
}

fn validate_addresses(status: &PodStatus, old: &PodStatus, path: &Path<'_>, errors: &mut Errors) {
    let texts = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let ips: Vec<&str> = items(&status.pod_ips).iter().map(|i| i.ip.as_str()).collect();
    if status.pod_ips != old.pod_ips {
        let known = texts(items(&old.pod_ips).iter().map(|i| i.ip.as_str()).collect());
        validate_families(&ips, &known, Json(&status.pod_ips), &path.child("podIPs"), errors);
    }
    let hosts: Vec<&str> = items(&status.host_ips).iter().map(|i| i.ip.as_str()).collect();
    let hosts_path = path.child("hostIPs");
    if let Some(first) = hosts.first()
        && text(&status.host_ip) != *first
    {
        errors.invalid(&hosts_path.index(0).child("ip"), *first, "must be equal to `hostIP`");
    }
    if status.host_ips != old.host_ips {
        let known = texts(items(&old.host_ips).iter().map(|i| i.ip.as_str()).collect());
        validate_families(&hosts, &known, Json(&status.host_ips), &hosts_path, errors);
    }
}

/// Sound addresses, at most one of each family.
fn validate_families(
    ips: &[&str],
    known: &[String],
    shown: impl Shown,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, ip) in ips.iter().enumerate() {
        shared::legacy_ip(ip, &path.index(i), known, errors);
    }
    if ips.len() < 2 {
        return;
    }
    let parsed: Option<Vec<IpAddr>> = ips.iter().map(|ip| meta::format::parse_ip_sloppy(ip)).collect();
    let dual_stack = match &parsed {
        Some(parsed) => parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6),
        None => {
            let bad = ips.iter().find(|ip| meta::format::parse_ip_sloppy(ip).is_none()).unwrap_or(&"");
            errors.internal(path, &format!("failed to check for dual stack with error:invalid IP: {bad}"));
            false
        }
    };
    if !dual_stack || ips.len() > 2 {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid(path, shown, detail);
    }
}

fn validate_users(list: &[ContainerStatus], spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let os = spec.os.as_ref().map_or("linux", |os| os.name.as_str());
    for (i, c) in list.iter().enumerate() {
        let Some(linux) = c.user.as_ref().and_then(|u| u.linux.as_ref()) else { continue };
        let item_path = path.index(i);
        let user_path = item_path.child("user");
        let path = user_path.child("linux");
        if os == "windows" {
            errors.forbidden(&path, "cannot be set for a windows pod");
            continue;
        }
        checks::id(linux.uid, &path.child("uid"), errors);
        checks::id(linux.gid, &path.child("gid"), errors);
        for (j, group) in items(&linux.supplemental_groups).iter().enumerate() {
            checks::id(*group, &path.child("supplementalGroups").index(j), errors);
        }
    }
}

/// The devices that were given to containers, and how they are.
fn validate_allocated(
    list: &[ContainerStatus],
    containers: &[Container],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (i, status) in list.iter().enumerate() {
        let item_path = path.index(i);
        let path = item_path.child("allocatedResourcesStatus");
        let container = containers.iter().find(|c| c.name == status.name);
        for (j, allocated) in items(&status.allocated_resources_status).iter().enumerate() {
            let path = path.index(j);
            if let Some(container) = container {
                validate_allocated_name(&allocated.name, container, &path.child("name"), errors);
            }
            let mut ids = Names::new();
            let resources_path = path.child("resources");
            for (k, resource) in items(&allocated.resources).iter().enumerate() {
                let path = resources_path.index(k);
                let states = ["Healthy", "Unhealthy", "Unknown"];
                checks::one_of(text(&resource.health), &states, &path.child("health"), errors);
                if let Some(message) = &resource.message {
                    if message.is_empty() {
                        errors.required(&path.child("message"), "must be non-empty if specified");
                    } else if message.len() > HEALTH_MESSAGE_MAX_BYTES {
                        errors.too_long(&path.child("message"), HEALTH_MESSAGE_MAX_BYTES);
                    }
                }
                if !ids.add(&resource.resource_id) {
                    errors.duplicate(&path.child("resourceID"), &resource.resource_id);
                }
            }
        }
    }
}

fn validate_allocated_name(name: &str, container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let resources = container.resources.as_ref();
    if let Some(claimed) = name.strip_prefix("claim:") {
        let claims = resources.map_or(&[] as &[_], |r| items(&r.claims));
        let known = claims.iter().any(|c| match text(&c.request) {
            "" => claimed == c.name,
            request => claimed.strip_prefix(&c.name).and_then(|r| r.strip_prefix('/')) == Some(request),
        });
        if !known {
            errors.invalid(
                path,
                name,
                "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
                 'claim:<claimName>' if request is empty",
            );
        }
    } else if !resources.and_then(|r| r.requests.as_ref()).is_some_and(|r| r.contains_key(name)) {
        errors.invalid(path, name, "must match one of the container's resource requests");
    }
}
