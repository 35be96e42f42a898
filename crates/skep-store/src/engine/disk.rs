//! The few things that the log asks of a disk, behind a trait so that tests can crash at each of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file that is written from its start to its end.
pub trait DiskFile: Send {
    /// Writes at an offset, over what is there.
    ///
    /// # Errors
    /// What the disk says; a part may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns when the file's length and everything written to it are on stable storage.
    ///
    /// # Errors
    /// What the disk says; afterwards nothing is known about the unsynced part.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off everything behind `len` bytes; durable with the next sync.
    ///
    /// # Errors
    /// What the disk says.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// One directory.
pub trait Disk: Send + Sync {
    /// Makes a new, empty file, in place of any that has the name.
    ///
    /// # Errors
    /// What the disk says.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to write to it.
    ///
    /// # Errors
    /// What the disk says.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read it from the start.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
    /// The names of all files.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when creations, renames and removals are on stable storage.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_directory(&self) -> io::Result<()>;
}

/// A directory of the file system, locked against other processes while this value lives.
pub struct RealDisk {
    directory: PathBuf,
    _lock: File,
}

const LOCK_FILE: &str = "LOCK";

impl RealDisk {
    /// Makes the directory if needed and locks it.
    ///
    /// # Errors
    /// [`super::OpenError::InUse`] when another process has it, else what the disk says.
    pub fn open(directory: &Path) -> Result<RealDisk, super::OpenError> {
        let io = |what: &str| {
            let what = format!("{what} {}", directory.display());
            move |source| super::OpenError::Io { what, source }
        };
        fs::create_dir_all(directory).map_err(io("creating"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(LOCK_FILE))
            .map_err(io("locking"))?;
        match lock.try_lock() {
            Ok(()) => Ok(RealDisk { directory: directory.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(super::OpenError::InUse(directory.display().to_string()))
            }
            Err(fs::TryLockError::Error(e)) => Err(io("locking")(e)),
        }
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::create(self.directory.join(name))?)))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().write(true).open(self.directory.join(name))?)))
    }
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.directory.join(name))?))
    }
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK_FILE
            {
                names.push(name);
            }
        }
        Ok(names)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }
    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}
