//! DaemonSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::DEFAULT_REVISION_HISTORY_LIMIT;
use crate::context::Context;
use crate::field::{Bare, Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

const ROLLING_UPDATE: &str = "RollingUpdate";
const ON_DELETE: &str = "OnDelete";
/// How often the template has changed. It was a field once, and its clients read it here.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Kind for DaemonSet {
    fn info() -> KindInfo {
        KindInfo::of::<DaemonSet>().short("ds").category("all").status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let strategy = spec.update_strategy.get_or_insert_default();
        if strategy.type_.as_deref().unwrap_or_default().is_empty() {
            strategy.type_ = Some(ROLLING_UPDATE.to_owned());
        }
        if strategy.type_.as_deref() == Some(ROLLING_UPDATE) {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        spec.revision_history_limit.get_or_insert(DEFAULT_REVISION_HISTORY_LIMIT);
        checks::default_pod_template(&mut spec.template);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(DaemonSetStatus::default());
        let generation = template_generation(self).unwrap_or_default().max(1);
        set_template_generation(self, generation);
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
        let changed = !meta::same(&template(self), &template(old));
        let generation = template_generation(old).unwrap_or_default() + i64::from(changed);
        set_template_generation(self, generation);
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
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            let path = Path::root("spec");
            checks::immutable_selector(&new.selector, &old.selector, &path.child("selector"), errors);
        }
        self.validate(cx, errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        let old_template = old.and_then(template);
        if !cx.is_status()
            && let Some(new) = template(self)
            && (old.is_none() || !meta::same(&Some(new), &old_template))
        {
            let path = Path::root("spec");
            checks::pod_template_warnings(new, old_template, &path.child("template"), &mut warnings);
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Desired", "Nodes that should run the pod."),
            Column::integer("Current", "Nodes that run the pod and should."),
            Column::integer("Ready", "Nodes whose pod is ready."),
            Column::integer("Up-to-date", "Nodes whose pod is of the current template."),
            Column::integer("Available", "Nodes whose pod has been ready for long enough."),
            Column::string("Node Selector", "The labels of the nodes that are meant."),
            Column::AGE,
            checks::CONTAINERS,
            checks::IMAGES,
            checks::SELECTOR,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let none = DaemonSetStatus::default();
        let status = self.status.as_ref().unwrap_or(&none);
        let [names, images] = checks::container_cells(spec.map(|s| &s.template));
        let pod = spec.and_then(|s| s.template.spec.as_ref());
        let nodes: Vec<String> = pod
            .and_then(|p| p.node_selector.as_ref())
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let nodes = if nodes.is_empty() { "<none>".to_owned() } else { nodes.join(",") };
        vec![
            meta::name_cell(&self.metadata),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or_default().into(),
            status.number_available.unwrap_or_default().into(),
            nodes.into(),
            meta::age_cell(&self.metadata, now),
            names,
            images,
            checks::selector_cell(spec.map(|s| &s.selector)),
        ]
    }
}

fn template(set: &DaemonSet) -> Option<&k8s_openapi::api::core::v1::PodTemplateSpec> {
    set.spec.as_ref().map(|s| &s.template)
}

fn template_generation(set: &DaemonSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION)?.parse().ok()
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn validate_spec(spec: &DaemonSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let template_path = path.child("template");
    let selector_path = path.child("selector");
    checks::validate_label_selector(&spec.selector, &selector_path, errors);
    checks::template_labels_selected(&spec.selector, &spec.template, &template_path, errors);
    if !checks::selector_unset(&spec.selector) && checks::selector_empty(&spec.selector) {
        let shown = checks::selector_shown(&spec.selector);
        errors.invalid(&selector_path, Bare(&shown), "empty selector is invalid for daemonset");
    }
    checks::validate_pod_template(&spec.template, &template_path, errors);
    checks::always_running(&spec.template, "DaemonSet", &template_path, errors);
    checks::nonnegative_if_set(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
    validate_update_strategy(spec.update_strategy.as_ref(), &path.child("updateStrategy"), errors);
    checks::nonnegative_if_set(spec.revision_history_limit, &path.child("revisionHistoryLimit"), errors);
}

fn validate_update_strategy(
    strategy: Option<&DaemonSetUpdateStrategy>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let rolling_path = path.child("rollingUpdate");
    match strategy.and_then(|s| s.type_.as_deref()).unwrap_or_default() {
        ON_DELETE => {}
        ROLLING_UPDATE => match rolling {
            None => errors.required(&rolling_path, ""),
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
            errors.not_supported(path, Bare(&shown.to_string()), &[ROLLING_UPDATE, ON_DELETE]);
        }
    }
}

fn validate_rolling(rolling: &RollingUpdateDaemonSet, path: &Path<'_>, errors: &mut Errors) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let unavailable_path = path.child("maxUnavailable");
    let surge_path = path.child("maxSurge");
    checks::int_or_percent(unavailable, &unavailable_path, errors);
    checks::int_or_percent(surge, &surge_path, errors);
    checks::at_most_100_percent(unavailable, &unavailable_path, errors);
    checks::at_most_100_percent(surge, &surge_path, errors);
    match (checks::int_or_percent_value(unavailable) != 0, checks::int_or_percent_value(surge) != 0) {
        (true, true) => {
            errors.invalid(&surge_path, Json(surge), "may not be set when maxUnavailable is non-zero");
        }
        (false, false) => errors.required(&unavailable_path, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn validate_status(
    new: Option<&DaemonSetStatus>,
    old: Option<&DaemonSetStatus>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let none = DaemonSetStatus::default();
    let (new, old) = (new.unwrap_or(&none), old.unwrap_or(&none));
    checks::nonnegative(new.current_number_scheduled, &path.child("currentNumberScheduled"), errors);
    checks::nonnegative(new.number_misscheduled, &path.child("numberMisscheduled"), errors);
    checks::nonnegative(new.desired_number_scheduled, &path.child("desiredNumberScheduled"), errors);
    checks::nonnegative(new.number_ready, &path.child("numberReady"), errors);
    checks::nonnegative_if_set(new.observed_generation, &path.child("observedGeneration"), errors);
    checks::nonnegative_if_set(new.updated_number_scheduled, &path.child("updatedNumberScheduled"), errors);
    checks::nonnegative_if_set(new.number_available, &path.child("numberAvailable"), errors);
    checks::nonnegative_if_set(new.number_unavailable, &path.child("numberUnavailable"), errors);
    checks::nonnegative_if_set(new.collision_count, &path.child("collisionCount"), errors);
    checks::not_decremented(new.collision_count, old.collision_count, &path.child("collisionCount"), errors);
}
