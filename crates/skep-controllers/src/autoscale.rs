//! HorizontalPodAutoscaler: looks every few seconds at what pods use and sets the size of what runs them.
//!
//! Metrics are read from the APIs that users have them served by (`metrics.k8s.io`, `custom.metrics.k8s.io`,
//! `external.metrics.k8s.io`), in the autoscaler's own tenant. What is to be done is `skep-plan`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::json;
use skep_base::{LabelSelector, Quantity};
use skep_client::informer::Builder;
use skep_client::record::EventType;
use skep_client::{
    Client, Error, Event, Informer, Level, ListParams, Object, ObjectKey, ObjectPath, Patch, Resource,
};
use skep_plan::autoscale::{
    self, Autoscaler, CustomSource, Found, History, Measured, Member, Metric, Plan, Readiness, Sample,
    Samples, Scale,
};
use skep_plan::pod::Phase;

use crate::discovery;
use crate::frame::Writes;
use crate::views::{BY_NAMESPACE, Pod, regarding};
use crate::{Controller, Kind, Next, Setup, SyncError};

/// As upstream's.
const NAME: &str = "horizontal-pod-autoscaler-controller";
/// How often each is looked at, as upstream.
const PERIOD: Duration = Duration::from_secs(15);
/// Over how long a custom metric is taken that does not say so, as upstream.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_mins(1);

impl Kind for Autoscaler {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler>();
    fn indexes(builder: Builder<Autoscaler>) -> Builder<Autoscaler> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace))
    }
}

/// What is remembered of an autoscaler between looks.
#[derive(Default)]
struct Memory {
    /// Of which object; another of its name starts anew.
    uid: String,
    history: History,
    /// What its target's selector was last.
    selector: Option<LabelSelector>,
}

struct Loop {
    client: Client,
    autoscalers: Informer<Autoscaler>,
    pods: Informer<Pod>,
    writes: Writes,
    memory: Mutex<FxHashMap<ObjectKey, Memory>>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let (autoscalers, pods) = (setup.informer::<Autoscaler>(), setup.informer::<Pod>());
    let enqueue = setup.enqueue(NAME);
    autoscalers.on_event(move |event| match event {
        // Its own status is no news.
        Event::Changed { old, new } if old.meta.generation == new.meta.generation => {}
        Event::Deleted(gone) => enqueue.add(&gone.key, Level::Delete),
        event => enqueue.event(event),
    });
    setup.resync(NAME, &autoscalers);
    Arc::new(Loop {
        client: setup.client().clone(),
        autoscalers,
        pods,
        writes: setup.writes("horizontal-pod-autoscaler"),
        memory: Mutex::default(),
    })
}

#[derive(Deserialize)]
struct ScaleView {
    metadata: ScaleMeta,
    #[serde(default)]
    spec: ScaleSpec,
    #[serde(default)]
    status: ScaleStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScaleMeta {
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaleSpec {
    replicas: i32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaleStatus {
    replicas: i32,
    selector: String,
}

#[derive(Deserialize)]
struct Items<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    #[serde(default, deserialize_with = "window")]
    window: SignedDuration,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, Quantity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Option<Named>,
    timestamp: Option<Timestamp>,
    window_seconds: Option<i64>,
    value: Quantity,
}

/// Go writes durations as `1m0s`.
fn window<'de, D: serde::Deserializer<'de>>(d: D) -> Result<SignedDuration, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map_err(|e| serde::de::Error::custom(format!("the window {text:?}: {e}")))
}

impl Loop {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(object) = self.autoscalers.get(key) else {
            self.memory.lock().remove(key);
            return Ok(Next::Wait);
        };
        let now = Timestamp::now();
        let about = regarding(&object, "autoscaling/v2", "HorizontalPodAutoscaler");
        let (mut history, known) = {
            let mut all = self.memory.lock();
            let memory = all.entry(key.clone()).or_default();
            if *memory.uid != *object.uid {
                *memory = Memory { uid: object.uid.to_string(), ..Memory::default() };
            }
            (std::mem::take(&mut memory.history), memory.selector.clone())
        };
        let mut selector = known;
        let plan = match self.target(&object).await {
            Err(error) => autoscale::without_scale(now, &object, &error),
            Ok((at, scale)) => {
                selector = scale.status.selector.parse().ok();
                self.decide(now, &object, &at, &scale, &mut history).await
            }
        };
        {
            let mut all = self.memory.lock();
            let memory = all.entry(key.clone()).or_default();
            memory.history = history;
            memory.selector = selector;
        }
        for event in &plan.events {
            let kind = if event.warning { EventType::Warning } else { EventType::Normal };
            self.writes.recorder.event(&about, kind, event.reason, event.message.clone());
        }
        if plan.status != object.status {
            let at = Autoscaler::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
            let mut patch = plan.status.patch();
            patch["metadata"] = json!({"uid": &*object.uid});
            match self.autoscalers.patch(&at.subresource("status"), &Patch::Merge(patch)).await {
                Err(error) if error.is_not_found() => return Ok(Next::Wait),
                result => drop(result?),
            }
        }
        Ok(Next::After(PERIOD))
    }

    /// Where the target's scale is, and what it is; or why it cannot be had.
    async fn target(&self, object: &Object<Autoscaler>) -> Result<(ObjectPath, ScaleView), String> {
        let target = &object.spec.scale_target_ref;
        let (group, kind) =
            (target.api_version.rsplit_once('/').map_or("", |(group, _)| group), target.kind.as_str());
        let resource = match (group, kind) {
            ("apps", "Deployment") => Resource::new("apps", "v1", "deployments"),
            ("apps", "StatefulSet") => Resource::new("apps", "v1", "statefulsets"),
            ("apps", "ReplicaSet") => Resource::new("apps", "v1", "replicasets"),
            ("", "ReplicationController") => Resource::new("", "v1", "replicationcontrollers"),
            _ => {
                let served = discovery::served_to(&self.client, &object.key.tenant);
                let served = served.await.map_err(|e| e.to_string())?;
                let known = served.into_iter().find(|s| *s.resource.group == *group && s.kind == kind);
                known.map(|s| s.resource).ok_or_else(|| {
                    let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
                    format!("no matches for kind \"{kind}{suffix}\"")
                })?
            }
        };
        let key = &object.key;
        let at = resource.at(&key.tenant).namespace(&key.namespace).name(&target.name).subresource("scale");
        let scale = self.client.read(&at).await.map_err(|e| e.to_string())?;
        Ok((at, scale))
    }

    async fn decide(
        &self,
        now: Timestamp,
        object: &Object<Autoscaler>,
        at: &ObjectPath,
        view: &ScaleView,
        history: &mut History,
    ) -> Plan {
        let key = &object.key;
        let scale = Scale { wanted: view.spec.replicas, there: view.status.replicas };
        let mut pods = Vec::new();
        let mut selector = Ok(());
        let mut found = Vec::new();
        if autoscale::needs_metrics(&object.spec, scale) {
            selector = self.select(key, &view.status.selector, &mut pods);
            if selector.is_ok() {
                for metric in &object.spec.metrics {
                    found.push(self.measure(key, metric, &view.status.selector).await);
                }
            }
        }
        let mut plan = {
            let members = |resource: &str, container: &str| {
                pods.iter().map(|p| member(p, resource, container)).collect::<Vec<Member>>()
            };
            let measured = Measured { selector, members: &members, found: &found };
            autoscale::plan(now, object, scale, &measured, history)
        };
        if let Some(to) = plan.rescale {
            // On condition: somebody else may have set another size in between, and then that is where to start from.
            let patch = json!({"metadata": {"resourceVersion": view.metadata.resource_version},
                "spec": {"replicas": to}});
            let result = self.client.patch_bytes(at, &Patch::Merge(patch)).await;
            let result = result.map(drop).map_err(|e| e.to_string());
            autoscale::rescaled(now, &mut plan, scale.wanted, to, result, history);
        }
        plan
    }

    /// The pods that a target's selector picks, unless another autoscaler works on them too.
    fn select(
        &self,
        key: &ObjectKey,
        selector: &str,
        pods: &mut Vec<Arc<Object<Pod>>>,
    ) -> Result<(), (&'static str, String, &'static str, String)> {
        if selector.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return Err(("InvalidSelector", message, "SelectorRequired", "selector is required".to_owned()));
        }
        let parsed: LabelSelector = selector.parse().map_err(|e| {
            let message =
                format!("couldn't convert selector into a corresponding internal selector object: {e}");
            ("InvalidSelector", message.clone(), "InvalidSelector", message)
        })?;
        *pods = self.pods.by_index(BY_NAMESPACE, &key.tenant, &key.namespace);
        pods.retain(|p| parsed.matches(|k| p.labels().get(k)));
        let memory = self.memory.lock();
        let mut all: Vec<&str> = memory
            .iter()
            .filter(|(other, _)| other.tenant == key.tenant && other.namespace == key.namespace)
            .filter(|(other, m)| {
                *other == key
                    || m.selector
                        .as_ref()
                        .is_some_and(|s| pods.iter().any(|p| s.matches(|k| p.labels().get(k))))
            })
            .map(|(other, _)| &*other.name)
            .collect();
        all.sort_unstable();
        if all.len() > 1 {
            let names: Vec<String> = all.iter().map(|name| format!("{{{name} {}}}", key.namespace)).collect();
            let message =
                format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", names.join(" "));
            return Err(("AmbiguousSelector", message.clone(), "AmbiguousSelector", message));
        }
        Ok(())
    }

    async fn measure(&self, key: &ObjectKey, metric: &Metric, pods: &str) -> Result<Found, String> {
        match (metric.kind.as_str(), metric) {
            ("Resource", Metric { resource: Some(source), .. })
            | ("ContainerResource", Metric { container_resource: Some(source), .. }) => {
                self.usage(key, &source.name, &source.container, pods).await.map(Found::Pods)
            }
            ("Pods", Metric { pods: Some(source), .. }) => {
                let at = custom_metrics("pods").at(&key.tenant).namespace(&key.namespace).name("*");
                let items = self.custom(&at.subresource(&source.metric.name), source, pods).await?;
                let samples = items.into_iter().filter_map(|m| {
                    let window = m.window_seconds.map_or(DEFAULT_WINDOW, SignedDuration::from_secs);
                    let sample = Sample { at: m.timestamp?, window, milli: m.value.milli_value() };
                    Some((m.described_object?.name, sample))
                });
                Ok(Found::Pods(samples.collect()))
            }
            ("Object", Metric { object: Some(source), .. }) => {
                self.of_object(key, source).await.map(Found::Value)
            }
            ("External", Metric { external: Some(source), .. }) => {
                let resource = Resource::dynamic("external.metrics.k8s.io", "v1beta1", &source.metric.name);
                let at = resource.at(&key.tenant).namespace(&key.namespace);
                let params = ListParams { labels: source.metric.selector_text()?, ..ListParams::default() };
                let items: Items<MetricValue> = self
                    .read(&at, &params)
                    .await
                    .map_err(|e| format!("unable to fetch metrics from external metrics API: {e}"))?;
                if items.items.is_empty() {
                    return Err("no metrics returned from external metrics API".to_owned());
                }
                let sum = items.items.iter().fold(0_i64, |sum, m| sum.saturating_add(m.value.milli_value()));
                Ok(Found::Value(sum))
            }
            // The planner says what is wrong with others.
            _ => Err(String::new()),
        }
    }

    async fn usage(
        &self,
        key: &ObjectKey,
        resource: &str,
        container: &str,
        pods: &str,
    ) -> Result<Samples, String> {
        let at = Resource::new("metrics.k8s.io", "v1beta1", "pods").at(&key.tenant).namespace(&key.namespace);
        let params = ListParams { labels: pods.to_owned(), ..ListParams::default() };
        let all: Items<PodMetrics> = self
            .read(&at, &params)
            .await
            .map_err(|e| format!("unable to fetch metrics from resource metrics API: {e}"))?;
        if all.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(all.items.into_iter().filter_map(|pod| sample(pod, resource, container)).collect())
    }

    async fn custom(
        &self,
        at: &ObjectPath,
        source: &CustomSource,
        pods: &str,
    ) -> Result<Vec<MetricValue>, String> {
        let path = at.with_query([
            ("labelSelector", pods.into()),
            ("metricLabelSelector", source.metric.selector_text()?.into()),
        ]);
        let items: Items<MetricValue> = self
            .client
            .get(&path)
            .await
            .map_err(|e| format!("unable to fetch metrics from custom metrics API: {e}"))?;
        if items.items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        Ok(items.items)
    }

    async fn of_object(&self, key: &ObjectKey, source: &CustomSource) -> Result<i64, String> {
        let object = source.described_object.clone().unwrap_or_default();
        let group = object.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let at = if group.is_empty() && object.kind == "Namespace" {
            // Whatever name it has: that would lead out of the namespace.
            custom_metrics("metrics").at(&key.tenant).namespace(&key.namespace).name(&source.metric.name)
        } else {
            let served = discovery::served_to(&self.client, &key.tenant).await.map_err(|e| e.to_string())?;
            let known = served.into_iter().find(|s| *s.resource.group == *group && s.kind == object.kind);
            let known = known.ok_or_else(|| format!("no matches for kind {:?}", object.kind))?;
            let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
            custom_metrics(&format!("{}{suffix}", known.resource.plural))
                .at(&key.tenant)
                .namespace(&key.namespace)
                .name(&object.name)
                .subresource(&source.metric.name)
        };
        let path = at.with_query([("metricLabelSelector", source.metric.selector_text()?.into())]);
        let items: Items<MetricValue> = self
            .client
            .get(&path)
            .await
            .map_err(|e| format!("unable to fetch metrics from custom metrics API: {e}"))?;
        match items.items.as_slice() {
            [one] => Ok(one.value.milli_value()),
            all => Err(format!(
                "unable to fetch metrics from custom metrics API: the custom metrics API server returned {} results when we asked for exactly one",
                all.len()
            )),
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        at: &ObjectPath,
        params: &ListParams,
    ) -> Result<T, Error> {
        let bytes = self.client.list_bytes(at, params, false).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Answer(e.to_string()))
    }
}

fn custom_metrics(of: &str) -> Resource {
    Resource::dynamic("custom.metrics.k8s.io", "v1beta1", of)
}

/// The use of a resource by a pod, or by one container of it; `None` when it is not known.
fn sample(pod: PodMetrics, resource: &str, container: &str) -> Option<(String, Sample)> {
    let wanted = |c: &&ContainerMetrics| container.is_empty() || c.name == container;
    let mut milli = None;
    for c in pod.containers.iter().filter(wanted) {
        let used = c.usage.get(resource)?.milli_value();
        milli = Some(milli.unwrap_or(0_i64).saturating_add(used));
    }
    Some((pod.metadata.name, Sample { at: pod.timestamp, window: pod.window, milli: milli? }))
}

fn member(pod: &Object<Pod>, resource: &str, container: &str) -> Member {
    let ready = pod.has_ready.then(|| Readiness {
        yes: pod.is_ready(),
        no: pod.unready,
        since: pod.ready_changed().unwrap_or(Timestamp::MIN),
    });
    let phase = match pod.plan.phase {
        skep_plan::pod::Phase::Running => Phase::Running,
        skep_plan::pod::Phase::Succeeded => Phase::Succeeded,
        skep_plan::pod::Phase::Failed => Phase::Failed,
        skep_plan::pod::Phase::Unknown => Phase::Unknown,
        skep_plan::pod::Phase::None | skep_plan::pod::Phase::Pending => Phase::Pending,
    };
    Member {
        name: pod.key.name.to_string(),
        deleting: pod.is_deleting(),
        phase,
        ready,
        started: pod.start_time.map(skep_plan::Time::timestamp),
        request: request(pod, resource, container),
    }
}

/// What a pod requests of a resource, in thousandths.
fn request(pod: &Object<Pod>, resource: &str, container: &str) -> Result<i64, String> {
    let name = &pod.key.name;
    let milli = |text: &str| text.parse::<Quantity>().map(Quantity::milli_value).map_err(|e| e.to_string());
    if container.is_empty()
        && let Some(whole) = pod.template.requests.get(resource)
    {
        return milli(whole);
    }
    let mut sum = None;
    for c in pod.template.running().filter(|c| container.is_empty() || c.name == *container) {
        let text = c.requests.get(resource).ok_or_else(|| {
            format!("missing request for {resource} in container {} of Pod {name}", &*c.name)
        })?;
        sum = Some(sum.unwrap_or(0_i64).saturating_add(milli(text)?));
    }
    sum.ok_or_else(|| format!("container {container} not found in Pod {name}"))
}

impl Controller for Loop {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> PodMetrics {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"}, "timestamp": "2026-01-01T00:00:00Z", "window": "1m0s",
            "containers": [{"name": "a", "usage": {"cpu": "250m", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "1"}}]}))
        .unwrap()
    }

    #[test]
    fn samples_of_pods_and_of_containers() {
        let milli = |resource, container| sample(metrics(), resource, container).map(|(_, s)| s.milli);
        assert_eq!(milli("cpu", ""), Some(1250));
        assert_eq!(milli("cpu", "a"), Some(250));
        assert_eq!(milli("memory", "a"), Some(1_024_000));
        // Half of it is not it.
        assert_eq!(milli("memory", ""), None);
        assert_eq!(milli("cpu", "c"), None);
        assert_eq!(metrics().window, SignedDuration::from_mins(1));
    }
}
