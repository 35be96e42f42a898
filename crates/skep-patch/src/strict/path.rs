//! Paths of fields, written the way upstream's decoder writes them.

use std::fmt;

/// One step of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A member of an object.
    Key(String),
    /// An element of a list.
    Index(usize),
}

/// Where a field is: `spec.containers[0].image`.
///
/// Keys are joined by dots whatever they contain, so different fields may print alike; upstream's
/// messages are like that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// A path from its steps.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self(segments)
    }

    /// The steps.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The message about a field that the type does not have.
    pub fn unknown_field_message(&self) -> String {
        super::StrictError { kind: super::StrictErrorKind::Unknown, path: self.to_string() }.to_string()
    }
}

impl From<&serde_ignored::Path<'_>> for FieldPath {
    fn from(path: &serde_ignored::Path<'_>) -> Self {
        let mut segments = Vec::new();
        let mut at = path;
        loop {
            use serde_ignored::Path;
            at = match at {
                Path::Root => break,
                Path::Seq { parent, index } => {
                    segments.push(Segment::Index(*index));
                    parent
                }
                Path::Map { parent, key } => {
                    segments.push(Segment::Key(key.clone()));
                    parent
                }
                // Wrappers that have no counterpart in JSON.
                Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                    parent
                }
            };
        }
        segments.reverse();
        Self(segments)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_segments(f, self.0.iter())
    }
}

pub(super) fn write_segments<'a>(
    out: &mut impl fmt::Write,
    segments: impl Iterator<Item = &'a Segment>,
) -> fmt::Result {
    for (i, segment) in segments.enumerate() {
        match segment {
            Segment::Key(key) if i == 0 => out.write_str(key)?,
            Segment::Key(key) => write!(out, ".{key}")?,
            Segment::Index(index) => write!(out, "[{index}]")?,
        }
    }
    Ok(())
}
