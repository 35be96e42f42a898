//! What identifies the elements of a list, and the order of a merged list.

use std::collections::HashMap;

use serde_json::Value;

use super::{PATCH, StrategicError};
use crate::go_format::{self, GoKind};
use crate::limits::LINEAR_SEARCH_LEN;

/// What identifies an element: its merge key's value, or itself if it is a scalar. Equal as Go
/// compares them: numbers with and without fraction are never equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Null,
    Bool(bool),
    Int(i64),
    /// The bits, with one zero.
    Float(u64),
    Str(Box<str>),
}

impl Key {
    pub(super) fn of(value: &Value) -> Result<Self, StrategicError> {
        Ok(match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Self::Int(i),
                (None, f) => Self::Float((f.unwrap_or_default() + 0.0).to_bits()),
            },
            Value::String(s) => Self::Str(s.as_str().into()),
            Value::Array(_) | Value::Object(_) => return Err(StrategicError::not_comparable(value)),
        })
    }

    /// What identifies an element of a list with merge key `merge_key` (empty: the element itself).
    pub(super) fn of_element(element: &Value, merge_key: &str) -> Result<Self, StrategicError> {
        if merge_key.is_empty() {
            return Self::of(element);
        }
        let Value::Object(map) = element else {
            return Err(StrategicError::bad_type(GoKind::Map, element));
        };
        match map.get(merge_key) {
            Some(value) => Self::of(value),
            None => Err(StrategicError::missing_merge_key(element, merge_key)),
        }
    }

    pub(super) fn of_elements(items: &[Value], merge_key: &str) -> Result<Vec<Self>, StrategicError> {
        items.iter().map(|item| Self::of_element(item, merge_key)).collect()
    }
}

/// Where each key stands first in a list.
pub(super) enum Positions<'a> {
    Few(&'a [Key]),
    Many(HashMap<&'a Key, usize>),
}

impl<'a> Positions<'a> {
    pub(super) fn new(keys: &'a [Key]) -> Self {
        if keys.len() <= LINEAR_SEARCH_LEN {
            return Self::Few(keys);
        }
        let mut map = HashMap::with_capacity(keys.len());
        for (at, key) in keys.iter().enumerate() {
            map.entry(key).or_insert(at);
        }
        Self::Many(map)
    }

    pub(super) fn get(&self, key: &Key) -> Option<usize> {
        match self {
            Self::Few(keys) => keys.iter().position(|k| k == key),
            Self::Many(map) => map.get(key).copied(),
        }
    }
}

/// The kind that all elements of the lists share.
pub(super) fn element_kind(lists: &[&[Value]]) -> Result<GoKind, StrategicError> {
    let mut kind = None;
    for item in lists.iter().copied().flatten() {
        let this = GoKind::of(item);
        match kind {
            None if this == GoKind::Slice => return Err(StrategicError::ListOfLists),
            // Upstream panics on a null in the first place.
            None if this != GoKind::Nil => kind = Some(this),
            Some(kind) if kind == this => {}
            _ => return Err(StrategicError::MixedElementTypes { lists: go_format::lists(lists) }),
        }
    }
    kind.ok_or(StrategicError::NoElements)
}

/// Checks that the elements that the patch has, other than those with directives, are in
/// `wanted_order`, in that order.
pub(super) fn validate(
    patch: &[Value],
    wanted_order: &[Value],
    merge_key: &str,
) -> Result<(), StrategicError> {
    if wanted_order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let mut kept = Vec::with_capacity(patch.len());
    for item in patch {
        match item {
            Value::Object(map) => {
                let deleted = map.get(PATCH).and_then(Value::as_str) == Some("delete");
                if merge_key.is_empty() || !deleted {
                    kept.push(item);
                }
            }
            _ if merge_key.is_empty() => kept.push(item),
            _ => return Err(StrategicError::bad_type(GoKind::Map, item)),
        }
    }
    let mut at = 0;
    let mut wanted = wanted_order.iter();
    while let Some(item) = kept.get(at) {
        // Looked at before directives are passed over: one behind the last ordered element counts as
        // out of order, too.
        if wanted.as_slice().is_empty() {
            return Err(StrategicError::OrderMismatch {
                patch: go_format::list(patch),
                order: go_format::list(wanted_order),
            });
        }
        if item.get(PATCH).is_some() {
            at += 1;
            continue;
        }
        if let Some(next) = wanted.next()
            && same_element(item, next, merge_key)?
        {
            at += 1;
        }
    }
    Ok(())
}

/// Whether two elements are the same one.
fn same_element(a: &Value, b: &Value, merge_key: &str) -> Result<bool, StrategicError> {
    if merge_key.is_empty() && GoKind::of(a) != GoKind::of(b) {
        return Ok(false);
    }
    if let Some(other) = [a, b].into_iter().find(|v| !merge_key.is_empty() && !v.is_object()) {
        return Err(StrategicError::bad_type(GoKind::Map, other));
    }
    Ok(Key::of_element(a, merge_key)? == Key::of_element(b, merge_key)?)
}

/// Arranges a merged list: elements that are in `patch_order` follow it, the others follow
/// `server_order`, and the two sequences are woven together by `server_order` where it has both.
///
/// `keys` identify the elements of `merged`; `in_patch` tells which of them are in the patch's order.
pub(super) fn arrange(
    merged: Vec<Value>,
    keys: Vec<Key>,
    patch_order: &[Key],
    server_order: &[Key],
) -> Vec<Value> {
    let patch_positions = Positions::new(patch_order);
    let server_positions = Positions::new(server_order);
    let mut from_patch = Vec::new();
    let mut server_only = Vec::new();
    for (item, key) in merged.into_iter().zip(keys) {
        let server_at = server_positions.get(&key);
        match patch_positions.get(&key) {
            Some(at) => from_patch.push(Placed { item, at: Some(at), server_at }),
            None => server_only.push(Placed { item, at: server_at, server_at }),
        }
    }
    sort(&mut from_patch);
    sort(&mut server_only);

    let mut out = Vec::with_capacity(from_patch.len() + server_only.len());
    let mut from_patch = from_patch.into_iter().peekable();
    let mut server_only = server_only.into_iter().peekable();
    loop {
        let server_first = match (server_only.peek(), from_patch.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(server), Some(patch)) => {
                matches!((server.server_at, patch.server_at), (Some(s), Some(p)) if s < p)
            }
        };
        let next = if server_first { server_only.next() } else { from_patch.next() };
        out.extend(next.map(|placed| placed.item));
    }
}

struct Placed {
    item: Value,
    /// Where it is in the order that it is sorted by.
    at: Option<usize>,
    server_at: Option<usize>,
}

/// Sorts by position. Elements that have none are only there if the patch gives an empty order; they
/// go to the front, the last one first, which is where upstream's comparison puts them.
fn sort(items: &mut Vec<Placed>) {
    if items.iter().all(|i| i.at.is_some()) {
        items.sort_by_key(|i| i.at);
        return;
    }
    if items.len() <= LINEAR_SEARCH_LEN {
        for i in 1..items.len() {
            let mut j = i;
            while j > 0 && items[j].at.zip(items[j - 1].at).is_none_or(|(a, b)| a < b) {
                items.swap(j, j - 1);
                j -= 1;
            }
        }
        return;
    }
    let (mut placed, unplaced): (Vec<_>, Vec<_>) = items.drain(..).partition(|i| i.at.is_some());
    placed.sort_by_key(|i| i.at);
    items.extend(unplaced.into_iter().rev());
    items.extend(placed);
}
