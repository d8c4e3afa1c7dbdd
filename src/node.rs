//! One node: [`Node::start`] binds every address and wires the handles, [`Node::stop`] undoes it in reverse.
//!
//! The order of the end matters to others: the cache finishes its answers and withdraws its references while the index
//! still runs; the nameserver stops sending people here; the index says goodbye; last goes the operator's view of it.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral_dsht::driver::Driver;
use coral_dsht::{ClusterId, DshtHandle, Peer, Services, Snapshot, Stopped};
use coral_proxy::Proxy;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin;
use crate::config::Config;
use crate::join::Outwards;
use crate::logging::{Lines, Requests, Traces};
use crate::page::Page;
use crate::purge::{Purger, Trust};
use crate::reach::help::Helper;
use crate::walk::Walker;

pub(crate) mod address;
mod drain;
mod sockets;
mod state;

pub(crate) use drain::Drain;
use sockets::Sockets;
pub(crate) use sockets::{Place, Shared, advice};

/// Beyond its own times for draining and withdrawing, a part gets so long to end.
const GRACE: Duration = Duration::from_secs(5);

/// Round-trip times of clients on their way from the cache to the nameserver; more are dropped.
const OBSERVATIONS: usize = 256;

/// Parts that are let go of in a way of their own.
const INDEX: &str = "index";
const STATE_FILE: &str = "state file";

/// How often [`together`] looks.
const LOOK: Duration = Duration::from_millis(25);

/// A node that has settled knows so many others for certain: a bucket of its table holds as many.
const CERTAIN: usize = 8;

/// A running node. Dropped without [`Node::stop`], it ends without a goodbye.
#[derive(Debug)]
pub struct Node {
    me: Peer,
    addresses: Addresses,
    dsht: DshtHandle,
    proxy: Option<Proxy>,
    /// Where requests are logged.
    requests: Option<Arc<Requests>>,
    /// Where they are if they go to the log.
    log: Option<Lines>,
    /// What purges, and has others purge.
    purger: Arc<Purger>,
    /// What is in force, which [`Node::reload`] changes.
    config: Arc<RwLock<Config>>,
    /// The cache asks it as long as it runs.
    _page: Arc<Page>,
    /// In the order in which they end.
    parts: Vec<Part>,
    /// What it listens at, for another process that takes over.
    shared: Vec<(Place, OwnedFd)>,
    /// Whether one does, for the nameserver.
    leaves: Arc<AtomicBool>,
    failures: watch::Receiver<Vec<String>>,
    drain: Drain,
}

/// The addresses that a node's parts are bound to; `None` where a part is off.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Addresses {
    /// The index, over UDP.
    pub dsht: SocketAddr,
    /// The nameserver, over UDP and TCP.
    pub dns: Option<SocketAddr>,
    /// The cache, over HTTP.
    pub proxy: Option<SocketAddr>,
    /// The cache, over HTTP and TLS.
    pub proxy_tls: Option<SocketAddr>,
    /// The operator's address, over HTTP.
    pub admin: Option<SocketAddr>,
}

/// What a process has for its node besides the configuration.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Sockets of another process, in whose place it is.
    pub(crate) sockets: Shared,
    /// Peers that the index of that one knew.
    pub(crate) contacts: Vec<SocketAddr>,
    /// Where requests are logged that go to the log.
    pub(crate) log: Option<Lines>,
}

/// A part that runs as a task of its own until it is told to stop.
#[derive(Debug)]
struct Part {
    name: &'static str,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), String>>,
    /// How long it may take to stop.
    patience: Duration,
}

impl Node {
    /// Binds all addresses, then starts all parts. Nothing runs if any of it fails.
    ///
    /// The node joins its network in the background; `/health` tells when it has.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with(config, Given::default()).await
    }

    /// The same with what the process has been given.
    pub(crate) async fn start_with(config: Config, given: Given) -> anyhow::Result<Self> {
        let Given { sockets, contacts, log } = given;
        let started = Instant::now();
        let sockets = Sockets::bind(&config, sockets).await?;
        let (addresses, shared) = (sockets.addresses()?, sockets.share()?);
        let remembered = config.dsht.node.state.as_deref().map(state::read).unwrap_or_default();
        let mut seeds = match address::look_up(&config.dsht.node.seeds).await {
            Ok(seeds) => seeds,
            Err(e) if !remembered.is_empty() => {
                tracing::warn!("{e}; joining by {} peers of last time", remembered.len());
                Vec::new()
            }
            Err(e) => return Err(e),
        };
        seeds.extend(remembered);
        seeds.extend(contacts);
        let ip = address::advertised(&config.dsht.node, &seeds)?;
        let me = Peer::new(SocketAddr::new(ip, addresses.dsht.port()), services(&addresses));

        let mut registry = Registry::default();
        let (failed, failures) = watch::channel(Vec::new());
        let failed = Arc::new(failed);

        let towards = seeds.clone();
        let (dsht, driver) = Driver::new(sockets.dsht, me, Arc::new(config.dsht.part.clone()))
            .context("cannot start the index ([dsht])")?;
        let index = Part::start(INDEX, GRACE, &failed, |stop| async move {
            driver.run(seeds, stop).await;
            Ok(())
        });

        // A refusal from here on leaves nothing behind: a part that is dropped ends.
        let (observe, observations) = mpsc::channel(OBSERVATIONS);
        let mut proxy = None;
        let mut requests = None;
        let mut leaves = Arc::default();
        let mut sender_of_traces = None;
        let mut parts = Vec::new();
        if let Some(sockets) = sockets.proxy {
            let port = sockets.http.local_addr()?.port();
            let mut part = config.proxy.part.clone();
            part.network_key.clone_from(&config.dsht.part.network_key);
            let part = Arc::new(part);
            let patience = part.drain + part.reference.withdraw + GRACE;
            let suffixes = config.suffixes.iter().map(|suffix| suffix.proxy.clone()).collect();
            let metrics = coral_proxy::Metrics::register(&mut registry);
            let cache = Proxy::new(part, suffixes, SocketAddr::new(ip, port), dsht.clone(), metrics)
                .context("cannot start the cache ([proxy])")?;
            // What it sees of clients, for the nameserver.
            cache.watch_clients(observe);
            requests = Requests::open(&config.log.access, log.clone())?;
            if let Some(requests) = &requests {
                cache.log_requests(Arc::<Requests>::clone(requests));
            }
            if let Some((traces, sending)) = Traces::open(&config.log.traces, me)? {
                cache.trace_requests(traces);
                sender_of_traces = Some(sending);
            }
            proxy = Some(cache.clone());
            parts.push(Part::start("cache", patience, &failed, |stop| async move {
                cache.run(sockets, stop).await.map_err(|e| describe(&e))
            }));
        }
        if let Some(sockets) = sockets.dns {
            let suffixes = config.suffixes.iter().map(|suffix| suffix.dns.clone()).collect();
            let metrics = coral_dns::Metrics::register(&mut registry);
            let part = Arc::new(config.dns.part.clone());
            let mut server = coral_dns::Server::new(part, suffixes, me, dsht.clone(), metrics);
            server.observe(observations);
            leaves = server.leaves();
            parts.push(Part::start("nameserver", GRACE, &failed, |stop| async move {
                server.run(sockets, stop).await.map_err(|e| describe(&e))
            }));
        }
        if let Some(path) = config.dsht.node.state.clone() {
            let dsht = dsht.clone();
            parts.push(Part::start(STATE_FILE, GRACE, &failed, |stop| async move {
                state::keep(dsht, &path, stop).await;
                Ok(())
            }));
        }
        // Nothing stands in front of what only this machine can reach.
        if config.dsht.node.trace && !ip.is_loopback() {
            let near = config.dsht.part.diameters.first().copied();
            let outwards = Outwards { dsht: dsht.clone(), me: me.addr, seeds: towards, near };
            parts.push(Part::start("search for routers", GRACE, &failed, |stop| async move {
                outwards.run(stop).await;
                Ok(())
            }));
        }
        let purger = Purger::new(&config.purge, proxy.clone(), dsht.clone()).context("cannot purge ([purge])")?;
        let purging = Arc::clone(&purger);
        parts.push(Part::start("purger", GRACE, &failed, |stop| async move {
            purging.run(stop).await;
            Ok(())
        }));
        let helper = Helper::new(&config, ip)?;
        let walker = Arc::new(Walker::new(dsht.clone()));
        let page =
            Page::new(&config, started, Arc::clone(&walker), dsht.clone(), proxy.clone(), addresses.proxy, helper);
        if proxy.is_some() || sockets.admin.is_some() {
            let telling = Arc::clone(&page);
            let part = Part::start("page", GRACE, &failed, |stop| async move {
                telling.run(stop).await;
                Ok(())
            });
            // Before the cache, which waits for all answers under way: those who look at the page are sent away.
            parts.insert(0, part);
        }
        parts.push(index);
        // After the cache, whose last answers are traced, too.
        if let Some(sending) = sender_of_traces {
            parts.push(Part::start("sender of traces", GRACE, &failed, |stop| async move {
                sending.run(stop).await;
                Ok(())
            }));
        }
        let config = Arc::new(RwLock::new(config));
        let drain = Drain::new(dsht.clone(), Arc::clone(&config));
        if let Some(listener) = sockets.admin {
            let shared = Arc::new(admin::Shared {
                started,
                config: Arc::clone(&config),
                addresses,
                dsht: dsht.clone(),
                proxy: proxy.clone(),
                page: Arc::clone(&page),
                purger: Arc::clone(&purger),
                walker: Arc::clone(&walker),
                registry,
                failures: failures.clone(),
                drain: drain.clone(),
            });
            parts.push(Part::start("admin address", GRACE, &failed, |stop| async move {
                admin::run(listener, shared, stop).await;
                Ok(())
            }));
        }
        let node = Self {
            me,
            addresses,
            dsht,
            proxy,
            requests,
            log,
            purger,
            config,
            _page: page,
            parts,
            shared,
            leaves,
            failures,
            drain,
        };
        tracing::info!(id = %me.id, address = %me.addr, "started: {}", node.addresses);
        Ok(node)
    }

    /// This node as others know it.
    pub fn me(&self) -> Peer {
        self.me
    }

    /// Where its parts listen.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Its index.
    pub fn dsht(&self) -> &DshtHandle {
        &self.dsht
    }

    /// Its cache, if it runs one.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Takes over what it can of `new` without touching a connection (see [`Proxy::reload`]), and gives the keys of what
    /// else is different, which waits for the next start.
    ///
    /// An error changes nothing.
    pub fn reload(&self, new: &Config) -> anyhow::Result<Vec<String>> {
        // What can fail without an effect comes first.
        let trust = Trust::of(&new.purge)?;
        if let Some(proxy) = &self.proxy {
            proxy.reload(&new.proxy.part)?;
        }
        self.purger.trust(trust);
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        config.proxy.part.take_over(&new.proxy.part);
        config.purge.clone_from(&new.purge);
        config.admin.token.clone_from(&new.admin.token);
        Ok(config.differences(new))
    }

    /// Opens the file of the access log again, which somebody may have moved. An error changes nothing.
    pub fn reopen_log(&self) -> anyhow::Result<()> {
        self.requests.as_ref().map_or(Ok(()), |requests| requests.reopen())
    }

    /// Has others name this node no more, nor itself, so that nobody comes who does not know it already; and gives the time after
    /// which nobody comes who does. Until then it serves as before. It is no longer healthy, so that load balancers leave it out.
    pub async fn drain(&self) -> Duration {
        self.drain.begin().await
    }

    /// Waits until somebody has it drain; and gives that time.
    pub(crate) async fn draining(&self) -> Duration {
        self.drain.begun().await;
        self.drain.takes()
    }

    /// Waits until a part ends that nobody has told to, and returns what is wrong; forever if all is well.
    pub async fn failed(&self) -> String {
        let mut failures = self.failures.clone();
        match failures.wait_for(|failures| !failures.is_empty()).await {
            Ok(failures) => failures.join("; "),
            Err(_) => std::future::pending().await,
        }
    }

    /// What is in force.
    pub(crate) fn config(&self) -> Config {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where its requests are logged that go to the log.
    pub(crate) fn log(&self) -> Option<Lines> {
        self.log.clone()
    }

    /// Its sockets once more.
    pub(crate) fn shared(&self) -> std::io::Result<Vec<(Place, OwnedFd)>> {
        self.shared.iter().map(|(place, socket)| Ok((*place, socket.as_fd().try_clone_to_owned()?))).collect()
    }

    /// Lets go of its sockets and its disk, so that another process can take its place: returns as soon as that may begin, with what is
    /// still under way here, and the sockets.
    ///
    /// The index says no goodbye, as its address stays, and nothing is withdrawn from it.
    pub(crate) async fn leave(self) -> (Leaving, Vec<(Place, OwnedFd)>) {
        self.leaves.store(true, Ordering::Release);
        if let Some(proxy) = &self.proxy {
            proxy.leave();
        }
        let mut parts = Vec::new();
        for mut part in self.parts {
            match part.name {
                INDEX => drop(part),
                STATE_FILE => drop(part.stop().await),
                _ => {
                    part.tell();
                    parts.push(part);
                }
            }
        }
        if let Some(proxy) = &self.proxy {
            proxy.has_left().await;
        }
        let patience = self.config.read().unwrap_or_else(PoisonError::into_inner).proxy.part.hand_over + GRACE;
        (Leaving { parts, patience, requests: self.requests }, self.shared)
    }

    /// Stops every part in turn and says how each one ended.
    pub async fn stop(self) -> Ending {
        // Who connects from now on is refused, and does not wait.
        drop(self.shared);
        let mut ending = Ending::default();
        for part in self.parts {
            ending.parts.push(part.stop().await);
        }
        if let Some(requests) = &self.requests {
            requests.close();
        }
        ending
    }
}

/// Waits until `nodes`, all of one machine, have found together: each knows the others first-hand, or as many of them as is
/// certain, and all are in the same cluster at each level.
pub async fn together(nodes: &[Node]) -> Result<(), Stopped> {
    let others = (nodes.len() - 1).min(CERTAIN);
    loop {
        let mut snapshots = Vec::new();
        for node in nodes {
            snapshots.push(node.dsht.snapshot().await?);
        }
        let clusters =
            |snapshot: &Snapshot| -> Vec<ClusterId> { snapshot.clusters.iter().map(|status| status.cluster).collect() };
        let acquainted = snapshots.iter().all(|snapshot| snapshot.neighbours.len() >= others);
        if acquainted && snapshots.windows(2).all(|two| clusters(&two[0]) == clusters(&two[1])) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn services(addresses: &Addresses) -> Services {
    let offer = |on: bool, service| if on { service } else { Services::NONE };
    offer(addresses.proxy.is_some(), coral_dns::PROXY) | offer(addresses.dns.is_some(), coral_dns::NAMESERVER)
}

/// An error with its causes, on one line.
fn describe(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}

impl Part {
    /// Runs what `body` makes of a stop signal. If that ends by itself, `failed` learns of it.
    fn start<F>(
        name: &'static str,
        patience: Duration,
        failed: &Arc<watch::Sender<Vec<String>>>,
        body: impl FnOnce(StopSignal) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let told = Arc::new(AtomicBool::new(false));
        let body = body(stop_signal(stopped, Arc::clone(&told)));
        let failed = Arc::clone(failed);
        let task = tokio::spawn(async move {
            let outcome = body.await;
            if !told.load(Ordering::Relaxed) {
                let why = outcome.clone().err().unwrap_or_else(|| "it ended by itself".to_owned());
                tracing::error!("the {name} has stopped: {why}");
                failed.send_modify(|failures| failures.push(format!("the {name} has stopped: {why}")));
            }
            outcome
        });
        Self { name, stop: Some(stop), task, patience }
    }

    /// Tells it to stop. Whether it runs.
    fn tell(&mut self) -> bool {
        self.stop.take().is_some_and(|stop| stop.send(()).is_ok())
    }

    async fn stop(mut self) -> PartEnding {
        let (stopped_before, patience) = (!self.tell(), self.patience);
        self.ended(stopped_before, patience).await
    }

    /// Waits until it has ended, as long as `patience` lasts.
    async fn ended(mut self, stopped_before: bool, patience: Duration) -> PartEnding {
        let begun = Instant::now();
        let outcome = match tokio::time::timeout(patience, &mut self.task).await {
            Ok(Ok(Ok(()))) if stopped_before => Err("it had ended before".to_owned()),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(e)) => Err(format!("it panicked: {e}")),
            // It is aborted when this part is dropped.
            Err(_) => Err(format!("it did not end within {patience:?}")),
        };
        let took = begun.elapsed();
        match &outcome {
            Ok(()) => tracing::info!("the {} has stopped after {took:.0?}", self.name),
            Err(e) => tracing::error!("the {} did not stop cleanly: {e}", self.name),
        }
        PartEnding { name: self.name, took, outcome }
    }
}

/// A part that nobody has stopped ends as if its process had been killed. One that has ended is past being aborted.
impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A node in whose place another process runs: what it still has to send.
#[derive(Debug)]
pub(crate) struct Leaving {
    parts: Vec<Part>,
    patience: Duration,
    requests: Option<Arc<Requests>>,
}

impl Leaving {
    /// Waits until all of it is sent, within `proxy.hand_over`.
    pub(crate) async fn finish(self) -> Ending {
        let mut ending = Ending::default();
        for part in self.parts {
            ending.parts.push(part.ended(false, self.patience).await);
        }
        if let Some(requests) = &self.requests {
            requests.close();
        }
        ending
    }
}

/// A future that ends when the part is to stop.
type StopSignal = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn stop_signal(stopped: oneshot::Receiver<()>, told: Arc<AtomicBool>) -> StopSignal {
    Box::pin(async move {
        // A sender that is dropped is that of a part about to be aborted.
        drop(stopped.await);
        told.store(true, Ordering::Relaxed);
    })
}

/// How a node ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// Each part, in the order in which it was stopped.
    pub parts: Vec<PartEnding>,
}

/// How one part ended.
#[derive(Debug)]
pub struct PartEnding {
    /// Which one.
    pub name: &'static str,
    /// How long it took from being told.
    pub took: Duration,
    /// What was wrong, if anything.
    pub outcome: Result<(), String>,
}

impl Ending {
    /// Whether every part ended as it should.
    pub fn is_clean(&self) -> bool {
        self.parts.iter().all(|part| part.outcome.is_ok())
    }
}

/// What was wrong, or `cleanly`.
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("cleanly");
        }
        let wrong = self.parts.iter().filter_map(|part| {
            let why = part.outcome.as_ref().err()?;
            Some(format!("the {}: {why}", part.name))
        });
        f.write_str(&wrong.collect::<Vec<_>>().join("; "))
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {}", self.dsht)?;
        for (name, addr) in [("DNS", self.dns), ("HTTP", self.proxy), ("admin", self.admin)] {
            match addr {
                Some(addr) => write!(f, ", {name} {addr}")?,
                None => write!(f, ", {name} off")?,
            }
        }
        match self.proxy_tls {
            Some(addr) => write!(f, ", HTTPS {addr}"),
            None => Ok(()),
        }
    }
}
