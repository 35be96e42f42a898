//! CronJob: a Job at each time of a schedule.

mod schedule;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::Event;
use crate::job::Job;
use crate::meta::{Meta, OwnerKind, Uid};
use crate::template::canonical;
use crate::time::Time;

pub use schedule::{Schedule, ScheduleError, time_zone};

/// When a Job was to begin, on the Job, in the schedule's time zone.
pub const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// A time is looked for this long after it: clocks are not that exact.
const NEXT_DELTA: Duration = Duration::from_millis(100);

/// More times missed than this are worth a warning: the clock may be wrong, or nothing ran for long.
const MANY_MISSED: i64 = 100;

/// A view of a CronJob.
#[derive(Clone, Debug, Default)]
pub struct CronJob {
    /// `metadata`.
    pub meta: Meta,
    /// `spec.schedule`.
    pub schedule: Box<str>,
    /// `spec.timeZone`.
    pub time_zone: Option<Box<str>>,
    /// `spec.startingDeadlineSeconds`.
    pub starting_deadline_seconds: Option<i64>,
    /// `spec.concurrencyPolicy`.
    pub concurrency: Concurrency,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.successfulJobsHistoryLimit`.
    pub successful_limit: Option<i32>,
    /// `spec.failedJobsHistoryLimit`.
    pub failed_limit: Option<i32>,
    /// `spec.jobTemplate.metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.jobTemplate.metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.jobTemplate.spec`, as JSON text.
    pub job_spec: Box<str>,
    /// `status`.
    pub status: Status,
}

/// `spec.concurrencyPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Concurrency {
    /// Each time has its Job.
    #[default]
    Allow,
    /// A time at which the last Job still runs is skipped.
    Forbid,
    /// The last Job makes room.
    Replace,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Jobs that run.
    pub active: Vec<Reference>,
    /// The last time for which there was a Job.
    pub last_schedule_time: Option<Time>,
    /// When the last Job ended well.
    pub last_successful_time: Option<Time>,
}

/// A Job that runs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Uid,
    /// Its version when it was made.
    pub resource_version: String,
}

impl Status {
    /// A merge patch of the status subresource.
    #[must_use]
    pub fn patch(&self, meta: &Meta) -> Value {
        let reference = |r: &Reference| {
            json!({
                "apiVersion": OwnerKind::Job.api_version(),
                "kind": OwnerKind::Job.name(),
                "namespace": meta.namespace,
                "name": r.name,
                "uid": r.uid,
                "resourceVersion": r.resource_version,
            })
        };
        let active: Vec<Value> = self.active.iter().map(reference).collect();
        json!({
            "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version },
            "status": {
                "active": if active.is_empty() { Value::Null } else { json!(active) },
                "lastScheduleTime": self.last_schedule_time,
                "lastSuccessfulTime": self.last_successful_time,
            },
        })
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
    schedule: Box<str>,
    #[serde(default)]
    time_zone: Option<Box<str>>,
    #[serde(default)]
    starting_deadline_seconds: Option<i64>,
    #[serde(default)]
    concurrency_policy: Concurrency,
    #[serde(default)]
    suspend: Option<bool>,
    #[serde(default)]
    successful_jobs_history_limit: Option<i32>,
    #[serde(default)]
    failed_jobs_history_limit: Option<i32>,
    #[serde(default)]
    job_template: RawTemplate,
}

#[derive(Default, Deserialize)]
struct RawTemplate {
    #[serde(default)]
    metadata: RawTemplateMeta,
    #[serde(default)]
    spec: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTemplateMeta {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl<'de> Deserialize<'de> for CronJob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CronJob, D::Error> {
        let Raw { metadata, spec, status } = Raw::deserialize(deserializer)?;
        Ok(CronJob {
            meta: metadata,
            schedule: spec.schedule,
            time_zone: spec.time_zone,
            starting_deadline_seconds: spec.starting_deadline_seconds,
            concurrency: spec.concurrency_policy,
            suspend: spec.suspend.unwrap_or(false),
            successful_limit: spec.successful_jobs_history_limit,
            failed_limit: spec.failed_jobs_history_limit,
            labels: spec.job_template.metadata.labels.unwrap_or_default(),
            annotations: spec.job_template.metadata.annotations.unwrap_or_default(),
            job_spec: canonical(&spec.job_template.spec).into(),
            status: status.unwrap_or_default(),
        })
    }
}

/// A Job to create.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Its name.
    pub name: String,
    /// The request's body.
    pub body: String,
    /// For which time it is.
    pub scheduled: Time,
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// Jobs to delete: old ones, and those that make room.
    pub delete: Vec<&'a Job>,
    /// The Job whose time has come.
    pub create: Option<NewJob>,
    /// The status with all of this, but for the Job that is only to be created: [`Plan::created`].
    pub status: Status,
    /// To record.
    pub events: Vec<Event>,
    /// When the next time comes.
    pub requeue_after: Option<Duration>,
}

impl Plan<'_> {
    /// Takes up the Job that was created, or that was there already.
    pub fn created(&mut self, scheduled: Time, reference: Reference) {
        self.status.active.push(reference);
        self.status.last_schedule_time = Some(scheduled);
    }
}

/// How much was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    None,
    Few,
    Many,
}

/// What is to be done about a CronJob. `jobs`: those that it manages; they must show what earlier syncs created and
/// deleted.
#[must_use]
pub fn plan<'a>(now: Timestamp, cron: &CronJob, jobs: &[&'a Job]) -> Plan<'a> {
    let mut plan = Plan { status: cron.status.clone(), ..Plan::default() };
    clean_up(cron, jobs, &mut plan);
    follow(jobs, &mut plan);
    if cron.meta.deleted.is_some() {
        return plan;
    }
    if let Some(zone) = &cron.time_zone
        && time_zone(zone).is_err()
    {
        let message = format!("invalid timeZone: {zone:?}: unknown time zone {zone}");
        plan.events.push(Event::warning("UnknownTimeZone", message));
        return plan;
    }
    if cron.suspend {
        return plan;
    }
    if cron.schedule.contains("TZ") {
        let message = format!(
            "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
            cron.schedule
        );
        plan.events.push(Event::warning("UnsupportedSchedule", message));
    }
    match Schedule::parse(&cron.schedule, cron.time_zone.as_deref().unwrap_or_default()) {
        Ok(schedule) => start(now, cron, &schedule, jobs, &mut plan),
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", cron.schedule);
            plan.events.push(Event::warning("UnparseableSchedule", message));
        }
    }
    plan
}

/// Old Jobs beyond the limits go.
fn clean_up<'a>(cron: &CronJob, jobs: &[&'a Job], plan: &mut Plan<'a>) {
    for (limit, good) in [(cron.successful_limit, true), (cron.failed_limit, false)] {
        let Some(limit) = limit.and_then(|n| usize::try_from(n).ok()) else { continue };
        let mut done: Vec<&Job> = jobs
            .iter()
            .copied()
            .filter(|j| j.status.is_finished() && j.status.is_complete() == good && j.meta.deleted.is_none())
            .collect();
        done.sort_by(|a, b| {
            let start = |j: &Job| (j.status.start_time.is_none(), j.status.start_time);
            start(a).cmp(&start(b)).then_with(|| a.meta.name.cmp(&b.meta.name))
        });
        let excess = done.len().saturating_sub(limit);
        plan.delete.extend(done.into_iter().take(excess));
    }
    let gone: Vec<&Uid> = plan.delete.iter().map(|j| &j.meta.uid).collect();
    plan.status.active.retain(|r| !gone.contains(&&r.uid));
}

/// The list of Jobs that run follows the Jobs.
fn follow(jobs: &[&Job], plan: &mut Plan<'_>) {
    for job in jobs {
        let listed = plan.status.active.iter().any(|r| r.uid == job.meta.uid);
        if !job.status.is_finished() {
            if !listed {
                let message =
                    format!("Saw a job that the controller did not create or forgot: {}", job.meta.name);
                plan.events.push(Event::warning("UnexpectedJob", message));
            }
            continue;
        }
        if listed {
            plan.status.active.retain(|r| r.uid != job.meta.uid);
            let condition = if job.status.is_complete() { "Complete" } else { "Failed" };
            let message = format!("Saw completed job: {}, condition: {condition}", job.meta.name);
            plan.events.push(Event::normal("SawCompletedJob", message));
        }
        if job.status.is_complete() {
            plan.status.last_successful_time =
                plan.status.last_successful_time.max(job.status.completion_time);
        }
    }
    let (known, missing): (Vec<Reference>, Vec<Reference>) = std::mem::take(&mut plan.status.active)
        .into_iter()
        .partition(|r| jobs.iter().any(|j| j.meta.uid == r.uid));
    plan.status.active = known;
    for reference in missing {
        plan.events.push(Event::normal("MissingJob", format!("Active job went missing: {}", reference.name)));
    }
}

/// The latest time up to now for which there should be a Job, and from where on times were looked for.
fn most_recent(
    now: Timestamp,
    cron: &CronJob,
    schedule: &Schedule,
    with_deadline: bool,
) -> Result<(Timestamp, Option<Timestamp>, Missed), &'static str> {
    let mut earliest =
        cron.status.last_schedule_time.or(cron.meta.created).unwrap_or(Time::of(now)).timestamp();
    if let Some(seconds) = cron.starting_deadline_seconds.filter(|_| with_deadline)
        && let Ok(deadline) = now.checked_sub(SignedDuration::from_secs(seconds))
    {
        earliest = earliest.max(deadline);
    }
    let Some(first) = schedule.next(earliest).filter(|t| *t <= now) else {
        return Ok((earliest, None, Missed::None));
    };
    let Some(second) = schedule.next(first).filter(|t| *t <= now) else {
        return Ok((earliest, Some(first), Missed::None));
    };
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err("time difference between two schedules is less than 1 second");
    }
    // Times may be far back: from the first two, guess how many there were, and walk only the last stretch.
    let missed = now.duration_since(first).as_secs() / between + 1;
    let skip = SignedDuration::from_secs((missed - 2).saturating_mul(between));
    let mut at = first.checked_add(skip).ok();
    let mut latest = None;
    while let Some(next) = at.and_then(|t| schedule.next(t)).filter(|t| *t <= now) {
        latest = Some(next);
        at = Some(next);
    }
    let missed = if missed > MANY_MISSED { Missed::Many } else { Missed::Few };
    Ok((earliest, latest, missed))
}

/// How long until the next time.
fn until_next(now: Timestamp, cron: &CronJob, schedule: &Schedule) -> Option<Duration> {
    let from = match most_recent(now, cron, schedule, false) {
        Ok((_, Some(latest), _)) => latest,
        Ok((earliest, None, Missed::None)) => earliest,
        _ => now,
    };
    let left = schedule.next(from)?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or_default() + NEXT_DELTA)
}

fn start<'a>(now: Timestamp, cron: &CronJob, schedule: &Schedule, jobs: &[&'a Job], plan: &mut Plan<'a>) {
    let latest = match most_recent(now, cron, schedule, true) {
        Ok((_, latest, missed)) => {
            if latest.is_some() && missed == Missed::Many {
                let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                plan.events.push(Event::warning("TooManyMissedTimes", message));
            }
            latest
        }
        Err(error) => {
            let message = format!("invalid schedule: {} : {error}", cron.schedule);
            return plan.events.push(Event::warning("InvalidSchedule", message));
        }
    };
    plan.requeue_after = until_next(now, cron, schedule);
    let Some(latest) = latest else { return };
    let scheduled = Time::of(latest);
    let too_late = cron
        .starting_deadline_seconds
        .is_some_and(|seconds| scheduled.plus_seconds(seconds).timestamp() < now);
    if too_late {
        let at = latest.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let message = format!("Missed scheduled time to start a job: {at}");
        return plan.events.push(Event::warning("MissSchedule", message));
    }
    let name = format!("{}-{}", cron.meta.name, scheduled.0.div_euclid(60));
    if plan.status.active.iter().any(|r| r.name == name) || plan.status.last_schedule_time == Some(scheduled)
    {
        return;
    }
    if cron.concurrency == Concurrency::Forbid && !plan.status.active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        return plan.events.push(Event::normal("JobAlreadyActive", message));
    }
    if cron.concurrency == Concurrency::Replace {
        let running = std::mem::take(&mut plan.status.active);
        plan.delete.extend(jobs.iter().copied().filter(|j| running.iter().any(|r| r.uid == j.meta.uid)));
    }
    plan.create = Some(NewJob { body: body(cron, &name, latest), name, scheduled });
}

fn body(cron: &CronJob, name: &str, at: Timestamp) -> String {
    let zone = cron.time_zone.as_deref().unwrap_or_default();
    let zone = time_zone(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    let local = at.to_zoned(zone);
    let shown = if local.offset().is_zero() {
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    } else {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    let mut annotations = cron.annotations.clone();
    annotations.insert(SCHEDULED_AT.to_owned(), shown);
    let meta = json!({
        "name": name,
        "labels": cron.labels,
        "annotations": annotations,
        "ownerReferences": [cron.meta.controller_ref(OwnerKind::CronJob)],
    });
    format!(r#"{{"apiVersion":"batch/v1","kind":"Job","metadata":{meta},"spec":{}}}"#, cron.job_spec)
}

#[cfg(test)]
#[path = "../cronjob_tests.rs"]
mod tests;
