//! `skep up` on this computer: machines that are made, survive whoever made them, and leave nothing. Needs root; without it
//! only the control plane is tried, and the rest says that it is skipped.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_client::{Client, DeleteParams, Error, ErrorKind, Patch, Resource, Tenants};
use skep_e2e::cloud::{Cloud, is_root, kill, text, until, until_gone, wait_for};

const MACHINES: Resource = Resource::new("compute.skep.io", "v1", "machines");
const HOSTS: Resource = Resource::new("compute.skep.io", "v1", "hosts");

fn machine(name: &str) -> Value {
    json!({
        "apiVersion": "compute.skep.io/v1", "kind": "Machine", "metadata": {"name": name},
        "spec": {"flavorName": "tiny", "resources": {"cpu": "100m", "memory": "128Mi"}},
    })
}

fn is_running(machine: &Value) -> bool {
    machine["status"]["phase"] == "Running"
}

#[tokio::test]
async fn it_starts_says_what_it_does_and_keeps_what_it_has() {
    let cloud = Cloud::new();
    let said = cloud.up();
    assert!(said.contains("control plane") && said.contains("Try next:"), "{said}");
    assert!(said.contains("virtual machines"), "it says what it could not use: {said}");
    let again = cloud.up();
    assert!(again.contains("is up already"), "{again}");
    let shop = cloud.tenant("shop");
    let map = Resource::new("", "v1", "configmaps").at(shop).namespace("default");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}});
    cloud.client().create::<Value>(&map, &object).await.unwrap();
    let status = text(&cloud.skep(&["status"]));
    assert!(status.contains(&cloud.listen) && status.contains("tenants         1\n"), "{status}");
    let status: Value = serde_json::from_slice(&cloud.skep(&["status", "-o", "json"]).stdout).unwrap();
    assert!(status["tenants"] == 1 && status["registry"].is_string(), "{status}");
    // The operator's kubeconfig has a context for it, also after a start.
    let named = |context: &str| {
        let mut kubectl = std::process::Command::new(skep_e2e::tool("kubectl"));
        kubectl.args(["--context", context, "get", "configmap", "kept", "-o", "name"]);
        kubectl.env("KUBECONFIG", cloud.data().join("admin.kubeconfig")).env("HOME", cloud.directory.path());
        text(&kubectl.output().unwrap())
    };
    assert_eq!(named("shop"), "configmap/kept\n");
    cloud.down(&[]);
    assert!(!cloud.skep(&["status"]).status.success(), "nothing runs");
    cloud.up();
    cloud.client().read::<Value>(&map.name("kept")).await.unwrap();
    assert_eq!(named("shop"), "configmap/kept\n");
    let deleted = cloud.skep(&["tenant", "delete", "shop"]);
    assert!(deleted.status.success(), "{}", text(&deleted));
    assert!(named("shop").contains("context was not found for specified context: shop"), "{}", named("shop"));
    assert!(named("skep").contains("NotFound"), "{}", named("skep"));
}

#[tokio::test]
async fn a_taken_port_is_named_with_a_way_out() {
    let cloud = Cloud::new();
    let _taken = TcpListener::bind(&cloud.listen).unwrap();
    let output = cloud.skep(&["up", "--listen", &cloud.listen]);
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("is taken by another process") && said.contains("--listen"), "{said}");
    let doctor = cloud.skep(&["doctor", "--listen", &cloud.listen]);
    assert!(!doctor.status.success() && text(&doctor).contains("is taken"), "{}", text(&doctor));
}

#[tokio::test]
async fn machines_outlive_who_made_them_and_leave_nothing() {
    if !is_root() {
        eprintln!("SKIPPED: machines need root");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    let (client, shop) = (cloud.client(), cloud.tenant("shop"));
    let at = MACHINES.at(shop.clone());
    let one = at.clone().name("m1");
    client.create::<Value>(&at, &machine("m1")).await.unwrap();
    let made = until(&client, &one, "a running machine", is_running).await;
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(made["status"]["observedGeneration"], made["metadata"]["generation"]);
    let init = cloud.init(&uid);
    // Its credential is its node's and no other's.
    let kubeconfig = cloud.data().join("machines").join(&uid).join("control/kubeconfig");
    let node = Client::from_kubeconfig(&kubeconfig).unwrap();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who: Value = node.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.unwrap();
    assert_eq!(who["status"]["userInfo"]["username"], "system:node:m1");
    let foreign = node.read::<Value>(&HOSTS.at(Tenants::Own)).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::NotFound, "hosts are not even there for tenants: {foreign}");
    // The daemon dies; the machine does not, and the next daemon takes it over.
    let daemon = cloud.daemon();
    kill(daemon);
    wait_for("another daemon", || Some(cloud.daemon()).filter(|pid| *pid != daemon));
    assert_eq!(cloud.init(&uid), init, "the machine went on");
    // The machine's first process dies; the host starts it again.
    kill(init);
    let again = until(&client, &one, "the machine's next start", |m| {
        is_running(m) && m["status"]["restarts"].as_i64() >= Some(1)
    });
    again.await;
    assert_ne!(cloud.init(&uid), init);
    // The cloud stops, with and without its machines.
    let init = cloud.init(&uid);
    cloud.down(&["--keep-machines"]);
    assert!(cloud.processes().contains(&init), "it was to be kept");
    cloud.up();
    until(&client, &one, "the machine", is_running).await;
    assert_eq!(cloud.init(&uid), init);
    cloud.down(&[]);
    assert_eq!(cloud.processes(), Vec::<i32>::new());
    cloud.up();
    wait_for("the machine's start after a stop", || (!cloud.processes().is_empty()).then_some(()));
    // Deleted, it goes with everything.
    client.remove(&one, &DeleteParams::default()).await.unwrap();
    until_gone(&client, &one).await;
    assert_eq!(cloud.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn without_rights_a_simulated_host_shows_what_would_run() {
    if !is_root() {
        eprintln!("SKIPPED: giving up rights needs some");
        return;
    }
    let cloud = Cloud::new();
    let output = cloud.skep_without_rights(&["up", "--listen", &cloud.listen]);
    let said = text(&output);
    assert!(output.status.success(), "{said}\n{}", cloud.log());
    assert!(said.contains("a simulated host shows machines") && said.contains("simulated-0"), "{said}");
    let shop = cloud.administrator("shop");
    shop.run(&["create", "deployment", "web", "--image=nobody/has:it", "--replicas=3"]);
    shop.run(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let nodes = shop.run(&["get", "nodes", "-o", "wide"]);
    assert!(nodes.contains("simulated://0"), "{nodes}");
    let machines = shop.run(&["get", "machines", "-o", "jsonpath={.items[*].spec.hostName}"]);
    assert_eq!(machines, "simulated-0");
    let demo = cloud.skep_without_rights(&["demo"]);
    assert!(!demo.status.success() && text(&demo).contains("no containers run here"), "{}", text(&demo));
    // Stopped and started, it shows what it showed.
    let down = cloud.skep_without_rights(&["down"]);
    assert!(down.status.success(), "{}", text(&down));
    let up = cloud.skep_without_rights(&["up", "--listen", &cloud.listen]);
    assert!(up.status.success(), "{}", text(&up));
    assert_eq!(shop.run(&["get", "machines", "-o", "jsonpath={.items[*].spec.hostName}"]), machines);
    shop.run(&["scale", "deployment/web", "--replicas=4"]);
    shop.run(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    // What is deleted goes.
    shop.run(&["delete", "deployment", "web", "--wait=true"]);
    wait_for("its pods to go", || (shop.run(&["get", "pods", "-o", "name"]).is_empty()).then_some(()));
    assert!(cloud.skep_without_rights(&["down"]).status.success());
    // With rights, it is a real host's turn.
    cloud.up();
    wait_for("the simulated host to go", || {
        let gone = shop.run(&["get", "machines", "-o", "jsonpath={.items[*].spec.hostName}"]);
        (!gone.contains("simulated-0")).then_some(())
    });
    // The real one registers once its daemon is ready, which may be after the other has gone.
    let (client, all) = (cloud.client(), HOSTS.at(Tenants::Own));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let hosts = client.list::<Value>(&all, &skep_client::ListParams::default()).await.unwrap().items;
        let names: Vec<&Value> = hosts.iter().map(|h| &h["metadata"]["name"]).collect();
        assert!(!names.iter().any(|name| *name == "simulated-0"), "{names:?}");
        if names.len() == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "one real host, not {names:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn tenants_read_machines_and_write_none() {
    let cloud = Cloud::new();
    cloud.up();
    let (client, shop) = (cloud.client(), cloud.tenant("shop"));
    let path = cloud.directory.path().join("shop.kubeconfig");
    fs::write(&path, cloud.skep(&["tenant", "kubeconfig", "shop"]).stdout).unwrap();
    let tenant = Client::from_kubeconfig(&path).unwrap();
    let (own, operators) = (MACHINES.at(Tenants::Own), MACHINES.at(shop));
    client.create::<Value>(&operators, &machine("m1")).await.unwrap();
    tenant.read::<Value>(&own.clone().name("m1")).await.unwrap();
    let refused = |result: Result<Value, Error>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert!(error.to_string().contains("the operator's system only"), "{error}");
    };
    refused(tenant.create(&own, &machine("m2")).await);
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    refused(tenant.patch(&own.clone().name("m1"), &patch).await);
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    refused(tenant.patch(&own.clone().name("m1").subresource("status"), &status).await);
    let error =
        tenant.remove(&own.clone().name("m1"), &DeleteParams::default()).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let request = json!({"spec": {"request": "x"}});
    let credential = own.name("m1").subresource("credential").to_string();
    let error = tenant.post::<Value>(&credential, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    // Every tenant has a pool from the start.
    let pools = Resource::new("compute.skep.io", "v1", "nodepools").at(Tenants::Own);
    let pool: Value = tenant.read(&pools.name("default")).await.unwrap();
    assert_eq!(pool["spec"]["emptyDelaySeconds"], 120);
    client.remove(&operators.clone().name("m1"), &DeleteParams::default()).await.unwrap();
    until_gone(&client, &operators.name("m1")).await;
}

#[tokio::test]
async fn the_demo_runs_proves_that_tenants_are_apart_and_goes() {
    if !is_root() {
        eprintln!("SKIPPED: containers need root");
        return;
    }
    let cloud = Cloud::new();
    cloud.up();
    let output = cloud.skep(&["demo"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("neither can reach the other") && !said.contains("WRONG"), "{said}");
    let shop =
        |tenant: &str| format!("This is {tenant}'s shop. {tenant}'s API says: {tenant}'s store has 3 visits");
    for (tenant, other, others) in
        [("demo-blue", "demo-green", "10.66.1.2"), ("demo-green", "demo-blue", "10.66.1.1")]
    {
        let (_, inside) = said.split_once(&format!("From inside {tenant}:\n")).unwrap();
        let inside: String = inside.lines().take_while(|l| l.starts_with("    ok: ")).collect();
        // By the same name and the same address, each gets its own.
        for own in ["http://web/", "http://10.66.1.80:8080/"] {
            assert!(inside.contains(&format!("{own} answers: {}", shop(tenant))), "{said}");
        }
        for foreign in [format!("http://vault-of-{other}/visits"), format!("http://{others}:8080/visits")] {
            assert!(inside.contains(&format!("nobody answers at {foreign}")), "{said}");
        }
        let survived =
            format!("{tenant}: the store's pod was deleted; the next one still knows all 3 visits");
        assert!(said.contains(&survived), "{said}");
    }
    // Again over what is there: the store goes on counting.
    let again = cloud.skep(&["demo"]);
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("still knows all 6 visits"), "{}", text(&again));
    let removed = cloud.skep(&["demo", "--remove"]);
    assert!(removed.status.success(), "{}", text(&removed));
    let tenants = text(&cloud.skep(&["tenant", "list", "-o", "name"]));
    assert!(!tenants.contains("demo-"), "{tenants}");
    cloud.down(&[]);
}
