//! Role-based access control, per tenant.
//!
//! [`RbacIndex`] decides; [`covers`] and [`confirm_no_escalation`] say whether somebody may hand rights on;
//! [`aggregated_rules`] is the pure part of role aggregation.

mod covers;
mod index;
mod layer;
mod rule;
#[cfg(test)]
mod tests;

pub use covers::{EscalationError, confirm_no_escalation, covers};
pub(crate) use index::bootstrap_role_allows;
pub use index::{Change, RbacIndex, Rules};
pub use layer::Kind;
pub use rule::rule_allows;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::attributes::quoted;
use layer::Binding;

/// What an authorizer says.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Yes.
    Allow(Reason),
    /// Nothing speaks for it. At the end of the chain that means no.
    NoOpinion(Reason),
}

impl Decision {
    /// Whether it is a yes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        match self {
            Decision::Allow(r) | Decision::NoOpinion(r) => r,
        }
    }
}

/// Why a decision was taken. Becomes text only when somebody reads it.
#[derive(Clone, Debug)]
pub enum Reason {
    /// Nothing to say.
    None,
    /// A fixed or a computed text.
    Text(Cow<'static, str>),
    /// A binding grants it.
    Rbac(RbacReason),
    /// Nothing grants it, and these roles that bindings name do not exist.
    MissingRoles(Vec<String>),
}

/// The binding that allowed a request, and its subject that held the user.
#[derive(Clone, Debug)]
pub struct RbacReason {
    binding: Arc<Binding>,
    subject: usize,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::None => Ok(()),
            Reason::Text(text) => f.write_str(text),
            Reason::Rbac(r) => write!(f, "RBAC: allowed by {}", r.binding.describe(r.subject)),
            Reason::MissingRoles(list) => write!(f, "RBAC: {}", aggregate_message(list)),
        }
    }
}

/// Several errors in one line, as upstream joins them: without repeats, in brackets when there is more than
/// one.
pub(crate) fn aggregate_message(list: &[String]) -> String {
    let mut seen: Vec<&str> = Vec::with_capacity(list.len());
    for m in list {
        if !seen.contains(&m.as_str()) {
            seen.push(m);
        }
    }
    match seen.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn missing_role(kind: &str, name: &str) -> String {
    format!("{kind}.rbac.authorization.k8s.io {} not found", quoted(name))
}

/// The rules that an aggregated cluster role has: those of all roles that its selectors select, in the order
/// of their names, without repeats. `None` for a role without an aggregation rule.
pub fn aggregated_rules<'a>(
    role: &ClusterRole,
    all: impl Iterator<Item = &'a ClusterRole>,
) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut selected: Vec<&ClusterRole> = all
        .filter(|r| r.metadata.name != role.metadata.name)
        .filter(|r| selectors.iter().any(|s| selects(s, r)))
        .collect();
    selected.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in selected.iter().flat_map(|r| r.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}

/// Whether a label selector selects a role. An unknown operator selects nothing.
fn selects(selector: &LabelSelector, role: &ClusterRole) -> bool {
    let label = |key: &str| role.metadata.labels.as_ref().and_then(|l| l.get(key));
    selector.match_labels.iter().flatten().all(|(k, v)| label(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|e| {
            let values = e.values.as_deref().unwrap_or_default();
            match (e.operator.as_str(), label(&e.key)) {
                ("In", Some(v)) => values.contains(v),
                ("NotIn", v) => v.is_none_or(|v| !values.contains(v)),
                ("Exists", v) => v.is_some(),
                ("DoesNotExist", v) => v.is_none(),
                _ => false,
            }
        })
}
