//! StatefulSet.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use skep_client::record::{EventType, Regarding};
use skep_client::{Error, Event, Informer, Level, Object, ObjectKey, Patch};
use skep_plan::refs::adopt_patch;
use skep_plan::revision::{Newest, Revision};
use skep_plan::statefulset::{self, Action, Claim, Plan, StatefulSet, Status};
use skep_plan::{OwnerKind, Pod};

use super::pace::Pace;
use super::pods::Pods;
use super::{BY_CONTROLLER, BY_NAMESPACE, may_adopt, orphans_of, owner_key, regarding, status_patch};
use crate::{Controller, Kind, Next, Setup, SyncError, Writes};

const NAME: &str = "statefulset";

struct Loop {
    sets: Informer<StatefulSet>,
    pods: Pods,
    revisions: Informer<Revision>,
    claims: Informer<Claim>,
    writes: Writes,
    pace: Pace,
}

/// The controller of StatefulSets.
pub(super) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let sets = setup.informer::<StatefulSet>();
    let pods = Pods::new(setup.informer::<Pod>(), setup.client());
    let revisions = setup.informer::<Revision>();
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
    let on_revision = enqueue.clone();
    revisions.on_event(move |event| {
        let revision = event.object();
        let owner = owner_key(&revision.key, revision.meta.controller.as_ref(), OwnerKind::StatefulSet);
        if let Some(owner) = owner {
            on_revision.add(&owner, Level::Update);
        }
    });
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
        let mut revisions = self.revisions.by_index(BY_CONTROLLER, &key.tenant, &object.uid);
        revisions.extend(self.revisions.by_index(BY_CONTROLLER, &key.tenant, &orphans_of(&key.namespace)));
        let claims = self.claims_of(&object, &pods);
        let pod_views: Vec<&Pod> = pods.iter().map(|p| &p.view).collect();
        let revision_views: Vec<&Revision> = revisions.iter().map(|r| &r.view).collect();
        let find = |name: &str| claims.get(name).map(|c| &c.view);
        let plan = statefulset::plan(Timestamp::now(), set, &pod_views, &revision_views, &find);
        let result = self.apply(&object, &plan).await;
        let mut again = plan.requeue_after;
        if let Some(status) = &plan.status {
            let settled = status.ready_replicas == set.replicas
                || status.observed_generation != set.status.observed_generation
                || status.update_revision != set.status.update_revision;
            match self.pace.may_write(&object.uid, settled) {
                Ok(()) => self.write_status(&object, status).await?,
                Err(wait) => again = Some(again.map_or(wait, |known| known.min(wait))),
            }
        }
        result?;
        for old in &plan.delete_revisions {
            if let Some(old) = revisions.iter().find(|r| r.meta.uid == old.meta.uid) {
                self.revisions.remove(old, &skep_client::DeleteParams::default()).await?;
            }
        }
        Ok(again.map_or(Next::Wait, Next::After))
    }

    /// The claims that the set's pods have or will have, by name.
    fn claims_of(
        &self,
        object: &Object<StatefulSet>,
        pods: &[Arc<Object<Pod>>],
    ) -> HashMap<String, Arc<Object<Claim>>> {
        let set = &object.view;
        let replicas = (set.start..set.start.saturating_add(set.replicas)).map(|n| n.to_string());
        let existing = pods.iter().filter_map(|p| Some(p.name.rsplit_once('-')?.1.to_owned()));
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
        let revisions = Revision::RESOURCE.at(&key.tenant).namespace(&key.namespace);
        if !plan.adopt_revisions.is_empty() {
            may_adopt(&self.writes, object).await?;
        }
        for revision in &plan.adopt_revisions {
            let patch = adopt_patch(&set.meta, OwnerKind::StatefulSet, &revision.meta.uid, None);
            self.revisions
                .patch(&revisions.clone().name(&revision.meta.name), &Patch::Strategic(patch))
                .await?;
        }
        let claims = (plan.adopt.as_slice(), plan.release.as_slice());
        self.pods.claim(&self.writes, object, &set.meta, OwnerKind::StatefulSet, None, claims).await?;
        match &plan.newest {
            Some(Newest::New(new)) => match self.revisions.create(&revisions, &new.body).await {
                Err(error) if error.is_already_exists() => {
                    return self.taken(object, &new.name, &new.body).await;
                }
                result => drop(result?),
            },
            Some(Newest::Again { name, uid, resource_version, revision }) => {
                let meta = json!({ "uid": uid, "resourceVersion": resource_version });
                let patch = Patch::Merge(json!({ "metadata": meta, "revision": revision }));
                self.revisions.patch(&revisions.name(name), &patch).await?;
            }
            Some(Newest::Known(_)) | None => {}
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
                self.tell(about, object, "Delete", &pod.name, result.as_ref().err());
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

    /// The name of a new revision is taken: by the same, which only was not seen, or by another.
    async fn taken(&self, object: &Object<StatefulSet>, name: &str, body: &Value) -> Result<(), SyncError> {
        let key = &object.key;
        let at = Revision::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(name);
        let existing: Revision = self.writes.client.read(&at).await?;
        let wanted: Revision =
            serde_json::from_value(body.clone()).map_err(|e| Error::Answer(e.to_string()))?;
        if existing.data != wanted.data {
            self.write_status(object, &statefulset::revision_taken(&object.view)).await?;
        }
        Err(SyncError::NotYet(format!("the name of the revision {name} of {key} was taken")))
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
