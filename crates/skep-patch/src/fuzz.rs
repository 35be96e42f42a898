//! Entry points for a fuzzer: each takes arbitrary bytes and must return.
//!
//! `cargo fuzz` targets need only call one of these; the tests of this crate call them with random
//! bytes. Besides not panicking, each checks what must hold for any input.

use serde_json::Value;

use crate::json::JsonPatch;
use crate::limits::{MAX_NESTING_DEPTH, deeper_than};
use crate::schema::{MergeSchema, TypeId};
use crate::{decode, merge, strategic, strict};

/// Two documents from one input: what is before and after the first newline.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

/// A document, a newline, and a JSON patch.
pub fn json_patch(data: &[u8]) {
    let (document, patch) = split(data);
    if let (Ok(document), Ok(patch)) = (decode::json(document), JsonPatch::decode(patch, false))
        && let Ok(patched) = patch.apply(document)
    {
        assert!(!deeper_than(&patched, MAX_NESTING_DEPTH), "the result can be read back");
    }
}

/// A document, a newline, and a JSON merge patch.
pub fn merge_patch(data: &[u8]) {
    let (document, patch) = split(data);
    if let (Ok(document), Ok(patch)) = (decode::json(document), merge::decode(patch, false))
        && let Ok(patched) = merge::apply(document, patch)
    {
        assert!(!deeper_than(&patched, MAX_NESTING_DEPTH), "the result can be read back");
    }
}

/// A document, a newline, and a strategic merge patch for it.
pub fn strategic_merge_patch(schema: &MergeSchema, type_id: TypeId, data: &[u8]) {
    let (document, patch) = split(data);
    if let (Ok(document), Ok(patch)) = (decode::object(document), strategic::decode(patch))
        && let Ok(patched) = strategic::apply(schema, type_id, document, patch)
    {
        assert!(!deeper_than(&Value::Object(patched), MAX_NESTING_DEPTH), "the result can be read back");
    }
}

/// Raw JSON for strict decoding. What is no JSON must have an explanation, unless only Rust refuses
/// it.
pub fn strict_decoding(data: &[u8]) {
    let duplicates = strict::duplicate_fields(data);
    let parsed = serde_json::from_slice::<Value>(data);
    if let Ok(scan) = strict::scan(data) {
        assert!(scan.suspect_duplicates || duplicates.is_empty(), "a scan misses no duplicate");
    } else {
        assert!(parsed.is_err(), "what is too deep to scan is too deep to parse");
    }
    if parsed.is_ok() {
        assert_eq!(decode::syntax_error(data), None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};
    use serde_json::json;

    use super::*;

    /// Pieces of which something like patches is made.
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\n",
        " ",
        "1",
        "-0.5e3",
        "null",
        "true",
        "\"a\"",
        "\"b\"",
        "\"a\":",
        "\"name\":",
        "\"items\":",
        "\"$patch\":\"delete\"",
        "\"$setElementOrder/items\":[",
        "\"$retainKeys\":[\"a\"]",
        "{\"op\":\"add\",\"path\":\"/a\",\"value\":",
        "{\"op\":\"move\",",
        "\"from\":\"/a\"",
        "\"path\":\"/a/0\"",
        "\\",
        "\"",
        "\u{e9}",
        "{}",
        "[]",
        "{\"a\":1}\n{\"a\":null}",
    ];

    fn schema() -> (MergeSchema, TypeId) {
        let mut schema = MergeSchema::new();
        let id = schema.add_definition(
            "Thing",
            &json!({"type": "object", "properties": {
                "name": {"type": "string"}, "a": {"type": "array", "items": {"type": "integer"}},
                "items": {"type": "array", "items": {"$ref": "#/$defs/Thing"},
                    "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"}}}),
        );
        (schema, id)
    }

    fn all(data: &[u8]) {
        let (schema, id) = schema();
        json_patch(data);
        merge_patch(data);
        strategic_merge_patch(&schema, id, data);
        strict_decoding(data);
    }

    #[test]
    fn results_can_be_read_back_at_the_limit() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
            all(format!("{}\n{}", nested(MAX_NESTING_DEPTH), nested(MAX_NESTING_DEPTH)).as_bytes());
            all(format!("{{\"a\":{{}}}}\n{}", nested(MAX_NESTING_DEPTH + 1)).as_bytes());
        }
    }

    proptest! {
        #[test]
        fn pieces(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
            all(pieces.concat().as_bytes());
        }

        #[test]
        fn bytes(data in prop::collection::vec(0u8..=255, 0..200)) {
            all(&data);
        }
    }
}
