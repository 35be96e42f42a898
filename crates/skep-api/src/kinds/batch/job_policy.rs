//! When the pods of a job count as failed, when the job as succeeded, when pods are replaced.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};
use serde_json::{Value, json};

use super::indexes;
use crate::field::{Bare, Errors, Json, Path};
use crate::kinds::checks;
use crate::meta;

/// One pod for each index.
pub(super) const INDEXED: &str = "Indexed";
/// As many pods as there are completions, all alike.
pub(super) const NON_INDEXED: &str = "NonIndexed";

/// The most rules in a failure policy: each is tried for each failed pod.
const MAX_FAILURE_RULES: usize = 20;
/// The most exit codes in a rule: there are no more.
const MAX_EXIT_CODES: usize = 255;
/// The most condition patterns in a rule.
const MAX_CONDITION_PATTERNS: usize = 20;
/// The most rules in a success policy.
const MAX_SUCCESS_RULES: usize = 20;
/// The longest set of indexes in a success policy.
const SUCCEEDED_INDEXES_MAX_BYTES: usize = 64 * 1024;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];
const REPLACEMENTS: &[&str] = &["Failed", "TerminatingOrFailed"];

fn valid_values(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn one_of(value: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, &valid_values(allowed));
    } else if !allowed.contains(&value) {
        errors.not_supported(path, value, allowed);
    }
}

/// When a failed pod counts, is ignored, or ends the job.
pub(super) fn validate_failure(
    policy: &PodFailurePolicy,
    spec: &JobSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let rules_path = path.child("rules");
    if policy.rules.len() > MAX_FAILURE_RULES {
        errors.too_many(&rules_path, policy.rules.len(), MAX_FAILURE_RULES);
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        validate_failure_rule(rule, spec, &rules_path.index(i), errors);
    }
}

fn validate_failure_rule(rule: &PodFailurePolicyRule, spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let action_path = path.child("action");
    if rule.action == "FailIndex" {
        if spec.backoff_limit_per_index.is_none() {
            errors.invalid(&action_path, &rule.action, "requires the backoffLimitPerIndex to be set");
        }
    } else {
        one_of(&rule.action, ACTIONS, &action_path, errors);
    }
    if let Some(codes) = &rule.on_exit_codes {
        validate_exit_codes(codes, spec, &path.child("onExitCodes"), errors);
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if !patterns.is_empty() {
        validate_conditions(patterns, &path.child("onPodConditions"), errors);
    }
    match (rule.on_exit_codes.is_some(), patterns.is_empty()) {
        (true, false) => checks::invalid_without_value(
            path,
            "specifying both OnExitCodes and OnPodConditions is not supported",
            errors,
        ),
        (false, true) => checks::invalid_without_value(
            path,
            "specifying one of OnExitCodes and OnPodConditions is required",
            errors,
        ),
        _ => {}
    }
}

fn validate_conditions(
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if patterns.len() > MAX_CONDITION_PATTERNS {
        errors.too_many(path, patterns.len(), MAX_CONDITION_PATTERNS);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let path = path.index(i);
        meta::validate_qualified_name(&pattern.type_, &path.child("type"), errors);
        one_of(pattern.status.as_deref().unwrap_or_default(), STATUSES, &path.child("status"), errors);
    }
}

fn validate_exit_codes(
    codes: &PodFailurePolicyOnExitCodesRequirement,
    spec: &JobSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    one_of(&codes.operator, OPERATORS, &path.child("operator"), errors);
    if let Some(name) = &codes.container_name {
        let pod = spec.template.spec.as_ref();
        let containers = pod.map_or(&[][..], |p| p.containers.as_slice());
        let init = pod.and_then(|p| p.init_containers.as_deref()).unwrap_or_default();
        if !containers.iter().chain(init).any(|c| c.name == *name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name, detail);
        }
    }
    let values_path = path.child("values");
    if codes.values.is_empty() {
        errors.invalid(&values_path, Json(&codes.values), "at least one value is required");
    } else if codes.values.len() > MAX_EXIT_CODES {
        errors.too_many(&values_path, codes.values.len(), MAX_EXIT_CODES);
    }
    let mut seen = BTreeSet::new();
    for (i, &code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && code == 0 {
            errors.invalid(&values_path.index(i), code, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            errors.duplicate(&values_path.index(i), code);
        }
    }
    if !codes.values.is_sorted() {
        errors.invalid(&values_path, Json(&codes.values), "must be ordered");
    }
}

/// When an indexed job has succeeded before all its indexes have.
pub(super) fn validate_success(policy: &SuccessPolicy, spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.completion_mode.as_deref() != Some(INDEXED) {
        let shown = success_shown(Some(policy)).to_string();
        errors.invalid(path, Bare(&shown), "requires indexed completion mode");
        return;
    }
    let rules_path = path.child("rules");
    if policy.rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&rules_path, detail);
    }
    if policy.rules.len() > MAX_SUCCESS_RULES {
        errors.too_many(&rules_path, policy.rules.len(), MAX_SUCCESS_RULES);
    }
    // Without completions the job is refused anyway.
    let completions = spec.completions.unwrap_or_default();
    for (i, rule) in policy.rules.iter().enumerate() {
        validate_success_rule(rule, completions, &rules_path.index(i), errors);
    }
}

fn validate_success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path<'_>, errors: &mut Errors) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(set) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if set.len() > SUCCEEDED_INDEXES_MAX_BYTES {
            errors.too_long(&path, SUCCEEDED_INDEXES_MAX_BYTES);
        }
        match indexes::count(set, completions) {
            Ok(count) => total = count,
            Err(e) => errors.invalid(&path, set, &format!("error parsing succeededIndexes: {e}")),
        }
    }
    if let Some(count) = rule.succeeded_count {
        let path = path.child("succeededCount");
        checks::nonnegative(count, &path, errors);
        if count > completions {
            let detail =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&path, count, &detail);
        }
        if rule.succeeded_indexes.is_some() && count > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified \
                 succeededIndexes field)"
            );
            errors.invalid(&path, count, &detail);
        }
    }
}

/// When a pod that goes away is replaced.
pub(super) fn validate_replacement(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(policy) = spec.pod_replacement_policy.as_deref() else { return };
    let allowed = if spec.pod_failure_policy.is_some() { &REPLACEMENTS[..1] } else { REPLACEMENTS };
    if !allowed.contains(&policy) {
        errors.not_supported(path, policy, allowed);
    }
}

/// A failure policy as messages show it.
pub(super) fn failure_shown(policy: Option<&PodFailurePolicy>) -> Value {
    let Some(policy) = policy else { return Value::Null };
    let rules: Vec<Value> = policy
        .rules
        .iter()
        .map(|rule| {
            json!({
                "Action": rule.action,
                "OnExitCodes": rule.on_exit_codes.as_ref().map(|c| json!({
                    "ContainerName": c.container_name, "Operator": c.operator, "Values": c.values,
                })),
                "OnPodConditions": rule.on_pod_conditions.as_ref().map(|patterns| {
                    patterns.iter().map(|p| json!({"Type": p.type_, "Status": p.status})).collect::<Vec<_>>()
                }),
            })
        })
        .collect();
    json!({ "Rules": rules })
}

/// A success policy as messages show it.
pub(super) fn success_shown(policy: Option<&SuccessPolicy>) -> Value {
    let Some(policy) = policy else { return Value::Null };
    let rule = |rule: &SuccessPolicyRule| json!({"SucceededIndexes": rule.succeeded_indexes, "SucceededCount": rule.succeeded_count});
    json!({ "Rules": policy.rules.iter().map(rule).collect::<Vec<_>>() })
}
