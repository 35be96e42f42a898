//! On which nodes a DaemonSet's pods belong.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use skep_base::selector::{Operator, Requirement};

use crate::labels::Labels;
use crate::meta::Meta;

/// A view of a node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    key: String,
    value: String,
    effect: String,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            metadata: Meta,
            #[serde(default)]
            spec: Spec,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            taints: Option<Vec<Taint>>,
        }
        let raw = Raw::deserialize(deserializer)?;
        let taints = raw.spec.taints.unwrap_or_default();
        Ok(Node { name: raw.metadata.name, labels: raw.metadata.labels, taints })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Toleration {
    key: String,
    operator: String,
    value: String,
    effect: String,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key.is_empty() || self.key == taint.key;
        let value = match self.operator.as_str() {
            "" | "Equal" => self.value == taint.value && !self.key.is_empty(),
            "Exists" => true,
            "Lt" | "Gt" => {
                let numbers = self.value.parse::<i64>().ok().zip(taint.value.parse::<i64>().ok());
                numbers
                    .is_some_and(|(own, other)| if self.operator == "Lt" { other < own } else { other > own })
            }
            _ => false,
        };
        effect && key && value
    }
}

/// The taints that daemons live with: a node that is not well, or takes nothing new, still has its daemons.
pub(super) const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// One more, for those that bring their own network.
pub(super) const TOLERATED_IN_HOST_NETWORK: (&str, &str) =
    ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a pod template says about nodes.
#[derive(Debug)]
pub(super) struct Placement {
    node_name: String,
    selector: Vec<Requirement>,
    /// Any of these terms, if there are some; all conditions of a term on labels, then on the name.
    terms: Option<Vec<(Vec<Requirement>, Vec<Requirement>)>>,
    tolerations: Vec<Toleration>,
}

fn requirements(list: Option<&Value>) -> Option<Vec<Requirement>> {
    let one = |v: &Value| {
        let operator = match v.get("operator")?.as_str()? {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        };
        let values = v.get("values").and_then(Value::as_array);
        let values = values.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        Requirement::new(v.get("key")?.as_str()?, operator, values).ok()
    };
    list.and_then(Value::as_array).into_iter().flatten().map(one).collect()
}

impl Placement {
    /// Of a pod's spec, which already tolerates what daemons do.
    pub(super) fn of(spec: &Value) -> Placement {
        let equals = |(k, v): (&String, &Value)| {
            Requirement::new(k.as_str(), Operator::In, vec![v.as_str().unwrap_or_default().to_owned()]).ok()
        };
        let selector = spec.get("nodeSelector").and_then(Value::as_object);
        let terms = spec
            .pointer(
                "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
            )
            .and_then(Value::as_array);
        // A term that is empty, or not understood, fits no node.
        let term = |t: &Value| {
            let both = (requirements(t.get("matchExpressions"))?, requirements(t.get("matchFields"))?);
            (!both.0.is_empty() || !both.1.is_empty()).then_some(both)
        };
        let tolerations = spec.get("tolerations").cloned().unwrap_or_default();
        Placement {
            node_name: spec.get("nodeName").and_then(Value::as_str).unwrap_or_default().to_owned(),
            selector: selector.into_iter().flatten().filter_map(equals).collect(),
            terms: terms.map(|list| list.iter().filter_map(term).collect()),
            tolerations: serde_json::from_value(tolerations).unwrap_or_default(),
        }
    }

    /// Whether a pod should be on a node, and whether one that is there may stay.
    pub(super) fn fits(&self, node: &Node) -> (bool, bool) {
        let label = |r: &Requirement| r.matches(node.labels.get(r.key()));
        let field = |r: &Requirement| r.key() == "metadata.name" && r.matches(Some(&node.name));
        let named = self.node_name.is_empty() || *self.node_name == *node.name;
        let wanted = match &self.terms {
            None => true,
            Some(terms) => {
                terms.iter().any(|(labels, fields)| labels.iter().all(label) && fields.iter().all(field))
            }
        };
        if !(named && wanted && self.selector.iter().all(label)) {
            return (false, false);
        }
        let untolerated = |effects: &[&str]| {
            let counts = |t: &&Taint| effects.contains(&t.effect.as_str());
            node.taints.iter().filter(counts).any(|t| !self.tolerations.iter().any(|own| own.tolerates(t)))
        };
        (!untolerated(&["NoExecute", "NoSchedule"]), !untolerated(&["NoExecute"]))
    }
}
