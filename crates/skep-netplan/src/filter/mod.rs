//! Filters of connections: who may begin one with whom.
//!
//! [Network policies](policy) and [security groups](group) compile to the same thing: addresses that are *guarded* in a
//! direction, each with a *class*, the rules of which one must allow a connection; and sets that rules look into. What is
//! not guarded may do what it likes. A class is its rules: addresses with equal rules share it, whatever they come from. So
//! a pod that comes or goes is an entry of some sets, and rules change only when somebody changes a policy.
//!
//! What belongs to a connection that was allowed, answers above all, is for the kernel to know and not looked at here.

pub mod group;
pub mod policy;
mod ranges;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use ranges::{AddressRange, PortRange};
pub use table::{Change, ClassId, Element, SetId, SetKind, Step, Table};

/// Which connections of an address are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Those that others begin with it.
    Ingress,
    /// Those that it begins itself.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];
}

/// What a set holds, in words: as long as they need to be.
pub type Name = Arc<str>;

/// One thing that is allowed: who and where to must both fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The other side; none means everybody.
    pub peers: Option<Peers>,
    /// The destination's protocol and port; none means all.
    pub ports: Option<Ports>,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peers {
    /// Who is in a set that changes.
    Members(Name),
    /// These addresses: sorted, apart from each other.
    Ranges(Vec<AddressRange>),
}

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// These ports: sorted, apart from each other.
    Numbers(Vec<PortRange>),
    /// Ports of addresses in a set that changes.
    Named(Name),
}

/// The rules of which one must allow a connection. With none, none is allowed.
pub type Class = BTreeSet<Rule>;

/// A protocol's number and a port.
pub type ProtocolPort = (u8, u16);

/// What is to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The addresses that are guarded.
    pub guarded: BTreeMap<(Direction, IpAddr), Arc<Class>>,
    /// Who is in the sets that [`Peers::Members`] names.
    pub members: BTreeMap<Name, BTreeSet<IpAddr>>,
    /// Which ports of which addresses are in the sets that [`Ports::Named`] names.
    pub named: BTreeMap<Name, BTreeSet<(IpAddr, ProtocolPort)>>,
}

impl Desired {
    /// Guards an address. One that is guarded already is allowed what either class allows.
    fn guard(&mut self, direction: Direction, ip: IpAddr, class: &Arc<Class>) {
        let guard = self.guarded.entry((direction, ip)).or_insert_with(|| class.clone());
        if *guard != *class {
            *guard = Arc::new(guard.union(class).cloned().collect());
        }
    }
}
