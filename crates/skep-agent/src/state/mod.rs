//! The pod state machine: pure functions from what should run and what does run to what is to be done, and to the
//! status that clients see.

pub mod backoff;
mod conditions;
mod phase;
mod plan;
mod status;

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod status_tests;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

pub use conditions::{condition, has_condition, set_condition};
pub use phase::{Phase, is_terminal};
pub use plan::{KillReason, Plan, PlannedKill, PlannedStart, plan};
pub use status::{StatusInput, status, terminated_override};

/// The scheme of container ids in statuses: `skep://ID`.
pub const RUNTIME_NAME: &str = "skep";

/// What the runtime has of a pod's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether the namespaces are there and somebody holds them.
    pub ready: bool,
    /// How many sandboxes the pod had before this one; none at all is `None`.
    pub attempt: Option<u32>,
    /// The pod's addresses, the primary one first.
    pub ips: Vec<String>,
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The runtime's id of it.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// How many runs there were before.
    pub restart_count: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// What became of it.
    pub state: InstanceState,
    /// The image as the specification named it.
    pub image: String,
    /// The image's digest.
    pub image_id: String,
    /// The hash of what it was made from, see [`crate::container::spec_hash`].
    pub spec_hash: String,
    /// Who its first process was started as: uid, gid, supplementary groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// The sandbox it ran in, by attempt: runs of former sandboxes are no longer current.
    pub sandbox_attempt: u32,
}

/// What became of one run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Made and not started.
    Created,
    /// Its process runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Its process has ended.
    Exited {
        /// When it was started, if it was.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// Its exit code; 128 and the signal where one killed it.
        exit_code: i32,
        /// `Completed`, `Error`, `OOMKilled`, `StartError`, ….
        reason: String,
        /// What it left as its last words.
        message: String,
    },
    /// The runtime lost track of it.
    Unknown,
}

impl Instance {
    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, InstanceState::Running { .. })
    }

    /// The exit code of a run that has ended.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self.state {
            InstanceState::Exited { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }

    /// When a run that has ended did so.
    #[must_use]
    pub fn finished_at(&self) -> Option<Timestamp> {
        match self.state {
            InstanceState::Exited { finished_at, .. } => Some(finished_at),
            _ => None,
        }
    }

    /// The id as statuses show it.
    #[must_use]
    pub fn public_id(&self) -> String {
        format!("{RUNTIME_NAME}://{}", self.id)
    }
}

/// What a probe last found, after thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It has not found anything yet.
    Unknown,
    /// All is well.
    Success,
    /// It is not.
    Failure,
}

/// What the probes of one run of a container found. `None`: nothing is known of this run yet, or there is no such
/// probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    /// The startup probe.
    pub startup: Option<ProbeResult>,
    /// The liveness probe.
    pub liveness: Option<ProbeResult>,
    /// The readiness probe.
    pub readiness: Option<ProbeResult>,
}

/// Why a container could not be started when it was last tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// `ErrImagePull`, `CrashLoopBackOff`, `CreateContainerConfigError`, ….
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Everything that a decision about a pod depends on.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The pod as the API server has it.
    pub pod: &'a Pod,
    /// Its namespaces.
    pub sandbox: &'a Sandbox,
    /// Every run that the runtime remembers, in any order.
    pub instances: &'a [Instance],
    /// What probes found, by the runtime's container id.
    pub probes: &'a BTreeMap<String, ProbeResults>,
    /// Why containers could not be started, by container name.
    pub failures: &'a BTreeMap<String, StartFailure>,
    /// What containers' specifications hash to now, by container name.
    pub spec_hashes: &'a BTreeMap<String, String>,
    /// Now.
    pub now: Timestamp,
}

impl<'a> Observed<'a> {
    /// The newest run of a container.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&'a Instance> {
        self.instances.iter().filter(|i| i.name == name).max_by_key(|i| (i.restart_count, i.created_at))
    }

    /// The two newest runs of a container, newest first.
    fn newest_two(&self, name: &str) -> (Option<&'a Instance>, Option<&'a Instance>) {
        let mut runs: Vec<&Instance> = self.instances.iter().filter(|i| i.name == name).collect();
        runs.sort_by_key(|i| std::cmp::Reverse((i.restart_count, i.created_at)));
        (runs.first().copied(), runs.get(1).copied())
    }

    fn probes_of(&self, instance: &Instance) -> ProbeResults {
        self.probes.get(&instance.id).copied().unwrap_or_default()
    }

    /// Whether the pod needs namespaces (anew).
    #[must_use]
    pub fn needs_sandbox(&self) -> bool {
        !self.sandbox.ready || (!crate::spec::host_network(self.pod) && self.sandbox.ips.is_empty())
    }
}
