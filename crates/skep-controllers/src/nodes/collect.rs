//! Pod garbage collection: pods whose node is gone, pods that were deleted before they were placed, pods on nodes that
//! are out of service, and the oldest of those that ended, where there are too many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use skep_base::TenantName;
use skep_client::{Client, DeleteParams, Event, Informer, Level, Object, ObjectKey, Patch};

use super::plan;
use crate::views::{BY_NODE, Node, Pod};
use crate::{Controller, Enqueue, Kind, Next, Setup, SyncError};

const NAME: &str = "pod-garbage-collector-controller";

/// How often pods that ended are counted, as upstream looks.
const PERIOD: Duration = Duration::from_secs(20);
/// Pods of one tenant that ended and are kept, as upstream keeps of a cluster.
const MAX_ENDED: usize = 12_500;
/// How long a missing node may come back before its pods go, as upstream.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Collect {
    client: Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let (nodes, pods) = (setup.informer::<Node>(), setup.informer::<Pod>());
    let enqueue = setup.enqueue(NAME);
    {
        let (enqueue, nodes) = (enqueue.clone(), nodes.clone());
        pods.on_event(move |event| {
            let (Event::Added(pod) | Event::Changed { new: pod, .. }) = event else { return };
            if pod.node().is_empty() {
                if pod.is_deleting() {
                    enqueue.add(&pod.key, Level::Delete);
                }
                return;
            }
            match nodes.get(&ObjectKey::new(&pod.key.tenant, "", pod.node())) {
                None => enqueue.add_after(&pod.key, Level::Delete, QUARANTINE),
                Some(node) if pod.is_deleting() && is_out_of_service(&node) => {
                    enqueue.add(&pod.key, Level::Delete);
                }
                Some(_) => {}
            }
        });
    }
    {
        let (enqueue, pods) = (enqueue.clone(), pods.clone());
        nodes.on_event(move |event| {
            let node = event.object();
            let wait = match event {
                Event::Deleted(_) => QUARANTINE,
                _ if is_out_of_service(node) => Duration::ZERO,
                _ => return,
            };
            for pod in pods.by_index(BY_NODE, &node.key.tenant, &node.key.name) {
                enqueue.add_after(&pod.key, Level::Delete, wait);
            }
        });
    }
    let controller = Arc::new(Collect { client: setup.client().clone(), nodes, pods });
    setup.background(count(controller.pods.clone(), enqueue));
    controller
}

fn is_out_of_service(node: &Node) -> bool {
    plan::ready(&node.status.conditions) != "True" && node.spec.taints.iter().any(|t| t.key == OUT_OF_SERVICE)
}

/// Has the oldest pods that ended looked at, of tenants that have too many.
async fn count(pods: Informer<Pod>, enqueue: Enqueue) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let mut ended: BTreeMap<TenantName, usize> = BTreeMap::new();
        pods.for_each(|p| {
            if p.is_over() {
                *ended.entry(p.key.tenant.clone()).or_default() += 1;
            }
        });
        for (tenant, n) in ended.into_iter().filter(|(_, n)| *n > MAX_ENDED) {
            for pod in oldest_ended(&pods, &tenant, n - MAX_ENDED) {
                enqueue.add(&pod.key, Level::Delete);
            }
        }
    }
}

fn oldest_ended(pods: &Informer<Pod>, tenant: &TenantName, n: usize) -> Vec<Arc<Object<Pod>>> {
    let mut ended = pods.of_tenant(tenant);
    ended.retain(|p| p.is_over());
    ended.sort_by_key(|p| (p.plan.created, p.key.name.clone()));
    ended.truncate(n);
    ended
}

impl Collect {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Wait) };
        let reason = if pod.node().is_empty() {
            pod.is_deleting().then_some(None)
        } else {
            match self.nodes.get(&ObjectKey::new(&key.tenant, "", pod.node())) {
                Some(node) => (pod.is_deleting() && is_out_of_service(&node)).then_some(None),
                // The copy may be behind: a pod must not go because of that.
                None => self.is_gone(key, &pod).await?.then_some(Some("PodGC: node no longer exists")),
            }
        };
        let too_many = || {
            let ended = self.pods.of_tenant(&key.tenant).iter().filter(|p| p.is_over()).count();
            ended > MAX_ENDED
        };
        match reason {
            Some(message) => self.remove(&pod, message).await?,
            None if pod.is_over() && too_many() => self.remove(&pod, None).await?,
            None => {}
        }
        Ok(Next::Wait)
    }

    async fn is_gone(&self, key: &ObjectKey, pod: &Pod) -> Result<bool, SyncError> {
        let at = Node::RESOURCE.at(&key.tenant).name(pod.node());
        match self.client.read_metadata::<serde::de::IgnoredAny>(&at).await {
            Ok(_) => Ok(false),
            Err(e) if e.is_not_found() => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// Marks a pod that nobody will end as failed, and removes it at once.
    async fn remove(&self, pod: &Object<Pod>, message: Option<&str>) -> Result<(), SyncError> {
        let at = Pod::RESOURCE.at(&pod.key.tenant).namespace(&pod.key.namespace).name(&pod.key.name);
        if !pod.is_over() {
            let conditions: Vec<_> = message
                .iter()
                .map(|m| {
                    json!({
                        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": m,
                        "lastTransitionTime": Time(Timestamp::now()),
                    })
                })
                .collect();
            let patch = json!({"metadata": {"uid": pod.uid}, "status": {"phase": "Failed", "conditions": conditions}});
            match self.pods.patch(&at.subresource("status"), &Patch::Strategic(patch)).await {
                Ok(_) => {}
                Err(e) if e.is_not_found() => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        self.pods.remove(pod, &DeleteParams::default().grace_s(0)).await?;
        Ok(())
    }
}

impl Controller for Collect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}
