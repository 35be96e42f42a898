//! The store: every object of every tenant, in order, in memory, and durable below.
//!
//! **Job.** Conditional writes and multi-key transactions with revisions from one sequencer; reads of
//! ranges at one revision; watches from a revision; expiry. What is acknowledged is on stable storage.
//! **State.** All current objects, as immutable bytes, and a bounded ring of recent changes, behind one
//! lock that is never held across IO. The durable copy belongs to an [`engine`].
//! **Tasks.** One sequencer thread (all writes, and expiry), and the engine's own background work. Nothing
//! of its own runs on the async runtime.
//! **Must not know.** What the bytes mean: kinds, tenants' rights, HTTP. It knows only that a value has a
//! place for its revision, a metadata part, and [`Attrs`] to select on.
//!
//! # How a write travels
//! Callers queue transactions. The sequencer takes everything that waits, checks conditions in order
//! against the newest state (including what it has just accepted), gives every change a revision of its
//! own, hands the batch to the engine (one write, one sync for all), applies it to memory under the lock,
//! answers, and wakes the watchers that it concerns. Readers and watchers therefore see only what is
//! durable.
//!
//! # How old revisions are read
//! There are no versions per key. A range at revision R is the current range with the ring's changes after
//! R undone. When the ring no longer reaches back to R, the reader is told ([`Expired`]).

mod attrs;
mod core;
pub mod engine;
mod list;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;
mod ring;
mod sequencer;
mod state;
mod store;
mod txn;
mod value;
mod watch;

pub use attrs::{Attrs, AttrsBuilder, AttrsError};
pub use core::Expired;
pub use list::{ListOptions, Listing, Values};
pub use ring::RingLimits;
pub use sequencer::{Announced, View};
pub use store::{Stats, Store, StoreOptions};
pub use txn::{Change, Changes, CommitError, Expect, Op, TXN_MAX_BYTES, TXN_MAX_OPS, Txn};
pub use value::{NewValue, Value};
pub use watch::{WATCH_BATCH, Watcher};
