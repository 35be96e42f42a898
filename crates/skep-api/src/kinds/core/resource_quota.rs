//! ResourceQuota.

use std::collections::BTreeSet;
use std::fmt::Write;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus};

use super::resources::{self, ResourceList};
use super::shared;
use crate::context::Context;
use crate::field::{Bare, Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

const BEST_EFFORT: &str = "BestEffort";
const NOT_BEST_EFFORT: &str = "NotBestEffort";
const TERMINATING: &str = "Terminating";
const NOT_TERMINATING: &str = "NotTerminating";
const PRIORITY_CLASS: &str = "PriorityClass";
const AFFINITY: &str = "CrossNamespacePodAffinity";
const VOLUME_ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";

/// Of each pair, a quota can have one.
const CONFLICTS: &[(&str, &str)] = &[(BEST_EFFORT, NOT_BEST_EFFORT), (TERMINATING, NOT_TERMINATING)];

const POD_AMOUNTS: &[&str] =
    &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

fn is_scope(scope: &str) -> bool {
    matches!(
        scope,
        BEST_EFFORT
            | NOT_BEST_EFFORT
            | TERMINATING
            | NOT_TERMINATING
            | PRIORITY_CLASS
            | AFFINITY
            | VOLUME_ATTRIBUTES_CLASS
    )
}

/// Whether objects of a scope use a resource at all.
fn scope_has(scope: &str, resource: &str) -> bool {
    match scope {
        TERMINATING | NOT_TERMINATING | NOT_BEST_EFFORT | PRIORITY_CLASS | AFFINITY => {
            resource == "pods" || POD_AMOUNTS.contains(&resource)
        }
        BEST_EFFORT => resource == "pods",
        VOLUME_ATTRIBUTES_CLASS => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// The limited resources that a scope has nothing to do with.
fn foreign<'a>(spec: &'a ResourceQuotaSpec, scope: &'a str) -> impl Iterator<Item = &'a String> {
    let resources = spec.hard.iter().flatten().map(|(resource, _)| resource);
    resources.filter(move |r| resources::is_quota_resource(r) && !scope_has(scope, r))
}

fn scopes(spec: &ResourceQuotaSpec) -> &[String] {
    spec.scopes.as_deref().unwrap_or_default()
}

fn validate_scopes(spec: &ResourceQuotaSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("scopes");
    let scopes = scopes(spec);
    for scope in scopes {
        if !is_scope(scope) {
            errors.invalid(&path, Json(&scopes), "unsupported scope");
        }
        for _ in foreign(spec, scope) {
            errors.invalid(&path, Json(&scopes), "unsupported scope applied to resource");
        }
    }
    let has = |scope: &str| scopes.iter().any(|s| s == scope);
    for _ in CONFLICTS.iter().filter(|(a, b)| has(a) && has(b)) {
        errors.invalid(&path, Json(&scopes), "conflicting scopes");
    }
}

/// A scope selector as upstream shows it, with the names of Go's fields.
fn shown_selector(spec: &ResourceQuotaSpec) -> String {
    let selector = spec.scope_selector.as_ref();
    let terms: Vec<String> = selector
        .and_then(|s| s.match_expressions.as_ref())
        .into_iter()
        .flatten()
        .map(|t| {
            let values = serde_json::to_string(&t.values).unwrap_or_default();
            format!(r#"{{"ScopeName":{:?},"Operator":{:?},"Values":{values}}}"#, t.scope_name, t.operator)
        })
        .collect();
    format!(r#"{{"MatchExpressions":[{}]}}"#, terms.join(","))
}

fn validate_scope_selector(spec: &ResourceQuotaSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(selector) = &spec.scope_selector else { return };
    let path = path.child("scopeSelector");
    let path = path.child("matchExpressions");
    let terms = selector.match_expressions.as_deref().unwrap_or_default();
    for term in terms {
        let scope = term.scope_name.as_str();
        let values = term.values.as_deref().unwrap_or_default();
        if !is_scope(scope) {
            errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in foreign(spec, scope) {
            let shown = shown_selector(spec);
            errors.invalid(&path, Bare(&shown), "unsupported scope applied to resource");
        }
        let exists_only =
            matches!(scope, BEST_EFFORT | NOT_BEST_EFFORT | TERMINATING | NOT_TERMINATING | AFFINITY);
        if exists_only && term.operator != "Exists" {
            errors.invalid(
                &path.child("operator"),
                &term.operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                 ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                 ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        match term.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                &path.child("values"),
                Json(&values),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
    }
    let has = |scope: &str| terms.iter().any(|t| t.scope_name == scope);
    for _ in CONFLICTS.iter().filter(|(a, b)| has(a) && has(b)) {
        errors.invalid(&path, Json(&spec.scopes), "conflicting scopes");
    }
}

fn validate_list(list: Option<&ResourceList>, path: &Path<'_>, errors: &mut Errors) {
    for (resource, text) in list.into_iter().flatten() {
        let path = path.key(resource);
        resources::validate_quota_name(resource, &path, errors);
        resources::validate_quantity(resource, text, &path, errors);
    }
}

fn validate_spec(quota: &ResourceQuota, errors: &mut Errors) {
    let Some(spec) = &quota.spec else { return };
    let path = Path::root("spec");
    validate_list(spec.hard.as_ref(), &path.child("hard"), errors);
    validate_scopes(spec, &path, errors);
    validate_scope_selector(spec, &path, errors);
}

fn validate_status(quota: &ResourceQuota, errors: &mut Errors) {
    let Some(status) = &quota.status else { return };
    let path = Path::root("status");
    validate_list(status.hard.as_ref(), &path.child("hard"), errors);
    validate_list(status.used.as_ref(), &path.child("used"), errors);
}

/// What is used of what there is, requests and limits apart.
fn usage_texts(status: &ResourceQuotaStatus) -> (String, String) {
    let (mut requests, mut limits) = (String::new(), String::new());
    for (resource, hard) in status.hard.iter().flatten() {
        let text = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
        let used = status.used.as_ref().and_then(|u| u.get(resource)).map_or("0", |q| q.0.as_str());
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{resource}: {used}/{}", hard.0);
    }
    (requests, limits)
}

impl Kind for ResourceQuota {
    fn info() -> KindInfo {
        KindInfo::of::<ResourceQuota>().short("quota").status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        resources::canonicalize(&mut spec.hard);
        spec.scopes.take_if(|s| s.is_empty());
        let status = self.status.get_or_insert_default();
        resources::canonicalize(&mut status.hard);
        resources::canonicalize(&mut status.used);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(ResourceQuotaStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_spec(self, errors);
        validate_status(self, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            if self.metadata.resource_version.as_ref().is_none_or(String::is_empty) {
                errors.required(&Path::root("resourceVersion"), "");
            }
            validate_status(self, errors);
            return;
        }
        validate_spec(self, errors);
        let set = |quota: &ResourceQuota| -> BTreeSet<String> {
            quota.spec.as_ref().map(scopes).unwrap_or_default().iter().cloned().collect()
        };
        if set(self) != set(old) {
            let now = self.spec.as_ref().and_then(|s| s.scopes.as_ref());
            errors.invalid(&Path::root("spec").child("scopes"), Json(&now), shared::IMMUTABLE);
        }
    }

    fn warnings(&self, old: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let hard = self.spec.as_ref().and_then(|s| s.hard.as_ref());
        let (None, Some(hard)) = (old, hard) else { return Vec::new() };
        let mut warnings = Vec::new();
        for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let mut request_name = format!("requests.{resource}");
            if !hard.contains_key(&request_name) && matches!(resource, "cpu" | "memory") {
                resource.clone_into(&mut request_name);
            }
            let limit_name = format!("limits.{resource}");
            if let (Some(request), Some(limit)) = (hard.get(&request_name), hard.get(&limit_name))
                && resources::amount(Some(hard), &request_name) > resources::amount(Some(hard), &limit_name)
            {
                warnings.push(format!(
                    "ResourceQuota {request_name} ({}) should be less than {limit_name} ({})",
                    request.0, limit.0
                ));
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Request", "What is used and what may be used, limits apart."),
            Column::string("Limit", "What is used and what may be used of limits."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let (requests, limits) = self.status.as_ref().map(usage_texts).unwrap_or_default();
        vec![
            meta::name_cell(&self.metadata),
            requests.into(),
            limits.into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({"metadata": {"name": "q", "resourceVersion": "1"},
            "spec": {"hard": {"cpu": "1.0", "pods": "10", "limits.memory": "1024Mi"}, "scopes": ["NotTerminating"]}})
    }

    #[test]
    fn creation() {
        check_create_table::<ResourceQuota>(
            &valid(),
            &[
                (
                    "/spec/hard/space",
                    json!("1"),
                    &[
                        r#"spec.hard[space]: Invalid value: "space": must be a standard resource type or fully qualified"#,
                        r#"spec.hard[space]: Invalid value: "space": must be a standard resource for quota"#,
                    ],
                ),
                ("/spec/hard/count~1deployments.apps", json!("1"), &[]),
                (
                    "/spec/hard/pods",
                    json!("-1"),
                    &[r#"spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0"#],
                ),
                (
                    "/spec/hard/pods",
                    json!("1500m"),
                    &[r#"spec.hard[pods]: Invalid value: "1500m": must be an integer"#],
                ),
                (
                    "/spec/scopes",
                    json!(["Big"]),
                    &[r#"spec.scopes: Invalid value: ["Big"]: unsupported scope"#],
                ),
                (
                    "/spec/scopes",
                    json!(["BestEffort"]),
                    &[
                        r#"spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource"#,
                        r#"spec.scopes: Invalid value: ["BestEffort"]: unsupported scope applied to resource"#,
                    ],
                ),
                (
                    "/spec/scopes",
                    json!(["Terminating", "NotTerminating"]),
                    &[r#"spec.scopes: Invalid value: ["Terminating","NotTerminating"]: conflicting scopes"#],
                ),
                (
                    "/spec/scopeSelector",
                    json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": []}]}),
                    &[
                        "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                    ],
                ),
                (
                    "/spec/scopeSelector",
                    json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "Exists", "values": ["a"]}]}),
                    &[
                        r#"spec.scopeSelector.matchExpressions.values: Invalid value: ["a"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"#,
                    ],
                ),
                (
                    "/spec/scopeSelector",
                    json!({"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "Like"}]}),
                    &[
                        r#"spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"VolumeAttributesClass","Operator":"Like","Values":null}]}: unsupported scope applied to resource"#,
                        r#"spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"VolumeAttributesClass","Operator":"Like","Values":null}]}: unsupported scope applied to resource"#,
                        r#"spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"VolumeAttributesClass","Operator":"Like","Values":null}]}: unsupported scope applied to resource"#,
                        r#"spec.scopeSelector.matchExpressions.operator: Invalid value: "Like": not a valid selector operator"#,
                    ],
                ),
            ],
        );
        let quota: ResourceQuota = defaulted(&valid());
        assert_eq!(quota.spec.unwrap().hard.unwrap()["limits.memory"].0, "1Gi");
    }

    #[test]
    fn changes() {
        let table: &[(&str, Value, &str, &[&str])] = &[
            ("/spec/hard/pods", json!("20"), "", &[]),
            (
                "/spec/scopes",
                json!(["Terminating"]),
                "",
                &[r#"spec.scopes: Invalid value: ["Terminating"]: field is immutable"#],
            ),
            ("/spec/scopes", json!(null), "", &["spec.scopes: Invalid value: null: field is immutable"]),
            ("/status/used", json!({"pods": "5"}), "status", &[]),
            (
                "/status/used",
                json!({"pods": "-5"}),
                "status",
                &[r#"status.used[pods]: Invalid value: "-5": must be greater than or equal to 0"#],
            ),
            // Status writes do not touch the spec.
            ("/spec/scopes", json!(["Terminating"]), "status", &[]),
            ("/metadata/resourceVersion", json!(null), "status", &["resourceVersion: Required value"]),
        ];
        for (pointer, value, subresource, expected) in table {
            let errors = update_errors::<ResourceQuota>(
                &valid(),
                &with(&valid(), pointer, value.clone()),
                subresource,
            );
            assert_eq!(errors, *expected, "{pointer} = {value}");
        }
        let with_status = with(&valid(), "/status/hard", json!({"pods": "1"}));
        assert_eq!(created::<ResourceQuota>(&with_status).status, Some(ResourceQuotaStatus::default()));
    }

    #[test]
    fn requests_above_limits_warn() {
        let json = with(
            &valid(),
            "/spec/hard",
            json!({"cpu": "2", "limits.cpu": "1", "requests.memory": "1", "limits.memory": "1"}),
        );
        assert_eq!(
            create_warnings::<ResourceQuota>(&json),
            ["ResourceQuota cpu (2) should be less than limits.cpu (1)"]
        );
    }

    #[test]
    fn columns() {
        let json = with(
            &valid(),
            "/status",
            json!({"hard": {"pods": "10", "cpu": "1", "limits.cpu": "2"}, "used": {"pods": "3", "limits.cpu": "1"}}),
        );
        assert_eq!(row::<ResourceQuota>(&json)[1..3], ["cpu: 0/1, pods: 3/10", "limits.cpu: 1/2"]);
    }
}
