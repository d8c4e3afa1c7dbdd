//! Sockets: UDP and TCP (RFC 7766), from the first query to the drain.
//!
//! Each UDP socket is read by one thread that answers as it reads (`server/udp.rs`): working out an answer never waits, so nothing
//! piles up but in the kernel's buffer, which is bounded. TCP connections are tasks, bounded in number, and each has one
//! query in hand at a time and a deadline for it (`server/tcp.rs`). hickory's own server loop spawns a task for each datagram, has
//! no limit of connections, and neither shows nor counts what it cannot parse; so the loops are ours.

mod tcp;
mod udp;

use std::future::Future;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coral_dsht::{DshtHandle, Peer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use crate::appraisal::Appraiser;
use crate::candidates::Candidates;
use crate::clients::{Clients, Recollection};
use crate::config::{Config, ProbeConfig};
use crate::error::DnsError;
use crate::handler::Handler;
use crate::metrics::Metrics;
use crate::name::Suffix;
use crate::near::Searcher;
use crate::probe::echo::Echo;
use crate::probe::{self, Prober};
use crate::proximity::Client;

use tcp::Tcp;
use udp::Reader;

/// How long connections may take, once the server is told to stop, to bring what they have begun to an end.
const DRAIN: Duration = Duration::from_secs(3);

/// What the server answers on. All are bound by the caller.
#[derive(Debug)]
pub struct Sockets {
    /// Each is read by one thread of its own, so as many as there are cores are of use. Bind the addresses one by one rather than the wildcard where a machine has
    /// several, so that answers leave from the address that was asked.
    pub udp: Vec<UdpSocket>,
    /// `None` answers over UDP alone, which is enough for a test and too little for a resolver.
    pub tcp: Option<TcpListener>,
}

/// A node's nameserver.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    suffixes: Vec<Suffix>,
    me: Peer,
    dsht: DshtHandle,
    metrics: Metrics,
    /// What is known of clients from the start.
    known: Vec<Recollection>,
    memory: Memory,
    observations: Option<mpsc::Receiver<(IpAddr, Duration)>>,
    port: u16,
    leaves: Arc<AtomicBool>,
}

/// What a server knows of clients. Clones are of the same one.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<OnceLock<Arc<Clients>>>);

impl Memory {
    /// What another process can go on with, as [`Clients::recall`] has it; nothing of a server that does not run or measures nobody.
    pub fn recall(&self, most: usize) -> Vec<Recollection> {
        self.0.get().map(|clients| clients.recall(Instant::now(), most)).unwrap_or_default()
    }
}

/// A task of the server has ended, for good or not.
type Ended = Result<Result<(), DnsError>, JoinError>;

impl Server {
    /// A server for the zones `suffixes`, which names itself, `me.addr.ip()`, for what `me.services` has.
    pub fn new(config: Arc<Config>, suffixes: Vec<Suffix>, me: Peer, dsht: DshtHandle, metrics: Metrics) -> Self {
        Self {
            config,
            suffixes,
            me,
            dsht,
            metrics,
            known: Vec::new(),
            memory: Memory::default(),
            observations: None,
            port: 53,
            leaves: Arc::default(),
        }
    }

    /// Begins with what is known of clients' networks, as of the moment when the server is run. Without [`Config::probe`] nothing is.
    pub fn remember(&mut self, known: impl IntoIterator<Item = Recollection>) {
        self.known.extend(known);
    }

    /// What it will know of clients, for who asks while it runs.
    pub fn memory(&self) -> Memory {
        self.memory.clone()
    }

    /// Learns round-trip times of clients from whoever else sees them, such as this node's cache, while it runs.
    pub fn observe(&mut self, observations: mpsc::Receiver<(IpAddr, Duration)>) {
        self.observations = Some(observations);
    }

    /// The port of other nodes' nameservers. Default 53, where resolvers ask: another one is for tests.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// If this is set when the server is stopped, another process goes on with the same sockets: what has arrived there is left to it.
    pub fn leaves(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.leaves)
    }

    /// Answers until `shutdown` is done, then finishes what has arrived. Dropping the future stops it at once. It is to be
    /// polled within a tokio runtime, on which it runs all but the threads that read the UDP sockets.
    ///
    /// An error means that it has stopped, and closed its sockets.
    pub async fn run(mut self, sockets: Sockets, shutdown: impl Future<Output = ()> + Send) -> Result<(), DnsError> {
        if self.suffixes.is_empty() {
            return Err(DnsError::NoSuffix);
        }
        if sockets.udp.is_empty() && sockets.tcp.is_none() {
            return Err(DnsError::NoSocket);
        }
        // Tasks of the background end with this future, whichever way it ends.
        let mut background = JoinSet::new();
        let candidates = self.start_candidates(&mut background).await;
        let prober = self.start_prober(&candidates, &mut background);
        let handler = Arc::new(Handler::new(
            Arc::clone(&self.config),
            self.suffixes.clone(),
            self.me,
            candidates,
            prober,
            self.metrics.clone(),
            entropy()?,
        )?);

        let (stop, stopped) = watch::channel(false);
        let (mut tasks, mut readers) = (JoinSet::new(), Vec::new());
        for (number, socket) in sockets.udp.into_iter().enumerate() {
            let (reader, ended) = Reader::start(number, socket, Arc::clone(&handler), self.metrics.clone())?;
            readers.push(reader);
            tasks.spawn(udp::end(ended));
        }
        if let Some(listener) = sockets.tcp {
            let tcp = Tcp { handler, config: Arc::clone(&self.config), metrics: self.metrics.clone(), stopped };
            tasks.spawn(tcp.serve(listener));
        }
        tracing::info!(zones = ?self.suffixes, me = %self.me.addr.ip(), "serving names");

        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => flatten(ended),
        };
        stop.send_replace(true);
        if self.leaves.load(Ordering::Acquire) {
            readers.iter().for_each(Reader::leave);
            let _ = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
            return outcome;
        }
        readers.iter().for_each(Reader::stop);
        while let Some(ended) = tasks.join_next().await {
            if outcome.is_ok() {
                flatten(ended)?;
            }
        }
        outcome
    }

    /// Learns who is alive before the first query, unless the index is too slow for that, and from then on.
    async fn start_candidates(&self, background: &mut JoinSet<()>) -> Candidates {
        let max_age = self.config.max_age.max(self.config.refresh.saturating_mul(2));
        let candidates = Candidates::new(self.me, max_age, Instant::now());
        // Whether it has stopped or is slow, the task will find out.
        let _ = timeout(self.config.refresh, candidates.refresh(&self.dsht, &self.metrics)).await;
        let (dsht, config) = (self.dsht.clone(), Arc::clone(&self.config));
        background.spawn(candidates.clone().keep_fresh(dsht, config, self.metrics.clone()));
        candidates
    }

    fn start_prober(&mut self, candidates: &Candidates, background: &mut JoinSet<()>) -> Option<Prober> {
        let config = self.config.probe.as_ref()?;
        let clients = Arc::new(Clients::new(config.ttl, config.capacity.get(), Instant::now()));
        for known in self.known.drain(..) {
            clients.remember(Instant::now(), &known);
        }
        // A server runs once.
        let _ = self.memory.0.set(Arc::clone(&clients));
        if let Some(mut observations) = self.observations.take() {
            let clients = Arc::clone(&clients);
            background.spawn(async move {
                while let Some((address, rtt)) = observations.recv().await {
                    clients.observe(Instant::now(), Client::new(address, None).key(), rtt);
                }
            });
        }
        let echo = Echo::new(config);
        if let Err(error) = &echo {
            tracing::warn!(%error, "clients cannot be measured by echo; traces and this node's own clients remain");
        }
        let searcher = config.search.then(|| self.searcher(config, candidates.clone()));
        let metrics = self.metrics.clone();
        let (prober, task) = probe::new(config, clients, echo.ok(), searcher, candidates.clone(), metrics);
        background.spawn(task.run());
        Some(prober)
    }

    fn searcher(&self, config: &ProbeConfig, candidates: Candidates) -> Searcher {
        let suffix = self.suffixes[0].clone();
        let ttl = self.config.near_referral_ttl.max(self.config.referral_ttl);
        Searcher {
            me: self.me.addr.ip().to_canonical(),
            dsht: self.dsht.clone(),
            appraiser: Arc::new(Appraiser::new(suffix, self.port, PATIENCE)),
            candidates,
            nameservers: self.config.nameservers.get().saturating_sub(1).max(1),
            // A referral may be sent as long as what was found is relied on, and holds for its TTL.
            promise: config.search_interval + probe::RELIANCE + ttl + PROMISE_MARGIN,
        }
    }
}

/// How long another node's answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A promise is made before its search ends, and a resolver's TTL counts from when the referral arrives.
const PROMISE_MARGIN: Duration = Duration::from_secs(5);

fn entropy<const N: usize>() -> Result<[u8; N], DnsError> {
    let mut seed = [0; N];
    getrandom::fill(&mut seed).map_err(|_| DnsError::NoEntropy)?;
    Ok(seed)
}

fn flatten(ended: Ended) -> Result<(), DnsError> {
    ended.unwrap_or(Err(DnsError::Panicked))
}

/// Whether a socket can go on after this error: those of single datagrams and connections come up at the next call.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted};
    use io::ErrorKind::{NetworkUnreachable, WouldBlock};
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | WouldBlock
    )
}

/// Whether the process or the system is out of file descriptors or memory for now: `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}
