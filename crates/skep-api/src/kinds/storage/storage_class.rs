//! StorageClass.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;

use super::{validate_parameters, validate_provisioner};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::kinds::core::node_labels::deprecated_label;
use crate::meta;
use crate::table::{Cell, Column};

const DEFAULT_MARKS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const DELETE: &str = "Delete";
const RETAIN: &str = "Retain";
const IMMEDIATE: &str = "Immediate";
const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";

impl Kind for StorageClass {
    fn info() -> KindInfo {
        KindInfo::of::<StorageClass>().short("sc")
    }

    fn set_defaults(&mut self) {
        self.reclaim_policy.get_or_insert_with(|| DELETE.to_owned());
        self.volume_binding_mode.get_or_insert_with(|| IMMEDIATE.to_owned());
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_provisioner(&self.provisioner, &Path::root("provisioner"), errors);
        validate_parameters(self.parameters.as_ref(), true, &Path::root("parameters"), errors);
        if let Some(policy) = self.reclaim_policy.as_deref()
            && !matches!(policy, "" | DELETE | RETAIN)
        {
            errors.not_supported(&Path::root("reclaimPolicy"), policy, &[DELETE, RETAIN]);
        }
        let mode_path = Path::root("volumeBindingMode");
        match self.volume_binding_mode.as_deref() {
            None => errors.required(&mode_path, ""),
            Some(IMMEDIATE | WAIT_FOR_FIRST_CONSUMER) => {}
            Some(other) => errors.not_supported(&mode_path, other, &[IMMEDIATE, WAIT_FOR_FIRST_CONSUMER]),
        }
        let topologies = self.allowed_topologies.as_deref().unwrap_or_default();
        validate_topologies(topologies, &Path::root("allowedTopologies"), errors);
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        self.validate(cx, errors);
        checks::immutable(&self.parameters, &old.parameters, &Path::root("parameters"), errors);
        checks::immutable(&self.provisioner, &old.provisioner, &Path::root("provisioner"), errors);
        checks::immutable(&self.reclaim_policy, &old.reclaim_policy, &Path::root("reclaimPolicy"), errors);
        let mode_path = Path::root("volumeBindingMode");
        checks::immutable(&self.volume_binding_mode, &old.volume_binding_mode, &mode_path, errors);
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (i, term) in self.allowed_topologies.iter().flatten().enumerate() {
            for (j, expression) in term.match_label_expressions.iter().flatten().enumerate() {
                if let Some(advice) = deprecated_label(&expression.key) {
                    warnings.push(format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {advice}"));
                }
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Provisioner", "Who makes the volumes."),
            Column::string("ReclaimPolicy", "What becomes of a volume whose claim is gone."),
            Column::string("VolumeBindingMode", "When a volume is made and bound."),
            Column::string("AllowVolumeExpansion", "Whether volumes can grow."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let mut name = self.metadata.name.clone().unwrap_or_default();
        let annotations = self.metadata.annotations.as_ref();
        let marked = |key: &&str| annotations.and_then(|a| a.get(*key)).is_some_and(|v| v == "true");
        if DEFAULT_MARKS.iter().any(marked) {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            self.provisioner.as_str().into(),
            self.reclaim_policy.as_deref().unwrap_or(DELETE).into(),
            self.volume_binding_mode.as_deref().unwrap_or(IMMEDIATE).into(),
            self.allow_volume_expansion.unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn validate_topologies(terms: &[TopologySelectorTerm], path: &Path<'_>, errors: &mut Errors) {
    let mut before: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::with_capacity(terms.len());
    for (i, term) in terms.iter().enumerate() {
        let term_path = path.index(i);
        let list_path = term_path.child("matchLabelExpressions");
        let mut by_key: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (j, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = list_path.index(j);
            let values_path = path.child("values");
            if requirement.values.is_empty() {
                errors.required(&values_path, "");
            }
            let mut values = BTreeSet::new();
            for (k, value) in requirement.values.iter().enumerate() {
                if !values.insert(value.as_str()) {
                    errors.duplicate(&values_path.index(k), value);
                }
            }
            meta::validate_qualified_name(&requirement.key, &path.child("key"), errors);
            if by_key.insert(&requirement.key, values).is_some() {
                errors.duplicate(&path.child("key"), &requirement.key);
            }
        }
        // Upstream compares with as many empty terms as there are terms, so that one without
        // requirements is always a duplicate.
        let duplicates = before.iter().filter(|b| **b == by_key).count();
        let empty = if by_key.is_empty() { terms.len() } else { 0 };
        for _ in 0..duplicates + empty {
            errors.duplicate(&list_path, "");
        }
        before.push(by_key);
    }
}
