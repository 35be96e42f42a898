//! Addresses, routes, neighbours and forwarding entries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::link::{MacAddr, Net};
use crate::netlink::{Attrs, Message, Result, get_u16, get_u32, unless_missing};
use crate::uapi::*;

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through whom; directly when nobody is named.
    pub gateway: Option<IpAddr>,
    /// Through which link.
    pub link: u32,
    /// With which own address, if one is preferred.
    pub source: Option<IpAddr>,
}

/// Which Ethernet address an IP address has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// The IP address.
    pub ip: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// Where packets to an Ethernet address are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Forward {
    /// The Ethernet address.
    pub mac: MacAddr,
    /// For a VXLAN device, the host; nothing for a bridge, where the port says it all.
    pub host: Option<IpAddr>,
}

pub(crate) fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

pub(crate) fn ip_bytes(m: &mut Message, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => m.attr(kind, &ip.octets()),
        IpAddr::V6(ip) => m.attr(kind, &ip.octets()),
    };
}

pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// Who made an entry, in entries that say so: a number that no routing daemon is known to have.
const PROXIES: u8 = 83;

/// `struct ndmsg`.
fn ndmsg(family: u8, link: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut out = [0; 12];
    out[0] = family;
    out[4..8].copy_from_slice(&link.to_ne_bytes());
    out[8..10].copy_from_slice(&state.to_ne_bytes());
    out[10] = flags;
    out
}

const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;

fn address_message(kind: u16, flags: u16, link: u32, address: IpNet) -> Message {
    let mut m = Message::new(kind, flags);
    let index = link.to_ne_bytes();
    m.fixed(&[family(address.addr()), address.prefix_len(), 0, 0, index[0], index[1], index[2], index[3]]);
    ip_bytes(&mut m, IFA_LOCAL, address.addr());
    ip_bytes(&mut m, IFA_ADDRESS, address.addr());
    m
}

impl Net {
    /// Gives a link an address. That it has it is fine. No other is asked whether it has it: whoever gives
    /// addresses gives each once.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn add_address(&mut self, link: u32, address: IpNet) -> Result<()> {
        let mut m = address_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, link, address);
        m.u32(IFA_FLAGS, IFA_F_NODAD);
        self.socket.request(m, || format!("give {address} to link number {link}"))
    }

    /// Takes an address from a link. That it does not have it is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn delete_address(&mut self, link: u32, address: IpNet) -> Result<()> {
        let m = address_message(RTM_DELADDR, 0, link, address);
        unless_missing(self.socket.request(m, || format!("take {address} from link number {link}")))
    }

    /// The addresses of a link, without those that the kernel gave it itself.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<IpNet>> {
        let mut m = Message::new(RTM_GETADDR, 0);
        m.fixed(&[0; 8]);
        self.socket.dump(
            &m,
            || "list the addresses".into(),
            |_, payload| {
                if get_u32(payload.get(4..)?)? != link || payload[3] >= RT_SCOPE_LINK {
                    return None;
                }
                let attrs = Attrs(payload.get(8..)?);
                let ip = read_ip(attrs.find(IFA_LOCAL).or_else(|| attrs.find(IFA_ADDRESS))?)?;
                IpNet::new(ip, payload[1]).ok()
            },
        )
    }

    /// Adds a route, or replaces the one to the same destination.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let m = route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route);
        self.socket.request(m, || format!("set the route to {}", route.destination))
    }

    /// As [`Net::replace_route`], in another table.
    pub(crate) fn replace_route_in(&mut self, table: u32, route: &Route) -> Result<()> {
        let m = in_table(route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route), table);
        self.socket.request(m, || format!("set the route to {} in the table {table}", route.destination))
    }

    /// As [`Net::delete_route`], in another table.
    pub(crate) fn delete_route_in(&mut self, table: u32, route: &Route) -> Result<()> {
        let m = in_table(route_message(RTM_DELROUTE, 0, route), table);
        let action = || format!("delete the route to {} in the table {table}", route.destination);
        unless_missing(self.socket.request(m, action))
    }

    /// Removes a route. That there is none is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let m = route_message(RTM_DELROUTE, 0, route);
        unless_missing(self.socket.request(m, || format!("delete the route to {}", route.destination)))
    }

    /// The routes of the main table that were not made by the kernel itself.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut m = Message::new(RTM_GETROUTE, 0);
        m.fixed(&[0; 12]);
        self.socket.dump(
            &m,
            || "list the routes".into(),
            |_, payload| {
                let head = payload.get(..12)?;
                if head[4] != RT_TABLE_MAIN || head[5] != RTPROT_STATIC {
                    return None;
                }
                let attrs = Attrs(&payload[12..]);
                let any: IpAddr = match i32::from(head[0]) {
                    libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
                    libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
                    _ => return None,
                };
                let to = attrs.find(RTA_DST).map_or(Some(any), read_ip)?;
                Some(Route {
                    destination: IpNet::new(to, head[1]).ok()?,
                    gateway: attrs.find(RTA_GATEWAY).and_then(read_ip),
                    link: get_u32(attrs.find(RTA_OIF)?)?,
                    source: attrs.find(RTA_PREFSRC).and_then(read_ip),
                })
            },
        )
    }

    /// Says for good which Ethernet address an IP address has, or changes it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_neighbour(&mut self, link: u32, neighbour: Neighbour) -> Result<()> {
        let m = neighbour_message(link, neighbour);
        self.socket.request(m, || format!("say that {} is {}", neighbour.ip, neighbour.mac))
    }

    /// Says many at once.
    ///
    /// # Errors
    /// The first that the kernel refuses; the others are set all the same.
    pub fn set_neighbours(&mut self, link: u32, all: &[Neighbour]) -> Result<()> {
        let messages = all.iter().map(|n| neighbour_message(link, *n));
        let answers = self.socket.requests(messages, |i| format!("say that {:?} is", all.get(i)))?;
        answers.into_iter().collect()
    }

    /// Forgets the Ethernet address of an IP address. That it is not known is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn delete_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<()> {
        let mut m = Message::new(RTM_DELNEIGH, 0);
        m.fixed(&ndmsg(family(ip), link, 0, 0));
        ip_bytes(&mut m, NDA_DST, ip);
        unless_missing(self.socket.request(m, || format!("forget the neighbour {ip}")))
    }

    /// What was said for good of the neighbours on a link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn neighbours(&mut self, link: u32) -> Result<Vec<Neighbour>> {
        let mut m = Message::new(RTM_GETNEIGH, 0);
        m.fixed(&ndmsg(0, link, 0, 0)).u32(NDA_IFINDEX, link);
        self.socket.dump(
            &m,
            || "list the neighbours".into(),
            |_, payload| {
                let ours = get_u32(payload.get(4..)?)? == link;
                let permanent = get_u16(payload.get(8..)?)? & NUD_PERMANENT != 0;
                let attrs = Attrs(payload.get(12..)?);
                (ours && permanent).then_some(())?;
                Some(Neighbour {
                    ip: read_ip(attrs.find(NDA_DST)?)?,
                    mac: MacAddr(attrs.find(NDA_LLADDR)?.try_into().ok()?),
                })
            },
        )
    }

    /// Answers on a link for an address that is reached through another link. That it does already is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn add_proxy(&mut self, link: u32, ip: IpAddr) -> Result<()> {
        let mut m = Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
        m.fixed(&ndmsg(family(ip), link, NUD_PERMANENT, NTF_PROXY));
        ip_bytes(&mut m, NDA_DST, ip);
        m.attr(NDA_PROTOCOL, &[PROXIES]);
        self.socket.request(m, || format!("answer for {ip} on link number {link}"))
    }

    /// Does not answer for an address any more. That nobody does is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn delete_proxy(&mut self, link: u32, ip: IpAddr) -> Result<()> {
        let mut m = Message::new(RTM_DELNEIGH, 0);
        m.fixed(&ndmsg(family(ip), link, 0, NTF_PROXY));
        ip_bytes(&mut m, NDA_DST, ip);
        unless_missing(self.socket.request(m, || format!("stop answering for {ip} on link number {link}")))
    }

    /// The links and addresses that are answered for by [`Net::add_proxy`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn proxies(&mut self) -> Result<Vec<(u32, IpAddr)>> {
        let mut all = self.proxies_of(libc::AF_INET as u8)?;
        all.extend(self.proxies_of(libc::AF_INET6 as u8)?);
        Ok(all)
    }

    fn proxies_of(&mut self, family: u8) -> Result<Vec<(u32, IpAddr)>> {
        let mut m = Message::new(RTM_GETNEIGH, 0);
        m.fixed(&ndmsg(family, 0, 0, NTF_PROXY));
        self.socket.dump(
            &m,
            || "list what is answered for".into(),
            |_, payload| {
                let attrs = Attrs(payload.get(12..)?);
                (payload[10] & NTF_PROXY != 0 && attrs.find(NDA_PROTOCOL)? == [PROXIES]).then_some(())?;
                Some((get_u32(payload.get(4..)?)?, read_ip(attrs.find(NDA_DST)?)?))
            },
        )
    }

    /// Says where packets to an Ethernet address go. On a VXLAN device (`host` given) the address of zeros means
    /// all that are not known, and each host is added; on a port of a bridge the entry is the port's.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_forwards(&mut self, link: u32, all: &[Forward]) -> Result<()> {
        let messages = all.iter().map(|f| {
            // Only the address of zeros has many hosts; another has one, and a new one replaces it.
            let many = f.mac == MacAddr::default() && f.host.is_some();
            let how = if many { NLM_F_APPEND } else { NLM_F_REPLACE };
            forward_message(RTM_NEWNEIGH, NLM_F_CREATE | how, link, f)
        });
        let action = |i: usize| format!("forward {:?} on link number {link}", all.get(i));
        for answer in self.socket.requests(messages, action)? {
            crate::netlink::unless_exists(answer)?;
        }
        Ok(())
    }

    /// Removes forwarding entries. That there is none is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn delete_forwards(&mut self, link: u32, all: &[Forward]) -> Result<()> {
        let messages = all.iter().map(|f| forward_message(RTM_DELNEIGH, 0, link, f));
        let action = |i: usize| format!("stop forwarding {:?} on link number {link}", all.get(i));
        for answer in self.socket.requests(messages, action)? {
            unless_missing(answer)?;
        }
        Ok(())
    }

    /// The forwarding entries of a link that were said, not learned: of a VXLAN device those with a host, of a
    /// port of a bridge those without.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forwards(&mut self, link: u32) -> Result<Vec<Forward>> {
        let mut m = Message::new(RTM_GETNEIGH, 0);
        m.fixed(&ndmsg(AF_BRIDGE, link, 0, 0));
        self.socket.dump(
            &m,
            || format!("list the forwarding entries of link number {link}"),
            |_, payload| {
                if payload.first() != Some(&AF_BRIDGE) || get_u32(payload.get(4..)?)? != link {
                    return None;
                }
                let state = get_u16(payload.get(8..)?)?;
                let attrs = Attrs(payload.get(12..)?);
                let host = attrs.find(NDA_DST).and_then(read_ip);
                let is_master = attrs.find(NDA_MASTER).is_some();
                // A port's own address is there as permanent; what was said is static: without ageing.
                let said = if host.is_some() {
                    state & NUD_PERMANENT != 0
                } else {
                    is_master && state & NUD_NOARP != 0
                };
                said.then_some(Forward { mac: MacAddr(attrs.find(NDA_LLADDR)?.try_into().ok()?), host })
            },
        )
    }
}

fn route_message(kind: u16, flags: u16, route: &Route) -> Message {
    let mut m = Message::new(kind, flags);
    let scope = if route.gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let [a, b, c, d] = if route.gateway.is_some() { RTNH_F_ONLINK.to_ne_bytes() } else { [0; 4] };
    let destination = route.destination;
    m.fixed(&[
        family(destination.addr()),
        destination.prefix_len(),
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        scope,
        RTN_UNICAST,
        a,
        b,
        c,
        d,
    ]);
    if destination.prefix_len() > 0 {
        ip_bytes(&mut m, RTA_DST, destination.network());
    }
    if let Some(gateway) = route.gateway {
        ip_bytes(&mut m, RTA_GATEWAY, gateway);
    }
    if let Some(source) = route.source {
        ip_bytes(&mut m, RTA_PREFSRC, source);
    }
    m.u32(RTA_OIF, route.link);
    m
}

/// The attribute counts, and not the header, which has room for a byte only.
fn in_table(mut message: Message, table: u32) -> Message {
    message.u32(RTA_TABLE, table);
    message
}

fn neighbour_message(link: u32, neighbour: Neighbour) -> Message {
    let mut m = Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
    m.fixed(&ndmsg(family(neighbour.ip), link, NUD_PERMANENT, 0));
    ip_bytes(&mut m, NDA_DST, neighbour.ip);
    m.attr(NDA_LLADDR, &neighbour.mac.0);
    m
}

fn forward_message(kind: u16, flags: u16, link: u32, forward: &Forward) -> Message {
    let mut m = Message::new(kind, flags);
    match forward.host {
        Some(host) => {
            m.fixed(&ndmsg(AF_BRIDGE, link, NUD_PERMANENT | NUD_NOARP, NTF_SELF));
            ip_bytes(&mut m, NDA_DST, host);
        }
        None => {
            m.fixed(&ndmsg(AF_BRIDGE, link, NUD_NOARP, NTF_MASTER));
        }
    }
    m.attr(NDA_LLADDR, &forward.mac.0);
    m
}
