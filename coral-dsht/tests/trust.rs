//! What nobody can do to a node with datagrams alone (design.md §2.8), and what it does about peers that it cannot
//! reach: a few nodes and a stranger, by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coral_dsht::message::{Body, Header, Message, Request, Response};
use coral_dsht::{
    Config, Distance, Dsht, Found, Id, Instant, Key, Level, Levels, MAX_ANNOUNCEMENT_BYTES, Outcome, Output, Peer,
    Services, Stored, Value, wire,
};

const HOUR: Duration = Duration::from_secs(3600);
const ONE_WAY: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

/// Nodes by their number, on links that all take as long. What is sent to any other address is kept for the test.
struct Net {
    config: Arc<Config>,
    now: Instant,
    nodes: BTreeMap<u8, Dsht>,
    /// Datagrams under way: when, then in the order of sending.
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sent: u64,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(u8, u8)>,
    /// A node of a version that has no announcements.
    deaf: Option<u8>,
    /// All that was sent.
    log: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    done: Vec<Outcome>,
    /// What was told to whom; the test decides.
    heard: Vec<(SocketAddr, Id, Vec<u8>)>,
}

fn addr(number: u8) -> SocketAddr {
    ([10, 0, number, 1], 4000).into()
}

fn key() -> Key {
    Id::hash(&[b"key"])
}

fn value(number: u8) -> Value {
    Value::new(&[number]).unwrap()
}

impl Net {
    /// The nodes 1 to `count`, all of which have joined by the first.
    fn of(count: u8) -> Self {
        Self::with(count, Config { diameters: Vec::new(), ..Config::default() })
    }

    fn with(count: u8, config: Config) -> Self {
        let mut net = Self {
            config: Arc::new(config),
            now: Instant::START,
            nodes: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            deaf: None,
            log: Vec::new(),
            done: Vec::new(),
            heard: Vec::new(),
        };
        for number in 1..=count {
            net.start(number, 0);
            net.run(SECOND);
        }
        net.run(10 * SECOND);
        net
    }

    /// Starts node `number`, in place of the one that may have been there.
    fn start(&mut self, number: u8, life: u8) {
        let me = Peer::new(addr(number), Services::NONE);
        let mut seed = [number; 32];
        seed[0] = life;
        let mut dsht = Dsht::new(Arc::clone(&self.config), me, seed, self.now);
        if number > 1 {
            dsht.join(self.now, &[addr(1)]);
        }
        self.nodes.insert(number, dsht);
        self.drain();
    }

    fn node(&mut self, number: u8) -> &mut Dsht {
        self.nodes.get_mut(&number).unwrap()
    }

    fn drain(&mut self) {
        for dsht in self.nodes.values_mut() {
            let from = dsht.me().addr;
            while let Some(output) = dsht.poll_output() {
                match output {
                    Output::Send { to, bytes } => {
                        self.sent += 1;
                        self.log.push((from, to, bytes.clone()));
                        self.flying.insert((self.now + ONE_WAY, self.sent), (from, to, bytes));
                    }
                    Output::Done { outcome, .. } => self.done.push(outcome),
                    Output::Announced { id, message, .. } => self.heard.push((from, id, message.to_vec())),
                }
            }
        }
    }

    /// Delivers a datagram at once, whoever has sent it.
    fn inject(&mut self, from: SocketAddr, to: u8, bytes: &[u8]) {
        let now = self.now;
        self.node(to).handle_datagram(now, from, bytes);
        self.drain();
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let timer = self.nodes.values().map(Dsht::poll_timeout).min().unwrap_or(end);
            let datagram = self.flying.keys().next().map_or(end, |(due, _)| *due);
            self.now = timer.min(datagram).min(end).max(self.now);
            if self.now >= end {
                return;
            }
            while let Some(flying) = self.flying.first_entry().filter(|flying| flying.key().0 <= self.now) {
                let (from, to, bytes) = flying.remove();
                let number = |addr: SocketAddr| match addr.ip() {
                    std::net::IpAddr::V4(ip) => ip.octets()[2],
                    std::net::IpAddr::V6(_) => 0,
                };
                let (a, b) = (number(from), number(to));
                let is_cut = self.cut.contains(&(a.min(b), a.max(b)));
                let is_deaf = [a, b].map(Some).contains(&self.deaf) && (8..=10).contains(&bytes[1]);
                if let Some(node) = self.nodes.get_mut(&b).filter(|_| to == addr(b) && !is_cut && !is_deaf) {
                    node.handle_datagram(self.now, from, &bytes);
                }
                self.drain();
            }
            for node in self.nodes.values_mut() {
                node.handle_timeout(self.now);
            }
            self.drain();
        }
    }

    fn put(&mut self, number: u8, key: Key, value: Value) -> Stored {
        let now = self.now;
        self.done.clear();
        self.node(number).put(now, key, value, HOUR, Levels::ALL);
        self.finish(|outcome| match outcome {
            Outcome::Put(stored) => Some(stored),
            _ => None,
        })
    }

    fn get(&mut self, number: u8, key: Key) -> Found {
        let now = self.now;
        self.done.clear();
        self.node(number).get(now, key, Levels::ALL);
        self.finish(|outcome| match outcome {
            Outcome::Get(found) => Some(found),
            _ => None,
        })
    }

    fn remove(&mut self, number: u8, key: Key, value: Value) -> usize {
        let now = self.now;
        self.done.clear();
        self.node(number).remove(now, key, value);
        self.finish(|outcome| match outcome {
            Outcome::Removed(count) => Some(count),
            _ => None,
        })
    }

    /// Runs until an outcome is the one that is waited for.
    fn finish<T>(&mut self, wanted: impl Fn(Outcome) -> Option<T>) -> T {
        self.drain();
        for _ in 0..10_000 {
            if let Some(outcome) = self.done.drain(..).find_map(&wanted) {
                return outcome;
            }
            self.run(Duration::from_millis(1));
        }
        panic!("nothing has come of it in ten seconds");
    }

    /// Who holds a value under the key.
    fn holders(&self, key: Key) -> Vec<u8> {
        let holds = |dsht: &Dsht| !dsht.stored(self.now, Level::GLOBAL, &key).is_empty();
        self.nodes.iter().filter_map(|(number, dsht)| holds(dsht).then_some(*number)).collect()
    }

    /// A key whose nearest node is `number`, so that it alone is asked to store a value.
    fn key_at(&self, number: u8) -> Key {
        let nearest =
            |key: &Key| *self.nodes.keys().min_by_key(|node| Id::of_node(addr(**node)).distance(key)).unwrap();
        (0..=u8::MAX).map(|salt| Id::hash(&[b"key", &[salt]])).find(|key| nearest(key) == number).unwrap()
    }
}

fn request(request: Request) -> Vec<u8> {
    wire::encode(&Message { header: Header::default(), request_id: 7, body: Body::Request(request) })
}

fn every_request(key: Key) -> Vec<Request> {
    let (level, aim, ttl) = (Level::GLOBAL, Distance::MAX, HOUR);
    vec![
        Request::Ping,
        Request::Find { level, key, aim },
        Request::Get { level, key, aim },
        Request::Put { level, key, ttl, aim },
        Request::Store { level, key, ttl, value: value(9), turned_back: true },
        Request::Remove { level, key, value: value(1) },
        Request::Sample { level },
        Request::Claim { level, key, aim, ttl, is_last: true, value: value(9), refused: vec![value(1)] },
        Request::Offer { id: Id::of_announcement(b"a lie") },
        Request::Fetch { id: Id::of_announcement(&long_news()) },
        Request::CatchUp { known: Vec::new() },
    ]
}

/// What makes an answer longer than a request.
fn long_news() -> Vec<u8> {
    vec![7; MAX_ANNOUNCEMENT_BYTES]
}

#[test]
fn a_made_up_sender_draws_one_datagram_no_longer_than_its_own_and_changes_nothing() {
    let mut net = Net::of(40);
    for number in 1..=8 {
        net.put(number, key(), Value::new(&[&[number][..], &[7; 63]].concat()).unwrap());
    }
    let victim: SocketAddr = ([203, 0, 113, 7], 4000).into();
    let targets: Vec<u8> = net.holders(key());
    for number in targets {
        let now = net.now;
        net.node(number).listen(now, true);
        net.node(number).announce(now, &long_news(), HOUR);
        for byte in 0..20 {
            net.node(number).announce(now, &[number, byte], HOUR);
        }
        net.run(SECOND);
        let before = net.node(number).stored(now, Level::GLOBAL, &key());
        for body in every_request(key()) {
            let bytes = request(body.clone());
            net.log.clear();
            net.inject(victim, number, &bytes);
            // Nor later.
            let drawn: Vec<usize> = net.log.iter().filter(|sent| sent.1 == victim).map(|sent| sent.2.len()).collect();
            assert!(matches!(drawn[..], [length] if length <= bytes.len()), "{body:?} of {}: {drawn:?}", bytes.len());
            net.log.clear();
            net.run(5 * SECOND);
            assert!(net.log.iter().all(|sent| sent.1 != victim), "{body:?}");
        }
        let now = net.now;
        let snapshot = net.node(number).snapshot(now);
        assert_eq!(net.node(number).stored(now, Level::GLOBAL, &key()), before);
        assert!(snapshot.neighbours.iter().all(|near| near.peer.addr != victim));
    }
}

#[test]
fn a_goodbye_in_anothers_name_costs_it_one_ping_at_most() {
    let mut net = Net::of(3);
    let leave = wire::encode(&Message { header: Header::default(), request_id: 0, body: Body::Leave });
    net.log.clear();
    for _ in 0..100 {
        net.inject(addr(2), 1, &leave);
        net.inject(([203, 0, 113, 7], 4000).into(), 1, &leave);
    }
    let drawn: Vec<_> = net.log.iter().map(|(_, to, bytes)| (*to, bytes.len())).collect();
    assert_eq!(drawn, [(addr(2), leave.len())]);
}

#[test]
fn a_newcomer_that_asks_is_known_by_its_proof_and_not_by_a_ping() {
    let mut net = Net::of(1);
    net.log.clear();
    net.start(2, 0);
    net.run(SECOND / 2);
    let now = net.now;
    let known = net.node(1).snapshot(now).neighbours;
    assert!(matches!(&known[..], [near] if near.peer.addr == addr(2) && near.rtt == 2 * ONE_WAY), "{known:?}");
    // It has sent answers only; the other has proven itself once.
    let kinds = |from: u8| net.log.iter().filter(|sent| sent.0 == addr(from)).map(|sent| sent.2[1]).collect::<Vec<_>>();
    assert!(kinds(1).iter().all(|kind| *kind >= 32), "{:?}", kinds(1));
    assert_eq!(kinds(2).iter().filter(|kind| **kind == 17).count(), 1);
}

#[test]
fn a_put_needs_no_round_trip_for_its_token_and_a_late_withdrawal_gets_one() {
    let mut net = Net::of(8);
    net.log.clear();
    let stored = net.put(1, net.key_at(5), value(1));
    assert_eq!(stored.at[0].1.addr, addr(5));
    let challenges = |net: &Net| net.log.iter().filter(|sent| sent.2[1] == 38).count();
    assert_eq!(challenges(&net), 0);
    net.run(120 * SECOND);
    net.log.clear();
    assert_eq!(net.remove(1, net.key_at(5), value(1)), 1);
    assert_eq!(challenges(&net), 1);
    assert_eq!(net.holders(net.key_at(5)), [0u8; 0]);
}

#[test]
fn what_is_recorded_and_sent_again_changes_nothing() {
    let mut net = Net::of(8);
    let key = net.key_at(5);
    net.log.clear();
    net.put(1, key, value(1));
    let store = net.log.iter().find(|sent| sent.2[1] == 4).unwrap().2.clone();
    assert_eq!(net.remove(1, key, value(1)), 1);
    let remove = net.log.iter().find(|sent| sent.2[1] == 5).unwrap().2.clone();
    // It is answered as before, in case the answer was lost.
    net.log.clear();
    net.inject(addr(1), 5, &store);
    let answer = wire::decode(&net.log.last().unwrap().2).unwrap();
    assert_eq!(answer.body, Body::Response(Response::Done(true)));
    assert_eq!(net.holders(key), [0u8; 0]);
    // From elsewhere, or later, its token is worth nothing.
    net.inject(addr(2), 5, &store);
    net.run(70 * SECOND);
    net.inject(addr(1), 5, &store);
    assert_eq!(net.holders(key), [0u8; 0]);
    // The withdrawal does no harm to what is put after it either.
    net.put(1, key, value(1));
    net.inject(addr(1), 5, &remove);
    assert_eq!(net.holders(key), [5]);
}

#[test]
fn a_peers_name_on_a_datagram_changes_nothing() {
    let mut net = Net::of(8);
    let key = net.key_at(5);
    net.put(1, key, value(1));
    let (level, ttl) = (Level::GLOBAL, HOUR);
    net.inject(addr(1), 5, &request(Request::Remove { level, key, value: value(1) }));
    net.inject(addr(1), 5, &request(Request::Store { level, key, ttl, value: value(2), turned_back: false }));
    net.run(SECOND);
    assert_eq!(net.get(2, key).values, [value(1)]);
}

#[test]
fn a_value_that_names_an_address_is_stored_for_nobody_else() {
    let mut net = Net::of(8);
    let key = net.key_at(5);
    let web = |number: u8| SocketAddr::new(addr(number).ip(), 80);
    net.put(2, key, Value::naming(b'h', web(1)));
    assert_eq!(net.holders(key), [2], "nobody else took it");
    let mine = Value::naming(b'h', web(3));
    net.put(3, key, mine.clone());
    assert_eq!(net.get(4, key).values, [mine]);
    // Nor does a claim in its name send others to it.
    let (cold, now) = (Id::hash(&[b"cold"]), net.now);
    for number in [2, 3] {
        net.done.clear();
        net.node(number).claim(now, cold, Value::naming(b'h', web(number - 1)), 20 * SECOND, Levels::ALL, &[]);
        net.run(SECOND);
    }
    let given = |outcome: &Outcome| matches!(outcome, Outcome::Claim(claimed) if !claimed.values.is_empty());
    assert!(!net.done.is_empty() && !net.done.iter().any(given), "{:?}", net.done);
}

#[test]
fn a_flood_from_one_network_is_dropped_and_the_others_are_served() {
    let few = Config { diameters: Vec::new(), requests_per_prefix: 50.try_into().unwrap(), ..Config::default() };
    let mut net = Net::with(3, few);
    net.log.clear();
    let ping = request(Request::Ping);
    for host in 0..1000u32 {
        net.inject(([203, 0, 113, host as u8], 1000 + host as u16).into(), 1, &ping);
    }
    assert_eq!(net.log.len(), 100);
    assert_eq!(net.node(1).stats().dropped["flood"], 900);
    net.inject(([198, 51, 100, 1], 4000).into(), 1, &ping);
    assert_eq!(net.log.len(), 101);
}

#[test]
fn a_closed_network_works_as_an_open_one_and_answers_no_stranger() {
    let with_key = |digit: &str| Config { network_key: Some(digit.repeat(64).parse().unwrap()), ..Config::default() };
    let mut net = Net::with(8, with_key("1"));
    let key = net.key_at(5);
    assert_eq!(net.put(1, key, value(1)).at.len(), 3);
    assert_eq!(net.get(2, key).values, [value(1)]);
    assert_eq!(net.remove(1, key, value(1)), 3);
    net.log.clear();
    for body in every_request(key) {
        net.inject(([203, 0, 113, 7], 4000).into(), 5, &request(body.clone()));
        net.inject(addr(1), 5, &request(body));
    }
    assert_eq!((net.log.len(), net.node(5).stats().dropped["stranger"]), (0, 22));
    // Who has another key, or none, finds nobody and is found by nobody.
    for (number, config) in [(20, with_key("2")), (21, Config::default())] {
        net.config = Arc::new(config);
        net.start(number, 0);
        net.run(5 * SECOND);
        let now = net.now;
        assert!(net.node(number).snapshot(now).neighbours.is_empty());
    }
    let now = net.now;
    assert_eq!(net.node(1).snapshot(now).neighbours.len(), 7);
}

/// What the nodes of a network have been told, by their addresses.
fn told(net: &mut Net) -> Vec<(SocketAddr, Vec<u8>)> {
    net.heard.drain(..).map(|(who, _, message)| (who, message)).collect()
}

#[test]
fn an_announcement_goes_on_only_after_the_application_has_passed_it_on() {
    let mut net = Net::of(3);
    net.cut.insert((1, 3));
    let now = net.now;
    for number in 1..=3 {
        net.node(number).listen(now, true);
    }
    net.node(1).announce(now, b"news", HOUR);
    net.run(5 * SECOND);
    let (who, id, _) = net.heard[0].clone();
    assert_eq!(told(&mut net), [(addr(2), b"news".to_vec())]);
    // It takes its time; nobody else is told meanwhile, nor told that there is something.
    net.run(20 * SECOND);
    assert!(told(&mut net).is_empty() && who == addr(2));
    let now = net.now;
    net.node(2).pass_on(now, &id, HOUR);
    net.run(SECOND);
    assert_eq!(told(&mut net), [(addr(3), b"news".to_vec())]);
    // Node 3 drops it, and does not hear of it again from those who keep it.
    net.node(3).disregard(now, &id);
    net.cut.clear();
    net.run(400 * SECOND);
    assert!(told(&mut net).is_empty());
    assert_eq!(net.node(3).stats().announcements_passed_on, 0);
}

#[test]
fn whoever_floods_with_offers_is_answered_once_for_each_and_fetched_from_at_a_bounded_rate() {
    let mut net = Net::of(3);
    let now = net.now;
    net.node(1).listen(now, true);
    let flooder: SocketAddr = ([203, 0, 113, 7], 4000).into();
    // It has a token, by an offer that was answered with a challenge.
    let offer = |token, number: u32| {
        let header = Header { token, ..Header::default() };
        let body = Body::Request(Request::Offer { id: Id::of_announcement(&number.to_be_bytes()) });
        wire::encode(&Message { header, request_id: 7, body })
    };
    let answer = |net: &Net| wire::decode(&net.log.last().unwrap().2).unwrap();
    net.inject(flooder, 1, &offer(None, 0));
    let token = answer(&net).header.token;
    assert_eq!(answer(&net).body, Body::Response(Response::Challenge));
    net.log.clear();
    let mut fetched = 0;
    for number in 0..5000 {
        net.inject(flooder, 1, &offer(token, number));
        // It answers each fetch at once, and the application drops all of it.
        while let Some(place) = net.log.iter().position(|sent| sent.1 == flooder && sent.2[1] == 9) {
            let fetch = wire::decode(&net.log.swap_remove(place).2).unwrap();
            fetched += 1;
            let message = number.to_be_bytes().into();
            let body = Body::Response(Response::Announcement { age: SECOND, message });
            let header = Header::default();
            net.inject(flooder, 1, &wire::encode(&Message { header, request_id: fetch.request_id, body }));
        }
        for (_, id, _) in std::mem::take(&mut net.heard) {
            let now = net.now;
            net.node(1).disregard(now, &id);
        }
    }
    let answers: Vec<usize> = net.log.iter().filter(|sent| sent.1 == flooder).map(|sent| sent.2.len()).collect();
    assert_eq!((answers.len(), fetched), (5000, 256));
    assert!(answers.iter().all(|length| *length <= 176), "{:?}", answers.iter().max());
    // Those who ask for it are told what others announce all the same.
    let now = net.now;
    net.node(2).announce(now, b"news", HOUR);
    net.run(SECOND);
    assert_eq!(told(&mut net), [(addr(1), b"news".to_vec())]);
}

#[test]
fn a_peer_that_knows_no_announcements_keeps_its_place() {
    let mut net = Net::of(3);
    let now = net.now;
    for number in 1..=3 {
        net.node(number).listen(now, true);
    }
    net.run(SECOND);
    net.deaf = Some(3);
    let now = net.now;
    net.node(1).announce(now, b"news", HOUR);
    for _ in 0..400 {
        net.run(SECOND / 10);
        let now = net.now;
        assert_eq!(net.node(1).snapshot(now).neighbours.len(), 2);
    }
    assert_eq!(told(&mut net), [(addr(2), b"news".to_vec())]);
}

/// A reaches B, B reaches C, A does not reach C [NT05].
#[test]
fn what_one_node_cannot_reach_is_not_lost_to_it_or_to_others() {
    let mut net = Net::of(12);
    let key = net.key_at(5);
    net.put(2, key, value(2));
    assert_eq!(net.holders(key), [5]);
    net.cut.insert((1, 5));
    // It is told of the holder by everybody else, time and again, and waits for it once in a while only.
    let begun = net.now;
    assert!(net.get(1, key).values.is_empty());
    assert!(net.now.saturating_since(begun) < 2 * SECOND);
    net.run(5 * SECOND);
    let begun = net.now;
    net.get(1, key);
    assert!(net.now.saturating_since(begun) < 10 * ONE_WAY, "{:?}", net.now.saturating_since(begun));
    // Its own put ends at the next best node, which others meet on their way or not; nobody else loses anything.
    let stored = net.put(1, key, value(1));
    assert!(matches!(stored.at[..], [(_, peer)] if peer.addr != addr(5)));
    assert_eq!(net.get(1, key).values, [value(1)]);
    net.run(60 * SECOND);
    for number in 2..=12 {
        assert!(!net.get(number, key).values.is_empty(), "node {number}");
    }
    assert!(net.holders(key).contains(&5));
    // Back in reach it is found again.
    net.cut.clear();
    net.run(60 * SECOND);
    assert!(net.get(1, key).hops.iter().any(|hop| hop.peer.addr == addr(5)) || !net.get(1, key).values.is_empty());
}

#[test]
fn owners_put_again_what_a_node_lost_by_a_restart_that_nobody_missed() {
    let mut net = Net::of(12);
    let key = net.key_at(5);
    net.put(2, key, value(2));
    net.start(5, 1);
    assert_eq!(net.holders(key), [0u8; 0]);
    // Heard again within the keepalive, and repaired in the next round of maintenance.
    net.run(30 * SECOND);
    assert_eq!(net.holders(key), [5]);
    assert_eq!(net.get(9, key).values, [value(2)]);
}

#[test]
fn a_dead_stranger_costs_as_much_as_the_living_take() {
    let mut net = Net::of(12);
    net.run(10 * SECOND);
    let key = net.key_at(5);
    // Node 1 has never heard of node 5 when it dies.
    net.start(1, 1);
    net.cut.insert((1, 5));
    let now = net.now;
    net.node(1).join(now, &[addr(2)]);
    net.run(40 * SECOND);
    let begun = net.now;
    net.get(1, key);
    let took = net.now.saturating_since(begun);
    assert!(took < Duration::from_millis(250), "{took:?}, of which a time-out of 400 ms would be most");
}
