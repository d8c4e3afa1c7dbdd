//! What is known of clients, by their prefix (/24, /48): how far each is, who is near it, and what was promised about it.
//!
//! Read for each query, on all cores at once, and written by the tasks that measure. So a thread that reads takes a part of
//! a lock that is its own: a busy resolver's entry is read everywhere without a word between the cores. The map is split, so
//! that writing to one part holds up few readers. A bounded number is remembered, the oldest giving way, as anybody can make
//! up source addresses, and the keys are hashed with a secret. Knows no clock and sends nothing.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_utils::sync::ShardedLock;
use foldhash::quality::RandomState;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::near::Near;
use crate::proximity::{Client, PrefixKey};

/// Parts of the map.
const SHARDS: usize = 64;

/// Everything known of clients.
#[derive(Debug)]
pub struct Clients {
    shards: Vec<ShardedLock<Shard>>,
    hasher: RandomState,
    /// How long a measured round-trip time is good.
    ttl: Duration,
    /// What instants count from where they are kept as a number.
    start: Instant,
}

#[derive(Debug)]
struct Shard {
    capacity: usize,
    entries: HashMap<PrefixKey, Entry, RandomState>,
    /// The keys of `entries`, each once, in the order in which they came.
    order: VecDeque<PrefixKey>,
}

/// What each query reads: with its key within a cache line, as it comes from memory for a client who has not asked lately.
#[derive(Debug)]
struct Entry {
    rtt: Option<Duration>,
    /// When it was last known how far the prefix is, that it does not answer included.
    measured: Option<Instant>,
    /// When somebody of it last asked this node for something, in milliseconds from the start; zero if nobody has, or nobody
    /// looks after it any more.
    asked: AtomicU64,
    /// What most prefixes have nothing of.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    /// There while a measurement is under way: for those who wait for its end.
    under_way: Option<Arc<Notify>>,
    /// The nodes near it.
    near: Option<Found>,
    duty: Option<Duty>,
}

/// Nodes near a prefix, as a search has found them.
#[derive(Debug)]
struct Found {
    near: Arc<Near>,
    /// When: they lived.
    at: Instant,
    /// How long that may be relied on.
    until: Instant,
}

/// A promise: until then this node answers the resolvers of a prefix, and refers them to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    /// When it ends.
    pub until: Instant,
    /// The node that has asked for it, and that is named beside this one as the last resort.
    pub distant: IpAddr,
}

/// What one process has of a prefix for another that takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recollection {
    /// The prefix.
    pub prefix: IpNetwork,
    /// How far it is, if that was measured and is good still.
    pub measured: Option<Measured>,
    /// What was promised about it, if that holds still.
    pub promised: Option<Promised>,
}

/// A measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The round-trip time; `None` if nobody answered.
    pub rtt: Option<Duration>,
    /// How long ago it ended.
    pub ago: Duration,
}

/// A [`Duty`], without a clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// How long it still holds.
    pub left: Duration,
    /// As in [`Duty`].
    pub distant: IpAddr,
}

impl Recollection {
    /// That `prefix` is so far away, as was measured just now.
    pub fn of_rtt(prefix: IpNetwork, rtt: Duration) -> Self {
        Self { prefix, measured: Some(Measured { rtt: Some(rtt), ago: Duration::ZERO }), promised: None }
    }
}

/// What is known of one prefix.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The round-trip time from this node, if it was measured and the prefix answers.
    pub rtt: Option<Duration>,
    /// Whether it was ever measured: what is old serves until it is known better.
    pub is_measured: bool,
    /// Whether it is time to measure (again).
    pub is_wanted: bool,
    /// Whether somebody of it asks for the first time.
    pub is_new: bool,
    /// The nodes near it.
    pub near: Option<Arc<Near>>,
    /// How long ago they were last heard from, if there are any.
    pub near_age: Duration,
    /// What was promised, if that holds still.
    pub duty: Option<Duty>,
}

impl Clients {
    /// None yet. Of at most about `capacity` prefixes something is remembered; how far one is, for `ttl`.
    pub fn new(ttl: Duration, capacity: usize, now: Instant) -> Self {
        let capacity = capacity.div_ceil(SHARDS).max(1);
        let hasher = RandomState::default();
        let shard = || {
            let entries = HashMap::with_hasher(hasher.clone());
            ShardedLock::new(Shard { capacity, entries, order: VecDeque::new() })
        };
        Self { shards: std::iter::repeat_with(shard).take(SHARDS).collect(), hasher, ttl, start: now }
    }

    fn shard(&self, key: PrefixKey) -> &ShardedLock<Shard> {
        // By other bits than those that a part places its entries by.
        &self.shards[(self.hasher.hash_one(key) >> 48) as usize % SHARDS]
    }

    fn read<T>(&self, key: PrefixKey, read: impl FnOnce(&Entry) -> T) -> Option<T> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        shard.entries.get(&key).map(read)
    }

    fn write<T>(&self, key: PrefixKey, write: impl FnOnce(&mut Entry) -> T) -> T {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        write(shard.entry(key))
    }

    /// Changes the entry of `key`, if there is one.
    fn change(&self, key: PrefixKey, change: impl FnOnce(&mut Entry)) {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = shard.entries.get_mut(&key) {
            change(entry);
        }
    }

    /// What is known of `key`, of whom somebody asks: that is noted.
    pub fn look_up(&self, now: Instant, key: PrefixKey) -> Known {
        self.known(now, key, Some(self.millis(now)))
    }

    /// What is known of `key`, without a trace.
    pub fn peek(&self, now: Instant, key: PrefixKey) -> Known {
        self.known(now, key, None)
    }

    fn known(&self, now: Instant, key: PrefixKey, asked: Option<u64>) -> Known {
        let known = self.read(key, |entry| {
            let is_new = asked.is_some_and(|asked| entry.note(asked));
            let more = entry.more.as_deref();
            let found = more.and_then(|more| more.near.as_ref()).filter(|found| now < found.until);
            Known {
                rtt: entry.rtt,
                is_measured: entry.measured.is_some(),
                is_wanted: !self.is_measured(now, entry) && entry.under_way().is_none(),
                is_new,
                near: found.map(|found| Arc::clone(&found.near)),
                near_age: found.map_or(Duration::ZERO, |found| now.saturating_duration_since(found.at)),
                duty: more.and_then(|more| more.duty).filter(|duty| now < duty.until),
            }
        });
        known.unwrap_or(Known { is_wanted: true, is_new: true, ..Known::default() })
    }

    /// Whether somebody of the prefix has asked something since `then`.
    pub fn has_asked_since(&self, then: Instant, key: PrefixKey) -> bool {
        let then = self.millis(then);
        self.read(key, |entry| entry.asked.load(Ordering::Relaxed) >= then).unwrap_or(false)
    }

    fn millis(&self, at: Instant) -> u64 {
        // From 1 on: zero means never.
        at.saturating_duration_since(self.start).as_millis() as u64 + 1
    }

    /// Whether somebody of the prefix has asked this node for something, and it is looked after.
    pub fn is_asked(&self, key: PrefixKey) -> bool {
        self.read(key, |entry| entry.asked.load(Ordering::Relaxed) > 0).unwrap_or(false)
    }

    /// Looks after the prefix no more, until somebody of it asks again.
    pub fn leave(&self, key: PrefixKey) {
        self.change(key, |entry| {
            entry.change(|more| more.near = None);
            *entry.asked.get_mut() = 0;
        });
    }

    /// Notes that a measurement begins, on account of somebody of the prefix or, if not `is_asked`, of another node. False,
    /// and nothing is noted, if one is under way or the last is still good.
    pub fn begin(&self, now: Instant, key: PrefixKey, is_asked: bool) -> bool {
        self.write(key, |entry| {
            if entry.under_way().is_some() || self.is_measured(now, entry) {
                return false;
            }
            entry.change(|more| more.under_way = Some(Arc::default()));
            if is_asked {
                *entry.asked.get_mut() = self.millis(now);
            }
            true
        })
    }

    /// Notes how a measurement ended. Without effect if the prefix had to give way meanwhile.
    pub fn end(&self, now: Instant, key: PrefixKey, rtt: Option<Duration>) {
        self.change(key, |entry| {
            entry.rtt = rtt;
            entry.measured = Some(now);
            entry.change(More::release);
        });
    }

    /// Notes a round-trip time that something else than a measurement has shown: a real client of this node's cache. The
    /// least counts, as all that delays on the way only adds.
    pub fn observe(&self, now: Instant, key: PrefixKey, rtt: Duration) {
        self.write(key, |entry| {
            entry.rtt = match entry.rtt {
                Some(known) if self.is_measured(now, entry) => Some(known.min(rtt)),
                _ => Some(rtt),
            };
            entry.measured = Some(now);
        });
    }

    /// Notes who is near the prefix now, to be relied on for so long; `None` if nobody is, or is there any more.
    pub fn set_near(&self, now: Instant, key: PrefixKey, near: Option<Near>, reliance: Duration) {
        let found = near.map(|near| Found { near: Arc::new(near), at: now, until: now + reliance });
        self.change(key, |entry| entry.change(|more| more.near = found));
    }

    /// Notes a promise; a longer one that holds already stays.
    pub fn promise(&self, key: PrefixKey, duty: Duty) {
        let promise = |more: &mut More| {
            if more.duty.is_none_or(|known| known.until <= duty.until) {
                more.duty = Some(duty);
            }
        };
        self.write(key, |entry| entry.change(promise));
    }

    /// What another process can go on with: of `most` prefixes, those first of which something was promised, then those that were
    /// measured last.
    pub fn recall(&self, now: Instant, most: usize) -> Vec<Recollection> {
        let mut recalled = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            recalled.extend(shard.entries.iter().filter_map(|(key, entry)| {
                let duty = entry.more.as_ref().and_then(|more| more.duty).filter(|duty| now < duty.until);
                let measured = entry.measured.filter(|_| self.is_measured(now, entry));
                (duty.is_some() || measured.is_some()).then(|| Recollection {
                    prefix: key.prefix(),
                    measured: measured.map(|at| Measured { rtt: entry.rtt, ago: now.saturating_duration_since(at) }),
                    promised: duty.map(|duty| Promised {
                        left: duty.until.saturating_duration_since(now),
                        distant: duty.distant,
                    }),
                })
            }));
        }
        recalled.sort_by_key(|one| {
            (one.promised.is_none(), one.measured.as_ref().map(|measured| measured.ago), one.prefix)
        });
        recalled.truncate(most);
        recalled
    }

    /// Takes over what another process has recalled.
    pub fn remember(&self, now: Instant, recalled: &Recollection) {
        let key = Client::of(recalled.prefix).key();
        if let Some(Measured { rtt, ago }) = recalled.measured
            && let Some(at) = now.checked_sub(ago)
        {
            self.write(key, |entry| {
                entry.rtt = rtt;
                entry.measured = Some(at);
            });
        }
        if let Some(Promised { left, distant }) = recalled.promised
            && let Some(until) = now.checked_add(left)
        {
            self.promise(key, Duty { until, distant });
        }
    }

    /// Waits until the measurement of `key` that is under way has ended, if there is one.
    pub async fn measured(&self, key: PrefixKey) {
        let Some(waiting) = self.read(key, |entry| entry.under_way().cloned()).flatten() else {
            return;
        };
        let mut ended = std::pin::pin!(waiting.notified());
        ended.as_mut().enable();
        // It may have ended in between.
        if self.read(key, |entry| entry.under_way().is_some()).unwrap_or(false) {
            ended.await;
        }
    }

    /// The number of prefixes of which something is remembered.
    pub fn len(&self) -> usize {
        let length = |shard: &ShardedLock<Shard>| shard.read().unwrap_or_else(PoisonError::into_inner).entries.len();
        self.shards.iter().map(length).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_measured(&self, now: Instant, entry: &Entry) -> bool {
        entry.measured.is_some_and(|at| now.saturating_duration_since(at) < self.ttl)
    }
}

impl More {
    fn is_empty(&self) -> bool {
        self.under_way.is_none() && self.near.is_none() && self.duty.is_none()
    }

    /// Tells those who wait for a measurement that there is nothing more to wait for.
    fn release(&mut self) {
        if let Some(waiting) = self.under_way.take() {
            waiting.notify_waiters();
        }
    }
}

impl Entry {
    fn under_way(&self) -> Option<&Arc<Notify>> {
        self.more.as_ref().and_then(|more| more.under_way.as_ref())
    }

    /// Changes what few prefixes have, which takes up memory as long as there is some of it.
    fn change(&mut self, change: impl FnOnce(&mut More)) {
        let more = self.more.get_or_insert_default();
        change(more);
        if more.is_empty() {
            self.more = None;
        }
    }

    /// Notes that somebody asks at this time. True if nobody has before.
    fn note(&self, asked: u64) -> bool {
        let before = self.asked.load(Ordering::Relaxed);
        // A busy resolver's entry stays in the caches of all cores for as long as the time is the same.
        before != asked && self.asked.swap(asked, Ordering::Relaxed) == 0
    }
}

impl Shard {
    /// The entry of `key`, made if there is none.
    fn entry(&mut self, key: PrefixKey) -> &mut Entry {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= self.capacity
                && let Some(oldest) = self.order.pop_front()
                && let Some(mut entry) = self.entries.remove(&oldest)
            {
                entry.change(More::release);
            }
            self.order.push_back(key);
        }
        self.entries.entry(key).or_insert_with(|| Entry {
            rtt: None,
            measured: None,
            asked: AtomicU64::new(0),
            more: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proximity::Client;

    const TTL: Duration = Duration::from_secs(600);
    const RTT: Option<Duration> = Some(Duration::from_millis(7));

    fn key(address: &str) -> PrefixKey {
        Client::new(address.parse().unwrap(), None).key()
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_is_measured_once_at_a_time_and_again_when_it_is_old() {
        let (now, key) = (Instant::now(), key("192.0.2.1"));
        let clients = Clients::new(TTL, 9, now);
        let look_up = |at| {
            let known = clients.look_up(at, key);
            (known.rtt, known.is_measured, known.is_wanted)
        };
        assert_eq!(look_up(now), (None, false, true));
        assert!(clients.begin(now, key, true));
        assert!(!clients.begin(now + 2 * TTL, key, true));
        assert_eq!(look_up(now), (None, false, false));
        clients.end(now, key, RTT);
        assert_eq!(look_up(now), (RTT, true, false));
        assert_eq!(look_up(now + TTL), (RTT, true, true), "what is old serves until it is known better");
        assert!(clients.begin(now + TTL, key, true));
        assert_eq!(look_up(now + TTL), (RTT, true, false));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_prefix_gives_way_and_whoever_waits_for_it_is_told() {
        let now = Instant::now();
        let clients = Clients::new(TTL, SHARDS, now);
        for number in 0..10_000_u32 {
            let key = Client::new(std::net::Ipv4Addr::from(0x0b00_0000 + (number << 8)).into(), None).key();
            assert!(clients.begin(now, key, true));
        }
        assert_eq!(clients.len(), SHARDS);
        let first = key("11.0.0.1");
        assert!(!clients.look_up(now, first).is_measured);
        clients.measured(first).await;
        clients.end(now, first, RTT);
        assert_eq!(clients.len(), SHARDS);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_when_the_measurement_ends() {
        let (now, key) = (Instant::now(), key("192.0.2.1"));
        let clients = Arc::new(Clients::new(TTL, 9, now));
        clients.measured(key).await;
        clients.begin(now, key, true);
        let waiting = tokio::spawn({
            let clients = Arc::clone(&clients);
            async move { clients.measured(key).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        clients.end(now, key, None);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_real_client_shows_counts_if_it_is_less() {
        let (now, key) = (Instant::now(), key("192.0.2.1"));
        let clients = Clients::new(TTL, 9, now);
        for (shown, known) in [(9, 9), (7, 7), (8, 7)] {
            clients.observe(now, key, Duration::from_millis(shown));
            assert_eq!(clients.look_up(now, key).rtt, Some(Duration::from_millis(known)));
        }
        clients.observe(now + TTL, key, Duration::from_millis(8));
        assert_eq!(clients.look_up(now, key).rtt, Some(Duration::from_millis(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_is_told_from_whom_others_ask_about() {
        let (now, key) = (Instant::now(), key("192.0.2.1"));
        let clients = Clients::new(TTL, 9, now);
        clients.begin(now, key, false);
        clients.end(now, key, RTT);
        clients.peek(now, key);
        assert!(!clients.is_asked(key));
        assert_eq!([now, now].map(|now| clients.look_up(now, key).is_new), [true, false]);
        assert!(clients.is_asked(key) && clients.has_asked_since(now, key));
        clients.leave(key);
        assert!(clients.look_up(now, key).is_new);
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_near_a_client_are_not_relied_on_for_ever() {
        let (now, key, second) = (Instant::now(), key("192.0.2.1"), Duration::from_secs(1));
        let clients = Clients::new(TTL, 9, now);
        clients.begin(now, key, true);
        let near = Near { level: coral_dsht::Level::GLOBAL, nameservers: Vec::new(), proxies: Vec::new() };
        clients.set_near(now, key, Some(near), 2 * second);
        let known = clients.look_up(now + second, key);
        assert_eq!((known.near.is_some(), known.near_age), (true, second));
        assert!(clients.look_up(now + 2 * second, key).near.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_ends_by_itself_and_a_shorter_one_does_not_shorten_it() {
        let (now, key, second) = (Instant::now(), key("192.0.2.1"), Duration::from_secs(1));
        let clients = Clients::new(TTL, 9, now);
        let distant: IpAddr = "203.0.113.1".parse().unwrap();
        clients.promise(key, Duty { until: now + 9 * second, distant });
        clients.promise(key, Duty { until: now + 5 * second, distant });
        assert!(clients.look_up(now + 8 * second, key).duty.is_some());
        assert_eq!(clients.look_up(now + 9 * second, key).duty, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_process_knows_another_goes_on_with() {
        let (now, second) = (Instant::now() + TTL, Duration::from_secs(1));
        let distant: IpAddr = "203.0.113.1".parse().unwrap();
        let before = Clients::new(TTL, 900, now);
        let [near, silent, promised, old] = ["192.0.2.1", "2001:db8:1::1", "198.51.100.1", "203.0.113.9"].map(key);
        before.observe(now, near, Duration::from_millis(5));
        before.begin(now, silent, true);
        before.end(now + 2 * second, silent, None);
        before.promise(promised, Duty { until: now + 60 * second, distant });
        before.observe(now - TTL, old, Duration::from_millis(7));

        let later = now + 10 * second;
        let recalled = before.recall(later, 9);
        let prefixes: Vec<String> = recalled.iter().map(|one| one.prefix.to_string()).collect();
        assert_eq!(prefixes, ["198.51.100.0/24", "2001:db8:1::/48", "192.0.2.0/24"]);
        assert_eq!(before.recall(later, 2), recalled[..2]);
        let after = Clients::new(TTL, 900, later);
        recalled.iter().for_each(|one| after.remember(later, one));
        let know = |clients: &Clients, at| {
            [near, silent, promised, old].map(|key| {
                let known = clients.peek(at, key);
                (known.rtt, known.is_measured && !known.is_wanted, known.duty)
            })
        };
        for at in [later, later + 49 * second, later + 50 * second, now + TTL, now + TTL + 2 * second] {
            let [.., old] = know(&after, at);
            assert_eq!(old, (None, false, None));
            assert_eq!(know(&after, at)[..3], know(&before, at)[..3], "{:?} later", at - later);
        }
    }
}
