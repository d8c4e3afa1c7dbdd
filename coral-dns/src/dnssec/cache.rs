//! Signatures made lately. Of two generations, each of which has a bound: what is used moves to the young one, and when
//! that is full, the old one is forgotten and it becomes the old one. So a flood of names that are asked for once takes no
//! more than half of what is in use.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use super::key::SIGNATURE_BYTES;

type Signature = [u8; SIGNATURE_BYTES];

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// A bounded memory of signatures.
#[derive(Debug)]
pub(super) struct Cache {
    shards: [Mutex<Generations>; SHARDS],
    /// Of one generation of one shard.
    capacity: usize,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u128, Signature>,
    old: HashMap<u128, Signature>,
}

impl Cache {
    /// For at most twice as many as `capacity`, which is rounded up.
    pub(super) fn new(capacity: usize) -> Self {
        Self { shards: Default::default(), capacity: capacity.div_ceil(SHARDS).max(1) }
    }

    /// The signature of what has this hash, which nobody else can foresee.
    pub(super) fn get(&self, hash: u128) -> Option<Signature> {
        let mut shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = shard.young.get(&hash) {
            return Some(*found);
        }
        let found = shard.old.remove(&hash)?;
        self.add(&mut shard, hash, found);
        Some(found)
    }

    /// Remembers it.
    pub(super) fn put(&self, hash: u128, signature: Signature) {
        self.add(&mut self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner), hash, signature);
    }

    fn add(&self, shard: &mut Generations, hash: u128, signature: Signature) {
        if shard.young.len() >= self.capacity {
            shard.old = mem::take(&mut shard.young);
        }
        shard.young.insert(hash, signature);
    }

    fn shard(&self, hash: u128) -> &Mutex<Generations> {
        &self.shards[(hash % SHARDS as u128) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(cache: &Cache) -> usize {
        cache.shards.iter().map(|shard| shard.lock().unwrap()).map(|shard| shard.young.len() + shard.old.len()).sum()
    }

    #[test]
    fn what_is_used_stays_and_what_was_asked_once_is_bounded() {
        let cache = Cache::new(160);
        cache.put(7, [7; SIGNATURE_BYTES]);
        for hash in 1_000..10_000 {
            cache.put(hash, [1; SIGNATURE_BYTES]);
            assert_eq!(cache.get(7), Some([7; SIGNATURE_BYTES]));
            assert!(count(&cache) <= 2 * 160);
        }
        assert_eq!(cache.get(1_000), None);
        assert!(count(&cache) > 160);
    }
}
