//! What the server is told at its start, and what it does by itself: token file, audit log, certificates, keys
//! of tenants for everybody.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use skep_client::{Access, Client, Error};
use skep_e2e::wire::{Wire, request};
use skep_e2e::{Kubectl, Server, tool};

fn client(path: &std::path::Path) -> Client {
    Client::new(Access::load(path).unwrap()).unwrap()
}

#[test]
fn tokens_from_a_file() {
    let server = Server::start_with(|folder| {
        let path = folder.join("tokens.csv");
        let lines = "# token,user,uid,groups,tenant\n\
                     operator-token,root,1,\"system:masters\"\n\
                     shop-token,ann,2,\"devs,system:masters\",shop\n\
                     plain-token,bob,3,,shop\n";
        std::fs::write(&path, lines).unwrap();
        vec!["--token-auth-file".to_owned(), path.to_str().unwrap().to_owned()]
    });
    let _ = server.tenant("shop");
    let run = |token: &str, arguments: &[&str]| {
        let url = server.url();
        let mut command = Command::new(tool("kubectl"));
        command
            .args([
                "--kubeconfig=/dev/null",
                "--insecure-skip-tls-verify",
                "--server",
                &url,
                "--token",
                token,
            ])
            .args(arguments)
            .env("HOME", server.folder());
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (fine, text) = run("operator-token", &["get", "tenants", "-o", "name"]);
    assert!(fine && text.contains("shop"), "{text}");
    let (fine, text) = run("shop-token", &["auth", "whoami"]);
    assert!(fine && text.contains("ann") && text.contains("devs"), "{text}");
    assert!(run("shop-token", &["get", "ns"]).0);
    assert!(!run("shop-token", &["get", "tenants"]).0, "a tenant's master is nobody else's");
    let (fine, text) = run("plain-token", &["get", "secrets", "-n", "default"]);
    assert!(!fine && text.contains(r#"User "bob" cannot list resource "secrets""#), "{text}");
    assert!(run("no-token", &["get", "ns"]).1.contains("Unauthorized"));
}

#[test]
fn a_bad_file_stops_the_start_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.csv");
    std::fs::write(&path, "a,b,c\nsecret-token-x\n").unwrap();
    let output = Command::new(skep_e2e::skep())
        .args(["apiserver", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path().join("data"))
        .arg("--token-auth-file")
        .arg(&path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("line 2") && !text.contains("secret-token-x"), "{text}");
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what() {
    let policy = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, nonResourceURLs: ["*"]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps]}]}
- {level: Metadata}
"#;
    let mut server = Server::start_with(|folder| {
        std::fs::write(folder.join("policy.yaml"), policy).unwrap();
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        vec!["--audit-log-path".into(), path("audit.log"), "--audit-policy-file".into(), path("policy.yaml")]
    });
    let kubeconfig = server.tenant("shop");
    let k = Kubectl::new(&kubeconfig);
    k.run(&["create", "configmap", "settings", "--from-literal=colour=blue"]);
    k.run(&["create", "secret", "generic", "password", "--from-literal=key=geheim"]);
    k.fail(&["get", "pods", "--as=nobody"]);
    k.fail(&["get", "cm", "nothing"]);
    k.run(&["get", "cm", "--watch", "--request-timeout=1s", "--output-watch-events"]);
    let bad = request("GET", "/api/v1/secrets", "Authorization: Bearer wrong\r\n", b"");
    assert_eq!(Wire::connect(&kubeconfig, false).await.ask(&bad).await.code, 401);
    let path = server.folder().join("audit.log");
    server.stop();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains("geheim") && !text.contains("Z2VoZWlt"), "a secret is in the log");
    let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let find = |verb: &str, resource: &str, code: i64| {
        let found = events.iter().find(|e| {
            e["verb"] == verb && e["objectRef"]["resource"] == resource && e["responseStatus"]["code"] == code
        });
        found.unwrap_or_else(|| panic!("no {verb} {resource} {code} in {text}"))
    };
    let created = find("create", "configmaps", 201);
    assert_eq!((&created["kind"], &created["stage"]), (&"Event".into(), &"ResponseComplete".into()));
    assert_eq!(created["objectRef"]["name"], "settings");
    assert_eq!(created["requestObject"]["data"]["colour"], "blue", "{created}");
    assert_eq!(created["responseObject"]["metadata"]["name"], "settings");
    assert_eq!(created["annotations"]["tenancy.skep.io/tenant"], "shop");
    assert_eq!(created["sourceIPs"][0], "127.0.0.1");
    assert!(created["userAgent"].as_str().unwrap().contains("kubectl"));
    let secret = find("create", "secrets", 201);
    assert_eq!((&secret["level"], &secret["requestObject"]), (&"Metadata".into(), &Value::Null));
    let refused = find("list", "pods", 403);
    assert_eq!(refused["impersonatedUser"]["username"], "nobody");
    assert_ne!(refused["user"]["username"], "nobody");
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    assert_eq!(find("get", "configmaps", 404)["responseStatus"]["reason"], "NotFound");
    let stages: Vec<&Value> = events.iter().filter(|e| e["verb"] == "watch").map(|e| &e["stage"]).collect();
    assert!(
        stages.contains(&&"ResponseStarted".into()) && stages.contains(&&"ResponseComplete".into()),
        "{stages:?}"
    );
    assert_eq!(find("list", "secrets", 401)["user"], serde_json::json!({}));
    assert!(events.iter().all(|e| e["objectRef"].is_object()), "a path was recorded that is left out");
    server.restart();
}

/// A key and a request for a certificate of a user of groups, in PEM.
fn certificate_request(user: &str, groups: &[&str]) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for group in groups {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(rcgen::DnType::CommonName, user);
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn signing_request(name: &str, signer: &str, pem: &str, usages: &str) -> String {
    use base64::Engine;
    let request = base64::engine::general_purpose::STANDARD.encode(pem);
    format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: {name}}}, \
         spec: {{request: {request}, signerName: {signer}, usages: [{usages}], expirationSeconds: 3600}}}}"
    )
}

#[test]
fn certificates_are_signed_once_approved() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    let certificate = |name: &str| k.run(&["get", "csr", name, "-o", "jsonpath={.status.certificate}"]);
    let soon = |name: &str, path: &str| {
        k.run(&["wait", &format!("csr/{name}"), &format!("--for=jsonpath={path}"), "--timeout=20s"])
    };
    let client = "kubernetes.io/kube-apiserver-client";
    k.pipe(
        &["create"],
        &signing_request("ann", client, &certificate_request("ann", &["devs"]), "client auth"),
    );
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(certificate("ann"), "", "nobody has approved it");
    k.run(&["certificate", "approve", "ann"]);
    soon("ann", "{.status.certificate}");
    assert!(k.run(&["get", "csr", "ann"]).contains("Approved,Issued"));
    k.pipe(
        &["create"],
        &signing_request("eve", client, &certificate_request("eve", &["devs"]), "client auth"),
    );
    k.run(&["certificate", "deny", "eve"]);
    // A request that breaks the signer's rules fails, with the rule.
    k.pipe(
        &["create"],
        &signing_request("odd", client, &certificate_request("odd", &["devs"]), "server auth"),
    );
    k.run(&["certificate", "approve", "odd"]);
    soon("odd", "{.status.conditions[?(@.type==\"Failed\")].message}");
    assert_eq!((certificate("eve"), certificate("odd")), (String::new(), String::new()));
    // A node's certificate is approved by policy: who may have any node's, or one's own.
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    let usages = "digital signature, client auth";
    let node = certificate_request("system:node:n1", &["system:nodes"]);
    k.pipe(&["create"], &signing_request("node", kubelet, &node, usages));
    soon("node", "{.status.certificate}");
    assert!(k.run(&["get", "csr", "node", "-o", "yaml"]).contains("AutoApproved"));
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: asker}, rules: \
                [{apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests], verbs: [create, get]}]}";
    k.pipe(&["create"], role);
    k.run(&["create", "clusterrolebinding", "asker", "--clusterrole=asker", "--user=bob"]);
    k.pipe(&["create", "--as=bob"], &signing_request("bobs", kubelet, &node, usages));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(certificate("bobs"), "", "bob may ask, not have");
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn anybody_may_read_what_is_public_and_nothing_else() {
    let server = Server::start();
    let path = server.tenant("shop");
    let _ = server.tenant("bank");
    let k = Kubectl::new(&path);
    let ask =
        async |target: &str| Wire::connect(&path, false).await.ask(&request("GET", target, "", b"")).await;
    for target in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(ask(target).await.code, 200, "{target}");
    }
    for target in ["/metrics", "/api", "/apis", "/openapi/v2", "/openapi/v3", "/api/v1/namespaces"] {
        assert!(matches!(ask(target).await.code, 401 | 403), "{target}");
    }
    let discovery = "/.well-known/openid-configuration";
    let both =
        |tenant: &str| [format!("/tenants/{tenant}{discovery}"), format!("/tenants/{tenant}/openid/v1/jwks")];
    let mut answers = Vec::new();
    for target in ["shop", "bank", "nobody"].iter().flat_map(|t| both(t)) {
        let answer = ask(&target).await;
        answers.push((answer.code, answer.body));
    }
    assert!(answers.iter().all(|a| *a == answers[0]) && answers[0].0 == 401, "{answers:?}");
    // A tenant may let everybody check its tokens; that says nothing of others.
    k.run(&[
        "create",
        "clusterrolebinding",
        "public-keys",
        "--clusterrole=system:service-account-issuer-discovery",
        "--group=system:unauthenticated",
    ]);
    let [configuration, keys] = both("shop");
    let answer = ask(&configuration).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(answer.body.contains("/tenants/shop"), "{answer:?}");
    assert!(ask(&keys).await.body.contains("\"keys\""));
    assert_eq!(ask("/tenants/shop/api/v1/namespaces").await.code, 401);
    assert_eq!(ask(&both("bank")[0]).await.code, 401);
    assert_eq!(ask(&both("nobody")[0]).await.code, 401);
    let shop = client(&path);
    assert!(matches!(shop.get::<Value>("/metrics").await, Err(Error::Status { .. })));
}

#[test]
fn one_client_holds_more_watches_than_a_connection_carries() {
    // A host watches each of its tenants by itself. The server lets a connection carry 250 requests; one more would wait for ever.
    const WATCHES: usize = 600;
    let server = Server::start();
    let admin = client(&server.kubeconfig());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let informers: Vec<skep_client::Informer<Value>> = (0..WATCHES)
            .map(|_| {
                let what = skep_client::Selection::all(
                    skep_client::Resource::new("", "v1", "configmaps"),
                    skep_client::Tenants::Own,
                );
                skep_client::Informer::builder(&admin, what).build()
            })
            .collect();
        let mut tasks = tokio::task::JoinSet::new();
        for informer in &informers {
            let informer = informer.clone();
            tasks.spawn(async move { informer.run().await });
        }
        let all = async {
            for informer in &informers {
                informer.synced().await;
            }
            let at = skep_client::Resource::new("", "v1", "configmaps")
                .at(skep_client::Tenants::Own)
                .namespace("default");
            let object =
                serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seen"}});
            admin.create::<Value>(&at, &object).await.unwrap();
            let key = skep_client::ObjectKey::new(&skep_base::TenantName::system(), "default", "seen");
            for informer in &informers {
                while informer.get(&key).is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("every watch hears of the object");
        // Ordinary requests have room all the while.
        let _: Value = admin.get("/version").await.unwrap();
    });
}
