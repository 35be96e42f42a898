//! Conditions of a status.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::time::Time;

/// A condition. Kinds differ in which times theirs have; one that is `None` is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `type`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    #[serde(deserialize_with = "text")]
    pub status: String,
    /// The machine-readable reason.
    #[serde(deserialize_with = "text")]
    pub reason: String,
    /// The sentence for people.
    #[serde(deserialize_with = "text")]
    pub message: String,
    /// `lastProbeTime`.
    pub last_probe_time: Option<Time>,
    /// `lastUpdateTime`.
    pub last_update_time: Option<Time>,
    /// `lastTransitionTime`.
    pub last_transition_time: Option<Time>,
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

impl Condition {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut map = Map::new();
        map.insert("type".to_owned(), json!(self.kind));
        map.insert("status".to_owned(), json!(self.status));
        let times = [
            ("lastProbeTime", self.last_probe_time),
            ("lastUpdateTime", self.last_update_time),
            ("lastTransitionTime", self.last_transition_time),
        ];
        map.extend(times.into_iter().filter_map(|(key, time)| Some((key.to_owned(), json!(time?)))));
        for (key, text) in [("reason", &self.reason), ("message", &self.message)] {
            if !text.is_empty() {
                map.insert(key.to_owned(), json!(text));
            }
        }
        Value::Object(map)
    }
}

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.kind == kind)
}

/// Whether there is a condition of a type and it is true.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|c| c.status == "True")
}

/// Takes out the condition of a type.
pub fn remove(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|c| c.kind != kind);
}

/// Conditions as JSON; `null`, which a merge patch takes for removal, when there are none.
#[must_use]
pub fn json_of(conditions: &[Condition]) -> Value {
    if conditions.is_empty() { Value::Null } else { conditions.iter().map(Condition::json).collect() }
}

/// A count as JSON; `null`, which a merge patch takes for removal, for none, as upstream leaves zeros out.
#[must_use]
pub fn json_count(n: i32) -> Value {
    if n == 0 { Value::Null } else { json!(n) }
}
