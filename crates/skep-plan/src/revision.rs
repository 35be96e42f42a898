//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::meta::{Meta, OwnerKind, Uid};
use crate::refs::{Claim, claim};
use crate::selector::Selector;
use crate::template::{FNV_OFFSET, Template, canonical, fnv1, safe_encode};

/// The label with a revision's hash, on the revision.
pub const REVISION_HASH: &str = "controller.kubernetes.io/hash";
/// The label with a pod's revision: its name (StatefulSet) or hash (DaemonSet).
pub const POD_REVISION: &str = "controller-revision-hash";

/// The longest owner's name that goes into a revision's name whole.
const MAX_PREFIX: usize = 223;

/// A view of a ControllerRevision.
#[derive(Clone, Debug, Default)]
pub struct Revision {
    /// `metadata`.
    pub meta: Meta,
    /// `revision`: higher is newer.
    pub revision: i64,
    /// `data`, as canonical JSON text.
    pub data: Arc<str>,
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Revision, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            metadata: Meta,
            #[serde(default)]
            revision: i64,
            #[serde(default)]
            data: Value,
        }
        let raw = Raw::deserialize(deserializer)?;
        Ok(Revision { meta: raw.metadata, revision: raw.revision, data: canonical(&raw.data).into() })
    }
}

impl Revision {
    /// The template that it holds.
    #[must_use]
    pub fn template(&self) -> Template {
        let data: Value = serde_json::from_str(&self.data).unwrap_or_default();
        Template::from_value(data.pointer("/spec/template").unwrap_or(&Value::Null))
    }
}

/// Oldest first.
pub fn sort(revisions: &mut [&Revision]) {
    revisions.sort_by(|a, b| a.revision.cmp(&b.revision).then_with(|| a.meta.by_age(&b.meta)));
}

/// What a revision of a template holds.
#[must_use]
pub fn data_of(template: &Template) -> String {
    let mut value = template.json_with_labels(&template.labels);
    value["$patch"] = json!("replace");
    canonical(&json!({ "spec": { "template": value } }))
}

/// The hash of a revision's data.
#[must_use]
pub fn hash_of(data: &str, collisions: i32) -> String {
    let hash = fnv1(fnv1(FNV_OFFSET, data.as_bytes()), collisions.to_string().as_bytes());
    safe_encode(&hash.to_string())
}

/// The name of an owner's revision.
#[must_use]
pub fn name_of(owner: &str, hash: &str) -> String {
    format!("{}-{hash}", &owner[..owner.floor_char_boundary(MAX_PREFIX.min(owner.len()))])
}

/// A revision to create.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRevision {
    /// Its name.
    pub name: String,
    /// Its hash.
    pub hash: String,
    /// The request's body.
    pub body: Value,
}

/// What becomes the newest revision of an owner's template.
#[derive(Clone, Debug, PartialEq)]
pub enum Newest {
    /// The newest there is already.
    Known(Box<str>),
    /// An older one, that gets a new number.
    Again {
        /// Its name.
        name: Box<str>,
        /// Its uid.
        uid: Uid,
        /// Its version.
        resource_version: Box<str>,
        /// The new number.
        revision: i64,
    },
    /// There is none.
    New(NewRevision),
}

impl Newest {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Newest::Known(name) | Newest::Again { name, .. } => name,
            Newest::New(new) => &new.name,
        }
    }
}

/// The label of a revision that holds its hash.
fn hash_label(kind: OwnerKind) -> &'static str {
    if kind == OwnerKind::DaemonSet { POD_REVISION } else { REVISION_HASH }
}

/// The newest revision of a template. `revisions`: the owner's, sorted.
#[must_use]
pub fn newest(
    owner: &Meta,
    kind: OwnerKind,
    template: &Template,
    revisions: &[&Revision],
    collisions: i32,
) -> Newest {
    let data = data_of(template);
    let next = revisions.last().map_or(1, |r| r.revision + 1);
    match revisions.iter().rev().find(|r| *r.data == *data) {
        Some(equal) if revisions.last().is_some_and(|last| last.meta.uid == equal.meta.uid) => {
            Newest::Known(equal.meta.name.clone())
        }
        Some(equal) => Newest::Again {
            name: equal.meta.name.clone(),
            uid: equal.meta.uid.clone(),
            resource_version: equal.meta.resource_version.clone(),
            revision: next,
        },
        None => {
            let hash = hash_of(&data, collisions);
            let name = name_of(&owner.name, &hash);
            let data: Value = serde_json::from_str(&data).unwrap_or_default();
            let body = json!({
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": {
                    "name": name,
                    "namespace": owner.namespace,
                    "labels": template.labels.with(hash_label(kind), &hash),
                    "annotations": owner.annotations,
                    "ownerReferences": [owner.controller_ref(kind)],
                },
                "data": data,
                "revision": next,
            });
            Newest::New(NewRevision { name, hash, body })
        }
    }
}

/// The revisions of an owner, and what its template makes of them.
#[derive(Debug)]
pub struct History<'a> {
    /// Those to take, after making sure that the owner is not being deleted.
    pub adopt: Vec<&'a Revision>,
    /// The owner's, with those to take, oldest first.
    pub known: Vec<&'a Revision>,
    /// What becomes the newest.
    pub newest: Newest,
}

impl<'a> History<'a> {
    /// Of an owner; `revisions` are its own and those that nobody has.
    #[must_use]
    pub fn of(
        owner: &Meta,
        kind: OwnerKind,
        selector: &Selector,
        template: &Template,
        collisions: i32,
        revisions: &[&'a Revision],
    ) -> History<'a> {
        let (mut adopt, mut known) = (Vec::new(), Vec::new());
        for revision in revisions {
            let meta = &revision.meta;
            match claim(owner, selector, &meta.labels, meta.controller.as_ref(), meta.deleted.is_some()) {
                Claim::Own => known.push(*revision),
                Claim::Adopt => {
                    adopt.push(*revision);
                    known.push(*revision);
                }
                Claim::Release | Claim::Ignore => {}
            }
        }
        sort(&mut known);
        let newest = newest(owner, kind, template, &known, collisions);
        History { adopt, known, newest }
    }

    /// The newest revision, if it is to be written. An owner that is being deleted gets none: garbage collection, which
    /// deletes its revisions, and this would never come to an end.
    #[must_use]
    pub fn to_write(&self, owner: &Meta) -> Option<Newest> {
        let due = owner.deleted.is_none() && !matches!(self.newest, Newest::Known(_));
        due.then(|| self.newest.clone())
    }

    /// Those beyond a limit that nothing uses.
    #[must_use]
    pub fn excess(&self, limit: Option<i32>, in_use: &dyn Fn(&str) -> bool) -> Vec<&'a Revision> {
        let limit = limit.and_then(|n| usize::try_from(n).ok());
        limit.map_or_else(Vec::new, |limit| excess(&self.known, limit, in_use))
    }
}

/// Revisions to delete: the oldest of those beyond the limit that nothing uses.
#[must_use]
pub fn excess<'a>(
    revisions: &[&'a Revision],
    limit: usize,
    in_use: &dyn Fn(&str) -> bool,
) -> Vec<&'a Revision> {
    let idle: Vec<&Revision> = revisions.iter().copied().filter(|r| !in_use(&r.meta.name)).collect();
    let excess = idle.len().saturating_sub(limit);
    idle.into_iter().take(excess).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> Template {
        Template::from_value(
            &json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": image}]}}),
        )
    }

    fn stored(newest: &Newest, revision: i64) -> Revision {
        let Newest::New(new) = newest else { panic!("{newest:?}") };
        let mut r: Revision = serde_json::from_value(new.body.clone()).unwrap();
        r.meta.uid = Uid::new(&new.name);
        r.revision = revision;
        r
    }

    #[test]
    fn revisions_are_found_again() {
        let owner: Meta =
            serde_json::from_value(json!({"name": "db", "namespace": "ns", "uid": "u"})).unwrap();
        let of = |t: &Template, known: &[&Revision]| newest(&owner, OwnerKind::StatefulSet, t, known, 0);
        let first = stored(&of(&template("a"), &[]), 1);
        assert_eq!(
            first.meta.labels.get(REVISION_HASH).map(|h| format!("db-{h}")).as_deref(),
            Some(&*first.meta.name)
        );
        assert!(first.template().same_pods(&template("a")));
        assert_eq!(of(&template("a"), &[&first]), Newest::Known(first.meta.name.clone()));
        let second = stored(&of(&template("b"), &[&first]), 2);
        let Newest::Again { name, revision, .. } = of(&template("a"), &[&first, &second]) else { panic!() };
        assert_eq!((name, revision), (first.meta.name.clone(), 3));
        assert_eq!(excess(&[&first, &second], 1, &|_| false).len(), 1);
        assert_eq!(excess(&[&first, &second], 0, &|n| *n == *second.meta.name)[0].meta.name, first.meta.name);
    }

    #[test]
    fn the_form_is_upstreams() {
        // FNV-1 of "a" and "0", as Go's hash/fnv gives it.
        assert_eq!(fnv1(fnv1(FNV_OFFSET, b"a"), b"0"), fnv1(FNV_OFFSET, b"a0"));
        assert_eq!(fnv1(FNV_OFFSET, b"a"), 0x050c_5d7e);
        assert!(
            data_of(&template("a")).starts_with(r#"{"spec":{"template":{"$patch":"replace","metadata":{"#)
        );
    }
}
