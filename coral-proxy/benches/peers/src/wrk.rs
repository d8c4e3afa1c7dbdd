//! The load: wrk, from Debian, and what it says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::servers::HOST;

/// The program.
#[derive(Debug)]
pub(crate) struct Wrk {
    program: PathBuf,
}

/// What it measured.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    /// In seconds.
    pub(crate) elapsed: f64,
    /// Milliseconds to the end of a response.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Responses that were no 200, and connections that broke.
    pub(crate) bad: u64,
}

impl Wrk {
    pub(crate) fn find() -> anyhow::Result<Self> {
        Ok(Self { program: coral_rig::find("wrk").context("wrk is not installed: apt-get install wrk")? })
    }

    /// Asks for the object of `size` bytes for so long.
    pub(crate) fn run(&self, address: SocketAddr, size: usize, span: Duration) -> anyhow::Result<Outcome> {
        let output = Command::new(&self.program)
            .args(["-t1", "-c64", "--latency", "-H", &format!("Host: {HOST}")])
            .arg(format!("-d{}s", span.as_secs()))
            .arg(format!("http://{address}/{size}"))
            .output()
            .context("cannot start wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk has failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        read(&text).with_context(|| format!("wrk says what nobody understands: {text}"))
    }
}

fn read(text: &str) -> Option<Outcome> {
    let mut outcome = Outcome::default();
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", value] => outcome.p50 = milliseconds(value)?,
            ["99%", value] => outcome.p99 = milliseconds(value)?,
            [requests, "requests", "in", elapsed, ..] => {
                outcome.requests = requests.parse().ok()?;
                outcome.elapsed = milliseconds(elapsed.trim_end_matches(','))? / 1e3;
            }
            ["Non-2xx", .., count] => outcome.bad += count.parse::<u64>().ok()?,
            // Time-outs are of requests that go on.
            ["Socket", "errors:", "connect", connect, "read", read, "write", write, ..] => {
                for count in [connect, read, write] {
                    outcome.bad += count.trim_end_matches(',').parse::<u64>().ok()?;
                }
            }
            _ => {}
        }
    }
    (outcome.requests > 0 && outcome.p50 > 0.0).then_some(outcome)
}

fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 6e4)];
    let (number, unit) = units.into_iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood() {
        let text = "  1 threads and 64 connections\n  Latency Distribution\n     50%  397.00us\n     75%  1.20ms\n     99%    2.31ms\n  \
                    285034 requests in 3.01s, 369.20MB read\n  Socket errors: connect 0, read 1, write 0, timeout 2\n  \
                    Non-2xx or 3xx responses: 7\nRequests/sec:  94733.11\n";
        let expected = Outcome { requests: 285_034, elapsed: 3.01, p50: 0.397, p99: 2.31, bad: 8 };
        assert_eq!(read(text), Some(expected));
        assert_eq!(read("unable to connect"), None);
    }
}
