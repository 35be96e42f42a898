//! The rest of kubectl's verbs, and the kinds that other tools bring.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use skep_e2e::{Kubectl, Server, tool};

const SETTINGS: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {colour: blue}}";

fn file(server: &Server, name: &str, text: &str) -> String {
    let path = server.folder().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn verbs_that_look_and_wait() {
    let server = Server::start();
    let kubeconfig = server.tenant("shop");
    let k = Kubectl::new(&kubeconfig);
    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new(tool("kubectl"));
        command.args(arguments).env("KUBECONFIG", &kubeconfig).env("HOME", server.folder());
        command
    };
    k.pipe(&["create"], SETTINGS);
    // diff: 1 and the lines when something would change, 0 when not.
    let same = file(&server, "same.yaml", SETTINGS);
    let other = file(&server, "other.yaml", &SETTINGS.replace("blue", "red"));
    k.run(&["apply", "-f", &same]);
    assert!(kubectl(&["diff", "-f", &same]).output().unwrap().status.success());
    let diff = kubectl(&["diff", "-f", &other]).output().unwrap();
    let text = String::from_utf8_lossy(&diff.stdout);
    assert_eq!(diff.status.code(), Some(1), "{text}");
    assert!(text.contains("-  colour: blue") && text.contains("+  colour: red"), "{text}");
    // replace, edit.
    k.run(&["replace", "-f", &other]);
    assert_eq!(k.run(&["get", "cm", "settings", "-o", "jsonpath={.data.colour}"]), "red");
    let edited = kubectl(&["edit", "cm", "settings"]).env("EDITOR", "sed -i s/red/green/").output().unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(k.run(&["get", "cm", "settings", "-o", "jsonpath={.data.colour}"]), "green");
    k.run(&["replace", "--force", "-f", &same]);
    // wait: for a field, for a deletion, and in vain.
    let for_field = "--for=jsonpath={.data.colour}=blue";
    k.run(&["wait", "cm/settings", for_field, "--timeout=10s"]);
    let mut waiting = kubectl(&["wait", "cm/settings", "--for=delete", "--timeout=30s"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    k.run(&["delete", "cm", "settings"]);
    assert!(waiting.wait().unwrap().success());
    k.run(&["run", "one", "--image=example/one:1"]);
    let vain = k.fail(&["wait", "pod/one", "--for=condition=Ready", "--timeout=1s"]);
    assert!(vain.contains("timed out waiting for the condition"), "{vain}");
    // events, in both their groups.
    k.pipe(
        &["create"],
        "{apiVersion: v1, kind: Event, metadata: {name: e, namespace: default}, type: Normal, reason: Tested, \
         message: it works, involvedObject: {apiVersion: v1, kind: Pod, name: one, namespace: default}, \
         lastTimestamp: \"2026-01-01T00:00:00Z\"}",
    );
    assert!(k.run(&["events"]).contains("it works"));
    assert!(k.run(&["events", "--for", "pod/one"]).contains("Tested"));
    assert!(k.run(&["get", "events.events.k8s.io"]).contains("Tested"));
    assert!(k.run(&["describe", "pod", "one"]).contains("example/one:1"));
    // explain, for every group.
    for path in
        ["pod.spec.containers.image", "crd.spec.names", "ingress.spec.rules", "ipaddress.spec.parentRef"]
    {
        assert!(k.run(&["explain", path]).contains("FIELD:"), "{path}");
    }
    assert!(k.run(&["explain", "deploy", "--recursive"]).contains("progressDeadlineSeconds"));
    // auth.
    assert!(k.run(&["auth", "whoami"]).contains("system:authenticated"));
    assert!(k.run(&["auth", "can-i", "--list"]).contains("*.*"));
    assert_eq!(k.run(&["auth", "can-i", "*", "*"]).trim(), "yes");
    let nobody = "--as=nobody";
    assert!(k.fail(&["auth", "can-i", "get", "pods", nobody]).is_empty());
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: default}, \
                rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get]}]}";
    assert!(k.pipe(&["auth", "reconcile"], role).contains("reconciled"));
    // top asks an API that is there, but no node that runs tells of anything.
    assert_eq!(k.fail(&["top", "pod"]), "error: metrics not available yet\n");
    // cluster-info, and what is there.
    assert!(k.run(&["cluster-info"]).contains("control plane"));
    assert!(
        k.run(&["api-resources", "--categories=api-extensions", "-o", "name"])
            .contains("customresourcedefinitions")
    );
    assert!(k.run(&["get", "--raw", "/readyz"]).contains("ok"));
    assert!(k.run(&["options"]).contains("--kubeconfig"));
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn verbs_for_nodes_and_workloads() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    k.pipe(&["create"], "{apiVersion: v1, kind: Node, metadata: {name: n1}}");
    k.run(&["cordon", "n1"]);
    assert!(k.run(&["get", "node", "n1"]).contains("SchedulingDisabled"));
    k.run(&["uncordon", "n1"]);
    k.run(&["taint", "node", "n1", "a=b:NoSchedule"]);
    assert!(k.run(&["get", "node", "n1", "-o", "jsonpath={.spec.taints}"]).contains("NoSchedule"));
    k.run(&["drain", "n1", "--force", "--timeout=20s"]);
    k.run(&["create", "deployment", "web", "--image=example/web:1"]);
    k.run(&["rollout", "pause", "deploy/web"]);
    assert_eq!(k.run(&["get", "deploy", "web", "-o", "jsonpath={.spec.paused}"]), "true");
    k.run(&["rollout", "resume", "deploy/web"]);
    k.run(&["rollout", "restart", "deploy/web"]);
    k.run(&["set", "env", "deploy/web", "A=b"]);
    k.run(&["set", "resources", "deploy/web", "--limits=cpu=1"]);
    k.run(&["set", "serviceaccount", "deploy/web", "default"]);
    let spec = k.run(&["get", "deploy", "web", "-o", "yaml"]);
    assert!(
        spec.contains("name: A") && spec.contains("cpu: \"1\"") && spec.contains("restartedAt"),
        "{spec}"
    );
    let refused = k.fail(&["delete", "priorityclass", "system-node-critical"]);
    assert!(refused.contains("this is a system priority class and cannot be deleted"), "{refused}");
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn kinds_that_kubectl_validates_itself() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    // Only the second version of OpenAPI speaks of kinds that can only be created.
    let review = "{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectAccessReview, \
                  spec: {resourceAttributes: {namespace: default, verb: list, resource: configmaps}}}";
    assert_eq!(k.pipe(&["create", "-o", "jsonpath={.status.allowed}"], review), "true");
    let wrong = file(&server, "wrong.yaml", &review.replace("verb: list", "verp: list"));
    let refused = k.fail(&["create", "-f", &wrong]);
    assert!(refused.contains("verp"), "{refused}");
    let other = "{apiVersion: authorization.k8s.io/v1, kind: SubjectAccessReview, \
                 spec: {user: nobody, nonResourceAttributes: {path: /metrics, verb: get}}}";
    assert_eq!(k.pipe(&["create", "-o", "jsonpath={.status.allowed}"], other), "false");
    assert!(k.run(&["get", "--raw", "/openapi/v2"]).contains("\"swagger\":\"2.0\""));
    assert_eq!(server.complaints(), Vec::<String>::new());
}

const EXTENSIONS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: door}
spec:
  ingressClassName: nginx
  tls: [{hosts: [shop.example.com], secretName: tls}]
  rules:
  - host: shop.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: more}
spec: {cidrs: ["10.200.0.0/16"]}
---
apiVersion: networking.k8s.io/v1
kind: IPAddress
metadata: {name: 10.200.0.7}
spec: {parentRef: {resource: services, namespace: default, name: web}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: check}
webhooks:
- name: check.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  clientConfig: {service: {name: hook, namespace: default}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: small}
spec:
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}
  validations: [{expression: "object.spec.replicas <= 5"}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: crontabs, kind: CronTab, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {cronSpec: {type: string}}}}}}
"#;

#[test]
fn kinds_that_extend_the_api() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    k.pipe(&["apply"], EXTENSIONS);
    assert!(
        k.pipe(&["apply"], EXTENSIONS)
            .contains("customresourcedefinition.apiextensions.k8s.io/crontabs.example.com unchanged")
    );
    let table = |what: &str| k.run(&["get", what]);
    assert!(table("ing").contains("80, 443"), "{}", table("ing"));
    assert!(table("ip").contains("services/default/web"), "{}", table("ip"));
    assert!(table("servicecidr").contains("10.200.0.0/16"));
    assert!(table("validatingwebhookconfigurations").contains("check"));
    assert!(table("validatingadmissionpolicies").contains("small"));
    assert!(table("crds").contains("crontabs.example.com"));
    assert!(k.run(&["describe", "ing", "door"]).contains("shop.example.com"));
    // Custom resources are not served yet, and nobody is told otherwise.
    let vain = k.fail(&["wait", "crd/crontabs.example.com", "--for=condition=Established", "--timeout=1s"]);
    assert!(vain.contains("timed out"), "{vain}");
    assert!(k.run(&["describe", "crd", "crontabs.example.com"]).contains("NotServed"));
    let wrong = EXTENSIONS.replace("cronSpec: {type: string}", "cronSpec: {}");
    let path = file(&server, "wrong.yaml", &wrong);
    let refused = k.fail(&["apply", "-f", &path]);
    assert!(
        refused.contains(
            "properties[cronSpec].type: Required value: must not be empty for specified object fields"
        ),
        "{refused}"
    );
    assert_eq!(server.complaints(), Vec::<String>::new());
}

#[test]
fn a_null_label_is_an_empty_one() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    k.pipe(
        &["create", "--validate=false"],
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd, labels: {a: , b: c}}\ndata: {k: }\n",
    );
    assert_eq!(
        k.run(&["get", "cm", "odd", "-o", "jsonpath={.metadata.labels} {.data}"]),
        r#"{"a":"","b":"c"} {"k":""}"#
    );
}
