//! Tokens that were verified: their signature need not be checked again.
//!
//! Only good tokens get in, so that junk cannot push them out, and only what never changes about a token is
//! kept; its time and the life of its account are checked on every use.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::service_account::Verified;

/// SHA-256 of the token.
pub(super) type Digest = [u8; 32];

/// Locks that the cache is spread over.
const SHARDS: usize = 16;
/// Tokens per shard: 16,384 altogether, at about 2 KiB each. Beyond that the oldest goes.
const MAX_PER_SHARD: usize = 1024;

#[derive(Debug, Default)]
struct Shard {
    by_digest: HashMap<Digest, Arc<Verified>>,
    order: VecDeque<Digest>,
}

#[derive(Debug)]
pub(super) struct TokenCache {
    shards: [RwLock<Shard>; SHARDS],
}

impl Default for TokenCache {
    fn default() -> Self {
        TokenCache { shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl TokenCache {
    fn shard(&self, digest: &Digest) -> &RwLock<Shard> {
        &self.shards[usize::from(digest[31]) % SHARDS]
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Verified>> {
        self.shard(digest).read().by_digest.get(digest).cloned()
    }

    pub(super) fn insert(&self, digest: Digest, verified: Arc<Verified>) {
        let mut shard = self.shard(&digest).write();
        if shard.by_digest.insert(digest, verified).is_none() {
            shard.order.push_back(digest);
        }
        while shard.order.len() > MAX_PER_SHARD {
            if let Some(oldest) = shard.order.pop_front() {
                shard.by_digest.remove(&oldest);
            }
        }
    }

    pub(super) fn remove(&self, digest: &Digest) {
        let mut shard = self.shard(digest).write();
        if shard.by_digest.remove(digest).is_some() {
            shard.order.retain(|d| d != digest);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().by_digest.len()).sum()
    }

    #[cfg(test)]
    pub(super) const CAPACITY: usize = SHARDS * MAX_PER_SHARD;
}
