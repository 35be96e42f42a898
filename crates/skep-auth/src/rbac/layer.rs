//! One layer of policy: the shared bootstrap policy is one, what a tenant changed is another on top of it.

use std::sync::Arc;

use hashbrown::HashMap;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use skep_api::UserInfo;
use smallvec::SmallVec;

use super::rule::Rule;
use crate::attributes::quoted;
use crate::identity::service_account_user;

/// A role's rules, compiled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) rules: Box<[Rule]>,
}

impl Role {
    pub(super) fn compile(rules: Option<&Vec<PolicyRule>>) -> Role {
        Role { rules: rules.into_iter().flatten().map(Rule::compile).collect() }
    }
}

/// What a binding points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RoleKind {
    Role,
    ClusterRole,
    /// Validation does not let one in; it grants nothing.
    Unsupported(Box<str>),
}

impl RoleKind {
    pub(super) fn of(kind: &str) -> RoleKind {
        match kind {
            "Role" => RoleKind::Role,
            "ClusterRole" => RoleKind::ClusterRole,
            other => RoleKind::Unsupported(other.into()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            RoleKind::Role => "Role",
            RoleKind::ClusterRole => "ClusterRole",
            RoleKind::Unsupported(kind) => kind,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubjectKind {
    User,
    Group,
    ServiceAccount,
}

/// A subject that can match somebody, or (`None` kind) cannot.
#[derive(Debug, PartialEq, Eq)]
struct BoundSubject {
    kind: Option<SubjectKind>,
    /// What messages show: the name, `NAME/NAMESPACE` for service accounts.
    shown: Box<str>,
    /// User or group name that is compared.
    key: Box<str>,
}

/// A binding, compiled. `namespace` is empty for cluster role bindings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) role_kind: RoleKind,
    pub(super) role: Box<str>,
    subjects: Box<[BoundSubject]>,
}

impl Binding {
    pub(super) fn compile(
        namespace: &str,
        name: &str,
        role_ref: &RoleRef,
        subjects: Option<&Vec<Subject>>,
    ) -> Binding {
        let subjects = subjects.into_iter().flatten().map(|s| match s.kind.as_str() {
            "User" => BoundSubject {
                kind: Some(SubjectKind::User),
                shown: s.name.as_str().into(),
                key: s.name.as_str().into(),
            },
            "Group" => BoundSubject {
                kind: Some(SubjectKind::Group),
                shown: s.name.as_str().into(),
                key: s.name.as_str().into(),
            },
            "ServiceAccount" => {
                // Without a namespace it is one of the binding's namespace; a cluster role binding has none.
                let ns = s.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
                BoundSubject {
                    kind: (!ns.is_empty()).then_some(SubjectKind::ServiceAccount),
                    shown: format!("{}/{ns}", s.name).into(),
                    key: service_account_user(ns, &s.name).into(),
                }
            }
            _ => BoundSubject { kind: None, shown: s.name.as_str().into(), key: Box::default() },
        });
        Binding {
            namespace: namespace.into(),
            name: name.into(),
            role_kind: RoleKind::of(&role_ref.kind),
            role: role_ref.name.as_str().into(),
            subjects: subjects.collect(),
        }
    }

    /// The first subject that holds the user.
    pub(super) fn subject_of(&self, user: &UserInfo) -> Option<usize> {
        self.subjects.iter().position(|s| match s.kind {
            Some(SubjectKind::Group) => user.groups.iter().any(|g| **g == *s.key),
            Some(_) => *user.name == *s.key,
            None => false,
        })
    }

    pub(super) fn describe(&self, subject: usize) -> String {
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", quoted(&self.name))
        } else {
            ("RoleBinding", quoted(&format!("{}/{}", self.name, self.namespace)))
        };
        let subject = self.subjects.get(subject).map(|s| {
            let kind = match s.kind {
                Some(SubjectKind::User) => "User",
                Some(SubjectKind::Group) => "Group",
                _ => "ServiceAccount",
            };
            format!("{kind} {}", quoted(&s.shown))
        });
        format!(
            "{kind} {name} of {} {} to {}",
            self.role_kind.as_str(),
            quoted(&self.role),
            subject.unwrap_or_default()
        )
    }
}

/// Bindings that share one subject: mostly one.
type Bound = SmallVec<[Arc<Binding>; 1]>;

/// The bindings of one scope, found by name, user and group. `None` by name means: what the layer below has
/// under this name was deleted.
#[derive(Debug, Default)]
pub(super) struct BindingSet {
    by_name: HashMap<Box<str>, Option<Arc<Binding>>>,
    by_user: HashMap<Box<str>, Bound>,
    by_group: HashMap<Box<str>, Bound>,
}

impl BindingSet {
    pub(super) fn get(&self, name: &str) -> Option<&Option<Arc<Binding>>> {
        self.by_name.get(name)
    }

    fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Puts a binding, a tombstone (`Some(None)`) or nothing under a name.
    pub(super) fn put(&mut self, name: &str, entry: Option<Option<Arc<Binding>>>) {
        let old = match &entry {
            Some(e) => self.by_name.insert(name.into(), e.clone()),
            None => self.by_name.remove(name),
        };
        if let Some(Some(old)) = old {
            self.unlink(&old);
        }
        if let Some(Some(new)) = entry {
            for s in &new.subjects {
                let Some(kind) = s.kind else { continue };
                let map = if kind == SubjectKind::Group { &mut self.by_group } else { &mut self.by_user };
                let list = map.entry_ref(&*s.key).or_default();
                // The same subject twice in one binding is one.
                if !list.iter().any(|b| Arc::ptr_eq(b, &new)) {
                    list.push(new.clone());
                }
            }
        }
    }

    fn unlink(&mut self, old: &Arc<Binding>) {
        for s in &old.subjects {
            let map = match s.kind {
                Some(SubjectKind::Group) => &mut self.by_group,
                Some(_) => &mut self.by_user,
                None => continue,
            };
            if let Some(list) = map.get_mut(&s.key) {
                list.retain(|b| !Arc::ptr_eq(b, old));
                if list.is_empty() {
                    map.remove(&s.key);
                }
            }
        }
    }

    /// The bindings that hold a user, possibly one several times.
    pub(super) fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Arc<Binding>> {
        let by_user = self.by_user.get(user.name.as_str()).into_iter().flatten();
        let by_group = user.groups.iter().filter_map(|g| self.by_group.get(g.as_str())).flatten();
        by_user.chain(by_group)
    }
}

/// Roles, or tombstones of roles of the layer below, by name.
type RoleMap = HashMap<Box<str>, Option<Arc<Role>>>;

/// The kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    ClusterRole,
    ClusterRoleBinding,
    Role,
    RoleBinding,
}

/// One layer of policy.
#[derive(Debug, Default)]
pub(super) struct Layer {
    cluster_roles: RoleMap,
    roles: HashMap<Box<str>, RoleMap>,
    cluster_bindings: BindingSet,
    bindings: HashMap<Box<str>, BindingSet>,
}

impl Layer {
    /// The role under a name; `namespace` is empty for cluster roles.
    pub(super) fn role(&self, namespace: &str, name: &str) -> Option<&Option<Arc<Role>>> {
        if namespace.is_empty() { self.cluster_roles.get(name) } else { self.roles.get(namespace)?.get(name) }
    }

    /// The bindings of a scope; `namespace` is empty for cluster role bindings.
    pub(super) fn bindings(&self, namespace: &str) -> Option<&BindingSet> {
        if namespace.is_empty() { Some(&self.cluster_bindings) } else { self.bindings.get(namespace) }
    }

    /// Namespaces and names of what is said here of one kind.
    pub(super) fn names(&self, of: Kind) -> Vec<(&str, &str)> {
        fn within<'a, T>(
            namespace: &'a str,
            map: &'a HashMap<Box<str>, T>,
        ) -> impl Iterator<Item = (&'a str, &'a str)> {
            map.keys().map(move |name| (namespace, &**name))
        }
        match of {
            Kind::ClusterRole => within("", &self.cluster_roles).collect(),
            Kind::ClusterRoleBinding => within("", &self.cluster_bindings.by_name).collect(),
            Kind::Role => self.roles.iter().flat_map(|(ns, roles)| within(ns, roles)).collect(),
            Kind::RoleBinding => {
                self.bindings.iter().flat_map(|(ns, set)| within(ns, &set.by_name)).collect()
            }
        }
    }

    pub(super) fn put_role(&mut self, namespace: &str, name: &str, entry: Option<Option<Arc<Role>>>) {
        let map = if namespace.is_empty() {
            &mut self.cluster_roles
        } else {
            self.roles.entry_ref(namespace).or_default()
        };
        match entry {
            Some(e) => map.insert(name.into(), e),
            None => map.remove(name),
        };
        if !namespace.is_empty() && self.roles.get(namespace).is_some_and(HashMap::is_empty) {
            self.roles.remove(namespace);
        }
    }

    pub(super) fn put_binding(&mut self, namespace: &str, name: &str, entry: Option<Option<Arc<Binding>>>) {
        if namespace.is_empty() {
            self.cluster_bindings.put(name, entry);
            return;
        }
        self.bindings.entry_ref(namespace).or_default().put(name, entry);
        if self.bindings.get(namespace).is_some_and(BindingSet::is_empty) {
            self.bindings.remove(namespace);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cluster_roles.is_empty()
            && self.roles.is_empty()
            && self.cluster_bindings.is_empty()
            && self.bindings.is_empty()
    }

    /// All entries, indexes included, as sorted lines.
    #[cfg(test)]
    pub(super) fn contents(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        out.extend(self.cluster_roles.iter().map(|(n, r)| format!("cluster role {n} {r:?}")));
        for (ns, map) in &self.roles {
            out.extend(map.iter().map(|(n, r)| format!("role {ns} {n} {r:?}")));
        }
        let sets = self.bindings.iter().map(|(ns, s)| (&**ns, s)).chain([("", &self.cluster_bindings)]);
        for (ns, set) in sets {
            out.extend(set.by_name.iter().map(|(n, b)| format!("binding {ns} {n} {b:?}")));
            for (kind, map) in [("user", &set.by_user), ("group", &set.by_group)] {
                for (name, list) in map {
                    let mut names: Vec<&str> = list.iter().map(|b| &*b.name).collect();
                    names.sort_unstable();
                    out.push(format!("{kind} {ns} {name} {names:?}"));
                }
            }
        }
        out.sort();
        out
    }
}
