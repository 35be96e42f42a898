//! DaemonSet: one pod on each node that fits.

mod placement;
mod roll;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::Event;
use crate::condition::{Condition, json_of};
use crate::intstr::IntOrPercent;
use crate::meta::{Meta, OwnerKind};
use crate::pod::{Phase, Pod, next_available};
use crate::refs::{Claim, claim};
use crate::replicaset::BURST;
use crate::revision::{History, Newest, POD_REVISION, Revision};
use crate::selector::Selector;
use crate::template::{Template, canonical, generate_name, pod_body};
use placement::{Placement, TOLERATED, TOLERATED_IN_HOST_NETWORK};

pub use placement::{Node, Taint};

/// A view of a DaemonSet.
#[derive(Clone, Debug, Default)]
pub struct DaemonSet {
    /// `metadata`.
    pub meta: Meta,
    /// `spec.selector`.
    pub selector: Selector,
    /// `spec.template`.
    pub template: Template,
    /// `spec.updateStrategy`.
    pub strategy: Strategy,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// `spec.revisionHistoryLimit`.
    pub revision_history_limit: Option<i32>,
    /// `status`.
    pub status: Status,
}

/// `spec.updateStrategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Pods are replaced when somebody deletes them.
    OnDelete,
    /// Some at a time.
    RollingUpdate {
        /// On how many nodes an old and a new pod may run side by side.
        max_surge: IntOrPercent,
        /// On how many nodes the pod may be missing.
        max_unavailable: IntOrPercent,
    },
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy::RollingUpdate { max_surge: IntOrPercent::Int(0), max_unavailable: IntOrPercent::Int(1) }
    }
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Nodes with a pod, that should have one.
    pub current_number_scheduled: i32,
    /// Nodes with a pod, that should have none.
    pub number_misscheduled: i32,
    /// Nodes that should have a pod.
    pub desired_number_scheduled: i32,
    /// Nodes whose pod is ready.
    pub number_ready: i32,
    /// The spec that this is about.
    pub observed_generation: i64,
    /// Nodes whose pod is of the newest revision.
    pub updated_number_scheduled: i32,
    /// Nodes whose pod has been ready for long enough.
    pub number_available: i32,
    /// The other nodes that should have one.
    pub number_unavailable: i32,
    /// How often the name of a revision was taken.
    pub collision_count: Option<i32>,
    /// `conditions`: somebody else's.
    pub conditions: Vec<Condition>,
}

impl Status {
    /// A merge patch of the status subresource.
    #[must_use]
    pub fn patch(&self) -> Value {
        use crate::condition::json_count;
        json!({ "status": {
            "currentNumberScheduled": self.current_number_scheduled,
            "numberMisscheduled": self.number_misscheduled,
            "desiredNumberScheduled": self.desired_number_scheduled,
            "numberReady": self.number_ready,
            "observedGeneration": self.observed_generation,
            "updatedNumberScheduled": json_count(self.updated_number_scheduled),
            "numberAvailable": json_count(self.number_available),
            "numberUnavailable": json_count(self.number_unavailable),
            "collisionCount": self.collision_count,
            "conditions": json_of(&self.conditions),
        }})
    }
}

#[derive(Deserialize)]
struct Raw {
    metadata: Meta,
    spec: RawSpec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    template: Template,
    #[serde(default)]
    update_strategy: RawStrategy,
    #[serde(default)]
    min_ready_seconds: i32,
    #[serde(default)]
    revision_history_limit: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStrategy {
    #[serde(rename = "type")]
    kind: Option<String>,
    rolling_update: Option<RawRolling>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRolling {
    max_surge: Option<IntOrPercent>,
    max_unavailable: Option<IntOrPercent>,
}

impl<'de> Deserialize<'de> for DaemonSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DaemonSet, D::Error> {
        let Raw { metadata, spec, status } = Raw::deserialize(deserializer)?;
        let rolling = spec.update_strategy.rolling_update.unwrap_or_default();
        Ok(DaemonSet {
            meta: metadata,
            selector: spec.selector,
            template: spec.template,
            strategy: if spec.update_strategy.kind.as_deref() == Some("OnDelete") {
                Strategy::OnDelete
            } else {
                Strategy::RollingUpdate {
                    max_surge: rolling.max_surge.unwrap_or(IntOrPercent::Int(0)),
                    max_unavailable: rolling.max_unavailable.unwrap_or(IntOrPercent::Int(1)),
                }
            },
            min_ready_seconds: spec.min_ready_seconds,
            revision_history_limit: spec.revision_history_limit,
            status: status.unwrap_or_default(),
        })
    }
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Pods to take, after making sure that the set is not being deleted.
    pub adopt: Vec<&'a Pod>,
    /// Pods to let go.
    pub release: Vec<&'a Pod>,
    /// Revisions to take, after the same.
    pub adopt_revisions: Vec<&'a Revision>,
    /// The newest revision, if it is to be created or renumbered. [`revision_taken`] where its name is taken.
    pub newest: Option<Newest>,
    /// Nodes that are to get a pod: bodies from a [`PodMaker`] with this hash.
    pub create: Vec<Box<str>>,
    /// The hash of the newest revision.
    pub hash: String,
    /// Pods to delete.
    pub delete: Vec<&'a Pod>,
    /// To record.
    pub events: Vec<Event>,
    /// The status, if it changes.
    pub status: Option<Status>,
    /// Revisions that nobody needs any more.
    pub delete_revisions: Vec<&'a Revision>,
    /// When to look again although nothing happens.
    pub requeue_after: Option<Duration>,
}

/// What to write when the name of a new revision was taken by another: the collision, which changes the name.
#[must_use]
pub fn revision_taken(set: &DaemonSet) -> Status {
    let count = set.status.collision_count.unwrap_or(0).saturating_add(1);
    Status { collision_count: Some(count), ..set.status.clone() }
}

/// A stand-in for the node's name in a template. No name has a space.
const NODE_MARKER: &str = "the node";

/// Makes bodies of create requests. The template is taken apart once for all nodes.
pub struct PodMaker {
    meta: Value,
    spec: String,
}

/// The template's spec with what every daemon tolerates.
fn daemon_spec(template: &Template) -> Value {
    let mut spec = template.spec_value();
    if !spec.is_object() {
        spec = json!({});
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    let mut tolerations = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    let extra = host_network.then_some(TOLERATED_IN_HOST_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(extra) {
        let own = json!({ "key": key, "operator": "Exists", "effect": effect });
        // One that differs from this only in how long it tolerates is replaced.
        let same = |t: &Value| ["key", "operator", "effect"].iter().all(|k| t.get(k) == own.get(k));
        match tolerations.iter().position(same) {
            Some(at) => tolerations[at] = own,
            None => tolerations.push(own),
        }
    }
    spec["tolerations"] = Value::Array(tolerations);
    spec
}

impl PodMaker {
    /// For the pods of a DaemonSet at its newest revision.
    #[must_use]
    pub fn new(set: &DaemonSet, hash: &str) -> PodMaker {
        let mut spec = daemon_spec(&set.template);
        let field = json!({ "key": "metadata.name", "operator": "In", "values": [NODE_MARKER] });
        let required = json!({ "nodeSelectorTerms": [{ "matchFields": [field] }] });
        for part in ["affinity", "nodeAffinity"] {
            let parent = if part == "affinity" { &mut spec } else { &mut spec["affinity"] };
            if !parent.get(part).is_some_and(Value::is_object) {
                parent[part] = json!({});
            }
        }
        spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = required;
        let template = &set.template;
        let mut labels = template.labels.with(POD_REVISION, hash);
        // Of the API versions before this one; pods still carry it.
        const GENERATION: &str = "deprecated.daemonset.template.generation";
        if let Some(generation) = set.meta.annotations.get(GENERATION) {
            labels = labels.with("pod-template-generation", generation);
        }
        let mut meta = json!({
            "generateName": generate_name(&set.meta.name),
            "labels": labels,
            "ownerReferences": [set.meta.controller_ref(OwnerKind::DaemonSet)],
        });
        if !template.annotations.is_empty() {
            meta["annotations"] = json!(template.annotations);
        }
        if !template.finalizers.is_empty() {
            meta["finalizers"] = json!(template.finalizers);
        }
        PodMaker { meta, spec: canonical(&spec) }
    }

    /// The body for one node.
    #[must_use]
    pub fn body(&self, node: &str) -> String {
        let marked = json!([NODE_MARKER]).to_string();
        pod_body(&self.meta, &self.spec.replacen(&marked, &json!([node]).to_string(), 1))
    }
}

/// The node that a pod is on, or is meant for.
fn node_of(pod: &Pod) -> Option<&str> {
    if pod.node.is_empty() { pod.more().target_node.as_deref() } else { Some(&pod.node) }
}

/// What is to be done about a DaemonSet.
///
/// - `nodes`: all nodes of the tenant.
/// - `pods`, `revisions`: those it owns, and those of its namespace without an owner; they must show what earlier syncs did.
/// - `may_retry`: whether the failed pod of a node may be replaced now, or how long to wait. It is asked at most once for each
///   node, and remembers that.
#[must_use]
pub fn plan<'a>(
    now: Timestamp,
    set: &DaemonSet,
    nodes: &[&'a Node],
    pods: &[&'a Pod],
    revisions: &[&'a Revision],
    may_retry: &mut dyn FnMut(&str) -> Result<(), Duration>,
) -> Plan<'a> {
    let mut plan = Plan::default();
    if set.selector.is_empty() {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        plan.events.push(Event::warning("SelectingAll", message));
        return plan;
    }
    let history = History::of(
        &set.meta,
        OwnerKind::DaemonSet,
        &set.selector,
        &set.template,
        set.status.collision_count.unwrap_or(0),
        revisions,
    );
    plan.adopt_revisions.clone_from(&history.adopt);
    let (known, newest) = (&history.known, &history.newest);
    plan.hash = match newest {
        Newest::New(new) => new.hash.clone(),
        other => {
            let revision = known.iter().find(|r| *r.meta.name == *other.name());
            revision.and_then(|r| r.meta.labels.get(POD_REVISION)).unwrap_or_default().to_owned()
        }
    };
    let mut own: Vec<&Pod> = Vec::new();
    for pod in pods {
        match claim(&set.meta, &set.selector, &pod.labels, pod.controller.as_ref(), pod.deleted.is_some()) {
            Claim::Own => own.push(pod),
            Claim::Adopt => {
                plan.adopt.push(pod);
                own.push(pod);
            }
            Claim::Release => plan.release.push(pod),
            Claim::Ignore => {}
        }
    }
    let placement = Placement::of(&daemon_spec(&set.template));
    let mut by_node: BTreeMap<&str, Vec<&'a Pod>> = BTreeMap::new();
    for pod in own.iter().copied().filter(|p| !(p.is_over() && p.deleted.is_some())) {
        if let Some(node) = node_of(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|p| (p.node.is_empty(), p.created, p.name.clone()));
    }
    let named = nodes.iter().map(|n| (&*n.name, *n)).collect();
    let sync = Sync { now, set, placement, nodes, named, by_node };
    let status = sync.status(&plan.hash);
    if status != set.status {
        plan.status = Some(status);
    }
    if set.meta.deleted.is_none() {
        plan.newest = history.to_write(&set.meta);
        sync.manage(may_retry, &mut plan);
        if plan.create.is_empty() && plan.delete.is_empty() {
            sync.roll(&mut plan);
        }
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
    }
    if set.min_ready_seconds > 0
        && let Some(next) = next_available(own.iter().copied(), set.min_ready_seconds, now)
    {
        plan.requeue_after = Some(plan.requeue_after.map_or(next, |known| known.min(next)));
    }
    let used = |hash: &str| hash == plan.hash || own.iter().any(|p| p.labels.get(POD_REVISION) == Some(hash));
    let in_use = |name: &str| {
        let revision = known.iter().find(|r| *r.meta.name == *name);
        name == newest.name() || revision.and_then(|r| r.meta.labels.get(POD_REVISION)).is_some_and(used)
    };
    plan.delete_revisions = history.excess(set.revision_history_limit, &in_use);
    plan
}

struct Sync<'s, 'a> {
    now: Timestamp,
    set: &'s DaemonSet,
    placement: Placement,
    nodes: &'s [&'a Node],
    named: HashMap<&'a str, &'a Node>,
    /// Oldest first.
    by_node: BTreeMap<&'a str, Vec<&'a Pod>>,
}

impl<'a> Sync<'_, 'a> {
    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.set.min_ready_seconds, self.now)
    }

    fn status(&self, hash: &str) -> Status {
        let old = &self.set.status;
        let mut s = Status {
            observed_generation: self.set.meta.generation,
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
            ..Status::default()
        };
        for node in self.nodes {
            let pod = self.by_node.get(&*node.name).and_then(|pods| pods.first());
            if !self.placement.fits(node).0 {
                s.number_misscheduled += i32::from(pod.is_some());
                continue;
            }
            s.desired_number_scheduled += 1;
            if let Some(pod) = pod {
                s.current_number_scheduled += 1;
                s.number_ready += i32::from(pod.ready);
                s.number_available += i32::from(self.is_available(pod));
                s.updated_number_scheduled += i32::from(pod.labels.get(POD_REVISION) == Some(hash));
            }
        }
        s.number_unavailable = s.desired_number_scheduled - s.number_available;
        s
    }

    fn allows_surge(&self) -> bool {
        matches!(self.set.strategy, Strategy::RollingUpdate { max_surge, .. } if max_surge.up(1) > 0)
    }

    /// Which nodes lack a pod, and which pods are too many.
    fn manage(&self, may_retry: &mut dyn FnMut(&str) -> Result<(), Duration>, plan: &mut Plan<'a>) {
        for node in self.nodes {
            let (wanted, may_stay) = self.placement.fits(node);
            let pods = self.by_node.get(&*node.name);
            match pods {
                None if wanted => plan.create.push(node.name.clone()),
                Some(pods) if may_stay => self.manage_node(node, wanted, pods, may_retry, plan),
                Some(pods) => plan.delete.extend(pods.iter().filter(|p| p.deleted.is_none())),
                None => {}
            }
        }
        // Nobody will ever place these.
        let gone = self.by_node.iter().filter(|(node, _)| !self.named.contains_key(**node));
        let lost = gone.flat_map(|(_, pods)| pods);
        plan.delete.extend(lost.filter(|p| p.node.is_empty() && p.deleted.is_none()));
    }

    fn manage_node(
        &self,
        node: &Node,
        wanted: bool,
        pods: &[&'a Pod],
        may_retry: &mut dyn FnMut(&str) -> Result<(), Duration>,
        plan: &mut Plan<'a>,
    ) {
        let mut running: Vec<&'a Pod> = Vec::new();
        let namespace = &self.set.meta.namespace;
        for pod in pods.iter().copied().filter(|p| p.deleted.is_none()) {
            match pod.phase {
                Phase::Failed => match may_retry(&node.name) {
                    Ok(()) => {
                        let (pod_name, node) = (&pod.name, &node.name);
                        let message = format!(
                            "Found failed daemon pod {namespace}/{pod_name} on node {node}, will try to kill it"
                        );
                        plan.events.push(Event::warning("FailedDaemonPod", message));
                        plan.delete.push(pod);
                    }
                    Err(wait) => {
                        plan.requeue_after = Some(plan.requeue_after.map_or(wait, |known| known.min(wait)))
                    }
                },
                Phase::Succeeded => {
                    let (pod_name, node) = (&pod.name, &node.name);
                    let message = format!(
                        "Found succeeded daemon pod {namespace}/{pod_name} on node {node}, will try to delete it"
                    );
                    plan.events.push(Event::normal("SucceededDaemonPod", message));
                    plan.delete.push(pod);
                }
                _ => running.push(pod),
            }
        }
        if !self.allows_surge() {
            plan.delete.extend(running.into_iter().skip(1));
            return;
        }
        if running.is_empty() && wanted {
            plan.create.push(node.name.clone());
        }
        if running.len() <= 1 {
            return;
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) =
            running.into_iter().partition(|p| p.labels.get(POD_REVISION) == Some(&plan.hash));
        plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!old.ready || self.is_available(new))
        {
            plan.delete.push(old);
        }
    }
}

#[cfg(test)]
#[path = "../daemonset_tests.rs"]
mod tests;
