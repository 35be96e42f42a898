//! The controllers against a real API server, with everything that may go wrong between them, a different world for each
//! seed: answers that are lost, requests that are refused, events that come late, twice or not at all, controllers that are
//! cut off at any point and start anew, of which there are two because one does not know yet that it no longer leads.
//!
//! The seed decides what users do, how pods fare and what goes wrong; in which order tasks of the same moment run is the
//! machine's business, so a seed repeats a world nearly, not exactly. `SKEP_SIM_SEED=n` runs one, `SKEP_SIM_WORLDS=n` runs more.
#![allow(clippy::unwrap_used)]

mod faults;
mod kubelet;

mod rollout;
mod settled;
mod users;
mod world;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use skep_client::Patch;

use kubelet::{Manner, WELL};
use users::Users;
use world::{
    AUTOSCALERS, DEPLOYMENTS, History, LEASES, NODES, REST, TENANTS, World, count, is_deleting, owners,
    tenant, uid,
};

/// Worlds of each kind per run: together under a minute.
const WORLDS: u64 = 6;
/// What users do in one world.
const ACTIONS: usize = 60;
/// How often nodes say that they are alive.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the controllers must have nothing to do for it to count as rest.
const QUIET: Duration = Duration::from_millis(700);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds() -> Vec<u64> {
    match number("SKEP_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (number("SKEP_SIM_FIRST").unwrap_or(0)..)
            .take(number("SKEP_SIM_WORLDS").unwrap_or(WORLDS) as usize)
            .collect(),
    }
}

fn each_seed<F: Future<Output = ()>>(run: impl Fn(u64) -> F) {
    for seed in seeds() {
        eprintln!("seed {seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(seed));
    }
}

pub(crate) async fn add_node(world: &World, name: &str, index: usize) {
    let node = users::new_node(name, index);
    for owner in TENANTS {
        let owner = tenant(owner);
        world.create(&owner, &NODES, &node).await.unwrap();
        let (admin, name) = (world.admin.clone(), name.to_owned());
        // The node is alive as long as the world is.
        tokio::spawn(async move {
            let at = LEASES.at(&owner).namespace("kube-node-lease");
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"leaseDurationSeconds": 40}});
            admin.create::<serde_json::Value>(&at, &lease).await.unwrap();
            loop {
                let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
                let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
                // The world may be at its end.
                let _ = admin.patch::<serde_json::Value>(&at.clone().name(&name), &patch).await;
                tokio::time::sleep(HEARTBEAT).await;
            }
        });
    }
}

/// What must hold at every single change, whatever happens.
fn never(seed: u64, history: &mut History) {
    history.advance(|history, happened| {
        let (Some(old), None) = (happened.old, happened.new) else { return };
        // What waits for its dependents is not gone before them.
        let foreground = old["metadata"]["annotations"]["sim/deleted"] == "Foreground" && is_deleting(old);
        if foreground {
            for (key, object) in history.objects() {
                let blocks = owners(object).any(|o| o["uid"] == *uid(old) && o["blockOwnerDeletion"] == true);
                assert!(!blocks, "seed {seed}: {} is gone before {key}\n{}", happened.key, history.tail(60));
            }
        }
    });
}

/// Waits until everything is as it must be and nothing is written any more.
pub(crate) async fn rest(seed: u64, world: &World, history: &mut History, rng: &mut StdRng) {
    let begun = Instant::now();
    let mut quiet_since = Instant::now();
    let mut before = world.everything();
    loop {
        never(seed, history);
        for owner in TENANTS {
            kubelet::work(world, history, rng, &tenant(owner), WELL).await;
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
        never(seed, history);
        let now = world.everything();
        let wrong: Vec<String> =
            TENANTS.iter().flat_map(|owner| settled::wrong(history, &tenant(owner))).collect();
        if now != before || !wrong.is_empty() {
            quiet_since = Instant::now();
        }
        if quiet_since.elapsed() > QUIET {
            return;
        }
        assert!(world.is_alive(), "seed {seed}: the controllers have ended");
        assert!(
            begun.elapsed() < REST,
            "seed {seed}: it does not come to rest: {wrong:#?}, written: {:#?}\n{}",
            now.iter().filter(|(k, r)| before.get(k) != Some(r)).collect::<Vec<_>>(),
            history.tail(80)
        );
        before = now;
    }
}

/// A controller that starts anew finds nothing to do where nothing is to be done.
async fn idle_restart(seed: u64, world: &mut World, history: &mut History) {
    let before = world.everything();
    world.restart().await;
    let begun = Instant::now();
    while !world.is_ready() {
        assert!(begun.elapsed() < REST, "seed {seed}: the controllers do not get ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(QUIET).await;
    never(seed, history);
    let after = world.everything();
    let changed: Vec<_> = after.iter().filter(|(k, r)| before.get(k) != Some(r)).collect();
    let gone: Vec<_> = before.keys().filter(|k| !after.contains_key(k)).collect();
    assert!(
        changed.is_empty() && gone.is_empty(),
        "seed {seed}: a restart wrote {changed:?} and removed {gone:?}\n{}",
        history.tail(30)
    );
}

/// Users do anything, pods fare badly, everything breaks; then it stops, and all must come to be as the objects say.
#[test]
fn whatever_happens_it_comes_to_what_the_objects_say() {
    each_seed(|seed| async move {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::start(seed).await;
        let mut history = world.history();
        for n in 0..users::NODE_COUNT {
            add_node(&world, &format!("n{n}"), n).await;
        }
        world.restart().await;
        world.faults.set(true);
        let mut users = Users::default();
        let manner = Manner { pace: 0.4, trouble: 0.05 };
        for _ in 0..ACTIONS {
            let owner = tenant(TENANTS[rng.random_range(0..TENANTS.len())]);
            users.act(&world, &history, &mut rng, &owner).await;
            for _ in 0..rng.random_range(0..4) {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..15))).await;
                never(seed, &mut history);
                for owner in TENANTS {
                    kubelet::work(&world, &history, &mut rng, &tenant(owner), manner).await;
                }
                never(seed, &mut history);
            }
            match rng.random_range(0..100) {
                0..4 => world.restart().await,
                // Until the next restart two lead.
                4..7 => world.rival(),
                _ => {}
            }
        }
        world.faults.set(false);
        if rng.random_bool(0.5) {
            world.restart().await;
        }
        users.calm(&world, &history).await;
        rest(seed, &world, &mut history, &mut rng).await;
        // A minute may be over at any time, and then there is something to do.
        for owner in TENANTS {
            users.suspend(&world, &history, &tenant(owner), true).await;
        }
        rest(seed, &world, &mut history, &mut rng).await;
        idle_restart(seed, &mut world, &mut history).await;
        world.stop().await;
    });
}

/// Pods that fare well, users that change one thing at a time, controllers and their way to the server that fare badly: never
/// more than allowed, never less than promised, at any single change.
#[test]
fn changes_under_way_keep_their_limits() {
    each_seed(|seed| async move {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::start(seed).await;
        let mut history = world.history();
        let nodes = rng.random_range(1..6);
        for n in 0..nodes {
            add_node(&world, &format!("n{n}"), n).await;
        }
        world.restart().await;
        let kind = rollout::Kind::any(&mut rng, nodes as i64);
        rollout::run(seed, &mut world, &mut history, &mut rng, kind).await;
        rest(seed, &world, &mut history, &mut rng).await;
        idle_restart(seed, &mut world, &mut history).await;
        world.stop().await;
    });
}

/// Waits until a condition of the first tenant's objects holds, with pods that fare well.
async fn until(
    world: &World,
    history: &mut History,
    rng: &mut StdRng,
    what: &str,
    holds: impl Fn(&History) -> bool,
) {
    let begun = Instant::now();
    loop {
        history.advance(|_, _| {});
        if holds(history) {
            return;
        }
        assert!(begun.elapsed() < REST, "{what} does not come about\n{}", history.tail(20));
        kubelet::work(world, history, rng, &tenant(TENANTS[0]), WELL).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An autoscaler follows what pods are said to use, both ways, and says why it does not when nobody says anything.
#[test]
fn autoscalers_follow_what_pods_use() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut rng = StdRng::seed_from_u64(0);
        let mut world = World::start(0).await;
        let mut history = world.history();
        let whose = tenant(TENANTS[0]);
        add_node(&world, "n", 0).await;
        world.restart().await;
        let mut template = users::template("web", 0, "Always");
        template["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
        world.create(&whose, &DEPLOYMENTS, &deployment).await.unwrap();
        let ready = |n: i64| {
            let whose = whose.clone();
            move |h: &History| {
                let web = h.get(&whose, &DEPLOYMENTS, "web");
                web.is_some_and(|d| count(d, "/status/readyReplicas") == n && count(d, "/spec/replicas") == n)
            }
        };
        until(&world, &mut history, &mut rng, "two pods", ready(2)).await;
        let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "minReplicas": 1, "maxReplicas": 6, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
        world.create(&whose, &AUTOSCALERS, &autoscaler).await.unwrap();
        let condition = |kind: &'static str, reason: &'static str| {
            let whose = whose.clone();
            move |h: &History| {
                let conditions = h.get(&whose, &AUTOSCALERS, "web").map(|a| a["status"]["conditions"].clone());
                let all = conditions.as_ref().and_then(|c| c.as_array());
                all.is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["reason"] == reason))
            }
        };
        until(&world, &mut history, &mut rng, "why", condition("ScalingActive", "FailedGetResourceMetric")).await;
        // A change of the autoscaler has it looked at now and not only in a while.
        world.faults.set_usage(1000);
        world.patch(&whose, &AUTOSCALERS, "web", json!({"spec": {"maxReplicas": 7}})).await.unwrap();
        until(&world, &mut history, &mut rng, "four pods", ready(4)).await;
        until(&world, &mut history, &mut rng, "that", condition("AbleToScale", "SucceededRescale")).await;
        world.faults.set_usage(100);
        world.patch(&whose, &AUTOSCALERS, "web", json!({"spec": {"maxReplicas": 8}})).await.unwrap();
        until(&world, &mut history, &mut rng, "one pod", ready(1)).await;
        let status = &history.get(&whose, &AUTOSCALERS, "web").unwrap()["status"];
        let current = &status["currentMetrics"][0]["resource"]["current"];
        assert_eq!(*current, json!({"averageUtilization": 10, "averageValue": "100m"}), "{status}");
        world.stop().await;
    });
}
