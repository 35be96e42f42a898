//! Amounts of resources inside objects.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skep_base::quantity::QuantityError;

use crate::field::{Errors, Path};

/// Brings an amount into the form in which the API serves it. One that is malformed stays as it is, for
/// validation to refuse.
pub fn canonical_quantity(quantity: &mut Quantity) {
    rewrite(quantity, skep_base::Quantity::canonical);
}

/// Brings all amounts of a list of resources into the form in which the API serves them.
pub fn canonical_resources(resources: &mut BTreeMap<String, Quantity>) {
    resources.values_mut().for_each(canonical_quantity);
}

/// The same, rounded up to thousandths: requests, limits, capacities. Nothing finer is ever scheduled.
pub fn canonical_resources_milli(resources: &mut BTreeMap<String, Quantity>) {
    for quantity in resources.values_mut() {
        rewrite(quantity, skep_base::Quantity::canonical_milli);
    }
}

fn rewrite(quantity: &mut Quantity, canonical: fn(&str) -> Result<Cow<'_, str>, QuantityError>) {
    let trimmed = quantity.0.trim();
    let new = match canonical(trimmed) {
        Ok(Cow::Owned(new)) => Some(new),
        Ok(Cow::Borrowed(text)) if text.len() < quantity.0.len() => Some(text.to_owned()),
        Ok(Cow::Borrowed(_)) | Err(_) => None,
    };
    if let Some(new) = new {
        quantity.0 = new;
    }
}

/// The amount, or an error at `path`.
pub fn parse_quantity(
    quantity: &Quantity,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Option<skep_base::Quantity> {
    match quantity.0.trim().parse() {
        Ok(amount) => Some(amount),
        Err(e) => {
            // Upstream refuses these while it decodes, with the same text.
            errors.invalid(path, &quantity.0, &QuantityError::to_string(&e));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_become_canonical_in_place() {
        let mut resources: BTreeMap<String, Quantity> =
            [("cpu", "0.5"), ("memory", " 1024Mi "), ("x", "1 apple"), ("y", "0.0001"), ("z", " 1")]
                .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
                .into();
        let texts = |r: &BTreeMap<String, Quantity>| r.values().map(|q| q.0.clone()).collect::<Vec<_>>();
        canonical_resources(&mut resources);
        assert_eq!(texts(&resources), ["500m", "1Gi", "1 apple", "100u", "1"]);
        canonical_resources_milli(&mut resources);
        assert_eq!(texts(&resources), ["500m", "1Gi", "1 apple", "1m", "1"]);
        let mut errors = Errors::new();
        let path = Path::root("x");
        assert_eq!(parse_quantity(&resources["cpu"], &path, &mut errors).map(|q| q.milli_value()), Some(500));
        assert!(errors.is_empty());
        assert!(parse_quantity(&resources["x"], &path, &mut errors).is_none());
        assert!(errors.to_string().starts_with(r#"x: Invalid value: "1 apple": quantities must match the"#));
    }
}
