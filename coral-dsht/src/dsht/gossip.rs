//! Announcements: what all nodes are to know within seconds, though none of them knows all others.
//!
//! Whoever announces something, or finds it worth passing on, *offers* it by its hash to the peers of its global table; they
//! *fetch* it from the first who offers, if they do not have it, and from the next if that one fails. So each node is sent
//! an announcement about once, and only by somebody that it has asked: a made-up sender makes nobody work. Who was away
//! *catches up*: it says what it knows, and is offered the rest. Nothing goes on before the application has said that it
//! is true. What is where, and how much of it, is for [`news`](super::news).

use std::sync::Arc;
use std::time::Duration;

use super::news::{Offered, Spread};
use super::rpc::{Owner, Pending};
use super::serve::some_of;
use super::{Dsht, Output};
use crate::api::MAX_ANNOUNCEMENT_BYTES;
use crate::id::{Id, NodeId};
use crate::level::Level;
use crate::message::{Request, Response};
use crate::peer::Peer;
use crate::time::Instant;

impl Dsht {
    /// Tells all nodes of the network of `message`, and for `keep`, a week at most, those who join later.
    ///
    /// What was announced before, or is longer than [`MAX_ANNOUNCEMENT_BYTES`], is not announced.
    pub fn announce(&mut self, now: Instant, message: &[u8], keep: Duration) {
        if message.len() > MAX_ANNOUNCEMENT_BYTES {
            self.stats.announcements_refused += 1;
            return;
        }
        if let Some(id) = self.news.announce(now, message, keep) {
            self.stats.announcements_made += 1;
            self.spread(now, id, &Spread { is_young: true, known_to: Vec::new() });
        }
    }

    /// Whether the application wants to hear what others announce, by [`Output::Announced`]. At first it does not.
    ///
    /// It must then decide of each within a minute: [`pass_on`](Self::pass_on) or [`disregard`](Self::disregard).
    pub fn listen(&mut self, now: Instant, listening: bool) {
        self.news.listen(listening);
        self.catch_up(now);
    }

    /// The announcement `id` is true: others are told, and for `keep` since it was announced, a week at most, those who
    /// join later.
    pub fn pass_on(&mut self, now: Instant, id: &Id, keep: Duration) {
        if let Some(spread) = self.news.pass_on(now, id, keep) {
            self.stats.announcements_passed_on += 1;
            self.spread(now, *id, &spread);
        }
        self.hear_more(now);
    }

    /// The announcement `id` goes no further.
    pub fn disregard(&mut self, now: Instant, id: &Id) {
        self.news.drop(now, id);
        self.hear_more(now);
    }

    /// Asks a few random peers what they keep that this node does not know.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if !self.news.is_listening() {
            return;
        }
        let members = self.routing.members(Level::GLOBAL).map(|known| known.peer).collect();
        self.news.catch_up(some_of(&mut self.rng, members, MAX_ASKED));
        self.hear_more(now);
    }

    /// The same of this peer.
    pub(super) fn catch_up_by(&mut self, now: Instant, peer: Peer) {
        self.news.catch_up(vec![peer]);
        self.hear_more(now);
    }

    /// Fetches what there is room for, and goes on catching up.
    pub(super) fn hear_more(&mut self, now: Instant) {
        while let Some((id, peer)) = self.news.next_fetch(now) {
            self.ask(now, peer, Request::Fetch { id }, Owner::News);
        }
        if let Some(peer) = self.news.next_round() {
            self.ask(now, peer, Request::CatchUp { known: self.news.known(now) }, Owner::News);
        }
    }

    /// `peer` has answered a request about announcements.
    pub(super) fn news_answered(&mut self, now: Instant, peer: Peer, request: &Request, response: Response) {
        match (request, response) {
            (Request::Fetch { id }, Response::Announcement { age, message }) => {
                self.fetched(now, &peer, *id, age, message);
            }
            (Request::Fetch { id }, _) => self.news.failed(id, &peer),
            (Request::CatchUp { .. }, Response::Offers(ids)) => self.news.offered_many(now, peer, &ids),
            (Request::CatchUp { .. }, _) => self.news.has_no_more(&peer),
            // Whether it wants what it was offered is its own affair.
            _ => {}
        }
        self.hear_more(now);
    }

    fn fetched(&mut self, now: Instant, peer: &Peer, id: Id, age: Duration, message: Arc<[u8]>) {
        match self.news.fetched(now, peer, &id, age, &message) {
            Offered::Wanted => {
                self.stats.announcements_heard += 1;
                self.outputs.push_back(Output::Announced { id, message, age });
            }
            Offered::Known => {}
            Offered::Refused => self.stats.announcements_refused += 1,
        }
    }

    /// A request about announcements takes long.
    pub(super) fn news_late(&mut self, now: Instant, request: &Request, peer: &Peer) {
        if let Request::Fetch { id } = request {
            self.news.late(id, peer);
            self.hear_more(now);
        }
    }

    /// Nobody has answered a request about announcements. The peer may be of a version that has none: it is asked whether
    /// it is there before it is forgotten.
    pub(super) fn news_failed(&mut self, now: Instant, pending: &Pending) {
        match &pending.request {
            Request::Fetch { id } => self.news.failed(id, &pending.to),
            Request::CatchUp { .. } => self.news.has_no_more(&pending.to),
            _ => {}
        }
        self.verify_known(now, &pending.to.id);
        self.hear_more(now);
    }

    /// Offers an announcement to those who may not have it.
    fn spread(&mut self, now: Instant, id: Id, spread: &Spread) {
        let has_it = |peer: &NodeId| spread.known_to.contains(peer);
        let peers = if spread.is_young {
            self.routing.across(Level::GLOBAL, MAX_TOLD_YOUNG)
        } else {
            let members = self.routing.members(Level::GLOBAL).map(|known| known.peer).collect();
            some_of(&mut self.rng, members, MAX_TOLD_OLD)
        };
        for peer in peers.into_iter().filter(|peer| !has_it(&peer.id)) {
            self.ask(now, peer, Request::Offer { id }, Owner::News);
        }
    }
}

/// Peers that are offered a young announcement: all that a node knows in a network of some thousands.
const MAX_TOLD_YOUNG: usize = 64;
/// Peers that are asked, one after the other, for what this node does not know: one of them may be new itself, or a liar.
const MAX_ASKED: usize = 3;
/// As [`MAX_TOLD_YOUNG`] for one that has got around. Where it has not, as in a part of the network that was cut off, those few tell others.
const MAX_TOLD_OLD: usize = 4;
