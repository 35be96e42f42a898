//! Registering nodes.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Taint};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use skep_client::{Client, Error, Patch, Resource, Tenants};

use crate::fleet::Fleet;
use crate::{IN_FLIGHT, Options, View};

/// A node that is ready.
pub(crate) struct NodeSpec {
    pub(crate) name: String,
    pub(crate) labels: Map<String, Value>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) amounts: Map<String, Value>,
    pub(crate) address: String,
}

/// Makes all nodes, or takes over those that are there.
pub(crate) async fn register(
    client: &Client,
    options: &Options,
    fleet: &Fleet,
    view: View,
) -> Result<(), Error> {
    let register = |place| async move {
        let Some((tenant, name)) = fleet.at(place) else { return Ok(()) };
        let number = fleet.number(&tenant, &name).unwrap_or(0);
        put(client, &view.of(&tenant), &spec(options, name, number)).await
    };
    let mut results = futures::stream::iter((0..fleet.len()).map(register)).buffer_unordered(IN_FLIGHT);
    while let Some(result) = results.next().await {
        result?;
    }
    Ok(())
}

fn spec(options: &Options, name: String, number: usize) -> NodeSpec {
    let mut labels: Map<String, Value> =
        options.labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    if options.zones > 0 {
        labels
            .insert("topology.kubernetes.io/zone".into(), format!("zone-{}", number % options.zones).into());
    }
    let amounts = options.allocatable.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    NodeSpec { name, labels, taints: Vec::new(), amounts, address: host_address(number) }
}

/// Makes a node, or takes it over if it is there.
pub(crate) async fn put(client: &Client, whose: &Tenants, spec: &NodeSpec) -> Result<(), Error> {
    let (object, status) = object(spec);
    let nodes = Resource::of::<Node>().at(whose.clone());
    match client.create::<IgnoredAny>(&nodes, &object).await {
        Ok(_) => Ok(()),
        Err(e) if e.is_already_exists() => {
            let at = nodes.name(&spec.name).subresource("status");
            client.patch::<IgnoredAny>(&at, &Patch::Strategic(json!({"status": status}))).await.map(drop)
        }
        Err(e) => Err(e),
    }
}

/// The node, and its status alone.
fn object(spec: &NodeSpec) -> (Value, Value) {
    let NodeSpec { name, labels, taints, amounts, address } = spec;
    let mut labels = labels.clone();
    labels.insert("kubernetes.io/hostname".into(), name.as_str().into());
    labels.insert("kubernetes.io/os".into(), "linux".into());
    labels.insert("kubernetes.io/arch".into(), "amd64".into());
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let status = json!({
        "capacity": amounts, "allocatable": amounts,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "the node is simulated"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "the node is simulated"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "the node is simulated"),
            condition("Ready", "True", "KubeletReady", "the node is simulated"),
        ],
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
        "nodeInfo": {"machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": "simulated",
            "osImage": "simulated", "containerRuntimeVersion": "simulated://0", "kubeletVersion": "v1.36.0",
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
    });
    let mut object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": status});
    if !taints.is_empty() {
        object["spec"] = json!({"taints": taints});
    }
    (object, status)
}

/// An address for a node, out of the range that is for tests between networks.
pub(crate) fn host_address(index: usize) -> String {
    let [_, b, c, d] = (index as u32 + 1).to_be_bytes();
    format!("198.{}.{c}.{d}", 18 + (b & 1))
}
