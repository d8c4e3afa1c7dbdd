//! Which cluster to be in at each level.
//!
//! For now by the shortest rule that makes near nodes meet: a peer that answers within a level's diameter and is in
//! another cluster there is followed if its cluster is clearly larger, or, among equals, has the lower id, so that of two
//! clusters that meet one dissolves into the other. The 80 % and 50 % rules, the validation of a candidate and the square
//! wave of [C04 §4.4] take this file's place.

use std::time::Duration;

use crate::config::Config;
use crate::id::ClusterId;
use crate::level::{Level, MAX_LEVELS};
use crate::message::{ClusterInfo, Clusters};
use crate::time::Instant;

/// This node's clusters, from L1 inwards.
#[derive(Debug)]
pub(crate) struct Membership {
    mine: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    cluster: ClusterId,
    since: Instant,
    /// How many members the cluster had, as the peer said that was followed into it.
    said: u32,
}

impl Membership {
    /// A new node is alone at each level: `draw` gives the id of each of its singleton clusters.
    pub(crate) fn new(config: &Config, now: Instant, mut draw: impl FnMut() -> ClusterId) -> Self {
        Self { mine: config.diameters.iter().map(|_| Member { cluster: draw(), since: now, said: 1 }).collect() }
    }

    /// This node is in these clusters, and has been since the start.
    #[cfg(feature = "sim")]
    pub(crate) fn settle(&mut self, clusters: &Clusters) {
        let settled = |info: &ClusterInfo| Member { cluster: info.id, since: Instant::START, said: info.size };
        self.mine = clusters.from_l1().iter().map(settled).collect();
    }

    /// What the header of each message says, with the sizes that the tables tell.
    pub(crate) fn announce(&self, now: Instant, size: impl Fn(Level) -> u32) -> Clusters {
        let at = |(level, member): (Level, &Member)| ClusterInfo {
            id: member.cluster,
            age_minutes: u16::try_from(now.saturating_since(member.since).as_secs() / 60).unwrap_or(u16::MAX),
            size: member.size(now, size(level)),
        };
        Clusters::new(levels_from_1().zip(&self.mine).map(at).collect())
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
        for (level, member) in levels_from_1().zip(&mut self.mine) {
            let (Some(diameter), Some(other)) = (config.diameter(level), theirs.at(level)) else { continue };
            let rested = now.saturating_since(member.since) >= REST || member.said == 1;
            if rested && rtt < diameter && other.id != member.cluster && member.is_worse(now, size(level), other) {
                *member = Member { cluster: other.id, since: now, said: other.size.saturating_add(1) };
                moved.push(level);
            }
        }
        moved
    }
}

impl Member {
    /// How many members the cluster has: as the table tells, and for a newcomer, whose table is still empty, as it was
    /// told. Else it would take the cluster that it has just left for the larger one, and go back.
    fn size(&self, now: Instant, known: u32) -> u32 {
        let is_newcomer = now.saturating_since(self.since) < NEWCOMER;
        if is_newcomer { known.max(self.said) } else { known }
    }

    /// Whether `other` is to be preferred: when it is more than twice as large; and when neither is, if it has the lower
    /// id, which both sides see alike.
    fn is_worse(&self, now: Instant, known: u32, other: &ClusterInfo) -> bool {
        let (theirs, ours) = (u64::from(other.size), u64::from(self.size(now, known)));
        if theirs > 2 * ours {
            true
        } else if ours > 2 * theirs {
            false
        } else {
            other.id < self.cluster
        }
    }
}

fn levels_from_1() -> impl Iterator<Item = Level> {
    (1..MAX_LEVELS as u8).filter_map(Level::new)
}

/// How long a node that has moved is taken to know less than it was told.
const NEWCOMER: Duration = Duration::from_secs(30);
/// How long a node stays where it is at least, once it has left its first, own cluster: a move costs its neighbours
/// a datagram each, which must not feed on itself.
const REST: Duration = Duration::from_millis(500);

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
        let info = ClusterInfo { id: id(other), age_minutes: 0, size: other_size };
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
