use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::testing::{Request, World};

fn pod(spec: Value) -> String {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    json!({"metadata": {"name": "p", "namespace": "ns", "uid": "6f1c"}, "spec": spec}).to_string()
}

fn world(account: Value) -> World {
    let mut world = World::new();
    let mut account = account;
    account["metadata"]["name"] = json!("default");
    account["metadata"]["namespace"] = json!("ns");
    world.put("", "serviceaccounts", &account.to_string());
    world
}

fn admit(account: Value, spec: Value) -> Result<Value, String> {
    let pod: Pod = Request::create(world(account)).admit(&pod(spec), None).map_err(|r| r.message)?;
    Ok(serde_json::to_value(pod).unwrap()["spec"].take())
}

#[test]
fn pods_get_the_default_account_and_its_token() {
    let spec = admit(json!({}), json!({"initContainers": [{"name": "i"}]})).unwrap();
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["serviceAccount"], "default");
    let volume = &spec["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    let suffix = name.strip_prefix("kube-api-access-").unwrap();
    assert!(
        suffix.len() == 5 && suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)),
        "{suffix}"
    );
    assert_eq!(
        volume["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]})
    );
    let mount = json!([{
        "name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
}

#[test]
fn a_mount_in_its_place_stays_and_an_own_volume_is_used() {
    let own = json!([{"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
    let spec = admit(json!({}), json!({"containers": [{"name": "c", "volumeMounts": own}]})).unwrap();
    assert_eq!(spec["containers"][0]["volumeMounts"], own);
    assert!(spec["volumes"].is_null());
    let spec = admit(json!({}), json!({"volumes": [{"name": "kube-api-access-mine"}]})).unwrap();
    assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-mine");
}

#[test]
fn the_pod_decides_about_its_token_then_the_account() {
    for (account, own, mounted) in [
        (json!({"automountServiceAccountToken": false}), json!({}), false),
        (json!({"automountServiceAccountToken": false}), json!({"automountServiceAccountToken": true}), true),
        (json!({}), json!({"automountServiceAccountToken": false}), false),
    ] {
        let spec = admit(account.clone(), own.clone()).unwrap();
        assert_eq!(!spec["volumes"].is_null(), mounted, "{account} {own}");
    }
}

#[test]
fn pull_secrets_come_from_the_account_unless_the_pod_has_some() {
    let account = json!({"imagePullSecrets": [{"name": "a"}]});
    assert_eq!(admit(account.clone(), json!({})).unwrap()["imagePullSecrets"], json!([{"name": "a"}]));
    let own = json!([{"name": "b"}]);
    assert_eq!(admit(account, json!({"imagePullSecrets": own})).unwrap()["imagePullSecrets"], own);
}

#[test]
fn accounts_must_exist() {
    assert_eq!(
        admit(json!({}), json!({"serviceAccountName": "x"})).unwrap_err(),
        r#"pods "p" is forbidden: error looking up service account ns/x: serviceaccount "x" not found"#
    );
}

#[test]
fn mountable_secrets_are_enforced_where_asked_for() {
    let account = json!({
        "metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "ok"}], "imagePullSecrets": [{"name": "pull"}]});
    let env = |s: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": s, "key": "k"}}}]);
    let from = |s: &str| json!([{"secretRef": {"name": s}}]);
    let because = "is not allowed because service account default does not reference that";
    let table = [
        (json!({"volumes": [{"name": "v", "secret": {"secretName": "ok"}}]}), None),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "bad"}}]}),
            Some(format!("volume with secret.secretName=\"bad\" {because} secret")),
        ),
        (
            json!({"initContainers": [{"name": "i", "env": env("bad")}]}),
            Some(format!(
                "init container i with envVar E referencing secret.secretName=\"bad\" {because} secret"
            )),
        ),
        (
            json!({"containers": [{"name": "c", "env": env("ok"), "envFrom": from("bad")}]}),
            Some(format!("container c with envFrom referencing secret.secretName=\"bad\" {because} secret")),
        ),
        (
            json!({"imagePullSecrets": [{"name": "pull"}, {"name": "bad"}]}),
            Some(format!("imagePullSecrets[1].name=\"bad\" {because} imagePullSecret")),
        ),
    ];
    for (spec, want) in table {
        let refused = admit(account.clone(), spec.clone()).err();
        assert_eq!(refused, want.map(|w| format!("pods \"p\" is forbidden: {w}")), "{spec}");
        assert!(admit(json!({}), spec).is_ok());
    }
    let mut request = Request::update(world(account));
    request.subresource = "ephemeralcontainers";
    let new = pod(
        json!({"serviceAccountName": "default", "ephemeralContainers": [{"name": "e", "env": env("bad")}]}),
    );
    assert_eq!(
        request.admit::<Pod>(&new, Some(&new)).unwrap_err().message,
        format!(
            "pods \"p\" is forbidden: ephemeral container e with envVar E referencing secret.secretName=\"bad\" {because} secret"
        )
    );
}

#[test]
fn mirror_pods_have_nothing_of_accounts() {
    let mirror = |spec: Value| {
        let mut pod: Value = serde_json::from_str(&pod(spec)).unwrap();
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        Request::create(World::new()).admit::<Pod>(&pod.to_string(), None)
    };
    assert!(mirror(json!({})).unwrap().spec.unwrap().service_account_name.is_none());
    let table = [
        (json!({"serviceAccountName": "default"}), "a mirror pod may not reference service accounts"),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
            "a mirror pod may not reference secrets",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ];
    for (spec, why) in table {
        assert_eq!(mirror(spec).unwrap_err().message, format!("pods \"p\" is forbidden: {why}"));
    }
}
