//! CronJob.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, JobTemplateSpec};

use super::cron::Schedule;
use super::{job, time_zone};
use crate::context::Context;
use crate::field::{Bare, Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// The jobs of a cron job are named after it, with a dash and ten digits behind.
const NAME_MAX_BYTES: usize = skep_base::name::LABEL_MAX_LEN - 11;
/// How many jobs that succeeded are kept, unless said otherwise.
const DEFAULT_SUCCESSFUL_HISTORY: i32 = 3;
/// How many jobs that failed are kept, unless said otherwise.
const DEFAULT_FAILED_HISTORY: i32 = 1;

const CONCURRENCY: &[&str] = &["Allow", "Forbid", "Replace"];

impl Kind for CronJob {
    fn info() -> KindInfo {
        KindInfo::of::<CronJob>().short("cj").category("all").status()
    }

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        if spec.concurrency_policy.as_deref().unwrap_or_default().is_empty() {
            spec.concurrency_policy = Some(CONCURRENCY[0].to_owned());
        }
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(DEFAULT_SUCCESSFUL_HISTORY);
        spec.failed_jobs_history_limit.get_or_insert(DEFAULT_FAILED_HISTORY);
        let job = spec.job_template.spec.get_or_insert_default();
        job::default_failure_policy(job);
        checks::default_pod_template(&mut job.template);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(CronJobStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_spec(&self.spec, None, &Path::root("spec"), errors);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.len() > NAME_MAX_BYTES {
            let detail = format!("must be no more than {NAME_MAX_BYTES} characters");
            errors.invalid(&Path::root("metadata").child("name"), name, &detail);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            return;
        }
        // Names that were too long before the limit existed stay.
        validate_spec(&self.spec, Some(&old.spec), &Path::root("spec"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cx.is_status() {
            return warnings;
        }
        let spec = &self.spec;
        if old.is_none() {
            checks::pod_name_warning(&self.metadata, &mut warnings);
        }
        if self.generation_changed(old) == Some(true)
            && let Some(job) = &spec.job_template.spec
        {
            let old_job = old.and_then(|o| o.spec.job_template.spec.as_ref());
            let path = Path::root("spec");
            let path = path.child("jobTemplate");
            job::spec_warnings(job, old_job, &path.child("spec"), &mut warnings);
        }
        if old.is_some() && spec.schedule.contains("TZ") {
            warnings.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Schedule", "When jobs are made."),
            Column::string("Timezone", "The time zone of the schedule."),
            Column { ty: "boolean", ..Column::string("Suspend", "Whether no jobs are made for now.") },
            Column::integer("Active", "Jobs that are running."),
            Column::string("Last Schedule", "The time since a job was made."),
            Column::AGE,
            checks::CONTAINERS,
            checks::IMAGES,
            checks::SELECTOR,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = &self.spec;
        let status = self.status.as_ref();
        let last = status.and_then(|s| s.last_schedule_time.as_ref());
        let last = last.map_or_else(|| "<none>".to_owned(), |t| meta::age(t.0, now));
        let suspend = match spec.suspend {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let job = spec.job_template.spec.as_ref();
        let [names, images] = checks::container_cells(job.map(|j| &j.template));
        vec![
            meta::name_cell(&self.metadata),
            spec.schedule.clone().into(),
            spec.time_zone.as_deref().unwrap_or("<none>").into(),
            suspend.into(),
            status.and_then(|s| s.active.as_ref()).map_or(0, Vec::len).into(),
            last.into(),
            meta::age_cell(&self.metadata, now),
            names,
            images,
            checks::selector_cell(job.and_then(|j| j.selector.as_ref())),
        ]
    }
}

fn validate_spec(spec: &CronJobSpec, old: Option<&CronJobSpec>, path: &Path<'_>, errors: &mut Errors) {
    if spec.schedule.is_empty() {
        errors.required(&path.child("schedule"), "");
    } else {
        validate_schedule(spec, old, &path.child("schedule"), errors);
    }
    let deadline = spec.starting_deadline_seconds;
    checks::nonnegative_if_set(deadline, &path.child("startingDeadlineSeconds"), errors);
    if old.is_none_or(|old| old.time_zone != spec.time_zone)
        && let Some(zone) = &spec.time_zone
    {
        validate_time_zone(zone, &path.child("timeZone"), errors);
    }
    let policy = spec.concurrency_policy.as_deref().unwrap_or_default();
    let policy_path = path.child("concurrencyPolicy");
    if policy.is_empty() {
        errors.required(&policy_path, "");
    } else if !CONCURRENCY.contains(&policy) {
        errors.not_supported(&policy_path, policy, CONCURRENCY);
    }
    validate_job_template(&spec.job_template, &path.child("jobTemplate"), errors);
    let successful = spec.successful_jobs_history_limit;
    checks::nonnegative_if_set(successful, &path.child("successfulJobsHistoryLimit"), errors);
    checks::nonnegative_if_set(spec.failed_jobs_history_limit, &path.child("failedJobsHistoryLimit"), errors);
}

fn validate_schedule(spec: &CronJobSpec, old: Option<&CronJobSpec>, path: &Path<'_>, errors: &mut Errors) {
    let schedule = &spec.schedule;
    if let Err(e) = Schedule::parse(schedule) {
        errors.invalid(path, schedule, &e.to_string());
    }
    if !schedule.contains("TZ") {
        return;
    }
    // Schedules with a time zone in them, from before that was refused, stay.
    if !old.is_some_and(|old| old.schedule.contains("TZ")) {
        errors.invalid(path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if spec.time_zone.is_some() {
        errors.invalid(path, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    }
}

fn validate_time_zone(zone: &str, path: &Path<'_>, errors: &mut Errors) {
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
        return;
    }
    if !time_zone::has_form(zone) {
        errors.invalid(path, zone, &format!("unknown time zone {zone}"));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    }
    if let Err(e) = time_zone::check(zone) {
        errors.invalid(path, zone, &e);
    }
}

fn validate_job_template(template: &JobTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("spec");
    let Some(spec) = &template.spec else {
        errors.required(&path, "");
        return;
    };
    job::validate_spec(spec, &path, errors);
    if let Some(selector) = &spec.selector {
        let shown = checks::selector_shown(selector);
        errors.invalid(&path.child("selector"), Bare(&shown), "`selector` will be auto-generated");
    }
    if spec.manual_selector == Some(true) {
        errors.not_supported(&path.child("manualSelector"), true, &["nil", "false"]);
    }
}
