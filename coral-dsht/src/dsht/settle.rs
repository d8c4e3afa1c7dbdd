//! When a node weighs other clusters, and what follows from a move [C04 §4.4].
//!
//! It happens every five minutes, more often while the node is young, and at once while it is alone. Who moves tells its
//! old neighbours, as any answer of its own tells them: they learn of the cluster, weigh it in turn, and so two clusters
//! flow together like an avalanche.

use std::time::Duration;

use super::candidates::{Candidate, median};
use super::cluster::levels_from_1;
use super::nodes::shares;
use super::op::Op;
use super::rpc::Owner;
use super::validate::Validate;
use super::{Dsht, MAX_TOLD, random_id};
use crate::id::NodeId;
use crate::level::Level;
use crate::message::{ClusterInfo, Clusters, Request};
use crate::peer::Peer;
use crate::time::Instant;

impl Dsht {
    /// Takes from an answer of `peer`, which is in the clusters `theirs`, what it says of its clusters and of ours.
    pub(super) fn learn_clusters(&mut self, now: Instant, peer: Peer, measured: Option<Duration>, theirs: &Clusters) {
        let known = self.routing.get(&peer.id).and_then(|known| known.rtt.smoothed());
        let Some(rtt) = measured.or(known) else { return };
        for level in levels_from_1().filter(|_| measured.is_some()) {
            if let (Some(diameter), Some(info)) = (self.config.diameter(level), theirs.at(level))
                && shares(&self.clusters, theirs, level)
            {
                self.membership.accessed(now, level, rtt < diameter, info.age_minutes);
            }
        }
        let is_candidate = self.candidates.heard(&self.config, now, (peer, rtt), &self.clusters, theirs);
        if is_candidate {
            self.consider(now, theirs);
        }
    }

    /// Weighs the levels at which a peer is elsewhere, unless that was done a moment ago; where this node is alone, at
    /// once.
    fn consider(&mut self, now: Instant, theirs: &Clusters) {
        let is_due = now >= self.next_weigh;
        for level in levels_from_1().filter(|level| theirs.at(*level).is_some()) {
            if !shares(&self.clusters, theirs, level) && (is_due || self.cluster_size(level) <= 1) {
                self.next_weigh = now + self.pause_between_weighings(now);
                self.weigh(now, level);
            }
        }
    }

    /// A sixteenth of its age, up to five minutes: what a young node learns changes fast.
    fn pause_between_weighings(&self, now: Instant) -> Duration {
        (now.saturating_since(self.born) / 16).clamp(LEAST_PAUSE.min(self.config.refresh), self.config.refresh)
    }

    /// Compares the clusters that are known at `level`, and begins to measure the best if it is better than this node's
    /// own; leaves its own if it does not belong there.
    pub(super) fn weigh(&mut self, now: Instant, level: Level) {
        let Some(diameter) = self.config.diameter(level) else { return };
        let Some(mine) = self.clusters.id_at(level) else { return };
        let is_same = |op: &Op| matches!(op, Op::Validate(validate) if validate.level() == level);
        if self.ops.values().any(|running| is_same(&running.op)) {
            return;
        }
        let ours = self.cluster_size(level);
        let is_unfit = self.membership.is_unfit(level);
        let candidates = self.candidates.at(now, level, diameter, mine);
        let is_wanted = |other: &Candidate| is_unfit || self.membership.prefers(now, level, ours, &other.info);
        match candidates.into_iter().find(is_wanted) {
            // All its members are known, and within the diameter: there is nothing to measure.
            Some(best) if best.near.len() as u32 >= best.info.size.max(best.known) => {
                self.move_to(now, level, &best.info, &best.near);
            }
            Some(best) => {
                let validate = Validate::new(level, best.info.id, diameter, &best.near);
                self.start(now, Op::Validate(validate), false);
            }
            None if is_unfit => {
                // As for one that was measured and did not suit: what a young node sees may be a moment's, while all start on a busy machine.
                self.candidates.reject(level, mine, now + self.refresh_after);
                let own = random_id(&mut self.rng);
                self.membership.leave(now, level, own);
                self.moved(now, level);
            }
            None => {}
        }
    }

    /// A cluster has been measured. If it is acceptable, and still better, this node moves.
    pub(super) fn validated(&mut self, now: Instant, validate: &Validate) {
        let (level, cluster) = (validate.level(), validate.cluster());
        let Some(diameter) = self.config.diameter(level) else { return };
        let Some(mine) = self.clusters.id_at(level) else { return };
        if !validate.is_acceptable() {
            self.candidates.reject(level, cluster, now + self.refresh_after);
            // The next best one, if any.
            self.weigh(now, level);
            return;
        }
        let found = self.candidates.at(now, level, diameter, mine);
        if let Some(found) = found.into_iter().find(|candidate| candidate.info.id == cluster) {
            let ours = self.cluster_size(level);
            if self.membership.is_unfit(level) || self.membership.prefers(now, level, ours, &found.info) {
                self.move_to(now, level, &found.info, &found.near);
            }
        }
    }

    fn move_to(&mut self, now: Instant, level: Level, to: &ClusterInfo, members: &[Peer]) {
        self.membership.enter(now, level, to);
        self.moved(now, level);
        // They are the way into the cluster: the first one that answers enters the table, which is then filled.
        for peer in members.iter().take(MAX_TOLD) {
            self.call_on(now, *peer);
        }
    }

    /// Makes tables and neighbours follow, after the cluster at `level` has changed.
    fn moved(&mut self, now: Instant, level: Level) {
        self.stats.cluster_moves += 1;
        let diameter = self.config.diameter(level).unwrap_or_default();
        let near = |rtt: Option<Duration>| rtt.is_some_and(|rtt| rtt < diameter);
        let old: Vec<Peer> = self
            .routing
            .all()
            .filter(|known| near(known.rtt.smoothed()))
            .take(MAX_TOLD)
            .map(|known| known.peer)
            .collect();
        self.update_clusters(now);
        let mine = &self.clusters;
        self.routing.rebuild(level, |theirs| shares(mine, theirs, level));
        self.update_clusters(now);
        // Nobody in the new cluster finds what is stored in the old one.
        self.lost.extend(self.published.elsewhere(level, |_| true));
        for peer in old {
            self.call_on(now, peer);
        }
        if self.routing.members(level).next().is_some() {
            self.refresh(now, level);
        }
    }

    /// `holder`, which holds values of this node, has moved: those that it holds in a cluster that this node is not in are
    /// to be put again.
    pub(super) fn publish_again(&mut self, holder: &NodeId, theirs: &Clusters) {
        for level in levels_from_1().filter(|level| !shares(&self.clusters, theirs, *level)) {
            self.lost.extend(self.published.elsewhere(level, |id| id == holder));
        }
    }

    /// Pings `peer` even if a ping is under way: that one does not tell of the move.
    fn call_on(&mut self, now: Instant, peer: Peer) {
        self.verifying.insert(peer.id);
        self.ask(now, peer, Request::Ping, Owner::Tables);
    }

    /// How many members this node's cluster at `level` has, as they say in the median: one node's table alone may be off by
    /// half, and both sides of a comparison should come to the same result.
    pub(super) fn cluster_size(&self, level: Level) -> u32 {
        let own = self.clusters.at(level).map(|info| info.size);
        let said = self.routing.members(level).filter_map(|known| known.clusters.at(level)).map(|info| info.size);
        median(said.chain(own))
    }
}

/// The least time between two weighings, unless this node is alone.
const LEAST_PAUSE: Duration = Duration::from_millis(250);
