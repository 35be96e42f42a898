//! What can go wrong with a request, in the kinds that callers tell apart.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::kubeconfig::KubeconfigError;

/// Why a request got no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// The server cannot be reached.
    #[error("the API server at {server} cannot be reached: {why}; is it running?")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        why: String,
    },
    /// The server did not answer in time. Whether a write was done is not known.
    #[error("the API server at {server} did not answer {what} within {after_s} s")]
    Timeout {
        /// Its address.
        server: String,
        /// Method and path.
        what: String,
        /// How long was waited.
        after_s: u64,
    },
    /// The server answered with an error.
    #[error("{message}")]
    Status {
        /// The HTTP status code.
        code: u16,
        /// The machine-readable reason.
        reason: String,
        /// The sentence for people.
        message: String,
        /// After how many seconds the server wants to be asked again, where it said so.
        retry_after_s: Option<u32>,
    },
    /// The server's answer is not what was asked for.
    #[error("the API server's answer cannot be read: {0}")]
    Answer(String),
}

/// The kinds of errors that callers branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object (or the path) does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The object has moved on, or a precondition does not hold.
    Conflict,
    /// The revision asked for is no longer remembered: list anew.
    Gone,
    /// The caller may not, or an admission check says no.
    Forbidden,
    /// The credential is not good.
    Unauthorized,
    /// The object or the request is not valid: trying again changes nothing.
    Invalid,
    /// Too many requests, or an eviction that a budget forbids.
    TooManyRequests {
        /// When to come back, where the server said so.
        retry_after: Option<Duration>,
    },
    /// The server cannot be reached, or says that it cannot serve now.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Anything else.
    Other,
}

impl Error {
    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Kubeconfig(_) | Error::Answer(_) => ErrorKind::Other,
            Error::Unreachable { .. } => ErrorKind::Unreachable,
            Error::Timeout { .. } => ErrorKind::Timeout,
            Error::Status { code, reason, retry_after_s, .. } => match (*code, reason.as_str()) {
                (404, _) => ErrorKind::NotFound,
                (409, "AlreadyExists") => ErrorKind::AlreadyExists,
                (409, _) => ErrorKind::Conflict,
                (410, _) => ErrorKind::Gone,
                (403, _) => ErrorKind::Forbidden,
                (401, _) => ErrorKind::Unauthorized,
                (400 | 405 | 406 | 413 | 415 | 422, _) => ErrorKind::Invalid,
                (429, _) => ErrorKind::TooManyRequests {
                    retry_after: retry_after_s.map(|s| Duration::from_secs(s.into())),
                },
                (502 | 503, _) => ErrorKind::Unreachable,
                (408 | 504, _) => ErrorKind::Timeout,
                _ => ErrorKind::Other,
            },
        }
    }

    /// Whether the server said that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Whether the server said that the name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.kind() == ErrorKind::AlreadyExists
    }

    /// Whether somebody else was faster.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.kind() == ErrorKind::Conflict
    }

    /// Whether the same request may succeed later without anything else changing.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self.kind() {
            ErrorKind::TooManyRequests { .. } | ErrorKind::Unreachable | ErrorKind::Timeout => true,
            ErrorKind::Other => matches!(self, Error::Status { code: 500.., .. }),
            _ => false,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    retry_after_seconds: Option<u32>,
}

/// The error in an answer's body, which is a `Status` if all is well.
pub(crate) fn of_answer(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let status: Status = serde_json::from_slice(body).unwrap_or_default();
    let header = headers.get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    let message =
        if status.message.is_empty() { format!("the API server answered {code}") } else { status.message };
    Error::Status {
        code: code.as_u16(),
        reason: status.reason,
        message,
        retry_after_s: status.details.and_then(|d| d.retry_after_seconds).or(header),
    }
}

/// The error in an `ERROR` event of a watch.
pub(crate) fn of_event(object: &[u8]) -> Error {
    let status: Status = serde_json::from_slice(object).unwrap_or_default();
    Error::Status {
        code: status.code,
        reason: status.reason,
        message: status.message,
        retry_after_s: status.details.and_then(|d| d.retry_after_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_kinds() {
        let of = |code: u16, body: &str| {
            of_answer(StatusCode::from_u16(code).unwrap(), &HeaderMap::new(), body.as_bytes()).kind()
        };
        assert_eq!(of(404, "{}"), ErrorKind::NotFound);
        assert_eq!(of(409, r#"{"reason":"AlreadyExists"}"#), ErrorKind::AlreadyExists);
        assert_eq!(of(409, r#"{"reason":"Conflict"}"#), ErrorKind::Conflict);
        assert_eq!(of(410, r#"{"reason":"Expired"}"#), ErrorKind::Gone);
        assert_eq!(of(422, "not json"), ErrorKind::Invalid);
        assert_eq!(of(503, ""), ErrorKind::Unreachable);
        let wait = ErrorKind::TooManyRequests { retry_after: Some(Duration::from_secs(3)) };
        assert_eq!(of(429, r#"{"details":{"retryAfterSeconds":3}}"#), wait);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::RETRY_AFTER, 3.into());
        assert_eq!(of_answer(StatusCode::TOO_MANY_REQUESTS, &headers, b"").kind(), wait);
        assert_eq!(of_event(br#"{"code":410,"reason":"Expired","message":"x"}"#).kind(), ErrorKind::Gone);
        assert!(
            of_answer(StatusCode::INTERNAL_SERVER_ERROR, &headers, b"").retryable()
                && !of_answer(StatusCode::FORBIDDEN, &headers, b"").retryable()
        );
    }
}
