//! The core group, `v1`.

mod component_status;
mod config_map;
mod endpoints;
mod go_diff;
mod limit_range;
pub mod namespace;
mod node;
pub(crate) mod node_labels;
mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
mod replication_controller;
mod resource_quota;
pub(crate) mod resources;
mod secret;
pub mod service;
mod service_account;
pub(crate) mod shared;
#[cfg(test)]
mod testing;

use k8s_openapi::api::core::v1;

use crate::kind::{Subresource, Verb};
use crate::registry::Registry;

/// Proxies pass any method on; watches and lists are gets.
const PROXY_VERBS: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];

/// The `proxy` subresource, whose options are of this kind.
const fn proxy(options: &'static str) -> Subresource {
    Subresource { name: "proxy", group: "", version: "v1", kind: options, verbs: PROXY_VERBS }
}

pub(super) fn register(registry: &mut Registry) {
    registry.add::<pod::Binding>();
    registry.add::<v1::ComponentStatus>();
    registry.add::<v1::ConfigMap>();
    registry.add::<v1::Endpoints>();
    super::events::register_core(registry);
    registry.add::<v1::LimitRange>();
    registry.add::<v1::Namespace>();
    registry.add::<v1::Node>();
    registry.add::<v1::PersistentVolume>();
    registry.add::<v1::PersistentVolumeClaim>();
    registry.add::<v1::Pod>();
    registry.add::<v1::PodTemplate>();
    registry.add::<v1::ReplicationController>();
    registry.add::<v1::ResourceQuota>();
    registry.add::<v1::Secret>();
    registry.add::<v1::Service>();
    registry.add::<v1::ServiceAccount>();
}
