//! Bandwidth: classes with a guaranteed and a maximum rate on an interface, by HTB.
//!
//! Classes share what their interface has: each gets what it is guaranteed, and lends what it does not use to the others up
//! to their maximum. Which class a packet is of is its priority, which packet filters set.

pub use skep_netplan::bandwidth::{Rate, WIRE_MPU_BYTES, WIRE_OVERHEAD_BYTES};

use crate::link::Net;
use crate::netlink::{Attrs, Message, Result, get_str, get_u32, get_u64, unless_missing};
use crate::uapi::*;

/// The number of the qdisc; classes are below it.
const MAJOR: u32 = 1;
/// The class above all others.
const ROOT: u16 = 1;
const TC_H_ROOT: u32 = 0xffff_ffff;
/// A class may be ahead of its rate by what it sends in this time: more than the time between two looks of the kernel's
/// timer, or the rate is not reached; less than what would be noticed.
const BURST_MS: u64 = 4;
/// And by at least one packet of the largest size that is handed over at once.
const MIN_BURST_BYTES: u64 = 64 * 1024;
/// What a class sends before the next has its turn, when they lend.
const QUANTUM_BYTES: u32 = 60_000;
/// How much may wait in a class: what it sends in this time. More is only delay; less, and a connection cannot keep a fast class busy.
const QUEUE_MS: u64 = 25;
/// And at least so much: two packets of the largest size that is handed over at once.
const QUEUE_MIN_BYTES: u64 = 128 * 1024;

/// What went through a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Its number.
    pub class: u16,
    /// That of the class above it; [`u16::MAX`] for one above which there is none.
    pub parent: u16,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets dropped, because the class had too many waiting.
    pub dropped: u64,
}

/// The priority that puts a packet into a class.
#[must_use]
pub fn class_priority(class: u16) -> u32 {
    MAJOR << 16 | u32::from(class)
}

/// `struct tcmsg`.
fn tcmsg(link: u32, handle: u32, parent: u32) -> [u8; 20] {
    let mut out = [0; 20];
    out[4..8].copy_from_slice(&link.to_ne_bytes());
    out[8..12].copy_from_slice(&handle.to_ne_bytes());
    out[12..16].copy_from_slice(&parent.to_ne_bytes());
    out
}

/// `struct tc_ratespec`, with the rate apart where it does not fit.
fn rate_spec(rate: &Rate, bytes_per_s: u64) -> [u8; 12] {
    let mut out = [0; 12];
    // Ethernet.
    out[1] = 1;
    out[2..4].copy_from_slice(&rate.overhead_bytes.to_ne_bytes());
    out[6..8].copy_from_slice(&rate.mpu_bytes.to_ne_bytes());
    out[8..12].copy_from_slice(&u32::try_from(bytes_per_s).unwrap_or(u32::MAX).to_ne_bytes());
    out
}

/// How long a burst takes at a rate, in the kernel's unit of 64 nanoseconds.
fn burst_ticks(bytes_per_s: u64) -> u32 {
    const NS_PER_TICK: u128 = 64;
    let burst = (bytes_per_s * BURST_MS / 1000).max(MIN_BURST_BYTES);
    let ns = u128::from(burst) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    u32::try_from(ns / NS_PER_TICK).unwrap_or(u32::MAX)
}

fn class_message(link: u32, class: u16, parent: u32, rate: &Rate) -> Message {
    let (low, high) = (rate.guaranteed_bits_per_s.max(8) / 8, rate.maximum_bits_per_s.max(8) / 8);
    let mut m = Message::new(RTM_NEWTCLASS, NLM_F_CREATE);
    m.fixed(&tcmsg(link, class_priority(class), parent)).str(TCA_KIND, "htb");
    m.nest(TCA_OPTIONS, |m| {
        let mut parameters = Vec::with_capacity(44);
        parameters.extend(rate_spec(rate, low));
        parameters.extend(rate_spec(rate, high));
        for number in [burst_ticks(low), burst_ticks(high), QUANTUM_BYTES, 0, 0] {
            parameters.extend(number.to_ne_bytes());
        }
        m.attr(TCA_HTB_PARMS, &parameters).u64(TCA_HTB_RATE64, low).u64(TCA_HTB_CEIL64, high);
    });
    m
}

impl Net {
    /// Makes an interface share `uplink` between classes; packets of no class are of the class `default`, which is to be
    /// added. When it does so already, classes stay, and the uplink's rate is set anew.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn share_bandwidth(&mut self, link: u32, uplink: &Rate, default: u16) -> Result<()> {
        let mut m = Message::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
        m.fixed(&tcmsg(link, MAJOR << 16, TC_H_ROOT)).str(TCA_KIND, "htb");
        m.nest(TCA_OPTIONS, |m| {
            // struct tc_htb_glob: version, how a quantum follows from a rate, the default class.
            let numbers = [3, 10, u32::from(default), 0, 0];
            m.attr(TCA_HTB_INIT, &numbers.map(u32::to_ne_bytes).concat());
        });
        let made = self.socket.request(m, || format!("share the bandwidth of link number {link}"));
        crate::netlink::unless_exists(made)?;
        let m = class_message(link, ROOT, MAJOR << 16, uplink);
        self.socket.request(m, || format!("set the bandwidth of link number {link}"))
    }

    /// Adds a class, or changes its rates; packets that wait go on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_class(&mut self, link: u32, class: u16, rate: &Rate) -> Result<()> {
        let m = class_message(link, class, class_priority(ROOT), rate);
        self.socket.request(m, || format!("set the class {class} of link number {link}"))
    }

    /// Makes an interface have classes, none of which share anything; packets of no class pass as if there were none. When it does so
    /// already, nothing changes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn limit_bandwidth(&mut self, link: u32) -> Result<()> {
        let mut m = Message::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
        m.fixed(&tcmsg(link, MAJOR << 16, TC_H_ROOT)).str(TCA_KIND, "htb");
        m.nest(TCA_OPTIONS, |m| {
            m.attr(TCA_HTB_INIT, &[3_u32, 10, 0, 0, 0].map(u32::to_ne_bytes).concat());
        });
        let made = self.socket.request(m, || format!("limit the bandwidth of link number {link}"));
        crate::netlink::unless_exists(made)
    }

    /// Adds a class below another (0: below none), or changes its rates; packets that wait go on. One that packets are in has a
    /// queue of [`QUEUE_MS`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_class_below(
        &mut self,
        link: u32,
        class: u16,
        parent: u16,
        rate: &Rate,
        leaf: bool,
    ) -> Result<()> {
        let m = class_message(link, class, class_priority(parent), rate);
        self.socket.request(m, || format!("set the class {class} of link number {link}"))?;
        if !leaf {
            return Ok(());
        }
        let bytes = (rate.maximum_bits_per_s / 8 * QUEUE_MS / 1000).max(QUEUE_MIN_BYTES);
        let mut m = Message::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
        m.fixed(&tcmsg(link, 0, class_priority(class))).str(TCA_KIND, "bfifo");
        // struct tc_fifo_qopt: the limit.
        m.attr(TCA_OPTIONS, &u32::try_from(bytes).unwrap_or(u32::MAX).to_ne_bytes());
        self.socket.request(m, || format!("set the queue of the class {class} of link number {link}"))
    }

    /// Removes a class. That there is none is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn delete_class(&mut self, link: u32, class: u16) -> Result<()> {
        let mut m = Message::new(RTM_DELTCLASS, 0);
        m.fixed(&tcmsg(link, class_priority(class), 0));
        unless_missing(self.socket.request(m, || format!("delete the class {class} of link number {link}")))
    }

    /// What went through the classes of an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn classes(&mut self, link: u32) -> Result<Vec<ClassStats>> {
        let mut m = Message::new(RTM_GETTCLASS, 0);
        m.fixed(&tcmsg(link, 0, 0));
        self.socket.dump(
            &m,
            || format!("list the classes of link number {link}"),
            |_, payload| {
                let handle = get_u32(payload.get(8..)?)?;
                let attrs = Attrs(payload.get(20..)?);
                if attrs.find(TCA_KIND).map(get_str)? != "htb" || handle >> 16 != MAJOR {
                    return None;
                }
                let stats = Attrs(attrs.find(TCA_STATS2)?);
                let basic = stats.find(TCA_STATS_BASIC)?;
                // struct gnet_stats_queue: waiting packets, their bytes, dropped, …
                let dropped =
                    stats.find(TCA_STATS_QUEUE).and_then(|q| get_u32(q.get(8..)?)).unwrap_or_default();
                // The lower half is the class; the upper half was looked at.
                let class = (handle & 0xffff) as u16;
                (class != ROOT).then_some(ClassStats {
                    class,
                    parent: (get_u32(payload.get(12..)?)? & 0xffff) as u16,
                    bytes: get_u64(basic)?,
                    packets: get_u32(basic.get(8..)?)?.into(),
                    dropped: dropped.into(),
                })
            },
        )
    }

    /// Stops sharing: nothing is limited any more. That nothing was is fine.
    ///
    /// # Errors
    /// What else the kernel says.
    pub fn stop_sharing(&mut self, link: u32) -> Result<()> {
        let mut m = Message::new(RTM_DELQDISC, 0);
        m.fixed(&tcmsg(link, MAJOR << 16, TC_H_ROOT));
        let stopped = self.socket.request(m, || format!("stop sharing the bandwidth of link number {link}"));
        match unless_missing(stopped) {
            // Of an interface with the qdisc that all begin with, the kernel says that the handle is not valid.
            Err(e) if e.errno() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }
}
