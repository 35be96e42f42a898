//! Owners and dependents: background, foreground, orphans; in one tenant and not across.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{Client, DeleteParams, Propagation, Resource, Tenants};
use skep_e2e::{Kubectl, Server, eventually};

const MAPS: Resource = Resource::new("", "v1", "configmaps");

struct World {
    client: Client,
    tenant: TenantName,
}

impl World {
    fn at(&self, name: &str) -> skep_client::ObjectPath {
        MAPS.at(&self.tenant).namespace("default").name(name)
    }

    /// Makes an object owned by others, `NAME/UID`; with `!` behind it, it blocks the owner. Returns its uid.
    async fn make(&self, name: &str, owners: &[(&str, &str, bool)]) -> String {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(name, uid, blocks)| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": blocks})
            })
            .collect();
        let object = json!({"metadata": {"name": name, "ownerReferences": owners}});
        let made: Value =
            self.client.create(&MAPS.at(&self.tenant).namespace("default"), &object).await.unwrap();
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    async fn get(&self, name: &str) -> Option<Value> {
        match self.client.read(&self.at(name)).await {
            Ok(object) => Some(object),
            Err(e) if e.is_not_found() => None,
            Err(e) => panic!("{e}"),
        }
    }

    async fn gone(&self, name: &str) {
        eventually(|| async {
            self.get(name).await.map_or(Ok(()), |o| Err(format!("{name} is there: {o}")))
        })
        .await;
    }

    async fn delete(&self, name: &str, how: Propagation) {
        self.client.remove(&self.at(name), &DeleteParams::default().propagation(how)).await.unwrap();
    }

    async fn owners(&self, name: &str) -> usize {
        self.get(name).await.unwrap()["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_follow_their_owners() {
    let server = Server::control_plane();
    let kubeconfig = server.tenant("shop");
    let w = World { client: server.admin(), tenant: TenantName::new("shop").unwrap() };

    // Background, through two generations; another owner keeps one alive.
    let a = w.make("a", &[]).await;
    let other = w.make("other", &[]).await;
    let b = w.make("b", &[("a", &a, false)]).await;
    w.make("c", &[("b", &b, false)]).await;
    w.make("kept", &[("a", &a, false), ("other", &other, false)]).await;
    w.delete("a", Propagation::Background).await;
    w.gone("b").await;
    w.gone("c").await;
    eventually(|| async {
        if w.owners("kept").await == 1 { Ok(()) } else { Err("it has both owners".into()) }
    })
    .await;

    // Foreground: the owner stays until what blocks it has gone, which waits for its own.
    let a = w.make("fa", &[]).await;
    let b = w.make("fb", &[("fa", &a, true)]).await;
    w.make("fc", &[("fb", &b, true)]).await;
    w.client
        .patch::<Value>(
            &w.at("fc"),
            &skep_client::Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold"]}})),
        )
        .await
        .unwrap();
    w.delete("fa", Propagation::Foreground).await;
    eventually(|| async {
        let c = w.get("fc").await.ok_or("fc is gone")?;
        if c["metadata"]["deletionTimestamp"].is_string() {
            Ok(())
        } else {
            Err("fc is not being deleted".into())
        }
    })
    .await;
    assert!(w.get("fa").await.is_some() && w.get("fb").await.is_some());
    w.client
        .patch::<Value>(&w.at("fc"), &skep_client::Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    for name in ["fc", "fb", "fa"] {
        w.gone(name).await;
    }

    // Orphans.
    let a = w.make("oa", &[]).await;
    w.make("ob", &[("oa", &a, true)]).await;
    w.delete("oa", Propagation::Orphan).await;
    w.gone("oa").await;
    assert_eq!(w.owners("ob").await, 0);

    // An owner that never was, one of another uid, and one of the same name in another tenant.
    let foreign: Value = w
        .client
        .create(&MAPS.at(Tenants::Own).namespace("default"), &json!({"metadata": {"name": "foreign"}}))
        .await
        .unwrap();
    w.make("x", &[("never", "0e5fcff0-0000-0000-0000-000000000000", false)]).await;
    w.make("y", &[("kept", "0e5fcff0-0000-0000-0000-000000000001", false)]).await;
    w.make("z", &[("foreign", foreign["metadata"]["uid"].as_str().unwrap(), false)]).await;
    for name in ["x", "y", "z"] {
        w.gone(name).await;
    }

    // A circle of owners that wait for each other comes to an end.
    let a = w.make("ca", &[]).await;
    let b = w.make("cb", &[("ca", &a, true)]).await;
    let references = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "cb", "uid": b, "blockOwnerDeletion": true}]);
    w.client
        .patch::<Value>(
            &w.at("ca"),
            &skep_client::Patch::Merge(json!({"metadata": {"ownerReferences": references}})),
        )
        .await
        .unwrap();
    w.delete("ca", Propagation::Foreground).await;
    w.gone("ca").await;
    w.gone("cb").await;

    // As kubectl does it.
    let kubectl = Kubectl::new(&kubeconfig);
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}}\n";
    kubectl.pipe(&["create"], deployment);
    let uid = kubectl.run(&["get", "deployment", "web", "-o", "jsonpath={.metadata.uid}"]);
    let owned = json!({"metadata": {"name": "of-web", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": uid}]}});
    let _: Value = w.client.create(&MAPS.at(&w.tenant).namespace("default"), &owned).await.unwrap();
    kubectl.run(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"]);
    w.gone("of-web").await;
    assert!(w.get("kept").await.is_some() && w.get("ob").await.is_some() && w.get("other").await.is_some());
    assert_eq!(server.complaints(), Vec::<String>::new());
}

/// The process dies again and again while it collects: in the end exactly what should be left is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collection_survives_crashes() {
    const FAMILIES: usize = 24;
    const CHILDREN: usize = 4;
    let mut server = Server::control_plane();
    let _ = server.tenant("shop");
    let w = World { client: server.admin(), tenant: TenantName::new("shop").unwrap() };
    for family in 0..FAMILIES {
        let parent = format!("p{family}");
        let uid = w.make(&parent, &[]).await;
        for child in 0..CHILDREN {
            let name = format!("c{family}-{child}");
            let child_uid = w.make(&name, &[(&parent, &uid, child % 2 == 0)]).await;
            w.make(&format!("g{family}-{child}"), &[(&name, &child_uid, true)]).await;
        }
    }
    let ways = [Propagation::Background, Propagation::Foreground, Propagation::Orphan];
    for family in 0..FAMILIES {
        w.delete(&format!("p{family}"), ways[family % ways.len()]).await;
        if family % 6 == 5 {
            server.kill();
            server.restart();
        }
    }
    // What an owner let go of stays, with what it owns; everything else goes.
    let mut left: Vec<String> = (0..FAMILIES)
        .filter(|f| ways[f % ways.len()] == Propagation::Orphan)
        .flat_map(|f| (0..CHILDREN).flat_map(move |c| [format!("c{f}-{c}"), format!("g{f}-{c}")]))
        .collect();
    left.sort();
    eventually(|| async {
        let at = MAPS.at(&w.tenant).namespace("default");
        let all = w
            .client
            .list_all::<Value>(&at, skep_client::ListParams::default())
            .await
            .map_err(|e| e.to_string())?;
        let mut now: Vec<String> = all
            .items
            .iter()
            .filter_map(|o| o["metadata"]["name"].as_str())
            .filter(|n| *n != "kube-root-ca.crt")
            .map(str::to_owned)
            .collect();
        now.sort();
        if now == left {
            Ok(())
        } else {
            Err(format!("{} are there instead of {}: {now:?}", now.len(), left.len()))
        }
    })
    .await;
    for name in left.iter().filter(|n| n.starts_with('c')) {
        assert_eq!(w.owners(name).await, 0, "{name} was let go");
    }
    assert_eq!(server.complaints(), Vec::<String>::new());
}
