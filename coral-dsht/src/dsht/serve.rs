//! Answering the requests of others, whom the caller has found to share a cluster with this node where they must.
//!
//! An answer is a few peers or a few short values. That no more goes to an unproven address than came from it, and that
//! its store is changed by nobody else's datagrams, the caller sees to.

use std::net::IpAddr;

use rand_chacha::ChaCha12Rng;
use rand_core::Rng as _;

use crate::api::Value;
use crate::dsht::Lent;
use crate::dsht::store::Entry;
use crate::message::{Request, Response};
use crate::peer::Peer;

/// The answer to `request`, sent by `peer`, which may or may not have proven to be at its address.
pub(super) fn serve(lent: &mut Lent<'_>, peer: Peer, is_proven: bool, request: Request) -> Response {
    let count = lent.config.peers_in_answer();
    match request {
        Request::Ping => Response::Pong { seen_as: peer.addr },
        Request::Find { level, key, aim } => Response::Peers(lent.routing.nearer(level, &key, &aim, count)),
        Request::Get { level, key, aim } => {
            let values = lent.store.values(lent.now, level, &key);
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
