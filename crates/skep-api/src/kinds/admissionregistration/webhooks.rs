//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::rules::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, validate_match_conditions, validate_rule,
};
use super::{CATEGORY, name_warnings};
use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::webhook::{self, DEFAULT_PORT};
use crate::meta::{self, LabelSelectorOptions};
use crate::table::{Cell, Column};

const DEFAULT_TIMEOUT_S: i32 = 10;
/// No request waits longer for a webhook.
const MAX_TIMEOUT_S: i32 = 30;
/// Versions of the question that this server can ask.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
// In the order in which messages list them.
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];

/// A webhook of either kind.
struct Hook<'a> {
    name: &'a str,
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    side_effects: &'a str,
    timeout_s: Option<i32>,
    namespace_selector: Option<&'a LabelSelector>,
    object_selector: Option<&'a LabelSelector>,
    reinvocation_policy: Option<&'a str>,
    client: &'a WebhookClientConfig,
    match_conditions: &'a [MatchCondition],
    review_versions: &'a [String],
}

macro_rules! hook {
    ($hook:expr, $reinvocation:expr) => {
        Hook {
            name: &$hook.name,
            rules: $hook.rules.as_deref().unwrap_or_default(),
            failure_policy: $hook.failure_policy.as_deref(),
            match_policy: $hook.match_policy.as_deref(),
            side_effects: &$hook.side_effects,
            timeout_s: $hook.timeout_seconds,
            namespace_selector: $hook.namespace_selector.as_ref(),
            object_selector: $hook.object_selector.as_ref(),
            reinvocation_policy: $reinvocation,
            client: &$hook.client_config,
            match_conditions: $hook.match_conditions.as_deref().unwrap_or_default(),
            review_versions: &$hook.admission_review_versions,
        }
    };
}

fn validating(configuration: &ValidatingWebhookConfiguration) -> Vec<Hook<'_>> {
    configuration.webhooks.iter().flatten().map(|hook: &ValidatingWebhook| hook!(hook, None)).collect()
}

fn mutating(configuration: &MutatingWebhookConfiguration) -> Vec<Hook<'_>> {
    let hooks = configuration.webhooks.iter().flatten();
    hooks.map(|hook: &MutatingWebhook| hook!(hook, hook.reinvocation_policy.as_deref())).collect()
}

macro_rules! default_hook {
    ($hook:expr) => {
        $hook.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        $hook.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
        $hook.namespace_selector.get_or_insert_default();
        $hook.object_selector.get_or_insert_default();
        $hook.timeout_seconds.get_or_insert(DEFAULT_TIMEOUT_S);
        for rule in $hook.rules.iter_mut().flatten() {
            rule.scope.get_or_insert_with(|| "*".to_owned());
        }
        if let Some(ServiceReference { port, .. }) = &mut $hook.client_config.service {
            port.get_or_insert(DEFAULT_PORT);
        }
    };
}

impl Kind for ValidatingWebhookConfiguration {
    fn info() -> KindInfo {
        KindInfo::of::<ValidatingWebhookConfiguration>().category(CATEGORY).conditional_update_only()
    }

    fn set_defaults(&mut self) {
        for hook in self.webhooks.iter_mut().flatten() {
            default_hook!(hook);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate(&validating(self), &Allowed::default(), errors);
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        let (new, old) = (validating(self), validating(old));
        validate(&new, &Allowed::by(&new, &old), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| self.webhooks != old.webhooks))
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        name_warnings(self.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let count = self.webhooks.as_ref().map_or(0, Vec::len);
        vec![meta::name_cell(&self.metadata), count.into(), meta::age_cell(&self.metadata, now)]
    }
}

impl Kind for MutatingWebhookConfiguration {
    fn info() -> KindInfo {
        KindInfo::of::<MutatingWebhookConfiguration>().category(CATEGORY).conditional_update_only()
    }

    fn set_defaults(&mut self) {
        for hook in self.webhooks.iter_mut().flatten() {
            default_hook!(hook);
            hook.reinvocation_policy.get_or_insert_with(|| "Never".to_owned());
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate(&mutating(self), &Allowed::default(), errors);
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        let (new, old) = (mutating(self), mutating(old));
        validate(&new, &Allowed::by(&new, &old), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| self.webhooks != old.webhooks))
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        name_warnings(self.metadata.name.as_deref())
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let count = self.webhooks.as_ref().map_or(0, Vec::len);
        vec![meta::name_cell(&self.metadata), count.into(), meta::age_cell(&self.metadata, now)]
    }
}

fn columns() -> Vec<Column> {
    vec![Column::NAME, Column::integer("Webhooks", "How many webhooks are configured."), Column::AGE]
}

/// What an update may keep although it is wrong, because it was there before the rule against it.
#[derive(Default)]
struct Allowed {
    match_conditions: bool,
    side_effects: bool,
    review_versions: bool,
    duplicate_names: bool,
    label_values: bool,
}

impl Allowed {
    fn by(new: &[Hook<'_>], old: &[Hook<'_>]) -> Allowed {
        let known =
            |hook: &Hook<'_>| hook.review_versions.iter().any(|v| REVIEW_VERSIONS.contains(&v.as_str()));
        let mut names = BTreeSet::new();
        let selector_fails = |selector: Option<&LabelSelector>| {
            let mut errors = Errors::new();
            if let Some(selector) = selector {
                let options = LabelSelectorOptions::default();
                meta::validate_label_selector(selector, options, &Path::empty(), &mut errors);
            }
            !errors.is_empty()
        };
        Allowed {
            match_conditions: new.len() == old.len()
                && new.iter().zip(old).all(|(n, o)| n.match_conditions == o.match_conditions),
            side_effects: old.iter().any(|h| !NO_SIDE_EFFECTS.contains(&h.side_effects)),
            review_versions: old.iter().any(|h| !known(h) && !h.review_versions.is_empty()),
            duplicate_names: old.iter().any(|h| !names.insert(h.name)),
            label_values: old
                .iter()
                .any(|h| selector_fails(h.namespace_selector) || selector_fails(h.object_selector)),
        }
    }
}

fn validate(hooks: &[Hook<'_>], allowed: &Allowed, errors: &mut Errors) {
    let path = Path::root("webhooks");
    let mut names = BTreeSet::new();
    for (i, hook) in hooks.iter().enumerate() {
        let path = path.index(i);
        validate_hook(hook, allowed, &path, errors);
        validate_review_versions(
            hook.review_versions,
            allowed,
            &path.child("admissionReviewVersions"),
            errors,
        );
        if !allowed.duplicate_names && !hook.name.is_empty() && !names.insert(hook.name) {
            errors.duplicate(&path.child("name"), hook.name);
        }
    }
}

fn one_of(value: Option<&str>, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|v| !allowed.contains(v)) {
        errors.not_supported(path, value, allowed);
    }
}

fn validate_hook(hook: &Hook<'_>, allowed: &Allowed, path: &Path<'_>, errors: &mut Errors) {
    meta::validate_fully_qualified_name(hook.name, &path.child("name"), errors);
    for (i, rule) in hook.rules.iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(i), errors);
    }
    one_of(hook.failure_policy, FAILURE_POLICIES, &path.child("failurePolicy"), errors);
    one_of(hook.match_policy, MATCH_POLICIES, &path.child("matchPolicy"), errors);
    let classes = if allowed.side_effects { SIDE_EFFECTS } else { NO_SIDE_EFFECTS };
    let side_effects = path.child("sideEffects");
    if hook.side_effects.is_empty() {
        errors.required(&side_effects, &format!("must specify one of {}", classes.join(", ")));
    } else {
        one_of(Some(hook.side_effects), classes, &side_effects, errors);
    }
    if let Some(timeout) = hook.timeout_s.filter(|t| !(1..=MAX_TIMEOUT_S).contains(t)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), timeout, detail);
    }
    let options = LabelSelectorOptions {
        allow_invalid_values: allowed.label_values,
        ..LabelSelectorOptions::default()
    };
    if let Some(selector) = hook.namespace_selector {
        meta::validate_label_selector(selector, options, &path.child("namespaceSelector"), errors);
    }
    if let Some(selector) = hook.object_selector {
        meta::validate_label_selector(selector, options, &path.child("objectSelector"), errors);
    }
    one_of(hook.reinvocation_policy, REINVOCATION_POLICIES, &path.child("reinvocationPolicy"), errors);
    let service = hook.client.service.as_ref().map(|s| webhook::Service {
        name: &s.name,
        namespace: &s.namespace,
        path: s.path.as_deref(),
        port: s.port.unwrap_or(DEFAULT_PORT),
    });
    webhook::validate_client(hook.client.url.as_deref(), service, &path.child("clientConfig"), errors);
    if !allowed.match_conditions {
        validate_match_conditions(hook.match_conditions, &path.child("matchConditions"), errors);
    }
}

fn validate_review_versions(versions: &[String], allowed: &Allowed, path: &Path<'_>, errors: &mut Errors) {
    if versions.is_empty() {
        errors.required(path, &format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
        return;
    }
    let known = webhook::validate_versions(versions, REVIEW_VERSIONS, path, errors);
    if !known && !allowed.review_versions {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path, Json(&versions), &detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{
        check_create, check_update, defaulted, object, patched, row, update_errors, with_context,
    };
    use serde_json::{Value, json};

    fn hook() -> Value {
        json!({
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://a.example.com/x"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        })
    }

    fn with(patch: &Value) -> Value {
        json!({"webhooks": [patched(&hook(), patch)]})
    }

    fn good() -> Value {
        json!({
            "metadata": {"name": "w", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "webhooks": [hook()],
        })
    }

    fn rule(patch: &Value) -> Value {
        with(&json!({"rules": [patched(&hook()["rules"][0], patch)]}))
    }

    #[test]
    fn validation() {
        let table = [
            (
                with(&json!({"name": "a"})),
                r#"webhooks[0].name: Invalid value: "a": should be a domain with at least"#,
            ),
            (with(&json!({"name": ""})), "webhooks[0].name: Required value"),
            (
                with(&json!({"sideEffects": "Some"})),
                r#"webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun""#,
            ),
            (
                with(&json!({"sideEffects": null})),
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (
                with(&json!({"timeoutSeconds": 31})),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                with(&json!({"failurePolicy": "x"})),
                r#"webhooks[0].failurePolicy: Unsupported value: "x": supported values: "Fail", "Ignore""#,
            ),
            (
                with(&json!({"matchPolicy": "x"})),
                r#"webhooks[0].matchPolicy: Unsupported value: "x": supported values: "Equivalent", "Exact""#,
            ),
            (
                with(&json!({"admissionReviewVersions": []})),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                with(&json!({"admissionReviewVersions": ["v2"]})),
                r#"webhooks[0].admissionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1"#,
            ),
            (
                with(&json!({"admissionReviewVersions": ["v1", "v1"]})),
                r#"webhooks[0].admissionReviewVersions[1]: Invalid value: "v1": duplicate version"#,
            ),
            (
                with(&json!({"clientConfig": {"service": {"name": "s", "namespace": "n"}}})),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                with(&json!({"matchConditions": [{"name": "a"}]})),
                "webhooks[0].matchConditions[0].expression: Required value",
            ),
            (
                with(
                    &json!({"matchConditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]}),
                ),
                r#"webhooks[0].matchConditions[1].name: Duplicate value: "a""#,
            ),
            (json!({"webhooks": [hook(), hook()]}), r#"webhooks[1].name: Duplicate value: "a.example.com""#),
            (rule(&json!({"operations": []})), "webhooks[0].rules[0].operations: Required value"),
            (
                rule(&json!({"operations": ["*", "CREATE"]})),
                r#"webhooks[0].rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations"#,
            ),
            (
                rule(&json!({"operations": ["GET"]})),
                r#"webhooks[0].rules[0].operations[0]: Unsupported value: "GET": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE""#,
            ),
            (
                rule(&json!({"apiGroups": ["*", "a"]})),
                r#"webhooks[0].rules[0].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other API groups"#,
            ),
            (rule(&json!({"apiVersions": [""]})), "webhooks[0].rules[0].apiVersions[0]: Required value"),
            (rule(&json!({"resources": []})), "webhooks[0].rules[0].resources: Required value"),
            (
                rule(&json!({"resources": ["pods/*", "pods/status"]})),
                r#"webhooks[0].rules[0].resources[1]: Invalid value: "pods/status": if 'pods/*' is present, must not specify pods/status"#,
            ),
            (
                rule(&json!({"resources": ["*/status", "pods/status"]})),
                r#"webhooks[0].rules[0].resources[1]: Invalid value: "pods/status": if '*/status' is present, must not"#,
            ),
            (
                rule(&json!({"resources": ["*", "pods"]})),
                r#"webhooks[0].rules[0].resources: Invalid value: ["*","pods"]: if '*' is present, must not specify other resources without"#,
            ),
            (
                rule(&json!({"resources": ["*/*", "pods"]})),
                r#"webhooks[0].rules[0].resources: Invalid value: ["*/*","pods"]: if '*/*' is present, must not specify other resources"#,
            ),
            (rule(&json!({"resources": ["*", "pods/status"]})), ""),
            (
                rule(&json!({"scope": "x"})),
                r#"webhooks[0].rules[0].scope: Unsupported value: "x": supported values: "*", "Cluster", "Namespaced""#,
            ),
            (
                with(&json!({"namespaceSelector": {"matchLabels": {"a": "-"}}})),
                r#"webhooks[0].namespaceSelector.matchLabels: Invalid value: "-""#,
            ),
        ];
        check_create::<ValidatingWebhookConfiguration>(&good(), &table);
        check_update::<ValidatingWebhookConfiguration>(&good(), "", &table);
        check_create::<MutatingWebhookConfiguration>(&good(), &table);
        check_create::<MutatingWebhookConfiguration>(
            &good(),
            &[(
                with(&json!({"reinvocationPolicy": "x"})),
                r#"webhooks[0].reinvocationPolicy: Unsupported value: "x": supported values: "IfNeeded", "Never""#,
            )],
        );
    }

    #[test]
    fn an_update_keeps_what_was_stored() {
        let both = [
            json!({"sideEffects": "Unknown"}),
            json!({"admissionReviewVersions": ["v2"]}),
            json!({"objectSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]}}),
            json!({"matchConditions": [{"name": "a"}]}),
        ];
        for patch in both {
            let old = patched(&good(), &with(&patch));
            let new = patched(&old, &with(&patched(&patch, &json!({"timeoutSeconds": 3}))));
            assert_eq!(update_errors::<MutatingWebhookConfiguration>(&new, &old, ""), "", "{patch}");
            assert_ne!(update_errors::<MutatingWebhookConfiguration>(&new, &good(), ""), "", "{patch}");
        }
    }

    #[test]
    fn defaults_row_generation_and_warnings() {
        let service =
            with(&json!({"clientConfig": {"url": null, "service": {"name": "s", "namespace": "n"}}}));
        let value = defaulted::<MutatingWebhookConfiguration>(&patched(&good(), &service));
        let hook = &value["webhooks"][0];
        assert_eq!(
            (
                &hook["failurePolicy"],
                &hook["matchPolicy"],
                &hook["timeoutSeconds"],
                &hook["reinvocationPolicy"]
            ),
            (&json!("Fail"), &json!("Equivalent"), &json!(10), &json!("Never"))
        );
        assert_eq!((&hook["namespaceSelector"], &hook["objectSelector"]), (&json!({}), &json!({})));
        assert_eq!(
            (&hook["rules"][0]["scope"], &hook["clientConfig"]["service"]["port"]),
            (&json!("*"), &json!(443))
        );
        assert_eq!(row::<ValidatingWebhookConfiguration>(&good()), json!(["w", 1, "60s"]));
        let old: ValidatingWebhookConfiguration = object(&good());
        let mut new = old.clone();
        new.metadata.name = Some("a.static.k8s.io".to_owned());
        assert_eq!(new.generation_changed(Some(&old)), Some(false));
        new.webhooks = None;
        assert_eq!(new.generation_changed(Some(&old)), Some(true));
        with_context("", |cx| {
            assert!(old.warnings(None, cx).is_empty());
            assert_eq!(new.warnings(None, cx).len(), 1);
        });
    }
}
