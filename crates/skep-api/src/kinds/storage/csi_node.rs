//! CSINode.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};
use serde_json::json;

use crate::context::Context;
use crate::field::{Bare, Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::kinds::checks;
use crate::meta;
use crate::table::{Cell, Column};

/// The longest name that a driver has for a node, as the CSI specification has it.
const NODE_ID_MAX_BYTES: usize = 256;

impl Kind for CSINode {
    fn info() -> KindInfo {
        KindInfo::of::<CSINode>().conditional_update_only()
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let spec = Path::root("spec");
        let path = spec.child("drivers");
        let mut names = BTreeSet::new();
        for (i, driver) in self.spec.drivers.iter().enumerate() {
            let path = path.index(i);
            let duplicate = !names.insert(driver.name.as_str());
            validate_driver(driver, duplicate, &path, errors);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        self.validate(cx, errors);
        let spec = Path::root("spec");
        for old in &old.spec.drivers {
            for new in self.spec.drivers.iter().filter(|new| new.name == old.name) {
                // How many volumes fit may change, nothing else.
                let topology = meta::same(&new.topology_keys, &old.topology_keys);
                if new.node_id != old.node_id || !topology {
                    let shown = json!({
                        "Name": new.name,
                        "NodeID": new.node_id,
                        "TopologyKeys": new.topology_keys,
                        "Allocatable": null,
                    });
                    errors.invalid(&spec.child("drivers"), Bare(&shown.to_string()), checks::IMMUTABLE);
                }
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::integer("Drivers", "How many drivers run on the node."), Column::AGE]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.spec.drivers.len().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}

fn validate_driver(driver: &CSINodeDriver, duplicate: bool, path: &Path<'_>, errors: &mut Errors) {
    checks::csi_driver_name(&driver.name, &path.child("name"), errors);
    let id_path = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.required(&id_path, "");
    }
    if driver.node_id.len() > NODE_ID_MAX_BYTES {
        let detail = format!("must be {NODE_ID_MAX_BYTES} characters or less");
        errors.invalid(&id_path, &driver.node_id, &detail);
    }
    let allocatable = path.child("allocatable");
    let count = driver.allocatable.as_ref().and_then(|a| a.count);
    checks::nonnegative_if_set(count, &allocatable.child("count"), errors);
    if duplicate {
        errors.duplicate(&path.child("name"), &driver.name);
    }
    let mut keys = BTreeSet::new();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !keys.insert(key) {
            errors.duplicate(path, key);
        }
        meta::validate_qualified_name(key, path, errors);
    }
}
