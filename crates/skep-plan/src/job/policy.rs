//! What a Job makes of failed pods and of completed indexes, by its rules.

use serde::Deserialize;

use super::Job;
use super::indexes::Indexes;
use crate::pod::Pod;

/// `spec.podFailurePolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct FailurePolicy {
    /// The first that matches decides.
    #[serde(default)]
    rules: Vec<FailureRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FailureRule {
    #[serde(default)]
    action: String,
    #[serde(default)]
    on_exit_codes: Option<OnExitCodes>,
    #[serde(default)]
    on_pod_conditions: Option<Vec<OnCondition>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnExitCodes {
    #[serde(default)]
    container_name: Option<String>,
    #[serde(default)]
    operator: String,
    #[serde(default)]
    values: Vec<i32>,
}

#[derive(Clone, Debug, Deserialize)]
struct OnCondition {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    status: String,
}

/// What becomes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts against the backoff limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed; why.
    FailJob(String),
}

impl FailurePolicy {
    /// What becomes of a failed pod.
    #[must_use]
    pub fn judge(&self, namespace: &str, pod: &Pod) -> Verdict {
        for (i, rule) in self.rules.iter().enumerate() {
            let action = rule.action.as_str();
            let why = if let Some(codes) = &rule.on_exit_codes {
                let fits = |name: &str, code: i32| {
                    codes.container_name.as_ref().is_none_or(|n| n == name)
                        && match codes.operator.as_str() {
                            "In" => codes.values.contains(&code),
                            "NotIn" => !codes.values.contains(&code),
                            _ => false,
                        }
                };
                pod.more().failed.iter().find(|f| fits(&f.container, f.exit_code)).map(|f| {
                    let (container, code) = (&f.container, f.exit_code);
                    format!(
                        "Container {container} for pod {namespace}/{} failed with exit code {code} matching {action} rule at index {i}",
                        pod.name
                    )
                })
            } else {
                let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
                let fits =
                    |kind: &str, status: &str| patterns.iter().any(|p| p.kind == kind && p.status == status);
                pod.more().conditions.iter().find(|(kind, status)| fits(kind, status)).map(|(kind, _)| {
                    format!(
                        "Pod {namespace}/{} has condition {kind} matching {action} rule at index {i}",
                        pod.name
                    )
                })
            };
            match (why, action) {
                (Some(_), "Ignore") => return Verdict::Ignore,
                (Some(_), "FailIndex") => return Verdict::FailIndex,
                (Some(_), "Count") => return Verdict::Count,
                (Some(why), "FailJob") => return Verdict::FailJob(why),
                _ => {}
            }
        }
        Verdict::Count
    }
}

/// `spec.successPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SuccessPolicy {
    #[serde(default)]
    rules: Vec<SuccessRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SuccessRule {
    #[serde(default)]
    succeeded_indexes: Option<String>,
    #[serde(default)]
    succeeded_count: Option<i32>,
}

impl SuccessPolicy {
    /// Which rule is fulfilled, in words.
    #[must_use]
    pub fn matched(&self, completions: i32, succeeded: &Indexes) -> Option<String> {
        if succeeded.is_empty() {
            return None;
        }
        let fulfilled = |rule: &SuccessRule| match (&rule.succeeded_indexes, rule.succeeded_count) {
            (Some(text), count) => {
                let wanted = Indexes::parse(text, completions);
                let have = wanted.overlap(succeeded);
                !wanted.is_empty() && (have == wanted.total() || count.is_some_and(|n| have >= n))
            }
            (None, Some(count)) => succeeded.total() >= count,
            (None, None) => false,
        };
        let index = self.rules.iter().position(fulfilled)?;
        Some(format!("Matched rules at index {index}"))
    }
}

impl Job {
    /// What becomes of a failed pod.
    pub(super) fn judge(&self, pod: &Pod) -> Verdict {
        self.failure_policy.as_ref().map_or(Verdict::Count, |p| p.judge(&self.meta.namespace, pod))
    }
}
