//! Recent changes, once, in one bounded ring; and streams: who sees which of them.
//!
//! A stream is the changes of a resource, of a resource in one tenant, or of those objects in one tenant
//! that have an index term. It holds pointers to the changes of its own that are in the ring, so a watcher
//! is a number (how far it has read in its stream): it has no queue, costs nothing while its stream is
//! idle, and never looks at other streams' changes. A stream exists only while it has a change in the ring
//! or a watcher.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;
use rustc_hash::FxBuildHasher;
use skep_base::{Revision, Scope};
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::attrs::Attrs;
use crate::state::TableId;
use crate::txn::Change;

/// How much the ring remembers.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Most changes. Fewer, and watchers that reconnect after a burst must list anew.
    pub events: usize,
    /// Most bytes that only the ring still holds: superseded values, and its own bookkeeping. This memory
    /// comes on top of the live objects.
    pub superseded_bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        RingLimits { events: 64 * 1024, superseded_bytes: 16 * 1024 * 1024 }
    }
}

/// What one change costs beyond the value that only the ring still holds: the change itself, its key's
/// texts, and its slots in the ring and in three to four streams.
const CHANGE_COST_BYTES: usize = 320;
/// What a stream without watchers costs.
const STREAM_COST_BYTES: usize = 320;

type StreamKey = SmallVec<[u8; 128]>;

/// One stream: see the module.
#[derive(Debug)]
pub(crate) struct Stream {
    key: Arc<[u8]>,
    queue: RwLock<Queue>,
    /// Position behind the newest change, so that an idle watcher takes no lock.
    tail: AtomicU64,
    pub(crate) grown: Notify,
    pub(crate) shrunk: Notify,
    watchers: AtomicUsize,
    touched_at: AtomicU64,
    shrunk_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Position of the oldest change that is still held.
    first: u64,
    changes: VecDeque<Arc<Change>>,
}

/// The stream has dropped changes that the reader had not seen.
pub(crate) struct FellOut;

impl Stream {
    fn new(key: Arc<[u8]>) -> Stream {
        Stream {
            key,
            queue: RwLock::default(),
            tail: AtomicU64::new(0),
            grown: Notify::new(),
            shrunk: Notify::new(),
            watchers: AtomicUsize::new(0),
            touched_at: AtomicU64::new(0),
            shrunk_at: AtomicU64::new(0),
        }
    }

    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// Reads on from a position: passes up to `max` changes, and moves the position behind them.
    pub(crate) fn read(
        &self,
        position: &mut u64,
        max: usize,
        mut each: impl FnMut(&Arc<Change>),
    ) -> Result<(), FellOut> {
        let queue = self.queue.read();
        let Some(skip) = position.checked_sub(queue.first) else { return Err(FellOut) };
        for change in queue.changes.iter().skip(skip as usize).take(max) {
            each(change);
            *position += 1;
        }
        Ok(())
    }

    pub(crate) fn has_lost(&self, position: u64) -> bool {
        position < self.queue.read().first
    }

    /// Position of the first change after a revision.
    fn position_after(&self, revision: Revision) -> u64 {
        let queue = self.queue.read();
        queue.first + queue.changes.partition_point(|c| c.revision <= revision) as u64
    }

    /// The changes after a revision, oldest first, until `each` returns false.
    fn each_after(&self, revision: Revision, mut each: impl FnMut(&Arc<Change>) -> bool) {
        let queue = self.queue.read();
        let start = queue.changes.partition_point(|c| c.revision <= revision);
        for change in queue.changes.range(start..) {
            if !each(change) {
                return;
            }
        }
    }
}

/// The streams that got something new, or lost something old, by a publication: to be woken outside of
/// the lock.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    grown: Vec<Arc<Stream>>,
    shrunk: Vec<Arc<Stream>>,
    /// Dropped here so that freeing values does not happen under the lock.
    evicted: Vec<Arc<Change>>,
}

impl Wake {
    /// Wakes the watchers. Call it without the store's lock.
    pub(crate) fn wake(&mut self) {
        for stream in self.grown.drain(..) {
            stream.grown.notify_waiters();
        }
        for stream in self.shrunk.drain(..) {
            stream.shrunk.notify_waiters();
        }
        self.evicted.clear();
    }
}

/// The ring: see the module.
#[derive(Debug)]
pub(crate) struct Ring {
    changes: VecDeque<(TableId, Arc<Change>)>,
    streams: HashMap<Arc<[u8]>, Arc<Stream>, FxBuildHasher>,
    limits: RingLimits,
    bytes: usize,
    /// Nothing up to here was ever in the ring.
    began: Revision,
    /// The newest change of each table that has left the ring; zero while none has.
    evicted: Vec<Revision>,
    publications: u64,
}

impl Ring {
    pub(crate) fn new(limits: RingLimits) -> Ring {
        Ring {
            changes: VecDeque::new(),
            streams: HashMap::with_hasher(FxBuildHasher),
            limits,
            bytes: 0,
            began: Revision::ZERO,
            evicted: Vec::new(),
            publications: 0,
        }
    }

    /// The revision from which on all changes of a table are in the ring. A table that rarely changes keeps
    /// an old floor: others' changes do not push its watchers out.
    pub(crate) fn floor(&self, table: Option<TableId>) -> Revision {
        let evicted = table.and_then(|t| self.evicted.get(t as usize)).copied().unwrap_or_default();
        evicted.max(self.began)
    }

    /// History starts after this revision.
    pub(crate) fn start_at(&mut self, revision: Revision) {
        self.began = revision;
    }

    pub(crate) fn limits(&self) -> RingLimits {
        self.limits
    }

    /// A change of a table that is not even taken in: as if it had left the ring already.
    pub(crate) fn skip(&mut self, table: TableId, revision: Revision) {
        if self.evicted.len() <= table as usize {
            self.evicted.resize(table as usize + 1, Revision::ZERO);
        }
        self.evicted[table as usize] = revision;
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Streams that somebody watches.
    pub(crate) fn watched_stream_count(&self) -> usize {
        self.streams.values().filter(|s| s.watchers.load(Ordering::Relaxed) > 0).count()
    }

    /// Takes in changes in revision order.
    pub(crate) fn publish(&mut self, changes: impl Iterator<Item = (TableId, Arc<Change>)>, wake: &mut Wake) {
        self.publications += 1;
        for (table, change) in changes {
            self.bytes += cost(&change);
            let (streams, bytes, publication) = (&mut self.streams, &mut self.bytes, self.publications);
            each_stream_key(table, &change, |key| {
                let stream = match streams.get(key) {
                    Some(stream) => stream,
                    None => {
                        let key: Arc<[u8]> = key.into();
                        let stream = Arc::new(Stream::new(key.clone()));
                        streams.entry(key).or_insert(stream)
                    }
                };
                let mut queue = stream.queue.write();
                if queue.changes.is_empty() {
                    *bytes += STREAM_COST_BYTES;
                }
                queue.changes.push_back(change.clone());
                let tail = queue.first + queue.changes.len() as u64;
                drop(queue);
                stream.tail.store(tail, Ordering::Release);
                if stream.watchers.load(Ordering::Relaxed) > 0
                    && stream.touched_at.swap(publication, Ordering::Relaxed) != publication
                {
                    wake.grown.push(stream.clone());
                }
            });
            self.changes.push_back((table, change));
        }
        while self.bytes > self.limits.superseded_bytes || self.changes.len() > self.limits.events {
            if !self.evict_oldest(wake) {
                break;
            }
        }
    }

    fn evict_oldest(&mut self, wake: &mut Wake) -> bool {
        let Some((table, change)) = self.changes.pop_front() else { return false };
        self.skip(table, change.revision);
        self.bytes -= cost(&change);
        let (streams, bytes, publication) = (&mut self.streams, &mut self.bytes, self.publications);
        each_stream_key(table, &change, |key| {
            let Some(stream) = streams.get(key) else { return };
            let mut queue = stream.queue.write();
            queue.changes.pop_front();
            queue.first += 1;
            let emptied = queue.changes.is_empty();
            if emptied {
                *bytes -= STREAM_COST_BYTES;
                queue.changes.shrink_to(4);
            }
            drop(queue);
            if stream.watchers.load(Ordering::Relaxed) > 0 {
                if stream.shrunk_at.swap(publication, Ordering::Relaxed) != publication {
                    wake.shrunk.push(stream.clone());
                }
            } else if emptied {
                streams.remove(key);
            }
        });
        wake.evicted.push(change);
        true
    }

    /// Registers a watcher: its stream, and its position for reading what follows a revision that is not
    /// compacted.
    pub(crate) fn subscribe(&mut self, key: &[u8], from: Revision) -> (Arc<Stream>, u64) {
        let stream = match self.streams.get(key) {
            Some(stream) => stream.clone(),
            None => {
                let key: Arc<[u8]> = key.into();
                let stream = Arc::new(Stream::new(key.clone()));
                self.streams.insert(key, stream.clone());
                stream
            }
        };
        stream.watchers.fetch_add(1, Ordering::Relaxed);
        let position = stream.position_after(from);
        (stream, position)
    }

    /// Takes a watcher's registration back.
    pub(crate) fn unsubscribe(&mut self, stream: &Arc<Stream>) {
        let last = stream.watchers.fetch_sub(1, Ordering::Relaxed) == 1;
        if last && stream.queue.read().changes.is_empty() {
            self.streams.remove(&stream.key);
        }
    }

    /// The changes of a stream after a revision, oldest first, until `each` returns false.
    pub(crate) fn each_after(&self, key: &[u8], revision: Revision, each: impl FnMut(&Arc<Change>) -> bool) {
        if let Some(stream) = self.streams.get(key) {
            stream.each_after(revision, each);
        }
    }

    /// All streams, to tell their watchers that the store closes.
    pub(crate) fn wake_all(&self) {
        for stream in self.streams.values() {
            stream.grown.notify_waiters();
            stream.shrunk.notify_waiters();
        }
    }
}

/// What the ring alone holds in memory for a change. The new value is in the state too until a later
/// change supersedes it, which then counts it as its `prev`.
fn cost(change: &Change) -> usize {
    CHANGE_COST_BYTES + change.prev.as_ref().map_or(0, |v| v.size_bytes())
}

fn start_key(key: &mut StreamKey, table: TableId, tenant: &str) {
    key.clear();
    key.extend_from_slice(&table.to_le_bytes());
    key.extend_from_slice(tenant.as_bytes());
}

fn end_key(key: &mut StreamKey, field: &str, value: &str) {
    key.push(0);
    key.extend_from_slice(field.as_bytes());
    key.push(0);
    key.extend_from_slice(value.as_bytes());
}

/// The narrowest stream that has all changes of a scope, and of a term in it. Terms have streams within a
/// tenant only.
pub(crate) fn stream_key(table: TableId, scope: &Scope, index: Option<(&str, &str)>) -> StreamKey {
    let mut key = StreamKey::new();
    start_key(&mut key, table, scope.tenant().map_or("", |t| t.as_str()));
    if let (Some(_), Some((field, value))) = (scope.tenant(), index) {
        end_key(&mut key, field, value);
    }
    key
}

fn each_stream_key(table: TableId, change: &Change, mut each: impl FnMut(&[u8])) {
    let mut key = StreamKey::new();
    start_key(&mut key, table, "");
    each(&key);
    start_key(&mut key, table, change.key.tenant.as_str());
    each(&key);
    let tenant_len = key.len();
    let (new, old) = (change.value.as_ref().map(|v| v.attrs()), change.prev.as_ref().map(|v| v.attrs()));
    let came = new.into_iter().flat_map(Attrs::indexed);
    let went = old
        .into_iter()
        .flat_map(Attrs::indexed)
        .filter(|(field, value)| !new.is_some_and(|n| n.has_term(field, value)));
    for (field, value) in came.chain(went) {
        key.truncate(tenant_len);
        end_key(&mut key, field, value);
        each(&key);
    }
}
