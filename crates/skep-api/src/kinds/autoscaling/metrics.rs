//! The `Targets` cell: `cpu: 40%/80%, 3/10 + 1 more...`.

use k8s_openapi::api::autoscaling::v2::{MetricSpec, MetricStatus, MetricTarget, MetricValueStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// How many metrics fit into the cell.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

/// Each metric as it is and as it should be.
pub(super) fn text(specs: &[MetricSpec], current: &[MetricStatus]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> =
        specs.iter().take(SHOWN).enumerate().map(|(i, spec)| one(spec, current.get(i))).collect();
    let shown = shown.join(", ");
    if specs.len() > SHOWN { format!("{shown} + {} more...", specs.len() - SHOWN) } else { shown }
}

fn one(spec: &MetricSpec, status: Option<&MetricStatus>) -> String {
    let none = MetricTarget::default();
    match spec.type_.as_str() {
        "External" => {
            let target = spec.external.as_ref().map_or(&none, |m| &m.target);
            value_or_average(target, status.and_then(|s| s.external.as_ref()).map(|m| &m.current))
        }
        "Object" => {
            let target = spec.object.as_ref().map_or(&none, |m| &m.target);
            value_or_average(target, status.and_then(|s| s.object.as_ref()).map(|m| &m.current))
        }
        "Pods" => {
            let target = spec.pods.as_ref().map_or(&none, |m| &m.target);
            let current =
                status.and_then(|s| s.pods.as_ref()).map(|m| amount(m.current.average_value.as_ref()));
            format!("{}/{}", current.unwrap_or(UNKNOWN), amount(target.average_value.as_ref()))
        }
        "Resource" => {
            let (name, target) = spec.resource.as_ref().map_or(("", &none), |m| (m.name.as_str(), &m.target));
            resource(name, target, status.and_then(|s| s.resource.as_ref()).map(|m| &m.current))
        }
        "ContainerResource" => {
            let source = spec.container_resource.as_ref();
            let (name, target) = source.map_or(("", &none), |m| (m.name.as_str(), &m.target));
            resource(name, target, status.and_then(|s| s.container_resource.as_ref()).map(|m| &m.current))
        }
        _ => "<unknown type>".to_owned(),
    }
}

fn amount(quantity: Option<&Quantity>) -> &str {
    quantity.map_or("<nil>", |q| q.0.as_str())
}

fn value_or_average(target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    match &target.average_value {
        Some(average) => {
            let current = current.and_then(|c| c.average_value.as_ref()).map_or(UNKNOWN, |q| q.0.as_str());
            format!("{current}/{} (avg)", average.0)
        }
        None => {
            let current = current.map_or(UNKNOWN, |c| amount(c.value.as_ref()));
            format!("{current}/{}", amount(target.value.as_ref()))
        }
    }
}

fn resource(name: &str, target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    if let Some(average) = &target.average_value {
        let current = current.map_or(UNKNOWN, |c| amount(c.average_value.as_ref()));
        return format!("{name}: {current}/{}", average.0);
    }
    let percent = |value: Option<i32>, otherwise: &str| {
        value.map_or_else(|| otherwise.to_owned(), |percent| format!("{percent}%"))
    };
    let current = percent(current.and_then(|c| c.average_utilization), UNKNOWN);
    format!("{name}: {current}/{}", percent(target.average_utilization, "<auto>"))
}
