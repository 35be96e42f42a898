//! The schema of one version: what OpenAPI allows and Kubernetes forbids, lists and maps with their keys.
//!
//! Rules: k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation`.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceValidation, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};

use super::{paths, structural};
use crate::field::{Errors, Json, Path};

// In the order in which messages list them.
const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
const MAP_TYPES: &[&str] = &["atomic", "granular"];
const LIST_TYPES: &[&str] = &["atomic", "set", "map"];
/// What may stand at the root when `status` is apart, by upstream's names.
const AT_ROOT: &str = "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
                       MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties \
                       ExternalDocs Example XPreserveUnknownFields XValidations";

/// What a schema may say, by where it stands.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    /// Why there may be no default values here.
    no_defaults: Option<&'a str>,
    /// Inside `metadata`, `kind` or `apiVersion` of a resource.
    in_meta: bool,
}

pub(super) fn validate(
    validation: &CustomResourceValidation,
    status_apart: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(schema) = &validation.open_api_v3_schema else { return };
    if status_apart {
        validate_root(schema, path, errors);
    }
    if schema.nullable == Some(true) {
        errors.forbidden(&path.child("openAPIV3Schema.nullable"), "nullable cannot be true at the root");
    }
    let path = path.child("openAPIV3Schema");
    if structural::is_expressible(schema) {
        let before = errors.len();
        structural::validate(schema, &path, errors);
        if errors.len() == before {
            structural::validate_defaults(schema, &path, errors);
        }
    }
    validate_schema(schema, Place::default(), true, &path, errors);
}

fn validate_root(s: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let kind = s.type_.as_deref().unwrap_or_default();
    if !matches!(kind, "" | "object") {
        let detail = r#"only "object" is allowed as the type at the root of the schema if the status subresource is enabled"#;
        errors.invalid(&path.child("openAPIV3Schema.type"), kind, detail);
        return;
    }
    let allowed = JSONSchemaProps {
        description: s.description.clone(),
        type_: s.type_.clone(),
        format: s.format.clone(),
        title: s.title.clone(),
        maximum: s.maximum,
        exclusive_maximum: s.exclusive_maximum,
        minimum: s.minimum,
        exclusive_minimum: s.exclusive_minimum,
        max_length: s.max_length,
        min_length: s.min_length,
        pattern: s.pattern.clone(),
        max_items: s.max_items,
        min_items: s.min_items,
        unique_items: s.unique_items,
        multiple_of: s.multiple_of,
        required: s.required.clone(),
        items: s.items.clone(),
        properties: s.properties.clone(),
        external_docs: s.external_docs.clone(),
        example: s.example.clone(),
        x_kubernetes_preserve_unknown_fields: s.x_kubernetes_preserve_unknown_fields,
        x_kubernetes_validations: s.x_kubernetes_validations.clone(),
        ..JSONSchemaProps::default()
    };
    if !crate::meta::same(&allowed, s) {
        let detail = format!(
            "only [{AT_ROOT}] fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.invalid(&path.child("openAPIV3Schema"), Json(s), &detail);
    }
}

fn validate_schema(s: &JSONSchemaProps, place: Place<'_>, root: bool, path: &Path<'_>, errors: &mut Errors) {
    validate_keywords(s, place, path, errors);
    if s.unique_items == Some(true) {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    validate_children(s, place, root, path, errors);
    if s.x_kubernetes_preserve_unknown_fields == Some(false) {
        let path = path.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&path, false, "must be true or undefined");
    }
    validate_topology(s, path, errors);
    for (i, rule) in s.x_kubernetes_validations.iter().flatten().enumerate() {
        validate_rule(rule, s, &path.child("x-kubernetes-validations").index(i), errors);
    }
}

fn validate_keywords(s: &JSONSchemaProps, place: Place<'_>, path: &Path<'_>, errors: &mut Errors) {
    let kind = s.type_.as_deref().unwrap_or_default();
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, TYPES);
    }
    if let Some(reason) = place.no_defaults.filter(|_| s.default.is_some()) {
        errors.forbidden(&path.child("default"), &format!("must not be set {reason}"));
    }
    let unsupported = [
        (s.id.as_ref().is_some_and(|id| !id.is_empty()), "id"),
        (s.additional_items.is_some(), "additionalItems"),
        (s.pattern_properties.as_ref().is_some_and(|p| !p.is_empty()), "patternProperties"),
        (s.definitions.as_ref().is_some_and(|d| !d.is_empty()), "definitions"),
        (s.dependencies.is_some(), "dependencies"),
        (s.ref_path.is_some(), "$ref"),
    ];
    for (set, name) in unsupported {
        if set {
            errors.forbidden(&path.child(name), &format!("{name} is not supported"));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&path.child("type"), detail);
    }
    if matches!(&s.items, Some(JSONSchemaPropsOrArray::Schemas(list)) if !list.is_empty()) {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if place.in_meta && s.x_kubernetes_embedded_resource == Some(true) {
        let path = path.child("x-kubernetes-embedded-resource");
        errors.forbidden(&path, "must not be used inside of resource meta");
    }
}

fn validate_children(
    s: &JSONSchemaProps,
    place: Place<'_>,
    root: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(additional) = &s.additional_properties {
        let path = path.child("additionalProperties");
        let has_properties = s.properties.as_ref().is_some_and(|p| !p.is_empty());
        if has_properties && !matches!(additional, JSONSchemaPropsOrBool::Bool(true)) {
            errors.forbidden(&path, "additionalProperties and properties are mutual exclusive");
        }
        if let JSONSchemaPropsOrBool::Schema(schema) = additional {
            let mut place = place;
            if place.in_meta {
                place.no_defaults = Some("inside additionalProperties applying to object metadata");
            }
            validate_schema(schema, place, false, &path, errors);
        }
    }
    let properties = path.child("properties");
    for (name, schema) in s.properties.iter().flatten() {
        let of_resource = matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
        let mut place = place;
        let reason = format!("in top-level {name}");
        if (root || s.x_kubernetes_embedded_resource == Some(true)) && of_resource {
            place.in_meta = true;
            if root {
                place.no_defaults = Some(&reason);
            }
        }
        validate_schema(schema, place, false, &properties.key(name), errors);
    }
    if let Some(not) = &s.not {
        validate_schema(not, place, false, &path.child("not"), errors);
    }
    for (name, list) in [("allOf", &s.all_of), ("oneOf", &s.one_of), ("anyOf", &s.any_of)] {
        let path = path.child(name);
        for (i, schema) in list.iter().flatten().enumerate() {
            validate_schema(schema, place, false, &path.index(i), errors);
        }
    }
    for (name, schema) in s.definitions.iter().flatten() {
        validate_schema(schema, place, false, &path.child("definitions").key(name), errors);
    }
    match &s.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => {
            validate_schema(item, place, false, &path.child("items"), errors);
        }
        Some(JSONSchemaPropsOrArray::Schemas(list)) => {
            for (i, schema) in list.iter().enumerate() {
                validate_schema(schema, place, false, &path.child("items").index(i), errors);
            }
        }
        None => {}
    }
}

/// A keyword that only one type may have.
fn needs_type(s: &JSONSchemaProps, wanted: &str, keyword: &str, path: &Path<'_>, errors: &mut Errors) {
    let detail = format!("must be {wanted} if {keyword} is specified");
    match s.type_.as_deref().unwrap_or_default() {
        "" => errors.required(&path.child("type"), &detail),
        kind => errors.invalid(&path.child("type"), kind, &detail),
    }
}

/// How lists and maps are merged, and what that asks of their items.
fn validate_topology(s: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let kind = s.type_.as_deref().unwrap_or_default();
    let item = match &s.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => Some(item.as_ref()),
        _ => None,
    };
    let items_path = path.child("items");
    let map_type_path = path.child("x-kubernetes-map-type");
    let list_type_path = path.child("x-kubernetes-list-type");
    if let Some(map_type) = s.x_kubernetes_map_type.as_deref() {
        if kind != "object" {
            needs_type(s, "object", "x-kubernetes-map-type", path, errors);
        }
        if !MAP_TYPES.contains(&map_type) {
            errors.not_supported(&map_type_path, map_type, MAP_TYPES);
        }
    }
    let list_type = s.x_kubernetes_list_type.as_deref();
    if let Some(list_type) = list_type {
        const ATOMIC: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
        if kind != "array" {
            needs_type(s, "array", "x-kubernetes-list-type", path, errors);
        } else if let Some(item) = item.filter(|_| list_type == "set") {
            let of_item = (item.x_kubernetes_list_type.as_deref(), item.x_kubernetes_map_type.as_deref());
            match (item.type_.as_deref().unwrap_or_default(), of_item) {
                ("array", (Some(inner), _)) if inner != "atomic" => {
                    errors.invalid(&items_path.child("x-kubernetes-list-type"), inner, ATOMIC);
                }
                ("object", (inner, map_type)) if map_type != Some("atomic") => {
                    // The value shown is upstream's choice.
                    errors.invalid(&items_path.child("x-kubernetes-map-type"), Json(&inner), ATOMIC);
                }
                _ => {}
            }
        }
        if !LIST_TYPES.contains(&list_type) {
            errors.not_supported(&list_type_path, list_type, LIST_TYPES);
        }
    }
    let keys = s.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    if !keys.is_empty() {
        const MAP: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => errors.required(&list_type_path, MAP),
            Some("map") => {}
            Some(other) => errors.invalid(&list_type_path, other, MAP),
        }
    }
    if list_type == Some("map") {
        validate_map_list(s, item, keys, path, errors);
    }
    if let Some(item) = item.filter(|_| matches!(list_type, Some("set" | "map"))) {
        validate_keyed_items(item, list_type.unwrap_or_default(), keys, &items_path, errors);
    }
}

fn validate_map_list(
    s: &JSONSchemaProps,
    item: Option<&JSONSchemaProps>,
    keys: &[String],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let keys_path = path.child("x-kubernetes-list-map-keys");
    let items_path = path.child("items");
    if keys.is_empty() {
        errors.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(item) = item else {
        match &s.items {
            None => errors.required(&items_path, "must have a schema if x-kubernetes-list-type is map"),
            Some(items) => {
                let detail = "must only have a single schema if x-kubernetes-list-type is map";
                errors.invalid(&items_path, Json(items), detail);
            }
        }
        return;
    };
    let kind = item.type_.as_deref().unwrap_or_default();
    if kind != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(&items_path.child("type"), kind, detail);
        return;
    }
    let mut seen = BTreeSet::new();
    for key in keys {
        match item.properties.as_ref().and_then(|p| p.get(key)) {
            Some(property) if matches!(property.type_.as_deref(), Some("array" | "object")) => {
                let path = items_path.child("properties");
                let path = path.key(key);
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                // The type shown is the item's: upstream's choice.
                errors.invalid(&path.child("type"), kind, detail);
            }
            Some(_) => {}
            None => errors.invalid(&keys_path, Json(&keys), "entries must all be names of item properties"),
        }
        if !seen.insert(key) {
            errors.invalid(&keys_path, Json(&keys), "must not contain duplicate entries");
        }
    }
}

fn validate_keyed_items(
    item: &JSONSchemaProps,
    list_type: &str,
    keys: &[String],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if item.nullable == Some(true) {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.forbidden(&path.child("nullable"), &detail);
    }
    if list_type != "map" {
        return;
    }
    for key in keys {
        let Some(property) = item.properties.as_ref().and_then(|p| p.get(key)) else { continue };
        let path = path.child("properties");
        let path = path.key(key);
        if !item.required.iter().flatten().any(|r| r == key) && property.default.is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a \
                          required property";
            errors.required(&path.child("default"), detail);
        }
        if property.nullable == Some(true) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&path.child("nullable"), detail);
        }
    }
}

fn validate_rule(rule: &ValidationRule, schema: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let multiline = |text: &str| text.contains(['\n', '\r']);
    let message = rule.message.as_deref().unwrap_or_default();
    if rule.rule.trim().is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path.child("message"), message, "must be non-empty if specified");
    } else if multiline(message.trim()) {
        errors.invalid(&path.child("message"), message, "must not contain line breaks");
    } else if multiline(rule.rule.trim()) && message.trim().is_empty() {
        let detail = "message must be specified if rule contains line breaks";
        errors.required(&path.child("message"), detail);
    }
    let expression = rule.message_expression.as_deref().unwrap_or_default();
    if !expression.is_empty() && expression.trim().is_empty() {
        let detail = "messageExpression must be non-empty if specified";
        errors.required(&path.child("messageExpression"), detail);
    }
    if let Some(reason) = rule.reason.as_deref().filter(|r| !REASONS.contains(r)) {
        errors.not_supported(&path.child("reason"), reason, REASONS);
    }
    let field = rule.field_path.as_deref().unwrap_or_default();
    let field_path = path.child("fieldPath");
    if !field.is_empty() && field.trim().is_empty() {
        errors.invalid(&field_path, field, "must be non-empty if specified");
    }
    if multiline(field) {
        errors.invalid(&field_path, field, "must not contain line breaks");
    }
    if !field.is_empty() && structural::is_expressible(schema) && paths::follow(field, schema, true).is_err()
    {
        errors.invalid(&field_path, field, "must be a valid path");
    }
}
