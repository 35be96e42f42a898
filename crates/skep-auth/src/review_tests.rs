//! Reviews, friendly and not.

use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReviewSpec, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldSelectorRequirement;

use super::*;
use crate::identity::Credential;
use crate::node::NodeChange;
use crate::rbac::Change;

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo {
        name: name.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..UserInfo::default()
    }
}

fn identity(tenant: &str, user: UserInfo) -> Identity {
    Identity {
        tenant: TenantName::new(tenant).unwrap(),
        tenant_uid: None,
        user,
        credential: Credential::ClientCert,
    }
}

/// In acme, jane is an editor of namespace `dev`.
fn authorizer() -> Authorizer {
    let a = Authorizer::new();
    let binding = RoleBinding {
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: "edit".to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "User".to_owned(),
            name: "jane".to_owned(),
            ..Subject::default()
        }]),
        ..RoleBinding::default()
    };
    a.rbac.apply(&acme(), Change::RoleBinding("dev", "janes", Some(&binding)));
    a
}

fn resource(verb: &str, resource: &str, namespace: &str) -> ResourceAttributes {
    ResourceAttributes {
        verb: Some(verb.to_owned()),
        resource: Some(resource.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ResourceAttributes::default()
    }
}

fn review(user: &str, groups: &[&str], r: ResourceAttributes) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            groups: Some(groups.iter().map(|g| (*g).to_owned()).collect()),
            resource_attributes: Some(r),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

#[test]
fn a_review_says_why() {
    let a = authorizer();
    let ask = |tenant: &str, r: &SubjectAccessReview| {
        a.review_subject_access(&TenantName::new(tenant).unwrap(), r).unwrap().status.unwrap()
    };
    let yes = ask("acme", &review("jane", &[], resource("create", "pods", "dev")));
    assert!(yes.allowed);
    assert_eq!(
        yes.reason.as_deref(),
        Some(r#"RBAC: allowed by RoleBinding "janes/dev" of ClusterRole "edit" to User "jane""#)
    );
    let no = ask("acme", &review("jane", &[], resource("create", "pods", "prod")));
    assert_eq!((no.allowed, no.reason), (false, None));
    let elsewhere = ask("other", &review("jane", &[], resource("create", "pods", "dev")));
    assert!(!elsewhere.allowed);
    assert!(ask("acme", &review("x", &["system:masters"], resource("delete", "nodes", ""))).allowed);
    let mut path = review("x", &["system:authenticated"], ResourceAttributes::default());
    path.spec.resource_attributes = None;
    path.spec.non_resource_attributes =
        Some(NonResourceAttributes { path: Some("/version".to_owned()), verb: Some("get".to_owned()) });
    assert!(ask("acme", &path).allowed);
    path.spec.groups = Some(vec!["nobody".to_owned()]);
    assert!(!ask("acme", &path).allowed);
}

#[test]
fn reviews_are_validated() {
    let a = authorizer();
    let errors = |r: &SubjectAccessReview| match a.review_subject_access(&acme(), r) {
        Err(e) => e.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        Ok(_) => String::new(),
    };
    let good = review("jane", &[], resource("get", "pods", "dev"));
    assert_eq!(errors(&good), "");
    let mut r = good.clone();
    r.spec.resource_attributes = None;
    assert!(errors(&r).contains("exactly one of nonResourceAttributes or resourceAttributes"));
    let mut r = good.clone();
    r.spec.non_resource_attributes = Some(NonResourceAttributes::default());
    assert!(errors(&r).contains("cannot be specified in combination with resourceAttributes"));
    assert!(errors(&review("", &[], resource("get", "pods", ""))).contains("at least one of user or group"));
    let mut r = good.clone();
    r.metadata.name = Some("x".to_owned());
    assert!(errors(&r).contains("must be empty"));
    let mut r = good;
    r.spec.resource_attributes.as_mut().unwrap().field_selector = Some(FieldSelectorAttributes::default());
    assert!(errors(&r).contains(
        "when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"
    ));

    let local = |namespace: &str, asked: &str| {
        let spec = review("jane", &[], resource("get", "pods", asked)).spec;
        let metadata = ObjectMeta { namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
        a.review_local_subject_access(&acme(), &LocalSubjectAccessReview { metadata, spec, status: None })
    };
    assert!(local("dev", "dev").unwrap().status.unwrap().allowed);
    assert!(local("dev", "prod").unwrap_err().to_string().contains("must match metadata.namespace"));
}

#[test]
fn selectors_are_understood_or_reported() {
    let a = authorizer();
    let pod = Pod {
        spec: Some(PodSpec { node_name: Some("n1".to_owned()), ..PodSpec::default() }),
        ..Pod::default()
    };
    a.nodes.apply(&acme(), NodeChange::Pod("dev", "p", Some(&pod)));
    let ask = |fields: FieldSelectorAttributes| {
        let r = ResourceAttributes { field_selector: Some(fields), ..resource("list", "pods", "") };
        let r = review("system:node:n1", &["system:nodes"], r);
        let status = a.review_subject_access(&acme(), &r).unwrap().status.unwrap();
        (status.allowed, status.evaluation_error)
    };
    let raw = |s: &str| FieldSelectorAttributes { raw_selector: Some(s.to_owned()), requirements: None };
    let requirement = |operator: &str, values: &[&str]| FieldSelectorRequirement {
        key: "spec.nodeName".to_owned(),
        operator: operator.to_owned(),
        values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
    };
    let listed = |l: Vec<FieldSelectorRequirement>| FieldSelectorAttributes {
        raw_selector: None,
        requirements: Some(l),
    };
    assert_eq!(ask(raw("spec.nodeName=n1")), (true, None));
    assert_eq!(ask(raw("status.phase!=Failed,spec.nodeName==n1")), (true, None));
    assert_eq!(ask(raw("spec.nodeName=n2")), (false, None));
    assert_eq!(ask(raw("spec.nodeName!=n1")), (false, None));
    assert_eq!(ask(listed(vec![requirement("In", &["n1"])])), (true, None));
    assert_eq!(ask(listed(vec![requirement("NotIn", &["n1"])])), (false, None));
    let ignored = |how: &str| Some(format!("spec.resourceAttributes.fieldSelector {how} due to parse error"));
    assert_eq!(ask(raw("what is this")), (false, ignored("ignored")));
    assert_eq!(ask(listed(vec![requirement("In", &["n1", "n2"])])), (false, ignored("ignored")));
    let mixed = vec![requirement("In", &["n1"]), requirement("Near", &["x"])];
    assert_eq!(ask(listed(mixed)), (true, ignored("partially ignored")));
}

#[test]
fn people_may_ask_about_themselves() {
    let a = authorizer();
    let jane = identity("acme", user("jane", &["system:authenticated"]));
    let tenant = acme();
    let ask = |who: &Identity, target: Target<'_>, verb: &str| {
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(resource(verb, "pods", "dev")),
            non_resource_attributes: None,
        };
        let r = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        a.review_own_access(who, target, &r).unwrap().status.unwrap().allowed
    };
    assert!(ask(&jane, Target::Tenant(&tenant), "create"));
    assert!(!ask(&jane, Target::Tenant(&tenant), "impersonate"));
    assert!(!ask(&identity("other", jane.user.clone()), Target::Tenant(&tenant), "create"));
    assert!(!ask(&identity("other", user("x", &["system:masters"])), Target::Tenant(&tenant), "get"));
    assert!(ask(&identity("system", user("x", &["system:masters"])), Target::Tenant(&tenant), "get"));

    let rules = |who: &Identity, namespace: &str| {
        let r = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) },
            ..SelfSubjectRulesReview::default()
        };
        a.review_own_rules(who, &tenant, &r).map(|r| r.status.unwrap())
    };
    let in_dev = rules(&jane, "dev").unwrap();
    let in_prod = rules(&jane, "prod").unwrap();
    assert!(in_dev.resource_rules.len() > in_prod.resource_rules.len());
    assert!(
        in_prod.non_resource_rules.iter().any(|r| r.non_resource_urls.iter().flatten().any(|u| u == "/api"))
    );
    assert!(!in_dev.incomplete);
    assert!(rules(&jane, "").is_none());
    let node = rules(&identity("acme", user("system:node:n", &["system:nodes"])), "dev").unwrap();
    assert!(node.incomplete && node.evaluation_error.is_some());
    let foreign = rules(&identity("other", jane.user.clone()), "dev").unwrap();
    assert!(foreign.resource_rules.is_empty() && foreign.non_resource_rules.is_empty());

    let me = review_self(&jane, Timestamp::UNIX_EPOCH).status.unwrap().user_info.unwrap();
    assert_eq!(me.username.as_deref(), Some("jane"));
}
