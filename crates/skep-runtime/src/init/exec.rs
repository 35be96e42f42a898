//! A further process in a running container.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use super::{Stdio, close_all_but, enter_group, failed, give_up, hide, process, reset_signals};
use crate::error::Result;
use crate::seccomp::Program;
use crate::spec::ProcessSpec;

/// A process to be executed in a container.
pub(crate) struct ExecTask<'a> {
    pub(crate) process: &'a ProcessSpec,
    /// The container's first process: whose namespaces to enter.
    pub(crate) target: &'a OwnedFd,
    /// The container has a user namespace.
    pub(crate) user_namespace: bool,
    pub(crate) entrances: &'a [PathBuf],
    pub(crate) filter: Option<&'a Program>,
    pub(crate) stdio: &'a Stdio,
    pub(crate) report: &'a OwnedFd,
}

/// Runs the new process. Does not return. The shim has made the fork for the container's process namespace.
pub(crate) fn run_exec(task: &ExecTask<'_>) -> ! {
    let Err(error) = exec(task);
    give_up(task.report, error)
}

fn exec(task: &ExecTask<'_>) -> Result<Infallible> {
    hide();
    reset_signals();
    if let Some(value) = task.process.oom_score_adj {
        process::set_oom_score(value)?;
    }
    enter_group(task.entrances)?;
    // From here on the container sees this process: it must hold nothing of the machine.
    let mut keep = vec![task.target.as_fd(), task.report.as_fd()];
    if let Stdio::Pipes { stdin, stdout, stderr } = task.stdio {
        keep.extend(stdin.as_ref().map(AsFd::as_fd));
        keep.extend([stdout.as_fd(), stderr.as_fd()]);
    }
    close_all_but(&keep);
    let mut namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if task.user_namespace {
        namespaces |= libc::CLONE_NEWUSER;
    }
    // SAFETY: a descriptor and flags; this process has one thread.
    if unsafe { libc::setns(task.target.as_raw_fd(), namespaces) } != 0 {
        return Err(failed("cannot enter the container")(std::io::Error::last_os_error()));
    }
    if task.user_namespace {
        super::become_root()?;
        hide();
    }
    let _ = rustix::process::setsid();
    process::connect_stdio(task.stdio, task.report, task.process, false)?;
    process::become_program(task.process, task.filter, task.report.as_fd(), false)
}
