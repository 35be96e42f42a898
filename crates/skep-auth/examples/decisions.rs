//! Measures what a request pays here: a decision, and the check of a token that was seen before.
//!
//! `cargo run --release -p skep-auth --example decisions`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use skep_api::UserInfo;
use skep_auth::authn::{
    Authenticator, BoundObject, LiveKind, Liveness, ObjectState, ServiceAccountRef, TenantDirectory,
};
use skep_auth::rbac::Change;
use skep_auth::{Attributes, Authorizer, Target};
use skep_base::TenantName;

const ROUNDS: u32 = 1_000_000;

/// One tenant, in which everything lives.
struct World(Arc<str>);

impl TenantDirectory for World {
    fn tenant_uid(&self, _: &TenantName) -> Option<Arc<str>> {
        Some(self.0.clone())
    }
}

impl Liveness for World {
    fn state(&self, _: &TenantName, _: LiveKind, _: &str, _: &str, _: &str) -> ObjectState {
        ObjectState::Alive
    }
}

fn measure(what: &str, mut f: impl FnMut() -> bool) {
    let begin = Instant::now();
    let yes = (0..ROUNDS).filter(|_| black_box(f())).count();
    let each = begin.elapsed() / ROUNDS;
    println!("{what}: {each:?} ({})", if yes > 0 { "yes" } else { "no" });
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tenant = TenantName::new("acme")?;
    let authorizer = Authorizer::new();
    for role in ["view", "edit", "admin"] {
        let binding = RoleBinding {
            role_ref: RoleRef {
                api_group: Some("rbac.authorization.k8s.io".to_owned()),
                kind: "ClusterRole".to_owned(),
                name: role.to_owned(),
            },
            subjects: Some(vec![Subject {
                kind: "User".to_owned(),
                name: format!("{role}er"),
                ..Subject::default()
            }]),
            ..RoleBinding::default()
        };
        authorizer.rbac.apply(&tenant, Change::RoleBinding("dev", role, Some(&binding)));
    }
    let user = |name: &str| UserInfo {
        name: name.to_owned(),
        groups: vec!["dev".to_owned(), "system:authenticated".to_owned()],
        ..UserInfo::default()
    };
    let cases = [
        ("viewer", "list", "", "pods"),
        ("editer", "create", "apps", "deployments"),
        ("adminer", "create", "rbac.authorization.k8s.io", "rolebindings"),
        ("adminer", "delete", "example.com", "widgets"),
        ("system:kube-scheduler", "get", "", "nodes"),
        ("nobody", "get", "", "secrets"),
    ];
    for (name, verb, group, resource) in cases {
        let user = user(name);
        let a = Attributes::resource(&user, verb, group, resource).in_namespace("dev").named("x");
        measure(&format!("decide: {name} may {verb} {resource}"), || {
            authorizer.authorize(&tenant, Target::Tenant(&tenant), &a).is_allowed()
        });
    }
    let authenticator = Authenticator::new(&[1; 32], &["https://localhost:6443".to_owned()]);
    let account = ServiceAccountRef { namespace: "dev", name: "bot", uid: "u" };
    let now = Timestamp::now();
    let (_, issued) = authenticator.create_token(
        &tenant,
        "uid",
        account,
        &TokenRequest::default(),
        &BoundObject::None,
        now,
    )?;
    let world = World("uid".into());
    measure("a token that was seen before", || {
        authenticator.authenticate(&issued.token, &[], &world, now).is_ok()
    });
    Ok(())
}
