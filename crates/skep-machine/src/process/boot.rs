//! The short life between the host and a machine: joins the machine's group and network, leaves the host's namespaces,
//! starts the machine's first process, writes down which that is, and ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::setsid;

use super::cgroup::Group;
use super::{INIT, NETWORK, init, procfs};
use crate::error::Error;
use crate::record::{self, InitRecord};

/// Runs with the arguments that [`ProcessDriver`](super::ProcessDriver) gave: the machine's directory, the parent of
/// its control group, and the launcher. Must be called before any thread is started.
///
/// # Errors
/// What kept the machine from starting; the same is written to standard output for the driver.
pub fn main(args: &[OsString]) -> Result<(), Error> {
    let run = || {
        let [dir, parent, launcher @ ..] = args else {
            return Err(Error::Start { why: "boot takes a directory, a parent and a launcher".to_owned() });
        };
        boot(Path::new(dir), &parent.to_string_lossy(), launcher)
    };
    run().inspect_err(|error| println!("{}", error.reason()))
}

fn boot(dir: &Path, parent: &str, launcher: &[OsString]) -> Result<(), Error> {
    let id = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let group = Group::new(parent, &id)?;
    let own = std::process::id();
    // It already is a session's leader when it was started by hand.
    let _ = setsid();
    group.join(own)?;
    let network = dir.join(NETWORK);
    let namespace = File::open(&network).map_err(Error::io("open", &network))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Error::errno("enter the network of", dir))?;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).map_err(Error::errno("leave the host's namespaces for", dir))?;
    group.settle(own)?;
    let Some((program, first)) = launcher.split_first() else {
        return Err(Error::Start { why: "no program is given that runs as the first process".to_owned() });
    };
    let mut child = Command::new(program)
        .args(first)
        .arg("init")
        .arg(dir)
        .arg(parent)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io("start", Path::new(program)))?;
    let pid = i32::try_from(child.id()).map_err(|_| Error::Start { why: "its pid is not one".to_owned() })?;
    let start_ticks = procfs::stat(pid)
        .ok_or_else(|| Error::Start { why: "its first process ended at once".to_owned() })?
        .start_ticks;
    let record = InitRecord { pid, start_ticks, boot_id: procfs::boot_id()? };
    record::write_whole(&dir.join(INIT), &record)?;
    let pipe = PathBuf::from("the first process");
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(init::GO).map_err(Error::io("speak to", &pipe))?;
    }
    let mut answer = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut answer).map_err(Error::io("hear from", &pipe))?;
    }
    if answer.as_bytes() == init::READY {
        return Ok(());
    }
    let why = answer.trim();
    let why =
        if why.is_empty() { "its first process ended without a word; see its console.log" } else { why };
    Err(Error::Start { why: why.to_owned() })
}
