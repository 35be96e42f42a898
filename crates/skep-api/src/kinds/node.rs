//! `node.k8s.io/v1`: RuntimeClass.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::node::v1::{RuntimeClass, Scheduling};
use serde_json::json;

use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::core::pod;
use crate::meta;
use crate::registry::Registry;
use crate::table::{Cell, Column};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<RuntimeClass>();
}

impl Kind for RuntimeClass {
    fn info() -> KindInfo {
        KindInfo::of::<RuntimeClass>().create_on_update().conditional_update_only()
    }

    fn set_defaults(&mut self) {
        if let Some(fixed) = self.overhead.as_mut().and_then(|o| o.pod_fixed.as_mut()) {
            meta::canonical_resources(fixed);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let handler = Path::root("handler");
        if self.handler.is_empty() {
            errors.required(&handler, "");
        } else {
            for message in meta::dns1123_label_errors(&self.handler) {
                errors.invalid(&handler, &self.handler, &message);
            }
        }
        if let Some(fixed) = self.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref()) {
            pod::validate_overhead(fixed, &Path::root("overhead"), errors);
        }
        if let Some(scheduling) = &self.scheduling {
            validate_scheduling(scheduling, &Path::root("scheduling"), errors);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        self.validate(cx, errors);
        meta::validate_immutable_field(&self.handler, &old.handler, &Path::root("handler"), errors);
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let labels = self.scheduling.iter().flat_map(|s| s.node_selector.iter().flatten());
        labels
            .filter_map(|(key, _)| deprecated_node_label(key))
            .map(|message| format!("scheduling.nodeSelector: {message}"))
            .collect()
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::string("Handler", "What runs the pods of this class."), Column::AGE]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.handler.clone().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

/// What to say about a label of nodes that should not be selected on any more.
#[must_use]
pub fn deprecated_node_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}

fn validate_scheduling(scheduling: &Scheduling, path: &Path<'_>, errors: &mut Errors) {
    if let Some(labels) = &scheduling.node_selector {
        meta::validate_labels(labels, &path.child("nodeSelector"), errors);
    }
    let path = path.child("tolerations");
    let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
    pod::validate_tolerations(tolerations, &path, errors);
    let mut seen = BTreeSet::new();
    for (i, t) in tolerations.iter().enumerate() {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        if !seen.insert((text(&t.key), text(&t.operator), text(&t.value), text(&t.effect))) {
            // Upstream shows its internal type.
            let shown = json!({
                "Key": text(&t.key), "Operator": text(&t.operator), "Value": text(&t.value),
                "Effect": text(&t.effect), "TolerationSeconds": t.toleration_seconds,
            });
            errors.duplicate(&path.index(i), Json(&shown));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{check_create, check_update, defaulted, object, row, with_context};

    fn good() -> serde_json::Value {
        json!({
            "metadata": {"name": "r", "creationTimestamp": "1970-01-01T00:00:00Z"}, "handler": "runc",
            "overhead": {"podFixed": {"cpu": "0.5", "memory": "1024Mi", "a.b/c": "2"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [
                {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5},
                {"operator": "Exists"},
            ]},
        })
    }

    #[test]
    fn handler_and_overhead() {
        let fixed = |resource: &str, amount: &str| json!({"overhead": {"podFixed": {resource: amount}}});
        check_create::<RuntimeClass>(
            &good(),
            &[
                (json!({"handler": ""}), "handler: Required value"),
                (json!({"handler": "a.b"}), r#"handler: Invalid value: "a.b": must not contain dots"#),
                (
                    fixed("cpu", "-1"),
                    r#"overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#,
                ),
                (
                    fixed("cpu", "1 apple"),
                    r#"overhead.limits[cpu]: Invalid value: "1 apple": quantities must match"#,
                ),
                (
                    fixed("a.b/c", "500m"),
                    r#"overhead.limits[a.b/c]: Invalid value: "500m": must be an integer"#,
                ),
                (
                    fixed("pods", "1"),
                    r#"overhead.limits[pods]: Invalid value: "pods": must be a standard resource for containers"#,
                ),
                (
                    fixed("x", "1"),
                    r#"[overhead.limits[x]: Invalid value: "x": must be a standard resource type or fully qualified, overhead.limits[x]: Invalid value: "x": must be a standard resource for containers]"#,
                ),
                (
                    fixed("requests.a/c", "1"),
                    r#"overhead.limits[requests.a/c]: Invalid value: "requests.a/c": doesn't follow extended resource name standard"#,
                ),
                (fixed("hugepages-2Mi", "4Mi"), ""),
                (
                    fixed("hugepages-x", "4Mi"),
                    r#"overhead.limits[hugepages-x]: Invalid value: "4Mi": 4Mi is not positive integer multiple of hugepages-x"#,
                ),
                (
                    fixed("hugepages-2Mi", "3Mi"),
                    r#"overhead.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi"#,
                ),
            ],
        );
        let alone = json!({"handler": "a", "overhead": {"podFixed": {"hugepages-2Mi": "4Mi"}}});
        let errors = crate::kinds::tables::create_errors::<RuntimeClass>(&alone);
        assert_eq!(errors, "overhead: Forbidden: HugePages require cpu or memory");
    }

    #[test]
    fn scheduling() {
        let toleration = |t: serde_json::Value| json!({"scheduling": {"tolerations": [t]}});
        let path = "scheduling.tolerations[0]";
        let table = [
            (json!({"scheduling": {"nodeSelector": {"-": ""}}}), r#"scheduling.nodeSelector: Invalid value: "-": name part"#.to_owned()),
            (toleration(json!({"key": "-", "operator": "Exists"})), format!(r#"{path}.key: Invalid value: "-": name part"#)),
            (
                toleration(json!({"value": "x"})),
                format!(r#"{path}.operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys""#),
            ),
            (
                toleration(json!({"key": "a", "tolerationSeconds": 1, "effect": "NoSchedule"})),
                format!(r#"{path}.effect: Invalid value: "NoSchedule": effect must be 'NoExecute' when `tolerationSeconds` is set"#),
            ),
            (toleration(json!({"key": "a", "value": "-"})), format!(r#"{path}.operator: Invalid value: "-": a valid label must"#)),
            (
                toleration(json!({"key": "a", "operator": "Exists", "value": "x"})),
                format!(r#"{path}.operator: Invalid value: "x": value must be empty when `operator` is 'Exists'"#),
            ),
            (
                toleration(json!({"key": "a", "operator": "Gt", "value": "1"})),
                format!(r#"{path}.operator: Unsupported value: "Gt": supported values: "Equal", "Exists", "Lt", "Gt""#),
            ),
            (
                toleration(json!({"key": "a", "operator": "X"})),
                format!(r#"{path}.operator: Unsupported value: "X": supported values: "Equal", "Exists""#),
            ),
            (
                toleration(json!({"key": "a", "effect": "X"})),
                format!(r#"{path}.effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#),
            ),
            (
                json!({"scheduling": {"tolerations": [{"key": "a"}, {"key": "b"}, {"key": "a"}]}}),
                r#"scheduling.tolerations[2]: Duplicate value: {"Key":"a","Operator":"","Value":"","Effect":"","TolerationSeconds":null}"#.into(),
            ),
        ];
        let table: Vec<_> = table.iter().map(|(patch, want)| (patch.clone(), want.as_str())).collect();
        check_create::<RuntimeClass>(&good(), &table);
    }

    #[test]
    fn updates_defaults_warnings_row() {
        check_update::<RuntimeClass>(
            &good(),
            "",
            &[
                (json!({"overhead": null}), ""),
                (json!({"handler": "x"}), r#"handler: Invalid value: "x": field is immutable"#),
            ],
        );
        let fixed = &defaulted::<RuntimeClass>(&good())["overhead"]["podFixed"];
        assert_eq!(*fixed, json!({"a.b/c": "2", "cpu": "500m", "memory": "1Gi"}));
        let old: RuntimeClass =
            object(&json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "x", "a": ""}}}));
        with_context("", |cx| {
            assert_eq!(
                old.warnings(None, cx),
                [r#"scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/os" instead"#]
            );
        });
        assert_eq!(row::<RuntimeClass>(&good()), json!(["r", "runc", "60s"]));
    }
}
