//! What v1 cannot say, as JSON in annotations of a v1 object.
//!
//! The shapes are those of the long-gone v2beta1 API, except for the behaviour, whose field names are
//! capitalized. Clients have them in stored manifests.

use k8s_openapi::api::autoscaling::v1::CrossVersionObjectReference as Reference;
use k8s_openapi::api::autoscaling::v2;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

/// Metrics other than processor utilization.
pub(super) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
/// What the metrics were last found to be.
pub(super) const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
/// The conditions of the status.
pub(super) const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// Policies of scaling up and down.
pub(super) const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// All annotations that the conversion owns.
pub(super) const ALL: &[&str] = &[
    METRICS,
    CURRENT_METRICS,
    CONDITIONS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

macro_rules! shapes {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(super) struct $name {
            $($(#[$attr])* $field: $ty,)*
        }
    )*};
}

shapes! {
    /// A metric to follow.
    Metric {
        #[serde(rename = "type")]
        type_: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        object: Option<ObjectSource>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pods: Option<PodsSource>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resource: Option<ResourceSource>,
        #[serde(skip_serializing_if = "Option::is_none")]
        container_resource: Option<ContainerSource>,
        #[serde(skip_serializing_if = "Option::is_none")]
        external: Option<ExternalSource>,
    }
    /// A metric of one object.
    ObjectSource {
        target: Reference,
        metric_name: String,
        target_value: Amount,
        #[serde(skip_serializing_if = "Option::is_none")]
        selector: Option<LabelSelector>,
        #[serde(skip_serializing_if = "Option::is_none")]
        average_value: Option<Quantity>,
    }
    /// A metric of each pod.
    PodsSource {
        metric_name: String,
        target_average_value: Amount,
        #[serde(skip_serializing_if = "Option::is_none")]
        selector: Option<LabelSelector>,
    }
    /// A resource that pods use.
    ResourceSource {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_average_utilization: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_average_value: Option<Quantity>,
    }
    /// A resource that one container of each pod uses.
    ContainerSource {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_average_utilization: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_average_value: Option<Quantity>,
        container: String,
    }
    /// A metric from outside.
    ExternalSource {
        metric_name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        metric_selector: Option<LabelSelector>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_value: Option<Quantity>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_average_value: Option<Quantity>,
    }
    /// What a metric was last found to be.
    Current {
        #[serde(rename = "type")]
        type_: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        object: Option<ObjectCurrent>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pods: Option<PodsCurrent>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resource: Option<ResourceCurrent>,
        #[serde(skip_serializing_if = "Option::is_none")]
        container_resource: Option<ContainerCurrent>,
        #[serde(skip_serializing_if = "Option::is_none")]
        external: Option<ExternalCurrent>,
    }
    /// Of one object.
    ObjectCurrent {
        target: Reference,
        metric_name: String,
        current_value: Amount,
        #[serde(skip_serializing_if = "Option::is_none")]
        selector: Option<LabelSelector>,
        #[serde(skip_serializing_if = "Option::is_none")]
        average_value: Option<Quantity>,
    }
    /// Of the pods.
    PodsCurrent {
        metric_name: String,
        current_average_value: Amount,
        #[serde(skip_serializing_if = "Option::is_none")]
        selector: Option<LabelSelector>,
    }
    /// Of a resource.
    ResourceCurrent {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        current_average_utilization: Option<i32>,
        current_average_value: Amount,
    }
    /// Of a resource of one container.
    ContainerCurrent {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        current_average_utilization: Option<i32>,
        current_average_value: Amount,
        container: String,
    }
    /// From outside.
    ExternalCurrent {
        metric_name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        metric_selector: Option<LabelSelector>,
        current_value: Amount,
        #[serde(skip_serializing_if = "Option::is_none")]
        current_average_value: Option<Quantity>,
    }
}

/// An amount that is always there: zero unless said otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Amount(Quantity);

impl Default for Amount {
    fn default() -> Self {
        Amount(Quantity("0".to_owned()))
    }
}

impl Amount {
    fn of(quantity: Option<&Quantity>) -> Amount {
        quantity.cloned().map(Amount).unwrap_or_default()
    }

    fn is_zero(&self) -> bool {
        self.0.0.parse::<skep_base::Quantity>().is_ok_and(skep_base::Quantity::is_zero)
    }
}

fn reference_to_v1(r: &v2::CrossVersionObjectReference) -> Reference {
    Reference { api_version: r.api_version.clone(), kind: r.kind.clone(), name: r.name.clone() }
}

fn reference_to_v2(r: Reference) -> v2::CrossVersionObjectReference {
    v2::CrossVersionObjectReference { api_version: r.api_version, kind: r.kind, name: r.name }
}

fn identifier(name: String, selector: Option<LabelSelector>) -> v2::MetricIdentifier {
    v2::MetricIdentifier { name, selector }
}

fn target(type_: &str) -> v2::MetricTarget {
    v2::MetricTarget { type_: type_.to_owned(), ..Default::default() }
}

fn resource_target(utilization: Option<i32>, value: Option<Quantity>) -> v2::MetricTarget {
    let type_ = if utilization.is_some() { "Utilization" } else { "AverageValue" };
    v2::MetricTarget { average_utilization: utilization, average_value: value, ..target(type_) }
}

fn average(value: Amount, utilization: Option<i32>) -> v2::MetricValueStatus {
    v2::MetricValueStatus { average_value: Some(value.0), average_utilization: utilization, value: None }
}

impl From<&v2::MetricSpec> for Metric {
    fn from(spec: &v2::MetricSpec) -> Metric {
        Metric {
            type_: spec.type_.clone(),
            object: spec.object.as_ref().map(|m| ObjectSource {
                target: reference_to_v1(&m.described_object),
                metric_name: m.metric.name.clone(),
                target_value: Amount::of(m.target.value.as_ref()),
                selector: m.metric.selector.clone(),
                average_value: m.target.average_value.clone(),
            }),
            pods: spec.pods.as_ref().map(|m| PodsSource {
                metric_name: m.metric.name.clone(),
                target_average_value: Amount::of(m.target.average_value.as_ref()),
                selector: m.metric.selector.clone(),
            }),
            resource: spec.resource.as_ref().map(|m| ResourceSource {
                name: m.name.clone(),
                target_average_utilization: m.target.average_utilization,
                target_average_value: m.target.average_value.clone(),
            }),
            container_resource: spec.container_resource.as_ref().map(|m| ContainerSource {
                name: m.name.clone(),
                target_average_utilization: m.target.average_utilization,
                target_average_value: m.target.average_value.clone(),
                container: m.container.clone(),
            }),
            external: spec.external.as_ref().map(|m| ExternalSource {
                metric_name: m.metric.name.clone(),
                metric_selector: m.metric.selector.clone(),
                target_value: m.target.value.clone(),
                target_average_value: m.target.average_value.clone(),
            }),
        }
    }
}

impl From<Metric> for v2::MetricSpec {
    fn from(metric: Metric) -> v2::MetricSpec {
        v2::MetricSpec {
            type_: metric.type_,
            object: metric.object.map(|m| {
                // v1 always has a value; zero beside an average means that there is none.
                let averaged = m.average_value.is_some();
                let value = (!averaged || !m.target_value.is_zero()).then_some(m.target_value.0);
                v2::ObjectMetricSource {
                    described_object: reference_to_v2(m.target),
                    metric: identifier(m.metric_name, m.selector),
                    target: v2::MetricTarget {
                        value,
                        average_value: m.average_value,
                        ..target(if averaged { "AverageValue" } else { "Value" })
                    },
                }
            }),
            pods: metric.pods.map(|m| v2::PodsMetricSource {
                metric: identifier(m.metric_name, m.selector),
                target: v2::MetricTarget {
                    average_value: Some(m.target_average_value.0),
                    ..target("AverageValue")
                },
            }),
            resource: metric.resource.map(|m| v2::ResourceMetricSource {
                name: m.name,
                target: resource_target(m.target_average_utilization, m.target_average_value),
            }),
            container_resource: metric.container_resource.map(|m| v2::ContainerResourceMetricSource {
                container: m.container,
                name: m.name,
                target: resource_target(m.target_average_utilization, m.target_average_value),
            }),
            external: metric.external.map(|m| v2::ExternalMetricSource {
                metric: identifier(m.metric_name, m.metric_selector),
                target: v2::MetricTarget {
                    average_value: m.target_average_value,
                    ..v2::MetricTarget {
                        value: m.target_value.clone(),
                        ..target(if m.target_value.is_some() { "Value" } else { "AverageValue" })
                    }
                },
            }),
        }
    }
}

impl From<&v2::MetricStatus> for Current {
    fn from(status: &v2::MetricStatus) -> Current {
        Current {
            type_: status.type_.clone(),
            object: status.object.as_ref().map(|m| ObjectCurrent {
                target: reference_to_v1(&m.described_object),
                metric_name: m.metric.name.clone(),
                current_value: Amount::of(m.current.value.as_ref()),
                selector: m.metric.selector.clone(),
                average_value: m.current.average_value.clone(),
            }),
            pods: status.pods.as_ref().map(|m| PodsCurrent {
                metric_name: m.metric.name.clone(),
                current_average_value: Amount::of(m.current.average_value.as_ref()),
                selector: m.metric.selector.clone(),
            }),
            resource: status.resource.as_ref().map(|m| ResourceCurrent {
                name: m.name.clone(),
                current_average_utilization: m.current.average_utilization,
                current_average_value: Amount::of(m.current.average_value.as_ref()),
            }),
            container_resource: status.container_resource.as_ref().map(|m| ContainerCurrent {
                name: m.name.clone(),
                current_average_utilization: m.current.average_utilization,
                current_average_value: Amount::of(m.current.average_value.as_ref()),
                container: m.container.clone(),
            }),
            external: status.external.as_ref().map(|m| ExternalCurrent {
                metric_name: m.metric.name.clone(),
                metric_selector: m.metric.selector.clone(),
                current_value: Amount::of(m.current.value.as_ref()),
                current_average_value: m.current.average_value.clone(),
            }),
        }
    }
}

impl From<Current> for v2::MetricStatus {
    fn from(current: Current) -> v2::MetricStatus {
        let value = |value: Amount, average_value| v2::MetricValueStatus {
            value: Some(value.0),
            average_value,
            average_utilization: None,
        };
        v2::MetricStatus {
            type_: current.type_,
            object: current.object.map(|m| v2::ObjectMetricStatus {
                described_object: reference_to_v2(m.target),
                metric: identifier(m.metric_name, m.selector),
                current: value(m.current_value, m.average_value),
            }),
            pods: current.pods.map(|m| v2::PodsMetricStatus {
                metric: identifier(m.metric_name, m.selector),
                current: average(m.current_average_value, None),
            }),
            resource: current.resource.map(|m| v2::ResourceMetricStatus {
                name: m.name,
                current: average(m.current_average_value, m.current_average_utilization),
            }),
            container_resource: current.container_resource.map(|m| v2::ContainerResourceMetricStatus {
                container: m.container,
                name: m.name,
                current: average(m.current_average_value, m.current_average_utilization),
            }),
            external: current.external.map(|m| v2::ExternalMetricStatus {
                metric: identifier(m.metric_name, m.metric_selector),
                current: value(m.current_value, m.current_average_value),
            }),
        }
    }
}

/// Policies of scaling up and down.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Behavior {
    #[serde(alias = "scaleUp")]
    scale_up: Option<Rules>,
    #[serde(alias = "scaleDown")]
    scale_down: Option<Rules>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Rules {
    #[serde(alias = "stabilizationWindowSeconds")]
    stabilization_window_seconds: Option<i32>,
    #[serde(alias = "selectPolicy")]
    select_policy: Option<String>,
    #[serde(alias = "policies")]
    policies: Option<Vec<Policy>>,
    #[serde(alias = "tolerance")]
    tolerance: Option<Quantity>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Policy {
    #[serde(rename = "Type", alias = "type")]
    type_: String,
    #[serde(alias = "value")]
    value: i32,
    #[serde(alias = "periodSeconds")]
    period_seconds: i32,
}

impl Behavior {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.scale_up.is_none() && self.scale_down.is_none()
    }
}

impl From<&v2::HorizontalPodAutoscalerBehavior> for Behavior {
    fn from(behavior: &v2::HorizontalPodAutoscalerBehavior) -> Behavior {
        let policy = |p: &v2::HPAScalingPolicy| Policy {
            type_: p.type_.clone(),
            value: p.value,
            period_seconds: p.period_seconds,
        };
        let rules = |r: &v2::HPAScalingRules| Rules {
            stabilization_window_seconds: r.stabilization_window_seconds,
            select_policy: r.select_policy.clone(),
            policies: r.policies.as_ref().map(|list| list.iter().map(policy).collect()),
            tolerance: r.tolerance.clone(),
        };
        Behavior {
            scale_up: behavior.scale_up.as_ref().map(rules),
            scale_down: behavior.scale_down.as_ref().map(rules),
        }
    }
}

impl From<Behavior> for v2::HorizontalPodAutoscalerBehavior {
    fn from(behavior: Behavior) -> v2::HorizontalPodAutoscalerBehavior {
        let policy = |p: Policy| v2::HPAScalingPolicy {
            type_: p.type_,
            value: p.value,
            period_seconds: p.period_seconds,
        };
        let rules = |r: Rules| v2::HPAScalingRules {
            stabilization_window_seconds: r.stabilization_window_seconds,
            select_policy: r.select_policy,
            policies: r.policies.map(|list| list.into_iter().map(policy).collect()),
            tolerance: r.tolerance,
        };
        v2::HorizontalPodAutoscalerBehavior {
            scale_up: behavior.scale_up.map(rules),
            scale_down: behavior.scale_down.map(rules),
        }
    }
}
