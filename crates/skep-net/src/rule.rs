//! Rules: which table of routes is asked. Here by the source only.

use std::net::IpAddr;

use crate::link::Net;
use crate::netlink::{Attrs, Message, Result, get_u32, unless_exists, unless_missing};
use crate::route::{family, ip_bytes, read_ip};
use crate::uapi::*;

/// Before the main table's rule, which has 32766, and behind the local one's, which has 0.
const PRIORITY: u32 = 1000;
/// Look into a table (`FR_ACT_TO_TBL`).
const LOOK_INTO: u8 = 1;

/// `struct fib_rule_hdr`, for rules of one source address.
fn head(family: u8, source_bits: u8) -> [u8; 12] {
    let mut head = [0; 12];
    head[0] = family;
    head[2] = source_bits;
    head[7] = LOOK_INTO;
    head
}

fn message(kind: u16, flags: u16, source: IpAddr, table: u32) -> Message {
    let mut m = Message::new(kind, flags);
    m.fixed(&head(family(source), if source.is_ipv4() { 32 } else { 128 }));
    ip_bytes(&mut m, FRA_SRC, source);
    m.u32(FRA_PRIORITY, PRIORITY).u32(FRA_TABLE, table);
    m
}

impl Net {
    /// Has packets from an address of the namespace's own routed by a table. That it is said already is fine.
    pub(crate) fn add_source_rule(&mut self, source: IpAddr, table: u32) -> Result<()> {
        let m = message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, source, table);
        unless_exists(self.socket.request(m, || format!("route what is from {source} by a table of its own")))
    }

    /// Has them routed as all others. That nothing else is said is fine.
    pub(crate) fn delete_source_rule(&mut self, source: IpAddr, table: u32) -> Result<()> {
        let m = message(RTM_DELRULE, 0, source, table);
        unless_missing(self.socket.request(m, || format!("route what is from {source} as all else")))
    }

    /// The addresses that something is said of by [`Net::add_source_rule`].
    pub(crate) fn source_rules(&mut self) -> Result<Vec<IpAddr>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut m = Message::new(RTM_GETRULE, 0);
            m.fixed(&head(family as u8, 0));
            all.extend(self.socket.dump(
                &m,
                || "list the rules of routing".into(),
                |_, payload| {
                    let attrs = Attrs(payload.get(12..)?);
                    (get_u32(attrs.find(FRA_PRIORITY)?)? == PRIORITY).then_some(())?;
                    read_ip(attrs.find(FRA_SRC)?)
                },
            )?);
        }
        Ok(all)
    }
}
