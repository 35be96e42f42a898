//! LimitRange.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skep_base::Quantity;
use skep_base::quantity::Format;

use super::resources::{self, ResourceList};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

const CONTAINER: &str = "Container";
const POD: &str = "Pod";
const CLAIM: &str = "PersistentVolumeClaim";

/// Beyond this, thousandths do not fit into 64 bits.
const MAX_MILLI_VALUE: i64 = i64::MAX / 1000;

/// Where `to` says nothing, it says what `from` says.
fn fill(to: &mut Option<ResourceList>, from: Option<&ResourceList>) {
    for (resource, quantity) in from.into_iter().flatten() {
        let to = to.get_or_insert_default();
        if !to.contains_key(resource) {
            to.insert(resource.clone(), quantity.clone());
        }
    }
}

/// The lists of amounts of an item, with the names of their fields, in the order in which they are checked.
fn lists(item: &LimitRangeItem) -> [(&'static str, Option<&ResourceList>); 5] {
    [
        ("max", item.max.as_ref()),
        ("min", item.min.as_ref()),
        ("default", item.default.as_ref()),
        ("defaultRequest", item.default_request.as_ref()),
        ("maxLimitRequestRatio", item.max_limit_request_ratio.as_ref()),
    ]
}

fn is_empty(list: &Option<ResourceList>) -> bool {
    list.as_ref().is_none_or(ResourceList::is_empty)
}

fn validate_item_type(item_type: &str, path: &Path<'_>, errors: &mut Errors) {
    let before = errors.len();
    meta::validate_qualified_name(item_type, path, errors);
    if errors.len() == before && !item_type.contains('/') && ![POD, CONTAINER, CLAIM].contains(&item_type) {
        errors.invalid(path, item_type, "must be a standard limit type or fully qualified");
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path<'_>, errors: &mut Errors) {
    if item.type_ == POD {
        for (name, list) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
            if !is_empty(list) {
                errors.forbidden(&path.child(name), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    let mut names = BTreeSet::new();
    for (field, list) in lists(item) {
        if item.type_ == POD && field.starts_with("default") {
            continue;
        }
        let path = path.child(field);
        for (resource, text) in list.into_iter().flatten() {
            let path = path.key(resource);
            if item.type_ == POD || item.type_ == CONTAINER {
                resources::validate_container_name(resource, &path, errors);
            } else {
                resources::validate_name(resource, &path, errors);
            }
            meta::parse_quantity(text, &path, errors);
            names.insert(resource.as_str());
        }
    }
    let has_storage = |l: &Option<ResourceList>| l.as_ref().is_some_and(|l| l.contains_key("storage"));
    if item.type_ == CLAIM && !has_storage(&item.min) && !has_storage(&item.max) {
        errors.required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    for resource in names {
        validate_amounts(item, resource, path, errors);
    }
}

/// An amount as it was written and as it counts.
#[derive(Clone, Copy)]
struct Amount<'a> {
    text: &'a str,
    quantity: Quantity,
}

/// The amounts of one resource must be in order: min ≤ default request ≤ default ≤ max.
fn validate_amounts(item: &LimitRangeItem, resource: &str, path: &Path<'_>, errors: &mut Errors) {
    let amount = |list: &'_ Option<ResourceList>| -> Option<(String, Quantity)> {
        let Text(text) = list.as_ref()?.get(resource)?;
        Some((text.clone(), text.trim().parse().ok()?))
    };
    let of_defaults = |list: &Option<ResourceList>| if item.type_ == POD { None } else { amount(list) };
    let (min, max) = (amount(&item.min), amount(&item.max));
    let (default, request) = (of_defaults(&item.default), of_defaults(&item.default_request));
    let ratio = amount(&item.max_limit_request_ratio);
    fn view(a: &Option<(String, Quantity)>) -> Option<Amount<'_>> {
        a.as_ref().map(|(text, quantity)| Amount { text, quantity: *quantity })
    }
    let (min, max, default, request, ratio) =
        (view(&min), view(&max), view(&default), view(&request), view(&ratio));

    let mut ordered =
        |low: Option<Amount<'_>>, high: Option<Amount<'_>>, names: (&str, &str), at: &str, show_low: bool| {
            if let (Some(low), Some(high)) = (low, high)
                && low.quantity > high.quantity
            {
                let detail =
                    format!("{} value {} is greater than {} value {}", names.0, low.text, names.1, high.text);
                let shown = if show_low { low.text } else { high.text };
                errors.invalid(&path.child(at).key(resource), shown, &detail);
            }
        };
    ordered(min, max, ("min", "max"), "min", true);
    ordered(min, request, ("min", "default request"), "defaultRequest", false);
    ordered(request, max, ("default request", "max"), "defaultRequest", true);
    ordered(request, default, ("default request", "default limit"), "defaultRequest", true);
    ordered(min, default, ("min", "default"), "default", true);
    ordered(default, max, ("default", "max"), "default", false);

    let path_of_ratio = path.child("maxLimitRequestRatio");
    if let Some(ratio) = ratio {
        let path = path_of_ratio.key(resource);
        if ratio.quantity < Quantity::new(1, Format::DecimalSi) {
            errors.invalid(&path, ratio.text, &format!("ratio {} is less than 1", ratio.text));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let limit = max_ratio(ratio.quantity, min.quantity, max.quantity);
            if limit.allowed < limit.asked {
                let detail = format!("ratio {} is greater than max/min = {:.6}", ratio.text, limit.allowed);
                errors.invalid(&path, ratio.text, &detail);
            }
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && !resources::may_overcommit(resource)
        && default.quantity != request.quantity
    {
        let detail = format!(
            "default value {} must equal to defaultRequest value {} in {resource}",
            default.text, request.text
        );
        errors.invalid(&path.child("defaultRequest").key(resource), request.text, &detail);
    }
}

struct Ratio {
    asked: f64,
    allowed: f64,
}

/// The ratio in thousandths where they fit, else in whole units, as upstream rounds.
fn max_ratio(ratio: Quantity, min: Quantity, max: Quantity) -> Ratio {
    let fits = [ratio, min, max].iter().all(|q| q.value() < MAX_MILLI_VALUE);
    if fits {
        Ratio {
            asked: ratio.milli_value() as f64 / 1000.0,
            allowed: max.milli_value() as f64 / min.milli_value() as f64,
        }
    } else {
        Ratio { asked: ratio.value() as f64, allowed: max.value() as f64 / min.value() as f64 }
    }
}

impl Kind for LimitRange {
    fn info() -> KindInfo {
        KindInfo::of::<LimitRange>().short("limits").create_on_update()
    }

    fn set_defaults(&mut self) {
        for item in self.spec.get_or_insert_default().limits.iter_mut() {
            for list in [
                &mut item.max,
                &mut item.min,
                &mut item.default,
                &mut item.default_request,
                &mut item.max_limit_request_ratio,
            ] {
                resources::canonicalize(list);
            }
            if item.type_ == CONTAINER {
                fill(&mut item.default, item.max.as_ref());
                fill(&mut item.default_request, item.default.as_ref());
                fill(&mut item.default_request, item.min.as_ref());
            }
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let limits = self.spec.as_ref().map(|s| s.limits.as_slice()).unwrap_or_default();
        let path = Path::root("spec");
        let path = path.child("limits");
        for (i, item) in limits.iter().enumerate() {
            let path = path.index(i);
            validate_item_type(&item.type_, &path.child("type"), errors);
            if limits[..i].iter().any(|l| l.type_ == item.type_) {
                errors.duplicate(&path.child("type"), &item.type_);
            }
            validate_item(item, &path, errors);
        }
    }

    fn columns() -> Vec<Column> {
        let created = Column::string("Created At", "When the object was created.");
        vec![Column::NAME, Column { ty: "date", ..created }]
    }

    /// Upstream has no columns of its own for this kind: the time is absolute.
    fn row(&self, _: Timestamp) -> Vec<Cell> {
        // The zero time of Go, which upstream prints for objects without one.
        let created = self.metadata.creation_timestamp.as_ref();
        let text = created.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| format!("{:.0}", t.0));
        vec![meta::name_cell(&self.metadata), text.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use serde_json::{Value, json};

    fn of(item: Value) -> Value {
        json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}})
    }

    #[test]
    fn containers_get_defaults_from_max_and_min() {
        let range: LimitRange = defaulted(&of(json!({"type": "Container",
            "max": {"cpu": "2.0"}, "min": {"memory": "1024Ki"}, "default": {"memory": "2Mi"}})));
        let item = &range.spec.unwrap().limits[0];
        let text = |list: &Option<ResourceList>| -> Vec<(String, String)> {
            list.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
        };
        let pairs =
            |c: &str, m: &str| vec![("cpu".to_owned(), c.to_owned()), ("memory".to_owned(), m.to_owned())];
        assert_eq!(text(&item.default), pairs("2", "2Mi"));
        assert_eq!(text(&item.default_request), pairs("2", "2Mi"));
        assert_eq!(text(&item.min), [("memory".to_owned(), "1Mi".to_owned())]);
        let range: LimitRange = defaulted(&of(json!({"type": "Pod", "max": {"cpu": "2"}})));
        assert_eq!(range.spec.unwrap().limits[0].default, None);
    }

    #[test]
    fn creation() {
        let p = "spec.limits[0]";
        let valid = of(json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"},
            "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "200m"}, "maxLimitRequestRatio": {"cpu": "10"}}));
        check_create_table::<LimitRange>(
            &valid,
            &[
                (
                    "/spec/limits/0/type",
                    json!("Other"),
                    &[&format!(
                        "{p}.type: Invalid value: \"Other\": must be a standard limit type or fully qualified"
                    )],
                ),
                (
                    "/spec/limits/0/min/cpu",
                    json!("2"),
                    &[
                        &format!(
                            "{p}.min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
                        ),
                        &format!(
                            "{p}.defaultRequest[cpu]: Invalid value: \"200m\": min value 2 is greater than default request value 200m"
                        ),
                        &format!(
                            "{p}.default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 500m"
                        ),
                        &format!(
                            "{p}.maxLimitRequestRatio[cpu]: Invalid value: \"10\": ratio 10 is greater than max/min = 0.500000"
                        ),
                    ],
                ),
                (
                    "/spec/limits/0/defaultRequest/cpu",
                    json!("3"),
                    &[
                        &format!(
                            "{p}.defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than max value 1"
                        ),
                        &format!(
                            "{p}.defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than default limit value 500m"
                        ),
                    ],
                ),
                (
                    "/spec/limits/0/default/cpu",
                    json!("3"),
                    &[&format!(
                        "{p}.default[cpu]: Invalid value: \"1\": default value 3 is greater than max value 1"
                    )],
                ),
                (
                    "/spec/limits/0/maxLimitRequestRatio/cpu",
                    json!("500m"),
                    &[&format!(
                        "{p}.maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"
                    )],
                ),
                (
                    "/spec/limits/0/maxLimitRequestRatio/cpu",
                    json!("11"),
                    &[&format!(
                        "{p}.maxLimitRequestRatio[cpu]: Invalid value: \"11\": ratio 11 is greater than max/min = 10.000000"
                    )],
                ),
                (
                    "/spec/limits/0/max/storage",
                    json!("1"),
                    // The default that follows from it is no better.
                    &[
                        &format!(
                            "{p}.max[storage]: Invalid value: \"storage\": must be a standard resource for containers"
                        ),
                        &format!(
                            "{p}.default[storage]: Invalid value: \"storage\": must be a standard resource for containers"
                        ),
                        &format!(
                            "{p}.defaultRequest[storage]: Invalid value: \"storage\": must be a standard resource for containers"
                        ),
                    ],
                ),
                ("/spec/limits/0/default/example.com~1gpu", json!("2"), &[]),
            ],
        );
        let table: Vec<(Value, Vec<String>)> = vec![
            (
                json!({"type": "Pod", "default": {"cpu": "1"}, "max": {"cpu": "1"}}),
                vec![format!("{p}.default: Forbidden: may not be specified when `type` is 'Pod'")],
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                vec![format!(
                    "{p}.limits: Required value: either minimum or maximum storage value is required, but neither was provided"
                )],
            ),
            (json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}), vec![]),
            (
                json!({"type": "Container", "default": {"example.com/gpu": "2"}, "defaultRequest": {"example.com/gpu": "1"}}),
                vec![format!(
                    "{p}.defaultRequest[example.com/gpu]: Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in example.com/gpu"
                )],
            ),
        ];
        for (item, expected) in table {
            assert_eq!(create_errors::<LimitRange>(&of(item.clone())), expected, "{item}");
        }
        let twice =
            json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Pod"}, {"type": "Pod"}]}});
        assert_eq!(create_errors::<LimitRange>(&twice), [r#"spec.limits[1].type: Duplicate value: "Pod""#]);
    }

    #[test]
    fn columns() {
        let json = json!({"metadata": {"name": "l", "creationTimestamp": "2026-01-02T03:04:05Z"}});
        assert_eq!(row::<LimitRange>(&json), ["l", "2026-01-02T03:04:05Z"]);
    }
}
