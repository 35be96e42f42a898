//! Which revision of a Deployment a replica set is: annotations.

use std::collections::BTreeMap;

use super::Deployment;
use crate::meta::Meta;

/// The number of the revision, of a replica set and of a Deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers that a replica set had before, when it is the newest again.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's size when the replica set was last sized.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// The longest list of former numbers, so that an annotation cannot grow without end. Older ones are dropped.
const MAX_HISTORY_CHARS: usize = 2000;

/// Annotations of a Deployment that its replica sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The revision of a replica set; 0 without the annotation, `None` when it is no number.
pub(super) fn revision(meta: &Meta) -> Option<i64> {
    meta.annotations.get(REVISION).map_or(Some(0), |text| text.parse().ok())
}

/// A count that an annotation holds.
pub(super) fn annotation_count(meta: &Meta, key: &str) -> Option<i32> {
    meta.annotations.get(key)?.parse().ok().filter(|n| *n >= 0)
}

/// Gives the newest replica set the Deployment's annotations and the revision that follows all others'.
pub(super) fn annotate_new(d: &Deployment, annotations: &mut BTreeMap<String, String>, new_revision: i64) {
    for (key, value) in &d.meta.annotations {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref().filter(|text| !text.is_empty()).map(str::parse::<i64>) {
        None => 0,
        Some(Ok(number)) => number,
        // Somebody has written something there: leave it.
        Some(Err(_)) => return,
    };
    if old_number >= new_revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), new_revision.to_string());
    if let Some(old) = old {
        let history = annotations.get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
        if let Some(longer) = append_history(history, &old) {
            annotations.insert(REVISION_HISTORY.to_owned(), longer);
        }
    }
}

fn append_history(history: &str, old: &str) -> Option<String> {
    if history.is_empty() {
        return Some(old.to_owned());
    }
    let mut kept = history;
    while kept.len() + 1 + old.len() > MAX_HISTORY_CHARS {
        match kept.split_once(',') {
            Some((_, rest)) => kept = rest,
            None => return (old.len() <= MAX_HISTORY_CHARS).then(|| old.to_owned()),
        }
    }
    Some(format!("{kept},{old}"))
}

/// Notes the Deployment's size in a replica set.
pub(super) fn annotate_size(annotations: &mut BTreeMap<String, String>, desired: i32, most: i32) {
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), most.to_string());
}

/// Whether it is not noted there yet.
pub(super) fn size_differs(annotations: &BTreeMap<String, String>, desired: i32, most: i32) -> bool {
    let is = |key: &str, n: i32| annotations.get(key).is_some_and(|text| *text == n.to_string());
    !is(DESIRED_REPLICAS, desired) || !is(MAX_REPLICAS, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded() {
        assert_eq!(append_history("", "1").as_deref(), Some("1"));
        assert_eq!(append_history("1,2", "3").as_deref(), Some("1,2,3"));
        let long = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let longer = append_history(&long, "1000").unwrap();
        assert!(longer.len() <= MAX_HISTORY_CHARS && longer.ends_with(",999,1000"), "{longer}");
    }
}
