//! Watching: a cursor over a stream of the shared ring.

use std::sync::Arc;

use skep_base::{Revision, Scope};

use crate::core::{Core, Expired};
use crate::ring::{FellOut, Stream};
use crate::state::Span;
use crate::txn::Change;
use crate::value::path_of;

/// Most changes that one call returns: enough to make the call cheap, few enough that a slow reader does
/// not hold much alive.
pub const WATCH_BATCH: usize = 128;
/// Most changes outside of the scope that one call skips before it lets others run.
const WATCH_SKIP_MAX: usize = 4096;

/// What of its stream a watcher passes on.
#[derive(Debug)]
struct Filter {
    /// Unless the stream has exactly the scope.
    span: Option<Span>,
    /// Unless the stream is that of the term.
    term: Option<(Box<str>, Box<str>)>,
    /// Nothing up to this revision.
    from: Revision,
}

impl Filter {
    fn passes(&self, change: &Change) -> bool {
        change.revision > self.from
            && self.span.as_ref().is_none_or(|span| span.contains(&path_of(&change.key)))
            && self.term.as_ref().is_none_or(|(field, value)| {
                [&change.value, &change.prev].into_iter().flatten().any(|v| v.attrs().has_term(field, value))
            })
    }
}

/// A watch: all changes of a scope after a revision, in order, each once.
///
/// With an index term, a change is delivered if the object had the term before it or has it after.
#[derive(Debug)]
pub struct Watcher {
    core: Arc<Core>,
    stream: Arc<Stream>,
    position: u64,
    seen: Revision,
    filter: Filter,
}

impl Watcher {
    pub(crate) fn new(
        core: Arc<Core>,
        scope: &Scope,
        index: Option<(&str, &str)>,
        from: Revision,
    ) -> Result<Watcher, Expired> {
        let (stream, position) = core.subscribe(scope, index, from)?;
        let exact_stream = matches!(scope, Scope::AllTenants(_) | Scope::Tenant(..));
        let filter = Filter {
            span: (!exact_stream).then(|| Span::of(scope)),
            term: index.filter(|_| scope.tenant().is_none()).map(|(f, v)| (f.into(), v.into())),
            from,
        };
        Ok(Watcher { core, stream, position, seen: from, filter })
    }

    /// Waits for changes, and returns some in revision order, at least one. Cancel-safe: a change is
    /// either returned or still to come.
    ///
    /// # Errors
    /// [`Expired`] when changes were dropped before this watcher read them, and when the store closes. It
    /// stays so.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        let Watcher { core, stream, position, seen, filter } = self;
        loop {
            // Before looking, so that what comes after the look is not missed.
            let grown = stream.grown.notified();
            if stream.tail() != *position {
                let mut out = Vec::new();
                take(stream, position, seen, filter, &mut out)?;
                if !out.is_empty() {
                    return Ok(out);
                }
                if stream.tail() != *position {
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            if core.is_closed() {
                return Err(Expired);
            }
            grown.await;
        }
    }

    /// What is there now: possibly nothing.
    ///
    /// # Errors
    /// As [`Watcher::next`].
    pub fn try_next(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        let mut out = Vec::new();
        while out.is_empty() && self.stream.tail() != self.position {
            take(&self.stream, &mut self.position, &mut self.seen, &self.filter, &mut out)?;
        }
        if out.is_empty() && self.core.is_closed() {
            return Err(Expired);
        }
        Ok(out)
    }

    /// Everything of the scope up to this revision has been returned: what a bookmark says, and where a
    /// new watch can go on. Moves with the store's revision while the scope is idle.
    #[must_use]
    pub fn position(&self) -> Revision {
        // Under the lock nothing is half published: a stream that is read out has been read up to here.
        let state = self.core.state();
        if self.stream.tail() == self.position { state.applied.max(self.seen) } else { self.seen }
    }

    /// Waits until changes were dropped before this watcher read them: for one that is stuck in sending to a
    /// slow client.
    pub async fn expired(&self) {
        loop {
            let shrunk = self.stream.shrunk.notified();
            if self.stream.has_lost(self.position) {
                return;
            }
            shrunk.await;
        }
    }
}

fn take(
    stream: &Stream,
    position: &mut u64,
    seen: &mut Revision,
    filter: &Filter,
    out: &mut Vec<Arc<Change>>,
) -> Result<(), Expired> {
    let mut skipped = 0;
    while out.is_empty() && skipped < WATCH_SKIP_MAX {
        let before = *position;
        let read = stream.read(position, WATCH_BATCH, |change| {
            if filter.passes(change) {
                out.push(change.clone());
            }
            *seen = change.revision.max(*seen);
        });
        if let Err(FellOut) = read {
            return Err(Expired);
        }
        if *position == before {
            break;
        }
        skipped += (*position - before) as usize;
    }
    Ok(())
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.core.unsubscribe(&self.stream);
    }
}
