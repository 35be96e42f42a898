//! Machines: which ones tenants get and give back ([`pools`]), on which hosts they go, and what becomes of their nodes
//! ([`lifecycle`]).

mod lifecycle;
mod pools;
mod views;

use std::sync::Arc;

pub(crate) use self::views::{Waiting, comes_with_every_node};
use crate::{Controller, Setup};

/// Both controllers.
pub(crate) fn new(setup: &mut Setup) -> [Arc<dyn Controller>; 2] {
    [lifecycle::Machines::controller(setup), pools::NodePools::controller(setup)]
}
