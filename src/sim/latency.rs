//! How long a get takes with clusters at three levels, and in a single global one [C04 §6.2, fig. 6].
//!
//! As proxies do, whoever has got a key puts its own reference under it and does not ask for it again. What is measured is the
//! index alone: neither DNS nor the transfer.

use std::collections::BTreeSet;
use std::time::Duration;

use coral_dsht::sim::Simulation;
use coral_dsht::sim::workload::Popularity;
use coral_dsht::{Config, Levels, Outcome};
use serde_json::json;

use super::lab::{Lab, only_global, put};
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Row, Times, mean, ms, percent, rounded};

pub(super) fn run(lab: &Lab) -> Report {
    let nodes = lab.nodes.unwrap_or(490);
    let keys = lab.keys.unwrap_or(200);
    let mut rows: Vec<Row> = Vec::new();
    let mut series = Vec::new();
    let mut medians = Vec::new();
    let popularities = [("uniform", Popularity::uniform(keys)), ("Zipf 0.8", Popularity::zipf(keys, 0.8))];
    for (part, (name, popularity)) in popularities.iter().enumerate() {
        for (step, (levels, config)) in
            [("single", only_global()), ("three", Config::default())].into_iter().enumerate()
        {
            lab.stage(&format!("{levels} level, {name}"), (2 * part + step, 4));
            let mut sim = lab.network(config, nodes);
            let measured = measure(lab, &mut sim, nodes, keys, popularity);
            let times = Times::of(measured.iter().map(|got| got.0));
            medians.push(times.percentile(50.0));
            series.push(Series::new(format!("{levels} level, {name}"), times.distribution()));
            let found_at = |level: u8| measured.iter().filter(|got| got.1 == Some(level)).count();
            rows.push(vec![
                ("keys", json!(name)),
                ("levels", json!(levels)),
                ("nodes", json!(nodes)),
                ("gets", json!(times.len())),
                ("found_percent", json!(percent(measured.iter().filter(|got| got.1.is_some()).count(), times.len()))),
                ("at_l2_percent", json!(percent(found_at(2), times.len()))),
                ("at_l1_percent", json!(percent(found_at(1), times.len()))),
                ("hops_mean", json!(mean(measured.iter().map(|got| got.2 as f64)))),
                ("median_ms", json!(ms(times.percentile(50.0)))),
                ("p96_ms", json!(ms(times.percentile(96.0)))),
            ]);
        }
    }
    let ratio = |first: usize| rounded(medians[first].as_secs_f64() / medians[first + 1].as_secs_f64().max(0.000_1), 2);
    Report {
        title: format!("time of a get, {nodes} nodes, {keys} keys, seed {}", lab.seed),
        rows,
        summary: vec![("ratio_of_medians_uniform", json!(ratio(0))), ("ratio_of_medians_zipf", json!(ratio(2)))],
        chart: Chart {
            title: format!("Time of a get: {nodes} nodes over PlanetLab's distances, {keys} keys"),
            x: Axis::log("milliseconds"),
            y: Axis::linear("per cent of gets that take no longer"),
            series,
        },
    }
}

/// Time, level and hops of each get after the warm-up.
fn measure(
    lab: &Lab,
    sim: &mut Simulation,
    nodes: usize,
    keys: usize,
    popularity: &Popularity,
) -> Vec<(Duration, Option<u8>, usize)> {
    let mut has: BTreeSet<(usize, usize)> = BTreeSet::new();
    let first: Vec<(usize, usize)> = (0..keys).map(|key| (sim.random(nodes), key)).collect();
    has.extend(&first);
    lab.puts(sim, first, PER_SECOND);
    let (warm_up, count) = (nodes * keys / 5, MEASURED.min(nodes * keys / 4));
    let mut wanted = Vec::new();
    while wanted.len() < warm_up + count {
        let mut request = (sim.random(nodes), popularity.draw(sim));
        // The most popular keys are soon had by all who draw them; somebody else asks for something else then.
        while !has.insert(request) {
            request = (sim.random(nodes), sim.random(keys));
        }
        wanted.push(request);
    }
    let mut measured = Vec::new();
    let mut seen = 0;
    lab.ask(
        sim,
        wanted,
        PER_SECOND,
        |dsht, now, (_, key)| dsht.get(now, coral_dsht::sim::workload::key(*key), Levels::ALL),
        |(node, _)| *node,
        |sim, (node, key), took, outcome| {
            let Outcome::Get(found) = outcome else { return };
            let now = sim.now();
            sim.act(node, |dsht| put(dsht, now, node, key));
            seen += 1;
            if seen > warm_up {
                let me = sim.node(node).me();
                let hops = found.hops.iter().filter(|hop| hop.peer != me).count();
                measured.push((took, found.level.map(|level| level.number()), hops));
            }
        },
    );
    measured
}

const PER_SECOND: f64 = 100.0;
/// Gets that are measured, after each key has been got by a fifth of the nodes.
const MEASURED: usize = 5000;
