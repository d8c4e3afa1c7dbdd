//! One request for neighbours: those verified lately at once, those in doubt after a ping [C04 §3.1].

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::api::{Neighbour, NodesQuery};
use crate::dsht::Lent;
use crate::dsht::op::Next;
use crate::dsht::routing::Known;
use crate::id::NodeId;
use crate::level::Level;
use crate::message::{Clusters, Request};
use crate::peer::{Peer, Prefix};

/// A request for neighbours under way.
#[derive(Debug)]
pub(crate) struct Nodes {
    query: NodesQuery,
    doubtful: Option<Vec<Peer>>,
    waiting: BTreeSet<NodeId>,
}

impl Nodes {
    pub(crate) fn new(query: NodesQuery) -> Self {
        Self { query, doubtful: None, waiting: BTreeSet::new() }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<Vec<Neighbour>> {
        if self.doubtful.is_none() {
            let verified = self.wanted(lent).filter(|known| is_verified(lent, known)).count();
            let missing = self.query.count.saturating_sub(verified).min(MAX_PINGS);
            let doubtful = self.wanted(lent).filter(|known| !is_verified(lent, known));
            self.doubtful = Some(doubtful.take(missing).map(|known| known.peer).collect());
        }
        if let Some(peer) = self.doubtful.as_mut().and_then(Vec::pop) {
            self.waiting.insert(peer.id);
            return Next::Ask(peer, Request::Ping);
        }
        if self.waiting.is_empty() { Next::Done(self.verified(lent)) } else { Next::Wait }
    }

    /// `peer` has answered, or has been given up, or is so late that it is not worth waiting for.
    pub(crate) fn settled(&mut self, peer: &Peer) {
        self.waiting.remove(&peer.id);
    }

    fn wanted<'a>(&self, lent: &Lent<'a>) -> impl Iterator<Item = &'a Known> + use<'a> {
        let services = self.query.services;
        lent.routing.members(self.query.level).filter(move |known| known.peer.services.contains(services))
    }

    fn verified(&self, lent: &Lent<'_>) -> Vec<Neighbour> {
        let verified = self.wanted(lent).filter(|known| is_verified(lent, known));
        let mut found: Vec<Neighbour> = verified.filter_map(|known| neighbour(lent, known)).collect();
        found.sort_by_key(|near| (!is_same_network(near.peer.addr.ip(), self.query.target), near.rtt, near.peer.id));
        found.truncate(self.query.count);
        found
    }
}

/// What the application is told of a peer; `None` before its round-trip time is known.
pub(crate) fn neighbour(lent: &Lent<'_>, known: &Known) -> Option<Neighbour> {
    let level = lent.config.levels().nearest_first().find(|level| shares(lent.clusters, &known.clusters, *level));
    Some(Neighbour {
        peer: known.peer,
        rtt: known.rtt.smoothed()?,
        heard: lent.now.saturating_since(known.heard),
        level: level.unwrap_or(Level::GLOBAL),
    })
}

/// Whether two nodes with these clusters are in the same one at `level`.
pub(crate) fn shares(mine: &Clusters, theirs: &Clusters, level: Level) -> bool {
    mine.id_at(level).is_some_and(|id| theirs.id_at(level) == Some(id))
}

fn is_verified(lent: &Lent<'_>, known: &Known) -> bool {
    lent.now.saturating_since(known.heard) <= lent.config.verified
}

/// Whether `target` is given and both are in one /24 or /48: nobody can be nearer than a node on the client's own
/// network.
fn is_same_network(addr: IpAddr, target: Option<IpAddr>) -> bool {
    target.is_some_and(|target| Prefix::of(addr) == Prefix::of(target))
}

/// Peers in doubt that one request pings.
const MAX_PINGS: usize = 16;
