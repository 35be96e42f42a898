//! ReplicaSet and ReplicationController.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use skep_client::{Informer, Object, ObjectKey};
use skep_plan::replicaset::{self, ReplicaSet, ReplicationController, pods_per_node};
use skep_plan::{OwnerKind, Pod};

use super::pace::Pace;
use super::pods::{Pods, managed_by};
use super::{BY_CONTROLLER, BY_NAMESPACE, regarding, status_patch};
use crate::views::Pod as HeldPod;
use crate::{Controller, Kind, Next, Setup, SyncError, Writes};

/// What is planned as a ReplicaSet.
pub(super) trait Replicated: Kind {
    /// Its kind.
    const OWNER: OwnerKind;
    /// Its controller's name.
    const NAME: &'static str;
    /// Whom its events come from.
    const COMPONENT: &'static str;
    /// It, as a ReplicaSet.
    fn set(&self) -> &ReplicaSet;
}

impl Replicated for ReplicaSet {
    const OWNER: OwnerKind = OwnerKind::ReplicaSet;
    const NAME: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";
    fn set(&self) -> &ReplicaSet {
        self
    }
}

impl Replicated for ReplicationController {
    const OWNER: OwnerKind = OwnerKind::ReplicationController;
    const NAME: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";
    fn set(&self) -> &ReplicaSet {
        &self.0
    }
}

struct Loop<V> {
    sets: Informer<V>,
    pods: Pods,
    writes: Writes,
    pace: Pace,
}

/// The controller of ReplicaSets or ReplicationControllers.
pub(super) fn new<V: Replicated>(setup: &mut Setup) -> Arc<dyn Controller> {
    let sets = setup.informer::<V>();
    let pods = Pods::new(setup.informer::<HeldPod>(), setup.client());
    let enqueue = setup.enqueue(V::NAME);
    setup.resync(V::NAME, &sets);
    let on_set = enqueue.clone();
    sets.on_event(move |event| on_set.event(event));
    let known = sets.clone();
    pods.follow(V::OWNER, &enqueue, move |pod, labels| {
        let sets = known.by_index(BY_NAMESPACE, &pod.tenant, &pod.namespace);
        sets.iter().filter(|s| s.set().selector.matches(labels)).map(|s| s.key.clone()).collect()
    });
    Arc::new(Loop { sets, pods, writes: setup.writes(V::COMPONENT), pace: Pace::default() })
}

impl<V: Replicated> Loop<V> {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(object) = self.sets.get(key) else { return Ok(Next::Wait) };
        let set = object.set();
        let now = Timestamp::now();
        let pods = self.pods.of(key, &object.uid);
        let views: Vec<&Pod> = pods.iter().map(|p| &p.plan).collect();
        let mut related: Vec<Arc<Object<HeldPod>>> = Vec::new();
        if views.len() > usize::try_from(set.replicas).unwrap_or(0) {
            related = self.related(&object);
        }
        let neighbours = || pods_per_node(related.iter().map(|p| &p.plan));
        let plan = replicaset::plan(now, set, &views, neighbours);
        let claims = (plan.adopt.as_slice(), plan.release.as_slice());
        self.pods.claim(&self.writes, &object, &set.meta, V::OWNER, None, claims).await?;
        let about = regarding(&object, V::OWNER);
        let changed = if plan.create > 0 {
            let body = Bytes::from(set.template.pod_body(&set.meta, V::OWNER));
            self.pods.create_all(&self.writes, key, &about, vec![body; plan.create]).await
        } else {
            self.pods.delete_all(&self.writes, key, &about, &plan.delete).await
        };
        let failure = changed.as_ref().err().map(ToString::to_string);
        let status = replicaset::status(now, set, V::OWNER, plan.counts, failure.as_deref());
        let mut again = plan.requeue_after;
        if let Some(status) = status {
            let conditions_changed = status.conditions != set.status.conditions;
            let settled = status.ready_replicas == set.replicas && status.replicas == set.replicas;
            match self.pace.may_write(&object.uid, set.replicas, settled || conditions_changed) {
                Ok(()) => {
                    let at = V::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
                    let patch = status_patch(&set.meta.uid, status.patch());
                    match self.sets.patch(&at.subresource("status"), &patch).await {
                        Err(e) if e.is_not_found() => {}
                        result => drop(result?),
                    }
                }
                Err(wait) => again = Some(again.map_or(wait, |known| known.min(wait))),
            }
        }
        changed?;
        Ok(again.map_or(Next::Wait, Next::After))
    }

    /// The pods of all sets of the same owner: the more of them share a node, the sooner one there is given up.
    fn related(&self, object: &Object<V>) -> Vec<Arc<Object<HeldPod>>> {
        let tenant = &object.key.tenant;
        let pods_of = |uid: &str| managed_by(&self.pods.informer, tenant, uid);
        match &object.set().meta.controller {
            None => pods_of(&object.uid),
            Some(owner) => {
                let sisters = self.sets.by_index(BY_CONTROLLER, tenant, &owner.uid.to_string());
                sisters.iter().flat_map(|s| pods_of(&s.uid)).collect()
            }
        }
    }
}

impl<V: Replicated> Controller for Loop<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        self.look(key).boxed()
    }
}
