//! `/map`: the nodes that this one can reach, and how far each is.
//!
//! A node knows some members of its clusters, and of all others a few. So it searches for keys that lie evenly in the space of
//! ids, at each level: whoever answers on the way is met, with its round-trip time. It goes on until nobody new is met, within
//! bounds, and one walk is made at a time. What clusters the others are in among themselves a node cannot see; those that it
//! shares with them it can.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use coral_dsht::{ClusterStatus, Found, HopAnswer, Key, Level, Levels, Neighbour, NodeId, Peer};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::status::Shared;
use crate::page::rings_alone;

/// The most searches of one walk.
const SEARCHES: u16 = 256;

/// So many that have met nobody new in a row are the end of it.
const IN_VAIN: u16 = 32;

/// Searches at a time.
const AT_ONCE: usize = 4;

/// How long a walk may take; what it has met by then is the map.
const PATIENCE: Duration = Duration::from_secs(15);

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
    let _turn = shared.walk.acquire().await.context("the node stops")?;
    let mut snapshot = shared.snapshot().await?;
    let me = snapshot.me.id;
    let mut nodes: BTreeMap<NodeId, (Neighbour, bool)> =
        snapshot.neighbours.iter().map(|neighbour| (neighbour.peer.id, (*neighbour, true))).collect();
    let mut silent = BTreeMap::new();
    let until = Instant::now() + PATIENCE;
    let (mut under_way, mut begun, mut searches, mut in_vain) = (JoinSet::new(), 0, 0, 0);
    loop {
        while begun < SEARCHES && in_vain < IN_VAIN && under_way.len() < AT_ONCE {
            let (dsht, key) = (shared.dsht.clone(), key(begun));
            under_way.spawn(async move { dsht.get(key, Levels::ALL).await });
            begun += 1;
        }
        // The rest is given up with the set.
        let Ok(Some(ended)) = timeout_at(until, under_way.join_next()).await else { break };
        searches += 1;
        if let Ok(Ok(found)) = ended {
            let before = nodes.len();
            meet(&found, me, &mut nodes, &mut silent);
            in_vain = if nodes.len() > before { 0 } else { in_vain + 1 };
        }
    }
    silent.retain(|id, _| !nodes.contains_key(id));
    let mut nodes: Vec<(Neighbour, bool)> = nodes.into_values().collect();
    nodes.sort_by_key(|(neighbour, _)| neighbour.rtt);
    snapshot.neighbours = nodes.iter().map(|(neighbour, _)| *neighbour).collect();
    let seen = |(Neighbour { peer, rtt, level, .. }, known)| Seen { peer, rtt, level, known };
    Ok(Map {
        node: snapshot.me,
        svg: rings_alone(&snapshot),
        clusters: snapshot.clusters,
        nodes: nodes.into_iter().map(seen).collect(),
        silent: silent.into_values().collect(),
        searches,
    })
}

/// Notes who has answered on the way, and who has not. Who is asked at a level is in this node's cluster there, unless it says
/// that it has left.
fn meet(
    found: &Found,
    me: NodeId,
    nodes: &mut BTreeMap<NodeId, (Neighbour, bool)>,
    silent: &mut BTreeMap<NodeId, Peer>,
) {
    for hop in found.hops.iter().filter(|hop| hop.peer.id != me) {
        let Some(rtt) = hop.rtt else {
            if hop.answer == HopAnswer::TimedOut {
                silent.insert(hop.peer.id, hop.peer);
            }
            continue;
        };
        let level = if hop.answer == HopAnswer::OtherCluster { Level::GLOBAL } else { hop.level };
        let neighbour = Neighbour { peer: hop.peer, rtt, heard: Duration::ZERO, level };
        let (node, _) = nodes.entry(hop.peer.id).or_insert((neighbour, false));
        node.level = node.level.max(level);
    }
}

/// The key with this number. However many are taken, they lie evenly: their bits are those of the number, the last first.
fn key(number: u16) -> Key {
    let mut bytes = [0; 20];
    bytes[..2].copy_from_slice(&number.reverse_bits().to_be_bytes());
    bytes[2] = 0x80;
    Key::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_evenly_in_the_space() {
        for count in [4, 64, SEARCHES] {
            let mut parts: Vec<u16> = (0..count).map(|n| u16::from(key(n).as_bytes()[0]) * count / 256).collect();
            parts.sort_unstable();
            assert_eq!(parts, (0..count).collect::<Vec<_>>(), "one in each of {count} parts");
        }
    }
}
