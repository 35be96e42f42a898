//! The daemon: registers the host, follows its machines, and has a worker look after each.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use skep_api::compute::{Host, HostStatus, Isolation, Machine};
use skep_client::{Access, Client, Informer, Patch, Resource, Route, Selection, Tenants};
use skep_hostnet::HostNetwork;
use skep_machine::{Driver, MachineId, ProcessDriver};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::capacity::{self, Capacity, Reserve};
use crate::control::{Registry, Settings};
use crate::credential::pem;
use crate::images;
use crate::machine::{self, Desired, Shared, set_condition};

/// How often the host says that it lives. Four are missed before others give it up.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often everything is gone through, whether something happened or not.
const RESYNC: Duration = Duration::from_secs(30);
/// Waits before the API server is asked again for the host's own object.
const REGISTER_RETRY: Duration = Duration::from_secs(1);
/// One connection for watches, one for the rest: a host's traffic is small.
const CONNECTIONS: usize = 2;
/// Where in the data directory the namespaces of switches are mounted.
pub const NETWORKS: &str = "networks";
/// Longest name of a host that is taken over from the computer's.
const NAME_MAX_BYTES: usize = 63;

/// What machines have for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineDisks {
    /// One of their own where this host can do that, otherwise a part of the host's.
    Auto,
    /// A part of the host's, without a limit.
    Shared,
    /// One of their own, as large as their flavours say; without that there are no machines.
    Own,
}

/// How the daemon is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom to reach, as user `system:host:NAME` of group `system:hosts`.
    pub kubeconfig: PathBuf,
    /// Where machines and images lie.
    pub data: PathBuf,
    /// The host's name; the computer's own if it is not given.
    pub name: Option<String>,
    /// What is not for machines.
    pub reserve: Reserve,
    /// A program and its first arguments that starts machines; see [`ProcessDriver::new`].
    pub launcher: Vec<OsString>,
    /// What they have for a disk.
    pub disks: MachineDisks,
    /// What agents log.
    pub agent_log: String,
    /// How short machines may become before pods are evicted, as agents are told it.
    pub eviction_hard: Option<String>,
    /// A [`skep_runtime::images::RegistriesFile`]; `registries.json` in `data` if it is not given.
    pub registries: Option<PathBuf>,
    /// The installation's own registry: what images call it, and where it is reached from here, each as `HOST:PORT`.
    pub own_registry: Option<(String, String)>,
    /// Labels of the host: where it stands.
    pub labels: BTreeMap<String, String>,
    /// The address by which other hosts reach this one; found out if it is not given.
    pub address: Option<IpAddr>,
    /// The UDP port over which hosts carry tenants' networks: the same on all of them.
    pub vxlan_port: u16,
    /// What its uplink carries, in bits a second; found out if it is not given. Without it nothing can be guaranteed to ports.
    pub uplink_bits_per_s: Option<u64>,
}

/// What keeps the daemon from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The way to the API server.
    #[error(transparent)]
    Client(#[from] skep_client::Error),
    /// The kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] skep_client::KubeconfigError),
    /// The data directory.
    #[error("{} cannot be used; it must be a directory that root may write", path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another daemon.
    #[error("another host daemon uses {}; two would fight over the same machines", .0.display())]
    InUse(PathBuf),
}

/// What the host is, for its object.
struct Facts {
    name: String,
    capacity: Capacity,
    reserve: Reserve,
    address: IpAddr,
    /// Why the driver cannot make machines; nothing if it can.
    broken: Option<String>,
    /// Why machines share the host's disk; nothing if each has its own.
    shared_disk: Option<String>,
}

/// A driver that can make machines here, and why it gives them no disks of their own; or why there is none.
fn choose_driver(
    bare: &ProcessDriver,
    disks: MachineDisks,
) -> (ProcessDriver, Option<String>, Result<(), String>) {
    let probe = |driver: &ProcessDriver| driver.probe().map_err(|e| e.story());
    let own = bare.clone().with_own_disks(true);
    match (disks, probe(if disks == MachineDisks::Shared { bare } else { &own })) {
        (MachineDisks::Shared, probed) => (bare.clone(), Some("the operator wants it so".to_owned()), probed),
        (MachineDisks::Auto, Err(why)) => (bare.clone(), Some(why), probe(bare)),
        (_, probed) => (own, None, probed),
    }
}

/// Runs the daemon until `ended` completes. Machines go on without it.
///
/// # Errors
/// What keeps it from starting.
pub async fn run(config: Config, ended: impl Future<Output = ()>) -> Result<(), StartError> {
    let data = config.data.clone();
    let unusable = |source| StartError::Data { path: data.clone(), source };
    let (machines, images) = (data.join("machines"), data.join("images"));
    for dir in [&machines, &images] {
        std::fs::create_dir_all(dir).map_err(unusable)?;
    }
    let _lock = lock(&data)?;
    let id = host_id(&data).map_err(unusable)?;
    let access = Access::load(&config.kubeconfig)?;
    let server = (access.host.clone(), access.port);
    // The registry's certificate is from the authority that the API server's is from.
    let authorities_pem: String = access.ca.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let own_registry = config.own_registry.clone().map(|(name, address)| Registry {
        name,
        address,
        authorities_pem: authorities_pem.clone(),
    });
    let client = Client::connect(access, Route::Tcp, CONNECTIONS)?;
    let name = config.name.clone().unwrap_or_else(own_name);
    let driver = ProcessDriver::new(machines, &format!("skep-{id}"), config.launcher.clone());
    let (bare, disks) = (driver.clone(), config.disks);
    let (driver, shared_disk, broken) =
        match tokio::task::spawn_blocking(move || choose_driver(&bare, disks)).await {
            Ok((driver, shared, probed)) => (driver, shared, probed.err()),
            Err(error) => (driver, None, Some(error.to_string())),
        };
    let own_disks = shared_disk.is_none();
    let driver: Arc<dyn Driver> = Arc::new(driver);
    if let (MachineDisks::Auto, Some(why)) = (disks, &shared_disk) {
        tracing::warn!(host = name, why, "machines share the host's disk: one of them can fill it for all");
    }
    if let Some(why) = &broken {
        tracing::error!(host = name, why, "this host cannot make machines");
    }
    let address = config.address.unwrap_or_else(capacity::own_address);
    let capacity = Capacity::read(&data);
    let facts = Facts { name: name.clone(), capacity, reserve: config.reserve, address, broken, shared_disk };
    let network = HostNetwork::start(
        client.clone(),
        skep_hostnet::Config {
            host: name.clone(),
            address,
            folder: data.join(NETWORKS),
            port: config.vxlan_port,
            uplink_bits_per_s: config.uplink_bits_per_s,
        },
    );
    let registries = config.registries.clone().unwrap_or_else(|| data.join("registries.json"));
    let settings = Settings {
        images,
        registries,
        own_registry,
        launcher: config.launcher.clone(),
        own_disks,
        log: config.agent_log.clone(),
        eviction_hard: config.eviction_hard.clone(),
    };
    let shared = Arc::new(Shared { client: client.clone(), driver, settings, network, server });
    let selection =
        Selection::all(Resource::of::<Machine>(), Tenants::All).fields(&format!("spec.hostName={name}"));
    let informer = Informer::<Machine>::builder(&client, selection).build();
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    informer.on_event(move |_| told.notify_one());
    let follow = informer.clone();
    tracing::info!(host = name, id, "host daemon ready");
    tokio::select! {
        () = async move { follow.run().await; } => {}
        () = heartbeat(&client, &facts, &config.labels) => {}
        () = look_after(&shared, &informer, &changed) => {}
        () = images::keep_room(shared.settings.images.clone()) => {}
        () = ended => {}
    }
    Ok(())
}

/// Keeps a second daemon away from the same machines. The lock goes with the process, however it ends.
fn lock(data: &Path) -> Result<std::fs::File, StartError> {
    let path = data.join("host.lock");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    let file = file.map_err(|source| StartError::Data { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(data.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(StartError::Data { path, source }),
    }
}

/// What tells this installation's control groups from another's on the same computer: made once, and kept.
fn host_id(data: &Path) -> std::io::Result<String> {
    let path = data.join("host-id");
    match std::fs::read_to_string(&path) {
        Ok(text) if MachineId::new(text.trim()).is_ok() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    let new = path.with_extension("new");
    std::fs::write(&new, &id)?;
    std::fs::rename(&new, &path)?;
    Ok(id)
}

/// The computer's name in the form that objects may have.
fn own_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(NAME_MAX_BYTES)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "host".to_owned() } else { name.to_owned() }
}

/// Makes the host's object if needed, and says every few seconds that the host lives.
async fn heartbeat(client: &Client, facts: &Facts, labels: &BTreeMap<String, String>) {
    let at = Resource::of::<Host>().at(Tenants::Own);
    let mut known = false;
    loop {
        let result = async {
            if !known {
                let host = json!({
                    "apiVersion": "compute.skep.io/v1", "kind": "Host",
                    "metadata": {"name": facts.name, "labels": labels},
                });
                match client.create::<serde_json::Value>(&at, &host).await {
                    Ok(_) => tracing::info!(host = facts.name, "host registered"),
                    Err(e) if e.is_already_exists() => {}
                    Err(e) => return Err(e),
                }
            }
            let object = at.clone().name(&facts.name);
            let old: Host = client.read(&object).await?;
            let new = status(old.status.as_ref(), facts, Timestamp::now());
            client.patch_bytes(&object.subresource("status"), &Patch::Merge(json!({"status": new}))).await
        };
        let pause = match result.await {
            Ok(_) => {
                known = true;
                HEARTBEAT
            }
            Err(error) => {
                tracing::warn!(host = facts.name, %error, "the API server does not take the host's status");
                // The operator may have deleted the object.
                known = false;
                REGISTER_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn status(old: Option<&HostStatus>, facts: &Facts, now: Timestamp) -> HostStatus {
    let mut conditions = old.and_then(|s| s.conditions.clone()).unwrap_or_default();
    let (ready, reason, message) = match &facts.broken {
        None => ("True", "DaemonReady", ""),
        Some(why) => ("False", "NoDriver", why.as_str()),
    };
    set_condition(&mut conditions, "Ready", ready, reason, message, now);
    let (apart, reason, message) = match &facts.shared_disk {
        None => ("True", "DisksOfTheirOwn", ""),
        Some(why) => ("False", "DiskIsShared", why.as_str()),
    };
    set_condition(&mut conditions, "MachineDisksLimited", apart, reason, message, now);
    HostStatus {
        capacity: Some(facts.capacity.resources()),
        allocatable: Some(facts.capacity.allocatable(facts.reserve).resources()),
        isolations: Some(if facts.broken.is_none() { vec![Isolation::Process] } else { Vec::new() }),
        addresses: Some(capacity::addresses(facts.address, &facts.name)),
        host_info: Some(capacity::info()),
        heartbeat_time: Some(Time(now)),
        conditions: Some(conditions),
    }
}

struct Worker {
    wanted: watch::Sender<Desired>,
    task: JoinHandle<()>,
}

/// Has a worker for every machine, and removes what belongs to none.
async fn look_after(shared: &Arc<Shared>, informer: &Informer<Machine>, changed: &Notify) {
    informer.synced().await;
    let mut workers: BTreeMap<MachineId, Worker> = BTreeMap::new();
    let mut removals: JoinSet<()> = JoinSet::new();
    let mut sweep = true;
    loop {
        let wanted = wanted(informer);
        workers.retain(|_, worker| !worker.task.is_finished());
        for (id, desired) in &wanted {
            match workers.get(id) {
                Some(worker) => {
                    worker.wanted.send_if_modified(|old| {
                        let new = old.gone || !Arc::ptr_eq(&old.machine, &desired.machine);
                        *old = desired.clone();
                        new
                    });
                }
                None => {
                    let (sender, receiver) = watch::channel(desired.clone());
                    let task = tokio::spawn(machine::run(shared.clone(), receiver));
                    workers.insert(id.clone(), Worker { wanted: sender, task });
                }
            }
        }
        for (_, worker) in workers.iter().filter(|(id, _)| !wanted.contains_key(id)) {
            worker.wanted.send_if_modified(|desired| !std::mem::replace(&mut desired.gone, true));
        }
        while removals.try_join_next().is_some() {}
        if std::mem::take(&mut sweep) && removals.is_empty() {
            let known: BTreeSet<MachineId> = wanted.keys().chain(workers.keys()).cloned().collect();
            let shared = shared.clone();
            removals.spawn(async move {
                let driver = shared.driver.clone();
                let work = move || remove_strangers(driver.as_ref(), &known);
                // It only fails when the daemon ends.
                let _ = tokio::task::spawn_blocking(work).await;
                if let Err(error) = shared.network.sweep().await {
                    tracing::warn!(%error, "switches that connect nobody stay");
                }
            });
        }
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(RESYNC) => sweep = true,
        }
    }
}

fn wanted(informer: &Informer<Machine>) -> BTreeMap<MachineId, Desired> {
    let mut wanted = BTreeMap::new();
    informer.for_each(|object| {
        let Ok(id) = MachineId::new(&*object.uid) else { return };
        let desired = Desired {
            tenant: object.key.tenant.clone(),
            uid: object.uid.to_string(),
            machine: object.clone(),
            gone: false,
        };
        wanted.insert(id, desired);
    });
    wanted
}

/// Removes machines, and remains of some, that nobody wants: their objects went while this daemon was away.
fn remove_strangers(driver: &dyn Driver, known: &BTreeSet<MachineId>) {
    let found = match driver.list() {
        Ok(found) => found,
        Err(error) => return tracing::warn!(error = error.story(), "machines cannot be listed"),
    };
    for stranger in found.into_iter().filter(|f| !known.contains(&f.id)) {
        match driver.remove(&stranger.id) {
            Ok(()) => tracing::info!(machine = %stranger.id, "removed a machine that nobody wants"),
            Err(error) => {
                tracing::warn!(machine = %stranger.id, error = error.story(), "a machine that nobody wants stays");
            }
        }
    }
}
