//! Where a pod may run: affinity, tolerations, topology spread, gates.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    PodSchedulingGate, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use skep_base::label;

use super::checks;
use super::view::{Names, items, text};
use crate::field::{Errors, Path};
use crate::meta::{self, LabelSelectorOptions};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const SELECTOR_MISSING: &str = "must not be specified when labelSelector is not set";

/// All affinities of a pod.
pub(super) fn validate_affinity(affinity: &Affinity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(node) = &affinity.node_affinity {
        validate_node_affinity(node, &path.child("nodeAffinity"), errors);
    }
    if let Some(pod) = &affinity.pod_affinity {
        validate_pod_terms(
            items(&pod.required_during_scheduling_ignored_during_execution),
            items(&pod.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAffinity"),
            errors,
        );
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        validate_pod_terms(
            items(&pod.required_during_scheduling_ignored_during_execution),
            items(&pod.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAntiAffinity"),
            errors,
        );
    }
}

fn validate_node_affinity(node: &NodeAffinity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
        validate_node_selector(required, &path.child(REQUIRED), errors);
    }
    let preferred_path = path.child(PREFERRED);
    let preferred = items(&node.preferred_during_scheduling_ignored_during_execution);
    for (i, term) in preferred.iter().enumerate() {
        let path = preferred_path.index(i);
        validate_weight(term.weight, &path, errors);
        // A preference with a label value that cannot exist is no error, it is just never met.
        validate_node_term(&term.preference, true, &path.child("preference"), errors);
    }
}

fn validate_weight(weight: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A selection of nodes by alternative terms.
pub fn validate_node_selector(selector: &NodeSelector, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        validate_node_term(term, false, &path.index(i), errors);
    }
}

fn validate_node_term(term: &NodeSelectorTerm, any_value: bool, path: &Path<'_>, errors: &mut Errors) {
    let expressions_path = path.child("matchExpressions");
    for (i, requirement) in items(&term.match_expressions).iter().enumerate() {
        validate_node_requirement(requirement, any_value, &expressions_path.index(i), errors);
    }
    let fields_path = path.child("matchFields");
    for (i, requirement) in items(&term.match_fields).iter().enumerate() {
        validate_node_field(requirement, &fields_path.index(i), errors);
    }
}

fn validate_node_requirement(
    requirement: &NodeSelectorRequirement,
    any_value: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let values = items(&requirement.values);
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&values_path, detail);
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(&values_path, detail);
            }
        }
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    checks::qualified_name(&requirement.key, &path.child("key"), errors);
    if !any_value {
        for (i, value) in values.iter().enumerate() {
            checks::label_value(value, &values_path.index(i), errors);
        }
    }
}

fn validate_node_field(requirement: &NodeSelectorRequirement, path: &Path<'_>, errors: &mut Errors) {
    let values = items(&requirement.values);
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                errors.required(
                    &values_path,
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
        }
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if requirement.key == "metadata.name" {
        for (i, value) in values.iter().enumerate() {
            checks::dns_subdomain(value, &values_path.index(i), errors);
        }
    } else {
        errors.invalid(&path.child("key"), &requirement.key, "not a valid field selector key");
    }
}

fn validate_pod_terms(
    required: &[PodAffinityTerm],
    preferred: &[WeightedPodAffinityTerm],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let required_path = path.child(REQUIRED);
    for (i, term) in required.iter().enumerate() {
        validate_pod_term(term, &required_path.index(i), errors);
    }
    let preferred_path = path.child(PREFERRED);
    for (i, term) in preferred.iter().enumerate() {
        let path = preferred_path.index(i);
        validate_weight(term.weight, &path, errors);
        validate_pod_term(&term.pod_affinity_term, &path.child("podAffinityTerm"), errors);
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    if let Some(selector) = &term.label_selector {
        meta::validate_label_selector(
            selector,
            LabelSelectorOptions::default(),
            &path.child("labelSelector"),
            errors,
        );
    }
    if let Some(selector) = &term.namespace_selector {
        meta::validate_label_selector(
            selector,
            LabelSelectorOptions::default(),
            &path.child("namespaceSelector"),
            errors,
        );
    }
    for name in items(&term.namespaces) {
        checks::dns_label(name, &path.child("namespace"), errors);
    }
    validate_label_keys(
        items(&term.match_label_keys),
        items(&term.mismatch_label_keys),
        term.label_selector.as_ref(),
        path,
        errors,
    );
    let key_path = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&key_path, "can not be empty");
    }
    checks::qualified_name(&term.topology_key, &key_path, errors);
}

/// Keys whose values are taken from the pod itself. Since the server adds them to the selector, a key that
/// the user put there too shows up twice.
fn validate_label_keys(
    matching: &[String],
    differing: &[String],
    selector: Option<&LabelSelector>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if matching.is_empty() && differing.is_empty() {
        return;
    }
    let matching_path = path.child("matchLabelKeys");
    let differing_path = path.child("mismatchLabelKeys");
    for (keys, path) in [(matching, &matching_path), (differing, &differing_path)] {
        if keys.is_empty() {
            continue;
        }
        if selector.is_none() {
            errors.forbidden(path, SELECTOR_MISSING);
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            checks::qualified_name(key, &path.index(i), errors);
        }
    }
    if let Some(selector) = selector {
        let positions: HashMap<&str, usize> =
            matching.iter().enumerate().map(|(i, k)| (k.as_str(), i)).collect();
        let mut seen = Names::new();
        for key in selector.match_labels.iter().flatten().map(|(k, _)| k) {
            seen.add(key);
        }
        for expression in items(&selector.match_expressions) {
            let key = expression.key.as_str();
            if let Some(i) = positions.get(key).filter(|_| seen.has(key)) {
                errors.invalid(&path.index(*i), key, "exists in both matchLabelKeys and labelSelector");
            }
            seen.add(key);
        }
    }
    let mut differs = Names::new();
    for key in differing {
        differs.add(key);
    }
    for (i, key) in matching.iter().enumerate().filter(|(_, k)| differs.has(k)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&matching_path.index(i), key, detail);
    }
}

/// Which taints a pod bears.
pub fn validate_tolerations(list: &[Toleration], path: &Path<'_>, errors: &mut Errors) {
    for (i, t) in list.iter().enumerate() {
        let path = path.index(i);
        let operator_path = path.child("operator");
        let (key, operator, value, effect) =
            (text(&t.key), text(&t.operator), text(&t.value), text(&t.effect));
        if !key.is_empty() {
            checks::qualified_name(key, &path.child("key"), errors);
        } else if operator != "Exists" {
            errors.invalid(
                &operator_path,
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if t.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), effect, detail);
        }
        match operator {
            "Equal" | "" => {
                if !label::is_value(value) {
                    errors.invalid(&operator_path, value, &label::value_errors(value).join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.invalid(&operator_path, value, detail);
                }
            }
            // Comparing taints is off in 1.36, but upstream names the operators.
            "Lt" | "Gt" => errors.not_supported(&operator_path, operator, &["Equal", "Exists", "Lt", "Gt"]),
            other => errors.not_supported(&operator_path, other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            checks::one_of(
                effect,
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
                &path.child("effect"),
                errors,
            );
        }
    }
}

/// How a pod's replicas are spread.
pub(super) fn validate_spread(list: &[TopologySpreadConstraint], path: &Path<'_>, errors: &mut Errors) {
    // Where each pair of key and action occurs last: it may not occur again after any element.
    let mut last = HashMap::new();
    if list.len() > 1 {
        for (i, c) in list.iter().enumerate() {
            last.insert((c.topology_key.as_str(), c.when_unsatisfiable.as_str()), i);
        }
    }
    for (i, c) in list.iter().enumerate() {
        let path = path.index(i);
        let (key, action) = (c.topology_key.as_str(), c.when_unsatisfiable.as_str());
        checks::positive(i64::from(c.max_skew), &path.child("maxSkew"), errors);
        if key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        checks::one_of(action, &actions, &path.child("whenUnsatisfiable"), errors);
        if last.get(&(key, action)).is_some_and(|at| *at != i) {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errors.duplicate(&path, format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = c.min_domains {
            let path = path.child("minDomains");
            checks::positive(i64::from(domains), &path, errors);
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&path, domains, &detail);
            }
        }
        for (policy, name) in
            [(&c.node_affinity_policy, "nodeAffinityPolicy"), (&c.node_taints_policy, "nodeTaintsPolicy")]
        {
            if let Some(policy) = policy {
                checks::one_of(policy, &["Honor", "Ignore"], &path.child(name), errors);
            }
        }
        validate_label_keys(items(&c.match_label_keys), &[], c.label_selector.as_ref(), &path, errors);
        if let Some(selector) = &c.label_selector {
            meta::validate_label_selector(
                selector,
                LabelSelectorOptions::default(),
                &path.child("labelSelector"),
                errors,
            );
        }
    }
}

/// What must be removed before a pod is scheduled.
pub(super) fn validate_gates(gates: &[PodSchedulingGate], path: &Path<'_>, errors: &mut Errors) {
    let mut names = Names::new();
    for (i, gate) in gates.iter().enumerate() {
        checks::qualified_name(&gate.name, &path.index(i), errors);
        if !names.add(&gate.name) {
            errors.duplicate(&path.index(i), &gate.name);
        }
    }
}
