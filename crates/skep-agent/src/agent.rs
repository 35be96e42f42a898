//! Putting the agent together, and running it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, Taint};
use skep_base::quantity::Quantity;
use skep_client::{Access, Client, Informer, Resource, Route, Selection, Tenants};
use skep_runtime::cgroup::{Base, Tree};
use skep_runtime::images::{ImageStore, Scope, UnpackLimits};
use skep_runtime::{Runtime, RuntimeConfig};
use tokio::sync::Notify;

use crate::context::Node;
use crate::events::{Events, Level};
use crate::hostports::HostPorts;
use crate::network::{PodNetwork, Range, Standalone};
use crate::node::{NodeFacts, NodeObject, system_info};
use crate::objects::ObjectCache;
use crate::pod_users::PodUsers;
use crate::pods::Pods;
use crate::security::Policy;
use crate::stats::Stats;
use crate::store_images::{Source, StoreImages};
use crate::streams::Streams;
use crate::tenant_network::TenantNetwork;
use crate::thresholds::Thresholds;
use crate::volume::{self, Layout};

/// How the agent is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom to reach, and as whom.
    pub kubeconfig: PathBuf,
    /// A socket that leads to the API server, where the machine has no other way.
    pub api_socket: Option<PathBuf>,
    /// The node's name.
    pub node: String,
    /// The agent's own directory.
    pub data: PathBuf,
    /// The machine's image store, which agents of several tenants may share.
    pub images: PathBuf,
    /// Whose images they are in it; without it, this agent's alone.
    pub image_scope: Option<String>,
    /// A socket by which the host is asked for images; the store is then this machine's view of the host's.
    pub image_socket: Option<PathBuf>,
    /// Where the machine's images are shown once more for each range of ids of its pods.
    pub pod_images: Option<PathBuf>,
    /// The directory tree that pods know as their host's.
    pub host_root: PathBuf,
    /// The command of a pod's shim.
    pub shim: Vec<OsString>,
    /// Where control groups are made.
    pub cgroups: CgroupBase,
    /// The node's addresses; empty: found out.
    pub node_ips: Vec<String>,
    /// What the node has, where that is not what the kernel says.
    pub capacity: BTreeMap<String, Quantity>,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Taints with which the node is registered.
    pub taints: Vec<Taint>,
    /// Privileged containers run.
    pub allow_privileged: bool,
    /// The domain of the tenant's services.
    pub cluster_domain: String,
    /// Most pods.
    pub max_pods: u32,
    /// How short the node may become before pods are evicted.
    pub thresholds: Thresholds,
    /// The interface that leads into the tenant's network; without one the node has a pod network by itself.
    pub uplink: Option<String>,
    /// A folder with manifests of static pods; made if it is not there.
    pub pod_manifest_path: Option<PathBuf>,
    /// The pod network of a node by itself: its bridge and range.
    pub standalone: (String, Range),
}

/// Where control groups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupBase {
    /// At the root of what is mounted.
    Root,
    /// In the group that the agent is in.
    Own,
}

/// What keeps the agent from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The way to the API server.
    #[error(transparent)]
    Client(#[from] skep_client::Error),
    /// Containers.
    #[error("the runtime cannot be opened: {0}")]
    Runtime(String),
    /// The pod network.
    #[error("the pod network cannot be made: {0}")]
    Network(#[from] crate::network::NetworkError),
    /// The data directory.
    #[error("the data directory cannot be used: {0}")]
    Data(#[from] std::io::Error),
}

/// The address by which this machine is reached: the one that it would send from.
fn own_address() -> String {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // Nothing is sent: the kernel only chooses a route.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    found.map_or_else(|_| Ipv4Addr::LOCALHOST.to_string(), |a| a.ip().to_string())
}

fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

fn storage_bytes(data: &std::path::Path) -> u64 {
    rustix::fs::statvfs(data).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize))
}

/// A name for this agent's own images, made once: another tenant's agent must never have the same one.
fn own_scope(data: &std::path::Path) -> std::io::Result<String> {
    let path = data.join("image-scope");
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(name),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let bytes: [u8; 16] = rand::random();
            let name: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let new = data.join("image-scope.new");
            std::fs::write(&new, &name)?;
            std::fs::rename(new, path)?;
            Ok(name)
        }
        Err(e) => Err(e),
    }
}

/// What the machine has, where the configuration does not say otherwise.
fn capacity(config: &Config) -> BTreeMap<String, String> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut all = BTreeMap::from([
        ("cpu".to_owned(), cpus.to_string()),
        ("memory".to_owned(), format!("{}Ki", memory_bytes() / 1024)),
        ("ephemeral-storage".to_owned(), format!("{}Ki", storage_bytes(&config.data) / 1024)),
        ("pods".to_owned(), config.max_pods.to_string()),
    ]);
    for folder in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = folder.file_name().to_string_lossy().into_owned();
        let kib = name
            .strip_prefix("hugepages-")
            .and_then(|s| s.strip_suffix("kB"))
            .and_then(|s| s.parse::<u64>().ok());
        let count = std::fs::read_to_string(folder.path().join("nr_hugepages")).unwrap_or_default();
        if let (Some(kib), Ok(count)) = (kib, count.trim().parse::<u64>()) {
            let size = if kib >= 1 << 20 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
            all.insert(format!("hugepages-{size}"), format!("{}Ki", count * kib));
        }
    }
    all.extend(config.capacity.iter().map(|(k, v)| (k.clone(), v.to_string())));
    all
}

/// How many processes one pod may have: half of what the machine may, so that a fork bomb leaves room for those who end it; none (-1) where the machine has
/// no limit of its own.
fn pod_pids_limit(machine: Option<(u64, u64)>) -> i64 {
    machine.map_or(-1, |(_, limit)| i64::try_from(limit / 2).unwrap_or(i64::MAX))
}

/// The pods' network, and the node's own addresses.
async fn pod_network(
    client: &Client,
    config: &Config,
) -> Result<(Arc<dyn PodNetwork>, Vec<String>), StartError> {
    if let Some(uplink) = &config.uplink {
        let network = TenantNetwork::start(client, uplink, config).await;
        let own: Vec<String> = network.addresses().iter().map(ToString::to_string).collect();
        let own = if own.is_empty() { vec![own_address()] } else { own };
        return Ok((Arc::new(network), own));
    }
    let (bridge, range) = config.standalone.clone();
    let records = config.data.join("addresses");
    let made = tokio::task::spawn_blocking(move || Standalone::open(&bridge, range, records)).await;
    Ok((Arc::new(made.map_err(std::io::Error::other)??), vec![own_address()]))
}

/// Runs the agent until the future is dropped. Pods go on without it.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(config: Config) -> Result<(), StartError> {
    std::fs::create_dir_all(&config.data)?;
    let layout = Layout { data: config.data.clone(), host_root: config.host_root.clone() };
    volume::prepare(&layout)?;
    if let Some(folder) = &config.pod_manifest_path {
        // The kernel tells of changes in a folder that is there.
        std::fs::create_dir_all(folder)?;
    }
    let access = Access::load(&config.kubeconfig).map_err(skep_client::Error::from)?;
    let route = config.api_socket.clone().map_or(Route::Tcp, Route::Unix);
    let client = Client::connect(access, route.clone(), 1)?;
    let access = Access::load(&config.kubeconfig).map_err(skep_client::Error::from)?;
    let tunnel = skep_client::Network::new(access, route, 1)?;
    let base = match config.cgroups {
        CgroupBase::Root => Base::Root,
        CgroupBase::Own => Base::Own,
    };
    let failed = |e: skep_runtime::Error| StartError::Runtime(e.full());
    let runtime = Runtime::open(RuntimeConfig {
        state_directory: config.data.join("runtime"),
        shim: config.shim.clone(),
        tree: Tree::detect(base).map_err(failed)?,
    })
    .map_err(failed)?;
    let store = match &config.image_socket {
        None => ImageStore::open(&config.images, UnpackLimits::default()).map_err(failed)?,
        Some(_) => {
            let leases = config.data.join("image-leases");
            std::fs::create_dir_all(&leases)?;
            ImageStore::open_view(&config.images, leases)
        }
    };
    let scope = match &config.image_scope {
        Some(name) => Scope::of(name),
        None => Scope::of(&own_scope(&config.data)?),
    };
    let source = config.image_socket.clone().map_or(Source::Registries(Arc::default()), Source::Host);
    let images = Arc::new(StoreImages::new(store, scope.map_err(failed)?, source));
    let (network, found) = pod_network(&client, &config).await?;
    let host_ips = if config.node_ips.is_empty() { found } else { config.node_ips.clone() };
    let capacity = capacity(&config);
    let amounts: BTreeMap<String, Quantity> =
        capacity.iter().filter_map(|(k, v)| Some((k.clone(), v.parse().ok()?))).collect();
    let runtime_tasks = runtime.tree().tasks(std::path::Path::new(""));
    let pod_users = PodUsers::open(
        config.data.join("users"),
        &config.images,
        config.pod_images.as_deref(),
        config.max_pods,
    )?;
    let facts = NodeFacts {
        name: config.node.clone(),
        labels: config.labels.clone(),
        taints: config.taints.clone(),
        addresses: host_ips.clone(),
        allocatable: capacity.clone(),
        capacity,
        info: system_info(),
        user_namespaces: pod_users.available(),
    };
    let name: Arc<str> = config.node.as_str().into();
    let services =
        Informer::<Service>::builder(&client, Selection::all(Resource::of::<Service>(), Tenants::Own))
            .build();
    let events = Events::start(client.clone(), name.clone());
    let node = Arc::new(Node {
        name,
        runtime,
        images: images.clone(),
        network,
        host_ports: Arc::new(HostPorts::new(config.data.join("hostports"))),
        pod_users: Arc::new(pod_users),
        objects: ObjectCache::new(client.clone()),
        services: services.clone(),
        events: events.clone(),
        policy: Policy {
            allow_privileged: config.allow_privileged,
            apparmor: std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|t| t.trim() == "Y"),
            seccomp_directory: layout.seccomp(),
        },
        layout,
        host_ips,
        memory_capacity_bytes: amounts.get("memory").map_or(0, |q| q.value()),
        thresholds: config.thresholds,
        allocatable: amounts,
        cluster_domain: config.cluster_domain.clone(),
        pod_pids_limit: pod_pids_limit(runtime_tasks),
        started: Timestamp::now(),
        client: client.clone(),
    });
    let collection = crate::collect::run(images.clone(), node.clone());
    let object = Arc::new(NodeObject::new(client, facts, images.clone()));
    let (registered, known) = (Arc::new(Notify::new()), Notify::new());
    events.node(&config.node, Level::Normal, "Starting", "Starting kubelet.");
    tracing::info!(node = config.node, data = %config.data.display(), "node agent started");
    let pods = Pods::new(node.clone(), object.clone(), config.pod_manifest_path.clone());
    let streams = Streams::new(node.clone(), pods.handle());
    let stats = Stats::new(node.clone(), pods.handle());
    let sampling = stats.clone().run();
    let tunnel = async {
        // Who is not registered has no tunnel.
        known.notified().await;
        crate::tunnel::run(tunnel, config.node.as_str().into(), streams, stats).await;
    };
    let evictions = crate::eviction::run(node, object.clone(), pods.handle(), images);
    let lease = async {
        // A lease names its node's uid.
        registered.notified().await;
        known.notify_one();
        object.clone().keep_lease().await;
    };
    tokio::join!(
        object.clone().run(registered.clone()),
        lease,
        services.run(),
        pods.run(),
        evictions,
        collection,
        sampling,
        tunnel
    );
    Ok(())
}
