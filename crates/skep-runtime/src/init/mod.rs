//! What happens between a fork of the shim and the program of a container: everything here runs in the new process.
//!
//! Why this is not `libcontainer` (youki): without the LGPL library `libseccomp` it has no system call filters at all, and
//! no place where one could be installed before capabilities are dropped. Mounts here are made from descriptors,
//! so that nothing can be swapped between looking and mounting, and exist only in the container's own mount namespace: when its
//! processes are gone, so are its mounts, whoever died first. See ARCHITECTURE.md.
//!
//! The new process has one thread and a copy of the shim's memory. It ends in `execve`, or tells the shim why not
//! and exits; it never returns.

mod exec;
mod image_volumes;
mod mountpoints;
mod process;
mod rootfs;
mod users;

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

pub(crate) use self::exec::{ExecTask, run_exec};
pub use self::process::renounce;
pub(crate) use self::process::set_window_size;
use crate::error::{Error, ErrorKind, Result};
use crate::proto::WireError;
use crate::runtime::{ROOTFS, state_of};
use crate::seccomp::Program;
use crate::spec::{ContainerSpec, PidNamespace, ProcessSpec, SandboxSpec};
use crate::sys::{self, Fork};

/// The namespaces of a pod, as far as they are not the shim's own.
#[derive(Debug, Default)]
pub(crate) struct PodNamespaces {
    pub(crate) user: Option<OwnedFd>,
    pub(crate) network: Option<OwnedFd>,
    pub(crate) ipc: Option<OwnedFd>,
    pub(crate) uts: Option<OwnedFd>,
    pub(crate) pid: Option<OwnedFd>,
}

/// Input and output of a new process.
pub(crate) enum Stdio {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal, which the new process opens in its container and sends to the shim.
    Terminal,
}

/// A container's first process.
pub(crate) struct InitTask<'a> {
    pub(crate) sandbox: &'a SandboxSpec,
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) namespaces: &'a PodNamespaces,
    /// The pod's directory.
    pub(crate) pod: &'a Path,
    /// The container's directory.
    pub(crate) directory: &'a Path,
    /// Files that move a process into its control group: see [`crate::cgroup::Tree::entrances`].
    pub(crate) entrances: &'a [PathBuf],
    /// The directories of its control group, to be shown in `/sys/fs/cgroup`.
    pub(crate) groups: &'a [(String, PathBuf)],
    pub(crate) filter: Option<&'a Program>,
    pub(crate) stdio: &'a Stdio,
    pub(crate) report: &'a OwnedFd,
}

/// What a new process tells the shim: the first byte says which.
pub(crate) const REPORT_PID: u8 = b'P';
pub(crate) const REPORT_TERMINAL: u8 = b'T';
pub(crate) const REPORT_ERROR: u8 = b'E';

/// Longest report.
pub(crate) const MAX_REPORT_BYTES: usize = 8192;

/// The exit code of a process that could not be started.
pub(crate) const START_FAILED_CODE: i32 = 128;

/// An error of a step, with what the step was about.
pub(crate) fn failed<E: Into<std::io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Error {
    let doing = doing.into();
    move |e| Error { kind: ErrorKind::StartFailed, message: doing, source: Some(e.into()) }
}

/// Runs the new process of a container. Does not return.
pub(crate) fn run_init(task: &InitTask<'_>) -> ! {
    let Err(error) = init(task);
    give_up(task.report, error)
}

/// Tells the shim, and ends.
fn give_up(report: &OwnedFd, error: Error) -> ! {
    let mut message = vec![REPORT_ERROR];
    let mut wire = WireError::from(error);
    // Where it cannot be told apart, it is the start that failed.
    if wire.kind == ErrorKind::NotFound || wire.kind == ErrorKind::Failed {
        wire.kind = ErrorKind::StartFailed;
    }
    let mut end = wire.message.len().min(MAX_REPORT_BYTES / 4);
    while !wire.message.is_char_boundary(end) {
        end -= 1;
    }
    wire.message.truncate(end);
    let _ = serde_json::to_writer(&mut message, &wire);
    let _ = sys::send(report, &message, &[]);
    exit(START_FAILED_CODE)
}

/// Ends this process at once: nothing that the shim's memory holds may be torn down by its copy.
fn exit(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Undoes what the shim has set for itself: signals blocked for its `signalfd`, `SIGPIPE` ignored by Rust, no huge pages.
fn reset_signals() {
    crate::lean::huge_pages_again();
    // SAFETY: `set` is filled by sigemptyset before it is used; the handlers are defaults.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        for signal in 1..=64 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// Nobody in the container may look at this process, which still holds the machine's things, before it executes.
fn hide() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Moves this process into its control group.
fn enter_group(entrances: &[PathBuf]) -> Result<()> {
    for file in entrances {
        std::fs::write(file, "0")
            .map_err(failed(format!("cannot enter control group {}", file.display())))?;
    }
    Ok(())
}

fn join(namespace: &Option<OwnedFd>, kind: LinkNameSpaceType, what: &str) -> Result<()> {
    match namespace {
        Some(fd) => move_into_link_name_space(fd.as_fd(), Some(kind))
            .map_err(failed(format!("cannot enter the pod's {what} namespace"))),
        None => Ok(()),
    }
}

/// Becomes user 0 of the user namespace just entered.
fn become_root() -> Result<()> {
    use rustix::process::{Gid, Uid};
    rustix::thread::set_thread_groups(&[]).map_err(failed("cannot leave the machine's groups"))?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .map_err(failed("cannot become group 0 of the user namespace"))?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .map_err(failed("cannot become user 0 of the user namespace"))
}

fn init(task: &InitTask<'_>) -> Result<Infallible> {
    hide();
    reset_signals();
    rustix::process::umask(rustix::fs::Mode::empty());
    let process = &task.spec.process;
    if let Some(value) = process.oom_score_adj {
        process::set_oom_score(value)?;
    }
    enter_group(task.entrances)?;
    // SAFETY: of all namespaces, unsharing this one changes what later reads of /proc/self/cgroup say, nothing else.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }
        .map_err(failed("cannot make a control group namespace"))?;

    // Volumes are opened where the machine's mounts are, then the mounts of the machine are left behind.
    let idmap = task.namespaces.user.as_ref().map(AsFd::as_fd);
    let mut sources = rootfs::open_sources(task, idmap)?;
    let mount_namespace = || {
        // SAFETY: this process has one thread, so nothing else sees the change.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(failed("cannot make a mount namespace"))?;
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC,
        )
        .map_err(failed("cannot shut the mount namespace"))
    };
    mount_namespace()?;
    sources.volumes.extend(image_volumes::open(task, idmap)?);
    sources.volumes.sort_by_key(|v| v.target.components().count());
    let overlay = rootfs::open_overlay(task, &sources, idmap)?;
    // The mount point is reached as the working directory: root of a user namespace may not walk there.
    let place = state_of(task.pod).join(ROOTFS);
    rustix::process::chdir(&place).map_err(failed("cannot enter the mount point of the root filesystem"))?;

    join(&task.namespaces.network, LinkNameSpaceType::Network, "network")?;
    join(&task.namespaces.ipc, LinkNameSpaceType::InterProcessCommunication, "IPC")?;
    join(&task.namespaces.uts, LinkNameSpaceType::HostNameAndNISDomainName, "UTS")?;
    if task.namespaces.user.is_some() {
        join(&task.namespaces.user, LinkNameSpaceType::User, "user")?;
        become_root()?;
        // Entering made this process visible again.
        hide();
        mount_namespace()?;
        if task.sandbox.pid == PidNamespace::Container && task.spec.processes_of.is_none() {
            own_pid_namespace(task)?;
        }
    }
    let _ = rustix::process::setsid();
    rootfs::enter(task, overlay, &mut sources)?;
    process::connect_stdio(task.stdio, task.report, process, true)?;
    process::become_program(process, task.filter, task.report.as_fd(), true)
}

/// With a user namespace, the namespace of processes must be made inside it, so it takes a second process. This one tells the shim its
/// number and ends; the shim is the parent of both.
fn own_pid_namespace(task: &InitTask<'_>) -> Result<()> {
    // SAFETY: this process has one thread.
    match unsafe { sys::fork(libc::CLONE_NEWPID | libc::CLONE_PARENT) } {
        Ok(Fork::Child) => Ok(()),
        Ok(Fork::Parent(pid)) => {
            let mut message = vec![REPORT_PID];
            message.extend_from_slice(pid.to_string().as_bytes());
            let _ = sys::send(task.report, &message, &[]);
            exit(0)
        }
        Err(e) => Err(failed("cannot make a process namespace")(e)),
    }
}

/// Closes everything that the copy of the shim has open, but these.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.extend([0, 1, 2]);
    kept.sort_unstable();
    kept.dedup();
    let mut next = 0;
    let close = |first: u32, last: u32| {
        // SAFETY: closes descriptors whose owners, copies of the shim's values, are never used or dropped in this process.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    };
    for fd in kept {
        if fd > next {
            close(next, fd - 1);
        }
        next = fd + 1;
    }
    close(next, u32::MAX);
}

/// For a pod whose containers share their processes: process 1, which only reaps.
pub(crate) fn run_reaper(pod: &Path, keep: BorrowedFd<'_>) -> ! {
    hide();
    reset_signals();
    close_all_but(&[keep]);
    forget_arguments();
    // Containers can see this process: it must have nothing, not even a way to the machine's files.
    let emptied = (|| -> Result<()> {
        // SAFETY: this process has one thread.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(failed("no mount namespace"))?;
        rootfs::into_nothing(pod)?;
        process::drop_everything()
    })();
    if emptied.is_err() {
        exit(START_FAILED_CODE);
    }
    let _ = rustix::thread::set_name(c"pod-init");
    let _ = rustix::io::write(keep, b"+");
    close_all_but(&[]);
    close_stdio();
    loop {
        // SAFETY: waits for any child, without a place for its status; pauses when there is none.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            libc::sigwaitinfo(&set, std::ptr::null_mut());
        }
    }
}

/// The shim's command line tells of the machine, and would be this process's in every `ps` of the pod.
fn forget_arguments() {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    // The 48th and 49th fields of the file, of which two stand before.
    let mut fields = rest.split_whitespace().skip(45).map(str::parse::<usize>);
    if let (Some(Ok(start)), Some(Ok(end))) = (fields.next(), fields.next())
        && start != 0
        && end > start
    {
        // SAFETY: the kernel says that this process's argument strings lie there; the memory is writable, this copy of it is this
        // process's own, and nothing in it looks at its arguments any more.
        unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
    }
}

fn close_stdio() {
    // SAFETY: nothing of this process uses its input and output.
    unsafe { libc::syscall(libc::SYS_close_range, 0, 2, 0) };
}

/// Do the pod's containers share their processes, so that somebody must be process 1?
pub(crate) fn is_process_one_needed(spec: &SandboxSpec) -> bool {
    spec.pid == PidNamespace::Pod
}

/// The filter of a process.
pub(crate) fn filter_of(process: &ProcessSpec) -> Result<Option<Program>> {
    use crate::spec::Seccomp;
    let profile = match &process.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => &crate::seccomp::runtime_default(),
        Seccomp::Profile(profile) => &**profile,
    };
    profile.compile(&process.capabilities).map(Some)
}
