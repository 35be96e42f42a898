//! The revisions of owners that keep their history in them: found, followed, taken up, written, removed.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_client::{DeleteParams, Error, Informer, Level, Object, ObjectKey, ObjectPath, Patch};
use skep_plan::refs::adopt_patch;
use skep_plan::revision::{Newest, Revision};
use skep_plan::{Meta, OwnerKind};

use super::{BY_CONTROLLER, may_adopt, orphans_of, owner_key};
use crate::{Enqueue, Kind, Setup, SyncError, Writes};

/// The revisions of all owners of one kind.
pub(super) struct Revisions {
    informer: Informer<Revision>,
    kind: OwnerKind,
}

/// What became of a new revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there.
    Done,
    /// Its name is taken by the same, which only was not seen yet.
    Unseen,
    /// Its name is taken by another: the owner has to count a collision, so that the name changes.
    Taken,
}

impl Revisions {
    pub(super) fn new(setup: &mut Setup, kind: OwnerKind) -> Revisions {
        Revisions { informer: setup.informer::<Revision>(), kind }
    }

    /// Has owners looked at when their revisions change.
    pub(super) fn follow(&self, enqueue: &Enqueue) {
        let (enqueue, kind) = (enqueue.clone(), self.kind);
        self.informer.on_event(move |event| {
            let revision = event.object();
            if let Some(owner) = owner_key(&revision.key, revision.meta.controller.as_ref(), kind) {
                enqueue.add(&owner, Level::Update);
            }
        });
    }

    /// The revisions that an owner has, and those of its namespace that nobody has.
    pub(super) fn of(&self, key: &ObjectKey, uid: &str) -> Vec<Arc<Object<Revision>>> {
        let mut all = self.informer.by_index(BY_CONTROLLER, &key.tenant, uid);
        all.extend(self.informer.by_index(BY_CONTROLLER, &key.tenant, &orphans_of(&key.namespace)));
        all
    }

    fn at(&self, owner: &ObjectKey) -> ObjectPath {
        Revision::RESOURCE.at(&owner.tenant).namespace(&owner.namespace)
    }

    /// Takes revisions that nobody has.
    pub(super) async fn adopt<V: Kind>(
        &self,
        writes: &Writes,
        owner: &Object<V>,
        meta: &Meta,
        revisions: &[&Revision],
    ) -> Result<(), SyncError> {
        if revisions.is_empty() {
            return Ok(());
        }
        may_adopt(writes, owner).await?;
        for revision in revisions {
            let patch = adopt_patch(meta, self.kind, &revision.meta.uid, None);
            let at = self.at(&owner.key).name(&revision.meta.name);
            self.informer.patch(&at, &Patch::Strategic(patch)).await?;
        }
        Ok(())
    }

    /// Makes what is to be the newest revision so.
    pub(super) async fn write(
        &self,
        writes: &Writes,
        owner: &ObjectKey,
        newest: Option<&Newest>,
    ) -> Result<Written, SyncError> {
        let at = self.at(owner);
        match newest {
            Some(Newest::New(new)) => match self.informer.create(&at, &new.body).await {
                Err(error) if error.is_already_exists() => {
                    self.compare(writes, &at.name(&new.name), &new.body).await
                }
                result => Ok(result.map(|_| Written::Done)?),
            },
            Some(Newest::Again { name, uid, resource_version, revision }) => {
                let meta = json!({ "uid": uid, "resourceVersion": resource_version });
                let patch = Patch::Merge(json!({ "metadata": meta, "revision": revision }));
                self.informer.patch(&at.name(name), &patch).await?;
                Ok(Written::Done)
            }
            Some(Newest::Known(_)) | None => Ok(Written::Done),
        }
    }

    async fn compare(&self, writes: &Writes, at: &ObjectPath, body: &Value) -> Result<Written, SyncError> {
        let existing: Revision = writes.client.read(at).await?;
        let wanted: Revision =
            serde_json::from_value(body.clone()).map_err(|e| Error::Answer(e.to_string()))?;
        Ok(if existing.data == wanted.data { Written::Unseen } else { Written::Taken })
    }

    /// Removes revisions; `known` are the objects that they are views of.
    pub(super) async fn remove(
        &self,
        known: &[Arc<Object<Revision>>],
        revisions: &[&Revision],
    ) -> Result<(), SyncError> {
        for old in revisions {
            if let Some(old) = known.iter().find(|r| r.meta.uid == old.meta.uid) {
                self.informer.remove(old, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }
}

/// Why a look at an owner ends when the name of its new revision is taken.
pub(super) fn taken(owner: &ObjectKey) -> SyncError {
    SyncError::NotYet(format!("the name of the new revision of {owner} was taken"))
}
