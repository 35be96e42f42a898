//! System calls that `rustix` has not, or not in the shape that is needed here.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::proto::MAX_FDS;

/// Receives bytes and descriptors; 0 bytes means that the other side has closed.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [io::IoSliceMut::new(buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, flags)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}

/// Sends bytes with descriptors beside the first of them; returns how many bytes went.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut ancillary, flags)?)
}

/// A socket's address may be 108 bytes long, which paths of pods exceed: it is named through its directory's
/// descriptor.
fn through(directory: &Path, name: &str) -> io::Result<(OwnedFd, String)> {
    let folder = open_path(directory)?;
    let address = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    Ok((folder, address))
}

/// Connects to a socket in a directory. The connection does not block.
pub(crate) fn connect_in(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let (_folder, address) = through(directory, name)?;
    let stream = UnixStream::connect(address)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Listens on a socket in a directory, in the place of one that may be left there.
pub(crate) fn listen_in(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(directory.join(name));
    let (_folder, address) = through(directory, name)?;
    let listener = UnixListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A descriptor that only names a file.
pub(crate) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a path with links followed as if `root` were `/`.
pub(crate) fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    resolve(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path that may not leave `root`, not even for a moment.
pub(crate) fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

/// The kernel answers `EAGAIN` when something is renamed while it looks: somebody may be doing this on purpose.
const RESOLVE_TRIES: usize = 128;

fn resolve(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..RESOLVE_TRIES {
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Whether this machine's root is the physical machine's. In a user namespace of its own it cannot make device nodes or decide who uses which, set
/// `trusted` attributes, or spare a process from the OOM killer.
pub(crate) fn initial_user_namespace() -> bool {
    static INITIAL: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *INITIAL.get_or_init(|| {
        std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|m| m.split_whitespace().eq(["0", "0", "4294967295"]))
    })
}

/// What `mount_setattr` changes.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MountAttributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) user_namespace: u64,
}

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 4;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 8;
pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// Changes a mount that `mount` is the root of, and with `recursive` all below it.
pub(crate) fn mount_setattr(
    mount: impl AsFd,
    recursive: bool,
    attributes: &MountAttributes,
) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty C string, the attributes live through the call, and the size is theirs.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes as *const MountAttributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id as this process sees it.
    Parent(u32),
}

/// Forks, with the flags of `clone`.
///
/// # Safety
///
/// The process must have only one thread: another one might hold a lock (of the allocator above all) that
/// nobody would ever release in the child.
pub(crate) unsafe fn fork(flags: libc::c_int) -> io::Result<Fork> {
    // With CLONE_PARENT the exit signal is that of the caller's, and none may be given.
    let exit_signal = if flags & libc::CLONE_PARENT != 0 { 0 } else { libc::SIGCHLD as u64 };
    let arguments = CloneArguments { flags: flags as u64, exit_signal, ..CloneArguments::default() };
    // SAFETY: no new stack and no shared memory is asked for, so this is a fork; the caller has one thread only.
    match unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<CloneArguments>()) } {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(pid as u32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Makes a directory and those above it below `root`, following links as if `root` were `/`, and opens it. A link whose target is missing
/// has the target made, inside `root` like everything.
pub(crate) fn make_directories_in_root(root: impl AsFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    make_directories(root.as_fd(), path, mode, MAX_LINKS)
}

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

fn make_directories(root: BorrowedFd<'_>, path: &Path, mode: u32, links_left: usize) -> io::Result<OwnedFd> {
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    let open = |path: &Path| open_in_root(root, path, directory, Mode::empty());
    match open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let mut so_far = PathBuf::new();
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            // Behind a link: the kernel says where it leads.
            Component::ParentDir => {
                so_far.push("..");
                continue;
            }
            _ => continue,
        };
        let above = open(&so_far)?;
        so_far.push(name);
        match open(&so_far) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => {
                result?;
                continue;
            }
        }
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) if links_left > 0 => {
                // A link that leads to nothing yet (or somebody was faster, and it is no link).
                if let Ok(target) = rustix::fs::readlinkat(&above, name, Vec::new()) {
                    use std::os::unix::ffi::OsStrExt;
                    let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
                    let from = so_far.parent().unwrap_or(Path::new(""));
                    let resolved = from.join(target);
                    let relative = resolved.strip_prefix("/").unwrap_or(&resolved);
                    make_directories(root, relative, mode, links_left - 1)?;
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    open(&so_far)
}

/// A descriptor of the root of this process.
pub(crate) fn open_root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
