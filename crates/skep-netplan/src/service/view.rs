//! What is read of services and endpoint slices: no more than is needed.

use std::net::IpAddr;

use serde::Deserialize;

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum L4 {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl L4 {
    /// Its number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            L4::Tcp => 6,
            L4::Udp => 17,
            L4::Sctp => 132,
        }
    }
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    /// Inside the cluster.
    #[default]
    ClusterIP,
    /// Also through a port of every node.
    NodePort,
    /// Also through addresses of the outside world.
    LoadBalancer,
    /// It is only another name.
    ExternalName,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// How it is reached.
    pub kind: ServiceType,
    /// Its addresses; empty for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses of the outside world that are led here.
    pub external_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// How long a client stays with an endpoint, in seconds; none means not at all.
    pub affinity_s: Option<u32>,
    /// Whether clients of the cluster reach only endpoints of their own node.
    pub internal_local: bool,
    /// Whether clients from outside reach only endpoints of the node that they come to, and are seen as they are.
    pub external_local: bool,
    /// Whether endpoints count that are not ready.
    pub publish_not_ready: bool,
    /// For [`ServiceType::ExternalName`], the name.
    pub external_name: Option<String>,
    /// The port of every node at which load balancers outside ask whether it has an endpoint.
    pub health_check_node_port: Option<u16>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty if there is only one.
    pub name: String,
    /// The protocol.
    pub protocol: L4,
    /// The port.
    pub port: u16,
    /// The port of every node that leads here.
    pub node_port: Option<u16>,
}

/// Some endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Whether its addresses are IPv6.
    pub v6: bool,
    /// The ports that all of them have.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port that endpoints have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the service's port.
    pub name: String,
    /// The protocol.
    pub protocol: L4,
    /// The port; none means every.
    pub port: Option<u16>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: Option<IpAddr>,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it still answers, although it may be ending.
    pub serving: bool,
    /// Whether it is ending.
    pub terminating: bool,
    /// The node that it is on.
    pub node: Option<String>,
    /// The zones that should use it; empty means all.
    pub zones: Vec<String>,
    /// Its name below the service's, if it has one.
    pub hostname: Option<String>,
    /// The pod that it is.
    pub pod: Option<String>,
}

/// The objects as the API writes them.
mod wire {
    use super::{Deserialize, IpAddr, L4, ServiceType};

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Service {
        pub(super) spec: ServiceSpec,
        pub(super) status: ServiceStatus,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct ServiceSpec {
        #[serde(rename = "type")]
        pub(super) kind: ServiceType,
        #[serde(rename = "clusterIP")]
        pub(super) cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        pub(super) cluster_ips: Vec<String>,
        #[serde(rename = "externalIPs")]
        pub(super) external_ips: Vec<String>,
        pub(super) ports: Vec<ServicePort>,
        pub(super) session_affinity: String,
        pub(super) session_affinity_config: Option<AffinityConfig>,
        pub(super) internal_traffic_policy: String,
        pub(super) external_traffic_policy: String,
        pub(super) publish_not_ready_addresses: bool,
        pub(super) external_name: Option<String>,
        pub(super) health_check_node_port: Option<u16>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct AffinityConfig {
        #[serde(rename = "clientIP")]
        pub(super) client_ip: Option<ClientIp>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct ClientIp {
        pub(super) timeout_seconds: Option<u32>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct ServicePort {
        pub(super) name: Option<String>,
        pub(super) protocol: L4,
        pub(super) port: u16,
        pub(super) node_port: Option<u16>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct ServiceStatus {
        pub(super) load_balancer: LoadBalancer,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct LoadBalancer {
        pub(super) ingress: Vec<Ingress>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Ingress {
        pub(super) ip: Option<String>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Slice {
        pub(super) address_type: String,
        // Both may be written as null.
        pub(super) ports: Option<Vec<Port>>,
        pub(super) endpoints: Option<Vec<Endpoint>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Port {
        pub(super) name: Option<String>,
        pub(super) protocol: Option<L4>,
        pub(super) port: Option<u16>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Endpoint {
        pub(super) addresses: Vec<String>,
        pub(super) conditions: Conditions,
        pub(super) node_name: Option<String>,
        pub(super) hostname: Option<String>,
        pub(super) target_ref: Option<TargetRef>,
        pub(super) hints: Option<Hints>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Conditions {
        pub(super) ready: Option<bool>,
        pub(super) serving: Option<bool>,
        pub(super) terminating: Option<bool>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct TargetRef {
        pub(super) kind: String,
        pub(super) name: Option<String>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Hints {
        pub(super) for_zones: Option<Vec<Zone>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Zone {
        pub(super) name: String,
    }

    pub(super) fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = texts.into_iter().filter_map(|t| t.parse().ok()).collect();
        found.sort();
        found.dedup();
        found
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Service, D::Error> {
        /// What a client stays when it is not said.
        const DEFAULT_AFFINITY_S: u32 = 10_800;
        let wire::Service { spec, status } = wire::Service::deserialize(deserializer)?;
        let cluster = spec.cluster_ips.iter().chain(spec.cluster_ips.is_empty().then_some(&spec.cluster_ip));
        let balancer = status.load_balancer.ingress.iter().filter_map(|i| i.ip.as_ref());
        let affinity = (spec.session_affinity == "ClientIP").then(|| {
            let said = spec.session_affinity_config.and_then(|c| c.client_ip?.timeout_seconds);
            said.unwrap_or(DEFAULT_AFFINITY_S)
        });
        Ok(Service {
            kind: spec.kind,
            cluster_ips: wire::addresses(cluster),
            external_ips: wire::addresses(spec.external_ips.iter().chain(balancer)),
            affinity_s: affinity,
            internal_local: spec.internal_traffic_policy == "Local",
            external_local: spec.external_traffic_policy == "Local",
            publish_not_ready: spec.publish_not_ready_addresses,
            external_name: spec.external_name,
            health_check_node_port: spec.health_check_node_port.filter(|n| *n != 0),
            ports: spec
                .ports
                .into_iter()
                .map(|p| ServicePort {
                    name: p.name.unwrap_or_default(),
                    protocol: p.protocol,
                    port: p.port,
                    node_port: p.node_port.filter(|n| *n != 0),
                })
                .collect(),
        })
    }
}

impl<'de> Deserialize<'de> for EndpointSlice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<EndpointSlice, D::Error> {
        let slice = wire::Slice::deserialize(deserializer)?;
        let port = |p: wire::Port| EndpointPort {
            name: p.name.unwrap_or_default(),
            protocol: p.protocol.unwrap_or_default(),
            port: p.port,
        };
        let endpoint = |e: wire::Endpoint| {
            // What is not said counts as ready; what is ready serves, and does not end.
            let ready = e.conditions.ready.unwrap_or(true);
            Endpoint {
                address: e.addresses.first().and_then(|a| a.parse().ok()),
                ready,
                serving: e.conditions.serving.unwrap_or(ready),
                terminating: e.conditions.terminating.unwrap_or(false),
                node: e.node_name,
                zones: e.hints.and_then(|h| h.for_zones).into_iter().flatten().map(|z| z.name).collect(),
                hostname: e.hostname,
                pod: e.target_ref.filter(|t| t.kind == "Pod").and_then(|t| t.name),
            }
        };
        Ok(EndpointSlice {
            v6: slice.address_type == "IPv6",
            ports: slice.ports.into_iter().flatten().map(port).collect(),
            endpoints: slice.endpoints.into_iter().flatten().map(endpoint).collect(),
        })
    }
}
