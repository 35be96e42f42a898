//! One sync of a Deployment, decision by decision, on copies of its replica sets.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::revision::{annotate_new, annotate_size, annotation_count, revision, size_differs};
use super::scale::{max_surge, max_unavailable, new_replicas, proportion};
use super::status::{
    self, calculate, has_progressed, has_timed_out, is_complete, progressing, replica_failure,
};
use super::{DESIRED_REPLICAS, Deployment, Plan, REVISION, Status, StatusChange, Step};
use crate::Event;
use crate::condition::{self, Condition};
use crate::meta::Meta;
use crate::replicaset::ReplicaSet;
use crate::template::POD_TEMPLATE_HASH;

/// How much later than the deadline lack of progress is judged: times in objects are whole seconds.
const DEADLINE_SLACK: Duration = Duration::from_secs(1);

pub(super) struct Planner<'a> {
    now: Timestamp,
    d: &'a Deployment,
    /// As they were.
    before: Vec<ReplicaSet>,
    /// As they shall be; those that are new come last.
    sets: Vec<ReplicaSet>,
    /// The order in which they were first changed, with the events of each.
    changed: Vec<(usize, Vec<Event>)>,
    deletes: Vec<usize>,
    /// Which one has the current template.
    new: Option<usize>,
    created_hash: Option<String>,
    status: Status,
    revision: Option<String>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(now: Timestamp, d: &'a Deployment, mut sets: Vec<ReplicaSet>) -> Planner<'a> {
        sets.sort_by(|a, b| a.meta.by_age(&b.meta));
        Planner {
            now,
            d,
            before: sets.clone(),
            sets,
            changed: Vec::new(),
            deletes: Vec::new(),
            new: None,
            created_hash: None,
            status: d.status.clone(),
            revision: d.meta.annotations.get(REVISION).cloned(),
        }
    }

    fn set_condition(&mut self, status: &str, reason: &str, message: String) {
        let condition = progressing(self.now, status, reason, message);
        status::set(&mut self.status.conditions, condition);
    }

    /// Notes pausing and resuming, so that the time in between is not taken for lack of progress.
    pub(super) fn paused_condition(&mut self) {
        if self.d.progress_deadline_seconds.is_none() {
            return;
        }
        let reason = condition::find(&self.status.conditions, status::PROGRESSING).map(|c| c.reason.as_str());
        let noted = reason == Some(status::PAUSED);
        if reason == Some(status::DEADLINE_EXCEEDED) || noted == self.d.paused {
            return;
        }
        if self.d.paused {
            self.set_condition("Unknown", status::PAUSED, "Deployment is paused".to_owned());
        } else {
            self.set_condition("Unknown", status::RESUMED, "Deployment is resumed".to_owned());
        }
    }

    /// Finds the replica set with the current template, or makes one, and gives it the newest revision.
    pub(super) fn find_new(&mut self, create: bool) {
        self.new = self.sets.iter().position(|s| s.template.same_pods(&self.d.template));
        let old = self.sets.iter().enumerate().filter(|(i, _)| Some(*i) != self.new);
        let newest = old.filter_map(|(_, s)| revision(&s.meta)).max().unwrap_or(0);
        if let Some(new) = self.new {
            self.renew(new, newest.saturating_add(1));
        } else if create {
            self.create_new(newest.saturating_add(1));
        }
    }

    fn renew(&mut self, new: usize, next_revision: i64) {
        let set = &mut self.sets[new];
        annotate_new(self.d, &mut set.meta.annotations, next_revision);
        set.min_ready_seconds = self.d.min_ready_seconds;
        let before = &self.before[new];
        let name = set.meta.name.clone();
        self.revision = set.meta.annotations.get(REVISION).cloned();
        if set.meta.annotations != before.meta.annotations
            || set.min_ready_seconds != before.min_ready_seconds
        {
            self.touch(new);
        }
        let judged = self.d.progress_deadline_seconds.is_some();
        if judged && condition::find(&self.status.conditions, status::PROGRESSING).is_none() {
            let message = format!("Found new replica set {name:?}");
            self.set_condition("True", status::FOUND_NEW_REPLICA_SET, message);
        }
    }

    fn create_new(&mut self, next_revision: i64) {
        let d = self.d;
        let hash = d.template.hash(self.status.collision_count);
        let mut template = d.template.clone();
        template.labels = template.labels.with(POD_TEMPLATE_HASH, &hash);
        let mut set = ReplicaSet {
            meta: Meta {
                namespace: d.meta.namespace.clone(),
                name: super::replica_set_name(&d.meta.name, &hash).into(),
                ..Meta::default()
            },
            replicas: 0,
            min_ready_seconds: d.min_ready_seconds,
            template,
            ..ReplicaSet::default()
        };
        set.replicas = new_replicas(d, self.wanted(), 0);
        annotate_new(d, &mut set.meta.annotations, next_revision);
        annotate_size(&mut set.meta.annotations, d.replicas, d.replicas.saturating_add(max_surge(d)));
        self.revision = set.meta.annotations.get(REVISION).cloned();
        if d.progress_deadline_seconds.is_some() {
            let message = format!("Created new replica set {:?}", set.meta.name);
            self.set_condition("True", status::NEW_REPLICA_SET_CREATED, message);
        }
        self.created_hash = Some(hash);
        self.new = Some(self.sets.len());
        self.sets.push(set);
    }

    /// Whether the Deployment was resized since its replica sets were last sized.
    pub(super) fn is_scaling_event(&self) -> bool {
        // Where nothing is shared out, the old sets must go first; upstream waits here for good.
        let recreate = matches!(self.d.strategy, super::Strategy::Recreate);
        if recreate && self.sets.iter().filter(|s| s.replicas > 0).count() > 1 {
            return false;
        }
        let noted = self.sets.iter().filter(|s| s.replicas > 0);
        noted.filter_map(|s| annotation_count(&s.meta, DESIRED_REPLICAS)).any(|n| n != self.d.replicas)
    }

    fn wanted(&self) -> i32 {
        self.sets.iter().map(|s| s.replicas).sum()
    }

    fn is_old(&self, i: usize) -> bool {
        Some(i) != self.new
    }

    /// Old replica sets that have or shall have pods, oldest first.
    fn active_old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|i| self.is_old(*i) && self.sets[*i].replicas > 0).collect()
    }

    fn touch(&mut self, i: usize) -> &mut Vec<Event> {
        let at = self.changed.iter().position(|(j, _)| *j == i).unwrap_or_else(|| {
            self.changed.push((i, Vec::new()));
            self.changed.len() - 1
        });
        &mut self.changed[at].1
    }

    /// Sizes a replica set. `note`: write down the Deployment's size there even if the set keeps its own.
    fn resize(&mut self, i: usize, replicas: i32, note: bool) -> bool {
        let most = self.d.replicas.saturating_add(max_surge(self.d));
        let set = &mut self.sets[i];
        let from = set.replicas;
        if from == replicas && !(note && size_differs(&set.meta.annotations, self.d.replicas, most)) {
            return false;
        }
        set.replicas = replicas;
        annotate_size(&mut set.meta.annotations, self.d.replicas, most);
        let name = set.meta.name.clone();
        let events = self.touch(i);
        if from == replicas {
            return false;
        }
        let way = if from < replicas { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {name} from {from} to {replicas}");
        events.push(Event::normal("ScalingReplicaSet", message));
        true
    }

    /// Shares out a change of the Deployment's size, or keeps a paused one at its size, without rolling on.
    pub(super) fn scale(&mut self) {
        let d = self.d;
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas > 0).collect();
        match active.as_slice() {
            [only] => {
                // Also when the size is right and only the note is old: without a new note, this would be taken for a
                // change of size again and again, and nothing would roll.
                self.resize(*only, d.replicas, true);
                return;
            }
            [] => {
                // The newest by template, else the youngest.
                if let Some(latest) = self.new.or_else(|| self.sets.len().checked_sub(1)) {
                    self.resize(latest, d.replicas, false);
                }
                return;
            }
            _ => {}
        }
        if self.new.is_some_and(|new| self.is_saturated(new)) {
            for i in self.active_old() {
                self.resize(i, 0, false);
            }
            return;
        }
        if matches!(d.strategy, super::Strategy::Recreate) {
            return;
        }
        let allowed = if d.replicas > 0 { d.replicas.saturating_add(max_surge(d)) } else { 0 };
        let to_add = allowed - active.iter().map(|i| self.sets[*i].replicas).sum::<i32>();
        // Largest first; of equals the newer one grows, the older one shrinks first.
        let sets = &self.sets;
        active.sort_by(|a, b| {
            let (a, b) = (&sets[*a], &sets[*b]);
            let age = a.meta.by_age(&b.meta);
            b.replicas.cmp(&a.replicas).then(if to_add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for i in &active {
            let share = proportion(d, &self.sets[*i], to_add, added);
            added += share;
            sizes.push(self.sets[*i].replicas + share);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (i, size) in active.into_iter().zip(sizes) {
            self.resize(i, size, true);
        }
    }

    fn is_saturated(&self, i: usize) -> bool {
        let set = &self.sets[i];
        let wanted = self.d.replicas;
        annotation_count(&set.meta, DESIRED_REPLICAS) == Some(wanted)
            && set.replicas == wanted
            && set.status.available_replicas == wanted
    }

    /// One step of a rolling update.
    pub(super) fn roll(&mut self) {
        self.find_new_or_create();
        if self.size_new() || self.size_old() {
            return;
        }
        if is_complete(self.d, &self.status) {
            self.clean_up();
        }
    }

    fn find_new_or_create(&mut self) {
        if self.new.is_none() {
            self.find_new(true);
        }
    }

    fn size_new(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let size = self.sets[new].replicas;
        let wanted = self.d.replicas;
        match size.cmp(&wanted) {
            std::cmp::Ordering::Equal => false,
            std::cmp::Ordering::Greater => self.resize(new, wanted, false),
            std::cmp::Ordering::Less => {
                let to = new_replicas(self.d, self.wanted(), size);
                self.resize(new, to, false)
            }
        }
    }

    fn size_old(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let old = self.active_old();
        if old.is_empty() {
            return false;
        }
        let min_available = self.d.replicas - max_unavailable(self.d);
        let new_unavailable = self.sets[new].replicas - self.sets[new].status.available_replicas;
        let may_go = self.wanted() - min_available - new_unavailable;
        if may_go <= 0 {
            return false;
        }
        // Pods that serve nobody go first: they may be the reason why the rollout is stuck.
        let mut gone = 0;
        for i in &old {
            let set = &self.sets[*i];
            let unhealthy = set.replicas - set.status.available_replicas;
            let down = unhealthy.min(may_go - gone);
            if down > 0 {
                let to = set.replicas - down;
                self.resize(*i, to, false);
                gone += down;
            }
        }
        // An old set that was made smaller a moment ago may still tell of more available pods than it shall keep.
        let healthy: i32 =
            old.iter().map(|i| self.sets[*i].status.available_replicas.min(self.before[*i].replicas)).sum();
        let available = healthy + self.sets[new].status.available_replicas;
        let mut left = available - min_available;
        for i in &old {
            let size = self.sets[*i].replicas;
            let down = size.min(left);
            if down > 0 {
                self.resize(*i, size - down, false);
                left -= down;
                gone += down;
            }
        }
        gone > 0
    }

    /// One step of replacing all pods at once.
    pub(super) fn recreate(&mut self, has_pods: &dyn Fn(&ReplicaSet) -> bool) {
        let mut down = false;
        for i in self.active_old() {
            down |= self.resize(i, 0, false);
        }
        let old = (0..self.sets.len()).filter(|i| self.is_old(*i)).map(|i| &self.sets[i]);
        if down || old.clone().any(|s| s.status.replicas > 0 || has_pods(s)) {
            return;
        }
        self.find_new_or_create();
        if let Some(new) = self.new {
            self.resize(new, self.d.replicas, false);
        }
        if is_complete(self.d, &self.status) {
            self.clean_up();
        }
    }

    /// Deletes the oldest revisions beyond the limit, those that have no pods and whose controller has seen that.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.d.revision_history_limit.and_then(|n| usize::try_from(n).ok()) else { return };
        let alive = |i: &usize| self.is_old(*i) && self.sets[*i].meta.deleted.is_none();
        let mut old: Vec<usize> = (0..self.sets.len()).filter(alive).collect();
        let excess = old.len().saturating_sub(limit);
        old.sort_by(|a, b| {
            let (a, b) = (&self.sets[*a].meta, &self.sets[*b].meta);
            match (revision(a), revision(b)) {
                (Some(x), Some(y)) if x != y => x.cmp(&y),
                _ => a.by_age(b),
            }
        });
        let empty = |i: &usize| {
            let set = &self.sets[*i];
            set.status.replicas == 0
                && set.replicas == 0
                && set.meta.generation <= set.status.observed_generation
        };
        self.deletes = old.into_iter().take(excess).filter(empty).collect();
    }

    /// The status without a judgement of progress: while paused, resized or deleted.
    pub(super) fn sync_status(&mut self) {
        let new = self.new.map(|i| &self.sets[i]);
        self.status = calculate(self.now, self.d, &self.status, &self.sets, new);
    }

    /// The status with a judgement of progress.
    pub(super) fn sync_rollout_status(&mut self) {
        let d = self.d;
        let new = self.new.map(|i| &self.sets[i]);
        let mut next = calculate(self.now, d, &self.status, &self.sets, new);
        let current = condition::find(&self.status.conditions, status::PROGRESSING);
        if d.progress_deadline_seconds.is_none() {
            condition::remove(&mut next.conditions, status::PROGRESSING);
        } else if !(next.replicas == next.updated_replicas
            && current.is_some_and(|c| c.reason == status::NEW_REPLICA_SET_AVAILABLE))
        {
            let subject = new.map_or_else(
                || format!("Deployment {:?}", d.meta.name),
                |s| format!("ReplicaSet {:?}", s.meta.name),
            );
            if is_complete(d, &next) {
                let message = format!("{subject} has successfully progressed.");
                let reason = status::NEW_REPLICA_SET_AVAILABLE;
                status::set(&mut next.conditions, progressing(self.now, "True", reason, message));
            } else if has_progressed(&self.status, &next) {
                // The time of the last update counts, so that it changes even where the reason stays.
                let message = format!("{subject} is progressing.");
                let mut condition = progressing(self.now, "True", status::REPLICA_SET_UPDATED, message);
                if let Some(current) = current.filter(|c| c.status == "True") {
                    condition.last_transition_time = current.last_transition_time;
                }
                condition::remove(&mut next.conditions, status::PROGRESSING);
                next.conditions.push(condition);
            } else if has_timed_out(self.now, d, &next.conditions) {
                let message = format!("{subject} has timed out progressing.");
                let reason = status::DEADLINE_EXCEEDED;
                status::set(&mut next.conditions, progressing(self.now, "False", reason, message));
            }
        }
        match replica_failure(&self.sets, new) {
            Some(failure) => status::set(&mut next.conditions, failure),
            None => condition::remove(&mut next.conditions, status::REPLICA_FAILURE),
        }
        self.status = next;
    }

    /// When to look for lack of progress.
    fn requeue_after(&self) -> Option<Duration> {
        let deadline = self.d.progress_deadline_seconds?;
        let current: &Condition = condition::find(&self.status.conditions, status::PROGRESSING)?;
        if self.d.paused
            || self.d.meta.deleted.is_some()
            || is_complete(self.d, &self.status)
            || current.reason == status::DEADLINE_EXCEEDED
        {
            return None;
        }
        let due = current.last_update_time?.plus_seconds(i64::from(deadline));
        Some(due.after(self.now).unwrap_or_default() + DEADLINE_SLACK)
    }

    pub(super) fn finish(mut self, mut plan: Plan) -> Plan {
        plan.requeue_after = self.requeue_after();
        for (i, events) in std::mem::take(&mut self.changed) {
            // A set that is only just being created has its size in its body.
            if let Some(before) = self.before.get(i) {
                let set = &self.sets[i];
                plan.steps.push(Step::Patch {
                    name: set.meta.name.to_string(),
                    body: patch(before, set),
                    events,
                });
            }
        }
        if let (Some(hash), Some(set)) = (&self.created_hash, self.new.map(|i| &self.sets[i])) {
            let scaled = format!("Scaled up replica set {} from 0 to {}", set.meta.name, set.replicas);
            plan.steps.push(Step::Create {
                name: set.meta.name.to_string(),
                body: super::replica_set_body(self.d, set, hash),
                event: (set.replicas > 0).then(|| Event::normal("ScalingReplicaSet", scaled)),
            });
        }
        for i in &self.deletes {
            let meta = &self.sets[*i].meta;
            plan.steps.push(Step::Delete {
                name: meta.name.to_string(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.to_string(),
            });
        }
        let known = self.d.meta.annotations.get(REVISION);
        let revision = self.revision.filter(|r| Some(r) != known);
        if revision.is_some() || self.status != self.d.status {
            plan.status = Some(StatusChange { status: self.status, revision });
        }
        plan
    }
}

/// The merge patch from one state of a replica set to another, on condition that it has not changed.
fn patch(before: &ReplicaSet, after: &ReplicaSet) -> Value {
    let mut meta = json!({ "uid": after.meta.uid, "resourceVersion": after.meta.resource_version });
    let changed: Map<String, Value> = after
        .meta
        .annotations
        .iter()
        .filter(|(k, v)| before.meta.annotations.get(*k) != Some(v))
        .map(|(k, v)| (k.clone(), json!(v)))
        .collect();
    if !changed.is_empty() {
        meta["annotations"] = Value::Object(changed);
    }
    let mut spec = Map::new();
    if after.replicas != before.replicas {
        spec.insert("replicas".to_owned(), json!(after.replicas));
    }
    if after.min_ready_seconds != before.min_ready_seconds {
        spec.insert("minReadySeconds".to_owned(), json!(after.min_ready_seconds));
    }
    let mut patch = json!({ "metadata": meta });
    if !spec.is_empty() {
        patch["spec"] = Value::Object(spec);
    }
    patch
}
