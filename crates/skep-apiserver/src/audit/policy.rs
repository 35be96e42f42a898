//! What is recorded of which request: `audit.k8s.io/v1` Policy, evaluated as upstream does.

use serde::Deserialize;

use super::event::Stage;

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when, and the answer's code.
    Metadata,
    /// The body of the request too.
    Request,
    /// The body of the answer too.
    RequestResponse,
}

/// What a policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    /// At which stages nothing is.
    pub omitted: Vec<Stage>,
    /// Leave managed fields out of bodies.
    pub omit_managed_fields: bool,
}

/// A request, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a str,
    /// Their groups.
    pub groups: &'a [String],
    /// What is done.
    pub verb: &'a str,
    /// Group, resource, subresource, namespace and name; `None` for other paths.
    pub resource: Option<Resource<'a>>,
    /// The path, for requests that are not about a resource.
    pub path: &'a str,
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty when none is named.
    pub namespace: &'a str,
    /// Empty for a collection.
    pub name: &'a str,
}

/// What is wrong with a policy file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not YAML, or not of this form.
    #[error("the audit policy cannot be read: {0}")]
    Malformed(#[from] serde_yaml_ng::Error),
    /// Another kind or version.
    #[error("the audit policy is a {kind} of {api_version}; it must be a Policy of audit.k8s.io/v1")]
    Kind {
        /// What the file says.
        kind: String,
        /// What the file says.
        api_version: String,
    },
    /// No rules: nothing would be recorded.
    #[error("the audit policy has no rules; add at least {{level: Metadata}}")]
    Empty,
    /// A rule that can match nothing, or two things at once.
    #[error("rule {index} of the audit policy {why}")]
    Rule {
        /// From 0.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// A policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Name and the like: not used.
    #[serde(default, rename = "metadata")]
    _metadata: serde::de::IgnoredAny,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    /// Everything, at [`Level::Metadata`], once it is done.
    #[must_use]
    pub fn metadata() -> Policy {
        let rule = Rule {
            level: Level::Metadata,
            users: Vec::new(),
            user_groups: Vec::new(),
            verbs: Vec::new(),
            resources: Vec::new(),
            namespaces: Vec::new(),
            non_resource_urls: Vec::new(),
            omit_stages: Vec::new(),
            omit_managed_fields: None,
        };
        Policy { rules: vec![rule], omit_stages: vec![Stage::RequestReceived], ..Policy::default() }
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn parse(yaml: &str) -> Result<Policy, PolicyError> {
        let policy: Policy = serde_yaml_ng::from_str(yaml)?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(PolicyError::Kind { kind: policy.kind, api_version: policy.api_version });
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if of_resources && !rule.non_resource_urls.is_empty() {
                return Err(PolicyError::Rule { index, why: "names both resources and other paths" });
            }
            if rule.resources.iter().any(|r| r.resources.is_empty() && !r.resource_names.is_empty()) {
                return Err(PolicyError::Rule { index, why: "names objects, but no resources" });
            }
            if rule.non_resource_urls.iter().any(|u| u != "*" && !u.starts_with('/')) {
                return Err(PolicyError::Rule {
                    index,
                    why: "names a path that does not begin with a slash",
                });
            }
        }
        Ok(policy)
    }

    /// What the first rule that matches says; without one nothing is recorded.
    #[must_use]
    pub fn verdict(&self, attributes: &Attributes<'_>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|r| r.matches(attributes)) else {
            return Verdict { level: Level::None, omitted: Vec::new(), omit_managed_fields: false };
        };
        let omitted = rule.omit_stages.iter().chain(&self.omit_stages).copied().collect();
        Verdict {
            level: rule.level,
            omitted,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|i| i == wanted)
}

impl Rule {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        if !self.users.is_empty() && !has(&self.users, attributes.user) {
            return false;
        }
        if !self.user_groups.is_empty() && !attributes.groups.iter().any(|g| has(&self.user_groups, g)) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, attributes.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return attributes.resource.is_some_and(|r| self.matches_resource(&r));
        }
        if !self.non_resource_urls.is_empty() {
            return attributes.resource.is_none()
                && self.non_resource_urls.iter().any(|u| match u.strip_suffix('*') {
                    Some(prefix) => attributes.path.starts_with(prefix),
                    None => attributes.path == u,
                });
        }
        true
    }

    fn matches_resource(&self, of: &Resource<'_>) -> bool {
        if !self.namespaces.is_empty() && !has(&self.namespaces, of.namespace) {
            return false;
        }
        let combined = if of.subresource.is_empty() {
            of.resource.to_owned()
        } else {
            format!("{}/{}", of.resource, of.subresource)
        };
        let matches = |pattern: &str| {
            pattern == combined
                || pattern == "*"
                || pattern.strip_prefix("*/").is_some_and(|sub| !sub.is_empty() && sub == of.subresource)
                || pattern.strip_suffix("/*").is_some_and(|resource| resource == of.resource)
        };
        self.resources.is_empty()
            || self.resources.iter().filter(|r| r.group == of.group).any(|r| {
                r.resources.is_empty()
                    || ((r.resource_names.is_empty() || has(&r.resource_names, of.name))
                        && r.resources.iter().any(|p| matches(p)))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource<'a>(group: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Resource<'a> {
        Resource { group, resource, subresource, namespace: "n", name }
    }

    fn level(policy: &str, verb: &str, resource: Option<Resource<'_>>, path: &str) -> Level {
        let policy = Policy::parse(policy).unwrap();
        let groups = ["devs".to_owned()];
        policy.verdict(&Attributes { user: "ann", groups: &groups, verb, resource, path }).level
    }

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [bob]}
- {level: None, nonResourceURLs: ["/healthz*", "/version"]}
- level: RequestResponse
  resources:
  - {group: "", resources: [pods, "services/*", "*/scale"]}
  - {group: apps}
- {level: Request, resources: [{group: "", resources: [configmaps], resourceNames: [a]}]}
- {level: None, namespaces: [n], verbs: [watch]}
- {level: Metadata, userGroups: [devs], omitStages: [ResponseStarted], omitManagedFields: true}
"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let of = |r: Resource<'_>| level(POLICY, "get", Some(r), "");
        assert_eq!(of(resource("", "pods", "", "x")), Level::RequestResponse);
        assert_eq!(of(resource("", "pods", "log", "x")), Level::Metadata);
        assert_eq!(of(resource("", "services", "proxy", "x")), Level::RequestResponse);
        assert_eq!(of(resource("", "services", "", "x")), Level::RequestResponse);
        assert_eq!(of(resource("", "replicationcontrollers", "scale", "x")), Level::RequestResponse);
        assert_eq!(of(resource("apps", "deployments", "status", "x")), Level::RequestResponse);
        assert_eq!(of(resource("batch", "pods", "", "x")), Level::Metadata);
        assert_eq!(of(resource("", "configmaps", "", "a")), Level::Request);
        assert_eq!(of(resource("", "configmaps", "", "b")), Level::Metadata);
        assert_eq!(level(POLICY, "watch", Some(resource("", "secrets", "", "")), ""), Level::None);
        assert_eq!(level(POLICY, "get", None, "/healthz/ping"), Level::None);
        assert_eq!(level(POLICY, "get", None, "/version"), Level::None);
        assert_eq!(level(POLICY, "get", None, "/version/x"), Level::Metadata);
        let policy = Policy::parse(POLICY).unwrap();
        let bob = Attributes { user: "bob", groups: &[], verb: "get", resource: None, path: "/" };
        assert_eq!(policy.verdict(&bob).level, Level::None);
        let nobody = Attributes { user: "eve", ..bob };
        assert_eq!(policy.verdict(&nobody).level, Level::None);
        let groups = ["devs".to_owned()];
        let verdict = policy.verdict(&Attributes { groups: &groups, ..nobody });
        assert_eq!(verdict.omitted, [Stage::ResponseStarted, Stage::RequestReceived]);
        assert!(verdict.omit_managed_fields);
    }

    #[test]
    fn bad_policies_are_refused_with_a_reason() {
        let with = |rules: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}");
        let table = [
            ("kind: Pod\napiVersion: v1".to_owned(), "is a Pod of v1"),
            (with("[]"), "has no rules"),
            (with("[{level: Loud}]"), "unknown variant"),
            (with("[{level: None, tenants: [a]}]"), "unknown field `tenants`"),
            (
                with("[{level: None, namespaces: [a], nonResourceURLs: [/a]}]"),
                "rule 0 of the audit policy names both",
            ),
            (
                with("[{level: None}, {level: None, resources: [{resourceNames: [a]}]}]"),
                "rule 1 of the audit policy names objects",
            ),
            (with("[{level: None, nonResourceURLs: [a]}]"), "does not begin with a slash"),
            ("[".to_owned(), "cannot be read"),
        ];
        for (yaml, why) in table {
            let error = Policy::parse(&yaml).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
