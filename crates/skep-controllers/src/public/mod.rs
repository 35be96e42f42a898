//! Public addresses: which pod or node each leads to, and those that services of the type LoadBalancer are reached at.
//!
//! Two controllers. The one gives each service an address: a `PublicIP`, so that it counts, costs and is found like one that a tenant
//! made. The other says of each `PublicIP` where it leads: to a pod's node, or to one of the nodes that serve a service. Hosts and nodes
//! do the rest by what its status says, and need not know services.

mod addresses;
mod plan;
mod services;
mod views;

use std::sync::Arc;

use crate::{Controller, Setup};

/// Makes the controllers.
pub(crate) fn new(setup: &mut Setup) -> Vec<Arc<dyn Controller>> {
    vec![addresses::new(setup), services::new(setup)]
}
