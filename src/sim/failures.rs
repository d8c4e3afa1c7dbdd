//! Three in ten nodes vanish without a word: gets of keys that still have a live holder, and how long gets take while
//! nobody knows yet who is dead.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_dsht::sim::Simulation;
use coral_dsht::sim::workload::key;
use coral_dsht::{ClusterId, Config, Level, Levels};
use serde_json::{Value as Json, json};

use super::lab::{Got, Lab};
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Row, Times, ms, rounded};

pub(super) fn run(lab: &Lab) -> Report {
    let nodes = lab.nodes.unwrap_or(490);
    let keys = lab.keys.unwrap_or(500);
    lab.stage("a network comes up", (0, 3));
    let mut sim = lab.network(Config::default(), nodes);
    // What is asked is what a failure costs: with clusters still in flux, some gets miss what was put into another one.
    sim.run_for(SETTLES);
    let putting = (0..keys).map(|key| (sim.random(nodes), key)).collect();
    lab.puts(&mut sim, putting, PER_SECOND);
    sim.run_for(Duration::from_secs(30));

    lab.stage("everybody is well", (1, 3));
    let before = phase(lab, &mut sim, keys);
    let mut left: Vec<usize> = (0..nodes).collect();
    for _ in 0..nodes * 3 / 10 {
        let index = sim.random(left.len());
        let gone = left.swap_remove(index);
        sim.kill(gone);
    }
    lab.stage("three in ten are gone", (2, 3));
    let holders = holders(&sim, keys);
    let after = phase(lab, &mut sim, keys);

    let has_holder = |sim: &Simulation, got: &Got| {
        let reader = sim.node(got.node);
        holders.get(&got.key).is_some_and(|at| at.iter().any(|(level, cluster, _)| reader.cluster(*level) == *cluster))
    };
    let held: Vec<&Got> = after.iter().filter(|got| has_holder(&sim, got)).collect();
    let before: Vec<&Got> = before.iter().collect();
    let rows = vec![row("before", nodes, &before), row("after, keys with a live holder", left.len(), &held)];
    let times = |gots: &[&Got]| Times::of(gots.iter().map(|got| got.took));
    let (p99_before, p99_after) = (times(&before).percentile(99.0), times(&held).percentile(99.0));
    let summary = vec![
        ("failed_gets", json!(failed(&held))),
        ("p99_before_ms", json!(ms(p99_before))),
        ("p99_after_ms", json!(ms(p99_after))),
        ("p99_ratio", json!(rounded(p99_after.as_secs_f64() / p99_before.as_secs_f64(), 2))),
        ("which_failed", failures(&sim, &held, &holders)),
        ("gets_of_keys_without_a_holder", json!(after.len() - held.len())),
        ("p99_after_of_all_ms", json!(ms(Times::of(after.iter().map(|got| got.took)).percentile(99.0)))),
    ];
    Report {
        title: format!("{} of {nodes} nodes vanish, {keys} keys, seed {}", nodes - left.len(), lab.seed),
        rows,
        summary,
        chart: Chart {
            title: format!(
                "Time of a get before and in the {} s after 30 % of {nodes} nodes vanished",
                PHASE.as_secs()
            ),
            x: Axis::log("milliseconds"),
            y: Axis::linear("per cent of gets that take no longer"),
            series: vec![
                Series::new("before", times(&before).distribution()),
                Series::new("after", times(&held).distribution()),
            ],
        },
    }
}

/// Gets of random keys by random live nodes.
fn phase(lab: &Lab, sim: &mut Simulation, keys: usize) -> Vec<Got> {
    let count = (PHASE.as_secs_f64() * PER_SECOND) as usize;
    let wanted = (0..count).filter_map(|_| Some((sim.some_alive()?, sim.random(keys)))).collect();
    lab.gets(sim, wanted, PER_SECOND)
}

/// Where each key still has a live value: at which level, in which cluster.
fn holders(sim: &Simulation, keys: usize) -> BTreeMap<usize, Vec<(Level, ClusterId, usize)>> {
    let mut holders: BTreeMap<usize, Vec<(Level, ClusterId, usize)>> = BTreeMap::new();
    for number in 0..keys {
        let key = key(number);
        for (node, dsht) in sim.alive() {
            for level in Levels::first(3).nearest_first() {
                if !dsht.stored(sim.now(), level, &key).is_empty() {
                    holders.entry(number).or_default().push((level, dsht.cluster(level), node));
                }
            }
        }
    }
    holders
}

/// What is needed to find out why: who asked for what, whom it asked, and who has it.
fn failures(sim: &Simulation, gots: &[&Got], holders: &BTreeMap<usize, Vec<(Level, ClusterId, usize)>>) -> Json {
    let one = |got: &&&Got| {
        let hops: Vec<String> = (got.found.hops.iter())
            .map(|hop| format!("{} {:?} {} {:?}", hop.level, sim.number_of(hop.peer.addr), hop.distance, hop.answer))
            .collect();
        let key = key(got.key);
        let at = |(level, cluster, node): &(Level, ClusterId, usize)| {
            format!("{level} {node} {} {cluster:?}", sim.node(*node).me().id.distance(&key))
        };
        let held: Vec<String> = holders.get(&got.key).into_iter().flatten().map(at).collect();
        json!({"node": got.node, "key": got.key, "hops": hops, "held_at": held})
    };
    gots.iter().filter(|got| got.found.values.is_empty()).take(20).map(|got| one(&got)).collect()
}

fn failed(gots: &[&Got]) -> usize {
    gots.iter().filter(|got| got.found.values.is_empty()).count()
}

fn row(phase: &str, alive: usize, gots: &[&Got]) -> Row {
    let times = Times::of(gots.iter().map(|got| got.took));
    vec![
        ("phase", json!(phase)),
        ("alive", json!(alive)),
        ("gets", json!(gots.len())),
        ("failed_gets", json!(failed(gots))),
        ("median_ms", json!(ms(times.percentile(50.0)))),
        ("p90_ms", json!(ms(times.percentile(90.0)))),
        ("p99_ms", json!(ms(times.percentile(99.0)))),
        ("max_ms", json!(ms(times.percentile(100.0)))),
    ]
}

const PER_SECOND: f64 = 200.0;
const SETTLES: Duration = Duration::from_secs(25 * 60);
const PHASE: Duration = Duration::from_secs(15);
