//! Which process runs the cloud of a data directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `DIR/up.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// The process.
    pub(crate) pid: i32,
    /// When it was started, in ticks since boot: a pid alone could be another process by now.
    pub(crate) start_ticks: u64,
    /// Where it listens.
    pub(crate) server: String,
}

fn path(data: &Path) -> PathBuf {
    data.join("up.json")
}

/// When a process was started, unless it is dead. The name in the line may hold anything, so it is read from its end.
fn start_ticks(pid: i32) -> Option<u64> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

impl RunFile {
    /// Writes down that this process runs it.
    pub(crate) fn write(data: &Path, server: &str) -> std::io::Result<()> {
        let pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
        let file = RunFile { pid, start_ticks: start_ticks(pid).unwrap_or(0), server: server.to_owned() };
        let new = path(data).with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&file)?)?;
        std::fs::rename(new, path(data))
    }

    /// Which process ran it last; `None` if none is known.
    pub(crate) fn read(data: &Path) -> Option<RunFile> {
        serde_json::from_slice(&std::fs::read(path(data)).ok()?).ok()
    }

    /// Forgets it.
    pub(crate) fn remove(data: &Path) {
        // What is not there need not go.
        let _ = std::fs::remove_file(path(data));
    }

    /// Whether that very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_again_and_no_other_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RunFile::read(dir.path()), None);
        RunFile::write(dir.path(), "https://127.0.0.1:1").unwrap();
        let file = RunFile::read(dir.path()).unwrap();
        assert!(file.is_alive());
        assert!(!RunFile { start_ticks: file.start_ticks + 1, ..file }.is_alive());
        RunFile::remove(dir.path());
        assert_eq!(RunFile::read(dir.path()), None);
        std::fs::write(path(dir.path()), "half").unwrap();
        assert_eq!(RunFile::read(dir.path()), None);
    }
}
