//! NamespaceLifecycle: nothing is written into namespaces that are missing or on their way out, and the
//! namespaces that everything relies on stay.

use crate::refusal::{Cause, Refusal};
use crate::review::{NAMESPACES, Operation, Review};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Runs before everything else, on every operation.
pub(crate) fn admit(review: &Review<'_>) -> Result<(), Refusal> {
    if review.is("", "namespaces") {
        if review.operation == Operation::Delete && IMMORTAL.contains(&review.name) {
            return Err(review.forbid("this namespace may not be deleted"));
        }
        return Ok(());
    }
    // Deleting is always possible, and access reviews must not tell which namespaces exist.
    if review.namespace.is_empty()
        || matches!(review.operation, Operation::Delete | Operation::Connect)
        || review.is("authorization.k8s.io", "localsubjectaccessreviews")
    {
        return Ok(());
    }
    let Some(phase) = review.lookup.field(&NAMESPACES, "", review.namespace, "status.phase") else {
        return Err(Refusal::not_found("", "namespaces", review.namespace));
    };
    if review.operation == Operation::Create && phase == "Terminating" {
        let namespace = review.namespace;
        let mut refusal = review.forbid(format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        ));
        refusal.details.causes.push(Cause {
            reason: "NamespaceTerminating",
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        return Err(refusal);
    }
    Ok(())
}
