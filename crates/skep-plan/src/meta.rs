//! What every object's view holds: name, identity, owner.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use skep_base::SharedStr;

use crate::labels::Labels;
use crate::time::Time;

/// A uid. Nearly all are UUIDs in lower case and take 16 bytes; any other text is kept as it is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Uid {
    /// A UUID in the usual form.
    Uuid([u8; 16]),
    /// Anything else.
    Text(Box<str>),
}

impl Uid {
    /// From its text.
    #[must_use]
    pub fn new(text: &str) -> Uid {
        uuid_bytes(text).map_or_else(|| Uid::Text(text.into()), Uid::Uuid)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Uid::Text(text) if text.is_empty())
    }
}

impl Default for Uid {
    fn default() -> Uid {
        Uid::Text("".into())
    }
}

/// Ordered as the texts are.
impl Ord for Uid {
    fn cmp(&self, other: &Uid) -> std::cmp::Ordering {
        match (self, other) {
            (Uid::Uuid(a), Uid::Uuid(b)) => a.cmp(b),
            _ => self.to_string().cmp(&other.to_string()),
        }
    }
}

impl PartialOrd for Uid {
    fn partial_cmp(&self, other: &Uid) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|i| bytes.get(*i) != Some(&b'-')) {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut digits = bytes.iter().enumerate().filter(|(i, _)| ![8, 13, 18, 23].contains(i));
    let mut out = [0; 16];
    for byte in &mut out {
        let (_, high) = digits.next()?;
        let (_, low) = digits.next()?;
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uid::Text(text) => f.write_str(text),
            Uid::Uuid(bytes) => {
                for (i, byte) in bytes.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Uid, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer).map(|text| Uid::new(&text))
    }
}

/// The kinds of owners that planners tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` ReplicaSet.
    ReplicaSet,
    /// `v1` ReplicationController.
    ReplicationController,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// `batch/v1` Job.
    Job,
    /// `batch/v1` CronJob.
    CronJob,
    /// Anything else.
    Other,
}

impl OwnerKind {
    /// The kind's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OwnerKind::Deployment => "Deployment",
            OwnerKind::ReplicaSet => "ReplicaSet",
            OwnerKind::ReplicationController => "ReplicationController",
            OwnerKind::StatefulSet => "StatefulSet",
            OwnerKind::DaemonSet => "DaemonSet",
            OwnerKind::Job => "Job",
            OwnerKind::CronJob => "CronJob",
            OwnerKind::Other => "",
        }
    }

    /// Group and version, as owner references have them.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            OwnerKind::ReplicationController => "v1",
            OwnerKind::Job | OwnerKind::CronJob => "batch/v1",
            OwnerKind::Other => "",
            _ => "apps/v1",
        }
    }

    pub(crate) fn of(api_version: &str, kind: &str) -> OwnerKind {
        let known = [
            OwnerKind::Deployment,
            OwnerKind::ReplicaSet,
            OwnerKind::ReplicationController,
            OwnerKind::StatefulSet,
            OwnerKind::DaemonSet,
            OwnerKind::Job,
            OwnerKind::CronJob,
        ];
        // The version may differ from the one used here; the group may not.
        fn group(text: &str) -> &str {
            text.rsplit_once('/').map_or("", |(group, _)| group)
        }
        let same = |k: &OwnerKind| k.name() == kind && group(k.api_version()) == group(api_version);
        known.into_iter().find(same).unwrap_or(OwnerKind::Other)
    }
}

/// The owner that manages an object: the owner reference with `controller: true`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ControllerRef {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its name.
    pub name: SharedStr,
    /// Its uid.
    pub uid: Uid,
}

/// Metadata of the objects that own pods or hold revisions. Pods have their own, smaller ([`crate::Pod`]).
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub resource_version: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Option<Time>,
    /// `metadata.deletionTimestamp`.
    pub deleted: Option<Time>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// The owner that manages it.
    pub controller: Option<ControllerRef>,
}

impl Meta {
    /// An owner reference to this object that makes it the manager of what carries it.
    #[must_use]
    pub fn controller_ref(&self, kind: OwnerKind) -> Value {
        json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "name": self.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }

    /// Whether this object manages one with that owner.
    #[must_use]
    pub fn controls(&self, controller: Option<&ControllerRef>) -> bool {
        controller.is_some_and(|c| c.uid == self.uid)
    }

    /// Older first; the name decides between those of one second.
    #[must_use]
    pub fn by_age(&self, other: &Meta) -> std::cmp::Ordering {
        (self.created, &self.name).cmp(&(other.created, &other.name))
    }
}

/// Metadata as it stands in JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawMeta {
    #[serde(default)]
    pub(crate) namespace: Box<str>,
    #[serde(default)]
    pub(crate) name: Box<str>,
    #[serde(default)]
    pub(crate) uid: Uid,
    #[serde(default)]
    pub(crate) resource_version: Box<str>,
    #[serde(default)]
    pub(crate) generation: i64,
    #[serde(default)]
    pub(crate) creation_timestamp: Option<Time>,
    #[serde(default)]
    pub(crate) deletion_timestamp: Option<Time>,
    #[serde(default)]
    pub(crate) labels: Option<Labels>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) owner_references: Option<Vec<RawOwner>>,
    #[serde(default)]
    #[expect(dead_code, reason = "named so that the decoder skips it without building anything")]
    managed_fields: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawOwner {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: SharedStr,
    #[serde(default)]
    uid: Uid,
    #[serde(default)]
    controller: Option<bool>,
}

pub(crate) fn controller_of(owners: Option<Vec<RawOwner>>) -> Option<ControllerRef> {
    let owner = owners?.into_iter().find(|o| o.controller == Some(true))?;
    let kind = OwnerKind::of(&owner.api_version, &owner.kind);
    Some(ControllerRef { kind, name: owner.name, uid: owner.uid })
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Meta, D::Error> {
        let raw = RawMeta::deserialize(deserializer)?;
        Ok(Meta {
            namespace: raw.namespace,
            name: raw.name,
            uid: raw.uid,
            resource_version: raw.resource_version,
            generation: raw.generation,
            created: raw.creation_timestamp,
            deleted: raw.deletion_timestamp,
            labels: raw.labels.unwrap_or_default(),
            annotations: raw.annotations.unwrap_or_default(),
            controller: controller_of(raw.owner_references),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_keep_their_text() {
        for text in ["0123abcd-4567-89ab-cdef-0123456789ab", "", "0123ABCD-4567-89ab-cdef-0123456789ab", "x"]
        {
            assert_eq!(Uid::new(text).to_string(), text);
        }
        assert!(matches!(Uid::new("0123abcd-4567-89ab-cdef-0123456789ab"), Uid::Uuid(_)));
        assert!(
            Uid::new("0123abcd-4567-89ab-cdef-0123456789ab")
                < Uid::new("0123abcd-4567-89ab-cdef-0123456789ac")
        );
    }

    #[test]
    fn only_the_owner_that_controls_counts() {
        let meta: Meta = serde_json::from_value(json!({
            "name": "a",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "2", "controller": true},
            ],
        }))
        .unwrap();
        let owner = meta.controller.unwrap();
        assert_eq!((owner.kind, &*owner.name, owner.uid), (OwnerKind::Deployment, "d", Uid::new("2")));
        assert_eq!(OwnerKind::of("example.com/v1", "Job"), OwnerKind::Other);
    }
}
