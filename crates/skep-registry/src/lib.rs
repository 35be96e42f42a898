//! The image registry: OCI distribution 1.1 over a directory.
//!
//! **Job.** Serve pushes, pulls, tags, referrers, deletion and the catalogue of every tenant's repositories; collect what nothing refers to any
//! more; be a pull-through mirror of registries outside. As a client: push images that lie in files.
//! **State.** A directory ([`storage`]): what was acknowledged is in it, so the process may be killed at any time. In memory: upload sessions'
//! hashes, usage per tenant, who was let in within the last seconds.
//! **Tasks.** One per connection, one per download of a mirror, one for collection.
//! **Must not know.** How tenants and credentials are kept: it asks a [`gate::Gate`], of which the API server is one. What containers do
//! with images.
//!
//! # Names
//! `HOST/TENANT/PATH` is a tenant's repository. A first part with a dot, `HOST/docker.io/library/busybox`, is a mirror's, and read-only. A
//! credential belongs to one tenant; another tenant's repository and one that does not exist answer alike.

pub mod client;
pub mod digest;
mod error;
pub mod gate;
mod http;
pub mod layout;
pub mod manifest;
pub mod mirror;
pub mod name;
pub mod push;
pub mod storage;
mod tokens;

pub use error::{Code, RegistryError};
pub use http::server::{Config, Registry, ServeError, Tls};
