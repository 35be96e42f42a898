//! `rbac.authorization.k8s.io/v1`: roles and their bindings.
//!
//! That nobody grants what they do not have is checked where requests are authorised, not here.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo, NameRule};
use crate::kinds::checks;
use crate::meta::{self, LabelSelectorOptions};
use crate::registry::Registry;
use crate::table::{Cell, Column};

/// The group; also what role references and subjects name.
pub const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn register(registry: &mut Registry) {
    registry.add::<ClusterRoleBinding>();
    registry.add::<ClusterRole>();
    registry.add::<RoleBinding>();
    registry.add::<Role>();
}

/// Upstream prints roles with its default table, which shows the time instead of the age.
fn role_columns() -> Vec<Column> {
    vec![Column::NAME, checks::CREATED_AT]
}

fn role_row(meta: &ObjectMeta) -> Vec<Cell> {
    vec![meta::name_cell(meta), checks::created_cell(meta)]
}

fn validate_rules(rules: Option<&[PolicyRule]>, namespaced: bool, errors: &mut Errors) {
    let path = Path::root("rules");
    for (i, rule) in rules.unwrap_or_default().iter().enumerate() {
        validate_rule(rule, namespaced, &path.index(i), errors);
    }
}

fn validate_rule(rule: &PolicyRule, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if !empty(&rule.non_resource_urls) {
        let path = path.child("nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.invalid(&path, Json(&rule.non_resource_urls), detail);
        }
        if !(empty(&rule.api_groups) && empty(&rule.resources) && empty(&rule.resource_names)) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&path, Json(&rule.non_resource_urls), detail);
        }
        return;
    }
    if empty(&rule.api_groups) {
        errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if empty(&rule.resources) {
        errors.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}

impl Kind for Role {
    fn info() -> KindInfo {
        KindInfo::of::<Role>().names(NameRule::PathSegment).create_on_update()
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_rules(self.rules.as_deref(), true, errors);
    }

    fn columns() -> Vec<Column> {
        role_columns()
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        role_row(&self.metadata)
    }
}

fn validate_cluster_role(role: &ClusterRole, options: LabelSelectorOptions, errors: &mut Errors) {
    validate_rules(role.rules.as_deref(), false, errors);
    let Some(aggregation) = &role.aggregation_rule else { return };
    let path = Path::root("aggregationRule");
    let path = path.child("clusterRoleSelectors");
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    if selectors.is_empty() {
        errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = path.index(i);
        meta::validate_label_selector(selector, options, &path, errors);
        if meta::label_selector(Some(selector)).is_err() {
            errors.invalid(&path, Json(&Value::Null), "invalid label selector.");
        }
    }
}

impl Kind for ClusterRole {
    fn info() -> KindInfo {
        KindInfo::of::<ClusterRole>().names(NameRule::PathSegment).create_on_update()
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_cluster_role(self, LabelSelectorOptions::default(), errors);
    }

    fn validate_update(&self, old: &Self, _: &Context<'_>, errors: &mut Errors) {
        let selectors = old.aggregation_rule.iter().flat_map(|a| a.cluster_role_selectors.iter().flatten());
        let mut before = Errors::new();
        for selector in selectors {
            let options = LabelSelectorOptions::default();
            meta::validate_label_selector(selector, options, &Path::empty(), &mut before);
        }
        let options = LabelSelectorOptions { allow_invalid_values: !before.is_empty(), ..Default::default() };
        validate_cluster_role(self, options, errors);
    }

    fn columns() -> Vec<Column> {
        role_columns()
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        role_row(&self.metadata)
    }
}

fn default_binding(role_ref: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if role_ref.api_group.as_deref().is_none_or(str::is_empty) {
        role_ref.api_group = Some(GROUP.to_owned());
    }
    for subject in subjects.into_iter().flatten() {
        let unset = subject.api_group.as_deref().is_none_or(str::is_empty);
        if unset && matches!(subject.kind.as_str(), "User" | "Group") {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

fn validate_binding(role_ref: &RoleRef, subjects: Option<&[Subject]>, namespaced: bool, errors: &mut Errors) {
    let path = Path::root("roleRef");
    let group = role_ref.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role_ref.kind.as_str()) {
        errors.not_supported(&path.child("kind"), &role_ref.kind, kinds);
    }
    let name = path.child("name");
    if role_ref.name.is_empty() {
        errors.required(&name, "");
    }
    for message in meta::path_segment_errors(&role_ref.name, false) {
        errors.invalid(&name, &role_ref.name, &message);
    }
    let path = Path::root("subjects");
    for (i, subject) in subjects.unwrap_or_default().iter().enumerate() {
        validate_subject(subject, namespaced, &path.index(i), errors);
    }
}

fn validate_subject(subject: &Subject, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let name = path.child("name");
    if subject.name.is_empty() {
        errors.required(&name, "");
    }
    let group = subject.api_group.as_deref().unwrap_or_default();
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                for message in meta::dns1123_subdomain_errors(&subject.name) {
                    errors.invalid(&name, &subject.name, &message);
                }
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.namespace.as_deref().is_none_or(str::is_empty) {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        kind => {
            errors.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]);
        }
    }
}

/// A binding grants one role for life: to grant another one, make another binding.
fn validate_same_role(new: &RoleRef, old: &RoleRef, errors: &mut Errors) {
    if new != old {
        // Upstream shows its internal type.
        let shown = json!({
            "APIGroup": new.api_group.as_deref().unwrap_or_default(), "Kind": new.kind, "Name": new.name,
        });
        errors.invalid(&Path::root("roleRef"), Json(&shown), "cannot change roleRef");
    }
}

fn binding_columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::string("Role", "The role that is granted."),
        Column::AGE,
        Column::string("Users", "The users who are granted the role.").wide(),
        Column::string("Groups", "The groups that are granted the role.").wide(),
        Column::string("ServiceAccounts", "The service accounts that are granted the role.").wide(),
    ]
}

fn binding_row(
    metadata: &ObjectMeta,
    role_ref: &RoleRef,
    subjects: Option<&[Subject]>,
    now: Timestamp,
) -> Vec<Cell> {
    let named = |kind: &str| {
        let of_kind = subjects.unwrap_or_default().iter().filter(|s| s.kind == kind);
        let names: Vec<String> = of_kind
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", s.namespace.as_deref().unwrap_or_default(), s.name),
                _ => s.name.clone(),
            })
            .collect();
        Cell::from(names.join(", "))
    };
    vec![
        meta::name_cell(metadata),
        format!("{}/{}", role_ref.kind, role_ref.name).into(),
        meta::age_cell(metadata, now),
        named("User"),
        named("Group"),
        named("ServiceAccount"),
    ]
}

macro_rules! binding {
    ($ty:ty, namespaced: $namespaced:literal) => {
        impl Kind for $ty {
            fn info() -> KindInfo {
                KindInfo::of::<$ty>().names(NameRule::PathSegment).create_on_update()
            }

            fn set_defaults(&mut self) {
                default_binding(&mut self.role_ref, self.subjects.as_mut());
            }

            fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
                validate_binding(&self.role_ref, self.subjects.as_deref(), $namespaced, errors);
            }

            fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
                self.validate(cx, errors);
                validate_same_role(&self.role_ref, &old.role_ref, errors);
            }

            fn columns() -> Vec<Column> {
                binding_columns()
            }

            fn row(&self, now: Timestamp) -> Vec<Cell> {
                binding_row(&self.metadata, &self.role_ref, self.subjects.as_deref(), now)
            }
        }
    };
}

binding!(RoleBinding, namespaced: true);
binding!(ClusterRoleBinding, namespaced: false);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{check_create, check_update, defaulted, patched, row};

    #[test]
    fn rules() {
        let good = json!({"metadata": {"name": "r"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]},
        ]});
        let urls = |rule: Value| json!({"rules": [patched(&json!({"verbs": ["get"], "nonResourceURLs": ["/a"]}), &rule)]});
        let resource = |rule: Value| json!({"rules": [patched(&json!({"verbs": ["*"], "apiGroups": [""], "resources": ["*"]}), &rule)]});
        let both = r#"rules[0].nonResourceURLs: Invalid value: ["/a"]: rules cannot apply to both regular resources and non-resource URLs"#;
        let shared = [
            (json!({"rules": null}), ""),
            (
                resource(json!({"verbs": []})),
                "rules[0].verbs: Required value: verbs must contain at least one value",
            ),
            (
                resource(json!({"apiGroups": []})),
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            ),
            (
                resource(json!({"resources": null})),
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ),
        ];
        check_create::<Role>(&good, &shared);
        check_create::<ClusterRole>(&good, &shared);
        check_create::<Role>(
            &good,
            &[(
                urls(json!({})),
                r#"rules[0].nonResourceURLs: Invalid value: ["/a"]: namespaced rules cannot apply to non-resource URLs"#,
            )],
        );
        check_create::<ClusterRole>(
            &good,
            &[
                (urls(json!({})), ""),
                (urls(json!({"apiGroups": ["a"]})), both),
                (urls(json!({"resourceNames": ["a"]})), both),
            ],
        );
    }

    #[test]
    fn aggregation() {
        let good = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
        let bad_value = json!({"aggregationRule": {"clusterRoleSelectors": [
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]},
        ]}});
        check_create::<ClusterRole>(
            &good,
            &[
                (
                    json!({"aggregationRule": {"clusterRoleSelectors": []}}),
                    "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
                ),
                (
                    json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"-": ""}}]}}),
                    r#"[aggregationRule.clusterRoleSelectors[0].matchLabels: Invalid value: "-": name part"#,
                ),
                (
                    bad_value.clone(),
                    "[aggregationRule.clusterRoleSelectors[0].matchExpressions[0].values[0]: Invalid",
                ),
            ],
        );
        // A stored selector with a bad value may stay, though upstream still cannot use it.
        let errors = crate::kinds::tables::update_errors::<ClusterRole>(&bad_value, &bad_value, "");
        assert_eq!(
            errors,
            "aggregationRule.clusterRoleSelectors[0]: Invalid value: null: invalid label selector."
        );
    }

    #[test]
    fn bindings() {
        let good = json!({
            "metadata": {"name": "b", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [
                {"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"},
                {"kind": "ServiceAccount", "name": "s", "namespace": "n"},
            ],
        });
        let subject = |s: Value| json!({"subjects": [s]});
        let shared = [
            (
                json!({"roleRef": {"apiGroup": "x"}}),
                r#"roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io""#,
            ),
            (json!({"roleRef": {"name": ""}}), "roleRef.name: Required value"),
            (
                json!({"roleRef": {"name": "a/b"}}),
                r#"roleRef.name: Invalid value: "a/b": may not contain '/'"#,
            ),
            (subject(json!({"kind": "User", "name": ""})), "subjects[0].name: Required value"),
            (
                subject(json!({"kind": "Group", "name": "g", "apiGroup": "x"})),
                r#"subjects[0].apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io""#,
            ),
            (
                subject(json!({"kind": "Robot", "name": "g"})),
                r#"subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group""#,
            ),
            (
                subject(json!({"kind": "ServiceAccount", "name": "s", "namespace": "n", "apiGroup": "x"})),
                r#"subjects[0].apiGroup: Unsupported value: "x": supported values: """#,
            ),
            (
                subject(json!({"kind": "ServiceAccount", "name": "S", "namespace": "n"})),
                r#"subjects[0].name: Invalid value: "S": a lowercase RFC 1123 subdomain"#,
            ),
        ];
        check_create::<RoleBinding>(&good, &shared);
        check_create::<ClusterRoleBinding>(&good, &shared);
        let no_namespace = subject(json!({"kind": "ServiceAccount", "name": "s"}));
        let role = json!({"roleRef": {"kind": "Role"}});
        check_create::<RoleBinding>(
            &good,
            &[
                (no_namespace.clone(), ""),
                (role.clone(), ""),
                (
                    json!({"roleRef": {"kind": "X"}}),
                    r#"roleRef.kind: Unsupported value: "X": supported values: "Role", "ClusterRole""#,
                ),
            ],
        );
        check_create::<ClusterRoleBinding>(
            &good,
            &[
                (no_namespace, "subjects[0].namespace: Required value"),
                (role, r#"roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole""#),
            ],
        );
        let changed = r#"roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"ClusterRole","Name":"x"}: cannot change roleRef"#;
        let rename = (json!({"roleRef": {"name": "x"}}), changed);
        check_update::<RoleBinding>(&good, "", &[rename.clone(), (json!({"subjects": null}), "")]);
        check_update::<ClusterRoleBinding>(&good, "", &[rename]);
        assert_eq!(row::<RoleBinding>(&good), json!(["b", "ClusterRole/r", "60s", "u", "g", "n/s"]));
    }

    #[test]
    fn defaults_and_rows() {
        let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "Group", "name": "g", "apiGroup": ""}, {"kind": "ServiceAccount", "name": "s"},
        ]});
        for got in [defaulted::<RoleBinding>(&binding), defaulted::<ClusterRoleBinding>(&binding)] {
            assert_eq!(got["roleRef"]["apiGroup"], GROUP);
            assert_eq!(got["subjects"][0]["apiGroup"], GROUP);
            assert_eq!(got["subjects"][1]["apiGroup"], GROUP);
            assert_eq!(got["subjects"][2].get("apiGroup"), None);
        }
        let role = json!({"metadata": {"name": "r", "creationTimestamp": "1970-01-01T00:00:00Z"}});
        assert_eq!(row::<Role>(&role), json!(["r", "1970-01-01T00:00:00Z"]));
        assert_eq!(row::<ClusterRole>(&role), json!(["r", "1970-01-01T00:00:00Z"]));
    }
}
