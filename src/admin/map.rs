//! `/map`: the nodes that this one can reach, by a walk for whoever asks.

use std::time::Duration;

use coral_dsht::{ClusterStatus, Level, Neighbour, Peer};
use serde::Serialize;

use super::status::Shared;
use crate::page::rings_alone;

/// The body of `/map`.
#[derive(Debug, Serialize)]
pub(super) struct Map {
    node: Peer,
    /// From the global level up.
    clusters: Vec<ClusterStatus>,
    /// The nearest first.
    nodes: Vec<Seen>,
    /// Nodes that were asked and did not answer in time.
    silent: Vec<Peer>,
    /// Searches that were made.
    searches: u16,
    /// The same as a picture, a document by itself.
    pub(super) svg: String,
}

/// A node that answers.
#[derive(Debug, Serialize)]
struct Seen {
    peer: Peer,
    #[serde(with = "humantime_serde")]
    rtt: Duration,
    /// The nearest level at which it is in a cluster of this node.
    level: Level,
    /// Whether this node knew it as a neighbour, or met it on the walk.
    known: bool,
}

/// Walks. Who asks while another walk is made waits for its turn.
pub(super) async fn map(shared: &Shared) -> anyhow::Result<Map> {
    let walked = shared.walker.walk().await?;
    let seen = |(Neighbour { peer, rtt, level, .. }, known): &(Neighbour, bool)| Seen {
        peer: *peer,
        rtt: *rtt,
        level: *level,
        known: *known,
    };
    Ok(Map {
        node: walked.snapshot.me,
        svg: rings_alone(&walked.added_to(&walked.snapshot)),
        clusters: walked.snapshot.clusters.clone(),
        nodes: walked.nodes.iter().map(seen).collect(),
        silent: walked.silent.clone(),
        searches: walked.searches,
    })
}
