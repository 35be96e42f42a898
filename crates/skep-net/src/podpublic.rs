//! Public addresses in pods: for each an interface of its own on the machine's bridge.
//!
//! ```text
//! pod:  eth0 ── private address, gateway: the machine
//!       pub… ── public address, gateway: the switch on the host ── outside, as it is
//! ```
//!
//! What the pod begins leaves by the public interface, except to its network and to services. What comes to an address is answered
//! from there: which way out is taken goes by the source, in a table of routes for each address. Nothing of it is translated; so an
//! application sees the address as its own, and who asks as they are.
//!
//! All that is said is read back from the kernel when it changes: names of interfaces and numbers of tables follow from addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use skep_netplan::public::public_mac;

use crate::egress::{ROUTER_IP, ROUTER_MAC, single};
use crate::link::{BridgePort, MacAddr, Net, Peer};
use crate::machine::{MachineNetwork, POD_INTERFACE, PODS, default_route, quiet};
use crate::netlink::Result;
use crate::nft::{Batch, NewElement, Nft};
use crate::ns::{Namespace, is_namespace, sysctl};
use crate::origin;
use crate::route::{Forward, Neighbour, Route};

/// What public interfaces are called in a pod, before the address in hexadecimal.
const INSIDE: &str = "pub";
/// What the machine's ends are called: as those of pods begin, whose packets are looked at, and then as none of theirs goes on.
pub(crate) const PUBLIC_PREFIX: &str = "podp";

/// The public addresses that a pod is to have, and how it reaches everything that is not outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPublic {
    /// The pod's unique id.
    pub id: String,
    /// Where its namespace is mounted.
    pub namespace: PathBuf,
    /// The public addresses. Connections that the pod begins are from the first.
    pub addresses: Vec<Ipv4Addr>,
    /// Its private addresses, each with its subnet's length.
    pub private: Vec<IpNet>,
    /// Through whom it reaches networks that are not its subnet.
    pub gateway: Option<Ipv4Addr>,
    /// Such networks: other subnets, services.
    pub networks: Vec<IpNet>,
    /// Largest packet.
    pub mtu: u32,
}

fn hexadecimal(ip: Ipv4Addr) -> String {
    format!("{:08x}", u32::from(ip))
}

/// The machine's end of a public address's interface.
fn outer(ip: Ipv4Addr) -> String {
    format!("{PUBLIC_PREFIX}{}", hexadecimal(ip))
}

fn inner(ip: Ipv4Addr) -> String {
    format!("{INSIDE}{}", hexadecimal(ip))
}

/// The address that an interface is for.
fn address_of(name: &str, prefix: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix(prefix).filter(|d| d.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
}

/// Whether a pod has an interface with a public address: then its default route is not its gateway's.
pub(crate) fn is_public(inside: &mut Net) -> Result<bool> {
    Ok(inside.links()?.iter().any(|l| address_of(&l.name, INSIDE).is_some()))
}

/// What lets a public address's interface speak as itself.
pub(crate) fn voice(ip: Ipv4Addr) -> [(&'static str, NewElement); 2] {
    let (name, mac) = (outer(ip), public_mac(ip));
    [(origin::MACS, origin::allowed_mac(&name, &mac)), origin::allowed(&name, &mac, ip.into())]
}

/// The number of the table with the routes for an address. Tables with names of their own have numbers below 256.
fn table(ip: Ipv4Addr) -> u32 {
    u32::from(ip)
}

impl PodPublic {
    fn private4(&self) -> impl Iterator<Item = (Ipv4Addr, IpNet)> {
        self.private.iter().filter_map(|net| match net {
            IpNet::V4(v4) => Some((v4.addr(), IpNet::V4(v4.trunc()))),
            IpNet::V6(_) => None,
        })
    }
}

impl MachineNetwork {
    /// Gives a pod, which has its network already, these public addresses and no others. Called again, it changes nothing that is right.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set_public(&mut self, pod: &PodPublic) -> Result<()> {
        if !is_namespace(&pod.namespace) {
            return Ok(());
        }
        let namespace = Namespace::open(&pod.namespace)?;
        let mut inside = Net::open(&namespace)?;
        let gone: Vec<Ipv4Addr> =
            self.public_of(&pod.id)?.into_iter().filter(|ip| !pod.addresses.contains(ip)).collect();
        for ip in &gone {
            self.take_public(*ip)?;
        }
        let mut said: Vec<Ipv4Addr> = inside.source_rules()?;
        let eth0 = inside.expect_link(POD_INTERFACE)?.index;
        if pod.addresses.is_empty() && gone.is_empty() && said.is_empty() {
            return Ok(());
        }
        if !pod.addresses.is_empty() {
            // An interface answers for its own addresses only.
            namespace.run(|| {
                sysctl("ipv4/conf/all/arp_ignore", "1")
                    .and_then(|()| sysctl("ipv4/conf/all/arp_announce", "2"))
            })??;
        }
        for ip in &pod.addresses {
            self.give_public(&namespace, &mut inside, pod, *ip)?;
        }
        let first = match pod.addresses.first() {
            Some(ip) => Some((*ip, inside.expect_link(&inner(*ip))?.index)),
            None => None,
        };
        // What is private goes by the machine, whoever asked from outside through a service.
        let gateway = pod.gateway.map(IpAddr::V4);
        for (ip, subnet) in pod.private4() {
            let near = Route { destination: subnet, gateway: None, link: eth0, source: None };
            let far = gateway.map(|gateway| default_route(gateway, eth0));
            if first.is_some() {
                inside.replace_route_in(table(ip), &near)?;
                if let Some(far) = &far {
                    inside.replace_route_in(table(ip), far)?;
                }
                inside.add_source_rule(ip, table(ip))?;
            } else {
                inside.delete_source_rule(ip, table(ip))?;
                inside.delete_route_in(table(ip), &near)?;
                if let Some(far) = &far {
                    inside.delete_route_in(table(ip), far)?;
                }
            }
            said.retain(|s| *s != ip);
        }
        for network in pod.networks.iter().filter(|n| n.addr().is_ipv4()) {
            let by = Route { destination: *network, gateway, link: eth0, source: None };
            match (first, gateway) {
                (Some(_), Some(_)) => inside.replace_route(&by)?,
                _ => inside.delete_route(&by)?,
            }
        }
        for ip in said.into_iter().filter(|ip| !pod.addresses.contains(ip)) {
            inside.delete_source_rule(ip, table(ip))?;
        }
        match (first, gateway) {
            (Some((ip, link)), _) => {
                let out = Route { source: Some(ip.into()), ..default_route(ROUTER_IP.into(), link) };
                inside.replace_route(&out)
            }
            (None, Some(gateway)) => inside.replace_route(&default_route(gateway, eth0)),
            (None, None) => Ok(()),
        }
    }

    fn give_public(
        &mut self,
        namespace: &Namespace,
        inside: &mut Net,
        pod: &PodPublic,
        ip: Ipv4Addr,
    ) -> Result<()> {
        let (ours, theirs, mac) = (outer(ip), inner(ip), MacAddr(public_mac(ip)));
        let there = self.net.link(&ours)?;
        if there.is_some() && inside.link(&theirs)?.is_none() {
            // It is another pod's still, or half of one.
            self.take_public(ip)?;
        }
        if inside.link(&theirs)?.is_none() {
            let peer = Peer { name: &theirs, mac: Some(mac), namespace: Some(namespace) };
            self.net.add_veth(&ours, None, pod.mtu, &peer)?;
        }
        let link = self.net.expect_link(&ours)?;
        if link.alias.as_deref() != Some(&pod.id) {
            self.net.set_alias(link.index, &pod.id)?;
        }
        if !(link.up && link.master == Some(self.bridge.index)) {
            self.namespace.run(|| quiet(&ours))??;
            self.net.set_master(link.index, self.bridge.index)?;
            let port = BridgePort { learning: Some(false), ..BridgePort::default() };
            self.net.set_bridge_port(link.index, port)?;
            self.net.set_up(link.index)?;
        }
        self.net.set_forwards(link.index, &[Forward { mac, host: None }])?;
        self.let_public_speak(ip, true)?;
        namespace.run(|| quiet(&theirs))??;
        let end = inside.expect_link(&theirs)?;
        inside.set_up(end.index)?;
        inside.add_address(end.index, single(ip))?;
        inside.set_neighbour(end.index, Neighbour { ip: ROUTER_IP.into(), mac: ROUTER_MAC })?;
        let out = default_route(ROUTER_IP.into(), end.index);
        inside.replace_route_in(table(ip), &out)?;
        inside.add_source_rule(ip, table(ip))
    }

    /// The public addresses that a pod has.
    fn public_of(&mut self, id: &str) -> Result<Vec<Ipv4Addr>> {
        let links = self.net.links()?.into_iter().filter(|l| l.alias.as_deref() == Some(id));
        Ok(links.filter_map(|l| address_of(&l.name, PUBLIC_PREFIX)).collect())
    }

    /// Takes a public address from whoever has it here.
    fn take_public(&mut self, ip: Ipv4Addr) -> Result<()> {
        self.net.delete_link(&outer(ip))?;
        self.let_public_speak(ip, false)
    }

    /// Takes all public addresses from a pod that ends.
    pub(crate) fn take_all_public(&mut self, id: &str) -> Result<()> {
        for ip in self.public_of(id)? {
            self.take_public(ip)?;
        }
        Ok(())
    }

    fn let_public_speak(&mut self, ip: Ipv4Addr, may: bool) -> Result<()> {
        let mut nft = Nft::open(&self.namespace)?;
        let mut batch = Batch::new();
        for (set, element) in voice(ip) {
            let said = match nft.elements(PODS, set) {
                Ok(said) => said.iter().any(|e| e.key == element.key),
                Err(error) if error.is_missing() => return Ok(()),
                Err(error) => return Err(error),
            };
            match (said, may) {
                (false, true) => batch.add_element(PODS, set, element),
                (true, false) => batch.delete_element(PODS, set, element),
                _ => {}
            }
        }
        nft.commit(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_addresses() {
        let ip = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!((outer(ip).as_str(), inner(ip).as_str()), ("podpc0000201", "pubc0000201"));
        assert_eq!(address_of(&outer(ip), PUBLIC_PREFIX), Some(ip));
        for other in ["podp", "podpc00002011", "pod0123456789ab", "podpzz000201"] {
            assert_eq!(address_of(other, PUBLIC_PREFIX), None, "{other}");
        }
    }
}
