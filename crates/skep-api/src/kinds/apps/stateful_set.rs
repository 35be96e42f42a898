//! StatefulSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetStatus,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume,
};
use serde_json::json;
use std::borrow::Cow;

use super::DEFAULT_REVISION_HISTORY_LIMIT;
use crate::context::Context;
use crate::field::{Bare, Errors, Json, Path};
use crate::kind::{Kind, KindInfo, NameRule, ScaleView, Subresource};
use crate::kinds::checks;
use crate::kinds::core::persistent_volume_claim;
use crate::meta;
use crate::table::{Cell, Column};

const ORDERED_READY: &str = "OrderedReady";
const PARALLEL: &str = "Parallel";
const ROLLING_UPDATE: &str = "RollingUpdate";
const ON_DELETE: &str = "OnDelete";
const RETAIN: &str = "Retain";
const DELETE: &str = "Delete";

impl Kind for StatefulSet {
    fn info() -> KindInfo {
        KindInfo::of::<StatefulSet>()
            .short("sts")
            .category("all")
            .names(NameRule::Label)
            .sub(Subresource::SCALE)
            .status()
    }

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_text(&mut spec.pod_management_policy, ORDERED_READY);
        let strategy = spec.update_strategy.get_or_insert_default();
        if strategy.type_.as_deref().unwrap_or_default().is_empty() {
            strategy.type_ = Some(ROLLING_UPDATE.to_owned());
            strategy.rolling_update.get_or_insert_default();
        }
        if strategy.type_.as_deref() == Some(ROLLING_UPDATE)
            && let Some(rolling) = &mut strategy.rolling_update
        {
            rolling.partition.get_or_insert(0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        default_text(&mut retention.when_deleted, RETAIN);
        default_text(&mut retention.when_scaled, RETAIN);
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(DEFAULT_REVISION_HISTORY_LIMIT);
        checks::default_pod_template(&mut spec.template);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            persistent_volume_claim::default_claim(claim);
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(StatefulSetStatus::default());
        drop_max_unavailable(self, None);
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
            drop_max_unavailable(self, Some(old));
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        match &self.spec {
            Some(spec) => validate_spec(spec, Leniency::default(), &Path::root("spec"), errors),
            None => errors.required(&Path::root("spec"), ""),
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            validate_status(self.status.as_ref(), old.status.as_ref(), &Path::root("status"), errors);
            return;
        }
        let (Some(spec), Some(old)) = (&self.spec, &old.spec) else {
            self.validate(cx, errors);
            return;
        };
        let path = Path::root("spec");
        let mut lenient = Leniency { service_name: true, claims: true, template: false };
        // What was stored before a rule became stricter can still be changed.
        let mut old_errors = Errors::new();
        validate_spec(old, lenient, &path, &mut old_errors);
        lenient.template = !old_errors.is_empty();
        validate_spec(spec, lenient, &path, errors);
        if !only_mutable_fields_differ(spec, old) {
            errors.forbidden(
                &path,
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            );
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(spec) = self.spec.as_ref().filter(|_| !cx.is_status()) else { return warnings };
        let path = Path::root("spec");
        if self.generation_changed(old) == Some(true) {
            let old_template = old.and_then(|o| o.spec.as_ref()).map(|s| &s.template);
            let path = path.child("template");
            checks::pod_template_warnings(&spec.template, old_template, &path, &mut warnings);
        }
        let claims = path.child("volumeClaimTemplates");
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let claim_path = claims.index(i);
            let update_path = claim_path.child("Spec");
            let path = if old.is_some() { &update_path } else { &claim_path };
            if let Some(spec) = &claim.spec {
                persistent_volume_claim::claim_warnings(spec, path, &mut warnings);
            }
        }
        if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
            warnings.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; \
                 a value >= 0 is recommended"
                    .to_owned(),
            );
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Ready", "Pods that are ready, of those wanted."),
            Column::AGE,
            checks::CONTAINERS,
            checks::IMAGES,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let ready = self.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or_default();
        let wanted = spec.and_then(|s| s.replicas).unwrap_or_default();
        let [names, images] = checks::container_cells(spec.map(|s| &s.template));
        vec![
            meta::name_cell(&self.metadata),
            format!("{ready}/{wanted}").into(),
            meta::age_cell(&self.metadata, now),
            names,
            images,
        ]
    }

    fn scale(&self) -> Option<ScaleView> {
        let spec = self.spec.as_ref();
        Some(ScaleView {
            spec_replicas: spec.and_then(|s| s.replicas).unwrap_or_default(),
            status_replicas: self.status.as_ref().map_or(0, |s| s.replicas),
            selector: spec.and_then(|s| checks::selector_text(&s.selector)).unwrap_or_default(),
        })
    }

    fn set_scale(&mut self, replicas: i32) {
        self.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn default_text(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

/// `maxUnavailable` is a field that upstream serves only behind a switch that is off: it goes unless it is
/// in use already.
fn drop_max_unavailable(new: &mut StatefulSet, old: Option<&StatefulSet>) {
    let in_use = |s: &StatefulSet| {
        let strategy = s.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        strategy.and_then(|s| s.rolling_update.as_ref()).is_some_and(|r| r.max_unavailable.is_some())
    };
    if old.is_some_and(in_use) {
        return;
    }
    let strategy = new.spec.as_mut().and_then(|s| s.update_strategy.as_mut());
    if let Some(rolling) = strategy.and_then(|s| s.rolling_update.as_mut()) {
        rolling.max_unavailable = None;
    }
}

/// What an update does not check again, because it cannot change or was wrong before.
#[derive(Clone, Copy, Default)]
struct Leniency {
    service_name: bool,
    claims: bool,
    template: bool,
}

fn only_mutable_fields_differ(new: &StatefulSetSpec, old: &StatefulSetSpec) -> bool {
    new.pod_management_policy == old.pod_management_policy
        && new.service_name.as_deref().unwrap_or_default() == old.service_name.as_deref().unwrap_or_default()
        && meta::same(&new.selector, &old.selector)
        && meta::same(&new.volume_claim_templates, &old.volume_claim_templates)
}

fn validate_spec(spec: &StatefulSetSpec, lenient: Leniency, path: &Path<'_>, errors: &mut Errors) {
    match spec.pod_management_policy.as_deref().unwrap_or_default() {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        ORDERED_READY | PARALLEL => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(&path.child("podManagementPolicy"), other, detail);
        }
    }
    validate_update_strategy(spec.update_strategy.as_ref(), &path.child("updateStrategy"), errors);
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (name, value) in
            [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)]
        {
            let value = value.as_deref().unwrap_or_default();
            if value != RETAIN && value != DELETE {
                errors.not_supported(&path.child(name), value, &[RETAIN, DELETE]);
            }
        }
    }
    if !lenient.claims {
        let path = path.child("volumeClaimTemplates");
        let no_spec = PersistentVolumeClaimSpec::default();
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let path = path.index(i);
            let path = path.child("spec");
            persistent_volume_claim::validate_claim_spec(
                claim.spec.as_ref().unwrap_or(&no_spec),
                &path,
                errors,
            );
        }
    }
    checks::nonnegative_if_set(spec.replicas, &path.child("replicas"), errors);
    checks::nonnegative_if_set(spec.min_ready_seconds, &path.child("minReadySeconds"), errors);
    if let Some(ordinals) = &spec.ordinals {
        checks::nonnegative_if_set(ordinals.start, &path.child("ordinals.start"), errors);
    }
    let service_name = spec.service_name.as_deref().unwrap_or_default();
    if !lenient.service_name && !service_name.is_empty() {
        let path = path.child("serviceName");
        for problem in meta::dns1123_label_errors(service_name) {
            errors.invalid(&path, service_name, &problem);
        }
    }
    checks::required_selector(&spec.selector, "statefulset", &path.child("selector"), errors);
    let template_path = path.child("template");
    if !checks::template_labels_selected(&spec.selector, &spec.template, &template_path, errors) {
        let shown = checks::selector_shown(&spec.selector);
        errors.invalid(&path.child("selector"), Bare(&shown), "");
    } else if !lenient.template {
        checks::validate_pod_template(&template_as_run(spec), &template_path, errors);
    }
    checks::always_running(&spec.template, "StatefulSet", &template_path, errors);
}

/// The template as pods will have it: host name and subdomain are the controller's, and each claim template
/// is a volume.
fn template_as_run(spec: &StatefulSetSpec) -> Cow<'_, PodTemplateSpec> {
    let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let Some(pod) = &spec.template.spec else { return Cow::Borrowed(&spec.template) };
    if claims.is_empty() && pod.subdomain.is_none() && pod.hostname.is_none() {
        return Cow::Borrowed(&spec.template);
    }
    let mut template = spec.template.clone();
    if let Some(pod) = &mut template.spec {
        pod.subdomain = None;
        pod.hostname = None;
        let mut volumes: Vec<Volume> = Vec::with_capacity(claims.len());
        for claim in claims {
            let name = claim.metadata.name.clone().unwrap_or_default();
            if volumes.iter().all(|v| v.name != name) {
                let source =
                    PersistentVolumeClaimVolumeSource { claim_name: name.clone(), ..Default::default() };
                volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Default::default() });
            }
        }
        let of_claims = volumes.len();
        for volume in pod.volumes.take().into_iter().flatten() {
            if volumes[..of_claims].iter().all(|v| v.name != volume.name) {
                volumes.push(volume);
            }
        }
        pod.volumes = Some(volumes);
    }
    Cow::Owned(template)
}

fn shown_rolling(rolling: &RollingUpdateStatefulSetStrategy) -> serde_json::Value {
    json!({
        "Partition": rolling.partition.unwrap_or_default(),
        "MaxUnavailable": rolling.max_unavailable,
    })
}

fn validate_update_strategy(
    strategy: Option<&StatefulSetUpdateStrategy>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let rolling_path = path.child("rollingUpdate");
    match strategy.and_then(|s| s.type_.as_deref()).unwrap_or_default() {
        "" => errors.required(path, ""),
        ON_DELETE => {
            if let Some(rolling) = rolling {
                let shown = shown_rolling(rolling).to_string();
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&rolling_path, Bare(&shown), detail);
            }
        }
        ROLLING_UPDATE => {
            if let Some(rolling) = rolling {
                validate_rolling(rolling, &rolling_path, errors);
            }
        }
        other => {
            let shown = json!({ "Type": other, "RollingUpdate": rolling.map(shown_rolling) }).to_string();
            errors.invalid(path, Bare(&shown), "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn validate_rolling(rolling: &RollingUpdateStatefulSetStrategy, path: &Path<'_>, errors: &mut Errors) {
    checks::nonnegative_if_set(rolling.partition, &path.child("partition"), errors);
    if let Some(unavailable) = &rolling.max_unavailable {
        let path = path.child("maxUnavailable");
        checks::int_or_percent(unavailable, &path, errors);
        if checks::int_or_percent_value(unavailable) == 0 {
            errors.invalid(&path, Json(unavailable), "cannot be 0");
        }
        checks::at_most_100_percent(unavailable, &path, errors);
    }
}

fn validate_status(
    new: Option<&StatefulSetStatus>,
    old: Option<&StatefulSetStatus>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let none = StatefulSetStatus::default();
    let (new, old) = (new.unwrap_or(&none), old.unwrap_or(&none));
    checks::nonnegative(new.replicas, &path.child("replicas"), errors);
    checks::nonnegative_if_set(new.ready_replicas, &path.child("readyReplicas"), errors);
    checks::nonnegative_if_set(new.current_replicas, &path.child("currentReplicas"), errors);
    checks::nonnegative_if_set(new.updated_replicas, &path.child("updatedReplicas"), errors);
    checks::nonnegative_if_set(new.available_replicas, &path.child("availableReplicas"), errors);
    checks::nonnegative_if_set(new.observed_generation, &path.child("observedGeneration"), errors);
    checks::nonnegative_if_set(new.collision_count, &path.child("collisionCount"), errors);
    let counts = [
        ("readyReplicas", new.ready_replicas),
        ("currentReplicas", new.current_replicas),
        ("updatedReplicas", new.updated_replicas),
        ("availableReplicas", new.available_replicas),
    ];
    for (name, count) in counts {
        let count = count.unwrap_or_default();
        if count > new.replicas {
            errors.invalid(&path.child(name), count, "cannot be greater than status.replicas");
        }
    }
    let available = new.available_replicas.unwrap_or_default();
    if available > new.ready_replicas.unwrap_or_default() {
        let detail = "cannot be greater than status.readyReplicas";
        errors.invalid(&path.child("availableReplicas"), available, detail);
    }
    checks::not_decremented(new.collision_count, old.collision_count, &path.child("collisionCount"), errors);
}
