//! The manager: informers, queue, workers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use skep_client::informer::AnyInformer;
use skep_client::{Client, Event, Outcome, Resource, Selection, Tenants, Work, WorkQueue};
use tokio::task::JoinSet;

use super::{Controller, Kind, Next, Setup};

/// Keys that are worked on at once. Most of a `sync` is waiting for the API server's disk, together with others; what counts
/// is that enough writes are under way to fill its groups.
const WORKERS: usize = 96;

/// How often everything is looked through without a reason. Nothing should depend on it.
const RESYNC_PERIOD: Duration = Duration::from_secs(30 * 60);

/// How long work under way may go on at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// After so many failures in a row a key is worth a warning, and then each time they have doubled.
const WARN_AFTER: u32 = 8;

/// A tenant, as far as the queue must know it.
#[derive(Deserialize)]
struct TenantView {
    #[serde(default)]
    spec: TenantSpec,
}

#[derive(Default, Deserialize)]
struct TenantSpec {
    weight: Option<u32>,
}

impl Kind for TenantView {
    const RESOURCE: Resource = Resource::new("tenancy.skep.io", "v1", "tenants");
    fn selection() -> Selection {
        Selection::all(Self::RESOURCE, Tenants::Own)
    }
}

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
    busy_us: AtomicU64,
}

/// Runs controllers. See the crate's documentation.
pub struct Manager {
    setup: Setup,
    controllers: FxHashMap<&'static str, Arc<dyn Controller>>,
    counts: Arc<BTreeMap<&'static str, Counts>>,
}

/// Reads a manager's figures while it runs.
#[derive(Clone)]
pub struct Figures {
    queue: WorkQueue,
    informers: Arc<[Arc<dyn AnyInformer>]>,
    counts: Arc<BTreeMap<&'static str, Counts>>,
}

impl Figures {
    /// Whether all informers are complete.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.informers.iter().all(|i| i.has_synced())
    }

    /// In Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        self.queue.metrics().render(out);
        // Writing to a string cannot fail.
        let _ = self.write(out);
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# TYPE skep_controller_syncs_total counter")?;
        for (name, counts) in self.counts.iter() {
            for (result, n) in [("done", &counts.done), ("failed", &counts.failed)] {
                let n = n.load(Ordering::Relaxed);
                writeln!(
                    out,
                    "skep_controller_syncs_total{{controller=\"{name}\",result=\"{result}\"}} {n}"
                )?;
            }
        }
        writeln!(out, "# TYPE skep_controller_busy_seconds_total counter")?;
        for (name, counts) in self.counts.iter() {
            let busy_s = Duration::from_micros(counts.busy_us.load(Ordering::Relaxed)).as_secs_f64();
            writeln!(out, "skep_controller_busy_seconds_total{{controller=\"{name}\"}} {busy_s}")?;
        }
        for (metric, kind) in [
            ("objects", "gauge"),
            ("events_total", "counter"),
            ("lists_total", "counter"),
            ("watches_total", "counter"),
            ("failures_total", "counter"),
            ("unreadable_total", "counter"),
        ] {
            writeln!(out, "# TYPE skep_informer_{metric} {kind}")?;
            for (n, informer) in self.informers.iter().enumerate() {
                let counters = informer.counters();
                let value = match metric {
                    "objects" => informer.len() as u64,
                    "events_total" => counters.events.load(Ordering::Relaxed),
                    "lists_total" => counters.lists.load(Ordering::Relaxed),
                    "watches_total" => counters.watches.load(Ordering::Relaxed),
                    "failures_total" => counters.failures.load(Ordering::Relaxed),
                    _ => counters.unreadable.load(Ordering::Relaxed),
                };
                let resource = &informer.selection().resource;
                writeln!(out, "skep_informer_{metric}{{resource=\"{resource}\",n=\"{n}\"}} {value}")?;
            }
        }
        Ok(())
    }
}

impl Manager {
    /// A manager of the controllers that `make` makes.
    #[must_use]
    pub fn new(client: Client, make: impl FnOnce(&mut Setup) -> Vec<Arc<dyn Controller>>) -> Manager {
        let mut setup = Setup::new(client);
        let queue = setup.queue.clone();
        let tenants = setup.informer::<TenantView>();
        tenants.on_event(move |event| {
            let Ok(tenant) = skep_base::TenantName::new(&event.object().key.name) else { return };
            let weight = match event {
                Event::Deleted(_) => None,
                Event::Added(t) | Event::Changed { new: t, .. } => t.spec.weight,
            };
            queue.set_weight(&tenant, weight);
        });
        let controllers: FxHashMap<_, _> = make(&mut setup).into_iter().map(|c| (c.name(), c)).collect();
        let counts = Arc::new(controllers.keys().map(|name| (*name, Counts::default())).collect());
        Manager { setup, controllers, counts }
    }

    /// What tells how it goes.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            queue: self.setup.queue.clone(),
            informers: self.setup.informers.clone().into(),
            counts: self.counts.clone(),
        }
    }

    /// Runs until `shutdown` ends; then lets work under way finish.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Manager { setup, controllers, counts } = self;
        let Setup { queue, started, writer, informers, background, resyncs, .. } = setup;
        let begun = Instant::now();
        // Dropped at the end, and everything in it with it.
        let mut tasks = JoinSet::new();
        for informer in &informers {
            tasks.spawn(informer.run());
        }
        if let Some(writer) = writer {
            tasks.spawn(writer.run());
        }
        let timers = queue.clone();
        tasks.spawn(async move { timers.run_timers().await });
        tokio::pin!(shutdown);
        let synced = async {
            for informer in &informers {
                informer.synced().await;
            }
        };
        tokio::select! {
            () = synced => {}
            () = &mut shutdown => return,
        }
        started.store(true, Ordering::Relaxed);
        tracing::info!(
            controllers = controllers.len(),
            informers = informers.len(),
            objects = informers.iter().map(|i| i.len()).sum::<usize>(),
            took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "controllers ready"
        );
        for task in background {
            tasks.spawn(task);
        }
        let controllers = Arc::new(controllers);
        for _ in 0..WORKERS {
            tasks.spawn(work(queue.clone(), controllers.clone(), counts.clone()));
        }
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + RESYNC_PERIOD, RESYNC_PERIOD);
        loop {
            tokio::select! {
                _ = resync.tick() => resyncs.iter().for_each(|all| all()),
                () = &mut shutdown => break,
            }
        }
        queue.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, queue.drained()).await.is_err() {
            tracing::info!("controllers' work that did not end in time is cut");
        }
    }
}

async fn work(
    queue: WorkQueue,
    controllers: Arc<FxHashMap<&'static str, Arc<dyn Controller>>>,
    counts: Arc<BTreeMap<&'static str, Counts>>,
) {
    while let Some(work) = queue.pop().await {
        let begun = Instant::now();
        let outcome = match controllers.get(work.key.controller) {
            Some(controller) => look(controller.as_ref(), &work).await,
            None => {
                tracing::error!(controller = work.key.controller, "there is no such controller");
                Outcome::Done
            }
        };
        if let Some(counts) = counts.get(work.key.controller) {
            let which = if outcome == Outcome::Failed { &counts.failed } else { &counts.done };
            which.fetch_add(1, Ordering::Relaxed);
            let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            counts.busy_us.fetch_add(took_us, Ordering::Relaxed);
        }
        queue.finish(&work, outcome);
    }
}

async fn look(controller: &dyn Controller, work: &Work) -> Outcome {
    // A defect that one object meets must not stop the work on all others.
    match AssertUnwindSafe(controller.sync(&work.key.object)).catch_unwind().await {
        Ok(Ok(Next::Wait)) => Outcome::Done,
        Ok(Ok(Next::After(after))) => Outcome::Again(after),
        Ok(Err(error)) => {
            let stubborn = work.failures >= WARN_AFTER && work.failures.is_power_of_two();
            if stubborn {
                tracing::warn!(
                    controller = controller.name(), object = %work.key.object, failures = work.failures, %error,
                    "an object cannot be dealt with; it is tried again and again"
                );
            } else {
                tracing::debug!(
                    controller = controller.name(), object = %work.key.object, %error,
                    ordinary = error.is_ordinary(), "tried again later"
                );
            }
            Outcome::Failed
        }
        Err(_) => {
            tracing::error!(
                controller = controller.name(), object = %work.key.object,
                "a controller panicked on an object: a defect of this program"
            );
            Outcome::Failed
        }
    }
}
