//! Every kind that Skep serves, registered once: names, scope, verbs, subresources, defaulting,
//! validation, update strategies, selectable fields and table columns.
//!
//! **Job.** Say what an object of a kind may be and what happens to it when it is written. Routes,
//! discovery, OpenAPI, printing, watching and patching follow from the registrations in [`registry`].
//! **State.** None: the registry is built once and never changes. **Tasks.** None.
//! **Must not know.** HTTP, the store, the clock (it is handed in), who may do what.
//!
//! A kind is a type of `k8s-openapi` (or of this crate) that implements [`Kind`]. Generic code works on
//! `dyn` [`Object`] through `dyn` [`DynKind`], so that nothing above this crate is compiled once per kind.
//!
//! What upstream calls "internal types" does not exist here: a resource that is served in several
//! versions is stored in one of them, and the others [`Convert`].

pub mod codec;
pub mod compute;
pub mod context;
pub mod field;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod metrics;
pub mod network;
pub mod object;
mod own;
pub mod registry;
pub mod table;
pub mod tenancy;

pub use codec::{DecodeError, Encoded};
pub use context::{Context, UserInfo};
pub use field::{ErrorKind, Errors, FieldError, Path};
pub use kind::{Fields, Kind, KindInfo, Subresource, Verb};
pub use object::Object;
pub use registry::{Convert, DynKind, Registry};
pub use table::{Cell, Column};
pub use tenancy::Tenant;
