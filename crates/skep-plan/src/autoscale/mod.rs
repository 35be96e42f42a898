//! HorizontalPodAutoscaler: how many replicas a workload should have by what its pods use.

mod behavior;
mod replicas;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use skep_base::Quantity;
use skep_base::quantity::Format;

use crate::condition::{Condition, json_of};
use crate::meta::Meta;
use crate::time::Time;
use crate::{Event, Selector};
use behavior::{Wish, normalize};

pub use behavior::{Behavior, History, Policy, Rules};
pub use replicas::{Member, Proposal, Readiness, Sample, Samples, Tolerances};

/// A view of a HorizontalPodAutoscaler (`autoscaling/v2`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Autoscaler {
    /// `metadata`.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// `spec`.
    pub spec: Spec,
    /// `status`.
    #[serde(deserialize_with = "null_is_default")]
    pub status: Status,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// What is scaled.
    pub scale_target_ref: Reference,
    /// The fewest replicas.
    pub min_replicas: Option<i32>,
    /// The most.
    pub max_replicas: i32,
    /// By what.
    #[serde(deserialize_with = "null_is_default")]
    pub metrics: Vec<Metric>,
    /// How.
    pub behavior: Option<Behavior>,
}

/// An object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reference {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `name`.
    pub name: String,
}

/// One of `spec.metrics`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    /// `type`, which says which of the others there is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Use of a resource by pods.
    pub resource: Option<ResourceSource>,
    /// Use of a resource by one container of each pod.
    pub container_resource: Option<ResourceSource>,
    /// A custom metric of pods.
    pub pods: Option<CustomSource>,
    /// A custom metric of another object.
    pub object: Option<CustomSource>,
    /// A metric from outside.
    pub external: Option<CustomSource>,
}

/// A resource.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSource {
    /// `cpu`, `memory`.
    pub name: String,
    /// Only of this container.
    pub container: String,
    /// What it should be.
    pub target: Target,
}

/// A metric with a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomSource {
    /// Which.
    pub metric: Identifier,
    /// Of which object.
    pub described_object: Option<Reference>,
    /// What it should be.
    pub target: Target,
}

/// A metric's name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Identifier {
    /// The name.
    pub name: String,
    /// Which of its series: a label selector as it was written.
    pub selector: Option<Value>,
}

/// What a metric should be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Target {
    /// `Utilization`, `Value`, `AverageValue`.
    #[serde(rename = "type")]
    pub kind: String,
    /// All together.
    pub value: Option<Quantity>,
    /// Per pod.
    pub average_value: Option<Quantity>,
    /// Per cent of requests.
    pub average_utilization: Option<i32>,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// When it was scaled last.
    pub last_scale_time: Option<Time>,
    /// As the target said last.
    pub current_replicas: i32,
    /// As wanted last.
    pub desired_replicas: i32,
    /// What metrics were.
    #[serde(deserialize_with = "null_is_default")]
    pub current_metrics: Vec<Value>,
    /// `conditions`.
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: Vec<Condition>,
}

impl Status {
    /// A merge patch of the status subresource.
    #[must_use]
    pub fn patch(&self) -> Value {
        let metrics = if self.current_metrics.is_empty() { Value::Null } else { json!(self.current_metrics) };
        json!({ "status": {
            "lastScaleTime": self.last_scale_time,
            "currentReplicas": self.current_replicas,
            "desiredReplicas": self.desired_replicas,
            "currentMetrics": metrics,
            "conditions": json_of(&self.conditions),
        }})
    }

    fn set(&mut self, now: Timestamp, kind: &str, status: bool, reason: &str, message: impl Into<String>) {
        let status = if status { "True" } else { "False" };
        let known = self.conditions.iter().position(|c| c.kind == kind);
        let since = known.and_then(|at| {
            let c = &self.conditions[at];
            c.last_transition_time.filter(|_| c.status == status)
        });
        let new = Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: Some(since.unwrap_or_else(|| Time::of(now))),
            ..Condition::default()
        };
        match known {
            Some(at) => self.conditions[at] = new,
            None => self.conditions.push(new),
        }
    }
}

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";

/// What a metric was found to be.
#[derive(Clone, Debug)]
pub enum Found {
    /// A sample for each of some pods.
    Pods(Samples),
    /// One value, in thousandths.
    Value(i64),
}

/// The target as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`.
    pub wanted: i32,
    /// `status.replicas`.
    pub there: i32,
}

/// What an autoscaler should do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The size to give the target, if another.
    pub rescale: Option<i32>,
    /// Why.
    pub reason: String,
    /// The status, but for what comes of rescaling.
    pub status: Status,
    /// What people should hear.
    pub events: Vec<Event>,
}

/// The status of one whose target cannot be scaled.
#[must_use]
pub fn without_scale(now: Timestamp, autoscaler: &Autoscaler, error: &str) -> Plan {
    let mut status = autoscaler.status.clone();
    let message = format!("the HPA controller was unable to get the target's current scale: {error}");
    status.set(now, ABLE, false, "FailedGetScale", message);
    Plan { status, events: vec![Event::warning("FailedGetScale", error)], ..Plan::default() }
}

/// Whether metrics matter at this size; if not they need not be asked for.
#[must_use]
pub fn needs_metrics(spec: &Spec, scale: Scale) -> bool {
    scale.wanted != 0 && scale.wanted <= spec.max_replicas && scale.wanted >= spec.min_replicas.unwrap_or(1)
}

/// What is known of the pods that a target's selector picks.
pub struct Measured<'a> {
    /// Why they are not known: reason and message of the condition, and reason and message of the event.
    pub selector: Result<(), (&'static str, String, &'static str, String)>,
    /// The pods, with what they request of a resource: of one container, or of all where it is empty.
    pub members: &'a dyn Fn(&str, &str) -> Vec<Member>,
    /// The metrics, one for each of the spec's; or why there is none.
    pub found: &'a [Result<Found, String>],
}

/// Decides. `history` is the autoscaler's own, empty at first.
#[must_use]
pub fn plan(
    now: Timestamp,
    autoscaler: &Autoscaler,
    scale: Scale,
    measured: &Measured<'_>,
    history: &mut History,
) -> Plan {
    let spec = &autoscaler.spec;
    let current = scale.wanted;
    let min = spec.min_replicas.unwrap_or(1);
    let mut plan = Plan { status: autoscaler.status.clone(), ..Plan::default() };
    let got = "the HPA controller was able to get the target's current scale";
    plan.status.set(now, ABLE, true, "SucceededGetScale", got);
    history.begin(now, current);
    let mut metrics = Vec::new();
    let desired = if current == 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        plan.status.set(now, ACTIVE, false, "ScalingDisabled", message);
        current
    } else if current > spec.max_replicas {
        "Current number of replicas above Spec.MaxReplicas".clone_into(&mut plan.reason);
        spec.max_replicas
    } else if current < min {
        "Current number of replicas below Spec.MinReplicas".clone_into(&mut plan.reason);
        min
    } else {
        match propose(now, spec, scale, measured, &mut plan, &mut metrics) {
            None => {
                plan.status.current_replicas = current;
                plan.status.current_metrics = metrics;
                return plan;
            }
            Some((wanted, metric)) => {
                let wish = Wish { now, current, wanted, min, max: spec.max_replicas };
                let normal = normalize(&wish, spec.behavior.as_ref(), history);
                plan.status.set(now, ABLE, true, normal.able.0, normal.able.1);
                let (limited, reason, message) = normal.limited;
                plan.status.set(now, LIMITED, limited, reason, message);
                if wanted > current {
                    plan.reason = format!("{metric} above target");
                } else if wanted < current {
                    "All metrics below target".clone_into(&mut plan.reason);
                }
                normal.replicas
            }
        }
    };
    plan.rescale = (desired != current).then_some(desired);
    plan.status.current_replicas = current;
    plan.status.desired_replicas = desired;
    plan.status.current_metrics = metrics;
    plan
}

/// What the metrics ask for together, and which of them; `None` when they cannot say.
fn propose(
    now: Timestamp,
    spec: &Spec,
    scale: Scale,
    measured: &Measured<'_>,
    plan: &mut Plan,
    statuses: &mut Vec<Value>,
) -> Option<(i32, String)> {
    if let Err((reason, message, event, text)) = &measured.selector {
        plan.status.set(now, ACTIVE, false, reason, message.clone());
        plan.events.push(Event::warning(event, text.clone()));
        plan.events.push(Event::warning("FailedComputeMetricsReplicas", text.clone()));
        return None;
    }
    let mut best: Option<(i32, String)> = None;
    let mut failures: Vec<(&'static str, String, String)> = Vec::new();
    for (metric, found) in spec.metrics.iter().zip(measured.found) {
        match evaluate(now, spec, scale, metric, found, measured.members) {
            Ok(evaluated) => {
                statuses.push(evaluated.status);
                if best.as_ref().is_none_or(|(most, _)| evaluated.replicas > *most) {
                    best = Some((evaluated.replicas, evaluated.name));
                }
            }
            Err(failure) => {
                plan.events.push(Event::warning(failure.0, failure.1.clone()));
                // Upstream leaves an empty one in its place.
                statuses.push(json!({"type": ""}));
                failures.push(failure);
            }
        }
    }
    let replicas = best.as_ref().map_or(0, |(n, _)| *n);
    if let Some((reason, error, whole)) = failures.first()
        && (failures.len() >= spec.metrics.len() || replicas < scale.wanted)
    {
        let message = format!("the HPA was unable to compute the replica count: {error}");
        plan.status.set(now, ACTIVE, false, reason, message);
        let (bad, all) = (failures.len(), spec.metrics.len());
        let text = format!("invalid metrics ({bad} invalid out of {all}), first error is: {whole}");
        plan.events.push(Event::warning("FailedComputeMetricsReplicas", text));
        return None;
    }
    let best = best?;
    let message = format!("the HPA was able to successfully calculate a replica count from {}", best.1);
    plan.status.set(now, ACTIVE, true, "ValidMetricFound", message);
    Some(best)
}

struct Evaluated {
    replicas: i32,
    name: String,
    status: Value,
}

/// Reason of the condition, what went wrong, and that as a part of the whole sentence.
type Failure = (&'static str, String, String);

fn evaluate(
    now: Timestamp,
    spec: &Spec,
    scale: Scale,
    metric: &Metric,
    found: &Result<Found, String>,
    members: &dyn Fn(&str, &str) -> Vec<Member>,
) -> Result<Evaluated, Failure> {
    let tolerances = tolerances(spec);
    let fail = |reason: &'static str, part: &str, error: String| -> Failure {
        let whole = format!("failed to get {part} metric value: {error}");
        (reason, error, whole)
    };
    let samples = || match found {
        Ok(Found::Pods(samples)) => Ok(samples.clone()),
        Ok(Found::Value(_)) => Err("the metric has no samples of pods".to_owned()),
        Err(error) => Err(error.clone()),
    };
    let value = || match found {
        Ok(Found::Value(value)) => Ok(*value),
        Ok(Found::Pods(_)) => Err("the metric is one of pods".to_owned()),
        Err(error) => Err(error.clone()),
    };
    match (metric.kind.as_str(), metric) {
        ("Resource", Metric { resource: Some(source), .. })
        | ("ContainerResource", Metric { container_resource: Some(source), .. }) => {
            let own = metric.kind == "ContainerResource";
            let name = &source.name;
            let result = by_resource(now, scale.wanted, source, own, tolerances, &samples, members);
            let (proposal, metric_name, current) = result.map_err(|error| {
                if own {
                    fail(
                        "FailedGetContainerResourceMetric",
                        &format!("{} container", source.container),
                        error,
                    )
                } else {
                    fail("FailedGetResourceMetric", &format!("{name} resource"), error)
                }
            })?;
            let status = if own {
                json!({"type": "ContainerResource", "containerResource":
                    {"name": name, "container": source.container, "current": current}})
            } else {
                json!({"type": "Resource", "resource": {"name": name, "current": current}})
            };
            Ok(Evaluated { replicas: proposal.replicas, name: metric_name, status })
        }
        ("Pods", Metric { pods: Some(source), .. }) => {
            let target = source.target.average_value.map_or(0, Quantity::milli_value);
            let name = &source.metric.name;
            let result =
                samples().map_err(|e| format!("unable to get metric {name}: {e}")).and_then(|samples| {
                    replicas::by_average(
                        now,
                        scale.wanted,
                        target,
                        tolerances,
                        false,
                        &members("", ""),
                        samples,
                    )
                });
            let proposal = result.map_err(|e| fail("FailedGetPodsMetric", "pods", e))?;
            let status = json!({"type": "Pods", "pods": {"metric": identifier(&source.metric),
                "current": {"averageValue": Quantity::from_milli(proposal.value)}}});
            Ok(Evaluated { replicas: proposal.replicas, name: format!("pods metric {name}"), status })
        }
        ("Object", Metric { object: Some(source), .. }) => {
            let object = source.described_object.clone().unwrap_or_default();
            let name = &source.metric.name;
            let value = value().map_err(|e| {
                let what = format!("unable to get metric {name}: {} on {}", object.kind, object.name);
                fail("FailedGetObjectMetric", "object", format!("{what} {e}"))
            })?;
            let (proposal, current, metric_name) = by_one(scale, source, value, tolerances, members)
                .map_err(|e| fail("FailedGetObjectMetric", "object", e.replace("KIND", "object")))?;
            let described =
                json!({"apiVersion": object.api_version, "kind": object.kind, "name": object.name});
            let status = json!({"type": "Object", "object": {"metric": identifier(&source.metric),
                "describedObject": described, "current": current}});
            let metric_name = metric_name.unwrap_or_else(|| format!("{} metric {name}", object.kind));
            Ok(Evaluated { replicas: proposal.replicas, name: metric_name, status })
        }
        ("External", Metric { external: Some(source), .. }) => {
            let name = &source.metric.name;
            let part = format!("{name} external");
            let (proposal, current, _) = value()
                .map_err(|e| format!("unable to get external metric {name}: {e}"))
                .and_then(|value| by_one(scale, source, value, tolerances, members))
                .map_err(|e| fail("FailedGetExternalMetric", &part, e.replace("KIND", "external")))?;
            let status = json!({"type": "External", "external":
                {"metric": identifier(&source.metric), "current": current}});
            Ok(Evaluated { replicas: proposal.replicas, name: shown(source), status })
        }
        (other, _) => {
            let error = format!("unknown metric source type {other:?}");
            Err(("InvalidMetricSourceType", error.clone(), error))
        }
    }
}

fn shown(source: &CustomSource) -> String {
    let selector = source.metric.selector.as_ref().map_or_else(|| "nil".to_owned(), Value::to_string);
    format!("external metric {}({selector})", source.metric.name)
}

fn tolerances(spec: &Spec) -> Tolerances {
    let usual = Tolerances::default();
    let Some(behavior) = &spec.behavior else { return usual };
    Tolerances {
        down: behavior.scale_down.tolerance.map_or(usual.down, Quantity::to_f64),
        up: behavior.scale_up.tolerance.map_or(usual.up, Quantity::to_f64),
    }
}

fn identifier(metric: &Identifier) -> Value {
    match &metric.selector {
        Some(selector) => json!({"name": metric.name, "selector": selector}),
        None => json!({"name": metric.name}),
    }
}

/// A proposal, the metric's name, and its value for the status.
type ByResource = (Proposal, String, Value);

fn by_resource(
    now: Timestamp,
    current: i32,
    source: &ResourceSource,
    own_container: bool,
    tolerances: Tolerances,
    samples: &dyn Fn() -> Result<Samples, String>,
    members: &dyn Fn(&str, &str) -> Vec<Member>,
) -> Result<ByResource, String> {
    let name = &source.name;
    let pods = members(name, &source.container);
    let is_cpu = name == "cpu";
    let format = if name == "memory" { Format::BinarySi } else { Format::DecimalSi };
    let quantity = |milli: i64| Quantity::from_nanos(i128::from(milli) * 1_000_000, format);
    let samples = |what: &str| {
        samples().map_err(|e| {
            format!("failed to get {name} {what}: unable to get metrics for resource {name}: {e}")
        })
    };
    if let Some(target) = source.target.average_value {
        let samples = samples("usage")?;
        let target = target.milli_value();
        let proposal = replicas::by_average(now, current, target, tolerances, is_cpu, &pods, samples)
            .map_err(|e| format!("failed to get {name} usage: {e}"))?;
        let value = json!({"averageValue": quantity(proposal.value)});
        return Ok((proposal, format!("{name} resource"), value));
    }
    let Some(target) = source.target.average_utilization else {
        return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned());
    };
    let samples = samples("utilization")?;
    let proposal = replicas::by_utilization(now, current, target, tolerances, is_cpu, &pods, samples)
        .map_err(|e| format!("failed to get {name} utilization: {e}"))?;
    let value = json!({"averageUtilization": proposal.utilization, "averageValue": quantity(proposal.value)});
    let container = if own_container { "container " } else { "" };
    Ok((proposal, format!("{name} {container}resource utilization (percentage of request)"), value))
}

/// A proposal, the metric's value for the status, and its name where the target says it.
type ByOne = (Proposal, Value, Option<String>);

fn by_one(
    scale: Scale,
    source: &CustomSource,
    value: i64,
    tolerances: Tolerances,
    members: &dyn Fn(&str, &str) -> Vec<Member>,
) -> Result<ByOne, String> {
    let of_object = source.described_object.is_some();
    let target = &source.target;
    // An object's metric goes by the target's type, one from outside by what is set, as upstream.
    let share = target.average_value.filter(|_| !of_object || target.kind == "AverageValue");
    let whole = target.value.filter(|_| !of_object || target.kind == "Value");
    if let Some(share) = share {
        let proposal = replicas::by_share(scale.there, value, share.milli_value(), tolerances);
        let current = json!({"averageValue": Quantity::from_milli(proposal.value)});
        return Ok((proposal, current, Some(shown(source))));
    }
    if let Some(whole) = whole {
        let proposal =
            replicas::by_value(scale.wanted, value, whole.milli_value(), tolerances, &members("", ""))?;
        let current = json!({"value": Quantity::from_milli(proposal.value)});
        return Ok((proposal, current, None));
    }
    Err("invalid KIND metric source: neither a value target nor an average value target was set".to_owned())
}

/// What comes of rescaling: to be called after the target was changed, or could not be.
pub fn rescaled(
    now: Timestamp,
    plan: &mut Plan,
    from: i32,
    to: i32,
    result: Result<(), String>,
    history: &mut History,
) {
    match result {
        Ok(()) => {
            let message = format!("the HPA controller was able to update the target scale to {to}");
            plan.status.set(now, ABLE, true, "SucceededRescale", message);
            plan.status.last_scale_time = Some(Time::of(now));
            let reason = &plan.reason;
            plan.events.push(Event::normal("SuccessfulRescale", format!("New size: {to}; reason: {reason}")));
            history.resized(now, from, to);
        }
        Err(error) => {
            let reason = &plan.reason;
            let text = format!("New size: {to}; reason: {reason}; error: {error}");
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            plan.status.set(now, ABLE, false, "FailedUpdateScale", message);
            plan.status.desired_replicas = from;
            plan.events.push(Event::warning("FailedRescale", text));
        }
    }
}

impl Identifier {
    /// Its selector as a request carries it; empty for all series.
    ///
    /// # Errors
    /// When it is none.
    pub fn selector_text(&self) -> Result<String, String> {
        let Some(written) = &self.selector else { return Ok(String::new()) };
        let selector: Selector = serde_json::from_value(written.clone()).map_err(|e| e.to_string())?;
        selector.text().ok_or_else(|| format!("{written} is not a valid label selector"))
    }
}

#[cfg(test)]
#[path = "../autoscale_tests.rs"]
mod tests;
