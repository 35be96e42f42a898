//! What pools of machines do, on hosts that are simulated.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use http::Method;
use serde_json::{Value, json};
use skep_client::Client;
use skep_e2e::{Server, eventually};

const MERGE: &str = "application/merge-patch+json";
const TENANT: &str = "/apis/tenancy.skep.io/v1/tenants/leaver";
const MACHINES: &str = "/tenants/leaver/apis/compute.skep.io/v1/machines";

/// Ends with the test.
struct Hosts(Child);

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn machines(client: &Client) -> Result<BTreeSet<String>, String> {
    let list: Value = client.get(MACHINES).await.map_err(|e| e.to_string())?;
    let items = list["items"].as_array().ok_or("no list")?;
    Ok(items.iter().map(|m| m["metadata"]["uid"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn patch(client: &Client, path: &str, patch: Value) {
    client.request(Method::PATCH, path, MERGE, patch.to_string().into_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_tenant_that_goes_gets_no_machines() {
    let server = Server::control_plane();
    let hosts = skep_e2e::command()
        .args(["sim", "hosts", "1", "--kubeconfig"])
        .arg(server.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _hosts = Hosts(hosts);
    let admin = server.admin();
    let tenant = json!({"apiVersion": "tenancy.skep.io/v1", "kind": "Tenant",
        "metadata": {"name": "leaver", "finalizers": ["test.skep.io/look"]}});
    admin.post::<Value>("/apis/tenancy.skep.io/v1/tenants", &tenant).await.unwrap();
    // It is to have a machine at any time.
    let pool = "/tenants/leaver/apis/compute.skep.io/v1/nodepools/default";
    patch(&admin, pool, json!({"spec": {"minMachines": 1, "maxMachines": 3}})).await;
    eventually(|| async {
        match machines(&admin).await?.len() {
            1 => Ok(()),
            n => Err(format!("{n} machines")),
        }
    })
    .await;
    // Another takes its place when it goes.
    let first = machines(&admin).await.unwrap();
    let list: Value = admin.get(MACHINES).await.unwrap();
    let name = list["items"][0]["metadata"]["name"].as_str().unwrap();
    admin.request(Method::DELETE, &format!("{MACHINES}/{name}"), MERGE, Vec::new()).await.unwrap();
    eventually(|| async {
        let now = machines(&admin).await?;
        if now.len() == 1 && now.is_disjoint(&first) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let before = machines(&admin).await.unwrap();

    // Now the tenant goes, and a pod that waits for a machine makes no difference.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "waiting"}, "spec": {
        "nodeSelector": {"nowhere": "yet"}, "containers": [{"name": "c", "image": "i"}]}});
    admin.post::<Value>("/tenants/leaver/api/v1/namespaces/default/pods", &pod).await.unwrap();
    admin.request(Method::DELETE, TENANT, MERGE, Vec::new()).await.unwrap();
    let seen = std::cell::RefCell::new(BTreeSet::new());
    eventually(|| async {
        let now = machines(&admin).await?;
        seen.borrow_mut().extend(now.iter().cloned());
        if now.is_empty() { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    // Whatever looks at it again does not bring one either.
    for _ in 0..20 {
        let now = machines(&admin).await.unwrap_or_default();
        seen.borrow_mut().extend(now);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let seen = seen.into_inner();
    assert!(seen.is_subset(&before), "{seen:?} beside {before:?}");
    patch(&admin, TENANT, json!({"metadata": {"finalizers": null}})).await;
    eventually(|| async {
        match admin.get::<Value>(TENANT).await {
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e.to_string()),
            Ok(left) => Err(left.to_string()),
        }
    })
    .await;
}
