//! A Deployment, its replica sets and their pods in a small world in which each controller sees every object late, and
//! which is a different one for each seed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use skep_plan::deployment::{self, Collision, Deployment, Step};
use skep_plan::pod::Phase;
use skep_plan::replicaset::{self, ReplicaSet, pods_per_node};
use skep_plan::{ControllerRef, OwnerKind, Pod, Template, Time, Uid};

const SEEDS: u64 = 300;
const TURNS: usize = 400;

/// Objects as they are, and as each controller has seen them last. A controller sees its own writes at once, as the
/// loops do, which put what a write answers into their copies.
struct World {
    rng: StdRng,
    now: Timestamp,
    version: u64,
    deployment: Deployment,
    seen_deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    seen_sets: BTreeMap<String, ReplicaSet>,
    pods: BTreeMap<String, Pod>,
    seen_pods: BTreeMap<String, Pod>,
    seen_sets_by_sets: BTreeMap<String, ReplicaSet>,
}

fn template(image: &str) -> Template {
    Template::from_value(
        &json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}),
    )
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let surge = rng.random_range(0..3);
        let unavailable = if surge == 0 { rng.random_range(1..3) } else { rng.random_range(0..3) };
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1, "resourceVersion": "0"},
            "spec": {"replicas": rng.random_range(0..8), "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2},
        }))
        .unwrap();
        deployment.template = template("v0");
        World {
            rng,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            version: 0,
            seen_deployment: deployment.clone(),
            deployment,
            sets: BTreeMap::new(),
            seen_sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            seen_pods: BTreeMap::new(),
            seen_sets_by_sets: BTreeMap::new(),
        }
    }

    fn bump(&mut self) -> Box<str> {
        self.version += 1;
        self.version.to_string().into()
    }

    fn sync_deployment(&mut self) {
        let d = self.seen_deployment.clone();
        let sets: Vec<&ReplicaSet> = self.seen_sets.values().collect();
        let pods = &self.seen_pods;
        let has_pods =
            |s: &ReplicaSet| pods.values().any(|p| s.meta.controls(p.controller.as_ref()) && !p.is_over());
        let plan = deployment::plan(self.now, &d, &sets, &has_pods);
        assert!(plan.adopt.is_empty() && plan.release.is_empty());
        for step in plan.steps {
            match step {
                Step::Create { name, body, .. } => {
                    if let Some(existing) = self.sets.get(&name) {
                        match deployment::collided(&d, existing) {
                            Collision::Ours => {}
                            Collision::Bump(change) => self.write_status(&d, change),
                        }
                        return;
                    }
                    let mut set: ReplicaSet = serde_json::from_value(body).unwrap();
                    set.meta.uid = Uid::new(&format!("{name}-{}", self.version));
                    set.meta.generation = 1;
                    set.meta.created = Some(Time::of(self.now));
                    set.meta.resource_version = self.bump();
                    self.seen_sets.insert(name.clone(), set.clone());
                    self.sets.insert(name, set);
                }
                Step::Patch { name, body, .. } => {
                    let version = self.bump();
                    let Some(set) = self.sets.get_mut(&name) else { return };
                    if body["metadata"]["resourceVersion"] != *set.meta.resource_version {
                        return;
                    }
                    apply(set, &body);
                    set.meta.resource_version = version;
                    self.seen_sets.insert(name, set.clone());
                }
                Step::Delete { name, uid, resource_version } => {
                    let set = self.sets.get(&name);
                    if set.is_none_or(|s| s.meta.uid != uid || *s.meta.resource_version != *resource_version)
                    {
                        return;
                    }
                    assert_eq!(set.unwrap().replicas, 0, "a replica set with pods is never cleaned up");
                    self.sets.remove(&name);
                }
            }
        }
        if let Some(change) = plan.status {
            self.write_status(&d, change);
        }
    }

    fn write_status(&mut self, seen: &Deployment, change: deployment::StatusChange) {
        if seen.meta.resource_version != self.deployment.meta.resource_version {
            return;
        }
        self.deployment.status = change.status;
        if let Some(revision) = change.revision {
            self.deployment.meta.annotations.insert(deployment::REVISION.to_owned(), revision);
        }
        self.deployment.meta.resource_version = self.bump();
    }

    fn sync_set(&mut self, name: &str) {
        let Some(set) = self.seen_sets_by_sets.get(name).cloned() else { return };
        let related: Vec<&Pod> = self.seen_pods.values().collect();
        let own: Vec<&Pod> =
            related.iter().copied().filter(|p| set.meta.controls(p.controller.as_ref())).collect();
        let plan = replicaset::plan(self.now, &set, &own, || pods_per_node(related.iter().copied()));
        let deletes: Vec<String> = plan.delete.iter().map(|p| p.name.to_string()).collect();
        let (creates, counts) = (plan.create, plan.counts);
        // Some requests fail: the rest is left for the next sync.
        for _ in 0..creates {
            if self.rng.random_bool(0.1) {
                break;
            }
            self.version += 1;
            let pod = Pod {
                name: format!("{name}-{}", self.version).into(),
                uid: Uid::new(&format!("u{}", self.version)),
                labels: set.template.labels.clone(),
                controller: Some(ControllerRef {
                    kind: OwnerKind::ReplicaSet,
                    name: name.into(),
                    uid: set.meta.uid.clone(),
                }),
                created: Some(Time::of(self.now)),
                phase: Phase::Pending,
                ..Pod::default()
            };
            self.seen_pods.insert(pod.name.to_string(), pod.clone());
            self.pods.insert(pod.name.to_string(), pod);
        }
        for pod in deletes {
            for pods in [&mut self.pods, &mut self.seen_pods] {
                if let Some(p) = pods.get_mut(&pod) {
                    p.deleted = Some(Time::of(self.now));
                }
            }
        }
        let status = replicaset::status(self.now, &set, OwnerKind::ReplicaSet, counts, None);
        let version = self.bump();
        if let (Some(status), Some(current)) = (status, self.sets.get_mut(name))
            && current.meta.resource_version == set.meta.resource_version
        {
            current.status = status;
            current.meta.resource_version = version;
        }
    }

    fn kubelet(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        let Some(name) = names.choose(&mut self.rng) else { return };
        let now = Time::of(self.now);
        let pod = self.pods.get_mut(name).unwrap();
        if pod.deleted.is_some() {
            self.pods.remove(name);
        } else {
            pod.node = "n".into();
            pod.phase = Phase::Running;
            pod.ready = true;
            pod.ready_changed.get_or_insert(now);
        }
    }

    /// One object's news arrives, maybe for the second time.
    fn deliver(&mut self) {
        match self.rng.random_range(0..4) {
            0 => self.seen_deployment = self.deployment.clone(),
            1 => copy_one(&mut self.rng, &self.sets, &mut self.seen_sets),
            2 => copy_one(&mut self.rng, &self.sets, &mut self.seen_sets_by_sets),
            _ => copy_one(&mut self.rng, &self.pods, &mut self.seen_pods),
        }
    }

    fn deliver_all(&mut self) {
        self.seen_deployment = self.deployment.clone();
        self.seen_sets = self.sets.clone();
        self.seen_sets_by_sets = self.sets.clone();
        self.seen_pods = self.pods.clone();
    }

    fn change_spec(&mut self, change: impl FnOnce(&mut Deployment)) {
        change(&mut self.deployment);
        self.deployment.meta.generation += 1;
        self.deployment.meta.resource_version = self.bump();
    }

    fn available(&self) -> i32 {
        i32::try_from(self.pods.values().filter(|p| p.is_active() && p.ready).count()).unwrap()
    }

    fn wanted(&self) -> i32 {
        self.sets.values().map(|s| s.replicas).sum()
    }

    fn settle(&mut self) {
        for _ in 0..300 {
            self.deliver_all();
            let before = self.version;
            self.sync_deployment();
            self.deliver_all();
            for name in self.sets.keys().cloned().collect::<Vec<_>>() {
                self.sync_set(&name);
            }
            for _ in 0..self.pods.len() * 4 {
                self.kubelet();
            }
            let idle = self.version == before + u64::try_from(self.sets.len()).unwrap();
            if idle
                && deployment_is_done(&self.deployment, &self.sets)
                && self.pods.values().all(|p| p.ready && p.deleted.is_none())
            {
                return;
            }
            self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap();
        }
        panic!("does not settle: {:#?}\n{:#?}", self.deployment, self.sets);
    }
}

fn deployment_is_done(d: &Deployment, sets: &BTreeMap<String, ReplicaSet>) -> bool {
    let current = sets.values().filter(|s| s.template.same_pods(&d.template));
    let sizes: Vec<i32> = current.map(|s| s.replicas).collect();
    sizes == [d.replicas]
        && sets.values().map(|s| s.replicas).sum::<i32>() == d.replicas
        && d.status.updated_replicas == d.replicas
        && d.status.available_replicas == d.replicas
        && d.status.observed_generation == d.meta.generation
        && sets.len() <= 3
}

fn copy_one<T: Clone>(rng: &mut StdRng, from: &BTreeMap<String, T>, to: &mut BTreeMap<String, T>) {
    let names: Vec<String> = from.keys().chain(to.keys()).cloned().collect();
    let Some(name) = names.choose(rng) else { return };
    match from.get(name) {
        Some(object) => to.insert(name.clone(), object.clone()),
        None => to.remove(name),
    };
}

fn apply(set: &mut ReplicaSet, patch: &Value) {
    if let Some(replicas) = patch["spec"]["replicas"].as_i64() {
        set.replicas = i32::try_from(replicas).unwrap();
        set.meta.generation += 1;
    }
    for (key, value) in patch["metadata"]["annotations"].as_object().into_iter().flatten() {
        set.meta.annotations.insert(key.clone(), value.as_str().unwrap().to_owned());
    }
}

/// Whatever is late, lost or told twice: no more pods are wanted than the surge allows, no fewer are available than
/// must be, and in the end everything is as asked for.
#[test]
fn rollouts_stay_within_their_limits_and_end() {
    for seed in 0..SEEDS {
        let mut w = World::new(seed);
        w.settle();
        let d = w.deployment.clone();
        let (surge, unavailable) = match d.strategy {
            deployment::Strategy::RollingUpdate { max_surge, max_unavailable } => {
                (max_surge.up(d.replicas), max_unavailable.down(d.replicas))
            }
            deployment::Strategy::Recreate => unreachable!(),
        };
        let mut image = 0;
        for turn in 0..TURNS {
            match w.rng.random_range(0..20) {
                0..6 => w.sync_deployment(),
                6..10 => {
                    let names: Vec<String> = w.sets.keys().cloned().collect();
                    if let Some(name) = names.choose(&mut w.rng).cloned() {
                        w.sync_set(&name);
                    }
                }
                10..13 => w.kubelet(),
                13..19 => w.deliver(),
                _ if turn % 40 == 0 => {
                    // Sometimes back to an older template.
                    image = if image > 0 && w.rng.random_bool(0.3) { image - 1 } else { image + 1 };
                    w.change_spec(|d| d.template = template(&format!("v{image}")));
                }
                _ => w.now = w.now.checked_add(SignedDuration::from_secs(5)).unwrap(),
            }
            assert!(
                w.wanted() <= d.replicas + surge,
                "seed {seed}, turn {turn}: {} wanted\n{:#?}",
                w.wanted(),
                w.sets
            );
            let least = d.replicas - unavailable;
            assert!(
                w.available() >= least,
                "seed {seed}, turn {turn}: {} available\n{:#?}",
                w.available(),
                w.sets
            );
        }
        w.settle();
        let size = w.rng.random_range(0..12);
        w.change_spec(|d| d.replicas = size);
        for _ in 0..40 {
            w.sync_deployment();
            w.deliver();
        }
        w.settle();
        let newest = w
            .sets
            .values()
            .filter_map(|s| s.meta.annotations[deployment::REVISION].parse::<u32>().ok())
            .max();
        assert_eq!(
            w.deployment.meta.annotations[deployment::REVISION],
            newest.unwrap().to_string(),
            "seed {seed}"
        );
    }
}

/// Any state of replica sets, however it came about, ends as asked for.
#[test]
fn any_state_ends_as_asked_for() {
    for seed in 0..SEEDS {
        let mut w = World::new(seed);
        let mut rng = StdRng::seed_from_u64(seed ^ 0xABCD);
        for i in 0..rng.random_range(0..5) {
            let d = w.deployment.clone();
            let hash = format!("h{i}");
            let labels = d.template.labels.with("pod-template-hash", &hash);
            let image = template(&format!("v{i}"));
            let set: ReplicaSet = serde_json::from_value(json!({
                "metadata": {"name": format!("web-{hash}"), "uid": hash, "resourceVersion": format!("x{i}"), "labels": labels,
                    "creationTimestamp": Time::of(w.now).plus_seconds(-100 + i), "generation": 1,
                    "annotations": {deployment::DESIRED_REPLICAS: rng.random_range(0..9).to_string(), deployment::REVISION: (i + 1).to_string()},
                    "ownerReferences": [d.meta.controller_ref(OwnerKind::Deployment)]},
                "spec": {"replicas": rng.random_range(0..6), "selector": {"matchLabels": labels}, "template": image.json_with_labels(&labels)},
            }))
            .unwrap();
            w.sets.insert(format!("web-{hash}"), set);
        }
        if rng.random_bool(0.5) {
            w.deployment.strategy = deployment::Strategy::Recreate;
        }
        w.settle();
    }
}
