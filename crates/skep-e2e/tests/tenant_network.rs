//! Tenants' private networks with real containers: on one computer, and on several that are joined by a wire. Needs root;
//! without it the tests say that they are skipped.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::Kubectl;
use skep_e2e::computers::{Cloud, IMAGE, eventually, inside, possible};
use skep_e2e::networks::{machine_of, nft_counters, switch_of};

/// What the tests look with, inside machines' namespaces.
const PROGRAMS: [&str; 4] = ["nft", "ip", "busybox", "curl"];

/// A pod that says its name on port 8080. Pods with equal values of `apart` are on machines of their own.
fn server(name: &str, apart: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "apart": apart, "name": name}, "annotations": annotations},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"apart": apart}}, "topologyKey": "kubernetes.io/hostname"}]}},
            "containers": [{
                "name": "c", "image": IMAGE,
                "command": ["sh", "-c", format!("echo {name} > /w/index.html; exec httpd -f -p 8080 -h /w")],
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            }],
        },
    })
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// What a pod hears from a URL at last.
fn hears(kubectl: &Kubectl, pod: &str, url: &str) -> String {
    eventually(&format!("{pod} hears from {url}"), || kubectl.curl(pod, url)).trim().to_owned()
}

#[test]
fn pods_services_and_names_of_a_tenant() {
    if !possible(&PROGRAMS) {
        return;
    }
    let cloud = Cloud::up();
    let shop = cloud.tenant("shop");
    shop.run(&["create", "rolebinding", "read", "--clusterrole=view", "--serviceaccount=default:default"]);
    shop.apply(&[
        service("front", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]})),
        service("solo", json!({"selector": {"name": "one"}, "ports": [{"port": 80, "targetPort": 8080}]})),
        service(
            "pods",
            json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 8080, "name": "http"}]}),
        ),
        service(
            "outward",
            json!({"type": "NodePort", "selector": {"name": "two"}, "ports": [{"port": 80, "targetPort": 8080}]}),
        ),
        service("nobody", json!({"selector": {"app": "nobody"}, "ports": [{"port": 80}]})),
    ]);
    let mut two = server("two", "web", json!({"network.skep.io/addresses": "10.66.7.8"}));
    (two["spec"]["hostname"], two["spec"]["subdomain"]) = ("two".into(), "pods".into());
    shop.apply(&[server("one", "web", json!({})), two, server("near", "other", json!({}))]);
    shop.ready(&["one", "two", "near"]);

    // Addresses are what the ports say, and what was asked for.
    assert_eq!(shop.pod_ip("two"), "10.66.7.8");
    for pod in ["one", "two", "near"] {
        let port = shop.object(&["port", pod]);
        assert_eq!(port["spec"]["addresses"], json!([shop.pod_ip(pod)]), "{port:#}");
        let said = shop.sh(pod, "ip addr show eth0").unwrap();
        assert!(
            said.contains(port["spec"]["mac"].as_str().unwrap()) && said.contains(&shop.pod_ip(pod)),
            "{said}"
        );
    }
    let (one, two) = (shop.object(&["pod", "one"]), shop.object(&["pod", "two"]));
    assert_ne!(one["spec"]["nodeName"], two["spec"]["nodeName"]);
    // On one machine and across machines, at layer 2: the hop count stays.
    for (from, to) in [("one", "two"), ("two", "one"), ("near", "one"), ("near", "two"), ("two", "near")] {
        assert_eq!(hears(&shop, from, &format!("http://{}:8080", shop.pod_ip(to))), to);
        let ping = shop.sh(from, &format!("ping -c 1 -W 5 {}", shop.pod_ip(to))).unwrap();
        assert!(ping.contains("ttl=64"), "{ping}");
    }
    // Services: of all their endpoints, also from an endpoint to itself.
    assert_eq!(hears(&shop, "two", "http://solo"), "one");
    assert_eq!(hears(&shop, "one", "http://solo"), "one");
    let mut heard: Vec<String> = Vec::new();
    eventually("both endpoints of a service answer", || {
        heard.push(hears(&shop, "near", "http://front"));
        let all = ["one", "two"].iter().all(|n| heard.iter().any(|h| h == n));
        if all { Ok(()) } else { Err(format!("{heard:?}")) }
    });
    let refused = shop.curl("one", "http://nobody").unwrap_err();
    assert!(refused.contains("refused") || refused.contains("connect"), "{refused}");
    // Names.
    let resolv = shop.sh("one", "cat /etc/resolv.conf").unwrap();
    assert!(resolv.contains("nameserver 10.96.0.10"), "{resolv}");
    assert!(resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{resolv}");
    let lookup = shop.sh("one", "nslookup pods.default.svc.cluster.local").unwrap();
    for pod in ["one", "two", "near"] {
        assert!(lookup.contains(&shop.pod_ip(pod)), "{lookup}");
    }
    assert_eq!(hears(&shop, "one", "http://two.pods:8080"), "two");
    let heard = hears(&shop, "one", "http://front.default.svc");
    assert!(["one", "two", "near"].contains(&heard.as_str()), "{heard}");
    // The API server, by its address and by all its names, as the pod's service account.
    for server in [
        "10.96.0.1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ] {
        let words = format!(
            "d=/var/run/secrets/kubernetes.io/serviceaccount; kubectl --server=https://{server}:443 \
             --certificate-authority=$d/ca.crt --token=$(cat $d/token) get pods -o name"
        );
        let pods = shop.sh("two", &words).unwrap();
        assert!(pods.contains("pod/one") && pods.contains("pod/near"), "{server}: {pods}");
    }
    // A node port, at the address of a node that the endpoint is not on.
    let port = shop.run(&["get", "service", "outward", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let node = one["status"]["hostIP"].as_str().unwrap();
    assert!(node.starts_with("10.6"), "a node has an address of the network: {node}");
    assert_eq!(hears(&shop, "near", &format!("http://{node}:{port}")), "two");
    assert_eq!(hears(&shop, "one", &format!("http://{node}:{port}")), "two");
    // An endpoint that goes leaves its service, its name and its port.
    shop.run(&["delete", "pod", "one", "--wait"]);
    eventually("the port goes with the pod", || match shop.attempt(&["get", "port", "one"]) {
        Ok(said) => Err(said),
        Err(_) => Ok(()),
    });
    eventually("the service forgets the pod", || {
        let refused = shop.curl("two", "http://solo").err().unwrap_or_default();
        if refused.is_empty() { Err("it still answers".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn networks_of_one_tenant_are_apart() {
    if !possible(&PROGRAMS) {
        return;
    }
    let cloud = Cloud::up();
    let shop = cloud.tenant("shop");
    let network = |kind: &str, spec: Value| json!({"apiVersion": "network.skep.io/v1", "kind": kind, "metadata": {"name": "blue"}, "spec": spec});
    let blue = || json!({"network.skep.io/network": "blue"});
    shop.apply(&[
        network("Network", json!({})),
        network("Subnet", json!({"networkName": "blue", "cidr": "10.200.0.0/24"})),
        json!({"apiVersion": "compute.skep.io/v1", "kind": "NodePool", "metadata": {"name": "blue"}, "spec": {"nodeLabels": blue()}}),
        service("front", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]})),
        service("solo", json!({"selector": {"name": "one"}, "ports": [{"port": 80, "targetPort": 8080}]})),
        service("all", json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 8080}]})),
    ]);
    shop.apply(&[server("one", "a", json!({})), server("b1", "b", blue()), server("b2", "b", blue())]);
    // A pod cannot be in two.
    let mut torn = server("torn", "c", blue());
    torn["spec"]["nodeSelector"] = json!({"network.skep.io/network": "green"});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, torn.to_string()).unwrap();
    let refused = shop.attempt(&["create", "-f", file.path().to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("a pod is in one network, its node's"), "{refused}");

    shop.ready(&["one", "b1", "b2"]);
    let node = |pod: &str| shop.run(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]);
    assert_ne!(node("b1"), node("b2"), "the test is to cross machines");
    for pod in ["b1", "b2"] {
        assert!(shop.pod_ip(pod).starts_with("10.200.0."), "{pod} has {}", shop.pod_ip(pod));
        assert_eq!(shop.object(&["port", pod])["spec"]["networkName"], "blue");
        let own = shop.object(&["port", "-n", "kube-system", &format!("node-{}", node(pod))]);
        assert_eq!(own["spec"]["networkName"], "blue", "{own:#}");
    }
    // At layer 2 inside, nothing across, from neither side, whatever the machines are on one host.
    let (one, b1, b2) = (shop.pod_ip("one"), shop.pod_ip("b1"), shop.pod_ip("b2"));
    assert_eq!(hears(&shop, "b1", &format!("http://{b2}:8080")), "b2");
    let ping = shop.sh("b2", &format!("ping -c 1 -W 5 {b1}")).unwrap();
    assert!(ping.contains("ttl=64"), "{ping}");
    for (from, to, ip) in [("b1", "one", &one), ("b2", "one", &one), ("one", "b1", &b1), ("one", "b2", &b2)] {
        // Such an address is outside from here: something there may answer, on some computers.
        let heard = shop.curl(from, &format!("http://{ip}:8080")).unwrap_or_default();
        assert_ne!(heard.trim(), to, "from {from}");
    }
    // Services and names are the tenant's; who answers is near.
    for _ in 0..8 {
        assert_eq!(hears(&shop, "one", "http://front"), "one");
        let heard = hears(&shop, "b1", "http://front");
        assert!(["b1", "b2"].contains(&heard.as_str()), "{heard}");
    }
    let refused = shop.curl("b1", "http://solo").unwrap_err();
    assert!(refused.contains("refused") || refused.contains("connect"), "{refused}");
    let lookup = shop.sh("b1", "nslookup all.default.svc.cluster.local").unwrap();
    assert!(lookup.contains(&b1) && lookup.contains(&b2) && !lookup.contains(&one), "{lookup}");
    let version = shop.sh("b2", "curl -sk --max-time 10 https://kubernetes.default.svc/version").unwrap();
    assert!(version.contains("gitVersion"), "{version}");
    // Each of them has a switch of its own.
    let vni = |name: &str| shop.run(&["get", "network", name, "-o", "jsonpath={.spec.vni}"]);
    let (near, far) = (vni("default"), vni("blue"));
    assert_ne!(near, far);
    for vni in [near, far] {
        assert!(cloud.switches().iter().any(|p| p.ends_with(format!("net-{vni}"))), "{vni}");
    }
}

#[test]
fn equal_addresses_of_two_tenants_never_meet() {
    if !possible(&PROGRAMS) {
        return;
    }
    let cloud = Cloud::up();
    let (red, blue) = (cloud.tenant("red"), cloud.tenant("blue"));
    let at = |ip: &str| json!({"network.skep.io/addresses": ip});
    red.apply(&[server("same", "a", at("10.65.0.5")), server("red", "a", at("10.65.0.6"))]);
    blue.apply(&[server("same", "a", at("10.65.0.5")), server("blue", "a", at("10.65.0.7"))]);
    blue.run(&["label", "pod", "same", "tenant=blue"]);
    red.ready(&["same", "red"]);
    blue.ready(&["same", "blue"]);
    blue.sh("same", "echo blue > /w/index.html").unwrap();
    red.sh("same", "echo red > /w/index.html").unwrap();
    assert_eq!(hears(&red, "red", "http://10.65.0.5:8080"), "red");
    assert_eq!(hears(&blue, "blue", "http://10.65.0.5:8080"), "blue");
    // What only the other has is not there.
    red.curl("red", "http://10.65.0.7:8080").unwrap_err();
    blue.curl("blue", "http://10.65.0.6:8080").unwrap_err();

    // Who is root in a machine sends what it likes: nothing of it arrives, and it is counted.
    let machine = machine_of(&cloud, "red", &red, "red");
    let switch = switch_of(&cloud, &red);
    let forge = |words: &str| drop(inside(&machine, &words.split(' ').collect::<Vec<_>>()));
    let counts = |reason: &str| nft_counters(&switch, "bridge").get(reason).copied().unwrap_or_default();
    // (A pod's interface is what a guest would forge with; the bridge is the machine's own.)
    let ping = |source: &str, target: &str| {
        inside(&machine, &["busybox", "ping", "-c", "2", "-W", "1", "-I", source, target]).0
    };
    let own = red.run(&["get", "pod", "red", "-o", "jsonpath={.status.hostIP}"]);
    assert!(ping(&own, "10.65.0.5"), "what is the machine's own is let through");
    // Another port's address, and one that nobody has.
    for forged in ["10.65.0.99", "10.65.0.5"] {
        let before = counts("ip") + counts("arp");
        forge(&format!("ip addr add {forged}/32 dev skep0"));
        if forged == "10.65.0.5" {
            let target = red.run(&["get", "pod", "same", "-o", "jsonpath={.status.hostIP}"]);
            assert!(!ping(forged, &target));
        } else {
            assert!(!ping(forged, "10.65.0.5"));
        }
        forge(&format!("ip addr del {forged}/32 dev skep0"));
        assert!(counts("ip") + counts("arp") > before, "{:?}", nft_counters(&switch, "bridge"));
    }
    // ARP that tells another's address.
    let before = counts("arp");
    forge("ip addr add 10.65.0.5/32 dev skep0");
    forge("busybox arping -U -c 2 -w 3 -I skep0 -s 10.65.0.5 10.65.0.5");
    forge("ip addr del 10.65.0.5/32 dev skep0");
    assert!(counts("arp") > before, "{:?}", nft_counters(&switch, "bridge"));
    // Another Ethernet address.
    let before = counts("mac");
    let mac = red.run(&["get", "ports", "-n", "kube-system", "-o", "jsonpath={.items[*].spec.mac}"]);
    let (_, link) = inside(&machine, &["ip", "link", "show", "skep0"]);
    let real = mac.split(' ').find(|m| link.contains(*m)).unwrap().to_owned();
    forge("ip link set skep0 address 02:11:22:33:44:55");
    assert!(!ping(&own, "10.65.0.5"));
    forge(&format!("ip link set skep0 address {real}"));
    assert!(counts("mac") > before, "{:?}", nft_counters(&switch, "bridge"));
    eventually("the machine is heard again", || {
        if ping(&own, "10.65.0.5") { Ok(()) } else { Err(format!("{:?}", nft_counters(&switch, "bridge"))) }
    });
    // Services of the host and of other networks: the switch leads nowhere but to the network's ports.
    assert!(red.curl("red", "http://127.0.0.1:6443").is_err());
    assert_eq!(hears(&red, "red", "http://10.65.0.5:8080"), "red", "nobody was convinced");

    // The daemon dies; what runs is connected all the while, and afterwards new pods are too.
    let id = std::fs::metadata(&switch).unwrap();
    let daemon =
        Command::new("pgrep").args(["-f", &format!("host.*{}", cloud.data().display())]).output().unwrap();
    let daemon = String::from_utf8(daemon.stdout).unwrap();
    for pid in daemon.lines().filter(|pid| is_daemon(pid)) {
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    }
    assert_eq!(hears(&red, "red", "http://10.65.0.5:8080"), "red");
    blue.apply(&[server("late", "late", at("10.65.0.8"))]);
    blue.ready(&["late"]);
    assert_eq!(hears(&blue, "same", "http://10.65.0.8:8080"), "late");
    assert_eq!(hears(&red, "red", "http://10.65.0.5:8080"), "red");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(&switch).unwrap().ino(), id.ino(), "the switch is still the same");

    // Stopped with everything and started again: the same pods, reachable as before.
    cloud.down(false);
    assert_eq!(cloud.switches(), Vec::<PathBuf>::new(), "what has no machines needs no switches");
    cloud.restart();
    let restarted = |pod: &str| {
        let pod = red.object(&["pod", pod]);
        pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
    };
    eventually("the pods are started again", || {
        if restarted("red") && restarted("same") {
            Ok(())
        } else {
            Err(red.run(&["get", "pods", "-o", "yaml"]))
        }
    });
    red.ready(&["red", "same"]);
    assert_eq!(hears(&red, "red", "http://10.65.0.5:8080"), "same", "its container began anew");
    red.sh("same", "echo red > /w/index.html").unwrap();
    assert_eq!(hears(&red, "red", "http://10.65.0.5:8080"), "red");

    // Removed, tenants leave nothing.
    for name in ["red", "blue"] {
        cloud.skep(&["tenant", "delete", name]);
    }
    eventually("nothing is left of the tenants", || {
        let left = cloud.leftovers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
}

/// Whether a process is the host daemon, and not what looks for it.
fn is_daemon(pid: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains("\0host\0")
}

#[test]
fn a_network_spans_hosts() {
    if !possible(&PROGRAMS) {
        return;
    }
    let mut cloud = Cloud::with_hosts(3);
    let (red, blue) = (cloud.tenant("red"), cloud.tenant("blue"));
    let at = |n: u8| json!({"network.skep.io/addresses": format!("10.65.0.{n}")});
    let names = ["p1", "p2", "p3"];
    for tenant in [&red, &blue] {
        let pods: Vec<Value> = (1..=3).map(|n| server(names[usize::from(n) - 1], "a", at(n))).collect();
        tenant.apply(&pods);
        tenant.apply(&[service(
            "front",
            json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}),
        )]);
    }
    red.ready(&names);
    blue.ready(&names);
    for (tenant, word) in [(&red, "red"), (&blue, "blue")] {
        for name in names {
            tenant.sh(name, &format!("echo {word}-{name} > /w/index.html")).unwrap();
        }
    }
    // The machines are spread over the hosts: packets do cross the wire.
    let hosts = |tenant: &str| -> Vec<String> {
        let said = cloud.skep(&["tenant", "list"]);
        assert!(said.contains(tenant), "{said}");
        (0..3)
            .filter(|i| {
                std::fs::read_dir(cloud.host_data(*i).join("networks")).is_ok_and(|mut d| d.next().is_some())
            })
            .map(|i| cloud.host_name(i))
            .collect()
    };
    assert!(hosts("red").len() >= 2, "{:?}", hosts("red"));
    let everybody_hears = |what: &str| {
        for (tenant, word) in [(&red, "red"), (&blue, "blue")] {
            for from in names {
                for (n, to) in (1..).zip(names) {
                    let heard = hears(tenant, from, &format!("http://10.65.0.{n}:8080"));
                    assert_eq!(heard, format!("{word}-{to}"), "{what}: {from} of {word}");
                }
                assert!(hears(tenant, from, "http://front").starts_with(word), "{what}");
            }
        }
    };
    everybody_hears("at first");
    // A whole packet of the network's size passes, and none is lost for its size.
    let ping = red.sh("p1", "ping -c 2 -W 5 -s 1422 10.65.0.2 && ping -c 2 -W 5 -s 1422 10.65.0.3");
    assert!(ping.is_ok(), "{ping:?}");
    // A host that is cut off, and healed. Its daemon dies meanwhile.
    cloud.plug(1, false);
    cloud.kill_host(1);
    std::thread::sleep(Duration::from_secs(1));
    cloud.plug(1, true);
    cloud.start_host(1);
    everybody_hears("after a host was away");
    // Out of the network pods speak with their host's address, and only answers come in.
    let outside = TcpListener::bind(format!("{}:0", cloud.outside())).unwrap();
    let url = format!("http://{}", outside.local_addr().unwrap());
    let peers = std::thread::spawn(move || {
        let mut peers = Vec::new();
        for _ in 0..names.len() {
            let (mut stream, peer) = outside.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\noutside").unwrap();
            peers.push(peer.ip().to_string());
        }
        peers
    });
    for name in names {
        assert_eq!(hears(&red, name, &url), "outside");
    }
    let addresses: Vec<String> = (0..3).map(|i| cloud.host_address(i)).collect();
    for peer in peers.join().unwrap() {
        assert!(addresses.contains(&peer), "{peer} is no host's address");
    }
    // Who is root in a machine reaches no host, and nothing that is only on the link.
    let machine = machine_of(&cloud, "red", &red, "p1");
    for address in
        addresses.iter().map(String::as_str).chain(["169.254.169.254", "169.254.1.1", "169.254.1.2"])
    {
        let (heard, said) = inside(&machine, &["busybox", "ping", "-c", "1", "-W", "1", address]);
        assert!(!heard, "a machine reaches {address}: {said}");
    }
    // Without machines nothing is left of the networks, on any host.
    for name in ["red", "blue"] {
        cloud.skep(&["tenant", "delete", name]);
    }
    eventually("nothing is left of the tenants", || {
        let mut left = cloud.leftovers();
        for i in 0..3 {
            let host = PathBuf::from(format!("/run/netns/{}", cloud.host_name(i)));
            let links = inside(&host, &["ip", "-o", "link"]).1;
            left.extend(links.lines().filter(|l| l.contains("sku") || l.contains("vx")).map(str::to_owned));
            let tables = inside(&host, &["nft", "list", "tables"]).1;
            left.extend(tables.lines().map(str::to_owned));
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
}
