//! Label keys and values: what is wrong with one, in the words that clients see.
//!
//! Label selectors are parsed in this crate and their errors quote these, so they are here and not with
//! the other wordings in `skep-api`. Rules: k8s.io/apimachinery `pkg/api/validate/content`.

use crate::name;

/// Longest label value, and longest name part of a label key.
pub const MAX_LEN: usize = 63;

const FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_ERROR: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                         with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
                         used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const SUBDOMAIN_ERROR: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                               characters, '-' or '.', and must start and end with an alphanumeric character \
                               (e.g. 'example.com', regex used for validation is \
                               '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Letters, digits, `-`, `_` and `.`, with a letter or digit at both ends; not empty.
fn has_form(s: &str) -> bool {
    let b = s.as_bytes();
    let (Some(first), Some(last)) = (b.first(), b.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && b.iter().all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Whether a text is a label key, also called a qualified name: `name` or `example.com/name`.
#[must_use]
pub fn is_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(name::is_dns1123_subdomain) && name.len() <= MAX_LEN && has_form(name)
}

/// Whether a text is a label value.
#[must_use]
pub fn is_value(value: &str) -> bool {
    value.is_empty() || (value.len() <= MAX_LEN && has_form(value))
}

/// What is wrong with a label key; nothing if it is one.
#[must_use]
pub fn key_errors(key: &str) -> Vec<String> {
    if is_key(key) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > name::SUBDOMAIN_MAX_LEN {
                    errors.push("prefix part must be no more than 253 bytes".to_owned());
                }
                if !name::has_subdomain_form(prefix) {
                    errors.push(format!("prefix part {SUBDOMAIN_ERROR}"));
                }
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {KEY_ERROR} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LEN {
        errors.push(format!("name part must be no more than {MAX_LEN} bytes"));
    }
    if !has_form(name) {
        errors.push(format!("name part {KEY_ERROR}"));
    }
    errors
}

/// What is wrong with a label value; nothing if it is one.
#[must_use]
pub fn value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if is_value(value) {
        return errors;
    }
    if value.len() > MAX_LEN {
        errors.push(format!("must be no more than {MAX_LEN} bytes"));
    }
    if !has_form(value) {
        errors.push(format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
             must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
             regex used for validation is '({FORM})?')"
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let long_prefix = format!("{}/x", "a".repeat(253));
        let good = [
            "simple",
            "now-with-dashes",
            "1234",
            "simple/simple",
            "now.with.dots/simple",
            "1.2.3.4/5678",
            "Uppercase_Is_OK_123",
            "example.com/Uppercase_Is_OK_123",
            &long_prefix,
        ];
        for key in good {
            assert!(key_errors(key).is_empty() && is_key(key), "{key}");
        }
        let too_long = format!("{}/abc", "a".repeat(254));
        let table = [
            ("", "name part must be non-empty"),
            ("a b", "name part must consist of"),
            ("-a", "name part must consist of"),
            ("a/b/c", "a valid label key must consist of"),
            ("Example.com/abc", "prefix part a lowercase RFC 1123 subdomain"),
            ("/a", "prefix part must be non-empty"),
            ("a/", "name part must be non-empty"),
            (&too_long, "prefix part must be no more than 253 bytes"),
            (&"a".repeat(64), "name part must be no more than 63 bytes"),
        ];
        for (key, want) in table {
            let errors = key_errors(key);
            assert!(!is_key(key) && errors.first().is_some_and(|e| e.starts_with(want)), "{key}: {errors:?}");
        }
        assert_eq!(
            key_errors("a b"),
            [
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
              alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
              '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
    }

    #[test]
    fn values() {
        for value in ["", "a", "end-with-num-1", "A.b_c", &"a".repeat(63)] {
            assert!(value_errors(value).is_empty() && is_value(value), "{value}");
        }
        for value in ["a b", "-a", "a-", ".", "é", "a/b"] {
            assert_eq!(value_errors(value).len(), 1, "{value}");
        }
        assert_eq!(value_errors(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(
            value_errors("-"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
              must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
              regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
    }
}
