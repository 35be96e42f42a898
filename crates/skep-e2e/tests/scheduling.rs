//! From a pod to a node: the real scheduler in the control plane, simulated nodes, kubectl.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use skep_e2e::{Kubectl, Server, eventually};

/// `skep sim nodes`, ended with the test.
struct Nodes(Child);

impl Nodes {
    fn start(server: &Server, arguments: &[&str]) -> Nodes {
        let child = Command::new(skep_e2e::skep())
            .args(["sim", "nodes"])
            .args(arguments)
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Nodes(child)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(kubectl: &Kubectl, what: &[&str]) -> Value {
    let mut arguments = vec!["get", "-o", "json"];
    arguments.extend(what);
    serde_json::from_str(&kubectl.run(&arguments)).unwrap()
}

fn items(kubectl: &Kubectl, what: &[&str]) -> Vec<Value> {
    get(kubectl, what)["items"].as_array().unwrap().clone()
}

/// Waits until something about a pod is as wanted.
async fn until(kubectl: &Kubectl, pod: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let last = std::cell::RefCell::new(Value::Null);
    eventually(|| async {
        let found = get(kubectl, &["pods", "--field-selector", &format!("metadata.name={pod}")]);
        last.replace(found["items"][0].clone());
        let last = last.borrow();
        if wanted(&last) { Ok(()) } else { Err(last.to_string()) }
    })
    .await;
    last.into_inner()
}

fn runs(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  containers: [{{name: c, image: x, resources: {{requests: {{cpu: \"1\"}}}}}}]\n{more}---\n"
    )
}

fn tenant(server: &Server, name: &str) -> Kubectl {
    Kubectl::new(Path::new(&server.tenant(name)))
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_to_nodes_of_their_own_tenant_run_and_go() {
    let server = Server::control_plane();
    let (one, two) = (tenant(&server, "one"), tenant(&server, "two"));
    let _nodes = Nodes::start(&server, &["4", "--tenant", "one", "--zones", "2"]);
    let all: String = (0..12).map(|i| pod(&format!("p{i}"), "")).collect();
    one.pipe(&["create"], &all);
    two.pipe(&["create"], &pod("alone", ""));
    eventually(|| async {
        let pods = items(&one, &["pods"]);
        let running = pods.iter().filter(|p| runs(p)).count();
        if running == 12 { Ok(()) } else { Err(format!("{running} of 12 run")) }
    })
    .await;
    let mut per_node = std::collections::BTreeMap::new();
    for pod in items(&one, &["pods"]) {
        *per_node.entry(pod["spec"]["nodeName"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    // Equal pods on equal nodes: the least allocated node is best.
    assert_eq!(per_node.values().copied().collect::<Vec<i32>>(), [3, 3, 3, 3], "{per_node:?}");
    let found = until(&two, "alone", |p| p["status"]["conditions"][0]["reason"] == "Unschedulable").await;
    assert_eq!(found["status"]["conditions"][0]["message"], "no nodes available to schedule pods");
    eventually(|| async {
        let events = items(&one, &["events"]);
        let told = events.iter().filter(|e| {
            let message = e["message"].as_str().unwrap_or_default();
            e["reason"] == "Scheduled" && message.starts_with("Successfully assigned default/p")
        });
        if told.count() > 0 { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    one.run(&["delete", "pod", "p0", "--wait=true"]);
    assert_eq!(items(&one, &["pods"]).len(), 11);
    assert!(server.complaints().is_empty(), "{:?}", server.complaints());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_says_why_and_goes_once_it_can() {
    let server = Server::control_plane();
    let kubectl = tenant(&server, "shop");
    let _nodes = Nodes::start(&server, &["3", "--tenant", "shop", "--allocatable", "cpu=2"]);
    kubectl.pipe(&["create"], &pod("big", "").replace("cpu: \"1\"", "cpu: \"4\""));
    kubectl.pipe(&["create"], &pod("gated", "  schedulingGates: [{name: example.com/wait}]\n"));
    kubectl.pipe(&["create"], &pod("other", "  schedulerName: mine\n"));
    let message = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: \
                   3 Preemption is not helpful for scheduling.";
    until(&kubectl, "big", |p| p["status"]["conditions"][0]["message"] == message).await;
    eventually(|| async {
        let events = items(&kubectl, &["events", "--field-selector", "involvedObject.name=big"]);
        let told = events.iter().any(|e| e["reason"] == "FailedScheduling" && e["message"] == message);
        if told { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    let gated = until(&kubectl, "gated", |p| p["metadata"]["name"] == "gated").await;
    assert_eq!(gated["status"]["conditions"][0]["reason"], "SchedulingGated");
    kubectl.run(&[
        "patch",
        "pod",
        "gated",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#,
    ]);
    until(&kubectl, "gated", runs).await;
    let _large =
        Nodes::start(&server, &["1", "--tenant", "shop", "--prefix", "large-", "--allocatable", "cpu=8"]);
    let big = until(&kubectl, "big", runs).await;
    assert_eq!(big["spec"]["nodeName"], "large-0");
    let other = until(&kubectl, "other", |p| p["metadata"]["name"] == "other").await;
    assert_eq!(other["spec"]["nodeName"], Value::Null);
    assert!(server.complaints().is_empty(), "{:?}", server.complaints());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_important_push_out_the_less_important() {
    let server = Server::control_plane();
    let kubectl = tenant(&server, "shop");
    let _nodes = Nodes::start(&server, &["2", "--tenant", "shop", "--allocatable", "cpu=2"]);
    let class =
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n---\n";
    let low: String = (0..4).map(|i| pod(&format!("low{i}"), "")).collect();
    kubectl.pipe(&["create"], &format!("{class}{low}"));
    for i in 0..4 {
        until(&kubectl, &format!("low{i}"), runs).await;
    }
    kubectl.pipe(&["create"], &pod("high", "  priorityClassName: high\n"));
    until(&kubectl, "high", runs).await;
    let left = items(&kubectl, &["pods", "-l", "app=web"]);
    assert_eq!(left.len(), 4, "one of the others went: {left:?}");
    eventually(|| async {
        let events = items(&kubectl, &["events"]);
        if events.iter().any(|e| e["reason"] == "Preempted") { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
    assert!(server.complaints().is_empty(), "{:?}", server.complaints());
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_spread_and_keep_apart_and_end_by_themselves() {
    let server = Server::control_plane();
    let kubectl = tenant(&server, "shop");
    let _nodes = Nodes::start(&server, &["6", "--tenant", "shop", "--zones", "3"]);
    let spread = "  topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]\n";
    let apart = "  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}]}}\n";
    let all: String = (0..7).map(|i| pod(&format!("p{i}"), &format!("{spread}{apart}"))).collect();
    kubectl.pipe(&["create"], &all);
    eventually(|| async {
        let running = items(&kubectl, &["pods"]).iter().filter(|p| runs(p)).count();
        if running == 6 { Ok(()) } else { Err(format!("{running} of 6 run")) }
    })
    .await;
    let pods = items(&kubectl, &["pods"]);
    let nodes: std::collections::BTreeSet<&str> =
        pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    assert_eq!(nodes.len(), 6, "each has a node of its own");
    let waiting = pods.iter().find(|p| !runs(p)).unwrap();
    let message = waiting["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("0/6 nodes are available: "), "{message}");
    let job = pod("job", "  restartPolicy: Never\n").replace("app: web", "app: job");
    kubectl.pipe(&["create"], &job);
    until(&kubectl, "job", |p| p["status"]["phase"] == "Succeeded").await;
    assert!(server.complaints().is_empty(), "{:?}", server.complaints());
}

/// Volumes that nobody makes keep their own pods back, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_volumes_waits_alone() {
    const WAITING: usize = 40;
    let server = Server::control_plane();
    let kubectl = tenant(&server, "shop");
    let _nodes = Nodes::start(&server, &["2", "--tenant", "shop", "--allocatable", "cpu=100"]);
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: slow}\n\
                 provisioner: example.com/never\nvolumeBindingMode: WaitForFirstConsumer\n---\n";
    let waiting = |i: usize| {
        let claim = format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: c{i}}}\nspec:\n  storageClassName: slow\n  \
             accessModes: [ReadWriteOnce]\n  resources: {{requests: {{storage: 1Gi}}}}\n---\n"
        );
        let volumes = format!("  volumes: [{{name: v, persistentVolumeClaim: {{claimName: c{i}}}}}]\n");
        claim + &pod(&format!("w{i}"), &volumes)
    };
    kubectl.pipe(&["create"], &(class.to_owned() + &(0..WAITING).map(waiting).collect::<String>()));
    eventually(|| async {
        let claims = items(&kubectl, &["persistentvolumeclaims"]);
        let asked = |c: &&Value| {
            let annotations = &c["metadata"]["annotations"];
            annotations["volume.kubernetes.io/selected-node"].as_str().is_some_and(|n| !n.is_empty())
        };
        let asked = claims.iter().filter(asked).count();
        if asked == WAITING { Ok(()) } else { Err(format!("{asked} of {WAITING} volumes are asked for")) }
    })
    .await;
    kubectl.pipe(&["create"], &pod("free", ""));
    until(&kubectl, "free", runs).await;
    let pods = items(&kubectl, &["pods"]);
    let bound = pods.iter().filter(|p| p["spec"]["nodeName"].is_string()).count();
    assert_eq!((pods.len(), bound), (WAITING + 1, 1));
}
