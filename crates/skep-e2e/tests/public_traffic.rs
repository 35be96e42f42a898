//! Public addresses with real containers and real connections: from outside to services and to pods, on two hosts of one computer, with
//! a second tenant that would like to have them. Needs root; without it the test says that it is skipped.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use skep_e2e::Kubectl;
use skep_e2e::computers::{Cloud, IMAGE, eventually, inside};
use skep_e2e::networks::{machine_of, switch_of};

/// What the test looks with.
const PROGRAMS: [&str; 3] = ["nft", "ip", "curl"];

fn possible() -> bool {
    let there = |program: &&str| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(program).exists())
    };
    let missing = PROGRAMS.iter().find(|p| !there(p));
    match skep_e2e::agent::impossible()
        .or(missing.map(|p| format!("there is no {p}; `make tools` installs it")))
    {
        Some(why) => {
            eprintln!("SKIPPED: {why}");
            false
        }
        None => true,
    }
}

/// A pod that says its name on port 8080 and writes down who asks. No two are on one machine.
fn server(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "name": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}},
            "containers": [{
                "name": "c", "image": IMAGE,
                "command": ["sh", "-c", format!("echo {name} > /w/index.html; exec httpd -f -v -p 8080 -h /w")],
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
            }],
        },
    })
}

fn balancer(name: &str, selector: Value, more: Value) -> Value {
    let mut spec =
        json!({"type": "LoadBalancer", "selector": selector, "ports": [{"port": 80, "targetPort": 8080}]});
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn public(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "network.skep.io/v1", "kind": "PublicIP", "metadata": {"name": name}, "spec": spec})
}

/// What somebody outside hears.
fn curl(url: &str) -> Result<String, String> {
    let said = Command::new("curl").args(["-gsS", "-m", "2", url]).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    if said.status.success() { Ok(text.trim().to_owned()) } else { Err(text) }
}

fn hears(what: &str, url: &str, wanted: &str) {
    eventually(what, || match curl(url) {
        Ok(said) if said == wanted => Ok(()),
        Ok(other) => Err(format!("{other:?}")),
        Err(why) => Err(why),
    });
}

fn hears_nothing(what: &str, url: &str) {
    eventually(what, || curl(url).map_or(Ok(()), |said| Err(format!("it answers: {said}"))));
}

fn external(kubectl: &Kubectl, service: &str) -> String {
    eventually(&format!("{service} has an address"), || {
        let ip = kubectl.attempt(&[
            "get",
            "service",
            service,
            "-o",
            "jsonpath={.status.loadBalancer.ingress[0].ip}",
        ])?;
        if ip.is_empty() { Err(kubectl.attempt(&["get", "events"])?) } else { Ok(ip) }
    })
}

/// Whom somebody here sees when they are asked.
fn seen(outside: &str, ask: impl FnOnce(&str) -> Result<String, String>) -> Result<String, String> {
    let listener = TcpListener::bind((outside, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let end = listener.local_addr().unwrap();
    let waiting = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
        peer.ip().to_string()
    });
    let asked = ask(&url);
    if asked.is_err() {
        // So that nobody waits for ever.
        let _ = std::net::TcpStream::connect(end);
    }
    let peer = waiting.join().unwrap();
    asked.map(|_| peer)
}

fn hosts(cloud: &Cloud) -> [PathBuf; 2] {
    [1, 2].map(|n| cloud.data().join("hosts").join(n.to_string()).join("namespace"))
}

/// Routes to and answers for addresses of the pool.
fn left(hosts: &[PathBuf], prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for host in hosts {
        for words in [
            &["ip", "route"][..],
            &["ip", "-6", "route"],
            &["ip", "neigh", "show", "proxy"],
            &["ip", "-6", "neigh", "show", "proxy"],
            &["nft", "list", "ruleset"],
        ] {
            let (_, said) = inside(host, words);
            found.extend(said.lines().filter(|l| l.contains(prefix)).map(str::to_owned));
        }
    }
    found
}

/// Gives the wire between the hosts addresses of IPv6, of which it has none by itself; the one outside.
fn wire6(hosts: &[PathBuf], outside: &str, prefix: &str) -> String {
    let here = Path::new("/proc/self/ns/net");
    let own = inside(here, &["ip", "-o", "-4", "addr", "show", "to", outside]).1;
    let wire = own.split_whitespace().nth(1).unwrap_or_else(|| panic!("nobody has {outside}: {own}"));
    let ends = hosts.iter().map(|host| (host.as_path(), "eth0")).chain([(here, wire)]);
    for (n, (namespace, link)) in ends.enumerate() {
        let address = format!("{prefix}{}/64", 0x10 + n);
        let (ok, said) = inside(namespace, &["ip", "-6", "addr", "add", &address, "dev", link, "nodad"]);
        assert!(ok, "{said}");
    }
    format!("{prefix}{}", 0x10 + hosts.len())
}

#[test]
fn a_way_in_from_outside() {
    if !possible() {
        return;
    }
    // Addresses for documentation, of which no two tests at the same time have the same.
    let n = std::process::id() % 96;
    let prefix = format!("{}.", ["192.0.2", "198.51.100", "203.0.113"][n as usize / 32]);
    let first = n % 32 * 8;
    let pool = format!("{prefix}{first}/29");
    let prefix6 = format!("2001:db8:{:x}::", std::process::id() % 0xffff + 1);
    let pool6 = format!("{prefix6}100/120");
    let cloud = Cloud::up_with(&["--hosts", "2", "--public-pool", &pool, "--public-pool", &pool6]);
    let hosts = hosts(&cloud);
    let outside = {
        let said: Value =
            serde_json::from_slice(&std::fs::read(cloud.data().join("hosts.json")).unwrap()).unwrap();
        said["subnet"].as_str().unwrap().replace(".0/24", ".1")
    };
    let (shop, bank) = (cloud.tenant("shop"), cloud.tenant("bank"));
    bank.apply(&[server("spy")]);
    shop.apply(&[
        server("one"),
        server("two"),
        balancer("front", json!({"app": "web"}), json!({})),
        balancer(
            "local",
            json!({"name": "two"}),
            json!({"externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false}),
        ),
        public("one", json!({"podName": "one"})),
    ]);
    let (front, local) = (external(&shop, "front"), external(&shop, "local"));
    let own = shop.run(&["get", "publicip", "one", "-o", "jsonpath={.spec.address}"]);
    shop.ready(&["one", "two"]);

    // A service is reached from outside.
    let heard = eventually("an endpoint answers", || curl(&format!("http://{front}")));
    assert!(["one", "two"].contains(&heard.as_str()), "{heard}");
    // From one machine to the endpoints of all.
    for who in ["one", "two"] {
        hears("endpoints of all machines are reached", &format!("http://{front}"), who);
    }
    assert!(shop.run(&["get", "service", "front"]).contains(&front));
    // Only its ports are open.
    assert!(curl(&format!("http://{front}:8080")).is_err());
    // With the policy `Local` a pod sees who asks.
    hears("it is served where its endpoint is", &format!("http://{local}"), "two");
    let log = shop.run(&["logs", "two"]);
    assert!(log.contains(&outside), "{outside} is not seen: {log}");
    // Who asks which machines have an endpoint is told.
    let check = shop.run(&["get", "service", "local", "-o", "jsonpath={.spec.healthCheckNodePort}"]);
    let ask = |pod: &str| {
        let machine = shop.run(&["get", "pod", pod, "-o", "jsonpath={.status.hostIP}"]);
        shop.curl("one", &format!("http://{machine}:{check}/healthz"))
    };
    let said = eventually("a machine with an endpoint says so", || ask("two"));
    assert!(
        said.contains(r#""localEndpoints": 1"#) && said.contains(r#""serviceProxyHealthy": true"#),
        "{said}"
    );
    let said = ask("one").unwrap();
    assert!(said.contains(r#""localEndpoints": 0"#), "{said}");
    // In and out of a pod, under its own public address.
    hears("the pod has its address", &format!("http://{own}:8080"), "one");
    let said = shop.sh("one", "ip addr").unwrap();
    assert!(said.contains(&format!("inet {own}/32")), "{said}");
    assert_eq!(seen(&outside, |url| shop.curl("one", url)).unwrap(), own);
    let others = seen(&outside, |url| shop.curl("two", url)).unwrap();
    assert!(others != own && !others.starts_with(&prefix), "{others}");
    // What is private goes its old ways: services, names, the network, also to who has no public address.
    assert_eq!(shop.curl("one", "http://local").unwrap().trim(), "two");
    assert_eq!(shop.curl("one", &format!("http://{}:8080", shop.pod_ip("two"))).unwrap().trim(), "two");
    assert_eq!(shop.curl("two", &format!("http://{}:8080", shop.pod_ip("one"))).unwrap().trim(), "one");
    // Another tenant is outside too.
    bank.ready(&["spy"]);
    for url in [format!("http://{local}"), format!("http://{own}:8080")] {
        let said = eventually("another tenant hears", || bank.curl("spy", &url));
        assert!(["one", "two"].contains(&said.trim()), "{said}");
    }

    // IPv6 alike: in to the pod, and out of it under its address.
    let outside6 = wire6(&hosts, &outside, &prefix6);
    let own6 = format!("{prefix6}101");
    shop.apply(&[public("six", json!({"podName": "two", "address": own6}))]);
    hears("the pod has its address of IPv6", &format!("http://[{own6}]:8080"), "two");
    let said = shop.sh("two", "ip addr").unwrap();
    assert!(said.contains(&format!("inet6 {own6}/128")), "{said}");
    assert_eq!(seen(&outside6, |url| shop.curl("two", url)).unwrap(), own6);
    assert!(seen(&outside6, |url| shop.curl("one", url)).is_err(), "who has none goes nowhere");
    shop.run(&["delete", "publicip", "six"]);
    hears_nothing("nobody answers for it", &format!("http://[{own6}]:8080"));

    // Nobody else has it: not by asking, not by taking.
    let file = cloud.data().join("stolen.json");
    std::fs::write(&file, public("mine", json!({"address": own})).to_string()).unwrap();
    let said = bank.fail(&["create", "-f", file.to_str().unwrap()]);
    assert!(said.contains("is in use"), "{said}");
    let machine = machine_of(&cloud, "bank", &bank, "spy");
    let (ok, said) = inside(&machine, &["ip", "addr", "add", &format!("{own}/32"), "dev", "skep0"]);
    assert!(ok, "{said}");
    let stolen = |url: &str| {
        let (ok, said) = inside(&machine, &["curl", "-sS", "-m", "2", "--interface", &own, url]);
        if ok { Ok(said) } else { Err(said) }
    };
    assert!(seen(&outside, stolen).is_err(), "a machine spoke as somebody else's address");
    let (_, said) = inside(&switch_of(&cloud, &bank), &["nft", "list", "counters", "bridge"]);
    assert!(said.contains("counter ip"), "{said}");
    hears("it is still who it was", &format!("http://{own}:8080"), "one");

    // A policy closes it as it closes the pod.
    let near = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "near"},
        "spec": {"podSelector": {"matchLabels": {"name": "one"}}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}});
    shop.apply(&[near]);
    hears_nothing("the policy holds for the public address", &format!("http://{own}:8080"));
    shop.run(&["delete", "networkpolicy", "near"]);
    hears("it is open again", &format!("http://{own}:8080"), "one");
    // A range closes a service to all others, a change of it opens it.
    shop.run(&[
        "patch",
        "service",
        "local",
        "-p",
        r#"{"spec": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}"#,
    ]);
    hears_nothing("only some may ask", &format!("http://{local}"));
    let range = format!(r#"{{"spec": {{"loadBalancerSourceRanges": ["{outside}/32"]}}}}"#);
    shop.run(&["patch", "service", "local", "-p", &range]);
    hears("they may", &format!("http://{local}"), "two");

    // It follows the pod, wherever the next of the name is.
    shop.run(&["delete", "pod", "one"]);
    shop.apply(&[server("three")]);
    shop.ready(&["three"]);
    shop.apply(&[server("one")]);
    hears("the next pod of the name has it", &format!("http://{own}:8080"), "one");
    eventually("what went through is counted", || {
        // What was counted in the seconds before it moved may never have been told.
        curl(&format!("http://{own}:8080"))?;
        let status = shop.object(&["publicip", "one"])["status"].clone();
        let moved = |field: &str| status[field].as_i64().unwrap_or(0) > 500;
        if moved("receivedBytes") && moved("sentBytes") { Ok(()) } else { Err(status.to_string()) }
    });

    // Nothing is left of what is not wanted any more.
    shop.run(&["delete", "service", "front", "local"]);
    shop.run(&["delete", "publicip", "one"]);
    hears_nothing("nobody answers", &format!("http://{own}:8080"));
    eventually("nothing is left on hosts", || {
        let mut left = left(&hosts, &prefix);
        // The wire's own addresses are the test's.
        left.extend(crate::left(&hosts, &own6));
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    eventually("nothing is left in the pod", || {
        let said = shop.sh("one", "ip addr; ip rule; ip route")?;
        if said.contains(&prefix) { Err(said) } else { Ok(()) }
    });
    let peer = seen(&outside, |url| shop.curl("one", url)).unwrap();
    assert!(!peer.starts_with(&prefix), "{peer}");
    assert_eq!(shop.curl("two", &format!("http://{}:8080", shop.pod_ip("one"))).unwrap().trim(), "one");
    let again = bank.attempt(&["get", "publicips", "-A"]).unwrap();
    assert!(!again.contains(&prefix), "{again}");
    bank.apply(&[public("mine", json!({"address": own}))]);
    cloud.down(false);
    let routes = inside(Path::new("/proc/self/ns/net"), &["ip", "route"]).1;
    assert!(!routes.contains(&pool), "{routes}");
}
