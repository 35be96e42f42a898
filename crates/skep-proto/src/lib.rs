//! Kubernetes' protobuf bodies as JSON.
//!
//! **Job.** Turn a body of `application/vnd.kubernetes.protobuf` into the JSON that the same client would have
//! sent: clients with generated types (kubectl's `create`, controllers) prefer protobuf for what they send.
//! **State.** The table of facts, parsed at first use and never changed. **Tasks.** None.
//! **Must not know.** HTTP, kinds as Rust types, defaults, validation.
//!
//! Field numbers and names come from `facts.txt`. Everything that a client can send is answered with JSON or a
//! typed error: no panic, bounded depth, and memory in proportion to the body.

mod decode;
mod facts;
mod text;
mod wire;

#[cfg(test)]
mod tests;

pub use decode::{Decoded, MAX_DEPTH, decode};

/// The first bytes of every protobuf body of Kubernetes.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The media type of such bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why a body is not an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The envelope is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The envelope does not say what it holds.
    #[error("Object 'Kind' is missing in the protobuf envelope")]
    NoKind,
    /// A type that is not in the table.
    #[error("no kind {kind:?} is registered for version {api_version:?} in protobuf")]
    UnknownKind {
        /// As the envelope says.
        api_version: String,
        /// As the envelope says.
        kind: String,
    },
    /// The envelope says that its content is compressed, or of a type other than protobuf and JSON.
    #[error("protobuf content of encoding {encoding:?} and type {content_type:?} cannot be read")]
    UnknownContent {
        /// As the envelope says.
        encoding: String,
        /// As the envelope says.
        content_type: String,
    },
    /// A number or length goes on beyond the end.
    #[error("the protobuf message ends in the middle of a field")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("a protobuf number is too long")]
    Overflow,
    /// A field number of zero or out of range, a wire type that does not exist, or a group that does not fit.
    #[error("a protobuf tag is not valid")]
    BadTag,
    /// A known field in a form that is not its own.
    #[error("protobuf field {field} has the wrong wire type")]
    WrongWireType {
        /// Its JSON name.
        field: &'static str,
    },
    /// A string that is not UTF-8.
    #[error("protobuf field {field} is not valid UTF-8")]
    NotUtf8 {
        /// Its JSON name.
        field: &'static str,
    },
    /// Bytes that should hold JSON.
    #[error("protobuf field {field} does not hold valid JSON")]
    NotJson {
        /// Its JSON name.
        field: &'static str,
    },
    /// A number or time that JSON cannot carry.
    #[error("protobuf field {field} is out of range")]
    OutOfRange {
        /// Its JSON name.
        field: &'static str,
    },
    /// Messages in messages without end.
    #[error("protobuf messages are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The table of facts is broken: only a mistake in this crate can do that.
    #[error("the table of protobuf facts is broken: {0}")]
    Facts(String),
}
