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

/// Everything that this node stores, at all levels.
#[derive(Debug, Default)]
pub(crate) struct Store {
    slots: BTreeMap<(Level, Key), Slot>,
    /// When something of which slot ends, so that the dead are swept without a walk over the living. One entry for each
    /// slot, however often it is put to.
    expiries: BTreeSet<(Instant, Level, Key)>,
    quota: Quota,
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
    /// Its owner has claimed the key, and does not have yet what it stands for.
    is_claim: bool,
    /// How many claimants were given it first.
    given: u32,
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

    /// Whom a claimant may fetch from: a few values of others, the one it should try first in front. `None` if there are
    /// none and this is not where the search ends (`is_last`); none at all if the claimant is the first.
    ///
    /// Either way it is recorded behind those that came before it, and is given to later ones in its turn: each is given
    /// to `config.claim_fan_out` of them before the next one is, so that a crowd becomes a tree. A claimant that asks again
    /// is given nobody who might be waiting for it: of those that only claim, only those that came before it.
    pub(crate) fn claim(
        &mut self,
        config: &Config,
        now: Instant,
        (level, key): (Level, Key),
        entry: Entry,
        refused: &[Value],
        is_last: bool,
    ) -> Option<Vec<Value>> {
        let Entry { value, ttl, owner } = entry;
        let room = self.quota.admits(config, owner);
        let may_enter = self.slots.contains_key(&(level, key)) || (is_last && room);
        if !may_enter {
            // Without room there is no order among claimants either: each is the first.
            return is_last.then(Vec::new);
        }
        let slot = self.slots.entry((level, key)).or_default();
        slot.drop_ended(now, &mut self.quota);
        let mine = slot.values.iter().position(|stored| stored.value.is_same(&value) && stored.owner == owner);
        let given = slot.give(value_filter(&value, refused), mine, config);
        let recorded = if given.is_empty() && !is_last {
            None
        } else {
            slot.record(
                &mut self.quota,
                room,
                config.claim_fan_out.get(),
                mine,
                StoredValue {
                    value,
                    expires: now + ttl.min(config.max_ttl).min(LONGEST_CLAIM),
                    owner,
                    is_claim: true,
                    given: 0,
                },
            )
        };
        if let Some(expires) = recorded {
            self.schedule(level, key, expires);
        }
        (is_last || !given.is_empty()).then_some(given)
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

fn value_filter<'a>(mine: &'a Value, refused: &'a [Value]) -> impl Fn(&Value) -> bool + 'a {
    move |value| !value.is_same(mine) && !refused.iter().any(|refused| refused.is_same(value))
}

impl Slot {
    /// What a claimant, recorded at place `mine` if it has been here before, is given of the values that are `of_use`.
    fn give(&mut self, of_use: impl Fn(&Value) -> bool, mine: Option<usize>, config: &Config) -> Vec<Value> {
        let fan_out = config.claim_fan_out.get();
        let is_before = |index: usize| mine.is_none_or(|mine| index < mine);
        let mut candidates: Vec<usize> = (0..self.values.len())
            .filter(|index| of_use(&self.values[*index].value) && (!self.values[*index].is_claim || is_before(*index)))
            .collect();
        // In the order in which they came; those that have been given often enough last, the least given first.
        candidates.sort_by_key(|index| Some(self.values[*index].given).filter(|given| *given >= fan_out));
        candidates.truncate(config.values_in_answer());
        if let Some(first) = candidates.first() {
            self.values[*first].given += 1;
        }
        candidates.into_iter().map(|index| self.values[index].value.clone()).collect()
    }

    /// Notes a claim behind those before it, or at its place `mine` again: until when, or `None` if there is no room.
    fn record(
        &mut self,
        quota: &mut Quota,
        room: bool,
        fan_out: u32,
        mine: Option<usize>,
        claim: StoredValue,
    ) -> Option<Instant> {
        let expires = claim.expires;
        if let Some(mine) = mine {
            let stored = &mut self.values[mine];
            stored.expires = stored.expires.max(expires);
            return Some(expires);
        }
        if self.values.len() >= CLAIMS_PER_KEY {
            let spent = self.values.iter().position(|stored| stored.is_claim && stored.given >= fan_out)?;
            quota.drop(self.values.remove(spent).owner);
        } else if !room {
            return None;
        }
        quota.add(claim.owner);
        self.reserve_for_one();
        self.values.push(claim);
        Some(expires)
    }

    /// Which value is to make room for `new`: the one that ends first of the network that has most of them here. Within
    /// its own network `new` must outlive it.
    fn displaced_by(&self, new: &StoredValue) -> Option<usize> {
        let (crowding, must_outlive) = Quota::crowding(self.values.iter().map(|stored| stored.owner), new.owner);
        let index = crowding.into_iter().min_by_key(|index| self.values[*index].expires)?;
        (!must_outlive || self.values[index].expires < new.expires).then_some(index)
    }

    /// Most keys have a single value: room for four, which a vector begins with, would be three quarters of the memory.
    fn reserve_for_one(&mut self) {
        if self.values.is_empty() {
            self.values.reserve_exact(1);
        }
    }

    /// Forgets what has ended by `now`.
    fn drop_ended(&mut self, now: Instant, quota: &mut Quota) {
        self.values.retain(|stored| {
            let lives = stored.expires > now;
            if !lives {
                quota.drop(stored.owner);
            }
            lives
        });
    }

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

/// The longest a claim lives without being renewed, whatever its owner asks for.
const LONGEST_CLAIM: Duration = Duration::from_secs(60);
/// Values under one key, at one level, that claims may fill: a crowd of 64 · `claim_fan_out` that comes in one instant
/// becomes a tree as flat as can be, a larger one somewhat deeper.
const CLAIMS_PER_KEY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn value(number: usize) -> Value {
        Value::new(&number.to_be_bytes()).unwrap()
    }

    fn entry(number: usize, ttl: Duration, owner: IpAddr) -> Entry {
        Entry { value: value(number), ttl, owner }
    }

    /// A store in which `count` values were put at the start, each for `ttl`.
    fn store_of(count: usize, ttl: Duration) -> (Config, Store, Key) {
        let (config, key) = (Config::default(), Key::hash(&[b"key"]));
        let mut store = Store::default();
        for number in 0..count {
            store.put(&config, at(0), (Level::GLOBAL, key), entry(number, ttl, OWNER));
        }
        (config, store, key)
    }

    #[test]
    fn one_address_is_named_once_and_by_the_last_value_that_was_put() {
        let (config, mut store, key) = store_of(0, HOUR);
        let at_key = (Level::GLOBAL, key);
        let named = |host: u8, more: &[u8]| Value::naming_with(b'h', ([192, 0, 2, host], 80).into(), more).unwrap();
        let entry = |value: &Value, ttl| Entry { value: value.clone(), ttl, owner: OWNER };
        let [plain, first, second] = [&b""[..], b"first", b"second"].map(|more| named(1, more));
        assert!(store.claim(&config, at(0), at_key, entry(&plain, SECOND), &[], true).is_some());
        for value in [&first, &second] {
            assert!(store.put(&config, at(0), at_key, entry(value, HOUR)));
            assert_eq!(store.values(at(0), Level::GLOBAL, &key), std::slice::from_ref(value));
        }
        // A claim does not take away what is known.
        assert_eq!(store.claim(&config, at(1), at_key, entry(&plain, SECOND), &[], true), Some(vec![]));
        let other = Entry { value: named(2, b""), ttl: SECOND, owner: OTHER };
        assert_eq!(store.claim(&config, at(1), at_key, other, &[], true), Some(vec![second.clone()]));
        let other = Entry { value: named(2, b""), ttl: SECOND, owner: OTHER };
        assert_eq!(store.claim(&config, at(1), at_key, other, &[first], true), Some(vec![]), "refused by its address");
        assert!(store.remove(Level::GLOBAL, &key, &plain, OWNER));
        assert_eq!(store.len(), 1);
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

    /// Node `number` claims `key` at the end of its search and refuses `refused`; the numbers that it is given.
    fn claim(store: &mut Store, now: u64, key: Key, number: usize, refused: &[usize]) -> Vec<usize> {
        let refused: Vec<Value> = refused.iter().map(|number| value(*number)).collect();
        let entry = entry(number, 20 * SECOND, OWNER);
        let given = store.claim(&Config::default(), at(now), (Level::GLOBAL, key), entry, &refused, true);
        let number = |value: Value| usize::from_be_bytes(value.as_bytes().try_into().unwrap());
        given.unwrap().into_iter().map(number).collect()
    }

    #[test]
    fn a_crowd_of_claimants_becomes_a_tree() {
        let (_, mut store, key) = store_of(0, HOUR);
        let parents: Vec<Option<usize>> =
            (0..21).map(|number| claim(&mut store, 0, key, number, &[]).first().copied()).collect();
        assert_eq!(parents[0], None);
        for (number, parent) in parents.iter().enumerate().skip(1) {
            // Each serves four, in the order in which they came.
            assert_eq!(*parent, Some((number - 1) / 4));
        }
    }

    #[test]
    fn a_claim_is_only_recorded_where_the_search_ends() {
        let (config, mut store, key) = store_of(0, HOUR);
        let on_the_way = store.claim(&config, at(0), (Level::GLOBAL, key), entry(0, HOUR, OWNER), &[], false);
        assert_eq!(on_the_way, None);
        assert_eq!((store.len(), store.slots.len()), (0, 0));
        assert_eq!(claim(&mut store, 0, key, 1, &[]), []);
    }

    #[test]
    fn a_claimant_that_does_not_answer_is_replaced_by_the_first_to_say_so() {
        let (_, mut store, key) = store_of(0, HOUR);
        for number in 0..3 {
            claim(&mut store, 0, key, number, &[]);
        }
        // Whoever asks again is not sent to those that may be waiting for it.
        assert_eq!(claim(&mut store, 1, key, 1, &[0]), []);
        assert_eq!(claim(&mut store, 1, key, 2, &[0]), [1]);
        assert_eq!(claim(&mut store, 1, key, 3, &[0]), [1, 2]);
    }

    #[test]
    fn a_claim_ends_with_its_time_and_a_put_makes_it_last() {
        let (config, mut store, key) = store_of(0, HOUR);
        claim(&mut store, 0, key, 0, &[]);
        assert_eq!(claim(&mut store, 19, key, 1, &[]), [0]);
        assert_eq!(claim(&mut store, 21, key, 2, &[]), [1]);
        store.put(&config, at(22), (Level::GLOBAL, key), entry(2, HOUR, OWNER));
        // It has it now: it is given to those that came before it, too.
        assert_eq!(claim(&mut store, 23, key, 1, &[]), [2]);
        assert_eq!(claim(&mut store, 100, key, 3, &[]), [2]);
    }

    #[test]
    fn a_crowd_without_end_fills_no_more_than_its_share() {
        let (_, mut store, key) = store_of(0, HOUR);
        for number in 0..10_000 {
            let given = claim(&mut store, 0, key, number, &[]);
            assert!(number == 0 || given[0] < number);
        }
        assert_eq!(store.len(), CLAIMS_PER_KEY);
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
        store.put(&config, at(1800), (Level::GLOBAL, key), entry(0, HOUR, OWNER));
        assert_eq!(store.len(), 1);
        store.sweep(at(3600));
        assert_eq!(store.values(at(5399), Level::GLOBAL, &key).len(), 1);
    }

    #[test]
    fn only_its_owner_removes_or_shortens_a_value() {
        let (config, mut store, key) = store_of(1, HOUR);
        assert!(!store.remove(Level::GLOBAL, &key, &value(0), OTHER));
        store.put(
            &config,
            at(0),
            (Level::GLOBAL, key),
            Entry { owner: OTHER, ..entry(0, Duration::from_secs(1), OWNER) },
        );
        assert_eq!(store.values(at(3599), Level::GLOBAL, &key).len(), 1);
        assert!(store.remove(Level::GLOBAL, &key, &value(0), OWNER));
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn a_crowded_key_keeps_the_values_that_live_longest() {
        let (config, mut store, key) = store_of(16, HOUR);
        let put =
            |store: &mut Store, number, ttl| store.put(&config, at(0), (Level::GLOBAL, key), entry(number, ttl, OWNER));
        assert!(!put(&mut store, 100, HOUR / 2));
        assert!(put(&mut store, 101, HOUR * 2));
        assert_eq!(store.len(), 16);
        assert_eq!(store.values(at(0), Level::GLOBAL, &key)[0], value(101));
    }

    #[test]
    fn one_network_crowds_nobody_out_of_a_key() {
        let (config, mut store, key) = store_of(16, 24 * HOUR);
        let distant = |last: u8| IpAddr::from([198, 51, 100, last]);
        let put = |store: &mut Store, number, owner| {
            store.put(&config, at(0), (Level::GLOBAL, key), entry(number, SECOND, owner))
        };
        for number in 100..108 {
            assert!(put(&mut store, number, distant(number as u8)));
        }
        // Half of the key each. Within a network it is the same with addresses: four each for these two.
        let taken = (200..210).filter(|number| put(&mut store, *number, OTHER)).count();
        assert_eq!(taken, 4);
        // From now on the longer life counts.
        assert!(!put(&mut store, 300, OWNER));
        assert_eq!(store.len(), 16);
        assert_eq!(store.quota.len(), store.slots[&(Level::GLOBAL, key)].values.len());
    }

    #[test]
    fn one_address_and_one_network_fill_no_more_than_their_share() {
        let few = |number: u32| std::num::NonZeroU32::new(number).unwrap();
        let config =
            Config { stored_values: 100, values_per_address: few(20), values_per_prefix: few(30), ..Config::default() };
        let mut store = Store::default();
        let mut number = 0;
        let mut fill = |store: &mut Store, owner: IpAddr| {
            let stored = (0..200).filter(|_| {
                number += 1;
                let key = Key::hash(&[value(number).as_bytes()]);
                store.put(&config, at(0), (Level::GLOBAL, key), entry(number, HOUR, owner))
            });
            stored.count()
        };
        // Nobody is refused while half of the store is empty.
        assert_eq!(fill(&mut store, OWNER), 50);
        assert_eq!(fill(&mut store, OTHER), 0, "its network has its share");
        assert_eq!(fill(&mut store, [198, 51, 100, 1].into()), 20);
        assert_eq!(fill(&mut store, [198, 51, 100, 2].into()), 10);
        assert_eq!(fill(&mut store, [203, 0, 113, 1].into()), 20);
        assert_eq!(fill(&mut store, [192, 0, 3, 1].into()), 0);
        store.sweep(at(3600));
        assert_eq!(format!("{:?}", store.quota), format!("{:?}", Quota::default()));
    }

    #[test]
    fn a_flood_of_keys_costs_bounded_memory() {
        let config = Config { stored_values: 10, ..Config::default() };
        let mut store = Store::default();
        for number in 0..1000 {
            let key = Key::hash(&[value(number).as_bytes()]);
            store.count_put(&config, at(0), Level::GLOBAL, key);
            store.put(&config, at(0), (Level::GLOBAL, key), entry(number, HOUR, OWNER));
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
            store.put(&config, at(second), (Level::GLOBAL, key(0)), entry(0, HOUR, OWNER));
            store.count_put(&config, at(second), Level::GLOBAL, key(0));
            store.put(&config, at(second), (Level::GLOBAL, key(1 + second)), entry(0, HOUR, OWNER));
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
