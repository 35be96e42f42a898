//! CSIDriver.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, TokenRequest};

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// The shortest time between two looks at how many volumes a node can have.
const MIN_ALLOCATABLE_UPDATE_PERIOD_S: i64 = 10;
/// The shortest life of a token.
const MIN_TOKEN_LIFE_S: i64 = 600;
/// The longest life of a token.
const MAX_TOKEN_LIFE_S: i64 = 1 << 32;

const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLE_MODES: &[&str] = &["Persistent", "Ephemeral"];

impl Kind for CSIDriver {
    fn info() -> KindInfo {
        KindInfo::of::<CSIDriver>().conditional_update_only()
    }

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.attach_required.get_or_insert(true);
        spec.pod_info_on_mount.get_or_insert(false);
        spec.storage_capacity.get_or_insert(false);
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
        spec.requires_republish.get_or_insert(false);
        spec.se_linux_mount.get_or_insert(false);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        // Served only behind a switch that is off upstream.
        self.spec.prevent_pod_scheduling_if_missing = None;
    }

    fn prepare_update(&mut self, old: &Self, _: &Context<'_>) {
        if old.spec.prevent_pod_scheduling_if_missing.is_none() {
            self.spec.prevent_pod_scheduling_if_missing = None;
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_spec(&self.spec, &Path::root("spec"), errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        self.validate(cx, errors);
        let path = Path::root("spec");
        let (new, old) = (&self.spec, &old.spec);
        // Clients know the field by this name.
        checks::immutable(
            &new.attach_required,
            &old.attach_required,
            &path.child("attachedRequired"),
            errors,
        );
        let modes_path = path.child("volumeLifecycleModes");
        checks::immutable(&new.volume_lifecycle_modes, &old.volume_lifecycle_modes, &modes_path, errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        // A new driver has no generation; the first change gives it one.
        old.map(|old| !meta::same(&self.spec, &old.spec))
    }

    fn warnings(&self, old: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let requests = self.spec.token_requests.as_deref().unwrap_or_default();
        let changed = old.is_none_or(|old| !meta::same(&self.spec.token_requests, &old.spec.token_requests));
        if requests.is_empty() || !changed || self.spec.service_account_token_in_secrets.is_some() {
            return Vec::new();
        }
        vec![
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to \
             prevent possible logging of tokens in volume attributes"
                .to_owned(),
        ]
    }

    fn columns() -> Vec<Column> {
        let flag = |name, description| Column { ty: "boolean", ..Column::string(name, description) };
        vec![
            Column::NAME,
            flag("AttachRequired", "Whether volumes are attached before they are mounted."),
            flag("PodInfoOnMount", "Whether mounts are told about the pod."),
            flag("StorageCapacity", "Whether the driver publishes capacities."),
            Column::string("TokenRequests", "The audiences of tokens that mounts get."),
            flag("RequiresRepublish", "Whether mounts are repeated."),
            Column::string("Modes", "The life cycles of volumes."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = &self.spec;
        let tokens = spec.token_requests.as_ref().map_or_else(
            || "<unset>".to_owned(),
            |list| list.iter().map(|t| t.audience.as_str()).collect::<Vec<_>>().join(","),
        );
        let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default().join(",");
        let modes = if modes.is_empty() { "<none>".to_owned() } else { modes };
        vec![
            meta::name_cell(&self.metadata),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or_default().into(),
            spec.storage_capacity.unwrap_or_default().into(),
            tokens.into(),
            spec.requires_republish.unwrap_or_default().into(),
            modes.into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn validate_spec(spec: &CSIDriverSpec, path: &Path<'_>, errors: &mut Errors) {
    let flags = [
        ("attachedRequired", spec.attach_required),
        ("podInfoOnMount", spec.pod_info_on_mount),
        ("storageCapacity", spec.storage_capacity),
    ];
    for (name, flag) in flags {
        if flag.is_none() {
            errors.required(&path.child(name), "");
        }
    }
    if let Some(policy) = spec.fs_group_policy.as_deref()
        && !GROUP_POLICIES.contains(&policy)
    {
        errors.not_supported(&path.child("fsGroupPolicy"), policy, GROUP_POLICIES);
    }
    let requests = spec.token_requests.as_deref().unwrap_or_default();
    validate_token_requests(requests, &path.child("tokenRequests"), errors);
    for mode in spec.volume_lifecycle_modes.iter().flatten() {
        if !LIFECYCLE_MODES.contains(&mode.as_str()) {
            errors.not_supported(&path.child("volumeLifecycleModes"), mode, LIFECYCLE_MODES);
        }
    }
    if spec.se_linux_mount.is_none() {
        errors.required(&path.child("seLinuxMount"), "");
    }
    if let Some(period_s) = spec.node_allocatable_update_period_seconds
        && period_s < MIN_ALLOCATABLE_UPDATE_PERIOD_S
    {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&path, period_s, "must be greater than or equal to 10 seconds");
    }
    if let Some(in_secrets) = spec.service_account_token_in_secrets
        && requests.is_empty()
    {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets, detail);
    }
}

fn validate_token_requests(requests: &[TokenRequest], path: &Path<'_>, errors: &mut Errors) {
    let mut audiences = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = path.index(i);
        if !audiences.insert(&request.audience) {
            errors.duplicate(&path.child("audience"), &request.audience);
            continue;
        }
        let Some(life_s) = request.expiration_seconds else { continue };
        let path = path.child("expirationSeconds");
        if life_s < MIN_TOKEN_LIFE_S {
            errors.invalid(&path, life_s, "may not specify a duration less than 10 minutes");
        }
        if life_s > MAX_TOKEN_LIFE_S {
            errors.invalid(&path, life_s, "may not specify a duration larger than 2^32 seconds");
        }
    }
}
