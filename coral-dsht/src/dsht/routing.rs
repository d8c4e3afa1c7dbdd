//! Whom this node knows: the peers that have answered it, and for each cluster the buckets that hold them
//! [C04 §4.1, K02].
//!
//! Only first-hand knowledge enters a bucket: a peer that we were told of is not trusted until it has answered us
//! [NT05]. Which peers to ask or drop, and when, is decided by the caller.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::dsht::rtt::Rtt;
use crate::id::{Distance, ID_BYTES, Key, NodeId};
use crate::level::{Level, MAX_LEVELS};
use crate::message::{Clusters, Header};
use crate::peer::Peer;
use crate::time::Instant;

/// The tables of one node: a peer once, however many clusters it shares with us.
#[derive(Debug)]
pub(crate) struct Routing {
    me: NodeId,
    bucket: BucketSize,
    known: BTreeMap<NodeId, Known>,
    tables: [Table; MAX_LEVELS],
}

/// A peer that has answered us.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) peer: Peer,
    pub(crate) rtt: Rtt,
    /// When it last answered.
    pub(crate) heard: Instant,
    /// The clusters it was in then.
    pub(crate) clusters: Clusters,
}

/// The members of one cluster that this node knows, by the power of two of their distance from it.
#[derive(Debug, Default)]
struct Table {
    /// Bucket i holds peers whose distance has i leading zeros. Grows as near peers come.
    buckets: Vec<Bucket>,
}

/// Peers of one power of two of distance.
#[derive(Debug, Default)]
struct Bucket {
    peers: Vec<NodeId>,
    /// Who has answered while there was no room, the last to do so last. None while there is room.
    spares: Vec<NodeId>,
}

/// How many peers a bucket holds.
#[derive(Debug, Clone, Copy)]
struct BucketSize {
    peers: usize,
    spares: usize,
}

impl Routing {
    /// Empty tables for `me`.
    pub(crate) fn new(me: NodeId, config: &Config) -> Self {
        let bucket = BucketSize { peers: config.bucket_peers.get() as usize, spares: config.bucket_spares as usize };
        Self { me, bucket, known: BTreeMap::new(), tables: Default::default() }
    }

    /// Takes in that `peer` has been heard: it is alive, and in the clusters of `header`, of which `shared` says those
    /// that are ours.
    pub(crate) fn heard(
        &mut self,
        now: Instant,
        peer: Peer,
        rtt: Option<Duration>,
        header: &Header,
        shared: impl Fn(Level) -> bool,
    ) {
        if peer.id == self.me {
            return;
        }
        let known = self.known.entry(peer.id).or_insert_with(|| Known {
            peer,
            rtt: Rtt::default(),
            heard: now,
            clusters: Clusters::default(),
        });
        known.peer = peer;
        known.heard = now;
        if let Some(rtt) = rtt {
            known.rtt.sample(rtt);
        }
        if known.clusters != header.clusters {
            known.clusters = header.clusters.clone();
        }
        self.place(peer.id, shared);
    }

    /// `id` has answered a repeated request, `span` after it was first sent.
    pub(crate) fn back_off(&mut self, id: &NodeId, span: Duration) {
        if let Some(known) = self.known.get_mut(id) {
            known.rtt.back_off(span);
        }
    }

    /// Whether `peer` would enter a bucket, should it answer: then it is worth a ping.
    pub(crate) fn has_room_for(&self, id: NodeId, shared: impl Fn(Level) -> bool) -> bool {
        id != self.me
            && !self.known.contains_key(&id)
            && levels().any(|level| {
                let bucket = self.bucket(level, &id);
                shared(level) && bucket.is_none_or(|bucket| bucket.peers.len() < self.bucket.peers)
            })
    }

    /// What is known of `id`, if it has answered.
    pub(crate) fn get(&self, id: &NodeId) -> Option<&Known> {
        self.known.get(id)
    }

    /// Forgets `id`. The spare that was heard last takes its place.
    pub(crate) fn remove(&mut self, id: &NodeId) -> Option<Known> {
        for table in &mut self.tables {
            table.remove(&self.me, id);
        }
        self.known.remove(id)
    }

    /// This node is in another cluster at `level` now, whose members `shared` tells.
    pub(crate) fn rebuild(&mut self, level: Level, shared: impl Fn(&Clusters) -> bool) {
        self.tables[level.index()] = Table::default();
        let members: Vec<NodeId> =
            self.known.values().filter(|known| shared(&known.clusters)).map(|known| known.peer.id).collect();
        for id in members {
            // Whoever finds no place is dropped with all that have none.
            let _ = self.tables[level.index()].insert(&self.me, id, self.bucket);
        }
        self.drop_unplaced();
    }

    /// Everybody known at `level`.
    pub(crate) fn members(&self, level: Level) -> impl Iterator<Item = &Known> {
        let peers = self.tables[level.index()].buckets.iter().flat_map(|bucket| &bucket.peers);
        peers.filter_map(|id| self.known.get(id))
    }

    /// Everybody in a bucket: whom this node keeps in touch with.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Known> {
        self.known.values().filter(|known| self.is_in(&known.peer.id, |bucket, id| bucket.peers.contains(id)))
    }

    /// Up to `count` peers that have lasted, from as many buckets as there are: with them a node finds back to its network.
    pub(crate) fn lasting(&self, count: usize) -> Vec<Peer> {
        // A bucket keeps its peers in the order in which they came. The nearer a level, the sooner it is lost.
        self.some_of_each(&self.tables.iter().rev().flat_map(|table| &table.buckets).collect::<Vec<_>>(), count)
    }

    /// Up to `count` members of `level`, from as many buckets as there are. The nearest, whom few others know, come first.
    pub(crate) fn across(&self, level: Level, count: usize) -> Vec<Peer> {
        self.some_of_each(&self.tables[level.index()].buckets.iter().rev().collect::<Vec<_>>(), count)
    }

    /// Up to `count` peers: the first of each bucket, then the second of each, and so on.
    fn some_of_each(&self, buckets: &[&Bucket], count: usize) -> Vec<Peer> {
        let longest = buckets.iter().map(|bucket| bucket.peers.len()).max().unwrap_or(0);
        let mut some: Vec<NodeId> = Vec::new();
        for place in 0..longest {
            for id in buckets.iter().filter_map(|bucket| bucket.peers.get(place)) {
                if some.len() < count && !some.contains(id) {
                    some.push(*id);
                }
            }
        }
        some.iter().filter_map(|id| self.known.get(id)).map(|known| known.peer).collect()
    }

    /// The round-trip time that nine of ten members of `level` stay below; `None` while too few have been measured.
    pub(crate) fn typical_rtt(&self, level: Level) -> Option<Duration> {
        let mut rtts: Vec<Duration> = self.members(level).filter_map(|known| known.rtt.smoothed()).collect();
        let index = rtts.len() * 9 / 10;
        (rtts.len() >= LEAST_SAMPLES).then(|| *rtts.select_nth_unstable(index).1)
    }

    /// At most `count` members of `level` nearer to `key` than this node, those around distance `aim` first.
    ///
    /// The nearest of all is among them: where the distance to halve has become small, it is what is looked for.
    pub(crate) fn nearer(&self, level: Level, key: &Key, aim: &Distance, count: usize) -> Vec<Peer> {
        let mine = self.me.distance(key);
        let buckets = &self.tables[level.index()].buckets;
        // A peer in bucket i differs from this node in bit i first. So all of a bucket are nearer to the key if this node
        // differs from the key there, else none; and a later such bucket is farther than an earlier one.
        let nearer_buckets = buckets.iter().enumerate().filter(|(index, _)| mine.has_bit(*index));
        let mut nearest: Option<(Distance, NodeId)> = None;
        let mut chosen: Vec<(Distance, Distance, NodeId)> = Vec::with_capacity(count + 1);
        for id in nearer_buckets.flat_map(|(_, bucket)| &bucket.peers) {
            let distance = id.distance(key);
            if nearest.is_none_or(|(least, _)| distance < least) {
                nearest = Some((distance, *id));
            }
            let rank = (distance.abs_diff(aim), distance, *id);
            if chosen.len() < count || chosen.last().is_some_and(|last| rank < *last) {
                let place = chosen.partition_point(|other| *other < rank);
                chosen.insert(place, rank);
                chosen.truncate(count);
            }
        }
        if let Some((_, nearest)) = nearest
            && chosen.iter().all(|(_, _, id)| *id != nearest)
            && let Some((_, _, last)) = chosen.last_mut()
        {
            *last = nearest;
        }
        chosen.iter().filter_map(|(_, _, id)| self.known.get(id)).map(|known| known.peer).collect()
    }

    /// How many nodes the cluster at `level` seems to have, this one included.
    ///
    /// Exact while no bucket is full. Beyond that, ids are random: where the buckets nearer than the first i together
    /// hold c peers, there are about c · 2^i nodes.
    pub(crate) fn size(&self, level: Level) -> u32 {
        let buckets = &self.tables[level.index()].buckets;
        let Some(last_full) = buckets.iter().rposition(|bucket| bucket.peers.len() >= self.bucket.peers) else {
            return 1 + buckets.iter().map(|bucket| bucket.peers.len()).sum::<usize>() as u32;
        };
        let beyond: usize = 1 + buckets[last_full + 1..].iter().map(|bucket| bucket.peers.len()).sum::<usize>();
        u32::try_from(beyond << (last_full + 1).min(40)).unwrap_or(u32::MAX)
    }

    /// One past the deepest bucket in use at `level`.
    pub(crate) fn depth(&self, level: Level) -> usize {
        self.tables[level.index()].buckets.len()
    }

    /// Puts a known peer into, or takes it out of, each table.
    fn place(&mut self, id: NodeId, shared: impl Fn(Level) -> bool) {
        for level in levels() {
            let table = &mut self.tables[level.index()];
            if shared(level) {
                let displaced = table.insert(&self.me, id, self.bucket);
                if let Some(displaced) = displaced.filter(|displaced| !self.is_placed(displaced)) {
                    self.known.remove(&displaced);
                }
            } else {
                table.remove(&self.me, &id);
            }
        }
        if !self.is_placed(&id) {
            self.known.remove(&id);
        }
    }

    fn is_placed(&self, id: &NodeId) -> bool {
        self.is_in(id, |bucket, id| bucket.peers.contains(id) || bucket.spares.contains(id))
    }

    fn is_in(&self, id: &NodeId, part: impl Fn(&Bucket, &NodeId) -> bool) -> bool {
        levels().any(|level| self.bucket(level, id).is_some_and(|bucket| part(bucket, id)))
    }

    fn drop_unplaced(&mut self) {
        let unplaced: Vec<NodeId> = self.known.keys().filter(|id| !self.is_placed(id)).copied().collect();
        for id in unplaced {
            self.known.remove(&id);
        }
    }

    fn bucket(&self, level: Level, id: &NodeId) -> Option<&Bucket> {
        self.tables[level.index()].buckets.get(bucket_index(&self.me, id))
    }
}

impl Table {
    /// A full bucket keeps what it has: who has long been there will likely stay [K02 §2.1]. Who comes then is a spare,
    /// [K02 §4.1]; the spare that was so displaced is returned.
    fn insert(&mut self, me: &NodeId, id: NodeId, size: BucketSize) -> Option<NodeId> {
        let index = bucket_index(me, &id);
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Bucket::default);
        }
        let bucket = &mut self.buckets[index];
        if bucket.peers.contains(&id) {
            return None;
        }
        if bucket.peers.len() < size.peers {
            bucket.peers.push(id);
            return None;
        }
        bucket.spares.retain(|other| *other != id);
        bucket.spares.push(id);
        (bucket.spares.len() > size.spares).then(|| bucket.spares.remove(0))
    }

    fn remove(&mut self, me: &NodeId, id: &NodeId) {
        if let Some(bucket) = self.buckets.get_mut(bucket_index(me, id)) {
            bucket.spares.retain(|other| other != id);
            if let Some(index) = bucket.peers.iter().position(|other| other == id) {
                bucket.peers.remove(index);
                bucket.peers.extend(bucket.spares.pop());
            }
        }
        while self.buckets.last().is_some_and(|bucket| bucket.peers.is_empty()) {
            self.buckets.pop();
        }
    }
}

/// Members whose round-trip times say something of the others'.
const LEAST_SAMPLES: usize = 4;

fn bucket_index(me: &NodeId, id: &NodeId) -> usize {
    me.distance(id).leading_zeros().min(8 * ID_BYTES - 1)
}

fn levels() -> impl Iterator<Item = Level> {
    (0..MAX_LEVELS as u8).filter_map(Level::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use crate::peer::Services;

    const LEVEL_1: Level = Level::new(1).expect("there is a level 1");

    fn peer(number: u16) -> Peer {
        Peer::new(([10, 0, (number >> 8) as u8, number as u8], 4000).into(), Services::NONE)
    }

    /// The tables of node 0 after it has heard the nodes 1 to `count`, all of which share its global cluster.
    fn routing_of(count: u16) -> Routing {
        let mut routing = Routing::new(peer(0).id, &Config::default());
        for number in 1..=count {
            routing.heard(Instant::START, peer(number), None, &Header::default(), |level| level == Level::GLOBAL);
        }
        routing
    }

    #[test]
    fn a_bucket_keeps_its_first_peers() {
        let routing = routing_of(1000);
        let buckets = &routing.tables[0].buckets;
        assert!(buckets.iter().all(|bucket| bucket.peers.len() <= 8 && bucket.spares.len() <= 8));
        assert!(routing.get(&peer(1).id).is_some());
        assert_eq!(routing.members(Level::GLOBAL).count(), routing.all().count());
        let spares: usize = buckets.iter().map(|bucket| bucket.spares.len()).sum();
        assert_eq!(routing.known.len(), routing.all().count() + spares);
        assert_eq!(routing.members(LEVEL_1).count(), 0);
    }

    #[test]
    fn the_spare_that_was_heard_last_takes_the_place_of_a_peer_that_fails() {
        let mut routing = routing_of(1000);
        let spare = *routing.tables[0].buckets[0].spares.last().unwrap();
        let first = routing.tables[0].buckets[0].peers[0];
        assert!(!routing.has_room_for(spare, |_| true) && routing.all().all(|known| known.peer.id != spare));
        routing.remove(&first);
        assert!(routing.all().any(|known| known.peer.id == spare));
        // All peers of the bucket fail, and then all spares: nothing stays behind.
        while let Some(id) = routing.tables[0].buckets[0].peers.first().copied() {
            routing.remove(&id);
        }
        assert!(routing.known.keys().all(|id| bucket_index(&routing.me, id) > 0));
    }

    #[test]
    fn the_peers_that_last_are_spread_over_the_buckets() {
        let routing = routing_of(1000);
        let depth = routing.depth(Level::GLOBAL);
        let lasting = routing.lasting(depth);
        let buckets: std::collections::BTreeSet<usize> =
            lasting.iter().map(|peer| bucket_index(&routing.me, &peer.id)).collect();
        let filled = routing.tables[0].buckets.iter().filter(|bucket| !bucket.peers.is_empty()).count();
        assert_eq!((lasting.len(), buckets.len()), (depth, filled));
        assert!(lasting.contains(&peer(1)));
        assert_eq!(routing.lasting(10_000).len(), routing.all().count());
    }

    #[test]
    fn the_size_is_exact_for_few_and_near_for_many() {
        for few in [0, 1, 5] {
            assert_eq!(routing_of(few).size(Level::GLOBAL), u32::from(few) + 1);
        }
        for many in [100u16, 1000, 10_000] {
            let size = f64::from(routing_of(many).size(Level::GLOBAL));
            assert!((0.3..3.0).contains(&(size / f64::from(many))), "{many} nodes seem {size}");
        }
    }

    #[test]
    fn an_answer_holds_only_nearer_peers_and_the_nearest() {
        let routing = routing_of(500);
        for number in 0..50u16 {
            let key = Id::hash(&[&number.to_be_bytes()]);
            let mine = peer(0).id.distance(&key);
            let answer = routing.nearer(Level::GLOBAL, &key, &mine.halved(2), 4);
            assert!(answer.len() <= 4);
            assert!(answer.iter().all(|peer| peer.id.distance(&key) < mine));
            let nearest =
                routing.members(Level::GLOBAL).map(|known| known.peer).min_by_key(|peer| peer.id.distance(&key));
            let nearest = nearest.filter(|peer| peer.id.distance(&key) < mine);
            assert!(nearest.is_none_or(|nearest| answer.contains(&nearest)));
        }
    }

    #[test]
    fn a_peer_that_leaves_a_cluster_leaves_its_table() {
        let mut routing = routing_of(3);
        routing.heard(Instant::START, peer(1), None, &Header::default(), |level| level <= LEVEL_1);
        assert_eq!(routing.members(LEVEL_1).count(), 1);
        routing.heard(Instant::START, peer(1), None, &Header::default(), |level| level == Level::GLOBAL);
        assert_eq!(routing.members(LEVEL_1).count(), 0);
        assert!(routing.get(&peer(1).id).is_some());
        routing.remove(&peer(1).id);
        assert!(routing.get(&peer(1).id).is_none());
        assert_eq!(routing.members(Level::GLOBAL).count(), 2);
    }

    #[test]
    fn an_idle_node_is_small() {
        assert!(size_of::<Routing>() < 512);
        assert_eq!(routing_of(0).depth(Level::GLOBAL), 0);
    }
}
