//! The `autoscaling` group. Autoscalers are stored as v2; v1 says less and carries the rest in annotations.

mod metrics;
#[cfg(test)]
mod tests;
mod v1;
mod v1_annotations;
mod v2;
mod validation;

use k8s_openapi::api::autoscaling::v1::{HorizontalPodAutoscaler as HpaV1, Scale};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use crate::field::{Errors, Path};
use crate::kinds::checks;
use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<HorizontalPodAutoscaler>();
    registry.add_converted::<HpaV1, HorizontalPodAutoscaler>();
}

/// Checks the body of a write to a `scale` subresource; its metadata is that of the scaled object.
pub fn validate_scale(scale: &Scale, errors: &mut Errors) {
    let replicas = scale.spec.as_ref().and_then(|s| s.replicas);
    let spec = Path::root("spec");
    checks::nonnegative_if_set(replicas, &spec.child("replicas"), errors);
}
