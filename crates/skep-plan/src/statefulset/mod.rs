//! StatefulSet: pods with a name and claims of their own, made, replaced and given up in order.

mod claims;

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::condition::{Condition, json_count, json_of};
use crate::intstr::IntOrPercent;
use crate::meta::{Meta, OwnerKind};
use crate::pod::{Phase, Pod, next_available};
use crate::refs;
use crate::revision::{History, Newest, POD_REVISION, Revision};
use crate::selector::Selector;
use crate::template::{Template, canonical, generate_name, pod_body};

pub use claims::{Claim, Owner};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// A view of a StatefulSet.
#[derive(Clone, Debug, Default)]
pub struct StatefulSet {
    /// `metadata`.
    pub meta: Meta,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.ordinals.start`.
    pub start: i32,
    /// `spec.selector`.
    pub selector: Selector,
    /// `spec.template`.
    pub template: Template,
    /// `spec.volumeClaimTemplates`, as JSON text of each by its name.
    pub claim_templates: Vec<(Box<str>, Box<str>)>,
    /// `spec.serviceName`.
    pub service_name: Box<str>,
    /// `spec.podManagementPolicy` is `Parallel`.
    pub parallel: bool,
    /// `spec.updateStrategy`.
    pub strategy: Strategy,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
    /// `spec.revisionHistoryLimit`.
    pub revision_history_limit: Option<i32>,
    /// `spec.persistentVolumeClaimRetentionPolicy.whenDeleted` is `Delete`.
    pub delete_when_deleted: bool,
    /// The same of `whenScaled`.
    pub delete_when_scaled: bool,
    /// `status`.
    pub status: Status,
}

/// `spec.updateStrategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Pods are replaced when somebody deletes them.
    OnDelete,
    /// Pods are replaced from the last to the first.
    RollingUpdate {
        /// Those below keep the current revision. `None`: not said.
        partition: Option<i32>,
        /// How many may be missing. `None`: one at a time, each after the one above is available.
        max_unavailable: Option<IntOrPercent>,
    },
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy::RollingUpdate { partition: None, max_unavailable: None }
    }
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The spec that this is about.
    pub observed_generation: i64,
    /// Pods there are.
    pub replicas: i32,
    /// Ready ones.
    pub ready_replicas: i32,
    /// Those that have been ready for long enough.
    pub available_replicas: i32,
    /// Those of the current revision.
    pub current_replicas: i32,
    /// Those of the update revision.
    pub updated_replicas: i32,
    /// The revision from which an update goes.
    pub current_revision: String,
    /// The revision to which it goes.
    pub update_revision: String,
    /// How often the name of a revision was taken.
    pub collision_count: Option<i32>,
    /// `conditions`: somebody else's.
    pub conditions: Vec<Condition>,
}

impl Status {
    /// A merge patch of the status subresource.
    #[must_use]
    pub fn patch(&self) -> Value {
        json!({ "status": {
            "observedGeneration": self.observed_generation,
            "replicas": self.replicas,
            "readyReplicas": json_count(self.ready_replicas),
            // Always shown, as upstream does.
            "availableReplicas": self.available_replicas,
            "currentReplicas": json_count(self.current_replicas),
            "updatedReplicas": json_count(self.updated_replicas),
            "currentRevision": self.current_revision,
            "updateRevision": self.update_revision,
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
    replicas: Option<i32>,
    #[serde(default)]
    ordinals: Option<RawOrdinals>,
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    template: Template,
    #[serde(default)]
    volume_claim_templates: Option<Vec<Value>>,
    #[serde(default)]
    service_name: Option<Box<str>>,
    #[serde(default)]
    pod_management_policy: Option<String>,
    #[serde(default)]
    update_strategy: Option<RawStrategy>,
    #[serde(default)]
    min_ready_seconds: i32,
    #[serde(default)]
    revision_history_limit: Option<i32>,
    #[serde(default)]
    persistent_volume_claim_retention_policy: Option<RawRetention>,
}

#[derive(Deserialize)]
struct RawOrdinals {
    #[serde(default)]
    start: i32,
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
    partition: Option<i32>,
    max_unavailable: Option<IntOrPercent>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRetention {
    when_deleted: Option<String>,
    when_scaled: Option<String>,
}

impl<'de> Deserialize<'de> for StatefulSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StatefulSet, D::Error> {
        let Raw { metadata, spec, status } = Raw::deserialize(deserializer)?;
        let strategy = spec.update_strategy.unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let retention = spec.persistent_volume_claim_retention_policy.unwrap_or_default();
        let named = |claim: Value| {
            let name = claim.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            (name.into(), canonical(&claim).into())
        };
        Ok(StatefulSet {
            meta: metadata,
            replicas: spec.replicas.unwrap_or(1),
            start: spec.ordinals.map_or(0, |o| o.start),
            selector: spec.selector,
            template: spec.template,
            claim_templates: spec.volume_claim_templates.unwrap_or_default().into_iter().map(named).collect(),
            service_name: spec.service_name.unwrap_or_default(),
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            strategy: if strategy.kind.as_deref() == Some("OnDelete") {
                Strategy::OnDelete
            } else {
                Strategy::RollingUpdate {
                    partition: rolling.partition,
                    max_unavailable: rolling.max_unavailable,
                }
            },
            min_ready_seconds: spec.min_ready_seconds,
            revision_history_limit: spec.revision_history_limit,
            delete_when_deleted: retention.when_deleted.as_deref() == Some("Delete"),
            delete_when_scaled: retention.when_scaled.as_deref() == Some("Delete"),
            status: status.unwrap_or_default(),
        })
    }
}

/// One thing to do. Several of a step may be done at once.
#[derive(Debug)]
pub enum Action<'a> {
    /// Create a pod, after its claims.
    Create {
        /// Its name.
        name: String,
        /// Its claims that are missing: name and body of each.
        claims: Vec<(String, Value)>,
        /// The body.
        body: String,
    },
    /// Create claims of a pod that is there.
    CreateClaims {
        /// The pod's name.
        pod: &'a str,
        /// Name and body of each.
        claims: Vec<(String, Value)>,
    },
    /// Delete a pod.
    Delete(&'a Pod),
    /// Give a pod the labels of its name again.
    Label {
        /// Which.
        pod: &'a Pod,
        /// A merge patch.
        patch: Value,
    },
    /// Give a claim the owners that the retention policy wants.
    OwnClaim {
        /// Its name.
        name: &'a str,
        /// A merge patch.
        patch: Value,
    },
}

/// What is to be done, in this order. When something fails, the rest is left out, but for the status.
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
    /// What to do about pods and claims.
    pub actions: Vec<Action<'a>>,
    /// The status, if it changes.
    pub status: Option<Status>,
    /// Revisions that nobody needs any more.
    pub delete_revisions: Vec<&'a Revision>,
    /// When a pod becomes available without anything else happening.
    pub requeue_after: Option<Duration>,
}

/// The owner's name and the ordinal in a pod's name.
fn parse_name(name: &str) -> Option<(&str, i32)> {
    let (parent, ordinal) = name.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    digits.then_some((parent, ordinal.parse().ok()?))
}

fn ordinal(pod: &Pod) -> Option<i32> {
    parse_name(&pod.name).map(|(_, n)| n)
}

fn in_range(set: &StatefulSet, pod_name: &str) -> bool {
    parse_name(pod_name).is_some_and(|(_, n)| n >= set.start && n < set.start.saturating_add(set.replicas))
}

/// What to write when the name of a new revision was taken by another: the collision, which changes the name.
#[must_use]
pub fn revision_taken(set: &StatefulSet) -> Status {
    let count = set.status.collision_count.unwrap_or(0).saturating_add(1);
    Status { collision_count: Some(count), ..set.status.clone() }
}

/// What is to be done about a StatefulSet.
///
/// - `pods`: those it owns, and those of its namespace without an owner; they must show what earlier syncs did.
/// - `revisions`: the same of ControllerRevisions.
/// - `claims`: finds a claim of the set's namespace by name.
#[must_use]
pub fn plan<'a>(
    now: Timestamp,
    set: &StatefulSet,
    pods: &[&'a Pod],
    revisions: &[&'a Revision],
    claims: &dyn Fn(&str) -> Option<&'a Claim>,
) -> Plan<'a> {
    let mut plan = Plan::default();
    let history = History::of(
        &set.meta,
        OwnerKind::StatefulSet,
        &set.selector,
        &set.template,
        set.status.collision_count.unwrap_or(0),
        revisions,
    );
    plan.adopt_revisions.clone_from(&history.adopt);
    let mut own: Vec<&Pod> = Vec::new();
    for pod in pods {
        let is_member = parse_name(&pod.name).is_some_and(|(parent, _)| *parent == *set.meta.name);
        let claimed = refs::claim(
            &set.meta,
            &set.selector,
            &pod.labels,
            pod.controller.as_ref(),
            pod.deleted.is_some(),
        );
        match claimed {
            refs::Claim::Own if is_member => own.push(pod),
            refs::Claim::Own if set.meta.deleted.is_none() => plan.release.push(pod),
            refs::Claim::Adopt if is_member => {
                plan.adopt.push(pod);
                own.push(pod);
            }
            refs::Claim::Release => plan.release.push(pod),
            _ => {}
        }
    }
    let update = history.newest.name().to_owned();
    let current = history.known.iter().find(|r| *r.meta.name == *set.status.current_revision);
    let current_name = current.map_or_else(|| update.clone(), |r| r.meta.name.to_string());
    let current_template = current.map_or_else(|| set.template.clone(), |r| r.template());
    plan.newest = history.to_write(&set.meta);
    let mut sync =
        Sync { now, set, claims, update: &update, current: &current_name, current_template, deleted: 0 };
    if set.meta.deleted.is_none() {
        sync.steps(&own, &mut plan);
    }
    let status = sync.status(&own);
    if status != set.status {
        plan.status = Some(status);
    }
    if set.min_ready_seconds > 0 {
        plan.requeue_after = next_available(own.iter().copied(), set.min_ready_seconds, now);
    }
    let in_use = |name: &str| {
        name == update || name == current_name || own.iter().any(|p| p.labels.get(POD_REVISION) == Some(name))
    };
    plan.delete_revisions = history.excess(set.revision_history_limit, &in_use);
    plan
}

struct Sync<'s, 'a> {
    now: Timestamp,
    set: &'s StatefulSet,
    claims: &'s dyn Fn(&str) -> Option<&'a Claim>,
    update: &'s str,
    current: &'s str,
    current_template: Template,
    /// Pods of the current revision that go for an update.
    deleted: i32,
}

impl<'a> Sync<'_, 'a> {
    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.set.min_ready_seconds, self.now) && pod.deleted.is_none()
    }

    /// Whether everything before this pod is as it must be before the next one is touched, when in order.
    fn is_settled(&self, pod: &Pod) -> bool {
        pod.phase == Phase::Running && self.is_available(pod)
    }

    fn steps(&mut self, own: &[&'a Pod], plan: &mut Plan<'a>) {
        let set = self.set;
        let by_ordinal: HashMap<i32, &'a Pod> = own.iter().filter_map(|p| Some((ordinal(p)?, *p))).collect();
        let range = set.start..set.start.saturating_add(set.replicas);
        for n in range.clone() {
            let stop = match by_ordinal.get(&n) {
                Some(pod) => self.keep(pod, plan),
                None => self.create(n, plan),
            };
            if stop && !set.parallel {
                return;
            }
        }
        let mut condemned: Vec<&'a Pod> =
            own.iter().copied().filter(|p| ordinal(p).is_some_and(|n| !range.contains(&n))).collect();
        condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(p)));
        for pod in &condemned {
            self.own_claims(pod, plan);
        }
        if !self.condemn(own, &condemned, plan) {
            return;
        }
        let Strategy::RollingUpdate { partition, max_unavailable } = set.strategy else { return };
        // Pods that this plan only creates are there, but not available.
        let replicas: Vec<Option<&'a Pod>> = range.map(|n| by_ordinal.get(&n).copied()).collect();
        let first = usize::try_from(partition.unwrap_or(0)).unwrap_or(0);
        self.roll(&replicas, first, max_unavailable, plan);
    }

    /// Looks after a pod that is to be there. Says whether those after it must wait.
    fn keep(&mut self, pod: &'a Pod, plan: &mut Plan<'a>) -> bool {
        if pod.is_over() {
            if pod.deleted.is_none() {
                plan.actions.push(Action::Delete(pod));
            }
            return true;
        }
        if pod.phase == Phase::Pending && pod.deleted.is_none() {
            let missing = self.missing_claims(&pod.name);
            if !missing.is_empty() {
                plan.actions.push(Action::CreateClaims { pod: &pod.name, claims: missing });
            }
        }
        let settled = self.is_settled(pod);
        if pod.deleted.is_none() && (settled || self.set.parallel) {
            self.own_claims(pod, plan);
            let index = ordinal(pod).unwrap_or_default().to_string();
            if pod.labels.get(POD_NAME) != Some(&*pod.name) {
                let labels = json!({ POD_NAME: pod.name, POD_INDEX: index });
                let patch = json!({ "metadata": { "uid": pod.uid, "labels": labels } });
                plan.actions.push(Action::Label { pod, patch });
            }
        }
        !settled
    }

    fn claim_name(&self, template: &str, pod_name: &str) -> String {
        let ordinal = parse_name(pod_name).map_or(0, |(_, n)| n);
        format!("{template}-{}-{ordinal}", self.set.meta.name)
    }

    fn missing_claims(&self, pod_name: &str) -> Vec<(String, Value)> {
        let missing = |(template, text): &(Box<str>, Box<str>)| {
            let name = self.claim_name(template, pod_name);
            if (self.claims)(&name).is_some() {
                return None;
            }
            let mut body: Value = serde_json::from_str(text).unwrap_or_default();
            body["apiVersion"] = json!("v1");
            body["kind"] = json!("PersistentVolumeClaim");
            if let Some(map) = body.as_object_mut() {
                map.remove("status");
            }
            let meta = &mut body["metadata"];
            let mut labels = meta.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
            labels.extend(self.set.selector.match_labels().iter().map(|(k, v)| (k.clone(), json!(v))));
            meta["name"] = json!(name);
            meta["namespace"] = json!(self.set.meta.namespace);
            meta["labels"] = Value::Object(labels);
            // Nobody scales down a pod that is only being made: of the policy, the set's part is all there is.
            if self.set.delete_when_deleted {
                meta["ownerReferences"] = json!([self.set.meta.controller_ref(OwnerKind::StatefulSet)]);
            }
            Some((name, body))
        };
        self.set.claim_templates.iter().filter_map(missing).collect()
    }

    fn own_claims(&self, pod: &Pod, plan: &mut Plan<'a>) {
        for (template, _) in &self.set.claim_templates {
            let name = self.claim_name(template, &pod.name);
            let Some(claim) = (self.claims)(&name) else { continue };
            if let Some(owners) = claims::owners(self.set, claim, pod) {
                let patch = claims::owners_patch(claim, &owners);
                plan.actions.push(Action::OwnClaim { name: &claim.meta.name, patch });
            }
        }
    }

    /// Makes a pod, if its claims allow. Those after it wait, when in order.
    fn create(&mut self, n: i32, plan: &mut Plan<'a>) -> bool {
        let set = self.set;
        let name = format!("{}-{n}", set.meta.name);
        let claim_names = set.claim_templates.iter().map(|(t, _)| self.claim_name(t, &name));
        // A claim that is on its way out, alone or with the pod that had this name, must be gone first.
        let leaving = |claim: &Claim| {
            claim.meta.deleted.is_some()
                || (set.delete_when_scaled && claim.owners.iter().any(|o| o.is_pod(&name)))
        };
        if claim_names.filter_map(|c| (self.claims)(&c)).any(leaving) {
            return true;
        }
        let below = match set.strategy {
            Strategy::RollingUpdate { partition: None, .. } => set.status.current_replicas,
            Strategy::RollingUpdate { partition: Some(partition), .. } => partition,
            Strategy::OnDelete => 0,
        };
        let of_current = n < set.start.saturating_add(below);
        let (template, revision) =
            if of_current { (&self.current_template, self.current) } else { (&set.template, self.update) };
        let body = self.pod(&name, n, template, revision);
        plan.actions.push(Action::Create { claims: self.missing_claims(&name), name, body });
        true
    }

    fn pod(&self, name: &str, n: i32, template: &Template, revision: &str) -> String {
        let set = self.set;
        let labels =
            template.labels.with(POD_NAME, name).with(POD_INDEX, &n.to_string()).with(POD_REVISION, revision);
        let mut meta = json!({
            "name": name,
            "generateName": generate_name(&set.meta.name),
            "labels": labels,
            "ownerReferences": [set.meta.controller_ref(OwnerKind::StatefulSet)],
        });
        if !template.annotations.is_empty() {
            meta["annotations"] = json!(template.annotations);
        }
        if !template.finalizers.is_empty() {
            meta["finalizers"] = json!(template.finalizers);
        }
        let mut spec = template.spec_value();
        if !spec.is_object() {
            spec = Value::Object(Map::new());
        }
        spec["hostname"] = json!(name);
        spec["subdomain"] = json!(set.service_name);
        let is_claim = |v: &Value| {
            let volume = v.get("name").and_then(Value::as_str);
            set.claim_templates.iter().any(|(t, _)| Some(&**t) == volume)
        };
        let mut volumes: Vec<Value> = set
            .claim_templates
            .iter()
            .map(|(t, _)| json!({ "name": t, "persistentVolumeClaim": { "claimName": self.claim_name(t, name) } }))
            .collect();
        let others = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
        volumes.extend(others.filter(|v| !is_claim(v)).cloned());
        if !volumes.is_empty() {
            spec["volumes"] = Value::Array(volumes);
        }
        pod_body(&meta, &canonical(&spec))
    }

    /// Gives up the pods that are too many, the last first. Says whether an update may go on.
    fn condemn(&self, own: &[&'a Pod], condemned: &[&'a Pod], plan: &mut Plan<'a>) -> bool {
        let mut all: Vec<&'a Pod> = own.to_vec();
        all.sort_by_key(|p| ordinal(p));
        let first_unavailable = all.iter().find(|p| !self.is_available(p)).map(|p| &p.uid);
        for pod in condemned {
            if pod.deleted.is_some() {
                if !self.set.parallel {
                    return false;
                }
                continue;
            }
            // The first one that does not work may go: waiting for it could take for ever.
            if !self.set.parallel && !self.is_settled(pod) && first_unavailable != Some(&pod.uid) {
                return false;
            }
            plan.actions.push(Action::Delete(pod));
            if !self.set.parallel {
                return false;
            }
        }
        true
    }

    /// Deletes pods of an old revision, the last first.
    fn roll(
        &mut self,
        replicas: &[Option<&'a Pod>],
        first: usize,
        max_unavailable: Option<IntOrPercent>,
        plan: &mut Plan<'a>,
    ) {
        let outdated = |pod: &Pod| pod.labels.get(POD_REVISION) != Some(self.update) && pod.deleted.is_none();
        let of_current = |pod: &Pod| pod.labels.get(POD_REVISION) == Some(self.current);
        let available = |pod: &Option<&Pod>| pod.is_some_and(|p| self.is_available(p));
        let mut may_go = match max_unavailable {
            None => 1,
            Some(max) => {
                let missing = replicas.iter().filter(|p| !available(p)).count();
                usize::try_from(max.down(self.set.replicas).max(1)).unwrap_or(1).saturating_sub(missing)
            }
        };
        let mut deleted = 0;
        for pod in replicas.iter().skip(first).rev() {
            if may_go == 0 {
                break;
            }
            if let Some(pod) = pod.filter(|p| outdated(p)) {
                // One that is over is on its way to be replaced already.
                if !pod.is_over() {
                    plan.actions.push(Action::Delete(pod));
                }
                deleted += i32::from(of_current(pod));
                may_go -= 1;
            } else if max_unavailable.is_none() && !available(pod) {
                break;
            }
        }
        self.deleted += deleted;
    }

    fn status(&self, own: &[&Pod]) -> Status {
        let set = self.set;
        let count = |fits: &dyn Fn(&Pod) -> bool| {
            i32::try_from(own.iter().filter(|p| p.phase != Phase::None && fits(p)).count())
                .unwrap_or(i32::MAX)
        };
        let ready = |p: &Pod| p.phase == Phase::Running && p.ready;
        let of =
            |p: &Pod, revision: &str| p.deleted.is_none() && p.labels.get(POD_REVISION) == Some(revision);
        let mut status = Status {
            observed_generation: set.meta.generation,
            replicas: count(&|_| true),
            ready_replicas: count(&ready),
            available_replicas: count(&|p| ready(p) && p.is_available(set.min_ready_seconds, self.now)),
            current_replicas: count(&|p| of(p, self.current)) - self.deleted,
            updated_replicas: count(&|p| of(p, self.update)),
            current_revision: self.current.to_owned(),
            update_revision: self.update.to_owned(),
            collision_count: Some(set.status.collision_count.unwrap_or(0)),
            conditions: set.status.conditions.clone(),
        };
        let rolls = matches!(set.strategy, Strategy::RollingUpdate { .. });
        let all = [status.updated_replicas, status.ready_replicas, status.replicas];
        if rolls && all.iter().all(|n| *n == set.replicas) {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        status
    }
}

#[cfg(test)]
#[path = "../statefulset_tests.rs"]
mod tests;
