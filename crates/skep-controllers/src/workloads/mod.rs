//! The controllers of workloads: Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet,
//! Job, CronJob.
//!
//! What is to be done is `skep-plan`'s; here it is fetched, applied and told about.

mod cronjob;
mod daemonset;
mod deployment;
mod job;
mod pace;
mod pods;
mod replicaset;
mod revisions;
mod statefulset;

use std::sync::Arc;

use serde_json::{Value, json};
use skep_client::informer::Builder;
use skep_client::record::{EventType, Regarding};
use skep_client::{Object, ObjectKey, Patch, Resource};
use skep_plan::cronjob::CronJob;
use skep_plan::daemonset::{DaemonSet, Node};
use skep_plan::deployment::Deployment;
use skep_plan::job::Job;
use skep_plan::replicaset::{ReplicaSet, ReplicationController};
use skep_plan::revision::Revision;
use skep_plan::statefulset::{Claim, StatefulSet};
use skep_plan::{ControllerRef, Meta, OwnerKind, Uid};

use crate::views::orphans_of;
use crate::{Controller, Kind, Setup, SyncError, Writes};

/// Objects by the uid of the owner that manages them; those without one under [`orphans_of`] their namespace.
const BY_CONTROLLER: &str = "controller";
/// Objects by namespace.
const BY_NAMESPACE: &str = "namespace";

/// Every controller of workloads.
pub(crate) fn all(setup: &mut Setup) -> Vec<Arc<dyn Controller>> {
    vec![
        deployment::new(setup),
        replicaset::new::<ReplicaSet>(setup),
        replicaset::new::<ReplicationController>(setup),
        statefulset::new(setup),
        daemonset::new(setup),
        job::new(setup),
        cronjob::new(setup),
    ]
}

fn emit_controller(namespace: &str, controller: Option<&ControllerRef>, emit: &mut dyn FnMut(&str)) {
    match controller {
        Some(controller) => emit(&controller.uid.to_string()),
        None => emit(&orphans_of(namespace)),
    }
}

impl Kind for ReplicaSet {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::apps::v1::ReplicaSet>();
    fn indexes(builder: Builder<ReplicaSet>) -> Builder<ReplicaSet> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace)).index(BY_CONTROLLER, |o, emit| {
            emit_controller(&o.key.namespace, o.meta.controller.as_ref(), emit);
        })
    }
}

impl Kind for ReplicationController {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::ReplicationController>();
    fn indexes(builder: Builder<ReplicationController>) -> Builder<ReplicationController> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace)).index(BY_CONTROLLER, |o, emit| {
            emit_controller(&o.key.namespace, o.0.meta.controller.as_ref(), emit);
        })
    }
}

impl Kind for Deployment {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::apps::v1::Deployment>();
    fn indexes(builder: Builder<Deployment>) -> Builder<Deployment> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace))
    }
}

impl Kind for Job {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::batch::v1::Job>();
    fn indexes(builder: Builder<Job>) -> Builder<Job> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace)).index(BY_CONTROLLER, |o, emit| {
            emit_controller(&o.key.namespace, o.meta.controller.as_ref(), emit);
        })
    }
}

impl Kind for StatefulSet {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::apps::v1::StatefulSet>();
    fn indexes(builder: Builder<StatefulSet>) -> Builder<StatefulSet> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace))
    }
}

impl Kind for DaemonSet {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::apps::v1::DaemonSet>();
    fn indexes(builder: Builder<DaemonSet>) -> Builder<DaemonSet> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace))
    }
}

impl Kind for Node {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::Node>();
}

impl Kind for Revision {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::apps::v1::ControllerRevision>();
    fn indexes(builder: Builder<Revision>) -> Builder<Revision> {
        builder.index(BY_CONTROLLER, |o, emit| {
            emit_controller(&o.key.namespace, o.meta.controller.as_ref(), emit);
        })
    }
}

impl Kind for Claim {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
}

impl Kind for CronJob {
    const RESOURCE: Resource = Resource::of::<k8s_openapi::api::batch::v1::CronJob>();
}

/// The key of the owner that manages an object, if that is of a kind.
fn owner_key(key: &ObjectKey, controller: Option<&ControllerRef>, kind: OwnerKind) -> Option<ObjectKey> {
    let controller = controller.filter(|c| c.kind == kind)?;
    Some(ObjectKey { name: (&*controller.name).into(), ..key.clone() })
}

/// What an event about an owner regards.
fn regarding<V>(object: &Object<V>, kind: OwnerKind) -> Regarding {
    Regarding {
        whose: (&object.key.tenant).into(),
        api_version: kind.api_version().to_owned(),
        kind: kind.name().to_owned(),
        namespace: object.key.namespace.to_string(),
        name: object.key.name.to_string(),
        uid: object.uid.to_string(),
    }
}

/// Tells what a plan says is to be told.
fn tell(writes: &Writes, about: &Regarding, event: &skep_plan::Event) {
    let kind = if event.warning { EventType::Warning } else { EventType::Normal };
    writes.recorder.event(about, kind, event.reason, event.message.clone());
}

/// A merge patch of a status, for the object with this uid only.
fn status_patch(uid: &Uid, mut patch: Value) -> Patch {
    if let Some(meta) = patch.as_object_mut() {
        let meta = meta.entry("metadata").or_insert_with(|| json!({}));
        meta["uid"] = json!(uid);
    }
    Patch::Merge(patch)
}

/// Makes sure, by asking the server, that an owner is still the one that is known and is not being deleted: it may take
/// orphans then. The copy may be older than the garbage collector's work.
async fn may_adopt<V: Kind>(writes: &Writes, owner: &Object<V>) -> Result<(), SyncError> {
    #[derive(serde::Deserialize)]
    struct Fresh {
        metadata: Meta,
    }
    let key = &owner.key;
    let at = V::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name);
    let fresh: Fresh = writes.client.read(&at).await?;
    if fresh.metadata.uid.to_string() != *owner.uid {
        return Err(SyncError::NotYet(format!("{key} has been replaced by another of its name")));
    }
    match fresh.metadata.deleted {
        Some(since) => {
            Err(SyncError::NotYet(format!("{key} is being deleted since {since} and takes nothing more")))
        }
        None => Ok(()),
    }
}
