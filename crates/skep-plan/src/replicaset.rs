//! ReplicaSet, and ReplicationController, which differs in the form of its selector only.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::condition::{self, Condition, json_count, json_of};
use crate::meta::{Meta, OwnerKind};
use crate::pod::{Pod, deletion_order, next_available};
use crate::refs::{Claim, claim};
use crate::selector::Selector;
use crate::template::Template;
use crate::time::Time;

/// The most pods that one sync creates or deletes. More would hold up the others of the same worker, and the status of
/// this one; the rest follows in the next sync.
pub const BURST: usize = 500;

/// The first batch of creates. It doubles as long as all succeed, so that an owner whose every pod is refused (quota,
/// admission) costs few requests.
pub const FIRST_BATCH: usize = 1;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// A view of a ReplicaSet or ReplicationController.
#[derive(Clone, Debug, Default)]
pub struct ReplicaSet {
    /// `metadata`.
    pub meta: Meta,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// `spec.selector`.
    pub selector: Selector,
    /// `spec.template`.
    pub template: Template,
    /// `status`.
    pub status: Status,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Pods that count.
    pub replicas: i32,
    /// Those with all of the template's labels.
    pub fully_labeled_replicas: i32,
    /// Those that are ready.
    pub ready_replicas: i32,
    /// Those that have been ready for long enough.
    pub available_replicas: i32,
    /// Pods on their way out; not told of a ReplicationController.
    pub terminating_replicas: Option<i32>,
    /// The spec that this is about.
    pub observed_generation: i64,
    /// `conditions`.
    pub conditions: Vec<Condition>,
}

impl Status {
    /// A merge patch of the status subresource.
    #[must_use]
    pub fn patch(&self) -> Value {
        json!({ "status": {
            "replicas": self.replicas,
            "fullyLabeledReplicas": json_count(self.fully_labeled_replicas),
            "readyReplicas": json_count(self.ready_replicas),
            "availableReplicas": json_count(self.available_replicas),
            "terminatingReplicas": self.terminating_replicas,
            "observedGeneration": self.observed_generation,
            "conditions": json_of(&self.conditions),
        }})
    }
}

#[derive(Deserialize)]
struct Raw<S> {
    metadata: Meta,
    #[serde(default = "Option::default")]
    spec: Option<RawSpec<S>>,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec<S> {
    #[serde(default)]
    replicas: Option<i32>,
    #[serde(default)]
    min_ready_seconds: i32,
    #[serde(default = "Option::default")]
    selector: Option<S>,
    #[serde(default)]
    template: Option<Template>,
}

impl<S> Raw<S> {
    fn view(self, selector: impl FnOnce(S) -> Selector) -> ReplicaSet {
        let (replicas, min_ready_seconds, chosen, template) = match self.spec {
            Some(s) => (s.replicas, s.min_ready_seconds, s.selector, s.template),
            None => (None, 0, None, None),
        };
        ReplicaSet {
            meta: self.metadata,
            replicas: replicas.unwrap_or(1),
            min_ready_seconds,
            selector: chosen.map(selector).unwrap_or_default(),
            template: template.unwrap_or_default(),
            status: self.status.unwrap_or_default(),
        }
    }
}

impl<'de> Deserialize<'de> for ReplicaSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReplicaSet, D::Error> {
        Raw::<Selector>::deserialize(deserializer).map(|raw| raw.view(|s| s))
    }
}

/// A ReplicationController, seen as a ReplicaSet.
#[derive(Clone, Debug, Default)]
pub struct ReplicationController(pub ReplicaSet);

impl<'de> Deserialize<'de> for ReplicationController {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReplicationController, D::Error> {
        let raw = Raw::<BTreeMap<String, String>>::deserialize(deserializer)?;
        Ok(ReplicationController(raw.view(Selector::of_labels)))
    }
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Pods to take, after making sure that the owner is not being deleted.
    pub adopt: Vec<&'a Pod>,
    /// Pods to let go.
    pub release: Vec<&'a Pod>,
    /// Pods to create from the template.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<&'a Pod>,
    /// What counts, before any of this.
    pub counts: Counts,
    /// When a pod becomes available without anything else happening.
    pub requeue_after: Option<Duration>,
}

/// The pods that an owner has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that count.
    pub active: i32,
    /// Those with all of the template's labels.
    pub fully_labeled: i32,
    /// Ready ones.
    pub ready: i32,
    /// Those that have been ready for long enough.
    pub available: i32,
    /// Those on their way out.
    pub terminating: i32,
}

/// Active pods per node, of all owners whose pods stand for each other.
#[must_use]
pub fn pods_per_node<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> HashMap<&'a str, usize> {
    let mut per_node = HashMap::new();
    for pod in pods.into_iter().filter(|p| p.is_active()) {
        *per_node.entry(&*pod.node).or_insert(0) += 1;
    }
    per_node
}

/// What is to be done about a ReplicaSet's pods.
///
/// - `pods`: those it owns, and those of its namespace without an owner. They must show what earlier syncs created and
///   deleted, or that is done again.
/// - `neighbours`: [`pods_per_node`] of this and its sister replica sets; called only when pods must go.
pub fn plan<'a>(
    now: Timestamp,
    rs: &ReplicaSet,
    pods: &[&'a Pod],
    neighbours: impl FnOnce() -> HashMap<&'a str, usize>,
) -> Plan<'a> {
    let mut plan = Plan::default();
    if !rs.selector.is_valid() {
        return plan;
    }
    let mut active: Vec<&Pod> = Vec::with_capacity(pods.len());
    for pod in pods {
        let is_active = pod.is_active();
        let being_deleted = pod.deleted.is_some();
        match claim(&rs.meta, &rs.selector, &pod.labels, pod.controller.as_ref(), being_deleted) {
            Claim::Own if is_active => active.push(pod),
            Claim::Own if pod.is_terminating() => plan.counts.terminating += 1,
            Claim::Adopt if is_active => {
                plan.adopt.push(pod);
                active.push(pod);
            }
            Claim::Release if is_active => plan.release.push(pod),
            _ => {}
        }
    }
    let mut ready_but_waiting = 0;
    for pod in &active {
        plan.counts.active += 1;
        plan.counts.fully_labeled += i32::from(pod.labels.contains_all(&rs.template.labels));
        if pod.ready {
            plan.counts.ready += 1;
            let available = pod.is_available(rs.min_ready_seconds, now);
            plan.counts.available += i32::from(available);
            ready_but_waiting += usize::from(!available);
        }
    }
    if ready_but_waiting > 0 {
        let next = next_available(active.iter().copied(), rs.min_ready_seconds, now);
        let fallback = Duration::from_secs(u64::try_from(rs.min_ready_seconds).unwrap_or(0));
        plan.requeue_after = Some(next.unwrap_or(fallback));
    }
    if rs.meta.deleted.is_some() {
        return plan;
    }
    let wanted = usize::try_from(rs.replicas).unwrap_or(0);
    if active.len() < wanted {
        plan.create = (wanted - active.len()).min(BURST);
    } else if active.len() > wanted {
        let excess = (active.len() - wanted).min(BURST);
        if excess < active.len() {
            let per_node = neighbours();
            let rank = |p: &Pod| per_node.get(&*p.node).copied().unwrap_or(0);
            active.sort_by(|a, b| deletion_order((a, rank(a)), (b, rank(b)), now));
        }
        active.truncate(excess);
        plan.delete = active;
    }
    plan
}

/// The status after a sync, if it differs from what stands there. `failure`: why pods could not be created or deleted.
#[must_use]
pub fn status(
    now: Timestamp,
    rs: &ReplicaSet,
    kind: OwnerKind,
    counts: Counts,
    failure: Option<&str>,
) -> Option<Status> {
    let old = &rs.status;
    let mut new = Status {
        replicas: counts.active,
        fully_labeled_replicas: counts.fully_labeled,
        ready_replicas: counts.ready,
        available_replicas: counts.available,
        terminating_replicas: (kind == OwnerKind::ReplicaSet).then_some(counts.terminating),
        observed_generation: old.observed_generation,
        conditions: old.conditions.clone(),
    };
    let had_failure = condition::find(&old.conditions, REPLICA_FAILURE).is_some();
    match failure {
        Some(message) if !had_failure => {
            let reason = match counts.active.cmp(&rs.replicas) {
                std::cmp::Ordering::Less => "FailedCreate",
                std::cmp::Ordering::Greater => "FailedDelete",
                std::cmp::Ordering::Equal => "",
            };
            new.conditions.push(Condition {
                kind: REPLICA_FAILURE.to_owned(),
                status: "True".to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                last_transition_time: Some(Time::of(now)),
                ..Condition::default()
            });
        }
        None if had_failure => condition::remove(&mut new.conditions, REPLICA_FAILURE),
        _ => {}
    }
    if new == *old && rs.meta.generation == old.observed_generation {
        return None;
    }
    new.observed_generation = rs.meta.generation;
    Some(new)
}

/// The sizes of the batches in which `count` things are created.
pub fn slow_start(count: usize) -> impl Iterator<Item = usize> {
    let mut left = count;
    let mut next = FIRST_BATCH;
    std::iter::from_fn(move || {
        let batch = next.min(left);
        left -= batch;
        next = batch * 2;
        (batch > 0).then_some(batch)
    })
}

#[cfg(test)]
#[path = "replicaset_tests.rs"]
mod tests;
