//! Passive hints: what the kernel knows of the distance to real clients, told to the index (design.md §3.2).
//!
//! Many resolvers and most browsers answer no echo request, but each connection's handshake has measured its round trip. A
//! network (/24 or /48) from which clients of this node come within the diameter of level 1 gets this node's hint, as
//! [`coral_dsht::hint`] has them: so any nameserver finds a node near a client of that network, whoever asks for it. Whoever
//! follows a hint asks the node itself first.
//!
//! A handshake proves the client's address, but costs a scanner little: a hint takes connections on which a request was
//! answered, hints go out one at a time and no faster than configured, and the networks remembered are bounded. Somebody
//! who ends TCP for others (a satellite operator, a load balancer) is seen at his own distance, not at theirs.
//!
//! [`Table`] decides, and knows no socket and no clock; one task asks it and puts; [`rtt`] asks the kernel.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coral_dsht::{DshtHandle, Level, Levels, Prefix, hint};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::address::may_be_peer;
use crate::config;
use crate::metrics::Metrics;

/// Observations on their way to the task; more are dropped.
const WAITING: usize = 1024;
/// How long one request to the index may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the least round-trip time of a network counts: routes and clients change.
const LATELY: Duration = Duration::from_secs(hint::TTL.as_secs() / 2);

/// Where connections are told. Clones tell the same task, which ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    events: mpsc::Sender<Seen>,
    watcher: Arc<Mutex<Option<Watcher>>>,
    task: AbortHandle,
}

type Watcher = mpsc::Sender<(IpAddr, Duration)>;

/// One look at a connection.
#[derive(Debug, Clone, Copy)]
struct Seen {
    client: IpAddr,
    rtt: Duration,
    /// It has ended, and a request on it was answered.
    served: bool,
}

impl Clients {
    /// Starts the task that puts this node's hints.
    pub(crate) fn start(dsht: DshtHandle, config: config::Hints, metrics: Metrics) -> Self {
        let (events, seen) = mpsc::channel(WAITING);
        let watcher = Arc::default();
        let keeper =
            Keeper { dsht, config, metrics, watcher: Arc::clone(&watcher), table: Table::new(config), place: None };
        let task = tokio::spawn(keeper.run(seen)).abort_handle();
        Self { events, watcher, task }
    }

    /// A client is `rtt` away; `served` once its connection has ended and a request on it was answered.
    pub(crate) fn seen(&self, client: IpAddr, rtt: Duration, served: bool) {
        // A burst beyond what the task can take is dropped: others will come.
        let _ = self.events.try_send(Seen { client: client.to_canonical(), rtt, served });
    }

    /// From now on `watcher`, and no earlier one, is told of clients: see [`Proxy::watch_clients`](crate::Proxy::watch_clients).
    pub(crate) fn watch(&self, watcher: Watcher) {
        *lock(&self.watcher) = Some(watcher);
    }

    /// Puts no hint any more. Those that are out lapse by themselves.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

fn lock(watcher: &Mutex<Option<Watcher>>) -> std::sync::MutexGuard<'_, Option<Watcher>> {
    watcher.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This node as the index has it.
#[derive(Debug, Clone, Copy)]
struct Place {
    me: SocketAddr,
    /// The diameter of level 1; without levels nobody is near.
    near: Duration,
}

struct Keeper {
    dsht: DshtHandle,
    config: config::Hints,
    metrics: Metrics,
    watcher: Arc<Mutex<Option<Watcher>>>,
    table: Table,
    place: Option<Place>,
}

impl Keeper {
    async fn run(mut self, mut seen: mpsc::Receiver<Seen>) {
        let mut next_put = Instant::now();
        loop {
            tokio::select! {
                seen = seen.recv() => match seen {
                    Some(seen) => self.note(seen).await,
                    None => break,
                },
                () = tokio::time::sleep_until(next_put), if self.table.is_due() => {
                    // Before the put: its own time counts as a part of the pause.
                    next_put = Instant::now() + self.config.interval;
                    self.put().await;
                }
            }
        }
    }

    async fn note(&mut self, seen: Seen) {
        if seen.served && self.config.put && self.place.is_none() {
            self.place = self.place().await;
        }
        let is_news = self.table.note(Instant::now(), seen, self.place);
        self.metrics.client_prefixes.set(i64::try_from(self.table.entries.len()).unwrap_or(i64::MAX));
        if is_news && let Some(watcher) = &*lock(&self.watcher) {
            // One that does not keep up misses some.
            let _ = watcher.try_send((seen.client, seen.rtt));
        }
    }

    async fn place(&self) -> Option<Place> {
        let snapshot = tokio::time::timeout(REQUEST_TIMEOUT, self.dsht.snapshot()).await.ok()?.ok()?;
        let level_1 = snapshot.clusters.iter().find(|status| Some(status.level) == Level::new(1));
        let near = level_1.and_then(|status| status.diameter).unwrap_or_default();
        Some(Place { me: snapshot.me.addr, near })
    }

    async fn put(&mut self) {
        let (Some(place), Some(network)) = (self.place, self.table.take_due(Instant::now())) else { return };
        let put = self.dsht.put(hint::network(network.first()), hint::value(place.me), hint::TTL, Levels::ALL);
        match tokio::time::timeout(REQUEST_TIMEOUT, put).await {
            Ok(Ok(_)) => {
                self.metrics.hints.inc();
            }
            _ => tracing::debug!(?network, "the index did not take a hint"),
        }
    }
}

/// What is known of clients' networks: a bounded number of them, the one longest without a client giving way.
#[derive(Debug)]
struct Table {
    config: config::Hints,
    entries: HashMap<Prefix, Entry>,
    /// The keys of `entries` by when they were last seen, each once.
    order: BTreeMap<u64, Prefix>,
    clock: u64,
    /// Those to put a hint for, each once. One that has given way meanwhile is passed over.
    due: VecDeque<Prefix>,
}

#[derive(Debug)]
struct Entry {
    /// Its key in `order`.
    seen: u64,
    /// The least lately, and since when.
    rtt: Duration,
    since: Instant,
    /// Connections on which a request was answered, since the last put.
    served: u32,
    put: Option<Instant>,
    is_due: bool,
}

impl Table {
    fn new(config: config::Hints) -> Self {
        Self { config, entries: HashMap::new(), order: BTreeMap::new(), clock: 0, due: VecDeque::new() }
    }

    /// Whether this network's round-trip time is new, or clearly lower than it was. Without a `place` no hint becomes due.
    fn note(&mut self, now: Instant, seen: Seen, place: Option<Place>) -> bool {
        let network = Prefix::of(seen.client);
        self.clock += 1;
        let mut is_news = false;
        let entry = self.entries.entry(network).or_insert_with(|| {
            is_news = true;
            Entry { seen: 0, rtt: seen.rtt, since: now, served: 0, put: None, is_due: false }
        });
        self.order.remove(&entry.seen);
        entry.seen = self.clock;
        self.order.insert(self.clock, network);
        if now - entry.since >= LATELY {
            is_news = true;
            (entry.rtt, entry.since) = (seen.rtt, now);
        } else if seen.rtt < entry.rtt {
            is_news |= seen.rtt < entry.rtt.mul_f64(CLEARLY);
            (entry.rtt, entry.since) = (seen.rtt, now);
        }
        entry.served = entry.served.saturating_add(seen.served.into());
        let is_old = entry.put.is_none_or(|put| now - put >= hint::TTL / 2);
        let is_hinted = |place: Place| {
            let is_elsewhere = network != Prefix::of(place.me.ip());
            is_elsewhere && entry.rtt < place.near && may_be_peer(SocketAddr::new(seen.client, 0), place.me)
        };
        let is_wanted = self.config.put && entry.served >= self.config.connections.get() && is_old;
        if is_wanted && !entry.is_due && place.is_some_and(is_hinted) {
            entry.is_due = true;
            self.due.push_back(network);
        }
        while self.entries.len() > self.config.prefixes.get()
            && let Some((_, oldest)) = self.order.pop_first()
        {
            let was_due = self.entries.remove(&oldest).is_some_and(|entry| entry.is_due);
            if was_due {
                self.due.retain(|network| *network != oldest);
            }
        }
        is_news
    }

    fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The network whose hint is to be put now: it counts as put, whatever comes of it, so that a put that fails is not
    /// tried again at once.
    fn take_due(&mut self, now: Instant) -> Option<Prefix> {
        let network = self.due.pop_front()?;
        let entry = self.entries.get_mut(&network)?;
        (entry.is_due, entry.served, entry.put) = (false, 0, Some(now));
        Some(network)
    }
}

/// A round-trip time below this share of the one before is worth telling.
const CLEARLY: f64 = 0.8;

/// The round-trip time of a connection, as the kernel has measured it: the least of the last minutes, or the smoothed one
/// where it keeps no least. `None` if it has not measured any, or does not say.
pub(crate) fn rtt(socket: &impl AsFd) -> Option<Duration> {
    let info = tcp_info(socket).inspect_err(|error| tracing::debug!(%error, "no TCP_INFO")).ok()?;
    least(info.tcpi_rtt, info.tcpi_min_rtt)
}

/// In microseconds. None measured is 0, and for the least one the largest number; kernels before 4.6 have none and leave 0.
fn least(smoothed: u32, min: u32) -> Option<Duration> {
    let measured = [min, smoothed].into_iter().find(|rtt| !matches!(*rtt, 0 | u32::MAX))?;
    Some(Duration::from_micros(measured.into()))
}

/// What the kernel knows of a TCP connection (tcp(7)). An older kernel fills less of it; the rest is zero.
#[expect(
    unsafe_code,
    reason = "no crate in use wraps TCP_INFO: nix has it as an open request only, socket2 and rustix not"
)]
fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: the structure consists of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let fd = socket.as_fd();
    // SAFETY: the descriptor is borrowed, so it is open; the kernel writes at most `length` bytes to `info`, and to `length`.
    let result = unsafe {
        let to: *mut libc::tcp_info = &mut info;
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to.cast(), &mut length)
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests;
