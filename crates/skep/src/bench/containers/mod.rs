//! `skep bench containers`: how long pods take from their binding until they run, one after another and many at once; what the processes that keep
//! them take of memory; and how long the same container takes by runc and by containerd on the same computer.

mod image;
mod memory;
mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_base::{Revision, TenantName};
use skep_bench::Latencies;
use skep_client::{
    Access, Change, Client, DeleteParams, From, List, ListParams, ObjectPath, Patch, RawEvent, Resource,
    Route, Tenants, Watch, WatchParams,
};
use tokio::time::timeout_at;

use super::cloud::TENANTS;
use super::network::figure;
use image::Bundle;
use memory::Idle;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Pods that are started one after another.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=500))]
    pods: u32,
    /// Pods that are asked for at once.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    at_once: u32,
    /// What kind of machine they run in.
    #[arg(long, default_value = "medium")]
    flavor: String,
    /// The cloud's data directory, on this computer.
    #[arg(long, env = "SKEP_DATA", value_name = "DIR", default_value_os_t = crate::apiserver::default_data())]
    data: PathBuf,
    /// A busybox that needs no libraries, which is all that the containers hold.
    #[arg(long, default_value = "/usr/bin/busybox")]
    busybox: PathBuf,
    /// Gives those that are asked for at once what pods have in real life: probes, a config map and a secret of their own.
    #[arg(long)]
    furnished: bool,
    /// How long nothing is done before it is read how much memory is used, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle_s: u64,
}

const PODS: Resource = Resource::new("", "v1", "pods");
const NODE_POOLS: Resource = Resource::new("compute.skep.io", "v1", "nodepools");
/// Of the promises.
const PROMISED_START_MS: f64 = 60.0;
const PROMISED_TOGETHER_S: f64 = 3.0;
const PROMISED_DAEMON_KIB: u64 = 10 << 10;
const PROMISED_FULL_AGENT_KIB: u64 = 20 << 10;
const PROMISED_SHIM_KIB: u64 = 3 << 10;
/// How long any step may take before it is given up, a machine's start included.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a container does.
const COMMAND: [&str; 2] = ["/bin/sleep", "100000"];

/// Measures, and prints what it finds. What it made it takes away again.
///
/// # Errors
/// When something cannot be measured.
pub(crate) fn run(kubeconfig: &Path, options: &Options) -> anyhow::Result<()> {
    let bundle = Bundle::make(&options.busybox)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let misses = runtime.block_on(async {
        let client = Client::connect(Access::load(kubeconfig)?, Route::Tcp, 2)?;
        let tenant = TenantName::new(&format!("bench-{}", std::process::id())).context("naming a tenant")?;
        bundle.load(&options.data)?;
        let object = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "Tenant", "metadata": {"name": tenant.as_str()}});
        let at = TENANTS.at(Tenants::Own);
        client.create::<Value>(&at, &object).await.context("making a tenant")?;
        let measured = measure(&client, &tenant, options).await;
        let removed = client.remove(&at.name(tenant.as_str()), &DeleteParams::default()).await;
        let unloaded = bundle.unload(&options.data);
        let misses = measured?;
        removed.context("removing the tenant")?;
        unloaded?;
        anyhow::Ok(misses)
    })?;
    println!();
    for way in others::ways(&bundle) {
        match way.measure(options.pods, options.at_once) {
            Ok((one, all)) => {
                println!(
                    "{:<58} p50 {:.1}, worst {:.1} ms",
                    format!("{}: the same container, {} times", way.name(), one.len()),
                    ms(&one, 0.5),
                    ms(&one, 1.0)
                );
                println!("{:<58} {:.2} s", format!("  {} at once", options.at_once), all.as_secs_f64());
            }
            Err(error) => println!("{}: not measured: {error:#}", way.name()),
        }
    }
    println!("  neither gives its container an address, filters system calls or asks a server what to do");
    println!();
    match misses {
        0 => println!("everything is as promised"),
        n => println!("{n} figures are NOT MET"),
    }
    Ok(())
}

fn ms(latencies: &Latencies, share: f64) -> f64 {
    latencies.percentile(share).as_secs_f64() * 1e3
}

/// What of a pod's life is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Bound,
    Running,
    Gone,
}

/// Pods of a tenant, and when each was first seen to have come to a stage.
struct Followed {
    watch: Watch,
    seen: BTreeMap<(String, Stage), Instant>,
    node: String,
}

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

impl Followed {
    async fn open(client: &Client, tenant: &TenantName) -> anyhow::Result<Followed> {
        let at = PODS.at(tenant);
        let page: List<Value> = client.list_all(&at, ListParams::default()).await.context("listing pods")?;
        let from = From::Revision(Revision(page.metadata.resource_version.parse().unwrap_or_default()));
        let params = WatchParams { labels: String::new(), fields: String::new(), from, timeout_s: None };
        let watch = client.watch(&at, &params, false).await.context("watching pods")?;
        Ok(Followed { watch, seen: BTreeMap::new(), node: String::new() })
    }

    fn take(&mut self, change: Change, object: &[u8]) {
        let Ok(pod) = serde_json::from_slice::<Seen<'_>>(object) else { return };
        let now = Instant::now();
        let mut note = |stage| {
            self.seen.entry((pod.metadata.name.to_owned(), stage)).or_insert(now);
        };
        if change == Change::Deleted {
            return note(Stage::Gone);
        }
        if !pod.spec.node_name.is_empty() {
            note(Stage::Bound);
            self.node = pod.spec.node_name;
        }
        if pod.status.phase == "Running" {
            note(Stage::Running);
        }
    }

    /// Waits until all of them have come so far; when the last of them had.
    async fn all(&mut self, names: &[String], stage: Stage) -> anyhow::Result<Instant> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = Instant::now();
        let mut left: BTreeSet<&String> = names.iter().collect();
        loop {
            left.retain(|name| match self.seen.get(&((*name).clone(), stage)) {
                Some(at) => {
                    last = last.max(*at);
                    false
                }
                None => true,
            });
            if left.is_empty() {
                return Ok(last);
            }
            let Ok(event) = timeout_at(deadline, self.watch.next_raw()).await else {
                bail!("{} of {} pods are not {stage:?} after {PATIENCE:?}", left.len(), names.len());
            };
            match event.context("watching pods")? {
                Some(RawEvent::Object(change, object)) => self.take(change, &object),
                Some(RawEvent::Bookmark { .. }) => {}
                None => bail!("the server ended the watch of pods"),
            }
        }
    }

    fn between(&self, name: &str, from: Stage, to: Stage) -> Option<Duration> {
        let at = |stage| self.seen.get(&(name.to_owned(), stage)).copied();
        Some(at(to)?.saturating_duration_since(at(from)?))
    }
}

fn pod(name: &str) -> Value {
    let container = json!({
        "name": "c", "image": image::NAME, "imagePullPolicy": "IfNotPresent", "command": COMMAND,
        "resources": {"requests": {"cpu": "5m", "memory": "1Mi"}},
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
}

async fn make(client: &Client, at: &ObjectPath, name: &str) -> anyhow::Result<()> {
    client.create::<Value>(at, &pod(name)).await.context("making a pod")?;
    Ok(())
}

/// Kinds of which every furnished pod has an object of its own.
const FURNITURE: [(Resource, &str); 2] =
    [(Resource::new("", "v1", "configmaps"), "ConfigMap"), (Resource::new("", "v1", "secrets"), "Secret")];

async fn make_furnished(client: &Client, tenant: &TenantName, name: &str) -> anyhow::Result<()> {
    for (resource, kind) in &FURNITURE {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": {"word": "Z29vZA=="}});
        let at = resource.at(tenant).namespace("default");
        client.create::<Value>(&at, &object).await.with_context(|| format!("making a {kind}"))?;
    }
    let mut pod = pod(name);
    let probe =
        json!({"exec": {"command": ["/bin/busybox", "true"]}, "periodSeconds": 10, "timeoutSeconds": 10});
    pod["spec"]["volumes"] =
        json!([{"name": "m", "configMap": {"name": name}}, {"name": "s", "secret": {"secretName": name}}]);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = json!([{"name": "m", "mountPath": "/m"}, {"name": "s", "mountPath": "/s"}]);
    container["readinessProbe"] = probe.clone();
    container["livenessProbe"] = probe;
    let at = PODS.at(tenant).namespace("default");
    client.create::<Value>(&at, &pod).await.context("making a pod")?;
    Ok(())
}

async fn unfurnish(client: &Client, tenant: &TenantName, names: &[String]) -> anyhow::Result<()> {
    for (resource, _) in &FURNITURE {
        remove(client, &resource.at(tenant).namespace("default"), names).await?;
    }
    Ok(())
}

async fn remove(client: &Client, at: &ObjectPath, names: &[String]) -> anyhow::Result<()> {
    let gone = names.iter().map(|name| async {
        client.remove(&at.clone().name(name), &DeleteParams::default().grace_s(0)).await
    });
    futures::future::try_join_all(gone).await.context("removing pods")?;
    Ok(())
}

async fn measure(client: &Client, tenant: &TenantName, options: &Options) -> anyhow::Result<usize> {
    let pool = NODE_POOLS.at(tenant).name("default");
    let one = Patch::Merge(json!({"spec": {"maxMachines": 1, "flavorNames": [options.flavor]}}));
    client.patch::<Value>(&pool, &one).await.context("asking for a single machine")?;
    let at = PODS.at(tenant).namespace("default");
    let mut pods = Followed::open(client, tenant).await?;
    let first = vec!["first".to_owned()];
    let begun = Instant::now();
    make(client, &at, &first[0]).await?;
    let took = pods.all(&first, Stage::Running).await? - begun;
    println!("{:<58} {:.2} s", "a tenant's first pod, its machine included", took.as_secs_f64());

    let mut starts = Latencies::default();
    let mut names = Vec::new();
    for n in 0..options.pods {
        let name = format!("one-{n}");
        make(client, &at, &name).await?;
        pods.all(std::slice::from_ref(&name), Stage::Running).await?;
        starts.add(pods.between(&name, Stage::Bound, Stage::Running).context("a pod ran without a node")?);
        names.push(name);
    }
    let mut misses = figure(
        &format!("N1: bound to running, {} pods one after another: p50", options.pods),
        &format!("{:.1} ms (p90 {:.1}, worst {:.1})", ms(&starts, 0.5), ms(&starts, 0.9), ms(&starts, 1.0)),
        "under 60 ms",
        ms(&starts, 0.5) < PROMISED_START_MS,
    );
    remove(client, &at, &names).await?;
    pods.all(&names, Stage::Gone).await?;

    let names: Vec<String> = (0..options.at_once).map(|n| format!("many-{n}")).collect();
    let begun = Instant::now();
    futures::future::try_join_all(names.iter().map(|name| async {
        match options.furnished {
            true => make_furnished(client, tenant, name).await,
            false => make(client, &at, name).await,
        }
    }))
    .await?;
    let took = pods.all(&names, Stage::Running).await? - begun;
    misses += figure(
        &format!("N2: {} pods at once on one node, all running", options.at_once),
        &format!("{:.2} s", took.as_secs_f64()),
        "within 3 s",
        took.as_secs_f64() < PROMISED_TOGETHER_S,
    );

    let idle = Duration::from_secs(options.idle_s);
    tokio::time::sleep(idle).await;
    let full = Idle::watch(&pods.node, &options.data).await?;
    misses += figure(
        &format!("N4: agent with {} pods, after {idle:?}", full.shims),
        &full.agent.to_string(),
        "under 20 MiB",
        full.agent.mostly_kib < PROMISED_FULL_AGENT_KIB,
    );
    if let Some(largest) = full.largest_shim {
        misses += figure(
            "  the largest of its shims",
            &largest.to_string(),
            "under 3 MiB",
            largest.mostly_kib < PROMISED_SHIM_KIB,
        );
    }
    remove(client, &at, &names).await?;
    remove(client, &at, &first).await?;
    if options.furnished {
        unfurnish(client, tenant, &names).await?;
    }
    pods.all(&names, Stage::Gone).await?;
    tokio::time::sleep(idle).await;
    let empty = Idle::watch(&pods.node, &options.data).await?;
    misses += figure(
        "  agent without pods",
        &empty.agent.to_string(),
        "under 10 MiB",
        empty.agent.mostly_kib < PROMISED_DAEMON_KIB,
    );
    match empty.daemon {
        Some(daemon) => {
            misses += figure(
                "  host daemon",
                &daemon.to_string(),
                "under 10 MiB",
                daemon.mostly_kib < PROMISED_DAEMON_KIB,
            );
        }
        None => println!("  the host daemon is not a process of its own here"),
    }
    Ok(misses)
}
