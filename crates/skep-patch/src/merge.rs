//! JSON merge patch (RFC 7386), as upstream applies it.
//!
//! Two deviations from the RFC are upstream's and kept: objects inside a list that a patch brings in
//! lose their nulls too, and a list that replaces an object keeps them.

use serde_json::{Map, Value};

use crate::Rejection;
use crate::decode::DecodeError;
use crate::limits::{MAX_NESTING_DEPTH, deeper_than, remove_keys};

/// Why a merge patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergePatchError {
    /// The patch is neither object nor list.
    #[error("Invalid JSON Patch")]
    BadPatch,
    /// The patch nests deeper than [`MAX_NESTING_DEPTH`].
    #[error("the patch nests deeper than {MAX_NESTING_DEPTH} levels")]
    TooDeep,
}

impl MergePatchError {
    /// How the API server has to answer.
    pub const fn rejection(&self) -> Rejection {
        Rejection::BadRequest
    }
}

/// Parses a merge patch. With `strict` (field validation `Warn` or `Strict`), upstream decodes the
/// patch as object first and refuses a list.
pub fn decode(raw: &[u8], strict: bool) -> Result<Value, DecodeError> {
    let patch = crate::decode::json(raw)?;
    if strict && !matches!(patch, Value::Object(_) | Value::Null) {
        return Err(DecodeError::value(&patch, "map[string]interface {}"));
    }
    Ok(patch)
}

/// Applies `patch` to `document` and returns the result.
///
/// A list as patch replaces the document, which then won't decode as an object: that is for the
/// caller to find.
pub fn apply(document: Value, patch: Value) -> Result<Value, MergePatchError> {
    if deeper_than(&patch, MAX_NESTING_DEPTH) {
        return Err(MergePatchError::TooDeep);
    }
    match (document, patch) {
        (Value::Object(mut document), Value::Object(patch)) => {
            merge_objects(&mut document, patch);
            Ok(Value::Object(document))
        }
        (_, mut patch @ (Value::Object(_) | Value::Array(_))) => {
            prune_nulls(&mut patch);
            Ok(patch)
        }
        _ => Err(MergePatchError::BadPatch),
    }
}

fn merge_objects(document: &mut Map<String, Value>, patch: Map<String, Value>) {
    let mut removed = Vec::new();
    for (key, value) in patch {
        if value.is_null() {
            removed.push(key);
            continue;
        }
        match (document.get_mut(&key), value) {
            (Some(Value::Object(current)), Value::Object(value)) => merge_objects(current, value),
            // Anything but an object replaces an object as it is.
            (Some(current @ Value::Object(_)), value) => *current = value,
            (Some(current), mut value) => {
                prune_nulls(&mut value);
                *current = value;
            }
            (None, mut value) => {
                prune_nulls(&mut value);
                document.insert(key, value);
            }
        }
    }
    remove_keys(document, &removed);
}

/// Removes object members that are null, at any depth. Elements of lists stay.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
