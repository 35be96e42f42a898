//! What one machine holds of a store: a directory that only its host writes, with what this machine may use and nothing else.
//!
//! A view has the form of a store (`blobs`, `layers`, `scopes`), but no locks, leases or grants: a machine sees it on a read-only mount and could
//! otherwise hold up whoever else takes the lock. Its files are hard links to the store's: they cost no space, appear in a running machine at once, and stay
//! as long as the machine wants them, whatever the store forgets meanwhile. The content is the same file for several tenants, so it must
//! never be written in place, neither here nor in the store.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};

use super::{Collected, Image, ImageStore, Reference, Scope, names_in};
use crate::error::{AtPath, Error, Result, write_atomically};

/// Deepest directory of a layer. Real ones stay below 60; each level takes three descriptors while it is linked.
const MAX_DEPTH: usize = 200;

/// A machine's view of a store, as its host handles it. Whoever writes to one must be the only one who does.
#[derive(Debug, Clone)]
pub struct View {
    root: PathBuf,
}

impl View {
    /// Makes the directory if needed, and throws away what a crash left half done.
    pub fn open(root: impl Into<PathBuf>) -> Result<View> {
        let root = root.into();
        for folder in ["blobs/sha256", "layers", "scopes", "tmp"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).at("make", &path)?;
        }
        let tmp = root.join("tmp");
        for name in names_in(&tmp)? {
            let path = tmp.join(name);
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
        Ok(View { root })
    }

    /// Lets the machine have an image of the store.
    pub fn add(&self, store: &ImageStore, image: &Image) -> Result<()> {
        // Nothing of it is collected meanwhile.
        let _lock = store.lock(rustix::fs::FlockOperation::LockShared)?;
        for layer in image.layers.iter().filter_map(|l| l.parent()) {
            self.add_layer(layer)?;
        }
        let copy = |from: PathBuf| -> Result<()> {
            let below = from.strip_prefix(&store.inner.root).map_err(|e| Error::invalid(e.to_string()))?;
            let to = self.root.join(below);
            let text = fs::read(&from).at("read", &from)?;
            if fs::read(&to).is_ok_and(|old| old == text) {
                return Ok(());
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).at("make", folder)?;
            }
            write_atomically(&to, &text)
        };
        copy(store.blob_path(&image.id))?;
        copy(store.record_path(&image.scope, &image.name))
    }

    fn add_layer(&self, layer: &Path) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = layer.file_name().ok_or_else(|| Error::invalid("a layer has no name"))?;
        let place = self.root.join("layers").join(name);
        if place.is_dir() {
            return Ok(());
        }
        let work = self.root.join("tmp").join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let linked = fs::create_dir(&work).at("make", &work).and_then(|()| {
            let from = directory(CWD, layer).at("open", layer)?;
            let to = directory(CWD, &work).at("open", &work)?;
            link_tree(&from, &to, 0).at("link the files of", layer)
        });
        let done = linked.and_then(|()| fs::rename(&work, &place).at("keep", &place));
        if done.is_err() {
            let _ = fs::remove_dir_all(&work);
        }
        done
    }

    /// Takes names away, and layers that no name and none of `used` (by their digest's digits) refers to.
    pub fn remove(&self, names: &[(Scope, Reference)], used: &BTreeSet<String>) -> Result<Collected> {
        let store = ImageStore::open_view(&self.root, self.root.join("tmp"));
        for (scope, name) in names {
            let path = store.record_path(scope, name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at("remove", &path)?,
                _ => {}
            }
        }
        let mut layers = used.clone();
        let mut blobs = BTreeSet::new();
        for scope in names_in(&self.root.join("scopes"))? {
            for record in store.records(&Scope(scope))? {
                layers.extend(record.layers.iter().map(|d| d.hex().to_owned()));
                blobs.insert(record.config.hex().to_owned());
            }
        }
        let mut done = Collected::default();
        for name in names_in(&self.root.join("layers"))?.into_iter().filter(|n| !layers.contains(n)) {
            let path = self.root.join("layers").join(&name);
            done.bytes += store.layer_record(&path).bytes;
            done.layers += 1;
            let away = self.root.join("tmp").join(format!("removed-{name}"));
            fs::rename(&path, &away).at("remove", &path)?;
            fs::remove_dir_all(&away).at("remove", &away)?;
        }
        let folder = self.root.join("blobs/sha256");
        for name in names_in(&folder)?.into_iter().filter(|n| !blobs.contains(n)) {
            let _ = fs::remove_file(folder.join(name));
        }
        Ok(done)
    }
}

fn directory(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Makes directories anew, and links everything else.
fn link_tree(from: &OwnedFd, to: &OwnedFd, depth: usize) -> rustix::io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(rustix::io::Errno::NAMETOOLONG);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            known => known,
        };
        if kind != FileType::Directory {
            rustix::fs::linkat(from, name, to, name, AtFlags::empty())?;
            continue;
        }
        rustix::fs::mkdirat(to, name, Mode::RWXU)?;
        let (below, made) = (directory(from, name)?, directory(to, name)?);
        link_tree(&below, &made, depth + 1)?;
    }
    like(from, to)
}

/// Gives a directory everything that another has, but its content.
fn like(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0u8; 4096];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(e) => return Err(e),
    };
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let Ok(name) = CString::new(name) else { continue };
        let mut value = vec![0u8; 4096];
        let length = rustix::fs::fgetxattr(from, name.as_c_str(), &mut value)?;
        rustix::fs::fsetxattr(to, name.as_c_str(), &value[..length], XattrFlags::empty())?;
    }
    let time = |seconds, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(to, &times)
}
