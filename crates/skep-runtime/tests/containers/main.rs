//! Real containers, from a static busybox, with the real shim: isolation, ends, limits, streams, restarts, leftovers.
//!
//! Needs root and busybox (`make tools`, or the Debian package busybox-static); says so and passes where they are missing.
#![allow(clippy::unwrap_used)]

mod harness;
mod isolation;
mod lifecycle;
mod limits;
mod streams;
