//! What is read of objects: no more than is needed, for there are many.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use skep_base::{Quantity, SharedStr};
use skep_net::MacAddr;
use skep_netplan::bandwidth::{Limits, Policy, WIRE_MPU_BYTES};
use skep_netplan::fabric::Port;
use skep_netplan::filter::group::Member;

use crate::DEFAULT_NETWORK;

/// What networks have that say nothing.
const DEFAULT_MTU: u32 = 1450;

#[derive(Debug, Deserialize)]
pub(crate) struct NetworkView {
    #[serde(default)]
    pub(crate) spec: NetworkSpec,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(crate) struct NetworkSpec {
    pub(crate) vni: Option<u32>,
    pub(crate) mtu: u32,
}

impl Default for NetworkSpec {
    fn default() -> NetworkSpec {
        NetworkSpec { vni: None, mtu: DEFAULT_MTU }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SubnetView {
    pub(crate) spec: SubnetSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SubnetSpec {
    pub(crate) network_name: String,
    pub(crate) cidr: String,
}

/// Without the status, which hosts write all the time: a change of it is none here.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PortView {
    metadata: Made,
    pub(crate) spec: PortSpec,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Made {
    /// In milliseconds.
    #[serde(deserialize_with = "milliseconds")]
    creation_timestamp: Option<i64>,
}

fn milliseconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.and_then(|t| t.parse::<Timestamp>().ok()).map(Timestamp::as_millisecond))
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PortSpec {
    pub(crate) network_name: String,
    addresses: Vec<IpAddr>,
    mac: String,
    pub(crate) node_name: Option<String>,
    pub(crate) pod_name: Option<String>,
    node_interface: bool,
    allowed_pairs: Vec<Pair>,
    security_group_names: Vec<SharedStr>,
    pub(crate) qos_policy_name: Option<String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Pair {
    address: String,
    mac: Option<String>,
}

impl PortView {
    /// As security groups see it, for a host with these machines: all that it may send from is guarded, its pod's public addresses too.
    pub(crate) fn member(&self, is_here: impl Fn(&str) -> bool, public: &[IpAddr]) -> Member {
        let spec = &self.spec;
        let pairs = spec.allowed_pairs.iter().filter_map(|p| p.address.parse().ok());
        Member {
            addresses: spec.addresses.iter().chain(public).copied().chain(pairs).collect(),
            groups: spec.security_group_names.clone(),
            here: spec.node_name.as_deref().is_some_and(is_here),
        }
    }

    /// The node that it is on.
    pub(crate) fn nodes(&self, found: &mut dyn FnMut(&str)) {
        if let Some(node) = &self.spec.node_name {
            found(node);
        }
    }

    /// Whether it names security groups.
    pub(crate) fn is_grouped(&self) -> bool {
        !self.spec.security_group_names.is_empty()
    }

    /// When it was made, in milliseconds.
    pub(crate) fn created_ms(&self) -> i64 {
        self.metadata.creation_timestamp.unwrap_or(i64::MAX)
    }

    /// As plans see it; nothing for one that is on no node, or has no address yet.
    pub(crate) fn port(&self) -> Option<Port> {
        let spec = &self.spec;
        let mac: MacAddr = spec.mac.parse().ok()?;
        let pair = |p: &Pair| {
            // Whole ranges are not let through yet: only single addresses are.
            let own = p.mac.as_deref().map_or(Some(mac), |m| m.parse().ok())?;
            Some((p.address.parse().ok()?, own.0))
        };
        Some(Port {
            mac: mac.0,
            addresses: spec.addresses.clone(),
            pairs: spec.allowed_pairs.iter().filter_map(pair).collect(),
            machine: spec.node_name.clone()?,
            is_machine: spec.node_interface,
        })
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct MachineView {
    pub(crate) spec: MachineSpec,
}

impl MachineView {
    /// The node that it is, or will be; `name` is the machine's own.
    pub(crate) fn node<'a>(&'a self, name: &'a str) -> &'a str {
        self.spec.node_name.as_deref().unwrap_or(name)
    }

    /// The network of its tenant that it is in.
    pub(crate) fn network(&self) -> &str {
        self.spec.node_labels.network.as_deref().unwrap_or(DEFAULT_NETWORK)
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MachineSpec {
    pub(crate) node_name: Option<String>,
    pub(crate) host_name: Option<String>,
    node_labels: NodeLabels,
}

/// Of the labels that its node gets.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct NodeLabels {
    #[serde(rename = "network.skep.io/network")]
    network: Option<SharedStr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HostView {
    status: HostStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostStatus {
    addresses: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl HostView {
    /// Where other hosts reach it.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.status.addresses.iter().find(|a| a.kind == "InternalIP")?.address.parse().ok()
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct QosView {
    spec: QosSpec,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct QosSpec {
    egress: Option<QosRate>,
    ingress: Option<QosRate>,
    minimum_packet_unit: Option<u16>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct QosRate {
    guaranteed: Option<String>,
    maximum: Option<String>,
    packets: Option<u64>,
}

impl QosRate {
    fn limits(&self) -> Limits {
        // What is no quantity is refused when it is written.
        let bits = |text: &Option<String>| -> Option<u64> {
            u64::try_from(text.as_deref()?.parse::<Quantity>().ok()?.value()).ok()
        };
        Limits {
            guaranteed_bits_per_s: bits(&self.guaranteed),
            maximum_bits_per_s: bits(&self.maximum),
            packets_per_s: self.packets,
        }
    }
}

impl QosView {
    pub(crate) fn policy(&self) -> Policy {
        let limits = |rate: &Option<QosRate>| rate.as_ref().map(QosRate::limits).unwrap_or_default();
        Policy {
            sending: limits(&self.spec.egress),
            receiving: limits(&self.spec.ingress),
            mpu_bytes: self.spec.minimum_packet_unit.unwrap_or(WIRE_MPU_BYTES),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_read() {
        let port: PortView = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"networkName": "default", "addresses": ["10.64.0.5", "fd00::5"], "mac": "02:53:0a:40:00:05",
                     "nodeName": "n", "allowedPairs": [{"address": "10.64.9.9"}, {"address": "10.0.0.0/8"},
                     {"address": "10.64.9.8", "mac": "02:00:00:00:00:01"}]},
        }))
        .unwrap();
        let port = port.port().unwrap();
        assert_eq!((port.machine.as_str(), port.addresses.len(), port.is_machine), ("n", 2, false));
        let pairs: Vec<_> = port.pairs.iter().map(|(ip, mac)| (ip.to_string(), mac[5])).collect();
        assert_eq!(pairs, [("10.64.9.9".into(), 5), ("10.64.9.8".into(), 1)]);
        let policy: QosView = serde_json::from_value(json!({"spec": {
            "egress": {"guaranteed": "300M", "maximum": "1G", "packets": 1000}, "minimumPacketUnit": 200}}))
        .unwrap();
        let policy = policy.policy();
        assert_eq!(policy.sending.guaranteed_bits_per_s, Some(300_000_000));
        assert_eq!(policy.sending.maximum_bits_per_s, Some(1_000_000_000));
        assert_eq!((policy.sending.packets_per_s, policy.mpu_bytes), (Some(1000), 200));
        assert_eq!(policy.receiving, Limits::default());
        let nowhere: PortView =
            serde_json::from_value(json!({"spec": {"mac": "02:53:0a:40:00:05"}})).unwrap();
        assert_eq!(nowhere.port(), None);

        let host: HostView = serde_json::from_value(json!({"status": {"addresses": [
            {"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "192.0.2.1"}]}}))
        .unwrap();
        assert_eq!(host.address().unwrap().to_string(), "192.0.2.1");
        let network: NetworkView = serde_json::from_value(json!({"spec": {"vni": 5000}})).unwrap();
        assert_eq!((network.spec.vni, network.spec.mtu), (Some(5000), 1450));
        let machine: MachineView = serde_json::from_value(json!({"spec": {"hostName": "h"}})).unwrap();
        assert_eq!(machine.spec.host_name.as_deref(), Some("h"));
    }
}
