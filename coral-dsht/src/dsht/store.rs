//! Soft state: the values that this node keeps for the network, and whether it is full or loaded for a key
//! [C04 §4.2].
//!
//! A store answers; whether to turn a put back, and whether the sender may ask at all, is decided by its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::api::Value;
use crate::config::Config;
use crate::id::Key;
use crate::level::Level;
use crate::time::Instant;

/// Everything that this node stores, at all levels.
#[derive(Debug, Default)]
pub(crate) struct Store {
    slots: BTreeMap<(Level, Key), Slot>,
    /// When something of which slot ends, so that the dead are swept without a walk over the living. One entry for each
    /// slot, however often it is put to.
    expiries: BTreeSet<(Instant, Level, Key)>,
    values: usize,
}

/// What is known of one key at one level.
#[derive(Debug, Default)]
struct Slot {
    values: Vec<StoredValue>,
    puts: Option<Meter>,
    /// Its entry in `expiries`: no later than the first of it ends.
    due: Option<Instant>,
}

/// A value, until when it lives, and who had it stored.
#[derive(Debug, Clone)]
struct StoredValue {
    value: Value,
    expires: Instant,
    owner: IpAddr,
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

    /// Stores `value`, or renews it, for `ttl`. Whether it did: a key, or the store, may have no room.
    ///
    /// When a key has `config.values_per_key` values, the one that ends first makes room if the new one outlives it.
    pub(crate) fn put(
        &mut self,
        config: &Config,
        now: Instant,
        (level, key): (Level, Key),
        (value, ttl): (Value, Duration),
        owner: IpAddr,
    ) -> bool {
        let expires = now + ttl.min(config.max_ttl);
        let room = self.values < config.stored_values as usize;
        let before = self.slots.get(&(level, key)).map_or(0, |slot| slot.values.len());
        if before == 0 && !room {
            return false;
        }
        let slot = self.slots.entry((level, key)).or_default();
        slot.values.retain(|stored| stored.expires > now);
        let stored = match slot.values.iter_mut().find(|stored| stored.value == value) {
            // Whoever else claims the same value may lengthen its life, but neither shorten nor own it.
            Some(stored) if stored.owner != owner => {
                stored.expires = stored.expires.max(expires);
                true
            }
            Some(stored) => {
                stored.expires = expires;
                true
            }
            None => {
                let first_to_end = slot.values.iter().enumerate().min_by_key(|(_, stored)| stored.expires);
                let new = StoredValue { value, expires, owner };
                if room && slot.values.len() < config.values_per_key.get() as usize {
                    slot.values.push(new);
                    true
                } else if let Some((index, _)) = first_to_end.filter(|(_, stored)| stored.expires < expires) {
                    slot.values[index] = new;
                    true
                } else {
                    false
                }
            }
        };
        self.values = self.values + slot.values.len() - before;
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
        slot.values.retain(|stored| stored.value != *value || stored.owner != owner);
        let removed = before - slot.values.len();
        self.values -= removed;
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
            let before = slot.values.len();
            slot.values.retain(|stored| stored.expires > now);
            self.values -= before - slot.values.len();
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
        self.values
    }
}

impl Slot {
    fn live(&self, now: Instant) -> impl Iterator<Item = &StoredValue> {
        self.values.iter().filter(move |stored| stored.expires > now)
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.puts.is_none()
    }

    /// When the first of its values ends, or its meter is as new; `None` if it is empty.
    fn first_end(&self) -> Option<Instant> {
        let values = self.values.iter().map(|stored| stored.expires);
        values.chain(self.puts.map(|meter| meter.full_again)).min()
    }
}

/// Lets β through at once and then one in each 60/β seconds: a bucket of β that drips, and ever more slowly while what it
/// lets through comes back.
///
/// That is ours. The published rule lets β a minute through at each of the nodes that hand puts on to the nearest, and
/// random ids give some keys three times the ⌈log2 n⌉ of those that a balanced tree would have. A put that was turned back
/// is stored at the node before; told so, that node knows that the values ahead are fresh enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    /// When the bucket is full again; each put moves it by a drip.
    full_again: Instant,
    /// A drip takes 2^slowed times as long as it should.
    slowed: u8,
    /// What was last let through has come back.
    came_back: bool,
}

impl Meter {
    /// After so long without a put a meter is as new.
    const SPAN: Duration = Duration::from_secs(60);
    /// The slowest is a put in 80 s, if β is 12: values that live a minute or more stay fresh.
    const MOST_SLOWED: u8 = 4;

    pub(crate) fn new(now: Instant) -> Self {
        Self { full_again: now, slowed: 0, came_back: false }
    }

    /// Whether one more may pass at `now`; counts it if so.
    pub(crate) fn take(&mut self, config: &Config, now: Instant) -> bool {
        let drip = (Self::SPAN / config.loaded_puts_per_minute.get()) * (1 << self.slowed);
        let next = self.full_again.max(now) + drip;
        let allowed = next <= now + Self::SPAN.max(drip);
        if allowed {
            self.full_again = next;
            if !std::mem::take(&mut self.came_back) {
                self.slowed = self.slowed.saturating_sub(1);
            }
        }
        allowed
    }

    /// What was let through was turned back by a node ahead. Counts once for each that was let through.
    pub(crate) fn push_back(&mut self) {
        if !self.came_back {
            self.came_back = true;
            self.slowed = (self.slowed + 1).min(Self::MOST_SLOWED);
        }
    }

    /// Whether it is as a new one.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.full_again <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn value(number: usize) -> Value {
        Value::new(&number.to_be_bytes()).unwrap()
    }

    /// A store in which `count` values were put at the start, each for `ttl`.
    fn store_of(count: usize, ttl: Duration) -> (Config, Store, Key) {
        let (config, key) = (Config::default(), Key::hash(&[b"key"]));
        let mut store = Store::default();
        for number in 0..count {
            store.put(&config, at(0), (Level::GLOBAL, key), (value(number), ttl), OWNER);
        }
        (config, store, key)
    }

    #[test]
    fn four_values_that_last_make_a_key_full() {
        let (config, store, key) = store_of(4, HOUR);
        assert!(store.is_full(&config, at(0), Level::GLOBAL, &key, HOUR));
        assert!(store.is_full(&config, at(1800), Level::GLOBAL, &key, HOUR));
        // With less than half of the new value's life left they no longer count.
        assert!(!store.is_full(&config, at(1801), Level::GLOBAL, &key, HOUR));
        let (config, store, key) = store_of(3, HOUR);
        assert!(!store.is_full(&config, at(0), Level::GLOBAL, &key, HOUR));
    }

    #[test]
    fn the_thirteenth_put_of_a_minute_finds_the_node_loaded() {
        let (config, mut store, key) = store_of(0, HOUR);
        let loaded: Vec<bool> = (0..14).map(|_| store.count_put(&config, at(0), Level::GLOBAL, key)).collect();
        assert_eq!(loaded.iter().filter(|loaded| !**loaded).count(), 12);
        assert!(loaded[12] && loaded[13]);
        // The leak: one more after 60/β = 5 s, however many ask.
        assert!(!store.count_put(&config, at(5), Level::GLOBAL, key));
        assert!(store.count_put(&config, at(5), Level::GLOBAL, key));
    }

    #[test]
    fn a_node_lets_through_less_while_it_comes_back_and_more_when_it_no_longer_does() {
        let config = Config::default();
        let mut meter = Meter::new(at(0));
        while meter.take(&config, at(0)) {}
        // How many it lets through in ten minutes of a put each second, all or none of which come back.
        let mut let_through = |from: u64, comes_back: bool| {
            let taken = (from..from + 600).filter(|second| {
                let taken = meter.take(&config, at(*second));
                if taken && comes_back {
                    meter.push_back();
                    meter.push_back();
                }
                taken
            });
            taken.count()
        };
        assert_eq!(let_through(1, false), 120);
        assert!((8..20).contains(&let_through(601, true)));
        assert!(let_through(1201, false) > 80);
    }

    #[test]
    fn a_value_ends_with_its_ttl_and_leaves_nothing_behind() {
        let (config, mut store, key) = store_of(2, HOUR);
        store.count_put(&config, at(0), Level::GLOBAL, key);
        assert_eq!(store.values(at(3599), Level::GLOBAL, &key).len(), 2);
        assert_eq!(store.values(at(3600), Level::GLOBAL, &key).len(), 0);
        store.sweep(at(3600));
        assert_eq!((store.len(), store.keys()), (0, 0));
        assert!(store.slots.is_empty() && store.expiries.is_empty());
    }

    #[test]
    fn a_value_put_again_is_renewed_not_doubled() {
        let (config, mut store, key) = store_of(1, HOUR);
        store.put(&config, at(1800), (Level::GLOBAL, key), (value(0), HOUR), OWNER);
        assert_eq!(store.len(), 1);
        store.sweep(at(3600));
        assert_eq!(store.values(at(5399), Level::GLOBAL, &key).len(), 1);
    }

    #[test]
    fn only_its_owner_removes_or_shortens_a_value() {
        let (config, mut store, key) = store_of(1, HOUR);
        assert!(!store.remove(Level::GLOBAL, &key, &value(0), OTHER));
        store.put(&config, at(0), (Level::GLOBAL, key), (value(0), Duration::from_secs(1)), OTHER);
        assert_eq!(store.values(at(3599), Level::GLOBAL, &key).len(), 1);
        assert!(store.remove(Level::GLOBAL, &key, &value(0), OWNER));
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn a_crowded_key_keeps_the_values_that_live_longest() {
        let (config, mut store, key) = store_of(16, HOUR);
        let put = |store: &mut Store, number, ttl| {
            store.put(&config, at(0), (Level::GLOBAL, key), (value(number), ttl), OWNER)
        };
        assert!(!put(&mut store, 100, HOUR / 2));
        assert!(put(&mut store, 101, HOUR * 2));
        assert_eq!(store.len(), 16);
        assert_eq!(store.values(at(0), Level::GLOBAL, &key)[0], value(101));
    }

    #[test]
    fn a_flood_of_keys_costs_bounded_memory() {
        let config = Config { stored_values: 10, ..Config::default() };
        let mut store = Store::default();
        for number in 0..1000 {
            let key = Key::hash(&[value(number).as_bytes()]);
            store.count_put(&config, at(0), Level::GLOBAL, key);
            store.put(&config, at(0), (Level::GLOBAL, key), (value(number), HOUR), OWNER);
        }
        assert_eq!((store.len(), store.slots.len()), (10, 10));
    }

    /// Seen with one datagram sent 300,000 times, which cost 19 MB for a day.
    #[test]
    fn a_put_that_is_repeated_or_withdrawn_costs_no_memory() {
        let config = Config::default();
        let mut store = Store::default();
        let key = |number: u64| Key::hash(&[&number.to_be_bytes()]);
        for second in 0..1000 {
            store.put(&config, at(second), (Level::GLOBAL, key(0)), (value(0), HOUR), OWNER);
            store.count_put(&config, at(second), Level::GLOBAL, key(0));
            store.put(&config, at(second), (Level::GLOBAL, key(1 + second)), (value(0), HOUR), OWNER);
            store.remove(Level::GLOBAL, &key(1 + second), &value(0), OWNER);
        }
        assert_eq!((store.slots.len(), store.expiries.len()), (1, 1));
        // Swept before the value ends, the slot is kept, and swept again when it does.
        store.sweep(at(3600));
        assert_eq!((store.len(), store.slots.len(), store.expiries.len()), (1, 1, 1));
        store.sweep(at(999 + 3600));
        assert_eq!((store.len(), store.slots.len(), store.expiries.len()), (0, 0, 0));
    }

    #[test]
    fn levels_do_not_mix() {
        let (_, store, key) = store_of(1, HOUR);
        assert_eq!(store.values(at(0), Level::new(1).unwrap(), &key), []);
    }
}
