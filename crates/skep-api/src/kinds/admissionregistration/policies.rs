//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy, and their bindings.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    AuditAnnotation, MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    MutatingAdmissionPolicyBindingSpec, MutatingAdmissionPolicySpec, Mutation, ParamKind, ParamRef,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
    ValidatingAdmissionPolicyStatus, Validation, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::rules::{
    FAILURE_POLICIES, REINVOCATION_POLICIES, default_match_resources, validate_match_conditions,
    validate_match_resources, validate_mutating_operations,
};
use super::{CATEGORY, name_warnings};
use crate::context::Context;
use crate::field::{Bare, Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::kinds::core::shared;
use crate::meta;
use crate::table::{Cell, Column};

/// The most annotations that one policy adds to an audit event.
const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// Half of what an annotation's value may have: expressions that join texts make longer ones.
const MAX_AUDIT_EXPRESSION_BYTES: usize = 5 * 1024;

// In the order in which messages list them.
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
const NOT_FOUND_ACTIONS: &[&str] = &["Deny", "Allow"];
/// Words that CEL keeps for itself.
const CEL_RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

impl Kind for ValidatingAdmissionPolicy {
    fn info() -> KindInfo {
        KindInfo::of::<ValidatingAdmissionPolicy>().category(CATEGORY).conditional_update_only().status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        if let Some(resources) = &mut spec.match_constraints {
            default_match_resources(resources);
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(ValidatingAdmissionPolicyStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
            meta::keep_metadata(&mut self.metadata, &old.metadata);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_validating(self, false, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            validate_status(self.status.as_ref(), errors);
            return;
        }
        let conditions =
            |p: &Self| p.spec.as_ref().map(|s| (s.param_kind.clone(), s.match_conditions.clone()));
        validate_validating(self, conditions(self) == conditions(old), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, _: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        if cx.is_status() { Vec::new() } else { name_warnings(self.metadata.name.as_deref()) }
    }

    fn columns() -> Vec<Column> {
        policy_columns(Column::integer("Validations", "How many rules it has."))
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let count = spec.and_then(|s| s.validations.as_ref()).map_or(0, Vec::len);
        let kind = spec.and_then(|s| s.param_kind.as_ref());
        policy_row(&self.metadata, count, kind, now)
    }
}

impl Kind for MutatingAdmissionPolicy {
    fn info() -> KindInfo {
        KindInfo::of::<MutatingAdmissionPolicy>().category(CATEGORY).conditional_update_only()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        if let Some(resources) = &mut spec.match_constraints {
            default_match_resources(resources);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_mutating(self, false, errors);
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        let conditions =
            |p: &Self| p.spec.as_ref().map(|s| (s.param_kind.clone(), s.match_conditions.clone()));
        validate_mutating(self, conditions(self) == conditions(old), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        name_warnings(self.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        policy_columns(Column::integer("Mutations", "How many changes it makes."))
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let count = spec.and_then(|s| s.mutations.as_ref()).map_or(0, Vec::len);
        let kind = spec.and_then(|s| s.param_kind.as_ref());
        policy_row(&self.metadata, count, kind, now)
    }
}

impl Kind for ValidatingAdmissionPolicyBinding {
    fn info() -> KindInfo {
        KindInfo::of::<ValidatingAdmissionPolicyBinding>().category(CATEGORY).conditional_update_only()
    }

    fn set_defaults(&mut self) {
        if let Some(resources) = &mut self.spec.match_resources {
            default_match_resources(resources);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        let spec = &self.spec;
        let (reference, resources) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
        validate_binding(&spec.policy_name, reference, resources, &path, errors);
        validate_actions(&spec.validation_actions, &path.child("validationActions"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        name_warnings(self.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        binding_columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        binding_row(&self.metadata, &self.spec.policy_name, self.spec.param_ref.as_ref(), now)
    }
}

impl Kind for MutatingAdmissionPolicyBinding {
    fn info() -> KindInfo {
        KindInfo::of::<MutatingAdmissionPolicyBinding>().category(CATEGORY).conditional_update_only()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if let Some(resources) = &mut spec.match_resources {
            default_match_resources(resources);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        let none = MutatingAdmissionPolicyBindingSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&none);
        let name = spec.policy_name.as_deref().unwrap_or_default();
        validate_binding(name, spec.param_ref.as_ref(), spec.match_resources.as_ref(), &path, errors);
        if let Some(resources) = &spec.match_resources {
            validate_mutating_operations(resources, &path.child("matchResources"), errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        name_warnings(self.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        binding_columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let policy = spec.and_then(|s| s.policy_name.as_deref()).unwrap_or_default();
        binding_row(&self.metadata, policy, spec.and_then(|s| s.param_ref.as_ref()), now)
    }
}

fn policy_columns(count: Column) -> Vec<Column> {
    vec![Column::NAME, count, Column::string("ParamKind", "The kind of its parameters."), Column::AGE]
}

fn policy_row(metadata: &ObjectMeta, count: usize, kind: Option<&ParamKind>, now: Timestamp) -> Vec<Cell> {
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    let kind = kind.map(|k| format!("{}/{}", text(&k.api_version), text(&k.kind)));
    let kind = kind.unwrap_or_else(|| "<unset>".to_owned());
    vec![meta::name_cell(metadata), count.into(), kind.into(), meta::age_cell(metadata, now)]
}

fn binding_columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::string("PolicyName", "The policy that it puts into force."),
        Column::string("ParamRef", "The parameters of the policy."),
        Column::AGE,
    ]
}

fn binding_row(
    metadata: &ObjectMeta,
    policy: &str,
    reference: Option<&ParamRef>,
    now: Timestamp,
) -> Vec<Cell> {
    let filled = |field: &'_ Option<String>| field.clone().filter(|f| !f.is_empty());
    let shown = match reference {
        None => None,
        Some(r) => match (filled(&r.name), &r.selector) {
            // Whether parameters have namespaces is not known here.
            (Some(name), _) => {
                Some(format!("{}/{name}", filled(&r.namespace).unwrap_or_else(|| "*".to_owned())))
            }
            (None, Some(selector)) => Some(checks::selector_shown(selector)),
            (None, None) => None,
        },
    };
    let shown = shown.unwrap_or_else(|| "<unset>".to_owned());
    vec![meta::name_cell(metadata), policy.into(), shown.into(), meta::age_cell(metadata, now)]
}

fn required_one_of(value: Option<&str>, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    match value {
        None | Some("") => errors.required(path, ""),
        Some(value) if !allowed.contains(&value) => errors.not_supported(path, value, allowed),
        Some(_) => {}
    }
}

fn validate_failure_policy(policy: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("failurePolicy");
    match policy {
        None => errors.required(&path, ""),
        Some(policy) if !FAILURE_POLICIES.contains(&policy) => {
            errors.not_supported(&path, policy, FAILURE_POLICIES);
        }
        Some(_) => {}
    }
}

fn validate_constraints(resources: Option<&MatchResources>, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("matchConstraints");
    let Some(resources) = resources else {
        errors.required(&path, "");
        return;
    };
    validate_match_resources(resources, &path, errors);
    if resources.resource_rules.as_ref().is_none_or(Vec::is_empty) {
        errors.required(&path.child("resourceRules"), "");
    }
}

fn validate_validating(policy: &ValidatingAdmissionPolicy, conditions_kept: bool, errors: &mut Errors) {
    let none = ValidatingAdmissionPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&none);
    let path = Path::root("spec");
    validate_failure_policy(spec.failure_policy.as_deref(), &path, errors);
    if let Some(kind) = &spec.param_kind {
        validate_param_kind(kind, &path.child("paramKind"), errors);
    }
    validate_constraints(spec.match_constraints.as_ref(), &path, errors);
    if !conditions_kept {
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        validate_match_conditions(conditions, &path.child("matchConditions"), errors);
    }
    validate_variables(spec.variables.as_deref(), &path, errors);
    let validations = spec.validations.as_deref().unwrap_or_default();
    let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
    let (validations_path, annotations_path) = (path.child("validations"), path.child("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(&validations_path, detail);
        errors.required(&annotations_path, detail);
        return;
    }
    for (i, validation) in validations.iter().enumerate() {
        validate_validation(validation, &validations_path.index(i), errors);
    }
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.invalid(&annotations_path, Json(&annotations), &detail);
    }
    let mut seen = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let path = annotations_path.index(i);
        validate_annotation(&policy.metadata, annotation, &path, errors);
        if !seen.insert(&annotation.key) {
            errors.duplicate(&path.child("key"), &annotation.key);
        }
    }
}

fn validate_mutating(policy: &MutatingAdmissionPolicy, conditions_kept: bool, errors: &mut Errors) {
    let none = MutatingAdmissionPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&none);
    let path = Path::root("spec");
    validate_failure_policy(spec.failure_policy.as_deref(), &path, errors);
    if let Some(kind) = &spec.param_kind {
        validate_param_kind(kind, &path.child("paramKind"), errors);
    }
    validate_constraints(spec.match_constraints.as_ref(), &path, errors);
    if let Some(resources) = &spec.match_constraints {
        validate_mutating_operations(resources, &path.child("matchConstraints"), errors);
    }
    if !conditions_kept {
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        validate_match_conditions(conditions, &path.child("matchConditions"), errors);
    }
    validate_variables(spec.variables.as_deref(), &path, errors);
    let mutations = path.child("mutations");
    if spec.mutations.as_ref().is_none_or(Vec::is_empty) {
        errors.required(&mutations, "mutations must contain at least one item");
    }
    for (i, mutation) in spec.mutations.iter().flatten().enumerate() {
        validate_mutation(mutation, &mutations.index(i), errors);
    }
    let policy = spec.reinvocation_policy.as_deref();
    required_one_of(policy, REINVOCATION_POLICIES, &path.child("reinvocationPolicy"), errors);
}

fn validate_param_kind(kind: &ParamKind, path: &Path<'_>, errors: &mut Errors) {
    let version_path = path.child("apiVersion");
    let api_version = kind.api_version.as_deref().unwrap_or_default();
    match api_version.split('/').collect::<Vec<_>>().as_slice() {
        [""] => errors.required(&version_path, ""),
        [version] => validate_version(version, api_version, &version_path, errors),
        // A lone slash is neither group nor version.
        ["", ""] => errors.invalid(&version_path, api_version, "version must be specified"),
        [group, version] => {
            let wrong = meta::dns1123_subdomain_errors(group);
            if !group.is_empty() && !wrong.is_empty() {
                errors.invalid(&version_path, *group, &wrong.join(","));
            }
            validate_version(version, api_version, &version_path, errors);
        }
        _ => {
            let detail = format!("unexpected GroupVersion string: {api_version}");
            errors.invalid(&version_path, api_version, &detail);
        }
    }
    let kind_path = path.child("kind");
    let name = kind.kind.as_deref().unwrap_or_default();
    let wrong = meta::dns1035_label_errors(&name.to_lowercase());
    if name.is_empty() {
        errors.required(&kind_path, "");
    } else if !wrong.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.invalid(&kind_path, name, &detail);
    }
}

fn validate_version(version: &str, api_version: &str, path: &Path<'_>, errors: &mut Errors) {
    let wrong = meta::dns1035_label_errors(version);
    if version.is_empty() {
        errors.invalid(path, api_version, "version must be specified");
    } else if !wrong.is_empty() {
        errors.invalid(path, version, &wrong.join(","));
    }
}

fn validate_variables(variables: Option<&[Variable]>, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("variables");
    for (i, variable) in variables.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        if variable.name.trim().is_empty() {
            errors.required(&path.child("name"), "name is not specified");
        } else if !is_cel_identifier(&variable.name) {
            errors.invalid(&path.child("name"), &variable.name, "must be a valid CEL identifier");
        }
        if variable.expression.trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        }
    }
}

fn is_cel_identifier(name: &str) -> bool {
    let first = |b: u8| b == b'_' || b.is_ascii_alphabetic();
    name.bytes().next().is_some_and(first)
        && name.bytes().all(|b| first(b) || b.is_ascii_digit())
        && !CEL_RESERVED.contains(&name)
}

fn validate_validation(validation: &Validation, path: &Path<'_>, errors: &mut Errors) {
    if validation.expression.trim().is_empty() {
        errors.required(&path.child("expression"), "expression is not specified");
    }
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let expression = validation.message_expression.as_deref().unwrap_or_default();
    if blank(expression) {
        errors.invalid(&path.child("messageExpression"), expression, "must be non-empty if specified");
    }
    let message = validation.message.as_deref().unwrap_or_default();
    if blank(message) {
        errors.invalid(&path.child("message"), message, "must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&path.child("message"), message, "must not contain line breaks");
    }
    if let Some(reason) = validation.reason.as_deref().filter(|r| !REASONS.contains(r)) {
        errors.not_supported(&path.child("reason"), reason, REASONS);
    }
}

fn validate_annotation(
    metadata: &ObjectMeta,
    annotation: &AuditAnnotation,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let key_path = path.child("key");
    match metadata.name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => meta::validate_qualified_name(&format!("{name}/{}", annotation.key), &key_path, errors),
        None => errors.invalid(&key_path, &annotation.key, "requires metadata.name be non-empty"),
    }
    let expression_path = path.child("valueExpression");
    let expression = annotation.value_expression.trim();
    if expression.is_empty() {
        errors.required(&expression_path, "valueExpression is not specified");
    } else if expression.len() > MAX_AUDIT_EXPRESSION_BYTES {
        let detail = format!("must not exceed {MAX_AUDIT_EXPRESSION_BYTES} bytes in length");
        errors.required(&expression_path, &detail);
    }
}

fn validate_mutation(mutation: &Mutation, path: &Path<'_>, errors: &mut Errors) {
    let patch = mutation.json_patch.as_ref().map(|p| p.expression.as_deref());
    let apply = mutation.apply_configuration.as_ref().map(|a| a.expression.as_deref());
    let (wanted, other) = match mutation.patch_type.as_str() {
        "" => return errors.required(&path.child("patchType"), ""),
        "JSONPatch" => (("jsonPatch", patch), ("applyConfiguration", apply)),
        "ApplyConfiguration" => (("applyConfiguration", apply), ("jsonPatch", patch)),
        unknown => return errors.not_supported(&path.child("patchType"), unknown, PATCH_TYPES),
    };
    let wanted_path = path.child(wanted.0);
    match wanted.1 {
        None => {
            errors.required(
                &wanted_path,
                &format!("must be specified when patchType is {}", mutation.patch_type),
            );
        }
        Some(expression) if expression.unwrap_or_default().trim().is_empty() => {
            errors.required(&wanted_path.child("expression"), "");
        }
        Some(_) => {}
    }
    if other.1.is_some() {
        // The value is the field's name in braces: upstream's choice.
        let shown = format!("{:?}", format!("{{{}}}", other.0));
        let detail = format!("must not be specified when patchType is {}", mutation.patch_type);
        errors.invalid(&path.child(other.0), Bare(&shown), &detail);
    }
}

fn validate_binding(
    policy: &str,
    reference: Option<&ParamRef>,
    resources: Option<&MatchResources>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if policy.is_empty() {
        errors.required(&path.child("policyName"), "");
    } else {
        shared::dns_subdomain(policy, &path.child("policyName"), errors);
    }
    if let Some(reference) = reference {
        validate_param_ref(reference, &path.child("paramRef"), errors);
    }
    if let Some(resources) = resources {
        validate_match_resources(resources, &path.child("matchResources"), errors);
    }
}

fn validate_param_ref(reference: &ParamRef, path: &Path<'_>, errors: &mut Errors) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let name = reference.name.as_deref().filter(|n| !n.is_empty());
    if let Some(name) = name {
        for message in meta::path_segment_errors(name, false) {
            errors.invalid(&path.child("name"), name, &message);
        }
        if reference.selector.is_some() {
            errors.forbidden(&path.child("name"), EXCLUSIVE);
        }
    }
    if let Some(selector) = &reference.selector {
        checks::validate_label_selector(selector, &path.child("selector"), errors);
        if name.is_some() {
            errors.forbidden(&path.child("selector"), EXCLUSIVE);
        }
    }
    if name.is_none() && reference.selector.is_none() {
        errors.required(path, "one of name or selector must be specified");
    }
    let action = reference.parameter_not_found_action.as_deref();
    required_one_of(action, NOT_FOUND_ACTIONS, &path.child("parameterNotFoundAction"), errors);
}

fn validate_actions(actions: &[String], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, action) in actions.iter().enumerate() {
        if !ACTIONS.contains(&action.as_str()) {
            errors.not_supported(&path.index(i), action, ACTIONS);
        }
        if !seen.insert(action.as_str()) {
            errors.duplicate(&path.index(i), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errors.invalid(
            path,
            Json(&actions),
            "must not contain both Deny and Warn (repeating the same validation failure information in the API \
             response and headers serves no purpose)",
        );
    }
    if seen.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

fn validate_status(status: Option<&ValidatingAdmissionPolicyStatus>, errors: &mut Errors) {
    let Some(status) = status else { return };
    let path = Path::root("status");
    let warnings_path = path.child("typeChecking");
    let warnings_path = warnings_path.child("expressionWarnings");
    let warnings = status.type_checking.as_ref().and_then(|t| t.expression_warnings.as_deref());
    for (i, warning) in warnings.unwrap_or_default().iter().enumerate() {
        let path = warnings_path.index(i);
        if warning.warning.is_empty() {
            errors.required(&path.child("warning"), "");
        }
        if warning.field_ref.trim().is_empty() {
            errors.required(&path.child("fieldRef"), "");
        }
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    meta::validate_conditions(conditions, &path.child("conditions"), errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{
        check_create, check_update, defaulted, object, patched, row, update_errors, with_context,
    };
    use serde_json::{Value, json};

    fn constraints() -> Value {
        json!({"resourceRules": [
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
        ]})
    }

    fn validating() -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"matchConstraints": constraints(), "validations": [{"expression": "true"}]},
        })
    }

    fn mutating() -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {
                "matchConstraints": constraints(), "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
            },
        })
    }

    fn binding() -> Value {
        json!({
            "metadata": {"name": "b", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {
                "policyName": "p", "validationActions": ["Deny"],
                "paramRef": {"name": "x", "parameterNotFoundAction": "Deny"},
            },
        })
    }

    fn spec(patch: Value) -> Value {
        json!({"spec": patch})
    }

    #[test]
    fn what_both_policies_check() {
        let rule = &constraints()["resourceRules"][0];
        let with_rule =
            |patch: &Value| spec(json!({"matchConstraints": {"resourceRules": [patched(rule, patch)]}}));
        let kind =
            |version: &str, kind: &str| spec(json!({"paramKind": {"apiVersion": version, "kind": kind}}));
        let variable = |name: &str, e: &str| spec(json!({"variables": [{"name": name, "expression": e}]}));
        let table = [
            (
                spec(json!({"failurePolicy": "x"})),
                r#"spec.failurePolicy: Unsupported value: "x": supported values: "Fail", "Ignore""#,
            ),
            (spec(json!({"matchConstraints": null})), "spec.matchConstraints: Required value"),
            (
                spec(json!({"matchConstraints": {"resourceRules": []}})),
                "spec.matchConstraints.resourceRules: Required value",
            ),
            (
                with_rule(&json!({"resourceNames": ["a", "a"]})),
                r#"spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: "a""#,
            ),
            (
                with_rule(&json!({"resourceNames": ["a/b"]})),
                r#"spec.matchConstraints.resourceRules[0].resourceNames[0]: Invalid value: "a/b": may not contain '/'"#,
            ),
            (kind("a.io/v1", "Kind"), ""),
            (kind("", "Kind"), "spec.paramKind.apiVersion: Required value"),
            (
                kind("a/b/c", "Kind"),
                r#"spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
            ),
            (
                kind("a/", "Kind"),
                r#"spec.paramKind.apiVersion: Invalid value: "a/": version must be specified"#,
            ),
            (kind("A/v1", "Kind"), r#"spec.paramKind.apiVersion: Invalid value: "A": a lowercase"#),
            (kind("v1", ""), "spec.paramKind.kind: Required value"),
            (
                kind("v1", "a_b"),
                r#"spec.paramKind.kind: Invalid value: "a_b": may have mixed case, but should otherwise match: a DNS-1035"#,
            ),
            (variable("a", "1"), ""),
            (variable("", "1"), "spec.variables[0].name: Required value: name is not specified"),
            (
                variable("while", "1"),
                r#"spec.variables[0].name: Invalid value: "while": must be a valid CEL identifier"#,
            ),
            (variable("a", " "), "spec.variables[0].expression: Required value: expression is not specified"),
            (
                spec(json!({"matchConditions": [{"name": "a b", "expression": "true"}]})),
                r#"spec.matchConditions[0].name: Invalid value: "a b": name part must consist"#,
            ),
        ];
        check_create::<ValidatingAdmissionPolicy>(&validating(), &table);
        check_update::<ValidatingAdmissionPolicy>(&validating(), "", &table);
        check_create::<MutatingAdmissionPolicy>(&mutating(), &table);
        check_update::<MutatingAdmissionPolicy>(&mutating(), "", &table);
        let many: Vec<Value> =
            (0..65).map(|i| json!({"name": format!("c{i}"), "expression": "true"})).collect();
        let many = [(
            spec(json!({"matchConditions": many})),
            "spec.matchConditions: Too many: 65: must have at most 64 items",
        )];
        check_create::<MutatingAdmissionPolicy>(&mutating(), &many);
        check_create::<MutatingAdmissionPolicy>(
            &mutating(),
            &[(
                with_rule(&json!({"operations": ["DELETE"]})),
                r#"spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE""#,
            )],
        );
    }

    #[test]
    fn rules_of_policies() {
        let rule =
            |patch: Value| spec(json!({"validations": [patched(&json!({"expression": "true"}), &patch)]}));
        let audit =
            |key: &str, e: &str| spec(json!({"auditAnnotations": [{"key": key, "valueExpression": e}]}));
        let many: Vec<Value> =
            (0..21).map(|i| json!({"key": format!("k{i}"), "valueExpression": "''"})).collect();
        check_create::<ValidatingAdmissionPolicy>(
            &validating(),
            &[
                (
                    spec(json!({"validations": []})),
                    "[spec.validations: Required value: validations or auditAnnotations must contain at least one item, spec.auditAnnotations",
                ),
                (
                    rule(json!({"expression": " "})),
                    "spec.validations[0].expression: Required value: expression is not specified",
                ),
                (
                    rule(json!({"message": " "})),
                    r#"spec.validations[0].message: Invalid value: " ": must be non-empty if specified"#,
                ),
                (
                    rule(json!({"message": "a\nb"})),
                    r#"spec.validations[0].message: Invalid value: "a\nb": must not contain line breaks"#,
                ),
                (
                    rule(json!({"messageExpression": " "})),
                    r#"spec.validations[0].messageExpression: Invalid value: " ": must be"#,
                ),
                (
                    rule(json!({"reason": "x"})),
                    r#"spec.validations[0].reason: Unsupported value: "x": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge""#,
                ),
                (audit("a", "''"), ""),
                (
                    audit("a b", "''"),
                    r#"spec.auditAnnotations[0].key: Invalid value: "p/a b": name part must"#,
                ),
                (
                    audit("a", ""),
                    "spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not",
                ),
                (
                    audit("a", &"x".repeat(5121)),
                    "spec.auditAnnotations[0].valueExpression: Required value: must not exceed 5120",
                ),
                (
                    spec(
                        json!({"auditAnnotations": [{"key": "a", "valueExpression": "'a'"}, {"key": "a", "valueExpression": "'a'"}]}),
                    ),
                    r#"spec.auditAnnotations[1].key: Duplicate value: "a""#,
                ),
                (spec(json!({"auditAnnotations": many})), "spec.auditAnnotations: Invalid value: ["),
            ],
        );
        let mutation = |m: Value| spec(json!({"mutations": [m]}));
        check_create::<MutatingAdmissionPolicy>(
            &mutating(),
            &[
                (
                    spec(json!({"mutations": []})),
                    "spec.mutations: Required value: mutations must contain at least one item",
                ),
                (spec(json!({"reinvocationPolicy": null})), "spec.reinvocationPolicy: Required value"),
                (
                    spec(json!({"reinvocationPolicy": "x"})),
                    r#"spec.reinvocationPolicy: Unsupported value: "x": supported values: "IfNeeded", "Never""#,
                ),
                (mutation(json!({})), "spec.mutations[0].patchType: Required value"),
                (
                    mutation(json!({"patchType": "x"})),
                    r#"spec.mutations[0].patchType: Unsupported value: "x": supported values: "ApplyConfiguration", "JSONPatch""#,
                ),
                (
                    mutation(json!({"patchType": "JSONPatch"})),
                    "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                ),
                (
                    mutation(json!({"patchType": "JSONPatch", "jsonPatch": {}})),
                    "spec.mutations[0].jsonPatch.expression: Required value",
                ),
                (
                    mutation(
                        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "x"}}),
                    ),
                    "",
                ),
                (
                    mutation(
                        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "x"}, "jsonPatch": {}}),
                    ),
                    r#"spec.mutations[0].jsonPatch: Invalid value: "{jsonPatch}": must not be specified when patchType is ApplyConfiguration"#,
                ),
            ],
        );
    }

    #[test]
    fn bindings() {
        let table = [
            (spec(json!({"policyName": ""})), "spec.policyName: Required value"),
            (spec(json!({"policyName": "A"})), r#"spec.policyName: Invalid value: "A": a lowercase"#),
            (
                spec(json!({"paramRef": {"name": null}})),
                "spec.paramRef: Required value: one of name or selector must",
            ),
            (
                spec(json!({"paramRef": {"name": ".."}})),
                r#"spec.paramRef.name: Invalid value: "..": may not be '..'"#,
            ),
            (
                spec(json!({"paramRef": {"selector": {}}})),
                "[spec.paramRef.name: Forbidden: name and selector are mutually exclusive, spec.paramRef.selector: Forbidden",
            ),
            (
                spec(json!({"paramRef": {"parameterNotFoundAction": null}})),
                "spec.paramRef.parameterNotFoundAction: Required value",
            ),
            (
                spec(json!({"paramRef": {"parameterNotFoundAction": "x"}})),
                r#"spec.paramRef.parameterNotFoundAction: Unsupported value: "x": supported values: "Deny", "Allow""#,
            ),
            (
                spec(json!({"matchResources": {"matchPolicy": "x"}})),
                r#"spec.matchResources.matchPolicy: Unsupported value: "x""#,
            ),
        ];
        check_create::<ValidatingAdmissionPolicyBinding>(&binding(), &table);
        let of_mutating = patched(&binding(), &spec(json!({"validationActions": null})));
        check_create::<MutatingAdmissionPolicyBinding>(&of_mutating, &table);
        check_create::<ValidatingAdmissionPolicyBinding>(
            &binding(),
            &[
                (
                    spec(json!({"validationActions": []})),
                    "spec.validationActions: Required value: at least one validation action",
                ),
                (
                    spec(json!({"validationActions": ["Audit", "Audit"]})),
                    r#"spec.validationActions[1]: Duplicate value: "Audit""#,
                ),
                (
                    spec(json!({"validationActions": ["x"]})),
                    r#"spec.validationActions[0]: Unsupported value: "x": supported values: "Audit", "Deny", "Warn""#,
                ),
                (
                    spec(json!({"validationActions": ["Deny", "Warn"]})),
                    r#"spec.validationActions: Invalid value: ["Deny","Warn"]: must not contain both"#,
                ),
            ],
        );
        let deletes = json!({"matchResources": {"resourceRules": [
            {"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
        ]}});
        check_create::<MutatingAdmissionPolicyBinding>(
            &of_mutating,
            &[(
                spec(deletes),
                r#"spec.matchResources.resourceRules.operations: Unsupported value: "DELETE""#,
            )],
        );
        assert_eq!(row::<ValidatingAdmissionPolicyBinding>(&binding()), json!(["b", "p", "*/x", "60s"]));
        let named = patched(&binding(), &spec(json!({"paramRef": {"namespace": "n"}})));
        assert_eq!(row::<ValidatingAdmissionPolicyBinding>(&named)[2], "n/x");
        assert_eq!(row::<MutatingAdmissionPolicyBinding>(&json!({}))[2], "<unset>");
    }

    #[test]
    fn defaults_rows_generation_and_status() {
        let value = defaulted::<ValidatingAdmissionPolicy>(&validating());
        let resources = &value["spec"]["matchConstraints"];
        assert_eq!(value["spec"]["failurePolicy"], "Fail");
        assert_eq!(
            (&resources["matchPolicy"], &resources["objectSelector"]),
            (&json!("Equivalent"), &json!({}))
        );
        assert_eq!(resources["resourceRules"][0]["scope"], "*");
        assert_eq!(row::<ValidatingAdmissionPolicy>(&validating()), json!(["p", 1, "<unset>", "60s"]));
        let kind = spec(json!({"paramKind": {"apiVersion": "a.io/v1", "kind": "K"}}));
        assert_eq!(
            row::<MutatingAdmissionPolicy>(&patched(&mutating(), &kind)),
            json!(["p", 1, "a.io/v1/K", "60s"])
        );
        let old: ValidatingAdmissionPolicy = object(&validating());
        let new: ValidatingAdmissionPolicy = object(&patched(&validating(), &kind));
        assert_eq!(new.generation_changed(Some(&old)), Some(true));
        assert_eq!(old.generation_changed(Some(&old)), Some(false));
        let mut written = new;
        with_context("status", |cx| written.prepare_update(&old, cx));
        assert_eq!(written.spec, old.spec);
        let conditions = patched(&validating(), &spec(json!({"matchConditions": [{"name": "a"}]})));
        assert_eq!(update_errors::<ValidatingAdmissionPolicy>(&conditions, &conditions, ""), "");
        check_update::<ValidatingAdmissionPolicy>(
            &validating(),
            "status",
            &[
                (json!({"status": {"observedGeneration": 1}}), ""),
                (
                    json!({"status": {"typeChecking": {"expressionWarnings": [{"fieldRef": "spec.validations[0]"}]}}}),
                    "status.typeChecking.expressionWarnings[0].warning: Required value",
                ),
            ],
        );
    }
}
