//! What the workload controllers should do.
//!
//! **Job.** For Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, Job, CronJob and HorizontalPodAutoscaler: from what
//! is, compute what is to be created, patched and deleted, the new status, and when to look again. The behaviour that
//! clients can see (names, labels, annotations, conditions, reasons, order) is that of the controllers of Kubernetes 1.36.
//! **State.** None. **Tasks.** None.
//! **Must not know.** The clock, randomness, IO, async: time comes in as an argument. Tenants: a planner sees the objects
//! of one owner.
//!
//! Objects come in as *views*: structs that hold only what a planner reads, since a control plane holds a view of each
//! of a million pods. A pod template stays the JSON text that it was ([`template::Template`]), and is only taken
//! apart where a pod needs something of its own.

pub mod autoscale;
pub mod condition;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod intstr;
pub mod job;
pub mod labels;
pub mod machines;
pub mod meta;
pub mod pod;
pub mod raw;
pub mod refs;
pub mod replicaset;
pub mod revision;
pub mod selector;
pub mod statefulset;
pub mod template;
pub mod time;

pub use condition::Condition;
pub use labels::Labels;
pub use meta::{ControllerRef, Meta, OwnerKind, Uid};
pub use pod::Pod;
pub use selector::Selector;
pub use template::Template;
pub use time::Time;

/// An event that tells the object's owner what its controller did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// The machine-readable reason.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
}

impl Event {
    /// Something went as it should.
    #[must_use]
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Event {
        Event { warning: false, reason, message: message.into() }
    }

    /// Something did not.
    #[must_use]
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Event {
        Event { warning: true, reason, message: message.into() }
    }
}
