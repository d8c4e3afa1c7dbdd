//! Many nodes in one process, on virtual time: the very state machine that runs on sockets, with the datagrams that it
//! would send.
//!
//! Everything hangs on one seed, so that a run can be replayed byte for byte: the same seed gives the same
//! [`Trace`] hash. Latencies come from [`latency`], losses and delays from [`link`]; [`churn`] lets nodes come and go, and
//! [`workload`] says who asks for what; what must hold over all nodes at once is checked by [`check`]. An [`Intruder`] is a
//! node that does as it likes.
//!
//! ```
//! use coral_dsht::sim::Simulation;
//! use coral_dsht::{Config, Id, Levels, Outcome, Value};
//! use std::time::Duration;
//!
//! let mut sim = Simulation::new(42, Config::default());
//! sim.join(20);
//! let (key, value) = (Id::hash(&[b"http://www.example.com/"]), Value::new(b"node 3").unwrap());
//! sim.put(3, key, value.clone(), Duration::from_secs(3600));
//! let found = sim.get(17, key);
//! assert_eq!(found.values, [value]);
//! ```

pub mod check;
pub mod churn;
pub mod latency;
pub mod link;
mod settled;
pub mod swarm;
pub mod trace;
pub mod workload;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::api::{Claimed, Found, OpId, Outcome, Stored, Value};
use crate::config::Config;
use crate::dsht::{Dsht, Output};
use crate::id::Key;
use crate::level::Levels;
use crate::message::{Body, Request};
use crate::peer::{Peer, Services};
use crate::time::Instant;
use crate::wire;

use latency::Map;
use link::{Link, Partition};
use trace::Trace;

/// A network of nodes, numbered from 0 in the order in which they came.
#[derive(Debug)]
pub struct Simulation {
    config: Arc<Config>,
    rng: ChaCha12Rng,
    now: Instant,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    outcomes: BTreeMap<(usize, OpId), (Instant, Outcome)>,
    heard: Vec<Heard>,
    map: Map,
    link: Link,
    partition: Partition,
    /// How many puts for a key have reached which node, for the keys that somebody watches.
    puts: BTreeMap<Key, BTreeMap<usize, u64>>,
    trace: Trace,
}

#[derive(Debug)]
struct Node {
    dsht: Dsht,
    alive: bool,
    /// When its earliest timer event is in the heap.
    timer: Option<Instant>,
    intruder: Option<Box<dyn Intruder>>,
    /// How long announcements that it hears are to be kept; `None` if it passes none on.
    passes_on: Option<Duration>,
}

/// What an intruder does with a datagram that has come to it. The honest node that it has been, and that made it known to
/// the others, still runs beneath it.
pub trait Intruder: fmt::Debug {
    /// `bytes` have come from `from` to `me`. What to send instead of handing them to the honest node; `None` to hand them on.
    fn intercept(
        &mut self,
        now: Instant,
        me: Peer,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Vec<(SocketAddr, Vec<u8>)>>;
}

/// What a node was asked to do has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// By which node.
    pub node: usize,
    /// What it was.
    pub op: OpId,
    /// When it ended.
    pub at: Instant,
    /// How.
    pub outcome: Outcome,
}

/// A node's application was told of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Which node.
    pub node: usize,
    /// When.
    pub at: Instant,
    /// What it was told.
    pub message: Arc<[u8]>,
    /// How old it was said to be.
    pub age: Duration,
}

/// Ordered by time, then by the order in which they were made: ties keep their order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    due: Instant,
    sequence: u64,
    what: What,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Datagram { from: usize, to: usize, bytes: Vec<u8> },
    Timer { node: usize },
}

impl Simulation {
    /// An empty network on a synthetic map, over links without faults.
    pub fn new(seed: u64, config: Config) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let map = Map::synthetic(rng.next_u64());
        Self {
            config: Arc::new(config),
            rng,
            now: Instant::START,
            nodes: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            outcomes: BTreeMap::new(),
            heard: Vec::new(),
            map,
            link: Link::default(),
            partition: Partition::default(),
            puts: BTreeMap::new(),
            trace: Trace::default(),
        }
    }

    /// Where nodes that are added from now on are.
    pub fn set_map(&mut self, map: Map) {
        assert!(self.nodes.is_empty(), "the nodes have their places already");
        self.map = map;
    }

    /// How nodes that are added from now on are configured.
    pub fn set_config(&mut self, config: Config) {
        self.config = Arc::new(config);
    }

    /// What the links do from now on.
    pub fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    /// Cuts these nodes off from all others, which they can reach again after [`heal`](Self::heal).
    pub fn split(&mut self, island: &[usize]) {
        self.partition = Partition::island(island);
    }

    /// Ends a [`split`](Self::split).
    pub fn heal(&mut self) {
        self.partition = Partition::default();
    }

    /// Adds a node that knows nobody; its number.
    pub fn add_node(&mut self) -> usize {
        let number = self.nodes.len();
        let dsht = self.newborn(number);
        self.map.place();
        self.nodes.push(Node { dsht, alive: true, timer: None, intruder: None, passes_on: None });
        self.schedule(number);
        number
    }

    fn newborn(&mut self, number: usize) -> Dsht {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        Dsht::new(Arc::clone(&self.config), Peer::new(addr_of(number), Services::NONE), seed, self.now)
    }

    /// Adds `count` nodes, each of which joins by a few random earlier ones, 100 ms after the one before it; then lets the
    /// network settle for a minute.
    pub fn join(&mut self, count: usize) {
        for _ in 0..count {
            self.join_one();
            self.run_for(Duration::from_millis(100));
        }
        self.run_for(Duration::from_secs(60));
    }

    /// Adds a node that joins by a few random live ones; its number.
    pub fn join_one(&mut self) -> usize {
        let contacts = self.some_contacts();
        let number = self.add_node();
        self.join_by(number, &contacts);
        number
    }

    /// Starts a node again that was stopped, at its old address but with nothing that it knew; it joins by a few live ones.
    pub fn restart(&mut self, number: usize) {
        let contacts = self.some_contacts();
        let dsht = self.newborn(number);
        self.outcomes.retain(|(node, _), _| *node != number);
        self.nodes[number] = Node { dsht, alive: true, timer: None, intruder: None, passes_on: None };
        self.trace.event(self.now, "restart", number, &[]);
        self.schedule(number);
        self.join_by(number, &contacts);
    }

    /// As many as an operator would name: one of them may be dead, or deaf to the newcomer.
    fn some_contacts(&mut self) -> Vec<SocketAddr> {
        (0..CONTACTS).filter_map(|_| self.some_alive()).map(addr_of).collect()
    }

    fn join_by(&mut self, number: usize, contacts: &[SocketAddr]) {
        if !contacts.is_empty() {
            let now = self.now;
            self.act(number, |dsht| dsht.join(now, contacts));
        }
    }

    /// Makes a node do as it likes from now on.
    pub fn corrupt(&mut self, number: usize, intruder: Box<dyn Intruder>) {
        self.nodes[number].intruder = Some(intruder);
    }

    /// Sends a datagram as node `number`, whatever that node itself would say.
    pub fn send_as(&mut self, number: usize, to: SocketAddr, bytes: &[u8]) {
        self.deliver(number, to, bytes.to_vec());
    }

    /// Stops a node without a word: its datagrams are lost from now on.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].alive = false;
        self.trace.event(self.now, "kill", number, &[]);
    }

    /// Lets a node say goodbye and stop.
    pub fn leave(&mut self, number: usize) {
        self.act(number, Dsht::leave);
        self.kill(number);
    }

    /// Puts at every level from node `number`, and runs until it is done.
    pub fn put(&mut self, number: usize, key: Key, value: Value, ttl: Duration) -> Stored {
        let now = self.now;
        let op = self.act(number, |dsht| dsht.put(now, key, value, ttl, Levels::ALL));
        match self.run_until_done(number, op) {
            Outcome::Put(stored) => stored,
            other => unreachable!("the outcome of a put is {other:?}"),
        }
    }

    /// Gets from every level at node `number`, and runs until it is done.
    pub fn get(&mut self, number: usize, key: Key) -> Found {
        let now = self.now;
        let op = self.act(number, |dsht| dsht.get(now, key, Levels::ALL));
        match self.run_until_done(number, op) {
            Outcome::Get(found) => found,
            other => unreachable!("the outcome of a get is {other:?}"),
        }
    }

    /// Claims at every level for node `number`, and runs until it is done.
    pub fn claim(&mut self, number: usize, key: Key, value: Value, ttl: Duration, refused: &[Value]) -> Claimed {
        let now = self.now;
        let op = self.act(number, |dsht| dsht.claim(now, key, value, ttl, Levels::ALL, refused));
        match self.run_until_done(number, op) {
            Outcome::Claim(claimed) => claimed,
            other => unreachable!("the outcome of a claim is {other:?}"),
        }
    }

    /// Withdraws a value that node `number` has put, and runs until it is done: how many confirmed.
    pub fn remove(&mut self, number: usize, key: Key, value: Value) -> usize {
        let now = self.now;
        let op = self.act(number, |dsht| dsht.remove(now, key, value));
        match self.run_until_done(number, op) {
            Outcome::Removed(count) => count,
            other => unreachable!("the outcome of a removal is {other:?}"),
        }
    }

    /// Asks node `number` to do something, without running on.
    pub fn act<T>(&mut self, number: usize, action: impl FnOnce(&mut Dsht) -> T) -> T {
        let result = action(&mut self.nodes[number].dsht);
        self.drain(number);
        result
    }

    /// Lets node `number` listen to announcements, and pass on what it hears, to be kept for so long; or nothing.
    pub fn listen(&mut self, number: usize, passes_on: Option<Duration>) {
        self.nodes[number].passes_on = passes_on;
        let now = self.now;
        self.act(number, |dsht| dsht.listen(now, true));
    }

    /// What nodes have been told since this was last asked, in that order.
    pub fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    /// How operation `op` of node `number` ended, if it has; told once.
    pub fn outcome(&mut self, number: usize, op: OpId) -> Option<Outcome> {
        self.outcomes.remove(&(number, op)).map(|(_, outcome)| outcome)
    }

    /// What has ended since this was last asked, in that order. [`put`](Self::put), [`get`](Self::get) and
    /// [`remove`](Self::remove) take their own outcomes.
    pub fn ended(&mut self) -> Vec<Ended> {
        let outcomes = std::mem::take(&mut self.outcomes).into_iter();
        let mut ended: Vec<Ended> =
            outcomes.map(|((node, op), (at, outcome))| Ended { node, op, at, outcome }).collect();
        ended.sort_by_key(|ended| (ended.at, ended.node, ended.op));
        ended
    }

    /// Counts the puts for `key` that reach each node from now on.
    pub fn watch(&mut self, key: Key) {
        self.puts.insert(key, BTreeMap::new());
    }

    /// How many puts for a watched key have reached which node. The count begins again from nothing.
    pub fn watched(&mut self, key: &Key) -> BTreeMap<usize, u64> {
        self.puts.get_mut(key).map(std::mem::take).unwrap_or_default()
    }

    /// Runs for `span` of virtual time.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The node with this number.
    pub fn node(&self, number: usize) -> &Dsht {
        &self.nodes[number].dsht
    }

    /// How many nodes there have been, the dead included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there has been no node so far.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the node with this number runs.
    pub fn is_alive(&self, number: usize) -> bool {
        self.nodes[number].alive
    }

    /// A random live node; `None` if there is none.
    pub fn some_alive(&mut self) -> Option<usize> {
        // Most are alive, most of the time; then this is short, and long only where few are.
        for _ in 0..self.nodes.len().min(20) {
            let number = self.random(self.nodes.len());
            if self.nodes[number].alive {
                return Some(number);
            }
        }
        let alive: Vec<usize> = self.alive().map(|(number, _)| number).collect();
        (!alive.is_empty()).then(|| alive[self.random(alive.len())])
    }

    /// The number of the node at an address; `None` if there is none.
    pub fn number_of(&self, addr: SocketAddr) -> Option<usize> {
        number_of(addr).filter(|number| *number < self.nodes.len())
    }

    /// All nodes that are alive, with their numbers.
    pub fn alive(&self) -> impl Iterator<Item = (usize, &Dsht)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.alive).map(|(number, node)| (number, &node.dsht))
    }

    /// The round-trip time between two nodes, as the map has it.
    pub fn rtt(&self, a: usize, b: usize) -> Duration {
        self.map.rtt(a, b)
    }

    /// What happened so far, as one number: equal for two runs of one seed.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// A random number below `bound`, from the simulation's seed.
    pub fn random(&mut self, bound: usize) -> usize {
        (self.rng.next_u64() % bound as u64) as usize
    }

    fn run_until_done(&mut self, number: usize, op: OpId) -> Outcome {
        let end = self.now + LONGEST_OPERATION;
        loop {
            if let Some((_, outcome)) = self.outcomes.remove(&(number, op)) {
                return outcome;
            }
            assert!(self.step(end), "an operation of node {number} takes more than {LONGEST_OPERATION:?}");
        }
    }

    /// Lets the next event happen, if it is due by `end`.
    fn step(&mut self, end: Instant) -> bool {
        if self.events.peek().is_none_or(|Reverse(event)| event.due > end) {
            return false;
        }
        let Some(Reverse(event)) = self.events.pop() else {
            return false;
        };
        self.now = event.due;
        match event.what {
            What::Datagram { from, to, bytes } if self.nodes[to].alive => {
                self.trace.event(self.now, "datagram", to, &bytes);
                if !self.puts.is_empty() {
                    self.count_put(to, &bytes);
                }
                self.arrive(addr_of(from), to, &bytes);
            }
            What::Timer { node } if self.nodes[node].alive && self.nodes[node].timer == Some(event.due) => {
                self.nodes[node].timer = None;
                self.nodes[node].dsht.handle_timeout(self.now);
                self.drain(node);
            }
            What::Datagram { .. } | What::Timer { .. } => {}
        }
        true
    }

    fn arrive(&mut self, from: SocketAddr, to: usize, bytes: &[u8]) {
        let node = &mut self.nodes[to];
        let me = node.dsht.me();
        if let Some(sent) = node.intruder.as_mut().and_then(|it| it.intercept(self.now, me, from, bytes)) {
            for (addr, bytes) in sent {
                self.deliver(to, addr, bytes);
            }
            return;
        }
        node.dsht.handle_datagram(self.now, from, bytes);
        self.drain(to);
    }

    fn count_put(&mut self, node: usize, bytes: &[u8]) {
        let Ok(message) = wire::decode(bytes) else { return };
        if let Body::Request(Request::Put { key, .. }) = message.body
            && let Some(counts) = self.puts.get_mut(&key)
        {
            *counts.entry(node).or_default() += 1;
        }
    }

    /// Hands a datagram to the links, which may lose it.
    fn deliver(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let Some(to) = self.number_of(to).filter(|to| !self.partition.separates(from, *to)) else { return };
        let mut copies = self.link.carry(&mut self.rng, (from, to), self.map.rtt(from, to) / 2);
        let (first, second) = (copies.next(), copies.next());
        if let Some(delay) = second {
            self.push(self.now + delay, What::Datagram { from, to, bytes: bytes.clone() });
        }
        if let Some(delay) = first {
            self.push(self.now + delay, What::Datagram { from, to, bytes });
        }
    }

    fn drain(&mut self, number: usize) {
        while let Some(output) = self.nodes[number].dsht.poll_output() {
            match output {
                Output::Send { to, bytes } => self.deliver(number, to, bytes),
                Output::Announced { id, message, age } => {
                    self.heard.push(Heard { node: number, at: self.now, message, age });
                    match self.nodes[number].passes_on {
                        Some(keep) => self.nodes[number].dsht.pass_on(self.now, &id, keep),
                        None => self.nodes[number].dsht.disregard(self.now, &id),
                    }
                }
                Output::Done { op, outcome } => {
                    self.outcomes.insert((number, op), (self.now, outcome));
                }
            }
        }
        self.schedule(number);
    }

    fn schedule(&mut self, number: usize) {
        let due = self.nodes[number].dsht.poll_timeout();
        if self.nodes[number].timer.is_none_or(|timer| timer > due) {
            self.nodes[number].timer = Some(due);
            self.push(due, What::Timer { node: number });
        }
    }

    fn push(&mut self, due: Instant, what: What) {
        self.sequence += 1;
        self.events.push(Reverse(Event { due, sequence: self.sequence, what }));
    }
}

/// The address of a node: its number in network 10.
fn addr_of(number: usize) -> SocketAddr {
    assert!(number < 1 << 24, "network 10 has fewer addresses");
    let octets = (number as u32).to_be_bytes();
    SocketAddr::from(([10, octets[1], octets[2], octets[3]], PORT))
}

/// The number of the node at an address; `None` if no simulated node can be there.
fn number_of(addr: SocketAddr) -> Option<usize> {
    match addr {
        SocketAddr::V4(addr) if addr.port() == PORT && addr.ip().octets()[0] == 10 => {
            Some((addr.ip().to_bits() & 0xff_ffff) as usize)
        }
        _ => None,
    }
}

/// The port of every simulated node.
const PORT: u16 = 4000;
/// Nodes by which a new one joins.
const CONTACTS: usize = 3;
/// No operation may take longer, whatever the faults.
const LONGEST_OPERATION: Duration = Duration::from_secs(60);
