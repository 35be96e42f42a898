//! Simulated hosts: they register, and show every machine that is placed on them as running, with its node.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use rustc_hash::FxHashSet;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use skep_api::compute::{HOST_FINALIZER, Host, Machine, MachinePhase};
use skep_client::{Client, Error, Informer, Object, ObjectKey, Patch, Resource, Selection, Tenants};
use tokio::sync::mpsc;

use crate::fleet::Fleet;
use crate::node::{self, NodeSpec, host_address};
use crate::work::Handle;
use crate::{HostOptions, IN_FLIGHT, SIMULATED_LABEL};

/// How often a host speaks, as real ones do.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// After a request that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Labels of a machine's node, as its agent sets them.
const MACHINE_LABEL: &str = "compute.skep.io/machine";
const POOL_LABEL: &str = "compute.skep.io/node-pool";
const FLAVOR_LABEL: &str = "node.kubernetes.io/instance-type";
/// Most pods on a node, as agents have it.
const PODS: &str = "110";

/// Registers the hosts, and says now and then that they live. For ever.
pub(crate) async fn speak(client: &Client, options: &HostOptions) {
    let hosts = Resource::of::<Host>().at(Tenants::Own);
    loop {
        let say = |index: usize| {
            let hosts = hosts.clone();
            async move {
                let name = options.name(index);
                let at = hosts.clone().name(&name).subresource("status");
                let status = Patch::Merge(json!({"status": host_status(options, index)}));
                let result = match client.patch::<IgnoredAny>(&at, &status).await {
                    Err(e) if e.is_not_found() => {
                        let host = json!({"apiVersion": "compute.skep.io/v1", "kind": "Host",
                            "metadata": {"name": name, "labels": {SIMULATED_LABEL: "true"}}});
                        match client.create::<IgnoredAny>(&hosts, &host).await {
                            Ok(_) => client.patch::<IgnoredAny>(&at, &status).await,
                            Err(error) => Err(error),
                        }
                    }
                    other => other,
                };
                if let Err(error) = result {
                    tracing::warn!(host = name, %error, "a simulated host could not say that it lives");
                }
            }
        };
        futures::stream::iter((0..options.hosts).map(say))
            .buffer_unordered(IN_FLIGHT)
            .collect::<Vec<()>>()
            .await;
        tokio::time::sleep(HEARTBEAT).await;
    }
}

fn host_status(options: &HostOptions, index: usize) -> Value {
    let amounts: Map<String, Value> =
        options.allocatable.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "capacity": amounts, "allocatable": amounts, "isolations": ["process"],
        "addresses": [{"type": "InternalIP", "address": host_address(index)}, {"type": "Hostname", "address": options.name(index)}],
        "hostInfo": {"architecture": "amd64", "operatingSystem": "linux", "kernelVersion": "simulated",
            "skepVersion": env!("CARGO_PKG_VERSION"), "bootID": options.name(index)},
        "heartbeatTime": now,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Simulated", "message": "the host is simulated",
            "lastTransitionTime": now}],
    })
}

/// What is to be done about a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Show it, and its node, as running.
    Boot,
    /// It is deleted: let it go.
    Release,
}

/// What comes next.
fn next(machine: &Machine, played: bool) -> Option<Act> {
    if machine.metadata.deletion_timestamp.is_some() {
        let held = machine.metadata.finalizers.iter().flatten().any(|f| f == HOST_FINALIZER);
        return held.then_some(Act::Release);
    }
    (!played || machine.phase() != MachinePhase::Running).then_some(Act::Boot)
}

type Busy<'a> = Pin<Box<dyn Future<Output = (ObjectKey, Result<(), Error>)> + Send + 'a>>;

/// Plays the machines for ever.
pub(crate) async fn run(client: &Client, options: &HostOptions, fleet: &Fleet, pods: &Handle) {
    let own = options.clone();
    let machines =
        Informer::<Machine>::builder(client, Selection::all(Resource::of::<Machine>(), Tenants::All))
            .keep(move |m| m.spec.host_name.as_deref().is_some_and(|h| own.is_own(h)))
            .build();
    let (sender, mut changed) = mpsc::unbounded_channel::<ObjectKey>();
    machines.on_event(move |event| {
        // Nobody receives only when the loop is gone, and then nothing matters.
        let _ = sender.send(event.object().key.clone());
    });
    let informing = machines.run();
    tokio::pin!(informing);
    let mut busy: FuturesUnordered<Busy<'_>> = FuturesUnordered::new();
    // What is being done something about: it is looked at again after that.
    let mut pending: FxHashSet<ObjectKey> = FxHashSet::default();
    loop {
        let key = tokio::select! {
            _ = &mut informing => return,
            Some((key, result)) = busy.next() => {
                if let Err(error) = result {
                    tracing::warn!(machine = %key, %error, "the machine was not written, it will be tried again");
                    busy.push(Box::pin(async move {
                        tokio::time::sleep(RETRY).await;
                        (key, Ok(()))
                    }));
                    continue;
                }
                pending.remove(&key);
                key
            }
            Some(key) = changed.recv(), if busy.len() < IN_FLIGHT => key,
        };
        if pending.contains(&key) {
            continue;
        }
        let Some(machine) = machines.get(&key) else { continue };
        let played = fleet.number(&key.tenant, machine.node_name()).is_some();
        let Some(act) = next(&machine, played) else { continue };
        pending.insert(key.clone());
        let machines = machines.clone();
        busy.push(Box::pin(async move {
            let result = match act {
                Act::Boot => boot(client, options, fleet, &machines, &machine, played).await,
                Act::Release => release(client, fleet, &machines, &machine).await,
            };
            if act == Act::Boot && result.is_ok() {
                pods.look_at(&key.tenant, machine.node_name());
            }
            (key, result)
        }));
    }
}

async fn boot(
    client: &Client,
    options: &HostOptions,
    fleet: &Fleet,
    machines: &Informer<Machine>,
    machine: &Arc<Object<Machine>>,
    played: bool,
) -> Result<(), Error> {
    let tenant = &machine.key.tenant;
    // One that ran before this process is found again at once.
    if machine.phase() != MachinePhase::Running {
        tokio::time::sleep(options.boot_after).await;
    }
    let number = fleet.add(tenant, machine.node_name());
    if !played
        && let Err(error) = node::put(client, &Tenants::One(tenant.clone()), &node_of(machine, number)).await
    {
        fleet.remove(tenant, machine.node_name());
        return Err(error);
    }
    let status = json!({
        "phase": "Running", "observedGeneration": machine.metadata.generation, "restarts": 0,
        "addresses": [{"type": "InternalIP", "address": host_address(number)}],
        "conditions": conditions(machine, Timestamp::now()),
    });
    let key = &machine.key;
    let at = Resource::of::<Machine>().at(tenant).name(&key.name).subresource("status");
    let patch = Patch::Merge(json!({"metadata": {"uid": &*machine.uid}, "status": status}));
    match client.patch_bytes(&at, &patch).await {
        Ok(answer) => machines.record(tenant, &answer),
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
    }
}

async fn release(
    client: &Client,
    fleet: &Fleet,
    machines: &Informer<Machine>,
    machine: &Arc<Object<Machine>>,
) -> Result<(), Error> {
    let key = &machine.key;
    fleet.remove(&key.tenant, machine.node_name());
    let finalizers = machine.metadata.finalizers.iter().flatten();
    let others: Vec<&String> = finalizers.filter(|f| *f != HOST_FINALIZER).collect();
    let at = Resource::of::<Machine>().at(&key.tenant).name(&key.name);
    let patch = Patch::Merge(json!({"metadata": {
        "uid": &*machine.uid, "resourceVersion": machine.revision.to_string(), "finalizers": others,
    }}));
    match client.patch_bytes(&at, &patch).await {
        Ok(answer) if !others.is_empty() => machines.record(&key.tenant, &answer),
        // With the last finalizer it is gone.
        Ok(_) => {
            machines.forget(key, &machine.uid);
            Ok(())
        }
        Err(e) if e.is_not_found() => {
            machines.forget(key, &machine.uid);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// A running machine's, times kept where nothing changed.
fn conditions(machine: &Machine, now: Timestamp) -> Vec<Condition> {
    let before = machine.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let all = [("Scheduled", "Placed"), ("Created", "Created"), ("Running", "Simulated")];
    let one = |(type_, reason): (&str, &str)| {
        let old = before.iter().find(|c| c.type_ == type_ && c.status == "True");
        Condition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
            last_transition_time: old.map_or(Time(now), |c| c.last_transition_time.clone()),
            observed_generation: None,
        }
    };
    all.map(one).into()
}

fn node_of(machine: &Machine, number: usize) -> NodeSpec {
    let mut labels: Map<String, Value> =
        machine.spec.node_labels.iter().flatten().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    labels.insert(MACHINE_LABEL.to_owned(), machine.metadata.name.clone().into());
    labels.insert(FLAVOR_LABEL.to_owned(), machine.spec.flavor_name.as_str().into());
    if let Some(pool) = machine.spec.node_pool_name.as_deref().filter(|p| !p.is_empty()) {
        labels.insert(POOL_LABEL.to_owned(), pool.into());
    }
    let mut amounts: Map<String, Value> =
        machine.spec.resources.iter().map(|(k, v)| (k.clone(), v.0.as_str().into())).collect();
    amounts.entry("pods").or_insert_with(|| PODS.into());
    NodeSpec {
        name: machine.node_name().to_owned(),
        labels,
        taints: machine.spec.taints.clone().unwrap_or_default(),
        amounts,
        address: host_address(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(value: Value) -> Machine {
        let mut whole = json!({"metadata": {"name": "m1"}, "spec": {"flavorName": "tiny", "hostName": "h",
            "resources": {"cpu": "500m", "memory": "512Mi"}}});
        for (key, part) in value.as_object().unwrap() {
            for (name, field) in part.as_object().unwrap() {
                whole[key][name] = field.clone();
            }
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn machines_are_booted_once_and_let_go() {
        let new = machine(json!({}));
        assert_eq!(next(&new, false), Some(Act::Boot));
        let runs = machine(json!({"status": {"phase": "Running"}}));
        assert_eq!(next(&runs, true), None);
        assert_eq!(next(&runs, false), Some(Act::Boot), "after a restart of the simulation");
        let deleted =
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [HOST_FINALIZER, "x"]});
        assert_eq!(next(&machine(json!({"metadata": deleted})), true), Some(Act::Release));
        let released = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]});
        assert_eq!(next(&machine(json!({"metadata": released})), false), None);
    }

    #[test]
    fn a_node_is_its_machine() {
        let node = node_of(
            &machine(json!({"spec": {"nodeName": "n1", "nodePoolName": "default", "nodeLabels": {"a": "b"},
                "taints": [{"key": "k", "effect": "NoSchedule"}]}})),
            7,
        );
        assert_eq!((node.name.as_str(), node.taints.len()), ("n1", 1));
        assert_eq!(node.labels["a"], "b");
        assert_eq!(node.labels[MACHINE_LABEL], "m1");
        assert_eq!(node.labels[POOL_LABEL], "default");
        assert_eq!(node.labels[FLAVOR_LABEL], "tiny");
        assert_eq!((&node.amounts["cpu"], &node.amounts["pods"]), (&json!("500m"), &json!("110")));
    }
}
