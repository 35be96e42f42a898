//! The merge schema over the real types.

mod common;

use common::definitions;
use serde_json::{Value, json};
use skep_patch::schema::{ListType, MapType, MergeSchema, Shape, Strategy, all_rules, atomic_types};
use skep_patch::strategic;

fn schema() -> MergeSchema {
    let mut schema = MergeSchema::new();
    schema.add_definitions(&definitions());
    schema
}

/// Bytes, which are a list in Go and declared as one, and a string in JSON.
const BYTES: &[(&str, &str)] =
    &[("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec", "caBundle")];

#[test]
fn every_rule_is_about_a_real_field_of_the_right_shape() {
    let schema = schema();
    let mut wrong = Vec::new();
    for (name, fields) in all_rules() {
        let Some(id) = schema.type_id(name) else {
            wrong.push(format!("{name} is unknown"));
            continue;
        };
        for (field, rule) in fields {
            let Some(found) = schema.field(id, field) else {
                wrong.push(format!("{name}.{field} is unknown"));
                continue;
            };
            assert_eq!(&*found.rule, rule);
            let shape = schema.shape(found.type_id);
            let is_list = matches!(shape, Shape::List(_));
            if is_list != rule.list_type.is_some() && !BYTES.contains(&(name, field)) {
                wrong.push(format!("{name}.{field} is {shape:?} and has list type {:?}", rule.list_type));
            }
            if let Shape::List(element) = shape {
                let keys = rule.list_map_keys.iter().chain(rule.patch_merge_key.as_deref());
                for key in keys.filter(|_| schema.shape(element) == Shape::Struct) {
                    if schema.field(element, key).is_none() {
                        wrong.push(format!("{name}.{field}: elements have no {key}"));
                    }
                }
            }
        }
    }
    for name in atomic_types() {
        match schema.type_id(name) {
            Some(id) => assert_eq!(schema.type_map_type(id), MapType::Atomic),
            None => wrong.push(format!("{name} is unknown")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_reference_is_resolved() {
    let definitions = definitions();
    let schema = schema();
    let mut open = Vec::new();
    for name in definitions.keys() {
        let id = schema.type_id(name).unwrap();
        for field in schema.fields(id) {
            let mut at = field.type_id;
            while let Shape::List(next) | Shape::Map(next) = schema.shape(at) {
                at = next;
            }
            if schema.shape(at) == Shape::Untyped && schema.type_id(schema.name(at)).is_none() {
                open.push(format!("{name}.{}", field.name));
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn pods_as_they_are_patched() {
    let schema = schema();
    let pod = schema.type_id("io.k8s.api.core.v1.Pod").unwrap();
    let spec = schema.field(pod, "spec").unwrap();
    let containers = schema.field(spec.type_id, "containers").unwrap();
    assert_eq!(containers.rule.list_type, Some(ListType::Map));
    assert_eq!(containers.rule.strategy, Strategy::Merge);
    let Shape::List(container) = schema.shape(containers.type_id) else { panic!("containers are a list") };
    assert_eq!(schema.short_name(container), "Container");
    let Shape::List(port) = schema.shape(schema.field(container, "ports").unwrap().type_id) else { panic!() };
    assert_eq!(schema.list_map_key_default(port, "protocol").as_deref(), Some(&json!("TCP")));

    let apply = |original: Value, patch: Value| {
        let (Value::Object(original), Value::Object(patch)) = (original, patch) else { panic!() };
        Value::Object(strategic::apply(&schema, pod, original, patch).unwrap())
    };
    // A kubelet's report.
    let got = apply(
        json!({"status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False", "reason": "x"}]}}),
        json!({"metadata": {"uid": "u"}, "status": {
            "$setElementOrder/conditions": [{"type": "Initialized"}, {"type": "Ready"}, {"type": "PodScheduled"}],
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True", "reason": null}],
            "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}}),
    );
    assert_eq!(
        got,
        json!({"status": {"phase": "Running", "conditions": [
            {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"},
            {"type": "PodScheduled", "status": "True"}], "podIPs": [{"ip": "10.0.0.1"}]},
            "metadata": {"uid": "u"}})
    );
    // Tolerations are replaced as a list, volumes are merged and may change their source.
    let got = apply(
        json!({"spec": {"tolerations": [{"key": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}], "volumes": [
            {"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}}),
    );
    assert_eq!(
        got,
        json!({"spec": {"tolerations": [{"key": "b"}], "volumes": [{"name": "v", "configMap": {"name": "c"}}]}})
    );
}

#[test]
fn shapes_of_special_types() {
    let schema = schema();
    for (name, want) in [
        ("io.k8s.apimachinery.pkg.api.resource.Quantity", Shape::Scalar),
        ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", Shape::Scalar),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", Shape::Scalar),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", Shape::Scalar),
        ("io.k8s.apimachinery.pkg.runtime.RawExtension", Shape::Untyped),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", Shape::Untyped),
        ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", Shape::Untyped),
        ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", Shape::Untyped),
        ("io.k8s.api.core.v1.Pod", Shape::Struct),
    ] {
        assert_eq!(schema.type_id(name).map(|id| schema.shape(id)), Some(want), "{name}");
    }
}
