//! The agent's end of a tunnel: from requests to [`Node`]'s methods.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf};

use crate::node::{Chunks, ContainerAt, LogOptions, Node, PodAt, Refusal, Streams};
use crate::remote::Version;
use crate::tunnel::{PING_INTERVAL, PING_TIMEOUT};
use crate::{UPGRADE, forward, remote, websocket};

/// Bytes under way in each direction of a stream before its sender waits.
const STREAM_BUFFER_BYTES: usize = 64 * 1024;

/// Streams under way on one tunnel.
const MAX_STREAMS: u32 = 1024;

/// What an answer carries.
enum Body {
    Whole(Bytes),
    Chunks(Chunks),
    /// What a protocol writes.
    Stream(ReadHalf<DuplexStream>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Body::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Chunks(chunks) => chunks.as_mut().poll_next(cx).map(|c| c.map(|c| c.map(Frame::data))),
            Body::Stream(stream) => {
                let mut bytes = BytesMut::zeroed(16 * 1024);
                let mut buffer = ReadBuf::new(&mut bytes);
                ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
                let filled = buffer.filled().len();
                bytes.truncate(filled);
                Poll::Ready((filled > 0).then(|| Ok(Frame::data(bytes.freeze()))))
            }
        }
    }
}

/// Serves a connection that this agent has opened until it ends.
///
/// # Errors
/// How the connection ended, if not in good order.
pub async fn serve<S>(stream: S, node: Arc<dyn Node>) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let node = node.clone();
        async move {
            Ok::<_, Infallible>(answer(node, request).await.unwrap_or_else(|refusal| {
                let mut response = Response::new(Body::Whole(refusal.message.into()));
                *response.status_mut() =
                    StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                response
            }))
        }
    });
    Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(node: Arc<dyn Node>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let container = |namespace: &str, pod: &str, container: &str| ContainerAt {
        pod: PodAt { namespace: namespace.to_owned(), pod: pod.to_owned() },
        container: container.to_owned(),
    };
    match segments.as_slice() {
        ["containerLogs", namespace, pod, name] => {
            let chunks = node.logs(container(namespace, pod, name), query.log_options()).await?;
            let mut response = Response::new(Body::Chunks(chunks));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            Ok(response)
        }
        [what @ ("exec" | "attach"), namespace, pod, name] => {
            let at = container(namespace, pod, name);
            let streams = query.streams()?;
            let upgrade = Upgrade::negotiate(request.headers(), &remote::PROTOCOLS)?;
            let version = Version::of(&upgrade.protocol);
            let process = match *what {
                "exec" => node.exec(at, query.all("command"), streams).await?,
                _ => node.attach(at, streams).await?,
            };
            let websocket = upgrade.kind == Kind::WebSocket;
            Ok(upgrade.accept(request, move |stream| async move {
                if websocket {
                    remote::over_websocket(stream, version, streams, process).await;
                } else {
                    remote::over_spdy(stream, version, streams, process).await;
                }
            }))
        }
        ["portForward", namespace, pod] => {
            let at = PodAt { namespace: (*namespace).to_owned(), pod: (*pod).to_owned() };
            let upgrade = Upgrade::negotiate(request.headers(), &forward::PROTOCOLS)?;
            let websocket = upgrade.kind == Kind::WebSocket;
            Ok(upgrade.accept(request, move |stream| async move {
                if websocket {
                    let (near, far) = tokio::io::duplex(STREAM_BUFFER_BYTES);
                    tokio::join!(websocket::tunnel(stream, near), forward::serve(far, node, at));
                } else {
                    forward::serve(stream, node, at).await;
                }
            }))
        }
        _ => {
            let path = request.uri().path_and_query().map_or(path.clone(), ToString::to_string);
            let (content_type, body) = node.document(path).await?;
            let mut response = Response::new(Body::Whole(body));
            if let Ok(value) = HeaderValue::from_str(&content_type) {
                response.headers_mut().insert(header::CONTENT_TYPE, value);
            }
            Ok(response)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WebSocket,
    Spdy,
}

/// An upgrade that is agreed on.
struct Upgrade {
    kind: Kind,
    protocol: String,
    /// `Sec-WebSocket-Accept`.
    accept: Option<String>,
}

impl Upgrade {
    /// The first protocol of the client's that is known here; a WebSocket client may name none.
    fn negotiate(headers: &HeaderMap, known: &[&str]) -> Result<Upgrade, Refusal> {
        let kind = match headers.get(UPGRADE).and_then(|v| v.to_str().ok()) {
            Some(v) if v.eq_ignore_ascii_case("websocket") => Kind::WebSocket,
            Some(v) if v.eq_ignore_ascii_case("spdy/3.1") => Kind::Spdy,
            _ => {
                return Err(Refusal::new(400, "you must specify at least 1 of: websocket, SPDY/3.1 upgrade"));
            }
        };
        let (name, accept) = match kind {
            Kind::WebSocket => {
                let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
                let key = key.ok_or_else(|| Refusal::new(400, "the Sec-WebSocket-Key header is missing"))?;
                (header::SEC_WEBSOCKET_PROTOCOL.as_str(), Some(websocket::accept_key(key)))
            }
            Kind::Spdy => ("x-stream-protocol-version", None),
        };
        let wanted: Vec<&str> = headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .collect();
        let protocol = match wanted.iter().find(|w| known.contains(w)) {
            Some(protocol) => (*protocol).to_owned(),
            None if wanted.is_empty() => String::new(),
            None => {
                return Err(Refusal::new(
                    403,
                    format!(
                        "unable to negotiate protocol: client supports [{}], server accepts [{}]",
                        wanted.join(" "),
                        known.join(" ")
                    ),
                ));
            }
        };
        Ok(Upgrade { kind, protocol, accept })
    }

    /// Answers the upgrade, and runs the protocol on the stream that the request's and the answer's body make.
    fn accept<F>(
        self,
        request: Request<Incoming>,
        run: impl FnOnce(DuplexStream) -> F + Send + 'static,
    ) -> Response<Body>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (ours, theirs) = tokio::io::duplex(STREAM_BUFFER_BYTES);
        let (reader, mut writer) = tokio::io::split(theirs);
        let mut sent = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = sent.frame().await {
                if let Ok(mut data) = frame.into_data()
                    && writer.write_all_buf(&mut data).await.is_err()
                {
                    return;
                }
            }
            let _ = writer.shutdown().await;
        });
        tokio::spawn(run(ours));
        let mut response = Response::new(Body::Stream(reader));
        let headers = response.headers_mut();
        let (kind, protocol_header) = match self.kind {
            Kind::WebSocket => ("websocket", header::SEC_WEBSOCKET_PROTOCOL.as_str()),
            Kind::Spdy => ("SPDY/3.1", "x-stream-protocol-version"),
        };
        headers.insert(UPGRADE, HeaderValue::from_static(kind));
        if !self.protocol.is_empty()
            && let Ok(value) = HeaderValue::from_str(&self.protocol)
        {
            headers.insert(protocol_header, value);
        }
        if let Some(value) = self.accept.and_then(|a| HeaderValue::from_str(&a).ok()) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, value);
        }
        response
    }
}

/// A query string.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Query {
        let text = |raw: &str| {
            percent_encoding::percent_decode_str(&raw.replace('+', " ")).decode_utf8_lossy().into_owned()
        };
        let pairs = query.split('&').filter(|p| !p.is_empty());
        Query(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (text(k), text(v))).collect())
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.first(name), Some("1" | "true" | "True"))
    }

    fn streams(&self) -> Result<Streams, Refusal> {
        let flag = |long: &str, short: &str| self.flag(long) || self.flag(short);
        let tty = self.flag("tty");
        let streams = Streams {
            stdin: flag("stdin", "input"),
            stdout: flag("stdout", "output"),
            // A terminal has one output.
            stderr: flag("stderr", "error") && !tty,
            tty,
        };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err(Refusal::new(400, "you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(streams)
    }

    fn log_options(&self) -> LogOptions {
        let number = |name: &str| self.first(name).and_then(|v| v.parse().ok());
        LogOptions {
            follow: self.flag("follow"),
            previous: self.flag("previous"),
            timestamps: self.flag("timestamps"),
            since_seconds: number("sinceSeconds"),
            since_time: self.first("sinceTime").map(str::to_owned),
            tail_lines: number("tailLines"),
            limit_bytes: number("limitBytes"),
            stream: self.first("stream").map(str::to_owned),
        }
    }
}
