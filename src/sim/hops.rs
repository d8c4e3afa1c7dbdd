//! How many nodes a get asks at a single level, against ½ · log2 n + 1.

use std::collections::BTreeSet;

use serde_json::json;

use super::lab::{Lab, only_global};
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Times, mean, ms, percent, rounded};

pub(super) fn run(lab: &Lab) -> Report {
    let sizes = lab.sizes(&[100, 1000, 10_000], &[100_000]);
    let keys = lab.keys.unwrap_or(1000);
    let mut rows = Vec::new();
    for (part, nodes) in sizes.iter().copied().enumerate() {
        lab.stage(&format!("{nodes} nodes"), (part, sizes.len()));
        let mut sim = lab.network(only_global(), nodes);
        let putting = (0..keys).map(|key| (sim.random(nodes), key)).collect();
        lab.puts(&mut sim, putting, PER_SECOND);
        let getting = (0..keys).map(|key| (sim.random(nodes), key)).collect();
        let got = lab.gets(&mut sim, getting, PER_SECOND);
        let hops: Vec<f64> = got
            .iter()
            .map(|got| {
                let me = sim.node(got.node).me().id;
                // Each node once, however often it was asked: the hops of the path, not the datagrams.
                let asked: BTreeSet<_> = got.found.hops.iter().map(|hop| hop.peer.id).filter(|id| *id != me).collect();
                asked.len() as f64
            })
            .collect();
        let times = Times::of(got.iter().map(|got| got.took));
        rows.push(vec![
            ("nodes", json!(nodes)),
            ("gets", json!(got.len())),
            ("found_percent", json!(percent(got.iter().filter(|got| !got.found.values.is_empty()).count(), got.len()))),
            ("hops_mean", json!(mean(hops.iter().copied()))),
            ("hops_max", json!(hops.iter().copied().fold(0.0, f64::max))),
            ("aim", json!(aim(nodes))),
            ("median_ms", json!(ms(times.percentile(50.0)))),
            ("p99_ms", json!(ms(times.percentile(99.0)))),
        ]);
    }
    let line = |name: &str| rows.iter().map(|row| (figure(row, "nodes"), figure(row, name))).collect();
    let chart = Chart {
        title: format!("Nodes that a get asks at a single level (seed {})", lab.seed),
        x: Axis::log("nodes in the network"),
        y: Axis::linear("nodes asked, mean"),
        series: vec![Series::new("measured", line("hops_mean")), Series::new("½ · log2 n + 1", line("aim")).dashed()],
    };
    let worst = rows.iter().map(|row| figure(row, "hops_mean") / figure(row, "aim")).fold(0.0, f64::max);
    let summary = vec![("hops_of_aim_at_most", json!(rounded(worst, 2)))];
    Report { title: format!("hops of a get of one of {keys} keys, seed {}", lab.seed), rows, summary, chart }
}

fn aim(nodes: usize) -> f64 {
    rounded(0.5 * (nodes as f64).log2() + 1.0, 2)
}

pub(super) fn figure(row: &crate::report::Row, name: &str) -> f64 {
    row.iter().find(|(other, _)| *other == name).and_then(|(_, value)| value.as_f64()).unwrap_or(f64::NAN)
}

const PER_SECOND: f64 = 100.0;
