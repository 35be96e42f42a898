//! The claim that a pod brings along for an ephemeral volume.

use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::view::{items, text};
use super::{checks, resources};
use crate::field::{Bare, Errors, Path};
use crate::kinds::core::resources::validate_quantity;
use crate::meta::{self, LabelSelectorOptions};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// A claim template: labels and annotations, and a sound spec.
pub(super) fn validate_template(
    template: &PersistentVolumeClaimTemplate,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(metadata) = &template.metadata {
        validate_template_meta(metadata, &path.child("metadata"), errors);
    }
    validate_spec(&template.spec, &path.child("spec"), errors);
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

/// The spec of a claim.
fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let modes = items(&spec.access_modes);
    let modes_path = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&modes_path, "at least 1 access mode is required");
    }
    if let Some(selector) = &spec.selector {
        meta::validate_label_selector(
            selector,
            LabelSelectorOptions::default(),
            &path.child("selector"),
            errors,
        );
    }
    let (mut once_pod, mut others) = (false, false);
    for mode in modes {
        checks::one_of(mode, &ACCESS_MODES, &modes_path, errors);
        once_pod |= mode == "ReadWriteOncePod";
        others |= mode != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode.as_str());
    }
    if once_pod && others {
        errors.forbidden(&modes_path, "may not use ReadWriteOncePod with other access modes");
    }
    let resources_path = path.child("resources");
    let storage_path = resources_path.key("storage");
    match spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage")) {
        None => errors.required(&storage_path, ""),
        Some(storage) if resources::amount(storage).is_some_and(|a| a.signum() <= 0) => {
            errors.invalid(&storage_path, storage.0.as_str(), "must be greater than zero");
        }
        Some(storage) => validate_quantity("storage", storage, &storage_path, errors),
    }
    for (name, class) in [
        ("storageClassName", &spec.storage_class_name),
        ("volumeAttributesClassName", &spec.volume_attributes_class_name),
    ] {
        if let Some(class) = class.as_deref().filter(|c| !c.is_empty()) {
            checks::dns_subdomain(class, &path.child(name), errors);
        }
    }
    if let Some(mode) = &spec.volume_mode {
        checks::one_of(mode, &["Block", "Filesystem"], &path.child("volumeMode"), errors);
    }
    validate_data_sources(spec, path, errors);
}

/// What the new volume is filled from, which can be said in two ways.
fn validate_data_sources(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    let check = |group: &Option<String>, kind: &str, name: &str, path: &Path<'_>, errors: &mut Errors| {
        checks::required(name, &path.child("name"), errors);
        checks::required(kind, &path.child("kind"), errors);
        let group = text(group);
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            errors.invalid(
                path,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        if !group.is_empty() {
            checks::dns_subdomain(group, &path.child("apiGroup"), errors);
        }
    };
    if let Some(source) = &spec.data_source {
        check(&source.api_group, &source.kind, &source.name, &path.child("dataSource"), errors);
    }
    let Some(reference) = &spec.data_source_ref else { return };
    let reference_path = path.child("dataSourceRef");
    check(&reference.api_group, &reference.kind, &reference.name, &reference_path, errors);
    let namespace = text(&reference.namespace);
    if !namespace.is_empty() {
        checks::dns_label(namespace, &reference_path.child("namespace"), errors);
    }
    if let Some(source) = &spec.data_source {
        let shown = path.child("dataSource").to_string();
        if !namespace.is_empty() {
            errors.invalid(
                path,
                Bare(&shown),
                "may not be specified when dataSourceRef.namespace is specified",
            );
        } else if text(&source.api_group) != text(&reference.api_group)
            || source.kind != reference.kind
            || source.name != reference.name
        {
            errors.invalid(path, Bare(&shown), "must match dataSourceRef");
        }
    }
}
