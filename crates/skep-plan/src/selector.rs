//! Label selectors as objects carry them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use skep_base::selector::{LabelSelector, Operator, Requirement};

use crate::labels::Labels;

/// A selector of an object's spec: `matchLabels` and `matchExpressions`, or the plain map that a
/// ReplicationController has.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Value>,
    /// `None`: the parts make no selector; the API does not let such an object in.
    compiled: Option<LabelSelector>,
}

impl Selector {
    /// A selector of exact labels.
    #[must_use]
    pub fn of_labels(labels: BTreeMap<String, String>) -> Selector {
        let compiled = LabelSelector::from_labels(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        Selector { match_labels: labels, match_expressions: Vec::new(), compiled: Some(compiled) }
    }

    /// Whether it selects something with these labels. An empty or broken selector selects nothing here: a controller
    /// that takes hold of everything in a namespace is never what somebody meant.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let Some(compiled) = &self.compiled else { return false };
        !self.is_empty() && compiled.matches(|key| labels.get(key))
    }

    /// Whether it has no conditions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether its parts make a selector.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.compiled.is_some()
    }

    /// As requests carry it; nothing where it is broken.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        self.compiled.as_ref().map(ToString::to_string)
    }

    /// The labels it demands, without its expressions.
    #[must_use]
    pub fn match_labels(&self) -> &BTreeMap<String, String> {
        &self.match_labels
    }

    /// As JSON, with one more label demanded.
    #[must_use]
    pub fn json_with(&self, key: &str, value: &str) -> Value {
        let mut labels = self.match_labels.clone();
        labels.insert(key.to_owned(), value.to_owned());
        let mut out = json!({ "matchLabels": labels });
        if !self.match_expressions.is_empty() {
            out["matchExpressions"] = Value::Array(self.match_expressions.clone());
        }
        out
    }
}

impl Default for Selector {
    fn default() -> Selector {
        Selector::of_labels(BTreeMap::new())
    }
}

fn requirement(expression: &Value) -> Option<Requirement> {
    let operator = match expression.get("operator")?.as_str()? {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return None,
    };
    let values = match expression.get("values") {
        None | Some(Value::Null) => Vec::new(),
        Some(values) => {
            values.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<_>>()?
        }
    };
    Requirement::new(expression.get("key")?.as_str()?, operator, values).ok()
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Selector, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            #[serde(default)]
            match_labels: Option<BTreeMap<String, String>>,
            #[serde(default)]
            match_expressions: Option<Vec<Value>>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let match_labels = raw.match_labels.unwrap_or_default();
        let match_expressions = raw.match_expressions.unwrap_or_default();
        let exact = LabelSelector::from_labels(match_labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let compiled = match_expressions
            .iter()
            .map(requirement)
            .collect::<Option<Vec<_>>>()
            .map(|more| LabelSelector::new(exact.requirements().iter().cloned().chain(more).collect()));
        Ok(Selector { match_labels, match_expressions, compiled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_broken_selectors_select_nothing() {
        let labels: Labels = [("a", "1"), ("b", "2")].into_iter().collect();
        let parse = |v: Value| serde_json::from_value::<Selector>(v).unwrap();
        assert!(parse(json!({"matchLabels": {"a": "1"}})).matches(&labels));
        assert!(!parse(json!({})).matches(&labels));
        let expression = |op: &str, values: Value| {
            parse(json!({"matchExpressions": [{"key": "a", "operator": op, "values": values}]}))
        };
        assert!(expression("In", json!(["0", "1"])).matches(&labels));
        assert!(!expression("NotIn", json!(["1"])).matches(&labels));
        assert!(!expression("Like", json!(["1"])).is_valid());
        assert!(!expression("Like", json!(["1"])).matches(&labels));
    }
}
