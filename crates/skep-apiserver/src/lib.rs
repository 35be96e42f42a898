//! The API server: Kubernetes' protocol, over the store, for every tenant.
//!
//! **Job.** HTTP over TLS; who asks and may they; the verbs on every registered kind; discovery and OpenAPI;
//! watches. The only part of Skep that touches the store.
//! **State.** What it must know on every request of tenants and policy, kept current by followers of the
//! store ([`follow`]); metrics. Everything else is in the store.
//! **Tasks.** One per connection; one follower per resource that it must know; those that clear
//! deleted tenants and namespaces.
//! **Must not know.** Controllers, schedulers, hosts: they are clients like any other.
//!
//! # A request
//! [`server`] takes it off the wire (or [`in_process`] from a role of the same process), [`request`] takes it apart, [`auth`] says who asks and whether they may,
//! [`rest`] does it, [`output`] says it in the form the client wants, [`status`] when it went wrong.

pub mod admission;
pub mod alloc;
pub mod alloc_network;
pub mod app;
pub mod audit;
pub mod auth;
pub mod body;
pub mod certificates;
mod coalesce;
pub mod defaults;
pub mod discovery;
pub mod encode;
pub mod fair;
pub mod follow;
pub mod fuzz;
pub mod in_process;
pub mod metrics;
pub mod namespaces;
pub mod negotiate;
pub mod objects;
pub mod openapi;
pub mod output;
pub mod quota;
pub mod reaper;
pub mod request;
pub mod rest;
pub mod seed;
pub mod server;
mod serving;
pub mod status;
pub mod tenants;

/// The Kubernetes version that is spoken.
pub const VERSION: &str = "v1.36.0";
