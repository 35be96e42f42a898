//! Which addresses a subnet can give, and in which order they are tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Of a large subnet only this many addresses are given out by themselves; the others can be asked for by name. An
/// IPv6 subnet has 2^64, and a number of 40 bits goes into an Ethernet address.
const MAX_OFFSET_BITS: u32 = 40;

/// Addresses from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// The first.
    pub first: IpAddr,
    /// The last, of the same family and not before the first.
    pub last: IpAddr,
}

impl AddressRange {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.first <= ip && ip <= self.last
    }

    /// How many there are; of an endless number the largest that can be said.
    #[must_use]
    pub fn len(&self) -> u64 {
        let count = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(u32::from(last) - u32::from(first)),
            (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(last) - u128::from(first),
            _ => 0,
        };
        u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Never: the first is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The address at a place.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<IpAddr> {
        let ip: IpAddr = match self.first {
            IpAddr::V4(first) => {
                Ipv4Addr::from(u32::from(first).checked_add(u32::try_from(place).ok()?)?).into()
            }
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).checked_add(place.into())?).into(),
        };
        self.contains(ip).then_some(ip)
    }
}

/// What is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRange;

/// Reads `10.0.0.5`, `10.0.0.5-10.0.0.9` or `10.0.0.0/28`.
///
/// # Errors
/// When it is none of these.
pub fn parse_range(text: &str) -> Result<AddressRange, BadRange> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(AddressRange { first: ip, last: ip });
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(AddressRange { first: net.network(), last: net.broadcast() });
    }
    let (first, last) = text.split_once('-').ok_or(BadRange)?;
    let first: IpAddr = first.parse().map_err(|_| BadRange)?;
    let last: IpAddr = last.parse().map_err(|_| BadRange)?;
    (first.is_ipv4() == last.is_ipv4() && first <= last)
        .then_some(AddressRange { first, last })
        .ok_or(BadRange)
}

/// The addresses of a subnet that can be given.
#[derive(Clone, Debug)]
pub struct Candidates {
    net: IpNet,
    gateway: Option<IpAddr>,
    reserved: Vec<AddressRange>,
}

impl Candidates {
    pub(super) fn new(net: IpNet, gateway: Option<IpAddr>, reserved: Vec<AddressRange>) -> Candidates {
        Candidates { net, gateway, reserved }
    }

    /// The subnet.
    #[must_use]
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// How many addresses there are to choose from, those that cannot be given included.
    #[must_use]
    pub fn len(&self) -> u64 {
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        1 << bits.min(MAX_OFFSET_BITS)
    }

    /// Never: the subnet itself is an address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The address at a place, if it can be given by itself.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<IpAddr> {
        let ip: IpAddr = match self.net {
            IpNet::V4(net) => {
                Ipv4Addr::from(u32::from(net.network()).checked_add(u32::try_from(place).ok()?)?).into()
            }
            IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()).checked_add(place.into())?).into(),
        };
        (self.usable(ip) && !self.reserved.iter().any(|r| r.contains(ip))).then_some(ip)
    }

    /// Whether an address can be asked for by name: also one that is reserved, for that is what it is reserved for.
    #[must_use]
    pub fn usable(&self, ip: IpAddr) -> bool {
        // Neither the network's own address nor its last, which in IPv6 are addresses of routers and of none.
        self.net.contains(&ip)
            && ip != self.net.network()
            && ip != self.net.broadcast()
            && Some(ip) != self.gateway
    }
}

/// The Ethernet address of a port, made from its first address, which no other port of the network has. It is
/// locally administered.
#[must_use]
pub fn port_mac(ip: IpAddr) -> String {
    let [a, b, c, d, e] = match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [0x53, a, b, c, d]
        }
        IpAddr::V6(ip) => {
            let o = ip.octets();
            [o[11], o[12], o[13], o[14], o[15]]
        }
    };
    // The second bit says that nobody's factory gave it. The others tell IPv4 and IPv6 apart.
    let first = if ip.is_ipv4() { 0x02 } else { 0x06 };
    format!("{first:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}
