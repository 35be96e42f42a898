//! The network of a node, kept as the API says.
//!
//! **Job.** For the agent of one node: sets up the node's bridge from its tenant's network; makes the port of each pod and
//! from it the pod's interface; programs the tenant's services and answers its names, from one copy of them; lets its
//! pods talk to whom network policies and security groups say; gives them their public addresses; leads the `kubernetes` service to the
//! API server.
//! **State.** Copies of the tenant's services and endpoint slices, of its policies and groups, of the public addresses that lead here, and where there is one of those of
//! its ports and namespaces; what is programmed of them, which pod has which port.
//! **Tasks.** One per informer, three that program, one that keeps labels of ports, the name server's, one per connection to the API
//! server.
//! **Must not know.** Pods beyond their names, annotations and labels, containers, hosts, other tenants.
//!
//! The agent calls it on the machine's side: everything happens in the namespace of the calling process.

mod filters;
mod health;
mod ports;
mod public;
mod relay;
mod services;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use skep_client::Client;
use skep_net::egress::{ROUTER_IP, ROUTER_IP6, ROUTER_MAC};
use skep_net::machine::{MachineConfig, MachineNetwork};
use skep_net::route::Neighbour;
use skep_net::{MacAddr, Namespace};
use tokio::task::JoinSet;

/// The address of the `kubernetes` service, the first of the service range: the same in every tenant.
pub const API_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The port of the `kubernetes` service.
const API_PORT: u16 = 443;
/// The address that names are asked at, which no service is given: the same on every node of every tenant.
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The port that names are asked at.
const DNS_PORT: u16 = 53;

/// What a node's network is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Its zone, if it has one.
    pub zone: Option<String>,
    /// The bridge's name.
    pub bridge: String,
    /// The interface that leads out of the machine; none when it is alone.
    pub uplink: Option<String>,
    /// The cluster's domain, without a dot at its end.
    pub domain: String,
    /// Who is asked for names that are not the cluster's.
    pub upstreams: Vec<SocketAddr>,
    /// Others who are asked for some domains.
    pub stubs: Vec<skep_dns::Stub>,
    /// The socket that leads to the API server; without one, pods do not reach it.
    pub api_socket: Option<PathBuf>,
}

/// A pod that gets a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its annotations, which may ask for addresses and more.
    pub annotations: BTreeMap<String, String>,
    /// For a static pod the uid of its node, whose its port is then: the pod is not the API server's, and what that has of it comes and goes.
    pub static_of: Option<String>,
}

/// Why a node's network is not as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what was asked.
    #[error("could not {what}")]
    Api {
        /// What was asked.
        what: String,
        /// Why not.
        #[source]
        source: Box<skep_client::Error>,
    },
    /// The kernel did not do what was asked.
    #[error("could not {what}")]
    Kernel {
        /// What was asked.
        what: String,
        /// Why not.
        #[source]
        source: skep_net::Error,
    },
    /// The name server or the way to the API server could not be opened.
    #[error("could not {what}")]
    Listen {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something else has what is needed; it may be free later.
    #[error("{0}")]
    Taken(String),
    /// The work was cut off because the process ends.
    #[error("the network was not set up: the agent is ending")]
    Ending,
}

impl Error {
    fn api(what: impl Into<String>, source: skep_client::Error) -> Error {
        Error::Api { what: what.into(), source: Box::new(source) }
    }

    fn kernel(what: impl Into<String>, source: skep_net::Error) -> Error {
        Error::Kernel { what: what.into(), source }
    }

    /// The whole story in one line, for an event.
    #[must_use]
    pub fn full(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }
}

/// The running network of a node; its tasks end when it is dropped, and what is in the kernel stays for the next agent.
pub struct NodeNetwork {
    ports: ports::Ports,
    filters: Arc<filters::Filters>,
    publics: Arc<public::Publics>,
    machine: Arc<Mutex<MachineNetwork>>,
    addresses: Vec<IpNet>,
    _tasks: JoinSet<()>,
    _dns: skep_dns::Server,
}

impl std::fmt::Debug for NodeNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeNetwork").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Does something with the kernel where it may wait.
async fn in_kernel<T: Send + 'static>(
    what: impl Into<String>,
    work: impl FnOnce() -> skep_net::netlink::Result<T> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| Error::kernel(what, e)),
        Err(_) => Err(Error::Ending),
    }
}

impl NodeNetwork {
    /// Sets up the node's network in the namespace of this process, and keeps it current from then on. Services, names and
    /// filters are complete when it returns.
    ///
    /// # Errors
    /// When the tenant's network cannot be read, or the kernel refuses. It can be called again.
    pub async fn start(client: Client, config: Config) -> Result<NodeNetwork, Error> {
        let (ports, own) = ports::Ports::open(client.clone(), config.node.clone()).await?;
        let network = ports.network().await?;
        let addresses = own.as_ref().map(|o| network.with_prefix(&o.addresses)).unwrap_or_default();
        let mut all = addresses.clone();
        all.extend(network.gateways());
        all.extend([API_IP, DNS_IP].map(|ip| IpNet::from(IpAddr::from(ip))));
        let machine = MachineConfig {
            bridge: config.bridge.clone(),
            mac: own.map_or_else(|| own_mac(&config.node), |o| o.mac),
            mtu: network.mtu,
            addresses: all,
            uplink: config.uplink.clone(),
            gateways: config.uplink.iter().flat_map(|_| routers()).collect(),
        };
        let of_pods = ports.of_node().await?;
        let speakers: Vec<_> = of_pods.iter().filter_map(ports::Port::speaker).collect();
        let public = public::of_pods(&client, &config.node).await?;
        let machine = in_kernel("set up the node's bridge", move || {
            let mut machine = MachineNetwork::set_up(Namespace::current()?, machine)?;
            machine.add_routes(&[service_range()])?;
            machine.guard_pods(&speakers, &public)?;
            machine.leave_untracked(SocketAddrV4::new(DNS_IP, DNS_PORT))?;
            Ok(machine)
        })
        .await?;
        let mut tasks = JoinSet::new();
        let names = services::start(&client, &config, ports.network_name(), &mut tasks).await?;
        let filters =
            filters::start(&client, &config.node, ports.network_name(), of_pods, &mut tasks).await?;
        let machine = Arc::new(Mutex::new(machine));
        let (bridge, guards) = (machine.clone(), filters.clone());
        let publics = public::start(&client, &config.node, bridge, guards, &mut tasks).await;
        let listen = SocketAddr::from((DNS_IP, DNS_PORT));
        let dns = skep_dns::Config {
            listen: vec![listen],
            domain: config.domain.clone(),
            upstreams: config.upstreams.clone(),
            stubs: config.stubs.clone(),
        };
        let dns = skep_dns::Server::start(names, dns)
            .await
            .map_err(|source| Error::Listen { what: format!("answer names at {listen}"), source })?;
        if let Some(socket) = config.api_socket {
            relay::start(SocketAddr::from((API_IP, API_PORT)), socket, &mut tasks).await?;
        }
        Ok(NodeNetwork { ports, filters, publics, machine, addresses, _tasks: tasks, _dns: dns })
    }

    /// The node's own addresses in its tenant's network; none when it has no port.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(IpNet::addr).collect()
    }

    /// Whom pods ask for names.
    #[must_use]
    pub fn dns_servers(&self) -> Vec<IpAddr> {
        vec![DNS_IP.into()]
    }

    /// Gives a pod its port, and from it its interface in the namespace at `netns`, which is made if it is not there. Called
    /// again, it gives the same addresses.
    ///
    /// # Errors
    /// When there is no address for it, or the kernel refuses.
    pub async fn set_up(&self, pod: &PodRef, netns: &Path) -> Result<Vec<IpAddr>, Error> {
        let (config, port, others) = self.ports.pod_config(pod, netns).await?;
        // Whom it may talk to is said before it can.
        self.filters.add(&pod.uid, &port).await?;
        let addresses = config.addresses.iter().map(IpNet::addr).collect();
        let (machine, what) =
            (self.machine.clone(), format!("connect the pod {}/{}", pod.namespace, pod.name));
        let place = public::Place {
            netns: netns.to_owned(),
            private: config.addresses.clone(),
            gateways: config.gateways.clone(),
            networks: others.into_iter().chain([service_range()]).collect(),
            mtu: config.mtu,
        };
        in_kernel(what, move || machine.lock().set_up_pod(&config)).await?;
        self.publics.add(&pod.uid, place).await;
        Ok(addresses)
    }

    /// Takes a pod's network away: its interface, its namespace, its port. What is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses, or the port cannot be deleted now; it can be called again.
    pub async fn tear_down(&self, uid: &str, netns: &Path) -> Result<(), Error> {
        self.publics.remove(uid);
        let (machine, id, path) = (self.machine.clone(), uid.to_owned(), netns.to_owned());
        in_kernel("disconnect a pod", move || machine.lock().tear_down_pod(&id, &path)).await?;
        // Only then may somebody else have the addresses.
        self.ports.release(uid).await?;
        self.filters.remove(uid);
        Ok(())
    }

    /// What each pod sent and received, by the pod's uid.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn traffic(&self) -> Result<BTreeMap<String, skep_net::LinkStats>, Error> {
        let machine = self.machine.clone();
        let pods = in_kernel("count the pods' traffic", move || machine.lock().pods()).await?;
        Ok(pods.into_iter().map(|p| (p.id, p.stats)).collect())
    }
}

/// The addresses of services, the same in every tenant.
fn service_range() -> IpNet {
    const LENGTH: u8 = 16;
    let [a, b, ..] = API_IP.octets();
    // The length is less than an address has.
    ipnet::Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), LENGTH)
        .map_or_else(|_| IpAddr::from(API_IP).into(), IpNet::from)
}

/// The switch on the host, which leads out of the network: of IPv6 only what has a public address.
fn routers() -> [Neighbour; 2] {
    [ROUTER_IP.into(), ROUTER_IP6.into()].map(|ip: IpAddr| Neighbour { ip, mac: ROUTER_MAC })
}

/// The Ethernet address of a node without a port: it is alone on its bridge.
fn own_mac(node: &str) -> MacAddr {
    let hash =
        node.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    MacAddr([0x0a, a, b, c, d, e])
}
