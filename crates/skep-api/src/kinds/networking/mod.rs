//! `networking.k8s.io/v1`: IngressClass, NetworkPolicy.

mod ingress_class;
mod network_policy;

use k8s_openapi::api::networking::v1::{IngressClass, NetworkPolicy};

use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<IngressClass>();
    registry.add::<NetworkPolicy>();
}
