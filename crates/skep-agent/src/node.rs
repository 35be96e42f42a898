//! The node's own objects: registration, status, lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, NodeSystemInfo, Taint};
use serde_json::{Value, json};
use skep_client::{Client, Event, Informer, ObjectPath, Patch, Resource, Selection, Tenants};
use tokio::sync::Notify;

use crate::images::ImageSource;

/// How often the lease is renewed, and for how long it holds. Upstream's: controllers count on it.
const LEASE_RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// Where nodes' leases are.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the status is looked at, and said again although nothing changed.
const STATUS_CHECK: Duration = Duration::from_secs(10);
const STATUS_REPORT: jiff::SignedDuration = jiff::SignedDuration::from_secs(300);
/// Pause after a server that does not take the node.
const RETRY: Duration = Duration::from_secs(1);
/// So many images are listed, the largest first: upstream's `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;
/// What the node says of itself: the level of the API that it speaks.
const KUBELET_VERSION: &str = concat!("v1.36.0-skep.", env!("CARGO_PKG_VERSION"));

/// What is short on the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk.
    pub disk: bool,
    /// Processes.
    pub pid: bool,
}

/// What the node is, apart from its conditions.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Labels besides the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints with which it is registered.
    pub taints: Vec<Taint>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// What it has.
    pub capacity: BTreeMap<String, String>,
    /// What pods may have of it.
    pub allocatable: BTreeMap<String, String>,
    /// Whether pods' supplementary groups can be made strict, and mounts recursively read-only.
    pub info: NodeSystemInfo,
    /// Whether pods can have users of their own.
    pub user_namespaces: bool,
}

/// The node's object as the server has it, and what this agent says of it.
pub struct NodeObject {
    client: Client,
    facts: NodeFacts,
    images: Arc<dyn ImageSource>,
    current: Mutex<Node>,
    state: Mutex<(Pressure, Option<String>)>,
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel says of the machine.
#[must_use]
pub fn system_info() -> NodeSystemInfo {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_image = release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map(|v| v.trim_matches('"').to_owned())
        .unwrap_or_else(|| "Linux".to_owned());
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("skep://", env!("CARGO_PKG_VERSION")).to_owned(),
        kernel_version: text("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        machine_id: text("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image,
        swap: None,
        system_uuid: text("/sys/class/dmi/id/product_uuid").to_lowercase(),
    }
}

/// The machine's architecture as Kubernetes calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> NodeCondition {
    NodeCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..NodeCondition::default()
    }
}

/// The node's conditions; times move only when a status does, except for the heartbeat.
#[must_use]
pub fn conditions(
    old: &[NodeCondition],
    pressure: Pressure,
    not_ready: Option<&str>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let pick = |is: bool, kind: &str, bad: (&str, &str), good: (&str, &str)| {
        let (reason, message) = if is { bad } else { good };
        condition(kind, is, reason, message)
    };
    let mut all = vec![
        pick(
            pressure.memory,
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pick(
            pressure.disk,
            "DiskPressure",
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pick(
            pressure.pid,
            "PIDPressure",
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        match not_ready {
            None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
            Some(why) => condition("Ready", false, "KubeletNotReady", why),
        },
    ];
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
    for c in &mut all {
        c.last_heartbeat_time = Some(time.clone());
        let before = old.iter().find(|o| o.type_ == c.type_).filter(|o| o.status == c.status);
        c.last_transition_time = before.and_then(|b| b.last_transition_time.clone()).or(Some(time.clone()));
    }
    all
}

impl NodeObject {
    /// Not registered yet.
    #[must_use]
    pub fn new(client: Client, facts: NodeFacts, images: Arc<dyn ImageSource>) -> NodeObject {
        let current = Mutex::new(object(&facts));
        let state = Mutex::new((Pressure::default(), None));
        NodeObject { client, facts, images, current, state, wake: Notify::new() }
    }

    fn path(&self) -> ObjectPath {
        Resource::of::<Node>().at(Tenants::Own).name(&self.facts.name)
    }

    /// The node as last seen.
    #[must_use]
    pub fn current(&self) -> Node {
        lock(&self.current).clone()
    }

    /// What is short now.
    pub fn set_pressure(&self, pressure: Pressure) {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.0, pressure) != pressure {
            self.wake.notify_one();
        }
    }

    /// Why the node is not ready; nothing when it is.
    pub fn set_not_ready(&self, why: Option<String>) {
        let mut state = lock(&self.state);
        if state.1 != why {
            state.1 = why;
            self.wake.notify_one();
        }
    }

    async fn status(&self, old: &NodeStatus, now: Timestamp) -> NodeStatus {
        let (pressure, not_ready) = lock(&self.state).clone();
        let mut images = self.images.list().await;
        images.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
        images.truncate(MAX_IMAGES);
        let quantities = |map: &BTreeMap<String, String>| {
            Some(
                map.iter()
                    .map(|(k, v)| {
                        (k.clone(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(v.clone()))
                    })
                    .collect(),
            )
        };
        let address = |kind: &str, address: &str| k8s_openapi::api::core::v1::NodeAddress {
            type_: kind.to_owned(),
            address: address.to_owned(),
        };
        let mut addresses: Vec<_> = self.facts.addresses.iter().map(|a| address("InternalIP", a)).collect();
        addresses.push(address("Hostname", &self.facts.name));
        NodeStatus {
            addresses: Some(addresses),
            capacity: quantities(&self.facts.capacity),
            allocatable: quantities(&self.facts.allocatable),
            conditions: Some(conditions(
                old.conditions.as_deref().unwrap_or_default(),
                pressure,
                not_ready.as_deref(),
                now,
            )),
            images: (!images.is_empty()).then_some(images),
            node_info: Some(self.facts.info.clone()),
            features: Some(k8s_openapi::api::core::v1::NodeFeatures {
                supplemental_groups_policy: Some(true),
            }),
            runtime_handlers: Some(vec![k8s_openapi::api::core::v1::NodeRuntimeHandler {
                name: Some(String::new()),
                features: Some(k8s_openapi::api::core::v1::NodeRuntimeHandlerFeatures {
                    recursive_read_only_mounts: Some(true),
                    user_namespaces: Some(self.facts.user_namespaces),
                }),
            }]),
            ..NodeStatus::default()
        }
    }

    /// Makes the node known, or takes up the object that is there.
    async fn register(&self) -> Result<(), skep_client::Error> {
        let wanted = object(&self.facts);
        let nodes = Resource::of::<Node>().at(Tenants::Own);
        let node: Node = match self.client.create(&nodes, &wanted).await {
            Ok(node) => node,
            Err(e) if e.is_already_exists() => {
                let labels = wanted.metadata.labels.clone().unwrap_or_default();
                let patch = Patch::Strategic(json!({"metadata": {"labels": labels}}));
                self.client.patch(&self.path(), &patch).await?
            }
            Err(e) => return Err(e),
        };
        *lock(&self.current) = node;
        Ok(())
    }

    /// Registers the node and keeps its status true. Runs until the future is dropped.
    pub async fn run(self: Arc<Self>, registered: Arc<Notify>) {
        while let Err(error) = self.register().await {
            tracing::warn!(node = self.facts.name, %error, "the node cannot be registered yet");
            tokio::time::sleep(RETRY).await;
        }
        let follow = tokio::spawn(follow(self.clone()));
        let mut said: Option<(NodeStatus, Timestamp)> = None;
        loop {
            let now = Timestamp::now();
            let shown = self.current().status.unwrap_or_default();
            let given_up = is_given_up(&shown);
            let old = said.as_ref().filter(|_| !given_up).map_or(shown, |(s, _)| s.clone());
            let status = self.status(&old, now).await;
            let due = given_up
                || said.as_ref().is_none_or(|(last, at)| {
                    !same_but_heartbeat(last, &status) || now.duration_since(*at) >= STATUS_REPORT
                });
            if due {
                match self.say(&status).await {
                    Ok(()) => {
                        said = Some((status, now));
                        registered.notify_one();
                    }
                    Err(e) if e.is_not_found() => {
                        said = None;
                        if let Err(error) = self.register().await {
                            tracing::warn!(node = self.facts.name, %error, "the node is gone and cannot be registered again yet");
                        }
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(node = self.facts.name, %error, "the node's status cannot be said");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(STATUS_CHECK) => {}
                () = self.wake.notified() => {}
            }
            if follow.is_finished() {
                return;
            }
        }
    }

    async fn say(&self, status: &NodeStatus) -> Result<(), skep_client::Error> {
        let mut value = serde_json::to_value(status).unwrap_or(Value::Null);
        if let Some(addresses) = value.get_mut("addresses").and_then(Value::as_array_mut) {
            // Addresses merge by type: without this, old ones would stay.
            addresses.insert(0, json!({"$patch": "replace"}));
        }
        let patch = Patch::Strategic(json!({"status": value}));
        self.client.patch_bytes(&self.path().subresource("status"), &patch).await.map(drop)
    }

    /// Keeps the node's lease. Runs until the future is dropped.
    pub async fn keep_lease(self: Arc<Self>) {
        let mut lease: Option<Lease> = None;
        loop {
            match self.renew(lease.take()).await {
                Ok(renewed) => {
                    lease = Some(renewed);
                    tokio::time::sleep(LEASE_RENEW).await;
                }
                Err(error) => {
                    // Somebody else wrote or removed it, or the server is away: look anew.
                    tracing::debug!(node = self.facts.name, %error, "the node's lease was not renewed; it will be tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn renew(&self, known: Option<Lease>) -> Result<Lease, skep_client::Error> {
        let leases = Resource::of::<Lease>().at(Tenants::Own).namespace(LEASE_NAMESPACE);
        let own = leases.clone().name(&self.facts.name);
        let known = match known {
            Some(lease) => Some(lease),
            None => match self.client.read::<Lease>(&own).await {
                Ok(lease) => Some(lease),
                Err(e) if e.is_not_found() => None,
                Err(e) => return Err(e),
            },
        };
        let is_new = known.is_none();
        let mut lease = known.unwrap_or_default();
        let node = self.current();
        lease.metadata.name = Some(self.facts.name.clone());
        lease.metadata.namespace = Some(LEASE_NAMESPACE.to_owned());
        lease.metadata.owner_references =
            Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: self.facts.name.clone(),
                uid: node.metadata.uid.unwrap_or_default(),
                ..Default::default()
            }]);
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.facts.name.clone());
        spec.lease_duration_seconds = Some(LEASE_SECONDS);
        spec.renew_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now()));
        if is_new {
            self.client.create(&leases, &lease).await
        } else {
            self.client.update(&own, &lease).await
        }
    }
}

/// Keeps the copy of the node's object: its labels and taints decide about pods.
async fn follow(object: Arc<NodeObject>) {
    let selection = Selection::all(Resource::of::<Node>(), Tenants::Own)
        .fields(&format!("metadata.name={}", object.facts.name));
    let informer = Informer::<Node>::builder(&object.client, selection).build();
    let seen = object.clone();
    informer.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. }) {
            let node = &event.object().view;
            *lock(&seen.current) = node.clone();
            if node.status.as_ref().is_some_and(is_given_up) {
                seen.wake.notify_one();
            }
        } else {
            // It is registered again with the next status.
            seen.wake.notify_one();
        }
    });
    informer.run().await;
}

fn object(facts: &NodeFacts) -> Node {
    let mut labels = facts.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", facts.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let mut node = Node::default();
    node.metadata.name = Some(facts.name.clone());
    node.metadata.labels = Some(labels);
    node.spec = Some(k8s_openapi::api::core::v1::NodeSpec {
        taints: (!facts.taints.is_empty()).then(|| facts.taints.clone()),
        ..Default::default()
    });
    node
}

/// Whether somebody says of the node that nothing is known of it: this agent was silent for too long, and never says so itself.
fn is_given_up(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.status == "Unknown")
}

fn same_but_heartbeat(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        s
    };
    still(a) == still(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_their_times() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let first = conditions(&[], Pressure::default(), None, at(1));
        let words: Vec<(&str, &str)> = first.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        assert_eq!(
            words,
            [
                ("MemoryPressure", "False"),
                ("DiskPressure", "False"),
                ("PIDPressure", "False"),
                ("Ready", "True")
            ]
        );
        let second = conditions(&first, Pressure { memory: true, ..Default::default() }, Some("x"), at(2));
        let times = |c: &NodeCondition| {
            (c.last_transition_time.clone().unwrap().0, c.last_heartbeat_time.clone().unwrap().0)
        };
        assert_eq!(times(&second[0]), (at(2), at(2)));
        assert_eq!(times(&second[1]), (at(1), at(2)));
        assert_eq!(second[3].message.as_deref(), Some("x"));
    }
}
