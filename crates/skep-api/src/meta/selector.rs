//! Labels, and label selectors as objects hold them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use skep_base::label;
use skep_base::selector::{self, InvalidRequirement, Operator, Requirement};

use crate::field::{Errors, Path};

/// A qualified name, which is also what label keys are: `name` or `example.com/name`.
pub fn validate_qualified_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    for message in label::key_errors(name) {
        errors.invalid(path, name, &message);
    }
}

/// Keys and values of labels.
pub fn validate_labels(labels: &BTreeMap<String, String>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels {
        validate_qualified_name(key, path, errors);
        for message in label::value_errors(value) {
            errors.invalid(path, value, &message);
        }
    }
}

/// What [`validate_label_selector`] lets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelSelectorOptions {
    /// Malformed values in expressions, for objects that were stored with such ones.
    pub allow_invalid_values: bool,
    /// Operators that are not known, for reviews of requests that some other server may understand.
    pub allow_unknown_operators: bool,
}

/// A selector inside an object.
pub fn validate_label_selector(
    selector: &LabelSelector,
    options: LabelSelectorOptions,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(labels) = &selector.match_labels {
        validate_labels(labels, &path.child("matchLabels"), errors);
    }
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        validate_expression(expression, options, &path.child("matchExpressions").index(i), errors);
    }
}

fn validate_expression(
    expression: &LabelSelectorRequirement,
    options: LabelSelectorOptions,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let values = expression.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match expression.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(
                &values_path,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        operator if !options.allow_unknown_operators => {
            errors.invalid(&path.child("operator"), operator, "not a valid selector operator");
        }
        _ => {}
    }
    validate_qualified_name(&expression.key, &path.child("key"), errors);
    if !options.allow_invalid_values {
        for (i, value) in values.iter().enumerate() {
            for message in label::value_errors(value) {
                errors.invalid(&values_path.index(i), value, &message);
            }
        }
    }
}

/// Whether an expression has a malformed value: then later versions of the object may keep it.
#[must_use]
pub fn has_invalid_values(selector: &LabelSelector) -> bool {
    let expressions = selector.match_expressions.iter().flatten();
    expressions.flat_map(|e| e.values.iter().flatten()).any(|v| !label::is_value(v))
}

/// Why a selector in an object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// An operator that is not known.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// A malformed key, value, or number of values.
    #[error(transparent)]
    Requirement(#[from] InvalidRequirement),
}

/// The selector in the form that matches. Without a selector nothing matches, with an empty one
/// everything does.
///
/// # Errors
/// [`SelectorError`] for selectors that [`validate_label_selector`] refuses.
pub fn label_selector(selector: Option<&LabelSelector>) -> Result<selector::LabelSelector, SelectorError> {
    let Some(selector) = selector else { return Ok(selector::LabelSelector::nothing()) };
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
    }
    for expression in selector.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(SelectorError::Operator(other.to_owned())),
        };
        let values = expression.values.clone().unwrap_or_default();
        requirements.push(Requirement::new(&expression.key, operator, values)?);
    }
    Ok(selector::LabelSelector::new(requirements))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> LabelSelector {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn selectors_are_checked() {
        let name = "name part must consist of";
        let value = "a valid label must be an empty string or consist of";
        let table = [
            (r#"{}"#, String::new()),
            (r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"a","operator":"In","values":["x",""]}]}"#, String::new()),
            (r#"{"matchLabels":{"a b":"c"}}"#, format!(r#"s.matchLabels: Invalid value: "a b": {name}"#)),
            (r#"{"matchLabels":{"a":"-"}}"#, format!(r#"s.matchLabels: Invalid value: "-": {value}"#)),
            (
                r#"{"matchExpressions":[{"key":"a","operator":"In"}]}"#,
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'".into(),
            ),
            (
                r#"{"matchExpressions":[{"key":"a","operator":"Exists","values":["x"]}]}"#,
                "s.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'".into(),
            ),
            (
                r#"{"matchExpressions":[{"key":"a","operator":"Gt","values":["1"]}]}"#,
                r#"s.matchExpressions[0].operator: Invalid value: "Gt": not a valid selector operator"#.into(),
            ),
            (
                r#"{"matchExpressions":[{"key":"-","operator":"Exists"}]}"#,
                format!(r#"s.matchExpressions[0].key: Invalid value: "-": {name}"#),
            ),
            (
                r#"{"matchExpressions":[{"key":"a","operator":"In","values":["x","-"]}]}"#,
                format!(r#"s.matchExpressions[0].values[1]: Invalid value: "-": {value}"#),
            ),
        ];
        for (json, want) in table {
            let mut errors = Errors::new();
            let selector = selector(json);
            validate_label_selector(
                &selector,
                LabelSelectorOptions::default(),
                &Path::root("s"),
                &mut errors,
            );
            assert_eq!(errors.is_empty(), want.is_empty(), "{json}: {errors}");
            assert!(want.is_empty() || errors.to_string().starts_with(&want), "{json}: {errors}");
            assert_eq!(label_selector(Some(&selector)).is_ok(), want.is_empty(), "{json}");
        }
    }

    #[test]
    fn options_let_stored_selectors_pass() {
        let old = selector(r#"{"matchExpressions":[{"key":"a","operator":"X","values":["-"]}]}"#);
        assert!(has_invalid_values(&old));
        let options = LabelSelectorOptions { allow_invalid_values: true, allow_unknown_operators: true };
        let mut errors = Errors::new();
        validate_label_selector(&old, options, &Path::root("s"), &mut errors);
        assert!(errors.is_empty(), "{errors}");
        assert_eq!(
            label_selector(Some(&old)).unwrap_err().to_string(),
            r#""X" is not a valid label selector operator"#
        );
    }

    #[test]
    fn conversion_keeps_the_meaning() {
        let s = selector(
            r#"{"matchLabels":{"b":"1"},"matchExpressions":[{"key":"a","operator":"NotIn","values":["y","x"]},{"key":"c","operator":"DoesNotExist"}]}"#,
        );
        assert_eq!(label_selector(Some(&s)).unwrap().to_string(), "a notin (x,y),b=1,!c");
        assert!(label_selector(None).unwrap().is_nothing());
        assert!(label_selector(Some(&LabelSelector::default())).unwrap().is_everything());
    }
}
