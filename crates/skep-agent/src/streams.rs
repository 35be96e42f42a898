//! What clients ask of running containers: logs, exec, attach, port-forward, statistics. The agent listens on
//! nothing: whoever carries these over the connection that the agent holds calls here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use skep_net::Namespace;
use skep_runtime::logs::{FOLLOW_INTERVAL_MS, LogOptions, LogReader, Progress};
use skep_runtime::spec::{ProcessSpec, TtySize};
use skep_runtime::{Attached, ExecProcess, Sandbox};
use tokio::net::TcpStream;

use crate::context::Node;
use crate::pods::PodsHandle;
use crate::spec;

/// A pod as its worker last saw it.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its status.
    pub status: Arc<PodStatus>,
    /// Its namespaces.
    pub sandbox: Option<Sandbox>,
    /// Its containers that run: name and the runtime's id.
    pub running: BTreeMap<String, String>,
    /// Processes of its containers in JSON, by the runtime's id: what is executed is like them.
    pub processes: BTreeMap<String, String>,
}

/// A pod as its worker last saw it, shared with whoever asks.
pub type LiveCell = Arc<Mutex<Live>>;

/// Why something cannot be had. The sentences are those that clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// There is no such pod or container here.
    #[error("{0}")]
    NotFound(String),
    /// It is not in the state for this.
    #[error("{0}")]
    BadRequest(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// Which pod: a request for one that has gone must not reach its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub pod: String,
    /// The uid, where the caller knows it.
    pub uid: Option<String>,
}

/// Which log, and how.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    /// The run before the present one.
    pub previous: bool,
    /// Goes on until the container ends.
    pub follow: bool,
    /// Which part, and how it is shown.
    pub options: LogOptions,
}

/// What is executed in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// It has an input.
    pub stdin: bool,
    /// It has a terminal.
    pub tty: bool,
    /// The terminal's first size.
    pub size: Option<TtySize>,
}

/// See the module.
#[derive(Clone)]
pub struct Streams {
    node: Arc<Node>,
    pods: PodsHandle,
}

impl Streams {
    /// For the pods of a node.
    #[must_use]
    pub fn new(node: Arc<Node>, pods: PodsHandle) -> Streams {
        Streams { node, pods }
    }

    fn live(&self, target: &Target) -> Result<LiveCell, StreamError> {
        let not_found = || StreamError::NotFound(format!("pod {:?} not found", target.pod));
        self.pods
            .live()
            .into_iter()
            .find(|cell| {
                let live = cell.lock().unwrap_or_else(PoisonError::into_inner);
                spec::name(&live.pod) == target.pod
                    && spec::namespace(&live.pod) == target.namespace
                    && target.uid.as_deref().is_none_or(|uid| uid == spec::uid(&live.pod))
            })
            .ok_or_else(not_found)
    }

    fn running(&self, target: &Target, container: &str) -> Result<(Sandbox, String, Live), StreamError> {
        let live = self.live(target)?.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let missing = || StreamError::BadRequest(format!("container not found ({container:?})"));
        let id = live.running.get(container).cloned().ok_or_else(missing)?;
        let sandbox = live.sandbox.clone().ok_or_else(missing)?;
        Ok((sandbox, id, live))
    }

    /// A container's log.
    ///
    /// # Errors
    /// When there is none, in the words that clients know.
    pub fn log(&self, target: &Target, container: &str, request: LogRequest) -> Result<LogTail, StreamError> {
        let cell = self.live(target)?;
        let live = cell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let run = logged_run(&live.status, &target.pod, container, request.previous)?;
        let path = self.node.layout.log(&live.pod, container, run.restart_count);
        let reader = LogReader::open(&path, request.options)
            .map_err(|e| StreamError::Failed(format!("failed to open log file {}: {e}", path.display())))?;
        Ok(LogTail {
            reader: Some(reader),
            live: request.follow.then_some(cell),
            container: container.to_owned(),
            id: run.id,
            over: false,
        })
    }

    /// Executes a process in a container.
    ///
    /// # Errors
    /// When the container does not run, or the program cannot be started.
    pub async fn exec(
        &self,
        target: &Target,
        container: &str,
        request: ExecRequest,
    ) -> Result<ExecProcess, StreamError> {
        let (sandbox, id, live) = self.running(target, container)?;
        let unknown = || StreamError::Failed(format!("the process of container {container:?} is not known"));
        let text = live.processes.get(&id).ok_or_else(unknown)?;
        let mut process: ProcessSpec = serde_json::from_str(text).map_err(|_| unknown())?;
        process.args = request.command;
        process.tty = request.tty;
        process.tty_size = request.size;
        if request.tty && !process.env.iter().any(|(name, _)| name == "TERM") {
            process.env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        sandbox.exec(&id, process, request.stdin).await.map_err(|e| StreamError::Failed(e.full()))
    }

    /// Connects to a container's first process.
    ///
    /// # Errors
    /// When the container does not run.
    pub async fn attach(
        &self,
        target: &Target,
        container: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<(Attached, FirstProcess), StreamError> {
        let (sandbox, id, _) = self.running(target, container)?;
        let attached =
            sandbox.attach(&id, stdin, stdout, stderr).await.map_err(|e| StreamError::Failed(e.full()))?;
        Ok((attached, FirstProcess { sandbox, id }))
    }

    /// Connects to a port of the pod, as if from inside it.
    ///
    /// # Errors
    /// When the pod does not run, or nobody listens.
    pub async fn port_forward(&self, target: &Target, port: u16) -> Result<TcpStream, StreamError> {
        let live = self.live(target)?.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if live.sandbox.is_none() {
            return Err(StreamError::BadRequest(format!("pod {:?} is not running", target.pod)));
        }
        let netns = crate::worker::netns(&self.node.layout, spec::uid(&live.pod));
        let inside = !spec::host_network(&live.pod);
        let connected = tokio::task::spawn_blocking(move || {
            /// Inside a pod a connection is made or refused at once.
            const TIMEOUT: Duration = Duration::from_secs(5);
            let connect = move || {
                let local = [std::net::IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()];
                let mut last = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                for ip in local {
                    match std::net::TcpStream::connect_timeout(&(ip, port).into(), TIMEOUT) {
                        Ok(stream) => return Ok(stream),
                        // What IPv4 says is what people know.
                        Err(e) if ip.is_ipv4() => last = e,
                        Err(_) => {}
                    }
                }
                Err(last)
            };
            if inside {
                let namespace = Namespace::open(&netns).map_err(std::io::Error::other)?;
                namespace.run(connect).map_err(std::io::Error::other)?
            } else {
                connect()
            }
        });
        let refused = |e: &dyn std::fmt::Display| {
            StreamError::Failed(format!("failed to connect to localhost:{port} inside the pod: {e}"))
        };
        let stream = connected.await.map_err(|e| refused(&e))?.map_err(|e| refused(&e))?;
        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map_err(|e| refused(&e))
    }
}

/// A container's first process, to which somebody is attached.
#[derive(Clone, Debug)]
pub struct FirstProcess {
    sandbox: Sandbox,
    id: String,
}

impl FirstProcess {
    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// When the container has none, or has ended.
    pub async fn resize(&self, size: TtySize) -> Result<(), StreamError> {
        self.sandbox.resize(&self.id, size).await.map_err(|e| StreamError::Failed(e.full()))
    }

    /// Waits for its end; gives its exit code.
    ///
    /// # Errors
    /// When nobody saw it.
    pub async fn wait(&self) -> Result<i32, StreamError> {
        self.sandbox.wait(&self.id).await.map(|e| e.code).map_err(|e| StreamError::Failed(e.full()))
    }
}

/// A run whose log is asked for.
struct Run {
    id: String,
    restart_count: u32,
}

/// Which run of a container has the log that is asked for.
fn logged_run(status: &PodStatus, pod: &str, container: &str, previous: bool) -> Result<Run, StreamError> {
    let bad = |text: String| Err(StreamError::BadRequest(text));
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found: Option<&ContainerStatus> = lists.into_iter().flatten().flatten().find(|s| s.name == container);
    let Some(s) = found else {
        return bad(format!("container {container:?} in pod {pod:?} is not available"));
    };
    let count = u32::try_from(s.restart_count).unwrap_or(0);
    let bare = |id: &str| id.rsplit_once("//").map_or(id, |(_, id)| id).to_owned();
    let ended =
        s.last_state.as_ref().and_then(|l| l.terminated.as_ref()).and_then(|t| t.container_id.as_deref());
    let state = s.state.as_ref();
    if previous {
        return match ended {
            // When the newest run waits to be started, the one that ended last has the status's count.
            Some(id) => {
                let waiting = state.is_some_and(|s| s.waiting.is_some());
                let restart_count = if waiting { count } else { count.saturating_sub(1) };
                Ok(Run { id: bare(id), restart_count })
            }
            None => bad(format!("previous terminated container {container:?} in pod {pod:?} not found")),
        };
    }
    let own = s.container_id.as_deref();
    if state.is_some_and(|s| s.running.is_some())
        && let Some(id) = own
    {
        return Ok(Run { id: bare(id), restart_count: count });
    }
    if let Some(t) = state.and_then(|s| s.terminated.as_ref()) {
        return match t.container_id.as_deref().or(ended) {
            Some(id) => Ok(Run { id: bare(id), restart_count: count }),
            None => bad(format!("container {container:?} in pod {pod:?} is terminated")),
        };
    }
    if let Some(id) = ended {
        return Ok(Run { id: bare(id), restart_count: count });
    }
    let reason = state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref()).unwrap_or_default();
    let why = match reason {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    bad(format!("container {container:?} in pod {pod:?} is waiting to start: {why}"))
}

/// A log as it is read, and perhaps goes on.
pub struct LogTail {
    reader: Option<LogReader>,
    live: Option<LiveCell>,
    container: String,
    id: String,
    over: bool,
}

impl LogTail {
    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        while !self.over {
            // Looked at before reading: what a container wrote before it ended is then read for certain.
            let goes_on = self.live.as_ref().is_some_and(|cell| {
                let live = cell.lock().unwrap_or_else(PoisonError::into_inner);
                live.running.get(&self.container) == Some(&self.id)
            });
            let Some(mut reader) = self.reader.take() else { break };
            let read = tokio::task::spawn_blocking(move || {
                let mut out = Vec::new();
                let progress = reader.read(&mut out);
                (reader, out, progress)
            });
            let (reader, out, progress) = read.await.map_err(|e| StreamError::Failed(e.to_string()))?;
            self.reader = Some(reader);
            let progress = progress.map_err(|e| StreamError::Failed(format!("reading a log: {e}")))?;
            self.over = match progress {
                Progress::More => false,
                Progress::AtEnd => !goes_on,
                Progress::LimitReached => true,
            };
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
            if !self.over && progress == Progress::AtEnd {
                tokio::time::sleep(Duration::from_millis(FOLLOW_INTERVAL_MS)).await;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(status: Value, previous: bool) -> Result<(String, u32), String> {
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [status]})).unwrap();
        logged_run(&status, "p", "a", previous).map(|r| (r.id, r.restart_count)).map_err(|e| e.to_string())
    }

    fn status(count: i32, state: Value, last: Value) -> Value {
        json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": count,
            "containerID": "skep://now", "state": state, "lastState": last})
    }

    #[test]
    fn which_run_has_the_log() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": format!("skep://{id}")}});
        let running = json!({"running": {}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let none = json!({});
        for (status, previous, expected) in [
            (status(0, running.clone(), none.clone()), false, Ok(("now", 0))),
            (status(3, running.clone(), ended("old")), true, Ok(("old", 2))),
            (status(3, waiting.clone(), ended("old")), false, Ok(("old", 3))),
            (status(3, waiting, ended("old")), true, Ok(("old", 3))),
            (status(2, ended("now"), none.clone()), false, Ok(("now", 2))),
            (
                status(0, running, none.clone()),
                true,
                Err("previous terminated container \"a\" in pod \"p\" not found"),
            ),
            (
                status(0, json!({"waiting": {"reason": "ErrImagePull"}}), none.clone()),
                false,
                Err("container \"a\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
            (
                status(0, json!({"waiting": {"reason": "ContainerCreating"}}), none),
                false,
                Err("container \"a\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
        ] {
            let expected = expected.map(|(id, n)| (id.to_owned(), n)).map_err(str::to_owned);
            assert_eq!(run(status, previous), expected);
        }
    }
}
