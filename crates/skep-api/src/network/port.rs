//! `Port`: one interface in a network, with its addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_NETWORK, QosRate, split_status, validate_reference};
use crate::context::Context;
use crate::field::{Errors, Path};
use crate::kind::{Fields, Kind, KindInfo};
use crate::meta;
use crate::table::{Cell, Column};

/// Most addresses that a port has: each is a key of its own in the port's transaction.
const MAX_ADDRESSES: usize = 16;
/// Most pairs: each is an element of the filters of every host that it is on.
const MAX_PAIRS: usize = 32;
/// Most groups of one port: each is a jump for the first packet of a connection.
const MAX_GROUPS: usize = 16;
/// Most reasons that packets were dropped for: a host knows a dozen.
const MAX_REASONS: usize = 32;

/// One interface in a network, with its addresses. They are the port's alone until the port is deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// A pod's port has the pod's namespace, and belongs to the pod.
    pub metadata: ObjectMeta,
    /// What it is to be.
    pub spec: PortSpec,
    /// What it is.
    pub status: Option<PortStatus>,
}

/// What a port is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PortSpec")]
pub struct PortSpec {
    /// The network that it is in; `default` if none is named.
    #[serde(default)]
    pub network_name: String,
    /// Its addresses. Those that are not named are given by the server: one of each family that the network has
    /// subnets of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// The address of its Ethernet interface, given by the server; only the operator may choose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The pod whose interface it is, in the port's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// The node that the pod runs on, or that the port is itself the interface of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Whether it is the interface of the node itself, through which those of its pods are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_interface: Option<bool>,
    /// Addresses beside its own that it may send from: those of a router, or ones that are taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_pairs: Option<Vec<AllowedPair>>,
    /// Whom it may talk to: the groups together. With none, everybody in the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_group_names: Option<Vec<String>>,
    /// How fast it may send and receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_policy_name: Option<String>,
}

/// Addresses that a port may send from beside its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.AllowedPair")]
pub struct AllowedPair {
    /// An address, or a CIDR.
    #[serde(default)]
    pub address: String,
    /// The Ethernet address that is sent from; the port's own if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What a port is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PortStatus")]
pub struct PortStatus {
    /// When its host last reported. A port that nothing goes through is reported once, and then no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_time: Option<Time>,
    /// Bytes that it sent, at the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<i64>,
    /// Bytes that it received, at the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<i64>,
    /// Packets that it sent, at the last report, as they were handed over: what a sender leaves to the network to cut into packets
    /// is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_packets: Option<i64>,
    /// Packets that it received, of the same kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_packets: Option<i64>,
    /// Bits a second that it sent, between the last two reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bits_per_second: Option<i64>,
    /// Bits a second that it received, between the last two reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bits_per_second: Option<i64>,
    /// Packets of it that were dropped, at the last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_packets: Option<i64>,
    /// The same by reason: `EgressPacketLimit` and `IngressPacketLimit` (more packets a second than its policy says), `EgressMaximum`
    /// and `IngressMaximum` (no room in the queue of its maximum).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<BTreeMap<String, i64>>,
    /// What of its policy is in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<PortQos>,
    /// `Ready`: it is connected and its filters are in place. `BandwidthGuaranteed`: whether its host's uplink has what its policy
    /// guarantees; left out where nothing is guaranteed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

/// What of a policy is in effect at a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.skep.network.v1.PortQos")]
pub struct PortQos {
    /// Which policy.
    #[serde(default)]
    pub policy_name: String,
    /// What it sends; a guarantee is what its host has granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<QosRate>,
    /// What it receives; a guarantee is what its host has granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<QosRate>,
}

crate::own::own_object!(
    Port, spec: PortSpec, status: PortStatus, scope: NamespaceResourceScope,
    group: "network.skep.io", version: "v1", plural: "ports", list: "PortList",
    schema: "io.skep.network.v1.Port", doc: "One interface in a network, with its addresses.",
);

impl Port {
    /// Its addresses; what is not one, which validation refuses, is left out.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.spec.addresses.iter().flatten().filter_map(|a| a.parse().ok())
    }
}

/// A number for people: three digits and a unit.
fn short(number: i64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (number as f64, 0);
    while value >= step && unit + 1 < units.len() {
        (value, unit) = (value / step, unit + 1);
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$}{}", units[unit])
}

/// Six bytes in hexadecimal, in the form that the server writes: small letters, colons; not of a group.
fn mac_errors(mac: &str) -> Option<&'static str> {
    let parts: Vec<&str> = mac.split(':').collect();
    let ok = parts.len() == 6
        && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    if !ok {
        return Some("must be six bytes like 02:00:0a:00:00:01, in small letters");
    }
    let first = u8::from_str_radix(parts[0], 16).unwrap_or(1);
    (first & 1 == 1).then_some("must be the address of one interface, not of a group")
}

impl Kind for Port {
    fn info() -> KindInfo {
        KindInfo::of::<Port>().status().select("spec.nodeName").select("spec.networkName")
    }

    fn set_defaults(&mut self) {
        if self.spec.network_name.is_empty() {
            DEFAULT_NETWORK.clone_into(&mut self.spec.network_name);
        }
        for address in self.spec.addresses.iter_mut().flatten() {
            // One form of each address: it is a key.
            if let Ok(ip) = address.parse::<IpAddr>() {
                *address = ip.to_string();
            }
        }
    }

    split_status!();

    fn validate(&self, _: &Context<'_>, errors: &mut Errors) {
        let (spec, path) = (&self.spec, Path::root("spec"));
        validate_reference(&spec.network_name, &path.child("networkName"), errors);
        let addresses = spec.addresses.as_deref().unwrap_or_default();
        if addresses.len() > MAX_ADDRESSES {
            errors.too_many(&path.child("addresses"), addresses.len(), MAX_ADDRESSES);
        }
        for (i, address) in addresses.iter().enumerate() {
            let path = path.child("addresses");
            let path = path.index(i);
            if address.parse::<IpAddr>().is_err() {
                errors.invalid(&path, address, "must be an IP address");
            } else if addresses[..i].contains(address) {
                errors.duplicate(&path, address);
            }
        }
        if let Some(mac) = &spec.mac
            && let Some(why) = mac_errors(mac)
        {
            errors.invalid(&path.child("mac"), mac, why);
        }
        for (field, name) in [
            ("podName", &spec.pod_name),
            ("nodeName", &spec.node_name),
            ("qosPolicyName", &spec.qos_policy_name),
        ] {
            if let Some(name) = name {
                validate_reference(name, &path.child(field), errors);
            }
        }
        if spec.node_interface == Some(true) {
            if spec.node_name.is_none() {
                errors.required(&path.child("nodeName"), "the interface of a node must say of which");
            }
            if spec.pod_name.is_some() {
                errors.forbidden(&path.child("podName"), "the interface of a node is not that of a pod");
            }
        }
        let pairs = spec.allowed_pairs.as_deref().unwrap_or_default();
        let pairs_path = path.child("allowedPairs");
        if pairs.len() > MAX_PAIRS {
            errors.too_many(&pairs_path, pairs.len(), MAX_PAIRS);
        }
        for (i, pair) in pairs.iter().enumerate() {
            let path = pairs_path.index(i);
            if pair.address.parse::<IpAddr>().is_err() && pair.address.parse::<IpNet>().is_err() {
                errors.invalid(&path.child("address"), &pair.address, "must be an IP address or a CIDR");
            }
            if let Some(mac) = &pair.mac
                && let Some(why) = mac_errors(mac)
            {
                errors.invalid(&path.child("mac"), mac, why);
            }
        }
        let groups = spec.security_group_names.as_deref().unwrap_or_default();
        let groups_path = path.child("securityGroupNames");
        if groups.len() > MAX_GROUPS {
            errors.too_many(&groups_path, groups.len(), MAX_GROUPS);
        }
        for (i, group) in groups.iter().enumerate() {
            validate_reference(group, &groups_path.index(i), errors);
            if groups[..i].contains(group) {
                errors.duplicate(&groups_path.index(i), group);
            }
        }
    }

    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        if cx.is_status() {
            let status = self.status.clone().unwrap_or_default();
            let path = Path::root("status");
            for (field, value) in [
                ("sentBytes", status.sent_bytes),
                ("receivedBytes", status.received_bytes),
                ("sentPackets", status.sent_packets),
                ("receivedPackets", status.received_packets),
                ("sentBitsPerSecond", status.sent_bits_per_second),
                ("receivedBitsPerSecond", status.received_bits_per_second),
                ("droppedPackets", status.dropped_packets),
            ] {
                meta::validate_nonnegative(value.unwrap_or_default(), &path.child(field), errors);
            }
            let dropped = status.dropped.unwrap_or_default();
            if dropped.len() > MAX_REASONS {
                errors.too_many(&path.child("dropped"), dropped.len(), MAX_REASONS);
            }
            for packets in dropped.into_values() {
                meta::validate_nonnegative(packets, &path.child("dropped"), errors);
            }
            meta::validate_conditions(
                &status.conditions.unwrap_or_default(),
                &path.child("conditions"),
                errors,
            );
            return;
        }
        use meta::validate_immutable_field as immutable;
        self.validate(cx, errors);
        let (new, old, path) = (&self.spec, &old.spec, Path::root("spec"));
        immutable(&new.network_name, &old.network_name, &path.child("networkName"), errors);
        immutable(&new.addresses, &old.addresses, &path.child("addresses"), errors);
        immutable(&new.mac, &old.mac, &path.child("mac"), errors);
        immutable(&new.node_interface, &old.node_interface, &path.child("nodeInterface"), errors);
        // A port made beforehand waits for its pod, and may wait for the next one with the same addresses.
        if old.pod_name.is_some() && new.pod_name.is_some() {
            immutable(&new.pod_name, &old.pod_name, &path.child("podName"), errors);
        }
    }

    fn fields(&self, fields: &mut Fields) {
        fields.add_indexed("spec.nodeName", self.spec.node_name.clone().unwrap_or_default());
        fields.add("spec.networkName", self.spec.network_name.clone());
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::NAME,
            Column::string("Network", "The network that it is in."),
            Column::string("Addresses", "Its addresses."),
            Column::string("Pod", "The pod whose interface it is."),
            Column::string("Node", "The node that it is on."),
            Column::string("Sent", "Bytes that it sent."),
            Column::string("Received", "Bytes that it received."),
            Column::string("Dropped", "Packets of it that were dropped."),
            Column::string("QoS", "Its policy for bandwidth."),
            Column::AGE,
            Column::string("MAC", "Its Ethernet address.").wide(),
            Column::string("Sending", "Bits a second, at the last report.").wide(),
            Column::string("Receiving", "Bits a second, at the last report.").wide(),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let none = PortStatus::default();
        let status = self.status.as_ref().unwrap_or(&none);
        let bytes = |n: Option<i64>| {
            n.map_or_else(String::new, |n| short(n, 1024.0, &["", "Ki", "Mi", "Gi", "Ti", "Pi"]))
        };
        let rate =
            |n: Option<i64>| n.map_or_else(String::new, |n| short(n, 1000.0, &["", "k", "M", "G", "T"]));
        vec![
            meta::name_cell(&self.metadata),
            self.spec.network_name.clone().into(),
            self.spec.addresses.as_deref().unwrap_or_default().join(",").into(),
            self.spec.pod_name.clone().unwrap_or_default().into(),
            self.spec.node_name.clone().unwrap_or_default().into(),
            bytes(status.sent_bytes).into(),
            bytes(status.received_bytes).into(),
            status.dropped_packets.map_or_else(String::new, |n| n.to_string()).into(),
            self.spec.qos_policy_name.clone().unwrap_or_default().into(),
            meta::age_cell(&self.metadata, now),
            self.spec.mac.clone().unwrap_or_default().into(),
            rate(status.sent_bits_per_second).into(),
            rate(status.received_bits_per_second).into(),
        ]
    }
}
