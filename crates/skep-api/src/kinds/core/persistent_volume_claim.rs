//! PersistentVolumeClaim, and what claim templates of workloads share with it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference,
    TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::go_diff::{self, Shape};
use super::persistent_volume::{
    CLASS_ANNOTATION, VOLUME_MODES, access_modes_text, annotation, validate_access_modes,
};
use super::{resources, shared};
use crate::context::Context;
use crate::field::{Bare, Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta::{self, LabelSelectorOptions};
use crate::table::{Cell, Column};

const PENDING: &str = "Pending";
const BOUND: &str = "Bound";

/// In the order in which messages list them.
const RESIZE_STATUSES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

static NO_SPEC: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec {
    access_modes: None,
    data_source: None,
    data_source_ref: None,
    resources: None,
    selector: None,
    storage_class_name: None,
    volume_attributes_class_name: None,
    volume_mode: None,
    volume_name: None,
};

fn spec(claim: &PersistentVolumeClaim) -> &PersistentVolumeClaimSpec {
    claim.spec.as_ref().unwrap_or(&NO_SPEC)
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&Text> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// Fills in what a claim, or the template of one, leaves out.
pub fn default_claim(claim: &mut PersistentVolumeClaim) {
    let status = claim.status.get_or_insert_default();
    if text(&status.phase).is_empty() {
        status.phase = Some(PENDING.to_owned());
    }
    resources::canonicalize(&mut status.capacity);
    resources::canonicalize(&mut status.allocated_resources);
    default_claim_spec(claim.spec.get_or_insert_default());
}

/// Fills in what the spec of a claim leaves out.
pub fn default_claim_spec(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    spec.volume_name.take_if(|n| n.is_empty());
    spec.access_modes.take_if(|m| m.is_empty());
    let lists = spec.resources.get_or_insert_default();
    resources::canonicalize(&mut lists.limits);
    resources::canonicalize(&mut lists.requests);
}

/// The spec of a claim, or of the template of one.
pub fn validate_claim_spec(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_spec(spec, Known::default(), path, errors);
}

/// What a stored claim has that would not be let in any more.
#[derive(Clone, Copy, Default)]
struct Known {
    selector_values: bool,
    source_groups: bool,
}

impl Known {
    fn of(old: &PersistentVolumeClaimSpec) -> Known {
        let bad = |group: Option<&String>| {
            group.is_some_and(|g| !g.is_empty() && !skep_base::name::is_dns1123_subdomain(g))
        };
        Known {
            selector_values: old.selector.as_ref().is_some_and(meta::selector::has_invalid_values),
            source_groups: bad(old.data_source.as_ref().and_then(|s| s.api_group.as_ref()))
                || bad(old.data_source_ref.as_ref().and_then(|s| s.api_group.as_ref())),
        }
    }
}

fn validate_spec(spec: &PersistentVolumeClaimSpec, known: Known, path: &Path<'_>, errors: &mut Errors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    if let Some(selector) = &spec.selector {
        let options = LabelSelectorOptions {
            allow_invalid_values: known.selector_values,
            ..LabelSelectorOptions::default()
        };
        meta::validate_label_selector(selector, options, &path.child("selector"), errors);
    }
    validate_access_modes(modes, &path.child("accessModes"), errors);
    let storage_path = path.child("resources");
    let storage_path = storage_path.key("storage");
    match requested(spec) {
        None => errors.required(&storage_path, ""),
        Some(text) => {
            if let Some(quantity) = meta::parse_quantity(text, &storage_path, errors)
                && quantity.signum() <= 0
            {
                errors.invalid(&storage_path, &text.0, "must be greater than zero");
            }
        }
    }
    for (name, class) in [
        ("storageClassName", &spec.storage_class_name),
        ("volumeAttributesClassName", &spec.volume_attributes_class_name),
    ] {
        if name == "volumeAttributesClassName" {
            if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !VOLUME_MODES.contains(m)) {
                errors.not_supported(&path.child("volumeMode"), mode, VOLUME_MODES);
            }
            validate_sources(spec, known, path, errors);
        }
        if let Some(class) = class.as_ref().filter(|c| !c.is_empty()) {
            shared::dns_subdomain(class, &path.child(name), errors);
        }
    }
}

fn validate_source(
    (group, kind, name): (&str, &str, &str),
    known: Known,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    if kind.is_empty() {
        errors.required(&path.child("kind"), "");
    }
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() && !known.source_groups {
        shared::dns_subdomain(group, &path.child("apiGroup"), errors);
    }
}

/// What the volume is filled with, which can be said in two fields that must agree.
fn validate_sources(spec: &PersistentVolumeClaimSpec, known: Known, path: &Path<'_>, errors: &mut Errors) {
    if let Some(s) = &spec.data_source {
        validate_source((text(&s.api_group), &s.kind, &s.name), known, &path.child("dataSource"), errors);
    }
    let Some(r) = &spec.data_source_ref else { return };
    let ref_path = path.child("dataSourceRef");
    validate_source((text(&r.api_group), &r.kind, &r.name), known, &ref_path, errors);
    let namespace = text(&r.namespace);
    if !namespace.is_empty() {
        shared::dns_label(namespace, &ref_path.child("namespace"), errors);
    }
    let Some(s) = &spec.data_source else { return };
    let problem = if !namespace.is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if (&s.api_group, &s.kind, &s.name) != (&r.api_group, &r.kind, &r.name) {
        "must match dataSourceRef"
    } else {
        return;
    };
    // Upstream gives a path where the value belongs; it has no JSON form but an empty one.
    errors.invalid(path, Bare("{}"), problem);
}

/// Advice about the spec of a claim, or of the template of one.
pub fn claim_warnings(spec: &PersistentVolumeClaimSpec, path: &Path<'_>, warnings: &mut Vec<String>) {
    let Some(lists) = &spec.resources else { return };
    let path = path.child("resources");
    for (name, list) in [("requests", &lists.requests), ("limits", &lists.limits)] {
        let Some(storage) = list.as_ref().and_then(|l| l.get("storage")) else { continue };
        if resources::amount(list.as_ref(), "storage").milli_value() % 1000 != 0 {
            let path = path.child(name);
            warnings.push(format!(
                "{}: fractional byte value {:?} is invalid, must be an integer",
                path.key("storage"),
                storage.0
            ));
        }
    }
}

/// Sources in the old field were dropped unless they were claims or snapshots; old clients rely on it.
fn drop_unknown_source(spec: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    let had_source = old.is_some_and(|o| o.data_source.is_some() || o.data_source_ref.is_some());
    if had_source || spec.data_source_ref.is_some() {
        return;
    }
    spec.data_source.take_if(|s| {
        !matches!(
            (text(&s.api_group), s.kind.as_str()),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    });
}

/// Sources in other namespaces are not supported: upstream has them switched off, too.
fn drop_foreign_source(spec: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    if old.is_none_or(|o| o.data_source_ref.is_none()) {
        spec.data_source_ref.take_if(|r| !text(&r.namespace).is_empty());
    }
}

/// Either field follows from the other.
fn sync_sources(spec: &mut PersistentVolumeClaimSpec) {
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(s), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: s.api_group.clone(),
                kind: s.kind.clone(),
                name: s.name.clone(),
                namespace: None,
            });
        }
        (None, Some(r)) if text(&r.namespace).is_empty() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: r.api_group.clone(),
                kind: r.kind.clone(),
                name: r.name.clone(),
            });
        }
        _ => {}
    }
}

/// What of the new spec may differ is made to look like the old one; the rest must be the same.
fn validate_change(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, errors: &mut Errors) {
    let path = Path::root("spec");
    let (new_spec, old_spec) = (spec(new), spec(old));
    let (mut now, mut before) = (new_spec.clone(), old_spec.clone());
    sync_sources(&mut before);
    if before.volume_name.is_none() {
        before.volume_name.clone_from(&now.volume_name);
    }
    let (old_class, new_class) =
        (annotation(&old.metadata, CLASS_ANNOTATION), annotation(&new.metadata, CLASS_ANNOTATION));
    let unset_before = before.storage_class_name.is_none();
    let moved = old_class.is_some()
        && unset_before
        && now.storage_class_name.as_ref() == old_class
        && (new_class.is_none() || new_class == old_class);
    if moved {
        now.storage_class_name = None;
    } else {
        let value = |class: Option<&String>| class.cloned().unwrap_or_default();
        if value(new_class) != value(old_class) {
            let path = Path::root("metadata");
            let path = path.child("annotations");
            errors.invalid(&path.child(CLASS_ANNOTATION), value(new_class), shared::IMMUTABLE);
        }
        let set_now = now.storage_class_name.is_some();
        if set_now && unset_before && (old_class.is_none() || old_class == now.storage_class_name.as_ref()) {
            now.storage_class_name.clone_from(&before.storage_class_name);
        }
    }
    if phase(new) == BOUND {
        if let Some(requests) = now.resources.as_mut().and_then(|r| r.requests.as_mut()) {
            let size = requested(&before).cloned().unwrap_or_else(|| Text("0".to_owned()));
            requests.insert("storage".to_owned(), size);
        }
        now.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
    }
    if !meta::same(&now, &before) {
        let diff = go_diff::unified(
            &go_diff::go_json(&before, &Shape::CLAIM_SPEC),
            &go_diff::go_json(&now, &Shape::CLAIM_SPEC),
        );
        errors.forbidden(
            &path,
            &format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName \
                 for bound claims\n{diff}"
            ),
        );
    }

    let size = |spec: &PersistentVolumeClaimSpec| {
        resources::amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()), "storage")
    };
    let capacity = resources::amount(old.status.as_ref().and_then(|s| s.capacity.as_ref()), "storage");
    // A claim may be made smaller again after growing it failed, but never down to what it already has.
    if size(new_spec) < size(old_spec) && size(new_spec) <= capacity {
        let path = path.child("resources");
        let path = path.child("requests");
        errors.forbidden(&path.child("storage"), "field can not be less than status.capacity");
    }
    if new_spec.volume_mode != old_spec.volume_mode {
        errors.invalid(&Path::root("volumeMode"), Json(&new_spec.volume_mode), shared::IMMUTABLE);
    }
    let class = &new_spec.volume_attributes_class_name;
    let in_use = old.status.as_ref().is_some_and(|s| s.current_volume_attributes_class_name.is_some());
    if *class != old_spec.volume_attributes_class_name && in_use && text(class).is_empty() {
        let what = if class.is_none() { "nil" } else { "empty string" };
        errors.forbidden(
            &path.child("volumeAttributesClassName"),
            &format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"),
        );
    }
}

/// A key of what was allocated: storage, or something of one's own.
fn validate_resource_key(key: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let before = errors.len();
    meta::validate_qualified_name(key, path, errors);
    if errors.len() == before && resources::is_native(key) && key != "storage" {
        errors.not_supported(path, key, &["storage"]);
    }
    errors.len() == before
}

fn validate_amounts(
    list: Option<&BTreeMap<String, Text>>,
    check_keys: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (resource, text) in list.into_iter().flatten() {
        if check_keys && !validate_resource_key(resource, path, errors) {
            continue;
        }
        let path = path.key(resource);
        if let Some(quantity) = meta::parse_quantity(text, &path, errors)
            && quantity.value() < 0
        {
            errors.invalid(&path, quantity.value(), "must be a valid resource quantity");
        }
    }
}

fn validate_status(claim: &PersistentVolumeClaim, errors: &mut Errors) {
    if claim.metadata.resource_version.as_ref().is_none_or(String::is_empty) {
        errors.required(&Path::root("resourceVersion"), "");
    }
    if spec(claim).access_modes.is_none() {
        errors.required(&Path::root("Spec").child("accessModes"), "");
    }
    let Some(status) = &claim.status else { return };
    let path = Path::root("status");
    validate_amounts(status.capacity.as_ref(), false, &path.child("capacity"), errors);
    let statuses_path = path.child("allocatedResourceStatuses");
    for (resource, resize) in status.allocated_resource_statuses.iter().flatten() {
        validate_resource_key(resource, &statuses_path, errors);
        if !RESIZE_STATUSES.contains(&resize.as_str()) {
            errors.not_supported(&statuses_path, resource, RESIZE_STATUSES);
        }
    }
    validate_amounts(status.allocated_resources.as_ref(), true, &path.child("allocatedResources"), errors);
}

impl Kind for PersistentVolumeClaim {
    fn info() -> KindInfo {
        KindInfo::of::<PersistentVolumeClaim>().short("pvc").status()
    }

    fn set_defaults(&mut self) {
        default_claim(self);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(PersistentVolumeClaimStatus {
            phase: Some(PENDING.to_owned()),
            ..PersistentVolumeClaimStatus::default()
        });
        let spec = self.spec.get_or_insert_default();
        drop_foreign_source(spec, None);
        drop_unknown_source(spec, None);
        sync_sources(spec);
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
            return;
        }
        self.status.clone_from(&old.status);
        let new = self.spec.get_or_insert_default();
        drop_foreign_source(new, Some(spec(old)));
        drop_unknown_source(new, Some(spec(old)));
        sync_sources(new);
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_claim_spec(spec(self), &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            validate_status(self, errors);
        } else {
            validate_spec(spec(self), Known::of(spec(old)), &Path::root("spec"), errors);
            validate_change(self, old, errors);
        }
    }

    fn warnings(&self, _: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cx.is_status() {
            return warnings;
        }
        if annotation(&self.metadata, CLASS_ANNOTATION).is_some() {
            warnings.push(format!(
                "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" \
                 attribute instead"
            ));
        }
        claim_warnings(spec(self), &Path::root("spec"), &mut warnings);
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Status", "Whether the claim has a volume."),
            Column::string("Volume", "The volume that the claim has."),
            Column::string("Capacity", "How much the volume holds."),
            Column::string("Access Modes", "How the volume can be mounted."),
            Column::string("StorageClass", "The storage class of the claim."),
            Column::string("VolumeAttributesClass", "The attributes class of the claim."),
            Column::AGE,
            Column::string("VolumeMode", "Whether the volume is a file system or a block device.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = spec(self);
        let or_unset = |field: &Option<String>| Cell::from(field.as_deref().unwrap_or("<unset>"));
        let going = self.metadata.deletion_timestamp.is_some();
        let (mut capacity, mut modes) = (String::new(), String::new());
        if spec.volume_name.is_some() {
            let list = self.status.as_ref().and_then(|s| s.capacity.as_ref());
            capacity = list.and_then(|l| l.get("storage")).map_or_else(|| "0".to_owned(), |q| q.0.clone());
            modes = access_modes_text(self.status.as_ref().and_then(|s| s.access_modes.as_ref()));
        }
        vec![
            meta::name_cell(&self.metadata),
            if going { "Terminating" } else { phase(self) }.into(),
            text(&spec.volume_name).into(),
            capacity.into(),
            modes.into(),
            annotation(&self.metadata, CLASS_ANNOTATION)
                .map_or_else(|| text(&spec.storage_class_name), String::as_str)
                .into(),
            or_unset(&spec.volume_attributes_class_name),
            meta::age_cell(&self.metadata, now),
            or_unset(&spec.volume_mode),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({"metadata": {"name": "c", "resourceVersion": "1"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
            "resources": {"requests": {"storage": "10Gi"}}}})
    }

    fn bound() -> Value {
        let json = with(&valid(), "/spec/volumeName", json!("v"));
        with(
            &json,
            "/status",
            json!({"phase": "Bound", "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"]}),
        )
    }

    #[test]
    fn creation() {
        check_create_table::<PersistentVolumeClaim>(
            &valid(),
            &[
                (
                    "/spec/accessModes",
                    json!([]),
                    &["spec.accessModes: Required value: at least 1 access mode is required"],
                ),
                ("/spec/resources", json!({}), &["spec.resources[storage]: Required value"]),
                (
                    "/spec/resources/requests/storage",
                    json!("0"),
                    &[r#"spec.resources[storage]: Invalid value: "0": must be greater than zero"#],
                ),
                (
                    "/spec/volumeMode",
                    json!("Tape"),
                    &[
                        r#"spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem""#,
                    ],
                ),
                ("/spec/storageClassName", json!(""), &[]),
                // Unknown sources are dropped, as they always were.
                ("/spec/dataSource", json!({"kind": "Tape", "name": "x"}), &[]),
                (
                    "/spec/dataSourceRef",
                    json!({"kind": "Tape", "name": ""}),
                    &[
                        "spec.dataSource.name: Required value",
                        r#"spec.dataSource: Invalid value: "Tape": must be 'PersistentVolumeClaim' when referencing the default apiGroup"#,
                        "spec.dataSourceRef.name: Required value",
                        r#"spec.dataSourceRef: Invalid value: "Tape": must be 'PersistentVolumeClaim' when referencing the default apiGroup"#,
                    ],
                ),
            ],
        );
        let both = with(
            &with(&valid(), "/spec/dataSource", json!({"kind": "PersistentVolumeClaim", "name": "a"})),
            "/spec/dataSourceRef",
            json!({"kind": "PersistentVolumeClaim", "name": "b"}),
        );
        assert_eq!(
            create_errors::<PersistentVolumeClaim>(&both),
            ["spec: Invalid value: {}: must match dataSourceRef"]
        );
    }

    #[test]
    fn sources_follow_each_other() {
        let json = with(&valid(), "/spec/dataSource", json!({"kind": "PersistentVolumeClaim", "name": "a"}));
        let spec = created::<PersistentVolumeClaim>(&json).spec.unwrap();
        assert_eq!(spec.data_source_ref.unwrap().name, "a");
        let group = json!({"apiGroup": "x.io", "kind": "Backup", "name": "b"});
        let spec = created::<PersistentVolumeClaim>(&with(&valid(), "/spec/dataSourceRef", group.clone()))
            .spec
            .unwrap();
        assert_eq!(spec.data_source.unwrap().kind, "Backup");
        let foreign =
            with(&with(&valid(), "/spec/dataSourceRef", group), "/spec/dataSourceRef/namespace", json!("n"));
        let spec = created::<PersistentVolumeClaim>(&foreign).spec.unwrap();
        assert_eq!((spec.data_source, spec.data_source_ref), (None, None));
    }

    #[test]
    fn changes() {
        let free = valid();
        let bound = bound();
        let classed = with(&bound, "/status/currentVolumeAttributesClassName", json!("gold"));
        let classed = with(&classed, "/spec/volumeAttributesClassName", json!("gold"));
        let unclassed = with(&free, "/spec/storageClassName", json!(null));
        let immutable = "spec: Forbidden: spec is immutable after creation except resources.requests and \
                         volumeAttributesClassName for bound claims\n";
        let smaller =
            "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
        let diff = format!(
            "{immutable}@@ -10,7 +10,7 @@\n   }}\n  }},\n  \"VolumeName\": \"\",\n- \"StorageClassName\": \"fast\",\n\
             + \"StorageClassName\": \"slow\",\n  \"VolumeMode\": \"Filesystem\",\n  \"DataSource\": null,\n  \
             \"DataSourceRef\": null,\n"
        );
        let grown = format!(
            "{immutable}@@ -6,7 +6,7 @@\n  \"Resources\": {{\n   \"Limits\": null,\n   \"Requests\": {{\n\
             -   \"storage\": \"10Gi\"\n+   \"storage\": \"20Gi\"\n   }}\n  }},\n  \"VolumeName\": \"\",\n"
        );
        let table: Vec<(&Value, &str, Value, Vec<&str>)> = vec![
            (&free, "/metadata/labels", json!({"a": "b"}), vec![]),
            (&free, "/spec/volumeName", json!("v"), vec![]),
            (&free, "/spec/storageClassName", json!("slow"), vec![&diff]),
            (&unclassed, "/spec/storageClassName", json!("slow"), vec![]),
            (&free, "/spec/resources/requests/storage", json!("20Gi"), vec![&grown]),
            (&bound, "/spec/resources/requests/storage", json!("20Gi"), vec![]),
            (&bound, "/spec/resources/requests/storage", json!("5Gi"), vec![smaller]),
            (&bound, "/spec/volumeAttributesClassName", json!("gold"), vec![]),
            (
                &classed,
                "/spec/volumeAttributesClassName",
                json!(null),
                vec![
                    "spec.volumeAttributesClassName: Forbidden: update to nil is forbidden when status.currentVolumeAttributesClassName is not nil",
                ],
            ),
            (
                &free,
                "/metadata/annotations",
                json!({CLASS_ANNOTATION: "slow"}),
                vec![
                    r#"metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: "slow": field is immutable"#,
                ],
            ),
        ];
        for (old, pointer, value, expected) in table {
            let errors = update_errors::<PersistentVolumeClaim>(old, &with(old, pointer, value.clone()), "");
            assert_eq!(errors, expected, "{pointer} = {value}");
        }
    }

    #[test]
    fn a_failed_growth_may_be_taken_back_but_not_further() {
        let grown = with(&bound(), "/spec/resources/requests/storage", json!("30Gi"));
        let to = |size: &str| {
            let new = with(&grown, "/spec/resources/requests/storage", json!(size));
            update_errors::<PersistentVolumeClaim>(&grown, &new, "")
        };
        assert!(to("20Gi").is_empty());
        assert_eq!(to("10Gi").len(), 1);
    }

    #[test]
    fn status_changes() {
        let table: Vec<(&str, Value, Vec<&str>)> = vec![
            ("/status/phase", json!("Lost"), vec![]),
            ("/spec/storageClassName", json!("slow"), vec![]),
            (
                "/status/capacity/storage",
                json!("-1"),
                vec!["status.capacity[storage]: Invalid value: -1: must be a valid resource quantity"],
            ),
            (
                "/status/allocatedResources",
                json!({"cpu": "1"}),
                vec![r#"status.allocatedResources: Unsupported value: "cpu": supported values: "storage""#],
            ),
            (
                "/status/allocatedResourceStatuses",
                json!({"storage": "Odd"}),
                vec![
                    r#"status.allocatedResourceStatuses: Unsupported value: "storage": supported values: "ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending""#,
                ],
            ),
            ("/metadata/resourceVersion", json!(null), vec!["resourceVersion: Required value"]),
        ];
        for (pointer, value, expected) in table {
            let new = with(&bound(), pointer, value.clone());
            assert_eq!(
                update_errors::<PersistentVolumeClaim>(&bound(), &new, "status"),
                expected,
                "{pointer}"
            );
        }
        let claim: PersistentVolumeClaim = created(&bound());
        assert_eq!(phase(&claim), "Pending");
        assert_eq!(claim.status.unwrap().capacity, None);
    }

    #[test]
    fn warnings() {
        let json = with(&valid(), "/spec/resources/requests/storage", json!("1500m"));
        assert_eq!(
            create_warnings::<PersistentVolumeClaim>(&json),
            [
                r#"spec.resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer"#
            ]
        );
    }

    #[test]
    fn columns() {
        assert_eq!(
            row::<PersistentVolumeClaim>(&valid()),
            ["c", "Pending", "", "", "", "fast", "<unset>", "<unknown>", "Filesystem"]
        );
        assert_eq!(row::<PersistentVolumeClaim>(&bound())[1..5], ["Bound", "v", "10Gi", "RWO"]);
    }
}
