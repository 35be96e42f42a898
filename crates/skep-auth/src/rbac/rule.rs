//! Rules, compiled: the verbs as bits, the rest as short lists of texts.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::attributes::Attributes;

/// The verbs that have a bit. Almost every rule and request uses only these, so that most rules are passed
/// over with one `and`.
const VERBS: [&str; 16] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
    "approve",
    "sign",
    "proxy",
    "post",
    "put",
];
/// Bit of `*`.
const ALL_VERBS: u32 = 1 << 31;
/// Bit that says: compare the texts too.
const OTHER_VERBS: u32 = 1 << 30;

/// The verb of a request, looked up once for all rules.
#[derive(Clone, Copy)]
pub(super) struct Verb<'a> {
    bits: u32,
    text: &'a str,
}

impl<'a> Verb<'a> {
    pub(super) fn new(text: &'a str) -> Verb<'a> {
        let bits = VERBS.iter().position(|v| *v == text).map_or(OTHER_VERBS, |i| 1 << i);
        Verb { bits: bits | ALL_VERBS, text }
    }
}

/// One compiled rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    verbs: u32,
    any_group: bool,
    any_resource: bool,
    other_verbs: Box<[Box<str>]>,
    groups: Box<[Box<str>]>,
    resources: Box<[Box<str>]>,
    names: Box<[Box<str>]>,
    urls: Box<[Box<str>]>,
}

fn texts(list: Option<&Vec<String>>) -> Box<[Box<str>]> {
    list.into_iter().flatten().map(|s| s.as_str().into()).collect()
}

impl Rule {
    pub(super) fn compile(rule: &PolicyRule) -> Rule {
        let mut verbs = 0;
        let mut other = Vec::new();
        for v in &rule.verbs {
            if v == "*" {
                verbs |= ALL_VERBS;
            } else if let Some(i) = VERBS.iter().position(|x| x == v) {
                verbs |= 1 << i;
            } else {
                verbs |= OTHER_VERBS;
                other.push(v.as_str().into());
            }
        }
        let has_star = |l: Option<&Vec<String>>| l.is_some_and(|l| l.iter().any(|s| s == "*"));
        Rule {
            verbs,
            any_group: has_star(rule.api_groups.as_ref()),
            any_resource: has_star(rule.resources.as_ref()),
            other_verbs: other.into(),
            groups: texts(rule.api_groups.as_ref()),
            resources: texts(rule.resources.as_ref()),
            names: texts(rule.resource_names.as_ref()),
            urls: texts(rule.non_resource_urls.as_ref()),
        }
    }

    fn has_verb(&self, verb: Verb<'_>) -> bool {
        let common = self.verbs & verb.bits;
        common & !OTHER_VERBS != 0
            || (common & OTHER_VERBS != 0 && self.other_verbs.iter().any(|v| **v == *verb.text))
    }

    fn has_resource(&self, a: &Attributes<'_>) -> bool {
        if self.any_resource {
            return true;
        }
        if a.subresource.is_empty() {
            return self.resources.iter().any(|r| **r == *a.resource);
        }
        self.resources.iter().any(|r| {
            r.len() > a.subresource.len()
                && r.strip_suffix(a.subresource)
                    .and_then(|r| r.strip_suffix('/'))
                    .is_some_and(|r| r == a.resource || r == "*")
        })
    }

    /// Whether the rule allows the request. `verb` is the request's.
    pub(super) fn allows(&self, verb: Verb<'_>, a: &Attributes<'_>) -> bool {
        if !self.has_verb(verb) {
            return false;
        }
        if !a.resource_request {
            return self.urls.iter().any(|u| url_matches(u, a.path));
        }
        (self.any_group || self.groups.iter().any(|g| **g == *a.group))
            && self.has_resource(a)
            && (self.names.is_empty() || self.names.iter().any(|n| **n == *a.name))
    }

    /// The rule as it was written.
    pub(super) fn to_policy(&self) -> PolicyRule {
        let list = |l: &[Box<str>]| -> Option<Vec<String>> {
            (!l.is_empty()).then(|| l.iter().map(|s| s.to_string()).collect())
        };
        let mut verbs = Vec::new();
        if self.verbs & ALL_VERBS != 0 {
            verbs.push("*".to_owned());
        }
        verbs.extend(
            VERBS
                .iter()
                .enumerate()
                .filter(|(i, _)| self.verbs & (1 << i) != 0)
                .map(|(_, v)| (*v).to_owned()),
        );
        verbs.extend(self.other_verbs.iter().map(|v| v.to_string()));
        PolicyRule {
            verbs,
            api_groups: list(&self.groups),
            resources: list(&self.resources),
            resource_names: list(&self.names),
            non_resource_urls: list(&self.urls),
        }
    }
}

/// Whether the URL of a rule (exact, `*`, or a prefix that ends in `*`) holds a path.
pub(super) fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

/// Whether a rule allows a request: upstream's definition, word by word. The index is tested against it,
/// and it serves where there is one rule and no index.
#[must_use]
pub fn rule_allows(rule: &PolicyRule, a: &Attributes<'_>) -> bool {
    let has = |l: &Option<Vec<String>>, x: &str| l.iter().flatten().any(|s| s == "*" || s == x);
    if !rule.verbs.iter().any(|v| v == "*" || v == a.verb) {
        return false;
    }
    if !a.resource_request {
        return rule.non_resource_urls.iter().flatten().any(|u| url_matches(u, a.path));
    }
    let resource = if a.subresource.is_empty() {
        has(&rule.resources, a.resource)
    } else {
        has(&rule.resources, &format!("{}/{}", a.resource, a.subresource))
            || rule.resources.iter().flatten().any(|r| r.strip_prefix("*/") == Some(a.subresource))
    };
    has(&rule.api_groups, a.group)
        && resource
        && rule.resource_names.as_ref().is_none_or(|n| n.is_empty() || n.iter().any(|n| n == a.name))
}
