//! RuntimeClass: a pod pays the overhead of its runtime and goes where that runs.

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::api::node::v1::RuntimeClass;

use crate::amounts;
use crate::refusal::Refusal;
use crate::review::{Operation, RUNTIME_CLASSES, Review};

fn class(review: &Review<'_>, pod: &Pod) -> Result<Option<RuntimeClass>, Refusal> {
    let Some(name) = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()) else { return Ok(None) };
    match review.get(&RUNTIME_CLASSES, "", name)? {
        Some(class) => Ok(Some(class)),
        None => Err(review.forbid(format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn concerns(review: &Review<'_>) -> bool {
    review.is("", "pods") && review.is_main() && review.operation == Operation::Create
}

fn mismatch(review: &Review<'_>) -> Refusal {
    review.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
}

pub(crate) fn mutate(review: &Review<'_>, pod: &mut Pod) -> Result<(), Refusal> {
    if !concerns(review) {
        return Ok(());
    }
    let Some(class) = class(review, pod)? else { return Ok(()) };
    let spec = pod.spec.get_or_insert_default();
    if let Some(overhead) = class.overhead {
        let given = amounts::parse_all(spec.overhead.as_ref());
        if !given.is_empty() && given != amounts::parse_all(overhead.pod_fixed.as_ref()) {
            return Err(mismatch(review));
        }
        spec.overhead = overhead.pod_fixed;
    }
    let Some(scheduling) = class.scheduling else { return Ok(()) };
    for (key, value) in scheduling.node_selector.into_iter().flatten() {
        let selector = spec.node_selector.get_or_insert_default();
        if let Some(own) = selector.get(&key).filter(|own| **own != value) {
            return Err(review.forbid(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            )));
        }
        selector.insert(key, value);
    }
    let mut all = spec.tolerations.take().unwrap_or_default();
    all.extend(scheduling.tolerations.into_iter().flatten());
    spec.tolerations = Some(merge(all)).filter(|t| !t.is_empty());
    Ok(())
}

pub(crate) fn validate(review: &Review<'_>, pod: &Pod) -> Result<(), Refusal> {
    if !concerns(review) {
        return Ok(());
    }
    let given = pod.spec.as_ref().and_then(|s| s.overhead.as_ref());
    match class(review, pod)?.and_then(|c| c.overhead) {
        Some(defined) if amounts::parse_all(defined.pod_fixed.as_ref()) != amounts::parse_all(given) => {
            Err(mismatch(review))
        }
        None if given.is_some() => Err(review
            .forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        _ => Ok(()),
    }
}

/// Without those that others make superfluous.
fn merge(all: Vec<Toleration>) -> Vec<Toleration> {
    let mut merged: Vec<Toleration> = Vec::with_capacity(all.len());
    for (i, toleration) in all.iter().enumerate() {
        let covered = merged.iter().any(|other| covers(other, toleration))
            || all[i + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !covered {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// Whether `wide` tolerates everything that `narrow` does.
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    if wide == narrow {
        return true;
    }
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let everything = text(&wide.key).is_empty() && text(&wide.operator) == "Exists";
    if text(&narrow.key) != text(&wide.key) && !everything {
        return false;
    }
    if text(&narrow.effect) != text(&wide.effect) && !text(&wide.effect).is_empty() {
        return false;
    }
    if text(&wide.effect) == "NoExecute"
        && let Some(seconds) = wide.toleration_seconds
        && narrow.toleration_seconds.is_none_or(|s| s > seconds)
    {
        return false;
    }
    match text(&wide.operator).as_str() {
        "Equal" | "" => text(&narrow.operator) == "Equal" && text(&narrow.value) == text(&wide.value),
        "Exists" => true,
        _ => false,
    }
}
