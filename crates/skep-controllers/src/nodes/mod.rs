//! Nodes' lives: silent ones become unknown, conditions become taints, pods leave nodes whose taints they do not tolerate,
//! and pods that have no place any more are cleared away.

mod collect;
mod evict;
mod plan;

pub(crate) use collect::new as pod_gc;
pub(crate) use evict::new as taint_eviction;

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::json;
use skep_client::record::EventType;
use skep_client::{Event, Informer, Level, Object, ObjectKey, Patch, Resource, Selection, Tenants};

use crate::frame::Writes;
use crate::views::{BY_NODE, Node, Pod, regarding};
use crate::{Controller, Kind, Next, Setup, SyncError};

const NAME: &str = "node-lifecycle-controller";
const LEASES: &str = "kube-node-lease";
/// Nodes with this label do not count when a whole zone seems to be gone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// A node's lease: that there is news of it is all that matters.
#[derive(Debug, Deserialize)]
struct Lease {}

impl Kind for Lease {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::coordination::v1::Lease>();
    const METADATA_ONLY: bool = true;
    fn selection() -> Selection {
        // Across tenants a namespace is a field: paths name one tenant's only.
        Selection::all(Self::RESOURCE, Tenants::All)
            .fields(&format!("metadata.namespace={LEASES}"))
            .metadata_only()
    }
}

/// When each node was last heard of, by the clock of this process: clocks of nodes prove nothing. After a restart all
/// have just been heard of.
type Heard = Arc<Mutex<FxHashMap<ObjectKey, Instant>>>;

struct Lifecycle {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    heard: Heard,
    writes: Writes,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let (nodes, pods, leases) =
        (setup.informer::<Node>(), setup.informer::<Pod>(), setup.informer::<Lease>());
    let heard = Heard::default();
    let enqueue = setup.enqueue(NAME);
    {
        let heard = heard.clone();
        leases.on_event(move |event| {
            let key = &event.object().key;
            if !matches!(event, Event::Deleted(_)) {
                heard.lock().insert(ObjectKey::new(&key.tenant, "", &key.name), Instant::now());
            }
        });
    }
    {
        let (heard, all) = (heard.clone(), nodes.clone());
        nodes.on_event(move |event| {
            let node = event.object();
            let spoke = match event {
                Event::Added(_) => true,
                Event::Changed { old, new } => beat(old) != beat(new),
                Event::Deleted(_) => {
                    heard.lock().remove(&node.key);
                    false
                }
            };
            if spoke {
                heard.lock().insert(node.key.clone(), Instant::now());
            }
            enqueue.event(event);
            // Whether a zone seems to be gone decides about the others in it.
            if let Event::Changed { old, new } = event
                && plan::ready(&old.status.conditions) != plan::ready(&new.status.conditions)
            {
                let neighbours: Vec<_> = all
                    .of_tenant(&node.key.tenant)
                    .into_iter()
                    .filter(|n| plan::ready(&n.status.conditions) != "True")
                    .collect();
                neighbours.iter().for_each(|n| enqueue.add(&n.key, Level::Update));
            }
        });
    }
    Arc::new(Lifecycle { nodes, pods, heard, writes: setup.writes("node-controller") })
}

/// The node's last word.
fn beat(node: &Node) -> Option<Timestamp> {
    node.status
        .conditions
        .iter()
        .find(|c| c.type_ == plan::READY)
        .and_then(|c| c.last_heartbeat_time.as_ref().map(|t| t.0))
}

impl Lifecycle {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Wait) };
        let now = Timestamp::now();
        let at = Node::RESOURCE.at(&key.tenant).name(&key.name);
        let conditions = &node.status.conditions;
        let spoke = conditions.iter().any(|c| c.type_ == plan::READY);
        let grace = if spoke { plan::MONITOR_GRACE } else { plan::STARTUP_GRACE };
        let heard = *self.heard.lock().entry(key.clone()).or_insert_with(Instant::now);
        let left = grace.saturating_sub(heard.elapsed());
        if left.is_zero() {
            let changes = plan::silent(conditions, node.metadata.creation_timestamp, now);
            if !changes.is_empty() {
                let was_ready = plan::ready(conditions) == "True";
                let patch = json!({"status": {"conditions": changes}});
                let status = at.clone().subresource("status");
                self.nodes.patch(&status, &Patch::Strategic(patch)).await?;
                if was_ready {
                    self.not_ready(&node);
                }
                // The write is in the copy, and its event has this node looked at again.
            }
        }
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Wait) };
        let conditions = &node.status.conditions;
        if plan::ready(conditions) != "True" && spoke {
            self.unready_pods(&node).await?;
        }
        let evict = !self.all_gone(&node);
        let taints = plan::taints(&node.spec.taints, conditions, node.spec.unschedulable, evict, now);
        let labels = plan::labels(|l| node.metadata.labels.get(l));
        if taints.is_some() || !labels.is_empty() {
            let labels: serde_json::Map<_, _> =
                labels.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
            let mut patch =
                json!({"metadata": {"resourceVersion": node.revision.to_string(), "labels": labels}});
            if let Some(taints) = taints {
                patch["spec"] = json!({"taints": taints});
            }
            self.nodes.patch(&at, &Patch::Merge(patch)).await?;
        }
        Ok(if left.is_zero() { Next::Wait } else { Next::After(left) })
    }

    fn not_ready(&self, node: &Object<Node>) {
        let message = format!("Node {} status is now: NodeNotReady", node.key.name);
        let about = regarding(node, "v1", "Node");
        self.writes.recorder.event(&about, EventType::Normal, "NodeNotReady", message);
    }

    /// Whether all of a tenant's nodes seem to be gone: then it is more likely that nobody hears them than that
    /// they are, and no pod should leave.
    fn all_gone(&self, node: &Object<Node>) -> bool {
        let nodes = self.nodes.of_tenant(&node.key.tenant);
        let mut counted = nodes.iter().filter(|n| n.metadata.labels.get(EXCLUDED).is_none()).peekable();
        counted.peek().is_some() && counted.all(|n| plan::ready(&n.status.conditions) != "True")
    }

    /// Pods of a node that is not ready are not ready either.
    async fn unready_pods(&self, node: &Object<Node>) -> Result<(), SyncError> {
        for pod in self.pods.by_index(BY_NODE, &node.key.tenant, &node.key.name) {
            if !pod.is_ready() || pod.is_over() {
                continue;
            }
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now());
            let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": now}
            ]}});
            let at = Pod::RESOURCE.at(&pod.key.tenant).namespace(&pod.key.namespace).name(&pod.key.name);
            match self.pods.patch(&at.subresource("status"), &Patch::Strategic(patch)).await {
                Ok(_) => {}
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                Err(e) => return Err(e.into()),
            }
            let about = regarding(&pod, "v1", "Pod");
            self.writes.recorder.event(&about, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

impl Controller for Lifecycle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
