//! Eviction: the body of a request to delete a pod if its disruption budget allows.

use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;

use crate::field::{Errors, Path};

/// Why an eviction is refused before any budget is looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvictionError {
    /// The body is for another pod than the request.
    #[error("name in URL does not match name in Eviction object")]
    Name,
    /// The body asks for what a delete may ask, but not an eviction.
    #[error("{0}")]
    Invalid(Errors),
    /// Body and request disagree about whether this is a dry run.
    #[error("Non-matching dry-run options in request and content: [{request}] and [{content}]")]
    DryRun {
        /// What the request says.
        request: String,
        /// What the body says.
        content: String,
    },
}

/// Checks an eviction of a pod and gives the options with which the pod is deleted.
///
/// # Errors
/// [`EvictionError`] when the body does not fit the request.
pub fn eviction_options(
    eviction: &Eviction,
    pod_name: &str,
    dry_run: &[String],
) -> Result<DeleteOptions, EvictionError> {
    if eviction.metadata.name.as_deref().unwrap_or_default() != pod_name {
        return Err(EvictionError::Name);
    }
    let mut options = eviction.delete_options.clone().unwrap_or_default();
    if options.ignore_store_read_error_with_cluster_breaking_potential == Some(true) {
        let mut errors = Errors::new();
        let path = Path::root("deleteOptions");
        let path = path.child("ignoreStoreReadErrorWithClusterBreakingPotential");
        let detail = "can not be set for pod eviction, try after removing the option";
        errors.invalid(&path, true, detail);
        return Err(EvictionError::Invalid(errors));
    }
    let content = options.dry_run.as_deref().unwrap_or_default();
    if content.is_empty() {
        options.dry_run = (!dry_run.is_empty()).then(|| dry_run.to_vec());
    } else if !dry_run.is_empty() && content != dry_run {
        return Err(EvictionError::DryRun { request: dry_run.join(" "), content: content.join(" ") });
    }
    Ok(options)
}
