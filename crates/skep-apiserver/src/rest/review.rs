//! Reviews: resources that answer a question and store nothing.

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceRule, ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview,
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use skep_api::{Errors, Path, UserInfo};
use skep_auth::attributes::Attributes;
use skep_auth::authn::api_user;
use skep_auth::authorize::Target;
use skep_auth::rbac::Decision;

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
    let object = write::decode(call, body)?;
    match call.path.resource.as_str() {
        "bindings" => {
            let binding: Binding = read_body(call, body, "Binding")?;
            let name = binding.metadata.name.clone().unwrap_or_default();
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
        "selfsubjectreviews" => {
            let mut review: SelfSubjectReview = read_body(call, body, "SelfSubjectReview")?;
            review.metadata.creation_timestamp = Some(Time(call.now));
            review.status = Some(SelfSubjectReviewStatus { user_info: Some(api_user(call.user())) });
            created(call, &review)
        }
        "selfsubjectaccessreviews" => {
            let mut review: SelfSubjectAccessReview = read_body(call, body, "SelfSubjectAccessReview")?;
            let spec = SubjectAccessReviewSpec {
                resource_attributes: review.spec.resource_attributes.clone(),
                non_resource_attributes: review.spec.non_resource_attributes.clone(),
                ..SubjectAccessReviewSpec::default()
            };
            let user = call.user().clone();
            review.status = Some(decide(call, &spec, &user, "SelfSubjectAccessReview")?);
            created(call, &review)
        }
        "subjectaccessreviews" => {
            let mut review: SubjectAccessReview = read_body(call, body, "SubjectAccessReview")?;
            let user = user_of(&review.spec);
            review.status = Some(decide(call, &review.spec, &user, "SubjectAccessReview")?);
            created(call, &review)
        }
        "localsubjectaccessreviews" => {
            let mut review: LocalSubjectAccessReview = read_body(call, body, "LocalSubjectAccessReview")?;
            let named =
                review.spec.resource_attributes.as_ref().and_then(|a| a.namespace.as_deref()).unwrap_or("");
            if named != call.path.namespace {
                return Err(ApiError::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {}",
                    call.path.namespace
                )));
            }
            let user = user_of(&review.spec);
            review.status = Some(decide(call, &review.spec, &user, "LocalSubjectAccessReview")?);
            created(call, &review)
        }
        "selfsubjectrulesreviews" => {
            let mut review: SelfSubjectRulesReview = read_body(call, body, "SelfSubjectRulesReview")?;
            let namespace = review.spec.namespace.clone().unwrap_or_default();
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            review.status = Some(rules(call, &namespace)?);
            created(call, &review)
        }
        other => {
            let _ = object;
            Err(ApiError::internal(format_args!("{other} is neither stored nor answered")))
        }
    }
}

fn created(call: &Call, answer: &impl Serialize) -> Result<Response<Body>, ApiError> {
    let json = serde_json::to_vec(answer).map_err(ApiError::internal)?;
    let output = call.output()?;
    call.respond(201, output.content_type(), Body::Full(output.encode(json)?))
}

fn user_of(spec: &SubjectAccessReviewSpec) -> UserInfo {
    UserInfo {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    }
}

fn decide(
    call: &Call,
    spec: &SubjectAccessReviewSpec,
    user: &UserInfo,
    kind: &str,
) -> Result<SubjectAccessReviewStatus, ApiError> {
    let path = Path::root("spec");
    let mut errors = Errors::new();
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(_)) => {
            errors.invalid(
                &path.child("nonResourceAttributes"),
                "",
                "cannot be specified in combination with resourceAttributes",
            );
        }
        (None, None) => {
            errors.invalid(
                &path.child("resourceAttributes"),
                "",
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
        }
        _ => {}
    }
    if kind != "SelfSubjectAccessReview" && user.name.is_empty() && user.groups.is_empty() {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("authorization.k8s.io", kind, "", errors));
    }
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let decision = if let Some(r) = &spec.resource_attributes {
        let (verb, group, resource) = (text(&r.verb), text(&r.group), text(&r.resource));
        let (namespace, name, sub) = (text(&r.namespace), text(&r.name), text(&r.subresource));
        let attributes = Attributes::resource(user, &verb, &group, &resource)
            .in_namespace(&namespace)
            .named(&name)
            .subresource(&sub);
        ask(call, &attributes)
    } else {
        let n = spec.non_resource_attributes.clone().unwrap_or_default();
        let (verb, path) = (text(&n.verb), text(&n.path));
        ask(call, &Attributes::path(user, &verb, &path))
    };
    Ok(SubjectAccessReviewStatus {
        allowed: decision.is_allowed(),
        reason: Some(decision.reason().to_string()).filter(|r| !r.is_empty()),
        ..SubjectAccessReviewStatus::default()
    })
}

/// A review is about the tenant that it is made in: a user name means that tenant's user.
fn ask(call: &Call, attributes: &Attributes<'_>) -> Decision {
    match &call.tenant {
        Some(tenant) if call.caller.home() == tenant || !std::ptr::eq(attributes.user, call.user()) => {
            call.app.authorizer.authorize(tenant, Target::Tenant(tenant), attributes)
        }
        tenant => crate::auth::decide(&call.app, &call.caller, tenant.as_ref(), attributes),
    }
}

fn rules(call: &Call, namespace: &str) -> Result<SubjectRulesReviewStatus, ApiError> {
    let found = call.app.authorizer.rbac.rules_for(call.tenant()?, call.user(), namespace);
    let mut status = SubjectRulesReviewStatus {
        evaluation_error: (!found.missing.is_empty()).then(|| found.missing.join(", ")),
        ..SubjectRulesReviewStatus::default()
    };
    if call.caller.identity.is_master() {
        let all = || Some(vec!["*".to_owned()]);
        status.resource_rules.push(ResourceRule {
            api_groups: all(),
            resources: all(),
            verbs: vec!["*".to_owned()],
            resource_names: None,
        });
        status
            .non_resource_rules
            .push(NonResourceRule { non_resource_urls: all(), verbs: vec!["*".to_owned()] });
    }
    for rule in found.rules {
        if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
            status.resource_rules.push(ResourceRule {
                api_groups: rule.api_groups.clone(),
                resources: rule.resources.clone(),
                resource_names: rule.resource_names.clone(),
                verbs: rule.verbs.clone(),
            });
        }
        if rule.non_resource_urls.as_ref().is_some_and(|r| !r.is_empty()) {
            status
                .non_resource_rules
                .push(NonResourceRule { non_resource_urls: rule.non_resource_urls, verbs: rule.verbs });
        }
    }
    Ok(status)
}
