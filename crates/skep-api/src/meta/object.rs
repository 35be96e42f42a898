//! The rules of `metadata`, the same for every kind.
//!
//! Rules and wording: k8s.io/apimachinery `pkg/api/validation`, objectmeta.go.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use skep_base::label;

use super::{check, format, selector};
use crate::field::{Bare, Errors, Json, MAX_SHOWN_BYTES, Path, cut};
use crate::kind::KindInfo;

/// Keys and values of all annotations together: they are in every list and every agent's cache.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Longest name of a field manager: it is repeated in every entry.
pub const MANAGER_MAX_BYTES: usize = 128;
/// Longest name of a subresource in a managed-fields entry.
const SUBRESOURCE_MAX_BYTES: usize = 256;
/// Finalizers without a domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

const METADATA: Path<'static> = Path::root("metadata");

/// Checks the metadata of a new object, after its name was generated.
pub fn validate_object_meta(meta: &ObjectMeta, info: &KindInfo, errors: &mut Errors) {
    let filled = |field: &'_ Option<String>| field.as_deref().is_some_and(|f| !f.is_empty());
    let generate_name = meta.generate_name.as_deref().unwrap_or_default();
    if !generate_name.is_empty() {
        for message in format::name_errors(info.name_rule, generate_name, true) {
            errors.invalid(&METADATA.child("generateName"), generate_name, &message);
        }
    }
    let name = meta.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        errors.required(&METADATA.child("name"), "name or generateName is required");
    } else {
        for message in format::name_errors(info.name_rule, name, false) {
            errors.invalid(&METADATA.child("name"), name, &message);
        }
    }
    let namespace_path = METADATA.child("namespace");
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    if !info.namespaced {
        if filled(&meta.namespace) {
            errors.forbidden(&namespace_path, "not allowed on this type");
        }
    } else if namespace.is_empty() {
        errors.required(&namespace_path, "");
    } else {
        for message in format::dns1123_label_errors(namespace) {
            errors.invalid(&namespace_path, namespace, &message);
        }
    }
    check::validate_nonnegative(meta.generation.unwrap_or(0), &METADATA.child("generation"), errors);
    validate_common(meta, errors, |errors| {
        validate_finalizers(meta.finalizers.as_deref().unwrap_or_default(), errors);
    });
}

/// Checks the metadata of an object that replaces another.
pub fn validate_object_meta_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut Errors) {
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let mut added: Vec<&String> =
            new.finalizers.iter().flatten().filter(|f| !before.contains(f)).collect();
        added.sort();
        added.dedup();
        if !added.is_empty() {
            let listed: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                listed.join(", ")
            );
            errors.forbidden(&METADATA.child("finalizers"), &detail);
        }
    }
    if new.resource_version.as_deref().is_none_or(str::is_empty) {
        errors.invalid(&METADATA.child("resourceVersion"), "", "must be specified for an update");
    }
    let generation = new.generation.unwrap_or(0);
    if generation < old.generation.unwrap_or(0) {
        errors.invalid(&METADATA.child("generation"), generation, "must not be decremented");
    }
    let text = |new: &Option<String>, old: &Option<String>, field: &str, errors: &mut Errors| {
        let (new, old) = (new.as_deref().unwrap_or_default(), old.as_deref().unwrap_or_default());
        if new != old {
            errors.invalid(&METADATA.child(field), new, "field is immutable");
        }
    };
    text(&new.name, &old.name, "name", errors);
    text(&new.namespace, &old.namespace, "namespace", errors);
    text(&new.uid, &old.uid, "uid", errors);
    let immutable = check::validate_immutable_field;
    let (n, o) = (&new.creation_timestamp, &old.creation_timestamp);
    immutable(n, o, &METADATA.child("creationTimestamp"), errors);
    let (n, o) = (&new.deletion_timestamp, &old.deletion_timestamp);
    immutable(n, o, &METADATA.child("deletionTimestamp"), errors);
    let (n, o) = (new.deletion_grace_period_seconds, old.deletion_grace_period_seconds);
    if n != o {
        let path = METADATA.child("deletionGracePeriodSeconds");
        errors.invalid(&path, Json(&n), "field is immutable");
    }
    validate_common(new, errors, |_| ());
}

/// For writes to `status` of kinds whose metadata such a write may not touch: everything but the managed
/// fields and the resource version that the client named comes from the old object.
pub fn keep_metadata(new: &mut ObjectMeta, old: &ObjectMeta) {
    let kept = ObjectMeta {
        managed_fields: new.managed_fields.take(),
        resource_version: new.resource_version.take(),
        ..old.clone()
    };
    *new = kept;
}

/// What is checked on every write. `finalizers` comes where upstream checks finalizers.
fn validate_common(meta: &ObjectMeta, errors: &mut Errors, finalizers: impl FnOnce(&mut Errors)) {
    if let Some(labels) = &meta.labels {
        selector::validate_labels(labels, &METADATA.child("labels"), errors);
    }
    if let Some(annotations) = &meta.annotations {
        validate_annotations(annotations, &METADATA.child("annotations"), errors);
    }
    if let Some(references) = &meta.owner_references {
        validate_owner_references(references, &METADATA.child("ownerReferences"), errors);
    }
    finalizers(errors);
    for (i, entry) in meta.managed_fields.iter().flatten().enumerate() {
        validate_managed_fields_entry(entry, &METADATA.child("managedFields").index(i), errors);
    }
}

/// Annotations: keys like those of labels but for the case, and a limit for all together.
pub fn validate_annotations(annotations: &BTreeMap<String, String>, path: &Path<'_>, errors: &mut Errors) {
    let mut total_bytes = 0;
    for (key, value) in annotations {
        if !label::is_key(key) {
            for message in label::key_errors(&key.to_lowercase()) {
                errors.invalid(path, key, &message);
            }
        }
        total_bytes += key.len() + value.len();
    }
    if total_bytes > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

/// The fields of every reference, and that at most one is the controller.
pub fn validate_owner_references(references: &[OwnerReference], path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    // Every second controller is reported with all references: they are written out once.
    let mut shown: Option<String> = None;
    for reference in references {
        if errors.is_full() {
            return;
        }
        validate_owner_reference(reference, path, errors);
        if reference.controller != Some(true) {
            continue;
        }
        let this = format!("{}/{}", reference.kind, reference.name);
        match &controller {
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for \
                     {first} and {this}"
                );
                let shown = shown.get_or_insert_with(|| {
                    let all: Vec<String> = references.iter().map(shown_reference).collect();
                    cut(&format!("[{}]", all.join(",")), MAX_SHOWN_BYTES).into_owned()
                });
                errors.invalid(path, Bare(shown), &detail);
            }
            None => controller = Some(this),
        }
    }
}

fn validate_owner_reference(reference: &OwnerReference, path: &Path<'_>, errors: &mut Errors) {
    let (group, version) = match reference.api_version.split_once('/') {
        None => ("", reference.api_version.as_str()),
        Some((_, rest)) if rest.contains('/') => ("", ""),
        Some(pair) => pair,
    };
    if version.is_empty() {
        errors.invalid(&path.child("apiVersion"), &reference.api_version, "version must not be empty");
    }
    let required = [("kind", &reference.kind), ("name", &reference.name), ("uid", &reference.uid)];
    for (field, value) in required {
        if value.is_empty() {
            errors.invalid(&path.child(field), value, "must not be empty");
        }
    }
    // Events are many and short-lived; nothing may hang on one.
    if (group, version, reference.kind.as_str()) == ("", "v1", "Event") {
        let detail = "/v1, Kind=Event is disallowed from being an owner";
        errors.invalid(path, Bare(&shown_reference(reference)), detail);
    }
}

/// The reference as upstream shows it: its JSON in upstream's order of fields.
fn shown_reference(reference: &OwnerReference) -> String {
    let text = |s: &str| serde_json::Value::from(s).to_string();
    let mut shown = format!(
        r#"{{"apiVersion":{},"kind":{},"name":{},"uid":{}"#,
        text(&reference.api_version),
        text(&reference.kind),
        text(&reference.name),
        text(&reference.uid)
    );
    for (name, value) in
        [("controller", reference.controller), ("blockOwnerDeletion", reference.block_owner_deletion)]
    {
        if let Some(value) = value {
            shown.push_str(&format!(r#","{name}":{value}"#));
        }
    }
    shown.push('}');
    shown
}

fn validate_finalizers(finalizers: &[String], errors: &mut Errors) {
    let path = METADATA.child("finalizers");
    for finalizer in finalizers {
        selector::validate_qualified_name(finalizer, &path, errors);
    }
    let has = |wanted: &str| finalizers.iter().any(|f| f == wanted);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(&path, Json(&finalizers), detail);
    }
}

/// For built-in kinds, on create and update, behind the other checks: a finalizer without a domain must
/// be a standard one. Custom resources may have others.
pub fn validate_finalizer_names(meta: &ObjectMeta, errors: &mut Errors) {
    for (i, finalizer) in meta.finalizers.iter().flatten().enumerate() {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&METADATA.child("finalizers").index(i), finalizer, detail);
        }
    }
}

fn validate_managed_fields_entry(entry: &ManagedFieldsEntry, path: &Path<'_>, errors: &mut Errors) {
    let operation = entry.operation.as_deref().unwrap_or_default();
    if !matches!(operation, "Apply" | "Update") {
        errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
    }
    let fields_type = entry.fields_type.as_deref().unwrap_or_default();
    if !matches!(fields_type, "" | "FieldsV1") {
        errors.invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`");
    }
    validate_field_manager(entry.manager.as_deref().unwrap_or_default(), &path.child("manager"), errors);
    if entry.subresource.as_deref().unwrap_or_default().len() > SUBRESOURCE_MAX_BYTES {
        errors.too_long(&path.child("subresource"), SUBRESOURCE_MAX_BYTES);
    }
}

/// The name of a field manager: printable, not too long. Also for the `fieldManager` parameter.
pub fn validate_field_manager(manager: &str, path: &Path<'_>, errors: &mut Errors) {
    if manager.len() > MANAGER_MAX_BYTES {
        errors.too_long(path, MANAGER_MAX_BYTES);
    }
    for (i, c) in manager.char_indices().filter(|&(_, c)| !is_printable(c)) {
        let detail = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
        errors.invalid(path, manager, &detail);
    }
}

/// Letters, marks, digits, punctuation, symbols, and the ASCII space; not other spaces, controls,
/// formatting characters and private use.
fn is_printable(c: char) -> bool {
    let formatting = matches!(c,
        '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{E000}'..='\u{F8FF}' | '\u{FEFF}' | '\u{FFF0}'..='\u{FFFB}' | '\u{E0000}'..);
    c == ' ' || !(c.is_control() || c.is_whitespace() || formatting)
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
