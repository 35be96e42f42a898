//! The name server of a machine: its tenant's services by name, everything else from other servers.
//!
//! **Job.** Answers what Kubernetes' specification of names says (services, headless ones, their endpoints, ports,
//! pods, addresses backwards) from [names](Names) that its owner keeps current, and hands other questions on.
//! **State.** The names, behind one lock that is held for a lookup; answers to what was asked, until any name changes. What others
//! know is not kept: they may.
//! **Tasks.** One per address for TCP, one per TCP connection, one per question that is handed on; their numbers are bounded. A thread per
//! address for UDP.
//! **Must not know.** The API, informers, how names come here; networks and namespaces: it listens where it is told.

mod answer;
mod answered;
mod forward;
mod names;
mod server;
#[cfg(test)]
mod tests;

pub use answer::{Reply, answer};
pub use names::{EndpointName, NamedPort, Names, ServiceNames, Target};
pub use server::{Config, Server, Stub};
