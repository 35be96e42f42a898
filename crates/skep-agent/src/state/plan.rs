//! What is to be done to a pod next.

use super::{Instance, InstanceState, Observed, ProbeResult};
use crate::spec::{self, ContainerKind};
use k8s_openapi::api::core::v1::Container;

/// Why a container is killed; the grace period depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Its startup probe failed.
    StartupProbe,
    /// Its liveness probe failed.
    LivenessProbe,
    /// Its post-start hook failed.
    FailedPostStartHook,
    /// Its specification changed, or nobody knows what it does.
    Other,
}

/// A container to be killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedKill {
    /// The runtime's id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// For the event.
    pub message: String,
    /// Why.
    pub reason: KillReason,
}

/// A container to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStart {
    /// Which list it stands in.
    pub kind: ContainerKind,
    /// Where in that list.
    pub index: usize,
}

/// What is to be done to a pod next, in this order: kill, remove, make the sandbox, start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everything of the pod is to be stopped, its namespaces too.
    pub kill_pod: bool,
    /// Namespaces are to be made, and these are the how-manieth.
    pub create_sandbox: Option<u32>,
    /// Containers to be killed one by one.
    pub kill: Vec<PlannedKill>,
    /// Runs to be killed and forgotten, in this order: the pod begins anew in place.
    pub reset: Vec<PlannedKill>,
    /// Containers to be started, in this order.
    pub start: Vec<PlannedStart>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }

    fn start(&mut self, kind: ContainerKind, index: usize) {
        self.start.push(PlannedStart { kind, index });
    }
}

/// What is to be done to a pod that shall run.
#[must_use]
pub fn plan(o: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    if !o.needs_sandbox() && restarting_all(o) {
        plan.reset = reset_order(o);
        return plan;
    }
    if o.needs_sandbox() {
        plan_sandbox(o, &mut plan);
        return plan;
    }
    for (index, e) in spec::ephemeral_containers(o.pod).iter().enumerate() {
        // Whatever became of an earlier run, it is not repeated.
        if o.newest(&e.name).is_none() {
            plan.start(ContainerKind::Ephemeral, index);
        }
    }
    if !plan_init(o, &mut plan) || plan.kill_pod {
        return plan;
    }
    plan_regular(o, &mut plan);
    plan
}

fn succeeded(o: &Observed<'_>, c: &Container) -> bool {
    o.newest(&c.name).and_then(Instance::exit_code) == Some(0)
}

fn plan_sandbox(o: &Observed<'_>, plan: &mut Plan) {
    plan.kill_pod = true;
    let attempt = o.sandbox.attempt.map_or(0, |a| a + 1);
    let never = spec::restart_policy(o.pod) == spec::RestartPolicy::Never
        && !spec::containers(o.pod).iter().any(|c| spec::restarts_after_kill(o.pod, c));
    if never && attempt != 0 && !o.instances.is_empty() {
        // The pod ran once, and once was asked for.
        return;
    }
    let wanted: Vec<usize> = spec::containers(o.pod)
        .iter()
        .enumerate()
        .filter(|(_, c)| {
            let policy = spec::own_restart_policy(c).unwrap_or_else(|| spec::restart_policy(o.pod));
            policy != spec::RestartPolicy::OnFailure || !succeeded(o, c)
        })
        .map(|(i, _)| i)
        .collect();
    if wanted.is_empty() && any_regular_created(o) {
        return;
    }
    plan.create_sandbox = Some(attempt);
    if !spec::init_containers(o.pod).is_empty() {
        plan.start(ContainerKind::Init, 0);
        return;
    }
    for index in wanted {
        plan.start(ContainerKind::Regular, index);
    }
}

fn any_regular_created(o: &Observed<'_>) -> bool {
    spec::containers(o.pod)
        .iter()
        .filter_map(|c| o.newest(&c.name))
        .any(|i| !matches!(i.state, InstanceState::Unknown))
}

/// Plans init containers; says whether the regular ones may run.
fn plan_init(o: &Observed<'_>, plan: &mut Plan) -> bool {
    let inits = spec::init_containers(o.pod);
    if inits.is_empty() {
        return true;
    }
    // A regular container that runs proves that initialization is over, even when the runtime has forgotten the
    // init containers. One that has ended proves nothing: it may be from before a reboot.
    let mut initialized = spec::containers(o.pod)
        .iter()
        .filter_map(|c| o.newest(&c.name))
        .any(|i| matches!(i.state, InstanceState::Created | InstanceState::Running { .. }));
    let mut passed = initialized;
    let mut starts: Vec<usize> = Vec::new();
    // From the last to the first: the last one that ran tells how far the pod got.
    for (index, c) in inits.iter().enumerate().rev() {
        let sidecar = spec::is_sidecar(c);
        let Some(run) = o.newest(&c.name) else {
            if passed && sidecar {
                starts.push(index);
            }
            continue;
        };
        if passed && !sidecar {
            continue;
        }
        let last = index + 1 == inits.len();
        match &run.state {
            InstanceState::Created => starts.push(index),
            InstanceState::Running { .. } if sidecar => {
                if running_sidecar(o, c, run, index, plan, &mut starts) {
                    if last {
                        initialized = true;
                    } else if !passed {
                        starts.push(index + 1);
                    }
                    sidecar_checks(o, c, run, index, plan, &mut starts);
                }
            }
            InstanceState::Running { .. } => {}
            InstanceState::Exited { .. } if sidecar => starts.push(index),
            InstanceState::Exited { exit_code: 0, .. } => {
                if last {
                    initialized = true;
                } else {
                    starts.push(index + 1);
                }
            }
            InstanceState::Exited { exit_code, .. } => {
                if !spec::restarts(o.pod, c, *exit_code) {
                    plan.kill_pod = true;
                    plan.start.retain(|s| s.kind != ContainerKind::Init);
                    return false;
                }
                starts.push(index);
            }
            InstanceState::Unknown => {
                if !sidecar && !spec::restarts_after_kill(o.pod, c) {
                    plan.kill_pod = true;
                    return false;
                }
                plan.kill.push(PlannedKill {
                    id: run.id.clone(),
                    name: c.name.clone(),
                    message: "Init container is in \"unknown\" state, try killing it before restart"
                        .to_owned(),
                    reason: KillReason::Other,
                });
                starts.push(index);
            }
        }
        passed = true;
    }
    if !passed {
        starts.push(0);
    }
    starts.sort_unstable();
    starts.dedup();
    for index in starts {
        plan.start(ContainerKind::Init, index);
    }
    initialized
}

/// Whether a running sidecar counts as started. One that failed to is restarted.
fn running_sidecar(
    o: &Observed<'_>,
    c: &Container,
    run: &Instance,
    index: usize,
    plan: &mut Plan,
    starts: &mut Vec<usize>,
) -> bool {
    if c.startup_probe.is_none() {
        return true;
    }
    match o.probes_of(run).startup {
        Some(ProbeResult::Success) => true,
        Some(ProbeResult::Failure) => {
            plan.kill.push(PlannedKill {
                id: run.id.clone(),
                name: c.name.clone(),
                message: format!("Init container {} failed startup probe", c.name),
                reason: KillReason::StartupProbe,
            });
            starts.push(index);
            false
        }
        Some(ProbeResult::Unknown) | None => false,
    }
}

fn sidecar_checks(
    o: &Observed<'_>,
    c: &Container,
    run: &Instance,
    index: usize,
    plan: &mut Plan,
    starts: &mut Vec<usize>,
) {
    let (message, reason) = if changed(o, run) {
        (format!("Init container {} definition changed", c.name), KillReason::Other)
    } else if o.probes_of(run).liveness == Some(ProbeResult::Failure) {
        (format!("Init container {} failed liveness probe", c.name), KillReason::LivenessProbe)
    } else {
        return;
    };
    plan.kill.push(PlannedKill { id: run.id.clone(), name: c.name.clone(), message, reason });
    starts.push(index);
}

fn changed(o: &Observed<'_>, run: &Instance) -> bool {
    o.spec_hashes.get(&run.name).is_some_and(|hash| *hash != run.spec_hash)
}

fn plan_regular(o: &Observed<'_>, plan: &mut Plan) {
    let mut kept = 0;
    let mut starting = 0;
    for (index, c) in spec::containers(o.pod).iter().enumerate() {
        let run = o.newest(&c.name);
        let Some(run) = run.filter(|r| r.is_running()) else {
            if !should_start(o, c, run) {
                continue;
            }
            plan.start(ContainerKind::Regular, index);
            starting += 1;
            if let Some(run) = run.filter(|r| r.state == InstanceState::Unknown) {
                plan.kill.push(PlannedKill {
                    id: run.id.clone(),
                    name: c.name.clone(),
                    message: "Container is in \"unknown\" state, try killing it before restart".to_owned(),
                    reason: KillReason::Other,
                });
            }
            continue;
        };
        let probes = o.probes_of(run);
        let mut restart = spec::restarts_after_kill(o.pod, c);
        let (what, reason) = if changed(o, run) {
            restart = true;
            ("definition changed", KillReason::Other)
        } else if probes.liveness == Some(ProbeResult::Failure) {
            ("failed liveness probe", KillReason::LivenessProbe)
        } else if probes.startup == Some(ProbeResult::Failure) {
            ("failed startup probe", KillReason::StartupProbe)
        } else {
            kept += 1;
            continue;
        };
        let mut message = format!("Container {} {what}", c.name);
        if restart {
            message.push_str(", will be restarted");
            plan.start(ContainerKind::Regular, index);
            starting += 1;
        }
        plan.kill.push(PlannedKill { id: run.id.clone(), name: c.name.clone(), message, reason });
    }
    if kept == 0 && starting == 0 {
        plan.kill_pod = true;
        // Sidecars do not keep a pod alive whose work is done.
        plan.start.retain(|s| s.kind != ContainerKind::Init);
    }
}

/// Whether a container that does not run is to be started.
pub(super) fn should_start(o: &Observed<'_>, c: &Container, run: Option<&Instance>) -> bool {
    if o.pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    match run.map(|r| &r.state) {
        None | Some(InstanceState::Created | InstanceState::Unknown) => true,
        Some(InstanceState::Running { .. }) => false,
        Some(InstanceState::Exited { exit_code, .. }) => spec::restarts(o.pod, c, *exit_code),
    }
}

/// Whether a container's end asks for all containers of the pod to begin anew.
pub(super) fn restarting_all(o: &Observed<'_>) -> bool {
    if o.pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    spec::init_containers(o.pod).iter().chain(spec::containers(o.pod)).any(|c| triggers_reset(o, c))
}

fn triggers_reset(o: &Observed<'_>, c: &Container) -> bool {
    o.newest(&c.name)
        .and_then(Instance::exit_code)
        .and_then(|code| spec::matching_rule(c, code))
        .is_some_and(|rule| rule.action == "RestartAllContainers")
}

/// The runs that go when all containers begin anew: those that asked for it last, so that a crash in between
/// leaves the reason standing and the work is finished after it.
fn reset_order(o: &Observed<'_>) -> Vec<PlannedKill> {
    let mut order = Vec::new();
    for asked in [false, true] {
        for list in [spec::containers(o.pod), spec::init_containers(o.pod)] {
            for c in list.iter().filter(|c| triggers_reset(o, c) == asked) {
                let mut runs: Vec<&Instance> = o.instances.iter().filter(|i| i.name == c.name).collect();
                runs.sort_by_key(|i| (i.restart_count, i.created_at));
                order.extend(runs.into_iter().map(|run| PlannedKill {
                    id: run.id.clone(),
                    name: run.name.clone(),
                    message: format!("Container {} is removed because all containers restart", run.name),
                    reason: KillReason::Other,
                }));
            }
        }
    }
    order
}
