//! From objects to what the store keeps.

use skep_api::{DynKind, Object};
use skep_store::{AttrsBuilder, NewValue};

use crate::status::ApiError;

/// Encodes an object with its labels and selectable fields.
///
/// # Errors
/// 500 when the object has no JSON form, 422 when a label or field is too long to keep.
pub fn new_value(kind: &dyn DynKind, object: &dyn Object) -> Result<NewValue, ApiError> {
    let encoded = object.encode().map_err(ApiError::internal)?;
    let mut attrs = AttrsBuilder::default();
    let too_long = |e: skep_store::AttrsError| ApiError::new(422, "Invalid", e.to_string());
    for (key, value) in object.meta().labels.iter().flatten() {
        attrs.label(key, value).map_err(too_long)?;
    }
    for (key, value, indexed) in kind.fields(object).values {
        attrs.field(key, &value, indexed).map_err(too_long)?;
    }
    let attrs = attrs.build().map_err(too_long)?;
    let skep_api::Encoded { body, revision_at, meta_start, meta_end } = encoded;
    Ok(NewValue { body, revision_at, meta_start, meta_end, attrs })
}
