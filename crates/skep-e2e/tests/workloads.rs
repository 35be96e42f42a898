//! The workload controllers, driven by kubectl. The part of the nodes is played here: every pod is said to run, or to
//! end as its annotation `test/end` says.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{Client, ListParams, Patch, Resource};
use skep_e2e::{Kubectl, Server, eventually};

const PODS: Resource = Resource::new("", "v1", "pods");

/// Says of all pods of a tenant that they run, or have ended.
async fn play_nodes(client: Client, tenant: TenantName) {
    loop {
        let at = PODS.at(&tenant);
        if let Ok(pods) = client.list::<Value>(&at, &ListParams::default()).await {
            for pod in pods.items {
                if let Some(status) = next_status(&pod) {
                    let meta = &pod["metadata"];
                    let at = PODS
                        .at(&tenant)
                        .namespace(meta["namespace"].as_str().unwrap())
                        .name(meta["name"].as_str().unwrap())
                        .subresource("status");
                    // It may be gone by now.
                    drop(client.patch::<Value>(&at, &Patch::Merge(json!({ "status": status }))).await);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn next_status(pod: &Value) -> Option<Value> {
    if pod["status"]["phase"] != "Pending" {
        return None;
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let end = |phase: &str, code: i32| {
        let ended = json!({"exitCode": code, "startedAt": now, "finishedAt": now});
        let status = json!({"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": {"terminated": ended}});
        json!({"phase": phase, "containerStatuses": [status]})
    };
    Some(match pod["metadata"]["annotations"]["test/end"].as_str() {
        Some("well") => end("Succeeded", 0),
        Some("badly") => end("Failed", 3),
        _ => json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": now},
            {"type": "ContainersReady", "status": "True", "lastTransitionTime": now}]}),
    })
}

struct World {
    kubectl: Kubectl,
    server: Server,
}

impl World {
    fn new() -> World {
        let server = Server::control_plane();
        let kubectl = Kubectl::new(&server.tenant("shop"));
        let tenant = TenantName::new("shop").unwrap();
        tokio::spawn(play_nodes(server.admin(), tenant));
        World { kubectl, server }
    }

    fn get(&self, what: &str, path: &str) -> String {
        self.kubectl.run(&["get", what, "-o", &format!("jsonpath={path}")])
    }

    async fn until(&self, what: &str, path: &str, want: &str) {
        eventually(|| async {
            let got = self.get(what, path);
            if got == want { Ok(()) } else { Err(format!("{what} {path} is {got:?}, not {want:?}")) }
        })
        .await;
    }

    fn rolled_out(&self, what: &str) {
        self.kubectl.run(&["rollout", "status", what, "--timeout=60s"]);
    }

    fn quiet(&self) {
        let complaints = self.server.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

fn template(annotations: &Value) -> Value {
    json!({"metadata": {"labels": {"app": "web"}, "annotations": annotations},
        "spec": {"containers": [{"name": "c", "image": "example/web:1"}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn deployments_roll_undo_pause_and_scale() {
    let w = World::new();
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template(&json!({}))}});
    w.kubectl.pipe(&["apply"], &web.to_string());
    w.rolled_out("deploy/web");
    w.until("deploy/web", "{.status.availableReplicas}", "3").await;
    let revision = "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}";
    assert_eq!(w.get("deploy/web", revision), "1");

    w.kubectl.run(&["scale", "deploy/web", "--replicas=6"]);
    w.rolled_out("deploy/web");
    assert_eq!(w.get("pods", "{.items[*].metadata.name}").split(' ').count(), 6);

    w.kubectl.run(&["set", "image", "deploy/web", "c=example/web:2"]);
    w.rolled_out("deploy/web");
    assert_eq!(w.get("deploy/web", revision), "2");
    assert_eq!(w.kubectl.run(&["get", "rs", "-o", "name"]).lines().count(), 2);
    assert_eq!(w.get("pods", "{.items[0].spec.containers[0].image}"), "example/web:2");

    w.kubectl.run(&["rollout", "undo", "deploy/web"]);
    w.rolled_out("deploy/web");
    assert_eq!(w.get("deploy/web", revision), "3");
    assert_eq!(w.get("deploy/web", "{.spec.template.spec.containers[0].image}"), "example/web:1");
    assert_eq!(w.kubectl.run(&["get", "rs", "-o", "name"]).lines().count(), 2, "the old set is used again");
    let history = w.kubectl.run(&["rollout", "history", "deploy/web"]);
    assert!(history.contains('2') && history.contains('3'), "{history}");

    w.kubectl.run(&["rollout", "pause", "deploy/web"]);
    w.kubectl.run(&["set", "image", "deploy/web", "c=example/web:3"]);
    let reason = "{.status.conditions[?(@.type=='Progressing')].reason}";
    w.until("deploy/web", reason, "DeploymentPaused").await;
    assert_eq!(w.kubectl.run(&["get", "rs", "-o", "name"]).lines().count(), 2);
    w.kubectl.run(&["rollout", "resume", "deploy/web"]);
    w.rolled_out("deploy/web");
    assert_eq!(w.get("deploy/web", revision), "4");
    w.until("deploy/web", reason, "NewReplicaSetAvailable").await;

    // A pod that somebody deletes comes back; one that leaves the set is left alone, and replaced.
    let pod = w.get("pods", "{.items[0].metadata.name}");
    w.kubectl.run(&["delete", "pod", &pod]);
    w.until("deploy/web", "{.status.availableReplicas}", "6").await;
    let pod = w.get("pods", "{.items[0].metadata.name}");
    w.kubectl.run(&["label", "pod", &pod, "app=other", "--overwrite"]);
    w.until(&format!("pod/{pod}"), "{.metadata.ownerReferences[*].uid}", "").await;
    eventually(|| async {
        let names = w.kubectl.run(&["get", "pods", "-l", "app=web", "-o", "name"]);
        if names.lines().count() == 6 { Ok(()) } else { Err(names) }
    })
    .await;
    eventually(|| async {
        let events = w.kubectl.run(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        let told = ["ScalingReplicaSet", "SuccessfulCreate"].iter().all(|r| events.contains(r));
        if told { Ok(()) } else { Err(events) }
    })
    .await;

    w.kubectl.run(&["delete", "deploy/web"]);
    eventually(|| async {
        let left = w.kubectl.run(&["get", "rs,pods", "-l", "app=web", "-o", "name"]);
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    w.quiet();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn jobs_end_well_or_badly_and_cron_jobs_make_them() {
    let w = World::new();
    let job = |name: &str, end: &str, spec: Value| {
        let mut spec = spec;
        spec["template"] = json!({"metadata": {"annotations": {"test/end": end}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}});
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})
    };
    let good = job("good", "well", json!({"completions": 7, "parallelism": 3}));
    let indexed =
        job("indexed", "well", json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"}));
    let bad = job("bad", "badly", json!({"backoffLimit": 0}));
    for job in [&good, &indexed, &bad] {
        w.kubectl.pipe(&["create"], &job.to_string());
    }
    w.kubectl.run(&["wait", "--for=condition=complete", "job/good", "job/indexed", "--timeout=60s"]);
    w.kubectl.run(&["wait", "--for=condition=failed", "job/bad", "--timeout=60s"]);
    assert_eq!(w.get("job/good", "{.status.succeeded}/{.status.uncountedTerminatedPods}"), "7/{}");
    assert_eq!(w.get("job/indexed", "{.status.completedIndexes}"), "0-3");
    let reason = "{.status.conditions[?(@.type=='Failed')].reason}";
    assert_eq!(w.get("job/bad", reason), "BackoffLimitExceeded");
    w.until("pods", "{.items[*].metadata.finalizers[*]}", "").await;

    let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
        "spec": {"schedule": "@every 1s", "jobTemplate": {"spec": good["spec"].clone()}}});
    cron["spec"]["jobTemplate"]["spec"]["completions"] = json!(1);
    w.kubectl.pipe(&["create"], &cron.to_string());
    eventually(|| async {
        let jobs = w.kubectl.run(&["get", "jobs", "-o", "name"]);
        if jobs.contains("job.batch/tick-") { Ok(()) } else { Err(jobs) }
    })
    .await;
    eventually(|| async {
        let last = w.get("cronjob/tick", "{.status.lastSuccessfulTime}");
        if last.is_empty() { Err("no job of it has ended".to_owned()) } else { Ok(()) }
    })
    .await;
    w.quiet();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn stateful_sets_keep_names_and_claims() {
    let w = World::new();
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "web"}}, "template": template(&json!({})),
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
    w.kubectl.pipe(&["apply"], &set.to_string());
    w.rolled_out("sts/db");
    assert_eq!(w.get("pods", "{.items[*].metadata.name}"), "db-0 db-1 db-2");
    assert_eq!(w.get("pvc", "{.items[*].metadata.name}"), "data-db-0 data-db-1 data-db-2");
    let uid = w.get("pod/db-1", "{.metadata.uid}");
    w.kubectl.run(&["set", "image", "sts/db", "c=example/web:2"]);
    w.rolled_out("sts/db");
    assert_eq!(w.get("pods", "{.items[*].spec.containers[0].image}"), ["example/web:2"; 3].join(" "));
    assert_ne!(w.get("pod/db-1", "{.metadata.uid}"), uid);
    w.kubectl.run(&["rollout", "undo", "sts/db"]);
    w.rolled_out("sts/db");
    assert_eq!(w.get("pod/db-0", "{.spec.containers[0].image}"), "example/web:1");
    w.kubectl.run(&["scale", "sts/db", "--replicas=1"]);
    w.until("pods", "{.items[*].metadata.name}", "db-0").await;
    assert_eq!(w.get("pvc", "{.items[*].metadata.name}"), "data-db-0 data-db-1 data-db-2");
    w.quiet();
}
