//! What clients are told when something is not as they think.

use http::StatusCode;

use crate::digest::DigestError;
use crate::name::{NameError, ReferenceError, TagError};

/// The specification's error codes, and two that every registry has besides (`RANGE_INVALID`, `UNKNOWN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    RangeInvalid,
    PreconditionFailed,
    PaginationInvalid,
    /// A mirror's source cannot be reached.
    Upstream,
    /// The server's own fault.
    Unknown,
    /// The server cannot tell who asks at the moment.
    Unavailable,
}

impl Code {
    /// As it stands in an answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Code::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Code::ManifestInvalid | Code::ManifestTooLarge | Code::PreconditionFailed => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::SizeInvalid => "SIZE_INVALID",
            Code::Unauthorized => "UNAUTHORIZED",
            Code::Denied => "DENIED",
            Code::Unsupported => "UNSUPPORTED",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::RangeInvalid => "RANGE_INVALID",
            Code::PaginationInvalid => "PAGINATION_NUMBER_INVALID",
            Code::Upstream | Code::Unknown | Code::Unavailable => "UNKNOWN",
        }
    }

    /// The answer's status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Code::BlobUnknown | Code::BlobUploadUnknown | Code::ManifestUnknown | Code::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Code::ManifestTooLarge | Code::SizeInvalid => StatusCode::PAYLOAD_TOO_LARGE,
            Code::BlobUploadInvalid
            | Code::DigestInvalid
            | Code::ManifestBlobUnknown
            | Code::ManifestInvalid
            | Code::PaginationInvalid
            | Code::NameInvalid => StatusCode::BAD_REQUEST,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::Denied => StatusCode::FORBIDDEN,
            Code::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Code::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Code::Upstream => StatusCode::BAD_GATEWAY,
            Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An answer that is not what was asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    /// Which kind.
    pub code: Code,
    /// A sentence for people.
    pub message: String,
    /// What it is about, such as the digests that are missing; one error of the body each.
    pub details: Vec<String>,
}

impl RegistryError {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> RegistryError {
        RegistryError { code, message: message.into(), details: Vec::new() }
    }

    /// About these.
    #[must_use]
    pub fn about(mut self, details: Vec<String>) -> RegistryError {
        self.details = details;
        self
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let one = |detail: serde_json::Value| serde_json::json!({"code": self.code.as_str(), "message": self.message, "detail": detail});
        let errors: Vec<_> = match self.details.is_empty() {
            true => vec![one(serde_json::Value::Null)],
            false => self.details.iter().map(|d| one(serde_json::json!({"digest": d}))).collect(),
        };
        serde_json::json!({ "errors": errors }).to_string().into_bytes()
    }
}

impl From<DigestError> for RegistryError {
    fn from(e: DigestError) -> RegistryError {
        RegistryError::new(Code::DigestInvalid, e.to_string())
    }
}

impl From<NameError> for RegistryError {
    fn from(e: NameError) -> RegistryError {
        let code = match e {
            NameError::Form(_) => Code::NameInvalid,
            NameError::Space(_) => Code::NameUnknown,
        };
        RegistryError::new(code, e.to_string())
    }
}

impl From<TagError> for RegistryError {
    fn from(e: TagError) -> RegistryError {
        RegistryError::new(Code::ManifestInvalid, e.to_string())
    }
}

impl From<ReferenceError> for RegistryError {
    fn from(e: ReferenceError) -> RegistryError {
        match e {
            ReferenceError::Digest(e) => e.into(),
            ReferenceError::Tag(e) => e.into(),
        }
    }
}

/// What went wrong on the disk: told in full to the log, and to the client that it is not its fault.
impl From<std::io::Error> for RegistryError {
    fn from(e: std::io::Error) -> RegistryError {
        if e.kind() == std::io::ErrorKind::StorageFull || e.kind() == std::io::ErrorKind::QuotaExceeded {
            tracing::error!(error = %e, "the registry's disk is full");
            return RegistryError::new(Code::Unavailable, "the registry's disk is full; nothing was stored");
        }
        tracing::error!(error = %e, "the registry's directory cannot be used");
        RegistryError::new(Code::Unknown, "the registry failed; its log tells why")
    }
}
