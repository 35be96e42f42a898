//! Names and amounts of resources (cpu, memory, counts of objects), as quotas, limit ranges, nodes and
//! containers have them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skep_base::Quantity;

use crate::field::{Errors, Path};
use crate::meta;

const HUGE_PAGES: &str = "hugepages-";
const REQUESTS_HUGE_PAGES: &str = "requests.hugepages-";
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

/// What a quota may limit besides [`COUNTED`] and huge pages.
const QUOTA_AMOUNTS: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// A list of amounts, as everywhere in the API.
pub(crate) type ResourceList = BTreeMap<String, Text>;

pub(super) fn is_quota_resource(resource: &str) -> bool {
    COUNTED.contains(&resource)
        || QUOTA_AMOUNTS.contains(&resource)
        || resource.starts_with(HUGE_PAGES)
        || resource.starts_with(REQUESTS_HUGE_PAGES)
}

fn is_standard(resource: &str) -> bool {
    resource == "storage" || is_quota_resource(resource)
}

/// Of Kubernetes itself rather than of some vendor.
pub(super) fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains(NATIVE_DOMAIN)
}

/// Something that a device plugin or an operator added: `example.com/gpu`.
fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with(REQUESTS)
        && skep_base::label::is_key(&format!("{REQUESTS}{resource}"))
}

/// Whether containers may ask for less than they may use.
pub(super) fn may_overcommit(resource: &str) -> bool {
    is_native(resource) && !resource.starts_with(HUGE_PAGES)
}

/// A resource by its own name or with a domain. Says whether it is one.
pub(super) fn validate_name(resource: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let before = errors.len();
    meta::validate_qualified_name(resource, path, errors);
    if errors.len() == before && !resource.contains('/') && !is_standard(resource) {
        errors.invalid(path, resource, "must be a standard resource type or fully qualified");
    }
    errors.len() == before
}

/// A resource that a container may ask for.
pub(super) fn validate_container_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    validate_name(resource, path, errors);
    if !resource.contains('/') {
        let standard = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
        if !standard && !resource.starts_with(HUGE_PAGES) {
            errors.invalid(path, resource, "must be a standard resource for containers");
        }
    } else if !is_native(resource) && !is_extended(resource) {
        errors.invalid(path, resource, "doesn't follow extended resource name standard");
    }
}

/// A resource that a quota may limit.
pub(super) fn validate_quota_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    validate_name(resource, path, errors);
    if !resource.contains('/') && !is_quota_resource(resource) {
        errors.invalid(path, resource, "must be a standard resource for quota");
    }
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

/// The amount of a resource in a list; zero when it is not there or does not parse.
pub(super) fn amount(list: Option<&ResourceList>, resource: &str) -> Quantity {
    list.and_then(|l| l.get(resource)).and_then(|t| t.0.parse().ok()).unwrap_or_default()
}
