//! A client, for tests.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::frame::{self, Frame};
use super::headers::Deflater;

pub(crate) struct Client {
    io: DuplexStream,
    buffer: BytesMut,
    deflater: Deflater,
    next: u32,
    /// What came on each stream, and whether it has ended.
    pub(crate) received: HashMap<u32, (Vec<u8>, bool)>,
}

impl Client {
    pub(crate) fn new(io: DuplexStream) -> Client {
        Client { io, buffer: BytesMut::new(), deflater: Deflater::new(), next: 1, received: HashMap::new() }
    }

    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let mut out = BytesMut::new();
        frame::open(&mut out, id, &self.deflater.block(headers).unwrap());
        self.io.write_all(&out).await.unwrap();
        id
    }

    pub(crate) async fn send(&mut self, id: u32, bytes: &[u8], finished: bool) {
        let mut out = BytesMut::new();
        frame::data(&mut out, id, finished, bytes);
        self.io.write_all(&out).await.unwrap();
    }

    /// Reads until a stream has ended, or the connection.
    pub(crate) async fn read_to_end_of(&mut self, id: u32) -> Bytes {
        while !self.received.get(&id).is_some_and(|(_, ended)| *ended) {
            match Frame::take(&mut self.buffer).unwrap() {
                Some(Frame::Data { id, finished, bytes }) => {
                    let entry = self.received.entry(id).or_default();
                    entry.0.extend_from_slice(&bytes);
                    entry.1 |= finished;
                }
                Some(_) => {}
                None if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 => break,
                None => {}
            }
        }
        self.received.get(&id).map(|(b, _)| Bytes::from(b.clone())).unwrap_or_default()
    }
}
