//! The expressions that rules are made of.

use crate::netlink::Message;
use crate::uapi::*;

/// A register: one of sixteen of four bytes, which hold what expressions work on. A longer value takes several, one
/// after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

impl Reg {
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let it through.
    Accept,
    /// Drop it.
    Drop,
    /// Go on in another chain, and come back.
    Jump(String),
    /// Go on in another chain.
    Goto(String),
    /// Go back to where it was jumped from.
    Return,
}

impl Verdict {
    pub(super) fn write(&self, m: &mut Message) {
        let (code, chain): (i32, _) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        m.nest(NFTA_DATA_VERDICT, |m| {
            m.be32(NFTA_VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                m.str(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MetaKey {
    Protocol = 1,
    Priority = 2,
    Mark = 3,
    Iif = 4,
    Oif = 5,
    Iifname = 6,
    Oifname = 7,
    NfProto = 15,
    L4Proto = 16,
    PktType = 19,
}

/// Part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// From the Ethernet header on.
    Link = 0,
    /// From the IP or ARP header on.
    Network = 1,
    /// From the TCP, UDP or ICMP header on.
    Transport = 2,
}

/// How values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cmp {
    Eq = 0,
    Ne = 1,
    Lt = 2,
    Gt = 4,
}

/// What connection tracking knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CtKey {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
}

/// Which address is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The source.
    Source = 0,
    /// The destination.
    Destination = 1,
}

/// One step of a rule. A step that does not match ends the rule.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Expr<'a> {
    /// Reads what is known of the packet.
    Meta { key: MetaKey, to: Reg },
    /// Writes it.
    MetaSet { key: MetaKey, from: Reg },
    /// Reads bytes of the packet.
    Payload { base: PayloadBase, offset: u32, len: u32, to: Reg },
    /// Writes bytes of the packet; no checksum is corrected.
    PayloadSet { base: PayloadBase, offset: u32, len: u32, from: Reg },
    /// Reads what connection tracking knows.
    Ct { key: CtKey, to: Reg },
    /// Compares.
    Cmp { from: Reg, op: Cmp, value: &'a [u8] },
    /// `to = (from & mask) ^ xor`.
    Bitwise { from: Reg, to: Reg, mask: &'a [u8], xor: &'a [u8] },
    /// Puts a value into a register.
    Immediate { to: Reg, value: &'a [u8] },
    /// Decides.
    Verdict(Verdict),
    /// Looks for a key in a set; with `to`, what a map has for it.
    Lookup { set: &'a str, from: Reg, to: Option<Reg>, inverted: bool },
    /// Looks for a key in a map of verdicts, and does what it says.
    VerdictMap { set: &'a str, from: Reg },
    /// A random number below another.
    Random { below: u32, to: Reg },
    /// Changes addresses of the connection.
    Nat { kind: NatKind, v6: bool, address: Reg, port: Option<Reg> },
    /// Takes the address of the interface that the packet leaves through as its source.
    Masquerade,
    /// Counts.
    Counter,
    /// Counts in a counter of the table.
    Count(&'a str),
    /// Counts in the counter that a map has for a key.
    CountBy { set: &'a str, from: Reg },
    /// Matches when the limit that a map has for a key is exceeded.
    OverLimitBy { set: &'a str, from: Reg },
    /// Sends the packet to another device, whose number is in a register, as if it had arrived there; tables of the family `netdev`
    /// only. Nothing else sees it.
    Redirect { device: Reg },
    /// Matches packets while there are at most so many a second, or with `over` those that are more.
    Limit { packets_per_s: u64, burst: u32, over: bool },
    /// Adds an element to a set or map, or gives it its time anew.
    Remember { set: &'a str, key: Reg, data: Option<Reg>, timeout_ms: u64 },
    /// Removes the element of a key from a set or map; that there is none is fine.
    Forget { set: &'a str, key: Reg, data: Option<Reg> },
    /// Tells the sender by ICMP that there is nobody at this port, and drops; in tables of one IP family.
    Refuse { v6: bool },
    /// Resets the connection that the packet is to begin, and drops; packets that are not of TCP are dropped only.
    Reset,
    /// Keeps connection tracking from seeing the packet; in chains before it (`raw`).
    Untracked,
    /// Whether the destination is this machine's own address, as a number: 2 means it is.
    DestinationType { to: Reg },
}

fn data(m: &mut Message, kind: u16, value: &[u8]) {
    m.nest(kind, |m| {
        m.attr(NFTA_DATA_VALUE, value);
    });
}

impl Expr<'_> {
    pub(super) fn write(&self, m: &mut Message) {
        let mut of = |name: &str, inner: &dyn Fn(&mut Message)| {
            m.str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, inner);
        };
        match self {
            Expr::Meta { key, to } => of("meta", &|m| {
                m.be32(NFTA_META_KEY, *key as u32).be32(NFTA_META_DREG, to.number());
            }),
            Expr::MetaSet { key, from } => of("meta", &|m| {
                m.be32(NFTA_META_KEY, *key as u32).be32(NFTA_META_SREG, from.number());
            }),
            Expr::Payload { base, offset, len, to } => of("payload", &|m| {
                m.be32(NFTA_PAYLOAD_DREG, to.number())
                    .be32(NFTA_PAYLOAD_BASE, *base as u32)
                    .be32(NFTA_PAYLOAD_OFFSET, *offset)
                    .be32(NFTA_PAYLOAD_LEN, *len);
            }),
            Expr::PayloadSet { base, offset, len, from } => of("payload", &|m| {
                m.be32(NFTA_PAYLOAD_SREG, from.number())
                    .be32(NFTA_PAYLOAD_BASE, *base as u32)
                    .be32(NFTA_PAYLOAD_OFFSET, *offset)
                    .be32(NFTA_PAYLOAD_LEN, *len);
            }),
            Expr::Ct { key, to } => of("ct", &|m| {
                m.be32(NFTA_CT_KEY, *key as u32).be32(NFTA_CT_DREG, to.number());
            }),
            Expr::Cmp { from, op, value } => of("cmp", &|m| {
                m.be32(NFTA_CMP_SREG, from.number()).be32(NFTA_CMP_OP, *op as u32);
                data(m, NFTA_CMP_DATA, value);
            }),
            Expr::Bitwise { from, to, mask, xor } => of("bitwise", &|m| {
                // A register holds sixteen bytes at most.
                let len = u32::try_from(mask.len()).unwrap_or(16);
                m.be32(NFTA_BITWISE_SREG, from.number())
                    .be32(NFTA_BITWISE_DREG, to.number())
                    .be32(NFTA_BITWISE_LEN, len);
                data(m, NFTA_BITWISE_MASK, mask);
                data(m, NFTA_BITWISE_XOR, xor);
            }),
            Expr::Immediate { to, value } => of("immediate", &|m| {
                m.be32(NFTA_IMMEDIATE_DREG, to.number());
                data(m, NFTA_IMMEDIATE_DATA, value);
            }),
            Expr::Verdict(verdict) => of("immediate", &|m| {
                m.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                m.nest(NFTA_IMMEDIATE_DATA, |m| verdict.write(m));
            }),
            Expr::Lookup { set, from, to, inverted } => of("lookup", &|m| {
                m.str(NFTA_LOOKUP_SET, set).be32(NFTA_LOOKUP_SREG, from.number());
                if let Some(to) = to {
                    m.be32(NFTA_LOOKUP_DREG, to.number());
                }
                if *inverted {
                    m.be32(NFTA_LOOKUP_FLAGS, 1);
                }
            }),
            Expr::VerdictMap { set, from } => of("lookup", &|m| {
                m.str(NFTA_LOOKUP_SET, set)
                    .be32(NFTA_LOOKUP_SREG, from.number())
                    .be32(NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
            }),
            Expr::Random { below, to } => of("numgen", &|m| {
                m.be32(NFTA_NG_DREG, to.number())
                    .be32(NFTA_NG_MODULUS, *below)
                    .be32(NFTA_NG_TYPE, 1)
                    .be32(NFTA_NG_OFFSET, 0);
            }),
            Expr::Nat { kind, v6, address, port } => of("nat", &|m| {
                let family = if *v6 { 10 } else { 2 };
                m.be32(NFTA_NAT_TYPE, *kind as u32)
                    .be32(NFTA_NAT_FAMILY, family)
                    .be32(NFTA_NAT_REG_ADDR_MIN, address.number());
                if let Some(port) = port {
                    m.be32(NFTA_NAT_REG_PROTO_MIN, port.number());
                }
            }),
            Expr::Masquerade => of("masq", &|_| ()),
            Expr::Untracked => of("notrack", &|_| ()),
            Expr::Counter => of("counter", &|_| ()),
            Expr::Count(name) => of("objref", &|m| {
                m.be32(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER).str(NFTA_OBJREF_IMM_NAME, name);
            }),
            Expr::Redirect { device } => of("fwd", &|m| {
                m.be32(NFTA_FWD_SREG_DEV, device.number());
            }),
            Expr::CountBy { set, from } | Expr::OverLimitBy { set, from } => of("objref", &|m| {
                m.be32(NFTA_OBJREF_SET_SREG, from.number()).str(NFTA_OBJREF_SET_NAME, set);
            }),
            Expr::Limit { packets_per_s, burst, over } => of("limit", &|m| {
                m.be64(NFTA_LIMIT_RATE, *packets_per_s)
                    .be64(NFTA_LIMIT_UNIT, 1)
                    .be32(NFTA_LIMIT_BURST, *burst)
                    .be32(NFTA_LIMIT_TYPE, 0)
                    .be32(NFTA_LIMIT_FLAGS, u32::from(*over));
            }),
            Expr::Remember { set, key, data, timeout_ms } => of("dynset", &|m| {
                m.str(NFTA_DYNSET_SET_NAME, set)
                    .be32(NFTA_DYNSET_OP, 1)
                    .be32(NFTA_DYNSET_SREG_KEY, key.number())
                    .be64(NFTA_DYNSET_TIMEOUT, *timeout_ms);
                if let Some(data) = data {
                    m.be32(NFTA_DYNSET_SREG_DATA, data.number());
                }
            }),
            Expr::Forget { set, key, data } => of("dynset", &|m| {
                m.str(NFTA_DYNSET_SET_NAME, set)
                    .be32(NFTA_DYNSET_OP, 2)
                    .be32(NFTA_DYNSET_SREG_KEY, key.number());
                // A map's element is removed whatever it maps to, but which register would hold it has to be said.
                if let Some(data) = data {
                    m.be32(NFTA_DYNSET_SREG_DATA, data.number());
                }
            }),
            Expr::Refuse { v6 } => of("reject", &|m| {
                // Port unreachable, which each of the two ICMP numbers its own way.
                m.be32(NFTA_REJECT_TYPE, 0).u8(NFTA_REJECT_ICMP_CODE, if *v6 { 4 } else { 3 });
            }),
            Expr::Reset => of("reject", &|m| {
                const TYPE_RESET: u32 = 1;
                m.be32(NFTA_REJECT_TYPE, TYPE_RESET);
            }),
            Expr::DestinationType { to } => of("fib", &|m| {
                m.be32(NFTA_FIB_DREG, to.number()).be32(NFTA_FIB_RESULT, 3).be32(NFTA_FIB_FLAGS, 2);
            }),
        }
    }
}
