//! OpenAPI v2, made from the v3 documents. Clients ask for it where v3 does not say what they look for:
//! kubectl validates kinds by it that can only be created.

use serde_json::{Map, Value as Json, json};

const V3_PREFIX: &str = "#/components/schemas/";
const V2_PREFIX: &str = "#/definitions/";
/// What writes may be sent as.
const CONSUMES: &[&str] = &["*/*"];
const PRODUCES: &[&str] = &["application/json", "application/yaml"];

/// One document out of the documents of all groups and versions.
#[must_use]
pub fn merge(documents: impl Iterator<Item = Json>) -> Json {
    let mut paths = Map::new();
    let mut definitions = Map::new();
    for mut document in documents {
        if let Some(Json::Object(more)) = document.get_mut("paths").map(Json::take) {
            paths.extend(more.into_iter().map(|(path, item)| (path, path_item(item))));
        }
        if let Some(Json::Object(more)) = document.pointer_mut("/components/schemas").map(Json::take) {
            for (name, mut definition) in more {
                schema(&mut definition);
                merge_definition(&mut definitions, name, definition);
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": crate::VERSION},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// A type that several groups use is the same in all, except that only its own group's document says which
/// kind it is.
fn merge_definition(definitions: &mut Map<String, Json>, name: String, definition: Json) {
    const GVK: &str = "x-kubernetes-group-version-kind";
    match definitions.get_mut(&name) {
        None => {
            definitions.insert(name, definition);
        }
        Some(known) => {
            let Some(new) = definition.get(GVK).and_then(Json::as_array) else { return };
            let mut all = known.get(GVK).and_then(Json::as_array).cloned().unwrap_or_default();
            let missing: Vec<Json> = new.iter().filter(|g| !all.contains(g)).cloned().collect();
            all.extend(missing);
            known[GVK] = Json::Array(all);
        }
    }
}

/// Brings a schema into the form of v2.
fn schema(schema_: &mut Json) {
    match schema_ {
        Json::Array(items) => return items.iter_mut().for_each(schema),
        Json::Object(_) => {}
        _ => return,
    }
    // Siblings of a reference need a detour in v3 only.
    let referred = schema_.pointer("/allOf/0/$ref").cloned();
    if let (Some(reference), Some(fields)) = (referred, schema_.as_object_mut())
        && fields.get("allOf").and_then(Json::as_array).is_some_and(|a| a.len() == 1)
    {
        fields.remove("allOf");
        fields.insert("$ref".to_owned(), reference);
    }
    // So is what may also be left out with a null.
    let referred = schema_.get("anyOf").and_then(Json::as_array).and_then(|all| match all.as_slice() {
        [one, nothing] if nothing.get("enum") == Some(&json!([null])) => one.get("$ref").cloned(),
        _ => None,
    });
    if let (Some(reference), Some(fields)) = (referred, schema_.as_object_mut()) {
        fields.remove("anyOf");
        fields.insert("$ref".to_owned(), reference);
    }
    let Some(fields) = schema_.as_object_mut() else { return };
    fields.remove("nullable");
    // Alternatives do not exist in v2: anything goes, and the server decides.
    let alternatives = fields.remove("anyOf").is_some() | fields.remove("oneOf").is_some();
    if fields.get("x-kubernetes-int-or-string") == Some(&Json::Bool(true)) || alternatives {
        fields.insert("format".to_owned(), "int-or-string".into());
        fields.insert("type".to_owned(), "string".into());
    }
    if let Some(Json::String(reference)) = fields.get_mut("$ref")
        && let Some(name) = reference.strip_prefix(V3_PREFIX)
    {
        *reference = format!("{V2_PREFIX}{name}");
    }
    if let Some(Json::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(schema);
    }
    for key in ["items", "additionalProperties", "allOf", "not"] {
        if let Some(inner) = fields.get_mut(key) {
            schema(inner);
        }
    }
}

fn path_item(mut item: Json) -> Json {
    let Some(fields) = item.as_object_mut() else { return item };
    for (name, value) in fields.iter_mut() {
        if name == "parameters" {
            parameters(value);
        } else {
            operation(value);
        }
    }
    item
}

fn parameters(list: &mut Json) {
    for parameter in list.as_array_mut().into_iter().flatten() {
        if let Some(Json::Object(schema)) = parameter.as_object_mut().and_then(|p| p.remove("schema"))
            && let Some(fields) = parameter.as_object_mut()
        {
            fields.extend(schema);
        }
    }
}

fn operation(operation: &mut Json) {
    let Some(fields) = operation.as_object_mut() else { return };
    let body = fields.remove("requestBody");
    if let Some(list) = fields.get_mut("parameters") {
        parameters(list);
    }
    let mut consumes: Vec<String> = CONSUMES.iter().map(|c| (*c).to_owned()).collect();
    if let Some(content) = body.as_ref().and_then(|b| b.get("content")).and_then(Json::as_object) {
        if !content.contains_key("application/json") {
            consumes = content.keys().cloned().collect();
        }
        let mut of_body = content.values().next().and_then(|c| c.get("schema")).cloned().unwrap_or_default();
        schema(&mut of_body);
        let parameter = json!({"name": "body", "in": "body", "required": true, "schema": of_body});
        if let Some(Json::Array(list)) = fields.get_mut("parameters") {
            list.push(parameter);
        }
    }
    for response in fields.get_mut("responses").and_then(Json::as_object_mut).into_iter().flatten() {
        let content = response.1.as_object_mut().and_then(|r| r.remove("content"));
        if let Some(mut of_response) = content.and_then(|c| c.pointer("/application~1json/schema").cloned()) {
            schema(&mut of_response);
            response.1["schema"] = of_response;
        }
    }
    fields.insert("consumes".to_owned(), consumes.into());
    fields.insert("produces".to_owned(), PRODUCES.iter().map(|p| Json::from(*p)).collect());
    fields.insert("schemes".to_owned(), json!(["https"]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_become_v2() {
        let mut of = json!({
            "type": "object", "nullable": true,
            "properties": {
                "a": {"allOf": [{"$ref": "#/components/schemas/A"}], "description": "x"},
                "b": {"type": "array", "items": {"$ref": "#/components/schemas/B"}},
                "c": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "e": {"anyOf": [{"$ref": "#/components/schemas/E"}, {"enum": [null], "nullable": true}], "description": "x"},
                "d": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/D"}},
            },
        });
        schema(&mut of);
        assert_eq!(
            of,
            json!({
                "type": "object",
                "properties": {
                    "a": {"$ref": "#/definitions/A", "description": "x"},
                    "b": {"type": "array", "items": {"$ref": "#/definitions/B"}},
                    "c": {"format": "int-or-string", "type": "string"},
                    "e": {"$ref": "#/definitions/E", "description": "x"},
                    "d": {"type": "object", "additionalProperties": {"$ref": "#/definitions/D"}},
                },
            })
        );
    }

    #[test]
    fn every_reference_of_the_built_in_kinds_leads_somewhere() {
        let registry = skep_api::Registry::builtin();
        let document = merge(crate::openapi::all(&registry, true));
        let definitions = document["definitions"].as_object().unwrap();
        fn references<'a>(json: &'a Json, found: &mut Vec<&'a str>) {
            match json {
                Json::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Json::as_str));
                    fields.values().for_each(|v| references(v, found));
                }
                Json::Array(items) => items.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 1000);
        for reference in found {
            let name = reference.strip_prefix(V2_PREFIX).unwrap_or_else(|| panic!("{reference}"));
            assert!(definitions.contains_key(name), "{name}");
        }
        for kind in registry.iter() {
            let info = kind.info();
            let gvk = json!({"group": info.group, "version": info.version, "kind": info.kind});
            let said = definitions.values().filter(|d| {
                d["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.contains(&gvk))
            });
            assert_eq!(said.count(), 1, "{gvk}");
        }
        for key in ["\"requestBody\"", "#/components"] {
            assert!(!document.to_string().contains(key), "{key}");
        }
        fn check(schema: &Json) {
            for key in ["nullable", "anyOf", "oneOf"] {
                assert!(schema.get(key).is_none(), "{schema}");
            }
            schema["properties"].as_object().into_iter().flatten().for_each(|(_, s)| check(s));
            ["items", "additionalProperties"].iter().filter_map(|k| schema.get(k)).for_each(check);
        }
        definitions.values().for_each(check);
    }
}
