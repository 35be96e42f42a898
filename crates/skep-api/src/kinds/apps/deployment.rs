//! Deployment.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::DEFAULT_REVISION_HISTORY_LIMIT;
use crate::context::Context;
use crate::field::{Bare, Errors, Json, Path};
use crate::kind::{Kind, KindInfo, ScaleView, Subresource};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// A rollout that makes no progress for this long has failed, unless said otherwise.
const DEFAULT_PROGRESS_DEADLINE_S: i32 = 600;
/// Unless said otherwise, a quarter of the pods may be missing, and a quarter too many, during a rollout.
const DEFAULT_ROLLING_SHARE: &str = "25%";

const RECREATE: &str = "Recreate";
const ROLLING_UPDATE: &str = "RollingUpdate";

impl Kind for Deployment {
    fn info() -> KindInfo {
        KindInfo::of::<Deployment>().short("deploy").category("all").sub(Subresource::SCALE).status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let strategy = spec.strategy.get_or_insert_default();
        if strategy.type_.as_deref().unwrap_or_default().is_empty() {
            strategy.type_ = Some(ROLLING_UPDATE.to_owned());
        }
        if strategy.type_.as_deref() == Some(ROLLING_UPDATE) {
            let share = || IntOrString::String(DEFAULT_ROLLING_SHARE.to_owned());
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(share);
            rolling.max_surge.get_or_insert_with(share);
        }
        spec.revision_history_limit.get_or_insert(DEFAULT_REVISION_HISTORY_LIMIT);
        spec.progress_deadline_seconds.get_or_insert(DEFAULT_PROGRESS_DEADLINE_S);
        checks::default_pod_template(&mut spec.template);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(DeploymentStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
            self.metadata.labels.clone_from(&old.metadata.labels);
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
            validate_status(self.status.as_ref(), old.status.as_ref(), &Path::root("status"), errors);
            return;
        }
        self.validate(cx, errors);
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            let path = Path::root("spec");
            checks::immutable_selector(&new.selector, &old.selector, &path.child("selector"), errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        // Annotations are copied to the replica sets, so that a change of them is work for the controller.
        Some(old.is_none_or(|old| {
            !meta::same(&self.spec, &old.spec)
                || !meta::same(&self.metadata.annotations, &old.metadata.annotations)
        }))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            checks::pod_name_warning(&self.metadata, &mut warnings);
        }
        if !cx.is_status()
            && self.generation_changed(old) == Some(true)
            && let Some(spec) = &self.spec
        {
            let old_template = old.and_then(|o| o.spec.as_ref()).map(|s| &s.template);
            let path = Path::root("spec");
            checks::pod_template_warnings(
                &spec.template,
                old_template,
                &path.child("template"),
                &mut warnings,
            );
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Ready", "Pods that are ready, of those wanted."),
            Column::string("Up-to-date", "Pods made from the current template."),
            Column::string("Available", "Pods that have been ready for long enough."),
            Column::AGE,
            checks::CONTAINERS,
            checks::IMAGES,
            checks::SELECTOR,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let of = |pick: fn(&DeploymentStatus) -> Option<i32>| status.and_then(pick).unwrap_or_default();
        let wanted = spec.and_then(|s| s.replicas).unwrap_or_default();
        let [names, images] = checks::container_cells(spec.map(|s| &s.template));
        let selector = match spec {
            Some(spec) if !checks::selector_unset(&spec.selector) => {
                checks::selector_text(&spec.selector).unwrap_or_else(|| "<invalid>".to_owned())
            }
            _ => String::new(),
        };
        vec![
            meta::name_cell(&self.metadata),
            format!("{}/{wanted}", of(|s| s.ready_replicas)).into(),
            of(|s| s.updated_replicas).into(),
            of(|s| s.available_replicas).into(),
            meta::age_cell(&self.metadata, now),
            names,
            images,
            selector.into(),
        ]
    }

    fn scale(&self) -> Option<ScaleView> {
        let spec = self.spec.as_ref();
        Some(ScaleView {
            spec_replicas: spec.and_then(|s| s.replicas).unwrap_or_default(),
            status_replicas: self.status.as_ref().and_then(|s| s.replicas).unwrap_or_default(),
            selector: spec.and_then(|s| checks::selector_text(&s.selector)).unwrap_or_default(),
        })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn validate_spec(spec: &DeploymentSpec, path: &Path<'_>, errors: &mut Errors) {
    checks::nonnegative_if_set(spec.replicas, &path.child("replicas"), errors);
    checks::required_selector(&spec.selector, "deployment", &path.child("selector"), errors);
    super::replica_set::validate_template(&spec.selector, Some(&spec.template), path, errors);
    validate_strategy(spec.strategy.as_ref(), &path.child("strategy"), errors);
    checks::nonnegative_if_set(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
    checks::nonnegative_if_set(spec.revision_history_limit, &path.child("revisionHistoryLimit"), errors);
    if let Some(deadline_s) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        checks::nonnegative(deadline_s, &path, errors);
        if deadline_s <= spec.min_ready_seconds.unwrap_or_default() {
            errors.invalid(&path, deadline_s, "must be greater than minReadySeconds");
        }
    }
}

fn validate_strategy(strategy: Option<&DeploymentStrategy>, path: &Path<'_>, errors: &mut Errors) {
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let rolling_path = path.child("rollingUpdate");
    match strategy.and_then(|s| s.type_.as_deref()).unwrap_or_default() {
        RECREATE => {
            if rolling.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&rolling_path, detail);
            }
        }
        ROLLING_UPDATE => match rolling {
            None => errors.required(&rolling_path, "this should be defaulted and never be nil"),
            Some(rolling) => validate_rolling(rolling, &rolling_path, errors),
        },
        other => {
            let zero = IntOrString::Int(0);
            let shown = json!({
                "Type": other,
                "RollingUpdate": rolling.map(|r| json!({
                    "MaxUnavailable": r.max_unavailable.as_ref().unwrap_or(&zero),
                    "MaxSurge": r.max_surge.as_ref().unwrap_or(&zero),
                })),
            });
            errors.not_supported(path, Bare(&shown.to_string()), &[RECREATE, ROLLING_UPDATE]);
        }
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path<'_>, errors: &mut Errors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let unavailable_path = path.child("maxUnavailable");
    checks::int_or_percent(unavailable, &unavailable_path, errors);
    checks::int_or_percent(surge, &path.child("maxSurge"), errors);
    if checks::int_or_percent_value(unavailable) == 0 && checks::int_or_percent_value(surge) == 0 {
        errors.invalid(&unavailable_path, Json(unavailable), "may not be 0 when `maxSurge` is 0");
    }
    checks::at_most_100_percent(unavailable, &unavailable_path, errors);
}

fn validate_status(
    new: Option<&DeploymentStatus>,
    old: Option<&DeploymentStatus>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let none = DeploymentStatus::default();
    let (new, old) = (new.unwrap_or(&none), old.unwrap_or(&none));
    checks::nonnegative_if_set(new.observed_generation, &path.child("observedGeneration"), errors);
    checks::nonnegative_if_set(new.replicas, &path.child("replicas"), errors);
    checks::nonnegative_if_set(new.updated_replicas, &path.child("updatedReplicas"), errors);
    checks::nonnegative_if_set(new.ready_replicas, &path.child("readyReplicas"), errors);
    checks::nonnegative_if_set(new.available_replicas, &path.child("availableReplicas"), errors);
    checks::nonnegative_if_set(new.unavailable_replicas, &path.child("unavailableReplicas"), errors);
    checks::nonnegative_if_set(new.terminating_replicas, &path.child("terminatingReplicas"), errors);
    checks::nonnegative_if_set(new.collision_count, &path.child("collisionCount"), errors);
    let replicas = new.replicas.unwrap_or_default();
    let counts = [
        ("updatedReplicas", new.updated_replicas),
        ("readyReplicas", new.ready_replicas),
        ("availableReplicas", new.available_replicas),
    ];
    for (name, count) in counts {
        let count = count.unwrap_or_default();
        if count > replicas {
            errors.invalid(&path.child(name), count, "cannot be greater than status.replicas");
        }
    }
    let available = new.available_replicas.unwrap_or_default();
    if available > new.ready_replicas.unwrap_or_default() {
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
    checks::not_decremented(new.collision_count, old.collision_count, &path.child("collisionCount"), errors);
}
