//! The official Python client against a tenant: list, watch, patch, delete.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use skep_e2e::{Server, succeed, tool};

const SCRIPT: &str = r#"
import sys
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
apps = client.AppsV1Api()
for i in range(25):
    core.create_namespaced_config_map("default", client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name=f"c{i:02}", labels={"even": str(i % 2 == 0)}), data={"n": str(i)}))
page = core.list_namespaced_config_map("default", label_selector="even=True", limit=5)
names = [c.metadata.name for c in page.items]
while page.metadata._continue:
    page = core.list_namespaced_config_map("default", label_selector="even=True", limit=5, _continue=page.metadata._continue)
    names += [c.metadata.name for c in page.items]
assert names == [f"c{i:02}" for i in range(0, 25, 2)], names
start = core.list_namespaced_config_map("default").metadata.resource_version
core.patch_namespaced_config_map("c00", "default", {"data": {"n": "changed"}})
core.delete_namespaced_config_map("c01", "default")
core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="new")))
seen = []
for event in watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=10):
    seen.append((event["type"], event["object"].metadata.name))
    if len(seen) == 3:
        break
assert seen == [("MODIFIED", "c00"), ("DELETED", "c01"), ("ADDED", "new")], seen
pod = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": "x"}),
    spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="i")]))
apps.create_namespaced_deployment("default", client.V1Deployment(metadata=client.V1ObjectMeta(name="d"),
    spec=client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels={"app": "x"}), template=pod)))
apps.patch_namespaced_deployment_scale("d", "default", {"spec": {"replicas": 4}})
assert apps.read_namespaced_deployment("d", "default").spec.replicas == 4
try:
    core.read_namespaced_config_map("c01", "default")
    raise SystemExit("a deleted object can be read")
except client.ApiException as e:
    assert e.status == 404, e
try:
    core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="new")))
    raise SystemExit("a name was given out twice")
except client.ApiException as e:
    assert e.status == 409 and "AlreadyExists" in e.body, e
core.delete_collection_namespaced_config_map("default", label_selector="even")
left = [c.metadata.name for c in core.list_namespaced_config_map("default").items]
assert left == ["kube-root-ca.crt", "new"], left
print("all good")
"#;

#[test]
fn the_official_python_client() {
    let server = Server::start();
    let kubeconfig = server.tenant("shop");
    let script = server.folder().join("client.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let printed = succeed(Command::new(tool("python/bin/python3")).arg(&script).arg(&kubeconfig));
    assert_eq!(printed.trim(), "all good");
    assert_eq!(server.complaints(), Vec::<String>::new());
}
