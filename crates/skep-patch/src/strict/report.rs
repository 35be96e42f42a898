//! Names what a [`scan`](super::scan()) suspects: the slow, exact pass.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde_json::{Map, Value};

use super::path::write_segments;
use super::scan::{has_strings, scan, string_end, unescape};
use super::{FieldPath, Segment};
use crate::go_format::quote;
use crate::limits::{MAX_NESTING_DEPTH, MAX_PATH_BYTES, MAX_STRICT_ERRORS, truncate};

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StrictErrorKind {
    /// The key occurs more than once in its object; the last one counts.
    Duplicate,
    /// The type has no such field; it is dropped.
    Unknown,
}

/// A complaint about one field. Prints as upstream's: `unknown field "spec.foo"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StrictError {
    /// What is wrong.
    pub kind: StrictErrorKind,
    /// The field, in upstream's notation.
    pub path: String,
}

impl fmt::Display for StrictError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StrictErrorKind::Duplicate => "duplicate field",
            StrictErrorKind::Unknown => "unknown field",
        };
        write!(f, "{kind} {}", quote(&self.path))
    }
}

impl std::error::Error for StrictError {}

/// All complaints in one message, as the answer to a request with `fieldValidation=Strict`.
pub fn strict_decoding_message<E: fmt::Display>(errors: &[E]) -> String {
    let mut out = String::from("strict decoding error: ");
    for (i, error) in errors.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&error.to_string());
    }
    out
}

/// Keys that occur twice anywhere in `raw`, in document order, at most [`MAX_STRICT_ERRORS`]. Costs
/// little when there are none. What is no JSON gives any result.
pub fn duplicate_fields(raw: &[u8]) -> Vec<StrictError> {
    match scan(raw) {
        Ok(found) if found.suspect_duplicates => walk(raw, &[]),
        _ => Vec::new(),
    }
}

/// Duplicate and `unknown` fields of `raw` in document order, as upstream's decoder finds them: it
/// looks for no duplicates below a field that it does not know, and reports the same thing once.
///
/// Unknown fields that `raw` does not have (because it is not quite what was decoded) come last.
pub fn strict_errors(raw: &[u8], unknown: &[FieldPath]) -> Vec<StrictError> {
    if unknown.is_empty() { duplicate_fields(raw) } else { walk(raw, unknown) }
}

/// What strict decoding complains about in a JSON patch: fields that an operation does not have, and
/// duplicate fields. [`JsonPatch::strict_errors`] does it without parsing again.
///
/// Upstream words these `json patch unknown field "[0].foo"`.
///
/// [`JsonPatch::strict_errors`]: crate::json::JsonPatch::strict_errors
pub fn json_patch_errors(raw: &[u8], patch: &Value) -> Vec<String> {
    let operations = patch.as_array().into_iter().flatten();
    operation_errors(raw, operations.map(|operation| operation.as_object()))
}

/// As [`json_patch_errors`], from the operations; `None` stands for one that is no object.
pub(crate) fn operation_errors<'a>(
    raw: &[u8],
    operations: impl Iterator<Item = Option<&'a Map<String, Value>>>,
) -> Vec<String> {
    let mut unknown = Vec::new();
    for (index, operation) in operations.enumerate() {
        for key in operation.into_iter().flat_map(Map::keys) {
            if !matches!(key.as_str(), "op" | "path" | "from" | "value") {
                unknown.push(FieldPath::new(vec![Segment::Index(index), Segment::Key(key.clone())]));
            }
        }
    }
    strict_errors(raw, &unknown).iter().map(|e| format!("json patch {e}")).collect()
}

struct Frame<'a> {
    object: bool,
    keys: HashSet<Cow<'a, str>>,
    /// Keys already reported as duplicate, so that a thousand copies cost one path.
    reported: HashSet<Cow<'a, str>>,
    /// Stands for the path down to here.
    path_id: u64,
    next_index: usize,
}

struct Walk<'a> {
    ids: RandomState,
    frames: Vec<Frame<'a>>,
    /// The steps to the value being read, one per frame.
    path: Vec<Segment>,
    seen: HashSet<(StrictErrorKind, u64)>,
    errors: Vec<StrictError>,
}

fn walk(raw: &[u8], unknown: &[FieldPath]) -> Vec<StrictError> {
    let mut walk = Walk {
        ids: RandomState::new(),
        frames: Vec::new(),
        path: Vec::new(),
        seen: HashSet::new(),
        errors: Vec::new(),
    };
    let unknown_ids: HashSet<u64> =
        unknown.iter().map(|p| p.segments().iter().fold(0, |id, s| walk.child_id(id, s))).collect();
    if has_strings(raw) {
        walk.run(raw, &unknown_ids);
    }
    for path in unknown {
        let id = path.segments().iter().fold(0, |id, s| walk.child_id(id, s));
        walk.report(StrictErrorKind::Unknown, id, path.segments());
    }
    walk.errors
}

impl<'a> Walk<'a> {
    fn run(&mut self, raw: &'a [u8], unknown: &HashSet<u64>) {
        // While inside an unknown field: at how many frames it ends.
        let mut skip_to: Option<usize> = None;
        let mut at_key = false;
        let mut i = 0;
        while let Some(&byte) = raw.get(i) {
            if self.errors.len() >= MAX_STRICT_ERRORS {
                return;
            }
            i += 1;
            match byte {
                b'"' => {
                    let start = i;
                    let Some((end, escaped)) = string_end(raw, start) else { return };
                    i = end + 1;
                    if !at_key {
                        continue;
                    }
                    at_key = false;
                    if skip_to.is_some() {
                        continue;
                    }
                    let Some(key) = key(raw, start, end, escaped) else { return };
                    if self.enter_key(key, unknown) {
                        skip_to = Some(self.frames.len());
                    }
                }
                b',' => {
                    at_key = self.frames.last().is_some_and(|f| f.object);
                    if skip_to == Some(self.frames.len()) {
                        skip_to = None;
                    }
                    self.path.truncate(self.frames.len().saturating_sub(1));
                    if !at_key {
                        self.enter_element();
                    }
                }
                b'{' | b'[' => {
                    if self.frames.len() == MAX_NESTING_DEPTH {
                        return;
                    }
                    at_key = byte == b'{';
                    let path_id = self.path_id();
                    self.frames.push(Frame {
                        object: at_key,
                        keys: HashSet::new(),
                        reported: HashSet::new(),
                        path_id,
                        next_index: 0,
                    });
                    if !at_key {
                        self.enter_element();
                    }
                }
                b'}' | b']' => {
                    at_key = false;
                    if skip_to == Some(self.frames.len()) {
                        skip_to = None;
                    }
                    self.frames.pop();
                    self.path.truncate(self.frames.len());
                }
                _ => {}
            }
        }
    }

    /// Notes a key of the innermost object; says whether it is an unknown field.
    fn enter_key(&mut self, key: Cow<'a, str>, unknown: &HashSet<u64>) -> bool {
        let depth = self.frames.len();
        let Some(parent_id) = self.frames.last().map(|f| f.path_id) else { return false };
        self.path.truncate(depth - 1);
        let segment = Segment::Key(key.clone().into_owned());
        let id = self.child_id(parent_id, &segment);
        self.path.push(segment);
        if unknown.contains(&id) {
            self.report_here(StrictErrorKind::Unknown, id);
            return true;
        }
        let Some(frame) = self.frames.last_mut() else { return false };
        if !frame.keys.insert(key.clone()) && frame.reported.insert(key) {
            self.report_here(StrictErrorKind::Duplicate, id);
        }
        false
    }

    /// Steps to the next element of the innermost list.
    fn enter_element(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            self.path.push(Segment::Index(frame.next_index));
            frame.next_index += 1;
        }
    }

    /// Stands for the path of the value that begins here.
    fn path_id(&self) -> u64 {
        match (self.frames.last(), self.path.last()) {
            (Some(frame), Some(segment)) => self.child_id(frame.path_id, segment),
            _ => 0,
        }
    }

    fn child_id(&self, parent: u64, segment: &Segment) -> u64 {
        self.ids.hash_one((parent, segment))
    }

    fn report_here(&mut self, kind: StrictErrorKind, id: u64) {
        let path = std::mem::take(&mut self.path);
        self.report(kind, id, &path);
        self.path = path;
    }

    fn report(&mut self, kind: StrictErrorKind, id: u64, path: &[Segment]) {
        if self.errors.len() >= MAX_STRICT_ERRORS || !self.seen.insert((kind, id)) {
            return;
        }
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = write_segments(&mut text, path.iter());
        truncate(&mut text, MAX_PATH_BYTES);
        self.errors.push(StrictError { kind, path: text });
    }
}

fn key(raw: &[u8], start: usize, end: usize, escaped: bool) -> Option<Cow<'_, str>> {
    if escaped {
        return unescape(raw, start, end).map(Cow::Owned);
    }
    std::str::from_utf8(&raw[start..end]).ok().map(Cow::Borrowed)
}
