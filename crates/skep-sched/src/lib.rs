//! Placement of pods on nodes, as kube-scheduler's default profile does it.
//!
//! **Job.** Given a tenant's nodes, pods and what else placement depends on: where does this pod go, why can it go
//! nowhere, and which pods would have to make room.
//! **State.** [`Cluster`], which its owner keeps and changes; evaluations inside it are caches that follow its
//! journal.
//! **Tasks.** None.
//! **Must not know.** The API and its client, the clock, randomness (ties are broken by a seed that comes in), IO.
//!
//! How it is fast: pods that mean the same share a [`Template`], and a template has one evaluation of all nodes.
//! Nodes that can take the pod stand in buckets of equals, so a decision costs what there are buckets, and a
//! placement moves one node. Counts for spreading and pod affinity are kept per domain by the journal.
//!
//! What differs from upstream: all nodes are looked at, however many there are (upstream samples large clusters);
//! dynamic resources, pod groups and extenders do not exist; `spec.nodeName` needs no rule, since a pod that has it
//! is placed already.

mod check;
mod class;
mod cluster;
mod diagnosis;
mod domains;
mod place;
mod preempt;
pub mod resources;
pub mod template;
mod topology;
pub mod views;
mod volume;
mod weights;

pub use cluster::{Cluster, NodeChange, PodFacts, TemplateRef};
pub use diagnosis::{Diagnosis, Plugin, Reason, Rejection};
pub use place::Placement;
pub use preempt::Preemption;
pub use template::Template;
pub use volume::{
    CapacityView, ClaimView, CsiDriverView, CsiNodeView, Storage, StorageClassView, VolumeStep, VolumeView,
};
pub use weights::{Scorer, WEIGHT_MAX, Weight, WeightError, Weights};
