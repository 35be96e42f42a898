//! StatefulSet.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use skep_client::record::{EventType, Regarding};
use skep_client::{Error, Event, Informer, Level, Object, ObjectKey, Patch};
use skep_plan::revision::Revision;
use skep_plan::statefulset::{self, Action, Claim, Plan, StatefulSet, Status};
use skep_plan::{OwnerKind, Pod};

use super::pace::Pace;
use super::pods::Pods;
use super::revisions::{Revisions, Written, taken};
use super::{BY_NAMESPACE, regarding, status_patch};
use crate::views::Pod as HeldPod;
use crate::{Controller, Kind, Next, Setup, SyncError, Writes};

const NAME: &str = "statefulset";

struct Loop {
    sets: Informer<StatefulSet>,
    pods: Pods,
    revisions: Revisions,
    claims: Informer<Claim>,
    writes: Writes,
    pace: Pace,
}

/// The controller of StatefulSets.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let sets = setup.informer::<StatefulSet>();
    let pods = Pods::new(setup.informer::<HeldPod>(), setup.client());
    let revisions = Revisions::new(setup, OwnerKind::StatefulSet);
    let claims = setup.informer::<Claim>();
    let enqueue = setup.enqueue(NAME);
    setup.resync(NAME, &sets);
    let on_set = enqueue.clone();
    sets.on_event(move |event| on_set.event(event));
    let known = sets.clone();
    pods.follow(OwnerKind::StatefulSet, &enqueue, move |pod, labels| {
        let sets = known.by_index(BY_NAMESPACE, &pod.tenant, &pod.namespace);
        sets.iter().filter(|s| s.selector.matches(labels)).map(|s| s.key.clone()).collect()
    });
    revisions.follow(&enqueue);
    // A claim that is gone may be what a pod waits for. Its name ends with the pod's.
    let known = sets.clone();
    claims.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            return;
        }
        let claim = &event.object().key;
        let of = |s: &&Arc<Object<StatefulSet>>| claim.name.contains(&format!("-{}-", s.key.name));
        for set in known.by_index(BY_NAMESPACE, &claim.tenant, &claim.namespace).iter().filter(of) {
            enqueue.add(&set.key, Level::Delete);
        }
    });
    let writes = setup.writes("statefulset-controller");
    Arc::new(Loop { sets, pods, revisions, claims, writes, pace: Pace::default() })
}

impl Loop {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(object) = self.sets.get(key) else { return Ok(Next::Wait) };
        let set: &StatefulSet = &object.view;
        if !set.selector.is_valid() {
            return Ok(Next::Wait);
        }
        let pods = self.pods.of(key, &object.uid);
        let revisions = self.revisions.of(key, &object.uid);
        let claims = self.claims_of(&object, &pods);
        let pod_views: Vec<&Pod> = pods.iter().map(|p| &p.plan).collect();
        let revision_views: Vec<&Revision> = revisions.iter().map(|r| &r.view).collect();
        let find = |name: &str| claims.get(name).map(|c| &c.view);
        let plan = statefulset::plan(Timestamp::now(), set, &pod_views, &revision_views, &find);
        let result = self.apply(&object, &plan).await;
        let mut again = plan.requeue_after;
        if let Some(status) = &plan.status {
            let settled = status.ready_replicas == set.replicas
                || status.observed_generation != set.status.observed_generation
                || status.update_revision != set.status.update_revision;
            match self.pace.may_write(&object.uid, set.replicas, settled) {
                Ok(()) => self.write_status(&object, status).await?,
                Err(wait) => again = Some(again.map_or(wait, |known| known.min(wait))),
            }
        }
        result?;
        self.revisions.remove(&revisions, &plan.delete_revisions).await?;
        Ok(again.map_or(Next::Wait, Next::After))
    }

    /// The claims that the set's pods have or will have, by name.
    fn claims_of(
        &self,
        object: &Object<StatefulSet>,
        pods: &[Arc<Object<HeldPod>>],
    ) -> HashMap<String, Arc<Object<Claim>>> {
        let set = &object.view;
        let replicas = (set.start..set.start.saturating_add(set.replicas)).map(|n| n.to_string());
        let existing = pods.iter().filter_map(|p| Some(p.key.name.rsplit_once('-')?.1.to_owned()));
        let ordinals: Vec<String> =
            if set.claim_templates.is_empty() { Vec::new() } else { replicas.chain(existing).collect() };
        let mut claims = HashMap::new();
        for (template, _) in &set.claim_templates {
            for ordinal in &ordinals {
                let name = format!("{template}-{}-{ordinal}", object.key.name);
                let key = ObjectKey { name: name.as_str().into(), ..object.key.clone() };
                if let Some(claim) = self.claims.get(&key) {
                    claims.insert(name, claim);
                }
            }
        }
        claims
    }

    async fn apply(&self, object: &Object<StatefulSet>, plan: &Plan<'_>) -> Result<(), SyncError> {
        let set = &object.view;
        let key = &object.key;
        let about = regarding(object, OwnerKind::StatefulSet);
        self.revisions.adopt(&self.writes, object, &set.meta, &plan.adopt_revisions).await?;
        let claims = (plan.adopt.as_slice(), plan.release.as_slice());
        self.pods.claim(&self.writes, object, &set.meta, OwnerKind::StatefulSet, None, claims).await?;
        match self.revisions.write(&self.writes, key, plan.newest.as_ref()).await? {
            Written::Done => {}
            Written::Unseen => return Err(taken(key)),
            Written::Taken => {
                self.write_status(object, &statefulset::revision_taken(set)).await?;
                return Err(taken(key));
            }
        }
        for action in &plan.actions {
            self.act(object, &about, action).await?;
        }
        Ok(())
    }

    async fn act(
        &self,
        object: &Object<StatefulSet>,
        about: &Regarding,
        action: &Action<'_>,
    ) -> Result<(), SyncError> {
        let key = &object.key;
        match action {
            Action::Create { name, claims, body } => {
                let made = async {
                    self.make_claims(object, about, name, claims).await?;
                    self.pods.create(key, Bytes::from(body.clone())).await
                };
                match made.await {
                    // Somebody else's pod has the name: its going is told by an event only if it is known.
                    Err(error) if error.is_already_exists() => return Err(error.into()),
                    result => {
                        self.tell(about, object, "Create", name, result.as_ref().err());
                        result?;
                    }
                }
            }
            Action::CreateClaims { pod, claims } => self.make_claims(object, about, pod, claims).await?,
            Action::Delete(pod) => {
                let Some(pod) = self.pods.object(key, pod) else { return Ok(()) };
                let result = self.pods.informer.remove(&pod, &skep_client::DeleteParams::default()).await;
                self.tell(about, object, "Delete", &pod.key.name, result.as_ref().err());
                result?;
            }
            Action::Label { pod, patch } => {
                let result = self.pods.patch(key, pod, patch.clone()).await;
                self.tell(about, object, "Update", &pod.name, result.as_ref().err());
                result?;
            }
            Action::OwnClaim { name, patch } => {
                let at = Claim::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(name);
                match self.claims.patch(&at, &Patch::Merge(patch.clone())).await {
                    Err(error) if error.is_not_found() => {}
                    result => drop(result?),
                }
            }
        }
        Ok(())
    }

    async fn make_claims(
        &self,
        object: &Object<StatefulSet>,
        about: &Regarding,
        pod: &str,
        claims: &[(String, Value)],
    ) -> Result<(), Error> {
        let at = Claim::RESOURCE.at(&object.key.tenant).namespace(&object.key.namespace);
        let set = &object.key.name;
        for (name, body) in claims {
            match self.claims.create(&at, body).await {
                Ok(_) => {
                    let message = format!("Create Claim {name} Pod {pod} in StatefulSet {set} success");
                    self.writes.recorder.event(about, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    let message = format!(
                        "Create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {error}"
                    );
                    self.writes.recorder.event(about, EventType::Warning, "FailedCreate", message);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn tell(
        &self,
        about: &Regarding,
        set: &Object<StatefulSet>,
        verb: &str,
        pod: &str,
        error: Option<&Error>,
    ) {
        let set = &set.key.name;
        let (kind, reason, message) = match error {
            None => (
                EventType::Normal,
                format!("Successful{verb}"),
                format!("{verb} Pod {pod} in StatefulSet {set} successful"),
            ),
            Some(error) => (
                EventType::Warning,
                format!("Failed{verb}"),
                format!("{verb} Pod {pod} in StatefulSet {set} failed error: {error}"),
            ),
        };
        self.writes.recorder.event(about, kind, &reason, message);
    }

    async fn write_status(&self, object: &Object<StatefulSet>, status: &Status) -> Result<(), SyncError> {
        let key = &object.key;
        let at = StatefulSet::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let patch = status_patch(&object.meta.uid, status.patch());
        match self.sets.patch(&at.subresource("status"), &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
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
