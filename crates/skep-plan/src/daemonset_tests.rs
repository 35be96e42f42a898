use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::time::Time;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn set(strategy: Value, spec: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "ns", "uid": "set", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": strategy, "revisionHistoryLimit": 1,
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": spec}},
    }))
    .unwrap()
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn node(name: &str, labels: Value, taints: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}))
        .unwrap()
}

/// A DaemonSet, nodes, and pods as the API server has them.
struct World {
    set: DaemonSet,
    nodes: Vec<Node>,
    pods: Vec<Value>,
    revisions: Vec<Value>,
    made: usize,
}

impl World {
    fn new(set: DaemonSet, count: usize) -> World {
        let nodes = (0..count).map(|i| node(&format!("n{i}"), json!({}), json!([]))).collect();
        World { set, nodes, pods: Vec::new(), revisions: Vec::new(), made: 0 }
    }

    fn sync(&mut self) -> bool {
        let pods: Vec<Pod> = self.pods.iter().map(|v| serde_json::from_value(v.clone()).unwrap()).collect();
        let revisions: Vec<Revision> =
            self.revisions.iter().map(|v| serde_json::from_value(v.clone()).unwrap()).collect();
        let nodes = self.nodes.clone();
        let p = plan(
            now(),
            &self.set,
            &nodes.iter().collect::<Vec<_>>(),
            &pods.iter().collect::<Vec<_>>(),
            &revisions.iter().collect::<Vec<_>>(),
            &mut |_| Ok(()),
        );
        let mut changed = p.status.is_some() || !p.create.is_empty() || !p.delete.is_empty();
        match p.newest {
            Some(Newest::New(new)) => {
                let mut body = new.body;
                body["metadata"]["uid"] = json!(new.name);
                self.revisions.push(body);
                changed = true;
            }
            Some(Newest::Again { name, revision, .. }) => {
                let old = self.revisions.iter_mut().find(|r| r["metadata"]["name"] == *name).unwrap();
                old["revision"] = json!(revision);
                changed = true;
            }
            _ => {}
        }
        let maker = PodMaker::new(&self.set, &p.hash);
        for node in &p.create {
            let mut pod: Value = serde_json::from_str(&maker.body(node)).unwrap();
            self.made += 1;
            pod["metadata"]["name"] = json!(format!("d-{}", self.made));
            pod["metadata"]["uid"] = json!(format!("u{}", self.made));
            pod["metadata"]["creationTimestamp"] =
                json!(Time::of(now()).plus_seconds(i64::try_from(self.made).unwrap()));
            pod["status"] = json!({"phase": "Pending"});
            self.pods.push(pod);
        }
        for gone in &p.delete {
            let pod = self.pods.iter_mut().find(|v| v["metadata"]["name"] == *gone.name).unwrap();
            pod["metadata"]["deletionTimestamp"] = json!(Time::of(now()));
        }
        let dead: Vec<String> = p.delete_revisions.iter().map(|r| r.meta.name.to_string()).collect();
        self.revisions.retain(|r| !dead.iter().any(|n| r["metadata"]["name"] == **n));
        if let Some(status) = p.status {
            self.set.status = status;
        }
        changed
    }

    fn run_one(&mut self, i: usize) {
        let pod = &mut self.pods[i];
        if pod["metadata"]["deletionTimestamp"].is_string() {
            self.pods.remove(i);
        } else if pod["status"]["phase"] == "Pending" {
            let term = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
            let node = pod.pointer(term).unwrap().clone();
            pod["spec"]["nodeName"] = node;
            pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        }
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            let changed = self.sync();
            let before = self.pods.clone();
            (0..self.pods.len()).rev().for_each(|i| self.run_one(i));
            if !changed && before == self.pods {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.set.status);
    }

    /// Nodes on which a pod is ready and stays.
    fn served(&self) -> usize {
        let of = |p: &Value| {
            (p["status"]["conditions"][0]["status"] == "True").then(|| p["spec"]["nodeName"].to_string())
        };
        self.pods
            .iter()
            .filter(|p| !p["metadata"]["deletionTimestamp"].is_string())
            .filter_map(of)
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    }

    fn image(&mut self, image: &str) {
        self.set.template = Template::from_value(
            &json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}}),
        );
        self.set.meta.generation += 1;
    }
}

#[test]
fn each_node_that_fits_gets_a_pod() {
    let selector = json!({"nodeSelector": {"disk": "ssd"}});
    let mut w = World::new(set(rolling(0, 1), selector), 0);
    w.nodes = vec![
        node("fits", json!({"disk": "ssd"}), json!([])),
        node("other", json!({"disk": "hdd"}), json!([])),
        node("tainted", json!({"disk": "ssd"}), json!([{"key": "x", "effect": "NoSchedule"}])),
        node(
            "cordoned",
            json!({"disk": "ssd"}),
            json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
        ),
        node("prefers", json!({"disk": "ssd"}), json!([{"key": "x", "effect": "PreferNoSchedule"}])),
    ];
    w.settle();
    let mut on: Vec<&str> = w.pods.iter().map(|p| p["spec"]["nodeName"].as_str().unwrap()).collect();
    on.sort_unstable();
    assert_eq!(on, ["cordoned", "fits", "prefers"]);
    let s = &w.set.status;
    assert_eq!(
        (
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_ready,
            s.number_available,
            s.number_unavailable
        ),
        (3, 3, 3, 3, 0)
    );
    assert_eq!((s.updated_number_scheduled, s.number_misscheduled), (3, 0));
    let spec = &w.pods[0]["spec"];
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 6);
    assert_eq!(
        w.pods[0]["metadata"]["labels"][POD_REVISION],
        w.revisions[0]["metadata"]["labels"][POD_REVISION]
    );

    // A taint that only keeps new pods out leaves the old one alone; one that drives out does not.
    w.nodes[0] = node("fits", json!({"disk": "ssd"}), json!([{"key": "y", "effect": "NoSchedule"}]));
    w.nodes[4] = node("prefers", json!({"disk": "ssd"}), json!([{"key": "y", "effect": "NoExecute"}]));
    w.sync();
    assert_eq!((w.set.status.desired_number_scheduled, w.set.status.number_misscheduled), (1, 2));
    w.settle();
    assert_eq!((w.pods.len(), w.set.status.number_misscheduled), (2, 1));
}

#[test]
fn affinities_and_tolerations_count() {
    let spec = json!({
        "tolerations": [{"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]},
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["special"]}]},
        ]}}},
    });
    let p = Placement::of(&daemon_spec(&set(rolling(0, 1), spec).template));
    let table = [
        (node("a", json!({"zone": "x"}), json!([])), (true, true)),
        (node("a", json!({"zone": "y"}), json!([])), (false, false)),
        (node("special", json!({}), json!([])), (true, true)),
        (
            node("a", json!({"zone": "x"}), json!([{"key": "gpu", "value": "a", "effect": "NoSchedule"}])),
            (true, true),
        ),
        (
            node("a", json!({"zone": "x"}), json!([{"key": "gpu", "value": "b", "effect": "NoSchedule"}])),
            (false, true),
        ),
        (
            node(
                "a",
                json!({"zone": "x"}),
                json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]),
            ),
            (true, true),
        ),
        (node("a", json!({"zone": "x"}), json!([{"key": "z", "effect": "NoExecute"}])), (false, false)),
    ];
    for (i, (node, want)) in table.into_iter().enumerate() {
        assert_eq!(p.fits(&node), want, "row {i}");
    }
}

#[test]
fn failed_and_finished_pods_are_replaced() {
    let mut w = World::new(set(rolling(0, 1), json!({})), 2);
    w.settle();
    w.pods[0]["status"] = json!({"phase": "Failed"});
    w.pods[1]["status"] = json!({"phase": "Succeeded"});
    let names: Vec<Value> = w.pods.iter().map(|p| p["metadata"]["name"].clone()).collect();
    w.settle();
    assert_eq!(w.pods.len(), 2);
    assert!(w.pods.iter().all(|p| !names.contains(&p["metadata"]["name"])));
    // One that failed a moment ago waits.
    let mut pod = w.pods[0].clone();
    pod["status"] = json!({"phase": "Failed"});
    let failed: Pod = serde_json::from_value(pod).unwrap();
    let nodes = [&w.nodes[1], &w.nodes[0]];
    let p = plan(now(), &w.set, &nodes, &[&failed], &[], &mut |_| Err(Duration::from_secs(7)));
    assert!(p.delete.is_empty() && p.requeue_after == Some(Duration::from_secs(7)));
}

#[test]
fn on_delete_waits_for_somebody() {
    let mut w = World::new(set(json!({"type": "OnDelete"}), json!({})), 3);
    w.settle();
    w.image("v2");
    w.settle();
    assert_eq!(w.set.status.updated_number_scheduled, 0);
    w.pods.remove(1);
    w.settle();
    assert_eq!(w.set.status.updated_number_scheduled, 1);
}

#[test]
fn pods_for_nodes_that_are_gone_go() {
    let mut w = World::new(set(rolling(0, 1), json!({})), 2);
    w.sync();
    w.nodes.pop();
    w.sync();
    assert_eq!(w.pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_string()).count(), 1);
}

#[test]
fn revisions_are_kept_within_the_limit() {
    let mut w = World::new(set(rolling(0, 1), json!({})), 1);
    for i in 0..4 {
        w.image(&format!("v{i}"));
        w.settle();
    }
    assert_eq!(w.revisions.len(), 2);
    assert_eq!(w.set.status.updated_number_scheduled, 1);
}

/// Whatever comes in which order: an update never leaves more nodes without a pod than it may, with surge none at all, and
/// ends with every pod new.
#[test]
fn updates_stay_within_their_limits_and_end() {
    for seed in 0..150_u64 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let count = rng.random_range(1..7);
        let surge = rng.random_range(0..3);
        let unavailable = if surge == 0 { rng.random_range(1..4) } else { 0 };
        let mut w = World::new(set(rolling(surge, unavailable), json!({})), count);
        w.settle();
        for round in 0..3 {
            w.image(&format!("v{round}"));
            for _ in 0..30 {
                if rng.random_bool(0.5) {
                    w.sync();
                } else {
                    let all: Vec<usize> = (0..w.pods.len()).collect();
                    if let Some(i) = all.choose(&mut rng) {
                        w.run_one(*i);
                    }
                }
                let least = count - usize::try_from(unavailable).unwrap().min(count);
                assert!(w.served() >= least, "seed {seed}: {} of {count}", w.served());
            }
        }
        w.settle();
        let n = i32::try_from(count).unwrap();
        assert_eq!(
            (w.pods.len(), w.set.status.updated_number_scheduled, w.set.status.number_available),
            (count, n, n),
            "seed {seed}"
        );
    }
}
