//! OpenAPI v3, a document per group and version, v2 made from them, and the merge rules made from the same
//! schemas.

pub mod gnostic;
pub mod v2;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use k8s_openapi::api::autoscaling::v1::Scale;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};
use sha2::Digest;
use skep_api::{DynKind, KindInfo, Registry, Verb};
use skep_patch::schema::{self, MergeSchema};

use crate::app::App;

const PREFIX: &str = "#/components/schemas/";

fn generator() -> SchemaGenerator {
    SchemaSettings::openapi3().into_generator()
}

/// The type that a schema refers to.
fn referred(schema: &Json) -> Option<String> {
    let text = schema.get("$ref")?.as_str()?.strip_prefix(PREFIX)?;
    Some(text.replace("~1", "/").replace("~0", "~"))
}

/// The merge rules of all built-in types, and which type a served kind is, by apiVersion and kind.
#[must_use]
pub fn merge_schema(registry: &Registry) -> (MergeSchema, FxHashMap<(String, String), String>) {
    let mut generator = generator();
    let mut names = FxHashMap::default();
    for kind in registry.iter() {
        let schema = kind.schema(&mut generator).to_value();
        if let Some(name) = referred(&schema) {
            names.insert((kind.info().api_version(), kind.info().kind.to_string()), name);
        }
    }
    // The body of a subresource, which no kind brings in.
    let scale = generator.subschema_for::<Scale>().to_value();
    names.extend(referred(&scale).map(|name| (("autoscaling/v1".to_owned(), "Scale".to_owned()), name)));
    let mut merge = MergeSchema::new();
    merge.add_definitions(&generator.take_definitions(true));
    (merge, names)
}

/// The documents, each made when first asked for: most servers are never asked for most of them.
#[derive(Default)]
pub struct Documents {
    made: Mutex<BTreeMap<String, Bytes>>,
}

fn group_versions(registry: &Registry, operator: bool) -> BTreeSet<(String, String)> {
    registry
        .iter()
        .map(|k| k.info())
        .filter(|i| operator || !crate::discovery::operator_only(&i.group, &i.plural))
        .map(|i| (i.group.to_string(), i.version.to_string()))
        .collect()
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `GET /openapi/v3`.
#[must_use]
pub fn index(app: &App, operator: bool) -> Json {
    let paths: Map<String, Json> = group_versions(&app.registry, operator)
        .iter()
        .map(|(group, version)| {
            let path = path_of(group, version);
            // The documents change with the program only.
            let digest = sha2::Sha256::digest(format!("{path}@{}", env!("CARGO_PKG_VERSION")));
            let hash: String = digest.iter().map(|b| format!("{b:02X}")).collect();
            (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
        })
        .collect();
    json!({"paths": paths})
}

/// `GET /openapi/v3/PATH`.
#[must_use]
pub fn document(app: &App, path: &str, operator: bool) -> Option<Bytes> {
    let (group, version) =
        group_versions(&app.registry, operator).into_iter().find(|(g, v)| path_of(g, v) == path)?;
    let name = format!("{path} operator={operator}");
    if let Some(made) = app.openapi.made.lock().get(&name) {
        return Some(made.clone());
    }
    let bytes = Bytes::from(make(&app.registry, &group, &version, operator).to_string());
    app.openapi.made.lock().insert(name, bytes.clone());
    Some(bytes)
}

/// The v3 documents of all groups and versions.
pub fn all(registry: &Registry, operator: bool) -> impl Iterator<Item = Json> + '_ {
    group_versions(registry, operator)
        .into_iter()
        .map(move |(group, version)| make(registry, &group, &version, operator))
}

/// `GET /openapi/v2`, in JSON or protobuf.
#[must_use]
pub fn document_v2(app: &App, protobuf: bool, operator: bool) -> Bytes {
    let name = format!("v2 protobuf={protobuf} operator={operator}");
    if let Some(made) = app.openapi.made.lock().get(&name) {
        return made.clone();
    }
    let document = v2::merge(all(&app.registry, operator));
    let bytes =
        Bytes::from(if protobuf { gnostic::encode(&document) } else { document.to_string().into_bytes() });
    app.openapi.made.lock().insert(name, bytes.clone());
    bytes
}

fn make(registry: &Registry, group: &str, version: &str, operator: bool) -> Json {
    let mut generator = generator();
    let mut paths = Map::new();
    let mut kinds_of_type: BTreeMap<String, Json> = BTreeMap::new();
    let shown = |i: &KindInfo| operator || !crate::discovery::operator_only(&i.group, &i.plural);
    let kinds = registry.iter().filter(|k| k.info().group == group && k.info().version == version);
    for kind in kinds.filter(|k| shown(k.info())) {
        let reference = kind.schema(&mut generator).to_value();
        if let Some(name) = referred(&reference) {
            kinds_of_type.insert(name, gvk(kind.as_ref()));
        }
        add_paths(kind.as_ref(), &reference, &mut paths);
    }
    let mut schemas = generator.take_definitions(true);
    for (name, schema) in &mut schemas {
        extend(name, schema);
        // The types cannot do without metadata; requests can.
        if let Some(Json::Array(required)) = schema.get_mut("required") {
            required.retain(|field| field != "metadata");
        }
        if let Some(gvk) = kinds_of_type.get(name) {
            schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": crate::VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization"}},
        },
    })
}

fn gvk(kind: &dyn DynKind) -> Json {
    let info = kind.info();
    json!({"group": info.group, "version": info.version, "kind": info.kind})
}

/// Adds the merge rules to a type and its fields.
fn extend(name: &str, definition: &mut Json) {
    for (key, value) in schema::type_extensions(name) {
        definition[key] = value;
    }
    if let Some(properties) = definition.get_mut("properties").and_then(Json::as_object_mut) {
        for (field, property) in properties {
            let extensions = schema::field_extensions(name, field);
            // A reference may not stand beside other keys in OpenAPI 3.0.
            if !extensions.is_empty() && property.get("$ref").is_some() {
                let reference = property.take();
                *property = json!({"allOf": [reference]});
            }
            for (key, value) in extensions {
                property[key] = value;
            }
        }
    }
}

fn query(name: &str, kind: &str, description: &str) -> Json {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn write_parameters() -> Vec<Json> {
    vec![
        query("dryRun", "string", "All: do everything but store the result."),
        query("fieldManager", "string", "The name of whoever makes the change."),
        query(
            "fieldValidation",
            "string",
            "What to do about unknown and duplicate fields: Ignore, Warn or Strict.",
        ),
    ]
}

fn list_parameters() -> Vec<Json> {
    vec![
        query("allowWatchBookmarks", "boolean", "Whether a watch sends bookmarks."),
        query("continue", "string", "Where the page before ended."),
        query("fieldSelector", "string", "Only objects whose fields have these values."),
        query("labelSelector", "string", "Only objects with these labels."),
        query("limit", "integer", "The most objects on a page."),
        query("resourceVersion", "string", "How recent the answer must be."),
        query("resourceVersionMatch", "string", "Whether the answer must be exactly of that version."),
        query("sendInitialEvents", "boolean", "Whether a watch begins with what there is."),
        query("timeoutSeconds", "integer", "When a watch ends."),
        query("watch", "boolean", "Follow changes instead of listing."),
    ]
}

fn delete_parameters() -> Vec<Json> {
    vec![
        query("dryRun", "string", "All: do everything but store the result."),
        query("gracePeriodSeconds", "integer", "How long the object may take to end."),
        query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
        query("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground."),
    ]
}

fn add_paths(kind: &dyn DynKind, reference: &Json, paths: &mut Map<String, Json>) {
    let info = kind.info();
    let base = format!("/{}", path_of(&info.group, &info.version));
    let scope = if info.namespaced { "/namespaces/{namespace}" } else { "" };
    let content = json!({"application/json": {"schema": reference}});
    let operation = |action: &str, description: String, parameters: Vec<Json>, body: Option<Json>| {
        let mut operation = json!({
            "description": description,
            "operationId": format!("{action}{}{}", camel(&info.group), info.kind),
            "tags": [format!("{}_{}", if info.group.is_empty() { "core" } else { &info.group }, info.version)],
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(kind),
        });
        if let Some(body) = body {
            operation["requestBody"] = json!({"required": true, "content": body});
        }
        operation
    };
    let has = |v: Verb| info.verbs.contains(&v);
    let patch_body = || {
        let any = json!({"schema": {"type": "object"}});
        json!({"application/json-patch+json": any, "application/merge-patch+json": any, "application/strategic-merge-patch+json": any})
    };
    let in_path = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let path_parameters = |with_name: bool| {
        let mut parameters = Vec::new();
        if with_name {
            parameters.push(in_path("name"));
        }
        if info.namespaced {
            parameters.push(in_path("namespace"));
        }
        parameters
    };
    let mut collection = json!({"parameters": path_parameters(false)});
    if has(Verb::List) {
        collection["get"] = operation(
            "list",
            format!("list or watch objects of kind {}", info.kind),
            list_parameters(),
            None,
        );
    }
    if has(Verb::Create) {
        collection["post"] =
            operation("post", format!("create a {}", info.kind), write_parameters(), Some(content.clone()));
    }
    if has(Verb::DeleteCollection) {
        collection["delete"] = operation(
            "deletecollection",
            format!("delete a collection of {}", info.kind),
            delete_parameters(),
            None,
        );
    }
    paths.insert(format!("{base}{scope}/{}", info.plural), collection);
    if !has(Verb::Get) {
        return;
    }
    let mut subs: Vec<(String, bool)> = vec![(String::new(), true)];
    subs.extend(
        info.subresources
            .iter()
            .filter(|s| s.kind.is_empty() && s.verbs == Verb::READ_WRITE)
            .map(|s| (format!("/{}", s.name), false)),
    );
    for (sub, main) in subs {
        let mut item = json!({"parameters": path_parameters(true)});
        item["get"] = operation("get", format!("read the specified {}", info.kind), Vec::new(), None);
        if has(Verb::Update) {
            item["put"] = operation(
                "put",
                format!("replace the specified {}", info.kind),
                write_parameters(),
                Some(content.clone()),
            );
        }
        if has(Verb::Patch) {
            let mut parameters = write_parameters();
            parameters.push(query("force", "boolean", "Take fields over from other managers when applying."));
            item["patch"] = operation(
                "patch",
                format!("partially update the specified {}", info.kind),
                parameters,
                Some(patch_body()),
            );
        }
        if main && has(Verb::Delete) {
            item["delete"] =
                operation("delete", format!("delete a {}", info.kind), delete_parameters(), None);
        }
        paths.insert(format!("{base}{scope}/{}/{{name}}{sub}", info.plural), item);
    }
}

fn camel(group: &str) -> String {
    let first = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or("") };
    let mut letters = first.chars();
    letters.next().map(|c| c.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}
