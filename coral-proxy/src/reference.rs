//! References: what this node tells the index it has [C04 §4.2].
//!
//! A fetch begins with a claim: it says who else has the object or fetches it, and leaves this node's reference behind
//! in the same round trip [design §2.7]. While the object is fetched the reference lives 20 s at a time, once it is whole
//! an hour; it is renewed halfway by a put, and withdrawn when the object is evicted, cannot be stored, its fetch fails,
//! or the node stops. One task owns all of it: it is told what there is, compares that with what it has published, and
//! has at most one request under way for each key, so that a withdrawal overtakes neither a claim nor a put.
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

/// What a reference names: an HTTP address. Other kinds of values may come to share a key.
const HTTP_ADDRESS: u8 = b'h';
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
    Dropped(Key),
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
            value: encode_reference(me),
            config,
            metrics,
            entries: BTreeMap::new(),
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

    /// One has left it.
    pub fn dropped(&self, key: Key) {
        self.tell(Event::Dropped(key));
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

/// What is known of one key.
#[derive(Debug, Default)]
struct Entry {
    fetching: usize,
    stored: usize,
    fresh_until: Option<Instant>,
    /// What the index was last told, and when that is to be renewed.
    published: Option<(Kind, Instant)>,
    /// Whether a request for this key is under way.
    busy: bool,
    claims: VecDeque<Claim>,
    stale: Stale,
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
    Reference(Option<(Kind, Instant)>),
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
    value: Value,
    config: config::Reference,
    metrics: Metrics,
    entries: BTreeMap<Key, Entry>,
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
                entry.stored += 1;
                // A lifetime of years is as good as none for a clock that cannot hold it.
                let until = now + fresh_for.min(Duration::from_secs(365 * 24 * 3600));
                entry.fresh_until = Some(entry.fresh_until.map_or(until, |old| old.max(until)));
                entry.stale.of_use |= of_use;
                key
            }
            Event::Dropped(key) => {
                let entry = self.entries.entry(key).or_default();
                entry.stored = entry.stored.saturating_sub(1);
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
                    if let Some((_, renew_at)) = published {
                        self.due.insert((renew_at, key));
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
            && let Some(look_at) = self.entries.remove(&key).and_then(|entry| entry.stale.look_at)
        {
            self.due.remove(&(look_at, key));
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
        let (dsht, value, permits) = (self.dsht.clone(), self.value.clone(), Arc::clone(&self.permits));
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
        let (dsht, value, permits) = (self.dsht.clone(), self.value.clone(), Arc::clone(&self.permits));
        // A stopped node claims nothing, and nobody waits for a claim whose fetch has given up.
        while let Some(Claim { refused, reply }) = entry.claims.pop_front() {
            if self.stopping.is_some() || reply.is_closed() {
                continue;
            }
            let ttl = self.config.fetching_ttl;
            let complete = entry.published.filter(|(kind, _)| *kind == Kind::Complete);
            entry.busy = true;
            // No permit: a client waits for this one.
            self.requests.spawn(async move {
                let claim = dsht.claim(key, value, ttl, Levels::ALL, refused);
                if let Ok(Ok(claimed)) = tokio::time::timeout(REQUEST_TIMEOUT, claim).await {
                    let _ = reply.send(claimed);
                }
                // Counted as published in any case: it may be, and is then to be withdrawn. A claim does not shorten the
                // life of what was put for longer.
                (key, Told::Reference(complete.or(Some((Kind::Fetching, now + (ttl / 2).max(LEAST_RENEWAL))))))
            });
            return;
        }
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
            (Some((kind, _)), Some((published, renew_at))) if kind == published && now < renew_at => {}
            (Some((kind, at_most)), _) => {
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
                    (key, Told::Reference(Some((kind, now + (ttl / 2).max(LEAST_RENEWAL)))))
                });
            }
        }
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
mod tests {
    use std::net::IpAddr;

    use coral_dsht::{Command, Id, Stored};
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn key() -> Key {
        Id::hash(&[b"k"])
    }

    /// References to a far end that answers all and writes down what it was asked.
    fn start() -> (References, mpsc::UnboundedReceiver<String>) {
        let (dsht, mut commands) = DshtHandle::channel(8);
        let (log, lines) = mpsc::unbounded_channel();
        let stale = |at| if at == stale_key(key()) { "stale: " } else { "" };
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                match command {
                    Command::Put { key: at, ttl, reply, .. } => {
                        let _ = log.send(format!("{}put for {} s", stale(at), ttl.as_secs()));
                        let _ = reply.send(Stored::default());
                    }
                    Command::Remove { key: at, reply, .. } => {
                        let _ = log.send(format!("{}remove", stale(at)));
                        let _ = reply.send(1);
                    }
                    Command::Claim { ttl, refused, reply, .. } => {
                        let _ = log.send(format!("claim for {} s, {} refused", ttl.as_secs(), refused.len()));
                        let _ = reply.send(Claimed::default());
                    }
                    _ => {}
                }
            }
        });
        let metrics = Metrics::register(&mut Registry::default());
        let me = "192.0.2.1:80".parse().unwrap();
        (References::start(me, dsht, config::Reference::default(), metrics), lines)
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_seconds_while_fetching_an_hour_when_whole_and_withdrawn_when_dropped() {
        let (references, mut lines) = start();
        let began = Instant::now();
        let mut fetching = references.fetching(key());
        assert!(fetching.claim(&[], LIMIT).await.is_some());
        assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 0 refused");
        fetching.claim(&[encode_reference("192.0.2.9:80".parse().unwrap())], LIMIT).await;
        assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 1 refused");
        assert_eq!(lines.recv().await.unwrap(), "put for 20 s");
        assert_eq!(began.elapsed().as_secs(), 10, "renewed halfway");
        references.stored(key(), Duration::from_secs(24 * 3600), true);
        drop(fetching);
        assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
        references.dropped(key());
        assert_eq!(lines.recv().await.unwrap(), "remove");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reference_does_not_outlive_the_freshness_of_its_object() {
        let (references, mut lines) = start();
        references.stored(key(), Duration::from_secs(100), false);
        assert_eq!(lines.recv().await.unwrap(), "put for 100 s");
        assert_eq!(lines.recv().await.unwrap(), "put for 50 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_fetch_and_a_stop_leave_nothing_behind() {
        let (references, mut lines) = start();
        let mut fetching = references.fetching(key());
        fetching.claim(&[], LIMIT).await;
        drop(fetching);
        assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 0 refused");
        assert_eq!(lines.recv().await.unwrap(), "remove");
        references.stored(key(), Duration::from_secs(9000), true);
        assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
        references.stop().await;
        assert_eq!(lines.recv().await.unwrap(), "remove");
        references.stored(key(), Duration::from_secs(9000), true);
        references.stop().await;
        assert!(lines.try_recv().is_err(), "a stopped node publishes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_nobody_waits_for_becomes_a_put_while_the_fetch_goes_on() {
        let (references, mut lines) = start();
        let mut fetching = references.fetching(key());
        assert!(fetching.claim(&[], Duration::ZERO).await.is_none(), "given up before it was made");
        assert_eq!(lines.recv().await.unwrap(), "put for 20 s");
        drop(fetching);
        assert_eq!(lines.recv().await.unwrap(), "remove");
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_does_not_shorten_what_was_put_for_a_whole_object() {
        let (references, mut lines) = start();
        let began = Instant::now();
        references.stored(key(), Duration::from_secs(9000), true);
        assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
        references.fetching(key()).claim(&[], LIMIT).await;
        assert_eq!(lines.recv().await.unwrap(), "claim for 20 s, 0 refused");
        assert_eq!(lines.recv().await.unwrap(), "put for 3600 s");
        assert_eq!(began.elapsed().as_secs(), 1800);
    }

    /// The next lines, sorted: those of the two keys may come in any order.
    async fn next<const COUNT: usize>(lines: &mut mpsc::UnboundedReceiver<String>) -> [String; COUNT] {
        let mut next = [const { String::new() }; COUNT];
        for line in &mut next {
            *line = lines.recv().await.unwrap();
        }
        next.sort();
        next
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ceased_to_be_fresh_is_named_elsewhere_for_an_hour_after_it_was_last_asked_for() {
        let (references, mut lines) = start();
        let began = Instant::now();
        references.stored(key(), Duration::from_secs(8), true);
        assert_eq!(lines.recv().await.unwrap(), "put for 8 s");
        assert_eq!(lines.recv().await.unwrap(), "put for 3 s", "after five seconds at the earliest");
        assert_eq!(next(&mut lines).await, ["remove", "stale: put for 3600 s"]);
        assert_eq!(began.elapsed().as_secs(), 8);
        // Asked for in vain twice: only the second time less than half of the hour is left.
        tokio::time::advance(Duration::from_secs(600)).await;
        references.fetching(key()).claim(&[], LIMIT).await;
        assert_eq!(next(&mut lines).await, ["claim for 20 s, 0 refused", "remove"]);
        tokio::time::advance(Duration::from_secs(1800)).await;
        references.fetching(key()).claim(&[], LIMIT).await;
        assert_eq!(next(&mut lines).await, ["claim for 20 s, 0 refused", "remove", "stale: put for 3600 s"]);
        tokio::time::advance(Duration::from_secs(1000)).await;
        references.dropped(key());
        assert_eq!(lines.recv().await.unwrap(), "stale: remove");
        references.stop().await;
        assert!(lines.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_stale_at_once_is_named_as_such_alone_and_withdrawn_with_all_else() {
        let (references, mut lines) = start();
        references.stored(key(), Duration::ZERO, true);
        assert_eq!(lines.recv().await.unwrap(), "stale: put for 3600 s");
        // It is stored anew with each answer of the origin that says nothing else.
        references.stored(key(), Duration::ZERO, true);
        references.dropped(key());
        references.stop().await;
        assert_eq!(lines.recv().await.unwrap(), "stale: remove");
        assert!(lines.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_stale_at_once_and_of_no_use_then_is_not_published() {
        let (references, mut lines) = start();
        references.stored(key(), Duration::ZERO, false);
        references.stop().await;
        assert!(lines.try_recv().is_err());
    }

    proptest! {
        #[test]
        fn a_reference_comes_back_as_it_went(ip: IpAddr, port in 1_u16..) {
            let addr = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(decode_reference(&encode_reference(addr)), Some(addr));
        }

        #[test]
        fn any_value_is_read(bytes in prop::collection::vec(any::<u8>(), 0..=64)) {
            decode_reference(&Value::new(&bytes).unwrap());
        }
    }
}
