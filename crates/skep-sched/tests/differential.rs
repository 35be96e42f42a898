//! Random clusters: what is kept and shared must come to the same as the rules applied from scratch.
//!
//! Most seeds are always the same ones. A failure prints its seed; `SKEP_SCHED_SEED=n cargo test -p skep-sched
//! --test differential` repeats just that one, and `SKEP_SCHED_CLUSTERS=n` tries as many at random.
#![allow(clippy::unwrap_used)]

mod naive;

use naive::{Placed, World, key};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use skep_sched::template::OwnerKind;
use skep_sched::views::{BudgetView, MapSelectorView, NamespaceView, NodeView, PodView, SetSelectorView};
use skep_sched::{Cluster, PodFacts, Preemption, Scorer, Weight, Weights};

/// Clusters that every run tries, those it tries at random beside them, and steps in each: together a few seconds.
const CLUSTERS: u64 = 130;
const RANDOM_CLUSTERS: u64 = 20;
const STEPS: usize = 60;
/// Seeds that once found something.
const FOUND: [u64; 4] = [3_604_770_161, 3_604_770_574, 3_604_771_631, 4_081_291_554];

struct Both {
    rng: StdRng,
    seed: u64,
    world: World,
    cluster: Cluster,
    pods: usize,
    nodes: usize,
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}

const APPS: [&str; 3] = ["a", "b", "c"];
const NAMESPACES: [&str; 3] = ["one", "two", "three"];
const KEYS: [&str; 4] =
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack", "topology.kubernetes.io/zone"];

/// Mostly those of the default profile.
fn random_weights(rng: &mut StdRng) -> Weights {
    let changed = if rng.random_bool(0.6) { 0.0 } else { 0.5 };
    let chosen = Scorer::ALL.into_iter().filter(|_| rng.random_bool(changed)).collect::<Vec<_>>();
    chosen.into_iter().map(|scorer| Weight { scorer, weight: *pick(rng, &[0, 1, 5, 100]) }).collect()
}

impl Both {
    fn new(seed: u64) -> Both {
        // By its own generator, so that the seeds that were found go on meaning what they meant.
        let weights = random_weights(&mut StdRng::seed_from_u64(!seed));
        let mut both = Both {
            rng: StdRng::seed_from_u64(seed),
            seed,
            world: World { weights, ..World::default() },
            cluster: Cluster::with_weights(weights),
            pods: 0,
            nodes: 0,
        };
        for (name, team) in NAMESPACES.iter().zip(["x", "y", "x"]) {
            both.set_namespace(name, team);
        }
        for _ in 0..both.rng.random_range(1..14) {
            both.add_node();
        }
        both
    }

    fn set_namespace(&mut self, name: &str, team: &str) {
        let view: NamespaceView =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": team}}})).unwrap();
        self.world.namespaces.insert(name.to_owned(), view.metadata.labels.clone());
        self.cluster.upsert_namespace(&view);
    }

    fn node_json(&mut self, name: &str) -> Value {
        let rng = &mut self.rng;
        let mut labels = json!({"disk": pick(rng, &["ssd", "hdd"]), "size": pick(rng, &["1", "5", "9"])});
        if rng.random_bool(0.9) {
            labels["kubernetes.io/hostname"] = name.into();
        }
        if rng.random_bool(0.85) {
            labels["topology.kubernetes.io/zone"] = (*pick(rng, &["z1", "z2", "z3"])).into();
        }
        if rng.random_bool(0.6) {
            labels["rack"] = (*pick(rng, &["r1", "r2", "r3", "r4", "r5"])).into();
        }
        let mut taints = Vec::new();
        for effect in ["NoSchedule", "PreferNoSchedule", "NoExecute", "PreferNoSchedule"] {
            if rng.random_bool(0.12) {
                taints.push(json!({"key": pick(rng, &["t1", "t2"]), "value": pick(rng, &["v", "w"]), "effect": effect}));
            }
        }
        let mut allocatable = json!({
            "cpu": pick(rng, &["2", "4", "4", "8"]),
            "memory": pick(rng, &["4Gi", "8Gi", "8Gi", "16Gi"]),
            "ephemeral-storage": "100Gi",
            "pods": pick(rng, &["3", "6", "110", "110"]),
        });
        if rng.random_bool(0.3) {
            allocatable["example.com/gpu"] = (*pick(rng, &["1", "2"])).into();
        }
        let mut images = Vec::new();
        for image in ["app:1", "base:latest"] {
            if rng.random_bool(0.3) {
                images.push(json!({"names": [image], "sizeBytes": pick(rng, &[50i64 << 20, 700 << 20])}));
            }
        }
        json!({"metadata": {"name": name, "labels": labels},
            "spec": {"taints": taints, "unschedulable": rng.random_bool(0.07)},
            "status": {"allocatable": allocatable, "images": images}})
    }

    fn add_node(&mut self) {
        self.nodes += 1;
        let name = format!("node-{}", self.nodes);
        let view: NodeView = serde_json::from_value(self.node_json(&name)).unwrap();
        self.cluster.upsert_node(&view);
        self.world.nodes.push(view);
    }

    fn change_node(&mut self) {
        if self.world.nodes.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.world.nodes.len());
        let name = self.world.nodes[at].metadata.name.to_string();
        if self.rng.random_bool(0.3) {
            self.world.nodes.remove(at);
            self.cluster.remove_node(&name);
            return;
        }
        let view: NodeView = serde_json::from_value(self.node_json(&name)).unwrap();
        self.cluster.upsert_node(&view);
        self.world.nodes[at] = view;
    }

    fn selector(&mut self) -> Value {
        let rng = &mut self.rng;
        match rng.random_range(0..6) {
            0 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}),
            1 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}),
            2 if rng.random_bool(0.3) => json!({}),
            _ => json!({"matchLabels": {"app": pick(rng, &APPS)}}),
        }
    }

    fn pod_term(&mut self) -> Value {
        let mut term = json!({"topologyKey": pick(&mut self.rng, &KEYS), "labelSelector": self.selector()});
        match self.rng.random_range(0..6) {
            0 => term["namespaces"] = json!([pick(&mut self.rng, &NAMESPACES)]),
            1 => term["namespaceSelector"] = json!({"matchLabels": {"team": "x"}}),
            2 => term["namespaceSelector"] = json!({}),
            _ => {}
        }
        term
    }

    fn node_term(&mut self) -> Value {
        let rng = &mut self.rng;
        match rng.random_range(0..6) {
            0 => json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}),
            1 => json!({"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["2"]}]}),
            2 => json!({"matchExpressions": [{"key": "rack", "operator": "Exists"}]}),
            3 => json!({"matchExpressions": [{"key": "rack", "operator": "DoesNotExist"},
                {"key": "disk", "operator": "NotIn", "values": ["hdd"]}]}),
            4 => {
                json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]})
            }
            _ => json!({}),
        }
    }

    fn pod(&mut self) -> PodView {
        self.pods += 1;
        let name = format!("pod-{}", self.pods);
        let app = *pick(&mut self.rng, &APPS);
        let mut labels = json!({"app": app});
        if self.rng.random_bool(0.3) {
            labels["hash"] = (*pick(&mut self.rng, &["1", "2"])).into();
        }
        let mut container = json!({"name": "c", "image": pick(&mut self.rng, &["app:1", "base", "other:2"])});
        let mut requests = json!({});
        if self.rng.random_bool(0.8) {
            requests["cpu"] = (*pick(&mut self.rng, &["100m", "500m", "1", "1500m"])).into();
        }
        if self.rng.random_bool(0.8) {
            requests["memory"] = (*pick(&mut self.rng, &["128Mi", "1Gi", "2Gi"])).into();
        }
        if self.rng.random_bool(0.1) {
            requests["example.com/gpu"] = "1".into();
        }
        container["resources"] = json!({"requests": requests});
        if self.rng.random_bool(0.1) {
            container["ports"] = json!([{"hostPort": pick(&mut self.rng, &[80, 443]), "protocol": "TCP"}]);
        }
        let mut spec =
            json!({"containers": [container], "priority": pick(&mut self.rng, &[0, 0, 0, 10, 20])});
        if self.rng.random_bool(0.3) {
            let effect = *pick(&mut self.rng, &["NoSchedule", "", "PreferNoSchedule"]);
            spec["tolerations"] =
                json!([{"key": pick(&mut self.rng, &["t1", "t2"]), "operator": "Exists", "effect": effect}]);
        }
        if self.rng.random_bool(0.1) {
            spec["nodeSelector"] = json!({"disk": "ssd"});
        }
        let mut affinity = json!({});
        if self.rng.random_bool(0.12) {
            let terms: Vec<Value> = (0..self.rng.random_range(1..3)).map(|_| self.node_term()).collect();
            affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": terms});
        }
        if self.rng.random_bool(0.04) {
            let at = self.rng.random_range(1..=self.nodes);
            affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [format!("node-{at}")]}]}]});
        }
        if self.rng.random_bool(0.2) {
            let terms: Vec<Value> = (0..self.rng.random_range(1..3))
                .map(|_| json!({"weight": self.rng.random_range(1..50), "preference": self.node_term()}))
                .collect();
            affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = terms.into();
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            if self.rng.random_bool(0.15) {
                let terms: Vec<Value> = (0..self.rng.random_range(1..3)).map(|_| self.pod_term()).collect();
                affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"] = terms.into();
            }
            if self.rng.random_bool(0.15) {
                let terms: Vec<Value> = (0..self.rng.random_range(1..3))
                    .map(|_| json!({"weight": self.rng.random_range(1..50), "podAffinityTerm": self.pod_term()}))
                    .collect();
                affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"] = terms.into();
            }
        }
        spec["affinity"] = affinity;
        if self.rng.random_bool(0.3) {
            let constraints: Vec<Value> = (0..self.rng.random_range(1..4))
                .map(|_| {
                    let mut c = json!({
                        "maxSkew": self.rng.random_range(1..4),
                        "topologyKey": pick(&mut self.rng, &KEYS),
                        "whenUnsatisfiable": pick(&mut self.rng, &["DoNotSchedule", "ScheduleAnyway"]),
                        "labelSelector": self.selector(),
                    });
                    if self.rng.random_bool(0.2) && c["whenUnsatisfiable"] == "DoNotSchedule" {
                        c["minDomains"] = self.rng.random_range(1..5).into();
                    }
                    if self.rng.random_bool(0.2) {
                        c["nodeAffinityPolicy"] = "Ignore".into();
                    }
                    if self.rng.random_bool(0.3) {
                        c["nodeTaintsPolicy"] = "Honor".into();
                    }
                    if self.rng.random_bool(0.2) {
                        c["matchLabelKeys"] = json!(["hash"]);
                    }
                    c
                })
                .collect();
            spec["topologySpreadConstraints"] = constraints.into();
        }
        let mut metadata = json!({"name": name, "namespace": pick(&mut self.rng, &NAMESPACES), "uid": name, "labels": labels});
        if self.rng.random_bool(0.4) {
            metadata["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "controller": true}]);
        }
        let started = format!("2026-01-01T00:00:{:02}Z", self.rng.random_range(0..60));
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"startTime": started}}))
            .unwrap()
    }

    fn place(&mut self, pod: PodView, node: &str) {
        let template = self.cluster.template(&pod);
        self.cluster.place(&key(&pod), &template, node, PodFacts::of(&pod));
        self.world.nominated.retain(|n| key(&n.pod) != key(&pod));
        self.world.placed.push(Placed { pod, node: node.to_owned() });
    }

    fn some_placed(&mut self) -> Option<usize> {
        (!self.world.placed.is_empty()).then(|| self.rng.random_range(0..self.world.placed.len()))
    }

    fn disturb(&mut self) {
        match self.rng.random_range(0..14) {
            0 => self.add_node(),
            1 => self.change_node(),
            2 | 3 => {
                if let Some(at) = self.some_placed() {
                    let gone = self.world.placed.swap_remove(at);
                    self.cluster.remove(&key(&gone.pod));
                }
            }
            4 => {
                if let Some(at) = self.some_placed() {
                    let placed = &mut self.world.placed[at];
                    placed.pod.metadata.deletion_timestamp = Some("2026-01-01T01:00:00Z".into());
                    let (pod, node) = (placed.pod.clone(), placed.node.clone());
                    let template = self.cluster.template(&pod);
                    self.cluster.place(&key(&pod), &template, &node, PodFacts::of(&pod));
                }
            }
            5 => {
                // Labels of a pod on a node change.
                if let Some(at) = self.some_placed() {
                    let app = *pick(&mut self.rng, &APPS);
                    let placed = &mut self.world.placed[at];
                    placed.pod.metadata.labels = [("app", app)].into_iter().collect();
                    let (pod, node) = (placed.pod.clone(), placed.node.clone());
                    let template = self.cluster.template(&pod);
                    self.cluster.place(&key(&pod), &template, &node, PodFacts::of(&pod));
                }
            }
            6 => {
                let pod = self.pod();
                let template = self.cluster.template(&pod);
                let node = format!("node-{}", self.rng.random_range(1..=self.nodes));
                self.cluster.nominate(&key(&pod), &template, &node);
                self.world.nominated.push(Placed { pod, node });
            }
            7 => {
                if let Some(gone) = self.world.nominated.pop() {
                    self.cluster.unnominate(&key(&gone.pod));
                }
            }
            8 => {
                let namespace = *pick(&mut self.rng, &NAMESPACES);
                let app = *pick(&mut self.rng, &APPS);
                let view: MapSelectorView =
                    serde_json::from_value(json!({"spec": {"selector": {"app": app}}})).unwrap();
                self.cluster.set_service(
                    namespace,
                    &format!("{app}-{}", self.world.services.len()),
                    Some(&view),
                );
                self.world.services.push((namespace.to_owned(), view.spec.selector.unwrap()));
            }
            9 => {
                let namespace = *pick(&mut self.rng, &NAMESPACES);
                let app = *pick(&mut self.rng, &APPS);
                let view: SetSelectorView =
                    serde_json::from_value(json!({"spec": {"selector": {"matchLabels": {"app": app}}}}))
                        .unwrap();
                self.cluster.set_owner_selector(OwnerKind::ReplicaSet, namespace, app, Some(&view));
                self.world.replica_sets.retain(|(n, a, _)| !(n == namespace && a == app));
                self.world.replica_sets.push((namespace.into(), app.into(), view.spec.selector.unwrap()));
            }
            10 => {
                let team = *pick(&mut self.rng, &["x", "y"]);
                let name = *pick(&mut self.rng, &NAMESPACES);
                self.set_namespace(name, team);
            }
            11 => {
                let namespace = *pick(&mut self.rng, &NAMESPACES);
                let name = format!("b{}", self.world.budgets.len());
                let view: BudgetView = serde_json::from_value(json!({
                    "metadata": {"name": name, "namespace": namespace},
                    "spec": {"selector": self.selector()},
                    "status": {"disruptionsAllowed": self.rng.random_range(0..3)}}))
                .unwrap();
                self.cluster.set_budget(namespace, &name, Some(&view));
                self.world.budgets.push(view);
            }
            12 => {
                // A pod on a node that nobody knows yet.
                let pod = self.pod();
                let node = format!("node-{}", self.nodes + self.rng.random_range(0..3));
                self.place(pod, &node);
            }
            _ => {}
        }
    }

    fn compare(&mut self, pod: &PodView) {
        let template = self.cluster.template(pod);
        let expected = self.world.scores(pod);
        let scores: std::collections::BTreeMap<String, i64> =
            self.cluster.scores(&template).into_iter().collect();
        assert_eq!(scores, expected, "seed {}: scores of {pod:#?}", self.seed);
        let seed = self.rng.random();
        let decision = self.cluster.schedule(&key(pod), &template, None, seed);
        match decision {
            Ok(placement) => {
                assert_eq!(placement.feasible, expected.len(), "seed {}", self.seed);
                let best = expected.values().max().unwrap();
                assert_eq!(expected.get(&placement.node), Some(best), "seed {}: {placement:?}", self.seed);
                self.place(pod.clone(), &placement.node);
            }
            Err(diagnosis) => {
                assert!(expected.is_empty(), "seed {}: {diagnosis:?}", self.seed);
                if !self.world.nodes.is_empty() {
                    assert_eq!(diagnosis.message(), self.world.message(pod), "seed {}", self.seed);
                }
                self.preempt(pod);
            }
        }
    }

    fn preempt(&mut self, pod: &PodView) {
        let template = self.cluster.template(pod);
        let found = self.cluster.preempt(&key(pod), &template, None, self.rng.random());
        let candidates: std::collections::BTreeMap<String, _> = self
            .world
            .nodes
            .iter()
            .filter_map(|n| Some((n.metadata.name.to_string(), self.world.victims(pod, n)?)))
            .collect();
        let best = candidates.values().map(|(_, cost)| cost).min();
        match (&found, best) {
            (Preemption::Nothing { .. }, None) => {}
            (Preemption::Victims { node, victims }, Some(best)) => {
                let (expected, cost) = &candidates[node];
                assert_eq!(cost, best, "seed {}: {found:?} of {candidates:#?}", self.seed);
                let mut sorted = (victims.clone(), expected.clone());
                sorted.0.sort();
                sorted.1.sort();
                assert_eq!(sorted.0, sorted.1, "seed {}", self.seed);
                for victim in victims {
                    self.cluster.remove(victim);
                    self.world.placed.retain(|p| key(&p.pod) != *victim);
                }
                self.cluster.nominate(&key(pod), &template, node);
                self.world.nominated.push(Placed { pod: pod.clone(), node: node.clone() });
                // Room was made: now it must fit there.
                let placement = self.cluster.schedule(&key(pod), &template, Some(node), 0);
                assert_eq!(placement.map(|p| p.node).as_ref(), Ok(node), "seed {}", self.seed);
                self.place(pod.clone(), node);
            }
            _ => panic!("seed {}: {found:?} of {candidates:#?} for {pod:#?}", self.seed),
        }
    }
}

fn run(seed: u64) {
    let mut both = Both::new(seed);
    let mut before: Vec<PodView> = Vec::new();
    for step in 0..STEPS {
        both.disturb();
        // Pods that mean the same as an earlier one use what was evaluated for it.
        let pod = if before.is_empty() || both.rng.random_bool(0.4) {
            let pod = both.pod();
            before.push(pod.clone());
            pod
        } else {
            let mut pod = pick(&mut both.rng, &before).clone();
            pod.metadata.name = format!("again-{step}").into();
            pod.metadata.uid = pod.metadata.name.clone();
            pod
        };
        both.compare(&pod);
    }
}

#[test]
fn random_clusters_are_evaluated_as_the_rules_say() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    if let Some(seed) = number("SKEP_SCHED_SEED") {
        return run(seed);
    }
    FOUND.into_iter().chain(0..CLUSTERS).for_each(run);
    let first = u64::from(rand::random::<u32>());
    println!("seeds from {first}");
    (0..number("SKEP_SCHED_CLUSTERS").unwrap_or(RANDOM_CLUSTERS)).for_each(|seed| run(first + seed));
}

/// What was once found out about a pod on a node must not outlive the namespace labels that it depends on.
#[test]
fn terms_that_come_with_a_pod_follow_the_labels_of_namespaces() {
    let namespace = |team: &str| -> NamespaceView {
        serde_json::from_value(json!({"metadata": {"name": "one", "labels": {"team": team}}})).unwrap()
    };
    let pod = |name: &str, namespace: &str, affinity: Value| -> PodView {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {"affinity": affinity, "containers": [{"name": "c", "image": "i"}]}}))
        .unwrap()
    };
    let mut cluster = Cluster::new();
    cluster.upsert_namespace(&namespace("x"));
    for (name, zone) in [("n1", "z1"), ("n2", "z2")] {
        let node: NodeView = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"zone": zone}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}}))
        .unwrap();
        cluster.upsert_node(&node);
    }
    // Evaluated before anybody says anything about namespaces, and with something to count, so that it stays.
    let near = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
        "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "nobody"}}}}]}});
    let waiting = pod("waiting", "one", near);
    let template = cluster.template(&waiting);
    cluster.scores(&template);
    let away = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {}, "namespaceSelector": {"matchLabels": {"team": "x"}}}]}});
    let hermit = pod("hermit", "two", away);
    let of_hermit = cluster.template(&hermit);
    cluster.place(&key(&hermit), &of_hermit, "n1", PodFacts::of(&hermit));
    let nodes = |cluster: &mut Cluster| cluster.scores(&template).len();
    assert_eq!(nodes(&mut cluster), 1);
    cluster.upsert_namespace(&namespace("y"));
    assert_eq!(nodes(&mut cluster), 2);
    cluster.upsert_namespace(&namespace("x"));
    assert_eq!(nodes(&mut cluster), 1);
}

/// Room kept for a pod counts against others of its kind, whoever was looked at before.
#[test]
fn pods_of_a_kind_are_not_promised_the_same_room() {
    let pod = |name: &str, priority: i32| -> PodView {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "one", "uid": name},
            "spec": {"priority": priority,
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}}))
        .unwrap()
    };
    let mut cluster = Cluster::new();
    let node: NodeView = serde_json::from_value(json!({
        "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "memory": "8Gi", "pods": "10"}}}))
    .unwrap();
    cluster.upsert_node(&node);
    let low = pod("low", 0);
    let of_low = cluster.template(&low);
    cluster.place(&key(&low), &of_low, "n", PodFacts::of(&low));
    let (first, second) = (pod("first", 10), pod("second", 10));
    let template = cluster.template(&first);
    let made = Preemption::Victims { node: "n".to_owned(), victims: vec![key(&low)] };
    assert_eq!(cluster.preempt(&key(&first), &template, None, 0), made);
    cluster.nominate(&key(&first), &template, "n");
    assert_eq!(cluster.preempt(&key(&first), &template, Some("n"), 0), made);
    let none = cluster.preempt(&key(&second), &template, None, 0);
    assert!(matches!(none, Preemption::Nothing { .. }), "{none:?}");
}
