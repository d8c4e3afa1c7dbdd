//! The start of a node: binds every address, starts the parts, and wires their handles.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral_dns::Recollection;
use coral_dsht::driver::Driver;
use coral_dsht::{DshtHandle, Peer, Services};
use coral_proxy::Proxy;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

use super::part::{Part, StopSignal};
use super::sockets::{Shared, Sockets};
use super::{Addresses, Drain, Nameserver, Node, address, state};
use crate::admin;
use crate::config::{Config, DshtNode};
use crate::join::Outwards;
use crate::logging::{Lines, Requests, Sending, Traces};
use crate::page::Page;
use crate::purge::Purger;
use crate::reach::help::Helper;
use crate::walk::Walker;

/// Beyond its own times for draining and withdrawing, a part gets so long to end.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Parts that are let go of in a way of their own.
pub(super) const INDEX: &str = "index";
pub(super) const STATE_FILE: &str = "state file";

/// Round-trip times of clients on their way from the cache to the nameserver; more are dropped.
const OBSERVATIONS: usize = 256;

/// What a process has for its node besides the configuration.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Sockets of another process, in whose place it is.
    pub(crate) sockets: Shared,
    /// Peers that the index of that one knew.
    pub(crate) contacts: Vec<SocketAddr>,
    /// Clients that its nameserver knew.
    pub(crate) clients: Vec<Recollection>,
    /// Where requests are logged that go to the log.
    pub(crate) log: Option<Lines>,
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
        let Given { sockets, contacts, clients, log } = given;
        let started = Instant::now();
        let sockets = Sockets::bind(&config, sockets).await?;
        let (addresses, shared) = (sockets.addresses()?, sockets.share()?);
        let seeds = seeds(&config.dsht.node, contacts).await?;
        let ip = address::advertised(&config.dsht.node, &seeds)?;
        let me = Peer::new(SocketAddr::new(ip, addresses.dsht.port()), services(&addresses));

        let (failed, failures) = watch::channel(Vec::new());
        let failed = Arc::new(failed);
        let (dsht, driver) = Driver::new(sockets.dsht, me, Arc::new(config.dsht.part.clone()))
            .context("cannot start the index ([dsht])")?;
        let towards = seeds.clone();
        let index = Part::start(INDEX, GRACE, &failed, |stop| async move {
            driver.run(seeds, stop).await;
            Ok(())
        });

        // A refusal from here on leaves nothing behind: a part that is dropped ends.
        let mut starting =
            Starting { me, dsht: dsht.clone(), registry: Registry::default(), failed, parts: Vec::new() };
        // What the cache sees of clients, for the nameserver.
        let (observe, observations) = mpsc::channel(OBSERVATIONS);
        let cache = match &sockets.proxy {
            Some(sockets) => starting.cache(&config, sockets, observe, log.clone())?,
            None => Cache::default(),
        };
        let purger = Purger::new(&config.purge, cache.proxy.clone(), dsht.clone()).context("cannot purge ([purge])")?;
        let walker = Arc::new(Walker::new(dsht.clone()));
        let page = Page::new(
            &config,
            started,
            Arc::clone(&walker),
            dsht.clone(),
            cache.proxy.clone(),
            addresses.proxy,
            Helper::new(&config, ip)?,
        );
        // They end in this order. The page is the first, as the cache waits for all answers under way: those who look at it are sent away.
        if cache.proxy.is_some() || sockets.admin.is_some() {
            starting.page(Arc::clone(&page));
        }
        // Whoever has waited in the socket is answered from now on, by all that the cache has around it.
        if let (Some(proxy), Some(sockets)) = (&cache.proxy, sockets.proxy) {
            starting.serve(&config, proxy.clone(), sockets);
        }
        let nameserver = match sockets.dns {
            Some(sockets) => starting.nameserver(&config, sockets, observations, clients),
            None => Nameserver::default(),
        };
        starting.state_file(&config);
        starting.search_for_routers(&config, towards);
        starting.purge(Arc::clone(&purger));
        starting.parts.push(index);
        if let Some(sending) = cache.sending {
            starting.sender_of_traces(sending);
        }
        let config = Arc::new(RwLock::new(config));
        let drain = Drain::new(dsht.clone(), Arc::clone(&config));
        let Starting { registry, failed, mut parts, .. } = starting;
        if let Some(listener) = sockets.admin {
            let shared = Arc::new(admin::Shared {
                started,
                config: Arc::clone(&config),
                addresses,
                dsht: dsht.clone(),
                proxy: cache.proxy.clone(),
                page: Arc::clone(&page),
                purger: Arc::clone(&purger),
                walker,
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
            proxy: cache.proxy,
            requests: cache.requests,
            log,
            purger,
            config,
            page,
            parts,
            shared,
            nameserver,
            failures,
            drain,
        };
        tracing::info!(id = %me.id, address = %me.addr, "started: {}", node.addresses);
        Ok(node)
    }
}

/// The parts of a node that starts, and what they are made with.
struct Starting {
    me: Peer,
    dsht: DshtHandle,
    registry: Registry,
    /// What is told of parts that end by themselves.
    failed: Arc<watch::Sender<Vec<String>>>,
    /// In the order in which they end.
    parts: Vec<Part>,
}

/// What a node has of its cache; nothing if it runs none.
#[derive(Default)]
struct Cache {
    proxy: Option<Proxy>,
    requests: Option<Arc<Requests>>,
    /// What sends the traces of its requests.
    sending: Option<Sending>,
}

impl Starting {
    /// Starts a part that ends after those before it.
    fn part<F>(&mut self, name: &'static str, patience: Duration, body: impl FnOnce(StopSignal) -> F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.parts.push(Part::start(name, patience, &self.failed, body));
    }

    fn cache(
        &mut self,
        config: &Config,
        sockets: &coral_proxy::Sockets,
        observe: mpsc::Sender<(IpAddr, Duration)>,
        log: Option<Lines>,
    ) -> anyhow::Result<Cache> {
        let me = SocketAddr::new(self.me.addr.ip(), sockets.http.local_addr()?.port());
        let mut part = config.proxy.part.clone();
        part.network_key.clone_from(&config.dsht.part.network_key);
        let suffixes = config.suffixes.iter().map(|suffix| suffix.proxy.clone()).collect();
        let metrics = coral_proxy::Metrics::register(&mut self.registry);
        let proxy = Proxy::new(Arc::new(part), suffixes, me, self.dsht.clone(), metrics)
            .context("cannot start the cache ([proxy])")?;
        proxy.watch_clients(observe);
        let requests = Requests::open(&config.log.access, log)?;
        if let Some(requests) = &requests {
            proxy.log_requests(Arc::<Requests>::clone(requests));
        }
        let mut sender_of_traces = None;
        if let Some((traces, sending)) = Traces::open(&config.log.traces, self.me)? {
            proxy.trace_requests(traces);
            sender_of_traces = Some(sending);
        }
        Ok(Cache { proxy: Some(proxy), requests, sending: sender_of_traces })
    }

    fn serve(&mut self, config: &Config, proxy: Proxy, sockets: coral_proxy::Sockets) {
        let part = &config.proxy.part;
        let patience = part.drain + part.reference.withdraw + GRACE;
        self.part("cache", patience, |stop| async move { proxy.run(sockets, stop).await.map_err(|e| describe(&e)) });
    }

    fn nameserver(
        &mut self,
        config: &Config,
        sockets: coral_dns::Sockets,
        observations: mpsc::Receiver<(IpAddr, Duration)>,
        clients: Vec<Recollection>,
    ) -> Nameserver {
        let suffixes = config.suffixes.iter().map(|suffix| suffix.dns.clone()).collect();
        let metrics = coral_dns::Metrics::register(&mut self.registry);
        let part = Arc::new(config.dns.part.clone());
        let mut server = coral_dns::Server::new(part, suffixes, self.me, self.dsht.clone(), metrics);
        server.observe(observations);
        server.remember(clients);
        let nameserver = Nameserver { leaves: server.leaves(), memory: server.memory() };
        self.part("nameserver", GRACE, |stop| async move { server.run(sockets, stop).await.map_err(|e| describe(&e)) });
        nameserver
    }

    fn state_file(&mut self, config: &Config) {
        if let Some(path) = config.dsht.node.state.clone() {
            let dsht = self.dsht.clone();
            self.part(STATE_FILE, GRACE, |stop| async move {
                state::keep(dsht, &path, stop).await;
                Ok(())
            });
        }
    }

    fn search_for_routers(&mut self, config: &Config, seeds: Vec<SocketAddr>) {
        // Nothing stands in front of what only this machine can reach.
        if config.dsht.node.trace && !self.me.addr.ip().is_loopback() {
            let near = config.dsht.part.diameters.first().copied();
            let outwards = Outwards { dsht: self.dsht.clone(), me: self.me.addr, seeds, near };
            self.part("search for routers", GRACE, |stop| async move {
                outwards.run(stop).await;
                Ok(())
            });
        }
    }

    fn purge(&mut self, purger: Arc<Purger>) {
        self.part("purger", GRACE, |stop| async move {
            purger.run(stop).await;
            Ok(())
        });
    }

    fn page(&mut self, page: Arc<Page>) {
        self.part("page", GRACE, |stop| async move {
            page.run(stop).await;
            Ok(())
        });
    }

    /// After the cache, whose last answers are traced, too.
    fn sender_of_traces(&mut self, sending: Sending) {
        self.part("sender of traces", GRACE, |stop| async move {
            sending.run(stop).await;
            Ok(())
        });
    }
}

/// Whom to join by: the seeds, the peers of last time, and `contacts`.
async fn seeds(config: &DshtNode, contacts: Vec<SocketAddr>) -> anyhow::Result<Vec<SocketAddr>> {
    let remembered = config.state.as_deref().map(state::read).unwrap_or_default();
    let mut seeds = match address::look_up(&config.seeds).await {
        Ok(seeds) => seeds,
        Err(e) if !remembered.is_empty() => {
            tracing::warn!("{e}; joining by {} peers of last time", remembered.len());
            Vec::new()
        }
        Err(e) => return Err(e),
    };
    seeds.extend(remembered);
    seeds.extend(contacts);
    Ok(seeds)
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
