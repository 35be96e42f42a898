//! Pods with users of their own (`hostUsers: false`), on a node by hand and in a machine: root in them is nobody outside, files that are made for
//! them are theirs, and no two have an id in common. Driven by kubectl. Needs root and busybox; says so without.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};
use skep_e2e::agent::impossible;
use skep_e2e::cloud::{Cloud, Tenant, wait_for};

fn pod(name: &str, volumes: &Value, mounts: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "hostUsers": false, "terminationGracePeriodSeconds": 1, "securityContext": {"fsGroup": 2000},
        "initContainers": [{"name": "i", "image": "busybox:test", "command": ["sh", "-c", "touch /e/init /m/init"],
            "volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "m", "mountPath": "/m"}]}],
        "containers": [
            {"name": "root", "image": "busybox:test", "command": ["sleep", "100000"], "volumeMounts": mounts},
            {"name": "user", "image": "busybox:test", "securityContext": {"runAsUser": 1000},
                "command": ["sh", "-c", "echo said > /dev/stdout; sleep 100000"], "volumeMounts": mounts}],
        "volumes": volumes}})
}

fn usual() -> (Value, Value) {
    let volumes = json!([{"name": "e", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}},
        {"name": "c", "configMap": {"name": "words", "defaultMode": 0o400}}, {"name": "s", "secret": {"secretName": "secret"}}]);
    let mounts = json!([{"name": "e", "mountPath": "/e"}, {"name": "e", "mountPath": "/sub", "subPath": "a/b"},
        {"name": "m", "mountPath": "/m"}, {"name": "c", "mountPath": "/c"}, {"name": "s", "mountPath": "/s"}]);
    (volumes, mounts)
}

fn sh(tenant: &Tenant, pod: &str, container: &str, words: &str) -> String {
    tenant.run(&["exec", pod, "-c", container, "--", "sh", "-c", words]).trim().to_owned()
}

/// The first id outside of a pod's root.
fn first_id(tenant: &Tenant, pod: &str) -> u64 {
    let map = sh(tenant, pod, "root", "cat /proc/self/uid_map");
    let words: Vec<u64> = map.split_whitespace().map(|w| w.parse().unwrap()).collect();
    assert_eq!((words[0], words[2]), (0, 65536), "{map}");
    assert!(words[1] >= 65536, "{map}");
    assert_eq!(map, sh(tenant, pod, "root", "cat /proc/self/gid_map"));
    words[1]
}

#[test]
fn root_of_a_pod_is_nobody_in_its_machine() {
    if let Some(why) = impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    cloud.load("busybox:test", "word", None);
    let shop = cloud.administrator("shop");
    // One machine, so that pods could meet.
    shop.run(&["patch", "nodepool", "default", "--type=merge", "-p", r#"{"spec":{"maxMachines":1}}"#]);
    shop.run(&["create", "configmap", "words", "--from-literal=word=good"]);
    shop.run(&["create", "secret", "generic", "secret", "--from-literal=word=hidden"]);
    let (volumes, mounts) = usual();
    for name in ["a", "b"] {
        shop.apply(&pod(name, &volumes, &mounts));
    }
    for name in ["a", "b"] {
        shop.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=90s"]);
    }
    let (a, b) = (first_id(&shop, "a"), first_id(&shop, "b"));
    assert_ne!(a, b, "no two pods have an id in common");

    // What it sees is its own, and it is root over it.
    assert_eq!(sh(&shop, "a", "root", "id -u"), "0");
    let owners = "stat -c %u:%g / /etc /bin/busybox /word /etc/hosts /e /e/init /m/init /c/word /sub /dev/termination-log";
    let seen = sh(&shop, "a", "root", owners);
    let expected =
        ["0:0", "0:0", "0:0", "0:0", "0:0", "0:2000", "0:2000", "0:2000", "0:2000", "0:2000", "0:0"]
            .join("\n");
    assert_eq!(seen, expected, "of {owners}");
    assert_eq!(sh(&shop, "a", "root", "cat /c/word /s/word"), "goodhidden");
    let work = "echo x > /etc/new && chown 33:33 /etc/new && stat -c %u /etc/new && touch /sub/x && rm /bin/wget && \
                mount -t tmpfs none /mnt 2>/dev/null; hostname evil 2>/dev/null; echo done";
    assert_eq!(sh(&shop, "a", "root", work), "33\ndone");
    // Its other users are others, who share what the group may.
    assert_eq!(sh(&shop, "a", "user", "id -u; touch /e/user && stat -c %u:%g /e/user"), "1000\n1000:2000");
    assert_eq!(sh(&shop, "a", "user", "cat /c/word"), "good", "the group may read it");
    assert!(!shop.try_run(&["exec", "a", "-c", "user", "--", "touch", "/etc/other"]).0);
    wait_for("what was said by name", || {
        shop.run(&["logs", "a", "-c", "user"]).contains("said").then_some(())
    });
    // Volumes follow their objects as in other pods.
    shop.run(&["patch", "configmap", "words", "-p", r#"{"data":{"word":"new"}}"#]);
    wait_for("the new word", || (sh(&shop, "a", "root", "cat /c/word") == "new").then_some(()));
    // Networks work, and its capabilities end at its own network.
    let ip = shop.run(&["get", "pod", "b", "-o", "jsonpath={.status.podIP}"]);
    assert!(sh(&shop, "a", "root", &format!("ping -c 1 -W 5 {ip} && echo reached")).ends_with("reached"));

    // On disk, files are of ids that nobody else in the machine has.
    let uid = shop.run(&["get", "pod", "a", "-o", "jsonpath={.metadata.uid}"]);
    let machines: Vec<_> = std::fs::read_dir(cloud.data().join("machines")).unwrap().flatten().collect();
    let machine = machines[0].path();
    let root = std::fs::metadata(machine.join("root")).unwrap().uid();
    let file = machine.join(format!("root/var/lib/skep-agent/pods/{uid}/volumes/e/init"));
    let owner = std::fs::metadata(file).unwrap();
    assert_eq!(u64::from(owner.uid()), u64::from(root) + a);
    assert_eq!(u64::from(owner.gid()), u64::from(root) + a + 2000);

    // A file of the machine's cannot be given to it, for its ids cannot be mapped here; that is said.
    let host = json!([{"name": "e", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}},
        {"name": "h", "hostPath": {"path": "/var/log"}}]);
    shop.apply(&pod("h", &host, &json!([{"name": "h", "mountPath": "/h"}])));
    let path = "jsonpath={.status.containerStatuses[*].state.waiting.message}{.status.containerStatuses[*].lastState.terminated.message}{.status.containerStatuses[*].state.terminated.message}";
    wait_for("the refusal", || {
        let said = shop.run(&["get", "pod", "h", "-o", path]);
        said.contains("cannot give /h to a pod with a user namespace").then_some(())
    });

    // Whoever has the machine's users has them still, and ranges are used again.
    shop.run(&["delete", "pod", "a", "h", "--wait=true", "--timeout=60s"]);
    shop.apply(&pod("c", &volumes, &mounts));
    shop.run(&["wait", "--for=condition=Ready", "pod/c", "--timeout=90s"]);
    assert_eq!(first_id(&shop, "c"), a, "the lowest free range is taken");
    let node = shop.run(&[
        "get",
        "node",
        "-o",
        "jsonpath={.items[0].status.runtimeHandlers[0].features.userNamespaces}",
    ]);
    assert_eq!(node, "true");
    cloud.down(&[]);
}
