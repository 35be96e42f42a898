//! The status of PodDisruptionBudgets: how many pods may go. Evictions count against it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::json;
use skep_client::informer::Builder;
use skep_client::record::EventType;
use skep_client::{Client, Event, Informer, Level, Object, ObjectKey, Patch, Resource};
use skep_plan::{Labels, Selector};

use crate::discovery;
use crate::frame::Writes;
use crate::views::{BY_NAMESPACE, Owner, Pod, or_default, regarding};
use crate::{Controller, Kind, Next, Setup, SyncError};

const NAME: &str = "disruption-controller";
const CONDITION: &str = "DisruptionAllowed";
/// How long an evicted pod may take to be deleted before it counts as not evicted, as upstream.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// A budget.
#[derive(Debug, Deserialize)]
struct Budget {
    #[serde(default)]
    metadata: BudgetMeta,
    #[serde(default)]
    spec: BudgetSpec,
    #[serde(default)]
    status: PodDisruptionBudgetStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BudgetMeta {
    generation: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetSpec {
    selector: Option<Selector>,
    min_available: Option<IntOrString>,
    max_unavailable: Option<IntOrString>,
}

impl Kind for Budget {
    const RESOURCE: Resource = Resource::of::<PodDisruptionBudget>();
    fn indexes(builder: Builder<Budget>) -> Builder<Budget> {
        builder.index(BY_NAMESPACE, |o, emit| emit(&o.key.namespace))
    }
}

impl Budget {
    fn covers(&self, labels: &Labels) -> bool {
        // An empty selector covers all, none covers nothing.
        self.spec.selector.as_ref().is_some_and(|s| s.is_empty() || s.matches(labels))
    }
}

struct Disruption {
    client: Client,
    budgets: Informer<Budget>,
    pods: Informer<Pod>,
    writes: Writes,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let (budgets, pods) = (setup.informer::<Budget>(), setup.informer::<Pod>());
    let enqueue = setup.enqueue(NAME);
    {
        let (enqueue, budgets) = (enqueue.clone(), budgets.clone());
        pods.on_event(move |event| {
            let key = &event.object().key;
            let of_namespace = budgets.by_index(BY_NAMESPACE, &key.tenant, &key.namespace);
            if of_namespace.is_empty() {
                return;
            }
            let states = match event {
                Event::Added(new) | Event::Deleted(new) => [Some(new), None],
                Event::Changed { old, new } => {
                    let same = old.labels() == new.labels()
                        && old.is_ready() == new.is_ready()
                        && old.is_deleting() == new.is_deleting()
                        && old.is_over() == new.is_over();
                    if same {
                        return;
                    }
                    [Some(old), Some(new)]
                }
            };
            for budget in of_namespace {
                if states.iter().flatten().any(|p| budget.covers(p.labels())) {
                    enqueue.add(&budget.key, Level::Update);
                }
            }
        });
    }
    budgets.on_event(move |event| enqueue.event(event));
    setup.resync(NAME, &budgets);
    Arc::new(Disruption {
        client: setup.client().clone(),
        budgets,
        pods,
        writes: setup.writes("controllermanager"),
    })
}

/// A number, or a part of a whole rounded up.
fn scaled(value: &IntOrString, whole: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(n) => Ok(*n),
        IntOrString::String(text) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|p| p.parse().ok())
                .ok_or_else(|| format!("invalid value {text:?}: it is neither a number nor a percentage"))?;
            let part = (percent * i64::from(whole)).div_euclid(100)
                + i64::from((percent * i64::from(whole)) % 100 > 0);
            i32::try_from(part).map_err(|e| e.to_string())
        }
    }
}

/// How many pods an owner wants.
struct Wanted {
    uid: String,
    replicas: i32,
    /// The Deployment that owns it.
    above: Option<Owner>,
}

/// What a budget's status is computed from.
struct Counts {
    expected: i32,
    desired: i32,
    healthy: i32,
    disrupted: BTreeMap<String, Time>,
}

/// The status that a budget should have; `None` when it has it.
fn status(
    old: &PodDisruptionBudgetStatus,
    generation: i64,
    counts: Counts,
    now: Timestamp,
) -> Option<PodDisruptionBudgetStatus> {
    let allowed = if counts.expected <= 0 { 0 } else { (counts.healthy - counts.desired).max(0) };
    let (state, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let conditions = with_condition(old, state, reason, "", generation, now);
    let new = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(counts.healthy),
        desired_healthy: Some(counts.desired),
        disrupted_pods: (!counts.disrupted.is_empty()).then_some(counts.disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(counts.expected),
        observed_generation: Some(generation),
    };
    let mut before = old.clone();
    before.disrupted_pods = before.disrupted_pods.filter(|d| !d.is_empty());
    (before != new).then_some(new)
}

fn with_condition(
    old: &PodDisruptionBudgetStatus,
    state: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let new = Condition {
        type_: CONDITION.to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|c| c.type_ == CONDITION) {
        Some(c) if c.status == state => {
            *c = Condition { last_transition_time: c.last_transition_time.clone(), ..new };
        }
        Some(c) => *c = new,
        None => conditions.push(new),
    }
    conditions
}

impl Disruption {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Wait) };
        let mut pods = self.pods.by_index(BY_NAMESPACE, &key.tenant, &key.namespace);
        pods.retain(|p| budget.covers(p.labels()));
        let now = Timestamp::now();
        let at =
            Budget::RESOURCE.at(&key.tenant).namespace(&key.namespace).name(&key.name).subresource("status");
        let about = regarding(&budget, "policy/v1", "PodDisruptionBudget");
        if pods.is_empty() {
            self.writes.recorder.event(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        let (expected, desired) = match self.expected(&budget, &pods).await {
            Ok(both) => both,
            Err(error) => {
                let message = format!("Failed to calculate the number of expected pods: {error}");
                self.writes.recorder.event(
                    &about,
                    EventType::Warning,
                    "CalculateExpectedPodCountFailed",
                    message,
                );
                // Better none may go than too many.
                let conditions = with_condition(
                    &budget.status,
                    "False",
                    "SyncFailed",
                    &error.to_string(),
                    budget.metadata.generation,
                    now,
                );
                let failed = PodDisruptionBudgetStatus {
                    disruptions_allowed: Some(0),
                    conditions: Some(conditions),
                    ..budget.status.clone()
                };
                if failed != budget.status {
                    self.write(&budget, &at, &failed).await?;
                }
                return Err(error);
            }
        };
        let mut recheck: Option<Timestamp> = None;
        let mut disrupted = BTreeMap::new();
        for pod in pods.iter().filter(|p| !p.is_deleting()) {
            let Some(since) = budget.status.disrupted_pods.as_ref().and_then(|d| d.get(&*pod.key.name))
            else {
                continue;
            };
            let until = since.0.checked_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
            if until < now {
                let message = format!(
                    "Pod was expected by PDB {}/{} to be deleted but it wasn't",
                    key.namespace, key.name
                );
                self.writes.recorder.event(
                    &regarding(pod, "v1", "Pod"),
                    EventType::Warning,
                    "NotDeleted",
                    message,
                );
            } else {
                recheck = Some(recheck.map_or(until, |r| r.min(until)));
                disrupted.insert(pod.key.name.to_string(), since.clone());
            }
        }
        let healthy = pods
            .iter()
            .filter(|p| !p.is_deleting() && !disrupted.contains_key(&*p.key.name) && p.is_ready())
            .count();
        let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
        let counts = Counts { expected, desired, healthy, disrupted };
        if let Some(new) = status(&budget.status, budget.metadata.generation, counts, now) {
            self.write(&budget, &at, &new).await?;
        }
        Ok(recheck.map_or(Next::Wait, |at| {
            Next::After(
                Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_secs(1),
            )
        }))
    }

    async fn write(
        &self,
        budget: &Object<Budget>,
        at: &skep_client::ObjectPath,
        status: &PodDisruptionBudgetStatus,
    ) -> Result<(), SyncError> {
        let mut text = json!(status);
        // In a merge patch what is not named stays.
        for name in budget.status.disrupted_pods.iter().flatten().map(|(name, _)| name) {
            if status.disrupted_pods.as_ref().is_none_or(|d| !d.contains_key(name)) {
                text["disruptedPods"][name] = serde_json::Value::Null;
            }
        }
        let patch = json!({"metadata": {"resourceVersion": budget.revision.to_string()}, "status": text});
        self.budgets.patch(at, &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// How many pods there should be, and how many of them healthy.
    async fn expected(
        &self,
        budget: &Object<Budget>,
        pods: &[Arc<Object<Pod>>],
    ) -> Result<(i32, i32), SyncError> {
        let number = |value: &IntOrString, whole| scaled(value, whole).map_err(SyncError::NotYet);
        let spec = &budget.spec;
        if let Some(max) = &spec.max_unavailable {
            let expected = self.scale(budget, pods).await?;
            return Ok((expected, (expected - number(max, expected)?).max(0)));
        }
        match &spec.min_available {
            Some(IntOrString::Int(min)) => Ok((i32::try_from(pods.len()).unwrap_or(i32::MAX), *min)),
            Some(min) => {
                let expected = self.scale(budget, pods).await?;
                Ok((expected, number(min, expected)?))
            }
            None => Ok((0, 0)),
        }
    }

    /// How many pods the owners of these pods want together.
    async fn scale(&self, budget: &Object<Budget>, pods: &[Arc<Object<Pod>>]) -> Result<i32, SyncError> {
        let mut by_owner: FxHashMap<&str, &Owner> = FxHashMap::default();
        let mut unmanaged = false;
        for pod in pods {
            match pod.controller() {
                Some(owner) => drop(by_owner.insert(&owner.uid, owner)),
                None => unmanaged = true,
            }
        }
        if unmanaged {
            let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
            let about = regarding(budget, "policy/v1", "PodDisruptionBudget");
            self.writes.recorder.event(&about, EventType::Warning, "UnmanagedPods", message);
        }
        let mut scales: FxHashMap<String, i32> = FxHashMap::default();
        for owner in by_owner.values() {
            let Some(found) = self.replicas(&budget.key, owner).await? else { continue };
            // A Deployment's ReplicaSets count as the Deployment.
            let above = match &found.above {
                Some(above) => self.replicas(&budget.key, above).await?,
                None => None,
            };
            let found = above.unwrap_or(found);
            scales.insert(found.uid, found.replicas);
        }
        Ok(scales.values().fold(0_i32, |sum, n| sum.saturating_add(*n)))
    }

    /// What an owner wants; `None` when it is not there any more.
    async fn replicas(&self, key: &ObjectKey, owner: &Owner) -> Result<Option<Wanted>, SyncError> {
        #[derive(Deserialize)]
        struct Scaled {
            metadata: ScaledMeta,
            #[serde(default)]
            spec: ScaledSpec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ScaledMeta {
            uid: String,
            #[serde(default, deserialize_with = "or_default")]
            owner_references: Vec<Owner>,
        }
        #[derive(Default, Deserialize)]
        struct ScaledSpec {
            #[serde(default)]
            replicas: Option<i32>,
        }
        let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
        let (resource, own) = match (group, &*owner.kind) {
            ("apps", "ReplicaSet") => (Resource::new("apps", "v1", "replicasets"), true),
            ("apps", "Deployment") => (Resource::new("apps", "v1", "deployments"), true),
            ("apps", "StatefulSet") => (Resource::new("apps", "v1", "statefulsets"), true),
            ("", "ReplicationController") => (Resource::new("", "v1", "replicationcontrollers"), true),
            (_, kind) => {
                let served = discovery::served(&self.client).await?;
                let known = served.into_iter().find(|s| *s.resource.group == *group && s.kind == kind);
                match known {
                    Some(known) => (known.resource, false),
                    None => {
                        return Err(SyncError::NotYet(format!(
                            "no matches for kind {kind:?} in group {group:?}"
                        )));
                    }
                }
            }
        };
        let at = resource.at(&key.tenant).namespace(&key.namespace).name(&owner.name);
        let at = if own { at } else { at.subresource("scale") };
        let found: Scaled = match self.client.read(&at).await {
            Ok(found) => found,
            Err(e) if e.is_not_found() && own => return Ok(None),
            Err(e) if e.is_not_found() => {
                return Err(SyncError::NotYet(format!(
                    "{} does not implement the scale subresource",
                    resource
                )));
            }
            Err(e) => return Err(e.into()),
        };
        if *found.metadata.uid != *owner.uid {
            return Ok(None);
        }
        let above = found
            .metadata
            .owner_references
            .into_iter()
            .find(|o| o.controls() && *o.kind == *"Deployment" && *owner.kind == *"ReplicaSet");
        let replicas = found.spec.replicas.unwrap_or(i32::from(own));
        Ok(Some(Wanted { uid: found.metadata.uid, replicas, above }))
    }
}

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rounded_up() {
        let percent = |p: &str, whole| scaled(&IntOrString::String(p.into()), whole);
        assert_eq!(percent("50%", 3), Ok(2));
        assert_eq!(percent("0%", 3), Ok(0));
        assert_eq!(percent("100%", 7), Ok(7));
        assert_eq!(percent("1%", 100), Ok(1));
        assert!(percent("half", 3).is_err());
        assert_eq!(scaled(&IntOrString::Int(4), 2), Ok(4));
    }

    #[test]
    fn status_says_how_many_may_go() {
        let now = Timestamp::UNIX_EPOCH;
        let counts =
            |expected, desired, healthy| Counts { expected, desired, healthy, disrupted: BTreeMap::new() };
        let first = status(&PodDisruptionBudgetStatus::default(), 1, counts(3, 2, 3), now).unwrap();
        assert_eq!(
            (first.disruptions_allowed, first.conditions.as_ref().unwrap()[0].reason.as_str()),
            (Some(1), "SufficientPods")
        );
        assert_eq!(
            status(&first, 1, counts(3, 2, 3), now + SignedDuration::from_secs(9)),
            None,
            "nothing changed"
        );
        let second = status(&first, 1, counts(3, 2, 1), now).unwrap();
        assert_eq!(
            (second.disruptions_allowed, second.conditions.unwrap()[0].status.as_str()),
            (Some(0), "False")
        );
        let none = status(&first, 1, counts(0, 0, 5), now).unwrap();
        assert_eq!(none.disruptions_allowed, Some(0), "a budget of no pods allows nothing");
    }
}
