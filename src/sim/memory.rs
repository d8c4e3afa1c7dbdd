//! What an idle node and a stored value take, and how fast the simulator is.
//!
//! By the resident memory of this process, before and after: what the allocator keeps for itself is in it. So these
//! figures, alone of all experiments, are not quite the same on two runs.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use coral_dsht::sim::Simulation;
use coral_dsht::sim::latency::Map;
use coral_dsht::sim::workload::{key, value};
use coral_dsht::{Config, Dsht, Level, Levels};
use serde_json::json;

use super::lab::{Lab, only_global};
use crate::chart::{Axis, Chart, Series};
use crate::report::{Report, Row, rounded};

pub(super) fn run(lab: &Lab) -> anyhow::Result<Report> {
    let nodes = lab.nodes.unwrap_or(1000);
    let values = lab.keys.unwrap_or(50_000);
    lab.stage(&format!("{nodes} nodes, a single level"), (0, 3));
    // Kept until the end: what it gave back would be used again by the next, and not be seen.
    let (_single, small, _) = idle(lab, only_global(), nodes)?;
    lab.stage(&format!("{nodes} nodes, three levels"), (1, 3));
    let (mut sim, large, events) = idle(lab, Config::default(), nodes)?;
    lab.stage(&format!("{values} values"), (2, 3));
    // Putting fills memories of who was asked lately. The first half of the values does so, the second is measured: what it
    // adds is the values, and their owners' notes of them.
    let mut before = 0;
    for half in [0..values / 2, values / 2..values] {
        before = resident()?;
        let putting: Vec<(usize, usize)> = half.map(|number| (number, sim.random(nodes))).collect();
        let begin = |dsht: &mut Dsht, now, (number, node): &(usize, usize)| {
            dsht.put(now, key(*number), value(*node), Duration::from_secs(3600), Levels::only(Level::GLOBAL))
        };
        lab.ask(&mut sim, putting, 2000.0, begin, |(_, node)| *node, |_, _, _, _| {});
        // Long enough for all counters of puts to be swept.
        sim.run_for(Duration::from_secs(120));
    }
    let per_value = resident()?.saturating_sub(before) / (values - values / 2) as u64;

    let row = |what: &str, count: usize, bytes: u64| -> Row {
        vec![("what", json!(what)), ("how_many", json!(count)), ("bytes_each", json!(bytes))]
    };
    let rows = vec![
        row("idle nodes with a single level", nodes, small),
        row("idle nodes with three levels", nodes, large),
        row("values, with their owners' notes of them", values, per_value),
    ];
    let summary = vec![
        ("bytes_per_idle_node", json!(large)),
        ("bytes_per_stored_value", json!(per_value)),
        ("events_per_second", json!(rounded(events, -3))),
    ];
    let chart = Chart {
        title: format!("Memory of an idle node among {nodes}, by its levels"),
        x: Axis::linear("levels"),
        y: Axis::linear("bytes"),
        series: vec![Series::new("an idle node", vec![(1.0, small as f64), (3.0, large as f64)])],
    };
    Ok(Report { title: format!("memory and speed, {nodes} nodes, seed {}", lab.seed), rows, summary, chart })
}

/// A network that has been idle for a while; the bytes of each node, and how many events a second were simulated.
fn idle(lab: &Lab, config: Config, nodes: usize) -> anyhow::Result<(Simulation, u64, f64)> {
    let empty = resident()?;
    let mut sim = Simulation::new(lab.seed, config);
    sim.set_map(Map::planetlab(lab.seed));
    sim.settled(nodes);
    // Round trips of the keepalive, and with them the buffers that a running node has.
    let (begun, before) = (Instant::now(), sim.trace().events());
    sim.run_for(Duration::from_secs(30));
    let events = (sim.trace().events() - before) as f64 / begun.elapsed().as_secs_f64();
    let bytes = resident()?.saturating_sub(empty) / nodes as u64;
    Ok((sim, bytes, events))
}

/// Bytes of this process that are in memory, as Linux tells.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("only Linux tells what this process takes")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc/self/status has no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number of kB")?;
    Ok(1024 * kib)
}
