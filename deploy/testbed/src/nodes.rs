//! What the nodes of a testbed say of themselves at their admin addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NodeStatus {
    /// Whether it knows any other node, or needs none.
    pub joined: bool,
    /// Its clusters, from level 0 up.
    pub clusters: Vec<Cluster>,
    /// Its cache, and the traffic there.
    pub cache: Traffic,
}

impl NodeStatus {
    /// Its cluster at a level.
    pub fn cluster(&self, level: u8) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.level == level)
    }
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
