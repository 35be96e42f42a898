//! What keeps the store's changes when the process ends.
//!
//! An [`Engine`] has one writer, the sequencer of one process: it is given batches of changes that are
//! already decided (conditions checked, revisions given) and answers when they are durable.
//! [`memory::Memory`] forgets, [`log::Log`] is the embedded one.

pub mod disk;
pub mod log;
pub mod memory;
#[cfg(test)]
pub(crate) mod sim;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use skep_base::{GroupResource, Key, Revision};

use crate::ring::Wake;
use crate::state::{Span, State, TableId};
use crate::txn::Change;
use crate::value::{Keys, Value, path_of};

/// Takes what an engine holds into memory: first all objects of a snapshot, then the changes after it, in
/// order. The last of them also go into the ring, so that watches can be resumed across a restart.
pub struct Loader<'a> {
    state: &'a mut State,
    history_from: Revision,
    /// Changes that may go into the ring: no more than it would hold, for all others cost only time.
    history: VecDeque<Loaded>,
    history_bytes: usize,
}

struct Loaded {
    table: TableId,
    revision: Revision,
    value: Option<Arc<Value>>,
    prev: Option<Arc<Value>>,
}

impl Loaded {
    fn superseded_bytes(&self) -> usize {
        self.prev.as_ref().map_or(0, |v| v.size_bytes())
    }
}

impl<'a> Loader<'a> {
    pub(crate) fn new(state: &'a mut State) -> Loader<'a> {
        Loader { state, history_from: Revision::ZERO, history: VecDeque::new(), history_bytes: 0 }
    }

    /// An object of the snapshot.
    pub(crate) fn object(&mut self, resource: &GroupResource, value: Value) {
        let table = self.state.number(resource);
        let value = Arc::new(value);
        self.state.set(table, value.path_bytes(), Some(&value));
    }

    /// The snapshot was complete at this revision. Because it was taken while writes went on, changes up to
    /// the revision follow too, and may take objects back for a moment; when all of them have followed, the
    /// state is exactly that of the revision. They are no history: what was before them is not known.
    pub(crate) fn history_from(&mut self, revision: Revision) {
        self.history_from = revision;
        self.state.ring.start_at(revision);
    }

    /// A change after the snapshot that created or replaced an object.
    pub(crate) fn put(&mut self, resource: &GroupResource, value: Value) {
        let table = self.state.number(resource);
        let value = Arc::new(value);
        let prev = self.state.set(table, value.path_bytes(), Some(&value));
        self.remember(Loaded { table, revision: value.revision(), value: Some(value), prev });
    }

    /// A change after the snapshot that deleted an object.
    pub(crate) fn delete(&mut self, key: &Key, revision: Revision) {
        let table = self.state.number(&key.resource);
        let prev = self.state.set(table, &path_of(key), None);
        self.remember(Loaded { table, revision, value: None, prev });
    }

    fn remember(&mut self, loaded: Loaded) {
        if loaded.revision <= self.history_from {
            return;
        }
        self.history_bytes += loaded.superseded_bytes();
        self.history.push_back(loaded);
        let limits = self.state.ring.limits();
        while self.history.len() > limits.events || self.history_bytes > limits.superseded_bytes {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.superseded_bytes();
            self.state.ring.skip(oldest.table, oldest.revision);
        }
    }

    /// Puts the history into the ring.
    pub(crate) fn finish(self) {
        let Loader { state, history, .. } = self;
        let mut changes = Vec::with_capacity(history.len());
        for Loaded { table, revision, value, prev } in history {
            // A deletion of nothing was never written.
            let Some(object) = value.as_ref().or(prev.as_ref()) else { continue };
            let Some(resource) = state.table(table).map(|t| t.resource.clone()) else { continue };
            let key = Keys::new(&resource).of(object);
            changes.push((table, Arc::new(Change { key, revision, value, prev })));
        }
        state.ring.publish(changes.into_iter(), &mut Wake::default());
    }
}

/// How far a scan of all objects has come.
pub struct Cursor {
    pub(crate) table: TableId,
    pub(crate) span: Span,
}

impl Default for Cursor {
    fn default() -> Self {
        Cursor::at_table(0)
    }
}

impl Cursor {
    pub(crate) fn at_table(table: TableId) -> Cursor {
        Cursor { table, span: Span::everything() }
    }
}

/// All current objects, read in pieces while writes go on.
pub trait Source: Send + Sync {
    /// Some more objects, fewer than `limit` only at the end. Every object that is there from the first call
    /// to the last is returned once, in the state that it has when it is returned.
    fn scan(&self, cursor: &mut Cursor, limit: usize) -> Vec<(Arc<GroupResource>, Arc<Value>)>;
    /// The newest visible revision.
    fn revision(&self) -> Revision;
    /// The size of all values.
    fn size_bytes(&self) -> usize;
}

/// Why an engine cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the same files.
    #[error("{0} is in use by another process: stop it, or choose another data directory")]
    InUse(String),
    /// A file holds what was never written there.
    #[error(
        "{file} is damaged at byte {offset}: {what}. Nothing was changed; restore the directory from a backup"
    )]
    Corrupt {
        /// The file's name.
        file: String,
        /// Where the damage begins.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The files are of another format.
    #[error("{0} was written by another version of the store")]
    Format(String),
    /// The disk did not do what it was asked.
    #[error("{what}: {source}")]
    Io {
        /// What was asked.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a batch is not durable.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full; nothing was written and nothing is damaged, later batches may succeed.
    #[error("the disk is full")]
    NoSpace,
    /// The disk failed: whether the batch survives is unknown, and the engine takes no more.
    #[error("{0}")]
    Failed(String),
}

/// See the module.
pub trait Engine: Send {
    /// Hands over everything that is kept; says the newest revision that is.
    ///
    /// # Errors
    /// [`OpenError`]: damage is refused, never skipped.
    fn load(&mut self, loader: &mut Loader<'_>) -> Result<Revision, OpenError>;

    /// Makes a batch durable, all of it or nothing. Returns when it is on stable storage.
    ///
    /// # Errors
    /// [`AppendError`].
    fn append(&mut self, changes: &[Arc<Change>]) -> Result<(), AppendError>;

    /// Called after every batch: a chance to begin background work. Must return at once.
    fn maintain(&mut self, source: &Arc<dyn Source>);

    /// Ends background work.
    ///
    /// # Errors
    /// When something could not be ended cleanly; everything acknowledged is durable all the same.
    fn close(&mut self) -> Result<(), AppendError>;
}
