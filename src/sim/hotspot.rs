//! All nodes put the same keys all the time: how many of their puts reach the node nearest to each [C04 §4.2, fig. 8].
//!
//! The keys are put side by side at a single level: what one key costs a node does not depend on another. What each rule is
//! worth shows in a network of the paper's size; in a larger one only the promise is looked at, for a shorter time, as that
//! takes ten minutes for each load by itself.

use std::time::Duration;

use coral_dsht::config::Rules;
use coral_dsht::sim::check;
use coral_dsht::sim::workload::{Pace, all_put};
use coral_dsht::{Config, Key, Level, Levels};
use serde_json::json;

use super::hops::figure;
use super::lab::{Lab, bound, keys, only_global};
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Row, mean, rounded};

pub(super) fn run(lab: &Lab) -> Report {
    let nodes = lab.nodes.unwrap_or(494);
    let keys = keys(lab.keys.unwrap_or(20));
    let all = Rules::default();
    let second = Pace::Each(Duration::from_secs(1));
    let mut cases = vec![
        ("12,000 a minute in all", Pace::InAll(12_000), "all", all),
        ("one a second each", second, "all", all),
        ("as fast as they may", Pace::Each(FAST), "all", all),
    ];
    let promised = cases.len();
    if !is_large(nodes) {
        cases.extend([
            ("one a second each", second, "published", Rules { push_back: false, ..all }),
            ("one a second each", second, "no halving", Rules { halving: false, ..all }),
            ("one a second each", second, "no full and loaded", Rules { turn_back: false, ..all }),
        ]);
    }
    let mut rows = Vec::new();
    let mut series = Vec::new();
    for (part, (load, pace, rules, switches)) in cases.iter().enumerate() {
        lab.stage(&format!("{load}, rules: {rules}"), (part, cases.len()));
        let config = Config { rules: *switches, ..only_global() };
        let (row, curve) = case(lab, config, nodes, &keys, *pace);
        rows.push([vec![("load", json!(load)), ("rules", json!(rules))], row].concat());
        series.push(Series::new(if *rules == "all" { (*load).to_owned() } else { format!("1/s, {rules}") }, curve));
    }
    series.push(Series::new("β · ⌈log2 n⌉", vec![(1.0, bound(nodes)), (nodes as f64, bound(nodes))]).dashed());
    let chart = Chart {
        title: format!("Puts for one key that reach a node: {nodes} nodes, mean over {} keys", keys.len()),
        x: Axis::log("rank of the node by its distance to the key"),
        y: Axis::log("puts a minute"),
        series,
    };
    let worst = |name: &str| rows[..promised].iter().map(|row| figure(row, name)).fold(0.0, f64::max);
    let summary = vec![
        ("bound", json!(bound(nodes))),
        ("closest_mean_of_bound_at_most", json!(rounded(worst("closest_mean_per_minute") / bound(nodes), 2))),
        ("closest_max_of_bound_at_most", json!(rounded(worst("closest_max_per_minute") / bound(nodes), 2))),
    ];
    Report {
        title: format!("all of {nodes} nodes put one key, for {} keys, seed {}", keys.len(), lab.seed),
        rows,
        summary,
        chart,
    }
}

fn case(lab: &Lab, config: Config, nodes: usize, keys: &[Key], pace: Pace) -> (Row, Vec<(f64, f64)>) {
    let mut sim = lab.network(config, nodes);
    let levels = Levels::only(Level::GLOBAL);
    all_put(&mut sim, keys, pace, levels, WARM_UP, |_| {});
    for key in keys {
        sim.watch(*key);
    }
    let ranked: Vec<Vec<usize>> = keys.iter().map(|key| check::by_distance(&sim, key)).collect();
    let (mut looks, mut live) = (0, 0);
    let measured = if is_large(nodes) { MEASURED_IN_A_LARGE_ONE } else { MEASURED };
    all_put(&mut sim, keys, pace, levels, measured, |sim| {
        let now = sim.now();
        for (key, ranked) in keys.iter().zip(&ranked) {
            looks += 1;
            let near = &ranked[..NEAR.min(ranked.len())];
            live += usize::from(near.iter().any(|node| !sim.node(*node).stored(now, Level::GLOBAL, key).is_empty()));
        }
    });
    let minutes = measured.as_secs_f64() / 60.0;
    let by_rank: Vec<Vec<f64>> = keys
        .iter()
        .zip(&ranked)
        .map(|(key, ranked)| {
            let counts = sim.watched(key);
            ranked.iter().map(|node| counts.get(node).copied().unwrap_or(0) as f64 / minutes).collect()
        })
        .collect();
    let closest: Vec<f64> = by_rank.iter().map(|counts| counts[0]).collect();
    let hottest = by_rank.iter().flatten().copied().fold(0.0, f64::max);
    let offered = match pace {
        Pace::InAll(per_minute) => f64::from(per_minute),
        Pace::Each(period) => nodes as f64 * 60.0 / period.as_secs_f64(),
    };
    let row = vec![
        ("nodes", json!(nodes)),
        ("puts_per_minute", json!(offered.round())),
        ("closest_mean_per_minute", json!(mean(closest.iter().copied()))),
        ("closest_max_per_minute", json!(rounded(closest.iter().copied().fold(0.0, f64::max), 2))),
        ("bound", json!(bound(nodes))),
        ("hottest_of_all_per_minute", json!(rounded(hottest, 2))),
        ("live_near_key_percent", json!(rounded(100.0 * f64::from(live as u32) / f64::from(looks.max(1)), 2))),
    ];
    (row, curve(&by_rank))
}

/// The mean over all keys of what a node of each rank gets; far ranks are taken together, more and more of them.
fn curve(by_rank: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let ranks = by_rank.iter().map(Vec::len).min().unwrap_or(0);
    let mut points = Vec::new();
    let mut first = 0;
    while first < ranks {
        let end = (first + 1).max((first as f64 * 1.2) as usize).min(ranks);
        let rank = ((first + 1) as f64 * end as f64).sqrt();
        points.push((rank, mean(by_rank.iter().flat_map(|counts| counts[first..end].iter().copied()))));
        first = end;
    }
    points
}

fn is_large(nodes: usize) -> bool {
    nodes > LARGE
}

/// Networks beyond this size are large.
const LARGE: usize = 2000;
/// More often than any node is let put one key.
const FAST: Duration = Duration::from_millis(250);
const WARM_UP: Duration = Duration::from_secs(90);
const MEASURED: Duration = Duration::from_secs(180);
const MEASURED_IN_A_LARGE_ONE: Duration = Duration::from_secs(60);
/// A value is near a key that is at one of so many nearest nodes.
const NEAR: usize = 4;
