//! `Host`: a physical computer.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Isolation, amount_cell, validate_resources};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo, Verb};
use crate::meta;
use crate::table::{Cell, Column};

/// A physical computer that machines run on. Its daemon makes the object and keeps the status true.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Its labels say where it stands: zone, rack.
    pub metadata: ObjectMeta,
    /// What the operator wants of it.
    pub spec: HostSpec,
    /// What its daemon says of it.
    pub status: Option<HostStatus>,
}

/// What the operator wants of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.HostSpec")]
pub struct HostSpec {
    /// Whether it takes no new machines. Those that it has stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unschedulable: Option<bool>,
}

/// What a host has and how it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.HostStatus")]
pub struct HostStatus {
    /// What it has in all: `cpu`, `memory`, `ephemeral-storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<BTreeMap<String, Quantity>>,
    /// What machines may have of it together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<BTreeMap<String, Quantity>>,
    /// What kinds of machines it can run, as tried out when its daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolations: Option<Vec<Isolation>>,
    /// Where it is reached by other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<HostAddress>>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_info: Option<HostInfo>,
    /// When its daemon last spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_time: Option<Time>,
    /// `Ready`: whether it can make machines and keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

/// An address of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.HostAddress")]
pub struct HostAddress {
    /// `InternalIP` (between hosts), `ExternalIP` or `Hostname`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The address.
    pub address: String,
}

/// What a host is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.compute.v1.HostInfo")]
pub struct HostInfo {
    /// `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub operating_system: String,
    /// Of the running kernel.
    #[serde(default)]
    pub kernel_version: String,
    /// Of the daemon.
    #[serde(default)]
    pub skep_version: String,
    /// Changes whenever it is started anew.
    #[serde(default, rename = "bootID")]
    pub boot_id: String,
}

crate::own::own_object!(
    Host, spec: HostSpec, status: HostStatus, scope: ClusterResourceScope,
    group: "compute.skep.io", version: "v1", plural: "hosts", list: "HostList",
    schema: "io.skep.compute.v1.Host", doc: "A physical computer that machines run on.",
);

const ADDRESS_TYPES: [&str; 3] = ["ExternalIP", "Hostname", "InternalIP"];

impl Host {
    /// Whether it takes no new machines.
    #[must_use]
    pub fn is_unschedulable(&self) -> bool {
        self.spec.unschedulable.unwrap_or(false)
    }

    /// Whether its daemon said last that it can make machines.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }
}

impl Kind for Host {
    fn info() -> KindInfo {
        KindInfo::of::<Host>().verbs(Verb::ALL).status().select("spec.unschedulable")
    }

    fn set_defaults(&mut self) {
        if let Some(status) = &mut self.status {
            for resources in [&mut status.capacity, &mut status.allocatable].into_iter().flatten() {
                meta::canonical_resources_milli(resources);
            }
        }
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
        let Some(status) = &self.status else { return };
        let path = Path::root("status");
        for (field, resources) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
            if let Some(resources) = resources {
                validate_resources(resources, &[], &path.child(field), errors);
            }
        }
        for (i, address) in status.addresses.iter().flatten().enumerate() {
            let path = path.child("addresses");
            let path = path.index(i);
            if !ADDRESS_TYPES.contains(&address.type_.as_str()) {
                errors.not_supported(&path.child("type"), &address.type_, &ADDRESS_TYPES);
            } else if address.type_ != "Hostname" {
                for message in meta::ip_errors(&address.address) {
                    errors.invalid(&path.child("address"), &address.address, &message);
                }
            }
        }
        let conditions = status.conditions.as_deref().unwrap_or_default();
        meta::validate_conditions(conditions, &path.child("conditions"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn fields(&self, fields: &mut Fields) {
        fields.add("spec.unschedulable", self.is_unschedulable().to_string());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Status", "Ready or NotReady, and whether it takes no new machines."),
            Column::string("CPU", "What machines may have of it together."),
            Column::string("Memory", "What machines may have of it together."),
            Column::string("Isolation", "What kinds of machines it can run."),
            Column::AGE,
            Column::string("Address", "Where other hosts reach it.").wide(),
            Column::string("Kernel-Version", "Of the running kernel.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let empty = HostStatus::default();
        let status = self.status.as_ref().unwrap_or(&empty);
        let mut state = if self.is_ready() { "Ready" } else { "NotReady" }.to_owned();
        if self.is_unschedulable() {
            state.push_str(",SchedulingDisabled");
        }
        let none = BTreeMap::new();
        let allocatable = status.allocatable.as_ref().unwrap_or(&none);
        let isolations: Vec<&str> = status.isolations.iter().flatten().map(|i| i.as_str()).collect();
        let address =
            status.addresses.iter().flatten().find(|a| a.type_ == "InternalIP").map(|a| a.address.clone());
        let kernel = status.host_info.as_ref().map(|i| i.kernel_version.clone());
        vec![
            meta::name_cell(&self.metadata),
            state.into(),
            amount_cell(allocatable, "cpu"),
            amount_cell(allocatable, "memory"),
            isolations.join(",").into(),
            meta::age_cell(&self.metadata, now),
            address.unwrap_or_default().into(),
            kernel.unwrap_or_default().into(),
        ]
    }
}
