//! Asking the nodes of a testbed, each at its admin address, which only its own namespace reaches.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use coral::http;
use serde::Deserialize;

use crate::command;
use crate::compose::pause_container;
use crate::map::{Map, Site};
use crate::netns::{self, Netns};

/// Where a node's admin address listens by default.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4161);

/// The processes that hold the network namespaces of the sites, by the sites' names.
pub type Namespaces = BTreeMap<String, u32>;

/// The process in each site's pause container.
///
/// # Errors
///
/// If a container is missing or not running, or Docker runs on another machine.
pub async fn namespaces(map: &Map) -> anyhow::Result<Namespaces> {
    let names: Vec<String> = map.sites().iter().map(|site| pause_container(&site.name)).collect();
    let arguments = ["inspect", "--format", "{{.State.Pid}}"].into_iter().map(str::to_owned);
    let pids = command::run("docker", arguments.chain(names)).await.context("not all of the testbed is there")?;
    let pids: Vec<u32> = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    let mut namespaces = Namespaces::new();
    for (site, pid) in map.sites().iter().zip(pids) {
        if pid == 0 {
            bail!("the container {} is not running; take the testbed down and up again", pause_container(&site.name));
        }
        if !std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists() {
            bail!("Docker's processes are not those of this machine (DOCKER_HOST?); run the testbed where Docker runs");
        }
        namespaces.insert(site.name.clone(), pid);
    }
    Ok(namespaces)
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NodeStatus {
    /// Whether it knows any other node, or needs none.
    pub joined: bool,
    /// Its clusters, from level 0 up.
    pub clusters: Vec<Cluster>,
    /// The members of its clusters that have answered it lately.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
    /// Its cache, and the traffic there.
    pub cache: Traffic,
}

impl NodeStatus {
    /// Its cluster at a level.
    pub fn cluster(&self, level: u8) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.level == level)
    }

    /// Whether it has heard from a member of its cluster at this level.
    pub fn has_company(&self, level: u8) -> bool {
        // Who shares the cluster of a level shares those of the wider ones, too.
        self.neighbours.iter().any(|neighbour| neighbour.level >= level)
    }
}

/// A node that another one has heard from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Neighbour {
    /// The nearest level at which the two share a cluster.
    pub level: u8,
}

/// What a node's cache has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Objects stored whole.
    pub objects: u64,
    /// Requests of clients, by what the cache did: `hit`, `peer-l0`, …, `origin`.
    pub requests: BTreeMap<String, u64>,
    /// Requests sent to the origin.
    pub origin_requests: u64,
    /// Bytes of bodies sent to clients.
    pub sent_to_clients_bytes: u64,
}

/// One of a node's clusters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Cluster {
    /// From 0.
    pub level: u8,
    /// The round-trip time within which its members are meant to be; none at level 0.
    #[serde(with = "humantime_serde")]
    pub diameter: Option<Duration>,
    /// Its identifier.
    #[serde(rename = "cluster")]
    pub id: String,
    /// How many nodes the node believes it to have.
    pub size: u32,
}

/// What each node of `map` says of itself, in the order of the map.
///
/// All are asked at the same time; one that does not answer is an error of its own.
pub async fn statuses<'m>(map: &'m Map, namespaces: &Namespaces) -> Vec<(&'m Site, anyhow::Result<NodeStatus>)> {
    let asked: Vec<_> = map.nodes().map(|site| (site, ask(namespaces.get(&site.name).copied()))).collect();
    let mut all = Vec::with_capacity(asked.len());
    for (site, answer) in asked {
        all.push((site, answer.await.unwrap_or_else(|e| Err(e.into()))));
    }
    all
}

/// A thread for each: it enters the node's namespace, and would have to find back otherwise.
fn ask(pid: Option<u32>) -> tokio::task::JoinHandle<anyhow::Result<NodeStatus>> {
    tokio::task::spawn_blocking(move || {
        let pid = pid.context("it has no namespace")?;
        let (code, text) = netns::inside(&Netns::Pid(pid).open()?, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(http::get_text(ADMIN, "/status"))
        })??;
        serde_json::from_str(&text).with_context(|| format!("it answered {code}, and not with a status"))
    })
}
