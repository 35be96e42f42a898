//! Whom pods may talk to, with real containers: network policies and security groups, within a machine and across machines. Needs
//! root; without it the test says that it is skipped.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::Kubectl;
use skep_e2e::computers::{Cloud, IMAGE, eventually, inside, possible};
use skep_e2e::networks::{machine_of, nft, switch_of};

/// A pod with two servers and an echo; `near` says whether it is on the machine of the pod `web`, or on another.
fn pod(namespace: &str, name: &str, near: Option<bool>) -> Value {
    let term =
        json!([{"labelSelector": {"matchLabels": {"name": "web"}}, "topologyKey": "kubernetes.io/hostname"}]);
    let affinity = match near {
        None => json!({}),
        Some(true) => json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}),
        Some(false) => json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}),
    };
    let serve =
        "echo here > /w/index.html; httpd -p 9090 -h /w; nc -ll -p 7777 -e cat & exec httpd -f -p 8080 -h /w";
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"name": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0, "affinity": affinity,
            "containers": [{
                "name": "c", "image": IMAGE, "command": ["sh", "-c", serve],
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            }],
        },
    })
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec})
}

/// What may come to the pod `web`.
fn to_web(ingress: Value) -> Value {
    policy(
        "web",
        json!({"podSelector": {"matchLabels": {"name": "web"}}, "policyTypes": ["Ingress"], "ingress": ingress}),
    )
}

fn group(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "network.skep.io/v1", "kind": "SecurityGroup", "metadata": {"name": name}, "spec": spec})
}

struct Shop {
    kubectl: Kubectl,
}

impl Shop {
    /// Whether pods, each with its namespace, reach addresses.
    fn reach(&self, asks: &[(&str, &str)]) -> Result<Vec<bool>, String> {
        asks.iter()
            .map(|(from, to)| {
                let (namespace, pod) = from.split_once('/').unwrap_or(("default", from));
                let words = format!("curl -s -m 1 -o /dev/null http://{to} && echo yes || echo no");
                let said = self.kubectl.attempt(&["exec", "-n", namespace, pod, "--", "sh", "-c", &words])?;
                Ok(said.trim() == "yes")
            })
            .collect()
    }

    /// Waits until pods reach what they are to, and nothing else.
    fn expect(&self, when: &str, asks: &[(&str, &str, bool)]) {
        let asked: Vec<(&str, &str)> = asks.iter().map(|(from, to, _)| (*from, *to)).collect();
        let wanted: Vec<bool> = asks.iter().map(|(_, _, may)| *may).collect();
        eventually(when, || {
            let found = self.reach(&asked)?;
            if found == wanted { Ok(()) } else { Err(format!("{asks:?}: {found:?}")) }
        });
    }

    fn patch_port(&self, pod: &str, groups: &[&str]) {
        let patch = json!({"spec": {"securityGroupNames": groups}}).to_string();
        self.kubectl.run(&["patch", "port", pod, "--type=merge", "-p", &patch]);
    }
}

/// How many packets a counter has seen in a namespace, of IPv4.
fn counted(namespace: &Path, counter: &str) -> u64 {
    // (Table by table: some versions of nft cannot print those of services.)
    let tables = filter_tables(namespace);
    let [table] = tables.iter().filter(|t| t.starts_with("ip ")).collect::<Vec<_>>()[..] else {
        panic!("one table filters IPv4: {tables:?}")
    };
    let words: Vec<&str> = ["table"].into_iter().chain(table.split(' ')).collect();
    let all = nft(namespace, &words);
    let counters = all["nftables"].as_array().unwrap().iter().filter_map(|o| o.get("counter"));
    counters.filter(|c| c["name"] == counter).filter_map(|c| c["packets"].as_u64()).sum()
}

fn filter_tables(namespace: &Path) -> Vec<String> {
    let all = ["ip skep-policies", "ip6 skep-policies", "ip skep-groups", "ip6 skep-groups"];
    let there = |table: &&str| {
        let mut words = vec!["nft", "list", "table"];
        words.extend(table.split(' '));
        let (ok, said) = inside(namespace, &words);
        assert!(ok || said.contains("No such file"), "{said}");
        ok
    };
    all.into_iter().filter(there).map(str::to_owned).collect()
}

#[test]
fn pods_talk_to_whom_they_may() {
    if !possible(&["nft", "busybox", "curl"]) {
        return;
    }
    let cloud = Cloud::up();
    let shop = Shop { kubectl: cloud.tenant("shop") };
    let k = &shop.kubectl;
    k.run(&["create", "namespace", "other"]);
    k.apply(&[
        pod("default", "web", None),
        pod("default", "near", Some(true)),
        pod("default", "far", Some(false)),
        pod("other", "guest", None),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "near"},
               "spec": {"selector": {"name": "near"}, "ports": [{"port": 80, "targetPort": "http"}]}}),
    ]);
    k.ready(&["web", "near", "far"]);
    k.run(&["wait", "pod", "guest", "-n", "other", "--for=condition=Ready", "--timeout=120s"]);
    let node = |pod: &str| k.run(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]);
    assert_eq!(node("web"), node("near"));
    assert_ne!(node("web"), node("far"));
    let (web_ip, near_ip, far_ip) = (k.pod_ip("web"), k.pod_ip("near"), k.pod_ip("far"));
    let (web, near, far) = (format!("{web_ip}:8080"), format!("{near_ip}:8080"), format!("{far_ip}:8080"));
    let (web, near, far) = (web.as_str(), near.as_str(), far.as_str());
    let machine = machine_of(&cloud, "shop", k, "web");

    shop.expect("without policies", &[("near", web, true), ("far", web, true), ("other/guest", web, true)]);
    assert_eq!(filter_tables(&machine), [""; 0], "nothing is filtered where nothing is to be");
    // A connection that goes on while policies change.
    let ticks = format!(
        "setsid sh -c 'while sleep 0.2; do echo tick; done | nc {web_ip} 7777 > /w/ticks' > /dev/null 2>&1 &"
    );
    k.sh("near", &ticks).unwrap();
    let length =
        || k.sh("near", "wc -l < /w/ticks").map(|n| n.trim().parse::<u64>().unwrap_or(0)).unwrap_or(0);
    let grows = |when: &str| {
        let before = length();
        eventually(when, || if length() > before { Ok(()) } else { Err(format!("{before} ticks")) });
    };
    grows("ticks come back at first");

    let door = |from: Value| to_web(json!([{"from": from, "ports": [{"port": "http"}, {"port": 7777}]}]));
    k.apply(&[door(json!([{"podSelector": {"matchLabels": {"name": "near"}}}]))]);
    shop.expect(
        "by label, and by the name of a port",
        &[
            ("near", web, true),
            ("far", web, false),
            ("other/guest", web, false),
            ("near", &format!("{web_ip}:9090"), false),
            ("web", far, true),
            ("near", far, true),
        ],
    );
    assert!(counted(&machine, &format!("ingress-{web_ip}")) > 0);
    grows("the connection is still allowed");
    // Labels that change, of pods and of namespaces.
    k.apply(&[door(json!([
        {"podSelector": {"matchLabels": {"name": "near"}}}, {"podSelector": {"matchLabels": {"role": "friend"}}},
        {"namespaceSelector": {"matchLabels": {"team": "blue"}}}]))]);
    shop.expect("before labels", &[("near", web, true), ("far", web, false), ("other/guest", web, false)]);
    k.run(&["label", "pod", "far", "role=friend"]);
    k.run(&["label", "namespace", "other", "team=blue"]);
    shop.expect("with labels", &[("near", web, true), ("far", web, true), ("other/guest", web, true)]);
    k.run(&["label", "pod", "far", "role-"]);
    k.run(&["label", "namespace", "other", "team=red", "--overwrite"]);
    shop.expect("without labels", &[("near", web, true), ("far", web, false), ("other/guest", web, false)]);
    // Addresses with an exception.
    k.apply(&[door(json!([{"ipBlock": {"cidr": "10.64.0.0/14", "except": [format!("{far_ip}/32")]}}]))]);
    shop.expect("by address", &[("near", web, true), ("far", web, false), ("other/guest", web, true)]);
    grows("the connection is allowed by every one of them");
    // Nothing at all, in both directions, for all pods of the namespace.
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    k.run(&["delete", "networkpolicy", "web"]);
    k.apply(&[policy("deny", deny)]);
    shop.expect(
        "by default nothing",
        &[
            ("near", web, false),
            ("far", web, false),
            ("other/guest", web, false),
            ("web", near, false),
            ("web", far, false),
        ],
    );
    let before = length();
    std::thread::sleep(Duration::from_secs(1));
    assert!(length() <= before + 1, "a connection that is not allowed any more ends");
    // What is allowed out to one pod, by the name of its port, also through its service. Names are answered by the node.
    k.apply(&[
        policy(
            "out",
            json!({"podSelector": {"matchLabels": {"name": "web"}}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"podSelector": {"matchLabels": {"name": "near"}}}], "ports": [{"port": "http"}]}]}),
        ),
        policy(
            "in",
            json!({"podSelector": {"matchLabels": {"name": "near"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"name": "web"}}}]}]}),
        ),
    ]);
    shop.expect(
        "out to one",
        &[
            ("web", near, true),
            ("web", "near", true),
            ("web", &format!("{near_ip}:9090"), false),
            ("web", far, false),
            ("far", near, false),
        ],
    );
    // Its node asks it all the while.
    assert_eq!(
        k.run(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"]),
        "0 0 0"
    );
    k.ready(&["web", "near", "far"]);
    // A pod that comes is guarded from its first packet on, and so is its successor with the name.
    k.apply(&[pod("default", "late", Some(true))]);
    k.ready(&["late"]);
    let late = format!("{}:8080", k.pod_ip("late"));
    shop.expect("for one that comes later", &[("web", &late, false), ("late", web, false)]);
    k.run(&["delete", "networkpolicies", "--all"]);
    shop.expect("without policies again", &[("near", web, true), ("far", web, true), ("web", &late, true)]);
    eventually("no filters are left", || {
        let left = filter_tables(&machine);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });

    // Groups: by address.
    let switch = switch_of(&cloud, k);
    assert_eq!(filter_tables(&switch), [""; 0]);
    let rule = |more: Value| {
        let mut rule = json!({"protocol": "TCP", "ports": [{"first": 8080}]});
        for (field, value) in more.as_object().unwrap() {
            rule[field] = value.clone();
        }
        json!({"ingress": [rule]})
    };
    k.apply(&[group("door", rule(json!({"cidrs": [format!("{far_ip}/32")]})))]);
    shop.patch_port("web", &["door"]);
    shop.expect(
        "by address",
        &[
            ("far", web, true),
            ("near", web, false),
            ("other/guest", web, false),
            ("web", far, true),
            ("web", near, true),
        ],
    );
    // By group.
    k.apply(&[
        group("friends", json!({"ingress": [{}]})),
        group("door", rule(json!({"groupNames": ["friends"]}))),
    ]);
    shop.patch_port("near", &["friends"]);
    shop.expect("by group", &[("near", web, true), ("far", web, false), ("far", near, true)]);
    // A pod that says itself which group it is in, on another machine.
    let mut friend = pod("default", "friend", Some(false));
    friend["metadata"]["annotations"] = json!({"network.skep.io/security-groups": "friends"});
    k.apply(&[friend]);
    k.ready(&["friend"]);
    shop.expect("by the pod's own group", &[("friend", web, true), ("far", web, false)]);
    // Outside of the machine, where its root takes nothing away.
    let before = counted(&switch, &format!("ingress-{web_ip}"));
    let (ok, said) = inside(&machine, &["nft", "flush", "ruleset"]);
    assert!(ok, "{said}");
    shop.expect("without the machine's own filters", &[("far", web, false)]);
    assert!(counted(&switch, &format!("ingress-{web_ip}")) > before);
    // Out to nobody.
    k.apply(&[group("mute", json!({"ingress": [{}], "egress": []}))]);
    shop.patch_port("far", &["mute"]);
    shop.expect("out to nobody", &[("far", near, false), ("near", far, true)]);
    // A group that is not there allows nothing.
    shop.patch_port("far", &["nobody-made-it"]);
    shop.expect("of no group that is", &[("far", near, false), ("near", far, false)]);
    for pod in ["web", "near", "far"] {
        shop.patch_port(pod, &[]);
    }
    shop.expect("without groups", &[("near", web, true), ("far", web, true), ("near", far, true)]);
    eventually("no filters are left", || {
        let left = [filter_tables(&switch), filter_tables(&machine)].concat();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
