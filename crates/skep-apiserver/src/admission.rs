//! Admission: what may be written, beyond what is valid; and what it costs of quotas.

use skep_api::Object;
use skep_base::TenantName;
use skep_store::{Changes, CommitError, Op};
use smallvec::SmallVec;

use crate::app::App;
use crate::rest::admit::{Operation, Review};
use crate::status::{About, ApiError};

/// How a write changes quotas.
#[derive(Clone, Debug, Default)]
pub struct Charges {}

impl Charges {
    /// Whether no quota is concerned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }
}

/// Changes an object before it is checked.
///
/// # Errors
/// What is refused.
pub fn mutate(review: &Review<'_>, object: &mut dyn Object) -> Result<(), ApiError> {
    let _ = object;
    namespace_exists(review)
}

/// Refuses what may not be written.
///
/// # Errors
/// What is refused.
pub fn validate(review: &Review<'_>, object: Option<&dyn Object>) -> Result<(), ApiError> {
    let _ = (review, object);
    Ok(())
}

/// What a write costs.
///
/// # Errors
/// What is refused.
pub fn charges(review: &Review<'_>, object: Option<&dyn Object>) -> Result<Charges, ApiError> {
    let _ = (review, object);
    Ok(Charges::default())
}

/// Commits with quotas settled in the same transaction.
///
/// # Errors
/// What a quota refuses.
pub async fn commit_charged(
    app: &App,
    tenant: &TenantName,
    ops: SmallVec<[Op; 1]>,
    charges: Charges,
) -> Result<Result<Changes, CommitError>, ApiError> {
    let _ = (tenant, charges);
    Ok(app.objects.store().commit(skep_store::Txn(ops)).await)
}

fn namespace_exists(review: &Review<'_>) -> Result<(), ApiError> {
    if review.operation != Operation::Create || review.namespace.is_empty() {
        return Ok(());
    }
    let key = skep_base::Key::new(
        skep_base::GroupResource::new("", "namespaces"),
        review.tenant.clone(),
        "",
        review.namespace,
    );
    match review.app.objects.get(&key) {
        None => Err(ApiError::not_found(About { group: "", resource: "namespaces", name: review.namespace })),
        Some(_) => Ok(()),
    }
}
