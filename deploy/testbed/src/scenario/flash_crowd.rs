//! The flash crowd [C04 §6.1, fig. 5]: twelve files of 41 KB on an origin behind 384 kbit/s, and everybody wants all of them at once.
//!
//! A client at each node asks its own node for all twelve files in one instant, in an order of its own, and goes on asking for
//! one after another, popular ones more often, until the time is over. The paper's origin was asked 15 times. Here it is 12.

use std::collections::BTreeMap;
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
use crate::origin::FILES;

/// What came of one request.
#[derive(Debug)]
struct Sample {
    /// When it ended, since the first instant.
    at: Duration,
    /// Whether it was made in that instant.
    is_first: bool,
    answer: anyhow::Result<Answer>,
}

/// What a client does.
#[derive(Debug, Clone)]
struct Plan {
    objects: Arc<Vec<Object>>,
    /// The first instant.
    start: Instant,
    length: Duration,
    /// Between two requests of one client, in the mean, after the first instant.
    pause: Duration,
    seed: u64,
}

pub(super) fn run(stage: &Stage) -> anyhow::Result<Findings> {
    let lab = stage.lab(if stage.options.short { 24 } else { 64 })?;
    let map = lab.map();
    let nodes: Vec<&Site> = map.nodes().collect();
    let run = stage.run_name();
    let plan = Plan {
        objects: Arc::new(client::objects(&run, FILES)),
        start: Instant::now() + GATHER,
        length: Duration::from_secs(if stage.options.short { 30 } else { 60 }),
        pause: PAUSE.max(Duration::from_secs_f64(nodes.len() as f64 / MOST_PER_SECOND)),
        seed: stage.options.seed,
    };
    stage.say(&format!("{} clients ask for {FILES} files", nodes.len()));
    let samples = crowd(&lab, &nodes, &plan)?;
    let asked = lab.origin_requests()?;
    let asked: Vec<u64> = plan.objects.iter().map(|object| asked.get(&object.target).copied().unwrap_or(0)).collect();
    Ok(findings(&described(&lab), &plan, &samples, &asked))
}

/// Lets all clients ask, and waits until each has had its last answer.
fn crowd(lab: &Lab, nodes: &[&Site], plan: &Plan) -> anyhow::Result<Vec<Sample>> {
    let work = |site: &Site| visit(site.ipv4.into(), u64::from(site.number), plan.clone());
    let samples: Vec<Vec<Sample>> = lab.at_each(nodes, work).into_iter().collect::<anyhow::Result<_>>()?;
    Ok(samples.into_iter().flatten().collect())
}

/// One client.
async fn visit(node: IpAddr, number: u64, plan: Plan) -> Vec<Sample> {
    let mut chance = Chance::new(plan.seed, number);
    let mut order: Vec<usize> = (0..plan.objects.len()).collect();
    chance.shuffle(&mut order);
    let mut requests = JoinSet::new();
    let ask = |requests: &mut JoinSet<Sample>, index: usize, is_first| {
        let plan = plan.clone();
        requests.spawn(async move {
            let answer = client::fetch(node, &plan.objects[index]).await;
            Sample { at: plan.start.elapsed(), is_first, answer }
        });
    };
    let mut samples = Vec::new();
    sleep_until(plan.start).await;
    for index in order {
        ask(&mut requests, index, true);
    }
    let mut next = plan.start;
    while next < plan.start + plan.length {
        tokio::select! {
            Some(sample) = requests.join_next() => samples.extend(sample),
            () = sleep_until(next) => {
                // Who waits for so many answers asks for no more.
                if requests.len() < MOST_AT_ONCE {
                    ask(&mut requests, chance.popular(plan.objects.len()), false);
                }
                // As people come, independently of each other.
                next += plan.pause.mul_f64(-(1.0 - chance.share()).ln());
            }
        }
    }
    samples.extend(requests.join_all().await);
    samples
}

/// Figures, picture and verdict.
fn findings(network: &str, plan: &Plan, samples: &[Sample], asked: &[u64]) -> Findings {
    let mut by_source: BTreeMap<Outcome, Vec<Duration>> = SOURCES.into_iter().map(|source| (source, vec![])).collect();
    let mut failures = Vec::new();
    for sample in samples {
        match &sample.answer {
            Ok(answer) => by_source.entry(answer.outcome).or_default().push(answer.last_byte),
            Err(e) => failures.push(format!("after {:.1} s, {e:#}", sample.at.as_secs_f64())),
        }
    }
    let row = |name: &str, times: &Times| -> Row {
        vec![
            ("answers_from", json!(name)),
            ("answers", json!(times.len())),
            ("percent", json!(percent(times.len(), samples.len()))),
            ("median_ms", json!(ms(times.percentile(50.0)))),
            ("p96_ms", json!(ms(times.percentile(96.0)))),
            ("most_ms", json!(ms(times.percentile(100.0)))),
        ]
    };
    let mut rows: Vec<Row> =
        by_source.iter().map(|(source, times)| row(&source.to_string(), &Times::of(times.iter().copied()))).collect();
    let all = Times::of(by_source.values().flatten().copied());
    rows.push(row("all", &all));
    let first = Times::of(
        samples
            .iter()
            .filter(|sample| sample.is_first)
            .filter_map(|sample| Some(sample.answer.as_ref().ok()?.last_byte)),
    );
    let origin: u64 = asked.iter().sum();
    let seconds = plan.length.as_secs_f64();
    let summary = vec![
        ("files", json!(asked.len())),
        ("origin_requests", json!(origin)),
        ("origin_requests_in_the_paper", json!(PAPER)),
        ("requests", json!(samples.len())),
        ("requests_per_second", json!(rounded(samples.len() as f64 / seconds, 1))),
        ("failed", json!(failures.len())),
        ("median_ms", json!(ms(all.percentile(50.0)))),
        ("p96_ms", json!(ms(all.percentile(96.0)))),
        ("first_instant_median_ms", json!(ms(first.percentile(50.0)))),
        ("first_instant_done_ms", json!(ms(first.percentile(100.0)))),
        ("network", json!(network)),
    ];
    let title = format!("flash crowd: {} files of 41 KB, {network}", asked.len());
    let mut broken: Vec<String> = Vec::new();
    for (number, times) in asked.iter().enumerate().filter(|(_, times)| **times != 1) {
        broken.push(format!("the origin was asked {times} times for file {}", number + 1));
    }
    broken.extend(failures.iter().take(TOLD).cloned());
    if failures.len() > TOLD {
        broken.push(format!("and {} more requests failed", failures.len() - TOLD));
    }
    let chart = chart(&title, plan.length, samples);
    Findings { report: Report { title, rows, summary, chart }, broken }
}

/// Answers in each second, by where they came from: the paper's figure 5, as areas.
fn chart(title: &str, length: Duration, samples: &[Sample]) -> Chart {
    let bins = length.as_secs() as usize;
    let series = SOURCES.iter().map(|source| {
        let mut counts = vec![0u32; bins];
        for sample in samples {
            let is_from = sample.answer.as_ref().is_ok_and(|answer| answer.outcome == *source);
            // Those that come after the end are of the last second.
            if is_from {
                counts[(sample.at.as_secs() as usize).min(bins - 1)] += 1;
            }
        }
        let points = counts.iter().enumerate().map(|(second, count)| (second as f64, f64::from(*count)));
        Series::new(source.to_string(), points.collect()).area()
    });
    Chart {
        title: title.to_owned(),
        x: Axis::linear("seconds since the first instant"),
        y: Axis::linear("answers in this second"),
        series: series.collect(),
    }
}

/// From the nearest to the farthest.
const SOURCES: [Outcome; 5] = [Outcome::Local, Outcome::Peer(2), Outcome::Peer(1), Outcome::Peer(0), Outcome::Origin];
/// How often the origin of the paper's experiment was asked [C04 §6.1].
const PAPER: u64 = 15;
/// Until all clients stand ready.
const GATHER: Duration = Duration::from_secs(1);
/// Between two requests of a client, in the mean, at least.
const PAUSE: Duration = Duration::from_millis(250);
/// Requests of all clients in a second, at most, after the first instant.
const MOST_PER_SECOND: f64 = 80.0;
/// Requests of one client under way.
const MOST_AT_ONCE: usize = 64;
/// Failures told one by one; beyond, only their number.
const TOLD: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, outcome: Outcome) -> Sample {
        let at = Duration::from_secs_f64(at);
        Sample { at, is_first: true, answer: Ok(Answer { outcome, first_byte: at, last_byte: at }) }
    }

    fn plan() -> Plan {
        let (start, length) = (Instant::now(), Duration::from_secs(3));
        Plan { objects: Arc::new(client::objects("test", 2)), start, length, pause: PAUSE, seed: 1 }
    }

    #[test]
    fn answers_are_counted_by_source_and_second() {
        let samples = [sample(0.2, Outcome::Origin), sample(1.5, Outcome::Local), sample(9.0, Outcome::Local)];
        let found = findings("test", &plan(), &samples, &[1, 1]);
        assert_eq!(found.broken, [""; 0]);
        let local = &found.report.chart.series[0];
        assert_eq!(local.points, [(0.0, 0.0), (1.0, 1.0), (2.0, 1.0)]);
        assert_eq!(found.report.rows.last().unwrap()[1].1, 3);
    }

    #[test]
    fn an_origin_asked_twice_and_a_failure_are_told() {
        let failed =
            Sample { answer: Err(anyhow::anyhow!("it was altered on its way")), ..sample(0.5, Outcome::Local) };
        let found = findings("test", &plan(), &[failed], &[1, 2]);
        assert_eq!(found.broken, ["the origin was asked 2 times for file 2", "after 0.5 s, it was altered on its way"]);
    }
}
