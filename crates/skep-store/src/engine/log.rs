//! The embedded engine: a checksummed log in segments, and snapshots.
//!
//! # Files
//! `SEQ.log` holds changes, `SEQ.snapshot` all objects as they were when segment `SEQ` began (or a little
//! later: it is written while writes go on). To load: the newest snapshot, then its segment and all that
//! follow. A change that a snapshot has already is recognised by its revision.
//!
//! # Frames
//! A file is a header and frames; a frame is `magic, length, CRC-32, payload`. One batch is one frame, so a
//! batch, and with it every transaction, survives as a whole or not at all.
//!
//! # Torn and damaged files
//! A crash can tear the last frame of the last segment: it was never acknowledged and is cut off. A bad frame
//! anywhere else, or one with a good frame behind it, is damage: refused with its place, never skipped.
//!
//! # Why not an embedded database
//! All objects live in memory, so nothing is ever looked up on disk: the engine's whole work is to append and,
//! at start, to read everything once. A log does both at the speed of the disk; a B-tree or LSM engine would
//! write everything several times over.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skep_base::{GroupResource, Key, Revision, TenantName};

use super::disk::{Disk, DiskFile, RealDisk};
use super::{AppendError, Engine, Loader, OpenError, Source};
use crate::txn::Change;
use crate::value::Value;

const LOG_MAGIC: &[u8; 8] = b"SKEPLOG1";
const SNAPSHOT_MAGIC: &[u8; 8] = b"SKEPSNP1";
const FRAME_MAGIC: [u8; 4] = *b"SKPF";
const FRAME_HEADER_LEN: usize = 12;
/// Magic, base revision, CRC.
const FILE_HEADER_LEN: usize = 8 + 8 + 4;

/// A longer frame was never written: the sequencer's batches are bounded by what waits for it.
const FRAME_LIMIT_BYTES: usize = 1 << 30;

/// A new snapshot is begun when the log since the last one is longer than the live data and this: small
/// stores are not rewritten all the time, large ones stay below twice their size on disk.
const SNAPSHOT_AFTER_BYTES: u64 = 64 * 1024 * 1024;

/// Objects read from memory at once for a snapshot: keeps the store's lock short.
const SNAPSHOT_CHUNK: usize = 512;

/// See the module.
pub struct Log {
    disk: Arc<dyn Disk>,
    segment: Option<Segment>,
    snapshot_after_bytes: u64,
    /// Bytes of log since the last snapshot, in older segments.
    older_bytes: u64,
    /// The newest revision written.
    revision: Revision,
    snapshot: Option<Snapshotting>,
    buffer: Vec<u8>,
    failed: Option<String>,
}

struct Segment {
    sequence: u64,
    file: Box<dyn DiskFile>,
    len: u64,
}

struct Snapshotting {
    thread: std::thread::JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Log {
    /// Opens the log in a directory, which is made if needed and locked.
    ///
    /// # Errors
    /// When another process has it, or the disk refuses.
    pub fn open(directory: &Path) -> Result<Log, OpenError> {
        Ok(Log::on(Arc::new(RealDisk::open(directory)?)))
    }

    /// The log on any disk.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>) -> Log {
        Log {
            disk,
            segment: None,
            snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
            older_bytes: 0,
            revision: Revision::ZERO,
            snapshot: None,
            buffer: Vec::new(),
            failed: None,
        }
    }

    /// Snapshots after fewer bytes, for tests.
    #[must_use]
    pub fn snapshot_after(mut self, bytes: u64) -> Log {
        self.snapshot_after_bytes = bytes;
        self
    }

    fn start_segment(&mut self, sequence: u64) -> io::Result<()> {
        let mut file = self.disk.create(&log_name(sequence))?;
        file.append(&file_header(LOG_MAGIC, self.revision))?;
        file.sync()?;
        self.disk.sync_directory()?;
        self.segment = Some(Segment { sequence, file, len: FILE_HEADER_LEN as u64 });
        Ok(())
    }

    fn fail(&mut self, what: &str, error: &io::Error) -> AppendError {
        let reason = format!("{what}: {error}");
        self.failed = Some(reason.clone());
        AppendError::Failed(reason)
    }

    fn finish_snapshot(&mut self, snapshot: Snapshotting) {
        match snapshot.thread.join() {
            Ok(Ok(())) => self.older_bytes = 0,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a snapshot of the store failed; it is tried again after more writes");
            }
            Err(_) => tracing::error!("the thread that writes snapshots panicked"),
        }
    }
}

fn log_name(sequence: u64) -> String {
    format!("{sequence:020}.log")
}

fn snapshot_name(sequence: u64) -> String {
    format!("{sequence:020}.snapshot")
}

fn sequence_of(name: &str, suffix: &str) -> Option<u64> {
    name.strip_suffix(suffix).filter(|n| n.len() == 20)?.parse().ok()
}

fn file_header(magic: &[u8; 8], base: Revision) -> Vec<u8> {
    let mut header = magic.to_vec();
    header.extend_from_slice(&base.0.to_le_bytes());
    let crc = crc32fast::hash(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header
}

fn begin_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
    start
}

fn end_frame(out: &mut [u8], start: usize) {
    let payload = &out[start + FRAME_HEADER_LEN..];
    let (len, crc) = (u32::try_from(payload.len()).unwrap_or(u32::MAX), crc32fast::hash(payload));
    out[start..start + 4].copy_from_slice(&FRAME_MAGIC);
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

fn put_record(out: &mut Vec<u8>, key: &Key, revision: Revision, value: Option<&Value>) {
    let path = key.path();
    let parts: [&str; 3] = [key.resource.group(), key.resource.resource(), &path];
    out.extend_from_slice(&revision.0.to_le_bytes());
    out.push(u8::from(value.is_some()));
    for part in parts {
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(value) = value {
        let (expires_at_s, attrs_len, meta, bytes) = value.parts();
        out.extend_from_slice(&expires_at_s.to_le_bytes());
        out.extend_from_slice(&attrs_len.to_le_bytes());
        out.extend_from_slice(&meta.0.to_le_bytes());
        out.extend_from_slice(&meta.1.to_le_bytes());
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(bytes);
    }
}

/// Takes records off a payload whose checksum was right.
struct Records<'a> {
    rest: &'a [u8],
    resource: Option<GroupResource>,
}

struct Record {
    key: Key,
    revision: Revision,
    value: Option<Value>,
}

impl<'a> Records<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }
    fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    fn next(&mut self) -> Option<Record> {
        let revision = Revision(self.u64()?);
        let put = self.bytes(1)?[0] == 1;
        let (group, resource, path) = (self.text()?, self.text()?, self.text()?);
        if self.resource.as_ref().is_none_or(|r| r.group() != group || r.resource() != resource) {
            self.resource = Some(GroupResource::new(group, resource));
        }
        let (tenant, rest) = path.split_once('\0')?;
        let (namespace, name) = rest.split_once('\0')?;
        let key = Key::new(self.resource.clone()?, TenantName::new(tenant).ok()?, namespace, name);
        let value = if put {
            let expires_at_s = self.u64()?;
            let attrs_len = self.u32()?;
            let meta = (self.u32()?, self.u32()?);
            let len = self.u32()? as usize;
            Some(Value::from_parts(revision, expires_at_s, attrs_len, meta, self.bytes(len)?.into())?)
        } else {
            None
        };
        Some(Record { key, revision, value })
    }
}

/// Reads a file's frames.
struct Frames<'a> {
    name: &'a str,
    reader: BufReader<Box<dyn Read>>,
    offset: u64,
    payload: Vec<u8>,
}

enum Frame {
    /// A good one; its payload is in the buffer.
    Good,
    /// The file ends here.
    End,
    /// The bytes from here on are no frame.
    Bad(&'static str),
}

const READ_BUFFER_BYTES: usize = 1024 * 1024;

/// Reads until the buffer is full or the file ends; says how much there was.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

impl Frames<'_> {
    fn next(&mut self) -> io::Result<Frame> {
        let mut header = [0; FRAME_HEADER_LEN];
        let got = read_full(&mut self.reader, &mut header)?;
        if got == 0 {
            return Ok(Frame::End);
        }
        if got < FRAME_HEADER_LEN {
            return Ok(Frame::Bad("the file ends within a frame's header"));
        }
        if header[..4] != FRAME_MAGIC {
            return Ok(Frame::Bad("no frame begins here"));
        }
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (len, crc) = (word(4) as usize, word(8));
        if len > FRAME_LIMIT_BYTES {
            return Ok(Frame::Bad("the frame's length is impossible"));
        }
        self.payload.clear();
        // Read as much as there is before believing the length.
        let got = self.reader.by_ref().take(len as u64).read_to_end(&mut self.payload)?;
        if got < len {
            return Ok(Frame::Bad("the file ends within a frame"));
        }
        if crc32fast::hash(&self.payload) != crc {
            return Ok(Frame::Bad("the frame's checksum is wrong"));
        }
        self.offset += (FRAME_HEADER_LEN + len) as u64;
        Ok(Frame::Good)
    }
}

/// Whether any good frame begins within some bytes: then what lies before it is damage and not a torn end.
fn holds_good_frame(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(4).position(|w| w == FRAME_MAGIC) {
        let start = at + found;
        if let Some(header) = bytes.get(start..start + FRAME_HEADER_LEN) {
            let word =
                |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
            let payload_at = start + FRAME_HEADER_LEN;
            if let Some(payload) = bytes.get(payload_at..payload_at + word(4) as usize)
                && crc32fast::hash(payload) == word(8)
            {
                return true;
            }
        }
        at = start + 1;
    }
    false
}

fn io_error(what: &str, name: &str) -> impl FnOnce(io::Error) -> OpenError {
    let what = format!("{what} {name}");
    move |source| OpenError::Io { what, source }
}

fn corrupt(name: &str, offset: u64, what: &str) -> OpenError {
    OpenError::Corrupt { file: name.to_owned(), offset, what: what.to_owned() }
}

impl Log {
    /// Reads the records of a file; says its length, and where it should be cut off.
    fn read_file(
        &self,
        name: &str,
        magic: &[u8; 8],
        torn_end_allowed: bool,
        sink: &mut dyn FnMut(Record),
    ) -> Result<(Revision, u64, bool), OpenError> {
        let reader = self.disk.read(name).map_err(io_error("reading", name))?;
        let mut frames = Frames {
            name,
            reader: BufReader::with_capacity(READ_BUFFER_BYTES, reader),
            offset: FILE_HEADER_LEN as u64,
            payload: Vec::new(),
        };
        let mut header = [0; FILE_HEADER_LEN];
        let got = read_full(&mut frames.reader, &mut header).map_err(io_error("reading", name))?;
        if got < FILE_HEADER_LEN {
            // A crash while the segment was made: nothing was ever written into it.
            return if torn_end_allowed {
                Ok((Revision::ZERO, 0, true))
            } else {
                Err(corrupt(name, 0, "the file has no header"))
            };
        }
        if header[..8] != *magic {
            return Err(OpenError::Format(name.to_owned()));
        }
        let mut base = [0; 8];
        base.copy_from_slice(&header[8..16]);
        let base = Revision(u64::from_le_bytes(base));
        if file_header(magic, base) != header {
            return Err(corrupt(name, 8, "the header's checksum is wrong"));
        }
        loop {
            match frames.next().map_err(io_error("reading", name))? {
                Frame::End => return Ok((base, frames.offset, false)),
                Frame::Good => {
                    let mut records = Records { rest: &frames.payload, resource: None };
                    while !records.rest.is_empty() {
                        let Some(record) = records.next() else {
                            return Err(corrupt(
                                frames.name,
                                frames.offset,
                                "a frame with a good checksum holds no records",
                            ));
                        };
                        sink(record);
                    }
                }
                Frame::Bad(what) => {
                    if !torn_end_allowed {
                        return Err(corrupt(name, frames.offset, what));
                    }
                    // Only the crash of a write can have torn the end: then nothing good follows.
                    let mut reader = self.disk.read(name).map_err(io_error("reading", name))?;
                    io::copy(&mut reader.by_ref().take(frames.offset + 1), &mut io::sink())
                        .map_err(io_error("reading", name))?;
                    let mut rest = Vec::new();
                    reader.read_to_end(&mut rest).map_err(io_error("reading", name))?;
                    if holds_good_frame(&rest) {
                        return Err(corrupt(name, frames.offset, what));
                    }
                    return Ok((base, frames.offset, true));
                }
            }
        }
    }
}

impl Engine for Log {
    fn load(&mut self, loader: &mut dyn Loader) -> Result<Revision, OpenError> {
        let names = self.disk.list().map_err(io_error("listing", "the data directory"))?;
        let mut logs: Vec<u64> = names.iter().filter_map(|n| sequence_of(n, ".log")).collect();
        logs.sort_unstable();
        let snapshot = names.iter().filter_map(|n| sequence_of(n, ".snapshot")).max();
        let mut newest = Revision::ZERO;
        if let Some(sequence) = snapshot {
            let name = snapshot_name(sequence);
            let (base, _, _) = self.read_file(&name, SNAPSHOT_MAGIC, false, &mut |r| {
                newest = newest.max(r.revision);
                if let Some(value) = r.value {
                    loader.object(r.key, value);
                }
            })?;
            newest = newest.max(base);
        }
        let first = snapshot.unwrap_or(1);
        let wanted: Vec<u64> = logs.iter().copied().filter(|s| *s >= first).collect();
        for (i, sequence) in wanted.iter().enumerate() {
            if *sequence != first + i as u64 {
                return Err(corrupt(&log_name(first + i as u64), 0, "the file is missing"));
            }
        }
        if snapshot.is_some() && wanted.is_empty() {
            return Err(corrupt(&log_name(first), 0, "the file is missing"));
        }
        if snapshot.is_none() && wanted.is_empty() && !logs.is_empty() {
            return Err(corrupt(&log_name(first), 0, "the file is missing"));
        }
        let mut end = None;
        for (i, sequence) in wanted.iter().enumerate() {
            let name = log_name(*sequence);
            let last = i + 1 == wanted.len();
            let (base, len, torn) = self.read_file(&name, LOG_MAGIC, last, &mut |r| {
                newest = newest.max(r.revision);
                loader.change(r.key, r.revision, r.value);
            })?;
            newest = newest.max(base);
            if !last {
                self.older_bytes += len;
            }
            end = Some((*sequence, len, torn));
        }
        self.revision = newest;
        match end {
            None => self.start_segment(first).map_err(io_error("starting", &log_name(first)))?,
            Some((sequence, 0, _)) => {
                self.start_segment(sequence).map_err(io_error("starting", &log_name(sequence)))?;
            }
            Some((sequence, len, torn)) => {
                let name = log_name(sequence);
                let mut file = self.disk.open(&name).map_err(io_error("opening", &name))?;
                if torn {
                    tracing::warn!(
                        file = name,
                        offset = len,
                        "cutting off a write that a crash tore; it was never acknowledged"
                    );
                    file.truncate(len).map_err(io_error("repairing", &name))?;
                }
                self.segment = Some(Segment { sequence, file, len });
            }
        }
        // What a crash left over of older snapshots.
        for name in &names {
            let old =
                [".log", ".snapshot"].into_iter().any(|s| sequence_of(name, s).is_some_and(|n| n < first));
            if old || name.ends_with(".tmp") {
                self.disk.remove(name).map_err(io_error("removing", name))?;
            }
        }
        Ok(newest)
    }

    fn append(&mut self, changes: &[Arc<Change>]) -> Result<(), AppendError> {
        if let Some(reason) = &self.failed {
            return Err(AppendError::Failed(reason.clone()));
        }
        let Some(segment) = &mut self.segment else {
            return Err(AppendError::Failed("the log was not loaded".to_owned()));
        };
        self.buffer.clear();
        let start = begin_frame(&mut self.buffer);
        for change in changes {
            put_record(&mut self.buffer, &change.key, change.revision, change.value.as_deref());
        }
        end_frame(&mut self.buffer, start);
        let written = segment.file.append(&self.buffer);
        match written.and_then(|()| segment.file.sync()) {
            Ok(()) => {
                segment.len += self.buffer.len() as u64;
                self.revision = changes.last().map_or(self.revision, |c| c.revision);
                // A burst must not keep its memory for ever.
                self.buffer.shrink_to(READ_BUFFER_BYTES);
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                // What was written of the frame goes again, so that the next one finds a clean end.
                let len = segment.len;
                match segment.file.truncate(len) {
                    Ok(()) => Err(AppendError::NoSpace),
                    Err(e) => Err(self.fail("the disk is full and the log cannot be cut back", &e)),
                }
            }
            // After a failed sync the kernel may have dropped the pages: nothing here can be trusted.
            Err(error) => Err(self.fail("writing the log", &error)),
        }
    }

    fn maintain(&mut self, source: &Arc<dyn Source>) {
        if let Some(running) = self.snapshot.take() {
            if running.thread.is_finished() {
                self.finish_snapshot(running);
            } else {
                self.snapshot = Some(running);
                return;
            }
        }
        let Some(segment) = &self.segment else { return };
        let log_bytes = self.older_bytes + segment.len;
        if self.failed.is_some() || log_bytes < self.snapshot_after_bytes.max(source.size_bytes() as u64) {
            return;
        }
        let next = segment.sequence + 1;
        let before = segment.len;
        if let Err(error) = self.start_segment(next) {
            // The old segment goes on; a half-made new one would be taken for the log's end.
            tracing::warn!(%error, "a new segment of the store's log cannot be started");
            if let Err(error) = self.disk.remove(&log_name(next)) {
                tracing::warn!(%error, "nor can what is left of it be removed");
            }
            return;
        }
        self.older_bytes += before;
        let stop = Arc::new(AtomicBool::new(false));
        let (disk, source, stopped, base) = (self.disk.clone(), source.clone(), stop.clone(), self.revision);
        let thread = std::thread::Builder::new()
            .name("store-snapshot".to_owned())
            .spawn(move || write_snapshot(disk.as_ref(), source.as_ref(), next, base, &stopped));
        match thread {
            Ok(thread) => self.snapshot = Some(Snapshotting { thread, stop }),
            Err(error) => tracing::warn!(%error, "no thread for a snapshot"),
        }
    }

    fn close(&mut self) -> Result<(), AppendError> {
        if let Some(running) = self.snapshot.take() {
            running.stop.store(true, Ordering::Release);
            self.finish_snapshot(running);
        }
        self.segment = None;
        Ok(())
    }
}

fn write_snapshot(
    disk: &dyn Disk,
    source: &dyn Source,
    sequence: u64,
    base: Revision,
    stop: &AtomicBool,
) -> io::Result<()> {
    let name = snapshot_name(sequence);
    let temporary = format!("{name}.tmp");
    let mut file = disk.create(&temporary)?;
    file.append(&file_header(SNAPSHOT_MAGIC, base))?;
    let mut buffer = Vec::new();
    for resource in source.resources() {
        let mut after: Option<Key> = None;
        loop {
            if stop.load(Ordering::Acquire) {
                drop(file);
                return disk.remove(&temporary);
            }
            let objects = source.objects(&resource, after.as_ref(), SNAPSHOT_CHUNK);
            let Some((last, _)) = objects.last() else { break };
            buffer.clear();
            let start = begin_frame(&mut buffer);
            for (key, value) in &objects {
                put_record(&mut buffer, key, value.revision(), Some(value));
            }
            end_frame(&mut buffer, start);
            file.append(&buffer)?;
            after = Some(last.clone());
        }
    }
    file.sync()?;
    drop(file);
    disk.rename(&temporary, &name)?;
    disk.sync_directory()?;
    // Only now is the old log superfluous.
    for name in disk.list()? {
        let old =
            [".log", ".snapshot"].into_iter().any(|s| sequence_of(&name, s).is_some_and(|n| n < sequence));
        if old {
            disk.remove(&name)?;
        }
    }
    disk.sync_directory()
}
