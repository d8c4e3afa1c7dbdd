//! Measuring a cluster before a move into it: a few random members are named by those that are known, and pinged
//! [C04 §4.4].
//!
//! A `Validate` is told of answers and says whom to ask next. Which cluster is worth it, and what follows, is
//! decided in [`settle`](super::settle).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::dsht::Lent;
use crate::dsht::op::Next;
use crate::id::{ClusterId, NodeId};
use crate::level::Level;
use crate::message::{Request, Response};
use crate::peer::Peer;

/// A cluster that is being measured.
#[derive(Debug)]
pub(crate) struct Validate {
    level: Level,
    cluster: ClusterId,
    diameter: Duration,
    /// Known members, to be asked for others.
    to_ask: VecDeque<Peer>,
    askable: BTreeSet<NodeId>,
    to_ping: VecDeque<Peer>,
    seen: BTreeSet<NodeId>,
    waiting: usize,
    /// Votes of the members that were asked, who are known since they are near.
    asked: Votes,
    /// Votes of those that they named, whom chance has chosen.
    named: Votes,
}

#[derive(Debug, Default, Clone, Copy)]
struct Votes {
    near: u32,
    far: u32,
}

impl Validate {
    /// Measures `cluster` at `level`, of which the members `known` are known.
    pub(crate) fn new(level: Level, cluster: ClusterId, diameter: Duration, known: &[Peer]) -> Self {
        let to_ask: VecDeque<Peer> = known.iter().take(MAX_ASKED).copied().collect();
        let askable: BTreeSet<NodeId> = to_ask.iter().map(|peer| peer.id).collect();
        let (asked, named) = Default::default();
        let seen = askable.clone();
        Self { level, cluster, diameter, to_ask, askable, to_ping: VecDeque::new(), seen, waiting: 0, asked, named }
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// What to do next.
    pub(crate) fn next(&mut self) -> Next<()> {
        let next = if let Some(peer) = self.to_ask.pop_front() {
            Next::Ask(peer, Request::Sample { level: self.level })
        } else if let Some(peer) = self.to_ping.pop_front() {
            Next::Ask(peer, Request::Ping)
        } else if self.waiting == 0 {
            return Next::Done(());
        } else {
            return Next::Wait;
        };
        self.waiting += 1;
        next
    }

    /// `peer` has answered.
    pub(crate) fn answered(&mut self, lent: &Lent<'_>, rtt: Duration, response: &Response) {
        self.waiting = self.waiting.saturating_sub(1);
        let votes = match response {
            Response::Peers(peers) => {
                for peer in peers.iter().filter(|peer| peer.id != lent.me.id) {
                    if self.seen.len() < MAX_ASKED + MAX_PINGED && self.seen.insert(peer.id) {
                        self.to_ping.push_back(*peer);
                    }
                }
                &mut self.asked
            }
            _ => &mut self.named,
        };
        // Of an answer to a repeated request nobody knows how long it took (RFC 6298 §3): it is not counted.
        match rtt {
            rtt if rtt < self.diameter => votes.near += 1,
            rtt if rtt < lent.config.initial_rto => votes.far += 1,
            _ => {}
        }
    }

    /// `peer` has not answered.
    pub(crate) fn failed(&mut self, peer: &Peer) {
        self.waiting = self.waiting.saturating_sub(1);
        let was_asked = self.askable.contains(&peer.id);
        (if was_asked { &mut self.asked } else { &mut self.named }).far += 1;
    }

    /// Whether this node may join, in the end: 80 % of the members are within the diameter [C04 §4.4].
    pub(crate) fn is_acceptable(&self) -> bool {
        // Those that were asked are known to be near, so they count only where there is hardly anybody else.
        let few = self.named.near + self.named.far < FEW;
        let asked = if few { self.asked } else { Votes::default() };
        let near = self.named.near + asked.near;
        let all = near + self.named.far + asked.far;
        near > 0 && 5 * near >= 4 * all
    }
}

/// Known members that are asked for others.
const MAX_ASKED: usize = 3;
/// Members that are pinged.
const MAX_PINGED: usize = 8;
/// Fewer than these named members do not speak for a cluster.
const FEW: u32 = 4;
