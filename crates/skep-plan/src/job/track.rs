//! Counting the pods that have ended, each once.

use std::collections::HashSet;

use super::{
    COMPLETE, FAILED, FAILURE_TARGET, Indexes, Plan, SUCCESS_CRITERIA_MET, Sync, Verdict, condition, ensure,
    new_condition,
};
use crate::Event;
use crate::condition::Condition;
use crate::meta::Uid;
use crate::pod::{Phase, Pod};
use crate::time::Time;

/// The most uids that a status holds: about 20 KB. The rest is counted in the next step.
const MAX_UNCOUNTED: usize = 500;

pub(super) struct Tracking<'j, 'a> {
    sync: Sync<'j, 'a>,
    ending: Option<Condition>,
}

impl<'j, 'a> Tracking<'j, 'a> {
    pub(super) fn new(sync: Sync<'j, 'a>, ending: Option<Condition>) -> Tracking<'j, 'a> {
        Tracking { sync, ending }
    }

    /// Whether a pod is to be counted now, and its finalizer to go.
    fn is_to_be_counted(&self, pod: &Pod) -> bool {
        let job = self.sync.job;
        if job.meta.deleted.is_some() || self.ending.is_some() || pod.phase == Phase::Succeeded {
            return true;
        }
        // The last failure of an index that will be tried again stays to be seen: it holds the count so far.
        let waits = || self.sync.waiting.values().any(|p| p.uid == pod.uid);
        job.has_failed(pod) && !waits()
    }

    pub(super) fn finish(mut self, mut plan: Plan<'a>) -> Plan<'a> {
        let job = self.sync.job;
        let mut pods = self.sync.pods.clone();
        if job.is_indexed() {
            pods.sort_by_key(|p| p.more().index.unwrap_or(-1));
        }
        let tracked: Vec<&Pod> = pods.into_iter().filter(|p| p.more().tracked).collect();
        let here: HashSet<&Uid> = tracked.iter().map(|p| &p.uid).collect();
        let mut status = std::mem::take(&mut self.sync.status);
        let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        for (uids, total) in
            [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
        {
            let before = uids.len();
            uids.retain(|uid| here.contains(uid));
            *total += super::count(before - uids.len());
        }
        let mut complete = true;
        let mut new_indexes = Vec::new();
        let known_indexes = Indexes::parse(&status.completed_indexes, job.completions());
        let failing = self.ending.as_ref().is_some_and(|c| c.kind != SUCCESS_CRITERIA_MET);
        for pod in tracked {
            if !self.is_to_be_counted(pod) {
                continue;
            }
            plan.release_finalizers.push(pod);
            let index = job.index_of(pod);
            if pod.phase == Phase::Succeeded && !self.sync.uncounted.failed.contains(&pod.uid) {
                if job.is_indexed() {
                    new_indexes.extend(index.filter(|i| !known_indexes.has(*i)));
                } else if !self.sync.uncounted.succeeded.contains(&pod.uid) {
                    uncounted.succeeded.push(pod.uid.clone());
                }
            } else if (job.has_failed(pod) || failing)
                && !self.sync.uncounted.failed.contains(&pod.uid)
                && (!job.is_indexed() || index.is_some())
                && job.judge(pod) != Verdict::Ignore
            {
                uncounted.failed.push(pod.uid.clone());
            }
            if new_indexes.len() + uncounted.succeeded.len() + uncounted.failed.len() >= MAX_UNCOUNTED {
                complete = false;
                break;
            }
        }
        if job.is_indexed() {
            let done = known_indexes.union(&new_indexes.into_iter().collect());
            status.succeeded = done.total();
            status.completed_indexes = done.to_string();
            status.failed_indexes = self.sync.failed_indexes.as_ref().map(Indexes::to_string);
        }
        let counted = complete
            && plan.release_finalizers.is_empty()
            && uncounted.succeeded.is_empty()
            && uncounted.failed.is_empty();
        status.uncounted_terminated_pods = Some(uncounted);
        if let Some(ending) = self.ending.take() {
            self.end(&mut status, ending, counted, &mut plan);
        }
        if status != job.status {
            plan.status = Some(status);
        } else {
            plan.events.clear();
        }
        plan
    }

    /// Says that the Job ends, and when that is written, all pods have gone and all are counted, that it has ended.
    fn end(&self, status: &mut super::Status, ending: Condition, counted: bool, plan: &mut Plan<'a>) {
        let now = self.sync.now;
        if !condition::is_true(&status.conditions, &ending.kind) {
            status.conditions.push(ending);
            return;
        }
        if !counted || self.sync.terminating > 0 {
            return;
        }
        let kind = if ending.kind == FAILURE_TARGET { FAILED } else { COMPLETE };
        ensure(&mut status.conditions, new_condition(now, kind, &ending.reason, &ending.message));
        if kind == COMPLETE {
            status.completion_time = Some(Time::of(now));
            if self.sync.job.completions.is_some_and(|n| status.succeeded > n) {
                let message = "Too many succeeded pods running after completion count reached";
                plan.events.push(Event::warning("TooManySucceededPods", message));
            }
            plan.events.push(Event::normal("Completed", "Job completed"));
        } else {
            plan.events.push(Event {
                warning: true,
                reason: static_reason(&ending.reason),
                message: ending.message,
            });
        }
    }
}

/// The reasons for which a Job fails, as the constants that events have.
fn static_reason(reason: &str) -> &'static str {
    const REASONS: [&str; 5] = [
        "PodFailurePolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
    ];
    REASONS.into_iter().find(|r| *r == reason).unwrap_or(FAILED)
}
