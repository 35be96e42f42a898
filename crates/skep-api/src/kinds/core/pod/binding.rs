//! Binding: putting a pod on a node. A binding is not stored; it changes the pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{ListableResource, Metadata, NamespaceResourceScope, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::view::{items, text};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Kind, KindInfo, Verb};

/// `v1` Binding as a kind. A type of its own because kinds have a list kind, which bindings have not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Binding(pub v1::Binding);

impl Resource for Binding {
    const API_VERSION: &'static str = v1::Binding::API_VERSION;
    const GROUP: &'static str = v1::Binding::GROUP;
    const KIND: &'static str = v1::Binding::KIND;
    const VERSION: &'static str = v1::Binding::VERSION;
    const URL_PATH_SEGMENT: &'static str = v1::Binding::URL_PATH_SEGMENT;
    type Scope = NamespaceResourceScope;
}

impl ListableResource for Binding {
    const LIST_KIND: &'static str = "";
}

impl Metadata for Binding {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.0.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

impl Kind for Binding {
    fn info() -> KindInfo {
        KindInfo::of::<Binding>().verbs(Verb::CREATE)
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        validate_binding(&self.0, errors);
    }
}

/// A binding names a node.
pub fn validate_binding(binding: &v1::Binding, errors: &mut Errors) {
    let path = Path::root("target");
    let kind = text(&binding.target.kind);
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
    }
    if text(&binding.target.name).is_empty() {
        errors.required(&path.child("name"), "");
    }
}

/// Puts a stored pod on the node that a valid binding names, and copies its labels and annotations.
///
/// # Errors
/// The text of a conflict: the pod is going, has a node already, or is not to be scheduled yet.
pub fn bind(pod: &mut Pod, binding: &v1::Binding, now: Timestamp) -> Result<(), String> {
    let name = text(&pod.metadata.name);
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_ref().filter(|n| !n.is_empty()) {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if !items(&spec.scheduling_gates).is_empty() {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name.clone_from(&binding.target.name);
    if let Some(annotations) = &binding.metadata.annotations {
        pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
    }
    if let Some(labels) = &binding.metadata.labels {
        pod.metadata.labels.get_or_insert_default().extend(labels.clone());
    }
    let status = pod.status.get_or_insert_default();
    status.nominated_node_name = None;
    let conditions = status.conditions.get_or_insert_default();
    let mut scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(now)),
        ..Default::default()
    };
    match conditions.iter_mut().find(|c| c.type_ == scheduled.type_) {
        None => conditions.push(scheduled),
        Some(known) => {
            if known.status == scheduled.status {
                scheduled.last_transition_time = known.last_transition_time.take();
            }
            *known = scheduled;
        }
    }
    Ok(())
}
