//! Network namespaces: made, kept by a mount, entered.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::netlink::{Error, Result};

/// A network namespace. It lives as long as this handle, a process, or a mount holds it.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

/// Which namespace it is: the same for all handles to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

/// The calling thread's namespace, as a path.
const OWN: &str = "/proc/thread-self/ns/net";

impl Namespace {
    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Namespace> {
        Namespace::open(Path::new(OWN))
    }

    /// One that is mounted at a path.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Namespace> {
        let file = File::open(path)
            .map_err(|e| Error::io(format!("open the network namespace {}", path.display()), e))?;
        Ok(Namespace { file })
    }

    /// The one that a process is in.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn of_process(pid: u32) -> Result<Namespace> {
        Namespace::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// A new one, which nothing but this handle holds. Its loopback is up.
    ///
    /// # Errors
    /// Without the privilege, or when the kernel has reached its limit.
    pub fn new() -> Result<Namespace> {
        on_thread(|| {
            unshare()?;
            crate::Net::here()?.set_up(LOOPBACK)?;
            Namespace::current()
        })?
    }

    /// A new one that stays until [`Namespace::remove`], also when this process ends, mounted at a path; the one
    /// that is there already, if there is one. Its loopback is up.
    ///
    /// # Errors
    /// Without the privilege, or when the path cannot be written.
    pub fn persistent(path: &Path) -> Result<Namespace> {
        if is_namespace(path) {
            let namespace = Namespace::open(path)?;
            // Whoever made it may have been killed in between.
            crate::Net::open(&namespace)?.set_up(LOOPBACK)?;
            return Ok(namespace);
        }
        let failed =
            |e: std::io::Error| Error::io(format!("keep a network namespace at {}", path.display()), e);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        File::create(path).map_err(failed)?;
        on_thread(|| {
            unshare()?;
            crate::Net::here()?.set_up(LOOPBACK)?;
            // Mounted last: what is mounted is complete.
            mount_bind(OWN, path).map_err(|e| failed(e.into()))?;
            Namespace::open(path)
        })?
    }

    /// Takes away the mount that keeps a namespace; it ends when nobody is in it any more. That there is none
    /// is fine.
    ///
    /// # Errors
    /// When the mount or the file cannot be removed.
    pub fn remove(path: &Path) -> Result<()> {
        let failed =
            |e: std::io::Error| Error::io(format!("remove the network namespace at {}", path.display()), e);
        // More than one mount may lie above another, when makers raced.
        while is_namespace(path) {
            unmount(path, UnmountFlags::DETACH).map_err(|e| failed(e.into()))?;
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        }
    }

    /// Which one it is.
    ///
    /// # Errors
    /// When the file cannot be asked.
    pub fn id(&self) -> Result<NamespaceId> {
        use std::os::unix::fs::MetadataExt;
        let meta = self.file.metadata().map_err(|e| Error::io("look at a network namespace", e))?;
        Ok(NamespaceId { device: meta.dev(), inode: meta.ino() })
    }

    /// Runs something in this namespace, on a thread of its own: sockets that it opens stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(f())
        })?
    }

    /// Moves the calling thread into this namespace, for good. For threads that do nothing else: a thread of
    /// an async runtime must never call it.
    ///
    /// # Errors
    /// Without the privilege.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::io("enter a network namespace", e))
    }

    /// Another handle to the same.
    ///
    /// # Errors
    /// With too many open files.
    pub fn try_clone(&self) -> Result<Namespace> {
        let file =
            self.file.try_clone().map_err(|e| Error::io("copy the handle of a network namespace", e))?;
        Ok(Namespace { file })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The loopback device has this number in every namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// Whether a namespace is mounted at a path, rather than nothing or the empty file for the mount.
pub(crate) fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == NSFS_MAGIC)
}

#[allow(unsafe_code)]
fn unshare() -> Result<()> {
    // SAFETY: only the network namespace is left, the table of open files stays shared: what `unshare` could
    // break for other threads does not happen.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|e| Error::io("make a network namespace", e))
}

/// A thread that ends right after: changing its namespace changes nobody else's.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, f)
            .map_err(|e| Error::io("start a thread for a network namespace", e))?;
        thread.join().map_err(|_| {
            Error::io("work in a network namespace", std::io::Error::other("its thread panicked"))
        })
    })
}

/// Sets a value below `/proc/sys/net`, in the namespace of the calling thread.
///
/// # Errors
/// When there is no such value or it cannot be set.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    // Read first: many are right already, and in a machine whose `/proc/sys` cannot be written that is enough.
    if fs::read_to_string(&path).is_ok_and(|old| old.trim_end() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| Error::io(format!("set {path} to {value}"), e))
}
