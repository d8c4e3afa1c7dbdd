//! How nodes gather in clusters: on measured latencies, over hours, over partitions, and with any number of levels.

use std::net::IpAddr;
use std::time::Duration;

use coral_dsht::sim::latency::Map;
use coral_dsht::sim::link::Link;
use coral_dsht::sim::{Simulation, check};
use coral_dsht::{ClusterId, Config, Id, Key, Level, Levels, Value};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn config(diameters: &[u64]) -> Config {
    Config { diameters: diameters.iter().copied().map(Duration::from_millis).collect(), ..Config::default() }
}

fn key(number: usize) -> Key {
    Id::hash(&[b"key", &number.to_be_bytes()])
}

fn value(number: usize) -> Value {
    Value::new(&number.to_be_bytes()).unwrap()
}

/// Adds `count` nodes that join all at once by `contact`, or by the first of them.
fn join_at_once(sim: &mut Simulation, count: usize, contact: Option<usize>) {
    for _ in 0..count {
        let number = sim.add_node();
        let contact = sim.node(contact.unwrap_or(0)).me().addr;
        let now = sim.now();
        sim.act(number, |dsht| dsht.join(now, &[contact]));
        sim.run_for(Duration::from_millis(1));
    }
}

fn moves(sim: &Simulation) -> u64 {
    sim.alive().map(|(_, dsht)| dsht.stats().cluster_moves).sum()
}

#[test]
fn on_measured_latencies_most_of_a_cluster_is_within_its_diameter() {
    let mut sim = Simulation::new(1, Config::default());
    sim.set_map(Map::planetlab(1));
    join_at_once(&mut sim, 120, None);
    sim.run_for(2 * MINUTE);
    for level in [1, 2] {
        let clustering = check::clustering(&sim, Level::new(level).unwrap());
        assert!(clustering.share_within() > 0.8, "L{level}: {clustering:?}");
        assert!(clustering.share_together() > 0.6, "L{level}: {clustering:?}");
    }
}

/// The square wave prefers now the larger cluster, now the one with the lower id.
#[test]
fn a_settled_network_stays_as_it_is_when_the_hour_changes() {
    // Nodes that are pinged more rarely do no less about their clusters, and cost the test less.
    let config = Config { keepalive: 4 * MINUTE, ..Config::default() };
    let mut sim = Simulation::new(2, config);
    sim.set_map(Map::planetlab(2));
    join_at_once(&mut sim, 60, None);
    sim.run_for(50 * MINUTE);
    let before = moves(&sim);
    sim.run_for(2 * HOUR + 20 * MINUTE);
    let moved = moves(&sim) - before;
    assert!(moved <= 12, "{moved} moves of 60 nodes in more than two hours");
}

#[test]
fn two_networks_of_one_place_flow_together_when_they_meet() {
    let mut sim = Simulation::new(3, Config::default());
    sim.set_map(Map::one_place(3));
    join_at_once(&mut sim, 12, None);
    let other = sim.add_node();
    join_at_once(&mut sim, 11, Some(other));
    sim.run_for(10 * MINUTE);
    assert_eq!(check::clusters(&sim, Level::GLOBAL), 1, "there is but one global cluster");
    assert_eq!([1, 2].map(|level| check::clusters(&sim, Level::new(level).unwrap())), [2, 2]);
    // One of the one network hears of one of the other.
    let (now, contact) = (sim.now(), sim.node(0).me().addr);
    sim.act(other + 3, |dsht| dsht.join(now, &[contact]));
    sim.run_for(10 * MINUTE);
    assert_eq!([1, 2].map(|level| check::clusters(&sim, Level::new(level).unwrap())), [1, 1]);
}

#[test]
fn a_part_that_was_cut_off_is_in_the_same_cluster_again_when_it_is_back() {
    let mut sim = Simulation::new(4, Config::default());
    sim.set_map(Map::one_place(4));
    join_at_once(&mut sim, 16, None);
    sim.run_for(MINUTE);
    sim.split(&[1, 3, 5, 7, 9]);
    // Longer than a peer is kept that does not answer.
    sim.run_for(5 * MINUTE);
    sim.heal();
    sim.run_for(10 * MINUTE);
    assert_eq!([1, 2].map(|level| check::clusters(&sim, Level::new(level).unwrap())), [1, 1]);
    for number in 0..16 {
        assert_eq!(sim.put(number, key(number), value(number), HOUR).at.len(), 3);
        let found = sim.get((number + 1) % 16, key(number));
        assert_eq!((found.values, found.level), (vec![value(number)], Level::new(2)), "node {number}");
    }
}

/// Seen in a testbed that started while something else took the processors: a node left its neighbours and was alone for minutes.
#[test]
fn nodes_that_start_while_everything_is_slow_are_together_soon_after() {
    let mut apart = Vec::new();
    for seed in 0..100 {
        let mut sim = Simulation::new(seed, Config::default());
        sim.set_map(Map::one_place(seed));
        join_at_once(&mut sim, 4, None);
        sim.run_for(Duration::from_secs(3));
        sim.set_link(Link { jitter: Duration::from_millis(60), ..Link::default() });
        sim.run_for(Duration::from_secs(35));
        sim.set_link(Link::default());
        sim.run_for(3 * MINUTE);
        if check::clusters(&sim, Level::new(2).unwrap()) > 1 {
            apart.push(seed);
        }
    }
    assert!(apart.is_empty(), "{apart:?}");
}

#[test]
fn a_network_has_one_level_to_four() {
    for diameters in [&[][..], &[50], &[60, 20], &[100, 50, 25]] {
        let mut sim = Simulation::new(5, config(diameters));
        sim.set_map(Map::one_place(5));
        join_at_once(&mut sim, 10, None);
        sim.run_for(10 * Duration::from_secs(1));
        let nearest = Level::new(diameters.len() as u8).unwrap();
        for level in Levels::first(diameters.len() + 1).nearest_first() {
            assert_eq!(check::clusters(&sim, level), 1, "{diameters:?}");
        }
        assert_eq!(sim.put(3, key(3), value(3), HOUR).at.len(), diameters.len() + 1);
        let found = sim.get(7, key(3));
        assert_eq!((found.values, found.level), (vec![value(3)], Some(nearest)), "{diameters:?}");
    }
}

#[test]
fn nodes_with_other_levels_do_each_other_no_harm() {
    let mut sim = Simulation::new(6, config(&[60, 20]));
    sim.set_map(Map::one_place(6));
    join_at_once(&mut sim, 8, None);
    for diameters in [&[][..], &[60], &[100, 60, 20], &[20, 10]] {
        sim.set_config(config(diameters));
        join_at_once(&mut sim, 8, Some(0));
    }
    sim.run_for(MINUTE);
    let before = moves(&sim);
    for number in 0..40 {
        assert!(!sim.put(number, key(number), value(number), HOUR).at.is_empty());
    }
    for number in 0..40 {
        let found = sim.get((number + 13) % 40, key(number));
        assert_eq!(found.values, [value(number)], "node {number}");
    }
    sim.run_for(MINUTE);
    assert_eq!(moves(&sim), before, "they have settled");
}

/// Where few are near, the first contacts hardly know them; whoever is behind the same router is found by its hint.
#[test]
fn a_newcomer_that_knows_its_router_is_among_its_neighbours_within_two_seconds() {
    let share = |with_routers| {
        let (mut home, mut all) = (0, 0);
        for seed in [1, 2] {
            let newcomers = newcomers_at_home(seed, with_routers);
            home += newcomers.iter().filter(|is_home| **is_home).count();
            all += newcomers.len();
        }
        assert!(all >= 40, "{all} newcomers say little");
        home as f64 / all as f64
    };
    let (with, without) = (share(true), share(false));
    assert!(with > 0.9 && without < 0.8, "{with} with routers, {without} without");
}

/// For newcomers with a small cluster nearby whose first contact is far away: whether each is in a cluster of level 2 with
/// somebody near, two seconds after it has begun to join.
fn newcomers_at_home(seed: u64, with_routers: bool) -> Vec<bool> {
    const SETTLED: usize = 250;
    let ms = Duration::from_millis;
    let mut sim = Simulation::new(seed, Config::default());
    sim.set_map(Map::planetlab(seed));
    sim.settled(SETTLED);
    let settled = 0..SETTLED;
    if with_routers {
        for number in settled.clone() {
            let (now, router) = (sim.now(), router(&sim, number));
            sim.act(number, |dsht| dsht.set_routers(now, &[router]));
        }
    }
    sim.run_for(MINUTE);
    let clusters: Vec<ClusterId> = settled.clone().map(|number| near_cluster(&mut sim, number)).collect();
    let mut at_home = Vec::new();
    for _ in 0..80 {
        let number = sim.add_node();
        let rtt = |other: usize| sim.rtt(number, other);
        let nearest = settled.clone().min_by_key(|other| rtt(*other)).unwrap();
        let members: Vec<usize> = settled.clone().filter(|other| clusters[*other] == clusters[nearest]).collect();
        let within = members.iter().filter(|member| rtt(**member) < ms(18)).count();
        let is_welcome = rtt(nearest) < ms(8) && members.len() <= 6 && 5 * within >= 4 * members.len();
        let Some(contact) = settled.clone().find(|other| is_welcome && rtt(*other) > ms(100)) else { continue };
        let near: Vec<usize> = settled.clone().filter(|other| rtt(*other) < ms(20)).collect();

        let (now, router, contact) = (sim.now(), router(&sim, nearest), sim.node(contact).me().addr);
        sim.act(number, |dsht| dsht.join(now, &[contact]));
        if with_routers {
            // A trace is often done before the join.
            sim.act(number, |dsht| dsht.set_routers(now, &[router]));
        }
        sim.run_for(ms(2000));
        let mine = near_cluster(&mut sim, number);
        at_home.push(near.into_iter().any(|other| near_cluster(&mut sim, other) == mine));
    }
    at_home
}

/// The router in front of a node, as a trace would find it: that of the first node within 8 ms.
fn router(sim: &Simulation, number: usize) -> IpAddr {
    let place = (0..number).find(|other| sim.rtt(*other, number) < Duration::from_millis(8)).unwrap_or(number);
    [198, 18, u8::try_from(place).unwrap(), 1].into()
}

/// A node's cluster at level 2.
fn near_cluster(sim: &mut Simulation, number: usize) -> ClusterId {
    let now = sim.now();
    sim.act(number, |dsht| dsht.snapshot(now)).clusters[2].cluster
}
