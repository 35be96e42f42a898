//! Nobody hands on a right that they do not hold.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::PolicyRule;
use skep_api::UserInfo;

use super::index::Rules;
use super::rule::url_matches;
use crate::attributes::{quoted, quoted_list};

/// Why somebody may not write a role or a binding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EscalationError {
    /// It grants what they do not hold: 403, and this is the message after `… is forbidden: `.
    #[error("{0}")]
    NotHeld(String),
    /// An aggregation rule can gather anything: 403.
    #[error("must have cluster-admin privileges to use the aggregationRule")]
    Aggregation,
    /// The binding's role does not exist, so what it grants is unknown: 404.
    #[error("{resource}.rbac.authorization.k8s.io \"{name}\" not found")]
    RoleNotFound {
        /// `roles` or `clusterroles`.
        resource: &'static str,
        /// Its name.
        name: String,
    },
}

/// A rule with one verb and one resource (and at most one name), or one verb and one URL.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Atom<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str>, verb: &'a str },
    Url { url: &'a str, verb: &'a str },
}

fn list(l: &Option<Vec<String>>) -> &[String] {
    l.as_deref().unwrap_or_default()
}

fn atoms(rule: &PolicyRule) -> Vec<Atom<'_>> {
    let mut out = Vec::new();
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                let names = list(&rule.resource_names);
                if names.is_empty() {
                    out.push(Atom::Resource { group, resource, name: None, verb });
                }
                for name in names {
                    out.push(Atom::Resource { group, resource, name: Some(name), verb });
                }
            }
        }
    }
    for url in list(&rule.non_resource_urls) {
        out.extend(rule.verbs.iter().map(|verb| Atom::Url { url, verb }));
    }
    out
}

fn has(l: &[String], x: &str) -> bool {
    l.iter().any(|s| s == "*" || s == x)
}

fn holds(owner: &PolicyRule, atom: &Atom<'_>) -> bool {
    match atom {
        Atom::Resource { group, resource, name, verb } => {
            let resources = list(&owner.resources);
            let names = list(&owner.resource_names);
            has(&owner.verbs, verb)
                && has(list(&owner.api_groups), group)
                && (has(resources, resource)
                    || resource
                        .split_once('/')
                        .is_some_and(|(_, sub)| resources.iter().any(|r| r.strip_prefix("*/") == Some(sub))))
                && (names.is_empty() || name.is_some_and(|n| names.iter().any(|x| x == n)))
        }
        // An owner's resource names speak against it, as a rule with both is not valid.
        Atom::Url { url, verb } => {
            has(&owner.verbs, verb)
                && list(&owner.resource_names).is_empty()
                && list(&owner.non_resource_urls).iter().any(|u| url_matches(u, url))
        }
    }
}

/// What `wanted` grants that `owned` does not, in pieces of one verb and one resource or URL each. Empty
/// means that everything is covered.
#[must_use]
pub fn covers(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    uncovered(owned, wanted).into_iter().map(|a| to_rule(&a)).collect()
}

fn uncovered<'a>(owned: &[PolicyRule], wanted: &'a [PolicyRule]) -> Vec<Atom<'a>> {
    wanted.iter().flat_map(atoms).filter(|atom| !owned.iter().any(|o| holds(o, atom))).collect()
}

fn to_rule(atom: &Atom<'_>) -> PolicyRule {
    let one = |s: &str| Some(vec![s.to_owned()]);
    match atom {
        Atom::Resource { group, resource, name, verb } => PolicyRule {
            api_groups: one(group),
            resources: one(resource),
            resource_names: name.and_then(one),
            verbs: vec![(*verb).to_owned()],
            non_resource_urls: None,
        },
        Atom::Url { url, verb } => PolicyRule {
            non_resource_urls: one(url),
            verbs: vec![(*verb).to_owned()],
            ..PolicyRule::default()
        },
    }
}

/// The missing pieces as lines, verbs of the same resource together, sorted.
fn describe(missing: &[Atom<'_>]) -> Vec<String> {
    let mut resources: BTreeMap<(&str, &str, Option<&str>), Vec<&str>> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for atom in missing {
        match atom {
            Atom::Resource { group, resource, name, verb } => {
                resources.entry((group, resource, *name)).or_default().push(verb);
            }
            Atom::Url { url, verb } => {
                lines.insert(format!("{{NonResourceURLs:[{}], Verbs:[{}]}}", quoted(url), quoted(verb)));
            }
        }
    }
    for ((group, resource, name), verbs) in resources {
        let name = name.map(|n| format!(", ResourceNames:[{}]", quoted(n))).unwrap_or_default();
        lines.insert(format!(
            "{{APIGroups:[{}], Resources:[{}]{name}, Verbs:{}}}",
            quoted(group),
            quoted(resource),
            quoted_list(&verbs)
        ));
    }
    lines.into_iter().collect()
}

/// Whether somebody who holds `held` may grant `wanted`.
///
/// # Errors
/// [`EscalationError::NotHeld`] with upstream's message, which lists what is missing.
pub fn confirm_no_escalation(
    user: &UserInfo,
    held: &Rules,
    wanted: &[PolicyRule],
) -> Result<(), EscalationError> {
    let missing = uncovered(&held.rules, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut message = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        quoted(&user.name),
        quoted_list(&user.groups),
        describe(&missing).join("\n")
    );
    if !held.missing.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", super::aggregate_message(&held.missing)));
    }
    Err(EscalationError::NotHeld(message))
}
