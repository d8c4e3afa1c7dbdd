//! What must hold over all nodes at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ClusterId, Key};
use crate::level::Level;
use crate::sim::Simulation;

/// The live node nearest to `key`, by its number: where a lookup ought to end.
pub fn nearest(sim: &Simulation, key: &Key) -> Option<usize> {
    sim.alive().min_by_key(|(_, dsht)| dsht.me().id.distance(key)).map(|(number, _)| number)
}

/// All live nodes by their numbers, the one nearest to `key` first.
pub fn by_distance(sim: &Simulation, key: &Key) -> Vec<usize> {
    let mut all: Vec<_> = sim.alive().map(|(number, dsht)| (dsht.me().id.distance(key), number)).collect();
    all.sort();
    all.into_iter().map(|(_, number)| number).collect()
}

/// The share of live nodes that know the live node nearest to them, which is what makes every lookup end where it should.
pub fn know_their_nearest(sim: &Simulation) -> f64 {
    let mut peers: Vec<_> = sim.alive().map(|(number, dsht)| (dsht.me(), number)).collect();
    peers.sort_by_key(|(peer, _)| peer.id);
    let mut knowing = 0;
    for (index, (me, number)) in peers.iter().enumerate() {
        // In the order of ids, the nearest by XOR is next to it: all that share the most bits are one run.
        let beside = [index.checked_sub(1), Some(index + 1)].into_iter().flatten();
        let bits = |other: usize| peers.get(other).map(|(peer, _)| me.id.distance(&peer.id).leading_zeros());
        let Some(most) = beside.filter_map(bits).max() else { return 1.0 };
        let shares = |(peer, _): &&(crate::Peer, usize)| me.id.distance(&peer.id).leading_zeros() == most;
        let run = peers[..index].iter().rev().take_while(shares).chain(peers[index + 1..].iter().take_while(shares));
        let nearest = run.min_by_key(|(peer, _)| me.id.distance(&peer.id)).map(|(peer, _)| peer);
        if nearest.is_some_and(|nearest| sim.node(*number).knows(Level::GLOBAL, nearest)) {
            knowing += 1;
        }
    }
    f64::from(knowing) / peers.len().max(1) as f64
}

/// How many distinct clusters the live nodes are in at `level`.
pub fn clusters(sim: &Simulation, level: Level) -> usize {
    sim.alive().map(|(_, dsht)| dsht.cluster(level)).collect::<BTreeSet<_>>().len()
}

/// How well the clusters of a level are what they are meant to be.
#[derive(Debug, Clone, Default)]
pub struct Clustering {
    /// How many nodes each cluster has, the largest first.
    pub sizes: Vec<usize>,
    /// Pairs of nodes that are in one cluster.
    pub pairs: u64,
    /// Those of them that are within the diameter.
    pub pairs_within: u64,
    /// Pairs of nodes, in whatever clusters, that are within the diameter.
    pub near_pairs: u64,
}

impl Clustering {
    /// The share of pairs in one cluster that are within the diameter.
    pub fn share_within(&self) -> f64 {
        self.pairs_within as f64 / self.pairs.max(1) as f64
    }

    /// The share of pairs within the diameter that are in one cluster.
    pub fn share_together(&self) -> f64 {
        self.pairs_within as f64 / self.near_pairs.max(1) as f64
    }
}

/// The clusters of `level` among all live nodes, by the map. Looks at each pair of nodes: for thousands, not more.
pub fn clustering(sim: &Simulation, level: Level) -> Clustering {
    let Some(diameter) = sim.config.diameter(level) else { return Clustering::default() };
    let nodes: Vec<(usize, ClusterId)> = sim.alive().map(|(number, dsht)| (number, dsht.cluster(level))).collect();
    let mut sizes: BTreeMap<ClusterId, usize> = BTreeMap::new();
    let mut clustering = Clustering::default();
    for (index, (a, cluster)) in nodes.iter().enumerate() {
        *sizes.entry(*cluster).or_default() += 1;
        for (b, other) in &nodes[..index] {
            let (together, near) = (cluster == other, sim.rtt(*a, *b) < diameter);
            clustering.pairs += u64::from(together);
            clustering.pairs_within += u64::from(together && near);
            clustering.near_pairs += u64::from(near);
        }
    }
    clustering.sizes = sizes.into_values().collect();
    clustering.sizes.sort_by(|a, b| b.cmp(a));
    clustering
}
