//! Networks and ports: what only the operator may say, and what a node may say of its pods.
//!
//! A tenant may do what it likes inside its own networks. It may not choose what reaches outside: a network's
//! number, an Ethernet address; nor report traffic, which is billed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};
use serde::Deserialize;
use skep_api::Object;
use skep_api::network::{GROUP, Network, Port, PublicPool, Subnet};

use crate::pods;
use crate::refusal::Refusal;
use crate::review::{Operation, PODS, PORT_ADDRESSES, PORTS, PUBLIC_ADDRESSES, Review, SUBNETS};

/// A pod asks for addresses by name with this, separated by commas.
const ADDRESSES_ANNOTATION: &str = "network.skep.io/addresses";
/// A pod names its network with this; and a node has a label of the same name, if it is in another than the default one.
const NETWORK_ANNOTATION: &str = "network.skep.io/network";
/// A pod names its security groups with this, separated by commas.
const GROUPS_ANNOTATION: &str = "network.skep.io/security-groups";
/// A pod names its QoS policy with this.
const QOS_ANNOTATION: &str = "network.skep.io/qos-policy";
/// A port says with this which of its pod's ports have names: `http=TCP/8080,dns=UDP/53`.
const CONTAINER_PORTS_ANNOTATION: &str = "network.skep.io/container-ports";
/// The network of nodes that say nothing.
const DEFAULT_NETWORK: &str = skep_api::network::DEFAULT_NETWORK;
/// Where hosts make the ports of nodes.
const NODE_NAMESPACE: &str = "kube-system";

/// `object` is `None` when it is deleted. Before the server fills in what it gives.
pub(crate) fn admit(review: &Review<'_>, object: Option<&dyn Object>) -> Result<(), Refusal> {
    if review.info.group != GROUP || review.home.is_system() {
        return match object {
            None => in_use(review),
            Some(_) => Ok(()),
        };
    }
    if review.subresource == "status" && matches!(&*review.info.plural, "ports" | "publicips") {
        return Err(review.forbid("what goes through it is reported by the operator's hosts only"));
    }
    if let Some(node) = review.node {
        return of_node(review, node, object);
    }
    let Some(object) = object else { return in_use(review) };
    if review.operation != Operation::Create {
        return Ok(());
    }
    let any = object.as_any();
    if any.downcast_ref::<Network>().is_some_and(|n| n.spec.vni.is_some()) {
        return Err(review.forbid("spec.vni is given by the server; only the operator may choose one"));
    }
    if let Some(port) = any.downcast_ref::<Port>() {
        if port.spec.mac.is_some() {
            return Err(review.forbid("spec.mac is given by the server; only the operator may choose one"));
        }
        if port.spec.node_interface == Some(true) {
            return Err(review.forbid("the interfaces of nodes are made by the operator's hosts only"));
        }
    }
    Ok(())
}

/// Leads a pod that names a network to a node that is in it.
pub(crate) fn place(review: &Review<'_>, pod: &mut Pod) -> Result<(), Refusal> {
    if review.operation != Operation::Create || !review.subresource.is_empty() || pods::is_mirror(pod) {
        return Ok(());
    }
    let annotations = pod.metadata.annotations.as_ref();
    let Some(network) = annotations.and_then(|a| a.get(NETWORK_ANNOTATION)).map(|n| n.trim().to_owned())
    else {
        return Ok(());
    };
    let Some(spec) = pod.spec.as_mut().filter(|_| !network.is_empty()) else { return Ok(()) };
    if network == DEFAULT_NETWORK {
        let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
        let selector = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
        if selector.node_selector_terms.is_empty() {
            selector.node_selector_terms.push(NodeSelectorTerm::default());
        }
        let unlabelled = NodeSelectorRequirement {
            key: NETWORK_ANNOTATION.to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        };
        for term in &mut selector.node_selector_terms {
            let all = term.match_expressions.get_or_insert_default();
            if !all.contains(&unlabelled) {
                all.push(unlabelled.clone());
            }
        }
        return Ok(());
    }
    let selector = spec.node_selector.get_or_insert_default();
    if let Some(other) = selector.get(NETWORK_ANNOTATION).filter(|other| **other != network) {
        return Err(review.forbid(format!(
            "the annotation {NETWORK_ANNOTATION} names {network:?}, and spec.nodeSelector {other:?}; a pod is in one network, its node's"
        )));
    }
    selector.insert(NETWORK_ANNOTATION.to_owned(), network.clone());
    let tolerates = Toleration {
        key: Some(NETWORK_ANNOTATION.to_owned()),
        operator: Some("Equal".to_owned()),
        value: Some(network),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&tolerates) {
        tolerations.push(tolerates);
    }
    Ok(())
}

/// Keeps pods that name no network away from nodes that are in another than the default one: they would be in it without a word.
pub(crate) fn keep_others_away(labels: Option<&BTreeMap<String, String>>, taints: &mut Option<Vec<Taint>>) {
    let network = labels.and_then(|l| l.get(NETWORK_ANNOTATION));
    let Some(network) = network.filter(|n| *n != DEFAULT_NETWORK) else { return };
    let taints = taints.get_or_insert_default();
    if !taints.iter().any(|t| t.key == NETWORK_ANNOTATION) {
        taints.push(Taint {
            key: NETWORK_ANNOTATION.to_owned(),
            value: Some(network.clone()),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
}

/// Gives a pod's port what filters go by: the pod's labels and the names of its ports. Whoever writes the port, and whatever they
/// say: by labels of their own choice they could pass filters that are not meant for them.
pub(crate) fn describe(review: &Review<'_>, port: &mut Port) -> Result<(), Refusal> {
    if !review.subresource.is_empty() || port.spec.node_name.is_none() {
        return Ok(());
    }
    let Some(name) = port.spec.pod_name.as_deref() else { return Ok(()) };
    let Some(pod) = review.get::<Pod>(&PODS, review.namespace, name)? else { return Ok(()) };
    if pod.spec.as_ref().and_then(|s| s.node_name.as_ref()) != port.spec.node_name.as_ref() {
        return Ok(());
    }
    let names = named_ports(&pod);
    port.metadata.labels = pod.metadata.labels;
    let annotations = port.metadata.annotations.get_or_insert_default();
    if names.is_empty() {
        annotations.remove(CONTAINER_PORTS_ANNOTATION);
    } else {
        annotations.insert(CONTAINER_PORTS_ANNOTATION.to_owned(), names);
    }
    if annotations.is_empty() {
        port.metadata.annotations = None;
    }
    Ok(())
}

/// The ports of a pod that have names, of containers that run as long as it does.
fn named_ports(pod: &Pod) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let init = spec.init_containers.iter().flatten();
    let beside = init.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(beside).flat_map(|c| c.ports.iter().flatten());
    let shown = ports.filter_map(|p| {
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        Some(format!("{}={protocol}/{}", p.name.as_deref()?, p.container_port))
    });
    shown.collect::<Vec<_>>().join(",")
}

/// Nothing goes while something else stands on it.
fn in_use(review: &Review<'_>) -> Result<(), Refusal> {
    let any = review.old.map(Object::as_any);
    if let Some(network) = any.and_then(|o| o.downcast_ref::<Network>()) {
        let name = network.metadata.name.as_deref().unwrap_or_default();
        let of_it = |s: &Subnet| s.spec.network_name == name;
        if let Some(subnet) = review.list::<Subnet>(&SUBNETS, "")?.iter().find(|s| of_it(s)) {
            let subnet = subnet.metadata.name.as_deref().unwrap_or_default();
            return Err(
                review.forbid(format!("the network has the subnet {subnet:?}; delete its subnets first"))
            );
        }
    }
    #[derive(Deserialize)]
    struct Address {
        ip: IpAddr,
        owner: String,
    }
    if let Some(pool) = any.and_then(|o| o.downcast_ref::<PublicPool>()) {
        let ranges = pool.ranges();
        let taken = review.list::<Address>(&PUBLIC_ADDRESSES, "")?;
        if let Some(address) = taken.iter().find(|a| ranges.iter().any(|r| r.contains(a.ip))) {
            let (ip, owner) = (address.ip, &address.owner);
            return Err(review.forbid(format!(
                "its address {ip} is in use by the PublicIP {owner}; set spec.retired, and delete it when its addresses are given back"
            )));
        }
    }
    if let Some(subnet) = any.and_then(|o| o.downcast_ref::<Subnet>()) {
        let Some(net) = subnet.net() else { return Ok(()) };
        let taken = review.list::<Address>(&PORT_ADDRESSES, &subnet.spec.network_name)?;
        if let Some(address) = taken.iter().find(|a| net.contains(&a.ip)) {
            let (ip, owner) = (address.ip, &address.owner);
            return Err(review
                .forbid(format!("its address {ip} is in use by the port {owner}; delete its ports first")));
        }
    }
    Ok(())
}

/// A node makes, takes and deletes the ports of its own pods, as the pods say.
fn of_node(review: &Review<'_>, node: &str, object: Option<&dyn Object>) -> Result<(), Refusal> {
    let not_ours =
        || Err(review.forbid(format!("node {node:?} may only write ports of pods that run on it")));
    if review.info.plural != "ports" || node.is_empty() {
        return not_ours();
    }
    let old = review.old_as::<Port>();
    let new = object.and_then(|o| o.as_any().downcast_ref::<Port>());
    match (review.operation, old, new) {
        (Operation::Create, _, Some(port)) => {
            let pod = own_pod(review, node, port)?;
            as_the_pod_says(review, node, port, &pod)
        }
        (Operation::Update, Some(old), Some(port)) => {
            // One that was made beforehand, and named in the pod's own name: the node says that it is there now.
            let mut same = old.spec.clone();
            same.node_name.clone_from(&port.spec.node_name);
            if same != port.spec || old.spec.node_interface == Some(true) {
                return Err(
                    review.forbid(format!("node {node:?} may only say that the pod of a port runs on it"))
                );
            }
            own_pod(review, node, port).map(drop)
        }
        (Operation::Delete, Some(old), _)
            if old.spec.node_name.as_deref() == Some(node) && old.spec.pod_name.is_some() =>
        {
            Ok(())
        }
        _ => not_ours(),
    }
}

/// The pod of a port, when it runs on the node.
fn own_pod(review: &Review<'_>, node: &str, port: &Port) -> Result<Pod, Refusal> {
    let not_ours = || review.forbid(format!("node {node:?} may only write ports of pods that run on it"));
    let name = port.spec.pod_name.as_deref().ok_or_else(not_ours)?;
    let pod = review.get::<Pod>(&PODS, review.namespace, name)?.ok_or_else(not_ours)?;
    let here = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
    if !here || port.spec.node_name.as_deref() != Some(node) {
        return Err(not_ours());
    }
    Ok(pod)
}

/// A node decides nothing about a port: the pod's annotations do.
fn as_the_pod_says(review: &Review<'_>, node: &str, port: &Port, pod: &Pod) -> Result<(), Refusal> {
    let annotation =
        |name: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(name)).map(String::as_str);
    let list = |name: &str| -> Vec<&str> {
        annotation(name)
            .into_iter()
            .flat_map(|t| t.split(','))
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .collect()
    };
    let refuse =
        |field: &str| Err(review.forbid(format!("spec.{field} is not what the pod's annotations ask for")));
    let spec = &port.spec;
    if spec.mac.is_some() || spec.node_interface == Some(true) || spec.allowed_pairs.is_some() {
        return Err(
            review.forbid("a node may not choose an Ethernet address, nor allow others than the port's own")
        );
    }
    // A pod is where its node is. What it asks for has led it there.
    let own = review.get::<Port>(&PORTS, NODE_NAMESPACE, &format!("node-{node}"))?;
    let network = own.as_ref().map_or(DEFAULT_NETWORK, |own| &own.spec.network_name);
    if spec.network_name != network || annotation(NETWORK_ANNOTATION).is_some_and(|n| n.trim() != network) {
        return refuse("networkName");
    }
    let wanted: Vec<Option<IpAddr>> = list(ADDRESSES_ANNOTATION).iter().map(|a| a.parse().ok()).collect();
    if port.addresses().map(Some).collect::<Vec<_>>() != wanted {
        return refuse("addresses");
    }
    if spec.security_group_names.as_deref().unwrap_or_default() != list(GROUPS_ANNOTATION).as_slice() {
        return refuse("securityGroupNames");
    }
    if spec.qos_policy_name.as_deref() != annotation(QOS_ANNOTATION) {
        return refuse("qosPolicyName");
    }
    let uid = pod.metadata.uid.as_deref();
    let mut owners = port.metadata.owner_references.iter().flatten();
    let owned = match pods::is_mirror(pod) {
        false => owners.any(|o| o.kind == "Pod" && Some(&*o.uid) == uid),
        // A mirror comes and goes while its pod runs.
        true => owners.any(|o| o.kind == "Node" && o.name == node),
    };
    if !owned {
        return Err(review.forbid("metadata.ownerReferences must name the pod: its port goes when it goes"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
