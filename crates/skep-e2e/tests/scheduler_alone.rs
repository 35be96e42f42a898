//! `skep scheduler` as a process of its own, over the network, beside a plain API server.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{Patch, Resource};
use skep_e2e::{Server, eventually};

const PODS: Resource = Resource::new("", "v1", "pods");
const NODES: Resource = Resource::new("", "v1", "nodes");

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scheduler(kubeconfig: &std::path::Path) -> Process {
    let child = Command::new(skep_e2e::skep())
        .args(["scheduler", "--listen", "127.0.0.1:0", "--kubeconfig"])
        .arg(kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

/// With the operator's credential it sees all tenants; with a tenant's, as with any other Kubernetes server, one.
#[tokio::test(flavor = "multi_thread")]
async fn it_schedules_all_tenants_or_the_one_that_it_sees() {
    let server = Server::start();
    let kubeconfig = server.tenant("shop");
    let client = server.admin();
    let tenant = TenantName::new("shop").unwrap();
    let status = json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}});
    let at = NODES.at(&tenant);
    let _: Value = client.create(&at, &json!({"metadata": {"name": "n"}})).await.unwrap();
    let _: Value = client
        .patch(&at.name("n").subresource("status"), &Patch::Strategic(json!({"status": status})))
        .await
        .unwrap();
    for (name, credential) in [("first", server.kubeconfig()), ("second", kubeconfig)] {
        let _scheduler = scheduler(&credential);
        let pods = PODS.at(&tenant).namespace("default");
        // No controller runs here that would take away the taint with which every new node begins.
        let pod = json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "x"}], "tolerations": [{"operator": "Exists"}],
        }});
        let _: Value = client.create(&pods, &pod).await.unwrap();
        eventually(|| async {
            let found: Value = client.read(&pods.clone().name(name)).await.unwrap();
            if found["spec"]["nodeName"] == "n" { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }
}
