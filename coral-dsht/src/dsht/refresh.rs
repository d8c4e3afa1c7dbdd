//! Filling the tables of one level: looking for this node's own neighbourhood, then for a random id in each bucket
//! [K02 §2.3].
//!
//! The lookups keep no result: whoever answers them enters the tables, as after any answer.

use std::collections::VecDeque;
use std::time::Duration;

use crate::dsht::Lent;
use crate::dsht::get::nearer;
use crate::dsht::lookup::Lookup;
use crate::dsht::op::Next;
use crate::dsht::walk::{Purpose, Step, Walk};
use crate::id::{Key, NodeId};
use crate::level::{Level, Levels};
use crate::message::{Request, Response};
use crate::peer::Peer;

/// A series of lookups at one level.
#[derive(Debug)]
pub(crate) struct Refresh {
    level: Level,
    targets: VecDeque<Key>,
    walk: Option<Walk>,
}

impl Refresh {
    /// Looks for each of `targets` at `level`, one after the other.
    pub(crate) fn new(level: Level, targets: impl IntoIterator<Item = Key>) -> Self {
        Self { level, targets: targets.into_iter().collect(), walk: None }
    }

    /// Looks for the neighbourhood of `me` at `level` as `peer` and those beyond it know it: in a part of the network that
    /// this node has lost sight of, nobody in its own table would lead there.
    pub(crate) fn by(peer: Peer, me: NodeId, level: Level) -> Self {
        let walk =
            Walk::new(Lookup::beginning_at(peer, me, me), Purpose::Refresh, Levels::only(level)).map(Walk::without_own);
        Self { level, targets: VecDeque::new(), walk }
    }

    /// The level it fills.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// What to do next.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<()> {
        loop {
            let Some(walk) = &mut self.walk else {
                let Some(target) = self.targets.pop_front() else {
                    return Next::Done(());
                };
                self.walk =
                    Walk::new(Lookup::exploring(lent.me.id, target), Purpose::Refresh, Levels::only(self.level));
                continue;
            };
            match walk.step(lent) {
                Step::Enter => {}
                Step::Ask(peer, aim) => {
                    return Next::Ask(peer, Request::Find { level: self.level, key: walk.key(), aim });
                }
                Step::Wait => return Next::Wait,
                Step::End => self.walk = None,
            }
        }
    }

    /// `peer` has answered.
    pub(crate) fn answered(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer, rtt: Duration, response: &Response) {
        let Some(walk) = &mut self.walk else { return };
        match response {
            Response::Peers(peers) => walk.answered(level, peer, rtt, nearer(peers), peers),
            _ => walk.failed(lent, level, peer, Some(rtt)),
        }
    }

    /// The lookup, to be told who is late or silent.
    pub(crate) fn walk(&mut self) -> Option<&mut Walk> {
        self.walk.as_mut()
    }

    /// See [`Walk::failed`].
    pub(crate) fn failed(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer) {
        if let Some(walk) = &mut self.walk {
            walk.failed(lent, level, peer, None);
        }
    }
}
