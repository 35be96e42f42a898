//! Quotas are exact, whatever happens at the same time.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Method;
use serde_json::{Value, json};
use skep_client::{Access, Client, Error};
use skep_e2e::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const USAGE: &str = "/apis/tenancy.skep.io/v1/tenantusages/tenant";

fn client(path: &std::path::Path) -> Client {
    Client::new(Access::load(path).unwrap()).unwrap()
}

async fn set_quota(admin: &Client, tenant: &str, quota: Value) {
    let path = format!("/apis/tenancy.skep.io/v1/tenants/{tenant}");
    let patch = json!({"spec": {"quota": quota}}).to_string();
    admin.request(Method::PATCH, &path, "application/merge-patch+json", patch.into_bytes()).await.unwrap();
}

fn used(usage: &Value, name: &str) -> i64 {
    let text = usage["status"]["used"][name].as_str().unwrap_or_else(|| panic!("{name} is not in {usage}"));
    text.parse().unwrap()
}

async fn count(client: &Client, path: &str) -> usize {
    client.get::<Value>(path).await.unwrap()["items"].as_array().unwrap().len()
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// 64 clients that create as long as they can; says how often that worked.
async fn race(client: &Client, path: &'static str, object: fn(&str) -> Value) -> usize {
    let made = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64)
        .map(|i| {
            let (client, made) = (client.clone(), made.clone());
            tokio::spawn(async move {
                for n in 0..10 {
                    match client.post::<Value>(path, &object(&format!("o-{i}-{n}"))).await {
                        Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
                        Err(Error::Status { code: 403, message, .. }) => {
                            assert!(message.contains("exceeded quota: tenant"), "{message}");
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    made.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_quota_cannot_be_overshot() {
    let server = Server::start();
    let admin = server.admin();
    let shop = client(&server.tenant("shop"));
    set_quota(&admin, "shop", json!({"count/objects": "100"})).await;
    let before = usize::try_from(used(&shop.get(USAGE).await.unwrap(), "count/objects")).unwrap();
    let maps = count(&shop, MAPS).await;
    let made = race(&shop, MAPS, map).await;
    assert_eq!(before + made, 100, "{before} were there, {made} were made");
    assert_eq!(count(&shop, MAPS).await, maps + made);
    assert_eq!(used(&shop.get(USAGE).await.unwrap(), "count/objects"), 100);
    set_quota(&admin, "shop", json!({"count/objects": "1000", "pods": "100"})).await;
    assert_eq!(race(&shop, PODS, pod).await, 100);
    assert_eq!(count(&shop, PODS).await, 100);
    let usage: Value = shop.get(USAGE).await.unwrap();
    assert_eq!((used(&usage, "count/objects"), used(&usage, "pods")), (200, 100));
    // What goes makes room, once.
    let names = shop.get::<Value>(PODS).await.unwrap();
    let one = names["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let path = format!("{PODS}/{one}?gracePeriodSeconds=0");
    shop.delete(&path).await.unwrap();
    let left = count(&shop, PODS).await;
    let mut made = 0;
    while shop.post::<Value>(PODS, &pod(&format!("again-{made}"))).await.is_ok() {
        made += 1;
    }
    assert_eq!(left + made, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_come_with_a_namespace_count_and_defaults_do_not() {
    let server = Server::start();
    let admin = server.admin();
    let shop = client(&server.tenant("shop"));
    set_quota(&admin, "shop", json!({"count/objects": "1000"})).await;
    let now = async || used(&shop.get::<Value>(USAGE).await.unwrap(), "count/objects");
    let before = now().await;
    shop.post::<Value>("/api/v1/namespaces", &map("prod")).await.unwrap();
    let with_namespace = now().await;
    assert!(with_namespace > before + 1, "its first objects are not charged");
    // A default role is nobody's own, changed or deleted.
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
    let label = br#"{"metadata":{"labels":{"a":"b"}}}"#.to_vec();
    shop.request(Method::PATCH, role, "application/merge-patch+json", label).await.unwrap();
    assert_eq!(now().await, with_namespace);
    shop.delete(role).await.unwrap();
    assert_eq!(now().await, with_namespace);
    // A recount finds the same.
    set_quota(&admin, "shop", json!({"count/objects": "1001"})).await;
    assert_eq!(now().await, with_namespace);
    shop.delete("/api/v1/namespaces/prod").await.unwrap();
    let begun = std::time::Instant::now();
    while shop.get::<Value>("/api/v1/namespaces/prod").await.is_ok() {
        assert!(begun.elapsed().as_secs() < 60, "the namespace does not go");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(now().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_made_under_load_counts_every_write_once() {
    let server = Server::start();
    let shop = client(&server.tenant("shop"));
    for round in 0..5 {
        let namespace = format!("n{round}");
        shop.post::<Value>("/api/v1/namespaces", &map(&namespace)).await.unwrap();
        let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..16)
            .map(|i| {
                let (client, stop, maps) = (shop.clone(), stop.clone(), maps.clone());
                tokio::spawn(async move {
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let name = format!("m-{i}-{n}");
                        match client.post::<Value>(&maps, &map(&name)).await {
                            Ok(_) if n % 3 == 0 => client.delete(&format!("{maps}/{name}")).await.unwrap(),
                            // While a new quota has not been counted, writes are refused, as upstream.
                            Ok(_) | Err(Error::Status { code: 403, .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "100000"}}});
        let quotas = format!("/api/v1/namespaces/{namespace}/resourcequotas");
        shop.post::<Value>(&quotas, &quota).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        let quota: Value = shop.get(&format!("{quotas}/q")).await.unwrap();
        let there = count(&shop, &maps).await;
        let counted: usize = quota["status"]["used"]["count/configmaps"].as_str().unwrap().parse().unwrap();
        assert_eq!(counted, there, "round {round}");
    }
    assert_eq!(server.complaints(), Vec::<String>::new());
}
