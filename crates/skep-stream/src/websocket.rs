//! WebSocket as a carrier of bytes.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// Largest message taken from a client. Clients send what they have read from a terminal or a file: some KiB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// `Sec-WebSocket-Accept` for a client's key.
pub(crate) fn accept_key(key: &[u8]) -> String {
    derive_accept_key(key)
}

/// The server's end of a WebSocket on a stream whose handshake is done.
pub(crate) async fn server<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
}

/// The end in good order. Clients take a close without a code for a failure.
pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Carries bytes: binary messages in both directions, their borders without meaning. Returns when either side has ended.
pub(crate) async fn tunnel<S, B>(stream: S, bytes: B)
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut messages) = server(stream).await.split();
    let (mut from, mut to) = tokio::io::split(bytes);
    let inward = async {
        while let Some(Ok(message)) = messages.next().await {
            let ok = match message {
                Message::Binary(data) => to.write_all(&data).await.is_ok(),
                Message::Text(text) => to.write_all(text.as_bytes()).await.is_ok(),
                Message::Close(_) => false,
                // Pings are answered by the library when something is next written.
                _ => true,
            };
            if !ok {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        () = &mut outward => {}
        // What is still on its way out goes out.
        () = &mut inward => outward.await,
    }
}
