//! What an autoscaler may say.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HPAScalingPolicy, HPAScalingRules,
    HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget, ObjectMetricSource,
    PodsMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::field::{Errors, Path};
use crate::kinds::checks;
use crate::meta;

/// The longest period of a scaling policy.
const MAX_PERIOD_S: i32 = 1800;
/// The longest time over which recommendations are considered.
const MAX_STABILIZATION_WINDOW_S: i32 = 3600;

const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const SELECT_POLICIES: &[&str] = &["Disabled", "Max", "Min"];
const POLICY_TYPES: &[&str] = &["Percent", "Pods"];

/// How the `apiVersion` of a reference is checked.
#[derive(Clone, Copy)]
enum ApiVersion {
    /// Anything: it was accepted before.
    Any,
    /// Well-formed; the core group is fine.
    WellFormed,
    /// Well-formed and with a group.
    Grouped,
}

impl ApiVersion {
    fn problem(self, reference: &CrossVersionObjectReference) -> Option<String> {
        let text = reference.api_version.as_deref().unwrap_or_default();
        if matches!(self, ApiVersion::Any) {
            return None;
        }
        let group = match text.split('/').collect::<Vec<_>>().as_slice() {
            [_] | ["", ""] => "",
            [group, _] => group,
            _ => return Some(format!("unexpected GroupVersion string: {text}")),
        };
        let missing = group.is_empty() && matches!(self, ApiVersion::Grouped);
        missing.then(|| "apiVersion must specify API group".to_owned())
    }
}

/// Checks a spec; what was wrong in the old one already may stay wrong.
pub(super) fn validate_spec(
    spec: &HorizontalPodAutoscalerSpec,
    old: Option<&HorizontalPodAutoscalerSpec>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    // Scaling to zero is switched off upstream; who has it keeps it.
    let lowest_min = if old.is_some_and(|old| old.min_replicas == Some(0)) { 0 } else { 1 };
    if let Some(min) = spec.min_replicas
        && min < lowest_min
    {
        let detail = format!("must be greater than or equal to {lowest_min}");
        errors.invalid(&path.child("minReplicas"), min, &detail);
    }
    let max_path = path.child("maxReplicas");
    if spec.max_replicas == 0 {
        errors.required(&max_path, "must be set and greater than 0");
    } else if spec.max_replicas < 0 {
        errors.invalid(&max_path, spec.max_replicas, "must be greater than or equal to 1");
    }
    if spec.min_replicas.is_some_and(|min| spec.max_replicas < min) {
        errors.invalid(&max_path, spec.max_replicas, "must be greater than or equal to `minReplicas`");
    }
    let target = &spec.scale_target_ref;
    let unchanged = old.map(|old| &old.scale_target_ref).is_some_and(|old| {
        old.api_version.as_deref().unwrap_or_default() == target.api_version.as_deref().unwrap_or_default()
            && old.kind == target.kind
    });
    let target_version = match target.kind.as_str() {
        _ if unchanged => ApiVersion::Any,
        "ReplicationController" => ApiVersion::WellFormed,
        _ => ApiVersion::Grouped,
    };
    validate_reference(target, target_version, &path.child("scaleTargetRef"), errors);

    let old_objects = old.iter().flat_map(|o| o.metrics.iter().flatten());
    let old_invalid = old_objects
        .filter_map(|m| m.object.as_ref())
        .any(|o| ApiVersion::WellFormed.problem(&o.described_object).is_some());
    let object_version = if old_invalid { ApiVersion::Any } else { ApiVersion::WellFormed };
    validate_metrics(spec, object_version, &path.child("metrics"), errors);
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        for (name, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                validate_rules(rules, &path.child(name), errors);
            }
        }
    }
}

fn validate_name(name: &str, missing: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, missing);
        return;
    }
    for message in meta::path_segment_errors(name, false) {
        errors.invalid(path, name, &message);
    }
}

fn validate_reference(
    reference: &CrossVersionObjectReference,
    version: ApiVersion,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    validate_name(&reference.kind, "", &path.child("kind"), errors);
    validate_name(&reference.name, "", &path.child("name"), errors);
    if let Some(problem) = version.problem(reference) {
        let text = reference.api_version.as_deref().unwrap_or_default();
        errors.invalid(&path.child("apiVersion"), text, &problem);
    }
}

fn validate_metrics(
    spec: &HorizontalPodAutoscalerSpec,
    version: ApiVersion,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    for (i, metric) in metrics.iter().enumerate() {
        validate_metric(metric, version, &path.index(i), errors);
    }
    // Without pods, only a metric from elsewhere can ask for one.
    let from_elsewhere = |m: &MetricSpec| matches!(m.type_.as_str(), "Object" | "External");
    if spec.min_replicas == Some(0) && !metrics.iter().any(from_elsewhere) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(path, detail);
    }
}

fn validate_metric(metric: &MetricSpec, version: ApiVersion, path: &Path<'_>, errors: &mut Errors) {
    let type_path = path.child("type");
    if metric.type_.is_empty() {
        errors.required(&type_path, "must specify a metric source type");
    }
    let known = METRIC_TYPES.contains(&metric.type_.as_str());
    if !known {
        errors.not_supported(&type_path, &metric.type_, METRIC_TYPES);
    }
    // Only the first source that is there is looked into.
    if let Some(source) = &metric.object {
        validate_object(source, version, &path.child("object"), errors);
    } else if let Some(source) = &metric.external {
        validate_external(source, &path.child("external"), errors);
    } else if let Some(source) = &metric.pods {
        validate_pods(source, &path.child("pods"), errors);
    } else if let Some(source) = &metric.resource {
        let path = path.child("resource");
        if source.name.is_empty() {
            errors.required(&path.child("name"), "must specify a resource name");
        }
        validate_resource_target(&source.target, &path.child("target"), errors);
    } else if let Some(source) = &metric.container_resource {
        let path = path.child("containerResource");
        if source.name.is_empty() {
            errors.required(&path.child("name"), "must specify a resource name");
        } else {
            validate_container_resource_name(&source.name, &path.child("name"), errors);
        }
        let container = path.child("container");
        if source.container.is_empty() {
            errors.required(&container, "must specify a container");
        } else {
            for message in meta::dns1123_label_errors(&source.container) {
                errors.invalid(&container, &source.container, &message);
            }
        }
        validate_resource_target(&source.target, &path.child("target"), errors);
    }
    let sources = [
        ("containerResource", "ContainerResource", metric.container_resource.is_some()),
        ("external", "External", metric.external.is_some()),
        ("object", "Object", metric.object.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
    ];
    for (field, type_, present) in sources {
        if metric.type_ == type_ && !present {
            errors.required(&path.child(field), "must populate information for the given metric source");
        }
    }
    if !known {
        errors.not_supported(&type_path, &metric.type_, METRIC_TYPES);
    }
    if sources.iter().filter(|(_, _, present)| *present).count() != 1 {
        for (field, type_, present) in sources {
            if present && metric.type_ != type_ {
                errors.forbidden(&path.child(field), "must populate the given metric source only");
            }
        }
    }
}

fn validate_object(source: &ObjectMetricSource, version: ApiVersion, path: &Path<'_>, errors: &mut Errors) {
    validate_reference(&source.described_object, version, &path.child("describedObject"), errors);
    validate_identifier(&source.metric, &path.child("metric"), errors);
    let target = path.child("target");
    validate_target(&source.target, &target, errors);
    if source.target.value.is_none() && source.target.average_value.is_none() {
        let detail = "must set either a target value or averageValue";
        errors.required(&target.child("averageValue"), detail);
    }
}

fn validate_external(source: &ExternalMetricSource, path: &Path<'_>, errors: &mut Errors) {
    validate_identifier(&source.metric, &path.child("metric"), errors);
    let target = path.child("target");
    validate_target(&source.target, &target, errors);
    match (&source.target.value, &source.target.average_value) {
        (None, None) => errors.required(
            &target.child("averageValue"),
            "must set either a target value for metric or a per-pod target",
        ),
        (Some(_), Some(_)) => errors.forbidden(
            &target.child("value"),
            "may not set both a target value for metric and a per-pod target",
        ),
        _ => {}
    }
}

fn validate_pods(source: &PodsMetricSource, path: &Path<'_>, errors: &mut Errors) {
    validate_identifier(&source.metric, &path.child("metric"), errors);
    let target = path.child("target");
    validate_target(&source.target, &target, errors);
    if source.target.average_value.is_none() {
        errors.required(&target.child("averageValue"), "must specify a positive target averageValue");
    }
}

fn validate_resource_target(target: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    validate_target(target, path, errors);
    match (&target.average_utilization, &target.average_value) {
        (None, None) => errors.required(
            &path.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (Some(_), Some(_)) => errors.forbidden(
            &path.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        _ => {}
    }
}

/// Resources without a domain that containers cannot have, though quotas know them.
const QUOTA_RESOURCES: &[&str] = &[
    "storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// A resource that containers can have.
fn validate_container_resource_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let malformed = !skep_base::label::is_key(name);
    meta::validate_qualified_name(name, path, errors);
    if !name.contains('/') {
        let of_containers =
            matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if !of_containers {
            let of_quotas = QUOTA_RESOURCES.contains(&name) || name.starts_with("requests.hugepages-");
            if !malformed && !of_quotas {
                errors.invalid(path, name, "must be a standard resource type or fully qualified");
            }
            errors.invalid(path, name, "must be a standard resource for containers");
        }
        return;
    }
    // Names of the project's own domains are its own; all others must be able to become quota names.
    let native = name.contains("kubernetes.io/");
    let quota_name = format!("requests.{name}");
    if !native && (name.starts_with("requests.") || !skep_base::label::is_key(&quota_name)) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn validate_target(target: &MetricTarget, path: &Path<'_>, errors: &mut Errors) {
    let type_path = path.child("type");
    if target.type_.is_empty() {
        errors.required(&type_path, "must specify a metric target type");
    }
    if !matches!(target.type_.as_str(), "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&type_path, &target.type_, "must be either Utilization, Value, or AverageValue");
    }
    positive(target.value.as_ref(), &path.child("value"), errors);
    positive(target.average_value.as_ref(), &path.child("averageValue"), errors);
    if let Some(percent) = target.average_utilization
        && percent < 1
    {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn positive(quantity: Option<&Quantity>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(quantity) = quantity
        && let Some(amount) = meta::parse_quantity(quantity, path, errors)
        && amount.signum() != 1
    {
        errors.invalid(path, &quantity.0, "must be positive");
    }
}

fn validate_identifier(metric: &MetricIdentifier, path: &Path<'_>, errors: &mut Errors) {
    validate_name(&metric.name, "must specify a metric name", &path.child("name"), errors);
}

fn validate_rules(rules: &HPAScalingRules, path: &Path<'_>, errors: &mut Errors) {
    if let Some(window_s) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if window_s < 0 {
            errors.invalid(&path, window_s, "must be greater than or equal to zero");
        }
        if window_s > MAX_STABILIZATION_WINDOW_S {
            let detail = format!("must be less than or equal to {MAX_STABILIZATION_WINDOW_S}");
            errors.invalid(&path, window_s, &detail);
        }
    }
    if let Some(policy) = rules.select_policy.as_deref()
        && !SELECT_POLICIES.contains(&policy)
    {
        errors.not_supported(&path.child("selectPolicy"), policy, SELECT_POLICIES);
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let policies_path = path.child("policies");
    if policies.is_empty() {
        errors.required(&policies_path, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        validate_policy(policy, &policies_path.index(i), errors);
    }
    if let Some(tolerance) = &rules.tolerance {
        checks::nonnegative_quantity(tolerance, &path.child("tolerance"), errors);
    }
}

fn validate_policy(policy: &HPAScalingPolicy, path: &Path<'_>, errors: &mut Errors) {
    if !POLICY_TYPES.contains(&policy.type_.as_str()) {
        errors.not_supported(&path.child("type"), &policy.type_, POLICY_TYPES);
    }
    if policy.value <= 0 {
        errors.invalid(&path.child("value"), policy.value, "must be greater than zero");
    }
    let period = path.child("periodSeconds");
    if policy.period_seconds <= 0 {
        errors.invalid(&period, policy.period_seconds, "must be greater than zero");
    }
    if policy.period_seconds > MAX_PERIOD_S {
        let detail = format!("must be less than or equal to {MAX_PERIOD_S}");
        errors.invalid(&period, policy.period_seconds, &detail);
    }
}
