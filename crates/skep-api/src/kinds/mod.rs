//! The registrations, a module per API group.

pub mod core;

use crate::registry::Registry;

/// Registers every built-in kind. The order is the order of discovery.
pub(crate) fn register(registry: &mut Registry) {
    core::register(registry);
}
