//! One claim: a get that takes the place of the fetcher where nobody has it yet, so that the origin is asked once (ours;
//! design in ARCHITECTURE.md).
//!
//! At each level the node at which the search ends records the first asker as that level's fetcher, in the same round
//! trip; later ones are given the values of earlier ones. A claimant climbs as long as it is the first, so only the first
//! of the global level has nobody to fetch from.

use std::time::Duration;

use crate::api::{Claimed, HopAnswer, Value};
use crate::dsht::Lent;
use crate::dsht::get::nearer;
use crate::dsht::op::Next;
use crate::dsht::store::Entry;
use crate::dsht::walk::{Step, Walk};
use crate::id::{Distance, Key, NodeId};
use crate::level::{Level, Levels};
use crate::message::{Request, Response};
use crate::peer::Peer;

/// A claim under way.
#[derive(Debug)]
pub(crate) struct Claim {
    walk: Walk,
    value: Value,
    ttl: Duration,
    /// Values of others that are of no use to this node.
    refused: Vec<Value>,
    /// Who has let this node be first at the level where the walk is.
    granted_by: Option<NodeId>,
    /// The walk has ended at this peer, which is asked to decide although it knows of nearer ones.
    deciding: Option<Peer>,
    granted: Levels,
    values: Vec<Value>,
    found_at: Option<Level>,
    /// Who named them.
    informant: Option<NodeId>,
    recorded: Vec<(Level, Peer)>,
}

impl Claim {
    pub(crate) fn new(walk: Walk, value: Value, ttl: Duration, refused: &[Value]) -> Self {
        Self {
            walk,
            value,
            ttl,
            refused: refused.iter().rev().take(MAX_REFUSED).cloned().collect(),
            granted_by: None,
            deciding: None,
            granted: Levels::NONE,
            values: Vec::new(),
            found_at: None,
            informant: None,
            recorded: Vec::new(),
        }
    }

    /// What is claimed, and with which value.
    pub(crate) fn entry(&self) -> (Key, &Value) {
        (self.walk.key(), &self.value)
    }

    /// How long the claim is to live.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Who has recorded this node's value, so that it can be withdrawn.
    pub(crate) fn holders(&self) -> Vec<(Level, Peer)> {
        self.recorded.clone()
    }

    /// Who named the values that it came to, if it was another node.
    pub(crate) fn informant(&self) -> Option<NodeId> {
        self.informant
    }

    /// Ends it where it stands.
    pub(crate) fn abandon(&mut self) -> Claimed {
        Claimed {
            values: std::mem::take(&mut self.values),
            level: self.found_at,
            granted: self.granted,
            hops: self.walk.take_hops(),
        }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<Claimed> {
        loop {
            if !self.values.is_empty() {
                return Next::Done(self.abandon());
            }
            if self.deciding.is_some() {
                return Next::Wait;
            }
            match self.walk.step(lent) {
                Step::Enter => self.ask_own_store(lent, false),
                Step::Ask(peer, aim) => return Next::Ask(peer, self.request(aim, false)),
                Step::Wait => return Next::Wait,
                Step::End => match self.walk.reached() {
                    None => {
                        self.ask_own_store(lent, true);
                        if self.values.is_empty() && !self.climb() {
                            return Next::Done(self.abandon());
                        }
                    }
                    Some(peer) if self.granted_by == Some(peer.id) => {
                        if !self.climb() {
                            return Next::Done(self.abandon());
                        }
                    }
                    Some(peer) => {
                        self.deciding = Some(peer);
                        return Next::Ask(peer, self.request(Distance::ZERO, true));
                    }
                },
            }
        }
    }

    /// `peer` has answered.
    pub(crate) fn answered(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer, rtt: Duration, response: Response) {
        let decides = level == self.walk.level() && self.deciding.is_some_and(|deciding| deciding.id == peer.id);
        match response {
            Response::Values(values) => {
                self.recorded.push((level, *peer));
                let values: Vec<Value> = values.into_iter().filter(|value| self.is_of_use(value)).collect();
                if values.is_empty() {
                    // It was told what is refused, and names it all the same: of no use, but others may be.
                    self.walk.failed(lent, level, peer, Some(rtt));
                } else {
                    self.walk.answered(level, peer, rtt, HopAnswer::Values { count: values.len() }, &[]);
                    // A late answer of a nearer level is as welcome as any.
                    (self.found_at, self.informant) = (Some(level), Some(peer.id));
                    self.values = values;
                }
            }
            Response::Claimed => {
                self.recorded.push((level, *peer));
                self.walk.answered(level, peer, rtt, HopAnswer::Claimed, &[]);
                if level == self.walk.level() {
                    self.granted_by = Some(peer.id);
                }
            }
            Response::Peers(peers) => self.walk.answered(level, peer, rtt, nearer(&peers), &peers),
            _ => self.walk.failed(lent, level, peer, Some(rtt)),
        }
        if decides {
            self.decided();
        }
    }

    /// The lookup, to be told who is late or silent.
    pub(crate) fn walk(&mut self) -> &mut Walk {
        &mut self.walk
    }

    /// See [`Walk::failed`].
    pub(crate) fn failed(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer) {
        let decides = level == self.walk.level() && self.deciding.is_some_and(|deciding| deciding.id == peer.id);
        self.walk.failed(lent, level, peer, None);
        if decides {
            self.decided();
        }
    }

    /// The last node of this level has spoken, or will not: without values this node is as good as the first. That there
    /// are two of them costs the origin a request, and nobody an answer.
    fn decided(&mut self) {
        self.deciding = None;
        self.granted_by = self.walk.reached().map(|peer| peer.id);
    }

    /// On to the next wider level; `false` if this node is the first at the widest.
    fn climb(&mut self) -> bool {
        self.granted = self.granted.with(self.walk.level());
        self.granted_by = None;
        self.walk.climb()
    }

    fn ask_own_store(&mut self, lent: &mut Lent<'_>, is_last: bool) {
        let (level, key) = (self.walk.level(), self.walk.key());
        let entry = Entry { value: self.value.clone(), ttl: self.ttl, owner: lent.me.addr.ip() };
        let Some(values) = lent.store.claim(lent.config, lent.now, (level, key), entry, &self.refused, is_last) else {
            return;
        };
        self.recorded.push((level, lent.me));
        if values.is_empty() {
            self.walk.log_own(&lent.me, HopAnswer::Claimed);
        } else {
            self.walk.log_own(&lent.me, HopAnswer::Values { count: values.len() });
            self.found_at = Some(level);
            self.values = values;
        }
    }

    /// Who lies, or is behind, may name what this node has refused, or this node itself.
    fn is_of_use(&self, value: &Value) -> bool {
        !value.is_same(&self.value) && !self.refused.iter().any(|refused| refused.is_same(value))
    }

    fn request(&self, aim: Distance, is_last: bool) -> Request {
        Request::Claim {
            level: self.walk.level(),
            key: self.walk.key(),
            aim,
            ttl: self.ttl,
            is_last,
            value: self.value.clone(),
            refused: self.refused.clone(),
        }
    }
}

/// Values that one claim can refuse, the last ones: twice as many as an answer names.
const MAX_REFUSED: usize = 8;
