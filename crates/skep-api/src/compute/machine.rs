//! `Machine`: a node of a tenant's cluster, on a host.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::{NodeAddress, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GROUP, Isolation, NEEDED, amount_cell, validate_reference, validate_resources};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo, Subresource, Verb};
use crate::meta;
use crate::table::{Cell, Column};

/// Keeps a deleted machine until nothing of it is left on its host. Taken off by the host's daemon, or by the
/// machine controller where there never was a host or the host itself is gone.
pub const HOST_FINALIZER: &str = "compute.skep.io/host";

/// A node of a tenant's cluster, on a host: a virtual machine, or namespaces and a control group.
///
/// The spec is the operator's intent and hardly changes: a machine is made, gets a host, and goes. The status is
/// what the host's daemon found. Nothing of another incarnation can be mistaken for this one: hosts know a
/// machine by its uid, and `status.observedGeneration` never goes back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Its name is also the node's, if the spec names none.
    pub metadata: ObjectMeta,
    /// What it is to be.
    pub spec: MachineSpec,
    /// What it is.
    pub status: Option<MachineStatus>,
}

/// What a machine is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.MachineSpec")]
pub struct MachineSpec {
    /// The flavour that it was made of.
    #[serde(default)]
    pub flavor_name: String,
    /// The pool that it belongs to; empty for one that was made by hand and is never returned by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_pool_name: Option<String>,
    /// What keeps it apart from the other machines of its host.
    #[serde(default)]
    pub isolation: Isolation,
    /// What it has: copied from the flavour when the machine was made.
    #[serde(default)]
    pub resources: BTreeMap<String, Quantity>,
    /// The name of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Where it runs; given once by the machine scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// Labels that its node gets when it registers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_labels: Option<BTreeMap<String, String>>,
    /// Taints that its node gets when it registers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
}

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.MachineStatus")]
pub struct MachineStatus {
    /// Where it is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<MachinePhase>,
    /// The generation of the spec that the host's daemon has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it is reached in its tenant's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<NodeAddress>>,
    /// How often it had to be started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<i32>,
    /// `Scheduled`: it has a host, or why not. `Created`: everything that it needs on its host is there, or
    /// which step failed. `Running`: its agent has been started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.skep.compute.v1.MachinePhase")]
pub enum MachinePhase {
    /// It has no host yet.
    #[default]
    Pending,
    /// Its host makes it.
    Creating,
    /// It runs.
    Running,
    /// Its host could not make it or keep it running, and goes on trying.
    Failed,
    /// Its host takes it down.
    Deleting,
}

impl MachinePhase {
    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            MachinePhase::Pending => "Pending",
            MachinePhase::Creating => "Creating",
            MachinePhase::Running => "Running",
            MachinePhase::Failed => "Failed",
            MachinePhase::Deleting => "Deleting",
        }
    }
}

crate::own::own_object!(
    Machine, spec: MachineSpec, status: MachineStatus, scope: ClusterResourceScope,
    group: "compute.skep.io", version: "v1", plural: "machines", list: "MachineList",
    schema: "io.skep.compute.v1.Machine", doc: "A node of a tenant's cluster, on a host.",
);

impl Machine {
    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> MachinePhase {
        self.status.as_ref().and_then(|s| s.phase).unwrap_or_default()
    }

    /// The name of its node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.node_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(own)
    }
}

impl Kind for Machine {
    fn info() -> KindInfo {
        KindInfo::of::<Machine>()
            .short("mach")
            .status()
            .sub(Subresource {
                name: "credential",
                group: GROUP,
                version: "v1",
                kind: "MachineCredential",
                verbs: Verb::CREATE,
            })
            .select("spec.hostName")
            .select("spec.nodePoolName")
            .select("status.phase")
    }

    fn set_defaults(&mut self) {
        meta::canonical_resources_milli(&mut self.spec.resources);
        // An object that still gets its name from `generateName` has none to hand on.
        if let Some(name) = self.metadata.name.as_ref().filter(|n| !n.is_empty()) {
            self.spec.node_name.get_or_insert_with(|| name.clone());
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        let finalizers = self.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == HOST_FINALIZER) {
            finalizers.push(HOST_FINALIZER.to_owned());
        }
        self.status = Some(MachineStatus { phase: Some(MachinePhase::Pending), ..MachineStatus::default() });
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            meta::keep_metadata(&mut self.metadata, &old.metadata);
            self.spec.clone_from(&old.spec);
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        let spec = &self.spec;
        if spec.flavor_name.is_empty() {
            errors.required(&path.child("flavorName"), "");
        } else {
            validate_reference(&spec.flavor_name, &path.child("flavorName"), errors);
        }
        validate_resources(&spec.resources, &NEEDED, &path.child("resources"), errors);
        for (field, name) in [
            ("nodePoolName", &spec.node_pool_name),
            ("nodeName", &spec.node_name),
            ("hostName", &spec.host_name),
        ] {
            if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
                validate_reference(name, &path.child(field), errors);
            }
        }
        if let Some(labels) = &spec.node_labels {
            meta::validate_labels(labels, &path.child("nodeLabels"), errors);
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            self.validate_status(old, errors);
            return;
        }
        use meta::validate_immutable_field as immutable;
        self.validate(cx, errors);
        let path = Path::root("spec");
        // A machine whose name was generated has none here at first: that means the same.
        if self.node_name() != old.node_name() {
            errors.invalid(&path.child("nodeName"), self.node_name(), "field is immutable");
        }
        let (new, old) = (&self.spec, &old.spec);
        immutable(&new.flavor_name, &old.flavor_name, &path.child("flavorName"), errors);
        immutable(&new.node_pool_name, &old.node_pool_name, &path.child("nodePoolName"), errors);
        immutable(&new.isolation, &old.isolation, &path.child("isolation"), errors);
        immutable(&new.resources, &old.resources, &path.child("resources"), errors);
        if old.host_name.as_deref().is_some_and(|h| !h.is_empty()) {
            immutable(&new.host_name, &old.host_name, &path.child("hostName"), errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn fields(&self, fields: &mut Fields) {
        fields.add_indexed("spec.hostName", self.spec.host_name.clone().unwrap_or_default());
        fields.add("spec.nodePoolName", self.spec.node_pool_name.clone().unwrap_or_default());
        fields.add("status.phase", self.phase().as_str());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Phase", "Where it is in its life."),
            Column::string("Flavor", "The flavour that it was made of."),
            Column::string("Isolation", "What keeps it apart from other machines."),
            Column::string("Host", "Where it runs."),
            Column::AGE,
            Column::string("Node", "The name of its node.").wide(),
            Column::string("CPU", "What it has.").wide(),
            Column::string("Memory", "What it has.").wide(),
            Column::string("Pool", "The pool that it belongs to.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let phase = match self.metadata.deletion_timestamp {
            Some(_) => MachinePhase::Deleting,
            None => self.phase(),
        };
        vec![
            meta::name_cell(&self.metadata),
            phase.as_str().into(),
            self.spec.flavor_name.clone().into(),
            self.spec.isolation.as_str().into(),
            self.spec.host_name.clone().unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
            self.node_name().into(),
            amount_cell(&self.spec.resources, "cpu"),
            amount_cell(&self.spec.resources, "memory"),
            self.spec.node_pool_name.clone().unwrap_or_default().into(),
        ]
    }
}

impl Machine {
    fn validate_status(&self, old: &Machine, errors: &mut Errors) {
        let path = Path::root("status");
        let Some(status) = &self.status else { return };
        let observed = |m: &Machine| m.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        let (new, before) = (observed(self), observed(old));
        // Word of an older state of affairs, from a daemon that was slow or is not this machine's any more.
        if new < before {
            errors.invalid(&path.child("observedGeneration"), new, "must not be decremented");
        }
        if new > self.metadata.generation.unwrap_or(0) {
            let detail = "must not be greater than `metadata.generation`";
            errors.invalid(&path.child("observedGeneration"), new, detail);
        }
        if let Some(restarts) = status.restarts {
            meta::validate_nonnegative(restarts.into(), &path.child("restarts"), errors);
        }
        let conditions = status.conditions.as_deref().unwrap_or_default();
        meta::validate_conditions(conditions, &path.child("conditions"), errors);
    }
}
