//! `skep scheduler` as a process of its own, over the network, beside a plain API server.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{Client, Patch, Resource};
use skep_e2e::{Server, eventually};

const PODS: Resource = Resource::new("", "v1", "pods");
const NODES: Resource = Resource::new("", "v1", "nodes");

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scheduler(kubeconfig: &Path, config: Option<&Path>) -> Process {
    let child = Command::new(skep_e2e::skep())
        .args(["scheduler", "--listen", "127.0.0.1:0", "--kubeconfig"])
        .arg(kubeconfig)
        .args(config.iter().flat_map(|file| [Path::new("--config"), file]))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

/// A kubeconfig with the rights that every Kubernetes cluster gives its scheduler, as docs/operations.md makes it, and no others.
async fn with_least_rights(client: &Client, tenant: &TenantName, admin: &Path) -> PathBuf {
    let at = |group, version, plural| Resource::new(group, version, plural).at(tenant);
    let account = at("", "v1", "serviceaccounts").namespace("kube-system");
    let _: Value = client.create(&account, &json!({"metadata": {"name": "skep-scheduler"}})).await.unwrap();
    for role in ["system:kube-scheduler", "system:volume-scheduler"] {
        let binding = json!({
            "metadata": {"name": format!("skep-scheduler:{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": "skep-scheduler"}],
        });
        let bindings = at("rbac.authorization.k8s.io", "v1", "clusterrolebindings");
        let _: Value = client.create(&bindings, &binding).await.unwrap();
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token: Value =
        client.create(&account.name("skep-scheduler").subresource("token"), &request).await.unwrap();
    let text = std::fs::read_to_string(admin).unwrap();
    let line = |key: &str| {
        let found = text.lines().find_map(|l| l.trim().trim_start_matches("- ").strip_prefix(key));
        found.unwrap_or_else(|| panic!("no {key} in {text}")).trim().trim_matches('"').to_owned()
    };
    let file = admin.with_file_name("skep-scheduler.kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": line("server:"), "certificate-authority-data": line("certificate-authority-data:"),
        }}],
        "users": [{"name": "u", "user": {"token": token["status"]["token"]}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

async fn make_node(client: &Client, tenant: &TenantName, name: &str, labels: Value) {
    let at = NODES.at(tenant);
    let node = json!({"metadata": {"name": name, "labels": labels}});
    let _: Value = client.create(&at, &node).await.unwrap();
    let status = json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}});
    let patch = Patch::Strategic(json!({"status": status}));
    let _: Value = client.patch(&at.name(name).subresource("status"), &patch).await.unwrap();
}

/// Where a pod of the namespace `default` has been put.
async fn placed(client: &Client, tenant: &TenantName, name: &str) -> String {
    let at = PODS.at(tenant).namespace("default").name(name);
    eventually(|| async {
        let found: Value = client.read(&at).await.unwrap();
        if found["spec"]["nodeName"].is_string() { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    let found: Value = client.read(&at).await.unwrap();
    found["spec"]["nodeName"].as_str().unwrap().to_owned()
}

/// With the operator's credential it sees all tenants; with a tenant's, as with any other Kubernetes server, one, and
/// there the rights of Kubernetes' own scheduler are enough.
#[tokio::test(flavor = "multi_thread")]
async fn it_schedules_all_tenants_or_the_one_that_it_sees() {
    let mut audit = PathBuf::new();
    let server = Server::start_with(|folder| {
        audit = folder.join("audit.log");
        vec!["--audit-log-path".to_owned(), audit.display().to_string()]
    });
    let kubeconfig = server.tenant("shop");
    let client = server.admin();
    let tenant = TenantName::new("shop").unwrap();
    make_node(&client, &tenant, "n", json!({})).await;
    let least = with_least_rights(&client, &tenant, &kubeconfig).await;
    for (name, credential) in [("first", server.kubeconfig()), ("second", kubeconfig), ("third", least)] {
        let _scheduler = scheduler(&credential, None);
        let pods = PODS.at(&tenant).namespace("default");
        // No controller runs here that would take away the taint with which every new node begins.
        let pod = json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "x"}], "tolerations": [{"operator": "Exists"}],
        }});
        let _: Value = client.create(&pods, &pod).await.unwrap();
        assert_eq!(placed(&client, &tenant, name).await, "n");
        let events = Resource::new("", "v1", "events").at(&tenant).namespace("default");
        eventually(|| async {
            let found: Value = client.read(&events).await.unwrap();
            let told = found["items"].as_array().into_iter().flatten().any(|e| {
                e["involvedObject"]["name"] == name
                    && e["reason"] == "Scheduled"
                    && e["source"]["component"] == "default-scheduler"
            });
            if told { Ok(()) } else { Err(format!("no event about {name}: {found}")) }
        })
        .await;
    }
    // Where it sees one cluster it speaks of no tenants: other servers have none.
    let uris = || -> Vec<String> {
        let text = std::fs::read_to_string(&audit).unwrap();
        // The last line may be half there.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let own = "system:serviceaccount:kube-system:skep-scheduler";
        lines
            .filter(|line| line["user"]["username"] == own)
            .filter_map(|line| {
                Some(line["requestURI"].as_str()?.trim_start_matches("/tenants/shop").to_owned())
            })
            .collect()
    };
    eventually(|| async {
        let uris = uris();
        let told = uris.iter().any(|uri| uri.starts_with("/api/v1/namespaces/default/events"));
        if told { Ok(()) } else { Err(format!("{uris:#?}")) }
    })
    .await;
    // But for the question whether it has.
    let speaks = |uri: &&String| uri.contains("/tenants/") && !uri.starts_with("/tenants/*/");
    assert_eq!(uris().iter().find(speaks), None);
}

/// A pod prefers a node that is busy: where that counts less, by the configuration file, it goes to one that is not.
#[tokio::test(flavor = "multi_thread")]
async fn what_counts_is_configured() {
    let server = Server::start();
    let kubeconfig = server.tenant("shop");
    let client = server.admin();
    let tenant = TenantName::new("shop").unwrap();
    make_node(&client, &tenant, "liked", json!({"disk": "ssd"})).await;
    make_node(&client, &tenant, "free", json!({})).await;
    let pods = PODS.at(&tenant).namespace("default");
    let pod = |name: &str, cpu: &str, more: Value| {
        let mut pod = json!({"metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}],
            "tolerations": [{"operator": "Exists"}],
        }});
        pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod
    };
    let _: Value = client.create(&pods, &pod("busy", "2", json!({"nodeName": "liked"}))).await.unwrap();
    let config = kubeconfig.with_file_name("config.toml");
    for (name, file, expected) in [
        ("by-default", "", "liked"),
        ("weighed", "[scheduler]\nscore-weight = [\"NodeAffinity=0\", \"ImageLocality=5\"]\n", "free"),
    ] {
        std::fs::write(&config, file).unwrap();
        let _scheduler = scheduler(&kubeconfig, Some(&config));
        let prefers = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}},
        ]}}});
        let _: Value = client.create(&pods, &pod(name, "100m", prefers)).await.unwrap();
        assert_eq!(placed(&client, &tenant, name).await, expected, "{name}");
    }
}
