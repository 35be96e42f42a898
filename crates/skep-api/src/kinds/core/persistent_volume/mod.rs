//! PersistentVolume.

mod sources;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::go_diff::{self, Shape};
use super::{node_labels, pod, resources, shared};
use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// Names the storage class in objects from before there was a field for it.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

/// In the order in which messages list them.
pub(super) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
pub(super) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

const PENDING: &str = "Pending";

static NO_SPEC: PersistentVolumeSpec = PersistentVolumeSpec {
    access_modes: None,
    aws_elastic_block_store: None,
    azure_disk: None,
    azure_file: None,
    capacity: None,
    cephfs: None,
    cinder: None,
    claim_ref: None,
    csi: None,
    fc: None,
    flex_volume: None,
    flocker: None,
    gce_persistent_disk: None,
    glusterfs: None,
    host_path: None,
    iscsi: None,
    local: None,
    mount_options: None,
    nfs: None,
    node_affinity: None,
    persistent_volume_reclaim_policy: None,
    photon_persistent_disk: None,
    portworx_volume: None,
    quobyte: None,
    rbd: None,
    scale_io: None,
    storage_class_name: None,
    storageos: None,
    volume_attributes_class_name: None,
    volume_mode: None,
    vsphere_volume: None,
};

fn spec(volume: &PersistentVolume) -> &PersistentVolumeSpec {
    volume.spec.as_ref().unwrap_or(&NO_SPEC)
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// An annotation's value.
pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    metadata.annotations.as_ref().and_then(|a| a.get(key))
}

/// What may be done with a volume, as volumes have and claims want it.
pub(super) fn validate_access_modes(modes: &[String], path: &Path<'_>, errors: &mut Errors) {
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(&m.as_str())) {
        errors.not_supported(path, mode, ACCESS_MODES);
    }
    let exclusive = |m: &String| m == "ReadWriteOncePod";
    let other = |m: &String| !exclusive(m) && ACCESS_MODES.contains(&m.as_str());
    if modes.iter().any(exclusive) && modes.iter().any(other) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `RWO,ROX`, always in this order.
pub(super) fn access_modes_text(modes: Option<&Vec<String>>) -> String {
    let has = |mode: &str| modes.is_some_and(|m| m.iter().any(|m| m == mode));
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    short.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn validate_spec(spec: &PersistentVolumeSpec, name: &str, errors: &mut Errors) {
    let path = Path::root("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    validate_access_modes(modes, &path.child("accessModes"), errors);

    let capacity_path = path.child("capacity");
    if spec.capacity.is_none() {
        errors.required(&capacity_path, "");
    }
    if spec.capacity.as_ref().is_none_or(|c| c.len() > 1 || !c.contains_key("storage")) {
        errors.not_supported(&capacity_path, Json(&spec.capacity), &["storage"]);
    }
    for (resource, text) in spec.capacity.iter().flatten() {
        let path = capacity_path.key(resource);
        let Some(quantity) = meta::parse_quantity(text, &path, errors) else { continue };
        if quantity.value() < 0 {
            errors.invalid(&path, quantity.value(), "must be a valid resource quantity");
        }
        if quantity.signum() <= 0 {
            errors.invalid(&path, &text.0, "must be greater than zero");
        }
    }

    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if !policy.is_empty() && !RECLAIM_POLICIES.contains(&policy) {
        errors.not_supported(&path.child("persistentVolumeReclaimPolicy"), policy, RECLAIM_POLICIES);
    }
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity");
        match &affinity.required {
            Some(selector) => pod::validate_node_selector(selector, &path.child("required"), errors),
            None => errors.required(&path.child("required"), "must specify required node constraints"),
        }
    }
    sources::validate(spec, name, &path, errors);
    if policy == "Recycle" && spec.host_path.as_ref().is_some_and(|h| is_root(&h.path)) {
        errors.forbidden(
            &path.child("persistentVolumeReclaimPolicy"),
            "may not be 'recycle' for a hostPath mount of '/'",
        );
    }
    if let Some(class) = spec.storage_class_name.as_ref().filter(|c| !c.is_empty()) {
        shared::dns_subdomain(class, &path.child("storageClassName"), errors);
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !VOLUME_MODES.contains(m)) {
        errors.not_supported(&path.child("volumeMode"), mode, VOLUME_MODES);
    }
    if let Some(class) = &spec.volume_attributes_class_name {
        let class_path = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.required(&class_path, "an empty string is disallowed");
        } else {
            shared::dns_subdomain(class, &class_path, errors);
        }
        if spec.csi.is_none() {
            errors.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

/// Whether a path, written in whatever way, is the root.
fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

/// Mount options in an annotation are only for the sources that knew them.
fn validate_mount_options(volume: &PersistentVolume, errors: &mut Errors) {
    let s = spec(volume);
    let mountable = s.gce_persistent_disk.is_some()
        || s.aws_elastic_block_store.is_some()
        || s.glusterfs.is_some()
        || s.nfs.is_some()
        || s.rbd.is_some()
        || s.quobyte.is_some()
        || s.iscsi.is_some()
        || s.cinder.is_some()
        || s.cephfs.is_some()
        || s.azure_file.is_some()
        || s.vsphere_volume.is_some()
        || s.azure_disk.is_some()
        || s.photon_persistent_disk.is_some();
    if !mountable && annotation(&volume.metadata, MOUNT_OPTIONS_ANNOTATION).is_some() {
        let path = Path::root("metadata");
        errors.forbidden(
            &path.child("annotations").child(MOUNT_OPTIONS_ANNOTATION),
            "may not specify mount options for this volume type",
        );
    }
}

/// The source alone: everything else of a spec left out.
fn source_of(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

fn validate_change(new: &PersistentVolumeSpec, old: &PersistentVolumeSpec, errors: &mut Errors) {
    let path = Path::root("spec");
    let (mut new_source, old_source) = (source_of(new), source_of(old));
    // A secret for growing the volume may be added later.
    if let (Some(new), Some(old)) = (&mut new_source.csi, &old_source.csi)
        && old.controller_expand_secret_ref.is_none()
    {
        new.controller_expand_secret_ref = None;
    }
    if !meta::same(&new_source, &old_source) {
        let diff = go_diff::unified(
            &go_diff::go_json(&old_source, &Shape::VOLUME_SOURCE),
            &go_diff::go_json(&new_source, &Shape::VOLUME_SOURCE),
        );
        errors.forbidden(
            &path.child("persistentvolumesource"),
            &format!("spec.persistentvolumesource is immutable after creation\n{diff}"),
        );
    }
    if new.volume_mode != old.volume_mode {
        errors.invalid(&Path::root("volumeMode"), Json(&new.volume_mode), shared::IMMUTABLE);
    }
    if old.node_affinity.is_some()
        && !node_labels::same_but_for_label_names(&new.node_affinity, &old.node_affinity)
    {
        let shown = go_diff::go_json(&new.node_affinity, &Shape::NODE_AFFINITY);
        errors.invalid(
            &Path::root("nodeAffinity"),
            Json(&shown),
            "field is immutable, except for updating from beta label to GA",
        );
    }
    if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
        errors.forbidden(
            &path.child("volumeAttributesClassName"),
            "update from non-nil value to nil is forbidden",
        );
    }
}

impl Kind for PersistentVolume {
    fn info() -> KindInfo {
        KindInfo::of::<PersistentVolume>().short("pv").status()
    }

    fn set_defaults(&mut self) {
        let status = self.status.get_or_insert_default();
        if status.phase.as_deref().unwrap_or_default().is_empty() {
            status.phase = Some(PENDING.to_owned());
        }
        let spec = self.spec.get_or_insert_default();
        if spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default().is_empty() {
            spec.persistent_volume_reclaim_policy = Some("Retain".to_owned());
        }
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        resources::canonicalize(&mut spec.capacity);
        if let Some(host_path) = &mut spec.host_path {
            host_path.type_.get_or_insert_default();
        }
        let fill = |field: &mut Option<String>, default: &str| {
            if field.as_deref().unwrap_or_default().is_empty() {
                *field = Some(default.to_owned());
            }
        };
        if let Some(rbd) = &mut spec.rbd {
            fill(&mut rbd.pool, "rbd");
            fill(&mut rbd.user, "admin");
            fill(&mut rbd.keyring, "/etc/ceph/keyring");
        }
        if let Some(iscsi) = &mut spec.iscsi {
            fill(&mut iscsi.iscsi_interface, "default");
        }
        if let Some(disk) = &mut spec.azure_disk {
            disk.caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
            disk.fs_type.get_or_insert_with(|| "ext4".to_owned());
            disk.read_only.get_or_insert(false);
            disk.kind.get_or_insert_with(|| "Shared".to_owned());
        }
        if let Some(scale_io) = &mut spec.scale_io {
            fill(&mut scale_io.storage_mode, "ThinProvisioned");
            fill(&mut scale_io.fs_type, "xfs");
        }
    }

    fn prepare_create(&mut self, cx: &Context<'_>) {
        self.status = Some(PersistentVolumeStatus {
            phase: Some(PENDING.to_owned()),
            last_phase_transition_time: Some(shared::seconds(cx.now)),
            ..PersistentVolumeStatus::default()
        });
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if !cx.is_status() {
            self.status.clone_from(&old.status);
            return;
        }
        self.spec.clone_from(&old.spec);
        let time = |v: &PersistentVolume| -> Option<Time> {
            v.status.as_ref().and_then(|s| s.last_phase_transition_time.clone())
        };
        let (new_time, old_time) = (time(self), time(old));
        let same_phase = phase(self) == phase(old);
        let status = self.status.get_or_insert_default();
        if same_phase && new_time.is_none() {
            status.last_phase_transition_time = old_time;
        } else if !same_phase && (new_time.is_none() || new_time == old_time) {
            status.last_phase_transition_time = Some(shared::seconds(cx.now));
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_spec(spec(self), self.metadata.name.as_deref().unwrap_or_default(), errors);
        validate_mount_options(self, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            if self.metadata.resource_version.as_ref().is_none_or(String::is_empty) {
                errors.required(&Path::root("resourceVersion"), "");
            }
            return;
        }
        self.validate(cx, errors);
        validate_change(spec(self), spec(old), errors);
    }

    fn warnings(&self, _: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cx.is_status() {
            return warnings;
        }
        for (key, message) in [
            (CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
            (MOUNT_OPTIONS_ANNOTATION, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
        ] {
            if annotation(&self.metadata, key).is_some() {
                warnings.push(format!("metadata.annotations[{key}]: {message}"));
            }
        }
        let spec = spec(self);
        if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
            warnings.push(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the \
                 recommended approach is to use dynamic provisioning."
                    .to_owned(),
            );
        }
        let selector = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
        for (i, term) in selector.into_iter().flat_map(|s| &s.node_selector_terms).enumerate() {
            for (j, expression) in term.match_expressions.iter().flatten().enumerate() {
                if let Some(message) = node_labels::deprecated_label(&expression.key) {
                    warnings.push(format!(
                        "spec.nodeAffinity.required.nodeSelectorTerms[{i}].matchExpressions[{j}].key: {} is \
                         {message}",
                        expression.key
                    ));
                }
            }
        }
        for (used, name, message) in [
            (spec.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            (
                spec.photon_persistent_disk.is_some(),
                "photonPersistentDisk",
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            (spec.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            (spec.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            (spec.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            (spec.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if used {
                warnings.push(format!("spec.{name}: {message}"));
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Capacity", "How much the volume holds."),
            Column::string("Access Modes", "How the volume can be mounted."),
            Column::string("Reclaim Policy", "What becomes of the volume when its claim goes."),
            Column::string("Status", "Whether the volume is free, bound or done with."),
            Column::string("Claim", "The claim that has the volume."),
            Column::string("StorageClass", "The storage class of the volume."),
            Column::string("VolumeAttributesClass", "The attributes class of the volume."),
            Column::string("Reason", "Why the volume is in its state."),
            Column::AGE,
            Column::string("VolumeMode", "Whether the volume is a file system or a block device.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = spec(self);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let or_unset = |field: &Option<String>| Cell::from(field.as_deref().unwrap_or("<unset>"));
        let going = self.metadata.deletion_timestamp.is_some();
        let claim = spec.claim_ref.as_ref();
        let capacity = spec.capacity.as_ref().and_then(|c| c.get("storage"));
        vec![
            meta::name_cell(&self.metadata),
            capacity.map_or("0", |q| q.0.as_str()).into(),
            access_modes_text(spec.access_modes.as_ref()).into(),
            text(&spec.persistent_volume_reclaim_policy).into(),
            if going { "Terminating" } else { phase(self) }.into(),
            claim.map_or_else(String::new, |c| format!("{}/{}", text(&c.namespace), text(&c.name))).into(),
            annotation(&self.metadata, CLASS_ANNOTATION)
                .cloned()
                .unwrap_or_else(|| text(&spec.storage_class_name))
                .into(),
            or_unset(&spec.volume_attributes_class_name),
            self.status.as_ref().map(|s| text(&s.reason)).unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
            or_unset(&spec.volume_mode),
        ]
    }
}
