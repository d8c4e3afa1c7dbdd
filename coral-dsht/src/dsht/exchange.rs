//! Asking others, and taking in what they answer or fail to.

use std::net::SocketAddr;
use std::time::Duration;

use rand_core::Rng as _;

use super::cluster::levels_from_1;
use super::nodes::shares;
use super::op::Op;
use super::refresh::Refresh;
use super::rpc::{Owner, Pending};
use super::rtt::Patience;
use super::{Dsht, Output};
use crate::level::Level;
use crate::message::{Body, Header, Message, Request, Response, Token};
use crate::peer::Peer;
use crate::time::Instant;
use crate::wire;

impl Dsht {
    /// A peer is there, as an answer or a proof has shown, after a round trip of `rtt` if that measures anything.
    pub(super) fn heard(&mut self, now: Instant, peer: Peer, header: &Header, rtt: Option<Duration>) {
        self.learn_clusters(now, peer, rtt, &header.clusters);
        let (config, mine) = (&self.config, &self.clusters);
        let shared = |level| config.levels().contains(level) && shares(mine, &header.clusters, level);
        let is_first = |level| self.routing.members(level).next().is_none() && shared(level);
        let first: Vec<Level> = levels_from_1().filter(|level| is_first(*level)).collect();
        let was_alone = self.routing.members(Level::GLOBAL).next().is_none();
        self.routing.heard(now, peer, rtt, header, shared);
        self.silent.forget(&peer.id);
        if self.published.heard(now, &peer.id, header.instance) {
            // The node is back before anybody missed it, but what it stored is not.
            self.lost.extend(self.published.lost(&peer.id));
        }
        if self.published.has_moved(&peer.id, &header.clusters) {
            self.publish_again(&peer.id, &header.clusters);
        }
        self.update_clusters(now);
        // The way into a cluster that this node has just moved to.
        for level in first {
            self.refresh(now, level);
        }
        // The first contact that answers knows the way to where hints are: the rest of a join may take seconds.
        if was_alone && self.is_joining() {
            self.look_for_neighbours(now);
        }
    }

    /// An answer has come to a request of ours.
    pub(super) fn answered(&mut self, now: Instant, peer: Peer, header: &Header, pending: Pending, response: Response) {
        let rtt = now.saturating_since(pending.sent);
        self.heard(now, peer, header, (!pending.repeated).then_some(rtt));
        if pending.repeated {
            self.routing.back_off(&peer.id, rtt);
        }
        if let Some(token) = header.token {
            self.admission.keep(now, peer.addr, token);
            if header.wants_proof {
                self.tell(peer.addr, Some(token), Body::Proof);
            }
        }
        if matches!(pending.request, Request::Store { .. } | Request::Claim { .. }) {
            self.published.watch(now, peer, header.instance);
        }
        if response == Response::Challenge && !pending.challenged {
            self.ask_again(now, pending);
            return;
        }
        let silent: Vec<Peer> = match &response {
            Response::Peers(peers) | Response::Room { peers, .. } => {
                peers.iter().filter(|peer| self.silent.get(now, &peer.id).is_some()).copied().collect()
            }
            _ => Vec::new(),
        };
        if let (Some(level), Response::Peers(peers) | Response::Room { peers, .. }) =
            (pending.request.level(), &response)
        {
            self.meet(now, level, peer.addr, peers);
        }
        if self.gone.returned(&peer.id) {
            self.start(now, Op::Refresh(Refresh::by(peer, self.me.id, Level::GLOBAL)), false);
            self.catch_up_by(now, peer);
        }
        match pending.owner {
            Owner::Tables => {
                self.verifying.remove(&peer.id);
                self.hearsay.settled(&peer.id);
            }
            Owner::News => self.news_answered(now, peer, &pending.request, response),
            Owner::Op(id) => self.advance(now, id, |op, lent| {
                op.answered(lent, pending.request.level(), &peer, rtt, response);
                op.pass_over(&silent);
            }),
        }
    }

    /// An answer takes longer than most: an operation may ask somebody else meanwhile.
    pub(super) fn late(&mut self, now: Instant, pending: &Pending) {
        match pending.owner {
            Owner::Op(op) => self.advance(now, op, |op, _| op.late(&pending.to)),
            Owner::News => self.news_late(now, &pending.request, &pending.to),
            Owner::Tables => {}
        }
    }

    /// A peer has not answered at all: forget it.
    pub(super) fn gave_up(&mut self, now: Instant, pending: &Pending) {
        let peer = pending.to;
        self.stats.timeouts += 1;
        if pending.owner == Owner::News {
            return self.news_failed(now, pending);
        }
        self.silent.note(now, peer.id, ());
        if self.routing.remove(&peer.id).is_some() || self.contacts.contains(&peer.addr) {
            self.gone.note(peer);
        }
        self.candidates.forget(&peer.id);
        self.lost.extend(self.published.lost(&peer.id));
        self.update_clusters(now);
        match pending.owner {
            Owner::Tables => {
                self.verifying.remove(&peer.id);
                self.hearsay.settled(&peer.id);
            }
            Owner::News => {}
            Owner::Op(id) => self.advance(now, id, |op, lent| op.failed(lent, pending.request.level(), &peer)),
        }
    }

    pub(super) fn ask(&mut self, now: Instant, to: Peer, request: Request, owner: Owner) {
        let id = self.rng.next_u64();
        let (patience, repeats) = self.patience(&to, request.level());
        self.rpcs.start(now, id, (to, request.clone(), owner), patience, repeats);
        self.request(now, to, id, request);
    }

    /// Sends a request once more that was answered by a challenge: now there is a token to show.
    pub(super) fn ask_again(&mut self, now: Instant, pending: Pending) {
        let id = self.rng.next_u64();
        let (patience, repeats) = self.patience(&pending.to, pending.request.level());
        let (to, request) = (pending.to, pending.request.clone());
        self.rpcs.restart(now, id, pending, patience, repeats);
        self.request(now, to, id, request);
    }

    /// How long to wait for an answer of `peer` to a request at `level`, and how often to ask it again.
    fn patience(&self, peer: &Peer, level: Option<Level>) -> (Patience, u32) {
        let (initial, min) = (self.config.initial_rto, self.config.min_rto);
        match self.routing.get(&peer.id) {
            Some(known) => (known.rtt.patience(initial, min), REPEATS_KNOWN),
            None => {
                let late = level.map_or(initial, |level| self.first_late[level.index()]);
                (Patience { late, timeout: late.max(min) }, REPEATS_UNKNOWN)
            }
        }
    }

    pub(super) fn request(&mut self, now: Instant, to: Peer, request_id: u64, request: Request) {
        let header = Header { token: self.admission.token_for(now, to.addr), ..self.header() };
        self.send(to.addr, wire::encode(&Message { header, request_id, body: Body::Request(request) }));
    }

    /// Sends what nobody answers.
    pub(super) fn tell(&mut self, to: SocketAddr, token: Option<Token>, body: Body) {
        let header = Header { token, ..self.header() };
        self.send(to, wire::encode(&Message { header, request_id: 0, body }));
    }

    /// What every message tells of this node.
    pub(super) fn header(&self) -> Header {
        Header {
            services: self.me.services,
            clusters: self.clusters.clone(),
            instance: self.instance,
            token: None,
            wants_proof: false,
        }
    }

    pub(super) fn send(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        let bytes = self.seal.close(bytes);
        self.stats.datagrams_sent += 1;
        self.stats.bytes_sent += bytes.len() as u64;
        self.outputs.push_back(Output::Send { to, bytes });
    }
}

/// How often a request to a known peer is sent again before the peer is forgotten.
const REPEATS_KNOWN: u32 = 2;
/// The same for a peer that has never answered: it need not exist.
const REPEATS_UNKNOWN: u32 = 1;
