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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::arp;
use crate::egress::{Layout, PREFIX, PUBLIC, SWITCH_IP6, address_of, host_end, octets, single};
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
    pub fn set(&mut self, vni: u32, wanted: &BTreeSet<IpAddr>) -> Result<()> {
        let Some(end) = self.net.link(&host_end(vni))? else { return Ok(()) };
        if wanted.iter().any(IpAddr::is_ipv6) {
            let uplink = self.uplink.as_ref().map(|l| l.name.clone());
            self.host.run(|| route_ipv6(uplink.as_deref()))??;
        }
        let led = led_to(&mut self.net, &end)?;
        let known = public(&mut self.nft)?;
        let mut batch = Batch::new();
        for ip in led.iter().filter(|ip| !wanted.contains(ip) && known.contains(ip)) {
            batch.delete_element(Layout::of(*ip).inside, PUBLIC, element(*ip));
        }
        for ip in wanted.difference(&known) {
            batch.add_element(Layout::of(*ip).inside, PUBLIC, element(*ip));
        }
        self.nft.commit(batch)?;
        let proxies = self.net.proxies()?;
        for (link, ip) in &proxies {
            if led.contains(ip) && !wanted.contains(ip) {
                self.net.delete_proxy(*link, *ip)?;
            }
        }
        for ip in led.iter().filter(|ip| !wanted.contains(ip)) {
            self.net.delete_route(&route(&end, *ip))?;
        }
        for ip in wanted {
            if !led.contains(ip) {
                self.net.replace_route(&route(&end, *ip))?;
            }
            let Some(uplink) = &self.uplink else { continue };
            if !proxies.contains(&(uplink.index, *ip)) || !led.contains(ip) {
                self.net.add_proxy(uplink.index, *ip)?;
                arp::announce(&self.host, uplink, *ip)?;
            }
        }
        Ok(())
    }
}

/// The public addresses that the host's filters know.
fn public(nft: &mut Nft) -> Result<BTreeSet<IpAddr>> {
    let mut all = BTreeSet::new();
    for layout in Layout::ALL {
        let elements = match nft.elements(layout.inside, PUBLIC) {
            Err(error) if error.is_missing() => continue,
            other => other?,
        };
        all.extend(elements.into_iter().filter_map(|e| match e.key.len() {
            4 => <[u8; 4]>::try_from(e.key).ok().map(|b| IpAddr::V4(Ipv4Addr::from(b))),
            _ => <[u8; 16]>::try_from(e.key).ok().map(|b| IpAddr::V6(Ipv6Addr::from(b))),
        }));
    }
    Ok(all)
}

/// Has the host lead IPv6 on, and answer for others on its uplink. A system that routes believes routers no more by itself, and would lose its
/// own way out: what believes them now goes on to.
fn route_ipv6(uplink: Option<&str>) -> Result<()> {
    const ALSO_AS_ROUTER: &str = "2";
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let believes = std::fs::read_to_string(entry.path().join("accept_ra")).unwrap_or_default();
        if believes.trim_end() == "1" && !["all", "default"].contains(&&*name) {
            sysctl(&format!("ipv6/conf/{name}/accept_ra"), ALSO_AS_ROUTER)?;
        }
    }
    sysctl("ipv6/conf/all/forwarding", "1")?;
    if let Some(uplink) = uplink {
        sysctl(&format!("ipv6/conf/{uplink}/proxy_ndp"), "1")?;
        sysctl(&format!("ipv6/neigh/{uplink}/proxy_delay"), "0")?;
    }
    Ok(())
}

fn element(ip: IpAddr) -> NewElement {
    NewElement { key: octets(ip), ..NewElement::default() }
}

/// By whom an address's network is reached from its host.
fn gateway(end: &Link, ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => address_of(end.index).into(),
        IpAddr::V6(_) => SWITCH_IP6.into(),
    }
}

fn route(end: &Link, ip: IpAddr) -> Route {
    Route { destination: single(ip), gateway: Some(gateway(end, ip)), link: end.index, source: None }
}

/// The public addresses that are led into a network.
fn led_to(net: &mut Net, end: &Link) -> Result<BTreeSet<IpAddr>> {
    let all = net.routes()?.into_iter().filter(|r| r.link == end.index);
    Ok(all
        .filter(|r| r.destination.prefix_len() == r.destination.max_prefix_len())
        .map(|r| (r.destination.addr(), r.gateway))
        .filter(|(ip, by)| *by == Some(gateway(end, *ip)))
        .map(|(ip, _)| ip)
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
        net.delete_proxy(link, ip)?;
    }
    for ip in public(&mut nft)?.into_iter().filter(|ip| !led.contains(ip)) {
        batch.delete_element(Layout::of(ip).inside, PUBLIC, element(ip));
    }
    nft.commit(batch)
}
