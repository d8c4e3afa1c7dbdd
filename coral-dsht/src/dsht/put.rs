//! One put: at each level the forward phase finds where to store, the reverse phase stores [C04 §4.2].
//!
//! A `Put` is told of answers and says whom to ask next; it knows no clock and no socket. The choice of levels, and
//! renewal before the TTL ends, are the caller's.

use std::time::Duration;

use crate::api::{HopAnswer, Stored, Value};
use crate::dsht::Lent;
use crate::dsht::get::nearer;
use crate::dsht::op::Next;
use crate::dsht::store::Entry;
use crate::dsht::walk::{Step, Walk};
use crate::id::{Distance, Key};
use crate::level::Level;
use crate::message::{Request, Response};
use crate::peer::Peer;

/// A put under way.
#[derive(Debug)]
pub(crate) struct Put {
    walk: Walk,
    value: Value,
    ttl: Duration,
    phase: Phase,
    /// Where the value might be stored at this level, the nearest to the key last. Nobody that is full and loaded.
    stack: Vec<(Distance, Peer)>,
    /// A node that is full and loaded ended the forward phase: who is given the value is told.
    turned_back: bool,
    stored: Stored,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Hop towards the key.
    Forward,
    /// Store at the top of the stack; go down while refused.
    Reverse,
    /// This peer is being asked to store.
    Storing(Peer),
}

impl Put {
    pub(crate) fn new(walk: Walk, value: Value, ttl: Duration) -> Self {
        Self {
            walk,
            value,
            ttl,
            phase: Phase::Forward,
            stack: Vec::new(),
            turned_back: false,
            stored: Stored::default(),
        }
    }

    /// What it puts.
    pub(crate) fn entry(&self) -> (Key, &Value) {
        (self.walk.key(), &self.value)
    }

    /// How long the value is to live.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether a node that is full and loaded ended it, at the level where it stands.
    pub(crate) fn turned_back(&self) -> bool {
        self.turned_back
    }

    /// Who has taken the value so far, or may be taking it just now.
    pub(crate) fn holders(&self) -> Vec<(Level, Peer)> {
        let taking = match self.phase {
            Phase::Storing(peer) => Some((self.walk.level(), peer)),
            Phase::Forward | Phase::Reverse => None,
        };
        self.stored.at.iter().copied().chain(taking).collect()
    }

    /// Ends it where it stands.
    pub(crate) fn abandon(&mut self) -> Stored {
        Stored { hops: self.walk.take_hops(), ..self.stored.clone() }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<Stored> {
        let (level, key) = (self.walk.level(), self.walk.key());
        match self.phase {
            Phase::Forward => match self.walk.step(lent) {
                Step::Enter => {
                    self.stack = vec![(lent.me.id.distance(&key), lent.me)];
                    self.turned_back = false;
                    self.next(lent)
                }
                Step::Ask(peer, aim) => Next::Ask(peer, Request::Put { level, key, ttl: self.ttl, aim }),
                Step::Wait => Next::Wait,
                Step::End => {
                    self.turn_back();
                    self.next(lent)
                }
            },
            Phase::Reverse => match self.stack.pop() {
                Some((_, peer)) if peer.id == lent.me.id => {
                    let entry = Entry { value: self.value.clone(), ttl: self.ttl, owner: lent.me.addr.ip() };
                    if lent.store.put(lent.config, lent.now, (level, key), entry) {
                        self.stored.at.push((level, peer));
                        self.stack.clear();
                    }
                    self.next(lent)
                }
                Some((_, peer)) => {
                    self.phase = Phase::Storing(peer);
                    Next::Ask(peer, self.store_request())
                }
                None if self.walk.climb() => {
                    self.phase = Phase::Forward;
                    self.next(lent)
                }
                None => Next::Done(self.abandon()),
            },
            Phase::Storing(_) => Next::Wait,
        }
    }

    /// `peer` has answered.
    pub(crate) fn answered(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer, rtt: Duration, response: Response) {
        if level != self.walk.level() {
            return;
        }
        match response {
            Response::Room { full: true, loaded: true, .. } if self.phase == Phase::Forward => {
                self.walk.answered(level, peer, rtt, HopAnswer::FullAndLoaded, &[]);
                self.turned_back = true;
                self.turn_back();
            }
            Response::Room { peers, .. } if self.phase == Phase::Forward => {
                self.walk.answered(level, peer, rtt, nearer(&peers), &peers);
                self.stack.push((peer.id.distance(&self.walk.key()), *peer));
            }
            Response::Done(done) if self.phase == Phase::Storing(*peer) => {
                if done {
                    self.stored.at.push((level, *peer));
                    self.stack.clear();
                }
                self.phase = Phase::Reverse;
            }
            _ => self.failed(lent, level, peer, Some(rtt)),
        }
    }

    /// The lookup, to be told who is late or silent.
    pub(crate) fn walk(&mut self) -> &mut Walk {
        &mut self.walk
    }

    /// `peer` did not answer at all, or not to the point.
    pub(crate) fn failed(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer, rtt: Option<Duration>) {
        match self.phase {
            Phase::Forward => self.walk.failed(lent, level, peer, rtt),
            Phase::Storing(at) if at == *peer && level == self.walk.level() => self.phase = Phase::Reverse,
            // A straggler of the forward phase: the put has long turned back.
            Phase::Storing(_) | Phase::Reverse => {}
        }
    }

    fn store_request(&self) -> Request {
        Request::Store {
            level: self.walk.level(),
            key: self.walk.key(),
            ttl: self.ttl,
            value: self.value.clone(),
            turned_back: self.turned_back,
        }
    }

    fn turn_back(&mut self) {
        self.phase = Phase::Reverse;
        self.stack.sort_by(|(a, _), (b, _)| b.cmp(a));
    }
}
