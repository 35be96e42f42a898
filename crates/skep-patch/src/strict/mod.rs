//! What strict decoding complains about: keys that occur twice and fields that don't exist.
//!
//! Duplicate keys are lost once JSON is parsed, so they are looked for in the bytes: [`scan`] says
//! cheaply whether there may be any, on every write; [`duplicate_fields`] and [`strict_errors`] name
//! them with their paths. Unknown fields come from the caller, which decodes into types with
//! `serde_ignored`, as [`FieldPath`]s.
//!
//! Duplicates inside raw JSON that a typed object embeds (`RawExtension`, `FieldsV1`) are reported
//! too; upstream does not look there.

mod path;
mod report;
mod scan;

pub use path::{FieldPath, Segment};
pub(crate) use report::operation_errors;
pub use report::{
    StrictError, StrictErrorKind, duplicate_fields, json_patch_errors, strict_decoding_message, strict_errors,
};
pub use scan::{Scan, ScanError, scan, scan_to_depth, validate_depth};

#[cfg(test)]
mod tests;
