//! What a machine receives for itself: past its bridge.
//!
//! ```text
//! uplink ─► for the bridge's own address ─► skepin0 ══ skepin1 ─► routed
//!   └─────► for pods ─────────────────────► bridge ─► pod
//! ```
//!
//! A bridge sends nothing back to where it came from. But a connection to the machine may have to be led on to another one: to an endpoint
//! there of a service that is reached by its public address or a node port here. And what that endpoint answers comes to the machine
//! too, and leaves it again for whoever asked. So IP packets that the uplink receives for the machine's own Ethernet address do not meet
//! the bridge: they go into one end of a pair of interfaces and come out of the other, which belongs to no bridge, and are routed from there.
//! Neighbours' discovery of IPv6 is left to the bridge, which has the addresses that are asked for.

use crate::link::{MacAddr, Net, Peer};
use crate::machine::quiet;
use crate::netlink::{Result, unless_exists};
use crate::nft::{BaseChain, Batch, ChainKind, Cmp, Expr, Hook, MetaKey, PayloadBase, Reg, Table};
use crate::ns::{Namespace, sysctl};

/// The end that the uplink's packets are sent into.
const INTO: &str = "skepin0";
/// The end that they come out of.
const OUT_OF: &str = "skepin1";
const ICMP6: u8 = 58;
/// Of an interface that makes up no addresses by itself.
const NO_ADDRESSES: &str = "1";

/// Makes the pair; gives the number of the end that packets go into. What is right stays.
pub(crate) fn set_up(namespace: &Namespace, net: &mut Net, mac: MacAddr, mtu: u32) -> Result<u32> {
    let peer = Peer { name: OUT_OF, mac: Some(mac), namespace: None };
    unless_exists(net.add_veth(INTO, None, mtu, &peer))?;
    let (into, out_of) = (net.expect_link(INTO)?, net.expect_link(OUT_OF)?);
    if out_of.mac != mac {
        net.set_mac(out_of.index, mac)?;
    }
    for link in [&into, &out_of] {
        if link.mtu != mtu {
            net.set_mtu(link.index, mtu)?;
        }
    }
    namespace.run(|| {
        quiet(INTO)?;
        sysctl(&format!("ipv4/conf/{OUT_OF}/rp_filter"), "0")?;
        // What is asked on the network is asked of the bridge: it never answers here.
        sysctl(&format!("ipv4/conf/{OUT_OF}/arp_ignore"), "8")?;
        sysctl(&format!("ipv6/conf/{OUT_OF}/addr_gen_mode"), NO_ADDRESSES)?;
        sysctl(&format!("ipv6/conf/{OUT_OF}/accept_ra"), "0")
    })??;
    net.set_up(into.index)?;
    net.set_up(out_of.index)?;
    Ok(into.index)
}

/// Removes the pair. That there is none is fine.
pub(crate) fn remove(net: &mut Net) -> Result<()> {
    net.delete_link(INTO)
}

/// What sends the uplink's packets there: a chain in a table of the family `netdev`.
pub(crate) fn lead(batch: &mut Batch, table: Table, uplink: &str, mac: MacAddr, into: u32) {
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Ingress,
        priority: 0,
        drop: false,
        device: Some(uplink),
    };
    batch.add_base_chain(table, "ingress", &base);
    let device = into.to_ne_bytes();
    let own = [
        Expr::Payload { base: PayloadBase::Link, offset: 0, len: 6, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: &mac.0 },
    ];
    let is = |protocol: &'static [u8; 2]| {
        [
            Expr::Meta { key: MetaKey::Protocol, to: Reg(0) },
            Expr::Cmp { from: Reg(0), op: Cmp::Eq, value: protocol },
        ]
    };
    let no_discovery = [
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) },
        Expr::Cmp { from: Reg(0), op: Cmp::Ne, value: &[ICMP6] },
    ];
    let go = [Expr::Immediate { to: Reg(0), value: &device }, Expr::Redirect { device: Reg(0) }];
    batch.add_rule(table, "ingress", &[&own[..], &is(&[0x08, 0x00]), &go].concat());
    batch.add_rule(table, "ingress", &[&own[..], &is(&[0x86, 0xdd]), &no_discovery, &go].concat());
}
