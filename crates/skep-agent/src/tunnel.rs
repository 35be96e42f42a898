//! The connection that the agent holds open to the API server, and what it answers over it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use skep_client::Network;
use skep_runtime::logs::{LogOptions, LogStream};
use skep_runtime::spec::TtySize;
use skep_stream::{Chunks, Connection, ContainerAt, Node, PodAt, Process, Refusal, Size, Streams as Wanted};

use crate::stats::Stats;
use crate::streams::{ExecRequest, LogRequest, StreamError, Streams, Target};

/// What the connection becomes.
const PROTOCOL: &str = "skep-tunnel";
/// First and longest pause before the connection is made again.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A connection that held for so long begins with the first pause again.
const GOOD: Duration = Duration::from_secs(30);

/// Holds the connection. Runs until the future is dropped.
pub async fn run(network: Network, node: Arc<str>, streams: Streams, stats: Stats) {
    let path = format!("/api/v1/nodes/{node}/tunnel");
    let answers: Arc<dyn Node> = Arc::new(Answers { streams, stats });
    let mut pause = RETRY_MIN;
    loop {
        let begun = std::time::Instant::now();
        match network.upgrade(&path, PROTOCOL).await {
            Ok(stream) => {
                tracing::debug!(%node, "the tunnel to the API server stands");
                if let Err(error) = skep_stream::serve(stream, answers.clone()).await {
                    tracing::debug!(%node, %error, "the tunnel broke");
                }
            }
            Err(error) => tracing::debug!(%node, %error, "the tunnel cannot be made yet"),
        }
        if begun.elapsed() > GOOD {
            pause = RETRY_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

struct Answers {
    streams: Streams,
    stats: Stats,
}

fn target(at: &PodAt) -> Target {
    Target { namespace: at.namespace.clone(), pod: at.pod.clone(), uid: None }
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Refusal {
        let code = match error {
            StreamError::NotFound(_) => 404,
            StreamError::BadRequest(_) => 400,
            StreamError::Failed(_) => 500,
        };
        Refusal::new(code, error.to_string())
    }
}

/// The options of the API as the log's reader has them.
fn log_request(options: &skep_stream::LogOptions, now: Timestamp) -> Result<LogRequest, Refusal> {
    let since = match (options.since_seconds, &options.since_time) {
        (Some(seconds), _) => {
            let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.checked_sub(back).unwrap_or(Timestamp::UNIX_EPOCH))
        }
        (None, Some(text)) => Some(text.parse::<Timestamp>().map_err(|_| {
            Refusal::new(400, format!("sinceTime {text:?} is not a time such as 2026-01-02T03:04:05Z"))
        })?),
        (None, None) => None,
    };
    Ok(LogRequest {
        previous: options.previous,
        follow: options.follow,
        options: LogOptions {
            tail_lines: options.tail_lines,
            since_ns: since.and_then(|t| u64::try_from(t.as_nanosecond()).ok()),
            limit_bytes: options.limit_bytes,
            timestamps: options.timestamps,
            stream: match options.stream.as_deref() {
                Some("Stdout") => Some(LogStream::Stdout),
                Some("Stderr") => Some(LogStream::Stderr),
                _ => None,
            },
        },
    })
}

fn tty_size(size: Size) -> TtySize {
    TtySize { columns: size.width, rows: size.height }
}

impl Node for Answers {
    fn logs(
        &self,
        at: ContainerAt,
        options: skep_stream::LogOptions,
    ) -> BoxFuture<'_, Result<Chunks, Refusal>> {
        Box::pin(async move {
            let request = log_request(&options, Timestamp::now())?;
            let tail = self.streams.log(&target(&at.pod), &at.container, request)?;
            let chunks = futures::stream::unfold(Some(tail), |tail| async move {
                let mut tail = tail?;
                match tail.next().await {
                    Ok(Some(bytes)) => Some((Ok(bytes), Some(tail))),
                    Ok(None) => None,
                    Err(error) => Some((Err(std::io::Error::other(error)), None)),
                }
            });
            Ok(Box::pin(chunks) as Chunks)
        })
    }

    fn exec(
        &self,
        at: ContainerAt,
        command: Vec<String>,
        wanted: Wanted,
    ) -> BoxFuture<'_, Result<Process, Refusal>> {
        Box::pin(async move {
            let request = ExecRequest { command, stdin: wanted.stdin, tty: wanted.tty, size: None };
            let mut process = self.streams.exec(&target(&at.pod), &at.container, request).await?;
            let streams = std::mem::take(&mut process.streams);
            let process = Arc::new(process);
            let (resized, waited) = (process.clone(), process);
            Ok(Process {
                stdin: streams.stdin.map(|s| Box::new(s) as _),
                stdout: streams.stdout.map(|s| Box::new(s) as _),
                stderr: streams.stderr.map(|s| Box::new(s) as _),
                resize: wanted.tty.then(|| {
                    Box::new(move |size| {
                        let process = resized.clone();
                        // A size that comes too late is of no use.
                        tokio::spawn(async move { process.resize(tty_size(size)).await });
                    }) as _
                }),
                end: Box::pin(async move { waited.wait().await.map(|e| e.code).map_err(|e| e.full()) }),
            })
        })
    }

    fn attach(&self, at: ContainerAt, wanted: Wanted) -> BoxFuture<'_, Result<Process, Refusal>> {
        Box::pin(async move {
            let (stdin, stdout, stderr) = (wanted.stdin, wanted.stdout, wanted.stderr);
            let (attached, process) =
                self.streams.attach(&target(&at.pod), &at.container, stdin, stdout, stderr).await?;
            let process = Arc::new(process);
            let (resized, waited) = (process.clone(), process);
            Ok(Process {
                stdin: attached.streams.stdin.map(|s| Box::new(s) as _),
                stdout: attached.streams.stdout.map(|s| Box::new(s) as _),
                stderr: attached.streams.stderr.map(|s| Box::new(s) as _),
                resize: attached.tty.then(|| {
                    Box::new(move |size| {
                        let process = resized.clone();
                        tokio::spawn(async move { process.resize(tty_size(size)).await });
                    }) as _
                }),
                end: Box::pin(async move { waited.wait().await.map_err(|e| e.to_string()) }),
            })
        })
    }

    fn connect(&self, at: PodAt, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, Refusal>> {
        Box::pin(async move {
            let stream = self.streams.port_forward(&target(&at), port).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }

    fn document(&self, path: String) -> BoxFuture<'_, Result<(String, Bytes), Refusal>> {
        Box::pin(async move { self.stats.document(&path).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_logs() {
        let now = Timestamp::from_second(1_000).unwrap();
        let ask = |options: skep_stream::LogOptions| log_request(&options, now).map(|r| r.options.since_ns);
        let since = |seconds| skep_stream::LogOptions { since_seconds: Some(seconds), ..Default::default() };
        assert_eq!(ask(since(400)), Ok(Some(600_000_000_000)));
        assert_eq!(ask(since(u64::MAX)), Ok(Some(0)), "longer than time itself is everything");
        let time =
            |text: &str| skep_stream::LogOptions { since_time: Some(text.to_owned()), ..Default::default() };
        assert_eq!(ask(time("1970-01-01T00:00:05Z")), Ok(Some(5_000_000_000)));
        assert_eq!(ask(time("yesterday")).unwrap_err().code, 400);
        assert_eq!(ask(skep_stream::LogOptions::default()), Ok(None));
    }
}
