//! The reflector: the state machine that keeps an informer's copy current.
//!
//! ```text
//! List ──► Streaming ──(all sent)──► Watching ──(break)──► Resume ──► Watching
//!   ▲  └─► Pages ─────(last page)──────┘                       │
//!   └───────────────(the revision is forgotten)───────────────┘
//! ```
//! Every failure waits with backoff and jitter before the next attempt.

use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;
use serde::Deserialize;
use serde_json::value::RawValue;
use skep_base::Revision;

use super::{Informer, View, tell};
use crate::backoff::Backoff;
use crate::client::{From, List, ListParams, WatchParams};
use crate::error::{Error, ErrorKind};
use crate::object::ObjectKey;
use crate::path::ObjectPath;
use crate::watch::{Change, RawEvent, Watch};

/// The first wait after a failure, and the longest. Upstream waits up to 30 s; a control plane of one binary is
/// back sooner, and jitter spreads its clients.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// A watch that has lived this long was a good one: what ends it is no reason to wait.
const GOOD_WATCH: Duration = Duration::from_secs(5);

/// Objects on a page, where lists come in pages: some megabytes.
const PAGE: u32 = 2000;

/// After so many events in a row others get their turn: a body that is always ready never yields by itself.
const EVENTS_PER_TURN: u32 = 128;

/// After so many failures in a row the log says so, and then each time they have doubled.
const WARN_AFTER: u32 = 4;

/// Where a reflector is.
pub(super) enum State {
    /// Nothing is known, or it is too old.
    List,
    /// A watch sends all objects, one by one.
    Streaming(Watch, Seen),
    /// The server knows no such streams: a list in pages.
    Pages,
    /// The copy is complete up to the position; changes come in.
    Watching(Watch, Instant),
    /// The watch has ended; the copy is good up to the position.
    Resume,
}

/// What a list has shown so far, when there was something before: what it does not show is gone.
pub(super) struct Seen {
    keys: FxHashSet<ObjectKey>,
    needed: bool,
}

impl Seen {
    fn note(&mut self, key: &ObjectKey) {
        if self.needed {
            self.keys.insert(key.clone());
        }
    }
}

/// What to do after a step that failed.
struct Failed {
    next: State,
    error: Error,
}

impl<V: View> Informer<V> {
    /// Keeps the copy current until the future is dropped. To be called once.
    pub async fn run(&self) {
        let again = self.inner.started.swap(true, std::sync::atomic::Ordering::SeqCst);
        debug_assert!(!again, "an informer runs once");
        let at = self
            .inner
            .selection
            .resource
            .at(self.inner.selection.tenants.clone())
            .namespace(&self.inner.selection.namespace);
        let mut backoff = Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF);
        let mut streams = true;
        let mut state = State::List;
        let mut in_a_row = 0_u32;
        loop {
            state = match self.step(&at, state, &mut streams, &mut backoff).await {
                Ok(next) => {
                    if matches!(next, State::Watching(..)) {
                        in_a_row = 0;
                    }
                    next
                }
                Err(Failed { next, error }) => {
                    self.count(|c| &c.failures);
                    in_a_row += 1;
                    if in_a_row >= WARN_AFTER && in_a_row.is_power_of_two() {
                        tracing::warn!(
                            resource = %self.inner.selection.resource, failures = in_a_row, %error,
                            "what an informer holds gets old: it cannot list or watch"
                        );
                    }
                    let wait = backoff.next_wait().max(match error.kind() {
                        ErrorKind::TooManyRequests { retry_after } => retry_after.unwrap_or_default(),
                        _ => Duration::ZERO,
                    });
                    tracing::debug!(
                        resource = %self.inner.selection.resource, %error,
                        wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "informer tries again"
                    );
                    tokio::time::sleep(wait).await;
                    next
                }
            };
        }
    }

    async fn step(
        &self,
        at: &ObjectPath,
        state: State,
        streams: &mut bool,
        backoff: &mut Backoff,
    ) -> Result<State, Failed> {
        match state {
            State::List if *streams => {
                self.count(|c| &c.lists);
                match self.open(at, From::InitialEvents).await {
                    Ok(watch) => Ok(State::Streaming(watch, self.seen())),
                    Err(error) if error.kind() == ErrorKind::Invalid => {
                        *streams = false;
                        Ok(State::Pages)
                    }
                    Err(error) => Err(Failed { next: State::List, error }),
                }
            }
            State::List => {
                self.count(|c| &c.lists);
                Ok(State::Pages)
            }
            State::Streaming(mut watch, mut seen) => match self.receive(&mut watch, Some(&mut seen)).await {
                Ok(Some(revision)) => {
                    self.complete(&seen, revision);
                    backoff.reset();
                    Ok(State::Watching(watch, Instant::now()))
                }
                Ok(None) => Err(Failed {
                    next: State::List,
                    error: Error::Answer("the stream ended before all objects were sent".to_owned()),
                }),
                Err(error) => Err(Failed { next: State::List, error }),
            },
            State::Pages => match self.pages(at).await {
                Ok(()) => Ok(State::Resume),
                Err(error) => Err(Failed { next: State::List, error }),
            },
            State::Resume => match self.open(at, From::Revision(self.position())).await {
                Ok(watch) => Ok(State::Watching(watch, Instant::now())),
                Err(error) if error.kind() == ErrorKind::Gone => Ok(State::List),
                Err(error) => Err(Failed { next: State::Resume, error }),
            },
            State::Watching(mut watch, begun) => {
                let end = self.receive(&mut watch, None).await;
                let good = begun.elapsed() > GOOD_WATCH;
                if good {
                    backoff.reset();
                }
                match end {
                    Err(error) if error.kind() == ErrorKind::Gone => {
                        tracing::info!(
                            resource = %self.inner.selection.resource,
                            "informer lists anew: it has fallen behind what the server remembers"
                        );
                        Ok(State::List)
                    }
                    // What cannot be understood will not be understood the next time either: only a list gets past it.
                    Err(error @ Error::Answer(_)) => Err(Failed { next: State::List, error }),
                    Err(error) => Err(Failed { next: State::Resume, error }),
                    Ok(_) if good => Ok(State::Resume),
                    Ok(_) => Err(Failed {
                        next: State::Resume,
                        error: Error::Answer("the watch ended at once".to_owned()),
                    }),
                }
            }
        }
    }

    async fn open(&self, at: &ObjectPath, from: From) -> Result<Watch, Error> {
        let selection = &self.inner.selection;
        self.count(|c| &c.watches);
        let params = WatchParams {
            labels: selection.labels.clone(),
            fields: selection.fields.clone(),
            from,
            timeout_s: None,
        };
        self.inner.client.watch(at, &params, selection.metadata_only).await
    }

    fn seen(&self) -> Seen {
        Seen { keys: FxHashSet::default(), needed: !self.is_empty() }
    }

    /// Takes up events. With `seen`, returns at the end of the initial events, with their revision; without, when the
    /// watch ends.
    async fn receive(
        &self,
        watch: &mut Watch,
        mut seen: Option<&mut Seen>,
    ) -> Result<Option<Revision>, Error> {
        let mut in_a_row = 0;
        while let Some(event) = watch.next_raw().await? {
            match event {
                RawEvent::Object(change, bytes) => {
                    self.count(|c| &c.events);
                    self.apply(change, &bytes, seen.as_deref_mut());
                }
                RawEvent::Bookmark { revision, initial_events_end: true } if seen.is_some() => {
                    return Ok(Some(revision));
                }
                RawEvent::Bookmark { revision, .. } if seen.is_none() => self.advance(revision),
                RawEvent::Bookmark { .. } => {}
            }
            in_a_row += 1;
            if in_a_row == EVENTS_PER_TURN {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(None)
    }

    fn apply(&self, change: Change, bytes: &[u8], seen: Option<&mut Seen>) {
        let object = match self.decode_newer(change, bytes) {
            Ok(Ok(object)) => object,
            Ok(Err((key, revision))) => {
                match seen {
                    Some(seen) => seen.note(&key),
                    None => self.advance(revision),
                }
                return;
            }
            Err(error) => {
                // The others are worth more than this one, and a defect in a view must show.
                self.count(|c| &c.unreadable);
                tracing::warn!(resource = %self.inner.selection.resource, %error, "an object cannot be read");
                return;
            }
        };
        let revision = object.revision;
        let listing = seen.is_some();
        if let Some(seen) = seen {
            seen.note(&object.key);
        }
        let mut handlers = self.inner.handlers.lock();
        match change {
            Change::Added | Change::Modified => self.upsert(&mut handlers, object),
            Change::Deleted => self.gone(&handlers, object),
        }
        // A list's objects come in the order of their names: they say nothing of what else has been received.
        if !listing {
            self.advance(revision);
        }
    }

    /// A list is complete: what it did not show, and was not written since, is gone.
    fn complete(&self, seen: &Seen, revision: Revision) {
        let handlers = self.inner.handlers.lock();
        if seen.needed {
            let mut gone = Vec::new();
            self.for_each(|o| {
                if o.revision <= revision && !seen.keys.contains(&o.key) {
                    gone.push(o.key.clone());
                }
            });
            for key in gone {
                let old = self.inner.copy.write().store.remove(&key);
                if let Some(old) = old {
                    tell(&handlers, &super::Event::Deleted(old));
                }
            }
        }
        self.inner.copy.write().forgotten.clear();
        self.advance(revision);
        self.inner.synced.send_replace(true);
    }

    async fn pages(&self, at: &ObjectPath) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Item(Box<RawValue>);
        let selection = &self.inner.selection;
        let mut params = ListParams {
            labels: selection.labels.clone(),
            fields: selection.fields.clone(),
            limit: PAGE,
            ..ListParams::default()
        };
        let mut seen = self.seen();
        loop {
            let bytes = self.inner.client.list_bytes(at, &params, selection.metadata_only).await?;
            let page: List<Item> =
                serde_json::from_slice(&bytes).map_err(|e| Error::Answer(format!("a list: {e}")))?;
            for item in &page.items {
                self.count(|c| &c.events);
                self.apply(Change::Added, item.0.get().as_bytes(), Some(&mut seen));
            }
            params.continue_token = page.metadata.continue_token;
            if params.continue_token.is_empty() {
                let revision = Revision::parse(&page.metadata.resource_version)
                    .ok_or_else(|| Error::Answer("a list has no revision".to_owned()))?;
                self.complete(&seen, revision);
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }
}
