//! Machines on a host: the mechanism.
//!
//! **Job.** Make a machine in steps that can each fail and be taken up again, start it, find it again after a crash
//! of whoever made it, stop it, and remove it so that nothing is left: one interface ([`Driver`]) for all isolations.
//! **State.** On disk and in the kernel only, below the driver's directory and its parent control group; a driver in
//! memory is nothing but the place of those. So there is nothing to lose when the host daemon dies.
//! **Tasks.** None: calls block for milliseconds, and up to the grace period when a machine is stopped. What goes on
//! by itself is the machine's own first process ([`process::init`]).
//! **Must not know.** The API, tenants, networks, container images; what the agent does that it starts.
//!
//! `unsafe` is allowed here for a few system calls that no safe crate wraps as needed; each says why it is sound.
#![allow(unsafe_code)]

mod driver;
mod error;
pub mod process;
mod record;

pub use driver::{Driver, Found, MachineId, MachineIdError, MachineSpec, Mount, Phase, Program, Step};
pub use error::Error;
pub use process::ProcessDriver;
