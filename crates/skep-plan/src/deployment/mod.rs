//! Deployment: revisions of a template as replica sets, and the way from one to the next.

mod revision;
mod scale;
mod status;
mod steps;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::Event;
use crate::condition::{Condition, json_count, json_of};
use crate::intstr::IntOrPercent;
use crate::meta::{Meta, OwnerKind, Uid};
use crate::refs::{Claim, claim};
use crate::replicaset::ReplicaSet;
use crate::selector::Selector;
use crate::template::{MAX_NAME_LENGTH, Template};
use steps::Planner;

pub use revision::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY};

/// The deadline and the history limit with which there is none.
const UNLIMITED: i32 = i32::MAX;

/// A view of a Deployment.
#[derive(Clone, Debug, Default)]
pub struct Deployment {
    /// `metadata`.
    pub meta: Meta,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.selector`.
    pub selector: Selector,
    /// `spec.template`.
    pub template: Template,
    /// `spec.strategy`.
    pub strategy: Strategy,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// `spec.revisionHistoryLimit`; `None`: keep all.
    pub revision_history_limit: Option<i32>,
    /// `spec.paused`.
    pub paused: bool,
    /// `spec.progressDeadlineSeconds`; `None`: progress is not judged.
    pub progress_deadline_seconds: Option<i32>,
    /// `status`.
    pub status: Status,
}

/// How pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All old ones go before the first new one comes.
    Recreate,
    /// Some at a time.
    RollingUpdate {
        /// How many there may be more than wanted.
        max_surge: IntOrPercent,
        /// How many of those wanted may be missing.
        max_unavailable: IntOrPercent,
    },
}

impl Default for Strategy {
    fn default() -> Strategy {
        let quarter = IntOrPercent::Percent(25);
        Strategy::RollingUpdate { max_surge: quarter, max_unavailable: quarter }
    }
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The spec that this is about.
    pub observed_generation: i64,
    /// Pods of all replica sets.
    pub replicas: i32,
    /// Pods of the newest one.
    pub updated_replicas: i32,
    /// Ready ones.
    pub ready_replicas: i32,
    /// Those that have been ready for long enough.
    pub available_replicas: i32,
    /// Those that are missing.
    pub unavailable_replicas: i32,
    /// Those on their way out.
    pub terminating_replicas: Option<i32>,
    /// How often the name of a new replica set was taken.
    pub collision_count: Option<i32>,
    /// `conditions`.
    pub conditions: Vec<Condition>,
}

/// What is written of a Deployment: its status, and its revision, which is an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// The new status.
    pub status: Status,
    /// The new revision, if that changes.
    pub revision: Option<String>,
}

impl StatusChange {
    /// A merge patch of the status subresource, which takes annotations too.
    #[must_use]
    pub fn patch(&self) -> Value {
        let s = &self.status;
        let mut patch = json!({ "status": {
            "observedGeneration": s.observed_generation,
            "replicas": json_count(s.replicas),
            "updatedReplicas": json_count(s.updated_replicas),
            "readyReplicas": json_count(s.ready_replicas),
            "availableReplicas": json_count(s.available_replicas),
            "unavailableReplicas": json_count(s.unavailable_replicas),
            "terminatingReplicas": s.terminating_replicas,
            "collisionCount": s.collision_count,
            "conditions": json_of(&s.conditions),
        }});
        if let Some(revision) = &self.revision {
            patch["metadata"] = json!({ "annotations": { REVISION: revision } });
        }
        patch
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
    replicas: Option<i32>,
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    template: Template,
    #[serde(default)]
    strategy: Option<RawStrategy>,
    #[serde(default)]
    min_ready_seconds: i32,
    #[serde(default)]
    revision_history_limit: Option<i32>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    progress_deadline_seconds: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStrategy {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    rolling_update: Option<RawRolling>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRolling {
    #[serde(default)]
    max_surge: Option<IntOrPercent>,
    #[serde(default)]
    max_unavailable: Option<IntOrPercent>,
}

impl<'de> Deserialize<'de> for Deployment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Deployment, D::Error> {
        let Raw { metadata, spec, status } = Raw::deserialize(deserializer)?;
        let strategy = spec.strategy.unwrap_or_default();
        let zero = IntOrPercent::Int(0);
        let strategy = match (strategy.kind.as_deref(), strategy.rolling_update) {
            (Some("Recreate"), _) => Strategy::Recreate,
            (_, Some(rolling)) => Strategy::RollingUpdate {
                max_surge: rolling.max_surge.unwrap_or(zero),
                max_unavailable: rolling.max_unavailable.unwrap_or(zero),
            },
            (_, None) => Strategy::default(),
        };
        Ok(Deployment {
            meta: metadata,
            replicas: spec.replicas.unwrap_or(1),
            selector: spec.selector,
            template: spec.template,
            strategy,
            min_ready_seconds: spec.min_ready_seconds,
            revision_history_limit: spec.revision_history_limit.filter(|n| *n != UNLIMITED),
            paused: spec.paused,
            progress_deadline_seconds: spec.progress_deadline_seconds.filter(|n| *n != UNLIMITED),
            status: status.unwrap_or_default(),
        })
    }
}

/// One change of a replica set.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Create it. A taken name is a case for [`collided`], any other failure for [`create_failed`].
    Create {
        /// Its name.
        name: String,
        /// The request's body.
        body: Value,
        /// To record when it worked.
        event: Option<Event>,
    },
    /// Change its size or annotations, by a merge patch that fails if it has changed meanwhile.
    Patch {
        /// Its name.
        name: String,
        /// The request's body.
        body: Value,
        /// To record when it worked.
        events: Vec<Event>,
    },
    /// Delete it, if it has not changed meanwhile.
    Delete {
        /// Its name.
        name: String,
        /// Its uid.
        uid: Uid,
        /// Its version.
        resource_version: String,
    },
}

/// What is to be done, in this order. When a step fails, the rest is left out and the Deployment looked at again.
#[derive(Debug, Default)]
pub struct Plan {
    /// Replica sets to take, after making sure that the Deployment is not being deleted.
    pub adopt: Vec<(Box<str>, Uid)>,
    /// Replica sets to let go.
    pub release: Vec<(Box<str>, Uid)>,
    /// Changes of replica sets.
    pub steps: Vec<Step>,
    /// What to write of the Deployment itself, if anything.
    pub status: Option<StatusChange>,
    /// To record in any case.
    pub events: Vec<Event>,
    /// When lack of progress is to be judged.
    pub requeue_after: Option<Duration>,
}

/// What is to be done about a Deployment.
///
/// - `sets`: the replica sets it owns, and those of its namespace without an owner.
/// - `has_pods`: whether a replica set has pods that may still run, by what the pods themselves say.
#[must_use]
pub fn plan(
    now: Timestamp,
    d: &Deployment,
    sets: &[&ReplicaSet],
    has_pods: &dyn Fn(&ReplicaSet) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    if d.selector.is_empty() {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        plan.events.push(Event::warning("SelectingAll", message));
        if d.status.observed_generation < d.meta.generation {
            let status = Status { observed_generation: d.meta.generation, ..d.status.clone() };
            plan.status = Some(StatusChange { status, revision: None });
        }
        return plan;
    }
    let mut owned: Vec<ReplicaSet> = Vec::new();
    for set in sets {
        let meta = &set.meta;
        match claim(&d.meta, &d.selector, &meta.labels, meta.controller.as_ref(), meta.deleted.is_some()) {
            Claim::Own => owned.push((*set).clone()),
            Claim::Adopt => {
                plan.adopt.push((meta.name.clone(), meta.uid.clone()));
                owned.push((*set).clone());
            }
            Claim::Release => plan.release.push((meta.name.clone(), meta.uid.clone())),
            Claim::Ignore => {}
        }
    }
    let mut planner = Planner::new(now, d, owned);
    if d.meta.deleted.is_some() {
        planner.find_new(false);
        planner.sync_status();
    } else {
        planner.paused_condition();
        planner.find_new(false);
        if d.paused || planner.is_scaling_event() {
            planner.scale();
            if d.paused {
                planner.clean_up();
            }
            planner.sync_status();
        } else {
            match d.strategy {
                Strategy::Recreate => planner.recreate(has_pods),
                Strategy::RollingUpdate { .. } => planner.roll(),
            }
            planner.sync_rollout_status();
        }
    }
    planner.finish(plan)
}

/// What to make of a replica set's name that was taken.
#[derive(Debug, PartialEq)]
pub enum Collision {
    /// The replica set is the Deployment's own new one, which was only not seen yet: look again when it is.
    Ours,
    /// It is another: count the collision, which changes the name, and try again.
    Bump(StatusChange),
}

/// What to make of it that the name of a new replica set was taken by `existing`.
#[must_use]
pub fn collided(d: &Deployment, existing: &ReplicaSet) -> Collision {
    if d.meta.controls(existing.meta.controller.as_ref()) && d.template.same_pods(&existing.template) {
        return Collision::Ours;
    }
    let count = d.status.collision_count.unwrap_or(0).saturating_add(1);
    let status = Status { collision_count: Some(count), ..d.status.clone() };
    Collision::Bump(StatusChange { status, revision: None })
}

/// What to write and record when a new replica set could not be created for another reason than a taken name.
#[must_use]
pub fn create_failed(
    now: Timestamp,
    d: &Deployment,
    name: &str,
    error: &str,
) -> (Option<StatusChange>, Event) {
    let message = format!("Failed to create new replica set {name:?}: {error}");
    let event = Event::warning(status::REPLICA_SET_CREATE_ERROR, message.clone());
    if d.progress_deadline_seconds.is_none() {
        return (None, event);
    }
    let mut new = d.status.clone();
    let condition = status::progressing(now, "False", status::REPLICA_SET_CREATE_ERROR, message);
    status::set(&mut new.conditions, condition);
    ((new != d.status).then_some(StatusChange { status: new, revision: None }), event)
}

/// The name of the replica set of a revision.
fn replica_set_name(deployment: &str, hash: &str) -> String {
    let room = MAX_NAME_LENGTH.saturating_sub(1 + hash.len());
    let kept = if deployment.len() > room {
        &deployment[..deployment.floor_char_boundary(room)]
    } else {
        deployment
    };
    format!("{kept}-{hash}")
}

/// A new replica set's create request.
fn replica_set_body(d: &Deployment, set: &ReplicaSet, hash: &str) -> Value {
    json!({
        "apiVersion": OwnerKind::ReplicaSet.api_version(),
        "kind": OwnerKind::ReplicaSet.name(),
        "metadata": {
            "name": set.meta.name,
            "namespace": d.meta.namespace,
            "labels": set.template.labels,
            "annotations": set.meta.annotations,
            "ownerReferences": [d.meta.controller_ref(OwnerKind::Deployment)],
        },
        "spec": {
            "replicas": set.replicas,
            "minReadySeconds": set.min_ready_seconds,
            "selector": d.selector.json_with(crate::template::POD_TEMPLATE_HASH, hash),
            "template": set.template.json_with_labels(&set.template.labels),
        },
    })
}

#[cfg(test)]
#[path = "../deployment_tests.rs"]
mod tests;
