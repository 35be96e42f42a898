//! The node agent: the kubelet of one node, which knows only its tenant.
//!
//! **Job.** Register the node and say that it lives; run the pods that are bound to it as Kubernetes' rules say, with
//! their volumes, probes, hooks and restarts; report what becomes of them; clean up after them.
//! **State.** The runtime's: what runs is found again through the shims, what pods need lies in the data directory.
//! In memory: a copy of the node's pods and of what they reference, back-offs and probe results.
//! **Tasks.** One per pod, one per probe, one per watched object, and a few for the node: heartbeat, status, events,
//! housekeeping. One thread runs them; what blocks runs on the blocking pool.
//! **Must not know.** Other tenants, other nodes' pods, the scheduler, what kind of machine it is in. It listens on
//! nothing: everything it needs it fetches over its own connections.

pub mod admission;
pub mod agent;
mod collect;
pub mod container;
pub mod context;
pub mod downward;
pub mod env;
pub mod events;
pub mod eviction;
pub mod files;
pub mod hostports;
pub mod images;
pub mod mirrors;
pub mod network;
pub mod node;
pub mod objects;
pub mod pod_users;
pub mod pods;
pub mod probe;
pub mod report;
pub mod resize;
pub mod resources;
pub mod security;
pub mod spec;
pub mod state;
pub mod static_pods;
pub mod stats;
pub mod store_images;
pub mod streams;
pub mod tenant_network;
pub mod thresholds;
pub mod tokens;
pub mod tunnel;
pub mod volume;
pub mod worker;

pub use k8s_openapi::api::core::v1::Taint;
pub use skep_base::quantity::Quantity;
