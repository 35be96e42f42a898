//! Compares this crate with upstream's code.
//!
//! `upstream/*.jsonl` holds random cases and what upstream 1.36 answered to them: the functions that
//! its API server calls for each patch format and for strict decoding, run on the types of its API.
//! A line has the input and the `outcomes` seen in several runs (Go's maps have a random order, and
//! with it come different errors). What made them is not here, being built around upstream's code. What is
//! known to differ on purpose is in [`on_purpose`].
//!
//! `SKEP_PATCH_CASES=FILE` compares another file, `SKEP_PATCH_SCHEMA=FILE` adds type definitions.
#![allow(clippy::disallowed_methods, reason = "tests measure time and read files")]
#![allow(clippy::unwrap_used, reason = "the cases are part of the test")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use skep_patch::json::JsonPatch;
use skep_patch::schema::MergeSchema;
use skep_patch::{decode, go_format, merge, strategic, strict};

fn outcome<E: ToString>(result: Result<Value, E>) -> Value {
    match result {
        Ok(value) => json!({"ok": value}),
        Err(e) => json!({"err": e.to_string()}),
    }
}

fn messages<E: ToString>(errors: &[E]) -> Value {
    errors.iter().map(ToString::to_string).collect()
}

fn run(schema: &MergeSchema, case: &Value) -> Value {
    let original = || case["original"].clone();
    let patch = || case["patch"].clone();
    let raw = case["raw"].as_str().unwrap_or_default().as_bytes();
    let object = |value: Value| match value {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    match case["do"].as_str().unwrap() {
        "smp" => {
            let type_id = schema.type_id(case["type"].as_str().unwrap()).unwrap();
            outcome(strategic::apply(schema, type_id, object(original()), object(patch())).map(Value::Object))
        }
        "json" => match JsonPatch::from_value(patch(), false) {
            Ok(patch) => outcome(patch.apply(original())),
            Err(e) => outcome(Err(e)),
        },
        "merge" => outcome(merge::apply(original(), patch())),
        "strict" => outcome(decode::object(raw).map(|_| messages(&strict::duplicate_fields(raw)))),
        "typedstrict" => {
            assert_eq!(case["type"], "io.k8s.api.core.v1.Pod");
            let mut unknown = Vec::new();
            let mut note = |path: serde_ignored::Path<'_>| unknown.push(strict::FieldPath::from(&path));
            let mut json = serde_json::Deserializer::from_slice(raw);
            let pod = Pod::deserialize(serde_ignored::Deserializer::new(&mut json, &mut note));
            outcome(pod.map(|_| messages(&strict::strict_errors(raw, &unknown))))
        }
        "jsonstrict" => {
            outcome(JsonPatch::decode(raw, true).map(|patch| messages(&patch.strict_errors(raw))))
        }
        "decode" => outcome(decode::json(raw).map(|_| json!(true))),
        "fmt" => outcome(decode::json(raw).map(|v| {
            let raw = case["raw"].as_str().unwrap();
            json!([go_format::value(&v), go_format::value_as_string(&v), go_format::quote(raw)])
        })),
        other => panic!("unknown kind of case {other}"),
    }
}

/// Whether a difference is a decision of ours.
fn on_purpose(case: &Value, wanted: &[Value]) -> bool {
    // Upstream panics, and answers 500 without saying why.
    wanted.iter().any(|w| w.get("panic").is_some())
        || case["do"] == "smp" && deletes_and_merges(&case["patch"])
        // The definitions don't tell pointers from values, which this message does.
        || wanted.iter().any(|w| message(w) == "expected slice or array type, but got: ptr")
        // A number that no float can hold is refused in other words.
        || case["do"] == "decode" && wanted.iter().any(|w| message(w).ends_with("into Go value of type float64"))
        // Values of a wrong type are for whoever decodes objects.
        || case["do"] == "typedstrict" && wanted.iter().any(|w| message(w).starts_with("json: cannot unmarshal "))
        // Upstream tells nulls that the patch wrote from those that were there.
        || case["do"] == "json" && wanted.iter().any(|w| message(w).ends_with(" failed: test failed"))
            && case["patch"].as_array().is_some_and(|ops| {
                ops.iter().any(|op| op["op"] == "test" && op.get("value").is_none())
            })
}

/// Whether the patch both merges into a list and deletes from it, which Go does in random order.
fn deletes_and_merges(patch: &Value) -> bool {
    match patch {
        Value::Object(map) => {
            let twice = |key: &String| {
                key.strip_prefix("$deleteFromPrimitiveList/").is_some_and(|field| map.contains_key(field))
            };
            map.keys().any(twice) || map.values().any(deletes_and_merges)
        }
        Value::Array(items) => items.iter().any(deletes_and_merges),
        _ => false,
    }
}

fn message(outcome: &Value) -> &str {
    outcome["err"].as_str().unwrap_or_default()
}

/// Numbers compare by value: Go writes 1.0 as 1.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn agrees_with_upstream() {
    let mut schema = MergeSchema::new();
    schema.add_definitions(&common::definitions());
    if let Ok(path) = std::env::var("SKEP_PATCH_SCHEMA") {
        let text = std::fs::read_to_string(path).unwrap();
        schema.add_definitions(&serde_json::from_str(&text).unwrap());
    }
    let files: Vec<PathBuf> = match std::env::var("SKEP_PATCH_CASES") {
        Ok(path) => vec![path.into()],
        Err(_) => {
            let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/upstream");
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            files
        }
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut different = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let wanted = case["outcomes"].as_array().unwrap();
            let got = run(&schema, &case);
            *counts.entry(case["do"].as_str().unwrap().to_owned()).or_default() += 1;
            if !wanted.iter().any(|w| same(w, &got)) && !on_purpose(&case, wanted) {
                different.push(format!("{line}\n    got {got}"));
            }
        }
    }
    println!("cases: {counts:?}");
    assert!(counts.values().sum::<usize>() > 0, "there are cases");
    assert!(
        different.is_empty(),
        "{} cases differ, among them:\n{}",
        different.len(),
        different[..different.len().min(10)].join("\n")
    );
}
