//! What readers, watchers and the sequencer share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use skep_base::{GroupResource, Revision, Scope};
use smallvec::SmallVec;

use crate::engine::{Cursor, Source};
use crate::ring::{Stream, Wake, stream_key};
use crate::state::{State, TableId};
use crate::txn::Change;
use crate::value::Value;

/// A revision that the store no longer remembers (or does not know yet), or a store that is closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revision is no longer remembered")]
pub struct Expired;

/// The store's memory. One lock guards all of it; nobody holds it while waiting for anything but memory.
#[derive(Debug)]
pub(crate) struct Core {
    state: RwLock<State>,
    /// The newest visible revision, readable without the lock. It is set under the lock before anything
    /// else, so that nobody sees a change whose revision is still in the future here.
    revision: AtomicU64,
    closed: AtomicBool,
}

impl Core {
    pub(crate) fn new(state: State) -> Core {
        let revision = AtomicU64::new(state.applied.0);
        Core { state: RwLock::new(state), revision, closed: AtomicBool::new(false) }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Makes durable changes visible, all at once.
    pub(crate) fn publish(&self, changes: &[Arc<Change>], wake: &mut Wake) {
        let Some(last) = changes.last() else { return };
        let mut state = self.state_mut();
        self.revision.store(last.revision.0, Ordering::Release);
        let tables: SmallVec<[TableId; 64]> = changes.iter().map(|change| state.apply(change)).collect();
        state.ring.publish(tables.into_iter().zip(changes.iter().cloned()), wake);
    }

    /// A watcher's stream and its position there.
    pub(crate) fn subscribe(
        &self,
        scope: &Scope,
        index: Option<(&str, &str)>,
        from: Revision,
    ) -> Result<(Arc<Stream>, u64), Expired> {
        let mut state = self.state_mut();
        let table = state.number(scope.resource());
        if from < state.ring.floor(Some(table)) {
            return Err(Expired);
        }
        let key = stream_key(table, scope, index);
        Ok(state.ring.subscribe(&key, from))
    }

    pub(crate) fn unsubscribe(&self, stream: &Arc<Stream>) {
        self.state_mut().ring.unsubscribe(stream);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.state().ring.wake_all();
    }
}

impl Source for Core {
    fn scan(&self, cursor: &mut Cursor, limit: usize) -> Vec<(Arc<GroupResource>, Arc<Value>)> {
        let state = self.state();
        let mut found = Vec::with_capacity(limit);
        while let Some(table) = state.table(cursor.table) {
            let room = limit - found.len();
            found.extend(table.range(&cursor.span).take(room).map(|v| (table.resource.clone(), v.clone())));
            if found.len() == limit {
                if let Some((_, last)) = found.last() {
                    cursor.span.start_after(last.path_bytes());
                }
                break;
            }
            *cursor = Cursor::at_table(cursor.table + 1);
        }
        found
    }

    fn revision(&self) -> Revision {
        Core::revision(self)
    }

    fn size_bytes(&self) -> usize {
        self.state().object_bytes
    }
}
