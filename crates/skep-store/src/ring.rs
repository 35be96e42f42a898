//! The recent changes, shared by all watchers.
//!
//! Changes are kept once, per resource in revision order, and dropped oldest first. A watcher holds only a
//! position. So that a tenant's watchers do not look at other tenants' changes, a *stream* is kept for each
//! (resource, tenant) and each (resource, tenant, indexed field = value) **that somebody watches**: a list of
//! the same shared changes, and a signal. What nobody watches costs nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use skep_base::{GroupResource, Revision, Scope, TenantName};
use tokio::sync::Notify;

use crate::txn::Change;

/// How much the ring remembers.
#[derive(Clone, Copy, Debug)]
pub struct RingLimits {
    /// Most changes. Fewer, and watchers that reconnect after a burst must list anew.
    pub events: usize,
    /// Most bytes of values that only the ring still holds. This memory comes on top of the live objects.
    pub superseded_bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        RingLimits { events: 64 * 1024, superseded_bytes: 16 * 1024 * 1024 }
    }
}

/// What a watcher is woken for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StreamKey {
    Resource(GroupResource),
    Tenant(GroupResource, TenantName),
    Term(GroupResource, TenantName, Box<str>, Box<str>),
}

impl StreamKey {
    /// The narrowest stream that holds all changes of a scope.
    pub(crate) fn of(scope: &Scope, index: Option<(&str, &str)>) -> StreamKey {
        let resource = scope.resource().clone();
        match (scope.tenant(), index) {
            (None, _) => StreamKey::Resource(resource),
            (Some(t), None) => StreamKey::Tenant(resource, t.clone()),
            (Some(t), Some((field, value))) => {
                StreamKey::Term(resource, t.clone(), field.into(), value.into())
            }
        }
    }
}

#[derive(Default)]
struct Stream {
    events: VecDeque<Arc<Change>>,
    /// Every change of the stream after this revision is here or was dropped later; older ones are only
    /// with the resource.
    since: Revision,
    /// The newest change that was dropped.
    dropped: Revision,
    signal: Arc<Notify>,
    watchers: usize,
}

/// All of it. Lives under the store's lock.
pub(crate) struct Ring {
    limits: RingLimits,
    all: VecDeque<Arc<Change>>,
    resources: FxHashMap<GroupResource, VecDeque<Arc<Change>>>,
    dropped: FxHashMap<GroupResource, Revision>,
    streams: FxHashMap<StreamKey, Stream>,
    /// How many of the streams are of a term: while there are none, indexed fields are not even looked at.
    terms: usize,
    superseded_bytes: usize,
    /// Nothing before this is remembered for any resource: where the ring began.
    began: Revision,
}

/// The changes that a watcher asked for are no longer remembered.
pub(crate) struct Lost;

/// The first event of a deque that is newer than a revision.
fn newer(events: &VecDeque<Arc<Change>>, than: Revision) -> usize {
    events.partition_point(|e| e.revision <= than)
}

fn superseded(change: &Change) -> usize {
    // The fixed part stands for the change itself and its places in the lists.
    const CHANGE_BYTES: usize = 160;
    CHANGE_BYTES + change.prev.as_ref().map_or(0, |v| v.size_bytes())
}

impl Ring {
    pub(crate) fn new(limits: RingLimits, began: Revision) -> Ring {
        Ring {
            limits,
            all: VecDeque::new(),
            resources: FxHashMap::default(),
            dropped: FxHashMap::default(),
            streams: FxHashMap::default(),
            terms: 0,
            superseded_bytes: 0,
            began,
        }
    }

    /// While loading: nothing up to this revision is remembered.
    pub(crate) fn begin_after(&mut self, revision: Revision) {
        self.began = self.began.max(revision);
    }

    /// Where the ring begins.
    pub(crate) fn began(&self) -> Revision {
        self.began
    }

    /// The oldest revision from which all changes of a resource are remembered.
    pub(crate) fn floor(&self, resource: &GroupResource) -> Revision {
        self.dropped.get(resource).copied().unwrap_or(self.began)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn superseded_bytes(&self) -> usize {
        self.superseded_bytes
    }

    pub(crate) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Appends a change; the signals of those whom it concerns are added to `wake`.
    pub(crate) fn push(&mut self, change: &Arc<Change>, wake: &mut Vec<Arc<Notify>>) {
        let resource = &change.key.resource;
        self.superseded_bytes += superseded(change);
        self.all.push_back(change.clone());
        match self.resources.get_mut(resource) {
            Some(events) => events.push_back(change.clone()),
            None => {
                self.resources.insert(resource.clone(), VecDeque::from([change.clone()]));
            }
        }
        if !self.streams.is_empty() {
            let whole = StreamKey::Resource(resource.clone());
            if let Some(stream) = self.streams.get(&whole) {
                // This stream's changes are the resource's own list.
                wake.push(stream.signal.clone());
            }
            self.push_stream(&StreamKey::Tenant(resource.clone(), change.key.tenant.clone()), change, wake);
            if self.terms > 0 {
                self.push_terms(change, wake);
            }
        }
        while self.all.len() > self.limits.events || self.superseded_bytes > self.limits.superseded_bytes {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    fn push_stream(&mut self, key: &StreamKey, change: &Arc<Change>, wake: &mut Vec<Arc<Notify>>) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.events.push_back(change.clone());
            wake.push(stream.signal.clone());
        }
    }

    fn push_terms(&mut self, change: &Arc<Change>, wake: &mut Vec<Arc<Notify>>) {
        let terms = |v: &Option<Arc<crate::Value>>| -> Vec<(Box<str>, Box<str>)> {
            v.iter().flat_map(|v| v.attrs().indexed()).map(|(f, v)| (f.into(), v.into())).collect()
        };
        let mut all = terms(&change.prev);
        for term in terms(&change.value) {
            if !all.contains(&term) {
                all.push(term);
            }
        }
        for (field, value) in all {
            let key = StreamKey::Term(change.key.resource.clone(), change.key.tenant.clone(), field, value);
            self.push_stream(&key, change, wake);
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(change) = self.all.pop_front() else { return false };
        let resource = &change.key.resource;
        self.superseded_bytes -= superseded(&change);
        if let Some(events) = self.resources.get_mut(resource) {
            events.pop_front();
        }
        self.dropped.insert(resource.clone(), change.revision);
        let drop_from = |stream: Option<&mut Stream>| {
            if let Some(stream) = stream
                && stream.events.front().is_some_and(|e| e.revision == change.revision)
            {
                stream.events.pop_front();
                stream.dropped = change.revision;
            }
        };
        if self.streams.is_empty() {
            return true;
        }
        drop_from(self.streams.get_mut(&StreamKey::Tenant(resource.clone(), change.key.tenant.clone())));
        if self.terms > 0 {
            for value in [&change.prev, &change.value].into_iter().flatten() {
                for (field, v) in value.attrs().indexed() {
                    let key =
                        StreamKey::Term(resource.clone(), change.key.tenant.clone(), field.into(), v.into());
                    drop_from(self.streams.get_mut(&key));
                }
            }
        }
        true
    }

    /// Joins a stream; it begins now if nobody watched it so far.
    pub(crate) fn join(&mut self, key: &StreamKey, now: Revision) -> Arc<Notify> {
        let terms = &mut self.terms;
        let stream = self.streams.entry(key.clone()).or_insert_with(|| {
            if matches!(key, StreamKey::Term(..)) {
                *terms += 1;
            }
            Stream { since: now, dropped: now, ..Stream::default() }
        });
        stream.watchers += 1;
        stream.signal.clone()
    }

    /// Leaves a stream; it ends with its last watcher.
    pub(crate) fn leave(&mut self, key: &StreamKey) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.watchers -= 1;
            if stream.watchers == 0 {
                self.streams.remove(key);
                if matches!(key, StreamKey::Term(..)) {
                    self.terms -= 1;
                }
            }
        }
    }

    /// Calls `visit` with the changes of a joined stream after a revision, in order, until it says `false`.
    /// For a position before the stream began, the changes are the whole resource's: the caller filters.
    pub(crate) fn read(
        &self,
        key: &StreamKey,
        resource: &GroupResource,
        after: Revision,
        visit: &mut dyn FnMut(&Arc<Change>) -> bool,
    ) -> Result<(), Lost> {
        let own = match key {
            StreamKey::Resource(_) => None,
            _ => self.streams.get(key).filter(|s| after >= s.since),
        };
        let (events, dropped) = match own {
            Some(stream) => (Some(&stream.events), stream.dropped),
            None => (self.resources.get(resource), self.floor(resource)),
        };
        if after < dropped {
            return Err(Lost);
        }
        if let Some(events) = events {
            for event in events.range(newer(events, after)..) {
                if !visit(event) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The changes of a resource after a revision, in order.
    pub(crate) fn after(
        &self,
        resource: &GroupResource,
        after: Revision,
    ) -> Result<impl Iterator<Item = &Arc<Change>>, Lost> {
        if after < self.floor(resource) {
            return Err(Lost);
        }
        Ok(self.resources.get(resource).into_iter().flat_map(move |e| e.range(newer(e, after)..)))
    }

    /// Wakes everybody: the store closes.
    pub(crate) fn wake_all(&self) {
        for stream in self.streams.values() {
            stream.signal.notify_waiters();
        }
    }
}
