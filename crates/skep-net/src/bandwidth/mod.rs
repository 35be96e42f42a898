//! Bandwidth of ports: what [`skep_netplan::bandwidth`] plans, in classes of HTB.
//!
//! ```text
//!            a network's switch                                the host
//! machine ─► [count · packets/s] ─► br ─► vx ~~VXLAN~~► ┌ uplink: root ┬ tenant ┬ port
//!   │  ▲                             └─► up ══► sku… ─► │              │        └ rest
//!   └► q: a class per port                              └              └ host
//!      with a maximum                           wire ─► skq: the same, for what arrives
//! ```
//!
//! - **Guarantees** stand on the host's uplink, for it is the only place that all tenants' packets to the wire pass. Which class a packet is
//!   of is its priority, which the switch sets by interface and source address, when the filters have found both true. The
//!   priority stays with the packet through the VXLAN device. On the way out through the host, where routing and a change of
//!   namespace clear both priority and mark, the last four bytes of the source's Ethernet address carry it across.
//! - **What arrives** is led through a queueing device (`skq`) before anything else sees it, and classified by the network's number and the
//!   Ethernet address inside; what arrives outside of any network's VXLAN is the host's class.
//! - **Maxima and packet limits** stand at the port, in the switch, so that they hold between two machines of one host too: what a
//!   machine sends is led through a queueing device in the switch (`q`), what it receives waits in classes of its interface. A
//!   packet limit drops.
//! - Ports that have no policy cost two lookups (their counters) and no queue. An uplink on which nothing was ever guaranteed is left alone.
//!
//! A packet is what the kernel hands over: where a sender leaves it to the network to cut, up to 64 KiB are one packet to counters
//! and packet limits. Rates count every byte and, of what is cut, every packet's overhead.

mod switch;
mod uplink;

pub use switch::{PortTraffic, Shaper};
pub use uplink::{Uplink, release_host};

use std::collections::BTreeSet;

use skep_netplan::bandwidth::Rate;

use crate::link::Net;
use crate::netlink::Result;
use crate::nft::{Expr, MetaKey, Reg};

/// What all tables here are called.
const NAME: &str = "skep-bandwidth";
/// Before the packet filters of a device: there are no others.
const PRIORITY_DEVICE: i32 = -150;
/// The source's Ethernet address begins two bytes before what carries a class.
const CARRIED_OFFSET: u32 = 8;

/// Classes that nothing is sent to any more. What waits in them goes on before they are removed.
#[derive(Debug, Default)]
struct Retired(Vec<(u32, u16)>);

/// Faster than anything: what waits in a class that goes is sent at once.
const AT_ONCE: Rate = Rate {
    guaranteed_bits_per_s: 1_000_000_000_000,
    maximum_bits_per_s: 1_000_000_000_000,
    mpu_bytes: 0,
    overhead_bytes: 0,
};

impl Retired {
    /// Removes those that were retired before the last call; leaves are to be retired before what stands above them.
    fn remove(&mut self, net: &mut Net) -> Result<()> {
        for (link, class) in self.0.drain(..) {
            net.delete_class(link, class)?;
        }
        Ok(())
    }
}

/// The classes that an earlier process has left on an interface, those first that stand above no other.
fn found(net: &mut Net, link: u32) -> Result<Vec<u16>> {
    let all = net.classes(link)?;
    let above: BTreeSet<u16> = all.iter().map(|c| c.parent).collect();
    let mut numbers: Vec<u16> = all.iter().map(|c| c.class).collect();
    numbers.sort_by_key(|n| above.contains(n));
    Ok(numbers)
}

/// Takes the class from a register.
fn set_priority(from: Reg) -> Expr<'static> {
    Expr::MetaSet { key: MetaKey::Priority, from }
}
