//! The bytes of the log's files.
//!
//! A file is a header and frames. All numbers are little-endian.
//!
//! ```text
//! header  magic[8] version:u32 sequence:u64 revision:u64 before:u64 crc:u32
//! frame   magic[4] length:u32 crc:u32 payload[length]
//! payload kind:u8 …
//! ```
//!
//! The CRC-32 of a frame covers the file's sequence number, the frame's offset, its length and its payload,
//! so that a frame is good only where it was written. The frame's magic holds bytes that UTF-8 never has:
//! nothing that a client stores can look like a frame.

use skep_base::{GroupResource, Key, Revision};

use crate::value::{Header, Value};

/// Raise it with every change of what is in this file, and read the older ones too.
pub(crate) const VERSION: u32 = 1;
pub(crate) const LOG_MAGIC: [u8; 8] = *b"SKEPLOG\n";
pub(crate) const SNAPSHOT_MAGIC: [u8; 8] = *b"SKEPSNP\n";
pub(crate) const FILE_HEADER_LEN: usize = 8 + 4 + 8 + 8 + 8 + 4;
pub(crate) const FRAME_MAGIC: [u8; 4] = [0xf7, 0x5e, 0xff, 0xb3];
pub(crate) const FRAME_HEADER_LEN: usize = 4 + 4 + 4;
/// No frame is longer. The sequencer's batches are a quarter of it at most.
pub(crate) const FRAME_MAX_BYTES: usize = 256 << 20;

/// A file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) sequence: u64,
    /// The newest revision when the file was begun.
    pub(crate) revision: Revision,
    /// How long the segment before it was then. What lies behind is void, even if it is whole: it was
    /// refused to its writer.
    pub(crate) before: u64,
}

/// What a file begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderRead {
    Good(FileHeader),
    /// Whole, but of a version that this code does not know.
    OtherVersion,
    Bad,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER_LEN);
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.revision.0.to_le_bytes());
        out.extend_from_slice(&self.before.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8], magic: [u8; 8], sequence: u64) -> HeaderRead {
        let (Some(body), Some(crc)) = (bytes.get(..FILE_HEADER_LEN - 4), bytes.get(FILE_HEADER_LEN - 4..))
        else {
            return HeaderRead::Bad;
        };
        let mut take = Take(body);
        let (Some(found), Some(version)) = (take.bytes(8), take.u32()) else { return HeaderRead::Bad };
        if found != magic || Take(crc).u32() != Some(crc32fast::hash(body)) {
            return HeaderRead::Bad;
        }
        if version != VERSION {
            return HeaderRead::OtherVersion;
        }
        match (take.u64(), take.u64(), take.u64()) {
            (Some(found), Some(revision), Some(before)) if found == sequence => {
                HeaderRead::Good(FileHeader { magic, sequence, revision: Revision(revision), before })
            }
            _ => HeaderRead::Bad,
        }
    }
}

fn frame_crc(sequence: u64, offset: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&sequence.to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(&(payload.len() as u64).to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

/// A frame's header: length and checksum, if it looks like one.
pub(crate) fn decode_frame_header(header: &[u8]) -> Option<(usize, u32)> {
    let mut take = Take(header);
    if take.bytes(4)? != FRAME_MAGIC {
        return None;
    }
    let (len, crc) = (take.u32()? as usize, take.u32()?);
    (1..=FRAME_MAX_BYTES).contains(&len).then_some((len, crc))
}

/// Whether a payload is what its frame's header says.
pub(crate) fn frame_is_good(sequence: u64, offset: u64, payload: &[u8], crc: u32) -> bool {
    frame_crc(sequence, offset, payload) == crc
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes, or a snapshot's objects.
    Records = 1,
    /// The log was closed here. Without it, damage in the last frame could not be told from a torn write.
    Closed = 2,
    /// The end of a snapshot.
    SnapshotEnd = 3,
}

/// Builds one frame at a time, keeping its memory.
#[derive(Default)]
pub(crate) struct FrameBuilder {
    bytes: Vec<u8>,
    resource: Option<GroupResource>,
}

const RECORD_DELETE: u8 = 0;
const RECORD_PUT: u8 = 1;
/// Says the resource of the records that follow in the frame.
const RECORD_RESOURCE: u8 = 2;

impl FrameBuilder {
    /// Length of a frame that holds nothing yet.
    pub(crate) const EMPTY_LEN: usize = FRAME_HEADER_LEN + 1;

    pub(crate) fn begin(&mut self, kind: Kind) {
        self.bytes.clear();
        self.resource = None;
        self.bytes.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        self.bytes.push(kind as u8);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn text(&mut self, text: &str) {
        // The cast is exact: keys are limited to some thousand bytes.
        self.bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn resource(&mut self, resource: &GroupResource) {
        if self.resource.as_ref() != Some(resource) {
            self.bytes.push(RECORD_RESOURCE);
            self.text(resource.group());
            self.text(resource.resource());
            self.resource = Some(resource.clone());
        }
    }

    pub(crate) fn put(&mut self, resource: &GroupResource, value: &Value) {
        self.resource(resource);
        let header = value.header();
        self.bytes.push(RECORD_PUT);
        self.bytes.extend_from_slice(&header.revision.0.to_le_bytes());
        self.bytes.extend_from_slice(&header.expires_at_s.to_le_bytes());
        self.bytes.extend_from_slice(&header.path_len.to_le_bytes());
        for number in [header.attrs_len, header.revision_at, header.meta_start, header.meta_end] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        // The cast is exact: values are limited to 1 GiB.
        self.bytes.extend_from_slice(&(value.bytes().len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(value.bytes());
    }

    pub(crate) fn delete(&mut self, key: &Key, revision: Revision) {
        self.resource(&key.resource);
        self.bytes.push(RECORD_DELETE);
        self.bytes.extend_from_slice(&revision.0.to_le_bytes());
        self.text(&key.path());
    }

    pub(crate) fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Fills in the frame's header. Where the frame goes is part of its checksum.
    pub(crate) fn finish(&mut self, sequence: u64, offset: u64) -> &[u8] {
        let payload = &self.bytes[FRAME_HEADER_LEN..];
        // The cast is exact: see FRAME_MAX_BYTES.
        let (len, crc) = (payload.len() as u32, frame_crc(sequence, offset, payload));
        self.bytes[..4].copy_from_slice(&FRAME_MAGIC);
        self.bytes[4..8].copy_from_slice(&len.to_le_bytes());
        self.bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }

    /// A burst must not keep its memory for ever.
    pub(crate) fn shrink(&mut self) {
        const KEPT_BYTES: usize = 1 << 20;
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
        }
    }
}

/// Takes numbers and bytes off a slice.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.bytes(len as usize)?).ok()
    }
}

/// What a good frame says.
pub(crate) enum Payload<'a> {
    Records(Records<'a>),
    Closed,
    SnapshotEnd { objects: u64, revision: Revision },
}

/// Reads the payload of a good frame; `None` when it makes no sense.
pub(crate) fn decode_payload(payload: &[u8]) -> Option<Payload<'_>> {
    let (kind, rest) = payload.split_first()?;
    let mut take = Take(rest);
    Some(match *kind {
        k if k == Kind::Records as u8 => Payload::Records(Records { take, resource: None }),
        k if k == Kind::Closed as u8 => Payload::Closed,
        k if k == Kind::SnapshotEnd as u8 => {
            Payload::SnapshotEnd { objects: take.u64()?, revision: Revision(take.u64()?) }
        }
        _ => return None,
    })
}

/// One change, or one object of a snapshot.
pub(crate) enum Record {
    Put { resource: GroupResource, value: Value },
    Delete { key: Key, revision: Revision },
}

/// The records of a frame.
pub(crate) struct Records<'a> {
    take: Take<'a>,
    resource: Option<GroupResource>,
}

impl Records<'_> {
    /// The next record; `Some(None)` when what follows is none.
    pub(crate) fn next(&mut self) -> Option<Option<Record>> {
        if self.take.0.is_empty() { None } else { Some(self.read()) }
    }

    fn read(&mut self) -> Option<Record> {
        loop {
            match self.take.array::<1>()? {
                [RECORD_RESOURCE] => {
                    let (group, resource) = (self.take.text()?, self.take.text()?);
                    self.resource = Some(GroupResource::new(group, resource));
                }
                [RECORD_PUT] => {
                    let header = Header {
                        revision: Revision(self.take.u64()?),
                        expires_at_s: self.take.u32()?,
                        path_len: self.take.u16()?,
                        attrs_len: self.take.u32()?,
                        revision_at: self.take.u32()?,
                        meta_start: self.take.u32()?,
                        meta_end: self.take.u32()?,
                    };
                    let len = self.take.u32()? as usize;
                    let value = Value::restore(header, self.take.bytes(len)?)?;
                    return Some(Record::Put { resource: self.resource.clone()?, value });
                }
                [RECORD_DELETE] => {
                    let revision = Revision(self.take.u64()?);
                    let key = Key::from_path(self.resource.clone()?, self.take.text()?)?;
                    return Some(Record::Delete { key, revision });
                }
                _ => return None,
            }
        }
    }
}

impl Record {
    pub(crate) fn revision(&self) -> Revision {
        match self {
            Record::Put { value, .. } => value.revision(),
            Record::Delete { revision, .. } => *revision,
        }
    }
}
