//! Deployment.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use skep_client::{DeleteParams, Event, Informer, Level, Object, ObjectKey, ObjectPath, Patch};
use skep_plan::OwnerKind;
use skep_plan::deployment::{self, Collision, Deployment, StatusChange, Step, Strategy};
use skep_plan::refs::{adopt_patch, release_patch};
use skep_plan::replicaset::ReplicaSet;

use super::pace::Pace;
use super::pods::managed_by;
use super::{BY_CONTROLLER, BY_NAMESPACE, may_adopt, orphans_of, owner_key, regarding, status_patch, tell};
use crate::views::Pod as HeldPod;
use crate::{Controller, Enqueue, Kind, Next, Setup, SyncError, Writes};

const NAME: &str = "deployment";

struct Loop {
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<HeldPod>,
    writes: Writes,
    pace: Pace,
}

/// The controller of Deployments.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let deployments = setup.informer::<Deployment>();
    let sets = setup.informer::<ReplicaSet>();
    let pods = setup.informer::<HeldPod>();
    let enqueue = setup.enqueue(NAME);
    setup.resync(NAME, &deployments);
    let on_deployment = enqueue.clone();
    deployments.on_event(move |event| on_deployment.event(event));
    follow_sets(&sets, &deployments, &enqueue);
    follow_pods(&pods, &sets, &deployments, &enqueue);
    Arc::new(Loop {
        deployments,
        sets,
        pods,
        writes: setup.writes("deployment-controller"),
        pace: Pace::default(),
    })
}

fn follow_sets(sets: &Informer<ReplicaSet>, deployments: &Informer<Deployment>, enqueue: &Enqueue) {
    let (deployments, enqueue) = (deployments.clone(), enqueue.clone());
    sets.on_event(move |event| {
        let set = event.object();
        let level = if matches!(event, Event::Deleted(_)) { Level::Delete } else { Level::Update };
        let owner =
            |o: &Object<ReplicaSet>| owner_key(&o.key, o.meta.controller.as_ref(), OwnerKind::Deployment);
        let now = owner(set);
        if let Some(owner) = &now {
            enqueue.add(owner, level);
        }
        if let Event::Changed { old, .. } = event
            && let Some(before) = owner(old).filter(|o| Some(o) != now.as_ref())
        {
            enqueue.add(&before, level);
        }
        if set.meta.controller.is_none() {
            let all = deployments.by_index(BY_NAMESPACE, &set.key.tenant, &set.key.namespace);
            for d in all.iter().filter(|d| d.selector.matches(&set.meta.labels)) {
                enqueue.add(&d.key, level);
            }
        }
    });
}

/// A Deployment that replaces all pods at once waits for the last old one to go.
fn follow_pods(
    pods: &Informer<HeldPod>,
    sets: &Informer<ReplicaSet>,
    deployments: &Informer<Deployment>,
    enqueue: &Enqueue,
) {
    let (sets, deployments, enqueue) = (sets.clone(), deployments.clone(), enqueue.clone());
    pods.on_event(move |event| {
        let pod = match event {
            Event::Deleted(pod) => pod,
            Event::Changed { old, new } if new.is_over() && !old.is_over() => new,
            _ => return,
        };
        let Some(set) = owner_key(&pod.key, pod.plan.controller.as_ref(), OwnerKind::ReplicaSet) else {
            return;
        };
        let Some(set) = sets.get(&set) else { return };
        let Some(owner) = owner_key(&set.key, set.meta.controller.as_ref(), OwnerKind::Deployment) else {
            return;
        };
        if deployments.get(&owner).is_some_and(|d| d.strategy == Strategy::Recreate) {
            enqueue.add(&owner, Level::Delete);
        }
    });
}

fn set_path(key: &ObjectKey) -> ObjectPath {
    ReplicaSet::RESOURCE.at(&key.tenant).namespace(&key.namespace)
}

impl Loop {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(object) = self.deployments.get(key) else { return Ok(Next::Wait) };
        let d: &Deployment = &object.view;
        let now = Timestamp::now();
        let mut sets = self.sets.by_index(BY_CONTROLLER, &key.tenant, &object.uid);
        sets.extend(self.sets.by_index(BY_CONTROLLER, &key.tenant, &orphans_of(&key.namespace)));
        let views: Vec<&ReplicaSet> = sets.iter().map(|s| &s.view).collect();
        let has_pods = |set: &ReplicaSet| {
            let pods = managed_by(&self.pods, &key.tenant, &set.meta.uid.to_string());
            pods.iter().any(|p| !p.is_over())
        };
        let plan = deployment::plan(now, d, &views, &has_pods);
        let about = regarding(&object, OwnerKind::Deployment);
        plan.events.iter().for_each(|event| tell(&self.writes, &about, event));
        if !plan.adopt.is_empty() {
            may_adopt(&self.writes, &object).await?;
        }
        let adopted =
            plan.adopt.iter().map(|(n, uid)| (n, adopt_patch(&d.meta, OwnerKind::Deployment, uid, None)));
        let released = plan.release.iter().map(|(n, uid)| (n, release_patch(&d.meta.uid, uid, None)));
        for (name, patch) in adopted.chain(released) {
            match self.sets.patch(&set_path(key).name(name), &Patch::Strategic(patch)).await {
                Err(e) if e.is_not_found() => {}
                result => drop(result?),
            }
        }
        for step in plan.steps {
            self.apply(&object, step, now).await?;
        }
        let mut again = plan.requeue_after;
        if let Some(change) = plan.status {
            let s = &change.status;
            let settled = change.revision.is_some()
                || s.observed_generation != d.status.observed_generation
                || s.conditions.len() != d.status.conditions.len()
                || (s.replicas == d.replicas && s.available_replicas == d.replicas);
            match self.pace.may_write(&object.uid, d.replicas, settled) {
                Ok(()) => self.write_status(&object, &change).await?,
                Err(wait) => again = Some(again.map_or(wait, |known| known.min(wait))),
            }
        }
        Ok(again.map_or(Next::Wait, Next::After))
    }

    async fn apply(&self, object: &Object<Deployment>, step: Step, now: Timestamp) -> Result<(), SyncError> {
        let about = regarding(object, OwnerKind::Deployment);
        let at = set_path(&object.key);
        match step {
            Step::Create { name, body, event } => match self.sets.create(&at, &body).await {
                Ok(_) => event.iter().for_each(|event| tell(&self.writes, &about, event)),
                Err(error) if error.is_already_exists() => return self.collided(object, &name).await,
                Err(error) => {
                    let (change, event) =
                        deployment::create_failed(now, &object.view, &name, &error.to_string());
                    tell(&self.writes, &about, &event);
                    if let Some(change) = change {
                        self.write_status(object, &change).await?;
                    }
                    return Err(error.into());
                }
            },
            Step::Patch { name, body, events } => {
                self.sets.patch(&at.name(&name), &Patch::Merge(body)).await?;
                events.iter().for_each(|event| tell(&self.writes, &about, event));
            }
            Step::Delete { name, uid, resource_version } => {
                let key = ObjectKey { name: name.as_str().into(), ..object.key.clone() };
                if let Some(set) = self.sets.get(&key).filter(|s| s.meta.uid == uid) {
                    let params = DeleteParams::default().resource_version(&resource_version);
                    self.sets.remove(&set, &params).await?;
                }
            }
        }
        Ok(())
    }

    /// The name of a new replica set was taken.
    async fn collided(&self, object: &Object<Deployment>, name: &str) -> Result<(), SyncError> {
        let existing: ReplicaSet = self.writes.client.read(&set_path(&object.key).name(name)).await?;
        match deployment::collided(&object.view, &existing) {
            Collision::Ours => {}
            Collision::Bump(change) => self.write_status(object, &change).await?,
        }
        Err(SyncError::NotYet(format!("the name of the replica set {name} of {} was taken", object.key)))
    }

    async fn write_status(
        &self,
        object: &Object<Deployment>,
        change: &StatusChange,
    ) -> Result<(), SyncError> {
        let key = &object.key;
        let at = Deployment::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let patch = status_patch(&object.meta.uid, change.patch());
        match self.deployments.patch(&at.subresource("status"), &patch).await {
            Err(e) if e.is_not_found() => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }
}

impl Controller for Loop {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        self.look(key).boxed()
    }
}
