//! What webhooks and policies share: which requests they are about.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, RuleWithOperations,
};

use crate::field::{Errors, Json, Path};
use crate::kinds::checks;
use crate::meta;

// In the order in which messages list them.
pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// Nothing is left to be changed when an object goes.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
/// The most conditions of one webhook or policy: each is evaluated on every request.
const MAX_MATCH_CONDITIONS: usize = 64;

/// A rule, whichever type it has.
struct Rule<'a> {
    groups: &'a [String],
    versions: &'a [String],
    operations: &'a [String],
    resources: &'a [String],
    scope: Option<&'a str>,
}

fn list(field: &Option<Vec<String>>) -> &[String] {
    field.as_deref().unwrap_or_default()
}

pub(super) fn validate_rule(rule: &RuleWithOperations, path: &Path<'_>, errors: &mut Errors) {
    let rule = Rule {
        groups: list(&rule.api_groups),
        versions: list(&rule.api_versions),
        operations: list(&rule.operations),
        resources: list(&rule.resources),
        scope: rule.scope.as_deref(),
    };
    validate(&rule, path, errors);
}

fn validate_named_rule(rule: &NamedRuleWithOperations, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, name) in list(&rule.resource_names).iter().enumerate() {
        let path = path.child("resourceNames");
        let path = path.index(i);
        for message in meta::path_segment_errors(name, false) {
            errors.invalid(&path, name, &message);
        }
        if !seen.insert(name) {
            errors.duplicate(&path, name);
        }
    }
    let rule = Rule {
        groups: list(&rule.api_groups),
        versions: list(&rule.api_versions),
        operations: list(&rule.operations),
        resources: list(&rule.resources),
        scope: rule.scope.as_deref(),
    };
    validate(&rule, path, errors);
}

/// A list that is not empty, and in which `*` stands alone.
fn all_or_some(items: &[String], what: &str, path: &Path<'_>, errors: &mut Errors) {
    if items.is_empty() {
        errors.required(path, "");
    }
    if items.len() > 1 && items.iter().any(|i| i == "*") {
        errors.invalid(path, Json(&items), &format!("if '*' is present, must not specify other {what}"));
    }
}

fn validate(rule: &Rule<'_>, path: &Path<'_>, errors: &mut Errors) {
    let operations = path.child("operations");
    all_or_some(rule.operations, "operations", &operations, errors);
    for (i, operation) in rule.operations.iter().enumerate() {
        if !OPERATIONS.contains(&operation.as_str()) {
            errors.not_supported(&operations.index(i), operation, OPERATIONS);
        }
    }
    all_or_some(rule.groups, "API groups", &path.child("apiGroups"), errors);
    let versions = path.child("apiVersions");
    all_or_some(rule.versions, "API versions", &versions, errors);
    for (i, _) in rule.versions.iter().enumerate().filter(|(_, v)| v.is_empty()) {
        errors.required(&versions.index(i), "");
    }
    validate_resources(rule.resources, &path.child("resources"), errors);
    if let Some(scope) = rule.scope.filter(|s| !SCOPES.contains(s)) {
        errors.not_supported(&path.child("scope"), scope, SCOPES);
    }
}

fn validate_resources(resources: &[String], path: &Path<'_>, errors: &mut Errors) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let mut all_of_resource = BTreeSet::new();
    let mut of_all_resources = BTreeSet::new();
    let mut plain = false;
    for (i, resource) in resources.iter().enumerate() {
        let path = path.index(i);
        if resource.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let Some((name, sub)) = resource.split_once('/') else {
            // The last one decides: upstream's choice.
            plain = resource != "*";
            continue;
        };
        if all_of_resource.contains(name) {
            let detail = format!("if '{name}/*' is present, must not specify {resource}");
            errors.invalid(&path, resource, &detail);
        }
        if of_all_resources.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.invalid(&path, resource, &detail);
        }
        if sub == "*" {
            all_of_resource.insert(name);
        }
        if name == "*" {
            of_all_resources.insert(sub);
        }
    }
    let has = |wanted: &str| resources.iter().any(|r| r == wanted);
    if resources.len() > 1 && has("*/*") {
        errors.invalid(path, Json(&resources), "if '*/*' is present, must not specify other resources");
    }
    if has("*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, Json(&resources), detail);
    }
}

/// Which objects a policy or a binding is about.
pub(super) fn validate_match_resources(resources: &MatchResources, path: &Path<'_>, errors: &mut Errors) {
    let policy_path = path.child("matchPolicy");
    match resources.match_policy.as_deref() {
        None => errors.required(&policy_path, ""),
        Some(policy) if !MATCH_POLICIES.contains(&policy) => {
            errors.not_supported(&policy_path, policy, MATCH_POLICIES);
        }
        Some(_) => {}
    }
    for (name, selector) in
        [("namespaceSelector", &resources.namespace_selector), ("objectSelector", &resources.object_selector)]
    {
        match selector {
            None => errors.required(&path.child(name), ""),
            Some(selector) => checks::validate_label_selector(selector, &path.child(name), errors),
        }
    }
    for (name, rules) in [
        ("resourceRules", &resources.resource_rules),
        ("excludeResourceRules", &resources.exclude_resource_rules),
    ] {
        let path = path.child(name);
        for (i, rule) in rules.iter().flatten().enumerate() {
            validate_named_rule(rule, &path.index(i), errors);
        }
    }
}

/// A policy that changes objects is not about their deletion.
pub(super) fn validate_mutating_operations(resources: &MatchResources, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("resourceRules");
    let path = path.child("operations");
    for operation in resources.resource_rules.iter().flatten().flat_map(|r| list(&r.operations)) {
        if !MUTATING_OPERATIONS.contains(&operation.as_str()) {
            errors.not_supported(&path, operation, MUTATING_OPERATIONS);
        }
    }
}

/// Conditions under which a webhook or policy is asked at all.
pub(super) fn validate_match_conditions(conditions: &[MatchCondition], path: &Path<'_>, errors: &mut Errors) {
    if conditions.len() > MAX_MATCH_CONDITIONS {
        errors.too_many(path, conditions.len(), MAX_MATCH_CONDITIONS);
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if condition.expression.trim().is_empty() {
            errors.required(&path.child("expression"), "");
        }
        let name_path = path.child("name");
        if condition.name.is_empty() {
            errors.required(&name_path, "");
            continue;
        }
        meta::validate_qualified_name(&condition.name, &name_path, errors);
        if !seen.insert(&condition.name) {
            errors.duplicate(&name_path, &condition.name);
        }
    }
}

/// What rules say that leave something out.
pub(super) fn default_match_resources(resources: &mut MatchResources) {
    resources.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = resources.resource_rules.iter_mut().flatten();
    for rule in rules.chain(resources.exclude_resource_rules.iter_mut().flatten()) {
        rule.scope.get_or_insert_with(|| "*".to_owned());
    }
}
