//! The tenant's network as the agent uses it: pods have the addresses that their ports have.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use skep_client::{Backoff, Client};
use skep_nodenet::{NodeNetwork, PodRef};

use crate::agent::Config;
use crate::network::{NetworkError, PodAddresses, PodIdentity, PodNetwork};

/// The machine's bridge.
const BRIDGE: &str = "skep0";
/// Waits before the network is set up again: the API server may be away, or the host still at work.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Where the machine says whom it asks for names.
const RESOLV_CONF: &str = "etc/resolv.conf";
/// The port that names are asked at.
const DNS_PORT: u16 = 53;

/// The network of the tenant, through the machine's own interface.
pub struct TenantNetwork {
    inner: NodeNetwork,
}

impl TenantNetwork {
    /// Sets the node's network up, however long that takes: pods that run already go on meanwhile.
    pub(crate) async fn start(client: &Client, uplink: &str, config: &Config) -> TenantNetwork {
        let resolv_conf = std::fs::read_to_string(config.host_root.join(RESOLV_CONF)).unwrap_or_default();
        let network = skep_nodenet::Config {
            node: config.node.clone(),
            zone: config.labels.get(ZONE_LABEL).cloned(),
            bridge: BRIDGE.to_owned(),
            uplink: Some(uplink.to_owned()),
            domain: config.cluster_domain.clone(),
            upstreams: upstreams(&resolv_conf),
            stubs: Vec::new(),
            api_socket: config.api_socket.clone(),
        };
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            match NodeNetwork::start(client.clone(), network.clone()).await {
                Ok(inner) => return TenantNetwork { inner },
                Err(error) => {
                    tracing::warn!(
                        error = error.full(),
                        "the node's network is not set up; it is tried again"
                    );
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    /// The node's own addresses in the network.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.inner.addresses()
    }
}

/// The label of a node that says in which zone it is.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Whom the machine asks for names. A resolver that is only on the host itself is none for a machine.
fn upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
    let words = resolv_conf.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let servers = words.filter(|w| w.first() == Some(&"nameserver"));
    let addresses = servers.filter_map(|w| w.get(1)?.parse::<IpAddr>().ok());
    addresses.filter(|ip| !ip.is_loopback()).map(|ip| SocketAddr::new(ip, DNS_PORT)).collect()
}

fn failed(error: &skep_nodenet::Error) -> NetworkError {
    NetworkError(error.full())
}

impl PodNetwork for TenantNetwork {
    fn set_up<'a>(
        &'a self,
        pod: &'a PodIdentity,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<PodAddresses, NetworkError>> {
        Box::pin(async move {
            let pod = PodRef {
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                annotations: pod.annotations.clone(),
                static_of: pod.static_of.clone(),
            };
            let ips = self.inner.set_up(&pod, netns).await.map_err(|e| failed(&e))?;
            Ok(PodAddresses { ips: ips.iter().map(ToString::to_string).collect() })
        })
    }

    fn tear_down<'a>(&'a self, uid: &'a str, netns: &'a Path) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(async move { self.inner.tear_down(uid, netns).await.map_err(|e| failed(&e)) })
    }

    fn dns_servers(&self) -> Vec<String> {
        self.inner.dns_servers().iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_asks_whom_it_can_reach() {
        let text = "# a comment\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver nobody\n\
                    nameserver 2001:db8::1\n";
        let found: Vec<String> = upstreams(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert!(upstreams("").is_empty());
    }
}
