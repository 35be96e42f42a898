//! The file of the audit log, and the older ones beside it.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

/// When a file is put aside, and how many of those are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file that would become larger is put aside.
    pub max_bytes: u64,
    /// Files older than this are deleted; `None` keeps them.
    pub max_age: Option<Duration>,
    /// At most so many are kept; 0 keeps all.
    pub max_backups: usize,
}

/// What bytes of lines are gathered before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// A log file that is put aside when it has become large.
pub struct AuditFile {
    path: PathBuf,
    rotation: Rotation,
    file: BufWriter<File>,
    bytes: u64,
    /// Gives the time: for the names of files put aside, and for how old they are.
    now: fn() -> Timestamp,
}

impl AuditFile {
    /// Opens a file to append to, and makes it and its directory if needed.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, rotation: Rotation) -> std::io::Result<AuditFile> {
        AuditFile::open_at(path, rotation, Timestamp::now)
    }

    pub(super) fn open_at(
        path: &Path,
        rotation: Rotation,
        now: fn() -> Timestamp,
    ) -> std::io::Result<AuditFile> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        let (file, bytes) = append_to(path)?;
        Ok(AuditFile { path: path.to_owned(), rotation, file, bytes, now })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_line(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.rotation.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        self.file.flush()?;
        let (stem, extension) = self.name_parts();
        let time = (self.now)().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let mut aside = self.path.with_file_name(format!("{stem}-{time}{extension}"));
        let mut n = 1;
        while aside.exists() {
            // Twice in a millisecond.
            aside = self.path.with_file_name(format!("{stem}-{time}-{n}{extension}"));
            n += 1;
        }
        std::fs::rename(&self.path, &aside)?;
        (self.file, self.bytes) = append_to(&self.path)?;
        self.delete_old()
    }

    fn name_parts(&self) -> (String, String) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension =
            self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        (stem, extension)
    }

    fn delete_old(&self) -> std::io::Result<()> {
        let (stem, extension) = self.name_parts();
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut aside = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let middle = name
                .strip_prefix(&stem)
                .and_then(|n| n.strip_prefix('-'))
                .and_then(|n| n.strip_suffix(extension.as_str()));
            // Only what was put aside here begins with a year.
            if middle.is_some_and(|m| m.as_bytes().first().is_some_and(u8::is_ascii_digit)) {
                aside.push((name, entry.path(), entry.metadata()?.modified()?));
            }
        }
        // Newest first: the names sort as the times do.
        aside.sort_by(|a, b| b.0.cmp(&a.0));
        let now = std::time::SystemTime::from((self.now)());
        for (i, (_, path, modified)) in aside.iter().enumerate() {
            let too_many = self.rotation.max_backups > 0 && i >= self.rotation.max_backups;
            let age = now.duration_since(*modified).unwrap_or_default();
            if too_many || self.rotation.max_age.is_some_and(|max| age > max) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> std::io::Result<(BufWriter<File>, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    // Requests may hold secrets: nobody else reads them.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((BufWriter::with_capacity(BUFFER_BYTES, file), bytes))
}
