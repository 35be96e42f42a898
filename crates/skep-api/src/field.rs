//! Field paths and validation errors, worded as Kubernetes clients expect them.
//!
//! Wording and reasons: k8s.io/apimachinery `pkg/util/validation/field`.

use std::fmt;

/// The path of a field, `spec.containers[0].image`. A path borrows its parent, so walking a valid object
/// allocates nothing; the text is made only when there is an error to report.
///
/// ```
/// # use skep_api::Path;
/// let spec = Path::root("spec");
/// assert_eq!(spec.child("containers").index(0).child("image").to_string(), "spec.containers[0].image");
/// assert_eq!(Path::root("data").key("a.b").to_string(), "data[a.b]");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Empty,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A top-level field.
    #[must_use]
    pub const fn root(name: &'a str) -> Path<'a> {
        Path { parent: None, segment: Segment::Child(name) }
    }

    /// The object itself: errors about it as a whole. Its children are top-level fields.
    #[must_use]
    pub const fn empty() -> Path<'static> {
        Path { parent: None, segment: Segment::Empty }
    }

    /// A field of this object.
    #[must_use]
    pub const fn child<'b>(&'b self, name: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), segment: Segment::Child(name) }
    }

    /// An element of this list.
    #[must_use]
    pub const fn index<'b>(&'b self, index: usize) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// A value of this map, or the element of a keyed list.
    #[must_use]
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }

    fn is_blank(&self) -> bool {
        matches!(self.segment, Segment::Empty) && self.parent.is_none_or(|p| p.is_blank())
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Empty => Ok(()),
            Segment::Child(name) if self.parent.is_none_or(|p| p.is_blank()) => f.write_str(name),
            Segment::Child(name) => write!(f, ".{name}"),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field; becomes the `reason` of a cause in a `Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something referred to does not exist.
    NotFound,
    /// A required value is missing.
    Required,
    /// Two elements that must differ are the same.
    Duplicate,
    /// A malformed or impossible value.
    Invalid,
    /// Not one of the allowed values.
    NotSupported,
    /// A well-formed value that is not allowed here.
    Forbidden,
    /// Longer than allowed.
    TooLong,
    /// More elements than allowed.
    TooMany,
    /// A value of the wrong type.
    TypeInvalid,
    /// The server's own fault.
    Internal,
}

impl ErrorKind {
    /// The machine-readable reason in a `Status` cause.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where: `spec.containers[0].image`.
    pub field: String,
    /// The rest of the message, the bad value included: `Invalid value: "x": must be …`.
    pub message: String,
}

impl fmt::Display for FieldError {
    /// `field: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// The most of a bad value that a message repeats. Far more than any value that somebody wrote by hand; without
/// a bound, an answer would be several times as large as a request that is nothing but one bad value.
pub(crate) const MAX_SHOWN_BYTES: usize = 16 * 1024;

/// A text, or its beginning if it is longer than `max_bytes`.
#[must_use]
pub fn cut(text: &str, max_bytes: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= max_bytes {
        return text.into();
    }
    format!("{}... ({} bytes)", &text[..text.floor_char_boundary(max_bytes)], text.len()).into()
}

/// The most errors that are kept of one object: an answer that lists more helps nobody, and a request of nothing but
/// errors would make one that is a hundred times as large.
const MAX_ERRORS: usize = 1000;

/// The errors of one object, in the order found; the first thousand of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// No errors yet.
    #[must_use]
    pub fn new() -> Errors {
        Errors::default()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether no more are kept: then there is no use in looking further.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_ERRORS
    }

    /// How many things are wrong.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// Adds one made elsewhere.
    pub fn push(&mut self, error: FieldError) {
        if !self.is_full() {
            self.0.push(error);
        }
    }

    /// Adds another object's.
    pub fn extend(&mut self, other: Errors) {
        other.0.into_iter().for_each(|error| self.push(error));
    }

    fn add(&mut self, kind: ErrorKind, path: &Path<'_>, message: String) {
        self.push(FieldError { kind, field: path.to_string(), message });
    }

    fn add_valued(&mut self, kind: ErrorKind, path: &Path<'_>, value: &str, detail: &str) {
        let sep = if detail.is_empty() { "" } else { ": " };
        let value = cut(value, MAX_SHOWN_BYTES);
        self.add(kind, path, format!("{}: {value}{sep}{detail}", kind.words()));
    }

    /// A required value is missing.
    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        let sep = if detail.is_empty() { "" } else { ": " };
        self.add(ErrorKind::Required, path, format!("Required value{sep}{detail}"));
    }

    /// A malformed or impossible value.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Shown, detail: &str) {
        self.add_valued(ErrorKind::Invalid, path, &value.shown(), detail);
    }

    /// A value of the wrong type.
    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Shown, detail: &str) {
        self.add_valued(ErrorKind::TypeInvalid, path, &value.shown(), detail);
    }

    /// A second element that equals an earlier one.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Shown) {
        self.add_valued(ErrorKind::Duplicate, path, &value.shown(), "");
    }

    /// A second element that equals an earlier one in what must be unique, which `detail` names.
    pub fn duplicate_with(&mut self, path: &Path<'_>, value: impl Shown, detail: &str) {
        self.add_valued(ErrorKind::Duplicate, path, &value.shown(), detail);
    }

    /// Something referred to does not exist.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Shown) {
        self.add_valued(ErrorKind::NotFound, path, &value.shown(), "");
    }

    /// Not one of the allowed values, which are listed in the order given.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Shown, allowed: &[&str]) {
        let detail = if allowed.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        self.add_valued(ErrorKind::NotSupported, path, &value.shown(), &detail);
    }

    /// Not allowed here.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.add(ErrorKind::Forbidden, path, format!("Forbidden: {detail}"));
    }

    /// Longer than `max_bytes`; the value itself is not repeated, it may be huge.
    pub fn too_long(&mut self, path: &Path<'_>, max_bytes: usize) {
        self.add(ErrorKind::TooLong, path, format!("Too long: may not be more than {max_bytes} bytes"));
    }

    /// More than `max` elements.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let noun = if max == 1 { "item" } else { "items" };
        self.add(ErrorKind::TooMany, path, format!("Too many: {actual}: must have at most {max} {noun}"));
    }

    /// The server's own fault.
    pub fn internal(&mut self, path: &Path<'_>, detail: &str) {
        self.add(ErrorKind::Internal, path, format!("Internal error: {detail}"));
    }
}

impl IntoIterator for Errors {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Errors {
    /// One error as it is, several as `[a, b]`, as upstream's aggregate prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Equal messages are named once.
        let mut known = std::collections::HashSet::new();
        let texts: Vec<String> =
            self.0.iter().map(ToString::to_string).filter(|text| known.insert(text.clone())).collect();
        match texts.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

/// How a bad value is shown in a message: strings quoted, numbers and booleans bare, the rest as JSON.
pub trait Shown {
    /// The text.
    fn shown(&self) -> String;
}

impl Shown for &str {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
impl Shown for &String {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
impl Shown for String {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}
macro_rules! shown_plain {
    ($($t:ty),*) => {$(impl Shown for $t { fn shown(&self) -> String { self.to_string() } })*};
}
shown_plain!(i32, i64, u16, u32, u64, usize, bool);

/// Anything else, by its JSON.
pub struct Json<'a, T>(pub &'a T);
impl<T: serde::Serialize> Shown for Json<'_, T> {
    fn shown(&self) -> String {
        serde_json::to_string(self.0).unwrap_or_default()
    }
}

/// A value to be printed as it is, without quotes.
pub struct Bare<'a>(pub &'a str);
impl Shown for Bare<'_> {
    fn shown(&self) -> String {
        self.0.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let mut e = Errors::new();
        e.invalid(&Path::root("spec").child("replicas"), -1i32, "must be greater than or equal to 0");
        e.required(&Path::root("metadata").child("name"), "name or generateName is required");
        e.not_supported(&Path::root("p"), "x", &["A", "B"]);
        e.duplicate(&Path::root("l").index(2), "x");
        e.too_long(&Path::root("n"), 63);
        let texts: Vec<String> = e.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "metadata.name: Required value: name or generateName is required",
                r#"p: Unsupported value: "x": supported values: "A", "B""#,
                r#"l[2]: Duplicate value: "x""#,
                "n: Too long: may not be more than 63 bytes",
            ]
        );
    }

    #[test]
    fn huge_values_are_cut() {
        let mut e = Errors::new();
        e.invalid(&Path::root("a"), "é".repeat(1_000_000), "no");
        let text = e.to_string();
        assert!(text.len() < 20_000 && text.ends_with("... (2000002 bytes): no"), "{}", text.len());
        for i in 0..2000 {
            e.required(&Path::root("l").index(i), "");
        }
        assert_eq!(e.len(), MAX_ERRORS);
        assert_eq!(cut("aé", 2), "a... (3 bytes)");
        assert_eq!(cut("aé", 3), "aé");
    }

    #[test]
    fn one_error_stands_alone_and_several_in_brackets() {
        let mut e = Errors::new();
        e.forbidden(&Path::root("a"), "no");
        assert_eq!(e.to_string(), "a: Forbidden: no");
        e.forbidden(&Path::root("b"), "no");
        e.forbidden(&Path::root("b"), "no");
        assert_eq!(e.to_string(), "[a: Forbidden: no, b: Forbidden: no]");
    }
}
