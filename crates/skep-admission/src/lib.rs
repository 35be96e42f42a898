//! Built-in admission: the checks and changes that every write passes between decoding and the store, and
//! what it costs in quota.
//!
//! **Job.** [`mutate`] changes a new or changed object (service-account token, priority, default classes and
//! tolerations, limits), [`validate`] refuses what may not be (missing namespaces, pod security, nodes beyond
//! their rights), [`charges`] and [`settle`] keep quotas exact.
//! **State it owns.** None. **Tasks it runs.** None.
//! **Must not know.** HTTP, the store, the clock, randomness: other objects come through [`Lookup`], the rest
//! through [`Review`].
//!
//! The plugins, their order and their messages are those that upstream 1.36 turns on by default, and
//! NodeRestriction.

mod amounts;
mod body;
mod certificates;
mod compute;
#[cfg(test)]
mod compute_tests;
mod ingress;
mod limit_ranger;
#[cfg(test)]
mod limit_ranger_tests;
mod namespace;
#[cfg(test)]
mod namespace_tests;
mod network;
mod node_restriction;
#[cfg(test)]
mod node_restriction_tests;
#[cfg(test)]
mod plugin_tests;
mod pod_security;
mod pods;
mod priority;
mod quota;
mod refusal;
mod resize;
mod review;
mod runtime_class;
mod service_account;
#[cfg(test)]
mod service_account_tests;
mod storage;
mod taints;
#[cfg(test)]
mod testing;
mod topology;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Binding, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use skep_api::Object;
use skep_api::compute::{Machine, NodePool};
use skep_api::network::Port;

pub use body::Body;
pub use quota::{
    Account, Charges, Recount, TenantUsage, TenantUsageSpec, TenantUsageStatus, charges, may_be_charged,
    settle,
};
pub use refusal::{Cause, Details, Refusal};
pub use review::{Attributes, Lookup, Operation, Review, Stored};

/// Changes an object that is about to be created or updated; before it is prepared and validated.
///
/// The body of a subresource that is not the object itself (`Binding`, `Eviction`, `TokenRequest`) is handed
/// over in a [`Body`], with the kind and name of the object that it is about, the subresource's name and
/// [`Operation::Create`].
///
/// # Errors
/// When a plugin refuses the write.
pub fn mutate(review: &Review<'_>, object: &mut dyn Object) -> Result<(), Refusal> {
    namespace::admit(review)?;
    compute::admit(review, Some(object))?;
    network::admit(review, Some(object))?;
    let any = object.as_any_mut();
    if let Some(pod) = any.downcast_mut::<Pod>() {
        limit_ranger::mutate_pod(review, pod)?;
        service_account::mutate(review, pod)?;
    }
    node_restriction::admit(review, Some(object))?;
    let any = object.as_any_mut();
    if let Some(pod) = any.downcast_mut::<Pod>() {
        priority::mutate_pod(review, pod)?;
        taints::set_tolerations(review, pod);
        network::place(review, pod)?;
        runtime_class::mutate(review, pod)?;
        topology::mutate_pod(review, pod)?;
    } else if let Some(node) = any.downcast_mut::<Node>() {
        taints::taint(review, node);
    } else if let Some(pool) = any.downcast_mut::<NodePool>() {
        network::keep_others_away(pool.spec.node_labels.as_ref(), &mut pool.spec.taints);
    } else if let Some(machine) = any.downcast_mut::<Machine>() {
        network::keep_others_away(machine.spec.node_labels.as_ref(), &mut machine.spec.taints);
    } else if let Some(port) = any.downcast_mut::<Port>() {
        network::describe(review, port)?;
    } else if let Some(claim) = any.downcast_mut::<PersistentVolumeClaim>() {
        storage::set_class(review, claim)?;
        storage::protect(review, &mut claim.metadata, storage::CLAIM_FINALIZER);
    } else if let Some(volume) = any.downcast_mut::<PersistentVolume>() {
        storage::protect(review, &mut volume.metadata, storage::VOLUME_FINALIZER);
    } else if let Some(class) = any.downcast_mut::<VolumeAttributesClass>() {
        storage::protect(review, &mut class.metadata, storage::ATTRIBUTES_CLASS_FINALIZER);
    } else if let Some(ingress) = any.downcast_mut::<Ingress>() {
        ingress::set_class(review, ingress)?;
    } else if let Some(binding) = any.downcast_mut::<Binding>() {
        topology::mutate_binding(review, binding)?;
    }
    Ok(())
}

/// Checks an object as it will be stored; `None` when it is deleted. After preparation and validation.
///
/// # Errors
/// When a plugin refuses the write.
pub fn validate(review: &Review<'_>, object: Option<&dyn Object>) -> Result<(), Refusal> {
    let Some(object) = object else {
        namespace::admit(review)?;
        compute::admit(review, None)?;
        network::admit(review, None)?;
        priority::admit_removal(review)?;
        return node_restriction::admit(review, None);
    };
    let any = object.as_any();
    if let Some(pod) = any.downcast_ref::<Pod>() {
        limit_ranger::validate_pod(review, pod)?;
        service_account::validate(review, pod)?;
        pod_security::validate(review, any)?;
        runtime_class::validate(review, pod)?;
        resize::validate(review, pod)?;
    } else if let Some(claim) = any.downcast_ref::<PersistentVolumeClaim>() {
        limit_ranger::validate_claim(review, claim)?;
        storage::validate_resize(review, claim)?;
    } else if let Some(class) = any.downcast_ref::<PriorityClass>() {
        priority::validate_class(review, class)?;
    } else if let Some(request) = any.downcast_ref::<CertificateSigningRequest>() {
        certificates::validate(review, request)?;
    } else {
        pod_security::validate(review, any)?;
    }
    Ok(())
}
