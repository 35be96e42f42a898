//! The status of a pod as clients see it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::phase::RESTARTING_ALL;
use super::plan::{restarting_all, should_start};
use super::{Instance, InstanceState, Observed, Phase, ProbeResult, conditions, phase};
use crate::spec::{self, ContainerKind};

/// The exit code of a container whose end nobody saw.
const UNKNOWN_EXIT_CODE: i32 = 137;
/// The reason that goes with it.
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// What a status depends on besides what is observed.
#[derive(Clone, Debug)]
pub struct StatusInput<'a> {
    /// The last status that was made; at first what the API server has.
    pub old: &'a PodStatus,
    /// The node's addresses, the primary one first.
    pub host_ips: &'a [String],
    /// Nothing will be started again.
    pub stopped_for_good: bool,
    /// Why the agent ended the pod: the status's reason and message, and the phase is `Failed`.
    pub ended: Option<&'a (String, String)>,
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..ContainerState::default()
    }
}

fn ended(reason: &str, message: &str, exit_code: i32) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn state_of(run: &Instance) -> Option<ContainerState> {
    Some(match &run.state {
        InstanceState::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
            ..ContainerState::default()
        },
        InstanceState::Created => waiting("", ""),
        InstanceState::Exited { started_at, finished_at, exit_code, reason, message } => ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(run.public_id()),
                exit_code: *exit_code,
                finished_at: Some(Time(*finished_at)),
                started_at: started_at.map(Time),
                reason: (!reason.is_empty()).then(|| reason.clone()),
                message: (!message.is_empty()).then(|| message.clone()),
                signal: None,
            }),
            ..ContainerState::default()
        },
        InstanceState::Unknown => return None,
    })
}

fn mount_statuses(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = c.volume_mounts.as_deref()?;
    Some(
        mounts
            .iter()
            .map(|m| {
                let read_only = m.read_only.unwrap_or(false);
                let recursive = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
                VolumeMountStatus {
                    mount_path: m.mount_path.clone(),
                    name: m.name.clone(),
                    read_only: m.read_only,
                    recursive_read_only: read_only
                        .then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
                    volume_status: None,
                }
            })
            .collect(),
    )
}

fn is_terminated(s: &ContainerStatus) -> bool {
    s.state.as_ref().is_some_and(|s| s.terminated.is_some())
}

fn is_running(s: &ContainerStatus) -> bool {
    s.state.as_ref().is_some_and(|s| s.running.is_some())
}

fn last_terminated(s: &ContainerStatus) -> bool {
    s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
}

struct Builder<'a> {
    o: &'a Observed<'a>,
    kind: ContainerKind,
    restarting: bool,
}

impl Builder<'_> {
    /// A container that the runtime knows nothing of.
    fn unseen(&self, c: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
        let default_reason = if spec::init_containers(self.o.pod).is_empty() {
            "ContainerCreating"
        } else {
            "PodInitializing"
        };
        let mut status = ContainerStatus {
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            state: Some(waiting(default_reason, "")),
            last_state: Some(ContainerState::default()),
            volume_mounts: mount_statuses(c),
            ..ContainerStatus::default()
        };
        let Some(old) = old else { return status };
        if is_terminated(old) {
            status = old.clone();
        } else {
            status.restart_count = old.restart_count;
            status.last_state = old.last_state.clone();
        }
        let was_waiting = old.state.as_ref().is_none_or(|s| s.waiting.is_some());
        if self.restarting && !was_waiting {
            const MESSAGE: &str = "The container is removed because RestartAllContainers in place";
            status.state = Some(waiting(RESTARTING_ALL, MESSAGE));
            status.last_state = Some(ended(RESTARTING_ALL, MESSAGE, UNKNOWN_EXIT_CODE));
            status.restart_count = old.restart_count + 1;
        } else if is_running(old) && !last_terminated(&status) {
            // It ran and is gone. With an end on record the pod does not fall back to Pending.
            status.last_state = Some(ended(
                STATUS_UNKNOWN,
                "The container could not be located when the pod was deleted.  The container used to be Running",
                UNKNOWN_EXIT_CODE,
            ));
            if self.o.pod.metadata.deletion_timestamp.is_none() {
                status.restart_count += 1;
            }
        }
        status
    }

    /// A container by its newest run, and the one before it.
    fn seen(
        &self,
        c: &Container,
        run: &Instance,
        previous: Option<&Instance>,
        old: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let mut status = ContainerStatus {
            name: c.name.clone(),
            restart_count: i32::try_from(run.restart_count).unwrap_or(i32::MAX),
            image: run.image.clone(),
            image_id: run.image_id.clone(),
            container_id: Some(run.public_id()),
            volume_mounts: old.and_then(|o| o.volume_mounts.clone()).or_else(|| mount_statuses(c)),
            last_state: Some(ContainerState::default()),
            resources: c.resources.clone(),
            allocated_resources: c.resources.as_ref().and_then(|r| r.requests.clone()),
            user: run.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: *uid,
                    gid: *gid,
                    supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
                }),
            }),
            ..ContainerStatus::default()
        };
        if let Some(old) = old {
            // Runs that were removed on purpose still count.
            status.restart_count = status.restart_count.max(old.restart_count);
            if old.container_id != status.container_id && is_terminated(old) {
                status.last_state = old.state.clone();
            } else if last_terminated(old) {
                status.last_state = old.last_state.clone();
            }
        }
        status.state = state_of(run).or_else(|| match old.filter(|o| is_running(o)) {
            Some(old) => {
                status.restart_count = old.restart_count + 1;
                Some(ended(
                    if self.restarting { RESTARTING_ALL } else { STATUS_UNKNOWN },
                    "The container could not be located when the pod was terminated",
                    UNKNOWN_EXIT_CODE,
                ))
            }
            None => Some(waiting("", "")),
        });
        if let Some(state) = previous.and_then(state_of) {
            status.last_state = Some(state);
        }
        status
    }

    /// A container that cannot be started says why, instead of what it last was.
    fn with_failure(&self, c: &Container, status: &mut ContainerStatus) {
        let run = self.o.newest(&c.name);
        if self.kind == ContainerKind::Init {
            if run.and_then(Instance::exit_code) == Some(0) && !spec::is_sidecar(c) {
                return;
            }
            // The runtime forgot an init container of a pod whose regular ones were made: it must have ended well.
            let regular_made = spec::containers(self.o.pod)
                .iter()
                .filter_map(|c| self.o.newest(&c.name))
                .any(|r| r.state != InstanceState::Unknown);
            let is_waiting = status.state.as_ref().is_some_and(|s| s.waiting.is_some());
            if run.is_none() && regular_made && !spec::is_sidecar(c) && is_waiting {
                status.state = Some(ended(
                    "Completed",
                    "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
                    0,
                ));
                return;
            }
        }
        if self.kind == ContainerKind::Ephemeral && run.is_some() {
            return;
        }
        if !should_start(self.o, c, run) {
            return;
        }
        let Some(failure) = self.o.failures.get(&c.name) else { return };
        if is_terminated(status) {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting(&failure.reason, &failure.message));
    }

    fn with_probes(&self, c: &Container, status: &mut ContainerStatus, old: Option<&ContainerStatus>) {
        // What was found before this agent was restarted holds until a probe says otherwise.
        let before = old.filter(|o| o.container_id.is_some() && o.container_id == status.container_id);
        let run = self.o.newest(&c.name).filter(|r| r.is_running() && is_running(status));
        let Some(run) = run else {
            status.started = Some(false);
            if self.kind == ContainerKind::Init && !spec::is_sidecar(c) {
                let code = status.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
                status.ready = code == Some(0);
            }
            return;
        };
        let probes = self.o.probes_of(run);
        let started = match probes.startup {
            Some(result) => result == ProbeResult::Success,
            None => c.startup_probe.is_none() || before.is_some_and(|b| b.started == Some(true)),
        };
        status.started = Some(started);
        if !started || (self.kind == ContainerKind::Init && !spec::is_sidecar(c)) {
            return;
        }
        status.ready = match probes.readiness {
            Some(result) => result == ProbeResult::Success,
            None => c.readiness_probe.is_none() || before.is_some_and(|b| b.ready),
        };
    }

    fn all(&self, list: &[Container], old: &[ContainerStatus]) -> Vec<ContainerStatus> {
        let mut statuses: Vec<ContainerStatus> = list
            .iter()
            .map(|c| {
                let old = old.iter().find(|s| s.name == c.name);
                let mut status = match self.o.newest_two(&c.name) {
                    (Some(run), previous) => self.seen(c, run, previous, old),
                    (None, _) => self.unseen(c, old),
                };
                self.with_failure(c, &mut status);
                if self.kind == ContainerKind::Ephemeral {
                    status.ready = false;
                } else {
                    self.with_probes(c, &mut status, old);
                }
                status
            })
            .collect();
        if self.kind != ContainerKind::Init {
            statuses.sort_by(|a, b| a.name.cmp(&b.name));
        }
        statuses
    }
}

/// The status that follows from what is observed.
#[must_use]
pub fn status(o: &Observed<'_>, input: &StatusInput<'_>) -> PodStatus {
    let old = input.old;
    let restarting = restarting_all(o);
    let of_kind = |kind: ContainerKind, old: &Option<Vec<ContainerStatus>>| {
        let list = spec::of_kind(o.pod, kind);
        Builder { o, kind, restarting }.all(&list, old.as_deref().unwrap_or_default())
    };
    let regular = of_kind(ContainerKind::Regular, &old.container_statuses);
    let init = of_kind(ContainerKind::Init, &old.init_container_statuses);
    let ephemeral = of_kind(ContainerKind::Ephemeral, &old.ephemeral_container_statuses);

    let mut both = init.clone();
    both.extend(regular.iter().cloned());
    let current_attempt = o.sandbox.attempt.unwrap_or(0);
    let was_initialized = spec::containers(o.pod)
        .iter()
        .any(|c| o.instances.iter().any(|i| i.name == c.name && i.sandbox_attempt == current_attempt));
    let mut phase = phase::phase(o.pod, &both, input.stopped_for_good, was_initialized);
    let api = o.pod.status.as_ref();
    let word = |s: &PodStatus| s.phase.as_deref().and_then(Phase::parse);
    let (old_phase, api_phase) = (word(old), api.and_then(word));
    // What has ended stays ended.
    if let Some(terminal) = [old_phase, api_phase].into_iter().flatten().find(|p| p.is_terminal()) {
        phase = terminal;
    }
    let (mut reason, mut message) = (None, None);
    if old_phase == Some(phase) {
        reason = old.reason.clone().or_else(|| api.and_then(|a| a.reason.clone()));
        message = old.message.clone().or_else(|| api.and_then(|a| a.message.clone()));
    }
    if let Some((why, what)) = input.ended {
        phase = Phase::Failed;
        reason = Some(why.clone());
        message = Some(what.clone());
    }
    if let Some(terminal) = api_phase.filter(|p| p.is_terminal()) {
        phase = terminal;
    }
    let conditions = conditions::all(
        o.pod,
        old.conditions.as_deref().unwrap_or_default(),
        &both,
        phase,
        !o.needs_sandbox(),
        restarting,
        o.now,
    );
    let pod_ips: Vec<PodIP> = if spec::host_network(o.pod) {
        input.host_ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()
    } else {
        o.sandbox.ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()
    };
    // A pod that has ended keeps the address that it had, for whoever reads its story.
    let pod_ips = if pod_ips.is_empty() && (input.stopped_for_good || phase.is_terminal()) {
        old.pod_ips.clone().unwrap_or_default()
    } else {
        pod_ips
    };
    let nothing_if_empty = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        container_statuses: nothing_if_empty(regular),
        init_container_statuses: nothing_if_empty(init),
        ephemeral_container_statuses: nothing_if_empty(ephemeral),
        host_ip: input.host_ips.first().cloned(),
        host_ips: (!input.host_ips.is_empty())
            .then(|| input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: pod_ips.first().map(|p| p.ip.clone()),
        pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
        qos_class: Some(crate::resources::qos_class(o.pod).as_str().to_owned()),
        start_time: start_time(old, api, o.now),
        observed_generation: o.pod.metadata.generation,
        // Others' fields stay theirs.
        nominated_node_name: api.and_then(|a| a.nominated_node_name.clone()),
        resource_claim_statuses: api.and_then(|a| a.resource_claim_statuses.clone()),
        extended_resource_claim_status: api.and_then(|a| a.extended_resource_claim_status.clone()),
        ..PodStatus::default()
    }
}

fn start_time(old: &PodStatus, api: Option<&PodStatus>, now: Timestamp) -> Option<Time> {
    old.start_time.clone().or_else(|| api.and_then(|a| a.start_time.clone())).or(Some(Time(now)))
}

/// The status of a pod whose containers are all gone: none may look as if it went on, and the phase is final.
#[must_use]
pub fn terminated_override(pod: &Pod, mut status: PodStatus, now: Timestamp) -> PodStatus {
    let lost = |s: &mut ContainerStatus| {
        if !is_terminated(s) {
            s.state = Some(ended(
                STATUS_UNKNOWN,
                "The container could not be located when the pod was terminated",
                UNKNOWN_EXIT_CODE,
            ));
        }
        s.ready &= spec::init_containers(pod).iter().any(|c| c.name == s.name);
        s.started = Some(false);
    };
    if has_initialized(pod, &status)
        && let Some(list) = &mut status.container_statuses
    {
        list.iter_mut().for_each(lost);
    }
    if let Some(list) = &mut status.init_container_statuses {
        // Init containers behind the last one that left a trace were never reached.
        let reached =
            list.iter().rposition(|s| !is_waiting(s) || last_terminated(s)).map_or(1, |last| last + 1);
        list.iter_mut().take(reached).for_each(lost);
    }
    let phase = status.phase.as_deref().and_then(Phase::parse).filter(|p| p.is_terminal());
    let phase = if spec::is_static(pod) { phase } else { Some(phase.unwrap_or(Phase::Failed)) };
    if let Some(phase) = phase {
        status.phase = Some(phase.as_str().to_owned());
        let reason = if phase == Phase::Failed { "PodFailed" } else { "PodCompleted" };
        let conditions = status.conditions.get_or_insert_default();
        for kind in ["Ready", "ContainersReady"] {
            let condition = k8s_openapi::api::core::v1::PodCondition {
                type_: kind.to_owned(),
                status: "False".to_owned(),
                reason: Some(reason.to_owned()),
                observed_generation: pod.metadata.generation,
                ..Default::default()
            };
            conditions::set_condition(conditions, condition, now);
        }
    }
    status
}

fn is_waiting(s: &ContainerStatus) -> bool {
    s.state.as_ref().is_none_or(|s| s.waiting.is_some())
}

fn has_initialized(pod: &Pod, status: &PodStatus) -> bool {
    let Some(last) = spec::init_containers(pod).last() else { return true };
    let regular = status.container_statuses.as_deref().unwrap_or_default();
    if regular.iter().any(|s| last_terminated(s) || !is_waiting(s)) {
        return true;
    }
    let inits = status.init_container_statuses.as_deref().unwrap_or_default();
    let Some(s) = inits.iter().find(|s| s.name == last.name) else { return false };
    if spec::is_sidecar(last) {
        return is_running(s) && s.started == Some(true);
    }
    [&s.state, &s.last_state]
        .into_iter()
        .flatten()
        .filter_map(|s| s.terminated.as_ref())
        .any(|t| t.exit_code == 0)
}
