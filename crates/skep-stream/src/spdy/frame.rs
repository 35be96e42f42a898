//! SPDY's frames.
//!
//! ```text
//! control  1:1 version:15 type:16 flags:8 length:24 payload
//! data     0:1 stream:31          flags:8 length:24 payload
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest frame that is taken, and sent. Clients send what they have read: 32 KiB.
pub(crate) const MAX_FRAME_BYTES: usize = 1 << 20;

const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const ID: u32 = 0x7fff_ffff;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// `CANCEL` of the specification's status codes.
const STATUS_CANCEL: u32 = 5;

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Open { id: u32, finished: bool, block: Bytes },
    Headers { block: Bytes },
    Data { id: u32, finished: bool, bytes: Bytes },
    Reset { id: u32 },
    Ping { id: u32 },
    GoAway,
    Other,
}

/// Why bytes are no frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFrame {
    #[error("a frame of {0} bytes, more than {MAX_FRAME_BYTES}")]
    TooLong(usize),
    #[error("a frame of SPDY version {0} where 3 was expected")]
    Version(u16),
    #[error("a frame that is too short for its type")]
    TooShort,
}

impl Frame {
    /// Takes the next frame off the buffer, when it is there as a whole.
    pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
        let Some(mut head) = buffer.get(..8) else { return Ok(None) };
        let (first, second) = (head.get_u32(), head.get_u32());
        let (flags, len) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if len > MAX_FRAME_BYTES {
            return Err(BadFrame::TooLong(len));
        }
        if buffer.len() < 8 + len {
            return Ok(None);
        }
        buffer.advance(8);
        let mut payload = buffer.split_to(len).freeze();
        let finished = flags & FIN != 0;
        let (high, kind) = ((first >> 16) as u16, (first & 0xffff) as u16);
        if high & CONTROL == 0 {
            return Ok(Some(Frame::Data { id: first & ID, finished, bytes: payload }));
        }
        if high & !CONTROL != VERSION {
            return Err(BadFrame::Version(high & !CONTROL));
        }
        let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| BadFrame::TooShort);
        Ok(Some(match kind {
            SYN_STREAM => {
                let id = number(&mut payload)? & ID;
                number(&mut payload)?;
                // Priority and credential slot.
                payload.try_get_u16().map_err(|_| BadFrame::TooShort)?;
                Frame::Open { id, finished, block: payload }
            }
            HEADERS => {
                number(&mut payload)?;
                Frame::Headers { block: payload }
            }
            RST_STREAM => Frame::Reset { id: number(&mut payload)? & ID },
            PING => Frame::Ping { id: number(&mut payload)? },
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        }))
    }
}

fn control(buffer: &mut BytesMut, kind: u16, payload: &[&[u8]]) {
    let len: usize = payload.iter().map(|p| p.len()).sum();
    buffer.put_u16(CONTROL | VERSION);
    buffer.put_u16(kind);
    // The cast is exact: callers keep to MAX_FRAME_BYTES.
    buffer.put_u32(len as u32);
    payload.iter().for_each(|p| buffer.put_slice(p));
}

pub(crate) fn data(buffer: &mut BytesMut, id: u32, finished: bool, bytes: &[u8]) {
    buffer.put_u32(id & ID);
    buffer.put_u32(u32::from(if finished { FIN } else { 0 }) << 24 | bytes.len() as u32);
    buffer.put_slice(bytes);
}

pub(crate) fn reply(buffer: &mut BytesMut, id: u32, block: &[u8]) {
    control(buffer, SYN_REPLY, &[&id.to_be_bytes(), block]);
}

pub(crate) fn reset(buffer: &mut BytesMut, id: u32) {
    control(buffer, RST_STREAM, &[&id.to_be_bytes(), &STATUS_CANCEL.to_be_bytes()]);
}

pub(crate) fn ping(buffer: &mut BytesMut, id: u32) {
    control(buffer, PING, &[&id.to_be_bytes()]);
}

#[cfg(test)]
pub(crate) fn open(buffer: &mut BytesMut, id: u32, block: &[u8]) {
    control(buffer, SYN_STREAM, &[&id.to_be_bytes(), &[0; 6], block]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_read_back_however_they_are_cut() {
        let mut all = BytesMut::new();
        open(&mut all, 1, b"block");
        data(&mut all, 1, false, b"hello");
        ping(&mut all, 7);
        reset(&mut all, 1);
        data(&mut all, 3, true, b"");
        let expected = vec![
            Frame::Open { id: 1, finished: false, block: Bytes::from_static(b"block") },
            Frame::Data { id: 1, finished: false, bytes: Bytes::from_static(b"hello") },
            Frame::Ping { id: 7 },
            Frame::Reset { id: 1 },
            Frame::Data { id: 3, finished: true, bytes: Bytes::new() },
        ];
        for cut in 1..all.len() {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in all.chunks(cut) {
                buffer.extend_from_slice(part);
                while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, expected, "in pieces of {cut}");
        }
    }

    #[test]
    fn what_cannot_be_a_frame_is_refused() {
        let take = |bytes: &[u8]| Frame::take(&mut BytesMut::from(bytes));
        assert_eq!(take(&[0x80, 2, 0, 6, 0, 0, 0, 0]), Err(BadFrame::Version(2)));
        assert_eq!(take(&[0x80, 3, 0, 6, 0, 0, 0, 0]), Err(BadFrame::TooShort));
        assert_eq!(take(&[0, 0, 0, 1, 0, 0xff, 0, 0]), Err(BadFrame::TooLong(0x00ff_0000)));
        assert_eq!(take(b"GET / H"), Ok(None));
    }

    proptest! {
        #[test]
        fn anything_is_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::take(&mut buffer) {}
        }
    }
}
