//! Lists of resources: names and exact amounts.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use skep_base::Quantity;

/// Resource names and amounts, in order of names.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// A list of resources as objects hold it.
pub(crate) type WrittenAmounts = BTreeMap<String, Written>;

/// The amount; what is malformed counts as nothing, for validation refuses it.
pub(crate) fn parse(quantity: &Written) -> Quantity {
    quantity.0.trim().parse().unwrap_or(Quantity::ZERO)
}

pub(crate) fn parse_all(list: Option<&WrittenAmounts>) -> Amounts {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), parse(q))).collect()
}

pub(crate) fn write(quantity: Quantity) -> Written {
    Written(quantity.to_string())
}

/// Adds each amount of `more` to `list`.
pub(crate) fn add(list: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        match list.get_mut(name) {
            Some(sum) => *sum += *quantity,
            None => drop(list.insert(name.clone(), *quantity)),
        }
    }
}

/// Raises each amount of `list` to that of `other`.
pub(crate) fn raise(list: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        match list.get_mut(name) {
            Some(q) if *q >= *quantity => {}
            Some(q) => *q = *quantity,
            None => drop(list.insert(name.clone(), *quantity)),
        }
    }
}

/// `a=1,b=2`, as error messages show lists.
pub(crate) fn show<'a>(list: impl Iterator<Item = (&'a str, Quantity)>) -> String {
    list.map(|(name, q)| format!("{name}={q}")).collect::<Vec<_>>().join(",")
}
