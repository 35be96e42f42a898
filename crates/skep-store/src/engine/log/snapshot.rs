//! Writing a snapshot in the background, while writes go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use skep_base::Revision;

use super::format::{FileHeader, FrameBuilder, Kind, SNAPSHOT_MAGIC};
use super::{sequence_of, snapshot_name};
use crate::engine::disk::{Disk, DiskFile};
use crate::engine::{Cursor, Source};

/// The ending of a snapshot that is not whole yet.
pub(super) const TEMPORARY: &str = ".tmp";

/// Objects read from memory at once: keeps the store's lock short.
const CHUNK_OBJECTS: usize = 256;
/// A frame is written when it has this many bytes.
const FRAME_BYTES: usize = 256 << 10;
/// The file is synced again and again, so that the log's own syncs do not have to wait for one huge one.
const SYNC_BYTES: u64 = 1 << 20;

/// No pause is longer: a slow disk must not stretch a snapshot for ever, while the log grows.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How a snapshot is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// In a thread of its own.
    Thread,
    /// A few objects with every call of [`Snapshotting::is_finished`]: for tests, which must do the same thing
    /// every time, and must write in between.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests go step by step"))]
    Steps,
}

/// A snapshot being written.
pub(super) struct Snapshotting {
    /// The segment that it goes with.
    pub(super) sequence: u64,
    work: Work,
}

enum Work {
    Thread { stop: Arc<AtomicBool>, thread: JoinHandle<io::Result<bool>> },
    Steps { writer: Box<Writer>, result: Option<io::Result<bool>> },
}

impl Snapshotting {
    /// Begins a snapshot that goes with the segment that was just begun, at a revision.
    pub(super) fn begin(
        disk: Arc<dyn Disk>,
        source: Arc<dyn Source>,
        sequence: u64,
        revision: Revision,
        pace: Pace,
    ) -> io::Result<Snapshotting> {
        let work = match pace {
            Pace::Steps => {
                let mut writer = Writer::begin(disk, source, sequence, revision)?;
                writer.chunk_objects = 2;
                writer.frame_bytes = 1;
                Work::Steps { writer: Box::new(writer), result: None }
            }
            Pace::Thread => {
                let stop = Arc::new(AtomicBool::new(false));
                let stopped = stop.clone();
                let run = move || {
                    let mut writer = Writer::begin(disk, source, sequence, revision)?;
                    while !stopped.load(Ordering::Acquire) {
                        let begun = Instant::now();
                        if writer.step()? {
                            return Ok(true);
                        }
                        // Half of the time the disk and the processor belong to those who wait for an answer.
                        std::thread::sleep(begun.elapsed().min(PAUSE_MAX));
                    }
                    Ok(false)
                };
                let thread = std::thread::Builder::new().name("store-snapshot".to_owned()).spawn(run)?;
                Work::Thread { stop, thread }
            }
        };
        Ok(Snapshotting { sequence, work })
    }

    pub(super) fn is_finished(&mut self) -> bool {
        match &mut self.work {
            Work::Thread { thread, .. } => thread.is_finished(),
            Work::Steps { writer, result } => {
                match writer.step() {
                    Ok(false) => {}
                    ended => *result = Some(ended),
                }
                result.is_some()
            }
        }
    }

    /// Asks it to end early.
    pub(super) fn stop(&self) {
        if let Work::Thread { stop, .. } = &self.work {
            stop.store(true, Ordering::Release);
        }
    }

    /// Whether it became whole (and not stopped early).
    pub(super) fn join(self) -> io::Result<bool> {
        match self.work {
            Work::Thread { thread, .. } => {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes it panicked")))
            }
            Work::Steps { result, .. } => result.unwrap_or(Ok(false)),
        }
    }
}

/// A snapshot's file on its way to be whole.
struct Writer {
    disk: Arc<dyn Disk>,
    source: Arc<dyn Source>,
    sequence: u64,
    temporary: String,
    file: Option<Box<dyn DiskFile>>,
    offset: u64,
    synced: u64,
    frame: FrameBuilder,
    cursor: Cursor,
    objects: u64,
    chunk_objects: usize,
    frame_bytes: usize,
    whole: bool,
}

impl Writer {
    fn begin(
        disk: Arc<dyn Disk>,
        source: Arc<dyn Source>,
        sequence: u64,
        revision: Revision,
    ) -> io::Result<Writer> {
        let temporary = format!("{}{TEMPORARY}", snapshot_name(sequence));
        let file = disk.create(&temporary)?;
        let mut writer = Writer {
            disk,
            source,
            sequence,
            temporary,
            file: Some(file),
            offset: 0,
            synced: 0,
            frame: FrameBuilder::default(),
            cursor: Cursor::default(),
            objects: 0,
            chunk_objects: CHUNK_OBJECTS,
            frame_bytes: FRAME_BYTES,
            whole: false,
        };
        let header = FileHeader { magic: SNAPSHOT_MAGIC, sequence, revision, before: 0 }.encode();
        if let Some(file) = &mut writer.file {
            file.write_at(0, &header)?;
        }
        writer.offset = header.len() as u64;
        Ok(writer)
    }

    fn write_frame(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let bytes = self.frame.finish(self.sequence, self.offset);
        file.write_at(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        if self.offset - self.synced >= SYNC_BYTES {
            file.sync()?;
            self.synced = self.offset;
        }
        Ok(())
    }

    /// Writes some more objects. True when the snapshot has become whole.
    fn step(&mut self) -> io::Result<bool> {
        self.frame.begin(Kind::Records);
        let mut at_end = false;
        while !at_end && self.frame.len() < self.frame_bytes.max(FrameBuilder::EMPTY_LEN + 1) {
            let chunk = self.source.scan(&mut self.cursor, self.chunk_objects);
            at_end = chunk.len() < self.chunk_objects;
            self.objects += chunk.len() as u64;
            for (resource, value) in &chunk {
                self.frame.put(resource, value);
            }
        }
        self.write_frame()?;
        if at_end {
            self.finish()?;
        }
        Ok(at_end)
    }

    fn finish(&mut self) -> io::Result<()> {
        // What was read may be newer than the snapshot's segment. What is visible is durable, so the log
        // reaches at least to here.
        self.frame.begin(Kind::SnapshotEnd);
        self.frame.numbers(&[self.objects, self.source.revision().0]);
        self.write_frame()?;
        if let Some(mut file) = self.file.take() {
            file.sync()?;
        }
        self.disk.rename(&self.temporary, &snapshot_name(self.sequence))?;
        self.whole = true;
        self.disk.sync_directory()?;
        // Only now is what came before superfluous. If removing fails, the next start does it.
        for name in self.disk.list()? {
            let replaced = [".log", ".snapshot"]
                .iter()
                .any(|s| sequence_of(&name, s).is_some_and(|n| n < self.sequence));
            if replaced {
                self.disk.remove(&name)?;
            }
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.whole {
            // If this fails too, the next start removes it.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}
