//! `admissionregistration.k8s.io/v1`: webhooks and policies of admission.
//!
//! Objects are stored and checked as upstream checks them, with one exception: expressions must be there,
//! but are not compiled. Nothing calls webhooks or evaluates policies yet.

mod policies;
mod rules;
mod webhooks;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};

use crate::registry::Registry;

/// What these kinds are together on the command line: `kubectl get api-extensions`.
pub(super) const CATEGORY: &str = "api-extensions";

pub(super) fn register(registry: &mut Registry) {
    registry.add::<MutatingAdmissionPolicy>();
    registry.add::<MutatingAdmissionPolicyBinding>();
    registry.add::<MutatingWebhookConfiguration>();
    registry.add::<ValidatingAdmissionPolicy>();
    registry.add::<ValidatingAdmissionPolicyBinding>();
    registry.add::<ValidatingWebhookConfiguration>();
}

/// Advice against a name that will be reserved for configuration from files.
fn name_warnings(name: Option<&str>) -> Vec<String> {
    const RESERVED: &str = ".static.k8s.io";
    match name {
        Some(name) if name.ends_with(RESERVED) => vec![format!(
            "metadata.name: names ending with {RESERVED:?} are reserved for static manifest-based configurations \
             and cannot be managed via the API"
        )],
        _ => Vec::new(),
    }
}
