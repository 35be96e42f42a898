//! The bootstrap policy: the roles and bindings that every tenant has from its first moment.
//!
//! Kept as a compact table ([`tables`]), turned into objects on demand. All tenants share one compiled
//! form of it (see [`crate::rbac::RbacIndex`]).
//!
//! The aggregated roles (`admin`, `edit`, `view`) come with their rules filled in, because a new tenant is
//! complete at once and does not wait for the aggregation controller.

mod tables;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// The API group of roles and bindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// Marks the default objects.
pub const BOOTSTRAPPING_LABEL: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// Says that the server may bring the object up to date.
pub const AUTOUPDATE_ANNOTATION: (&str, &str) = ("rbac.authorization.kubernetes.io/autoupdate", "true");
const AGGREGATE_LABEL_PREFIX: &str = "rbac.authorization.k8s.io/aggregate-to-";
const CONTROLLER_PREFIX: &str = "system:controller:";
const CONTROLLER_NAMESPACE: &str = "kube-system";

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";
const READ_UPDATE: &str = "get list patch update watch";
const EVENTS: RuleSpec = on("create patch update", "core events.k8s.io", "events");

#[derive(Clone, Copy)]
struct RuleSpec {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    urls: &'static str,
}

struct RoleSpec {
    namespace: &'static str,
    name: &'static str,
    rules: &'static [RuleSpec],
    aggregates_to: &'static str,
    aggregated_from: &'static str,
}

enum Who {
    User(&'static str),
    Group(&'static str),
    Account(&'static str, &'static str),
}

struct BindingSpec {
    namespace: &'static str,
    name: &'static str,
    role: &'static str,
    subjects: &'static [Who],
}

const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> RuleSpec {
    RuleSpec { verbs, groups, resources, names: "", urls: "" }
}

const fn named(
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
) -> RuleSpec {
    RuleSpec { verbs, groups, resources, names, urls: "" }
}

const fn urls(verbs: &'static str, urls: &'static str) -> RuleSpec {
    RuleSpec { verbs, groups: "", resources: "", names: "", urls }
}

const fn role(namespace: &'static str, name: &'static str, rules: &'static [RuleSpec]) -> RoleSpec {
    RoleSpec { namespace, name, rules, aggregates_to: "", aggregated_from: "" }
}

impl RoleSpec {
    const fn aggregates_to(self, to: &'static str) -> RoleSpec {
        RoleSpec { aggregates_to: to, ..self }
    }
    const fn aggregated_from(self, from: &'static str) -> RoleSpec {
        RoleSpec { aggregated_from: from, ..self }
    }
}

const fn bind(
    namespace: &'static str,
    name: &'static str,
    role: &'static str,
    subjects: &'static [Who],
) -> BindingSpec {
    BindingSpec { namespace, name, role, subjects }
}

/// Everything, as objects.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Cluster roles, by name.
    pub cluster_roles: Vec<ClusterRole>,
    /// Cluster role bindings, by name.
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
    /// Roles in `kube-system` and `kube-public`.
    pub roles: Vec<Role>,
    /// Bindings of those.
    pub role_bindings: Vec<RoleBinding>,
}

static POLICY: LazyLock<Policy> = LazyLock::new(build);

/// The bootstrap policy.
#[must_use]
pub fn policy() -> &'static Policy {
    &POLICY
}

fn build() -> Policy {
    let mut cluster_roles: Vec<ClusterRole> =
        tables::CLUSTER_ROLES.iter().map(|r| cluster_role(r, r.name.to_owned())).collect();
    let mut cluster_role_bindings: Vec<ClusterRoleBinding> = tables::CLUSTER_BINDINGS
        .iter()
        .map(|b| ClusterRoleBinding {
            metadata: meta("", b.name),
            role_ref: role_ref("ClusterRole", b.role),
            subjects: subjects(b.subjects),
        })
        .collect();
    for r in tables::CONTROLLER_ROLES {
        let name = format!("{CONTROLLER_PREFIX}{}", r.name);
        cluster_role_bindings.push(ClusterRoleBinding {
            metadata: meta("", &name),
            role_ref: role_ref("ClusterRole", &name),
            subjects: Some(vec![account(CONTROLLER_NAMESPACE, r.name)]),
        });
        cluster_roles.push(cluster_role(r, name));
    }
    fill_aggregated(&mut cluster_roles);
    cluster_roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    cluster_role_bindings.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Policy {
        cluster_roles,
        cluster_role_bindings,
        roles: tables::NAMESPACE_ROLES
            .iter()
            .map(|r| Role {
                metadata: meta(r.namespace, r.name),
                rules: Some(r.rules.iter().map(rule).collect()),
            })
            .collect(),
        role_bindings: tables::NAMESPACE_BINDINGS
            .iter()
            .map(|b| RoleBinding {
                metadata: meta(b.namespace, b.name),
                role_ref: role_ref("Role", b.role),
                subjects: subjects(b.subjects),
            })
            .collect(),
    }
}

/// Fills the rules of aggregated roles until nothing changes (`view` goes into `edit`, `edit` into `admin`).
fn fill_aggregated(roles: &mut [ClusterRole]) {
    loop {
        let updates: Vec<(usize, Vec<PolicyRule>)> = roles
            .iter()
            .enumerate()
            .filter_map(|(i, r)| {
                let rules = crate::rbac::aggregated_rules(r, roles.iter())?;
                (r.rules.as_deref().unwrap_or_default() != rules).then_some((i, rules))
            })
            .collect();
        if updates.is_empty() {
            return;
        }
        for (i, rules) in updates {
            roles[i].rules = Some(rules);
        }
    }
}

fn cluster_role(spec: &RoleSpec, name: String) -> ClusterRole {
    let mut metadata = meta("", &name);
    if !spec.aggregates_to.is_empty() {
        metadata
            .labels
            .get_or_insert_default()
            .insert(format!("{AGGREGATE_LABEL_PREFIX}{}", spec.aggregates_to), "true".to_owned());
    }
    let aggregation_rule = (!spec.aggregated_from.is_empty()).then(|| AggregationRule {
        cluster_role_selectors: Some(vec![LabelSelector {
            match_labels: Some(BTreeMap::from([(
                format!("{AGGREGATE_LABEL_PREFIX}{}", spec.aggregated_from),
                "true".to_owned(),
            )])),
            match_expressions: None,
        }]),
    });
    ClusterRole { aggregation_rule, metadata, rules: Some(spec.rules.iter().map(rule).collect()) }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    let pair = |(k, v): (&str, &str)| BTreeMap::from([(k.to_owned(), v.to_owned())]);
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        labels: Some(pair(BOOTSTRAPPING_LABEL)),
        annotations: Some(pair(AUTOUPDATE_ANNOTATION)),
        ..ObjectMeta::default()
    }
}

fn rule(spec: &RuleSpec) -> PolicyRule {
    let words = |text: &str| -> Option<Vec<String>> {
        let list: Vec<String> = text
            .split_ascii_whitespace()
            .map(|w| if w == "core" { String::new() } else { w.to_owned() })
            .collect();
        (!list.is_empty()).then_some(list)
    };
    PolicyRule {
        verbs: words(spec.verbs).unwrap_or_default(),
        api_groups: words(spec.groups),
        resources: words(spec.resources),
        resource_names: words(spec.names),
        non_resource_urls: words(spec.urls),
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(RBAC_GROUP.to_owned()), kind: kind.to_owned(), name: name.to_owned() }
}

fn account(namespace: &str, name: &str) -> Subject {
    Subject {
        api_group: None,
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        namespace: Some(namespace.to_owned()),
    }
}

fn subjects(list: &[Who]) -> Option<Vec<Subject>> {
    let named = |kind: &str, name: &str| Subject {
        api_group: Some(RBAC_GROUP.to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: None,
    };
    let list: Vec<Subject> = list
        .iter()
        .map(|w| match w {
            Who::User(name) => named("User", name),
            Who::Group(name) => named("Group", name),
            Who::Account(namespace, name) => account(namespace, name),
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rbac::covers;

    fn rules(name: &str) -> &'static [PolicyRule] {
        policy()
            .cluster_roles
            .iter()
            .find(|r| r.metadata.name.as_deref() == Some(name))
            .and_then(|r| r.rules.as_deref())
            .unwrap_or_default()
    }

    #[test]
    fn admin_holds_edit_holds_view() {
        assert!(covers(rules("admin"), rules("edit")).is_empty());
        assert!(covers(rules("edit"), rules("view")).is_empty());
        assert!(!covers(rules("view"), rules("edit")).is_empty());
        assert!(covers(rules("cluster-admin"), rules("admin")).is_empty());
        assert!(!covers(rules("admin"), rules("cluster-admin")).is_empty());
        assert!(rules("admin").len() > rules("edit").len());
        // Reading secrets is an editor's right, not a viewer's.
        let secrets = [PolicyRule {
            verbs: vec!["get".to_owned()],
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["secrets".to_owned()]),
            ..PolicyRule::default()
        }];
        assert!(covers(rules("edit"), &secrets).is_empty());
        assert!(!covers(rules("view"), &secrets).is_empty());
    }

    #[test]
    fn every_binding_names_a_role_that_is_there_and_names_are_unique() {
        let p = policy();
        let names: Vec<_> = p.cluster_roles.iter().map(|r| r.metadata.name.clone()).collect();
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(names, unique, "sorted and unique");
        assert_eq!(p.cluster_roles.len(), 32 + 38);
        assert_eq!(p.cluster_role_bindings.len(), 12 + 38);
        for b in &p.cluster_role_bindings {
            assert!(names.contains(&Some(b.role_ref.name.clone())), "{:?}", b.metadata.name);
        }
        for b in &p.role_bindings {
            assert!(
                p.roles.iter().any(|r| r.metadata.namespace == b.metadata.namespace
                    && r.metadata.name.as_ref() == Some(&b.role_ref.name)),
                "{:?}",
                b.metadata.name
            );
        }
    }

    #[test]
    fn every_rule_says_something() {
        let p = policy();
        let all = p
            .cluster_roles
            .iter()
            .flat_map(|r| r.rules.iter().flatten())
            .chain(p.roles.iter().flat_map(|r| r.rules.iter().flatten()));
        for r in all {
            assert!(!r.verbs.is_empty());
            let resource = r.api_groups.is_some() && r.resources.is_some();
            assert!(resource != r.non_resource_urls.is_some(), "{r:?}");
        }
    }
}
