//! The `apps` group.

mod controller_revision;
mod daemon_set;
mod deployment;
mod replica_set;
mod stateful_set;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1;

use crate::registry::Registry;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<v1::ControllerRevision>();
    registry.add::<v1::DaemonSet>();
    registry.add::<v1::Deployment>();
    registry.add::<v1::ReplicaSet>();
    registry.add::<v1::StatefulSet>();
}

/// How many old revisions are kept unless said otherwise.
const DEFAULT_REVISION_HISTORY_LIMIT: i32 = 10;
