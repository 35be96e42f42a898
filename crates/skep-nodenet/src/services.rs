//! The tenant's services: from the informers' copies into the kernel and into the names.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use skep_base::{SharedStr, TenantName};
use skep_client::{Client, Informer, Resource, Selection, Tenants};
use skep_dns::{EndpointName, NamedPort, Names, ServiceNames, Target};
use skep_net::Namespace;
use skep_net::service::Services;
use skep_netplan::service::{
    Change, Desired, EndpointSlice, L4, Place, Service, ServiceKey, ServiceType, Table, desired, ready_here,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::health::HealthChecks;
use crate::{Config, Error, in_kernel};

const SERVICES: Resource = Resource::new("", "v1", "services");
const SUBNETS: Resource = Resource::new("network.skep.io", "v1", "subnets");
const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
/// The label of a slice that names its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// How long after one transaction the next one begins at the earliest: a rollout changes a slice many times in a row, and one transaction
/// for all of them costs hardly more than one for each. A change that comes alone does not wait.
const GATHER: Duration = Duration::from_millis(5);
/// How long it waits after the kernel refused, before everything is put anew.
const RETRY: Duration = Duration::from_secs(1);
/// The service that is led to the API server by other means.
const API: (&str, &str) = ("default", "kubernetes");

/// A slice with the service that it belongs to.
#[derive(Default)]
struct SliceView {
    service: String,
    slice: EndpointSlice,
}

impl<'de> Deserialize<'de> for SliceView {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SliceView, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            metadata: Meta,
            #[serde(flatten)]
            slice: EndpointSlice,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Meta {
            labels: HashMap<String, String>,
        }
        let mut wire = Wire::deserialize(deserializer)?;
        let service = wire.metadata.labels.remove(SERVICE_LABEL).unwrap_or_default();
        Ok(SliceView { service, slice: wire.slice })
    }
}

/// A subnet of any of the tenant's networks.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct SubnetView {
    spec: SubnetSpec,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SubnetSpec {
    network_name: SharedStr,
    cidr: String,
}

/// Which endpoints are reached from a network: its own, and those that are in none of the tenant's others, which may be anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reach {
    own: Vec<IpNet>,
    others: Vec<IpNet>,
}

impl Reach {
    fn of<'a>(network: &str, subnets: impl Iterator<Item = &'a SubnetSpec>) -> Reach {
        let mut reach = Reach::default();
        for subnet in subnets {
            let Ok(net) = subnet.cidr.parse() else { continue };
            if *subnet.network_name == *network { &mut reach.own } else { &mut reach.others }.push(net);
        }
        reach
    }

    fn has(&self, ip: IpAddr) -> bool {
        let within = |all: &[IpNet]| all.iter().any(|net| net.contains(&ip));
        within(&self.own) || !within(&self.others)
    }

    /// A slice without what is not reached; nothing if all of it is.
    fn cut(&self, slice: &EndpointSlice) -> Option<EndpointSlice> {
        if slice.endpoints.iter().all(|e| e.address.is_none_or(|ip| self.has(ip))) {
            return None;
        }
        let mut cut = slice.clone();
        cut.endpoints.retain(|e| e.address.is_none_or(|ip| self.has(ip)));
        Some(cut)
    }
}

/// What is to be looked at.
#[derive(Default)]
struct Pending {
    keys: Mutex<BTreeSet<ServiceKey>>,
    /// Subnets came or went: all services are.
    everything: AtomicBool,
    changed: Notify,
}

impl Pending {
    fn add(&self, namespace: &str, name: &str) {
        if !name.is_empty() {
            self.keys.lock().insert((namespace.to_owned(), name.to_owned()));
            self.changed.notify_one();
        }
    }
}

struct Programmer {
    services: Informer<Service>,
    slices: Informer<SliceView>,
    subnets: Informer<SubnetView>,
    /// The network that the node is in.
    network: SharedStr,
    reach: Reach,
    tenant: TenantName,
    place: Place,
    names: Arc<RwLock<Names>>,
    pending: Arc<Pending>,
    table: Table,
    kernel: Arc<Mutex<Services>>,
    health: HealthChecks,
}

/// Starts to follow the services. When it returns, all that there are are programmed and have their names.
pub(crate) async fn start(
    client: &Client,
    config: &Config,
    network: &SharedStr,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<RwLock<Names>>, Error> {
    // What objects that do not say their tenant are kept under.
    let home = client.home().clone();
    let services = Informer::<Service>::builder(client, Selection::all(SERVICES, Tenants::Own)).build();
    let slices = Informer::<SliceView>::builder(client, Selection::all(SLICES, Tenants::Own))
        .index("service", |view, emit| emit(&view.service))
        .build();
    let pending = Arc::new(Pending::default());
    let p = pending.clone();
    services.on_event(move |event| p.add(&event.object().key.namespace, &event.object().key.name));
    let p = pending.clone();
    slices.on_event(move |event| {
        let object = event.object();
        p.add(&object.key.namespace, &object.view.service);
        if let skep_client::Event::Changed { old, .. } = event {
            p.add(&old.key.namespace, &old.view.service);
        }
    });
    let subnets = Informer::<SubnetView>::builder(client, Selection::all(SUBNETS, Tenants::Own)).build();
    let p = pending.clone();
    subnets.on_event(move |_| {
        p.everything.store(true, Ordering::SeqCst);
        p.changed.notify_one();
    });
    let (running, also, nets) = (services.clone(), slices.clone(), subnets.clone());
    tasks.spawn(async move { running.run().await });
    tasks.spawn(async move { also.run().await });
    tasks.spawn(async move { nets.run().await });
    services.synced().await;
    slices.synced().await;
    subnets.synced().await;
    let kernel = in_kernel("open the packet filters", || Services::open(&Namespace::current()?)).await?;
    let mut programmer = Programmer {
        services,
        slices,
        subnets,
        network: network.clone(),
        reach: Reach::default(),
        tenant: home,
        place: Place { node: config.node.clone(), zone: config.zone.clone() },
        names: Arc::default(),
        pending,
        table: Table::default(),
        kernel: Arc::new(Mutex::new(kernel)),
        health: HealthChecks::default(),
    };
    programmer.replace().await?;
    let names = programmer.names.clone();
    tasks.spawn(async move { programmer.run().await });
    Ok(names)
}

impl Programmer {
    async fn run(&mut self) {
        let mut next = Instant::now();
        loop {
            self.pending.changed.notified().await;
            tokio::time::sleep_until(next).await;
            let mut keys = std::mem::take(&mut *self.pending.keys.lock());
            if self.pending.everything.swap(false, Ordering::SeqCst) && self.look_around() {
                keys.extend(self.all());
            }
            if let Err(error) = self.update(&keys).await {
                tracing::warn!(error = %error.full(), "services could not be changed; all are put anew");
                self.health.set_programmed(false);
                while let Err(error) = self.replace().await {
                    tracing::warn!(error = %error.full(), "services could not be put anew; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
            next = Instant::now() + GATHER;
        }
    }

    /// Looks anew which endpoints are reached; whether that has changed.
    fn look_around(&mut self) -> bool {
        let mut all = Vec::new();
        self.subnets.for_each(|subnet| all.push(subnet.clone()));
        let mut reach = Reach::of(&self.network, all.iter().map(|s| &s.view.spec));
        // The copies have no order.
        reach.own.sort();
        reach.others.sort();
        let changed = reach != self.reach;
        self.reach = reach;
        changed
    }

    fn all(&self) -> BTreeSet<ServiceKey> {
        let mut keys = BTreeSet::new();
        self.services.for_each(|s| {
            keys.insert((s.key.namespace.to_string(), s.key.name.to_string()));
        });
        keys
    }

    /// What a service needs, in the kernel and by name, and where it is asked after.
    fn plan(&self, key: &ServiceKey) -> (Desired, Option<ServiceNames>, Option<(u16, usize)>) {
        let at = skep_client::ObjectKey::new(&self.tenant, &key.0, &key.1);
        let Some(service) = self.services.get(&at) else { return (Desired::default(), None, None) };
        let of_name = self.slices.by_index("service", &self.tenant, &key.1);
        let slices = of_name.iter().filter(|s| *s.key.namespace == *key.0).map(|s| &s.view.slice);
        let cut: Vec<(&EndpointSlice, Option<EndpointSlice>)> =
            slices.map(|s| (s, self.reach.cut(s))).collect();
        let slices: Vec<&EndpointSlice> = cut.iter().map(|(all, cut)| cut.as_ref().unwrap_or(all)).collect();
        let names = names_of(&service.view, &slices);
        // Its address is the machine's own: the way to the API server listens there.
        let wanted = if (key.0.as_str(), key.1.as_str()) == API {
            Desired::default()
        } else {
            desired(&service.view, &slices, &self.place)
        };
        let check = service.view.health_check_node_port.map(|port| (port, ready_here(&slices, &self.place)));
        (wanted, Some(names), check)
    }

    fn set(&mut self, key: &ServiceKey) -> Vec<Change> {
        let (wanted, names, check) = self.plan(key);
        self.names.write().set(&key.0, &key.1, names);
        self.health.set(key, check);
        self.table.set(key, &wanted)
    }

    async fn update(&mut self, keys: &BTreeSet<ServiceKey>) -> Result<(), Error> {
        let changes: Vec<Change> = keys.iter().flat_map(|key| self.set(key)).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let kernel = self.kernel.clone();
        in_kernel("change the services", move || kernel.lock().apply(&changes)).await
    }

    /// Puts everything anew, from the copies.
    async fn replace(&mut self) -> Result<(), Error> {
        self.table = Table::default();
        self.pending.keys.lock().clear();
        self.look_around();
        let keys = self.all();
        self.health.retain(|key| keys.contains(key));
        let changes: Vec<Change> = keys.iter().flat_map(|key| self.set(key)).collect();
        let kernel = self.kernel.clone();
        in_kernel("program the services", move || kernel.lock().replace(&changes)).await?;
        self.health.set_programmed(true);
        Ok(())
    }
}

fn protocol(l4: L4) -> &'static str {
    match l4 {
        L4::Tcp => "tcp",
        L4::Udp => "udp",
        L4::Sctp => "sctp",
    }
}

fn names_of(service: &Service, slices: &[&EndpointSlice]) -> ServiceNames {
    if service.kind == ServiceType::ExternalName {
        return ServiceNames { target: Target::Alias(service.external_name.clone().unwrap_or_default()) };
    }
    if !service.cluster_ips.is_empty() {
        let port = |p: &skep_netplan::service::ServicePort| NamedPort {
            name: p.name.clone(),
            protocol: protocol(p.protocol),
            port: p.port,
        };
        let ports = service.ports.iter().filter(|p| !p.name.is_empty()).map(port).collect();
        return ServiceNames { target: Target::Service(service.cluster_ips.clone(), ports) };
    }
    let mut all: Vec<EndpointName> = Vec::new();
    for slice in slices {
        let port = |p: &skep_netplan::service::EndpointPort| {
            Some(NamedPort { name: p.name.clone(), protocol: protocol(p.protocol), port: p.port? })
        };
        let ports: Vec<NamedPort> =
            slice.ports.iter().filter(|p| !p.name.is_empty()).filter_map(port).collect();
        for endpoint in slice.endpoints.iter().filter(|e| e.ready || service.publish_not_ready) {
            let Some(ip) = endpoint.address else { continue };
            if !all.iter().any(|e| e.ip == ip && e.hostname == endpoint.hostname) {
                all.push(EndpointName { hostname: endpoint.hostname.clone(), ip, ports: ports.clone() });
            }
        }
    }
    all.sort_by_key(|e| e.ip);
    ServiceNames { target: Target::Headless(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_other_networks_are_left_out() {
        let subnet = |network: &str, cidr: &str| SubnetSpec {
            network_name: SharedStr::new(network),
            cidr: cidr.to_owned(),
        };
        let subnets = [
            subnet("default", "10.64.0.0/14"),
            subnet("blue", "10.200.0.0/24"),
            subnet("blue", "10.64.9.0/24"),
            subnet("blue", "no subnet"),
        ];
        let (near, far) = (Reach::of("default", subnets.iter()), Reach::of("blue", subnets.iter()));
        for (ip, from_default, from_blue) in [
            ("10.64.0.7", true, false),
            ("10.200.0.7", false, true),
            // Both have it, each its own.
            ("10.64.9.7", true, true),
            ("192.0.2.1", true, true),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!((near.has(ip), far.has(ip)), (from_default, from_blue), "{ip}");
        }
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.64.0.7"]}, {"addresses": ["10.200.0.7"]}],
        }))
        .unwrap();
        let left = |reach: &Reach| {
            let cut = reach.cut(&slice).unwrap_or_else(|| slice.clone());
            cut.endpoints.iter().filter_map(|e| e.address).map(|ip| ip.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left(&near), ["10.64.0.7"]);
        assert_eq!(left(&far), ["10.200.0.7"]);
        assert_eq!(left(&Reach::default()).len(), 2);
    }
}
