//! Networks and addresses through the real server: each number and each address is given once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use skep_client::{Access, Client, Error};
use skep_e2e::Server;

const NET: &str = "/apis/network.skep.io/v1";
const PORTS: &str = "/apis/network.skep.io/v1/namespaces/default/ports";

fn port(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "network.skep.io/v1", "kind": "Port", "metadata": {"name": name}, "spec": spec})
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "network.skep.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn addresses(port: &Value) -> Vec<String> {
    port["spec"]["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: u16, text: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(text), "{code} {text}: {error}");
}

#[tokio::test]
async fn every_tenant_has_a_network_with_a_number_of_its_own() {
    let server = Server::start();
    let load = |path: &std::path::Path| Client::new(Access::load(path).unwrap()).unwrap();
    let mut numbers = BTreeSet::new();
    for name in ["shop", "bank", "mill"] {
        let client = load(&server.tenant(name));
        let network: Value = client.get(&format!("{NET}/networks/default")).await.unwrap();
        assert_eq!(network["spec"]["mtu"], 1450);
        assert!(numbers.insert(network["spec"]["vni"].as_i64().unwrap()), "{network}");
        let subnet: Value = client.get(&format!("{NET}/subnets/default")).await.unwrap();
        assert_eq!(subnet["spec"]["cidr"], "10.64.0.0/14");
        // The same addresses in each, and each can have any of them.
        let made: Value = client.post(PORTS, &port("p", json!({"addresses": ["10.64.0.9"]}))).await.unwrap();
        assert_eq!(made["spec"]["mac"], "02:53:0a:40:00:09");
        refused(
            client
                .post::<Value>(&format!("{NET}/networks"), &object("Network", "n", json!({"vni": 5000})))
                .await,
            403,
            "only the operator",
        );
        refused(
            client.post::<Value>(PORTS, &port("q", json!({"mac": "02:00:00:00:00:01"}))).await,
            403,
            "only the operator",
        );
    }
    let shop = load(&server.tenant_kubeconfig("shop"));
    let other: Value =
        shop.post(&format!("{NET}/networks"), &object("Network", "n", json!({}))).await.unwrap();
    assert!(numbers.insert(other["spec"]["vni"].as_i64().unwrap()));
}

#[tokio::test]
async fn an_address_is_given_once_also_to_many_at_the_same_time_and_over_a_restart() {
    let mut server = Server::start();
    let path = server.tenant("shop");
    let client = Arc::new(Client::new(Access::load(&path).unwrap()).unwrap());
    client.post::<Value>(&format!("{NET}/networks"), &object("Network", "n", json!({}))).await.unwrap();
    // 126 can be given; eight are reserved.
    let spec = json!({"networkName": "n", "cidr": "10.9.0.0/25", "reserved": ["10.9.0.8/29"]});
    client.post::<Value>(&format!("{NET}/subnets"), &object("Subnet", "s", spec)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let client = client.clone();
        tasks.spawn(async move {
            let mut got = Vec::new();
            for i in 0..6 {
                let made: Value = client
                    .post(PORTS, &port(&format!("p-{n}-{i}"), json!({"networkName": "n"})))
                    .await
                    .unwrap();
                got.extend(addresses(&made));
            }
            got
        });
    }
    let all: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    let mut seen: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!((all.len(), seen.len()), (96, 96), "an address was given twice");
    // All that want the same: one gets it.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let client = client.clone();
        let wish = json!({"networkName": "n", "addresses": ["10.9.0.9"]});
        tasks.spawn(async move { client.post::<Value>(PORTS, &port(&format!("w-{n}"), wish)).await.is_ok() });
    }
    assert_eq!(tasks.join_all().await.iter().filter(|ok| **ok).count(), 1);
    seen.insert("10.9.0.9".into());

    server.kill();
    server.restart();
    let client = Client::new(Access::load(&path).unwrap()).unwrap();
    // The rest, until there is nothing left: 125 without the gateway, and seven more only by name.
    for n in 0..21 {
        let made: Value =
            client.post(PORTS, &port(&format!("r-{n}"), json!({"networkName": "n"}))).await.unwrap();
        for address in addresses(&made) {
            assert!(seen.insert(address.clone()), "{address} was given twice");
            assert!(!address.starts_with("10.9.0.1") || address.len() != 8, "{address}");
        }
    }
    refused(client.post::<Value>(PORTS, &port("full", json!({"networkName": "n"}))).await, 500, "are full");
    let made: Value = client
        .post(PORTS, &port("named", json!({"networkName": "n", "addresses": ["10.9.0.10"]})))
        .await
        .unwrap();
    assert_eq!(addresses(&made), ["10.9.0.10"]);
    // What goes can be had again.
    client.delete(&format!("{PORTS}/r-0")).await.unwrap();
    let again: Value = client.post(PORTS, &port("again", json!({"networkName": "n"}))).await.unwrap();
    assert_eq!(addresses(&again).len(), 1);
    refused(client.delete(&format!("{NET}/subnets/s")).await, 403, "is in use by the port");
    refused(client.delete(&format!("{NET}/networks/n")).await, 403, "delete its subnets first");
}

#[tokio::test]
async fn subnets_do_not_overlap_and_ports_fit_their_network() {
    let server = Server::start();
    let path = server.tenant("shop");
    let client = Arc::new(Client::new(Access::load(&path).unwrap()).unwrap());
    client.post::<Value>(&format!("{NET}/networks"), &object("Network", "n", json!({}))).await.unwrap();
    // Ten at the same time, all overlapping.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..10 {
        let client = client.clone();
        let spec = json!({"networkName": "n", "cidr": format!("10.{}.0.0/{}", 16 * (n / 10), 12 + n % 4)});
        tasks.spawn(async move {
            client
                .post::<Value>(&format!("{NET}/subnets"), &object("Subnet", &format!("s{n}"), spec))
                .await
                .is_ok()
        });
    }
    assert_eq!(tasks.join_all().await.iter().filter(|ok| **ok).count(), 1);
    let v6 = json!({"networkName": "n", "cidr": "fd00:9::/64"});
    client.post::<Value>(&format!("{NET}/subnets"), &object("Subnet", "six", v6)).await.unwrap();
    let made: Value = client.post(PORTS, &port("both", json!({"networkName": "n"}))).await.unwrap();
    assert_eq!(addresses(&made).iter().map(|a| a.contains(':')).collect::<Vec<_>>(), [false, true]);
    let only_six = json!({"networkName": "n", "addresses": ["fd00:9::77"]});
    let made: Value = client.post(PORTS, &port("six", only_six)).await.unwrap();
    assert_eq!(made["spec"]["mac"], "06:00:00:00:00:77");
    for (spec, text) in [
        (json!({"networkName": "none"}), "Not found"),
        (json!({"networkName": "n", "addresses": ["192.168.0.1"]}), "is not an address that a subnet"),
        (json!({"networkName": "n", "addresses": ["fd00:9::1"]}), "is not an address that a subnet"),
        (json!({"networkName": "n", "addresses": ["fd00:9::77"]}), "is in use by another port"),
    ] {
        refused(client.post::<Value>(PORTS, &port("bad", spec)).await, 422, text);
    }
}

#[tokio::test]
async fn public_addresses_are_the_clouds() {
    let server = Server::start();
    let admin = server.admin();
    let load = |path: &std::path::Path| Client::new(Access::load(path).unwrap()).unwrap();
    let (shop, bank) = (load(&server.tenant("shop")), load(&server.tenant("bank")));
    let pool = object("PublicPool", "default", json!({"ranges": ["192.0.2.4-192.0.2.5"]}));
    admin.post::<Value>(&format!("{NET}/publicpools"), &pool).await.unwrap();
    refused(shop.get::<Value>(&format!("{NET}/publicpools/default")).await, 404, "");
    let path = format!("{NET}/namespaces/default/publicips");
    let one: Value = shop.post(&path, &object("PublicIP", "a", json!({}))).await.unwrap();
    let two: Value = bank.post(&path, &object("PublicIP", "a", json!({}))).await.unwrap();
    let got: BTreeSet<_> = [&one, &two].map(|p| p["spec"]["address"].as_str().unwrap().to_owned()).into();
    assert_eq!(got.into_iter().collect::<Vec<_>>(), ["192.0.2.4", "192.0.2.5"]);
    refused(shop.post::<Value>(&path, &object("PublicIP", "b", json!({}))).await, 500, "is used up");
    // A tenant that goes gives back what it had.
    admin.delete("/apis/tenancy.skep.io/v1/tenants/bank").await.unwrap();
    let mut tries = 0;
    let again: Value = loop {
        match shop.post(&path, &object("PublicIP", "b", json!({}))).await {
            Ok(made) => break made,
            Err(error) if tries > 100 => panic!("{error}"),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(again["spec"]["address"], two["spec"]["address"]);
}

/// What happens to a port at the same time as other things.
#[derive(Clone, Debug)]
enum Step {
    Create(String),
    /// With an address of its own choice, which may be nobody's to give.
    CreateAs(String, String),
    Delete(String),
}

/// All ports of a network: name and addresses.
async fn ports_of(client: &Client, network: &str) -> Vec<(String, Vec<String>)> {
    let all: Value = client.get(PORTS).await.unwrap();
    let ours = all["items"].as_array().unwrap().iter().filter(|p| p["spec"]["networkName"] == network);
    ours.map(|p| (p["metadata"]["name"].as_str().unwrap().to_owned(), addresses(p))).collect()
}

/// Ports come and go by chance, many at the same time, by themselves and with addresses of their choice, while the server dies now and
/// then: no address is ever two ports', each is one that can be given, and nothing is refused while there is room. `SKEP_PORTS_SEED`
/// says with which choices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_chance_addresses_stay_exact() {
    const BATCHES: usize = 25;
    const AT_ONCE: usize = 12;
    // A subnet of 32, without its first, its last, and the gateway.
    const ROOM: usize = 29;
    let seeds: Vec<u64> = match std::env::var("SKEP_PORTS_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => vec![1, 2, 3],
    };
    let mut server = Server::start();
    let path = server.tenant("shop");
    for seed in seeds {
        eprintln!("SKEP_PORTS_SEED={seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        // Of the network's addresses.
        let part = seed % 250;
        let mut client = Arc::new(Client::new(Access::load(&path).unwrap()).unwrap());
        let network = format!("n{seed}");
        client
            .post::<Value>(&format!("{NET}/networks"), &object("Network", &network, json!({})))
            .await
            .unwrap();
        for (name, cidr) in [("four", format!("10.9.{part}.0/27")), ("six", format!("fd00:9:{part:x}::/64"))]
        {
            let spec = json!({"networkName": network, "cidr": cidr});
            let subnet = object("Subnet", &format!("{name}-{seed}"), spec);
            client.post::<Value>(&format!("{NET}/subnets"), &subnet).await.unwrap();
        }
        let mut live: BTreeSet<String> = BTreeSet::new();
        let mut count = 0;
        for batch in 0..BATCHES {
            let mut steps = Vec::new();
            let mut going = live.clone();
            for _ in 0..rng.random_range(1..=AT_ONCE) {
                count += 1;
                let name = format!("p{seed}-{count}");
                match rng.random_range(0..10) {
                    0..=4 => steps.push(Step::Create(name)),
                    5..=6 => {
                        let ip = format!("10.9.{part}.{}", rng.random_range(0..34));
                        steps.push(Step::CreateAs(name, ip));
                    }
                    _ => {
                        if let Some(name) = going.iter().choose(&mut rng).cloned() {
                            going.remove(&name);
                            steps.push(Step::Delete(name));
                        }
                    }
                }
            }
            let wanted = steps.iter().filter(|s| !matches!(s, Step::Delete(_))).count();
            let has_room = live.len() + wanted <= ROOM;
            let mut tasks = tokio::task::JoinSet::new();
            for step in steps {
                let (client, network) = (client.clone(), network.clone());
                tasks.spawn(async move {
                    let result = match &step {
                        Step::Create(name) => client
                            .post::<Value>(PORTS, &port(name, json!({"networkName": network})))
                            .await
                            .map(drop),
                        Step::CreateAs(name, ip) => {
                            let spec = json!({"networkName": network, "addresses": [ip]});
                            client.post::<Value>(PORTS, &port(name, spec)).await.map(drop)
                        }
                        Step::Delete(name) => client.delete(&format!("{PORTS}/{name}")).await.map(drop),
                    };
                    (step, result)
                });
            }
            for (step, result) in tasks.join_all().await {
                match (&step, result) {
                    (Step::Create(name) | Step::CreateAs(name, _), Ok(())) => drop(live.insert(name.clone())),
                    (Step::Delete(name), Ok(())) => drop(live.remove(name)),
                    (Step::Create(_), Err(error)) => {
                        assert!(!has_room && error.to_string().contains("are full"), "{step:?}: {error}");
                    }
                    (Step::CreateAs(..), Err(error)) => {
                        let why = error.to_string();
                        let good = ["is not an address that a subnet", "is in use by another port"];
                        assert!(good.iter().any(|g| why.contains(g)), "{step:?}: {why}");
                    }
                    (Step::Delete(_), Err(error)) => panic!("{step:?}: {error}"),
                }
            }
            if rng.random_range(0..8) == 0 {
                server.kill();
                server.restart();
                client = Arc::new(Client::new(Access::load(&path).unwrap()).unwrap());
            }
            // What there is, is what was answered; and no address is anybody else's.
            let ports = ports_of(&client, &network).await;
            let names: BTreeSet<String> = ports.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names, live, "batch {batch}");
            let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
            for (name, addresses) in &ports {
                for address in addresses {
                    let ip: IpAddr = address.parse().unwrap();
                    assert!(seen.insert(ip), "{ip} is twice, batch {batch}: {ports:?}");
                    let can_be = match ip {
                        IpAddr::V4(ip) => {
                            let [a, b, c, d] = ip.octets();
                            (a, b, u64::from(c)) == (10, 9, part) && (2..=30).contains(&d)
                        }
                        IpAddr::V6(ip) => {
                            ip.segments()[..4] == [0xfd00, 9, part as u16, 0] && ip.segments()[7] != 1
                        }
                    };
                    assert!(can_be, "{name} has {ip}");
                }
            }
        }
        // Filled to the last address, and no further.
        for n in live.len()..ROOM {
            let spec = json!({"networkName": network});
            client.post::<Value>(PORTS, &port(&format!("rest-{seed}-{n}"), spec)).await.unwrap();
        }
        refused(
            client.post::<Value>(PORTS, &port("more", json!({"networkName": network}))).await,
            500,
            "are full",
        );
    }
}
