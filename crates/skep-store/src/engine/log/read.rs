//! Reading the log's files back, and telling a torn end from damage.

use std::io::{self, Read};

use super::format::{
    FILE_HEADER_LEN, FRAME_HEADER_LEN, FRAME_MAGIC, FRAME_MAX_BYTES, FileHeader, HeaderRead, Payload, Record,
    decode_frame_header, decode_payload, frame_is_good,
};
use crate::engine::OpenError;
use crate::engine::disk::Disk;

const READ_BUFFER_BYTES: usize = 1 << 20;

pub(super) fn io_error(what: &str, name: &str) -> impl FnOnce(io::Error) -> OpenError {
    let what = format!("{what} {name}");
    move |source| OpenError::Io { what, source }
}

pub(super) fn corrupt(name: &str, offset: u64, what: impl Into<String>) -> OpenError {
    OpenError::Corrupt { file: name.to_owned(), offset, what: what.into() }
}

/// A file being read.
pub(super) struct FileReader {
    name: String,
    sequence: u64,
    input: io::BufReader<Box<dyn Read + Send>>,
    /// Where the next frame begins.
    offset: u64,
    payload: Vec<u8>,
}

/// What comes next in a file.
pub(super) enum Frame<'a> {
    Good(Payload<'a>),
    /// The file ends, or zeros that were written ahead begin.
    End,
    /// What follows is no whole frame: the bytes from its offset on, and what is wrong with them.
    Bad {
        rest: Vec<u8>,
        what: &'static str,
    },
}

/// A file's header, or that it has none because its making was interrupted.
pub(super) enum Opened {
    Good(FileHeader, FileReader),
    /// Nothing can have been written behind a header that was not yet whole.
    Unfinished,
}

impl FileReader {
    /// Opens a file and reads its header.
    pub(super) fn open(
        disk: &dyn Disk,
        name: &str,
        magic: [u8; 8],
        sequence: u64,
    ) -> Result<Opened, OpenError> {
        let input = disk.read(name).map_err(io_error("reading", name))?;
        let mut reader = FileReader {
            name: name.to_owned(),
            sequence,
            input: io::BufReader::with_capacity(READ_BUFFER_BYTES, input),
            offset: FILE_HEADER_LEN as u64,
            payload: Vec::new(),
        };
        let mut header = Vec::with_capacity(FILE_HEADER_LEN);
        reader.fill(&mut header, FILE_HEADER_LEN)?;
        match FileHeader::decode(&header, magic, sequence) {
            HeaderRead::Good(header) => Ok(Opened::Good(header, reader)),
            HeaderRead::OtherVersion => Err(OpenError::Format(name.to_owned())),
            HeaderRead::Bad => {
                let mut more = Vec::new();
                reader.fill(&mut more, 1)?;
                if more.is_empty() {
                    Ok(Opened::Unfinished)
                } else {
                    Err(corrupt(name, 0, "it has no header"))
                }
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads up to `len` more bytes to the end of a buffer. Does not believe the length before the bytes
    /// are there.
    fn fill(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<(), OpenError> {
        let read = self.input.by_ref().take(len as u64).read_to_end(buffer);
        read.map(drop).map_err(io_error("reading", &self.name))
    }

    /// Reads the next frame.
    pub(super) fn next(&mut self) -> Result<Frame<'_>, OpenError> {
        let mut header = Vec::with_capacity(FRAME_HEADER_LEN);
        self.fill(&mut header, FRAME_HEADER_LEN)?;
        if header.is_empty() {
            return Ok(Frame::End);
        }
        let Some((len, crc)) = decode_frame_header(&header) else {
            let rest = self.rest(header)?;
            if rest.len() <= FRAME_MAX_BYTES && rest.iter().all(|b| *b == 0) {
                return Ok(Frame::End);
            }
            return Ok(Frame::Bad { rest, what: "no record begins here" });
        };
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        self.fill(&mut payload, len)?;
        if payload.len() < len || !frame_is_good(self.sequence, self.offset, &payload, crc) {
            let what =
                if payload.len() < len { "the file ends within a record" } else { "a checksum is wrong" };
            header.extend_from_slice(&payload);
            let rest = self.rest(header)?;
            return Ok(Frame::Bad { rest, what });
        }
        self.payload = payload;
        let at = self.offset;
        self.offset += (FRAME_HEADER_LEN + len) as u64;
        match decode_payload(&self.payload) {
            Some(payload) => Ok(Frame::Good(payload)),
            None => Err(corrupt(&self.name, at, NONSENSE)),
        }
    }

    /// What was read already and all that follows. A torn frame has a limited length; more is not read.
    fn rest(&mut self, mut read: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        let more = (FRAME_MAX_BYTES + FRAME_HEADER_LEN + 1).saturating_sub(read.len());
        self.fill(&mut read, more)?;
        Ok(read)
    }

    /// Whether bad bytes at the end of the last file are a write that a crash has torn: there is at most one,
    /// for the next is begun when the one before it is durable. So nothing good may follow.
    pub(super) fn is_torn_end(&self, rest: &[u8]) -> bool {
        if rest.len() > FRAME_MAX_BYTES + FRAME_HEADER_LEN {
            return false;
        }
        let mut from = 1;
        while let Some(found) = rest[from.min(rest.len())..].windows(4).position(|w| w == FRAME_MAGIC) {
            let at = from + found;
            if let Some((len, crc)) = decode_frame_header(&rest[at..])
                && let Some(payload) = rest[at + FRAME_HEADER_LEN..].get(..len)
                && frame_is_good(self.sequence, self.offset + at as u64, payload, crc)
            {
                return false;
            }
            from = at + 1;
        }
        true
    }
}

const NONSENSE: &str = "a record with a right checksum makes no sense";

/// Hands on a frame's records.
pub(super) fn each_record(
    name: &str,
    offset: u64,
    payload: Payload<'_>,
    mut each: impl FnMut(Record) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    if let Payload::Records(mut records) = payload {
        while let Some(record) = records.next() {
            each(record.ok_or_else(|| corrupt(name, offset, NONSENSE))?)?;
        }
    }
    Ok(())
}
