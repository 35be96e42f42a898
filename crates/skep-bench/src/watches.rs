//! Many watchers of one busy collection: whether each sees everything, once and in order, and how soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use skep_base::Revision;
use skep_client::{Client, DeleteParams, From, ListParams, RawEvent, WatchParams};

use crate::writes::{config_map, config_maps};
use crate::{BenchError, Figures, Server, failed, load};

/// What is done.
#[derive(Clone, Debug)]
pub struct Watches {
    /// In which namespace.
    pub namespace: String,
    /// How many watches are open.
    pub watchers: usize,
    /// How many updates are made.
    pub writes: usize,
    /// How many of them at a time.
    pub concurrency: usize,
}

/// Watches on one connection: servers allow 100 to 250 requests there.
const PER_CONNECTION: usize = 50;
/// Objects that are written in turn.
const OBJECTS: usize = 64;
/// How long after the last write watchers may need.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(120);

/// What one watcher saw.
#[derive(Default)]
struct Seen {
    events: AtomicUsize,
    /// The sum of all revisions, which tells sets of equal size apart.
    sum: AtomicU64,
    last: AtomicU64,
    disorder: AtomicUsize,
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

fn revision_of(object: &[u8]) -> u64 {
    serde_json::from_slice::<Head>(object)
        .ok()
        .and_then(|h| h.metadata.resource_version.parse().ok())
        .unwrap_or(0)
}

/// Opens the watches, writes, and checks that each watch saw every write.
///
/// # Errors
/// When a request fails, a watch ends early, or misses, repeats or reorders something.
pub async fn watches(server: &Server, options: &Watches) -> Result<Figures, BenchError> {
    let writer = server.client()?;
    let at = config_maps(&options.namespace);
    for i in 0..OBJECTS.min(options.writes) {
        let object = config_map(&format!("skep-bench-{i}"), "");
        writer.create_bytes(&at, object).await.map_err(failed("making what is written"))?;
    }
    let page: skep_client::List<serde_json::Value> = writer
        .list(&at, &ListParams { limit: 1, ..ListParams::default() })
        .await
        .map_err(failed("reading the revision"))?;
    let from = Revision(page.metadata.resource_version.parse().unwrap_or_default());

    let seen: Arc<Vec<Seen>> = Arc::new((0..options.watchers).map(|_| Seen::default()).collect());
    let mut watchers = tokio::task::JoinSet::new();
    let mut client: Option<Client> = None;
    for index in 0..options.watchers {
        if index % PER_CONNECTION == 0 {
            client = Some(server.another()?);
        }
        let Some(client) = client.clone() else { continue };
        let params = WatchParams {
            labels: String::new(),
            fields: String::new(),
            from: From::Revision(from),
            timeout_s: None,
        };
        let mut watch = client.watch(&at, &params, false).await.map_err(failed("opening a watch"))?;
        let seen = seen.clone();
        watchers.spawn(async move {
            let seen = &seen[index];
            // Keeps the connection.
            let _client = client;
            while let Ok(Some(event)) = watch.next_raw().await {
                let RawEvent::Object(_, object) = event else { continue };
                let revision = revision_of(&object);
                if seen.last.swap(revision, Ordering::Relaxed) >= revision {
                    seen.disorder.fetch_add(1, Ordering::Relaxed);
                }
                seen.sum.fetch_add(revision, Ordering::Relaxed);
                seen.events.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    let begun = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let (sum, client, collection) = (written.clone(), writer.clone(), at.clone());
    let one = move |index: usize| {
        let (client, collection, sum) = (client.clone(), collection.clone(), sum.clone());
        async move {
            let name = format!("skep-bench-{}", index % OBJECTS);
            let body = config_map(&name, &index.to_string());
            let answer = client.update_bytes(&collection.name(&name), body).await?;
            sum.fetch_add(revision_of(&answer), Ordering::Relaxed);
            Ok(())
        }
    };
    let (latencies, took) =
        load(options.writes, options.concurrency, one).await.map_err(failed("writing"))?;
    let behind = || seen.iter().filter(|s| s.events.load(Ordering::Relaxed) < options.writes).count();
    let until = Instant::now() + CATCH_UP_WITHIN;
    while behind() > 0 && Instant::now() < until && watchers.len() == options.watchers {
        tokio::time::sleep(Duration::from_millis(1)).await;
        while watchers.try_join_next().is_some() {}
    }
    let all = begun.elapsed();
    let sum = written.load(Ordering::Relaxed);
    let wrong = seen
        .iter()
        .filter(|s| {
            s.events.load(Ordering::Relaxed) != options.writes
                || s.sum.load(Ordering::Relaxed) != sum
                || s.disorder.load(Ordering::Relaxed) > 0
        })
        .count();
    watchers.shutdown().await;
    for i in 0..OBJECTS.min(options.writes) {
        let name = format!("skep-bench-{i}");
        let removed = writer.remove(&at.clone().name(&name), &DeleteParams::default()).await;
        removed.map_err(failed("cleaning up"))?;
    }
    if wrong > 0 {
        return Err(BenchError::Broken(format!(
            "{wrong} of {} watchers did not see each of {} writes once and in order",
            options.watchers, options.writes
        )));
    }
    let mut figures = Figures::default();
    figures.rate("write", options.writes, took);
    figures.latencies("write", &latencies);
    figures.rate("events", options.writes * options.watchers, all);
    figures.put("last_watcher_behind_last_write_ms", (all - took).as_secs_f64() * 1e3);
    Ok(figures)
}
