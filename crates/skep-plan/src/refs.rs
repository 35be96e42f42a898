//! Who owns what: adoption of objects that match and have no owner, release of those that match no more.

use serde_json::{Value, json};

use crate::labels::Labels;
use crate::meta::{ControllerRef, Meta, OwnerKind, Uid};
use crate::selector::Selector;

/// What an owner makes of an object that may be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the owner's, and matches.
    Own,
    /// It has no owner and matches: take it, after making sure that the owner is not being deleted.
    Adopt,
    /// It is the owner's and matches no more: let it go.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// What `owner` makes of an object.
#[must_use]
pub fn claim(
    owner: &Meta,
    selector: &Selector,
    labels: &Labels,
    controller: Option<&ControllerRef>,
    being_deleted: bool,
) -> Claim {
    match controller {
        Some(controller) if controller.uid != owner.uid => Claim::Ignore,
        Some(_) if selector.matches(labels) => Claim::Own,
        Some(_) if owner.deleted.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.deleted.is_some() || being_deleted || !selector.matches(labels) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The strategic merge patch that makes `owner` the manager of the object with `uid`.
#[must_use]
pub fn adopt_patch(owner: &Meta, kind: OwnerKind, uid: &Uid, finalizer: Option<&str>) -> Value {
    let mut meta = json!({ "ownerReferences": [owner.controller_ref(kind)], "uid": uid });
    if let Some(finalizer) = finalizer {
        meta["finalizers"] = json!([finalizer]);
    }
    json!({ "metadata": meta })
}

/// The strategic merge patch that takes `owner` out of the object with `uid`.
#[must_use]
pub fn release_patch(owner: &Uid, uid: &Uid, finalizer: Option<&str>) -> Value {
    let mut meta = json!({ "ownerReferences": [{ "$patch": "delete", "uid": owner }], "uid": uid });
    if let Some(finalizer) = finalizer {
        meta["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    json!({ "metadata": meta })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;

    #[test]
    fn claims() {
        let mut owner: Meta = serde_json::from_value(json!({"name": "o", "uid": "1"})).unwrap();
        let selector: Selector = serde_json::from_value(json!({"matchLabels": {"a": "1"}})).unwrap();
        let fits: Labels = [("a", "1")].into_iter().collect();
        let other = Labels::default();
        let by =
            |uid: &str| ControllerRef { kind: OwnerKind::ReplicaSet, name: "x".into(), uid: Uid::new(uid) };
        let (mine, foreign) = (by("1"), by("2"));
        let table = [
            (&fits, None, false, Claim::Adopt),
            (&fits, None, true, Claim::Ignore),
            (&other, None, false, Claim::Ignore),
            (&fits, Some(&mine), false, Claim::Own),
            (&fits, Some(&mine), true, Claim::Own),
            (&other, Some(&mine), false, Claim::Release),
            (&fits, Some(&foreign), false, Claim::Ignore),
        ];
        for (i, (labels, controller, deleted, want)) in table.into_iter().enumerate() {
            assert_eq!(claim(&owner, &selector, labels, controller, deleted), want, "row {i}");
        }
        owner.deleted = Some(Time(1));
        assert_eq!(claim(&owner, &selector, &fits, None, false), Claim::Ignore);
        assert_eq!(claim(&owner, &selector, &other, Some(&mine), false), Claim::Ignore);
    }
}
