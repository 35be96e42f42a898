//! `authentication.k8s.io/v1` and `authorization.k8s.io/v1`: questions that are answered by creating them.
//! What they mean, and what is wrong with one, is the API server's business: nothing is stored.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};

use crate::context::Context;
use crate::field::Errors;
use crate::kind::{Kind, KindInfo};
use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<TokenReview>();
    registry.add::<SelfSubjectReview>();
    registry.add::<SubjectAccessReview>();
    registry.add::<SelfSubjectAccessReview>();
    registry.add::<LocalSubjectAccessReview>();
    registry.add::<SelfSubjectRulesReview>();
}

macro_rules! questions {
    ($($kind:ty),*) => {$(
        impl Kind for $kind {
            fn info() -> KindInfo {
                KindInfo::of_unlisted::<$kind>()
            }

            fn validate(&self, _: &Context<'_>, _: &mut Errors) {}
        }
    )*};
}

questions!(
    TokenReview,
    SelfSubjectReview,
    SubjectAccessReview,
    SelfSubjectAccessReview,
    LocalSubjectAccessReview,
    SelfSubjectRulesReview
);
