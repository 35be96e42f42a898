//! The directory.
//!
//! ```text
//! blobs/sha256/ab/HEX                      content, once
//! tenants/NAME@UID/PATH/_blobs/DIGEST      a hard link to it: this repository has it
//!                      /_manifests/DIGEST  a line that tells what the manifest needs, and its bytes
//!                      /_tags/TAG          a digest
//!                      /_referrers/DIGEST/DIGEST   empty: the second names the first as its subject
//! mirrors/HOST/PATH/…                      the same
//! uploads/ID/{session.json,data}           what is being sent
//! trash/                                   what is being removed
//! ```
//!
//! Everything appears by a rename or a link, after its content was synced, and the directory is synced before anybody is told: what was
//! acknowledged survives a crash, and half a blob is never visible. A tenant's directory carries its uid, so a tenant of the same name that comes
//! later finds nothing.
//!
//! Whether anybody needs a blob is the number of its links, so there is nothing to count and nothing that can be counted wrongly. What links it
//! holds `gate` shared; what removes the last link holds it exclusively ([`collect`]). Repositories are written one writer at a time.

pub mod collect;
mod repository;
mod upload;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::digest::Digest;
use crate::error::{Code, RegistryError};
use crate::name::Space;

pub use collect::Collected;
pub use repository::{BlobFile, Condition, StoredManifest};
pub use upload::{Upload, UploadPosition};

/// Largest blob: larger ones are mistakes more often than layers, and would fill the disk of everybody.
pub const BLOB_MAX_BYTES: u64 = 64 << 30;
/// Uploads of one tenant at the same time. Each holds a file open; a client that pushes in parallel needs a handful.
pub const UPLOADS_MAX: usize = 256;
/// What a tenant may store, unless its `Tenant` object says otherwise.
pub const TENANT_QUOTA_BYTES: u64 = 50 << 30;
/// Locks that repositories share: more only make it rarer that two wait for each other without need.
const STRIPES: usize = 64;

/// Whose, and which one of that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A tenant with its uid.
    Tenant(Box<str>, Box<str>),
    /// A mirror.
    Mirror(Box<str>),
}

impl Owner {
    /// The owner of a space; `uid` is the tenant's as it is now.
    #[must_use]
    pub fn of(space: &Space, uid: &str) -> Owner {
        match space {
            Space::Tenant(tenant) => Owner::Tenant(tenant.as_str().into(), uid.into()),
            Space::Mirror(host) => Owner::Mirror(host.clone()),
        }
    }

    fn directory(&self) -> PathBuf {
        match self {
            Owner::Tenant(name, uid) => Path::new("tenants").join(format!("{name}@{uid}")),
            Owner::Mirror(host) => Path::new("mirrors").join(&**host),
        }
    }

    fn parse(directory: &str, mirror: bool) -> Option<Owner> {
        if mirror {
            return Some(Owner::Mirror(directory.into()));
        }
        let (name, uid) = directory.split_once('@')?;
        Some(Owner::Tenant(name.into(), uid.into()))
    }
}

/// A repository of an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repository {
    /// Whose.
    pub owner: Owner,
    /// Its name without the owner's.
    pub path: Box<str>,
}

/// How much an owner stores.
#[derive(Debug, Default)]
struct Usage {
    /// Blobs and manifests, in each repository that has them.
    stored: AtomicU64,
    /// Uploads that have not ended.
    pending: AtomicU64,
}

/// The store. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Storage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Held shared by what makes links, exclusively by what removes content without any.
    gate: RwLock<()>,
    stripes: Vec<Mutex<()>>,
    usage: Mutex<HashMap<Owner, Arc<Usage>>>,
    uploads: Mutex<HashMap<Uuid, Arc<Upload>>>,
    /// One process at a time.
    _lock: File,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is used by another registry: stop that one, or choose another directory with --data")]
    Locked(PathBuf),
    /// The disk.
    #[error("cannot open the registry's directory {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes what a directory lists durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and what is missing above it, below `root`, durably.
fn make_directory(root: &Path, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|p| p.starts_with(root)).unwrap_or(root);
    if parent != root {
        make_directory(root, parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
        Ok(()) => sync_directory(parent),
    }
}

/// `None` where there is nothing.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The names in a directory, sorted; none where there is no directory.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = found(fs::read_dir(path))? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl Storage {
    /// Opens a directory, which is made if needed. Unfinished uploads are there again.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(root: &Path) -> Result<Storage, OpenError> {
        let at = |source| OpenError::Io { path: root.to_owned(), source };
        for folder in ["blobs", "tenants", "mirrors", "uploads", "trash"] {
            fs::create_dir_all(root.join(folder)).map_err(at)?;
        }
        sync_directory(root).map_err(at)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(root.join("lock")).map_err(at)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(OpenError::Locked(root.to_owned()));
        }
        let inner = Inner {
            root: root.to_owned(),
            gate: RwLock::new(()),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            usage: Mutex::default(),
            uploads: Mutex::default(),
            _lock: lock,
        };
        let storage = Storage { inner: Arc::new(inner) };
        storage.reopen_uploads().map_err(at)?;
        Ok(storage)
    }

    fn root(&self) -> &Path {
        &self.inner.root
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let algorithm = self.root().join("blobs").join(digest.algorithm().as_str());
        algorithm.join(&digest.hex()[..2]).join(digest.hex())
    }

    fn repository_path(&self, repository: &Repository) -> PathBuf {
        self.root().join(repository.owner.directory()).join(&*repository.path)
    }

    /// Held while links are made.
    fn linking(&self) -> RwLockReadGuard<'_, ()> {
        self.inner.gate.read()
    }

    /// Held while a repository is written.
    fn writing(&self, repository: &Repository) -> MutexGuard<'_, ()> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        repository.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or(0);
        self.inner.stripes[stripe].lock()
    }

    /// Writes a file below the root by a rename, durably. `path`'s directory must be there.
    fn write_file(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let temporary = self.root().join("uploads").join(format!("{}.tmp", Uuid::new_v4()));
        let write = || {
            let mut file = File::options().write(true).create_new(true).open(&temporary)?;
            for part in parts {
                file.write_all(part)?;
            }
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            sync_directory(path.parent().unwrap_or(self.root()))
        };
        write().inspect_err(|_| {
            // It may never have been made.
            let _ = fs::remove_file(&temporary);
        })
    }

    fn usage(&self, owner: &Owner) -> io::Result<Arc<Usage>> {
        if let Some(usage) = self.inner.usage.lock().get(owner) {
            return Ok(usage.clone());
        }
        // Counted under the exclusive gate: nothing may appear meanwhile, or it would count twice or not at all.
        let _gate = self.inner.gate.write();
        let mut all = self.inner.usage.lock();
        if let Some(usage) = all.get(owner) {
            return Ok(usage.clone());
        }
        let usage = Usage::default();
        let mut bytes = 0;
        self.walk(owner, &mut |_, path| {
            for folder in ["_blobs", "_manifests"] {
                for name in names(&path.join(folder))? {
                    bytes += found(fs::metadata(path.join(folder).join(name)))?.map_or(0, |m| m.len());
                }
            }
            Ok(())
        })?;
        usage.stored.store(bytes, Ordering::Relaxed);
        let uploads = self.inner.uploads.lock();
        let pending = uploads.values().filter(|u| u.repository.owner == *owner).map(|u| u.received()).sum();
        drop(uploads);
        usage.pending.store(pending, Ordering::Relaxed);
        let usage = Arc::new(usage);
        all.insert(owner.clone(), usage.clone());
        Ok(usage)
    }

    /// What an owner stores, unfinished uploads included.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn used_bytes(&self, owner: &Owner) -> Result<u64, RegistryError> {
        let usage = self.usage(owner)?;
        Ok(usage.stored.load(Ordering::Relaxed) + usage.pending.load(Ordering::Relaxed))
    }

    /// Whether so much more may be stored.
    fn check_quota(usage: &Usage, more: u64, quota_bytes: u64) -> Result<(), RegistryError> {
        let used = usage.stored.load(Ordering::Relaxed) + usage.pending.load(Ordering::Relaxed);
        if used.saturating_add(more) > quota_bytes {
            return Err(RegistryError::new(
                Code::Denied,
                format!(
                    "the tenant's quota of {quota_bytes} bytes in the registry is used up ({used} are stored): delete images, \
                     or ask the operator for more"
                ),
            ));
        }
        Ok(())
    }

    /// Calls for every directory of an owner that may be a repository, in no certain order.
    fn walk(&self, owner: &Owner, each: &mut dyn FnMut(&str, &Path) -> io::Result<()>) -> io::Result<()> {
        let top = self.root().join(owner.directory());
        let mut open = vec![String::new()];
        while let Some(prefix) = open.pop() {
            let path = if prefix.is_empty() { top.clone() } else { top.join(&prefix) };
            let mut is_repository = false;
            for name in names(&path)? {
                if name.starts_with('_') {
                    is_repository = true;
                } else if prefix.is_empty() {
                    open.push(name);
                } else {
                    open.push(format!("{prefix}/{name}"));
                }
            }
            if is_repository && !prefix.is_empty() {
                each(&prefix, &path)?;
            }
        }
        Ok(())
    }

    /// The repositories of an owner that have a manifest, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn repositories(&self, owner: &Owner) -> Result<Vec<String>, RegistryError> {
        let mut all = Vec::new();
        self.walk(owner, &mut |name, path| {
            if found(fs::read_dir(path.join("_manifests")))?.is_some_and(|mut d| d.next().is_some()) {
                all.push(name.to_owned());
            }
            Ok(())
        })?;
        all.sort_unstable();
        Ok(all)
    }

    /// Everybody who has stored something.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn owners(&self) -> Result<Vec<Owner>, RegistryError> {
        let mut all = Vec::new();
        for (folder, mirror) in [("tenants", false), ("mirrors", true)] {
            all.extend(
                names(&self.root().join(folder))?.iter().filter_map(|name| Owner::parse(name, mirror)),
            );
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
