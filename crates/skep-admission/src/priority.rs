//! Priority: a pod's class becomes a number, and only one class is the default.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use crate::refusal::Refusal;
use crate::review::{Operation, PRIORITY_CLASSES, Review, decode, mentions};

/// What stored classes that are the default hold, so that the others need not be decoded.
const IS_DEFAULT: &str = r#""globalDefault":true"#;

pub(crate) fn mutate_pod(review: &Review<'_>, pod: &mut Pod) -> Result<(), Refusal> {
    if !review.is("", "pods") || !review.is_main() {
        return Ok(());
    }
    let Some(spec) = &mut pod.spec else { return Ok(()) };
    if review.operation == Operation::Update {
        // Clients that do not know the fields leave them out; they cannot change.
        if let Some(old) = review.old_as::<Pod>().and_then(|p| p.spec.as_ref()) {
            spec.priority = spec.priority.or(old.priority);
            spec.preemption_policy = spec.preemption_policy.take().or_else(|| old.preemption_policy.clone());
        }
        return Ok(());
    }
    if review.operation != Operation::Create {
        return Ok(());
    }
    let (priority, policy) = match spec.priority_class_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => {
            let class: PriorityClass = review
                .get(&PRIORITY_CLASSES, "", name)?
                .ok_or_else(|| review.forbid(format!("no PriorityClass with name {name} was found")))?;
            (class.value.unwrap_or(0), class.preemption_policy)
        }
        None => match default_class(review)? {
            Some(class) => {
                spec.priority_class_name = class.metadata.name;
                (class.value.unwrap_or(0), class.preemption_policy)
            }
            None => (0, Some("PreemptLowerPriority".to_owned())),
        },
    };
    if let Some(given) = spec.priority.filter(|p| *p != priority) {
        return Err(review.forbid(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    spec.priority = Some(priority);
    if let Some(policy) = policy {
        if let Some(given) = spec.preemption_policy.as_ref().filter(|p| **p != policy) {
            return Err(review.forbid(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            )));
        }
        spec.preemption_policy = Some(policy);
    }
    Ok(())
}

/// The classes that the control plane's own pods rely on stay.
pub(crate) fn admit_removal(review: &Review<'_>) -> Result<(), Refusal> {
    const SYSTEM: [&str; 2] = ["system-node-critical", "system-cluster-critical"];
    let group = &PRIORITY_CLASSES;
    if review.is(group.group(), group.resource()) && SYSTEM.contains(&review.name) {
        return Err(review.forbid("this is a system priority class and cannot be deleted"));
    }
    Ok(())
}

pub(crate) fn validate_class(review: &Review<'_>, class: &PriorityClass) -> Result<(), Refusal> {
    if !review.is_main() || class.global_default != Some(true) {
        return Ok(());
    }
    let Some(other) = default_class(review)?.and_then(|c| c.metadata.name) else { return Ok(()) };
    if review.operation == Operation::Create || Some(&other) != class.metadata.name.as_ref() {
        return Err(review.forbid(format!(
            "PriorityClass {other} is already marked as default. Only one default can exist"
        )));
    }
    Ok(())
}

/// The default class; the one of lowest priority, should there be several.
fn default_class(review: &Review<'_>) -> Result<Option<PriorityClass>, Refusal> {
    let mut found: Option<PriorityClass> = None;
    // No class that every tenant has is the default.
    for stored in review.lookup.list_stored(&PRIORITY_CLASSES) {
        if !mentions(&stored.json, IS_DEFAULT) {
            continue;
        }
        let class: PriorityClass = decode(&stored.json)?;
        if class.global_default == Some(true) && found.as_ref().is_none_or(|f| f.value > class.value) {
            found = Some(class);
        }
    }
    Ok(found)
}
