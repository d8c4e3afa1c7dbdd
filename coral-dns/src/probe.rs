//! Measuring clients, apart from answering them [C04 §3.1]: a query asks for the round-trip time to its client, gets what
//! is known at once, and what is found later serves the next query.
//!
//! One measurement stands for a prefix (/24, /48), is used for [`ProbeConfig::ttl`], and is taken once at a time. Their
//! number under way and the number remembered are bounded, since anybody can make up source addresses. How to measure is
//! [`echo`]'s; [`trace`] finds the routers on the way, and [`way`] says which of them are near the client.

pub mod echo;
pub mod trace;
pub mod way;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::ProbeConfig;
use crate::metrics::{Metrics, OutcomeLabels};
use crate::proximity::Client;

/// A way to measure the round-trip time to an address.
pub trait Measure: Send + Sync + 'static {
    /// The round-trip time, or `None` if the address did not answer. Ends by itself within a bounded time.
    fn rtt(&self, address: IpAddr) -> impl Future<Output = Option<Duration>> + Send;
}

/// What is known of prefixes: at most a fixed number of them, the oldest giving way. Knows no clock.
#[derive(Debug)]
pub struct Measurements {
    ttl: Duration,
    capacity: usize,
    entries: HashMap<IpNetwork, Entry>,
    /// The keys of `entries`, each once, in the order in which they came.
    order: VecDeque<IpNetwork>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    rtt: Option<Duration>,
    /// When the last measurement ended, or began if it has not.
    at: Instant,
    under_way: bool,
}

impl Measurements {
    /// None yet.
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity: capacity.max(1), entries: HashMap::new(), order: VecDeque::new() }
    }

    /// The round-trip time last measured, and whether it is time to measure (again).
    pub fn look_up(&self, now: Instant, prefix: &IpNetwork) -> (Option<Duration>, bool) {
        match self.entries.get(prefix) {
            Some(entry) => (entry.rtt, !entry.under_way && self.is_old(now, entry)),
            None => (None, true),
        }
    }

    /// Notes that a measurement begins. False, and nothing is noted, if one is under way or the last is still good.
    pub fn begin(&mut self, now: Instant, prefix: IpNetwork) -> bool {
        if !self.look_up(now, &prefix).1 {
            return false;
        }
        if let Some(entry) = self.entries.get_mut(&prefix) {
            // What was known serves until it is known better.
            entry.under_way = true;
            return true;
        }
        if self.entries.len() >= self.capacity {
            let oldest = self.order.pop_front().expect("what is in the map is in the order");
            self.entries.remove(&oldest);
        }
        let entry = Entry { rtt: None, at: now, under_way: true };
        self.entries.insert(prefix, entry);
        self.order.push_back(prefix);
        true
    }

    /// Notes how a measurement ended. Without effect if the prefix had to give way meanwhile.
    pub fn end(&mut self, now: Instant, prefix: &IpNetwork, rtt: Option<Duration>) {
        if let Some(entry) = self.entries.get_mut(prefix) {
            *entry = Entry { rtt, at: now, under_way: false };
        }
    }

    fn is_old(&self, now: Instant, entry: &Entry) -> bool {
        now.saturating_duration_since(entry.at) >= self.ttl
    }
}

/// The side of the queries: looks up, and asks for a measurement where there is none.
#[derive(Debug, Clone)]
pub struct Prober {
    shared: Arc<RwLock<Measurements>>,
    wanted: mpsc::Sender<Client>,
    metrics: Metrics,
}

/// The side that measures: to be [run](Task::run) as a task.
#[derive(Debug)]
pub struct Task<M> {
    shared: Arc<RwLock<Measurements>>,
    wanted: mpsc::Receiver<Client>,
    at_once: usize,
    measure: Arc<M>,
    metrics: Metrics,
}

/// Both sides. The task ends when all clones of the prober are gone.
pub fn new<M: Measure>(config: &ProbeConfig, measure: M, metrics: Metrics) -> (Prober, Task<M>) {
    let shared = Arc::new(RwLock::new(Measurements::new(config.ttl, config.capacity.get())));
    let (sender, wanted) = mpsc::channel(config.at_once.get());
    let prober = Prober { shared: Arc::clone(&shared), wanted: sender, metrics: metrics.clone() };
    let task = Task { shared, wanted, at_once: config.at_once.get(), measure: Arc::new(measure), metrics };
    (prober, task)
}

impl Prober {
    /// The round-trip time to `client` as far as it is known. Never waits.
    pub fn rtt(&self, now: Instant, client: &Client) -> Option<Duration> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let (rtt, is_wanted) = shared.look_up(now, &client.prefix);
        drop(shared);
        if is_wanted && self.wanted.try_send(*client).is_err() {
            count(&self.metrics, "skipped");
        }
        rtt
    }
}

impl<M: Measure> Task<M> {
    /// Measures what is asked for, a bounded number at once.
    pub async fn run(mut self) {
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                client = self.wanted.recv(), if under_way.len() < self.at_once => match client {
                    Some(client) => self.begin(client, &mut under_way),
                    None => return,
                },
                Some(ended) = under_way.join_next() => match ended {
                    Ok((prefix, rtt)) => self.end(&prefix, rtt),
                    Err(error) => tracing::error!(%error, "a measurement panicked: a bug"),
                },
            }
        }
    }

    fn begin(&self, client: Client, under_way: &mut JoinSet<(IpNetwork, Option<Duration>)>) {
        // Several queries may have asked before the first measurement began.
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        if shared.begin(Instant::now(), client.prefix) {
            let measure = Arc::clone(&self.measure);
            under_way.spawn(async move { (client.prefix, measure.rtt(client.address).await) });
        }
    }

    fn end(&self, prefix: &IpNetwork, rtt: Option<Duration>) {
        count(&self.metrics, if rtt.is_some() { "answered" } else { "silent" });
        tracing::debug!(%prefix, ?rtt, "measured a client");
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        shared.end(Instant::now(), prefix, rtt);
    }
}

fn count(metrics: &Metrics, outcome: &'static str) {
    metrics.probes.get_or_create(&OutcomeLabels { outcome }).inc();
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Mutex;

    use prometheus_client::registry::Registry;
    use tokio::sync::Semaphore;

    use super::*;

    const TTL: Duration = Duration::from_secs(600);
    const RTT: Option<Duration> = Some(Duration::from_millis(7));

    fn prefix(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn client(address: &str) -> Client {
        Client::new(address.parse().unwrap(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_is_measured_once_at_a_time_and_again_when_it_is_old() {
        let (now, prefix) = (Instant::now(), prefix("192.0.2.0/24"));
        let mut known = Measurements::new(TTL, 9);
        assert!(known.begin(now, prefix));
        assert!(!known.begin(now + 2 * TTL, prefix));
        known.end(now, &prefix, RTT);
        assert_eq!(known.look_up(now, &prefix), (RTT, false));
        assert_eq!(known.look_up(now + TTL, &prefix), (RTT, true));
        assert!(known.begin(now + TTL, prefix));
        assert_eq!(known.look_up(now + TTL, &prefix), (RTT, false));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_prefix_gives_way() {
        let now = Instant::now();
        let mut known = Measurements::new(TTL, 2);
        let prefixes = ["192.0.0.0/24", "192.0.1.0/24", "192.0.2.0/24"].map(prefix);
        for prefix in prefixes {
            assert!(known.begin(now, prefix));
            known.end(now, &prefix, RTT);
        }
        assert_eq!(prefixes.map(|prefix| known.look_up(now, &prefix).0), [None, RTT, RTT]);
        assert_eq!((known.entries.len(), known.order.len()), (2, 2));
        known.end(now, &prefixes[0], RTT);
        assert_eq!(known.entries.len(), 2);
    }

    /// Answers once for each permit, and writes down whom it was asked for.
    struct Script {
        asked: Mutex<Vec<IpAddr>>,
        permits: Semaphore,
    }

    impl Measure for Arc<Script> {
        async fn rtt(&self, address: IpAddr) -> Option<Duration> {
            self.asked.lock().unwrap().push(address);
            self.permits.acquire().await.unwrap().forget();
            RTT
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_never_waits_and_the_next_one_knows() {
        let script = Arc::new(Script { asked: Mutex::default(), permits: Semaphore::new(0) });
        let config = ProbeConfig { at_once: NonZeroUsize::new(1).unwrap(), ..ProbeConfig::default() };
        let metrics = Metrics::register(&mut Registry::default());
        let (prober, task) = new(&config, Arc::clone(&script), metrics.clone());
        let (near, far) = (client("192.0.2.1"), client("198.51.100.1"));
        let task = tokio::spawn(task.run());

        // The first is under way, the second waits in line, the third finds no room.
        for (client, asked) in [(&near, 1), (&far, 1), (&far, 1)] {
            assert_eq!(prober.rtt(Instant::now(), client), None);
            until(|| script.asked.lock().unwrap().len() == asked).await;
        }
        let skipped = OutcomeLabels { outcome: "skipped" };
        assert_eq!(metrics.probes.get_or_create(&skipped).get(), 1);

        script.permits.add_permits(2);
        until(|| prober.rtt(Instant::now(), &near) == RTT && prober.rtt(Instant::now(), &far) == RTT).await;
        assert_eq!(*script.asked.lock().unwrap(), [near.address, far.address]);
        drop(prober);
        task.await.unwrap();
    }

    /// Lets the other tasks run until the condition holds.
    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }
}
