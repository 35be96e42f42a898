//! The `certificates.k8s.io` group.

mod pem;
mod signing_request;
#[cfg(test)]
mod tests;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<CertificateSigningRequest>();
}
