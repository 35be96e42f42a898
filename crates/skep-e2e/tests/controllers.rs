//! The system controllers, seen from outside: what they make of objects that clients write. Pods have no kubelet here: the
//! tests say what a kubelet would say.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skep_base::TenantName;
use skep_client::{Client, DeleteParams, ObjectPath, Patch, Resource};
use skep_e2e::{Kubectl, Server, eventually};

const PODS: Resource = Resource::new("", "v1", "pods");
const NODES: Resource = Resource::new("", "v1", "nodes");
const SERVICES: Resource = Resource::new("", "v1", "services");
const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
const ENDPOINTS: Resource = Resource::new("", "v1", "endpoints");
const BUDGETS: Resource = Resource::new("policy", "v1", "poddisruptionbudgets");
const JOBS: Resource = Resource::new("batch", "v1", "jobs");
const ROLES: Resource = Resource::new("rbac.authorization.k8s.io", "v1", "clusterroles");
const CLAIMS: Resource = Resource::new("", "v1", "persistentvolumeclaims");
const VOLUMES: Resource = Resource::new("", "v1", "persistentvolumes");

/// One tenant's cluster.
struct World {
    client: Client,
    tenant: TenantName,
}

impl World {
    fn at(&self, resource: &Resource) -> ObjectPath {
        resource.at(&self.tenant).namespace("default")
    }

    async fn create(&self, resource: &Resource, object: Value) -> Value {
        self.client.create(&self.at(resource), &object).await.unwrap()
    }

    async fn create_global(&self, resource: &Resource, object: Value) -> Value {
        self.client.create(&resource.at(&self.tenant), &object).await.unwrap()
    }

    async fn get(&self, at: &ObjectPath) -> Option<Value> {
        match self.client.read(at).await {
            Ok(object) => Some(object),
            Err(e) if e.is_not_found() => None,
            Err(e) => panic!("{e}"),
        }
    }

    async fn node(&self, name: &str) {
        self.create_global(
            &NODES,
            json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "z1"}}}),
        )
        .await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        let at = NODES.at(&self.tenant).name(name).subresource("status");
        let _: Value = self.client.patch(&at, &Patch::Strategic(ready)).await.unwrap();
    }

    /// A pod that runs on a node, ready or not.
    async fn pod(&self, name: &str, node: &str, ip: &str, ready: bool, more: Value) {
        let mut pod = json!({
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x", "ports": [{"name": "http", "containerPort": 8080}]}]},
        });
        if let Some(fields) = more.as_object() {
            fields.iter().for_each(|(k, v)| pod["spec"][k] = v.clone());
        }
        self.create(&PODS, pod).await;
        self.pod_status(name, ip, ready).await;
    }

    async fn pod_status(&self, name: &str, ip: &str, ready: bool) {
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        }});
        let at = self.at(&PODS).name(name).subresource("status");
        let _: Value = self.client.patch(&at, &Patch::Strategic(status)).await.unwrap();
    }

    /// Waits until an object looks as it should.
    async fn becomes(&self, at: ObjectPath, what: &str, right: impl Fn(&Value) -> bool) {
        eventually(|| async {
            match self.get(&at).await {
                Some(object) if right(&object) => Ok(()),
                other => Err(format!("{what}: {}", other.unwrap_or_default())),
            }
        })
        .await;
    }

    async fn goes(&self, at: ObjectPath) {
        eventually(|| async { self.get(&at).await.map_or(Ok(()), |o| Err(format!("it is there: {o}"))) })
            .await;
    }

    /// The endpoints of a service by its slices: address, ready, port.
    async fn slices(&self, service: &str) -> Vec<(String, bool, i64)> {
        let params = skep_client::ListParams {
            labels: format!("kubernetes.io/service-name={service}"),
            ..Default::default()
        };
        let list = self.client.list::<Value>(&self.at(&SLICES), &params).await.unwrap();
        let mut all: Vec<_> = list
            .items
            .iter()
            .flat_map(|s| {
                let port = s["ports"][0]["port"].as_i64().unwrap_or(0);
                s["endpoints"].as_array().cloned().unwrap_or_default().into_iter().map(move |e| {
                    let ready = e["conditions"]["ready"] == true;
                    (e["addresses"][0].as_str().unwrap().to_owned(), ready, port)
                })
            })
            .collect();
        all.sort();
        all
    }

    async fn slices_become(&self, service: &str, wanted: &[(&str, bool, i64)]) {
        let wanted: Vec<_> = wanted.iter().map(|(a, r, p)| ((*a).to_owned(), *r, *p)).collect();
        eventually(|| async {
            let now = self.slices(service).await;
            if now == wanted { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }
}

async fn world(server: &Server, tenant: &str) -> (World, Kubectl) {
    let kubectl = Kubectl::new(&server.tenant(tenant));
    (World { client: server.admin(), tenant: TenantName::new(tenant).unwrap() }, kubectl)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_have_endpoints() {
    let mut server = Server::control_plane();
    let (w, kubectl) = world(&server, "shop").await;
    w.node("n1").await;
    w.create(&SERVICES, json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}})).await;
    w.pod("p1", "n1", "10.1.0.1", true, json!({})).await;
    w.pod("p2", "n1", "10.1.0.2", false, json!({})).await;
    w.slices_become("web", &[("10.1.0.1", true, 8080), ("10.1.0.2", false, 8080)]).await;
    w.pod_status("p2", "10.1.0.2", true).await;
    w.slices_become("web", &[("10.1.0.1", true, 8080), ("10.1.0.2", true, 8080)]).await;
    w.becomes(w.at(&ENDPOINTS).name("web"), "both addresses", |e| {
        e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 2)
            && e["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"] == "endpoint-controller"
    })
    .await;
    let zone = kubectl.run(&[
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
        "-o",
        "jsonpath={.items[0].endpoints[0].zone}",
    ]);
    assert_eq!(zone, "z1");
    kubectl.run(&["delete", "pod", "p1", "--force", "--grace-period=0"]);
    w.slices_become("web", &[("10.1.0.2", true, 8080)]).await;

    // While the controllers are away a pod goes and another comes: they find out.
    server.kill();
    server.restart();
    kubectl.run(&["delete", "pod", "p2", "--force", "--grace-period=0"]);
    w.pod("p3", "n1", "10.1.0.3", true, json!({})).await;
    w.slices_become("web", &[("10.1.0.3", true, 8080)]).await;

    // Endpoints made by hand are mirrored.
    w.create(&SERVICES, json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 443}]}})).await;
    w.create(&ENDPOINTS, json!({"metadata": {"name": "outside"}, "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 8443}]}]})).await;
    w.slices_become("outside", &[("192.0.2.7", true, 8443)]).await;

    // A service's end is the end of its endpoints.
    for service in ["web", "outside"] {
        kubectl.run(&["delete", "service", service]);
        w.slices_become(service, &[]).await;
        w.goes(w.at(&ENDPOINTS).name(service)).await;
    }
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_bad_nodes() {
    let server = Server::control_plane();
    let (w, kubectl) = world(&server, "shop").await;
    for node in ["n1", "n2", "n3"] {
        w.node(node).await;
    }
    // A kubelet's sign of life; `apply` patches it without naming a version.
    let lease = |at: &str| {
        format!(
            "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: n1, namespace: kube-node-lease}}\nspec: {{renewTime: {at}}}\n"
        )
    };
    for at in ["2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:10.000000Z"] {
        kubectl.pipe(&["apply"], &lease(at));
    }
    kubectl.run(&["cordon", "n2"]);
    w.becomes(NODES.at(&w.tenant).name("n2"), "a taint", |n| {
        n["spec"]["taints"][0]["key"] == "node.kubernetes.io/unschedulable"
    })
    .await;
    let patient = json!({"tolerations": [{"key": "broken", "operator": "Exists"}]});
    w.pod("leaves", "n1", "10.1.0.1", true, json!({})).await;
    w.pod("stays", "n1", "10.1.0.2", true, patient).await;
    kubectl.run(&["taint", "nodes", "n1", "broken=yes:NoExecute"]);
    w.becomes(w.at(&PODS).name("leaves"), "being deleted, and why", |p| {
        p["metadata"]["deletionTimestamp"].is_string()
            && p["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "DisruptionTarget")
    })
    .await;
    assert!(w.get(&w.at(&PODS).name("stays")).await.unwrap()["metadata"]["deletionTimestamp"].is_null());

    // A node that says that it is not ready is tainted, and its pods are not ready.
    w.pod("on-n3", "n3", "10.1.0.3", true, json!({})).await;
    let sick = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady"}]}});
    let _: Value = w
        .client
        .patch(&NODES.at(&w.tenant).name("n3").subresource("status"), &Patch::Strategic(sick))
        .await
        .unwrap();
    w.becomes(NODES.at(&w.tenant).name("n3"), "taints", |n| {
        let taints = n["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let with = |effect: &str| {
            taints.iter().any(|t| t["key"] == "node.kubernetes.io/not-ready" && t["effect"] == effect)
        };
        with("NoExecute") && with("NoSchedule")
    })
    .await;
    w.becomes(w.at(&PODS).name("on-n3"), "not ready", |p| {
        p["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "False")
    })
    .await;

    // A pod that was deleted before it was placed goes at once.
    w.create(
        &PODS,
        json!({"metadata": {"name": "nowhere"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}),
    )
    .await;
    w.client.remove(&w.at(&PODS).name("nowhere"), &DeleteParams::default().grace_s(600)).await.unwrap();
    w.goes(w.at(&PODS).name("nowhere")).await;
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_jobs_and_roles() {
    let server = Server::control_plane();
    let (w, kubectl) = world(&server, "shop").await;
    w.node("n1").await;
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    w.create(&BUDGETS, budget).await;
    w.pod("p1", "n1", "10.1.0.1", true, json!({})).await;
    w.pod("p2", "n1", "10.1.0.2", true, json!({})).await;
    let allowed =
        |n: i64| move |b: &Value| b["status"]["disruptionsAllowed"] == n && b["status"]["expectedPods"] == 2;
    w.becomes(w.at(&BUDGETS).name("web"), "one may go", allowed(1)).await;
    w.pod_status("p1", "10.1.0.1", false).await;
    w.becomes(w.at(&BUDGETS).name("web"), "none may go", allowed(0)).await;
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p2"}});
    let refused =
        w.client.create::<Value>(&w.at(&PODS).name("p2").subresource("eviction"), &evict).await.unwrap_err();
    assert!(matches!(refused.kind(), skep_client::ErrorKind::TooManyRequests { .. }), "{refused}");

    let job = json!({"metadata": {"name": "done"}, "spec": {"ttlSecondsAfterFinished": 0, "suspend": true,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}});
    w.create(&JOBS, job).await;
    let ended = json!({"status": {"conditions": [
        {"type": "FailureTarget", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Failed", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "startTime": "2026-01-01T00:00:00Z"}});
    let _: Value =
        w.client.patch(&w.at(&JOBS).name("done").subresource("status"), &Patch::Merge(ended)).await.unwrap();
    w.goes(w.at(&JOBS).name("done")).await;

    let part = |name: &str, verb: &str| json!({"metadata": {"name": name, "labels": {"part-of": "sum"}}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]});
    w.create_global(&ROLES, json!({"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part-of": "sum"}}]}, "rules": []})).await;
    w.create_global(&ROLES, part("a", "get")).await;
    w.create_global(&ROLES, part("b", "list")).await;
    let rules = |n: usize| move |r: &Value| r["rules"].as_array().map_or(0, Vec::len) == n;
    w.becomes(ROLES.at(&w.tenant).name("sum"), "both rules", rules(2)).await;
    kubectl.run(&["delete", "clusterrole", "a"]);
    w.becomes(ROLES.at(&w.tenant).name("sum"), "one rule", rules(1)).await;
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_get_volumes_and_keep_them_while_used() {
    let server = Server::control_plane();
    let (w, kubectl) = world(&server, "shop").await;
    w.node("n1").await;
    let volume = |name: &str, size: &str| json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "storageClassName": ""}});
    w.create_global(&VOLUMES, volume("large", "9Gi")).await;
    w.create_global(&VOLUMES, volume("right", "5Gi")).await;
    // A claim takes the smallest that is known: both must be.
    for name in ["large", "right"] {
        w.becomes(VOLUMES.at(&w.tenant).name(name), "known", |v| v["status"]["phase"] == "Available").await;
    }
    w.create(&CLAIMS, json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4Gi"}}}})).await;
    w.becomes(w.at(&CLAIMS).name("data"), "bound", |c| {
        c["status"]["phase"] == "Bound"
            && c["spec"]["volumeName"] == "right"
            && c["status"]["capacity"]["storage"] == "5Gi"
    })
    .await;
    w.becomes(VOLUMES.at(&w.tenant).name("right"), "bound", |v| v["status"]["phase"] == "Bound").await;
    w.becomes(VOLUMES.at(&w.tenant).name("large"), "free", |v| v["status"]["phase"] == "Available").await;
    let uses = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    w.pod("user", "n1", "10.1.0.1", true, uses).await;
    kubectl.run(&["delete", "pvc", "data", "--wait=false"]);
    w.becomes(w.at(&CLAIMS).name("data"), "on its way out", |c| {
        c["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(w.get(&w.at(&CLAIMS).name("data")).await.is_some(), "a pod uses it");
    kubectl.run(&["delete", "pod", "user", "--force", "--grace-period=0"]);
    w.goes(w.at(&CLAIMS).name("data")).await;
    w.becomes(VOLUMES.at(&w.tenant).name("right"), "released", |v| v["status"]["phase"] == "Released").await;
    kubectl.run(&["delete", "pv", "right", "--timeout=60s"]);
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approved_requests_are_signed() {
    let server = Server::control_plane();
    let (w, kubectl) = world(&server, "shop").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let request = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        json!({"metadata": {"name": name}, "spec": {
            "request": k8s_openapi::ByteString(pem.into_bytes()),
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}})
    };
    let requests = Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests");
    w.create_global(&requests, request("jane")).await;
    w.create_global(&requests, request("bad")).await;
    kubectl.run(&["certificate", "approve", "jane"]);
    kubectl.run(&["certificate", "deny", "bad"]);
    w.becomes(requests.at(&w.tenant).name("jane"), "signed", |r| r["status"]["certificate"].is_string())
        .await;
    let signed = w.get(&requests.at(&w.tenant).name("jane")).await.unwrap();
    let pem: k8s_openapi::ByteString =
        serde_json::from_value(signed["status"]["certificate"].clone()).unwrap();
    let (certificate, private) = (server.folder().join("jane.crt"), server.folder().join("jane.key"));
    std::fs::write(&certificate, &pem.0).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let (certificate, private) = (certificate.display().to_string(), private.display().to_string());
    kubectl.run(&[
        "config",
        "set-credentials",
        "jane",
        &format!("--client-certificate={certificate}"),
        &format!("--client-key={private}"),
    ]);
    let who =
        kubectl.run(&["--user", "jane", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    assert_eq!(who, "jane");
    let denied = w.get(&requests.at(&w.tenant).name("bad")).await.unwrap();
    assert!(denied["status"]["certificate"].is_null());
    assert_eq!(server.complaints(), Vec::<String>::new());
}
