//! A bandwidth, shared out between domains: at its limit the heaviest are slowed first, the others not at all [C10].
//!
//! What moves is paid for with bytes from a token bucket, in [`Grant`]s of one piece. While there is enough, a grant is had at
//! once. Else those who ask wait by domain, and what comes in goes to the domain that has had the least in the last seconds, and
//! there to whoever has waited longest. So domains that all want more than there is get equal parts, and one that wants less than such
//! a part is never behind one that takes more. A domain that takes much also leaves a part of the bucket alone: a light one finds in it
//! what it would find if the heavy one were not there.
//!
//! Who leaves is forgotten, and what is not spent is given back. Memory is bounded by the connections, as each waits in one
//! place, and by [`MOST_DOMAINS`]. Where no bandwidth is configured nothing of this exists.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::metrics::Seconds;

/// What a domain has had counts half after this time. A steady stream is worth two to four times what it moves meanwhile.
const HALVING: Duration = Duration::from_secs(2);
/// Domains of which it is known what they have had, besides those that wait.
const MOST_DOMAINS: usize = 4096;
/// The part of the bandwidth with which a domain counts as heavy, and the part of the bucket that a heavy one does not touch. The
/// rest, less a piece, is what makes up for timers that are late.
const HEAVY: f64 = 0.25;
const LEFT_ALONE: f64 = 2.0 / 3.0;
/// Bytes of one grant: an eighth of the burst, within these bounds. Less costs work, more makes others wait for it.
const PIECE_BYTES: (f64, f64) = (2048.0, 65536.0);

/// A bandwidth. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    shared: Arc<Shared>,
    /// Ends with the last clone.
    _handing_out: Arc<JoinSet<()>>,
}

/// What is counted of those who had to wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waits {
    /// Bytes that were granted after a wait.
    pub(crate) bytes: Counter,
    /// Seconds waited, of all who did together.
    pub(crate) seconds: Seconds,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A grant is due earlier than was known.
    sooner: Notify,
    waits: Waits,
}

#[derive(Debug)]
struct State {
    limit: Limit,
    tokens: f64,
    /// When `tokens` was right.
    at: Instant,
    /// When what domains have had was halved.
    halved: Instant,
    /// What domains have had lately that do not wait, in bytes.
    recent: BTreeMap<Arc<str>, u64>,
    waiting: Vec<Queue>,
    /// When the next grant is due, as far as the task knows that hands out.
    due: Option<Instant>,
}

/// How much may move.
#[derive(Debug, Clone, Copy)]
struct Limit {
    /// Bytes a second.
    rate: f64,
    /// Bytes that the bucket holds.
    burst: f64,
    /// Bytes of one grant.
    piece: usize,
}

/// Those who wait for one domain.
#[derive(Debug)]
struct Queue {
    domain: Arc<str>,
    /// What it has had lately, in bytes.
    recent: u64,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: usize,
    since: Instant,
    grant: oneshot::Sender<Grant>,
}

/// So many bytes may move. What is not [spent](Self::spend) is given back.
#[derive(Debug)]
pub(crate) struct Grant {
    shared: Arc<Shared>,
    domain: Arc<str>,
    unspent: usize,
}

/// A place in the queue, until it is dropped; resolves to the grant.
#[derive(Debug)]
pub(crate) struct Waiting {
    shared: Arc<Shared>,
    domain: Arc<str>,
    /// `None` once it has been had.
    grant: Option<oneshot::Receiver<Grant>>,
}

impl Budget {
    /// `rate` bytes a second; after a pause, as much at once as comes in during `burst`.
    ///
    /// It must be made inside a tokio runtime.
    pub(crate) fn new(rate: u64, burst: Duration, waits: Waits) -> Self {
        let limit = Limit::new(rate, burst);
        let now = Instant::now();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                limit,
                tokens: limit.burst,
                at: now,
                halved: now,
                recent: BTreeMap::new(),
                waiting: Vec::new(),
                due: None,
            }),
            sooner: Notify::new(),
            waits,
        });
        let mut handing_out = JoinSet::new();
        handing_out.spawn(hand_out(Arc::clone(&shared)));
        Self { shared, _handing_out: Arc::new(handing_out) }
    }

    /// From now on there is so much, as in [`Self::new`]; without a `rate`, that there is stays.
    pub(crate) fn set(&self, rate: Option<u64>, burst: Duration) {
        let now = Instant::now();
        let mut state = self.shared.lock(now);
        let limit = Limit::new(rate.unwrap_or(state.limit.rate as u64), burst);
        state.limit = limit;
        state.tokens = state.tokens.min(limit.burst);
        // Who waits for more than the bucket holds would wait for ever.
        for waiter in state.waiting.iter_mut().flat_map(|queue| &mut queue.waiters) {
            waiter.bytes = waiter.bytes.min(limit.piece);
        }
        self.shared.serve(&mut state, now);
    }

    /// Asks for `bytes`, of which at most one piece is granted: at once, or when it is the turn of `domain`.
    pub(crate) fn ask(&self, domain: &Arc<str>, bytes: usize) -> Result<Grant, Waiting> {
        let shared = &self.shared;
        let now = Instant::now();
        let mut state = shared.lock(now);
        let bytes = bytes.min(state.limit.piece);
        if state.waiting.is_empty() {
            let recent = state.recent.get(domain).copied().unwrap_or_default();
            if state.tokens >= state.limit.needed(recent, bytes) {
                state.tokens -= bytes as f64;
                state.remember(Arc::clone(domain), recent + bytes as u64);
                return Ok(Grant { shared: Arc::clone(shared), domain: Arc::clone(domain), unspent: bytes });
            }
        }
        let (grant, receiver) = oneshot::channel();
        state.queue(domain).waiters.push_back(Waiter { bytes, since: now, grant });
        shared.serve(&mut state, now);
        Err(Waiting { shared: Arc::clone(shared), domain: Arc::clone(domain), grant: Some(receiver) })
    }

    /// Pays for `bytes` that have moved, piece by piece: returns when more may.
    pub(crate) async fn pay(&self, domain: &Arc<str>, mut bytes: usize) {
        while bytes > 0 {
            let mut grant = match self.ask(domain, bytes) {
                Ok(grant) => grant,
                Err(waiting) => waiting.await,
            };
            bytes -= grant.bytes();
            grant.spend(grant.bytes());
        }
    }

    /// How long the first of those who wait for `domain` has waited.
    pub(crate) fn wait(&self, domain: &str) -> Duration {
        let now = Instant::now();
        let state = self.shared.lock(now);
        let queue = state.waiting.iter().find(|queue| *queue.domain == *domain);
        queue.and_then(|queue| queue.waiters.front()).map_or(Duration::ZERO, |first| now - first.since)
    }
}

impl Limit {
    fn new(rate: u64, burst: Duration) -> Self {
        let rate = rate as f64;
        let burst = (rate * burst.as_secs_f64()).max(4.0 * PIECE_BYTES.0);
        Self { rate, burst, piece: (burst / 8.0).clamp(PIECE_BYTES.0, PIECE_BYTES.1) as usize }
    }

    /// What the bucket must hold for a domain that has had `recent` to be granted `bytes`.
    ///
    /// It leaves `LEFT_ALONE` of the bucket to others once it has had `HEAVY` of all that there was lately, and less if less.
    fn needed(&self, recent: u64, bytes: usize) -> f64 {
        let heavy = HEAVY * self.rate * 2.0 * HALVING.as_secs_f64();
        let left_alone = (recent as f64 / heavy).min(1.0) * LEFT_ALONE * self.burst;
        bytes as f64 + left_alone
    }
}

impl Shared {
    /// The state, at `now`. A panic leaves whole entries: no call of others' code is made while it is locked.
    fn lock(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have read the clock a moment later, and have been here a moment before.
        let passed = now.saturating_duration_since(state.at);
        state.tokens = (state.tokens + passed.as_secs_f64() * state.limit.rate).min(state.limit.burst);
        state.at += passed;
        let halvings = now.saturating_duration_since(state.halved).as_secs() / HALVING.as_secs();
        if halvings > 0 {
            state.halved += HALVING * u32::try_from(halvings).unwrap_or(u32::MAX);
            state.halve(halvings);
        }
        state
    }

    /// Grants what can be granted, and sees to it that the next one is when it is due.
    fn serve(self: &Arc<Self>, state: &mut State, now: Instant) {
        if let Some(due) = self.grant(state, now)
            && state.due.is_none_or(|known| due < known)
        {
            state.due = Some(due);
            self.sooner.notify_one();
        }
    }

    /// Grants what can be granted, and says when the next one is due; `None` if nobody waits.
    fn grant(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Instant> {
        loop {
            let next = state.next()?;
            let Queue { domain, recent, waiters } = &mut state.waiting[next];
            let Some(waiter) = waiters.pop_front() else {
                let queue = state.waiting.swap_remove(next);
                state.remember(queue.domain, queue.recent);
                continue;
            };
            let lacking = state.limit.needed(*recent, waiter.bytes) - state.tokens;
            if lacking > 0.0 {
                waiters.push_front(waiter);
                return Some(now + Duration::from_secs_f64(lacking / state.limit.rate) + Duration::from_nanos(1));
            }
            let Waiter { bytes, since, grant } = waiter;
            match grant.send(Grant { shared: Arc::clone(self), domain: Arc::clone(domain), unspent: bytes }) {
                Ok(()) => {
                    *recent += bytes as u64;
                    state.tokens -= bytes as f64;
                    self.waits.bytes.inc_by(bytes as u64);
                    self.waits.seconds.inc_by((now - since).as_secs_f64());
                }
                // Nothing was taken for one who left, so nothing is to be given back.
                Err(mut unwanted) => unwanted.unspent = 0,
            }
        }
    }

    fn give_back(self: &Arc<Self>, domain: &Arc<str>, bytes: usize) {
        let now = Instant::now();
        let mut state = self.lock(now);
        state.tokens = (state.tokens + bytes as f64).min(state.limit.burst);
        let recent = match state.waiting.iter_mut().find(|queue| queue.domain == *domain) {
            Some(queue) => Some(&mut queue.recent),
            None => state.recent.get_mut(domain),
        };
        if let Some(recent) = recent {
            *recent = recent.saturating_sub(bytes as u64);
        }
        self.serve(&mut state, now);
    }

    /// Forgets those who have left `domain`.
    fn clear(self: &Arc<Self>, domain: &Arc<str>) {
        let now = Instant::now();
        let mut state = self.lock(now);
        if let Some(queue) = state.waiting.iter_mut().find(|queue| queue.domain == *domain) {
            queue.waiters.retain(|waiter| !waiter.grant.is_closed());
        }
        self.serve(&mut state, now);
    }
}

impl State {
    /// The queue of `domain`, made if there is none.
    fn queue(&mut self, domain: &Arc<str>) -> &mut Queue {
        let index = match self.waiting.iter().position(|queue| queue.domain == *domain) {
            Some(index) => index,
            None => {
                let recent = self.recent.remove(domain).unwrap_or_default();
                self.waiting.push(Queue { domain: Arc::clone(domain), recent, waiters: VecDeque::new() });
                self.waiting.len() - 1
            }
        };
        &mut self.waiting[index]
    }

    /// Whose turn it is: the domain's that has had the least, and of several the one's that has waited longest. One for which
    /// nobody waits any more comes first of all, to be put away.
    fn next(&self) -> Option<usize> {
        let order = |queue: &Queue| queue.waiters.front().map(|first| (queue.recent, first.since));
        (0..self.waiting.len()).min_by_key(|index| order(&self.waiting[*index]))
    }

    /// Notes what a domain that does not wait has had; if there are too many, the one with the least is forgotten.
    fn remember(&mut self, domain: Arc<str>, recent: u64) {
        if self.recent.len() >= MOST_DOMAINS && !self.recent.contains_key(&domain) {
            let least = self.recent.iter().min_by_key(|(_, recent)| **recent).map(|(domain, _)| Arc::clone(domain));
            self.recent.remove(&least.expect("there are many"));
        }
        self.recent.insert(domain, recent);
    }

    fn halve(&mut self, times: u64) {
        let halved = |recent: u64| recent.checked_shr(times.min(64) as u32).unwrap_or_default();
        self.recent.retain(|_, recent| {
            *recent = halved(*recent);
            *recent > 0
        });
        for queue in &mut self.waiting {
            queue.recent = halved(queue.recent);
        }
    }
}

/// Grants what has become due, as long as there is a budget.
async fn hand_out(shared: Arc<Shared>) {
    loop {
        let due = {
            let now = Instant::now();
            let mut state = shared.lock(now);
            state.due = shared.grant(&mut state, now);
            state.due
        };
        let sooner = shared.sooner.notified();
        match due {
            // What woke it makes no difference: what is due is found out above.
            Some(due) => drop(tokio::time::timeout_at(due, sooner).await),
            None => sooner.await,
        }
    }
}

impl Grant {
    /// How many bytes may still move.
    pub(crate) fn bytes(&self) -> usize {
        self.unspent
    }

    /// So many have moved.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.unspent -= bytes;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.unspent > 0 {
            self.shared.give_back(&self.domain, self.unspent);
        }
    }
}

impl Future for Waiting {
    type Output = Grant;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Grant> {
        let receiver = self.grant.as_mut().expect("a grant is had once");
        let grant = ready!(Pin::new(receiver).poll(cx)).expect("only those who left are forgotten");
        self.grant = None;
        Poll::Ready(grant)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(mut receiver) = self.grant.take() {
            receiver.close();
            // One that came in this moment is given back.
            drop(receiver.try_recv());
            self.shared.clear(&self.domain);
        }
    }
}

#[cfg(test)]
mod tests;
