//! `coordination.k8s.io/v1`: Lease.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use skep_base::label;

use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::registry::Registry;
use crate::table::{Cell, Column};

pub(super) fn register(registry: &mut Registry) {
    registry.add::<Lease>();
}

impl Kind for Lease {
    fn info() -> KindInfo {
        KindInfo::of::<Lease>().create_on_update().conditional_update_only()
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        // Coordinated leader election is off by default in 1.36.
        if let Some(spec) = &mut self.spec {
            spec.strategy = None;
            spec.preferred_holder = None;
        }
    }

    fn prepare_update(&mut self, old: &Self, _: &Context<'_>) {
        let Some(spec) = &mut self.spec else { return };
        let old = old.spec.as_ref();
        if old.is_none_or(|o| o.strategy.is_none()) {
            spec.strategy = None;
        }
        if old.is_none_or(|o| o.preferred_holder.is_none()) {
            spec.preferred_holder = None;
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::root("spec"), errors);
        }
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::string("Holder", "Who holds the lease."), Column::AGE]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let holder = self.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        vec![meta::name_cell(&self.metadata), holder.into(), meta::age_cell(&self.metadata, now)]
    }
}

fn validate_spec(spec: &LeaseSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(seconds) = spec.lease_duration_seconds {
        meta::validate_positive(seconds.into(), &path.child("leaseDurationSeconds"), errors);
    }
    if let Some(transitions) = spec.lease_transitions {
        meta::validate_nonnegative(transitions.into(), &path.child("leaseTransitions"), errors);
    }
    if let Some(strategy) = &spec.strategy {
        // The repetition of the name is upstream's.
        let path = path.child("strategy");
        let path = path.child("strategy");
        if strategy.contains('/') {
            for message in label::key_errors(strategy) {
                errors.invalid(&path, strategy, &message);
            }
        } else if strategy != "OldestEmulationVersion" {
            errors.not_supported(&path, strategy, &["OldestEmulationVersion"]);
        }
    }
    let filled = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    if filled(&spec.preferred_holder) && !filled(&spec.strategy) {
        errors.forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tables::{check_create, check_update, object, row, with_context};
    use serde_json::json;

    #[test]
    fn validation() {
        let good = json!({
            "metadata": {"name": "l", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 0,
                     "renewTime": "2020-01-01T00:00:00.123456Z"},
        });
        let table = [
            (json!({"spec": null}), ""),
            (
                json!({"spec": {"leaseDurationSeconds": 0}}),
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                json!({"spec": {"leaseTransitions": -1}}),
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ),
            (json!({"spec": {"strategy": "OldestEmulationVersion", "preferredHolder": "x"}}), ""),
            (json!({"spec": {"strategy": "a.b/c"}}), ""),
            (
                json!({"spec": {"strategy": "x"}}),
                r#"spec.strategy.strategy: Unsupported value: "x": supported values: "OldestEmulationVersion""#,
            ),
            (
                json!({"spec": {"strategy": "x/y/z"}}),
                r#"spec.strategy.strategy: Invalid value: "x/y/z": a valid label key"#,
            ),
            (
                json!({"spec": {"preferredHolder": "x"}}),
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ),
        ];
        check_create::<Lease>(&good, &table);
        check_update::<Lease>(&good, "", &table);
        assert_eq!(row::<Lease>(&good), json!(["l", "me", "60s"]));
        assert_eq!(row::<Lease>(&json!({})), json!(["", "", "<unknown>"]));
        let info = Lease::info();
        assert!(info.create_on_update && !info.unconditional_update);
    }

    #[test]
    fn coordinated_election_is_off_but_kept_where_it_was_on() {
        let new: Lease = object(&json!({"spec": {"strategy": "a.b/c", "preferredHolder": "x"}}));
        let plain: Lease = object(&json!({"spec": {}}));
        with_context("", |cx| {
            let mut created = new.clone();
            created.prepare_create(cx);
            assert_eq!(created, plain);
            let mut updated = new.clone();
            updated.prepare_update(&plain, cx);
            assert_eq!(updated, plain);
            let mut kept = new.clone();
            kept.prepare_update(&new, cx);
            assert_eq!(kept, new);
        });
    }
}
