//! Label and field selectors on stored values.

use skep_base::Key;
use skep_base::selector::{FieldSelector, LabelSelector};
use skep_store::Value;

use crate::rest::Call;
use crate::status::ApiError;

/// Most bytes of a selector: one of this size is a list of names by machine, a larger one an attack.
const MAX_SELECTOR_BYTES: usize = 256 * 1024;

/// Both selectors of a request.
#[derive(Clone, Debug)]
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of a request.
    ///
    /// # Errors
    /// 400 for malformed selectors and for fields that the kind does not select on.
    pub fn of(call: &Call) -> Result<Selection, ApiError> {
        let o = &call.options;
        if o.label_selector.len() + o.field_selector.len() > MAX_SELECTOR_BYTES {
            return Err(ApiError::bad_request(format!(
                "the selectors are longer than {MAX_SELECTOR_BYTES} bytes"
            )));
        }
        let labels =
            o.label_selector.parse::<LabelSelector>().map_err(|e| ApiError::bad_request(e.to_string()))?;
        let mut fields =
            o.field_selector.parse::<FieldSelector>().map_err(|e| ApiError::bad_request(e.to_string()))?;
        let info = call.kind.info();
        for requirement in fields.requirements() {
            let known = matches!(requirement.field.as_str(), "metadata.name" | "metadata.namespace")
                || info.selectable.iter().any(|s| *s == requirement.field);
            if !known {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {}",
                    requirement.field
                )));
            }
        }
        // A watch or deletion of one object by path is a selection by its name.
        if !call.path.name.is_empty() {
            fields = fields.and_equals("metadata.name", &call.path.name);
        }
        Ok(Selection { labels, fields })
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The only name that can match, if the selection says one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The only value of a field that can match.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.fields.exact(field)
    }

    /// Whether a value is selected.
    #[must_use]
    pub fn matches(&self, key: &Key, value: &Value) -> bool {
        let attrs = value.attrs();
        self.labels.matches(|label| attrs.label(label))
            && self.fields.matches(|field| match field {
                "metadata.name" => Some(&key.name),
                "metadata.namespace" => Some(&key.namespace),
                other => attrs.field(other),
            })
    }
}
