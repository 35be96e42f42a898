//! Pods of several groups of tenants at once: how long from asking for a pod until it is bound, or runs.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::json;
use skep_base::{Revision, TenantName};
use skep_client::{Client, From, ListParams, RawEvent, Resource, Watch, WatchParams};
use tokio::sync::mpsc;

use crate::tenants::{create, delete, names};
use crate::{BenchError, Figures, Latencies, Server, failed, load};

/// Tenants that behave alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What their figures are called.
    pub name: String,
    /// How many there are.
    pub tenants: usize,
    /// How many pods each makes.
    pub pods: usize,
    /// How many of them at a time; 1 is one after another.
    pub concurrency: usize,
    /// So often each tenant begins one, in milliseconds, the tenants in turn; without it as soon as one of those at a time is made.
    pub every_ms: Option<u64>,
}

/// A group is not written as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not NAME=TENANTSxPODS@CONCURRENCY, such as quiet=40x10@1, or NAME=TENANTSxPODS@1/MILLISECONDS"
)]
pub struct ParseGroupError(String);

impl FromStr for Group {
    type Err = ParseGroupError;

    fn from_str(text: &str) -> Result<Group, ParseGroupError> {
        let parts = || {
            let (name, rest) = text.split_once('=')?;
            let (tenants, rest) = rest.split_once('x')?;
            let (pods, rest) = rest.split_once('@')?;
            let (concurrency, every) = match rest.split_once('/') {
                Some((concurrency, every)) => (concurrency, Some(every)),
                None => (rest, None),
            };
            let number = |n: &str| n.parse::<usize>().ok().filter(|n| *n > 0);
            let every_ms = match every {
                // What comes at set times comes one by one.
                Some(every) if concurrency == "1" => Some(number(every)? as u64),
                Some(_) => return None,
                None => None,
            };
            Some(Group {
                every_ms,
                name: name.to_owned(),
                tenants: number(tenants)?,
                pods: number(pods)?,
                concurrency: number(concurrency)?,
            })
        };
        parts().filter(|g| !g.name.is_empty()).ok_or_else(|| ParseGroupError(text.to_owned()))
    }
}

/// When a pod is as wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It has a node.
    Bound,
    /// Its phase is Running.
    Running,
}

/// What is done.
#[derive(Clone, Debug)]
pub struct Pods {
    /// Whose pods; all groups begin at once.
    pub groups: Vec<Group>,
    /// Simulated nodes in each tenant; 0 where others see to nodes.
    pub nodes: usize,
    /// Running pods that each tenant has before anything is measured.
    pub fill: usize,
    /// What is waited for.
    pub until: Until,
    /// Whether the tenants, with their pods, are to stay.
    pub keep: bool,
    /// The longest that any step may take.
    pub within: Duration,
}

/// Watches on one connection.
const PER_CONNECTION: usize = 50;

fn pod(name: &str) -> bytes::Bytes {
    let resources = json!({"requests": {"cpu": "10m", "memory": "16Mi"}});
    let container = json!({"name": "c", "image": "registry.example/app:1", "resources": resources});
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"containers": [container]},
    });
    object.to_string().into()
}

/// One tenant's pods, watched.
struct Watched {
    tenant: TenantName,
    client: Client,
    watch: Watch,
}

async fn open(server: &Server, tenants: &[TenantName]) -> Result<Vec<Watched>, BenchError> {
    let mut open = Vec::with_capacity(tenants.len());
    for some in tenants.chunks(PER_CONNECTION) {
        let client = server.another()?;
        for tenant in some {
            let at = Resource::of::<Pod>().at(tenant);
            let page: skep_client::List<serde_json::Value> = client
                .list(&at, &ListParams { limit: 1, ..ListParams::default() })
                .await
                .map_err(failed(format!("reading the pods of {tenant}")))?;
            let from = From::Revision(Revision(page.metadata.resource_version.parse().unwrap_or_default()));
            let params = WatchParams { labels: String::new(), fields: String::new(), from, timeout_s: None };
            let watch = client.watch(&at, &params, false).await;
            let watch = watch.map_err(failed(format!("watching the pods of {tenant}")))?;
            open.push(Watched { tenant: tenant.clone(), client: client.clone(), watch });
        }
    }
    Ok(open)
}

/// Follows a watch and says of each pod when it first was as wanted.
async fn follow(mut watched: Watched, until: Until, seen: mpsc::UnboundedSender<(String, Instant)>) {
    #[derive(Deserialize)]
    struct Seen<'a> {
        #[serde(borrow)]
        metadata: Meta<'a>,
        #[serde(default)]
        spec: Spec,
        #[serde(default)]
        status: Status,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        name: &'a str,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        node_name: String,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Status {
        phase: String,
    }
    let mut known = rustc_hash::FxHashSet::default();
    // Keeps the connection.
    let _client = watched.client;
    while let Ok(Some(event)) = watched.watch.next_raw().await {
        let RawEvent::Object(_, object) = event else { continue };
        let Ok(pod) = serde_json::from_slice::<Seen<'_>>(&object) else { continue };
        let there = match until {
            Until::Bound => !pod.spec.node_name.is_empty(),
            Until::Running => pod.status.phase == "Running",
        };
        if there && known.insert(pod.metadata.name.to_owned()) {
            let name = format!("{}/{}", watched.tenant, pod.metadata.name);
            if seen.send((name, Instant::now())).is_err() {
                return;
            }
        }
    }
}

/// One group's share of a run.
struct Ran {
    created: Latencies,
    creating: Duration,
    until: Latencies,
    all: Duration,
}

/// Makes the pods of one group and waits until all are as wanted.
async fn run(
    server: &Server,
    tenants: &[TenantName],
    prefix: &'static str,
    group: &Group,
    options: &Pods,
) -> Result<Ran, BenchError> {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let mut followers = tokio::task::JoinSet::new();
    for watched in open(server, tenants).await? {
        followers.spawn(follow(watched, options.until, sender.clone()));
    }
    drop(sender);
    let asked: Arc<std::sync::Mutex<FxHashMap<String, Instant>>> = Arc::default();
    let begun = Instant::now();
    let mut makers = tokio::task::JoinSet::new();
    for (turn, tenant) in tenants.iter().enumerate() {
        // Each is a client of its own, as tenants are: nobody waits for another's turn on a connection.
        let (client, tenant, asked) = (server.client()?, tenant.clone(), asked.clone());
        let at = Resource::of::<Pod>().at(&tenant).namespace("default");
        let one = move |index: usize| {
            let name = format!("{prefix}-{index}");
            let (client, at, body) = (client.clone(), at.clone(), pod(&name));
            let key = format!("{tenant}/{name}");
            if let Ok(mut asked) = asked.lock() {
                asked.insert(key, Instant::now());
            }
            async move { client.create_bytes(&at, body).await.map(drop) }
        };
        match group.every_ms.map(Duration::from_millis) {
            None => drop(makers.spawn(load(group.pods, group.concurrency, one))),
            Some(every) => {
                let first = every.mul_f64(turn as f64 / tenants.len() as f64);
                drop(makers.spawn(in_time(group.pods, first, every, one)));
            }
        }
    }
    let mut created = Latencies::default();
    while let Some(made) = makers.join_next().await {
        match made {
            Ok(made) => created.append(made.map_err(failed("making pods"))?.0),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    let creating = begun.elapsed();
    let want = group.pods * tenants.len();
    let deadline = tokio::time::Instant::from_std(begun + options.within);
    let mut until = Latencies::default();
    let mut last = begun;
    while until.len() < want {
        let Ok(Some((name, at))) = tokio::time::timeout_at(deadline, seen.recv()).await else {
            let what = format!(
                "{} of {want} pods of {} are not {:?}",
                want - until.len(),
                group.name,
                options.until
            );
            return Err(BenchError::Late { what, after_s: begun.elapsed().as_secs() });
        };
        let from = asked.lock().ok().and_then(|a| a.get(&name).copied());
        if let Some(from) = from {
            until.add(at.saturating_duration_since(from));
            last = last.max(at);
        }
    }
    followers.shutdown().await;
    Ok(Ran { created, creating, until, all: last - begun })
}

/// Does `count` things one by one, each at its time, and returns how long each took. One that takes longer than until the next's time has that
/// begin late, and not the time of those after it.
async fn in_time<F>(
    count: usize,
    first: Duration,
    every: Duration,
    one: impl Fn(usize) -> F,
) -> Result<(Latencies, Duration), skep_client::Error>
where
    F: Future<Output = Result<(), skep_client::Error>>,
{
    let begun = Instant::now();
    let mut times = tokio::time::interval_at(tokio::time::Instant::now() + first, every);
    let mut latencies = Latencies::default();
    for index in 0..count {
        times.tick().await;
        let asked = Instant::now();
        one(index).await?;
        latencies.add(asked.elapsed());
    }
    Ok((latencies, begun.elapsed()))
}

async fn wait_for_nodes(client: &Client, tenants: &[TenantName], options: &Pods) -> Result<(), BenchError> {
    let begun = Instant::now();
    for tenant in tenants {
        loop {
            let nodes: skep_client::List<serde_json::Value> = client
                .list_all(&Resource::of::<Node>().at(tenant), ListParams::default())
                .await
                .map_err(failed("listing nodes"))?;
            if nodes.items.len() >= options.nodes {
                break;
            }
            if begun.elapsed() > options.within {
                let what = format!("{tenant} has {} of {} nodes", nodes.items.len(), options.nodes);
                return Err(BenchError::Late { what, after_s: options.within.as_secs() });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Does something on threads of its own, as what is another program in the world: clients of one group are not to wait in this
/// program for those of another, nor for the nodes that it simulates, but for the server only.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, BenchError>> + Send + 'static,
) -> Result<T, BenchError> {
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(work),
            Err(error) => {
                Err(BenchError::Broken(format!("there are no threads for another client: {error}")))
            }
        };
        // Nobody waits any more when the measurement has failed elsewhere.
        let _ = done.send(result);
    });
    ended.await.unwrap_or_else(|_| Err(BenchError::Broken("a client broke down".to_owned())))
}

/// Makes the groups' tenants with nodes and pods, measures, and takes all away again.
///
/// # Errors
/// When a request fails, or pods do not become what is waited for in time.
pub async fn pods(server: &Server, options: &Pods) -> Result<Figures, BenchError> {
    let client = server.client()?;
    let mut groups: Vec<(Group, Vec<TenantName>)> = Vec::new();
    for group in &options.groups {
        groups.push((group.clone(), names(&format!("bench-{}", group.name), group.tenants)?));
    }
    let tenants: Vec<TenantName> = groups.iter().flat_map(|(_, t)| t.clone()).collect();
    create(&client, &tenants, 8).await?;
    let mut nodes = skep_sim::Options::nodes(options.nodes);
    nodes.tenants.clone_from(&tenants);
    // What is measured must not be how full nodes are.
    nodes.allocatable.retain(|(name, _)| name != "pods");
    nodes.allocatable.push(("pods".to_owned(), "1000".to_owned()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let simulated = async {
        match options.nodes {
            0 => std::future::pending().await,
            // Its connections are read by the threads that opened them.
            _ => {
                let client = server.client()?;
                apart(async move {
                    // Told or dropped, it is the end.
                    let ran = skep_sim::run(client, nodes, async { drop(stopped.await) }).await;
                    ran.map_err(failed("simulating nodes"))
                })
                .await
            }
        }
    };
    let measured = tokio::select! {
        measured = measure(server, &client, &groups, &tenants, options) => measured,
        ended = simulated => match ended {
            Ok(()) => Err(BenchError::Broken("the simulation of nodes ended".to_owned())),
            Err(error) => Err(error),
        },
    };
    drop(stop);
    if !options.keep {
        delete(&client, &tenants).await?;
    }
    measured
}

async fn measure(
    server: &Server,
    client: &Client,
    groups: &[(Group, Vec<TenantName>)],
    tenants: &[TenantName],
    options: &Pods,
) -> Result<Figures, BenchError> {
    wait_for_nodes(client, tenants, options).await?;
    let mut figures = Figures::default();
    if options.fill > 0 {
        let fill = Group {
            name: "fill".to_owned(),
            tenants: tenants.len(),
            pods: options.fill,
            concurrency: 2,
            every_ms: None,
        };
        let ran = run(server, tenants, "fill", &fill, options).await?;
        figures.rate("fill", ran.until.len(), ran.all);
    }
    let all = groups.iter().map(|(group, tenants)| {
        let (server, tenants, group, options) =
            (server.clone(), tenants.clone(), group.clone(), options.clone());
        apart(async move { run(&server, &tenants, "bench", &group, &options).await })
    });
    for ((group, _), ran) in groups.iter().zip(futures::future::join_all(all).await) {
        let ran = ran?;
        let reached = match options.until {
            Until::Bound => "bound",
            Until::Running => "running",
        };
        figures.rate(&format!("{}_create", group.name), ran.created.len(), ran.creating);
        figures.latencies(&format!("{}_create", group.name), &ran.created);
        figures.rate(&format!("{}_{reached}", group.name), ran.until.len(), ran.all);
        figures.latencies(&format!("{}_until_{reached}", group.name), &ran.until);
    }
    Ok(figures)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read() {
        let group: Group = "quiet=40x10@1".parse().unwrap();
        assert_eq!(
            group,
            Group { name: "quiet".into(), tenants: 40, pods: 10, concurrency: 1, every_ms: None }
        );
        assert_eq!("a=2x3@1/500".parse::<Group>().unwrap().every_ms, Some(500));
        for bad in [
            "a=1x1@2/500",
            "a=1x1@1/0",
            "a=1x1@1/",
            "",
            "x",
            "=1x1@1",
            "a=0x1@1",
            "a=1x1",
            "a=1x1@",
            "a=-1x1@1",
            "a=1@1x1",
        ] {
            let error = bad.parse::<Group>().unwrap_err();
            assert!(error.to_string().contains("quiet=40x10@1"), "{bad}");
        }
    }
}
