//! The accept loop, and the handle on it: start, status, drain and stop.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use coral_dsht::DshtHandle;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::access::AccessLog;
use crate::budget::Budget;
use crate::certificates::Certificates;
use crate::config::{Bandwidth, Config, Live};
use crate::connection::Connection;
use crate::error::ProxyError;
use crate::explain::Explanation;
use crate::fetch::{Fetcher, Read};
use crate::front::Front;
use crate::hints::Clients;
use crate::limits::{InHand, Limits};
use crate::metrics::Metrics;
use crate::pace::Line;
use crate::popular::{Popular, Popularity};
use crate::purge::{Moment, Pattern, PatternError, PurgedBy, owner};
use crate::searches::Search;
use crate::service::Service;
use crate::trace::{TraceLog, Traces};
use crate::url::{CoralUrl, DenyList, DenyListError, Names, Site, Suffix, UrlError};
use crate::workers::Workers;

/// How long to wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What may be sent, and what may be received, as far as there is a limit.
fn budgets(config: &Bandwidth, metrics: &Metrics) -> [Option<Budget>; 2] {
    [(config.send, "sent"), (config.receive, "received")]
        .map(|(rate, direction)| rate.map(|rate| Budget::new(rate.as_u64(), config.burst, metrics.waits(direction))))
}

/// What a proxy answers to, and does not serve.
fn names(
    suffixes: Vec<Suffix>,
    sites: &[Site],
    allow_addresses: bool,
    deny: Option<&Path>,
) -> Result<Names, ProxyError> {
    let deny = deny.map(deny_list).transpose()?.unwrap_or_default();
    Ok(Names { suffixes, sites: sites.to_vec(), allow_addresses, deny })
}

fn deny_list(path: &Path) -> Result<DenyList, ProxyError> {
    let unusable = |error: &dyn fmt::Display| {
        ProxyError::Setup(format!("the deny list {} cannot be used: {error}", path.display()).into())
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&error))?;
    text.parse().map_err(|error: DenyListError| unusable(&error))
}

/// A cache, to serve with and to ask. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Proxy {
    service: Arc<Service>,
    limits: Limits,
    clients: Clients,
    /// What is shown to those who speak TLS.
    certificates: Option<Certificates>,
    /// What may be sent.
    send: Option<Budget>,
    /// What may be received.
    receive: Option<Budget>,
    metrics: Metrics,
    /// Whether another process may take its place, see [`Proxy::leave`].
    has_left: watch::Sender<bool>,
}

/// What a proxy listens at.
#[derive(Debug)]
pub struct Sockets {
    /// For HTTP, where other nodes come, too.
    pub http: TcpListener,
    /// For HTTP over TLS, 1.1 or 2.
    pub https: Option<TcpListener>,
}

impl From<TcpListener> for Sockets {
    fn from(http: TcpListener) -> Self {
        Self { http, https: None }
    }
}

impl Sockets {
    /// The next connection, and what it is to speak TLS with if it came for that.
    async fn accept(&self, tls: Option<&Certificates>) -> (io::Result<(TcpStream, SocketAddr)>, Option<Certificates>) {
        let Some(https) = &self.https else {
            return (self.http.accept().await, None);
        };
        tokio::select! {
            accepted = self.http.accept() => (accepted, None),
            accepted = https.accept() => (accepted, tls.cloned()),
        }
    }
}

/// What a proxy has and has done, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Objects stored whole.
    pub objects: u64,
    /// Bytes of them in memory.
    pub memory_bytes: u64,
    /// Bytes of them on disk.
    pub disk_bytes: u64,
    /// References in the index.
    pub references: u64,
    /// Requests whose response is not yet sent whole.
    pub in_flight: u64,
    /// Requests of clients answered, by what the cache did: `hit`, `peer-l0`, `peer-l1`, `peer-l2`, `origin`, `revalidated`,
    /// `revalidating` (served while it is asked about), `stale`, `passed`, `not-cached` (only what is here was wanted), `own`
    /// (OPTIONS of this node, its page), `error`.
    pub requests: BTreeMap<String, u64>,
    /// The same of other nodes' requests: `hit`, the source of a fetch under way, `waiting` (told to ask again), `ask-origin`
    /// (what comes is not to be shared), or `not-cached`.
    pub peer_requests: BTreeMap<String, u64>,
    /// Requests sent to origins.
    pub origin_requests: u64,
    /// Requests that waited for the fetch of another one.
    pub coalesced: u64,
    /// Bodies that broke off and were continued.
    pub continued: u64,
    /// Errors, by whose fault they were: `client`, `peer`, `origin`, `node`.
    pub errors: BTreeMap<String, u64>,
    /// Bytes of bodies sent to clients.
    pub sent_to_clients_bytes: u64,
    /// Bytes of bodies sent to other nodes.
    pub sent_to_peers_bytes: u64,
    /// Bytes of bodies received from other nodes.
    pub received_from_peers_bytes: u64,
    /// Bytes of bodies received from origins.
    pub received_from_origins_bytes: u64,
}

/// What clients have got, and what it took: counters alone, which cost little to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// [`Status::requests`].
    pub requests: BTreeMap<String, u64>,
    /// [`Status::sent_to_clients_bytes`].
    pub sent_to_clients_bytes: u64,
    /// [`Status::received_from_origins_bytes`].
    pub received_from_origins_bytes: u64,
}

impl Proxy {
    /// A proxy that answers for `suffixes` and the configured sites, and is known to other nodes as `me`, its public
    /// HTTP address. It must be made inside a tokio runtime.
    ///
    /// Fails if the cache directory or a file of `origin.extra_ca` cannot be used, or TLS not be set up.
    pub fn new(
        config: Arc<Config>,
        suffixes: Vec<Suffix>,
        me: SocketAddr,
        dsht: DshtHandle,
        metrics: Metrics,
    ) -> Result<Self, ProxyError> {
        let names =
            ArcSwap::from_pointee(names(suffixes, &config.sites, config.allow_addresses, config.deny.as_deref())?);
        let limits = Limits::new(&config.client);
        let hints = config.hints;
        let [send, receive] = budgets(&config.bandwidth, &metrics);
        let certificates = match &config.certificates[..] {
            [] => None,
            files => Some(Certificates::new(files)?),
        };
        let traces = Traces::default();
        let fetcher = Fetcher::new(config, me, dsht.clone(), receive.clone(), metrics.clone(), traces.clone())?;
        let fetcher = Arc::new(fetcher);
        let clients = Clients::start(dsht, hints, metrics.clone());
        let service = Service {
            fetcher,
            names,
            front: OnceLock::new(),
            log: OnceLock::new(),
            traces,
            popularity: Popularity::default(),
            purged: OnceLock::new(),
            is_leaving: AtomicBool::new(false),
        };
        let has_left = watch::Sender::new(false);
        Ok(Self { service: Arc::new(service), limits, clients, certificates, send, receive, metrics, has_left })
    }

    /// Takes over what a running proxy can of `config`, without touching a connection: `sites`, `allow_addresses`, the file that
    /// `deny` names, `certificates` if there were any, `client.requests_per_address`, `client.max_connections_per_address`, and bandwidths that were limited before, with
    /// `bandwidth.burst`.
    ///
    /// Fails if a file cannot be used; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), ProxyError> {
        let Live {
            sites,
            allow_addresses,
            deny,
            certificates,
            send,
            receive,
            burst,
            max_connections_per_address,
            requests_per_address,
        } = config.live();
        let suffixes = self.service.names.load().suffixes.clone();
        let served = names(suffixes, sites, allow_addresses, deny.as_deref())?;
        if let Some(shown) = &self.certificates {
            shown.set(certificates)?;
        }
        self.service.names.store(Arc::new(served));
        self.limits.set(max_connections_per_address, requests_per_address);
        for (budget, rate) in [(&self.send, send), (&self.receive, receive)] {
            // One that was taken away holds until the next start, with the burst that is told now.
            if let Some(budget) = budget {
                budget.set(rate.map(|rate| rate.as_u64()), burst);
            }
        }
        Ok(())
    }

    /// From now on `watcher`, in place of an earlier one, is told the address of a client and the kernel's round-trip time to
    /// it, each time its network (/24 or /48) has a first or a clearly lower one. What does not fit into the channel is lost.
    pub fn watch_clients(&self, watcher: mpsc::Sender<(IpAddr, Duration)>) {
        self.clients.watch(watcher);
    }

    /// From now on `front` answers at the bare suffixes; one that was set before stays.
    pub fn serve_suffixes(&self, front: Arc<dyn Front>) {
        // Whoever wires a node does so once.
        let _ = self.service.front.set(front);
    }

    /// From now on `log` is told of each request when its response has been sent; one that was set before stays.
    pub fn log_requests(&self, log: Arc<dyn AccessLog>) {
        let _ = self.service.log.set(log);
    }

    /// From now on `log` is told of the steps of the requests that it wants; one that was set before stays.
    pub fn trace_requests(&self, log: Arc<dyn TraceLog>) {
        self.service.traces.set(log);
    }

    /// The `most` URLs that clients ask for most, as far as a few requests of many tell.
    pub fn popular(&self, most: usize) -> Vec<Popular> {
        self.service.popularity.top(most)
    }

    /// How many requests came in the last second: by that it is decided how many of the next ones [`Self::popular`] looks at.
    pub fn adapt_popular(&self, requests_per_second: u64) {
        self.service.popularity.adapt(requests_per_second);
    }

    /// Halves the counts of [`Self::popular`], so that they tell of lately.
    pub fn fade_popular(&self) {
        self.service.popularity.fade();
    }

    /// What becomes of the next request for `url`, plain or coralized, and why. Fails if that is no URL.
    pub async fn explain(&self, url: &str) -> Result<Explanation, UrlError> {
        let names = self.service.names.load_full();
        let url = CoralUrl::parse_absolute(url, &names)?;
        if names.deny.covers(&url) {
            return Ok(Explanation::denied(&url));
        }
        Ok(self.service.fetcher.explain(&url).await)
    }

    /// What `text` is as a pattern: a URL, a prefix that ends in `*`, or the host of a site, plain or coralized.
    pub fn pattern(&self, text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(text, &self.service.names.load())
    }

    /// Purges `patterns`: what their origins sent until `time`, which is now if it lies in the future, is not used from now on.
    /// It is written down when this returns, if there is a directory for that. How many were not purged so already.
    ///
    /// Whether whoever wants that may is for the caller to know; `by` says who it is, for log and metrics.
    pub async fn purge(&self, patterns: &[Pattern], time: SystemTime, by: PurgedBy) -> usize {
        let moment = Moment::at(time.min(SystemTime::now()));
        let new = self.service.fetcher.purge(patterns.iter().map(|pattern| (pattern.clone(), moment)).collect()).await;
        self.metrics.purged(by.as_str(), new);
        new
    }

    /// Counts a purge that the caller has refused.
    pub fn refused_purge(&self, by: PurgedBy) {
        self.metrics.refused_purge(by.as_str());
    }

    /// From now on `watcher` is told each origin whose owner has purged something, when a client has opened his file here; one that
    /// was set before stays. While it is full, such files are not obeyed.
    pub fn watch_owners(&self, watcher: mpsc::Sender<String>) {
        let _ = self.service.purged.set(watcher);
    }

    /// Asks `origin`, as another node's watcher was told it, what its owner has purged, and obeys that. How much was new; an error says
    /// why it is not obeyed.
    pub async fn reread_owner(&self, origin: &str) -> Result<usize, ProxyError> {
        let names = self.service.names.load_full();
        let url = CoralUrl::parse_absolute(&format!("{origin}{}", owner::PATH), &names)?;
        if names.deny.covers(&url) {
            return Err(ProxyError::Denied);
        }
        match self.service.fetcher.read_owner(&url, None).await? {
            Read::Obeyed { new, .. } => Ok(new),
            Read::Refused { why, .. } => Err(ProxyError::OriginProtocol(why.into())),
        }
    }

    /// The last searches of the index for URLs that were not here, the latest first.
    pub fn searches(&self) -> Vec<Search> {
        self.service.fetcher.searches()
    }

    /// Another process is to take over: from now on the `shutdown` of [`Self::run`] means that.
    ///
    /// Then `run` takes no connection any more and gives the disk free at once, for which [`Self::has_left`] waits. Connections there
    /// are end with their next response, within `config.hand_over`; what they ask for is kept in memory only. References stay, as the
    /// other process has the same address.
    pub fn leave(&self) {
        self.service.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Waits until another process may use the sockets and the disk.
    pub async fn has_left(&self) {
        // The sender is this proxy's own.
        let _ = self.has_left.subscribe().wait_for(|left| *left).await;
    }

    /// Serves `sockets` until `shutdown`; then finishes what is under way, within `config.drain`, and withdraws all
    /// references from the index. After [`Self::leave`] it ends otherwise.
    ///
    /// Fails if there is a socket for TLS and no certificate.
    pub async fn run(
        &self,
        sockets: impl Into<Sockets>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ProxyError> {
        let sockets = sockets.into();
        if sockets.https.is_some() && self.certificates.is_none() {
            return Err(ProxyError::Setup("TLS needs a certificate: [[proxy.certificates]] names its files".into()));
        }
        let config = &self.service.fetcher.config;
        let stop = watch::Sender::new(false);
        let mut connections = JoinSet::new();
        let mut workers = Workers::start(config.threads)
            .map_err(|error| ProxyError::Setup(format!("threads for connections: {error}").into()))?;
        // Those open, the oldest first, and some that have ended.
        let mut open = VecDeque::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                (accepted, tls) = sockets.accept(self.certificates.as_ref()) => match accepted {
                    Ok((_, client)) if self.limits.is_crowded(client.ip()) => {
                        self.metrics.refused_connections.inc();
                    }
                    Ok((stream, client)) => {
                        let permit = match self.limits.try_room() {
                            Some(permit) => permit,
                            None => {
                                self.make_room(&mut open);
                                tokio::select! {
                                    permit = self.limits.room() => permit,
                                    () = &mut shutdown => break,
                                }
                            }
                        };
                        let Some(admitted) = self.limits.admit(permit, client.ip()) else {
                            self.metrics.refused_connections.inc();
                            continue;
                        };
                        let in_hand = InHand::default();
                        let connection = Connection {
                            service: Arc::clone(&self.service),
                            clients: self.clients.clone(),
                            client,
                            admitted,
                            in_hand: in_hand.clone(),
                            line: Line::new(self.send.as_ref()),
                            tls,
                            served: AtomicBool::new(false),
                        };
                        let stop = stop.subscribe();
                        let serve = move |stream| connection.serve(stream, stop);
                        if open.len() >= config.client.max_connections.get() {
                            open.retain(|(connection, _): &(AbortHandle, InHand)| !connection.is_finished());
                        }
                        open.push_back((workers.spawn(&mut connections, stream, serve), in_hand));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Most often for want of descriptors: to try again at once would only spin.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(sockets);
        self.clients.stop();
        let is_leaving = self.service.is_leaving.load(Ordering::Relaxed);
        stop.send_replace(true);
        if is_leaving {
            self.service.fetcher.close().await;
            self.has_left.send_replace(true);
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        let patience = if is_leaving { config.hand_over } else { config.drain };
        if tokio::time::timeout(patience, drained).await.is_err() {
            tracing::warn!(left = connections.len(), "connections were cut, as they took too long to finish");
            connections.shutdown().await;
        }
        if is_leaving {
            return Ok(());
        }
        let withdrawn = self.service.fetcher.references.stop();
        if tokio::time::timeout(config.reference.withdraw, withdrawn).await.is_err() {
            tracing::warn!("not all references could be withdrawn in time; they lapse by themselves");
        }
        self.service.fetcher.close().await;
        Ok(())
    }

    /// Cuts the oldest connection without a request in hand, if there is one: whoever holds idle ones shall not keep all
    /// others out until they time out.
    fn make_room(&self, open: &mut VecDeque<(AbortHandle, InHand)>) {
        open.retain(|(connection, _)| !connection.is_finished());
        let idle = open.iter().position(|(_, in_hand)| in_hand.is_empty());
        if let Some((oldest, _)) = idle.and_then(|index| open.remove(index)) {
            oldest.abort();
            self.metrics.refused_connections.inc();
        }
    }

    /// What clients have got so far.
    pub fn traffic(&self) -> Traffic {
        let metrics = &self.metrics;
        Traffic {
            requests: metrics.requests_by_word("client"),
            sent_to_clients_bytes: metrics.moved("sent", "client").get(),
            received_from_origins_bytes: metrics.moved("received", "origin").get(),
        }
    }

    /// What it has and has done. Objects are counted one by one.
    pub fn status(&self) -> Status {
        let metrics = &self.metrics;
        let (objects, memory_bytes, disk_bytes) = self.service.fetcher.cache.totals();
        Status {
            objects,
            memory_bytes,
            disk_bytes,
            references: metrics.references.get().max(0).unsigned_abs(),
            in_flight: metrics.in_flight.get().max(0).unsigned_abs(),
            requests: metrics.requests_by_word("client"),
            peer_requests: metrics.requests_by_word("peer"),
            origin_requests: metrics.origin_requests.get(),
            coalesced: metrics.coalesced.get(),
            continued: metrics.continued_bodies(),
            errors: metrics.errors_by_fault(),
            sent_to_clients_bytes: metrics.moved("sent", "client").get(),
            sent_to_peers_bytes: metrics.moved("sent", "peer").get(),
            received_from_peers_bytes: metrics.moved("received", "peer").get(),
            received_from_origins_bytes: metrics.moved("received", "origin").get(),
        }
    }
}
