use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::api::storage::v1::CSINode;
use serde_json::{Value, json};

use crate::plugin_tests::certificate_request;
use crate::testing::{Bare, Request, World};

fn as_node(request: Request) -> Request {
    let mut request = request;
    request.user.name = "system:node:n".to_owned();
    request.node = Some("n".to_owned());
    request
}

fn world() -> World {
    let mut world = World::new();
    world.put("", "namespaces", r#"{"metadata":{"name":"kube-node-lease"},"status":{"phase":"Active"}}"#);
    world.put("", "nodes", r#"{"metadata":{"name":"n","uid":"node-uid"}}"#);
    for (name, node) in [("mine", "n"), ("other", "m")] {
        let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid")}, "spec": {
            "nodeName": node, "containers": [], "volumes": [
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}});
        world.put("", "pods", &pod.to_string());
    }
    world.put(
        "",
        "persistentvolumeclaims",
        r#"{"metadata":{"name":"c","namespace":"ns"},"spec":{"volumeName":"v"}}"#,
    );
    world.put(
        "",
        "persistentvolumes",
        r#"{"metadata":{"name":"v"},"spec":{"csi":{"driver":"disk","volumeHandle":"h"}}}"#,
    );
    world.put(
        "storage.k8s.io",
        "csidrivers",
        r#"{"metadata":{"name":"disk"},"spec":{"tokenRequests":[{"audience":"disks"}]}}"#,
    );
    world
}

fn create() -> Request {
    as_node(Request::create(world()))
}

fn update(subresource: &'static str) -> Request {
    Request { subresource, ..as_node(Request::update(world())) }
}

/// What follows `… is forbidden: `.
fn why<T>(result: Result<T, crate::Refusal>) -> Option<String> {
    result.err().map(|r| {
        assert_eq!(r.code, 403, "{r}");
        r.message.split_once(" is forbidden: ").unwrap().1.to_owned()
    })
}

fn mirror(change: impl Fn(&mut Value)) -> String {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "node-uid", "controller": true}]},
        "spec": {"nodeName": "n", "containers": [{"name": "c"}]}});
    change(&mut pod);
    pod.to_string()
}

#[test]
fn nodes_create_only_their_own_mirror_pods() {
    let owner = "/metadata/ownerReferences/0";
    type Change = Box<dyn Fn(&mut Value)>;
    let set = |pointer: &'static str, key: &'static str, value: Value| -> Change {
        Box::new(move |p| p.pointer_mut(pointer).unwrap()[key] = value.clone())
    };
    let volume = |source: Value| -> Change {
        Box::new(move |p| {
            let mut volume = source.clone();
            volume["name"] = json!("v");
            p["spec"]["volumes"] = json!([volume]);
        })
    };
    let table: Vec<(Change, Option<&str>)> = vec![
        (Box::new(|_| ()), None),
        (
            set("/metadata", "annotations", json!({})),
            Some(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n\" can only create mirror pods",
            ),
        ),
        (
            set("/spec", "nodeName", json!("m")),
            Some("node \"n\" can only create pods with spec.nodeName set to itself"),
        ),
        (
            set("/metadata", "ownerReferences", json!([])),
            Some("node \"n\" can only create pods with an owner reference set to itself"),
        ),
        (
            set(owner, "name", json!("m")),
            Some("node \"n\" can only create pods with an owner reference set to itself"),
        ),
        (
            set(owner, "controller", json!(false)),
            Some("node \"n\" can only create pods with a controller owner reference set to itself"),
        ),
        (
            set(owner, "blockOwnerDeletion", json!(true)),
            Some("node \"n\" must not set blockOwnerDeletion on an owner reference"),
        ),
        (set(owner, "uid", json!("x")), Some("node n UID mismatch: expected x got node-uid")),
        (
            set("/spec", "imagePullSecrets", json!([{"name": "s"}])),
            Some("node \"n\" can not create pods that reference secrets"),
        ),
        (
            set("/spec/containers/0", "envFrom", json!([{"configMapRef": {"name": "m"}}])),
            Some("node \"n\" can not create pods that reference configmaps"),
        ),
        (
            volume(json!({"persistentVolumeClaim": {"claimName": "c"}})),
            Some("node \"n\" can not create pods that reference persistentvolumeclaims"),
        ),
        (
            volume(json!({"csi": {"driver": "d"}})),
            Some("node \"n\" can not create pods that reference csidrivers (via CSI volumes)"),
        ),
        (volume(json!({"hostPath": {"path": "/"}})), None),
    ];
    for (change, want) in table {
        let json = mirror(change.as_ref());
        let result = why(create().admit::<Pod>(&json, None));
        // Secrets are refused by the service account plugin already, in its own words.
        let service_account = Some("a mirror pod may not reference secrets".to_owned());
        assert!(result.as_deref() == want || result == service_account, "{json}: {result:?}");
    }
}

#[test]
fn nodes_change_and_remove_only_what_runs_on_them() {
    let pod = |node: &str, labels: Value| {
        json!({"metadata": {"name": "p", "namespace": "ns", "labels": labels}, "spec": {"nodeName": node, "containers": []}})
            .to_string()
    };
    let (mine, other) = (pod("n", json!({})), pod("m", json!({})));
    assert_eq!(why(as_node(Request::delete(world())).remove::<Pod>(&mine)), None);
    assert_eq!(
        why(as_node(Request::delete(world())).remove::<Pod>(&other)).unwrap(),
        "node \"n\" can only delete pods with spec.nodeName set to itself"
    );
    assert_eq!(
        why(update("").admit::<Pod>(&mine, Some(&mine))).unwrap(),
        "unexpected operation \"UPDATE\", node \"n\" can only create and delete mirror pods"
    );
    assert_eq!(
        why(update("resize").admit::<Pod>(&mine, Some(&mine))).unwrap(),
        "unexpected pod subresource \"resize\", only 'status' and 'eviction' are allowed"
    );
    assert_eq!(why(update("status").admit::<Pod>(&mine, Some(&mine))), None);
    assert_eq!(
        why(update("status").admit::<Pod>(&other, Some(&other))).unwrap(),
        "node \"n\" can only update pod status for pods with spec.nodeName set to itself"
    );
    assert_eq!(
        why(update("status").admit::<Pod>(&pod("n", json!({"a": "b"})), Some(&mine))).unwrap(),
        "node \"n\" cannot update labels through pod status"
    );
    for (name, allowed) in [("mine", true), ("other", false)] {
        let mut request = create();
        request.subresource = "eviction";
        let mut eviction = Bare::<Eviction>(Eviction::default());
        let result = request.review::<Pod, _>(name, None, |r| crate::mutate(r, &mut eviction));
        assert_eq!(result.is_ok(), allowed, "{name}");
    }
}

#[test]
fn nodes_keep_their_hands_off_their_taints_owners_and_labels() {
    let node = |name: &str, change: Value| {
        let mut node = json!({"metadata": {"name": name}, "spec": {}});
        for (pointer, value) in change.as_object().unwrap() {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            node.pointer_mut(parent).unwrap()[key] = value.clone();
        }
        node.to_string()
    };
    let same = node("n", json!({}));
    assert_eq!(why(create().admit::<Node>(&same, None)), None);
    assert_eq!(
        why(create().admit::<Node>(&node("m", json!({})), None)).unwrap(),
        "node \"n\" is not allowed to modify node \"m\""
    );
    assert!(why(as_node(Request::delete(world())).remove::<Node>(&node("m", json!({})))).is_some());
    let labels = |l: Value| node("n", json!({"/metadata/labels": l}));
    let fine = json!({"kubernetes.io/hostname": "n", "topology.kubernetes.io/zone": "z", "own": "x",
        "example.com/x": "y", "a.node.kubernetes.io/b": "c", "kubelet.kubernetes.io/x": "y"});
    assert_eq!(why(create().admit::<Node>(&labels(fine.clone()), None)), None);
    assert_eq!(why(update("").admit::<Node>(&labels(fine), Some(&same))), None);
    let bad = json!({"node-restriction.kubernetes.io/x": "1", "foo.k8s.io/y": "2", "kubernetes.io/z": "3", "own": "4",
        "node-role.kubernetes.io/control-plane": ""});
    let all = "foo.k8s.io/y, kubernetes.io/z, node-restriction.kubernetes.io/x, node-role.kubernetes.io/control-plane";
    assert_eq!(
        why(create().admit::<Node>(&labels(bad.clone()), None)).unwrap(),
        format!("node \"n\" is not allowed to set the following labels: {all}")
    );
    assert_eq!(
        why(update("status").admit::<Node>(&same, Some(&labels(bad.clone())))).unwrap(),
        format!("is not allowed to modify labels: {all}")
    );
    assert_eq!(why(update("").admit::<Node>(&labels(bad.clone()), Some(&labels(bad)))), None);
    let table = [
        (
            json!({"/spec/taints": [{"key": "a", "effect": "NoSchedule"}]}),
            "node \"n\" is not allowed to modify taints",
        ),
        (
            json!({"/metadata/ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u"}]}),
            "node \"n\" is not allowed to modify ownerReferences",
        ),
        (
            json!({"/spec/configSource": {"configMap": {"name": "m", "namespace": "n", "kubeletConfigKey": "k"}}}),
            "node \"n\" is not allowed to update configSource to a new non-nil configSource",
        ),
    ];
    for (change, want) in table {
        assert_eq!(why(update("").admit::<Node>(&node("n", change), Some(&same))).unwrap(), want);
    }
}

#[test]
fn nodes_report_sizes_of_claims_and_nothing_else() {
    let claim = |change: Value| {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"volumeName": "v"}});
        for (key, value) in change.as_object().unwrap() {
            claim[key] = value.clone();
        }
        claim.to_string()
    };
    let old = claim(json!({}));
    let sized =
        claim(json!({"status": {"capacity": {"storage": "2Gi"}, "allocatedResources": {"storage": "2Gi"}}}));
    assert_eq!(why(update("status").admit::<PersistentVolumeClaim>(&sized, Some(&old))), None);
    let phase = claim(json!({"status": {"phase": "Lost"}}));
    assert_eq!(
        why(update("status").admit::<PersistentVolumeClaim>(&phase, Some(&old))).unwrap(),
        "node \"n\" is not allowed to update fields other than status.quantity and status.conditions"
    );
    assert_eq!(
        why(update("").admit::<PersistentVolumeClaim>(&old, Some(&old))).unwrap(),
        "may only update PVC status"
    );
    assert!(why(create().admit::<PersistentVolumeClaim>(&old, None)).is_some());
}

#[test]
fn nodes_get_tokens_only_for_their_pods() {
    let ask = |granted: &str, spec: Value| {
        let mut request = create();
        request.subresource = "token";
        request.granted = vec![granted.to_owned()];
        let json = json!({"metadata": {}, "spec": spec});
        let mut token = Bare::<TokenRequest>(serde_json::from_value(json).unwrap());
        request.review::<ServiceAccount, _>("default", None, |r| crate::mutate(r, &mut token))
    };
    let bound = |name: &str, uid: &str, audiences: Value| {
        json!({"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}})
    };
    let mine = |audiences: Value| bound("mine", "mine-uid", audiences);
    let table = [
        (json!({"audiences": []}), Some("node requested token not bound to a pod")),
        (bound("mine", "", json!(["vault"])), Some("node requested token with a pod binding without a uid")),
        (
            bound("mine", "x", json!(["vault"])),
            Some(
                "the UID in the bound object reference (x) does not match the UID in record. The object might have been \
                 deleted and then recreated",
            ),
        ),
        (
            bound("other", "other-uid", json!(["vault"])),
            Some("node requested token bound to a pod scheduled on a different node"),
        ),
        (mine(json!(["vault"])), None),
        (mine(json!(["disks"])), None),
        (mine(json!(["a", "b"])), Some("node may only request 0 or 1 audiences")),
        (
            mine(json!(["evil"])),
            Some(
                "audience \"evil\" not found in pod spec volume, system:node:n is not authorized to request tokens for \
                 this audience",
            ),
        ),
    ];
    for (spec, want) in table {
        assert_eq!(why(ask("", spec.clone())).as_deref(), want, "{spec}");
    }
    assert_eq!(why(ask("request-serviceaccounts-token-audience evil default", mine(json!(["evil"])))), None);
    let missing = ask("", bound("gone", "u", json!([]))).unwrap_err();
    assert_eq!((missing.code, missing.message.as_str()), (404, "pods \"gone\" not found"));
}

#[test]
fn nodes_have_leases_storage_nodes_slices_and_certificates_of_their_own() {
    let lease = |name: &str, namespace: &'static str| {
        let request = Request { namespace, ..create() };
        let json = json!({"metadata": {"name": name, "namespace": namespace}}).to_string();
        why(request.admit::<Lease>(&json, None))
    };
    assert_eq!(lease("n", "kube-node-lease"), None);
    assert_eq!(
        lease("m", "kube-node-lease").unwrap(),
        "can only access node lease with the same name as the requesting node"
    );
    assert_eq!(
        lease("n", "ns").unwrap(),
        "can only access leases in the \"kube-node-lease\" system namespace"
    );
    let storage = |name: &str| {
        let json = json!({"metadata": {"name": name}, "spec": {"drivers": []}}).to_string();
        why(create().admit::<CSINode>(&json, None))
    };
    assert_eq!(storage("n"), None);
    assert_eq!(storage("m").unwrap(), "can only access CSINode with the same name as the requesting node");
    let slice = |node: &str| {
        let json = json!({"metadata": {"name": "s"}, "spec": {"nodeName": node, "driver": "d",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}});
        json.to_string()
    };
    assert_eq!(why(create().admit::<ResourceSlice>(&slice("n"), None)), None);
    assert_eq!(
        why(create().admit::<ResourceSlice>(&slice("m"), None)).unwrap(),
        "can only create ResourceSlice with the same NodeName as the requesting node"
    );
    assert_eq!(
        why(as_node(Request::delete(world())).remove::<ResourceSlice>(&slice("m"))).unwrap(),
        "can only delete ResourceSlice with the same NodeName as the requesting node"
    );
    let certificate = |signer: &str, name: &str| {
        let json = certificate_request(signer, name, "system:nodes").to_string();
        why(create().admit::<CertificateSigningRequest>(&json, None))
    };
    let signer = "kubernetes.io/kubelet-serving";
    assert_eq!(certificate(signer, "system:node:n"), None);
    assert_eq!(
        certificate(signer, "system:node:m").unwrap(),
        "can only create a node CSR with CN=system:node:n"
    );
    assert_eq!(certificate("example.com/x", "anything"), None);
}

#[test]
fn others_are_not_restricted_and_nameless_nodes_entirely() {
    let map = r#"{"metadata":{"name":"m","namespace":"ns"}}"#;
    assert_eq!(why(create().admit::<ConfigMap>(map, None)), None);
    let mut nameless = create();
    nameless.node = Some(String::new());
    nameless.user.name = "odd".to_owned();
    assert_eq!(
        why(nameless.admit::<ConfigMap>(map, None)).unwrap(),
        "could not determine node from user \"odd\""
    );
    let node = r#"{"metadata":{"name":"m"}}"#;
    assert!(Request::create(world()).admit::<Node>(node, None).is_ok());
}
