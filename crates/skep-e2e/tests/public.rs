//! Public addresses as objects: each given once, to whom it is for, and where each leads. Nodes and pods are only said to be here;
//! `public_traffic.rs` has real ones.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use skep_client::{Access, Client};
use skep_e2e::{Kubectl, Server, eventually};

const NET: &str = "/apis/network.skep.io/v1";
const PUBLICS: &str = "/apis/network.skep.io/v1/namespaces/default/publicips";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "network.skep.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn balancer(name: &str, more: Value) -> Value {
    let mut spec = json!({"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn becomes(client: &Client, path: &str, what: &str, right: impl Fn(&Value) -> bool) -> Value {
    let found = std::sync::Mutex::new(Value::Null);
    eventually(|| {
        let (ask, right, found) = (client.get::<Value>(path), &right, &found);
        async move {
            match ask.await {
                Ok(object) if right(&object) => {
                    *found.lock().unwrap() = object;
                    Ok(())
                }
                Ok(object) => Err(format!("{what}: {object}")),
                Err(error) => Err(format!("{what}: {error}")),
            }
        }
    })
    .await;
    found.into_inner().unwrap()
}

fn ingress(service: &Value) -> Option<&str> {
    service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()
}

fn count(list: &Value) -> usize {
    list["items"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_and_give_them_back() {
    let mut server = Server::control_plane();
    let admin = server.admin();
    let load = |path: &std::path::Path| Client::new(Access::load(path).unwrap()).unwrap();
    let (shop_file, bank_file) = (server.tenant("shop"), server.tenant("bank"));
    let (shop, bank) = (load(&shop_file), load(&bank_file));
    let kubectl = Kubectl::new(&shop_file);
    shop.post::<Value>(SERVICES, &balancer("web", json!({}))).await.unwrap();
    // Without a pool it waits, and says for what.
    eventually(|| async {
        let said = kubectl.run(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}",
        ]);
        let told = said.lines().any(|l| {
            l.starts_with("SyncLoadBalancerFailed: Error syncing load balancer")
                && l.contains("skep up --public-pool")
        });
        if told { Ok(()) } else { Err(said) }
    })
    .await;
    assert!(kubectl.run(&["get", "service", "web"]).contains("<pending>"));
    let pool = json!({"ranges": ["192.0.2.4-192.0.2.5", "2001:db8::/64"], "tenants": ["shop"]});
    admin.post::<Value>(&format!("{NET}/publicpools"), &object("PublicPool", "default", pool)).await.unwrap();
    let web = becomes(&shop, &format!("{SERVICES}/web"), "it has an address", |s| ingress(s).is_some()).await;
    let address = ingress(&web).unwrap().to_owned();
    assert!(["192.0.2.4", "192.0.2.5"].contains(&address.as_str()), "{web}");
    assert_eq!(web["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    assert!(kubectl.run(&["get", "service", "web"]).contains(&address));
    let made: Value = shop.get(PUBLICS).await.unwrap();
    assert_eq!(count(&made), 1, "{made}");
    assert_eq!(made["items"][0]["spec"]["serviceName"], "web");
    // What it says of itself is not for tenants to say.
    let name = made["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let lie = r#"{"status": {"nodeName": "n9"}}"#;
    let refused =
        kubectl.fail(&["patch", "publicip", &name, "--type=merge", "--subresource=status", "-p", lie]);
    assert!(refused.contains("operator"), "{refused}");

    // A pool that serves others is none.
    let refused = bank.post::<Value>(PUBLICS, &object("PublicIP", "mine", json!({}))).await.unwrap_err();
    assert!(refused.to_string().contains("spec.poolName: Not found"), "{refused}");
    let stolen = object("PublicIP", "mine", json!({"address": address}));
    assert!(bank.post::<Value>(PUBLICS, &stolen).await.is_err());
    let refused = shop.post::<Value>(PUBLICS, &stolen).await.unwrap_err();
    assert!(refused.to_string().contains("is in use"), "{refused}");

    // A pool whose addresses are in use stays; and what another pool has too is given once.
    let refused = admin.delete(&format!("{NET}/publicpools/default")).await.unwrap_err();
    assert!(refused.to_string().contains("is in use by the PublicIP shop:default/"), "{refused}");
    let again = object("PublicPool", "again", json!({"ranges": ["192.0.2.4-192.0.2.5"]}));
    admin.post::<Value>(&format!("{NET}/publicpools"), &again).await.unwrap();
    let stolen = object("PublicIP", "mine", json!({"poolName": "again", "address": address}));
    let refused = bank.post::<Value>(PUBLICS, &stolen).await.unwrap_err();
    assert!(refused.to_string().contains("is in use"), "{refused}");

    // It outlives the server.
    server.kill();
    server.restart();
    let kept = becomes(&shop, &format!("{SERVICES}/web"), "it is there again", |_| true).await;
    assert_eq!(ingress(&kept), Some(address.as_str()));

    // A service for somebody else is left alone, one that names us is not.
    let other = balancer("other", json!({"loadBalancerClass": "example.com/lb"}));
    shop.post::<Value>(SERVICES, &other).await.unwrap();
    let ours = balancer("ours", json!({"loadBalancerClass": "network.skep.io/public-ip"}));
    shop.post::<Value>(SERVICES, &ours).await.unwrap();
    becomes(&shop, &format!("{SERVICES}/ours"), "it has an address", |s| ingress(s).is_some()).await;
    assert_eq!(ingress(&shop.get::<Value>(&format!("{SERVICES}/other")).await.unwrap()), None);
    // Now all are given; a third waits until one is given back.
    let local = json!({"externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false});
    let third: Value = shop.post(SERVICES, &balancer("third", local)).await.unwrap();
    assert!(third["spec"]["healthCheckNodePort"].as_i64().unwrap() >= 30_000, "{third}");
    assert_eq!(third["spec"]["ports"][0].get("nodePort"), None, "{third}");
    eventually(|| async {
        let said = kubectl.run(&["get", "events", "--field-selector", "involvedObject.name=third"]);
        if said.contains("is used up") { Ok(()) } else { Err(said) }
    })
    .await;
    shop.delete(&format!("{SERVICES}/ours")).await.unwrap();
    becomes(&shop, &format!("{SERVICES}/third"), "it got what was given back", |s| ingress(s).is_some())
        .await;

    // Of another type it has no address.
    kubectl.run(&["patch", "service", "web", "-p", r#"{"spec": {"type": "ClusterIP"}}"#]);
    becomes(&shop, &format!("{SERVICES}/web"), "it has none", |s| ingress(s).is_none()).await;
    becomes(&shop, PUBLICS, "only the third has one", |l| count(l) == 1).await;
    // One that was reserved is used, and stays when the service goes.
    let reserved = object("PublicIP", "reserved", json!({"address": address, "serviceName": "web"}));
    shop.post::<Value>(PUBLICS, &reserved).await.unwrap();
    kubectl.run(&["patch", "service", "web", "-p", r#"{"spec": {"type": "LoadBalancer"}}"#]);
    becomes(&shop, &format!("{SERVICES}/web"), "it has the reserved one", |s| ingress(s) == Some(&address))
        .await;
    assert_eq!(count(&shop.get::<Value>(PUBLICS).await.unwrap()), 2);
    shop.delete(&format!("{SERVICES}/web")).await.unwrap();
    shop.delete(&format!("{SERVICES}/third")).await.unwrap();
    becomes(&shop, PUBLICS, "the reserved one stays", |l| {
        count(l) == 1 && l["items"][0]["metadata"]["name"] == "reserved"
    })
    .await;
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tenant_gets_more_than_it_may() {
    let server = Server::start();
    let admin = server.admin();
    let load = |path: &std::path::Path| Arc::new(Client::new(Access::load(path).unwrap()).unwrap());
    let (shop, bank) = (load(&server.tenant("shop")), load(&server.tenant("bank")));
    let pool = json!({"ranges": ["192.0.2.0/24"], "maxPerTenant": 3});
    admin.post::<Value>(&format!("{NET}/publicpools"), &object("PublicPool", "default", pool)).await.unwrap();
    // Many at the same time, of both.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..24 {
        let (client, name) = (if n % 2 == 0 { shop.clone() } else { bank.clone() }, format!("p{n}"));
        tasks.spawn(async move {
            let made = client.post::<Value>(PUBLICS, &object("PublicIP", &name, json!({}))).await;
            (n % 2, made.map(|p| p["spec"]["address"].as_str().unwrap().to_owned()))
        });
    }
    let (mut given, mut of) = (BTreeSet::new(), [0, 0]);
    for (who, result) in tasks.join_all().await {
        match result {
            Ok(address) => {
                assert!(given.insert(address.clone()), "{address} was given twice");
                of[who] += 1;
            }
            Err(error) => assert!(error.to_string().contains("gives each tenant 3 addresses"), "{error}"),
        }
    }
    assert_eq!(of, [3, 3]);
    // What is given back can be had again, by the one who gave it back.
    let all: Value = shop.get(PUBLICS).await.unwrap();
    let one = all["items"][0]["metadata"]["name"].as_str().unwrap();
    shop.delete(&format!("{PUBLICS}/{one}")).await.unwrap();
    let six = object("PublicIP", "six", json!({"ipFamily": "IPv6"}));
    let refused = shop.post::<Value>(PUBLICS, &six).await.unwrap_err();
    assert!(refused.to_string().contains("is used up"), "there are none of this family: {refused}");
    shop.post::<Value>(PUBLICS, &object("PublicIP", "again", json!({}))).await.unwrap();
    assert!(shop.post::<Value>(PUBLICS, &object("PublicIP", "more", json!({}))).await.is_err());
    assert!(bank.post::<Value>(PUBLICS, &object("PublicIP", "more", json!({}))).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_lead_where_pods_and_endpoints_are() {
    let server = Server::control_plane();
    let admin = server.admin();
    let file = server.tenant("shop");
    let (shop, kubectl) = (Client::new(Access::load(&file).unwrap()).unwrap(), Kubectl::new(&file));
    let pool = object("PublicPool", "default", json!({"ranges": ["192.0.2.0/24"]}));
    admin.post::<Value>(&format!("{NET}/publicpools"), &pool).await.unwrap();
    let ready = |name: &str| {
        format!(r#"{{"status":{{"conditions":[{{"type":"Ready","status":"{name}","reason":"R"}}]}}}}"#)
    };
    for node in ["n1", "n2"] {
        kubectl.pipe(
            &["create"],
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}).to_string(),
        );
        kubectl.run(&["patch", "node", node, "--subresource=status", "-p", &ready("True")]);
    }
    let pod = |name: &str, node: &str, ip: &str| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "x"}]}});
        kubectl.pipe(&["create"], &pod.to_string());
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        kubectl.run(&["patch", "pod", name, "--subresource=status", "-p", &status.to_string()]);
    };
    let gone = |name: &str| kubectl.run(&["delete", "pod", name, "--force", "--grace-period=0"]);
    shop.post::<Value>(PUBLICS, &object("PublicIP", "named", json!({"podName": "a"}))).await.unwrap();
    shop.post::<Value>(PUBLICS, &object("PublicIP", "labelled", json!({"podSelector": {"app": "web"}})))
        .await
        .unwrap();
    shop.post::<Value>(PUBLICS, &object("PublicIP", "idle", json!({}))).await.unwrap();
    let local = json!({"externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["198.51.100.0/24"]});
    shop.post::<Value>(SERVICES, &balancer("web", local)).await.unwrap();
    let at = |name: &str| format!("{PUBLICS}/{name}");
    let leads = |p: &Value, node: Option<&str>| {
        let phase = if node.is_some() { "Bound" } else { "Free" };
        p["status"]["nodeName"].as_str() == node && p["status"]["phase"] == phase
    };
    becomes(&shop, &at("named"), "there is no such pod", |p| {
        leads(p, None) && p["status"]["conditions"][0]["reason"] == "PodNotFound"
    })
    .await;
    pod("a", "n1", "10.64.0.5");
    let named = becomes(&shop, &at("named"), "it leads to the pod", |p| leads(p, Some("n1"))).await;
    assert_eq!(named["status"]["podName"], "a");
    becomes(&shop, &at("labelled"), "it leads to the pod", |p| leads(p, Some("n1"))).await;
    let service =
        becomes(&shop, &format!("{SERVICES}/web"), "it has an address", |s| ingress(s).is_some()).await;
    let made = |l: &Value| {
        let ip = ingress(&service);
        l["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["spec"]["address"].as_str() == ip)
            .cloned()
            .unwrap_or_default()
    };
    let list = becomes(&shop, PUBLICS, "the service is served where its endpoint is", |l| {
        leads(&made(l), Some("n1"))
    })
    .await;
    let status = &made(&list)["status"];
    assert_eq!(status["ports"], json!([{"protocol": "TCP", "port": 80}]));
    assert_eq!(status["sourceRanges"], json!(["198.51.100.0/24"]));
    // They follow: to the pod of the same name, to the next with the labels, to the node of the next endpoint.
    pod("b", "n2", "10.64.0.6");
    gone("a");
    becomes(&shop, &at("labelled"), "it follows", |p| leads(p, Some("n2")) && p["status"]["podName"] == "b")
        .await;
    becomes(&shop, &at("named"), "it waits", |p| leads(p, None)).await;
    becomes(&shop, PUBLICS, "the service is served elsewhere", |l| leads(&made(l), Some("n2"))).await;
    pod("a", "n2", "10.64.0.7");
    becomes(&shop, &at("named"), "it follows the name", |p| leads(p, Some("n2"))).await;
    gone("a");
    gone("b");
    becomes(&shop, PUBLICS, "nobody serves", |l| {
        leads(&made(l), None) && made(l)["status"]["conditions"][0]["reason"] == "NoEndpoints"
    })
    .await;
    let idle: Value = shop.get(&at("idle")).await.unwrap();
    assert!(leads(&idle, None), "{idle}");
    // What nodes serve is served by others when they are not ready.
    pod("c", "n1", "10.64.0.8");
    let cluster = json!({"externalTrafficPolicy": "Cluster"}).to_string();
    kubectl.run(&["patch", "service", "web", "-p", &format!(r#"{{"spec": {cluster}}}"#)]);
    becomes(&shop, PUBLICS, "a node serves again", |l| leads(&made(l), Some("n1"))).await;
    kubectl.run(&["patch", "node", "n1", "--subresource=status", "-p", &ready("False")]);
    becomes(&shop, PUBLICS, "the other node serves", |l| leads(&made(l), Some("n2"))).await;
    let listed = kubectl.run(&["get", "publicips"]);
    assert!(listed.contains("ADDRESS") && listed.contains("Bound"), "{listed}");
}
