//! The rules by which the status of a job changes: whoever runs a job, clients can rely on what it says.
//!
//! Most rules are checked only when a field that they speak of changes, so that an unrelated update of a
//! status that is wrong already passes.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use serde_json::json;

use super::indexes;
use super::job_policy::INDEXED;
use crate::field::{Bare, Errors, Json, Path};
use crate::kinds::checks;
use crate::meta;

/// Whether a condition is there and `True`.
pub(super) fn is_true(job: &Job, condition: &str) -> bool {
    has(job, condition, "True")
}

fn has(job: &Job, condition: &str, status: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == condition && c.status == status)
}

/// The conditions of a job that the rules speak of.
#[derive(Clone, Copy, PartialEq)]
struct Conditions {
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria_met: bool,
}

impl Conditions {
    fn of(job: &Job) -> Conditions {
        Conditions {
            complete: is_true(job, "Complete"),
            failed: is_true(job, "Failed"),
            failure_target: is_true(job, "FailureTarget"),
            success_criteria_met: is_true(job, "SuccessCriteriaMet"),
        }
    }

    fn finished(self) -> bool {
        self.complete || self.failed
    }
}

/// Which parts of the status differ from what was there.
struct Changes {
    finished: bool,
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria_met: bool,
    completed_indexes: bool,
    failed_indexes: bool,
    active: bool,
    start_time: bool,
    completion_time: bool,
    uncounted: bool,
    ready: bool,
    terminating: bool,
}

struct Update<'a> {
    spec: &'a JobSpec,
    new: &'a JobStatus,
    old: &'a JobStatus,
    conditions: Conditions,
    old_conditions: Conditions,
    changed: Changes,
    resuming: bool,
}

/// Checks a write to the status.
pub(super) fn validate_update(job: &Job, old_job: &Job, errors: &mut Errors) {
    let (no_spec, no_status) = (JobSpec::default(), JobStatus::default());
    let new = job.status.as_ref().unwrap_or(&no_status);
    let old = old_job.status.as_ref().unwrap_or(&no_status);
    let (conditions, old_conditions) = (Conditions::of(job), Conditions::of(old_job));
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let changed = Changes {
        finished: conditions.finished() != old_conditions.finished(),
        complete: conditions.complete != old_conditions.complete,
        failed: conditions.failed != old_conditions.failed,
        failure_target: conditions.failure_target != old_conditions.failure_target,
        success_criteria_met: conditions.success_criteria_met != old_conditions.success_criteria_met,
        completed_indexes: text(&new.completed_indexes) != text(&old.completed_indexes),
        failed_indexes: new.failed_indexes != old.failed_indexes,
        active: new.active.unwrap_or_default() != old.active.unwrap_or_default(),
        start_time: new.start_time != old.start_time,
        completion_time: new.completion_time != old.completion_time,
        uncounted: !meta::same(&new.uncounted_terminated_pods, &old.uncounted_terminated_pods),
        ready: new.ready != old.ready,
        terminating: new.terminating != old.terminating,
    };
    let update = Update {
        spec: job.spec.as_ref().unwrap_or(&no_spec),
        new,
        old,
        conditions,
        old_conditions,
        changed,
        resuming: is_true(old_job, "Suspended") && has(job, "Suspended", "False"),
    };
    let path = Path::root("status");
    update.counters(&path, errors);
    update.uncounted_pods(&path, errors);
    update.conflicting_ends(&path, errors);
    update.times(&path, errors);
    update.missing_targets(&path, errors);
    update.finished(&path, errors);
    update.index_sets(&path, errors);
    update.late_counters(&path, errors);
    update.success_criteria(&path, errors);
    update.transitions(&path, errors);
}

impl Update<'_> {
    fn counters(&self, path: &Path<'_>, errors: &mut Errors) {
        checks::nonnegative_if_set(self.new.active, &path.child("active"), errors);
        checks::nonnegative_if_set(self.new.succeeded, &path.child("succeeded"), errors);
        checks::nonnegative_if_set(self.new.failed, &path.child("failed"), errors);
        checks::nonnegative_if_set(self.new.ready, &path.child("ready"), errors);
        checks::nonnegative_if_set(self.new.terminating, &path.child("terminating"), errors);
    }

    fn uncounted_pods(&self, path: &Path<'_>, errors: &mut Errors) {
        let Some(pods) = &self.new.uncounted_terminated_pods else { return };
        let path = path.child("uncountedTerminatedPods");
        let mut seen = BTreeSet::new();
        for (name, uids) in [("succeeded", &pods.succeeded), ("failed", &pods.failed)] {
            let path = path.child(name);
            for (i, uid) in uids.iter().flatten().enumerate() {
                if uid.is_empty() {
                    errors.invalid(&path.index(i), uid, "must not be empty");
                } else if !seen.insert(uid) {
                    errors.duplicate(&path.index(i), uid);
                }
            }
        }
    }

    fn conflicting_ends(&self, path: &Path<'_>, errors: &mut Errors) {
        let path = path.child("conditions");
        let (is, changed) = (self.conditions, &self.changed);
        if (changed.complete || changed.failed) && is.complete && is.failed {
            let detail = "cannot set Complete=True and Failed=true conditions";
            checks::invalid_without_value(&path, detail, errors);
        }
        if (changed.complete || changed.failure_target) && is.complete && is.failure_target {
            let detail = "cannot set Complete=True and FailureTarget=true conditions";
            checks::invalid_without_value(&path, detail, errors);
        }
    }

    fn times(&self, path: &Path<'_>, errors: &mut Errors) {
        let path = path.child("completionTime");
        let changed = &self.changed;
        let completion = self.new.completion_time.as_ref();
        if changed.complete || changed.completion_time {
            match completion {
                Some(time) if !self.conditions.complete => {
                    let detail = "cannot set completionTime when there is no Complete=True condition";
                    errors.invalid(&path, Json(time), detail);
                }
                None if self.conditions.complete => {
                    errors.required(&path, "completionTime is required for Complete jobs");
                }
                _ => {}
            }
        }
        if (changed.start_time || changed.completion_time)
            && let (Some(start), Some(end)) = (&self.new.start_time, completion)
            && end.0 < start.0
        {
            errors.invalid(&path, Json(end), "must be equal to or after `startTime`");
        }
    }

    fn missing_targets(&self, path: &Path<'_>, errors: &mut Errors) {
        let path = path.child("conditions");
        let (is, changed) = (self.conditions, &self.changed);
        if (changed.failed || changed.failed_indexes) && is.failed && !is.failure_target {
            let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
            checks::invalid_without_value(&path, detail, errors);
        }
        if (changed.complete || changed.success_criteria_met) && is.complete && !is.success_criteria_met {
            let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
            checks::invalid_without_value(&path, detail, errors);
        }
    }

    fn finished(&self, path: &Path<'_>, errors: &mut Errors) {
        if !self.conditions.finished() {
            return;
        }
        let changed = &self.changed;
        let active = self.new.active.unwrap_or_default();
        if (changed.finished || changed.active) && active > 0 {
            errors.invalid(&path.child("active"), active, "active>0 is invalid for finished job");
        }
        let empty_and_suspended = self.spec.suspend == Some(true) && self.spec.completions == Some(0);
        if (changed.finished || changed.start_time) && !empty_and_suspended && self.new.start_time.is_none() {
            errors.required(&path.child("startTime"), "startTime is required for finished job");
        }
        if (changed.finished || changed.uncounted)
            && let Some(pods) = &self.new.uncounted_terminated_pods
            && pods.succeeded.iter().chain(&pods.failed).flatten().next().is_some()
        {
            let shown = json!({"Succeeded": pods.succeeded, "Failed": pods.failed}).to_string();
            let path = path.child("uncountedTerminatedPods");
            errors.invalid(&path, Bare(&shown), "must be empty for finished job");
        }
    }

    fn index_sets(&self, path: &Path<'_>, errors: &mut Errors) {
        let completed_path = path.child("completedIndexes");
        let failed_path = path.child("failedIndexes");
        let completed = self.new.completed_indexes.as_deref().unwrap_or_default();
        let failed = self.new.failed_indexes.as_deref();
        let (changed, completions) = (&self.changed, self.spec.completions);
        if changed.completed_indexes
            && let Some(Err(e)) = completions.map(|c| indexes::count(completed, c))
        {
            errors.invalid(&completed_path, completed, &format!("error parsing completedIndexes: {e}"));
        }
        if changed.failed_indexes
            && self.spec.backoff_limit_per_index.is_some()
            && let (Some(failed), Some(completions)) = (failed, completions)
            && let Err(e) = indexes::count(failed, completions)
        {
            errors.invalid(&failed_path, failed, &format!("error parsing failedIndexes: {e}"));
        }
        let indexed = self.spec.completion_mode.as_deref() == Some(INDEXED);
        if changed.completed_indexes && !completed.is_empty() && !indexed {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.invalid(&completed_path, completed, detail);
        }
        if changed.failed_indexes
            && self.spec.backoff_limit_per_index.is_none()
            && let Some(failed) = failed
        {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.invalid(&failed_path, failed, detail);
        }
        if (changed.failed_indexes || changed.completed_indexes)
            && let (Some(failed), Some(completions)) = (failed, completions)
            && let Some(index) = indexes::overlap(completed, failed, completions)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.invalid(&failed_path, failed, &detail);
        }
    }

    fn late_counters(&self, path: &Path<'_>, errors: &mut Errors) {
        let changed = &self.changed;
        if (changed.finished || changed.terminating)
            && self.conditions.finished()
            && let Some(terminating) = self.new.terminating.filter(|&t| t > 0)
        {
            let detail = "terminating>0 is invalid for finished job";
            errors.invalid(&path.child("terminating"), terminating, detail);
        }
        if (changed.ready || changed.active)
            && let Some(ready) = self.new.ready
            && ready > self.new.active.unwrap_or_default()
        {
            errors.invalid(&path.child("ready"), ready, "cannot set more ready pods than active");
        }
    }

    fn success_criteria(&self, path: &Path<'_>, errors: &mut Errors) {
        let path = path.child("conditions");
        let is = self.conditions;
        if is.success_criteria_met && is.failed {
            let detail = "cannot set SuccessCriteriaMet=True and Failed=true conditions";
            checks::invalid_without_value(&path, detail, errors);
        }
        if is.success_criteria_met && is.failure_target {
            let detail = "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions";
            checks::invalid_without_value(&path, detail, errors);
        }
        if self.spec.success_policy.is_some() && !is.success_criteria_met && is.complete {
            let detail = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
            checks::invalid_without_value(&path, detail, errors);
        }
    }

    fn transitions(&self, path: &Path<'_>, errors: &mut Errors) {
        let conditions_path = path.child("conditions");
        let (is, was) = (self.conditions, self.old_conditions);
        let terminal = [
            ("Failed", was.failed, is.failed),
            ("Complete", was.complete, is.complete),
            ("FailureTarget", was.failure_target, is.failure_target),
        ];
        for (name, was, is) in terminal {
            if was && !is {
                let detail = format!("cannot disable the terminal {name}=True condition");
                checks::invalid_without_value(&conditions_path, &detail, errors);
            }
        }
        let (new, old) = (self.new, self.old);
        let failed = new.failed.unwrap_or_default();
        if failed < old.failed.unwrap_or_default() {
            errors.invalid(&path.child("failed"), failed, "cannot decrease the failed counter");
        }
        // An indexed job whose completions follow its parallelism can be scaled down.
        let scalable = self.spec.completion_mode.as_deref() == Some(INDEXED)
            && self.spec.completions == self.spec.parallelism;
        let succeeded = new.succeeded.unwrap_or_default();
        if !scalable && succeeded < old.succeeded.unwrap_or_default() {
            errors.invalid(&path.child("succeeded"), succeeded, "cannot decrease the succeeded counter");
        }
        if let (Some(time), Some(old)) = (&new.completion_time, &old.completion_time)
            && time != old
        {
            errors.invalid(&path.child("completionTime"), Json(time), checks::IMMUTABLE);
        }
        if self.changed.start_time
            && !self.resuming
            && old.start_time.is_some()
            && self.spec.suspend != Some(true)
        {
            let detail = "field is immutable for unsuspended job once set";
            errors.invalid(&path.child("startTime"), Json(&new.start_time), detail);
        }
        if was.success_criteria_met && !is.success_criteria_met {
            let detail = "cannot disable the SuccessCriteriaMet=True condition";
            checks::invalid_without_value(&conditions_path, detail, errors);
        }
        if was.complete && !was.success_criteria_met && is.success_criteria_met {
            let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            checks::invalid_without_value(&conditions_path, detail, errors);
        }
    }
}
