#![allow(clippy::disallowed_methods, reason = "tests measure time and read files")]
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn merged(document: Value, patch: Value) -> Value {
    apply(document, patch).unwrap()
}

#[test]
fn examples() {
    // The examples of the RFC whose document is an object or list and whose patch is one too.
    for (document, patch, want) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        // Upstream's own ways with lists.
        (json!({}), json!({"a": [null, {"b": null, "c": 1}]}), json!({"a": [null, {"c": 1}]})),
        (json!({"a": [1]}), json!({"a": [{"b": null}]}), json!({"a": [{}]})),
        (json!({"a": {}}), json!({"a": [{"b": null}]}), json!({"a": [{"b": null}]})),
        (json!({"a": null}), json!({"a": {"b": null}}), json!({"a": {}})),
    ] {
        assert_eq!(merged(document.clone(), patch.clone()), want, "{document} patched with {patch}");
    }
}

#[test]
fn what_is_no_patch() {
    for patch in [json!(null), json!(5), json!("x"), json!(true)] {
        let e = apply(json!({}), patch).unwrap_err();
        assert_eq!((e.to_string().as_str(), e.rejection()), ("Invalid JSON Patch", Rejection::BadRequest));
    }
    let e = decode(b"[1]", true).unwrap_err();
    assert_eq!(e.to_string(), "json: cannot unmarshal array into Go value of type map[string]interface {}");
    assert_eq!(decode(b"[1]", false).unwrap(), json!([1]));
    assert_eq!(decode(b"null", true).unwrap(), Value::Null);
    assert!(decode(b"{", false).is_err());
    let mut deep = json!(1);
    for _ in 0..=MAX_NESTING_DEPTH {
        deep = json!({"a": deep});
    }
    assert_eq!(apply(json!({}), deep), Err(MergePatchError::TooDeep));
}

#[test]
fn many_removals_are_linear() {
    let keys = || (0..200_000).map(|i| format!("k{i}"));
    let document = Value::Object(keys().map(|k| (k, json!(1))).collect());
    let patch = Value::Object(keys().step_by(2).map(|k| (k, Value::Null)).collect());
    let started = std::time::Instant::now();
    let got = merged(document, patch);
    assert_eq!(got.as_object().unwrap().len(), 100_000);
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(("[a-d]", inner), 0..5)
                .prop_map(|e| Value::Object(e.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    prop::collection::vec(("[a-d]", any_json()), 0..5).prop_map(|e| Value::Object(e.into_iter().collect()))
}

fn without_nulls(mut value: Value) -> Value {
    prune_nulls(&mut value);
    value
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(document in any_object()) {
        prop_assert_eq!(merged(document.clone(), json!({})), document);
    }

    #[test]
    fn patching_twice_is_patching_once(document in any_object(), patch in any_object()) {
        let once = merged(document, patch.clone());
        // A list that replaces an object keeps its nulls only the first time.
        prop_assert_eq!(
            without_nulls(merged(once.clone(), patch)),
            without_nulls(once)
        );
    }

    #[test]
    fn a_document_without_nulls_can_be_reached_from_nothing(document in any_object()) {
        let document = without_nulls(document);
        prop_assert_eq!(merged(json!({}), document.clone()), document);
    }

    #[test]
    fn nothing_panics(document in any_json(), patch in any_json()) {
        let _ = apply(document, patch);
    }
}
