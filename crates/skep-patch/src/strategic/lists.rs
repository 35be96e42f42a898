//! Merging lists.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::order::{Key, Positions, arrange, element_kind};
use super::{FieldMeta, Merger, PATCH, StrategicError, clean};
use crate::go_format::GoKind;
use crate::limits::LINEAR_SEARCH_LEN;
use crate::schema::Strategy;

impl Merger<'_> {
    /// Merges `patch` into `original`, or deletes its values from it, or takes its place.
    pub(super) fn merge_list(
        &self,
        original: Vec<Value>,
        patch: Vec<Value>,
        field: FieldMeta<'_>,
        deletes: bool,
    ) -> Result<Vec<Value>, StrategicError> {
        if field.strategy != Strategy::Merge && !deletes {
            return Ok(patch);
        }
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        let kind = element_kind(&[&original, &patch])?;
        if kind != GoKind::Map {
            return merge_scalars(original, patch, field.merge_key, deletes);
        }
        if field.merge_key.is_empty() {
            return Err(StrategicError::NoMergeKeyDeclared { kind: self.kind_name(field.type_id) });
        }
        let (original, patch) = obey_element_directives(original, patch, field.merge_key)?;
        let server_order = original.iter().map(|v| Key::of_element(v, field.merge_key)).collect();
        self.merge_elements(original, server_order, patch, field)
    }

    /// Merges lists of objects without directives.
    fn merge_elements(
        &self,
        mut merged: Vec<Value>,
        server_order: Result<Vec<Key>, StrategicError>,
        patch: Vec<Value>,
        field: FieldMeta<'_>,
    ) -> Result<Vec<Value>, StrategicError> {
        let merge_key = field.merge_key;
        let mut index = ElementIndex::new(&merged, merge_key, patch.len());
        let mut patch_order = Vec::with_capacity(patch.len());
        for item in patch {
            let key = Key::of_element(&item, merge_key)?;
            match index.find(&merged, &key, merge_key) {
                Some(at) => {
                    if let (Value::Object(into), Value::Object(item)) = (merged[at].take(), item) {
                        merged[at] = Value::Object(self.merge_object(into, item, field.type_id)?);
                    }
                }
                None => {
                    index.add(&key, merged.len());
                    merged.push(item);
                }
            }
            patch_order.push(key);
        }
        // Only now: upstream merges before it finds that an element of the original has no key.
        let keys = Key::of_elements(&merged, merge_key)?;
        let server_order = server_order?;
        Ok(arrange(merged, keys, &patch_order, &server_order))
    }

    /// Merges a list for which the patch gives the order. `None` if neither side has the list.
    pub(super) fn merge_in_order(
        &self,
        original: Option<Vec<Value>>,
        patch: Option<Vec<Value>>,
        wanted_order: &[Value],
        field: FieldMeta<'_>,
    ) -> Result<Option<Vec<Value>>, StrategicError> {
        let kind = |original: &[Value], patch: &[Value]| element_kind(&[original, patch]);
        let mut server_order = Key::of_elements(original.as_deref().unwrap_or_default(), field.merge_key);
        if let (Ok(keys), Some(patch), Strategy::Merge) = (&mut server_order, &patch, field.strategy) {
            *keys = overwritten_order(std::mem::take(keys), patch, field.merge_key);
        }
        let first = original.as_ref().and_then(|items| items.first().cloned());
        let (merged, kind) = match (original, patch) {
            (None, None) => return Ok(None),
            (Some(original), None) => {
                let kind = kind(&original, &[]);
                (original, kind)
            }
            (None, Some(mut patch)) => {
                let kind = kind(&[], &patch);
                patch.retain_mut(|v| clean(v, false));
                (patch, kind)
            }
            (Some(original), Some(patch)) => {
                let kind = kind(&original, &patch);
                (self.merge_list(original, patch, field, false)?, kind)
            }
        };
        if merged.is_empty() && field.merge_key.is_empty() {
            // Nothing needs to be compared, but objects would need a key to be ordered by.
            if let Some(object) = wanted_order.iter().chain(&first).find(|v| v.is_object()) {
                return Err(StrategicError::missing_merge_key(object, ""));
            }
        }
        let keys = Key::of_elements(&merged, field.merge_key)?;
        check_order_elements(&keys, wanted_order, field.merge_key)?;
        kind?;
        let patch_order = Key::of_elements(wanted_order, field.merge_key)?;
        Ok(Some(arrange(merged, keys, &patch_order, &server_order?)))
    }
}

/// Complains about a `$setElementOrder` that holds something else than objects in the place where it
/// matters.
fn check_order_elements(
    merged: &[Key],
    wanted_order: &[Value],
    merge_key: &str,
) -> Result<(), StrategicError> {
    let Some(bad) = wanted_order.iter().position(|v| !v.is_object()).filter(|_| !merge_key.is_empty()) else {
        return Ok(());
    };
    let before: Vec<Key> =
        wanted_order[..bad].iter().filter_map(|v| v.get(merge_key)).map(Key::of).collect::<Result<_, _>>()?;
    let positions = Positions::new(&before);
    if merged.iter().any(|key| positions.get(key).is_none()) {
        return Err(StrategicError::ElementNotAMap { index: bad });
    }
    Ok(())
}

/// The order of the server's elements as upstream sees it after merging.
///
/// Its lists share memory: removing an element moves the later ones forward and leaves the end as it
/// is, and new elements are written over that end. So, after a deletion, a new element counts as one
/// that the server had, and where the server's other elements go depends on it.
fn overwritten_order(original: Vec<Key>, patch: &[Value], merge_key: &str) -> Vec<Key> {
    let directive = |item: &Value| item.get(PATCH).map(|d| d.as_str().unwrap_or_default().to_owned());
    let mut deleted = patch.iter().filter(|item| directive(item).as_deref() == Some("delete")).peekable();
    if merge_key.is_empty() || deleted.peek().is_none() {
        return original;
    }
    let mut places: HashMap<&Key, Vec<usize>> = HashMap::new();
    for (at, key) in original.iter().enumerate().rev() {
        places.entry(key).or_default().push(at);
    }
    // What stays in the slot that each deletion frees at the end: whatever was last.
    let mut alive = vec![true; original.len()];
    let mut last = original.len();
    let mut end = Vec::new();
    for item in deleted {
        let Ok(key) = Key::of_element(item, merge_key) else { continue };
        while let Some(at) = places.get_mut(&key).and_then(Vec::pop) {
            while last > 0 && !alive[last - 1] {
                last -= 1;
            }
            end.extend(last.checked_sub(1).map(|l| original[l].clone()));
            alive[at] = false;
        }
    }
    let mut order: Vec<Key> =
        original.iter().zip(&alive).filter(|(_, alive)| **alive).map(|(key, _)| key.clone()).collect();
    let replaces = patch.iter().any(|item| directive(item).as_deref() == Some("replace"));
    let mut known: HashSet<Key> = order.iter().cloned().collect();
    let plain = patch.iter().filter(|item| !replaces && item.get(PATCH).is_none());
    let new = plain.filter_map(|item| Key::of_element(item, merge_key).ok());
    let new = new.filter(|key| known.insert(key.clone()));
    let written: Vec<Key> = new.take(end.len()).collect();
    // The slots were freed from the end forward.
    let stale = end.len() - written.len();
    order.extend(written);
    order.extend(end.into_iter().take(stale).rev());
    order
}

fn merge_scalars(
    original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
    deletes: bool,
) -> Result<Vec<Value>, StrategicError> {
    let patch_keys = Key::of_elements(&patch, "")?;
    let original_keys = Key::of_elements(&original, "")?;
    if deletes {
        let gone = Positions::new(&patch_keys);
        let kept = original.into_iter().zip(original_keys).filter(|(_, key)| gone.get(key).is_none());
        return Ok(kept.map(|(item, _)| item).collect());
    }
    if !merge_key.is_empty() {
        // Elements should have been objects with that key.
        let first = original.first().or(patch.first()).unwrap_or(&Value::Null);
        return Err(StrategicError::bad_type(GoKind::Map, first));
    }
    let mut seen = HashSet::new();
    let all = original.into_iter().chain(patch).zip(original_keys.iter().chain(&patch_keys));
    let (merged, keys): (Vec<Value>, Vec<Key>) =
        all.filter(|(_, key)| seen.insert(*key)).map(|(item, key)| (item, key.clone())).unzip();
    Ok(arrange(merged, keys, &patch_keys, &original_keys))
}

/// Obeys `$patch` in the elements of a patch; returns what is left of both lists.
fn obey_element_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), StrategicError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut deleted = HashSet::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = &item else { continue };
        let Some(directive) = map.get(PATCH) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => match map.get(merge_key) {
                Some(value) => drop(deleted.insert(Key::of(value)?)),
                None => return Err(StrategicError::missing_merge_key(&item, merge_key)),
            },
            Some("replace") => replace = true,
            Some("merge") => return Err(StrategicError::MergeDirectiveInList),
            _ => return Err(StrategicError::unknown_directive(directive, map)),
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    if !deleted.is_empty() {
        let mut failure = None;
        original.retain(|item| match item.get(merge_key).map(Key::of) {
            None => true,
            Some(Ok(key)) => !deleted.contains(&key),
            Some(Err(e)) => {
                failure.get_or_insert(e);
                true
            }
        });
        if let Some(e) = failure {
            return Err(e);
        }
    }
    Ok((original, plain))
}

/// Finds the first element with a key: by looking, or by a hash index if both lists are long.
struct ElementIndex(Option<HashMap<Key, usize>>);

impl ElementIndex {
    fn new(items: &[Value], merge_key: &str, lookups: usize) -> Self {
        if items.len().max(lookups) <= LINEAR_SEARCH_LEN || lookups <= 2 {
            return Self(None);
        }
        let mut map = HashMap::with_capacity(items.len() + lookups);
        for (at, item) in items.iter().enumerate() {
            if let Some(Ok(key)) = item.get(merge_key).map(Key::of) {
                map.entry(key).or_insert(at);
            }
        }
        Self(Some(map))
    }

    fn find(&self, items: &[Value], key: &Key, merge_key: &str) -> Option<usize> {
        match &self.0 {
            Some(map) => map.get(key).copied(),
            None => items
                .iter()
                .position(|item| item.get(merge_key).is_some_and(|v| Key::of(v).is_ok_and(|k| k == *key))),
        }
    }

    fn add(&mut self, key: &Key, at: usize) {
        if let Some(map) = &mut self.0 {
            map.insert(key.clone(), at);
        }
    }
}
