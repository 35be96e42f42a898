//! What a kubelet would show for a pod, as a pure function.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use skep_base::SharedStr;

use crate::{COMPLETE_AFTER, EXIT_CODE, Pace, STOP_AFTER};

/// What is read of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodView {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    deletion_timestamp: Option<SharedStr>,
    deletion_grace_period_seconds: Option<u64>,
    annotations: Annotations,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "sim.skep.io/complete-after-seconds")]
    complete_after: Option<SharedStr>,
    #[serde(rename = "sim.skep.io/exit-code")]
    exit_code: Option<SharedStr>,
    #[serde(rename = "sim.skep.io/stop-after-seconds")]
    stop_after: Option<SharedStr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<SharedStr>,
    restart_policy: Option<SharedStr>,
    host_network: bool,
    containers: Box<[Container]>,
    init_containers: Box<[Container]>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: Option<SharedStr>,
    image: Option<SharedStr>,
    restart_policy: Option<SharedStr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<SharedStr>,
}

/// What is to be done about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Act {
    /// Show it as running.
    Start,
    /// Show that its containers have ended, with this exit code.
    End(i32),
    /// Remove it: its containers have stopped.
    Remove,
}

impl PodView {
    pub(crate) fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref().filter(|n| !n.is_empty())
    }

    fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or("Pending")
    }

    /// What comes next, and how long that takes.
    pub(crate) fn next(&self, pace: &Pace) -> Option<(Act, Duration)> {
        let seconds = |text: &Option<SharedStr>, annotation: &str| {
            let parsed = text.as_ref()?.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0);
            if parsed.is_none() {
                tracing::warn!(annotation, "not a number of seconds");
            }
            parsed.map(Duration::from_secs_f64)
        };
        let annotations = &self.metadata.annotations;
        let ended = matches!(self.phase(), "Succeeded" | "Failed");
        if self.metadata.deletion_timestamp.is_some() {
            let grace = Duration::from_secs(self.metadata.deletion_grace_period_seconds.unwrap_or(0));
            let takes = seconds(&annotations.stop_after, STOP_AFTER).unwrap_or(pace.stop_after);
            let takes = if ended || self.phase() == "Pending" { Duration::ZERO } else { takes.min(grace) };
            return Some((Act::Remove, takes));
        }
        match self.phase() {
            "Pending" => Some((Act::Start, pace.start_after)),
            "Running" => {
                let by_itself = matches!(self.spec.restart_policy.as_deref(), Some("Never" | "OnFailure"));
                let after = seconds(&annotations.complete_after, COMPLETE_AFTER)
                    .or_else(|| by_itself.then_some(pace.complete_after))?;
                let code = annotations.exit_code.as_ref().and_then(|c| c.parse().ok());
                if annotations.exit_code.is_some() && code.is_none() {
                    tracing::warn!(annotation = EXIT_CODE, "not a number");
                }
                Some((Act::End(code.unwrap_or(0)), after))
            }
            _ => None,
        }
    }

    /// The status of a pod that runs.
    pub(crate) fn running(&self, now: &str, pod_ip: &str, host_ip: &str) -> Value {
        let pod_ip = if self.spec.host_network { host_ip } else { pod_ip };
        let state = json!({"running": {"startedAt": now}});
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now,
            "finishedAt": now}});
        let init = |c: &Container| {
            let sidecar = c.restart_policy.as_deref() == Some("Always");
            container_state(c, if sidecar { &state } else { &done }, true, sidecar)
        };
        json!({
            "phase": "Running", "startTime": now, "hostIP": host_ip, "hostIPs": [{"ip": host_ip}],
            "podIP": pod_ip, "podIPs": [{"ip": pod_ip}],
            "conditions": conditions(now, true, None),
            "containerStatuses":
                self.spec.containers.iter().map(|c| container(c, &state, true)).collect::<Vec<_>>(),
            "initContainerStatuses": self.spec.init_containers.iter().map(init).collect::<Vec<_>>(),
        })
    }

    /// The status of a pod whose containers have ended. Its start is kept.
    pub(crate) fn ended(&self, now: &str, code: i32) -> Value {
        let (phase, reason) = if code == 0 { ("Succeeded", "Completed") } else { ("Failed", "Error") };
        let state = json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": now,
            "finishedAt": now}});
        let why = if code == 0 { "PodCompleted" } else { "PodFailed" };
        json!({
            "phase": phase, "conditions": conditions(now, false, Some(why)),
            "containerStatuses":
                self.spec.containers.iter().map(|c| container(c, &state, false)).collect::<Vec<_>>(),
        })
    }
}

fn conditions(now: &str, ready: bool, reason: Option<&str>) -> Value {
    let ready = if ready { "True" } else { "False" };
    let one = |kind: &str, status: &str, reason: Option<&str>| {
        let mut condition =
            json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now});
        if let Some(reason) = reason {
            condition["reason"] = reason.into();
        }
        condition
    };
    json!([
        one("PodReadyToStartContainers", ready, None),
        one("Initialized", "True", None),
        one("Ready", ready, reason),
        one("ContainersReady", ready, reason),
        one("PodScheduled", "True", None),
    ])
}

fn container(c: &Container, state: &Value, runs: bool) -> Value {
    container_state(c, state, runs, runs)
}

fn container_state(c: &Container, state: &Value, ready: bool, started: bool) -> Value {
    let name = c.name.as_deref().unwrap_or_default();
    let image = c.image.as_deref().unwrap_or_default();
    json!({"name": name, "image": image, "imageID": format!("simulated://{image}"),
        "containerID": format!("simulated://{name}"), "ready": ready, "started": started, "restartCount": 0,
        "lastState": {}, "state": state})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> PodView {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_start_run_and_end_as_they_say() {
        let pace = Pace { stop_after: Duration::from_secs(7), ..Pace::default() };
        let next = |value: Value| pod(value).next(&pace);
        let second = Duration::from_secs(1);
        assert_eq!(next(json!({"status": {"phase": "Pending"}})), Some((Act::Start, Duration::ZERO)));
        assert_eq!(next(json!({"status": {"phase": "Running"}})), None);
        let job = json!({"spec": {"restartPolicy": "Never"}, "status": {"phase": "Running"}});
        assert_eq!(next(job.clone()), Some((Act::End(0), second)));
        let mut failing = job;
        failing["metadata"]["annotations"] = json!({COMPLETE_AFTER: "2.5", EXIT_CODE: "3"});
        assert_eq!(next(failing), Some((Act::End(3), Duration::from_millis(2500))));
        assert_eq!(next(json!({"status": {"phase": "Succeeded"}})), None);
    }

    #[test]
    fn pods_that_are_deleted_go_within_their_grace_period() {
        let pace = Pace { stop_after: Duration::from_secs(7), ..Pace::default() };
        let of = |grace: u64, phase: &str, annotations: Value| {
            pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z",
                "deletionGracePeriodSeconds": grace, "annotations": annotations}, "status": {"phase": phase}}))
            .next(&pace)
        };
        let after = |s| Some((Act::Remove, Duration::from_secs(s)));
        assert_eq!(of(30, "Running", json!({})), after(7));
        assert_eq!(of(3, "Running", json!({})), after(3));
        assert_eq!(of(30, "Running", json!({STOP_AFTER: "20"})), after(20));
        assert_eq!(of(30, "Failed", json!({})), after(0));
        assert_eq!(of(30, "Pending", json!({})), after(0));
    }

    #[test]
    fn a_running_pod_has_addresses_conditions_and_containers() {
        let view = pod(json!({"spec": {"containers": [{"name": "a", "image": "x:1"}],
            "initContainers": [{"name": "i", "image": "y"}, {"name": "s", "restartPolicy": "Always"}]}}));
        let status = view.running("2026-01-01T00:00:00Z", "10.0.0.1", "198.18.0.1");
        assert_eq!(status["podIP"], "10.0.0.1");
        assert_eq!(status["containerStatuses"][0]["ready"], true);
        assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
        assert_eq!(status["initContainerStatuses"][0]["started"], false);
        assert!(status["initContainerStatuses"][1]["state"]["running"].is_object());
        let ready = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "True");
        let ended = view.ended("2026-01-01T00:00:00Z", 2);
        assert_eq!(
            (&ended["phase"], &ended["conditions"][2]["reason"]),
            (&"Failed".into(), &"PodFailed".into())
        );
    }
}
