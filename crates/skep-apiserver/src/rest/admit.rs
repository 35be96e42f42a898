//! The seam between the verbs and admission: what is asked of [`crate::admission`] for one write.

use jiff::Timestamp;
use skep_api::{DynKind, Object, UserInfo};
use skep_base::TenantName;

use crate::app::App;
use crate::rest::Call;

/// What a write does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// One write, as admission sees it.
pub struct Review<'a> {
    /// The server, to look at other objects.
    pub app: &'a App,
    /// Who writes.
    pub user: &'a UserInfo,
    /// The tenant that the writer's credential belongs to.
    pub home: &'a TenantName,
    /// Whose object.
    pub tenant: &'a TenantName,
    /// The object's kind.
    pub kind: &'a dyn DynKind,
    /// Its namespace; empty when cluster-scoped.
    pub namespace: &'a str,
    /// Its name; empty while `generateName` has not been resolved.
    pub name: &'a str,
    /// What is done.
    pub operation: Operation,
    /// Through which subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The object as it is; `None` when it is created.
    pub old: Option<&'a dyn Object>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The time of the request.
    pub now: Timestamp,
    /// Takes advice for the client.
    pub warn: &'a dyn Fn(String),
}

impl Call {
    /// Describes one of this call's writes to admission and hands the description to `ask`.
    pub fn review<R>(
        &self,
        tenant: &TenantName,
        name: &str,
        operation: Operation,
        old: Option<&dyn Object>,
        ask: impl FnOnce(&Review<'_>) -> R,
    ) -> R {
        let warn = |text: String| self.warn(text);
        let namespace = if self.kind.info().namespaced { self.path.namespace.as_str() } else { "" };
        ask(&Review {
            app: &self.app,
            user: self.user(),
            home: self.caller.home(),
            tenant,
            kind: self.kind.as_ref(),
            namespace,
            name,
            operation,
            subresource: &self.path.subresource,
            old,
            dry_run: self.options.dry_run,
            now: self.now,
            warn: &warn,
        })
    }
}
