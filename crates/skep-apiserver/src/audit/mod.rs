//! The audit log: who did what to which object, as lines of `audit.k8s.io/v1` events.
//!
//! Requests never wait for it. What is recorded goes into a queue with a bound on events and bytes, and a
//! thread of its own writes it; when the disk is slower than the requests for longer than the queue lasts,
//! events are dropped and counted (`apiserver_audit_error_total`).

mod event;
mod file;
mod policy;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

pub use event::{Ending, Record, Stage};
pub use file::{AuditFile, Rotation};
pub use policy::{Attributes, Level, Policy, PolicyError, Verdict};

/// Most events that wait to be written: a second or so at full load.
pub const QUEUE_EVENTS: usize = 10_000;
/// Most bytes of bodies that wait to be written: what the log may cost in memory.
pub const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// What an event without bodies is taken to cost.
const EVENT_BYTES: usize = 1024;

enum Message {
    Event(Box<Record>, Stage),
    /// Write everything before this, then answer.
    Flush(SyncSender<()>),
}

/// What the log counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events that were taken up.
    pub events: AtomicU64,
    /// Events that were dropped because the queue was full or the file could not be written.
    pub dropped: AtomicU64,
    queued_bytes: AtomicUsize,
}

/// The audit log of a server.
pub struct AuditLog {
    policy: Policy,
    queue: SyncSender<Message>,
    counters: Arc<Counters>,
}

impl AuditLog {
    /// Begins to write to a file what a policy asks for.
    ///
    /// # Errors
    /// When the writing thread cannot be started.
    pub fn start(policy: Policy, file: AuditFile) -> std::io::Result<AuditLog> {
        let (queue, events) = sync_channel(QUEUE_EVENTS);
        let counters = Arc::new(Counters::default());
        let log = AuditLog { policy, queue, counters: counters.clone() };
        std::thread::Builder::new()
            .name("skep-audit".to_owned())
            .spawn(move || write(&events, file, &counters))?;
        Ok(log)
    }

    /// How much is to be recorded of a request.
    #[must_use]
    pub fn verdict(&self, attributes: &Attributes<'_>) -> Verdict {
        self.policy.verdict(attributes)
    }

    /// What has been counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes up an event, or drops it when too many wait. Never blocks.
    pub fn record(&self, record: Record, stage: Stage) {
        if record.verdict.omitted.contains(&stage) {
            return;
        }
        let bytes = EVENT_BYTES + record.body_bytes();
        let queued = self.counters.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = queued + bytes <= QUEUE_BYTES;
        let sent = fits
            && match self.queue.try_send(Message::Event(Box::new(record), stage)) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
            };
        if sent {
            self.counters.events.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counters.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything recorded so far is written, or until a time has passed.
    pub fn flush(&self, timeout: Duration) {
        let (done, written) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // A timeout or a dead thread: nothing more can be done for these events.
            let _ = written.recv_timeout(timeout);
        }
    }
}

fn write(events: &Receiver<Message>, mut file: AuditFile, counters: &Counters) {
    let mut failing = false;
    let mut failed = |error: std::io::Error, path: &std::path::Path, counters: &Counters| {
        counters.dropped.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut failing, true) {
            tracing::error!(%error, path = %path.display(), "the audit log cannot be written; events are lost until it can");
        }
    };
    while let Ok(first) = events.recv() {
        let mut next = Ok(first);
        loop {
            match next {
                Ok(Message::Event(record, stage)) => {
                    let bytes = EVENT_BYTES + record.body_bytes();
                    let line = event::line(*record, stage);
                    if let Err(error) = file.write_line(&line) {
                        failed(error, file.path(), counters);
                    }
                    counters.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Ok(Message::Flush(done)) => {
                    if let Err(error) = file.flush() {
                        failed(error, file.path(), counters);
                    }
                    // Nobody waits any more: fine.
                    let _ = done.send(());
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            next = events.try_recv();
        }
        if let Err(error) = file.flush() {
            failed(error, file.path(), counters);
        }
    }
}

#[cfg(test)]
mod tests;
