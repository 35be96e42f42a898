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

/// As much as the kernel writes without looking whether it should stop.
const PAGE_BYTES: usize = 4096;

/// Writes JSON over a file of JSON. Whoever reads it after this process was killed sees the old or the new, as with [`write_atomically`], which makes a
/// file on the disk each time; this makes one only where the text is long.
pub(crate) fn write_over(path: &Path, json: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    if json.len() > PAGE_BYTES {
        return write_atomically(path, json);
    }
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(path).at("open", path)?;
    let before = usize::try_from(file.metadata().at("look at", path)?.len()).unwrap_or(usize::MAX);
    if before > PAGE_BYTES {
        return write_atomically(path, json);
    }
    // What was longer is overwritten to its end with what means nothing.
    let mut text = json.to_vec();
    text.resize(before.max(json.len()), b' ');
    file.write_all_at(&text, 0).at("write", path)
}

/// The path with something behind its last name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let long = "x".repeat(2 * PAGE_BYTES);
        for text in ["first, and longer", "second", "", "a third one, longest of all", &long, "short"] {
            write_over(&path, serde_json::to_string(text).unwrap().as_bytes()).unwrap();
            let read: String = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(read, text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
