//! ReplicationController: what came before ReplicaSet.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};

use super::{pod, shared};
use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Fields, Kind, KindInfo, ScaleView, Subresource};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

static NO_SPEC: ReplicationControllerSpec =
    ReplicationControllerSpec { min_ready_seconds: None, replicas: None, selector: None, template: None };

type Labels = BTreeMap<String, String>;

fn spec(controller: &ReplicationController) -> &ReplicationControllerSpec {
    controller.spec.as_ref().unwrap_or(&NO_SPEC)
}

fn template_labels(template: &PodTemplateSpec) -> Option<&Labels> {
    template.metadata.as_ref().and_then(|m| m.labels.as_ref())
}

fn validate_template(
    template: &PodTemplateSpec,
    selector: Option<&Labels>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let labels = template_labels(template);
    let matches = |(key, value): (&String, &String)| labels.and_then(|l| l.get(key)) == Some(value);
    if !selector.into_iter().flatten().all(matches) {
        errors.invalid(
            &path.child("metadata").child("labels"),
            Json(&labels),
            "`selector` does not match template `labels`",
        );
    }
    pod::validate_pod_template_spec(template, path, errors);
    checks::always_running(template, "ReplicationController", path, errors);
}

fn validate_status(status: &ReplicationControllerStatus, errors: &mut Errors) {
    let path = Path::root("status");
    let fully_labeled = status.fully_labeled_replicas.unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or_default();
    let available = status.available_replicas.unwrap_or_default();
    for (name, count) in [
        ("replicas", i64::from(status.replicas)),
        ("fullyLabeledReplicas", fully_labeled.into()),
        ("readyReplicas", ready.into()),
        ("availableReplicas", available.into()),
        ("observedGeneration", status.observed_generation.unwrap_or_default()),
    ] {
        meta::validate_nonnegative(count, &path.child(name), errors);
    }
    for (name, count) in
        [("fullyLabeledReplicas", fully_labeled), ("readyReplicas", ready), ("availableReplicas", available)]
    {
        if count > status.replicas {
            errors.invalid(&path.child(name), count, "cannot be greater than status.replicas");
        }
    }
    if available > ready {
        let detail = "cannot be greater than readyReplicas";
        errors.invalid(&path.child("availableReplicas"), available, detail);
    }
}

impl Kind for ReplicationController {
    fn info() -> KindInfo {
        KindInfo::of::<ReplicationController>()
            .short("rc")
            .category("all")
            .sub(Subresource::SCALE)
            .status()
            .select("status.replicas")
            .orphans_dependents()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.selector.take_if(|s| s.is_empty());
        spec.min_ready_seconds.take_if(|s| *s == 0);
        spec.replicas.get_or_insert(1);
        if let Some(template) = &mut spec.template {
            if let Some(labels) = template_labels(template).filter(|l| !l.is_empty()) {
                if spec.selector.is_none() {
                    spec.selector = Some(labels.clone());
                }
                if self.metadata.labels.as_ref().is_none_or(Labels::is_empty) {
                    self.metadata.labels = Some(labels.clone());
                }
            }
            pod::default_pod_template(template);
        }
        self.status.get_or_insert_default();
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(ReplicationControllerStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let spec = spec(self);
        let path = Path::root("spec");
        let min_ready_s = spec.min_ready_seconds.unwrap_or_default();
        meta::validate_nonnegative(min_ready_s.into(), &path.child("minReadySeconds"), errors);
        if spec.selector.is_none() {
            errors.required(&path.child("selector"), "");
        }
        match spec.replicas {
            None => errors.required(&path.child("replicas"), ""),
            Some(replicas) => meta::validate_nonnegative(replicas.into(), &path.child("replicas"), errors),
        }
        match &spec.template {
            None => errors.required(&path.child("template"), ""),
            Some(template) => {
                validate_template(template, spec.selector.as_ref(), &path.child("template"), errors);
            }
        }
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        match &self.status {
            Some(status) if cx.is_status() => validate_status(status, errors),
            None if cx.is_status() => {}
            _ => self.validate(cx, errors),
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            checks::pod_name_warning(&self.metadata, &mut warnings);
        }
        let changed = self.generation_changed(old) == Some(true);
        if let Some(template) = spec(self).template.as_ref().filter(|_| changed && !cx.is_status()) {
            let path = Path::root("spec");
            let old_template = old.and_then(|o| spec(o).template.as_ref());
            checks::pod_template_warnings(template, old_template, &path.child("template"), &mut warnings);
        }
        warnings
    }

    fn fields(&self, fields: &mut Fields) {
        let replicas = self.status.as_ref().map_or(0, |s| s.replicas);
        fields.add("status.replicas", replicas.to_string());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Desired", "How many pods are wanted."),
            Column::integer("Current", "How many pods there are."),
            Column::integer("Ready", "How many pods are ready."),
            Column::AGE,
            checks::CONTAINERS,
            checks::IMAGES,
            checks::SELECTOR,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = spec(self);
        let status = self.status.as_ref();
        let [containers, images] = checks::container_cells(spec.template.as_ref());
        vec![
            meta::name_cell(&self.metadata),
            spec.replicas.unwrap_or_default().into(),
            status.map_or(0, |s| s.replicas).into(),
            status.and_then(|s| s.ready_replicas).unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
            containers,
            images,
            shared::labels_text(spec.selector.as_ref()).into(),
        ]
    }

    fn scale(&self) -> Option<ScaleView> {
        let spec = spec(self);
        let pairs = spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        Some(ScaleView {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: self.status.as_ref().map_or(0, |s| s.replicas),
            selector: pairs.collect::<Vec<_>>().join(","),
        })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"template": {
            "metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": "i", "terminationMessagePolicy": "File"}]}}}})
    }

    #[test]
    fn labels_of_the_template_are_the_default() {
        let controller: ReplicationController = defaulted(&valid());
        let labels = Labels::from([("app".to_owned(), "x".to_owned())]);
        assert_eq!(controller.metadata.labels.as_ref(), Some(&labels));
        let spec = controller.spec.unwrap();
        assert_eq!((spec.selector, spec.replicas), (Some(labels), Some(1)));
        assert_eq!(spec.template.unwrap().spec.unwrap().restart_policy.as_deref(), Some("Always"));
    }

    #[test]
    fn creation() {
        check_create_table::<ReplicationController>(
            &valid(),
            &[
                (
                    "/spec/replicas",
                    json!(-1),
                    &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
                ),
                (
                    "/spec/minReadySeconds",
                    json!(-1),
                    &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
                ),
                (
                    "/spec/selector",
                    json!({"app": "y"}),
                    &[
                        r#"spec.template.metadata.labels: Invalid value: {"app":"x"}: `selector` does not match template `labels`"#,
                    ],
                ),
                (
                    "/spec/template",
                    json!(null),
                    &["spec.selector: Required value", "spec.template: Required value"],
                ),
                (
                    "/spec/template/spec/restartPolicy",
                    json!("Never"),
                    &[
                        r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
                    ],
                ),
                (
                    "/spec/template/spec/activeDeadlineSeconds",
                    json!(5),
                    &[
                        "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported",
                    ],
                ),
                (
                    "/spec/template/spec/containers/0/name",
                    json!(""),
                    &["spec.template.spec.containers[0].name: Required value"],
                ),
            ],
        );
    }

    #[test]
    fn status_changes() {
        let above = "cannot be greater than status.replicas";
        let table: Vec<(Value, Vec<String>)> = vec![
            (json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1}), vec![]),
            (
                json!({"replicas": 1, "readyReplicas": 2}),
                vec![format!("status.readyReplicas: Invalid value: 2: {above}")],
            ),
            (
                json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2}),
                vec![
                    "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"
                        .to_owned(),
                ],
            ),
            (
                json!({"replicas": 0, "observedGeneration": -1}),
                vec![
                    "status.observedGeneration: Invalid value: -1: must be greater than or equal to 0"
                        .to_owned(),
                ],
            ),
        ];
        for (status, expected) in table {
            let new = with(&valid(), "/status", status.clone());
            assert_eq!(
                update_errors::<ReplicationController>(&valid(), &new, "status"),
                expected,
                "{status}"
            );
        }
    }

    #[test]
    fn spec_and_status_go_separate_ways_and_the_generation_follows_the_spec() {
        let old: ReplicationController = created(&valid());
        assert_eq!(old.generation_changed(None), Some(true));
        let json = with(&with(&valid(), "/spec/replicas", json!(5)), "/status", json!({"replicas": 3}));
        let main = updated(&old, &json, "");
        assert_eq!((main.scale().unwrap().spec_replicas, main.status == old.status), (5, true));
        assert_eq!(main.generation_changed(Some(&old)), Some(true));
        let status = updated(&old, &json, "status");
        assert_eq!((status.spec == old.spec, status.scale().unwrap().status_replicas), (true, 3));
        assert_eq!(status.generation_changed(Some(&old)), Some(false));
        assert_eq!(status.scale().unwrap().selector, "app=x");
    }

    #[test]
    fn names_that_pods_cannot_have_warn() {
        let warnings =
            create_warnings::<ReplicationController>(&with(&valid(), "/metadata/name", json!("a.b")));
        assert!(
            warnings[0].starts_with("metadata.name: this is used in Pod names and hostnames"),
            "{warnings:?}"
        );
        assert!(create_warnings::<ReplicationController>(&valid()).is_empty());
    }

    #[test]
    fn columns() {
        let json = with(&valid(), "/status", json!({"replicas": 3, "readyReplicas": 2}));
        assert_eq!(
            row::<ReplicationController>(&json),
            [
                json!("r"),
                json!(1),
                json!(3),
                json!(2),
                json!("<unknown>"),
                json!("c"),
                json!("i"),
                json!("app=x")
            ]
        );
    }
}
