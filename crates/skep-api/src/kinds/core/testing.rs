//! What the tests of core kinds share: an object in JSON, changed in one place, and the errors that follow.

use jiff::Timestamp;
use serde_json::Value;

use crate::context::{Context, UserInfo};
use crate::field::Errors;
use crate::kind::Kind;

/// Runs with the context of a write to a subresource (empty: the object).
pub(crate) fn in_context<R>(subresource: &str, run: impl FnOnce(&Context<'_>) -> R) -> R {
    let user = UserInfo::default();
    run(&Context { now: Timestamp::from_second(1_700_000_000).unwrap(), user: &user, subresource })
}

/// The object as it is decoded and defaulted.
pub(crate) fn defaulted<T: Kind>(json: &Value) -> T {
    let mut object: T = serde_json::from_value(json.clone()).unwrap();
    object.set_defaults();
    let once = object.clone();
    object.set_defaults();
    assert_eq!(once, object, "defaulting is not idempotent");
    object
}

/// The object as it is before validation of a create.
pub(crate) fn created<T: Kind>(json: &Value) -> T {
    let mut object: T = defaulted(json);
    in_context("", |cx| object.prepare_create(cx));
    object
}

/// The object as it is before validation of an update.
pub(crate) fn updated<T: Kind>(old: &T, json: &Value, subresource: &str) -> T {
    let mut object: T = defaulted(json);
    in_context(subresource, |cx| object.prepare_update(old, cx));
    object
}

fn texts(errors: &Errors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// What is wrong with creating it.
pub(crate) fn create_errors<T: Kind>(json: &Value) -> Vec<String> {
    let object: T = created(json);
    let mut errors = Errors::new();
    in_context("", |cx| object.validate(cx, &mut errors));
    texts(&errors)
}

/// What is wrong with updating `old`, a stored object, to `new`.
pub(crate) fn update_errors<T: Kind>(old: &Value, new: &Value, subresource: &str) -> Vec<String> {
    let old: T = defaulted(old);
    let object = updated(&old, new, subresource);
    let mut errors = Errors::new();
    in_context(subresource, |cx| object.validate_update(&old, cx, &mut errors));
    texts(&errors)
}

/// The warnings on a create.
pub(crate) fn create_warnings<T: Kind>(json: &Value) -> Vec<String> {
    let object: T = created(json);
    in_context("", |cx| object.warnings(None, cx))
}

/// A copy with the value at a JSON pointer replaced, or removed by `null`; missing objects on the way are
/// made.
pub(crate) fn with(base: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = base.clone();
    let mut at = &mut changed;
    let parts: Vec<String> =
        pointer[1..].split('/').map(|p| p.replace("~1", "/").replace("~0", "~")).collect();
    let (last, parents) = parts.split_last().unwrap();
    for part in parents {
        at = match at {
            Value::Array(items) => &mut items[part.parse::<usize>().unwrap()],
            Value::Object(map) => {
                map.entry(part.clone()).or_insert_with(|| Value::Object(Default::default()))
            }
            other => panic!("{pointer} goes through {other}"),
        };
    }
    match at {
        Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
        Value::Object(map) if value.is_null() => {
            map.shift_remove(last);
        }
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        other => panic!("{pointer} ends in {other}"),
    }
    changed
}

/// Checks a table of changes to a valid object: pointer, new value, errors expected in any order.
pub(crate) fn check_create_table<T: Kind>(valid: &Value, table: &[(&str, Value, &[&str])]) {
    assert_eq!(create_errors::<T>(valid), Vec::<String>::new(), "the valid object is not valid");
    for (pointer, value, expected) in table {
        let errors = create_errors::<T>(&with(valid, pointer, value.clone()));
        assert_eq!(errors, *expected, "{pointer} = {value}");
    }
}

/// The row of an object, at the time of [`in_context`].
pub(crate) fn row<T: Kind>(json: &Value) -> Vec<Value> {
    let object: T = defaulted(json);
    let row = object.row(Timestamp::from_second(1_700_000_000).unwrap());
    assert_eq!(row.len(), T::columns().len());
    row
}
