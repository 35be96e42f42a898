//! What users do.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{DeleteParams, Error, ErrorKind, Propagation, Resource};

use crate::world::{
    BUDGETS, CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, History, JOBS, NODES, PODS, REPLICA_SETS, SERVICES,
    STATEFUL_SETS, TENANTS, World, is_deleting, name, tenant, uid,
};

#[derive(Default)]
pub(crate) struct Users {
    version: u64,
}

const OWNERS: [Resource; 6] = [DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS, DAEMON_SETS, JOBS, CRON_JOBS];

/// Fails for what no user should meet: the object of a users' request may be gone, there already, or newer.
fn allow(result: Result<Value, Error>) {
    if let Err(error) = result {
        let fine = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::Forbidden
        );
        assert!(fine, "a user's request failed: {error}");
    }
}

fn one_of(rng: &mut StdRng, from: &[&'static str]) -> &'static str {
    from[rng.random_range(0..from.len())]
}

/// Nodes of each tenant: `n0` and so on.
pub(crate) const NODE_COUNT: usize = 4;

pub(crate) fn new_node(name: &str, index: usize) -> Value {
    let disk = if index.is_multiple_of(2) { "ssd" } else { "hdd" };
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "disk": disk}},
        "status": {"conditions": [ready(true)],
            "allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}}})
}

fn ready(ready: bool) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (status, reason) = if ready { ("True", "KubeletReady") } else { ("False", "KubeletNotReady") };
    json!({"type": "Ready", "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now,
        "lastTransitionTime": now})
}

/// A node says whether it is ready.
async fn say_ready(world: &World, tenant: &TenantName, node: &str, is_ready: bool) {
    let at = world.at(tenant, &NODES).name(node).subresource("status");
    let patch = skep_client::Patch::Strategic(json!({"status": {"conditions": [ready(is_ready)]}}));
    allow(world.admin.patch(&at, &patch).await);
}

pub(crate) fn template(app: &str, version: u64, restart: &str) -> Value {
    // Every other version leaves nodes that are not well at once, the others in five minutes, which no world lasts.
    let tolerations = if version.is_multiple_of(2) {
        json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}])
    } else {
        json!([])
    };
    json!({"metadata": {"labels": {"app": app}, "annotations": {"v": version.to_string()}},
        "spec": {"restartPolicy": restart, "terminationGracePeriodSeconds": 1, "tolerations": tolerations,
            "containers": [{"name": "c", "image": "i"}]}})
}

impl Users {
    pub(crate) async fn act(
        &mut self,
        world: &World,
        history: &History,
        rng: &mut StdRng,
        tenant: &TenantName,
    ) {
        self.version += 1;
        let kind = OWNERS[rng.random_range(0..OWNERS.len())].clone();
        let there: Vec<&Value> = history.all(tenant, &kind).map(|(_, o)| o).collect();
        let some = there.choose(rng).copied();
        match (rng.random_range(0..20), some) {
            (0..=5, _) => {
                let object = self.new_owner(rng, &kind);
                allow(world.create(tenant, &kind, &object).await);
            }
            (6..=8, Some(object)) => self.scale(world, rng, tenant, &kind, object).await,
            (9..=11, Some(object)) if kind != JOBS && kind != CRON_JOBS && kind != REPLICA_SETS => {
                let v = self.version.to_string();
                let patch = json!({"spec": {"template": {"metadata": {"annotations": {"v": v}}}}});
                allow(world.patch(tenant, &kind, name(object), patch).await);
            }
            (12, Some(object)) if kind == DEPLOYMENTS => {
                let paused = json!({"spec": {"paused": rng.random_bool(0.5)}});
                allow(world.patch(tenant, &kind, name(object), paused).await);
            }
            (12 | 13, Some(object)) if !is_deleting(object) => {
                let how = *[Propagation::Background, Propagation::Foreground, Propagation::Orphan]
                    .choose(rng)
                    .unwrap();
                if how == Propagation::Foreground {
                    let mark = json!({"metadata": {"annotations": {"sim/deleted": "Foreground"}}});
                    allow(world.patch(tenant, &kind, name(object), mark).await);
                }
                world
                    .remove(tenant, &kind, name(object), &DeleteParams::uid(uid(object)).propagation(how))
                    .await;
            }
            (14, _) => self.pod(world, history, rng, tenant).await,
            (15, _) => self.service(world, rng, tenant).await,
            (16, _) => self.budget(world, rng, tenant).await,
            (17, _) => self.node(world, history, rng, tenant).await,
            _ => {}
        }
    }

    fn new_owner(&mut self, rng: &mut StdRng, kind: &Resource) -> Value {
        let n = rng.random_range(0..3);
        let v = self.version;
        let replicas = rng.random_range(0..5);
        let object = |kind: &str, api: &str, name: &str, spec: Value| {
            json!({"apiVersion": api, "kind": kind,
            "metadata": {"name": name}, "spec": spec})
        };
        match &*kind.plural {
            "deployments" => {
                let app = format!("d{n}");
                let strategy = match rng.random_range(0..4) {
                    0 => json!({"type": "Recreate"}),
                    1 => {
                        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
                    }
                    2 => {
                        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}})
                    }
                    _ => {
                        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "40%"}})
                    }
                };
                object(
                    "Deployment",
                    "apps/v1",
                    &app,
                    json!({"replicas": replicas, "strategy": strategy,
                    "revisionHistoryLimit": rng.random_range(0..3), "selector": {"matchLabels": {"app": app}},
                    "template": template(&app, v, "Always")}),
                )
            }
            "replicasets" => {
                let app = format!("r{n}");
                object(
                    "ReplicaSet",
                    "apps/v1",
                    &app,
                    json!({"replicas": replicas,
                    "selector": {"matchLabels": {"app": app}}, "template": template(&app, v, "Always")}),
                )
            }
            "statefulsets" => {
                let app = format!("s{n}");
                let mut spec = json!({"replicas": replicas, "serviceName": app,
                    "podManagementPolicy": one_of(rng, &["OrderedReady", "Parallel"]),
                    "selector": {"matchLabels": {"app": app}}, "template": template(&app, v, "Always"),
                    "revisionHistoryLimit": 1,
                    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": rng.random_range(0..3) / 2}}});
                if rng.random_bool(0.5) {
                    spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec":
                        {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
                    let policy = |rng: &mut StdRng| one_of(rng, &["Retain", "Delete"]);
                    spec["persistentVolumeClaimRetentionPolicy"] =
                        json!({"whenDeleted": policy(rng), "whenScaled": policy(rng)});
                }
                object("StatefulSet", "apps/v1", &app, spec)
            }
            "daemonsets" => {
                let app = format!("e{n}");
                let mut template = template(&app, v, "Always");
                if rng.random_bool(0.4) {
                    template["spec"]["nodeSelector"] = json!({"disk": "ssd"});
                }
                let strategy = match rng.random_range(0..2) {
                    0 => {
                        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
                    }
                    _ => {
                        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 2}})
                    }
                };
                object(
                    "DaemonSet",
                    "apps/v1",
                    &app,
                    json!({"selector": {"matchLabels": {"app": app}},
                    "updateStrategy": strategy, "revisionHistoryLimit": 1, "template": template}),
                )
            }
            "cronjobs" => {
                let app = format!("c{n}");
                let policy = one_of(rng, &["Never", "OnFailure"]);
                let job = json!({"completions": 1, "backoffLimit": 0, "template": template(&app, v, policy)});
                object(
                    "CronJob",
                    "batch/v1",
                    &app,
                    json!({"schedule": "* * * * *", "jobTemplate": {"spec": job},
                    "concurrencyPolicy": one_of(rng, &["Allow", "Forbid", "Replace"]),
                    "successfulJobsHistoryLimit": rng.random_range(0..3), "failedJobsHistoryLimit": rng.random_range(0..2)}),
                )
            }
            _ => {
                let app = format!("j{v}");
                let policy = one_of(rng, &["Never", "OnFailure"]);
                let mut spec = json!({"completions": rng.random_range(1..4), "parallelism": rng.random_range(1..4),
                    "backoffLimit": rng.random_range(0..3), "template": template(&app, v, policy)});
                if rng.random_bool(0.4) {
                    spec["completionMode"] = "Indexed".into();
                }
                if rng.random_bool(0.2) {
                    spec["ttlSecondsAfterFinished"] = 1.into();
                }
                object("Job", "batch/v1", &app, spec)
            }
        }
    }

    async fn scale(
        &self,
        world: &World,
        rng: &mut StdRng,
        tenant: &TenantName,
        kind: &Resource,
        object: &Value,
    ) {
        let patch = match &*kind.plural {
            "daemonsets" => return,
            "cronjobs" if rng.random_bool(0.3) => json!({"spec": {"suspend": rng.random_bool(0.5)}}),
            "cronjobs" => {
                // Minutes are long: the last time was a while ago, and something has been missed since.
                let ago = jiff::SignedDuration::from_secs(rng.random_range(61..600));
                let last = (jiff::Timestamp::now() - ago).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let at = world.at(tenant, kind).name(name(object)).subresource("status");
                let patch = skep_client::Patch::Merge(json!({"status": {"lastScheduleTime": last}}));
                return allow(world.admin.patch(&at, &patch).await);
            }
            "jobs" if rng.random_bool(0.3) => json!({"spec": {"suspend": rng.random_bool(0.5)}}),
            "jobs" => json!({"spec": {"parallelism": rng.random_range(0..4)}}),
            _ => json!({"spec": {"replicas": rng.random_range(0..6)}}),
        };
        allow(world.patch(tenant, kind, name(object), patch).await);
    }

    async fn pod(&self, world: &World, history: &History, rng: &mut StdRng, tenant: &TenantName) {
        let pods: Vec<&Value> = history.all(tenant, &PODS).map(|(_, p)| p).collect();
        let Some(pod) = pods.choose(rng) else { return };
        if rng.random_bool(0.6) {
            world.remove(tenant, &PODS, name(pod), &DeleteParams::uid(uid(pod))).await;
        } else if !name(pod).starts_with('s') {
            // Out of its owner's sight: somebody else's then, or nobody's. Not those whose name their owner needs.
            let app = ["d0", "r0", "r1", "nobody"].choose(rng).unwrap();
            let patch = json!({"metadata": {"uid": uid(pod), "labels": {"app": app}}});
            allow(world.patch(tenant, &PODS, name(pod), patch).await);
        }
    }

    async fn service(&self, world: &World, rng: &mut StdRng, tenant: &TenantName) {
        let app = *["d0", "d1", "r0", "s0", "e0"].choose(rng).unwrap();
        if rng.random_bool(0.3) {
            return world.remove(tenant, &SERVICES, app, &DeleteParams::default()).await;
        }
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app},
            "spec": {"selector": {"app": app}, "ports": [{"port": 80}]}});
        allow(world.create(tenant, &SERVICES, &service).await);
    }

    async fn budget(&self, world: &World, rng: &mut StdRng, tenant: &TenantName) {
        let app = *["d0", "d1", "r0", "s0", "e0"].choose(rng).unwrap();
        if rng.random_bool(0.3) {
            return world.remove(tenant, &BUDGETS, app, &DeleteParams::default()).await;
        }
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": app},
            "spec": {"minAvailable": rng.random_range(0..3), "selector": {"matchLabels": {"app": app}}}});
        allow(world.create(tenant, &BUDGETS, &budget).await);
    }

    async fn node(&self, world: &World, history: &History, rng: &mut StdRng, tenant: &TenantName) {
        let nodes: Vec<&Value> = history.all(tenant, &NODES).map(|(_, n)| n).collect();
        let Some(node) = nodes.choose(rng) else { return };
        let patch = match rng.random_range(0..6) {
            // Gone with all that ran on it, for a while.
            3 => return world.remove(tenant, &NODES, name(node), &DeleteParams::default()).await,
            4 | 5 => return say_ready(world, tenant, name(node), rng.random_bool(0.4)).await,
            0 => json!({"metadata": {"labels": {"disk": one_of(rng, &["ssd", "hdd"])}}}),
            1 => json!({"spec": {"taints": [{"key": "sim", "effect": "NoSchedule"}]}}),
            _ => json!({"spec": {"taints": null}}),
        };
        allow(world.patch(tenant, &NODES, name(node), patch).await);
    }

    /// Lets everything come to its end: nothing is held back any more.
    pub(crate) async fn calm(&self, world: &World, history: &History) {
        for owner in TENANTS {
            let owner = tenant(owner);
            let names = |kind: &Resource| -> Vec<String> {
                history.all(&owner, kind).map(|(name, _)| name.to_owned()).collect()
            };
            for deployment in names(&DEPLOYMENTS) {
                allow(
                    world.patch(&owner, &DEPLOYMENTS, &deployment, json!({"spec": {"paused": false}})).await,
                );
            }
            for index in 0..NODE_COUNT {
                let node = format!("n{index}");
                if history.get(&owner, &NODES, &node).is_none() {
                    allow(world.create(&owner, &NODES, &new_node(&node, index)).await);
                }
                say_ready(world, &owner, &node, true).await;
                // Those that controllers have put there are theirs to take away.
                let found: Value = world.admin.read(&world.at(&owner, &NODES).name(&node)).await.unwrap();
                let taints: Vec<&Value> = found["spec"]["taints"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|t| t["key"] != "sim")
                    .collect();
                allow(world.patch(&owner, &NODES, &node, json!({"spec": {"taints": taints}})).await);
            }
            for job in names(&JOBS) {
                let patch = json!({"spec": {"suspend": false, "parallelism": 3}});
                allow(world.patch(&owner, &JOBS, &job, patch).await);
            }
            self.suspend(world, history, &owner, false).await;
        }
    }

    /// Stops CronJobs, or lets them go on.
    pub(crate) async fn suspend(&self, world: &World, history: &History, owner: &TenantName, suspend: bool) {
        let names: Vec<String> = history.all(owner, &CRON_JOBS).map(|(name, _)| name.to_owned()).collect();
        for cron in names {
            allow(world.patch(owner, &CRON_JOBS, &cron, json!({"spec": {"suspend": suspend}})).await);
        }
    }
}
