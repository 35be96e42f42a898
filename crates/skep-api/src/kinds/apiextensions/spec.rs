//! The `spec` of a definition.
//!
//! What all versions have in common is checked once and reported at `spec.validation`, `spec.subresources`
//! and so on: upstream's internal form keeps it there, and clients see its paths.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresources,
    CustomResourceValidation, SelectableField,
};

use super::{for_each_schema, openapi, paths};
use crate::field::{Errors, Json, Path};
use crate::kinds::checks;
use crate::kinds::webhook::{self, DEFAULT_PORT};
use crate::meta;

/// Each costs an index entry per object.
const MAX_SELECTABLE_FIELDS: usize = 8;
const MAX_WARNING_BYTES: usize = 256;
/// Versions of the question that this server can ask.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
// In the order in which messages list them.
const SCOPES: &[&str] = &["Cluster", "Namespaced"];
const STRATEGIES: &[&str] = &["None", "Webhook"];
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

fn schema_of(version: &CustomResourceDefinitionVersion) -> Option<&CustomResourceValidation> {
    version.schema.as_ref()
}

fn columns_of(version: &CustomResourceDefinitionVersion) -> &[CustomResourceColumnDefinition] {
    version.additional_printer_columns.as_deref().unwrap_or_default()
}

fn selectable_of(version: &CustomResourceDefinitionVersion) -> &[SelectableField] {
    version.selectable_fields.as_deref().unwrap_or_default()
}

fn has_status(subresources: Option<&CustomResourceSubresources>) -> bool {
    subresources.is_some_and(|s| s.status.is_some())
}

/// The first version, when all versions say the same of something.
fn common<'s, T: PartialEq>(
    spec: &'s CustomResourceDefinitionSpec,
    of: impl Fn(&'s CustomResourceDefinitionVersion) -> T,
) -> Option<&'s CustomResourceDefinitionVersion> {
    let first = spec.versions.first()?;
    spec.versions.iter().all(|v| of(v) == of(first)).then_some(first)
}

pub(super) fn validate(spec: &CustomResourceDefinitionSpec, errors: &mut Errors) {
    let path = Path::root("spec");
    let group_path = path.child("group");
    let wrong = meta::dns1123_subdomain_errors(&spec.group);
    if spec.group.is_empty() {
        errors.required(&group_path, "");
    } else if !wrong.is_empty() {
        errors.invalid(&group_path, &spec.group, &wrong.join(","));
    } else if !spec.group.contains('.') {
        errors.invalid(&group_path, &spec.group, "should be a domain with at least one dot");
    }
    one_of(&spec.scope, SCOPES, &path.child("scope"), errors);
    let versions_path = path.child("versions");
    for (i, version) in spec.versions.iter().enumerate() {
        if schema_of(version).is_none_or(|s| s.open_api_v3_schema.is_none()) {
            let path = versions_path.index(i);
            errors.required(&path.child("schema").child("openAPIV3Schema"), "");
        }
    }
    let preserves = spec.preserve_unknown_fields == Some(true);
    if preserves && has_defaults(spec) {
        let detail = "must be false in order to use defaults in the schema";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    validate_versions(spec, &versions_path, errors);
    let names = path.child("names");
    let filled = |name: Option<&str>| name.is_some_and(|n| !n.is_empty());
    for (field, value) in [
        ("plural", Some(spec.names.plural.as_str())),
        ("singular", spec.names.singular.as_deref()),
        ("kind", Some(spec.names.kind.as_str())),
        ("listKind", spec.names.list_kind.as_deref()),
    ] {
        if !filled(value) {
            errors.required(&names.child(field), "");
        }
    }
    validate_names(&spec.names, &names, errors);
    validate_common(spec, &path, errors);
    if let Some(conversion) = &spec.conversion {
        let path = path.child("conversion");
        if preserves && conversion.strategy != "None" {
            let detail = "must be None if spec.preserveUnknownFields is true";
            errors.invalid(&path.child("strategy"), &conversion.strategy, detail);
        }
        validate_conversion(conversion, &path, errors);
    }
}

/// What decides where objects are stored cannot change.
pub(super) fn validate_unchanged(
    new: &CustomResourceDefinitionSpec,
    old: &CustomResourceDefinitionSpec,
    established: bool,
    errors: &mut Errors,
) {
    let path = Path::root("spec");
    let names = path.child("names");
    if established {
        checks::immutable(&new.scope, &old.scope, &path.child("scope"), errors);
        checks::immutable(&new.names.kind, &old.names.kind, &names.child("kind"), errors);
    }
    checks::immutable(&new.group, &old.group, &path.child("group"), errors);
    checks::immutable(&new.names.plural, &old.names.plural, &names.child("plural"), errors);
}

fn has_defaults(spec: &CustomResourceDefinitionSpec) -> bool {
    let mut found = false;
    for schema in spec.versions.iter().filter_map(|v| schema_of(v)?.open_api_v3_schema.as_ref()) {
        for_each_schema(schema, &mut |s| found |= s.default.is_some());
    }
    found
}

fn one_of(value: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    } else if !allowed.contains(&value) {
        errors.not_supported(path, value, allowed);
    }
}

/// What each version says for itself.
fn validate_versions(spec: &CustomResourceDefinitionSpec, path: &Path<'_>, errors: &mut Errors) {
    let same_schema = common(spec, schema_of).is_some();
    let same_subresources = common(spec, |v| v.subresources.as_ref()).is_some();
    let same_columns = common(spec, columns_of).is_some();
    let same_fields = common(spec, selectable_of).is_some();
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (i, version) in spec.versions.iter().enumerate() {
        let path = path.index(i);
        unique &= seen.insert(&version.name);
        let wrong = meta::dns1035_label_errors(&version.name);
        if !wrong.is_empty() {
            errors.invalid(&path.child("name"), &version.name, &wrong.join(","));
        }
        validate_deprecation(version, &path, errors);
        if !same_schema && let Some(schema) = schema_of(version) {
            let status = has_status(version.subresources.as_ref());
            openapi::validate(schema, status, &path.child("schema"), errors);
        }
        if !same_subresources {
            validate_subresources(version.subresources.as_ref(), &path.child("subresources"), errors);
        }
        if !same_columns {
            validate_columns(columns_of(version), &path, errors);
        }
        if !same_fields {
            validate_selectable(version, &path, errors);
        }
    }
    if !unique {
        errors.invalid(path, Json(&spec.versions), "must contain unique version names");
    }
    if spec.versions.iter().filter(|v| v.storage).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(path, Json(&spec.versions), detail);
    }
}

/// What all versions say alike.
fn validate_common(spec: &CustomResourceDefinitionSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(schema) = common(spec, schema_of).and_then(schema_of) {
        let status = spec.versions.iter().any(|v| has_status(v.subresources.as_ref()));
        openapi::validate(schema, status, &path.child("validation"), errors);
    }
    if let Some(version) = common(spec, |v| v.subresources.as_ref()) {
        validate_subresources(version.subresources.as_ref(), &path.child("subresources"), errors);
    }
    if let Some(version) = common(spec, columns_of) {
        validate_columns(columns_of(version), path, errors);
    }
    if let Some(version) = common(spec, selectable_of) {
        validate_selectable(version, path, errors);
    }
}

fn validate_deprecation(version: &CustomResourceDefinitionVersion, path: &Path<'_>, errors: &mut Errors) {
    let Some(warning) = version.deprecation_warning.as_deref() else { return };
    let path = path.child("deprecationWarning");
    if version.deprecated != Some(true) {
        errors.invalid(&path, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > MAX_WARNING_BYTES {
        errors.invalid(&path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(&path, warning, "must not be an empty string");
    }
    // A space is the only blank that counts as printable.
    let printable = |c: char| c == ' ' || !(c.is_control() || c.is_whitespace());
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| !printable(*c)) {
        let detail = format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        );
        errors.invalid(&path, warning, &detail);
    }
}

/// The names of a definition, and the ones that were accepted.
pub(super) fn validate_names(names: &CustomResourceDefinitionNames, path: &Path<'_>, errors: &mut Errors) {
    let singular = names.singular.as_deref().unwrap_or_default();
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    for (field, name) in [("plural", names.plural.as_str()), ("singular", singular)] {
        let wrong = meta::dns1035_label_errors(name);
        if !name.is_empty() && !wrong.is_empty() {
            errors.invalid(&path.child(field), name, &wrong.join(","));
        }
    }
    for (field, name) in [("kind", names.kind.as_str()), ("listKind", list_kind)] {
        let wrong = meta::dns1035_label_errors(&name.to_lowercase());
        if !name.is_empty() && !wrong.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.invalid(&path.child(field), name, &detail);
        }
    }
    let labels = |field: &str, list: Option<&[String]>, errors: &mut Errors| {
        for (i, name) in list.unwrap_or_default().iter().enumerate() {
            let wrong = meta::dns1035_label_errors(name);
            if !wrong.is_empty() {
                errors.invalid(&path.child(field).index(i), name, &wrong.join(","));
            }
        }
    };
    labels("shortNames", names.short_names.as_deref(), errors);
    if !names.kind.is_empty() && names.kind == list_kind {
        errors.invalid(&path.child("listKind"), list_kind, "kind and listKind may not be the same");
    }
    labels("categories", names.categories.as_deref(), errors);
}

fn validate_columns(columns: &[CustomResourceColumnDefinition], path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("additionalPrinterColumns");
    for (i, column) in columns.iter().enumerate() {
        let path = path.index(i);
        if column.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        if column.type_.is_empty() {
            errors.required(&path.child("type"), &types);
        } else if !COLUMN_TYPES.contains(&column.type_.as_str()) {
            errors.invalid(&path.child("type"), &column.type_, &types);
        }
        let format = column.format.as_deref().unwrap_or_default();
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.invalid(&path.child("format"), format, &detail);
        }
        if column.json_path.is_empty() {
            errors.required(&path.child("JSONPath"), "");
        } else {
            paths::validate_simple(&column.json_path, &path.child("JSONPath"), errors);
        }
    }
}

fn validate_selectable(version: &CustomResourceDefinitionVersion, path: &Path<'_>, errors: &mut Errors) {
    let fields = selectable_of(version);
    if fields.is_empty() {
        return;
    }
    let path = path.child("selectableFields");
    let Some(schema) = schema_of(version).and_then(|s| s.open_api_v3_schema.as_ref()) else {
        errors.invalid(&path, "", "may only be set when `version.schema.openAPIV3Schema` is not included");
        return;
    };
    let mut seen = BTreeSet::new();
    for (i, field) in fields.iter().enumerate() {
        let path = path.index(i);
        let path = path.child("jsonPath");
        let text = field.json_path.as_str();
        if text.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let (names, found) = match paths::follow(text, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&path, text, &format!("is an invalid path: {why}"));
                continue;
            }
        };
        if names.first().is_some_and(|n| n == "metadata") {
            errors.invalid(&path, text, "must not point to fields in metadata");
        }
        if !matches!(found.type_.as_deref(), Some("string" | "boolean" | "integer")) {
            errors.invalid(
                &path,
                text,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                 formats are allowed.",
            );
        }
        if !seen.insert(names) {
            errors.duplicate(&path, text);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        errors.too_many(&path, seen.len(), MAX_SELECTABLE_FIELDS);
    }
}

fn validate_subresources(
    subresources: Option<&CustomResourceSubresources>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(scale) = subresources.and_then(|s| s.scale.as_ref()) else { return };
    let check = |field: &str, text: &str, roots: &[&str], errors: &mut Errors| {
        let path = path.child(field);
        let before = errors.len();
        if text.is_empty() {
            errors.required(&path, "");
            return;
        }
        paths::validate_simple(text, &path, errors);
        if errors.len() == before && !roots.iter().any(|r| text.starts_with(&format!("{r}."))) {
            let under =
                if roots.len() > 1 { format!("either {}", roots.join(" or ")) } else { roots.concat() };
            errors.invalid(&path, text, &format!("should be a json path under {under}"));
        }
    };
    check("scale.specReplicasPath", &scale.spec_replicas_path, &[".spec"], errors);
    check("scale.statusReplicasPath", &scale.status_replicas_path, &[".status"], errors);
    if let Some(text) = scale.label_selector_path.as_deref().filter(|t| !t.is_empty()) {
        check("scale.labelSelectorPath", text, &[".spec", ".status"], errors);
    }
}

fn validate_conversion(conversion: &CustomResourceConversion, path: &Path<'_>, errors: &mut Errors) {
    one_of(&conversion.strategy, STRATEGIES, &path.child("strategy"), errors);
    let client_path = path.child("webhookClientConfig");
    let versions_path = path.child("conversionReviewVersions");
    let hook = conversion.webhook.as_ref();
    let client = hook.and_then(|w| w.client_config.as_ref());
    let versions = hook.map(|w| w.conversion_review_versions.as_slice()).unwrap_or_default();
    if conversion.strategy != "Webhook" {
        const NOT_SET: &str = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.forbidden(&client_path, NOT_SET);
        }
        if !versions.is_empty() {
            errors.forbidden(&versions_path, NOT_SET);
        }
        return;
    }
    match client {
        None => errors.required(&client_path, "required when strategy is set to Webhook"),
        Some(client) => {
            let service = client.service.as_ref().map(|s| webhook::Service {
                name: &s.name,
                namespace: &s.namespace,
                path: s.path.as_deref(),
                port: s.port.unwrap_or(DEFAULT_PORT),
            });
            webhook::validate_client(client.url.as_deref(), service, &client_path, errors);
        }
    }
    if versions.is_empty() {
        errors.required(&versions_path, "");
    } else if !webhook::validate_versions(versions, REVIEW_VERSIONS, &versions_path, errors) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(&versions_path, Json(&versions), &detail);
    }
}
