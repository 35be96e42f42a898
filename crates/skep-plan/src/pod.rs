//! The view of a pod, small because there are so many, and the order in which pods are given up.

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use skep_base::SharedStr;

use crate::labels::Labels;
use crate::meta::{ControllerRef, OwnerKind, Uid};
use crate::raw;
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
    pub node: SharedStr,
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
    /// Job: types of its conditions, with their status, of a pod that has failed or is being deleted.
    pub conditions: Vec<(SharedStr, SharedStr)>,
    /// Job: containers that ended badly, init containers last.
    pub failed: Vec<Failed>,
    /// Job: when it came to its end, by the best that is known; nothing where nothing but its creation is.
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

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pod, D::Error> {
        raw::Pod::deserialize(deserializer).map(|raw| Pod::of(&raw))
    }
}

impl Pod {
    /// What planners read of a pod.
    #[must_use]
    pub fn of(raw: &raw::Pod<'_>) -> Pod {
        let raw::Pod { metadata: meta, spec, status } = raw;
        let nothing = raw::Annotations::default();
        let annotations = meta.annotations.as_ref().unwrap_or(&nothing);
        let ready = status.conditions.iter().find(|c| &*c.kind == "Ready");
        let ready_changed = ready.and_then(|c| c.last_transition_time);
        let (containers, init_containers) = (&status.container_statuses, &status.init_container_statuses);
        let is_sidecar = |name: &str| {
            let always = |c: &&raw::Container<'_>| c.restart_policy.as_deref().is_some_and(|p| p == "Always");
            spec.init_containers.iter().filter(always).any(|c| *c.name == *name)
        };
        let restarts = containers.iter().map(|c| c.restart_count).max().unwrap_or(0);
        let sidecar_restarts = init_containers
            .iter()
            .filter(|c| is_sidecar(&c.name))
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0);
        let controller = meta.owner_references.iter().find(|o| o.controller == Some(true));
        let controller = controller.map(|o| ControllerRef {
            kind: OwnerKind::of(&o.api_version, &o.kind),
            name: SharedStr::new(&o.name),
            uid: Uid::new(&o.uid),
        });
        let kind = controller.as_ref().map(|c| c.kind);
        let reads = |owner: OwnerKind| kind.is_none() || kind == Some(owner);

        let mut more = More::default();
        if reads(OwnerKind::Job) {
            let number = |text: &Option<raw::Text<'_>>| text.as_ref().and_then(|t| t.parse().ok());
            more.tracked = meta.finalizers.iter().any(|f| **f == *JOB_TRACKING_FINALIZER);
            more.index = number(&annotations.index).filter(|i| *i >= 0);
            more.index_failures = number(&annotations.index_failures);
            more.index_ignored_failures = number(&annotations.index_ignored_failures);
            // Asked for of pods that have failed, among which may be those on their way out.
            if *status.phase == *"Failed" || meta.deletion_timestamp.is_some() {
                let pair = |c: &raw::Condition<'_>| (SharedStr::new(&c.kind), SharedStr::new(&c.status));
                more.conditions = status.conditions.iter().map(pair).collect();
            }
            more.finished = finished(containers, init_containers, is_sidecar)
                .or(ready_changed.filter(|_| ready.is_some_and(|c| &*c.status == "False")))
                .or(meta
                    .deletion_timestamp
                    .map(|t| t.plus_seconds(-meta.deletion_grace_period_seconds.unwrap_or(0))));
            more.all_restarts = containers.iter().chain(init_containers).map(|c| c.restart_count).sum();
            more.failed = containers.iter().chain(init_containers).filter_map(failed).collect();
        }
        if reads(OwnerKind::StatefulSet) {
            let claim = |v: &raw::Volume<'_>| {
                Some(((&*v.name).into(), (&*v.persistent_volume_claim.as_ref()?.claim_name).into()))
            };
            more.claims = spec.volumes.iter().filter_map(claim).collect();
        }
        if reads(OwnerKind::DaemonSet) {
            more.target_node = spec.affinity.as_ref().and_then(target_node);
        }
        Pod {
            name: (&*meta.name).into(),
            uid: Uid::new(&meta.uid),
            labels: meta.labels.clone(),
            controller,
            created: meta.creation_timestamp,
            deleted: meta.deletion_timestamp,
            node: SharedStr::new(&spec.node_name),
            phase: match &*status.phase {
                "Pending" => Phase::Pending,
                "Running" => Phase::Running,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Unknown" => Phase::Unknown,
                _ => Phase::None,
            },
            ready: ready.is_some_and(|c| &*c.status == "True"),
            ready_changed,
            restarts,
            sidecar_restarts,
            deletion_cost: annotations.deletion_cost.as_deref().and_then(deletion_cost).unwrap_or(0),
            more: (more != More::default()).then(|| Box::new(more)),
        }
    }
}

fn failed(status: &raw::ContainerStatus<'_>) -> Option<Failed> {
    let terminated = status.state.as_ref()?.terminated.as_ref()?;
    (terminated.exit_code != 0)
        .then(|| Failed { container: (&*status.name).into(), exit_code: terminated.exit_code })
}

/// When the last container ended, if all have: those of the pod, and the init containers that keep running.
fn finished(
    containers: &[raw::ContainerStatus<'_>],
    init: &[raw::ContainerStatus<'_>],
    is_sidecar: impl Fn(&str) -> bool,
) -> Option<Time> {
    let end = |c: &raw::ContainerStatus<'_>| c.state.as_ref()?.terminated.as_ref()?.finished_at;
    let mut latest = None;
    for container in containers {
        latest = latest.max(Some(end(container)?));
    }
    for sidecar in init.iter().filter(|c| is_sidecar(&c.name)) {
        latest = latest.max(Some(end(sidecar)?));
    }
    latest
}

/// The one node that the first term of a required affinity names.
fn target_node(affinity: &raw::Affinity<'_>) -> Option<Box<str>> {
    let terms = &affinity.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let names =
        |f: &&raw::Requirement<'_>| &*f.key == "metadata.name" && &*f.operator == "In" && f.values.len() == 1;
    let field = terms.iter().flat_map(|t| &t.match_fields).find(names)?;
    Some((&**field.values.first()?).into())
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
