//! Tenant names.

use std::fmt;
use std::sync::Arc;

use crate::name;

/// The name of a tenant: a DNS label, so that it fits into host names, certificates and paths.
///
/// Cloning is cheap (a shared string). The type has no `Default`: code without a tenant at hand cannot
/// make one up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantName(Arc<str>);

/// Why a text is not a tenant's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a tenant name: use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
)]
pub struct TenantNameError(pub String);

impl TenantName {
    /// The operator's own tenant: it holds `Tenant` objects, hosts, and the system roles' credentials.
    pub const SYSTEM: &'static str = "system";

    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`TenantNameError`] when the text is not an RFC 1123 label.
    pub fn new(text: &str) -> Result<TenantName, TenantNameError> {
        if name::is_dns1123_label(text) {
            Ok(TenantName(text.into()))
        } else {
            Err(TenantNameError(text.to_owned()))
        }
    }

    /// As [`TenantName::new`], sharing its memory with equal names met recently.
    ///
    /// # Errors
    /// As for [`TenantName::new`].
    pub fn shared(text: &str) -> Result<TenantName, TenantNameError> {
        if name::is_dns1123_label(text) {
            Ok(TenantName(crate::SharedStr::new(text).into()))
        } else {
            Err(TenantNameError(text.to_owned()))
        }
    }

    /// The operator's tenant.
    #[must_use]
    pub fn system() -> TenantName {
        TenantName(Self::SYSTEM.into())
    }

    /// Whether this is the operator's tenant.
    #[must_use]
    pub fn is_system(&self) -> bool {
        &*self.0 == Self::SYSTEM
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
