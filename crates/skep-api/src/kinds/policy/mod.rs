//! The `policy` group.

mod eviction;
mod pod_disruption_budget;
#[cfg(test)]
mod tests;

pub use eviction::{EvictionError, eviction_options};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<PodDisruptionBudget>();
}
