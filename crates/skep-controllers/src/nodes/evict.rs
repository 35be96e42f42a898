//! Pods leave nodes with `NoExecute` taints that they do not tolerate, or tolerate for a while only.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use skep_client::record::EventType;
use skep_client::{DeleteParams, Event, Informer, Level, ObjectKey, Patch};

use super::plan;
use crate::frame::Writes;
use crate::views::{BY_NODE, Node, Pod, regarding};
use crate::{Controller, Kind, Next, Setup, SyncError};

const NAME: &str = "taint-eviction-controller";

struct Evict {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    writes: Writes,
}

fn expelling(taints: &[Taint]) -> Vec<&Taint> {
    taints.iter().filter(|t| t.effect == "NoExecute").collect()
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let (nodes, pods) = (setup.informer::<Node>(), setup.informer::<Pod>());
    let enqueue = setup.enqueue(NAME);
    {
        let (enqueue, nodes) = (enqueue.clone(), nodes.clone());
        pods.on_event(move |event| {
            let (Event::Added(pod) | Event::Changed { new: pod, .. }) = event else { return };
            if let Event::Changed { old, new } = event
                && old.node() == new.node()
                && old.template.tolerations == new.template.tolerations
            {
                return;
            }
            let node = nodes.get(&ObjectKey::new(&pod.key.tenant, "", pod.node()));
            if node.is_some_and(|n| !expelling(&n.spec.taints).is_empty()) {
                enqueue.add(&pod.key, Level::Delete);
            }
        });
    }
    {
        let pods = pods.clone();
        nodes.on_event(move |event| {
            let (old, new) = match event {
                Event::Added(new) => (None, new),
                Event::Changed { old, new } => (Some(old), new),
                Event::Deleted(_) => return,
            };
            let before = old.map_or_else(Vec::new, |o| expelling(&o.spec.taints));
            let now = expelling(&new.spec.taints);
            if before != now {
                for pod in pods.by_index(BY_NODE, &new.key.tenant, &new.key.name) {
                    enqueue.add(&pod.key, Level::Delete);
                }
            }
        });
    }
    Arc::new(Evict { nodes, pods, writes: setup.writes("taint-eviction-controller") })
}

impl Evict {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(pod) = self.pods.get(key).filter(|p| !p.is_deleting() && !p.node().is_empty()) else {
            return Ok(Next::Wait);
        };
        let Some(node) = self.nodes.get(&ObjectKey::new(&key.tenant, "", pod.node())) else {
            return Ok(Next::Wait);
        };
        let now = Timestamp::now();
        let Some(leave) = plan::leave_at(&node.spec.taints, &pod.template.tolerations, now) else {
            return Ok(Next::Wait);
        };
        if leave > now {
            let wait = Duration::try_from(leave.duration_since(now)).unwrap_or_default();
            return Ok(Next::After(wait));
        }
        let at = Pod::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        if pod.disruption.as_ref().is_none_or(|c| c.status != "True") {
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now),
            });
            let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
            match self.pods.patch(&at.subresource("status"), &Patch::Strategic(patch)).await {
                Ok(_) => {}
                Err(e) if e.is_not_found() => return Ok(Next::Wait),
                Err(e) => return Err(e.into()),
            }
        }
        let about = regarding(&pod, "v1", "Pod");
        let message = format!("Marking for deletion Pod {}/{}", key.namespace, key.name);
        self.writes.recorder.event(&about, EventType::Normal, "TaintManagerEviction", message);
        self.pods.remove(&pod, &DeleteParams::default()).await?;
        Ok(Next::Wait)
    }
}

impl Controller for Evict {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
