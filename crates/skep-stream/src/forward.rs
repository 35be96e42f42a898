//! Port forwarding: connections into a pod's network, each as a pair of SPDY streams.
//!
//! For every connection the client opens an `error` and a `data` stream with the same `requestid` and a `port`. Bytes go through the
//! data stream; if something fails, a sentence about it goes through the other.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::node::{Node, PodAt};
use crate::spdy::{Session, Stream};

/// What is understood: the first by SPDY clients, the second by WebSocket clients that carry SPDY.
pub(crate) const PROTOCOLS: [&str; 2] = ["portforward.k8s.io", "SPDY/3.1+portforward.k8s.io"];

/// Pairs of which one stream is missing. A client opens the two right after each other.
const MAX_HALF_PAIRS: usize = 256;

/// Serves a client until it goes.
pub(crate) async fn serve<S>(stream: S, node: Arc<dyn Node>, at: PodAt)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut session, work) = Session::server(stream);
    let mut halves: HashMap<String, Stream> = HashMap::new();
    let mut connections = FuturesUnordered::new();
    tokio::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return,
            Some(()) = connections.next(), if !connections.is_empty() => {}
            stream = session.accept() => {
                let Some(stream) = stream else {
                    while connections.next().await.is_some() {}
                    return;
                };
                let request = match stream.header("requestid") {
                    // Clients of old number the streams: the data stream follows on the error stream.
                    "" => match stream.header("streamtype") {
                        "data" => (stream.id().saturating_sub(2)).to_string(),
                        _ => stream.id().to_string(),
                    },
                    request => request.to_owned(),
                };
                match halves.remove(&request) {
                    None if halves.len() < MAX_HALF_PAIRS => {
                        halves.insert(request, stream);
                    }
                    None => stream.reset().await,
                    Some(other) => {
                        let (data, error) =
                            if stream.header("streamtype") == "data" { (stream, other) } else { (other, stream) };
                        connections.push(forward(node.clone(), at.clone(), data, error));
                    }
                }
            }
        }
    }
}

async fn forward(node: Arc<dyn Node>, at: PodAt, data: Stream, mut error: Stream) {
    let port = data.header("port").to_owned();
    let result = match port.parse::<u16>() {
        Ok(number @ 1..) => match node.connect(at.clone(), number).await {
            Ok(connection) => pump(connection, data).await,
            Err(refusal) => Err(refusal.message),
        },
        _ => Err(format!("unable to parse {port:?} as a port")),
    };
    if let Err(message) = result {
        let text = format!("error forwarding port {port} to pod {}: {message}", at.pod);
        let _ = error.write(Bytes::from(text)).await;
    }
    error.finish().await;
}

async fn pump(connection: Box<dyn crate::node::Connection>, stream: Stream) -> Result<(), String> {
    let (mut from, mut to) = tokio::io::split(connection);
    let (mut reader, mut writer) = stream.split();
    let inward = async {
        while let Some(bytes) = reader.read().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        let result = loop {
            match from.read(&mut buffer).await {
                Ok(0) => break Ok(()),
                Ok(n) => {
                    if writer.write(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                        return Ok(());
                    }
                }
                Err(e) => break Err(e.to_string()),
            }
        };
        writer.finish().await;
        result
    };
    // The pod's end decides: when it has closed there is nobody to send to.
    tokio::pin!(inward, outward);
    tokio::select! {
        result = &mut outward => result,
        () = &mut inward => outward.await,
    }
}
