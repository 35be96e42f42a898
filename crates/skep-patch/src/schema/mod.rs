//! The merge schema: which type each field has, and how it merges.
//!
//! It joins two sources: the rules of merging ([`FieldRule`], from a table in this crate) and the
//! graph of types (from JSON schema definitions that the caller has, e.g. those `k8s-openapi` gives
//! through `schemars`). Strategic merge patch and server-side apply walk it by [`TypeId`], which is a
//! plain index; finding the root of a walk by name is one hash lookup.
//!
//! Types that are not in the table, such as custom resources, bring their rules along as
//! `x-kubernetes-…` extensions of their schemas, which may nest objects without naming them.
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
//! assert_eq!(containers.rule.patch_merge_key.as_deref(), Some("name"));
//! assert!(matches!(schema.shape(containers.type_id), Shape::List(_)));
//! ```

mod rules;
mod table;

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

pub use rules::{FieldRule, ListType, MapType, NONE, Names, Strategy};

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
    pub rule: Cow<'static, FieldRule>,
    /// The default that the schema declares.
    pub default: Option<Box<Value>>,
}

#[derive(Debug)]
struct Type {
    /// Empty for what a schema nests without naming it.
    name: Box<str>,
    shape: Shape,
    /// Whether a definition was seen; a name can be referred to before.
    defined: bool,
    /// What the schema of the type itself declares.
    rule: Cow<'static, FieldRule>,
    preserves_unknown_fields: bool,
    /// Sorted by name.
    fields: Box<[Field]>,
}

/// What makes nested types without a name the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Anonymous {
    Scalar,
    Untyped,
    Map(TypeId),
    List(TypeId),
}

/// All known types, their fields, and how those merge.
#[derive(Debug, Default)]
pub struct MergeSchema {
    types: Vec<Type>,
    by_name: HashMap<Box<str>, TypeId>,
    anonymous: HashMap<Anonymous, TypeId>,
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

    /// Adds one type and gives its id; see [`MergeSchema::add_definitions`].
    pub fn add_definition(&mut self, name: &str, definition: &Value) -> TypeId {
        let id = self.intern(name);
        if self.types[id.index()].defined {
            return id;
        }
        // Before its fields, which may refer to it.
        self.types[id.index()].defined = true;
        let (shape, fields) = self.shape_and_fields(name, definition);
        let entry = &mut self.types[id.index()];
        entry.shape = shape;
        entry.fields = fields;
        if *entry.rule == NONE {
            entry.rule = FieldRule::from_extensions(definition);
        }
        entry.preserves_unknown_fields = preserves_unknown_fields(definition);
        id
    }

    /// The type called `name`, e.g. `io.k8s.api.core.v1.Pod`, if a definition of it was added.
    pub fn type_id(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied().filter(|id| self.types[id.index()].defined)
    }

    /// What the values of a type look like.
    pub fn shape(&self, id: TypeId) -> Shape {
        self.types[id.index()].shape
    }

    /// The full name of a type; empty if it has none.
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

    /// What a type declares about itself. It holds where no field has a say: for elements of lists
    /// and values of maps.
    pub fn type_rule(&self, id: TypeId) -> &FieldRule {
        &self.types[id.index()].rule
    }

    /// Whether an object of a type may have fields that the type does not name
    /// (`x-kubernetes-preserve-unknown-fields`).
    pub fn preserves_unknown_fields(&self, id: TypeId) -> bool {
        self.types[id.index()].preserves_unknown_fields
    }

    /// How server-side apply merges the object in `field`: what the field declares, else what its
    /// type declares, else key by key.
    pub fn map_type(&self, field: &Field) -> MapType {
        field.rule.map_type.unwrap_or_else(|| self.type_map_type(field.type_id))
    }

    /// How server-side apply merges an object of a type when no field says otherwise, e.g. as
    /// element of a list.
    pub fn type_map_type(&self, id: TypeId) -> MapType {
        self.type_rule(id).map_type.unwrap_or(MapType::Granular)
    }

    /// How server-side apply merges the list in `field`.
    pub fn list_type(&self, field: &Field) -> ListType {
        field.rule.list_type.unwrap_or(ListType::Atomic)
    }

    /// What `key` counts as in an element of type `element` that leaves it out: the schema's
    /// default, or [`list_map_key_default`].
    pub fn list_map_key_default(&self, element: TypeId, key: &str) -> Option<Cow<'_, Value>> {
        match self.field(element, key).and_then(|f| f.default.as_deref()) {
            Some(default) => Some(Cow::Borrowed(default)),
            None => list_map_key_default(self.name(element), key).map(|v| Cow::Owned(v.into())),
        }
    }

    /// How many types are known, unnamed ones included.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether no type is known.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    fn push(&mut self, new: Type) -> TypeId {
        // Types come from the program's own definitions and from CRDs, whose size is bounded.
        let id = TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX));
        self.types.push(new);
        id
    }

    fn intern(&mut self, name: &str) -> TypeId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let mut new = Type::new(name, Shape::Untyped);
        if let Some(map_type) = type_map_type(name) {
            new.rule.to_mut().map_type = Some(map_type);
        }
        let id = self.push(new);
        self.by_name.insert(name.into(), id);
        id
    }

    /// What a schema describes, and its fields; `name` is how the table knows it.
    fn shape_and_fields(&mut self, name: &str, schema: &Value) -> (Shape, Box<[Field]>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let rules = table_of(name);
            let mut fields: Vec<Field> = properties
                .iter()
                .map(|(field, schema)| Field {
                    name: field.as_str().into(),
                    type_id: self.type_of(schema),
                    rule: match rule_in(rules, field) {
                        Some(rule) => Cow::Borrowed(rule),
                        None => FieldRule::from_extensions(schema),
                    },
                    default: schema.get("default").map(|d| Box::new(d.clone())),
                })
                .collect();
            fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            return (Shape::Struct, fields.into());
        }
        let shape = if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
            Shape::Map(self.type_of(values))
        } else if let Some(items) = schema.get("items") {
            Shape::List(self.type_of(items))
        } else if is_scalar(schema) {
            Shape::Scalar
        } else {
            Shape::Untyped
        };
        (shape, Box::default())
    }

    /// The type that a schema in the place of a property, element or value describes.
    fn type_of(&mut self, schema: &Value) -> TypeId {
        if let Some(name) = reference(schema) {
            return self.intern(name);
        }
        let (shape, fields) = self.shape_and_fields("", schema);
        let rule = FieldRule::from_extensions(schema);
        let preserves = preserves_unknown_fields(schema);
        let kind = match shape {
            Shape::Scalar => Some(Anonymous::Scalar),
            Shape::Untyped if !preserves => Some(Anonymous::Untyped),
            Shape::Map(value) if !preserves => Some(Anonymous::Map(value)),
            Shape::List(element) => Some(Anonymous::List(element)),
            Shape::Struct | Shape::Untyped | Shape::Map(_) => None,
        };
        // Most nested lists, maps and scalars are alike and declare nothing.
        let kind = kind.filter(|_| *rule == NONE);
        if let Some(id) = kind.and_then(|kind| self.anonymous.get(&kind)) {
            return *id;
        }
        let mut new = Type::new("", shape);
        new.fields = fields;
        new.rule = rule;
        new.preserves_unknown_fields = preserves;
        let id = self.push(new);
        if let Some(kind) = kind {
            self.anonymous.insert(kind, id);
        }
        id
    }
}

impl Type {
    fn new(name: &str, shape: Shape) -> Self {
        Self {
            name: name.into(),
            shape,
            defined: false,
            rule: Cow::Borrowed(&NONE),
            preserves_unknown_fields: false,
            fields: Box::default(),
        }
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

fn preserves_unknown_fields(schema: &Value) -> bool {
    schema.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(true)
}

type FieldTable = &'static [(&'static str, FieldRule)];

fn table_of(type_name: &str) -> FieldTable {
    let rules = table::FIELD_RULES;
    rules.binary_search_by(|(name, _)| (*name).cmp(type_name)).map_or(&[], |i| rules[i].1)
}

fn rule_in(fields: FieldTable, field: &str) -> Option<&'static FieldRule> {
    fields.binary_search_by(|(name, _)| (*name).cmp(field)).ok().map(|i| &fields[i].1)
}

/// How a field of a built-in type merges, by names alone. [`NONE`] if nothing is declared about it.
pub fn field_rule(type_name: &str, field: &str) -> &'static FieldRule {
    rule_in(table_of(type_name), field).unwrap_or(&NONE)
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

/// The OpenAPI extensions that go beside the schema of a built-in type's field, in upstream's order.
pub fn field_extensions(type_name: &str, field: &str) -> Vec<(&'static str, Value)> {
    field_rule(type_name, field).extensions()
}

/// The OpenAPI extensions of a built-in type itself.
pub fn type_extensions(type_name: &str) -> Vec<(&'static str, Value)> {
    let rule = FieldRule { map_type: type_map_type(type_name), ..NONE };
    rule.extensions()
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
mod tests;
