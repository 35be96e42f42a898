//! HorizontalPodAutoscaler as it is stored.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricTarget, MetricValueStatus, ResourceMetricSource,
};

use super::{metrics, validation};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// An autoscaler that names no metric keeps processors this busy, in percent of what pods request.
pub(super) const DEFAULT_CPU_UTILIZATION_PERCENT: i32 = 80;
/// Unless said otherwise, the larger of this many pods and of [`DEFAULT_PERCENT`] is added at once.
const DEFAULT_SCALE_UP_PODS: i32 = 4;
/// Unless said otherwise, pods may double, or all go, within a period.
const DEFAULT_PERCENT: i32 = 100;
/// The period of the default policies.
const DEFAULT_PERIOD_S: i32 = 15;

impl Kind for HorizontalPodAutoscaler {
    fn info() -> KindInfo {
        KindInfo::of::<HorizontalPodAutoscaler>().short("hpa").category("all").status()
    }

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu_utilization(DEFAULT_CPU_UTILIZATION_PERCENT)]);
        }
        for target in spec.metrics.iter_mut().flatten().flat_map(targets) {
            target.value.iter_mut().chain(&mut target.average_value).for_each(meta::canonical_quantity);
        }
        if let Some(behavior) = &mut spec.behavior {
            let policy = |type_: &str, value| HPAScalingPolicy {
                type_: type_.to_owned(),
                value,
                period_seconds: DEFAULT_PERIOD_S,
            };
            let up = behavior.scale_up.get_or_insert_default();
            up.stabilization_window_seconds.get_or_insert(0);
            default_rules(up, || {
                vec![policy("Pods", DEFAULT_SCALE_UP_PODS), policy("Percent", DEFAULT_PERCENT)]
            });
            // How long a lower count must last before pods go is the controller's setting.
            let down = behavior.scale_down.get_or_insert_default();
            default_rules(down, || vec![policy("Percent", DEFAULT_PERCENT)]);
        }
        let current = self.status.iter_mut().flat_map(|s| s.current_metrics.iter_mut().flatten());
        for value in current.flat_map(current_values) {
            value.value.iter_mut().chain(&mut value.average_value).for_each(meta::canonical_quantity);
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(HorizontalPodAutoscalerStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validation::validate_spec(&self.spec, None, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if !cx.is_status() {
            validation::validate_spec(&self.spec, Some(&old.spec), &Path::root("spec"), errors);
            return;
        }
        let path = Path::root("status");
        if let Some(status) = &self.status {
            checks::nonnegative_if_set(status.current_replicas, &path.child("currentReplicas"), errors);
            checks::nonnegative(status.desired_replicas, &path.child("desiredReplicas"), errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Reference", "The object that is scaled."),
            Column::string("Targets", "Each metric as it is, and as it should be."),
            Column::string("MinPods", "The fewest pods."),
            Column::string("MaxPods", "The most pods."),
            Column::string("Replicas", "How many pods there are."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = &self.spec;
        let status = self.status.as_ref();
        let current = status.and_then(|s| s.current_metrics.as_deref()).unwrap_or_default();
        let min = spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
        vec![
            meta::name_cell(&self.metadata),
            format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name).into(),
            metrics::text(spec.metrics.as_deref().unwrap_or_default(), current).into(),
            min.into(),
            spec.max_replicas.into(),
            status.and_then(|s| s.current_replicas).unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

/// Keep processors so busy.
pub(super) fn cpu_utilization(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

fn default_rules(rules: &mut HPAScalingRules, policies: impl FnOnce() -> Vec<HPAScalingPolicy>) {
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    rules.policies.get_or_insert_with(policies);
    rules.tolerance.iter_mut().for_each(meta::canonical_quantity);
}

fn targets(metric: &mut MetricSpec) -> impl Iterator<Item = &mut MetricTarget> {
    let object = metric.object.iter_mut().map(|m| &mut m.target);
    let pods = metric.pods.iter_mut().map(|m| &mut m.target);
    let resource = metric.resource.iter_mut().map(|m| &mut m.target);
    let container = metric.container_resource.iter_mut().map(|m| &mut m.target);
    let external = metric.external.iter_mut().map(|m| &mut m.target);
    object.chain(pods).chain(resource).chain(container).chain(external)
}

fn current_values(
    metric: &mut k8s_openapi::api::autoscaling::v2::MetricStatus,
) -> impl Iterator<Item = &mut MetricValueStatus> {
    let object = metric.object.iter_mut().map(|m| &mut m.current);
    let pods = metric.pods.iter_mut().map(|m| &mut m.current);
    let resource = metric.resource.iter_mut().map(|m| &mut m.current);
    let container = metric.container_resource.iter_mut().map(|m| &mut m.current);
    let external = metric.external.iter_mut().map(|m| &mut m.current);
    object.chain(pods).chain(resource).chain(container).chain(external)
}
