//! nf_tables: tables, chains, rules, sets and maps, in transactions.
//!
//! Rules are few and fixed; what changes are the elements of sets and maps, one at a time. So a change costs
//! the same however much there is already.

mod expr;
mod read;

pub use expr::{Cmp, CtKey, Expr, MetaKey, NatKind, PayloadBase, Reg, Verdict};
pub use read::{Counter, Element};

use crate::netlink::{Family as Netlink, Message, Result, Socket};
use crate::ns::Namespace;
use crate::uapi::*;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// What a bridge forwards.
    Bridge,
    /// What a device receives or sends, before anything else.
    Netdev,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Netdev => 5,
            Family::Bridge => 7,
            Family::Ip6 => 10,
        }
    }
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// Which packets it sees.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
}

/// Where packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// When they arrive.
    Prerouting,
    /// When they are for this machine.
    Input,
    /// When they go through.
    Forward,
    /// When they come from this machine.
    Output,
    /// When they leave.
    Postrouting,
    /// When a device receives them; tables of the family [`Family::Netdev`] only.
    Ingress,
    /// When a device is to send them; tables of the family [`Family::Netdev`] only.
    Egress,
}

/// What a chain with a hook may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Let through or drop.
    Filter,
    /// Change addresses; it sees the first packet of each connection.
    Nat,
}

/// A chain that packets enter by themselves.
#[derive(Clone, Debug)]
pub struct BaseChain<'a> {
    /// What it may do.
    pub kind: ChainKind,
    /// Where.
    pub hook: Hook,
    /// Before those with a higher number.
    pub priority: i32,
    /// Whether packets that no rule decided about are dropped.
    pub drop: bool,
    /// Of the family [`Family::Netdev`], which device.
    pub device: Option<&'a str>,
}

/// What a map gives for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapTo {
    /// So many bytes.
    Bytes(u32),
    /// What to do with the packet.
    Verdict,
    /// A counter of the table.
    Counter,
    /// A limit of the table.
    Limit,
}

/// What part of a key is, by the numbers of nft(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KeyType {
    Ipv4 = 7,
    Ipv6 = 8,
    Protocol = 12,
    Port = 13,
}

/// A set, or a map.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The lengths of the parts of its keys, in bytes; each takes a multiple of four.
    pub key: Vec<u8>,
    /// What the parts are, for programs that print them: some fail on ranges of they know not what. None may be said.
    pub key_types: Vec<KeyType>,
    /// What it maps to, if it is a map.
    pub map: Option<MapTo>,
    /// Whether an element is a range of keys.
    pub interval: bool,
    /// Whether packets add elements, and how long they stay, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// An element to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct NewElement {
    /// The key, its parts each filled up to a multiple of four bytes. An empty one is every key that has no element of its own.
    pub key: Vec<u8>,
    /// The end of a range, itself in it. Only for sets of ranges.
    pub key_end: Option<Vec<u8>>,
    /// What it maps to.
    pub data: Option<ElementData>,
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ElementData {
    /// Bytes.
    Bytes(Vec<u8>),
    /// What to do.
    Verdict(Verdict),
    /// The name of a counter.
    Counter(String),
    /// The name of a limit.
    Limit(String),
}

/// The changes of a transaction.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
    about: Vec<String>,
    sets: u32,
    /// Single elements that go into one message, as long as they are for the same set.
    pending: Option<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    table: Table,
    set: String,
    is_new: bool,
    elements: Vec<NewElement>,
}

/// Most elements in one message: they are an attribute, whose length is a number of 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 256;

fn message(family: Family, kind: u16, flags: u16) -> Message {
    const SUBSYSTEM: u16 = 10 << 8;
    let mut m = Message::new(SUBSYSTEM | kind, flags);
    // struct nfgenmsg: family, version, resource.
    m.fixed(&[family.number(), 0, 0, 0]);
    m
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.pending.is_none()
    }

    fn push(&mut self, message: Message, about: String) {
        self.flush();
        self.put(message, about);
    }

    /// Writes out the single elements that were collected.
    fn flush(&mut self) {
        if let Some(p) = self.pending.take() {
            let (kind, flags) =
                if p.is_new { (NFT_MSG_NEWSETELEM, NLM_F_CREATE) } else { (NFT_MSG_DELSETELEM, 0) };
            self.elements(p.table, &p.set, &p.elements, kind, flags);
        }
    }

    fn one(&mut self, table: Table, set: &str, element: NewElement, is_new: bool) {
        match &mut self.pending {
            Some(p) if p.table == table && p.set == set && p.is_new == is_new => p.elements.push(element),
            _ => {
                self.flush();
                self.pending = Some(Pending { table, set: set.to_owned(), is_new, elements: vec![element] });
            }
        }
    }

    /// Adds one element. Many such calls in a row for one set make one message.
    pub fn add_element(&mut self, table: Table, set: &str, element: NewElement) {
        self.one(table, set, element, true);
    }

    /// Removes one element, which must exist. Many such calls in a row for one set make one message.
    pub fn delete_element(&mut self, table: Table, set: &str, element: NewElement) {
        self.one(table, set, element, false);
    }

    fn put(&mut self, message: Message, about: String) {
        self.messages.push(message);
        self.about.push(about);
    }

    /// Makes a table, if it is not there.
    pub fn add_table(&mut self, table: Table) {
        let mut m = message(table.family, NFT_MSG_NEWTABLE, NLM_F_CREATE);
        m.str(NFTA_TABLE_NAME, table.name);
        self.push(m, format!("make the table {}", table.name));
    }

    /// Removes a table with all that is in it; that there is none is fine.
    pub fn delete_table(&mut self, table: Table) {
        self.add_table(table);
        let mut m = message(table.family, NFT_MSG_DELTABLE, 0);
        m.str(NFTA_TABLE_NAME, table.name);
        self.push(m, format!("delete the table {}", table.name));
    }

    /// Makes a chain that others jump to, if it is not there.
    pub fn add_chain(&mut self, table: Table, name: &str) {
        let mut m = message(table.family, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        m.str(NFTA_CHAIN_TABLE, table.name).str(NFTA_CHAIN_NAME, name);
        self.push(m, format!("make the chain {name}"));
    }

    /// Makes a chain that packets enter by themselves, if it is not there.
    pub fn add_base_chain(&mut self, table: Table, name: &str, base: &BaseChain<'_>) {
        let mut m = message(table.family, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        m.str(NFTA_CHAIN_TABLE, table.name).str(NFTA_CHAIN_NAME, name);
        let hook = match base.hook {
            Hook::Prerouting | Hook::Ingress => 0,
            Hook::Input | Hook::Egress => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        };
        m.nest(NFTA_CHAIN_HOOK, |m| {
            m.be32(NFTA_HOOK_HOOKNUM, hook).be32(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
            if let Some(device) = base.device {
                m.str(NFTA_HOOK_DEV, device);
            }
        });
        let kind = match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        m.be32(NFTA_CHAIN_POLICY, u32::from(!base.drop)).str(NFTA_CHAIN_TYPE, kind);
        self.push(m, format!("make the chain {name}"));
    }

    /// Removes a chain, which must exist and have no rules.
    pub fn delete_chain(&mut self, table: Table, name: &str) {
        let mut m = message(table.family, NFT_MSG_DELCHAIN, 0);
        m.str(NFTA_CHAIN_TABLE, table.name).str(NFTA_CHAIN_NAME, name);
        self.push(m, format!("delete the chain {name}"));
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, table: Table, name: &str) {
        let mut m = message(table.family, NFT_MSG_DELRULE, 0);
        m.str(NFTA_RULE_TABLE, table.name).str(NFTA_RULE_CHAIN, name);
        self.push(m, format!("empty the chain {name}"));
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, table: Table, chain: &str, expressions: &[Expr<'_>]) {
        let mut m = message(table.family, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        m.str(NFTA_RULE_TABLE, table.name).str(NFTA_RULE_CHAIN, chain);
        m.nest(NFTA_RULE_EXPRESSIONS, |m| {
            for expression in expressions {
                m.nest(NFTA_LIST_ELEM, |m| expression.write(m));
            }
        });
        self.push(m, format!("add a rule to the chain {chain}"));
    }

    /// Makes a counter, if it is not there.
    pub fn add_counter(&mut self, table: Table, name: &str) {
        let mut m = message(table.family, NFT_MSG_NEWOBJ, NLM_F_CREATE);
        m.str(NFTA_OBJ_TABLE, table.name).str(NFTA_OBJ_NAME, name).be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        m.nest(NFTA_OBJ_DATA, |_| ());
        self.push(m, format!("make the counter {name}"));
    }

    /// Removes a counter, which must exist and be used by nothing.
    pub fn delete_counter(&mut self, table: Table, name: &str) {
        let mut m = message(table.family, NFT_MSG_DELOBJ, 0);
        m.str(NFTA_OBJ_TABLE, table.name).str(NFTA_OBJ_NAME, name).be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        self.push(m, format!("delete the counter {name}"));
    }

    /// Makes a limit, if it is not there: exceeded by packets that are more than so many a second, after `burst` at once.
    pub fn add_limit(&mut self, table: Table, name: &str, packets_per_s: u64, burst: u32) {
        const TYPE_PACKETS: u32 = 0;
        const OVER: u32 = 1;
        let mut m = message(table.family, NFT_MSG_NEWOBJ, NLM_F_CREATE);
        m.str(NFTA_OBJ_TABLE, table.name).str(NFTA_OBJ_NAME, name).be32(NFTA_OBJ_TYPE, NFT_OBJECT_LIMIT);
        m.nest(NFTA_OBJ_DATA, |m| {
            m.be64(NFTA_LIMIT_RATE, packets_per_s)
                .be64(NFTA_LIMIT_UNIT, 1)
                .be32(NFTA_LIMIT_BURST, burst)
                .be32(NFTA_LIMIT_TYPE, TYPE_PACKETS)
                .be32(NFTA_LIMIT_FLAGS, OVER);
        });
        self.push(m, format!("make the limit {name}"));
    }

    /// Removes a limit, which must exist and be used by nothing.
    pub fn delete_limit(&mut self, table: Table, name: &str) {
        let mut m = message(table.family, NFT_MSG_DELOBJ, 0);
        m.str(NFTA_OBJ_TABLE, table.name).str(NFTA_OBJ_NAME, name).be32(NFTA_OBJ_TYPE, NFT_OBJECT_LIMIT);
        self.push(m, format!("delete the limit {name}"));
    }

    /// Makes a set or map, if it is not there.
    pub fn add_set(&mut self, table: Table, set: &Set) {
        self.sets += 1;
        let mut flags = 0;
        let mut m = message(table.family, NFT_MSG_NEWSET, NLM_F_CREATE);
        m.str(NFTA_SET_TABLE, table.name).str(NFTA_SET_NAME, &set.name);
        let key_len: u32 = set.key.iter().map(|p| u32::from(p.next_multiple_of(4))).sum();
        // What type a key has matters to programs that print it, not to the kernel. Each part has six bits of it.
        let key_type = set.key_types.iter().fold(0, |all, part| all << 6 | *part as u32);
        m.be32(NFTA_SET_KEY_TYPE, key_type).be32(NFTA_SET_KEY_LEN, key_len).be32(NFTA_SET_ID, self.sets);
        match set.map {
            Some(MapTo::Bytes(len)) => {
                flags |= NFT_SET_MAP;
                m.be32(NFTA_SET_DATA_TYPE, 0).be32(NFTA_SET_DATA_LEN, len);
            }
            Some(MapTo::Verdict) => {
                flags |= NFT_SET_MAP;
                m.be32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
            }
            Some(MapTo::Counter) => {
                flags |= NFT_SET_OBJECT;
                m.be32(NFTA_SET_OBJ_TYPE, NFT_OBJECT_COUNTER);
            }
            Some(MapTo::Limit) => {
                flags |= NFT_SET_OBJECT;
                m.be32(NFTA_SET_OBJ_TYPE, NFT_OBJECT_LIMIT);
            }
            None => {}
        }
        if set.interval {
            flags |= NFT_SET_INTERVAL;
        }
        if let Some(ms) = set.timeout_ms {
            flags |= NFT_SET_TIMEOUT | NFT_SET_EVAL;
            m.be64(NFTA_SET_TIMEOUT, ms);
        }
        if set.key.len() > 1 && set.interval {
            flags |= NFT_SET_CONCAT;
            m.nest(NFTA_SET_DESC, |m| {
                m.nest(NFTA_SET_DESC_CONCAT, |m| {
                    for part in &set.key {
                        m.nest(NFTA_LIST_ELEM, |m| {
                            m.be32(NFTA_SET_FIELD_LEN, u32::from(*part));
                        });
                    }
                });
            });
        }
        m.be32(NFTA_SET_FLAGS, flags);
        self.push(m, format!("make the set {}", set.name));
    }

    /// Removes a set with all that is in it. It must exist and be used by nothing.
    pub fn delete_set(&mut self, table: Table, name: &str) {
        let mut m = message(table.family, NFT_MSG_DELSET, 0);
        m.str(NFTA_SET_TABLE, table.name).str(NFTA_SET_NAME, name);
        self.push(m, format!("delete the set {name}"));
    }

    /// Adds elements to a set or map. One that is there with something else refuses the transaction.
    pub fn add_elements(&mut self, table: Table, set: &str, elements: &[NewElement]) {
        self.flush();
        self.elements(table, set, elements, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
    }

    /// Removes elements, which must exist.
    pub fn delete_elements(&mut self, table: Table, set: &str, elements: &[NewElement]) {
        self.flush();
        self.elements(table, set, elements, NFT_MSG_DELSETELEM, 0);
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, table: Table, set: &str) {
        let mut m = message(table.family, NFT_MSG_DELSETELEM, 0);
        m.str(NFTA_SET_ELEM_LIST_TABLE, table.name).str(NFTA_SET_ELEM_LIST_SET, set);
        self.push(m, format!("empty the set {set}"));
    }

    fn elements(&mut self, table: Table, set: &str, elements: &[NewElement], kind: u16, flags: u16) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut m = message(table.family, kind, flags);
            m.str(NFTA_SET_ELEM_LIST_TABLE, table.name).str(NFTA_SET_ELEM_LIST_SET, set);
            m.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |m| {
                for element in chunk {
                    m.nest(NFTA_LIST_ELEM, |m| write_element(m, element));
                }
            });
            let verb = if kind == NFT_MSG_NEWSETELEM { "add to" } else { "take from" };
            self.put(m, format!("{verb} the set {set}"));
        }
    }
}

fn write_element(m: &mut Message, element: &NewElement) {
    if element.key.is_empty() {
        m.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_CATCHALL);
    } else {
        m.nest(NFTA_SET_ELEM_KEY, |m| {
            m.attr(NFTA_DATA_VALUE, &element.key);
        });
    }
    if let Some(end) = &element.key_end {
        m.nest(NFTA_SET_ELEM_KEY_END, |m| {
            m.attr(NFTA_DATA_VALUE, end);
        });
    }
    match &element.data {
        Some(ElementData::Bytes(bytes)) => {
            m.nest(NFTA_SET_ELEM_DATA, |m| {
                m.attr(NFTA_DATA_VALUE, bytes);
            });
        }
        Some(ElementData::Verdict(verdict)) => {
            m.nest(NFTA_SET_ELEM_DATA, |m| verdict.write(m));
        }
        Some(ElementData::Counter(name) | ElementData::Limit(name)) => {
            m.str(NFTA_SET_ELEM_OBJREF, name);
        }
        None => {}
    }
}

/// The packet filters of one namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// Of the namespace that the calling thread is in.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn here() -> Result<Nft> {
        Ok(Nft { socket: Socket::open(Netlink::Netfilter)? })
    }

    /// Of a namespace.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn open(namespace: &Namespace) -> Result<Nft> {
        namespace.run(Nft::here)?
    }

    /// Makes all changes of a transaction at once, or none.
    ///
    /// # Errors
    /// What the kernel refused first, and of what it was.
    pub fn commit(&mut self, mut batch: Batch) -> Result<()> {
        batch.flush();
        if batch.is_empty() {
            return Ok(());
        }
        const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
        const NFNL_MSG_BATCH_END: u16 = 0x11;
        let edge = |kind| {
            let mut m = Message::new(kind, 0);
            // The resource is nf_tables, in network byte order.
            m.fixed(&[0, 0, 0, 10]);
            m
        };
        let about = batch.about;
        self.socket.transaction(edge(NFNL_MSG_BATCH_BEGIN), batch.messages, edge(NFNL_MSG_BATCH_END), |i| {
            about.get(i).cloned().unwrap_or_else(|| "change packet filters".to_owned())
        })
    }
}
