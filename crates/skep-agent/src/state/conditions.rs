//! The pod's conditions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Phase;
use crate::spec;

/// The conditions that this agent sets; all others belong to others and stay as they are.
const OWNED: [&str; 6] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "AllContainersRestarting",
];

/// Whether a condition is one that this agent sets.
pub(super) fn is_owned(kind: &str) -> bool {
    OWNED.contains(&kind)
}

/// A condition by its type.
#[must_use]
pub fn condition<'a>(conditions: &'a [PodCondition], kind: &str) -> Option<&'a PodCondition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether a condition is there and `True`.
#[must_use]
pub fn has_condition(conditions: &[PodCondition], kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|c| c.status == "True")
}

/// Sets a condition; its transition time moves only when its status does.
pub fn set_condition(conditions: &mut Vec<PodCondition>, mut new: PodCondition, now: Timestamp) {
    let old = conditions.iter().position(|c| c.type_ == new.type_);
    new.last_transition_time = match old.and_then(|i| conditions.get(i)) {
        Some(old) if old.status == new.status => old.last_transition_time.clone(),
        _ => Some(Time(now)),
    };
    match old.and_then(|i| conditions.get_mut(i)) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

fn make(pod: &Pod, kind: &str, status: bool, reason: &str, message: String) -> PodCondition {
    PodCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        message: (!message.is_empty()).then_some(message),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

/// Names as Go prints a list of strings, which is what clients see: `[a b]`.
fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn lacking(unknown: &[&str], what: &str, bad: &[&str]) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", go_list(unknown)));
    }
    if !bad.is_empty() {
        parts.push(format!("containers with {what} status: {}", go_list(bad)));
    }
    parts.join(", ")
}

fn containers_ready(pod: &Pod, kind: &str, statuses: &[ContainerStatus], phase: Phase) -> PodCondition {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    for c in sidecars.chain(spec::containers(pod)) {
        match statuses.iter().find(|s| s.name == c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) if !s.ready => unready.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == Phase::Succeeded && unknown.is_empty() {
        return make(pod, kind, false, "PodCompleted", String::new());
    }
    if phase == Phase::Failed {
        return make(pod, kind, false, "PodFailed", String::new());
    }
    let message = lacking(&unknown, "unready", &unready);
    if message.is_empty() {
        make(pod, kind, true, "", String::new())
    } else {
        make(pod, kind, false, "ContainersNotReady", message)
    }
}

fn ready(pod: &Pod, others: &[PodCondition], statuses: &[ContainerStatus], phase: Phase) -> PodCondition {
    let containers = containers_ready(pod, "Ready", statuses, phase);
    if containers.status != "True" {
        return containers;
    }
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let messages: Vec<String> = gates
        .iter()
        .filter_map(|gate| match condition(others, &gate.condition_type) {
            None => Some(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => Some(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => None,
        })
        .collect();
    if messages.is_empty() {
        containers
    } else {
        make(pod, "Ready", false, "ReadinessGatesNotReady", messages.join(", "))
    }
}

fn initialized(pod: &Pod, old: &[PodCondition], statuses: &[ContainerStatus], phase: Phase) -> PodCondition {
    const KIND: &str = "Initialized";
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for c in spec::init_containers(pod) {
        match statuses.iter().find(|s| s.name == c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) => {
                let done = if spec::is_sidecar(c) { s.started == Some(true) } else { s.ready };
                if !done {
                    incomplete.push(c.name.as_str());
                }
            }
        }
    }
    if phase == Phase::Succeeded && unknown.is_empty() {
        return make(pod, KIND, true, "PodCompleted", String::new());
    }
    // Sidecars may come and go afterwards: initialized once is initialized.
    let regular_started = spec::containers(pod)
        .iter()
        .filter_map(|c| statuses.iter().find(|s| s.name == c.name))
        .any(|s| s.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some()));
    let message = lacking(&unknown, "incomplete", &incomplete);
    if regular_started || message.is_empty() || has_condition(old, KIND) {
        make(pod, KIND, true, "", String::new())
    } else {
        make(pod, KIND, false, "ContainersNotInitialized", message)
    }
}

/// All conditions: others' as they are, and this agent's own.
pub(super) fn all(
    pod: &Pod,
    old: &[PodCondition],
    statuses: &[ContainerStatus],
    phase: Phase,
    sandbox_ready: bool,
    restarting_all: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let theirs = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut conditions: Vec<PodCondition> = theirs.iter().filter(|c| !is_owned(&c.type_)).cloned().collect();
    // Set once by an eviction, and not derived from containers.
    if let Some(disrupted) = condition(old, "DisruptionTarget") {
        conditions.retain(|c| c.type_ != "DisruptionTarget");
        conditions.push(disrupted.clone());
    }
    let ready = ready(pod, &conditions, statuses, phase);
    let mut own = vec![
        make(pod, "PodReadyToStartContainers", sandbox_ready, "", String::new()),
        initialized(pod, old, statuses, phase),
        ready,
        containers_ready(pod, "ContainersReady", statuses, phase),
        make(pod, "PodScheduled", true, "", String::new()),
    ];
    if could_restart_all(pod) {
        own.push(if restarting_all && !phase.is_terminal() {
            let message = "container exited with restart policy rule".to_owned();
            make(pod, "AllContainersRestarting", true, "RestartAllContainersStarted", message)
        } else {
            let reason = match phase {
                Phase::Succeeded => "PodCompleted",
                Phase::Failed => "PodFailed",
                _ => "",
            };
            make(pod, "AllContainersRestarting", false, reason, String::new())
        });
    }
    for mut new in own {
        let before = condition(old, &new.type_).or_else(|| condition(theirs, &new.type_));
        new.last_transition_time = match before {
            Some(before) if before.status == new.status => {
                before.last_transition_time.clone().or(Some(Time(now)))
            }
            _ => Some(Time(now)),
        };
        conditions.push(new);
    }
    conditions
}

fn could_restart_all(pod: &Pod) -> bool {
    spec::init_containers(pod).iter().chain(spec::containers(pod)).any(|c| {
        c.restart_policy_rules
            .as_deref()
            .unwrap_or_default()
            .iter()
            .any(|rule| rule.action == "RestartAllContainers")
    })
}
