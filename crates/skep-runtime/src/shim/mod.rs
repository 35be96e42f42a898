//! The shim: one small process per pod, which holds the pod's namespaces, is the parent of its containers, and outlives
//! the agent that asked for it.
//!
//! One thread, one loop over `epoll`. Whatever could hang (mounting, opening volumes, executing) happens in the new
//! process of the container concerned, and the shim hears of it by message. State is written down at every change, so that a pod whose
//! shim was killed can be told apart and cleaned up.

mod container;
mod log;
mod namespaces;
mod server;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use self::container::{Container, Exec};
pub(crate) use self::log::rotated;
use self::server::Connection;
use crate::cgroup::Tree;
use crate::error::{AtPath, Error, ErrorKind, Result, write_atomically};
use crate::init::PodNamespaces;
use crate::proto::{self, Event};
use crate::runtime::{CONTAINERS, PID_FILE, SANDBOX_FILE, SHM};
use crate::spec::SandboxSpec;
use crate::sys::{self, Fork};

/// How many events are taken from the kernel at once.
const EVENTS: usize = 32;

/// One read of a container's output: what a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// The pod's own control group for process 1; ids of containers do not begin with a dot.
const REAPER_GROUP: &str = ".init";

/// What an event is about. Ids are never used again, so an event that comes late finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Children,
    Connection(u64),
    /// Standard output, standard error, or terminal of a container.
    Output(u64),
    /// Reports of a process that is being started.
    Report(u64),
}

impl Source {
    fn token(self) -> u64 {
        let (kind, id) = match self {
            Source::Listener => (0, 0),
            Source::Children => (1, 0),
            Source::Connection(id) => (2, id),
            Source::Output(id) => (3, id),
            Source::Report(id) => (4, id),
        };
        kind << 56 | id
    }

    fn from_token(token: u64) -> Option<Source> {
        let id = token & ((1 << 56) - 1);
        Some(match token >> 56 {
            0 => Source::Listener,
            1 => Source::Children,
            2 => Source::Connection(id),
            3 => Source::Output(id),
            4 => Source::Report(id),
            _ => return None,
        })
    }
}

/// The process's whole state.
struct Shim {
    spec: SandboxSpec,
    directory: PathBuf,
    tree: Tree,
    namespaces: PodNamespaces,
    reaper: Option<u32>,
    /// This process's own process namespace, to return to after starting something in another.
    own_pid_namespace: OwnedFd,
    epoll: OwnedFd,
    children: OwnedFd,
    listener: UnixListener,
    next_id: u64,
    connections: BTreeMap<u64, Connection>,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<u64, Exec>,
    /// Which container an output or report belongs to.
    outputs: BTreeMap<u64, String>,
    reports: BTreeMap<u64, Reporter>,
    buffer: Vec<u8>,
    ended: bool,
}

/// Who is being started.
#[derive(Debug, Clone)]
enum Reporter {
    Container(String),
    Exec(u64),
}

/// The `skep shim` command: runs a pod's shim in the background, and returns when it is ready.
///
/// `arguments` are those behind the command's name. The pod's directory with its `sandbox.json` must be there. Must be called before the
/// program has started any thread.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.full());
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(PathBuf, Tree)> {
    let usage = || Error::invalid("usage: skep shim --directory POD --cgroup CONTROLLER=PATH…");
    let mut arguments = arguments.into_iter();
    let (mut directory, mut groups) = (None, Vec::new());
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(usage)?;
        match option.to_str() {
            Some("--directory") => directory = Some(PathBuf::from(value)),
            Some("--cgroup") => groups.push(value),
            _ => return Err(usage()),
        }
    }
    Ok((directory.ok_or_else(usage)?, Tree::from_arguments(groups).ok_or_else(usage)?))
}

fn start(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let (directory, tree) = parse(arguments)?;
    let text = fs::read(directory.join(SANDBOX_FILE)).at("read", &directory.join(SANDBOX_FILE))?;
    let spec: SandboxSpec = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(format!("{SANDBOX_FILE} of the pod is not a sandbox: {e}")))?;
    let (mut ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map(|(r, w)| (fs::File::from(r), w))
        .map_err(|e| Error::io("cannot make a pipe", e))?;
    // SAFETY: the caller promises that there is one thread.
    match unsafe { sys::fork(0) } {
        Ok(Fork::Child) => {
            drop(ready);
            into_background(&directory, spec, tree, tell)
        }
        Ok(Fork::Parent(_)) => {
            drop(tell);
            let mut said = String::new();
            let _ = ready.read_to_string(&mut said);
            match said.strip_prefix("+") {
                Some(_) => Ok(()),
                None if said.is_empty() => Err(Error::new(ErrorKind::Failed, "the shim died at its start")),
                None => Err(Error::new(ErrorKind::Failed, said)),
            }
        }
        Err(e) => Err(Error::io("cannot go into the background", e)),
    }
}

/// The rest of the shim's life. Does not return.
fn into_background(directory: &Path, spec: SandboxSpec, tree: Tree, tell: OwnedFd) -> ! {
    let prepared = prepare(directory, spec, tree);
    let code = match prepared {
        Ok(mut shim) => {
            let _ = rustix::io::write(&tell, b"+");
            drop(tell);
            match shim.serve() {
                Ok(()) => 0,
                Err(error) => {
                    // Nobody reads its output: the reason is left where the pod's other things are.
                    let _ = fs::write(directory.join("shim.error"), error.full());
                    1
                }
            }
        }
        Err(error) => {
            let _ = rustix::io::write(&tell, error.full().as_bytes());
            1
        }
    };
    std::process::exit(code)
}

fn prepare(directory: &Path, spec: SandboxSpec, tree: Tree) -> Result<Shim> {
    let step = |doing: &'static str| move |e: rustix::io::Errno| Error::io(doing, e);
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Whoever waits for the end of our output waits for the caller, not for us.
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(step("cannot open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(step("cannot close the input"))?;
    rustix::stdio::dup2_stdout(&null).map_err(step("cannot close the output"))?;
    rustix::stdio::dup2_stderr(&null).map_err(step("cannot close the output"))?;
    let _ = rustix::thread::set_name(c"skep-shim");
    // Processes that a container leaves behind outside its process namespace come to us to be reaped.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(step("cannot become a subreaper"))?;
    // The last to be killed when memory runs out: without it, nobody learns how containers end.
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    let pid = std::process::id();
    let began = crate::runtime::start_time(pid).unwrap_or(0);
    write_atomically(&directory.join(PID_FILE), format!("{pid} {began}\n").as_bytes())?;
    let containers = directory.join(CONTAINERS);
    fs::create_dir_all(&containers).at("make", &containers)?;

    let entrances = match crate::init::is_process_one_needed(&spec) {
        true => {
            let group = spec.cgroup.join(REAPER_GROUP);
            tree.create(&group, &Default::default())?;
            tree.entrances(&group)
        }
        false => Vec::new(),
    };
    let children = signal_descriptor()?;
    let (namespaces, reaper) = namespaces::make(&spec, directory, &entrances)?;
    let own_pid_namespace =
        fs::File::open("/proc/self/ns/pid").at("open namespace", Path::new("/proc/self/ns/pid"))?.into();
    let listener = sys::listen_in(directory, proto::SOCKET)
        .map_err(|e| Error::io(format!("cannot listen in {}", directory.display()), e))?;
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(step("cannot make an epoll"))?;
    let shim = Shim {
        spec,
        directory: directory.to_owned(),
        tree,
        namespaces,
        reaper,
        own_pid_namespace,
        epoll,
        children,
        listener,
        next_id: 1,
        connections: BTreeMap::new(),
        containers: BTreeMap::new(),
        execs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        reports: BTreeMap::new(),
        buffer: vec![0; READ_BYTES],
        ended: false,
    };
    shim.watch(shim.listener.as_fd(), Source::Listener, EventFlags::IN)?;
    shim.watch(shim.children.as_fd(), Source::Children, EventFlags::IN)?;
    Ok(shim)
}

/// When nothing happens for so long, nothing will for some time: what is not needed for waiting is given back.
const QUIET: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 3, tv_nsec: 0 };

/// Children's ends as a descriptor to wait for.
fn signal_descriptor() -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the set is filled before it is used, and the descriptor that the kernel returns is ours alone.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(Error::io("cannot wait for processes", std::io::Error::last_os_error())),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

impl Shim {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn watch(&self, fd: BorrowedFd<'_>, source: Source, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(source.token()), flags)
            .map_err(|e| Error::io("cannot watch a descriptor", e))
    }

    fn unwatch(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut quiet = false;
        while !self.ended {
            events.clear();
            let timeout = (!quiet).then_some(&QUIET);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(0) => {
                    crate::lean::let_go_of_heap();
                    crate::lean::let_go_of_code();
                    quiet = true;
                    continue;
                }
                Ok(_) => quiet = false,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::io("cannot wait for events", e)),
            }
            // Output before ends: what a container wrote last belongs before its exit.
            let mut children = false;
            for event in &events {
                match Source::from_token(event.data.u64()) {
                    Some(Source::Listener) => self.accept(),
                    Some(Source::Children) => children = true,
                    Some(Source::Connection(id)) => self.on_connection(id, event.flags),
                    Some(Source::Output(id)) => self.on_output(id),
                    Some(Source::Report(id)) => self.on_report(id),
                    None => {}
                }
            }
            if children {
                self.reap();
            }
        }
        Ok(())
    }

    /// Takes note of all processes that have ended.
    fn reap(&mut self) {
        let mut drained = [0u8; 1024];
        while rustix::io::read(&self.children, &mut drained).is_ok_and(|n| n > 0) {}
        while let Some((pid, status)) = next_dead() {
            self.on_death(pid, status);
        }
    }

    fn broadcast(&mut self, event: Event) {
        let frame = proto::Frame::Event(event);
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            self.send(id, &frame, Vec::new());
        }
    }

    /// Ends the pod: kills everything, and leaves the loop. What is on disk is for whoever asked.
    fn shut_down(&mut self) -> Result<()> {
        let killed = self.tree.kill(&self.spec.cgroup);
        if let Some(pid) = self.reaper.and_then(|p| Pid::from_raw(p as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.reap();
        let shm = self.directory.join(SHM);
        let _ = rustix::mount::unmount(&shm, rustix::mount::UnmountFlags::DETACH);
        self.ended = true;
        killed
    }
}

fn next_dead() -> Option<(u32, WaitStatus)> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => return Some((pid.as_raw_nonzero().get() as u32, status)),
            Ok(None) => return None,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_source() {
        for source in
            [Source::Listener, Source::Children, Source::Connection(7), Source::Output(8), Source::Report(9)]
        {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
        assert_eq!(Source::from_token(u64::MAX), None);
    }

    #[test]
    fn the_command_line_is_read_back() {
        let tree = Tree::v1_at([("memory".to_owned(), PathBuf::from("/sys/fs/cgroup/memory/x"))]);
        let mut line: Vec<OsString> = vec!["--directory".into(), "/pod".into()];
        for group in tree.to_arguments() {
            line.extend(["--cgroup".into(), group]);
        }
        let (directory, again) = parse(line).unwrap();
        assert_eq!(directory, Path::new("/pod"));
        assert_eq!(again.directories(Path::new("g")), tree.directories(Path::new("g")));
        assert!(parse(["--directory".into()]).is_err());
        assert!(parse(Vec::new()).is_err());
    }
}
