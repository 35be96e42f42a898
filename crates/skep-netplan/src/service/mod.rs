//! Services: from services and endpoint slices to entries of maps.
//!
//! A *frontend* (address, protocol, port) leads to a *group*: a number, under which *endpoints* stand at the places
//! 0, 1, 2, …; which place a connection takes is random. So a change of one endpoint is one or two entries, whatever
//! else there is; and a frontend costs one entry, whatever stands behind it.

mod desired;
mod table;
#[cfg(test)]
mod tests;
mod view;

pub use desired::{Desired, Group, GroupKey, Scope, Target, desired, ready_here};
pub use table::{Change, GroupId, Pick, ServiceKey, Table};
pub use view::{Endpoint, EndpointPort, EndpointSlice, L4, Service, ServicePort, ServiceType};

use std::net::IpAddr;

/// An IP family. Each has tables of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// What a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The family.
    pub family: Family,
    /// The address; none means any of the machine's own: a node port.
    pub ip: Option<IpAddr>,
    /// The protocol.
    pub protocol: L4,
    /// The port.
    pub port: u16,
}

/// Where a node is, for those endpoints that are better near.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub node: String,
    /// Its zone, if it says one.
    pub zone: Option<String>,
}
