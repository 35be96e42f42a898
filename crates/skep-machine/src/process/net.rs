//! A machine's network namespace, which outlives its processes: what is plugged into it stays plugged in when the
//! machine is started again.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::procfs;
use crate::error::Error;

/// Makes the namespace and ties it to a file. A namespace that is there already stays.
pub(crate) fn create(file: &Path) -> Result<(), Error> {
    if is_namespace(file)? {
        return Ok(());
    }
    fs::OpenOptions::new().create(true).append(true).open(file).map_err(Error::io("create", file))?;
    let target = file.to_owned();
    // A namespace belongs to a thread until it is tied to a file: that thread is used for nothing else.
    let made = std::thread::Builder::new().name("make-netns".to_owned()).spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(Error::errno("make a network namespace for", &target))?;
        let own = "/proc/thread-self/ns/net";
        mount(Some(own), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::errno("tie the network namespace to", &target))
    });
    let made = made.map_err(Error::io("start a thread to make", file))?;
    made.join()
        .map_err(|_| Error::Start { why: "the thread that made the network namespace broke".to_owned() })?
}

/// Whether a namespace is tied to the file.
pub(crate) fn is_namespace(file: &Path) -> Result<bool, Error> {
    Ok(procfs::mounts()?.iter().any(|m| m.target == file))
}

/// Takes whatever is mounted at or below a directory off it, the last first.
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
