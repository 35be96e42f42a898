//! What `kubectl get pods` says about pods in all sorts of states.

use serde_json::{Value, json};

use super::*;
use crate::kinds::core::testing::row;

fn status(name: &str, state: Value) -> Value {
    json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn ready(name: &str) -> Value {
    json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}})
}

fn ended(code: i32, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason}})
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {"name": "p", "creationTimestamp": "2023-11-14T22:13:00Z"},
        "spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]},
        "status": status
    })
}

/// Ready, status and restarts.
fn cells(pod: &Value) -> (String, String, String) {
    let cells = row::<Pod>(pod);
    let text = |i: usize| cells[i].as_str().unwrap().to_owned();
    (text(1), text(2), text(3))
}

#[test]
fn statuses_of_containers() {
    let list = |phase: &str, a: Value, b: Value| pod(json!({"phase": phase, "containerStatuses": [a, b]}));
    let ready_condition = json!([{"type": "Ready", "status": "True"}]);
    let mut half = list("Running", status("a", ended(0, "Completed")), ready("b"));
    let not_ready = half.clone();
    half["status"]["conditions"] = ready_condition;
    let table = [
        (pod(json!({"phase": "Pending"})), "0/2", "Pending"),
        (pod(json!({"phase": "Failed", "reason": "Evicted"})), "0/2", "Evicted"),
        (list("Running", ready("a"), ready("b")), "2/2", "Running"),
        (
            list("Pending", status("a", json!({"waiting": {"reason": "ContainerCreating"}})), ready("b")),
            "1/2",
            "ContainerCreating",
        ),
        (
            list("Running", status("a", json!({"waiting": {"reason": "CrashLoopBackOff"}})), ready("b")),
            "1/2",
            "CrashLoopBackOff",
        ),
        (
            list("Succeeded", status("a", ended(0, "Completed")), status("b", ended(0, "Completed"))),
            "0/2",
            "Completed",
        ),
        (list("Failed", status("a", ended(1, "Error")), status("b", ended(0, "Completed"))), "0/2", "Error"),
        (list("Failed", status("a", ended(0, "Completed")), status("b", ended(1, "Error"))), "0/2", "Error"),
        (
            list("Failed", status("a", json!({"terminated": {"exitCode": 3}})), ready("b")),
            "1/2",
            "ExitCode:3",
        ),
        (
            list("Failed", status("a", json!({"terminated": {"exitCode": 3, "signal": 9}})), ready("b")),
            "1/2",
            "Signal:9",
        ),
        (half, "1/2", "Running"),
        (not_ready, "1/2", "NotReady"),
        (
            pod(json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
            ]})),
            "0/2",
            "SchedulingGated",
        ),
    ];
    for (pod, ready, reason) in table {
        let (r, s, _) = cells(&pod);
        assert_eq!((r.as_str(), s.as_str()), (ready, reason), "{pod}");
    }
}

#[test]
fn init_containers_and_sidecars() {
    let with_init = |statuses: Value| {
        let mut pod = pod(json!({"phase": "Pending", "initContainerStatuses": statuses}));
        pod["spec"]["initContainers"] = json!([
            {"name": "i", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}
        ]);
        pod
    };
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let mut sidecar = ready("s");
    sidecar["started"] = json!(true);
    let table = [
        (json!([status("i", waiting("PodInitializing"))]), "0/3", "Init:0/2"),
        (json!([status("i", json!({"running": {}}))]), "0/3", "Init:0/2"),
        (json!([status("i", waiting("ImagePullBackOff"))]), "0/3", "Init:ImagePullBackOff"),
        (json!([status("i", ended(1, "Error"))]), "0/3", "Init:Error"),
        (json!([status("i", json!({"terminated": {"exitCode": 2}}))]), "0/3", "Init:ExitCode:2"),
        (json!([status("i", json!({"terminated": {"exitCode": 2, "signal": 9}}))]), "0/3", "Init:Signal:9"),
        (
            json!([status("i", ended(0, "Completed")), status("s", waiting("PodInitializing"))]),
            "0/3",
            "Init:1/2",
        ),
        (json!([status("i", ended(0, "Completed")), sidecar]), "1/3", "Pending"),
    ];
    for (statuses, ready, reason) in table {
        let (r, s, _) = cells(&with_init(statuses.clone()));
        assert_eq!((r.as_str(), s.as_str()), (ready, reason), "{statuses}");
    }
}

#[test]
fn deletion_shows() {
    let mut going = pod(json!({"phase": "Running"}));
    going["metadata"]["deletionTimestamp"] = json!("2023-11-14T22:13:10Z");
    assert_eq!(cells(&going).1, "Terminating");
    going["status"]["phase"] = json!("Succeeded");
    assert_eq!(cells(&going).1, "Succeeded");
    going["status"]["reason"] = json!("NodeLost");
    assert_eq!(cells(&going).1, "Unknown");
}

#[test]
fn restarts_are_counted_and_dated() {
    let mut a = ready("a");
    a["restartCount"] = json!(3);
    let bare = pod(json!({"phase": "Running", "containerStatuses": [a, ready("b")]}));
    assert_eq!(cells(&bare).2, "3");
    // The tests' present is 22:13:20.
    a["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2023-11-14T22:08:20Z"}});
    let mut b = ready("b");
    b["restartCount"] = json!(1);
    b["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2023-11-14T20:00:00Z"}});
    assert_eq!(cells(&pod(json!({"phase": "Running", "containerStatuses": [a, b]}))).2, "4 (5m ago)");
}

#[test]
fn wide_cells() {
    let mut pod = pod(json!({
        "phase": "Running", "podIP": "10.0.0.1", "nominatedNodeName": "n2",
        "conditions": [{"type": "example.com/a", "status": "True"}, {"type": "example.com/b", "status": "False"}]
    }));
    assert_eq!(row::<Pod>(&pod)[4..], ["20s", "10.0.0.1", "<none>", "n2", "<none>"]);
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["readinessGates"] =
        json!([{"conditionType": "example.com/a"}, {"conditionType": "example.com/b"}]);
    assert_eq!(row::<Pod>(&pod)[5..], ["10.0.0.1", "n1", "n2", "1/2"]);
}

#[test]
fn templates() {
    let template = json!({"metadata": {"name": "t"}, "template": {
        "metadata": {"labels": {"a": "1", "b": "2"}},
        "spec": {"containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j:2"}]}
    }});
    assert_eq!(row::<k8s_openapi::api::core::v1::PodTemplate>(&template), ["t", "x,y", "i:1,j:2", "a=1,b=2"]);
}
