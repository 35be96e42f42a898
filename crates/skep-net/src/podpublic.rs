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

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use skep_netplan::public::{public_mac, public_number};

use crate::egress::{ROUTER_IP, ROUTER_IP6, ROUTER_MAC, single};
use crate::link::{BridgePort, MacAddr, Net, Peer};
use crate::machine::{MachineNetwork, POD_INTERFACE, PODS, default_route, quiet};
use crate::netlink::Result;
use crate::nft::{Batch, NewElement, Nft};
use crate::ns::{Namespace, is_namespace, sysctl};
use crate::origin;
use crate::route::{Forward, Neighbour, Route};

/// What public interfaces are called in a pod, before the address in hexadecimal; of IPv6, before a number that is made from it.
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
    /// The public addresses. Connections that the pod begins are from the first of each family.
    pub addresses: Vec<IpAddr>,
    /// Its private addresses, each with its subnet's length.
    pub private: Vec<IpNet>,
    /// Through whom it reaches networks that are not its subnet, one of each family at most.
    pub gateways: Vec<IpAddr>,
    /// Such networks: other subnets, services.
    pub networks: Vec<IpNet>,
    /// Largest packet.
    pub mtu: u32,
}

fn named(prefix: &str, ip: IpAddr) -> String {
    let number = public_number(ip);
    if ip.is_ipv4() { format!("{prefix}{number:08x}") } else { format!("{prefix}{number:010x}") }
}

/// The machine's end of a public address's interface.
fn outer(ip: IpAddr) -> String {
    named(PUBLIC_PREFIX, ip)
}

fn inner(ip: IpAddr) -> String {
    named(INSIDE, ip)
}

/// Whether a name is one of a public interface, and of IPv6.
fn is_of6(name: &str, prefix: &str) -> Option<bool> {
    let digits = name.strip_prefix(prefix)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
    match digits.len() {
        8 => Some(false),
        10 => Some(true),
        _ => None,
    }
}

/// Whom what is outside is reached by.
fn router(v6: bool) -> IpAddr {
    if v6 { ROUTER_IP6.into() } else { ROUTER_IP.into() }
}

/// In which families a pod has an interface with a public address, IPv4 first: then its default route is not its gateway's.
pub(crate) fn is_public(inside: &mut Net) -> Result<[bool; 2]> {
    let links = inside.links()?;
    Ok([false, true].map(|v6| links.iter().any(|l| is_of6(&l.name, INSIDE) == Some(v6))))
}

/// What lets a public address's interface speak as itself.
pub(crate) fn voice(ip: IpAddr) -> [(&'static str, NewElement); 2] {
    let (name, mac) = (outer(ip), public_mac(ip));
    [(origin::MACS, origin::allowed_mac(&name, &mac)), origin::allowed(&name, &mac, ip)]
}

/// The number of the table with the routes for an address. Tables with names of their own have numbers below 256, which no address that
/// anybody has is; of IPv6, the number's lowest bits, and so many that it is not below.
fn table(ip: IpAddr) -> u32 {
    const NOT_A_NAME: u32 = 0x100;
    match ip {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(_) => (public_number(ip) & u64::from(u32::MAX)) as u32 | NOT_A_NAME,
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
        let wanted: Vec<String> = pod.addresses.iter().map(|ip| outer(*ip)).collect();
        let gone: Vec<String> =
            self.public_of(&pod.id)?.into_iter().filter(|name| !wanted.contains(name)).collect();
        for name in &gone {
            self.take_public(name)?;
        }
        let mut said: Vec<IpAddr> = inside.source_rules()?;
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
        for v6 in [false, true] {
            let first = match pod.addresses.iter().find(|ip| ip.is_ipv6() == v6) {
                Some(ip) => Some((*ip, inside.expect_link(&inner(*ip))?.index)),
                None => None,
            };
            lead(&mut inside, pod, eth0, v6, first)?;
        }
        let private: Vec<IpAddr> = pod.private.iter().map(IpNet::addr).collect();
        said.retain(|s| !private.contains(s) && !pod.addresses.contains(s));
        for ip in said {
            inside.delete_source_rule(ip, table(ip))?;
        }
        Ok(())
    }

    fn give_public(
        &mut self,
        namespace: &Namespace,
        inside: &mut Net,
        pod: &PodPublic,
        ip: IpAddr,
    ) -> Result<()> {
        let (ours, theirs, mac) = (outer(ip), inner(ip), MacAddr(public_mac(ip)));
        let there = self.net.link(&ours)?;
        if there.is_some() && inside.link(&theirs)?.is_none() {
            // It is another pod's still, or half of one.
            self.take_public(&ours)?;
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
        self.let_public_speak(&ours, &voice(ip))?;
        namespace.run(|| {
            if ip.is_ipv4() {
                return quiet(&theirs);
            }
            // No address but the one that it is given.
            sysctl(&format!("ipv6/conf/{theirs}/addr_gen_mode"), "1")?;
            sysctl(&format!("ipv6/conf/{theirs}/accept_ra"), "0")?;
            sysctl(&format!("ipv6/conf/{theirs}/accept_dad"), "0")
        })??;
        let end = inside.expect_link(&theirs)?;
        inside.set_up(end.index)?;
        inside.add_address(end.index, single(ip))?;
        let router = router(ip.is_ipv6());
        inside.set_neighbour(end.index, Neighbour { ip: router, mac: ROUTER_MAC })?;
        let out = default_route(router, end.index);
        inside.replace_route_in(table(ip), &out)?;
        inside.add_source_rule(ip, table(ip))
    }

    /// The machine's ends of the public interfaces that a pod has.
    fn public_of(&mut self, id: &str) -> Result<Vec<String>> {
        let links = self.net.links()?.into_iter().filter(|l| l.alias.as_deref() == Some(id));
        Ok(links.map(|l| l.name).filter(|name| is_of6(name, PUBLIC_PREFIX).is_some()).collect())
    }

    /// Takes a public address from whoever has it here, by the machine's end of its interface.
    fn take_public(&mut self, name: &str) -> Result<()> {
        self.net.delete_link(name)?;
        self.let_public_speak(name, &[])
    }

    /// Takes all public addresses from a pod that ends.
    pub(crate) fn take_all_public(&mut self, id: &str) -> Result<()> {
        for name in self.public_of(id)? {
            self.take_public(&name)?;
        }
        Ok(())
    }

    /// Lets a public interface speak as these, and as nobody else.
    fn let_public_speak(&mut self, name: &str, wanted: &[(&'static str, NewElement)]) -> Result<()> {
        let mut nft = Nft::open(&self.namespace)?;
        let mut batch = Batch::new();
        for set in origin::SETS {
            let said = match nft.elements(PODS, set) {
                Ok(said) => said,
                Err(error) if error.is_missing() => return Ok(()),
                Err(error) => return Err(error),
            };
            let wanted = || wanted.iter().filter(|(of, _)| *of == set).map(|(_, element)| element);
            for old in said.iter().filter(|e| origin::is_of(&e.key, name)) {
                if !wanted().any(|element| element.key == old.key) {
                    batch.delete_element(
                        PODS,
                        set,
                        NewElement { key: old.key.clone(), ..NewElement::default() },
                    );
                }
            }
            for element in wanted().filter(|element| !said.iter().any(|e| e.key == element.key)) {
                batch.add_element(PODS, set, element.clone());
            }
        }
        nft.commit(batch)
    }
}

/// What is private goes by the machine, whoever asked from outside through a service; everything else by the `first` public address of the
/// family, if there is one.
fn lead(inside: &mut Net, pod: &PodPublic, eth0: u32, v6: bool, first: Option<(IpAddr, u32)>) -> Result<()> {
    let gateway = pod.gateways.iter().copied().find(|g| g.is_ipv6() == v6);
    let of_family = |net: &&IpNet| net.addr().is_ipv6() == v6;
    for private in pod.private.iter().filter(of_family) {
        let ip = private.addr();
        let near = Route { destination: private.trunc(), gateway: None, link: eth0, source: None };
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
    }
    for network in pod.networks.iter().filter(of_family) {
        let by = Route { destination: *network, gateway, link: eth0, source: None };
        match (first, gateway) {
            (Some(_), Some(_)) => inside.replace_route(&by)?,
            _ => inside.delete_route(&by)?,
        }
    }
    match (first, gateway) {
        (Some((ip, link)), _) => {
            let out = Route { source: Some(ip), ..default_route(router(v6), link) };
            inside.replace_route(&out)
        }
        (None, Some(gateway)) => inside.replace_route(&default_route(gateway, eth0)),
        (None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_addresses() {
        let ip = IpAddr::from([192, 0, 2, 1]);
        assert_eq!((outer(ip).as_str(), inner(ip).as_str()), ("podpc0000201", "pubc0000201"));
        assert_eq!(is_of6(&outer(ip), PUBLIC_PREFIX), Some(false));
        let ip: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(outer(ip).len() <= 15, "{}", outer(ip));
        assert_eq!(is_of6(&outer(ip), PUBLIC_PREFIX), Some(true));
        for other in ["podp", "podpc00002011", "pod0123456789ab", "podpzz000201"] {
            assert_eq!(is_of6(other, PUBLIC_PREFIX), None, "{other}");
        }
    }
}
