//! One get: the first values on the way to the key, from the nearest level that has any [C04 §4.1, §4.3].

use std::time::Duration;

use crate::api::{Found, HopAnswer, Value};
use crate::dsht::Lent;
use crate::dsht::op::Next;
use crate::dsht::serve::some_of;
use crate::dsht::walk::{Step, Walk};
use crate::level::Level;
use crate::message::{Request, Response};
use crate::peer::Peer;

/// A get under way.
#[derive(Debug)]
pub(crate) struct Get {
    walk: Walk,
    /// A value that is not looked for in this node's own store.
    passed_over: Option<Value>,
    values: Vec<Value>,
    /// The level of the node that had them.
    found_at: Option<Level>,
}

impl Get {
    pub(crate) fn new(walk: Walk) -> Self {
        Self { walk, passed_over: None, values: Vec::new(), found_at: None }
    }

    /// The same, but where this node's own store has `value` alone, others are asked.
    pub(crate) fn passing_over(self, value: Value) -> Self {
        Self { passed_over: Some(value), ..self }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<Found> {
        loop {
            if !self.values.is_empty() {
                return Next::Done(self.found());
            }
            match self.walk.step(lent) {
                Step::Enter => self.look_at_own_store(lent),
                Step::Ask(peer, aim) => {
                    return Next::Ask(peer, Request::Get { level: self.walk.level(), key: self.walk.key(), aim });
                }
                Step::Wait => return Next::Wait,
                Step::End if self.walk.climb() => {}
                Step::End => return Next::Done(self.found()),
            }
        }
    }

    /// `peer` has answered.
    pub(crate) fn answered(&mut self, lent: &Lent<'_>, level: Level, peer: &Peer, rtt: Duration, response: Response) {
        match response {
            Response::Values(values) => {
                self.walk.answered(level, peer, rtt, HopAnswer::Values { count: values.len() }, &[]);
                // A late answer of a nearer level is as welcome as any.
                self.found_at = Some(level).filter(|_| !values.is_empty());
                self.values = values;
            }
            Response::Peers(peers) => self.walk.answered(level, peer, rtt, nearer(&peers), &peers),
            _ => self.walk.failed(lent, level, peer, Some(rtt)),
        }
    }

    /// See [`Walk::slow`] and [`Walk::failed`].
    pub(crate) fn walk(&mut self) -> &mut Walk {
        &mut self.walk
    }

    fn look_at_own_store(&mut self, lent: &mut Lent<'_>) {
        let mut values = lent.store.values(lent.now, self.walk.level(), &self.walk.key());
        values.retain(|value| self.passed_over.as_ref() != Some(value));
        let values = some_of(lent.rng, values, lent.config.values_in_answer());
        if !values.is_empty() {
            self.walk.log_own(&lent.me, HopAnswer::Values { count: values.len() });
            self.found_at = Some(self.walk.level());
            self.values = values;
        }
    }

    fn found(&mut self) -> Found {
        Found { values: std::mem::take(&mut self.values), level: self.found_at, hops: self.walk.take_hops() }
    }
}

/// How an answer that names peers reads in the log.
pub(crate) fn nearer(peers: &[Peer]) -> HopAnswer {
    if peers.is_empty() { HopAnswer::Nearest } else { HopAnswer::Nearer { count: peers.len() } }
}
