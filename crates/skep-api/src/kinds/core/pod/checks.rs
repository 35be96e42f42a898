//! Names, numbers and addresses that occur all over a pod spec, with upstream's wording.
//!
//! Rules and messages: k8s.io/apimachinery `pkg/util/validation`. Each function looks at a valid value
//! once and allocates nothing.

use skep_base::{label, name};

use crate::field::{Errors, Path};
use crate::meta;

/// The largest user or group id; ids are unsigned, but some of their users are not.
const ID_MAX: i64 = i32::MAX as i64;

/// Reports what is wrong with a value.
fn report(messages: Vec<String>, value: &str, path: &Path<'_>, errors: &mut Errors) {
    for message in messages {
        errors.invalid(path, value, &message);
    }
}

/// An RFC 1123 label.
pub(super) fn dns_label(value: &str, path: &Path<'_>, errors: &mut Errors) {
    report(meta::dns1123_label_errors(value), value, path, errors);
}

/// An RFC 1123 subdomain: the name of nearly any object.
pub(super) fn dns_subdomain(value: &str, path: &Path<'_>, errors: &mut Errors) {
    report(meta::dns1123_subdomain_errors(value), value, path, errors);
}

/// A subdomain whose labels may contain underscores and begin with one.
pub(super) fn dns_subdomain_with_underscore(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |l: &str| {
        let b = l.strip_prefix('_').unwrap_or(l).as_bytes();
        let (Some(&first), Some(&last)) = (b.first(), b.last()) else { return false };
        alnum(first) && alnum(last) && b.iter().all(|&c| alnum(c) || matches!(c, b'-' | b'_'))
    };
    if value.len() > name::SUBDOMAIN_MAX_LEN {
        errors.invalid(path, value, "must be no more than 253 characters");
    }
    if !value.split('.').all(is_label) {
        errors.invalid(
            path,
            value,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
             and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
             validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
        );
    }
}

/// Whether it is a label key, `name` or `example.com/name`.
pub(super) fn is_qualified_name(value: &str) -> bool {
    label::is_key(value)
}

/// A label key, also called a qualified name. Says whether it is one.
pub(super) fn qualified_name(value: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let ok = label::is_key(value);
    if !ok {
        report(label::key_errors(value), value, path, errors);
    }
    ok
}

/// A label value.
pub(super) fn label_value(value: &str, path: &Path<'_>, errors: &mut Errors) {
    report(label::value_errors(value), value, path, errors);
}

/// A key of a ConfigMap or Secret that must be there.
pub(super) fn config_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    if key.is_empty() {
        errors.required(path, "");
    } else {
        meta::validate_config_key(key, path, errors);
    }
}

/// An IANA service name. Says whether it is one.
pub(super) fn port_name(port: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let messages = meta::port_name_errors(port);
    let ok = messages.is_empty();
    report(messages, port, path, errors);
    ok
}

/// What an environment variable may be called: printable ASCII without `=`.
pub(super) fn env_name(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.invalid(path, value, "environment variable name must be non-empty");
    }
    if !value.bytes().all(|b| (b == b' ' || b.is_ascii_graphic()) && b != b'=') {
        errors.invalid(
            path,
            value,
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
        );
    }
}

/// A user or group id.
pub(super) fn id(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if !(0..=ID_MAX).contains(&value) {
        errors.invalid(path, value, "must be between 0 and 2147483647, inclusive");
    }
}

/// One or more, in the words of the core group.
pub(super) fn positive(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if value <= 0 {
        errors.invalid(path, value, "must be greater than zero");
    }
}

/// The mode of a file, 0 to 0777.
pub(super) fn file_mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// An IP address, written so that every program reads the same one.
pub(super) fn ip(value: &str, path: &Path<'_>, errors: &mut Errors) {
    report(meta::legacy_ip_errors(value), value, path, errors);
}

/// A relative path that stays where it begins.
pub(super) fn descending_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(value, path, errors);
}

/// A path without `..`. Says whether it is one.
pub(super) fn no_backsteps(value: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let ok = !has_backsteps(value);
    if !ok {
        errors.invalid(path, value, "must not contain '..'");
    }
    ok
}

/// Whether a path goes up anywhere.
pub(super) fn has_backsteps(value: &str) -> bool {
    value.contains("..") && value.split('/').any(|part| part == "..")
}

/// A relative path that stays where it begins and does not start with `..`, which kubelets use for
/// themselves.
pub(super) fn unreserved_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    descending_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.invalid(path, value, "must not start with '..'");
    }
}

/// `NotSupported` unless the value is one of those allowed.
pub(super) fn one_of(value: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if !allowed.contains(&value) {
        errors.not_supported(path, value, allowed);
    }
}

/// As [`one_of`], but an empty value is a missing one.
pub(super) fn required_one_of(value: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        one_of(value, allowed, path, errors);
    }
}

/// A text that may not be empty.
pub(super) fn required(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    }
}
