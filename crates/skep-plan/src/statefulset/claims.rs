//! The claims of a StatefulSet's pods, and who owns them.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{StatefulSet, in_range};
use crate::meta::{Meta, Uid};
use crate::pod::Pod;

/// A view of a PersistentVolumeClaim, with all its owners.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// `metadata`.
    pub meta: Meta,
    /// `metadata.ownerReferences`.
    pub owners: Vec<Owner>,
}

/// An owner reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    api_version: String,
    kind: String,
    name: String,
    uid: Uid,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

impl Owner {
    fn json(&self) -> Value {
        let mut value =
            json!({ "apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid });
        for (key, flag) in
            [("controller", self.controller), ("blockOwnerDeletion", self.block_owner_deletion)]
        {
            if let Some(flag) = flag {
                value[key] = json!(flag);
            }
        }
        value
    }

    fn is(&self, api_version: &str, kind: &str, name: &str) -> bool {
        self.api_version == api_version && self.kind == kind && self.name == name
    }

    /// Whether it is a pod of this name.
    pub(super) fn is_pod(&self, name: &str) -> bool {
        self.is("v1", "Pod", name)
    }

    fn managing(api_version: &str, kind: &str, name: &str, uid: &Uid) -> Owner {
        Owner {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Claim, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            metadata: Value,
        }
        let raw = Raw::deserialize(deserializer)?;
        let owners = raw.metadata.get("ownerReferences").cloned().unwrap_or(Value::Null);
        let owners: Option<Vec<Owner>> = serde_json::from_value(owners).map_err(serde::de::Error::custom)?;
        let meta = serde_json::from_value(raw.metadata).map_err(serde::de::Error::custom)?;
        Ok(Claim { meta, owners: owners.unwrap_or_default() })
    }
}

/// The owners that a claim shall have, if they differ from those it has. `pod`: the pod of its ordinal, if it exists.
pub(super) fn owners(set: &StatefulSet, claim: &Claim, pod: &Pod) -> Option<Vec<Owner>> {
    const SET: (&str, &str) = ("apps/v1", "StatefulSet");
    const POD: (&str, &str) = ("v1", "Pod");
    let of_set = |o: &Owner| o.is(SET.0, SET.1, &set.meta.name);
    let of_pod = |o: &Owner| o.is(POD.0, POD.1, &pod.name);
    let stale = |o: &Owner| (of_set(o) && o.uid != set.meta.uid) || (of_pod(o) && o.uid != pod.uid);
    let foreign = |o: &Owner| !of_set(o) && !of_pod(o) && o.controller == Some(true);
    // The garbage collector has yet to deal with an owner of the same name that is gone.
    if claim.owners.iter().any(stale) {
        return None;
    }
    let mut wanted: Vec<Owner> = claim.owners.iter().filter(|o| !of_set(o) && !of_pod(o)).cloned().collect();
    // Somebody else manages the claim: the policy does not hold for it.
    if !claim.owners.iter().any(foreign) {
        let scaled_down = !in_range(set, &pod.name);
        if set.delete_when_scaled && scaled_down {
            wanted.push(Owner::managing(POD.0, POD.1, &pod.name, &pod.uid));
        } else if set.delete_when_deleted {
            wanted.push(Owner::managing(SET.0, SET.1, &set.meta.name, &set.meta.uid));
        }
    }
    (wanted != claim.owners).then_some(wanted)
}

/// The merge patch that gives a claim these owners.
pub(super) fn owners_patch(claim: &Claim, owners: &[Owner]) -> Value {
    let owners: Vec<Value> = owners.iter().map(Owner::json).collect();
    json!({ "metadata": {
        "uid": claim.meta.uid,
        "resourceVersion": claim.meta.resource_version,
        "ownerReferences": owners,
    }})
}
