//! Whether a pod could run on a node that does not exist yet: by what it asks for, selects and tolerates. What depends on
//! other pods (affinity between pods, spreading) is left to the pod scheduler: if it refuses the new node, the pod is
//! still there at the next look, and the node is returned when it stays empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Amounts;

/// A pod that waits for a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingPod {
    /// `NAMESPACE/NAME`, for messages and order.
    pub name: String,
    /// What it asks for; one pod among it.
    pub amounts: Amounts,
    /// What it wants of its node.
    pub demands: Demands,
}

/// What a pod wants of its node besides room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Demands {
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Of these terms one must hold; none at all holds always.
    pub node_terms: Vec<Vec<Requirement>>,
    /// Taints that it puts up with.
    pub tolerations: Vec<Toleration>,
}

/// A condition on a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Which label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// With what.
    pub values: Vec<String>,
}

/// A taint that a pod puts up with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// Which; empty for all.
    pub key: String,
    /// `Equal` or `Exists`; empty is `Equal`.
    pub operator: String,
    /// With which value.
    pub value: String,
    /// Which effect; empty for all.
    pub effect: String,
}

/// What keeps pods off a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Which.
    pub key: String,
    /// With which value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let number = |text: &String| text.parse::<i64>().ok();
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            operator @ ("Gt" | "Lt") => {
                match (value.and_then(number), self.values.first().and_then(number)) {
                    (Some(have), Some(than)) if operator == "Gt" => have > than,
                    (Some(have), Some(than)) => have < than,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator.as_str() {
                "Exists" => true,
                "" | "Equal" => !self.key.is_empty() && self.value == taint.value,
                _ => false,
            }
    }
}

impl Demands {
    /// Whether a node with these labels and taints will do.
    #[must_use]
    pub fn accept(&self, labels: &BTreeMap<String, String>, taints: &[Taint]) -> bool {
        let selected = self.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v));
        // A term without requirements matches nothing.
        let matches = |term: &Vec<Requirement>| !term.is_empty() && term.iter().all(|r| r.holds(labels));
        let affine = self.node_terms.is_empty() || self.node_terms.iter().any(matches);
        let tolerated = taints
            .iter()
            .filter(|t| t.effect != "PreferNoSchedule")
            .all(|taint| self.tolerations.iter().any(|t| t.tolerates(taint)));
        selected && affine && tolerated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> Requirement {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        Requirement { key: key.to_owned(), operator: operator.to_owned(), values }
    }

    #[test]
    fn labels_are_asked_as_kubernetes_asks_them() {
        let labels: BTreeMap<String, String> =
            [("zone", "a"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (key, operator, values, want) in [
            ("zone", "In", &["a", "b"][..], true),
            ("zone", "In", &["b"], false),
            ("zone", "NotIn", &["b"], true),
            ("none", "NotIn", &["b"], true),
            ("zone", "Exists", &[], true),
            ("none", "Exists", &[], false),
            ("none", "DoesNotExist", &[], true),
            ("cores", "Gt", &["4"], true),
            ("cores", "Lt", &["4"], false),
            ("zone", "Gt", &["4"], false),
            ("zone", "Like", &["a"], false),
        ] {
            assert_eq!(
                requirement(key, operator, values).holds(&labels),
                want,
                "{key} {operator} {values:?}"
            );
        }
        let term = |operator: &str| vec![requirement("zone", operator, &["a"])];
        let demands = |terms| Demands { node_terms: terms, ..Demands::default() };
        assert!(demands(vec![]).accept(&labels, &[]));
        assert!(demands(vec![term("NotIn"), term("In")]).accept(&labels, &[]), "one of them is enough");
        assert!(!demands(vec![vec![]]).accept(&labels, &[]), "an empty term matches nothing");
        let selector = [("zone".to_owned(), "b".to_owned())].into();
        assert!(!Demands { node_selector: selector, ..Demands::default() }.accept(&labels, &[]));
    }

    #[test]
    fn taints_keep_pods_off_unless_tolerated() {
        let taint = |effect: &str| Taint { key: "k".into(), value: "v".into(), effect: effect.into() };
        let with = |key: &str, operator: &str, value: &str, effect: &str| Demands {
            tolerations: vec![Toleration {
                key: key.into(),
                operator: operator.into(),
                value: value.into(),
                effect: effect.into(),
            }],
            ..Demands::default()
        };
        let none = BTreeMap::new();
        assert!(!Demands::default().accept(&none, &[taint("NoSchedule")]));
        assert!(Demands::default().accept(&none, &[taint("PreferNoSchedule")]));
        for (demands, want) in [
            (with("k", "Equal", "v", "NoSchedule"), true),
            (with("k", "", "v", ""), true),
            (with("k", "Equal", "w", ""), false),
            (with("k", "Exists", "", ""), true),
            (with("", "Exists", "", ""), true),
            (with("", "Equal", "", ""), false),
            (with("k", "Exists", "", "NoExecute"), false),
        ] {
            assert_eq!(demands.accept(&none, &[taint("NoSchedule")]), want, "{demands:?}");
        }
    }
}
