//! Several controller processes beside one API server: one works, and another takes over.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use skep_client::{Client, DeleteParams, Propagation, Resource, Tenants};
use skep_e2e::{Server, eventually};

const MAPS: Resource = Resource::new("", "v1", "configmaps");
const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases");

/// A controller process; killed when dropped.
struct Controllers(Child);

impl Drop for Controllers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(server: &Server, log: &str) -> Controllers {
    let log = std::fs::File::create(server.folder().join(log)).unwrap();
    let child = skep_e2e::command()
        .args(["controllers", "--listen", "127.0.0.1:0", "--kubeconfig"])
        .arg(server.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Controllers(child)
}

async fn holder(client: &Client) -> Option<String> {
    let at = LEASES.at(Tenants::Own).namespace("kube-system").name("kube-controller-manager");
    let lease: Value = client.read(&at).await.ok()?;
    lease["spec"]["holderIdentity"].as_str().filter(|h| !h.is_empty()).map(str::to_owned)
}

/// Whether somebody collects garbage: an owner goes, and what it owns with it.
async fn somebody_works(client: &Client, name: &str) {
    let at = MAPS.at(Tenants::Own).namespace("default");
    let owner: Value = client.create(&at, &json!({"metadata": {"name": name}})).await.unwrap();
    let dependent = format!("of-{name}");
    let owned = json!({"metadata": {"name": dependent, "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner["metadata"]["uid"]}]}});
    let _: Value = client.create(&at, &owned).await.unwrap();
    let params = DeleteParams::default().propagation(Propagation::Background);
    client.remove(&at.clone().name(name), &params).await.unwrap();
    eventually(|| async {
        match client.read::<Value>(&at.clone().name(&dependent)).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_takes_over() {
    let server = Server::start();
    let client = server.admin();
    let mut first = start(&server, "first");
    eventually(|| async { holder(&client).await.map(|_| ()).ok_or("nobody leads".to_owned()) }).await;
    let leader = holder(&client).await.unwrap();
    let _second = start(&server, "second");
    somebody_works(&client, "a").await;
    assert_eq!(holder(&client).await.as_ref(), Some(&leader), "a second candidate waits");

    // A good end gives the lease back: the other need not wait for it to run out.
    let begun = std::time::Instant::now();
    assert!(Command::new("kill").arg(first.0.id().to_string()).status().unwrap().success());
    assert!(first.0.wait().unwrap().success());
    eventually(|| async {
        match holder(&client).await {
            Some(now) if now != leader => Ok(()),
            other => Err(format!("{other:?} leads")),
        }
    })
    .await;
    assert!(begun.elapsed().as_secs() < 14, "{:?}", begun.elapsed());
    somebody_works(&client, "b").await;
    assert_eq!(server.complaints(), Vec::<String>::new());
}
