//! The store's face: what the API server holds.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use skep_base::{GroupResource, Key, Revision, Scope};
use tokio::sync::oneshot;

use crate::core::{Core, Expired};
use crate::engine::{Engine, Loader, OpenError};
use crate::list::{self, ListOptions, Listing, Values};
use crate::ring::{Ring, RingLimits};
use crate::sequencer::{Announced, Outcome, Queue, Request, Sequencer, View, Work};
use crate::state::State;
use crate::txn::{Changes, CommitError, Txn};
use crate::value::Value;
use crate::watch::Watcher;

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
            expiry_period: Duration::from_secs(1),
        }
    }
}

fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Figures about the store.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Stats {
    pub objects: usize,
    pub object_bytes: usize,
    pub ring_events: usize,
    /// With the ring's own bookkeeping.
    pub ring_superseded_bytes: usize,
    pub watched_streams: usize,
    pub revision: Revision,
}

/// A handle; clones share the store. The last one to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    queue: Arc<Queue>,
    sequencer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Inner {
    fn close(&self) {
        self.queue.close();
        // Held while waiting, so that whoever closes second returns when it is done too.
        let mut sequencer = self.sequencer.lock();
        if let Some(thread) = sequencer.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's sequencer panicked");
        }
        self.core.close();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store {
    /// Loads what the engine holds and starts taking writes. Blocks while it loads.
    ///
    /// # Errors
    /// What the engine found: a damaged file, another process, a full disk.
    pub fn open(mut engine: Box<dyn Engine>, options: StoreOptions) -> Result<Store, OpenError> {
        let mut state = State::new(Ring::new(options.ring));
        let mut loader = Loader::new(&mut state);
        let revision = engine.load(&mut loader)?;
        loader.finish();
        state.applied = revision;
        let core = Arc::new(Core::new(state));
        let queue = Arc::new(Queue::default());
        let sequencer = Sequencer::new(core.clone(), queue.clone(), options, engine, revision);
        let end = EndOnDrop { core: core.clone(), queue: queue.clone() };
        let run = move || {
            let _end = end;
            sequencer.run();
        };
        let sequencer = std::thread::Builder::new()
            .name("store-sequencer".to_owned())
            .spawn(run)
            .map_err(|source| OpenError::Io { what: "starting the store's sequencer".to_owned(), source })?;
        let inner = Inner { core, queue, sequencer: Mutex::new(Some(sequencer)) };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The newest revision that readers see.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.inner.core.revision()
    }

    /// The oldest revision from which a resource can be watched.
    #[must_use]
    pub fn compacted(&self, resource: &GroupResource) -> Revision {
        let state = self.inner.core.state();
        state.ring.floor(state.table_id(resource))
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.inner.core.state().get(key).cloned()
    }

    /// The objects of a scope, all at one revision.
    ///
    /// # Errors
    /// [`Expired`] when `at` lies before what the ring remembers, or in the future.
    pub fn list(&self, scope: &Scope, options: &ListOptions<'_>) -> Result<Listing, Expired> {
        list::list(&self.inner.core, scope, options)
    }

    /// As [`Store::list`], without the keys.
    ///
    /// # Errors
    /// As for [`Store::list`].
    pub fn values(&self, scope: &Scope, options: &ListOptions<'_>) -> Result<Values, Expired> {
        list::values(&self.inner.core, scope, options)
    }

    /// Says that somebody is about to write, so that the store makes what comes soon durable together. To be
    /// kept until the writer is answered, and not while it waits for anything but the store.
    #[must_use]
    pub fn announce(&self) -> Announced {
        self.inner.queue.announce()
    }

    /// Commits a transaction; returns when it is durable and visible. When the future is dropped the
    /// transaction may go through all the same.
    ///
    /// # Errors
    /// See [`CommitError`]: a condition that does not hold, a full or failed disk.
    pub async fn commit(&self, txn: Txn) -> Result<Changes, CommitError> {
        Ok(self.submit(Work::Txn(txn)).await?.unwrap_or_default())
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
        let plan = move |view: &View<'_>| match plan(view) {
            Ok(txn) => Some(txn),
            Err(error) => {
                *slot.lock() = Some(error);
                None
            }
        };
        let changes = self.submit(Work::Plan(Box::new(plan))).await?;
        let refused = refusal.lock().take();
        Ok(match (changes, refused) {
            (None, Some(error)) => Err(error),
            (changes, _) => Ok(changes.unwrap_or_default()),
        })
    }

    /// Deletes what is past its time now, without waiting for the next look at the clock. A call deletes a
    /// few hundred at most; says what it did.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn expire(&self) -> Result<Changes, CommitError> {
        Ok(self.submit(Work::Expire).await?.unwrap_or_default())
    }

    async fn submit(&self, work: Work) -> Outcome {
        let (reply, answer) = oneshot::channel();
        self.inner.queue.push(Request { work, reply })?;
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    /// Follows the changes of a scope after a revision. With an index, those of objects whose field has or
    /// had the value. The revision may lie in the future: what comes up to it is left out.
    ///
    /// # Errors
    /// [`Expired`] when the changes since then are no longer all remembered.
    pub fn watch(
        &self,
        scope: Scope,
        index: Option<(&str, &str)>,
        from: Revision,
    ) -> Result<Watcher, Expired> {
        Watcher::new(self.inner.core.clone(), &scope, index, from)
    }

    /// The resources that there are objects of.
    #[must_use]
    pub fn resources(&self) -> Vec<GroupResource> {
        self.inner.core.state().resources()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.inner.core.state();
        Stats {
            objects: state.objects,
            object_bytes: state.object_bytes,
            ring_events: state.ring.len(),
            ring_superseded_bytes: state.ring.bytes(),
            watched_streams: state.ring.watched_stream_count(),
            revision: state.applied,
        }
    }

    /// Finishes what is queued, closes the engine, ends all watches. Blocks until done. Reads still work.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// Ends everything with the sequencer, also when it panics: nobody must wait for answers or changes that
/// never come.
struct EndOnDrop {
    core: Arc<Core>,
    queue: Arc<Queue>,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.queue.abandon();
        self.core.close();
    }
}
