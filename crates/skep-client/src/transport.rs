//! How requests get to an API server.

use std::pin::Pin;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode};

use crate::error::Error;

/// The body of an answer, as it arrives.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Headers besides those that the transport itself sets (credential, host).
    pub headers: HeaderMap,
    /// The body; may be empty.
    pub body: Bytes,
    /// Whether the answer has no end: a watch. Such requests may get a connection of their own.
    pub endless: bool,
}

/// An answer, whatever its status.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

impl Response {
    /// The whole body.
    ///
    /// # Errors
    /// When the connection breaks before its end.
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        let mut chunks = Vec::new();
        while let Some(chunk) = self.body.next().await.transpose()? {
            chunks.push(chunk);
        }
        Ok(match chunks.len() {
            0 => Bytes::new(),
            1 => chunks.swap_remove(0),
            // Once and of the right size: a long list that grows as it comes is copied again and again.
            _ => chunks.concat().into(),
        })
    }
}

/// A way to one API server with one identity. The network is one ([`crate::Network`]); a server in the same
/// process is another. What comes behind, authorisation included, is the same for both.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request. An answer with an error status is an answer.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Error>>;

    /// The server's address, for messages.
    fn server(&self) -> &str;
}
