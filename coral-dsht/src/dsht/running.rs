//! Operations under way: begun, told of what happens, ended.

use std::time::Duration;

use super::op::{Next, Op};
use super::rpc::Owner;
use super::{Dsht, Lent, Output, Running};
use crate::api::{OpId, Outcome};
use crate::level::Level;
use crate::time::Instant;

impl Dsht {
    /// Begins `op`, which may end at once.
    pub(super) fn start(&mut self, now: Instant, op: Op, reported: bool) -> OpId {
        let id = self.new_op();
        self.ops.insert(id, Running { op, reported });
        self.advance(now, id, |_, _| {});
        id
    }

    /// Tells an operation of an event, and does what it wants next.
    pub(super) fn advance(&mut self, now: Instant, id: OpId, event: impl FnOnce(&mut Op, &Lent<'_>)) {
        // It may have ended: then this is an answer that came too late to matter.
        let Some(mut running) = self.ops.remove(&id) else {
            return;
        };
        event(&mut running.op, &self.lent(now));
        loop {
            match running.op.next(&mut self.lent(now)) {
                Next::Ask(peer, request) => self.ask(now, peer, request, Owner::Op(id)),
                Next::Wait => {
                    self.ops.insert(id, running);
                    return;
                }
                Next::Done(Some(outcome)) => {
                    self.ended(now, &running.op, &outcome);
                    self.finish(id, running.reported, outcome);
                    return;
                }
                Next::Done(None) => {
                    if let Op::Validate(validate) = &running.op {
                        self.validated(now, validate);
                    }
                    return;
                }
            }
        }
    }

    /// Counts what an operation has come to, and acts on it.
    pub(super) fn ended(&mut self, now: Instant, op: &Op, outcome: &Outcome) {
        match (op, outcome) {
            (_, Outcome::Get(found)) => match found.level {
                Some(level) => *self.stats.gets_found.entry(level.number()).or_default() += 1,
                None => self.stats.gets_empty += 1,
            },
            (Op::Put(put), Outcome::Put(stored)) => {
                self.note_published(now, op);
                if self.config.rules.push_back
                    && put.turned_back()
                    && stored.at.last().is_some_and(|(_, peer)| *peer == self.me)
                    && let Some(meter) = self.own_puts.get_mut(&put.entry().0)
                {
                    meter.push_back();
                }
                let counter =
                    if stored.at.is_empty() { &mut self.stats.puts_failed } else { &mut self.stats.puts_stored };
                *counter += 1;
            }
            (Op::Claim(claim), Outcome::Claim(claimed)) => {
                self.note_published(now, op);
                if let Some(informant) = claim.informant() {
                    self.informants.note(now, claim.entry().0, informant, &claimed.values);
                }
                let counter =
                    if claimed.values.is_empty() { &mut self.stats.claims_first } else { &mut self.stats.claims_given };
                *counter += 1;
            }
            (_, Outcome::Joined { contact: Some(_), .. }) => {
                self.refresh(now, Level::GLOBAL);
                self.put_hints(now);
                self.catch_up(now);
            }
            _ => {}
        }
    }

    /// Remembers who holds the value that an operation has put, or claimed with.
    pub(super) fn note_published(&mut self, now: Instant, op: &Op) {
        let ((key, value), ttl, holders) = match op {
            Op::Put(put) => (put.entry(), put.ttl(), put.holders()),
            Op::Claim(claim) => (claim.entry(), claim.ttl(), claim.holders()),
            _ => return,
        };
        // A little longer than it lives there: the request was under way for a while.
        let expires = now + ttl.min(self.config.max_ttl) + Duration::from_secs(1);
        for (level, peer) in holders {
            self.published.stored(now, (key, value.clone()), level, peer, expires);
        }
    }

    pub(super) fn new_op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// An operation that has ended before it began.
    pub(super) fn done(&mut self, outcome: Outcome) -> OpId {
        let op = self.new_op();
        self.finish(op, true, outcome);
        op
    }

    pub(super) fn finish(&mut self, op: OpId, reported: bool, outcome: Outcome) {
        if reported {
            self.outputs.push_back(Output::Done { op, outcome });
        }
    }
}
