//! PodTopologyLabels: a pod that gets a node carries the node's zone and region.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Binding, Pod};
use serde::Deserialize;

use crate::refusal::Refusal;
use crate::review::{NODES, Operation, Review, decode, mentions};

/// What the labels' names begin with.
const PREFIX: &str = "topology.kubernetes.io/";
const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// The part of an object that has its labels.
#[derive(Deserialize)]
struct Labelled {
    metadata: Labels,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What of a node's labels its pods carry.
fn labels_of(review: &Review<'_>, node: &str) -> Result<BTreeMap<String, String>, Refusal> {
    // This is asked for every pod that gets a node, and nodes are large: nothing is decoded without need.
    let Some(stored) = review.lookup.get(&NODES, "", node).filter(|s| mentions(&s.json, PREFIX)) else {
        return Ok(BTreeMap::new());
    };
    let mut labels = decode::<Labelled>(&stored.json)?.metadata.labels;
    labels.retain(|key, _| LABELS.contains(&key.as_str()));
    Ok(labels)
}

pub(crate) fn mutate_pod(review: &Review<'_>, pod: &mut Pod) -> Result<(), Refusal> {
    if review.operation != Operation::Create || !review.is("", "pods") || !review.is_main() {
        return Ok(());
    }
    let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()) else {
        return Ok(());
    };
    let labels = labels_of(review, node)?;
    if !labels.is_empty() {
        pod.metadata.labels.get_or_insert_default().extend(labels);
    }
    Ok(())
}

/// The binding's labels become the pod's when it is stored.
pub(crate) fn mutate_binding(review: &Review<'_>, binding: &mut Binding) -> Result<(), Refusal> {
    if review.operation != Operation::Create || !review.is("", "pods") || review.subresource != "binding" {
        return Ok(());
    }
    if binding.target.kind.as_deref() != Some("Node") {
        return Ok(());
    }
    let labels = labels_of(review, binding.target.name.as_deref().unwrap_or(""))?;
    if !labels.is_empty() {
        binding.metadata.labels.get_or_insert_default().extend(labels);
    }
    Ok(())
}
