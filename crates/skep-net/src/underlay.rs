//! Several hosts on one computer: a bridge, which is the wire between them, and a network namespace for each, with an address of its own.
//!
//! What hosts say to each other does cross a network: VXLAN packets pass the wire, and a host can be taken off it. The
//! computer itself has the wire's first address, and leads what leaves the wire out under its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};

use crate::link::{Bridge, MacAddr, Net, Peer};
use crate::machine::default_route;
use crate::netlink::{Error, Result, unless_exists, unless_missing};
use crate::nft::{
    BaseChain, Batch, ChainKind, Expr, Family, Hook, NewElement, Nft, PayloadBase, Reg, Set, Table,
};
use crate::ns::{Namespace, sysctl};
use crate::route::Route;

/// What is to have another address outside, for all wires of this computer.
const TABLE: Table = Table { family: Family::Ip, name: "skep-underlay" };
const SUBNETS: &str = "subnets";
const PRIORITY_SNAT: i32 = 100;
/// The length of a wire's subnet.
const PREFIX: u8 = 24;
/// The number of a host's address in the subnet, before its own.
const FIRST: u8 = 10;
/// Most hosts on one wire: so that their addresses end where the subnet's do.
pub const HOSTS_MAX: u8 = 100;
/// A host's end.
const INSIDE: &str = "eth0";
const MTU: u32 = 1500;

/// A wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The name of its bridge: at most ten characters, for those of its ports are made from it.
    pub bridge: String,
    /// The addresses on it: 256 of them.
    pub subnet: Ipv4Net,
}

impl Underlay {
    /// The computer's own address on it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.number(1)
    }

    /// The address of a host, which are counted from 1.
    #[must_use]
    pub fn address(&self, host: u8) -> Ipv4Addr {
        self.number(FIRST + host.min(HOSTS_MAX))
    }

    fn number(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + u32::from(n))
    }

    /// The interface by which a host is plugged in.
    #[must_use]
    pub fn port(&self, host: u8) -> String {
        format!("{}.{host}", self.bridge)
    }

    fn with_length(&self, ip: Ipv4Addr) -> Result<IpNet> {
        let bad = |_| Error::Missing { what: "subnet of 256 addresses", name: self.subnet.to_string() };
        IpNet::new(ip.into(), PREFIX).map_err(bad)
    }

    /// Makes the wire in the calling thread's namespace; what is there stays.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set_up(&self) -> Result<()> {
        let mut net = Net::here()?;
        let [a, b, c, _] = self.subnet.network().octets();
        let mac = MacAddr([0x0e, 2, a, b, c, 1]);
        unless_exists(net.add_bridge(&self.bridge, mac, MTU, Bridge::default()))?;
        let bridge = net.expect_link(&self.bridge)?.index;
        net.add_address(bridge, self.with_length(self.gateway())?)?;
        net.set_up(bridge)?;
        sysctl("ipv4/ip_forward", "1")?;
        Nft::here()?.commit(self.way_out())
    }

    fn way_out(&self) -> Batch {
        let mut batch = Batch::new();
        batch.add_table(TABLE);
        batch.add_set(TABLE, &Set { name: SUBNETS.into(), key: vec![4], ..Set::default() });
        batch.add_element(TABLE, SUBNETS, self.element());
        let base = BaseChain {
            kind: ChainKind::Nat,
            hook: Hook::Postrouting,
            priority: PRIORITY_SNAT,
            drop: false,
            device: None,
        };
        batch.add_base_chain(TABLE, "postrouting", &base);
        batch.flush_chain(TABLE, "postrouting");
        let subnet_of = |offset| {
            [
                Expr::Payload { base: PayloadBase::Network, offset, len: 4, to: Reg(0) },
                Expr::Bitwise { from: Reg(0), to: Reg(0), mask: &[255, 255, 255, 0], xor: &[0; 4] },
            ]
        };
        let known = |inverted| [Expr::Lookup { set: SUBNETS, from: Reg(0), to: None, inverted }];
        let (source, destination) = (subnet_of(12), subnet_of(16));
        let rule = [&source[..], &known(false), &destination[..], &known(true), &[Expr::Masquerade]].concat();
        batch.add_rule(TABLE, "postrouting", &rule);
        batch
    }

    fn element(&self) -> NewElement {
        NewElement { key: self.subnet.network().octets().to_vec(), ..NewElement::default() }
    }

    /// Makes a host's namespace, mounted at a path, and plugs it in; what is there stays.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn plug(&self, host: u8, path: &Path) -> Result<Namespace> {
        let namespace = Namespace::persistent(path)?;
        let (mut here, mut there) = (Net::here()?, Net::open(&namespace)?);
        let port = self.port(host);
        if there.link(INSIDE)?.is_none() {
            // Its other end is gone, if there ever was one.
            here.delete_link(&port)?;
            here.add_veth(&port, None, MTU, &Peer { name: INSIDE, mac: None, namespace: Some(&namespace) })?;
        }
        let (bridge, ours) = (here.expect_link(&self.bridge)?.index, here.expect_link(&port)?);
        if ours.master != Some(bridge) {
            here.set_master(ours.index, bridge)?;
        }
        here.set_up(ours.index)?;
        let theirs = there.expect_link(INSIDE)?.index;
        there.add_address(theirs, self.with_length(self.address(host))?)?;
        there.set_up(theirs)?;
        there.replace_route(&default_route(IpAddr::V4(self.gateway()), theirs))?;
        Ok(namespace)
    }

    /// Leads the computer itself to addresses that hosts answer for on the wire. Those within the wire's own subnet need no route.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn lead(&self, to: &[IpNet]) -> Result<()> {
        let mut net = Net::here()?;
        let link = net.expect_link(&self.bridge)?.index;
        for destination in to.iter().filter(|net| !IpNet::V4(self.subnet).contains(*net)) {
            let source = Some(self.gateway().into());
            net.replace_route(&Route { destination: *destination, gateway: None, link, source })?;
        }
        Ok(())
    }

    /// Takes a host off the wire, or puts it back.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(&self, host: u8, on: bool) -> Result<()> {
        let mut net = Net::here()?;
        let port = net.expect_link(&self.port(host))?.index;
        if on { net.set_up(port) } else { net.set_down(port) }
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_there(&self) -> Result<bool> {
        Ok(Net::here()?.link(&self.bridge)?.is_some())
    }

    /// Removes the wire. Namespaces of hosts are removed by [`Namespace::remove`], and their interfaces here go with the wire.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self) -> Result<()> {
        let mut net = Net::here()?;
        if let Some(bridge) = net.link(&self.bridge)? {
            for port in net.links()?.into_iter().filter(|l| l.master == Some(bridge.index)) {
                net.delete_link(&port.name)?;
            }
            net.delete_link(&self.bridge)?;
        }
        let mut nft = Nft::here()?;
        if !nft.tables(TABLE.family)?.iter().any(|t| t == TABLE.name) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete_element(TABLE, SUBNETS, self.element());
        unless_missing(nft.commit(batch))?;
        if nft.elements(TABLE, SUBNETS)?.is_empty() {
            let mut batch = Batch::new();
            batch.delete_table(TABLE);
            nft.commit(batch)?;
        }
        Ok(())
    }
}

/// A subnet for a wire that nothing on this computer has: of those set apart for tests of networks (RFC 2544), beginning at `seed`.
///
/// # Errors
/// What the kernel says; when all 512 are taken.
pub fn free_subnet(seed: u32) -> Result<Ipv4Net> {
    const ALL: u32 = 512;
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let mut net = Net::here()?;
    let mut taken = Vec::new();
    for link in net.links()? {
        taken.extend(net.addresses(link.index)?);
    }
    (0..ALL)
        .map(|i| Ipv4Addr::from(first + ((seed.wrapping_add(i)) % ALL) * 256))
        .filter_map(|ip| Ipv4Net::new(ip, PREFIX).ok())
        .find(|subnet| !taken.iter().any(|t| matches!(t, IpNet::V4(t) if subnet.contains(&t.addr()))))
        .ok_or_else(|| Error::Missing { what: "free subnet", name: "198.18.0.0/15".into() })
}
