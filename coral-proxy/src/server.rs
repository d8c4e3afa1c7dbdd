//! The accept loop, and the handle on it: start, status, drain and stop.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coral_dsht::DshtHandle;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::budget::Budget;
use crate::config::{Bandwidth, Config};
use crate::error::{Fault, ProxyError, Verdict};
use crate::explain::Explanation;
use crate::fetch::Fetcher;
use crate::front::Front;
use crate::gather::Gather;
use crate::head_timer::HeadTimer;
use crate::hints::{self, Clients};
use crate::interim::{Outbox, WithInterim};
use crate::limits::{Admitted, InHand, Limits};
use crate::metrics::Metrics;
use crate::pace::{Line, Paced};
use crate::popular::{Popular, Popularity};
use crate::reply::UnderWay;
use crate::searches::Search;
use crate::service::{Caller, Service};
use crate::stall::StallTimeout;
use crate::url::{CoralUrl, Names, Suffix, UrlError};
use crate::workers::Workers;

/// Waits until the proxy is told to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender lives until all connections have ended; were it gone, this would be over too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How long to wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// As many header fields of a request hyper reads unless it is told otherwise.
const HYPERS_MAX_HEADERS: usize = 100;

/// How long a connection without a request in hand may take to bring one after the node is told to stop: what is on its
/// way arrives, and half a head holds nobody up.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// What may be sent, and what may be received, as far as there is a limit.
fn budgets(config: &Bandwidth, metrics: &Metrics) -> [Option<Budget>; 2] {
    [(config.send, "sent"), (config.receive, "received")]
        .map(|(rate, direction)| rate.map(|rate| Budget::new(rate.as_u64(), config.burst, metrics.waits(direction))))
}

/// A cache, to serve with and to ask. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Proxy {
    service: Arc<Service>,
    limits: Limits,
    clients: Clients,
    /// What may be sent.
    send: Option<Budget>,
    metrics: Metrics,
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
        let names = Names { suffixes, sites: config.sites.clone(), allow_addresses: config.allow_addresses };
        let limits = Limits::new(&config.client);
        let hints = config.hints;
        let [send, receive] = budgets(&config.bandwidth, &metrics);
        let fetcher = Arc::new(Fetcher::new(config, me, dsht.clone(), receive, metrics.clone())?);
        let clients = Clients::start(dsht, hints, metrics.clone());
        let service = Service { fetcher, names, front: OnceLock::new(), popularity: Popularity::default() };
        Ok(Self { service: Arc::new(service), limits, clients, send, metrics })
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
        let url = CoralUrl::parse_absolute(url, &self.service.names)?;
        Ok(self.service.fetcher.explain(&url).await)
    }

    /// The last searches of the index for URLs that were not here, the latest first.
    pub fn searches(&self) -> Vec<Search> {
        self.service.fetcher.searches()
    }

    /// Serves `listener` until `shutdown`; then finishes what is under way, within `config.drain`, and withdraws all
    /// references from the index.
    pub async fn run(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ProxyError> {
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
                accepted = listener.accept() => match accepted {
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
                        let (proxy, busy, stop) = (self.clone(), in_hand.clone(), stop.subscribe());
                        let serve = move |stream| proxy.serve(stream, client, admitted, busy, stop);
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
        drop(listener);
        self.clients.stop();
        stop.send_replace(true);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(config.drain, drained).await.is_err() {
            tracing::warn!(left = connections.len(), "connections were cut, as they took too long to finish");
            connections.shutdown().await;
        }
        let withdrawn = self.service.fetcher.references.stop();
        if tokio::time::timeout(config.reference.withdraw, withdrawn).await.is_err() {
            tracing::warn!("not all references could be withdrawn in time; they lapse by themselves");
        }
        self.service.fetcher.cache.close().await;
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

    /// One connection, until it ends by itself, goes wrong, or is told to stop after the request under way.
    async fn serve(
        self,
        stream: TcpStream,
        client: SocketAddr,
        admitted: Admitted,
        in_hand: InHand,
        mut stop: watch::Receiver<bool>,
    ) {
        let limits = &self.service.fetcher.config.client;
        let rate = admitted.rate();
        let _counted = UnderWay::new(self.metrics.connections.clone());
        if let Some(rtt) = hints::rtt(&stream) {
            self.clients.seen(client.ip(), rtt, false);
        }
        let served = AtomicBool::new(false);
        // Heads are small and wait for an answer; holding them back gains nothing.
        let _ = stream.set_nodelay(true);
        let outbox = Outbox::default();
        let name = client.to_string();
        let line = Line::new(self.send.as_ref());
        // A client is not blamed for the time in which it is sent nothing.
        let paced = Paced::new(StallTimeout::new(Gather::new(stream), limits.stall_timeout), line.clone());
        let io = TokioIo::new(WithInterim::new(paced, outbox.clone()));
        let service = service_fn(|request| async {
            let handled = in_hand.take();
            let request: Request<Incoming> = request;
            let interim = outbox.ticket(request.version());
            let from = Caller { name: &name, address: client.ip(), rate, line: &line };
            let response = outbox.before(self.service.answer(from, request, interim)).await;
            served.store(true, Ordering::Relaxed);
            Ok::<_, Infallible>(response.map(|body| body.handled(handled)))
        });
        let mut builder = http1::Builder::new();
        // Of its own bound hyper makes less work.
        if limits.max_headers.get() != HYPERS_MAX_HEADERS {
            builder.max_headers(limits.max_headers.get());
        }
        let mut connection = builder
            .timer(HeadTimer::default())
            .header_read_timeout(limits.header_timeout)
            // hyper refuses less than 8 KiB.
            .max_buf_size(usize::try_from(limits.max_header.as_u64()).unwrap_or(usize::MAX).max(8192))
            .serve_connection(io, service);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopped(&mut stop) => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                match tokio::time::timeout(LAST_HEAD, &mut connection).await {
                    Ok(ended) => ended,
                    Err(_) if in_hand.is_empty() => Ok(()),
                    Err(_) => (&mut connection).await,
                }
            }
        };
        if served.load(Ordering::Relaxed)
            && let Some(rtt) = hints::rtt(connection.into_parts().io.inner().inner().inner().inner().inner())
        {
            self.clients.seen(client.ip(), rtt, true);
        }
        if let Err(error) = ended {
            // What hyper cannot read it answers itself, with 400 or 431, and nobody else hears of it.
            if error.is_parse() {
                self.metrics.error(Verdict {
                    status: StatusCode::BAD_REQUEST,
                    fault: Fault::Client,
                    kind: "unreadable",
                });
            } else if error.is_timeout() {
                let status = StatusCode::REQUEST_TIMEOUT;
                self.metrics.error(Verdict { status, fault: Fault::Client, kind: "head_timeout" });
            }
            tracing::debug!(%client, %error, "a connection ended badly");
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
