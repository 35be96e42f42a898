//! What an agent offers over its tunnel.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::process::Process;

/// A pod, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAt {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerAt {
    /// The pod.
    pub pod: PodAt,
    /// The container's name.
    pub container: String,
}

/// Why an agent does not do what it is asked for: shown to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// One sentence.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

/// What part of a log is wanted, as the API's `PodLogOptions` have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as the log grows.
    pub follow: bool,
    /// That of the container before its last restart.
    pub previous: bool,
    /// Put a time in front of each line.
    pub timestamps: bool,
    /// Only what is younger than this.
    pub since_seconds: Option<u64>,
    /// Only what is younger than this moment (RFC 3339).
    pub since_time: Option<String>,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Which output: `All`, `Stdout` or `Stderr`.
    pub stream: Option<String>,
}

/// Which of a process's streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Its input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors; never together with `tty`.
    pub stderr: bool,
    /// On a terminal.
    pub tty: bool,
}

/// Bytes as they come. An error cuts the answer short.
pub type Chunks = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A byte stream in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// An agent's side.
pub trait Node: Send + Sync + 'static {
    /// A container's log.
    fn logs(&self, at: ContainerAt, options: LogOptions) -> BoxFuture<'_, Result<Chunks, Refusal>>;
    /// Starts a process in a container.
    fn exec(
        &self,
        at: ContainerAt,
        command: Vec<String>,
        streams: Streams,
    ) -> BoxFuture<'_, Result<Process, Refusal>>;
    /// Connects to a container's main process.
    fn attach(&self, at: ContainerAt, streams: Streams) -> BoxFuture<'_, Result<Process, Refusal>>;
    /// Connects to a port inside a pod's network.
    fn connect(&self, at: PodAt, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, Refusal>>;
    /// Any other document of the node: statistics, metrics. Content type and body.
    fn document(&self, path: String) -> BoxFuture<'_, Result<(String, Bytes), Refusal>>;
}
