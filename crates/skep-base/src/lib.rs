//! The vocabulary of Skep: tenants, keys, revisions, quantities, label selectors and name rules.
//!
//! **Job.** Give every other crate one type for each thing that would otherwise be a string or an
//! integer, so that a tenant can never be passed where a namespace is meant.
//! **State.** Per thread, the strings it met recently ([`SharedStr`]); losing it changes nothing. **Tasks.** None.
//! **Must not know.** Anything that does IO, the clock, or any Kubernetes kind.

pub mod key;
pub mod label;
pub mod name;
pub mod quantity;
pub mod revision;
pub mod selector;
pub mod shared;
pub mod tenant;

pub use key::{GroupResource, Key, Scope};
pub use quantity::Quantity;
pub use revision::Revision;
pub use selector::{FieldSelector, LabelSelector};
pub use shared::SharedStr;
pub use tenant::{TenantName, TenantNameError};
