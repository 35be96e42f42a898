//! Every kind of workload, of two tenants side by side, with real containers in their machines: by kubectl. Each tenant's are named alike and are its
//! own: its image, its machine, its word. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, Tenant, wait_for};

const TENANTS: [&str; 2] = ["shop", "bank"];

/// What a pod of a workload is made from.
fn template(app: &str, policy: &str, script: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {
        "restartPolicy": policy, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:test", "command": ["sh", "-c", script],
            "env": [{"name": "VERSION", "value": "1"}],
            "resources": {"requests": {"cpu": "5m", "memory": "2Mi"}}}]}})
}

/// One that stays, is ready when it says so, and ends when it is told.
fn stays(app: &str) -> Value {
    let script = "trap 'exit 0' TERM; echo $VERSION > /tmp/version; while :; do sleep 0.2; done";
    let mut template = template(app, "Always", script);
    template["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-s", "/tmp/version"]}, "periodSeconds": 1, "timeoutSeconds": 30});
    template
}

fn workload(api: &str, kind: &str, name: &str, more: Value) -> Value {
    let mut spec = more;
    spec["selector"] = json!({"matchLabels": {"app": name}});
    spec["template"] = stays(name);
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn job(name: &str, more: Value, script: &str) -> Value {
    let mut spec = more;
    spec["template"] = template(name, "Never", script);
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})
}

fn everything() -> Vec<Value> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80}]}});
    let indexed = json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed"});
    let mut tick = job("tick", json!({}), "echo tick of $(cat /word)");
    let spec = tick["spec"].take();
    tick["kind"] = "CronJob".into();
    tick["spec"] = json!({"schedule": "@every 2s", "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 1,
        "jobTemplate": {"spec": spec}});
    vec![
        workload("apps/v1", "Deployment", "web", json!({"replicas": 2})),
        service,
        workload("apps/v1", "StatefulSet", "db", json!({"replicas": 2, "serviceName": "db"})),
        workload("apps/v1", "DaemonSet", "every", json!({})),
        job("parts", indexed, "echo part $JOB_COMPLETION_INDEX of $(cat /word)"),
        job("fails", json!({"backoffLimit": 1}), "exit 3"),
        tick,
    ]
}

fn get(tenant: &Tenant, what: &str, path: &str) -> String {
    tenant.run(&["get", what, "-o", &format!("jsonpath={path}")])
}

fn rolled_out(tenant: &Tenant, what: &str) {
    tenant.run(&["rollout", "status", what, "--timeout=90s"]);
}

/// Names and uids of an app's pods that are not on their way out.
fn pods(tenant: &Tenant, app: &str) -> Vec<(String, String)> {
    let list: Value =
        serde_json::from_str(&tenant.run(&["get", "pods", "-l", &format!("app={app}"), "-o", "json"]))
            .unwrap();
    let text = |p: &Value, key: &str| p["metadata"][key].as_str().unwrap().to_owned();
    let items = list["items"].as_array().unwrap().iter();
    items
        .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
        .map(|p| (text(p, "name"), text(p, "uid")))
        .collect()
}

fn inside(tenant: &Tenant, pod: &str, words: &[&str]) -> String {
    let mut all = vec!["exec", pod, "--"];
    all.extend(words);
    tenant.run(&all).trim().to_owned()
}

#[test]
fn every_kind_of_workload_runs_for_two_tenants() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    let tenants = TENANTS.map(|name| {
        let tenant = cloud.administrator(name);
        cloud.load("busybox:test", name, Some(name));
        let pool = r#"{"spec":{"maxMachines":1,"flavorNames":["small"]}}"#;
        tenant.run(&["patch", "nodepool", "default", "--type=merge", "-p", pool]);
        tenant
    });
    for tenant in &tenants {
        everything().iter().for_each(|object| tenant.apply(object));
    }
    for tenant in &tenants {
        for what in ["deploy/web", "sts/db", "ds/every"] {
            rolled_out(tenant, what);
        }
        deployment(tenant);
        stateful_set(tenant);
        daemon_set(tenant);
        jobs(tenant);
    }
    for tenant in &tenants {
        tenant.run(&["delete", "deploy,sts,ds,job,cronjob", "--all", "--wait=false"]);
    }
    for tenant in &tenants {
        wait_for("all pods to go", || {
            tenant.run(&["get", "pods", "-o", "name"]).trim().is_empty().then_some(())
        });
    }
    // Nobody is left but each machine's first process and its agent.
    wait_for("all containers to go", || (cloud.processes().len() <= 2 * TENANTS.len()).then_some(()));
}

fn deployment(tenant: &Tenant) {
    let old = pods(tenant, "web");
    assert_eq!(old.len(), 2);
    for (pod, _) in &old {
        assert_eq!(inside(tenant, pod, &["cat", "/word"]), tenant.name, "each has its tenant's image");
    }
    // Another version takes the place of the first, pod by pod, and goes again.
    tenant.run(&["set", "env", "deploy/web", "VERSION=2"]);
    rolled_out(tenant, "deploy/web");
    let new = pods(tenant, "web");
    assert!(new.len() == 2 && new.iter().all(|p| !old.contains(p)), "{old:?} {new:?}");
    assert_eq!(inside(tenant, &new[0].0, &["cat", "/tmp/version"]), "2");
    tenant.run(&["rollout", "undo", "deploy/web"]);
    rolled_out(tenant, "deploy/web");
    assert_eq!(inside(tenant, "deploy/web", &["cat", "/tmp/version"]), "1");
    tenant.run(&["scale", "deploy/web", "--replicas=3"]);
    rolled_out(tenant, "deploy/web");
    assert_eq!(get(tenant, "deploy/web", "{.status.readyReplicas}"), "3");
}

fn stateful_set(tenant: &Tenant) {
    let before = pods(tenant, "db");
    let names: Vec<&str> = before.iter().map(|p| p.0.as_str()).collect();
    assert_eq!(names, ["db-0", "db-1"]);
    assert_eq!(inside(tenant, "db-1", &["hostname", "-f"]), "db-1.db.default.svc.cluster.local");
    // Who is lost comes back under its name.
    tenant.run(&["delete", "pod", "db-0"]);
    rolled_out(tenant, "sts/db");
    wait_for("db-0 to be back", || {
        let now = pods(tenant, "db");
        (now.len() == 2 && now[0].0 == "db-0" && now[0].1 != before[0].1 && now[1] == before[1]).then_some(())
    });
    tenant.run(&["set", "env", "sts/db", "VERSION=2"]);
    rolled_out(tenant, "sts/db");
    for name in ["db-0", "db-1"] {
        assert_eq!(inside(tenant, name, &["cat", "/tmp/version"]), "2");
    }
    tenant.run(&["scale", "sts/db", "--replicas=1"]);
    wait_for("the last one to go first", || {
        (pods(tenant, "db").iter().map(|p| p.0.as_str()).eq(["db-0"])).then_some(())
    });
}

fn daemon_set(tenant: &Tenant) {
    let nodes = tenant.run(&["get", "nodes", "-o", "name"]).lines().count();
    let old = pods(tenant, "every");
    assert_eq!((nodes, old.len()), (1, 1), "one on every node");
    tenant.run(&["set", "env", "ds/every", "VERSION=2"]);
    rolled_out(tenant, "ds/every");
    assert_eq!(inside(tenant, "ds/every", &["cat", "/tmp/version"]), "2");
    assert_ne!(pods(tenant, "every"), old);
}

fn jobs(tenant: &Tenant) {
    tenant.run(&["wait", "--for=condition=complete", "job/parts", "--timeout=90s"]);
    assert_eq!(get(tenant, "job/parts", "{.status.succeeded} {.status.completedIndexes}"), "3 0-2");
    let said = tenant.run(&["logs", "-l", "app=parts", "--tail=-1"]);
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, [0, 1, 2].map(|n| format!("part {n} of {}", tenant.name)));
    tenant.run(&["wait", "--for=condition=failed", "job/fails", "--timeout=90s"]);
    assert_eq!(
        get(tenant, "job/fails", "{.status.conditions[?(@.type=='Failed')].reason}"),
        "BackoffLimitExceeded"
    );
    let codes =
        "{.items[?(@.metadata.labels.app==\"fails\")].status.containerStatuses[*].state.terminated.exitCode}";
    assert_eq!(get(tenant, "pods", codes), "3 3", "it was tried once more");
    wait_for("the clock to have made a job that ended", || {
        (!get(tenant, "cronjob/tick", "{.status.lastSuccessfulTime}").is_empty()).then_some(())
    });
    tenant.run(&["patch", "cronjob", "tick", "-p", r#"{"spec":{"suspend":true}}"#]);
    wait_for("a pod of the clock's to have spoken", || {
        let said = tenant.try_run(&["logs", "-l", "app=tick", "--tail=1"]).1;
        said.contains(&format!("tick of {}", tenant.name)).then_some(())
    });
}
