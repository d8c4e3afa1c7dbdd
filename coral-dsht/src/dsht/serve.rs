//! Answering the requests of others.
//!
//! No more goes to an unproven address than came from it, and the store is changed only for whoever shows a token, once for
//! each request: see [`admission`](super::admission). An answer is a few peers or a few short values.

use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::Rng as _;

use super::admission::fitted;
use super::cluster::levels_from_1;
use super::news::Offered;
use super::routing::Known;
use super::store::Entry;
use super::token::TOKEN_LIFE;
use super::{Dsht, Lent};
use crate::api::Value;
use crate::id::Id;
use crate::message::{Body, Clusters, Header, Message, Request, Response};
use crate::peer::Peer;
use crate::time::Instant;
use crate::wire;

impl Dsht {
    /// Answers a request of `length` bytes, and takes an interest in whoever sent it.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        peer: Peer,
        header: &Header,
        request_id: u64,
        request: Request,
        length: usize,
    ) {
        *self.stats.requests.entry(request.name()).or_default() += 1;
        let shows_token = header.token.is_some_and(|token| self.admission.shown(now, peer.addr, &token).is_some());
        let is_fresh = |known: &Known| now.saturating_since(known.heard) < TOKEN_LIFE;
        let is_known = self.routing.get(&peer.id).is_some_and(is_fresh);
        let is_proven = shows_token || is_known || self.admission.is_proven(now, peer.addr);
        // What may follow changes the store.
        let wants_token = matches!(request, Request::Get { .. } | Request::Put { .. } | Request::Claim { .. });
        let is_offer = matches!(request, Request::Offer { .. });
        let response = match request.level() {
            Some(level) if !self.shares(&header.clusters, level) && !request.is_withdrawal() => Response::OtherCluster,
            _ if !request.changes_store() => answer_to(&mut self.lent(now), peer, is_proven, request),
            // A table knows who is there, not who has sent this datagram.
            _ if !shows_token => Response::Challenge,
            _ => match self.admission.answered(now, peer.addr, request_id) {
                Some(response) => response.clone(),
                None => {
                    let response = answer_to(&mut self.lent(now), peer, is_proven, request);
                    self.admission.note_answer(now, peer.addr, request_id, response.clone());
                    response
                }
            },
        };
        if matches!(response, Response::Room { full: true, loaded: true, .. }) {
            self.stats.puts_turned_back += 1;
        }
        if is_offer && response == Response::Done(false) && self.news.is_listening() {
            self.stats.announcements_refused += 1;
        }
        // What a request says of its sender is hearsay until the sender proves to be there: the address may be made up.
        let wants_proof = match self.routing.get(&peer.id) {
            Some(known) => !known.clusters.from_l1().iter().map(|info| info.id).eq(ids(&header.clusters)),
            None => {
                self.routing.has_room_for(peer.id, |level| self.shares(&header.clusters, level))
                    || self.is_alone_at_some(&header.clusters)
            }
        };
        let needs_token = wants_proof || !is_proven || response == Response::Challenge || (wants_token && !shows_token);
        let token = needs_token.then(|| self.admission.issue(now, peer.addr));
        let header = Header { token, wants_proof, ..self.header() };
        let answer = Message { header, request_id, body: Body::Response(response) };
        match if is_proven { Some(wire::encode(&answer)) } else { fitted(answer, length) } {
            Some(bytes) => self.send(peer.addr, bytes),
            None => {
                let header = Header { token, ..self.header() };
                let challenge = Message { header, request_id, body: Body::Response(Response::Challenge) };
                self.send(peer.addr, wire::encode(&challenge));
            }
        }
        if is_offer {
            self.hear_more(now);
        }
    }

    /// Whether this node has no cluster yet at a level at which a stranger is in one, perhaps alone like this node. If that one
    /// is near it may be up to this node to come over, and nothing else need ever tell it of the other.
    fn is_alone_at_some(&self, theirs: &Clusters) -> bool {
        let is_alone = |level| self.config.levels().contains(level) && self.routing.members(level).next().is_none();
        levels_from_1().any(|level| theirs.at(level).is_some() && is_alone(level))
    }

    /// A peer has sent back at once the token of an answer: it is there, and so far away.
    pub(super) fn proven(&mut self, now: Instant, peer: Peer, header: &Header) {
        let age = header.token.and_then(|token| self.admission.shown(now, peer.addr, &token));
        match age.filter(|age| *age <= PROOF_LIFE) {
            // One that is known has its time measured by its answers; a proof could be one sent again.
            Some(_) if self.routing.get(&peer.id).is_some() => self.heard(now, peer, header, None),
            Some(age) => self.heard(now, peer, header, Some(age)),
            None => self.drop_datagram("proof"),
        }
    }
}

fn ids(clusters: &Clusters) -> impl Iterator<Item = Id> + '_ {
    clusters.from_l1().iter().map(|info| info.id)
}

/// The answer to `request`, sent by `peer`, which may or may not have proven to be at its address.
fn answer_to(lent: &mut Lent<'_>, peer: Peer, is_proven: bool, request: Request) -> Response {
    let count = lent.config.peers_in_answer();
    match request {
        Request::Ping => Response::Pong { seen_as: peer.addr },
        Request::Find { level, key, aim } => Response::Peers(lent.routing.nearer(level, &key, &aim, count)),
        Request::Get { level, key, aim } => {
            let values = lent.store.values_or_nearer(lent.now, level, &key);
            if values.is_empty() {
                Response::Peers(lent.routing.nearer(level, &key, &aim, count))
            } else {
                Response::Values(some_of(lent.rng, values, lent.config.values_in_answer()))
            }
        }
        Request::Put { level, key, ttl, aim } => {
            let full = lent.store.is_full(lent.config, lent.now, level, &key, ttl);
            let loaded = lent.store.count_put(lent.config, lent.now, level, key) && lent.config.rules.turn_back;
            Response::Room { full, loaded, peers: lent.routing.nearer(level, &key, &aim, count) }
        }
        Request::Store { level, key, ttl, value, turned_back } => {
            if turned_back && lent.config.rules.push_back {
                lent.store.push_back(level, &key);
            }
            let owner = peer.addr.ip();
            if !may_name(&value, owner) {
                return Response::Done(false);
            }
            Response::Done(lent.store.put(lent.config, lent.now, (level, key), Entry { value, ttl, owner }))
        }
        Request::Claim { level, key, aim, ttl, is_last, value, refused } => {
            let peers = lent.routing.nearer(level, &key, &aim, count);
            if !may_name(&value, peer.addr.ip()) {
                return Response::Peers(peers);
            }
            let entry = Entry { value, ttl, owner: peer.addr.ip() };
            let is_last = is_last || peers.is_empty();
            if !is_proven && (is_last || !lent.store.values(lent.now, level, &key).is_empty()) {
                // Whoever comes next would be sent to a made-up address.
                return Response::Challenge;
            }
            match lent.store.claim(lent.config, lent.now, (level, key), entry, &refused, is_last) {
                None => Response::Peers(peers),
                Some(values) if values.is_empty() => Response::Claimed,
                Some(values) => Response::Values(values),
            }
        }
        Request::Remove { level, key, value } => Response::Done(lent.store.remove(level, &key, &value, peer.addr.ip())),
        Request::Sample { level } => {
            let members = lent.routing.members(level).map(|known| known.peer).collect();
            Response::Peers(some_of(lent.rng, members, count))
        }
        // What is offered will be fetched: nobody is sent a request who may not be there.
        Request::Offer { .. } if !is_proven => Response::Challenge,
        Request::Offer { id } => Response::Done(lent.news.offered(lent.now, peer, id) != Offered::Refused),
        Request::Fetch { id } => match lent.news.get(lent.now, &id) {
            Some((age, message)) => Response::Announcement { age, message },
            None => Response::Done(false),
        },
        Request::CatchUp { known } => Response::Offers(lent.news.offers(lent.now, &known)),
    }
}

/// Whether a node at `owner` may have `value` stored: one that names an address must name its own. Else anybody could
/// send everybody who looks for a popular key to a third party.
fn may_name(value: &Value, owner: IpAddr) -> bool {
    value.named().is_none_or(|(_, addr)| addr.ip() == owner.to_canonical())
}

/// At most `count` of `values`, each as likely as any other: readers spread over all holders.
pub(super) fn some_of<T>(rng: &mut ChaCha12Rng, mut values: Vec<T>, count: usize) -> Vec<T> {
    for index in 0..count.min(values.len()) {
        let other = index + (rng.next_u64() % (values.len() - index) as u64) as usize;
        values.swap(index, other);
    }
    values.truncate(count);
    values
}

/// A proof comes back within a round trip. An older one is late, or a copy: what it says of the time is not believed.
const PROOF_LIFE: Duration = Duration::from_secs(2);
