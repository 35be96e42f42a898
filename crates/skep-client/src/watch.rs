//! Watches: lines of JSON, taken off the wire without copying where a line arrives in one piece.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use skep_base::Revision;

use crate::error::{self, Error};
use crate::object::Head;
use crate::transport::Body;

/// The longest line: the largest object and its envelope, with room for how it grows when escaped. A server that sends more
/// without a line's end is not one.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new, or newly selected.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or no longer selected; this is its last state, at the revision of its end.
    Deleted,
}

/// One event, its object not decoded yet.
#[derive(Clone, Debug)]
pub enum RawEvent {
    /// An object and what happened to it.
    Object(Change, Bytes),
    /// Everything up to here has been sent.
    Bookmark {
        /// Where "here" is.
        revision: Revision,
        /// Whether all objects that were there at the beginning have been sent.
        initial_events_end: bool,
    },
}

/// One event.
#[derive(Clone, Debug)]
pub enum WatchEvent<T> {
    /// An object and what happened to it.
    Object(Change, T),
    /// Everything up to here has been sent.
    Bookmark {
        /// Where "here" is.
        revision: Revision,
        /// Whether all objects that were there at the beginning have been sent.
        initial_events_end: bool,
    },
}

/// An open watch.
pub struct Watch {
    body: Body,
    chunk: Bytes,
    /// The beginning of a line whose rest has not arrived.
    partial: BytesMut,
}

impl Watch {
    pub(crate) fn new(body: Body) -> Watch {
        Watch { body, chunk: Bytes::new(), partial: BytesMut::new() }
    }

    /// The next event; `None` when the server has ended the watch in good order.
    ///
    /// # Errors
    /// When the connection breaks, or the server says what went wrong: [`crate::ErrorKind::Gone`] when the
    /// revision is no longer remembered. The watch is over then.
    pub async fn next_raw(&mut self) -> Result<Option<RawEvent>, Error> {
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            if !line.is_empty() {
                return event(&line).map(Some);
            }
        }
    }

    /// As [`Watch::next_raw`], decoded.
    ///
    /// # Errors
    /// As for [`Watch::next_raw`], and when an object is not what is expected.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<WatchEvent<T>>, Error> {
        Ok(match self.next_raw().await? {
            None => None,
            Some(RawEvent::Bookmark { revision, initial_events_end }) => {
                Some(WatchEvent::Bookmark { revision, initial_events_end })
            }
            Some(RawEvent::Object(change, object)) => {
                let object = serde_json::from_slice(&object).map_err(|e| Error::Answer(e.to_string()))?;
                Some(WatchEvent::Object(change, object))
            }
        })
    }

    async fn line(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.chunk) {
                let mut line = self.chunk.split_to(end + 1);
                line.truncate(end);
                if self.partial.is_empty() {
                    return Ok(Some(line));
                }
                self.partial.extend_from_slice(&line);
                return Ok(Some(std::mem::take(&mut self.partial).freeze()));
            }
            self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
            if self.partial.len() > MAX_LINE_BYTES {
                return Err(Error::Answer(format!("a watch event is longer than {MAX_LINE_BYTES} bytes")));
            }
            match self.body.next().await.transpose()? {
                Some(chunk) => self.chunk = chunk,
                // A last line without its end was cut off.
                None => return Ok(None),
            }
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Takes an event apart. All servers write `{"type":"…","object":…}`, so that the object need not be scanned to find its
/// end; anything else takes the long way.
fn event(line: &Bytes) -> Result<RawEvent, Error> {
    if let Some((kind, object)) = quickly(line) {
        return decode(kind, line.slice_ref(object));
    }
    let envelope: Envelope<'_> =
        serde_json::from_slice(line).map_err(|e| Error::Answer(format!("a watch event: {e}")))?;
    decode(envelope.r#type, line.slice_ref(envelope.object.get().as_bytes()))
}

fn quickly(line: &[u8]) -> Option<(&str, &[u8])> {
    let rest = line.strip_prefix(br#"{"type":""#)?;
    let quote = memchr::memchr(b'"', rest)?;
    let (kind, rest) = rest.split_at(quote);
    let object = rest.strip_prefix(br#"","object":"#)?.strip_suffix(b"}")?;
    (object.first() == Some(&b'{') && object.last() == Some(&b'}'))
        .then_some((std::str::from_utf8(kind).ok()?, object))
}

fn decode(kind: &str, object: Bytes) -> Result<RawEvent, Error> {
    Ok(match kind {
        "ADDED" => RawEvent::Object(Change::Added, object),
        "MODIFIED" => RawEvent::Object(Change::Modified, object),
        "DELETED" => RawEvent::Object(Change::Deleted, object),
        "BOOKMARK" => {
            let head = Head::read(&object)?;
            RawEvent::Bookmark { revision: head.revision(), initial_events_end: head.initial_events_end() }
        }
        "ERROR" => return Err(error::of_event(&object)),
        other => return Err(Error::Answer(format!("a watch event of the unknown type {other:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn watch(chunks: Vec<Vec<u8>>) -> Watch {
        Watch::new(Box::pin(stream::iter(chunks.into_iter().map(|c| Ok(Bytes::from(c))))))
    }

    const LINES: &[&str] = &[
        r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
        "",
        r#"{"object":{"metadata":{"name":"b"}},"type":"MODIFIED"}"#,
        r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
        r#"{"type":"DELETED","object":{"metadata":{"name":"a"}} }"#,
    ];

    proptest! {
        /// However the bytes are cut into chunks, the same events come out.
        #[test]
        fn cuts_do_not_matter(cuts in proptest::collection::vec(1usize..60, 1..60)) {
            let mut bytes: Vec<u8> = LINES.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
            let mut chunks = Vec::new();
            for cut in cuts {
                let at = cut.min(bytes.len());
                let rest = bytes.split_off(at);
                chunks.push(std::mem::replace(&mut bytes, rest));
            }
            chunks.push(bytes);
            let seen = futures::executor::block_on(async {
                let mut watch = watch(chunks);
                let mut seen = Vec::new();
                while let Some(event) = watch.next::<serde_json::Value>().await.unwrap() {
                    seen.push(match event {
                        WatchEvent::Object(change, o) => format!("{change:?} {}", o["metadata"]["name"].as_str().unwrap()),
                        WatchEvent::Bookmark { revision, initial_events_end } => format!("{revision} {initial_events_end}"),
                    });
                }
                seen
            });
            prop_assert_eq!(seen, ["Added a", "Modified b", "7 true", "Deleted a"]);
        }
    }

    #[tokio::test]
    async fn errors_and_torn_lines() {
        let gone =
            br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}"#;
        let error = watch(vec![[gone.as_slice(), b"\n"].concat()]).next_raw().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Gone);
        assert!(watch(vec![gone.to_vec()]).next_raw().await.unwrap().is_none());
        assert!(watch(vec![b"nonsense\n".to_vec()]).next_raw().await.is_err());
        assert!(
            watch(vec![br#"{"type":"NEW","object":{}}"#.to_vec(), b"\n".to_vec()]).next_raw().await.is_err()
        );
    }
}
