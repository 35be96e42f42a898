//! Answers.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt;

use crate::error::RegistryError;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is read from a file at once.
const READ_BYTES: usize = 256 * 1024;

/// An answer in the making.
pub(crate) struct Answer(Response<Body>);

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes as it is made.
pub(crate) fn streamed(stream: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures::TryStreamExt;
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

/// So many bytes of a file, from `first` on.
pub(crate) fn file(mut file: File, first: u64, length: u64) -> io::Result<Body> {
    if length == 0 {
        return Ok(empty());
    }
    file.seek(SeekFrom::Start(first))?;
    let file = tokio::fs::File::from_std(file);
    Ok(streamed(stream::try_unfold((file, length), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut buffer = BytesMut::with_capacity(want);
        let read = (&mut file).take(left).read_buf(&mut buffer).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the blob's file is too short"));
        }
        Ok(Some((buffer.freeze(), (file, left - read as u64))))
    })))
}

impl Answer {
    pub(crate) fn new(status: StatusCode) -> Answer {
        let mut response = Response::new(empty());
        *response.status_mut() = status;
        Answer(response)
    }

    /// A header, which is left out if its text cannot stand in one.
    pub(crate) fn header(mut self, name: &'static str, value: impl AsRef<str>) -> Answer {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.0.headers_mut().append(HeaderName::from_static(name), value);
        }
        self
    }

    pub(crate) fn body(mut self, body: Body) -> Answer {
        *self.0.body_mut() = body;
        self
    }

    pub(crate) fn bytes(self, content_type: &str, bytes: Vec<u8>) -> Answer {
        let length = bytes.len();
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        self.header("content-type", content_type).header("content-length", length.to_string()).body(body)
    }

    pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
        Answer::new(status).bytes("application/json", value.to_string().into_bytes())
    }

    pub(crate) fn error(error: &RegistryError) -> Answer {
        Answer::new(error.code.status()).bytes("application/json", error.body())
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        self.0
    }
}
