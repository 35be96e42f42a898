//! JSON patch (RFC 6902), with the liberties of the library that upstream uses.
//!
//! Those liberties are part of the protocol by now, and kept:
//! - `replace` of an object member that is not there adds it; an `add` or `replace` without `value`
//!   writes null; `copy` from a member that is not there writes null.
//! - `test` of a member that is not there passes if the value is null or absent.
//! - List indexes may be negative (counted from the end) and may have leading zeros or a plus sign.
//! - Whatever stands before the first slash of a path is ignored.
//!
//! Two are not kept: values in `test` are compared as JSON, not as bytes, so `1.0` equals `1.00` and
//! an escaped character equals the plain one; and nulls inside lists can be compared.
//!
//! The crate `json-patch` was considered and does none of this, nor does it bound work and growth.

use std::fmt;
use std::io;

use serde_json::{Map, Value};

use crate::Rejection;
use crate::decode::{DecodeError, json_type};
use crate::limits::{
    MAX_JSON_PATCH_COPY_BYTES, MAX_JSON_PATCH_OPERATIONS, MAX_JSON_PATCH_WORK, MAX_NESTING_DEPTH,
    ORDERED_REMOVE_LEN, deeper_than, deeper_than_counted,
};

/// Why a JSON patch can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchDecodeError {
    /// Not JSON, or not a list of objects.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// As above, found by the stricter decoder.
    #[error("error decoding patch: {0}")]
    Strict(DecodeError),
    /// More than [`MAX_JSON_PATCH_OPERATIONS`].
    #[error(
        "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {operations}"
    )]
    TooManyOperations {
        /// How many there are.
        operations: usize,
    },
}

impl JsonPatchDecodeError {
    /// How the API server has to answer.
    pub const fn rejection(&self) -> Rejection {
        match self {
            Self::Decode(_) | Self::Strict(_) => Rejection::BadRequest,
            Self::TooManyOperations { .. } => Rejection::TooLarge,
        }
    }
}

/// Why a JSON patch does not apply. Always answered with 422; the text is upstream's, which only
/// its logs show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// A `test` found something else.
    #[error("testing value {path} failed: test failed")]
    TestFailed {
        /// The path of the test.
        path: String,
    },
    /// An operation refers to something that is not there.
    #[error("{0}: missing value")]
    Missing(String),
    /// A list index is out of range.
    #[error("{context}: Unable to access invalid index: {index}: invalid index referenced")]
    InvalidIndex {
        /// What was being done.
        context: String,
        /// The index.
        index: i64,
    },
    /// The operation itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// `copy` operations grew the document by more than [`MAX_JSON_PATCH_COPY_BYTES`].
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {accumulated_bytes}, \
         exceeding the limit {MAX_JSON_PATCH_COPY_BYTES}"
    )]
    CopySize {
        /// The growth so far, with the copy that was refused.
        accumulated_bytes: usize,
    },
    /// The document would nest deeper than [`MAX_NESTING_DEPTH`].
    #[error("the patched document would nest deeper than {MAX_NESTING_DEPTH} levels")]
    TooDeep,
    /// The patch costs more than [`MAX_JSON_PATCH_WORK`].
    #[error("the patch rearranges too many list elements")]
    TooMuchWork,
}

impl JsonPatchError {
    /// How the API server has to answer.
    pub const fn rejection(&self) -> Rejection {
        Rejection::Unprocessable
    }
}

/// A JSON patch: its operations, not yet checked, since an operation is only looked at when those
/// before it have worked.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPatch {
    operations: Vec<Map<String, Value>>,
}

impl JsonPatch {
    /// Parses a patch. With `strict` (field validation `Warn` or `Strict`), the members of each
    /// operation must have the right types from the start; what strict decoding only complains about
    /// is for [`JsonPatch::strict_errors`].
    pub fn decode(raw: &[u8], strict: bool) -> Result<Self, JsonPatchDecodeError> {
        match crate::decode::json(raw) {
            Ok(value) => Self::from_value(value, strict),
            Err(e) if strict => Err(JsonPatchDecodeError::Strict(e)),
            Err(e) => Err(e.into()),
        }
    }

    /// As [`JsonPatch::decode`], from parsed JSON.
    pub fn from_value(patch: Value, strict: bool) -> Result<Self, JsonPatchDecodeError> {
        if strict {
            check_types(&patch).map_err(JsonPatchDecodeError::Strict)?;
        }
        let items = match patch {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            other => return Err(DecodeError::value(&other, "jsonpatch.Patch").into()),
        };
        let mut operations = Vec::with_capacity(items.len());
        for item in items {
            operations.push(match item {
                Value::Object(operation) => operation,
                Value::Null => Map::new(),
                other => return Err(DecodeError::value(&other, "jsonpatch.Operation").into()),
            });
        }
        if operations.len() > MAX_JSON_PATCH_OPERATIONS {
            return Err(JsonPatchDecodeError::TooManyOperations { operations: operations.len() });
        }
        Ok(Self { operations })
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// What strict decoding complains about in this patch, which was decoded from `raw`. As for other
    /// patches, upstream warns of it (field validation `Warn`) or refuses the patch (`Strict`: 422, and
    /// only once the patch has been applied).
    pub fn strict_errors(&self, raw: &[u8]) -> Vec<String> {
        crate::strict::operation_errors(raw, self.operations.iter().map(Some))
    }

    /// Applies the patch to `document`, which must be an object or list, and returns the result.
    pub fn apply(&self, document: Value) -> Result<Value, JsonPatchError> {
        let mut application = Application { document, copied_bytes: 0, work: 0 };
        for operation in &self.operations {
            application.run(&Operation(operation))?;
        }
        Ok(application.document)
    }
}

/// The type checks of upstream's strict decoding of `[]jsonPatchOp`.
fn check_types(patch: &Value) -> Result<(), DecodeError> {
    let items = match patch {
        Value::Array(items) => items,
        Value::Null => return Ok(()),
        other => return Err(DecodeError::value(other, "[]handlers.jsonPatchOp")),
    };
    for item in items {
        let operation = match item {
            Value::Object(operation) => operation,
            Value::Null => continue,
            other => return Err(DecodeError::value(other, "handlers.jsonPatchOp")),
        };
        for (key, value) in operation {
            if matches!(key.as_str(), "op" | "path" | "from")
                && !matches!(value, Value::String(_) | Value::Null)
            {
                return Err(DecodeError::Type {
                    found: json_type(value),
                    place: format!("struct field jsonPatchOp.{key}"),
                    wanted: "string",
                });
            }
        }
    }
    Ok(())
}

struct Operation<'a>(&'a Map<String, Value>);

/// Why `path` or `from` of an operation can't be used.
enum PathError {
    Missing,
    NotAString(&'static str),
}

impl<'a> Operation<'a> {
    /// A member; null is as good as absent for all but `value`.
    fn string(&self, name: &str) -> Result<&'a str, PathError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Err(PathError::Missing),
            Some(Value::String(s)) => Ok(s),
            Some(other) => Err(PathError::NotAString(json_type(other))),
        }
    }

    fn kind(&self) -> &'a str {
        self.string("op").unwrap_or("unknown")
    }

    /// `path` or `from`, as `operation` complains about its lack.
    fn path(&self, operation: &str, name: &str) -> Result<&'a str, JsonPatchError> {
        self.string(name).map_err(|e| {
            // `add`, `remove` and `copy` don't tell what is wrong with their path.
            if name == "path" && matches!(operation, "add" | "remove" | "copy") {
                return JsonPatchError::Missing(format!("{operation} operation failed to decode path"));
            }
            match e {
                PathError::Missing => {
                    let comma = if name == "from" { "," } else { "" };
                    JsonPatchError::Missing(format!(
                        "{operation} operation failed to decode {name}: operation{comma} missing {name} field"
                    ))
                }
                PathError::NotAString(found) => JsonPatchError::Malformed(format!(
                    "{operation} operation failed to decode {name}: json: cannot unmarshal {found} into \
                     Go value of type string"
                )),
            }
        })
    }

    fn value(&self) -> Value {
        self.0.get("value").cloned().unwrap_or(Value::Null)
    }
}

/// A document while it is being patched, and what that has cost.
struct Application {
    document: Value,
    copied_bytes: usize,
    work: usize,
}

impl Application {
    fn run(&mut self, op: &Operation<'_>) -> Result<(), JsonPatchError> {
        match op.kind() {
            "add" => self.add(op),
            "remove" => self.remove(op),
            "replace" => self.replace(op),
            "move" => self.r#move(op),
            "test" => self.test(op),
            "copy" => self.copy(op),
            other => Err(JsonPatchError::Malformed(format!("Unexpected kind: {other}"))),
        }
    }

    fn add(&mut self, op: &Operation<'_>) -> Result<(), JsonPatchError> {
        let path = op.path("add", "path")?;
        let Some((mut target, key)) = find(&mut self.document, path) else {
            return Err(JsonPatchError::Missing(format!(
                "add operation does not apply: doc is missing path: \"{path}\""
            )));
        };
        let value = op.value();
        check_depth(path, &value)?;
        target
            .insert(&key, value, &mut self.work)
            .map_err(|e| e.within(format_args!("error in add for path: '{path}'")))
    }

    fn remove(&mut self, op: &Operation<'_>) -> Result<(), JsonPatchError> {
        let path = op.path("remove", "path")?;
        let Some((mut target, key)) = find(&mut self.document, path) else {
            return Err(JsonPatchError::Missing(format!(
                "remove operation does not apply: doc is missing path: \"{path}\""
            )));
        };
        target
            .remove(&key, &mut self.work)
            .map(drop)
            .map_err(|e| e.within(format_args!("error in remove for path: '{path}'")))
    }

    fn replace(&mut self, op: &Operation<'_>) -> Result<(), JsonPatchError> {
        let path = op.path("replace", "path")?;
        let value = op.value();
        check_depth(path, &value)?;
        if path.is_empty() {
            if !matches!(value, Value::Object(_) | Value::Array(_)) {
                return Err(JsonPatchError::Malformed(
                    "replace operation value must be object or array: %!w(<nil>)".into(),
                ));
            }
            self.document = value;
            return Ok(());
        }
        let Some((mut target, key)) = find(&mut self.document, path) else {
            return Err(JsonPatchError::Missing(format!(
                "replace operation does not apply: doc is missing path: {path}"
            )));
        };
        if target.get(&key).is_err() {
            return Err(JsonPatchError::Missing(format!(
                "replace operation does not apply: doc is missing key: {path}"
            )));
        }
        target.set(&key, value).map_err(|e| e.within(format_args!("error in remove for path: '{path}'")))
    }

    fn r#move(&mut self, op: &Operation<'_>) -> Result<(), JsonPatchError> {
        let from = op.path("move", "from")?;
        let Some((mut source, key)) = find(&mut self.document, from) else {
            return Err(JsonPatchError::Missing(format!(
                "move operation does not apply: doc is missing from path: {from}"
            )));
        };
        let value = source
            .remove(&key, &mut self.work)
            .map_err(|e| e.within(format_args!("error in move for path: '{key}'")))?;
        let path = op.path("move", "path")?;
        let Some((mut target, key)) = find(&mut self.document, path) else {
            return Err(JsonPatchError::Missing(format!(
                "move operation does not apply: doc is missing destination path: {path}"
            )));
        };
        if depth_of(path) > depth_of(from) {
            check_depth_counted(path, &value, &mut self.work)?;
        }
        target
            .insert(&key, value, &mut self.work)
            .map_err(|e| e.within(format_args!("error in move for path: '{path}'")))
    }

    fn test(&mut self, op: &Operation<'_>) -> Result<(), JsonPatchError> {
        let path = op.path("test", "path")?;
        let wanted = op.0.get("value").unwrap_or(&Value::Null);
        let failed = || JsonPatchError::TestFailed { path: path.to_owned() };
        if path.is_empty() {
            return if self.document == *wanted { Ok(()) } else { Err(failed()) };
        }
        let Some((target, key)) = find(&mut self.document, path) else {
            return Err(JsonPatchError::Missing(format!(
                "test operation does not apply: is missing path: {path}"
            )));
        };
        let found =
            target.get(&key).map_err(|e| e.within(format_args!("error in test for path: '{path}'")))?;
        if found.unwrap_or(&Value::Null) == wanted { Ok(()) } else { Err(failed()) }
    }

    fn copy(&mut self, op: &Operation<'_>) -> Result<(), JsonPatchError> {
        let from = op.path("copy", "from")?;
        let Some((source, key)) = find(&mut self.document, from) else {
            return Err(JsonPatchError::Missing(format!(
                "copy operation does not apply: doc is missing from path: {from}"
            )));
        };
        let found =
            source.get(&key).map_err(|e| e.within(format_args!("error in copy for from: '{from}'")))?;
        let path = op.path("copy", "path")?;
        // Upstream looks for the destination first; its lack is an error either way, and measuring
        // before copying is what keeps the copy bounded.
        let size_bytes = found.map_or(0, size_bytes);
        if self.copied_bytes.saturating_add(size_bytes) > MAX_JSON_PATCH_COPY_BYTES {
            if find(&mut self.document, path).is_none() {
                return Err(missing_destination(path));
            }
            return Err(JsonPatchError::CopySize {
                accumulated_bytes: self.copied_bytes.saturating_add(size_bytes),
            });
        }
        self.copied_bytes += size_bytes;
        let value = found.cloned().unwrap_or(Value::Null);
        let Some((mut target, key)) = find(&mut self.document, path) else {
            return Err(missing_destination(path));
        };
        check_depth_counted(path, &value, &mut self.work)?;
        target
            .insert(&key, value, &mut self.work)
            .map_err(|e| e.within(format_args!("error while adding value during copy")))
    }
}

fn missing_destination(path: &str) -> JsonPatchError {
    JsonPatchError::Missing(format!("copy operation does not apply: doc is missing destination path: {path}"))
}

/// How many steps a path has.
fn depth_of(path: &str) -> usize {
    path.matches('/').count()
}

/// Refuses to put `value` at `path` if that made the document too deep. A path that can be followed
/// is never longer than the document is deep, so only the sum matters.
fn check_depth(path: &str, value: &Value) -> Result<(), JsonPatchError> {
    match MAX_NESTING_DEPTH.checked_sub(depth_of(path)) {
        Some(left) if !deeper_than(value, left) => Ok(()),
        _ => Err(JsonPatchError::TooDeep),
    }
}

/// As [`check_depth`], charging the visit: the value is part of the document, and may be visited
/// again by every operation.
fn check_depth_counted(path: &str, value: &Value, work: &mut usize) -> Result<(), JsonPatchError> {
    let Some(left) = MAX_NESTING_DEPTH.checked_sub(depth_of(path)) else {
        return Err(JsonPatchError::TooDeep);
    };
    if deeper_than_counted(value, left, work) {
        return Err(JsonPatchError::TooDeep);
    }
    check_work(*work).map_err(|_| JsonPatchError::TooMuchWork)
}

fn check_work(work: usize) -> Result<(), TargetError> {
    if work > MAX_JSON_PATCH_WORK { Err(TargetError::TooMuchWork) } else { Ok(()) }
}

/// The length of `value` as compact JSON.
fn size_bytes(value: &Value) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Neither the counter nor the serialisation of a value can fail.
    drop(serde_json::to_writer(&mut counter, value));
    counter.0
}

/// The object or list that a path ends in.
enum Target<'a> {
    Object(&'a mut Map<String, Value>),
    List(&'a mut Vec<Value>),
}

/// Why an operation on a [`Target`] failed; the operation adds where it was.
enum TargetError {
    NoSuchKey(String),
    InvalidIndex(i64),
    NotAnIndex(String),
    TooMuchWork,
}

impl TargetError {
    fn within(self, context: fmt::Arguments<'_>) -> JsonPatchError {
        match self {
            Self::NoSuchKey(key) => {
                JsonPatchError::Missing(format!("{context}: Unable to remove nonexistent key: {key}"))
            }
            Self::InvalidIndex(index) => JsonPatchError::InvalidIndex { context: context.to_string(), index },
            Self::NotAnIndex(why) => JsonPatchError::Malformed(format!("{context}: {why}")),
            Self::TooMuchWork => JsonPatchError::TooMuchWork,
        }
    }
}

impl Target<'_> {
    /// The member or element; `None` for a member that is not there.
    fn get(&self, key: &str) -> Result<Option<&Value>, TargetError> {
        match self {
            Self::Object(map) => Ok(map.get(key)),
            Self::List(items) => Ok(items.get(position(key, items.len())?)),
        }
    }

    fn set(&mut self, key: &str, value: Value) -> Result<(), TargetError> {
        match self {
            Self::Object(map) => drop(map.insert(key.to_owned(), value)),
            Self::List(items) => {
                let at = position(key, items.len())?;
                items[at] = value;
            }
        }
        Ok(())
    }

    fn insert(&mut self, key: &str, value: Value, work: &mut usize) -> Result<(), TargetError> {
        match self {
            Self::Object(map) => drop(map.insert(key.to_owned(), value)),
            Self::List(items) if key == "-" => items.push(value),
            Self::List(items) => {
                // One past the end is a position too.
                let at = position(key, items.len() + 1).map_err(|e| match e {
                    TargetError::NotAnIndex(why) => {
                        TargetError::NotAnIndex(format!("value was not a proper array index: '{key}': {why}"))
                    }
                    other => other,
                })?;
                *work += items.len() - at;
                check_work(*work)?;
                items.insert(at, value);
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &str, work: &mut usize) -> Result<Value, TargetError> {
        match self {
            Self::Object(map) => {
                if map.len() <= ORDERED_REMOVE_LEN { map.shift_remove(key) } else { map.swap_remove(key) }
                    .ok_or_else(|| TargetError::NoSuchKey(key.to_owned()))
            }
            Self::List(items) => {
                let at = position(key, items.len())?;
                *work += items.len() - at;
                check_work(*work)?;
                Ok(items.remove(at))
            }
        }
    }
}

/// The position that `key` means in a list with `len` of them.
fn position(key: &str, len: usize) -> Result<usize, TargetError> {
    let index = index(key)?;
    let at = if index < 0 {
        usize::try_from(index.unsigned_abs()).ok().and_then(|back| len.checked_sub(back))
    } else {
        usize::try_from(index).ok().filter(|at| *at < len)
    };
    at.ok_or(TargetError::InvalidIndex(index))
}

/// A decimal number as Go's `strconv.Atoi` reads it.
fn index(key: &str) -> Result<i64, TargetError> {
    let digits = key.strip_prefix(['+', '-']).unwrap_or(key);
    let well_formed = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    key.parse::<i64>().ok().filter(|_| well_formed).ok_or_else(|| {
        let why = if well_formed { "value out of range" } else { "invalid syntax" };
        TargetError::NotAnIndex(format!("strconv.Atoi: parsing {}: {why}", crate::go_format::quote(key)))
    })
}

/// The container that holds the last step of `path`, and that step.
fn find<'a>(document: &'a mut Value, path: &str) -> Option<(Target<'a>, String)> {
    let mut steps = path.split('/');
    steps.next()?;
    let mut steps = steps.peekable();
    let mut at = document;
    loop {
        let step = unescape(steps.next()?);
        let target = match at {
            Value::Object(map) => Target::Object(map),
            Value::Array(items) => Target::List(items),
            _ => return None,
        };
        if steps.peek().is_none() {
            return Some((target, step));
        }
        at = match target {
            Target::Object(map) => map.get_mut(&step)?,
            Target::List(items) => {
                let at = position(&step, items.len()).ok()?;
                &mut items[at]
            }
        };
    }
}

/// A step of a path with `~1` and `~0` decoded, in one pass.
fn unescape(step: &str) -> String {
    let Some(first) = step.find('~') else { return step.to_owned() };
    let mut out = String::with_capacity(step.len());
    out.push_str(&step[..first]);
    let mut rest = &step[first..];
    while let Some(at) = rest.find('~') {
        out.push_str(&rest[..at]);
        let (decoded, used) = match rest.as_bytes().get(at + 1) {
            Some(b'0') => ('~', 2),
            Some(b'1') => ('/', 2),
            _ => ('~', 1),
        };
        out.push(decoded);
        rest = &rest[at + used..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
