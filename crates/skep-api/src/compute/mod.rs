//! `compute.skep.io/v1`: what containers run on.
//!
//! A [`Host`] is a physical computer and a [`Flavor`] a size that machines come in: both are the operator's, and
//! exist in the system tenant only. A [`Machine`] belongs to a tenant and is a node of its cluster; it is placed on
//! a host by the machine scheduler and made there by the host's daemon. Tenants read their machines and never write
//! them: what they say is in a [`NodePool`], which is how many machines of which flavours there may be.
//!
//! A machine never moves: `spec.hostName` is given once. A machine that is lost with its host is deleted, and
//! another one takes its place.

mod flavor;
mod host;
mod machine;
mod node_pool;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use flavor::{Flavor, FlavorSpec, FlavorStatus, default_flavors};
pub use host::{Host, HostAddress, HostInfo, HostSpec, HostStatus};
pub use machine::{HOST_FINALIZER, Machine, MachinePhase, MachineSpec, MachineStatus};
pub use node_pool::{
    DEFAULT_EMPTY_DELAY_S, DEFAULT_POOL, NodePool, NodePoolSpec, NodePoolStatus, default_node_pool,
};

use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::Registry;

/// The group of machines and what they are made of.
pub const GROUP: &str = "compute.skep.io";

/// The resources that hosts have, and machines take.
pub const RESOURCES: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
/// Of these a flavour must say something: nothing runs without.
const NEEDED: [&str; 2] = ["cpu", "memory"];

pub(crate) fn register(registry: &mut Registry) {
    registry.add::<Host>();
    registry.add::<Flavor>();
    registry.add::<Machine>();
    registry.add::<NodePool>();
}

/// What keeps a machine apart from the others on its host.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "io.skep.compute.v1.Isolation")]
pub enum Isolation {
    /// Namespaces and a control group on the host's kernel: for development and for tenants who are trusted.
    #[default]
    Process,
    /// A virtual machine with a kernel of its own.
    Vm,
}

impl Isolation {
    /// As written in objects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Isolation::Process => "process",
            Isolation::Vm => "vm",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Amounts of known resources, none negative.
fn validate_resources(
    resources: &BTreeMap<String, Quantity>,
    needed: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for name in needed {
        if !resources.contains_key(*name) {
            errors.required(&path.key(name), "");
        }
    }
    for (name, quantity) in resources {
        let path = path.key(name);
        if !RESOURCES.contains(&name.as_str()) {
            errors.not_supported(&path, name, &RESOURCES);
            continue;
        }
        let Some(amount) = meta::parse_quantity(quantity, &path, errors) else { continue };
        if needed.contains(&name.as_str()) && amount.signum() <= 0 {
            errors.invalid(&path, &quantity.0, "must be greater than 0");
        } else if amount.signum() < 0 {
            errors.invalid(&path, &quantity.0, "must be greater than or equal to 0");
        }
    }
}

/// The name of another object of this group; empty only where that means something.
fn validate_reference(name: &str, path: &Path<'_>, errors: &mut Errors) {
    for message in meta::dns1123_subdomain_errors(name) {
        errors.invalid(path, name, &message);
    }
}

/// The shortest form of an amount for a column; nothing for what is not given.
fn amount_cell(resources: &BTreeMap<String, Quantity>, name: &str) -> crate::Cell {
    resources.get(name).map(|q| q.0.clone()).unwrap_or_default().into()
}
