//! One tier of the store: whole objects, bounded by bytes. moka decides what goes, [`crate::policy`] what is fresh.

use std::fmt;
use std::sync::Arc;

use coral_dsht::Key;
use moka::notification::RemovalCause;
use moka::sync::Cache;

use super::Object;
use crate::metrics::{Metrics, TierLabels};
use crate::reference::References;

/// moka weighs in 32 bits; in units of 1 KiB that is enough for objects of 4 TiB.
const UNIT_BYTES: u64 = 1024;

/// Objects by variant key, of which the less wanted leave when their bytes exceed a bound.
///
/// A newcomer that is asked for less often than what it would push out is not let in (TinyLFU), so that one pass over
/// many cold URLs does not empty the cache.
#[derive(Clone)]
pub(super) struct Tier {
    objects: Cache<Key, Arc<Object>>,
    metrics: Metrics,
    labels: TierLabels,
    weigh: fn(&Object) -> u64,
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
        let gone = move |_: Arc<Key>, object: Arc<Object>, cause: RemovalCause| {
            counted.objects.get_or_create(&on_labels).dec();
            counted.stored_bytes.get_or_create(&on_labels).dec_by(weigh(&object) as i64);
            if object.part.is_none() {
                references.dropped(object.key);
            }
            tracing::trace!(key = ?object.key, ?cause, "an object left the cache");
        };
        let objects = Cache::builder()
            .max_capacity(capacity_bytes / UNIT_BYTES)
            .weigher(move |_, object: &Arc<Object>| weigh(object).div_ceil(UNIT_BYTES).try_into().unwrap_or(u32::MAX))
            .eviction_listener(gone)
            .build();
        Self { objects, metrics, labels, weigh }
    }

    pub(super) fn get(&self, variant: &Key) -> Option<Arc<Object>> {
        self.objects.get(variant)
    }

    pub(super) fn insert(&self, variant: Key, object: Arc<Object>) {
        // Counted first: moka may tell of its removal before `insert` returns.
        self.metrics.objects.get_or_create(&self.labels).inc();
        let bytes = (self.weigh)(&object) as i64;
        self.metrics.stored_bytes.get_or_create(&self.labels).inc_by(bytes);
        self.objects.insert(variant, object);
    }

    /// Whether an object is here and was asked for since this was last asked. Does not itself count as asking.
    pub(super) fn was_asked_for(&self, variant: &Key) -> bool {
        // The first look leaves no trace in the frequencies by which moka judges, the second one only of what is here.
        self.objects.contains_key(variant)
            && self.objects.get(variant).is_some_and(|object| object.body.was_asked_for())
    }

    /// The variants here.
    pub(super) fn variants(&self) -> impl Iterator<Item = Arc<Key>> {
        self.objects.iter().map(|(variant, _)| variant)
    }

    pub(super) fn remove(&self, variant: &Key) {
        self.objects.invalidate(variant);
    }

    /// How many objects, and how many bytes of them. Lets moka do what it has put off.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.objects.run_pending_tasks();
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
