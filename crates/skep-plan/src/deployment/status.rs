//! A Deployment's status and conditions.

use jiff::Timestamp;

use super::scale::max_unavailable;
use super::{Deployment, Status};
use crate::condition::{self, Condition};
use crate::replicaset::ReplicaSet;
use crate::time::Time;

pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const AVAILABLE: &str = "Available";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(super) const REPLICA_SET_UPDATED: &str = "ReplicaSetUpdated";
pub(super) const REPLICA_SET_CREATE_ERROR: &str = "ReplicaSetCreateError";
pub(super) const NEW_REPLICA_SET_CREATED: &str = "NewReplicaSetCreated";
pub(super) const FOUND_NEW_REPLICA_SET: &str = "FoundNewReplicaSet";
pub(super) const NEW_REPLICA_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
pub(super) const PAUSED: &str = "DeploymentPaused";
pub(super) const RESUMED: &str = "DeploymentResumed";

/// A condition as of now.
fn new(now: Timestamp, kind: &str, status: &str, reason: &str, message: String) -> Condition {
    let time = Some(Time::of(now));
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_probe_time: None,
        last_update_time: time,
        last_transition_time: time,
    }
}

/// A condition `Progressing` as of now.
pub(super) fn progressing(now: Timestamp, status: &str, reason: &str, message: String) -> Condition {
    new(now, PROGRESSING, status, reason, message)
}

/// Puts a condition in place, unless one of the same status and reason is there. The time of transition is kept where the
/// status is the same.
pub(super) fn set(conditions: &mut Vec<Condition>, mut condition: Condition) {
    if let Some(old) = condition::find(conditions, &condition.kind) {
        if old.status == condition.status {
            if old.reason == condition.reason {
                return;
            }
            condition.last_transition_time = old.last_transition_time;
        }
        condition::remove(conditions, &condition.kind);
    }
    conditions.push(condition);
}

/// The status that follows from the replica sets, before progress is judged. `known`: the status so far.
pub(super) fn calculate(
    now: Timestamp,
    d: &Deployment,
    known: &Status,
    sets: &[ReplicaSet],
    new_set: Option<&ReplicaSet>,
) -> Status {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.iter().map(of).sum::<i32>();
    let available = sum(|s| s.status.available_replicas);
    let mut status = Status {
        observed_generation: d.meta.generation,
        replicas: sum(|s| s.status.replicas),
        updated_replicas: new_set.map_or(0, |s| s.status.replicas),
        ready_replicas: sum(|s| s.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (sum(|s| s.replicas) - available).max(0),
        terminating_replicas: terminating(sets),
        collision_count: known.collision_count,
        conditions: known.conditions.clone(),
    };
    let condition = if available >= d.replicas - max_unavailable(d) {
        new(
            now,
            AVAILABLE,
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".to_owned(),
        )
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        new(now, AVAILABLE, "False", "MinimumReplicasUnavailable", message)
    };
    set(&mut status.conditions, condition);
    status
}

/// `None` while a replica set's controller has not told.
fn terminating(sets: &[ReplicaSet]) -> Option<i32> {
    let told =
        sets.iter().filter(|s| s.status.observed_generation != 0 || s.status.terminating_replicas.is_some());
    told.map(|s| s.status.terminating_replicas).sum()
}

/// Whether a status says that the rollout is complete.
pub(super) fn is_complete(d: &Deployment, status: &Status) -> bool {
    status.updated_replicas == d.replicas
        && status.replicas == d.replicas
        && status.available_replicas == d.replicas
        && status.observed_generation >= d.meta.generation
}

/// Whether there is progress from one status to the next.
pub(super) fn has_progressed(old: &Status, new: &Status) -> bool {
    new.updated_replicas > old.updated_replicas
        || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

/// Whether the last progress is longer ago than the deadline allows.
pub(super) fn has_timed_out(now: Timestamp, d: &Deployment, conditions: &[Condition]) -> bool {
    let Some(deadline) = d.progress_deadline_seconds else { return false };
    let Some(condition) = condition::find(conditions, PROGRESSING) else { return false };
    match condition.reason.as_str() {
        NEW_REPLICA_SET_AVAILABLE => false,
        DEADLINE_EXCEEDED => true,
        _ => condition.last_update_time.is_none_or(|t| t.plus_seconds(i64::from(deadline)).timestamp() < now),
    }
}

/// The failure of a replica set that the Deployment shows as its own: the newest one's, else the first.
pub(super) fn replica_failure(sets: &[ReplicaSet], new_set: Option<&ReplicaSet>) -> Option<Condition> {
    let of = |s: &ReplicaSet| condition::find(&s.status.conditions, REPLICA_FAILURE).cloned();
    let mut found = new_set.and_then(of).or_else(|| sets.iter().find_map(of))?;
    found.last_update_time = found.last_transition_time;
    Some(found)
}
