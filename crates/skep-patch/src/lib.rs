//! Everything about patching Kubernetes objects, as pure functions on [`serde_json::Value`].
//!
//! **Job.** Apply the patch formats of the Kubernetes API (strategic merge, JSON patch, JSON merge
//! patch), know how each list and map of each built-in type merges, and find what strict decoding
//! complains about, with the outcomes and messages that upstream's clients see.
//! **State.** None; a [`MergeSchema`](schema::MergeSchema) is built once by its owner and only read.
//! **Tasks.** None.
//! **Must not know.** Storage, HTTP, the clock, which kinds are served, or any Kubernetes type: type
//! definitions come in as JSON schema.
//!
//! Where upstream's outcome depends on Go's random map order, this crate fixes one order; where
//! upstream panics (and answers 500), it gives a typed error.

pub mod decode;
pub mod fuzz;
pub mod go_format;
pub mod json;
pub mod limits;
pub mod merge;
pub mod schema;
pub mod strategic;
pub mod strict;
mod syntax;

/// How the API server has to answer a refused patch. The discriminant is the HTTP status.
///
/// What goes into the `Status` object differs by variant, and follows from upstream's handlers:
/// `BadRequest` carries the error's message; `Unprocessable` carries
/// [`UNPROCESSABLE_MESSAGE`] instead of it; `TooLarge` prefixes it with
/// `Request entity too large: `; `Internal` carries the message with an empty reason (which is what Go
/// calls `StatusReasonUnknown`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// 400, reason `BadRequest`.
    BadRequest = 400,
    /// 413, reason `RequestEntityTooLarge`.
    TooLarge = 413,
    /// 422, reason `Invalid`.
    Unprocessable = 422,
    /// 500, reason empty: errors that upstream passes on without a status of their own.
    Internal = 500,
}

impl Rejection {
    /// The HTTP status code.
    pub const fn http_status(self) -> u16 {
        self as u16
    }
}

/// What upstream writes into the `message` of a 422 for a patch that could not be applied: the
/// reason itself is not told to clients.
pub const UNPROCESSABLE_MESSAGE: &str = "the server rejected our request due to an error in our request";
