//! Both ends of a tunnel, and clients of each protocol.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::spdy::testing::Client;
use crate::{
    Chunks, Connection, ContainerAt, LogOptions, Node, Outgoing, PodAt, Process, Refusal, Streams, Tunnel,
    UPGRADE,
};

/// A node whose `exec` is an echo that tells its arguments on stderr and exits with what they say.
struct Echo;

impl Node for Echo {
    fn logs(&self, at: ContainerAt, options: LogOptions) -> BoxFuture<'_, Result<Chunks, Refusal>> {
        async move {
            if at.container == "none" {
                return Err(Refusal::new(404, "no such container"));
            }
            let lines = (0..options.tail_lines.unwrap_or(3)).map(|n| Ok(Bytes::from(format!("line {n}\n"))));
            Ok(futures::stream::iter(lines).boxed() as Chunks)
        }
        .boxed()
    }

    fn exec(
        &self,
        _at: ContainerAt,
        command: Vec<String>,
        streams: Streams,
    ) -> BoxFuture<'_, Result<Process, Refusal>> {
        async move {
            let (stdin, mut process_in) = tokio::io::duplex(1024);
            let (mut process_out, stdout) = tokio::io::duplex(1024);
            let (mut process_err, stderr) = tokio::io::duplex(1024);
            let (size, mut sizes) = mpsc::unbounded_channel();
            let end = tokio::spawn(async move {
                let _ = process_err.write_all(command.join(" ").as_bytes()).await;
                if streams.tty {
                    let size: crate::Size = sizes.recv().await.unwrap();
                    process_out
                        .write_all(format!("{}x{}", size.width, size.height).as_bytes())
                        .await
                        .unwrap();
                }
                if streams.stdin {
                    tokio::io::copy(&mut process_in, &mut process_out).await.unwrap();
                }
                command.last().and_then(|c| c.parse().ok()).unwrap_or(0)
            });
            Ok(Process {
                stdin: streams.stdin.then(|| Box::new(stdin) as _),
                stdout: streams.stdout.then(|| Box::new(stdout) as _),
                stderr: streams.stderr.then(|| Box::new(stderr) as _),
                resize: Some(Box::new(move |s| size.send(s).unwrap_or_default())),
                end: end.map(|r| r.map_err(|e| e.to_string())).boxed(),
            })
        }
        .boxed()
    }

    fn attach(&self, _at: ContainerAt, _streams: Streams) -> BoxFuture<'_, Result<Process, Refusal>> {
        async { Err(Refusal::new(400, "cannot attach")) }.boxed()
    }

    fn connect(&self, _at: PodAt, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, Refusal>> {
        async move {
            if port == 1 {
                return Err(Refusal::new(500, "connection refused"));
            }
            let (near, mut far) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let mut text = [0; 4];
                far.read_exact(&mut text).await.unwrap();
                far.write_all(format!("{port}: ").as_bytes()).await.unwrap();
                far.write_all(&text).await.unwrap();
            });
            Ok(Box::new(near) as Box<dyn Connection>)
        }
        .boxed()
    }

    fn document(&self, path: String) -> BoxFuture<'_, Result<(String, Bytes), Refusal>> {
        async move { Ok(("text/plain".to_owned(), Bytes::from(path))) }.boxed()
    }
}

async fn tunnel() -> Tunnel {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(crate::serve(far, Arc::new(Echo)));
    let (tunnel, work) = Tunnel::over(near).await.unwrap();
    tokio::spawn(work);
    tunnel
}

async fn get(path: &str) -> (StatusCode, String) {
    let request = Request::get(format!("http://node{path}")).body(Outgoing::empty()).unwrap();
    let response = tunnel().await.request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Opens a stream as the API server does for a client; the client's end of it.
async fn upgrade(path: &str, headers: &[(&'static str, &'static str)]) -> (http::HeaderMap, DuplexStream) {
    let (sender, receiver) = mpsc::channel(4);
    let mut request = Request::post(format!("http://node{path}")).body(Outgoing::channel(receiver)).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    let response = tunnel().await.request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let (head, mut body) = response.into_parts();
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (mut from, mut to) = tokio::io::split(server);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if sender.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            to.write_all(&frame.into_data().unwrap()).await.unwrap();
        }
        to.shutdown().await.unwrap();
    });
    (head.headers, client)
}

const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

async fn websocket(path: &str, protocol: &'static str) -> WebSocketStream<DuplexStream> {
    let (headers, client) =
        upgrade(path, &[(UPGRADE, "websocket"), KEY, ("sec-websocket-protocol", protocol)]).await;
    // The example of RFC 6455, section 1.3.
    assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(headers["sec-websocket-protocol"], protocol);
    WebSocketStream::from_raw_socket(client, Role::Client, None).await
}

/// All messages, by channel, in one. The end must be in good order: kubectl takes anything else for a failure.
async fn all(mut ws: WebSocketStream<DuplexStream>) -> [String; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    let mut closed = None;
    while let Some(Ok(message)) = ws.next().await {
        if let Message::Binary(data) = message {
            channels[usize::from(data[0])].extend_from_slice(&data[1..]);
        } else if let Message::Close(frame) = message {
            closed = frame.map(|f| u16::from(f.code));
        }
    }
    assert_eq!(closed, Some(1000));
    channels.map(|c| String::from_utf8(c).unwrap())
}

#[tokio::test]
async fn logs_documents_and_refusals() {
    assert_eq!(
        get("/containerLogs/ns/pod/c?tailLines=2").await,
        (StatusCode::OK, "line 0\nline 1\n".to_owned())
    );
    assert_eq!(
        get("/containerLogs/ns/pod/none").await,
        (StatusCode::NOT_FOUND, "no such container".to_owned())
    );
    assert_eq!(get("/stats/summary?only=cpu").await, (StatusCode::OK, "/stats/summary?only=cpu".to_owned()));
    let (status, text) = get("/exec/ns/pod/c?stdout=1").await;
    assert_eq!((status.as_u16(), text.contains("upgrade")), (400, true));
}

#[tokio::test]
async fn a_command_over_a_websocket() {
    let mut ws = websocket(
        "/exec/ns/pod/c?stdin=1&stdout=1&stderr=1&command=say&command=a+b%2B&command=7",
        "v5.channel.k8s.io",
    )
    .await;
    ws.send(Message::Binary(Bytes::from_static(b"\0hello "))).await.unwrap();
    ws.send(Message::Binary(Bytes::from_static(b"\0world"))).await.unwrap();
    ws.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
    let [_, stdout, stderr, status] = all(ws).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("hello world", "say a b+ 7"));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn a_terminal_is_resized_and_success_is_told() {
    let mut ws = websocket("/exec/ns/pod/c?stdout=true&tty=true&command=top", "v4.channel.k8s.io").await;
    ws.send(Message::Binary(Bytes::from_static(br#"{"Width":80,"Height":24}"#))).await.unwrap();
    ws.send(Message::Binary(Bytes::from_static(b"\x04{\"Width\":80,\"Height\":24}"))).await.unwrap();
    let [_, stdout, stderr, status] = all(ws).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("80x24", ""));
    assert!(status.contains(r#""status":"Success""#), "{status}");
}

#[tokio::test]
async fn input_and_output_do_not_block_each_other() {
    let ws = websocket("/exec/ns/pod/c?stdin=1&stdout=1&command=cat", "v5.channel.k8s.io").await;
    let (mut sink, mut stream) = ws.split();
    let sending = async {
        for _ in 0..400 {
            let mut piece = vec![0; 8193];
            piece[1..].fill(b'x');
            sink.send(Message::Binary(piece.into())).await.unwrap();
        }
        sink.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
    };
    let receiving = async {
        let mut received = 0;
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(data) = message
                && data[0] == 1
            {
                received += data.len() - 1;
            }
        }
        received
    };
    let ((), received) = tokio::join!(sending, receiving);
    assert_eq!(received, 400 * 8192);
}

#[tokio::test]
async fn a_command_over_spdy() {
    let (headers, io) = upgrade(
        "/exec/ns/pod/c?input=1&output=1&error=1&command=x&command=3",
        &[(UPGRADE, "SPDY/3.1"), ("x-stream-protocol-version", "v9.channel.k8s.io, v4.channel.k8s.io")],
    )
    .await;
    assert_eq!(headers["x-stream-protocol-version"], "v4.channel.k8s.io");
    let mut client = Client::new(io);
    let error = client.open(&[("streamtype", "error")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let stderr = client.open(&[("streamtype", "stderr")]).await;
    client.send(stdin, b"through spdy", true).await;
    let status = client.read_to_end_of(error).await;
    assert_eq!(client.read_to_end_of(stdout).await, "through spdy");
    assert_eq!(client.read_to_end_of(stderr).await, "x 3");
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
}

async fn forward(mut client: Client) {
    for (request, port) in [("1", "8080"), ("2", "9090")] {
        let error = client.open(&[("streamtype", "error"), ("port", port), ("requestid", request)]).await;
        let data = client.open(&[("streamtype", "data"), ("port", port), ("requestid", request)]).await;
        client.send(data, b"ping", false).await;
        assert_eq!(client.read_to_end_of(data).await, format!("{port}: ping"));
        assert_eq!(client.read_to_end_of(error).await, "");
    }
    let error = client.open(&[("streamtype", "error"), ("port", "1"), ("requestid", "3")]).await;
    client.open(&[("streamtype", "data"), ("port", "1"), ("requestid", "3")]).await;
    assert_eq!(client.read_to_end_of(error).await, "error forwarding port 1 to pod pod: connection refused");
}

#[tokio::test]
async fn ports_over_spdy() {
    let (_, io) = upgrade(
        "/portForward/ns/pod",
        &[(UPGRADE, "SPDY/3.1"), ("x-stream-protocol-version", "portforward.k8s.io")],
    )
    .await;
    forward(Client::new(io)).await;
}

#[tokio::test]
async fn ports_over_spdy_in_a_websocket() {
    let ws = websocket("/portForward/ns/pod", "SPDY/3.1+portforward.k8s.io").await;
    let (io, far) = tokio::io::duplex(4096);
    let (mut sink, mut stream) = ws.split();
    let (mut from, mut to) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut buffer = vec![0; 100];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(data) = message {
                to.write_all(&data).await.unwrap();
            }
        }
    });
    forward(Client::new(io)).await;
}

#[tokio::test]
async fn unknown_protocols_are_refused() {
    let mut request =
        Request::post("http://node/exec/ns/pod/c?stdout=1&command=x").body(Outgoing::empty()).unwrap();
    request.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    request.headers_mut().insert("x-stream-protocol-version", HeaderValue::from_static("v9.channel.k8s.io"));
    let response = tunnel().await.request(request).await.unwrap();
    assert_eq!(response.status(), 403);
}
