//! Tells everybody on a link that an address is here now, so that nobody sends on to where it was.

use std::net::Ipv4Addr;
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

/// Says on a link of a namespace that it has an address.
pub(crate) fn announce(host: &Namespace, link: &Link, ip: Ipv4Addr) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(format!("tell the link {} that {ip} is here", link.name), e);
    let open = || socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = host.run(open)?.map_err(|e| failed(e.into()))?;
    match send(&socket, link.index, &question(link, ip)) {
        // Nobody is there to hear it while the link is off.
        Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(()),
        other => other.map_err(failed),
    }
}

#[allow(unsafe_code)]
fn send(socket: &OwnedFd, link: u32, packet: &[u8]) -> std::io::Result<()> {
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ARP as u16).to_be(),
        sll_ifindex: i32::try_from(link).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: BROADCAST,
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
