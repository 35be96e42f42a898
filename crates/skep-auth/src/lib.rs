//! Who asks, and may they.
//!
//! **Job.** Turn a credential (client certificate, bearer token, nothing) into an [`Identity`] that belongs
//! to one tenant, and decide whether that identity may do what it asks: RBAC per tenant, the node
//! authorizer, impersonation, the access reviews. Make and keep the certificates and keys of all that.
//! **State it owns.** The certificate directory ([`pki`]), the RBAC index and the node graph (both follow
//! the objects that the API server tells of), caches of derived keys and verified tokens (all bounded).
//! **Tasks it runs.** None: everything here is called. Time comes in as an argument.
//! **Must not know.** HTTP, TLS sessions, the store. What it needs from the store comes through the
//! traits [`authn::TenantDirectory`] and [`authn::Liveness`].
//!
//! Rules that hold everywhere here:
//! - a credential belongs to one tenant, and says so itself (URI name in the certificate, issuer and key of
//!   the token): the path of a request is never asked who somebody is;
//! - what cannot be read is nobody: a certificate or a token with a broken tenant part is refused, it never
//!   falls back to the system tenant;
//! - `system:masters` of a tenant is master in that tenant only; of the system tenant, everywhere.

pub mod attributes;
pub mod authn;
pub mod authorize;
pub mod bootstrap;
pub mod identity;
pub mod impersonate;
pub mod node;
pub mod pki;
pub mod rbac;
pub mod review;

pub use attributes::{Attributes, forbidden_message};
pub use authorize::{Authorizer, Target};
pub use identity::{Credential, Identity, ServiceAccountCredential, groups};
pub use node::NodeGraph;
pub use rbac::{Decision, RbacIndex, Reason};
