//! Which clusters this node is in, how well each suits it, and which of two clusters is to be preferred [C04 §4.4].
//!
//! A `Membership` knows no peer, no table and no clock. What is known of other clusters is in
//! [`candidates`](super::candidates); how one is measured before a move in [`validate`](super::validate); when all that
//! happens is decided in [`settle`](super::settle).

use std::cmp::Ordering;
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
    /// How old the cluster was when this node came, in minutes: all members should tell the same age.
    age_then: u16,
    /// How many members the cluster had, as those said that were followed into it.
    said: u32,
    /// How long this node stays at least, unless it does not belong here or another cluster is clearly larger.
    stay: Duration,
    /// Round trips to other members, within the diameter and beyond it. Both are halved now and then.
    near: u32,
    far: u32,
}

impl Membership {
    /// A new node is alone at each level: `draw` gives the id of each of its singleton clusters.
    pub(crate) fn new(config: &Config, now: Instant, mut draw: impl FnMut() -> ClusterId) -> Self {
        Self { mine: config.diameters.iter().map(|_| Member::alone(now, draw(), REST)).collect() }
    }

    /// This node is in these clusters, and has been since the start.
    #[cfg(feature = "sim")]
    pub(crate) fn settle(&mut self, clusters: &Clusters) {
        let settled = |info: &ClusterInfo| Member {
            said: info.size,
            near: FEW_ACCESSES,
            ..Member::alone(Instant::START, info.id, REST)
        };
        self.mine = clusters.from_l1().iter().map(settled).collect();
    }

    /// What the header of each message says, with the sizes that the tables tell.
    pub(crate) fn clusters(&self, now: Instant, size: impl Fn(Level) -> u32) -> Clusters {
        let at = |(level, member): (Level, &Member)| ClusterInfo {
            id: member.cluster,
            age_minutes: member.age(now),
            size: member.size(now, size(level)),
        };
        Clusters::new(levels_from_1().zip(&self.mine).map(at).collect())
    }

    /// Another member has answered, within the diameter or not, and said how old the cluster is.
    pub(crate) fn accessed(&mut self, now: Instant, level: Level, is_near: bool, age_minutes: u16) {
        let Some(member) = self.member_mut(level) else { return };
        *(if is_near { &mut member.near } else { &mut member.far }) += 1;
        if member.near + member.far > ACCESSES {
            member.near /= 2;
            member.far /= 2;
        }
        member.age_then = member.age_then.saturating_add(age_minutes.saturating_sub(member.age(now)));
    }

    /// Whether this node does not belong into its cluster at `level`: at least half of its accesses there exceed the
    /// diameter [C04 §4.4].
    pub(crate) fn is_unfit(&self, level: Level) -> bool {
        self.member(level).is_some_and(|member| {
            let all = member.near + member.far;
            all >= FEW_ACCESSES && 2 * member.far >= all
        })
    }

    /// Whether this node would rather be in the cluster `other` at `level`, its own having `ours` members.
    ///
    /// Of two clusters the clearly larger one is preferred; of two that are about as large the one with the lower id,
    /// which nodes of both see alike. What is clear depends on the age of the younger: twice as large in its even hours,
    /// four times as large in the odd ones. So clusters that exchange members for ever since neither is clearly better
    /// flow together when the hour changes [C04 §4.4].
    pub(crate) fn prefers(&self, now: Instant, level: Level, ours: u32, other: &ClusterInfo) -> bool {
        let Some(member) = self.member(level).filter(|member| member.cluster != other.id) else { return false };
        // One node alone is no cluster yet: it comes to the others, never they to it.
        match (ours <= 1, other.size <= 1) {
            (true, false) => return true,
            (false, true) => return false,
            (true, true) => return other.id < member.cluster,
            (false, false) => {}
        }
        let clear = clear_factor(member.age(now).min(other.age_minutes));
        let is_better = match compare_sizes(other.size, ours, clear) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => other.id < member.cluster,
        };
        let is_rested = now.saturating_since(member.since) >= member.stay;
        is_better && (is_rested || compare_sizes(other.size, ours, CLEAR_IN_ODD_HOURS) == Ordering::Greater)
    }

    /// This node is in the cluster `to` at `level` from now on, whose members say this of it.
    pub(crate) fn enter(&mut self, now: Instant, level: Level, to: &ClusterInfo) {
        let Some(member) = self.member_mut(level) else { return };
        // Who has been here for long, and found something better after all, will not find the first one better again
        // soon: the time to stay doubles with each move, so that a node between two clusters settles.
        let stayed = if member.said <= 1 { Duration::ZERO } else { now.saturating_since(member.since) };
        *member = Member {
            cluster: to.id,
            age_then: to.age_minutes,
            said: to.size.saturating_add(1),
            ..Member::alone(now, to.id, (2 * stayed).clamp(REST, LONGEST_STAY))
        };
    }

    /// This node leaves its cluster at `level` for a new one of its own.
    pub(crate) fn leave(&mut self, now: Instant, level: Level, own: ClusterId) {
        if let Some(member) = self.member_mut(level) {
            *member = Member::alone(now, own, REST);
        }
    }

    fn member(&self, level: Level) -> Option<&Member> {
        self.mine.get(level.index().checked_sub(1)?)
    }

    fn member_mut(&mut self, level: Level) -> Option<&mut Member> {
        self.mine.get_mut(level.index().checked_sub(1)?)
    }
}

impl Member {
    fn alone(now: Instant, cluster: ClusterId, stay: Duration) -> Self {
        Self { cluster, since: now, age_then: 0, said: 1, stay, near: 0, far: 0 }
    }

    fn age(&self, now: Instant) -> u16 {
        let minutes = now.saturating_since(self.since).as_secs() / 60;
        self.age_then.saturating_add(u16::try_from(minutes).unwrap_or(u16::MAX))
    }

    /// How many members the cluster has: as the table tells, and for a newcomer, whose table is still empty, as it was
    /// told. Else it would take the cluster that it has just left for the larger one, and go back.
    fn size(&self, now: Instant, known: u32) -> u32 {
        let is_newcomer = now.saturating_since(self.since) < NEWCOMER;
        if is_newcomer { known.max(self.said) } else { known }
    }
}

/// The size that is clearly larger than 1, for clusters of which the younger is so old.
///
/// The square wave of C04: δ, the least difference of the logarithms of the sizes, is 2 in odd hours. In even hours it
/// is 0 there, and 1 here: sizes are estimates, which differ by a third or so from node to node.
fn clear_factor(age_minutes: u16) -> u32 {
    if (age_minutes / 60).is_multiple_of(2) { CLEAR_IN_EVEN_HOURS } else { CLEAR_IN_ODD_HOURS }
}

/// Which of two sizes is more than `clear` times the other, if either is.
fn compare_sizes(a: u32, b: u32, clear: u32) -> Ordering {
    let (a, b, clear) = (u64::from(a), u64::from(b), u64::from(clear));
    if a > clear * b {
        Ordering::Greater
    } else if b > clear * a {
        Ordering::Less
    } else {
        Ordering::Equal
    }
}

pub(super) fn levels_from_1() -> impl Iterator<Item = Level> {
    (1..MAX_LEVELS as u8).filter_map(Level::new)
}

const CLEAR_IN_EVEN_HOURS: u32 = 2;
const CLEAR_IN_ODD_HOURS: u32 = 4;
/// How long a node that has moved is taken to know less than it was told.
const NEWCOMER: Duration = Duration::from_secs(30);
/// How long a node stays where it is at least, once it has left its first, own cluster: a move costs its neighbours
/// a datagram each, which must not feed on itself.
const REST: Duration = Duration::from_millis(500);
const LONGEST_STAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Accesses to the cluster that are remembered: at the pace of the keepalive, those of the last minutes.
const ACCESSES: u32 = 64;
/// Fewer accesses say nothing yet.
const FEW_ACCESSES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    const LEVEL_1: Level = Level::new(1).unwrap();
    const HOUR: Duration = Duration::from_secs(3600);

    fn id(number: u8) -> ClusterId {
        Id::from_bytes([number; 20])
    }

    fn cluster(number: u8, size: u32, age_minutes: u16) -> ClusterInfo {
        ClusterInfo { id: id(number), size, age_minutes }
    }

    /// A node that has been in the old cluster 5, of the given size, for long enough.
    fn settled() -> (Membership, Instant) {
        let mut membership = Membership::new(&Config::default(), Instant::START, || id(9));
        membership.enter(Instant::START, LEVEL_1, &cluster(5, 10, 0));
        (membership, Instant::START + 10 * HOUR)
    }

    /// Whether it prefers another cluster that is so old, while its own has 10 members.
    fn prefers(number: u8, size: u32, age_minutes: u16) -> bool {
        let (membership, now) = settled();
        membership.prefers(now, LEVEL_1, 10, &cluster(number, size, age_minutes))
    }

    #[test]
    fn a_clearly_larger_cluster_is_preferred_and_a_clearly_smaller_one_is_not() {
        assert!(prefers(9, 21, 0));
        assert!(!prefers(1, 4, 0));
    }

    #[test]
    fn among_equals_the_lower_id_wins_on_both_sides() {
        assert!(prefers(4, 9, 0));
        assert!(!prefers(6, 11, 0));
        assert!(!prefers(5, 100, 0), "its own cluster is no other one");
    }

    #[test]
    fn in_odd_hours_of_the_younger_clearly_means_four_times() {
        assert!(prefers(9, 21, 59) && !prefers(9, 21, 60) && prefers(9, 21, 120));
        assert!(!prefers(1, 4, 59) && prefers(1, 4, 60) && !prefers(1, 4, 120));
        assert!(prefers(9, 41, 60) && !prefers(1, 2, 60));
        // The other one is older: its own ten hours count, an even number.
        assert!(prefers(9, 21, 11 * 60));
    }

    #[test]
    fn a_node_alone_comes_to_any_other_and_draws_nobody() {
        let (membership, now) = settled();
        assert!(membership.prefers(now, LEVEL_1, 1, &cluster(9, 2, 0)));
        assert!(!membership.prefers(now, LEVEL_1, 2, &cluster(1, 1, 0)));
        assert!(membership.prefers(now, LEVEL_1, 1, &cluster(4, 1, 0)));
        assert!(!membership.prefers(now, LEVEL_1, 1, &cluster(6, 1, 0)));
    }

    #[test]
    fn a_node_between_two_clusters_moves_ever_more_rarely() {
        let mut membership = Membership::new(&Config::default(), Instant::START, || id(9));
        let (mut here, mut there) = (4, 5);
        let mut moves = Vec::new();
        for minute in 0..24 * 60 {
            let now = Instant::START + Duration::from_secs(60) * minute;
            // The other one always seems a little better.
            let other = cluster(there, 25, 0);
            if membership.prefers(now, LEVEL_1, 10, &other) {
                membership.enter(now, LEVEL_1, &other);
                (here, there) = (there, here);
                moves.push(minute);
            }
        }
        assert_eq!(moves, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);
    }

    #[test]
    fn a_node_whose_accesses_are_half_beyond_the_diameter_does_not_belong() {
        let (mut membership, now) = settled();
        for _ in 0..7 {
            membership.accessed(now, LEVEL_1, false, 0);
        }
        assert!(!membership.is_unfit(LEVEL_1), "seven say nothing yet");
        for _ in 0..7 {
            membership.accessed(now, LEVEL_1, true, 0);
        }
        assert!(membership.is_unfit(LEVEL_1));
        membership.accessed(now, LEVEL_1, true, 0);
        assert!(!membership.is_unfit(LEVEL_1));
        // What was long ago counts no more.
        for _ in 0..60 {
            membership.accessed(now, LEVEL_1, false, 0);
        }
        assert!(membership.is_unfit(LEVEL_1));
        membership.leave(now, LEVEL_1, id(7));
        assert!(!membership.is_unfit(LEVEL_1));
    }

    #[test]
    fn all_members_tell_the_age_of_the_oldest() {
        let (mut membership, now) = settled();
        let age = |membership: &Membership, now| membership.clusters(now, |_| 1).at(LEVEL_1).unwrap().age_minutes;
        assert_eq!(age(&membership, now), 600);
        membership.accessed(now, LEVEL_1, true, 599);
        assert_eq!(age(&membership, now), 600);
        membership.accessed(now, LEVEL_1, true, 700);
        assert_eq!(age(&membership, now), 700);
        assert_eq!(age(&membership, now + HOUR), 760);
    }
}
