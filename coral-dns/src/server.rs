//! Sockets: UDP and TCP (RFC 7766), from the first query to the drain.
//!
//! Each UDP socket is read by one task that answers as it reads: working out an answer never waits, so nothing piles up
//! but in the kernel's buffer, which is bounded. TCP connections are bounded in number, and each has one query in hand at
//! a time and a deadline for it. hickory's own server loop spawns a task for each datagram, has no limit of connections,
//! and neither shows nor counts what it cannot parse; so the loops are ours, and `handler.rs` uses the rest of it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::{DshtHandle, Peer};
use ipnetwork::IpNetwork;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::appraisal::Appraiser;
use crate::candidates::Candidates;
use crate::clients::Clients;
use crate::config::{Config, ProbeConfig};
use crate::error::DnsError;
use crate::handler::{Handler, MAX_QUERY_BYTES, Message, Outcome, Scratch, Transport};
use crate::metrics::Metrics;
use crate::name::Suffix;
use crate::near::Searcher;
use crate::probe::echo::Echo;
use crate::probe::{self, Prober};
use crate::proximity::Client;

/// How long connections may take, once the server is told to stop, to bring what they have begun to an end.
const DRAIN: Duration = Duration::from_secs(3);

/// Datagrams that had arrived before the stop and are still answered, for each socket.
const LAST_DATAGRAMS: usize = 1024;

/// What the server answers on. All are bound by the caller.
#[derive(Debug)]
pub struct Sockets {
    /// Each is read by one task of its own. Bind the addresses one by one rather than the wildcard where a machine has
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
    known: Vec<(IpNetwork, Duration)>,
    observations: Option<mpsc::Receiver<(IpAddr, Duration)>>,
    port: u16,
}

/// A task of the server has ended, for good or not.
type Ended = Result<Result<(), DnsError>, JoinError>;

impl Server {
    /// A server for the zones `suffixes`, which names itself, `me.addr.ip()`, for what `me.services` has.
    pub fn new(config: Arc<Config>, suffixes: Vec<Suffix>, me: Peer, dsht: DshtHandle, metrics: Metrics) -> Self {
        Self { config, suffixes, me, dsht, metrics, known: Vec::new(), observations: None, port: 53 }
    }

    /// Begins with what is known of a client's network, as of the moment when the server is run.
    pub fn remember(&mut self, prefix: IpNetwork, rtt: Duration) {
        self.known.push((prefix, rtt));
    }

    /// Learns round-trip times of clients from whoever else sees them, such as this node's cache, while it runs.
    pub fn observe(&mut self, observations: mpsc::Receiver<(IpAddr, Duration)>) {
        self.observations = Some(observations);
    }

    /// The port of other nodes' nameservers. Default 53, where resolvers ask: another one is for tests.
    pub fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Answers until `shutdown` is done, then finishes what has arrived. Dropping the future stops it at once.
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
        let mut tasks = JoinSet::new();
        for socket in sockets.udp {
            tasks.spawn(serve_udp(socket, Arc::clone(&handler), self.metrics.clone(), stopped.clone()));
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
        for (prefix, rtt) in self.known.drain(..) {
            clients.observe(Instant::now(), Client::of(prefix).key(), rtt);
        }
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

/// Answers that wait for a measurement, or are held back, at once. Further ones are sent as they are.
const MAX_WAITING: usize = 1024;

/// One UDP socket: what its reader keeps, and what those keep that wait.
#[derive(Debug)]
struct Udp {
    socket: Arc<UdpSocket>,
    handler: Arc<Handler>,
    metrics: Metrics,
    scratch: Scratch,
    waiting: JoinSet<()>,
    /// The answer under construction.
    out: Vec<u8>,
    /// Counts queries, as only some are timed.
    queries: u64,
}

/// Of so many queries one is timed: a histogram has a lock.
const TIMED: u64 = 16;

async fn serve_udp(
    socket: UdpSocket,
    handler: Arc<Handler>,
    metrics: Metrics,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), DnsError> {
    let scratch = handler.scratch(entropy()?);
    let mut udp = Udp {
        socket: Arc::new(socket),
        handler,
        metrics,
        scratch,
        waiting: JoinSet::new(),
        out: Vec::new(),
        queries: 0,
    };
    let mut buffer = vec![0; MAX_QUERY_BYTES];
    let mut stop = std::pin::pin!(until(&mut stopped));
    loop {
        let readable = tokio::select! {
            readable = udp.socket.readable() => readable,
            () = &mut stop => break,
        };
        if let Err(source) = readable {
            return Err(DnsError::Socket { transport: "udp", source });
        }
        // A bounded number, lest a flood keep this task from hearing of the stop.
        for _ in 0..LAST_DATAGRAMS {
            match udp.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => udp.answer(&buffer[..length], from, true).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_passing(&error) || is_exhausted(&error) => udp.handler.dropped("receive"),
                Err(source) => return Err(DnsError::Socket { transport: "udp", source }),
            }
        }
        while udp.waiting.try_join_next().is_some() {}
    }
    hear_of_arrivals().await;
    for _ in 0..LAST_DATAGRAMS {
        let Ok((length, from)) = udp.socket.try_recv_from(&mut buffer) else {
            break;
        };
        udp.answer(&buffer[..length], from, false).await;
    }
    // Those that wait do so for less than that.
    let _ = timeout(DRAIN, async { while udp.waiting.join_next().await.is_some() {} }).await;
    Ok(())
}

impl Udp {
    async fn answer(&mut self, query: &[u8], from: SocketAddr, may_wait: bool) {
        let may_wait = may_wait && self.waiting.len() < MAX_WAITING;
        self.out.clear();
        let start = Instant::now();
        let (handler, scratch) = (&self.handler, &mut self.scratch);
        let message = Message { from, transport: Transport::Udp, bytes: query, may_wait, is_again: false };
        let outcome = handler.respond(scratch, start, message, &mut self.out);
        self.queries += 1;
        if self.queries.is_multiple_of(TIMED) {
            self.metrics.seconds.observe(start.elapsed().as_secs_f64());
        }
        match outcome {
            Outcome::Nothing => {}
            Outcome::Send => send(&self.socket, &self.handler, &self.out, from).await,
            Outcome::SendAfter(hold) => {
                let (socket, handler, answer) = (Arc::clone(&self.socket), Arc::clone(&self.handler), self.out.clone());
                self.waiting.spawn(async move {
                    sleep(hold).await;
                    send(&socket, &handler, &answer, from).await;
                });
            }
            Outcome::Wait(client) => {
                let (socket, handler, query) = (Arc::clone(&self.socket), Arc::clone(&self.handler), query.to_vec());
                let mut scratch = Box::new(handler.scratch(self.scratch.seed()));
                self.waiting.spawn(async move {
                    handler.measured(&client).await;
                    let (mut out, now) = (Vec::new(), Instant::now());
                    let (bytes, transport) = (&query[..], Transport::Udp);
                    let message = Message { from, transport, bytes, may_wait: false, is_again: true };
                    let outcome = handler.respond(&mut scratch, now, message, &mut out);
                    if outcome == Outcome::Send {
                        send(&socket, &handler, &out, from).await;
                    }
                });
            }
        }
    }
}

/// Waits for the stop, or for the end of who would say it.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Lets the runtime poll its sockets once: a `try_` call knows only of what had arrived by the last time it did.
async fn hear_of_arrivals() {
    tokio::task::yield_now().await;
}

async fn send(socket: &UdpSocket, handler: &Handler, answer: &[u8], to: SocketAddr) {
    // The asker will ask again.
    if socket.send_to(answer, to).await.is_err() {
        handler.dropped("send");
    }
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

/// A connection in the gauge of those open.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What the TCP side shares between its connections.
#[derive(Debug, Clone)]
struct Tcp {
    handler: Arc<Handler>,
    config: Arc<Config>,
    metrics: Metrics,
    stopped: watch::Receiver<bool>,
}

impl Tcp {
    async fn serve(mut self, listener: TcpListener) -> Result<(), DnsError> {
        let mut connections = JoinSet::new();
        // Those open, the oldest first, and some that have ended.
        let mut open = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = until(&mut self.stopped) => break,
            };
            match accepted {
                Ok((stream, from)) => {
                    self.make_room(&mut open);
                    let tcp = self.clone();
                    open.push_back(connections.spawn(async move {
                        let _counted = Counted::new(tcp.metrics.tcp_connections.clone());
                        tcp.connection(stream, from).await;
                    }));
                }
                Err(error) if is_passing(&error) => self.handler.dropped("accept"),
                Err(error) if is_exhausted(&error) => {
                    self.handler.dropped("accept");
                    // Out of file descriptors: until one of ours is closed, or others may have closed theirs.
                    let _ = timeout(Duration::from_millis(100), connections.join_next()).await;
                }
                Err(source) => {
                    return Err(DnsError::Socket { transport: "tcp", source });
                }
            }
        }
        drop(listener);
        // What is not done by then is cut off when the set is dropped.
        let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }

    /// Ends the oldest connection if there are as many as there may be. Most clients are done within a round trip, so the
    /// oldest is one that idles; were the newcomer turned away instead, whoever holds idle ones would keep all others out.
    fn make_room(&self, open: &mut VecDeque<AbortHandle>) {
        let most = self.config.tcp_connections.get();
        if open.len() >= most {
            open.retain(|connection| !connection.is_finished());
        }
        if open.len() >= most
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            self.handler.dropped("connections");
        }
    }

    /// One connection, query by query, until the client ends it, breaks the rules, or is too slow.
    async fn connection(&self, mut stream: TcpStream, from: SocketAddr) {
        let mut stopped = self.stopped.clone();
        let Ok(seed) = entropy() else {
            return;
        };
        let mut scratch = Box::new(self.handler.scratch(seed));
        let mut buffer = Vec::new();
        loop {
            let mut first = [0];
            let begun = tokio::select! {
                read = timeout(self.config.tcp_idle, stream.read(&mut first)) => matches!(read, Ok(Ok(1))),
                () = until(&mut stopped) => {
                    hear_of_arrivals().await;
                    matches!(stream.try_read(&mut first), Ok(1))
                }
            };
            if !begun {
                return;
            }
            let exchange = self.exchange(&mut stream, from, first[0], &mut scratch, &mut buffer);
            if !matches!(timeout(self.config.tcp_idle, exchange).await, Ok(Ok(true))) {
                return;
            }
        }
    }

    /// Reads the query whose length begins with `first` (RFC 1035 §4.2.2) and answers it. False ends the connection.
    async fn exchange(
        &self,
        stream: &mut TcpStream,
        from: SocketAddr,
        first: u8,
        scratch: &mut Scratch,
        buffer: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let length = usize::from(u16::from_be_bytes([first, stream.read_u8().await?]));
        if length > MAX_QUERY_BYTES {
            self.handler.dropped("long");
            return Ok(false);
        }
        buffer.resize(length, 0);
        stream.read_exact(buffer).await?;
        // In one write, so that it is one segment (RFC 7766 §8): first the room for its length.
        let mut framed = vec![0; 2];
        let mut may_wait = true;
        loop {
            let start = Instant::now();
            let message = Message { from, transport: Transport::Tcp, bytes: buffer, may_wait, is_again: !may_wait };
            let outcome = self.handler.respond(scratch, start, message, &mut framed);
            self.metrics.seconds.observe(start.elapsed().as_secs_f64());
            match outcome {
                Outcome::Nothing => return Ok(false),
                Outcome::Send | Outcome::SendAfter(_) => break,
                Outcome::Wait(client) => self.handler.measured(&client).await,
            }
            may_wait = false;
        }
        let length = u16::try_from(framed.len() - 2).map_err(io::Error::other)?;
        framed[..2].copy_from_slice(&length.to_be_bytes());
        stream.write_all(&framed).await?;
        Ok(true)
    }
}

/// Whether the process or the system is out of file descriptors or memory for now: `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}
