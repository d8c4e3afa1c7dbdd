//! A far end for tests: a map with the TTL rules of the real index, shared by any number of handles.
//!
//! It has no network, no levels but the global one, and no clock but tokio's, which tests pause. Everybody is everybody's
//! neighbour: all who listen hear of an announcement, whether it is passed on or not. Where levels are what matters,
//! [`fixed`] has them, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{
    Claimed, ClusterStatus, Found, HintsQuery, MAX_ANNOUNCEMENT_BYTES, MAX_KEEP, Neighbour, NodesQuery, Snapshot,
    Stored, Value,
};
use crate::handle::{Announced, Command, DshtHandle};
use crate::hint;
use crate::id::{Id, Key};
use crate::level::{Level, Levels};
use crate::peer::Peer;
use crate::stats::Stats;

/// A network of nodes that all see one map.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// In the order in which they came.
    values: BTreeMap<Key, Vec<Held>>,
    peers: Vec<Peer>,
    routers: BTreeMap<SocketAddr, Vec<IpAddr>>,
    /// By their hash.
    announcements: BTreeMap<Id, Announcement>,
    listeners: BTreeMap<SocketAddr, mpsc::Sender<Announced>>,
}

/// Everybody is everybody's neighbour here, so all are told by the one who announces, who also keeps it.
#[derive(Debug)]
struct Announcement {
    message: Vec<u8>,
    announced: Instant,
    expires: Instant,
    /// Who need not be told.
    known_to: BTreeSet<SocketAddr>,
}

#[derive(Debug)]
struct Held {
    value: Value,
    expires: Instant,
    /// Its owner has claimed the key, and does not have yet what it stands for.
    is_claim: bool,
}

impl MemoryNetwork {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for the node `me`, answered by a task of the current tokio runtime until its last clone is dropped.
    ///
    /// `me` counts as a live neighbour of all the others from now on.
    pub fn node(&self, me: Peer) -> DshtHandle {
        let (handle, mut commands) = DshtHandle::channel(64);
        let shared = Arc::clone(&self.shared);
        lock(&shared).peers.push(me);
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                lock(&shared).answer(me, command);
            }
            let mut shared = lock(&shared);
            shared.peers.retain(|peer| *peer != me);
            shared.listeners.remove(&me.addr);
        });
        handle
    }
}

/// A handle for the node `me`, of whose clusters these are the diameters and the other members, from level 0 up, for ever.
///
/// It answers [`DshtHandle::nodes`], [`DshtHandle::hints`] (with nobody) and [`DshtHandle::snapshot`]; to all else it is one that has stopped.
pub fn fixed(me: Peer, levels: Vec<(Option<Duration>, Vec<Peer>)>) -> DshtHandle {
    let (handle, mut commands) = DshtHandle::channel(64);
    let neighbours = |level: Level, peers: &[Peer]| -> Vec<Neighbour> {
        peers.iter().map(|peer| Neighbour { level, ..neighbour(*peer) }).collect()
    };
    let clusters: Vec<(ClusterStatus, Vec<Neighbour>)> = (0..)
        .filter_map(Level::new)
        .zip(levels)
        .map(|(level, (diameter, peers))| {
            let size = u32::try_from(peers.len() + 1).unwrap_or(u32::MAX);
            let status = ClusterStatus { level, diameter, cluster: Id::ZERO, size, known: peers.len() };
            (status, neighbours(level, &peers))
        })
        .collect();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Nodes { query, reply } => {
                    let cluster = clusters.iter().find(|(status, _)| status.level == query.level);
                    let members = cluster.map_or(&[][..], |(_, members)| members).iter();
                    let wanted = members.filter(|member| member.peer.services.contains(query.services));
                    let _ = reply.send(wanted.take(query.count).copied().collect());
                }
                Command::Hints { reply, .. } => drop(reply.send(Vec::new())),
                Command::Snapshot { reply } => {
                    let clusters = clusters.iter().map(|(status, _)| *status).collect();
                    let _ = reply.send(Snapshot { clusters, ..Shared::default().snapshot(me) });
                }
                _ => {}
            }
        }
    });
    handle
}

/// A panic of another test's task does not tear a map that is only ever changed by whole entries.
fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "a far end is where the clock is read")]
    fn answer(&mut self, me: Peer, command: Command) {
        let now = Instant::now();
        self.values.retain(|_, values| {
            values.retain(|held| held.expires > now);
            !values.is_empty()
        });
        // A caller that has given up has closed its channel: nothing is left to do then.
        match command {
            Command::Get { key, reply, .. } => {
                let values: Vec<Value> =
                    self.values.get(&key).into_iter().flatten().map(|held| held.value.clone()).collect();
                let level = (!values.is_empty()).then_some(Level::GLOBAL);
                let _ = reply.send(Found { values, level, hops: Vec::new() });
            }
            Command::Put { key, value, ttl, reply, .. } => {
                let values = self.values.entry(key).or_default();
                let new = Held { value, expires: now + ttl, is_claim: false };
                match values.iter_mut().find(|held| held.value == new.value) {
                    // A put no longer than a claim is one that renews it.
                    Some(held) => *held = Held { is_claim: held.is_claim && ttl <= LONGEST_CLAIM, ..new },
                    None => values.push(new),
                }
                let _ = reply.send(Stored { at: vec![(Level::GLOBAL, me)], ..Stored::default() });
            }
            Command::Claim { key, value, ttl, refused, reply, .. } => {
                let values = self.values.entry(key).or_default();
                let mine = values.iter().position(|held| held.value == value);
                // Of those that only claim, none that might be waiting for this one.
                let is_before = |index: usize| mine.is_none_or(|mine| index < mine);
                let others = values.iter().enumerate().filter(|(index, held)| {
                    held.value != value && !refused.contains(&held.value) && (!held.is_claim || is_before(*index))
                });
                let others: Vec<Value> = others.map(|(_, held)| held.value.clone()).collect();
                match mine {
                    Some(mine) => values[mine].expires = values[mine].expires.max(now + ttl),
                    None => values.push(Held { value, expires: now + ttl, is_claim: true }),
                }
                let (level, granted) = match others.is_empty() {
                    true => (None, Levels::only(Level::GLOBAL)),
                    false => (Some(Level::GLOBAL), Levels::NONE),
                };
                let _ = reply.send(Claimed { values: others, level, granted, hops: Vec::new() });
            }
            Command::Remove { key, value, reply } => {
                let removed = self.values.get_mut(&key).is_some_and(|values| {
                    let before = values.len();
                    values.retain(|held| held.value != value);
                    values.len() < before
                });
                let _ = reply.send(usize::from(removed));
            }
            Command::Nodes { query, reply } => {
                let _ = reply.send(self.neighbours(me, query));
            }
            Command::Hints { query, reply } => {
                let _ = reply.send(self.hinted(me, &query));
            }
            Command::SetRouters { routers, reply } => {
                self.routers.insert(me.addr, routers);
                let _ = reply.send(());
            }
            Command::Announce { message, keep, reply } => {
                if message.len() <= MAX_ANNOUNCEMENT_BYTES {
                    let (known_to, expires) = (BTreeSet::from([me.addr]), now + keep.min(MAX_KEEP));
                    let id = Id::of_announcement(&message);
                    self.announcements.entry(id).or_insert(Announcement { message, announced: now, expires, known_to });
                    self.tell(now);
                }
                let _ = reply.send(());
            }
            Command::Announcements { reply } => {
                let (listener, receiver) = mpsc::channel(WAITING_ANNOUNCEMENTS);
                self.listeners.insert(me.addr, listener);
                self.tell(now);
                let _ = reply.send(receiver);
            }
            Command::Contacts { reply } => {
                let others = self.peers.iter().filter(|peer| **peer != me);
                let _ = reply.send(others.map(|peer| peer.addr).collect());
            }
            Command::Snapshot { reply } => {
                let _ = reply.send(self.snapshot(me));
            }
        }
    }

    /// Tells everybody who listens of what is news to him. Who has no room for more is told with the next ones.
    fn tell(&mut self, now: Instant) {
        for (id, announcement) in &mut self.announcements {
            // Those that are over are remembered, so that nobody hears of them twice.
            if now > announcement.announced && now >= announcement.expires {
                continue;
            }
            for (addr, listener) in &self.listeners {
                // Nobody is farther than one hop: it makes no difference what is passed on.
                let (decisions, _) = mpsc::unbounded_channel();
                let age = now.duration_since(announcement.announced);
                let announced = || Announced::new(*id, announcement.message.clone(), age, decisions);
                if !announcement.known_to.contains(addr) && listener.try_send(announced()).is_ok() {
                    announcement.known_to.insert(*addr);
                }
            }
        }
    }

    /// The first key that somebody's hints share with the client's decides.
    fn hinted(&self, me: Peer, query: &HintsQuery) -> Vec<Neighbour> {
        let hints_of = |peer: &Peer| {
            let routers = self.routers.get(&peer.addr).map(Vec::as_slice).unwrap_or_default();
            hint::keys(peer.addr.ip(), routers)
        };
        let at = |key| {
            let others = self.peers.iter().filter(|peer| **peer != me && peer.services.contains(query.services));
            let near = others.filter(|peer| hints_of(peer).contains(key)).take(query.count);
            near.map(|peer| neighbour(*peer)).collect::<Vec<_>>()
        };
        let keys = hint::keys(query.client, &query.routers);
        keys.iter().map(at).find(|found| !found.is_empty()).unwrap_or_default()
    }

    fn neighbours(&self, me: Peer, query: NodesQuery) -> Vec<Neighbour> {
        let others = self.peers.iter().filter(|peer| **peer != me && peer.services.contains(query.services));
        others.map(|peer| neighbour(*peer)).take(query.count).collect()
    }

    fn snapshot(&self, me: Peer) -> Snapshot {
        let everyone =
            NodesQuery { level: Level::GLOBAL, count: usize::MAX, target: None, services: Default::default() };
        let cluster = ClusterStatus {
            level: Level::GLOBAL,
            diameter: None,
            cluster: Id::ZERO,
            size: u32::try_from(self.peers.len()).unwrap_or(u32::MAX),
            known: self.peers.len(),
        };
        Snapshot {
            me,
            clusters: vec![cluster],
            neighbours: self.neighbours(me, everyone),
            routers: self.routers.get(&me.addr).cloned().unwrap_or_default(),
            stored_keys: self.values.len(),
            stored_values: self.values.values().map(Vec::len).sum(),
            published_values: 0,
            stats: Stats::default(),
        }
    }
}

fn neighbour(peer: Peer) -> Neighbour {
    Neighbour { peer, rtt: RTT, heard: Duration::ZERO, level: Level::GLOBAL }
}

/// The longest a claim lives without being renewed, as in the real index.
const LONGEST_CLAIM: Duration = Duration::from_secs(60);
/// Announcements that wait for one node's application.
const WAITING_ANNOUNCEMENTS: usize = 256;
/// What a neighbour in the map is said to be away.
const RTT: Duration = Duration::from_millis(1);
