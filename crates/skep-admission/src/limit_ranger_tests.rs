use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use crate::testing::{Request, World};

fn world(limits: Value) -> World {
    let mut world = World::new();
    let range = json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": {"limits": [limits]}});
    world.put("", "limitranges", &range.to_string());
    world
}

fn container(requests: Value, limits: Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
}

fn pod(containers: Value, init: Value) -> String {
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
        "automountServiceAccountToken": false, "containers": containers, "initContainers": init}})
    .to_string()
}

fn refused(limits: Value, pod: &str) -> Option<String> {
    let result = Request::create(world(limits)).admit::<Pod>(pod, None);
    result.err().map(|r| r.message.strip_prefix("pods \"p\" is forbidden: ").unwrap().to_owned())
}

#[test]
fn containers_get_what_they_do_not_say() {
    let limits = json!({"type": "Container",
        "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}});
    let given = pod(
        json!([{"name": "a"}, container(json!({"cpu": "2"}), json!({"memory": "2Gi"}))]),
        json!([{"name": "i"}]),
    );
    let pod: Pod = Request::create(world(limits)).admit(&given, None).unwrap();
    let value = serde_json::to_value(&pod).unwrap();
    let resources = |pointer: &str| value.pointer(pointer).unwrap().clone();
    let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}});
    assert_eq!(resources("/spec/containers/0/resources"), full);
    assert_eq!(resources("/spec/initContainers/0/resources"), full);
    assert_eq!(
        resources("/spec/containers/1/resources"),
        json!({"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "2"}})
    );
    assert_eq!(
        pod.metadata.annotations.unwrap()["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; cpu limit for \
         container c; cpu request for init container i; cpu, memory limit for init container i"
    );
}

#[test]
fn a_pod_that_says_everything_stays_as_it_is() {
    let limits = json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}});
    let given = pod(json!([container(json!({"cpu": "1"}), json!({"cpu": "1"}))]), json!(null));
    let pod: Pod = Request::create(world(limits)).admit(&given, None).unwrap();
    assert!(pod.metadata.annotations.is_none());
    let bare: Pod = Request::create(world(json!({"type": "Pod", "max": {}})))
        .admit(&self::pod(json!([{"name": "a"}]), json!(null)), None)
        .unwrap();
    assert!(bare.spec.unwrap().containers[0].resources.is_none());
}

#[test]
fn bounds_hold() {
    let one = |requests: Value, limits: Value| pod(json!([container(requests, limits)]), json!(null));
    let c = |bound: Value| {
        let mut bound = bound;
        bound["type"] = json!("Container");
        bound
    };
    let min = || c(json!({"min": {"cpu": "100m", "memory": "1Mi"}}));
    let max = || c(json!({"max": {"cpu": "1"}}));
    let ratio = || c(json!({"maxLimitRequestRatio": {"cpu": "2"}}));
    let table = [
        (min(), one(json!({"cpu": "100m", "memory": "1Mi"}), json!({})), None),
        (
            min(),
            one(json!({"cpu": "50m"}), json!({})),
            Some(
                "[minimum cpu usage per Container is 100m, but request is 50m, minimum memory usage per Container is \
                 1Mi.  No request is specified]",
            ),
        ),
        (
            c(json!({"min": {"cpu": "100m"}})),
            one(json!({"cpu": "100m"}), json!({"cpu": "50m"})),
            Some("minimum cpu usage per Container is 100m, but limit is 50m"),
        ),
        (max(), one(json!({"cpu": "1"}), json!({"cpu": "1"})), None),
        (
            max(),
            one(json!({"cpu": "1"}), json!({})),
            Some("maximum cpu usage per Container is 1.  No limit is specified"),
        ),
        (
            max(),
            one(json!({}), json!({"cpu": "1500m"})),
            Some("maximum cpu usage per Container is 1, but limit is 1500m"),
        ),
        (
            max(),
            one(json!({"cpu": "2"}), json!({"cpu": "1"})),
            Some("maximum cpu usage per Container is 1, but request is 2"),
        ),
        (ratio(), one(json!({"cpu": "1"}), json!({"cpu": "2"})), None),
        (
            ratio(),
            one(json!({"cpu": "1"}), json!({"cpu": "2500m"})),
            Some("cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000"),
        ),
        (
            ratio(),
            one(json!({}), json!({"cpu": "1"})),
            Some(
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
        ),
        (
            ratio(),
            one(json!({"cpu": "1"}), json!({})),
            Some(
                "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
            ),
        ),
        // A pod counts as a whole, with its init containers.
        (
            json!({"type": "Pod", "max": {"cpu": "3"}}),
            pod(
                json!([container(json!({}), json!({"cpu": "2"})), container(json!({}), json!({"cpu": "2"}))]),
                json!(null),
            ),
            Some("maximum cpu usage per Pod is 3, but limit is 4"),
        ),
        (
            json!({"type": "Pod", "max": {"cpu": "3"}}),
            pod(
                json!([container(json!({}), json!({"cpu": "1"}))]),
                json!([container(json!({}), json!({"cpu": "4"}))]),
            ),
            Some("maximum cpu usage per Pod is 3, but limit is 4"),
        ),
        // Equal complaints are made once.
        (
            max(),
            pod(json!([{"name": "a"}, {"name": "b"}]), json!(null)),
            Some("maximum cpu usage per Container is 1.  No limit is specified"),
        ),
    ];
    for (limits, pod, want) in table {
        assert_eq!(refused(limits.clone(), &pod).as_deref(), want, "{limits} {pod}");
    }
}

#[test]
fn pods_change_only_through_resizes() {
    let limits = json!({"type": "Container", "max": {"cpu": "1"}});
    let small = pod(json!([container(json!({}), json!({"cpu": "1"}))]), json!(null));
    let large = pod(json!([container(json!({}), json!({"cpu": "2"}))]), json!(null));
    let mut request = Request::update(world(limits));
    assert!(request.admit::<Pod>(&large, Some(&small)).is_ok());
    request.subresource = "resize";
    assert!(request.admit::<Pod>(&large, Some(&small)).is_err());
    let mut going: Value = serde_json::from_str(&small).unwrap();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(request.admit::<Pod>(&large, Some(&going.to_string())).is_ok());
}

#[test]
fn claims_stay_within_bounds() {
    let limits =
        || json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}});
    let claim = |storage: Value| {
        json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"resources": {"requests": {"storage": storage}}}})
            .to_string()
    };
    let table = [
        ("1Gi", None),
        ("5Gi", None),
        ("512Mi", Some("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi")),
        ("6Gi", Some("maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi")),
    ];
    for (storage, want) in table {
        let result =
            Request::create(world(limits())).admit::<PersistentVolumeClaim>(&claim(json!(storage)), None);
        let want = want.map(|w| format!("persistentvolumeclaims \"c\" is forbidden: {w}"));
        assert_eq!(result.err().map(|r| r.message), want, "{storage}");
    }
}
