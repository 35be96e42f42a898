//! The pod's phase: one word for all its containers.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::spec;

/// One word for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything has started.
    Pending,
    /// Something runs or will again.
    Running,
    /// All ended well and nothing will run again.
    Succeeded,
    /// All ended, something of it not well.
    Failed,
}

impl Phase {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    /// The phase of that word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Phase> {
        [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed]
            .into_iter()
            .find(|p| p.as_str() == text)
    }

    /// Whether a pod stays in it for ever.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// Whether the API server shows the pod as ended for ever.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .and_then(Phase::parse)
        .is_some_and(Phase::is_terminal)
}

pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";

enum Seen {
    Missing,
    Running { started: bool },
    Ended { exit_code: i32, restartable: bool },
    WaitingAfter { exit_code: i32, restartable: bool },
    Waiting,
}

fn seen(pod: &Pod, c: &Container, statuses: &[ContainerStatus]) -> Seen {
    let Some(status) = statuses.iter().find(|s| s.name == c.name) else { return Seen::Missing };
    let Some(state) = &status.state else { return Seen::Missing };
    let judged = |t: &k8s_openapi::api::core::v1::ContainerStateTerminated| {
        (t.exit_code, spec::restarts(pod, c, t.exit_code) || t.reason.as_deref() == Some(RESTARTING_ALL))
    };
    if state.running.is_some() {
        Seen::Running { started: status.started == Some(true) }
    } else if let Some(t) = &state.terminated {
        let (exit_code, restartable) = judged(t);
        Seen::Ended { exit_code, restartable }
    } else if state.waiting.is_some() {
        match status.last_state.as_ref().and_then(|l| l.terminated.as_ref()) {
            Some(t) => {
                let (exit_code, restartable) = judged(t);
                Seen::WaitingAfter { exit_code, restartable }
            }
            None => Seen::Waiting,
        }
    } else {
        Seen::Missing
    }
}

/// The phase that follows from container statuses. `stopped_for_good`: nothing will be started again whatever the
/// policies say. `was_initialized`: a regular container has run in the present namespaces.
pub(super) fn phase(
    pod: &Pod,
    statuses: &[ContainerStatus],
    stopped_for_good: bool,
    was_initialized: bool,
) -> Phase {
    let (mut pending_init, mut pending_sidecars, mut init_failed) = (0, 0, false);
    let (mut running, mut waiting, mut stopped, mut final_stops, mut succeeded, mut unknown) =
        (0, 0, 0, 0, 0, 0);
    for c in spec::init_containers(pod) {
        let seen = seen(pod, c, statuses);
        if spec::is_sidecar(c) {
            match seen {
                Seen::Missing => unknown += 1,
                Seen::Running { started } => {
                    pending_sidecars += i32::from(!started);
                    running += 1;
                }
                Seen::Waiting => {
                    pending_sidecars += 1;
                    waiting += 1;
                }
                // A sidecar that has ended says nothing about the pod.
                Seen::Ended { .. } | Seen::WaitingAfter { .. } => {}
            }
        } else {
            match seen {
                Seen::Ended { exit_code, restartable } | Seen::WaitingAfter { exit_code, restartable } => {
                    init_failed |= exit_code != 0 && !restartable;
                }
                Seen::Missing | Seen::Running { .. } | Seen::Waiting => pending_init += 1,
            }
        }
    }
    for c in spec::containers(pod) {
        match seen(pod, c, statuses) {
            Seen::Missing => unknown += 1,
            Seen::Running { .. } => running += 1,
            Seen::Waiting => waiting += 1,
            Seen::Ended { exit_code, restartable } => {
                stopped += 1;
                final_stops += i32::from(!restartable);
                succeeded += i32::from(exit_code == 0);
            }
            Seen::WaitingAfter { restartable, .. } => {
                stopped += 1;
                final_stops += i32::from(!restartable);
            }
        }
    }
    if init_failed {
        return Phase::Failed;
    }
    if pending_init > 0 || (pending_sidecars > 0 && !was_initialized) || waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 && unknown == 0 {
        return Phase::Running;
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        let ended = if stopped == succeeded { Phase::Succeeded } else { Phase::Failed };
        if stopped_for_good && !spec::is_static(pod) {
            return ended;
        }
        return if stopped == final_stops { ended } else { Phase::Running };
    }
    Phase::Pending
}
