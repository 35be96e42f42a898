//! Clients that mean harm: a clear `Status`, nothing changed, no growth of memory, nobody else slowed.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use base64::Engine;
use http::Method;
use serde_json::{Value, json};
use skep_client::{Access, Client, Error};
use skep_e2e::Server;
use skep_e2e::wire::{Wire, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// What the process may grow by under attack: buffers of connections, allocator slack.
const MAX_GROWTH_BYTES: u64 = 160 * 1024 * 1024;
/// A quiet tenant is served within this, on a machine that is busy with other things as well.
const QUIET_LIMIT: Duration = Duration::from_secs(2);

fn client(path: &std::path::Path) -> Client {
    Client::new(Access::load(path).unwrap()).unwrap()
}

/// How long a small write of a tenant takes at worst while something goes on, in `rounds` tries.
async fn slowest(client: &Client, rounds: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for i in 0..rounds {
        let begun = Instant::now();
        let name = format!("quiet-{i}");
        let _: Value = client.post(MAPS, &json!({"metadata": {"name": name}})).await.unwrap();
        client.delete(&format!("{MAPS}/{name}")).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn monstrous_bodies_leave_no_trace() {
    let server = Server::start();
    let shop = client(&server.tenant("shop"));
    let bank = client(&server.tenant("bank"));
    let before: Value = shop.get(MAPS).await.unwrap();
    // Within the size limit: as many labels as fit, nesting, one long key, one key many times.
    let labels: String = (0..180_000).map(|i| format!(r#""l{i}":"v","#)).collect();
    let monsters = [
        ("labels", format!(r#"{{"metadata":{{"name":"x","labels":{{{labels}"z":""}}}}}}"#)),
        ("million", format!(r#"{{"metadata":{{"name":"x","labels":{{{}"z":""}}}}}}"#, labels.repeat(6))),
        ("nested", format!("{}{}", r#"{"data":"#.repeat(200_000), "}".repeat(200_000))),
        (
            "lists",
            format!(
                r#"{{"metadata":{{"name":"x","finalizers":{}{}}}}}"#,
                "[".repeat(1 << 20),
                "]".repeat(1 << 20)
            ),
        ),
        ("key", format!(r#"{{"metadata":{{"name":"x"}},"data":{{"{}":"v"}}}}"#, "k".repeat(3_000_000))),
        ("name", format!(r#"{{"metadata":{{"name":"{}"}}}}"#, "n".repeat(3_000_000))),
        (
            "wrong labels",
            format!(
                r#"{{"metadata":{{"name":"x","labels":{{{}"z":""}}}}}}"#,
                (0..200_000).map(|i| format!(r#""l{i}":"-","#)).collect::<String>()
            ),
        ),
        (
            "finalizers",
            format!(
                r#"{{"metadata":{{"name":"x","finalizers":[{}"z"]}}}}"#,
                (0..200_000).map(|i| format!(r#""f{i}","#)).collect::<String>()
            ),
        ),
        (
            "owners",
            format!(
                r#"{{"metadata":{{"name":"x","ownerReferences":[{}{{}}]}}}}"#,
                r#"{"apiVersion":"v1","kind":"A","name":"b","uid":"c","controller":true},"#.repeat(40_000)
            ),
        ),
        ("twice", format!(r#"{{"metadata":{{"name":"X"}},{}"data":{{}}}}"#, r#""data":{},"#.repeat(300_000))),
        (
            "unknown",
            format!(
                r#"{{"metadata":{{"name":"X"}},{}"data":{{}}}}"#,
                (0..200_000).map(|i| format!(r#""u{i}":1,"#)).collect::<String>()
            ),
        ),
        ("escapes", format!(r#"{{"metadata":{{"name":"{}"}}}}"#, "\\u0000".repeat(400_000))),
        (
            "bomb",
            format!(
                "a: &a [{}]\nb: &b [{}]\nc: [{}]",
                "x,".repeat(1000),
                "*a,".repeat(1000),
                "*b,".repeat(1000)
            ),
        ),
    ];
    let resident = server.resident_bytes();
    for round in 0..2 {
        for (name, body) in &monsters {
            let kind = if *name == "bomb" { "application/yaml" } else { "application/json" };
            for query in ["", "?fieldValidation=Strict"] {
                let path = format!("{MAPS}{query}");
                let answer = shop.request(Method::POST, &path, kind, body.clone().into_bytes()).await;
                match answer {
                    Err(Error::Status { code, message, .. }) => {
                        assert!((400..500).contains(&code), "{name}: {code} {message}");
                        assert!(message.len() < 4 << 20, "{name}: the answer is larger than the question");
                    }
                    // A label is a label, however many there are: then it must be the whole object.
                    Ok(_) if *name == "labels" => shop.delete(&format!("{MAPS}/x")).await.unwrap(),
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
        let slow = slowest(&bank, 3).await;
        assert!(slow < QUIET_LIMIT, "round {round}: another tenant waits {slow:?}");
    }
    let after: Value = shop.get(MAPS).await.unwrap();
    assert_eq!(before["items"], after["items"]);
    let growth = server.resident_bytes().saturating_sub(resident);
    assert!(growth < MAX_GROWTH_BYTES, "{} MiB more", growth >> 20);
    assert_eq!(server.complaints(), Vec::<String>::new());
}

/// Lists of everything that a pod can have, as long as they get: work must not grow with their square.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn monstrous_pods_are_refused_in_time() {
    let server = Server::start();
    let shop = client(&server.tenant("shop"));
    let bank = client(&server.tenant("bank"));
    let list = |item: &dyn Fn(usize) -> String, n: usize| (0..n).map(item).collect::<Vec<_>>().join(",");
    let container = |extra: String| format!(r#""containers":[{{"name":"c","image":"i"{extra}}}]"#);
    let specs = [
        format!(r#""containers":[{}]"#, list(&|i| format!(r#"{{"name":"c{i}","image":"i"}}"#), 60_000)),
        container(format!(r#","env":[{}]"#, list(&|i| format!(r#"{{"name":"E{i}","value":"v"}}"#), 80_000))),
        container(format!(
            r#","ports":[{}]"#,
            list(&|i| format!(r#"{{"containerPort":{},"name":"p{i}"}}"#, i % 65_535), 60_000)
        )),
        container(format!(
            r#","volumeMounts":[{}]"#,
            list(&|i| format!(r#"{{"name":"v{i}","mountPath":"/m{i}"}}"#), 60_000)
        )),
        format!(
            r#"{},"volumes":[{}]"#,
            container(String::new()),
            list(&|i| format!(r#"{{"name":"v{i}","emptyDir":{{}}}}"#), 70_000)
        ),
        format!(
            r#"{},"tolerations":[{}]"#,
            container(String::new()),
            list(&|i| format!(r#"{{"key":"k{i}","operator":"Exists"}}"#), 60_000)
        ),
        format!(
            r#"{},"topologySpreadConstraints":[{}]"#,
            container(String::new()),
            list(
                &|i| format!(r#"{{"maxSkew":1,"topologyKey":"k{i}","whenUnsatisfiable":"DoNotSchedule"}}"#),
                30_000
            )
        ),
        format!(
            r#"{},"hostAliases":[{}]"#,
            container(String::new()),
            list(&|i| format!(r#"{{"ip":"1.2.3.4","hostnames":["h{i}"]}}"#), 60_000)
        ),
        format!(
            r#"{},"imagePullSecrets":[{}]"#,
            container(String::new()),
            list(&|i| format!(r#"{{"name":"s{i}"}}"#), 150_000)
        ),
        format!(
            r#"{},"schedulingGates":[{}]"#,
            container(String::new()),
            list(&|i| format!(r#"{{"name":"a.io/g{i}"}}"#), 120_000)
        ),
    ];
    for spec in &specs {
        let body = format!(r#"{{"metadata":{{"name":"monster"}},"spec":{{{spec}}}}}"#);
        assert!(body.len() < 3 << 20, "{} bytes: {}", body.len(), &spec[..60]);
        let begun = Instant::now();
        let path = "/api/v1/namespaces/default/pods";
        let answer = shop.request(Method::POST, path, "application/json", body.into_bytes()).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(60), "{took:?}: {}", &spec[..60]);
        match answer {
            Ok(_) => shop.delete(&format!("{path}/monster?gracePeriodSeconds=0")).await.unwrap(),
            Err(Error::Status { code: 400..=499, .. }) => {}
            other => panic!("{other:?}: {}", &spec[..60]),
        }
    }
    let slow = slowest(&bank, 3).await;
    assert!(slow < QUIET_LIMIT, "another tenant waits {slow:?}");
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn endless_watches_and_slow_readers_cost_little() {
    let server = Server::start();
    let path = server.tenant("shop");
    let shop = client(&path);
    let bank = client(&server.tenant("bank"));
    // 20 MB to be read slowly.
    let text = "x".repeat(20_000);
    let tasks: Vec<_> = (0..1000)
        .map(|i| {
            let (client, text) = (shop.clone(), text.clone());
            async move {
                let body = json!({"metadata": {"name": format!("m{i}")}, "data": {"k": text}});
                let _: Value = client.post(MAPS, &body).await.unwrap();
            }
        })
        .collect();
    for task in tasks {
        task.await;
    }
    let resident = server.resident_bytes();
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut wire = Wire::connect(&path, true).await;
        let list = request("GET", MAPS, "", b"");
        wire.0.write_all(&list).await.unwrap();
        // One byte, and then nothing more is read.
        let mut byte = [0];
        wire.0.read_exact(&mut byte).await.unwrap();
        held.push(wire);
    }
    for i in 0..400 {
        let mut wire = Wire::connect(&path, true).await;
        let target = format!(
            "{MAPS}?watch=1&sendInitialEvents={}&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
            i % 2 == 0
        );
        wire.0.write_all(&request("GET", &target, "", b"")).await.unwrap();
        held.push(wire);
    }
    // Every watcher has something to read, and reads nothing.
    for i in 0..200 {
        let change = json!({"data": {"i": i.to_string()}}).to_string().into_bytes();
        let target = format!("{MAPS}/m{i}");
        shop.request(Method::PATCH, &target, "application/merge-patch+json", change).await.unwrap();
    }
    let slow = slowest(&bank, 20).await;
    assert!(slow < QUIET_LIMIT, "another tenant waits {slow:?}");
    let growth = server.resident_bytes().saturating_sub(resident);
    // 500 connections with at most a socket's and an answer's buffer each, not 500 lists.
    assert!(growth < 2 * MAX_GROWTH_BYTES, "{} MiB more", growth >> 20);
    drop(held);
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_open_connections_are_closed_and_disturb_nobody() {
    let server = Server::start();
    let path = server.tenant("shop");
    let shop = client(&path);
    let resident = server.resident_bytes();
    let mut silent = Vec::new();
    for i in 0..300 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        // Nothing, a piece of a handshake, or something else altogether.
        let bytes: &[u8] = [&b""[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n"][i % 3];
        stream.write_all(bytes).await.unwrap();
        silent.push(stream);
    }
    for i in 0..100 {
        let mut wire = Wire::connect(&path, true).await;
        let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\n";
        let bytes = match i % 2 {
            0 => head.to_owned(),
            // A body that does not come.
            _ => format!("{head}Content-Length: 1000000\r\nContent-Type: application/json\r\n\r\n{{"),
        };
        wire.0.write_all(bytes.as_bytes()).await.unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(12)).await;
            drop(wire);
        });
    }
    let slow = slowest(&shop, 20).await;
    assert!(slow < QUIET_LIMIT, "others wait {slow:?}");
    let growth = server.resident_bytes().saturating_sub(resident);
    assert!(growth < MAX_GROWTH_BYTES, "{} MiB more", growth >> 20);
    let closed = async {
        for stream in &mut silent {
            let mut rest = Vec::new();
            // The end, or a reset: either way it is over.
            let _ = stream.read_to_end(&mut rest).await;
        }
    };
    // The handshake's limit is ten seconds.
    tokio::time::timeout(Duration::from_secs(30), closed).await.expect("they stay open");
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn odd_bytes_and_crooked_paths() {
    let server = Server::start();
    let path = server.tenant("shop");
    let _ = server.tenant("bank");
    let secret = json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}});
    let admin = server.admin();
    let _: Value = admin.post("/tenants/bank/api/v1/namespaces/default/secrets", &secret).await.unwrap();
    let targets: &[&[u8]] = &[
        b"/api/v1/namespaces/default/configmaps/../secrets",
        b"/api/v1/namespaces/default/configmaps/%2e%2e/secrets",
        b"/api/v1/namespaces/default/configmaps/..%2fsecrets/x",
        b"/api//v1/namespaces/default/configmaps",
        b"//api/v1/namespaces",
        b"/api/v1/namespaces/default/configmaps/%ff",
        b"/api/v1/namespaces/default/configmaps/%",
        b"/api/v1/namespaces/default/configmaps/%zz",
        b"/api/v1/namespaces/default/configmaps/%00",
        b"/api/v1/namespaces/default/configmaps/a%0d%0aX-Evil:1",
        b"/tenants/bank/api/v1/namespaces/default/secrets/s",
        b"/tenants/bank/../shop/api/v1/namespaces",
        b"/tenants/shop/../bank/api/v1/namespaces/default/secrets/s",
        b"/tenants/shop%2f..%2fbank/api/v1/namespaces/default/secrets/s",
        b"/tenants/%62ank/api/v1/namespaces/default/secrets/s",
        b"/tenants/shop/tenants/bank/api/v1/namespaces/default/secrets/s",
        b"/tenants//api/v1/namespaces/default/secrets/s",
        b"/tenants/*/api/v1/secrets",
        b"/tenants/%2a/api/v1/secrets",
        b"/tenants/BANK/api/v1/namespaces/default/secrets/s",
        b"/apis/..;/api/v1/secrets",
        b"http://other/tenants/bank/api/v1/secrets",
        b"/api/v1/namespaces?labelSelector=%ff",
        b"/api/v1/namespaces?limit=99999999999999999999",
        b"/api/v1/namespaces?continue=%00",
    ];
    for target in targets {
        let mut bytes = b"GET ".to_vec();
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = Wire::connect(&path, true).await.ask(&bytes).await;
        let shown = String::from_utf8_lossy(target);
        assert!((400..500).contains(&answer.code), "{shown}: {answer:?}");
        assert!(answer.body.contains(r#""kind":"Status""#), "{shown}: {answer:?}");
        assert!(!answer.body.contains("c2VjcmV0"), "{shown}: {answer:?}");
    }
    // What is no HTTP at all is not answered with more than a refusal.
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "a".repeat(300_000));
    let headers: String = (0..5000).map(|i| format!("X-{i}: y\r\n")).collect();
    let many = format!("GET /version HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    for bytes in [
        b"GET /api/v1/namespaces/\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
        b"\xff\xfe\x00\x01\r\n\r\n".to_vec(),
        b"GET /version HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec(),
        long.into_bytes(),
        many.into_bytes(),
    ] {
        let answer = Wire::connect(&path, true).await.ask(&bytes).await;
        assert!(answer.code == 0 || (400..500).contains(&answer.code), "{answer:?}");
    }
    // A header that is not text is no credential, and no crash.
    let odd = request("GET", "/api/v1/namespaces", "X-Odd: \u{fe}\r\nUser-Agent: \u{e9}\r\n", b"");
    assert_eq!(Wire::connect(&path, true).await.ask(&odd).await.code, 200);
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn tokens_that_are_forged_expired_or_of_another_tenant() {
    let server = Server::start();
    let path = server.tenant("shop");
    let shop = client(&path);
    let _ = server.tenant("bank");
    let accounts = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let made: Value = shop.post(accounts, &json!({"spec": {"expirationSeconds": 600}})).await.unwrap();
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let decode = |part: &str| serde_json::from_slice::<Value>(&engine.decode(part).unwrap()).unwrap();
    let encode = |value: &Value| engine.encode(value.to_string());
    let with = |header: &str, payload: &str, signature: &str| format!("{header}.{payload}.{signature}");
    let (header, claims) = (decode(parts[0]), decode(parts[1]));
    let altered = |key: &str, value: Value| {
        let mut claims = claims.clone();
        claims[key] = value;
        with(parts[0], &encode(&claims), parts[2])
    };
    let none = {
        let mut header = header.clone();
        header["alg"] = "none".into();
        with(&encode(&header), parts[1], "")
    };
    let symmetric = {
        let mut header = header.clone();
        header["alg"] = "HS256".into();
        with(&encode(&header), parts[1], parts[2])
    };
    let other_issuer = claims["iss"].as_str().unwrap().replace("shop", "bank");
    let refused = [
        altered("exp", json!(4_000_000_000_i64)),
        altered("exp", json!(1)),
        altered("sub", json!("system:serviceaccount:kube-system:admin")),
        altered("iss", json!(other_issuer)),
        altered("kubernetes.io", json!({})),
        none,
        symmetric,
        with(parts[0], parts[1], ""),
        with(parts[0], parts[1], &parts[2][1..]),
        token[1..].to_owned(),
        "a.b.c".to_owned(),
        "..".to_owned(),
        "x".repeat(100_000),
    ];
    let ask = async |token: &str, target: &str| {
        let bytes = request("GET", target, &format!("Authorization: Bearer {token}\r\n"), b"");
        Wire::connect(&path, false).await.ask(&bytes).await
    };
    let review = "/apis/authorization.k8s.io/v1";
    assert_eq!(ask(&token, review).await.code, 200, "the token itself is good");
    for forged in &refused {
        let shown = &forged[..forged.len().min(40)];
        let answer = ask(forged, review).await;
        // A header that is too large is refused before it is read.
        assert!(matches!(answer.code, 401 | 431), "{shown}: {answer:?}");
    }
    // Good, but not there: as for a tenant that does not exist.
    let (foreign, missing) = (
        ask(&token, "/tenants/bank/api/v1/namespaces").await,
        ask(&token, "/tenants/nobody/api/v1/namespaces").await,
    );
    assert_eq!((foreign.code, &foreign.body), (404, &missing.body));
    // The account goes, and its tokens with it; so does the tenant, even if there is one of the same name.
    shop.delete("/api/v1/namespaces/default/serviceaccounts/default").await.unwrap();
    assert_eq!(ask(&token, review).await.code, 401);
    server.skep(&["tenant", "delete", "shop"]);
    server.skep(&["tenant", "create", "shop"]);
    assert_eq!(ask(&token, review).await.code, 401);
    let old = Wire::connect(&path, true).await.ask(&request("GET", "/api/v1/namespaces", "", b"")).await;
    assert_eq!(old.code, 401, "a certificate of the tenant that is gone");
    assert_eq!(server.complaints(), Vec::<String>::new());
}
