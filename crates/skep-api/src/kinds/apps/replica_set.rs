//! ReplicaSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::context::Context;
use crate::field::{Bare, Errors, Path};
use crate::kind::{Kind, KindInfo, ScaleView, Subresource};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

impl Kind for ReplicaSet {
    fn info() -> KindInfo {
        KindInfo::of::<ReplicaSet>().short("rs").category("all").sub(Subresource::SCALE).status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        checks::default_pod_template(spec.template.get_or_insert_default());
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(ReplicaSetStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        match &self.spec {
            Some(spec) => validate_spec(spec, &Path::root("spec"), errors),
            None => errors.required(&Path::root("spec"), ""),
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            if let Some(status) = &self.status {
                validate_status(status, &Path::root("status"), errors);
            }
            return;
        }
        self.validate(cx, errors);
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            let path = Path::root("spec");
            checks::immutable_selector(&new.selector, &old.selector, &path.child("selector"), errors);
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
        if !cx.is_status()
            && self.generation_changed(old) == Some(true)
            && let Some(template) = self.spec.as_ref().and_then(|s| s.template.as_ref())
        {
            let old_template = old.and_then(|o| o.spec.as_ref()).and_then(|s| s.template.as_ref());
            let path = Path::root("spec");
            checks::pod_template_warnings(template, old_template, &path.child("template"), &mut warnings);
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Desired", "Pods that are wanted."),
            Column::integer("Current", "Pods that exist."),
            Column::integer("Ready", "Pods that are ready."),
            Column::AGE,
            checks::CONTAINERS,
            checks::IMAGES,
            checks::SELECTOR,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let [names, images] = checks::container_cells(spec.and_then(|s| s.template.as_ref()));
        vec![
            meta::name_cell(&self.metadata),
            spec.and_then(|s| s.replicas).unwrap_or_default().into(),
            status.map_or(0, |s| s.replicas).into(),
            status.and_then(|s| s.ready_replicas).unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
            names,
            images,
            checks::selector_cell(spec.map(|s| &s.selector)),
        ]
    }

    fn scale(&self) -> Option<ScaleView> {
        let spec = self.spec.as_ref();
        Some(ScaleView {
            spec_replicas: spec.and_then(|s| s.replicas).unwrap_or_default(),
            status_replicas: self.status.as_ref().map_or(0, |s| s.replicas),
            selector: spec.and_then(|s| checks::selector_text(&s.selector)).unwrap_or_default(),
        })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_spec(spec: &ReplicaSetSpec, path: &Path<'_>, errors: &mut Errors) {
    checks::nonnegative_if_set(spec.replicas, &path.child("replicas"), errors);
    checks::nonnegative_if_set(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
    // Clients know the message with this kind's name, though it is a replica set.
    checks::required_selector(&spec.selector, "deployment", &path.child("selector"), errors);
    validate_template(&spec.selector, spec.template.as_ref(), path, errors);
}

/// The template in the spec of a replica set or deployment.
pub(super) fn validate_template(
    selector: &LabelSelector,
    template: Option<&PodTemplateSpec>,
    spec_path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = spec_path.child("template");
    let Some(template) = template else {
        errors.required(&path, "");
        return;
    };
    if !checks::template_labels_selected(selector, template, &path, errors) {
        let shown = checks::selector_shown(selector);
        errors.invalid(&spec_path.child("selector"), Bare(&shown), "invalid label selector");
        return;
    }
    checks::validate_pod_template(template, &path, errors);
    checks::always_running(template, "ReplicaSet", &path, errors);
}

fn validate_status(status: &ReplicaSetStatus, path: &Path<'_>, errors: &mut Errors) {
    checks::nonnegative(status.replicas, &path.child("replicas"), errors);
    checks::nonnegative_if_set(status.fully_labeled_replicas, &path.child("fullyLabeledReplicas"), errors);
    checks::nonnegative_if_set(status.ready_replicas, &path.child("readyReplicas"), errors);
    checks::nonnegative_if_set(status.available_replicas, &path.child("availableReplicas"), errors);
    checks::nonnegative_if_set(status.observed_generation, &path.child("observedGeneration"), errors);
    checks::nonnegative_if_set(status.terminating_replicas, &path.child("terminatingReplicas"), errors);
    let counts = [
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    for (name, count) in counts {
        let count = count.unwrap_or_default();
        if count > status.replicas {
            errors.invalid(&path.child(name), count, "cannot be greater than status.replicas");
        }
    }
    let available = status.available_replicas.unwrap_or_default();
    if available > status.ready_replicas.unwrap_or_default() {
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
}
