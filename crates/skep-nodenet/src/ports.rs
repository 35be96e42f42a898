//! Ports of pods: asked for, found again, given back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_base::SharedStr;
use skep_client::{Client, DeleteParams, ErrorKind, List, ListParams, Patch, Resource, Tenants};
use skep_net::MacAddr;
use skep_net::machine::{PodConfig, Speaker};

use skep_netplan::filter::policy::Labels;

use crate::{Error, PodRef};

pub(crate) const PORTS: Resource = Resource::new("network.skep.io", "v1", "ports");
const NETWORKS: Resource = Resource::new("network.skep.io", "v1", "networks");
const SUBNETS: Resource = Resource::new("network.skep.io", "v1", "subnets");

/// The network of nodes that no host has given a port.
const DEFAULT_NETWORK: &str = "default";
/// What a pod says about its port: the network, and lists separated by commas.
const NETWORK_ANNOTATION: &str = "network.skep.io/network";
const ADDRESSES_ANNOTATION: &str = "network.skep.io/addresses";
const GROUPS_ANNOTATION: &str = "network.skep.io/security-groups";
const QOS_ANNOTATION: &str = "network.skep.io/qos-policy";
/// A port of a static pod says with this of which: the uid is not one of the API server's.
const STATIC_POD_ANNOTATION: &str = "network.skep.io/static-pod";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    uid: String,
    pub(crate) labels: Labels,
    pub(crate) annotations: HashMap<String, String>,
    deletion_timestamp: Option<String>,
    owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    kind: String,
    uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Port {
    pub(crate) metadata: Meta,
    pub(crate) spec: PortSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PortSpec {
    pub(crate) network_name: SharedStr,
    pub(crate) addresses: Vec<IpAddr>,
    mac: String,
    pub(crate) pod_name: Option<String>,
    pub(crate) node_name: Option<SharedStr>,
    node_interface: bool,
    pub(crate) security_group_names: Vec<SharedStr>,
    allowed_pairs: Vec<Pair>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Pair {
    address: String,
    mac: Option<String>,
}

impl Port {
    fn mac(&self) -> Option<MacAddr> {
        self.spec.mac.parse().ok()
    }

    /// Single addresses that it may send from beside its own, from its own interface: as the host lets them through.
    fn pairs(&self) -> Vec<IpAddr> {
        let own = |p: &&Pair| p.mac.as_ref().is_none_or(|mac| *mac == self.spec.mac);
        self.spec.allowed_pairs.iter().filter(own).filter_map(|p| p.address.parse().ok()).collect()
    }

    /// Who the pod of this port is to others.
    pub(crate) fn speaker(&self) -> Option<Speaker> {
        let mut addresses = self.spec.addresses.clone();
        addresses.extend(self.pairs());
        Some(Speaker { id: self.pod_uid()?.to_owned(), mac: self.mac()?, addresses })
    }

    pub(crate) fn pod_uid(&self) -> Option<&str> {
        let owner = self.metadata.owner_references.iter().find(|o| o.kind == "Pod").map(|o| o.uid.as_str());
        owner.or_else(|| self.metadata.annotations.get(STATIC_POD_ANNOTATION).map(String::as_str))
    }
}

/// What pods need to know of their network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) mtu: u32,
    /// Each subnet with its gateway.
    subnets: Vec<(IpNet, IpAddr)>,
}

impl Network {
    /// Addresses with the length of the subnet that each is in.
    pub(crate) fn with_prefix(&self, addresses: &[IpAddr]) -> Vec<IpNet> {
        let of = |ip: &IpAddr| {
            let (net, _) = self.subnets.iter().find(|(net, _)| net.contains(ip))?;
            IpNet::new(*ip, net.prefix_len()).ok()
        };
        addresses.iter().filter_map(of).collect()
    }

    /// The gateways, with the length of their subnets: every node has them all.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        self.subnets.iter().filter_map(|(net, gateway)| IpNet::new(*gateway, net.prefix_len()).ok()).collect()
    }

    /// The subnets in which none of these addresses is.
    fn others(&self, addresses: &[IpAddr]) -> Vec<IpNet> {
        let nets = self.subnets.iter().map(|(net, _)| *net);
        nets.filter(|net| !addresses.iter().any(|ip| net.contains(ip))).collect()
    }

    /// The gateway of each family, for somebody with these addresses.
    fn gateways_of(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        for ip in addresses {
            let gateway = self.subnets.iter().find(|(net, _)| net.contains(ip)).map(|(_, gateway)| *gateway);
            if let Some(gateway) = gateway.filter(|g| !found.iter().any(|f| f.is_ipv4() == g.is_ipv4())) {
                found.push(gateway);
            }
        }
        found
    }
}

/// The node's own interface.
pub(crate) struct OwnInterface {
    pub(crate) mac: MacAddr,
    pub(crate) addresses: Vec<IpAddr>,
}

/// What a pod asks for, if it does.
fn annotation<'a>(pod: &'a PodRef, name: &str) -> Option<&'a str> {
    pod.annotations.get(name).map(|t| t.trim()).filter(|t| !t.is_empty())
}

/// The ports of this node's pods.
pub(crate) struct Ports {
    client: Client,
    node: String,
    /// The network that the node is in, and so its pods are.
    network: SharedStr,
    /// Namespace and name of the port of each pod that was set up, by the pod's uid.
    known: Mutex<HashMap<String, (String, String)>>,
}

impl Ports {
    /// With the port that the host made for the node itself, if there is one: it says which network the node is in.
    pub(crate) async fn open(client: Client, node: String) -> Result<(Ports, Option<OwnInterface>), Error> {
        let mut ports =
            Ports { client, node, network: SharedStr::new(DEFAULT_NETWORK), known: Mutex::default() };
        let Some(own) = ports.of_node().await?.into_iter().find(|p| p.spec.node_interface) else {
            return Ok((ports, None));
        };
        let interface = own.mac().map(|mac| OwnInterface { mac, addresses: own.spec.addresses });
        ports.network = own.spec.network_name;
        Ok((ports, interface))
    }

    /// The network that the node is in.
    pub(crate) fn network_name(&self) -> &SharedStr {
        &self.network
    }

    /// Reads the node's network and its subnets.
    pub(crate) async fn network(&self) -> Result<Network, Error> {
        let name = self.network.as_str();
        #[derive(Deserialize)]
        struct Read {
            spec: ReadSpec,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct ReadSpec {
            mtu: Option<u32>,
            network_name: String,
            cidr: String,
            gateway: String,
        }
        let what = || format!("read the network {name:?} and its subnets");

        let (at, subnets) = (NETWORKS.at(Tenants::Own).name(name), SUBNETS.at(Tenants::Own));
        let network = self.client.read::<Read>(&at);
        let all = self.client.list_all::<Read>(&subnets, ListParams::default());
        let (network, all) = tokio::try_join!(network, all).map_err(|e| Error::api(what(), e))?;
        let of_it = all.items.into_iter().filter(|s| s.spec.network_name == name);
        let subnets =
            of_it.filter_map(|s| Some((s.spec.cidr.parse().ok()?, s.spec.gateway.parse().ok()?))).collect();
        /// What networks have that say nothing.
        const DEFAULT_MTU: u32 = 1450;
        Ok(Network { mtu: network.spec.mtu.unwrap_or(DEFAULT_MTU), subnets })
    }

    pub(crate) async fn of_node(&self) -> Result<Vec<Port>, Error> {
        let fields = format!("spec.nodeName={}", self.node);
        let params = ListParams { fields, ..ListParams::default() };
        let all: List<Port> = self
            .client
            .list_all(&PORTS.at(Tenants::Own), params)
            .await
            .map_err(|e| Error::api("list the node's ports", e))?;
        Ok(all.items)
    }

    /// The interface that a pod is to have: its port's, which is made if it is not there. And the network's other subnets.
    pub(crate) async fn pod_config(
        &self,
        pod: &PodRef,
        netns: &Path,
    ) -> Result<(PodConfig, Port, Vec<IpNet>), Error> {
        // Before anything is made: a pod that is not for this node is to leave nothing here.
        if let Some(asked) = annotation(pod, NETWORK_ANNOTATION).filter(|asked| *asked != &*self.network) {
            return Err(self.elsewhere(pod, asked));
        }
        let (port, network) = tokio::try_join!(self.port_of(pod), self.network())?;
        let about =
            || Error::Taken(format!("the port {}/{} has no Ethernet address", pod.namespace, pod.name));
        let place = (port.metadata.namespace.clone(), port.metadata.name.clone());
        self.known.lock().insert(pod.uid.clone(), place);
        let config = PodConfig {
            id: pod.uid.clone(),
            namespace: netns.to_owned(),
            mac: port.mac().ok_or_else(about)?,
            addresses: network.with_prefix(&port.spec.addresses),
            gateways: network.gateways_of(&port.spec.addresses),
            pairs: port.pairs(),
            mtu: network.mtu,
        };
        let others = network.others(&port.spec.addresses);
        Ok((config, port, others))
    }

    fn elsewhere(&self, pod: &PodRef, network: &str) -> Error {
        Error::Taken(format!(
            "the pod {}/{} is to be in the network {network:?}, and the node {:?} is in {:?}; give it a node with the label {NETWORK_ANNOTATION}={network}",
            pod.namespace, pod.name, self.node, &*self.network
        ))
    }

    async fn port_of(&self, pod: &PodRef) -> Result<Port, Error> {
        let at = PORTS.at(Tenants::Own).namespace(&pod.namespace);
        let what = || format!("make the port of the pod {}/{}", pod.namespace, pod.name);
        // A port is named like its pod. What has the name may be of an earlier pod, and goes then.
        for _ in 0..3 {
            // Looked for before it is made: addresses that were asked for by name are in use by the very port that may be there.
            let named = at.clone().name(&pod.name);
            let found: Option<Port> = match self.client.read(&named).await {
                Ok(port) => Some(port),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(Error::api(what(), error)),
            };
            let Some(there) = found else {
                match self.client.create::<Port>(&at, &self.new_port(pod)).await {
                    Ok(port) => return Ok(port),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(Error::api(what(), error)),
                }
            };
            let at = named;
            let going = there.metadata.deletion_timestamp.is_some();
            let here = there.spec.node_name.as_deref() == Some(self.node.as_str());
            if there.pod_uid() == Some(&pod.uid) && here && !going {
                return Ok(there);
            }
            let made_beforehand =
                there.pod_uid().is_none() && there.spec.pod_name.as_deref() == Some(&pod.name);
            if made_beforehand && !going {
                if there.spec.network_name != self.network {
                    return Err(self.elsewhere(pod, &there.spec.network_name));
                }
                if here {
                    return Ok(there);
                }
                let patch = Patch::Merge(json!({"spec": {"nodeName": self.node}}));
                return self.client.patch(&at, &patch).await.map_err(|e| Error::api(what(), e));
            }
            if !here || going {
                let place = there.spec.node_name.as_deref().unwrap_or("no node");
                return Err(Error::Taken(format!(
                    "the port {}/{} still belongs to an earlier pod (on {place}); it is tried again",
                    pod.namespace, pod.name
                )));
            }
            self.delete(&pod.namespace, &pod.name, &there.metadata.uid).await?;
        }
        Err(Error::Taken(format!(
            "the port {}/{} comes and goes; it is tried again",
            pod.namespace, pod.name
        )))
    }

    fn new_port(&self, pod: &PodRef) -> Value {
        let list = |name: &str| {
            annotation(pod, name)
                .map(|text| text.split(',').map(str::trim).filter(|t| !t.is_empty()).collect::<Vec<_>>())
        };
        let mut spec = json!({
            "networkName": self.network.as_str(), "podName": pod.name, "nodeName": self.node,
        });
        for (field, value) in [
            ("addresses", list(ADDRESSES_ANNOTATION).map(|l| json!(l))),
            ("securityGroupNames", list(GROUPS_ANNOTATION).map(|l| json!(l))),
            ("qosPolicyName", annotation(pod, QOS_ANNOTATION).map(|t| json!(t))),
        ] {
            if let Some(value) = value {
                spec[field] = value;
            }
        }
        let mut metadata = json!({
            "name": pod.name, "namespace": pod.namespace,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}],
        });
        if let Some(uid) = &pod.static_of {
            metadata["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid}]);
            metadata["annotations"] = json!({STATIC_POD_ANNOTATION: pod.uid});
        }
        json!({"apiVersion": "network.skep.io/v1", "kind": "Port", "metadata": metadata, "spec": spec})
    }

    /// Gives back the port of a pod. One that was made beforehand stays for the next pod of the name.
    pub(crate) async fn release(&self, uid: &str) -> Result<(), Error> {
        let known = self.known.lock().get(uid).cloned();
        let port = match &known {
            Some((namespace, name)) => {
                let at = PORTS.at(Tenants::Own).namespace(namespace).name(name);
                match self.client.read::<Port>(&at).await {
                    Ok(port) => Some(port),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(Error::api(format!("read the port {namespace}/{name}"), error)),
                }
            }
            // An agent that was started anew does not know; the list does.
            None => self.of_node().await?.into_iter().find(|p| p.pod_uid() == Some(uid)),
        };
        if let Some(port) = port.filter(|p| p.pod_uid() == Some(uid)) {
            self.delete(&port.metadata.namespace, &port.metadata.name, &port.metadata.uid).await?;
        }
        self.known.lock().remove(uid);
        Ok(())
    }

    async fn delete(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Error> {
        let at = PORTS.at(Tenants::Own).namespace(namespace).name(name);
        match self.client.remove(&at, &DeleteParams::uid(uid)).await {
            Err(error) if !(error.is_not_found() || error.is_conflict()) => {
                Err(Error::api(format!("delete the port {namespace}/{name}"), error))
            }
            // A conflict says that another has the name now: this one is gone.
            _ => Ok(()),
        }
    }
}
