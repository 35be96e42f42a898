//! From the bytes of a patch to JSON, with the errors that upstream's decoders give.

use serde_json::{Map, Value};

use crate::Rejection;
pub use crate::syntax::{SyntaxError, syntax_error};

/// Why bytes are no patch. Always answered with 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or nested too deeply.
    #[error("{0}")]
    Syntax(String),
    /// JSON of the wrong type.
    #[error("json: cannot unmarshal {found} into Go {place} of type {wanted}")]
    Type {
        /// The JSON type that was found: `object`, `array`, `string`, `number`, `bool`.
        found: &'static str,
        /// `value`, or `struct field T.f`.
        place: String,
        /// The Go type that upstream decodes into there.
        wanted: &'static str,
    },
}

impl DecodeError {
    /// How the API server has to answer.
    pub const fn rejection(&self) -> Rejection {
        Rejection::BadRequest
    }

    pub(crate) fn value(found: &Value, wanted: &'static str) -> Self {
        Self::Type { found: json_type(found), place: "value".into(), wanted }
    }
}

/// The name that Go's decoder has for the type of a JSON value.
pub(crate) const fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Parses JSON. What nests deeper than
/// [`MAX_NESTING_DEPTH`](crate::limits::MAX_NESTING_DEPTH) is refused.
pub fn json(raw: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(raw).map_err(|e| {
        // What Go would take (invalid UTF-8, lone surrogates, huge numbers) is refused in our words.
        DecodeError::Syntax(syntax_error(raw).map_or_else(|| e.to_string(), |e| e.message))
    })
}

/// Parses a patch that has to be an object; `null` counts as an empty one, as in Go.
pub fn object(raw: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    match json(raw)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(DecodeError::value(&other, "map[string]interface {}")),
    }
}
