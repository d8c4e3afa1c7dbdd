//! Two hundred nodes of the real state machine, on virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use coral_dsht::message::{Body, Message, Request, Response};
use coral_dsht::sim::latency::Map;
use coral_dsht::sim::link::Link;
use coral_dsht::sim::{Intruder, Simulation, check, swarm};
use coral_dsht::{
    Config, Dsht, HintsQuery, HopAnswer, Id, Instant, Key, Level, Levels, Outcome, Peer, Services, Value, wire,
};

const HOUR: Duration = Duration::from_secs(3600);

fn key(number: usize) -> Key {
    Id::hash(&[b"key", &number.to_be_bytes()])
}

fn value(number: usize) -> Value {
    Value::new(&number.to_be_bytes()).unwrap()
}

fn network(seed: u64, nodes: usize) -> Simulation {
    let mut sim = Simulation::new(seed, Config::default());
    sim.join(nodes);
    sim
}

/// Puts 100 keys from random nodes, gets each from another; how many were found.
fn found_of_100(sim: &mut Simulation, base: usize) -> usize {
    for number in base..base + 100 {
        let from = some_alive(sim);
        sim.put(from, key(number), value(number), HOUR);
    }
    (base..base + 100)
        .filter(|number| {
            let from = some_alive(sim);
            sim.get(from, key(*number)).values == [value(*number)]
        })
        .count()
}

fn some_alive(sim: &mut Simulation) -> usize {
    let alive: Vec<usize> = sim.alive().map(|(number, _)| number).collect();
    alive[sim.random(alive.len())]
}

#[test]
fn what_one_of_200_nodes_puts_every_other_finds() {
    let mut sim = network(42, 200);
    assert!(check::know_their_nearest(&sim) > 0.99);
    assert_eq!(found_of_100(&mut sim, 0), 100);
}

#[test]
fn a_seed_replays_byte_for_byte() {
    let run = |seed| {
        let mut sim = network(seed, 50);
        found_of_100(&mut sim, 0);
        (sim.trace().events(), sim.trace().hash())
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first.1, run(8).1);
}

#[test]
fn a_lookup_takes_at_most_half_the_logarithm_of_hops_and_one() {
    // All levels together, the most there are: a key that nobody has is looked for at each of them.
    for (levels, most) in [(1, 0.5 * f64::log2(200.0) + 1.0), (3, f64::log2(200.0))] {
        let mut config = Config::default();
        config.diameters.truncate(levels - 1);
        let mut sim = Simulation::new(1, config);
        sim.join(200);
        let mut hops = 0;
        for number in 0..100 {
            let from = some_alive(&mut sim);
            let me = sim.node(from).me();
            hops += sim.get(from, key(number)).hops.iter().filter(|hop| hop.peer != me).count();
        }
        let mean = hops as f64 / 100.0;
        assert!((1.0..most).contains(&mean), "{mean} hops over {levels} levels in the mean");
    }
}

#[test]
fn a_wider_level_goes_on_where_the_nearer_one_ended() {
    let mut sim = network(3, 200);
    let mut climbed = 0;
    for number in 0..50 {
        let from = some_alive(&mut sim);
        let found = sim.get(from, key(number));
        assert!(found.values.is_empty());
        let me = sim.node(from).me();
        for pair in found.hops.windows(2) {
            if pair[0].peer != me && pair[0].level != pair[1].level && pair[0].answer == HopAnswer::Nearest {
                assert_eq!(pair[1].peer.id, pair[0].peer.id);
                climbed += 1;
            }
        }
    }
    assert!(climbed > 0, "no lookup ever climbed from another node");
}

#[test]
fn nobody_is_hot_when_all_nodes_put_one_key() {
    let mut sim = network(5, 200);
    let hot = key(0);
    let mut put_by_all = |minutes: u64| {
        let before = puts_received(&sim);
        for _ in 0..minutes * 60 {
            for number in 0..200 {
                let now = sim.now();
                sim.act(number, |dsht| dsht.put(now, hot, value(number), HOUR, Levels::only(Level::GLOBAL)));
            }
            sim.run_for(Duration::from_secs(1));
        }
        puts_received(&sim).iter().zip(before).map(|(after, before)| (after - before) / minutes).collect::<Vec<_>>()
    };
    put_by_all(1);
    let per_minute = put_by_all(2);
    let nearest = check::nearest(&sim, &hot).unwrap();
    // β · ⌈log2 n⌉ = 96 is the published bound for the nearest; without any rule it would be 12,000.
    assert!((5..=96).contains(&per_minute[nearest]), "{} puts a minute at the nearest node", per_minute[nearest]);
    let hottest = per_minute.iter().max().unwrap();
    assert!(*hottest <= 2 * 96, "{hottest} puts a minute at the hottest node");
    let from = some_alive(&mut sim);
    assert!(!sim.get(from, hot).values.is_empty());
}

/// All 200 nodes ask for one cold key in the same instant: who was first, and from whom each of the others fetches.
fn crowd(sim: &mut Simulation, key: Key) -> (Vec<usize>, Vec<Option<usize>>) {
    let now = sim.now();
    let ops: Vec<_> = (0..200)
        .map(|number| {
            sim.act(number, |dsht| dsht.claim(now, key, value(number), Duration::from_secs(20), Levels::ALL, &[]))
        })
        .collect();
    sim.run_for(Duration::from_secs(10));
    let parents: Vec<Option<usize>> = ops
        .into_iter()
        .enumerate()
        .map(|(number, op)| match sim.outcome(number, op) {
            Some(Outcome::Claim(claimed)) => {
                let first = claimed.values.first();
                first.map(|value| usize::from_be_bytes(value.as_bytes().try_into().unwrap()))
            }
            other => panic!("node {number}: {other:?}"),
        })
        .collect();
    let first = (0..200).filter(|number| parents[*number].is_none()).collect();
    (first, parents)
}

#[test]
fn of_all_who_ask_in_one_instant_one_goes_to_the_origin() {
    let mut sim = network(12, 200);
    for number in 0..12 {
        let (first, parents) = crowd(&mut sim, key(number));
        assert_eq!(first.len(), 1, "key {number}: {first:?}");
        let mut children = [0; 200];
        for (number, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent] += 1;
                // Following the parents ends at the first: nobody waits for himself.
                let steps = std::iter::successors(Some(number), |number| parents[*number]).take(201).count();
                assert!(steps <= 12, "node {number} is {steps} steps from the origin");
            }
        }
        // At most four at each of three levels.
        assert!(children.iter().all(|children| *children <= 12));
    }
}

#[test]
fn one_of_a_cluster_is_first_there_although_answers_are_late() {
    let mut sim = Simulation::new(15, Config::default());
    sim.set_map(Map::one_place(15));
    sim.join(200);
    // More than the round-trip times that everybody has measured so far, and still within the diameter.
    sim.set_link(Link { jitter: Duration::from_millis(12), ..Link::default() });
    let level = Level::new(2).expect("there is a level 2");
    for number in 0..12 {
        let now = sim.now();
        let claim = |dsht: &mut Dsht, node| dsht.claim(now, key(number), value(node), HOUR, Levels::ALL, &[]);
        let ops: Vec<_> = (0..200).map(|node| sim.act(node, |dsht| claim(dsht, node))).collect();
        sim.run_for(Duration::from_secs(10));
        let outcomes: Vec<_> = ops.into_iter().enumerate().map(|(node, op)| sim.outcome(node, op)).collect();
        let is_first = |outcome: &&Option<Outcome>| matches!(outcome, Some(Outcome::Claim(claimed)) if claimed.granted.contains(level));
        assert_eq!(outcomes.iter().filter(is_first).count(), 1, "key {number}");
    }
}

#[test]
fn a_claimant_that_dies_is_replaced_as_soon_as_one_says_so() {
    let mut sim = network(13, 60);
    let (ttl, key) = (Duration::from_secs(20), key(0));
    assert!(sim.claim(0, key, value(0), ttl, &[]).values.is_empty());
    assert_eq!(sim.claim(1, key, value(1), ttl, &[]).values, [value(0)]);
    sim.kill(0);
    assert!(sim.claim(1, key, value(1), ttl, &[value(0)]).values.is_empty());
    for number in 2..60 {
        let claimed = sim.claim(number, key, value(number), ttl, &[value(0)]);
        assert!(!claimed.values.is_empty(), "node {number} goes to the origin, too");
    }
}

#[test]
fn a_withdrawn_claim_leaves_the_next_one_first() {
    let mut sim = network(14, 60);
    let ttl = Duration::from_secs(20);
    let claimed = sim.claim(5, key(0), value(5), ttl, &[]);
    assert_eq!(claimed.granted, Levels::first(3));
    assert_eq!(sim.remove(5, key(0), value(5)), 3);
    assert!(sim.claim(6, key(0), value(6), ttl, &[]).values.is_empty());
    sim.run_for(ttl + Duration::from_secs(1));
    assert!(sim.claim(7, key(0), value(7), ttl, &[]).values.is_empty());
}

fn puts_received(sim: &Simulation) -> Vec<u64> {
    sim.alive().map(|(_, dsht)| dsht.stats().requests.get("put").copied().unwrap_or(0)).collect()
}

#[test]
fn a_withdrawn_value_is_found_nowhere() {
    let mut sim = network(6, 100);
    let stored = sim.put(3, key(1), value(3), HOUR);
    assert!(!stored.at.is_empty());
    sim.put(60, key(1), value(60), HOUR);
    assert_eq!(sim.remove(3, key(1), value(3)), stored.at.len());
    for number in 0..100 {
        assert_eq!(sim.get(number, key(1)).values, [value(60)]);
    }
}

#[test]
fn a_value_outlives_those_who_held_it() {
    let mut sim = network(11, 100);
    let stored = sim.put(3, key(1), value(3), HOUR);
    let me = sim.node(3).me();
    let holders: Vec<usize> = sim
        .alive()
        .filter(|(_, dsht)| dsht.me() != me && stored.at.iter().any(|(_, peer)| *peer == dsht.me()))
        .map(|(number, _)| number)
        .collect();
    assert!(!holders.is_empty());
    for number in &holders {
        sim.kill(*number);
    }
    // Its owner misses them by its next pings, and puts the value again.
    sim.run_for(Duration::from_secs(60));
    for number in (0..100).filter(|number| !holders.contains(number)) {
        assert_eq!(sim.get(number, key(1)).values, [value(3)], "node {number}");
    }
}

#[test]
fn a_value_ends_with_its_ttl() {
    let mut sim = network(8, 50);
    sim.put(1, key(1), value(1), Duration::from_secs(20));
    assert_eq!(sim.get(2, key(1)).values, [value(1)]);
    sim.run_for(Duration::from_secs(21));
    assert!(sim.get(2, key(1)).values.is_empty());
}

#[test]
fn nodes_that_leave_are_forgotten_at_once_and_dead_ones_cost_no_get() {
    let mut sim = network(9, 100);
    let now = sim.now();
    let told: Vec<Vec<_>> = (0..20).map(|number| sim.act(number, |dsht| dsht.snapshot(now)).neighbours).collect();
    for number in 0..20 {
        sim.leave(number);
    }
    // Three time-outs of the farthest pair; the keepalive alone would take 20 s.
    sim.run_for(Duration::from_secs(5));
    let now = sim.now();
    for number in 20..100 {
        let me = sim.node(number).me();
        let knows = sim.act(number, |dsht| dsht.snapshot(now)).neighbours;
        for (gone, told) in told.iter().enumerate() {
            if told.iter().any(|near| near.peer == me) {
                let gone = sim.node(gone).me();
                assert!(knows.iter().all(|near| near.peer != gone), "{me:?} still knows {gone:?}");
            }
        }
    }
    for number in 20..40 {
        sim.kill(number);
    }
    // Nobody knows yet that they are dead; keys that are put now must be found all the same.
    assert_eq!(found_of_100(&mut sim, 1000), 100);
}

/// Each seed draws its own faults: loss, jitter, duplicates, pairs that cannot talk, nodes that come and go, an island.
#[test]
fn faults_first_then_calm_and_everything_is_found() {
    for seed in 0..4 {
        if let Err(why) = swarm::run(seed, 60) {
            panic!("{why}");
        }
    }
}

/// Seen on 2026-11-23: nodes that joined at once met in one cluster, but some did not know all others for half a minute.
#[test]
fn nodes_of_one_place_that_join_at_once_all_know_each_other_within_seconds() {
    for seed in 0..200 {
        let mut sim = Simulation::new(seed, Config::default());
        sim.set_map(Map::one_place(seed));
        sim.set_link(Link { jitter: Duration::from_millis(2), ..Link::default() });
        let contact = sim.add_node();
        let contact = sim.node(contact).me().addr;
        for _ in 1..8 {
            let number = sim.add_node();
            let now = sim.now();
            sim.act(number, |dsht| dsht.join(now, &[contact]));
            let pause = sim.random(1000) as u64;
            sim.run_for(Duration::from_micros(pause));
        }
        sim.run_for(Duration::from_secs(8));
        for level in Levels::first(3).nearest_first() {
            assert_eq!(check::clusters(&sim, level), 1, "clusters at {level}, seed {seed}");
        }
        let now = sim.now();
        for number in 0..8 {
            for cluster in sim.act(number, |dsht| dsht.snapshot(now)).clusters {
                assert_eq!(cluster.size, 8, "node {number} at {}, seed {seed}", cluster.level);
            }
        }
    }
}

/// Seen on 2026-11-23: of 4,378 gets in the first 15 s after a third of 494 nodes had gone, four stood at a node that named
/// none but dead ones, and found nothing.
#[test]
fn what_a_living_node_holds_is_found_although_a_third_of_all_have_just_vanished() {
    let mut sim = network(15, 200);
    let held_by: Vec<Option<Peer>> = (0..100)
        .map(|number| {
            let from = some_alive(&mut sim);
            let stored = sim.put(from, key(number), value(number), HOUR);
            stored.at.iter().find(|(level, _)| *level == Level::GLOBAL).map(|(_, peer)| *peer)
        })
        .collect();
    let timed = |sim: &mut Simulation| {
        let mut took = Vec::new();
        for (number, holder) in held_by.iter().enumerate() {
            let holder_lives = sim.alive().any(|(_, dsht)| Some(dsht.me()) == *holder);
            let (from, start) = (some_alive(sim), sim.now());
            let found = sim.get(from, key(number)).values;
            if holder_lives {
                assert_eq!(found, [value(number)], "key {number}");
                took.push(sim.now().saturating_since(start));
            }
        }
        took.sort();
        took[took.len() * 9 / 10]
    };
    let before = timed(&mut sim);
    for number in (0..200).step_by(3) {
        sim.kill(number);
    }
    let after = timed(&mut sim);
    assert!(after <= 2 * before, "a get took {before:?} before and {after:?} after, in nine of ten cases at most");
}

/// Seen on 2026-11-27: a third of all had vanished, the global value with them; the get stood at a living node that had the
/// value for its own L1 cluster, asked it for that of L0, and was told of nothing.
#[test]
fn what_a_node_has_for_a_nearer_cluster_is_found_from_outside_of_it() {
    let pair = |seed| {
        let mut sim = Simulation::new(seed, Config::default());
        sim.set_map(Map::synthetic(seed));
        sim.join(2);
        sim
    };
    let [near, far] = [0, 1];
    // They share no cluster but the global one.
    let mut sim = (0..).map(pair).find(|sim| sim.rtt(near, far) > Duration::from_millis(100)).unwrap();
    sim.run_for(Duration::from_secs(60));
    let [id, other] = [near, far].map(|number| sim.node(number).me().id);
    let of_near = (0..).map(key).find(|key| id.distance(key) < other.distance(key)).unwrap();
    let now = sim.now();
    let level_1 = Levels::only(Level::new(1).unwrap());
    sim.act(near, |dsht| dsht.put(now, of_near, value(1), HOUR, level_1));
    sim.run_for(Duration::from_secs(1));
    let found = sim.get(far, of_near);
    assert_eq!((found.values, found.level), (vec![value(1)], Some(Level::GLOBAL)));
}

/// Answers each claim with a value of its own invention, never the same twice.
#[derive(Debug)]
struct Liar(u64);

impl Intruder for Liar {
    fn intercept(&mut self, _: Instant, _: Peer, from: SocketAddr, bytes: &[u8]) -> Option<Vec<(SocketAddr, Vec<u8>)>> {
        let request = wire::decode(bytes).ok()?;
        let Body::Request(Request::Claim { .. }) = request.body else { return None };
        self.0 += 1;
        let lie = Value::new(format!("lie {}", self.0).as_bytes()).unwrap();
        let answer = Message { body: Body::Response(Response::Values(vec![lie])), ..request };
        Some(vec![(from, wire::encode(&answer))])
    }
}

#[test]
fn who_lies_again_and_again_is_passed_over() {
    let mut sim = network(16, 200);
    for number in 0..100 {
        let from = some_alive(&mut sim);
        sim.put(from, key(number), value(number), HOUR);
    }
    // Every tenth node: most lookups pass none of them, some several.
    for number in (0..200).step_by(10) {
        sim.corrupt(number, Box::new(Liar(number as u64 * 1_000_000)));
    }
    let (mut misled, mut found) = (0, 0);
    for number in 0..100 {
        let from = 1 + 10 * sim.random(20);
        let mut refused = Vec::new();
        for _ in 0..8 {
            let claimed = sim.claim(from, key(number), value(1000), Duration::from_secs(20), &refused);
            if claimed.values.contains(&value(number)) {
                found += 1;
                break;
            }
            refused.extend(claimed.values);
        }
        misled += usize::from(!refused.is_empty());
    }
    assert!(misled > 10, "only {misled} claims met a liar");
    assert!(found >= 90, "{found} of 100 found, {misled} were misled at first");
}

#[test]
fn near_nodes_meet_in_clusters() {
    let sim = network(10, 100);
    let level = |number| Level::new(number).unwrap();
    let (l1, l2) = (check::clusters(&sim, level(1)), check::clusters(&sim, level(2)));
    assert_eq!(check::clusters(&sim, Level::GLOBAL), 1);
    assert!(l1 <= l2 && l2 < 50, "{l1} clusters at L1, {l2} at L2");
}

/// Seen on 2026-11-23: nodes went to and fro between clusters, and told each other of it without end.
#[test]
fn a_settled_network_is_quiet() {
    let mut sim = network(10, 100);
    let sent = |sim: &Simulation| sim.alive().map(|(_, dsht)| dsht.stats().datagrams_sent).sum::<u64>();
    let before = sent(&sim);
    sim.run_for(Duration::from_secs(60));
    let per_second = (sent(&sim) - before) / 60 / 100;
    // Each node knows some 50 others, and asks, or is asked by, each of them every 20 s; now and then a table is refreshed.
    assert!(per_second < 15, "{per_second} datagrams a second from each node");
}

#[test]
fn a_single_node_serves_itself() {
    let mut sim = Simulation::new(0, Config::default());
    let alone = sim.add_node();
    assert_eq!(sim.put(alone, key(1), value(1), HOUR).at.len(), 3);
    assert_eq!(sim.get(alone, key(1)).values, [value(1)]);
    assert_eq!(sim.remove(alone, key(1), value(1)), 3);
    assert!(sim.get(alone, key(1)).values.is_empty());
}

/// What was put while everybody was still alone is found in the nearest cluster once there is one.
#[test]
fn a_value_follows_its_owner_into_another_cluster() {
    let mut sim = Simulation::new(4, Config::default());
    sim.set_map(Map::one_place(4));
    let contact = sim.add_node();
    let contact = sim.node(contact).me().addr;
    for number in 1..40 {
        sim.add_node();
        let now = sim.now();
        sim.act(number, |dsht| {
            dsht.put(now, key(number), value(number), HOUR, Levels::ALL);
            dsht.join(now, &[contact])
        });
    }
    sim.run_for(Duration::from_secs(60));
    for number in 1..40 {
        let found = sim.get(number % 39 + 1, key(number));
        assert_eq!((found.values, found.level), (vec![value(number)], Level::new(2)), "node {number}");
    }
    // Whatever was left behind is withdrawn as well.
    for number in 1..40 {
        sim.remove(number, key(number), value(number));
        assert!(sim.get(number % 39 + 1, key(number)).values.is_empty(), "node {number}");
    }
}

#[test]
fn hints_name_only_those_who_answer() {
    let mut sim = network(12, 20);
    // All of 10.0.0.0/24 are behind one key; most of those that the hints name are dead now.
    for number in 0..16 {
        sim.kill(number);
    }
    let now = sim.now();
    let query = HintsQuery { client: [10, 0, 0, 200].into(), routers: vec![], count: 10, services: Services::NONE };
    let op = sim.act(17, |dsht| dsht.hints(now, &query));
    sim.run_for(Duration::from_secs(30));
    let Some(Outcome::Nodes(found)) = sim.outcome(17, op) else { panic!("the search has not ended") };
    for near in &found {
        let number = sim.number_of(near.peer.addr).unwrap();
        assert!(sim.is_alive(number) && number != 17, "{near:?}");
    }
    // Hints are renewed every half hour. By then the dead have not: their hints end within the hour.
    sim.run_for(HOUR);
    let now = sim.now();
    let op = sim.act(17, |dsht| dsht.hints(now, &query));
    sim.run_for(Duration::from_secs(30));
    assert!(matches!(sim.outcome(17, op), Some(Outcome::Nodes(found)) if !found.is_empty()));
}

/// A message that is told to all.
const NEWS: &[u8] = b"news";

/// Nodes that all listen, and pass on whatever they hear.
fn listening(seed: u64, nodes: usize, link: Link) -> Simulation {
    let mut sim = network(seed, nodes);
    sim.set_link(link);
    for number in 0..nodes {
        sim.listen(number, Some(HOUR));
    }
    // They have asked each other for what there is.
    sim.run_for(Duration::from_secs(10));
    assert_eq!(sim.heard(), []);
    sim
}

#[test]
fn what_one_of_200_nodes_announces_all_others_hear_once_within_seconds() {
    let mut sim = listening(21, 200, Link { loss_per_mille: 50, duplicate_per_mille: 50, ..Link::default() });
    let (began, sent) = (sim.now(), datagrams_sent(&sim));
    sim.act(17, |dsht| dsht.announce(began, NEWS, HOUR));
    sim.run_for(Duration::from_secs(10));
    let heard = sim.heard();
    let nodes: std::collections::BTreeSet<usize> = heard.iter().map(|heard| heard.node).collect();
    assert_eq!((heard.len(), nodes.len()), (199, 199));
    assert!(!nodes.contains(&17) && heard.iter().all(|heard| &heard.message[..] == NEWS));
    let last = heard.last().unwrap().at.saturating_since(began);
    assert!(last < Duration::from_secs(3), "{last:?}");
    let most = datagrams_sent(&sim).iter().zip(sent).map(|(after, before)| after - before).max().unwrap();
    assert!(most < 400, "{most} datagrams by one node");
}

/// Offers to others what it hears, and gives it to nobody.
#[derive(Debug)]
struct Hoarder;

impl Intruder for Hoarder {
    fn intercept(&mut self, _: Instant, _: Peer, _: SocketAddr, bytes: &[u8]) -> Option<Vec<(SocketAddr, Vec<u8>)>> {
        matches!(wire::decode(bytes).ok()?.body, Body::Request(Request::Fetch { .. })).then(Vec::new)
    }
}

#[test]
fn those_who_offer_and_do_not_deliver_delay_an_announcement_by_seconds_at_most() {
    let mut sim = listening(25, 200, Link::default());
    for number in 0..60 {
        sim.corrupt(number, Box::new(Hoarder));
    }
    let began = sim.now();
    sim.act(100, |dsht| dsht.announce(began, NEWS, HOUR));
    sim.run_for(Duration::from_secs(20));
    let heard = sim.heard();
    assert_eq!(heard.len(), 199);
    let last = heard.last().unwrap().at.saturating_since(began);
    assert!(last < Duration::from_secs(5), "{last:?}");
}

#[test]
fn an_announcement_that_nobody_passes_on_reaches_the_neighbours_of_its_announcer_alone() {
    let mut sim = network(22, 200);
    (0..200).for_each(|number| sim.listen(number, None));
    sim.run_for(Duration::from_secs(10));
    let now = sim.now();
    let neighbours = sim.act(17, |dsht| dsht.snapshot(now)).neighbours;
    let mut neighbours: Vec<usize> = neighbours.iter().filter_map(|near| sim.number_of(near.peer.addr)).collect();
    sim.act(17, |dsht| dsht.announce(now, NEWS, HOUR));
    sim.run_for(Duration::from_secs(10));
    let mut heard: Vec<usize> = sim.heard().iter().map(|heard| heard.node).collect();
    heard.sort_unstable();
    neighbours.sort_unstable();
    assert!(heard.len() > 20 && heard.iter().all(|node| neighbours.contains(node)), "{heard:?} of {neighbours:?}");
}

#[test]
fn who_joins_later_or_was_cut_off_hears_what_was_announced_meanwhile() {
    let mut sim = listening(23, 100, Link { loss_per_mille: 50, ..Link::default() });
    let announce = |sim: &mut Simulation, numbers: std::ops::Range<usize>| {
        for number in numbers {
            let now = sim.now();
            sim.act(50 + number, |dsht| dsht.announce(now, &number.to_be_bytes(), HOUR));
            sim.run_for(Duration::from_secs(5));
        }
    };
    // A third is cut off for so long that the rest has given it up.
    let island: Vec<usize> = (0..33).collect();
    sim.split(&island);
    sim.run_for(Duration::from_secs(120));
    announce(&mut sim, 0..5);
    assert!(sim.heard().iter().all(|heard| !island.contains(&heard.node)));
    sim.heal();
    let healed = sim.now();
    sim.run_for(Duration::from_secs(360));
    let heard = sim.heard();
    assert!((0..33).all(|node| heard.iter().filter(|heard| heard.node == node).count() == 5));
    assert_eq!(heard.len(), 5 * 33);
    let last = heard.last().unwrap().at.saturating_since(healed);
    assert!(last < Duration::from_secs(30), "the last of the island after {last:?}");

    // A newcomer is told within seconds, and how old it is; not of what nobody keeps any more.
    let newcomer = sim.join_one();
    sim.listen(newcomer, Some(HOUR));
    let joined = sim.now();
    sim.run_for(Duration::from_secs(10));
    let heard = sim.heard();
    assert!(heard.iter().all(|heard| heard.node == newcomer));
    assert_eq!(heard.len(), 5);
    let first = heard.iter().find(|heard| heard.message[..] == 0usize.to_be_bytes()).unwrap();
    let age = Duration::from_secs(385) + first.at.saturating_since(joined);
    assert!(first.age <= age && age < first.age + Duration::from_secs(8), "{first:?}, and it is {age:?} old");
    sim.run_for(HOUR);
    let newcomer = sim.join_one();
    sim.listen(newcomer, Some(HOUR));
    sim.run_for(Duration::from_secs(10));
    assert_eq!(sim.heard(), []);
}

#[test]
fn a_newcomer_hears_hundreds_of_announcements_within_seconds_and_does_not_tell_them_all_again() {
    let mut sim = listening(24, 30, Link::default());
    for number in 0..250usize {
        let now = sim.now();
        sim.act(number % 30, |dsht| dsht.announce(now, &number.to_be_bytes(), HOUR));
        sim.run_for(Duration::from_secs(1));
    }
    sim.run_for(Duration::from_secs(60));
    assert_eq!(sim.heard().len(), 250 * 29);
    let newcomer = sim.join_one();
    sim.listen(newcomer, Some(HOUR));
    let joined = sim.now();
    sim.run_for(Duration::from_secs(60));
    let heard = sim.heard();
    assert_eq!(heard.len(), 250);
    let took = heard.last().unwrap().at.saturating_since(joined);
    assert!(took < Duration::from_secs(20), "{took:?}");
    let sent = sim.node(newcomer).stats().datagrams_sent;
    assert!(sent < 2500, "{sent} datagrams: offering each to all would be 7,250");
}

fn datagrams_sent(sim: &Simulation) -> Vec<u64> {
    (0..sim.len()).map(|number| sim.node(number).stats().datagrams_sent).collect()
}
