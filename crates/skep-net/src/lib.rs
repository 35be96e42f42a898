//! Networks, as the kernel makes them: namespaces, links, addresses, routes, packet filters, shaping.
//!
//! **Job.** Says to the kernel over netlink what is to be, and reads from it what is: network namespaces,
//! veth pairs, bridges, VXLAN devices, addresses, routes, neighbours, forwarding entries, nf_tables and
//! queueing disciplines. Above these sit whole pieces of a network: a [machine's own network](machine), its [services](service), [filters](filter), a
//! [network on a host](switch), the [edge] where public addresses come in, and the [bandwidth] of its ports and of the host's uplink.
//! **State.** In the kernel only. Every operation can be repeated; whoever starts anew reads what exists.
//! **Tasks.** None. Calls block, for fractions of a millisecond; async callers use a blocking thread.
//! **Must not know.** The API, tenants, Kubernetes: it gets names, numbers and addresses.
//!
//! # Why its own encoder
//! Three netlink families are spoken here: routing, queueing, nf_tables. The crates that are well kept speak the
//! first; for HTB classes and nf_tables sets there is none with a license that fits and without a C library. One
//! [encoder](netlink) of some hundred lines serves all three, and a socket stays in the namespace that it was
//! opened in, so no connection task is needed for each namespace.
//!
//! `unsafe` is allowed in this crate for three calls that have no safe form: `unshare`, a socket
//! option of netlink, and sending a frame. Each says why it is sound.

mod arp;
pub mod bandwidth;
pub mod conntrack;
pub mod edge;
pub mod egress;
mod entrance;
mod fast;
pub mod filter;
mod front;
pub mod hostport;
pub mod link;
pub mod machine;
pub mod netlink;
pub mod nft;
pub mod ns;
mod origin;
pub mod podpublic;
pub mod route;
mod rule;
pub mod service;
mod short;
pub mod switch;
pub mod tc;
mod uapi;
pub mod underlay;

pub use link::{Link, LinkStats, MacAddr, Net};
pub use netlink::{Errno, Error};
pub use ns::Namespace;
