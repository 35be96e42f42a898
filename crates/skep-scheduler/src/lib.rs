//! The scheduler role.
//!
//! **Job.** Find a node for every pod that has none, among the nodes of its own tenant, and bind it there.
//! **State.** Informers' lean copies; for each tenant with pods to place its cluster as `skep-sched` sees it, and a
//! queue.
//! **Tasks.** One per informer, one per tenant that has nodes or pods, one per binding under way, one for events.
//! **Must not know.** How nodes are chosen (`skep-sched`), how requests travel (`skep-client`).
//!
//! Tenants share nothing here and are scheduled in parallel; each gives way after a few decisions. Against a server
//! without tenants there is just one.

mod feed;
mod metrics;
mod queue;
mod view;
mod worker;
mod write;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skep_base::TenantName;
use skep_client::record::{Recorder, Writer};
use skep_client::{Client, Event, Tenants};
use tokio::sync::{mpsc, watch};

use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::worker::{News, Worker};

pub use crate::metrics::Figures;
pub use skep_sched::{Weight, Weights};

/// Pods that name another scheduler are left alone.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// When the server cannot be asked what it has.
const RETRY: Duration = Duration::from_secs(1);

/// What workers share.
pub(crate) struct Shared {
    client: Client,
    /// How much each rule counts that prefers nodes: the same for all tenants.
    weights: Weights,
    feed: OnceLock<(Feed, bool)>,
    synced: watch::Sender<bool>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    workers: Mutex<FxHashMap<TenantName, mpsc::UnboundedSender<News>>>,
    /// Tenants that have pods to bind, or bindings under way.
    binding_tenants: AtomicUsize,
}

impl Shared {
    fn feed(&self) -> Option<&Feed> {
        self.feed.get().map(|(feed, _)| feed)
    }

    fn whose(&self, tenant: &TenantName) -> Tenants {
        match self.feed.get() {
            Some((_, true)) => Tenants::Own,
            _ => Tenants::One(tenant.clone()),
        }
    }

    async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.synced.subscribe().wait_for(|done| *done).await;
    }

    /// Gives news to a tenant's worker. One is made only if `needed`: a new worker reads everything from the
    /// informers' copies.
    fn tell(self: &Arc<Self>, tenant: &TenantName, news: News, needed: bool) {
        let mut workers = self.workers.lock();
        if let Some(worker) = workers.get(tenant) {
            // A worker that ends takes itself out under this lock.
            let _ = worker.send(news);
        } else if needed {
            let (sender, receiver) = mpsc::unbounded_channel();
            let worker = Worker::new(tenant.clone(), self.clone(), receiver, sender.downgrade());
            workers.insert(tenant.clone(), sender);
            self.metrics.tenants.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(worker.run());
        }
    }

    /// Takes out a worker that has nothing to do. `false` when something has come in.
    fn retire(&self, tenant: &TenantName, news: &mut mpsc::UnboundedReceiver<News>) -> bool {
        let mut workers = self.workers.lock();
        if !news.is_empty() {
            return false;
        }
        workers.remove(tenant);
        self.metrics.tenants.fetch_sub(1, Ordering::Relaxed);
        true
    }
}

/// The scheduler.
pub struct Scheduler {
    shared: Arc<Shared>,
    events: Writer,
}

impl Scheduler {
    /// For what a client sees: all tenants, or one cluster.
    #[must_use]
    pub fn new(client: Client, weights: Weights) -> Scheduler {
        let (recorder, events) = Recorder::new(&client, SCHEDULER_NAME);
        let shared = Shared {
            client,
            weights,
            feed: OnceLock::new(),
            synced: watch::Sender::new(false),
            recorder,
            metrics: Arc::default(),
            workers: Mutex::default(),
            binding_tenants: AtomicUsize::new(0),
        };
        Scheduler { shared: Arc::new(shared), events }
    }

    /// What it tells about itself.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures(self.shared.metrics.clone())
    }

    /// Schedules until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Scheduler { shared, events } = self;
        tokio::select! {
            () = work(&shared) => {}
            () = events.run() => {}
            () = shutdown => {}
        }
        // Without senders workers end, and with them what they share.
        shared.workers.lock().clear();
    }
}

async fn work(shared: &Arc<Shared>) {
    let feed = loop {
        match Feed::new(&shared.client).await {
            Ok(feed) => break feed,
            Err(error) => {
                tracing::warn!(%error, "what the server has cannot be found out, it will be asked again")
            }
        }
        tokio::time::sleep(RETRY).await;
    };
    let (feed, own) = shared.feed.get_or_init(|| feed);
    tracing::info!(tenants = if *own { "one" } else { "all" }, "scheduling");
    let teller = Arc::downgrade(shared);
    feed.listen(&{
        let teller = teller.clone();
        Arc::new(move |tenant, apply| {
            if let Some(shared) = teller.upgrade() {
                shared.tell(tenant, News::Other(apply), false);
            }
        })
    });
    let nodes = teller.clone();
    feed.nodes.on_event(move |event| {
        if let Some(shared) = nodes.upgrade() {
            shared.tell(&event.object().key.tenant, News::Node(event.clone()), false);
        }
    });
    feed.pods.on_event(move |event| {
        if let Some(shared) = teller.upgrade() {
            let pod = event.object();
            let needed = !matches!(event, Event::Deleted(_)) && pod.node.is_none() && !pod.terminal;
            shared.tell(&pod.key.tenant, News::Pod(event.clone()), needed);
        }
    });
    let informers = feed.informers();
    let mut running: FuturesUnordered<_> = informers.iter().map(|i| i.run()).collect();
    let synced = async {
        for informer in &informers {
            informer.synced().await;
        }
        shared.metrics.ready.store(true, Ordering::Relaxed);
        shared.synced.send_replace(true);
        tracing::info!("all pods and nodes are known");
        std::future::pending::<()>().await
    };
    tokio::select! {
        Some(()) = running.next() => {}
        () = synced => {}
    }
}
