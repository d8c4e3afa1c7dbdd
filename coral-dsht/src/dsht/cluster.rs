//! Which cluster to be in at each level.
//!
//! For now by the shortest rule that makes near nodes meet: a peer that answers within a level's diameter and is in
//! another cluster there is followed if its cluster is clearly larger, or, among equals, has the lower id, so that of two
//! clusters that meet one dissolves into the other. The 80 % and 50 % rules, the validation of a candidate and the square
//! wave of [C04 §4.4] take this file's place.

use std::time::Duration;

use crate::config::Config;
use crate::id::ClusterId;
use crate::level::Level;
use crate::message::{ClusterInfo, Clusters};
use crate::time::Instant;

/// This node's clusters, from L1 inwards.
#[derive(Debug)]
pub(crate) struct Membership {
    mine: Vec<(ClusterId, Instant)>,
}

impl Membership {
    /// A new node is alone at each level: `draw` gives the id of each of its singleton clusters.
    pub(crate) fn new(config: &Config, now: Instant, mut draw: impl FnMut() -> ClusterId) -> Self {
        Self {
            mine: config.diameters.iter().map(|_| (draw(), now)).collect(),
        }
    }

    /// What the header of each message says, with the sizes that the tables tell.
    pub(crate) fn announce(&self, now: Instant, size: impl Fn(Level) -> u32) -> Clusters {
        let at = |index: usize, id: ClusterId, since: Instant| ClusterInfo {
            id,
            age_minutes: u16::try_from(now.saturating_since(since).as_secs() / 60).unwrap_or(u16::MAX),
            size: Level::new(index as u8 + 1).map_or(1, &size),
        };
        Clusters::new(
            self.mine
                .iter()
                .enumerate()
                .map(|(index, (id, since))| at(index, *id, *since))
                .collect(),
        )
    }

    /// Follows a peer that answered in `rtt` and is in the clusters `theirs`; the levels at which this node moved.
    pub(crate) fn weigh(
        &mut self,
        config: &Config,
        now: Instant,
        rtt: Duration,
        theirs: &Clusters,
        size: impl Fn(Level) -> u32,
    ) -> Vec<Level> {
        let mut moved = Vec::new();
        for (index, (id, since)) in self.mine.iter_mut().enumerate() {
            let Some(level) = Level::new(index as u8 + 1) else {
                continue;
            };
            let (Some(diameter), Some(other)) = (config.diameter(level), theirs.at(level)) else {
                continue;
            };
            if rtt < diameter && other.id != *id && is_better(other, *id, size(level)) {
                (*id, *since) = (other.id, now);
                moved.push(level);
            }
        }
        moved
    }
}

/// Whether `other` is to be preferred to the cluster `id` of `size` members: when it is more than twice as large; and when
/// neither is, if it has the lower id, which both sides see alike.
fn is_better(other: &ClusterInfo, id: ClusterId, size: u32) -> bool {
    let (theirs, ours) = (u64::from(other.size), u64::from(size));
    if theirs > 2 * ours {
        true
    } else if ours > 2 * theirs {
        false
    } else {
        other.id < id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    const NEAR: Duration = Duration::from_millis(5);

    fn id(number: u8) -> ClusterId {
        Id::from_bytes([number; 20])
    }

    /// Whether a node in a cluster of `size` with id 5 at both levels follows a peer, and where.
    fn moves(rtt: Duration, (other, other_size): (u8, u32), size: u32) -> Vec<u8> {
        let config = Config::default();
        let mut membership = Membership::new(&config, Instant::START, || id(5));
        let info = ClusterInfo {
            id: id(other),
            age_minutes: 0,
            size: other_size,
        };
        let moved = membership.weigh(&config, Instant::START, rtt, &Clusters::new(vec![info; 2]), |_| size);
        moved.into_iter().map(Level::number).collect()
    }

    #[test]
    fn a_larger_cluster_is_followed_and_a_smaller_one_not() {
        assert_eq!(moves(NEAR, (9, 100), 10), [1, 2]);
        assert_eq!(moves(NEAR, (1, 10), 100), []);
    }

    #[test]
    fn among_equals_the_lower_id_wins_on_both_sides() {
        assert_eq!(moves(NEAR, (4, 9), 10), [1, 2]);
        assert_eq!(moves(NEAR, (6, 10), 9), []);
    }

    #[test]
    fn a_peer_is_followed_only_within_the_diameter() {
        assert_eq!(moves(Duration::from_millis(30), (9, 100), 10), [1]);
        assert_eq!(moves(Duration::from_millis(90), (9, 100), 10), []);
    }
}
