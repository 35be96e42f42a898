//! What the tables of tests of the kinds share: an object is JSON, a mutation sets one place of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::codec;
use crate::context::{Context, UserInfo};
use crate::field::Errors;
use crate::kind::Kind;

/// Places of a tree, by JSON pointer, and what is put there.
pub(crate) type Changes<'a> = &'a [(&'a str, Value)];

/// Runs `check` with the context of a write to the object (`""`) or to a subresource.
pub(crate) fn with_context<R>(subresource: &str, check: impl FnOnce(&Context<'_>) -> R) -> R {
    let user = UserInfo {
        name: "ann".to_owned(),
        uid: "u-1".to_owned(),
        groups: vec!["devs".to_owned(), "system:authenticated".to_owned()],
        extra: BTreeMap::from([("scope".to_owned(), vec!["x".to_owned()])]),
    };
    check(&Context { now: Timestamp::UNIX_EPOCH, user: &user, subresource })
}

/// Sets the value at a JSON pointer, making objects on the way; `null` removes it.
pub(crate) fn set(tree: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
    let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut at = tree;
    for part in parent.split('/').skip(1) {
        at = if at.is_array() {
            &mut at[part.parse::<usize>().unwrap()]
        } else {
            let at = &mut at[unescape(part)];
            if at.is_null() {
                *at = Value::Object(serde_json::Map::new());
            }
            at
        };
    }
    match (value, at) {
        (Value::Null, Value::Object(map)) => drop(map.remove(&unescape(last))),
        (Value::Null, Value::Array(list)) => drop(list.remove(last.parse().unwrap())),
        (value, Value::Array(list)) if last == "-" => list.push(value),
        (value, at) if at.is_array() => at[last.parse::<usize>().unwrap()] = value,
        (value, at) => at[unescape(last)] = value,
    }
}

/// The tree with places set.
pub(crate) fn with(tree: &Value, changes: &[(&str, Value)]) -> Value {
    let mut tree = tree.clone();
    for (pointer, value) in changes {
        set(&mut tree, pointer, value.clone());
    }
    tree
}

/// The object as a request brings it: decoded and defaulted. Fields that the kind does not have fail.
pub(crate) fn object<T: Kind>(tree: &Value) -> T {
    let bytes = serde_json::to_vec(tree).unwrap();
    let mut object: T = codec::decode(&bytes, &mut |path| panic!("no field {path}: {tree}")).unwrap();
    object.set_defaults();
    object
}

/// The object as it is stored after a create.
pub(crate) fn created<T: Kind>(tree: &Value) -> T {
    let mut object: T = object(tree);
    with_context("", |cx| object.prepare_create(cx));
    object
}

fn texts(errors: &Errors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// What a create of the object is told.
pub(crate) fn create_errors<T: Kind>(tree: &Value) -> Vec<String> {
    let object: T = created(tree);
    let mut errors = Errors::new();
    with_context("", |cx| object.validate(cx, &mut errors));
    texts(&errors)
}

/// What an update from one object to another is told.
pub(crate) fn update_errors<T: Kind>(old: &T, new: &Value, subresource: &str) -> Vec<String> {
    let mut new: T = object(new);
    let mut errors = Errors::new();
    with_context(subresource, |cx| {
        new.prepare_update(old, cx);
        new.validate_update(old, cx, &mut errors);
    });
    texts(&errors)
}

/// Checks that the object is valid, and that each set of changes brings exactly these errors.
pub(crate) fn check_create<T: Kind>(valid: &Value, table: &[(Changes<'_>, &[&str])]) {
    assert_eq!(create_errors::<T>(valid), Vec::<String>::new());
    for (changes, want) in table {
        assert_eq!(create_errors::<T>(&with(valid, changes)), *want, "{changes:?}");
    }
}

/// Checks what updates of a valid object are told.
pub(crate) fn check_update<T: Kind>(
    valid: &Value,
    subresource: &str,
    table: &[(Changes<'_>, Changes<'_>, &[&str])],
) {
    for (before, after, want) in table {
        let old_tree = with(valid, before);
        let mut old: T = created(&old_tree);
        // The status comes from the tree: a create clears it.
        let mut tree = serde_json::to_value(&old).unwrap();
        set(&mut tree, "/status", old_tree.get("status").cloned().unwrap_or(Value::Null));
        old = object(&tree);
        let new = with(&tree, after);
        assert_eq!(update_errors::<T>(&old, &new, subresource), *want, "{before:?} -> {after:?}");
    }
}

/// The defaulted object as JSON.
pub(crate) fn defaulted<T: Kind>(tree: &Value) -> Value {
    let once: T = object(tree);
    let mut twice = once.clone();
    twice.set_defaults();
    assert!(once == twice, "defaulting twice is not defaulting once");
    serde_json::to_value(&once).unwrap()
}

/// The row of an object that was created 90 seconds ago, with the columns' names.
pub(crate) fn row<T: Kind>(tree: &Value) -> Vec<(&'static str, Value)> {
    let mut tree = tree.clone();
    set(&mut tree, "/metadata/creationTimestamp", "2026-01-01T00:00:00Z".into());
    let now: Timestamp = "2026-01-01T00:01:30Z".parse().unwrap();
    let object: T = object(&tree);
    let columns = T::columns();
    let cells = object.row(now);
    assert_eq!(columns.len(), cells.len());
    columns.into_iter().map(|c| c.name).zip(cells).collect()
}

/// Whether the generation rises with a change.
pub(crate) fn bumps_generation<T: Kind>(old: &Value, new: &Value) -> bool {
    let (old, new): (T, T) = (created(old), created(new));
    new.generation_changed(Some(&old)).unwrap()
}

/// The advice that a create brings.
pub(crate) fn create_warnings<T: Kind>(tree: &Value) -> Vec<String> {
    let object: T = created(tree);
    with_context("", |cx| object.warnings(None, cx))
}
