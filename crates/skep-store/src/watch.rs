//! Watchers: positions in the ring.

use std::sync::Arc;

use skep_base::{Revision, Scope};
use tokio::sync::Notify;

use crate::ring::StreamKey;
use crate::store::{Expired, Shared};
use crate::txn::Change;

/// Most changes that one call of [`Watcher::next`] returns, so that a watcher far behind does not hold the
/// lock, or a mountain of changes, at once.
pub const WATCH_BATCH: usize = 256;

/// Follows the changes of a scope from a revision on. Costs a position, not a queue: however slow it is,
/// it delays nobody and holds no memory. When it falls out of the ring it is told.
pub struct Watcher {
    shared: Arc<Shared>,
    scope: Scope,
    index: Option<(Box<str>, Box<str>)>,
    stream: StreamKey,
    signal: Arc<Notify>,
    position: Revision,
}

impl Watcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        scope: Scope,
        index: Option<(&str, &str)>,
        from: Revision,
    ) -> Result<Watcher, Expired> {
        let stream = StreamKey::of(&scope, index);
        let signal = {
            let mut inner = shared.inner.write();
            if from < inner.ring.floor(scope.resource()) {
                return Err(Expired);
            }
            let now = inner.revision;
            inner.ring.join(&stream, now)
        };
        let index = index.map(|(f, v)| (f.into(), v.into()));
        Ok(Watcher { shared, scope, index, stream, signal, position: from })
    }

    /// Everything up to here was delivered; a new watch from here misses nothing.
    #[must_use]
    pub fn position(&self) -> Revision {
        self.position
    }

    /// The next changes, without waiting; empty when there are none yet.
    ///
    /// # Errors
    /// [`Expired`] when changes were dropped before this watcher read them.
    pub fn try_next(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        let mut found = Vec::new();
        let inner = self.shared.inner.read();
        let mut all = true;
        let mut last = self.position;
        let (scope, index) = (&self.scope, &self.index);
        inner
            .ring
            .read(&self.stream, scope.resource(), self.position, &mut |change| {
                if found.len() == WATCH_BATCH {
                    all = false;
                    return false;
                }
                last = change.revision;
                if scope.contains(&change.key) && concerns(change, index.as_ref()) {
                    found.push(change.clone());
                }
                true
            })
            .map_err(|_| Expired)?;
        self.position = if all { inner.revision } else { last };
        Ok(found)
    }

    /// The next changes, at least one. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// [`Expired`] when changes were dropped before this watcher read them, and when the store closes.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        loop {
            // The signal is armed before looking, so that a change in between is not missed.
            let signal = self.signal.clone();
            let notified = signal.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let found = self.try_next()?;
            if !found.is_empty() {
                return Ok(found);
            }
            if self.shared.is_closed() {
                return Err(Expired);
            }
            notified.await;
        }
    }
}

fn concerns(change: &Change, index: Option<&(Box<str>, Box<str>)>) -> bool {
    let Some((field, value)) = index else { return true };
    [&change.prev, &change.value].into_iter().flatten().any(|v| v.attrs().field(field) == Some(value))
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.inner.write().ring.leave(&self.stream);
    }
}
