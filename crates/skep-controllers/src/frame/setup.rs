//! What a controller is given when it is made.

use std::any::{Any, TypeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use rustc_hash::FxHashMap;
use skep_client::informer::AnyInformer;
use skep_client::record::{Recorder, Writer};
use skep_client::{Client, Event, Informer, Level, ObjectKey, WorkKey, WorkQueue};

use super::Kind;

/// Adds keys of one controller to the queue. Clones are the same.
#[derive(Clone)]
pub struct Enqueue {
    controller: &'static str,
    queue: WorkQueue,
    /// Before all informers are complete, everything looks new: it is only looked through.
    started: Arc<AtomicBool>,
}

impl Enqueue {
    /// The object is to be looked at.
    pub fn add(&self, object: &ObjectKey, level: Level) {
        let level = if self.started.load(Ordering::Relaxed) { level } else { Level::SyncAll };
        self.queue.add(self.key(object), level);
    }

    /// The object is to be looked at after a while.
    pub fn add_after(&self, object: &ObjectKey, level: Level, after: Duration) {
        self.queue.add_after(self.key(object), level, after);
    }

    /// The object that an event is about is to be looked at, as urgently as the event is.
    pub fn event<V>(&self, event: &Event<V>) {
        self.add(&event.object().key, Enqueue::level(event));
    }

    /// How urgent an event is.
    #[must_use]
    pub fn level<V>(event: &Event<V>) -> Level {
        match event {
            Event::Added(_) => Level::Add,
            Event::Changed { .. } => Level::Update,
            Event::Deleted(_) => Level::Delete,
        }
    }

    fn key(&self, object: &ObjectKey) -> WorkKey {
        WorkKey { controller: self.controller, object: object.clone() }
    }
}

/// Where a controller's writes go: the client and the event recorder, under the controller's name.
#[derive(Clone)]
pub struct Writes {
    /// The client.
    pub client: Client,
    /// Tells people what was done.
    pub recorder: Recorder,
}

/// Collects what the controllers of one manager need.
pub struct Setup {
    pub(super) client: Client,
    pub(super) queue: WorkQueue,
    pub(super) started: Arc<AtomicBool>,
    recorder: Recorder,
    pub(super) writer: Option<Writer>,
    shared: FxHashMap<TypeId, Box<dyn Any + Send + Sync>>,
    pub(super) informers: Vec<Arc<dyn AnyInformer>>,
    pub(super) background: Vec<BoxFuture<'static, ()>>,
    /// What looks through all keys of a controller.
    pub(super) resyncs: Vec<Box<dyn Fn() + Send + Sync>>,
}

impl Setup {
    pub(super) fn new(client: Client) -> Setup {
        let (recorder, writer) = Recorder::new(&client, "skep-controllers");
        Setup {
            client,
            queue: WorkQueue::new(),
            started: Arc::default(),
            recorder,
            writer: Some(writer),
            shared: FxHashMap::default(),
            informers: Vec::new(),
            background: Vec::new(),
            resyncs: Vec::new(),
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of a view: one for all controllers that name it.
    pub fn informer<V: Kind>(&mut self) -> Informer<V> {
        if let Some(known) = self.shared.get(&TypeId::of::<V>()).and_then(|i| i.downcast_ref::<Informer<V>>())
        {
            return known.clone();
        }
        let informer = V::indexes(Informer::builder(&self.client, V::selection())).build();
        self.shared.insert(TypeId::of::<V>(), Box::new(informer.clone()));
        self.informers.push(Arc::new(informer.clone()));
        informer
    }

    /// What puts a controller's keys into the queue.
    #[must_use]
    pub fn enqueue(&self, controller: &'static str) -> Enqueue {
        Enqueue { controller, queue: self.queue.clone(), started: self.started.clone() }
    }

    /// Where a controller's writes go. `component` is whom its events come from, as upstream names it.
    #[must_use]
    pub fn writes(&self, component: &str) -> Writes {
        Writes { client: self.client.clone(), recorder: self.recorder.component(component) }
    }

    /// Has all objects of an informer looked at by a controller now and then, in case something was missed.
    pub fn resync<V: Kind>(&mut self, controller: &'static str, informer: &Informer<V>) {
        let (enqueue, informer) = (self.enqueue(controller), informer.clone());
        self.resyncs.push(Box::new(move || {
            let mut keys = Vec::with_capacity(informer.len());
            informer.for_each(|o| keys.push(o.key.clone()));
            for key in keys {
                enqueue.add(&key, Level::SyncAll);
            }
        }));
    }

    /// A task of a controller's own, run while the manager works: for what is not about single keys.
    pub fn background(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.push(Box::pin(task));
    }
}
