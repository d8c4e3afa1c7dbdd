//! [`Dsht`]: one node's part in the index, as a state machine without I/O.
//!
//! It takes datagrams, the passing of time and the application's requests in, and gives datagrams and outcomes out. Its
//! methods come in four families: `handle_*` is the world speaking; [`join`](Dsht::join), [`get`](Dsht::get),
//! [`put`](Dsht::put), [`claim`](Dsht::claim), [`remove`](Dsht::remove), [`nodes`](Dsht::nodes), [`announce`](Dsht::announce) and
//! [`leave`](Dsht::leave) the application;
//! `poll_*` gives the answers; the rest are getters. Output is queued: draining it late is slow, never wrong.
//!
//! The parts in `dsht/` each own one idea and no clock, queue or other part. What they need for a call is lent to
//! them; the decisions are taken here, and in six files that are more of `Dsht`: `serve` answers others, `exchange` asks
//! them, `running` carries operations, `gossip` announcements, `settle` and `upkeep` are what a node does by itself.

mod admission;
mod candidates;
mod claim;
mod cluster;
mod exchange;
mod get;
mod gone;
mod gossip;
mod hearsay;
mod hints;
mod informants;
mod join;
mod lookup;
mod meter;
mod news;
mod nodes;
mod op;
mod put;
mod quota;
mod rates;
mod recent;
mod refresh;
mod remove;
mod routing;
mod rpc;
mod rtt;
mod running;
mod serve;
mod settle;
#[cfg(feature = "sim")]
mod simulated;
mod store;
mod token;
mod upkeep;
mod validate;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::api::{ClusterStatus, HintsQuery, MAX_VALUE_BYTES, NodesQuery, OpId, Outcome, Snapshot, Stored, Value};
use crate::config::Config;
use crate::hint;
use crate::id::{ID_BYTES, Id, Key, NodeId};
use crate::level::{Level, Levels, MAX_LEVELS};
use crate::message::{Body, Clusters};
use crate::peer::Peer;
use crate::seal::Seal;
use crate::stats::Stats;
use crate::time::Instant;
use crate::wire;

use admission::Admission;
use candidates::Candidates;
use claim::Claim;
use cluster::Membership;
use get::Get;
use gone::Gone;
use hearsay::Hearsay;
use hints::Hints;
use informants::Informants;
use join::Join;
use lookup::Lookup;
use meter::Meter;
use news::News;
use nodes::{Nodes, neighbour, shares};
use op::Op;
use put::Put;
use rates::{Allowance, Rates};
use recent::Recent;
use remove::{Lost, Published, Remove};
use routing::Routing;
use rpc::{Expired, Rpcs};
use store::Store;
use walk::{Purpose, Walk};

/// One node of the index.
#[derive(Debug)]
pub struct Dsht {
    config: Arc<Config>,
    me: Peer,
    rng: ChaCha12Rng,
    membership: Membership,
    candidates: Candidates,
    /// What the header says: `membership`, with the sizes that the tables tell.
    clusters: Clusters,
    routing: Routing,
    store: Store,
    published: Published,
    /// What is to be put again, since its holder has gone.
    lost: VecDeque<Lost>,
    own_puts: BTreeMap<Key, Meter>,
    rpcs: Rpcs,
    seal: Seal,
    rates: Rates,
    admission: Admission,
    /// Drawn anew with each start: what this node held before is gone.
    instance: u32,
    /// Who is being pinged for the tables' sake.
    verifying: BTreeSet<NodeId>,
    /// Those of them that others have named.
    hearsay: Hearsay,
    /// Who has lately not answered at all: others may go on naming it for a while.
    silent: Recent<NodeId, ()>,
    /// After how long somebody who was never heard is late, at each level.
    first_late: [Duration; MAX_LEVELS],
    ops: BTreeMap<OpId, Running>,
    next_op: u64,
    contacts: Vec<SocketAddr>,
    born: Instant,
    /// The routers in front of this node, nearest first.
    routers: Vec<IpAddr>,
    next_hint: Instant,
    next_weigh: Instant,
    gone: Gone,
    news: News,
    informants: Informants,
    next_maintenance: Instant,
    next_refresh: Instant,
    refresh_after: Duration,
    outputs: VecDeque<Output>,
    stats: Stats,
}

/// What a [`Dsht`] wants done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A request of the application has ended.
    Done {
        /// Which one.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
    /// Somebody announces something that the application wants to hear: see [`Dsht::listen`]. Nobody has checked it.
    Announced {
        /// Its name, for the decision.
        id: Id,
        /// Its bytes.
        message: Arc<[u8]>,
        /// How long ago it was announced, at least, if its carriers are right.
        age: Duration,
    },
}

/// What a part is lent for one call.
struct Lent<'a> {
    now: Instant,
    config: &'a Config,
    me: Peer,
    clusters: &'a Clusters,
    routing: &'a Routing,
    store: &'a mut Store,
    news: &'a mut News,
    rng: &'a mut ChaCha12Rng,
}

/// An operation under way.
#[derive(Debug)]
struct Running {
    op: Op,
    /// Whether the application waits for the outcome, or the node does it for itself.
    reported: bool,
}

impl Dsht {
    /// The node `me`, alone. `seed` decides every random choice and must be secret on a real network: request ids are
    /// drawn from it. Later instants never go back.
    pub fn new(config: Arc<Config>, me: Peer, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let membership = Membership::new(&config, now, || random_id(&mut rng));
        let mut secret = [0; 16];
        rng.fill_bytes(&mut secret);
        let instance = rng.next_u32();
        let mut dsht = Self {
            candidates: Candidates::default(),
            clusters: Clusters::default(),
            routing: Routing::new(me.id, &config),
            store: Store::default(),
            published: Published::default(),
            lost: VecDeque::new(),
            own_puts: BTreeMap::new(),
            rpcs: Rpcs::default(),
            seal: Seal::new(config.network_key.as_ref()),
            rates: Rates::default(),
            admission: Admission::new(secret),
            instance,
            verifying: BTreeSet::new(),
            hearsay: Hearsay::default(),
            silent: Recent::new(SILENCE, MAX_SILENT),
            first_late: [config.initial_rto; MAX_LEVELS],
            ops: BTreeMap::new(),
            next_op: 0,
            contacts: Vec::new(),
            born: now,
            routers: Vec::new(),
            next_hint: now + FIRST_HINT,
            next_weigh: now,
            gone: Gone::default(),
            news: News::default(),
            informants: Informants::default(),
            next_maintenance: now + config.maintenance(),
            next_refresh: now + FIRST_REFRESH.min(config.refresh),
            refresh_after: FIRST_REFRESH.min(config.refresh),
            outputs: VecDeque::new(),
            stats: Stats::default(),
            config,
            me,
            rng,
            membership,
        };
        dsht.update_clusters(now);
        dsht
    }

    /// A datagram has come from `from`. Whatever is in it, this does not fail: junk is counted and dropped.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.stats.datagrams_received += 1;
        self.stats.bytes_received += bytes.len() as u64;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        // First of all: what a stranger to the network says is not looked at, nor counted against an address that it names.
        let sealed = match self.seal.check(bytes) {
            Ok(sealed) => sealed,
            Err(error) => return self.drop_datagram(error.name()),
        };
        let allowance = Allowance::per_second(self.config.requests_per_prefix);
        if !wire::is_answer(sealed) && !self.rates.admit(allowance, now, from.ip()) {
            return self.drop_datagram("flood");
        }
        match self.seal.decode(sealed) {
            Err(error) => self.drop_datagram(error.name()),
            Ok(_) if from == self.me.addr => self.drop_datagram("own"),
            Ok(message) => {
                let peer = Peer::new(from, message.header.services);
                match message.body {
                    Body::Request(request) => {
                        self.serve(now, peer, &message.header, message.request_id, request, sealed.len());
                    }
                    Body::Response(response) => match self.rpcs.finish(message.request_id, from) {
                        Some(pending) => self.answered(now, peer, &message.header, pending, response),
                        None => self.drop_datagram("unasked"),
                    },
                    Body::Proof => self.proven(now, peer, &message.header),
                    // Anybody can write a peer's address on a datagram: see for ourselves whether it has gone.
                    Body::Leave => self.verify_known(now, &peer.id),
                }
            }
        }
    }

    /// Time has passed, perhaps beyond [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(expired) = self.rpcs.expire(now) {
            match expired {
                Expired::Late(pending) => self.late(now, &pending),
                Expired::Repeat(id, pending) => self.request(now, pending.to, id, pending.request),
                Expired::Failed(pending) => self.gave_up(now, &pending),
            }
        }
        if now >= self.next_maintenance {
            self.next_maintenance = now + self.config.maintenance();
            self.maintain(now);
        }
        if now >= self.next_refresh {
            self.refresh_after = (2 * self.refresh_after).min(self.config.refresh);
            self.next_refresh = now + self.refresh_after;
            for level in self.config.levels().nearest_first() {
                self.refresh(now, level);
                self.look_around(now, level);
                self.weigh(now, level);
            }
            self.catch_up(now);
        }
    }

    /// Joins the network by any of `contacts`, which are also tried again whenever this node knows nobody.
    pub fn join(&mut self, now: Instant, contacts: &[SocketAddr]) -> OpId {
        self.contacts = contacts.to_vec();
        let join = Join::new(self.me, contacts);
        self.start(now, Op::Join(join), true)
    }

    /// Some of the live values under `key`, from the nearest of `levels` that has any: [`Outcome::Get`].
    pub fn get(&mut self, now: Instant, key: Key, levels: Levels) -> OpId {
        match self.walk(key, Purpose::Get, levels) {
            Some(walk) => self.start(now, Op::Get(Get::new(walk)), true),
            None => self.done(Outcome::Get(Default::default())),
        }
    }

    /// Stores `value` under `key` for `ttl`, once at each of `levels`: [`Outcome::Put`]. Put again, it is renewed.
    ///
    /// Held back if this node has let out β puts for the key in the past minute: without that the load on the node
    /// nearest to a popular key would grow with the rate of its puts.
    pub fn put(&mut self, now: Instant, key: Key, value: Value, ttl: Duration, levels: Levels) -> OpId {
        if !self.own_puts.entry(key).or_insert_with(|| Meter::new(now)).take(&self.config, now) {
            self.stats.puts_held_back += 1;
            return self.done(Outcome::Put(Stored { held_back: true, ..Stored::default() }));
        }
        match self.walk(key, Purpose::Put, levels) {
            Some(walk) => self.start(now, Op::Put(Put::new(walk, value, ttl)), true),
            None => self.done(Outcome::Put(Stored::default())),
        }
    }

    /// Claims `key`: [`Outcome::Claim`]. A get that finds nothing leaves `value` in its place, from the nearest of `levels`
    /// outwards, so that whoever asks next is sent here; only the first of the whole network is told of nobody.
    ///
    /// The claim lives for `ttl`, at most a minute; [`put`](Self::put) renews it, [`remove`](Self::remove) ends it. Values in
    /// `refused`, the last eight, are not given (again): those of nodes that do not answer or do not have it. Who has named
    /// nothing but such values twice is passed over.
    pub fn claim(
        &mut self,
        now: Instant,
        key: Key,
        value: Value,
        ttl: Duration,
        levels: Levels,
        refused: &[Value],
    ) -> OpId {
        let lookup = Lookup::new(self.me.id, key).avoiding(self.informants.liars(now, &key, refused));
        match Walk::new(lookup, Purpose::Claim, levels.and(self.config.levels())) {
            Some(walk) => self.start(now, Op::Claim(Claim::new(walk, value, ttl, refused)), true),
            None => self.done(Outcome::Claim(Default::default())),
        }
    }

    /// Withdraws a value that this node has put, or claimed with, wherever it may still live: [`Outcome::Removed`].
    ///
    /// A put or claim of it that is still under way ends where it stands.
    pub fn remove(&mut self, now: Instant, key: Key, value: Value) -> OpId {
        let entry = (key, value);
        let is_same = |op: &Op| match op {
            Op::Put(put) => put.entry() == (entry.0, &entry.1),
            Op::Claim(claim) => claim.entry() == (entry.0, &entry.1),
            _ => false,
        };
        let same: Vec<OpId> = self.ops.iter().filter(|(_, running)| is_same(&running.op)).map(|(id, _)| *id).collect();
        for id in same {
            let Some(Running { mut op, reported }) = self.ops.remove(&id) else { continue };
            self.note_published(now, &op);
            match &mut op {
                Op::Put(put) => self.finish(id, reported, Outcome::Put(put.abandon())),
                Op::Claim(claim) => self.finish(id, reported, Outcome::Claim(claim.abandon())),
                _ => {}
            }
        }
        self.lost.retain(|lost| (&lost.key, &lost.value) != (&entry.0, &entry.1));
        let holders = self.published.withdraw(now, &entry);
        self.start(now, Op::Remove(Remove::new(entry.0, entry.1, holders)), true)
    }

    /// Live members of one of this node's clusters, verified first-hand lately: [`Outcome::Nodes`].
    pub fn nodes(&mut self, now: Instant, query: NodesQuery) -> OpId {
        self.start(now, Op::Nodes(Nodes::new(query)), true)
    }

    /// Live nodes near an address, of whatever cluster, that hints name and that have just answered this node:
    /// [`Outcome::Nodes`], by their round-trip time to this node.
    pub fn hints(&mut self, now: Instant, query: &HintsQuery) -> OpId {
        self.start(now, Op::Hints(Hints::new(query)), true)
    }

    /// These are the routers in front of this node, the nearest first. Others that look for nodes behind them find this
    /// one from now on, and it finds them; if it is alone, as soon as it has joined.
    pub fn set_routers(&mut self, now: Instant, routers: &[IpAddr]) {
        self.routers = routers.iter().take(hint::MAX_ROUTERS).copied().collect();
        // Put while nobody is known, hints would end in this node's own store.
        if self.routing.members(Level::GLOBAL).next().is_some() {
            self.look_for_neighbours(now);
            self.put_hints(now);
        }
    }

    /// Says goodbye to everybody who knows this node. The caller drops it when the output is drained.
    pub fn leave(&mut self) {
        let known: Vec<SocketAddr> = self.routing.all().map(|known| known.peer.addr).collect();
        for addr in known {
            self.tell(addr, None, Body::Leave);
        }
    }

    /// What is to be done next, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Instant {
        let maintenance = self.next_maintenance.min(self.next_refresh);
        self.rpcs.next_deadline().map_or(maintenance, |deadline| deadline.min(maintenance))
    }

    /// Whether so many requests are under way that new ones should wait.
    pub fn is_busy(&self) -> bool {
        self.ops.len() >= self.config.operations as usize
    }

    /// Who this node is.
    pub fn me(&self) -> Peer {
        self.me
    }

    /// Peers that have lasted, some from each part of the tables: whoever starts again with these finds its network.
    pub fn lasting_peers(&self) -> Vec<Peer> {
        self.routing.lasting(MAX_LASTING)
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What this node knows of itself and its neighbours at `now`.
    pub fn snapshot(&mut self, now: Instant) -> Snapshot {
        let lent = self.lent(now);
        let mut neighbours: Vec<_> = lent.routing.all().filter_map(|known| neighbour(&lent, known)).collect();
        neighbours.sort_by_key(|near| (near.rtt, near.peer.id));
        let levels: Vec<Level> = self.config.levels().nearest_first().collect();
        let cluster = |level: Level| ClusterStatus {
            level,
            diameter: self.config.diameter(level),
            cluster: self.clusters.id_at(level).unwrap_or_default(),
            size: self.routing.size(level),
            known: self.routing.members(level).count(),
        };
        Snapshot {
            me: self.me,
            clusters: levels.into_iter().rev().map(cluster).collect(),
            neighbours,
            routers: self.routers.clone(),
            stored_keys: self.store.keys(),
            stored_values: self.store.len(),
            published_values: self.published.len(),
            stats: self.stats.clone(),
        }
    }

    fn walk(&self, key: Key, purpose: Purpose, levels: Levels) -> Option<Walk> {
        Walk::new(Lookup::new(self.me.id, key), purpose, levels.and(self.config.levels()))
    }

    fn update_clusters(&mut self, now: Instant) {
        let routing = &self.routing;
        self.clusters = self.membership.clusters(now, |level| routing.size(level));
    }

    fn shares(&self, theirs: &Clusters, level: Level) -> bool {
        self.config.levels().contains(level) && shares(&self.clusters, theirs, level)
    }

    fn drop_datagram(&mut self, why: &'static str) {
        *self.stats.dropped.entry(why).or_default() += 1;
    }

    fn lent(&mut self, now: Instant) -> Lent<'_> {
        Lent {
            now,
            config: &self.config,
            me: self.me,
            clusters: &self.clusters,
            routing: &self.routing,
            store: &mut self.store,
            news: &mut self.news,
            rng: &mut self.rng,
        }
    }
}

fn random_id(rng: &mut ChaCha12Rng) -> Id {
    let mut bytes = [0; ID_BYTES];
    rng.fill_bytes(&mut bytes);
    Id::from_bytes(bytes)
}

/// When a node puts its hints for the second time: when it joined, its tables and clusters were just beginning.
const FIRST_HINT: Duration = Duration::from_secs(60);
/// Peers to start again with: some of them will have gone.
const MAX_LASTING: usize = 32;
/// How long whoever has not answered is not asked again because others name it: they notice by and by.
const SILENCE: Duration = Duration::from_secs(30);
/// Such peers that are remembered.
const MAX_SILENT: usize = 1024;
/// Near peers told at once of a move to another cluster, or asked at once for theirs; the others' turn comes by and by.
const MAX_TOLD: usize = 16;
/// When a new node refreshes its tables for the first time; after twice as long the next time, up to `refresh`. Nodes
/// that start together have hardly anybody to learn of each other from at first.
const FIRST_REFRESH: Duration = Duration::from_secs(1);

const _: () = assert!(MAX_VALUE_BYTES < wire::MAX_DATAGRAM_BYTES / 16, "an answer holds several values");
