//! Connection tracking: what is remembered of packets without connections.

use std::net::{IpAddr, SocketAddr};

use crate::netlink::{Attrs, Family, Message, Result, Socket, unless_missing};
use crate::ns::Namespace;
use crate::route::read_ip;

const SUBSYSTEM: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;

/// What one namespace remembers of packets.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

struct Flow {
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

fn message(kind: u16, v6: bool) -> Message {
    let mut m = Message::new(SUBSYSTEM | kind, 0);
    m.fixed(&[if v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }, 0, 0, 0]);
    m
}

/// Who answers in a flow: protocol, address, port.
fn answering(payload: &[u8]) -> Option<(u8, SocketAddr)> {
    let reply = Attrs(Attrs(payload.get(4..)?).find(CTA_TUPLE_REPLY)?);
    let ip = Attrs(reply.find(CTA_TUPLE_IP)?);
    let proto = Attrs(reply.find(CTA_TUPLE_PROTO)?);
    let address: IpAddr =
        read_ip(ip.find(CTA_IP_V4_SRC).filter(|b| b.len() == 4).or_else(|| ip.find(CTA_IP_V6_SRC))?)?;
    let port = u16::from_be_bytes(proto.find(CTA_PROTO_SRC_PORT)?.try_into().ok()?);
    Some((*proto.find(CTA_PROTO_NUM)?.first()?, SocketAddr::new(address, port)))
}

impl Conntrack {
    /// Of a namespace.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn open(namespace: &Namespace) -> Result<Conntrack> {
        Ok(Conntrack { socket: namespace.run(|| Socket::open(Family::Netfilter))?? })
    }

    /// Forgets all flows of a protocol that lead to an endpoint: the next packet of each is looked up anew.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget_endpoint(&mut self, protocol: u8, endpoint: SocketAddr) -> Result<usize> {
        let v6 = endpoint.is_ipv6();
        let get = message(IPCTNL_MSG_CT_GET, v6);
        let flows = self.socket.dump(
            &get,
            || "list what connection tracking knows".into(),
            |_, payload| {
                (answering(payload)? == (protocol, endpoint)).then_some(())?;
                let attrs = Attrs(payload.get(4..)?);
                Some(Flow {
                    original: attrs.find(CTA_TUPLE_ORIG)?.to_vec(),
                    id: attrs.find(CTA_ID).map(<[u8]>::to_vec),
                    zone: attrs.find(CTA_ZONE).map(<[u8]>::to_vec),
                })
            },
        )?;
        let count = flows.len();
        let messages = flows.into_iter().map(|flow| {
            const NLA_F_NESTED: u16 = 0x8000;
            let mut m = message(IPCTNL_MSG_CT_DELETE, v6);
            m.attr(CTA_TUPLE_ORIG | NLA_F_NESTED, &flow.original);
            if let Some(id) = flow.id {
                m.attr(CTA_ID, &id);
            }
            if let Some(zone) = flow.zone {
                m.attr(CTA_ZONE, &zone);
            }
            m
        });
        // One that ended by itself meanwhile is forgotten already.
        for answer in self.socket.requests(messages, |_| format!("forget a flow to {endpoint}"))? {
            unless_missing(answer)?;
        }
        Ok(count)
    }
}
