//! [`Dsht`]: one node's part in the index, as a state machine without I/O.
//!
//! It takes datagrams, the passing of time and the application's requests in, and gives datagrams and outcomes out. Its
//! methods come in four families: `handle_*` is the world speaking; [`join`](Dsht::join), [`get`](Dsht::get),
//! [`put`](Dsht::put), [`claim`](Dsht::claim), [`remove`](Dsht::remove), [`nodes`](Dsht::nodes) and [`leave`](Dsht::leave) the application;
//! `poll_*` gives the answers; the rest are getters. Output is queued: draining it late is slow, never wrong.
//!
//! The parts in `dsht/` each own one idea and no clock, queue or other part. What they need for a call is lent to
//! them; the decisions are taken here.

mod admission;
mod candidates;
mod claim;
mod cluster;
mod get;
mod gone;
mod hearsay;
mod hints;
mod informants;
mod join;
mod lookup;
mod meter;
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
mod serve;
mod settle;
#[cfg(feature = "sim")]
mod simulated;
mod store;
mod token;
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
use crate::id::{Distance, ID_BYTES, Id, Key, NodeId};
use crate::level::{Level, Levels, MAX_LEVELS};
use crate::message::{Body, Clusters, Header, Message, Request, Response, Token};
use crate::peer::{Peer, Services};
use crate::seal::Seal;
use crate::stats::Stats;
use crate::time::Instant;
use crate::wire;

use admission::{Admission, fitted};
use candidates::Candidates;
use claim::Claim;
use cluster::{Membership, levels_from_1};
use get::Get;
use gone::Gone;
use hearsay::Hearsay;
use hints::Hints;
use informants::Informants;
use join::Join;
use lookup::Lookup;
use meter::Meter;
use nodes::{Nodes, neighbour, shares};
use op::{Next, Op};
use put::Put;
use rates::Rates;
use recent::Recent;
use refresh::Refresh;
use remove::{Lost, Published, Remove};
use routing::{Known, Routing};
use rpc::{Expired, Owner, Pending, Rpcs};
use store::Store;
use token::TOKEN_LIFE;
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
    /// How long to wait at each level for somebody who was never heard.
    first_rto: [Duration; MAX_LEVELS],
    ops: BTreeMap<OpId, Running>,
    next_op: u64,
    contacts: Vec<SocketAddr>,
    born: Instant,
    /// The routers in front of this node, nearest first.
    routers: Vec<IpAddr>,
    next_hint: Instant,
    next_weigh: Instant,
    gone: Gone,
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
}

/// What a part is lent for one call.
struct Lent<'a> {
    now: Instant,
    config: &'a Config,
    me: Peer,
    clusters: &'a Clusters,
    routing: &'a Routing,
    store: &'a mut Store,
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
            first_rto: [config.initial_rto; MAX_LEVELS],
            ops: BTreeMap::new(),
            next_op: 0,
            contacts: Vec::new(),
            born: now,
            routers: Vec::new(),
            next_hint: now + FIRST_HINT,
            next_weigh: now,
            gone: Gone::default(),
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
        dsht.announce(now);
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
        if !wire::is_answer(sealed) && !self.rates.admit(&self.config, now, from.ip()) {
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
                Expired::Slow(id, pending) => self.repeat(now, id, pending),
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
        match Walk::new(lookup, Purpose::Get, levels.and(self.config.levels())) {
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
    /// one from now on, and it finds them.
    pub fn set_routers(&mut self, now: Instant, routers: &[IpAddr]) {
        self.routers = routers.iter().take(hint::MAX_ROUTERS).copied().collect();
        self.look_for_neighbours(now);
        self.put_hints(now);
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
            stored_keys: self.store.keys(),
            stored_values: self.store.len(),
            published_values: self.published.len(),
            stats: self.stats.clone(),
        }
    }

    /// Answers a request of `length` bytes, and takes an interest in whoever sent it.
    fn serve(&mut self, now: Instant, peer: Peer, header: &Header, request_id: u64, request: Request, length: usize) {
        *self.stats.requests.entry(request.name()).or_default() += 1;
        let shows_token = header.token.is_some_and(|token| self.admission.shown(now, peer.addr, &token).is_some());
        let is_fresh = |known: &Known| now.saturating_since(known.heard) < TOKEN_LIFE;
        let is_known = self.routing.get(&peer.id).is_some_and(is_fresh);
        let is_proven = shows_token || is_known || self.admission.is_proven(now, peer.addr);
        // What may follow changes the store.
        let wants_token = matches!(request, Request::Get { .. } | Request::Put { .. } | Request::Claim { .. });
        let response = match request.level() {
            Some(level) if !self.shares(&header.clusters, level) && !request.is_withdrawal() => Response::OtherCluster,
            _ if !request.changes_store() => serve::serve(&mut self.lent(now), peer, is_proven, request),
            // A table knows who is there, not who has sent this datagram.
            _ if !shows_token => Response::Challenge,
            _ => match self.admission.answered(now, peer.addr, request_id) {
                Some(response) => response.clone(),
                None => {
                    let response = serve::serve(&mut self.lent(now), peer, is_proven, request);
                    self.admission.note_answer(now, peer.addr, request_id, response.clone());
                    response
                }
            },
        };
        if matches!(response, Response::Room { full: true, loaded: true, .. }) {
            self.stats.puts_turned_back += 1;
        }
        // What a request says of its sender is hearsay until the sender proves to be there: the address may be made up.
        let wants_proof = match self.routing.get(&peer.id) {
            Some(known) => !known.clusters.from_l1().iter().map(|info| info.id).eq(ids(&header.clusters)),
            None => self.routing.has_room_for(peer.id, |level| self.shares(&header.clusters, level)),
        };
        let needs_token = wants_proof || !is_proven || response == Response::Challenge || (wants_token && !shows_token);
        let token = needs_token.then(|| self.admission.issue(now, peer.addr));
        let header = Header { token, wants_proof, ..self.header() };
        let answer = Message { header, request_id, body: Body::Response(response) };
        if is_proven {
            self.send(peer.addr, wire::encode(&answer));
            return;
        }
        match fitted(answer, length) {
            Some(bytes) => self.send(peer.addr, bytes),
            None => {
                let header = Header { token, ..self.header() };
                let challenge = Message { header, request_id, body: Body::Response(Response::Challenge) };
                self.send(peer.addr, wire::encode(&challenge));
            }
        }
    }

    /// A peer has sent back at once the token of an answer: it is there, and so far away.
    fn proven(&mut self, now: Instant, peer: Peer, header: &Header) {
        let age = header.token.and_then(|token| self.admission.shown(now, peer.addr, &token));
        match age.filter(|age| *age <= PROOF_LIFE) {
            // One that is known has its time measured by its answers; a proof could be one sent again.
            Some(_) if self.routing.get(&peer.id).is_some() => self.heard(now, peer, header, None),
            Some(age) => self.heard(now, peer, header, Some(age)),
            None => self.drop_datagram("proof"),
        }
    }

    /// A peer is there, as an answer or a proof has shown, after a round trip of `rtt` if that measures anything.
    fn heard(&mut self, now: Instant, peer: Peer, header: &Header, rtt: Option<Duration>) {
        self.learn_clusters(now, peer, rtt, &header.clusters);
        let (config, mine) = (&self.config, &self.clusters);
        let shared = |level| config.levels().contains(level) && shares(mine, &header.clusters, level);
        let is_first = |level| self.routing.members(level).next().is_none() && shared(level);
        let first: Vec<Level> = levels_from_1().filter(|level| is_first(*level)).collect();
        self.routing.heard(now, peer, rtt, header, shared);
        self.silent.forget(&peer.id);
        if self.published.heard(now, &peer.id, header.instance) {
            // The node is back before anybody missed it, but what it stored is not.
            self.lost.extend(self.published.lost(&peer.id));
        }
        if self.published.has_moved(&peer.id, &header.clusters) {
            self.publish_again(&peer.id, &header.clusters);
        }
        self.announce(now);
        // The way into a cluster that this node has just moved to.
        for level in first {
            self.refresh(now, level);
        }
    }

    /// An answer has come to a request of ours.
    fn answered(&mut self, now: Instant, peer: Peer, header: &Header, pending: Pending, response: Response) {
        let rtt = now.saturating_since(pending.sent);
        self.heard(now, peer, header, (!pending.repeated).then_some(rtt));
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
        }
        match pending.owner {
            Owner::Tables => {
                self.verifying.remove(&peer.id);
                self.hearsay.settled(&peer.id);
            }
            Owner::Op(id) => self.advance(now, id, |op, lent| {
                op.answered(lent, pending.request.level(), &peer, rtt, response);
                op.pass_over(&silent);
            }),
        }
    }

    /// The time-out of a request has passed for the first time, or again: send it once more.
    fn repeat(&mut self, now: Instant, id: u64, pending: Pending) {
        self.request(now, pending.to, id, pending.request);
        if let Owner::Op(op) = pending.owner {
            self.advance(now, op, |op, _| op.slow(&pending.to));
        }
    }

    /// A peer has not answered at all: forget it.
    fn gave_up(&mut self, now: Instant, pending: &Pending) {
        let peer = pending.to;
        self.stats.timeouts += 1;
        self.silent.note(now, peer.id, ());
        if self.routing.remove(&peer.id).is_some() || self.contacts.contains(&peer.addr) {
            self.gone.note(peer);
        }
        self.candidates.forget(&peer.id);
        self.lost.extend(self.published.lost(&peer.id));
        self.announce(now);
        match pending.owner {
            Owner::Tables => {
                self.verifying.remove(&peer.id);
                self.hearsay.settled(&peer.id);
            }
            Owner::Op(id) => self.advance(now, id, |op, lent| op.failed(lent, pending.request.level(), &peer)),
        }
    }

    /// Peers that `informant` told us of: those that the tables have room for are asked whether they are there.
    fn meet(&mut self, now: Instant, level: Level, informant: SocketAddr, peers: &[Peer]) {
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

    fn verify_known(&mut self, now: Instant, id: &NodeId) {
        if let Some(known) = self.routing.get(id) {
            let peer = known.peer;
            self.verify(now, peer);
        }
    }

    /// Pings `peer` for the tables' sake, unless that is being done.
    fn verify(&mut self, now: Instant, peer: Peer) {
        if peer.id != self.me.id && self.verifying.insert(peer.id) {
            self.ask(now, peer, Request::Ping, Owner::Tables);
        }
    }

    /// What has to be done from time to time.
    fn maintain(&mut self, now: Instant) {
        self.store.sweep(now);
        self.admission.sweep(now);
        self.silent.sweep(now);
        self.rates.sweep(now);
        for level in self.config.levels().nearest_first() {
            let typical = self.routing.typical_rtt(level).map_or(self.config.initial_rto, |rtt| rtt * 3 / 2);
            self.first_rto[level.index()] = typical.max(self.config.min_rto).min(self.config.initial_rto);
        }
        self.published.sweep(now);
        self.candidates.sweep(now);
        self.own_puts.retain(|_, meter| !meter.is_idle(now));
        self.repair(now);
        if now >= self.next_hint && self.routing.members(Level::GLOBAL).next().is_some() {
            self.next_hint = now + hint::TTL / 2;
            self.put_hints(now);
        }
        self.announce(now);
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
        if is_alone && !self.contacts.is_empty() && !self.ops.values().any(|running| matches!(running.op, Op::Join(_)))
        {
            let join = Join::new(self.me, &self.contacts);
            self.start(now, Op::Join(join), false);
        }
    }

    /// Puts again what has gone with its holders, a little at a time: a get must find it before its owner renews it.
    fn repair(&mut self, now: Instant) {
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
    fn look_around(&mut self, now: Instant, level: Level) {
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
    fn put_hints(&mut self, now: Instant) {
        for key in hint::keys(self.me.addr.ip(), &self.routers) {
            if let Some(walk) = self.walk(key, Purpose::Put, self.config.levels()) {
                self.start(now, Op::Put(Put::new(walk, hint::value(self.me.addr), hint::TTL)), false);
            }
        }
    }

    /// Pings nodes on this node's own network and behind its routers: who answers is likely to be in a near cluster.
    fn look_for_neighbours(&mut self, now: Instant) {
        let (client, routers) = (self.me.addr.ip(), self.routers.clone());
        let query = HintsQuery { client, routers, count: 0, services: Services::NONE };
        self.start(now, Op::Hints(Hints::new(&query)), false);
    }

    /// Fills the tables of `level` anew, unless that is under way.
    fn refresh(&mut self, now: Instant, level: Level) {
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

    /// Begins `op`, which may end at once.
    fn start(&mut self, now: Instant, op: Op, reported: bool) -> OpId {
        let id = self.new_op();
        self.ops.insert(id, Running { op, reported });
        self.advance(now, id, |_, _| {});
        id
    }

    /// Tells an operation of an event, and does what it wants next.
    fn advance(&mut self, now: Instant, id: OpId, event: impl FnOnce(&mut Op, &Lent<'_>)) {
        // It may have ended: then this is an answer that came too late to matter.
        let Some(mut running) = self.ops.remove(&id) else {
            return;
        };
        event(&mut running.op, &self.lent(now));
        loop {
            match running.op.next(&mut self.lent(now)) {
                Next::Ask(peer, request) => self.ask(now, peer, request, Owner::Op(id)),
                Next::Wait => {
                    self.ops.insert(id, running);
                    return;
                }
                Next::Done(Some(outcome)) => {
                    self.ended(now, &running.op, &outcome);
                    self.finish(id, running.reported, outcome);
                    return;
                }
                Next::Done(None) => {
                    if let Op::Validate(validate) = &running.op {
                        self.validated(now, validate);
                    }
                    return;
                }
            }
        }
    }

    /// Counts what an operation has come to, and acts on it.
    fn ended(&mut self, now: Instant, op: &Op, outcome: &Outcome) {
        match (op, outcome) {
            (_, Outcome::Get(found)) => match found.level {
                Some(level) => *self.stats.gets_found.entry(level.number()).or_default() += 1,
                None => self.stats.gets_empty += 1,
            },
            (Op::Put(put), Outcome::Put(stored)) => {
                self.note_published(now, op);
                if self.config.rules.push_back
                    && put.turned_back()
                    && stored.at.last().is_some_and(|(_, peer)| *peer == self.me)
                    && let Some(meter) = self.own_puts.get_mut(&put.entry().0)
                {
                    meter.push_back();
                }
                let counter =
                    if stored.at.is_empty() { &mut self.stats.puts_failed } else { &mut self.stats.puts_stored };
                *counter += 1;
            }
            (Op::Claim(claim), Outcome::Claim(claimed)) => {
                self.note_published(now, op);
                if let Some(informant) = claim.informant() {
                    self.informants.note(now, claim.entry().0, informant, &claimed.values);
                }
                let counter =
                    if claimed.values.is_empty() { &mut self.stats.claims_first } else { &mut self.stats.claims_given };
                *counter += 1;
            }
            (_, Outcome::Joined { contact: Some(_), .. }) => {
                self.refresh(now, Level::GLOBAL);
                self.look_for_neighbours(now);
                self.put_hints(now);
            }
            _ => {}
        }
    }

    /// Remembers who holds the value that an operation has put, or claimed with.
    fn note_published(&mut self, now: Instant, op: &Op) {
        let ((key, value), ttl, holders) = match op {
            Op::Put(put) => (put.entry(), put.ttl(), put.holders()),
            Op::Claim(claim) => (claim.entry(), claim.ttl(), claim.holders()),
            _ => return,
        };
        // A little longer than it lives there: the request was under way for a while.
        let expires = now + ttl.min(self.config.max_ttl) + Duration::from_secs(1);
        for (level, peer) in holders {
            self.published.stored(now, (key, value.clone()), level, peer, expires);
        }
    }

    fn new_op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// An operation that has ended before it began.
    fn done(&mut self, outcome: Outcome) -> OpId {
        let op = self.new_op();
        self.finish(op, true, outcome);
        op
    }

    fn finish(&mut self, op: OpId, reported: bool, outcome: Outcome) {
        if reported {
            self.outputs.push_back(Output::Done { op, outcome });
        }
    }

    fn ask(&mut self, now: Instant, to: Peer, request: Request, owner: Owner) {
        let id = self.rng.next_u64();
        let (timeout, repeats) = self.patience(&to, request.level());
        self.rpcs.start(now, id, (to, request.clone(), owner), timeout, repeats);
        self.request(now, to, id, request);
    }

    /// Sends a request once more that was answered by a challenge: now there is a token to show.
    fn ask_again(&mut self, now: Instant, pending: Pending) {
        let id = self.rng.next_u64();
        let (timeout, repeats) = self.patience(&pending.to, pending.request.level());
        let (to, request) = (pending.to, pending.request.clone());
        self.rpcs.restart(now, id, pending, timeout, repeats);
        self.request(now, to, id, request);
    }

    /// How long to wait for an answer of `peer` to a request at `level`, and how often to ask it again.
    fn patience(&self, peer: &Peer, level: Option<Level>) -> (Duration, u32) {
        match self.routing.get(&peer.id) {
            Some(known) => (known.rtt.timeout(self.config.initial_rto, self.config.min_rto), REPEATS_KNOWN),
            None => (level.map_or(self.config.initial_rto, |level| self.first_rto[level.index()]), REPEATS_UNKNOWN),
        }
    }

    fn request(&mut self, now: Instant, to: Peer, request_id: u64, request: Request) {
        let header = Header { token: self.admission.token_for(now, to.addr), ..self.header() };
        self.send(to.addr, wire::encode(&Message { header, request_id, body: Body::Request(request) }));
    }

    /// Sends what nobody answers.
    fn tell(&mut self, to: SocketAddr, token: Option<Token>, body: Body) {
        let header = Header { token, ..self.header() };
        self.send(to, wire::encode(&Message { header, request_id: 0, body }));
    }

    /// What every message tells of this node.
    fn header(&self) -> Header {
        Header {
            services: self.me.services,
            clusters: self.clusters.clone(),
            instance: self.instance,
            token: None,
            wants_proof: false,
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        let bytes = self.seal.close(bytes);
        self.stats.datagrams_sent += 1;
        self.stats.bytes_sent += bytes.len() as u64;
        self.outputs.push_back(Output::Send { to, bytes });
    }

    fn walk(&self, key: Key, purpose: Purpose, levels: Levels) -> Option<Walk> {
        Walk::new(Lookup::new(self.me.id, key), purpose, levels.and(self.config.levels()))
    }

    fn announce(&mut self, now: Instant) {
        let routing = &self.routing;
        self.clusters = self.membership.announce(now, |level| routing.size(level));
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
            rng: &mut self.rng,
        }
    }
}

fn ids(clusters: &Clusters) -> impl Iterator<Item = Id> + '_ {
    clusters.from_l1().iter().map(|info| info.id)
}

fn random_id(rng: &mut ChaCha12Rng) -> Id {
    let mut bytes = [0; ID_BYTES];
    rng.fill_bytes(&mut bytes);
    Id::from_bytes(bytes)
}

/// A random distance of a peer in bucket `bucket`: one with that many leading zeros.
fn random_distance(rng: &mut ChaCha12Rng, bucket: usize) -> Distance {
    let mut bytes = *random_id(rng).as_bytes();
    let (byte, bit) = (bucket / 8, bucket % 8);
    bytes[..byte].fill(0);
    bytes[byte] = (bytes[byte] & (0xff >> bit)) | (0x80 >> bit);
    Distance::from_bytes(bytes)
}

/// When a node puts its hints for the second time: when it joined, its tables and clusters were just beginning.
const FIRST_HINT: Duration = Duration::from_secs(60);
/// How often a request to a known peer is sent again before the peer is forgotten.
const REPEATS_KNOWN: u32 = 2;
/// The same for a peer that has never answered: it need not exist.
const REPEATS_UNKNOWN: u32 = 1;
/// Peers to start again with: some of them will have gone.
const MAX_LASTING: usize = 32;
/// A proof comes back within a round trip. An older one is late, or a copy: what it says of the time is not believed.
const PROOF_LIFE: Duration = Duration::from_secs(2);
/// How long whoever has not answered is not asked again because others name it: they notice by and by.
const SILENCE: Duration = Duration::from_secs(30);
/// Such peers that are remembered.
const MAX_SILENT: usize = 1024;
/// Values put again in one round of maintenance.
const MAX_REPAIRS: usize = 32;
/// Quiet peers pinged in one round of maintenance.
const MAX_PINGS: usize = 32;
/// Near peers told at once of a move to another cluster, or asked at once for theirs; the others' turn comes by and by.
const MAX_TOLD: usize = 16;
/// When a new node refreshes its tables for the first time; after twice as long the next time, up to `refresh`. Nodes
/// that start together have hardly anybody to learn of each other from at first.
const FIRST_REFRESH: Duration = Duration::from_secs(1);

const _: () = assert!(MAX_VALUE_BYTES < wire::MAX_DATAGRAM_BYTES / 16, "an answer holds several values");
