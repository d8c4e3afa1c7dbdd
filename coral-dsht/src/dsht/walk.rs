//! A lookup under way: one level after the other, one fresh request at a time, and a log of its hops.
//!
//! [`Get`](super::get::Get), [`Put`](super::put::Put) and [`Refresh`](super::refresh::Refresh) all walk; what they ask on
//! the way, and when they have had enough, is theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::{Hop, HopAnswer};
use crate::dsht::Lent;
use crate::dsht::lookup::{Lookup, Stride};
use crate::id::{Distance, Key, NodeId};
use crate::level::{Level, Levels};
use crate::peer::Peer;

/// A lookup and where in the levels it is.
#[derive(Debug)]
pub(crate) struct Walk {
    lookup: Lookup,
    purpose: Purpose,
    levels: Levels,
    level: Level,
    entered: bool,
    /// Whom it waits for and who is in time. While there are `width` of them, nobody else is asked.
    fresh: BTreeSet<NodeId>,
    /// One at first: an answer tells better whom to ask next. One more for each who was late, as more will be.
    width: usize,
    hops: Vec<Hop>,
}

/// What a walk is for: this decides its stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// In a cluster so small that nobody is overrun even if all of it asks one node, straight on.
    Get,
    /// As a get, but the node at which a level ends decides who fetches for all of its cluster: it is waited for. Else whoever
    /// is far from it, or has a bad guess of how far, would let the next nearest one decide, and fetch as well.
    Claim,
    /// Put, renewed again and again by all who have the same object.
    Put,
    /// Getting to know peers at all distances.
    Refresh,
}

impl Purpose {
    fn stride(self, lent: &Lent<'_>, level: Level) -> Stride {
        match self {
            Self::Refresh => Stride::HALF,
            _ if !lent.config.rules.halving => Stride::DIRECT,
            Self::Get | Self::Claim if lent.routing.size(level) <= SMALL_CLUSTER => Stride::DIRECT,
            Self::Get | Self::Claim => Stride::EIGHTH,
            Self::Put => Stride::QUARTER,
        }
    }
}

/// What a walk wants next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look at this node's own store: a level begins.
    Enter,
    /// Ask this peer for what is wanted, and for peers around this distance.
    Ask(Peer, Distance),
    /// Wait for answers.
    Wait,
    /// Nobody nearer is known at this level.
    End,
}

impl Walk {
    /// A walk through `levels`, the nearest first. `None` if there is no level.
    pub(crate) fn new(lookup: Lookup, purpose: Purpose, levels: Levels) -> Option<Self> {
        let level = levels.nearest()?;
        Some(Self {
            lookup,
            purpose,
            levels,
            level,
            entered: false,
            fresh: BTreeSet::new(),
            width: 1,
            hops: Vec::new(),
        })
    }

    /// The same, but this node's own table is left out of it.
    pub(crate) fn without_own(self) -> Self {
        Self { entered: true, ..self }
    }

    /// What it is for.
    pub(crate) fn key(&self) -> Key {
        self.lookup.key()
    }

    /// The level it is at.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// The nearest peer that has answered; `None` if nobody nearer than this node has.
    pub(crate) fn reached(&self) -> Option<Peer> {
        self.lookup.reached_peer()
    }

    /// What to do next. After [`Step::Ask`] the peer counts as asked.
    pub(crate) fn step(&mut self, lent: &Lent<'_>) -> Step {
        if !self.entered {
            self.entered = true;
            self.lookup.set_stride(self.purpose.stride(lent, self.level));
            self.learn_own(lent);
            return Step::Enter;
        }
        if self.fresh.len() >= self.width {
            return Step::Wait;
        }
        match self.lookup.next() {
            Some((peer, aim)) => {
                self.fresh.insert(peer.id);
                Step::Ask(peer, aim)
            }
            None if self.lookup.is_waiting() && (self.waits_for_late() || !self.fresh.is_empty()) => Step::Wait,
            None => {
                // Where nobody was asked, the hop is this node itself: it knows nobody nearer.
                if self.hops.iter().all(|hop| hop.level != self.level) {
                    self.log_own(&lent.me, HopAnswer::Nearest);
                }
                Step::End
            }
        }
    }

    /// Those who are late at a nearer level hold up no get: should they have it, it comes all the same.
    fn waits_for_late(&self) -> bool {
        self.purpose == Purpose::Claim || self.levels.next_farther(self.level).is_none()
    }

    /// Goes on at the next wider level; `false` if there is none.
    pub(crate) fn climb(&mut self) -> bool {
        let Some(level) = self.levels.next_farther(self.level) else {
            return false;
        };
        self.level = level;
        self.lookup.climb();
        self.fresh.clear();
        self.width = 1;
        self.entered = false;
        true
    }

    /// Takes in an answer of `peer`, which took `rtt` and named `nearer` peers. Late ones of another level are ignored.
    pub(crate) fn answered(&mut self, level: Level, peer: &Peer, rtt: Duration, answer: HopAnswer, nearer: &[Peer]) {
        if level != self.level {
            return;
        }
        self.log(peer, Some(rtt), answer);
        self.lookup.answered(peer);
        self.lookup.learn(nearer.iter().take(MAX_PEERS_TAKEN).copied());
        self.fresh.remove(&peer.id);
    }

    /// `peer` is late: others may be asked meanwhile.
    pub(crate) fn late(&mut self, peer: &Peer) {
        if self.fresh.remove(&peer.id) {
            self.lookup.late(peer);
            self.width = (self.width + 1).min(MAX_WIDTH);
        }
    }

    /// Some of those that an answer has named do not answer this node: they are not asked again.
    pub(crate) fn pass_over(&mut self, silent: &[Peer]) {
        for peer in silent {
            self.lookup.pass_over(peer);
        }
    }

    /// `peer` did not answer at all, or shares no cluster with us at this level any more.
    pub(crate) fn failed(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer, rtt: Option<Duration>) {
        if level != self.level {
            return;
        }
        self.log(peer, rtt, if rtt.is_some() { HopAnswer::OtherCluster } else { HopAnswer::TimedOut });
        self.fresh.remove(&peer.id);
        // Only one that is elsewhere has answered at all.
        if self.lookup.failed(peer, rtt.is_some()) {
            self.learn_own(lent);
        }
    }

    /// Notes a hop that took no request: this node's own store.
    pub(crate) fn log_own(&mut self, me: &Peer, answer: HopAnswer) {
        self.log(me, Some(Duration::ZERO), answer);
    }

    /// The hops so far, out of the walk.
    pub(crate) fn take_hops(&mut self) -> Vec<Hop> {
        std::mem::take(&mut self.hops)
    }

    fn log(&mut self, peer: &Peer, rtt: Option<Duration>, answer: HopAnswer) {
        let distance = peer.id.distance(&self.lookup.key());
        self.hops.push(Hop { level: self.level, peer: *peer, distance, rtt, answer });
    }

    fn learn_own(&mut self, lent: &Lent<'_>) {
        self.lookup.learn(lent.routing.members(self.level).map(|known| known.peer));
    }
}

/// Requests in time that a walk has under way at most.
const MAX_WIDTH: usize = 4;
/// Members of a cluster in which gets go straight for the nearest node.
const SMALL_CLUSTER: u32 = 64;
/// Peers of one answer that are looked at: an honest one has a handful.
const MAX_PEERS_TAKEN: usize = 16;
