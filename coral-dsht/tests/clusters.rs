//! How nodes gather in clusters: on measured latencies, over hours, over partitions, and with any number of levels.

use std::time::Duration;

use coral_dsht::sim::latency::Map;
use coral_dsht::sim::{Simulation, check};
use coral_dsht::{Config, Id, Key, Level, Levels, Value};

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
