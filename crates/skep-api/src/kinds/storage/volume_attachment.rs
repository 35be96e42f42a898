//! VolumeAttachment.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec, VolumeAttachmentStatus, VolumeError,
};
use serde_json::json;

use crate::context::Context;
use crate::field::{Bare, Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// Keys and values of the metadata of an attachment together.
const METADATA_MAX_BYTES: usize = 256 * 1024;
/// The longest message of an error.
const ERROR_MESSAGE_MAX_BYTES: usize = 1024;

impl Kind for VolumeAttachment {
    fn info() -> KindInfo {
        KindInfo::of::<VolumeAttachment>().conditional_update_only().status()
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(VolumeAttachmentStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if !cx.is_status() {
            self.status.clone_from(&old.status);
            return;
        }
        self.spec.clone_from(&old.spec);
        // A write to the status touches nothing else of the metadata than who manages what.
        let (new, old) = (&mut self.metadata, &old.metadata);
        new.labels.clone_from(&old.labels);
        new.annotations.clone_from(&old.annotations);
        new.finalizers.clone_from(&old.finalizers);
        new.owner_references.clone_from(&old.owner_references);
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        checks::csi_driver_name(&self.spec.attacher, &path.child("attacher"), errors);
        validate_source(&self.spec.source, &path.child("source"), errors);
        for message in meta::dns1123_subdomain_errors(&self.spec.node_name) {
            errors.invalid(&path.child("nodeName"), &self.spec.node_name, &message);
        }
        if let Some(status) = &self.status {
            validate_status(status, &Path::root("status"), errors);
        }
        if let Some(name) = &self.spec.source.persistent_volume_name {
            let source = path.child("source");
            for message in meta::dns1123_subdomain_errors(name) {
                errors.invalid(&source.child("persistentVolumeName"), name, &message);
            }
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        self.validate(cx, errors);
        if !meta::same(&self.spec, &old.spec) {
            errors.invalid(&Path::root("spec"), Bare(&spec_shown(&self.spec)), checks::IMMUTABLE);
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column { format: "name", ..Column::string("Attacher", "The driver that attaches.") },
            Column::string("PV", "The volume."),
            Column::string("Node", "The node."),
            Column { ty: "boolean", ..Column::string("Attached", "Whether the volume is attached.") },
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.spec.attacher.as_str().into(),
            self.spec.source.persistent_volume_name.as_deref().unwrap_or_default().into(),
            self.spec.node_name.as_str().into(),
            self.status.as_ref().is_some_and(|s| s.attached).into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn spec_shown(spec: &VolumeAttachmentSpec) -> String {
    json!({
        "Attacher": spec.attacher,
        "Source": {
            "PersistentVolumeName": spec.source.persistent_volume_name,
            "InlineVolumeSpec": spec.source.inline_volume_spec,
        },
        "NodeName": spec.node_name,
    })
    .to_string()
}

fn validate_source(source: &VolumeAttachmentSource, path: &Path<'_>, errors: &mut Errors) {
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (&source.inline_volume_spec, &source.persistent_volume_name) {
        (None, None) => errors.required(path, detail),
        (Some(_), Some(_)) => errors.forbidden(path, detail),
        (None, Some(name)) if name.is_empty() => {
            let detail = "must specify non empty persistentVolumeName";
            errors.required(&path.child("persistentVolumeName"), detail);
        }
        // An inline volume is one that an in-tree plugin was asked for and that a driver now attaches. Its
        // driver is named by `attacher` and checks it.
        _ => {}
    }
}

fn validate_status(status: &VolumeAttachmentStatus, path: &Path<'_>, errors: &mut Errors) {
    let metadata = status.attachment_metadata.iter().flatten();
    if metadata.map(|(k, v)| k.len() + v.len()).sum::<usize>() > METADATA_MAX_BYTES {
        errors.too_long(&path.child("attachmentMetadata"), METADATA_MAX_BYTES);
    }
    validate_error(status.attach_error.as_ref(), &path.child("attachError"), errors);
    validate_error(status.detach_error.as_ref(), &path.child("detachError"), errors);
}

fn validate_error(error: Option<&VolumeError>, path: &Path<'_>, errors: &mut Errors) {
    let Some(error) = error else { return };
    if error.message.as_ref().is_some_and(|m| m.len() > ERROR_MESSAGE_MAX_BYTES) {
        // Clients are told the limit of the metadata here.
        errors.too_long(&path.child("message"), METADATA_MAX_BYTES);
    }
    if let Some(code) = error.error_code
        && code < 0
    {
        let detail = "must be between 0 and 2147483647, inclusive";
        errors.invalid(&path.child("errorCode"), code, detail);
    }
}
