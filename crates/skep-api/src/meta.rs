//! What all kinds have in common: metadata, its validation, names, labels, ages.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{Errors, Path};
use crate::table::Cell;

/// The `Name` cell.
#[must_use]
pub fn name_cell(meta: &ObjectMeta) -> Cell {
    meta.name.clone().unwrap_or_default().into()
}

/// The `Age` cell: `5m3s`, or `<unknown>` without a creation time.
#[must_use]
pub fn age_cell(meta: &ObjectMeta, now: Timestamp) -> Cell {
    match &meta.creation_timestamp {
        Some(created) => age(created.0, now).into(),
        None => "<unknown>".into(),
    }
}

/// Name and age.
#[must_use]
pub fn default_row(meta: &ObjectMeta, now: Timestamp) -> Vec<Cell> {
    vec![name_cell(meta), age_cell(meta, now)]
}

/// The time from `then` to `now` in the short form of `kubectl get`: two units while they matter.
///
/// Rules: k8s.io/apimachinery `pkg/util/duration`, HumanDuration.
#[must_use]
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let s = seconds.max(0);
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match () {
        () if s < 120 => format!("{s}s"),
        () if m < 10 => two(m, "m", s % 60, "s"),
        () if m < 180 => format!("{m}m"),
        () if h < 8 => two(h, "h", m % 60, "m"),
        () if h < 48 => format!("{h}h"),
        () if h < 192 => two(d, "d", h % 24, "h"),
        () if d < 730 => format!("{d}d"),
        () if d < 2920 => two(d / 365, "y", d % 365, "d"),
        () => format!("{}y", d / 365),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let ago = |s: i64| age(Timestamp::from_second(1_000_000_000 - s).unwrap(), now);
        let table: &[(i64, &str)] = &[
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (2 * 365 * 86_400, "2y"),
            (366 * 2 * 86_400, "2y2d"),
            (8 * 365 * 86_400, "8y"),
        ];
        for (s, want) in table {
            assert_eq!(ago(*s), *want, "{s}");
        }
    }
}
