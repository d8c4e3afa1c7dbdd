//! All nodes want the same few objects, which nobody has, in one instant: who goes to the origin, and who fetches from whom
//! [C04 §6.1]. The index alone: nothing is transferred, but each node claims as a proxy does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coral_dsht::sim::Simulation;
use coral_dsht::sim::workload::{key, value};
use coral_dsht::{Claimed, Config, Level, Levels, Outcome};
use serde_json::json;

use super::hops::figure;
use super::lab::Lab;
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Row, Times, mean, ms, rounded};

pub(super) fn run(lab: &Lab) -> Report {
    let sizes = lab.sizes(&[166, 1000], &[10_000]);
    let keys = lab.keys.unwrap_or(12);
    let mut rows = Vec::new();
    let mut series = Vec::new();
    for (part, nodes) in sizes.iter().copied().enumerate() {
        lab.stage(&format!("{nodes} nodes"), (part, sizes.len()));
        let (row, depths) = crowd(lab, nodes, keys);
        rows.push(row);
        series.push(Series::new(format!("{nodes} nodes"), depths));
    }
    let origin: f64 = rows.iter().map(|row| figure(row, "origin_claims")).fold(0.0, f64::max);
    Report {
        title: format!("all nodes claim {keys} new keys in one instant, seed {}", lab.seed),
        rows,
        summary: vec![
            ("keys", json!(keys)),
            ("origin_claims", json!(origin as u64)),
            ("origin_claims_per_key", json!(rounded(origin / keys as f64, 2))),
        ],
        chart: Chart {
            title: format!("How far from the origin: nodes by their depth in the tree, per key ({keys} keys)"),
            x: Axis::linear("depth: 0 asks the origin, 1 fetches from it, …"),
            y: Axis::log("nodes per key, mean"),
            series,
        },
    }
}

fn crowd(lab: &Lab, nodes: usize, keys: usize) -> (Row, Vec<(f64, f64)>) {
    let mut sim = lab.network(Config::default(), nodes);
    let before = requests(&sim);
    let everybody: Vec<(usize, usize)> = (0..keys).flat_map(|key| (0..nodes).map(move |node| (node, key))).collect();
    let mut claims: BTreeMap<(usize, usize), Claimed> = BTreeMap::new();
    let mut times = Vec::new();
    lab.ask(
        &mut sim,
        everybody,
        f64::INFINITY,
        |dsht, now, (node, number)| dsht.claim(now, key(*number), value(*node), FETCHING, Levels::ALL, &[]),
        |(node, _)| *node,
        |_, request, took, outcome| {
            if let Outcome::Claim(claimed) = outcome {
                times.push(took);
                claims.insert(request, claimed);
            }
        },
    );
    let after = requests(&sim);
    let hottest = after.iter().zip(&before).map(|(after, before)| after - before).max().unwrap_or(0);

    let trees: Vec<Tree> = (0..keys).map(|key| Tree::of(&claims, key)).collect();
    let depths: Vec<usize> = trees.iter().flat_map(|tree| tree.depths()).collect();
    let fan_outs: Vec<usize> = trees.iter().flat_map(|tree| tree.fan_outs()).collect();
    let crossing = |level: Option<Level>| -> Vec<usize> {
        level.map_or_else(Vec::new, |level| trees.iter().flat_map(|tree| tree.crossing(&sim, level)).collect())
    };
    let (l1, l2) = (crossing(Level::new(1)), crossing(Level::new(2)));
    let numbers = |of: &[usize]| mean(of.iter().map(|number| *number as f64));
    let most = |of: &[usize]| of.iter().copied().max().unwrap_or(0);
    let times = Times::of(times);
    let row = vec![
        ("nodes", json!(nodes)),
        ("origin_claims", json!(trees.iter().map(|tree| tree.roots).sum::<usize>())),
        ("depth_mean", json!(numbers(&depths))),
        ("depth_max", json!(most(&depths))),
        ("fan_out_mean", json!(numbers(&fan_outs))),
        ("fan_out_max", json!(most(&fan_outs))),
        ("copies_into_l1_cluster_mean", json!(numbers(&l1))),
        ("copies_into_l1_cluster_max", json!(most(&l1))),
        ("copies_into_l2_cluster_mean", json!(numbers(&l2))),
        ("copies_into_l2_cluster_max", json!(most(&l2))),
        ("hottest_node_requests", json!(hottest)),
        ("claim_median_ms", json!(ms(times.percentile(50.0)))),
        ("claim_p99_ms", json!(ms(times.percentile(99.0)))),
        ("in_loops", json!(trees.iter().map(Tree::in_loops).sum::<usize>())),
    ];
    let deepest = most(&depths);
    let at = |depth: usize| depths.iter().filter(|other| **other == depth).count() as f64 / keys as f64;
    (row, (0..=deepest).map(|depth| (depth as f64, at(depth))).collect())
}

/// Who fetches one object from whom.
struct Tree {
    parent: BTreeMap<usize, usize>,
    roots: usize,
    depth: BTreeMap<usize, usize>,
}

impl Tree {
    fn of(claims: &BTreeMap<(usize, usize), Claimed>, key: usize) -> Self {
        let mut parent = BTreeMap::new();
        let mut depth = BTreeMap::new();
        for ((node, _), claimed) in claims.iter().filter(|((_, other), _)| *other == key) {
            // A value is the number of the node that claimed, as eight bytes.
            let first =
                claimed.values.first().and_then(|first| first.as_bytes().try_into().ok()).map(u64::from_be_bytes);
            match first {
                Some(first) => drop(parent.insert(*node, first as usize)),
                None => drop(depth.insert(*node, 0)),
            }
        }
        let roots = depth.len();
        loop {
            let next: Vec<(usize, usize)> = parent
                .iter()
                .filter(|(node, _)| !depth.contains_key(node))
                .filter_map(|(node, parent)| Some((*node, depth.get(parent)? + 1)))
                .collect();
            if next.is_empty() {
                break;
            }
            depth.extend(next);
        }
        Self { parent, roots, depth }
    }

    fn depths(&self) -> impl Iterator<Item = usize> {
        self.depth.values().copied()
    }

    /// Nodes that no chain of parents leads to the origin.
    fn in_loops(&self) -> usize {
        self.parent.keys().filter(|node| !self.depth.contains_key(node)).count()
    }

    /// How many fetch from each that anybody fetches from.
    fn fan_outs(&self) -> Vec<usize> {
        let mut children: BTreeMap<usize, usize> = BTreeMap::new();
        for parent in self.parent.values() {
            *children.entry(*parent).or_default() += 1;
        }
        children.into_values().collect()
    }

    /// For each cluster of `level`, how many of its nodes fetch from outside of it, the origin included. Two nodes that share a
    /// nearer cluster are near each other, even if they belong to different ones of this level.
    fn crossing(&self, sim: &Simulation, level: Level) -> Vec<usize> {
        let cluster = |node: usize| sim.node(node).cluster(level);
        let levels = Config::default().levels();
        let nearer: Vec<Level> = levels.nearest_first().take_while(|nearer| *nearer != level).collect();
        let is_near = |one: usize, other: usize| {
            let shares = |level: &Level| sim.node(one).cluster(*level) == sim.node(other).cluster(*level);
            shares(&level) || nearer.iter().any(shares)
        };
        let all: BTreeSet<_> = self.depth.keys().map(|node| cluster(*node)).collect();
        let mut crossing: BTreeMap<_, usize> = all.into_iter().map(|cluster| (cluster, 0)).collect();
        for node in self.depth.keys() {
            if self.parent.get(node).is_none_or(|parent| !is_near(*parent, *node)) {
                *crossing.entry(cluster(*node)).or_default() += 1;
            }
        }
        crossing.into_values().collect()
    }
}

/// The requests on behalf of applications that each node has received.
fn requests(sim: &Simulation) -> Vec<u64> {
    let of = |name: &&str| ["get", "put", "store", "claim"].contains(name);
    let count = |dsht: &coral_dsht::Dsht| -> u64 {
        dsht.stats().requests.iter().filter(|(name, _)| of(name)).map(|(_, count)| count).sum()
    };
    sim.alive().map(|(_, dsht)| count(dsht)).collect()
}

/// A reference lives so long while its node is fetching.
const FETCHING: Duration = Duration::from_secs(20);
