//! The controllers: what makes the cluster's state become what its objects say.
//!
//! **Job.** Run all controllers of a control plane for all tenants: shared copies of what they read, one fair queue of what
//! they are to look at, workers that call them.
//! **State.** The informers' copies, the queue. Nothing else that would be lost by a restart: a controller decides anew
//! each time it looks.
//! **Tasks.** One per informer, one per worker, the queue's timers, the event writer.
//! **Must not know.** The store, or how the API server works: controllers are clients like any other.
//!
//! # How to add a controller
//! 1. Say what you read: a struct per kind with only those fields, and [`Kind`] for it (its resource, and its indexes). The
//!    same struct used by two controllers is one informer. Use [`skep_base::SharedStr`] for strings that recur.
//! 2. Write the planner: a pure function from what was read (and the time) to what is to be done, in a file or crate of its
//!    own, with its tests.
//! 3. Write a folder here with a type that has a `new(&mut Setup) -> Arc<dyn Controller>`: it asks the [`Setup`] for its informers,
//!    and has their events mapped to keys with [`Informer::on_event`](skep_client::Informer::on_event) and the [`Enqueue`]
//!    of the setup. Handlers only enqueue.
//! 4. `sync(key)` fetches from the informers, plans, applies, and says when to look again ([`Next`]). It may be called
//!    at any time, several times, for objects that are gone: it must be idempotent.
//! 5. Add it to [`all`].
//!
//! Rules: write through the informer (`informer.create(…)`, `.update`, `.patch`, `.remove`) where there is one for the
//! kind: the answer is in the copy at once, so the next `sync` sees its own writes and needs no expectations. Write with conditions (a
//! `resourceVersion` in updates, the uid in deletions): the copy may be old. A conflict is an error like any other: return it, and `sync` is
//! called again. Never sleep in `sync`; return [`Next::After`].

mod aggregation;
mod autoscale;
mod certificates;
mod discovery;
mod disruption;
mod endpoints;
mod frame;
mod gc;
mod machines;
mod nodes;
mod public;
mod stale_disruption;
mod ttl;
mod views;
mod volumes;
mod workloads;

pub use frame::{Controller, Enqueue, Figures, Kind, Manager, Next, Setup, SyncError, Writes};

use std::sync::Arc;

/// Every controller of a control plane.
#[must_use]
pub fn all(setup: &mut Setup) -> Vec<Arc<dyn Controller>> {
    let mut all = vec![
        gc::GarbageCollector::make(setup),
        endpoints::slices::new(setup),
        endpoints::subsets::new(setup),
        endpoints::mirror::new(setup),
        nodes::new(setup),
        nodes::taint_eviction(setup),
        nodes::pod_gc(setup),
        disruption::new(setup),
        ttl::new(setup),
        aggregation::new(setup),
        autoscale::new(setup),
        certificates::new(setup),
        stale_disruption::new(setup),
    ];
    all.extend(volumes::new(setup));
    all.extend(machines::new(setup));
    all.extend(public::new(setup));
    all.extend(workloads::all(setup));
    all
}
