//! What the kernel's network tables should hold, computed from what the API says.
//!
//! **Job.** From objects to desired state, and from one desired state to the next the changes between them:
//! [services](service) as entries of packet filter maps; where a [network](fabric)'s ports are and what they may send;
//! whom [filters](filter) let talk to whom; what [bandwidth] each has; which [public addresses](public) lead in.
//! **State.** None of its own: [`service::Table`] and [`filter::Table`] are what the caller has programmed so far, and
//! [`bandwidth::Memory`] who has which number; planning reads and advances them.
//! **Tasks.** None: pure functions, without IO, clock or randomness.
//! **Must not know.** The kernel, netlink, the API's client; which objects there are beyond the lean views here.

pub mod bandwidth;
pub mod fabric;
pub mod filter;
pub mod public;
pub mod service;
