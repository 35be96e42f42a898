//! All writes, one after another: conditions, revisions, the engine, memory, watchers, answers.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;
use skep_base::{Key, Revision};
use tokio::sync::{Notify, oneshot};

use crate::engine::{AppendError, Engine, Source};
use crate::store::{Shared, StoreOptions};
use crate::txn::{Change, Changes, CommitError, Op, Txn, View, holds};
use crate::value::Value;

type Answer = Result<Changes, CommitError>;
type Plan = Box<dyn FnMut(&View<'_>) -> Option<Txn> + Send>;

enum Work {
    Txn(Txn),
    Plan(Plan),
}

struct Job {
    work: Work,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    closed: bool,
}

/// What waits for the sequencer. A plain list under a lock: the sequencer takes all of it at once.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Queue {
    pub(crate) fn push_txn(&self, txn: Txn) -> oneshot::Receiver<Answer> {
        self.push(Work::Txn(txn))
    }

    pub(crate) fn push_plan(&self, plan: Plan) -> oneshot::Receiver<Answer> {
        self.push(Work::Plan(plan))
    }

    fn push(&self, work: Work) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if !waiting.closed {
            // The sequencer only sleeps on an empty list: later arrivals need not wake it again.
            let wake = waiting.jobs.is_empty();
            waiting.jobs.push(Job { work, answer });
            drop(waiting);
            if wake {
                self.arrived.notify_one();
            }
        }
        receiver
    }

    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for jobs; `false` when the queue is closed and empty.
    fn take(&self, jobs: &mut Vec<Job>) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return false;
            }
            self.arrived.wait(&mut waiting);
        }
        std::mem::swap(&mut waiting.jobs, jobs);
        true
    }
}

/// What a batch has accepted so far.
#[derive(Default)]
struct Batch {
    pending: FxHashMap<Key, Option<Arc<Value>>>,
    changes: Vec<Arc<Change>>,
    /// Who waits, and which of the changes are theirs.
    accepted: Vec<(oneshot::Sender<Answer>, std::ops::Range<usize>)>,
}

/// The sequencer's life.
pub(crate) fn run(shared: &Arc<Shared>, mut engine: Box<dyn Engine>, options: &StoreOptions) {
    let mut jobs = Vec::new();
    let mut revision = shared.inner.read().revision;
    let mut failed: Option<Arc<str>> = None;
    let mut wake: Vec<Arc<Notify>> = Vec::new();
    let source: Arc<dyn Source> = shared.clone();
    while shared.queue.take(&mut jobs) {
        let mut batch = Batch::default();
        {
            let inner = shared.inner.read();
            let now_s = (options.clock)();
            for job in jobs.drain(..) {
                if let Some(reason) = &failed {
                    let _ = job.answer.send(Err(CommitError::Failed(reason.clone())));
                    continue;
                }
                let view = View { state: &inner.state, pending: &batch.pending };
                let txn = match job.work {
                    Work::Txn(txn) => Some(txn),
                    Work::Plan(mut plan) => plan(&view),
                };
                let first = batch.changes.len();
                match txn.map_or(Ok(()), |txn| {
                    accept(txn, &view_of(&inner, &batch), options, now_s, &mut revision).map(|c| batch.add(c))
                }) {
                    Ok(()) => batch.accepted.push((job.answer, first..batch.changes.len())),
                    Err(e) => {
                        let _ = job.answer.send(Err(e));
                    }
                }
            }
        }
        if let Err(error) = append(engine.as_mut(), &batch) {
            let answer = match error {
                AppendError::NoSpace => CommitError::NoSpace,
                AppendError::Failed(reason) => {
                    tracing::error!(%reason, "the store's disk failed: no more writes");
                    let reason: Arc<str> = reason.into();
                    failed = Some(reason.clone());
                    CommitError::Uncertain(reason)
                }
            };
            for (sender, _) in batch.accepted {
                let _ = sender.send(Err(answer.clone()));
            }
            continue;
        }
        if !batch.changes.is_empty() {
            let mut inner = shared.inner.write();
            for change in &batch.changes {
                inner.state.apply(change);
                inner.ring.push(change, &mut wake);
            }
            inner.revision = revision;
        }
        for signal in wake.drain(..) {
            signal.notify_waiters();
        }
        for (sender, range) in batch.accepted {
            // A caller that has gone away does not undo its write.
            let _ = sender.send(Ok(batch.changes[range].iter().cloned().collect()));
        }
        engine.maintain(&source);
    }
    if let Err(error) = engine.close() {
        tracing::error!(%error, "closing the store's engine failed");
    }
}

fn view_of<'a>(inner: &'a crate::store::Inner, batch: &'a Batch) -> View<'a> {
    View { state: &inner.state, pending: &batch.pending }
}

impl Batch {
    fn add(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.pending.insert(change.key.clone(), change.value.clone());
            self.changes.push(Arc::new(change));
        }
    }
}

fn append(engine: &mut dyn Engine, batch: &Batch) -> Result<(), AppendError> {
    if batch.changes.is_empty() { Ok(()) } else { engine.append(&batch.changes) }
}

/// Checks a transaction and makes its changes. Revisions that a failed append used up are not given out
/// again: `revision` only rises.
fn accept(
    txn: Txn,
    view: &View<'_>,
    options: &StoreOptions,
    now_s: u64,
    revision: &mut Revision,
) -> Result<Vec<Change>, CommitError> {
    for (index, op) in txn.0.iter().enumerate() {
        let current = view.get(op.key());
        if !holds(op.expect(), current.as_ref()) {
            return Err(CommitError::Conflict { index, key: Box::new(op.key().clone()), current });
        }
        if let Op::Put { key, value, .. } = op {
            let size_bytes = value.body.len() + value.attrs.len();
            if size_bytes > options.value_limit_bytes {
                let limit_bytes = options.value_limit_bytes;
                return Err(CommitError::TooLarge { key: Box::new(key.clone()), size_bytes, limit_bytes });
            }
        }
    }
    let mut changes: Vec<Change> = Vec::with_capacity(txn.0.len());
    for op in txn.0 {
        // Steps on one key follow each other; what an earlier step made is what the next one replaces.
        let earlier = changes.iter().rev().find(|c| c.key == *op.key()).map(|c| c.value.clone());
        let prev = match earlier {
            Some(value) => value,
            None => view.get(op.key()),
        };
        let (key, value) = match op {
            Op::Check { .. } => continue,
            Op::Delete { .. } if prev.is_none() => continue,
            Op::Delete { key, .. } => (key, None),
            Op::Put { key, value, ttl_s, .. } => {
                let expires_at_s = ttl_s.map_or(0, |ttl| now_s + u64::from(ttl));
                (key, Some(Arc::new(Value::new(&value, revision.next(), expires_at_s))))
            }
        };
        *revision = revision.next();
        changes.push(Change { key, revision: *revision, value, prev });
    }
    Ok(changes)
}
