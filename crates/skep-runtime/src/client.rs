//! A pod as its agent holds it: a connection to the pod's shim.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, oneshot};

use crate::cgroup::{GroupStats, GroupUsage, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::{self, Call, Event, Frame, Incoming, Reply, Request};
use crate::spec::{ContainerSpec, ContainerStatus, Exit, ProcessSpec, Resources, SandboxSpec, TtySize};
use crate::stream::Stream;
use crate::sys;

/// How many events a slow listener may lag behind. Who loses some asks for the status. Room for all of them is held for as long as the pod lives.
const EVENT_BACKLOG: usize = 8;

/// How long a shim may take to greet. It is one process that only ever does short things.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A running pod. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: SandboxSpec,
    directory: PathBuf,
    tree: Tree,
    shim_pid: u32,
    stream: Arc<UnixStream>,
    /// Dropped with the last handle: the reader ends.
    _held: oneshot::Sender<()>,
    /// Only one frame is written at a time.
    writing: tokio::sync::Mutex<()>,
    next_id: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    gone: AtomicBool,
    events: broadcast::Sender<Event>,
}

/// What a shim answers, and the descriptors that come with it.
type Answer = Result<(Reply, Vec<OwnedFd>)>;

/// A process that was executed in a container.
#[derive(Debug)]
pub struct ExecProcess {
    sandbox: Sandbox,
    id: u64,
    container: String,
    /// As the machine numbers it.
    pub pid: u32,
    /// Its input and output; ends of pipes, or of its terminal.
    pub streams: Streams,
}

/// Ends of a process's input and output. They lead straight to the process (or its log's copy), not through the shim.
#[derive(Debug, Default)]
pub struct Streams {
    /// Dropping it ends the process's input. With a terminal it is one end of it.
    pub stdin: Option<Stream>,
    /// With a terminal, all output.
    pub stdout: Option<Stream>,
    /// Never with a terminal.
    pub stderr: Option<Stream>,
}

impl Sandbox {
    /// Connects to the shim of the pod in `directory`.
    pub(crate) async fn connect(directory: &Path, spec: SandboxSpec, tree: Tree) -> Result<Sandbox> {
        let gone = |e: io::Error| Error {
            kind: ErrorKind::ShimGone,
            message: format!("cannot reach the shim of pod {}", spec.id),
            source: Some(e),
        };
        let socket = sys::connect_in(directory, proto::SOCKET).map_err(gone)?;
        let stream = Arc::new(UnixStream::from_std(socket).map_err(gone)?);
        let mut incoming = Incoming::default();
        let hello = tokio::time::timeout(HELLO_TIMEOUT, next_frame(&stream, &mut incoming));
        let shim_pid = match hello.await {
            Ok(Ok(Some(Frame::Hello { sandbox, pid, .. }))) if sandbox == spec.id => pid,
            Ok(Err(error)) => return Err(error),
            _ => {
                return Err(Error::new(
                    ErrorKind::ShimGone,
                    format!("the shim of pod {} does not answer as one should", spec.id),
                ));
            }
        };
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let (held, unheld) = oneshot::channel();
        let inner = Arc::new(Inner {
            spec,
            directory: directory.to_owned(),
            tree,
            shim_pid,
            stream: stream.clone(),
            _held: held,
            writing: tokio::sync::Mutex::new(()),
            next_id: AtomicU64::new(1),
            waiting: Mutex::new(HashMap::new()),
            gone: AtomicBool::new(false),
            events,
        });
        tokio::spawn(read(Arc::downgrade(&inner), stream, incoming, unheld));
        Ok(Sandbox { inner })
    }

    /// What it was made from.
    pub fn spec(&self) -> &SandboxSpec {
        &self.inner.spec
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.inner.spec.id
    }

    /// The shim's process, as the machine numbers it.
    pub fn shim_pid(&self) -> u32 {
        self.inner.shim_pid
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Is the connection lost? See [`Event::Gone`].
    pub fn is_gone(&self) -> bool {
        self.inner.gone.load(Ordering::Acquire)
    }

    /// What happens from now on. A listener that lags loses events: it should ask for [`Sandbox::status`] then.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// All containers, also those that have ended and are not removed.
    pub async fn status(&self) -> Result<Vec<ContainerStatus>> {
        match self.call(Request::Status).await? {
            (Reply::Status(all), _) => Ok(all),
            other => Err(confused(&other.0)),
        }
    }

    /// Prepares a container. It does not run yet.
    pub async fn create(&self, spec: ContainerSpec) -> Result<()> {
        self.call(Request::Create(Box::new(spec))).await.map(drop)
    }

    /// Starts a container; answers when its program runs, with its process.
    ///
    /// [`ErrorKind::StartFailed`] means that the container is now `Exited` with code 128 and the error.
    pub async fn start(&self, container: &str) -> Result<u32> {
        match self.call(Request::Start { container: container.to_owned() }).await? {
            (Reply::Started { pid }, _) => Ok(pid),
            other => Err(confused(&other.0)),
        }
    }

    /// Sends a signal to a container's first process, or to all its processes. One that has ended is
    /// [`ErrorKind::WrongState`].
    pub async fn kill(&self, container: &str, signal: i32, all: bool) -> Result<()> {
        self.call(Request::Kill { container: container.to_owned(), signal, all }).await.map(drop)
    }

    /// Waits for a container's end. It may have ended already.
    pub async fn wait(&self, container: &str) -> Result<Exit> {
        match self.call(Request::Wait { container: container.to_owned() }).await? {
            (Reply::Exit(exit), _) => Ok(exit),
            other => Err(confused(&other.0)),
        }
    }

    /// Runs a process in a running container. Without `stdin` its input is empty.
    pub async fn exec(&self, container: &str, process: ProcessSpec, stdin: bool) -> Result<ExecProcess> {
        let request = Request::Exec { container: container.to_owned(), process: Box::new(process), stdin };
        match self.call(request).await? {
            (Reply::Exec { exec, pid, tty }, fds) => Ok(ExecProcess {
                sandbox: self.clone(),
                id: exec,
                container: container.to_owned(),
                pid,
                streams: Streams::new(fds, tty, (stdin, true, !tty))?,
            }),
            other => Err(confused(&other.0)),
        }
    }

    /// Runs a process in a container, and collects what it writes, up to a limit for each of its two outputs.
    pub async fn exec_collect(
        &self,
        container: &str,
        process: ProcessSpec,
        limit_bytes: usize,
        timeout: Duration,
    ) -> Result<ExecOutput> {
        let mut exec = self.exec(container, process, false).await?;
        let (stdout, stderr) = (exec.streams.stdout.take(), exec.streams.stderr.take());
        // Output first: a grandchild that keeps the pipe open must not keep us, so the exit also ends the reading.
        let reading = async { tokio::join!(collect(stdout, limit_bytes), collect(stderr, limit_bytes)) };
        tokio::pin!(reading);
        let work = async {
            tokio::select! {
                output = &mut reading => (exec.wait().await, output),
                exit = exec.wait() => {
                    let grace = tokio::time::timeout(OUTPUT_GRACE, &mut reading).await;
                    (exit, grace.unwrap_or_default())
                }
            }
        };
        match tokio::time::timeout(timeout, work).await {
            Ok((exit, (stdout, stderr))) => Ok(ExecOutput { exit: exit?, stdout, stderr }),
            Err(_) => {
                let _ = exec.kill(libc::SIGKILL).await;
                Err(Error::new(
                    ErrorKind::Failed,
                    format!("command timed out: it ran for more than {timeout:?} in container {container}"),
                ))
            }
        }
    }

    /// Connects to a container's first process. Any number of callers may; one that does not read loses output
    /// rather than holding up the container.
    pub async fn attach(&self, container: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<Attached> {
        let request = Request::Attach { container: container.to_owned(), stdin, stdout, stderr };
        match self.call(request).await? {
            (Reply::Attached { tty, stdin, stdout, stderr }, fds) => {
                let mut fds = fds.into_iter();
                let mut next = |wanted: bool| match wanted {
                    true => fds.next().map(Stream::new).transpose(),
                    false => Ok(None),
                };
                let streams = Streams { stdin: next(stdin)?, stdout: next(stdout)?, stderr: next(stderr)? };
                Ok(Attached { tty, streams })
            }
            other => Err(confused(&other.0)),
        }
    }

    /// Sets the size of the terminal of a container's first process.
    pub async fn resize(&self, container: &str, size: TtySize) -> Result<()> {
        self.call(Request::Resize { container: container.to_owned(), exec: None, size }).await.map(drop)
    }

    /// Opens a container's log file anew, after somebody has moved it away. The shim's own rotation needs no call.
    pub async fn reopen_log(&self, container: &str) -> Result<()> {
        self.call(Request::ReopenLog { container: container.to_owned() }).await.map(drop)
    }

    /// Removes a container that does not run, with its writable layer (unless it lies elsewhere) and state.
    pub async fn remove_container(&self, container: &str) -> Result<()> {
        self.call(Request::Remove { container: container.to_owned() }).await.map(drop)
    }

    /// Changes the limits of a container while it runs.
    pub fn update(&self, container: &str, resources: &Resources) -> Result<()> {
        self.inner.tree.update(&self.cgroup(container), resources)
    }

    /// Changes the limits of the pod as a whole.
    pub fn update_pod(&self, resources: &Resources) -> Result<()> {
        self.inner.tree.update(&self.inner.spec.cgroup, resources)
    }

    /// What a running container uses.
    pub fn stats(&self, container: &str) -> Result<GroupStats> {
        self.inner.tree.stats(&self.cgroup(container))
    }

    /// What of it changes all the time.
    pub fn usage(&self, container: &str) -> Result<GroupUsage> {
        self.inner.tree.usage(&self.cgroup(container))
    }

    /// What the pod uses as a whole.
    pub fn pod_stats(&self) -> Result<GroupStats> {
        self.inner.tree.stats(&self.inner.spec.cgroup)
    }

    /// A container's control group, relative to the tree's base.
    pub fn cgroup(&self, container: &str) -> PathBuf {
        self.inner.spec.cgroup.join(container)
    }

    /// The writable layer of a container, for counting what it uses (see [`crate::stats::disk_usage`]).
    pub fn writable_layer(&self, container: &str) -> PathBuf {
        self.inner.directory.join(crate::runtime::CONTAINERS).join(container).join("upper")
    }

    /// Kills everything and ends the shim. [`crate::Runtime::remove`] does this and cleans up.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.call(Request::Shutdown).await.map(drop)
    }

    async fn call(&self, request: Request) -> Answer {
        let inner = &self.inner;
        let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = proto::encode(&Call { id, request })?;
        let (answer, answered) = oneshot::channel();
        inner.waiting.lock().insert(id, answer);
        // Who asks after the reader has gone would wait for ever.
        let lost = || {
            Error::new(
                ErrorKind::ShimGone,
                format!("the connection to the shim of pod {} is lost", inner.spec.id),
            )
        };
        let _forget = Forget { inner, id };
        if inner.gone.load(Ordering::Acquire) {
            return Err(lost());
        }
        {
            // A frame that is cut off would spoil all that follow: the writing goes on if the caller does not.
            let inner = inner.clone();
            let writing = tokio::spawn(async move {
                let _turn = inner.writing.lock().await;
                write_all(&inner.stream, &frame).await
            });
            if !matches!(writing.await, Ok(Ok(()))) {
                return Err(lost());
            }
        }
        answered.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Takes a call off the list when its caller has lost interest.
struct Forget<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.inner.waiting.lock().remove(&self.id);
    }
}

/// How long to read on for output that is still in the pipes when a process has ended.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

async fn collect(stream: Option<Stream>, limit_bytes: usize) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = [0; 4096];
    // What is over the limit is read too, or the process would hang.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = limit_bytes.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&buffer[..room]);
    }
    kept
}

/// What a short command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
}

/// A connection to a container's first process.
#[derive(Debug)]
pub struct Attached {
    /// It has a terminal.
    pub tty: bool,
    /// As far as asked for and there.
    pub streams: Streams,
}

impl ExecProcess {
    /// Waits for its end.
    pub async fn wait(&self) -> Result<Exit> {
        match self.sandbox.call(Request::WaitExec { exec: self.id }).await? {
            (Reply::Exit(exit), _) => Ok(exit),
            other => Err(confused(&other.0)),
        }
    }

    /// Sends it a signal.
    pub async fn kill(&self, signal: i32) -> Result<()> {
        self.sandbox.call(Request::KillExec { exec: self.id, signal }).await.map(drop)
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, size: TtySize) -> Result<()> {
        let request = Request::Resize { container: self.container.clone(), exec: Some(self.id), size };
        self.sandbox.call(request).await.map(drop)
    }
}

impl Streams {
    fn new(fds: Vec<OwnedFd>, tty: bool, (stdin, stdout, stderr): (bool, bool, bool)) -> Result<Streams> {
        let mut fds = fds.into_iter();
        if tty {
            let Some(terminal) = fds.next() else { return Ok(Streams::default()) };
            let input = terminal
                .try_clone()
                .map_err(|e| Error::io("cannot share a terminal between input and output", e))?;
            return Ok(Streams {
                stdin: stdin.then(|| Stream::new(input)).transpose()?,
                stdout: Some(Stream::new(terminal)?),
                stderr: None,
            });
        }
        let mut next = |wanted: bool| match wanted {
            true => fds.next().map(Stream::new).transpose(),
            false => Ok(None),
        };
        Ok(Streams { stdin: next(stdin)?, stdout: next(stdout)?, stderr: next(stderr)? })
    }
}

fn confused(reply: &Reply) -> Error {
    Error::new(ErrorKind::Failed, format!("the shim answered with something else than was asked: {reply:?}"))
}

async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

async fn next_frame(stream: &UnixStream, incoming: &mut Incoming) -> Result<Option<Frame>> {
    loop {
        if let Some(frame) = incoming.next()? {
            return Ok(Some(frame));
        }
        let broken = |e| Error {
            kind: ErrorKind::ShimGone,
            message: "a shim's connection broke".into(),
            source: Some(e),
        };
        stream.readable().await.map_err(broken)?;
        let mut buffer = [0u8; 4096];
        match stream.try_io(Interest::READABLE, || sys::receive(stream, &mut buffer)) {
            Ok((0, _)) => return Ok(None),
            Ok((count, fds)) => incoming.push(&buffer[..count], fds),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(broken(e)),
        }
    }
}

/// Reads until the shim or the last handle goes away.
async fn read(
    inner: std::sync::Weak<Inner>,
    stream: Arc<UnixStream>,
    mut incoming: Incoming,
    mut unheld: oneshot::Receiver<()>,
) {
    loop {
        let frame = tokio::select! {
            frame = next_frame(&stream, &mut incoming) => frame,
            _ = &mut unheld => return,
        };
        let Some(inner) = inner.upgrade() else { return };
        match frame {
            Ok(Some(Frame::Reply { id, fds, result })) => {
                let fds: Vec<OwnedFd> = (0..fds).filter_map(|_| incoming.fds.pop_front()).collect();
                if let Some(waiting) = inner.waiting.lock().remove(&id) {
                    let _ = waiting.send(result.map(|r| (r, fds)).map_err(Into::into));
                }
            }
            Ok(Some(Frame::Event(event))) => {
                let _ = inner.events.send(event);
            }
            Ok(Some(Frame::Hello { .. })) => {}
            // An event of a newer shim.
            Err(e) if e.kind == ErrorKind::Unsupported => {
                tracing::debug!(pod = inner.spec.id, error = %e, "a message of the shim was not understood");
            }
            Ok(None) | Err(_) => {
                inner.gone.store(true, Ordering::Release);
                inner.waiting.lock().clear();
                let _ = inner.events.send(Event::Gone);
                return;
            }
        }
    }
}
