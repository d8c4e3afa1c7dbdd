//! Joining: first contacts are pinged, and as soon as one answers, this node looks for its own neighbourhood
//! [C04 §4.5].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::api::Outcome;
use crate::dsht::Lent;
use crate::dsht::op::Next;
use crate::dsht::refresh::Refresh;
use crate::dsht::walk::Walk;
use crate::level::Level;
use crate::message::{Request, Response};
use crate::peer::{Peer, Services};

/// A join under way.
#[derive(Debug)]
pub(crate) struct Join {
    contacts: VecDeque<SocketAddr>,
    waiting: usize,
    contact: Option<Peer>,
    seen_as: Option<SocketAddr>,
    refresh: Refresh,
}

impl Join {
    /// The node `me` joins by any of `contacts`.
    pub(crate) fn new(me: Peer, contacts: &[SocketAddr]) -> Self {
        let contacts = contacts.iter().filter(|addr| **addr != me.addr).copied().collect();
        let refresh = Refresh::new(Level::GLOBAL, [me.id]);
        Self { contacts, waiting: 0, contact: None, seen_as: None, refresh }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<Outcome> {
        if let Some(addr) = self.contacts.pop_front() {
            self.waiting += 1;
            return Next::Ask(Peer::new(addr, Services::NONE), Request::Ping);
        }
        let outcome = Outcome::Joined { contact: self.contact, seen_as: self.seen_as };
        match self.contact {
            None if self.waiting > 0 => Next::Wait,
            None => Next::Done(outcome),
            Some(_) => match self.refresh.next(lent) {
                Next::Ask(peer, request) => Next::Ask(peer, request),
                Next::Wait => Next::Wait,
                Next::Done(()) => Next::Done(outcome),
            },
        }
    }

    /// `peer` has answered. `level` is that of the request, if it had one.
    pub(crate) fn answered(
        &mut self,
        lent: &Lent<'_>,
        level: Option<Level>,
        peer: &Peer,
        rtt: Duration,
        response: &Response,
    ) {
        match (level, response) {
            (None, Response::Pong { seen_as }) => {
                self.waiting = self.waiting.saturating_sub(1);
                self.contact.get_or_insert(*peer);
                self.seen_as = Some(*seen_as);
            }
            (None, _) => self.waiting = self.waiting.saturating_sub(1),
            (Some(level), _) => self.refresh.answered(lent, level, peer, rtt, response),
        }
    }

    /// The lookup, to be told who is late or silent.
    pub(crate) fn walk(&mut self) -> Option<&mut Walk> {
        self.refresh.walk()
    }

    /// `peer` did not answer.
    pub(crate) fn failed(&mut self, lent: &Lent<'_>, level: Option<Level>, peer: &Peer) {
        match level {
            None => self.waiting = self.waiting.saturating_sub(1),
            Some(level) => self.refresh.failed(lent, level, peer),
        }
    }
}
