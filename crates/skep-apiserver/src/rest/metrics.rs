//! `metrics.k8s.io`: made when it is asked for, from what the tenant's nodes say over their tunnels.
//!
//! Nodes that are not connected cost nothing, those that do not answer a bounded time, together; what is known of the others is told. A node
//! says something about its own pods only, whatever it writes into its answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::Response;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use rustc_hash::FxHashMap;
use skep_api::metrics::{ContainerMetrics, NodeMetrics, PodMetrics, usage, window};
use skep_api::{Kind, Object};
use skep_base::{GroupResource, Key, Scope};
use skep_store::{ListOptions, Value};
use skep_stream::{NodeUsage, PodUsage, Span};

use crate::body::Body;
use crate::output::{Item, ListMeta};
use crate::request::Action;
use crate::rest::Call;
use crate::rest::read::NODE_FIELD;
use crate::rest::select::Selection;
use crate::status::ApiError;

/// Nodes that one request asks at once.
const FAN_OUT: usize = 32;
/// After this time a request answers with what it has: longer than one node may take, so that one bad node in a small cluster costs nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Marks pods that a node has made by itself, and whose uid there is another one.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Answers a request.
///
/// # Errors
/// 404 for what is not there or not measured; 400 for bad selectors.
pub(super) async fn serve(call: &Call) -> Result<Response<Body>, ApiError> {
    let tenant = call.tenant()?.clone();
    let selection = Selection::of(call)?;
    let measured = call.kind.info().kind == "NodeMetrics";
    let resource = GroupResource::new("", if measured { "nodes" } else { "pods" });
    let revision = call.app.objects.revision();
    let found = candidates(call, resource, &selection)?;
    call.wait_outside();
    let items = if measured {
        let names = found.iter().map(|(key, _)| key.name.to_string()).collect();
        let said = ask(call, names).await?;
        let each = found.iter().filter_map(|(key, value)| node_metrics(value, said.get(&*key.name)?));
        values(call, each)?
    } else {
        let on = |value: &Value| value.attrs().field(NODE_FIELD).unwrap_or_default().to_owned();
        let placed: Vec<(String, &(Key, Arc<Value>))> =
            found.iter().map(|f| (on(&f.1), f)).filter(|(node, _)| !node.is_empty()).collect();
        let said = ask(call, placed.iter().map(|(node, _)| node.clone()).collect()).await?;
        let pods: FxHashMap<&str, FxHashMap<(&str, &str), &PodUsage>> = said
            .iter()
            .map(|(node, said)| {
                (node.as_str(), said.pods.iter().map(|p| ((&*p.namespace, &*p.name), p)).collect())
            })
            .collect();
        let each = placed.iter().filter_map(|(node, (key, value))| {
            pod_metrics(value, pods.get(node.as_str())?.get(&(&*key.namespace, &*key.name))?)
        });
        values(call, each)?
    };
    let items: Vec<Item> = items.into_iter().map(|value| Item { tenant: tenant.clone(), value }).collect();
    let output = call.output()?;
    match (call.path.action, items.first()) {
        (Action::Get, Some(item)) => call.respond(200, output.content_type(), Body::Full(output.one(item)?)),
        (Action::Get, None) => Err(ApiError::not_found(call.about())),
        _ => {
            let body = output.list(items, &ListMeta { revision, ..ListMeta::default() })?;
            call.respond(200, output.content_type(), body)
        }
    }
}

/// The nodes or pods that are asked about.
fn candidates(
    call: &Call,
    resource: GroupResource,
    selection: &Selection,
) -> Result<Vec<(Key, Arc<Value>)>, ApiError> {
    let tenant = call.tenant()?.clone();
    let namespaced = call.kind.info().namespaced;
    if let Some(name) = selection.name()
        && (!namespaced || !call.path.namespace.is_empty())
    {
        let namespace = if namespaced { call.path.namespace.as_str() } else { "" };
        let key = Key::new(resource, tenant, namespace, name);
        let found = call.app.objects.get(&key).map(|value| (key, value));
        return Ok(found.into_iter().filter(|(k, v)| selection.matches(k, v)).collect());
    }
    let scope = if namespaced && !call.path.namespace.is_empty() {
        Scope::Namespace(resource, tenant, call.path.namespace.as_str().into())
    } else {
        Scope::Tenant(resource, tenant)
    };
    let listing = call.app.objects.list(&scope, &ListOptions::default());
    let listing = listing.map_err(|_| ApiError::internal("the newest state is not held"))?;
    Ok(listing.items.into_iter().filter(|(k, v)| selection.matches(k, v)).collect())
}

/// Asks nodes. Those that do not answer in time are not in the result.
async fn ask(call: &Call, mut nodes: Vec<String>) -> Result<BTreeMap<String, Arc<NodeUsage>>, ApiError> {
    nodes.sort_unstable();
    nodes.dedup();
    let tenant = call.tenant()?;
    let asked = futures::stream::iter(nodes).map(|node| async move {
        let said = call.app.tunnels.usage(tenant, &node).await;
        said.map(|said| (node, said))
    });
    let mut answers = std::pin::pin!(asked.buffer_unordered(FAN_OUT));
    let mut all = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answers.next()).await {
        all.extend(answer);
    }
    Ok(all)
}

/// Metadata as these kinds have it: who it is about, and its labels.
fn metadata(of: &Value, at: Timestamp) -> Option<ObjectMeta> {
    let meta: ObjectMeta = serde_json::from_slice(of.meta()).ok()?;
    Some(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        labels: meta.labels,
        creation_timestamp: Some(Time(at)),
        ..ObjectMeta::default()
    })
}

fn when(span: Span) -> Timestamp {
    Timestamp::from_millisecond(span.at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn node_metrics(node: &Value, said: &NodeUsage) -> Option<NodeMetrics> {
    let (span, used) = said.node?;
    Some(NodeMetrics {
        metadata: metadata(node, when(span))?,
        timestamp: Time(when(span)),
        window: window(span.window_ms),
        usage: usage(used.cpu_nanocores, used.memory_bytes),
        ..NodeMetrics::default()
    })
}

fn pod_metrics(pod: &Value, said: &PodUsage) -> Option<PodMetrics> {
    /// Of a pod only what is needed to know whether the node speaks of the same one.
    fn is_same(pod: &Value, uid: &str) -> bool {
        let Ok(meta) = serde_json::from_slice::<ObjectMeta>(pod.meta()) else { return false };
        meta.uid.as_deref() == Some(uid) || meta.annotations.is_some_and(|a| a.contains_key(MIRROR))
    }
    if !is_same(pod, &said.uid) {
        return None;
    }
    // A node may not invent containers: clients add them up.
    let decoded: Pod = serde_json::from_slice(pod.json()).ok()?;
    let spec = decoded.spec?;
    let known = |name: &str| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| c.name == name)
            || spec.ephemeral_containers.iter().flatten().any(|c| c.name == name)
    };
    let containers: Vec<ContainerMetrics> = said
        .containers
        .iter()
        .filter(|c| known(&c.name))
        .map(|c| ContainerMetrics {
            name: c.name.clone(),
            usage: usage(c.usage.cpu_nanocores, c.usage.memory_bytes),
        })
        .collect();
    (!containers.is_empty()).then_some(())?;
    Some(PodMetrics {
        metadata: metadata(pod, when(said.span))?,
        timestamp: Time(when(said.span)),
        window: window(said.span.window_ms),
        containers,
        ..PodMetrics::default()
    })
}

/// Objects as everything that answers takes them.
fn values<T: Kind>(call: &Call, objects: impl Iterator<Item = T>) -> Result<Vec<Arc<Value>>, ApiError> {
    let revision = call.app.objects.revision();
    objects
        .map(|object| {
            let new = call.app.new_value(call.kind.as_ref(), &object as &dyn Object)?;
            Ok(Arc::new(Value::unstored(&new, revision)))
        })
        .collect()
}
