//! Persistent volumes and claims: bound to each other, kept while in use, released.
//!
//! Volumes that somebody must make are asked for by annotation, as external provisioners expect it. Nothing
//! here deletes or makes a disk.

mod plan;

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;
use skep_client::informer::Builder;
use skep_client::record::EventType;
use skep_client::{Event, Informer, Level, Object, ObjectKey, Patch, Resource};

use self::plan::{BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimPlan, PROVISIONERS};
use crate::frame::Writes;
use crate::views::{Pod, regarding};
use crate::{Controller, Enqueue, Kind, Next, Setup, SyncError};

const CLAIMS: &str = "persistentvolume-binder-controller";
const VOLUMES: &str = "persistentvolume-phase-controller";
const CLAIM_IN_USE: &str = "kubernetes.io/pvc-protection";
const VOLUME_IN_USE: &str = "kubernetes.io/pv-protection";
/// Claims by phase, so that those that wait are found.
const BY_PHASE: &str = "phase";
/// Volumes by the claim they are for, `NAMESPACE/NAME`.
const BY_CLAIM: &str = "claim";

/// Whole objects: there are few of them, and nearly every field takes part in the match.
impl Kind for PersistentVolume {
    const RESOURCE: Resource = Resource::of::<PersistentVolume>();
    fn indexes(builder: Builder<Self>) -> Builder<Self> {
        builder.index(BY_CLAIM, |o, emit| {
            if let Some(r) = o.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                emit(&format!("{}/{}", text(&r.namespace), text(&r.name)));
            }
        })
    }
}

impl Kind for PersistentVolumeClaim {
    const RESOURCE: Resource = Resource::of::<PersistentVolumeClaim>();
    fn indexes(builder: Builder<Self>) -> Builder<Self> {
        builder.index(BY_PHASE, |o, emit| {
            emit(o.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending"));
        })
    }
}

impl Kind for StorageClass {
    const RESOURCE: Resource = Resource::of::<StorageClass>();
}

struct Shared {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    writes: Writes,
}

struct Claims(Arc<Shared>);
struct Volumes(Arc<Shared>);

/// Makes both controllers.
pub(crate) fn new(setup: &mut Setup) -> Vec<Arc<dyn Controller>> {
    let shared = Arc::new(Shared {
        claims: setup.informer(),
        volumes: setup.informer(),
        classes: setup.informer(),
        pods: setup.informer(),
        writes: setup.writes("persistentvolume-controller"),
    });
    let (claim_keys, volume_keys) = (setup.enqueue(CLAIMS), setup.enqueue(VOLUMES));
    {
        let (claim_keys, volume_keys) = (claim_keys.clone(), volume_keys.clone());
        shared.claims.on_event(move |event| {
            claim_keys.event(event);
            let claim = event.object();
            if let Some(volume) = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) {
                volume_keys.add(&ObjectKey::new(&claim.key.tenant, "", volume), Enqueue::level(event));
            }
        });
    }
    {
        let (claim_keys, claims) = (claim_keys.clone(), shared.claims.clone());
        shared.volumes.on_event(move |event| {
            volume_keys.event(event);
            let volume = event.object();
            let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            match reference.and_then(|r| Some((r.namespace.as_deref()?, r.name.as_deref()?))) {
                Some((namespace, name)) => {
                    claim_keys
                        .add(&ObjectKey::new(&volume.key.tenant, namespace, name), Enqueue::level(event));
                }
                // A volume that is free: perhaps somebody waits for it.
                None if !matches!(event, Event::Deleted(_)) => {
                    for claim in claims.by_index(BY_PHASE, &volume.key.tenant, "Pending") {
                        claim_keys.add(&claim.key, Level::Update);
                    }
                }
                None => {}
            }
        });
    }
    {
        let (claim_keys, claims) = (claim_keys.clone(), shared.claims.clone());
        shared.classes.on_event(move |event| {
            for claim in claims.by_index(BY_PHASE, &event.object().key.tenant, "Pending") {
                claim_keys.add(&claim.key, Level::Update);
            }
        });
    }
    shared.pods.on_event(move |event| {
        // A claim that is to go may go when its last pod has ended.
        let pod = event.object();
        if matches!(event, Event::Deleted(_)) || pod.is_over() {
            for claim in &pod.template.claims {
                claim_keys.add(&ObjectKey::new(&pod.key.tenant, &pod.key.namespace, claim), Level::Delete);
            }
        }
    });
    setup.resync(CLAIMS, &shared.claims);
    vec![Arc::new(Claims(shared.clone())), Arc::new(Volumes(shared))]
}

impl Shared {
    async fn claim(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Wait) };
        if claim.metadata.deletion_timestamp.is_some() {
            return self.end_claim(&claim).await;
        }
        let class =
            plan::class_of_claim(&claim).and_then(|c| self.classes.get(&ObjectKey::new(&key.tenant, "", c)));
        let mut volumes = self.volumes.of_tenant(&key.tenant);
        volumes.sort_by(|a, b| a.key.name.cmp(&b.key.name));
        let plan = plan::claim(&claim, volumes.iter().map(|v| &v.view), class.as_ref().map(|c| &c.view));
        let about = regarding(&claim, "v1", "PersistentVolumeClaim");
        match plan {
            ClaimPlan::Bind(name) => {
                if let Some(volume) = volumes.iter().find(|v| *v.key.name == *name) {
                    self.bind(&claim, volume).await?;
                }
            }
            ClaimPlan::Pending(event) => {
                if let Some((warning, reason, message)) = event {
                    let kind = if warning { EventType::Warning } else { EventType::Normal };
                    self.writes.recorder.event(&about, kind, reason, message);
                }
                self.claim_phase(&claim, "Pending").await?;
            }
            ClaimPlan::Provision(provisioner) => {
                let has = |a: &str| {
                    claim.metadata.annotations.as_ref().and_then(|m| m.get(a)) == Some(&provisioner)
                };
                if !PROVISIONERS.iter().all(|a| has(a)) {
                    let annotations: serde_json::Map<_, _> =
                        PROVISIONERS.iter().map(|a| ((*a).to_owned(), provisioner.clone().into())).collect();
                    let patch = json!({"metadata": {"resourceVersion": claim.revision.to_string(), "annotations": annotations}});
                    self.claims.patch(&claim_at(key), &Patch::Merge(patch)).await?;
                }
                let message = format!(
                    "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                );
                self.writes.recorder.event(&about, EventType::Normal, "ExternalProvisioning", message);
            }
            ClaimPlan::Lost(reason, message) => {
                if self.claim_phase(&claim, "Lost").await? {
                    self.writes.recorder.event(&about, EventType::Warning, reason, message);
                }
            }
        }
        Ok(Next::Wait)
    }

    /// Writes a claim's phase; returns whether it was another.
    async fn claim_phase(
        &self,
        claim: &Object<PersistentVolumeClaim>,
        phase: &str,
    ) -> Result<bool, SyncError> {
        if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
            return Ok(false);
        }
        let patch =
            json!({"metadata": {"resourceVersion": claim.revision.to_string()}, "status": {"phase": phase}});
        self.claims.patch(&claim_at(&claim.key).subresource("status"), &Patch::Merge(patch)).await?;
        Ok(true)
    }

    /// Binds a claim and a volume to each other. Each step is conditional on what was read, and done only where it is
    /// missing: stopped anywhere, it goes on from there.
    async fn bind(
        &self,
        claim: &Arc<Object<PersistentVolumeClaim>>,
        volume: &Arc<Object<PersistentVolume>>,
    ) -> Result<(), SyncError> {
        let key = &claim.key;
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        if reference.is_none_or(|r| r.uid.as_deref() != Some(&*claim.uid)) {
            let annotations = reference.is_none().then(|| json!({BOUND_BY_CONTROLLER: "yes"}));
            let patch = json!({
                "metadata": {"resourceVersion": volume.revision.to_string(), "annotations": annotations.unwrap_or_else(|| json!({}))},
                "spec": {"claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": &*key.namespace, "name": &*key.name,
                    "uid": claim.uid, "resourceVersion": claim.revision.to_string(),
                }},
            });
            self.volumes.patch(&volume_at(&volume.key), &Patch::Merge(patch)).await?;
        }
        self.volume_phase(&volume.key, "Bound").await?;
        let spec = claim.spec.clone().unwrap_or_default();
        let annotated = |a: &str| claim.metadata.annotations.as_ref().is_some_and(|m| m.contains_key(a));
        if spec.volume_name.as_deref() != Some(&*volume.key.name) || !annotated(BIND_COMPLETED) {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if spec.volume_name.is_none() {
                annotations[BOUND_BY_CONTROLLER] = "yes".into();
            }
            let patch = json!({
                "metadata": {"resourceVersion": claim.revision.to_string(), "annotations": annotations},
                "spec": {"volumeName": &*volume.key.name},
            });
            self.claims.patch(&claim_at(key), &Patch::Merge(patch)).await?;
        }
        let status = claim.status.clone().unwrap_or_default();
        let offered = volume.spec.clone().unwrap_or_default();
        if status.phase.as_deref() != Some("Bound")
            || status.access_modes != offered.access_modes
            // A claim that grew says its size itself, when its file system has grown too.
            || status.capacity.is_none()
        {
            let patch = json!({"status": {
                "phase": "Bound", "accessModes": offered.access_modes, "capacity": offered.capacity,
                "currentVolumeAttributesClassName": offered.volume_attributes_class_name,
            }});
            self.claims.patch(&claim_at(key).subresource("status"), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    /// A claim that is on its way out goes when no pod uses it.
    async fn end_claim(&self, claim: &Object<PersistentVolumeClaim>) -> Result<Next, SyncError> {
        let key = &claim.key;
        let finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|f| f == CLAIM_IN_USE) {
            return Ok(Next::Wait);
        }
        let uses = |pod: &Pod| !pod.is_over() && pod.template.claims.iter().any(|claim| **claim == *key.name);
        // The copy first, then the API server: a pod made a moment ago must not lose its data.
        let namespace = self.pods.by_index(crate::views::BY_NAMESPACE, &key.tenant, &key.namespace);
        if namespace.iter().any(|p| uses(p)) {
            return Ok(Next::Wait);
        }
        let at = Pod::RESOURCE.at(&key.tenant).namespace(&key.namespace);
        let live: skep_client::List<Pod> =
            self.writes.client.list_all(&at, skep_client::ListParams::default()).await?;
        if live.items.iter().any(uses) {
            return Ok(Next::Wait);
        }
        let left: Vec<_> = finalizers.iter().filter(|f| *f != CLAIM_IN_USE).collect();
        let patch = json!({"metadata": {"resourceVersion": claim.revision.to_string(), "finalizers": left}});
        self.claims.patch(&claim_at(key), &Patch::Merge(patch)).await?;
        Ok(Next::Wait)
    }

    async fn volume_phase(&self, key: &ObjectKey, phase: &str) -> Result<(), SyncError> {
        let Some(volume) = self.volumes.get(key) else { return Ok(()) };
        if volume.status.as_ref().and_then(|s| s.phase.as_deref()) != Some(phase) {
            let patch = json!({"metadata": {"resourceVersion": volume.revision.to_string()}, "status": {"phase": phase}});
            self.volumes.patch(&volume_at(key).subresource("status"), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    async fn volume(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::Wait) };
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let claim_key = reference
            .and_then(|r| Some(ObjectKey::new(&key.tenant, r.namespace.as_deref()?, r.name.as_deref()?)));
        let claim = match &claim_key {
            None => None,
            Some(claim_key) => match self.claims.get(claim_key) {
                Some(claim) => Some(claim.view.clone()),
                // The copy may be behind: a volume is released only when its claim is gone for certain.
                None => match self.writes.client.read::<PersistentVolumeClaim>(&claim_at(claim_key)).await {
                    Ok(claim) => Some(claim),
                    Err(e) if e.is_not_found() => None,
                    Err(e) => return Err(e.into()),
                },
            },
        };
        let phase = plan::volume_phase(&volume, claim.as_ref());
        self.volume_phase(key, phase).await?;
        if volume.metadata.deletion_timestamp.is_some() && phase != "Bound" {
            let Some(volume) = self.volumes.get(key) else { return Ok(Next::Wait) };
            let finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
            if finalizers.iter().any(|f| f == VOLUME_IN_USE) {
                let left: Vec<_> = finalizers.iter().filter(|f| *f != VOLUME_IN_USE).collect();
                let patch =
                    json!({"metadata": {"resourceVersion": volume.revision.to_string(), "finalizers": left}});
                self.volumes.patch(&volume_at(key), &Patch::Merge(patch)).await?;
            }
        }
        Ok(Next::Wait)
    }
}

fn claim_at(key: &ObjectKey) -> skep_client::ObjectPath {
    PersistentVolumeClaim::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name)
}

fn volume_at(key: &ObjectKey) -> skep_client::ObjectPath {
    PersistentVolume::RESOURCE.at(&key.tenant).name(&key.name)
}

impl Controller for Claims {
    fn name(&self) -> &'static str {
        CLAIMS
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.0.claim(key))
    }
}

impl Controller for Volumes {
    fn name(&self) -> &'static str {
        VOLUMES
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.0.volume(key))
    }
}
