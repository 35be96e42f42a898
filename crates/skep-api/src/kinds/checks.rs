//! Checks and table cells that the workload kinds share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::Value;
use skep_base::label;

use crate::field::{Bare, ErrorKind, Errors, FieldError, Json, Path};
use crate::meta;
use crate::table::{Cell, Column};

/// What clients read for a number below zero.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// What clients read for a change of a field that cannot change.
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// A number that must not be negative.
pub(crate) fn nonnegative(value: impl Into<i64>, path: &Path<'_>, errors: &mut Errors) {
    let value = value.into();
    if value < 0 {
        errors.invalid(path, value, NOT_NEGATIVE);
    }
}

/// A number that must not be negative if it is there.
pub(crate) fn nonnegative_if_set(value: Option<impl Into<i64>>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value {
        nonnegative(value, path, errors);
    }
}

/// An amount that must not be negative.
pub(crate) fn nonnegative_quantity(quantity: &Quantity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(amount) = meta::parse_quantity(quantity, path, errors)
        && amount.signum() < 0
    {
        errors.invalid(path, &quantity.0, NOT_NEGATIVE);
    }
}

/// A counter of a status that only rises.
pub(crate) fn not_decremented(new: Option<i32>, old: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    let lower = match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new < old,
    };
    if lower {
        errors.invalid(path, new.unwrap_or_default(), "cannot be decremented");
    }
}

/// A field that stays as it was created.
pub(crate) fn immutable<T: PartialEq + Serialize>(new: &T, old: &T, path: &Path<'_>, errors: &mut Errors) {
    meta::validate_immutable_field(new, old, path, errors);
}

/// An invalid value that the message does not repeat.
pub(crate) fn invalid_without_value(path: &Path<'_>, detail: &str, errors: &mut Errors) {
    errors.push(FieldError {
        kind: ErrorKind::Invalid,
        field: path.to_string(),
        message: format!("Invalid value: {detail}"),
    });
}

/// The percentage of `25%`.
fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // A number too large for 64 bits is a percentage far above every limit.
    all_digits.then(|| digits.parse().unwrap_or(i64::MAX))
}

/// A count or a percentage, neither negative.
pub(crate) fn int_or_percent(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match value {
        IntOrString::Int(n) => nonnegative(*n, path, errors),
        IntOrString::String(s) if percent(s).is_some() => {}
        IntOrString::String(s) => errors.invalid(
            path,
            s,
            "a valid percent string must be a numeric string followed by an ending '%' \
             (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ),
    }
}

/// A percentage of at most 100, or any count.
pub(crate) fn at_most_100_percent(value: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    if let IntOrString::String(s) = value
        && percent(s).is_some_and(|p| p > 100)
    {
        errors.invalid(path, s, "must not be greater than 100%");
    }
}

/// The count or percentage as a plain number; 0 for text that is neither.
pub(crate) fn int_or_percent_value(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(n) => i64::from(*n),
        // Text without a percent sign counts as the number that it spells.
        IntOrString::String(s) => percent(s).or_else(|| s.parse().ok()).unwrap_or_default(),
    }
}

/// Whether a required selector was left out: the type cannot tell it from an empty one, except that who
/// writes an empty `matchLabels` wrote a selector.
pub(crate) fn selector_unset(selector: &LabelSelector) -> bool {
    selector.match_labels.is_none() && selector.match_expressions.is_none()
}

/// Whether a selector selects everything.
pub(crate) fn selector_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A selector as messages show it: labels come before expressions.
pub(crate) fn selector_shown(selector: &LabelSelector) -> String {
    let mut map = serde_json::Map::new();
    if let Some(labels) = selector.match_labels.as_ref().filter(|l| !l.is_empty()) {
        map.insert("matchLabels".to_owned(), serde_json::to_value(labels).unwrap_or_default());
    }
    if let Some(list) = selector.match_expressions.as_ref().filter(|l| !l.is_empty()) {
        map.insert("matchExpressions".to_owned(), serde_json::to_value(list).unwrap_or_default());
    }
    Value::Object(map).to_string()
}

/// The selector of a workload: there, well-formed, and not empty.
pub(crate) fn required_selector(selector: &LabelSelector, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    if selector_unset(selector) {
        errors.required(path, "");
        return;
    }
    validate_label_selector(selector, path, errors);
    if selector_empty(selector) {
        let detail = format!("empty selector is invalid for {kind}");
        errors.invalid(path, Bare(&selector_shown(selector)), &detail);
    }
}

/// A selector that is fixed once the object exists.
pub(crate) fn immutable_selector(
    new: &LabelSelector,
    old: &LabelSelector,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if !meta::same(new, old) {
        errors.invalid(path, Bare(&selector_shown(new)), IMMUTABLE);
    }
}

/// Whether the pods that a template makes are the ones that the selector selects. `None` when the selector
/// is malformed, which is reported elsewhere.
pub(crate) fn selects(selector: &LabelSelector, metadata: Option<&ObjectMeta>) -> Option<bool> {
    if selector_unset(selector) {
        return Some(false);
    }
    let none = BTreeMap::new();
    selector_matches(selector, metadata.and_then(|m| m.labels.as_ref()).unwrap_or(&none))
}

/// Reports labels of a template that the selector does not select. False when the selector is malformed.
pub(crate) fn template_labels_selected(
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    let selected = selects(selector, template.metadata.as_ref());
    if selected == Some(false) {
        let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        errors.invalid(
            &path.child("metadata").child("labels"),
            Json(&labels),
            "`selector` does not match template `labels`",
        );
    }
    selected.is_some()
}

/// Pods that are kept running: they restart always and have no end.
pub(crate) fn always_running(template: &PodTemplateSpec, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let spec_path = path.child("spec");
    let spec = template.spec.as_ref();
    let restart = spec.and_then(|s| s.restart_policy.as_deref()).unwrap_or_default();
    if restart != "Always" {
        errors.not_supported(&spec_path.child("restartPolicy"), restart, &["Always"]);
    }
    if spec.is_some_and(|s| s.active_deadline_seconds.is_some()) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&spec_path.child("activeDeadlineSeconds"), &detail);
    }
}

/// Advice about a name that becomes part of pod names and host names.
pub(crate) fn pod_name_warning(metadata: &ObjectMeta, warnings: &mut Vec<String>) {
    let problems = meta::dns1123_label_errors(metadata.name.as_deref().unwrap_or_default());
    if !problems.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising \
             behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        ));
    }
}

/// The column of kinds that upstream prints with its default table, which shows the time instead of the age.
pub(crate) const CREATED_AT: Column =
    Column { ty: "date", ..Column::string("Created At", "When the object was created.") };

/// The cell of [`CREATED_AT`].
pub(crate) fn created_cell(meta: &ObjectMeta) -> Cell {
    let created = meta.creation_timestamp.as_ref();
    created.map(|t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default().into()
}

/// The wide columns of kinds with a pod template.
pub(crate) const CONTAINERS: Column =
    Column::string("Containers", "Names of the template's containers.").wide();
/// The wide columns of kinds with a pod template.
pub(crate) const IMAGES: Column = Column::string("Images", "Images of the template's containers.").wide();
/// The wide columns of kinds with a pod template.
pub(crate) const SELECTOR: Column = Column::string("Selector", "The label selector of the pods.").wide();

/// The cells of [`CONTAINERS`] and [`IMAGES`].
pub(crate) fn container_cells(template: Option<&PodTemplateSpec>) -> [Cell; 2] {
    let containers: &[Container] =
        template.and_then(|t| t.spec.as_ref()).map_or(&[], |spec| spec.containers.as_slice());
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    [names.join(",").into(), images.join(",").into()]
}

/// The cell of [`SELECTOR`].
pub(crate) fn selector_cell(selector: Option<&LabelSelector>) -> Cell {
    match selector {
        // A selector that is not there selects nothing, and nothing has no text.
        None => "<none>".into(),
        Some(selector) => match selector_text(selector) {
            Some(text) if text.is_empty() => "<none>".into(),
            Some(text) => text.into(),
            None => "<error>".into(),
        },
    }
}

/// Reports what is wrong with a label selector. Malformed values are wrong too.
pub(crate) fn validate_label_selector(selector: &LabelSelector, path: &Path<'_>, errors: &mut Errors) {
    meta::validate_label_selector(selector, meta::LabelSelectorOptions::default(), path, errors);
}

/// Whether labels satisfy a selector; `None` when it is malformed. Nothing is allocated.
pub(crate) fn selector_matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> Option<bool> {
    let mut matches = true;
    for (key, value) in selector.match_labels.iter().flatten() {
        if !label::is_key(key) || !label::is_value(value) {
            return None;
        }
        matches &= labels.get(key) == Some(value);
    }
    for expression in selector.match_expressions.iter().flatten() {
        let values = expression.values.as_deref().unwrap_or_default();
        if !label::is_key(&expression.key) || !values.iter().all(|v| label::is_value(v)) {
            return None;
        }
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|v| values.contains(v));
        matches &= match expression.operator.as_str() {
            "In" if !values.is_empty() => listed,
            "NotIn" if !values.is_empty() => !listed,
            "Exists" if values.is_empty() => value.is_some(),
            "DoesNotExist" if values.is_empty() => value.is_none(),
            _ => return None,
        };
    }
    Some(matches)
}

/// A selector in its string form; `None` when it is malformed.
pub(crate) fn selector_text(selector: &LabelSelector) -> Option<String> {
    meta::label_selector(Some(selector)).ok().map(|s| s.to_string())
}

/// A CSI driver's name; in any case.
pub(crate) fn csi_driver_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    /// The longest name of a driver, as the CSI specification has it.
    const MAX_BYTES: usize = 63;
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > MAX_BYTES {
        errors.too_long(path, MAX_BYTES);
    }
    for message in meta::dns1123_subdomain_errors(&name.to_lowercase()) {
        errors.invalid(path, name, &message);
    }
}

/// A path behind a domain: `example.com/what/ever`.
pub(crate) fn domain_prefixed_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.is_empty() {
        errors.required(path, "");
        return;
    }
    let Some((host, rest)) = text.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        errors.invalid(path, text, r#"must be a domain-prefixed path (such as "acme.io/foo")"#);
        return;
    };
    for message in meta::dns1123_subdomain_errors(host) {
        errors.invalid(path, host, &message);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(allowed) {
        let detail = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
        errors.invalid(path, rest, detail);
    }
}

pub(crate) use crate::kinds::core::pod::{
    default_pod_template, validate_pod_template_spec as validate_pod_template,
};

/// Advice about a pod template; none about one that stays as it was.
pub(crate) fn pod_template_warnings(
    template: &PodTemplateSpec,
    old: Option<&PodTemplateSpec>,
    path: &Path<'_>,
    warnings: &mut Vec<String>,
) {
    if old.is_none_or(|old| !meta::same(template, old)) {
        warnings.extend(crate::kinds::core::pod::template_warnings(template, path));
    }
}
