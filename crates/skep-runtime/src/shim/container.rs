//! Containers and executed processes, as their parent sees them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitStatus, pidfd_open};

use super::log::{LogWriter, Output};
use super::server::{Caller, Outcome};
use super::{Reporter, Shim, Source};
use crate::cgroup::DeviceRule;
use crate::error::{AtPath, Error, ErrorKind, Result, write_over};
use crate::init::{
    self, ExecTask, InitTask, MAX_REPORT_BYTES, REPORT_ERROR, REPORT_PID, REPORT_TERMINAL, START_FAILED_CODE,
    Stdio,
};
use crate::proto::{Event, Reply, WireError};
use crate::runtime::{CONTAINERS, STATUS_FILE};
use crate::spec::{
    ContainerSpec, ContainerState, ContainerStatus, Devices, Exit, PidNamespace, ProcessSpec, TtySize,
    valid_id,
};
use crate::sys::{self, Fork, now_ns};

/// Size of the pipes to those attached: they may lag this far behind before they lose output.
const ATTACH_PIPE_BYTES: usize = 256 << 10;

/// How often a pipe is read after its container has ended. A process outside the container that holds the other end could write for ever.
const LAST_READS: usize = 32;

/// How long an executed process that has ended is remembered, as a count of later ones: whoever started it asks at once.
const ENDED_EXECS_KEPT: usize = 64;

/// A container.
pub(super) struct Container {
    pub(super) spec: ContainerSpec,
    pub(super) status: ContainerStatus,
    /// The first process, as long as it is not reaped: its number cannot be another's.
    pid: Option<u32>,
    starting: Option<Starting>,
    /// The way to its input, kept so that it does not end.
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    outputs: Vec<OpenOutput>,
    log: Option<LogWriter>,
    attached: Vec<AttachedPipe>,
    waiting: Vec<Caller>,
    oom_kills_before: u64,
}

struct Starting {
    caller: Caller,
    report: u64,
    socket: OwnedFd,
    error: Option<Error>,
}

struct OpenOutput {
    id: u64,
    fd: OwnedFd,
    kind: Output,
}

struct AttachedPipe {
    kind: Output,
    fd: OwnedFd,
}

/// A process that was executed in a container.
pub(super) struct Exec {
    container: String,
    pid: Option<u32>,
    starting: Option<Starting>,
    /// The agent's ends, until it gets them.
    streams: Vec<OwnedFd>,
    terminal: Option<OwnedFd>,
    tty: bool,
    exit: Option<Exit>,
    waiting: Vec<Caller>,
}

fn step(doing: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |e| Error::io(doing, e)
}

/// Messages of a new process: whole ones, and the end when it executes.
fn report_pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(step("cannot make a socket for a new process"))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(step("cannot prepare a socket"))?;
    Ok((ours, theirs))
}

/// (to be read, to be written)
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(step("cannot make a pipe for a container"))
}

fn nonblocking(fd: &OwnedFd) -> Result<()> {
    rustix::io::ioctl_fionbio(fd, true).map_err(step("cannot prepare a pipe"))
}

fn exit_of(status: WaitStatus, oom_killed: bool) -> Exit {
    let signal = status.terminating_signal();
    let code = status.exit_status().or(signal.map(|s| 128 + s)).unwrap_or(START_FAILED_CODE);
    Exit { code, signal, oom_killed, error: None }
}

impl Shim {
    fn container(&mut self, id: &str) -> Result<&mut Container> {
        let pod = &self.spec.id;
        self.containers
            .get_mut(id)
            .ok_or_else(|| Error::not_found(format!("pod {pod} has no container {id}")))
    }

    fn container_directory(&self, id: &str) -> PathBuf {
        self.directory.join(CONTAINERS).join(id)
    }

    fn write_status(&self, id: &str) -> Result<()> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let text = serde_json::to_vec(&container.status).map_err(|e| Error::invalid(e.to_string()))?;
        write_over(&self.container_directory(id).join(STATUS_FILE), &text)
    }

    pub(super) fn create(&mut self, spec: ContainerSpec) -> Result<()> {
        let id = spec.id.clone();
        if !valid_id(&id) {
            return Err(Error::invalid(format!("{id:?} is no id of a container")));
        }
        if self.containers.contains_key(&id) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("pod {} has a container {id} already", self.spec.id),
            ));
        }
        if spec.process.args.is_empty() {
            return Err(Error::invalid(format!(
                "container {id} names no program, and neither does its image"
            )));
        }
        init::filter_of(&spec.process)?;
        let directory = self.container_directory(&id);
        // One that is left over from a failed removal.
        let _ = fs::remove_dir_all(&directory);
        let layers = spec.rootfs.upper.clone().unwrap_or_else(|| directory.clone());
        for folder in [layers.join("upper"), layers.join("work")] {
            fs::create_dir_all(&folder).at("make", &folder)?;
        }
        fs::create_dir_all(&directory).at("make", &directory)?;
        super::namespaces::own_upper(&layers.join("upper"), self.spec.user_namespace.as_ref())?;
        let status = ContainerStatus {
            id: id.clone(),
            state: ContainerState::Created,
            pid: None,
            created_at_ns: now_ns(),
            started_at_ns: None,
            finished_at_ns: None,
            exit: None,
            labels: spec.labels.clone(),
        };
        let container = Container {
            spec,
            status,
            pid: None,
            starting: None,
            stdin: None,
            terminal: None,
            outputs: Vec::new(),
            log: None,
            attached: Vec::new(),
            waiting: Vec::new(),
            oom_kills_before: 0,
        };
        self.containers.insert(id.clone(), container);
        self.write_status(&id)
    }

    pub(super) fn start(&mut self, id: &str, caller: Caller) -> Result<()> {
        let group = self.spec.cgroup.join(id);
        let directory = self.container_directory(id);
        let state = self.container(id)?.status.state;
        if state != ContainerState::Created {
            return Err(Error::new(ErrorKind::WrongState, format!("container {id} was started already")));
        }
        match self.fork_container(id, &group, &directory, caller) {
            Ok(()) => {
                let container = self.container(id)?;
                container.status.state = ContainerState::Starting;
                // Who cleans up after a crash must know that there may be processes.
                self.write_status(id)
            }
            Err(error) => {
                self.finish(id, start_failure(&error));
                Err(error)
            }
        }
    }

    fn fork_container(&mut self, id: &str, group: &Path, directory: &Path, caller: Caller) -> Result<()> {
        let tree = self.tree.clone();
        let spec = self.container(id)?.spec.clone();
        let target = match &spec.processes_of {
            Some(other) if self.spec.pid == PidNamespace::Container => Some(self.first_process(other)?),
            _ => None,
        };
        tree.create(group, &spec.resources)?;
        tree.restrict_devices(group, &device_rules(&spec.devices))?;
        let filter = init::filter_of(&spec.process)?;
        let entrances = tree.entrances(group);
        let groups = shown_groups(&tree, group);
        let (socket, report) = report_pair()?;
        let mut ours = Vec::new();
        let mut stdin = None;
        let stdio = match spec.process.tty {
            true => Stdio::Terminal,
            false => {
                let (stdout_read, stdout) = pipe()?;
                let (stderr_read, stderr) = pipe()?;
                ours = vec![(Output::Stdout, stdout_read), (Output::Stderr, stderr_read)];
                let theirs = match spec.stdin {
                    true => {
                        let (read, write) = pipe()?;
                        stdin = Some(write);
                        Some(read)
                    }
                    false => None,
                };
                Stdio::Pipes { stdin: theirs, stdout, stderr }
            }
        };
        super::namespaces::own_stdio(&stdio, self.spec.user_namespace.as_ref());
        let log = match &spec.log {
            Some(log) => Some(LogWriter::open(log.clone()).at("open log", &log.path)?),
            None => None,
        };
        let task = InitTask {
            sandbox: &self.spec,
            spec: &spec,
            namespaces: &self.namespaces,
            pod: &self.directory,
            directory,
            entrances: &entrances,
            groups: &groups,
            filter: filter.as_ref(),
            stdio: &stdio,
            report: &report,
        };
        // A process namespace of the container's own is made with the fork where that is possible; the pod's is entered by us for
        // the moment of the fork, since entering one only concerns children.
        let own = self.spec.pid == PidNamespace::Container && self.namespaces.user.is_none();
        let forked = self.fork_in(
            target.as_ref().or(self.namespaces.pid.as_ref()).map(AsFd::as_fd),
            if own && target.is_none() { libc::CLONE_NEWPID } else { 0 },
        )?;
        let pid = match forked {
            Fork::Child => init::run_init(&task),
            Fork::Parent(pid) => pid,
        };
        drop((stdio, report));
        let oom_kills_before = tree.oom_kills(group);
        let report_id = self.new_id();
        self.watch(socket.as_fd(), Source::Report(report_id), EventFlags::IN)?;
        self.reports.insert(report_id, Reporter::Container(id.to_owned()));
        let container = self.container(id)?;
        container.pid = Some(pid);
        container.stdin = stdin;
        container.log = log;
        container.oom_kills_before = oom_kills_before;
        container.starting = Some(Starting { caller, report: report_id, socket, error: None });
        for (kind, fd) in ours {
            self.add_output(id, kind, fd)?;
        }
        Ok(())
    }

    /// The first process of a running container, and with it its namespaces.
    fn first_process(&mut self, id: &str) -> Result<OwnedFd> {
        let container = self.container(id)?;
        let pid = match (container.status.state, container.pid) {
            (ContainerState::Running, Some(pid)) => pid,
            _ => return Err(Error::new(ErrorKind::WrongState, format!("container {id} is not running"))),
        };
        let raw = Pid::from_raw(pid as i32).ok_or_else(|| Error::invalid("process 0"))?;
        pidfd_open(raw, PidfdFlags::empty()).map_err(step("cannot open the container's first process"))
    }

    /// Forks with children in another process namespace.
    fn fork_in(&self, namespace: Option<std::os::fd::BorrowedFd<'_>>, flags: libc::c_int) -> Result<Fork> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let kind = Some(LinkNameSpaceType::ProcessID);
        if let Some(namespace) = namespace {
            move_into_link_name_space(namespace, kind).map_err(step("cannot enter a process namespace"))?;
        }
        // SAFETY: the shim has one thread.
        let forked = unsafe { sys::fork(flags) };
        if namespace.is_some() && !matches!(forked, Ok(Fork::Child)) {
            move_into_link_name_space(self.own_pid_namespace.as_fd(), kind)
                .map_err(step("cannot return from a process namespace"))?;
        }
        forked.map_err(|e| Error::io("cannot fork", e))
    }

    fn add_output(&mut self, container: &str, kind: Output, fd: OwnedFd) -> Result<()> {
        nonblocking(&fd)?;
        let id = self.new_id();
        self.watch(fd.as_fd(), Source::Output(id), EventFlags::IN)?;
        self.outputs.insert(id, container.to_owned());
        self.container(container)?.outputs.push(OpenOutput { id, fd, kind });
        Ok(())
    }

    /// A container has written, or closed its end.
    pub(super) fn on_output(&mut self, id: u64) {
        let Some(container) = self.outputs.get(&id).cloned() else { return };
        self.read_output(&container, id);
    }

    /// Reads once; false when there is nothing more.
    fn read_output(&mut self, name: &str, id: u64) -> bool {
        let Some(container) = self.containers.get_mut(name) else { return false };
        let Some(at) = container.outputs.iter().position(|o| o.id == id) else { return false };
        let kind = container.outputs[at].kind;
        match rustix::io::read(&container.outputs[at].fd, &mut self.buffer[..]) {
            Ok(count @ 1..) => {
                let data = &self.buffer[..count];
                if let Some(log) = &mut container.log {
                    log.write(kind, data, now_ns());
                }
                // One that does not read loses output; one that is gone is forgotten.
                container.attached.retain(|pipe| {
                    pipe.kind != kind
                        || !matches!(rustix::io::write(&pipe.fd, data), Err(e) if e != rustix::io::Errno::AGAIN)
                });
                true
            }
            Err(rustix::io::Errno::INTR) => true,
            Err(rustix::io::Errno::AGAIN) => false,
            Ok(_) | Err(_) => {
                let closed = container.outputs.remove(at);
                if let Some(log) = &mut container.log {
                    log.finish(kind, now_ns());
                }
                container.attached.retain(|pipe| pipe.kind != kind);
                let _ = rustix::event::epoll::delete(&self.epoll, &closed.fd);
                self.outputs.remove(&id);
                false
            }
        }
    }

    /// A process that is being started says something, or has executed.
    pub(super) fn on_report(&mut self, id: u64) {
        let Some(reporter) = self.reports.get(&id).cloned() else { return };
        let mut message = [0u8; MAX_REPORT_BYTES];
        loop {
            let starting = match &reporter {
                Reporter::Container(name) => self.containers.get_mut(name).and_then(|c| c.starting.as_mut()),
                Reporter::Exec(exec) => self.execs.get_mut(exec).and_then(|e| e.starting.as_mut()),
            };
            let Some(starting) = starting else { return };
            match sys::receive(&starting.socket, &mut message) {
                Ok((0, _)) => break,
                Ok((count, fds)) => self.on_message_of(&reporter, &message[..count], fds),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.settle(&reporter);
    }

    fn on_message_of(&mut self, reporter: &Reporter, message: &[u8], fds: Vec<OwnedFd>) {
        let (kind, rest) = match message.split_first() {
            Some((kind, rest)) => (*kind, rest),
            None => return,
        };
        match (reporter, kind) {
            (Reporter::Container(name), REPORT_PID) => {
                let pid = std::str::from_utf8(rest).ok().and_then(|t| t.parse().ok());
                if let (Some(container), Some(pid)) = (self.containers.get_mut(name), pid) {
                    container.pid = Some(pid);
                }
            }
            (Reporter::Container(name), REPORT_TERMINAL) => {
                let Some(fd) = fds.into_iter().next() else { return };
                let copy = fd.try_clone();
                if let (Ok(copy), Some(container)) = (copy, self.containers.get_mut(name)) {
                    container.terminal = Some(copy);
                    let _ = self.add_output(name, Output::Stdout, fd);
                }
            }
            (Reporter::Exec(exec), REPORT_TERMINAL) => {
                let Some(fd) = fds.into_iter().next() else { return };
                if let (Ok(copy), Some(exec)) = (fd.try_clone(), self.execs.get_mut(exec)) {
                    exec.terminal = Some(copy);
                    exec.streams.push(fd);
                }
            }
            (_, REPORT_ERROR) => {
                let error = serde_json::from_slice::<WireError>(rest)
                    .map_or_else(|_| Error::new(ErrorKind::StartFailed, "cannot start"), Error::from);
                let starting = match reporter {
                    Reporter::Container(name) => {
                        self.containers.get_mut(name).and_then(|c| c.starting.as_mut())
                    }
                    Reporter::Exec(exec) => self.execs.get_mut(exec).and_then(|e| e.starting.as_mut()),
                };
                if let Some(starting) = starting {
                    starting.error = Some(error);
                }
            }
            _ => {}
        }
    }

    /// The start is over, either way: the program runs, or the process is about to end.
    fn settle(&mut self, reporter: &Reporter) {
        let taken = match reporter {
            Reporter::Container(name) => self.containers.get_mut(name).and_then(|c| c.starting.take()),
            Reporter::Exec(exec) => self.execs.get_mut(exec).and_then(|e| e.starting.take()),
        };
        let Some(starting) = taken else { return };
        self.unwatch(&starting.socket);
        self.reports.remove(&starting.report);
        match (reporter, starting.error) {
            (Reporter::Container(name), None) => {
                let Some(container) = self.containers.get_mut(name) else { return };
                container.status.state = ContainerState::Running;
                container.status.started_at_ns = Some(now_ns());
                container.status.pid = container.pid;
                let pid = container.pid.unwrap_or(0);
                let written = self.write_status(name);
                let reply = written.map(|()| Reply::Started { pid });
                self.answer(starting.caller, reply, Vec::new());
                self.broadcast(Event::Started { container: name.clone() });
            }
            (Reporter::Container(name), Some(error)) => {
                let exit = start_failure(&error);
                self.answer(starting.caller, Err(error), Vec::new());
                self.finish(name, exit);
            }
            (Reporter::Exec(id), None) => {
                let Some(exec) = self.execs.get_mut(id) else { return };
                let reply = Reply::Exec { exec: *id, pid: exec.pid.unwrap_or(0), tty: exec.tty };
                let streams = std::mem::take(&mut exec.streams);
                self.answer(starting.caller, Ok(reply), streams);
            }
            (Reporter::Exec(id), Some(error)) => {
                // Its process is reaped as a stranger.
                self.execs.remove(id);
                self.answer(starting.caller, Err(error), Vec::new());
            }
        }
    }

    pub(super) fn on_death(&mut self, pid: u32, status: WaitStatus) {
        let found = self.containers.iter().find(|(_, c)| c.pid == Some(pid)).map(|(id, _)| id.clone());
        if let Some(id) = found {
            // Its report comes first: an error, or the news that it ran.
            if let Some(report) = self.containers.get(&id).and_then(|c| Some(c.starting.as_ref()?.report)) {
                self.on_report(report);
            }
            // One that was only in between has told who is the first process.
            if self.containers.get(&id).is_some_and(|c| c.pid != Some(pid)) {
                return;
            }
            let oom_kills = self.tree.oom_kills(&self.spec.cgroup.join(&id));
            let Some(container) = self.containers.get(&id) else { return };
            if container.status.state != ContainerState::Exited {
                let oom_killed = oom_kills > container.oom_kills_before;
                self.finish(&id, exit_of(status, oom_killed));
            }
            return;
        }
        let found = self.execs.iter().find(|(_, e)| e.pid == Some(pid)).map(|(id, _)| *id);
        if let Some(id) = found {
            if let Some(report) = self.execs.get(&id).and_then(|e| Some(e.starting.as_ref()?.report)) {
                self.on_report(report);
            }
            let Some(exec) = self.execs.get_mut(&id) else { return };
            exec.pid = None;
            exec.terminal = None;
            let exit = exit_of(status, false);
            exec.exit = Some(exit.clone());
            for caller in std::mem::take(&mut exec.waiting) {
                self.answer(caller, Ok(Reply::Exit(exit.clone())), Vec::new());
            }
            self.forget_old_execs();
        }
    }

    fn forget_old_execs(&mut self) {
        let ended: Vec<u64> =
            self.execs.iter().filter(|(_, e)| e.exit.is_some()).map(|(id, _)| *id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_EXECS_KEPT)) {
            self.execs.remove(id);
        }
    }

    /// A container has ended: kills what is left of it, reads the last output, says so.
    fn finish(&mut self, id: &str, exit: Exit) {
        let group = self.spec.cgroup.join(id);
        // With a process namespace of its own everything is dead already, and the group empty.
        if self.tree.exists(&group) && !self.tree.processes(&group).is_empty() {
            self.tree.kill_once(&group);
        }
        let open: Vec<u64> =
            self.containers.get(id).map(|c| c.outputs.iter().map(|o| o.id).collect()).unwrap_or_default();
        for output in open {
            let mut left = LAST_READS;
            while left > 0 && self.read_output(id, output) {
                left -= 1;
            }
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        let closing = std::mem::take(&mut container.outputs);
        if let Some(mut log) = container.log.take() {
            for output in &closing {
                log.finish(output.kind, now_ns());
            }
        }
        container.attached.clear();
        container.stdin = None;
        container.terminal = None;
        container.pid = None;
        container.status.pid = None;
        container.status.state = ContainerState::Exited;
        container.status.finished_at_ns = Some(now_ns());
        container.status.exit = Some(exit.clone());
        let waiting = std::mem::take(&mut container.waiting);
        for output in closing {
            self.unwatch(&output.fd);
            self.outputs.remove(&output.id);
        }
        // A full disk: the agent is told now, and a later crash only says less.
        let _ = self.write_status(id);
        let _ = self.tree.remove(&group);
        for caller in waiting {
            self.answer(caller, Ok(Reply::Exit(exit.clone())), Vec::new());
        }
        self.broadcast(Event::Exited { container: id.to_owned(), exit });
    }

    pub(super) fn wait(&mut self, id: &str, caller: Caller) -> Result<Outcome> {
        let container = self.container(id)?;
        match &container.status.exit {
            Some(exit) => Ok(Outcome::Now(Reply::Exit(exit.clone()), Vec::new())),
            None => {
                container.waiting.push(caller);
                Ok(Outcome::Later)
            }
        }
    }

    pub(super) fn wait_exec(&mut self, id: u64, caller: Caller) -> Result<Outcome> {
        let exec =
            self.execs.get_mut(&id).ok_or_else(|| Error::not_found("there is no such executed process"))?;
        match &exec.exit {
            Some(exit) => Ok(Outcome::Now(Reply::Exit(exit.clone()), Vec::new())),
            None => {
                exec.waiting.push(caller);
                Ok(Outcome::Later)
            }
        }
    }

    pub(super) fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<()> {
        let group = self.spec.cgroup.join(id);
        let container = self.container(id)?;
        let pid = match (container.status.state, container.pid) {
            (ContainerState::Running | ContainerState::Starting, Some(pid)) => pid,
            _ => return Err(Error::new(ErrorKind::WrongState, format!("container {id} is not running"))),
        };
        if all && signal == libc::SIGKILL {
            self.tree.kill_once(&group);
            return Ok(());
        }
        if all {
            for pid in self.tree.processes(&group) {
                let _ = signal_process(pid, signal);
            }
            return Ok(());
        }
        signal_process(pid, signal)
    }

    pub(super) fn kill_exec(&mut self, id: u64, signal: i32) -> Result<()> {
        match self.execs.get(&id).and_then(|e| e.pid) {
            Some(pid) => signal_process(pid, signal),
            None => Err(Error::new(ErrorKind::WrongState, "the executed process has ended")),
        }
    }

    pub(super) fn exec(&mut self, id: &str, process: ProcessSpec, stdin: bool, caller: Caller) -> Result<()> {
        let group = self.spec.cgroup.join(id);
        let target = self.first_process(id)?;
        let filter = init::filter_of(&process)?;
        let entrances = self.tree.entrances(&group);
        let (socket, report) = report_pair()?;
        let mut streams = Vec::new();
        let stdio = match process.tty {
            true => Stdio::Terminal,
            false => {
                let mut input = None;
                if stdin {
                    let (read, write) = pipe()?;
                    streams.push(write);
                    input = Some(read);
                }
                let (stdout_read, stdout) = pipe()?;
                let (stderr_read, stderr) = pipe()?;
                streams.extend([stdout_read, stderr_read]);
                Stdio::Pipes { stdin: input, stdout, stderr }
            }
        };
        super::namespaces::own_stdio(&stdio, self.spec.user_namespace.as_ref());
        let task = ExecTask {
            process: &process,
            target: &target,
            user_namespace: self.namespaces.user.is_some(),
            entrances: &entrances,
            filter: filter.as_ref(),
            stdio: &stdio,
            report: &report,
        };
        let namespace = match self.spec.pid {
            PidNamespace::Host => None,
            _ => Some(target.as_fd()),
        };
        let pid = match self.fork_in(namespace, 0)? {
            Fork::Child => init::run_exec(&task),
            Fork::Parent(pid) => pid,
        };
        drop((stdio, report));
        let report_id = self.new_id();
        self.watch(socket.as_fd(), Source::Report(report_id), EventFlags::IN)?;
        let exec_id = self.new_id();
        self.reports.insert(report_id, Reporter::Exec(exec_id));
        let exec = Exec {
            container: id.to_owned(),
            pid: Some(pid),
            starting: Some(Starting { caller, report: report_id, socket, error: None }),
            streams,
            terminal: None,
            tty: process.tty,
            exit: None,
            waiting: Vec::new(),
        };
        self.execs.insert(exec_id, exec);
        Ok(())
    }

    pub(super) fn resize(&mut self, id: &str, exec: Option<u64>, size: TtySize) -> Result<()> {
        let terminal = match exec {
            Some(exec) => {
                self.execs.get(&exec).filter(|e| e.container == id).and_then(|e| e.terminal.as_ref())
            }
            None => self.container(id)?.terminal.as_ref(),
        };
        let terminal = terminal
            .ok_or_else(|| Error::new(ErrorKind::WrongState, "the process has no terminal, or has ended"))?;
        init::set_window_size(terminal, size).map_err(|e| Error::io("cannot set the size of a terminal", e))
    }

    pub(super) fn attach(
        &mut self,
        id: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        let container = self.container(id)?;
        if container.status.state != ContainerState::Running {
            return Err(Error::new(ErrorKind::WrongState, format!("container {id} is not running")));
        }
        let tty = container.spec.process.tty;
        let mut fds = Vec::new();
        let input =
            if tty && container.spec.stdin { container.terminal.as_ref() } else { container.stdin.as_ref() };
        let stdin = stdin && input.is_some();
        if let (true, Some(input)) = (stdin, input) {
            fds.push(input.try_clone().map_err(|e| Error::io("cannot share a container's input", e))?);
        }
        let stderr = stderr && !tty;
        for (wanted, kind) in [(stdout, Output::Stdout), (stderr, Output::Stderr)] {
            // A stream that has ended already reads as such.
            if wanted {
                let (read, write) = pipe()?;
                nonblocking(&write)?;
                let _ = rustix::pipe::fcntl_setpipe_size(&write, ATTACH_PIPE_BYTES);
                if container.outputs.iter().any(|o| o.kind == kind) {
                    container.attached.push(AttachedPipe { kind, fd: write });
                }
                fds.push(read);
            }
        }
        if stdin && container.spec.stdin_once && !tty {
            // The writer that we just gave away is the last one.
            container.stdin = None;
        }
        Ok((Reply::Attached { tty, stdin, stdout, stderr }, fds))
    }

    pub(super) fn reopen_log(&mut self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        match &mut container.log {
            Some(log) => {
                log.reopen().map_err(|e| Error::io(format!("cannot reopen the log of container {id}"), e))
            }
            None => Err(Error::new(
                ErrorKind::WrongState,
                format!("container {id} is not running, or has no log"),
            )),
        }
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        if matches!(container.status.state, ContainerState::Running | ContainerState::Starting) {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("container {id} is running: kill it first"),
            ));
        }
        let group = self.spec.cgroup.join(id);
        if self.tree.exists(&group) {
            self.tree.kill(&group)?;
            self.tree.remove(&group)?;
        }
        let directory = self.container_directory(id);
        match fs::remove_dir_all(&directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            result => result.at("remove", &directory)?,
        }
        self.containers.remove(id);
        Ok(())
    }

    /// An agent is gone: nobody waits for its answers.
    pub(super) fn forget_callers(&mut self, connection: u64) {
        for container in self.containers.values_mut() {
            container.waiting.retain(|c| c.connection != connection);
        }
        for exec in self.execs.values_mut() {
            exec.waiting.retain(|c| c.connection != connection);
        }
    }
}

fn start_failure(error: &Error) -> Exit {
    Exit { code: START_FAILED_CODE, signal: None, oom_killed: false, error: Some(error.full()) }
}

/// By number: real-time signals have no names, and images use them as stop signals.
fn signal_process(pid: u32, signal: i32) -> Result<()> {
    // SAFETY: plain numbers.
    match unsafe { libc::kill(pid as libc::pid_t, signal) } {
        0 => Ok(()),
        _ => Err(Error::io(format!("cannot send signal {signal}"), std::io::Error::last_os_error())),
    }
}

fn device_rules(devices: &Devices) -> Vec<DeviceRule> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    match devices {
        Devices::Usual => DeviceRule::usual(),
        Devices::All => DeviceRule::all(),
        Devices::Some(some) => {
            let mut rules = DeviceRule::usual();
            for device in some {
                if let Ok(node) = fs::metadata(&device.source) {
                    let kind = if node.file_type().is_block_device() { 'b' } else { 'c' };
                    let (major, minor) = (rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev()));
                    rules.push(DeviceRule::new(kind, major, minor, &device.access));
                }
            }
            rules
        }
    }
}

/// A container's control groups, by the names under which `/sys/fs/cgroup` shows them.
fn shown_groups(tree: &crate::cgroup::Tree, group: &Path) -> Vec<(String, PathBuf)> {
    let mut found: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (name, directory) in tree.named_directories(group) {
        if directory.is_dir() {
            found.entry(directory).or_default().push(name);
        }
    }
    found.into_iter().map(|(directory, names)| (names.join(","), directory)).collect()
}
