//! An operation under way, whichever it is: what it is told, and what it wants next.

use std::time::Duration;

use crate::api::Outcome;
use crate::dsht::Lent;
use crate::dsht::claim::Claim;
use crate::dsht::get::Get;
use crate::dsht::hints::Hints;
use crate::dsht::join::Join;
use crate::dsht::nodes::Nodes;
use crate::dsht::put::Put;
use crate::dsht::refresh::Refresh;
use crate::dsht::remove::Remove;
use crate::dsht::validate::Validate;
use crate::dsht::walk::Walk;
use crate::level::Level;
use crate::message::{Request, Response};
use crate::peer::Peer;

/// A request of the application that is being carried out, or a chore of the node's own.
#[derive(Debug)]
pub(super) enum Op {
    Get(Get),
    Put(Put),
    Claim(Claim),
    Remove(Remove),
    Nodes(Nodes),
    Hints(Hints),
    Join(Join),
    Refresh(Refresh),
    Validate(Validate),
}

/// What an operation wants next.
pub(super) enum Next<T> {
    /// Ask this peer.
    Ask(Peer, Request),
    /// Wait for answers.
    Wait,
    /// It has ended so.
    Done(T),
}

impl Op {
    /// What to do next. A chore ends without an outcome.
    pub(super) fn next(&mut self, lent: &mut Lent<'_>) -> Next<Option<Outcome>> {
        match self {
            Self::Get(get) => get.next(lent).map(|found| Some(Outcome::Get(found))),
            Self::Put(put) => put.next(lent).map(|stored| Some(Outcome::Put(stored))),
            Self::Claim(claim) => claim.next(lent).map(|claimed| Some(Outcome::Claim(claimed))),
            Self::Remove(remove) => remove.next(lent).map(|confirmed| Some(Outcome::Removed(confirmed))),
            Self::Nodes(nodes) => nodes.next(lent).map(|found| Some(Outcome::Nodes(found))),
            Self::Hints(hints) => hints.next(lent).map(|found| Some(Outcome::Nodes(found))),
            Self::Join(join) => join.next(lent).map(Some),
            Self::Refresh(refresh) => refresh.next(lent).map(|()| None),
            Self::Validate(validate) => validate.next().map(|()| None),
        }
    }

    /// `peer` has answered a request, sent at `level` if it had one, after `rtt`.
    pub(super) fn answered(
        &mut self,
        lent: &Lent<'_>,
        level: Option<Level>,
        peer: &Peer,
        rtt: Duration,
        response: Response,
    ) {
        match (self, level) {
            (Self::Get(get), Some(level)) => get.answered(lent, level, peer, rtt, response),
            (Self::Put(put), Some(level)) => put.answered(lent, level, peer, rtt, response),
            (Self::Claim(claim), Some(level)) => claim.answered(lent, level, peer, rtt, response),
            (Self::Refresh(refresh), Some(level)) => refresh.answered(lent, level, peer, rtt, &response),
            (Self::Hints(hints), level) => hints.answered(lent, level, peer, rtt, response),
            (Self::Join(join), level) => join.answered(lent, level, peer, rtt, &response),
            (Self::Remove(remove), _) => remove.settled(response == Response::Done(true)),
            (Self::Nodes(nodes), _) => nodes.settled(peer),
            (Self::Validate(validate), _) => validate.answered(&lent.me.id, lent.config.initial_rto, rtt, &response),
            // These ask nothing that has no level.
            (Self::Get(_) | Self::Put(_) | Self::Claim(_) | Self::Refresh(_), None) => {}
        }
    }

    /// `peer` is late: somebody else may be asked meanwhile.
    pub(super) fn late(&mut self, peer: &Peer) {
        if let Some(walk) = self.walk() {
            walk.late(peer);
        }
    }

    /// Some of those that an answer has named do not answer this node, as it knows from before.
    pub(super) fn pass_over(&mut self, silent: &[Peer]) {
        if let Some(walk) = self.walk() {
            walk.pass_over(silent);
        }
    }

    fn walk(&mut self) -> Option<&mut Walk> {
        match self {
            Self::Get(get) => Some(get.walk()),
            Self::Put(put) => Some(put.walk()),
            Self::Claim(claim) => Some(claim.walk()),
            Self::Refresh(refresh) => refresh.walk(),
            Self::Join(join) => join.walk(),
            Self::Hints(hints) => hints.walk(),
            Self::Remove(_) | Self::Nodes(_) | Self::Validate(_) => None,
        }
    }

    /// `peer` has not answered at all.
    pub(super) fn failed(&mut self, lent: &Lent<'_>, level: Option<Level>, peer: &Peer) {
        match (self, level) {
            (Self::Get(get), Some(level)) => get.walk().failed(lent, level, peer, None),
            (Self::Put(put), Some(level)) => put.failed(lent, level, peer, None),
            (Self::Claim(claim), Some(level)) => claim.failed(lent, level, peer),
            (Self::Refresh(refresh), Some(level)) => refresh.failed(lent, level, peer),
            (Self::Hints(hints), level) => hints.failed(lent, level, peer),
            (Self::Join(join), level) => join.failed(lent, level, peer),
            (Self::Remove(remove), _) => remove.settled(false),
            (Self::Nodes(nodes), _) => nodes.settled(peer),
            (Self::Validate(validate), _) => validate.failed(peer),
            (Self::Get(_) | Self::Put(_) | Self::Claim(_) | Self::Refresh(_), None) => {}
        }
    }
}

impl<T> Next<T> {
    pub(super) fn map<U>(self, wrap: impl FnOnce(T) -> U) -> Next<U> {
        match self {
            Self::Ask(peer, request) => Next::Ask(peer, request),
            Self::Wait => Next::Wait,
            Self::Done(outcome) => Next::Done(wrap(outcome)),
        }
    }
}
