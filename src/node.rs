//! One node: [`Node::start`] binds every address and wires the handles, [`Node::stop`] undoes it in reverse.
//!
//! The order of the end matters to others: the cache finishes its answers and withdraws its references while the index
//! still runs; the nameserver stops sending people here; the index says goodbye; last goes the operator's view of it.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coral_dns::Recollection;
use coral_dsht::{ClusterId, DshtHandle, Peer, Snapshot, Stopped};
use coral_proxy::Proxy;
use serde::Serialize;
use tokio::sync::watch;

use crate::config::Config;
use crate::logging::{Lines, Requests};
use crate::page::Page;
use crate::purge::{Purger, Trust};
use part::Part;

pub(crate) mod address;
mod drain;
mod part;
mod sockets;
mod start;
mod state;
mod stop;

pub(crate) use drain::Drain;
pub use part::PartEnding;
pub(crate) use sockets::{Place, Shared, advice};
pub(crate) use start::Given;
pub use stop::Ending;
pub(crate) use stop::Leaving;

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
    page: Arc<Page>,
    /// In the order in which they end.
    parts: Vec<Part>,
    /// What it listens at, for another process that takes over.
    shared: Vec<(Place, OwnedFd)>,
    nameserver: Nameserver,
    failures: watch::Receiver<Vec<String>>,
    drain: Drain,
}

/// What another process that takes over has to do with the nameserver.
#[derive(Debug, Default)]
struct Nameserver {
    /// To be set once one does.
    leaves: Arc<AtomicBool>,
    /// What it goes on with.
    memory: coral_dns::Memory,
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

impl Node {
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

    /// What its nameserver knows of clients, for another process that takes over: of so many networks at most.
    pub(crate) fn clients(&self, most: usize) -> Vec<Recollection> {
        self.nameserver.memory.recall(most)
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
        config.take_over(new);
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
