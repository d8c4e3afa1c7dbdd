//! Soft state: the values that this node keeps for the network, and whether it is full or loaded for a key
//! [C04 §4.2].
//!
//! A store answers; whether to turn a put back, and whether the sender may ask at all, is decided by its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::api::Value;
use crate::config::Config;
use crate::dsht::meter::Meter;
use crate::dsht::quota::Quota;
use crate::id::Key;
use crate::level::Level;
use crate::time::Instant;
use claims::LONGEST_CLAIM;
use slot::{Slot, StoredValue};

mod claims;
mod slot;

/// Everything that this node stores, at all levels.
#[derive(Debug, Default)]
pub(crate) struct Store {
    slots: BTreeMap<(Level, Key), Slot>,
    /// When something of which slot ends, so that the dead are swept without a walk over the living. One entry for each
    /// slot, however often it is put to.
    expiries: BTreeSet<(Instant, Level, Key)>,
    quota: Quota,
}

/// What somebody wants stored.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) ttl: Duration,
    pub(crate) owner: IpAddr,
}

impl Store {
    /// The live values under `key` at `level`, those that live longest first.
    pub(crate) fn values(&self, now: Instant, level: Level, key: &Key) -> Vec<Value> {
        let Some(slot) = self.slots.get(&(level, *key)) else {
            return Vec::new();
        };
        let mut live: Vec<&StoredValue> = slot.live(now).collect();
        live.sort_by(|a, b| b.expires.cmp(&a.expires).then_with(|| a.value.cmp(&b.value)));
        live.into_iter().map(|stored| stored.value.clone()).collect()
    }

    /// The live values for `key` at `level`; without any, those at the nearer level after it that has some.
    ///
    /// Who asks at a level has found nothing nearer: what is kept here for a nearer cluster is as good to him, and the node
    /// that had the level's own values may be gone.
    pub(crate) fn values_or_nearer(&self, now: Instant, level: Level, key: &Key) -> Vec<Value> {
        let at = (level.number()..).map_while(Level::new);
        at.map(|at| self.values(now, at, key)).find(|values| !values.is_empty()).unwrap_or_default()
    }

    /// Whether `key` needs no further value that lives `ttl` [C04 §4.2].
    ///
    /// Full means: `config.full_values` values are stored, each with at least half of `ttl` left at `now`.
    /// A full node still answers gets; only one that is full *and* loaded ends the forward phase of a put.
    pub(crate) fn is_full(&self, config: &Config, now: Instant, level: Level, key: &Key, ttl: Duration) -> bool {
        let Some(slot) = self.slots.get(&(level, *key)) else {
            return false;
        };
        let lasting = slot.live(now).filter(|stored| stored.expires >= now + ttl / 2).count();
        lasting >= config.full_values.get() as usize
    }

    /// Counts a put for `key` that came by; `true` when there were more than β in the past minute [C04 §4.2].
    ///
    /// *Loaded* is read as a leak: of a steady stream, one in each 60/β seconds still finds the node not loaded.
    /// Counting every request of the past minute would let nothing through once busy, and the values here would go
    /// stale while everyone is turned back.
    pub(crate) fn count_put(&mut self, config: &Config, now: Instant, level: Level, key: Key) -> bool {
        if !self.slots.contains_key(&(level, key)) && self.slots.len() >= config.stored_values as usize {
            // No room to count in: as good as loaded, so that a flood of keys costs bounded memory.
            return true;
        }
        let slot = self.slots.entry((level, key)).or_default();
        let meter = slot.puts.get_or_insert_with(|| Meter::new(now));
        let allowed = meter.take(config, now);
        let idle_again = meter.full_again;
        self.schedule(level, key, idle_again);
        !allowed
    }

    /// A put for `key` that this node let through was turned back further on.
    pub(crate) fn push_back(&mut self, level: Level, key: &Key) {
        if let Some(meter) = self.slots.get_mut(&(level, *key)).and_then(|slot| slot.puts.as_mut()) {
            meter.push_back();
        }
    }

    /// Stores `value`, or renews it, for `ttl`; it takes the place of one that is the same ([`Value::is_same`]). Whether it did: a key, or the store, may have no room.
    ///
    /// When a key has `config.values_per_key` values, one of the network that has most of them there makes room, the one
    /// that ends first; for a value of that network itself only if that lives longer.
    pub(crate) fn put(
        &mut self,
        config: &Config,
        now: Instant,
        (level, key): (Level, Key),
        Entry { value, ttl, owner }: Entry,
    ) -> bool {
        let expires = now + ttl.min(config.max_ttl);
        let room = self.quota.admits(config, owner);
        if self.slots.get(&(level, key)).is_none_or(|slot| slot.values.is_empty()) && !room {
            return false;
        }
        let slot = self.slots.entry((level, key)).or_default();
        slot.drop_ended(now, &mut self.quota);
        let stored = match slot.values.iter_mut().find(|stored| stored.value.is_same(&value)) {
            // Whoever else claims the same value may lengthen its life, but neither shorten nor own it.
            Some(stored) if stored.owner != owner => {
                stored.expires = stored.expires.max(expires);
                true
            }
            Some(stored) => {
                (stored.value, stored.expires) = (value, expires);
                if ttl > LONGEST_CLAIM {
                    (stored.is_claim, stored.given) = (false, 0);
                }
                true
            }
            None => {
                let new = StoredValue { value, expires, owner, is_claim: false, given: 0 };
                let displaced = if room && slot.values.len() < config.values_per_key.get() as usize {
                    slot.reserve_for_one();
                    slot.values.push(new);
                    None
                } else if let Some(index) = slot.displaced_by(&new) {
                    Some(std::mem::replace(&mut slot.values[index], new).owner)
                } else {
                    return false;
                };
                self.quota.add(owner);
                displaced.into_iter().for_each(|owner| self.quota.drop(owner));
                true
            }
        };
        if stored {
            self.schedule(level, key, expires);
        }
        stored
    }

    /// Drops `value` if `owner` had it stored. Whether it was there.
    pub(crate) fn remove(&mut self, level: Level, key: &Key, value: &Value, owner: IpAddr) -> bool {
        let Some(slot) = self.slots.get_mut(&(level, *key)) else {
            return false;
        };
        let before = slot.values.len();
        slot.values.retain(|stored| !stored.value.is_same(value) || stored.owner != owner);
        let removed = before - slot.values.len();
        (0..removed).for_each(|_| self.quota.drop(owner));
        if slot.is_empty() {
            let due = slot.due;
            self.slots.remove(&(level, *key));
            if let Some(due) = due {
                self.expiries.remove(&(due, level, *key));
            }
        }
        removed > 0
    }

    /// Sees to it that the slot is swept at `end`, or before.
    fn schedule(&mut self, level: Level, key: Key, end: Instant) {
        let Some(slot) = self.slots.get_mut(&(level, key)) else {
            return;
        };
        if slot.due.is_some_and(|due| due <= end) {
            return;
        }
        if let Some(later) = slot.due.replace(end) {
            self.expiries.remove(&(later, level, key));
        }
        self.expiries.insert((end, level, key));
    }

    /// Forgets what has ended by `now`.
    pub(crate) fn sweep(&mut self, now: Instant) {
        while let Some((due, level, key)) = self.expiries.first().copied() {
            if due > now {
                break;
            }
            self.expiries.pop_first();
            let Some(slot) = self.slots.get_mut(&(level, key)) else {
                continue;
            };
            slot.drop_ended(now, &mut self.quota);
            slot.puts = slot.puts.take().filter(|meter| !meter.is_idle(now));
            slot.due = None;
            match slot.first_end() {
                Some(end) => self.schedule(level, key, end),
                None => drop(self.slots.remove(&(level, key))),
            }
        }
    }

    /// Distinct keys with values, at any level.
    pub(crate) fn keys(&self) -> usize {
        let filled = self.slots.iter().filter(|(_, slot)| !slot.values.is_empty());
        filled.map(|((_, key), _)| *key).collect::<BTreeSet<_>>().len()
    }

    /// Values, over all keys and levels.
    pub(crate) fn len(&self) -> usize {
        self.quota.len()
    }
}

#[cfg(test)]
mod tests;
