//! A machine's user and network namespaces, which outlive its processes: what is plugged into its network stays plugged in when the
//! machine is started again. The network belongs to the machine's users: their root has a free hand in it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::{NETWORK, USERS, ids, procfs};
use crate::error::Error;

/// Makes both and ties them to files in the machine's directory. What is there already stays.
pub(crate) fn create(dir: &Path, first_id: u32) -> Result<(), Error> {
    let files = [dir.join(USERS), dir.join(NETWORK)];
    let mounts = procfs::mounts()?;
    if files.iter().all(|file| mounts.iter().any(|m| &m.target == file)) {
        return Ok(());
    }
    // One without the other was left by somebody who was killed; the network would belong to other users.
    for file in &files {
        unmount_below(file)?;
        fs::OpenOptions::new().create(true).append(true).open(file).map_err(Error::io("create", file))?;
    }
    let pid = hatch(libc::CLONE_NEWNET).map_err(Error::io("make namespaces for", dir))?;
    let made = tie(pid, &files, first_id);
    // It has done what it was there for, whether it worked or not.
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
    made
}

/// A user namespace with these ids that is there for as long as the descriptor, and in which nobody ever runs: it says how a mount maps ids.
pub(crate) fn users(map: &str) -> Result<OwnedFd, Error> {
    let here = Path::new("a mount");
    let pid = hatch(0).map_err(Error::io("make a user namespace for", here))?;
    let proc = Path::new("/proc").join(pid.to_string());
    let made = (|| {
        for name in ["uid_map", "gid_map"] {
            let path = proc.join(name);
            fs::write(&path, map).map_err(Error::io("write", &path))?;
        }
        let path = proc.join("ns/user");
        fs::File::open(&path).map(OwnedFd::from).map_err(Error::io("open", &path))
    })();
    // It has done what it was there for, whether it worked or not.
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
    made
}

/// Starts a process that does nothing in a user namespace of its own, and in others if the flags say so.
fn hatch(others: libc::c_int) -> std::io::Result<Pid> {
    let flags = libc::CLONE_NEWUSER | others | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and a stack this is a fork. The child, of a process that may have other threads, calls nothing
    // but system calls: it neither allocates nor locks, and never returns.
    unsafe {
        match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            0 => {
                libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                loop {
                    libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
                }
            }
            pid => Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))),
        }
    }
}

fn tie(pid: Pid, files: &[std::path::PathBuf; 2], first_id: u32) -> Result<(), Error> {
    let proc = Path::new("/proc").join(pid.to_string());
    for name in ["uid_map", "gid_map"] {
        let path = proc.join(name);
        fs::write(&path, ids::map(first_id)).map_err(Error::io("write", &path))?;
    }
    for (file, name) in files.iter().zip(["ns/user", "ns/net"]) {
        mount(Some(&proc.join(name)), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::errno("tie a namespace to", file))?;
    }
    Ok(())
}

/// Takes whatever is mounted at or below a path off it, the last first.
pub(crate) fn unmount_below(dir: &Path) -> Result<(), Error> {
    // What is mounted over something else appears only once that is gone; a few rounds are plenty.
    for _ in 0..16 {
        let below: Vec<_> =
            procfs::mounts()?.into_iter().map(|m| m.target).filter(|t| t.starts_with(dir)).collect();
        if below.is_empty() {
            return Ok(());
        }
        for target in below.iter().rev() {
            umount2(target, MntFlags::MNT_DETACH).map_err(Error::errno("unmount", target))?;
        }
    }
    Err(Error::io("unmount everything below", dir)(std::io::ErrorKind::ResourceBusy.into()))
}
