//! What this node knows of clusters that it is not in: who answered it from there, and how fast.
//!
//! Only first-hand knowledge counts: a round trip that this node measured, to a peer that told of itself. All that has a
//! bound, as strangers can cause it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::dsht::cluster::levels_from_1;
use crate::dsht::nodes::shares;
use crate::dsht::rtt::Rtt;
use crate::id::{ClusterId, NodeId};
use crate::level::Level;
use crate::message::{ClusterInfo, Clusters};
use crate::peer::Peer;
use crate::time::Instant;

/// Near peers that are in other clusters than this node.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    met: BTreeMap<NodeId, Met>,
    /// Clusters that did not suit this node, and until when they need not be measured again.
    rejected: BTreeMap<(Level, ClusterId), Instant>,
}

#[derive(Debug)]
struct Met {
    peer: Peer,
    rtt: Rtt,
    heard: Instant,
    clusters: Clusters,
}

/// A cluster that this node could move to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// As its known members say in the median.
    pub(crate) info: ClusterInfo,
    /// Those within the diameter, the nearest first.
    pub(crate) near: Vec<Peer>,
    /// How many are known in all.
    pub(crate) known: u32,
}

impl Candidates {
    /// `peer` has answered after `rtt`, and is in the clusters `theirs`. It is remembered if it is near enough for one of
    /// the levels at which it is elsewhere. Whether it was.
    pub(crate) fn heard(
        &mut self,
        config: &Config,
        now: Instant,
        (peer, rtt): (Peer, Duration),
        mine: &Clusters,
        theirs: &Clusters,
    ) -> bool {
        let widest = config.diameters.first().copied().unwrap_or_default();
        let is_elsewhere = |level: &Level| theirs.at(*level).is_some() && !shares(mine, theirs, *level);
        if rtt >= widest || !levels_from_1().any(|level| is_elsewhere(&level)) {
            self.met.remove(&peer.id);
            return false;
        }
        if self.met.len() >= MAX_MET && !self.met.contains_key(&peer.id) {
            let oldest = self.met.values().min_by_key(|met| (met.heard, met.peer.id)).map(|met| met.peer.id);
            oldest.and_then(|oldest| self.met.remove(&oldest));
        }
        let met = self.met.entry(peer.id).or_insert_with(|| Met {
            peer,
            rtt: Rtt::default(),
            heard: now,
            clusters: Clusters::default(),
        });
        met.rtt.sample(rtt);
        met.heard = now;
        met.peer = peer;
        if met.clusters != *theirs {
            met.clusters = theirs.clone();
        }
        levels_from_1().filter(is_elsewhere).any(|level| config.diameter(level).is_some_and(|diameter| rtt < diameter))
    }

    /// `peer` does not answer any more.
    pub(crate) fn forget(&mut self, peer: &NodeId) {
        self.met.remove(peer);
    }

    /// The cluster `id` did not suit this node at `level`: until `until` it is no candidate.
    pub(crate) fn reject(&mut self, level: Level, id: ClusterId, until: Instant) {
        if self.rejected.len() >= MAX_REJECTED {
            let first = self.rejected.iter().min_by_key(|(key, until)| (**until, **key)).map(|(key, _)| *key);
            first.and_then(|first| self.rejected.remove(&first));
        }
        self.rejected.insert((level, id), until);
    }

    /// Forgets what is too old to act on.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.met.retain(|_, met| now.saturating_since(met.heard) < STALE);
        self.rejected.retain(|_, until| *until > now);
    }

    /// Other clusters than `mine` at `level` of which somebody within `diameter` is known, the largest first.
    pub(crate) fn at(&self, now: Instant, level: Level, diameter: Duration, mine: ClusterId) -> Vec<Candidate> {
        let mut by_cluster: BTreeMap<ClusterId, Vec<(Duration, &Met, &ClusterInfo)>> = BTreeMap::new();
        for met in self.met.values() {
            let (Some(info), Some(rtt)) = (met.clusters.at(level), met.rtt.smoothed()) else { continue };
            if info.id != mine && self.rejected.get(&(level, info.id)).is_none_or(|until| *until <= now) {
                by_cluster.entry(info.id).or_default().push((rtt, met, info));
            }
        }
        let mut found: Vec<Candidate> = by_cluster
            .into_iter()
            .filter_map(|(id, members)| {
                let near = nearest_first(&members, diameter);
                let info = ClusterInfo {
                    id,
                    size: median(members.iter().map(|(_, _, info)| info.size)),
                    age_minutes: median(members.iter().map(|(_, _, info)| info.age_minutes)),
                };
                (!near.is_empty()).then_some(Candidate { info, near, known: members.len() as u32 })
            })
            .collect();
        found.sort_by_key(|candidate| (std::cmp::Reverse(candidate.info.size), candidate.info.id));
        found
    }
}

fn nearest_first(members: &[(Duration, &Met, &ClusterInfo)], diameter: Duration) -> Vec<Peer> {
    let mut near: Vec<(Duration, Peer)> =
        members.iter().filter(|(rtt, _, _)| *rtt < diameter).map(|(rtt, met, _)| (*rtt, met.peer)).collect();
    near.sort_by_key(|(rtt, peer)| (*rtt, peer.id));
    near.into_iter().map(|(_, peer)| peer).collect()
}

/// The upper one of the two in the middle, where there are two.
pub(super) fn median<T: Ord + Default>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort();
    let middle = values.len() / 2;
    values.into_iter().nth(middle).unwrap_or_default()
}

/// Peers remembered, of all clusters together.
const MAX_MET: usize = 64;
const MAX_REJECTED: usize = 64;
/// What was heard so long ago may have changed: two rounds of weighing.
const STALE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::peer::Services;

    const LEVEL_1: Level = Level::new(1).unwrap();
    const LEVEL_2: Level = Level::new(2).unwrap();
    const MINUTE: Duration = Duration::from_secs(60);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn peer(number: u16) -> Peer {
        Peer::new(([10, 0, (number >> 8) as u8, number as u8], 4000).into(), Services::NONE)
    }

    /// In clusters with these ids and sizes, from L1 inwards.
    fn clusters(of: &[(u8, u32)]) -> Clusters {
        let info = |(id, size): &(u8, u32)| ClusterInfo { id: Id::from_bytes([*id; 20]), size: *size, age_minutes: 1 };
        Clusters::new(of.iter().map(info).collect())
    }

    /// What a node in the clusters 1 and 1 knows after peers 0, 1, … have answered from these clusters.
    fn candidates(answers: &[(u64, &[(u8, u32)])]) -> Candidates {
        let mut candidates = Candidates::default();
        let config = Config::default();
        for (number, (rtt, theirs)) in (0..).zip(answers) {
            let mine = clusters(&[(1, 5), (1, 5)]);
            candidates.heard(&config, Instant::START, (peer(number), ms(*rtt)), &mine, &clusters(theirs));
        }
        candidates
    }

    fn at(candidates: &Candidates, level: Level, now: Instant) -> Vec<(u8, u32, usize, u32)> {
        let diameter = Config::default().diameter(level).unwrap();
        let found = candidates.at(now, level, diameter, Id::from_bytes([1; 20]));
        let short = |c: Candidate| (c.info.id.as_bytes()[0], c.info.size, c.near.len(), c.known);
        found.into_iter().map(short).collect()
    }

    #[test]
    fn clusters_are_told_apart_by_level_and_the_largest_comes_first() {
        let known = candidates(&[
            (5, &[(1, 9), (2, 3)]),
            (30, &[(3, 50), (2, 5)]),
            (10, &[(3, 60), (4, 7)]),
            (90, &[(5, 99), (5, 99)]),
        ]);
        assert_eq!(at(&known, LEVEL_1, Instant::START), [(3, 60, 2, 2)]);
        assert_eq!(at(&known, LEVEL_2, Instant::START), [(4, 7, 1, 1), (2, 5, 1, 2)]);
    }

    #[test]
    fn one_liar_does_not_make_a_cluster_large() {
        let known = candidates(&[(5, &[(2, 6)]), (6, &[(2, u32::MAX)]), (7, &[(2, 4)])]);
        assert_eq!(at(&known, LEVEL_1, Instant::START), [(2, 6, 3, 3)]);
    }

    #[test]
    fn a_cluster_that_did_not_suit_is_no_candidate_for_a_while() {
        let mut known = candidates(&[(5, &[(2, 6), (2, 6)])]);
        known.reject(LEVEL_1, Id::from_bytes([2; 20]), Instant::START + MINUTE);
        assert_eq!(at(&known, LEVEL_1, Instant::START), []);
        assert_eq!(at(&known, LEVEL_2, Instant::START), [(2, 6, 1, 1)]);
        assert_eq!(at(&known, LEVEL_1, Instant::START + MINUTE), [(2, 6, 1, 1)]);
    }

    #[test]
    fn who_comes_over_or_goes_far_or_is_silent_is_forgotten() {
        let mut known = candidates(&[(5, &[(2, 6)]), (5, &[(2, 6)]), (5, &[(2, 6)]), (5, &[(2, 6)])]);
        let (config, mine) = (Config::default(), clusters(&[(1, 5), (1, 5)]));
        known.heard(&config, Instant::START, (peer(0), ms(5)), &mine, &mine);
        known.heard(&config, Instant::START, (peer(1), ms(70)), &mine, &clusters(&[(2, 6)]));
        known.forget(&peer(2).id);
        assert_eq!(at(&known, LEVEL_1, Instant::START), [(2, 6, 1, 1)]);
        known.sweep(Instant::START + STALE);
        assert_eq!(at(&known, LEVEL_1, Instant::START), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut known = Candidates::default();
        let (config, mine) = (Config::default(), clusters(&[(1, 5)]));
        for number in 0..1000 {
            let now = Instant::START + Duration::from_secs(u64::from(number));
            known.heard(&config, now, (peer(number), ms(5)), &mine, &clusters(&[(number as u8 | 2, 6)]));
            known.reject(LEVEL_1, Id::hash(&[&number.to_be_bytes()]), now);
        }
        assert!(known.met.len() <= MAX_MET && known.rejected.len() <= MAX_REJECTED);
        assert!(known.met.contains_key(&peer(999).id), "the latest is kept");
    }
}
