//! Bounds against hostile input. Each is a constant with its reason; nothing here is configurable,
//! because a bound that can be lifted protects nobody.

use serde_json::Value;

/// Deepest nesting of objects and lists that a document may have, before and after patching.
///
/// `serde_json` refuses to parse more than this, so a patch that made a deeper object would store
/// something that cannot be read back. It also bounds every recursion in this crate. (Upstream
/// allows 10,000; no real object comes near either.)
pub const MAX_NESTING_DEPTH: usize = 127;

/// Most operations in one JSON patch: upstream's number.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// Most bytes by which all `copy` operations of one JSON patch together may grow the document:
/// upstream's default, the size of the largest request body. Without it, each copy can double the
/// document.
pub const MAX_JSON_PATCH_COPY_BYTES: usize = 3 * 1024 * 1024;

/// Most list elements that one JSON patch may shift by inserting and removing, plus nodes that it
/// may visit to measure what it moves deeper.
///
/// Ten thousand insertions at the front of a list with a hundred thousand elements would otherwise
/// keep a core busy for a minute. 10,000 operations on a list of 6,000 still fit.
pub const MAX_JSON_PATCH_WORK: usize = 64 << 20;

/// Longest rendering of a value inside an error message, in bytes. Messages quote what was sent;
/// a 3 MB patch must not come back as a 3 MB message.
pub const MAX_QUOTED_BYTES: usize = 16 * 1024;

/// Longest field path in a strict error, in bytes.
pub const MAX_PATH_BYTES: usize = 4 * 1024;

/// Most strict errors reported for one document: upstream's number.
pub const MAX_STRICT_ERRORS: usize = 100;

/// Up to this many list elements a linear search beats building a hash index.
pub(crate) const LINEAR_SEARCH_LEN: usize = 16;

/// Up to this many keys an object keeps the order of the remaining keys when one is removed;
/// beyond it the last key takes the place of the removed one, since shifting costs time
/// proportional to the object and the order of keys means nothing.
pub(crate) const ORDERED_REMOVE_LEN: usize = 1024;

/// Whether `value` nests deeper than `limit`. A scalar has depth 0, an empty list depth 1.
/// Stops at the limit, so that it can't overflow the stack itself.
pub fn deeper_than(value: &Value, limit: usize) -> bool {
    let mut visited = 0;
    deeper_than_counted(value, limit, &mut visited)
}

/// As [`deeper_than`], adding the number of nodes looked at to `visited`.
pub(crate) fn deeper_than_counted(value: &Value, limit: usize, visited: &mut usize) -> bool {
    *visited += 1;
    match value {
        Value::Array(items) => limit == 0 || items.iter().any(|v| deeper_than_counted(v, limit - 1, visited)),
        Value::Object(map) => limit == 0 || map.values().any(|v| deeper_than_counted(v, limit - 1, visited)),
        _ => false,
    }
}

/// Removes `keys` from `map` at a cost linear in both.
pub(crate) fn remove_keys(map: &mut serde_json::Map<String, Value>, keys: &[String]) {
    match keys.len() {
        0 => {}
        1..=4 => {
            for key in keys {
                map.shift_remove(key);
            }
        }
        _ => {
            let gone: std::collections::HashSet<&str> = keys.iter().map(String::as_str).collect();
            map.retain(|k, _| !gone.contains(k.as_str()));
        }
    }
}

/// Cuts `text` to at most `limit` bytes, at a character boundary, marking the cut.
pub(crate) fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
}
