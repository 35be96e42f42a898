//! What the scheduler writes: bindings, volumes, conditions, removals of pods that make room.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{DeleteParams, Error, ObjectKey, ObjectPath, Patch, Resource};
use skep_sched::VolumeStep;

use crate::Shared;

/// How long a claim may take to get its volume before the pod is tried somewhere else, as upstream.
const VOLUMES_WITHIN: Duration = Duration::from_secs(600);
/// How often is looked.
const VOLUMES_POLL: Duration = Duration::from_millis(100);
/// A request that the server has no time for is made again so many times before the pod goes back to the queue.
const TRIES: u32 = 3;

pub(crate) fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

fn pod(shared: &Shared, tenant: &TenantName, key: &str) -> ObjectPath {
    let (namespace, name) = split(key);
    Resource::of::<Pod>().at(shared.whose(tenant)).namespace(namespace).name(name)
}

/// Prepares a pod's volumes, then binds it.
pub(crate) async fn bind(
    shared: &Shared,
    tenant: &TenantName,
    key: &str,
    uid: &str,
    node: &str,
    volumes: &[VolumeStep],
) -> Result<(), Error> {
    for step in volumes {
        prepare(shared, tenant, step).await?;
    }
    if !volumes.is_empty() {
        wait_for(shared, tenant, volumes).await?;
    }
    let (namespace, name) = split(key);
    let binding = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    let at = pod(shared, tenant, key).subresource("binding");
    let mut tries = 1;
    loop {
        match shared.client.create::<IgnoredAny>(&at, &binding).await {
            Err(e) if e.retryable() && tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(50 << tries)).await;
                tries += 1;
            }
            result => return result.map(drop),
        }
    }
}

async fn prepare(shared: &Shared, tenant: &TenantName, step: &VolumeStep) -> Result<(), Error> {
    let claims = Resource::of::<PersistentVolumeClaim>().at(shared.whose(tenant));
    match step {
        VolumeStep::Bind { namespace, claim, volume } => {
            let found: Value = shared.client.read(&claims.namespace(namespace).name(claim)).await?;
            let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace,
                "name": claim, "uid": found["metadata"]["uid"],
                "resourceVersion": found["metadata"]["resourceVersion"]});
            let patch = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                "spec": {"claimRef": reference}});
            let at = Resource::of::<PersistentVolume>().at(shared.whose(tenant)).name(volume);
            shared.client.patch::<IgnoredAny>(&at, &Patch::Merge(patch)).await.map(drop)
        }
        VolumeStep::Provision { namespace, claim, node } => {
            let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
            let at = claims.namespace(namespace).name(claim);
            shared.client.patch::<IgnoredAny>(&at, &Patch::Merge(patch)).await.map(drop)
        }
    }
}

/// Returns when all claims have their volumes.
async fn wait_for(shared: &Shared, tenant: &TenantName, volumes: &[VolumeStep]) -> Result<(), Error> {
    let Some(claims) = shared.feed().and_then(|f| f.claims.as_ref()) else { return Ok(()) };
    let is_bound = |step: &VolumeStep| {
        let (VolumeStep::Bind { namespace, claim, .. } | VolumeStep::Provision { namespace, claim, .. }) =
            step;
        claims.get(&ObjectKey::new(tenant, namespace, claim)).is_some_and(|c| {
            let done = c.metadata.annotations.get("pv.kubernetes.io/bind-completed");
            !c.spec.volume_name.is_empty() && done.is_some()
        })
    };
    let bound = async {
        while !volumes.iter().all(is_bound) {
            tokio::time::sleep(VOLUMES_POLL).await;
        }
    };
    tokio::time::timeout(VOLUMES_WITHIN, bound).await.map_err(|_| Error::Timeout {
        server: shared.client.server().to_owned(),
        what: "with a bound volume".to_owned(),
        after_s: VOLUMES_WITHIN.as_secs(),
    })
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastProbeTime": null,
        "lastTransitionTime": now})
}

/// Says on a pod that it cannot be placed. `nominated` is set (or taken away, if empty) where it is given.
pub(crate) async fn tell_unschedulable(
    shared: &Shared,
    tenant: &TenantName,
    key: &str,
    uid: &str,
    message: Option<&str>,
    nominated: Option<&str>,
) -> Result<(), Error> {
    let mut status = json!({});
    if let Some(message) = message {
        status["conditions"] = json!([condition("PodScheduled", "False", "Unschedulable", message)]);
    }
    if let Some(node) = nominated {
        status["nominatedNodeName"] = if node.is_empty() { Value::Null } else { node.into() };
    }
    let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
    let at = pod(shared, tenant, key).subresource("status");
    shared.client.patch::<IgnoredAny>(&at, &patch).await.map(drop)
}

/// Removes a pod to make room, and says so on it before.
pub(crate) async fn push_out(
    shared: &Shared,
    tenant: &TenantName,
    key: &str,
    uid: &str,
) -> Result<(), Error> {
    let message = "default-scheduler: preempting to accommodate a higher priority pod";
    let condition = condition("DisruptionTarget", "True", "PreemptionByScheduler", message);
    let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}}));
    let at = pod(shared, tenant, key);
    match shared.client.patch::<IgnoredAny>(&at.clone().subresource("status"), &patch).await {
        Ok(_) => {}
        // Gone by itself is as good.
        Err(e) if e.is_not_found() || e.is_conflict() => return Ok(()),
        Err(e) => return Err(e),
    }
    match shared.client.remove(&at, &DeleteParams::uid(uid)).await {
        Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
        _ => Ok(()),
    }
}
