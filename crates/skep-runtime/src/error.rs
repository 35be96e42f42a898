//! What can go wrong, as far as callers act on it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Which way something failed: what a caller branches on, and what travels between shim and agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorKind {
    /// There is no such pod, container, process or image.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// What was asked for contradicts itself, or is not allowed; trying again does not help.
    Invalid,
    /// It is not in the state for this: not running, not created.
    WrongState,
    /// This machine or kernel cannot do it.
    Unsupported,
    /// The program could not be started: missing, not executable, or its set-up failed.
    StartFailed,
    /// The shim is gone, or does not answer.
    ShimGone,
    /// Disk, kernel or network failed; trying again may help.
    Failed,
}

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Which way it failed.
    pub kind: ErrorKind,
    /// What failed, with its name.
    pub message: String,
    /// Why, if the system said so.
    #[source]
    pub source: Option<std::io::Error>,
}

/// Results of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a source.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), source: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn io(message: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            _ => ErrorKind::Failed,
        };
        Error { kind, message: message.into(), source: Some(source) }
    }

    /// The message and its source in one line, for where only text can go.
    pub fn full(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {source}", self.message),
            None => self.message.clone(),
        }
    }
}

/// Says which file an IO error was about.
pub(crate) trait AtPath<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> AtPath<T> for std::result::Result<T, E> {
    fn at(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(format!("cannot {doing} {}", path.display()), e))
    }
}

/// Writes a file in one step: whoever reads it sees the old content or the new.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = sibling(path, ".new");
    std::fs::write(&temporary, content).at("write", &temporary)?;
    std::fs::rename(&temporary, path).at("replace", path)
}

/// The path with something behind its last name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
