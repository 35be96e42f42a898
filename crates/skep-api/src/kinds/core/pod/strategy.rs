//! What the server itself sets and keeps when a pod is written.

use std::collections::{BTreeMap, HashMap, VecDeque};

use jiff::Timestamp;

use k8s_openapi::api::core::v1::{
    Container, Pod, PodAffinityTerm, PodCondition, PodSpec, PodStatus, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, Time,
};

use super::view::{items, text};
use super::{resources, security};
use crate::context::Context;

/// A new pod: nothing has happened to it yet.
pub(super) fn prepare_create(pod: &mut Pod, now: Timestamp) {
    let qos_class = Some(resources::qos_class(pod).to_owned());
    let mut status = PodStatus { phase: Some("Pending".to_owned()), qos_class, ..Default::default() };
    let Some(spec) = &mut pod.spec else {
        pod.status = Some(status);
        return;
    };
    if !items(&spec.scheduling_gates).is_empty() {
        status.conditions = Some(vec![PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("SchedulingGated".to_owned()),
            message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
            last_transition_time: Some(Time(now)),
            ..Default::default()
        }]);
    }
    pod.status = Some(status);
    if let Some(labels) = &pod.metadata.labels {
        merge_label_keys(spec, labels);
    }
    if let Some(annotations) = &pod.metadata.annotations {
        apparmor_fields(spec, annotations);
    }
}

/// Adds "like this pod" and "unlike this pod", which are given by keys alone, to the selectors.
fn merge_label_keys(spec: &mut PodSpec, labels: &BTreeMap<String, String>) {
    let merge = |selector: &mut Option<LabelSelector>, keys: &Option<Vec<String>>, operator: &str| {
        let Some(selector) = selector else { return };
        for key in items(keys) {
            let Some(value) = labels.get(key) else { continue };
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    };
    let term = |t: &mut PodAffinityTerm| {
        merge(&mut t.label_selector, &t.match_label_keys, "In");
        merge(&mut t.label_selector, &t.mismatch_label_keys, "NotIn");
    };
    if let Some(affinity) = &mut spec.affinity {
        if let Some(pod) = &mut affinity.pod_affinity {
            let preferred = pod.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred.for_each(|w| term(&mut w.pod_affinity_term));
            pod.required_during_scheduling_ignored_during_execution.iter_mut().flatten().for_each(term);
        }
        if let Some(pod) = &mut affinity.pod_anti_affinity {
            let preferred = pod.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred.for_each(|w| term(&mut w.pod_affinity_term));
            pod.required_during_scheduling_ignored_during_execution.iter_mut().flatten().for_each(term);
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        merge(&mut constraint.label_selector, &constraint.match_label_keys, "In");
    }
}

/// Copies AppArmor profiles from annotations, where they were before 1.30, to fields.
fn apparmor_fields(spec: &mut PodSpec, annotations: &BTreeMap<String, String>) {
    if annotations.is_empty() || security::is_windows(spec) {
        return;
    }
    let pod = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    let copy = |name: &str, context: &mut Option<SecurityContext>| {
        if security::own_apparmor(context.as_ref()).is_some() {
            return;
        }
        let Some(annotation) = annotations.get(&format!("{}{name}", security::APPARMOR_PREFIX)) else {
            return;
        };
        let profile = security::apparmor_from_annotation(annotation);
        if profile.is_some() && profile != pod {
            context.get_or_insert_default().app_armor_profile = profile;
        }
    };
    for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        copy(&c.name, &mut c.security_context);
    }
    for c in spec.ephemeral_containers.iter_mut().flatten() {
        copy(&c.name, &mut c.security_context);
    }
}

/// Keeps what a write may not touch.
pub(super) fn prepare_update(pod: &mut Pod, old: &Pod, cx: &Context<'_>) {
    match cx.subresource {
        "status" => {
            pod.spec.clone_from(&old.spec);
            // A status says nothing about the deletion: it stays what it is.
            pod.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
            pod.metadata.owner_references.clone_from(&old.metadata.owner_references);
            keep_status(pod, old);
        }
        "ephemeralcontainers" => {
            let ephemeral = pod.spec.as_mut().and_then(|s| s.ephemeral_containers.take());
            pod.spec.clone_from(&old.spec);
            if let Some(spec) = &mut pod.spec {
                spec.ephemeral_containers = ephemeral;
            }
            pod.status.clone_from(&old.status);
            keep_meta(&mut pod.metadata, &old.metadata);
        }
        "resize" => keep_all_but_resources(pod, old),
        _ => pod.status.clone_from(&old.status),
    }
}

/// The metadata that writes to a part of an object do not touch.
fn keep_meta(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    new.generation = old.generation;
    new.self_link.clone_from(&old.self_link);
    new.labels.clone_from(&old.labels);
    new.annotations.clone_from(&old.annotations);
    new.finalizers.clone_from(&old.finalizers);
    new.owner_references.clone_from(&old.owner_references);
}

/// The quality of service is never lost, nor which generation a part of the status is about.
fn keep_status(pod: &mut Pod, old: &Pod) {
    let status = pod.status.get_or_insert_default();
    let Some(old) = &old.status else { return };
    if text(&status.qos_class).is_empty() {
        status.qos_class.clone_from(&old.qos_class);
    }
    if status.observed_generation.unwrap_or(0) == 0 {
        status.observed_generation = old.observed_generation;
    }
    // Several conditions may have the same type; they are matched in order.
    let mut generations: HashMap<&str, VecDeque<Option<i64>>> = HashMap::new();
    for condition in items(&old.conditions) {
        generations.entry(&condition.type_).or_default().push_back(condition.observed_generation);
    }
    for condition in status.conditions.iter_mut().flatten() {
        let old = generations.get_mut(condition.type_.as_str()).and_then(VecDeque::pop_front);
        if condition.observed_generation.unwrap_or(0) == 0 {
            condition.observed_generation = old.flatten();
        }
    }
}

/// A resize changes resources and how they are changed. When containers come, go or move, the pod is
/// left as it came, for validation to say so.
fn keep_all_but_resources(pod: &mut Pod, old: &Pod) {
    let (Some(spec), Some(old_spec)) = (&mut pod.spec, &old.spec) else { return };
    let (old_containers, old_init) = (&old_spec.containers, items(&old_spec.init_containers));
    if spec.containers.len() != old_containers.len() || items(&spec.init_containers).len() != old_init.len() {
        return;
    }
    let merged = |new: Vec<Container>, old: &[Container]| -> Vec<Container> {
        if new.iter().zip(old).any(|(n, o)| n.name != o.name) {
            return new;
        }
        let resized = |(n, o): (Container, &Container)| Container {
            resources: n.resources,
            resize_policy: n.resize_policy,
            ..o.clone()
        };
        new.into_iter().zip(old).map(resized).collect()
    };
    let resources = spec.resources.take();
    let containers = merged(std::mem::take(&mut spec.containers), old_containers);
    let init = spec.init_containers.take().map(|init| merged(init, old_init));
    *spec = PodSpec { containers, init_containers: init, resources, ..old_spec.clone() };
    pod.status.clone_from(&old.status);
    keep_meta(&mut pod.metadata, &old.metadata);
}

/// How long a pod may take to end when it is deleted: what the request says, else what the pod says, but no
/// time at all for a pod that runs nowhere.
#[must_use]
pub fn deletion_grace_s(pod: &Pod, requested_s: Option<i64>) -> i64 {
    let spec = pod.spec.as_ref();
    let own = spec.and_then(|s| s.termination_grace_period_seconds);
    let is_bound = spec.is_some_and(|s| !text(&s.node_name).is_empty());
    let phase = pod.status.as_ref().map_or("", |s| text(&s.phase));
    match requested_s.or(own).unwrap_or(0) {
        _ if !is_bound || matches!(phase, "Failed" | "Succeeded") => 0,
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}
