//! A disk in memory that behaves as badly as a real one may: it forgets what was not synced, in any order and
//! in parts; it fills up; it fails.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::{Disk, DiskFile};

/// What a disk writes as a whole.
const SECTOR: usize = 64;

#[derive(Clone, Debug)]
enum FileOp {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl FileOp {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            FileOp::Write(offset, data) => {
                if bytes.len() < offset + data.len() {
                    bytes.resize(offset + data.len(), 0);
                }
                bytes[*offset..offset + data.len()].copy_from_slice(data);
            }
            FileOp::Truncate(len) => bytes.truncate(*len),
        }
    }

    /// Applies a part of it: what a crash in the middle may leave.
    fn apply_torn(&self, bytes: &mut Vec<u8>, rng: &mut StdRng) {
        match (self, rng.random_range(0..4)) {
            (_, 0) => {}
            (_, 1) | (FileOp::Truncate(_), _) => self.apply(bytes),
            (FileOp::Write(offset, data), 2) => {
                let kept = rng.random_range(0..=data.len());
                FileOp::Write(*offset, data[..kept].to_vec()).apply(bytes);
            }
            (FileOp::Write(offset, data), _) => {
                // The length is there, some sectors are not: they read as what was there, or as zeros.
                if bytes.len() < offset + data.len() {
                    bytes.resize(offset + data.len(), 0);
                }
                for start in (0..data.len()).step_by(SECTOR) {
                    if rng.random_bool(0.5) {
                        let sector = &data[start..data.len().min(start + SECTOR)];
                        bytes[offset + start..offset + start + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum DirectoryOp {
    Link(String, usize),
    Rename(String, String),
    Remove(String),
}

impl DirectoryOp {
    fn apply(&self, directory: &mut BTreeMap<String, usize>) {
        match self {
            DirectoryOp::Link(name, file) => {
                directory.insert(name.clone(), *file);
            }
            DirectoryOp::Rename(from, to) => {
                if let Some(file) = directory.remove(from) {
                    directory.insert(to.clone(), file);
                }
            }
            DirectoryOp::Remove(name) => {
                directory.remove(name);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<FileOp>,
}

/// How a disk that is full says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    AtWrite,
    /// Space is only looked for when the file is synced.
    AtSync,
}

#[derive(Debug)]
struct Sim {
    files: Vec<Inode>,
    directory: BTreeMap<String, usize>,
    durable_directory: BTreeMap<String, usize>,
    unsynced: Vec<DirectoryOp>,
    /// Operations so far.
    operations: usize,
    crash_at: Option<usize>,
    crashed: bool,
    capacity: Option<(usize, Full)>,
    fail_next_sync: bool,
    /// Operations that fail, as they are counted.
    failing: std::ops::Range<usize>,
    rng: StdRng,
}

/// See the module. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<Sim>>);

impl SimDisk {
    pub(crate) fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Sim {
            files: Vec::new(),
            directory: BTreeMap::new(),
            durable_directory: BTreeMap::new(),
            unsynced: Vec::new(),
            operations: 0,
            crash_at: None,
            crashed: false,
            capacity: None,
            fail_next_sync: false,
            failing: 0..0,
            rng: StdRng::seed_from_u64(seed),
        })))
    }

    /// From the `n`th operation from now on nothing works any more. That one may have done a part.
    pub(crate) fn crash_after(&self, n: usize) {
        let mut sim = self.0.lock();
        sim.crash_at = Some(sim.operations + n);
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.0.lock().crashed
    }

    pub(crate) fn operations(&self) -> usize {
        self.0.lock().operations
    }

    /// Limits the bytes in all files.
    pub(crate) fn limit(&self, capacity: Option<(usize, Full)>) {
        self.0.lock().capacity = capacity;
    }

    pub(crate) fn used(&self) -> usize {
        self.0.lock().used()
    }

    /// The next sync fails as a broken disk does.
    pub(crate) fn fail_next_sync(&self) {
        self.0.lock().fail_next_sync = true;
    }

    /// Power is lost: what comes back is what was durable, and anything of the rest.
    pub(crate) fn power_cycle(&self) -> SimDisk {
        let mut sim = self.0.lock();
        let sim = &mut *sim;
        let mut directory = sim.durable_directory.clone();
        let keep = sim.rng.random_range(0..3);
        for op in &sim.unsynced {
            if keep == 1 || (keep == 2 && sim.rng.random_bool(0.5)) {
                op.apply(&mut directory);
            }
        }
        let mut files = Vec::new();
        for file in directory.values_mut() {
            let inode = &sim.files[*file];
            let mut bytes = inode.durable.clone();
            for op in &inode.unsynced {
                op.apply_torn(&mut bytes, &mut sim.rng);
            }
            *file = files.len();
            files.push(Inode { cached: bytes.clone(), durable: bytes, unsynced: Vec::new() });
        }
        SimDisk(Arc::new(Mutex::new(Sim {
            files,
            durable_directory: directory.clone(),
            directory,
            unsynced: Vec::new(),
            operations: 0,
            crash_at: None,
            crashed: false,
            capacity: sim.capacity,
            fail_next_sync: false,
            failing: 0..0,
            rng: StdRng::seed_from_u64(sim.rng.random()),
        })))
    }

    /// Some operations after the next `after` fail. They may have done what they were asked, or not.
    pub(crate) fn fail_some(&self, after: usize, count: usize) {
        let mut sim = self.0.lock();
        let first = sim.operations + 1 + after;
        sim.failing = first..first + count;
    }

    /// All files and what is in them.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let sim = self.0.lock();
        sim.directory.iter().map(|(name, file)| (name.clone(), sim.files[*file].cached.clone())).collect()
    }

    /// A disk with these files.
    pub(crate) fn with_files(files: &BTreeMap<String, Vec<u8>>) -> SimDisk {
        let disk = SimDisk::new(0);
        {
            let mut sim = disk.0.lock();
            for (name, bytes) in files {
                let file = sim.files.len();
                sim.files.push(Inode { cached: bytes.clone(), durable: bytes.clone(), unsynced: Vec::new() });
                sim.directory.insert(name.clone(), file);
            }
            sim.durable_directory = sim.directory.clone();
        }
        disk
    }
}

fn dead() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full")
}

fn broken() -> io::Error {
    io::Error::other("the simulated disk is broken")
}

/// An operation that is done, or half done, and fails all the same.
type Fault = Option<io::Error>;

fn done(fault: Fault) -> io::Result<()> {
    fault.map_or(Ok(()), Err)
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Sim {
    fn used(&self) -> usize {
        self.directory.values().map(|f| self.files[*f].cached.len()).sum()
    }

    fn room(&self, at: Full) -> usize {
        match self.capacity {
            Some((capacity, full)) if full == at => capacity.saturating_sub(self.used()),
            _ => usize::MAX,
        }
    }

    /// Counts an operation. Says how it ends early, if it does.
    fn begin(&mut self) -> io::Result<Fault> {
        if self.crashed {
            return Err(dead());
        }
        self.operations += 1;
        self.crashed = self.crash_at == Some(self.operations);
        if self.crashed {
            return Ok(Some(dead()));
        }
        if self.failing.contains(&self.operations) {
            return if self.rng.random_bool(0.5) { Err(broken()) } else { Ok(Some(broken())) };
        }
        Ok(None)
    }

    fn directory_op(&mut self, op: DirectoryOp) -> io::Result<()> {
        let fault = self.begin()?;
        op.apply(&mut self.directory);
        self.unsynced.push(op);
        done(fault)
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.directory.get(name).copied().ok_or_else(|| missing(name))
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut sim = self.disk.0.lock();
        let fault = sim.begin()?;
        let offset = offset as usize;
        let grows = (offset + bytes.len()).saturating_sub(sim.files[self.file].cached.len());
        let room = sim.room(Full::AtWrite);
        let fits = if grows > room { bytes.len() - (grows - room).min(bytes.len()) } else { bytes.len() };
        let op = FileOp::Write(offset, bytes[..fits].to_vec());
        let inode = &mut sim.files[self.file];
        op.apply(&mut inode.cached);
        inode.unsynced.push(op);
        if fault.is_none() && fits < bytes.len() { Err(full()) } else { done(fault) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut sim = self.disk.0.lock();
        let fault = sim.begin()?;
        let over = sim.capacity.is_some_and(|(c, full)| full == Full::AtSync && sim.used() > c);
        let fails = std::mem::take(&mut sim.fail_next_sync);
        if fault.is_some() || over || fails {
            let sim = &mut *sim;
            let inode = &mut sim.files[self.file];
            // Whatever of it has reached the disk: the system will not try the rest again.
            let complete = sim.rng.random_bool(0.3);
            for op in std::mem::take(&mut inode.unsynced) {
                if complete {
                    op.apply(&mut inode.durable);
                } else {
                    op.apply_torn(&mut inode.durable, &mut sim.rng);
                }
            }
            return Err(fault.unwrap_or_else(|| if over { full() } else { broken() }));
        }
        let inode = &mut sim.files[self.file];
        for op in std::mem::take(&mut inode.unsynced) {
            op.apply(&mut inode.durable);
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut sim = self.disk.0.lock();
        let fault = sim.begin()?;
        let op = FileOp::Truncate(len as usize);
        let inode = &mut sim.files[self.file];
        op.apply(&mut inode.cached);
        inode.unsynced.push(op);
        done(fault)
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut sim = self.0.lock();
        if sim.room(Full::AtWrite) == 0 {
            sim.begin()?;
            return Err(full());
        }
        let file = sim.files.len();
        sim.files.push(Inode::default());
        sim.directory_op(DirectoryOp::Link(name.to_owned(), file))?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut sim = self.0.lock();
        done(sim.begin()?)?;
        let file = sim.file(name)?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let mut sim = self.0.lock();
        done(sim.begin()?)?;
        let file = sim.file(name)?;
        Ok(Box::new(Cursor::new(sim.files[file].cached.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut sim = self.0.lock();
        done(sim.begin()?)?;
        Ok(sim.directory.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.file(from)?;
        sim.directory_op(DirectoryOp::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.file(name)?;
        sim.directory_op(DirectoryOp::Remove(name.to_owned()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut sim = self.0.lock();
        let fault = sim.begin()?;
        if fault.is_some() && sim.rng.random_bool(0.5) {
            return done(fault);
        }
        let sim = &mut *sim;
        for op in std::mem::take(&mut sim.unsynced) {
            op.apply(&mut sim.durable_directory);
        }
        done(fault)
    }
}
