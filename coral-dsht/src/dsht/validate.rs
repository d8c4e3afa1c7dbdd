//! Measuring a cluster before a move into it: a few random members are named by those that are known, and pinged
//! [C04 §4.4].
//!
//! A `Validate` is told of answers and says whom to ask next. Which cluster is worth it, and what follows, is
//! decided in [`settle`](super::settle).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

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

    /// A member has answered `me` after `rtt`; one that took `repeated_after` or longer may have been asked twice.
    pub(crate) fn answered(&mut self, me: &NodeId, repeated_after: Duration, rtt: Duration, response: &Response) {
        self.waiting = self.waiting.saturating_sub(1);
        let votes = match response {
            Response::Peers(peers) => {
                for peer in peers.iter().filter(|peer| peer.id != *me) {
                    if self.seen.len() < self.askable.len() + MAX_PINGED && self.seen.insert(peer.id) {
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
            rtt if rtt < repeated_after => votes.far += 1,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::peer::Services;

    const DIAMETER: Duration = Duration::from_millis(20);
    const REPEATED: Duration = Duration::from_millis(400);

    fn peer(number: u8) -> Peer {
        Peer::new(([192, 0, 2, number], 4000).into(), Services::NONE)
    }

    /// Whether a cluster is acceptable of which two known members, both near, name four others each, and these answer after
    /// so many milliseconds; 0 stands for one that does not answer.
    fn is_acceptable(named: &[u64]) -> bool {
        let level = Level::new(2).unwrap();
        let mut validate = Validate::new(level, Id::ZERO, DIAMETER, &[peer(101), peer(102)]);
        let others: Vec<Peer> = (1..=named.len() as u8).map(peer).collect();
        let mut pings = 0;
        loop {
            let rtt = match validate.next() {
                Next::Ask(to, Request::Sample { .. }) => {
                    let half = named.len() / 2;
                    let names = if to == peer(101) { &others[..half] } else { &others[half..] };
                    let response = Response::Peers(names.to_vec());
                    validate.answered(&peer(0).id, REPEATED, Duration::from_millis(5), &response);
                    continue;
                }
                Next::Ask(to, _) => {
                    pings += 1;
                    let rtt = named[others.iter().position(|other| *other == to).unwrap()];
                    if rtt == 0 {
                        validate.failed(&to);
                        continue;
                    }
                    Duration::from_millis(rtt)
                }
                Next::Wait => unreachable!("all have answered"),
                Next::Done(()) => break,
            };
            validate.answered(&peer(0).id, REPEATED, rtt, &Response::Pong { seen_as: peer(0).addr });
        }
        assert!(pings <= MAX_PINGED);
        validate.is_acceptable()
    }

    #[test]
    fn four_of_five_members_must_answer_within_the_diameter() {
        assert!(is_acceptable(&[5, 5, 5, 5, 5]));
        assert!(is_acceptable(&[5, 5, 5, 5, 30]));
        assert!(!is_acceptable(&[5, 5, 5, 30, 30]));
        assert!(is_acceptable(&[5, 5, 5, 5, 0]));
        assert!(!is_acceptable(&[5, 5, 5, 0, 0]));
    }

    #[test]
    fn an_answer_to_a_repeated_ping_says_nothing() {
        assert!(is_acceptable(&[5, 5, 5, 5, 5, 410, 410, 410]));
    }

    #[test]
    fn known_members_count_only_where_there_is_hardly_anybody_else() {
        assert!(is_acceptable(&[]));
        assert!(!is_acceptable(&[30]), "two of three");
        assert!(!is_acceptable(&[5, 5, 5, 30, 30, 30]));
    }

    #[test]
    fn no_more_are_pinged_than_a_few() {
        assert!(is_acceptable(&[5; 20]));
    }
}
