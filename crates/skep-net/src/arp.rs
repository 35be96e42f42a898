//! Tells everybody on a link that an address is here now, so that nobody sends on to where it was.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::link::Link;
use crate::netlink::{Error, Result};
use crate::ns::Namespace;

const ETHERNET: u16 = 1;
const IPV4: u16 = 0x0800;
const REQUEST: u16 = 1;
/// Everybody.
const BROADCAST: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
/// Everybody who speaks IPv6.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 8] = [0x33, 0x33, 0, 0, 0, 1, 0, 0];
const ICMP6: u8 = 58;

/// A question for the address itself, from it: those who know it take up where it comes from (RFC 5227).
fn question(link: &Link, ip: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(28);
    for number in [ETHERNET, IPV4] {
        packet.extend(number.to_be_bytes());
    }
    packet.extend([6, 4]);
    packet.extend(REQUEST.to_be_bytes());
    packet.extend(link.mac.0);
    packet.extend(ip.octets());
    packet.extend([0; 6]);
    packet.extend(ip.octets());
    packet
}

/// An advertisement that nobody asked for, which replaces what is known (RFC 4861): an IPv6 packet.
fn advertisement(link: &Link, ip: Ipv6Addr) -> Vec<u8> {
    const ADVERTISES: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_ADDRESS: u8 = 2;
    let mut icmp = vec![ADVERTISES, 0, 0, 0, OVERRIDE, 0, 0, 0];
    icmp.extend(ip.octets());
    icmp.extend([TARGET_ADDRESS, 1]);
    icmp.extend(link.mac.0);
    let [high, low] = checksum(ip, ALL_NODES, &icmp).to_be_bytes();
    (icmp[2], icmp[3]) = (high, low);
    // The length is that of one option and one address.
    let [a, b] = (icmp.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, a, b, ICMP6, u8::MAX];
    packet.extend(ip.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(icmp);
    packet
}

/// The Internet's checksum over what is sent and the addresses that it is between; what is sent has an even length.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, sent: &[u8]) -> u16 {
    let length = (sent.len() as u32).to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, ICMP6], sent].concat();
    let sum: u32 = pseudo.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Says on a link of a namespace that it has an address.
pub(crate) fn announce(host: &Namespace, link: &Link, ip: IpAddr) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(format!("tell the link {} that {ip} is here", link.name), e);
    let open = || socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = host.run(open)?.map_err(|e| failed(e.into()))?;
    let sent = match ip {
        IpAddr::V4(ip) => send(&socket, link.index, libc::ETH_P_ARP, BROADCAST, &question(link, ip)),
        IpAddr::V6(ip) => {
            send(&socket, link.index, libc::ETH_P_IPV6, ALL_NODES_MAC, &advertisement(link, ip))
        }
    };
    match sent {
        // Nobody is there to hear it while the link is off.
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(()),
        other => other.map_err(failed),
    }
}

#[allow(unsafe_code)]
fn send(
    socket: &OwnedFd,
    link: u32,
    protocol: libc::c_int,
    to: [u8; 8],
    packet: &[u8],
) -> std::io::Result<()> {
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: i32::try_from(link).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: to,
    };
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: both pointers and lengths are those of values that outlive the call, which only reads them; the descriptor is open.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            size,
        )
    };
    if sent < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        let (from, to) = ("fe80::1".parse().unwrap(), ALL_NODES);
        let mut sent = vec![136, 0, 0, 0, 0x20, 0, 0, 0, 1, 2, 3, 4];
        let sum = checksum(from, to, &sent);
        sent[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(from, to, &sent), 0, "a receiver adds up to nothing");
    }
}
