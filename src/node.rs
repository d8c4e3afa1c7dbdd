//! One node: [`Node::start`] binds every address and wires the handles, [`Node::stop`] undoes it in reverse.
//!
//! The order of the end matters to others: the cache finishes its answers and withdraws its references while the index
//! still runs; the nameserver stops sending people here; the index says goodbye; last goes the operator's view of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral_dsht::driver::Driver;
use coral_dsht::{ClusterId, DshtHandle, Peer, Services, Snapshot, Stopped};
use coral_proxy::Proxy;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin;
use crate::config::Config;
use crate::join::Outwards;
use crate::logging::Requests;
use crate::page::Page;
use crate::purge::{Purger, Trust};

pub(crate) mod address;
mod sockets;
mod state;

use sockets::Sockets;
pub(crate) use sockets::advice;

/// Beyond its own times for draining and withdrawing, a part gets so long to end.
const GRACE: Duration = Duration::from_secs(5);

/// Round-trip times of clients on their way from the cache to the nameserver; more are dropped.
const OBSERVATIONS: usize = 256;

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
    /// What purges, and has others purge.
    purger: Arc<Purger>,
    /// What is in force, which [`Node::reload`] changes.
    config: Arc<RwLock<Config>>,
    /// The cache asks it as long as it runs.
    _page: Arc<Page>,
    /// In the order in which they end.
    parts: Vec<Part>,
    failures: watch::Receiver<Vec<String>>,
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
        let started = Instant::now();
        let sockets = Sockets::bind(&config).await?;
        let addresses = sockets.addresses()?;
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
        let ip = address::advertised(&config.dsht.node, &seeds)?;
        let me = Peer::new(SocketAddr::new(ip, addresses.dsht.port()), services(&addresses));

        let mut registry = Registry::default();
        let (failed, failures) = watch::channel(Vec::new());
        let failed = Arc::new(failed);

        let towards = seeds.clone();
        let (dsht, driver) = Driver::new(sockets.dsht, me, Arc::new(config.dsht.part.clone()))
            .context("cannot start the index ([dsht])")?;
        let index = Part::start("index", GRACE, &failed, |stop| async move {
            driver.run(seeds, stop).await;
            Ok(())
        });

        // A refusal from here on leaves nothing behind: a part that is dropped ends.
        let (observe, observations) = mpsc::channel(OBSERVATIONS);
        let mut proxy = None;
        let mut requests = None;
        let mut parts = Vec::new();
        if let Some(sockets) = sockets.proxy {
            let port = sockets.http.local_addr()?.port();
            let part = Arc::new(config.proxy.part.clone());
            let patience = part.drain + part.reference.withdraw + GRACE;
            let suffixes = config.suffixes.iter().map(|suffix| suffix.proxy.clone()).collect();
            let metrics = coral_proxy::Metrics::register(&mut registry);
            let cache = Proxy::new(part, suffixes, SocketAddr::new(ip, port), dsht.clone(), metrics)
                .context("cannot start the cache ([proxy])")?;
            // What it sees of clients, for the nameserver.
            cache.watch_clients(observe);
            requests = Requests::open(&config.log.access)?;
            if let Some(requests) = &requests {
                cache.log_requests(Arc::<Requests>::clone(requests));
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
            parts.push(Part::start("nameserver", GRACE, &failed, |stop| async move {
                server.run(sockets, stop).await.map_err(|e| describe(&e))
            }));
        }
        if let Some(path) = config.dsht.node.state.clone() {
            let dsht = dsht.clone();
            parts.push(Part::start("state file", GRACE, &failed, |stop| async move {
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
        parts.push(Part::start("purges", GRACE, &failed, |stop| async move {
            purging.run(stop).await;
            Ok(())
        }));
        let page = Page::new(&config, started, dsht.clone(), proxy.clone(), addresses.proxy);
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
        let config = Arc::new(RwLock::new(config));
        if let Some(listener) = sockets.admin {
            let shared = Arc::new(admin::Shared {
                started,
                config: Arc::clone(&config),
                addresses,
                dsht: dsht.clone(),
                proxy: proxy.clone(),
                page: Arc::clone(&page),
                purger: Arc::clone(&purger),
                walk: Semaphore::new(1),
                registry,
                failures: failures.clone(),
            });
            parts.push(Part::start("admin address", GRACE, &failed, |stop| async move {
                admin::run(listener, shared, stop).await;
                Ok(())
            }));
        }
        let node = Self { me, addresses, dsht, proxy, requests, purger, config, _page: page, parts, failures };
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

    /// Waits until a part ends that nobody has told to, and returns what is wrong; forever if all is well.
    pub async fn failed(&self) -> String {
        let mut failures = self.failures.clone();
        match failures.wait_for(|failures| !failures.is_empty()).await {
            Ok(failures) => failures.join("; "),
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops every part in turn and says how each one ended.
    pub async fn stop(self) -> Ending {
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
        let told = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let body = body(stop_signal(stopped, Arc::clone(&told)));
        let failed = Arc::clone(failed);
        let task = tokio::spawn(async move {
            let outcome = body.await;
            if !told.load(std::sync::atomic::Ordering::Relaxed) {
                let why = outcome.clone().err().unwrap_or_else(|| "it ended by itself".to_owned());
                tracing::error!("the {name} has stopped: {why}");
                failed.send_modify(|failures| failures.push(format!("the {name} has stopped: {why}")));
            }
            outcome
        });
        Self { name, stop: Some(stop), task, patience }
    }

    async fn stop(mut self) -> PartEnding {
        let begun = Instant::now();
        let stopped_before = self.stop.take().is_none_or(|stop| stop.send(()).is_err());
        let outcome = match tokio::time::timeout(self.patience, &mut self.task).await {
            Ok(Ok(Ok(()))) if stopped_before => Err("it had ended before".to_owned()),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(e)) => Err(format!("it panicked: {e}")),
            // It is aborted when this part is dropped.
            Err(_) => Err(format!("it did not end within {:?}", self.patience)),
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

/// A future that ends when the part is to stop.
type StopSignal = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn stop_signal(stopped: oneshot::Receiver<()>, told: Arc<std::sync::atomic::AtomicBool>) -> StopSignal {
    Box::pin(async move {
        // A sender that is dropped is that of a part about to be aborted.
        drop(stopped.await);
        told.store(true, std::sync::atomic::Ordering::Relaxed);
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
