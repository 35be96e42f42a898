//! The host daemon: turns a computer into machines of tenants.
//!
//! **Job.** Say what the computer has and that it lives; make the machines that are placed on it, keep them running, and
//! take them down; hand each its own short-lived credential and a way to the API server and to nowhere else; give each the images that
//! its tenant may use, and pull for it; remove what belongs to no machine.
//! **State.** On disk and in the kernel, through `skep-machine`: whatever is found there is taken over after a restart.
//! In memory: a copy of the host's machines.
//! **Tasks.** One for the host's heartbeat, one per machine, one per connection that a machine holds to the API server,
//! one per image that it asks for; a pull is a process.
//! **Must not know.** How a machine of some isolation is made; what runs in it; the certificate authorities.

mod capacity;
mod control;
mod credential;
mod daemon;
mod images;
mod machine;
mod plan;
mod proxy;

pub use capacity::Reserve;
pub use daemon::{Config, MachineDisks, NETWORKS, StartError, run};
pub use images::{PULL, pull_main};
