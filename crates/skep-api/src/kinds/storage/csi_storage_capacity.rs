//! CSIStorageCapacity.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;

use crate::context::Context;
use crate::field::{Bare, Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::kinds::core::node_labels::deprecated_label;
use crate::meta;
use crate::table::{Cell, Column};

impl Kind for CSIStorageCapacity {
    fn info() -> KindInfo {
        KindInfo::of::<CSIStorageCapacity>().conditional_update_only()
    }

    fn set_defaults(&mut self) {
        self.capacity.iter_mut().chain(&mut self.maximum_volume_size).for_each(meta::canonical_quantity);
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        if let Some(topology) = &self.node_topology {
            checks::validate_label_selector(topology, &Path::root("nodeTopology"), errors);
        }
        for message in meta::dns1123_subdomain_errors(&self.storage_class_name) {
            errors.invalid(&Path::root("storageClassName"), &self.storage_class_name, &message);
        }
        if let Some(capacity) = &self.capacity {
            checks::nonnegative_quantity(capacity, &Path::root("capacity"), errors);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        self.validate(cx, errors);
        if !meta::same(&self.node_topology, &old.node_topology) {
            let shown = self.node_topology.as_ref().map_or_else(|| "null".to_owned(), checks::selector_shown);
            errors.invalid(&Path::root("nodeTopology"), Bare(&shown), checks::IMMUTABLE);
        }
        if self.storage_class_name != old.storage_class_name {
            errors.invalid(&Path::root("storageClassName"), &self.storage_class_name, checks::IMMUTABLE);
        }
    }

    fn warnings(&self, _: Option<&Self>, _: &Context<'_>) -> Vec<String> {
        let Some(topology) = &self.node_topology else { return Vec::new() };
        let mut warnings = Vec::new();
        for (i, expression) in topology.match_expressions.iter().flatten().enumerate() {
            let key = &expression.key;
            if let Some(advice) = deprecated_label(key) {
                warnings.push(format!("nodeTopology.matchExpressions[{i}].key: {key} is {advice}"));
            }
        }
        for key in topology.match_labels.iter().flatten().map(|(key, _)| key) {
            if let Some(advice) = deprecated_label(key) {
                warnings.push(format!("nodeTopology.matchLabels.{key}: {advice}"));
            }
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("StorageClassName", "The class of the storage."),
            Column::string("Capacity", "How much of it is left."),
        ]
    }

    fn row(&self, _: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.storage_class_name.as_str().into(),
            self.capacity.as_ref().map_or("<unset>", |c| c.0.as_str()).into(),
        ]
    }
}
