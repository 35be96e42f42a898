//! Errors as Kubernetes clients read them: the `Status` object.
//!
//! Reasons, codes and wording: k8s.io/apimachinery `pkg/api/errors`.

use std::fmt;

use serde::Serialize;
use skep_api::{Errors, KindInfo};

/// An error answer. Whatever goes wrong with a request ends up as one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason: `NotFound`, `Invalid`, …
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// What the error is about; boxed to keep results small.
    pub details: Option<Box<Details>>,
}

/// What an error is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource (plural), or the kind for `Invalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry for each thing that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When trying again makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `FieldValueInvalid`, …
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// What.
    pub message: String,
    /// Where.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// Names the object of an error: resource, group, name.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The API group.
    pub group: &'a str,
    /// The plural resource.
    pub resource: &'a str,
    /// The object's name; empty for the resource as a whole.
    pub name: &'a str,
}

impl<'a> About<'a> {
    /// An object of a kind.
    #[must_use]
    pub fn object(info: &'a KindInfo, name: &'a str) -> About<'a> {
        About { group: &info.group, resource: &info.plural, name }
    }

    fn details(self) -> Details {
        Details {
            name: self.name.to_owned(),
            group: self.group.to_owned(),
            kind: self.resource.to_owned(),
            ..Details::default()
        }
    }

    /// `pods "x"` or `deployments.apps "x"`; without a name only the resource.
    fn words(self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        if self.name.is_empty() {
            format!("{}{group}", self.resource)
        } else {
            format!("{}{group} {:?}", self.resource, self.name)
        }
    }
}

/// The most of a name that an error repeats: no valid one is longer.
const MAX_NAME_BYTES: usize = 1024;

/// The most bytes of field errors in one answer: beyond it, a small request could ask for a huge answer.
const MAX_ERRORS_BYTES: usize = 256 * 1024;

/// The first errors, as many as fit.
fn within(errors: Errors, max_bytes: usize) -> Errors {
    let (mut kept, mut bytes) = (Errors::new(), 0);
    for error in errors {
        bytes += error.field.len() + error.message.len();
        if bytes > max_bytes && !kept.is_empty() {
            break;
        }
        kept.push(error);
    }
    kept
}

impl ApiError {
    /// An error without details.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: None }
    }

    fn about(code: u16, reason: &'static str, message: String, about: About<'_>) -> ApiError {
        ApiError { code, reason, message, details: Some(Box::new(about.details())) }
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(about: About<'_>) -> ApiError {
        ApiError::about(404, "NotFound", format!("{} not found", about.words()), about)
    }

    /// 404 for a path that nothing is served at.
    #[must_use]
    pub fn no_such_path() -> ApiError {
        let mut e = ApiError::new(404, "NotFound", "the server could not find the requested resource");
        e.details = Some(Box::default());
        e
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(about: About<'_>) -> ApiError {
        ApiError::about(409, "AlreadyExists", format!("{} already exists", about.words()), about)
    }

    /// 409: something stands against the change.
    #[must_use]
    pub fn conflict(about: About<'_>, why: &str) -> ApiError {
        ApiError::about(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {}: {why}", about.words()),
            about,
        )
    }

    /// 409: the object has moved on since the caller read it.
    #[must_use]
    pub fn modified(about: About<'_>) -> ApiError {
        ApiError::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403.
    #[must_use]
    pub fn forbidden(about: About<'_>, why: &str) -> ApiError {
        let message = if about.resource.is_empty() {
            format!("forbidden: {why}")
        } else {
            format!("{} is forbidden: {why}", about.words())
        };
        ApiError::about(403, "Forbidden", message, about)
    }

    /// 422 with a cause for each thing that is wrong.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Errors) -> ApiError {
        let name = &*skep_api::field::cut(name, MAX_NAME_BYTES);
        let errors = within(errors, MAX_ERRORS_BYTES);
        let message = format!(
            "{kind}{} {name:?} is invalid: {errors}",
            if group.is_empty() { String::new() } else { format!(".{group}") }
        );
        let causes = errors
            .into_iter()
            .map(|e| Cause { reason: e.kind.reason(), message: e.message, field: e.field })
            .collect();
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        };
        ApiError { code: 422, reason: "Invalid", message, details: Some(Box::new(details)) }
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// 401. Says nothing about why, so that nothing can be learned from it.
    #[must_use]
    pub fn unauthorized() -> ApiError {
        ApiError::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    #[must_use]
    pub fn method_not_allowed() -> ApiError {
        let mut e = ApiError::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        e.details = Some(Box::default());
        e
    }

    /// 410: a revision that the server no longer remembers.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// 413.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> ApiError {
        ApiError::new(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    #[must_use]
    pub fn unsupported_media_type(message: impl Into<String>) -> ApiError {
        ApiError::new(415, "UnsupportedMediaType", message)
    }

    /// 406.
    #[must_use]
    pub fn not_acceptable(accepted: &str) -> ApiError {
        ApiError::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    /// 429, to be tried again after some seconds.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> ApiError {
        let details = Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() };
        ApiError {
            code: 429,
            reason: "TooManyRequests",
            message: message.into(),
            details: Some(Box::new(details)),
        }
    }

    /// 503, to be tried again.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(503, "ServiceUnavailable", message)
    }

    /// 507: the disk of the store is full.
    #[must_use]
    pub fn no_space() -> ApiError {
        ApiError::new(
            507,
            "InsufficientStorage",
            "the store's disk is full: nothing was written; free space on the data directory's file system and try again",
        )
    }

    /// 500: a defect or damage on this side. The text goes to the client, so it must not hold secrets.
    #[must_use]
    pub fn internal(message: impl fmt::Display) -> ApiError {
        let text = format!("Internal error occurred: {message}");
        let cause = Cause { reason: "", message: message.to_string(), field: String::new() };
        let details = Details { causes: vec![cause], ..Details::default() };
        ApiError { code: 500, reason: "InternalError", message: text, details: Some(Box::new(details)) }
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(
        mut self,
        reason: &'static str,
        message: impl Into<String>,
        field: impl Into<String>,
    ) -> ApiError {
        let details = self.details.get_or_insert_default();
        details.causes.push(Cause { reason, message: message.into(), field: field.into() });
        self
    }

    /// The `Status` object.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Status<'a> {
            kind: &'static str,
            #[serde(rename = "apiVersion")]
            api_version: &'static str,
            metadata: Empty,
            status: &'static str,
            message: &'a str,
            reason: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<&'a Details>,
            code: u16,
        }
        #[derive(Serialize)]
        struct Empty {}
        let status = Status {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Failure",
            message: &self.message,
            reason: self.reason,
            details: self.details.as_deref(),
            code: self.code,
        };
        // Strings and numbers only: this cannot fail.
        serde_json::to_vec(&status).unwrap_or_default()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// The `Status` that answers a successful deletion.
#[must_use]
pub fn deleted(about: About<'_>, uid: &str) -> Vec<u8> {
    let details = Details { uid: uid.to_owned(), ..about.details() };
    let value = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    value.to_string().into_bytes()
}

/// A bare success, for writes that have no object to answer with (bindings, evictions).
#[must_use]
pub fn success(code: u16) -> Vec<u8> {
    serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_api::Path;

    #[test]
    fn wording_is_upstreams() {
        let pod = About { group: "", resource: "pods", name: "x" };
        let deployment = About { group: "apps", resource: "deployments", name: "x" };
        assert_eq!(ApiError::not_found(pod).message, r#"pods "x" not found"#);
        assert_eq!(ApiError::already_exists(deployment).message, r#"deployments.apps "x" already exists"#);
        assert_eq!(ApiError::forbidden(About { name: "", ..pod }, "no").message, "pods is forbidden: no");
        let mut errors = Errors::new();
        errors.required(&Path::root("spec"), "");
        let e = ApiError::invalid("apps", "Deployment", "x", errors);
        assert_eq!(e.message, r#"Deployment.apps "x" is invalid: spec: Required value"#);
        let json: serde_json::Value = serde_json::from_slice(&e.to_json()).unwrap();
        assert_eq!(json["details"]["causes"][0]["reason"], "FieldValueRequired");
        assert_eq!(json["details"]["causes"][0]["field"], "spec");
        assert_eq!(json["code"], 422);
    }
}
