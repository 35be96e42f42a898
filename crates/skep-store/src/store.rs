//! The store's face: reads, commits, watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use skep_base::{GroupResource, Key, Revision, Scope};

use crate::engine::{Engine, Loader, OpenError, Source};
use crate::ring::{Ring, RingLimits};
use crate::sequencer::{self, Queue};
use crate::state::{Parser, State};
use crate::txn::{Change, Changes, CommitError, Expect, Op, Txn, View};
use crate::value::Value;
use crate::watch::Watcher;

/// A revision that the store no longer remembers, or a store that is closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revision is no longer remembered")]
pub struct Expired;

/// Settings.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How much of the past is remembered for watchers and old pages.
    pub ring: RingLimits,
    /// Most bytes of one value. Upstream's etcd takes 1.5 MiB; requests are limited to 3 MiB, and what
    /// defaulting adds must still fit.
    pub value_limit_bytes: usize,
    /// Unix time in seconds; injected so that expiry can be tested.
    pub clock: fn() -> u64,
    /// How often values past their time are looked for.
    pub expiry_period: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            ring: RingLimits::default(),
            value_limit_bytes: 8 * 1024 * 1024,
            clock: unix_now_s,
            expiry_period: Duration::from_secs(10),
        }
    }
}

fn unix_now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// What readers look at, under one lock that only the sequencer writes.
pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) ring: Ring,
    pub(crate) revision: Revision,
}

pub(crate) struct Shared {
    pub(crate) inner: RwLock<Inner>,
    pub(crate) queue: Queue,
    closed: AtomicBool,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Source for Shared {
    fn resources(&self) -> Vec<GroupResource> {
        self.inner.read().state.resources()
    }

    fn objects(&self, resource: &GroupResource, after: Option<&Key>, limit: usize) -> Vec<(Key, Arc<Value>)> {
        let mut objects = Vec::with_capacity(limit);
        let after = after.map(Key::path);
        self.inner.read().state.scan(
            &Scope::AllTenants(resource.clone()),
            after.as_deref(),
            &mut |key, value| {
                objects.push((key, value.clone()));
                objects.len() < limit
            },
        );
        objects
    }

    fn size_bytes(&self) -> usize {
        self.inner.read().state.bytes()
    }
}

/// How a list is read.
#[derive(Clone, Debug, Default)]
pub struct ListOptions<'a> {
    /// Only what comes behind this key.
    pub after: Option<Key>,
    /// At most so many objects.
    pub limit: Option<usize>,
    /// As it was at this revision; the newest when `None`.
    pub at: Option<Revision>,
    /// Only objects whose indexed field has this value.
    pub index: Option<(&'a str, &'a str)>,
}

/// A part of a scope at one revision.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The objects, in order.
    pub items: Vec<(Key, Arc<Value>)>,
    /// The revision at which they are exact.
    pub revision: Revision,
    /// Whether the limit left more.
    pub more: bool,
    /// How many more, when a limit was given and no index.
    pub remaining: Option<usize>,
}

/// Figures about the store.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Stats {
    pub objects: usize,
    pub object_bytes: usize,
    pub ring_events: usize,
    pub ring_superseded_bytes: usize,
    pub watched_streams: usize,
    pub revision: Revision,
}

/// A handle; clones share the store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// Objects read under one hold of the lock: short enough that writers do not wait noticeably.
const LIST_CHUNK: usize = 4096;

/// Most values that one round of expiry removes, so that it does not crowd out other writers.
const EXPIRY_CHUNK: usize = 1024;

impl Store {
    /// Loads what the engine holds and starts taking writes.
    ///
    /// # Errors
    /// What the engine found: a damaged file, another process, a full disk.
    pub fn open(mut engine: Box<dyn Engine>, options: StoreOptions) -> Result<Store, OpenError> {
        let mut loading = Loading { state: State::default(), ring: Ring::new(options.ring, Revision::ZERO) };
        let revision = engine.load(&mut loading)?;
        let inner = Inner { state: loading.state, ring: loading.ring, revision };
        let shared = Arc::new(Shared {
            inner: RwLock::new(inner),
            queue: Queue::default(),
            closed: AtomicBool::new(false),
            threads: Mutex::new(Vec::new()),
        });
        let store = Store { shared: shared.clone() };
        let sequencer = {
            let (shared, options) = (shared.clone(), options.clone());
            spawn("store-sequencer", move || sequencer::run(&shared, engine, &options))?
        };
        let expiry = {
            let store = store.clone();
            spawn("store-expiry", move || store.expire_forever(&options))?
        };
        shared.threads.lock().extend([sequencer, expiry]);
        Ok(store)
    }

    /// The newest revision that readers see.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.inner.read().revision
    }

    /// The oldest revision from which a resource can be watched.
    #[must_use]
    pub fn compacted(&self, resource: &GroupResource) -> Revision {
        self.shared.inner.read().ring.floor(resource)
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.shared.inner.read().state.get(key).cloned()
    }

    /// The objects of a scope, all at one revision.
    ///
    /// # Errors
    /// [`Expired`] when `at` lies before what the ring remembers, or in the future.
    pub fn list(&self, scope: &Scope, options: &ListOptions<'_>) -> Result<Listing, Expired> {
        let mut items: Vec<(Key, Arc<Value>)> = Vec::new();
        let mut parser = Parser::default();
        let resource = scope.resource();
        let mut at = options.at;
        let mut after: Option<String> = options.after.as_ref().map(Key::path);
        let want = options.limit.unwrap_or(usize::MAX);
        loop {
            let inner = self.shared.inner.read();
            let revision = *at.get_or_insert(inner.revision);
            if revision > inner.revision {
                return Err(Expired);
            }
            let mut undo = undo(&inner, scope, revision, options.index, after.as_deref())?;
            let room = LIST_CHUNK.min(want - items.len());
            let from = after.clone();
            let mut taken = 0;
            let mut full = false;
            let mut push = |path: &str, value: &Arc<Value>, taken: &mut usize| {
                if *taken == room {
                    return false;
                }
                if let Some(key) = parser.key(resource, path) {
                    items.push((key, value.clone()));
                }
                after = Some(path.to_owned());
                *taken += 1;
                true
            };
            let mut visit = |path: &str, value: &Arc<Value>| {
                // Objects that were there then and are gone now come in at their places.
                while let Some(entry) = undo.first_entry() {
                    if entry.key().as_ref() >= path {
                        break;
                    }
                    let (path, old) = entry.remove_entry();
                    if let Some(old) = old
                        && !push(&path, &old, &mut taken)
                    {
                        full = true;
                        return false;
                    }
                }
                let kept = match undo.remove(path) {
                    None => push(path, value, &mut taken),
                    Some(Some(old)) => push(path, &old, &mut taken),
                    Some(None) => true,
                };
                full = !kept;
                kept
            };
            match options.index.filter(|_| scope.tenant().is_some()) {
                Some(index) => inner.state.scan_index(scope, index, from.as_deref(), &mut visit),
                None => inner.state.scan_paths(scope, from.as_deref(), &mut |path, value| {
                    let wanted = options.index.is_none_or(|(f, v)| value.attrs().field(f) == Some(v));
                    // A changed object may have had the value then: the undo list decides about it.
                    if wanted { visit(path, value) } else { true }
                }),
            }
            if !full {
                for (path, old) in std::mem::take(&mut undo) {
                    if let Some(old) = old
                        && !push(&path, &old, &mut taken)
                    {
                        full = true;
                        break;
                    }
                }
            }
            drop(inner);
            if !full {
                return Ok(Listing { items, revision, more: false, remaining: None });
            }
            if items.len() >= want {
                let remaining = options.index.is_none().then(|| self.count_after(scope, after.as_deref()));
                return Ok(Listing { items, revision, more: true, remaining });
            }
        }
    }

    fn count_after(&self, scope: &Scope, after: Option<&str>) -> usize {
        let mut count = 0;
        self.shared.inner.read().state.scan_paths(scope, after, &mut |_, _| {
            count += 1;
            true
        });
        count
    }

    /// Commits a transaction; returns when it is durable and visible.
    ///
    /// # Errors
    /// See [`CommitError`]: a condition that does not hold, a full or failed disk.
    pub async fn commit(&self, txn: Txn) -> Result<Changes, CommitError> {
        let answer = self.shared.queue.push_txn(txn);
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    /// Runs `plan` on the newest state, one plan or transaction at a time, and commits what it returns: for
    /// decisions that must be exact under concurrency, such as quotas. `plan` must be quick and pure: every
    /// writer waits for it, and an engine that commits optimistically may run it again.
    ///
    /// # Errors
    /// As for [`Store::commit`]; the inner error is the plan's own refusal.
    pub async fn commit_with<E: Send + 'static>(
        &self,
        mut plan: impl FnMut(&View<'_>) -> Result<Txn, E> + Send + 'static,
    ) -> Result<Result<Changes, E>, CommitError> {
        let refusal = Arc::new(Mutex::new(None));
        let slot = refusal.clone();
        let answer = self.shared.queue.push_plan(Box::new(move |view| match plan(view) {
            Ok(txn) => Some(txn),
            Err(e) => {
                *slot.lock() = Some(e);
                None
            }
        }));
        let changes = answer.await.unwrap_or(Err(CommitError::Closed))?;
        let refused = refusal.lock().take();
        Ok(match refused {
            Some(e) => Err(e),
            None => Ok(changes),
        })
    }

    /// Follows the changes of a scope after a revision. With an index, those of objects whose field has or
    /// had the value.
    ///
    /// # Errors
    /// [`Expired`] when the changes since then are no longer all remembered.
    pub fn watch(
        &self,
        scope: Scope,
        index: Option<(&str, &str)>,
        from: Revision,
    ) -> Result<Watcher, Expired> {
        Watcher::new(self.shared.clone(), scope, index, from)
    }

    /// The resources that there are objects of.
    #[must_use]
    pub fn resources(&self) -> Vec<GroupResource> {
        self.shared.inner.read().state.resources()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = self.shared.inner.read();
        Stats {
            objects: inner.state.len(),
            object_bytes: inner.state.bytes(),
            ring_events: inner.ring.len(),
            ring_superseded_bytes: inner.ring.superseded_bytes(),
            watched_streams: inner.ring.stream_count(),
            revision: inner.revision,
        }
    }

    /// Finishes what is queued, closes the engine, ends all watches. Blocks until done.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.queue.close();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        self.shared.inner.read().ring.wake_all();
    }

    fn expire_forever(&self, options: &StoreOptions) {
        while !self.shared.is_closed() {
            std::thread::park_timeout(options.expiry_period);
            while !self.shared.is_closed() && self.expire((options.clock)()) == EXPIRY_CHUNK {}
        }
    }

    /// Removes values past their time, a bounded number; says how many it found.
    fn expire(&self, now_s: u64) -> usize {
        let mut due: Vec<Op> = Vec::new();
        {
            let resources = self.shared.inner.read().state.resources();
            for resource in resources {
                let scope = Scope::AllTenants(resource);
                let inner = self.shared.inner.read();
                let mut first = true;
                inner.state.scan(&scope, None, &mut |key, value| {
                    // Kinds that expire do so as a whole: one look at the first object tells.
                    if std::mem::take(&mut first) && value.expires_at_s().is_none() {
                        return false;
                    }
                    if value.expires_at_s().is_some_and(|t| t <= now_s) {
                        due.push(Op::Delete { key, expect: Expect::Revision(value.revision()) });
                    }
                    due.len() < EXPIRY_CHUNK
                });
            }
        }
        let found = due.len();
        for op in due {
            // A value that was renewed meanwhile conflicts, and stays.
            drop(self.shared.queue.push_txn(Txn::one(op)));
        }
        found
    }
}

/// Takes what an engine holds into memory: the snapshot as it is, the changes after it into the ring too, so
/// that watches can be resumed across a restart.
struct Loading {
    state: State,
    ring: Ring,
}

impl Loader for Loading {
    fn object(&mut self, key: Key, value: Value) {
        self.ring.begin_after(value.revision());
        self.state.set(&key, Some(Arc::new(value)));
    }

    fn change(&mut self, key: Key, revision: Revision, value: Option<Value>) {
        let value = value.map(Arc::new);
        let current = self.state.get(&key).map(|v| v.revision());
        if current.is_some_and(|r| r >= revision) {
            // A snapshot is taken while writes go on: it may hold a later state than this change.
            return;
        }
        let prev = self.state.set(&key, value.clone());
        if revision > self.ring.began() {
            self.ring.push(&Arc::new(Change { key, revision, value, prev }), &mut Vec::new());
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, OpenError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|e| OpenError::Io { what: format!("starting the thread {name}"), source: e })
}

type Undo = std::collections::BTreeMap<Box<str>, Option<Arc<Value>>>;

/// What the objects that have changed since a revision were then, behind `after`.
fn undo(
    inner: &Inner,
    scope: &Scope,
    revision: Revision,
    index: Option<(&str, &str)>,
    after: Option<&str>,
) -> Result<Undo, Expired> {
    let mut undo = Undo::new();
    if revision == inner.revision {
        return Ok(undo);
    }
    let mut seen: FxHashMap<Box<str>, ()> = FxHashMap::default();
    for change in inner.ring.after(scope.resource(), revision).map_err(|_| Expired)? {
        if !scope.contains(&change.key) {
            continue;
        }
        let path: Box<str> = change.key.path().into();
        // The oldest change tells what was before it.
        if after.is_some_and(|a| &*path <= a) || seen.insert(path.clone(), ()).is_some() {
            continue;
        }
        let then =
            change.prev.clone().filter(|v| index.is_none_or(|(f, want)| v.attrs().field(f) == Some(want)));
        undo.insert(path, then);
    }
    Ok(undo)
}
