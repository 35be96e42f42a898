//! The merge schema: which type each field has, and how it merges.
//!
//! It joins two sources: the rules of merging ([`FieldRule`], from a table in this crate) and the
//! graph of types (from JSON schema definitions that the caller has, e.g. those `k8s-openapi` gives
//! through `schemars`). Strategic merge patch and server-side apply walk it by [`TypeId`], which is a
//! plain index; finding the root of a walk by name is one hash lookup.
//!
//! ```
//! use skep_patch::schema::{MergeSchema, Shape};
//!
//! let mut schema = MergeSchema::new();
//! schema.add_definitions(serde_json::json!({
//!     "io.k8s.api.core.v1.PodSpec": {"type": "object", "properties": {
//!         "containers": {"type": "array", "items": {"$ref": "#/$defs/io.k8s.api.core.v1.Container"}}}},
//!     "io.k8s.api.core.v1.Container": {"type": "object", "properties": {"name": {"type": "string"}}},
//! }).as_object().unwrap());
//! let pod_spec = schema.type_id("io.k8s.api.core.v1.PodSpec").unwrap();
//! let containers = schema.field(pod_spec, "containers").unwrap();
//! assert_eq!(containers.rule.patch_merge_key, Some("name"));
//! assert!(matches!(schema.shape(containers.type_id), Shape::List(_)));
//! ```

mod rules;
mod table;

use std::collections::HashMap;

use serde_json::{Map, Value};

pub use rules::{FieldRule, ListType, MapType, NONE, Strategy};

/// A type in a [`MergeSchema`]. Only meaningful for the schema that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

/// What the values of a type look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string, number or boolean; also what is written as one (quantities, times, int-or-string).
    Scalar,
    /// Any JSON: embedded objects, and types that are named but not (yet) defined.
    Untyped,
    /// An object with known fields.
    Struct,
    /// An object with arbitrary keys, each value of the given type.
    Map(TypeId),
    /// A list with elements of the given type.
    List(TypeId),
}

/// A field of a [`Shape::Struct`].
#[derive(Debug, Clone)]
pub struct Field {
    /// The name in JSON.
    pub name: Box<str>,
    /// The type of the value.
    pub type_id: TypeId,
    /// How the field merges.
    pub rule: &'static FieldRule,
}

#[derive(Debug)]
struct Type {
    /// Empty for lists and maps, which need no name.
    name: Box<str>,
    shape: Shape,
    /// Whether a definition was seen; a name can be referred to before.
    defined: bool,
    /// Sorted by name.
    fields: Box<[Field]>,
}

/// All known types, their fields, and how those merge.
#[derive(Debug, Default)]
pub struct MergeSchema {
    types: Vec<Type>,
    by_name: HashMap<Box<str>, TypeId>,
    lists: HashMap<TypeId, TypeId>,
    maps: HashMap<TypeId, TypeId>,
    scalar: Option<TypeId>,
    untyped: Option<TypeId>,
}

impl MergeSchema {
    /// A schema without types.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the types of a map from type name to JSON schema, as `schemars` keeps its definitions.
    /// Order does not matter, references may be resolved by a later call, and a type that is already
    /// defined is left alone, so the definitions of each kind can be added as they come.
    pub fn add_definitions(&mut self, definitions: &Map<String, Value>) {
        for (name, definition) in definitions {
            self.add_definition(name, definition);
        }
    }

    /// Adds one type; see [`MergeSchema::add_definitions`].
    pub fn add_definition(&mut self, name: &str, definition: &Value) {
        let id = self.intern(name);
        if self.types[id.index()].defined {
            return;
        }
        let shape = match definition.get("properties").and_then(Value::as_object) {
            Some(properties) => {
                let rules = table_of(name);
                let mut fields: Vec<Field> = properties
                    .iter()
                    .map(|(field, schema)| Field {
                        name: field.as_str().into(),
                        type_id: self.type_of(schema),
                        rule: rule_in(rules, field),
                    })
                    .collect();
                fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                self.types[id.index()].fields = fields.into();
                Shape::Struct
            }
            None if definition.get("additionalProperties").is_some_and(Value::is_object) => {
                Shape::Map(self.type_of(&definition["additionalProperties"]))
            }
            None if definition.get("items").is_some() => Shape::List(self.type_of(&definition["items"])),
            None if is_scalar(definition) => Shape::Scalar,
            None => Shape::Untyped,
        };
        let entry = &mut self.types[id.index()];
        entry.shape = shape;
        entry.defined = true;
    }

    /// The type called `name`, e.g. `io.k8s.api.core.v1.Pod`, if a definition of it was added.
    pub fn type_id(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied().filter(|id| self.types[id.index()].defined)
    }

    /// What the values of a type look like.
    pub fn shape(&self, id: TypeId) -> Shape {
        self.types[id.index()].shape
    }

    /// The full name of a type; empty for lists, maps and plain scalars.
    pub fn name(&self, id: TypeId) -> &str {
        &self.types[id.index()].name
    }

    /// The last part of a type's name, which is what the type is called in Go.
    pub fn short_name(&self, id: TypeId) -> &str {
        let name = self.name(id);
        name.rsplit_once('.').map_or(name, |(_, short)| short)
    }

    /// All fields of a struct, sorted by name.
    pub fn fields(&self, id: TypeId) -> &[Field] {
        &self.types[id.index()].fields
    }

    /// One field of a struct.
    pub fn field(&self, id: TypeId, name: &str) -> Option<&Field> {
        let fields = self.fields(id);
        fields.binary_search_by(|f| (*f.name).cmp(name)).ok().map(|i| &fields[i])
    }

    /// How server-side apply merges the object in `field`: what the field declares, else what its
    /// type declares, else key by key.
    pub fn map_type(&self, field: &Field) -> MapType {
        field.rule.map_type.unwrap_or_else(|| self.type_map_type(field.type_id))
    }

    /// How server-side apply merges an object of a type when no field says otherwise, e.g. as
    /// element of a list.
    pub fn type_map_type(&self, id: TypeId) -> MapType {
        type_map_type(self.name(id)).unwrap_or(MapType::Granular)
    }

    /// How server-side apply merges the list in `field`.
    pub fn list_type(&self, field: &Field) -> ListType {
        field.rule.list_type.unwrap_or(ListType::Atomic)
    }

    /// What `key` counts as in an element of type `element` that leaves it out; see
    /// [`list_map_key_default`].
    pub fn list_map_key_default(&self, element: TypeId, key: &str) -> Option<&'static str> {
        list_map_key_default(self.name(element), key)
    }

    /// How many types are known, lists and maps included.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether no type is known.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    fn push(&mut self, name: &str, shape: Shape) -> TypeId {
        // Types come from the program's own definitions, thousands at most.
        let id = TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX));
        self.types.push(Type { name: name.into(), shape, defined: false, fields: Box::default() });
        id
    }

    fn intern(&mut self, name: &str) -> TypeId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let id = self.push(name, Shape::Untyped);
        self.by_name.insert(name.into(), id);
        id
    }

    /// The type that a schema in the place of a property, element or value describes.
    fn type_of(&mut self, schema: &Value) -> TypeId {
        if let Some(name) = reference(schema) {
            return self.intern(name);
        }
        if let Some(items) = schema.get("items") {
            let element = self.type_of(items);
            if let Some(&id) = self.lists.get(&element) {
                return id;
            }
            let id = self.push("", Shape::List(element));
            self.lists.insert(element, id);
            return id;
        }
        if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
            let value = self.type_of(values);
            if let Some(&id) = self.maps.get(&value) {
                return id;
            }
            let id = self.push("", Shape::Map(value));
            self.maps.insert(value, id);
            return id;
        }
        if is_scalar(schema) {
            if let Some(id) = self.scalar {
                return id;
            }
            let id = self.push("", Shape::Scalar);
            self.scalar = Some(id);
            return id;
        }
        if let Some(id) = self.untyped {
            return id;
        }
        let id = self.push("", Shape::Untyped);
        self.untyped = Some(id);
        id
    }
}

impl TypeId {
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The name that a schema refers to: directly, or as the only member of `allOf`, which is how a
/// description is put beside a reference.
fn reference(schema: &Value) -> Option<&str> {
    let target = match schema.get("$ref") {
        Some(target) => target.as_str()?,
        None => match schema.get("allOf")?.as_array()?.as_slice() {
            [only] => only.get("$ref")?.as_str()?,
            _ => return None,
        },
    };
    Some(target.rsplit_once('/').map_or(target, |(_, name)| name))
}

fn is_scalar(schema: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string").and_then(Value::as_bool) == Some(true) {
        return true;
    }
    let scalar = |name: &str| matches!(name, "string" | "integer" | "number" | "boolean");
    match schema.get("type") {
        Some(Value::String(name)) => scalar(name),
        // A nullable scalar: `["string", "null"]`.
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).filter(|n| *n != "null").all(scalar)
        }
        _ => false,
    }
}

type FieldTable = &'static [(&'static str, FieldRule)];

fn table_of(type_name: &str) -> FieldTable {
    let rules = table::FIELD_RULES;
    rules.binary_search_by(|(name, _)| (*name).cmp(type_name)).map_or(&[], |i| rules[i].1)
}

fn rule_in(fields: FieldTable, field: &str) -> &'static FieldRule {
    fields.binary_search_by(|(name, _)| (*name).cmp(field)).map_or(&NONE, |i| &fields[i].1)
}

/// How a field of a built-in type merges, by names alone. [`NONE`] if nothing is declared about it.
pub fn field_rule(type_name: &str, field: &str) -> &'static FieldRule {
    rule_in(table_of(type_name), field)
}

/// The map type that a built-in type declares about itself.
pub fn type_map_type(type_name: &str) -> Option<MapType> {
    table::ATOMIC_TYPES.binary_search(&type_name).is_ok().then_some(MapType::Atomic)
}

/// What a key of a [`ListType::Map`] counts as when an element of the built-in type `element` leaves
/// it out (`protocol` of a port is `TCP`). Without such a value, an absent key is the empty string
/// or zero if the API requires it, and is absent otherwise.
pub fn list_map_key_default(element: &str, key: &str) -> Option<&'static str> {
    table::KEY_DEFAULTS.iter().find(|(t, k, _)| *t == element && *k == key).map(|(_, _, value)| *value)
}

/// The OpenAPI extensions that go beside the schema of a field, in upstream's order.
pub fn field_extensions(type_name: &str, field: &str) -> Vec<(&'static str, Value)> {
    let rule = field_rule(type_name, field);
    let mut out = Vec::new();
    if !rule.list_map_keys.is_empty() {
        out.push(("x-kubernetes-list-map-keys", rule.list_map_keys.into()));
    }
    if let Some(list) = rule.list_type {
        out.push(("x-kubernetes-list-type", list.as_str().into()));
    }
    if let Some(map) = rule.map_type {
        out.push(("x-kubernetes-map-type", map.as_str().into()));
    }
    if let Some(key) = rule.patch_merge_key {
        out.push(("x-kubernetes-patch-merge-key", key.into()));
    }
    if let Some(strategy) = rule.patch_strategy_extension() {
        out.push(("x-kubernetes-patch-strategy", strategy.into()));
    }
    out
}

/// The OpenAPI extensions of a type itself.
pub fn type_extensions(type_name: &str) -> Vec<(&'static str, Value)> {
    type_map_type(type_name).map(|m| ("x-kubernetes-map-type", m.as_str().into())).into_iter().collect()
}

/// Every type of the table with its fields' rules, for checks and listings.
pub fn all_rules() -> impl Iterator<Item = (&'static str, FieldTable)> {
    table::FIELD_RULES.iter().copied()
}

/// Every type that is atomic by itself, for checks and listings.
pub fn atomic_types() -> impl Iterator<Item = &'static str> {
    table::ATOMIC_TYPES.iter().copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_is_sorted_and_coherent() {
        assert!(table::FIELD_RULES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(table::ATOMIC_TYPES.is_sorted_by(|a, b| a < b));
        for (name, fields) in table::FIELD_RULES {
            assert!(fields.is_sorted_by(|a, b| a.0 < b.0), "{name}");
            for (field, rule) in *fields {
                assert_ne!(rule, &NONE, "{name}.{field}");
                assert_eq!(
                    rule.list_type == Some(ListType::Map),
                    !rule.list_map_keys.is_empty(),
                    "{name}.{field}: keys belong to lists of type map"
                );
                if let (Some(key), Some(ListType::Map)) = (rule.patch_merge_key, rule.list_type) {
                    assert!(rule.list_map_keys.contains(&key), "{name}.{field}");
                }
            }
        }
    }

    #[test]
    fn rules_by_name() {
        let ports = field_rule("io.k8s.api.core.v1.Container", "ports");
        assert_eq!(ports.list_type, Some(ListType::Map));
        assert_eq!(ports.list_map_keys, ["containerPort", "protocol"]);
        assert_eq!(ports.strategy, Strategy::Merge);
        assert_eq!(ports.patch_merge_key, Some("containerPort"));
        assert_eq!(field_rule("io.k8s.api.core.v1.Container", "nope"), &NONE);
        assert_eq!(field_rule("Nope", "ports"), &NONE);
        assert_eq!(type_map_type("io.k8s.api.core.v1.ObjectReference"), Some(MapType::Atomic));
        assert_eq!(type_map_type("io.k8s.api.core.v1.Pod"), None);
        assert_eq!(list_map_key_default("io.k8s.api.core.v1.ContainerPort", "protocol"), Some("TCP"));
        assert_eq!(list_map_key_default("io.k8s.api.core.v1.ContainerPort", "containerPort"), None);
    }

    #[test]
    fn extensions_are_upstreams() {
        assert_eq!(
            field_extensions("io.k8s.api.core.v1.PodSpec", "volumes"),
            [
                ("x-kubernetes-list-map-keys", json!(["name"])),
                ("x-kubernetes-list-type", json!("map")),
                ("x-kubernetes-patch-merge-key", json!("name")),
                ("x-kubernetes-patch-strategy", json!("merge,retainKeys")),
            ]
        );
        assert_eq!(
            field_extensions("io.k8s.api.core.v1.ServiceSpec", "selector"),
            [("x-kubernetes-map-type", json!("atomic"))]
        );
        assert_eq!(
            type_extensions("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"),
            [("x-kubernetes-map-type", json!("atomic"))]
        );
        assert!(field_extensions("io.k8s.api.core.v1.PodSpec", "nodeName").is_empty());
    }

    #[test]
    fn shapes_follow_the_definitions() {
        let mut schema = MergeSchema::new();
        assert!(schema.is_empty());
        let first = json!({
            "io.k8s.api.core.v1.PersistentVolumeSpec": {"type": "object", "properties": {
                "claimRef": {"description": "d", "$ref": "#/$defs/io.k8s.api.core.v1.ObjectReference"},
                "capacity": {"type": "object", "additionalProperties": {"$ref": "#/$defs/a.Quantity"}},
                "accessModes": {"type": "array", "items": {"type": "string"}},
                "other": {"allOf": [{"$ref": "#/$defs/io.k8s.api.core.v1.ObjectReference"}]},
                "later": {"$ref": "#/$defs/b.Later"},
                "nullable": {"type": ["integer", "null"]},
                "mode": {"type": "string"}}},
            "a.Quantity": {"x-kubernetes-int-or-string": true},
            "a.Raw": {"type": "object"},
            "a.Either": {"oneOf": [{"type": "boolean"}, {"$ref": "#/$defs/a.Raw"}]},
        });
        schema.add_definitions(first.as_object().unwrap());
        let spec = schema.type_id("io.k8s.api.core.v1.PersistentVolumeSpec").unwrap();
        assert_eq!(schema.shape(spec), Shape::Struct);
        assert_eq!(schema.short_name(spec), "PersistentVolumeSpec");
        let field = |name: &str| schema.field(spec, name).unwrap();
        let Shape::Map(quantity) = schema.shape(field("capacity").type_id) else { panic!() };
        assert_eq!(schema.shape(quantity), Shape::Scalar);
        assert_eq!(schema.name(quantity), "a.Quantity");
        assert!(matches!(schema.shape(field("accessModes").type_id), Shape::List(_)));
        assert_eq!(schema.shape(field("nullable").type_id), Shape::Scalar);
        assert_eq!(field("other").type_id, field("claimRef").type_id);
        // The type is atomic, the field takes that back, and another field does not.
        assert_eq!(schema.map_type(field("claimRef")), MapType::Granular);
        assert_eq!(schema.map_type(field("other")), MapType::Atomic);
        assert_eq!(schema.list_type(field("accessModes")), ListType::Atomic);
        assert_eq!(schema.shape(schema.type_id("a.Raw").unwrap()), Shape::Untyped);
        assert_eq!(schema.shape(schema.type_id("a.Either").unwrap()), Shape::Untyped);
        assert_eq!(schema.type_id("b.Later"), None, "referred to, not defined");

        let later = field("later").type_id;
        let count = schema.len();
        schema.add_definitions(
            json!({"b.Later": {"type": "object", "properties": {"x": {"type": "string"}}}})
                .as_object()
                .unwrap(),
        );
        assert_eq!(schema.type_id("b.Later"), Some(later));
        assert_eq!(schema.shape(later), Shape::Struct);
        schema.add_definitions(first.as_object().unwrap());
        assert_eq!(schema.len(), count, "adding again changes nothing");
    }
}
