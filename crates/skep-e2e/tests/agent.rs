//! Real containers on a real node agent: what runs, what becomes of it, what is left.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_e2e::Server;
use skep_e2e::agent::{Node, Pods, condition, container, eventually, impossible};

fn sh(script: &str) -> Value {
    json!(["sh", "-c", script])
}

macro_rules! or_skip {
    () => {
        if let Some(why) = impossible() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

async fn start(tenant: &str) -> (Server, Node, Pods) {
    let server = Server::start();
    let node = Node::start(&server, tenant, &[]);
    let pods = Pods::new(&server, &node);
    pods.node_ready().await;
    (server, node, pods)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_pods() {
    or_skip!();
    let (_server, node, pods) = start("life").await;

    // A node as clients expect one.
    let object = pods.node_ready().await;
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "node-1");
    assert_eq!(object["status"]["nodeInfo"]["operatingSystem"], "linux");
    assert_eq!(object["status"]["allocatable"]["pods"], "110");
    let lease: Value = eventually("a lease", || async {
        pods.client.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1").await.ok()
    })
    .await;
    assert_eq!(lease["spec"]["holderIdentity"], "node-1");

    // One that ends well, and one that does not.
    let begun = Instant::now();
    pods.create(
        "good",
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "command": sh("echo hello; exit 0")}]}),
    )
    .await;
    let pod = pods.phase("good", "Succeeded").await;
    println!("bound and succeeded after {} ms", begun.elapsed().as_millis());
    let a = container(&pod, "a");
    assert_eq!(a["state"]["terminated"]["exitCode"], 0);
    assert_eq!(a["state"]["terminated"]["reason"], "Completed");
    assert_eq!(condition(&pod, "Ready"), "False");
    let log = eventually("its log, over the tunnel", || async {
        let path = "/api/v1/namespaces/default/pods/good/log";
        pods.client.request(http::Method::GET, path, "application/json", Vec::new()).await.ok()
    })
    .await;
    assert_eq!(log.as_ref(), b"hello\n");
    pods.create("bad", json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "command": sh("echo why > /dev/termination-log; exit 3")},
        {"name": "b", "command": sh("echo last words; exit 4"), "terminationMessagePolicy": "FallbackToLogsOnError"}]}))
        .await;
    let pod = pods.phase("bad", "Failed").await;
    let (a, b) = (container(&pod, "a"), container(&pod, "b"));
    assert_eq!(
        (&a["state"]["terminated"]["exitCode"], &a["state"]["terminated"]["message"]),
        (&json!(3), &json!("why\n"))
    );
    assert_eq!(b["state"]["terminated"]["exitCode"], 4);
    assert_eq!(b["state"]["terminated"]["message"], "last words\n");
    assert_eq!(a["state"]["terminated"]["reason"], "Error");

    // One that runs until it is deleted, and says good-bye.
    pods.create(
        "runs",
        json!({"terminationGracePeriodSeconds": 20, "containers": [{"name": "a",
        "command": sh("trap 'echo bye; exit 0' TERM; touch /tmp/ready; while true; do sleep 0.1; done"),
        // The first process of a container ignores what it has no handler for: it must have come to its own.
        "readinessProbe": {"periodSeconds": 1, "exec": {"command": sh("test -e /tmp/ready")}}}]}),
    )
    .await;
    let pod = pods.ready("runs").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(pod["status"]["podIP"].as_str().unwrap().starts_with("10."), "{}", pod["status"]["podIP"]);
    assert_eq!(condition(&pod, "PodReadyToStartContainers"), "True");
    let begun = Instant::now();
    pods.delete("runs").await;
    assert!(begun.elapsed() < Duration::from_secs(15), "it ended when asked");
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        pods.event("runs", reason).await;
    }
    for name in ["good", "bad"] {
        pods.delete(name).await;
    }
    eventually("nothing is left", || async {
        let runtime = std::fs::read_dir(node.directory.join("data/runtime/pods")).unwrap().count();
        let pods = std::fs::read_dir(node.directory.join("data/pods")).unwrap().count();
        let logs = std::fs::read_dir(node.directory.join("data/logs")).unwrap().count();
        let mounts = node.mounts().len();
        // The memory for secrets stays as long as the node.
        (runtime == 0 && pods == 0 && logs == 0 && mounts == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_restarts_and_sidecars() {
    or_skip!();
    let (_server, _node, pods) = start("order").await;
    pods.create("inits", json!({"restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [
            {"name": "i1", "command": sh("echo 1 >> /v/order"), "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"name": "side", "restartPolicy": "Always", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
             "command": sh("echo s >> /v/order; trap 'echo e >> /v/order; exit 0' TERM; touch /v/up; while true; do sleep 0.05; done"),
             "startupProbe": {"exec": {"command": sh("test -e /v/up")}, "periodSeconds": 1}},
            {"name": "i2", "command": sh("echo 2 >> /v/order"), "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "containers": [{"name": "a", "command": sh("echo a >> /v/order; cat /v/order | tr -d '\\n' > /dev/termination-log"),
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}))
        .await;
    let pod = pods.phase("inits", "Succeeded").await;
    assert_eq!(container(&pod, "a")["state"]["terminated"]["message"], "1s2a");
    assert_eq!(condition(&pod, "Initialized"), "True");

    pods.create("loops", json!({"containers": [{"name": "a", "command": sh("exit 7")}]})).await;
    let pod = pods
        .until("loops", "CrashLoopBackOff", |p| {
            container(p, "a")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let a = container(&pod, "a");
    assert_eq!(a["restartCount"], 1);
    assert_eq!(a["lastState"]["terminated"]["exitCode"], 7);
    assert!(
        a["state"]["waiting"]["message"]
            .as_str()
            .unwrap()
            .starts_with("back-off 10s restarting failed container=a pod=loops_default("),
        "{a}"
    );
    let pod = pods.until("loops", "a second restart", |p| container(p, "a")["restartCount"] == 2).await;
    assert_eq!(pod["status"]["phase"], "Running");
    pods.event("loops", "BackOff").await;
    pods.delete("loops").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_hooks() {
    or_skip!();
    let (_server, _node, pods) = start("probes").await;
    // On a busy machine a probe may take its time; only what it finds shall count.
    let patient =
        |script: &str| json!({"exec": {"command": sh(script)}, "periodSeconds": 1, "timeoutSeconds": 30});
    let exec =
        |script: &str| json!({"exec": {"command": sh(script)}, "periodSeconds": 1, "failureThreshold": 1});
    pods.create("probed", json!({"containers": [{"name": "a",
        "command": sh("mkdir /w; echo ok > /w/index.html; touch /started; httpd -p 8080 -h /w; while true; do sleep 0.1; done"),
        "startupProbe": {"exec": {"command": sh("test -e /started")}, "periodSeconds": 1},
        "readinessProbe": {"httpGet": {"port": 8080, "path": "/index.html"}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": patient("! test -e /sick"),
        "lifecycle": {"postStart": {"exec": {"command": sh("touch /hooked")}}}}]}))
        .await;
    let pod = pods.ready("probed").await;
    let first = container(&pod, "a")["containerID"].clone();
    assert_eq!(container(&pod, "a")["started"], true);
    pods.create(
        "tcp",
        json!({"containers": [{"name": "a", "command": sh("exec httpd -f -p 99"),
        "readinessProbe": {"tcpSocket": {"port": 99}, "periodSeconds": 1}}]}),
    )
    .await;
    pods.ready("tcp").await;
    pods.create("sick", json!({"containers": [{"name": "a", "command": sh("sleep 1; touch /sick; while true; do sleep 0.1; done"),
        "livenessProbe": exec("! test -e /sick")}]})).await;
    let pod = pods.until("sick", "a restart", |p| container(p, "a")["restartCount"] == 1).await;
    assert_eq!(container(&pod, "a")["lastState"]["terminated"]["exitCode"], 137);
    assert!(pods.event("sick", "Unhealthy").await.starts_with("Liveness probe failed:"));
    assert_eq!(pods.event("sick", "Killing").await, "Container a failed liveness probe, will be restarted");
    pods.create(
        "unhooked",
        json!({"containers": [{"name": "a", "command": sh("while true; do sleep 0.1; done"),
        "lifecycle": {"postStart": {"exec": {"command": sh("exit 9")}}}}]}),
    )
    .await;
    pods.until("unhooked", "PostStartHookError", |p| {
        container(p, "a")["state"]["waiting"]["reason"] == "PostStartHookError"
            || container(p, "a")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })
    .await;
    pods.event("unhooked", "FailedPostStartHook").await;
    assert_eq!(
        container(&pods.get("probed").await.unwrap(), "a")["containerID"],
        first,
        "the healthy one was left alone"
    );
    pods.create(
        "stops",
        json!({"terminationGracePeriodSeconds": 20, "volumes": [{"name": "h", "hostPath": {"path": "/out"}}],
        "containers": [{"name": "a", "command": sh("trap 'exit 0' TERM; while true; do sleep 0.1; done"),
        "volumeMounts": [{"name": "h", "mountPath": "/out"}],
        "lifecycle": {"preStop": {"exec": {"command": sh("echo stopping > /out/said")}}}}]}),
    )
    .await;
    pods.ready("stops").await;
    pods.delete("stops").await;
    let said = std::fs::read_to_string(_node.directory.join("host/out/said")).unwrap();
    assert_eq!(said, "stopping\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn environment_and_volumes() {
    or_skip!();
    let (_server, _node, pods) = start("volumes").await;
    let make = |kind: &'static str, body: Value| {
        let client = pods.client.clone();
        async move {
            let _: Value = client.post(&format!("/api/v1/namespaces/default/{kind}"), &body).await.unwrap();
        }
    };
    make("configmaps", json!({"metadata": {"name": "m"}, "data": {"k": "v1"}})).await;
    make("secrets", json!({"metadata": {"name": "s"}, "data": {"p": "c2VjcmV0"}})).await;
    pods.create("env", json!({"restartPolicy": "Never", "hostname": "h", "subdomain": "sub",
        "volumes": [{"name": "m", "configMap": {"name": "m"}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "d", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        "containers": [{"name": "a",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(K)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
            "envFrom": [{"prefix": "S_", "secretRef": {"name": "s"}}],
            "args": ["unused"], "command": sh("exec > /dev/termination-log; echo $A $B $K $S_p; \
                cat /m/k; echo; cat /s/p; echo; cat /d/name; echo; hostname; test -n \"$IP\" && grep -c \"$IP\" /etc/hosts; \
                echo $KUBERNETES_SERVICE_HOST; test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; \
                dd if=/dev/zero of=/e/x bs=1M count=2 2>/dev/null || echo full; cat /sub"),
            "volumeMounts": [{"name": "m", "mountPath": "/m"}, {"name": "s", "mountPath": "/s"}, {"name": "d", "mountPath": "/d"},
                {"name": "e", "mountPath": "/e"}, {"name": "m", "mountPath": "/sub", "subPath": "k"}]}]}))
        .await;
    let pod = pods.phase("env", "Succeeded").await;
    let said = container(&pod, "a")["state"]["terminated"]["message"].as_str().unwrap().to_owned();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        ["1 1$(K) v1 secret", "v1", "secret", "env", "h", "1", "10.96.0.1", "token", "full", "v1"],
        "{said}"
    );

    // Files follow their objects while the container runs.
    pods.create(
        "live",
        json!({"volumes": [{"name": "m", "configMap": {"name": "m"}}],
        "containers": [{"name": "a", "command": sh("trap 'exit 0' TERM; while true; do sleep 0.1; done"),
            "readinessProbe": {"exec": {"command": sh("grep -q v2 /m/k")}, "periodSeconds": 1},
            "volumeMounts": [{"name": "m", "mountPath": "/m"}]}]}),
    )
    .await;
    pods.phase("live", "Running").await;
    assert_eq!(condition(&pods.get("live").await.unwrap(), "Ready"), "False");
    let patch = json!({"data": {"k": "v2"}}).to_string().into_bytes();
    pods.client
        .request(
            http::Method::PATCH,
            "/api/v1/namespaces/default/configmaps/m",
            "application/merge-patch+json",
            patch,
        )
        .await
        .unwrap();
    pods.ready("live").await;

    // What is missing is waited for, and said.
    pods.create("missing", json!({"restartPolicy": "Never", "volumes": [{"name": "m", "configMap": {"name": "later"}}],
        "containers": [{"name": "a", "command": sh("cat /m/x > /dev/termination-log"), "volumeMounts": [{"name": "m", "mountPath": "/m"}]}]}))
        .await;
    assert_eq!(
        pods.event("missing", "FailedMount").await,
        "MountVolume.SetUp failed for volume \"m\" : configmap \"later\" not found"
    );
    make("configmaps", json!({"metadata": {"name": "later"}, "data": {"x": "here"}})).await;
    let pod = pods.phase("missing", "Succeeded").await;
    assert_eq!(container(&pod, "a")["state"]["terminated"]["message"], "here");
    pods.create("noenv", json!({"containers": [{"name": "a", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}]})).await;
    let pod = pods
        .until("noenv", "CreateContainerConfigError", |p| {
            container(p, "a")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(container(&pod, "a")["state"]["waiting"]["message"], "secret \"none\" not found");
    for (image, policy, reason) in [
        ("nosuch:1", "IfNotPresent", "ErrImagePull"),
        ("nosuch:2", "Never", "ErrImageNeverPull"),
        ("Bad Name", "Never", "InvalidImageName"),
    ] {
        let name = reason.to_lowercase();
        pods.create(&name, json!({"containers": [{"name": "a", "image": image, "imagePullPolicy": policy}]}))
            .await;
        pods.until(&name, reason, |p| container(p, "a")["state"]["waiting"]["reason"] == reason).await;
    }
    pods.until("errimagepull", "ImagePullBackOff", |p| {
        container(p, "a")["state"]["waiting"]["reason"] == "ImagePullBackOff"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_given_up_says_that_it_lives() {
    or_skip!();
    let (server, node, _pods) = start("given-up").await;
    let admin = server.admin();
    let path = format!("/tenants/given-up/api/v1/nodes/{}", node.name);
    let status = |path: String| {
        let admin = &admin;
        async move {
            let node: Value = admin.get(&path).await.unwrap();
            condition(&node, "Ready")
        }
    };
    eventually("the node is ready", || async { (status(path.clone()).await == "True").then_some(()) }).await;
    // As the node controller does when nothing was heard for a while.
    let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status."}]}});
    admin
        .request(
            http::Method::PATCH,
            &format!("{path}/status"),
            "application/strategic-merge-patch+json",
            unknown.to_string().into_bytes(),
        )
        .await
        .unwrap();
    eventually("the node is ready again", || async { (status(path.clone()).await == "True").then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_takes_up_the_pods_of_the_old_one() {
    or_skip!();
    let (_server, mut node, pods) = start("crash").await;
    pods.create("stays", json!({"containers": [{"name": "a", "command": sh("trap 'exit 0' TERM; while true; do sleep 0.1; done")}]})).await;
    pods.create("ends", json!({"restartPolicy": "Never", "volumes": [{"name": "h", "hostPath": {"path": "/x"}}],
        "containers": [{"name": "a", "command": sh("until test -e /x/go; do sleep 0.1; done; exit 5"), "volumeMounts": [{"name": "h", "mountPath": "/x"}]}]})).await;
    pods.create("goes", json!({"containers": [{"name": "a", "command": sh("trap 'exit 0' TERM; while true; do sleep 0.1; done")}]})).await;
    let before = container(&pods.ready("stays").await, "a");
    pods.ready("ends").await;
    pods.ready("goes").await;
    node.kill();
    std::fs::write(node.directory.join("host/x/go"), "").unwrap();
    pods.client
        .request(
            http::Method::DELETE,
            "/api/v1/namespaces/default/pods/goes?gracePeriodSeconds=0",
            "application/json",
            Vec::new(),
        )
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.restart();
    let pod = pods.phase("ends", "Failed").await;
    assert_eq!(container(&pod, "a")["state"]["terminated"]["exitCode"], 5, "its end was seen by the shim");
    let after = container(&pods.ready("stays").await, "a");
    assert_eq!((&after["containerID"], &after["restartCount"]), (&before["containerID"], &json!(0)));
    eventually("the orphan is gone", || async {
        (std::fs::read_dir(node.directory.join("data/runtime/pods")).unwrap().count() == 1).then_some(())
    })
    .await;
    pods.delete("stays").await;
    pods.delete("ends").await;
    println!("resident: {} kB", node.resident_kb());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_do_not_fit_are_turned_away() {
    or_skip!();
    let server = Server::start();
    let node = Node::start(&server, "full", &["--capacity", "cpu=1", "--max-pods", "3"]);
    let pods = Pods::new(&server, &node);
    pods.node_ready().await;
    let sleep = sh("trap 'exit 0' TERM; while true; do sleep 0.1; done");
    let cpu = |amount: &str| json!({"containers": [{"name": "a", "command": sleep, "resources": {"requests": {"cpu": amount}}}]});
    pods.create("fits", cpu("700m")).await;
    pods.ready("fits").await;
    pods.create("big", cpu("700m")).await;
    let pod = pods.phase("big", "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert_eq!(
        pod["status"]["message"],
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 700, used: 700, capacity: 1000"
    );
    pods.create("elsewhere", json!({"nodeSelector": {"zone": "moon"}, "containers": [{"name": "a"}]})).await;
    assert_eq!(pods.phase("elsewhere", "Failed").await["status"]["reason"], "NodeAffinity");
    pods.create("late", json!({"restartPolicy": "Never", "activeDeadlineSeconds": 1, "containers": [{"name": "a", "command": sleep}]})).await;
    let pod = pods.phase("late", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    for name in ["big", "elsewhere", "late", "fits"] {
        pods.delete(name).await;
    }
}
