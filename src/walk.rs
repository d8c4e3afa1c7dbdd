//! A walk through the network: the nodes that this one can reach, and how far each is.
//!
//! A node knows some members of its clusters, and of all others a few. So it searches for keys that lie evenly in the space of
//! ids, at each level: whoever answers on the way is met, with its round-trip time. It goes on until nobody new is met, within
//! bounds, and one walk is made at a time. What clusters the others are in among themselves a node cannot see; those that it
//! shares with them it can.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use coral_dsht::{DshtHandle, Found, HopAnswer, Key, Level, Levels, Neighbour, NodeId, Peer, Snapshot};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

/// The most searches of one walk.
const SEARCHES: u16 = 256;

/// So many that have met nobody new in a row are the end of it.
const IN_VAIN: u16 = 32;

/// Searches at a time.
const AT_ONCE: usize = 4;

/// How long a walk may take; what it has met by then is what there is.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the index may take to tell of itself: its task answers between two datagrams.
const SNAPSHOT: Duration = Duration::from_secs(2);

/// What walks, and remembers the last walk.
#[derive(Debug)]
pub(crate) struct Walker {
    dsht: DshtHandle,
    turn: Semaphore,
    last: Mutex<Option<(Instant, Arc<Walked>)>>,
}

/// Whom a walk has met.
#[derive(Debug)]
pub(crate) struct Walked {
    /// When it ended.
    pub(crate) at: SystemTime,
    /// The node as it was before.
    pub(crate) snapshot: Snapshot,
    /// The nearest first, each with whether it was a neighbour before.
    pub(crate) nodes: Vec<(Neighbour, bool)>,
    /// Nodes that were asked and did not answer in time.
    pub(crate) silent: Vec<Peer>,
    /// Searches that were made.
    pub(crate) searches: u16,
}

impl Walker {
    pub(crate) fn new(dsht: DshtHandle) -> Self {
        Self { dsht, turn: Semaphore::new(1), last: Mutex::default() }
    }

    /// Walks. Who asks while another walk is made waits for its turn.
    pub(crate) async fn walk(&self) -> anyhow::Result<Arc<Walked>> {
        let _turn = self.turn.acquire().await.context("the node stops")?;
        let walked = Arc::new(self.walk_alone().await?);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), Arc::clone(&walked)));
        Ok(walked)
    }

    /// The last walk, if it ended no longer ago than `age`.
    pub(crate) fn last(&self, age: Duration) -> Option<Arc<Walked>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() <= age).map(|(_, walked)| Arc::clone(walked))
    }

    async fn walk_alone(&self) -> anyhow::Result<Walked> {
        let snapshot = timeout(SNAPSHOT, self.dsht.snapshot()).await.context("the index does not answer")??;
        let me = snapshot.me.id;
        let mut nodes: BTreeMap<NodeId, (Neighbour, bool)> =
            snapshot.neighbours.iter().map(|neighbour| (neighbour.peer.id, (*neighbour, true))).collect();
        let mut silent = BTreeMap::new();
        let until = Instant::now() + PATIENCE;
        let (mut under_way, mut begun, mut searches, mut in_vain) = (JoinSet::new(), 0, 0, 0);
        loop {
            while begun < SEARCHES && in_vain < IN_VAIN && under_way.len() < AT_ONCE {
                let (dsht, key) = (self.dsht.clone(), key(begun));
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
        Ok(Walked { at: SystemTime::now(), snapshot, nodes, silent: silent.into_values().collect(), searches })
    }
}

impl Walked {
    /// `snapshot` with all who were met besides its own neighbours, of whom it knows what is newer.
    pub(crate) fn added_to(&self, snapshot: &Snapshot) -> Snapshot {
        let met = self.nodes.iter().map(|(neighbour, _)| neighbour);
        let all: BTreeMap<NodeId, Neighbour> =
            met.chain(&snapshot.neighbours).map(|neighbour| (neighbour.peer.id, *neighbour)).collect();
        let mut all: Vec<Neighbour> = all.into_values().collect();
        all.sort_by_key(|neighbour| neighbour.rtt);
        Snapshot { neighbours: all, ..snapshot.clone() }
    }
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
    use coral_dsht::{Dsht, Instant as Time, Services};

    use super::*;

    #[test]
    fn keys_lie_evenly_in_the_space() {
        for count in [4, 64, SEARCHES] {
            let mut parts: Vec<u16> = (0..count).map(|n| u16::from(key(n).as_bytes()[0]) * count / 256).collect();
            parts.sort_unstable();
            assert_eq!(parts, (0..count).collect::<Vec<_>>(), "one in each of {count} parts");
        }
    }

    #[test]
    fn who_was_met_is_added_to_the_neighbours_of_whom_the_node_knows_best() {
        let seen = |last: u8, millis, level| {
            let peer = Peer::new(([192, 0, 2, last], 4160).into(), Services::NONE);
            Neighbour { peer, rtt: Duration::from_millis(millis), heard: Duration::ZERO, level }
        };
        let mut node = Dsht::new(Arc::default(), seen(1, 0, Level::GLOBAL).peer, [1; 32], Time::START);
        let near = Level::new(2).unwrap();
        let mut snapshot = node.snapshot(Time::START);
        let walked = Walked {
            at: SystemTime::UNIX_EPOCH,
            snapshot: snapshot.clone(),
            nodes: vec![(seen(2, 9, Level::GLOBAL), true), (seen(3, 5, near), false)],
            silent: Vec::new(),
            searches: 1,
        };
        snapshot.neighbours = vec![seen(2, 2, near), seen(4, 7, near)];
        let all = walked.added_to(&snapshot).neighbours;
        assert_eq!(all, [seen(2, 2, near), seen(3, 5, near), seen(4, 7, near)]);
    }
}
