//! Strategic merge patch: a patch shaped like the object, which knows from the type how each list
//! merges, and carries directives for what that does not cover.
//!
//! | in the patch | effect |
//! |---|---|
//! | `field: null` | removes the field |
//! | `$patch: replace` in an object | the object is replaced by the rest of the patch |
//! | `$patch: delete` in an object | the object becomes empty |
//! | `$patch: delete` in an element | removes the elements with that merge key |
//! | `$patch: replace` in an element | the list is replaced by the other elements |
//! | `$deleteFromPrimitiveList/field: […]` | removes these values from the list |
//! | `$setElementOrder/field: […]` | the order of the merged list |
//! | `$retainKeys: […]` in an object | removes all other keys |
//!
//! Custom resources have no such schema; upstream answers 415 for them, which is the caller's part.
//! Where both a list and its deletions are in a patch, deletions come first (upstream does it in
//! random order).

mod error;
mod lists;
mod order;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use serde_json::{Map, Value};

pub use error::StrategicError;

use crate::go_format::GoKind;
use crate::limits::{MAX_NESTING_DEPTH, deeper_than, remove_keys};
use crate::schema::{MergeSchema, Shape, Strategy, TypeId};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Applies `patch` to `original`, an object of type `type_id`, and returns the result.
///
/// Directives at places where they mean nothing (such as `$retainKeys` in an object that the patch
/// brings in anew) stay in the result as fields; decoding it into its type drops them, and reports
/// them as unknown fields, as upstream does.
pub fn apply(
    schema: &MergeSchema,
    type_id: TypeId,
    original: Object,
    patch: Object,
) -> Result<Object, StrategicError> {
    if patch.values().any(|v| deeper_than(v, MAX_NESTING_DEPTH - 1)) {
        return Err(StrategicError::TooDeep);
    }
    Merger { schema }.merge_object(original, patch, type_id)
}

/// Parses a strategic merge patch; `null` is an empty one.
pub fn decode(raw: &[u8]) -> Result<Object, crate::decode::DecodeError> {
    crate::decode::object(raw)
}

struct Merger<'s> {
    schema: &'s MergeSchema,
}

/// What a field of the object being merged is; for a list, `type_id` is that of its elements.
#[derive(Clone, Copy)]
struct FieldMeta<'s> {
    type_id: TypeId,
    strategy: Strategy,
    merge_key: &'s str,
}

impl<'s> Merger<'s> {
    fn merge_object(
        &self,
        mut original: Object,
        mut patch: Object,
        type_id: TypeId,
    ) -> Result<Object, StrategicError> {
        let mut deletions = Vec::new();
        if patch.keys().any(|k| k.starts_with('$')) {
            if let Some(directive) = patch.get(PATCH) {
                return match directive.as_str() {
                    Some("replace") => {
                        patch.shift_remove(PATCH);
                        Ok(patch)
                    }
                    Some("delete") => Ok(Object::new()),
                    _ => Err(StrategicError::unknown_directive(directive, &patch)),
                };
            }
            retain_keys(&mut original, &mut patch)?;
            self.merge_ordered_lists(&mut original, &mut patch, type_id)?;
            deletions = take_prefixed(&mut patch, DELETE_FROM_PRIMITIVE_LIST);
        }
        let mut removed = Vec::new();
        for (key, value) in deletions {
            let field = field_of_directive(&key, DELETE_FROM_PRIMITIVE_LIST)
                .ok_or(StrategicError::BadPrimitiveListFormat)?
                .to_owned();
            if value.is_null() {
                // Upstream takes this as the removal of the field.
                original.shift_remove(&field);
            } else if let Some(slot) = original.get_mut(&field) {
                self.merge_field(slot, value, &field, type_id, true)?;
            }
        }
        for (key, mut value) in patch {
            if value.is_null() {
                removed.push(key);
            } else if let Some(slot) = original.get_mut(&key) {
                if !self.merge_field(slot, value, &key, type_id, false)? {
                    removed.push(key);
                }
            } else if clean(&mut value, true) {
                original.insert(key, value);
            }
        }
        remove_keys(&mut original, &removed);
        Ok(original)
    }

    /// Merges `patch` into the value of a field that the original has. `deletes` if the patch lists
    /// what to delete. Returns whether the field stays.
    fn merge_field(
        &self,
        slot: &mut Value,
        patch: Value,
        name: &str,
        type_id: TypeId,
        deletes: bool,
    ) -> Result<bool, StrategicError> {
        match (slot, patch) {
            (Value::Object(original), Value::Object(patch)) => {
                let field = self.object_field(type_id, name)?;
                *original = if field.strategy == Strategy::Replace {
                    patch
                } else {
                    self.merge_object(std::mem::take(original), patch, field.type_id)?
                };
            }
            (Value::Array(original), Value::Array(patch)) => {
                let field = self.list_field(type_id, name)?;
                *original = self.merge_list(std::mem::take(original), patch, field, deletes)?;
            }
            (slot, mut patch) => {
                if deletes && GoKind::of(slot) != GoKind::of(&patch) {
                    return Ok(true);
                }
                if !clean(&mut patch, true) {
                    return Ok(false);
                }
                *slot = patch;
            }
        }
        Ok(true)
    }

    /// Looks up a field whose value is an object.
    fn object_field(&self, parent: TypeId, name: &str) -> Result<FieldMeta<'s>, StrategicError> {
        match self.schema.shape(parent) {
            Shape::Struct | Shape::Untyped => {}
            // Quantities and times are structs in Go, without fields to be found.
            Shape::Scalar if !self.schema.name(parent).is_empty() => {}
            _ => return Err(StrategicError::NotAStruct { kind: self.kind_name(parent) }),
        }
        let found = self.schema.field(parent, name).or_else(|| {
            let fields = self.schema.fields(parent);
            fields.iter().find(|f| f.name.eq_ignore_ascii_case(name))
        });
        match found {
            Some(field) => Ok(FieldMeta {
                type_id: field.type_id,
                strategy: field.rule.strategy,
                merge_key: field.rule.patch_merge_key.as_deref().unwrap_or_default(),
            }),
            None => Err(StrategicError::UnknownField {
                type_name: self.schema.short_name(parent).to_owned(),
                field: name.to_owned(),
            }),
        }
    }

    /// Looks up a field whose value is a list; the type is that of the elements.
    fn list_field(&self, parent: TypeId, name: &str) -> Result<FieldMeta<'s>, StrategicError> {
        let field = self.object_field(parent, name)?;
        match self.schema.shape(field.type_id) {
            Shape::List(element) if matches!(self.schema.shape(element), Shape::List(_)) => {
                Err(StrategicError::ListOfListsType)
            }
            Shape::List(element) => Ok(FieldMeta { type_id: element, ..field }),
            // In Go an object is often behind a pointer, where upstream takes the target for the
            // element. No valid object has a list there, so this does not depend on the pointer.
            Shape::Struct => Ok(field),
            // Raw JSON can be a list, and this one is not behind a pointer.
            Shape::Untyped if self.schema.short_name(field.type_id) != "RawExtension" => Ok(field),
            Shape::Scalar if !self.schema.name(field.type_id).is_empty() => Ok(field),
            Shape::Map(_) | Shape::Untyped | Shape::Scalar => {
                Err(StrategicError::NotAList { kind: "struct" })
            }
        }
    }

    /// What kind of Go value a type is.
    fn kind_name(&self, type_id: TypeId) -> &'static str {
        match self.schema.shape(type_id) {
            Shape::Struct | Shape::Untyped => "struct",
            Shape::Map(_) => "map",
            Shape::List(_) => "slice",
            Shape::Scalar if !self.schema.name(type_id).is_empty() => "struct",
            Shape::Scalar => "string",
        }
    }

    /// Merges each list for which the patch gives an order, and takes it and its order out of the
    /// patch. The order is that of the directive, then that of the original for what only it has.
    fn merge_ordered_lists(
        &self,
        original: &mut Object,
        patch: &mut Object,
        type_id: TypeId,
    ) -> Result<(), StrategicError> {
        for (key, wanted_order) in take_prefixed(patch, SET_ELEMENT_ORDER) {
            let Value::Array(wanted_order) = wanted_order else {
                return Err(StrategicError::bad_type(GoKind::Slice, &wanted_order));
            };
            let name = field_of_directive(&key, SET_ELEMENT_ORDER)
                .ok_or(StrategicError::BadSetElementOrderFormat)?;
            for list in [original.get(name), patch.get(name)].into_iter().flatten() {
                if !list.is_array() {
                    return Err(StrategicError::bad_type(GoKind::Slice, list));
                }
            }
            let field = self.list_field(type_id, name)?;
            let patch_list = match patch.shift_remove(name) {
                Some(Value::Array(items)) => Some(items),
                _ => None,
            };
            order::validate(patch_list.as_deref().unwrap_or_default(), &wanted_order, field.merge_key)?;
            let slot = original.get_mut(name).and_then(Value::as_array_mut);
            let merged = self.merge_in_order(slot.map(std::mem::take), patch_list, &wanted_order, field)?;
            if let Some(merged) = merged {
                original.insert(name.to_owned(), Value::Array(merged));
            }
        }
        Ok(())
    }
}

/// Obeys `$retainKeys`, after checking that the patch sets nothing that it would not retain.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    let Some(retained) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retained) = retained else { return Err(StrategicError::BadRetainKeysFormat) };
    if retained.iter().any(|v| v.is_object() || v.is_array()) {
        return Err(StrategicError::BadRetainKeysFormat);
    }
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_FROM_PRIMITIVE_LIST) || key.starts_with(SET_ELEMENT_ORDER);
        if !value.is_null() && !directive && !retained.contains(key.as_str()) {
            return Err(StrategicError::BadRetainKeysFormat);
        }
    }
    original.retain(|key, _| retained.contains(key.as_str()));
    Ok(())
}

/// Takes the entries whose keys begin with `prefix` out of `patch`.
fn take_prefixed(patch: &mut Object, prefix: &str) -> Vec<(String, Value)> {
    let mut taken = Vec::new();
    patch.retain(|key, value| {
        let matches = key.starts_with(prefix);
        if matches {
            taken.push((key.clone(), value.take()));
        }
        !matches
    });
    taken
}

/// The field that the key of a directive such as `$setElementOrder/containers` is about.
fn field_of_directive<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

/// Removes directives, and nulls if told to, from a value that the patch brings in anew. An object
/// with `$patch` vanishes with its directive; returns false if `value` itself is one. Nulls in lists
/// stay.
fn clean(value: &mut Value, drop_nulls: bool) -> bool {
    match value {
        Value::Object(map) => {
            if map.get(PATCH).is_some_and(|directive| !(drop_nulls && directive.is_null())) {
                return false;
            }
            map.retain(|_, v| !(drop_nulls && v.is_null()) && clean(v, drop_nulls));
        }
        Value::Array(items) => items.retain_mut(|v| clean(v, drop_nulls)),
        _ => {}
    }
    true
}
