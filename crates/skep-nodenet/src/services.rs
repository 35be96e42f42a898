//! The tenant's services: from the informers' copies into the kernel and into the names.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use skep_base::TenantName;
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

/// What is to be looked at.
#[derive(Default)]
struct Pending {
    keys: Mutex<BTreeSet<ServiceKey>>,
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
    let (running, also) = (services.clone(), slices.clone());
    tasks.spawn(async move { running.run().await });
    tasks.spawn(async move { also.run().await });
    services.synced().await;
    slices.synced().await;
    let kernel = in_kernel("open the packet filters", || Services::open(&Namespace::current()?)).await?;
    let mut programmer = Programmer {
        services,
        slices,
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
            let keys = std::mem::take(&mut *self.pending.keys.lock());
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

    /// What a service needs, in the kernel and by name, and where it is asked after.
    fn plan(&self, key: &ServiceKey) -> (Desired, Option<ServiceNames>, Option<(u16, usize)>) {
        let at = skep_client::ObjectKey::new(&self.tenant, &key.0, &key.1);
        let Some(service) = self.services.get(&at) else { return (Desired::default(), None, None) };
        let of_name = self.slices.by_index("service", &self.tenant, &key.1);
        let slices: Vec<&EndpointSlice> =
            of_name.iter().filter(|s| *s.key.namespace == *key.0).map(|s| &s.view.slice).collect();
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
        let mut keys = BTreeSet::new();
        self.services.for_each(|s| {
            keys.insert((s.key.namespace.to_string(), s.key.name.to_string()));
        });
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
