//! `NodePool`: which machines a tenant may have, and when they come and go.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Isolation, validate_reference};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// The pool that every tenant has from the start.
pub const DEFAULT_POOL: &str = "default";
/// How long a machine stays without pods before it is returned, in seconds, unless the pool says otherwise: longer
/// than between two runs of a job that runs every minute, so that those do not wait for a machine each time.
pub const DEFAULT_EMPTY_DELAY_S: i32 = 120;
/// A day: a machine that is to stay longer belongs into `minMachines`.
const EMPTY_DELAY_MAX_S: i64 = 86_400;
/// More flavours than this are not a choice any more.
const FLAVORS_MAX: usize = 64;

/// Which machines a tenant may have, and when they come and go: pods that fit on no node get machines of the
/// cheapest flavour of the pool that fits them, and machines without pods are returned after a while.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodePool {
    /// Its name is what machines refer to.
    pub metadata: ObjectMeta,
    /// What the tenant wants.
    pub spec: NodePoolSpec,
    /// What is.
    pub status: Option<NodePoolStatus>,
}

/// What the tenant wants of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.NodePoolSpec")]
pub struct NodePoolSpec {
    /// The flavours to choose from; any that the operator offers if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor_names: Option<Vec<String>>,
    /// What keeps its machines apart from others.
    #[serde(default)]
    pub isolation: Isolation,
    /// How many machines there are at least, empty or not. 0 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_machines: Option<i32>,
    /// How many there are at most; as many as the tenant's quota allows if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_machines: Option<i32>,
    /// How long a machine stays without pods before it is returned, in seconds. 120 if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_delay_seconds: Option<i32>,
    /// Labels of its nodes. A pod that selects on others is not given a machine of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_labels: Option<BTreeMap<String, String>>,
    /// Taints of its nodes. A pod that does not tolerate them is not given a machine of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
}

/// What is of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.NodePoolStatus")]
pub struct NodePoolStatus {
    /// The generation of the spec that the controller has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many machines there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<i32>,
    /// How many of them run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_machines: Option<i32>,
    /// `Scalable`: whether more machines can be had, or what stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

crate::own::own_object!(
    NodePool, spec: NodePoolSpec, status: NodePoolStatus, scope: ClusterResourceScope,
    group: "compute.skep.io", version: "v1", plural: "nodepools", list: "NodePoolList",
    schema: "io.skep.compute.v1.NodePool",
    doc: "Which machines a tenant may have, and when they come and go.",
);

/// The pool that every tenant has from the start: any flavour, from no machine to as many as the quota allows.
#[must_use]
pub fn default_node_pool() -> NodePool {
    NodePool {
        metadata: ObjectMeta { name: Some(DEFAULT_POOL.to_owned()), ..ObjectMeta::default() },
        spec: NodePoolSpec {
            min_machines: Some(0),
            empty_delay_seconds: Some(DEFAULT_EMPTY_DELAY_S),
            ..NodePoolSpec::default()
        },
        status: None,
    }
}

impl NodePool {
    /// How many machines there are at least.
    #[must_use]
    pub fn min_machines(&self) -> i32 {
        self.spec.min_machines.unwrap_or(0)
    }

    /// How long a machine stays without pods.
    #[must_use]
    pub fn empty_delay_s(&self) -> i32 {
        self.spec.empty_delay_seconds.unwrap_or(DEFAULT_EMPTY_DELAY_S)
    }
}

impl Kind for NodePool {
    fn info() -> KindInfo {
        KindInfo::of::<NodePool>().short("np").status()
    }

    fn set_defaults(&mut self) {
        self.spec.min_machines.get_or_insert(0);
        self.spec.empty_delay_seconds.get_or_insert(DEFAULT_EMPTY_DELAY_S);
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = None;
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
        let flavors = spec.flavor_names.as_deref().unwrap_or_default();
        if flavors.len() > FLAVORS_MAX {
            errors.too_many(&path.child("flavorNames"), flavors.len(), FLAVORS_MAX);
        }
        for (i, name) in flavors.iter().enumerate() {
            let at = path.child("flavorNames");
            validate_reference(name, &at.index(i), errors);
            if flavors[..i].contains(name) {
                errors.duplicate(&at.index(i), name);
            }
        }
        let min = self.min_machines();
        meta::validate_nonnegative(min.into(), &path.child("minMachines"), errors);
        if let Some(max) = spec.max_machines {
            meta::validate_nonnegative(max.into(), &path.child("maxMachines"), errors);
            if max >= 0 && max < min {
                let detail = "must be greater than or equal to `spec.minMachines`";
                errors.invalid(&path.child("maxMachines"), max, detail);
            }
        }
        for message in meta::in_range_errors(self.empty_delay_s().into(), 0, EMPTY_DELAY_MAX_S) {
            errors.invalid(&path.child("emptyDelaySeconds"), self.empty_delay_s(), &message);
        }
        if let Some(labels) = &spec.node_labels {
            meta::validate_labels(labels, &path.child("nodeLabels"), errors);
        }
        for (i, taint) in spec.taints.iter().flatten().enumerate() {
            let path = path.child("taints");
            let path = path.index(i);
            meta::validate_qualified_name(&taint.key, &path.child("key"), errors);
            const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
            if !EFFECTS.contains(&taint.effect.as_str()) {
                errors.not_supported(&path.child("effect"), &taint.effect, &EFFECTS);
            }
        }
        if let Some(status) = &self.status {
            let path = Path::root("status");
            for (field, number) in [("machines", status.machines), ("readyMachines", status.ready_machines)] {
                meta::validate_nonnegative(number.unwrap_or(0).into(), &path.child(field), errors);
            }
            let conditions = status.conditions.as_deref().unwrap_or_default();
            meta::validate_conditions(conditions, &path.child("conditions"), errors);
        }
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn fields(&self, _: &mut Fields) {}

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::integer("Machines", "How many there are."),
            Column::integer("Ready", "How many of them run."),
            Column::integer("Min", "How many there are at least."),
            Column::string("Max", "How many there are at most."),
            Column::string("Isolation", "What keeps its machines apart."),
            Column::AGE,
            Column::string("Flavors", "The flavours to choose from.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.as_ref();
        let flavors = self.spec.flavor_names.as_deref().unwrap_or_default();
        vec![
            meta::name_cell(&self.metadata),
            status.and_then(|s| s.machines).unwrap_or(0).into(),
            status.and_then(|s| s.ready_machines).unwrap_or(0).into(),
            self.min_machines().into(),
            self.spec.max_machines.map_or_else(|| "quota".to_owned(), |m| m.to_string()).into(),
            self.spec.isolation.as_str().into(),
            meta::age_cell(&self.metadata, now),
            if flavors.is_empty() { "any".to_owned() } else { flavors.join(",") }.into(),
        ]
    }
}
