//! A machine that runs short of memory, of disk and of process numbers: who takes too much has to go, is told why, and nobody else is harmed. Needs root,
//! busybox, loop devices and mkfs.ext4; says so without.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::{Value, json};
use skep_e2e::agent::disks_impossible;
use skep_e2e::cloud::{Cloud, Tenant, text, wait_for};

/// What has to stay available. The machine has 512 MiB of memory, 300 MiB of disk and 4,096 processes.
const THRESHOLDS: &str =
    "memory.available<200Mi,nodefs.available<120Mi,nodefs.inodesFree<1%,pid.available<90%";

/// Sleeps until it is told to begin, by a file.
fn pod(name: &str, harm: &str, volume: Value) -> Value {
    let script = format!("until [ -e /tmp/go ]; do sleep 0.2; done; {harm}; exec sleep 100000");
    let container = json!({"name": "c", "image": "busybox:test", "command": ["sh", "-c", script],
        "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [{"name": "v", "emptyDir": volume}]}})
}

fn is_pressed(tenant: &Tenant, condition: &str) -> bool {
    let path = format!("jsonpath={{.items[0].status.conditions[?(@.type==\"{condition}\")].status}}");
    tenant.run(&["get", "nodes", "-o", &path]) == "True"
}

#[test]
fn who_takes_too_much_has_to_go() {
    if let Some(why) = disks_impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    let output = Command::new(skep_e2e::skep())
        .args(["up", "--listen", &cloud.listen])
        .env("SKEP_DATA", cloud.data())
        .env("SKEP_REGISTRY_LISTEN", "127.0.0.1:0")
        .env("SKEP_MACHINE_DISKS", "own")
        .env("SKEP_EVICTION_HARD", THRESHOLDS)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output), cloud.log());
    cloud.load("busybox:test", "", None);
    let flavor = json!({"apiVersion": "compute.skep.io/v1", "kind": "Flavor", "metadata": {"name": "narrow"},
        "spec": {"resources": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "300Mi"}, "price": 1}});
    let path = cloud.directory.path().join("flavor.json");
    std::fs::write(&path, flavor.to_string()).unwrap();
    let mut operator = Command::new(skep_e2e::tool("kubectl"));
    operator.args(["apply", "--validate=false", "-f"]).arg(&path);
    let output = operator.env("KUBECONFIG", cloud.data().join("admin.kubeconfig")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let shop = cloud.administrator("shop");
    let pool = r#"{"spec":{"flavorNames":["narrow"],"maxMachines":1}}"#;
    shop.run(&["patch", "nodepool", "default", "--type=merge", "-p", pool]);
    let memory = json!({"medium": "Memory"});
    let processes = "i=0; while [ $i -lt 700 ]; do sleep 100000 & i=$((i+1)); done; wait";
    // All are there before the node is short of anything: then it takes no more.
    shop.apply(&pod("modest", "true", json!({})));
    shop.apply(&pod("forks", processes, json!({})));
    shop.apply(&pod("writes", "dd if=/dev/zero of=/v/f bs=1M count=200", json!({})));
    shop.apply(&pod("grows", "dd if=/dev/zero of=/v/f bs=1M count=320", memory));
    for name in ["modest", "forks", "writes", "grows"] {
        shop.phase(name, "Running");
    }
    let conditions = ["PIDPressure", "DiskPressure", "MemoryPressure"];
    assert!(!conditions.iter().any(|c| is_pressed(&shop, c)), "nobody has done any harm yet");
    for ((name, resource), condition) in
        [("forks", "pids"), ("writes", "ephemeral-storage"), ("grows", "memory")].into_iter().zip(conditions)
    {
        shop.run(&["exec", name, "--", "touch", "/tmp/go"]);
        shop.phase(name, "Failed");
        let said = shop.run(&["get", "pod", name, "-o", "jsonpath={.status.reason}: {.status.message}"]);
        let start = format!("Evicted: The node was low on resource: {resource}. Threshold quantity: ");
        assert!(said.starts_with(&start), "{name}: {said}");
        wait_for(&format!("the node to say {condition}"), || is_pressed(&shop, condition).then_some(()));
        let path = "jsonpath={.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";
        assert_eq!(shop.run(&["get", "pod", name, "-o", path]), "TerminationByKubelet");
    }
    let path = "jsonpath={.status.phase}{.status.containerStatuses[0].restartCount}";
    assert_eq!(shop.run(&["get", "pod", "modest", "-o", path]), "Running0");
    // What needs nothing of its own is not let in while memory is short.
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"}, "spec": {
        "containers": [{"name": "c", "image": "busybox:test", "command": ["sleep", "100000"]}]}}));
    let path = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
    wait_for("the late one to be told why it waits", || {
        shop.run(&["get", "pod", "late", "-o", path]).contains("taint").then_some(())
    });
}
