//! Who binds pods, and what kubelets would show of them: at random, or as well as can be.

use jiff::Timestamp;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{DeleteParams, Patch};

use crate::world::{History, NODES, PODS, World, is_deleting, is_over, is_ready, name, phase, uid};

/// How pods fare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How likely something is done about a pod each time it is looked at.
    pub(crate) pace: f64,
    /// How likely a running pod fails, or is not ready for a while.
    pub(crate) trouble: f64,
}

/// Everything is started and ended at once, and nothing fails.
pub(crate) const WELL: Manner = Manner { pace: 1.0, trouble: 0.0 };

/// Does one thing for each of some pods.
pub(crate) async fn work(
    world: &World,
    history: &History,
    rng: &mut StdRng,
    tenant: &TenantName,
    manner: Manner,
) {
    let pods: Vec<Value> = history.all(tenant, &PODS).map(|(_, p)| p.clone()).collect();
    let nodes: Vec<String> = history.all(tenant, &NODES).map(|(name, _)| name.to_owned()).collect();
    for pod in &pods {
        if !rng.random_bool(manner.pace) {
            continue;
        }
        let at = world.at(tenant, &PODS).name(name(pod));
        // Whoever else changes the pod meanwhile is right.
        if is_deleting(pod) {
            let how = DeleteParams::uid(uid(pod)).grace_s(0);
            let _ = world.admin.remove(&at, &how).await;
            continue;
        }
        if pod["spec"]["nodeName"].is_null() {
            if let Some(node) = wanted_node(pod).or_else(|| nodes.choose(rng).cloned())
                && nodes.contains(&node)
            {
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name(pod), "uid": uid(pod)},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
                let _ = world.admin.create::<Value>(&at.subresource("binding"), &binding).await;
            }
            continue;
        }
        let ends_by_itself = pod["spec"]["restartPolicy"] != "Always";
        let status = match phase(pod) {
            "Pending" => Some(status("Running", !ends_by_itself || rng.random_bool(0.5), rng)),
            "Running" if ends_by_itself => {
                let fails = manner.trouble > 0.0 && rng.random_bool(0.3);
                Some(status(if fails { "Failed" } else { "Succeeded" }, false, rng))
            }
            "Running" if !is_ready(pod) => Some(status("Running", true, rng)),
            "Running" if rng.random_bool(manner.trouble) => Some(if rng.random_bool(0.3) {
                status("Failed", false, rng)
            } else {
                status("Running", false, rng)
            }),
            _ => None,
        };
        if let Some(mut status) = status {
            status["metadata"] = json!({"uid": uid(pod)});
            // The address stays.
            if !pod["status"]["podIP"].is_null() {
                status["status"]["podIP"] = pod["status"]["podIP"].clone();
                status["status"]["podIPs"] = pod["status"]["podIPs"].clone();
            }
            if is_over(pod) {
                continue;
            }
            let _ = world.admin.patch::<Value>(&at.subresource("status"), &Patch::Strategic(status)).await;
        }
    }
}

/// The node that a daemon's pod is for.
fn wanted_node(pod: &Value) -> Option<String> {
    let terms = pod.pointer(
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    )?;
    Some(terms.pointer("/0/matchFields/0/values/0")?.as_str()?.to_owned())
}

fn status(phase: &str, ready: bool, rng: &mut StdRng) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ip =
        format!("10.{}.{}.{}", rng.random_range(0..250), rng.random_range(0..250), rng.random_range(1..250));
    let ready = if ready { "True" } else { "False" };
    let condition =
        |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
    let state = match phase {
        "Running" => json!({"running": {"startedAt": now}}),
        "Succeeded" => {
            json!({"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now, "startedAt": now}})
        }
        _ => json!({"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": now, "startedAt": now}}),
    };
    json!({"status": {
        "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
        "conditions": [condition("Initialized", "True"), condition("Ready", ready), condition("ContainersReady", ready)],
        "containerStatuses": [{"name": "c", "image": "i", "imageID": "i", "ready": ready == "True", "restartCount": 0, "state": state}],
    }})
}
