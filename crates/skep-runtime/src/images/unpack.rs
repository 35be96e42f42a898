//! Unpacking a layer: a tar archive from somebody we do not trust, into a directory of its own.
//!
//! The kernel resolves every path with the layer's directory as the root (`openat2`), so neither `..` nor links lead
//! out, whatever came before in the archive. Whiteouts become what overlayfs understands.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

use super::reference::Digest;
use crate::error::{AtPath, Error, ErrorKind, Result};
use crate::sys;

/// What a layer may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes of its files. Far more than any honest layer, and less than a disk.
    pub max_bytes: u64,
    /// Files, directories and links: each costs an inode.
    pub max_entries: u64,
    /// How often more than what came over the wire, once it is `ratio_from_bytes`: gzip at its best makes
    /// 1,000 of zeros; programs and data make 2 to 10.
    pub max_ratio: u64,
    /// A small layer may be as full of zeros as it likes.
    pub ratio_from_bytes: u64,
    /// How much of the disk stays free for others.
    pub keep_free_bytes: u64,
    /// Make device nodes. Whoever may use the layer then has them, so this is for trusted images only; otherwise they are
    /// left out.
    pub devices: bool,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        UnpackLimits {
            max_bytes: 32 << 30,
            max_entries: 2_000_000,
            max_ratio: 200,
            ratio_from_bytes: 256 << 20,
            keep_free_bytes: 256 << 20,
            devices: false,
        }
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Of its files.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// Device nodes that were left out.
    pub(crate) devices_left_out: u64,
}

/// How the parts of an archive are compressed shows in their first bytes.
pub(crate) fn decompress<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = [0u8; 4];
    let mut have = 0;
    while have < magic.len() {
        match reader.read(&mut magic[have..])? {
            0 => break,
            count => have += count,
        }
    }
    let whole = io::Cursor::new(magic[..have].to_vec()).chain(reader);
    Ok(match magic {
        [0x1f, 0x8b, ..] => {
            Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(64 << 10, whole)))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(
            ruzstd::decoding::StreamingDecoder::new(io::BufReader::with_capacity(64 << 10, whole))
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?,
        ),
        _ => Box::new(whole),
    })
}

/// Counts and hashes what passes.
pub(crate) struct Hashing<R> {
    inner: R,
    context: ring::digest::Context,
    pub(crate) count: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Hashing { inner, context: ring::digest::Context::new(&ring::digest::SHA256), count: 0 }
    }

    /// Reads what is left, and gives the digest of all.
    pub(crate) fn finish(mut self, limit: u64) -> io::Result<(Digest, u64)> {
        let mut buffer = [0; 16 << 10];
        let mut rest = 0;
        loop {
            match self.read(&mut buffer)? {
                0 => break,
                count => rest += count as u64,
            }
            if rest > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "more data behind the archive than in it",
                ));
            }
        }
        Ok((Digest::from_hash(self.context.finish().as_ref()), self.count))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

/// Unpacks a layer into an empty directory. `compressed_bytes` is how much came over the wire.
pub(crate) fn unpack(
    reader: impl Read + Send,
    directory: &Path,
    compressed_bytes: u64,
    limits: &UnpackLimits,
) -> Result<Unpacked> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty()).at("open", directory)?;
    let reader = decompress(reader).map_err(|e| Error::io("cannot decompress a layer", e))?;
    let mut unpacker = Unpacker {
        root,
        limits,
        compressed_bytes,
        parent: None,
        directory_times: BTreeMap::new(),
        bytes: 0,
        checked_bytes: 0,
        entries: 0,
        devices_left_out: 0,
        privileged: rustix::process::geteuid().is_root(),
        initial: sys::initial_user_namespace(),
    };
    let mut archive = tar::Archive::new(Hashing::new(reader));
    archive.set_ignore_zeros(false);
    for entry in archive.entries().map_err(|e| Error::io("cannot read a layer", e))? {
        let mut entry = entry.map_err(|e| Error::io("cannot read a layer", e))?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        unpacker.apply(&mut entry, &path)?;
    }
    let (diff_id, _) = archive
        .into_inner()
        .finish(MAX_TRAILING_BYTES)
        .map_err(|e| Error::io("cannot read a layer to its end", e))?;
    unpacker.set_directory_times();
    Ok(Unpacked {
        diff_id,
        bytes: unpacker.bytes,
        entries: unpacker.entries,
        devices_left_out: unpacker.devices_left_out,
    })
}

/// Archives are padded to blocks, of at most some megabytes. What is more is not padding.
const MAX_TRAILING_BYTES: u64 = 16 << 20;

/// How often the disk's free space is looked at.
const CHECK_EVERY_BYTES: u64 = 64 << 20;

struct Unpacker<'a> {
    root: OwnedFd,
    limits: &'a UnpackLimits,
    compressed_bytes: u64,
    /// The directory of the entry before: archives go through one directory after the other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Set at the end, for what is made in a directory changes its time.
    directory_times: BTreeMap<PathBuf, i64>,
    bytes: u64,
    checked_bytes: u64,
    entries: u64,
    devices_left_out: u64,
    privileged: bool,
    initial: bool,
}

impl Unpacker<'_> {
    fn apply(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(self.too_much(format!("more than {} files", self.limits.max_entries)));
        }
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::RootDir | Component::CurDir => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "the layer has a path that leaves it: {}",
                        path.display()
                    )));
                }
            }
        }
        let doing = || format!("cannot unpack {}", path.display());
        let failed = |e: io::Error| Error::io(doing(), e);
        let Some(name) = clean.file_name().map(ToOwned::to_owned) else {
            // The layer's own root.
            let root = self.root.try_clone().map_err(failed)?;
            return self.set_attributes(entry, &root, true).map_err(failed);
        };
        let above = clean.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.open_parent(&above).map_err(failed)?;
        let parent = parent.as_fd();
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&parent, hidden, &above).map_err(failed);
        }
        if kind.is_dir() {
            self.make_directory(entry, &parent, &name, &clean).map_err(failed)
        } else {
            remove(&parent, &name).map_err(failed)?;
            // A directory in whose place something else comes must not be used any more.
            if self.parent.as_ref().is_some_and(|(p, _)| p.starts_with(&clean)) {
                self.parent = None;
            }
            let parent = self.open_parent(&above).map_err(failed)?;
            self.make_other(entry, kind, &parent, &name, path)
        }
    }

    /// A copy of the descriptor, so that `self` stays free.
    fn open_parent(&mut self, above: &Path) -> io::Result<OwnedFd> {
        if let Some((path, fd)) = &self.parent
            && path == above
        {
            return fd.try_clone();
        }
        let found = sys::make_directories_in_root(&self.root, above, 0o755)?;
        self.parent = Some((above.to_owned(), found.try_clone()?));
        Ok(found)
    }

    /// `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` everything in the directory.
    fn whiteout(&mut self, parent: &impl AsFd, hidden: &[u8], above: &Path) -> io::Result<()> {
        if hidden == b".wh..opq" {
            let readable =
                sys::open_in_root(&self.root, above, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            let set = |name| rustix::fs::fsetxattr(&readable, name, b"y", rustix::fs::XattrFlags::empty());
            // Overlays that are made in a user namespace look at the one, others at the other. Who has no capability
            // for the second unpacks for the first.
            let user = set(c"user.overlay.opaque");
            return match self.initial.then(|| set(c"trusted.overlay.opaque")) {
                Some(Ok(())) => Ok(()),
                _ => Ok(user?),
            };
        }
        if hidden.starts_with(b".wh.") || hidden.is_empty() || hidden == b"." || hidden == b".." {
            // Bookkeeping of an old union filesystem.
            return Ok(());
        }
        let name = std::ffi::OsStr::from_bytes(hidden);
        remove(parent, name)?;
        Ok(rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?)
    }

    fn make_directory(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &impl AsFd,
        name: &std::ffi::OsStr,
        path: &Path,
    ) -> io::Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                }
            }
            Err(e) => return Err(e.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        self.set_attributes(entry, &made, true)?;
        self.directory_times.insert(path.to_owned(), mtime(entry));
        Ok(())
    }

    fn make_other(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        kind: tar::EntryType,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
        path: &Path,
    ) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("cannot unpack {}", path.display()), e);
        if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
                .map_err(|e| failed(e.into()))?;
            let file = std::fs::File::from(fd);
            self.copy(entry, &file, path)?;
            let fd = OwnedFd::from(file);
            self.set_attributes(entry, &fd, false).map_err(failed)
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry
                .link_name_bytes()
                .map(|t| PathBuf::from(std::ffi::OsStr::from_bytes(&t)))
                .ok_or_else(|| Error::invalid(format!("the link {} leads nowhere", path.display())))?;
            if kind.is_hard_link() {
                return self.hard_link(parent, name, &target, path);
            }
            rustix::fs::symlinkat(&target, parent, name).map_err(|e| failed(e.into()))?;
            self.set_link_attributes(entry, parent, name).map_err(failed)
        } else if kind.is_fifo() {
            rustix::fs::mknodat(parent, name, FileType::Fifo, mode(entry), 0)
                .map_err(|e| failed(e.into()))?;
            self.set_link_attributes(entry, parent, name).map_err(failed)
        } else if kind.is_character_special() || kind.is_block_special() {
            let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
            let (major, minor) =
                (number(entry.header().device_major()), number(entry.header().device_minor()));
            // The number 0:0 is an overlay's whiteout; an image says that with a name.
            if !self.limits.devices || (major, minor) == (0, 0) {
                self.devices_left_out += 1;
                return Ok(());
            }
            let file =
                if kind.is_block_special() { FileType::BlockDevice } else { FileType::CharacterDevice };
            rustix::fs::mknodat(parent, name, file, mode(entry), rustix::fs::makedev(major, minor))
                .map_err(|e| failed(e.into()))?;
            self.set_link_attributes(entry, parent, name).map_err(failed)
        } else {
            Err(Error::invalid(format!(
                "the layer has an entry of unknown type {kind:?}: {}",
                path.display()
            )))
        }
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
        target: &Path,
        path: &Path,
    ) -> Result<()> {
        let leaves = || Error::invalid(format!("the hard link {} leaves the layer", path.display()));
        let mut clean = PathBuf::new();
        for component in target.components() {
            match component {
                Component::Normal(part) => clean.push(part),
                Component::RootDir | Component::CurDir => {}
                _ => return Err(leaves()),
            }
        }
        let failed = |e: io::Error| Error::io(format!("cannot unpack {}", path.display()), e);
        let (Some(above), Some(last)) = (clean.parent(), clean.file_name()) else { return Err(leaves()) };
        let folder = sys::open_in_root(&self.root, above, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(failed)?;
        rustix::fs::linkat(&folder, last, parent, name, AtFlags::empty()).map_err(|e| failed(e.into()))
    }

    fn copy(&mut self, entry: &mut impl Read, mut file: &std::fs::File, path: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("cannot unpack {}", path.display()), e);
        let mut buffer = [0; 64 << 10];
        loop {
            let count = entry.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                return Ok(());
            }
            self.bytes += count as u64;
            self.check_size()?;
            io::Write::write_all(&mut file, &buffer[..count]).map_err(failed)?;
        }
    }

    fn check_size(&mut self) -> Result<()> {
        if self.bytes > self.limits.max_bytes {
            return Err(self.too_much(format!("more than {} bytes", self.limits.max_bytes)));
        }
        let honest = self.compressed_bytes.saturating_mul(self.limits.max_ratio);
        if self.bytes > self.limits.ratio_from_bytes && self.bytes > honest {
            return Err(self.too_much(format!(
                "more than {} times its compressed {} bytes",
                self.limits.max_ratio, self.compressed_bytes
            )));
        }
        if self.bytes - self.checked_bytes >= CHECK_EVERY_BYTES {
            self.checked_bytes = self.bytes;
            let space =
                rustix::fs::fstatvfs(&self.root).map_err(|e| Error::io("cannot look at the disk", e))?;
            if space.f_bavail.saturating_mul(space.f_frsize) < self.limits.keep_free_bytes {
                return Err(Error::new(
                    ErrorKind::Failed,
                    "the disk of the image store is nearly full: remove images, or give it more room",
                ));
            }
        }
        Ok(())
    }

    fn too_much(&self, what: String) -> Error {
        Error::invalid(format!("the layer unpacks to {what}: it is refused"))
    }

    fn set_attributes(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        fd: &OwnedFd,
        directory: bool,
    ) -> io::Result<()> {
        if self.privileged {
            let (uid, gid) = owner(entry);
            rustix::fs::fchown(fd, uid, gid)?;
        }
        // Behind the owner, whose change takes away set-user-id bits and file capabilities.
        rustix::fs::fchmod(fd, mode(entry))?;
        self.set_xattrs(entry, fd)?;
        if !directory {
            rustix::fs::futimens(fd, &times(mtime(entry)))?;
        }
        Ok(())
    }

    fn set_xattrs(&self, entry: &mut tar::Entry<'_, impl Read>, fd: &OwnedFd) -> io::Result<()> {
        let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
        for extension in extensions {
            let extension = extension?;
            let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
            // Those of overlayfs would change which files are seen, and others belong to this machine.
            let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if !(user || name == b"security.capability") {
                continue;
            }
            let set =
                rustix::fs::fsetxattr(fd, name, extension.value_bytes(), rustix::fs::XattrFlags::empty());
            match set {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(rustix::io::Errno::PERM) if !self.privileged => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn set_link_attributes(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
    ) -> io::Result<()> {
        if self.privileged {
            let (uid, gid) = owner(entry);
            rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(rustix::fs::utimensat(parent, name, &times(mtime(entry)), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_directory_times(&self) {
        for (path, seconds) in &self.directory_times {
            if let Ok(fd) =
                sys::open_in_root(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            {
                let _ = rustix::fs::futimens(&fd, &times(*seconds));
            }
        }
    }
}

fn owner(entry: &tar::Entry<'_, impl Read>) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    let id = |n: io::Result<u64>| {
        n.ok().and_then(|n| u32::try_from(n).ok()).filter(|n| *n != u32::MAX).unwrap_or(0)
    };
    let header = entry.header();
    (Some(rustix::fs::Uid::from_raw(id(header.uid()))), Some(rustix::fs::Gid::from_raw(id(header.gid()))))
}

fn mode(entry: &tar::Entry<'_, impl Read>) -> Mode {
    Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777)
}

fn mtime(entry: &tar::Entry<'_, impl Read>) -> i64 {
    entry.header().mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0)
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Removes what an earlier entry of the same layer has put there.
fn remove(parent: &impl AsFd, name: &std::ffi::OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => {
            let place = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&parent.as_fd()));
            std::fs::remove_dir_all(Path::new(&place).join(name))
        }
        Err(e) => Err(e.into()),
    }
}

/// Makes everything below a directory durable.
pub(crate) fn sync(directory: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, directory, flags, Mode::empty()).at("open", directory)?;
    rustix::fs::syncfs(&fd).at("sync", directory)
}

#[cfg(test)]
pub(crate) mod tests;
