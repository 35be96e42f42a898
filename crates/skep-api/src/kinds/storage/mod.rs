//! The `storage.k8s.io` group.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
#[cfg(test)]
mod tests;
mod volume_attachment;
mod volume_attributes_class;

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1;

use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<v1::CSIDriver>();
    registry.add::<v1::CSINode>();
    registry.add::<v1::CSIStorageCapacity>();
    registry.add::<v1::StorageClass>();
    registry.add::<v1::VolumeAttachment>();
    registry.add::<v1::VolumeAttributesClass>();
}

/// The most parameters of a class.
const MAX_PARAMETERS: usize = 512;
/// Keys and values of the parameters of a class together: they travel in every call to a driver.
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;

/// The name of who provides volumes, in any case.
fn validate_provisioner(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    meta::validate_qualified_name(&name.to_lowercase(), path, errors);
}

fn validate_parameters(
    parameters: Option<&BTreeMap<String, String>>,
    may_be_empty: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let count = parameters.map_or(0, BTreeMap::len);
    if count > MAX_PARAMETERS {
        errors.too_long(path, MAX_PARAMETERS);
        return;
    }
    let mut total_bytes = 0;
    for (key, value) in parameters.into_iter().flatten() {
        if key.is_empty() {
            errors.invalid(path, key, "field can not be empty.");
        }
        total_bytes += key.len() + value.len();
    }
    if total_bytes > PARAMETERS_MAX_BYTES {
        errors.too_long(path, PARAMETERS_MAX_BYTES);
    }
    if !may_be_empty && count == 0 {
        errors.required(path, "must contain at least one key/value pair");
    }
}
