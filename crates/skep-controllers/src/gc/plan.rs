//! What garbage collection should do about one object: pure rules.

use serde::Deserialize;
use skep_base::SharedStr;
use skep_client::Propagation;

use crate::views::Owner as OwnerRef;

/// Keeps an object until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an object until its dependents have let go of it.
pub(super) const ORPHAN: &str = "orphan";

/// What garbage collection holds of every object, besides its address, uid and revision.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) owner_references: Box<[OwnerRef]>,
    pub(super) finalizers: Box<[SharedStr]>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

impl Meta {
    /// Of an object that was read otherwise.
    pub(crate) fn new(owner_references: Box<[OwnerRef]>, finalizers: Vec<SharedStr>, deleting: bool) -> Meta {
        let deletion_timestamp = deleting.then_some(serde::de::IgnoredAny);
        Meta { owner_references, finalizers: finalizers.into(), deletion_timestamp }
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    pub(super) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|f| *f == *name)
    }

    /// It goes when its dependents have gone.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.is_deleting() && self.has_finalizer(FOREGROUND)
    }

    /// It goes when its dependents have let go of it.
    pub(super) fn is_orphaning(&self) -> bool {
        self.is_deleting() && self.has_finalizer(ORPHAN)
    }
}

/// What is known of an owner that a reference names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is there.
    Solid,
    /// There is none of this uid.
    Absent,
    /// It is on its way out and waits for its dependents.
    Waiting,
}

/// A dependent, as far as it matters to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dependent {
    /// Its reference says that the owner must wait for it.
    pub(super) blocks: bool,
    /// It waits for its own dependents.
    pub(super) waits: bool,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Keep,
    /// Write these owner references: the others lead nowhere.
    Refer(Vec<OwnerRef>),
    /// Delete it. With references to be written before, so that a circle of waiting owners comes to an end.
    Delete(Propagation, Option<Vec<OwnerRef>>),
    /// It is on its way out: have its dependents looked at, and wait for those that block.
    Wait,
    /// It is on its way out and nothing blocks it: take its finalizer away.
    Release(&'static str),
    /// Have its dependents let go of it, then take its finalizer away.
    Orphan,
}

/// What to do about an object that is on its way out; `None` when it is not, or when garbage collection has no part in it.
pub(super) fn leaving(meta: &Meta, dependents: &[Dependent]) -> Option<Plan> {
    if meta.is_orphaning() {
        return Some(Plan::Orphan);
    }
    if meta.waits_for_dependents() {
        let blocked = dependents.iter().any(|d| d.blocks);
        return Some(if blocked { Plan::Wait } else { Plan::Release(FOREGROUND) });
    }
    meta.is_deleting().then_some(Plan::Keep)
}

/// What to do about an object that is not on its way out, by the state of each of its owners.
pub(super) fn staying(meta: &Meta, owners: &[Owner], dependents: &[Dependent]) -> Plan {
    debug_assert_eq!(meta.owner_references.len(), owners.len(), "a state for each owner");
    if owners.is_empty() || owners.iter().all(|o| *o == Owner::Solid) {
        return Plan::Keep;
    }
    if owners.contains(&Owner::Solid) {
        // Also from those that wait: they would else wait forever for what stays.
        let kept = meta.owner_references.iter().zip(owners).filter(|(_, o)| **o == Owner::Solid);
        return Plan::Refer(kept.map(|(r, _)| r.clone()).collect());
    }
    if owners.contains(&Owner::Waiting) && !dependents.is_empty() {
        let circle = dependents.iter().any(|d| d.waits);
        let unblocked = circle.then(|| {
            let open = |r: &OwnerRef| OwnerRef { block_owner_deletion: Some(false), ..r.clone() };
            meta.owner_references.iter().map(open).collect()
        });
        return Plan::Delete(Propagation::Foreground, unblocked);
    }
    let propagation = if meta.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if meta.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Plan::Delete(propagation, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn meta(owners: usize, finalizers: &[&str], deleting: bool) -> Meta {
        let owners: Vec<_> = (0..owners)
            .map(|n| json!({"apiVersion": "v1", "kind": "K", "name": format!("o{n}"), "uid": format!("u{n}"), "blockOwnerDeletion": true}))
            .collect();
        let mut text =
            json!({"ownerReferences": owners, "finalizers": finalizers, "uid": "u", "resourceVersion": "1"});
        if deleting {
            text["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(text).unwrap()
    }

    const FREE: Dependent = Dependent { blocks: false, waits: false };
    const BLOCKS: Dependent = Dependent { blocks: true, waits: false };
    const WAITS: Dependent = Dependent { blocks: true, waits: true };

    #[test]
    fn those_that_leave() {
        assert_eq!(leaving(&meta(0, &[], false), &[]), None);
        assert_eq!(leaving(&meta(0, &[FOREGROUND], false), &[]), None, "a finalizer alone deletes nothing");
        assert_eq!(leaving(&meta(0, &["x"], true), &[BLOCKS]), Some(Plan::Keep));
        assert_eq!(leaving(&meta(0, &[FOREGROUND], true), &[FREE]), Some(Plan::Release(FOREGROUND)));
        assert_eq!(leaving(&meta(0, &[FOREGROUND], true), &[FREE, BLOCKS]), Some(Plan::Wait));
        assert_eq!(leaving(&meta(0, &[ORPHAN, FOREGROUND], true), &[BLOCKS]), Some(Plan::Orphan));
    }

    #[test]
    fn those_that_stay() {
        use Owner::{Absent, Solid, Waiting};
        let m = meta(2, &[], false);
        assert_eq!(staying(&meta(0, &[], false), &[], &[]), Plan::Keep);
        assert_eq!(staying(&m, &[Solid, Solid], &[]), Plan::Keep);
        assert_eq!(staying(&m, &[Absent, Solid], &[]), Plan::Refer(vec![m.owner_references[1].clone()]));
        assert_eq!(staying(&m, &[Solid, Waiting], &[]), Plan::Refer(vec![m.owner_references[0].clone()]));
        assert_eq!(staying(&m, &[Absent, Absent], &[BLOCKS]), Plan::Delete(Propagation::Background, None));
        assert_eq!(staying(&m, &[Absent, Waiting], &[]), Plan::Delete(Propagation::Background, None));
        assert_eq!(staying(&m, &[Absent, Waiting], &[FREE]), Plan::Delete(Propagation::Foreground, None));
        let Plan::Delete(Propagation::Foreground, Some(opened)) = staying(&m, &[Waiting, Waiting], &[WAITS])
        else {
            panic!("a circle is opened")
        };
        assert!(opened.iter().all(|r| r.block_owner_deletion == Some(false)));
        let honoured = [(ORPHAN, Propagation::Orphan), (FOREGROUND, Propagation::Foreground)];
        for (finalizer, propagation) in honoured {
            assert_eq!(
                staying(&meta(1, &[finalizer], false), &[Absent], &[]),
                Plan::Delete(propagation, None)
            );
        }
    }

    proptest! {
        /// What has an owner that is there is never deleted.
        #[test]
        fn an_owner_protects(states in proptest::collection::vec(0u8..3, 1..6), solid in any::<proptest::sample::Index>()) {
            let mut owners: Vec<Owner> =
                states.iter().map(|s| [Owner::Solid, Owner::Absent, Owner::Waiting][usize::from(*s)]).collect();
            let at = solid.index(owners.len());
            owners[at] = Owner::Solid;
            let plan = staying(&meta(owners.len(), &[], false), &owners, &[WAITS, FREE]);
            prop_assert!(matches!(plan, Plan::Keep | Plan::Refer(_)));
        }
    }
}
