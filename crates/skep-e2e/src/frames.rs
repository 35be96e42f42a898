//! Ethernet frames as somebody makes them who is root in a machine, and means no good.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use std::io::Write;

/// An Ethernet address.
pub type Mac = [u8; 6];

const ALL: Mac = [0xff; 6];
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// An address as objects have it.
#[must_use]
pub fn mac(text: &str) -> Mac {
    let parts: Vec<u8> = text.split(':').map(|p| u8::from_str_radix(p, 16).unwrap()).collect();
    parts.try_into().unwrap()
}

/// A frame.
#[must_use]
pub fn ethernet(from: Mac, to: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

fn sum(parts: &[&[u8]]) -> u16 {
    let all = parts.concat();
    let mut sum: u32 = all.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ip4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len() as u16).to_be_bytes();
    let mut header = vec![0x45, 0, len[0], len[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let check = sum(&[&header]).to_be_bytes();
    header[10..12].copy_from_slice(&check);
    header.extend(payload);
    header
}

fn ip6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, mut payload: Vec<u8>, check_at: usize) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &len, &[0, 0, 0, protocol]].concat();
    let check = sum(&[&pseudo, &payload]).to_be_bytes();
    payload[check_at..check_at + 2].copy_from_slice(&check);
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 255];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A packet of UDP, from an address to an address, each with its Ethernet address.
#[must_use]
pub fn udp(from: (Mac, IpAddr), to: (Mac, IpAddr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len() as u16).to_be_bytes();
    let header = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &len, &[0, 0], payload].concat();
    match (from.1, to.1) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            ethernet(from.0, to.0, 0x0800, &ip4(source, target, UDP, &header))
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            ethernet(from.0, to.0, 0x86dd, &ip6(source, target, UDP, header, 6))
        }
        _ => panic!("two families"),
    }
}

/// ARP that tells everybody that an address is behind an Ethernet address.
#[must_use]
pub fn arp(from: Mac, told: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut words = vec![0, 1, 8, 0, 6, 4, 0, 2];
    words.extend(told.0);
    words.extend(told.1.octets());
    words.extend(ALL);
    words.extend(told.1.octets());
    ethernet(from, ALL, 0x0806, &words)
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// The same of IPv6: an advertisement of a neighbour.
#[must_use]
pub fn neighbour(from: (Mac, Ipv6Addr), told: (Mac, Ipv6Addr)) -> Vec<u8> {
    // Overrides what is known.
    let mut words = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    words.extend(told.1.octets());
    words.extend([2, 1]);
    words.extend(told.0);
    ethernet(from.0, ALL_NODES_MAC, 0x86dd, &ip6(from.1, ALL_NODES, ICMP6, words, 2))
}

/// A question for a neighbour, under an address.
#[must_use]
pub fn solicitation(from: (Mac, Ipv6Addr), target: Ipv6Addr) -> Vec<u8> {
    let mut words = vec![135, 0, 0, 0, 0, 0, 0, 0];
    words.extend(target.octets());
    words.extend([1, 1]);
    words.extend(from.0);
    ethernet(from.0, ALL_NODES_MAC, 0x86dd, &ip6(from.1, ALL_NODES, ICMP6, words, 2))
}

/// A router that says it is one.
#[must_use]
pub fn router(from: Mac) -> Vec<u8> {
    let link: Ipv6Addr = "fe80::1".parse().unwrap();
    let words = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    ethernet(from, ALL_NODES_MAC, 0x86dd, &ip6(link, ALL_NODES, ICMP6, words, 2))
}

/// A frame in a packet of a network of a number, as hosts send them to each other.
#[must_use]
pub fn vxlan(from: (Mac, IpAddr), to: (Mac, IpAddr), port: u16, vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    udp(from, to, (49_152, port), &[&[8, 0, 0, 0, a, b, c, 0], inner].concat())
}

/// Sends frames over an interface of a namespace, past everything that its own system does with packets.
pub fn send(namespace: &Path, interface: &str, frames: &[Vec<u8>]) {
    const PROGRAM: &str = "import socket, sys\n\
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
        s.bind((sys.argv[1], 0))\n\
        for line in sys.stdin: s.send(bytes.fromhex(line))\n";
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", namespace.display()))
        .args(["python3", "-c", PROGRAM, interface])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for frame in frames {
        let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(stdin, "{hex}").unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
