//! A network that has long been up, without simulating how it came up.
//!
//! A join of ten thousand nodes costs minutes of work, and most experiments begin where it ends. Here each node gets the
//! tables that it would have: for each power of two of distance, in each of its clusters, as many random peers as a
//! bucket holds, with the round-trip time that it would have measured. Clusters are filled greedily from the map: a node
//! enters the largest one of which 80 % of a sample are within the diameter [C04 §4.4], else founds its own.
//!
//! What this replaces is the join, its races and its leftovers: here every table is full of live peers, and nobody is in
//! the wrong cluster. Where that is the question, use [`Simulation::join`].

use std::ops::Range;
use std::time::Duration;

use crate::id::{ClusterId, ID_BYTES, Id};
use crate::message::{ClusterInfo, Clusters};
use crate::peer::Peer;
use crate::sim::Simulation;
use crate::time::Instant;

impl Simulation {
    /// Fills an empty simulation with `count` nodes that know each other as nodes do that joined an hour ago.
    pub fn settled(&mut self, count: usize) {
        assert!(self.is_empty(), "only an empty network can be settled");
        self.now = Instant::START + AGE;
        for _ in 0..count {
            self.add_node();
        }
        let diameters = self.config.diameters.clone();
        let assigned: Vec<Vec<usize>> = diameters.iter().map(|diameter| self.assign(*diameter)).collect();
        let ids: Vec<Vec<ClusterInfo>> = assigned.iter().map(|assigned| self.found(assigned)).collect();
        let clusters: Vec<Clusters> = (0..count)
            .map(|node| Clusters::new(assigned.iter().zip(&ids).map(|(cluster, ids)| ids[cluster[node]]).collect()))
            .collect();
        for (node, clusters) in clusters.iter().enumerate() {
            let now = self.now;
            self.nodes[node].dsht.settle(now, clusters);
        }
        // The global level first, as in a join: its buckets are then no nearer than chance has it.
        self.introduce(&mut (0..count).collect::<Vec<_>>(), &clusters);
        for (level, assigned) in assigned.iter().enumerate() {
            for cluster in 0..ids[level].len() {
                let mut members: Vec<usize> = (0..count).filter(|node| assigned[*node] == cluster).collect();
                self.introduce(&mut members, &clusters);
            }
        }
        for node in 0..count {
            let now = self.now;
            self.nodes[node].dsht.acquainted(now);
            self.nodes[node].timer = None;
            self.drain(node);
        }
    }

    /// Which of the clusters of this diameter each node is in.
    fn assign(&mut self, diameter: Duration) -> Vec<usize> {
        let mut clusters: Vec<Vec<usize>> = Vec::new();
        let mut assigned = Vec::new();
        for node in 0..self.len() {
            let mut best: Option<usize> = None;
            for cluster in 0..clusters.len() {
                let size = clusters[cluster].len();
                if best.is_some_and(|best| clusters[best].len() >= size) {
                    continue;
                }
                let sample = size.min(SAMPLE);
                let offset = self.random(size);
                let near = (0..sample)
                    .filter(|step| self.rtt(node, clusters[cluster][(offset + step * size / sample) % size]) < diameter)
                    .count();
                if 5 * near >= 4 * sample {
                    best = Some(cluster);
                }
            }
            let cluster = best.unwrap_or_else(|| {
                clusters.push(Vec::new());
                clusters.len() - 1
            });
            clusters[cluster].push(node);
            assigned.push(cluster);
        }
        assigned
    }

    /// What the members of each cluster say of it.
    fn found(&mut self, assigned: &[usize]) -> Vec<ClusterInfo> {
        let count = assigned.iter().max().map_or(0, |last| last + 1);
        let mut infos: Vec<ClusterInfo> = (0..count)
            .map(|_| {
                let id = ClusterId::hash(&[&self.random(usize::MAX).to_be_bytes()]);
                ClusterInfo { id, age_minutes: (AGE.as_secs() / 60) as u16, size: 0 }
            })
            .collect();
        for cluster in assigned {
            infos[*cluster].size += 1;
        }
        infos
    }

    /// Fills the buckets that `members` of one cluster have for each other.
    fn introduce(&mut self, members: &mut [usize], clusters: &[Clusters]) {
        members.sort_by_key(|node| self.nodes[*node].dsht.me().id);
        let peers: Vec<(Peer, usize)> = members.iter().map(|node| (self.nodes[*node].dsht.me(), *node)).collect();
        let bucket_peers = self.config.bucket_peers.get() as usize;
        for (me, node) in &peers {
            // All ids in `range` share their first bits with this node's: one half of it is the next bucket, in the other it
            // is itself.
            let mut range = 0..peers.len();
            for bit in 0..8 * ID_BYTES {
                if range.len() <= 1 {
                    break;
                }
                let middle = range.start + peers[range.clone()].partition_point(|(peer, _)| !has_bit(&peer.id, bit));
                let (zeros, ones) = (range.start..middle, middle..range.end);
                let bucket = if has_bit(&me.id, bit) { zeros.clone() } else { ones.clone() };
                range = if has_bit(&me.id, bit) { ones } else { zeros };
                for index in self.some_of(bucket, bucket_peers) {
                    let (peer, other) = peers[index];
                    let rtt = self.rtt(*node, other);
                    let heard = self.now - Duration::from_micros(self.random(KEEPALIVE_MICROS) as u64);
                    self.nodes[*node].dsht.acquaint(heard, peer, rtt, &clusters[other]);
                }
            }
        }
    }

    /// `count` of `range`, or all.
    fn some_of(&mut self, range: Range<usize>, count: usize) -> Vec<usize> {
        if range.len() <= count {
            return range.collect();
        }
        let mut some = Vec::with_capacity(count);
        while some.len() < count {
            let index = range.start + self.random(range.len());
            if !some.contains(&index) {
                some.push(index);
            }
        }
        some
    }
}

fn has_bit(id: &Id, index: usize) -> bool {
    id.distance(&Id::ZERO).has_bit(index)
}

/// How long the network has been up: longer than anything in it takes to settle.
const AGE: Duration = Duration::from_secs(3600);
/// Members that are measured before a node enters a cluster.
const SAMPLE: usize = 10;
/// Peers were last heard some time in this span: the keepalive's default, so that pings do not come all at once.
const KEEPALIVE_MICROS: usize = 20_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::level::Level;
    use crate::sim::check;
    use crate::sim::latency::Map;

    #[test]
    fn a_settled_network_finds_what_is_put_and_stays_as_it_is() {
        let mut sim = Simulation::new(1, Config::default());
        sim.set_map(Map::planetlab(1));
        sim.settled(300);
        assert_eq!(check::know_their_nearest(&sim), 1.0);
        for level in [1, 2].into_iter().filter_map(Level::new) {
            let clustering = check::clustering(&sim, level);
            assert!(clustering.share_within() > 0.8, "{clustering:?}");
        }
        let key = Id::hash(&[b"key"]);
        let value = crate::api::Value::new(b"value").expect("a short value");
        sim.put(17, key, value.clone(), Duration::from_secs(600));
        sim.run_for(Duration::from_secs(60));
        assert!((0..300).all(|node| sim.get(node, key).values == [value.clone()]));
        assert_eq!(check::know_their_nearest(&sim), 1.0);
    }
}
