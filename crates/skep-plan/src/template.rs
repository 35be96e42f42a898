//! Pod templates: JSON text that is kept once and rarely taken apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::labels::Labels;
use crate::meta::{Meta, OwnerKind};

/// The label that tells the pods and replica sets of one revision of a Deployment from the others'.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod template: its metadata, and its spec as JSON text in canonical form.
///
/// Canonical: keys sorted, nulls and empty lists left out. Two templates of which the API says the same are then equal
/// as bytes, and comparing, hashing and making a pod body are copies of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// What else the metadata holds (a name, a namespace): compared, never given to a pod.
    rest: Arc<str>,
    /// `spec`.
    pub spec: Arc<str>,
}

impl Default for Template {
    fn default() -> Template {
        let none: Arc<str> = "{}".into();
        Template {
            labels: Labels::default(),
            annotations: BTreeMap::new(),
            finalizers: Vec::new(),
            rest: Arc::clone(&none),
            spec: none,
        }
    }
}

/// JSON in the form in which equal values have equal bytes.
#[must_use]
pub fn canonical(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, Value)> = map
                .iter()
                .filter(|(_, v)| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty()))
                .map(|(k, v)| (k, sorted(v)))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), v)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

impl Template {
    /// From JSON.
    #[must_use]
    pub fn from_value(value: &Value) -> Template {
        let meta = value.get("metadata");
        let texts = |key: &str| -> BTreeMap<String, String> {
            let of = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let map = meta.and_then(|m| m.get(key)).and_then(Value::as_object);
            map.map(|m| m.iter().map(|(k, v)| (k.clone(), of(v))).collect()).unwrap_or_default()
        };
        let finalizers = meta.and_then(|m| m.get("finalizers")).and_then(Value::as_array);
        let own = ["labels", "annotations", "finalizers", "creationTimestamp"];
        let rest: Map<String, Value> = meta
            .and_then(Value::as_object)
            .map(|m| {
                m.iter().filter(|(k, _)| !own.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone()))
            })
            .into_iter()
            .flatten()
            .collect();
        let labels = texts("labels");
        Template {
            labels: labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            annotations: texts("annotations"),
            finalizers: finalizers
                .map(|f| f.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
                .unwrap_or_default(),
            rest: canonical(&Value::Object(rest)).into(),
            spec: value.get("spec").map_or_else(|| "{}".to_owned(), canonical).into(),
        }
    }

    /// As JSON, with these labels in place of its own.
    #[must_use]
    pub fn json_with_labels(&self, labels: &Labels) -> Value {
        let mut meta = serde_json::from_str(&self.rest).unwrap_or_else(|_| json!({}));
        if !labels.is_empty() {
            meta["labels"] = json!(labels);
        }
        if !self.annotations.is_empty() {
            meta["annotations"] = json!(self.annotations);
        }
        if !self.finalizers.is_empty() {
            meta["finalizers"] = json!(self.finalizers);
        }
        json!({ "metadata": meta, "spec": self.spec_value() })
    }

    /// The spec, taken apart.
    #[must_use]
    pub fn spec_value(&self) -> Value {
        // The text was written from a value.
        serde_json::from_str(&self.spec).unwrap_or(Value::Null)
    }

    /// Whether both say the same of a pod, the hash label aside.
    #[must_use]
    pub fn same_pods(&self, other: &Template) -> bool {
        self.spec == other.spec
            && self.annotations == other.annotations
            && self.finalizers == other.finalizers
            && self.rest == other.rest
            && without_hash(&self.labels).eq(without_hash(&other.labels))
    }

    /// The name of this template among its owner's: from the contents, and how often names have collided.
    ///
    /// Upstream hashes a Go rendering of the decoded struct, which nobody else can compute; the form is the same.
    #[must_use]
    pub fn hash(&self, collisions: Option<i32>) -> String {
        let mut hash = FNV_OFFSET;
        let text = canonical(&self.json_with_labels(&self.labels));
        hash = fnv1a(hash, text.as_bytes());
        if let Some(n) = collisions {
            hash = fnv1a(hash, &n.to_le_bytes());
        }
        safe_encode(&hash.to_string())
    }

    /// The body of a create request of a pod of `owner`, whose name the API server completes.
    #[must_use]
    pub fn pod_body(&self, owner: &Meta, kind: OwnerKind) -> String {
        let mut meta = json!({
            "generateName": generate_name(&owner.name),
            "labels": self.labels,
            "ownerReferences": [owner.controller_ref(kind)],
        });
        if !self.annotations.is_empty() {
            meta["annotations"] = json!(self.annotations);
        }
        if !self.finalizers.is_empty() {
            meta["finalizers"] = json!(self.finalizers);
        }
        pod_body(&meta, &self.spec)
    }
}

/// A pod as JSON text from its metadata and the text of its spec.
#[must_use]
pub fn pod_body(meta: &Value, spec: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{meta},"spec":{spec}}}"#)
}

/// What the names of an owner's pods begin with: its name and a dash, the dash left out where the whole would be no name.
#[must_use]
pub fn generate_name(owner: &str) -> String {
    // A pod's name is a DNS subdomain, and this is checked with the trailing dash left off.
    if owner.len() < MAX_NAME_LENGTH { format!("{owner}-") } else { owner.to_owned() }
}

/// The longest name of an object (a DNS subdomain). Longer ones are refused by the API server.
pub const MAX_NAME_LENGTH: usize = 253;

fn without_hash(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().filter(|(k, _)| *k != POD_TEMPLATE_HASH)
}

pub(crate) const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// FNV-1a.
pub(crate) fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// FNV-1, which multiplies before it mixes.
pub(crate) fn fnv1(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| hash.wrapping_mul(FNV_PRIME) ^ u32::from(*byte))
}

/// Writes a text in an alphabet without vowels and look-alikes, so that no name becomes a word.
#[must_use]
pub fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
        Value::deserialize(deserializer).map(|v| Template::from_value(&v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(value: &Value) -> Template {
        Template::from_value(value)
    }

    #[test]
    fn what_the_api_says_differently_is_the_same() {
        let a = template(&json!({"metadata": {"labels": {"a": "1"}, "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": []}}));
        let b = template(&json!({"spec": {"containers": [{"image": "i", "name": "c"}]},
            "metadata": {"labels": {"pod-template-hash": "x", "a": "1"}}}));
        assert!(a.same_pods(&b));
        let c = template(&json!({"metadata": {"labels": {"a": "1"}},
            "spec": {"containers": [{"name": "c", "image": "i2"}]}}));
        assert!(!a.same_pods(&c));
        assert_ne!(a.hash(None), c.hash(None));
        assert_ne!(a.hash(None), a.hash(Some(0)));
        assert_ne!(a.hash(Some(0)), a.hash(Some(1)));
    }

    #[test]
    fn hashes_have_upstreams_form() {
        let hash = template(&json!({"spec": {}})).hash(None);
        assert!((8..=10).contains(&hash.len()), "{hash}");
        assert!(hash.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)), "{hash}");
        // Computed with Go's rand.SafeEncodeString.
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn bodies_are_pods() {
        let owner: Meta = serde_json::from_value(json!({"name": "web", "uid": "u"})).unwrap();
        let body = template(&json!({"metadata": {"labels": {"a": "1"}, "annotations": {"x": "y"}}, "spec": {"containers": []}}))
            .pod_body(&owner, OwnerKind::ReplicaSet);
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["metadata"]["generateName"], "web-");
        assert_eq!(value["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
        assert_eq!(value["metadata"]["annotations"]["x"], "y");
        assert_eq!(value["spec"], json!({}));
    }
}
