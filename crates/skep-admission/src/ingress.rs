//! DefaultIngressClass.

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use crate::refusal::Refusal;
use crate::review::{INGRESS_CLASSES, Operation, Review};
use crate::storage::newest;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Gives a new ingress the default class if it names none.
pub(crate) fn set_class(review: &Review<'_>, ingress: &mut Ingress) -> Result<(), Refusal> {
    if review.operation != Operation::Create || !review.is_main() {
        return Ok(());
    }
    let annotated = ingress.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CLASS_ANNOTATION));
    if annotated || ingress.spec.as_ref().is_some_and(|s| s.ingress_class_name.is_some()) {
        return Ok(());
    }
    let classes: Vec<IngressClass> = review.list(&INGRESS_CLASSES, "")?;
    let default = newest(
        classes
            .into_iter()
            .map(|c| c.metadata)
            .filter(|m| m.annotations.as_ref().and_then(|a| a.get(IS_DEFAULT)).is_some_and(|v| v == "true")),
    );
    if let Some(name) = default {
        ingress.spec.get_or_insert_default().ingress_class_name = Some(name);
    }
    Ok(())
}
