//! The smaller plugins.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Binding, Node, PersistentVolume, PersistentVolumeClaim, Pod, Toleration};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::{Value, json};
use skep_api::Object;

use crate::testing::{Bare, Request, World};

fn pod(spec: Value) -> String {
    let mut spec = spec;
    spec["automountServiceAccountToken"] = json!(false);
    spec["serviceAccountName"] = json!("default");
    spec["containers"] = json!([{"name": "c"}]);
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}).to_string()
}

fn admit_pod(world: World, spec: Value) -> Result<Value, String> {
    let pod: Pod = Request::create(world).admit(&pod(spec), None).map_err(|r| {
        assert_eq!(r.code, 403);
        r.message.strip_prefix("pods \"p\" is forbidden: ").unwrap().to_owned()
    })?;
    Ok(serde_json::to_value(pod).unwrap()["spec"].take())
}

fn with_classes(classes: &[Value]) -> World {
    let mut world = World::new();
    for class in classes {
        world.put("scheduling.k8s.io", "priorityclasses", &class.to_string());
    }
    world
}

#[test]
fn classes_become_priorities() {
    let high = || json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
    let low = || json!({"metadata": {"name": "low"}, "value": -5, "globalDefault": true});
    let computed = |world, spec| {
        let spec = admit_pod(world, spec)?;
        Ok::<_, String>((
            spec["priorityClassName"].clone(),
            spec["priority"].clone(),
            spec["preemptionPolicy"].clone(),
        ))
    };
    let named = || json!({"priorityClassName": "high"});
    assert_eq!(computed(with_classes(&[high()]), named()), Ok((json!("high"), json!(1000), json!("Never"))));
    assert_eq!(
        computed(with_classes(&[high()]), json!({})),
        Ok((json!(null), json!(0), json!("PreemptLowerPriority")))
    );
    assert_eq!(
        computed(with_classes(&[high(), low()]), json!({})),
        Ok((json!("low"), json!(-5), json!(null)))
    );
    assert_eq!(
        computed(with_classes(&[]), named()),
        Err("no PriorityClass with name high was found".to_owned())
    );
    assert_eq!(
        computed(with_classes(&[high()]), json!({"priorityClassName": "high", "priority": 1})),
        Err("the integer value of priority (1) must not be provided in pod spec; priority admission controller computed \
             1000 from the given PriorityClass name"
            .to_owned())
    );
    assert_eq!(
        computed(with_classes(&[high()]), json!({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"})),
        Err("the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority \
             admission controller computed Never from the given PriorityClass name"
            .to_owned())
    );
    assert!(
        computed(with_classes(&[high()]), json!({"priorityClassName": "high", "priority": 1000})).is_ok()
    );
    // An update that leaves the fields out keeps them.
    let old = pod(json!({"priority": 7, "preemptionPolicy": "Never"}));
    let new: Pod = Request::update(World::new()).admit(&pod(json!({})), Some(&old)).unwrap();
    let spec = new.spec.unwrap();
    assert_eq!((spec.priority, spec.preemption_policy.as_deref()), (Some(7), Some("Never")));
}

#[test]
fn only_one_class_is_the_default() {
    let class =
        |name: &str, default: bool| json!({"metadata": {"name": name}, "value": 1, "globalDefault": default});
    let world = || with_classes(&[class("a", true), class("b", false)]);
    let create = |c: Value| Request::create(world()).admit::<PriorityClass>(&c.to_string(), None);
    assert!(create(class("c", false)).is_ok());
    assert_eq!(
        create(class("c", true)).unwrap_err().message,
        "priorityclasses.scheduling.k8s.io \"c\" is forbidden: PriorityClass a is already marked as default. Only one \
         default can exist"
    );
    let update = |new: Value, old: Value| {
        Request::update(world()).admit::<PriorityClass>(&new.to_string(), Some(&old.to_string()))
    };
    assert!(update(class("a", true), class("a", true)).is_ok());
    assert!(update(class("b", true), class("b", false)).is_err());
}

#[test]
fn pods_tolerate_failing_nodes_for_a_while() {
    let all = admit_pod(World::new(), json!({})).unwrap()["tolerations"].take();
    assert_eq!(
        all,
        json!([
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}])
    );
    let cases = [
        (json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]), 2),
        (json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]), 2),
        (json!([{"operator": "Exists"}]), 1),
        (json!([{"operator": "Exists", "effect": "NoSchedule"}]), 3),
        (json!([{"key": "x", "operator": "Exists"}]), 3),
    ];
    for (own, count) in cases {
        let spec = admit_pod(World::new(), json!({"tolerations": own})).unwrap();
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), count, "{own}");
    }
}

#[test]
fn new_nodes_are_not_ready() {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    for taints in [json!([]), json!([taint.clone()])] {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}}).to_string();
        let node: Node = Request::create(World::new()).admit(&node, None).unwrap();
        assert_eq!(serde_json::to_value(node.spec.unwrap().taints).unwrap(), json!([taint]));
    }
    let old = json!({"metadata": {"name": "n"}}).to_string();
    let node: Node = Request::update(World::new()).admit(&old, Some(&old)).unwrap();
    assert!(node.spec.is_none());
}

#[test]
fn storage_is_kept_while_in_use() {
    let meta = |namespace: Value| json!({"metadata": {"name": "x", "namespace": namespace}}).to_string();
    let claim: PersistentVolumeClaim = Request::create(World::new()).admit(&meta(json!("ns")), None).unwrap();
    assert_eq!(claim.metadata.finalizers.unwrap(), ["kubernetes.io/pvc-protection"]);
    let volume: PersistentVolume = Request::create(World::new()).admit(&meta(json!(null)), None).unwrap();
    assert_eq!(volume.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    let class = json!({"metadata": {"name": "x", "finalizers": ["a/b"]}, "driverName": "d"}).to_string();
    let class: VolumeAttributesClass = Request::create(World::new()).admit(&class, None).unwrap();
    assert_eq!(class.metadata.finalizers.unwrap(), ["a/b", "kubernetes.io/vac-protection"]);
    let old = meta(json!("ns"));
    let claim: PersistentVolumeClaim = Request::update(World::new()).admit(&old, Some(&old)).unwrap();
    assert!(claim.metadata.finalizers.is_none());
}

fn class(name: &str, annotation: &str, created: &str) -> String {
    json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {annotation: "true"}},
        "provisioner": "p"})
    .to_string()
}

#[test]
fn claims_and_ingresses_get_the_newest_default_class() {
    let mut world = World::new();
    let (storage, beta) =
        ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class");
    for (name, annotation, created) in [
        ("old", storage, "2026-01-01T00:00:00Z"),
        ("new-b", beta, "2026-01-02T00:00:00Z"),
        ("new-a", storage, "2026-01-02T00:00:00Z"),
        ("newest", "other", "2026-01-03T00:00:00Z"),
    ] {
        world.put("storage.k8s.io", "storageclasses", &class(name, annotation, created));
    }
    world.put(
        "networking.k8s.io",
        "ingressclasses",
        &class("i", "ingressclass.kubernetes.io/is-default-class", "2026-01-01T00:00:00Z"),
    );
    let request = Request::create(world);
    let claim = |spec: Value, annotations: Value| {
        let json =
            json!({"metadata": {"name": "c", "namespace": "ns", "annotations": annotations}, "spec": spec});
        let claim: PersistentVolumeClaim = request.admit(&json.to_string(), None).unwrap();
        claim.spec.and_then(|s| s.storage_class_name)
    };
    assert_eq!(claim(json!({}), json!({})).as_deref(), Some("new-a"));
    assert_eq!(claim(json!({"storageClassName": ""}), json!({})).as_deref(), Some(""));
    assert_eq!(claim(json!({}), json!({"volume.beta.kubernetes.io/storage-class": "x"})), None);
    let ingress = |spec: Value, annotations: Value| {
        let json =
            json!({"metadata": {"name": "i", "namespace": "ns", "annotations": annotations}, "spec": spec});
        let ingress: Ingress = request.admit(&json.to_string(), None).unwrap();
        ingress.spec.and_then(|s| s.ingress_class_name)
    };
    assert_eq!(ingress(json!({}), json!({})).as_deref(), Some("i"));
    assert_eq!(ingress(json!({"ingressClassName": "own"}), json!({})).as_deref(), Some("own"));
    assert_eq!(ingress(json!({}), json!({"kubernetes.io/ingress.class": "x"})), None);
}

#[test]
fn claims_grow_where_their_class_lets_them() {
    let mut world = World::new();
    for (name, allowed) in [("gold", json!(true)), ("tin", json!(false)), ("lead", json!(null))] {
        let class = json!({"metadata": {"name": name}, "provisioner": "p", "allowVolumeExpansion": allowed});
        world.put("storage.k8s.io", "storageclasses", &class.to_string());
    }
    let request = Request::update(world);
    let claim = |class: &str, size: &str, phase: &str| {
        json!({"metadata": {"name": "c", "namespace": "ns"},
            "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}})
        .to_string()
    };
    let grow = |class: &str, size: &str, phase: &str| {
        let result = request
            .admit::<PersistentVolumeClaim>(&claim(class, size, phase), Some(&claim(class, "2Gi", phase)));
        result.err().map(|r| r.message)
    };
    let unsupported = "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be resized and the \
                       storageclass that provisions the pvc must support resize";
    assert_eq!(grow("gold", "3Gi", "Bound"), None);
    assert_eq!(grow("tin", "2Gi", "Pending"), None);
    assert_eq!(grow("tin", "1Gi", "Pending"), None);
    assert_eq!(
        grow("gold", "3Gi", "Pending").unwrap(),
        "persistentvolumeclaims \"c\" is forbidden: Only bound persistent volume claims can be expanded"
    );
    for class in ["tin", "lead", "missing", ""] {
        assert_eq!(grow(class, "3Gi", "Bound").as_deref(), Some(unsupported), "{class}");
    }
}

fn with_runtime(class: Value) -> World {
    let mut world = World::new();
    let mut class = class;
    class["metadata"] = json!({"name": "vm"});
    class["handler"] = json!("h");
    world.put("node.k8s.io", "runtimeclasses", &class.to_string());
    world
}

#[test]
fn runtimes_cost_and_place() {
    let class = || {
        json!({"overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}}, "scheduling": {
            "nodeSelector": {"kvm": "yes"}, "tolerations": [{"key": "kvm", "operator": "Exists", "effect": "NoSchedule"}]}})
    };
    let named = |extra: Value| {
        let mut spec = extra;
        spec["runtimeClassName"] = json!("vm");
        spec
    };
    let spec = admit_pod(with_runtime(class()), named(json!({"nodeSelector": {"a": "b"}}))).unwrap();
    assert_eq!(spec["overhead"], json!({"cpu": "250m", "memory": "120Mi"}));
    assert_eq!(spec["nodeSelector"], json!({"a": "b", "kvm": "yes"}));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 3);
    let same = named(json!({"overhead": {"cpu": "0.25", "memory": "120Mi"}}));
    assert!(admit_pod(with_runtime(class()), same).is_ok());
    let table = [
        (
            with_runtime(class()),
            named(json!({"overhead": {"cpu": "1"}})),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            with_runtime(json!({})),
            named(json!({"overhead": {"cpu": "1"}})),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            World::new(),
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (World::new(), named(json!({})), "pod rejected: RuntimeClass \"vm\" not found"),
        (
            with_runtime(class()),
            named(json!({"nodeSelector": {"kvm": "no"}})),
            "conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no",
        ),
    ];
    for (world, spec, why) in table {
        assert_eq!(admit_pod(world, spec.clone()).unwrap_err(), why, "{spec}");
    }
}

#[test]
fn tolerations_that_others_cover_are_dropped() {
    let merged = |own: Value, more: Value| {
        let world = with_runtime(json!({"scheduling": {"tolerations": more}}));
        let spec = admit_pod(world, json!({"runtimeClassName": "vm", "tolerations": own})).unwrap();
        let all: Vec<Toleration> = serde_json::from_value(spec["tolerations"].clone()).unwrap();
        all.into_iter()
            .map(|t| format!("{}:{}", t.key.unwrap_or_default(), t.value.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    // The first covers the two default tolerations, so they are not there to begin with.
    let everything = json!({"operator": "Exists"});
    assert_eq!(merged(json!([everything]), json!([{"key": "a", "operator": "Exists"}])), [":"]);
    assert_eq!(
        merged(json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), json!([everything])),
        [":"]
    );
    let equal = |v: &str| json!({"key": "a", "operator": "Equal", "value": v, "effect": "NoSchedule"});
    let more = merged(json!([everything, equal("1")]), json!([equal("1"), equal("2")]));
    assert_eq!(more, [":"]);
    let apart = merged(json!([equal("1")]), json!([equal("1"), equal("2")]));
    assert_eq!(apart.iter().filter(|t| t.starts_with("a:")).count(), 2);
}

#[test]
fn pods_carry_the_topology_of_their_node() {
    let mut world = World::new();
    let labels =
        json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "x"});
    world.put("", "nodes", &json!({"metadata": {"name": "n", "labels": labels}}).to_string());
    let mut request = Request::create(world);
    let placed: Pod = request.admit(&pod(json!({"nodeName": "n"})), None).unwrap();
    let want = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    assert_eq!(serde_json::to_value(placed.metadata.labels).unwrap(), want);
    assert!(request.admit::<Pod>(&pod(json!({})), None).unwrap().metadata.labels.is_none());
    request.subresource = "binding";
    for (kind, labelled) in [("Node", true), ("Other", false)] {
        let json = json!({"metadata": {"name": "p"}, "target": {"kind": kind, "name": "n"}});
        let mut binding = Bare::<Binding>(serde_json::from_value(json).unwrap());
        request.review::<Pod, _>("p", None, |r| crate::mutate(r, &mut binding)).unwrap();
        assert_eq!(binding.meta().labels.is_some(), labelled);
    }
}

#[test]
fn pods_do_not_outgrow_their_node() {
    let mut world = World::new();
    for (name, system) in [("n", "linux"), ("w", "windows")] {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": system}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        world.put("", "nodes", &node.to_string());
    }
    let mut request = Request::update(world);
    request.subresource = "resize";
    let sized = |node: &str, cpu: &str, memory: &str, generation: i64| {
        json!({"metadata": {"name": "p", "namespace": "ns", "generation": generation}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}})
        .to_string()
    };
    let resize = |node: &str, cpu: &str, memory: &str, generation| {
        request.admit::<Pod>(&sized(node, cpu, memory, generation), Some(&sized(node, "1", "1Mi", 1)))
    };
    assert!(resize("n", "2", "1Gi", 2).is_ok());
    assert!(resize("n", "3", "1Gi", 1).is_ok());
    assert!(resize("", "3", "1Gi", 2).is_ok());
    let refusal = resize("n", "2500m", "2Gi", 2).unwrap_err();
    assert_eq!(
        refusal.message,
        "pods \"p\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: \
         2000; memory, requested: 2147483648, allocatable: 1073741824"
    );
    assert_eq!(refusal.details.causes[0].reason, "NodeCapacity");
    let refusal = resize("w", "1", "2Mi", 2).unwrap_err();
    assert_eq!(
        refusal.message,
        "pods \"p\" is forbidden: pod resize is only supported on linux nodes, node \"w\" is \"windows\""
    );
    assert_eq!(refusal.details.causes[0].reason, "UnsupportedPlatform");
    assert!(resize("gone", "1", "2Mi", 2).unwrap_err().message.ends_with("node \"gone\" not found"));
}

/// A certificate signing request for a subject.
pub(crate) fn certificate_request(signer: &str, common_name: &str, organization: &str) -> Value {
    use rcgen::{CertificateParams, DnType, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let mut request = CertificateSigningRequest::default();
    request.metadata.name = Some("r".to_owned());
    request.spec.signer_name = signer.to_owned();
    request.spec.request = k8s_openapi::ByteString(pem.into_bytes());
    serde_json::to_value(request).unwrap()
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

#[test]
fn nobody_asks_for_administrators_certificates() {
    let ask = |signer: &str, organization: &str| {
        let json = certificate_request(signer, "alice", organization).to_string();
        Request::create(World::new()).admit::<CertificateSigningRequest>(&json, None).map_err(|r| r.message)
    };
    assert!(ask(CLIENT, "developers").is_ok());
    assert!(ask("example.com/other", "system:masters").is_ok());
    assert_eq!(
        ask(CLIENT, "system:masters").unwrap_err(),
        "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: use of kubernetes.io/kube-apiserver-client \
         signer with system:masters group is not allowed"
    );
    let mut bad = certificate_request(CLIENT, "a", "b");
    bad["spec"]["request"] = json!("bm90IGEgcmVxdWVzdA==");
    let refusal =
        Request::create(World::new()).admit::<CertificateSigningRequest>(&bad.to_string(), None).unwrap_err();
    assert!(refusal.message.ends_with("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"));
}

#[test]
fn approving_and_signing_need_rights_on_the_signer() {
    let old = certificate_request(CLIENT, "alice", "developers");
    let mut new = old.clone();
    new["status"] = json!({"certificate": "YQ=="});
    let update = |subresource: &'static str, granted: &[&str], new: &Value| {
        let mut request = Request::update(World::new());
        request.subresource = subresource;
        request.granted = granted.iter().map(|g| (*g).to_owned()).collect();
        let result = request.admit::<CertificateSigningRequest>(&new.to_string(), Some(&old.to_string()));
        result.err().map(|r| r.message)
    };
    let refused = |verb: &str| {
        Some(format!(
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to {verb} requests \
             with signerName \"{CLIENT}\""
        ))
    };
    assert_eq!(update("approval", &[], &new), refused("approve"));
    assert_eq!(update("approval", &["approve signers kubernetes.io/kube-apiserver-client"], &new), None);
    assert_eq!(update("approval", &["approve signers kubernetes.io/*"], &new), None);
    assert_eq!(update("status", &["approve signers kubernetes.io/*"], &new), refused("sign"));
    assert_eq!(update("status", &["sign signers kubernetes.io/*"], &new), None);
    assert_eq!(update("status", &[], &old), None);
    assert_eq!(update("", &[], &new), None);
}

#[test]
fn the_systems_priority_classes_stay() {
    for (name, stays) in [
        ("system-node-critical", true),
        ("system-cluster-critical", true),
        ("system-x", false),
        ("high", false),
    ] {
        let class = json!({"metadata": {"name": name}}).to_string();
        let result = Request::delete(World::new()).remove::<PriorityClass>(&class);
        assert_eq!(result.is_err(), stays, "{name}");
        if let Err(refusal) = result {
            assert_eq!(
                refusal.message,
                format!(
                    r#"priorityclasses.scheduling.k8s.io "{name}" is forbidden: this is a system priority class and cannot be deleted"#
                )
            );
        }
    }
}
