//! `network.skep.io/v1`: what connects containers.
//!
//! A [`Network`] is a layer 2 of a tenant's own; its [`Subnet`]s say which addresses there are, and a [`Port`] is one
//! interface with its addresses: a pod's, or a machine's. [`SecurityGroup`]s say whom a port may talk to, a
//! [`QosPolicy`] how fast. A [`PublicPool`] holds addresses of the outside world, and is the operator's; a
//! [`PublicIP`] is one of them, in a tenant's hands.
//!
//! Numbers and addresses that may exist only once (a network's number in the cloud, an address in its network) are
//! given by the API server in the transaction that writes the object; the rules of what may be given are here.

mod addresses;
mod layer2;
mod port;
mod public;
mod qos;
mod security_group;
mod subnet;
#[cfg(test)]
mod tests;

pub use addresses::{AddressRange, BadRange, Candidates, parse_range, port_mac};
pub use layer2::{Network, NetworkSpec, NetworkStatus};
pub use port::{AllowedPair, Port, PortQos, PortSpec, PortStatus};
pub use public::{
    PublicIP, PublicIpFamily, PublicIpPhase, PublicIpSpec, PublicIpStatus, PublicPool, PublicPoolSpec,
    PublicPoolStatus, PublicPort,
};
pub use qos::{QosPolicy, QosPolicySpec, QosPolicyStatus, QosRate};
pub use security_group::{
    PortRange, Protocol, SecurityGroup, SecurityGroupRule, SecurityGroupSpec, SecurityGroupStatus,
};
pub use subnet::{Subnet, SubnetSpec, SubnetStatus};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{Errors, Path};
use crate::meta;
use crate::registry::Registry;

/// The group of networks.
pub const GROUP: &str = "network.skep.io";
/// The network that every tenant has from the start, and its subnet: where pods are that name no other.
pub const DEFAULT_NETWORK: &str = "default";
/// The addresses of the default subnet. 262,000 are four times the pods of the largest tenant, so that a random
/// address is mostly free; they lie apart from the services' 10.96.0.0/16. Tenants' networks are apart, so they all
/// have the same.
pub const DEFAULT_CIDR: &str = "10.64.0.0/14";
/// The number of a network is 24 bits long on the wire; the lowest are left to the operator's own use.
pub const VNI_RANGE: std::ops::RangeInclusive<i64> = 4096..=16_777_215;
/// Largest packet inside a network when nothing is said: 1500 of the network below, less 50 that VXLAN adds.
pub const DEFAULT_MTU: i32 = 1450;
/// IPv6 needs at least this.
const MIN_MTU: i64 = 1280;
/// Jumbo frames of 9216 below, less what VXLAN adds over IPv6.
const MAX_MTU: i64 = 9146;

pub(crate) fn register(registry: &mut Registry) {
    registry.add::<Network>();
    registry.add::<Subnet>();
    registry.add::<Port>();
    registry.add::<SecurityGroup>();
    registry.add::<QosPolicy>();
    registry.add::<PublicPool>();
    registry.add::<PublicIP>();
}

/// The default subnet of every tenant.
#[must_use]
pub fn default_subnet() -> Subnet {
    Subnet {
        metadata: ObjectMeta { name: Some(DEFAULT_NETWORK.to_owned()), ..ObjectMeta::default() },
        spec: SubnetSpec {
            network_name: DEFAULT_NETWORK.to_owned(),
            cidr: DEFAULT_CIDR.to_owned(),
            ..SubnetSpec::default()
        },
        status: None,
    }
}

/// The name of another object.
fn validate_reference(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    for message in meta::dns1123_subdomain_errors(name) {
        errors.invalid(path, name, &message);
    }
}

/// The strategy that most kinds here share: a write to `status` keeps the rest, a write of the rest keeps the status.
macro_rules! split_status {
    () => {
        fn prepare_create(&mut self, _: &$crate::Context<'_>) {
            self.status = None;
        }

        fn prepare_update(&mut self, old: &Self, cx: &$crate::Context<'_>) {
            if cx.is_status() {
                $crate::meta::keep_metadata(&mut self.metadata, &old.metadata);
                self.spec.clone_from(&old.spec);
            } else {
                self.status.clone_from(&old.status);
            }
        }

        fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
            Some(old.is_none_or(|old| !$crate::meta::same(&self.spec, &old.spec)))
        }
    };
}

use split_status;
