//! Changes under way, with pods that only get better: what must hold at each single change of the store.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::Resource;

use crate::kubelet::{self, Manner};
use crate::users::template;
use crate::world::{
    DAEMON_SETS, DEPLOYMENTS, History, JOBS, PODS, REPLICA_SETS, REST, STATEFUL_SETS, TENANTS, World,
    controller, count, is_active, is_available, is_over, owners, tenant, uid,
};

/// Pods that are started late and never fail.
const SLOWLY: Manner = Manner { pace: 0.3, trouble: 0.0 };

/// What is rolled out, and how far it may go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Rolling { replicas: i64, surge: i64, unavailable: i64 },
    Recreate,
    Ordered { replicas: i64 },
    Daemon { nodes: i64, surge: i64, unavailable: i64 },
    Job { completions: i64, parallelism: i64, indexed: bool },
}

const NAME: &str = "x";

impl Kind {
    pub(crate) fn any(rng: &mut StdRng, nodes: i64) -> Kind {
        let (surge, unavailable) = *[(0, 1), (1, 0), (2, 0), (0, 3), (1, 1), (2, 2)].choose(rng).unwrap();
        match rng.random_range(0..6) {
            0 | 1 => Kind::Rolling { replicas: rng.random_range(1..8), surge, unavailable },
            2 => Kind::Recreate,
            3 => Kind::Ordered { replicas: rng.random_range(1..6) },
            4 if rng.random_bool(0.5) => Kind::Daemon { nodes, surge: surge.max(1), unavailable: 0 },
            4 => Kind::Daemon { nodes, surge: 0, unavailable: unavailable.max(1) },
            _ => Kind::Job {
                completions: rng.random_range(1..12),
                parallelism: rng.random_range(1..5),
                indexed: rng.random_bool(0.5),
            },
        }
    }

    fn resource(self) -> Resource {
        match self {
            Kind::Rolling { .. } | Kind::Recreate => DEPLOYMENTS,
            Kind::Ordered { .. } => STATEFUL_SETS,
            Kind::Daemon { .. } => DAEMON_SETS,
            Kind::Job { .. } => JOBS,
        }
    }

    fn object(self) -> Value {
        let selector = json!({"matchLabels": {"app": NAME}});
        let template = |restart| template(NAME, 0, restart);
        let (kind, api, spec) = match self {
            Kind::Rolling { replicas, surge, unavailable } => (
                "Deployment",
                "apps/v1",
                json!({"replicas": replicas,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "selector": selector, "template": template("Always")}),
            ),
            Kind::Recreate => (
                "Deployment",
                "apps/v1",
                json!({"replicas": 3, "strategy": {"type": "Recreate"},
                "selector": selector, "template": template("Always")}),
            ),
            Kind::Ordered { replicas } => (
                "StatefulSet",
                "apps/v1",
                json!({"replicas": replicas, "serviceName": NAME,
                "selector": selector, "template": template("Always")}),
            ),
            Kind::Daemon { surge, unavailable, .. } => (
                "DaemonSet",
                "apps/v1",
                json!({
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "selector": selector, "template": template("Always")}),
            ),
            Kind::Job { completions, parallelism, indexed } => (
                "Job",
                "batch/v1",
                json!({"completions": completions,
                "parallelism": parallelism, "completionMode": if indexed { "Indexed" } else { "NonIndexed" },
                "template": template("Never")}),
            ),
        };
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": NAME}, "spec": spec})
    }
}

/// Fails if a limit is exceeded now. `complete` is whether everything was there once.
fn check(
    seed: u64,
    kind: Kind,
    world: &World,
    history: &History,
    whose: &TenantName,
    complete: bool,
    most: &mut BTreeMap<String, i64>,
) {
    let pods: Vec<&Value> = history.all(whose, &PODS).map(|(_, p)| p).collect();
    // A pod of which the controllers have not heard may be there besides, until they see it.
    let unheard = world.faults.unheard_pods() as i64;
    let active = pods.iter().filter(|p| is_active(p)).count() as i64;
    let available = pods.iter().filter(|p| is_available(p)).count() as i64;
    let fail = |what: &str| panic!("seed {seed}: {what} ({kind:?})\n{}", history.tail(60));
    match kind {
        Kind::Rolling { replicas, surge, unavailable } => {
            let wanted: i64 =
                history.all(whose, &REPLICA_SETS).map(|(_, s)| count(s, "/spec/replicas")).sum();
            if wanted > replicas + surge {
                fail(&format!("{wanted} pods are wanted, more than {replicas} and {surge}"));
            }
            for (name, set) in history.all(whose, &REPLICA_SETS) {
                // What was wanted before may still be there: the set's own controller is behind.
                let most = most.entry(name.to_owned()).or_default();
                *most = (*most).max(count(set, "/spec/replicas"));
                let has =
                    pods.iter().filter(|p| is_active(p) && controller(p) == Some(uid(set))).count() as i64;
                if has > *most + unheard {
                    fail(&format!("{name} has {has} pods, more than {most} and {unheard}"));
                }
            }
            if complete && available < replicas - unavailable {
                fail(&format!(
                    "only {available} pods are available, less than {replicas} without {unavailable}"
                ));
            }
        }
        Kind::Recreate => {
            let mut found: Vec<String> = pods
                .iter()
                .filter(|p| !is_over(p))
                .map(|p| p["metadata"]["annotations"]["v"].to_string())
                .collect();
            found.sort();
            found.dedup();
            if found.len() > 1 {
                fail(&format!("versions {found:?} run side by side"));
            }
        }
        Kind::Ordered { replicas } => {
            if complete && available < replicas - 1 {
                fail(&format!("only {available} of {replicas} are available"));
            }
            for pod in &pods {
                let ordinal: i64 =
                    pod["metadata"]["name"].as_str().unwrap()[NAME.len() + 1..].parse().unwrap();
                let before = (0..ordinal)
                    .all(|n| history.get(whose, &PODS, &format!("{NAME}-{n}")).is_some_and(is_available));
                if !complete && !before {
                    fail(&format!("the pod {ordinal} is there before those before it"));
                }
            }
        }
        Kind::Daemon { nodes, surge, unavailable } => {
            let mut on: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
            for pod in pods.iter().filter(|p| is_active(p)) {
                let node = pod
                    .pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0")
                    .and_then(Value::as_str)
                    .unwrap();
                let counts = on.entry(node).or_default();
                counts.0 += 1;
                counts.1 += i64::from(is_available(pod));
            }
            let twice: i64 = on.values().map(|(pods, _)| pods - 1).sum();
            // A pod that is not available is replaced at once, whatever the surge, as upstream does it. One may have become available
            // without the controller having heard: what it knows of is at least what it has said.
            let known =
                history.get(whose, &DAEMON_SETS, NAME).map_or(0, |set| count(set, "/status/numberAvailable"));
            let unknown = (available - known).max(0);
            if twice > surge + unheard + unknown {
                fail(&format!(
                    "{twice} pods are on nodes that have one, more than {surge}, {unheard} and {unknown}"
                ));
            }
            let without = nodes - on.values().filter(|(_, available)| *available > 0).count() as i64;
            if complete && without > unavailable {
                fail(&format!("{without} nodes are without, more than {unavailable}"));
            }
        }
        Kind::Job { completions, parallelism, .. } => {
            if active > parallelism + unheard {
                fail(&format!("{active} pods are active, more than {parallelism} and {unheard}"));
            }
            let job = history.get(whose, &JOBS, NAME).unwrap();
            let ended = count(job, "/status/succeeded");
            if ended > completions {
                fail(&format!("{ended} successes are counted, of {completions}"));
            }
        }
    }
    for pod in &pods {
        assert!(owners(pod).count() <= 1 && controller(pod).is_some(), "seed {seed}: {pod}");
    }
}

/// Whether all that is wanted is there, of the newest version.
fn is_complete(kind: Kind, history: &History, whose: &TenantName, version: &str) -> bool {
    let Some(object) = history.get(whose, &kind.resource(), NAME) else { return false };
    if count(object, "/status/observedGeneration") != count(object, "/metadata/generation")
        && !matches!(kind, Kind::Job { .. })
    {
        return false;
    }
    let current: Vec<&Value> = history
        .all(whose, &PODS)
        .map(|(_, p)| p)
        .filter(|p| p["metadata"]["annotations"]["v"] == *version && is_available(p))
        .collect();
    let all = history.all(whose, &PODS).count();
    match kind {
        Kind::Rolling { replicas, .. } | Kind::Ordered { replicas } => {
            current.len() as i64 == replicas && current.len() == all
        }
        Kind::Recreate => current.len() == 3 && all == 3,
        Kind::Daemon { nodes, .. } => current.len() as i64 == nodes && current.len() == all,
        Kind::Job { .. } => {
            let conditions = object["status"]["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Complete" && c["status"] == "True"))
        }
    }
}

/// Makes one workload, then changes it again and again while everything goes wrong, and looks at each change.
pub(crate) async fn run(seed: u64, world: &mut World, history: &mut History, rng: &mut StdRng, kind: Kind) {
    let whose = tenant(TENANTS[0]);
    world.faults.set(true);
    world.create(&whose, &kind.resource(), &kind.object()).await.unwrap();
    let mut most = BTreeMap::new();
    let versions = if matches!(kind, Kind::Job { .. }) { 1 } else { 4 };
    for version in 0..versions {
        if version > 0 {
            let patch =
                json!({"spec": {"template": {"metadata": {"annotations": {"v": version.to_string()}}}}});
            world.patch(&whose, &kind.resource(), NAME, patch).await.unwrap();
        }
        let begun = Instant::now();
        loop {
            kubelet::work(world, history, rng, &whose, SLOWLY).await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..12))).await;
            history.advance(|history, _| {
                if history.get(&whose, &kind.resource(), NAME).is_some() {
                    check(seed, kind, world, history, &whose, version > 0, &mut most);
                }
            });
            if is_complete(kind, history, &whose, &version.to_string()) {
                break;
            }
            // Sometimes the next version comes before this one is there.
            if version > 0 && version + 1 < versions && rng.random_bool(0.01) {
                break;
            }
            if rng.random_bool(0.01) {
                world.restart().await;
            }
            assert!(
                begun.elapsed() < REST,
                "seed {seed}: {kind:?} does not come to its end\n{}",
                history.tail(60)
            );
        }
    }
    if let Kind::Job { completions, indexed, .. } = kind {
        let job = history.get(&whose, &JOBS, NAME).unwrap();
        assert_eq!(count(job, "/status/succeeded"), completions, "seed {seed}: {job}");
        if indexed {
            let done = if completions == 1 { "0".to_owned() } else { format!("0-{}", completions - 1) };
            let done = if completions == 2 { "0,1".to_owned() } else { done };
            assert_eq!(job["status"]["completedIndexes"], *done, "seed {seed}");
        }
        assert_eq!(job["status"]["uncountedTerminatedPods"]["succeeded"], Value::Null, "seed {seed}");
    }
    world.faults.set(false);
}
