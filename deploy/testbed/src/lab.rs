//! A network that a scenario runs on: the sites of a map with nodes, a router and an origin, whichever way they came to be.
//!
//! [`Lab::processes`] makes a network of its own, of plain namespaces and node processes, as many as the machine carries.
//! [`Lab::containers`] takes the one that `testbed up` has brought up. A scenario does the same with both: it runs clients at
//! sites, kills and starts nodes, changes the wide area, asks nodes and the origin what they have seen.
//!
//! All methods take `&self`, so that clients can run on threads of their own meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use coral::http;

use crate::formation::Formation;
use crate::interrupt::{INTERRUPTED, Interrupt};
use crate::map::{Map, Site};
use crate::netns;
use crate::nodes::{ADMIN, NodeStatus};
use crate::wan::control::Client;

mod containers;
mod guests;
mod processes;
mod web;

use containers::Containers;
pub use guests::{Guest, Tree};
use processes::Processes;
pub use processes::Setup;

/// A network with nodes, until it is dropped.
#[derive(Debug)]
pub struct Lab {
    map: Arc<Map>,
    network: Network,
    interrupt: Interrupt,
}

#[derive(Debug)]
enum Network {
    Processes(Box<Processes>),
    Containers(Containers),
}

/// How clusters came about.
#[derive(Debug)]
pub struct Settled {
    /// After how long the last change was seen.
    pub took: Duration,
    /// Who is together with whom then.
    pub formation: Formation,
}

impl Lab {
    /// Makes a network of its own: a namespace for each site of the map, a router, an origin, and a process for each node. The
    /// nodes have been started, and that is all: see [`Lab::wait_joined`].
    ///
    /// # Errors
    ///
    /// If the map is none, rights are missing, or something does not start. What was begun has gone then.
    pub fn processes(setup: &Setup, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let map = Arc::new(Map::parse(&setup.map, &setup.map_name)?);
        let network = Network::Processes(Box::new(Processes::start(setup, &map, interrupt)?));
        Ok(Self { map, network, interrupt: interrupt.clone() })
    }

    /// The network of containers that `testbed up` has brought up. When this is dropped, all its nodes run, and nothing is cut.
    ///
    /// # Errors
    ///
    /// If none is up, or not all of it.
    pub fn containers(interrupt: &Interrupt) -> anyhow::Result<Self> {
        let (map, network) = Containers::attach()?;
        Ok(Self { map: Arc::new(map), network: Network::Containers(network), interrupt: interrupt.clone() })
    }

    /// Its map, as it was when the network came up.
    pub fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map)
    }

    /// Whether this process was told to end.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// What it is made of, for titles.
    pub fn made_of(&self) -> &'static str {
        match &self.network {
            Network::Processes(_) => "processes in namespaces",
            Network::Containers(_) => "containers",
        }
    }

    /// The open namespace of a site, for [`netns::inside`].
    ///
    /// # Errors
    ///
    /// If it has gone.
    pub fn namespace(&self, site: &Site) -> anyhow::Result<File> {
        match &self.network {
            Network::Processes(network) => network.namespace(site),
            Network::Containers(network) => network.namespace(site),
        }
    }

    /// Runs a future at a site, on a runtime of its own in a thread that has entered the site's namespace, and waits for it.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered, or an interrupt comes: then the future is dropped.
    pub fn at<T: Send, F: Future<Output = T>>(
        &self,
        site: &Site,
        work: impl FnOnce() -> F + Send,
    ) -> anyhow::Result<T> {
        netns::inside(&self.namespace(site)?, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("cannot start a runtime")?.block_on(async {
                tokio::select! {
                    done = work() => Ok(done),
                    () = self.interrupt.told() => bail!(INTERRUPTED),
                }
            })
        })?
    }

    /// The same at many sites at once; what came of it is in their order.
    pub fn at_each<'s, T: Send, F: Future<Output = T>>(
        &self,
        sites: &[&'s Site],
        work: impl Fn(&'s Site) -> F + Sync,
    ) -> Vec<anyhow::Result<T>> {
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> =
                sites.iter().map(|site| scope.spawn(move || self.at(site, move || work(site)))).collect();
            let joined = threads.into_iter().map(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        })
    }

    /// What the node of a site answers at this path of its admin address: `/status`, `/health`, `/metrics`, `/lookup?url=…`.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn admin(&self, site: &Site, path: &str) -> anyhow::Result<String> {
        let (_, text) = self.at(site, || http::get_text(ADMIN, path))??;
        Ok(text)
    }

    /// What the node of a site says of itself.
    ///
    /// # Errors
    ///
    /// If it does not answer, or not with a status.
    pub fn status(&self, site: &Site) -> anyhow::Result<NodeStatus> {
        let text = self.admin(site, "/status")?;
        serde_json::from_str(&text).with_context(|| format!("{} does not answer with a status", site.name))
    }

    /// What each node says of itself, in the order of the map; one that does not answer is an error of its own.
    pub fn statuses<'m>(&self, map: &'m Map) -> Vec<(&'m Site, anyhow::Result<NodeStatus>)> {
        let nodes: Vec<&Site> = map.nodes().collect();
        let answers = self.at_each(&nodes, |_| async {
            let (code, text) = http::get_text(ADMIN, "/status").await?;
            serde_json::from_str(&text).with_context(|| format!("it answered {code}, and not with a status"))
        });
        nodes.into_iter().zip(answers.into_iter().map(|answer| answer.and_then(|answer| answer))).collect()
    }

    /// Whether the process of a site's node runs.
    ///
    /// # Errors
    ///
    /// If that cannot be found out, or the site is no node.
    pub fn is_running(&self, site: &Site) -> anyhow::Result<bool> {
        match &self.network {
            Network::Processes(network) => network.is_running(site),
            Network::Containers(network) => network.is_running(site),
        }
    }

    /// The process of a site's node.
    ///
    /// # Errors
    ///
    /// If it does not run, or is a container's.
    pub fn process_id(&self, site: &Site) -> anyhow::Result<u32> {
        match &self.network {
            Network::Processes(network) => network.process_id(site),
            Network::Containers(_) => bail!("{} is a container, not a process of this program's", site.name),
        }
    }

    /// Starts the node of a site, if it does not run, and does not wait until it has joined.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&self, site: &Site) -> anyhow::Result<()> {
        match &self.network {
            Network::Processes(network) => network.start_node(site),
            Network::Containers(network) => network.start_node(site),
        }
    }

    /// Kills the node of a site, without a goodbye (SIGKILL), and waits until it has gone. Its address stays.
    ///
    /// # Errors
    ///
    /// If that is not possible.
    pub fn kill(&self, site: &Site) -> anyhow::Result<()> {
        match &self.network {
            Network::Processes(network) => network.kill(site),
            Network::Containers(network) => network.kill(site),
        }
    }

    /// Tells the node of a site to end (SIGTERM), and waits until it has said its goodbyes.
    ///
    /// # Errors
    ///
    /// If it does not end within [`STOP`].
    pub fn stop(&self, site: &Site) -> anyhow::Result<()> {
        match &self.network {
            Network::Processes(network) => network.stop(site),
            Network::Containers(network) => network.stop(site),
        }
    }

    /// A connection to the router: cuts, distances, losses, lines.
    ///
    /// # Errors
    ///
    /// If the router has gone.
    pub fn wan(&self) -> anyhow::Result<Client> {
        match &self.network {
            Network::Processes(network) => network.wan(),
            Network::Containers(network) => network.wan(),
        }
    }

    /// How often the origin was asked for what, by its own count: by path and query, whatever the answer was.
    ///
    /// # Errors
    ///
    /// If it cannot be asked.
    pub fn origin_requests(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        match &self.network {
            Network::Processes(network) => Ok(network.origin_requests()),
            Network::Containers(network) => network.origin_requests(self.map.origin()),
        }
    }

    /// Waits until these nodes say that they have joined.
    ///
    /// # Errors
    ///
    /// If one has ended, the time is over, or an interrupt comes.
    pub fn wait_joined(&self, sites: &[&Site], limit: Duration) -> anyhow::Result<()> {
        let what = format!("{} nodes are to join", sites.len());
        self.interrupt.until(&what, limit, || {
            let answers = self.at_each(sites, |_| http::get_text(ADMIN, "/health"));
            let waiting: Vec<&&Site> = (sites.iter().zip(answers))
                .filter(|(_, answer)| !matches!(answer, Ok(Ok((code, _))) if code.is_success()))
                .map(|(site, _)| site)
                .collect();
            for site in &waiting {
                if !self.is_running(site)? {
                    return Err(self.ended(site));
                }
            }
            match waiting.first() {
                None => Ok(Ok(())),
                Some(site) => Ok(Err(format!("{} have not, {} among them", waiting.len(), site.name))),
            }
        })
    }

    /// Waits until clusters have formed as the map lets one expect, or no node has changed its clusters for [`QUIET`], or the time is over:
    /// what nodes make of distances is theirs to find out, and is told rather than judged.
    ///
    /// # Errors
    ///
    /// If an interrupt comes.
    pub fn wait_settled(&self, limit: Duration) -> anyhow::Result<Settled> {
        let begun = Instant::now();
        let mut latest = (begun, BTreeMap::new());
        self.interrupt.until("clusters are to settle", limit * 2, || {
            let formation = Formation::of(&self.map, &self.statuses(&self.map));
            if *formation.clusters() != latest.1 {
                latest = (Instant::now(), formation.clusters().clone());
            }
            let is_done = formation.missing().is_empty() || latest.0.elapsed() > QUIET || begun.elapsed() > limit;
            Ok(if is_done { Ok(Settled { took: latest.0 - begun, formation }) } else { Err(String::new()) })
        })
    }

    /// That a node has ended by itself, with the last that it said.
    fn ended(&self, site: &Site) -> anyhow::Error {
        match &self.network {
            Network::Processes(network) => network.ended(site),
            Network::Containers(network) => network.ended(site),
        }
    }
}

/// How long a node may take to end when it is told to.
pub const STOP: Duration = Duration::from_secs(30);
/// For so long nothing must change for clusters to have settled.
pub const QUIET: Duration = Duration::from_secs(30);
