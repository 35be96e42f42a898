//! Ranges of addresses and ports, joined and cut.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of one family, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

impl AddressRange {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.first <= ip && ip <= self.last
    }
}

/// Ports of a protocol, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The protocol's number.
    pub protocol: u8,
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address(v4: bool, n: u128) -> IpAddr {
    if v4 {
        // Numbers of this family are made of its addresses, and never grow.
        Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX)).into()
    } else {
        Ipv6Addr::from(n).into()
    }
}

/// Numbers from the first to the last, sorted and joined where they touch.
fn join(mut all: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    all.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What is left of a range without some others.
fn cut((first, last): (u128, u128), without: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    let mut left = Vec::new();
    let mut next = Some(first);
    for (from, to) in join(without) {
        let Some(begin) = next else { break };
        if to < begin || from > last {
            continue;
        }
        if from > begin {
            left.push((begin, from - 1));
        }
        next = to.checked_add(1).filter(|n| *n <= last);
    }
    left.extend(next.map(|n| (n, last)));
    left
}

/// The addresses of blocks, each without its exceptions: sorted, apart from each other.
pub(super) fn addresses<'a>(blocks: impl IntoIterator<Item = (IpNet, &'a [IpNet])>) -> Vec<AddressRange> {
    let ends = |net: &IpNet| (number(net.network()), number(net.broadcast()));
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (block, except) in blocks {
        let is_v4 = block.addr().is_ipv4();
        let of_family = except.iter().filter(|e| e.addr().is_ipv4() == is_v4);
        let left = cut(ends(&block), of_family.map(ends).collect());
        if is_v4 { &mut v4 } else { &mut v6 }.extend(left);
    }
    let range = |v4| move |(a, b)| AddressRange { first: address(v4, a), last: address(v4, b) };
    let all = join(v4).into_iter().map(range(true));
    all.chain(join(v6).into_iter().map(range(false))).collect()
}

/// Ports, sorted, apart from each other.
pub(super) fn ports(all: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
    let mut all: Vec<PortRange> = all.into_iter().collect();
    all.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(before)
                if before.protocol == range.protocol && range.first <= before.last.saturating_add(1) =>
            {
                before.last = before.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(blocks: &[(&str, &[&str])]) -> Vec<String> {
        let blocks: Vec<(IpNet, Vec<IpNet>)> = blocks
            .iter()
            .map(|(b, e)| (b.parse().unwrap(), e.iter().map(|e| e.parse().unwrap()).collect()))
            .collect();
        let ranges = addresses(blocks.iter().map(|(b, e)| (*b, e.as_slice())));
        ranges.iter().map(|r| format!("{}-{}", r.first, r.last)).collect()
    }

    #[test]
    fn blocks_without_their_exceptions() {
        assert_eq!(shown(&[("0.0.0.0/0", &[])]), ["0.0.0.0-255.255.255.255"]);
        assert_eq!(
            shown(&[("0.0.0.0/0", &["0.0.0.0/8", "255.0.0.0/8", "10.1.0.0/16"])]),
            ["1.0.0.0-10.0.255.255", "10.2.0.0-254.255.255.255"]
        );
        assert_eq!(
            shown(&[("10.0.0.0/24", &["10.0.0.0/8"])]),
            [""; 0],
            "an exception that is more than the block"
        );
        assert_eq!(
            shown(&[("10.0.0.0/25", &[]), ("10.0.0.128/25", &[]), ("10.0.1.0/24", &["10.0.1.128/25"])]),
            ["10.0.0.0-10.0.1.127"],
            "what touches is one"
        );
        // What one block leaves out another may have.
        assert_eq!(
            shown(&[("10.0.0.0/24", &["10.0.0.64/26"]), ("10.0.0.64/27", &[])]),
            ["10.0.0.0-10.0.0.95", "10.0.0.128-10.0.0.255"]
        );
        assert_eq!(
            shown(&[("::/0", &["8000::/1"]), ("10.0.0.1/32", &["::/0"])]),
            ["10.0.0.1-10.0.0.1", "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
        );
    }

    proptest! {
        #[test]
        fn ranges_hold_what_the_blocks_do(
            blocks in prop::collection::vec(
                ((any::<u8>(), 24u8..=32), prop::collection::vec((any::<u8>(), 24u8..=32), 0..4)), 0..4)
        ) {
            let net = |(n, len): (u8, u8)| IpNet::new(IpAddr::from([10, 0, 0, n]), len).unwrap().trunc();
            let blocks: Vec<(IpNet, Vec<IpNet>)> =
                blocks.into_iter().map(|(b, e)| (net(b), e.into_iter().map(net).collect())).collect();
            let ranges = addresses(blocks.iter().map(|(b, e)| (*b, e.as_slice())));
            for n in 0..=u8::MAX {
                let ip = IpAddr::from([10, 0, 0, n]);
                let wanted = blocks.iter().any(|(b, e)| b.contains(&ip) && !e.iter().any(|e| e.contains(&ip)));
                prop_assert_eq!(ranges.iter().filter(|r| r.contains(ip)).count(), usize::from(wanted), "{}", ip);
            }
        }

        #[test]
        fn ports_are_joined(all in prop::collection::vec((6u8..8, 0u16..40, 0u16..10), 0..8)) {
            let given: Vec<PortRange> =
                all.into_iter().map(|(protocol, first, n)| PortRange { protocol, first, last: first + n }).collect();
            let joined = ports(given.clone());
            for protocol in 6..8 {
                for port in 0..60 {
                    let of = |all: &[PortRange]| {
                        all.iter().filter(|r| r.protocol == protocol && (r.first..=r.last).contains(&port)).count()
                    };
                    prop_assert_eq!(of(&joined), usize::from(of(&given) > 0));
                }
            }
        }
    }
}
