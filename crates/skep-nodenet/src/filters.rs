//! Whom this node's pods may talk to: from the informers' copies into the kernel.
//!
//! Both network policies and security groups are looked at here, for what two pods of one machine say to each other passes
//! nothing outside of it. Groups are looked at outside as well, where whoever is root in the machine changes nothing.
//!
//! A tenant without policies and groups costs two empty copies. With the first one its ports and namespaces are followed too:
//! ports carry the labels of their pods, which the API server sees to, and come and go with addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_base::{SharedStr, TenantName};
use skep_client::{Client, Event, Informer, Patch, Resource, Selection, Tenants};
use skep_net::Namespace;
use skep_net::filter::{Filter, Purpose};
use skep_netplan::filter::Desired;
use skep_netplan::filter::group::{self, Group, Member};
use skep_netplan::filter::policy::{self, Labels, NamedPort, Pod, Policy};
use skep_netplan::service::L4;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::ports::{PORTS, Port};
use crate::public::ByPod;
use crate::{Error, in_kernel};

const POLICIES: Resource = Resource::new("networking.k8s.io", "v1", "networkpolicies");
const GROUPS: Resource = Resource::new("network.skep.io", "v1", "securitygroups");
const NAMESPACES: Resource = Resource::new("", "v1", "namespaces");
const PODS: Resource = Resource::new("", "v1", "pods");
/// The port's list of its pod's ports with names: `http=TCP/8080,dns=UDP/53`.
const CONTAINER_PORTS_ANNOTATION: &str = "network.skep.io/container-ports";
/// What gathers before it is programmed: a rollout brings and takes many ports in a row.
const GATHER: Duration = Duration::from_millis(10);
/// So many times as long as the last plan took it waits before the next: planning costs a tenth of a processor at most, however
/// many ports come and go.
const REST: u32 = 9;
/// How long it waits after something failed.
const RETRY: Duration = Duration::from_secs(1);

/// What filters need of a port.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "Port")]
struct PortView {
    labels: Labels,
    addresses: Vec<IpAddr>,
    ports: Vec<NamedPort>,
    groups: Vec<SharedStr>,
    node: Option<SharedStr>,
    pod: Option<Box<str>>,
    network: SharedStr,
}

impl From<Port> for PortView {
    fn from(port: Port) -> PortView {
        PortView::of(&port)
    }
}

impl PortView {
    fn of(port: &Port) -> PortView {
        let (meta, spec) = (&port.metadata, &port.spec);
        let named = meta.annotations.get(CONTAINER_PORTS_ANNOTATION).map(String::as_str);
        PortView {
            labels: meta.labels.clone(),
            addresses: spec.addresses.clone(),
            ports: named.map(named_ports).unwrap_or_default(),
            groups: spec.security_group_names.clone(),
            node: spec.node_name.clone(),
            pod: spec.pod_name.as_deref().map(Into::into),
            network: spec.network_name.clone(),
        }
    }
}

fn named_ports(text: &str) -> Vec<NamedPort> {
    let read = |part: &str| {
        let (name, rest) = part.split_once('=')?;
        let (protocol, port) = rest.split_once('/')?;
        let protocol = match protocol {
            "TCP" => L4::Tcp,
            "UDP" => L4::Udp,
            "SCTP" => L4::Sctp,
            _ => return None,
        };
        Some(NamedPort { name: name.to_owned(), protocol, port: port.parse().ok()? })
    };
    text.split(',').filter_map(read).collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Labeled {
    metadata: LabeledMeta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LabeledMeta {
    labels: Labels,
}

/// The port of a pod of this node.
struct Own {
    namespace: String,
    name: String,
    view: PortView,
}

/// What is followed only where there is something to filter.
struct Wide {
    ports: Informer<PortView>,
    namespaces: Informer<Labeled>,
    _tasks: JoinSet<()>,
}

struct Programmed {
    policies: Filter,
    groups: Filter,
}

/// The filters of this node.
pub(crate) struct Filters {
    client: Client,
    tenant: TenantName,
    node: String,
    /// The network that the node is in: nobody else is reached from here.
    network: SharedStr,
    policies: Informer<Policy>,
    groups: Informer<Group>,
    pods: Informer<Labeled>,
    wide: tokio::sync::Mutex<Option<Wide>>,
    /// The ports of this node's pods, by the pod's uid: a pod is guarded from before it can talk, however late the copies are.
    own: Mutex<BTreeMap<String, Own>>,
    /// Their public addresses: they are guarded as the others are.
    publics: Mutex<ByPod>,
    programmed: Arc<Mutex<Programmed>>,
    changed: Arc<Notify>,
    /// Pods, by namespace and name, whose ports may have old labels.
    relabeled: Mutex<BTreeSet<(String, String)>>,
    relabel: Notify,
}

/// Starts to filter; `own` are the ports of this node. When it returns, all that there is to filter is.
pub(crate) async fn start(
    client: &Client,
    node: &str,
    network: &SharedStr,
    own: Vec<Port>,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Filters>, Error> {
    let open = || {
        let here = Namespace::current()?;
        let policies = Filter::open(&here, Purpose::Policies)?;
        Ok(Programmed { policies, groups: Filter::open(&here, Purpose::Groups)? })
    };
    let programmed = in_kernel("open the packet filters", open).await?;
    let own_pods =
        Selection::all(PODS, Tenants::Own).fields(&format!("spec.nodeName={node}")).metadata_only();
    let known = own.iter().filter_map(|port| Some((port.pod_uid()?.to_owned(), Own::of(port))));
    let filters = Arc::new(Filters {
        client: client.clone(),
        tenant: client.home().clone(),
        node: node.to_owned(),
        network: network.clone(),
        policies: Informer::builder(client, Selection::all(POLICIES, Tenants::Own)).build(),
        groups: Informer::builder(client, Selection::all(GROUPS, Tenants::Own)).build(),
        pods: Informer::builder(client, own_pods).build(),
        wide: tokio::sync::Mutex::default(),
        own: Mutex::new(known.collect()),
        publics: Mutex::default(),
        programmed: Arc::new(Mutex::new(programmed)),
        changed: Arc::new(Notify::new()),
        relabeled: Mutex::default(),
        relabel: Notify::new(),
    });
    tell(&filters.policies, &filters.changed);
    tell(&filters.groups, &filters.changed);
    let weak = Arc::downgrade(&filters);
    filters.pods.on_event(move |event| {
        if let Some(filters) = weak.upgrade().filter(|_| !matches!(event, Event::Deleted(_))) {
            let key = &event.object().key;
            filters.relabeled.lock().insert((key.namespace.to_string(), key.name.to_string()));
            filters.relabel.notify_one();
        }
    });
    let (policies, groups, pods) = (filters.policies.clone(), filters.groups.clone(), filters.pods.clone());
    tasks.spawn(async move { policies.run().await });
    tasks.spawn(async move { groups.run().await });
    tasks.spawn(async move { pods.run().await });
    filters.policies.synced().await;
    filters.groups.synced().await;
    filters.program().await?;
    let running = filters.clone();
    tasks.spawn(async move { running.run().await });
    let running = filters.clone();
    tasks.spawn(async move { running.keep_labels().await });
    Ok(filters)
}

/// Looks again when a copy changes.
fn tell<V: skep_client::View>(informer: &Informer<V>, changed: &Arc<Notify>) {
    let changed = changed.clone();
    informer.on_event(move |_| changed.notify_one());
}

impl Own {
    fn of(port: &Port) -> Own {
        let (namespace, name) = (port.metadata.namespace.clone(), port.metadata.name.clone());
        Own { namespace, name, view: PortView::of(port) }
    }
}

impl Filters {
    /// Guards a pod of this node: what it may not is closed when this returns.
    pub(crate) async fn add(&self, uid: &str, port: &Port) -> Result<(), Error> {
        self.own.lock().insert(uid.to_owned(), Own::of(port));
        // Its labels may have changed while the port was made.
        let namespace = port.metadata.namespace.clone();
        if let Some(pod) = &port.spec.pod_name {
            self.relabeled.lock().insert((namespace, pod.clone()));
            self.relabel.notify_one();
        }
        self.program().await
    }

    /// Forgets a pod that has no network any more.
    pub(crate) fn remove(&self, uid: &str) {
        self.own.lock().remove(uid);
        self.publics.lock().remove(uid);
        self.changed.notify_one();
    }

    /// Guards these public addresses of a pod of this node as its own, and no others: it is so when this returns.
    pub(crate) async fn set_public(&self, uid: &str, addresses: Vec<IpAddr>) -> Result<(), Error> {
        let before = if addresses.is_empty() {
            self.publics.lock().remove(uid).unwrap_or_default()
        } else {
            self.publics.lock().insert(uid.to_owned(), addresses.clone()).unwrap_or_default()
        };
        if before == addresses { Ok(()) } else { self.program().await }
    }

    async fn run(&self) {
        let mut rest = GATHER;
        loop {
            self.changed.notified().await;
            tokio::time::sleep(rest).await;
            let began = Instant::now();
            while let Err(error) = self.program().await {
                tracing::warn!(error = %error.full(), "filters could not be changed; all are put anew");
                tokio::time::sleep(RETRY).await;
            }
            rest = GATHER.max(REST * began.elapsed()).min(RETRY);
        }
    }

    /// Brings the kernel to what is to be.
    async fn program(&self) -> Result<(), Error> {
        // One at a time, and each with what is known then.
        let mut wide = self.wide.lock().await;
        let (mut policies, mut groups) = (Desired::default(), Desired::default());
        if !(self.policies.is_empty() && self.groups.is_empty() && !self.names_groups()) {
            let wide = match &mut *wide {
                Some(wide) => wide,
                none => none.insert(self.follow().await),
            };
            (policies, groups) = self.plan(wide);
        }
        let programmed = self.programmed.clone();
        in_kernel("program the filters", move || {
            let mut programmed = programmed.lock();
            programmed.policies.set(&policies)?;
            programmed.groups.set(&groups)?;
            Ok(())
        })
        .await
    }

    /// Whether a pod of this node names a group, even one that does not exist.
    fn names_groups(&self) -> bool {
        self.own.lock().values().any(|own| !own.view.groups.is_empty())
    }

    /// Begins to follow what filters need beside themselves.
    async fn follow(&self) -> Wide {
        let all = |resource| Selection::all(resource, Tenants::Own);
        let ports = Informer::builder(&self.client, all(PORTS)).build();
        let namespaces = Informer::builder(&self.client, all(NAMESPACES).metadata_only()).build();
        tell(&ports, &self.changed);
        tell(&namespaces, &self.changed);
        let mut tasks = JoinSet::new();
        let (running, also) = (ports.clone(), namespaces.clone());
        tasks.spawn(async move { running.run().await });
        tasks.spawn(async move { also.run().await });
        ports.synced().await;
        namespaces.synced().await;
        Wide { ports, namespaces, _tasks: tasks }
    }

    fn plan(&self, wide: &Wide) -> (Desired, Desired) {
        let (mut pods, mut members) = (Vec::new(), Vec::new());
        // By the port of the pod that has them.
        let mut public: BTreeMap<(String, String), Vec<IpAddr>> = BTreeMap::new();
        {
            let (own, publics) = (self.own.lock(), self.publics.lock());
            for (uid, addresses) in publics.iter() {
                if let Some(own) = own.get(uid) {
                    public.insert((own.namespace.clone(), own.name.clone()), addresses.clone());
                }
            }
        }
        let mut add = |namespace: &str, name: &str, view: &PortView| {
            if view.pod.is_none() || view.network != self.network {
                return;
            }
            let here = view.node.as_deref() == Some(self.node.as_str());
            let mut addresses = view.addresses.clone();
            if !public.is_empty()
                && let Some(more) = public.get(&(namespace.to_owned(), name.to_owned()))
            {
                addresses.extend(more);
            }
            members.push(Member { addresses: addresses.clone(), groups: view.groups.clone(), here });
            pods.push(Pod {
                namespace: namespace.into(),
                labels: view.labels.clone(),
                addresses,
                ports: view.ports.clone(),
                here,
            });
        };
        let mut seen = BTreeSet::new();
        wide.ports.for_each(|port| {
            add(&port.key.namespace, &port.key.name, &port.view);
            if port.view.node.as_deref() == Some(self.node.as_str()) {
                seen.insert((port.key.namespace.to_string(), port.key.name.to_string()));
            }
        });
        for own in self.own.lock().values() {
            if !seen.contains(&(own.namespace.clone(), own.name.clone())) {
                add(&own.namespace, &own.name, &own.view);
            }
        }
        let mut namespaces: BTreeMap<String, Labels> = BTreeMap::new();
        wide.namespaces.for_each(|namespace| {
            namespaces.insert(namespace.key.name.to_string(), namespace.view.metadata.labels.clone());
        });
        let mut policies: Vec<(String, Policy)> = Vec::new();
        self.policies.for_each(|policy| {
            policies.push((policy.key.namespace.to_string(), policy.view.clone()));
        });
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        self.groups.for_each(|group| {
            groups.insert(group.key.name.to_string(), group.view.clone());
        });
        (policy::plan(&policies, &namespaces, &pods), group::plan(&groups, &members))
    }

    /// Tells the server when pods of this node have labels that their ports have not. What is told it fills in itself.
    async fn keep_labels(&self) {
        loop {
            self.relabel.notified().await;
            let pods = std::mem::take(&mut *self.relabeled.lock());
            for (namespace, name) in pods {
                if let Err(error) = self.keep_label(&namespace, &name).await {
                    tracing::warn!(
                        %namespace, pod = %name, error = %error.full(),
                        "the labels of a pod are not told to its port; filters go by the old ones, and it is tried again"
                    );
                    self.relabeled.lock().insert((namespace, name));
                    self.relabel.notify_one();
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn keep_label(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let key = skep_client::ObjectKey::new(&self.tenant, namespace, name);
        let Some(pod) = self.pods.get(&key) else { return Ok(()) };
        let (port, old) = {
            let own = self.own.lock();
            let Some(port) = own.get(&*pod.uid) else { return Ok(()) };
            (port.name.clone(), port.view.labels.clone())
        };
        let new = &pod.view.metadata.labels;
        if *new == old {
            return Ok(());
        }
        let gone = old.keys().filter(|k| !new.contains_key(*k)).map(|k| (k.to_string(), Value::Null));
        let labels: serde_json::Map<String, Value> =
            gone.chain(new.iter().map(|(k, v)| (k.to_string(), json!(v)))).collect();
        let at = PORTS.at(Tenants::Own).namespace(namespace).name(&port);
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        match self.client.patch::<Port>(&at, &patch).await {
            Ok(port) => {
                if let Some(own) = self.own.lock().get_mut(&*pod.uid) {
                    own.view = PortView::of(&port);
                }
                self.changed.notify_one();
                Ok(())
            }
            // It goes, and its pod with it.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(Error::api(format!("label the port {namespace}/{port}"), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read() {
        let view: PortView = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "ns", "labels": {"app": "web"},
                "annotations": {"network.skep.io/container-ports": "http=TCP/80,dns=UDP/53,odd,x=Y/1"}},
            "spec": {"networkName": "default", "addresses": ["10.64.0.1", "fd00::1"], "mac": "02:00:00:00:00:01",
                "podName": "a", "nodeName": "n1", "securityGroupNames": ["g"]},
        }))
        .unwrap();
        assert_eq!(view.labels.get("app").map(AsRef::as_ref), Some("web"));
        assert_eq!((view.addresses.len(), view.groups.len(), &*view.network), (2, 1, "default"));
        let ports: Vec<_> = view.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect();
        assert_eq!(ports, [("http", L4::Tcp, 80), ("dns", L4::Udp, 53)]);
        assert_eq!((view.node.as_deref(), view.pod.as_deref()), (Some("n1"), Some("a")));
    }
}
