//! Tables of what was measured, ratios, and the bounds.

use std::fmt::Write as _;

use coral_rig::spread::{cell, spread};
use serde::Serialize;

use crate::traffic::Kind;

/// CPU time for an answer, at most so many times gdnsd's.
const MOST_CPU: f64 = 1.15;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) server: &'static str,
    pub(crate) kind: Kind,
    /// Asked at a fixed rate; else as fast as it answers.
    pub(crate) is_paced: bool,
    pub(crate) unknown_share: f64,
    pub(crate) answers: u64,
    pub(crate) lost: u64,
    /// Answers without an address.
    pub(crate) bad: u64,
    pub(crate) per_second: f64,
    /// The server's CPU time for an answer.
    pub(crate) cpu_us: f64,
    /// How late queries left on the average.
    pub(crate) lag_us: f64,
    pub(crate) known: Option<Latency>,
    pub(crate) unknown: Option<Latency>,
    pub(crate) memory_bytes: u64,
}

/// From when a query was due to its answer, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Latency {
    pub(crate) fn of(mut nanos: Vec<u64>) -> Option<Self> {
        nanos.sort_unstable();
        let max = *nanos.last()?;
        let at = |share: f64| nanos[((nanos.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        let mean = nanos.iter().sum::<u64>() as f64 / nanos.len() as f64 / 1e3;
        Some(Self { mean, p50: at(0.5), p99: at(0.99), max: max as f64 / 1e3 })
    }
}

fn servers(samples: &[Sample]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for sample in samples {
        if !names.contains(&sample.server) {
            names.push(sample.server);
        }
    }
    names
}

/// What each server did, as a Markdown table.
pub(crate) fn table(samples: &[Sample]) -> String {
    let kinds: Vec<Kind> = [Kind::Plain, Kind::Edns, Kind::Ecs]
        .into_iter()
        .filter(|kind| samples.iter().any(|s| s.kind == *kind && !s.is_paced))
        .collect();
    let mut text = String::from("| |");
    for kind in &kinds {
        let _ = write!(text, " {}: 1,000 queries/s | µs CPU |", kind.title());
    }
    text.push_str(" ECS at 20,000/s: µs mean | p50 | p99 | µs CPU | memory MB | lost / bad |\n");
    let _ = writeln!(text, "|{}", "---|".repeat(2 * kinds.len() + 7));
    for server in servers(samples) {
        let _ = write!(text, "| {server} |");
        let of = |kind, is_paced, value: fn(&Sample) -> f64| -> Vec<f64> {
            let here = |s: &&Sample| s.server == server && s.kind == kind && s.is_paced == is_paced;
            samples.iter().filter(here).map(value).collect()
        };
        for &kind in &kinds {
            let _ = write!(text, " {} |", cell(of(kind, false, |s| s.per_second / 1e3), 1));
            let _ = write!(text, " {} |", cell(of(kind, false, |s| s.cpu_us), 2));
        }
        let paced: [fn(&Sample) -> f64; 3] = [mean, p50, p99];
        for value in paced {
            let _ = write!(text, " {} |", cell(of(Kind::Ecs, true, value), 0));
        }
        let _ = write!(text, " {} |", cell(of(Kind::Ecs, true, |s| s.cpu_us), 2));
        let mine = || samples.iter().filter(|s| s.server == server);
        let memory = mine().map(|s| s.memory_bytes).max().unwrap_or_default();
        let (lost, bad) = mine().fold((0, 0), |(lost, bad), s| (lost + s.lost, bad + s.bad));
        let _ = writeln!(text, " {:.1} | {lost} / {bad} |", memory as f64 / 1e6);
    }
    let lag = cell(samples.iter().filter(|s| s.is_paced).map(|s| s.lag_us).collect(), 1);
    let _ = writeln!(text, "\nQueries left {lag} µs late on the average; latencies include it.");
    text
}

fn mean(sample: &Sample) -> f64 {
    sample.known.map_or(f64::NAN, |latency| latency.mean)
}

fn p50(sample: &Sample) -> f64 {
    sample.known.map_or(f64::NAN, |latency| latency.p50)
}

fn p99(sample: &Sample) -> f64 {
    sample.known.map_or(f64::NAN, |latency| latency.p99)
}

/// `value` of `one` as a multiple of `other`'s, round by round, with client subnets.
fn ratio(samples: &[Sample], one: &str, other: &str, is_paced: bool, value: fn(&Sample) -> f64) -> Vec<f64> {
    let of = |server: &str, round| {
        let here =
            |s: &&Sample| s.server == server && s.round == round && s.kind == Kind::Ecs && s.is_paced == is_paced;
        samples.iter().find(here).map(value)
    };
    let rounds = samples.iter().map(|s| s.round).max().unwrap_or_default();
    (1..=rounds).filter_map(|round| Some(of(one, round)? / of(other, round)?)).collect()
}

/// The first server beside each of the others, as a Markdown table.
pub(crate) fn ratios(samples: &[Sample]) -> String {
    let names = servers(samples);
    let Some((one, others)) = names.split_first() else {
        return String::new();
    };
    let mut text = format!(
        "\n| {one} with ECS, as a multiple of | CPU a query | queries/s | mean latency at 20,000/s |\n|---|---|---|---|\n"
    );
    for other in others {
        let _ = writeln!(
            text,
            "| {other} | {} | {} | {} |",
            cell(ratio(samples, one, other, false, |s| s.cpu_us), 2),
            cell(ratio(samples, one, other, false, |s| s.per_second), 2),
            cell(ratio(samples, one, other, true, mean), 2),
        );
    }
    text
}

/// The latency of known clients, alone and beside unknown ones.
pub(crate) fn unmeasured(samples: &[Sample]) -> String {
    let mut text = String::from(
        "| at 20,000/s | of them unknown | known: µs mean | p50 | p99 | unknown: µs mean | µs CPU | lost / bad |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for server in servers(samples) {
        for is_mixed in [false, true] {
            let here: Vec<_> =
                samples.iter().filter(|s| s.server == server && (s.unknown_share > 0.0) == is_mixed).collect();
            let of = |value: fn(&Sample) -> f64, digits| cell(here.iter().map(|s| value(s)).collect(), digits);
            let unknown = cell(here.iter().filter_map(|s| Some(s.unknown?.mean)).collect(), 0);
            let share = here.first().map_or(0.0, |s| s.unknown_share);
            let (lost, bad) = here.iter().fold((0, 0), |(lost, bad), s| (lost + s.lost, bad + s.bad));
            let _ = writeln!(
                text,
                "| {server} | {share} | {} | {} | {} | {unknown} | {} | {lost} / {bad} |",
                of(mean, 0),
                of(p50, 0),
                of(p99, 0),
                of(|s| s.cpu_us, 2),
            );
        }
    }
    text
}

/// The bounds that do not hold, each by the median of the rounds. A peer that is not there breaks its bound: nothing has
/// been shown then.
pub(crate) fn broken(samples: &[Sample]) -> Vec<String> {
    let mut broken = Vec::new();
    for sample in samples {
        if sample.lost + sample.bad > 0 {
            broken.push(format!("{}: {} answers lost, {} bad", sample.server, sample.lost, sample.bad));
        }
    }
    let mut bound = |what: &str, values: Vec<f64>, holds: &dyn Fn(f64) -> bool| match spread(values) {
        Some([median, ..]) if holds(median) => {}
        Some([median, ..]) => broken.push(format!("{what}: {median:.2} times")),
        None => broken.push(format!("{what}: not measured")),
    };
    bound("CPU a query beside gdnsd", ratio(samples, "coral", "gdnsd", false, |s| s.cpu_us), &|r| r <= MOST_CPU);
    bound("queries a second beside knot", ratio(samples, "coral", "knot", false, |s| s.per_second), &|r| r > 1.0);
    for peer in servers(samples).into_iter().filter(|name| *name != "coral") {
        bound(&format!("mean latency beside {peer}"), ratio(samples, "coral", peer, true, mean), &|r| r < 1.0);
    }
    broken
}
