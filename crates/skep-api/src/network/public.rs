//! `PublicPool` and `PublicIP`: addresses of the outside world.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::addresses::{AddressRange, parse_range};
use super::{split_status, validate_reference};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// Most ranges of a pool.
const MAX_RANGES: usize = 256;
/// The pool that addresses come from when none is named.
const DEFAULT_POOL: &str = "default";

/// Addresses of the outside world that the operator has to give. It exists in the system tenant only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublicPool {
    /// Its name is what public addresses refer to.
    pub metadata: ObjectMeta,
    /// Which addresses.
    pub spec: PublicPoolSpec,
    /// What is to be said about it.
    pub status: Option<PublicPoolStatus>,
}

/// Which addresses a pool has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PublicPoolSpec")]
pub struct PublicPoolSpec {
    /// The addresses: `192.0.2.5`, `192.0.2.5-192.0.2.9`, `192.0.2.0/24`, each all of it.
    #[serde(default)]
    pub ranges: Vec<String>,
    /// Whether no new addresses are given from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<bool>,
    /// The tenants that get addresses from it; all of them if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<String>>,
    /// How many addresses each tenant gets from it at most; as many as there are if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_tenant: Option<i64>,
}

/// What is to be said about a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PublicPoolStatus")]
pub struct PublicPoolStatus {
    /// What is to be said about its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

crate::own::own_object!(
    PublicPool, spec: PublicPoolSpec, status: PublicPoolStatus, scope: ClusterResourceScope,
    group: "network.skep.io", version: "v1", plural: "publicpools", list: "PublicPoolList",
    schema: "io.skep.network.v1.PublicPool", doc: "Addresses of the outside world that the operator has to give.",
);

impl PublicPool {
    /// The ranges; what is none, which validation refuses, is left out.
    #[must_use]
    pub fn ranges(&self) -> Vec<AddressRange> {
        self.spec.ranges.iter().filter_map(|r| parse_range(r).ok()).collect()
    }

    /// Whether a tenant may have addresses from it.
    #[must_use]
    pub fn serves(&self, tenant: &str) -> bool {
        self.spec.tenants.as_ref().is_none_or(|all| all.iter().any(|t| t == tenant))
    }
}

impl Kind for PublicPool {
    fn info() -> KindInfo {
        KindInfo::of::<PublicPool>().status()
    }

    split_status!();

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let spec = Path::root("spec");
        if let Some(tenants) = &self.spec.tenants {
            let path = spec.child("tenants");
            for (i, tenant) in tenants.iter().enumerate() {
                validate_reference(tenant, &path.index(i), errors);
            }
        }
        let most = self.spec.max_per_tenant.unwrap_or_default();
        meta::validate_nonnegative(most, &spec.child("maxPerTenant"), errors);
        let path = spec.child("ranges");
        if self.spec.ranges.is_empty() {
            errors.required(&path, "");
        }
        if self.spec.ranges.len() > MAX_RANGES {
            errors.too_many(&path, self.spec.ranges.len(), MAX_RANGES);
        }
        for (i, text) in self.spec.ranges.iter().enumerate() {
            if parse_range(text).is_err() {
                let why = "must be an address, two with a dash between, or a CIDR";
                errors.invalid(&path.index(i), text, why);
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Ranges", "Which addresses."),
            Column::string("Per-Tenant", "How many each tenant gets at most."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            meta::name_cell(&self.metadata),
            self.spec.ranges.join(",").into(),
            self.spec.max_per_tenant.map_or_else(String::new, |n| n.to_string()).into(),
            meta::age_cell(&self.metadata, now),
        ]
    }

    fn validate_update(&self, _: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            meta::validate_conditions(conditions, &Path::root("status").child("conditions"), errors);
            return;
        }
        self.validate(cx, errors);
    }
}

/// An address of the outside world, in a tenant's hands until it is deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublicIP {
    /// Its namespace is that of the pod or service that has it.
    pub metadata: ObjectMeta,
    /// Which address, and whose.
    pub spec: PublicIpSpec,
    /// What became of it.
    pub status: Option<PublicIpStatus>,
}

/// Which address, and whose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PublicIPSpec")]
pub struct PublicIpSpec {
    /// The operator's pool that it comes from; `default` if none is named.
    #[serde(default)]
    pub pool_name: String,
    /// The address; one that is free if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The family of the address, if none is named: `IPv4` or `IPv6`; whichever the pool has if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family: Option<PublicIpFamily>,
    /// The pod that has it. It follows the name: to the next pod that is called so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Labels of the pod that has it: of several the one that is ready, and has been there longest. It stays with a pod for as long as
    /// that is ready, and then goes to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<BTreeMap<String, String>>,
    /// The service of the type LoadBalancer that is reached at it, instead of at an address that is only made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.skep.network.v1.PublicIPFamily")]
pub enum PublicIpFamily {
    /// Of 32 bits.
    IPv4,
    /// Of 128 bits.
    IPv6,
}

impl PublicIpFamily {
    /// Whether an address is of it.
    #[must_use]
    pub fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == PublicIpFamily::IPv4)
    }
}

/// A port that is open at a public address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PublicIPPort")]
pub struct PublicPort {
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default)]
    pub protocol: String,
    /// The port.
    #[serde(default)]
    pub port: i32,
}

/// What became of a public address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PublicIPStatus")]
pub struct PublicIpStatus {
    /// Whether somebody has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PublicIpPhase>,
    /// The node that what comes to it is led to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The pod that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// The uid of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// What is let through to a service; nothing here means everything, to a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PublicPort>>,
    /// From where a service is reached; nothing here means from everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<Vec<String>>,
    /// Which of the places it takes that its tenant has in the pool. The server gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<i64>,
    /// What is to be said about its state: `Bound` says whether somebody has it, and if not, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Bytes that came to it, at the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<i64>,
    /// Bytes that went out from it, at the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<i64>,
}

/// Whether somebody has a public address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.skep.network.v1.PublicIPPhase")]
pub enum PublicIpPhase {
    /// Nobody has it yet.
    #[default]
    Free,
    /// It is in a pod, or leads to a service.
    Bound,
}

crate::own::own_object!(
    PublicIP, spec: PublicIpSpec, status: PublicIpStatus, scope: NamespaceResourceScope,
    group: "network.skep.io", version: "v1", plural: "publicips", list: "PublicIPList",
    schema: "io.skep.network.v1.PublicIP", doc: "An address of the outside world, in a tenant's hands.",
);

impl PublicIP {
    /// The address; nothing before it is given.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.spec.address.as_ref()?.parse().ok()
    }
}

impl Kind for PublicIP {
    fn info() -> KindInfo {
        KindInfo::of::<PublicIP>().short("pip").status().select("spec.podName").select("status.nodeName")
    }

    fn set_defaults(&mut self) {
        if self.spec.pool_name.is_empty() {
            DEFAULT_POOL.clone_into(&mut self.spec.pool_name);
        }
        if let Some(ip) = self.address() {
            // One form of each address: it is a key.
            self.spec.address = Some(ip.to_string());
        }
    }

    fn prepare_create(&mut self, _: &Context<'_>) {
        self.status = Some(PublicIpStatus { phase: Some(PublicIpPhase::Free), ..PublicIpStatus::default() });
    }

    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        if cx.is_status() {
            meta::keep_metadata(&mut self.metadata, &old.metadata);
            self.spec.clone_from(&old.spec);
            let place = old.status.as_ref().and_then(|s| s.place);
            self.status.get_or_insert_default().place = place;
        } else {
            self.status.clone_from(&old.status);
        }
    }

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let path = Path::root("spec");
        validate_reference(&self.spec.pool_name, &path.child("poolName"), errors);
        if let Some(address) = &self.spec.address
            && address.parse::<IpAddr>().is_err()
        {
            errors.invalid(&path.child("address"), address, "must be an IP address");
        }
        if let (Some(ip), Some(family)) = (self.address(), self.spec.ip_family)
            && !family.has(ip)
        {
            errors.invalid(
                &path.child("ipFamily"),
                &*format!("{family:?}"),
                "is not the family of the address",
            );
        }
        if let Some(pod) = &self.spec.pod_name {
            validate_reference(pod, &path.child("podName"), errors);
        }
        if let Some(service) = &self.spec.service_name {
            validate_reference(service, &path.child("serviceName"), errors);
        }
        if let Some(selector) = &self.spec.pod_selector {
            let path = path.child("podSelector");
            if selector.is_empty() {
                errors.required(&path, "no label would be every pod");
            }
            meta::validate_labels(selector, &path, errors);
        }
        let spec = &self.spec;
        let named = [spec.pod_name.is_some(), spec.pod_selector.is_some(), spec.service_name.is_some()];
        if named.iter().filter(|n| **n).count() > 1 {
            errors.forbidden(&path, "only one of podName, podSelector and serviceName may be set");
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            let status = self.status.clone().unwrap_or_default();
            let path = Path::root("status");
            for (field, value) in [("sentBytes", status.sent_bytes), ("receivedBytes", status.received_bytes)]
            {
                meta::validate_nonnegative(value.unwrap_or_default(), &path.child(field), errors);
            }
            let conditions = status.conditions.unwrap_or_default();
            meta::validate_conditions(&conditions, &path.child("conditions"), errors);
            return;
        }
        use meta::validate_immutable_field as immutable;
        self.validate(cx, errors);
        let path = Path::root("spec");
        immutable(&self.spec.pool_name, &old.spec.pool_name, &path.child("poolName"), errors);
        immutable(&self.spec.address, &old.spec.address, &path.child("address"), errors);
        immutable(&self.spec.ip_family, &old.spec.ip_family, &path.child("ipFamily"), errors);
    }

    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        Some(old.is_none_or(|old| !meta::same(&self.spec, &old.spec)))
    }

    fn fields(&self, fields: &mut Fields) {
        fields.add("spec.podName", self.spec.pod_name.clone().unwrap_or_default());
        let node = self.status.as_ref().and_then(|s| s.node_name.clone());
        fields.add("status.nodeName", node.unwrap_or_default());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Address", "The address."),
            Column::string("Phase", "Whether somebody has it."),
            Column::string("Pod", "The pod that has it."),
            Column::string("Service", "The service that is reached at it."),
            Column::string("Node", "The node that what comes to it is led to."),
            Column::AGE,
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.as_ref();
        let phase = match status.and_then(|s| s.phase).unwrap_or_default() {
            PublicIpPhase::Free => "Free",
            PublicIpPhase::Bound => "Bound",
        };
        vec![
            meta::name_cell(&self.metadata),
            self.spec.address.clone().unwrap_or_default().into(),
            phase.into(),
            status.and_then(|s| s.pod_name.clone()).or(self.spec.pod_name.clone()).unwrap_or_default().into(),
            self.spec.service_name.clone().unwrap_or_default().into(),
            status.and_then(|s| s.node_name.clone()).unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
        ]
    }
}
