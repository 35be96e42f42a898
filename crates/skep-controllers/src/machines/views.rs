//! What is read of the objects.

use std::collections::BTreeMap;

use serde::Deserialize;
use skep_api::compute::{Flavor, Host, Machine, NodePool};
use skep_base::quantity::Quantity;
use skep_base::{SharedStr, TenantName};
use skep_client::informer::Builder;
use skep_client::{Resource, Selection, Tenants};
use skep_plan::machines::Amounts;
use skep_plan::machines::fit::{Demands, Requirement, Toleration};
use skep_plan::raw;

use crate::Kind;

/// Index of nodes and machines by the name of a machine's node.
pub(super) const BY_NODE: &str = "node";
/// Index of nodes by the machine that they say they are.
pub(super) const BY_MACHINE: &str = "machine";
/// Pods on one node, unless the node says otherwise.
pub(super) const PODS_MAX: u64 = 110;

impl Kind for Machine {
    const RESOURCE: Resource = Resource::of::<Machine>();
    fn indexes(builder: Builder<Self>) -> Builder<Self> {
        builder.index(BY_NODE, |machine, emit| emit(machine.node_name()))
    }
}

impl Kind for Host {
    const RESOURCE: Resource = Resource::of::<Host>();
    fn selection() -> Selection {
        Selection::all(Self::RESOURCE, Tenants::One(TenantName::system()))
    }
}

impl Kind for NodePool {
    const RESOURCE: Resource = Resource::of::<NodePool>();
}

impl Kind for Flavor {
    const RESOURCE: Resource = Resource::of::<Flavor>();
    fn selection() -> Selection {
        Selection::all(Self::RESOURCE, Tenants::One(TenantName::system()))
    }
}

type Written = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn amount(text: &str) -> Quantity {
    text.trim().parse().unwrap_or(Quantity::ZERO)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Amounts as objects write them; what is not given is none.
pub(super) fn amounts_of<'a>(named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Amounts {
    let mut amounts = Amounts::default();
    for (name, text) in named {
        match name {
            "cpu" => amounts.cpu_millis = unsigned(amount(text).milli_value()),
            "memory" => amounts.memory_bytes = unsigned(amount(text).value()),
            "ephemeral-storage" => amounts.disk_bytes = unsigned(amount(text).value()),
            "pods" => amounts.pods = unsigned(amount(text).value()),
            _ => {}
        }
    }
    amounts
}

/// The same, of a list of resources.
pub(super) fn amounts(resources: &Written) -> Amounts {
    amounts_of(resources.iter().map(|(name, q)| (name.as_str(), q.0.as_str())))
}

/// A node, as far as its machine cares.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeView {
    metadata: NodeMeta,
    spec: NodeSpec,
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeMeta {
    labels: Option<MachineLabel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MachineLabel {
    #[serde(rename = "compute.skep.io/machine")]
    machine: Option<SharedStr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    unschedulable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    allocatable: BTreeMap<SharedStr, SharedStr>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    #[serde(rename = "type")]
    type_: SharedOrEmpty,
    status: SharedOrEmpty,
    reason: SharedOrEmpty,
    last_transition_time: Option<jiff::Timestamp>,
}

/// A text that may be missing.
type SharedOrEmpty = Option<SharedStr>;

fn is(text: &SharedOrEmpty, want: &str) -> bool {
    text.as_ref().is_some_and(|t| t.as_str() == want)
}

impl NodeView {
    /// The machine that it says it is.
    pub(super) fn machine(&self) -> Option<&str> {
        Some(self.metadata.labels.as_ref()?.machine.as_ref()?.as_str())
    }

    /// Whether it takes no new pods.
    pub(super) fn is_closed(&self) -> bool {
        self.spec.unschedulable
    }

    /// Since when it is ready; `None` if it is not.
    pub(super) fn ready_since(&self) -> Option<jiff::Timestamp> {
        let ready = self.status.conditions.iter().find(|c| is(&c.type_, "Ready"))?;
        if is(&ready.status, "True") { ready.last_transition_time } else { None }
    }

    /// What it offers to pods.
    pub(super) fn allocatable(&self) -> Amounts {
        amounts_of(self.status.allocatable.iter().map(|(k, v)| (k.as_str(), v.as_str())))
    }
}

impl Kind for NodeView {
    const RESOURCE: Resource = Resource::new("", "v1", "nodes");
    fn indexes(builder: Builder<Self>) -> Builder<Self> {
        builder.index(BY_MACHINE, |node, emit| node.machine().into_iter().for_each(emit))
    }
}

/// What a waiting pod asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(super) amounts: Amounts,
    pub(super) demands: Demands,
}

/// Whether every node has one like this.
pub(crate) fn comes_with_every_node(pod: &raw::Pod<'_>) -> bool {
    let owners = &pod.metadata.owner_references;
    owners.iter().any(|o| o.controller == Some(true) && &*o.kind == "DaemonSet")
        || pod.metadata.annotations.as_ref().is_some_and(|a| a.mirror.is_some())
}

impl Waiting {
    /// What a pod waits with; `None` if it does not wait for a node that would have room.
    pub(crate) fn of(pod: &raw::Pod<'_>) -> Option<Waiting> {
        let raw::Pod { metadata, spec, status } = pod;
        let refused =
            status.conditions.iter().any(|c| &*c.kind == "PodScheduled" && &*c.reason == "Unschedulable");
        let waits = refused
            && spec.node_name.is_empty()
            && !matches!(&*status.phase, "Succeeded" | "Failed")
            && metadata.deletion_timestamp.is_none()
            && spec.scheduling_gates.is_empty();
        waits.then(|| Waiting { amounts: pod_amounts(spec), demands: demands(spec) })
    }
}

/// What a pod takes: its containers together, or the largest moment of its start; sidecars count from then on.
fn pod_amounts(spec: &raw::Spec<'_>) -> Amounts {
    let of = |resources: &Option<raw::Resources>| {
        resources.as_ref().map_or_else(Amounts::default, |r| amounts_of(r.requests.iter()))
    };
    let mut running = spec.containers.iter().map(|c| of(&c.resources)).fold(Amounts::default(), |a, b| a + b);
    let (mut sidecars, mut start) = (Amounts::default(), Amounts::default());
    let max = |a: Amounts, b: Amounts| Amounts {
        cpu_millis: a.cpu_millis.max(b.cpu_millis),
        memory_bytes: a.memory_bytes.max(b.memory_bytes),
        disk_bytes: a.disk_bytes.max(b.disk_bytes),
        pods: 0,
    };
    for container in &spec.init_containers {
        let own = of(&container.resources);
        if container.restart_policy.as_deref().is_some_and(|p| p == "Always") {
            sidecars += own;
            start = max(start, sidecars);
        } else {
            start = max(start, sidecars + own);
        }
    }
    running += sidecars;
    let of_pod = of(&spec.resources);
    let is_given = |name| spec.resources.as_ref().is_some_and(|r| r.requests.get(name).is_some());
    let mut all = max(running, start);
    // What the pod as a whole asks for stands above its containers.
    if is_given("cpu") {
        all.cpu_millis = of_pod.cpu_millis;
    }
    if is_given("memory") {
        all.memory_bytes = of_pod.memory_bytes;
    }
    all += amounts_of(spec.overhead.iter());
    Amounts { pods: 1, ..all }
}

fn demands(spec: &raw::Spec<'_>) -> Demands {
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()?.required.as_ref());
    let requirement = |r: &raw::Requirement<'_>| Requirement {
        key: r.key.to_string(),
        operator: r.operator.to_string(),
        values: r.values.iter().map(|v| v.to_string()).collect(),
    };
    // A node that does not exist yet has no name that could be matched.
    let term =
        |t: &raw::Term<'_>| t.match_expressions.iter().chain(&t.match_fields).map(requirement).collect();
    let text = |t: &Option<SharedStr>| t.as_deref().unwrap_or_default().to_owned();
    let toleration = |t: &raw::Toleration| Toleration {
        key: text(&t.key),
        operator: text(&t.operator),
        value: text(&t.value),
        effect: text(&t.effect),
    };
    Demands {
        node_selector: spec.node_selector.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        node_terms: required.iter().flat_map(|r| &r.node_selector_terms).map(term).collect(),
        tolerations: spec.tolerations.iter().map(toleration).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Pod;
    use serde_json::json;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_pod_waits_when_the_scheduler_said_so() {
        let refused = json!({
            "spec": {
                "containers": [
                    {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}},
                    {"resources": {"requests": {"cpu": "1"}}},
                ],
                "initContainers": [
                    {"restartPolicy": "Always", "resources": {"requests": {"cpu": "200m"}}},
                    {"resources": {"requests": {"memory": "1Gi"}}},
                ],
                "nodeSelector": {"a": "b"},
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "x", "operator": "Exists"}]}],
                }}},
                "tolerations": [{"operator": "Exists"}],
            },
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
            ]},
        });
        let waiting = pod(refused.clone()).waiting.unwrap();
        let want = Amounts { cpu_millis: 1300, memory_bytes: 1 << 30, disk_bytes: 0, pods: 1 };
        assert_eq!(waiting.amounts, want);
        assert_eq!(waiting.demands.node_terms[0][0].key, "x");
        for (path, value) in [
            ("/spec/nodeName", json!("n")),
            ("/status/phase", json!("Failed")),
            ("/status/conditions/0/reason", json!("SchedulingGated")),
            ("/metadata", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
            ("/spec/schedulingGates", json!([{"name": "g"}])),
        ] {
            let mut other = refused.clone();
            let (parent, key) = path.rsplit_once('/').unwrap();
            other.pointer_mut(parent).unwrap()[key] = value;
            assert!(pod(other).waiting.is_none(), "{path}");
        }
    }

    #[test]
    fn what_comes_with_every_node_keeps_none() {
        let owned =
            |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        assert!(pod(json!({})).counts);
        assert!(pod(owned("ReplicaSet")).counts);
        assert!(!pod(owned("DaemonSet")).counts);
        assert!(!pod(json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}})).counts);
        assert!(!pod(json!({"status": {"phase": "Succeeded"}})).counts);
    }

    #[test]
    fn a_node_says_which_machine_it_is() {
        let node: NodeView = serde_json::from_value(json!({
            "metadata": {"labels": {"compute.skep.io/machine": "m1", "other": "x"}},
            "spec": {"unschedulable": true},
            "status": {
                "allocatable": {"cpu": "1900m", "memory": "1Gi", "pods": "50"},
                "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ],
            },
        }))
        .unwrap();
        assert_eq!(node.machine(), Some("m1"));
        assert!(node.is_closed());
        assert_eq!(node.ready_since(), Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!((node.allocatable().cpu_millis, node.allocatable().pods), (1900, 50));
    }
}
