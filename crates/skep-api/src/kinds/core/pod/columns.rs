//! The columns of `kubectl get pods`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};

use super::view::{is_sidecar, items, text, yes};
use crate::meta;
use crate::table::{Cell, Column};

/// What a node controller writes into the status of pods whose node is gone.
const NODE_LOST: &str = "NodeLost";
const NONE: &str = "<none>";

/// Headings.
pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::NAME,
        Column::string("Ready", "How many of the pod's containers are ready, and how many there are."),
        Column::string("Status", "What the pod is doing, judged by its containers."),
        Column::string("Restarts", "How often containers were restarted, and when the last time was."),
        Column::AGE,
        Column::string("IP", "The address of the pod.").wide(),
        Column::string("Node", "The node that the pod runs on.").wide(),
        Column::string("Nominated Node", "The node that is being cleared for the pod.").wide(),
        Column::string("Readiness Gates", "How many of the conditions that readiness waits for are met.")
            .wide(),
    ]
}

/// What is counted on the way through the containers.
#[derive(Default)]
struct Count {
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Count {
    fn add_restarts(&mut self, status: &ContainerStatus) {
        self.restarts += i64::from(status.restart_count);
        let ended = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let ended = ended.and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
        self.last_restart = self.last_restart.max(ended);
    }
}

fn waiting(state: Option<&ContainerState>) -> Option<&str> {
    state.and_then(|s| s.waiting.as_ref()).map(|w| text(&w.reason)).filter(|r| !r.is_empty())
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref().and_then(|s| s.terminated.as_ref())
}

/// Why a container ended: its reason, else its signal, else its exit code.
fn end_of(state: &ContainerStateTerminated, prefix: &str) -> String {
    match (text(&state.reason), state.signal.unwrap_or(0)) {
        ("", 0) => format!("{prefix}ExitCode:{}", state.exit_code),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

/// Looks at the init containers in order, until one that is not done. What that one does is the status of
/// the pod; `None` when all are done.
fn initializing(
    spec: &PodSpec,
    status: &PodStatus,
    count: &mut Count,
    sidecars: &mut Count,
) -> Option<String> {
    let init = items(&spec.init_containers);
    for (i, c) in items(&status.init_container_statuses).iter().enumerate() {
        let sidecar = init.iter().rfind(|s| s.name == c.name).is_some_and(is_sidecar);
        count.add_restarts(c);
        if sidecar {
            sidecars.add_restarts(c);
        }
        match terminated(c) {
            Some(end) if end.exit_code == 0 => continue,
            _ if sidecar && yes(c.started) => count.ready += usize::from(c.ready),
            Some(end) => return Some(end_of(end, "Init:")),
            None => {
                return Some(match waiting(c.state.as_ref()).filter(|r| *r != "PodInitializing") {
                    Some(reason) => format!("Init:{reason}"),
                    None => format!("Init:{i}/{}", init.len()),
                });
            }
        }
    }
    None
}

fn has_condition(status: &PodStatus, name: &str) -> bool {
    items(&status.conditions).iter().find(|c| c.type_ == name).is_some_and(|c| c.status == "True")
}

/// The cells of one pod.
pub(super) fn row(pod: &Pod, now: Timestamp) -> Vec<Cell> {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let (reason, total, count) = summarize(pod, spec, status);
    let restarts = match count.last_restart {
        Some(last) if count.restarts != 0 => format!("{} ({} ago)", count.restarts, meta::age(last, now)),
        _ => count.restarts.to_string(),
    };
    let or_none = |value: &str| -> Cell { if value.is_empty() { NONE.into() } else { value.into() } };
    let ip = items(&status.pod_ips).first().map_or("", |ip| ip.ip.as_str());
    let gates = items(&spec.readiness_gates);
    let gates: Cell = if gates.is_empty() {
        NONE.into()
    } else {
        let met = gates.iter().filter(|g| has_condition(status, &g.condition_type)).count();
        format!("{met}/{}", gates.len()).into()
    };
    vec![
        meta::name_cell(&pod.metadata),
        format!("{}/{total}", count.ready).into(),
        reason.into(),
        restarts.into(),
        meta::age_cell(&pod.metadata, now),
        or_none(ip),
        or_none(text(&spec.node_name)),
        or_none(text(&status.nominated_node_name)),
        gates,
    ]
}

/// The status in a word, the number of containers, and what was counted.
fn summarize(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> (String, usize, Count) {
    let total = spec.containers.len() + items(&spec.init_containers).iter().filter(|c| is_sidecar(c)).count();
    let phase = text(&status.phase);
    let status_reason = text(&status.reason);
    let mut reason = if status_reason.is_empty() { phase } else { status_reason }.to_owned();
    let gated = |c: &k8s_openapi::api::core::v1::PodCondition| {
        c.type_ == "PodScheduled" && text(&c.reason) == "SchedulingGated"
    };
    if items(&status.conditions).iter().any(gated) {
        "SchedulingGated".clone_into(&mut reason);
    }
    let (mut count, mut sidecars) = (Count::default(), Count::default());
    let init = initializing(spec, status, &mut count, &mut sidecars);
    let still_initializing = init.is_some();
    if let Some(init) = init {
        reason = init;
    }
    if !still_initializing || has_condition(status, "Initialized") {
        count.restarts = sidecars.restarts;
        count.last_restart = sidecars.last_restart;
        let (mut running, mut error) = (false, None);
        // The first container that has something to say has the last word.
        for c in items(&status.container_statuses).iter().rev() {
            count.add_restarts(c);
            if let Some(why) = waiting(c.state.as_ref()) {
                why.clone_into(&mut reason);
            } else if let Some(end) = terminated(c) {
                reason = end_of(end, "");
                if end.exit_code != 0 {
                    error = Some(reason.clone());
                }
            } else if c.ready && c.state.as_ref().is_some_and(|s| s.running.is_some()) {
                running = true;
                count.ready += 1;
            }
        }
        if reason == "Completed" {
            if running && items(&status.conditions).iter().any(|c| c.type_ == "Ready" && c.status == "True") {
                "Running".clone_into(&mut reason);
            } else if let Some(error) = error {
                reason = error;
            } else if running {
                "NotReady".clone_into(&mut reason);
            }
        }
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status_reason == NODE_LOST {
            "Unknown".clone_into(&mut reason);
        } else if !matches!(phase, "Failed" | "Succeeded") {
            "Terminating".clone_into(&mut reason);
        }
    }
    (reason, total, count)
}
