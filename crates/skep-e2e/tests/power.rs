//! Everything that `skep up` started is killed at the same moment, as by a power cut: server, registry, host daemon, machines, agents, shims,
//! containers. The next `skep up` brings the same tenants and the same pods. So does one after `skep down`. Needs root; says so without.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use skep_e2e::cloud::{Cloud, PATIENCE, Tenant, is_root, text, wait_for};

const REPLICAS: u64 = 2;

fn pods(tenant: &Tenant) -> Vec<Value> {
    let list: Value = serde_json::from_str(&tenant.run(&["get", "pods", "-o", "json"])).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// Names and uids, and on which node.
fn identities(tenant: &Tenant) -> BTreeMap<String, (String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    pods(tenant)
        .iter()
        .map(|p| (word(&p["metadata"]["name"]), (word(&p["metadata"]["uid"]), word(&p["spec"]["nodeName"]))))
        .collect()
}

/// Waits until all containers run, in at least their so-manieth run.
fn running(tenant: &Tenant, restarts: u64) {
    let begun = Instant::now();
    let all = wait_for(&format!("{}'s pods in run {restarts}", tenant.name), || {
        let pods = pods(tenant);
        let good = |p: &&Value| {
            let status = &p["status"]["containerStatuses"][0];
            status["ready"] == true && status["restartCount"].as_u64() >= Some(restarts)
        };
        let done = pods.iter().filter(good).count() as u64 == REPLICAS;
        if !done && begun.elapsed() > PATIENCE / 2 {
            // Told before it is given up.
            eprintln!("{:#}", pods.iter().map(|p| p["status"].clone()).collect::<Value>());
            std::thread::sleep(PATIENCE / 8);
        }
        done.then_some(pods)
    });
    for pod in all {
        let name = pod["metadata"]["name"].as_str().unwrap();
        // It is said to run, and it does.
        let said = wait_for(&format!("{name} answers"), || {
            let (good, said) = tenant.try_run(&["exec", name, "--", "cat", "/word"]);
            good.then_some(said)
        });
        assert_eq!(said, "kept");
    }
}

fn kill_everything(cloud: &Cloud) {
    let record: Value = serde_json::from_slice(&fs::read(cloud.data().join("up.json")).unwrap()).unwrap();
    let server = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
    let mut all = vec![server, cloud.daemon()];
    all.extend(cloud.processes());
    assert!(all.len() > 6, "{all:?}");
    // Some may end because others do.
    let _ = Command::new("kill").arg("-9").args(all.iter().map(i32::to_string)).status();
    wait_for("the end of everything", || cloud.processes().is_empty().then_some(()));
    wait_for("the end of the server", || (!cloud.skep(&["status"]).status.success()).then_some(()));
}

#[test]
fn after_a_power_cut_everything_is_as_it_was() {
    if !is_root() {
        eprintln!("SKIPPED: machines need root");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("word:1", "kept", None);
    let tenants = ["shop", "bank"].map(|name| cloud.administrator(name));
    for tenant in &tenants {
        tenant.apply(
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "word:1",
                    "imagePullPolicy": "Never", "command": ["sleep", "100000"],
                    "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}]}}}}),
        );
        running(tenant, 0);
    }
    let before = tenants.each_ref().map(identities);
    kill_everything(&cloud);
    cloud.up();
    for (tenant, before) in tenants.iter().zip(&before) {
        running(tenant, 1);
        assert_eq!(&identities(tenant), before, "{}: the same pods on the same nodes", tenant.name);
    }
    let listed = text(&cloud.skep(&["tenant", "list", "-o", "name"]));
    assert_eq!(listed, "bank\nshop\n");
    // And when it is told to.
    cloud.down(&[]);
    cloud.up();
    for (tenant, before) in tenants.iter().zip(&before) {
        running(tenant, 2);
        assert_eq!(&identities(tenant), before, "{}: the same pods on the same nodes", tenant.name);
    }
    // The credentials from before are still good, and a new pod runs.
    tenants[0].run(&[
        "run",
        "new",
        "--image",
        "word:1",
        "--image-pull-policy",
        "Never",
        "--",
        "sleep",
        "1000",
    ]);
    tenants[0].phase("new", "Running");
    cloud.down(&[]);
}
