//! Service addresses and node ports: each given out once, and again only when it was given back.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skep_client::Client;
use skep_e2e::Server;

const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn create(client: &Client, name: &str, spec: Value) -> Result<Value, skep_client::Error> {
    client.post(SERVICES, &json!({"metadata": {"name": name}, "spec": spec})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_ports_are_given_out_once() {
    let server = Server::start();
    let client = server.admin();
    let made: Vec<_> = (0..60)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move {
                let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
                create(&client, &format!("s{i}"), spec).await.unwrap()
            })
        })
        .collect();
    let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for service in made {
        let service = service.await.unwrap();
        ips.insert(service["spec"]["clusterIP"].as_str().unwrap().to_owned());
        ports.insert(service["spec"]["ports"][0]["nodePort"].as_i64().unwrap());
    }
    assert_eq!((ips.len(), ports.len()), (60, 60));
    // A particular one that is taken is refused by name, and had once its owner is gone.
    let ip = ips.first().unwrap();
    let wish = json!({"clusterIP": ip, "ports": [{"port": 80}]});
    let refused = create(&client, "wish", wish.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("provided IP is already allocated"), "{refused}");
    let list: Value = client.get(SERVICES).await.unwrap();
    let owner =
        list["items"].as_array().unwrap().iter().find(|s| s["spec"]["clusterIP"] == ip.as_str()).unwrap();
    client.delete(&format!("{SERVICES}/{}", owner["metadata"]["name"].as_str().unwrap())).await.unwrap();
    assert_eq!(create(&client, "wish", wish).await.unwrap()["spec"]["clusterIP"], ip.as_str());
    for (ip, why) in [("10.1.2.3", "not in the valid range"), ("x", "Invalid value")] {
        let refused =
            create(&client, "bad", json!({"clusterIP": ip, "ports": [{"port": 80}]})).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let headless =
        create(&client, "headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})).await.unwrap();
    assert_eq!(headless["spec"]["clusterIP"], "None");
}
