//! What may change in a pod, through the pod itself and through `ephemeralcontainers`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec, Toleration,
};
use serde::Serialize;

use super::security::APPARMOR_PREFIX;
use super::spec::{self, MIRROR_ANNOTATION, annotations};
use super::view::{items, text};
use crate::field::{Errors, Json, Path};
use crate::meta;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
                         `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                         tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                         previously negative)";
/// Lines of context around a difference.
const DIFF_CONTEXT: usize = 3;
/// Longest difference that is shown; more says nothing to anybody.
const DIFF_MAX_LINES: usize = 200;

/// The spec, or an empty one.
pub(super) fn spec_of(pod: &Pod) -> Cow<'_, PodSpec> {
    pod.spec.as_ref().map_or_else(|| Cow::Owned(PodSpec::default()), Cow::Borrowed)
}

/// An update of the pod itself.
pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    let (new_spec, old_spec) = (spec_of(new), spec_of(old));
    let (new_spec, old_spec) = (new_spec.as_ref(), old_spec.as_ref());
    spec::validate_pod(new, new_spec, errors);
    validate_annotations(new, old, errors);
    let path = Path::root("spec");
    for (name, new, old) in [
        ("containers", new_spec.containers.as_slice(), old_spec.containers.as_slice()),
        ("initContainers", items(&new_spec.init_containers), items(&old_spec.init_containers)),
    ] {
        if new.len() != old.len() {
            errors.forbidden(&path.child(name), "pod updates may not add or remove containers");
            return;
        }
    }
    if !validate_deadline(new_spec, old_spec, &path, errors) {
        return;
    }
    let (tolerations, old_tolerations) = (items(&new_spec.tolerations), items(&old_spec.tolerations));
    if tolerations != old_tolerations && !only_added(tolerations, old_tolerations) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&path.child("tolerations"), detail);
    }
    let gates = items(&new_spec.scheduling_gates);
    validate_gates(gates, items(&old_spec.scheduling_gates), &path.child("schedulingGates"), errors);
    if new_spec == old_spec {
        return;
    }
    let mut rest = new_spec.clone();
    let keep_images = |new: &mut [Container], old: &[Container]| {
        for (new, old) in new.iter_mut().zip(old) {
            new.image.clone_from(&old.image);
        }
    };
    keep_images(&mut rest.containers, &old_spec.containers);
    keep_images(rest.init_containers.as_deref_mut().unwrap_or_default(), items(&old_spec.init_containers));
    rest.active_deadline_seconds = old_spec.active_deadline_seconds;
    rest.scheduling_gates.clone_from(&old_spec.scheduling_gates);
    rest.tolerations.clone_from(&old_spec.tolerations);
    let old_grace_s = old_spec.termination_grace_period_seconds;
    if old_grace_s.is_some_and(|s| s < 0) && rest.termination_grace_period_seconds == Some(1) {
        rest.termination_grace_period_seconds = old_grace_s;
    }
    if !items(&old_spec.scheduling_gates).is_empty() {
        validate_gated(&mut rest, old_spec, &path, errors);
    }
    if !meta::same(&rest, old_spec) {
        let detail = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            difference(old_spec, &rest)
        );
        errors.forbidden(&path, &detail);
    }
}

/// The deadline may come, and come nearer. Says whether to go on.
fn validate_deadline(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(&path, new, "must be between 0 and 2147483647, inclusive");
            return false;
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(&path, Json(&None::<i64>), detail);
        }
        _ => {}
    }
    true
}

/// Whether every old toleration is still there, but for how long it tolerates.
fn only_added(new: &[Toleration], old: &[Toleration]) -> bool {
    fn key(t: &Toleration) -> (&str, &str, &str, &str) {
        (text(&t.key), text(&t.operator), text(&t.value), text(&t.effect))
    }
    let new: HashSet<_> = new.iter().map(key).collect();
    old.iter().all(|t| new.contains(&key(t)))
}

/// Gates are only ever removed.
fn validate_gates(
    new: &[PodSchedulingGate],
    old: &[PodSchedulingGate],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if new == old {
        return;
    }
    let old: HashSet<&str> = old.iter().map(|g| g.name.as_str()).collect();
    for (i, gate) in new.iter().enumerate().filter(|(_, g)| !old.contains(g.name.as_str())) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.index(i).child("name"), &detail);
    }
}

/// Before it is scheduled, a pod may become more particular about its node.
fn validate_gated(rest: &mut PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    if !meta::same(&rest.node_selector, &old.node_selector) {
        let kept = |(key, value): (&String, &String)| {
            rest.node_selector.as_ref().and_then(|s| s.get(key)) == Some(value)
        };
        if !old.node_selector.iter().flatten().all(kept) {
            errors.invalid(
                &path.child("nodeSelector"),
                Json(&rest.node_selector),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
        }
        rest.node_selector.clone_from(&old.node_selector);
    }
    let node_of = |affinity: &Option<Affinity>| affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let (new_node, old_node) = (node_of(&rest.affinity), node_of(&old.affinity));
    if meta::same(&new_node, &old_node) {
        return;
    }
    let affinity_path = path.child("affinity");
    validate_gated_node_affinity(
        new_node.as_ref(),
        old_node.as_ref(),
        &affinity_path.child("nodeAffinity"),
        errors,
    );
    let alone = |a: &Affinity| a.pod_affinity.is_none() && a.pod_anti_affinity.is_none();
    match &mut rest.affinity {
        None => rest.affinity = Some(Affinity { node_affinity: old_node, ..Default::default() }),
        Some(affinity) if old.affinity.is_none() && alone(affinity) => rest.affinity = None,
        Some(affinity) => affinity.node_affinity = old_node,
    }
}

fn required_terms(node: Option<&NodeAffinity>) -> &[NodeSelectorTerm] {
    let required = node.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    required.map_or(&[], |r| r.node_selector_terms.as_slice())
}

fn validate_gated_node_affinity(
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (new, old) = (required_terms(new), required_terms(old));
    let required = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = required.child("nodeSelectorTerms");
    if old.is_empty() {
        return;
    }
    if old.len() != new.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(&path, Json(&new), detail);
        return;
    }
    for (i, (new, old)) in new.iter().zip(old).enumerate() {
        let (new_labels, old_labels) = (items(&new.match_expressions), items(&old.match_expressions));
        let (new_fields, old_fields) = (items(&new.match_fields), items(&old.match_fields));
        // An empty term matches nothing: adding to it would make it match something.
        let opened = old_labels.is_empty()
            && old_fields.is_empty()
            && !(new_labels.is_empty() && new_fields.is_empty());
        if opened || !new_labels.starts_with(old_labels) || !new_fields.starts_with(old_fields) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&path.index(i), Json(new), detail);
        }
    }
}

/// Annotations that belong to the pod for good, and the others' values.
pub(super) fn validate_annotations(new: &Pod, old: &Pod, errors: &mut Errors) {
    let metadata = Path::root("metadata");
    let path = metadata.child("annotations");
    let (new_annotations, old_annotations) = (annotations(&new.metadata), annotations(&old.metadata));
    if new_annotations != old_annotations {
        let fixed = |key: &str| key.starts_with(APPARMOR_PREFIX) || key == MIRROR_ANNOTATION;
        let what = |key: &str| {
            if key == MIRROR_ANNOTATION { "mirror pod annotation" } else { "AppArmor annotations" }
        };
        for (key, value) in old_annotations.iter().filter(|(k, _)| fixed(k)) {
            if new_annotations.get(key) != Some(value) {
                errors.forbidden(&path.key(key), &format!("may not remove or update {}", what(key)));
            }
        }
        let added = |key: &str, all: &BTreeMap<String, String>| fixed(key) && !all.contains_key(key);
        for key in new_annotations.keys().filter(|k| added(k, old_annotations)) {
            errors.forbidden(&path.key(key), &format!("may not add {}", what(key)));
        }
    }
    spec::validate_pod_annotations(new_annotations, &spec_of(new), &path, errors);
}

/// Ephemeral containers come, and then stay as they are.
pub(super) fn validate_ephemeral_containers(new: &Pod, old: &Pod, errors: &mut Errors) {
    if annotations(&old.metadata).contains_key(MIRROR_ANNOTATION) {
        errors.forbidden(&Path::empty(), "static pods do not support ephemeral containers");
        return;
    }
    let (new_spec, old_spec) = (spec_of(new), spec_of(old));
    spec::validate_pod(new, &new_spec, errors);
    validate_annotations(new, old, errors);
    let spec_path = Path::root("spec");
    let path = spec_path.child("ephemeralContainers");
    let by_name: BTreeMap<&str, _> =
        items(&new_spec.ephemeral_containers).iter().map(|c| (c.name.as_str(), c)).collect();
    for old in items(&old_spec.ephemeral_containers) {
        match by_name.get(old.name.as_str()) {
            None => {
                let detail = format!("existing ephemeral containers {:?} may not be removed\n", old.name);
                errors.forbidden(&path, &detail);
            }
            Some(new) if !meta::same(*new, old) => {
                let detail = format!(
                    "existing ephemeral containers {:?} may not be changed\n{}",
                    old.name,
                    difference(old, *new)
                );
                errors.forbidden(&path, &detail);
            }
            Some(_) => {}
        }
    }
}

/// What differs between two values, as a unified diff of their JSON in one piece: from the first line that
/// differs to the last one.
fn difference<T: Serialize>(old: &T, new: &T) -> String {
    let pretty = |value: &T| serde_json::to_string_pretty(value).unwrap_or_default();
    let (old, new) = (pretty(old), pretty(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same_start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let longest_end = old.len().min(new.len()) - same_start;
    let same_end =
        old.iter().rev().zip(new.iter().rev()).take(longest_end).take_while(|(a, b)| a == b).count();
    let from = same_start.saturating_sub(DIFF_CONTEXT);
    let after = same_end.min(DIFF_CONTEXT);
    let range = |lines: &[&str]| format!("{},{}", from + 1, lines.len() - same_end + after - from);
    let mut lines = vec![format!("@@ -{} +{} @@", range(&old), range(&new))];
    let mut show = |sign: char, part: &[&str]| lines.extend(part.iter().map(|l| format!("{sign}{l}")));
    show(' ', &old[from..same_start]);
    show('-', &old[same_start..old.len() - same_end]);
    show('+', &new[same_start..new.len() - same_end]);
    show(' ', &old[old.len() - same_end..old.len() - same_end + after]);
    if lines.len() > DIFF_MAX_LINES {
        lines.truncate(DIFF_MAX_LINES);
        lines.push("…".to_owned());
    }
    lines.push(String::new());
    lines.join("\n")
}
