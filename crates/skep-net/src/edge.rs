//! Where public addresses come in: a host's own namespace.
//!
//! ```text
//! outside ── uplink (answers ARP for the address) ── host ── sku… ══ up ── br ── machine
//! ```
//!
//! A host answers for the public addresses that lead to its machines, and for no others; which host that is, is told to everybody on
//! the link at once when it changes. What comes in is routed to the network's switch, which looks at it ([`crate::switch`]).
//! Everything is read from the kernel before it is changed: it does not matter who left what.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::arp;
use crate::egress::{OUTSIDE, PREFIX, PUBLIC, address_of, host_end, single};
use crate::link::{Link, Net};
use crate::netlink::Result;
use crate::nft::{Batch, NewElement, Nft};
use crate::ns::{LOOPBACK, Namespace, sysctl};
use crate::route::Route;

/// The edge of one host.
#[derive(Debug)]
pub struct Edge {
    host: Namespace,
    net: Net,
    nft: Nft,
    /// Where addresses are answered for; nowhere on a host that is reached by its own loopback only.
    uplink: Option<Link>,
}

impl Edge {
    /// Of a host. Public addresses are answered for on the link that has the host's `address`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(host: Namespace, address: IpAddr) -> Result<Edge> {
        let (mut net, nft) = (Net::open(&host)?, Nft::open(&host)?);
        let mut uplink = None;
        for link in net.links()?.into_iter().filter(|l| l.index != LOOPBACK) {
            if net.addresses(link.index)?.iter().any(|a| a.addr() == address) {
                uplink = Some(link);
                break;
            }
        }
        if let Some(link) = &uplink {
            // The kernel waits for up to a second before it answers for others: meant for two who both would, which is not the case.
            host.run(|| sysctl(&format!("ipv4/neigh/{}/proxy_delay", link.name), "0"))??;
        }
        Ok(Edge { host, net, nft, uplink })
    }

    /// Leads these public addresses, and no others, into a network that is [led out](crate::egress) here.
    ///
    /// # Errors
    /// What the kernel says. It can be called again.
    pub fn set(&mut self, vni: u32, wanted: &BTreeSet<Ipv4Addr>) -> Result<()> {
        let Some(end) = self.net.link(&host_end(vni))? else { return Ok(()) };
        let switch = address_of(end.index);
        let led = led_to(&mut self.net, &end)?;
        let known = self.public()?;
        let mut batch = Batch::new();
        for ip in led.iter().filter(|ip| !wanted.contains(ip) && known.contains(ip)) {
            batch.delete_element(OUTSIDE, PUBLIC, element(*ip));
        }
        for ip in wanted.difference(&known) {
            batch.add_element(OUTSIDE, PUBLIC, element(*ip));
        }
        self.nft.commit(batch)?;
        let proxies = self.net.proxies()?;
        for (link, ip) in &proxies {
            if led.contains(ip) && !wanted.contains(ip) {
                self.net.delete_proxy(*link, (*ip).into())?;
            }
        }
        for ip in led.iter().filter(|ip| !wanted.contains(ip)) {
            self.net.delete_route(&route(&end, switch, *ip))?;
        }
        for ip in wanted {
            if !led.contains(ip) {
                self.net.replace_route(&route(&end, switch, *ip))?;
            }
            let Some(uplink) = &self.uplink else { continue };
            if !proxies.contains(&(uplink.index, *ip)) || !led.contains(ip) {
                self.net.add_proxy(uplink.index, (*ip).into())?;
                arp::announce(&self.host, uplink, *ip)?;
            }
        }
        Ok(())
    }

    fn public(&mut self) -> Result<BTreeSet<Ipv4Addr>> {
        let elements = match self.nft.elements(OUTSIDE, PUBLIC) {
            Err(error) if error.is_missing() => return Ok(BTreeSet::new()),
            other => other?,
        };
        let read = |key: Vec<u8>| <[u8; 4]>::try_from(key).ok().map(Ipv4Addr::from);
        Ok(elements.into_iter().filter_map(|e| read(e.key)).collect())
    }
}

fn element(ip: Ipv4Addr) -> NewElement {
    NewElement { key: ip.octets().to_vec(), ..NewElement::default() }
}

fn route(end: &Link, switch: Ipv4Addr, ip: Ipv4Addr) -> Route {
    Route { destination: single(ip), gateway: Some(switch.into()), link: end.index, source: None }
}

/// The public addresses that are led into a network.
fn led_to(net: &mut Net, end: &Link) -> Result<BTreeSet<Ipv4Addr>> {
    let switch = IpAddr::V4(address_of(end.index));
    let all = net.routes()?.into_iter();
    let of_it =
        all.filter(|r| r.link == end.index && r.gateway == Some(switch) && r.destination.prefix_len() == 32);
    Ok(of_it
        .filter_map(|r| if let IpAddr::V4(ip) = r.destination.addr() { Some(ip) } else { None })
        .collect())
}

/// Answers on a host for nothing any more that is led nowhere: its network is gone from here, and with it the route.
///
/// # Errors
/// What the kernel says.
pub fn sweep(host: &Namespace) -> Result<()> {
    let mut net = Net::open(host)?;
    let proxies = net.proxies()?;
    if proxies.is_empty() {
        return Ok(());
    }
    let ends: Vec<Link> = net.links()?.into_iter().filter(|l| l.name.starts_with(PREFIX)).collect();
    let mut led = BTreeSet::new();
    for end in &ends {
        led.extend(led_to(&mut net, end)?);
    }
    let mut batch = Batch::new();
    let mut nft = Nft::open(host)?;
    for (link, ip) in proxies.into_iter().filter(|(_, ip)| !led.contains(ip)) {
        net.delete_proxy(link, ip.into())?;
    }
    match nft.elements(OUTSIDE, PUBLIC) {
        Ok(known) => {
            let read = |key: &[u8]| <[u8; 4]>::try_from(key).ok().map(Ipv4Addr::from);
            for old in known.into_iter().filter(|e| read(&e.key).is_some_and(|ip| !led.contains(&ip))) {
                batch.delete_element(OUTSIDE, PUBLIC, NewElement { key: old.key, ..NewElement::default() });
            }
        }
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error),
    }
    nft.commit(batch)
}
