//! Static pods of a machine, as a tenant sees them through kubectl: manifests laid into the machine's tree run, have mirrors that show them,
//! and stop when their files go. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, Tenant, kill, wait_for};

/// Through which manifests come into the machine: a pod that sees a directory of its machine.
fn writer() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:test", "command": ["sleep", "100000"],
            "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
        "volumes": [{"name": "m", "hostPath": {"path": "/etc/kubernetes/manifests", "type": "DirectoryOrCreate"}}]}})
}

fn manifest(word: &str) -> Value {
    let script = format!(
        "echo {word} > /word; echo {word}; mkdir -p /w; cp /word /w/index.html; httpd -f -p 8080 -h /w"
    );
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:test", "command": ["sh", "-c", script],
            "env": [{"name": "OWN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}})
}

struct Shop<'a> {
    tenant: &'a Tenant,
    /// The mirror's name.
    web: String,
}

impl Shop<'_> {
    fn lay(&self, file: &str, text: &str) {
        let words = format!("cat > /m/.new <<'END'\n{text}\nEND\nmv /m/.new /m/{file}");
        self.tenant.run(&["exec", "writer", "--", "sh", "-c", &words]);
    }

    fn mirror(&self) -> Option<Value> {
        let (good, said) = self.tenant.try_run(&["get", "pod", &self.web, "-o", "json"]);
        good.then(|| serde_json::from_str(&said).unwrap())
    }

    /// Waits until the mirror shows a ready container that is not this one.
    fn ready_but(&self, old: &str) -> Value {
        wait_for("the static pod is ready", || {
            self.mirror().filter(|pod| {
                let status = &pod["status"]["containerStatuses"][0];
                status["ready"] == true && status["containerID"] != old
            })
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_machine_runs_what_its_files_ask_for() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "", None);
    let tenant = cloud.administrator("shop");
    tenant.apply(&writer());
    tenant.phase("writer", "Running");
    let node = tenant.run(&["get", "pod", "writer", "-o", "jsonpath={.spec.nodeName}"]);
    let shop = Shop { tenant: &tenant, web: format!("web-{node}") };

    // It runs, and is seen and used like any other.
    shop.lay("web.json", &manifest("one").to_string());
    let pod = shop.ready_but("");
    let id = |pod: &Value| text(&pod["status"]["containerStatuses"][0]["containerID"]);
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(pod["metadata"]["labels"]["app"], "web");
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Node"), &json!(node)));
    assert_eq!(tenant.run(&["logs", &shop.web]), "one\n");
    let own = tenant.run(&["exec", &shop.web, "--", "sh", "-c", "echo $OWN $(cat /word)"]);
    assert_eq!(own, format!("{} one\n", shop.web));
    let reach = |ip: &str| {
        let words = format!("timeout 5 wget -q -O - http://{ip}:8080/index.html");
        tenant.try_run(&["exec", "writer", "--", "sh", "-c", &words])
    };
    let ip = text(&pod["status"]["podIP"]);
    wait_for("others reach it", || (reach(&ip) == (true, "one\n".to_owned())).then_some(()));

    // Who deletes the mirror deletes a picture: the container goes on, and so does its address.
    tenant.run(&["delete", "pod", &shop.web, "--wait=false"]);
    let again = wait_for("another mirror", || {
        shop.mirror().filter(|p| {
            p["metadata"]["uid"] != pod["metadata"]["uid"]
                && p["status"]["containerStatuses"][0]["ready"] == true
        })
    });
    assert_eq!(id(&again), id(&pod), "the container is the same");
    assert_eq!(again["status"]["podIP"], pod["status"]["podIP"]);
    assert_eq!(reach(&ip), (true, "one\n".to_owned()));

    // So it does without its agent, whose next one takes it up.
    let agent = cloud.processes().into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).nth(1) == Some(b"agent")
    });
    kill(agent.unwrap());
    wait_for("the next agent", || tenant.try_run(&["exec", &shop.web, "--", "true"]).0.then_some(()));
    let taken = shop.mirror().unwrap();
    assert_eq!(id(&taken), id(&pod));
    assert_eq!(taken["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(taken["status"]["startTime"], again["status"]["startTime"]);

    // A changed manifest is another pod of the same name.
    shop.lay("web.json", &manifest("two").to_string());
    let changed = shop.ready_but(&id(&pod));
    assert_eq!(tenant.run(&["logs", &shop.web]), "two\n");
    let ip = text(&changed["status"]["podIP"]);
    wait_for("the new one answers", || (reach(&ip) == (true, "two\n".to_owned())).then_some(()));

    // What needs the API is refused, and the node says so.
    let mut bad = manifest("bad");
    bad["metadata"]["name"] = "bad".into();
    bad["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]);
    shop.lay("bad.json", &bad.to_string());
    wait_for("an event about the bad manifest", || {
        let (_, said) =
            tenant.try_run(&["get", "events", "--field-selector", "involvedObject.kind=Node", "-o", "json"]);
        let file =
            "/etc/kubernetes/manifests/bad.json: static pods may not reference secrets (via secret volumes)";
        said.contains(file).then_some(())
    });

    // Without its file it ends, and its picture goes.
    tenant.run(&["exec", "writer", "--", "rm", "/m/web.json"]);
    wait_for("the mirror goes", || shop.mirror().is_none().then_some(()));
    wait_for("its container goes", || {
        let runs = |pid: &i32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with("httpd\0")
        };
        (!cloud.processes().iter().any(runs)).then_some(())
    });
    wait_for("its port goes", || {
        let (good, said) = tenant.try_run(&["get", "ports", "-o", "name"]);
        (good && !said.contains(&shop.web)).then_some(())
    });
    cloud.down(&[]);
}
