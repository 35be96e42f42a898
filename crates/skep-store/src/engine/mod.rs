//! What keeps the store's changes when the process ends.
//!
//! An engine is given batches of changes that are already decided (conditions checked, revisions given) and
//! answers when they are durable. [`memory::Memory`] forgets, [`log::Log`] is the embedded one.
//!
//! An engine over etcd has to decide remotely. It fits behind the same trait as the *only writer* of its key
//! space: `load` reads everything at one etcd revision (each value carries its Skep revision), `append` is one
//! etcd transaction per batch, guarded by a fencing key that holds the last Skep revision, so that a second
//! writer's batch fails as a whole and the loser reloads; other API servers follow by etcd's watch and feed
//! what they see to their own memory. `maintain` is etcd's compaction.

pub mod disk;
pub mod log;
pub mod memory;

use std::io;
use std::sync::Arc;

use skep_base::{GroupResource, Key, Revision};

use crate::txn::Change;
use crate::value::Value;

/// Takes what an engine holds, oldest first: all objects of the snapshot, then the changes after it.
pub trait Loader {
    /// An object of the snapshot.
    fn object(&mut self, key: Key, value: Value);
    /// A change after the snapshot, in revision order.
    fn change(&mut self, key: Key, revision: Revision, value: Option<Value>);
}

/// All current objects, read in pieces while writes go on.
pub trait Source: Send + Sync {
    /// The resources that there are.
    fn resources(&self) -> Vec<GroupResource>;
    /// Some objects of a resource behind a key, in order; none at the end.
    fn objects(&self, resource: &GroupResource, after: Option<&Key>, limit: usize) -> Vec<(Key, Arc<Value>)>;
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
    /// Hands over everything that is kept; says the newest revision ever given out.
    ///
    /// # Errors
    /// [`OpenError`]: damage is refused, never skipped.
    fn load(&mut self, loader: &mut dyn Loader) -> Result<Revision, OpenError>;

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
