//! Job: pods until enough of them have succeeded, each counted exactly once.
//!
//! Each pod carries a finalizer until the Job's status has counted it. The way of a finished pod: its uid is written
//! to `status.uncountedTerminatedPods`; its finalizer is taken off; its uid is exchanged for one more in `succeeded` or
//! `failed`. Wherever a controller stops, the next one goes on from what is written.
//!
//! A plan is one step, to be applied in the order: pods, status, finalizers. Planning again from what is then there
//! gives the next one, until a plan is empty. The status speaks of the pods as they were seen, so that it is true also when
//! a request of the same plan has failed.

mod backoff;
mod indexes;
mod make;
mod policy;
mod track;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::condition::{self, Condition, json_count, json_of};
use crate::meta::{Meta, Uid};
use crate::pod::{Phase, Pod, active_order};
use crate::refs::{Claim, claim};
use crate::selector::Selector;
use crate::template::Template;
use crate::time::Time;
use crate::{Event, replicaset};
use track::Tracking;

pub use backoff::Backoff;
pub use indexes::Indexes;
pub use make::{NewPod, PodMaker};
pub use policy::{FailurePolicy, SuccessPolicy, Verdict};

const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
const FAILURE_TARGET: &str = "FailureTarget";
const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";

/// Who works on Jobs that do not say otherwise.
const CONTROLLER_NAME: &str = "kubernetes.io/job-controller";

/// A view of a Job.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// `metadata`.
    pub meta: Meta,
    /// `spec.parallelism`.
    pub parallelism: i32,
    /// `spec.completions`; `None`: one success says that the work is done.
    pub completions: Option<i32>,
    /// `spec.completionMode`.
    pub mode: Mode,
    /// `spec.backoffLimit`.
    pub backoff_limit: i32,
    /// `spec.backoffLimitPerIndex`.
    pub backoff_limit_per_index: Option<i32>,
    /// `spec.maxFailedIndexes`.
    pub max_failed_indexes: Option<i32>,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline_seconds: Option<i64>,
    /// `spec.ttlSecondsAfterFinished`, for whoever cleans up.
    pub ttl_seconds_after_finished: Option<i32>,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.podFailurePolicy`.
    pub failure_policy: Option<FailurePolicy>,
    /// `spec.successPolicy`.
    pub success_policy: Option<SuccessPolicy>,
    /// `spec.podReplacementPolicy` is `Failed`, or a failure policy implies it: a pod is replaced only when it has ended.
    pub replace_only_failed: bool,
    /// `spec.managedBy` is somebody else.
    pub managed_elsewhere: bool,
    /// `spec.selector`.
    pub selector: Selector,
    /// `spec.template`.
    pub template: Template,
    /// The template's pods restart their containers in place.
    pub restarts_in_place: bool,
    /// `status`.
    pub status: Status,
}

/// `spec.completionMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// So many pods must succeed.
    #[default]
    NonIndexed,
    /// Each index must succeed once.
    Indexed,
    /// Something this planner does not know, and leaves alone.
    Unknown,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Pods that run or will.
    pub active: i32,
    /// Ready ones.
    pub ready: Option<i32>,
    /// Those on their way out.
    pub terminating: Option<i32>,
    /// Pods that ended well.
    pub succeeded: i32,
    /// Pods that did not.
    pub failed: i32,
    /// Indexes that are done.
    pub completed_indexes: String,
    /// Indexes that have failed for good.
    pub failed_indexes: Option<String>,
    /// Pods that are being counted.
    pub uncounted_terminated_pods: Option<Uncounted>,
    /// When work began, or was resumed.
    pub start_time: Option<Time>,
    /// When all was done.
    pub completion_time: Option<Time>,
    /// `conditions`.
    pub conditions: Vec<Condition>,
}

/// Pods that have ended and whose finalizer may still be there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Uncounted {
    /// Those that ended well.
    pub succeeded: Vec<Uid>,
    /// Those that did not.
    pub failed: Vec<Uid>,
}

impl Status {
    /// A merge patch of the status subresource, for the Job of this version only.
    #[must_use]
    pub fn patch(&self, meta: &Meta) -> Value {
        let list = |uids: &[Uid]| if uids.is_empty() { Value::Null } else { json!(uids) };
        let text = |t: &str| if t.is_empty() { Value::Null } else { json!(t) };
        let uncounted = self
            .uncounted_terminated_pods
            .as_ref()
            .map_or(Value::Null, |u| json!({ "succeeded": list(&u.succeeded), "failed": list(&u.failed) }));
        json!({
            "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version },
            "status": {
                "active": json_count(self.active),
                "ready": self.ready,
                "terminating": self.terminating,
                "succeeded": json_count(self.succeeded),
                "failed": json_count(self.failed),
                "completedIndexes": text(&self.completed_indexes),
                "failedIndexes": self.failed_indexes,
                "uncountedTerminatedPods": uncounted,
                "startTime": self.start_time,
                "completionTime": self.completion_time,
                "conditions": json_of(&self.conditions),
            },
        })
    }

    /// Whether the Job is over, for better or worse.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        condition::is_true(&self.conditions, COMPLETE) || condition::is_true(&self.conditions, FAILED)
    }

    /// Whether it is over and all went well.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        condition::is_true(&self.conditions, COMPLETE)
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
    parallelism: Option<i32>,
    #[serde(default)]
    completions: Option<i32>,
    #[serde(default)]
    completion_mode: Option<String>,
    #[serde(default)]
    backoff_limit: Option<i32>,
    #[serde(default)]
    backoff_limit_per_index: Option<i32>,
    #[serde(default)]
    max_failed_indexes: Option<i32>,
    #[serde(default)]
    active_deadline_seconds: Option<i64>,
    #[serde(default)]
    ttl_seconds_after_finished: Option<i32>,
    #[serde(default)]
    suspend: Option<bool>,
    #[serde(default)]
    pod_failure_policy: Option<FailurePolicy>,
    #[serde(default)]
    success_policy: Option<SuccessPolicy>,
    #[serde(default)]
    pod_replacement_policy: Option<String>,
    #[serde(default)]
    managed_by: Option<String>,
    #[serde(default)]
    selector: Option<Selector>,
    #[serde(default)]
    template: Template,
}

/// Failures after which a Job gives up unless it says otherwise: the API's default.
const DEFAULT_BACKOFF_LIMIT: i32 = 6;

impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Job, D::Error> {
        let Raw { metadata, spec, status } = Raw::deserialize(deserializer)?;
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Restart {
            #[serde(default)]
            restart_policy: Option<String>,
        }
        let restart: Restart = serde_json::from_str(&spec.template.spec).map_err(serde::de::Error::custom)?;
        let per_index = spec.backoff_limit_per_index.map_or(DEFAULT_BACKOFF_LIMIT, |_| i32::MAX);
        Ok(Job {
            meta: metadata,
            parallelism: spec.parallelism.unwrap_or(1),
            completions: spec.completions,
            mode: match spec.completion_mode.as_deref() {
                None | Some("NonIndexed") => Mode::NonIndexed,
                Some("Indexed") => Mode::Indexed,
                Some(_) => Mode::Unknown,
            },
            backoff_limit: spec.backoff_limit.unwrap_or(per_index),
            backoff_limit_per_index: spec.backoff_limit_per_index,
            max_failed_indexes: spec.max_failed_indexes,
            active_deadline_seconds: spec.active_deadline_seconds,
            ttl_seconds_after_finished: spec.ttl_seconds_after_finished,
            suspend: spec.suspend.unwrap_or(false),
            replace_only_failed: spec.pod_replacement_policy.as_deref() == Some("Failed")
                || spec.pod_failure_policy.is_some(),
            failure_policy: spec.pod_failure_policy,
            success_policy: spec.success_policy,
            managed_elsewhere: spec.managed_by.is_some_and(|m| m != CONTROLLER_NAME),
            selector: spec.selector.unwrap_or_default(),
            restarts_in_place: restart.restart_policy.as_deref() == Some("OnFailure"),
            template: spec.template,
            status: status.unwrap_or_default(),
        })
    }
}

impl Job {
    /// Whether each of its completions has an index.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.mode == Mode::Indexed
    }

    fn completions(&self) -> i32 {
        self.completions.unwrap_or(0)
    }

    /// The index a pod works on, if that is one of this Job's.
    fn index_of(&self, pod: &Pod) -> Option<i32> {
        pod.more().index.filter(|i| *i < self.completions())
    }

    /// Whether a pod counts as failed.
    fn has_failed(&self, pod: &Pod) -> bool {
        pod.phase == Phase::Failed
            || (!self.replace_only_failed && pod.deleted.is_some() && pod.phase != Phase::Succeeded)
    }
}

/// A pod to delete.
#[derive(Clone, Copy, Debug)]
pub struct Removal<'a> {
    /// Which.
    pub pod: &'a Pod,
    /// Take its finalizer off first: it is not to be counted.
    pub uncounted: bool,
}

/// One step: pods first, then the status, then finalizers.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Pods to take, after making sure that the Job is not being deleted. They get the finalizer too.
    pub adopt: Vec<&'a Pod>,
    /// Pods to let go.
    pub release: Vec<&'a Pod>,
    /// Pods to delete.
    pub delete: Vec<Removal<'a>>,
    /// Pods to create.
    pub create: Vec<NewPod>,
    /// The status, if it changes.
    pub status: Option<Status>,
    /// Pods to take the finalizer off, when the status is written.
    pub release_finalizers: Vec<&'a Pod>,
    /// To record when the status is written.
    pub events: Vec<Event>,
    /// What to remember when the status is written.
    pub backoff: Backoff,
    /// When to look again although nothing happens.
    pub requeue_after: Option<Duration>,
}

impl Plan<'_> {
    /// Whether it changes pods.
    #[must_use]
    pub fn changes_pods(&self) -> bool {
        !(self.adopt.is_empty()
            && self.release.is_empty()
            && self.delete.is_empty()
            && self.create.is_empty())
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.changes_pods() && self.status.is_none() && self.release_finalizers.is_empty()
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn new_condition(now: Timestamp, kind: &str, reason: &str, message: &str) -> Condition {
    let time = Some(Time::of(now));
    Condition {
        kind: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_probe_time: time,
        last_update_time: None,
        last_transition_time: time,
    }
}

/// Makes a condition what it should be, and says whether that was a change. One that is not there is already false.
fn ensure(conditions: &mut Vec<Condition>, new: Condition) -> bool {
    match conditions.iter_mut().find(|c| c.kind == new.kind) {
        Some(old) if (&old.status, &old.reason, &old.message) == (&new.status, &new.reason, &new.message) => {
            false
        }
        Some(old) => {
            *old = new;
            true
        }
        None if new.status == "False" => false,
        None => {
            conditions.push(new);
            true
        }
    }
}

/// The next step of a Job.
///
/// - `pods`: those it owns, and those of its namespace without an owner. They must show what earlier steps created and
///   deleted, or that is done again.
/// - `backoff`: what the last plan whose status was written said to remember.
#[must_use]
pub fn plan<'a>(now: Timestamp, job: &Job, pods: &[&'a Pod], backoff: Backoff) -> Plan<'a> {
    let mut plan = Plan { backoff, ..Plan::default() };
    if job.managed_elsewhere {
        return plan;
    }
    let mut own: Vec<&Pod> = Vec::with_capacity(pods.len());
    for pod in pods {
        match claim(&job.meta, &job.selector, &pod.labels, pod.controller.as_ref(), pod.deleted.is_some()) {
            Claim::Own => own.push(pod),
            Claim::Adopt => plan.adopt.push(pod),
            Claim::Release => plan.release.push(pod),
            Claim::Ignore => {}
        }
    }
    if job.status.is_finished() {
        // Nobody waits for these any more.
        plan.adopt.clear();
        plan.release_finalizers = own.into_iter().filter(|p| p.more().tracked).collect();
        return plan;
    }
    if job.mode == Mode::Unknown {
        plan.adopt.clear();
        let message = "Skipped Job sync because completion mode is unknown";
        plan.events.push(Event::warning("UnknownCompletionMode", message));
        return plan;
    }
    Sync::new(now, job, own, backoff).plan(plan)
}

struct Sync<'j, 'a> {
    now: Timestamp,
    job: &'j Job,
    pods: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    terminating: i32,
    status: Status,
    uncounted: Uncounted,
    succeeded: i32,
    failed: i32,
    backoff: Backoff,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    /// Those of them whose last pod has really ended.
    ended_indexes: Indexes,
    /// Of indexes that wait for another try, the pod that failed last.
    waiting: BTreeMap<i32, &'a Pod>,
}

impl<'j, 'a> Sync<'j, 'a> {
    fn new(now: Timestamp, job: &'j Job, pods: Vec<&'a Pod>, backoff: Backoff) -> Sync<'j, 'a> {
        let status = job.status.clone();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let active: Vec<&Pod> = pods.iter().copied().filter(|p| p.is_active()).collect();
        let terminating = count(pods.iter().filter(|p| p.is_terminating()).count());
        let valid = |p: &&&Pod, known: &[Uid]| {
            p.more().tracked && !known.contains(&p.uid) && (!job.is_indexed() || job.index_of(p).is_some())
        };
        let new_succeeded: Vec<&Pod> = pods
            .iter()
            .filter(|p| valid(p, &uncounted.succeeded) && p.phase == Phase::Succeeded)
            .copied()
            .collect();
        let new_failed: Vec<&Pod> =
            pods.iter().filter(|p| valid(p, &uncounted.failed) && job.has_failed(p)).copied().collect();
        let counted = new_failed.iter().filter(|p| job.judge(p) != Verdict::Ignore).count();
        let succeeded = status.succeeded + count(new_succeeded.len() + uncounted.succeeded.len());
        let failed = status.failed + count(counted + uncounted.failed.len());
        let backoff = backoff.with(&new_succeeded, &new_failed);
        let mut sync = Sync {
            now,
            job,
            pods,
            active,
            terminating,
            status,
            uncounted,
            succeeded,
            failed,
            backoff,
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            ended_indexes: Indexes::default(),
            waiting: BTreeMap::new(),
        };
        if job.is_indexed() {
            sync.read_indexes();
        }
        sync
    }

    fn read_indexes(&mut self) {
        let job = self.job;
        let tracked = || self.pods.iter().filter(|p| p.more().tracked);
        let known = Indexes::parse(&self.status.completed_indexes, job.completions());
        let new = tracked().filter(|p| p.phase == Phase::Succeeded).filter_map(|p| job.index_of(p)).collect();
        let succeeded = known.union(&new);
        self.succeeded = succeeded.total();
        if let Some(limit) = job.backoff_limit_per_index {
            let known = self.status.failed_indexes.as_deref().unwrap_or_default();
            let given_up = |p: &Pod| match job.judge(p) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                Verdict::Count | Verdict::FailJob(_) => p.more().index_failures.unwrap_or(0) >= limit,
            };
            let new = |ended: bool| -> Indexes {
                let fails = |p: &&&Pod| job.has_failed(p) && given_up(p) && (!ended || p.is_over());
                tracked().filter(fails).filter_map(|p| job.index_of(p)).collect()
            };
            let known = Indexes::parse(known, job.completions());
            let failed = known.union(&new(false));
            let ended = known.union(&new(true));
            let busy: Indexes = self.active.iter().filter_map(|p| p.more().index).collect();
            let mut waiting: BTreeMap<i32, &Pod> = BTreeMap::new();
            for pod in tracked().filter(|p| job.has_failed(p)) {
                let Some(index) = job.index_of(pod) else { continue };
                if succeeded.has(index) || failed.has(index) || busy.has(index) {
                    continue;
                }
                let later = waiting.get(&index).is_none_or(|known| {
                    absolute_failures(known) <= absolute_failures(pod)
                        && backoff::finished(pod) >= backoff::finished(known)
                });
                if later {
                    waiting.insert(index, pod);
                }
            }
            self.waiting = waiting;
            self.ended_indexes = ended;
            self.failed_indexes = Some(failed);
        }
        self.succeeded_indexes = succeeded;
    }

    fn condition(&self, kind: &str, reason: &str, message: &str) -> Condition {
        new_condition(self.now, kind, reason, message)
    }

    /// Why the Job ends, if it does: the condition that says so first.
    fn ending(&self, requeue_after: &mut Option<Duration>) -> Option<Condition> {
        let job = self.job;
        for kind in [SUCCESS_CRITERIA_MET, FAILURE_TARGET] {
            if let Some(known) = condition::find(&self.status.conditions, kind).filter(|c| c.status == "True")
            {
                return Some(known.clone());
            }
        }
        let fatal = self.pods.iter().filter(|p| job.has_failed(p)).find_map(|p| match job.judge(p) {
            Verdict::FailJob(why) => Some(why),
            _ => None,
        });
        if let Some(why) = fatal {
            return Some(self.condition(FAILURE_TARGET, "PodFailurePolicy", &why));
        }
        if self.failed > job.backoff_limit || self.restarts_exceed_limit() {
            let message = "Job has reached the specified backoff limit";
            return Some(self.condition(FAILURE_TARGET, "BackoffLimitExceeded", message));
        }
        if let (Some(seconds), Some(start), false) =
            (job.active_deadline_seconds, self.status.start_time, job.suspend)
        {
            match start.plus_seconds(seconds).after(self.now) {
                Some(left) => *requeue_after = Some(left),
                None => {
                    let message = "Job was active longer than specified deadline";
                    return Some(self.condition(FAILURE_TARGET, "DeadlineExceeded", message));
                }
            }
        }
        if !job.is_indexed() {
            return None;
        }
        if let Some(failed) = &self.failed_indexes {
            let total = failed.total();
            if job.max_failed_indexes.is_some_and(|max| total > max) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Some(self.condition(FAILURE_TARGET, "MaxFailedIndexesExceeded", message));
            }
            if total > 0 && total + self.succeeded_indexes.total() >= job.completions() {
                return Some(self.condition(FAILURE_TARGET, "FailedIndexes", "Job has failed indexes"));
            }
        }
        let met = job.success_policy.as_ref()?.matched(job.completions(), &self.succeeded_indexes)?;
        Some(self.condition(SUCCESS_CRITERIA_MET, "SuccessPolicy", &met))
    }

    fn restarts_exceed_limit(&self) -> bool {
        if !self.job.restarts_in_place {
            return false;
        }
        let runs = |p: &&&Pod| matches!(p.phase, Phase::Running | Phase::Pending);
        let restarts: i32 = self.pods.iter().filter(runs).map(|p| p.more().all_restarts).sum();
        if self.job.backoff_limit == 0 { restarts > 0 } else { restarts >= self.job.backoff_limit }
    }

    fn plan(mut self, mut plan: Plan<'a>) -> Plan<'a> {
        let job = self.job;
        self.status.uncounted_terminated_pods.get_or_insert_default();
        if self.status.start_time.is_none() && !job.suspend {
            self.status.start_time = Some(Time::of(self.now));
        }
        let mut ending = self.ending(&mut plan.requeue_after);
        if ending.is_some() {
            plan.delete = self.active.iter().map(|pod| Removal { pod, uncounted: false }).collect();
            plan.delete.truncate(replicaset::BURST);
            if !self.active.is_empty() {
                // Said when it is done: until then a pod may still succeed.
                ending = None;
            }
            // A pod that is stopped because the Job has failed says nothing of its index.
            if let Some(failed) = &mut self.failed_indexes {
                failed.clone_from(&self.ended_indexes);
            }
        } else {
            let managed = job.meta.deleted.is_none();
            if managed {
                self.manage(&mut plan);
            }
            let done = match job.completions {
                None => self.succeeded > 0,
                Some(n) => self.succeeded >= n,
            };
            if done && self.active.is_empty() {
                let message = "Reached expected number of succeeded pods";
                ending = Some(self.condition(SUCCESS_CRITERIA_MET, "CompletionsReached", message));
            } else if managed && self.active_is_as_wanted(&plan) {
                self.note_suspension(&mut plan);
            }
        }
        let ready = count(self.active.iter().filter(|p| p.ready).count());
        self.status.active = count(self.active.len());
        self.status.ready = Some(ready);
        self.status.terminating = Some(self.terminating);
        plan.backoff = self.backoff;
        Tracking::new(self, ending).finish(plan)
    }

    fn active_is_as_wanted(&self, plan: &Plan<'_>) -> bool {
        !self.job.suspend || plan.delete.is_empty()
    }

    fn note_suspension(&mut self, plan: &mut Plan<'_>) {
        let suspend = self.job.suspend;
        let mut condition = if suspend {
            self.condition(SUSPENDED, "JobSuspended", "Job suspended")
        } else {
            self.condition(SUSPENDED, "JobResumed", "Job resumed")
        };
        (if suspend { "True" } else { "False" }).clone_into(&mut condition.status);
        if ensure(&mut self.status.conditions, condition) {
            let (reason, message) =
                if suspend { ("Suspended", "Job suspended") } else { ("Resumed", "Job resumed") };
            plan.events.push(Event::normal(reason, message));
            self.status.start_time = (!suspend).then_some(Time::of(self.now));
        }
    }

    /// Which pods are to go or to come.
    fn manage(&self, plan: &mut Plan<'a>) {
        let job = self.job;
        let active = count(self.active.len());
        let remove = |pods: Vec<&'a Pod>| -> Vec<Removal<'a>> {
            let of = |pod| Removal { pod, uncounted: true };
            pods.into_iter().take(replicaset::BURST).map(of).collect()
        };
        if job.suspend {
            plan.delete = remove(self.least_useful(self.active.len()));
            return;
        }
        let wanted = match job.completions {
            None if self.succeeded > 0 => active,
            None => job.parallelism,
            Some(completions) => (completions - self.succeeded).min(job.parallelism).max(0),
        };
        let excess = usize::try_from(active - wanted).unwrap_or(0);
        plan.delete = remove(self.least_useful(excess));
        if !plan.delete.is_empty() {
            return;
        }
        let terminating = if job.replace_only_failed { self.terminating } else { 0 };
        let missing = usize::try_from(wanted - terminating - active).unwrap_or(0).min(replicaset::BURST);
        if missing == 0 {
            return;
        }
        let wait = |plan: &mut Plan<'_>, wait: Duration| {
            plan.requeue_after = Some(plan.requeue_after.map_or(wait, |known| known.min(wait)));
        };
        if job.backoff_limit_per_index.is_none()
            && let Some(left) = self.backoff.remaining(self.now)
        {
            return wait(plan, left);
        }
        if !job.is_indexed() {
            plan.create = vec![NewPod::default(); missing];
            return;
        }
        let mut next_try = None;
        for index in self.pending_indexes(missing) {
            let before = self.waiting.get(&index).copied();
            let left = before.and_then(|p| {
                let failures = u32::try_from(absolute_failures(p) + 1).unwrap_or(0);
                backoff::remaining(failures, backoff::finished(p), self.now)
            });
            match left {
                Some(left) => next_try = Some(next_try.map_or(left, |known: Duration| known.min(left))),
                None => plan.create.push(self.new_pod(index, before)),
            }
        }
        if let Some(left) = next_try {
            wait(plan, left);
        }
    }

    fn new_pod(&self, index: i32, before: Option<&Pod>) -> NewPod {
        let mut new = NewPod { index: Some(index), ..NewPod::default() };
        if self.job.backoff_limit_per_index.is_some() {
            let mut failures = 0;
            if let Some(before) = before {
                failures = before.more().index_failures.unwrap_or(0);
                new.ignored_failures = before.more().index_ignored_failures.unwrap_or(0);
                if self.job.judge(before) == Verdict::Ignore {
                    new.ignored_failures += 1;
                } else {
                    failures += 1;
                }
            }
            new.failures = Some(failures);
        }
        new
    }

    /// The first indexes that nobody works on and that are not done.
    fn pending_indexes(&self, missing: usize) -> Vec<i32> {
        let mut taken: Indexes = self.active.iter().filter_map(|p| p.more().index).collect();
        if self.job.replace_only_failed {
            let leaving = self.pods.iter().filter(|p| p.is_terminating()).filter_map(|p| p.more().index);
            taken = taken.union(&leaving.collect());
        }
        taken = taken.union(&self.succeeded_indexes);
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.first_missing(missing, self.job.completions())
    }

    /// At least so many active pods to give up: all that do another's work, then those that have got least far.
    fn least_useful(&self, at_least: usize) -> Vec<&'a Pod> {
        let mut left = self.active.clone();
        left.sort_by(|a, b| active_order(a, b));
        let mut gone = Vec::new();
        if self.job.is_indexed() {
            let mut kept = BTreeMap::new();
            // Of those that work on one index, the one that got furthest stays: the last in order.
            for pod in &left {
                if let Some(index) = self.job.index_of(pod) {
                    kept.insert(index, &pod.uid);
                }
            }
            let stays = |p: &&Pod| self.job.index_of(p).and_then(|i| kept.get(&i)) == Some(&&p.uid);
            (left, gone) = left.into_iter().partition(stays);
        }
        let more = at_least.saturating_sub(gone.len());
        gone.extend(left.into_iter().take(more));
        gone
    }
}

/// How often the index of a pod had failed before it, ignored ones included.
fn absolute_failures(pod: &Pod) -> i32 {
    pod.more().index_failures.unwrap_or(0) + pod.more().index_ignored_failures.unwrap_or(0)
}

#[cfg(test)]
#[path = "../job_tests.rs"]
mod tests;
