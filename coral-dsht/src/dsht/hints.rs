//! Looking for nodes near an address: the hints under its network and routers, nearest first, and a ping to each node
//! that they name [C04 §3.1].
//!
//! A hint is hearsay. Who does not answer is not named, and where nobody answers, the next key or the next wider level
//! is tried. So it is where a node looks for its own neighbours, and those that answer are far away: a network may be
//! spread over several places, and anybody can store a hint.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::api::{HintsQuery, Neighbour, Value};
use crate::dsht::Lent;
use crate::dsht::get::Get;
use crate::dsht::lookup::Lookup;
use crate::dsht::nodes::neighbour;
use crate::dsht::op::Next;
use crate::dsht::walk::{Purpose, Walk};
use crate::hint;
use crate::id::{Key, NodeId};
use crate::level::{Level, Levels};
use crate::message::{Request, Response};
use crate::peer::{Peer, Services};

/// A search for nodes near an address.
#[derive(Debug)]
pub(crate) struct Hints {
    keys: VecDeque<Key>,
    /// Where the key at the front is still to be looked for.
    levels: Levels,
    count: usize,
    services: Services,
    /// Somebody at least so near is looked for, if that is given.
    within: Option<Duration>,
    get: Option<Get>,
    to_ping: Vec<Peer>,
    pinged: BTreeSet<NodeId>,
    waiting: usize,
    found: Vec<Neighbour>,
}

impl Hints {
    pub(crate) fn new(query: &HintsQuery) -> Self {
        Self {
            keys: hint::keys(query.client, &query.routers).into(),
            levels: Levels::ALL,
            count: query.count,
            services: query.services,
            within: None,
            get: None,
            to_ping: Vec::new(),
            pinged: BTreeSet::new(),
            waiting: 0,
            found: Vec::new(),
        }
    }

    /// The same, but the search goes on until it has found somebody whose round-trip time to this node is below `within`.
    pub(crate) fn within(self, within: Duration) -> Self {
        Self { within: Some(within), ..self }
    }

    /// What to do next.
    pub(crate) fn next(&mut self, lent: &mut Lent<'_>) -> Next<Vec<Neighbour>> {
        loop {
            if let Some(peer) = self.to_ping.pop() {
                self.waiting += 1;
                return Next::Ask(peer, Request::Ping);
            }
            if self.waiting > 0 {
                return Next::Wait;
            }
            if self.has_enough() {
                return Next::Done(self.take_found());
            }
            let Some(get) = &mut self.get else {
                let Some(key) = self.keys.front() else {
                    return Next::Done(self.take_found());
                };
                let levels = self.levels.and(lent.config.levels());
                match Walk::new(Lookup::new(lent.me.id, *key), Purpose::Get, levels) {
                    // This node's own hint, should it hold that itself, would end the search where it begins.
                    Some(walk) => self.get = Some(Get::new(walk).passing_over(hint::value(lent.me.addr))),
                    None => self.next_key(),
                }
                continue;
            };
            match get.next(lent) {
                Next::Ask(peer, request) => return Next::Ask(peer, request),
                Next::Wait => return Next::Wait,
                Next::Done(found) => {
                    self.get = None;
                    match found.level {
                        // If nobody of those is there, there may be others farther away.
                        Some(level) => self.levels = Levels::first(level.index()),
                        None => self.next_key(),
                    }
                    self.follow(lent, &found.values);
                }
            }
        }
    }

    /// `peer` has answered, to a get if `level` is given, else to a ping.
    pub(crate) fn answered(
        &mut self,
        lent: &Lent<'_>,
        level: Option<Level>,
        peer: &Peer,
        rtt: Duration,
        response: Response,
    ) {
        match (level, &mut self.get) {
            (Some(level), Some(get)) => get.answered(lent, level, peer, rtt, response),
            (Some(_), None) => {}
            (None, _) => {
                self.waiting = self.waiting.saturating_sub(1);
                if peer.services.contains(self.services) {
                    let known = lent.routing.get(&peer.id).and_then(|known| neighbour(lent, known));
                    let stranger = Neighbour { peer: *peer, rtt, heard: Duration::ZERO, level: Level::GLOBAL };
                    self.found.push(known.unwrap_or(stranger));
                }
            }
        }
    }

    /// The lookup, to be told who is late or silent.
    pub(crate) fn walk(&mut self) -> Option<&mut Walk> {
        self.get.as_mut().map(Get::walk)
    }

    /// `peer` did not answer.
    pub(crate) fn failed(&mut self, lent: &Lent<'_>, level: Option<Level>, peer: &Peer) {
        match (level, &mut self.get) {
            (Some(level), Some(get)) => get.walk().failed(lent, level, peer, None),
            (Some(_), None) => {}
            (None, _) => self.waiting = self.waiting.saturating_sub(1),
        }
    }

    fn has_enough(&self) -> bool {
        self.found.iter().any(|near| self.within.is_none_or(|within| near.rtt < within))
    }

    fn next_key(&mut self) {
        self.keys.pop_front();
        self.levels = Levels::ALL;
    }

    fn follow(&mut self, lent: &Lent<'_>, hints: &[Value]) {
        for addr in hints.iter().filter_map(hint::node).filter(|addr| *addr != lent.me.addr) {
            let peer = Peer::new(addr, Services::NONE);
            if self.pinged.len() < MAX_PINGS && self.pinged.insert(peer.id) {
                self.to_ping.push(peer);
            }
        }
    }

    fn take_found(&mut self) -> Vec<Neighbour> {
        self.found.sort_by_key(|near| (near.rtt, near.peer.id));
        self.found.truncate(self.count);
        std::mem::take(&mut self.found)
    }
}

/// Nodes that one search pings, whatever the hints say.
const MAX_PINGS: usize = 16;
