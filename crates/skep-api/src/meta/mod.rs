//! What all kinds have in common: metadata, its validation, names, labels, ages.
//!
//! [`object`] checks metadata, [`format`] says what is wrong with names and the like, [`selector`] is about
//! label selectors inside objects, [`check`] has the small checks that many kinds share, [`quantity`] is
//! about amounts of resources.

pub mod check;
pub mod format;
pub mod object;
pub mod quantity;
pub mod selector;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::table::Cell;

pub use check::{
    same, validate_condition, validate_conditions, validate_config_key, validate_immutable_field,
    validate_nonnegative, validate_port_num, validate_port_num_or_name, validate_positive,
};
pub use format::{
    cidr_errors, dns1035_label_errors, dns1123_label_errors, dns1123_subdomain_errors, env_var_name_errors,
    http_header_name_errors, in_range_errors, ip_errors, legacy_cidr_errors, legacy_ip_errors, name_errors,
    path_segment_errors, percent_errors, port_name_errors, port_num_errors, validate_fully_qualified_name,
    wildcard_subdomain_errors,
};
pub use object::{
    keep_metadata, validate_annotations, validate_finalizer_names, validate_object_meta,
    validate_object_meta_update, validate_owner_references,
};
pub use quantity::{canonical_quantity, canonical_resources, canonical_resources_milli, parse_quantity};
pub use selector::{
    LabelSelectorOptions, label_selector, validate_label_selector, validate_labels, validate_qualified_name,
};
pub use skep_base::label::{key_errors as qualified_name_errors, value_errors as label_value_errors};

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

/// The age of something that happened at `then`, or `<unknown>`.
#[must_use]
pub fn since_cell(then: Option<Timestamp>, now: Timestamp) -> Cell {
    then.map_or_else(|| "<unknown>".to_owned(), |then| age(then, now)).into()
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
    // Whole seconds between the two, not between the seconds that they fall into.
    let seconds = now.duration_since(then).as_secs();
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
        let half_past = Timestamp::from_millisecond(999_999_940_500).unwrap();
        assert_eq!(age(half_past, now), "59s");
        assert_eq!(age(now, half_past), "<invalid>");
        assert_eq!(age(Timestamp::from_millisecond(1_000_000_001_900).unwrap(), now), "0s");
    }
}
