use serde_json::{Value, json};

use super::*;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

#[test]
fn a_pod_is_small() {
    assert!(size_of::<Pod>() <= 256, "{} bytes", size_of::<Pod>());
}

#[test]
fn a_pod_is_read() {
    let p = pod(json!({
        "metadata": {
            "name": "web-1", "namespace": "ns", "uid": "u", "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T11:00:00Z",
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5", "other": "x"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r", "controller": true}],
        },
        "spec": {"nodeName": "n1", "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "init"}],
                 "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:59:50Z"}],
            "containerStatuses": [{"name": "a", "restartCount": 2}, {"name": "b", "restartCount": 1}],
            "initContainerStatuses": [{"name": "side", "restartCount": 4}, {"name": "init", "restartCount": 9}],
        },
    }));
    assert_eq!((p.restarts, p.sidecar_restarts, p.deletion_cost), (2, 4, -5));
    assert!(p.is_active() && p.ready && p.is_available(10, now()) && !p.is_available(11, now()));
    assert_eq!(p.available_after(11, now()), Some(Duration::from_secs(1)));
    assert_eq!(p.available_after(10, now()), None);
    assert!(p.more.is_none(), "nothing of a replica set's pod is kept that only other owners read");
}

#[test]
fn owners_that_read_more_get_more() {
    let owned = |kind: &str, version: &str| {
        pod(json!({
            "metadata": {"name": "p", "finalizers": [JOB_TRACKING_FINALIZER],
                "annotations": {COMPLETION_INDEX: "3", INDEX_FAILURE_COUNT: "1"},
                "ownerReferences": [{"apiVersion": version, "kind": kind, "name": "o", "uid": "o", "controller": true}]},
            "spec": {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n7"]}]}]}}}},
            "status": {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 42}}}]},
        }))
    };
    let job = owned("Job", "batch/v1");
    assert_eq!((job.more().tracked, job.more().index, job.more().index_failures), (true, Some(3), Some(1)));
    assert_eq!(job.more().failed[0].exit_code, 42);
    assert!(job.more().claims.is_empty() && job.more().target_node.is_none());
    assert_eq!(owned("StatefulSet", "apps/v1").more().claims, [("d".into(), "c".into())]);
    assert_eq!(owned("DaemonSet", "apps/v1").more().target_node.as_deref(), Some("n7"));
}

#[test]
fn deletion_costs_are_read_strictly() {
    let table = [
        ("0", Some(0)),
        ("-1", Some(-1)),
        ("12", Some(12)),
        ("+1", None),
        ("01", None),
        ("-0", None),
        ("x", None),
        ("", None),
        ("2147483648", None),
    ];
    for (text, want) in table {
        assert_eq!(deletion_cost(text), want, "{text}");
    }
}

/// The order of upstream's table (`TestSortingActivePodsWithRanks`), first to go first.
#[test]
fn pods_are_given_up_in_upstreams_order() {
    let ready = |since: &str| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    let running = |name: &str, conditions: Value, created: &str, restarts: i32| {
        pod(
            json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [{"restartCount": restarts}]}}),
        )
    };
    let old = "2026-01-01T08:00:00Z";
    let new = "2026-01-01T11:59:30Z";
    let mut cheap = running("cheap", ready(old), old, 0);
    cheap.deletion_cost = -1;
    let list: Vec<(Pod, usize)> = vec![
        (pod(json!({"metadata": {"name": "unplaced"}, "status": {"phase": "Pending"}})), 0),
        (
            pod(
                json!({"metadata": {"name": "pending"}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}),
            ),
            0,
        ),
        (
            pod(
                json!({"metadata": {"name": "unknown"}, "spec": {"nodeName": "n"}, "status": {"phase": "Unknown"}}),
            ),
            0,
        ),
        (running("not-ready", json!([]), old, 0), 0),
        (cheap, 0),
        (running("crowded", ready(old), old, 0), 5),
        (running("less-crowded", ready(old), old, 0), 4),
        (running("ready-lately", ready(new), old, 0), 0),
        (running("restarted", ready(old), old, 3), 0),
        (running("young", ready(old), new, 1), 0),
        (running("old", ready(old), old, 1), 0),
    ];
    let mut shuffled = list.clone();
    shuffled.reverse();
    shuffled.swap(2, 7);
    shuffled.sort_by(|a, b| deletion_order((&a.0, a.1), (&b.0, b.1), now()));
    let names = |l: &[(Pod, usize)]| l.iter().map(|(p, _)| p.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&shuffled), names(&list));
}
