#![allow(clippy::disallowed_methods, reason = "tests measure time and read files")]
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn run(document: &Value, patch: Value) -> Result<Value, JsonPatchError> {
    JsonPatch::from_value(patch, false).unwrap().apply(document.clone())
}

#[track_caller]
fn gives(document: &Value, patch: Value, want: &Value) {
    let text = patch.to_string();
    match run(document, patch) {
        Ok(got) => assert_eq!(got, *want, "{document} patched with {text}"),
        Err(e) => panic!("{text}: {e}"),
    }
}

#[track_caller]
fn fails(document: &Value, patch: Value, want: &str) {
    let text = patch.to_string();
    match run(document, patch) {
        Ok(got) => panic!("{text} gave {got}, not {want}"),
        Err(e) => {
            assert_eq!(e.to_string(), want, "{document} patched with {text}");
            assert_eq!(e.rejection().http_status(), 422);
        }
    }
}

#[test]
fn add() {
    let doc = json!({"a": {"b": [1, 2]}, "n": null, "s": "x"});
    for (op, want) in [
        (json!({"path": "/c", "value": 1}), json!({"a": {"b": [1, 2]}, "n": null, "s": "x", "c": 1})),
        (json!({"path": "/s", "value": [1]}), json!({"a": {"b": [1, 2]}, "n": null, "s": [1]})),
        (json!({"path": "/a/b/-", "value": 3}), json!({"a": {"b": [1, 2, 3]}, "n": null, "s": "x"})),
        (json!({"path": "/a/b/0", "value": 3}), json!({"a": {"b": [3, 1, 2]}, "n": null, "s": "x"})),
        (json!({"path": "/a/b/2", "value": 3}), json!({"a": {"b": [1, 2, 3]}, "n": null, "s": "x"})),
        (json!({"path": "/a/b/-1", "value": 3}), json!({"a": {"b": [1, 2, 3]}, "n": null, "s": "x"})),
        (json!({"path": "/a/b/-3", "value": 3}), json!({"a": {"b": [3, 1, 2]}, "n": null, "s": "x"})),
        (json!({"path": "/a/b/+01", "value": 3}), json!({"a": {"b": [1, 3, 2]}, "n": null, "s": "x"})),
        (
            json!({"path": "/a~1b~0c~01", "value": 3}),
            json!({"a": {"b": [1, 2]}, "n": null, "s": "x", "a/b~c~1": 3}),
        ),
        (json!({"path": "/x~2~", "value": 3}), json!({"a": {"b": [1, 2]}, "n": null, "s": "x", "x~2~": 3})),
        (json!({"path": "/", "value": 3}), json!({"a": {"b": [1, 2]}, "n": null, "s": "x", "": 3})),
        (json!({"path": "ignored/s", "value": 3}), json!({"a": {"b": [1, 2]}, "n": null, "s": 3})),
        (json!({"path": "/s"}), json!({"a": {"b": [1, 2]}, "n": null, "s": null})),
    ] {
        let mut op = op;
        op["op"] = "add".into();
        gives(&doc, json!([op]), &want);
    }
    for (path, want) in [
        (json!("/x/y"), "add operation does not apply: doc is missing path: \"/x/y\": missing value"),
        (json!("/n/y"), "add operation does not apply: doc is missing path: \"/n/y\": missing value"),
        (json!("/s/y"), "add operation does not apply: doc is missing path: \"/s/y\": missing value"),
        (json!(""), "add operation does not apply: doc is missing path: \"\": missing value"),
        (json!("a"), "add operation does not apply: doc is missing path: \"a\": missing value"),
        (json!(5), "add operation failed to decode path: missing value"),
        (json!(null), "add operation failed to decode path: missing value"),
        (
            json!("/a/b/3"),
            "error in add for path: '/a/b/3': Unable to access invalid index: 3: invalid index referenced",
        ),
        (
            json!("/a/b/-4"),
            "error in add for path: '/a/b/-4': Unable to access invalid index: -4: invalid index referenced",
        ),
        (
            json!("/a/b/x"),
            "error in add for path: '/a/b/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            json!("/a/b/99999999999999999999"),
            "error in add for path: '/a/b/99999999999999999999': value was not a proper array index: '99999999999999999999': strconv.Atoi: parsing \"99999999999999999999\": value out of range",
        ),
    ] {
        fails(&doc, json!([{"op": "add", "path": path, "value": 1}]), want);
    }
}

#[test]
fn remove() {
    let doc = json!({"a": [1, 2, 3], "b": null, "c": 1});
    gives(&doc, json!([{"op": "remove", "path": "/c"}]), &json!({"a": [1, 2, 3], "b": null}));
    gives(&doc, json!([{"op": "remove", "path": "/b"}]), &json!({"a": [1, 2, 3], "c": 1}));
    gives(&doc, json!([{"op": "remove", "path": "/a/0"}]), &json!({"a": [2, 3], "b": null, "c": 1}));
    gives(&doc, json!([{"op": "remove", "path": "/a/-1"}]), &json!({"a": [1, 2], "b": null, "c": 1}));
    for (path, want) in [
        ("/x", "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value"),
        ("/x/y", "remove operation does not apply: doc is missing path: \"/x/y\": missing value"),
        (
            "/a/3",
            "error in remove for path: '/a/3': Unable to access invalid index: 3: invalid index referenced",
        ),
        ("/a/-", "error in remove for path: '/a/-': strconv.Atoi: parsing \"-\": invalid syntax"),
    ] {
        fails(&doc, json!([{"op": "remove", "path": path}]), want);
    }
    fails(&doc, json!([{"op": "remove"}]), "remove operation failed to decode path: missing value");
}

#[test]
fn replace() {
    let doc = json!({"a": [1, 2], "c": 1});
    gives(&doc, json!([{"op": "replace", "path": "/c", "value": 2}]), &json!({"a": [1, 2], "c": 2}));
    gives(&doc, json!([{"op": "replace", "path": "/a/1", "value": 9}]), &json!({"a": [1, 9], "c": 1}));
    gives(&doc, json!([{"op": "replace", "path": "/a/-2", "value": 9}]), &json!({"a": [9, 2], "c": 1}));
    gives(&doc, json!([{"op": "replace", "path": "/c"}]), &json!({"a": [1, 2], "c": null}));
    // A member that is not there is added.
    gives(&doc, json!([{"op": "replace", "path": "/d", "value": 2}]), &json!({"a": [1, 2], "c": 1, "d": 2}));
    gives(&doc, json!([{"op": "replace", "path": "", "value": {"x": 1}}]), &json!({"x": 1}));
    gives(&doc, json!([{"op": "replace", "path": "", "value": [1]}]), &json!([1]));
    fails(
        &doc,
        json!([{"op": "replace", "path": "/a/2", "value": 1}]),
        "replace operation does not apply: doc is missing key: /a/2: missing value",
    );
    fails(
        &doc,
        json!([{"op": "replace", "path": "/x/y", "value": 1}]),
        "replace operation does not apply: doc is missing path: /x/y: missing value",
    );
    fails(
        &doc,
        json!([{"op": "replace", "value": 1}]),
        "replace operation failed to decode path: operation missing path field: missing value",
    );
    fails(
        &doc,
        json!([{"op": "replace", "path": 1, "value": 1}]),
        "replace operation failed to decode path: json: cannot unmarshal number into Go value of type string",
    );
    fails(
        &doc,
        json!([{"op": "replace", "path": "", "value": "x"}]),
        "replace operation value must be object or array: %!w(<nil>)",
    );
}

#[test]
fn move_and_copy() {
    let doc = json!({"a": {"b": [1, 2]}, "c": 1});
    gives(&doc, json!([{"op": "move", "from": "/c", "path": "/a/d"}]), &json!({"a": {"b": [1, 2], "d": 1}}));
    gives(
        &doc,
        json!([{"op": "move", "from": "/a/b/0", "path": "/a/b/1"}]),
        &json!({"a": {"b": [2, 1]}, "c": 1}),
    );
    gives(&doc, json!([{"op": "move", "from": "/c", "path": "/c"}]), &doc);
    gives(
        &doc,
        json!([{"op": "copy", "from": "/a/b", "path": "/d"}]),
        &json!({"a": {"b": [1, 2]}, "c": 1, "d": [1, 2]}),
    );
    gives(
        &doc,
        json!([{"op": "copy", "from": "/a", "path": "/a/a"}]),
        &json!({"a": {"b": [1, 2], "a": {"b": [1, 2]}}, "c": 1}),
    );
    gives(
        &doc,
        json!([{"op": "copy", "from": "/x", "path": "/d"}]),
        &json!({"a": {"b": [1, 2]}, "c": 1, "d": null}),
    );
    for (op, want) in [
        (
            json!({"op": "move", "from": "/x", "path": "/d"}),
            "error in move for path: 'x': Unable to remove nonexistent key: x: missing value",
        ),
        (
            json!({"op": "move", "from": "/x/y", "path": "/d"}),
            "move operation does not apply: doc is missing from path: /x/y: missing value",
        ),
        (
            json!({"op": "move", "from": "/a/b/7", "path": "/d"}),
            "error in move for path: '7': Unable to access invalid index: 7: invalid index referenced",
        ),
        // A value can't be moved into itself.
        (
            json!({"op": "move", "from": "/a", "path": "/a/x"}),
            "move operation does not apply: doc is missing destination path: /a/x: missing value",
        ),
        (
            json!({"op": "move", "path": "/d"}),
            "move operation failed to decode from: operation, missing from field: missing value",
        ),
        (
            json!({"op": "move", "from": "/c"}),
            "move operation failed to decode path: operation missing path field: missing value",
        ),
        (
            json!({"op": "copy", "from": "/x/y", "path": "/d"}),
            "copy operation does not apply: doc is missing from path: /x/y: missing value",
        ),
        (
            json!({"op": "copy", "from": "/a/b/2", "path": "/d"}),
            "error in copy for from: '/a/b/2': Unable to access invalid index: 2: invalid index referenced",
        ),
        (
            json!({"op": "copy", "from": "/a", "path": "/x/y"}),
            "copy operation does not apply: doc is missing destination path: /x/y: missing value",
        ),
        (json!({"op": "copy", "from": "/a"}), "copy operation failed to decode path: missing value"),
        (
            json!({"op": "copy", "from": "/c", "path": "/a/b/5"}),
            "error while adding value during copy: Unable to access invalid index: 5: invalid index referenced",
        ),
    ] {
        fails(&doc, json!([op]), want);
    }
}

#[test]
fn test_operation() {
    let doc = json!({"a": {"b": [1, null]}, "n": null, "s": "x", "f": 1.5});
    for (path, value) in [
        ("/s", json!("x")),
        ("/a", json!({"b": [1, null]})),
        ("/a/b/0", json!(1)),
        ("/a/b/-1", json!(null)),
        ("/n", json!(null)),
        ("/nope", json!(null)),
        ("/f", json!(1.5)),
        ("", json!({"n": null, "f": 1.5, "s": "x", "a": {"b": [1, null]}})),
    ] {
        gives(&doc, json!([{"op": "test", "path": path, "value": value}]), &doc);
    }
    gives(&doc, json!([{"op": "test", "path": "/n"}]), &doc);
    for (path, value) in [
        ("/s", json!("y")),
        ("/s", json!(null)),
        ("/nope", json!(1)),
        ("/a/b/0", json!(1.0)),
        ("", json!({})),
    ] {
        fails(
            &doc,
            json!([{"op": "test", "path": path, "value": value}]),
            &format!("testing value {path} failed: test failed"),
        );
    }
    fails(&doc, json!([{"op": "test", "path": "/s"}]), "testing value /s failed: test failed");
    fails(
        &doc,
        json!([{"op": "test", "path": "/x/y", "value": 1}]),
        "test operation does not apply: is missing path: /x/y: missing value",
    );
    fails(
        &doc,
        json!([{"op": "test", "path": "/a/b/2", "value": 1}]),
        "error in test for path: '/a/b/2': Unable to access invalid index: 2: invalid index referenced",
    );
    // The operations before a failed test don't matter.
    fails(
        &doc,
        json!([{"op": "add", "path": "/z", "value": 1}, {"op": "test", "path": "/z", "value": 2}]),
        "testing value /z failed: test failed",
    );
}

#[test]
fn malformed_operations() {
    let doc = json!({});
    fails(&doc, json!([{"op": "frob", "path": "/a"}]), "Unexpected kind: frob");
    fails(&doc, json!([{"path": "/a"}]), "Unexpected kind: unknown");
    fails(&doc, json!([{"op": 5}]), "Unexpected kind: unknown");
    fails(&doc, json!([null]), "Unexpected kind: unknown");
}

#[test]
fn decoding() {
    let error = |raw: &str, strict: bool| {
        let e = JsonPatch::decode(raw.as_bytes(), strict).unwrap_err();
        (e.to_string(), e.rejection().http_status())
    };
    assert!(JsonPatch::decode(b"null", true).unwrap().is_empty());
    assert_eq!(JsonPatch::decode(b"[{}, {}]", true).unwrap().len(), 2);
    assert_eq!(
        error("{}", false),
        ("json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(), 400)
    );
    assert_eq!(
        error("[1]", false),
        ("json: cannot unmarshal number into Go value of type jsonpatch.Operation".into(), 400)
    );
    assert_eq!(
        error("{}", true),
        (
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
                .into(),
            400
        )
    );
    assert_eq!(
        error("[\"x\"]", true),
        (
            "error decoding patch: json: cannot unmarshal string into Go value of type handlers.jsonPatchOp"
                .into(),
            400
        )
    );
    assert_eq!(
        error(r#"[{"op": "add", "path": 1}]"#, true),
        (
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.path of type string".into(),
            400
        )
    );
    assert!(JsonPatch::decode(br#"[{"op": "add", "path": 1}]"#, false).is_ok(), "found when applied");
    let many = Value::Array(vec![json!({}); MAX_JSON_PATCH_OPERATIONS]);
    assert!(JsonPatch::from_value(many, false).is_ok());
    let too_many = Value::Array(vec![json!({}); MAX_JSON_PATCH_OPERATIONS + 1]);
    let e = JsonPatch::from_value(too_many, true).unwrap_err();
    assert_eq!(e.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
    assert_eq!(e.rejection(), Rejection::TooLarge);
}

#[test]
fn copies_can_not_grow_the_document_without_bound() {
    let doc = json!({"a": "x".repeat(1000)});
    let copy = json!({"op": "copy", "from": "", "path": "/b"});
    fails(&doc, json!([copy]), "copy operation does not apply: doc is missing from path: : missing value");
    // Each copy doubles `b`.
    let mut patch = vec![json!({"op": "add", "path": "/b", "value": [["x".repeat(1000)]]})];
    patch.extend((0..100).map(|_| json!({"op": "copy", "from": "/b", "path": "/b/-"})));
    match run(&doc, Value::Array(patch)) {
        // Depth is reached before size here.
        Err(JsonPatchError::TooDeep | JsonPatchError::CopySize { .. }) => {}
        other => panic!("{other:?}"),
    }
    let big = "x".repeat(1_000_000);
    let doc = json!({"a": big});
    let copies = |n: usize| {
        Value::Array((0..n).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/c{i}")})).collect())
    };
    assert!(run(&doc, copies(3)).is_ok());
    fails(
        &doc,
        copies(4),
        "Unable to complete the copy, the accumulated size increase of copy is 4000008, exceeding the limit 3145728",
    );
}

#[test]
fn the_document_can_not_nest_without_bound() {
    let mut document = json!({"a": {}});
    let mut path = String::from("/a");
    let mut refused = None;
    for i in 0..MAX_NESTING_DEPTH + 10 {
        path.push_str("/a");
        match run(&document, json!([{"op": "add", "path": path, "value": {}}])) {
            Ok(deeper) => document = deeper,
            Err(e) => {
                refused = Some((i, e));
                break;
            }
        }
    }
    assert_eq!(refused, Some((MAX_NESTING_DEPTH - 2, JsonPatchError::TooDeep)));
    let text = serde_json::to_vec(&document).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&text).unwrap(),
        document,
        "what was allowed can be read back"
    );
    // Nor by moving or copying, or at once.
    let half: Value = (0..MAX_NESTING_DEPTH / 2 + 2).fold(json!({}), |v, _| json!({"x": v}));
    let mut deep_path = String::new();
    let mut at = &half;
    while let Some(next) = at.get("x") {
        deep_path.push_str("/x");
        at = next;
    }
    let document = json!({"p": half, "q": half});
    for op in ["move", "copy"] {
        let patch = json!([{"op": op, "from": "/q", "path": format!("/p{deep_path}/y")}]);
        assert_eq!(run(&document, patch), Err(JsonPatchError::TooDeep), "{op}");
    }
    let patch = json!([{"op": "replace", "path": format!("/p{deep_path}"), "value": half}]);
    assert_eq!(run(&document, patch), Err(JsonPatchError::TooDeep));
}

#[test]
fn rearranging_is_bounded() {
    let doc = json!({"a": vec![0; 200_000]});
    let ops: Vec<Value> =
        (0..MAX_JSON_PATCH_OPERATIONS).map(|_| json!({"op": "add", "path": "/a/0", "value": 1})).collect();
    let started = std::time::Instant::now();
    assert_eq!(run(&doc, Value::Array(ops)), Err(JsonPatchError::TooMuchWork));
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
    let doc = json!({"a": vec![0; 1000]});
    let ops: Vec<Value> = (0..MAX_JSON_PATCH_OPERATIONS)
        .map(|_| json!({"op": "move", "from": "/a/0", "path": "/a/-"}))
        .collect();
    assert_eq!(run(&doc, Value::Array(ops)).unwrap(), doc);
}

#[test]
fn many_members_are_removed_in_linear_time() {
    let doc = Value::Object((0..100_000).map(|i| (format!("k{i}"), json!(i))).collect());
    let ops: Vec<Value> =
        (0..MAX_JSON_PATCH_OPERATIONS).map(|i| json!({"op": "remove", "path": format!("/k{i}")})).collect();
    let started = std::time::Instant::now();
    let got = run(&doc, Value::Array(ops)).unwrap();
    assert_eq!(got.as_object().unwrap().len(), 90_000);
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<i8>().prop_map(Value::from), "[a-c]".prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(("[a-c]", inner), 0..4)
                .prop_map(|e| Value::Object(e.into_iter().collect())),
        ]
    })
}

fn any_operation() -> impl Strategy<Value = Value> {
    let path =
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "0", "1", "-", "-1", ""]), 0..4)
            .prop_map(|steps| steps.iter().map(|s| format!("/{s}")).collect::<String>());
    let op = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "x"]);
    (op, path.clone(), path, any_json())
        .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
}

proptest! {
    #[test]
    fn nothing_panics(document in any_json(), patch in prop::collection::vec(any_operation(), 0..6)) {
        let _ = run(&document, Value::Array(patch));
    }

    #[test]
    fn junk_does_not_panic(document in any_json(), patch in any_json()) {
        if let Ok(patch) = JsonPatch::from_value(patch, false) {
            let _ = patch.apply(document);
        }
    }

    #[test]
    fn no_operations_change_nothing(document in any_json()) {
        prop_assert_eq!(run(&document, json!([])).unwrap(), document);
    }

    #[test]
    fn what_is_added_can_be_tested_and_removed(document in any_json(), value in any_json()) {
        let document = json!({"d": document});
        let patch = json!([
            {"op": "add", "path": "/new", "value": value},
            {"op": "test", "path": "/new", "value": value},
            {"op": "copy", "from": "/new", "path": "/newer"},
            {"op": "move", "from": "/newer", "path": "/new"},
            {"op": "test", "path": "/new", "value": value},
            {"op": "remove", "path": "/new"}]);
        prop_assert_eq!(run(&document, patch).unwrap(), document);
    }
}
