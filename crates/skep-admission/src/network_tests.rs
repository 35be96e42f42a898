use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::{Value, json};
use skep_api::network::{Network, Port, Subnet};

use crate::testing::{Request, World};

fn world() -> World {
    let mut world = World::new();
    world.put(
        "",
        "pods",
        r#"{"metadata":{"name":"web","namespace":"ns","uid":"u-web"},"spec":{"nodeName":"n1","containers":[]}}"#,
    );
    world.put(
        "",
        "pods",
        r#"{"metadata":{"name":"static","namespace":"ns","uid":"u-static","annotations":{
            "network.skep.io/addresses":"10.64.0.9, fd00::9","network.skep.io/security-groups":"a,b",
            "network.skep.io/qos-policy":"gold"}},
            "spec":{"nodeName":"n1","containers":[]}}"#,
    );
    world.put(
        "",
        "pods",
        r#"{"metadata":{"name":"far","namespace":"ns","uid":"u-far"},"spec":{"nodeName":"n2","containers":[]}}"#,
    );
    world
}

fn port(pod: &str, changes: Value) -> String {
    let mut spec = json!({"networkName": "default", "podName": pod, "nodeName": "n1"});
    for (k, v) in changes.as_object().unwrap() {
        spec[k] = v.clone();
    }
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": format!("u-{pod}")}]);
    json!({"metadata": {"name": "p", "namespace": "ns", "ownerReferences": owner}, "spec": spec}).to_string()
}

fn by_node() -> Request {
    Request { node: Some("n1".into()), ..Request::create(world()) }
}

#[test]
fn a_node_makes_ports_of_its_pods_as_they_say() {
    by_node().admit::<Port>(&port("web", json!({})), None).unwrap();
    let asked = json!({
        "addresses": ["10.64.0.9", "fd00::9"], "securityGroupNames": ["a", "b"], "qosPolicyName": "gold",
    });
    by_node().admit::<Port>(&port("static", asked), None).unwrap();
    for (pod, change) in [
        ("far", json!({})),
        ("none", json!({})),
        ("web", json!({"nodeName": "n2"})),
        ("web", json!({"podName": null})),
        ("web", json!({"addresses": ["10.64.0.9"]})),
        ("web", json!({"mac": "02:00:00:00:00:01"})),
        ("web", json!({"nodeInterface": true})),
        ("web", json!({"allowedPairs": [{"address": "10.0.0.0/8"}]})),
        ("web", json!({"securityGroupNames": ["a"]})),
        ("web", json!({"qosPolicyName": "gold"})),
        ("web", json!({"networkName": "blue"})),
        ("static", json!({})),
    ] {
        let refused = by_node().admit::<Port>(&port(pod, change.clone()), None);
        assert!(refused.is_err(), "{pod} {change}");
    }
    let mut orphan: Value = serde_json::from_str(&port("web", json!({}))).unwrap();
    orphan["metadata"]["ownerReferences"] = json!(null);
    assert!(by_node().admit::<Port>(&orphan.to_string(), None).is_err());
}

#[test]
fn the_port_of_a_static_pod_is_its_nodes() {
    let mut world = world();
    world.put(
        "",
        "pods",
        r#"{"metadata":{"name":"static","namespace":"ns","uid":"u-static","annotations":{"kubernetes.io/config.mirror":"x"}},
            "spec":{"nodeName":"n1"}}"#,
    );
    let by_node = || Request { node: Some("n1".into()), ..Request::create(world.clone()) };
    let mut object: Value = serde_json::from_str(&port("static", json!({}))).unwrap();
    assert!(by_node().admit::<Port>(&object.to_string(), None).is_err(), "mirrors come and go");
    for (node, good) in [("n1", true), ("n2", false)] {
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": "u"}]);
        assert_eq!(by_node().admit::<Port>(&object.to_string(), None).is_ok(), good);
        let mut other: Value = serde_json::from_str(&port("web", json!({}))).unwrap();
        other["metadata"]["ownerReferences"] = object["metadata"]["ownerReferences"].clone();
        assert!(by_node().admit::<Port>(&other.to_string(), None).is_err(), "no other pod's");
    }
}

#[test]
fn a_port_says_what_its_pod_is() {
    let mut world = world();
    world.put(
        "",
        "pods",
        r#"{"metadata":{"name":"web","namespace":"ns","uid":"u-web","labels":{"app":"web"}},"spec":{"nodeName":"n1",
            "initContainers":[{"name":"i","restartPolicy":"Always","ports":[{"name":"side","containerPort":9}]},
                              {"name":"j","ports":[{"name":"before","containerPort":8}]}],
            "containers":[{"name":"c","ports":[{"name":"http","containerPort":80},{"containerPort":81},
                           {"name":"dns","containerPort":53,"protocol":"UDP"}]}]}}"#,
    );
    let lie = |pod: &str, changes: Value| {
        let mut port: Value = serde_json::from_str(&port(pod, changes)).unwrap();
        port["metadata"]["labels"] = json!({"app": "db"});
        port["metadata"]["annotations"] =
            json!({"network.skep.io/container-ports": "http=TCP/1", "mine": "stays"});
        port.to_string()
    };
    let create = || Request::create(world.clone());
    // Whoever writes it.
    for request in [create(), Request { node: Some("n1".into()), ..create() }] {
        let port: Port = request.admit(&lie("web", json!({})), None).unwrap();
        assert_eq!(port.metadata.labels.unwrap(), [("app".into(), "web".into())].into());
        let annotations = port.metadata.annotations.unwrap();
        assert_eq!(annotations["network.skep.io/container-ports"], "http=TCP/80,dns=UDP/53,side=TCP/9");
        assert_eq!(annotations["mine"], "stays");
    }
    let port: Port = create().admit(&lie("far", json!({"nodeName": "n2"})), None).unwrap();
    assert_eq!(port.metadata.labels, None);
    assert!(!port.metadata.annotations.unwrap().contains_key("network.skep.io/container-ports"));
    // One that waits for its pod, or has none, is whatever its owner says.
    for changes in [json!({"nodeName": null}), json!({"podName": null})] {
        let port: Port = create().admit(&lie("web", changes), None).unwrap();
        assert_eq!(port.metadata.labels.unwrap()["app"], "db");
    }
}

#[test]
fn a_node_changes_only_where_a_port_is() {
    let update = || Request { node: Some("n1".into()), ..Request::update(world()) };
    let free = port("web", json!({"nodeName": null}));
    update().admit::<Port>(&port("web", json!({})), Some(&free)).unwrap();
    let other = port("web", json!({"securityGroupNames": ["a"]}));
    assert!(update().admit::<Port>(&other, Some(&free)).is_err());
    let interface = port("web", json!({"nodeInterface": true}));
    assert!(update().admit::<Port>(&interface, Some(&interface)).is_err());

    let delete = || Request { node: Some("n1".into()), ..Request::delete(world()) };
    delete().remove::<Port>(&port("web", json!({}))).unwrap();
    assert!(delete().remove::<Port>(&port("web", json!({"nodeName": "n2"}))).is_err());
    assert!(delete().remove::<Port>(&port("web", json!({"podName": null, "nodeInterface": true}))).is_err());
}

#[test]
fn only_the_operator_chooses_what_reaches_outside() {
    let create = || Request::create(world());
    let network = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec}).to_string();
    create().admit::<Network>(&network(json!({"mtu": 1400})), None).unwrap();
    assert!(create().admit::<Network>(&network(json!({"vni": 5000})), None).is_err());
    create().admit::<Port>(&port("web", json!({"nodeName": null})), None).unwrap();
    for change in [json!({"mac": "02:00:00:00:00:01"}), json!({"nodeInterface": true})] {
        assert!(create().admit::<Port>(&port("web", change), None).is_err());
    }
    let status = Request { subresource: "status", ..Request::update(world()) };
    assert!(status.admit::<Port>(&port("web", json!({})), Some(&port("web", json!({})))).is_err());
}

#[test]
fn what_is_in_use_stays() {
    let mut world = world();
    world.put(
        "network.skep.io",
        "subnets",
        r#"{"apiVersion":"network.skep.io/v1","kind":"Subnet","metadata":{"name":"s"},"spec":{"networkName":"blue","cidr":"10.1.0.0/16"}}"#,
    );
    world.put(
        "allocations.skep.io",
        "portaddresses",
        r#"{"metadata":{"name":"10.1.0.7","namespace":"blue"},"owner":"ns/p","ip":"10.1.0.7"}"#,
    );
    let delete = Request::delete(world);
    let network = |name: &str| json!({"metadata": {"name": name}, "spec": {}}).to_string();
    let refused = delete.remove::<Network>(&network("blue")).unwrap_err();
    assert!(refused.to_string().contains("delete its subnets first"), "{refused}");
    delete.remove::<Network>(&network("red")).unwrap();
    let subnet = |cidr: &str| {
        json!({"metadata": {"name": "s"}, "spec": {"networkName": "blue", "cidr": cidr}}).to_string()
    };
    let refused = delete.remove::<Subnet>(&subnet("10.1.0.0/16")).unwrap_err();
    assert!(refused.to_string().contains("ns/p"), "{refused}");
    delete.remove::<Subnet>(&subnet("10.2.0.0/16")).unwrap();
}

#[test]
fn a_pod_is_in_its_nodes_network() {
    let on = |node: &str, annotations: Value| {
        let mut world = world();
        world.put(
            "network.skep.io",
            "ports",
            r#"{"metadata":{"name":"node-blue","namespace":"kube-system"},"spec":{"networkName":"blue","nodeName":"blue","nodeInterface":true}}"#,
        );
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u-p", "annotations": annotations},
            "spec": {"nodeName": node, "containers": []}});
        world.put("", "pods", &pod.to_string());
        Request { node: Some(node.into()), ..Request::create(world) }
    };
    let asks = |network: &str| json!({"network.skep.io/network": network});
    for (node, annotations, network, right) in [
        ("blue", json!({}), "blue", true),
        ("blue", json!({}), "default", false),
        ("blue", asks("blue"), "blue", true),
        ("blue", asks("default"), "blue", false),
        ("blue", asks("default"), "default", false),
        ("n1", json!({}), "default", true),
        ("n1", json!({}), "blue", false),
        ("n1", asks("blue"), "blue", false),
        ("n1", asks("blue"), "default", false),
        ("n1", asks("default"), "default", true),
    ] {
        let asked = port("p", json!({"networkName": network, "nodeName": node}));
        let admitted = on(node, annotations.clone()).admit::<Port>(&asked, None);
        assert_eq!(admitted.is_ok(), right, "{node} {annotations} {network}: {admitted:?}");
    }
}

#[test]
fn a_pod_that_names_a_network_goes_to_a_node_in_it() {
    let admit = |network: &str, spec: Value| {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "annotations": {"network.skep.io/network": network}}, "spec": spec});
        Request::create(World::new()).admit::<Pod>(&pod.to_string(), None)
    };
    let pod = admit("blue", json!({"containers": [], "nodeSelector": {"a": "b"}})).unwrap();
    let selector = pod.spec.unwrap().node_selector.unwrap();
    assert_eq!(selector.get("network.skep.io/network").map(String::as_str), Some("blue"));
    assert_eq!(selector.get("a").map(String::as_str), Some("b"));
    // Its nodes are not for others.
    let tolerations = admit("blue", json!({"containers": []})).unwrap().spec.unwrap().tolerations.unwrap();
    let labels: BTreeMap<_, _> = [("network.skep.io/network".to_owned(), "blue".to_owned())].into();
    let mut taints = None;
    super::keep_others_away(Some(&labels), &mut taints);
    let again = taints.clone();
    super::keep_others_away(Some(&labels), &mut taints);
    assert_eq!(taints, again);
    let [taint] = &taints.unwrap()[..] else { panic!("one taint") };
    assert_eq!((taint.effect.as_str(), taint.value.as_deref()), ("NoSchedule", Some("blue")));
    let its = |t: &Toleration| {
        t.key.as_deref() == Some(&*taint.key) && t.value == taint.value && t.effect.is_none()
    };
    assert!(tolerations.iter().any(its), "{tolerations:?}");
    for labels in [None, Some(BTreeMap::from([("network.skep.io/network".to_owned(), "default".to_owned())]))]
    {
        let mut taints = None;
        super::keep_others_away(labels.as_ref(), &mut taints);
        assert_eq!(taints, None);
    }
    let other = json!({"containers": [], "nodeSelector": {"network.skep.io/network": "green"}});
    let refused = admit("blue", other).unwrap_err().to_string();
    assert!(refused.contains("\"blue\"") && refused.contains("\"green\""), "{refused}");
    // Nodes of the default network have no label; each of the terms alone would be enough.
    let term = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "Exists"}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [term("a"), term("b")]}}});
    for (spec, terms) in
        [(json!({"containers": []}), 1), (json!({"containers": [], "affinity": affinity}), 2)]
    {
        let pod = serde_json::to_value(admit("default", spec).unwrap()).unwrap();
        let all = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let all = all["nodeSelectorTerms"].as_array().unwrap();
        assert_eq!(all.len(), terms, "{pod:#}");
        let unlabelled = json!({"key": "network.skep.io/network", "operator": "DoesNotExist"});
        assert!(
            all.iter().all(|t| t["matchExpressions"].as_array().unwrap().contains(&unlabelled)),
            "{pod:#}"
        );
    }
}
