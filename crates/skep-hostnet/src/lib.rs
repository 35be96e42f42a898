//! Tenants' networks on a host, kept as the API says.
//!
//! **Job.** For the daemon of a host: connects machines to their tenant's network, and keeps the host's switches at what
//! ports, machines and hosts are: which Ethernet address is on which host, what each machine may send, with whom security
//! groups let it talk, what bandwidth its ports have, and which public addresses lead to it.
//! **State.** Copies of all hosts, and of the ports, machines, groups, policies and public addresses of tenants that have a machine here, of no others; the
//! switches of this host and which machine is behind which interface.
//! **Tasks.** One per informer (five for each tenant that has a machine here), one that programs, two that write what went through
//! ports and public addresses.
//! **Must not know.** How machines are made; pods, services, names; what switches are made of, but for one [data plane](plane::Kernel).
//!
//! A machine's interface is made from outside, into the machine's namespace: what the machine does with its own end changes
//! nothing here.

mod bandwidth;
mod copies;
mod guard;
pub mod plane;
mod public;
mod report;
mod turn;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde_json::json;
use skep_base::{SharedStr, TenantName};
use skep_client::{Client, Event, Informer, List, ListParams, Resource, Selection, Tenants};
use skep_net::edge::Edge;
use skep_net::switch::SwitchConfig;
use skep_net::{LinkStats, Namespace};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use bandwidth::Bandwidth;
use copies::{AllCopies, Copies, Told, Touched};
use plane::{DataPlane, Kernel};
use turn::Programmed;
use view::{HostView, NetworkView, SubnetView};

const PORTS: Resource = Resource::new("network.skep.io", "v1", "ports");
const NETWORKS: Resource = Resource::new("network.skep.io", "v1", "networks");
const SUBNETS: Resource = Resource::new("network.skep.io", "v1", "subnets");
const GROUPS: Resource = Resource::new("network.skep.io", "v1", "securitygroups");
const POLICIES: Resource = Resource::new("network.skep.io", "v1", "qospolicies");
const PUBLICS: Resource = Resource::new("network.skep.io", "v1", "publicips");
const MACHINES: Resource = Resource::new("compute.skep.io", "v1", "machines");
const HOSTS: Resource = Resource::new("compute.skep.io", "v1", "hosts");
/// The network of machines that name none.
const DEFAULT_NETWORK: &str = "default";
/// The label of a machine's node that says which of its tenant's networks it is in.
pub const NETWORK_LABEL: &str = "network.skep.io/network";
/// Where ports of nodes are: they belong to nobody's pods.
const NODE_NAMESPACE: &str = "kube-system";
/// What a machine's interface is called inside.
pub const MACHINE_INTERFACE: &str = "eth0";
/// What files of switches' namespaces are called, before the network's number.
const SWITCH_PREFIX: &str = "net-";
/// How long after one turn of programming the next one begins at the earliest: a machine with its pods comes as many small changes. One
/// that comes alone does not wait.
const GATHER: Duration = Duration::from_millis(5);
/// How long a machine waits for the first copies of its tenant before it is tried again: a tenant that is being deleted may
/// have none to give, and the machine must learn that it is to go.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits after the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// What a host's networks are made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host's name.
    pub host: String,
    /// Its address, by which other hosts reach it.
    pub address: IpAddr,
    /// Where its switches' namespaces are mounted.
    pub folder: PathBuf,
    /// The UDP port of all hosts' VXLAN; 4789 by the standard.
    pub port: u16,
    /// What its uplink carries, in bits a second, if the kernel is not to be asked.
    pub uplink_bits_per_s: Option<u64>,
}

/// Why a machine is not connected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what was asked.
    #[error("could not make the port of the node {node:?}")]
    Api {
        /// Which node.
        node: String,
        /// Why not.
        #[source]
        source: Box<skep_client::Error>,
    },
    /// The kernel did not do what was asked.
    #[error("could not connect the machine of the node {node:?} to its network")]
    Kernel {
        /// Which node.
        node: String,
        /// Why not.
        #[source]
        source: skep_net::Error,
    },
    /// The tenant has no such network, or it has no number.
    #[error("the tenant {tenant} has no network {network:?} with a number; it may have been deleted")]
    NoNetwork {
        /// Which tenant.
        tenant: TenantName,
        /// Which network.
        network: SharedStr,
    },
    /// The tenant's ports and machines could not be read.
    #[error("the ports and machines of the tenant {0} could not be read in time; the API server may be away")]
    NotRead(TenantName),
    /// The work was cut off because the process ends.
    #[error("the machine was not connected: the daemon is ending")]
    Ending,
}

/// Which network it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct NetworkKey {
    tenant: TenantName,
    network: SharedStr,
}

/// One network here.
struct Here {
    programmed: Programmed,
    /// Where its namespace is mounted.
    path: PathBuf,
    /// The interface of each machine, by its node's name.
    machines: BTreeMap<String, String>,
    /// What it is made from.
    copies: Arc<Copies>,
}

struct Shared {
    client: Client,
    config: Config,
    copies: AllCopies,
    hosts: Informer<HostView>,
    here: Mutex<HashMap<NetworkKey, Arc<Mutex<Here>>>>,
    plane: Arc<dyn DataPlane>,
    /// One set-up of a switch at a time.
    making: tokio::sync::Mutex<()>,
    bandwidth: Arc<Bandwidth>,
    /// Where public addresses come in; made when the first does.
    edge: Arc<Mutex<Option<Edge>>>,
    /// What is to be programmed anew.
    dirty: Arc<Dirty>,
}

/// What may have changed since it was programmed.
#[derive(Default)]
struct Dirty {
    tenants: Mutex<HashMap<TenantName, Touched>>,
    /// Hosts have: they are in all networks.
    hosts: AtomicBool,
    /// Bandwidth is to be planned anew, whatever has changed.
    bandwidth: AtomicBool,
    changed: Notify,
}

impl Dirty {
    fn touch(&self, tenant: &TenantName, touched: Touched) {
        let mut tenants = self.tenants.lock();
        match tenants.get_mut(tenant) {
            Some(all) => all.and(touched),
            None => {
                tenants.insert(tenant.clone(), touched);
            }
        }
        drop(tenants);
        self.changed.notify_one();
    }

    fn hosts(&self) {
        self.hosts.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

/// The running networks of a host. Tasks end when it is dropped; what is in the kernel stays for the next daemon.
pub struct HostNetwork {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for HostNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostNetwork").field("host", &self.shared.config.host).finish_non_exhaustive()
    }
}

impl HostNetwork {
    /// Starts to follow what there is. `client` has a credential of a host. Machines can be connected when the first copies
    /// are complete; [`HostNetwork::attach`] waits for them.
    #[must_use]
    pub fn start(client: Client, config: Config) -> HostNetwork {
        HostNetwork::over(Arc::new(Kernel), client, config)
    }

    /// The same over another data plane.
    #[must_use]
    pub fn over(plane: Arc<dyn DataPlane>, client: Client, config: Config) -> HostNetwork {
        let dirty = Arc::new(Dirty::default());
        let marked = dirty.clone();
        let told: Told = Arc::new(move |tenant, touched| marked.touch(tenant, touched));
        let shared = Arc::new(Shared {
            copies: AllCopies::new(client.clone(), told),
            hosts: Informer::builder(&client, Selection::all(HOSTS, Tenants::Own)).build(),
            client,
            config,
            here: Mutex::default(),
            plane,
            making: tokio::sync::Mutex::default(),
            bandwidth: Arc::default(),
            edge: Arc::default(),
            dirty,
        });
        let mut tasks = JoinSet::new();
        let dirty = shared.dirty.clone();
        shared.hosts.on_event(move |event| {
            // Hosts say all the time that they live; only where they are counts here.
            if !matches!(event, Event::Changed { old, new } if old.view.address() == new.view.address()) {
                dirty.hosts();
            }
        });
        let hosts = shared.hosts.clone();
        tasks.spawn(async move { hosts.run().await });
        let running = shared.clone();
        tasks.spawn(async move {
            running.hosts.synced().await;
            running.run().await;
        });
        tasks.spawn(report::run(shared.clone()));
        tasks.spawn(public::run(shared.clone()));
        HostNetwork { shared, _tasks: tasks }
    }

    /// Connects a machine to the network of its tenant that it belongs to, `default` if `network` names none: its node gets a port, and the network
    /// namespace that is mounted at `machine` an interface. To be called before the machine's agent looks; called again, it changes nothing.
    ///
    /// # Errors
    /// When the port cannot be made or the kernel refuses. It can be called again.
    pub async fn attach(
        &self,
        tenant: &TenantName,
        network: Option<&str>,
        node: &str,
        machine: &Path,
    ) -> Result<(), Error> {
        let shared = &self.shared;
        let copies = shared.copies.of(tenant);
        let synced = async {
            shared.hosts.synced().await;
            copies.synced().await;
        };
        // A switch that began with half of what is to go through it would cut off machines that run.
        if tokio::time::timeout(SYNC_TIMEOUT, synced).await.is_err() {
            return Err(Error::NotRead(tenant.clone()));
        }
        let network = SharedStr::new(network.unwrap_or(DEFAULT_NETWORK));
        let key = NetworkKey { tenant: tenant.clone(), network };
        shared.make_port(&key, node).await?;
        let here = shared.switch(&key, node, copies).await?;
        let (interface, name) = (interface_of(tenant, node), node.to_owned());
        let path = machine.to_owned();
        let work = move || {
            let machine = Namespace::open(&path)?;
            let mut here = here.lock();
            here.programmed.attach(&interface, &machine)?;
            here.machines.insert(name, interface);
            skep_net::netlink::Result::Ok(())
        };
        shared.in_kernel(node, work).await?;
        shared.dirty.touch(tenant, changed(node));
        Ok(())
    }

    /// Of how many tenants this host holds copies, and how many objects they are: that follows from the machines here, and from
    /// nothing else.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        self.shared.copies.size()
    }

    /// Disconnects a machine that has ended, and with a network's last machine here removes the switch. The port goes when
    /// `gone` says that the machine will not come back.
    ///
    /// # Errors
    /// When the kernel refuses, or the port cannot be deleted. It can be called again.
    pub async fn detach(&self, tenant: &TenantName, node: &str, gone: bool) -> Result<(), Error> {
        let shared = &self.shared;
        let _turn = shared.making.lock().await;
        // In one of the tenant's networks. Where it is in none, nothing changes but that one may be without machines.
        for (key, here) in shared.networks().into_iter().filter(|(key, _)| key.tenant == *tenant) {
            let (interface, name, entry) = (interface_of(tenant, node), node.to_owned(), here.clone());
            let work = move || {
                let mut here = entry.lock();
                here.programmed.detach(&interface)?;
                here.machines.remove(&name);
                Ok(here.machines.is_empty())
            };
            if shared.in_kernel(node, work).await? {
                shared.here.lock().remove(&key);
                // A turn of programming that is under way fails, and finds that the switch is not here any more.
                let plane = shared.plane.clone();
                let work = move || {
                    let path = here.lock().path.clone();
                    plane.remove(&path)?;
                    plane.clean()
                };
                shared.in_kernel(node, work).await?;
                // Its ports have nothing of the uplink any more.
                shared.dirty.bandwidth.store(true, Ordering::SeqCst);
                shared.dirty.changed.notify_one();
            } else {
                shared.dirty.touch(tenant, changed(node));
            }
        }
        if gone {
            shared.delete_port(tenant, node).await?;
        }
        Ok(())
    }

    /// Removes switches that connect nobody: their machines went while no daemon ran. One that a machine is plugged into stays,
    /// for it may be about to be attached again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn sweep(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let _turn = shared.making.lock().await;
        let used: Vec<PathBuf> = shared.here.lock().values().map(|h| h.lock().path.clone()).collect();
        let (folder, plane) = (shared.config.folder.clone(), shared.plane.clone());
        shared
            .in_kernel("", move || {
                for path in switches(&folder).into_iter().filter(|p| !used.contains(p)) {
                    if plane.machines_in(&path)? == 0 {
                        plane.remove(&path)?;
                    }
                }
                plane.clean()
            })
            .await
    }

    /// What each machine sent and received, by tenant and node.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn traffic(&self) -> Result<Vec<(TenantName, String, LinkStats)>, Error> {
        let all = self.shared.networks();
        let work = move || {
            let mut found = Vec::new();
            for (NetworkKey { tenant, .. }, here) in all {
                let mut here = here.lock();
                let stats: HashMap<String, LinkStats> =
                    here.programmed.switch.traffic()?.into_iter().collect();
                for (node, interface) in &here.machines {
                    if let Some(stats) = stats.get(interface) {
                        found.push((tenant.clone(), node.clone(), *stats));
                    }
                }
            }
            Ok(found)
        };
        self.shared.in_kernel("", work).await
    }
}

/// What is touched when a machine comes here or goes.
fn changed(node: &str) -> Touched {
    let mut touched = Touched { groups: true, bandwidth: true, ..Touched::default() };
    touched.machine(node);
    touched
}

/// The name of a machine's interface in its network's switch: a number made from its node's name. Two of one network never
/// meet in 48 bits.
fn interface_of(tenant: &TenantName, node: &str) -> String {
    skep_net::machine::pod_interface(&format!("{tenant}/{node}")).replacen("pod", "m", 1)
}

/// The namespaces of switches that are mounted in a folder.
fn switches(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(SWITCH_PREFIX)).map(|e| e.path()).collect()
}

/// Removes all switches in a folder, for a host whose machines are all stopped. They are made anew when machines start.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_switches(folder: &Path) -> Result<usize, skep_net::Error> {
    let all = switches(folder);
    for path in &all {
        Kernel.remove(path)?;
    }
    if !all.is_empty() {
        Kernel.clean()?;
    }
    Ok(all.len())
}

impl Shared {
    async fn in_kernel<T: Send + 'static>(
        &self,
        node: &str,
        work: impl FnOnce() -> skep_net::netlink::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(|source| Error::Kernel { node: node.to_owned(), source }),
            Err(_) => Err(Error::Ending),
        }
    }

    /// The networks that are here.
    fn networks(&self) -> Vec<(NetworkKey, Arc<Mutex<Here>>)> {
        self.here.lock().iter().map(|(key, here)| (key.clone(), here.clone())).collect()
    }

    fn port_name(node: &str) -> String {
        format!("node-{node}")
    }

    async fn make_port(&self, key: &NetworkKey, node: &str) -> Result<(), Error> {
        let port = json!({
            "apiVersion": "network.skep.io/v1", "kind": "Port",
            "metadata": {"name": Self::port_name(node), "namespace": NODE_NAMESPACE},
            "spec": {"networkName": key.network.as_str(), "nodeName": node, "nodeInterface": true},
        });
        let at = PORTS.at(&key.tenant).namespace(NODE_NAMESPACE);
        match self.client.create::<serde_json::Value>(&at, &port).await {
            Err(error) if !error.is_already_exists() => {
                Err(Error::Api { node: node.to_owned(), source: Box::new(error) })
            }
            _ => Ok(()),
        }
    }

    async fn delete_port(&self, tenant: &TenantName, node: &str) -> Result<(), Error> {
        let at = PORTS.at(tenant).namespace(NODE_NAMESPACE).name(&Self::port_name(node));
        match self.client.remove(&at, &skep_client::DeleteParams::default()).await {
            Err(error) if !error.is_not_found() => {
                Err(Error::Api { node: node.to_owned(), source: Box::new(error) })
            }
            _ => Ok(()),
        }
    }

    /// The switch of a tenant's network, which is made if it is not here.
    async fn switch(
        &self,
        key: &NetworkKey,
        node: &str,
        copies: Arc<Copies>,
    ) -> Result<Arc<Mutex<Here>>, Error> {
        let _turn = self.making.lock().await;
        if let Some(here) = self.here.lock().get(key) {
            return Ok(here.clone());
        }
        let NetworkKey { tenant, network: name } = key;
        let missing = || Error::NoNetwork { tenant: tenant.clone(), network: name.clone() };
        let at = NETWORKS.at(tenant).name(name);
        // Not from the copy, which may not have seen a tenant that is this new.
        let network: NetworkView = match self.client.read(&at).await {
            Ok(network) => network,
            Err(error) if error.is_not_found() => return Err(missing()),
            Err(error) => return Err(Error::Api { node: node.to_owned(), source: Box::new(error) }),
        };
        let config = SwitchConfig {
            vni: network.spec.vni.ok_or_else(missing)?,
            mtu: network.spec.mtu,
            local: self.config.address,
            port: self.config.port,
        };
        let path = self.config.folder.join(format!("{SWITCH_PREFIX}{}", config.vni));
        let at = path.clone();
        let subnets =
            self.subnets(key).await.map_err(|source| Error::Api { node: node.to_owned(), source })?;
        let (hosts, vni, plane) = (self.host_addresses(), config.vni, self.plane.clone());
        let work = move || {
            let mut opened = plane.open(&at, &config, &subnets, &hosts)?;
            let plugged = opened.switch.interfaces()?;
            skep_net::netlink::Result::Ok((opened, plugged))
        };
        let (opened, plugged) = self.in_kernel(node, work).await?;
        self.bandwidth.avoid(opened.classes);
        // Those that an earlier daemon has plugged in go on: what is programmed first has them too, whenever they are attached anew.
        let mut machines = BTreeMap::new();
        for machine in copies.machines.of_tenant(tenant) {
            if machine.view.spec.host_name.as_deref() == Some(&self.config.host) {
                let node = machine.view.node(&machine.key.name).to_owned();
                let interface = interface_of(tenant, &node);
                if plugged.contains(&interface) {
                    machines.insert(node, interface);
                }
            }
        }
        let programmed = Programmed::new(opened.switch, vni);
        let here = Arc::new(Mutex::new(Here { programmed, path, machines, copies }));
        // Nothing is known to be programmed of it.
        self.dirty.touch(tenant, Touched::all());
        self.here.lock().insert(key.clone(), here.clone());
        Ok(here)
    }

    /// The subnets of a network.
    async fn subnets(&self, key: &NetworkKey) -> Result<Vec<Ipv4Net>, Box<skep_client::Error>> {
        let all: List<SubnetView> =
            self.client.list_all(&SUBNETS.at(&key.tenant), ListParams::default()).await.map_err(Box::new)?;
        let of_it = all.items.into_iter().map(|s| s.spec).filter(|s| s.network_name == *key.network);
        Ok(of_it.filter_map(|s| s.cidr.parse().ok()).collect())
    }

    /// Where hosts are: nobody's pods reach them.
    fn host_addresses(&self) -> Vec<Ipv4Addr> {
        let mut all = Vec::new();
        self.hosts.for_each(|host| {
            if let Some(IpAddr::V4(ip)) = host.view.address() {
                all.push(ip);
            }
        });
        all.sort_unstable();
        all
    }

    async fn run(&self) {
        let mut closed = Vec::new();
        let mut held = (0, 0);
        let mut next = Instant::now();
        loop {
            self.dirty.changed.notified().await;
            tokio::time::sleep_until(next).await;
            let everybody = self.dirty.hosts.swap(false, Ordering::SeqCst);
            let mut shape = self.dirty.bandwidth.swap(false, Ordering::SeqCst);
            let dirty = std::mem::take(&mut *self.dirty.tenants.lock());
            let hosts = self.host_addresses();
            if hosts != closed && !self.here.lock().is_empty() {
                let (all, port, plane) = (hosts.clone(), self.config.port, self.plane.clone());
                match self.in_kernel("", move || plane.close_to_hosts(&all, port)).await {
                    Ok(()) => closed = hosts,
                    Err(error) => {
                        tracing::warn!(%error, "the way out is not closed to a new host; it is tried again")
                    }
                }
            }
            for (key, here) in self.networks() {
                let mut touched = dirty.get(&key.tenant).cloned().unwrap_or_default();
                touched.everything |= everybody;
                if touched == Touched::default() {
                    continue;
                }
                let turn = self.turn(&key, &here, touched);
                shape |= turn.bandwidth;
                let (edge, address) = (self.edge.clone(), self.config.address);
                let work = move || {
                    let lead = |vni: u32, lead: &BTreeSet<IpAddr>| set_edge(&edge, address, vni, lead);
                    here.lock().programmed.program(turn, lead)
                };
                if let Err(error) = self.in_kernel("", work).await {
                    let NetworkKey { tenant, network } = &key;
                    // What is known of the switch may be wrong now: it begins again from nothing.
                    tracing::warn!(%tenant, %network, %error, "a network could not be changed; it is set up anew");
                    self.begin_again(&key).await;
                }
            }
            if shape {
                for key in self.shape().await {
                    self.begin_again(&key).await;
                }
            }
            let now = self.copies.size();
            if now != held {
                tracing::debug!(tenants = now.0, objects = now.1, "copies held");
                held = now;
            }
            next = Instant::now() + GATHER;
        }
    }

    /// Has bandwidth looked at again in a while.
    fn later(&self) {
        let dirty = self.dirty.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RETRY).await;
            dirty.bandwidth.store(true, Ordering::SeqCst);
            dirty.changed.notify_one();
        });
    }

    async fn begin_again(&self, key: &NetworkKey) {
        let NetworkKey { tenant, network } = key;
        // It may have gone with its last machine.
        let Some(old) = self.here.lock().remove(key) else { return };
        let copies = old.lock().copies.clone();
        match self.switch(key, "", copies).await {
            Ok(new) => new.lock().machines = old.lock().machines.clone(),
            Err(error) => {
                tracing::warn!(%tenant, %network, %error, "a network could not be set up; it is tried again");
                self.here.lock().insert(key.clone(), old);
                tokio::time::sleep(RETRY).await;
            }
        }
        self.dirty.touch(tenant, Touched::all());
    }
}

/// Leads public addresses into a network, and no others.
fn set_edge(
    edge: &Mutex<Option<Edge>>,
    address: IpAddr,
    vni: u32,
    lead: &BTreeSet<IpAddr>,
) -> skep_net::netlink::Result<()> {
    let mut edge = edge.lock();
    let mut open = match edge.take() {
        Some(open) => open,
        None => Edge::open(Namespace::current()?, address)?,
    };
    // One that failed is opened anew: its link may be another by now.
    open.set(vni, lead)?;
    *edge = Some(open);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_short_names_of_their_own() {
        let (a, b) = (TenantName::new("a").unwrap(), TenantName::new("b").unwrap());
        let name = interface_of(&a, "node-with-a-rather-long-name");
        assert!(name.len() <= 15 && name.starts_with('m'), "{name}");
        assert_eq!(name, interface_of(&a, "node-with-a-rather-long-name"));
        assert_ne!(name, interface_of(&b, "node-with-a-rather-long-name"));
    }
}
