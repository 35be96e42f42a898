//! The short life between the host and a machine: joins the machine's group and network, attaches what the machine sees of the host, and
//! sends a child ahead, which leaves the host's namespaces and becomes the machine's first process. It writes down which that is, lets
//! it go on, and ends.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{
    ForkResult, Gid, Uid, chdir, dup2_stdin, dup2_stdout, execv, fork, pipe, setgroups, sethostname,
    setresgid, setresuid, setsid,
};

use super::cgroup::Group;
use super::{INIT, NETWORK, PROGRAM, RECORD, ROOT, USERS, filter, init, procfs, root};
use crate::driver::MachineSpec;
use crate::error::Error;
use crate::record::{self, InitRecord, Record};

/// Open files of one process: enough for an agent with thousands of containers, whose programs often ask for a million.
const FILES_MAX: u64 = 1024 * 1024;

/// What the first process waits for: that somebody knows of it.
const GO: &[u8] = b"go\n";

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

/// What the machine's first process needs to become that.
struct Plan<'a> {
    spec: MachineSpec,
    group: &'a Group,
    launcher: &'a [OsString],
}

fn boot(dir: &Path, parent: &str, launcher: &[OsString]) -> Result<(), Error> {
    let id = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let group = Group::new(parent, &id)?;
    let record: Record = record::read(&dir.join(RECORD))?
        .ok_or_else(|| Error::Start { why: "there is no record of it".to_owned() })?;
    // It already is a session's leader when it was started by hand.
    let _ = setsid();
    group.join(std::process::id())?;
    let open = |name| {
        let path = dir.join(name);
        File::open(&path).map(OwnedFd::from).map_err(Error::io("open", &path))
    };
    let (users, network) = (open(USERS)?, open(NETWORK)?);
    setns(&network, CloneFlags::CLONE_NEWNET).map_err(Error::errno("enter the network of", dir))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(Error::errno("leave the host's mounts for", dir))?;
    root::build(dir, &record.spec.mounts, record.first_id, &users)?;
    // Fewer files than wanted are better than no machine. In the machine nobody may raise this.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, FILES_MAX);
    let place = dir.join(ROOT);
    chdir(&place).map_err(Error::errno("go to", &place))?;
    let name = Path::new("a pipe");
    let new_pipe = || pipe().map_err(Error::errno("make", name));
    let ((go_out, go_in), (answer_out, answer_in), (pid_out, pid_in)) =
        (new_pipe()?, new_pipe()?, new_pipe()?);
    let plan = Plan { spec: record.spec, group: &group, launcher };
    // SAFETY: this process has one thread.
    let child = match unsafe { fork() }.map_err(Error::errno("send a child ahead for", dir))? {
        ForkResult::Child => {
            drop((go_in, answer_out, pid_out));
            let Err(error) = go_ahead(&plan, &users, go_out, answer_in, pid_in);
            println!("{}", error.reason());
            std::process::exit(1);
        }
        ForkResult::Parent { child } => child,
    };
    drop((go_out, answer_in, pid_in));
    let first = Path::new("the first process");
    let mut text = String::new();
    File::from(pid_out).read_to_string(&mut text).map_err(Error::io("hear of", first))?;
    // The child that went ahead has ended by now, and its end says nothing that the pipes do not.
    let _ = waitpid(child, None);
    let hear = || {
        let mut answer = String::new();
        File::from(answer_out).read_to_string(&mut answer).map_err(Error::io("hear from", first))?;
        Ok(answer)
    };
    let no_word = |answer: String| {
        let why = answer.trim();
        let silent = "its first process ended without a word; see its console.log";
        Error::Start { why: if why.is_empty() { silent } else { why }.to_owned() }
    };
    let Ok(pid) = text.trim().parse::<i32>() else { return Err(no_word(hear()?)) };
    let start_ticks = procfs::stat(pid)
        .ok_or_else(|| Error::Start { why: "its first process ended at once".to_owned() })?
        .start_ticks;
    record::write_whole(&dir.join(INIT), &InitRecord { pid, start_ticks, boot_id: procfs::boot_id()? })?;
    for pid in [std::process::id(), pid.unsigned_abs()] {
        group.settle(pid, record.first_id)?;
    }
    File::from(go_in).write_all(GO).map_err(Error::io("speak to", first))?;
    let answer = hear()?;
    if answer.as_bytes() == init::READY { Ok(()) } else { Err(no_word(answer)) }
}

/// Runs in the child: becomes root of the machine's users, makes the other namespaces there, and starts the first process.
fn go_ahead(
    plan: &Plan<'_>,
    users: &OwnedFd,
    go: OwnedFd,
    answer: OwnedFd,
    tell: OwnedFd,
) -> Result<Infallible, Error> {
    let here = Path::new(".");
    dup2_stdin(&go).map_err(Error::errno("listen for", here))?;
    dup2_stdout(&answer).map_err(Error::errno("answer for", here))?;
    drop((go, answer));
    setns(users, CloneFlags::CLONE_NEWUSER).map_err(Error::errno("enter the user namespace of", here))?;
    let root = "become root of";
    setgroups(&[]).map_err(Error::errno(root, here))?;
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)).map_err(Error::errno(root, here))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).map_err(Error::errno(root, here))?;
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).map_err(Error::errno("leave the host's namespaces for", here))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(Error::errno("start the first process of", here))? {
        ForkResult::Parent { child } => {
            let told = File::from(tell).write_all(child.to_string().as_bytes());
            std::process::exit(i32::from(told.is_err()));
        }
        ForkResult::Child => {
            drop(tell);
            become_first(plan)
        }
    }
}

/// Runs as the machine's first process, until it executes this program as it lies in the machine.
fn become_first(plan: &Plan<'_>) -> Result<Infallible, Error> {
    let mut word = Vec::new();
    std::io::stdin().read_to_end(&mut word).map_err(Error::io("read", Path::new("standard input")))?;
    if word != GO {
        // Whoever started this died before it was written down.
        return Err(Error::Start { why: "nobody knows of it".to_owned() });
    }
    let here = Path::new(".");
    umask(Mode::from_bits_truncate(0o022));
    sethostname(&plan.spec.hostname).map_err(Error::errno("name", here))?;
    root::enter(plan.group.hierarchies())?;
    filter::install().map_err(Error::io("filter the system calls of", Path::new("/")))?;
    let program = serde_json::to_vec(&plan.spec.program)
        .map_err(|source| Error::Record { path: RECORD.into(), source })?;
    let path = Path::new(PROGRAM);
    let text = |bytes: &[u8]| {
        CString::new(bytes).map_err(|e| Error::Start { why: format!("an argument holds a zero: {e}") })
    };
    let mut args = vec![text(path.as_os_str().as_bytes())?];
    for word in plan.launcher.iter().skip(1) {
        args.push(text(word.as_bytes())?);
    }
    args.extend([text(b"init")?, text(&program)?]);
    execv(&args[0], &args).map_err(Error::errno("execute", path))
}
