//! What nodes and pods use, as `kubectl top`, Prometheus and autoscalers see it; pods that are resized in place; ports of the machine. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, Tenant, text, wait_for};

fn container(name: &str, command: &str) -> Value {
    json!({"name": name, "image": "busybox:test", "command": ["sh", "-c", command],
        "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}})
}

fn raw(tenant: &Tenant, path: &str) -> Value {
    serde_json::from_str(&tenant.run(&["get", "--raw", path])).unwrap()
}

/// Billionths of a processor.
fn nanocores(cpu: &Value) -> u64 {
    cpu.as_str().unwrap().trim_end_matches('n').parse().unwrap()
}

fn kib(memory: &Value) -> u64 {
    memory.as_str().unwrap().trim_end_matches("Ki").parse().unwrap()
}

#[test]
fn usage_is_measured_shown_and_acted_on() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "", None);
    let (shop, bank) = (cloud.administrator("shop"), cloud.administrator("bank"));
    // One busy and one that sleeps, in a Deployment that an autoscaler looks after.
    shop.apply(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "busy"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "busy"}},
            "template": {"metadata": {"labels": {"app": "busy"}}, "spec": {"terminationGracePeriodSeconds": 1,
                "containers": [container("work", "while :; do :; done"), container("side", "sleep 100000")]}}}}));
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "idle", "labels": {"app": "idle"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container("c",
            "dd if=/dev/zero of=/tmp/f bs=1M count=8; dd if=/dev/zero of=/dev/shm/f bs=1M count=12; nc -l -p 99 & sleep 100000")]}}));
    shop.apply(&json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "busy"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"},
            "minReplicas": 1, "maxReplicas": 3, "metrics": [{"type": "ContainerResource", "containerResource":
                {"name": "cpu", "container": "work", "target": {"type": "Utilization", "averageUtilization": 60}}}]}}));
    shop.phase("idle", "Running");
    let measured = wait_for("measurements of both", || {
        let list = raw(&shop, "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods");
        let items = list["items"].as_array()?;
        // The idle one has made its memory by then.
        let idle = items.iter().find(|p| p["metadata"]["labels"]["app"] == "idle")?;
        (items.len() >= 2 && kib(&idle["containers"][0]["usage"]["memory"]) >= 8_000).then_some(list)
    });
    numbers(&shop, &measured);
    forms(&shop);
    selections(&shop, &bank);
    documents(&shop);
    host_ports(&shop);
    resizing(&shop);
    // The autoscaler reads the same, and more pods come.
    wait_for("the autoscaler to act", || {
        let said = shop.run(&["get", "hpa", "busy", "-o", "jsonpath={.status.desiredReplicas}"]);
        (said == "3").then_some(())
    });
    wait_for("three pods", || {
        let said = shop.run(&["get", "deployment", "busy", "-o", "jsonpath={.status.readyReplicas}"]);
        (said == "3").then_some(())
    });
    silence(&cloud, &shop);
}

fn numbers(shop: &Tenant, list: &Value) {
    assert_eq!(list["kind"], "PodMetricsList");
    let find = |app: &str| {
        let mut all = list["items"].as_array().unwrap().iter();
        all.find(|p| p["metadata"]["labels"]["app"] == app).unwrap().clone()
    };
    let (busy, idle) = (find("busy"), find("idle"));
    let usage = |pod: &Value, name: &str| {
        let mut all = pod["containers"].as_array().unwrap().iter();
        all.find(|c| c["name"] == name).unwrap()["usage"].clone()
    };
    let work = nanocores(&usage(&busy, "work")["cpu"]);
    // It may have 200m, and is given less on a busy computer. More is what the first window has more than a whole number of periods.
    assert!((5_000_000..=300_000_000).contains(&work), "{busy:#}");
    assert!(nanocores(&usage(&busy, "side")["cpu"]) < work / 4 + 1_000_000, "{busy:#}");
    assert!((8_000..=65_536).contains(&kib(&usage(&idle, "c")["memory"])), "it holds 12 MB: {idle:#}");
    assert!(idle["window"].as_str().unwrap().ends_with('s') && idle["timestamp"].is_string(), "{idle:#}");
    let nodes = raw(shop, "/apis/metrics.k8s.io/v1beta1/nodes");
    let node = &nodes["items"][0];
    assert!(nanocores(&node["usage"]["cpu"]) >= work / 2, "{nodes:#}");
    assert!(kib(&node["usage"]["memory"]) >= 8_000, "{nodes:#}");
}

/// What kubectl makes of it.
fn forms(shop: &Tenant) {
    let top = shop.run(&["top", "pods"]);
    assert!(top.starts_with("NAME") && top.contains("idle") && top.contains("busy-"), "{top}");
    let top = shop.run(&["top", "pods", "--containers", "-l", "app=busy"]);
    assert!(top.contains("work") && top.contains("side") && !top.contains("idle"), "{top}");
    let top = shop.run(&["top", "nodes"]);
    assert!(top.starts_with("NAME") && top.contains('%'), "{top}");
    let table = shop.run(&["get", "pods.metrics.k8s.io"]);
    assert!(table.contains("WINDOW") && table.contains("idle"), "{table}");
    let yaml = shop.run(&["get", "podmetrics.v1beta1.metrics.k8s.io", "idle", "-o", "yaml"]);
    assert!(yaml.contains("kind: PodMetrics"), "{yaml}");
    let explained = shop.run(&["explain", "--api-version=metrics.k8s.io/v1beta1", "pods"]);
    assert!(explained.contains("containers"), "{explained}");
}

fn selections(shop: &Tenant, bank: &Tenant) {
    let at = "/apis/metrics.k8s.io/v1beta1";
    let count = |tenant: &Tenant, query: &str| {
        raw(tenant, &format!("{at}/{query}"))["items"].as_array().unwrap().len()
    };
    assert_eq!(count(shop, "namespaces/default/pods?labelSelector=app%3Didle"), 1);
    assert_eq!(count(shop, "pods?fieldSelector=metadata.name%3Didle"), 1);
    assert_eq!(count(shop, "namespaces/kube-system/pods"), 0);
    assert_eq!(count(bank, "pods"), 0, "another tenant's are not there");
    assert_eq!(count(bank, "nodes"), 0);
    for (path, why) in [
        ("namespaces/default/pods/none", "not found"),
        ("nodes/none", "not found"),
        ("pods?fieldSelector=spec.nodeName%3Dx", "field label not supported"),
        ("namespaces/default/pods?watch=1", "not allow this method"),
    ] {
        let (good, said) = shop.try_run(&["get", "--raw", &format!("{at}/{path}")]);
        assert!(!good && said.contains(why), "{path}: {said}");
    }
    // Who may read pods may read what they use; who may do nothing, not.
    shop.run(&["create", "serviceaccount", "reader"]);
    let as_reader = |args: &[&str]| {
        let mut all = vec!["--as=system:serviceaccount:default:reader"];
        all.extend(args);
        shop.try_run(&all)
    };
    assert!(as_reader(&["top", "pods"]).1.contains("forbidden"));
    shop.run(&["create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount=default:reader"]);
    wait_for("the right to look", || as_reader(&["top", "pods"]).0.then_some(()));
}

/// What the node says to Prometheus and others, through the API server.
fn documents(shop: &Tenant) {
    let node = shop.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let get = |path: &str| shop.run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/{path}")]);
    let resource = get("metrics/resource");
    for family in
        ["node_cpu_usage_seconds_total", "pod_memory_working_set_bytes", "container_start_time_seconds"]
    {
        assert!(resource.contains(&format!("\n{family}")), "{family} is missing: {resource}");
    }
    assert!(
        resource.contains(
            "container_cpu_usage_seconds_total{container=\"work\",namespace=\"default\",pod=\"busy-"
        )
    );
    // Who works without end is held back, where it gets as far as its limit.
    let throttled = "container_cpu_cfs_throttled_periods_total{container=\"work\"";
    let cadvisor = wait_for("a container to be held back", || {
        let said = get("metrics/cadvisor");
        said.lines().any(|l| l.starts_with(throttled) && !l.contains("} 0 ")).then_some(said)
    });
    let value = |start: &str, part: &str| -> f64 {
        let line = cadvisor
            .lines()
            .find(|l| l.starts_with(start) && l.contains(part))
            .unwrap_or_else(|| panic!("no {start} with {part}: {cadvisor}"));
        line.split("} ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("container_network_receive_bytes_total{container=\"\"", "interface=\"eth0\"") >= 0.0);
    assert_eq!(
        value("container_network_tcp_sockets{container=\"\"", "pod=\"idle\",tcp_state=\"inuse\"").round(),
        1.0
    );
    assert_eq!(
        value("container_spec_memory_limit_bytes{container=\"work\"", "pod=\"busy-").round(),
        f64::from(64 << 20)
    );
    let summary: Value = serde_json::from_str(&get("stats/summary")).unwrap();
    assert_eq!(summary["node"]["nodeName"], node.as_str());
    let pods = summary["pods"].as_array().unwrap();
    let idle = pods.iter().find(|p| p["podRef"]["name"] == "idle").unwrap();
    let written = idle["containers"][0]["rootfs"]["usedBytes"].as_u64().unwrap();
    assert!((8 << 20..16 << 20).contains(&written), "it wrote 8 MiB: {idle:#}");
    assert!(idle["network"]["rxBytes"].is_u64() && idle["memory"]["workingSetBytes"].is_u64(), "{idle:#}");
    let brief: Value = serde_json::from_str(&get("stats/summary?only_cpu_and_memory=true")).unwrap();
    assert!(
        brief["node"]["fs"].is_null() && brief["node"]["cpu"]["usageCoreNanoSeconds"].is_u64(),
        "{brief:#}"
    );
    let (good, said) = shop.try_run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/etc/passwd")]);
    assert!(!good && said.contains("no document"), "{said}");
}

/// A port of the machine that is a pod's, for as long as the pod is there.
fn host_ports(shop: &Tenant) {
    let mut web = container("c", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp");
    web["ports"] = json!([{"containerPort": 8080, "hostPort": 8088}]);
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [web]}}));
    shop.phase("web", "Running");
    let host = shop.run(&["get", "pod", "web", "-o", "jsonpath={.status.hostIP}"]);
    let url = format!("http://{host}:8088/");
    // Debian's busybox crashes on wget's own `-T`.
    let ask = || shop.try_run(&["exec", "idle", "--", "timeout", "3", "wget", "-q", "-O", "-", &url]);
    wait_for("the machine's port to answer", || (ask().1 == "hello\n").then_some(()));
    shop.run(&["delete", "pod", "web", "--wait=true"]);
    wait_for("the port to be free again", || (!ask().0).then_some(()));
}

/// Limits change under running containers, or restart them; what does not fit waits and says so.
fn resizing(shop: &Tenant) {
    let sized = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
    let mut calm = container("calm", "dd if=/dev/zero of=/dev/shm/f bs=1M count=20; sleep 100000");
    let mut touchy = container("touchy", "sleep 100000");
    touchy["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    for c in [&mut calm, &mut touchy] {
        c["resources"] = sized("20m", "64Mi");
    }
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "elastic"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [calm, touchy]}}));
    shop.phase("elastic", "Running");
    let status = || -> Value {
        serde_json::from_str::<Value>(&shop.run(&["get", "pod", "elastic", "-o", "json"])).unwrap()["status"]
            .clone()
    };
    let resize = |calm: Value, touchy: Value| {
        let patch = json!({"spec": {"containers": [{"name": "calm", "resources": calm}, {"name": "touchy", "resources": touchy}]}});
        shop.run(&[
            "patch",
            "pod",
            "elastic",
            "--subresource=resize",
            "--type=strategic",
            "-p",
            &patch.to_string(),
        ]);
    };
    let of = |status: &Value, name: &str| -> Value {
        status["containerStatuses"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone()
    };
    let condition = |status: &Value, kind: &str| -> String {
        let all = status["conditions"].as_array().unwrap();
        all.iter()
            .find(|c| c["type"] == kind)
            .map_or(String::new(), |c| format!("{} {}", c["reason"], c["message"]))
    };
    resize(sized("30m", "96Mi"), sized("20m", "48Mi"));
    let done = wait_for("both to be resized", || {
        let s = status();
        let has = |name: &str, memory: &str| {
            let c = of(&s, name);
            c["resources"]["limits"]["memory"] == memory && c["allocatedResources"]["memory"] == memory
        };
        (has("calm", "96Mi")
            && has("touchy", "48Mi")
            && of(&s, "touchy")["restartCount"] == 1
            && condition(&s, "PodResizeInProgress").is_empty())
        .then_some(s)
    });
    assert_eq!(of(&done, "calm")["restartCount"], 0);
    let node = shop.run(&["get", "pod", "elastic", "-o", "jsonpath={.spec.nodeName}"]);
    let said = shop.run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics/cadvisor")]);
    for (name, bytes) in [("calm", 96 << 20), ("touchy", 48 << 20)] {
        let start = format!("container_spec_memory_limit_bytes{{container=\"{name}\"");
        let line = said.lines().find(|l| l.starts_with(&start)).unwrap();
        assert!(line.contains(&format!("}} {bytes} ")), "the kernel knows: {line}");
    }
    let (good, said) = shop.try_run(&[
        "patch",
        "pod",
        "elastic",
        "--subresource=resize",
        "-p",
        r#"{"spec":{"containers":[{"name":"calm","resources":{"requests":{"cpu":"100"},"limits":{"cpu":"100"}}}]}}"#,
    ]);
    assert!(!good && said.contains("node didn't have enough allocatable resources: cpu"), "{said}");
    // What the node has, but not beside the others.
    resize(sized("450m", "96Mi"), sized("20m", "48Mi"));
    wait_for("a resize that does not fit to wait", || {
        let said = condition(&status(), "PodResizePending");
        said.starts_with("\"Deferred\" \"Node didn't have enough resource: cpu").then_some(())
    });
    resize(sized("30m", "4Mi"), sized("20m", "48Mi"));
    wait_for("a limit below what is used to be refused", || {
        let s = status();
        let said = condition(&s, "PodResizeInProgress");
        (said.starts_with("\"Error\"")
            && said.contains("below current usage")
            && condition(&s, "PodResizePending").is_empty())
        .then_some(())
    });
    resize(sized("30m", "80Mi"), sized("20m", "48Mi"));
    let done = wait_for("all to be well", || {
        let s = status();
        (of(&s, "calm")["resources"]["limits"]["memory"] == "80Mi"
            && condition(&s, "PodResizeInProgress").is_empty())
        .then_some(s)
    });
    assert_eq!(of(&done, "calm")["restartCount"], 0);
    shop.run(&["delete", "pod", "elastic", "--wait=false"]);
}

/// A node that has stopped answering holds up nobody.
fn silence(cloud: &Cloud, shop: &Tenant) {
    let machine = shop.run(&["get", "machines", "-o", "jsonpath={.items[0].metadata.uid}"]);
    let signal = |name: &str| {
        for pid in agents(cloud, &machine) {
            let sent = std::process::Command::new("kill").args([name, &pid.to_string()]).output().unwrap();
            assert!(sent.status.success(), "{}", text(&sent));
        }
    };
    signal("-STOP");
    let begun = Instant::now();
    let list = wait_for("an answer without the silent node", || {
        let list = raw(shop, "/apis/metrics.k8s.io/v1beta1/pods");
        list["items"].as_array().unwrap().is_empty().then_some(list)
    });
    assert_eq!(list["kind"], "PodMetricsList");
    // Asked again, it is known to be silent: far below what one question to it may take.
    let again = Instant::now();
    raw(shop, "/apis/metrics.k8s.io/v1beta1/pods");
    assert!(again.elapsed() < Duration::from_secs(20) && begun.elapsed() < Duration::from_secs(80));
    signal("-CONT");
}

/// The node agents in a machine.
fn agents(cloud: &Cloud, machine: &str) -> Vec<i32> {
    let inside: Vec<i32> = cloud.processes();
    assert!(inside.contains(&cloud.init(machine)));
    let is_agent = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("\0agent\0")
    };
    let found: Vec<i32> = inside.into_iter().filter(is_agent).collect();
    assert!(!found.is_empty(), "no agent runs");
    found
}
