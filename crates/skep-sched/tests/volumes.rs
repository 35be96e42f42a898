//! Volumes: bound, unbound, to be made, limited, in zones; and what is said when they cannot be had.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skep_sched::views::PodView;
use skep_sched::{Cluster, Placement, PodFacts, Preemption, VolumeStep};

fn cluster(nodes: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::new();
    for (name, zone) in nodes {
        let view = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": zone}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}});
        cluster.upsert_node(&serde_json::from_value(view).unwrap());
    }
    cluster
}

fn claim(cluster: &mut Cluster, name: &str, size: &str, more: Value) {
    let mut view = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": {"requests": {"storage": size}}},
        "status": {"phase": "Pending"}});
    merge(&mut view, more);
    cluster.storage_mut().set_claim("ns", name, Some(serde_json::from_value(view).unwrap()));
}

fn volume(cluster: &mut Cluster, name: &str, size: &str, node: Option<&str>, more: Value) {
    let mut view = json!({
        "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local"},
        "status": {"phase": "Available"}});
    if let Some(node) = node {
        view["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
    }
    merge(&mut view, more);
    cluster.storage_mut().set_volume(name, Some(serde_json::from_value(view).unwrap()));
}

fn class(cluster: &mut Cluster, provisioner: &str, mode: &str, more: Value) {
    let mut view =
        json!({"metadata": {"name": "local"}, "provisioner": provisioner, "volumeBindingMode": mode});
    merge(&mut view, more);
    cluster.storage_mut().set_class("local", Some(serde_json::from_value(view).unwrap()));
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn pod(name: &str, claims: &[&str]) -> PodView {
    let volumes: Vec<Value> =
        claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"},
        "spec": {"containers": [{"name": "c"}], "volumes": volumes}}))
    .unwrap()
}

fn schedule(cluster: &mut Cluster, pod: &PodView) -> Result<Placement, String> {
    let template = cluster.template(pod);
    cluster.schedule(&pod.key(), &template, None, 1).map_err(|d| d.message())
}

const BOUND: &str = "pv.kubernetes.io/bind-completed";

#[test]
fn a_bound_volume_draws_its_pod_to_where_it_can_be_reached() {
    let mut cluster = cluster(&[("a", "z1"), ("b", "z2"), ("c", "z2")]);
    claim(
        &mut cluster,
        "data",
        "1Gi",
        json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": "pv"}}),
    );
    let pod = pod("p", &["data"]);
    let missing = schedule(&mut cluster, &pod).unwrap_err();
    assert_eq!(missing, "0/3 nodes are available: persistentvolume \"pv\" not found.");
    volume(&mut cluster, "pv", "1Gi", Some("b"), json!({"status": {"phase": "Bound"}}));
    let placement = schedule(&mut cluster, &pod).unwrap();
    assert_eq!((placement.node.as_str(), placement.feasible, placement.volumes), ("b", 1, vec![]));
    volume(&mut cluster, "pv", "1Gi", Some("elsewhere"), json!({}));
    assert_eq!(
        schedule(&mut cluster, &pod).unwrap_err(),
        "0/3 nodes are available: 3 node(s) didn't match PersistentVolume's node affinity."
    );
    // A volume without affinity but in a zone.
    volume(
        &mut cluster,
        "pv",
        "1Gi",
        None,
        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z2__z3"}}}),
    );
    assert_eq!(schedule(&mut cluster, &pod).unwrap().feasible, 2);
}

#[test]
fn claims_that_cannot_be_used_are_named() {
    let mut cluster = cluster(&[("a", "z1")]);
    let pod = pod("p", &["data"]);
    let none = schedule(&mut cluster, &pod).unwrap_err();
    assert_eq!(none, "0/1 nodes are available: persistentvolumeclaim \"data\" not found.");
    class(&mut cluster, "x", "Immediate", json!({}));
    claim(&mut cluster, "data", "1Gi", json!({}));
    let immediate = schedule(&mut cluster, &pod).unwrap_err();
    assert_eq!(immediate, "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.");
    claim(&mut cluster, "data", "1Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let going = schedule(&mut cluster, &pod).unwrap_err();
    assert_eq!(going, "0/1 nodes are available: persistentvolumeclaim \"data\" is being deleted.");
    // Nothing that goes helps.
    let template = cluster.template(&pod);
    let Preemption::Nothing { why, .. } = cluster.preempt("ns/p", &template, None, 0) else { panic!() };
    assert_eq!(why, "0/1 nodes are available: 1 Preemption is not helpful for scheduling.");
}

#[test]
fn unbound_claims_get_the_smallest_volumes_that_suit_and_no_volume_twice() {
    let mut cluster = cluster(&[("a", "z1"), ("b", "z1")]);
    class(&mut cluster, "kubernetes.io/no-provisioner", "WaitForFirstConsumer", json!({}));
    claim(&mut cluster, "small", "1Gi", json!({}));
    claim(&mut cluster, "large", "5Gi", json!({}));
    volume(&mut cluster, "v2", "2Gi", Some("a"), json!({}));
    volume(&mut cluster, "v3", "3Gi", Some("a"), json!({}));
    let pod = pod("p", &["small", "large"]);
    let refused = schedule(&mut cluster, &pod).unwrap_err();
    assert_eq!(
        refused,
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
    );
    volume(&mut cluster, "v8", "8Gi", Some("a"), json!({}));
    let placement = schedule(&mut cluster, &pod).unwrap();
    assert_eq!(placement.node, "a");
    let bound: Vec<(&str, &str)> = placement
        .volumes
        .iter()
        .map(|step| match step {
            VolumeStep::Bind { claim, volume, .. } => (claim.as_str(), volume.as_str()),
            VolumeStep::Provision { .. } => panic!("{step:?}"),
        })
        .collect();
    assert_eq!(bound, [("small", "v2"), ("large", "v8")]);
    // Assumed, they are gone for the next.
    cluster.storage_mut().assume(&placement.volumes);
    claim(&mut cluster, "other", "5Gi", json!({}));
    assert!(schedule(&mut cluster, &self::pod("q", &["other"])).is_err());
}

#[test]
fn volumes_are_made_where_the_class_allows_and_there_is_room() {
    let mut cluster = cluster(&[("a", "z1"), ("b", "z2")]);
    let topologies = json!({"allowedTopologies": [{"matchLabelExpressions":
        [{"key": "topology.kubernetes.io/zone", "values": ["z2"]}]}]});
    class(&mut cluster, "driver", "WaitForFirstConsumer", topologies);
    claim(&mut cluster, "data", "5Gi", json!({}));
    let pod = pod("p", &["data"]);
    let placement = schedule(&mut cluster, &pod).unwrap();
    let made = VolumeStep::Provision { namespace: "ns".into(), claim: "data".into(), node: "b".into() };
    assert_eq!(placement.volumes, [made]);
    let driver = json!({"metadata": {"name": "driver"}, "spec": {"storageCapacity": true}});
    cluster.storage_mut().set_csi_driver("driver", Some(serde_json::from_value(driver).unwrap()));
    let refused = schedule(&mut cluster, &pod).unwrap_err();
    assert_eq!(
        refused,
        "0/2 nodes are available: 1 node(s) did not have enough free storage, \
         1 node(s) didn't find available persistent volumes to bind."
    );
    let room = json!({"storageClassName": "local", "capacity": "10Gi", "nodeTopology": {}});
    cluster.storage_mut().set_capacity("ns", "c", Some(serde_json::from_value(room).unwrap()));
    assert_eq!(schedule(&mut cluster, &pod).unwrap().node, "b");
}

#[test]
fn a_node_attaches_no_more_volumes_than_its_driver_can() {
    let mut cluster = cluster(&[("a", "z1")]);
    let limits = json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "csi", "allocatable": {"count": 1}}]}});
    cluster.storage_mut().set_csi_node("a", Some(serde_json::from_value(limits).unwrap()));
    for name in ["one", "two"] {
        let bound = json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": name}});
        claim(&mut cluster, name, "1Gi", bound);
        volume(
            &mut cluster,
            name,
            "1Gi",
            None,
            json!({"spec": {"csi": {"driver": "csi", "volumeHandle": name}}}),
        );
    }
    let first = pod("p", &["one"]);
    let template = cluster.template(&first);
    assert_eq!(schedule(&mut cluster, &first).unwrap().node, "a");
    cluster.place("ns/p", &template, "a", PodFacts::default());
    let second = schedule(&mut cluster, &pod("q", &["two"])).unwrap_err();
    assert_eq!(second, "0/1 nodes are available: 1 node(s) exceed max volume count.");
    // The same volume again is no further one.
    assert!(schedule(&mut cluster, &pod("r", &["one"])).is_ok());
}

#[test]
fn a_claim_for_one_pod_is_for_one_pod_until_that_goes() {
    let mut cluster = cluster(&[("a", "z1"), ("b", "z1")]);
    let exclusive = json!({"metadata": {"annotations": {BOUND: "yes"}},
        "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOncePod"]}});
    claim(&mut cluster, "data", "1Gi", exclusive);
    volume(&mut cluster, "pv", "1Gi", None, json!({}));
    let low = pod("low", &["data"]);
    let template = cluster.template(&low);
    cluster.place("ns/low", &template, "a", PodFacts::default());
    let mut high = pod("high", &["data"]);
    high.spec.priority = Some(10);
    let refused = schedule(&mut cluster, &high).unwrap_err();
    assert!(
        refused.contains("2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod"),
        "{refused}"
    );
    let template = cluster.template(&high);
    let expected = Preemption::Victims { node: "a".into(), victims: vec!["ns/low".into()] };
    assert_eq!(cluster.preempt("ns/high", &template, None, 0), expected);
    cluster.remove("ns/low");
    assert!(schedule(&mut cluster, &high).is_ok());
}

#[test]
fn disks_that_cannot_be_shared_are_on_one_node_once() {
    let mut cluster = cluster(&[("a", "z1")]);
    let with = |name: &str, disk: Value| -> PodView {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"},
            "spec": {"containers": [{"name": "c"}], "volumes": [disk]}}))
        .unwrap()
    };
    let gce =
        |read_only: bool| json!({"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}});
    let first = with("p", gce(true));
    let template = cluster.template(&first);
    cluster.place("ns/p", &template, "a", PodFacts::default());
    assert!(schedule(&mut cluster, &with("q", gce(true))).is_ok());
    let writing = schedule(&mut cluster, &with("r", gce(false))).unwrap_err();
    assert_eq!(writing, "0/1 nodes are available: 1 node(s) had no available disk.");
}
