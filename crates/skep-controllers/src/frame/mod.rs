//! The frame: what a controller is, what it is given, and the manager that runs them all.

mod manager;
mod setup;

use std::time::Duration;

use futures::future::BoxFuture;
use skep_client::informer::Builder;
use skep_client::{ErrorKind, ObjectKey, Resource, Selection, Tenants, View};

pub use manager::{Figures, Manager};
pub use setup::{Enqueue, Setup, Writes};

/// A view that an informer can be had for by naming its type.
pub trait Kind: View {
    /// Of which resource it is a view.
    const RESOURCE: Resource;

    /// Whether it reads nothing but metadata: then only that is fetched.
    const METADATA_ONLY: bool = false;

    /// What is held. Everything of all tenants, unless said otherwise.
    #[must_use]
    fn selection() -> Selection {
        let all = Selection::all(Self::RESOURCE, Tenants::All);
        if Self::METADATA_ONLY { all.metadata_only() } else { all }
    }

    /// By what objects are looked up.
    #[must_use]
    fn indexes(builder: Builder<Self>) -> Builder<Self> {
        builder
    }
}

/// When a key is to be looked at again, if nothing happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Only when something happens.
    Wait,
    /// After this time at the latest.
    After(Duration),
}

/// Why a look at a key did not come to its end. It is repeated, later each time.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The API server says no, or nothing.
    #[error(transparent)]
    Client(#[from] skep_client::Error),
    /// Something is not as it must be for the work to go on, and may be later.
    #[error("{0}")]
    NotYet(String),
}

impl SyncError {
    /// Whether it belongs to the ordinary course of things: somebody else was faster, or the server is busy.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        match self {
            SyncError::NotYet(_) => true,
            SyncError::Client(e) => {
                matches!(e.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists | ErrorKind::NotFound)
                    || e.retryable()
            }
        }
    }
}

/// One controller.
pub trait Controller: Send + Sync + 'static {
    /// Its name, in the queue's keys, logs and metrics.
    fn name(&self) -> &'static str;

    /// Looks at one object and does what is to be done about it. Never called for the same key twice at once.
    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>>;
}
