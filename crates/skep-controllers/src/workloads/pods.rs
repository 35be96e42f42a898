//! What all owners of pods do with them: find, follow, create, delete, take and let go.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::Value;
use skep_base::TenantName;
use skep_client::record::{EventType, Regarding};
use skep_client::{
    Client, DeleteParams, Error, Event, Informer, Level, Object, ObjectKey, ObjectPath, Patch,
};
use skep_plan::refs::{adopt_patch, release_patch};
use skep_plan::replicaset::slow_start;
use skep_plan::{Labels, Meta, OwnerKind, Pod};

use super::{may_adopt, owner_key};
use crate::views::{BY_OWNER, Pod as HeldPod, orphans_of};
use crate::{Enqueue, Kind, SyncError, Writes};

/// The pods of all owners, for one controller.
#[derive(Clone)]
pub(super) struct Pods {
    pub(super) informer: Informer<HeldPod>,
    client: Client,
}

/// Writes of one owner's pods that are under way at once. With all workers of the manager at it they stay below what the API server lets wait for
/// one tenant; with more, a large Deployment is turned away for a second at a time. Some are enough: they are
/// written to the disk together with those of others.
const AT_ONCE: usize = 8;

/// Makes writes of one owner's pods, [`AT_ONCE`] at a time; the results are in their order.
pub(super) async fn some_at_once<F: Future>(writes: Vec<F>) -> Vec<F::Output> {
    stream::iter(writes).buffered(AT_ONCE).collect().await
}

/// Part of what the API server says when a namespace takes nothing new. Whoever lives there is about to go too.
const NAMESPACE_ENDS: &str = "because it is being terminated";

/// The pods that an owner manages.
pub(super) fn managed_by(
    pods: &Informer<HeldPod>,
    tenant: &TenantName,
    uid: &str,
) -> Vec<Arc<Object<HeldPod>>> {
    let mut all = pods.by_index(BY_OWNER, tenant, uid);
    // The index has all owners, of which one manages.
    all.retain(|pod| pod.controller().is_some_and(|owner| *owner.uid == *uid));
    all
}

/// Whether a change of a pod means anything for its owner.
fn matters(old: &Pod, new: &Pod) -> bool {
    old.phase != new.phase
        || old.ready != new.ready
        || old.deleted != new.deleted
        || old.labels != new.labels
        || old.controller != new.controller
        || old.restarts != new.restarts
        || old.more != new.more
}

impl Pods {
    pub(super) fn new(informer: Informer<HeldPod>, client: &Client) -> Pods {
        Pods { informer, client: client.clone() }
    }

    /// Has owners of a kind looked at when their pods change. `matching` finds those of a namespace that would take a pod
    /// without an owner.
    pub(super) fn follow(
        &self,
        kind: OwnerKind,
        enqueue: &Enqueue,
        matching: impl Fn(&ObjectKey, &Labels) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) {
        let enqueue = enqueue.clone();
        self.informer.on_event(move |event| {
            let key = &event.object().key;
            let pod = &event.object().plan;
            let before = match event {
                Event::Changed { old, new } if !matters(&old.plan, &new.plan) => return,
                Event::Changed { old, .. } => Some(&old.plan),
                _ => None,
            };
            // A pod that its own controller has made is news for nobody else's sake.
            let level = if matches!(event, Event::Deleted(_)) { Level::Delete } else { Level::Update };
            let owner = owner_key(key, pod.controller.as_ref(), kind);
            if let Some(owner) = &owner {
                enqueue.add(owner, level);
            }
            if let Some(old) = before.and_then(|o| owner_key(key, o.controller.as_ref(), kind))
                && owner.as_ref() != Some(&old)
            {
                enqueue.add(&old, level);
            }
            if pod.controller.is_none() && !matches!(event, Event::Deleted(_)) {
                matching(key, &pod.labels).iter().for_each(|key| enqueue.add(key, level));
            }
        });
    }

    /// The pods that an owner has, and those of its namespace that nobody has.
    pub(super) fn of(&self, key: &ObjectKey, uid: &str) -> Vec<Arc<Object<HeldPod>>> {
        let mut pods = managed_by(&self.informer, &key.tenant, uid);
        pods.extend(self.informer.by_index(BY_OWNER, &key.tenant, &orphans_of(&key.namespace)));
        pods
    }

    fn at(&self, namespace_of: &ObjectKey) -> ObjectPath {
        HeldPod::RESOURCE.at(&namespace_of.tenant).namespace(&namespace_of.namespace)
    }

    /// Creates one pod, and takes it up. `Ok(None)`: its namespace ends, and nothing can be done there.
    pub(super) async fn create(&self, owner: &ObjectKey, body: Bytes) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        struct Named {
            metadata: Name,
        }
        #[derive(Deserialize)]
        struct Name {
            name: String,
        }
        match self.client.create_bytes(&self.at(owner), body).await {
            Ok(answer) => {
                self.informer.record(&owner.tenant, &answer)?;
                let named: Named =
                    serde_json::from_slice(&answer).map_err(|e| Error::Answer(e.to_string()))?;
                Ok(Some(named.metadata.name))
            }
            Err(Error::Status { code: 403, message, .. }) if message.contains(NAMESPACE_ENDS) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates pods, few at first and twice as many each time, until one fails.
    pub(super) async fn create_all(
        &self,
        writes: &Writes,
        owner: &ObjectKey,
        about: &Regarding,
        bodies: Vec<Bytes>,
    ) -> Result<(), Error> {
        let mut bodies = bodies.into_iter();
        for batch in slow_start(bodies.len()) {
            let each = bodies.by_ref().take(batch).map(|body| self.create(owner, body));
            let made = some_at_once(each.collect()).await;
            let mut failure = None;
            for result in made {
                match result {
                    Ok(Some(name)) => {
                        let message = format!("Created pod: {name}");
                        writes.recorder.event(about, EventType::Normal, "SuccessfulCreate", message);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let message = format!("Error creating: {error}");
                        writes.recorder.event(about, EventType::Warning, "FailedCreate", message);
                        failure.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The object that a view in a plan belongs to.
    pub(super) fn object(&self, owner: &ObjectKey, pod: &Pod) -> Option<Arc<Object<HeldPod>>> {
        let key = ObjectKey { name: (&*pod.name).into(), ..owner.clone() };
        self.informer.get(&key).filter(|o| o.plan.uid == pod.uid)
    }

    /// Deletes pods, whatever becomes of each.
    pub(super) async fn delete_all(
        &self,
        writes: &Writes,
        owner: &ObjectKey,
        about: &Regarding,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let delete = |pod: &Pod| {
            let object = self.object(owner, pod);
            let name = pod.name.clone();
            async move {
                let result = match &object {
                    Some(object) => self.informer.remove(object, &DeleteParams::default()).await,
                    None => Ok(()),
                };
                match &result {
                    Ok(()) => {
                        let message = format!("Deleted pod: {name}");
                        writes.recorder.event(about, EventType::Normal, "SuccessfulDelete", message);
                    }
                    Err(error) => {
                        let message = format!("Error deleting: {error}");
                        writes.recorder.event(about, EventType::Warning, "FailedDelete", message);
                    }
                }
                result
            }
        };
        some_at_once(pods.iter().map(|p| delete(p)).collect()).await.into_iter().collect()
    }

    /// Patches a pod; one that is gone counts as patched.
    pub(super) async fn patch(&self, owner: &ObjectKey, pod: &Pod, patch: Value) -> Result<(), Error> {
        let at = self.at(owner).name(&pod.name);
        match self.informer.patch(&at, &Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => {
                let key = ObjectKey { name: (&*pod.name).into(), ..owner.clone() };
                self.informer.forget(&key, &pod.uid.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes and lets go of pods, as a plan says.
    pub(super) async fn claim<V: Kind>(
        &self,
        writes: &Writes,
        owner: &Object<V>,
        meta: &Meta,
        kind: OwnerKind,
        finalizer: Option<&str>,
        (adopt, release): (&[&Pod], &[&Pod]),
    ) -> Result<(), SyncError> {
        if !adopt.is_empty() {
            may_adopt(writes, owner).await?;
        }
        let adopted = adopt.iter().map(|p| (p, adopt_patch(meta, kind, &p.uid, finalizer)));
        let released = release.iter().map(|p| (p, release_patch(&meta.uid, &p.uid, finalizer)));
        for (pod, patch) in adopted.chain(released) {
            self.patch(&owner.key, pod, patch).await?;
        }
        Ok(())
    }
}
