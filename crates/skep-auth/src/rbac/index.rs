//! The compiled policy of all tenants.

use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use hashbrown::{DefaultHashBuilder, HashMap};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role as RoleObject, RoleBinding,
};
use parking_lot::RwLock;
use skep_api::UserInfo;
use skep_base::TenantName;

use super::layer::{Binding, Kind, Layer, Role, RoleKind};
use super::rule::Verb;
use super::{Decision, RbacReason, Reason, missing_role};
use crate::attributes::Attributes;
use crate::bootstrap;

/// Tenants are spread over this many locks, so that a write in one tenant seldom makes another wait.
const SHARDS: usize = 64;

/// The tenants of one lock, with what they changed.
type Shard = RwLock<HashMap<TenantName, Box<Layer>>>;
/// A binding's role, or the message that there is none.
type Found = Result<Arc<Role>, String>;

static BOOTSTRAP: LazyLock<Layer> = LazyLock::new(|| {
    let p = bootstrap::policy();
    let mut layer = Layer::default();
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    for r in &p.cluster_roles {
        let role = Arc::new(Role::compile(r.rules.as_ref()));
        layer.put_role("", &text(&r.metadata.name), Some(Some(role)));
    }
    for r in &p.roles {
        let role = Arc::new(Role::compile(r.rules.as_ref()));
        layer.put_role(&text(&r.metadata.namespace), &text(&r.metadata.name), Some(Some(role)));
    }
    for b in &p.cluster_role_bindings {
        let name = text(&b.metadata.name);
        let binding = Arc::new(Binding::compile("", &name, &b.role_ref, b.subjects.as_ref()));
        layer.put_binding("", &name, Some(Some(binding)));
    }
    for b in &p.role_bindings {
        let (namespace, name) = (text(&b.metadata.namespace), text(&b.metadata.name));
        let binding = Arc::new(Binding::compile(&namespace, &name, &b.role_ref, b.subjects.as_ref()));
        layer.put_binding(&namespace, &name, Some(Some(binding)));
    }
    layer
});

/// One object was written (`Some`) or is gone (`None`).
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A cluster role.
    ClusterRole(&'a str, Option<&'a ClusterRole>),
    /// A role: namespace, name.
    Role(&'a str, &'a str, Option<&'a RoleObject>),
    /// A cluster role binding.
    ClusterRoleBinding(&'a str, Option<&'a ClusterRoleBinding>),
    /// A role binding: namespace, name.
    RoleBinding(&'a str, &'a str, Option<&'a RoleBinding>),
}

/// The rules that hold for somebody, and what could not be found on the way.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The rules, binding by binding.
    pub rules: Vec<PolicyRule>,
    /// A message for every role that a binding names and that does not exist.
    pub missing: Vec<String>,
}

/// The RBAC policy of every tenant, compiled.
///
/// Every tenant starts with the bootstrap policy, which exists once. Only what differs from it is kept per
/// tenant, so a tenant that changed nothing costs nothing. Applying an object that equals the default one
/// keeps nothing either: the caller may feed in the stored defaults or leave them out.
///
/// A deleted default object stays deleted until the index is built anew (a restart), when it is there again
/// unless the caller deletes it again; that is what upstream's reconciliation at start does too.
#[derive(Debug)]
pub struct RbacIndex {
    shards: Box<[Shard]>,
    hasher: DefaultHashBuilder,
}

impl Default for RbacIndex {
    fn default() -> Self {
        RbacIndex::new()
    }
}

impl RbacIndex {
    /// An index in which every tenant has the bootstrap policy.
    #[must_use]
    pub fn new() -> RbacIndex {
        LazyLock::force(&BOOTSTRAP);
        RbacIndex {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    fn shard(&self, tenant: &TenantName) -> &Shard {
        // The remainder is below SHARDS, so the cast back loses nothing.
        &self.shards[(self.hasher.hash_one(tenant) % SHARDS as u64) as usize]
    }

    /// Takes over one object change. Costs what the object costs, whatever else there is.
    pub fn apply(&self, tenant: &TenantName, change: Change<'_>) {
        let base = &*BOOTSTRAP;
        // Compiled before the lock is taken.
        enum Compiled {
            Role(Option<Arc<Role>>),
            Binding(Option<Arc<Binding>>),
        }
        let (namespace, name, compiled) = match change {
            Change::ClusterRole(name, o) => {
                ("", name, Compiled::Role(o.map(|o| Arc::new(Role::compile(o.rules.as_ref())))))
            }
            Change::Role(ns, name, o) => {
                (ns, name, Compiled::Role(o.map(|o| Arc::new(Role::compile(o.rules.as_ref())))))
            }
            Change::ClusterRoleBinding(name, o) => (
                "",
                name,
                Compiled::Binding(
                    o.map(|o| Arc::new(Binding::compile("", name, &o.role_ref, o.subjects.as_ref()))),
                ),
            ),
            Change::RoleBinding(ns, name, o) => (
                ns,
                name,
                Compiled::Binding(
                    o.map(|o| Arc::new(Binding::compile(ns, name, &o.role_ref, o.subjects.as_ref()))),
                ),
            ),
        };
        let mut shard = self.shard(tenant).write();
        match compiled {
            Compiled::Role(new) => {
                let entry = overlay_entry(base.role(namespace, name), new);
                if entry.is_some() || shard.contains_key(tenant) {
                    shard.entry(tenant.clone()).or_default().put_role(namespace, name, entry);
                }
            }
            Compiled::Binding(new) => {
                let entry = overlay_entry(base.bindings(namespace).and_then(|s| s.get(name)), new);
                if entry.is_some() || shard.contains_key(tenant) {
                    shard.entry(tenant.clone()).or_default().put_binding(namespace, name, entry);
                }
            }
        }
        if shard.get(tenant).is_some_and(|l| l.is_empty()) {
            shard.remove(tenant);
        }
    }

    /// Forgets a tenant.
    pub fn remove_tenant(&self, tenant: &TenantName) {
        self.shard(tenant).write().remove(tenant);
    }

    /// Tenant, namespace and name of every object of a kind that was applied and makes a difference: for whoever has missed changes, to find
    /// what is no more.
    #[must_use]
    pub fn known(&self, of: Kind) -> Vec<(TenantName, Box<str>, Box<str>)> {
        let mut known = Vec::new();
        for shard in &self.shards {
            for (tenant, layer) in shard.read().iter() {
                let names = layer.names(of).into_iter();
                known.extend(names.map(|(ns, name)| (tenant.clone(), ns.into(), name.into())));
            }
        }
        known
    }

    /// How many tenants have a policy of their own.
    #[must_use]
    pub fn tenants_with_own_policy(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }

    /// Decides by the tenant's policy.
    #[must_use]
    pub fn authorize(&self, tenant: &TenantName, a: &Attributes<'_>) -> Decision {
        let verb = Verb::new(a.verb);
        let mut missing = Vec::new();
        let allowed = self.visit(tenant, a.user, a.namespace, |binding, role| {
            match role {
                Ok(role) if role.rules.iter().any(|r| r.allows(verb, a)) => {
                    return ControlFlow::Break(binding.clone());
                }
                Ok(_) => {}
                Err(message) => missing.push(message),
            }
            ControlFlow::Continue(())
        });
        match allowed {
            Some(binding) => {
                let subject = binding.subject_of(a.user).unwrap_or_default();
                Decision::Allow(Reason::Rbac(RbacReason { binding, subject }))
            }
            None if missing.is_empty() => Decision::NoOpinion(Reason::None),
            None => Decision::NoOpinion(Reason::MissingRoles(missing)),
        }
    }

    /// All rules that hold for somebody in a namespace (empty: cluster-wide), cluster role bindings first,
    /// in the order of the bindings' names.
    #[must_use]
    pub fn rules_for(&self, tenant: &TenantName, user: &UserInfo, namespace: &str) -> Rules {
        let mut found: Vec<(Arc<Binding>, Found)> = Vec::new();
        self.visit(tenant, user, namespace, |binding, role| {
            if !found.iter().any(|(b, _)| Arc::ptr_eq(b, binding)) {
                found.push((binding.clone(), role.cloned()));
            }
            ControlFlow::<()>::Continue(())
        });
        found.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut out = Rules::default();
        for (_, role) in found {
            match role {
                Ok(role) => out.rules.extend(role.rules.iter().map(super::rule::Rule::to_policy)),
                Err(message) => out.missing.push(message),
            }
        }
        out
    }

    /// The rules of a role: a cluster role when `namespace` is empty.
    #[must_use]
    pub fn role_rules(&self, tenant: &TenantName, namespace: &str, name: &str) -> Option<Vec<PolicyRule>> {
        let shard = self.shard(tenant).read();
        let own = shard.get(tenant).map(|l| &**l);
        let role = resolve(own, namespace, name)?;
        Some(role.rules.iter().map(super::rule::Rule::to_policy).collect())
    }

    /// What is kept for a tenant, in a form that does not depend on the order of changes.
    #[cfg(test)]
    pub(super) fn debug_tenant(&self, tenant: &TenantName) -> Vec<String> {
        self.shard(tenant).read().get(tenant).map(|l| l.contents()).unwrap_or_default()
    }

    /// Shows `f` every binding that holds the user, with its role, until it breaks. A binding may come more
    /// than once (a user of two bound groups).
    fn visit<B>(
        &self,
        tenant: &TenantName,
        user: &UserInfo,
        namespace: &str,
        mut f: impl FnMut(&Arc<Binding>, Result<&Arc<Role>, String>) -> ControlFlow<B>,
    ) -> Option<B> {
        let base = &*BOOTSTRAP;
        let shard = self.shard(tenant).read();
        let own = shard.get(tenant).map(|l| &**l);
        let scopes = if namespace.is_empty() { &[""][..] } else { &["", namespace][..] };
        for scope in scopes {
            let own_set = own.and_then(|l| l.bindings(scope));
            let of_own = own_set.into_iter().flat_map(|s| s.of(user));
            // A default binding counts unless the tenant has put something in its place.
            let of_base = base
                .bindings(scope)
                .into_iter()
                .flat_map(|s| s.of(user))
                .filter(|b| own_set.is_none_or(|s| s.get(&b.name).is_none()));
            for binding in of_own.chain(of_base) {
                let role = match &binding.role_kind {
                    RoleKind::ClusterRole => resolve(own, "", &binding.role)
                        .ok_or_else(|| missing_role("clusterrole", &binding.role)),
                    RoleKind::Role if binding.namespace.is_empty() => {
                        Err(missing_role("role", &binding.role))
                    }
                    RoleKind::Role => resolve(own, &binding.namespace, &binding.role)
                        .ok_or_else(|| missing_role("role", &binding.role)),
                    RoleKind::Unsupported(kind) => {
                        Err(format!("unsupported role reference kind: {}", crate::attributes::quoted(kind)))
                    }
                };
                if let ControlFlow::Break(b) = f(binding, role) {
                    return Some(b);
                }
            }
        }
        None
    }
}

/// What the tenant's layer holds for an object, given what the default is: nothing if they are the same, a
/// tombstone if a default is gone.
fn overlay_entry<T: PartialEq>(
    default: Option<&Option<Arc<T>>>,
    new: Option<Arc<T>>,
) -> Option<Option<Arc<T>>> {
    match (default, new) {
        (Some(default), new) if *default == new => None,
        (Some(_), None) => Some(None),
        (None, None) => None,
        (_, Some(new)) => Some(Some(new)),
    }
}

fn resolve<'a>(own: Option<&'a Layer>, namespace: &str, name: &str) -> Option<&'a Arc<Role>> {
    match own.and_then(|l| l.role(namespace, name)) {
        Some(entry) => entry.as_ref(),
        None => BOOTSTRAP.role(namespace, name).and_then(Option::as_ref),
    }
}

/// Whether a default cluster role, by itself, allows a request: for the node authorizer, which does not ask
/// who is bound to the role.
pub(crate) fn bootstrap_role_allows(name: &str, a: &Attributes<'_>) -> bool {
    let verb = Verb::new(a.verb);
    resolve(None, "", name).is_some_and(|role| role.rules.iter().any(|r| r.allows(verb, a)))
}
