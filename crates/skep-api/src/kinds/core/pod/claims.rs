//! The claim that a pod brings along for an ephemeral volume.

use k8s_openapi::api::core::v1::PersistentVolumeClaimTemplate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::view::{items, text};
use crate::field::{Errors, Path};
use crate::kinds::core::persistent_volume_claim::validate_claim_spec;
use crate::meta;

/// A claim template: labels and annotations, and a sound spec.
pub(super) fn validate_template(
    template: &PersistentVolumeClaimTemplate,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(metadata) = &template.metadata {
        validate_template_meta(metadata, &path.child("metadata"), errors);
    }
    validate_claim_spec(&template.spec, &path.child("spec"), errors);
}

/// Only labels and annotations can be given: everything else is the server's.
fn validate_template_meta(metadata: &ObjectMeta, path: &Path<'_>, errors: &mut Errors) {
    if let Some(annotations) = &metadata.annotations {
        meta::validate_annotations(annotations, &path.child("annotations"), errors);
    }
    if let Some(labels) = &metadata.labels {
        meta::validate_labels(labels, &path.child("labels"), errors);
    }
    let ObjectMeta {
        annotations: _,
        labels: _,
        creation_timestamp,
        deletion_grace_period_seconds,
        deletion_timestamp,
        finalizers,
        generate_name,
        generation,
        managed_fields,
        name,
        namespace,
        owner_references,
        resource_version,
        self_link,
        uid,
    } = metadata;
    for (set, field) in [
        (!text(name).is_empty(), "name"),
        (!text(generate_name).is_empty(), "generateName"),
        (!text(namespace).is_empty(), "namespace"),
        (!text(self_link).is_empty(), "selfLink"),
        (!text(uid).is_empty(), "uID"),
        (!text(resource_version).is_empty(), "resourceVersion"),
        (generation.unwrap_or(0) != 0, "generation"),
        (creation_timestamp.is_some(), "creationTimestamp"),
        (deletion_timestamp.is_some(), "deletionTimestamp"),
        (deletion_grace_period_seconds.is_some(), "deletionGracePeriodSeconds"),
        (!items(owner_references).is_empty(), "ownerReferences"),
        (!items(finalizers).is_empty(), "finalizers"),
        (!items(managed_fields).is_empty(), "managedFields"),
    ] {
        if set {
            errors.forbidden(&path.child(field), "cannot be set");
        }
    }
}
