//! The registrations, a module per API group.

pub mod apps;
pub mod batch;
mod checks;
pub mod core;
#[cfg(test)]
mod testing;

use crate::registry::Registry;

/// Registers every built-in kind. The order is the order of discovery.
pub(crate) fn register(registry: &mut Registry) {
    core::register(registry);
    apps::register(registry);
    batch::register(registry);
}
