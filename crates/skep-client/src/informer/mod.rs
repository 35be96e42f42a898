//! Informers: a copy of a collection, kept current, holding of each object only what a role reads.
//!
//! An informer lists (as a stream of single objects, or in pages where a server knows no such streams), then watches
//! from the list's revision on. It resumes after a break at the last revision it has seen, and lists anew when
//! the server has forgotten that one. Its users read the copy, and have handlers called for each change.
//!
//! # Views
//! `V` is any struct that reads the fields it needs off an object (`serde::Deserialize`). What is not in it is
//! never kept. Strings that recur (labels, node names, images) should be [`skep_base::SharedStr`]: equal ones share
//! their memory. The address, uid and revision are beside the view, in [`Object`].
//!
//! # Own writes
//! What a write answers can be put into the copy at once ([`Informer::record`], [`Informer::forget`]), so that the next look at
//! it sees the write even when the watch has not brought it yet.
//!
//! # Misuse
//! Handlers run on the informer's own task, one after another: they must only note what is to be done, never wait. An
//! object got from an informer is shared and may be old: decide on it, but write with its `resourceVersion` or uid as a
//! condition.

mod reflect;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_base::{Revision, TenantName};
use tokio::sync::watch as signal;

pub use store::{IndexFn, Object};
use store::{Put, Store};

use crate::client::{Client, DeleteParams, Patch, encode};
use crate::error::Error;
use crate::object::{Head, ObjectKey};
use crate::path::{ObjectPath, Resource, Tenants};
use crate::watch::Change;

/// What an informer can hold: every lean struct that can be read off an object.
pub trait View: DeserializeOwned + Send + Sync + 'static {}
impl<T: DeserializeOwned + Send + Sync + 'static> View for T {}

/// A change of the copy.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// An object that was not there before. At the start, every object is.
    Added(Arc<Object<V>>),
    /// A newer state of the same object.
    Changed {
        /// Before.
        old: Arc<Object<V>>,
        /// Now.
        new: Arc<Object<V>>,
    },
    /// It is gone; this is the last state known.
    Deleted(Arc<Object<V>>),
}

impl<V> Event<V> {
    /// The object as it is now, or was last.
    #[must_use]
    pub fn object(&self) -> &Arc<Object<V>> {
        match self {
            Event::Added(o) | Event::Deleted(o) | Event::Changed { new: o, .. } => o,
        }
    }
}

type Handler<V> = Box<dyn Fn(&Event<V>) + Send + Sync>;

/// What an informer is to hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Of which resource.
    pub resource: Resource,
    /// Whose.
    pub tenants: Tenants,
    /// In which namespace; empty for all.
    pub namespace: String,
    /// A label selector; empty for all.
    pub labels: String,
    /// A field selector; empty for all.
    pub fields: String,
    /// Only metadata is asked for: for views that read nothing else.
    pub metadata_only: bool,
}

impl Selection {
    /// All objects of a resource in somebody's view.
    #[must_use]
    pub fn all(resource: Resource, tenants: impl Into<Tenants>) -> Selection {
        Selection {
            resource,
            tenants: tenants.into(),
            namespace: String::new(),
            labels: String::new(),
            fields: String::new(),
            metadata_only: false,
        }
    }

    /// Only in one namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Selection {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Only with these labels.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Selection {
        selector.clone_into(&mut self.labels);
        self
    }

    /// Only with these fields: `spec.nodeName=n1`.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Selection {
        selector.clone_into(&mut self.fields);
        self
    }

    /// Ask for metadata only.
    #[must_use]
    pub fn metadata_only(mut self) -> Selection {
        self.metadata_only = true;
        self
    }
}

/// What an informer has done so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Objects received with a change.
    pub events: AtomicU64,
    /// Whole lists.
    pub lists: AtomicU64,
    /// Watches opened.
    pub watches: AtomicU64,
    /// Watches and lists that failed.
    pub failures: AtomicU64,
    /// Objects that could not be read as the view.
    pub unreadable: AtomicU64,
}

struct Copy<V> {
    store: Store<V>,
    /// Objects that this process has deleted itself, until the watch says so: their uid, by key. Later news of
    /// them are old.
    forgotten: FxHashMap<ObjectKey, Box<str>>,
}

struct Inner<V> {
    client: Client,
    selection: Selection,
    copy: RwLock<Copy<V>>,
    keep: Option<Keep<V>>,
    /// Held while the copy is changed and handlers are told, so that they see changes in their order.
    handlers: Mutex<Vec<Handler<V>>>,
    /// Up to where changes have been received.
    position: signal::Sender<Revision>,
    synced: signal::Sender<bool>,
    started: AtomicBool,
    counters: Counters,
}

/// See the [module](self). Clones share the copy.
pub struct Informer<V> {
    inner: Arc<Inner<V>>,
}

impl<V> Clone for Informer<V> {
    fn clone(&self) -> Informer<V> {
        Informer { inner: self.inner.clone() }
    }
}

/// Collects indexes before an informer is made.
pub struct Builder<V> {
    client: Client,
    selection: Selection,
    indexes: Vec<(&'static str, IndexFn<V>)>,
    keep: Option<Keep<V>>,
}

type Keep<V> = Box<dyn Fn(&Object<V>) -> bool + Send + Sync>;

impl<V: View> Builder<V> {
    /// Holds only some of the objects, by what the view says. Of the others nothing is told but their end.
    #[must_use]
    pub fn keep(mut self, which: impl Fn(&Object<V>) -> bool + Send + Sync + 'static) -> Builder<V> {
        self.keep = Some(Box::new(which));
        self
    }

    /// Adds an index: under which values an object is to be found.
    #[must_use]
    pub fn index(
        mut self,
        name: &'static str,
        values: impl Fn(&Object<V>, &mut dyn FnMut(&str)) + Send + Sync + 'static,
    ) -> Builder<V> {
        self.indexes.push((name, Box::new(values)));
        self
    }

    /// Makes the informer. It does nothing until [`Informer::run`].
    #[must_use]
    pub fn build(self) -> Informer<V> {
        Informer {
            inner: Arc::new(Inner {
                client: self.client,
                selection: self.selection,
                copy: RwLock::new(Copy { store: Store::new(self.indexes), forgotten: FxHashMap::default() }),
                keep: self.keep,
                handlers: Mutex::default(),
                position: signal::Sender::new(Revision::ZERO),
                synced: signal::Sender::new(false),
                started: AtomicBool::new(false),
                counters: Counters::default(),
            }),
        }
    }
}

impl<V: View> Informer<V> {
    /// Begins the making of an informer.
    #[must_use]
    pub fn builder(client: &Client, selection: Selection) -> Builder<V> {
        Builder { client: client.clone(), selection, indexes: Vec::new(), keep: None }
    }

    /// What it holds.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.inner.selection
    }

    /// Has every change told to `handler`. What is there already is told at once, as added.
    ///
    /// The handler runs while others wait: it must be quick, and must not call this informer's own
    /// `on_event`, `record` or `forget`.
    pub fn on_event(&self, handler: impl Fn(&Event<V>) + Send + Sync + 'static) {
        let mut handlers = self.inner.handlers.lock();
        let present: Vec<_> = self.inner.copy.read().store.all().cloned().collect();
        for object in present {
            handler(&Event::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Whether the first list is complete.
    #[must_use]
    pub fn has_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Returns when the first list is complete.
    pub async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.inner.synced.subscribe().wait_for(|done| *done).await;
    }

    /// Up to where changes have been received.
    #[must_use]
    pub fn position(&self) -> Revision {
        *self.inner.position.borrow()
    }

    /// Returns when all changes up to a revision have been received. A collection in which nothing happens learns
    /// of its position only now and then (by bookmarks): wait only for revisions of this collection's own objects.
    pub async fn reached(&self, revision: Revision) {
        // The sender lives as long as `self`.
        let _ = self.inner.position.subscribe().wait_for(|at| *at >= revision).await;
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.copy.read().store.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object<V>>> {
        self.inner.copy.read().store.get(key).cloned()
    }

    /// All objects of a tenant, in no particular order.
    #[must_use]
    pub fn of_tenant(&self, tenant: &TenantName) -> Vec<Arc<Object<V>>> {
        self.inner.copy.read().store.tenant(tenant)
    }

    /// All objects of a tenant that an index holds under a value, in no particular order. Nothing, for an
    /// index that does not exist.
    #[must_use]
    pub fn by_index(&self, index: &str, tenant: &TenantName, value: &str) -> Vec<Arc<Object<V>>> {
        let copy = self.inner.copy.read();
        debug_assert!(copy.store.group(index, tenant, value).is_some(), "there is no index {index:?}");
        copy.store.group(index, tenant, value).map_or_else(Vec::new, |g| g.cloned().collect())
    }

    /// Calls a function with every object of all tenants. The copy cannot change meanwhile, so be quick.
    pub fn for_each(&self, mut f: impl FnMut(&Arc<Object<V>>)) {
        self.inner.copy.read().store.all().for_each(&mut f);
    }

    /// Counters, for metrics.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Takes up an object that a write of this process has answered with, unless the watch has brought it, or
    /// something newer, already. Handlers are told as for any change. The object must be one that the informer's
    /// selectors pick: they are not looked at here.
    ///
    /// # Errors
    /// When the answer is not an object that the view can be read off.
    pub fn record(&self, tenant: &TenantName, answer: &[u8]) -> Result<(), Error> {
        let object = self.decode(answer, Some(tenant))?;
        if Head::read(answer)?.is_over() {
            // The write was the object's end. What its answer says of its revision is later than what the watch says of
            // that end, so it must not come back by it.
            self.forget(&object.key, &object.uid);
            return Ok(());
        }
        let mut handlers = self.inner.handlers.lock();
        // What is not newer than what was received: it is there, or it is gone again.
        if object.revision > self.position() {
            self.upsert(&mut handlers, object);
        }
        Ok(())
    }

    /// Takes out an object that this process has deleted and that is gone. Handlers are told.
    pub fn forget(&self, key: &ObjectKey, uid: &str) {
        let handlers = self.inner.handlers.lock();
        let old = {
            let mut copy = self.inner.copy.write();
            match copy.store.get(key) {
                Some(object) if &*object.uid == uid => {}
                _ => return,
            }
            copy.forgotten.insert(key.clone(), uid.into());
            copy.store.remove(key)
        };
        if let Some(old) = old {
            tell(&handlers, &Event::Deleted(old));
        }
    }

    /// Creates an object and takes up the answer, so that the next look at the copy sees it. The path must name the
    /// tenant.
    ///
    /// # Errors
    /// As for [`Client::create`].
    pub async fn create(&self, at: &ObjectPath, object: &impl Serialize) -> Result<Bytes, Error> {
        let answer = self.inner.client.create_bytes(at, encode(object)?).await?;
        self.record_at(at, &answer)?;
        Ok(answer)
    }

    /// Replaces an object (or its status, by the path's subresource) and takes up the answer.
    ///
    /// # Errors
    /// As for [`Client::update`].
    pub async fn update(&self, at: &ObjectPath, object: &impl Serialize) -> Result<Bytes, Error> {
        let answer = self.inner.client.update_bytes(at, encode(object)?).await?;
        self.record_at(at, &answer)?;
        Ok(answer)
    }

    /// Changes an object (or its status) and takes up the answer.
    ///
    /// # Errors
    /// As for [`Client::patch`].
    pub async fn patch(&self, at: &ObjectPath, patch: &Patch) -> Result<Bytes, Error> {
        let answer = self.inner.client.patch_bytes(at, patch).await?;
        self.record_at(at, &answer)?;
        Ok(answer)
    }

    /// Deletes an object that is in the copy, on the condition that it is still that one, and takes it out, or takes up its
    /// last state. An object that is gone already counts as deleted.
    ///
    /// # Errors
    /// As for [`Client::remove`].
    pub async fn remove(&self, object: &Object<V>, params: &DeleteParams) -> Result<(), Error> {
        let key = &object.key;
        let at = self.inner.selection.resource.at(&key.tenant).namespace(&key.namespace).name(&key.name);
        let mut params = params.clone();
        params.preconditions.get_or_insert_default().uid = Some(object.uid.to_string());
        match self.inner.client.remove(&at, &params).await {
            Ok(removed) => match removed.pending() {
                Some(answer) => self.record(&key.tenant, answer),
                None => {
                    self.forget(key, &object.uid);
                    Ok(())
                }
            },
            Err(e) if e.is_not_found() => {
                self.forget(key, &object.uid);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn record_at(&self, at: &ObjectPath, answer: &[u8]) -> Result<(), Error> {
        match at.tenants() {
            Tenants::One(tenant) => self.record(tenant, answer),
            Tenants::Own => self.record(self.inner.client.home(), answer),
            Tenants::All => Err(Error::Answer("the view across tenants is read-only".to_owned())),
        }
    }

    /// Reads an object off an event, unless the copy has it already as it is there: the answer to a write of this process was
    /// faster. Then its key and revision.
    fn decode_newer(
        &self,
        change: Change,
        bytes: &[u8],
    ) -> Result<Result<Object<V>, (ObjectKey, Revision)>, Error> {
        let head = Head::read(bytes)?;
        let key = self.key(&head, None)?;
        if change != Change::Deleted {
            let copy = self.inner.copy.read();
            let known =
                copy.store.get(&key).is_some_and(|o| o.revision >= head.revision() && *o.uid == *head.uid);
            if known {
                return Ok(Err((key, head.revision())));
            }
        }
        Self::read(bytes, &head, key).map(Ok)
    }

    fn decode(&self, bytes: &[u8], tenant: Option<&TenantName>) -> Result<Object<V>, Error> {
        let head = Head::read(bytes)?;
        let key = self.key(&head, tenant)?;
        Self::read(bytes, &head, key)
    }

    fn key(&self, head: &Head<'_>, tenant: Option<&TenantName>) -> Result<ObjectKey, Error> {
        let tenant = match (tenant, &self.inner.selection.tenants) {
            (Some(tenant), _) | (None, Tenants::One(tenant)) => tenant.clone(),
            (None, Tenants::Own) => self.inner.client.home().clone(),
            (None, Tenants::All) => {
                let name = head.tenant().ok_or_else(|| {
                    Error::Answer(format!("the object {} does not say whose it is", head.name))
                })?;
                self.tenant_name(name)?
            }
        };
        Ok(ObjectKey {
            tenant,
            namespace: skep_base::SharedStr::new(&head.namespace).into(),
            name: head.name.as_ref().into(),
        })
    }

    fn read(bytes: &[u8], head: &Head<'_>, key: ObjectKey) -> Result<Object<V>, Error> {
        let view = serde_json::from_slice(bytes)
            .map_err(|e| Error::Answer(format!("{} {}: {e}", key.tenant, key.name)))?;
        Ok(Object { key, uid: head.uid.as_ref().into(), revision: head.revision(), view })
    }

    /// The name, sharing its memory with the copy's where the tenant has an object already.
    fn tenant_name(&self, name: &str) -> Result<TenantName, Error> {
        TenantName::shared(name).map_err(|e| Error::Answer(e.to_string()))
    }

    fn upsert(&self, handlers: &mut Vec<Handler<V>>, object: Object<V>) {
        if self.inner.keep.as_ref().is_some_and(|keep| !keep(&object)) {
            // One that was held and is not to be any more leaves without a word: it has not ended.
            let mut copy = self.inner.copy.write();
            if copy.store.get(&object.key).is_some_and(|old| old.revision < object.revision) {
                copy.store.remove(&object.key);
            }
            return;
        }
        let object = Arc::new(object);
        let put = {
            let mut copy = self.inner.copy.write();
            match copy.forgotten.get(&object.key) {
                Some(uid) if *uid == object.uid => return,
                // Another object of this name: the one forgotten is history.
                Some(_) => drop(copy.forgotten.remove(&object.key)),
                None => {}
            }
            copy.store.put(object)
        };
        match put {
            None => {}
            Some(Put { old: None, new }) => tell(handlers, &Event::Added(new)),
            Some(Put { old: Some(old), new }) if old.uid == new.uid => {
                tell(handlers, &Event::Changed { old, new });
            }
            Some(Put { old: Some(old), new }) => {
                tell(handlers, &Event::Deleted(old));
                tell(handlers, &Event::Added(new));
            }
        }
    }

    fn gone(&self, handlers: &[Handler<V>], last: Object<V>) {
        let (key, uid) = (&last.key, &*last.uid);
        let old = {
            let mut copy = self.inner.copy.write();
            if copy.forgotten.get(key).is_some_and(|f| **f == *uid) {
                copy.forgotten.remove(key);
            }
            match copy.store.get(key) {
                Some(object) if &*object.uid == uid => copy.store.remove(key),
                _ => None,
            }
        };
        match old {
            Some(old) => tell(handlers, &Event::Deleted(old)),
            None if self.inner.keep.as_ref().is_some_and(|keep| !keep(&last)) => {
                tell(handlers, &Event::Deleted(Arc::new(last)));
            }
            None => {}
        }
    }

    fn advance(&self, revision: Revision) {
        self.inner.position.send_if_modified(|at| {
            let newer = revision > *at;
            *at = revision.max(*at);
            newer
        });
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) {
        counter(&self.inner.counters).fetch_add(1, Ordering::Relaxed);
    }
}

fn tell<V>(handlers: &[Handler<V>], event: &Event<V>) {
    handlers.iter().for_each(|h| h(event));
}

/// What a manager needs of an informer, whatever its view.
pub trait AnyInformer: Send + Sync + 'static {
    /// Runs it until the future is dropped.
    fn run(&self) -> futures::future::BoxFuture<'static, ()>;
    /// Whether the first list is complete.
    fn has_synced(&self) -> bool;
    /// Returns when the first list is complete.
    fn synced(&self) -> futures::future::BoxFuture<'static, ()>;
    /// What it holds.
    fn selection(&self) -> &Selection;
    /// How many objects it holds.
    fn len(&self) -> usize;
    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Counters.
    fn counters(&self) -> &Counters;
}

impl<V: View> AnyInformer for Informer<V> {
    fn run(&self) -> futures::future::BoxFuture<'static, ()> {
        let informer = self.clone();
        Box::pin(async move { Informer::run(&informer).await })
    }
    fn has_synced(&self) -> bool {
        Informer::has_synced(self)
    }
    fn synced(&self) -> futures::future::BoxFuture<'static, ()> {
        let informer = self.clone();
        Box::pin(async move { Informer::synced(&informer).await })
    }
    fn selection(&self) -> &Selection {
        &self.inner.selection
    }
    fn len(&self) -> usize {
        Informer::len(self)
    }
    fn counters(&self) -> &Counters {
        &self.inner.counters
    }
}
