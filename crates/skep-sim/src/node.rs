//! Registering nodes.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use skep_client::{Client, Error, Patch, Resource};

use crate::{IN_FLIGHT, Options, Whose};

/// Makes all nodes, or takes over those that are there.
pub(crate) async fn register(client: &Client, options: &Options, whose: &Whose) -> Result<(), Error> {
    let nodes = whose.all.iter().flat_map(|tenant| (0..options.nodes).map(move |i| (tenant, i)));
    let register = |(tenant, index)| async move {
        let (object, status) = object(options, index);
        let at = Resource::of::<Node>().at(whose.of(tenant));
        match client.create::<IgnoredAny>(&at, &object).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_already_exists() => {
                let at = at.name(&options.name(index)).subresource("status");
                client.patch::<IgnoredAny>(&at, &Patch::Strategic(json!({"status": status}))).await.map(drop)
            }
            Err(e) => Err(e),
        }
    };
    let mut results = futures::stream::iter(nodes.map(register)).buffer_unordered(IN_FLIGHT);
    while let Some(result) = results.next().await {
        result?;
    }
    Ok(())
}

/// A node that is ready, and its status alone.
fn object(options: &Options, index: usize) -> (Value, Value) {
    let name = options.name(index);
    let mut labels: Map<String, Value> =
        options.labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    labels.insert("kubernetes.io/hostname".into(), name.as_str().into());
    labels.insert("kubernetes.io/os".into(), "linux".into());
    labels.insert("kubernetes.io/arch".into(), "amd64".into());
    if options.zones > 0 {
        labels.insert("topology.kubernetes.io/zone".into(), format!("zone-{}", index % options.zones).into());
    }
    let amounts: Map<String, Value> =
        options.allocatable.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
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
        "addresses": [{"type": "InternalIP", "address": host_address(index)}, {"type": "Hostname", "address": name}],
        "nodeInfo": {"machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": "simulated",
            "osImage": "simulated", "containerRuntimeVersion": "simulated://0", "kubeletVersion": "v1.36.0",
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
    });
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": status});
    (object, status)
}

/// An address for a node, out of the range that is for tests between networks.
pub(crate) fn host_address(index: usize) -> String {
    let [_, b, c, d] = (index as u32 + 1).to_be_bytes();
    format!("198.{}.{c}.{d}", 18 + (b & 1))
}
