//! A process that a client is connected to, and the pumping between the two, whatever the protocol.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How large the pieces of output are that are sent on.
const PIECE_BYTES: usize = 32 * 1024;

/// How long output may still come after a process has ended: a child of it may hold the pipes for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A process with its ends. Dropping it lets go of them; it does not end the process.
pub struct Process {
    /// Its input, if the client has one for it.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output; of a terminal, all of it.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its errors.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Sets its terminal's size.
    pub resize: Option<Box<dyn Fn(Size) + Send + Sync>>,
    /// Its end: its exit code, or why it is not known. For an attachment also the end of the container.
    pub end: BoxFuture<'static, Result<i32, String>>,
}

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize(Size),
}

/// What a client gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last one.
    End(Result<i32, String>),
}

impl Output {
    /// The end as the protocols from version 4 on tell it: a `Status`.
    pub(crate) fn status(end: &Result<i32, String>) -> serde_json::Value {
        match end {
            Ok(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
            Ok(code) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Err(message) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {message}"),
                "details": {"causes": [{"message": message}]},
            }),
        }
    }

    /// The end as the protocols before version 4 tell it: a sentence, or nothing.
    pub(crate) fn sentence(end: &Result<i32, String>) -> Option<String> {
        match end {
            Ok(0) => None,
            Ok(code) => Some(format!("command terminated with non-zero exit code: exit status {code}")),
            Err(message) => Some(message.clone()),
        }
    }
}

/// Pumps until the process has ended and its output is told, or the client is gone.
pub(crate) async fn run(process: Process, input: mpsc::Receiver<Input>, output: mpsc::Sender<Output>) {
    let Process { stdin, stdout, stderr, resize, end } = process;
    let inputs = feed(stdin, resize, input);
    let outputs = async {
        tokio::join!(drain(stdout, &output, Output::Stdout), drain(stderr, &output, Output::Stderr));
    };
    tokio::pin!(inputs, outputs, end);
    let mut drained = false;
    let result = loop {
        tokio::select! {
            result = &mut end => break result,
            () = &mut outputs, if !drained => drained = true,
            // The client is gone: with its ends closed the process finds out by itself.
            () = &mut inputs => return,
            () = output.closed() => return,
        }
    };
    if !drained {
        let _ = tokio::time::timeout(DRAIN, &mut outputs).await;
    }
    // A client that has gone does not want to know.
    let _ = output.send(Output::End(result)).await;
}

/// Returns when the client is gone.
async fn feed(
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: Option<Box<dyn Fn(Size) + Send + Sync>>,
    mut input: mpsc::Receiver<Input>,
) {
    while let Some(one) = input.recv().await {
        match one {
            Input::Stdin(bytes) => {
                if let Some(to) = &mut stdin
                    && to.write_all(&bytes).await.is_err()
                {
                    // The process reads no more; it may still write.
                    stdin = None;
                }
            }
            Input::CloseStdin => {
                if let Some(mut to) = stdin.take() {
                    let _ = to.shutdown().await;
                }
            }
            Input::Resize(size) => {
                if let Some(resize) = &resize {
                    resize(size);
                }
            }
        }
    }
}

async fn drain(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    to: &mpsc::Sender<Output>,
    wrap: impl Fn(Bytes) -> Output,
) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if to.send(wrap(buffer.split().freeze())).await.is_err() {
            return;
        }
    }
}
