//! Machines with disks of their own (`SKEP_MACHINE_DISKS=own`): a machine has what its flavour says and no more, its files outlive its processes, and
//! nothing of the disk is left when it goes. Needs root, busybox and `mkfs.ext4`; says so without.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use serde_json::json;
use skep_e2e::agent::disks_impossible;
use skep_e2e::cloud::{Cloud, text, wait_for};

fn loops(cloud: &Cloud) -> usize {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|d| std::fs::read_to_string(d.path().join("loop/backing_file")).ok());
    files.filter(|f| Path::new(f.trim()).starts_with(cloud.data())).count()
}

fn up(cloud: &Cloud) {
    let mut command = Command::new(skep_e2e::skep());
    command
        .args(["up", "--listen", &cloud.listen])
        .env("SKEP_DATA", cloud.data())
        .env("SKEP_REGISTRY_LISTEN", "127.0.0.1:0")
        .env("SKEP_MACHINE_DISKS", "own");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output), cloud.log());
}

#[test]
fn a_machine_has_the_disk_of_its_flavor() {
    if let Some(why) = disks_impossible() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let cloud = Cloud::new();
    up(&cloud);
    cloud.load("busybox:test", "", None);
    let flavor = json!({"apiVersion": "compute.skep.io/v1", "kind": "Flavor", "metadata": {"name": "narrow"},
        "spec": {"resources": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "300Mi"}, "price": 1}});
    let path = cloud.directory.path().join("flavor.json");
    std::fs::write(&path, flavor.to_string()).unwrap();
    let operator = |args: &[&str]| {
        let mut command = Command::new(skep_e2e::tool("kubectl"));
        let output =
            command.args(args).env("KUBECONFIG", cloud.data().join("admin.kubeconfig")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    operator(&["apply", "--validate=false", "-f", path.to_str().unwrap()]);
    let shop = cloud.administrator("shop");
    let pool = r#"{"spec":{"flavorNames":["narrow"],"maxMachines":1}}"#;
    shop.run(&["patch", "nodepool", "default", "--type=merge", "-p", pool]);
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:test", "command": ["sleep", "100000"],
            "volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "h", "mountPath": "/h"}]}],
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/srv"}}]}}));
    shop.phase("writer", "Running");
    assert_eq!(loops(&cloud), 1);
    let sh = |words: &str| shop.try_run(&["exec", "writer", "--", "sh", "-c", words]);
    // All that it can write is what it has.
    let (_, size) = sh("df -m /e | tail -n 1 | awk '{print $2}'");
    let megabytes: u64 = size.trim().parse().unwrap();
    assert!((200..=300).contains(&megabytes), "{size}");
    let (good, said) = sh("fallocate -l 400M /e/large");
    assert!(!good && said.contains("No space left on device"), "{said}");
    assert!(
        sh("rm -f /e/large; dd if=/dev/zero of=/e/fits bs=1M count=20 2>/dev/null && echo kept > /h/word").0
    );
    assert_eq!(
        shop.run(&["get", "node", "-o", "jsonpath={.items[0].status.capacity.ephemeral-storage}"]),
        "300Mi"
    );
    // What asks for more has no place there.
    shop.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy"}, "spec": {
        "containers": [{"name": "c", "image": "busybox:test", "command": ["true"],
            "resources": {"requests": {"ephemeral-storage": "400Mi"}}}]}}));
    wait_for("the refusal", || {
        let (_, said) =
            shop.try_run(&["get", "pod", "greedy", "-o", "jsonpath={.status.conditions[*].message}"]);
        said.contains("Insufficient ephemeral-storage").then_some(())
    });
    shop.run(&["delete", "pod", "greedy"]);

    // Its files outlive its processes and its mounts.
    cloud.down(&[]);
    assert_eq!(loops(&cloud), 0);
    up(&cloud);
    wait_for("the pod runs again", || (sh("cat /h/word") == (true, "kept\n".to_owned())).then_some(()));
    assert_eq!(loops(&cloud), 1);
    // When the machine goes, so does its disk.
    operator(&["delete", "--raw", "/tenants/shop/apis/compute.skep.io/v1/nodepools/default"]);
    let output = cloud.skep(&["tenant", "delete", "shop"]);
    assert!(output.status.success(), "{}", text(&output));
    wait_for("the machine goes", || {
        let left = std::fs::read_dir(cloud.data().join("machines")).into_iter().flatten().count();
        (left == 0 && loops(&cloud) == 0).then_some(())
    });
    cloud.down(&[]);
}
