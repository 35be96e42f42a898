//! Job.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Affinity, Container, PodTemplateSpec};

use super::job_policy::{self, INDEXED, NON_INDEXED};
use super::job_status;
use crate::context::Context;
use crate::field::{Bare, Errors, Json, Path};
use crate::kind::{Fields, Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// How often the pods of a job may fail, unless said otherwise.
const DEFAULT_BACKOFF_LIMIT: i32 = 6;
/// The longest `managedBy`.
const MANAGED_BY_MAX_BYTES: usize = 63;
/// The most pods that an indexed job runs at once: it bounds the length of the status.
const MAX_INDEXED_PARALLELISM: i32 = 100_000;
/// The most indexes that may fail: it bounds the length of the status.
const MAX_FAILED_INDEXES: i32 = 100_000;
/// Above so many completions the status could grow too long unless less may run and fail.
const COMPLETIONS_SOFT_LIMIT: i32 = 100_000;
/// Pods at once above [`COMPLETIONS_SOFT_LIMIT`].
const PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS: i32 = 10_000;
/// Failed indexes above [`COMPLETIONS_SOFT_LIMIT`].
const FAILED_INDEXES_LIMIT_FOR_HIGH_COMPLETIONS: i32 = 10_000;

const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const LEGACY_JOB_NAME: &str = "job-name";
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const LEGACY_CONTROLLER_UID: &str = "controller-uid";

impl Kind for Job {
    fn info() -> KindInfo {
        KindInfo::of::<Job>().category("all").select("status.successful").status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let limit = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { DEFAULT_BACKOFF_LIMIT };
        spec.backoff_limit.get_or_insert(limit);
        spec.completion_mode.get_or_insert_with(|| NON_INDEXED.to_owned());
        spec.suspend.get_or_insert(false);
        let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
        spec.manual_selector.get_or_insert(false);
        default_failure_policy(spec);
        checks::default_pod_template(&mut spec.template);
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if let Some(labels) = labels
            && self.metadata.labels.as_ref().is_none_or(BTreeMap::is_empty)
        {
            self.metadata.labels = Some(labels.clone());
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        generate_selector(self);
        self.status = Some(JobStatus::default());
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_job(self, true, errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            job_status::validate_update(self, old, errors);
            return;
        }
        // Jobs from before the prefixed labels go on without them.
        let labels = old.spec.as_ref().and_then(|s| template_labels(&s.template));
        let prefixed = labels.is_some_and(|l| l.contains_key(JOB_NAME) && l.contains_key(CONTROLLER_UID));
        validate_job(self, prefixed, errors);
        if let (Some(spec), Some(old_spec)) = (&self.spec, &old.spec) {
            validate_spec_update(spec, old_spec, old, &Path::root("spec"), errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            checks::pod_name_warning(&self.metadata, &mut warnings);
        }
        if !cx.is_status()
            && self.generation_changed(old) == Some(true)
            && let Some(spec) = &self.spec
        {
            let old_spec = old.and_then(|o| o.spec.as_ref());
            spec_warnings(spec, old_spec, &Path::root("spec"), &mut warnings);
        }
        warnings
    }

    fn fields(&self, fields: &mut Fields) {
        let succeeded = self.status.as_ref().and_then(|s| s.succeeded).unwrap_or_default();
        fields.add("status.successful", succeeded.to_string());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Status", "Where the job stands."),
            Column::string("Completions", "Pods that have succeeded, of those wanted."),
            Column::string("Duration", "How long the job has been running, or ran."),
            Column::AGE,
            checks::CONTAINERS,
            checks::IMAGES,
            checks::SELECTOR,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let succeeded = status.and_then(|s| s.succeeded).unwrap_or_default();
        let parallelism = spec.and_then(|s| s.parallelism).unwrap_or_default();
        let completions = match spec.and_then(|s| s.completions) {
            Some(wanted) => format!("{succeeded}/{wanted}"),
            None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            None => format!("{succeeded}/1"),
        };
        let started = status.and_then(|s| s.start_time.as_ref());
        let ended = status.and_then(|s| s.completion_time.as_ref()).map_or(now, |t| t.0);
        let duration = started.map(|t| meta::age(t.0, ended)).unwrap_or_default();
        let [names, images] = checks::container_cells(spec.map(|s| &s.template));
        vec![
            meta::name_cell(&self.metadata),
            self.state().into(),
            completions.into(),
            duration.into(),
            meta::age_cell(&self.metadata, now),
            names,
            images,
            checks::selector_cell(spec.and_then(|s| s.selector.as_ref())),
        ]
    }
}

trait State {
    fn state(&self) -> &'static str;
}

impl State for Job {
    /// One word for where the job stands.
    fn state(&self) -> &'static str {
        let has = |condition| job_status::is_true(self, condition);
        match () {
            () if has("Complete") => "Complete",
            () if has("Failed") => "Failed",
            () if self.metadata.deletion_timestamp.is_some() => "Terminating",
            () if has("Suspended") => "Suspended",
            () if has("FailureTarget") => "FailureTarget",
            () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
            () => "Running",
        }
    }
}

/// Fills in the parts of a failure policy that may be left out.
pub(super) fn default_failure_policy(spec: &mut JobSpec) {
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|p| &mut p.rules);
    for pattern in rules.flat_map(|r| r.on_pod_conditions.iter_mut().flatten()) {
        if pattern.status.as_deref().unwrap_or_default().is_empty() {
            pattern.status = Some("True".to_owned());
        }
    }
}

fn template_labels(template: &PodTemplateSpec) -> Option<&BTreeMap<String, String>> {
    template.metadata.as_ref()?.labels.as_ref()
}

/// Unless the user chose the selector: labels that name this very job, and a selector of them. Labels that
/// are there already stay, and validation refuses those that are wrong.
fn generate_selector(job: &mut Job) {
    let spec = job.spec.get_or_insert_default();
    if spec.manual_selector == Some(true) {
        return;
    }
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for key in [LEGACY_JOB_NAME, JOB_NAME] {
        labels.entry(key.to_owned()).or_insert_with(|| name.clone());
    }
    for key in [LEGACY_CONTROLLER_UID, CONTROLLER_UID] {
        labels.entry(key.to_owned()).or_insert_with(|| uid.clone());
    }
    let selected = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selected.entry(CONTROLLER_UID.to_owned()).or_insert(uid);
}

fn validate_job(job: &Job, prefixed_labels: bool, errors: &mut Errors) {
    let path = Path::root("spec");
    let Some(spec) = &job.spec else {
        errors.required(&path, "");
        return;
    };
    validate_generated_selector(job, spec, prefixed_labels, errors);
    validate_selected_spec(spec, &path, errors);
    if spec.completion_mode.as_deref() == Some(INDEXED)
        && let Some(completions) = spec.completions.filter(|&c| c > 0)
    {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let hostname = format!("{name}-{}", completions - 1);
        if !skep_base::name::is_dns1123_label(&hostname) {
            let detail = format!("will not able to create pod with invalid DNS label: {hostname}");
            errors.invalid(&Path::root("metadata").child("name"), name, &detail);
        }
    }
}

fn validate_generated_selector(job: &Job, spec: &JobSpec, prefixed_labels: bool, errors: &mut Errors) {
    let Some(selector) = &spec.selector else { return };
    if spec.manual_selector == Some(true) {
        return;
    }
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    if uid.is_empty() {
        errors.required(&Path::root("metadata").child("uid"), "");
    }
    let mut expected = vec![(LEGACY_CONTROLLER_UID, uid), (LEGACY_JOB_NAME, name)];
    if prefixed_labels {
        expected.extend([(CONTROLLER_UID, uid), (JOB_NAME, name)]);
    }
    let spec_path = Path::root("spec");
    let template = spec_path.child("template");
    let metadata = template.child("metadata");
    let labels_path = metadata.child("labels");
    let labels = template_labels(&spec.template);
    for (key, value) in &expected {
        let path = labels_path.key(key);
        match labels.and_then(|l| l.get(*key)) {
            None => errors.required(&path, &format!("must be '{value}'")),
            Some(actual) if actual != value => {
                errors.invalid(&path, Json(&labels), &format!("must be '{value}'"));
            }
            Some(_) => {}
        }
    }
    let expected = expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    if checks::selector_matches(selector, &expected) == Some(false) {
        let shown = checks::selector_shown(selector);
        errors.invalid(&spec_path.child("selector"), Bare(&shown), "`selector` not auto-generated");
    }
}

/// The spec of a job that exists: its selector is there.
fn validate_selected_spec(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_spec(spec, path, errors);
    match &spec.selector {
        None => errors.required(&path.child("selector"), ""),
        Some(selector) => checks::validate_label_selector(selector, &path.child("selector"), errors),
    }
    let labels = template_labels(&spec.template);
    let selected = match &spec.selector {
        None => Some(false),
        Some(selector) => checks::selector_matches(selector, labels.unwrap_or(&BTreeMap::new())),
    };
    if selected == Some(false) {
        let template = path.child("template");
        errors.invalid(
            &template.child("metadata").child("labels"),
            Json(&labels),
            "`selector` does not match template `labels`",
        );
    }
}

/// What jobs and the templates of cron jobs have in common.
pub(super) fn validate_spec(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    checks::nonnegative_if_set(spec.parallelism, &path.child("parallelism"), errors);
    checks::nonnegative_if_set(spec.completions, &path.child("completions"), errors);
    checks::nonnegative_if_set(spec.active_deadline_seconds, &path.child("activeDeadlineSeconds"), errors);
    checks::nonnegative_if_set(spec.backoff_limit, &path.child("backoffLimit"), errors);
    let ttl = spec.ttl_seconds_after_finished;
    checks::nonnegative_if_set(ttl, &path.child("ttlSecondsAfterFinished"), errors);
    checks::nonnegative_if_set(spec.backoff_limit_per_index, &path.child("backoffLimitPerIndex"), errors);
    if let Some(max) = spec.max_failed_indexes {
        checks::nonnegative(max, &path.child("maxFailedIndexes"), errors);
        if spec.backoff_limit_per_index.is_none() {
            errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
        }
    }
    if let Some(manager) = &spec.managed_by {
        let path = path.child("managedBy");
        checks::domain_prefixed_path(manager, &path, errors);
        if manager.len() > MANAGED_BY_MAX_BYTES {
            errors.too_long(&path, MANAGED_BY_MAX_BYTES);
        }
    }
    validate_completion_mode(spec, path, errors);
    if let Some(policy) = &spec.pod_failure_policy {
        job_policy::validate_failure(policy, spec, &path.child("podFailurePolicy"), errors);
    }
    if let Some(policy) = &spec.success_policy {
        job_policy::validate_success(policy, spec, &path.child("successPolicy"), errors);
    }
    job_policy::validate_replacement(spec, &path.child("podReplacementPolicy"), errors);
    let template = path.child("template");
    checks::validate_pod_template(&spec.template, &template, errors);
    validate_restart(spec, &template, errors);
}

fn validate_restart(spec: &JobSpec, template: &Path<'_>, errors: &mut Errors) {
    let pod_path = template.child("spec");
    let path = pod_path.child("restartPolicy");
    let pod = spec.template.spec.as_ref();
    match pod.and_then(|p| p.restart_policy.as_deref()).unwrap_or_default() {
        "" | "Always" => errors.required(&path, r#"valid values: "OnFailure", "Never""#),
        "Never" => {}
        "OnFailure" if spec.pod_failure_policy.is_none() => {}
        "OnFailure" => {
            let detail = r#"only "Never" is supported when podFailurePolicy is specified"#;
            errors.invalid(&path, "OnFailure", detail);
        }
        other => errors.not_supported(&path, other, &["OnFailure", "Never"]),
    }
}

fn validate_completion_mode(spec: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    let mode = spec.completion_mode.as_deref();
    let parallelism_path = path.child("parallelism");
    let max_failed_path = path.child("maxFailedIndexes");
    match mode {
        None | Some(NON_INDEXED) => {
            let detail = "requires indexed completion mode";
            if let Some(limit) = spec.backoff_limit_per_index {
                errors.invalid(&path.child("backoffLimitPerIndex"), limit, detail);
            }
            if let Some(max) = spec.max_failed_indexes {
                errors.invalid(&max_failed_path, max, detail);
            }
        }
        Some(INDEXED) => {}
        Some(other) => {
            errors.not_supported(&path.child("completionMode"), other, &[NON_INDEXED, INDEXED]);
        }
    }
    if mode != Some(INDEXED) {
        return;
    }
    let at_most = |limit: i32| format!("must be less than or equal to {limit}");
    if spec.completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    if let Some(parallelism) = spec.parallelism
        && parallelism > MAX_INDEXED_PARALLELISM
    {
        let detail = format!("{} when completion mode is Indexed", at_most(MAX_INDEXED_PARALLELISM));
        errors.invalid(&parallelism_path, parallelism, &detail);
    }
    if let (Some(completions), Some(max)) = (spec.completions, spec.max_failed_indexes)
        && max > completions
    {
        errors.invalid(&max_failed_path, max, "must be less than or equal to completions");
    }
    if let Some(max) = spec.max_failed_indexes
        && max > MAX_FAILED_INDEXES
    {
        errors.invalid(&max_failed_path, max, &at_most(MAX_FAILED_INDEXES));
    }
    if spec.completions.is_some_and(|c| c > COMPLETIONS_SOFT_LIMIT) && spec.backoff_limit_per_index.is_some()
    {
        let detail = |limit: i32| {
            format!(
                "{} when completions are above {COMPLETIONS_SOFT_LIMIT} and used with backoff limit per index",
                at_most(limit)
            )
        };
        if spec.max_failed_indexes.is_none() {
            let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
            errors.required(&max_failed_path, &detail);
        }
        if let Some(parallelism) = spec.parallelism
            && parallelism > PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS
        {
            errors.invalid(&parallelism_path, parallelism, &detail(PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS));
        }
        if let Some(max) = spec.max_failed_indexes
            && max > FAILED_INDEXES_LIMIT_FOR_HIGH_COMPLETIONS
        {
            errors.invalid(&max_failed_path, max, &detail(FAILED_INDEXES_LIMIT_FOR_HIGH_COMPLETIONS));
        }
    }
}

fn validate_spec_update(spec: &JobSpec, old: &JobSpec, old_job: &Job, path: &Path<'_>, errors: &mut Errors) {
    validate_selected_spec(spec, path, errors);
    validate_completions(spec, old, path, errors);
    if !meta::same(&spec.selector, &old.selector) {
        let shown = spec.selector.as_ref().map_or_else(|| "null".to_owned(), checks::selector_shown);
        errors.invalid(&path.child("selector"), Bare(&shown), checks::IMMUTABLE);
    }
    validate_template_update(&spec.template, &old.template, old_job, path, errors);
    let fixed = [
        ("completionMode", meta::same(&spec.completion_mode, &old.completion_mode)),
        ("podFailurePolicy", meta::same(&spec.pod_failure_policy, &old.pod_failure_policy)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index == old.backoff_limit_per_index),
        ("managedBy", spec.managed_by == old.managed_by),
        ("successPolicy", meta::same(&spec.success_policy, &old.success_policy)),
    ];
    for (name, same) in fixed {
        if same {
            continue;
        }
        let shown = match name {
            "completionMode" => serde_json::json!(spec.completion_mode),
            "podFailurePolicy" => job_policy::failure_shown(spec.pod_failure_policy.as_ref()),
            "backoffLimitPerIndex" => serde_json::json!(spec.backoff_limit_per_index),
            "managedBy" => serde_json::json!(spec.managed_by),
            _ => job_policy::success_shown(spec.success_policy.as_ref()),
        };
        errors.invalid(&path.child(name), Bare(&shown.to_string()), checks::IMMUTABLE);
    }
}

/// Completions are fixed, except that indexed jobs scale by completions and parallelism together.
fn validate_completions(spec: &JobSpec, old: &JobSpec, path: &Path<'_>, errors: &mut Errors) {
    if spec.completions == old.completions {
        return;
    }
    let field = path.child("completions");
    if spec.completion_mode.as_deref() != Some(INDEXED) {
        errors.invalid(&field, Json(&spec.completions), checks::IMMUTABLE);
    } else if let Some(completions) = spec.completions
        && Some(completions) != spec.parallelism
    {
        errors.invalid(&field, completions, "can only be modified in tandem with spec.parallelism");
    }
}

/// The template is fixed once the job runs. While the job is suspended and no pod of it is active, its
/// scheduling directives and the resources of its containers may change.
fn validate_template_update(
    new: &PodTemplateSpec,
    old: &PodTemplateSpec,
    old_job: &Job,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if meta::same(new, old) {
        return;
    }
    let status = old_job.status.as_ref();
    let suspended = old_job.spec.as_ref().and_then(|s| s.suspend) == Some(true);
    let never_started = status.is_none_or(|s| s.start_time.is_none());
    let idle = status.and_then(|s| s.active).unwrap_or_default() == 0;
    let mutable = suspended && (never_started || job_status::is_true(old_job, "Suspended")) && idle;
    let template = path.child("template");
    if !mutable {
        checks::immutable(new, old, &template, errors);
        return;
    }
    let allowed = with_mutable_parts_of(old, new);
    checks::immutable(&new.spec, &allowed.spec, &path.child("template.spec"), errors);
}

/// `old` with everything taken from `new` that may change while a job is suspended.
fn with_mutable_parts_of(old: &PodTemplateSpec, new: &PodTemplateSpec) -> PodTemplateSpec {
    let mut allowed = old.clone();
    let (Some(pod), Some(new)) = (&mut allowed.spec, &new.spec) else { return allowed };
    match (&new.affinity, &mut pod.affinity) {
        (None, Some(affinity)) => {
            affinity.node_affinity = None;
            if *affinity == Affinity::default() {
                pod.affinity = None;
            }
        }
        (Some(affinity), None) => {
            let node_affinity = affinity.node_affinity.clone();
            pod.affinity = Some(Affinity { node_affinity, ..Affinity::default() });
        }
        (Some(new), Some(affinity)) => affinity.node_affinity.clone_from(&new.node_affinity),
        (None, None) => {}
    }
    pod.node_selector.clone_from(&new.node_selector);
    pod.tolerations.clone_from(&new.tolerations);
    pod.scheduling_gates.clone_from(&new.scheduling_gates);
    take_resources(&mut pod.containers, &new.containers);
    if let (Some(containers), Some(new)) = (&mut pod.init_containers, &new.init_containers) {
        take_resources(containers, new);
    }
    allowed
}

fn take_resources(containers: &mut [Container], new: &[Container]) {
    if containers.len() != new.len() {
        return;
    }
    for (container, new) in containers.iter_mut().zip(new) {
        if container.name == new.name {
            container.resources.clone_from(&new.resources);
        }
    }
}

/// Advice about a job or the jobs of a cron job.
pub(super) fn spec_warnings(
    spec: &JobSpec,
    old: Option<&JobSpec>,
    path: &Path<'_>,
    warnings: &mut Vec<String>,
) {
    if spec.completion_mode.as_deref() == Some(INDEXED)
        && spec.completions.is_some_and(|c| c > COMPLETIONS_SOFT_LIMIT)
        && spec.parallelism.is_some_and(|p| p > PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS)
    {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher \
             than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes \
             fail"
        ));
    }
    checks::pod_template_warnings(
        &spec.template,
        old.map(|o| &o.template),
        &path.child("template"),
        warnings,
    );
}
