//! The view of a pod, small because there are so many, and the order in which pods are given up.

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::labels::Labels;
use crate::meta::{ControllerRef, OwnerKind, RawOwner, Uid, controller_of};
use crate::time::Time;

/// The finalizer with which a Job makes sure that it counts each of its pods.
pub const JOB_TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Which of an indexed Job's completions a pod works on.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index of a pod had failed before it.
pub const INDEX_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
/// How many failures of the index the failure policy had ignored before this pod.
pub const INDEX_IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not set: no pod that the API server has stored.
    #[default]
    None,
    /// Not all containers run.
    Pending,
    /// Containers run.
    Running,
    /// All ended well.
    Succeeded,
    /// All ended, not all well.
    Failed,
    /// Nothing is known.
    Unknown,
}

/// A view of a pod.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The owner that manages it.
    pub controller: Option<ControllerRef>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Time>,
    /// `metadata.deletionTimestamp`.
    pub deleted: Option<Time>,
    /// `spec.nodeName`; empty when not placed.
    pub node: Box<str>,
    /// `status.phase`.
    pub phase: Phase,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Since when the condition `Ready` is what it is.
    pub ready_changed: Option<Time>,
    /// Restarts of the container that restarted most.
    pub restarts: i32,
    /// The same of the init containers that keep running.
    pub sidecar_restarts: i32,
    /// From the annotation.
    pub deletion_cost: i32,
    /// What only some kinds of owner read.
    pub more: Option<Box<More>>,
}

/// What only some kinds of owner read of a pod, kept only for pods of such owners, and for pods without an owner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct More {
    /// Job: it carries the tracking finalizer.
    pub tracked: bool,
    /// Job: the completion it works on.
    pub index: Option<i32>,
    /// Job: failures of this index before it.
    pub index_failures: Option<i32>,
    /// Job: failures of this index before it that were ignored.
    pub index_ignored_failures: Option<i32>,
    /// Job: types of its conditions, with their status.
    pub conditions: Vec<(Box<str>, Box<str>)>,
    /// Job: containers that ended badly, init containers last.
    pub failed: Vec<Failed>,
    /// Job: when it came to its end, by the best that is known.
    pub finished: Option<Time>,
    /// Job: restarts of all containers together.
    pub all_restarts: i32,
    /// StatefulSet: volumes that are claims, with the claims' names.
    pub claims: Vec<(Box<str>, Box<str>)>,
    /// DaemonSet: the one node that its affinity allows.
    pub target_node: Option<Box<str>>,
}

/// A container that ended with another exit code than 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its name.
    pub container: Box<str>,
    /// How it ended.
    pub exit_code: i32,
}

impl Pod {
    /// Whether it still counts towards its owner's replicas.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.is_over() && self.deleted.is_none()
    }

    /// Whether all its containers have ended for good.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it is on its way out but may still run.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        !self.is_over() && self.deleted.is_some()
    }

    /// Whether it has been ready for so long.
    #[must_use]
    pub fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.ready
            && (min_ready_seconds <= 0
                || self
                    .ready_changed
                    .is_some_and(|t| t.plus_seconds(i64::from(min_ready_seconds)).timestamp() <= now))
    }

    /// How long until it has been ready for so long, if it is ready but not that long.
    #[must_use]
    pub fn available_after(&self, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
        if !self.ready || min_ready_seconds <= 0 {
            return None;
        }
        self.ready_changed?.plus_seconds(i64::from(min_ready_seconds)).after(now)
    }

    /// What only some owners read.
    #[must_use]
    pub fn more(&self) -> &More {
        static NOTHING: More = More {
            tracked: false,
            index: None,
            index_failures: None,
            index_ignored_failures: None,
            conditions: Vec::new(),
            failed: Vec::new(),
            finished: None,
            all_restarts: 0,
            claims: Vec::new(),
            target_node: None,
        };
        self.more.as_deref().unwrap_or(&NOTHING)
    }
}

/// How long until the next of these pods has been ready for long enough.
pub fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    pods.into_iter().filter_map(|p| p.available_after(min_ready_seconds, now)).min()
}

/// Which of two pods is given up first; `Less` goes first. `neighbours` is the number of active pods of the same
/// owner (a Deployment's replica sets together) on the pod's node.
#[must_use]
pub fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, a_neighbours), (b, b_neighbours)) = (a, b);
    let placed = |p: &Pod| !p.node.is_empty();
    let ready_times = || match (a.ready, b.ready, a.ready_changed, b.ready_changed) {
        (true, true, x, y) if x != y => younger_first(x, y, (a, b), now),
        _ => Ordering::Equal,
    };
    let created = || {
        if a.created == b.created {
            Ordering::Equal
        } else {
            younger_first(a.created, b.created, (a, b), now)
        }
    };
    placed(a)
        .cmp(&placed(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| a.ready.cmp(&b.ready))
        .then_with(|| a.deletion_cost.cmp(&b.deletion_cost))
        .then_with(|| b_neighbours.cmp(&a_neighbours))
        .then_with(ready_times)
        .then_with(|| b.restarts.cmp(&a.restarts))
        .then_with(|| b.sidecar_restarts.cmp(&a.sidecar_restarts))
        .then_with(created)
        // Upstream leaves equals in any order; a fixed one makes a plan repeatable.
        .then_with(|| a.uid.cmp(&b.uid))
        .then_with(|| a.name.cmp(&b.name))
}

/// The same without neighbours, costs and powers of two: the order in which a Job gives up its pods.
#[must_use]
pub fn active_order(a: &Pod, b: &Pod) -> Ordering {
    let younger = |a: Option<Time>, b: Option<Time>| match (a, b) {
        (Some(a), Some(b)) => b.cmp(&a),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    (!a.node.is_empty())
        .cmp(&!b.node.is_empty())
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| a.ready.cmp(&b.ready))
        .then_with(|| {
            if a.ready && b.ready { younger(a.ready_changed, b.ready_changed) } else { Ordering::Equal }
        })
        .then_with(|| b.restarts.cmp(&a.restarts))
        .then_with(|| b.sidecar_restarts.cmp(&a.sidecar_restarts))
        .then_with(|| younger(a.created, b.created))
        .then_with(|| a.name.cmp(&b.name))
}

fn phase_order(p: &Pod) -> u8 {
    match p.phase {
        Phase::Unknown => 1,
        Phase::Running => 2,
        _ => 0,
    }
}

/// Younger first, but ages are compared by their power of two only, and the uid decides between those of one: so that
/// which of several old pods goes is spread, and does not follow the order in which they were made.
fn younger_first(a: Option<Time>, b: Option<Time>, pods: (&Pod, &Pod), now: Timestamp) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => {
            let rank = |t: Time| {
                let nanoseconds = t.since(now).as_nanos();
                u128::try_from(nanoseconds).ok().and_then(u128::checked_ilog2).map_or(-1, i64::from)
            };
            rank(a).cmp(&rank(b)).then_with(|| pods.0.uid.cmp(&pods.1.uid))
        }
    }
}

#[derive(Deserialize)]
struct RawPod {
    metadata: RawPodMeta,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodMeta {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    uid: Uid,
    #[serde(default)]
    labels: Option<Labels>,
    #[serde(default)]
    annotations: Option<RawAnnotations>,
    #[serde(default)]
    owner_references: Option<Vec<RawOwner>>,
    #[serde(default)]
    finalizers: Option<Vec<String>>,
    #[serde(default)]
    creation_timestamp: Option<Time>,
    #[serde(default)]
    deletion_timestamp: Option<Time>,
    #[serde(default)]
    deletion_grace_period_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
struct RawAnnotations {
    #[serde(default, rename = "controller.kubernetes.io/pod-deletion-cost")]
    deletion_cost: Option<String>,
    #[serde(default, rename = "batch.kubernetes.io/job-completion-index")]
    index: Option<String>,
    #[serde(default, rename = "batch.kubernetes.io/job-index-failure-count")]
    index_failures: Option<String>,
    #[serde(default, rename = "batch.kubernetes.io/job-index-ignored-failure-count")]
    index_ignored_failures: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default)]
    node_name: Box<str>,
    #[serde(default)]
    init_containers: Option<Vec<RawInit>>,
    #[serde(default)]
    volumes: Option<Vec<RawVolume>>,
    #[serde(default)]
    affinity: Option<RawAffinity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawInit {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVolume {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    persistent_volume_claim: Option<RawClaim>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClaim {
    #[serde(default)]
    claim_name: Box<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAffinity {
    #[serde(default)]
    node_affinity: Option<RawNodeAffinity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNodeAffinity {
    #[serde(default, rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<RawNodeSelector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNodeSelector {
    #[serde(default)]
    node_selector_terms: Vec<RawTerm>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTerm {
    #[serde(default)]
    match_fields: Option<Vec<RawField>>,
}

#[derive(Deserialize)]
struct RawField {
    #[serde(default)]
    key: String,
    #[serde(default)]
    operator: String,
    #[serde(default)]
    values: Option<Vec<Box<str>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus {
    #[serde(default)]
    phase: Option<String>,
    #[serde(default)]
    conditions: Option<Vec<RawCondition>>,
    #[serde(default)]
    container_statuses: Option<Vec<RawContainer>>,
    #[serde(default)]
    init_container_statuses: Option<Vec<RawContainer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    #[serde(rename = "type", default)]
    kind: Box<str>,
    #[serde(default)]
    status: Box<str>,
    #[serde(default)]
    last_transition_time: Option<Time>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainer {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    restart_count: i32,
    #[serde(default)]
    state: Option<RawState>,
}

#[derive(Deserialize)]
struct RawState {
    #[serde(default)]
    terminated: Option<RawTerminated>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTerminated {
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    finished_at: Option<Time>,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pod, D::Error> {
        let RawPod { metadata: meta, spec, status } = RawPod::deserialize(deserializer)?;
        let annotations = meta.annotations.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|c| &*c.kind == "Ready");
        let ready_changed = ready.and_then(|c| c.last_transition_time);
        let is_ready = ready.is_some_and(|c| &*c.status == "True");
        let ready_is_false = ready.is_some_and(|c| &*c.status == "False");
        let containers = status.container_statuses.unwrap_or_default();
        let init_containers = status.init_container_statuses.unwrap_or_default();
        let sidecars: Vec<Box<str>> = spec
            .init_containers
            .unwrap_or_default()
            .into_iter()
            .filter(|c| c.restart_policy.as_deref() == Some("Always"))
            .map(|c| c.name)
            .collect();
        let restarts = containers.iter().map(|c| c.restart_count).max().unwrap_or(0);
        let sidecar_restarts = init_containers
            .iter()
            .filter(|c| sidecars.contains(&c.name))
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0);
        let deletion_cost = annotations.deletion_cost.as_deref().and_then(deletion_cost).unwrap_or(0);
        let controller = controller_of(meta.owner_references);
        let kind = controller.as_ref().map(|c| c.kind);
        let reads = |owner: OwnerKind| kind.is_none() || kind == Some(owner);

        let mut more = More::default();
        if reads(OwnerKind::Job) {
            let number = |text: Option<String>| text.and_then(|t| t.parse().ok());
            more.tracked = meta.finalizers.unwrap_or_default().iter().any(|f| f == JOB_TRACKING_FINALIZER);
            more.index = number(annotations.index).filter(|i| *i >= 0);
            more.index_failures = number(annotations.index_failures);
            more.index_ignored_failures = number(annotations.index_ignored_failures);
            more.conditions = conditions.into_iter().map(|c| (c.kind, c.status)).collect();
            more.finished = finished(&containers, &init_containers, &sidecars)
                .or(ready_changed.filter(|_| ready_is_false))
                .or(meta
                    .deletion_timestamp
                    .map(|t| t.plus_seconds(-meta.deletion_grace_period_seconds.unwrap_or(0))))
                .or(meta.creation_timestamp);
            more.all_restarts = containers.iter().chain(&init_containers).map(|c| c.restart_count).sum();
            more.failed = containers.into_iter().chain(init_containers).filter_map(failed).collect();
        }
        if reads(OwnerKind::StatefulSet) {
            more.claims = spec
                .volumes
                .unwrap_or_default()
                .into_iter()
                .filter_map(|v| Some((v.name, v.persistent_volume_claim?.claim_name)))
                .collect();
        }
        if reads(OwnerKind::DaemonSet) {
            more.target_node = spec.affinity.and_then(target_node);
        }
        let more = (more != More::default()).then(|| Box::new(more));
        Ok(Pod {
            name: meta.name,
            uid: meta.uid,
            labels: meta.labels.unwrap_or_default(),
            controller,
            created: meta.creation_timestamp,
            deleted: meta.deletion_timestamp,
            node: spec.node_name,
            phase: match status.phase.as_deref() {
                Some("Pending") => Phase::Pending,
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::None,
            },
            ready: is_ready,
            ready_changed,
            restarts,
            sidecar_restarts,
            deletion_cost,
            more,
        })
    }
}

fn failed(status: RawContainer) -> Option<Failed> {
    let terminated = status.state?.terminated?;
    (terminated.exit_code != 0).then_some(Failed { container: status.name, exit_code: terminated.exit_code })
}

/// When the last container ended, if all have: those of the pod, and the init containers that keep running.
fn finished(containers: &[RawContainer], init: &[RawContainer], sidecars: &[Box<str>]) -> Option<Time> {
    let end = |c: &RawContainer| c.state.as_ref()?.terminated.as_ref()?.finished_at;
    let mut latest = None;
    for container in containers {
        latest = latest.max(Some(end(container)?));
    }
    for sidecar in init.iter().filter(|c| sidecars.contains(&c.name)) {
        latest = latest.max(Some(end(sidecar)?));
    }
    latest
}

/// The one node that the first term of a required affinity names.
fn target_node(affinity: RawAffinity) -> Option<Box<str>> {
    let terms = affinity.node_affinity?.required?.node_selector_terms;
    let fields = terms.into_iter().filter_map(|t| t.match_fields).flatten();
    let names = |f: RawField| (f.key == "metadata.name" && f.operator == "In").then_some(f.values?);
    let mut values = fields.filter_map(names).find(|v| v.len() == 1)?;
    values.pop()
}

/// What a pod costs when its owner has too many (an annotation; lower goes first): a whole number without plus sign and leading zeros; anything else costs nothing.
fn deletion_cost(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let first = digits.bytes().next()?;
    let well_formed = text == "0" || (b'1'..=b'9').contains(&first);
    if well_formed { text.parse().ok() } else { None }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
