//! Watches: the changes of a collection, as they happen.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::Response;
use rand::Rng;
use serde_json::json;
use skep_base::{Key, Revision, Scope};
use skep_store::Change;

use crate::objects::ObjectWatcher;
use tokio::time::{Instant, Sleep};

use crate::body::Body;
use crate::output::{Item, Output};
use crate::rest::Call;
use crate::rest::read;
use crate::rest::select::Selection;
use crate::status::ApiError;

/// A watch without `timeoutSeconds` ends after a random time between this and twice this, so that
/// watches that began together do not all come back together. Upstream's `--min-request-timeout`.
const MIN_TIMEOUT_S: u64 = 1800;

/// How often an idle watch is told how far it has got, when it asked for bookmarks: it can then resume
/// from a recent revision instead of listing again. Upstream's period.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// Events are gathered into chunks of about this size when there is a backlog.
const CHUNK_BYTES: usize = 64 * 1024;

struct State {
    watcher: ObjectWatcher,
    selection: Selection,
    output: Output,
    bookmarks: bool,
    first: bool,
    initial: Option<Initial>,
    end: std::pin::Pin<Box<Sleep>>,
    bookmark: std::pin::Pin<Box<Sleep>>,
    ended: bool,
    shutdown: tokio::sync::watch::Receiver<bool>,
}

struct Initial {
    items: std::vec::IntoIter<Item>,
    revision: Revision,
    announce_end: bool,
}

/// Opens a watch.
///
/// # Errors
/// 400 for bad selectors and versions. A revision that is too old is answered, as upstream does, by a
/// watch whose only event is the error.
pub fn watch(call: Call) -> Result<Response<Body>, ApiError> {
    let selection = Selection::of(&call)?;
    let o = &call.options;
    let wanted = read::revision(&o.resource_version)?;
    read::fresh_enough(&call.app, wanted)?;
    let send_initial = match o.send_initial_events {
        Some(true) => {
            if o.version_match != Some(crate::request::Match::NotOlderThan) {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if !o.bookmarks {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    "allowWatchBookmarks: Forbidden: sendInitialEvents requires setting allowWatchBookmarks to true",
                ));
            }
            true
        }
        Some(false) => false,
        None => wanted == Revision::ZERO,
    };
    let output = call.output()?;
    let scope = watch_scope(&call, &selection);
    let index = read::index_of(&selection);
    let (from, initial) = if send_initial {
        match read::collect(&call, &selection, None, None, 0) {
            Ok(page) => {
                let announce_end = o.send_initial_events == Some(true);
                (
                    page.revision,
                    Some(Initial { items: page.items.into_iter(), revision: page.revision, announce_end }),
                )
            }
            Err(read::Gone) => return gone(&call, &output),
        }
    } else if wanted == Revision::ZERO {
        (call.app.objects.revision(), None)
    } else {
        (wanted, None)
    };
    let Ok(watcher) = call.app.objects.watch(scope, index, from) else {
        return gone(&call, &output);
    };
    let timeout_s = match o.timeout_s {
        Some(s) if s > 0 => s,
        _ => rand::rng().random_range(MIN_TIMEOUT_S..2 * MIN_TIMEOUT_S),
    };
    let state = State {
        watcher,
        selection,
        output,
        bookmarks: o.bookmarks,
        first: true,
        initial,
        end: Box::pin(tokio::time::sleep(Duration::from_secs(timeout_s))),
        bookmark: Box::pin(tokio::time::sleep(BOOKMARK_PERIOD)),
        ended: false,
        shutdown: call.app.shutdown.subscribe(),
    };
    let chunks = stream::unfold(state, |mut s| async move { s.next_chunk().await.map(|c| (c, s)) });
    call.respond(200, "application/json", Body::Stream(Box::pin(chunks)))
}

fn watch_scope(call: &Call, selection: &Selection) -> Scope {
    let namespaced = call.kind.info().namespaced;
    match (&call.tenant, selection.name()) {
        (Some(tenant), Some(name)) if !namespaced || !call.path.namespace.is_empty() => {
            let namespace = if namespaced { call.path.namespace.as_str() } else { "" };
            Scope::Object(Key::new(call.kind.resource().clone(), tenant.clone(), namespace, name))
        }
        _ => call.scope(),
    }
}

fn too_old() -> ApiError {
    ApiError::expired(
        "too old resource version: the server no longer remembers the changes since then; list again",
    )
}

fn gone(call: &Call, output: &Output) -> Result<Response<Body>, ApiError> {
    call.respond(200, output.content_type(), Body::from(error_event(&too_old())))
}

fn error_event(error: &ApiError) -> Vec<u8> {
    let mut line = br#"{"type":"ERROR","object":"#.to_vec();
    line.extend_from_slice(&error.to_json());
    line.extend_from_slice(b"}\n");
    line
}

impl State {
    async fn next_chunk(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = Vec::new();
        if let Some(initial) = &mut self.initial {
            while out.len() < CHUNK_BYTES {
                let Some(item) = initial.items.next() else { break };
                let first = std::mem::take(&mut self.first);
                if let Err(e) = write_event(&self.output, "ADDED", &item, None, first, &mut out) {
                    return Some(self.fail(&e));
                }
            }
            if initial.items.as_slice().is_empty() {
                let (revision, announce_end) = (initial.revision, initial.announce_end);
                self.initial = None;
                if announce_end {
                    self.write_bookmark(revision, true, &mut out);
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
        loop {
            match self.wait().await {
                Woken::Shutdown => {
                    self.ended = true;
                    return None;
                }
                Woken::End => {
                    self.ended = true;
                    if !self.bookmarks {
                        return None;
                    }
                    self.write_bookmark(self.watcher.position(), false, &mut out);
                }
                Woken::Bookmark => {
                    self.bookmark.as_mut().reset(Instant::now() + BOOKMARK_PERIOD);
                    self.write_bookmark(self.watcher.position(), false, &mut out);
                }
                Woken::Changes(Err(skep_store::Expired)) => return Some(self.fail(&too_old())),
                Woken::Changes(Ok(changes)) => {
                    for change in &changes {
                        if let Err(e) = self.write_change(change, &mut out) {
                            return Some(self.fail(&e));
                        }
                    }
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        tokio::select! {
            biased;
            () = crate::app::ended(&mut self.shutdown) => Woken::Shutdown,
            () = self.end.as_mut() => Woken::End,
            changes = self.watcher.next() => Woken::Changes(changes),
            () = self.bookmark.as_mut(), if self.bookmarks => Woken::Bookmark,
        }
    }

    fn fail(&mut self, error: &ApiError) -> Bytes {
        self.ended = true;
        error_event(error).into()
    }

    fn write_bookmark(&self, revision: Revision, initial_events_end: bool, out: &mut Vec<u8>) {
        let event = json!({"type": "BOOKMARK", "object": self.output.bookmark(revision, initial_events_end)});
        out.extend_from_slice(event.to_string().as_bytes());
        out.push(b'\n');
    }

    /// An object that comes into the selection is added, one that leaves it is deleted.
    fn write_change(&mut self, change: &Change, out: &mut Vec<u8>) -> Result<(), ApiError> {
        let selected = |v: &std::sync::Arc<skep_store::Value>| self.selection.matches(&change.key, v);
        let before = change.prev.as_ref().filter(|v| selected(v));
        let after = change.value.as_ref().filter(|v| selected(v));
        let (kind, value, revision) = match (before, after) {
            (None, None) => return Ok(()),
            (None, Some(v)) => ("ADDED", v, None),
            (Some(_), Some(v)) => ("MODIFIED", v, None),
            // A deletion shows the object as it was, at the revision of its end.
            (Some(v), None) => ("DELETED", v, Some(change.revision)),
        };
        let item = Item { tenant: change.key.tenant.clone(), value: value.clone() };
        let first = std::mem::take(&mut self.first);
        write_event(&self.output, kind, &item, revision, first, out)
    }
}

/// What ends the waiting of a watch.
enum Woken {
    Shutdown,
    End,
    Bookmark,
    Changes(Result<Vec<std::sync::Arc<Change>>, skep_store::Expired>),
}

fn write_event(
    output: &Output,
    kind: &str,
    item: &Item,
    revision: Option<Revision>,
    first: bool,
    out: &mut Vec<u8>,
) -> Result<(), ApiError> {
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","object":"#);
    output.event(item, revision, first, out)?;
    out.extend_from_slice(b"}\n");
    Ok(())
}
