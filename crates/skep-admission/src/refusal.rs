//! Why a write is refused: everything that a `Status` needs.
//!
//! Wording and reasons: k8s.io/apimachinery `pkg/api/errors`.

use std::fmt;

use skep_api::Errors;

/// A refused write, ready to become a `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason: `Forbidden`, `NotFound`, …
    pub reason: &'static str,
    /// The whole sentence for people, `pods "x" is forbidden: …`.
    pub message: String,
    /// What it is about; boxed to keep results small.
    pub details: Box<Details>,
}

/// What a refusal is about: `details` of a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The API group.
    pub group: String,
    /// The resource, or the kind for `Invalid`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// One entry for each thing that is wrong.
    pub causes: Vec<Cause>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The machine-readable reason: `FieldValueInvalid`, `NamespaceTerminating`, …
    pub reason: &'static str,
    /// What.
    pub message: String,
    /// Where.
    pub field: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// `pods "x"` or `deployments.apps "x"`.
fn words(group: &str, resource: &str, name: &str) -> String {
    if group.is_empty() { format!("{resource} {name:?}") } else { format!("{resource}.{group} {name:?}") }
}

fn details(group: &str, kind: &str, name: &str) -> Box<Details> {
    Box::new(Details {
        group: group.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        causes: Vec::new(),
    })
}

impl Refusal {
    /// 403 about an object.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Refusal {
        let message = format!("{} is forbidden: {why}", words(group, resource, name));
        Refusal { code: 403, reason: "Forbidden", message, details: details(group, resource, name) }
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Refusal {
        let message = format!("{} not found", words(group, resource, name));
        Refusal { code: 404, reason: "NotFound", message, details: details(group, resource, name) }
    }

    /// 422 with a cause for each thing that is wrong.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Errors) -> Refusal {
        let message = format!("{} is invalid: {errors}", words(group, kind, name));
        let mut details = details(group, kind, name);
        details.causes = errors
            .into_iter()
            .map(|e| Cause { reason: e.kind.reason(), message: e.message, field: e.field })
            .collect();
        Refusal { code: 422, reason: "Invalid", message, details }
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal { code: 400, reason: "BadRequest", message: message.into(), details: Box::default() }
    }

    /// 500: a defect on this side.
    #[must_use]
    pub fn internal(message: impl fmt::Display) -> Refusal {
        let message = format!("Internal error occurred: {message}");
        Refusal { code: 500, reason: "InternalError", message, details: Box::default() }
    }
}
