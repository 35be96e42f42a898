//! A pod's spec as a whole, and the annotations that belong to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::{self, Surroundings};
use super::view::{items, text, visit_containers, yes};
use super::volumes::{self, Volumes};
use super::{checks, resources, scheduling, security};
use crate::field::{Errors, Json, Path};
use crate::meta;

pub(super) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const TOLERATIONS_ANNOTATION: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_MAX_CHARS: usize = 2048;
/// The longest host name of Linux.
const HOSTNAME_MAX_LEN: usize = 64;

/// No annotations, where annotations are optional.
static NO_ANNOTATIONS: BTreeMap<String, String> = BTreeMap::new();

/// The annotations of an object.
pub(super) fn annotations(meta: &ObjectMeta) -> &BTreeMap<String, String> {
    meta.annotations.as_ref().unwrap_or(&NO_ANNOTATIONS)
}

/// A pod template, as all workloads have one.
pub fn validate_pod_template_spec(template: &PodTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    let empty = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty);
    let annotations = template.metadata.as_ref().map_or(&NO_ANNOTATIONS, annotations);
    if let Some(labels) = template.metadata.as_ref().and_then(|m| m.labels.as_ref()) {
        meta::validate_labels(labels, &path.child("labels"), errors);
    }
    let annotations_path = path.child("annotations");
    meta::validate_annotations(annotations, &annotations_path, errors);
    validate_pod_annotations(annotations, spec, &annotations_path, errors);
    let spec_path = path.child("spec");
    validate(spec, None, false, &spec_path, errors);
    security::validate_profiles_match(annotations, spec, &spec_path, errors);
    if !items(&spec.ephemeral_containers).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&spec_path.child("ephemeralContainers"), detail);
    }
}

/// The spec of a pod in some workload, without metadata.
pub fn validate_pod_spec(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    validate(spec, None, false, path, errors);
}

/// A pod's annotations and spec; what create and update check alike.
pub(super) fn validate_pod(pod: &Pod, spec: &PodSpec, errors: &mut Errors) {
    let path = Path::root("spec");
    let metadata = Path::root("metadata");
    validate_pod_annotations(annotations(&pod.metadata), spec, &metadata.child("annotations"), errors);
    validate(spec, Some(&pod.metadata), true, &path, errors);
    if text(&spec.service_account_name).is_empty() {
        let volumes_path = path.child("volumes");
        for (i, volume) in items(&spec.volumes).iter().enumerate() {
            let Some(projected) = &volume.projected else { continue };
            for (j, source) in items(&projected.sources).iter().enumerate() {
                if source.service_account_token.is_some() {
                    errors.forbidden(
                        &volumes_path
                            .index(i)
                            .child("projected")
                            .child("sources")
                            .index(j)
                            .child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    let containers_path = path.child("containers");
    for (i, c) in spec.containers.iter().enumerate() {
        containers::validate_image_padding(c, &containers_path.index(i), errors);
    }
    let init_path = path.child("initContainers");
    for (i, c) in items(&spec.init_containers).iter().enumerate() {
        containers::validate_image_padding(c, &init_path.index(i), errors);
    }
}

/// A new pod.
pub(super) fn validate_create(pod: &Pod, errors: &mut Errors) {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    validate_pod(pod, spec, errors);
    let path = Path::root("spec");
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
    security::validate_profiles_match(annotations(&pod.metadata), spec, &path, errors);
}

/// Annotations that mean something to a pod.
pub(super) fn validate_pod_annotations(
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if annotations.is_empty() {
        return;
    }
    if let Some(value) = annotations.get(MIRROR_ANNOTATION)
        && text(&spec.node_name).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR_ANNOTATION), value, detail);
    }
    if let Some(json) = annotations.get(TOLERATIONS_ANNOTATION).filter(|t| !t.is_empty()) {
        match serde_json::from_str::<Vec<Toleration>>(json) {
            Ok(list) => {
                scheduling::validate_tolerations(&list, &path.child(TOLERATIONS_ANNOTATION), errors);
            }
            Err(e) => errors.invalid(path, TOLERATIONS_ANNOTATION, &e.to_string()),
        }
    }
    if let Some(cost) = annotations.get(DELETION_COST_ANNOTATION) {
        // Neither a plus sign nor leading zeros, so that equal costs are equal texts.
        let first_ok = cost == "0" || cost.starts_with(|c: char| c == '-' || matches!(c, '1'..='9'));
        if !first_ok || cost.parse::<i32>().is_err() {
            errors.invalid(&path.key(DELETION_COST_ANNOTATION), cost, "must be a 32bit integer");
        }
    }
    security::validate_profile_annotations(annotations, spec, path, errors);
}

/// The spec. `meta` is that of the pod; `None` for a template.
fn validate(spec: &PodSpec, meta: Option<&ObjectMeta>, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    let grace_s = spec.termination_grace_period_seconds;
    if grace_s.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes =
        volumes::validate_volumes(items(&spec.volumes), meta, is_pod, &path.child("volumes"), errors);
    validate_resource_claims(spec, meta, &path.child("resourceClaims"), errors);
    let around = Surroundings {
        volumes: &volumes,
        claims: items(&spec.resource_claims),
        grace_s,
        restart_policy: text(&spec.restart_policy),
        host_users: security::shares_host_users(spec),
    };
    containers::validate_all(spec, &around, path, errors);
    resources::validate_pod_resources(spec, path, errors);
    if yes(spec.host_network) {
        validate_host_network_ports(spec, is_pod, &path.child("containers"), errors);
    }
    checks::required_one_of(
        text(&spec.restart_policy),
        &["Always", "OnFailure", "Never"],
        &path.child("restartPolicy"),
        errors,
    );
    checks::required_one_of(
        text(&spec.dns_policy),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        &path.child("dnsPolicy"),
        errors,
    );
    if let Some(selector) = &spec.node_selector {
        meta::validate_labels(selector, &path.child("nodeSelector"), errors);
    }
    security::validate_pod(spec, &path.child("securityContext"), errors);
    if let Some(affinity) = &spec.affinity {
        scheduling::validate_affinity(affinity, &path.child("affinity"), errors);
    }
    validate_dns(spec, &path.child("dnsConfig"), errors);
    let gates_path = path.child("readinessGates");
    for (i, gate) in items(&spec.readiness_gates).iter().enumerate() {
        checks::qualified_name(&gate.condition_type, &gates_path.index(i).child("conditionType"), errors);
    }
    scheduling::validate_gates(items(&spec.scheduling_gates), &path.child("schedulingGates"), errors);
    let spread = items(&spec.topology_spread_constraints);
    scheduling::validate_spread(spread, &path.child("topologySpreadConstraints"), errors);
    security::validate_host_process(spec, path, errors);
    security::validate_host_users(spec, path, errors);
    validate_hostname(spec, path, errors);
    for (name, value) in [("serviceAccountName", &spec.service_account_name), ("nodeName", &spec.node_name)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            checks::dns_subdomain(value, &path.child(name), errors);
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, detail);
    }
    for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            checks::dns_label(value, &path.child(name), errors);
        }
    }
    scheduling::validate_tolerations(items(&spec.tolerations), &path.child("tolerations"), errors);
    let aliases_path = path.child("hostAliases");
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        let path = aliases_path.index(i);
        checks::ip(&alias.ip, &path.child("ip"), errors);
        let names_path = path.child("hostnames");
        for (j, name) in items(&alias.hostnames).iter().enumerate() {
            checks::dns_subdomain(name, &names_path.index(j), errors);
        }
    }
    if let Some(class) = spec.priority_class_name.as_deref().filter(|v| !v.is_empty()) {
        checks::dns_subdomain(class, &path.child("priorityClassName"), errors);
    }
    if let Some(class) = &spec.runtime_class_name {
        checks::dns_subdomain(class, &path.child("runtimeClassName"), errors);
    }
    if let Some(policy) = &spec.preemption_policy {
        let path = path.child("preemptionPolicy");
        checks::required_one_of(policy, &["PreemptLowerPriority", "Never"], &path, errors);
    }
    if let Some(overhead) = &spec.overhead {
        resources::validate_overhead(overhead, &path.child("overhead"), errors);
    }
    security::validate_os(spec, path, errors);
    validate_file_keys(spec, &volumes, path, errors);
}

fn validate_resource_claims(spec: &PodSpec, meta: Option<&ObjectMeta>, path: &Path<'_>, errors: &mut Errors) {
    let mut names = super::view::Names::new();
    let is_mirror = meta.is_some_and(|m| annotations(m).contains_key(MIRROR_ANNOTATION));
    for (i, claim) in items(&spec.resource_claims).iter().enumerate() {
        if is_mirror {
            errors.forbidden(&Path::empty(), "static pods do not support resource claims");
            continue;
        }
        let path = path.index(i);
        if claim.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !names.add(&claim.name) {
            errors.duplicate(&path.child("name"), &claim.name);
        } else {
            checks::dns_label(&claim.name, &path.child("name"), errors);
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => errors.invalid(
                &path,
                Json(claim),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (None, None) => errors.invalid(
                &path,
                Json(claim),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
        if let Some(name) = &claim.resource_claim_name {
            checks::dns_subdomain(name, &path.child("resourceClaimName"), errors);
        }
        if let Some(name) = &claim.resource_claim_template_name {
            checks::dns_subdomain(name, &path.child("resourceClaimTemplateName"), errors);
        }
    }
}

/// With the host's network, a container's port *is* the host's. Templates may leave that to the pod.
fn validate_host_network_ports(spec: &PodSpec, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    for (i, c) in spec.containers.iter().enumerate() {
        for (j, port) in items(&c.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (is_pod || host_port != 0) && host_port != port.container_port {
                errors.invalid(
                    &path.index(i).child("ports").index(j).child("hostPort"),
                    host_port,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn validate_dns(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let dns = spec.dns_config.as_ref();
    if text(&spec.dns_policy) == "None" {
        let Some(dns) = dns else {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        };
        if items(&dns.nameservers).is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&path.child("nameservers"), detail);
            return;
        }
    }
    let Some(dns) = dns else { return };
    let servers = items(&dns.nameservers);
    let servers_path = path.child("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(&servers_path, Json(&servers), &detail);
    }
    for (i, server) in servers.iter().enumerate() {
        checks::ip(server, &servers_path.index(i), errors);
    }
    let searches = items(&dns.searches);
    let searches_path = path.child("searches");
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(&searches_path, Json(&searches), &detail);
    }
    let joined_len = searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1);
    if joined_len > SEARCHES_MAX_CHARS {
        let detail = format!(
            "must not have more than {SEARCHES_MAX_CHARS} characters (including spaces) in the search list"
        );
        errors.invalid(&searches_path, Json(&searches), &detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| *s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        checks::dns_subdomain_with_underscore(search, &searches_path.index(i), errors);
    }
    let options_path = path.child("options");
    for (i, option) in items(&dns.options).iter().enumerate() {
        if text(&option.name).is_empty() {
            errors.required(&options_path.index(i), "must not be empty");
        }
    }
}

fn validate_hostname(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(hostname) = &spec.hostname_override else { return };
    let path = path.child("hostnameOverride");
    if yes(spec.set_hostname_as_fqdn) {
        errors.forbidden(&path, "may not be specified when setHostnameAsFQDN is true");
    }
    if yes(spec.host_network) {
        errors.forbidden(&path, "may not be specified when hostNetwork is true");
    }
    if hostname.len() > HOSTNAME_MAX_LEN {
        errors.too_long(&path, HOSTNAME_MAX_LEN);
    }
    checks::dns_subdomain(hostname, &path, errors);
}

/// Variables that come from files: of a volume that belongs to the pod alone.
fn validate_file_keys(spec: &PodSpec, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut Errors) {
    visit_containers(spec, path, |c, path| {
        for (i, env) in c.env.iter().enumerate() {
            let Some(file) = env.value_from.as_ref().and_then(|f| f.file_key_ref.as_ref()) else { continue };
            let path = path.child("env");
            let (path, name) = (path.index(i), file.volume_name.as_str());
            let path = path.child("valueFrom");
            let path = path.child("fileKeyRef");
            // A volume that has an error of its own is there nonetheless.
            let find = || items(&spec.volumes).iter().rfind(|v| v.name == name);
            match volumes.get(name).or_else(find) {
                None => errors.not_found(&path.child("volumeName"), name),
                Some(volume) if volume.empty_dir.is_none() => {
                    let detail = "referenced volume must be of type emptyDir";
                    errors.invalid(&path.child("volumeName"), name, detail);
                }
                Some(_) => {}
            }
        }
    });
}
