//! `apiextensions.k8s.io/v1`: CustomResourceDefinition.
//!
//! A definition is stored and checked; custom resources themselves are not served yet. So that nobody waits
//! for them in vain without being told, the condition `Established` is false and says why.
//!
//! Checked as upstream checks it, with these exceptions: CEL rules must be there but are not compiled, and
//! of a default value its type, its enumeration and unknown fields are checked, not all of the schema. What
//! upstream forgives objects that were stored before a rule came into being is not forgiven: there are none.

mod openapi;
mod paths;
mod spec;
mod structural;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionCondition,
    CustomResourceDefinitionNames, CustomResourceDefinitionStatus, JSONSchemaProps, JSONSchemaPropsOrArray,
    JSONSchemaPropsOrBool,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::context::Context;
use crate::field::{Errors, Json, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::admissionregistration::CATEGORY;
use crate::kinds::checks;
use crate::kinds::webhook::DEFAULT_PORT;
use crate::meta;
use crate::registry::Registry;
use crate::table::{Cell, Column};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CustomResourceDefinition>();
}

const ESTABLISHED: &str = "Established";
/// Who approved a group that belongs to Kubernetes.
const APPROVAL_ANNOTATION: &str = "api-approved.kubernetes.io";

impl Kind for CustomResourceDefinition {
    fn info() -> KindInfo {
        KindInfo::of::<CustomResourceDefinition>()
            .short("crd")
            .short("crds")
            .category(CATEGORY)
            .conditional_update_only()
            .status()
    }

    fn set_defaults(&mut self) {
        let names = &mut self.spec.names;
        if names.singular.as_ref().is_none_or(String::is_empty) {
            names.singular = Some(names.kind.to_lowercase());
        }
        if names.list_kind.as_ref().is_none_or(String::is_empty) && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let conversion = self
            .spec
            .conversion
            .get_or_insert_with(|| CustomResourceConversion { strategy: "None".to_owned(), webhook: None });
        let client = conversion.webhook.as_mut().and_then(|w| w.client_config.as_mut());
        if let Some(service) = client.and_then(|c| c.service.as_mut()) {
            service.port.get_or_insert(DEFAULT_PORT);
        }
        let stored = storage_version(self).map(str::to_owned);
        let status = self.status.get_or_insert_default();
        let versions = status.stored_versions.get_or_insert_default();
        if versions.is_empty() {
            versions.extend(stored);
        }
    }

    fn prepare_create(&mut self, cx: &Context<'_>) {
        self.status = Some(CustomResourceDefinitionStatus {
            accepted_names: Some(CustomResourceDefinitionNames::default()),
            conditions: Some(vec![not_established(cx.now)]),
            stored_versions: Some(storage_version(self).into_iter().map(str::to_owned).collect()),
            observed_generation: None,
        });
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
            return;
        }
        self.status.clone_from(&old.status);
        if let Some(stored) = storage_version(self).map(str::to_owned) {
            let versions = self.status.get_or_insert_default().stored_versions.get_or_insert_default();
            if !versions.contains(&stored) {
                versions.push(stored);
            }
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name != format!("{}.{}", self.spec.names.plural, self.spec.group) {
            let path = Path::root("metadata");
            errors.invalid(&path.child("name"), name, r#"must be spec.names.plural+"."+spec.group"#);
        }
        spec::validate(&self.spec, errors);
        validate_status(self, errors);
        validate_stored_versions(self, errors);
        validate_approval(self, None, errors);
        validate_preserving(self, None, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            validate_status(self, errors);
            return;
        }
        spec::validate(&self.spec, errors);
        spec::validate_unchanged(&self.spec, &old.spec, is_established(old), errors);
        validate_status(self, errors);
        validate_stored_versions(self, errors);
        validate_approval(self, Some(old), errors);
        validate_preserving(self, Some(old), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        if cx.is_status() {
            return Vec::new();
        }
        let known = old.map(unknown_formats).unwrap_or_default();
        let new = unknown_formats(self).into_iter().filter(|f| !known.contains(f));
        new.map(|format| format!("unrecognized format {format:?}")).collect()
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, checks::CREATED_AT]
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        vec![meta::name_cell(&self.metadata), checks::created_cell(&self.metadata)]
    }
}

/// The version in which objects are stored.
fn storage_version(definition: &CustomResourceDefinition) -> Option<&str> {
    definition.spec.versions.iter().find(|v| v.storage).map(|v| v.name.as_str())
}

fn not_established(now: Timestamp) -> CustomResourceDefinitionCondition {
    CustomResourceDefinitionCondition {
        type_: ESTABLISHED.to_owned(),
        status: "False".to_owned(),
        reason: Some("NotServed".to_owned()),
        message: Some("this server stores definitions, but does not serve custom resources yet".to_owned()),
        last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        ..CustomResourceDefinitionCondition::default()
    }
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == ESTABLISHED && c.status == "True")
}

fn validate_status(definition: &CustomResourceDefinition, errors: &mut Errors) {
    let path = Path::root("status");
    if let Some(names) = definition.status.as_ref().and_then(|s| s.accepted_names.as_ref()) {
        spec::validate_names(names, &path.child("acceptedNames"), errors);
    }
}

fn validate_stored_versions(definition: &CustomResourceDefinition, errors: &mut Errors) {
    let path = Path::root("status");
    let path = path.child("storedVersions");
    let stored = definition.status.as_ref().and_then(|s| s.stored_versions.as_deref()).unwrap_or_default();
    if stored.is_empty() {
        errors.invalid(&path, Json(&stored), "must have at least one stored version");
        return;
    }
    let mut left: BTreeMap<&str, usize> = stored.iter().enumerate().map(|(i, v)| (v.as_str(), i)).collect();
    for version in &definition.spec.versions {
        if left.remove(version.name.as_str()).is_none() && version.storage {
            let detail = format!("must have the storage version {}", version.name);
            errors.invalid(&path, Json(&stored), &detail);
        }
    }
    for (version, i) in left {
        let detail = format!(
            "missing from spec.versions; {version} was previously a storage version, and must remain in \
             spec.versions until a storage migration ensures no data remains persisted in {version} and removes \
             {version} from status.storedVersions"
        );
        errors.invalid(&path.index(i), version, &detail);
    }
}

/// Whether a group that belongs to Kubernetes says that it was approved, or why not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Approval {
    Missing,
    Invalid,
    Approved,
    Bypassed,
}

fn approval(definition: &CustomResourceDefinition) -> Approval {
    let annotations = definition.metadata.annotations.as_ref();
    match annotations.and_then(|a| a.get(APPROVAL_ANNOTATION)).map(String::as_str) {
        None | Some("") => Approval::Missing,
        Some(text) if text.starts_with("unapproved") => Approval::Bypassed,
        Some(text) => match text.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && !rest.starts_with('/') && !rest.is_empty() => {
                Approval::Approved
            }
            _ => Approval::Invalid,
        },
    }
}

fn validate_approval(
    definition: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    let group = definition.spec.group.as_str();
    let of = |domain: &str| group == domain || group.strip_suffix(domain).is_some_and(|g| g.ends_with('.'));
    if !of("k8s.io") && !of("kubernetes.io") {
        return;
    }
    let new = approval(definition);
    if old.is_some_and(|old| approval(old) == new) {
        return;
    }
    let path = Path::root("metadata");
    let path = path.child("annotations");
    let path = path.key(APPROVAL_ANNOTATION);
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    match new {
        Approval::Approved | Approval::Bypassed => {}
        Approval::Missing => errors.required(
            &path,
            &format!("protected groups must have approval annotation {APPROVAL_ANNOTATION:?}, {SEE}"),
        ),
        Approval::Invalid => {
            let value = definition.metadata.annotations.as_ref().and_then(|a| a.get(APPROVAL_ANNOTATION));
            errors.invalid(
                &path,
                value.map(String::as_str).unwrap_or_default(),
                &format!(
                    "protected groups must have approval annotation {APPROVAL_ANNOTATION:?} with either a URL or a \
                     reason starting with \"unapproved\", {SEE}"
                ),
            );
        }
    }
}

fn validate_preserving(
    definition: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
    errors: &mut Errors,
) {
    let preserves = |d: &CustomResourceDefinition| d.spec.preserve_unknown_fields == Some(true);
    if preserves(definition) && !old.is_some_and(preserves) {
        let path = Path::root("spec");
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
}

/// Formats that nothing checks, in the order in which they are found.
fn unknown_formats(definition: &CustomResourceDefinition) -> Vec<String> {
    const OF_STRINGS: &[&str] = &[
        "bsonobjectid",
        "uri",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "cidr",
        "mac",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
        "isbn",
        "isbn10",
        "isbn13",
        "creditcard",
        "ssn",
        "hexcolor",
        "rgbcolor",
        "byte",
        "password",
        "date",
        "duration",
        "datetime",
        "k8sshortname",
        "k8slongname",
    ];
    let mut found = Vec::new();
    let mut look = |schema: &JSONSchemaProps| {
        let Some(format) = schema.format.as_deref().filter(|f| !f.is_empty()) else { return };
        let known = match schema.type_.as_deref().unwrap_or_default() {
            "" | "string" => OF_STRINGS.contains(&format.replace('-', "").as_str()),
            "integer" => matches!(format, "int32" | "int64"),
            "number" => matches!(format, "float" | "double"),
            _ => false,
        };
        if !known {
            found.push(format.to_owned());
        }
    };
    for version in &definition.spec.versions {
        if let Some(schema) = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) {
            for_each_schema(schema, &mut look);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|f| seen.insert(f.clone()));
    found
}

/// Visits a schema and all schemas in it.
fn for_each_schema(schema: &JSONSchemaProps, visit: &mut dyn FnMut(&JSONSchemaProps)) {
    visit(schema);
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => for_each_schema(item, visit),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter().for_each(|s| for_each_schema(s, visit)),
        None => {}
    }
    for list in [&schema.all_of, &schema.any_of, &schema.one_of] {
        list.iter().flatten().for_each(|s| for_each_schema(s, visit));
    }
    if let Some(not) = &schema.not {
        for_each_schema(not, visit);
    }
    for map in [&schema.properties, &schema.pattern_properties, &schema.definitions] {
        map.iter().flatten().for_each(|(_, s)| for_each_schema(s, visit));
    }
    for extra in [&schema.additional_properties, &schema.additional_items] {
        if let Some(JSONSchemaPropsOrBool::Schema(schema)) = extra {
            for_each_schema(schema, visit);
        }
    }
}

#[cfg(test)]
mod tests;
