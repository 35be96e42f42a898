//! Whether one node by itself can take a pod, and how well: no look at other nodes.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::cluster::{Cluster, Node, NodeIndex, PodIndex};
use crate::diagnosis::{Plugin, Reason, Rejection};
use crate::resources::Resources;
use crate::template::Template;
use crate::views::{Taint, Toleration};
use crate::volume::VolumePlan;
use crate::weights::{Scorer, Weights};

/// Scores of one rule go from 0 to this.
pub(crate) const MAX_SCORE: i64 = 100;

/// The taint that a cordoned node counts as having.
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// Pods taken from and put on a node in thought.
#[derive(Clone, Copy, Default)]
pub(crate) struct Supposed<'a> {
    pub without: &'a [PodIndex],
    pub with: &'a [&'a Template],
}

impl Supposed<'_> {
    pub(crate) fn is_nothing(&self) -> bool {
        self.without.is_empty() && self.with.is_empty()
    }
}

/// What depends on the node alone, not on its pods: cordons, taints, labels.
pub(crate) fn fixed(template: &Template, node: &Node) -> Option<Rejection> {
    if node.unschedulable {
        let taint = Taint { key: CORDONED.into(), value: Box::default(), effect: "NoSchedule".into() };
        let tolerated = |t: &Toleration| crate::template::tolerates(t, &taint);
        if !template.tolerations.iter().any(tolerated) {
            return Some(Rejection::lasting(Plugin::NodeUnschedulable, "node(s) were unschedulable"));
        }
    }
    if !node.taints.is_empty() && !template.tolerates_all(&node.taints) {
        return Some(Rejection::lasting(Plugin::TaintToleration, "node(s) had untolerated taint(s)"));
    }
    if !template.selects_node(&node.name, &node.labels) {
        let reason = "node(s) didn't match Pod's node affinity/selector";
        return Some(Rejection::lasting(Plugin::NodeAffinity, reason));
    }
    None
}

/// What depends on the pods of the node: ports, resources, volumes.
pub(crate) fn room(
    cluster: &Cluster,
    template: &Template,
    volumes: Option<&VolumePlan>,
    index: NodeIndex,
    supposed: Supposed<'_>,
) -> Option<Rejection> {
    let node = &cluster.nodes[index as usize];
    if !template.ports.is_empty() && ports_taken(cluster, template, node, supposed) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Some(Rejection::resolvable(Plugin::NodePorts, reason));
    }
    let reasons = if supposed.is_nothing() {
        lacking(template, node, &node.requested, node.pods.len() as i64)
    } else {
        let mut requested = node.requested.clone();
        for pod in supposed.without.iter().filter_map(|p| cluster.template_of(*p)) {
            requested.add(&pod.requests.requests, -1);
        }
        for pod in supposed.with {
            requested.add(&pod.requests.requests, 1);
        }
        let pods = node.pods.len() + supposed.with.len() - supposed.without.len();
        lacking(template, node, &requested, pods as i64)
    };
    if let Some(lacking) = reasons {
        return Some(Rejection {
            plugin: Plugin::NodeResourcesFit,
            resolvable: lacking.resolvable,
            reasons: lacking.reasons,
        });
    }
    volumes.and_then(|plan| plan.check(cluster, template, index, supposed))
}

fn ports_taken(cluster: &Cluster, template: &Template, node: &Node, supposed: Supposed<'_>) -> bool {
    let conflicts = |taken: &crate::resources::HostPort| template.ports.iter().any(|p| p.conflicts(taken));
    if supposed.with.iter().any(|t| t.ports.iter().any(conflicts)) {
        return true;
    }
    if supposed.without.is_empty() {
        return node.ports.iter().any(conflicts);
    }
    let left = node.pods.iter().filter(|p| !supposed.without.contains(p));
    left.filter_map(|p| cluster.template_of(*p)).any(|t| t.ports.iter().any(conflicts))
}

struct Lacking {
    reasons: SmallVec<[Reason; 1]>,
    resolvable: bool,
}

/// What a node does not have enough of.
fn lacking(template: &Template, node: &Node, requested: &Resources, pods: i64) -> Option<Lacking> {
    let asked = &template.requests.requests;
    let given = &node.allocatable;
    let too_many = pods + 1 > node.allowed_pods;
    let short = |asked: i64, given: i64, requested: i64| asked > 0 && asked > given - requested;
    let cpu = short(asked.cpu_milli, given.cpu_milli, requested.cpu_milli);
    let memory = short(asked.memory_bytes, given.memory_bytes, requested.memory_bytes);
    let ephemeral = short(asked.ephemeral_bytes, given.ephemeral_bytes, requested.ephemeral_bytes);
    let scalars =
        asked.scalars.iter().any(|(name, asked)| short(*asked, given.scalar(name), requested.scalar(name)));
    if !(too_many || cpu || memory || ephemeral || scalars) {
        return None;
    }
    let mut found = Lacking { reasons: SmallVec::new(), resolvable: true };
    let mut say = |holds: bool, reason: Reason, asked: i64, given: i64| {
        if holds {
            found.reasons.push(reason);
            found.resolvable &= asked <= given;
        }
    };
    say(too_many, Cow::Borrowed("Too many pods"), 0, 0);
    say(cpu, Cow::Borrowed("Insufficient cpu"), asked.cpu_milli, given.cpu_milli);
    say(memory, Cow::Borrowed("Insufficient memory"), asked.memory_bytes, given.memory_bytes);
    let reason = Cow::Borrowed("Insufficient ephemeral-storage");
    say(ephemeral, reason, asked.ephemeral_bytes, given.ephemeral_bytes);
    for (name, asked) in &asked.scalars {
        let (given, requested) = (given.scalar(name), requested.scalar(name));
        let reason = format!("Insufficient {name}");
        say(short(*asked, given, requested), Cow::Owned(reason), *asked, given);
    }
    Some(found)
}

/// How well the pod's requests suit the node, weighted: the least allocated node is best, and cpu and memory used alike.
pub(crate) fn resource_score(template: &Template, node: &Node, weights: &Weights) -> i64 {
    let asked = &template.requests;
    let cpu = (node.nonzero_cpu_milli + asked.score_cpu_milli, node.allocatable.cpu_milli);
    let memory = (node.nonzero_memory_bytes + asked.score_memory_bytes, node.allocatable.memory_bytes);
    let mut sum = 0;
    let mut parts = 0;
    for (requested, capacity) in [cpu, memory] {
        if capacity != 0 {
            parts += 1;
            if requested <= capacity {
                sum += (capacity - requested) * MAX_SCORE / capacity;
            }
        }
    }
    let least = if parts == 0 { 0 } else { sum / parts };
    let balance = balance_score(template, node);
    weights.of(Scorer::NodeResourcesFit) * least
        + weights.of(Scorer::NodeResourcesBalancedAllocation) * balance
}

/// Between 50 and 100; above 75 when the pod makes the use of cpu and memory more alike.
fn balance_score(template: &Template, node: &Node) -> i64 {
    let asked = &template.requests.requests;
    if asked.cpu_milli == 0 && asked.memory_bytes == 0 {
        return 0;
    }
    let used = &node.requested;
    let before = balance(node, used.cpu_milli, used.memory_bytes);
    let after = balance(node, used.cpu_milli + asked.cpu_milli, used.memory_bytes + asked.memory_bytes);
    MAX_SCORE / 2 + (MAX_SCORE / 2 + after - before) / 2
}

fn balance(node: &Node, cpu: i64, memory: i64) -> i64 {
    let given = &node.allocatable;
    let deviation = if given.cpu_milli == 0 || given.memory_bytes == 0 {
        0.0
    } else {
        let cpu = (cpu as f64 / given.cpu_milli as f64).min(1.0);
        let memory = (memory as f64 / given.memory_bytes as f64).min(1.0);
        ((cpu - memory) / 2.0).abs()
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// Images smaller than this are as good as absent.
const SMALL_IMAGE_BYTES: i64 = 23 << 20;
/// Per container, larger images count no more than this.
const LARGE_IMAGE_BYTES: i64 = 1000 << 20;

/// The score for images whose sizes, weighted with how widely they are spread, add up to `sum`.
pub(crate) fn image_score(sum: i64, containers: u32) -> i64 {
    let most = LARGE_IMAGE_BYTES * i64::from(containers);
    let sum = if sum < SMALL_IMAGE_BYTES { SMALL_IMAGE_BYTES } else { sum.min(most) };
    MAX_SCORE * (sum - SMALL_IMAGE_BYTES) / (most - SMALL_IMAGE_BYTES)
}

/// What of the pod's images a node has.
pub(crate) fn image_sum(cluster: &Cluster, template: &Template, node: NodeIndex) -> i64 {
    let nodes = cluster.node_count() as f64;
    let on = template.images.iter().filter_map(|image| cluster.images.get(image));
    on.filter_map(|on| Some((*on.get(&node)? as f64 * (on.len() as f64 / nodes)) as i64)).sum()
}
