//! How a command ended, for scripts: exit codes, and what the user may try next.

use std::process::ExitCode;

use skep_client::{ErrorKind, KubeconfigError};
use skep_registry::client::ClientError;

/// Exit codes. Written down in docs/cli.md; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line or the configuration is wrong: nothing was tried.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// A server, a quota or a rule said no.
    Refused = 4,
    /// Nobody answers, or nothing runs.
    Unreachable = 5,
    /// Some of what was asked for is done or works, and some is not.
    Partial = 6,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// A failure whose code is known where it happens.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    code: Code,
    message: String,
}

/// An error with a code.
pub(crate) fn failure(code: Code, message: impl Into<String>) -> anyhow::Error {
    Failure { code, message: message.into() }.into()
}

fn of_status(status: u16) -> Code {
    match status {
        401 | 403 | 409 | 422 | 429 => Code::Refused,
        404 => Code::NotFound,
        502..=504 => Code::Unreachable,
        _ => Code::Failed,
    }
}

fn of_client(error: &skep_client::Error) -> Code {
    match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unreachable | ErrorKind::Timeout => Code::Unreachable,
        ErrorKind::Other | ErrorKind::Gone => Code::Failed,
        _ => Code::Refused,
    }
}

/// An error with its causes, without those that it has told already.
pub(crate) fn story(error: &anyhow::Error) -> String {
    let mut story = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !story.contains(&cause) {
            story = if story.is_empty() { cause } else { format!("{story}: {cause}") };
        }
    }
    story
}

/// The code of an error: that of the first in its chain that says one.
pub(crate) fn code(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if let Some(error) = cause.downcast_ref::<skep_client::Error>() {
            return of_client(error);
        }
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return match error {
                ClientError::Status { status, .. } => of_status(status.as_u16()),
                ClientError::Unreachable { .. } => Code::Unreachable,
                ClientError::Address(_) => Code::Usage,
                _ => Code::Failed,
            };
        }
        if let Some(error) = cause.downcast_ref::<skep_runtime::Error>()
            && error.kind == skep_runtime::ErrorKind::NotFound
        {
            return Code::NotFound;
        }
        if let Some(KubeconfigError::Read { source, .. }) = cause.downcast_ref::<KubeconfigError>()
            && source.kind() == std::io::ErrorKind::NotFound
        {
            return Code::Unreachable;
        }
    }
    Code::Failed
}

/// What may help; nothing where the error says that itself, or nobody knows.
pub(crate) fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    for cause in error.chain() {
        if cause.downcast_ref::<Failure>().is_some() {
            return None;
        }
        if let Some(error) = cause.downcast_ref::<skep_client::Error>() {
            return match error.kind() {
                ErrorKind::Unreachable | ErrorKind::Timeout => Some(
                    "`skep status` shows what runs here, `skep up` starts it; another cluster: --kubeconfig FILE",
                ),
                ErrorKind::Unauthorized => Some(
                    "the credential is not good (any more): use the operator's kubeconfig, or have a new one made with `skep tenant kubeconfig`",
                ),
                ErrorKind::Forbidden => {
                    Some("this needs the operator's kubeconfig: admin.kubeconfig in the data directory")
                }
                ErrorKind::AlreadyExists => Some("choose another name, or delete the old one first"),
                _ => None,
            };
        }
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return match error.status().map(|s| s.as_u16()) {
                Some(401) => Some(
                    "log in: --kubeconfig FILE of the tenant, --username with --password-stdin, or `skopeo login`",
                ),
                Some(403) => {
                    Some("a credential may write its own tenant's images only: HOST/TENANT/NAME:TAG")
                }
                None if matches!(error, ClientError::Unreachable { .. }) => Some(
                    "is the address right? `skep status` shows the registry's; --plain-http is for one without TLS, --ca for one with an authority of its own",
                ),
                _ => None,
            };
        }
        if let Some(KubeconfigError::Read { .. }) = cause.downcast_ref::<KubeconfigError>() {
            return Some(
                "`skep up` writes one for the operator; SKEP_DATA or --data says in which data directory",
            );
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_code_of_its_cause() {
        let status = |code: u16| skep_client::Error::Status {
            code,
            reason: String::new(),
            message: String::new(),
            retry_after_s: None,
        };
        let cases: [(anyhow::Error, Code); 8] = [
            (status(404).into(), Code::NotFound),
            (status(403).into(), Code::Refused),
            (status(409).into(), Code::Refused),
            (status(503).into(), Code::Unreachable),
            (status(500).into(), Code::Failed),
            (anyhow::Error::from(status(404)).context("while doing something"), Code::NotFound),
            (failure(Code::Partial, "half"), Code::Partial),
            (anyhow::anyhow!("else"), Code::Failed),
        ];
        for (error, expected) in cases {
            assert_eq!(code(&error), expected, "{error:?}");
        }
        let twice = anyhow::anyhow!("no such file").context("web.tar: no such file").context("cannot load");
        assert_eq!(story(&twice), "cannot load: web.tar: no such file");
        assert!(remedy(&anyhow::Error::from(status(401))).is_some());
        assert_eq!(remedy(&failure(Code::Failed, "x")), None);
    }
}
