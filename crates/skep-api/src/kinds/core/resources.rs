//! Names and amounts of resources (cpu, memory, counts of objects), as quotas, limit ranges, nodes and
//! containers have them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::field::{Errors, Path};
use crate::meta;

const REQUESTS: &str = "requests.";
/// Where resources without a domain live.
const NATIVE_DOMAIN: &str = "kubernetes.io/";

/// Counts of objects: whole numbers only.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// A list of amounts, as everywhere in the API.
pub(crate) type ResourceList = BTreeMap<String, Text>;

fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains(NATIVE_DOMAIN)
}

/// Something that a device plugin or an operator added: `example.com/gpu`.
fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with(REQUESTS)
        && skep_base::label::is_key(&format!("{REQUESTS}{resource}"))
}

/// An amount of a resource: not negative, and whole where the resource is counted.
pub(super) fn validate_quantity(resource: &str, text: &Text, path: &Path<'_>, errors: &mut Errors) {
    let Some(quantity) = meta::parse_quantity(text, path, errors) else { return };
    if quantity.signum() < 0 {
        errors.invalid(path, &text.0, "must be greater than or equal to 0");
    }
    let counted = COUNTED.contains(&resource) || is_extended(resource);
    if counted && quantity.milli_value() % 1000 != 0 {
        errors.invalid(path, &text.0, "must be an integer");
    }
}

/// Writes every amount the one way it is shown, rounded up to thousandths. What does not parse stays, for
/// validation to complain about; an empty list is no list.
pub(crate) fn canonicalize(list: &mut Option<ResourceList>) {
    list.take_if(|l| l.is_empty());
    if let Some(list) = list {
        meta::canonical_resources_milli(list);
    }
}
