//! Small checks that many kinds share, worded as upstream words them.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::Value;

use super::{format, selector};
use crate::field::{Errors, Json, Path};

/// Longest reason of a condition.
const REASON_MAX_BYTES: usize = 1024;
/// Longest message of a condition.
const MESSAGE_MAX_BYTES: usize = 32 * 1024;

/// Whether two values mean the same: absent and empty lists and texts are one thing in the API.
pub fn same<T: PartialEq + Serialize>(a: &T, b: &T) -> bool {
    a == b || normal_form(a) == normal_form(b)
}

/// The value's JSON without empty lists, empty texts and nulls. Empty objects stay: `emptyDir: {}` says
/// something.
fn normal_form<T: Serialize>(value: &T) -> Value {
    fn prune(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.values_mut().for_each(prune);
                map.retain(|_, v| match v {
                    Value::Null => false,
                    Value::Array(items) => !items.is_empty(),
                    Value::String(text) => !text.is_empty(),
                    _ => true,
                });
            }
            Value::Array(items) => items.iter_mut().for_each(prune),
            _ => {}
        }
    }
    let mut tree = serde_json::to_value(value).unwrap_or_default();
    prune(&mut tree);
    match &tree {
        Value::String(text) if text.is_empty() => Value::Null,
        Value::Array(items) if items.is_empty() => Value::Null,
        _ => tree,
    }
}

/// A field that may not change.
pub fn validate_immutable_field<T: PartialEq + Serialize>(
    new: &T,
    old: &T,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if !same(new, old) {
        errors.invalid(path, Json(new), "field is immutable");
    }
}

/// A number that may not be negative.
pub fn validate_nonnegative(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if value < 0 {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

/// A number that must be positive.
pub fn validate_positive(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if value <= 0 {
        errors.invalid(path, value, "must be greater than 0");
    }
}

/// A port number that is not zero.
pub fn validate_port_num(port: i32, path: &Path<'_>, errors: &mut Errors) {
    for message in format::port_num_errors(port.into()) {
        errors.invalid(path, port, &message);
    }
}

/// A port number, or the name of a port.
pub fn validate_port_num_or_name(port: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => validate_port_num(*number, path, errors),
        IntOrString::String(name) => {
            for message in format::port_name_errors(name) {
                errors.invalid(path, name, &message);
            }
        }
    }
}

/// A key of a ConfigMap or Secret: it becomes a file name.
pub fn validate_config_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if key.len() > skep_base::name::SUBDOMAIN_MAX_LEN {
        errors.invalid(path, key, "must be no more than 253 characters");
    }
    if key.is_empty() || !key.bytes().all(allowed) {
        errors.invalid(
            path,
            key,
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
             (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        );
    }
    if key == "." {
        errors.invalid(path, key, "must not be '.'");
    } else if key == ".." {
        errors.invalid(path, key, "must not be '..'");
    } else if key.starts_with("..") {
        errors.invalid(path, key, "must not start with '..'");
    }
}

/// The conditions of newer kinds (`metav1.Condition`).
pub fn validate_conditions(conditions: &[Condition], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if !seen.insert(&condition.type_) {
            errors.duplicate(&path.child("type"), &condition.type_);
        }
        validate_condition(condition, &path, errors);
    }
}

/// One condition of a newer kind.
pub fn validate_condition(condition: &Condition, path: &Path<'_>, errors: &mut Errors) {
    selector::validate_qualified_name(&condition.type_, &path.child("type"), errors);
    if !matches!(condition.status.as_str(), "True" | "False" | "Unknown") {
        errors.not_supported(&path.child("status"), &condition.status, &["False", "True", "Unknown"]);
    }
    if let Some(generation @ ..0) = condition.observed_generation {
        let path = path.child("observedGeneration");
        errors.invalid(&path, generation, "must be greater than or equal to zero");
    }
    let reason = path.child("reason");
    if condition.reason.is_empty() {
        errors.required(&reason, "");
    } else {
        if !is_condition_reason(&condition.reason) {
            errors.invalid(
                &reason,
                &condition.reason,
                "a condition reason must start with alphabetic character, optionally followed by a string of \
                 alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex \
                 used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
            );
        }
        if condition.reason.len() > REASON_MAX_BYTES {
            errors.too_long(&reason, REASON_MAX_BYTES);
        }
    }
    if condition.message.len() > MESSAGE_MAX_BYTES {
        errors.too_long(&path.child("message"), MESSAGE_MAX_BYTES);
    }
}

fn is_condition_reason(reason: &str) -> bool {
    let b = reason.as_bytes();
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let (Some(&first), Some(&last)) = (b.first(), b.last()) else { return false };
    first.is_ascii_alphabetic() && word(last) && b.iter().all(|&c| word(c) || matches!(c, b',' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Volume};

    #[test]
    fn absent_and_empty_are_the_same() {
        assert!(same(&None, &Some(Vec::<String>::new())));
        assert!(same(&None, &Some(String::new())));
        assert!(!same(&None, &Some(0)));
        let none = Volume { name: "a".into(), ..Default::default() };
        let dir = Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..none.clone() };
        assert!(!same(&none, &dir));
        let mut errors = Errors::new();
        validate_immutable_field(&Some("b"), &Some("a"), &Path::root("x"), &mut errors);
        assert_eq!(errors.to_string(), r#"x: Invalid value: "b": field is immutable"#);
    }

    #[test]
    fn numbers_and_ports() {
        let mut errors = Errors::new();
        let path = Path::root("p");
        validate_nonnegative(-1, &path, &mut errors);
        validate_positive(0, &path, &mut errors);
        validate_port_num_or_name(&IntOrString::Int(0), &path, &mut errors);
        validate_port_num_or_name(&IntOrString::String("80".into()), &path, &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "p: Invalid value: -1: must be greater than or equal to 0",
                "p: Invalid value: 0: must be greater than 0",
                "p: Invalid value: 0: must be between 1 and 65535, inclusive",
                r#"p: Invalid value: "80": must contain at least one letter (a-z)"#,
            ]
        );
        let mut errors = Errors::new();
        validate_nonnegative(0, &path, &mut errors);
        validate_positive(1, &path, &mut errors);
        validate_port_num_or_name(&IntOrString::String("http".into()), &path, &mut errors);
        assert!(errors.is_empty());
    }

    #[test]
    fn conditions() {
        let good: Condition = serde_json::from_str(
            r#"{"type":"Ready","status":"True","reason":"Up","message":"","lastTransitionTime":"2020-01-01T00:00:00Z"}"#,
        )
        .unwrap();
        let errors_of = |conditions: &[Condition]| {
            let mut errors = Errors::new();
            validate_conditions(conditions, &Path::root("c"), &mut errors);
            errors.to_string()
        };
        assert_eq!(errors_of(std::slice::from_ref(&good)), "[]");
        assert_eq!(errors_of(&[good.clone(), good.clone()]), r#"c[1].type: Duplicate value: "Ready""#);
        type Change = fn(&mut Condition);
        let table: &[(Change, &str)] = &[
            (|c| c.type_ = "a b".into(), "c[0].type: Invalid value: \"a b\": name part must consist"),
            (
                |c| c.status = "true".into(),
                "c[0].status: Unsupported value: \"true\": supported values: \"False\", \"True\", \"Unknown\"",
            ),
            (
                |c| c.observed_generation = Some(-1),
                "c[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
            ),
            (|c| c.reason.clear(), "c[0].reason: Required value"),
            (|c| c.reason = "a:".into(), "c[0].reason: Invalid value: \"a:\": a condition reason must start"),
            (|c| c.reason = "a".repeat(1025), "c[0].reason: Too long: may not be more than 1024 bytes"),
            (|c| c.message = "a".repeat(32769), "c[0].message: Too long: may not be more than 32768 bytes"),
        ];
        for (change, want) in table {
            let mut condition = good.clone();
            change(&mut condition);
            let errors = errors_of(&[condition]);
            assert!(errors.starts_with(want), "{errors}");
        }
    }
}
