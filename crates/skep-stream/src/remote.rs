//! Remote commands: `exec` and `attach`, over WebSocket and over SPDY.
//!
//! The protocol is Kubernetes' own (`k8s.io/streaming`, `remotecommand`): numbered channels in WebSocket messages, or a SPDY stream for
//! each, named by its `streamtype` header. Versions differ in how the end is told (from 4 on as a `Status`), in
//! whether a terminal can be resized (from 3 on) and in whether a WebSocket client can close its input (5).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::node::Streams;
use crate::process::{self, Input, Output, Process, Size};
use crate::spdy::{self, Session};
use crate::websocket;

/// What is understood, of both carriers.
pub(crate) const PROTOCOLS: [&str; 7] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Says that the channel in the next byte is closed.
const CLOSE: u8 = 255;

/// Pieces under way in each direction before the sender waits.
const QUEUE: usize = 8;

/// How long a client may take to open its SPDY streams.
const STREAMS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// What a protocol's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    number: u8,
    base64: bool,
}

impl Version {
    pub(crate) fn of(protocol: &str) -> Version {
        let number = protocol.strip_prefix('v').and_then(|p| p.as_bytes().first()).map_or(1, |d| d - b'0');
        Version { number, base64: protocol.contains("base64") }
    }

    fn end(self, end: &Result<i32, String>) -> Option<Bytes> {
        match self.number {
            4.. => Some(Output::status(end).to_string().into()),
            _ => Output::sentence(end).map(Bytes::from),
        }
    }
}

/// Speaks with a WebSocket client until the process has ended or the client has gone.
pub(crate) async fn over_websocket<S>(stream: S, version: Version, streams: Streams, process: Process)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sink, mut messages) = websocket::server(stream).await.split();
    let (to_process, input) = mpsc::channel(QUEUE);
    let (output, mut from_process) = mpsc::channel(QUEUE);
    let message = |channel: u8, data: &[u8]| {
        if version.base64 {
            Message::Text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(data)).into())
        } else {
            let mut bytes = BytesMut::with_capacity(data.len() + 1);
            bytes.put_u8(channel);
            bytes.put_slice(data);
            Message::Binary(bytes.freeze())
        }
    };
    let outward = async {
        // An empty message tells the client that the connection stands.
        let first = if streams.stdout { STDOUT } else { ERROR };
        if sink.send(message(first, &[])).await.is_err() {
            return;
        }
        while let Some(one) = from_process.recv().await {
            let sent = match one {
                Output::Stdout(data) => sink.send(message(STDOUT, &data)).await,
                Output::Stderr(data) => sink.send(message(STDERR, &data)).await,
                Output::End(end) => {
                    if let Some(data) = version.end(&end) {
                        let _ = sink.send(message(ERROR, &data)).await;
                    }
                    break;
                }
            };
            if sent.is_err() {
                return;
            }
        }
        let _ = sink.send(websocket::goodbye()).await;
    };
    let inward = async move {
        while let Some(Ok(message)) = messages.next().await {
            let input = match message {
                Message::Binary(data) => parse(version, data),
                Message::Text(text) => parse_text(version, text.as_str()),
                Message::Close(_) => return,
                _ => None,
            };
            if let Some(input) = input
                && to_process.send(input).await.is_err()
            {
                return;
            }
        }
    };
    // The inward side ends with the client, which ends `run`, which ends the outward side.
    tokio::select! {
        ((), ()) = async { tokio::join!(process::run(process, input, output), outward) } => {}
        () = async { inward.await; std::future::pending::<()>().await } => {}
    }
}

fn parse(version: Version, mut data: Bytes) -> Option<Input> {
    let channel = *data.first()?;
    let data = data.split_off(1);
    match channel {
        STDIN if data.is_empty() => None,
        STDIN => Some(Input::Stdin(data)),
        RESIZE => serde_json::from_slice::<Size>(&data).ok().map(Input::Resize),
        CLOSE if version.number >= 5 && data.first() == Some(&STDIN) => Some(Input::CloseStdin),
        _ => None,
    }
}

fn parse_text(version: Version, text: &str) -> Option<Input> {
    let channel = text.as_bytes().first()?.checked_sub(b'0')?;
    let body = text.get(1..)?;
    let mut data = vec![channel];
    if version.base64 {
        data.extend(STANDARD.decode(body).ok()?);
    } else {
        data.extend(body.as_bytes());
    }
    parse(version, data.into())
}

/// Speaks with a SPDY client.
pub(crate) async fn over_spdy<S>(stream: S, version: Version, streams: Streams, process: Process)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut session, work) = Session::server(stream);
    tokio::pin!(work);
    let opened = async {
        let mut opened = Opened::default();
        while !opened.complete(version, streams) {
            let stream = session.accept().await?;
            match stream.header("streamtype") {
                "stdin" => opened.stdin = Some(stream),
                "stdout" => opened.stdout = Some(stream),
                "stderr" => opened.stderr = Some(stream),
                "error" => opened.error = Some(stream),
                "resize" => opened.resize = Some(stream),
                other => tracing::debug!(streamtype = other, "a stream that nobody asked for"),
            }
        }
        Some(opened)
    };
    let opened = tokio::select! {
        () = &mut work => return,
        opened = tokio::time::timeout(STREAMS_TIMEOUT, opened) => opened,
    };
    let Ok(Some(opened)) = opened else { return };
    let (to_process, input) = mpsc::channel(QUEUE);
    let (output, from_process) = mpsc::channel(QUEUE);
    let told = tell(version, opened, to_process, from_process);
    let talk = async { tokio::join!(process::run(process, input, output), told) };
    tokio::select! {
        () = &mut work => {}
        _ = talk => {
            // What was said last is sent before the connection ends.
            drop(session);
            let _ = tokio::time::timeout(STREAMS_TIMEOUT, work).await;
        }
    }
}

#[derive(Default)]
struct Opened {
    stdin: Option<spdy::Stream>,
    stdout: Option<spdy::Stream>,
    stderr: Option<spdy::Stream>,
    error: Option<spdy::Stream>,
    resize: Option<spdy::Stream>,
}

impl Opened {
    fn complete(&self, version: Version, wanted: Streams) -> bool {
        self.error.is_some()
            && (!wanted.stdin || self.stdin.is_some())
            && (!wanted.stdout || self.stdout.is_some())
            && (!wanted.stderr || self.stderr.is_some())
            && (!wanted.tty || version.number < 3 || self.resize.is_some())
    }
}

async fn tell(
    version: Version,
    opened: Opened,
    to_process: mpsc::Sender<Input>,
    mut from_process: mpsc::Receiver<Output>,
) {
    let Opened { stdin, mut stdout, mut stderr, mut error, resize } = opened;
    let sender = to_process.clone();
    let stdin = async move {
        let Some(mut stream) = stdin else { return };
        while let Some(data) = stream.read().await {
            if sender.send(Input::Stdin(data)).await.is_err() {
                return;
            }
        }
        let _ = sender.send(Input::CloseStdin).await;
    };
    let sender = to_process.clone();
    let resize = async move {
        let Some(mut stream) = resize else { return };
        let mut read = Vec::new();
        while let Some(data) = stream.read().await {
            read.extend_from_slice(&data);
            let mut sizes = serde_json::Deserializer::from_slice(&read).into_iter::<Size>();
            let mut whole = Vec::new();
            while let Some(Ok(size)) = sizes.next() {
                whole.push(size);
            }
            let used = sizes.byte_offset();
            read.drain(..used);
            // Whatever this is, it is not a size any more.
            if read.len() > 4096 {
                return;
            }
            for size in whole {
                if sender.send(Input::Resize(size)).await.is_err() {
                    return;
                }
            }
        }
    };
    let output = async move {
        // Held until the end: the process's side takes a closed channel for a client that has gone.
        let _open = to_process;
        while let Some(one) = from_process.recv().await {
            let (stream, data) = match one {
                Output::Stdout(data) => (&mut stdout, Some(data)),
                Output::Stderr(data) => (&mut stderr, Some(data)),
                Output::End(end) => (&mut error, version.end(&end)),
            };
            if let (Some(stream), Some(data)) = (stream, data)
                && stream.write(data).await.is_err()
            {
                return;
            }
        }
        for stream in [stdout, stderr, error].into_iter().flatten() {
            stream.finish().await;
        }
    };
    let reading = async { tokio::join!(stdin, resize) };
    tokio::pin!(reading, output);
    tokio::select! {
        () = &mut output => {}
        _ = &mut reading => output.await,
    }
}
