//! References: what this node tells the index it has [C04 §4.2].
//!
//! A fetch begins with a claim: it says who else has the object or fetches it, and leaves this node's reference behind
//! in the same round trip [design §2.7]. While the object is fetched the reference lives 20 s at a time, once it is whole
//! an hour; it is renewed halfway by a put, and withdrawn when the object is evicted, cannot be stored, its fetch fails,
//! or the node stops. One task owns all of it: it is told what there is, compares that with what it has published, and
//! has at most one request under way for each key, so that a withdrawal overtakes neither a claim nor a put.
//!
//! The reference of a whole object says what its body is, if that can be told from others ([`crate::stamp`]): whoever is named several can
//! compare, and hold what is delivered against it.
//!
//! Who has a part that is no slice is named under a key of its own ([`parts_key`]), where nobody claims: a reference under the key of the URL means
//! the whole, and whoever wants that shall not be sent to one who has not got it. The one reference that a node has there says where its part
//! lies, the last that it has stored.
//!
//! What has ceased to be fresh is named under a key of its own ([`stale_key`]), where claims do not see it: once, for an hour,
//! and again when it was asked for in vain. It is only a hint, so it stays when the object is fresh again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::{Claimed, DshtHandle, Id, Key, Levels, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config;
use crate::metrics::Metrics;
use crate::partial::Place;
use crate::stamp::Stamp;

/// What a reference names: an HTTP address. Other kinds of values may come to share a key.
const HTTP_ADDRESS: u8 = b'h';
/// What the reference of a part names: likewise, and it is another kind lest anybody take it for that of the whole.
const HAS_PART: u8 = b'p';
/// Requests to the index under way at one time.
const CONCURRENT: usize = 32;
/// The least time between two puts of one reference: else what soon ceases to be fresh is put ever faster.
const LEAST_RENEWAL: Duration = Duration::from_secs(5);
/// How long one may take, so that a key is not stuck with it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a reference says: the HTTP address of a node. `None` if the value is no reference.
pub fn decode_reference(value: &Value) -> Option<SocketAddr> {
    let (kind, addr) = value.named()?;
    (kind == HTTP_ADDRESS && addr.port() != 0).then_some(addr)
}

/// The reference that names the node with this HTTP address. The index stores it for no other node.
pub fn encode_reference(addr: SocketAddr) -> Value {
    Value::naming(HTTP_ADDRESS, addr)
}

/// The reference that names the node with this HTTP address as one that has a whole body, and says what that is.
pub fn encode_stamped(addr: SocketAddr, stamp: Stamp) -> Value {
    let value = Value::naming_with(HTTP_ADDRESS, addr, &stamp.to_bytes());
    // An address and a stamp have 44 bytes at most.
    value.unwrap_or_else(|| encode_reference(addr))
}

/// What a reference says of the body that its node has, if it does.
pub fn decode_stamp(value: &Value) -> Option<Stamp> {
    decode_reference(value)?;
    Stamp::from_bytes(value.behind_name()?)
}

/// The reference that names the node with this HTTP address as one that has a part of the whole, which lies there and has this stamp, if
/// any.
pub fn encode_part(addr: SocketAddr, place: Place, stamp: Option<Stamp>) -> Value {
    let stamp = stamp.map(Stamp::to_bytes);
    let more = [&place.to_bytes()[..], stamp.as_ref().map_or(&[], |stamp| &stamp[..])].concat();
    let value = Value::naming_with(HAS_PART, addr, &more);
    // An address, a place and a stamp have 62 bytes at most.
    value.unwrap_or_else(|| Value::naming(HAS_PART, addr))
}

/// What the reference of a part says: its node, where the part lies, and its stamp if there is one. `None` if the value is no such
/// reference; what is behind is passed over.
pub fn decode_part(value: &Value) -> Option<(SocketAddr, Place, Option<Stamp>)> {
    let (kind, addr) = value.named().filter(|(_, addr)| addr.port() != 0)?;
    let (place, behind) = Place::from_bytes(value.behind_name()?)?;
    (kind == HAS_PART).then(|| (addr, place, Stamp::from_bytes(behind)))
}

/// The key under which the index names nodes that have a part of the URL with the key `url`.
pub fn parts_key(url: Key) -> Key {
    Id::hash(&[b"parts", url.as_bytes()])
}

/// The key under which the index names nodes that have of `key` what is no longer fresh.
pub fn stale_key(key: Key) -> Key {
    Id::hash(&[b"stale", key.as_bytes()])
}

/// Where changes are told. Clones tell the same task, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct References {
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug)]
enum Event {
    /// A fetch begins, with a claim.
    Fetching(Key, Claim),
    /// One that is under way claims again.
    Claim(Key, Claim),
    Fetched(Key),
    Stored(Key, Duration, bool),
    Stamped(Key, Option<Stamp>),
    Dropped(Key),
    StoredPart(Key, Place, Duration),
    DroppedPart(Key, Place),
    Stop(oneshot::Sender<()>),
}

/// A claim that waits for its turn.
#[derive(Debug)]
struct Claim {
    refused: Vec<Value>,
    reply: oneshot::Sender<Claimed>,
}

impl Claim {
    fn new(refused: Vec<Value>) -> (Self, oneshot::Receiver<Claimed>) {
        let (reply, answer) = oneshot::channel();
        (Self { refused, reply }, answer)
    }
}

impl References {
    /// Starts the task that publishes references to the node at `me`.
    pub fn start(me: SocketAddr, dsht: DshtHandle, config: config::Reference, metrics: Metrics) -> Self {
        let (events, told) = mpsc::unbounded_channel();
        let keeper = Keeper {
            dsht,
            me,
            config,
            metrics,
            entries: BTreeMap::new(),
            parts: BTreeMap::new(),
            due: BTreeSet::new(),
            requests: JoinSet::new(),
            permits: Arc::new(Semaphore::new(CONCURRENT)),
            stopping: None,
        };
        tokio::spawn(keeper.run(told));
        Self { events }
    }

    /// This node fetches the object from now on, until the guard is dropped. The claim is on its way.
    pub fn fetching(&self, key: Key) -> Fetching {
        let (claim, answer) = Claim::new(Vec::new());
        self.tell(Event::Fetching(key, claim));
        Fetching { references: self.clone(), key, first: Some(answer) }
    }

    /// A whole object has come into the cache, and stays fresh for `fresh_for`; after that it may be `of_use` to others
    /// still, who have none.
    pub fn stored(&self, key: Key, fresh_for: Duration, of_use: bool) {
        self.tell(Event::Stored(key, fresh_for, of_use));
    }

    /// The body of the object that is told of next has this stamp, or none that would be of use: that is in the reference from then on.
    pub fn stamped(&self, key: Key, stamp: Option<Stamp>) {
        self.tell(Event::Stamped(key, stamp));
    }

    /// One has left it.
    pub fn dropped(&self, key: Key) {
        self.tell(Event::Dropped(key));
    }

    /// A part of the URL with the key `url` has come into the cache, which lies there, and stays fresh for `fresh_for`. What is told by
    /// [`Self::stamped`] of the [`parts_key`] is its stamp.
    pub fn stored_part(&self, url: Key, place: Place, fresh_for: Duration) {
        self.tell(Event::StoredPart(parts_key(url), place, fresh_for));
    }

    /// One that lay there has left it.
    pub fn dropped_part(&self, url: Key, place: Place) {
        self.tell(Event::DroppedPart(parts_key(url), place));
    }

    /// Withdraws all references, and publishes none any more. Returns when the index has been told of all.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        self.tell(Event::Stop(done));
        // The task has ended by itself if this fails: then nothing is published.
        let _ = stopped.await;
    }

    fn tell(&self, event: Event) {
        // The task ends only after all senders are gone, or with its runtime.
        let _ = self.events.send(event);
    }
}

/// Held while an object is fetched.
#[derive(Debug)]
pub struct Fetching {
    references: References,
    key: Key,
    first: Option<oneshot::Receiver<Claimed>>,
}

impl Fetching {
    /// Who else has the object, or was before this node, but for those `refused`. `None` if the index does not say so
    /// within `limit`; then this node's reference is put all the same.
    pub async fn claim(&mut self, refused: &[Value], limit: Duration) -> Option<Claimed> {
        let answer = self.first.take().unwrap_or_else(|| {
            let (claim, answer) = Claim::new(refused.to_vec());
            self.references.tell(Event::Claim(self.key, claim));
            answer
        });
        tokio::time::timeout(limit, answer).await.ok()?.ok()
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.references.tell(Event::Fetched(self.key));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fetching,
    Complete,
}

/// What the index was last told.
#[derive(Debug, Clone, Copy)]
struct Published {
    kind: Kind,
    stamp: Option<Stamp>,
    at: Instant,
    /// When it is to be renewed.
    renew_at: Instant,
}

impl Published {
    fn now(kind: Kind, stamp: Option<Stamp>, ttl: Duration, now: Instant) -> Self {
        Self { kind, stamp, at: now, renew_at: now + (ttl / 2).max(LEAST_RENEWAL) }
    }
}

/// What is known of one key.
#[derive(Debug, Default)]
struct Entry {
    fetching: usize,
    stored: usize,
    fresh_until: Option<Instant>,
    /// Of the body that was stored last, of whatever variant.
    stamp: Option<Stamp>,
    published: Option<Published>,
    /// Whether a request for this key is under way.
    busy: bool,
    claims: VecDeque<Claim>,
    stale: Stale,
}

/// The parts of one URL that are here, under their key. Apart from the entries, as few have any.
#[derive(Debug, Default)]
struct Parts {
    /// Where they lie, and their stamps: one for each variant, that which was stored last in the end.
    stored: Vec<(Place, Option<Stamp>)>,
    /// Which of them the index was last told of.
    told: Option<Place>,
}

/// What is known of a key as far as what is no longer fresh is concerned.
#[derive(Debug, Default)]
struct Stale {
    /// Whether it may be of use to others.
    of_use: bool,
    /// When a fetch last ended.
    asked: Option<Instant>,
    /// When to look whether it still is fresh.
    look_at: Option<Instant>,
    /// Until when the index names this node.
    published: Option<Instant>,
    /// Whether a request for this is under way: one of its own, as a claim shall not wait for it.
    busy: bool,
}

/// What the index was told in the end.
#[derive(Debug)]
enum Told {
    Reference(Option<Published>),
    Stale(Option<Instant>),
}

impl Entry {
    fn wanted(&self, now: Instant) -> Option<(Kind, Duration)> {
        let fresh_for = self.fresh_for(now);
        if self.stored > 0 && !fresh_for.is_zero() {
            Some((Kind::Complete, fresh_for))
        } else {
            (self.fetching > 0).then_some((Kind::Fetching, Duration::MAX))
        }
    }

    fn stored(&mut self, fresh_for: Duration, now: Instant) {
        // A lifetime of years is as good as none for a clock that cannot hold it.
        let until = now + fresh_for.min(Duration::from_secs(365 * 24 * 3600));
        // What has gone meanwhile makes nothing fresh.
        let others = self.fresh_until.filter(|_| self.stored > 0);
        self.fresh_until = Some(others.map_or(until, |others| others.max(until)));
        self.stored += 1;
    }

    fn fresh_for(&self, now: Instant) -> Duration {
        self.fresh_until.map_or(Duration::ZERO, |until| until.duration_since(now))
    }

    /// Whether others shall find here what is no longer fresh: for `ttl` after it has ceased to be, or was last asked for.
    fn is_of_use_stale(&self, now: Instant, ttl: Duration) -> bool {
        let since = self.stale.asked.max(self.fresh_until);
        let lately = since.is_some_and(|since| now.duration_since(since) < ttl);
        self.stale.of_use && self.stored > 0 && self.fresh_for(now).is_zero() && lately
    }

    fn is_of_no_account(&self) -> bool {
        self.published.is_none() && self.stale.published.is_none() && !self.busy && !self.stale.busy
    }
}

struct Keeper {
    dsht: DshtHandle,
    me: SocketAddr,
    config: config::Reference,
    metrics: Metrics,
    entries: BTreeMap<Key, Entry>,
    parts: BTreeMap<Key, Parts>,
    due: BTreeSet<(Instant, Key)>,
    requests: JoinSet<(Key, Told)>,
    permits: Arc<Semaphore>,
    stopping: Option<Vec<oneshot::Sender<()>>>,
}

impl Keeper {
    async fn run(mut self, mut told: mpsc::UnboundedReceiver<Event>) {
        loop {
            let due = self.due.first().map(|(at, _)| *at);
            tokio::select! {
                event = told.recv() => match event {
                    Some(event) => self.handle(event),
                    None => break,
                },
                Some(done) = self.requests.join_next(), if !self.requests.is_empty() => {
                    if let Ok((key, told)) = done {
                        self.done(key, told);
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.renew(),
            }
            if self.entries.is_empty() {
                for done in self.stopping.iter_mut().flat_map(|waiting| waiting.drain(..)) {
                    let _ = done.send(());
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        let key = match event {
            Event::Fetching(key, claim) => {
                let entry = self.entries.entry(key).or_default();
                entry.fetching += 1;
                entry.claims.push_back(claim);
                key
            }
            Event::Claim(key, claim) => {
                self.entries.entry(key).or_default().claims.push_back(claim);
                key
            }
            Event::Fetched(key) => {
                let entry = self.entries.entry(key).or_default();
                entry.fetching = entry.fetching.saturating_sub(1);
                entry.stale.asked = Some(now);
                key
            }
            Event::Stored(key, fresh_for, of_use) => {
                let entry = self.entries.entry(key).or_default();
                entry.stored(fresh_for, now);
                entry.stale.of_use |= of_use;
                key
            }
            Event::StoredPart(key, place, fresh_for) => {
                let entry = self.entries.entry(key).or_default();
                entry.stored(fresh_for, now);
                self.parts.entry(key).or_default().stored.push((place, entry.stamp));
                key
            }
            Event::DroppedPart(key, place) => {
                let (entry, parts) = (self.entries.entry(key).or_default(), self.parts.entry(key).or_default());
                entry.stored = entry.stored.saturating_sub(1);
                // In place of one that lies there, too, the later one stays.
                if let Some(index) = parts.stored.iter().position(|(there, _)| *there == place) {
                    parts.stored.remove(index);
                }
                entry.stamp = parts.stored.last().and_then(|(_, stamp)| *stamp);
                key
            }
            Event::Stamped(key, stamp) => {
                // What it is the stamp of comes next.
                self.entries.entry(key).or_default().stamp = stamp;
                return;
            }
            Event::Dropped(key) => {
                let entry = self.entries.entry(key).or_default();
                entry.stored = entry.stored.saturating_sub(1);
                entry.stamp = entry.stamp.filter(|_| entry.stored > 0);
                entry.stale.of_use &= entry.stored > 0;
                key
            }
            Event::Stop(done) => {
                self.stopping.get_or_insert_default().push(done);
                for key in self.entries.keys().copied().collect::<Vec<_>>() {
                    self.reconcile(key, now);
                }
                return;
            }
        };
        self.reconcile(key, now);
    }

    fn done(&mut self, key: Key, told: Told) {
        let now = Instant::now();
        if let Some(entry) = self.entries.get_mut(&key) {
            match told {
                Told::Reference(published) => {
                    entry.busy = false;
                    let before = i64::from(entry.published.is_some());
                    self.metrics.references.inc_by(i64::from(published.is_some()) - before);
                    entry.published = published;
                    if let Some(published) = published {
                        self.due.insert((published.renew_at, key));
                    }
                }
                Told::Stale(until) => (entry.stale.busy, entry.stale.published) = (false, until),
            }
        }
        self.reconcile(key, now);
    }

    fn renew(&mut self) {
        let now = Instant::now();
        while let Some((_, key)) = self.due.pop_first_if(now) {
            self.reconcile(key, now);
        }
    }

    /// Does the next thing that brings what the index knows of `key` nearer to what is so.
    fn reconcile(&mut self, key: Key, now: Instant) {
        self.reconcile_stale(key, now);
        self.reconcile_reference(key, now);
        let stopping = self.stopping.is_some();
        let is_over =
            |entry: &Entry| entry.is_of_no_account() && (stopping || entry.stored == 0 && entry.fetching == 0);
        if self.entries.get(&key).is_some_and(is_over)
            && let Some(entry) = self.entries.remove(&key)
        {
            self.parts.remove(&key);
            if let Some(look_at) = entry.stale.look_at {
                self.due.remove(&(look_at, key));
            }
        }
    }

    fn reconcile_stale(&mut self, key: Key, now: Instant) {
        let ttl = self.config.complete_ttl;
        let stopping = self.stopping.is_some();
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| !entry.stale.busy) else {
            return;
        };
        if let Some(until) = entry.fresh_until.filter(|until| entry.stale.of_use && *until > now)
            && entry.stale.look_at.is_none_or(|at| at <= now)
        {
            // One for each key, however often it is stored anew.
            entry.stale.look_at = Some(until);
            self.due.insert((until, key));
        }
        let wanted = !stopping && entry.is_of_use_stale(now, ttl);
        let is_lasting = |until: Instant| until.duration_since(now) > ttl / 2;
        let (dsht, value, permits) = (self.dsht.clone(), encode_reference(self.me), Arc::clone(&self.permits));
        match entry.stale.published {
            Some(until) if wanted && is_lasting(until) => {}
            _ if wanted => {
                entry.stale.busy = true;
                self.requests.spawn(async move {
                    let _permit = permits.acquire().await;
                    let put = dsht.put(stale_key(key), value, ttl, Levels::ALL);
                    // Counted as published in any case, as below.
                    let _ = tokio::time::timeout(REQUEST_TIMEOUT, put).await;
                    (key, Told::Stale(Some(now + ttl)))
                });
            }
            Some(until) if stopping || entry.stored == 0 => {
                if until <= now {
                    entry.stale.published = None;
                    return;
                }
                entry.stale.busy = true;
                self.requests.spawn(async move {
                    let _permit = permits.acquire().await;
                    let _ = tokio::time::timeout(REQUEST_TIMEOUT, dsht.remove(stale_key(key), value)).await;
                    (key, Told::Stale(None))
                });
            }
            _ => {}
        }
    }

    fn reconcile_reference(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.busy {
            return;
        }
        let wanted = if self.stopping.is_some() { None } else { entry.wanted(now) };
        let part = self.parts.get(&key).map(|parts| parts.stored.last().copied());
        let value = match part {
            None => encode_reference(self.me),
            // Another one that names this node as such is the same to who removes it.
            Some(None) => Value::naming(HAS_PART, self.me),
            Some(Some((place, stamp))) => encode_part(self.me, place, stamp),
        };
        let (dsht, permits) = (self.dsht.clone(), Arc::clone(&self.permits));
        // A stopped node claims nothing, and nobody waits for a claim whose fetch has given up.
        while let Some(Claim { refused, reply }) = entry.claims.pop_front() {
            if self.stopping.is_some() || reply.is_closed() {
                continue;
            }
            let ttl = self.config.fetching_ttl;
            let complete = entry.published.filter(|published| published.kind == Kind::Complete);
            entry.busy = true;
            // No permit: a client waits for this one.
            self.requests.spawn(async move {
                let claim = dsht.claim(key, value, ttl, Levels::ALL, refused);
                if let Ok(Ok(claimed)) = tokio::time::timeout(REQUEST_TIMEOUT, claim).await {
                    let _ = reply.send(claimed);
                }
                // Counted as published in any case: it may be, and is then to be withdrawn. A claim does not shorten the
                // life of what was put for longer.
                (key, Told::Reference(complete.or(Some(Published::now(Kind::Fetching, None, ttl, now)))))
            });
            return;
        }
        let stamp = entry.stamp.filter(|_| wanted.is_some_and(|(kind, _)| kind == Kind::Complete));
        let place = part.flatten().map(|(place, _)| place);
        let tells =
            |told: &Published| told.stamp == stamp && self.parts.get(&key).is_none_or(|parts| parts.told == place);
        match (wanted, entry.published) {
            (None, None) => {}
            (None, Some(_)) => {
                entry.busy = true;
                self.requests.spawn(async move {
                    let _permit = permits.acquire().await;
                    let _ = tokio::time::timeout(REQUEST_TIMEOUT, dsht.remove(key, value)).await;
                    (key, Told::Reference(None))
                });
            }
            (Some((kind, _)), Some(told)) if kind == told.kind && tells(&told) && now < told.renew_at => {}
            // With another stamp or place alone no sooner than any renewal may be.
            (Some((kind, _)), Some(told)) if kind == told.kind && now < told.renew_at.min(told.at + LEAST_RENEWAL) => {
                self.due.insert((told.renew_at.min(told.at + LEAST_RENEWAL), key));
            }
            (Some((kind, at_most)), _) => {
                let value = match (self.parts.get_mut(&key), stamp) {
                    (Some(parts), _) => {
                        parts.told = place;
                        value
                    }
                    (None, Some(stamp)) => encode_stamped(self.me, stamp),
                    (None, None) => value,
                };
                let ttl = match kind {
                    Kind::Fetching => self.config.fetching_ttl,
                    Kind::Complete => self.config.complete_ttl.min(at_most),
                };
                entry.busy = true;
                self.requests.spawn(async move {
                    let _permit = permits.acquire().await;
                    let put = tokio::time::timeout(REQUEST_TIMEOUT, dsht.put(key, value, ttl, Levels::ALL)).await;
                    if !matches!(put, Ok(Ok(_))) {
                        tracing::debug!(?key, "the index did not take a reference");
                    }
                    // Counted as published in any case: it may have been stored, and is then to be withdrawn.
                    (key, Told::Reference(Some(Published::now(kind, stamp, ttl, now))))
                });
            }
        }
    }
}

/// Reads `bytes` as a value that the index names: for the fuzzer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let Some(value) = Value::new(bytes) else { return };
    let _ = decode_stamp(&value);
    if let Some((addr, place, stamp)) = decode_part(&value) {
        assert_eq!(decode_reference(&value), None);
        let again = encode_part(addr, place, stamp);
        assert!(again.is_same(&value));
        assert_eq!(decode_part(&again), Some((addr, place, stamp)));
    }
}

/// `BTreeSet` has no such call of its own.
trait PopFirstIf {
    fn pop_first_if(&mut self, now: Instant) -> Option<(Instant, Key)>;
}

impl PopFirstIf for BTreeSet<(Instant, Key)> {
    fn pop_first_if(&mut self, now: Instant) -> Option<(Instant, Key)> {
        if self.first()?.0 <= now { self.pop_first() } else { None }
    }
}

#[cfg(test)]
mod tests;
