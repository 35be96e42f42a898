//! What is in the kernel's tables.

use super::{Family, Nft, Table, message};
use crate::netlink::{Attrs, Result, get_str};
use crate::uapi::*;

/// An element of a set, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The end of a range of keys.
    pub key_end: Option<Vec<u8>>,
    /// The bytes that a map has for it.
    pub data: Option<Vec<u8>>,
    /// The chain that a map of verdicts goes to.
    pub chain: Option<String>,
}

/// A counter, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn be64(attrs: Attrs<'_>, kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(attrs.find(kind)?.try_into().ok()?))
}

impl Nft {
    /// The names of the tables of a family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tables(&mut self, family: Family) -> Result<Vec<String>> {
        let m = message(family, NFT_MSG_GETTABLE, 0);
        self.socket.dump(
            &m,
            || "list the tables".into(),
            |_, payload| Attrs(payload.get(4..)?).find(NFTA_TABLE_NAME).map(get_str),
        )
    }

    /// How many rules a table has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn count_rules(&mut self, table: Table) -> Result<usize> {
        let mut m = message(table.family, NFT_MSG_GETRULE, 0);
        m.str(NFTA_RULE_TABLE, table.name);
        let all = self.socket.dump(
            &m,
            || format!("list the rules of {}", table.name),
            |_, payload| {
                let name = Attrs(payload.get(4..)?).find(NFTA_RULE_TABLE).map(get_str)?;
                (name == table.name).then_some(())
            },
        )?;
        Ok(all.len())
    }

    /// The elements of a set.
    ///
    /// # Errors
    /// What the kernel says, also when there is no such set.
    pub fn elements(&mut self, table: Table, set: &str) -> Result<Vec<Element>> {
        let mut m = message(table.family, NFT_MSG_GETSETELEM, 0);
        m.str(NFTA_SET_ELEM_LIST_TABLE, table.name).str(NFTA_SET_ELEM_LIST_SET, set);
        let parts = self.socket.dump(
            &m,
            || format!("list the set {set}"),
            |_, payload| {
                let list = Attrs(payload.get(4..)?).find(NFTA_SET_ELEM_LIST_ELEMENTS)?;
                Some(Attrs(list).filter_map(|(_, e)| read_element(Attrs(e))).collect::<Vec<_>>())
            },
        )?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// The counters of a table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&mut self, table: Table) -> Result<Vec<Counter>> {
        let mut m = message(table.family, NFT_MSG_GETOBJ, 0);
        m.str(NFTA_OBJ_TABLE, table.name).be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        self.socket.dump(
            &m,
            || format!("list the counters of {}", table.name),
            |_, payload| {
                let attrs = Attrs(payload.get(4..)?);
                if attrs.find(NFTA_OBJ_TABLE).map(get_str)? != table.name {
                    return None;
                }
                let data = Attrs(attrs.find(NFTA_OBJ_DATA)?);
                Some(Counter {
                    name: get_str(attrs.find(NFTA_OBJ_NAME)?),
                    packets: be64(data, NFTA_COUNTER_PACKETS)?,
                    bytes: be64(data, NFTA_COUNTER_BYTES)?,
                })
            },
        )
    }
}

fn read_element(attrs: Attrs<'_>) -> Option<Element> {
    let value = |kind| Some(Attrs(attrs.find(kind)?).find(NFTA_DATA_VALUE)?.to_vec());
    let verdict = attrs.find(NFTA_SET_ELEM_DATA).and_then(|d| Attrs(d).find(NFTA_DATA_VERDICT));
    Some(Element {
        key: value(NFTA_SET_ELEM_KEY)?,
        key_end: value(NFTA_SET_ELEM_KEY_END),
        data: value(NFTA_SET_ELEM_DATA),
        chain: verdict.and_then(|v| Attrs(v).find(NFTA_VERDICT_CHAIN)).map(get_str),
    })
}
