//! How many pods are placed per second, in the shapes of upstream's `scheduler_perf`.
//!
//! `cargo bench -p skep-sched [-- NODES]`. Each pod is decided one by one, put on its node, and counts for the next.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_sched::views::PodView;
use skep_sched::{Cluster, PodFacts, Preemption, TemplateRef};

const NODES: usize = 5_000;
const PODS: usize = 10_000;

fn cluster(nodes: usize, cpu: &str) -> Cluster {
    let mut cluster = Cluster::new();
    for i in 0..nodes {
        let name = format!("node-{i}");
        let view = json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
            "status": {"allocatable": {"cpu": cpu, "memory": "32Gi", "pods": "110"}}});
        cluster.upsert_node(&serde_json::from_value(view).unwrap());
    }
    cluster
}

fn pod(spec: Value, labels: Value) -> PodView {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

/// Places pods until there are `pods` or none fits; returns how many and how long it took.
fn fill(cluster: &mut Cluster, template: &TemplateRef, pods: usize, name: &str) -> (usize, Duration) {
    let start = Instant::now();
    for i in 0..pods {
        let key = format!("default/{name}-{i}");
        let Ok(placement) = cluster.schedule(&key, template, None, i as u64) else {
            return (i, start.elapsed());
        };
        cluster.place(&key, template, &placement.node, PodFacts::default());
    }
    (pods, start.elapsed())
}

fn report(name: &str, pods: usize, took: Duration, floor: f64) {
    let rate = pods as f64 / took.as_secs_f64();
    let verdict = if rate >= floor { "" } else { "   BELOW ITS FLOOR" };
    println!(
        "{name:<34} {pods:>6} pods {:>9.1} ms {rate:>10.0} pods/s   floor {floor:>7.0}{verdict}",
        took.as_secs_f64() * 1e3
    );
}

fn case(nodes: usize, name: &str, spec: Value, pods: usize, before: usize, floor: f64) {
    let mut cluster = cluster(nodes, "4");
    // Others are there already, as in upstream's measurements.
    let other = pod(json!({}), json!({"app": "other"}));
    let other = cluster.template(&other);
    fill(&mut cluster, &other, before, "other");
    let template = cluster.template(&pod(spec, json!({"app": "this"})));
    let (placed, took) = fill(&mut cluster, &template, pods, name);
    report(name, placed, took, floor);
}

/// Several workloads at once, taking turns, as a busy tenant has.
fn mixed(nodes: usize, workloads: usize, floor: f64) {
    let mut cluster = cluster(nodes, "4");
    let templates: Vec<TemplateRef> = (0..workloads)
        .map(|i| {
            let app = format!("app-{i}");
            let view = json!({"spec": {"selector": {"app": app}}});
            cluster.set_service("default", &app, Some(&serde_json::from_value(view).unwrap()));
            cluster.template(&pod(json!({}), json!({"app": app})))
        })
        .collect();
    let start = Instant::now();
    for i in 0..PODS {
        let key = format!("default/mixed-{i}");
        let template = &templates[i % workloads];
        let placement = cluster.schedule(&key, template, None, i as u64).unwrap();
        cluster.place(&key, template, &placement.node, PodFacts::default());
    }
    report(&format!("{workloads} services taking turns"), PODS, start.elapsed(), floor);
}

/// Every node is full of four pods of low priority; each pod of high priority needs the room of three.
fn preemption(nodes: usize, floor: f64) {
    let mut cluster = cluster(nodes, "4");
    let mut low = pod(json!({"priority": 0}), json!({}));
    low.spec.containers[0].resources.requests = [("cpu", "900m".parse().unwrap())].into_iter().collect();
    let low = cluster.template(&low);
    for node in 0..nodes {
        for i in 0..4 {
            let facts = PodFacts { started: Some(i), ..PodFacts::default() };
            cluster.place(&format!("default/low-{node}-{i}"), &low, &format!("node-{node}"), facts);
        }
    }
    let mut high = pod(json!({"priority": 10}), json!({}));
    high.spec.containers[0].resources.requests = [("cpu", "3".parse().unwrap())].into_iter().collect();
    let high = cluster.template(&high);
    let pods = nodes.min(5_000);
    let start = Instant::now();
    for i in 0..pods {
        let key = format!("default/high-{i}");
        assert!(cluster.schedule(&key, &high, None, i as u64).is_err());
        let Preemption::Victims { node, victims } = cluster.preempt(&key, &high, None, i as u64) else {
            panic!("no victims for {key}");
        };
        cluster.nominate(&key, &high, &node);
        for victim in &victims {
            cluster.remove(victim);
        }
        let placement = cluster.schedule(&key, &high, Some(&node), i as u64).unwrap();
        cluster.place(&key, &high, &placement.node, PodFacts::default());
    }
    report("preemption", pods, start.elapsed(), floor);
}

fn main() {
    let nodes = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(NODES);
    println!("{nodes} nodes");
    let this = json!({"matchLabels": {"app": "this"}});
    let term = |key: &str| json!({"topologyKey": key, "labelSelector": this});
    let spread = |when: &str, key: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": this}]})
    };
    let (host, zone) = ("kubernetes.io/hostname", "topology.kubernetes.io/zone");
    case(nodes, "basic", json!({}), PODS, 1_000, 50_000.0);
    case(nodes, "spread over zones", spread("DoNotSchedule", zone), PODS, 5_000, 5_000.0);
    case(nodes, "spread over hosts", spread("DoNotSchedule", host), PODS, 5_000, 5_000.0);
    case(nodes, "preferred spread over zones", spread("ScheduleAnyway", zone), PODS, 5_000, 5_000.0);
    case(nodes, "preferred spread over hosts", spread("ScheduleAnyway", host), PODS, 5_000, 5_000.0);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    case(
        nodes,
        "required anti-affinity, hosts",
        json!({"affinity": {"podAntiAffinity": {required: [term(host)]}}}),
        nodes.min(PODS),
        1_000,
        5_000.0,
    );
    case(
        nodes,
        "required affinity, zones",
        json!({"affinity": {"podAffinity": {required: [term(zone)]}}}),
        PODS,
        5_000,
        5_000.0,
    );
    case(
        nodes,
        "required affinity, hosts",
        json!({"affinity": {"podAffinity": {required: [term(host)]}}}),
        PODS,
        5_000,
        5_000.0,
    );
    let weighted = |key: &str| json!([{"weight": 1, "podAffinityTerm": term(key)}]);
    case(
        nodes,
        "preferred affinity, hosts",
        json!({"affinity": {"podAffinity": {preferred: weighted(host)}}}),
        PODS,
        5_000,
        5_000.0,
    );
    case(
        nodes,
        "preferred anti-affinity, hosts",
        json!({"affinity": {"podAntiAffinity": {preferred: weighted(host)}}}),
        PODS,
        5_000,
        5_000.0,
    );
    let node_term = json!([{"weight": 1, "preference": {"matchExpressions":
        [{"key": zone, "operator": "In", "values": ["zone-1"]}]}}]);
    case(
        nodes,
        "preferred node affinity",
        json!({"affinity": {"nodeAffinity": {preferred: node_term}}}),
        PODS,
        1_000,
        5_000.0,
    );
    mixed(nodes, 100, 5_000.0);
    preemption(nodes, 5_000.0);
}
