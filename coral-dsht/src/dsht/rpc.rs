//! Requests in flight: unguessable ids, repeats and time-outs.
//!
//! A peer that has not answered after the time that its answers take is *late*: its owner is told, so that a lookup asks
//! somebody else meanwhile. When the time-out passes, which is as long at least, the request is sent again, with the same
//! id, each time after twice as long; the last time-out tells that the peer has *failed*. So a dead peer costs a lookup
//! about one round trip, and a lost datagram costs no peer its place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::api::OpId;
use crate::dsht::rtt::Patience;
use crate::message::Request;
use crate::peer::Peer;
use crate::time::Instant;

/// What waits for an answer, by its id.
#[derive(Debug, Default)]
pub(crate) struct Rpcs {
    pending: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(Instant, u64)>,
}

/// One request without an answer so far.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) to: Peer,
    pub(crate) request: Request,
    pub(crate) owner: Owner,
    /// When it was first sent.
    pub(crate) sent: Instant,
    /// How often it may still be sent again.
    pub(crate) repeats: u32,
    /// Whether it has been sent again: its round trip then measures nothing (RFC 6298 §3).
    pub(crate) repeated: bool,
    /// Whether it was answered by a challenge before.
    pub(crate) challenged: bool,
    /// Whether its owner has been told that the answer is late.
    is_late: bool,
    timeout: Duration,
    deadline: Instant,
}

/// Who wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A request of the application, or one of the node's own lookups.
    Op(OpId),
    /// Announcements.
    News,
    /// Nobody in particular: a ping to see whether a peer is alive, and where.
    Tables,
}

/// An answer has not come in time.
#[derive(Debug)]
pub(crate) enum Expired {
    /// The owner may ask somebody else meanwhile.
    Late(Pending),
    /// Send the request again, under this id.
    Repeat(u64, Pending),
    /// It was the last one.
    Failed(Pending),
}

impl Rpcs {
    /// Notes that a request has been sent at `now` under `id`, which must be fresh, and waits for an answer with `patience`.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        id: u64,
        (to, request, owner): (Peer, Request, Owner),
        patience: Patience,
        repeats: u32,
    ) {
        let deadline = now + patience.late;
        let pending = Pending {
            to,
            request,
            owner,
            sent: now,
            repeats,
            repeated: false,
            challenged: false,
            is_late: false,
            timeout: patience.timeout,
            deadline,
        };
        self.deadlines.insert((deadline, id));
        self.pending.insert(id, pending);
    }

    /// The request of `pending`, which a challenge has answered, is sent once more, under another id.
    pub(crate) fn restart(&mut self, now: Instant, id: u64, pending: Pending, patience: Patience, repeats: u32) {
        self.start(now, id, (pending.to, pending.request, pending.owner), patience, repeats);
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.challenged = true;
        }
    }

    /// The request that an answer with `id` from `from` belongs to; `None` if nobody asked that address.
    pub(crate) fn finish(&mut self, id: u64, from: SocketAddr) -> Option<Pending> {
        if self.pending.get(&id)?.to.addr != from {
            return None;
        }
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline, id));
        Some(pending)
    }

    /// The next request whose time-out has passed by `now`, if any.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Expired> {
        let (deadline, id) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now)?;
        self.deadlines.remove(&(deadline, id));
        let pending = self.pending.get_mut(&id).expect("a deadline belongs to a pending request");
        if !pending.is_late {
            pending.is_late = true;
            pending.deadline = pending.sent + pending.timeout;
            self.deadlines.insert((pending.deadline, id));
            return Some(Expired::Late(pending.clone()));
        }
        if pending.repeats == 0 {
            return self.pending.remove(&id).map(Expired::Failed);
        }
        pending.repeats -= 1;
        pending.repeated = true;
        pending.timeout *= 2;
        pending.deadline = now + pending.timeout;
        self.deadlines.insert((pending.deadline, id));
        Some(Expired::Repeat(id, pending.clone()))
    }

    /// When the next time-out passes.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Services;

    fn at(millis: u64) -> Instant {
        Instant::START + Duration::from_millis(millis)
    }

    /// One ping, sent at the start: late after 40 ms, with a time-out of 100 ms and one repeat.
    fn one_ping() -> (Rpcs, Peer) {
        let to = Peer::new(([192, 0, 2, 1], 4000).into(), Services::NONE);
        let mut rpcs = Rpcs::default();
        let patience = Patience { late: Duration::from_millis(40), timeout: Duration::from_millis(100) };
        rpcs.start(at(0), 7, (to, Request::Ping, Owner::Tables), patience, 1);
        (rpcs, to)
    }

    #[test]
    fn an_answer_counts_once_and_only_from_whom_was_asked() {
        let (mut rpcs, to) = one_ping();
        assert!(rpcs.finish(8, to.addr).is_none());
        assert!(rpcs.finish(7, ([192, 0, 2, 2], 4000).into()).is_none());
        assert!(rpcs.finish(7, to.addr).is_some_and(|pending| !pending.repeated));
        assert!(rpcs.finish(7, to.addr).is_none());
        assert!(rpcs.pending.is_empty() && rpcs.next_deadline().is_none());
    }

    #[test]
    fn a_silent_peer_is_late_then_asked_again_and_failed_after_twice_as_long() {
        let (mut rpcs, to) = one_ping();
        assert!(rpcs.expire(at(39)).is_none());
        assert!(matches!(rpcs.expire(at(40)), Some(Expired::Late(pending)) if pending.to == to));
        assert!(rpcs.expire(at(99)).is_none());
        assert!(matches!(rpcs.expire(at(100)), Some(Expired::Repeat(7, pending)) if pending.repeated));
        assert_eq!(rpcs.next_deadline(), Some(at(300)));
        assert!(rpcs.expire(at(299)).is_none());
        assert!(matches!(rpcs.expire(at(300)), Some(Expired::Failed(_))));
        assert!(rpcs.pending.is_empty() && rpcs.next_deadline().is_none());
    }
}
