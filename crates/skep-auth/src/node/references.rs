//! What a pod, and a persistent volume, refers to.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, PersistentVolume, PersistentVolumeSpec, Pod, PodSpec, SecretReference, Volume,
};

use super::graph::ObjectKind;

/// Marks the pods that a node made itself: they grant it nothing.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Calls `f` with every object of the pod's namespace that its node needs for it.
pub(super) fn of_pod(pod: &Pod, mut f: impl FnMut(ObjectKind, &str)) {
    let Some(spec) = &pod.spec else { return };
    if pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR_ANNOTATION)) {
        return;
    }
    let mut f = |kind: ObjectKind, name: &str| {
        if !name.is_empty() {
            f(kind, name);
        }
    };
    f(ObjectKind::ServiceAccount, spec.service_account_name.as_deref().unwrap_or_default());
    for secret in spec.image_pull_secrets.iter().flatten() {
        f(ObjectKind::Secret, &secret.name);
    }
    environment(spec, &mut f);
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    for volume in spec.volumes.iter().flatten() {
        of_volume(volume, pod_name, &mut f);
    }
    let status = pod.status.as_ref();
    let generated = status.and_then(|s| s.resource_claim_statuses.as_deref()).unwrap_or_default();
    for claim in spec.resource_claims.iter().flatten() {
        let name = claim.resource_claim_name.as_deref().or_else(|| {
            generated.iter().find(|s| s.name == claim.name).and_then(|s| s.resource_claim_name.as_deref())
        });
        f(ObjectKind::ResourceClaim, name.unwrap_or_default());
    }
    if let Some(extended) = status.and_then(|s| s.extended_resource_claim_status.as_ref()) {
        f(ObjectKind::ResourceClaim, &extended.resource_claim_name);
    }
}

fn environment(spec: &PodSpec, f: &mut impl FnMut(ObjectKind, &str)) {
    let mut one = |from: Option<&Vec<EnvFromSource>>, vars: Option<&Vec<EnvVar>>| {
        for source in from.into_iter().flatten() {
            if let Some(s) = &source.secret_ref {
                f(ObjectKind::Secret, &s.name);
            }
            if let Some(c) = &source.config_map_ref {
                f(ObjectKind::ConfigMap, &c.name);
            }
        }
        for source in vars.into_iter().flatten().filter_map(|v| v.value_from.as_ref()) {
            if let Some(s) = &source.secret_key_ref {
                f(ObjectKind::Secret, &s.name);
            }
            if let Some(c) = &source.config_map_key_ref {
                f(ObjectKind::ConfigMap, &c.name);
            }
        }
    };
    for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
        one(c.env_from.as_ref(), c.env.as_ref());
    }
    for c in spec.ephemeral_containers.iter().flatten() {
        one(c.env_from.as_ref(), c.env.as_ref());
    }
}

fn of_volume(v: &Volume, pod_name: &str, f: &mut impl FnMut(ObjectKind, &str)) {
    let secrets = [
        v.azure_file.as_ref().map(|s| s.secret_name.as_str()),
        v.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()),
        v.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()),
        v.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()),
        v.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()),
        v.secret.as_ref().and_then(|s| s.secret_name.as_deref()),
        v.scale_io.as_ref().map(|s| s.secret_ref.name.as_str()),
        v.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()),
        v.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|r| r.name.as_str()),
        v.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()).map(|r| r.name.as_str()),
    ];
    for name in secrets.into_iter().flatten() {
        f(ObjectKind::Secret, name);
    }
    for source in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        if let Some(s) = &source.secret {
            f(ObjectKind::Secret, &s.name);
        }
        if let Some(c) = &source.config_map {
            f(ObjectKind::ConfigMap, &c.name);
        }
    }
    if let Some(c) = &v.config_map {
        f(ObjectKind::ConfigMap, &c.name);
    }
    if let Some(claim) = &v.persistent_volume_claim {
        f(ObjectKind::Claim, &claim.claim_name);
    } else if v.ephemeral.is_some() {
        f(ObjectKind::Claim, &format!("{pod_name}-{}", v.name));
    }
}

/// The claim that a volume is bound to (namespace, name), and the secrets (namespace, name) that a node
/// needs to mount it. `None` for a volume without a claim.
pub(super) fn of_volume_object(pv: &PersistentVolume) -> Option<VolumeReferences> {
    let spec = pv.spec.as_ref()?;
    let claim = spec.claim_ref.as_ref()?;
    let claim_namespace = claim.namespace.clone().unwrap_or_default();
    let mut secrets = Vec::new();
    volume_secrets(spec, &mut |name: &str, namespace: Option<&str>| {
        if !name.is_empty() {
            let namespace = namespace.filter(|n| !n.is_empty()).unwrap_or(&claim_namespace);
            secrets.push((namespace.to_owned(), name.to_owned()));
        }
    });
    Some(VolumeReferences { claim: (claim_namespace, claim.name.clone().unwrap_or_default()), secrets })
}

/// See [`of_volume_object`].
pub(super) struct VolumeReferences {
    pub(super) claim: (String, String),
    pub(super) secrets: Vec<(String, String)>,
}

fn volume_secrets(s: &PersistentVolumeSpec, f: &mut impl FnMut(&str, Option<&str>)) {
    if let Some(azure) = &s.azure_file {
        f(&azure.secret_name, azure.secret_namespace.as_deref());
    }
    let mut reference = |r: Option<&SecretReference>| {
        if let Some(r) = r {
            f(r.name.as_deref().unwrap_or_default(), r.namespace.as_deref());
        }
    };
    reference(s.cephfs.as_ref().and_then(|v| v.secret_ref.as_ref()));
    reference(s.cinder.as_ref().and_then(|v| v.secret_ref.as_ref()));
    reference(s.flex_volume.as_ref().and_then(|v| v.secret_ref.as_ref()));
    reference(s.rbd.as_ref().and_then(|v| v.secret_ref.as_ref()));
    reference(s.scale_io.as_ref().map(|v| &v.secret_ref));
    reference(s.iscsi.as_ref().and_then(|v| v.secret_ref.as_ref()));
    if let Some(csi) = &s.csi {
        // What only controllers use (publish, expand) is not for nodes.
        reference(csi.node_publish_secret_ref.as_ref());
        reference(csi.node_stage_secret_ref.as_ref());
        reference(csi.node_expand_secret_ref.as_ref());
    }
    if let Some(r) = s.storageos.as_ref().and_then(|v| v.secret_ref.as_ref()) {
        f(r.name.as_deref().unwrap_or_default(), r.namespace.as_deref());
    }
}
