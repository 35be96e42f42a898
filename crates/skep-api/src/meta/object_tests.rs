use super::*;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::json;

use crate::kind::NameRule;

fn meta(json: serde_json::Value) -> ObjectMeta {
    serde_json::from_value(json).unwrap()
}

fn namespaced() -> KindInfo {
    KindInfo::of::<ConfigMap>()
}

fn on_create(meta: &ObjectMeta, info: &KindInfo) -> String {
    let mut errors = Errors::new();
    validate_object_meta(meta, info, &mut errors);
    validate_finalizer_names(meta, &mut errors);
    errors.to_string()
}

fn on_update(new: &ObjectMeta, old: &ObjectMeta) -> String {
    let mut errors = Errors::new();
    validate_object_meta_update(new, old, &mut errors);
    errors.to_string()
}

/// The object with some fields replaced.
fn with(base: &serde_json::Value, change: serde_json::Value) -> ObjectMeta {
    let mut merged = base.clone();
    for (key, value) in change.as_object().unwrap() {
        merged[key] = value.clone();
    }
    meta(merged)
}

#[test]
fn creation() {
    let good = json!({
        "name": "a.b", "generateName": "a-", "namespace": "default", "generation": 0,
        "labels": {"a": "b", "x.y/z": ""}, "annotations": {"A/b": "any thing", "x": ""},
        "finalizers": ["orphan", "a.b/c"],
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true},
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2"},
        ],
        "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsType": "FieldsV1"}],
    });
    assert_eq!(on_create(&meta(good.clone()), &namespaced()), "[]");
    let event = r#"{"apiVersion":"v1","kind":"Event","name":"n","uid":"u"}"#;
    let two = concat!(
        r#"[{"apiVersion":"v1","kind":"A","name":"a","uid":"1","controller":true},"#,
        r#"{"apiVersion":"v1","kind":"B","name":"b","uid":"2","controller":true,"blockOwnerDeletion":false}]"#
    );
    let table = [
        (json!({"name": null}), "metadata.name: Required value: name or generateName is required".to_owned()),
        (json!({"name": "A"}), r#"metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain"#.into()),
        (
            json!({"generateName": "A-b-"}),
            r#"metadata.generateName: Invalid value: "A-b-": a lowercase RFC 1123 subdomain"#.into(),
        ),
        (json!({"namespace": ""}), "metadata.namespace: Required value".into()),
        (
            json!({"namespace": "a.b"}),
            r#"metadata.namespace: Invalid value: "a.b": must not contain dots"#.into(),
        ),
        (
            json!({"generation": -1}),
            "metadata.generation: Invalid value: -1: must be greater than or equal to 0".into(),
        ),
        (json!({"labels": {"-": ""}}), r#"metadata.labels: Invalid value: "-": name part must consist"#.into()),
        (json!({"labels": {"a": "-"}}), r#"metadata.labels: Invalid value: "-": a valid label must be"#.into()),
        (
            json!({"annotations": {"a b": ""}}),
            r#"metadata.annotations: Invalid value: "a b": name part must consist"#.into(),
        ),
        (
            json!({"annotations": {"a": "x".repeat(256 * 1024)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes".into(),
        ),
        (
            json!({"finalizers": ["a b"]}),
            r#"[metadata.finalizers: Invalid value: "a b": name part must consist"#.into(),
        ),
        (
            json!({"finalizers": ["mine"]}),
            r#"metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified"#.into(),
        ),
        (
            json!({"finalizers": ["orphan", "foregroundDeletion"]}),
            r#"metadata.finalizers: Invalid value: ["orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set"#.into(),
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "a/b/c", "kind": "", "name": "", "uid": ""}]}),
            concat!(
                r#"[metadata.ownerReferences.apiVersion: Invalid value: "a/b/c": version must not be empty, "#,
                r#"metadata.ownerReferences.kind: Invalid value: "": must not be empty, "#,
                r#"metadata.ownerReferences.name: Invalid value: "": must not be empty, "#,
                r#"metadata.ownerReferences.uid: Invalid value: "": must not be empty]"#
            )
            .into(),
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "n", "uid": "u"}]}),
            format!("metadata.ownerReferences: Invalid value: {event}: /v1, Kind=Event is disallowed from being an owner"),
        ),
        (
            json!({"ownerReferences": serde_json::from_str::<serde_json::Value>(two).unwrap()}),
            format!("metadata.ownerReferences: Invalid value: {two}: Only one reference can have Controller set to true. Found \"true\" in references for A/a and B/b"),
        ),
        (
            json!({"managedFields": [{"operation": "Delete"}]}),
            r#"metadata.managedFields[0].operation: Invalid value: "Delete": must be `Apply` or `Update`"#.into(),
        ),
        (
            json!({"managedFields": [{"operation": "Apply", "fieldsType": "V2"}]}),
            r#"metadata.managedFields[0].fieldsType: Invalid value: "V2": must be `FieldsV1`"#.into(),
        ),
        (
            json!({"managedFields": [{"operation": "Apply", "manager": "a\u{7}"}]}),
            r#"metadata.managedFields[0].manager: Invalid value: "a"#.into(),
        ),
        (
            json!({"managedFields": [{"operation": "Apply", "manager": "m".repeat(129)}]}),
            "metadata.managedFields[0].manager: Too long: may not be more than 128 bytes".into(),
        ),
        (
            json!({"managedFields": [{"operation": "Apply", "subresource": "s".repeat(257)}]}),
            "metadata.managedFields[0].subresource: Too long: may not be more than 256 bytes".into(),
        ),
    ];
    for (change, want) in table {
        let errors = on_create(&with(&good, change.clone()), &namespaced());
        assert!(errors.starts_with(&want), "{change}\n{errors}\n{want}");
    }
}

#[test]
fn scope_and_name_rule_are_the_kinds() {
    let cluster = KindInfo::of::<Namespace>();
    assert_eq!(on_create(&meta(json!({"name": "a"})), &cluster), "[]");
    assert_eq!(
        on_create(&meta(json!({"name": "a", "namespace": "b"})), &cluster),
        "metadata.namespace: Forbidden: not allowed on this type"
    );
    let named = |rule, name: &str| on_create(&meta(json!({"name": name})), &cluster.clone().names(rule));
    assert_eq!(named(NameRule::PathSegment, "system:Any one"), "[]");
    assert_eq!(
        named(NameRule::PathSegment, "a/b"),
        r#"metadata.name: Invalid value: "a/b": may not contain '/'"#
    );
    assert!(named(NameRule::Label, "a.b").contains("must not contain dots"));
    assert!(named(NameRule::Label1035, "0").contains("a DNS-1035 label"));
}

#[test]
fn updates() {
    let old = json!({
        "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "5", "generation": 3,
        "creationTimestamp": "2020-01-01T00:00:00Z", "finalizers": ["a.b/c"],
        "deletionTimestamp": "2021-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5,
    });
    assert_eq!(on_update(&meta(old.clone()), &meta(old.clone())), "[]");
    let table = [
        (
            json!({"resourceVersion": ""}),
            r#"metadata.resourceVersion: Invalid value: "": must be specified for an update"#,
        ),
        (json!({"generation": 2}), "metadata.generation: Invalid value: 2: must not be decremented"),
        (json!({"name": "b"}), r#"metadata.name: Invalid value: "b": field is immutable"#),
        (json!({"namespace": null}), r#"metadata.namespace: Invalid value: "": field is immutable"#),
        (json!({"uid": "v"}), r#"metadata.uid: Invalid value: "v": field is immutable"#),
        (
            json!({"creationTimestamp": "2020-01-01T00:00:01Z"}),
            r#"metadata.creationTimestamp: Invalid value: "2020-01-01T00:00:01Z": field is immutable"#,
        ),
        (
            json!({"deletionTimestamp": null}),
            "metadata.deletionTimestamp: Invalid value: null: field is immutable",
        ),
        (
            json!({"deletionGracePeriodSeconds": 6}),
            "metadata.deletionGracePeriodSeconds: Invalid value: 6: field is immutable",
        ),
        (
            json!({"finalizers": ["z/y", "a.b/c", "b/y"]}),
            r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"b/y", "z/y"}"#,
        ),
        (json!({"labels": {"-": ""}}), r#"metadata.labels: Invalid value: "-": name part must"#),
        (
            json!({"ownerReferences": [{"apiVersion": "", "kind": "K", "name": "n", "uid": "u"}]}),
            r#"metadata.ownerReferences.apiVersion: Invalid value: "": version must not be empty"#,
        ),
    ];
    for (change, want) in table {
        let errors = on_update(&with(&old, change.clone()), &meta(old.clone()));
        assert!(errors.starts_with(want), "{change}: {errors}");
    }
    assert_eq!(on_update(&with(&old, json!({"finalizers": []})), &meta(old.clone())), "[]");
    let alive = with(&old, json!({"deletionTimestamp": null, "deletionGracePeriodSeconds": null}));
    let more = ObjectMeta { finalizers: Some(vec!["z/y".into()]), ..alive.clone() };
    assert_eq!(on_update(&more, &alive), "[]");
}

#[test]
fn printable_is_gos() {
    for c in ['a', ' ', 'é', '中', '́', '€', '~'] {
        assert!(is_printable(c), "{c:?}");
    }
    for c in ['\n', '\u{7f}', '\u{a0}', '\u{200b}', '\u{feff}', '\u{e000}'] {
        assert!(!is_printable(c), "{c:?}");
    }
}

#[test]
fn status_writes_keep_the_metadata() {
    let old = meta(json!({"name": "a", "resourceVersion": "5", "labels": {"a": "b"}, "generation": 2}));
    let mut new = meta(json!({
        "name": "a", "resourceVersion": "6", "generation": 9, "managedFields": [{"operation": "Update"}],
    }));
    keep_metadata(&mut new, &old);
    let want = json!({
        "name": "a", "resourceVersion": "6", "labels": {"a": "b"}, "generation": 2,
        "managedFields": [{"operation": "Update"}],
    });
    assert_eq!(new, meta(want));
}
