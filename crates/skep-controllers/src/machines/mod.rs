//! Machines: which ones tenants get and give back ([`pools`]), on which hosts they go, and what becomes of their nodes
//! ([`lifecycle`]).

mod lifecycle;
mod pools;
mod views;

use std::sync::Arc;

use crate::{Controller, Setup};

/// Both controllers.
pub(crate) fn new(setup: &mut Setup) -> [Arc<dyn Controller>; 2] {
    [lifecycle::Machines::controller(setup), pools::NodePools::controller(setup)]
}
