//! What a node does for its tables and its values by itself: from time to time, and when others name peers.

use std::net::SocketAddr;

use rand_chacha::ChaCha12Rng;

use super::hints::Hints;
use super::join::Join;
use super::nodes::shares;
use super::op::Op;
use super::put::Put;
use super::refresh::Refresh;
use super::remove::Lost;
use super::rpc::Owner;
use super::walk::Purpose;
use super::{Dsht, MAX_TOLD, Running, random_id, rtt};
use crate::api::HintsQuery;
use crate::hint;
use crate::id::{Distance, Key, NodeId};
use crate::level::{Level, Levels};
use crate::message::Request;
use crate::peer::{Peer, Services};
use crate::time::Instant;

impl Dsht {
    /// Peers that `informant` told us of: those that the tables have room for are asked whether they are there.
    pub(super) fn meet(&mut self, now: Instant, level: Level, informant: SocketAddr, peers: &[Peer]) {
        for peer in peers {
            if self.routing.has_room_for(peer.id, |other| other == level)
                && self.silent.get(now, &peer.id).is_none()
                && !self.verifying.contains(&peer.id)
                && self.hearsay.admit(informant, peer)
            {
                self.verify(now, *peer);
            }
        }
    }

    pub(super) fn verify_known(&mut self, now: Instant, id: &NodeId) {
        if let Some(known) = self.routing.get(id) {
            let peer = known.peer;
            self.verify(now, peer);
        }
    }

    /// Pings `peer` for the tables' sake, unless that is being done.
    pub(super) fn verify(&mut self, now: Instant, peer: Peer) {
        if peer.id != self.me.id && self.verifying.insert(peer.id) {
            self.ask(now, peer, Request::Ping, Owner::Tables);
        }
    }

    /// What has to be done from time to time.
    pub(super) fn maintain(&mut self, now: Instant) {
        self.store.sweep(now);
        self.admission.sweep(now);
        self.silent.sweep(now);
        self.rates.sweep(now);
        self.news.sweep(now);
        self.hear_more(now);
        for level in self.config.levels().nearest_first() {
            let typical = self.routing.typical_rtt(level).map_or(self.config.initial_rto, |rtt| rtt * 3 / 2);
            self.first_late[level.index()] = typical.max(rtt::GRANULARITY).min(self.config.initial_rto);
        }
        self.published.sweep(now);
        self.candidates.sweep(now);
        self.own_puts.retain(|_, meter| !meter.is_idle(now));
        self.repair(now);
        if now >= self.next_hint && self.routing.members(Level::GLOBAL).next().is_some() {
            self.next_hint = now + hint::TTL / 2;
            self.put_hints(now);
        }
        self.update_clusters(now);
        let is_quiet = |heard| now.saturating_since(heard) >= self.config.keepalive;
        let known = self.routing.all().map(|known| (known.heard, known.peer));
        let mut quiet: Vec<(Instant, Peer)> = known
            .chain(self.published.watched())
            .filter(|(heard, peer)| is_quiet(*heard) && *peer != self.me)
            .collect();
        quiet.sort_by_key(|(heard, peer)| (*heard, peer.id));
        quiet.dedup();
        for (_, peer) in quiet.into_iter().take(MAX_PINGS) {
            self.verify(now, peer);
        }
        if let Some(peer) = self.gone.next() {
            self.verify(now, peer);
        }
        let is_alone = self.routing.members(Level::GLOBAL).next().is_none();
        if is_alone && !self.contacts.is_empty() && !self.is_joining() {
            let join = Join::new(self.me, &self.contacts);
            self.start(now, Op::Join(join), false);
        }
    }

    pub(super) fn is_joining(&self) -> bool {
        self.ops.values().any(|running| matches!(running.op, Op::Join(_)))
    }

    /// Puts again what has gone with its holders, a little at a time: a get must find it before its owner renews it.
    pub(super) fn repair(&mut self, now: Instant) {
        for _ in 0..MAX_REPAIRS {
            let Some(Lost { key, value, level, expires }) = self.lost.pop_front() else { return };
            let ttl = expires.saturating_since(now);
            let walk = self.walk(key, Purpose::Put, Levels::only(level));
            if let (Some(walk), false) = (walk, ttl.is_zero()) {
                self.start(now, Op::Put(Put::new(walk, value, ttl)), false);
            }
        }
    }

    /// Asks near peers that are in another cluster at `level`: their answers make this node weigh it.
    pub(super) fn look_around(&mut self, now: Instant, level: Level) {
        let Some(diameter) = self.config.diameter(level) else { return };
        let elsewhere = self.routing.all().filter(|known| {
            known.rtt.smoothed().is_some_and(|rtt| rtt < diameter) && !shares(&self.clusters, &known.clusters, level)
        });
        let elsewhere: Vec<Peer> = elsewhere.take(MAX_TOLD).map(|known| known.peer).collect();
        for peer in elsewhere {
            self.verify(now, peer);
        }
    }

    /// Tells the index under which networks and routers this node is.
    pub(super) fn put_hints(&mut self, now: Instant) {
        for key in hint::keys(self.me.addr.ip(), &self.routers) {
            if let Some(walk) = self.walk(key, Purpose::Put, self.config.levels()) {
                self.start(now, Op::Put(Put::new(walk, hint::value(self.me.addr), hint::TTL)), false);
            }
        }
    }

    /// Pings nodes on this node's own network and behind its routers, until one of them is near: it is in a near cluster.
    pub(super) fn look_for_neighbours(&mut self, now: Instant) {
        let (client, routers) = (self.me.addr.ip(), self.routers.clone());
        let query = HintsQuery { client, routers, count: 0, services: Services::NONE };
        let hints = Hints::new(&query);
        let nearest = self.config.diameters.last().copied();
        let hints = nearest.into_iter().fold(hints, Hints::within);
        self.start(now, Op::Hints(hints), false);
    }

    /// Fills the tables of `level` anew, unless that is under way.
    pub(super) fn refresh(&mut self, now: Instant, level: Level) {
        let same = |running: &Running| matches!(&running.op, Op::Refresh(other) if other.level() == level);
        if self.ops.values().any(same) {
            return;
        }
        let depth = self.routing.depth(level).min(self.routing.size(level).ilog2() as usize + 2);
        let me = self.me.id;
        let in_buckets: Vec<Key> =
            (0..depth).map(|bucket| me.at_distance(&random_distance(&mut self.rng, bucket))).collect();
        let targets = std::iter::once(me).chain(in_buckets);
        self.start(now, Op::Refresh(Refresh::new(level, targets)), false);
    }
}

/// A random distance of a peer in bucket `bucket`: one with that many leading zeros.
fn random_distance(rng: &mut ChaCha12Rng, bucket: usize) -> Distance {
    let mut bytes = *random_id(rng).as_bytes();
    let (byte, bit) = (bucket / 8, bucket % 8);
    bytes[..byte].fill(0);
    bytes[byte] = (bytes[byte] & (0xff >> bit)) | (0x80 >> bit);
    Distance::from_bytes(bytes)
}

/// Values put again in one round of maintenance.
const MAX_REPAIRS: usize = 32;
/// Quiet peers pinged in one round of maintenance.
const MAX_PINGS: usize = 32;
