//! The access reviews: asking what somebody may do.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus};
use k8s_openapi::api::authorization::v1::{
    FieldSelectorAttributes, LabelSelectorAttributes, LocalSubjectAccessReview, NonResourceAttributes,
    NonResourceRule, ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview,
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelectorRequirement, ObjectMeta, Time};
use skep_api::field::Json;
use skep_api::{Errors, Path, UserInfo};
use skep_base::selector::{Operator, Requirement};
use skep_base::{FieldSelector, LabelSelector, TenantName};

use crate::attributes::{Attributes, FieldRequirement};
use crate::authn::api_user;
use crate::authorize::{Authorizer, Target};
use crate::identity::Identity;
use crate::node::node_of;
use crate::rbac::{Decision, RbacIndex};

/// The resource or the path that a review asks about.
#[derive(Clone, Copy)]
struct Asked<'a> {
    resource: Option<&'a ResourceAttributes>,
    path: Option<&'a NonResourceAttributes>,
}

fn text(s: &Option<String>) -> &str {
    s.as_deref().unwrap_or_default()
}

impl Authorizer {
    /// Answers a SubjectAccessReview of a tenant, about a user of that tenant.
    ///
    /// # Errors
    /// What is wrong with the review: 422.
    pub fn review_subject_access(
        &self,
        tenant: &TenantName,
        review: &SubjectAccessReview,
    ) -> Result<SubjectAccessReview, Errors> {
        let mut errors = validate_spec(&review.spec);
        validate_metadata(&review.metadata, "", "must be empty", &mut errors);
        into_result(errors)?;
        let status =
            self.evaluate(tenant, Target::Tenant(tenant), &spec_user(&review.spec), asked(&review.spec));
        Ok(SubjectAccessReview { status: Some(status), ..review.clone() })
    }

    /// Answers a LocalSubjectAccessReview in the namespace of its metadata.
    ///
    /// # Errors
    /// What is wrong with the review: 422.
    pub fn review_local_subject_access(
        &self,
        tenant: &TenantName,
        review: &LocalSubjectAccessReview,
    ) -> Result<LocalSubjectAccessReview, Errors> {
        let mut errors = validate_spec(&review.spec);
        let namespace = text(&review.metadata.namespace);
        validate_metadata(&review.metadata, namespace, "must be empty except for namespace", &mut errors);
        if let Some(r) = &review.spec.resource_attributes
            && text(&r.namespace) != namespace
        {
            let path = Path::root("spec.resourceAttributes.namespace");
            errors.invalid(&path, text(&r.namespace), "must match metadata.namespace");
        }
        if let Some(n) = &review.spec.non_resource_attributes {
            let path = Path::root("spec.nonResourceAttributes");
            errors.invalid(&path, Json(n), "disallowed on this kind of request");
        }
        into_result(errors)?;
        let status =
            self.evaluate(tenant, Target::Tenant(tenant), &spec_user(&review.spec), asked(&review.spec));
        Ok(LocalSubjectAccessReview { status: Some(status), ..review.clone() })
    }

    /// Answers a SelfSubjectAccessReview: what the asker may do in `target`.
    ///
    /// # Errors
    /// What is wrong with the review: 422.
    pub fn review_own_access(
        &self,
        identity: &Identity,
        target: Target<'_>,
        review: &SelfSubjectAccessReview,
    ) -> Result<SelfSubjectAccessReview, Errors> {
        let asked = Asked {
            resource: review.spec.resource_attributes.as_ref(),
            path: review.spec.non_resource_attributes.as_ref(),
        };
        let mut errors = Errors::new();
        validate_asked(asked, &mut errors);
        validate_metadata(&review.metadata, "", "must be empty", &mut errors);
        into_result(errors)?;
        let status = self.evaluate(&identity.tenant, target, &identity.user, asked);
        Ok(SelfSubjectAccessReview { status: Some(status), ..review.clone() })
    }

    /// Answers a SelfSubjectRulesReview: the rules that the asker has in a namespace of `tenant`. `None`
    /// without a namespace, which is a bad request ("no namespace on request").
    pub fn review_own_rules(
        &self,
        identity: &Identity,
        tenant: &TenantName,
        review: &SelfSubjectRulesReview,
    ) -> Option<SelfSubjectRulesReview> {
        let namespace = text(&review.spec.namespace);
        if namespace.is_empty() {
            return None;
        }
        let status = rules_status(&self.rbac, identity, tenant, namespace);
        Some(SelfSubjectRulesReview { status: Some(status), ..review.clone() })
    }

    fn evaluate(
        &self,
        home: &TenantName,
        target: Target<'_>,
        user: &UserInfo,
        asked: Asked<'_>,
    ) -> SubjectAccessReviewStatus {
        let (decision, error) = match asked {
            Asked { resource: Some(r), .. } => {
                let fields = field_requirements(r.field_selector.as_ref());
                let a = Attributes {
                    version: match text(&r.version) {
                        "" => "*",
                        version => version,
                    },
                    field_selector: &fields.requirements,
                    ..Attributes::resource(user, text(&r.verb), text(&r.group), text(&r.resource))
                        .subresource(text(&r.subresource))
                        .in_namespace(text(&r.namespace))
                        .named(text(&r.name))
                };
                let labels = label_problem(r.label_selector.as_ref());
                let notes: Vec<String> = [("fieldSelector", fields.problem), ("labelSelector", labels)]
                    .into_iter()
                    .filter_map(|(what, p)| p.map(|p| p.message(what)))
                    .collect();
                (self.authorize(home, target, &a), notes.join("; "))
            }
            Asked { path, .. } => {
                let (path, verb) = path.map_or(("", ""), |p| (text(&p.path), text(&p.verb)));
                (self.authorize(home, target, &Attributes::path(user, verb, path)), String::new())
            }
        };
        let reason = decision.reason().to_string();
        SubjectAccessReviewStatus {
            allowed: matches!(decision, Decision::Allow(_)),
            denied: None,
            reason: (!reason.is_empty()).then_some(reason),
            evaluation_error: (!error.is_empty()).then_some(error),
        }
    }
}

/// Answers a SelfSubjectReview: who the asker is.
#[must_use]
pub fn review_self(identity: &Identity, now: Timestamp) -> SelfSubjectReview {
    SelfSubjectReview {
        metadata: ObjectMeta { creation_timestamp: Some(Time(now)), ..ObjectMeta::default() },
        status: Some(SelfSubjectReviewStatus { user_info: Some(api_user(&identity.user)) }),
    }
}

fn rules_status(
    rbac: &RbacIndex,
    identity: &Identity,
    tenant: &TenantName,
    namespace: &str,
) -> SubjectRulesReviewStatus {
    // A system user in a tenant has what the system tenant's cluster roles give.
    let rules = if identity.tenant == *tenant {
        rbac.rules_for(tenant, &identity.user, namespace)
    } else if identity.is_system_master() || identity.tenant.is_system() {
        rbac.rules_for(&identity.tenant, &identity.user, "")
    } else {
        crate::rbac::Rules::default()
    };
    let mut status = SubjectRulesReviewStatus::default();
    for rule in rules.rules {
        if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
            status.resource_rules.push(ResourceRule {
                verbs: rule.verbs.clone(),
                api_groups: rule.api_groups,
                resources: rule.resources,
                resource_names: rule.resource_names,
            });
        }
        if rule.non_resource_urls.as_ref().is_some_and(|u| !u.is_empty()) {
            status
                .non_resource_rules
                .push(NonResourceRule { verbs: rule.verbs, non_resource_urls: rule.non_resource_urls });
        }
    }
    let mut errors = Vec::new();
    if node_of(&identity.user).is_some() {
        // What a node may do depends on its pods, and is not a list of rules.
        status.incomplete = true;
        errors.push("node authorizer does not support user rule resolution".to_owned());
    }
    if !rules.missing.is_empty() {
        errors.push(crate::rbac::aggregate_message(&rules.missing));
    }
    if !errors.is_empty() {
        status.evaluation_error = Some(crate::rbac::aggregate_message(&errors));
    }
    status
}

fn into_result(errors: Errors) -> Result<(), Errors> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn asked(spec: &SubjectAccessReviewSpec) -> Asked<'_> {
    Asked { resource: spec.resource_attributes.as_ref(), path: spec.non_resource_attributes.as_ref() }
}

fn spec_user(spec: &SubjectAccessReviewSpec) -> UserInfo {
    UserInfo {
        name: text(&spec.user).to_owned(),
        uid: text(&spec.uid).to_owned(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>(),
    }
}

fn validate_spec(spec: &SubjectAccessReviewSpec) -> Errors {
    let mut errors = Errors::new();
    validate_asked(asked(spec), &mut errors);
    if text(&spec.user).is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        let root = Path::root("spec");
        errors.invalid(&root.child("user"), "", "at least one of user or group must be specified");
    }
    errors
}

fn validate_asked(asked: Asked<'_>, errors: &mut Errors) {
    let spec = Path::root("spec");
    match asked {
        Asked { resource: Some(_), path: Some(p) } => errors.invalid(
            &spec.child("nonResourceAttributes"),
            Json(p),
            "cannot be specified in combination with resourceAttributes",
        ),
        Asked { resource: None, path: None } => errors.invalid(
            &spec.child("resourceAttributes"),
            Json(&Option::<()>::None),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    let Some(r) = asked.resource else { return };
    let resource = spec.child("resourceAttributes");
    if let Some(s) = &r.field_selector {
        let path = resource.child("fieldSelector");
        let some = s.requirements.as_ref().is_some_and(|l| !l.is_empty());
        validate_selector(&path, text(&s.raw_selector), some, errors);
    }
    if let Some(s) = &r.label_selector {
        let path = resource.child("labelSelector");
        let some = s.requirements.as_ref().is_some_and(|l| !l.is_empty());
        validate_selector(&path, text(&s.raw_selector), some, errors);
    }
}

fn validate_selector(path: &Path<'_>, raw: &str, requirements: bool, errors: &mut Errors) {
    if !raw.is_empty() && requirements {
        errors.invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements");
    }
    if raw.is_empty() && !requirements {
        let detail = format!("when {path} is specified, requirements or rawSelector is required");
        errors.required(&path.child("requirements"), &detail);
    }
}

/// Reviews are not stored, so they have no metadata.
fn validate_metadata(meta: &ObjectMeta, namespace: &str, detail: &str, errors: &mut Errors) {
    let plain = ObjectMeta {
        namespace: meta.namespace.clone().filter(|n| n == namespace),
        managed_fields: meta.managed_fields.clone(),
        ..ObjectMeta::default()
    };
    let mut given = meta.clone();
    given.namespace = given.namespace.filter(|n| !n.is_empty());
    // Handlers stamp the creation time before this is called.
    given.creation_timestamp = None;
    if given != (ObjectMeta { namespace: plain.namespace.clone().filter(|n| !n.is_empty()), ..plain }) {
        errors.invalid(&Path::root("metadata"), Json(meta), detail);
    }
}

/// What could not be used of a selector. What is left out makes the question broader, never narrower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Partly,
    Wholly,
}

impl Problem {
    fn message(self, selector: &str) -> String {
        let how = if self == Problem::Partly { "partially ignored" } else { "ignored" };
        format!("spec.resourceAttributes.{selector} {how} due to parse error")
    }

    fn of(failed: bool, some: bool) -> Option<Problem> {
        failed.then_some(if some { Problem::Partly } else { Problem::Wholly })
    }
}

struct Fields {
    requirements: Vec<FieldRequirement>,
    problem: Option<Problem>,
}

fn field_requirements(selector: Option<&FieldSelectorAttributes>) -> Fields {
    let Some(selector) = selector else { return Fields { requirements: Vec::new(), problem: None } };
    let listed = selector.requirements.as_deref().unwrap_or_default();
    if listed.is_empty() {
        return match text(&selector.raw_selector).parse::<FieldSelector>() {
            Ok(parsed) => Fields { requirements: parsed.requirements().to_vec(), problem: None },
            Err(_) => Fields { requirements: Vec::new(), problem: Some(Problem::Wholly) },
        };
    }
    let mut requirements = Vec::new();
    let mut failed = false;
    for r in listed {
        let negated = match r.operator.as_str() {
            "In" => Some(false),
            "NotIn" => Some(true),
            _ => None,
        };
        match (negated, r.values.as_deref().unwrap_or_default()) {
            (Some(negated), [value]) => {
                requirements.push(FieldRequirement { field: r.key.clone(), negated, value: value.clone() })
            }
            _ => failed = true,
        }
    }
    Fields { problem: Problem::of(failed, !requirements.is_empty()), requirements }
}

/// Label selectors are accepted and checked; no authorizer here looks at them.
fn label_problem(selector: Option<&LabelSelectorAttributes>) -> Option<Problem> {
    let selector = selector?;
    let listed = selector.requirements.as_deref().unwrap_or_default();
    if listed.is_empty() {
        return text(&selector.raw_selector).parse::<LabelSelector>().is_err().then_some(Problem::Wholly);
    }
    let good = |r: &LabelSelectorRequirement| {
        let operator = match r.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return false,
        };
        Requirement::new(r.key.as_str(), operator, r.values.clone().unwrap_or_default()).is_ok()
    };
    let bad = listed.iter().filter(|r| !good(r)).count();
    Problem::of(bad > 0, bad < listed.len())
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
