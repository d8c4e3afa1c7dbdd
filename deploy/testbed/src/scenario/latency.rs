//! How long clients wait [C04 §6.2, fig. 6]: with a single level, with levels, and with levels and hints about routers.
//!
//! Three networks of node processes on one map, one after the other, and the same requests in each: a client at a node asks its own
//! node for an object that the node has not, but others have. More and more of them have it, as everybody who has asked does.
//! What is measured is the time from the first step of connecting until the last byte is here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coral::chart::{Axis, Chart, Series};
use coral::outcome::Outcome;
use coral::report::{Report, Row, Times, ms, percent, rounded};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::chance::Chance;
use super::stage::{Findings, Stage, described};
use crate::client::{self, Answer, Object};
use crate::lab::Lab;
use crate::map::Site;
use crate::wan::control::{AccessChange, Limit, Request};

/// A network to measure.
#[derive(Debug)]
struct Case {
    name: &'static str,
    /// What differs from the defaults in each node's section `[dsht]`.
    dsht: &'static [&'static str],
    /// The paper's median and 96th percentile [C04 fig. 6].
    paper: [f64; 2],
}

/// Who asks for what, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Visit {
    /// Of the nodes, by their place in the map.
    node: usize,
    object: usize,
    /// Since the beginning.
    due: Duration,
    /// Not so while few have the object.
    is_measured: bool,
}

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let (nodes, objects) = if stage.options.short { (32, 24) } else { (64, 40) };
    let mut rows = Vec::new();
    let mut series = Vec::new();
    let mut medians = Vec::new();
    let mut broken = Vec::new();
    let mut network = String::new();
    for (number, case) in CASES.iter().enumerate() {
        eprintln!("{} of {}: {}", number + 1, CASES.len(), case.name);
        let (lab, settled) = stage.processes(nodes, case.dsht)?;
        network = described(&lab);
        // The origin is not what is measured.
        let free = AccessChange { up: Some(Limit::Unlimited), down: Some(Limit::Unlimited), queue: None };
        lab.wan()?.tell(&Request::Access { at: lab.map().origin().name.clone(), change: free })?;
        let all = Arc::new(client::objects(&stage.run_name(), objects));
        let visits = visits(stage.options.seed, lab.map().nodes().count(), objects);
        stage.say(&format!("{}: {} requests", case.name, visits.len()));
        let answers = measure(&lab, &all, &visits)?;
        let failed: Vec<String> =
            answers.iter().filter_map(|(_, answer)| Some(format!("{:#}", answer.as_ref().err()?))).collect();
        broken.extend(failed.iter().take(TOLD).map(|e| format!("{}: {e}", case.name)));
        let measured: Vec<Answer> = (answers.iter().filter(|(visit, _)| visit.is_measured))
            .filter_map(|(_, answer)| answer.as_ref().ok().copied())
            .collect();
        let times = Times::of(measured.iter().map(|answer| answer.last_byte));
        medians.push(times.percentile(50.0));
        series.push(Series::new(case.name, times.distribution()));
        rows.push(row(case, settled, &measured, &times, failed.len()));
    }
    if medians[1] >= medians[0] {
        broken.push(format!(
            "with levels the median is {:?}, not below the {:?} of a single level",
            medians[1], medians[0]
        ));
    }
    let ratio = |case: usize| rounded(medians[0].as_secs_f64() / medians[case].as_secs_f64().max(0.000_1), 2);
    let title = format!("latency of clients: {objects} objects of 41 KB, {network}");
    let chart = Chart {
        title: title.clone(),
        x: Axis::log("milliseconds until the last byte"),
        y: Axis::linear("per cent of requests that take no longer"),
        series,
    };
    let summary = vec![
        ("single_to_levels", json!(ratio(1))),
        ("single_to_levels_and_hints", json!(ratio(2))),
        ("network", json!(network)),
    ];
    Ok(Findings { report: Report { title, rows, summary, chart }, broken })
}

fn row(case: &Case, settled: Duration, answers: &[Answer], times: &Times, failed: usize) -> Row {
    let share = |source| percent(answers.iter().filter(|answer| answer.outcome == source).count(), answers.len());
    let first = Times::of(answers.iter().map(|answer| answer.first_byte));
    vec![
        ("network", json!(case.name)),
        ("clusters_settled_after_s", json!(rounded(settled.as_secs_f64(), 1))),
        ("requests", json!(answers.len())),
        ("failed", json!(failed)),
        ("median_ms", json!(ms(times.percentile(50.0)))),
        ("p96_ms", json!(ms(times.percentile(96.0)))),
        ("first_byte_median_ms", json!(ms(first.percentile(50.0)))),
        ("at_l2_percent", json!(share(Outcome::Peer(2)))),
        ("at_l1_percent", json!(share(Outcome::Peer(1)))),
        ("at_l0_percent", json!(share(Outcome::Peer(0)))),
        ("origin_percent", json!(share(Outcome::Origin))),
        ("paper_median_ms", json!(case.paper[0])),
        ("paper_p96_ms", json!(case.paper[1])),
    ]
}

/// The requests, the same for each network: first one node for each object, then others, no node twice for the same.
fn visits(seed: u64, nodes: usize, objects: usize) -> Vec<Visit> {
    let mut chance = Chance::new(seed, 0);
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    let mut others: Vec<(usize, usize)> = Vec::new();
    for object in 0..objects {
        let holder = chance.below(nodes);
        pairs.push((holder, object));
        others.extend((0..nodes).filter(|node| *node != holder).map(|node| (node, object)));
    }
    chance.shuffle(&mut others);
    let warm_up = objects + others.len() / 5;
    others.truncate(others.len() / 5 + others.len() / 2);
    // After the last of the first, all of them have been fetched.
    let due = |index: usize| {
        let wait = if index < objects { Duration::ZERO } else { FETCHED };
        wait + Duration::from_secs_f64(index as f64 / PER_SECOND)
    };
    let all = pairs.into_iter().chain(others).enumerate();
    all.map(|(index, (node, object))| Visit { node, object, due: due(index), is_measured: index >= warm_up }).collect()
}

/// Lets clients make these requests when they are due, and waits for all answers.
fn measure(
    lab: &Lab,
    objects: &Arc<Vec<Object>>,
    visits: &[Visit],
) -> anyhow::Result<Vec<(Visit, anyhow::Result<Answer>)>> {
    let map = lab.map();
    let nodes: Vec<&Site> = map.nodes().collect();
    let start = Instant::now() + GATHER;
    let answers = lab.at_each(&nodes, |site| {
        let own = visits.iter().copied().filter(|visit| nodes[visit.node].number == site.number);
        client(site.ipv4.into(), start, own.collect(), Arc::clone(objects))
    });
    Ok(answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

async fn client(
    node: IpAddr,
    start: Instant,
    visits: Vec<Visit>,
    objects: Arc<Vec<Object>>,
) -> Vec<(Visit, anyhow::Result<Answer>)> {
    let mut requests = JoinSet::new();
    for visit in visits {
        sleep_until(start + visit.due).await;
        let objects = Arc::clone(&objects);
        requests.spawn(async move { (visit, client::fetch(node, &objects[visit.object]).await) });
    }
    requests.join_all().await
}

const CASES: [Case; 3] = [
    Case { name: "a single level", dsht: &["diameters = []", "trace = false"], paper: [790.0, 9540.0] },
    Case { name: "levels", dsht: &["trace = false"], paper: [310.0, 4170.0] },
    Case { name: "levels and hints", dsht: &["trace = true"], paper: [190.0, 2500.0] },
];
/// Requests of all clients in a second.
const PER_SECOND: f64 = 25.0;
/// How long the first copies of objects may take to come from the origin.
const FETCHED: Duration = Duration::from_secs(5);
/// Until all clients stand ready.
const GATHER: Duration = Duration::from_secs(1);
/// Failures told one by one for each network.
const TOLD: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_asks_twice_for_the_same_and_each_object_is_somewhere_before_it_is_measured() {
        let visits = visits(1, 10, 6);
        let mut pairs: Vec<_> = visits.iter().map(|visit| (visit.node, visit.object)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), visits.len());
        assert!(visits.is_sorted_by_key(|visit| visit.due));
        let mut had: Vec<usize> = visits[..6].iter().map(|visit| visit.object).collect();
        had.sort_unstable();
        assert!(had.into_iter().eq(0..6));
        assert!(!visits[6].is_measured && visits[6].due - visits[5].due > FETCHED);
        assert_eq!(visits.iter().filter(|visit| visit.is_measured).count(), 6 * 9 / 2);
    }
}
