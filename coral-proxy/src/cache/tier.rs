//! The store's memory: whole objects, and blocks of large ones, bounded by bytes together. moka decides what goes,
//! [`crate::policy`] what is fresh.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use coral_dsht::Key;
use moka::notification::RemovalCause;
use moka::sync::Cache;

use super::Object;
use crate::metrics::{Metrics, TierLabels};
use crate::reference::References;

/// moka weighs in 32 bits; in units of 1 KiB that is enough for objects of 4 TiB.
const UNIT_BYTES: u64 = 1024;

/// Objects by variant key, and blocks of body files, of which the less wanted leave when their bytes exceed a bound.
///
/// A newcomer that is asked for less often than what it would push out is not let in (TinyLFU), so that one pass over
/// many cold URLs does not empty the cache.
#[derive(Clone)]
pub(super) struct Tier {
    kept: Cache<Slot, Kept>,
    metrics: Metrics,
    labels: TierLabels,
    weigh: fn(&Object) -> u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Object(Key),
    /// Of the body file with this number, the block with this index.
    Block(u64, usize),
}

#[derive(Clone)]
enum Kept {
    Object(Arc<Object>),
    Block(Bytes),
}

impl Kept {
    fn bytes(&self, weigh: fn(&Object) -> u64) -> u64 {
        match self {
            Self::Object(object) => weigh(object),
            Self::Block(block) => block.len() as u64,
        }
    }

    fn object(self) -> Option<Arc<Object>> {
        match self {
            Self::Object(object) => Some(object),
            Self::Block(_) => None,
        }
    }
}

impl Tier {
    pub(super) fn new(
        name: &'static str,
        capacity_bytes: u64,
        weigh: fn(&Object) -> u64,
        references: References,
        metrics: Metrics,
    ) -> Self {
        let labels = TierLabels { tier: name };
        let (counted, on_labels) = (metrics.clone(), labels.clone());
        let gone = move |_: Arc<Slot>, kept: Kept, cause: RemovalCause| {
            counted.stored_bytes.get_or_create(&on_labels).dec_by(kept.bytes(weigh) as i64);
            let Some(object) = kept.object() else {
                return;
            };
            counted.objects.get_or_create(&on_labels).dec();
            match object.place() {
                Some(place) => references.dropped_part(object.key, place),
                None if object.is_loose_part() => {}
                None => references.dropped(object.key),
            }
            tracing::trace!(key = ?object.key, ?cause, "an object left the cache");
        };
        let kept = Cache::builder()
            .max_capacity(capacity_bytes / UNIT_BYTES)
            .weigher(move |_, kept: &Kept| kept.bytes(weigh).div_ceil(UNIT_BYTES).try_into().unwrap_or(u32::MAX))
            .eviction_listener(gone)
            .build();
        Self { kept, metrics, labels, weigh }
    }

    pub(super) fn get(&self, variant: &Key) -> Option<Arc<Object>> {
        self.kept.get(&Slot::Object(*variant))?.object()
    }

    pub(super) fn insert(&self, variant: Key, object: Arc<Object>) {
        // Counted first: moka may tell of its removal before `insert` returns.
        self.metrics.objects.get_or_create(&self.labels).inc();
        self.put(Slot::Object(variant), Kept::Object(object));
    }

    /// A block that was read from this body file.
    pub(super) fn block(&self, file: u64, index: usize) -> Option<Bytes> {
        match self.kept.get(&Slot::Block(file, index))? {
            Kept::Block(block) => Some(block),
            Kept::Object(_) => None,
        }
    }

    pub(super) fn insert_block(&self, file: u64, index: usize, block: Bytes) {
        self.put(Slot::Block(file, index), Kept::Block(block));
    }

    /// Forgets the first `count` blocks of this body file.
    pub(super) fn remove_blocks(&self, file: u64, count: usize) {
        for index in 0..count {
            self.kept.invalidate(&Slot::Block(file, index));
        }
    }

    fn put(&self, slot: Slot, kept: Kept) {
        self.metrics.stored_bytes.get_or_create(&self.labels).inc_by(kept.bytes(self.weigh) as i64);
        self.kept.insert(slot, kept);
    }

    /// Whether an object is here and was asked for since this was last asked. Does not itself count as asking.
    pub(super) fn was_asked_for(&self, variant: &Key) -> bool {
        // The first look leaves no trace in the frequencies by which moka judges, the second one only of what is here.
        self.kept.contains_key(&Slot::Object(*variant))
            && self.get(variant).is_some_and(|object| object.body.was_asked_for())
    }

    /// The variants here.
    pub(super) fn variants(&self) -> impl Iterator<Item = Key> {
        self.kept.iter().filter_map(|(slot, _)| match *slot {
            Slot::Object(variant) => Some(variant),
            Slot::Block(..) => None,
        })
    }

    pub(super) fn remove(&self, variant: &Key) {
        self.kept.invalidate(&Slot::Object(*variant));
    }

    /// How many objects, and how many bytes of them. Lets moka do what it has put off.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.kept.run_pending_tasks();
        let gauge = |value: i64| value.max(0).unsigned_abs();
        (
            gauge(self.metrics.objects.get_or_create(&self.labels).get()),
            gauge(self.metrics.stored_bytes.get_or_create(&self.labels).get()),
        )
    }
}

impl fmt::Debug for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tier").field("tier", &self.labels.tier).finish_non_exhaustive()
    }
}
