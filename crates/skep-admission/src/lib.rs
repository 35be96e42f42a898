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
mod namespace;
#[cfg(test)]
mod namespace_tests;
mod pods;
mod quota;
mod refusal;
mod review;
mod service_account;
#[cfg(test)]
mod service_account_tests;
#[cfg(test)]
mod testing;

use k8s_openapi::api::core::v1::Pod;
use skep_api::Object;

pub use quota::{
    Account, Charges, Recount, TenantUsage, TenantUsageSpec, TenantUsageStatus, charges, settle,
};
pub use refusal::{Cause, Details, Refusal};
pub use review::{Attributes, Lookup, Operation, Review, Stored};

/// Changes an object that is about to be created or updated; before it is prepared and validated.
///
/// # Errors
/// When a plugin refuses the write.
pub fn mutate(review: &Review<'_>, object: &mut dyn Object) -> Result<(), Refusal> {
    namespace::admit(review)?;
    let object = object.as_any_mut();
    if let Some(pod) = object.downcast_mut::<Pod>() {
        service_account::mutate(review, pod)?;
    }
    Ok(())
}

/// Checks an object as it will be stored; `None` when it is deleted. After preparation and validation.
///
/// # Errors
/// When a plugin refuses the write.
pub fn validate(review: &Review<'_>, object: Option<&dyn Object>) -> Result<(), Refusal> {
    let Some(object) = object else {
        return namespace::admit(review);
    };
    let object = object.as_any();
    if let Some(pod) = object.downcast_ref::<Pod>() {
        service_account::validate(review, pod)?;
    }
    Ok(())
}
