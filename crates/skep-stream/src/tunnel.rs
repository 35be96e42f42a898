//! The API server's end of a tunnel.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// How often each end asks whether the other is still there. Half of it is about how long a user waits for an agent that has
/// vanished without closing its connection.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long an answer to that may take.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The tunnel does not work any more.
#[derive(Debug, thiserror::Error)]
#[error("the agent's connection is lost: {0}")]
pub struct Lost(#[from] hyper::Error);

/// The body of a request through a tunnel: what a client sends after its connection has become a stream.
pub struct Outgoing(Option<mpsc::Receiver<Bytes>>);

impl Outgoing {
    /// Nothing.
    #[must_use]
    pub fn empty() -> Outgoing {
        Outgoing(None)
    }

    /// What comes through a channel; ends when the channel does.
    #[must_use]
    pub fn channel(receiver: mpsc::Receiver<Bytes>) -> Outgoing {
        Outgoing(Some(receiver))
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.0 {
            None => Poll::Ready(None),
            Some(receiver) => receiver.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// The API server's end. Clones share the connection.
#[derive(Clone)]
pub struct Tunnel {
    sender: SendRequest<Outgoing>,
}

impl Tunnel {
    /// Takes over a connection that an agent has opened. The future that comes with the tunnel does its work, and ends with it.
    ///
    /// # Errors
    /// When the other end does not speak as it should.
    pub async fn over<S>(stream: S) -> Result<(Tunnel, impl Future<Output = ()> + Send), Lost>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let work = async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an agent's tunnel ended");
            }
        };
        Ok((Tunnel { sender }, work))
    }

    /// Asks the agent. The path is one that the agent's end serves; the authority does not matter.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn request(&self, request: Request<Outgoing>) -> Result<Response<Incoming>, Lost> {
        Ok(self.sender.clone().send_request(request).await?)
    }

    /// Whether it is known to be lost.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}
