//! Node.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMapNodeConfigSource, DaemonEndpoint, Node, NodeAddress, NodeConfigSource, NodeConfigStatus,
    NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use serde::{Deserialize, Serialize};

use super::{resources, shared};
use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Fields, Kind, KindInfo, Subresource, Verb};
use crate::meta;
use crate::table::{Cell, Column};

/// Taints from before they were a field.
const TAINTS_ANNOTATION: &str = "scheduler.alpha.kubernetes.io/taints";
/// Names controllers whose pods had better go elsewhere; taints replace it.
const AVOID_PODS_ANNOTATION: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

static NO_SPEC: NodeSpec = NodeSpec {
    config_source: None,
    external_id: None,
    pod_cidr: None,
    pod_cidrs: None,
    provider_id: None,
    taints: None,
    unschedulable: None,
};

fn spec(node: &Node) -> &NodeSpec {
    node.spec.as_ref().unwrap_or(&NO_SPEC)
}

fn pod_cidrs(node: &Node) -> &[String] {
    spec(node).pod_cidrs.as_deref().unwrap_or_default()
}

/// How a taint is shown in an error: with the names that upstream's messages have.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownTaint<'a> {
    key: &'a str,
    value: &'a str,
    effect: &'a str,
    time_added: &'a Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
}

fn validate_taint_effect(effect: &str, path: &Path<'_>, errors: &mut Errors) {
    if effect.is_empty() {
        errors.required(path, "");
    } else if !TAINT_EFFECTS.contains(&effect) {
        errors.not_supported(path, effect, TAINT_EFFECTS);
    }
}

fn validate_taints(taints: &[Taint], path: &Path<'_>, errors: &mut Errors) {
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        let value = taint.value.as_deref().unwrap_or_default();
        meta::validate_qualified_name(&taint.key, &path.child("key"), errors);
        let bad = meta::label_value_errors(value);
        if !bad.is_empty() {
            errors.invalid(&path.child("value"), value, &bad.join(";"));
        }
        validate_taint_effect(&taint.effect, &path.child("effect"), errors);
        // Nodes have a handful of taints: comparing all pairs needs no memory.
        if taints[..i].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            let shown =
                ShownTaint { key: &taint.key, value, effect: &taint.effect, time_added: &taint.time_added };
            errors.duplicate_with(&path, Json(&shown), "taints must be unique by key and effect pair");
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct AvoidPods {
    prefer_avoid_pods: Vec<AvoidEntry>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AvoidEntry {
    pod_signature: PodSignature,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSignature {
    pod_controller: Option<PodController>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodController {
    controller: Option<bool>,
}

/// The annotations that stand for fields must hold what the fields may hold.
fn validate_annotations(annotations: &BTreeMap<String, String>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(text) = annotations.get(TAINTS_ANNOTATION).filter(|t| !t.is_empty()) {
        match serde_json::from_str::<Option<Vec<Taint>>>(text) {
            Ok(taints) => {
                validate_taints(&taints.unwrap_or_default(), &path.child(TAINTS_ANNOTATION), errors);
            }
            Err(e) => errors.invalid(path, TAINTS_ANNOTATION, &shared::go_json_error(text.as_bytes(), &e)),
        }
    }
    if let Some(text) = annotations.get(AVOID_PODS_ANNOTATION).filter(|t| !t.is_empty()) {
        match serde_json::from_str::<Option<AvoidPods>>(text) {
            Ok(avoid) => {
                let path = path.child(AVOID_PODS_ANNOTATION);
                for (i, entry) in avoid.unwrap_or_default().prefer_avoid_pods.iter().enumerate() {
                    let path = path.index(i);
                    let path = path.child("PodSignature");
                    match &entry.pod_signature.pod_controller {
                        None => errors.required(&path, ""),
                        Some(c) if c.controller != Some(true) => {
                            let path = path.child("PodController");
                            errors.invalid(&path.child("Controller"), false, "must point to a controller");
                        }
                        Some(_) => {}
                    }
                }
            }
            Err(e) => {
                let detail = shared::go_json_error(text.as_bytes(), &e);
                errors.invalid(&path.child("AvoidPods"), AVOID_PODS_ANNOTATION, &detail);
            }
        }
    }
}

/// `[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*`.
fn has_feature_form(name: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphabetic()) && p.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(part)
}

fn validate_declared_features(features: &[String], path: &Path<'_>, errors: &mut Errors) {
    for (i, feature) in features.iter().enumerate() {
        let max = skep_base::name::SUBDOMAIN_MAX_LEN;
        if feature.len() > max {
            let detail = format!("invalid feature name {feature:?}: must be no more than {max} characters");
            errors.invalid(&path.index(i), feature, &detail);
        } else if !has_feature_form(feature) {
            let detail = format!(
                "invalid feature name {feature:?}: must start with an UpperCamelCase segment, with subsequent \
                 segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only \
                 alphanumeric characters and slashes"
            );
            errors.invalid(&path.index(i), feature, &detail);
        }
        if let Some(next) = features.get(i + 1) {
            if feature == next {
                errors.duplicate(&path.index(i + 1), next);
            } else if feature > next {
                errors.invalid(&path.index(i + 1), next, "list must be sorted alphabetically");
            }
        }
    }
}

/// What holds for the status whoever writes it.
fn validate_status(status: &NodeStatus, path: &Path<'_>, errors: &mut Errors) {
    for (name, list) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        let path = path.child(name);
        for (resource, quantity) in list.iter().flatten() {
            resources::validate_quantity(resource, quantity, &path.child(resource), errors);
        }
    }
    let features = status.declared_features.as_deref().unwrap_or_default();
    validate_declared_features(features, &path.child("declaredFeatures"), errors);
}

fn validate_config_map_source(source: &ConfigMapNodeConfigSource, path: &Path<'_>, errors: &mut Errors) {
    if source.namespace.is_empty() {
        errors.required(&path.child("namespace"), "");
    } else {
        shared::dns_label(&source.namespace, &path.child("namespace"), errors);
    }
    if source.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        shared::dns_subdomain(&source.name, &path.child("name"), errors);
    }
    if source.kubelet_config_key.is_empty() {
        errors.required(&path.child("kubeletConfigKey"), "");
    } else {
        meta::validate_config_key(&source.kubelet_config_key, &path.child("kubeletConfigKey"), errors);
    }
}

fn validate_config_source(
    source: &NodeConfigSource,
    path: &Path<'_>,
    errors: &mut Errors,
    more: impl FnOnce(&ConfigMapNodeConfigSource, &Path<'_>, &mut Errors),
) {
    match &source.config_map {
        Some(map) => {
            let path = path.child("configMap");
            more(map, &path, errors);
            validate_config_map_source(map, &path, errors);
        }
        None => errors.invalid(path, Json(source), "exactly one reference subfield must be non-nil"),
    }
}

fn validate_spec_config(source: &NodeConfigSource, path: &Path<'_>, errors: &mut Errors) {
    let given = |s: &Option<String>| s.as_ref().is_some_and(|s| !s.is_empty());
    validate_config_source(source, path, errors, |map, path, errors| {
        if given(&map.uid) {
            errors.forbidden(&path.child("uid"), "uid must not be set in spec");
        }
        if given(&map.resource_version) {
            errors.forbidden(&path.child("resourceVersion"), "resourceVersion must not be set in spec");
        }
    });
}

fn validate_status_config(config: &NodeConfigStatus, path: &Path<'_>, errors: &mut Errors) {
    let missing = |s: &Option<String>| s.as_ref().is_none_or(String::is_empty);
    let sources = [
        ("assigned", &config.assigned),
        ("active", &config.active),
        ("lastKnownGood", &config.last_known_good),
    ];
    for (name, source) in sources {
        let Some(source) = source else { continue };
        validate_config_source(source, &path.child(name), errors, |map, path, errors| {
            if missing(&map.uid) {
                errors.required(&path.child("uid"), "");
            }
            if missing(&map.resource_version) {
                errors.required(&path.child("resourceVersion"), "");
            }
        });
    }
}

/// Checks that are upstream's for every update, of the status too.
fn validate_change(node: &Node, old: &Node, errors: &mut Errors) {
    let metadata = Path::root("metadata");
    let spec_path = Path::root("spec");
    let status_path = Path::root("status");
    if let Some(annotations) = &node.metadata.annotations {
        validate_annotations(annotations, &metadata.child("annotations"), errors);
    }
    if let Some(status) = &node.status {
        validate_status(status, &status_path, errors);
        let addresses = status.addresses.as_deref().unwrap_or_default();
        let path = status_path.child("addresses");
        for (i, address) in addresses.iter().enumerate() {
            if addresses[..i].contains(address) {
                let NodeAddress { address, type_ } = address;
                let shown = format!(r#"{{"Type":{type_:?},"Address":{address:?}}}"#);
                errors.duplicate(&path.index(i), crate::field::Bare(&shown));
            }
        }
        if let Some(config) = &status.config {
            validate_status_config(config, &status_path.child("config"), errors);
        }
    }

    let (new_spec, old_spec) = (spec(node), spec(old));
    let cidrs = pod_cidrs(old);
    if !cidrs.is_empty() && cidrs != pod_cidrs(node) {
        // Once for every one that differs, as upstream.
        let times = if cidrs.len() == pod_cidrs(node).len() {
            cidrs.iter().zip(pod_cidrs(node)).filter(|(a, b)| a != b).count()
        } else {
            1
        };
        for _ in 0..times {
            errors.forbidden(
                &spec_path.child("podCIDRs"),
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
    }
    let provider = |s: &NodeSpec| s.provider_id.clone().unwrap_or_default();
    if old_spec.provider_id.as_ref().is_some_and(|p| !p.is_empty())
        && old_spec.provider_id.as_deref() != Some(provider(new_spec).as_str())
    {
        errors.forbidden(
            &spec_path.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
    if let Some(source) = &new_spec.config_source {
        validate_spec_config(source, &spec_path.child("configSource"), errors);
    }
    if let Some(taints) = &new_spec.taints {
        validate_taints(taints, &metadata.child("taints"), errors);
    }
    if new_spec.external_id.as_deref().unwrap_or_default()
        != old_spec.external_id.as_deref().unwrap_or_default()
    {
        errors.forbidden(&spec_path.child("externalID"), "may not be updated");
    }
}

/// The parts of the `Status` column.
fn status_text(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut text = match conditions.iter().rev().find(|c| c.type_ == "Ready") {
        Some(ready) if ready.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if spec(node).unschedulable == Some(true) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &Node) -> String {
    let mut roles = BTreeSet::new();
    for (label, value) in node.metadata.labels.iter().flatten() {
        if let Some(role) = label.strip_prefix(ROLE_PREFIX) {
            roles.insert(role);
        } else if label == ROLE_LABEL {
            roles.insert(value);
        }
    }
    roles.remove("");
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address(node: &Node, kind: &str) -> String {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    addresses.iter().find(|a| a.type_ == kind).map_or_else(|| "<none>".to_owned(), |a| a.address.clone())
}

impl Kind for Node {
    fn info() -> KindInfo {
        KindInfo::of::<Node>()
            .short("no")
            .sub(super::proxy("NodeProxyOptions"))
            // The node's agent opens it; the server asks over it for logs and commands.
            .sub(Subresource::of_self("tunnel", &[Verb::Create]))
            .status()
            .select("spec.unschedulable")
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.pod_cidrs.take_if(|c| c.is_empty());
        spec.pod_cidr.take_if(|c| c.is_empty());
        spec.taints.take_if(|t| t.is_empty());
        spec.unschedulable.take_if(|u| !*u);
        // The singular wins where both are given: old clients know only it.
        if let Some(cidr) = &spec.pod_cidr
            && spec.pod_cidrs.as_ref().is_none_or(|c| c.first() != Some(cidr))
        {
            spec.pod_cidrs = Some(vec![cidr.clone()]);
        }
        if spec.pod_cidr.is_none() {
            spec.pod_cidr = spec.pod_cidrs.as_ref().and_then(|c| c.first().cloned());
        }

        let status = self.status.get_or_insert_default();
        status.node_info.get_or_insert_with(NodeSystemInfo::default);
        let no_port = DaemonEndpoint { port: 0 };
        status.daemon_endpoints.get_or_insert(NodeDaemonEndpoints { kubelet_endpoint: Some(no_port) });
        resources::canonicalize(&mut status.capacity);
        resources::canonicalize(&mut status.allocatable);
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    /// A node is created with the status that its agent sends along.
    fn prepare_create(&mut self, _: &Context<'_>) {
        if let Some(spec) = &mut self.spec {
            spec.config_source = None;
        }
        if let Some(status) = &mut self.status {
            status.config = None;
        }
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
            if let Some(status) = &mut self.status
                && old.status.as_ref().is_none_or(|s| s.config.is_none())
            {
                status.config = None;
            }
        } else {
            self.status.clone_from(&old.status);
            if let Some(new) = &mut self.spec
                && spec(old).config_source.is_none()
            {
                new.config_source = None;
            }
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let metadata = Path::root("metadata");
        if let Some(annotations) = &self.metadata.annotations {
            validate_annotations(annotations, &metadata.child("annotations"), errors);
        }
        if let Some(taints) = &spec(self).taints {
            validate_taints(taints, &metadata.child("taints"), errors);
        }
        if let Some(status) = &self.status {
            validate_status(status, &Path::root("status"), errors);
            let swap = status.node_info.as_ref().and_then(|i| i.swap.as_ref());
            if let Some(capacity) = swap.and_then(|s| s.capacity).filter(|c| *c <= 0) {
                let path = metadata.child("nodeSwapStatus");
                errors.invalid(&path.child("capacity"), capacity, "must be greater than zero");
            }
        }
        let path = Path::root("spec");
        let path = path.child("podCIDRs");
        let cidrs = pod_cidrs(self);
        for (i, cidr) in cidrs.iter().enumerate() {
            shared::legacy_cidr(cidr, &path.index(i), errors);
        }
        if cidrs.len() > 1 {
            let v6 = |c: &String| c.contains(':');
            let both = cidrs.iter().any(v6) && !cidrs.iter().all(v6);
            if !both || cidrs.len() > 2 {
                errors.invalid(&path, Json(&cidrs), "may specify no more than one CIDR for each IP family");
            }
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if !cx.is_status() {
            self.validate(cx, errors);
        }
        validate_change(self, old, errors);
    }

    fn warnings(&self, _: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cx.is_status() {
            return warnings;
        }
        if spec(self).config_source.is_some() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if spec(self).external_id.as_ref().is_some_and(|e| !e.is_empty()) {
            warnings
                .push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        let path = Path::root("spec");
        let path = path.child("podCIDRs");
        for (i, cidr) in pod_cidrs(self).iter().enumerate() {
            shared::cidr_warnings(cidr, &path.index(i), &mut warnings);
        }
        warnings
    }

    fn fields(&self, fields: &mut Fields) {
        let unschedulable = spec(self).unschedulable == Some(true);
        fields.add("spec.unschedulable", if unschedulable { "true" } else { "false" });
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Status", "Whether the node is ready, and whether it takes new pods."),
            Column::string("Roles", "What the node's labels say that it is for."),
            Column::AGE,
            Column::string("Version", "The version of the node's agent."),
            Column::string("Internal-IP", "The node's first address inside the cluster.").wide(),
            Column::string("External-IP", "The node's first address outside the cluster.").wide(),
            Column::string("OS-Image", "The operating system, as it calls itself.").wide(),
            Column::string("Kernel-Version", "The kernel and its architecture.").wide(),
            Column::string("Container-Runtime", "The container runtime and its version.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let info = self.status.as_ref().and_then(|s| s.node_info.as_ref());
        let or_unknown = |text: Option<&String>| match text {
            Some(text) if !text.is_empty() => text.clone(),
            _ => "<unknown>".to_owned(),
        };
        let mut kernel = or_unknown(info.map(|i| &i.kernel_version));
        if let Some(architecture) = info.map(|i| &i.architecture).filter(|a| !a.is_empty()) {
            kernel.push_str(&format!(" ({architecture})"));
        }
        vec![
            meta::name_cell(&self.metadata),
            status_text(self).into(),
            roles(self).into(),
            meta::age_cell(&self.metadata, now),
            info.map(|i| i.kubelet_version.as_str()).unwrap_or_default().into(),
            address(self, "InternalIP").into(),
            address(self, "ExternalIP").into(),
            or_unknown(info.map(|i| &i.os_image)).into(),
            kernel.into(),
            or_unknown(info.map(|i| &i.container_runtime_version)).into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/b": "", "kubernetes.io/role": "a"}},
            "spec": {"podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
            "status": {
                "capacity": {"cpu": "2.0", "memory": "1024Mi", "pods": "110", "example.com/gpu": "1"},
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6.1", "architecture": "amd64",
                    "osImage": "", "containerRuntimeVersion": "c", "bootID": "", "kubeProxyVersion": "",
                    "machineID": "", "operatingSystem": "", "systemUUID": ""},
            },
        })
    }

    #[test]
    fn creation() {
        let gpu = "example.com/gpu";
        check_create_table::<Node>(
            &valid(),
            &[
                (
                    "/spec/taints/0/effect",
                    json!("Never"),
                    &[
                        r#"metadata.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#,
                    ],
                ),
                ("/spec/taints/0/effect", json!(""), &["metadata.taints[0].effect: Required value"]),
                (
                    "/spec/taints",
                    json!([{"key": "k", "effect": "NoExecute"}, {"key": "k", "effect": "NoExecute"}]),
                    &[
                        r#"metadata.taints[1]: Duplicate value: {"Key":"k","Value":"","Effect":"NoExecute","TimeAdded":null}: taints must be unique by key and effect pair"#,
                    ],
                ),
                (
                    "/spec/podCIDRs/0",
                    json!("10.1.0.0"),
                    &[
                        r#"spec.podCIDRs[0]: Invalid value: "10.1.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
                    ],
                ),
                (
                    "/spec/podCIDRs",
                    json!(["10.1.0.0/24", "10.2.0.0/24"]),
                    &[
                        r#"spec.podCIDRs: Invalid value: ["10.1.0.0/24","10.2.0.0/24"]: may specify no more than one CIDR for each IP family"#,
                    ],
                ),
                (
                    "/status/capacity/cpu",
                    json!("-1"),
                    // The allocatable resources are the capacity when they are not given.
                    &[
                        r#"status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0"#,
                        r#"status.allocatable.cpu: Invalid value: "-1": must be greater than or equal to 0"#,
                    ],
                ),
                (
                    "/status/allocatable",
                    json!({gpu: "1500m"}),
                    &[r#"status.allocatable.example.com/gpu: Invalid value: "1500m": must be an integer"#],
                ),
                (
                    "/status/declaredFeatures",
                    json!(["B", "A"]),
                    &[
                        r#"status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically"#,
                    ],
                ),
                (
                    "/status/declaredFeatures",
                    json!(["A/b", "A/b"]),
                    &[r#"status.declaredFeatures[1]: Duplicate value: "A/b""#],
                ),
                (
                    "/metadata/annotations",
                    json!({TAINTS_ANNOTATION: "nope"}),
                    &[
                        r#"metadata.annotations: Invalid value: "scheduler.alpha.kubernetes.io/taints": invalid character 'o' in literal null (expecting 'u')"#,
                    ],
                ),
                (
                    "/metadata/annotations",
                    json!({AVOID_PODS_ANNOTATION: r#"{"preferAvoidPods":[{"podSignature":{}}]}"#}),
                    &[
                        "metadata.annotations.scheduler.alpha.kubernetes.io/preferAvoidPods[0].PodSignature: Required value",
                    ],
                ),
                (
                    "/status/nodeInfo/swap",
                    json!({"capacity": 0}),
                    &["metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero"],
                ),
            ],
        );
    }

    #[test]
    fn defaults() {
        let node: Node = defaulted(&valid());
        let status = node.status.unwrap();
        assert_eq!(status.capacity, status.allocatable);
        let capacity = status.capacity.unwrap();
        assert_eq!((capacity["cpu"].0.as_str(), capacity["memory"].0.as_str()), ("2", "1Gi"));
        assert_eq!(node.spec.unwrap().pod_cidr.as_deref(), Some("10.1.0.0/24"));
        // The singular form wins.
        let node: Node = defaulted(&with(&valid(), "/spec/podCIDR", json!("10.9.0.0/24")));
        assert_eq!(node.spec.unwrap().pod_cidrs.unwrap(), ["10.9.0.0/24"]);
    }

    #[test]
    fn a_created_node_keeps_its_status_but_not_its_configuration() {
        let source = json!({"configMap": {"name": "a", "namespace": "b", "kubeletConfigKey": "c"}});
        let json = with(&valid(), "/spec/configSource", source.clone());
        let node: Node = created(&with(&json, "/status/config", json!({"active": source})));
        assert_eq!(node.spec.unwrap().config_source, None);
        let status = node.status.unwrap();
        assert_eq!(status.config, None);
        assert!(status.conditions.is_some());
    }

    #[test]
    fn changes() {
        let old = with(&valid(), "/spec/providerID", json!("p"));
        let cidr = "node updates may not change podCIDR except from \"\" to valid";
        let table: &[(&str, Value, &str, &[&str])] = &[
            ("/spec/unschedulable", json!(true), "", &[]),
            (
                "/spec/providerID",
                json!("q"),
                "",
                &[
                    "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
                ],
            ),
            ("/spec/podCIDRs", json!(["10.2.0.0/24"]), "", &[&format!("spec.podCIDRs: Forbidden: {cidr}")]),
            ("/spec/podCIDRs", json!([]), "", &[&format!("spec.podCIDRs: Forbidden: {cidr}")]),
            ("/spec/externalID", json!("x"), "", &["spec.externalID: Forbidden: may not be updated"]),
            // A write to the status leaves the rest alone.
            ("/spec/providerID", json!("q"), "status", &[]),
            (
                "/status/addresses",
                json!([{"type": "A", "address": "b"}, {"type": "A", "address": "b"}]),
                "status",
                &[r#"status.addresses[1]: Duplicate value: {"Type":"A","Address":"b"}"#],
            ),
            (
                "/status/capacity/cpu",
                json!("-1"),
                "status",
                &[
                    r#"status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0"#,
                    r#"status.allocatable.cpu: Invalid value: "-1": must be greater than or equal to 0"#,
                ],
            ),
        ];
        for (pointer, value, subresource, expected) in table {
            let errors = update_errors::<Node>(&old, &with(&old, pointer, value.clone()), subresource);
            assert_eq!(errors, *expected, "{pointer} = {value} {subresource}");
        }
        // Status and spec go separate ways.
        let stored: Node = defaulted(&old);
        let new = with(&with(&old, "/spec/unschedulable", json!(true)), "/status/phase", json!("Running"));
        let main = updated(&stored, &new, "");
        assert_eq!((main.spec.unwrap().unschedulable, main.status == stored.status), (Some(true), true));
        let status = updated(&stored, &new, "status");
        assert_eq!(
            (status.spec == stored.spec, status.status.unwrap().phase.as_deref()),
            (true, Some("Running"))
        );
    }

    #[test]
    fn columns() {
        assert_eq!(
            row::<Node>(&with(&valid(), "/spec/unschedulable", json!(true))),
            [
                "n1",
                "Ready,SchedulingDisabled",
                "a,b",
                "<unknown>",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "6.1 (amd64)",
                "c"
            ]
        );
        let cells = row::<Node>(&json!({"metadata": {"name": "n"}}));
        assert_eq!(cells[1..3], ["Unknown", "<none>"]);
        let down = with(&valid(), "/status/conditions/0/status", json!("False"));
        assert_eq!(row::<Node>(&down)[1], "NotReady");
    }

    #[test]
    fn warnings() {
        let json = with(&valid(), "/spec/externalID", json!("x"));
        assert_eq!(
            create_warnings::<Node>(&json),
            ["spec.externalID: this field is deprecated, and is unused by Kubernetes"]
        );
    }
}
