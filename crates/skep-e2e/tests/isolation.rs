//! Every path and verb that the server registers, with a foreign tenant's credential.
#![allow(clippy::unwrap_used)]

use http::Method;
use serde_json::Value;
use skep_client::{Access, Client, Error};
use skep_e2e::Server;

/// One thing that can be asked of the server.
struct Endpoint {
    method: Method,
    path: String,
}

/// All endpoints of a view, found through discovery: a kind that is registered is tested.
async fn endpoints(client: &Client) -> Vec<Endpoint> {
    let mut bases = vec!["/api/v1".to_owned()];
    let groups: Value = client.get("/apis").await.unwrap();
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            bases.push(format!("/apis/{}", version["groupVersion"].as_str().unwrap()));
        }
    }
    let mut found = Vec::new();
    for base in bases {
        let list: Value = client.get(&base).await.unwrap();
        for resource in list["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let (plural, sub) = name.split_once('/').map_or((name, ""), |(p, s)| (p, s));
            let scope = if resource["namespaced"].as_bool().unwrap() { "/namespaces/default" } else { "" };
            let collection = format!("{base}{scope}/{plural}");
            let object =
                if sub.is_empty() { format!("{collection}/x") } else { format!("{collection}/x/{sub}") };
            for verb in resource["verbs"].as_array().unwrap() {
                let (method, path) = match verb.as_str().unwrap() {
                    "get" => (Method::GET, object.clone()),
                    "list" => (Method::GET, collection.clone()),
                    "watch" => (Method::GET, format!("{collection}?watch=1&timeoutSeconds=1")),
                    "create" if sub.is_empty() => (Method::POST, collection.clone()),
                    "create" => (Method::POST, object.clone()),
                    "update" => (Method::PUT, object.clone()),
                    "patch" => (Method::PATCH, object.clone()),
                    "delete" => (Method::DELETE, object.clone()),
                    "deletecollection" => (Method::DELETE, collection.clone()),
                    other => panic!("a verb that this test does not know: {other}"),
                };
                found.push(Endpoint { method, path });
            }
        }
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/version",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/apis/apps/v1",
        "/metrics",
        "/openid/v1/jwks",
        "/.well-known/openid-configuration",
    ] {
        found.push(Endpoint { method: Method::GET, path: path.to_owned() });
    }
    found
}

#[tokio::test]
async fn a_foreign_credential_finds_nothing_anywhere() {
    let server = Server::start();
    let load = |path: &std::path::Path| Client::new(Access::load(path).unwrap()).unwrap();
    let shop = load(&server.tenant("shop"));
    let _ = server.tenant("bank");
    let admin = server.admin();
    let endpoints = endpoints(&admin).await;
    assert!(endpoints.len() > 300, "only {} endpoints: discovery is not complete", endpoints.len());
    let before: Value = admin.get("/tenants/bank/api/v1/namespaces").await.unwrap();
    for e in &endpoints {
        let mut answers = Vec::new();
        // Another tenant, a tenant that does not exist, all tenants: the three look the same.
        for view in ["bank", "nobody", "*"] {
            let kind =
                if e.method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
            let path = format!("/tenants/{view}{}", e.path);
            let error = shop.request(e.method.clone(), &path, kind, b"{}".to_vec()).await;
            match error {
                Err(Error::Status { code, reason, message, .. }) => answers.push((code, reason, message)),
                other => panic!("{} {path} answered {other:?}", e.method),
            }
        }
        assert_eq!(answers[0].0, 404, "{} {} answered {:?}", e.method, e.path, answers[0]);
        assert!(answers.iter().all(|a| *a == answers[0]), "{} {}: {answers:?}", e.method, e.path);
    }
    let after: Value = admin.get("/tenants/bank/api/v1/namespaces").await.unwrap();
    assert_eq!(before["items"], after["items"]);
    // The operator's own resources are not even listed in a tenant.
    let groups: Value = shop.get("/apis/tenancy.skep.io/v1").await.unwrap();
    assert!(
        groups["resources"]
            .as_array()
            .unwrap()
            .iter()
            .all(|r| !r["name"].as_str().unwrap().starts_with("tenants"))
    );
}
