//! Transactions and what comes of them.

use std::sync::Arc;

use skep_base::{Key, Revision};
use smallvec::SmallVec;

use crate::value::{NewValue, PATH_MAX_BYTES, Value};

/// Most steps of one transaction: everybody who writes waits for it. A new tenant's needs some tens.
pub const TXN_MAX_OPS: usize = 4096;
/// Most bytes of values in one transaction, for the same reason.
pub const TXN_MAX_BYTES: usize = 64 << 20;
/// Largest value, whatever the options say: the offsets in it are 32-bit.
const VALUE_MAX_BYTES: usize = 1 << 30;

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

impl Expect {
    /// Whether the condition holds of what is there.
    #[must_use]
    pub fn holds(self, current: Option<&Arc<Value>>) -> bool {
        match self {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Exists => current.is_some(),
            Expect::Revision(r) => current.is_some_and(|v| v.revision() == r),
        }
    }
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

/// Steps that happen all or not at all. All conditions are checked before the first step; no key may be
/// written twice. Every step that changes something gets a revision of its own, in order, so that a watch can
/// resume between any two; readers see all of them at once.
#[derive(Clone, Debug, Default)]
pub struct Txn(pub SmallVec<[Op; 1]>);

impl Txn {
    /// One step.
    #[must_use]
    pub fn one(op: Op) -> Txn {
        Txn(smallvec::smallvec![op])
    }

    /// Refuses what could never be stored, whatever is there.
    pub(crate) fn check(&self, value_limit_bytes: usize) -> Result<(), CommitError> {
        if self.0.len() > TXN_MAX_OPS {
            return Err(CommitError::Invalid("a transaction has too many steps"));
        }
        let mut total_bytes = 0;
        for op in &self.0 {
            let key = op.key();
            let path_len = key.tenant.as_str().len() + key.namespace.len() + key.name.len() + 2;
            if key.namespace.contains('\0') || key.name.contains('\0') || key.name.is_empty() {
                return Err(CommitError::Invalid("a key has no name, or a NUL in its name or namespace"));
            }
            if path_len > PATH_MAX_BYTES {
                return Err(CommitError::Invalid("a key is too long"));
            }
            let Op::Put { value, .. } = op else { continue };
            let size_bytes = value.body.len() + value.attrs.len();
            total_bytes += size_bytes;
            let limit_bytes = value_limit_bytes.min(VALUE_MAX_BYTES);
            if size_bytes > limit_bytes {
                return Err(CommitError::TooLarge { key: Box::new(key.clone()), size_bytes, limit_bytes });
            }
            if let Some(fault) = value.fault() {
                return Err(CommitError::Invalid(fault));
            }
        }
        if total_bytes > TXN_MAX_BYTES {
            return Err(CommitError::Invalid("a transaction has too many bytes"));
        }
        if self.writes_a_key_twice() {
            return Err(CommitError::Invalid("a transaction writes the same key twice"));
        }
        Ok(())
    }

    fn writes_a_key_twice(&self) -> bool {
        if self.0.len() < 2 {
            return false;
        }
        let mut written: Vec<&Key> =
            self.0.iter().filter(|op| !matches!(op, Op::Check { .. })).map(Op::key).collect();
        written.sort_unstable();
        written.windows(2).any(|pair| pair[0] == pair[1])
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
    /// It could never be stored: a fault of the caller's.
    #[error("not a valid transaction: {0}")]
    Invalid(&'static str),
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
