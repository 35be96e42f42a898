//! The embedded engine: a checksummed log in segments, and snapshots.
//!
//! # Why not an embedded database
//! All objects live in memory, so nothing is ever looked up on disk: the engine's whole work is to append
//! and, at start, to read everything once. A log does both at the speed of the disk; a B-tree or LSM engine
//! writes everything several times over, and syncs more than once for a commit. `ARCHITECTURE.md` has the
//! measurement.
//!
//! # Files
//! `N.log` are segments and hold changes; `N.snapshot` holds all objects as they were when segment N began
//! or a little later, because it is written while writes go on. To load: the newest snapshot, then its
//! segment and all that follow. Its last frame says up to which revision the log must reach for it to be
//! consistent. One batch of the sequencer is one frame, so a batch, and with it every transaction, survives
//! as a whole or not at all. `format.rs` has the bytes.
//!
//! The file that is written to is longer than what it holds: zeros are written ahead of the frames, so that a
//! sync has no length and no block map to write, only data. It takes a third of the time that it takes
//! to sync a file that grows. Zeros where a frame would begin are the end.
//!
//! # What a crash can leave, and what it cannot
//! A frame is written when the one before it is durable. So a crash can tear the last frame of the last
//! segment, which was never acknowledged: it is cut off. It can leave a segment without a whole header (which
//! nothing was written to), snapshots under a temporary name, and files that a newer snapshot has replaced:
//! they are removed. Anything else is damage, and refused with its place: a bad frame that a good one follows
//! or that is not in the last segment, a segment that is shorter than its successor says, a gap in the
//! segments or in the revisions, a snapshot without its end.
//!
//! # When the disk is full, or fails
//! If a write does not fit, what was written of it is cut off again and the batch is refused; the next one
//! is tried like any other. If it is the *sync* that finds no space, the frame may be on the disk or not, and
//! the kernel may have dropped its pages: the segment is given up at its last acknowledged byte, which the
//! header of a fresh one records. Any other failure stops the engine, as does a failure to clean up after
//! the first two: it then takes no more writes, because it cannot know what a restart will find. What was
//! acknowledged is durable in any case.

mod format;
mod read;
mod snapshot;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use skep_base::Revision;

use self::format::{
    FILE_HEADER_LEN, FileHeader, FrameBuilder, Kind, LOG_MAGIC, Payload, Record, SNAPSHOT_MAGIC,
};
use self::read::{FileReader, Frame, Opened, corrupt, each_record, io_error};
use self::snapshot::{Pace, Snapshotting};
use super::disk::{Disk, DiskFile, RealDisk};
use super::{AppendError, Engine, Loader, OpenError, Source};
use crate::txn::Change;

/// A snapshot is begun when the log since the last one is longer than the live data and this: small stores
/// are not rewritten all the time, and the log of large ones stays below the size of their data.
const SNAPSHOT_AFTER_BYTES: u64 = 64 << 20;

/// How many zeros are written ahead at once. More would make the write that they go with wait for longer (a
/// millisecond on a good disk), less would have more writes wait.
const RESERVE_BYTES: u64 = 1 << 20;

/// See the module.
pub struct Log {
    disk: Arc<dyn Disk>,
    snapshot_after_bytes: u64,
    reserve_bytes: u64,
    /// The one that is written to; none before loading.
    segment: Option<Segment>,
    /// Those before it that no snapshot has replaced yet, and how long they are.
    closed_segments: Vec<(u64, u64)>,
    /// The newest durable revision.
    revision: Revision,
    frame: FrameBuilder,
    snapshot: Option<Snapshotting>,
    /// After a failed snapshot: how long the log must be for the next try.
    retry_at_bytes: u64,
    failed: Option<String>,
    pace: Pace,
}

struct Segment {
    sequence: u64,
    file: Box<dyn DiskFile>,
    /// Up to here it is durable.
    len: u64,
    /// Up to here the file is filled with zeros, or will not be.
    reserved: u64,
    /// Whether its last frame says that the log was closed.
    ends_closed: bool,
}

impl Segment {
    /// Writes a frame behind what is durable, and zeros behind it when those from before are used up.
    fn write(&mut self, frame: &[u8], reserve_bytes: u64) -> io::Result<()> {
        let end = self.len + frame.len() as u64;
        self.file.write_at(self.len, frame)?;
        if end <= self.reserved {
            return Ok(());
        }
        self.reserved = end + reserve_bytes;
        // The cast is exact: a megabyte.
        match self.file.write_at(end, &vec![0; reserve_bytes as usize]) {
            // The frame itself fits. It is slower without zeros, and they are tried again later.
            Err(error) if is_full(&error) => self.file.truncate(end),
            result => result,
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
    let digits = name.strip_suffix(suffix)?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
            snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
            reserve_bytes: RESERVE_BYTES,
            segment: None,
            closed_segments: Vec::new(),
            revision: Revision::ZERO,
            frame: FrameBuilder::default(),
            snapshot: None,
            retry_at_bytes: 0,
            failed: None,
            pace: Pace::Thread,
        }
    }

    #[cfg(test)]
    pub(crate) fn in_step(mut self) -> Log {
        self.pace = Pace::Steps;
        self.reserve_bytes = tests::RESERVE_BYTES;
        self
    }

    /// Snapshots after fewer bytes, for tests.
    #[must_use]
    pub fn snapshot_after(mut self, bytes: u64) -> Log {
        self.snapshot_after_bytes = bytes;
        self
    }

    /// Begins a segment that follows on the current one, which ends where it is durable.
    fn start_segment(&mut self, sequence: u64) -> io::Result<()> {
        let before = self.segment.as_ref().map_or(0, |s| s.len);
        let header = FileHeader { magic: LOG_MAGIC, sequence, revision: self.revision, before }.encode();
        let mut file = self.disk.create(&log_name(sequence))?;
        file.write_at(0, &header)?;
        file.sync()?;
        self.disk.sync_directory()?;
        let next = Segment { sequence, file, len: FILE_HEADER_LEN as u64, reserved: 0, ends_closed: false };
        if let Some(mut last) = self.segment.replace(next) {
            // Gives unused space back. The header above says where the segment ends, in any case.
            let _ = last.file.truncate(last.len);
            self.closed_segments.push((last.sequence, last.len));
        }
        Ok(())
    }

    /// Begins the next segment. When that fails, nothing of it may stay: its header would void what is
    /// written to the current segment from now on.
    fn rotate(&mut self) -> Result<(), io::Error> {
        let Some(next) = self.segment.as_ref().map(|s| s.sequence + 1) else { return Ok(()) };
        let Err(error) = self.start_segment(next) else { return Ok(()) };
        let removed = match self.disk.remove(&log_name(next)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => self.disk.sync_directory(),
        };
        if let Err(e) = removed {
            let _ = self.fail("removing a segment that could not be begun", &e);
        }
        Err(error)
    }

    fn fail(&mut self, what: &str, error: &io::Error) -> AppendError {
        let reason = format!("{what}: {error}");
        self.failed = Some(reason.clone());
        AppendError::Failed(reason)
    }

    /// Writes the frame that is built. On error the segment is as it was, or the engine has failed.
    fn write_frame(&mut self) -> Result<(), AppendError> {
        if let Some(reason) = &self.failed {
            return Err(AppendError::Failed(reason.clone()));
        }
        let Some(segment) = &mut self.segment else {
            return Err(AppendError::Failed("the log was not loaded".to_owned()));
        };
        let len = segment.len;
        let frame = self.frame.finish(segment.sequence, len);
        let frame_len = frame.len() as u64;
        if let Err(error) = segment.write(frame, self.reserve_bytes) {
            if !is_full(&error) {
                return Err(self.fail("writing the log", &error));
            }
            segment.reserved = 0;
            return match segment.file.truncate(len) {
                Ok(()) => Err(AppendError::NoSpace),
                Err(error) => Err(self.fail("cutting off a write that did not fit", &error)),
            };
        }
        if let Err(error) = segment.file.sync() {
            if !is_full(&error) {
                return Err(self.fail("syncing the log", &error));
            }
            // Only to make room: whether it lasts does not matter, for the next segment's header voids it.
            let _ = segment.file.truncate(len);
            return match self.rotate() {
                Ok(()) => Err(AppendError::NoSpace),
                Err(error) => Err(self.fail("giving up a segment that could not be synced", &error)),
            };
        }
        segment.len += frame_len;
        segment.ends_closed = false;
        Ok(())
    }

    fn log_bytes(&self) -> u64 {
        self.closed_segments.iter().map(|(_, len)| len).sum::<u64>()
            + self.segment.as_ref().map_or(0, |s| s.len)
    }

    /// Takes note of a snapshot that has ended.
    fn finish_snapshot(&mut self, snapshot: Snapshotting) {
        let sequence = snapshot.sequence;
        match snapshot.join() {
            Ok(true) => {
                self.closed_segments.retain(|(s, _)| *s >= sequence);
                self.retry_at_bytes = 0;
            }
            Ok(false) => {}
            Err(error) => {
                self.retry_at_bytes = self.log_bytes() + self.snapshot_after_bytes / 4;
                tracing::warn!(%error, "a snapshot of the store failed; it is tried again after more writes");
            }
        }
    }

    fn load_snapshot(&self, sequence: u64, loader: &mut Loader<'_>) -> Result<Revision, OpenError> {
        let name = snapshot_name(sequence);
        let Opened::Good(_, mut file) =
            FileReader::open(self.disk.as_ref(), &name, SNAPSHOT_MAGIC, sequence)?
        else {
            return Err(corrupt(&name, 0, "it has no header"));
        };
        let mut loaded = 0;
        loop {
            let at = file.offset();
            match file.next()? {
                Frame::Good(Payload::SnapshotEnd { objects, revision }) => {
                    if objects != loaded {
                        return Err(corrupt(&name, at, format!("it has {loaded} objects of {objects}")));
                    }
                    return Ok(revision);
                }
                Frame::Good(payload) => each_record(&name, at, payload, |record| {
                    if let Record::Put { resource, value } = record {
                        loader.object(&resource, value);
                        loaded += 1;
                    }
                    Ok(())
                })?,
                Frame::End => return Err(corrupt(&name, at, "it ends before its last record")),
                Frame::Bad { what, .. } => return Err(corrupt(&name, at, what)),
            }
        }
    }

    /// Reads one segment. `end` is where its successor says that it ends. Says where it does, whether that is
    /// a torn write, and whether it was closed there.
    fn load_segment(
        &mut self,
        file: &mut FileReader,
        end: Option<u64>,
        loader: &mut Loader<'_>,
    ) -> Result<(u64, bool, bool), OpenError> {
        let name = file.name().to_owned();
        let mut closed = false;
        loop {
            let at = file.offset();
            if end == Some(at) {
                return Ok((at, false, closed));
            }
            if end.is_some_and(|end| at > end) {
                return Err(corrupt(&name, at, "a record reaches over the segment's end"));
            }
            match file.next()? {
                Frame::Good(payload) => {
                    closed = matches!(payload, Payload::Closed);
                    each_record(&name, at, payload, |record| self.take(&name, at, record, loader))?;
                }
                Frame::End if end.is_none() => return Ok((at, false, closed)),
                Frame::End => return Err(corrupt(&name, at, "acknowledged records are missing at its end")),
                Frame::Bad { rest, what } => {
                    if end.is_none() && file.is_torn_end(&rest) {
                        return Ok((at, true, false));
                    }
                    return Err(corrupt(&name, at, what));
                }
            }
        }
    }

    fn take(
        &mut self,
        name: &str,
        at: u64,
        record: Record,
        loader: &mut Loader<'_>,
    ) -> Result<(), OpenError> {
        let revision = record.revision();
        if revision <= self.revision {
            return Err(corrupt(name, at, format!("revision {revision} follows on {}", self.revision)));
        }
        self.revision = revision;
        match record {
            Record::Put { resource, value } => loader.put(&resource, value),
            Record::Delete { key, revision } => loader.delete(&key, revision),
        }
        Ok(())
    }

    /// The segments from the snapshot's on, which must follow each other without a gap.
    fn open_segments(&self, first: u64, logs: &[u64]) -> Result<Vec<(FileHeader, FileReader)>, OpenError> {
        let mut segments = Vec::new();
        for (i, sequence) in logs.iter().enumerate() {
            let expected = first + i as u64;
            if *sequence != expected {
                return Err(corrupt(&log_name(expected), 0, "the file is missing"));
            }
            let name = log_name(*sequence);
            match FileReader::open(self.disk.as_ref(), &name, LOG_MAGIC, *sequence)? {
                Opened::Good(header, file) => segments.push((header, file)),
                Opened::Unfinished if i + 1 == logs.len() => {
                    tracing::info!(
                        file = name,
                        "a crash interrupted the beginning of a segment: removing it"
                    );
                    self.disk.remove(&name).map_err(io_error("removing", &name))?;
                    self.disk.sync_directory().map_err(io_error("removing", &name))?;
                }
                Opened::Unfinished => return Err(corrupt(&name, 0, "it has no header")),
            }
        }
        Ok(segments)
    }
}

impl Engine for Log {
    fn load(&mut self, loader: &mut Loader<'_>) -> Result<Revision, OpenError> {
        let names = self.disk.list().map_err(io_error("listing", "the data directory"))?;
        let snapshot = names.iter().filter_map(|n| sequence_of(n, ".snapshot")).max();
        let first = snapshot.unwrap_or(1);
        let mut logs: Vec<u64> = names.iter().filter_map(|n| sequence_of(n, ".log")).collect();
        logs.sort_unstable();
        logs.retain(|s| *s >= first);

        let mut must_reach = Revision::ZERO;
        if let Some(sequence) = snapshot {
            must_reach = self.load_snapshot(sequence, loader)?;
            loader.history_from(must_reach);
        }
        let mut segments = self.open_segments(first, &logs)?;
        if segments.is_empty() && snapshot.is_some() {
            return Err(corrupt(&log_name(first), 0, "the file is missing"));
        }
        let ends: Vec<Option<u64>> =
            segments.iter().skip(1).map(|(next, _)| Some(next.before)).chain([None]).collect();
        let mut torn = false;
        for (i, ((header, file), end)) in segments.iter_mut().zip(ends).enumerate() {
            if i == 0 {
                self.revision = header.revision;
            } else if header.revision != self.revision {
                let what = format!(
                    "revisions {} to {} are missing before it",
                    self.revision.next(),
                    header.revision
                );
                return Err(corrupt(file.name(), 0, what));
            }
            let (len, is_torn, ends_closed) = self.load_segment(file, end, loader)?;
            torn = is_torn;
            let sequence = header.sequence;
            if end.is_some() {
                self.closed_segments.push((sequence, len));
                continue;
            }
            let name = log_name(sequence);
            let file = self.disk.open(&name).map_err(io_error("opening", &name))?;
            self.segment = Some(Segment { sequence, file, len, reserved: 0, ends_closed });
        }
        if self.revision < must_reach {
            let end = self.segment.as_ref().map_or((log_name(first), 0), |s| (log_name(s.sequence), s.len));
            let what = format!("it ends at revision {}, its snapshot needs {must_reach}", self.revision);
            return Err(corrupt(&end.0, end.1, what));
        }
        match &mut self.segment {
            None => self.start_segment(first).map_err(io_error("beginning", &log_name(first)))?,
            Some(segment) if torn => {
                let name = log_name(segment.sequence);
                let offset = segment.len;
                tracing::warn!(
                    file = name,
                    offset,
                    "cutting off a write that a crash tore; nobody was told of it"
                );
                segment.file.truncate(offset).map_err(io_error("repairing", &name))?;
                segment.file.sync().map_err(io_error("repairing", &name))?;
            }
            Some(_) => {}
        }
        for name in &names {
            let replaced =
                [".log", ".snapshot"].iter().any(|s| sequence_of(name, s).is_some_and(|n| n < first));
            if (replaced || name.ends_with(snapshot::TEMPORARY))
                && let Err(error) = self.disk.remove(name)
            {
                tracing::warn!(file = name, %error, "a superfluous file cannot be removed");
            }
        }
        Ok(self.revision)
    }

    fn append(&mut self, changes: &[Arc<Change>]) -> Result<(), AppendError> {
        self.frame.begin(Kind::Records);
        for change in changes {
            match &change.value {
                Some(value) => self.frame.put(&change.key.resource, value),
                None => self.frame.delete(&change.key, change.revision),
            }
        }
        self.write_frame()?;
        self.revision = changes.last().map_or(self.revision, |c| c.revision);
        self.frame.shrink();
        Ok(())
    }

    fn maintain(&mut self, source: &Arc<dyn Source>) {
        if let Some(mut running) = self.snapshot.take() {
            if !running.is_finished() {
                self.snapshot = Some(running);
                return;
            }
            self.finish_snapshot(running);
        }
        let log_bytes = self.log_bytes();
        let wanted = log_bytes >= self.snapshot_after_bytes
            && log_bytes >= self.retry_at_bytes
            && log_bytes >= source.size_bytes() as u64;
        if self.failed.is_some() || !wanted {
            return;
        }
        let begun = self.rotate().and_then(|()| {
            let sequence = self.segment.as_ref().map_or(0, |s| s.sequence);
            Snapshotting::begin(self.disk.clone(), source.clone(), sequence, self.revision, self.pace)
        });
        match begun {
            Ok(snapshot) => self.snapshot = Some(snapshot),
            Err(error) => {
                self.retry_at_bytes = log_bytes + self.snapshot_after_bytes / 4;
                tracing::warn!(%error, "a snapshot of the store cannot be begun; it is tried again after more writes");
            }
        }
    }

    fn close(&mut self) -> Result<(), AppendError> {
        if let Some(running) = self.snapshot.take() {
            running.stop();
            self.finish_snapshot(running);
        }
        let result = match &self.segment {
            Some(segment) if self.failed.is_none() && !segment.ends_closed => {
                self.frame.begin(Kind::Closed);
                self.write_frame()
            }
            _ => Ok(()),
        };
        if let (Some(mut segment), Ok(())) = (self.segment.take(), &result) {
            // Only tidiness: zeros are no part of the log.
            let _ = segment.file.truncate(segment.len);
        }
        result
    }
}
