//! The one thread that orders writes: it takes everything that waits, evaluates it in turn, has the engine
//! make it durable in one go, makes it visible, and answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxBuildHasher;
use skep_base::{Key, Revision, Scope};
use std::hash::BuildHasher;
use tokio::sync::oneshot;

use crate::core::Core;
use crate::engine::{AppendError, Engine, Source};
use crate::ring::Wake;
use crate::state::{Span, State};
use crate::store::StoreOptions;
use crate::txn::{Change, Changes, CommitError, Expect, Op, Txn};
use crate::value::{Keys, Value, path_of};

/// Most changes made durable in one go. More would make everybody wait for the slowest.
const BATCH_MAX_CHANGES: usize = 4096;
/// Most bytes made durable in one go: some milliseconds of writing on a slow disk.
const BATCH_MAX_BYTES: usize = 8 << 20;
/// Most objects that one round of expiry deletes, so that it does not crowd out other writers.
const EXPIRE_MAX: usize = 512;

/// A plan's answer: `None` when it refused, which the caller of `commit_with` knows more about.
pub(crate) type Plan = Box<dyn FnMut(&View<'_>) -> Option<Txn> + Send>;

pub(crate) enum Work {
    Txn(Txn),
    Plan(Plan),
    /// Delete what is due.
    Expire,
}

/// `None`: the plan refused.
pub(crate) type Outcome = Result<Option<Changes>, CommitError>;

pub(crate) struct Request {
    pub(crate) work: Work,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// How long the sequencer waits for those who are about to write (see [`Announced`]). A batch costs a sync and a
/// wake-up of everybody in it, and on a busy machine both take time from those who make requests. Longer
/// waits would show in the latency of writes; a writer that never comes can delay others by this much only.
const GATHER: Duration = Duration::from_millis(1);

/// What waits for the sequencer.
pub(crate) struct Queue {
    inner: Mutex<Waiting>,
    arrived: Condvar,
    /// How many [`Announced`] there are.
    announced: AtomicUsize,
    /// How many announced writers the sequencer waits to be left with at most; -1 when it does not wait.
    /// Only ever too large or too small for a moment: then the sequencer waits a little less, or [`GATHER`].
    gathering: AtomicIsize,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            announced: AtomicUsize::new(0),
            gathering: AtomicIsize::new(-1),
        }
    }
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    closing: bool,
    /// Whether the sequencer sleeps because there is nothing to do.
    idle: bool,
}

/// Somebody who may be about to write, or to answer a write: while there are more of them than requests wait, the
/// sequencer gives them a moment to come, so that one sync serves them all.
pub struct Announced(Arc<Queue>);

impl Drop for Announced {
    fn drop(&mut self) {
        let left = self.0.announced.fetch_sub(1, Ordering::Relaxed) - 1;
        let enough = self.0.gathering.load(Ordering::Relaxed);
        if enough >= 0 && left <= enough.unsigned_abs() {
            self.0.arrived.notify_one();
        }
    }
}

impl Queue {
    /// Says that somebody may write soon.
    pub(crate) fn announce(self: &Arc<Queue>) -> Announced {
        self.announced.fetch_add(1, Ordering::Relaxed);
        Announced(self.clone())
    }

    /// Hands a request over; gives it back when the store is closed.
    pub(crate) fn push(&self, request: Request) -> Result<(), CommitError> {
        let mut inner = self.inner.lock();
        if inner.closing {
            return Err(CommitError::Closed);
        }
        inner.requests.push(request);
        let gathering = self.gathering.load(Ordering::Relaxed) >= 0;
        if gathering {
            self.gathering.fetch_add(1, Ordering::Relaxed);
        }
        let wake = inner.idle || (gathering && self.gathered(&inner));
        inner.idle = false;
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// No more requests; those that wait are still done.
    pub(crate) fn close(&self) {
        self.inner.lock().closing = true;
        self.arrived.notify_one();
    }

    /// No more requests, and no answers to those that wait: the sequencer is gone.
    pub(crate) fn abandon(&self) {
        let mut inner = self.inner.lock();
        inner.closing = true;
        inner.requests.clear();
    }

    /// Whether everybody is here.
    fn gathered(&self, inner: &Waiting) -> bool {
        let waiting = inner.requests.len();
        waiting >= self.announced.load(Ordering::Relaxed) || waiting >= BATCH_MAX_CHANGES || inner.closing
    }

    /// Waits for requests and takes them all. False when the queue is closed and empty.
    fn take(&self, into: &mut Vec<Request>, timeout: Option<Duration>) -> bool {
        let mut inner = self.inner.lock();
        if inner.requests.is_empty() && !inner.closing {
            inner.idle = true;
            match timeout {
                Some(timeout) => {
                    self.arrived.wait_for(&mut inner, timeout);
                }
                None => self.arrived.wait(&mut inner),
            }
            inner.idle = false;
        }
        if !inner.requests.is_empty() && !self.gathered(&inner) {
            let until = Instant::now() + GATHER;
            // The cast is exact: memory holds fewer.
            self.gathering.store(inner.requests.len() as isize, Ordering::Relaxed);
            while !self.gathered(&inner) && !self.arrived.wait_until(&mut inner, until).timed_out() {}
            self.gathering.store(-1, Ordering::Relaxed);
        }
        std::mem::swap(&mut inner.requests, into);
        !(inner.closing && into.is_empty())
    }
}

/// The newest state, including writes that are accepted but not yet durable: what a plan run by
/// [`Store::commit_with`](crate::Store::commit_with) decides on.
pub struct View<'a> {
    state: &'a State,
    pending: &'a Pending,
}

impl View<'_> {
    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        match self.pending.get(key) {
            Some(change) => change.value.clone(),
            None => self.state.get(key).cloned(),
        }
    }

    /// All objects of a scope, in order. Meant for small ones: it runs while all writers wait.
    #[must_use]
    pub fn list(&self, scope: &Scope) -> Vec<(Key, Arc<Value>)> {
        let mut keys = Keys::new(scope.resource());
        let mut items: Vec<(Key, Arc<Value>)> = Vec::new();
        if let Some(table) = self.state.table_of(scope.resource()) {
            items.extend(table.range(&Span::of(scope)).map(|value| (keys.of(value), value.clone())));
        }
        let pending: Vec<&Arc<Change>> =
            self.pending.changes.iter().filter(|c| scope.contains(&c.key)).collect();
        if !pending.is_empty() {
            items.retain(|(key, _)| self.pending.get(key).is_none());
            items.extend(pending.into_iter().filter_map(|c| Some((c.key.clone(), c.value.clone()?))));
            items.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        }
        items
    }
}

/// The newest change of each key that the current batch writes.
#[derive(Default)]
pub(crate) struct Pending {
    changes: HashTable<Arc<Change>>,
    hasher: FxBuildHasher,
}

impl Pending {
    fn get(&self, key: &Key) -> Option<&Arc<Change>> {
        if self.changes.is_empty() {
            return None;
        }
        self.changes.find(self.hasher.hash_one(key), |c| c.key == *key)
    }

    fn put(&mut self, change: &Arc<Change>) {
        let hasher = self.hasher;
        let hash = hasher.hash_one(&change.key);
        match self.changes.entry(hash, |c| c.key == change.key, |c| hasher.hash_one(&c.key)) {
            hashbrown::hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = change.clone(),
            hashbrown::hash_table::Entry::Vacant(entry) => {
                entry.insert(change.clone());
            }
        }
    }
}

pub(crate) struct Sequencer {
    core: Arc<Core>,
    queue: Arc<Queue>,
    options: StoreOptions,
    engine: Box<dyn Engine>,
    /// What the engine reads for its background work.
    source: Arc<dyn Source>,
    /// The newest revision given out. Those of a batch that failed are not given out again.
    pub(crate) revision: Revision,
    /// Why no more writes are taken.
    failed: Option<Arc<str>>,
}

/// One batch in the making.
#[derive(Default)]
struct Batch {
    changes: Vec<Arc<Change>>,
    bytes: usize,
    pending: Pending,
    replies: Vec<(oneshot::Sender<Outcome>, Outcome)>,
}

impl Sequencer {
    pub(crate) fn new(
        core: Arc<Core>,
        queue: Arc<Queue>,
        options: StoreOptions,
        engine: Box<dyn Engine>,
        revision: Revision,
    ) -> Sequencer {
        let source: Arc<dyn Source> = core.clone();
        Sequencer { core, queue, options, engine, source, revision, failed: None }
    }

    /// Runs until the queue is closed and done.
    pub(crate) fn run(mut self) {
        let mut requests = Vec::new();
        let mut wake = Wake::default();
        while self.queue.take(&mut requests, self.until_next_expiry()) {
            self.step(&mut requests, &mut wake);
        }
        self.finish();
    }

    /// Does everything that waits.
    pub(crate) fn step(&mut self, requests: &mut Vec<Request>, wake: &mut Wake) {
        let mut waiting = requests.drain(..);
        while waiting.len() > 0 {
            let mut batch = Batch::default();
            while batch.changes.len() < BATCH_MAX_CHANGES && batch.bytes < BATCH_MAX_BYTES {
                let Some(request) = waiting.next() else { break };
                let outcome = self.evaluate(request.work, &mut batch);
                batch.replies.push((request.reply, outcome));
            }
            self.commit(batch, wake);
        }
        self.expire_due(wake);
        self.engine.maintain(&self.source);
    }

    /// Closes the engine.
    pub(crate) fn finish(&mut self) {
        if let Err(error) = self.engine.close() {
            tracing::error!(%error, "the store's engine did not close cleanly");
        }
    }

    /// While objects wait to expire the clock is looked at again and again: it may be set.
    fn until_next_expiry(&self) -> Option<Duration> {
        let waits = self.failed.is_none() && self.core.state().next_expiry_s().is_some();
        waits.then_some(self.options.expiry_period)
    }

    /// Makes a batch durable, makes it visible, answers.
    fn commit(&mut self, batch: Batch, wake: &mut Wake) {
        let Batch { changes, replies, pending, .. } = batch;
        drop(pending);
        let failed = match if changes.is_empty() { Ok(()) } else { self.engine.append(&changes) } {
            Ok(()) => {
                self.core.publish(&changes, wake);
                None
            }
            Err(AppendError::NoSpace) => Some(CommitError::NoSpace),
            Err(AppendError::Failed(reason)) => {
                tracing::error!(%reason, "the store takes no more writes");
                let reason: Arc<str> = reason.into();
                self.failed = Some(reason.clone());
                Some(CommitError::Uncertain(reason))
            }
        };
        for (reply, outcome) in replies {
            // Refusals too wait until here, and fail with the batch: they may rest on its earlier writes.
            // A caller that has gone away does not want to know.
            let _ = reply.send(match &failed {
                Some(error) => Err(error.clone()),
                None => outcome,
            });
        }
        wake.wake();
    }

    fn evaluate(&mut self, work: Work, batch: &mut Batch) -> Outcome {
        if let Some(reason) = &self.failed {
            return Err(CommitError::Failed(reason.clone()));
        }
        let core = self.core.clone();
        let state = core.state();
        let txn = match work {
            Work::Txn(txn) => txn,
            Work::Expire => self.expirations(&state, &batch.pending),
            Work::Plan(mut plan) => {
                let view = View { state: &state, pending: &batch.pending };
                match catch_unwind(AssertUnwindSafe(|| plan(&view))) {
                    Ok(Some(txn)) => txn,
                    Ok(None) => return Ok(None),
                    Err(_) => return Err(CommitError::Invalid("its plan panicked")),
                }
            }
        };
        txn.check(self.options.value_limit_bytes)?;
        self.accept(&state, txn, batch).map(Some)
    }

    /// Checks a transaction against the state with the batch's earlier changes, and adds its own.
    fn accept(&mut self, state: &State, txn: Txn, batch: &mut Batch) -> Result<Changes, CommitError> {
        let mut before = smallvec::SmallVec::<[Option<Arc<Value>>; 4]>::with_capacity(txn.0.len());
        let view = View { state, pending: &batch.pending };
        for (index, op) in txn.0.iter().enumerate() {
            let current = view.get(op.key());
            if !op.expect().holds(current.as_ref()) {
                return Err(CommitError::Conflict { index, key: Box::new(op.key().clone()), current });
            }
            before.push(current);
        }
        let now_s = (self.options.clock)();
        let mut changes = Changes::new();
        for (op, prev) in txn.0.into_iter().zip(before) {
            let revision = self.revision.next();
            let (key, value) = match op {
                Op::Check { .. } => continue,
                Op::Delete { .. } if prev.is_none() => continue,
                Op::Delete { key, .. } => (key, None),
                Op::Put { key, value, ttl_s, .. } => {
                    let expires_at_s = ttl_s.map_or(0, |ttl_s| now_s.saturating_add(u64::from(ttl_s)));
                    let expires_at_s = u32::try_from(expires_at_s).unwrap_or(u32::MAX);
                    let value = Value::new(&path_of(&key), &value, revision, expires_at_s);
                    (key, Some(Arc::new(value)))
                }
            };
            self.revision = revision;
            batch.bytes += value.as_ref().map_or(0, |v| v.size_bytes());
            let change = Arc::new(Change { key, revision, value, prev });
            batch.pending.put(&change);
            batch.changes.push(change.clone());
            changes.push(change);
        }
        Ok(changes)
    }

    /// A transaction that deletes what is due, each on the condition that it is still what was due.
    fn expirations(&self, state: &State, pending: &Pending) -> Txn {
        let view = View { state, pending };
        state
            .expired((self.options.clock)(), EXPIRE_MAX)
            .into_iter()
            .map(|(resource, value)| (Keys::new(&resource).of(&value), value.revision()))
            .filter(|(key, revision)| view.get(key).is_some_and(|now| now.revision() == *revision))
            .map(|(key, revision)| Op::Delete { key, expect: Expect::Revision(revision) })
            .collect()
    }

    fn expire_due(&mut self, wake: &mut Wake) {
        while self.failed.is_none()
            && self.core.state().next_expiry_s().is_some_and(|at| at <= (self.options.clock)())
        {
            let mut batch = Batch::default();
            let before = self.core.revision();
            if let Err(error) = self.evaluate(Work::Expire, &mut batch) {
                tracing::warn!(%error, "expired objects stay for now");
                return;
            }
            self.commit(batch, wake);
            if self.core.revision() == before {
                // The disk is full, say. They are tried again after the next writes, or later.
                return;
            }
        }
    }
}
