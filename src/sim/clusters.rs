//! All nodes join in one second; much later a region is cut off for five minutes and returns. What clusters there are, and
//! how near each other the nodes in them are [C04 §4.4].

use std::collections::BTreeMap;
use std::time::Duration;

use coral_dsht::sim::Simulation;
use coral_dsht::sim::check::{self, Clustering};
use coral_dsht::sim::latency::Map;
use coral_dsht::{ClusterId, Config, Level};
use serde_json::json;

use super::hops::figure;
use super::lab::Lab;
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Row, rounded};

pub(super) fn run(lab: &Lab) -> Report {
    let nodes = lab.nodes.unwrap_or(490);
    let mut sim = Simulation::new(lab.seed, Config::default());
    sim.set_map(Map::planetlab(lab.seed));
    for _ in 0..nodes {
        sim.join_one();
        sim.run_for(Duration::from_micros(1_000_000 / nodes as u64));
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut moves = 0;
    let ends = SETTLING + APART + TOGETHER;
    let mut island = Vec::new();
    for minute in 1..=ends {
        lab.stage(phase(minute), (minute as usize - 1, ends as usize));
        if minute == SETTLING + 1 {
            island = region(&sim);
            sim.split(&island);
        }
        if minute == SETTLING + APART + 1 {
            sim.heal();
        }
        sim.run_for(Duration::from_secs(60));
        let moved: u64 = sim.alive().map(|(_, dsht)| dsht.stats().cluster_moves).sum();
        if SHOWN.contains(&minute) || minute % 5 == 0 {
            let (l1, l2) = (at(&sim, 1), at(&sim, 2));
            rows.push(vec![
                ("minute", json!(minute)),
                ("phase", json!(phase(minute))),
                ("l1_clusters", json!(l1.sizes.len())),
                ("l1_largest", json!(largest(&l1))),
                ("l1_alone", json!(alone(&l1))),
                ("l1_within_percent", json!(rounded(100.0 * l1.share_within(), 1))),
                ("l1_together_percent", json!(rounded(100.0 * l1.share_together(), 1))),
                ("l2_clusters", json!(l2.sizes.len())),
                ("l2_largest", json!(largest(&l2))),
                ("l2_alone", json!(alone(&l2))),
                ("l2_within_percent", json!(rounded(100.0 * l2.share_within(), 1))),
                ("l2_together_percent", json!(rounded(100.0 * l2.share_together(), 1))),
                ("moves_in_this_minute", json!(moved - moves)),
                ("know_nearest_percent", json!(rounded(100.0 * check::know_their_nearest(&sim), 1))),
                ("l1_sizes", json!(l1.sizes)),
                ("l2_sizes", json!(l2.sizes)),
            ]);
        }
        moves = moved;
    }
    let line = |name: &str| rows.iter().map(|row| (figure(row, "minute"), figure(row, name))).collect();
    let of = |minute: u64, name: &str| {
        let row = rows.iter().find(|row| figure(row, "minute") == minute as f64);
        row.map_or(f64::NAN, |row| figure(row, name))
    };
    let summary = vec![
        ("island", json!(island.len())),
        ("l1_within_percent", json!(of(SETTLING, "l1_within_percent"))),
        ("l2_within_percent", json!(of(SETTLING, "l2_within_percent"))),
        ("moves_a_minute_when_settled", json!(of(SETTLING, "moves_in_this_minute"))),
        ("l1_within_percent_at_the_end", json!(of(ends, "l1_within_percent"))),
        ("moves_a_minute_at_the_end", json!(of(ends, "moves_in_this_minute"))),
    ];
    Report {
        title: format!("{nodes} nodes join in one second, a region splits off and returns, seed {}", lab.seed),
        chart: Chart {
            title: format!(
                "Clusters of {nodes} nodes; a region is away from minute {SETTLING} to {}",
                SETTLING + APART
            ),
            x: Axis::linear("minutes"),
            y: Axis::linear("clusters; pairs within the diameter, per cent"),
            series: vec![
                Series::new("clusters at L1", line("l1_clusters")),
                Series::new("clusters at L2", line("l2_clusters")),
                Series::new("L1 pairs within 60 ms, %", line("l1_within_percent")),
                Series::new("L2 pairs within 20 ms, %", line("l2_within_percent")),
                Series::new("moves in the minute", line("moves_in_this_minute")),
            ],
        },
        rows,
        summary,
    }
}

fn phase(minute: u64) -> &'static str {
    if minute <= SETTLING {
        "all together"
    } else if minute <= SETTLING + APART {
        "a region is away"
    } else {
        "together again"
    }
}

/// The nodes of the largest cluster at L1.
fn region(sim: &Simulation) -> Vec<usize> {
    let Some(level) = Level::new(1) else { return Vec::new() };
    let mut clusters: BTreeMap<ClusterId, Vec<usize>> = BTreeMap::new();
    for (node, dsht) in sim.alive() {
        clusters.entry(dsht.cluster(level)).or_default().push(node);
    }
    clusters.into_values().max_by_key(Vec::len).unwrap_or_default()
}

fn at(sim: &Simulation, level: u8) -> Clustering {
    Level::new(level).map(|level| check::clustering(sim, level)).unwrap_or_default()
}

fn largest(clustering: &Clustering) -> usize {
    clustering.sizes.first().copied().unwrap_or(0)
}

fn alone(clustering: &Clustering) -> usize {
    clustering.sizes.iter().filter(|size| **size == 1).count()
}

/// In minutes.
const SETTLING: u64 = 30;
const APART: u64 = 5;
const TOGETHER: u64 = 15;
/// Minutes that are shown besides each fifth.
const SHOWN: [u64; 6] = [1, 2, 3, 36, 37, 38];
