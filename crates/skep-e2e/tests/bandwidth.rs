//! Several hosts on one computer, bandwidth of pods, what ports say of it, and that a host holds only what its own tenants need. Needs
//! root; without it the tests say that they are skipped. Figures here have room for a busy computer: `skep bench network` has the exact ones.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use skep_client::{Client, Resource, Tenants};
use skep_e2e::Kubectl;
use skep_e2e::computers::{Cloud, IMAGE, eventually, possible};

const PORTS: Resource = Resource::new("network.skep.io", "v1", "ports");

/// A pod that iperf3 can be asked in. Pods with equal values of `apart` are on machines of their own.
fn pod(name: &str, apart: &str, policy: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"apart": apart, "name": name},
                     "annotations": policy.map(|p| json!({"network.skep.io/qos-policy": p}))},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"apart": apart}}, "topologyKey": "kubernetes.io/hostname"}]}},
            "containers": [{
                "name": "c", "image": IMAGE, "command": ["iperf3", "-s"],
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                "readinessProbe": {"exec": {"command": ["sh", "-c", "netstat -ltn | grep -q :5201"]}, "periodSeconds": 1},
            }],
        },
    })
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "network.skep.io/v1", "kind": "QosPolicy", "metadata": {"name": name}, "spec": spec})
}

/// Bits a second from one pod to another.
fn rate(kubectl: &Kubectl, from: &str, to: &str) -> f64 {
    let words = format!("iperf3 -J -O 1 -t 3 -c {}", kubectl.pod_ip(to));
    let said = eventually("iperf3 speaks to its server", || kubectl.sh(from, &words));
    let said: Value = serde_json::from_str(&said).unwrap();
    said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap()
}

/// Waits until a port says something of itself.
fn says(kubectl: &Kubectl, port: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("the port {port} says {what}"), || {
        let found = kubectl.attempt(&["get", "port", port, "-o", "json"])?;
        let found: Value = serde_json::from_str(&found).map_err(|e| e.to_string())?;
        if holds(&found["status"]) { Ok(found) } else { Err(format!("{:#}", found["status"])) }
    })
}

fn guaranteed(status: &Value) -> &str {
    let all = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .find(|c| c["type"] == "BandwidthGuaranteed")
        .map_or("", |c| c["reason"].as_str().unwrap_or_default())
}

#[test]
fn several_hosts_share_their_uplinks_as_policies_say() {
    if !possible(&["iperf3", "busybox"]) {
        return;
    }
    let cloud = Cloud::up_with(&["--hosts", "3", "--uplink-mbit", "200"]);
    let (_, status) = cloud.says(&["status"]);
    assert!(
        status.matches("Ready, ").count() == 3 && status.contains("between hosts of this computer"),
        "{status}"
    );
    let (fine, doctor) = cloud.says(&["doctor"]);
    assert!(fine && doctor.contains("ok  hosts"), "{doctor}");
    let shop = cloud.tenant("shop");
    shop.apply(&[
        policy("gold", json!({"egress": {"guaranteed": "60M", "maximum": "80M"}, "minimumPacketUnit": 200})),
        policy("greedy", json!({"egress": {"guaranteed": "150M"}})),
    ]);
    shop.apply(&[pod("one", "a", Some("gold")), pod("two", "a", None), pod("three", "a", None)]);
    shop.ready(&["one", "two", "three"]);
    // Its policy is in effect, and said.
    let port = says(&shop, "one", "that its guarantee holds", |s| guaranteed(s) == "Granted");
    assert_eq!(port["status"]["qos"]["policyName"], "gold");
    assert_eq!(port["status"]["qos"]["egress"], json!({"guaranteed": "60M", "maximum": "80M"}), "{port:#}");
    let slow = rate(&shop, "one", "two");
    assert!((20e6..83e6).contains(&slow), "a maximum of 80 Mbit/s: {slow}");
    // A report may come in the midst of the transfer, when few acknowledgements have come back.
    says(&shop, "one", "what went through", |s| {
        s["sentBytes"].as_i64() > Some(5_000_000) && s["receivedBytes"].as_i64() > Some(10_000)
    });
    says(&shop, "two", "what it received", |s| s["receivedBytes"].as_i64() > Some(5_000_000));
    let table = shop.run(&["get", "ports"]);
    assert!(table.contains("SENT") && table.contains("RECEIVED") && table.contains("gold"), "{table}");
    // A tenant reads what went through, and does not write it.
    let forged = shop.fail(&[
        "patch",
        "port",
        "one",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"sentBytes":0}}"#,
    ]);
    assert!(forged.contains("forbidden") || forged.contains("Forbidden"), "{forged}");

    // Changed while it runs: at once, and said.
    shop.apply(&[policy(
        "gold",
        json!({"egress": {"guaranteed": "20M", "maximum": "40M", "packets": 100_000}}),
    )]);
    says(&shop, "one", "its new maximum", |s| s["qos"]["egress"]["maximum"] == "40M");
    let slower = rate(&shop, "one", "three");
    assert!((10e6..42e6).contains(&slower), "a maximum of 40 Mbit/s: {slower}");
    // Without a policy there is the whole line, which is the host's, or more between machines of one.
    shop.run(&["patch", "port", "one", "--type=merge", "-p", r#"{"spec":{"qosPolicyName":null}}"#]);
    says(&shop, "one", "nothing of a policy", |s| s["qos"].is_null());
    let free = rate(&shop, "one", "two");
    assert!(free > 60e6, "{free}");
    // Two on one machine ask for more than their host's uplink has: who comes second is told.
    let beside = |name: &str| {
        let mut pod = pod(name, name, Some("greedy"));
        pod["spec"]["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"name": "one"}}, "topologyKey": "kubernetes.io/hostname"}]}});
        pod
    };
    shop.apply(&[beside("first")]);
    says(&shop, "first", "that its guarantee holds", |s| guaranteed(s) == "Granted");
    shop.apply(&[beside("second")]);
    says(&shop, "second", "that the uplink is full", |s| guaranteed(s) == "Overcommitted");
    shop.run(&["delete", "pod", "first", "--wait"]);
    says(&shop, "second", "that there is room now", |s| guaranteed(s) == "Granted");
    shop.apply(&[pod("lost", "b", Some("nowhere"))]);
    says(&shop, "lost", "that its policy is missing", |s| guaranteed(s) == "PolicyNotFound");

    // Stopped and started again, nothing being said: the same hosts, and the same pods, reachable across them.
    let data = cloud.data();
    let wire = wire_of(&data);
    assert!(Path::new("/sys/class/net").join(&wire).exists());
    cloud.down(false);
    assert!(!Path::new("/sys/class/net").join(&wire).exists(), "the wire stays");
    let tables =
        String::from_utf8(Command::new("nft").args(["list", "tables"]).output().unwrap().stdout).unwrap();
    assert!(!tables.contains(&wire), "{tables}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left: Vec<&str> = mounts.lines().filter(|l| l.contains(data.to_str().unwrap())).collect();
    assert!(left.is_empty(), "{left:#?}");
    cloud.restart();
    let (_, status) = cloud.says(&["status"]);
    assert!(status.matches("Ready, ").count() == 3, "{status}");
    let restarted = |name: &str| {
        let pod = shop.object(&["pod", name]);
        pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
    };
    eventually("the pods are started again", || {
        if ["one", "two"].into_iter().all(restarted) { Ok(()) } else { Err(shop.run(&["get", "pods"])) }
    });
    shop.ready(&["one", "two"]);
    assert!(rate(&shop, "two", "one") > 1e6);
    cloud.skep(&["tenant", "delete", "shop"]);
    eventually("nothing is left of the tenant", || {
        let left: Vec<String> = cloud.leftovers().into_iter().filter(|l| !l.contains("/namespace")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
}

fn wire_of(data: &Path) -> String {
    let hosts: Value = serde_json::from_slice(&std::fs::read(data.join("hosts.json")).unwrap()).unwrap();
    hosts["bridge"].as_str().unwrap().to_owned()
}

/// What the host said last of what it holds: tenants and objects.
fn held(cloud: &Cloud) -> (usize, usize) {
    let log = cloud.log();
    let line = log.lines().rfind(|l| l.contains("copies held")).unwrap_or_default();
    let number = |name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=")).unwrap_or_default();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
    };
    (number("tenants"), number("objects"))
}

/// Entries of the switch of a tenant: where Ethernet addresses of ports are. The groups that the kernel joins on links of its own are none,
/// and come and go when it likes.
fn entries(cloud: &Cloud) -> usize {
    let paths = cloud.switches();
    assert_eq!(paths.len(), 1, "only who has a machine has a switch: {paths:?}");
    let listed = skep_e2e::computers::inside(&paths[0], &["bridge", "fdb"]).1;
    listed.lines().filter(|l| !l.starts_with("33:33:") && !l.starts_with("01:00:5e:")).count()
}

/// Makes ports of a tenant, on a node elsewhere.
async fn make_ports(client: &Client, tenant: &str, count: usize) {
    let tenant = Tenants::One(skep_base::TenantName::new(tenant).unwrap());
    let at = PORTS.at(tenant).namespace("default");
    for begin in (0..count).step_by(50) {
        let made = (begin..count.min(begin + 50)).map(|n| {
            let (at, client) = (at.clone(), client.clone());
            async move {
                let port = json!({"apiVersion": "network.skep.io/v1", "kind": "Port",
                                  "metadata": {"name": format!("p{n}")}, "spec": {"nodeName": "elsewhere"}});
                client.create::<Value>(&at, &port).await.unwrap();
            }
        });
        let mut set = tokio::task::JoinSet::new();
        made.for_each(|m| drop(set.spawn(m)));
        set.join_all().await;
    }
}

#[test]
fn a_host_holds_only_what_its_own_tenants_need() {
    const FOREIGN: usize = 10;
    const PORTS_EACH: usize = 200;
    if !possible(&["iperf3", "busybox"]) {
        return;
    }
    let cloud = Cloud::up();
    let own = cloud.tenant("own");
    own.apply(&[pod("one", "a", None)]);
    own.ready(&["one"]);
    let settle = |tenants: usize, least: usize| {
        eventually("the host holds what it needs", || {
            let found = held(&cloud);
            if found.0 == tenants && found.1 >= least { Ok(found) } else { Err(format!("{found:?}")) }
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (before, fdb) = (settle(1, 3), entries(&cloud));
    println!("{:<44} {:>8} {:>8} {:>8}", "", "tenants", "objects", "entries");
    let show = |what: &str, held: (usize, usize), entries: usize| {
        println!("{what:<44} {:>8} {:>8} {entries:>8}", held.0, held.1);
    };
    show("one tenant with a pod", before, fdb);
    for n in 0..FOREIGN {
        let name = format!("foreign-{n}");
        cloud.skep(&["tenant", "create", &name]);
        runtime.block_on(make_ports(&cloud.operator(), &name, PORTS_EACH));
    }
    // A change of the own tenant that the host has seen: whatever it was told before has arrived.
    runtime.block_on(make_ports(&cloud.operator(), "own", 1));
    let after = settle(1, before.1 + 1);
    show(&format!("and {FOREIGN} others with {PORTS_EACH} ports each, elsewhere"), after, entries(&cloud));
    assert_eq!((after, entries(&cloud)), ((1, before.1 + 1), fdb));
    runtime.block_on(async {
        let client = cloud.operator();
        let tenant = Tenants::One(skep_base::TenantName::new("own").unwrap());
        client.remove(&PORTS.at(tenant).namespace("default").name("p0"), &Default::default()).await.unwrap();
        make_ports(&client, "own", PORTS_EACH).await;
    });
    let more = settle(1, before.1 + PORTS_EACH);
    show(&format!("and {PORTS_EACH} ports of its own tenant"), more, entries(&cloud));
    // The other tenant comes with its first machine, and goes with its last.
    let foreign = Kubectl::new(&{
        let path = cloud.data().join("foreign.kubeconfig");
        std::fs::write(&path, cloud.skep(&["tenant", "kubeconfig", "foreign-0"])).unwrap();
        path
    });
    foreign.apply(&[pod("two", "a", None)]);
    foreign.ready(&["two"]);
    let both = settle(2, more.1 + PORTS_EACH);
    println!("{:<44} {:>8} {:>8}", "and a pod of another tenant", both.0, both.1);
    cloud.skep(&["tenant", "delete", "foreign-0"]);
    settle(1, more.1);
}
