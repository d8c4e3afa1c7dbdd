//! Measuring clients, apart from answering them [C04 §3.1]: a query asks what is known of its client, and what is found
//! later serves it, if it waits for that, and the next one.
//!
//! One measurement stands for a prefix (/24, /48), is used for [`ProbeConfig::ttl`], and is taken once at a time. First an
//! echo tells how far the client is; if it is not near, the routers in front of it are traced, which also bounds how far a
//! silent one is, and nodes near it are looked for, again and again while it goes on asking. How many of each are under way
//! is bounded, since anybody can make up source addresses. How to measure is [`echo`]'s and [`way`]'s, how to
//! search `near.rs`'s, what is known is in `clients.rs`.

pub mod echo;
pub mod trace;
pub mod way;

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::candidates::Candidates;
use crate::clients::{Clients, Known};
use crate::config::ProbeConfig;
use crate::metrics::{Metrics, OutcomeLabels};
use crate::near::{Near, Searcher};
use crate::proximity::{Client, PrefixKey};

/// A way to measure the round-trip time to an address.
pub trait Measure: Send + Sync + 'static {
    /// The round-trip time, or `None` if the address did not answer. Ends by itself within a bounded time.
    fn rtt(&self, address: IpAddr) -> impl Future<Output = Option<Duration>> + Send;
}

/// Where there is no way to measure, nobody answers.
impl<M: Measure> Measure for Option<M> {
    async fn rtt(&self, address: IpAddr) -> Option<Duration> {
        match self {
            Some(measure) => measure.rtt(address).await,
            None => None,
        }
    }
}

/// The side of the queries: looks up, and asks for a measurement where there is none.
#[derive(Debug, Clone)]
pub struct Prober {
    clients: Arc<Clients>,
    wanted: mpsc::Sender<Wanted>,
    /// Whether nodes near clients are looked for.
    may_search: bool,
    metrics: Metrics,
}

/// Something to do for a client.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// It is to be measured, which `clients` knows already.
    Measure(Client),
    /// It was measured for another node, and asks now itself.
    LookAfter(Client),
    /// Whether the nodes near it live is to be known now.
    Check(Client),
}

/// The side that measures: to be [run](Task::run) as a task.
#[derive(Debug)]
pub struct Task<M> {
    clients: Arc<Clients>,
    wanted: mpsc::Receiver<Wanted>,
    config: ProbeConfig,
    measure: Arc<M>,
    /// `None`: nobody is looked for.
    searcher: Option<Searcher>,
    /// Who says within which round-trip time a client is as near as can be: for that one nobody nearer is looked for.
    candidates: Candidates,
    metrics: Metrics,
    /// Clients that are looked after.
    sought: HashMap<PrefixKey, Sought>,
    /// The searches to come for them, the soonest first; some were brought forward, and are of no effect here.
    due: BinaryHeap<Reverse<(Instant, PrefixKey)>>,
}

/// A client for whom nodes are looked for.
#[derive(Debug, Clone)]
struct Sought {
    client: Client,
    /// The routers in front of it, once they are known.
    routers: Option<Vec<IpAddr>>,
    /// How often nodes near it were looked for.
    searches: u32,
    /// When that is to be done next; `None` while it is under way.
    due: Option<Instant>,
}

/// How a measurement ended: the round-trip time, and the last routers in front of the client if they were traced.
type Measured = (Client, Option<Duration>, Option<Vec<IpAddr>>);

/// Who is not back by then is not near, or does not answer echoes: it is traced meanwhile.
const SOON: Duration = Duration::from_millis(30);

/// Nodes near a client may have to measure it themselves when they are asked for the first time, and an answer may be lost: if
/// nobody was found then, or where somebody was before, they are asked again after this.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// What was found is relied on until the next search, and for so much longer as that may be late or take. What rests on it, a
/// referral with its TTL, ends within the promise: see `server.rs`.
pub(crate) const RELIANCE: Duration = Duration::from_secs(30);

/// Measures `client` by an echo and, if that takes longer than [`SOON`], by a trace beside it.
async fn measured<M: Measure>(client: Client, measure: &M, may_trace: bool) -> Measured {
    let mut echo = std::pin::pin!(measure.rtt(client.address));
    tokio::select! {
        rtt = &mut echo => return (client, rtt, None),
        () = sleep(SOON), if may_trace => {}
    }
    let mut way = std::pin::pin!(way::last_routers(client.address));
    tokio::select! {
        rtt = &mut echo => {
            let way = way.await;
            (client, rtt.or(way.rtt_bound), Some(way.routers))
        }
        way = &mut way => {
            // One that answers a trace need not answer an echo.
            let rtt = if way.answered { way.rtt_bound } else { echo.await.or(way.rtt_bound) };
            (client, rtt, Some(way.routers))
        }
    }
}

/// Both sides. The task ends when all clones of the prober are gone.
pub fn new<M: Measure>(
    config: &ProbeConfig,
    clients: Arc<Clients>,
    measure: M,
    searcher: Option<Searcher>,
    candidates: Candidates,
    metrics: Metrics,
) -> (Prober, Task<M>) {
    let (sender, wanted) = mpsc::channel(config.at_once.get());
    let may_search = searcher.is_some();
    let prober = Prober { clients: Arc::clone(&clients), wanted: sender, may_search, metrics: metrics.clone() };
    let task = Task {
        clients,
        wanted,
        config: config.clone(),
        measure: Arc::new(measure),
        searcher,
        candidates,
        metrics,
        sought: HashMap::new(),
        due: BinaryHeap::new(),
    };
    (prober, task)
}

impl Prober {
    /// What is known of `client`, which asks, and whether it is worth waiting for more. Never waits.
    pub fn look_up(&self, now: Instant, client: &Client) -> (Known, bool) {
        let known = self.clients.look_up(now, client.key());
        let comes = self.want(now, client, &known, true);
        (known, comes)
    }

    /// What is known of `client`, of which another node asks. It is measured for that, but not looked after: else nodes that
    /// ask each other would keep each other at it for ever.
    pub fn appraise(&self, now: Instant, client: &Client) -> (Known, bool) {
        let known = self.clients.peek(now, client.key());
        let comes = self.want(now, client, &known, false);
        (known, comes)
    }

    /// Asks for what is to be done for the client. True if it was never measured, and will be.
    fn want(&self, now: Instant, client: &Client, known: &Known, is_asked: bool) -> bool {
        if !(known.is_wanted || known.is_new && self.may_search) {
            return !known.is_measured;
        }
        // Room first: what finds none leaves no trace, or forged addresses would push out what is known of real ones.
        let Ok(room) = self.wanted.try_reserve() else {
            count(&self.metrics, "skipped");
            return false;
        };
        if known.is_wanted && self.clients.begin(now, client.key(), is_asked) {
            room.send(Wanted::Measure(*client));
        } else if known.is_measured && is_asked {
            room.send(Wanted::LookAfter(*client));
        }
        !known.is_measured
    }

    /// Has it found out soon whether the nodes near `client`, which is looked after, live.
    pub fn check(&self, client: &Client) {
        if let Ok(room) = self.wanted.try_reserve() {
            room.send(Wanted::Check(*client));
        }
    }

    /// What is remembered of all clients.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }
}

/// What a search has found: the routers, a bound of the round-trip time where an echo found none, and the nodes.
type Searched = (Sought, Option<Duration>, Option<Near>);

impl<M: Measure> Task<M> {
    /// Measures what is asked for, a bounded number at once.
    pub async fn run(mut self) {
        let mut measuring: JoinSet<Measured> = JoinSet::new();
        let mut searching: JoinSet<Searched> = JoinSet::new();
        loop {
            let may_search = searching.len() < self.config.searches.get();
            let next = self.due.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                wanted = self.wanted.recv(), if measuring.len() < self.config.at_once.get() => match wanted {
                    Some(Wanted::Measure(client)) => {
                        let (measure, may_trace) = (Arc::clone(&self.measure), self.searcher.is_some());
                        measuring.spawn(async move { measured(client, &*measure, may_trace).await });
                    }
                    Some(Wanted::LookAfter(client)) => self.look_after(client, None),
                    Some(Wanted::Check(client)) => self.bring_forward(client.key()),
                    None => return,
                },
                Some(ended) = measuring.join_next() => match ended {
                    Ok(measured) => self.end(measured),
                    Err(error) => tracing::error!(%error, "a measurement panicked: a bug"),
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() && may_search => {
                    self.search(&mut searching);
                }
                Some(ended) = searching.join_next() => match ended {
                    Ok(found) => self.found(found),
                    Err(error) => tracing::error!(%error, "a search panicked: a bug"),
                },
            }
        }
    }

    fn end(&mut self, (client, rtt, routers): Measured) {
        count(&self.metrics, if rtt.is_some() { "answered" } else { "silent" });
        tracing::debug!(prefix = %client.prefix, ?rtt, "measured a client");
        self.clients.end(Instant::now(), client.key(), rtt);
        self.look_after(client, routers);
    }

    /// Has nodes near `client` looked for from now on, if it asks itself and is not near this one.
    fn look_after(&mut self, client: Client, routers: Option<Vec<IpAddr>>) {
        let (now, key) = (Instant::now(), client.key());
        let known = self.clients.peek(now, key);
        let is_near = known.rtt.is_some_and(|rtt| rtt < self.candidates.table(now).nearest());
        let has_room = self.sought.len() < self.config.capacity.get();
        if self.searcher.is_none() || is_near || !self.clients.is_asked(key) || !has_room {
            return;
        }
        if let Entry::Vacant(vacant) = self.sought.entry(key) {
            vacant.insert(Sought { client, routers, searches: 0, due: Some(now) });
            self.due.push(Reverse((now, key)));
        }
    }

    /// Has the next search for a client take place at once.
    fn bring_forward(&mut self, key: PrefixKey) {
        let now = Instant::now();
        if let Some(sought) = self.sought.get_mut(&key)
            && sought.due.is_some_and(|due| due > now)
        {
            sought.due = Some(now);
            self.due.push(Reverse((now, key)));
        }
    }

    /// Begins the search that is due, unless its client has fallen silent.
    fn search(&mut self, searching: &mut JoinSet<Searched>) {
        let Some(Reverse((at, key))) = self.due.pop() else {
            return;
        };
        let (Some(entry), Some(searcher)) = (self.sought.get_mut(&key), self.searcher.clone()) else {
            return;
        };
        if entry.due != Some(at) {
            return;
        }
        entry.due = None;
        let sought = entry.clone();
        let now = Instant::now();
        // A resolver that was referred comes back within the promise, if it still wants anything.
        let has_asked = |then| self.clients.has_asked_since(then, key);
        if sought.searches > 0 && !now.checked_sub(searcher.promise).is_none_or(has_asked) {
            self.sought.remove(&key);
            self.clients.leave(key);
            return;
        }
        let known = self.clients.peek(now, key);
        searching.spawn(async move {
            let address = sought.client.address;
            let (routers, bound) = match sought.routers {
                Some(routers) => (routers, None),
                None => {
                    let way = way::last_routers(address).await;
                    (way.routers, way.rtt_bound)
                }
            };
            let rtt = known.rtt.or(bound);
            let near = searcher.search(address, rtt, routers.clone(), known.near.as_deref()).await;
            let searches = sought.searches.saturating_add(1);
            let sought = Sought { routers: Some(routers), searches, ..sought };
            (sought, bound.filter(|_| known.rtt.is_none()), near)
        });
    }

    fn found(&mut self, (mut sought, bound, near): Searched) {
        let (now, key) = (Instant::now(), sought.client.key());
        let outcome = if near.is_some() { "found" } else { "nobody" };
        self.metrics.searches.get_or_create(&OutcomeLabels { outcome }).inc();
        tracing::debug!(prefix = %sought.client.prefix, routers = ?sought.routers, ?bound, ?near, "looked near a client");
        if let Some(bound) = bound {
            self.clients.observe(now, key, bound);
        }
        // One search can fail by chance, and the next regular one is half a minute away.
        let may_be_chance = sought.searches == 1 || self.clients.peek(now, key).near.is_some();
        let is_early = near.is_none() && may_be_chance;
        self.clients.set_near(now, key, near, self.config.search_interval + RELIANCE);
        let due = now + if is_early { SECOND_LOOK } else { self.config.search_interval };
        self.due.push(Reverse((due, key)));
        sought.due = Some(due);
        self.sought.insert(key, sought);
    }
}

fn count(metrics: &Metrics, outcome: &'static str) {
    metrics.probes.get_or_create(&OutcomeLabels { outcome }).inc();
}

#[cfg(test)]
mod tests;
