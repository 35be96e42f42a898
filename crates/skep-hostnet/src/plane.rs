//! What a host must be able to do with a network: the seam between what is planned and who makes it true.
//!
//! Above it, plans are made from the API and know nothing of kernels. Below it, a data plane does what it is told, and is asked what there
//! is. [`Kernel`] is the one that hosts have: a bridge, a VXLAN device and nf_tables in a namespace for each network.
//!
//! # Another data plane
//! One that drives Open vSwitch would be a second `impl DataPlane`, given to [`HostNetwork::over`](crate::HostNetwork::over): [`DataPlane::open`] makes or finds a
//! bridge `net-VNI` with a VXLAN port whose remote end the flows choose, [`NetworkSwitch::attach`] makes the machine's interface one of its ports, and each
//! [`Change`] is a flow that is added or deleted. What it must keep, whatever it is made of:
//!
//! - **Everything can be said again.** A daemon that died says all from the start, to a switch that stands: the first [`NetworkSwitch::apply`] is
//!   everything that is to be, and what is there and not said goes; packets that it leaves alone are not lost meanwhile.
//! - **Nothing passes before it is said**: no learning, no flooding to other hosts, and from a machine nothing but what [`Change::Allow`] names.
//! - **Changes are deltas**, which come in order and cost what they change.
//! - **What a machine does** to its own end of an interface changes nothing.
//!
//! The host's uplink, where guarantees hold, and its edge, where public addresses come in, are the host's own and not a network's: they
//! are not behind this seam.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::Ipv4Net;
use skep_net::bandwidth::{PortTraffic, Shaper, release_host};
use skep_net::edge;
use skep_net::egress::{guard_host, unguard_host};
use skep_net::netlink::Result;
use skep_net::switch::{Forged, PublicTraffic, Switch, SwitchConfig};
use skep_net::{LinkStats, Namespace};
use skep_netplan::bandwidth::Shape;
use skep_netplan::fabric::Change;
use skep_netplan::filter::Desired;
use skep_netplan::public::Entrance;

use crate::MACHINE_INTERFACE;
use crate::guard::Guard;

/// What makes networks on a host. Calls block, as the kernel's do.
pub trait DataPlane: Send + Sync + 'static {
    /// Makes a network's switch, or takes over the one that is there, with the way out for its subnets and closed to hosts. What an earlier process let
    /// through goes on until it is said anew.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    fn open(
        &self,
        path: &Path,
        config: &SwitchConfig,
        subnets: &[Ipv4Net],
        hosts: &[Ipv4Addr],
    ) -> Result<Opened>;

    /// Closes the way out of all networks to the hosts that there are now.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    fn close_to_hosts(&self, hosts: &[Ipv4Addr], vxlan_port: u16) -> Result<()>;

    /// How many machines are plugged into the switch of a path, whoever made it; none if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    fn machines_in(&self, path: &Path) -> Result<usize>;

    /// Removes the switch of a path with everything in it, whoever made it. That there is none is fine.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Takes from the host what no network needs any more.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    fn clean(&self) -> Result<()>;
}

/// A network's switch that was made or taken over.
pub struct Opened {
    /// The switch.
    pub switch: Box<dyn NetworkSwitch>,
    /// Numbers of ports' classes that an earlier process left there: they are not to be given to others yet.
    pub classes: BTreeSet<u16>,
}

/// One network on one host. After an error its state is not known, and it is to be opened anew.
pub trait NetworkSwitch: Send {
    /// The machines' interfaces that are plugged in.
    ///
    /// # Errors
    /// What the kernel says.
    fn interfaces(&mut self) -> Result<Vec<String>>;

    /// Connects a machine's namespace by an interface of this name. Gives whether that was made: then nothing is behind it yet.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    fn attach(&mut self, interface: &str, machine: &Namespace) -> Result<bool>;

    /// Disconnects a machine. That it is not connected is fine.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    fn detach(&mut self, interface: &str) -> Result<()>;

    /// Whom the ports of security groups may talk to. To be said before they can.
    ///
    /// # Errors
    /// What the kernel says.
    fn guard(&mut self, wanted: &Desired) -> Result<()>;

    /// Makes changes, in order; the first are all that there is to be.
    ///
    /// # Errors
    /// What the kernel says.
    fn apply(&mut self, changes: &[Change]) -> Result<()>;

    /// Lets in what is to enter by public addresses, and nothing else.
    ///
    /// # Errors
    /// What the kernel says.
    fn let_in(&mut self, wanted: &Entrance) -> Result<()>;

    /// What bandwidth ports have.
    ///
    /// # Errors
    /// What the kernel says.
    fn shape(&mut self, wanted: &Shape) -> Result<()>;

    /// What went through each machine's interface.
    ///
    /// # Errors
    /// What the kernel says.
    fn traffic(&mut self) -> Result<Vec<(String, LinkStats)>>;

    /// What went through each port, by the number of its class.
    ///
    /// # Errors
    /// What the kernel says.
    fn port_traffic(&mut self) -> Result<BTreeMap<u16, PortTraffic>>;

    /// What was dropped of machines' packets, by interface and reason.
    ///
    /// # Errors
    /// What the kernel says.
    fn forged(&mut self) -> Result<BTreeMap<String, Forged>>;

    /// What came to and went out from each public address.
    ///
    /// # Errors
    /// What the kernel says.
    fn public_traffic(&mut self) -> Result<Vec<(IpAddr, PublicTraffic)>>;
}

/// The data plane of Linux' own parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

struct KernelSwitch {
    switch: Switch,
    guard: Guard,
    shaper: Shaper,
}

impl DataPlane for Kernel {
    fn open(
        &self,
        path: &Path,
        config: &SwitchConfig,
        subnets: &[Ipv4Net],
        hosts: &[Ipv4Addr],
    ) -> Result<Opened> {
        let host = Namespace::current()?;
        let mut switch = Switch::set_up(&host, path, config)?;
        switch.lead_out(&host, subnets)?;
        // After that: who takes the filters away looks whether there is a network.
        guard_host(&host, hosts, config.port)?;
        let guard = Guard::open(&switch)?;
        let (shaper, classes) = Shaper::set_up(&Namespace::open(path)?)?;
        Ok(Opened { switch: Box::new(KernelSwitch { switch, guard, shaper }), classes })
    }

    fn close_to_hosts(&self, hosts: &[Ipv4Addr], vxlan_port: u16) -> Result<()> {
        guard_host(&Namespace::current()?, hosts, vxlan_port)
    }

    fn machines_in(&self, path: &Path) -> Result<usize> {
        Switch::machines_in(path)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        Switch::remove_at(path)
    }

    fn clean(&self) -> Result<()> {
        let host = Namespace::current()?;
        edge::sweep(&host)?;
        release_host(&host)?;
        unguard_host(&host)
    }
}

impl NetworkSwitch for KernelSwitch {
    fn interfaces(&mut self) -> Result<Vec<String>> {
        self.switch.interfaces()
    }

    fn attach(&mut self, interface: &str, machine: &Namespace) -> Result<bool> {
        let new = self.switch.attach(interface, machine, MACHINE_INTERFACE)?;
        if new {
            self.shaper.forget(interface);
        }
        Ok(new)
    }

    fn detach(&mut self, interface: &str) -> Result<()> {
        self.switch.detach(interface)?;
        self.shaper.forget(interface);
        Ok(())
    }

    fn guard(&mut self, wanted: &Desired) -> Result<()> {
        self.guard.set(&self.switch, wanted).map(drop)
    }

    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        self.switch.apply(changes)
    }

    fn let_in(&mut self, wanted: &Entrance) -> Result<()> {
        self.switch.let_in(wanted)
    }

    fn shape(&mut self, wanted: &Shape) -> Result<()> {
        self.shaper.set(wanted)
    }

    fn traffic(&mut self) -> Result<Vec<(String, LinkStats)>> {
        self.switch.traffic()
    }

    fn port_traffic(&mut self) -> Result<BTreeMap<u16, PortTraffic>> {
        self.shaper.traffic()
    }

    fn forged(&mut self) -> Result<BTreeMap<String, Forged>> {
        self.switch.forged()
    }

    fn public_traffic(&mut self) -> Result<Vec<(IpAddr, PublicTraffic)>> {
        self.switch.public_traffic()
    }
}

#[cfg(test)]
#[path = "plane_tests.rs"]
mod tests;
