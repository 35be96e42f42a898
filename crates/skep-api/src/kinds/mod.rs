//! The registrations, a module per API group.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
mod checks;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
mod reviews;
pub mod scheduling;
pub mod storage;
#[cfg(test)]
pub(crate) mod tables;
#[cfg(test)]
mod testing;
mod webhook;

use crate::registry::Registry;

/// Registers every built-in kind. The order is the order of discovery: upstream's groups by their
/// priority there (`apiVersionPriorities` of its aggregator), then Skep's own.
pub(crate) fn register(registry: &mut Registry) {
    core::register(registry);
    reviews::register(registry);
    apps::register(registry);
    events::register(registry);
    autoscaling::register(registry);
    batch::register(registry);
    certificates::register(registry);
    networking::register(registry);
    policy::register(registry);
    rbac::register(registry);
    storage::register(registry);
    admissionregistration::register(registry);
    apiextensions::register(registry);
    scheduling::register(registry);
    coordination::register(registry);
    node::register(registry);
    discovery::register(registry);
    flowcontrol::register(registry);
    crate::tenancy::register(registry);
    crate::compute::register(registry);
    crate::network::register(registry);
    crate::metrics::register(registry);
}
