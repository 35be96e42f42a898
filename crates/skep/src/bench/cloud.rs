//! An API server in this process, for what is measured of a node: the node's network follows it as in a machine, and nothing
//! else runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::UserInfo;
use skep_apiserver::app::{App, Config};
use skep_apiserver::in_process::{InProcess, system_client};
use skep_apiserver::tenants::ServiceAddresses;
use skep_auth::identity::{Credential, Identity, groups};
use skep_auth::pki::Pki;
use skep_base::TenantName;
use skep_client::{Client, ObjectPath, Resource, Tenants};
use skep_net::Namespace;
use skep_nodenet::{NodeNetwork, PodRef};
use skep_store::engine::log::Log;
use skep_store::{Store, StoreOptions};

pub(super) const TENANTS: Resource = Resource::new("tenancy.skep.io", "v1", "tenants");
/// What the address that nobody connects to would be.
const NOWHERE: &str = "https://127.0.0.1:6443";

/// An API server with data of its own, which go with it.
pub(super) struct Cloud {
    folder: tempfile::TempDir,
    app: Arc<App>,
}

impl Cloud {
    pub(super) async fn start() -> anyhow::Result<Cloud> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let log = Log::open(&folder.path().join("store")).context("opening a store")?;
        let store = Store::open(Box::new(log), StoreOptions::default()).context("loading a store")?;
        let pki = Pki::open(&folder.path().join("pki"), &["127.0.0.1".to_owned()], Timestamp::now());
        let config = Config {
            base_url: NOWHERE.to_owned(),
            addresses: ServiceAddresses {
                cluster_ip: skep_nodenet::API_IP.to_string(),
                endpoint_ip: "127.0.0.1".to_owned(),
                endpoint_port: 6443,
            },
        };
        let pki = Arc::new(pki.context("making certificates")?);
        let app = App::start(store, pki, config).await.context("starting an API server")?;
        Ok(Cloud { folder, app })
    }

    /// Where things of the measurement lie.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn operator(&self) -> Client {
        system_client(&self.app, "system:kube-controller-manager")
    }

    /// Makes a tenant; gives its administrator.
    pub(super) async fn tenant(&self, name: &str) -> anyhow::Result<Client> {
        let tenant =
            json!({"apiVersion": "tenancy.skep.io/v1", "kind": "Tenant", "metadata": {"name": name}});
        self.operator()
            .create::<Value>(&TENANTS.at(Tenants::Own), &tenant)
            .await
            .context("making a tenant")?;
        let name = TenantName::new(name).context("naming a tenant")?;
        let identity = Identity {
            tenant: name.clone(),
            tenant_uid: None,
            user: UserInfo {
                name: "bench".to_owned(),
                uid: String::new(),
                groups: vec![groups::MASTERS.to_owned(), groups::AUTHENTICATED.to_owned()],
                extra: BTreeMap::new(),
            },
            credential: Credential::ClientCert,
        };
        Ok(Client::over(Arc::new(InProcess::new(self.app.clone(), identity)), name))
    }
}

/// Creates many objects, some at a time.
pub(super) async fn create_all(client: &Client, objects: Vec<(ObjectPath, Value)>) -> anyhow::Result<()> {
    const AT_ONCE: usize = 64;
    use futures::{StreamExt, TryStreamExt};
    let create = |(at, object): (ObjectPath, Value)| {
        let client = client.clone();
        async move { client.create::<Value>(&at, &object).await.with_context(|| format!("making {at}")) }
    };
    futures::stream::iter(objects)
        .map(create)
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await
}

/// The network of a node in a namespace of its own, on one thread, as an agent has it. It ends when this is dropped.
pub(super) struct Node {
    machine: Namespace,
    pods: Vec<PathBuf>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Its end tells the thread to end.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    /// The kernel's number of the thread.
    task: i32,
}

impl Node {
    /// Starts it, on one CPU if one is named. When it returns, all services are programmed and the pods connected.
    pub(super) fn start(
        client: Client,
        folder: &Path,
        pods: usize,
        cpu: Option<usize>,
    ) -> anyhow::Result<Node> {
        let machine = Namespace::new().context("making a machine's namespace; this needs root")?;
        let paths: Vec<PathBuf> = (0..pods).map(|n| folder.join(format!("pod-{n}"))).collect();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let (inside, mounted) = (machine.try_clone()?, paths.clone());
        let thread = std::thread::Builder::new().name("agent".into()).spawn(move || {
            let run = || -> anyhow::Result<()> {
                inside.enter()?;
                if let Some(cpu) = cpu {
                    pin(cpu)?;
                }
                // As an agent's, see `skep agent`.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let network = NodeNetwork::start(client, config()).await?;
                    for (n, path) in mounted.iter().enumerate() {
                        network.set_up(&pod(n), path).await?;
                    }
                    // Who does not wait any more has gone.
                    let _ = ready.send(Ok(nix::unistd::gettid().as_raw()));
                    let _ = stopped.await;
                    for (n, path) in mounted.iter().enumerate() {
                        network.tear_down(&pod(n).uid, path).await?;
                    }
                    Ok(())
                })
            };
            if let Err(error) = run() {
                let _ = ready.send(Err(error));
            }
        })?;
        let task = is_ready.recv().map_err(|_| anyhow!("the node's thread has ended"))?;
        let task = task.context("setting up a node's network")?;
        Ok(Node { machine, pods: paths, thread: Some(thread), stop: Some(stop), task })
    }

    pub(super) fn machine(&self) -> &Namespace {
        &self.machine
    }

    pub(super) fn pod(&self, n: usize) -> anyhow::Result<Namespace> {
        Ok(Namespace::open(self.pods.get(n).context("there is no such pod")?)?)
    }

    /// How long the node's threads have been at work, in nanoseconds: the agent's own, and that which answers names.
    pub(super) fn worked_ns(&self) -> anyhow::Result<u64> {
        const NAMES: &str = "names";
        let own = Path::new("/proc/self/task").join(self.task.to_string());
        let mut worked = 0;
        for entry in std::fs::read_dir("/proc/self/task").context("listing threads")? {
            let folder = entry.context("listing threads")?.path();
            // Other threads come and go.
            let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
            if folder != own && name.trim() != NAMES {
                continue;
            }
            let path = folder.join("schedstat");
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let ns: Option<u64> = text.split(' ').next().and_then(|n| n.parse().ok());
            worked += ns.with_context(|| format!("reading {}", path.display()))?;
        }
        Ok(worked)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It says by itself what it could not do.
            let _ = thread.join();
        }
        for path in &self.pods {
            if let Err(error) = Namespace::remove(path) {
                eprintln!("skep: something of the measurement stays: {error}");
            }
        }
    }
}

fn config() -> skep_nodenet::Config {
    skep_nodenet::Config {
        node: "bench".to_owned(),
        zone: None,
        bridge: "skep0".to_owned(),
        uplink: None,
        domain: "cluster.local".to_owned(),
        upstreams: Vec::new(),
        stubs: Vec::new(),
        api_socket: None,
    }
}

fn pod(n: usize) -> PodRef {
    PodRef {
        uid: format!("bench-{n}"),
        namespace: "default".to_owned(),
        name: format!("bench-{n}"),
        annotations: BTreeMap::new(),
        static_of: None,
    }
}

/// Keeps the calling thread, and those that it starts, on one CPU.
pub(super) fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).context("choosing a CPU")?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).context("choosing a CPU")
}

/// The CPUs that this process may use.
pub(super) fn cpus() -> anyhow::Result<Vec<usize>> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).context("asking for CPUs")?;
    Ok((0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}
