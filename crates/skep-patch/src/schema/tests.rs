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
            if let (Some(key), Some(ListType::Map)) = (&rule.patch_merge_key, rule.list_type) {
                assert!(rule.list_map_keys.iter().any(|k| k == key), "{name}.{field}");
            }
        }
    }
}

#[test]
fn rules_by_name() {
    let ports = field_rule("io.k8s.api.core.v1.Container", "ports");
    assert_eq!(ports.list_type, Some(ListType::Map));
    assert!(ports.list_map_keys.iter().eq(["containerPort", "protocol"]));
    assert_eq!(ports.strategy, Strategy::Merge);
    assert_eq!(ports.patch_merge_key.as_deref(), Some("containerPort"));
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
        json!({"b.Later": {"type": "object", "properties": {"x": {"type": "string"}}}}).as_object().unwrap(),
    );
    assert_eq!(schema.type_id("b.Later"), Some(later));
    assert_eq!(schema.shape(later), Shape::Struct);
    schema.add_definitions(first.as_object().unwrap());
    assert_eq!(schema.len(), count, "adding again changes nothing");
}

/// A custom resource brings its rules along, and nests without names.
#[test]
fn rules_from_extensions() {
    let mut schema = MergeSchema::new();
    let root = schema.add_definition(
        "example.com.v1.Widget",
        &json!({"type": "object", "properties": {
            "spec": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
                "replicas": {"type": "integer"}}},
            "parts": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name", "side"],
                "x-kubernetes-patch-strategy": "merge,retainKeys",
                "x-kubernetes-patch-merge-key": "name",
                "items": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
                    "name": {"type": "string"}, "side": {"type": "string", "default": "left"}}}},
            "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "sets": {"type": "object", "additionalProperties": {
                "type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}},
            "lists": {"type": "object", "additionalProperties": {
                "type": "array", "items": {"type": "string"}}}}}),
    );
    let field = |name: &str| schema.field(root, name).unwrap();
    assert_eq!(schema.map_type(field("spec")), MapType::Atomic);
    assert!(schema.field(field("spec").type_id, "replicas").is_some());
    let parts = field("parts");
    assert_eq!(schema.list_type(parts), ListType::Map);
    assert!(parts.rule.list_map_keys.iter().eq(["name", "side"]));
    assert_eq!(parts.rule.patch_strategy_extension(), Some("merge,retainKeys"));
    assert_eq!(parts.rule.patch_merge_key.as_deref(), Some("name"));
    let Shape::List(part) = schema.shape(parts.type_id) else { panic!() };
    assert_eq!(schema.type_map_type(part), MapType::Atomic);
    assert_eq!(schema.list_map_key_default(part, "side").as_deref(), Some(&json!("left")));
    assert_eq!(schema.list_map_key_default(part, "name"), None);
    assert_eq!(schema.shape(field("raw").type_id), Shape::Untyped);
    assert!(schema.preserves_unknown_fields(field("raw").type_id));
    assert!(!schema.preserves_unknown_fields(root));
    let Shape::Map(set) = schema.shape(field("sets").type_id) else { panic!() };
    assert_eq!(schema.type_rule(set).list_type, Some(ListType::Set));
    let Shape::Map(list) = schema.shape(field("lists").type_id) else { panic!() };
    assert_eq!(schema.type_rule(list).list_type, None);
    // What is written out can be read in.
    for (name, fields) in all_rules() {
        for (field, rule) in fields {
            let extensions: Map<String, Value> =
                rule.extensions().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            assert_eq!(&*FieldRule::from_extensions(&Value::Object(extensions)), rule, "{name}.{field}");
        }
    }
}
