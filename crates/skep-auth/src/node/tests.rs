//! Nodes: what they see of their pods, and what not.

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use proptest::prelude::*;
use serde_json::{Value, json};
use skep_base::selector::FieldRequirement;

use super::*;

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn node_user(name: &str) -> UserInfo {
    UserInfo {
        name: format!("system:node:{name}"),
        groups: vec!["system:nodes".to_owned(), "system:authenticated".to_owned()],
        ..UserInfo::default()
    }
}

fn pod(name: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec})).unwrap()
}

/// A pod that refers to something in every way there is.
fn rich_pod(node: &str) -> Pod {
    let env = |secret: &str, map: &str| {
        json!([{"name": "a", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}},
               {"name": "b", "valueFrom": {"configMapKeyRef": {"name": map, "key": "k"}}}])
    };
    let from =
        |secret: &str, map: &str| json!([{"secretRef": {"name": secret}}, {"configMapRef": {"name": map}}]);
    let mut p = pod(
        "rich",
        json!({
            "nodeName": node, "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "s-pull"}],
            "initContainers": [{"name": "i", "env": env("s-init-env", "c-init-env"), "envFrom": from("s-init-from", "c-init-from")}],
            "containers": [{"name": "c", "env": env("s-env", "c-env"), "envFrom": from("s-from", "c-from")}],
            "ephemeralContainers": [{"name": "e", "env": env("s-eph-env", "c-eph-env"), "envFrom": from("s-eph-from", "c-eph-from")}],
            "volumes": [
                {"name": "v1", "secret": {"secretName": "s-vol"}},
                {"name": "v2", "configMap": {"name": "c-vol"}},
                {"name": "v3", "projected": {"sources": [{"secret": {"name": "s-proj"}}, {"configMap": {"name": "c-proj"}}]}},
                {"name": "v4", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "v5", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "v6", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s-csi"}}},
                {"name": "v7", "azureFile": {"secretName": "s-azure", "shareName": "x"}},
                {"name": "v8", "cephfs": {"monitors": [], "secretRef": {"name": "s-ceph"}}},
                {"name": "v9", "cinder": {"volumeID": "x", "secretRef": {"name": "s-cinder"}}},
                {"name": "v10", "flexVolume": {"driver": "x", "secretRef": {"name": "s-flex"}}},
                {"name": "v11", "rbd": {"image": "x", "monitors": [], "secretRef": {"name": "s-rbd"}}},
                {"name": "v12", "scaleIO": {"gateway": "x", "system": "x", "secretRef": {"name": "s-scale"}}},
                {"name": "v13", "iscsi": {"iqn": "x", "lun": 1, "targetPortal": "x", "secretRef": {"name": "s-iscsi"}}},
                {"name": "v14", "storageos": {"secretRef": {"name": "s-storageos"}}},
            ],
            "resourceClaims": [{"name": "own", "resourceClaimName": "rc"}, {"name": "made", "resourceClaimTemplateName": "t"}],
        }),
    );
    p.status = Some(
        serde_json::from_value(json!({
            "resourceClaimStatuses": [{"name": "made", "resourceClaimName": "rc-made"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "rc-ext", "requestMappings": []},
        }))
        .unwrap(),
    );
    p
}

fn may(g: &NodeGraph, node: &str, verb: &str, group: &str, resource: &str, ns: &str, name: &str) -> bool {
    let u = node_user(node);
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let a = Attributes::resource(&u, verb, group, resource).subresource(sub).in_namespace(ns).named(name);
    g.authorize(&acme(), &a).is_allowed()
}

fn put_pod(g: &NodeGraph, p: &Pod) {
    g.apply(&acme(), NodeChange::Pod("ns", p.metadata.name.as_deref().unwrap(), Some(p)));
}

#[test]
fn a_node_reads_what_its_pods_refer_to() {
    let g = NodeGraph::default();
    let p = rich_pod("n1");
    put_pod(&g, &p);
    let secrets = "s-pull s-init-env s-init-from s-env s-from s-eph-env s-eph-from s-vol s-proj s-csi s-azure \
                   s-ceph s-cinder s-flex s-rbd s-scale s-iscsi s-storageos";
    let maps = "c-init-env c-init-from c-env c-from c-eph-env c-eph-from c-vol c-proj";
    let groups = [
        ("", "secrets", secrets),
        ("", "configmaps", maps),
        ("", "persistentvolumeclaims", "claim rich-v5"),
        ("", "serviceaccounts", "sa"),
        ("resource.k8s.io", "resourceclaims", "rc rc-made rc-ext"),
        ("", "pods", "rich"),
    ];
    let all = |node: &str, ns: &str| {
        groups
            .iter()
            .flat_map(|(group, resource, names)| {
                names.split_whitespace().map(move |n| (*group, *resource, n))
            })
            .map(|(group, resource, name)| (name, may(&g, node, "get", group, resource, ns, name)))
            .collect::<Vec<_>>()
    };
    for (name, allowed) in all("n1", "ns") {
        assert!(allowed, "{name}");
    }
    for (name, allowed) in all("n2", "ns").into_iter().chain(all("n1", "else")) {
        assert!(!allowed, "{name}");
    }
    assert!(!may(&g, "n1", "get", "", "secrets", "ns", "other"));
    // Another tenant's node of the same name.
    let u = node_user("n1");
    let a = Attributes::resource(&u, "get", "", "secrets").in_namespace("ns").named("s-vol");
    assert!(!g.authorize(&TenantName::new("other").unwrap(), &a).is_allowed());
    // Gone with the pod.
    g.apply(&acme(), NodeChange::Pod("ns", "rich", None));
    assert!(all("n1", "ns").iter().all(|(_, allowed)| !allowed));
    assert_eq!(g.tenants(), 0);
}

#[test]
fn verbs_and_subresources_are_bounded() {
    let g = NodeGraph::default();
    put_pod(&g, &rich_pod("n1"));
    let u = node_user("n1");
    let ask = |verb: &str, group: &str, resource: &str, ns: &str, name: &str| {
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let a = Attributes::resource(&u, verb, group, resource).subresource(sub).in_namespace(ns).named(name);
        let d = g.authorize(&acme(), &a);
        if d.is_allowed() { "yes".to_owned() } else { d.reason().to_string() }
    };
    let none = "no relationship found between node 'n1' and this object";
    let lease = "coordination.k8s.io";
    let table: &[(&str, &str, &str, &str, &str, &str)] = &[
        ("watch", "", "secrets", "ns", "s-vol", "yes"),
        ("list", "", "configmaps", "ns", "c-vol", "yes"),
        ("list", "", "secrets", "ns", "", "No Object name found"),
        ("list", "", "secrets", "", "s-vol", "can only read namespaced object of this type"),
        ("delete", "", "secrets", "ns", "s-vol", "can only read resources of this type"),
        ("get", "", "secrets/x", "ns", "s-vol", "cannot read subresource"),
        ("get", "", "secrets", "ns", "other", none),
        (
            "list",
            "",
            "persistentvolumeclaims",
            "ns",
            "claim",
            "can only get individual resources of this type",
        ),
        ("get", "", "persistentvolumeclaims/x", "ns", "claim", "cannot get subresource"),
        ("patch", "", "persistentvolumeclaims/status", "ns", "claim", "yes"),
        ("get", "", "persistentvolumeclaims/status", "ns", "claim", "can only get/update/patch this type"),
        ("update", "", "persistentvolumeclaims/status", "ns", "x", none),
        ("create", "", "serviceaccounts/token", "ns", "sa", "yes"),
        ("create", "", "serviceaccounts/token", "ns", "default", none),
        ("create", "", "serviceaccounts", "ns", "sa", "can only create token subresource of serviceaccount"),
        (
            "create",
            "",
            "serviceaccounts/token",
            "ns",
            "",
            "can only create tokens for individual service accounts",
        ),
        ("get", lease, "leases", "kube-node-lease", "n1", "yes"),
        ("create", lease, "leases", "kube-node-lease", "", "yes"),
        (
            "get",
            lease,
            "leases",
            "kube-node-lease",
            "n2",
            "can only access node lease with the same name as the requesting node",
        ),
        (
            "get",
            lease,
            "leases",
            "ns",
            "n1",
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (
            "list",
            lease,
            "leases",
            "kube-node-lease",
            "n1",
            "can only get, create, update, patch, or delete a node lease",
        ),
        ("get", "storage.k8s.io", "csinodes", "", "n1", "yes"),
        (
            "update",
            "storage.k8s.io",
            "csinodes",
            "",
            "n2",
            "can only access CSINode with the same name as the requesting node",
        ),
        (
            "list",
            "storage.k8s.io",
            "csinodes",
            "",
            "",
            "can only get, create, update, patch, or delete a CSINode",
        ),
        ("get", "", "nodes", "", "n1", "yes"),
        ("create", "", "nodes", "", "", "yes"),
        ("patch", "", "nodes/status", "", "n1", "yes"),
        ("get", "", "nodes", "", "n2", "node 'n1' cannot read 'n2', only its own Node object"),
        ("list", "", "nodes", "", "", "node 'n1' cannot read all nodes, only its own Node object"),
        ("delete", "", "nodes", "", "n1", ""),
        ("get", "", "pods", "ns", "rich", "yes"),
        ("get", "", "pods", "ns", "other", none),
        ("watch", "", "pods", "ns", "rich", "yes"),
        ("list", "", "pods", "", "", "can only list/watch pods with spec.nodeName field selector"),
        ("create", "", "pods", "ns", "", "yes"),
        ("delete", "", "pods", "ns", "other", "yes"),
        ("deletecollection", "", "pods", "ns", "", ""),
        ("patch", "", "pods/status", "ns", "rich", "yes"),
        ("create", "", "pods/eviction", "ns", "rich", "yes"),
        ("get", "", "pods/log", "ns", "rich", ""),
        ("create", "resource.k8s.io", "resourceslices", "", "", "yes"),
        ("get", "resource.k8s.io", "resourceslices", "", "x", none),
        ("create", "certificates.k8s.io", "podcertificaterequests", "ns", "", ""),
        // By the rules of system:node.
        ("list", "", "services", "", "", "yes"),
        ("create", "", "events", "ns", "", "yes"),
        ("create", "certificates.k8s.io", "certificatesigningrequests", "", "", "yes"),
        ("delete", "", "services", "ns", "x", ""),
        ("list", "apps", "deployments", "", "", ""),
    ];
    for (verb, group, resource, ns, name, want) in table {
        assert_eq!(ask(verb, group, resource, ns, name), *want, "{verb} {group} {resource} {ns} {name}");
    }
    let selector = |field: &str, negated: bool, value: &str| {
        let s = [FieldRequirement { field: field.to_owned(), negated, value: value.to_owned() }];
        let a = Attributes { field_selector: &s, ..Attributes::resource(&u, "list", "", "pods") };
        g.authorize(&acme(), &a).is_allowed()
    };
    assert!(selector("spec.nodeName", false, "n1"));
    assert!(!selector("spec.nodeName", false, "n2"));
    assert!(!selector("spec.nodeName", true, "n1"));
    assert!(!selector("metadata.name", false, "n1"));
}

#[test]
fn only_nodes_are_nodes() {
    let g = NodeGraph::default();
    put_pod(&g, &rich_pod("n1"));
    let mut outsider = node_user("n1");
    outsider.groups.remove(0);
    for u in [outsider, UserInfo { name: "n1".to_owned(), ..node_user("n1") }] {
        let d = g.authorize(&acme(), &Attributes::resource(&u, "get", "", "nodes").named("n1"));
        assert!(!d.is_allowed() && d.reason().to_string().is_empty(), "{u:?}");
    }
    let nameless = node_user("");
    let d = g.authorize(&acme(), &Attributes::resource(&nameless, "get", "", "nodes"));
    assert_eq!(d.reason().to_string(), "unknown node for user \"system:node:\"");
}

#[test]
fn mirror_pods_and_unbound_pods_grant_nothing() {
    let g = NodeGraph::default();
    let mut mirror = rich_pod("n1");
    mirror.metadata.annotations = Some([("kubernetes.io/config.mirror".to_owned(), "x".to_owned())].into());
    put_pod(&g, &mirror);
    assert!(may(&g, "n1", "get", "", "pods", "ns", "rich"));
    assert!(!may(&g, "n1", "get", "", "secrets", "ns", "s-vol"));
    assert!(!may(&g, "n1", "create", "", "serviceaccounts/token", "ns", "sa"));
    let unbound = pod("p2", json!({"containers": [], "imagePullSecrets": [{"name": "s"}]}));
    put_pod(&g, &unbound);
    assert!(!may(&g, "n1", "get", "", "pods", "ns", "p2"));
    assert!(!may(&g, "", "get", "", "secrets", "ns", "s"));
}

#[test]
fn volumes_lead_to_their_secrets() {
    let g = NodeGraph::default();
    put_pod(&g, &rich_pod("n1"));
    let volume = |claim: Value| -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {"claimRef": claim, "csi": {
            "driver": "d", "volumeHandle": "h",
            "nodePublishSecretRef": {"name": "publish", "namespace": "vault"},
            "nodeStageSecretRef": {"name": "stage", "namespace": "vault"},
            "nodeExpandSecretRef": {"name": "expand"},
            "controllerPublishSecretRef": {"name": "control", "namespace": "vault"},
        }}}))
        .unwrap()
    };
    let put = |v: Option<&PersistentVolume>| g.apply(&acme(), NodeChange::PersistentVolume("pv", v));
    let check = |node: &str| {
        [
            may(&g, node, "get", "", "persistentvolumes", "", "pv"),
            may(&g, node, "get", "", "secrets", "vault", "publish"),
            may(&g, node, "get", "", "secrets", "vault", "stage"),
            may(&g, node, "get", "", "secrets", "ns", "expand"),
            may(&g, node, "get", "", "secrets", "vault", "control"),
        ]
    };
    let bound = volume(json!({"namespace": "ns", "name": "claim"}));
    put(Some(&bound));
    assert_eq!(check("n1"), [true, true, true, true, false]);
    assert_eq!(check("n2"), [false; 5]);
    put(Some(&volume(json!({"namespace": "ns", "name": "other"}))));
    assert_eq!(check("n1"), [false; 5]);
    put(Some(&volume(Value::Null)));
    assert_eq!(check("n1"), [false; 5]);
    put(Some(&bound));
    g.apply(&acme(), NodeChange::Pod("ns", "rich", None));
    assert_eq!(check("n1"), [false; 5], "the claim is nobody's");
    put(None);
    assert_eq!(g.tenants(), 0);
}

#[test]
fn attachments_and_slices_name_their_node() {
    let g = NodeGraph::default();
    let attachment: VolumeAttachment = serde_json::from_value(json!({"metadata": {"name": "va"},
        "spec": {"attacher": "a", "nodeName": "n1", "source": {"persistentVolumeName": "pv"}}}))
    .unwrap();
    g.apply(&acme(), NodeChange::VolumeAttachment("va", Some(&attachment)));
    g.apply(&acme(), NodeChange::ResourceSlice("sl", Some("n1")));
    let check = |node: &str| {
        (
            may(&g, node, "get", "storage.k8s.io", "volumeattachments", "", "va"),
            may(&g, node, "delete", "resource.k8s.io", "resourceslices", "", "sl"),
        )
    };
    assert_eq!((check("n1"), check("n2")), ((true, true), (false, false)));
    g.apply(&acme(), NodeChange::VolumeAttachment("va", None));
    g.apply(&acme(), NodeChange::ResourceSlice("sl", None));
    assert_eq!((check("n1"), g.tenants()), ((false, false), 0));
}

#[test]
fn an_object_stays_readable_while_one_pod_is_left() {
    let g = NodeGraph::default();
    let with = |name: &str, node: &str, secret: &str| {
        pod(name, json!({"nodeName": node, "containers": [], "imagePullSecrets": [{"name": secret}]}))
    };
    put_pod(&g, &with("a", "n1", "s"));
    put_pod(&g, &with("b", "n1", "s"));
    let reads = |node: &str, s: &str| may(&g, node, "get", "", "secrets", "ns", s);
    g.apply(&acme(), NodeChange::Pod("ns", "a", None));
    assert!(reads("n1", "s"));
    // The pod is remade on another node, with another secret.
    put_pod(&g, &with("b", "n2", "t"));
    assert!(!reads("n1", "s") && !reads("n2", "s") && reads("n2", "t"));
    assert_eq!(g.sizes(&acme()), [1, 1, 1, 0, 0], "nothing of the old ones is left");
}

proptest! {
    /// Whatever was done to the pods, the graph is as if only the last state had ever been there.
    #[test]
    fn the_graph_follows_the_pods(ops in prop::collection::vec(
        (0..6_usize, prop::option::of((0..4_usize, prop::collection::vec(0..5_usize, 0..4)))), 0..60)) {
        let g = NodeGraph::default();
        let mut last = std::collections::BTreeMap::new();
        let make = |i: usize, node: usize, secrets: &[usize]| {
            let secrets: Vec<Value> = secrets.iter().map(|s| json!({"name": format!("s{s}")})).collect();
            // Node 0 stands for a pod that is not bound.
            let node = if node == 0 { String::new() } else { format!("n{node}") };
            pod(&format!("p{i}"), json!({"nodeName": node, "containers": [], "imagePullSecrets": secrets}))
        };
        for (i, op) in &ops {
            match op {
                Some((node, secrets)) => put_pod(&g, &make(*i, *node, secrets)),
                None => g.apply(&acme(), NodeChange::Pod("ns", &format!("p{i}"), None)),
            }
            last.insert(*i, op.clone());
        }
        let rebuilt = NodeGraph::default();
        for (i, op) in &last {
            if let Some((node, secrets)) = op {
                put_pod(&rebuilt, &make(*i, *node, secrets));
            }
        }
        prop_assert_eq!(g.sizes(&acme()), rebuilt.sizes(&acme()));
        for node in 1..4 {
            for s in 0..5 {
                let want = last.values().flatten().any(|(n, list)| *n == node && list.contains(&s));
                let (n, s) = (format!("n{node}"), format!("s{s}"));
                prop_assert_eq!(may(&g, &n, "get", "", "secrets", "ns", &s), want);
                prop_assert_eq!(may(&rebuilt, &n, "get", "", "secrets", "ns", &s), want);
            }
        }
    }
}

#[test]
fn ports_of_its_own_and_what_networks_are_made_of() {
    let g = NodeGraph::default();
    for verb in ["get", "create", "update", "patch", "delete"] {
        assert!(may(&g, "n1", verb, "network.skep.io", "ports", "ns", "p"), "{verb}");
    }
    for verb in ["list", "watch"] {
        assert!(
            may(&g, "n1", verb, "network.skep.io", "ports", "", ""),
            "filters go by all of a tenant's ports"
        );
        assert!(!may(&g, "n1", verb, "", "pods", "", ""), "but pods are read on their node only");
    }
    assert!(!may(&g, "n1", "update", "network.skep.io", "ports/status", "ns", "p"));
    assert!(!may(&g, "n1", "deletecollection", "network.skep.io", "ports", "ns", ""));
    for (group, resource) in [
        ("network.skep.io", "networks"),
        ("network.skep.io", "subnets"),
        ("network.skep.io", "securitygroups"),
        ("network.skep.io", "publicips"),
        ("discovery.k8s.io", "endpointslices"),
        ("networking.k8s.io", "networkpolicies"),
        ("", "namespaces"),
    ] {
        assert!(may(&g, "n1", "watch", group, resource, "", ""), "{resource}");
        assert!(!may(&g, "n1", "create", group, resource, "ns", ""), "{resource}");
    }
    assert!(!may(&g, "n1", "list", "network.skep.io", "qospolicies", "", ""));
}
