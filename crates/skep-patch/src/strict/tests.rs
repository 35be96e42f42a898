#![allow(clippy::disallowed_methods, reason = "tests measure time and read files")]
use proptest::prelude::*;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::*;
use crate::limits::{MAX_NESTING_DEPTH, MAX_PATH_BYTES, MAX_STRICT_ERRORS};

fn messages(raw: &str) -> Vec<String> {
    duplicate_fields(raw.as_bytes()).iter().map(ToString::to_string).collect()
}

#[test]
fn duplicates_are_named() {
    for (raw, want) in [
        (r#"{}"#, vec![]),
        (r#"{"a": 1, "b": {"a": 1}, "c": [{"a": 1}, {"a": 1}]}"#, vec![]),
        (r#"{"a": "a", "b": "a"}"#, vec![]),
        (r#"{"a": 1, "a": 2}"#, vec![r#"duplicate field "a""#]),
        (r#"{"spec": {"replicas": 1, "replicas": 2}}"#, vec![r#"duplicate field "spec.replicas""#]),
        (
            r#"{"spec": {"containers": [{"name": "x"}, {"image": "a", "image": "b"}]}}"#,
            vec![r#"duplicate field "spec.containers[1].image""#],
        ),
        (r#"[[{"a": 1, "a": 1}]]"#, vec![r#"duplicate field "[0][0].a""#]),
        // A key before its value, and each once.
        (
            r#"{"b": {"x": 1, "x": 2, "x": 3}, "b": {"x": 1, "y": 2, "y": 3, "x": 4}}"#,
            vec![r#"duplicate field "b.x""#, r#"duplicate field "b""#, r#"duplicate field "b.y""#],
        ),
        (r#"{"a": 1, "\u0061": 2}"#, vec![r#"duplicate field "a""#]),
        (r#"{"a\"b": 1, "a\"b": 2}"#, vec![r#"duplicate field "a\"b""#]),
        (r#"{"\\": 1, "\\\\": 2, "x\\": 3}"#, vec![]),
        (
            r#"{"metadata": {"labels": {"a.b/c": "1", "a.b/c": "2"}}}"#,
            vec![r#"duplicate field "metadata.labels.a.b/c""#],
        ),
        (r#"{"": 1, "": 2}"#, vec![r#"duplicate field """#]),
        (r#"{"a": [], "b": [[], {}], "c": {}, "c": {}}"#, vec![r#"duplicate field "c""#]),
    ] {
        assert_eq!(messages(raw), want, "{raw}");
    }
}

#[test]
fn many_keys() {
    let object = |n: usize| {
        let body: Vec<String> = (0..n).map(|i| format!("\"key{i}\":{{\"k\":1}}")).collect();
        format!("{{{}}}", body.join(","))
    };
    for n in [1, 31, 32, 33, 34, 1000] {
        let raw = object(n);
        assert_eq!(scan(raw.as_bytes()), Ok(Scan { suspect_duplicates: false }), "{n} keys");
        let again = format!("{},\"key{}\":0}}", &raw[..raw.len() - 1], n - 1);
        assert_eq!(messages(&again), [format!("duplicate field \"key{}\"", n - 1)]);
        let first = format!("{},\"key0\":0}}", &raw[..raw.len() - 1]);
        assert_eq!(messages(&first), ["duplicate field \"key0\""]);
    }
}

#[test]
fn hostile_documents_cost_linear_time() {
    let started = std::time::Instant::now();
    let keys: Vec<String> = (0..300_000).map(|i| format!("\"{i}\":1")).collect();
    assert!(messages(&format!("{{{},\"5\":1}}", keys.join(","))).len() == 1);
    // A hundred thousand duplicates below a long key, and below a key that is there many times.
    let long = "l".repeat(100_000);
    let raw = format!("{{\"{long}\":{{{}}}}}", vec!["\"a\":1"; 100_000].join(","));
    let found = messages(&raw);
    assert_eq!(found.len(), 1);
    assert!(found[0].len() < MAX_PATH_BYTES + 100);
    let raw = format!("{{\"{long}\":{{{}}}}}", vec!["\"b\":{\"a\":1,\"a\":1}"; 50_000].join(","));
    assert_eq!(messages(&raw).len(), 2);
    // More distinct ones than are reported.
    let raw = format!("[{}]", vec!["{\"a\":1,\"a\":1}"; 100_000].join(","));
    assert_eq!(messages(&raw).len(), MAX_STRICT_ERRORS);
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

#[test]
fn unknown_fields_come_in_document_order() {
    let path = |steps: &[&str]| FieldPath::new(steps.iter().map(|s| Segment::Key((*s).to_owned())).collect());
    let raw = br#"{"spec": {"foo": {"a": 1, "a": 2}, "replicas": 1, "replicas": 2, "foo": 1}, "x": 1, "kind": "a", "kind": "b"}"#;
    let errors = strict_errors(raw, &[path(&["x"]), path(&["spec", "foo"])]);
    let want = [
        // What is inside an unknown field does not matter, and that it is there twice neither.
        r#"unknown field "spec.foo""#,
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "x""#,
        r#"duplicate field "kind""#,
    ];
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
    assert_eq!(strict_decoding_message(&errors), format!("strict decoding error: {}", want.join(", ")));
    // If the bytes are not what was decoded, nothing is lost.
    let errors = strict_errors(br#"{"a": 1}"#, &[path(&["spec", "foo"])]);
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [r#"unknown field "spec.foo""#]);
}

#[test]
fn after_an_unknown_field_paths_are_right_again() {
    let raw =
        br#"{"l": [{"u": [[{"u": [1, {"a": 1}]}], 2], "b": 1, "b": 2}, {"u": 1}], "c": [{"d": 1, "d": 1}]}"#;
    let unknown =
        |i| FieldPath::new(vec![Segment::Key("l".into()), Segment::Index(i), Segment::Key("u".into())]);
    let errors = strict_errors(raw, &[unknown(0), unknown(1)]);
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            r#"unknown field "l[0].u""#,
            r#"duplicate field "l[0].b""#,
            r#"unknown field "l[1].u""#,
            r#"duplicate field "c[0].d""#,
        ]
    );
}

#[test]
fn paths_from_serde_ignored() {
    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Spec {
        containers: Option<Vec<Container>>,
        labels: std::collections::BTreeMap<String, Container>,
    }
    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Container {
        name: Option<String>,
    }
    let raw = r#"{"containers": [{"name": "a"}, {"bar": 1}], "foo": 1, "labels": {"x.y": {"z": 1}}}"#;
    let mut unknown = Vec::new();
    let mut json = serde_json::Deserializer::from_str(raw);
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(FieldPath::from(&path));
    Spec::deserialize(serde_ignored::Deserializer::new(&mut json, &mut note)).unwrap();
    let got: Vec<String> = unknown.iter().map(FieldPath::unknown_field_message).collect();
    assert_eq!(
        got,
        [r#"unknown field "containers[1].bar""#, r#"unknown field "foo""#, r#"unknown field "labels.x.y.z""#]
    );
}

#[test]
fn json_patches_have_their_own_prefix() {
    let raw =
        br#"[{"op": "add", "op": "add", "path": "/a", "value": {"x": 1, "x": 2}}, {"foo": 1, "op": "test"}]"#;
    let patch: Value = serde_json::from_slice(raw).unwrap();
    assert_eq!(
        json_patch_errors(raw, &patch),
        [
            r#"json patch duplicate field "[0].op""#,
            r#"json patch duplicate field "[0].value.x""#,
            r#"json patch unknown field "[1].foo""#,
        ]
    );
}

#[test]
fn depth_is_bounded() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(scan(nested(MAX_NESTING_DEPTH).as_bytes()).is_ok());
    assert!(serde_json::from_str::<Value>(&nested(MAX_NESTING_DEPTH)).is_ok());
    let raw = nested(MAX_NESTING_DEPTH + 1);
    assert!(serde_json::from_str::<Value>(&raw).is_err(), "the limit is the parser's");
    let want = ScanError::TooDeep { offset: MAX_NESTING_DEPTH, bracket: b'[' };
    assert_eq!(scan(raw.as_bytes()), Err(want));
    assert_eq!(validate_depth(raw.as_bytes(), MAX_NESTING_DEPTH), Err(want));
    assert_eq!(want.to_string(), "invalid character '[' exceeded max depth");
    assert!(validate_depth(raw.as_bytes(), MAX_NESTING_DEPTH + 1).is_ok());
    // Brackets in strings don't nest, and siblings neither.
    let flat = format!("[\"{}\", \"\\\"{}\"{}]", "[".repeat(500), "{".repeat(500), ",[]".repeat(500));
    assert!(scan(flat.as_bytes()).is_ok() && validate_depth(flat.as_bytes(), 2).is_ok());
    assert!(validate_depth(flat.as_bytes(), 1).is_err());
    assert_eq!(duplicate_fields(raw.as_bytes()), []);
}

#[test]
fn what_is_no_json_does_no_harm() {
    for raw in [
        &b"{"[..],
        b"\"",
        b"\"\\",
        b"{\"",
        b"{\"a",
        b"{\"a\\",
        b"}}]]",
        b",,,",
        b"{,\"a\"\"a\"}",
        b"\xff{\"\xff\":1,\"\xff\":1}",
    ] {
        let _ = (scan(raw), duplicate_fields(raw), validate_depth(raw, 5));
    }
}

/// A pod as kubectl sends it, about 600 bytes.
const TYPICAL: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-7d4b9c6f5-x2x8q","namespace":"default","labels":{"app":"web","pod-template-hash":"7d4b9c6f5"},"annotations":{"prometheus.io/scrape":"true"}},"spec":{"containers":[{"name":"web","image":"registry.example.com/team/web:1.2.3","ports":[{"containerPort":8080,"protocol":"TCP"}],"env":[{"name":"MODE","value":"production"}],"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"memory":"256Mi"}}}],"restartPolicy":"Always","serviceAccountName":"default","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst"}}"#;

#[test]
fn a_typical_object_has_no_duplicates() {
    assert!((550..650).contains(&TYPICAL.len()), "{}", TYPICAL.len());
    assert_eq!(scan(TYPICAL.as_bytes()), Ok(Scan { suspect_duplicates: false }));
}

/// Run with `--release -- --ignored --nocapture` to see the cost of a scan.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_scan() {
    const ROUNDS: u32 = 200_000;
    let started = std::time::Instant::now();
    for _ in 0..ROUNDS {
        assert!(
            !std::hint::black_box(scan(std::hint::black_box(TYPICAL.as_bytes()))).unwrap().suspect_duplicates
        );
    }
    println!("scan: {:?} for {} bytes", started.elapsed() / ROUNDS, TYPICAL.len());
    let started = std::time::Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(validate_depth(std::hint::black_box(TYPICAL.as_bytes()), 127)).unwrap();
    }
    println!("validate_depth: {:?}", started.elapsed() / ROUNDS);
    let started = std::time::Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(serde_json::from_str::<Value>(std::hint::black_box(TYPICAL)).unwrap());
    }
    println!("for comparison, serde_json to Value: {:?}", started.elapsed() / ROUNDS);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<i8>().prop_map(Value::from), ".{0,4}".prop_map(Value::from)];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((".{0,2}", inner), 0..6)
                .prop_map(|e| Value::Object(e.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn serialised_values_have_no_duplicates(value in any_json()) {
        let raw = serde_json::to_vec_pretty(&value).unwrap();
        prop_assert_eq!(scan(&raw), Ok(Scan { suspect_duplicates: false }));
        prop_assert_eq!(duplicate_fields(&raw), vec![]);
    }

    #[test]
    fn a_planted_duplicate_is_found(value in any_json(), key in ".{0,3}") {
        let key_json = json!(key).to_string();
        let raw = format!("{{\"before\": {value}, \"list\": [{value}, {{{key_json}: {value}, {key_json}: 1}}]}}");
        let want = StrictError { kind: StrictErrorKind::Duplicate, path: format!("list[1].{key}") };
        prop_assert_eq!(duplicate_fields(raw.as_bytes()), vec![want]);
    }

    #[test]
    fn nothing_panics(raw in prop::collection::vec(prop::sample::select(br#"{}[]",:\au0"#.to_vec()), 0..60)) {
        let _ = scan(&raw);
        let _ = validate_depth(&raw, 3);
        let _ = strict_errors(&raw, &[FieldPath::new(vec![Segment::Key("a".into())])]);
    }
}
