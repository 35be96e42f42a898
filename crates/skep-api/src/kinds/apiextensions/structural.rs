//! Structural schemas: every field has a type at exactly one place, and everything else only restricts
//! values. That is what lets a server prune, default and store objects by their schema.
//!
//! Rules: k8s.io/apiextensions-apiserver `pkg/apiserver/schema`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use crate::field::{Errors, Json, Path};
use crate::meta;

/// Where in a schema something stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Whether a schema uses only what a structural one can express. What it must not use is reported by
/// [`super::openapi`].
pub(super) fn is_expressible(schema: &JSONSchemaProps) -> bool {
    let mut fine = true;
    super::for_each_schema(schema, &mut |s| {
        fine &= s.id.is_none()
            && s.schema.is_none()
            && s.ref_path.is_none()
            && s.pattern_properties.as_ref().is_none_or(|m| m.is_empty())
            && s.definitions.as_ref().is_none_or(|m| m.is_empty())
            && s.additional_items.is_none()
            && s.dependencies.is_none()
            && !matches!(s.items, Some(JSONSchemaPropsOrArray::Schemas(_)))
            && s.x_kubernetes_preserve_unknown_fields != Some(false);
    });
    fine
}

/// Checks that a schema is structural; errors are in alphabetical order.
pub(super) fn validate(schema: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let mut found = Errors::new();
    invariants(schema, Level::Root, path, &mut found);
    complete_junctors(schema, Some(schema), path, path, &mut found);
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_cached_key(ToString::to_string);
    found.into_iter().for_each(|e| errors.push(e));
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn yes(field: Option<bool>) -> bool {
    field == Some(true)
}

fn item(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => Some(item),
        _ => None,
    }
}

fn any_of(schema: &JSONSchemaProps) -> &[JSONSchemaProps] {
    schema.any_of.as_deref().unwrap_or_default()
}

fn all_of(schema: &JSONSchemaProps) -> &[JSONSchemaProps] {
    schema.all_of.as_deref().unwrap_or_default()
}

/// `anyOf: [{type: integer}, {type: string}]`: the one place where a type may stand in a junctor.
fn is_int_or_string(list: &[JSONSchemaProps]) -> bool {
    let of = |name: &str| JSONSchemaProps { type_: Some(name.to_owned()), ..JSONSchemaProps::default() };
    list.len() == 2 && list[0] == of("integer") && list[1] == of("string")
}

fn invariants(s: &JSONSchemaProps, level: Level, path: &Path<'_>, errors: &mut Errors) {
    let type_path = path.child("type");
    if text(&s.type_) == "array" && item(s).is_none() {
        errors.required(&path.child("items"), "must be specified");
    }
    if let Some(item) = item(s) {
        invariants(item, Level::Item, &path.child("items"), errors);
    }
    let properties_path = path.child("properties");
    for (name, schema) in s.properties.iter().flatten() {
        invariants(schema, Level::Field, &properties_path.key(name), errors);
    }
    if let Some(additional) = &s.additional_properties {
        if level == Level::Root {
            errors.forbidden(&path.child("additionalProperties"), "must not be used at the root");
        }
        if let JSONSchemaPropsOrBool::Schema(schema) = additional {
            invariants(schema, Level::Field, &path.child("additionalProperties"), errors);
        }
    }
    let embedded = yes(s.x_kubernetes_embedded_resource);
    let preserves = yes(s.x_kubernetes_preserve_unknown_fields);
    let int_or_string = yes(s.x_kubernetes_int_or_string);
    for (set, name) in
        [(preserves, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")]
    {
        if int_or_string && set {
            errors.invalid(&path.child(name), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    let skip_any_of = is_int_or_string(any_of(s));
    let skip_first_all_of = all_of(s).first().is_some_and(|first| is_int_or_string(any_of(first)));
    value_validation(s, skip_any_of, skip_first_all_of, path, errors);

    let kind = text(&s.type_);
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            errors.required(&type_path, detail);
        } else {
            errors.invalid(&type_path, kind, detail);
        }
    } else if kind.is_empty() && !int_or_string && !preserves {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.required(&type_path, &format!("must not be empty {place}"));
    }
    if embedded && s.additional_properties.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(&type_path, kind, "must be object at the root");
    }
    let has_metadata = level == Level::Root || embedded;
    for name in ["kind", "apiVersion"] {
        let Some(schema) = s.properties.as_ref().and_then(|p| p.get(name)).filter(|_| has_metadata) else {
            continue;
        };
        if text(&schema.type_) != "string" {
            let path = properties_path.key(name);
            errors.invalid(&path.child("type"), text(&schema.type_), "must be string");
        }
    }
    if let Some(metadata) = s.properties.as_ref().and_then(|p| p.get("metadata")) {
        metadata_invariants(metadata, has_metadata, level, &properties_path.key("metadata"), errors);
    }
    if embedded && !preserves && s.properties.as_ref().is_none_or(|p| p.is_empty()) {
        errors.required(
            &properties_path,
            "must not be empty if x-kubernetes-embedded-resource is true without \
             x-kubernetes-preserve-unknown-fields",
        );
    }
}

fn metadata_invariants(
    s: &JSONSchemaProps,
    has_metadata: bool,
    level: Level,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if has_metadata && text(&s.type_) != "object" {
        errors.invalid(&path.child("type"), text(&s.type_), "must be object");
    }
    if level != Level::Root {
        return;
    }
    let mut rest = JSONSchemaProps { type_: None, default: None, ..s.clone() };
    if let Some(properties) = &rest.properties
        && properties.keys().all(|k| k == "name" || k == "generateName")
    {
        rest.properties = None;
    }
    if !meta::same(&rest, &JSONSchemaProps::default()) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly \
                      specified";
        errors.forbidden(path, detail);
    }
}

/// Checks what restricts the values of a schema.
fn value_validation(
    s: &JSONSchemaProps,
    skip_any_of: bool,
    skip_first_all_of: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if !skip_any_of {
        for (i, schema) in any_of(s).iter().enumerate() {
            nested(schema, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, schema) in all_of(s).iter().enumerate() {
        nested(schema, skip_first_all_of && i == 0, &path.child("allOf").index(i), errors);
    }
    for (i, schema) in s.one_of.iter().flatten().enumerate() {
        nested(schema, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(not) = &s.not {
        nested(not, false, &path.child("not"), errors);
    }
    if let Err(e) = regex::Regex::new(text(&s.pattern)) {
        let detail = format!("must be a valid regular expression, but isn't: {e}");
        errors.invalid(&path.child("pattern"), text(&s.pattern), &detail);
    }
}

/// Checks a schema inside a junctor: it restricts values and says nothing else.
fn nested(s: &JSONSchemaProps, skip_any_of: bool, path: &Path<'_>, errors: &mut Errors) {
    value_validation(s, skip_any_of, false, path, errors);
    if let Some(item) = item(s) {
        nested(item, false, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, schema) in s.properties.iter().flatten() {
        nested(schema, false, &properties.key(name), errors);
    }
    let additional = !matches!(s.additional_properties, None | Some(JSONSchemaPropsOrBool::Bool(false)));
    let filled = |field: &'_ Option<String>| !text(field).is_empty();
    let forbidden = [
        (filled(&s.type_), "type", "must be empty"),
        (additional, "additionalProperties", "must be undefined"),
        (s.default.is_some(), "default", "must be undefined"),
        (filled(&s.title), "title", "must be empty"),
        (filled(&s.description), "description", "must be empty"),
        (yes(s.nullable), "nullable", "must be false"),
        (
            yes(s.x_kubernetes_preserve_unknown_fields),
            "x-kubernetes-preserve-unknown-fields",
            "must be false",
        ),
        (yes(s.x_kubernetes_embedded_resource), "x-kubernetes-embedded-resource", "must be false"),
        (yes(s.x_kubernetes_int_or_string), "x-kubernetes-int-or-string", "must be false"),
        (
            s.x_kubernetes_list_map_keys.as_ref().is_some_and(|k| !k.is_empty()),
            "x-kubernetes-list-map-keys",
            "must be empty",
        ),
        (s.x_kubernetes_list_type.is_some(), "x-kubernetes-list-type", "must be undefined"),
        (s.x_kubernetes_map_type.is_some(), "x-kubernetes-map-type", "must be undefined"),
        (
            s.x_kubernetes_validations.as_ref().is_some_and(|v| !v.is_empty()),
            "x-kubernetes-validations",
            "must be empty",
        ),
    ];
    for (set, field, must) in forbidden {
        if set {
            errors.forbidden(&path.child(field), &format!("{must} to be structural"));
        }
    }
    // Restrictions of metadata would be restrictions of every object's metadata.
    if s.properties.as_ref().is_some_and(|p| p.contains_key("metadata")) {
        errors.forbidden(&properties.key("metadata"), "must not be specified in a nested context");
    }
}

/// Checks that every field in the junctors of `v` has its type in `s`.
fn complete_junctors(
    v: &JSONSchemaProps,
    s: Option<&JSONSchemaProps>,
    s_path: &Path<'_>,
    v_path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(not) = &v.not {
        complete(not, s, s_path, &v_path.child("not"), errors);
    }
    for (name, list) in [("allOf", &v.all_of), ("anyOf", &v.any_of), ("oneOf", &v.one_of)] {
        let path = v_path.child(name);
        for (i, schema) in list.iter().flatten().enumerate() {
            complete(schema, s, s_path, &path.index(i), errors);
        }
    }
}

fn complete(
    v: &JSONSchemaProps,
    s: Option<&JSONSchemaProps>,
    s_path: &Path<'_>,
    v_path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(s) = s else {
        errors.required(s_path, &format!("because it is defined in {v_path}"));
        return;
    };
    complete_junctors(v, Some(s), s_path, v_path, errors);
    if let Some(v_item) = item(v) {
        complete(v_item, item(s), &s_path.child("items"), &v_path.child("items"), errors);
    }
    let (s_path, v_path) = (s_path.child("properties"), v_path.child("properties"));
    for (name, v) in v.properties.iter().flatten() {
        let s = s.properties.as_ref().and_then(|p| p.get(name));
        complete(v, s, &s_path.key(name), &v_path.key(name), errors);
    }
}

/// Checks default values: their types, enumerations, and fields that the schema does not know.
pub(super) fn validate_defaults(s: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    if let Some(default) = &s.default {
        let path = path.child("default");
        if has_unknown_fields(&default.0, s) {
            errors.invalid(&path, Json(&default.0), "must not have unknown fields");
        }
        value_of_type(&default.0, s, &path, errors);
    }
    if let Some(item) = item(s) {
        validate_defaults(item, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, schema) in s.properties.iter().flatten() {
        validate_defaults(schema, &properties.key(name), errors);
    }
}

fn has_unknown_fields(value: &Value, s: &JSONSchemaProps) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let known = s.properties.as_ref().and_then(|p| p.get(name));
            match (known, &s.additional_properties) {
                (Some(schema), _) => has_unknown_fields(value, schema),
                (None, Some(JSONSchemaPropsOrBool::Schema(schema))) => has_unknown_fields(value, schema),
                (None, Some(JSONSchemaPropsOrBool::Bool(true))) => false,
                _ => {
                    let of_resource = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                    let embedded = yes(s.x_kubernetes_embedded_resource) && of_resource;
                    !embedded && !yes(s.x_kubernetes_preserve_unknown_fields)
                }
            }
        }),
        Value::Array(items) => item(s).is_some_and(|s| items.iter().any(|v| has_unknown_fields(v, s))),
        _ => false,
    }
}

fn value_of_type(value: &Value, s: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    if value.is_null() && yes(s.nullable) {
        return;
    }
    let expected = text(&s.type_);
    let matches = match expected {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        // 1.0 is an integer too.
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ if yes(s.x_kubernetes_int_or_string) => value.is_string() || value.is_number(),
        _ => true,
    };
    if !matches {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let wanted = if expected.is_empty() { "integer,string" } else { expected };
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        errors.type_invalid(path, found, &detail);
        return;
    }
    if let Some(allowed) = s.enum_.as_ref().filter(|e| !e.is_empty())
        && !allowed.iter().any(|a| a.0 == *value)
    {
        let shown: Vec<String> = allowed.iter().map(|a| a.0.to_string()).collect();
        let shown: Vec<&str> = shown.iter().map(|a| a.trim_matches('"')).collect();
        errors.not_supported(path, Json(value), &shown);
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let known = s.properties.as_ref().and_then(|p| p.get(name));
                match (known, &s.additional_properties) {
                    (Some(schema), _) => value_of_type(value, schema, &path.child(name), errors),
                    (None, Some(JSONSchemaPropsOrBool::Schema(schema))) => {
                        value_of_type(value, schema, &path.child(name), errors);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = item(s) {
                items.iter().enumerate().for_each(|(i, v)| value_of_type(v, schema, &path.index(i), errors));
            }
        }
        _ => {}
    }
}
