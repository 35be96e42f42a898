//! Advice about pods and templates that are valid, but probably not what was meant.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{
    ContainerPort, DownwardAPIVolumeFile, EnvVar, KeyToPath, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec,
    PodTemplateSpec, ResourceRequirements, Volume, VolumeProjection, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::resources;
use super::security::{self, APPARMOR_PREFIX, SECCOMP_CONTAINER_PREFIX, SECCOMP_POD_ANNOTATION};
use super::spec::annotations;
use super::view::{ContainerView, Names, items, text, visit_containers};
use crate::field::Path;
use crate::kinds::core::shared;
use crate::meta;

const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

type Annotations = BTreeMap<String, String>;

/// Labels of nodes that have a new name.
fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}

/// A new pod.
pub(super) fn on_create(pod: &Pod) -> Vec<String> {
    let mut warnings = Vec::new();
    let messages = meta::dns1123_label_errors(text(&pod.metadata.name));
    if !messages.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            messages.join(" ")
        ));
    }
    if let Some(spec) = &pod.spec {
        let path = Path::empty();
        collect(spec, annotations(&pod.metadata), &path, &path.child("spec"), false, &mut warnings);
    }
    warnings
}

/// A write to the status of a pod.
pub(super) fn on_status(pod: &Pod) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(status) = &pod.status else { return warnings };
    let path = Path::root("status");
    let (pods, hosts) = (path.child("podIPs"), path.child("hostIPs"));
    for (i, ip) in items(&status.pod_ips).iter().enumerate() {
        shared::ip_warnings(&ip.ip, &pods.index(i).child("ip"), &mut warnings);
    }
    for (i, ip) in items(&status.host_ips).iter().enumerate() {
        shared::ip_warnings(&ip.ip, &hosts.index(i).child("ip"), &mut warnings);
    }
    warnings
}

/// A pod template of some workload; `path` is that of the template.
#[must_use]
pub fn template_warnings(template: &PodTemplateSpec, path: &Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let none = Annotations::new();
    let annotations = template.metadata.as_ref().map_or(&none, annotations);
    if let Some(spec) = &template.spec {
        collect(spec, annotations, path, &path.child("spec"), true, &mut warnings);
    }
    warnings
}

fn collect(
    spec: &PodSpec,
    annotations: &Annotations,
    root: &Path<'_>,
    path: &Path<'_>,
    is_template: bool,
    out: &mut Vec<String>,
) {
    node_labels(spec, path, out);
    let metadata_path = root.child("metadata");
    let annotations_path = metadata_path.child("annotations");
    deprecated_annotations(annotations, &annotations_path, out);
    volumes(items(&spec.volumes), &path.child("volumes"), out);
    overlapping_paths(items(&spec.volumes), out);
    duplicates(spec, path, out);
    if let Some(overhead) = &spec.overhead {
        for name in ["memory", "ephemeral-storage"] {
            fraction(overhead.get(name), &path.child("overhead").key(name), out);
        }
    }
    profiles(spec, annotations, path, &annotations_path, is_template, out);
    visit_containers(spec, path, |c, path| container(&c, path, out));
    ports(spec, path, out);
    if let Some(seconds) = spec.termination_grace_period_seconds
        && seconds < 0
    {
        let path = path.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    pod_affinity(spec, &path.child("affinity"), out);
    if let Some(dns) = &spec.dns_config {
        let dns_path = path.child("dnsConfig");
        for (i, server) in items(&dns.nameservers).iter().enumerate() {
            shared::ip_warnings(server, &dns_path.child("nameservers").index(i), out);
        }
    }
    let aliases_path = path.child("hostAliases");
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        shared::ip_warnings(&alias.ip, &aliases_path.index(i).child("ip"), out);
    }
}

fn node_labels(spec: &PodSpec, path: &Path<'_>, out: &mut Vec<String>) {
    let selector_path = path.child("nodeSelector");
    for key in spec.node_selector.iter().flatten().map(|(k, _)| k) {
        if let Some(message) = deprecated_label(key) {
            out.push(format!("{}: {message}", selector_path.key(key)));
        }
    }
    let affinity_path = path.child("affinity");
    if let Some(node) = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()) {
        let path = affinity_path.child("nodeAffinity");
        let required_path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        let terms_path = required_path.child("nodeSelectorTerms");
        let required = node.required_during_scheduling_ignored_during_execution.as_ref();
        for (i, term) in required.into_iter().flat_map(|r| &r.node_selector_terms).enumerate() {
            node_term(term, false, &terms_path.index(i), out);
        }
        let preferred_path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        let preferred = items(&node.preferred_during_scheduling_ignored_during_execution);
        for (i, term) in preferred.iter().enumerate() {
            node_term(&term.preference, true, &preferred_path.index(i).child("preference"), out);
        }
    }
    let spread_path = path.child("topologySpreadConstraints");
    for (i, constraint) in items(&spec.topology_spread_constraints).iter().enumerate() {
        let path = spread_path.index(i);
        if let Some(message) = deprecated_label(&constraint.topology_key) {
            let path = path.child("topologyKey");
            out.push(format!("{path}: {} is {message}", constraint.topology_key));
        }
        if constraint.label_selector.is_none() {
            out.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
        }
    }
}

fn node_term(term: &NodeSelectorTerm, check_values: bool, path: &Path<'_>, out: &mut Vec<String>) {
    let expressions_path = path.child("matchExpressions");
    for (i, expression) in items(&term.match_expressions).iter().enumerate() {
        let path = expressions_path.index(i);
        if let Some(message) = deprecated_label(&expression.key) {
            out.push(format!("{}: {} is {message}", path.child("key"), expression.key));
        }
        if !check_values {
            continue;
        }
        let values_path = path.child("values");
        for (j, value) in items(&expression.values).iter().enumerate() {
            for message in meta::label_value_errors(value) {
                out.push(format!("{}: {value} is invalid, {message}", values_path.index(j)));
            }
        }
    }
}

fn deprecated_annotations(annotations: &Annotations, path: &Path<'_>, out: &mut Vec<String>) {
    const SYSCTLS: &str = r#"non-functional in v1.11+; use the "sysctls" field instead"#;
    for (key, message) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
        ),
        ("security.alpha.kubernetes.io/sysctls", SYSCTLS),
        ("security.alpha.kubernetes.io/unsafe-sysctls", SYSCTLS),
    ] {
        if annotations.contains_key(key) {
            out.push(format!("{}: {message}", path.key(key)));
        }
    }
}

fn volumes(list: &[Volume], path: &Path<'_>, out: &mut Vec<String>) {
    for (i, v) in list.iter().enumerate() {
        let path = path.index(i);
        for (used, name, message) in [
            (
                v.photon_persistent_disk.is_some(),
                "photonPersistentDisk",
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            (v.git_repo.is_some(), "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
            (v.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            (v.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+"),
            (v.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            (v.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            (v.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            (v.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            (v.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if used {
                out.push(format!("{}: {message}", path.child(name)));
            }
        }
        let template = v.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref());
        if let Some(resources) = template.and_then(|t| t.spec.resources.as_ref()) {
            let ephemeral = path.child("ephemeral");
            let template = ephemeral.child("volumeClaimTemplate");
            let spec = template.child("spec");
            let path = spec.child("resources");
            for (list, side) in [(&resources.requests, "requests"), (&resources.limits, "limits")] {
                let storage = list.as_ref().and_then(|l| l.get("storage"));
                fraction(storage, &path.child(side).key("storage"), out);
            }
        }
    }
}

/// Bytes cannot be divided.
fn fraction(quantity: Option<&Quantity>, path: &Path<'_>, out: &mut Vec<String>) {
    let Some(quantity) = quantity else { return };
    if resources::amount(quantity).is_some_and(|a| !resources::is_integer(a)) {
        out.push(format!("{path}: fractional byte value {:?} is invalid, must be an integer", quantity.0));
    }
}

fn duplicates(spec: &PodSpec, path: &Path<'_>, out: &mut Vec<String>) {
    let mut ips = Names::new();
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        if !ips.add(&alias.ip) {
            let path = path.child("hostAliases");
            out.push(format!("{}: duplicate ip {:?}", path.index(i).child("ip"), alias.ip));
        }
    }
    let secrets_path = path.child("imagePullSecrets");
    let mut names = Names::new();
    for (i, secret) in items(&spec.image_pull_secrets).iter().enumerate() {
        if !names.add(&secret.name) {
            out.push(format!("{}: duplicate name {:?}", secrets_path.index(i).child("name"), secret.name));
        }
    }
    for (i, _) in items(&spec.image_pull_secrets).iter().enumerate().filter(|(_, s)| s.name.is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", secrets_path.index(i).child("name")));
    }
}

/// Profiles that are still given as annotations.
fn profiles(
    spec: &PodSpec,
    annotations: &Annotations,
    path: &Path<'_>,
    annotations_path: &Path<'_>,
    is_template: bool,
    out: &mut Vec<String>,
) {
    const SECCOMP: &str = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
    const APPARMOR: &str = r#"deprecated since v1.30; use the "appArmorProfile" field instead"#;
    if annotations.is_empty() {
        return;
    }
    let pod = spec.security_context.as_ref();
    if pod.is_none_or(|c| c.seccomp_profile.is_none()) && annotations.contains_key(SECCOMP_POD_ANNOTATION) {
        out.push(format!("{}: {SECCOMP}", annotations_path.key(SECCOMP_POD_ANNOTATION)));
    }
    let pod_apparmor = pod.and_then(|c| c.app_armor_profile.as_ref());
    visit_containers(spec, path, |c, _| {
        let key = format!("{SECCOMP_CONTAINER_PREFIX}{}", c.name);
        if c.security_context.is_none_or(|s| s.seccomp_profile.is_none()) && annotations.contains_key(&key) {
            out.push(format!("{}: {SECCOMP}", annotations_path.key(&key)));
        }
        let key = format!("{APPARMOR_PREFIX}{}", c.name);
        let Some(annotation) = annotations.get(&key) else { return };
        let own = security::own_apparmor(c.security_context);
        let said = security::apparmor_from_annotation(annotation);
        let says_nothing_new = said.is_some() && said.as_ref() == pod_apparmor;
        // In a new pod the annotation has been copied to the field by now, so an equal field came from it.
        let deprecated = match own {
            None => !says_nothing_new,
            Some(own) => !is_template && said.as_ref() == Some(own),
        };
        if deprecated {
            out.push(format!("{}: {APPARMOR}", annotations_path.key(&key)));
        }
    });
}

fn container(c: &ContainerView<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    if let Some(ResourceRequirements { limits, requests, .. }) = c.resources {
        let path = path.child("resources");
        for name in ["memory", "ephemeral-storage"] {
            for (list, side) in [(limits, "limits"), (requests, "requests")] {
                let quantity = list.as_ref().and_then(|l| l.get(name));
                fraction(quantity, &path.child(side).key(name), out);
            }
        }
    }
    if c.env.len() > 1 {
        repeated_env(c.env, &path.child("env"), out);
    }
}

/// A variable may be extended (`X="$(X):more"`), but not given twice.
fn repeated_env(list: &[EnvVar], path: &Path<'_>, out: &mut Vec<String>) {
    let mut names = Names::new();
    for (i, env) in list.iter().enumerate() {
        if names.add(&env.name) {
            continue;
        }
        let reference = format!("$({})", env.name);
        let value = text(&env.value);
        if env.value_from.is_some() || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{}: hides previous definition of {:?}, which may be dropped when using apply",
                path.index(i),
                env.name
            ));
        }
    }
}

/// A port as Go prints the struct.
fn shown_port(port: &ContainerPort) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text(&port.name),
        port.host_port.unwrap_or(0),
        port.container_port,
        text(&port.protocol),
        text(&port.host_ip)
    )
}

/// Ports of all containers share one network.
fn ports(spec: &PodSpec, path: &Path<'_>, out: &mut Vec<String>) {
    let mut by_port: HashMap<(i32, &str), Vec<(String, &ContainerPort)>> = HashMap::new();
    visit_containers(spec, path, |c, path| {
        let path = path.child("ports");
        for (i, port) in c.ports.iter().enumerate() {
            let path = path.index(i);
            let (ip, host_port) = (text(&port.host_ip), port.host_port.unwrap_or(0));
            if !ip.is_empty() && host_port == 0 {
                out.push(format!("{path}: hostIP set without hostPort: {}", shown_port(port)));
            }
            let others = by_port.entry((port.container_port, text(&port.protocol))).or_default();
            for (other_path, other) in others.iter() {
                let (other_ip, other_host_port) = (text(&other.host_ip), other.host_port.unwrap_or(0));
                let problem = if ip == other_ip && host_port == other_host_port {
                    "duplicate"
                } else if host_port == 0 || other_host_port == 0 {
                    "overlapping"
                } else if host_port == other_host_port && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{path}: {problem} port definition with {other_path}"));
            }
            // Every further one is compared with the first ones; enough to be told, and never quadratic.
            if others.len() < PORTS_COMPARED {
                others.push((path.to_string(), port));
            }
        }
    });
    let mut by_name: HashMap<&str, String> = HashMap::new();
    visit_containers(spec, path, |c, path| {
        let path = path.child("ports");
        for (i, port) in c.ports.iter().enumerate() {
            let (path, name) = (path.index(i), text(&port.name));
            if name.is_empty() {
                continue;
            }
            match by_name.get(name) {
                None => _ = by_name.insert(name, path.to_string()),
                Some(first) => out.push(format!(
                    "{path}: duplicate port name {name:?} with {first}, services and probes that select ports \
                     by name will use {first}"
                )),
            }
        }
    });
}

/// How many definitions of one port a further definition is compared with.
const PORTS_COMPARED: usize = 16;

fn pod_affinity(spec: &PodSpec, path: &Path<'_>, out: &mut Vec<String>) {
    let Some(affinity) = &spec.affinity else { return };
    let (pod, anti) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let mut check = |required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm], path: &Path<'_>| {
        let required_path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        for (i, _) in required.iter().enumerate().filter(|(_, t)| t.label_selector.is_none()) {
            out.push(format!("{}: {NO_SELECTOR}", required_path.index(i).child("labelSelector")));
        }
        let preferred_path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        let preferred = preferred.iter().enumerate();
        for (i, _) in preferred.filter(|(_, t)| t.pod_affinity_term.label_selector.is_none()) {
            let path = preferred_path.index(i);
            out.push(format!("{}: {NO_SELECTOR}", path.child("podAffinityTerm").child("labelSelector")));
        }
    };
    if let Some(p) = pod {
        check(
            items(&p.required_during_scheduling_ignored_during_execution),
            items(&p.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAffinity"),
        );
    }
    if let Some(p) = anti {
        check(
            items(&p.required_during_scheduling_ignored_during_execution),
            items(&p.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAntiAffinity"),
        );
    }
}

/// A file that some source puts into a volume.
struct File<'a> {
    path: &'a str,
    source: String,
}

impl File<'_> {
    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.path);
        if !self.source.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, " ({})", self.source);
        }
        text
    }
}

/// Whether one path is the other, or leads to it.
fn overlap(a: &str, b: &str) -> bool {
    let leads =
        |from: &str, to: &str| to.strip_prefix(from).is_some_and(|r| r.is_empty() || r.starts_with('/'));
    !a.is_empty() && !b.is_empty() && (leads(a, b) || leads(b, a))
}

/// How many files of a volume are compared with each other: what is beyond goes unwarned, which is better
/// than a request that takes minutes.
const FILES_COMPARED: usize = 256;

fn overlaps<'a>(files: impl Iterator<Item = File<'a>>) -> Vec<String> {
    let mut seen: Vec<File<'a>> = Vec::new();
    let mut found = Vec::new();
    for mut file in files.take(FILES_COMPARED) {
        file.path = file.path.trim_end_matches('/');
        for other in seen.iter().filter(|o| overlap(o.path, file.path)) {
            found.push(format!("{} with {}", file.shown(), other.shown()));
        }
        seen.push(file);
    }
    found
}

fn keys<'a>(list: &'a [KeyToPath], source: &str) -> impl Iterator<Item = File<'a>> {
    list.iter().map(move |k| File { path: &k.path, source: source.to_owned() })
}

fn downward<'a>(list: &'a [DownwardAPIVolumeFile], source: &str) -> impl Iterator<Item = File<'a>> {
    list.iter().map(move |f| File { path: &f.path, source: source.to_owned() })
}

fn projected<'a>(source: &'a VolumeProjection) -> Vec<File<'a>> {
    if let Some(map) = source.config_map.as_ref().filter(|m| m.items.is_some()) {
        keys(items(&map.items), &format!("ConfigMap {:?}", map.name)).collect()
    } else if let Some(secret) = source.secret.as_ref().filter(|s| s.items.is_some()) {
        keys(items(&secret.items), &format!("Secret {:?}", secret.name)).collect()
    } else if let Some(files) = source.downward_api.as_ref().filter(|d| d.items.is_some()) {
        downward(items(&files.items), "DownwardAPI").collect()
    } else if let Some(token) = &source.service_account_token {
        vec![File { path: &token.path, source: "ServiceAccountToken".to_owned() }]
    } else {
        Vec::new()
    }
}

fn overlapping_paths(list: &[Volume], out: &mut Vec<String>) {
    for v in list {
        let mut warn = |what: &str, found: Vec<String>| {
            out.extend(found.iter().map(|o| format!("volume {:?} ({what}): overlapping paths: {o}", v.name)));
        };
        if let Some(map) = &v.config_map {
            warn(&format!("ConfigMap {:?}", map.name), overlaps(keys(items(&map.items), "")));
        }
        if let Some(secret) = &v.secret {
            warn(
                &format!("Secret {:?}", text(&secret.secret_name)),
                overlaps(keys(items(&secret.items), "")),
            );
        }
        if let Some(files) = &v.downward_api {
            warn("DownwardAPI", overlaps(downward(items(&files.items), "")));
        }
        let Some(projection) = &v.projected else { continue };
        warn("Projected", overlaps(items(&projection.sources).iter().flat_map(projected)));
        for _ in items(&projection.sources).iter().filter(|s| **s == VolumeProjection::default()) {
            out.push(format!("volume {:?} (Projected) has no sources provided", v.name));
        }
    }
}
