//! The `kubectl create` family and its kin: kubectl builds these objects itself and sends them as protobuf.
#![allow(clippy::unwrap_used)]

use skep_e2e::{Kubectl, Server};

#[test]
fn what_kubectl_builds_itself() {
    let server = Server::start();
    let k = Kubectl::new(&server.tenant("shop"));
    k.run(&["create", "configmap", "settings", "--from-literal=colour=blue"]);
    assert_eq!(k.run(&["get", "cm", "settings", "-o", "jsonpath={.data.colour}"]), "blue");
    k.run(&["create", "secret", "generic", "password", "--from-literal=key=geheim"]);
    assert_eq!(k.run(&["get", "secret", "password", "-o", "jsonpath={.data.key}"]), "Z2VoZWlt");
    k.run(&["create", "namespace", "prod"]);
    k.run(&["create", "deployment", "web", "--image=example/web:1", "--replicas=3", "--port=80"]);
    let port = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].ports[0].containerPort}";
    assert_eq!(k.run(&["get", "deploy", "web", "-o", port]), "3 80");
    k.run(&["expose", "deploy", "web", "--port=8080", "--target-port=80"]);
    assert_eq!(k.run(&["get", "svc", "web", "-o", "jsonpath={.spec.ports[0].targetPort}"]), "80");
    k.run(&["autoscale", "deploy", "web", "--min=2", "--max=5", "--cpu=50%"]);
    k.run(&["create", "service", "nodeport", "door", "--tcp=80:8080"]);
    k.run(&["create", "service", "externalname", "away", "--external-name=example.com"]);
    k.run(&["run", "one", "--image=example/one:1", "--labels=a=b"]);
    assert_eq!(
        k.run(&["get", "pod", "one", "-o", "jsonpath={.metadata.labels.a} {.status.phase}"]),
        "b Pending"
    );
    k.run(&["create", "job", "once", "--image=example/once:1", "--", "true"]);
    k.run(&["create", "cronjob", "daily", "--image=example/daily:1", "--schedule=0 3 * * *"]);
    k.run(&["create", "serviceaccount", "robot"]);
    let token = k.run(&["create", "token", "robot", "--duration=10m"]);
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    k.run(&["create", "role", "reader", "--verb=get,list", "--resource=configmaps"]);
    k.run(&["create", "rolebinding", "robot", "--role=reader", "--serviceaccount=default:robot"]);
    k.run(&["create", "clusterrole", "looker", "--verb=get", "--resource=nodes"]);
    k.run(&["create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=jane"]);
    k.run(&["create", "priorityclass", "high", "--value=1000"]);
    k.run(&["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=1"]);
    k.run(&["create", "quota", "small", "--hard=pods=1", "-n", "prod"]);
    assert_eq!(k.run(&["auth", "can-i", "create", "deployments"]).trim(), "yes");
    let robot = "--as=system:serviceaccount:default:robot";
    assert_eq!(k.run(&["auth", "can-i", "list", "configmaps", robot]).trim(), "yes");
    assert!(k.fail(&["auth", "can-i", "list", "secrets", robot]).is_empty());
    // The token is the account's: it may what the account may, in this tenant only.
    let with = |what: &str| -> Vec<String> {
        [
            "get",
            what,
            "--kubeconfig=/dev/null",
            "--insecure-skip-tls-verify",
            "-n",
            "default",
            "--server",
            &server.url(),
            "--token",
            token.trim(),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let arguments = with("cm");
    let found = k.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(found.contains("settings"), "{found}");
    let arguments = with("secret");
    let refused = k.fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.contains("cannot list resource \"secrets\""), "{refused}");
    assert_eq!(server.complaints(), Vec::<String>::new());
}
