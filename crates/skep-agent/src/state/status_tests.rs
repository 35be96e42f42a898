//! Upstream's cases for what clients see of a pod.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::{Value, json};

use super::testing::{World, at, exited, pod, running};
use super::{InstanceState, ProbeResult, ProbeResults, StartFailure, has_condition, terminated_override};

fn shown(status: &PodStatus) -> Value {
    serde_json::to_value(status).unwrap()
}

fn container<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == name)
        .unwrap()
}

fn state(status: &PodStatus, name: &str) -> String {
    let state = container(status, name).state.clone().unwrap();
    if state.running.is_some() {
        "running".to_owned()
    } else if let Some(t) = state.terminated {
        format!("terminated {} {}", t.exit_code, t.reason.unwrap_or_default())
    } else {
        format!("waiting {}", state.waiting.unwrap().reason.unwrap_or_default())
    }
}

fn condition(status: &PodStatus, kind: &str) -> (String, String, String) {
    let c = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap_or_else(|| panic!("{kind}"));
    (c.status.clone(), c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())
}

#[test]
fn phases_of_two_containers() {
    // What a and b do, by restart policy: the phase. `u` has not been made.
    for (policy, a, b, expected) in [
        ("Always", "u", "u", "Pending"),
        ("Always", "r", "r", "Running"),
        ("Always", "0", "0", "Running"),
        ("Always", "1", "1", "Running"),
        ("Always", "r", "1", "Running"),
        ("Always", "r", "u", "Pending"),
        ("OnFailure", "0", "0", "Succeeded"),
        ("OnFailure", "1", "1", "Running"),
        ("OnFailure", "r", "1", "Running"),
        ("OnFailure", "0", "1", "Running"),
        ("Never", "0", "0", "Succeeded"),
        ("Never", "1", "1", "Failed"),
        ("Never", "0", "1", "Failed"),
        ("Never", "r", "1", "Running"),
        ("Never", "r", "u", "Pending"),
    ] {
        let mut w =
            World::new(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
        for (name, what) in [("a", a), ("b", b)] {
            match what {
                "u" => {}
                "r" => drop(w.run(name, running())),
                code => drop(w.run(name, exited(code.parse().unwrap()))),
            }
        }
        assert_eq!(w.status().phase.as_deref(), Some(expected), "{policy} {a} {b}");
    }
}

#[test]
fn phases_with_init_containers() {
    let with = |policy: &str| {
        World::new(
            json!({"restartPolicy": policy, "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}),
        )
    };
    for (policy, init, expected) in [
        ("Always", None, "Pending"),
        ("Always", Some(running()), "Pending"),
        ("Always", Some(exited(1)), "Pending"),
        ("Never", Some(exited(1)), "Failed"),
        ("Never", Some(exited(0)), "Pending"),
    ] {
        let mut w = with(policy);
        if let Some(state) = init.clone() {
            w.run("i", state);
        }
        assert_eq!(w.status().phase.as_deref(), Some(expected), "{policy} {init:?}");
    }
}

#[test]
fn the_life_of_a_pod() {
    let mut w = World::new(
        json!({"restartPolicy": "Never", "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}),
    );
    w.sandbox = Default::default();
    let s = w.next_status();
    assert_eq!(state(&s, "a"), "waiting PodInitializing");
    assert_eq!(condition(&s, "PodReadyToStartContainers").0, "False");
    assert_eq!(
        condition(&s, "Initialized"),
        ("False".into(), "ContainersNotInitialized".into(), "containers with incomplete status: [i]".into())
    );
    assert_eq!(
        condition(&s, "Ready"),
        ("False".into(), "ContainersNotReady".into(), "containers with unready status: [a]".into())
    );
    assert_eq!(s.qos_class.as_deref(), Some("BestEffort"));
    let begun = s.start_time;
    w.sandbox = super::Sandbox { ready: true, attempt: Some(0), ips: vec!["10.0.0.2".into()] };
    w.run("i", exited(0)).run("a", running());
    w.now = at(2_000);
    let s = w.next_status();
    assert_eq!((s.phase.as_deref(), s.pod_ip.as_deref()), (Some("Running"), Some("10.0.0.2")));
    assert_eq!(s.host_ip.as_deref(), Some("192.168.0.1"));
    assert_eq!(condition(&s, "Ready"), ("True".into(), String::new(), String::new()));
    assert_eq!(s.start_time, begun, "it begins once");
    let a = container(&s, "a");
    assert_eq!((a.ready, a.started, a.container_id.as_deref()), (true, Some(true), Some("skep://a-0")));
    let since = s.conditions.clone();
    w.now = at(3_000);
    assert_eq!(w.next_status().conditions, since, "nothing changed, so no transition times do");
    w.instances[1].state = exited(0);
    let s = w.next_status();
    assert_eq!((s.phase.as_deref(), state(&s, "a").as_str()), (Some("Succeeded"), "terminated 0 Completed"));
    assert_eq!(condition(&s, "Ready").1, "PodCompleted");
    assert_eq!(condition(&s, "Initialized"), ("True".into(), "PodCompleted".into(), String::new()));
    w.instances.clear();
    assert_eq!(w.status().phase.as_deref(), Some("Succeeded"), "what has ended stays ended");
}

#[test]
fn crash_loops_show_why_and_what_was() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.run("a", exited(3));
    let failure = StartFailure { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() };
    w.failures.insert("a".into(), failure.clone());
    let s = w.next_status();
    assert_eq!(state(&s, "a"), "waiting CrashLoopBackOff");
    let last = container(&s, "a").last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id.as_deref()), (3, Some("skep://a-0")));
    assert_eq!(s.phase.as_deref(), Some("Running"));
    w.run("a", running());
    let s = w.status();
    let a = container(&s, "a");
    assert_eq!((a.restart_count, state(&s, "a").as_str()), (1, "running"));
    assert_eq!(a.last_state.clone().unwrap().terminated.unwrap().exit_code, 3);
    // A container that is not to be started again shows its end, whatever failed before.
    let mut w = World::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    w.run("a", exited(3));
    w.failures.insert("a".into(), failure);
    assert_eq!(state(&w.status(), "a"), "terminated 3 Error");
}

#[test]
fn probes_decide_what_is_ready() {
    let probe = json!({"exec": {"command": ["true"]}});
    let mut w =
        World::new(json!({"containers": [{"name": "a", "startupProbe": probe, "readinessProbe": probe}]}));
    w.run("a", running());
    let results = |startup, readiness| ProbeResults { startup, liveness: None, readiness };
    for (given, expected) in [
        (results(None, None), (false, false)),
        (results(Some(ProbeResult::Unknown), None), (false, false)),
        (results(Some(ProbeResult::Success), None), (true, false)),
        (results(Some(ProbeResult::Success), Some(ProbeResult::Failure)), (true, false)),
        (results(Some(ProbeResult::Success), Some(ProbeResult::Success)), (true, true)),
    ] {
        w.probe("a-0", given);
        let s = w.status();
        let a = container(&s, "a");
        assert_eq!((a.started.unwrap(), a.ready), expected, "{given:?}");
    }
    w.next_status();
    w.probes.clear();
    assert!(container(&w.status(), "a").ready, "a restart of the agent takes nothing away");
    w.run("a", running());
    assert!(!container(&w.status(), "a").ready, "but a new run begins anew");
}

#[test]
fn readiness_gates() {
    let mut w =
        World::new(json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "lb"}]}));
    w.run("a", running());
    let s = w.status();
    assert_eq!(
        condition(&s, "Ready"),
        (
            "False".into(),
            "ReadinessGatesNotReady".into(),
            "corresponding condition of pod readiness gate \"lb\" does not exist.".into()
        )
    );
    assert_eq!(condition(&s, "ContainersReady").0, "True");
    w.pod.status = serde_json::from_value(json!({"conditions": [{"type": "lb", "status": "True"}]})).unwrap();
    let s = w.status();
    assert_eq!(condition(&s, "Ready").0, "True");
    assert!(has_condition(s.conditions.as_deref().unwrap(), "lb"), "others' conditions stay");
}

#[test]
fn containers_that_vanished() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.run("a", running());
    w.next_status();
    w.instances.clear();
    let s = w.status();
    assert_eq!(s.phase.as_deref(), Some("Running"), "it does not fall back to Pending");
    let a = container(&s, "a");
    assert_eq!(a.restart_count, 1);
    let last = a.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    w.run("a", InstanceState::Unknown);
    assert_eq!(state(&w.status(), "a"), "terminated 137 ContainerStatusUnknown");
}

#[test]
fn restart_counts_survive_a_reset() {
    let mut w = World::new(
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]}, {"name": "b"}]}),
    );
    w.run("a", exited(42)).run("b", running());
    let s = w.next_status();
    assert_eq!(condition(&s, "AllContainersRestarting").1, "RestartAllContainersStarted");
    assert_eq!(s.phase.as_deref(), Some("Running"));
    w.instances.retain(|i| i.name == "a");
    let s = w.next_status();
    assert_eq!(state(&s, "b"), "waiting RestartingAllContainers");
    assert_eq!(container(&s, "b").restart_count, 1);
    assert_eq!(s.phase.as_deref(), Some("Running"));
}

#[test]
fn a_sidecar_beside_a_finished_pod() {
    let mut w = World::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}]}));
    w.run("s", running());
    assert_eq!(w.status().phase.as_deref(), Some("Pending"));
    w.run("a", running());
    assert_eq!(w.status().phase.as_deref(), Some("Running"));
    w.instances[1].state = exited(0);
    assert_eq!(w.status().phase.as_deref(), Some("Running"), "the sidecar still runs");
    w.instances[0].state = exited(137);
    w.stopped = true;
    assert_eq!(w.status().phase.as_deref(), Some("Succeeded"), "how sidecars end does not count");
}

#[test]
fn pods_that_the_agent_ended() {
    let mut w = World::new(json!({"containers": [{"name": "a"}]}));
    w.run("a", exited(0));
    w.ended = Some((
        "DeadlineExceeded".into(),
        "Pod was active on the node longer than the specified deadline".into(),
    ));
    w.stopped = true;
    let s = w.next_status();
    assert_eq!((s.phase.as_deref(), s.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    assert_eq!(condition(&s, "Ready").1, "PodFailed");
    w.ended = None;
    assert_eq!(w.status().reason.as_deref(), Some("DeadlineExceeded"), "the reason stays with its phase");
}

#[test]
fn the_last_status_of_a_pod() {
    let w = World::new(
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i1"}, {"name": "i2"}]}),
    );
    let s = terminated_override(&w.pod, w.status(), w.now);
    assert_eq!(s.phase.as_deref(), Some("Failed"));
    assert_eq!(state(&s, "a"), "waiting PodInitializing", "it was never reached");
    assert_eq!(state(&s, "i2"), "waiting PodInitializing");
    let mut w = World::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    w.run("a", exited(0));
    w.stopped = true;
    let s = terminated_override(&w.pod, w.status(), w.now);
    assert_eq!(
        (state(&s, "a").as_str(), state(&s, "b").as_str()),
        ("terminated 0 Completed", "terminated 137 ContainerStatusUnknown")
    );
    assert_eq!(condition(&s, "ContainersReady").1, "PodFailed");
}

#[test]
fn static_facts() {
    let mut w = World::new(json!({"hostNetwork": true, "containers": [{"name": "a", "image": "busybox",
        "resources": {"requests": {"cpu": "1"}}, "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}]}));
    w.sandbox.ips.clear();
    let s = w.status();
    assert_eq!(s.pod_ip.as_deref(), Some("192.168.0.1"), "the machine's address is the pod's");
    assert_eq!(condition(&s, "PodReadyToStartContainers").0, "True");
    assert_eq!(container(&s, "a").image, "busybox");
    assert_eq!(shown(&s)["containerStatuses"][0]["volumeMounts"][0]["recursiveReadOnly"], "Disabled");
    assert_eq!(s.qos_class.as_deref(), Some("Burstable"));
    assert_eq!(s.observed_generation, Some(1));
    let _ = pod(json!({}));
}
