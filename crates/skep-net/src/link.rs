//! Links: bridges, veth pairs, VXLAN devices, and what all links have.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

use crate::netlink::{
    Attrs, Error, Family, Message, Result, Socket, get_str, get_u32, get_u64, unless_missing,
};
use crate::ns::Namespace;
use crate::uapi::*;

/// The address of an Ethernet interface.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is not an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address, which looks like 02:00:00:00:00:01")]
pub struct NotAMac(String);

impl FromStr for MacAddr {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<MacAddr, NotAMac> {
        let mut out = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte =
                part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(|| NotAMac(text.to_owned()))?;
        }
        parts.next().is_none().then_some(MacAddr(out)).ok_or_else(|| NotAMac(text.to_owned()))
    }
}

/// What went through a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets to be sent that were dropped.
    pub tx_dropped: u64,
}

/// A link as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// A longer name that somebody gave it.
    pub alias: Option<String>,
    /// `bridge`, `veth`, `vxlan`; nothing for hardware and the loopback.
    pub kind: Option<String>,
    /// Its address.
    pub mac: MacAddr,
    /// Largest packet.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is connected: of a veth, that the other end is on.
    pub carrier: bool,
    /// What went through it.
    pub stats: LinkStats,
}

/// A VXLAN device to be made.
#[derive(Clone, Debug)]
pub struct Vxlan {
    /// The network's number.
    pub vni: u32,
    /// The address of this host that packets are sent from.
    pub local: IpAddr,
    /// The UDP port, here and there.
    pub port: u16,
}

/// How a port of a bridge behaves. Nothing means: as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// Whether it may send packets back where they came from.
    pub hairpin: Option<bool>,
    /// Whether addresses are learned from what it receives.
    pub learning: Option<bool>,
    /// Whether it gets packets for unknown addresses, for groups, for all.
    pub flood: Option<bool>,
    /// Whether address questions are answered by the bridge instead of asked through this port.
    pub neigh_suppress: Option<bool>,
}

/// A bridge to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bridge {
    /// Whether bridged packets pass the packet filters of the IP layer, connection tracking included.
    pub call_iptables: bool,
}

/// Packets that may wait in a queueing device beside those that its classes hold: as many as in other interfaces. The kernel's 32 lose
/// packets whenever a few senders begin at once.
const QUEUE_DEVICE_PACKETS: u32 = 1000;

/// Links, addresses, routes and neighbours of one namespace.
#[derive(Debug)]
pub struct Net {
    pub(crate) socket: Socket,
}

/// `struct ifinfomsg`.
pub(crate) fn ifinfo(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[0] = family;
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

fn info(m: &mut Message, kind: &str, data: impl FnOnce(&mut Message)) {
    m.nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_KIND, kind).nest(IFLA_INFO_DATA, data);
    });
}

fn raw_fd(namespace: &Namespace) -> u32 {
    // Descriptors are never negative.
    namespace.as_fd().as_raw_fd().unsigned_abs()
}

impl Net {
    /// Of the namespace that the calling thread is in.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn here() -> Result<Net> {
        Ok(Net { socket: Socket::open(Family::Route)? })
    }

    /// Of a namespace.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn open(namespace: &Namespace) -> Result<Net> {
        namespace.run(Net::here)?
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut m = Message::new(RTM_GETLINK, 0);
        m.fixed(&ifinfo(0, 0, 0, 0));
        self.socket.dump(&m, || "list the links".into(), |_, payload| read_link(payload))
    }

    /// One link.
    ///
    /// # Errors
    /// What the kernel says, other than that there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut m = Message::new(RTM_GETLINK, 0);
        m.fixed(&ifinfo(0, 0, 0, 0)).str(IFLA_IFNAME, name);
        match self.socket.get(m, || format!("find the link {name}"), |_, payload| read_link(payload)) {
            Err(e) if e.is_missing() => Ok(None),
            other => other,
        }
    }

    /// One link that has to be there.
    ///
    /// # Errors
    /// [`Error::Missing`] when it is not.
    pub fn expect_link(&mut self, name: &str) -> Result<Link> {
        self.link(name)?.ok_or_else(|| Error::Missing { what: "link", name: name.to_owned() })
    }

    fn new_link(&mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Result<()> {
        let mut m = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        m.fixed(&ifinfo(0, 0, 0, 0)).str(IFLA_IFNAME, name);
        fill(&mut m);
        self.socket.request(m, || format!("make the link {name}"))
    }

    /// Makes a bridge, switched off.
    ///
    /// # Errors
    /// What the kernel says, "exists" included.
    pub fn add_bridge(&mut self, name: &str, mac: MacAddr, mtu: u32, bridge: Bridge) -> Result<()> {
        self.new_link(name, |m| {
            // With an address of its own it does not take that of a port that comes and goes.
            m.attr(IFLA_ADDRESS, &mac.0).u32(IFLA_MTU, mtu);
            info(m, "bridge", |m| {
                m.u8(IFLA_BR_MCAST_SNOOPING, 0)
                    .u8(IFLA_BR_NF_CALL_IPTABLES, bridge.call_iptables.into())
                    .u8(IFLA_BR_NF_CALL_IP6TABLES, bridge.call_iptables.into());
            });
        })
    }

    /// Makes a pair of connected interfaces: one here, its peer in another namespace, both switched off.
    ///
    /// # Errors
    /// What the kernel says, "exists" included.
    pub fn add_veth(&mut self, name: &str, mac: Option<MacAddr>, mtu: u32, peer: &Peer<'_>) -> Result<()> {
        self.new_link(name, |m| {
            m.u32(IFLA_MTU, mtu);
            if let Some(mac) = mac {
                m.attr(IFLA_ADDRESS, &mac.0);
            }
            info(m, "veth", |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.fixed(&ifinfo(0, 0, 0, 0)).str(IFLA_IFNAME, peer.name).u32(IFLA_MTU, mtu);
                    if let Some(mac) = peer.mac {
                        m.attr(IFLA_ADDRESS, &mac.0);
                    }
                    if let Some(namespace) = peer.namespace {
                        m.u32(IFLA_NET_NS_FD, raw_fd(namespace));
                    }
                });
            });
        })
    }

    /// Makes a VXLAN device in `target`, whose packets travel in the namespace that this handle is of. It does
    /// not learn: where an address is has to be said.
    ///
    /// # Errors
    /// What the kernel says, "exists" included.
    pub fn add_vxlan(
        &mut self,
        name: &str,
        mac: MacAddr,
        mtu: u32,
        vxlan: &Vxlan,
        target: &Namespace,
    ) -> Result<()> {
        self.new_link(name, |m| {
            m.attr(IFLA_ADDRESS, &mac.0).u32(IFLA_MTU, mtu).u32(IFLA_NET_NS_FD, raw_fd(target));
            info(m, "vxlan", |m| {
                m.u32(IFLA_VXLAN_ID, vxlan.vni).u8(IFLA_VXLAN_LEARNING, 0);
                m.attr(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
                match vxlan.local {
                    IpAddr::V4(ip) => m.attr(IFLA_VXLAN_LOCAL, &ip.octets()),
                    // As for IPv4, what is inside has its own checksums.
                    IpAddr::V6(ip) => m
                        .attr(IFLA_VXLAN_LOCAL6, &ip.octets())
                        .u8(IFLA_VXLAN_UDP_ZERO_CSUM6_TX, 1)
                        .u8(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, 1),
                };
            });
        })
    }

    /// Makes a device whose queues hold back what is sent to it, and which then lets it go on where it came from; switched off.
    ///
    /// # Errors
    /// What the kernel says, "exists" included.
    pub fn add_queue_device(&mut self, name: &str) -> Result<()> {
        self.new_link(name, |m| {
            m.u32(IFLA_TXQLEN, QUEUE_DEVICE_PACKETS);
            info(m, "ifb", |_| ());
        })
    }

    /// Removes a link, and with a veth its peer. That there is none is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let mut m = Message::new(RTM_DELLINK, 0);
        m.fixed(&ifinfo(0, 0, 0, 0)).str(IFLA_IFNAME, name);
        unless_missing(self.socket.request(m, || format!("delete the link {name}")))
    }

    fn set(&mut self, index: u32, flags: u32, what: &str, fill: impl FnOnce(&mut Message)) -> Result<()> {
        let mut m = Message::new(RTM_NEWLINK, 0);
        m.fixed(&ifinfo(0, index, flags, flags));
        fill(&mut m);
        self.socket.request(m, || format!("{what} link number {index}"))
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.set(index, IFF_UP, "switch on", |_| ())
    }

    /// Switches a link off.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_down(&mut self, index: u32) -> Result<()> {
        let mut m = Message::new(RTM_NEWLINK, 0);
        m.fixed(&ifinfo(0, index, 0, IFF_UP));
        self.socket.request(m, || format!("switch off link number {index}"))
    }

    /// Sets the largest packet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.set(index, 0, "set the MTU of", |m| {
            m.u32(IFLA_MTU, mtu);
        })
    }

    /// Sets the address of a link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mac(&mut self, index: u32, mac: MacAddr) -> Result<()> {
        self.set(index, 0, "set the address of", |m| {
            m.attr(IFLA_ADDRESS, &mac.0);
        })
    }

    /// Gives a link a longer name, which says whose it is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<()> {
        self.set(index, 0, "name", |m| {
            // Not a text with an end: its length is what counts.
            m.attr(IFLA_IFALIAS, alias.as_bytes());
        })
    }

    /// Renames a link that is switched off.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        self.set(index, 0, "rename", |m| {
            m.str(IFLA_IFNAME, name);
        })
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_master(&mut self, index: u32, master: u32) -> Result<()> {
        self.set(index, 0, "connect", |m| {
            m.u32(IFLA_MASTER, master);
        })
    }

    /// Says how a port of a bridge behaves.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_bridge_port(&mut self, index: u32, port: BridgePort) -> Result<()> {
        self.set(index, 0, "set up the bridge port", |m| {
            m.nest(IFLA_LINKINFO, |m| {
                m.str(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |m| {
                    let mut flag = |kind, value: Option<bool>| {
                        if let Some(value) = value {
                            m.u8(kind, value.into());
                        }
                    };
                    flag(IFLA_BRPORT_MODE, port.hairpin);
                    flag(IFLA_BRPORT_LEARNING, port.learning);
                    flag(IFLA_BRPORT_UNICAST_FLOOD, port.flood);
                    flag(IFLA_BRPORT_MCAST_FLOOD, port.flood);
                    flag(IFLA_BRPORT_BCAST_FLOOD, port.flood);
                    flag(IFLA_BRPORT_NEIGH_SUPPRESS, port.neigh_suppress);
                });
            });
        })
    }
}

/// The other end of a veth pair.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Its address; the kernel chooses one if it is not given.
    pub mac: Option<MacAddr>,
    /// Where it is; next to its other end if it is not given.
    pub namespace: Option<&'a Namespace>,
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let flags = get_u32(payload.get(8..)?)?;
    let mut link = Link {
        index: get_u32(payload.get(4..)?)?,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        ..Link::default()
    };
    for (kind, value) in Attrs(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = get_str(value),
            IFLA_IFALIAS => link.alias = Some(get_str(value)),
            IFLA_ADDRESS => link.mac = value.try_into().map(MacAddr).unwrap_or_default(),
            IFLA_MTU => link.mtu = get_u32(value)?,
            IFLA_MASTER => link.master = get_u32(value),
            IFLA_LINKINFO => link.kind = Attrs(value).find(IFLA_INFO_KIND).map(get_str),
            IFLA_STATS64 => {
                let number = |i: usize| value.get(i * 8..).and_then(get_u64).unwrap_or_default();
                link.stats = LinkStats {
                    rx_packets: number(0),
                    tx_packets: number(1),
                    rx_bytes: number(2),
                    tx_bytes: number(3),
                    rx_dropped: number(6),
                    tx_dropped: number(7),
                };
            }
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_are_read_and_written() {
        let mac: MacAddr = "02:00:0A:00:00:ff".parse().unwrap();
        assert_eq!(mac, MacAddr([2, 0, 10, 0, 0, 255]));
        assert_eq!(mac.to_string(), "02:00:0a:00:00:ff");
        for bad in [
            "",
            "02:00:0a:00:00",
            "02:00:0a:00:00:ff:01",
            "2:0:a:0:0:ff",
            "02-00-0a-00-00-ff",
            "02:00:0a:00:00:+f",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad:?}");
        }
    }
}
