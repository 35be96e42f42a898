//! Cases in flow YAML: type, original, patch, and the result or the error.
#![allow(clippy::disallowed_methods, reason = "tests measure time and read files")]

use proptest::prelude::{Just, any, prop, prop_assert_eq, prop_assume, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use serde_json::json;

use super::*;
use crate::Rejection;

fn yaml(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap_or_else(|e| panic!("{e} in test case {text}"))
}

fn object(text: &str) -> Object {
    match yaml(text) {
        Value::Object(map) => map,
        other => panic!("test case {other} is no object"),
    }
}

/// A few types under their real names, so that the real rules apply to them.
fn schema() -> MergeSchema {
    let mut schema = MergeSchema::new();
    let definitions = object(
        "
        io.k8s.api.core.v1.Pod: {type: object, properties: {
            apiVersion: {type: string}, kind: {type: string},
            metadata: {$ref: '#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta'},
            spec: {$ref: '#/$defs/io.k8s.api.core.v1.PodSpec'}}}
        io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta: {type: object, properties: {
            name: {type: string}, generation: {type: integer},
            labels: {type: object, additionalProperties: {type: string}},
            finalizers: {type: array, items: {type: string}},
            managedFields: {type: array, items: {type: object}},
            ownerReferences: {type: array, items:
                {$ref: '#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference'}}}}
        io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference: {type: object, properties: {
            uid: {type: string}, name: {type: string}, controller: {type: boolean}}}
        io.k8s.api.core.v1.PodSpec: {type: object, properties: {
            containers: {type: array, items: {$ref: '#/$defs/io.k8s.api.core.v1.Container'}},
            volumes: {type: array, items: {$ref: '#/$defs/io.k8s.api.core.v1.Volume'}},
            tolerations: {type: array, items: {$ref: '#/$defs/io.k8s.api.core.v1.Toleration'}},
            nodeSelector: {type: object, additionalProperties: {type: string}},
            overhead: {type: object, additionalProperties: {$ref: '#/$defs/q.Quantity'}},
            securityContext: {$ref: '#/$defs/io.k8s.api.core.v1.PodSecurityContext'},
            nodeName: {type: string}, priority: {type: integer}}}
        io.k8s.api.core.v1.PodSecurityContext: {type: object, properties: {
            runAsUser: {type: integer}, supplementalGroups: {type: array, items: {type: integer}}}}
        io.k8s.api.core.v1.Container: {type: object, properties: {
            name: {type: string}, image: {type: string},
            args: {type: array, items: {type: string}},
            env: {type: array, items: {$ref: '#/$defs/io.k8s.api.core.v1.EnvVar'}},
            ports: {type: array, items: {$ref: '#/$defs/io.k8s.api.core.v1.ContainerPort'}}}}
        io.k8s.api.core.v1.ContainerPort: {type: object, properties: {
            containerPort: {type: integer}, protocol: {type: string}, name: {type: string}}}
        io.k8s.api.core.v1.EnvVar: {type: object, properties: {
            name: {type: string}, value: {type: string}}}
        io.k8s.api.core.v1.Toleration: {type: object, properties: {
            key: {type: string}, operator: {type: string}}}
        io.k8s.api.core.v1.Volume: {type: object, properties: {
            name: {type: string},
            emptyDir: {type: object, properties: {medium: {type: string}}},
            hostPath: {$ref: '#/$defs/io.k8s.api.core.v1.HostPathVolumeSource'},
            configMap: {$ref: '#/$defs/io.k8s.api.core.v1.ConfigMapVolumeSource'}}}
        io.k8s.api.core.v1.HostPathVolumeSource: {type: object, properties: {path: {type: string}}}
        io.k8s.api.core.v1.ConfigMapVolumeSource: {type: object, properties: {name: {type: string}}}
        io.k8s.api.networking.v1.IngressSpec: {type: object, properties: {
            defaultBackend: {type: object, properties: {x: {type: string}}}}}
        io.k8s.api.policy.v1.PodDisruptionBudgetSpec: {type: object, properties: {
            selector: {$ref: '#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector'}}}
        io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector: {type: object, properties: {
            matchLabels: {type: object, additionalProperties: {type: string}}}}
        io.k8s.api.apps.v1.ControllerRevision: {type: object, properties: {
            data: {$ref: '#/$defs/io.k8s.apimachinery.pkg.runtime.RawExtension'},
            revision: {type: integer}}}
        io.k8s.apimachinery.pkg.runtime.RawExtension: {type: object}
        x.Schemas: {type: object, properties: {
            properties: {type: object, additionalProperties: {$ref: '#/$defs/x.Schemas'}},
            matrix: {type: array, items: {type: array, items: {type: string}}}}}
        q.Quantity: {x-kubernetes-int-or-string: true}
        ",
    );
    schema.add_definitions(&definitions);
    schema
}

fn type_id(schema: &MergeSchema, short: &str) -> TypeId {
    let prefixes = [
        "io.k8s.api.core.v1",
        "io.k8s.apimachinery.pkg.apis.meta.v1",
        "io.k8s.api.policy.v1",
        "io.k8s.api.apps.v1",
        "x",
    ];
    prefixes.iter().find_map(|p| schema.type_id(&format!("{p}.{short}"))).unwrap()
}

fn run(type_name: &str, original: &str, patch: &str) -> Result<Value, StrategicError> {
    let schema = schema();
    let id = type_id(&schema, type_name);
    apply(&schema, id, object(original), object(patch)).map(Value::Object)
}

#[track_caller]
fn gives(cases: &[(&str, &str, &str, &str)]) {
    for (type_name, original, patch, want) in cases {
        let got = run(type_name, original, patch).unwrap_or_else(|e| panic!("{patch}: {e}"));
        // Compared as text where order matters: inside lists it always does.
        assert_eq!(got, yaml(want), "\n {type_name} {original}\n patched with {patch}");
    }
}

#[track_caller]
fn fails(cases: &[(&str, &str, &str, Rejection, &str)]) {
    for (type_name, original, patch, rejection, want) in cases {
        match run(type_name, original, patch) {
            Ok(got) => panic!("{patch} gave {got}, not the error {want}"),
            Err(e) => {
                assert_eq!(e.to_string(), *want, "for {patch}");
                assert_eq!(e.rejection(), *rejection, "for {patch}");
            }
        }
    }
}

#[test]
fn fields_of_objects() {
    gives(&[
        ("Pod", "{}", "{}", "{}"),
        ("Pod", "{kind: a}", "{}", "{kind: a}"),
        ("Pod", "{}", "{kind: a}", "{kind: a}"),
        ("Pod", "{kind: a, apiVersion: v}", "{kind: b}", "{kind: b, apiVersion: v}"),
        ("Pod", "{kind: a, apiVersion: v}", "{kind: null}", "{apiVersion: v}"),
        ("Pod", "{kind: a}", "{apiVersion: null}", "{kind: a}"),
        // Unknown scalars are for the decoder to find.
        ("Pod", "{kind: a}", "{nope: 1}", "{kind: a, nope: 1}"),
        ("Pod", "{nope: 1}", "{nope: 2}", "{nope: 2}"),
        // Objects merge, and maps by key.
        (
            "ObjectMeta",
            "{labels: {a: x, b: y}}",
            "{labels: {a: z, b: null, c: n, d: null}}",
            "{labels: {a: z, c: n}}",
        ),
        (
            "Pod",
            "{metadata: {name: a}}",
            "{metadata: {generation: 2}}",
            "{metadata: {name: a, generation: 2}}",
        ),
        ("Pod", "{metadata: {name: a}}", "{metadata: null}", "{}"),
        ("Pod", "{metadata: {name: a}}", "{metadata: {}}", "{metadata: {name: a}}"),
        // Nulls in what is new are dropped, but not elements of lists.
        ("Pod", "{}", "{metadata: {name: null, labels: {a: null}}}", "{metadata: {labels: {}}}"),
        ("Pod", "{}", "{x: [null, {a: null, b: [null]}]}", "{x: [null, {b: [null]}]}"),
        // A value of another type takes the place.
        ("Pod", "{metadata: {name: a}}", "{metadata: 5}", "{metadata: 5}"),
        ("Pod", "{metadata: 5}", "{metadata: {name: a, labels: null}}", "{metadata: {name: a}}"),
        ("PodSpec", "{priority: 1}", "{priority: 1.5}", "{priority: 1.5}"),
        ("PodSpec", "{containers: [{name: a}]}", "{containers: {name: b}}", "{containers: {name: b}}"),
        // Declared to be replaced.
        (
            "PodDisruptionBudgetSpec",
            "{selector: {matchLabels: {a: b}}}",
            "{selector: {matchLabels: {c: d}}}",
            "{selector: {matchLabels: {c: d}}}",
        ),
        // Quantities are scalars whatever they are in Go.
        (
            "PodSpec",
            "{overhead: {cpu: 1, memory: 1Gi}}",
            "{overhead: {cpu: '2'}}",
            "{overhead: {cpu: '2', memory: 1Gi}}",
        ),
    ]);
    fails(&[
        (
            "Pod",
            "{nope: {a: 1}}",
            "{nope: {a: 2}}",
            Rejection::Internal,
            "unable to find api field in struct Pod for the json field \"nope\"",
        ),
        (
            "Schemas",
            "{properties: {a: {properties: {}}}}",
            "{properties: {a: {properties: {}}}}",
            Rejection::Internal,
            "merging an object in json but data type is not struct, instead is: map",
        ),
        (
            "ControllerRevision",
            "{data: {spec: {a: 1}}}",
            "{data: {spec: {a: 2}}}",
            Rejection::Internal,
            "unable to find api field in struct RawExtension for the json field \"spec\"",
        ),
    ]);
    gives(&[("ControllerRevision", "{data: {a: 1}}", "{data: {a: 2, b: {}}}", "{data: {a: 2, b: {}}}")]);
}

#[test]
fn object_directives() {
    gives(&[
        (
            "Pod",
            "{metadata: {name: a}}",
            "{metadata: {$patch: replace, generation: 1}}",
            "{metadata: {generation: 1}}",
        ),
        ("Pod", "{metadata: {name: a}}", "{metadata: {$patch: delete, generation: 1}}", "{metadata: {}}"),
        ("Pod", "{kind: a}", "{$patch: replace, apiVersion: b}", "{apiVersion: b}"),
        ("Pod", "{kind: a}", "{$patch: delete}", "{}"),
        // What is replaced is not looked into.
        (
            "Pod",
            "{metadata: {name: a}}",
            "{metadata: {$patch: replace, labels: {x: null}}}",
            "{metadata: {labels: {x: null}}}",
        ),
        // In what is new, a directive takes its object away.
        ("Pod", "{}", "{metadata: {$patch: replace, name: a}}", "{}"),
        ("Pod", "{}", "{metadata: {name: a, labels: {$patch: delete, a: b}}}", "{metadata: {name: a}}"),
        ("Pod", "{metadata: 5}", "{metadata: {$patch: delete}}", "{}"),
        (
            "PodSpec",
            "{}",
            "{containers: [{name: a, $patch: delete}, {name: b}]}",
            "{containers: [{name: b}]}",
        ),
    ]);
    fails(&[
        (
            "Pod",
            "{metadata: {name: a}}",
            "{metadata: {$patch: merge, b: 1}}",
            Rejection::Internal,
            "unknown patch type: merge in map: map[$patch:merge b:1]",
        ),
        (
            "Pod",
            "{}",
            "{$patch: 5}",
            Rejection::Internal,
            "unknown patch type: %!s(int64=5) in map: map[$patch:5]",
        ),
    ]);
}

#[test]
fn retain_keys_directive() {
    let volume = "{name: v, emptyDir: {medium: m}}";
    gives(&[
        (
            "Volume",
            volume,
            "{$retainKeys: [name, hostPath], hostPath: {path: /x}}",
            "{name: v, hostPath: {path: /x}}",
        ),
        ("Volume", volume, "{$retainKeys: [name]}", "{name: v}"),
        ("Volume", volume, "{$retainKeys: []}", "{}"),
        // Deleting and directives need not be retained.
        ("Volume", volume, "{$retainKeys: [name], emptyDir: null}", "{name: v}"),
        (
            "ObjectMeta",
            "{name: a, finalizers: [x, y]}",
            "{$retainKeys: [finalizers], $deleteFromPrimitiveList/finalizers: [x]}",
            "{finalizers: [y]}",
        ),
        (
            "PodSpec",
            "{volumes: [{name: v, emptyDir: {}}, {name: w}]}",
            "{volumes: [{name: v, $retainKeys: [name, configMap], configMap: {name: c}}]}",
            "{volumes: [{name: v, configMap: {name: c}}, {name: w}]}",
        ),
    ]);
    for patch in [
        "{$retainKeys: [name], hostPath: {path: /x}}",
        "{$retainKeys: name}",
        "{$retainKeys: null}",
        "{$retainKeys: [{a: b}]}",
    ] {
        fails(&[("Volume", volume, patch, Rejection::BadRequest, "invalid patch format of retainKeys")]);
    }
}

#[test]
fn lists_that_are_replaced() {
    gives(&[
        ("Container", "{args: [a, b]}", "{args: [c]}", "{args: [c]}"),
        ("Container", "{args: [a, b]}", "{args: []}", "{args: []}"),
        ("Container", "{args: [a, b]}", "{args: null}", "{}"),
        (
            "PodSpec",
            "{tolerations: [{key: a}]}",
            "{tolerations: [{key: b, operator: null}]}",
            "{tolerations: [{key: b, operator: null}]}",
        ),
        // Values can be deleted all the same.
        ("Container", "{args: [a, b, a]}", "{$deleteFromPrimitiveList/args: [a, z]}", "{args: [b]}"),
        // And an order can be given.
        ("Container", "{args: [a, b, c]}", "{$setElementOrder/args: [c, a]}", "{args: [b, c, a]}"),
    ]);
}

#[test]
fn lists_of_scalars_that_merge() {
    gives(&[
        ("ObjectMeta", "{finalizers: [a, b]}", "{finalizers: [c]}", "{finalizers: [c, a, b]}"),
        ("ObjectMeta", "{finalizers: [a, b]}", "{finalizers: [b, a]}", "{finalizers: [b, a]}"),
        ("ObjectMeta", "{finalizers: [a, b, c]}", "{finalizers: [c, d]}", "{finalizers: [a, b, c, d]}"),
        ("ObjectMeta", "{finalizers: [a]}", "{finalizers: [a, a]}", "{finalizers: [a]}"),
        ("ObjectMeta", "{finalizers: [a]}", "{finalizers: []}", "{finalizers: [a]}"),
        ("ObjectMeta", "{finalizers: []}", "{finalizers: []}", "{finalizers: []}"),
        ("ObjectMeta", "{}", "{finalizers: [b, a, b]}", "{finalizers: [b, a, b]}"),
        ("ObjectMeta", "{finalizers: [a]}", "{finalizers: null}", "{}"),
        (
            "ObjectMeta",
            "{finalizers: [a, b]}",
            "{$deleteFromPrimitiveList/finalizers: [a]}",
            "{finalizers: [b]}",
        ),
        ("ObjectMeta", "{finalizers: [a]}", "{$deleteFromPrimitiveList/finalizers: [a]}", "{finalizers: []}"),
        ("ObjectMeta", "{finalizers: [a, b]}", "{$deleteFromPrimitiveList/finalizers: null}", "{}"),
        ("ObjectMeta", "{}", "{$deleteFromPrimitiveList/finalizers: [a]}", "{}"),
        (
            "ObjectMeta",
            "{finalizers: [a]}",
            "{$deleteFromPrimitiveList/finalizers: {x: y}}",
            "{finalizers: [a]}",
        ),
        (
            "ObjectMeta",
            "{finalizers: [a, b]}",
            "{finalizers: [c], $deleteFromPrimitiveList/finalizers: [a]}",
            "{finalizers: [c, b]}",
        ),
        (
            "ObjectMeta",
            "{finalizers: [a, b, c]}",
            "{$setElementOrder/finalizers: [d, b], finalizers: [d], $deleteFromPrimitiveList/finalizers: [a]}",
            "{finalizers: [d, b, c]}",
        ),
        (
            "ObjectMeta",
            "{finalizers: [a, b, c, d]}",
            "{$setElementOrder/finalizers: [d, x, a], finalizers: [x]}",
            "{finalizers: [b, c, d, x, a]}",
        ),
        (
            "ObjectMeta",
            "{finalizers: [a, b]}",
            "{$setElementOrder/finalizers: [b, a]}",
            "{finalizers: [b, a]}",
        ),
        ("ObjectMeta", "{}", "{$setElementOrder/finalizers: [b, a]}", "{}"),
        (
            "ObjectMeta",
            "{}",
            "{$setElementOrder/finalizers: [b, a], finalizers: [b, a]}",
            "{finalizers: [b, a]}",
        ),
    ]);
    fails(&[
        (
            "ObjectMeta",
            "{finalizers: [a]}",
            "{finalizers: [1]}",
            Rejection::Internal,
            "list element types are not identical: [[a] [1]]",
        ),
        (
            "ObjectMeta",
            "{finalizers: [a]}",
            "{finalizers: [{x: y}]}",
            Rejection::Internal,
            "list element types are not identical: [[a] [map[x:y]]]",
        ),
        (
            "ObjectMeta",
            "{finalizers: []}",
            "{finalizers: [[a]]}",
            Rejection::Unprocessable,
            "lists of lists are not supported",
        ),
        (
            "ObjectMeta",
            "{finalizers: []}",
            "{finalizers: [{a: b}]}",
            Rejection::Internal,
            "cannot merge lists without merge key for string",
        ),
        (
            "ObjectMeta",
            "{finalizers: [a]}",
            "{finalizers: [null]}",
            Rejection::Internal,
            "list element types are not identical: [[a] [<nil>]]",
        ),
        (
            "ObjectMeta",
            "{finalizers: [a]}",
            "{$deleteFromPrimitiveListfinalizers: [a]}",
            Rejection::BadRequest,
            "invalid patch format of primitive list",
        ),
    ]);
}

#[test]
fn lists_of_objects_that_merge() {
    let two = "{containers: [{name: a, image: x}, {name: b, image: y}]}";
    gives(&[
        (
            "PodSpec",
            two,
            "{containers: [{name: b, image: z}]}",
            "{containers: [{name: a, image: x}, {name: b, image: z}]}",
        ),
        (
            "PodSpec",
            two,
            "{containers: [{name: c}]}",
            "{containers: [{name: c}, {name: a, image: x}, {name: b, image: y}]}",
        ),
        // New ones stand before those that only the server has.
        (
            "PodSpec",
            two,
            "{containers: [{name: c}, {name: a}]}",
            "{containers: [{name: c}, {name: a, image: x}, {name: b, image: y}]}",
        ),
        ("PodSpec", two, "{containers: []}", two),
        (
            "PodSpec",
            two,
            "{containers: [{name: a, image: null}]}",
            "{containers: [{name: a}, {name: b, image: y}]}",
        ),
        // A new element keeps its nulls: the decoder drops them.
        (
            "PodSpec",
            "{containers: [{name: a}]}",
            "{containers: [{name: b, image: null}]}",
            "{containers: [{name: b, image: null}, {name: a}]}",
        ),
        ("PodSpec", two, "{containers: [{name: a, $patch: delete}]}", "{containers: [{name: b, image: y}]}"),
        ("PodSpec", two, "{containers: [{name: z, $patch: delete}]}", two),
        (
            "PodSpec",
            "{containers: [{name: a, image: x}, {name: a}, {name: b}]}",
            "{containers: [{name: a, $patch: delete}]}",
            "{containers: [{name: b}]}",
        ),
        ("PodSpec", two, "{containers: [{name: c}, {$patch: replace}]}", "{containers: [{name: c}]}"),
        ("PodSpec", two, "{containers: [{$patch: replace}]}", "{containers: []}"),
        (
            "PodSpec",
            two,
            "{containers: [{name: c}, {name: a, $patch: delete}, {name: b, image: n}]}",
            "{containers: [{name: c}, {name: b, image: n}]}",
        ),
        // Deleting and adding the same element replaces it.
        (
            "PodSpec",
            two,
            "{containers: [{name: a, $patch: delete}, {name: a}]}",
            "{containers: [{name: a}, {name: b, image: y}]}",
        ),
        // The same new element twice merges with itself.
        (
            "PodSpec",
            "{containers: [{name: a}]}",
            "{containers: [{name: b, image: x}, {name: b, args: [c]}]}",
            "{containers: [{name: b, image: x, args: [c]}, {name: a}]}",
        ),
        // The key is a number here; and the merge key, not both keys of the list, decides.
        (
            "Container",
            "{ports: [{containerPort: 80, protocol: TCP}, {containerPort: 80, protocol: UDP}]}",
            "{ports: [{containerPort: 80, protocol: UDP, name: dns}]}",
            "{ports: [{containerPort: 80, protocol: UDP, name: dns}, {containerPort: 80, protocol: UDP}]}",
        ),
        // Nested.
        (
            "PodSpec",
            "{containers: [{name: a, env: [{name: X, value: '1'}, {name: Y, value: '2'}]}]}",
            "{containers: [{name: a, env: [{name: Y, $patch: delete}, {name: Z, value: '3'}]}]}",
            "{containers: [{name: a, env: [{name: Z, value: '3'}, {name: X, value: '1'}]}]}",
        ),
        (
            "ObjectMeta",
            "{ownerReferences: [{uid: u, name: n}]}",
            "{ownerReferences: [{uid: u, controller: true}]}",
            "{ownerReferences: [{uid: u, name: n, controller: true}]}",
        ),
    ]);
    fails(&[
        (
            "PodSpec",
            two,
            "{containers: [{image: z}]}",
            Rejection::Internal,
            "map: map[image:z] does not contain declared merge key: name",
        ),
        (
            "PodSpec",
            two,
            "{containers: [{image: z, $patch: delete}]}",
            Rejection::Internal,
            "map: map[$patch:delete image:z] does not contain declared merge key: name",
        ),
        (
            "PodSpec",
            "{containers: [{image: z}]}",
            "{containers: [{name: a}]}",
            Rejection::Internal,
            "map: map[image:z] does not contain declared merge key: name",
        ),
        (
            "PodSpec",
            two,
            "{containers: [{name: a, $patch: merge}]}",
            Rejection::Internal,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            "PodSpec",
            two,
            "{containers: [{name: a, $patch: junk}]}",
            Rejection::Internal,
            "unknown patch type: junk in map: map[$patch:junk name:a]",
        ),
        (
            "PodSpec",
            two,
            "{containers: [{name: {}}]}",
            Rejection::Unprocessable,
            "list elements can not be compared by values of type map[string]interface {}",
        ),
        (
            "PodSpec",
            "{containers: []}",
            "{containers: [a]}",
            Rejection::Internal,
            "expected a map[string]interface {}, but received a string",
        ),
        (
            "PodSpec",
            "{tolerations: [{key: a}]}",
            "{$deleteFromPrimitiveList/tolerations: [{key: a}]}",
            Rejection::Internal,
            "cannot merge lists without merge key for struct",
        ),
    ]);
}

#[test]
fn order_of_merged_lists() {
    gives(&[
        (
            "PodSpec",
            "{containers: [{name: a}, {name: b}, {name: c}]}",
            "{$setElementOrder/containers: [{name: c}, {name: a}]}",
            "{containers: [{name: b}, {name: c}, {name: a}]}",
        ),
        (
            "PodSpec",
            "{containers: [{name: a, image: x}, {name: b}]}",
            "{$setElementOrder/containers: [{name: n}, {name: a}], containers: [{name: n}, {name: a, image: y}]}",
            "{containers: [{name: n}, {name: a, image: y}, {name: b}]}",
        ),
        // What is deleted need not be in the order.
        (
            "PodSpec",
            "{containers: [{name: a}, {name: b}, {name: c}]}",
            "{$setElementOrder/containers: [{name: c}, {name: a}], containers: [{name: b, $patch: delete}]}",
            "{containers: [{name: c}, {name: a}]}",
        ),
        // The server's own elements are woven in by their place among the others.
        (
            "PodSpec",
            "{containers: [{name: s1}, {name: a}, {name: s2}, {name: b}, {name: s3}]}",
            "{$setElementOrder/containers: [{name: a}, {name: n}, {name: b}], containers: [{name: n}]}",
            "{containers: [{name: s1}, {name: a}, {name: n}, {name: s2}, {name: b}, {name: s3}]}",
        ),
        ("PodSpec", "{}", "{$setElementOrder/containers: [{name: a}]}", "{}"),
        (
            "PodSpec",
            "{}",
            "{$setElementOrder/containers: [{name: b}, {name: a}], containers: [{name: b}, {name: a}, {name: z, $patch: delete}]}",
            "{containers: [{name: b}, {name: a}]}",
        ),
        // With an empty order nothing of the patch is placed.
        (
            "PodSpec",
            "{containers: [{name: a}, {name: b}]}",
            "{$setElementOrder/containers: [], containers: [{name: n}]}",
            "{containers: [{name: a}, {name: b}, {name: n}]}",
        ),
        (
            "PodSpec",
            "{containers: [{name: x, env: [{name: A}, {name: B}]}]}",
            "{$setElementOrder/containers: [{name: x}], containers: [{name: x, $setElementOrder/env: [{name: B}, {name: A}]}]}",
            "{containers: [{name: x, env: [{name: B}, {name: A}]}]}",
        ),
        // In an object that the patch brings in, the directive is not understood and stays.
        (
            "Pod",
            "{}",
            "{spec: {$setElementOrder/containers: [{name: a}], containers: [{name: a}]}}",
            "{spec: {$setElementOrder/containers: [{name: a}], containers: [{name: a}]}}",
        ),
        // After a deletion, new elements count as ones that the server had, at its end.
        (
            "PodSpec",
            "{containers: [{name: a}, {name: d}]}",
            "{$setElementOrder/containers: [{name: b}, {name: c}], containers: [{name: b}, {name: c}, {name: a, $patch: delete}]}",
            "{containers: [{name: d}, {name: b}, {name: c}]}",
        ),
        (
            "PodSpec",
            "{containers: [{name: a}, {name: b}, {name: s}, {name: t}]}",
            "{$setElementOrder/containers: [{name: n}, {name: m}], containers: [{name: n}, {name: m}, {name: b, $patch: delete}, {name: a, $patch: delete}]}",
            "{containers: [{name: s}, {name: t}, {name: n}, {name: m}]}",
        ),
        (
            "PodSpec",
            "{containers: [{name: a}, {name: s}, {name: b}]}",
            "{$setElementOrder/containers: [{name: b}, {name: n}], containers: [{name: a, $patch: delete}, {name: b, $patch: delete}, {name: b}, {name: n}]}",
            "{containers: [{name: s}, {name: b}, {name: n}]}",
        ),
        // The extra entries of the order are harmless.
        (
            "PodSpec",
            "{containers: [{name: a}]}",
            "{$setElementOrder/containers: [{name: q}, {name: a, image: z}, {name: r}]}",
            "{containers: [{name: a}]}",
        ),
    ]);
    let one = "{containers: [{name: a}]}";
    fails(&[
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: [{name: a}, {name: b}], containers: [{name: b}, {name: a}]}",
            Rejection::Internal,
            "The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] map[name:b]]\n",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: [{name: a}], containers: [{name: b}]}",
            Rejection::Internal,
            "The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: 5}",
            Rejection::Internal,
            "expected a []interface {}, but received a int64",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: null}",
            Rejection::Internal,
            "expected a []interface {}, but received a %!s(<nil>)",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: [{name: a}], containers: null}",
            Rejection::Internal,
            "expected a []interface {}, but received a %!s(<nil>)",
        ),
        (
            "PodSpec",
            "{nodeName: x}",
            "{$setElementOrder/nodeName: [a]}",
            Rejection::Internal,
            "expected a []interface {}, but received a string",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrderX: []}",
            Rejection::BadRequest,
            "invalid patch format of setElementOrder list",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/nope: [a]}",
            Rejection::Internal,
            "unable to find api field in struct PodSpec for the json field \"nope\"",
        ),
        (
            "PodSpec",
            "{}",
            "{$setElementOrder/nodeSelector: [a]}",
            Rejection::Internal,
            "expected slice or array type, but got: struct",
        ),
        ("Schemas", "{}", "{$setElementOrder/matrix: []}", Rejection::Internal, "unexpected slice of slice"),
        (
            "PodSpec",
            "{containers: []}",
            "{$setElementOrder/containers: []}",
            Rejection::Internal,
            "no elements in any of the given slices",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: [a]}",
            Rejection::Internal,
            "value for key 0 is not a map",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: [{name: a}, b]}",
            Rejection::Internal,
            "expected a map[string]interface {}, but received a string",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: [{image: a}]}",
            Rejection::Internal,
            "map: map[image:a] does not contain declared merge key: name",
        ),
        (
            "PodSpec",
            one,
            "{$setElementOrder/containers: [{name: a}], containers: [x]}",
            Rejection::Internal,
            "expected a map[string]interface {}, but received a string",
        ),
        (
            "PodSpec",
            "{tolerations: [{key: a}]}",
            "{$setElementOrder/tolerations: [{key: a}]}",
            Rejection::Unprocessable,
            "list elements can not be compared by values of type map[string]interface {}",
        ),
    ]);
}

#[test]
fn nesting_is_bounded() {
    let schema = schema();
    let id = type_id(&schema, "Pod");
    let mut deep = json!({});
    for _ in 0..MAX_NESTING_DEPTH {
        deep = json!({"x": deep});
    }
    let Value::Object(patch) = deep else { unreachable!() };
    assert_eq!(apply(&schema, id, Object::new(), patch), Err(StrategicError::TooDeep));
}

#[test]
fn long_lists_merge_in_linear_time() {
    const LEN: usize = 40_000;
    let schema = schema();
    let containers = |from: usize, to: usize, image: &str| -> Vec<Value> {
        (from..to).map(|i| json!({"name": format!("c{i}"), "image": image})).collect()
    };
    let order: Vec<Value> = (0..LEN).rev().map(|i| json!({"name": format!("c{i}")})).collect();
    let mut labels = Object::new();
    let mut unlabel = Object::new();
    for i in 0..LEN {
        labels.insert(format!("l{i}"), json!("v"));
        unlabel.insert(format!("l{i}"), if i % 2 == 0 { Value::Null } else { json!("w") });
    }
    let original = json!({"spec": {"containers": containers(0, LEN, "x")}, "metadata": {"labels": labels}});
    let mut changes = containers(LEN / 2, LEN, "y");
    changes.reverse();
    changes.extend((0..LEN / 4).map(|i| json!({"name": format!("c{i}"), "$patch": "delete"})));
    let patch = json!({
        "spec": {"$setElementOrder/containers": order, "containers": changes},
        "metadata": {"labels": unlabel}});
    let started = std::time::Instant::now();
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else { unreachable!() };
    let got = Value::Object(apply(&schema, type_id(&schema, "Pod"), original, patch).unwrap());
    let elapsed = started.elapsed();
    assert_eq!(got["metadata"]["labels"].as_object().unwrap().len(), LEN / 2);
    let merged = got["spec"]["containers"].as_array().unwrap();
    assert_eq!(merged.len(), LEN - LEN / 4);
    assert_eq!(merged[0], json!({"name": format!("c{}", LEN - 1), "image": "y"}));
    assert_eq!(merged[merged.len() - 1], json!({"name": format!("c{}", LEN / 4), "image": "x"}));
    // Quadratic work would take minutes.
    assert!(elapsed.as_secs() < 120, "{elapsed:?}");
}

/// JSON that often happens to be a patch: fields of the type, directives, and junk.
fn arbitrary_patch() -> impl AnyJson {
    let key = prop::sample::select(vec![
        "metadata",
        "spec",
        "labels",
        "finalizers",
        "ownerReferences",
        "uid",
        "containers",
        "name",
        "env",
        "args",
        "ports",
        "containerPort",
        "volumes",
        "tolerations",
        "x",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$setElementOrder/args",
        "$deleteFromPrimitiveList/finalizers",
        "$deleteFromPrimitiveList/containers",
        "$setElementOrder",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..2).prop_map(Value::from),
        (-2.0..2.0f64).prop_map(Value::from),
        prop::sample::select(vec!["a", "b", "c", "delete", "replace", "merge", "name", "spec"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

/// A plausible pod, without directives.
fn pod() -> impl AnyJson {
    let name = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let labels = prop::collection::btree_map(name(), name(), 0..4);
    let env = prop::collection::btree_map(name(), name(), 0..4);
    let containers = prop::collection::btree_map(name(), (name(), env), 0..4);
    let finalizers = prop::collection::btree_set(name(), 0..4);
    (labels, containers, finalizers, prop::option::of(name())).prop_map(
        |(labels, containers, finalizers, node)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, env))| {
                    let env: Vec<Value> =
                        env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                    json!({"name": name, "image": image, "env": env})
                })
                .collect();
            let mut pod = json!({
            "metadata": {"labels": labels, "finalizers": finalizers},
            "spec": {"containers": containers}});
            if let Some(node) = node {
                pod["spec"]["nodeName"] = node.into();
            }
            pod
        },
    )
}

/// A proptest strategy; its own name is taken by the merge strategy.
trait AnyJson: proptest::strategy::Strategy<Value = Value> {}
impl<T: proptest::strategy::Strategy<Value = Value>> AnyJson for T {}

fn as_object(value: Value) -> Object {
    match value {
        Value::Object(map) => map,
        other => [("x".to_owned(), other)].into_iter().collect(),
    }
}

proptest! {
    #[test]
    fn never_panics(original in arbitrary_patch(), patch in arbitrary_patch(), name in prop::sample::select(vec!["Pod", "PodSpec", "ObjectMeta", "Container", "Schemas", "ControllerRevision"])) {
        let schema = schema();
        let id = type_id(&schema, name);
        let _ = apply(&schema, id, as_object(original), as_object(patch));
    }

    #[test]
    fn an_empty_patch_changes_nothing(original in pod()) {
        let schema = schema();
        let id = type_id(&schema, "Pod");
        let got = apply(&schema, id, as_object(original.clone()), Object::new()).unwrap();
        prop_assert_eq!(Value::Object(got), original);
    }

    #[test]
    fn patching_twice_is_patching_once(original in pod(), patch in pod()) {
        let schema = schema();
        let id = type_id(&schema, "Pod");
        let patch = as_object(patch);
        let once = apply(&schema, id, as_object(original), patch.clone()).unwrap();
        let twice = apply(&schema, id, once.clone(), patch).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn an_object_is_its_own_patch(pod in pod()) {
        let schema = schema();
        let id = type_id(&schema, "Pod");
        let got = apply(&schema, id, as_object(pod.clone()), as_object(pod.clone())).unwrap();
        prop_assert_eq!(Value::Object(got), pod);
    }

    #[test]
    fn arbitrary_order_holds(order in Just(vec!["a", "b", "c", "d"]).prop_shuffle(), pod in pod()) {
        let schema = schema();
        let id = type_id(&schema, "Pod");
        prop_assume!(!pod["spec"]["containers"].as_array().unwrap().is_empty());
        let elements: Vec<Value> = order.iter().map(|n| json!({"name": n})).collect();
        let patch = as_object(json!({"spec": {"$setElementOrder/containers": elements}}));
        let got = apply(&schema, id, as_object(pod), patch).unwrap();
        let names: Vec<&str> =
            got["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        let wanted: Vec<&str> = order.into_iter().filter(|n| names.contains(n)).collect();
        prop_assert_eq!(names, wanted);
    }
}
