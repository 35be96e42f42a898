//! Reviews: resources that answer a question and store nothing.

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::LocalSubjectAccessReview;
use k8s_openapi::api::core::v1::Binding;
use serde::Serialize;
use skep_api::Errors;
use skep_auth::authorize::Target;
use skep_auth::review::review_self;

use crate::body::Body;
use crate::rest::sub::{self, read_body};
use crate::rest::{Call, write};
use crate::status::ApiError;

/// Answers a request on a kind that is not stored.
///
/// # Errors
/// 400 and 422 for questions that make no sense.
pub async fn answer(call: &Call, body: &Bytes) -> Result<Response<Body>, ApiError> {
    // Decoding by the kind checks types, unknown fields and defaults; the answer is made from the same bytes.
    write::decode(call, body)?;
    match call.path.resource.as_str() {
        "bindings" => {
            let binding: Binding = read_body(call, body, "Binding")?;
            let name = binding.metadata.name.clone().unwrap_or_default();
            let binding = sub::admitted(call, &name, binding)?;
            sub::bind(call, &name, binding).await
        }
        "tokenreviews" => {
            let review: TokenReview = read_body(call, body, "TokenReview")?;
            let answer = call
                .app
                .authenticator
                .review(call.tenant()?, &review, call.app.as_ref(), call.now)
                .ok_or_else(|| {
                    ApiError::bad_request("token is required for TokenReview in authentication")
                })?;
            created(call, &answer)
        }
        "selfsubjectreviews" => created(call, &review_self(&call.caller.identity, call.now)),
        "selfsubjectaccessreviews" => {
            let review = read_body(call, body, "SelfSubjectAccessReview")?;
            let target = call.tenant.as_ref().map_or(Target::AllTenants, Target::Tenant);
            let answer = call.app.authorizer.review_own_access(&call.caller.identity, target, &review);
            created(call, &answer.map_err(|e| invalid("SelfSubjectAccessReview", e))?)
        }
        "subjectaccessreviews" => {
            let review = read_body(call, body, "SubjectAccessReview")?;
            let answer = call.app.authorizer.review_subject_access(call.tenant()?, &review);
            created(call, &answer.map_err(|e| invalid("SubjectAccessReview", e))?)
        }
        "localsubjectaccessreviews" => {
            let mut review: LocalSubjectAccessReview = read_body(call, body, "LocalSubjectAccessReview")?;
            review.metadata.namespace.get_or_insert_with(|| call.path.namespace.clone());
            let answer = call.app.authorizer.review_local_subject_access(call.tenant()?, &review);
            created(call, &answer.map_err(|e| invalid("LocalSubjectAccessReview", e))?)
        }
        "selfsubjectrulesreviews" => {
            let review = read_body(call, body, "SelfSubjectRulesReview")?;
            let answer = call
                .app
                .authorizer
                .review_own_rules(&call.caller.identity, call.tenant()?, &review)
                .ok_or_else(|| ApiError::bad_request("no namespace on request"))?;
            created(call, &answer)
        }
        other => Err(ApiError::internal(format_args!("{other} is neither stored nor answered"))),
    }
}

fn invalid(kind: &str, errors: Errors) -> ApiError {
    ApiError::invalid("authorization.k8s.io", kind, "", errors)
}

fn created(call: &Call, answer: &impl Serialize) -> Result<Response<Body>, ApiError> {
    let json = serde_json::to_vec(answer).map_err(ApiError::internal)?;
    let output = call.output()?;
    call.respond(201, output.content_type(), Body::Full(output.encode(json)?))
}
