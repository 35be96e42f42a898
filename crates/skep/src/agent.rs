//! `skep agent`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::signals::{ended, shutdown};
use anyhow::Context;
use skep_agent::agent::{CgroupBase, Config};
use skep_agent::network::Range;
use skep_agent::thresholds::Thresholds;
use skep_agent::{Quantity, Taint};

/// Runs the node agent: the kubelet of one node, started inside its machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Whom to reach, as user `system:node:NAME` of group `system:nodes`.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The node's name.
    #[arg(long)]
    node: String,
    /// The agent's own directory: pods' volumes, logs, state of containers.
    #[arg(long, default_value = "/var/lib/skep-agent")]
    data: PathBuf,
    /// A Unix socket that leads to the API server, for machines without another way to it.
    #[arg(long)]
    api_socket: Option<PathBuf>,
    /// The machine's image store; agents of several tenants may share one.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Whose images they are in the store, usually the tenant's name; without it, this agent's alone.
    #[arg(long)]
    image_scope: Option<String>,
    /// A Unix socket by which the host is asked for images; `--images` is then what the host shows this machine of its own.
    #[arg(long)]
    image_socket: Option<PathBuf>,
    /// Where `--images` is shown once more for each range of ids, by its number, for pods with users of their own; without it, ids are mapped here.
    #[arg(long)]
    pod_images: Option<PathBuf>,
    /// The directory tree that pods know as their host's.
    #[arg(long, default_value = "/")]
    host_root: PathBuf,
    /// Makes control groups in the group that the agent is in, instead of at the root of what is mounted.
    #[arg(long)]
    own_cgroup: bool,
    /// An address of the node; may be repeated for the other family.
    #[arg(long = "node-ip")]
    node_ips: Vec<String>,
    /// What the node has, NAME=AMOUNT, where that is not what the kernel says; may be repeated.
    #[arg(long = "capacity", value_parser = amount)]
    capacity: Vec<(String, Quantity)>,
    /// A label of the node, NAME=VALUE; may be repeated.
    #[arg(long = "label", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// A taint with which the node is registered, KEY[=VALUE]:EFFECT; may be repeated.
    #[arg(long = "taint", value_parser = taint)]
    taints: Vec<Taint>,
    /// Lets privileged containers run. Only for machines that share their kernel with nobody.
    #[arg(long)]
    allow_privileged: bool,
    /// The domain of the tenant's services.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Most pods that run at the same time.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// How short the node may become before pods are evicted, SIGNAL<AMOUNT or SIGNAL<PERCENT%, separated by commas: `memory.available`,
    /// `nodefs.available`, `nodefs.inodesFree`, `pid.available`.
    #[arg(long, env = "SKEP_EVICTION_HARD", default_value_t, value_name = "THRESHOLDS")]
    eviction_hard: Thresholds,
    /// A folder with manifests of static pods, which run whatever the API server says.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// The machine's interface that leads into its tenant's network. Without it, the node makes a pod network of its own.
    #[arg(long)]
    uplink: Option<String>,
    /// The bridge of a node that makes its own pod network.
    #[arg(long, default_value = "skep-pods")]
    pod_bridge: String,
    /// Addresses of pods on a node that makes its own pod network.
    #[arg(long, default_value = "10.244.0.0/24")]
    pod_range: Range,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn amount(text: &str) -> Result<(String, Quantity), String> {
    let (name, value) = pair(text).map_err(|_| "write NAME=AMOUNT, such as cpu=2".to_owned())?;
    let value = value.parse().map_err(|e| format!("{value:?} is not an amount: {e}"))?;
    Ok((name, value))
}

fn taint(text: &str) -> Result<Taint, String> {
    let (rest, effect) = text.rsplit_once(':').ok_or("write KEY[=VALUE]:EFFECT")?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!("{effect:?} is not an effect: use NoSchedule, PreferNoSchedule or NoExecute"));
    }
    let (key, value) = rest.split_once('=').map_or((rest, None), |(k, v)| (k, Some(v.to_owned())));
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

/// Runs until SIGTERM or SIGINT. Pods go on without it.
///
/// # Errors
/// What keeps the agent from starting.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let config = Config {
        images: options.images.unwrap_or_else(|| options.data.join("images")),
        image_scope: options.image_scope,
        image_socket: options.image_socket,
        kubeconfig: options.kubeconfig,
        api_socket: options.api_socket,
        node: options.node,
        data: std::path::absolute(&options.data).context("reading the working directory")?,
        host_root: options.host_root,
        pod_images: options.pod_images,
        shim: vec!["/proc/self/exe".into(), "shim".into()],
        cgroups: if options.own_cgroup { CgroupBase::Own } else { CgroupBase::Root },
        node_ips: options.node_ips,
        capacity: options.capacity.into_iter().collect(),
        labels: options.labels.into_iter().collect::<BTreeMap<_, _>>(),
        taints: options.taints,
        allow_privileged: options.allow_privileged,
        cluster_domain: options.cluster_domain,
        max_pods: options.max_pods,
        thresholds: options.eviction_hard,
        uplink: options.uplink,
        pod_manifest_path: options.pod_manifest_path,
        standalone: (options.pod_bridge, options.pod_range),
    };
    // One thread: an agent mostly waits, and each thread costs memory on every node.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(IDLE_THREAD)
        .on_thread_park(crate::lean::parked)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async move {
        tokio::select! {
            result = skep_agent::agent::run(config) => result.context("running the node agent"),
            () = crate::lean::keep() => Ok(()),
            () = ended(shutdown()) => Ok(()),
        }
    })
}

/// Threads for what blocks: files, mounts, namespaces. More would only queue in the kernel.
const BLOCKING_THREADS: usize = 8;
/// They end when they have had nothing to do for so long.
const IDLE_THREAD: std::time::Duration = std::time::Duration::from_secs(2);
