//! PodDisruptionBudget.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use crate::context::Context;
use crate::field::{Bare, Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

const UNHEALTHY_POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];

impl Kind for PodDisruptionBudget {
    fn info() -> KindInfo {
        KindInfo::of::<PodDisruptionBudget>().short("pdb").conditional_update_only().status()
    }

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        // Clients always find these counts.
        self.status = Some(PodDisruptionBudgetStatus {
            current_healthy: Some(0),
            desired_healthy: Some(0),
            disruptions_allowed: Some(0),
            expected_pods: Some(0),
            ..PodDisruptionBudgetStatus::default()
        });
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::root("spec"), errors);
        }
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if !cx.is_status() {
            self.validate(cx, errors);
            return;
        }
        let Some(status) = &self.status else { return };
        let path = Path::root("status");
        meta::validate_conditions(
            status.conditions.as_deref().unwrap_or_default(),
            &path.child("conditions"),
            errors,
        );
        checks::nonnegative_if_set(status.disruptions_allowed, &path.child("disruptionsAllowed"), errors);
        checks::nonnegative_if_set(status.current_healthy, &path.child("currentHealthy"), errors);
        checks::nonnegative_if_set(status.desired_healthy, &path.child("desiredHealthy"), errors);
        checks::nonnegative_if_set(status.expected_pods, &path.child("expectedPods"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Min Available", "The fewest pods that must be available."),
            Column::string("Max Unavailable", "The most pods that may be unavailable."),
            Column::integer("Allowed Disruptions", "How many pods may be evicted now."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let text = |value: Option<&IntOrString>| -> Cell {
            match value {
                None => "N/A".into(),
                Some(IntOrString::Int(n)) => n.to_string().into(),
                Some(IntOrString::String(s)) => s.as_str().into(),
            }
        };
        let spec = self.spec.as_ref();
        vec![
            meta::name_cell(&self.metadata),
            text(spec.and_then(|s| s.min_available.as_ref())),
            text(spec.and_then(|s| s.max_unavailable.as_ref())),
            self.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn validate_spec(spec: &PodDisruptionBudgetSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let shown = json!({
            "MinAvailable": spec.min_available,
            "Selector": spec.selector,
            "MaxUnavailable": spec.max_unavailable,
            "UnhealthyPodEvictionPolicy": spec.unhealthy_pod_eviction_policy,
        });
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid(path, Bare(&shown.to_string()), detail);
    }
    for (name, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(value) = value {
            let path = path.child(name);
            checks::int_or_percent(value, &path, errors);
            checks::at_most_100_percent(value, &path, errors);
        }
    }
    if let Some(selector) = &spec.selector {
        checks::validate_label_selector(selector, &path.child("selector"), errors);
    }
    if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref()
        && !UNHEALTHY_POLICIES.contains(&policy)
    {
        errors.not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, UNHEALTHY_POLICIES);
    }
}
