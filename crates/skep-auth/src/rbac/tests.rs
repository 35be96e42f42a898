//! The index against upstream's definition, in tables and on random policies.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use proptest::prelude::*;
use skep_api::UserInfo;
use skep_base::TenantName;

use super::*;
use crate::attributes::Attributes;
use crate::authorize::{Authorizer, Target};
use crate::bootstrap;

fn strings(words: &str) -> Vec<String> {
    words.split_ascii_whitespace().map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect()
}

fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> PolicyRule {
    let some = |w: &str| Some(strings(w)).filter(|l| !l.is_empty());
    PolicyRule {
        verbs: strings(verbs),
        api_groups: some(groups),
        resources: some(resources),
        resource_names: some(names),
        non_resource_urls: None,
    }
}

fn url_rule(verbs: &str, urls: &str) -> PolicyRule {
    PolicyRule { verbs: strings(verbs), non_resource_urls: Some(strings(urls)), ..PolicyRule::default() }
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo {
        name: name.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..UserInfo::default()
    }
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef {
        api_group: Some(bootstrap::RBAC_GROUP.to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

fn subject(kind: &str, namespace: &str, name: &str) -> Subject {
    Subject {
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        api_group: None,
    }
}

fn cluster_role(rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { rules: Some(rules), ..ClusterRole::default() }
}

fn cluster_binding(role: &str, subjects: Vec<Subject>) -> ClusterRoleBinding {
    ClusterRoleBinding {
        role_ref: role_ref("ClusterRole", role),
        subjects: Some(subjects),
        ..ClusterRoleBinding::default()
    }
}

fn binding(kind: &str, role: &str, subjects: Vec<Subject>) -> RoleBinding {
    RoleBinding { role_ref: role_ref(kind, role), subjects: Some(subjects), ..RoleBinding::default() }
}

/// One rule, one request, in both implementations.
fn allows(r: &PolicyRule, a: &Attributes<'_>) -> bool {
    let compiled = rule::Rule::compile(r).allows(rule::Verb::new(a.verb), a);
    assert_eq!(compiled, rule_allows(r, a), "{r:?} {a:?}");
    compiled
}

#[test]
fn rules_match_as_upstreams() {
    let u = UserInfo::default();
    let a = Attributes::resource(&u, "get", "", "pods");
    let scale = Attributes::resource(&u, "get", "apps", "deployments").subresource("scale");
    let yes_no = [
        (rule("get", "core", "pods", ""), a, true),
        (rule("*", "*", "*", ""), a, true),
        (rule("list", "core", "pods", ""), a, false),
        (rule("get", "apps", "pods", ""), a, false),
        (rule("get", "core", "services", ""), a, false),
        (rule("get", "core", "pods/log", ""), a, false),
        (rule("get", "core", "pods", "x"), a, false),
        (rule("get", "core", "pods", "x"), a.named("x"), true),
        (rule("get", "core", "pods", "x y"), a.named("y"), true),
        (rule("get", "core", "pods", ""), a.named("y"), true),
        (rule("get", "core", "pods", ""), a.subresource("log"), false),
        (rule("get", "core", "pods/log", ""), a.subresource("log"), true),
        (rule("get", "core", "*", ""), a.subresource("log"), true),
        (rule("get", "core", "*/log", ""), a.subresource("log"), true),
        (rule("get", "core", "*/log", ""), a, false),
        (rule("get", "apps", "*/scale", ""), scale, true),
        (rule("get", "*", "*/scale", ""), scale, true),
        (rule("get", "apps", "/scale", ""), scale, false),
        (rule("get", "apps", "*scale", ""), scale, false),
        (rule("get", "apps", "deployments/*", ""), scale, false),
        (rule("get", "apps", "scale", ""), scale, false),
        (rule("frobnicate", "core", "pods", ""), Attributes { verb: "frobnicate", ..a }, true),
        (rule("frobnicate", "core", "pods", ""), Attributes { verb: "other", ..a }, false),
        (rule("*", "core", "pods", ""), Attributes { verb: "frobnicate", ..a }, true),
        (rule("get", "", "pods", ""), a, false),
        (url_rule("get", "/x"), a, false),
        (rule("*", "*", "*", ""), Attributes::path(&u, "get", "/x"), false),
        (url_rule("get", "/x"), Attributes::path(&u, "get", "/x"), true),
        (url_rule("get", "/x"), Attributes::path(&u, "get", "/x/"), false),
        (url_rule("get", "/x/*"), Attributes::path(&u, "get", "/x/y/z"), true),
        (url_rule("get", "/x/*"), Attributes::path(&u, "get", "/x/"), true),
        (url_rule("get", "/x/*"), Attributes::path(&u, "get", "/x"), false),
        (url_rule("get", "/x*"), Attributes::path(&u, "get", "/xyz"), true),
        (url_rule("get", "*"), Attributes::path(&u, "get", "/anything"), true),
        (url_rule("post", "*"), Attributes::path(&u, "get", "/anything"), false),
        (url_rule("get", "/*/x"), Attributes::path(&u, "get", "/a/x"), false),
    ];
    for (r, a, want) in yes_no {
        assert_eq!(allows(&r, &a), want, "{r:?} {a:?}");
    }
}

#[test]
fn bindings_hold_their_subjects_where_they_are() {
    let index = RbacIndex::new();
    let t = tenant("acme");
    let reader = cluster_role(vec![rule("get", "core", "pods", "")]);
    index.apply(&t, Change::ClusterRole("reader", Some(&reader)));
    let subjects = vec![
        subject("User", "", "jane"),
        subject("Group", "", "dev"),
        subject("ServiceAccount", "", "here"),
        subject("ServiceAccount", "other", "there"),
        subject("Martian", "", "zork"),
    ];
    index
        .apply(&t, Change::RoleBinding("ns", "b", Some(&binding("ClusterRole", "reader", subjects.clone()))));
    let may = |u: &UserInfo, ns: &str| {
        index.authorize(&t, &Attributes::resource(u, "get", "", "pods").in_namespace(ns)).is_allowed()
    };
    let users = [
        (user("jane", &[]), true),
        (user("joe", &["dev"]), true),
        (user("dev", &["jane"]), false),
        (user("system:serviceaccount:ns:here", &[]), true),
        (user("system:serviceaccount:other:there", &[]), true),
        (user("system:serviceaccount:ns:there", &[]), false),
        (user("system:serviceaccount:other:here", &[]), false),
        (user("here", &[]), false),
        (user("zork", &["zork"]), false),
        (user("", &[]), false),
    ];
    for (u, want) in &users {
        assert_eq!(may(u, "ns"), *want, "{u:?}");
        assert!(!may(u, "other") && !may(u, ""), "{u:?}");
    }
    // Cluster-wide, an account without a namespace is nobody.
    index.apply(&t, Change::ClusterRoleBinding("c", Some(&cluster_binding("reader", subjects))));
    for (u, want) in &users {
        let want = *want && u.name != "system:serviceaccount:ns:here";
        assert_eq!(may(u, ""), want, "{u:?}");
        assert_eq!(may(u, "elsewhere"), want, "{u:?}");
    }
    assert!(
        !index.authorize(&tenant("zeta"), &Attributes::resource(&users[0].0, "get", "", "pods")).is_allowed()
    );
    index.remove_tenant(&t);
    assert!(!may(&users[0].0, "ns"));
}

#[test]
fn reasons_name_the_binding_or_what_is_missing() {
    let index = RbacIndex::new();
    let t = tenant("acme");
    let jane = user("jane", &["dev"]);
    let a = Attributes::resource(&jane, "get", "", "pods").in_namespace("ns");
    index.apply(
        &t,
        Change::ClusterRoleBinding("x", Some(&cluster_binding("gone", vec![subject("User", "", "jane")]))),
    );
    index.apply(
        &t,
        Change::RoleBinding("ns", "y", Some(&binding("Role", "lost", vec![subject("Group", "", "dev")]))),
    );
    assert_eq!(
        index.authorize(&t, &a).reason().to_string(),
        r#"RBAC: [clusterrole.rbac.authorization.k8s.io "gone" not found, role.rbac.authorization.k8s.io "lost" not found]"#
    );
    let role = Role { rules: Some(vec![rule("get", "core", "pods", "")]), ..Role::default() };
    index.apply(&t, Change::Role("ns", "lost", Some(&role)));
    assert_eq!(
        index.authorize(&t, &a).reason().to_string(),
        r#"RBAC: allowed by RoleBinding "y/ns" of Role "lost" to Group "dev""#
    );
    let bot = user("system:serviceaccount:kube-system:job-controller", &[]);
    let jobs = Attributes::resource(&bot, "update", "batch", "jobs").in_namespace("ns");
    assert_eq!(
        index.authorize(&t, &jobs).reason().to_string(),
        r#"RBAC: allowed by ClusterRoleBinding "system:controller:job-controller" of ClusterRole "system:controller:job-controller" to ServiceAccount "job-controller/kube-system""#
    );
    assert_eq!(
        index.authorize(&t, &Attributes::resource(&user("z", &[]), "get", "", "x")).reason().to_string(),
        ""
    );
}

#[test]
fn the_bootstrap_policy_costs_a_tenant_nothing() {
    let index = RbacIndex::new();
    let p = bootstrap::policy();
    let name = |m: &ObjectMeta| m.name.clone().unwrap();
    let ns = |m: &ObjectMeta| m.namespace.clone().unwrap();
    for i in 0..100 {
        let t = tenant(&format!("t{i}"));
        for r in &p.cluster_roles {
            index.apply(&t, Change::ClusterRole(&name(&r.metadata), Some(r)));
        }
        for b in &p.cluster_role_bindings {
            index.apply(&t, Change::ClusterRoleBinding(&name(&b.metadata), Some(b)));
        }
        for r in &p.roles {
            index.apply(&t, Change::Role(&ns(&r.metadata), &name(&r.metadata), Some(r)));
        }
        for b in &p.role_bindings {
            index.apply(&t, Change::RoleBinding(&ns(&b.metadata), &name(&b.metadata), Some(b)));
        }
    }
    assert_eq!(index.tenants_with_own_policy(), 0);

    let (a, b) = (tenant("a"), tenant("b"));
    let anyone = user("x", &["system:authenticated"]);
    let api = Attributes::path(&anyone, "get", "/api");
    let may = |t: &TenantName| index.authorize(t, &api).is_allowed();
    assert!(may(&a) && may(&b));
    index.apply(&a, Change::ClusterRoleBinding("system:discovery", None));
    assert!(!may(&a) && may(&b), "deleted in one tenant, and only there");
    let original = p.cluster_role_bindings.iter().find(|b| name(&b.metadata) == "system:discovery");
    index.apply(&a, Change::ClusterRoleBinding("system:discovery", original));
    assert!(may(&a));
    assert_eq!(index.tenants_with_own_policy(), 0);
    index.apply(&a, Change::ClusterRole("system:discovery", Some(&cluster_role(vec![]))));
    assert!(!may(&a) && may(&b), "changed in one tenant, and only there");
}

#[test]
fn aggregated_roles_collect_by_label() {
    let labelled = |name: &str, labels: &[(&str, &str)], rules: Vec<PolicyRule>| ClusterRole {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            ..ObjectMeta::default()
        },
        rules: Some(rules),
        ..ClusterRole::default()
    };
    let (r1, r2) = (rule("get", "core", "pods", ""), rule("get", "core", "services", ""));
    let all = [
        labelled("b", &[("x", "1")], vec![r1.clone(), r2.clone()]),
        labelled("a", &[("x", "2")], vec![r2.clone()]),
        labelled("c", &[], vec![rule("*", "*", "*", "")]),
    ];
    let selecting = |labels: Option<(&str, &str)>, expression: Option<(&str, &str, &[&str])>| ClusterRole {
        aggregation_rule: Some(AggregationRule {
            cluster_role_selectors: Some(vec![LabelSelector {
                match_labels: labels.map(|(k, v)| BTreeMap::from([(k.to_owned(), v.to_owned())])),
                match_expressions: expression.map(|(key, operator, values)| {
                    vec![LabelSelectorRequirement {
                        key: key.to_owned(),
                        operator: operator.to_owned(),
                        values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
                    }]
                }),
            }]),
        }),
        ..labelled("sum", &[("x", "1")], vec![])
    };
    let rules = |r: &ClusterRole| aggregated_rules(r, all.iter().chain([r])).unwrap();
    assert_eq!(rules(&selecting(Some(("x", "1")), None)), [r1.clone(), r2.clone()]);
    assert_eq!(rules(&selecting(None, Some(("x", "Exists", &[])))), [r2.clone(), r1]);
    assert_eq!(rules(&selecting(None, Some(("x", "In", &["2"])))), [r2]);
    assert_eq!(rules(&selecting(None, Some(("x", "NotIn", &["1", "2"])))), [rule("*", "*", "*", "")]);
    assert!(rules(&selecting(None, Some(("x", "Near", &[])))).is_empty());
    assert_eq!(aggregated_rules(&all[0], all.iter()), None);
}

#[test]
fn nobody_grants_what_they_do_not_hold() {
    let authorizer = Authorizer::new();
    let t = tenant("acme");
    let jane = user("jane", &["dev"]);
    let apply = |c: Change<'_>| authorizer.rbac.apply(&t, c);
    apply(Change::ClusterRole(
        "writer",
        Some(&cluster_role(vec![rule("create update", "core", "pods", "")])),
    ));
    let own = binding("ClusterRole", "writer", vec![subject("User", "", "jane")]);
    apply(Change::RoleBinding("ns", "own", Some(&own)));
    let write = |ns: &str, rules: &[PolicyRule]| {
        authorizer.may_write_role(&t, &t, &jane, (ns, "new"), rules, false).map_err(|e| e.to_string())
    };
    assert_eq!(write("ns", &[rule("create", "core", "pods", "")]), Ok(()));
    assert_eq!(write("ns", &[rule("create", "core", "pods", "one two")]), Ok(()));
    assert_eq!(
        write("ns", &[rule("create get delete", "core apps", "pods", ""), url_rule("get", "/x")]),
        Err("user \"jane\" (groups=[\"dev\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"delete\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"pods\"], Verbs:[\"create\" \"get\" \"delete\"]}\n\
             {NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}"
            .to_owned())
    );
    assert!(
        write("ns", &[rule("get", "core", "pods", "x")])
            .unwrap_err()
            .contains(r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["x"], Verbs:["get"]}"#)
    );
    assert!(write("", &[rule("create", "core", "pods", "")]).is_err(), "held in a namespace only");
    assert!(write("else", &[rule("create", "core", "pods", "")]).is_err());

    // `escalate` lifts it, for the named role.
    let escalate = rule("escalate", "rbac.authorization.k8s.io", "clusterroles", "new");
    apply(Change::ClusterRole("esc", Some(&cluster_role(vec![escalate]))));
    apply(Change::ClusterRoleBinding(
        "esc",
        Some(&cluster_binding("esc", vec![subject("User", "", "jane")])),
    ));
    assert_eq!(write("", &[rule("*", "*", "*", "")]), Ok(()));
    let other = authorizer.may_write_role(&t, &t, &jane, ("", "other"), &[rule("*", "*", "*", "")], false);
    assert!(matches!(other, Err(EscalationError::NotHeld(_))));
    assert_eq!(
        authorizer.may_write_role(&t, &t, &jane, ("", "other"), &[], true),
        Err(EscalationError::Aggregation)
    );
    // Masters may everything, in their tenant.
    let master = user("m", &["system:masters"]);
    let system = TenantName::system();
    let all = [rule("*", "*", "*", "")];
    assert!(authorizer.may_write_role(&t, &t, &master, ("", "x"), &all, true).is_ok());
    assert!(authorizer.may_write_role(&system, &t, &master, ("", "x"), &all, true).is_ok());
    assert!(authorizer.may_write_role(&tenant("other"), &t, &master, ("", "x"), &all, true).is_err());
}

#[test]
fn nobody_binds_what_they_do_not_hold() {
    let authorizer = Authorizer::new();
    let t = tenant("acme");
    let jane = user("jane", &[]);
    let apply = |c: Change<'_>| authorizer.rbac.apply(&t, c);
    let own = binding("ClusterRole", "edit", vec![subject("User", "", "jane")]);
    apply(Change::RoleBinding("ns", "own", Some(&own)));
    let bind = |ns: &str, kind: &str, role: &str| {
        authorizer.may_write_binding(&t, &t, &jane, ns, &role_ref(kind, role))
    };
    assert_eq!(bind("ns", "ClusterRole", "edit"), Ok(()));
    assert_eq!(bind("ns", "ClusterRole", "view"), Ok(()));
    assert!(matches!(bind("ns", "ClusterRole", "admin"), Err(EscalationError::NotHeld(_))));
    assert!(matches!(bind("", "ClusterRole", "view"), Err(EscalationError::NotHeld(_))));
    assert!(matches!(bind("else", "ClusterRole", "view"), Err(EscalationError::NotHeld(_))));
    assert_eq!(
        bind("ns", "Role", "nope").unwrap_err().to_string(),
        r#"roles.rbac.authorization.k8s.io "nope" not found"#
    );
    assert_eq!(
        bind("ns", "ClusterRole", "nope").unwrap_err().to_string(),
        r#"clusterroles.rbac.authorization.k8s.io "nope" not found"#
    );
    let may_bind = rule("bind", "rbac.authorization.k8s.io", "clusterroles", "admin");
    apply(Change::ClusterRole("binder", Some(&cluster_role(vec![may_bind]))));
    let b = binding("ClusterRole", "binder", vec![subject("User", "", "jane")]);
    apply(Change::RoleBinding("ns", "binder", Some(&b)));
    assert_eq!(bind("ns", "ClusterRole", "admin"), Ok(()));
    assert!(bind("ns", "ClusterRole", "cluster-admin").is_err());
    assert!(bind("", "ClusterRole", "admin").is_err());
}

#[test]
fn covering_follows_wildcards() {
    let cases = [
        (vec![rule("*", "*", "*", "")], vec![rule("get", "core", "pods", "x")], true),
        (vec![rule("*", "*", "*", "")], vec![url_rule("get", "/")], false),
        (vec![url_rule("*", "*")], vec![url_rule("get", "/a/*")], true),
        (vec![url_rule("get", "/a/*")], vec![url_rule("get", "/a/*")], true),
        (vec![url_rule("get", "/a/*")], vec![url_rule("get", "*")], false),
        (vec![rule("get", "core", "pods", "")], vec![rule("*", "core", "pods", "")], false),
        (vec![rule("get", "core", "*", "")], vec![rule("get", "core", "pods/log", "")], true),
        (vec![rule("get", "core", "*/log", "")], vec![rule("get", "core", "pods/log", "")], true),
        (vec![rule("get", "core", "*/log", "")], vec![rule("get", "core", "pods", "")], false),
        (vec![rule("get", "core", "pods", "a b")], vec![rule("get", "core", "pods", "b")], true),
        (vec![rule("get", "core", "pods", "a")], vec![rule("get", "core", "pods", "")], false),
        (
            vec![rule("get", "core", "pods", ""), rule("list", "core", "pods", "")],
            vec![rule("get list", "core", "pods", "")],
            true,
        ),
        (vec![], vec![], true),
        (vec![], vec![rule("get", "core", "", "")], true),
    ];
    for (owned, wanted, want) in cases {
        assert_eq!(covers(&owned, &wanted).is_empty(), want, "{owned:?} {wanted:?}");
    }
}

#[test]
fn system_roles_reach_into_tenants_only_by_cluster_bindings_and_access() {
    let authorizer = Authorizer::new();
    let (system, acme) = (TenantName::system(), tenant("acme"));
    let apply = |c: Change<'_>| authorizer.rbac.apply(&system, c);
    let bot = user("bot", &["system:authenticated"]);
    let pods = Attributes::resource(&bot, "list", "", "pods").in_namespace("ns");
    let may = |target: Target<'_>, a: &Attributes<'_>| authorizer.authorize(&system, target, a).is_allowed();
    let reader = cluster_role(vec![rule("list", "core", "pods", "")]);
    apply(Change::ClusterRole("reader", Some(&reader)));
    let local = binding("ClusterRole", "reader", vec![subject("User", "", "bot")]);
    apply(Change::RoleBinding("ns", "local", Some(&local)));
    let access = cluster_role(vec![rule("access", "tenancy.skep.io", "tenants", "")]);
    apply(Change::ClusterRole("access", Some(&access)));
    apply(Change::ClusterRoleBinding(
        "access",
        Some(&cluster_binding("access", vec![subject("User", "", "bot")])),
    ));
    assert!(may(Target::Tenant(&system), &pods), "at home the namespaced binding counts");
    assert!(!may(Target::Tenant(&acme), &pods), "elsewhere it does not");
    apply(Change::ClusterRoleBinding(
        "reader",
        Some(&cluster_binding("reader", vec![subject("User", "", "bot")])),
    ));
    assert!(may(Target::Tenant(&acme), &pods) && may(Target::AllTenants, &pods));
    assert!(!may(Target::Tenant(&acme), &Attributes { verb: "delete", ..pods }));
    // Access to one tenant is not access to all.
    let one = cluster_role(vec![rule("access", "tenancy.skep.io", "tenants", "acme")]);
    apply(Change::ClusterRole("access", Some(&one)));
    assert!(may(Target::Tenant(&acme), &pods));
    assert!(!may(Target::Tenant(&tenant("other")), &pods) && !may(Target::AllTenants, &pods));
    apply(Change::ClusterRole("access", None));
    assert!(!may(Target::Tenant(&acme), &pods));

    let master = user("m", &["system:masters"]);
    let any = Attributes::resource(&master, "delete", "", "nodes");
    assert!(may(Target::AllTenants, &any) && may(Target::Tenant(&acme), &any));
    let of_acme = |target: Target<'_>| authorizer.authorize(&acme, target, &any);
    assert!(of_acme(Target::Tenant(&acme)).is_allowed());
    for target in [Target::AllTenants, Target::Tenant(&system)] {
        let decision = of_acme(target);
        assert!(!decision.is_allowed());
        assert_eq!(decision.reason().to_string(), "", "and nothing is told");
    }
}

/// The policy of one tenant as plain objects, judged by walking through all of it.
#[derive(Clone, Debug, Default)]
struct Naive {
    cluster_roles: BTreeMap<String, Vec<PolicyRule>>,
    roles: BTreeMap<(String, String), Vec<PolicyRule>>,
    cluster_bindings: BTreeMap<String, (RoleRef, Vec<Subject>)>,
    bindings: BTreeMap<(String, String), (RoleRef, Vec<Subject>)>,
}

impl Naive {
    fn bootstrap() -> Naive {
        let p = bootstrap::policy();
        let name = |m: &ObjectMeta| m.name.clone().unwrap();
        let both = |m: &ObjectMeta| (m.namespace.clone().unwrap(), m.name.clone().unwrap());
        Naive {
            cluster_roles: p
                .cluster_roles
                .iter()
                .map(|r| (name(&r.metadata), r.rules.clone().unwrap_or_default()))
                .collect(),
            roles: p.roles.iter().map(|r| (both(&r.metadata), r.rules.clone().unwrap_or_default())).collect(),
            cluster_bindings: p
                .cluster_role_bindings
                .iter()
                .map(|b| (name(&b.metadata), (b.role_ref.clone(), b.subjects.clone().unwrap_or_default())))
                .collect(),
            bindings: p
                .role_bindings
                .iter()
                .map(|b| (both(&b.metadata), (b.role_ref.clone(), b.subjects.clone().unwrap_or_default())))
                .collect(),
        }
    }

    fn rules(&self, u: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let applies = |s: &Subject, ns: &str| match s.kind.as_str() {
            "User" => s.name == u.name,
            "Group" => u.groups.contains(&s.name),
            "ServiceAccount" => {
                let ns = s.namespace.as_deref().unwrap_or(ns);
                !ns.is_empty() && u.name == format!("system:serviceaccount:{ns}:{}", s.name)
            }
            _ => false,
        };
        let mut out = Vec::new();
        for (r, subjects) in self.cluster_bindings.values() {
            if subjects.iter().any(|s| applies(s, "")) && r.kind == "ClusterRole" {
                out.extend(self.cluster_roles.get(&r.name).into_iter().flatten().cloned());
            }
        }
        for ((ns, _), (r, subjects)) in &self.bindings {
            if ns == namespace && subjects.iter().any(|s| applies(s, ns)) {
                let rules = match r.kind.as_str() {
                    "ClusterRole" => self.cluster_roles.get(&r.name),
                    _ => self.roles.get(&(ns.clone(), r.name.clone())),
                };
                out.extend(rules.into_iter().flatten().cloned());
            }
        }
        out
    }
}

/// One random change. `None` deletes.
#[derive(Clone, Debug)]
enum Op {
    ClusterRole(String, Option<Vec<PolicyRule>>),
    Role(String, String, Option<Vec<PolicyRule>>),
    ClusterBinding(String, Option<(RoleRef, Vec<Subject>)>),
    Binding(String, String, Option<(RoleRef, Vec<Subject>)>),
}

fn one_of(list: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(list).prop_map(str::to_owned)
}

fn some_of(list: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(one_of(list), 0..3)
}

const VERBS: &[&str] = &["get", "list", "*", "frob", "delete"];
const GROUPS: &[&str] = &["", "apps", "*"];
const RESOURCES: &[&str] = &["pods", "pods/log", "*/log", "*", "nodes", "secrets"];
const NAMES: &[&str] = &["x", "y"];
const PATHS: &[&str] = &["/a", "/a/b", "/a/*", "*", "/api"];
const NAMESPACES: &[&str] = &["n1", "n2", "kube-system", "kube-public"];
/// Names of roles and bindings, default ones among them.
const OBJECTS: &[&str] =
    &["r1", "r2", "view", "edit", "cluster-admin", "system:discovery", "system:node-proxier"];
const LOCAL_OBJECTS: &[&str] = &["r1", "r2", "system:controller:token-cleaner"];
const USERS: &[&str] = &[
    "jane",
    "joe",
    "system:kube-proxy",
    "system:serviceaccount:n1:sa",
    "system:serviceaccount:kube-system:token-cleaner",
];
const USER_GROUPS: &[&str] = &["dev", "system:authenticated", "system:masters", "ops"];

fn rules_strategy() -> impl Strategy<Value = Vec<PolicyRule>> {
    let rule = (some_of(VERBS), some_of(GROUPS), some_of(RESOURCES), some_of(NAMES), some_of(PATHS))
        .prop_map(|(verbs, groups, resources, names, urls)| PolicyRule {
            verbs,
            api_groups: Some(groups),
            resources: Some(resources),
            resource_names: Some(names).filter(|n| !n.is_empty()),
            non_resource_urls: Some(urls),
        });
    prop::collection::vec(rule, 0..3)
}

fn binding_strategy() -> impl Strategy<Value = (RoleRef, Vec<Subject>)> {
    let subject = prop_oneof![
        one_of(USERS).prop_map(|n| subject("User", "", &n)),
        one_of(USER_GROUPS).prop_map(|n| subject("Group", "", &n)),
        (one_of(&["", "n1", "n2"]), one_of(&["sa", "token-cleaner"])).prop_map(|(ns, n)| subject(
            "ServiceAccount",
            &ns,
            &n
        )),
    ];
    (one_of(&["ClusterRole", "Role"]), one_of(OBJECTS), prop::collection::vec(subject, 0..3))
        .prop_map(|(kind, role, subjects)| (role_ref(&kind, &role), subjects))
}

fn op_strategy() -> impl Strategy<Value = Op> {
    prop_oneof![
        (one_of(OBJECTS), prop::option::of(rules_strategy())).prop_map(|(n, r)| Op::ClusterRole(n, r)),
        (one_of(NAMESPACES), one_of(LOCAL_OBJECTS), prop::option::of(rules_strategy()))
            .prop_map(|(ns, n, r)| Op::Role(ns, n, r)),
        (one_of(OBJECTS), prop::option::of(binding_strategy())).prop_map(|(n, b)| Op::ClusterBinding(n, b)),
        (one_of(NAMESPACES), one_of(LOCAL_OBJECTS), prop::option::of(binding_strategy()))
            .prop_map(|(ns, n, b)| Op::Binding(ns, n, b)),
    ]
}

fn put<K: Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: K, value: Option<&V>) {
    match value {
        Some(v) => map.insert(key, v.clone()),
        None => map.remove(&key),
    };
}

fn apply(op: &Op, index: &RbacIndex, t: &TenantName, naive: &mut Naive) {
    match op {
        Op::ClusterRole(n, rules) => {
            let object = rules.clone().map(cluster_role);
            index.apply(t, Change::ClusterRole(n, object.as_ref()));
            put(&mut naive.cluster_roles, n.clone(), rules.as_ref());
        }
        Op::Role(ns, n, rules) => {
            let object = rules.clone().map(|r| Role { rules: Some(r), ..Role::default() });
            index.apply(t, Change::Role(ns, n, object.as_ref()));
            put(&mut naive.roles, (ns.clone(), n.clone()), rules.as_ref());
        }
        Op::ClusterBinding(n, b) => {
            let object = b.clone().map(|(role_ref, subjects)| ClusterRoleBinding {
                role_ref,
                subjects: Some(subjects),
                ..ClusterRoleBinding::default()
            });
            index.apply(t, Change::ClusterRoleBinding(n, object.as_ref()));
            put(&mut naive.cluster_bindings, n.clone(), b.as_ref());
        }
        Op::Binding(ns, n, b) => {
            let object = b.clone().map(|(role_ref, subjects)| RoleBinding {
                role_ref,
                subjects: Some(subjects),
                ..RoleBinding::default()
            });
            index.apply(t, Change::RoleBinding(ns, n, object.as_ref()));
            put(&mut naive.bindings, (ns.clone(), n.clone()), b.as_ref());
        }
    }
}

/// Many requests of one user.
fn requests(u: &UserInfo) -> Vec<Attributes<'_>> {
    let mut out = Vec::new();
    for verb in ["get", "list", "frob", "other"] {
        for path in ["/a", "/a/b/c", "/api", "/zzz"] {
            out.push(Attributes::path(u, verb, path));
        }
        for (group, resource, sub) in [
            ("", "pods", ""),
            ("", "pods", "log"),
            ("apps", "pods", ""),
            ("", "secrets", ""),
            ("x", "y", "z"),
        ] {
            for ns in ["", "n1", "kube-system"] {
                for name in ["", "x", "z"] {
                    let a = Attributes::resource(u, verb, group, resource).subresource(sub);
                    out.push(a.in_namespace(ns).named(name));
                }
            }
        }
    }
    out
}

/// Rules as sets, so that only what they mean is compared.
fn normal(rules: Vec<PolicyRule>) -> Vec<String> {
    let sorted = |l: Option<Vec<String>>| {
        let mut l = l.unwrap_or_default();
        l.sort();
        l
    };
    let mut out: Vec<String> = rules
        .into_iter()
        .map(|r| {
            let mut verbs = sorted(Some(r.verbs));
            verbs.dedup();
            format!(
                "{verbs:?} {:?} {:?} {:?} {:?}",
                sorted(r.api_groups),
                sorted(r.resources),
                sorted(r.resource_names),
                sorted(r.non_resource_urls)
            )
        })
        .collect();
    out.sort();
    out
}

proptest! {
    // Each case makes some ten thousand decisions.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_like_upstreams_walk(ops in prop::collection::vec(op_strategy(), 0..25)) {
        let index = RbacIndex::new();
        let t = tenant("acme");
        let mut naive = Naive::bootstrap();
        for op in &ops {
            apply(op, &index, &t, &mut naive);
        }
        let untouched = tenant("other");
        let default = Naive::bootstrap();
        for name in USERS {
            for groups in [&[][..], &["dev"], &["system:authenticated", "ops"], &["system:masters"]] {
                let u = user(name, groups);
                for ns in ["", "n1", "kube-system"] {
                    let held = naive.rules(&u, ns);
                    let of_default = default.rules(&u, ns);
                    for a in requests(&u).iter().filter(|a| a.namespace == ns) {
                        let want = held.iter().any(|r| rule_allows(r, a));
                        prop_assert_eq!(index.authorize(&t, a).is_allowed(), want, "{:?}", a);
                        let want = of_default.iter().any(|r| rule_allows(r, a));
                        prop_assert_eq!(index.authorize(&untouched, a).is_allowed(), want, "other tenant {:?}", a);
                    }
                    prop_assert_eq!(normal(index.rules_for(&t, &u, ns).rules), normal(held));
                }
            }
        }
    }

    #[test]
    fn what_was_built_step_by_step_is_what_is_built_at_once(ops in prop::collection::vec(op_strategy(), 0..40)) {
        let t = tenant("acme");
        let (stepwise, mut naive) = (RbacIndex::new(), Naive::bootstrap());
        for op in &ops {
            apply(op, &stepwise, &t, &mut naive);
        }
        // The end state, in one pass: the last word on every object.
        let (at_once, mut ignored) = (RbacIndex::new(), Naive::bootstrap());
        let key = |op: &Op| match op {
            Op::ClusterRole(n, _) => (0, String::new(), n.clone()),
            Op::Role(ns, n, _) => (1, ns.clone(), n.clone()),
            Op::ClusterBinding(n, _) => (2, String::new(), n.clone()),
            Op::Binding(ns, n, _) => (3, ns.clone(), n.clone()),
        };
        let last: BTreeMap<_, _> = ops.iter().map(|op| (key(op), op)).collect();
        for op in last.values().rev() {
            apply(op, &at_once, &t, &mut ignored);
        }
        prop_assert_eq!(stepwise.tenants_with_own_policy(), at_once.tenants_with_own_policy());
        prop_assert_eq!(stepwise.debug_tenant(&t), at_once.debug_tenant(&t));
    }

    #[test]
    fn covering_means_allowing_no_less(owned in rules_strategy(), wanted in rules_strategy()) {
        // Whatever a covered set of rules allows, the covering one allows.
        prop_assume!(covers(&owned, &wanted).is_empty());
        let u = UserInfo::default();
        // Rules with both resources and URLs, or URLs and names, are refused by validation.
        let clean = |l: &[PolicyRule]| l.iter().all(|r| {
            let urls = r.non_resource_urls.as_ref().is_some_and(|u| !u.is_empty());
            !urls || r.resource_names.is_none()
        });
        prop_assume!(clean(&owned) && clean(&wanted));
        for a in requests(&u) {
            let by = |l: &[PolicyRule]| l.iter().any(|r| rule_allows(r, &a));
            prop_assert!(!by(&wanted) || by(&owned), "{:?}", a);
        }
    }
}
