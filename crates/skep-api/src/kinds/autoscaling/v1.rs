//! HorizontalPodAutoscaler v1: processor utilization in a field, everything else in annotations.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::autoscaling::v2;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::v1_annotations::{ALL, BEHAVIOR, Behavior, CONDITIONS, CURRENT_METRICS, Current, METRICS, Metric};
use super::v2::{DEFAULT_CPU_UTILIZATION_PERCENT, cpu_utilization};
use crate::context::Context;
use crate::field::Errors;
use crate::kind::{Kind, KindInfo};
use crate::registry::Convert;
use crate::table::{Cell, Column};

impl Kind for HorizontalPodAutoscaler {
    fn info() -> KindInfo {
        KindInfo::of::<HorizontalPodAutoscaler>().short("hpa").category("all").status()
    }

    fn set_defaults(&mut self) {
        self.spec.min_replicas.get_or_insert(1);
    }

    fn validate(&self, cx: &Context<'_>, errors: &mut Errors) {
        self.clone().into_stored().validate(cx, errors);
    }

    fn columns() -> Vec<Column> {
        v2::HorizontalPodAutoscaler::columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        self.clone().into_stored().row(now)
    }
}

/// The percentage of processor utilization, if that is what a metric is about.
fn cpu_percent(metric: &v2::MetricSpec) -> Option<i32> {
    let resource = metric.resource.as_ref().filter(|r| metric.type_ == "Resource" && r.name == "cpu")?;
    resource.target.average_utilization
}

fn write<T: Serialize>(meta: &mut ObjectMeta, key: &str, value: &T) {
    // These shapes always have a JSON form.
    if let Ok(text) = serde_json::to_string(value) {
        meta.annotations.get_or_insert_default().insert(key.to_owned(), text);
    }
}

/// An annotation that is malformed says nothing.
fn read<T: DeserializeOwned>(meta: &ObjectMeta, key: &str) -> Option<T> {
    serde_json::from_str(meta.annotations.as_ref()?.get(key)?).ok()
}

fn drop_annotations(meta: &mut ObjectMeta) {
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| !ALL.contains(&key.as_str()));
        if annotations.is_empty() {
            meta.annotations = None;
        }
    }
}

impl Convert<v2::HorizontalPodAutoscaler> for HorizontalPodAutoscaler {
    fn into_stored(self) -> v2::HorizontalPodAutoscaler {
        let HorizontalPodAutoscaler { mut metadata, spec, status } = self;
        let mut metrics: Vec<v2::MetricSpec> = Vec::new();
        if let Some(others) = read::<Vec<Metric>>(&metadata, METRICS) {
            metrics.extend(others.into_iter().map(v2::MetricSpec::from));
        }
        metrics.extend(spec.target_cpu_utilization_percentage.map(cpu_utilization));
        if metrics.is_empty() {
            metrics.push(cpu_utilization(DEFAULT_CPU_UTILIZATION_PERCENT));
        }
        let behavior = read::<Behavior>(&metadata, BEHAVIOR).filter(|b| !b.is_empty()).map(Into::into);
        let annotated = read::<Vec<Current>>(&metadata, CURRENT_METRICS);
        let annotated = annotated.map(|list| list.into_iter().map(v2::MetricStatus::from).collect());
        let conditions = read(&metadata, CONDITIONS);
        let status = (status.is_some() || annotated.is_some() || conditions.is_some()).then(|| {
            let status = status.unwrap_or_default();
            // The annotation knows more than the field.
            let from_field = status.current_cpu_utilization_percentage.map(|percent| {
                vec![v2::MetricStatus {
                    type_: "Resource".to_owned(),
                    resource: Some(v2::ResourceMetricStatus {
                        name: "cpu".to_owned(),
                        current: v2::MetricValueStatus {
                            average_utilization: Some(percent),
                            ..Default::default()
                        },
                    }),
                    ..Default::default()
                }]
            });
            v2::HorizontalPodAutoscalerStatus {
                conditions,
                current_metrics: annotated.or(from_field),
                current_replicas: Some(status.current_replicas),
                desired_replicas: status.desired_replicas,
                last_scale_time: status.last_scale_time,
                observed_generation: status.observed_generation,
            }
        });
        drop_annotations(&mut metadata);
        let target = spec.scale_target_ref;
        v2::HorizontalPodAutoscaler {
            metadata,
            spec: v2::HorizontalPodAutoscalerSpec {
                behavior,
                max_replicas: spec.max_replicas,
                metrics: Some(metrics),
                min_replicas: spec.min_replicas,
                scale_target_ref: v2::CrossVersionObjectReference {
                    api_version: target.api_version,
                    kind: target.kind,
                    name: target.name,
                },
            },
            status,
        }
    }

    fn from_stored(stored: v2::HorizontalPodAutoscaler) -> HorizontalPodAutoscaler {
        let v2::HorizontalPodAutoscaler { mut metadata, spec, status } = stored;
        drop_annotations(&mut metadata);
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let others: Vec<Metric> =
            metrics.iter().filter(|m| cpu_percent(m).is_none()).map(Metric::from).collect();
        if !others.is_empty() {
            write(&mut metadata, METRICS, &others);
        }
        if let Some(behavior) = &spec.behavior {
            write(&mut metadata, BEHAVIOR, &Behavior::from(behavior));
        }
        if let Some(status) = &status {
            let current = status.current_metrics.as_deref().unwrap_or_default();
            if !current.is_empty() {
                write(&mut metadata, CURRENT_METRICS, &current.iter().map(Current::from).collect::<Vec<_>>());
            }
            if let Some(conditions) = status.conditions.as_ref().filter(|c| !c.is_empty()) {
                write(&mut metadata, CONDITIONS, conditions);
            }
        }
        let target_cpu_utilization_percentage = metrics.iter().find_map(cpu_percent);
        let target = spec.scale_target_ref;
        HorizontalPodAutoscaler {
            metadata,
            spec: HorizontalPodAutoscalerSpec {
                max_replicas: spec.max_replicas,
                min_replicas: spec.min_replicas,
                scale_target_ref: CrossVersionObjectReference {
                    api_version: target.api_version,
                    kind: target.kind,
                    name: target.name,
                },
                target_cpu_utilization_percentage,
            },
            status: status.map(|status| {
                let current = status.current_metrics.iter().flatten();
                let mut cpu = current.filter_map(|m| {
                    let resource =
                        m.resource.as_ref().filter(|r| m.type_ == "Resource" && r.name == "cpu")?;
                    resource.current.average_utilization
                });
                HorizontalPodAutoscalerStatus {
                    current_cpu_utilization_percentage: cpu.next_back(),
                    current_replicas: status.current_replicas.unwrap_or_default(),
                    desired_replicas: status.desired_replicas,
                    last_scale_time: status.last_scale_time,
                    observed_generation: status.observed_generation,
                }
            }),
        }
    }
}
