//! Many pods on one machine. `SKEP_MANY_PODS` says how many (100, which is what is promised). Needs root and busybox; says so
//! without.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, PATIENCE, wait_for};

#[test]
fn a_machine_holds_many_pods() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let count: usize = std::env::var("SKEP_MANY_PODS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "", None);
    let shop = cloud.administrator("shop");
    let pool = r#"{"spec":{"maxMachines":1,"flavorNames":["medium"]}}"#;
    shop.run(&["patch", "nodepool", "default", "--type=merge", "-p", pool]);
    let deployment = |replicas: usize| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "many"}}, "template": {
                "metadata": {"labels": {"app": "many"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox:test",
                    "command": ["sleep", "100000"], "volumeMounts": [{"name": "e", "mountPath": "/e"}],
                    "resources": {"requests": {"cpu": "5m", "memory": "1Mi"}}}],
                    "volumes": [{"name": "e", "emptyDir": {}}]}}}})
    };
    shop.apply(&deployment(1));
    let ready = |wanted: usize| {
        let (good, said) = shop.try_run(&["get", "deploy", "many", "-o", "jsonpath={.status.readyReplicas}"]);
        good && said == wanted.to_string()
    };
    wait_for("the first pod", || ready(1).then_some(()));
    // The others, by the clock: as many as there are may take as often the patience of one.
    let begun = Instant::now();
    shop.apply(&deployment(count));
    while !ready(count) {
        assert!(begun.elapsed() < PATIENCE * 5, "{}", shop.run(&["get", "pods", "-o", "wide"]));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    println!("{} pods more were ready after {} ms", count - 1, begun.elapsed().as_millis());
    let pods: Value = serde_json::from_str(&shop.run(&["get", "pods", "-o", "json"])).unwrap();
    let pods = pods["items"].as_array().unwrap();
    let distinct = |field: &str, part: &str| {
        pods.iter().map(|p| p[field][part].as_str().unwrap()).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((pods.len(), distinct("status", "podIP"), distinct("spec", "nodeName")), (count, count, 1));
    for pod in pods {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod:#}");
    }
    // All are there for others as one alone is: the last is entered, and reaches the first.
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    let ip = pods[0]["status"]["podIP"].as_str().unwrap();
    shop.run(&["exec", &name(&pods[count - 1]), "--", "ping", "-c", "1", "-W", "5", ip]);
    shop.apply(&deployment(0));
    let begun = Instant::now();
    loop {
        let (good, left) = shop.try_run(&["get", "pods", "-o", "name"]);
        // The machine's first process and its agent stay.
        if good && left.trim().is_empty() && cloud.processes().len() <= 2 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE * 5, "{left}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    println!("all were gone after {} ms", begun.elapsed().as_millis());
    cloud.down(&[]);
}
