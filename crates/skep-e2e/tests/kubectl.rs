//! Two tenants and plain kubectl: what a tenant's administrator does all day.
#![allow(clippy::unwrap_used)]

use skep_e2e::{Kubectl, Server};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: "example/web:1", ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {key: geheim}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default}]
"#;

#[test]
fn two_tenants_with_the_same_names_know_nothing_of_each_other() {
    let server = Server::start();
    let (shop, bank) = (Kubectl::new(&server.tenant("shop")), Kubectl::new(&server.tenant("bank")));
    for tenant in [&shop, &bank] {
        tenant.pipe(&["apply"], "{apiVersion: v1, kind: Namespace, metadata: {name: prod}}");
        tenant.pipe(&["apply", "-n", "prod"], WEB);
        let names = tenant.run(&["get", "ns", "-o", "name"]);
        assert_eq!(names.lines().count(), 5, "{names}");
    }
    shop.run(&["-n", "prod", "patch", "cm", "settings", "-p", r#"{"data":{"colour":"red"}}"#]);
    let colour =
        |k: &Kubectl| k.run(&["-n", "prod", "get", "cm", "settings", "-o", "jsonpath={.data.colour}"]);
    assert_eq!((colour(&shop).as_str(), colour(&bank).as_str()), ("red", "blue"));
    // The other's view looks like that of a tenant that does not exist.
    let denied =
        |name: &str| shop.fail(&["--server", &format!("{}/tenants/{name}", server.url()), "get", "cm"]);
    // The lines before the last are kubectl's own log, with times in them.
    let last = |text: String| text.lines().last().unwrap_or("").to_owned();
    let (foreign, missing) = (last(denied("bank")), last(denied("nobody")));
    assert_eq!(foreign, missing);
    assert!(foreign.contains("could not find the requested resource"), "{foreign}");
    // Deleting one leaves the other as it is.
    server.skep(&["tenant", "delete", "shop"]);
    assert!(shop.fail(&["get", "ns"]).contains("Unauthorized"));
    assert_eq!(colour(&bank), "blue");
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn the_verbs_of_kubectl() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    k.pipe(&["apply"], WEB);
    assert!(k.pipe(&["apply"], WEB).contains("deployment.apps/web unchanged"));
    let changed = k.pipe(&["apply"], &WEB.replace("replicas: 2", "replicas: 3"));
    assert!(changed.contains("deployment.apps/web configured"), "{changed}");
    assert!(k.run(&["get", "deploy"]).contains("0/3"));
    assert!(k.run(&["get", "deploy", "-o", "wide"]).contains("example/web:1"));
    k.run(&["scale", "deploy", "web", "--replicas=5"]);
    assert_eq!(k.run(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]), "5");
    k.run(&["set", "image", "deploy/web", "c=example/web:2"]);
    k.run(&["label", "deploy", "web", "tier=front"]);
    assert!(k.run(&["get", "deploy", "-l", "tier=front", "-o", "name"]).contains("web"));
    assert_eq!(k.run(&["get", "deploy", "-l", "tier!=front", "-o", "name"]), "");
    k.run(&["annotate", "deploy", "web", "note=x"]);
    assert!(k.run(&["describe", "deploy", "web"]).contains("example/web:2"));
    assert!(k.run(&["explain", "deployment.spec.replicas"]).contains("FIELD: replicas"));
    let resources = k.run(&["api-resources"]);
    for kind in ["Deployment", "ConfigMap", "Role", "Job", "Lease", "PriorityClass"] {
        assert!(resources.contains(kind), "{kind} is missing: {resources}");
    }
    assert!(!resources.contains(" Tenant\n"), "tenants are the operator's business");
    assert!(k.run(&["api-versions"]).contains("apps/v1"));
    assert!(k.run(&["version"]).contains("Server Version: v1.36"));
    let account = "--as=system:serviceaccount:default:default";
    let review = "{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectAccessReview, \
                  spec: {resourceAttributes: {namespace: default, verb: list, resource: configmaps}}}";
    assert_eq!(
        k.pipe(&["create", "--validate=false", account, "-o", "jsonpath={.status.allowed}"], review),
        "true"
    );
    let secrets = review.replace("configmaps", "secrets");
    assert_eq!(
        k.pipe(&["create", "--validate=false", account, "-o", "jsonpath={.status.allowed}"], &secrets),
        "false"
    );
    assert!(k.fail(&["get", "secrets", account]).contains("cannot list resource \"secrets\""));
    k.run(&[
        "patch",
        "cm",
        "settings",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/data/colour","value":"green"}]"#,
    ]);
    k.run(&["patch", "cm", "settings", "--type=merge", "-p", r#"{"data":{"size":"big"}}"#]);
    assert_eq!(
        k.run(&["get", "cm", "settings", "-o", "jsonpath={.data}"]),
        r#"{"colour":"green","size":"big"}"#
    );
    let wrong = k.fail(&["patch", "deploy", "web", "-p", r#"{"spec":{"replicas":-1}}"#]);
    assert!(
        wrong.contains("spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        "{wrong}"
    );
    k.run(&["delete", "deploy", "web"]);
    assert!(k.fail(&["get", "deploy", "web"]).contains(r#"deployments.apps "web" not found"#));
    k.run(&["delete", "cm", "--all"]);
    assert!(!k.run(&["get", "cm"]).contains("settings"));
    let unknown = r#"{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dta: {a: b}}"#;
    std::fs::write(server.folder().join("x.yaml"), unknown).unwrap();
    let path = server.folder().join("x.yaml");
    let refused = k.fail(&["apply", "-f", path.to_str().unwrap()]);
    assert!(refused.contains(r#"unknown field "dta""#), "{refused}");
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn a_deleted_namespace_takes_everything_with_it() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    k.pipe(&["apply"], "{apiVersion: v1, kind: Namespace, metadata: {name: prod}}");
    k.pipe(&["apply", "-n", "prod"], WEB);
    k.pipe(&["apply"], WEB);
    k.run(&["delete", "ns", "prod", "--timeout=60s"]);
    assert!(k.fail(&["get", "ns", "prod"]).contains(r#"namespaces "prod" not found"#));
    assert!(!k.run(&["get", "deploy,cm,secret,role", "-A"]).contains("prod"));
    assert!(k.run(&["get", "deploy"]).contains("web"), "the default namespace is untouched");
    assert!(k.fail(&["delete", "ns", "default"]).contains("this namespace may not be deleted"));
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn everything_is_there_after_a_restart() {
    let mut server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    k.pipe(&["apply"], WEB);
    let before = k.run(&["get", "deploy,cm,secret,role,rolebinding,clusterrole", "-o", "yaml"]);
    server.stop();
    server.restart();
    assert_eq!(k.run(&["get", "deploy,cm,secret,role,rolebinding,clusterrole", "-o", "yaml"]), before);
    server.kill();
    server.restart();
    assert_eq!(k.run(&["get", "deploy,cm,secret,role,rolebinding,clusterrole", "-o", "yaml"]), before);
}
