//! What all parts of the agent share.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use skep_base::quantity::Quantity;
use skep_client::{Client, Informer};
use skep_runtime::Runtime;

use crate::events::Events;
use crate::files::DnsSettings;
use crate::hostports::HostPorts;
use crate::images::ImageSource;
use crate::network::PodNetwork;
use crate::objects::ObjectCache;
use crate::pod_users::PodUsers;
use crate::security::Policy;
use crate::volume::Layout;

/// The node, as its pods' workers know it.
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// The way to the API server.
    pub client: Client,
    /// Containers.
    pub runtime: Runtime,
    /// Images.
    pub images: Arc<dyn ImageSource>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// The machine's ports that lead to pods.
    pub host_ports: Arc<HostPorts>,
    /// Users of pods' own.
    pub pod_users: Arc<PodUsers>,
    /// Config maps and secrets.
    pub objects: ObjectCache,
    /// The tenant's services.
    pub services: Informer<Service>,
    /// Events.
    pub events: Events,
    /// Where things lie.
    pub layout: Layout,
    /// What is allowed.
    pub policy: Policy,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// What pods can have.
    pub allocatable: BTreeMap<String, Quantity>,
    /// The machine's memory.
    pub memory_capacity_bytes: i64,
    /// How short it may become before pods are evicted.
    pub thresholds: crate::thresholds::Thresholds,
    /// The domain of the tenant's services.
    pub cluster_domain: String,
    /// Most processes of a pod; negative for no limit.
    pub pod_pids_limit: i64,
    /// When the agent began: what ran before is treated with care.
    pub started: jiff::Timestamp,
}

impl Node {
    /// How names are resolved here.
    #[must_use]
    pub fn dns(&self) -> DnsSettings {
        let path = self.layout.host_root.join("etc/resolv.conf");
        DnsSettings {
            servers: self.network.dns_servers(),
            domain: self.cluster_domain.clone(),
            host_resolv_conf: std::fs::read_to_string(path).unwrap_or_default(),
        }
    }

    /// The machine's own hosts file.
    #[must_use]
    pub fn hosts(&self) -> String {
        std::fs::read_to_string(self.layout.host_root.join("etc/hosts")).unwrap_or_default()
    }
}
