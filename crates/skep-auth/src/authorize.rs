//! The chain: masters, nodes, RBAC; and who may address whom.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use skep_api::UserInfo;
use skep_base::TenantName;

use crate::attributes::Attributes;
use crate::identity::groups;
use crate::node::NodeGraph;
use crate::rbac::{Decision, EscalationError, RbacIndex, Reason, Rules, confirm_no_escalation};

/// Group and resource of [`may_cross`](Authorizer::authorize): what a system role needs, besides the right
/// itself, to act in another tenant.
const TENANCY_GROUP: &str = "tenancy.skep.io";
const TENANTS: &str = "tenants";
const ACCESS_VERB: &str = "access";

/// Which tenant a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// One.
    Tenant(&'a TenantName),
    /// The cross-tenant view, `/tenants/*`.
    AllTenants,
}

/// Decides what is allowed.
#[derive(Debug, Default)]
pub struct Authorizer {
    /// The roles and bindings of all tenants.
    pub rbac: RbacIndex,
    /// What the nodes' pods refer to.
    pub nodes: NodeGraph,
}

fn is_master(user: &UserInfo) -> bool {
    user.groups.iter().any(|g| g == groups::MASTERS)
}

impl Authorizer {
    /// An authorizer that knows the bootstrap policy only.
    #[must_use]
    pub fn new() -> Authorizer {
        Authorizer::default()
    }

    /// Whether a user of tenant `home` may do this in `target`.
    ///
    /// - In their own tenant: masters may everything; kubelets what concerns their node; everybody what
    ///   RBAC grants.
    /// - A tenant's user in another tenant: nothing, without a reason that would tell it from a tenant that
    ///   does not exist. (The API server answers 404 before it comes here.)
    /// - A user of the system tenant in another tenant or in all: masters may everything. Others need two
    ///   things, both from *cluster* role bindings of the system tenant: verb `access` on
    ///   `tenants.tenancy.skep.io` (named, or all for the cross-tenant view) and the right itself. Namespaced
    ///   bindings do not count: a namespace of the system tenant is not the one of the same name elsewhere.
    #[must_use]
    pub fn authorize(&self, home: &TenantName, target: Target<'_>, a: &Attributes<'_>) -> Decision {
        if let Target::Tenant(tenant) = target
            && tenant == home
        {
            return self.in_own_tenant(home, a);
        }
        if !home.is_system() {
            return Decision::NoOpinion(Reason::None);
        }
        if is_master(a.user) {
            return Decision::Allow(Reason::None);
        }
        let name = match target {
            Target::Tenant(tenant) => tenant.as_str(),
            Target::AllTenants => "",
        };
        let access = Attributes::resource(a.user, ACCESS_VERB, TENANCY_GROUP, TENANTS).named(name);
        match self.rbac.authorize(home, &access) {
            Decision::Allow(_) => self.rbac.authorize(home, &Attributes { namespace: "", ..*a }),
            no => no,
        }
    }

    fn in_own_tenant(&self, tenant: &TenantName, a: &Attributes<'_>) -> Decision {
        if is_master(a.user) {
            return Decision::Allow(Reason::None);
        }
        let by_node = self.nodes.authorize(tenant, a);
        if by_node.is_allowed() {
            return by_node;
        }
        match (by_node, self.rbac.authorize(tenant, a)) {
            // Both say why not: both are told, a line each.
            (Decision::NoOpinion(node), Decision::NoOpinion(rbac)) => {
                Decision::NoOpinion(match (node, rbac) {
                    (Reason::None, reason) | (reason, Reason::None) => reason,
                    (node, rbac) => Reason::Text(format!("{node}\n{rbac}").into()),
                })
            }
            (_, by_rbac) => by_rbac,
        }
    }

    /// Whether a user may write a role with these rules. `namespace` is empty for a cluster role;
    /// `aggregates` says whether the role has an aggregation rule, or had one before an update.
    ///
    /// Upstream does not ask when an update changes nothing but finalizers and owner references; nor should
    /// the caller.
    ///
    /// # Errors
    /// [`EscalationError`] when it would grant what the user does not hold, and they lack `escalate`.
    pub fn may_write_role(
        &self,
        home: &TenantName,
        target: &TenantName,
        user: &UserInfo,
        (namespace, name): (&str, &str),
        rules: &[PolicyRule],
        aggregates: bool,
    ) -> Result<(), EscalationError> {
        let resource = if namespace.is_empty() { "clusterroles" } else { "roles" };
        let escalate = Attributes::resource(user, "escalate", crate::bootstrap::RBAC_GROUP, resource)
            .in_namespace(namespace)
            .named(name);
        if self.may_do_all(home, target, user)
            || self.authorize(home, Target::Tenant(target), &escalate).is_allowed()
        {
            return Ok(());
        }
        let held = self.held(home, target, user, namespace);
        confirm_no_escalation(user, &held, rules)?;
        if aggregates && confirm_no_escalation(user, &held, &full_authority()).is_err() {
            return Err(EscalationError::Aggregation);
        }
        Ok(())
    }

    /// Whether a user may write a binding to this role. `namespace` is empty for a cluster role binding.
    ///
    /// # Errors
    /// [`EscalationError`] when the role holds what the user does not, and they lack `bind`; or when there
    /// is no such role.
    pub fn may_write_binding(
        &self,
        home: &TenantName,
        target: &TenantName,
        user: &UserInfo,
        namespace: &str,
        role_ref: &RoleRef,
    ) -> Result<(), EscalationError> {
        if self.may_do_all(home, target, user) {
            return Ok(());
        }
        let (resource, role_namespace) = match role_ref.kind.as_str() {
            "ClusterRole" => ("clusterroles", ""),
            _ => ("roles", namespace),
        };
        let group = role_ref.api_group.as_deref().unwrap_or_default();
        let bind =
            Attributes::resource(user, "bind", group, resource).in_namespace(namespace).named(&role_ref.name);
        if self.authorize(home, Target::Tenant(target), &bind).is_allowed() {
            return Ok(());
        }
        let not_found = || EscalationError::RoleNotFound { resource, name: role_ref.name.clone() };
        if resource == "roles" && role_namespace.is_empty() {
            return Err(not_found());
        }
        let rules = self.rbac.role_rules(target, role_namespace, &role_ref.name).ok_or_else(not_found)?;
        confirm_no_escalation(user, &self.held(home, target, user, namespace), &rules)
    }

    fn may_do_all(&self, home: &TenantName, target: &TenantName, user: &UserInfo) -> bool {
        is_master(user) && (home == target || home.is_system())
    }

    /// The rules that a user of `home` holds in a namespace of `target`.
    fn held(&self, home: &TenantName, target: &TenantName, user: &UserInfo, namespace: &str) -> Rules {
        if home == target {
            self.rbac.rules_for(target, user, namespace)
        } else if home.is_system() {
            self.rbac.rules_for(home, user, "")
        } else {
            Rules::default()
        }
    }
}

/// Everything on everything.
fn full_authority() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}
