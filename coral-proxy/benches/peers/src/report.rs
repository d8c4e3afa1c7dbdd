//! Tables of what was measured, ratios, and the bounds.

use std::fmt::Write as _;
use std::time::Duration;

use coral_rig::spread::{cell, spread};
use serde::Serialize;

use crate::load::Outcome;
use crate::servers::Server;

/// CPU time for a hit of 1 KiB, at most so many microseconds.
const MOST_CPU_US: f64 = 9.0;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    round: u32,
    server: &'static str,
    /// Of the object, in bytes.
    size: usize,
    per_second: f64,
    megabytes_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// The server's CPU time for a request.
    cpu_us: f64,
    memory_bytes: u64,
}

impl Sample {
    pub(crate) fn new(round: u32, server: &Server, size: usize, outcome: &Outcome, cpu: Duration) -> Self {
        let per_second = outcome.requests as f64 / outcome.elapsed;
        Self {
            round,
            server: server.name,
            size,
            per_second,
            megabytes_per_second: per_second * size as f64 / 1e6,
            p50_ms: outcome.p50,
            p99_ms: outcome.p99,
            cpu_us: cpu.as_secs_f64() * 1e6 / outcome.requests as f64,
            memory_bytes: server.process.memory(),
        }
    }
}

fn distinct<T: PartialEq + Copy>(samples: &[Sample], of: impl Fn(&Sample) -> T) -> Vec<T> {
    let mut seen = Vec::new();
    for sample in samples {
        if !seen.contains(&of(sample)) {
            seen.push(of(sample));
        }
    }
    seen
}

fn title(size: usize) -> String {
    match size {
        size if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        size if size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        size => format!("{size} bytes"),
    }
}

/// What each server did, as a Markdown table.
pub(crate) fn table(samples: &[Sample]) -> String {
    let sizes = distinct(samples, |sample| sample.size);
    let mut text = String::from("| |");
    for size in &sizes {
        let _ = write!(text, " {}: requests/s | MB/s | p50 ms | p99 ms | µs CPU |", title(*size));
    }
    let _ = writeln!(text, " memory MB |\n|{}", "---|".repeat(5 * sizes.len() + 2));
    for server in distinct(samples, |sample| sample.server) {
        let _ = write!(text, "| {server} |");
        for size in &sizes {
            let of = |value: fn(&Sample) -> f64, digits| {
                let here = samples.iter().filter(|s| s.server == server && s.size == *size);
                cell(here.map(value).collect(), digits)
            };
            let (rate, mega) = (of(|s| s.per_second, 0), of(|s| s.megabytes_per_second, 0));
            let (p50, p99, cpu) = (of(|s| s.p50_ms, 2), of(|s| s.p99_ms, 2), of(|s| s.cpu_us, 1));
            let _ = write!(text, " {rate} | {mega} | {p50} | {p99} | {cpu} |");
        }
        let memory = samples.iter().filter(|s| s.server == server).map(|s| s.memory_bytes).max().unwrap_or_default();
        let _ = writeln!(text, " {:.0} |", memory as f64 / 1e6);
    }
    text
}

/// `value` of `one` as a multiple of `other`'s, round by round.
fn ratio(samples: &[Sample], one: &str, other: &str, size: usize, value: fn(&Sample) -> f64) -> Vec<f64> {
    let of = |server: &str, round| {
        samples.iter().find(|s| s.server == server && s.round == round && s.size == size).map(value)
    };
    let rounds = samples.iter().map(|s| s.round).max().unwrap_or_default();
    (1..=rounds).filter_map(|round| Some(of(one, round)? / of(other, round)?)).collect()
}

/// The first server beside each of the others, as a Markdown table.
pub(crate) fn ratios(samples: &[Sample]) -> String {
    let names = distinct(samples, |sample| sample.server);
    let Some((one, others)) = names.split_first() else {
        return String::new();
    };
    let sizes = distinct(samples, |sample| sample.size);
    let mut text = format!("\n| {one}, as a multiple of |");
    for size in &sizes {
        let _ = write!(text, " {}: requests/s | p99 | CPU |", title(*size));
    }
    let _ = writeln!(text, "\n|{}", "---|".repeat(3 * sizes.len() + 1));
    for other in others {
        let _ = write!(text, "| {other} |");
        for size in &sizes {
            for value in [(|s| s.per_second) as fn(&Sample) -> f64, |s| s.p99_ms, |s| s.cpu_us] {
                let _ = write!(text, " {} |", cell(ratio(samples, one, other, *size, value), 2));
            }
        }
        text.push('\n');
    }
    text
}

/// The bounds that do not hold, each by the median of the rounds. A peer that is not there breaks its bound: nothing has
/// been shown then.
pub(crate) fn broken(samples: &[Sample]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut bound = |what: String, values: Vec<f64>, holds: &dyn Fn(f64) -> bool| match spread(values) {
        Some([median, ..]) if holds(median) => {}
        Some([median, ..]) => broken.push(format!("{what}: {median:.2}")),
        None => broken.push(format!("{what}: not measured")),
    };
    let small = samples.iter().filter(|s| s.server == "coral" && s.size == 1 << 10);
    let small = small.map(|s| s.cpu_us).collect();
    bound("µs of CPU for a hit of 1 KiB".to_owned(), small, &|cpu| cpu <= MOST_CPU_US);
    for (size, peers) in [(1 << 10, &["haproxy"][..]), (100 << 10, &["nginx"]), (10 << 20, &["trafficserver", "nginx"])]
    {
        for peer in peers {
            let what = format!("requests a second of {} as a multiple of {peer}'s", title(size));
            bound(what, ratio(samples, "coral", peer, size, |s| s.per_second), &|ratio| ratio >= 1.0);
            let what = format!("p99 of {} as a multiple of {peer}'s", title(size));
            bound(what, ratio(samples, "coral", peer, size, |s| s.p99_ms), &|ratio| ratio <= 1.0);
        }
    }
    broken
}
