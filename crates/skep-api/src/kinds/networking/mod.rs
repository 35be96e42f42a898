//! `networking.k8s.io/v1`: Ingress, IngressClass, IPAddress, NetworkPolicy, ServiceCIDR.

mod addresses;
mod ingress;
mod ingress_class;
mod network_policy;

use k8s_openapi::api::networking::v1::{IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR};

use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<IngressClass>();
    registry.add::<Ingress>();
    registry.add::<IPAddress>();
    registry.add::<NetworkPolicy>();
    registry.add::<ServiceCIDR>();
}
