//! What the tests of kinds share: objects from JSON, changed by merge patches, and their errors as text.

use jiff::Timestamp;
use serde_json::Value;

use crate::context::{Context, UserInfo};
use crate::field::Errors;
use crate::kind::Kind;

/// The object, with its defaults.
pub(crate) fn object<T: Kind>(json: &Value) -> T {
    let mut unknown = Vec::new();
    let mut object: T =
        crate::codec::decode(json.to_string().as_bytes(), &mut |path| unknown.push(path.to_string()))
            .unwrap();
    assert!(unknown.is_empty(), "{}: unknown fields {unknown:?}", T::KIND);
    object.set_defaults();
    object
}

/// `base` with a JSON merge patch applied: nulls remove, objects merge, the rest replaces.
pub(crate) fn patched(base: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut merged = if base.is_object() { base.clone() } else { Value::Object(Default::default()) };
    for (key, change) in changes {
        if change.is_null() {
            merged.as_object_mut().unwrap().remove(key);
        } else {
            merged[key] = patched(&base[key], change);
        }
    }
    merged
}

/// Runs something with a context for a subresource.
pub(crate) fn with_context<R>(subresource: &str, run: impl FnOnce(&Context<'_>) -> R) -> R {
    let user = UserInfo::default();
    run(&Context { now: Timestamp::UNIX_EPOCH, user: &user, subresource })
}

/// The errors of a creation; empty if there are none.
pub(crate) fn create_errors<T: Kind>(json: &Value) -> String {
    let object: T = object(json);
    with_context("", |cx| {
        let mut errors = Errors::new();
        object.validate(cx, &mut errors);
        if errors.is_empty() { String::new() } else { errors.to_string() }
    })
}

/// The errors of a change; empty if there are none.
pub(crate) fn update_errors<T: Kind>(new: &Value, old: &Value, subresource: &str) -> String {
    let (new, old): (T, T) = (object(new), object(old));
    with_context(subresource, |cx| {
        let mut errors = Errors::new();
        new.validate_update(&old, cx, &mut errors);
        if errors.is_empty() { String::new() } else { errors.to_string() }
    })
}

/// A good object, and changes to it with how the error text must begin (empty: no error).
pub(crate) fn check_create<T: Kind>(good: &Value, table: &[(Value, &str)]) {
    assert_eq!(create_errors::<T>(good), "", "{good}");
    for (patch, want) in table {
        let errors = create_errors::<T>(&patched(good, patch));
        assert!(
            errors.starts_with(want) && errors.is_empty() == want.is_empty(),
            "{patch}\n got {errors}\nwant {want}"
        );
    }
}

/// The same for updates of `good`.
pub(crate) fn check_update<T: Kind>(good: &Value, subresource: &str, table: &[(Value, &str)]) {
    assert_eq!(update_errors::<T>(good, good, subresource), "", "{good}");
    for (patch, want) in table {
        let errors = update_errors::<T>(&patched(good, patch), good, subresource);
        assert!(
            errors.starts_with(want) && errors.is_empty() == want.is_empty(),
            "{patch}\n got {errors}\nwant {want}"
        );
    }
}

/// The object with its defaults, as JSON.
pub(crate) fn defaulted<T: Kind>(json: &Value) -> Value {
    serde_json::to_value(object::<T>(json)).unwrap()
}

/// The cells of an object, a minute after the epoch.
pub(crate) fn row<T: Kind>(json: &Value) -> Value {
    let cells = object::<T>(json).row(Timestamp::from_second(60).unwrap());
    assert_eq!(cells.len(), T::columns().len());
    Value::from(cells)
}
