//! Transactions and what comes of them.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use skep_base::{Key, Revision, Scope};
use smallvec::SmallVec;

use crate::state::State;
use crate::value::{NewValue, Value};

/// What must hold of a key for a transaction to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// It does not exist.
    Absent,
    /// It exists, at whatever revision.
    Exists,
    /// It exists at this revision.
    Revision(Revision),
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes a value.
    Put {
        /// Where.
        key: Key,
        /// What.
        value: NewValue,
        /// On what condition.
        expect: Expect,
        /// After how many seconds it goes by itself.
        ttl_s: Option<u32>,
    },
    /// Removes a value. Removing what is not there, without a condition, changes nothing.
    Delete {
        /// Where.
        key: Key,
        /// On what condition.
        expect: Expect,
    },
    /// Only checks.
    Check {
        /// Where.
        key: Key,
        /// What must hold.
        expect: Expect,
    },
}

impl Op {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::Check { key, .. } => key,
        }
    }

    /// Its condition.
    #[must_use]
    pub fn expect(&self) -> Expect {
        match self {
            Op::Put { expect, .. } | Op::Delete { expect, .. } | Op::Check { expect, .. } => *expect,
        }
    }
}

/// Steps that happen all or not at all. All conditions are checked before the first step; no key may
/// be written twice.
#[derive(Clone, Debug, Default)]
pub struct Txn(pub SmallVec<[Op; 1]>);

impl Txn {
    /// One step.
    #[must_use]
    pub fn one(op: Op) -> Txn {
        Txn(smallvec::smallvec![op])
    }
}

impl FromIterator<Op> for Txn {
    fn from_iter<I: IntoIterator<Item = Op>>(ops: I) -> Txn {
        Txn(ops.into_iter().collect())
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which object.
    pub key: Key,
    /// When.
    pub revision: Revision,
    /// What it is now; `None` when it was deleted.
    pub value: Option<Arc<Value>>,
    /// What it was before; `None` when it is new.
    pub prev: Option<Arc<Value>>,
}

/// The changes of one transaction, in the order of its steps.
pub type Changes = SmallVec<[Arc<Change>; 1]>;

/// Why a transaction was not committed. Nothing has changed, except after [`CommitError::Uncertain`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A condition did not hold.
    #[error("{key} is not as expected")]
    Conflict {
        /// The step whose condition did not hold.
        index: usize,
        /// Its key.
        key: Box<Key>,
        /// What is there.
        current: Option<Arc<Value>>,
    },
    /// A value is larger than the store takes.
    #[error("{key}: {size_bytes} bytes are more than the {limit_bytes} that one value may have")]
    TooLarge {
        /// Its key.
        key: Box<Key>,
        /// Its size.
        size_bytes: usize,
        /// What is allowed.
        limit_bytes: usize,
    },
    /// The disk is full.
    #[error("the store's disk is full: nothing was written")]
    NoSpace,
    /// The disk failed; the store takes no more writes.
    #[error("the store's disk failed, restart after mending it: {0}")]
    Failed(Arc<str>),
    /// The disk failed in the middle: the write may or may not survive a restart.
    #[error("the store's disk failed while writing, the write may or may not have happened: {0}")]
    Uncertain(Arc<str>),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// The newest state, including writes that are accepted but not yet durable: what a plan run by
/// [`Store::commit_with`](crate::Store::commit_with) decides on.
pub struct View<'a> {
    pub(crate) state: &'a State,
    pub(crate) pending: &'a FxHashMap<Key, Option<Arc<Value>>>,
}

impl View<'_> {
    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.state.get(key).cloned(),
        }
    }

    /// All objects of a scope, in order. Meant for small ones: it runs while all writers wait.
    #[must_use]
    pub fn list(&self, scope: &Scope) -> Vec<(Key, Arc<Value>)> {
        let mut found: std::collections::BTreeMap<Key, Arc<Value>> = std::collections::BTreeMap::new();
        self.state.scan(scope, None, &mut |key, value| {
            found.insert(key, value.clone());
            true
        });
        for (key, value) in self.pending.iter().filter(|(k, _)| scope.contains(k)) {
            match value {
                Some(v) => found.insert(key.clone(), v.clone()),
                None => found.remove(key),
            };
        }
        found.into_iter().collect()
    }
}

/// Whether a condition holds of what is there.
pub(crate) fn holds(expect: Expect, current: Option<&Arc<Value>>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Exists => current.is_some(),
        Expect::Revision(r) => current.is_some_and(|v| v.revision() == r),
    }
}
