//! The load: wrk and h2load, from Debian, and what they say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use crate::servers::{HOST, Server};

/// What a response comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    /// HTTP/1.1, on 64 connections.
    Http,
    /// The same within TLS.
    Tls,
    /// HTTP/2 within TLS, 4 requests at once on 16 connections.
    Http2,
}

/// The program that asks.
#[derive(Debug)]
pub(crate) struct Load {
    over: Over,
    program: PathBuf,
    /// The processor to which it is confined, if it is.
    processor: Option<usize>,
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

impl Load {
    pub(crate) fn find(over: Over, processor: Option<usize>) -> anyhow::Result<Self> {
        let (program, package) = match over {
            Over::Http | Over::Tls => ("wrk", "wrk"),
            Over::Http2 => ("h2load", "nghttp2-client"),
        };
        let found = coral_rig::find(program);
        let program = found.with_context(|| format!("{program} is not installed: apt-get install {package}"))?;
        Ok(Self { over, program, processor })
    }

    /// Asks for the object of `size` bytes for so long.
    pub(crate) fn run(&self, server: &Server, size: usize, span: Duration) -> anyhow::Result<Outcome> {
        match self.over {
            Over::Http => self.wrk(&format!("http://{}/{size}", server.address), span),
            Over::Tls => self.wrk(&format!("https://{}/{size}", server.secure), span),
            Over::Http2 => self.h2load(server.secure, size, span),
        }
    }

    fn wrk(&self, url: &str, span: Duration) -> anyhow::Result<Outcome> {
        let text = self.said(
            self.command()
                .args(["-t1", "-c64", "--latency", "-H", &format!("Host: {HOST}")])
                .arg(format!("-d{}s", span.as_secs()))
                .arg(url),
        )?;
        read(&text).with_context(|| format!("wrk says what nobody understands: {text}"))
    }

    fn h2load(&self, address: SocketAddr, size: usize, span: Duration) -> anyhow::Result<Outcome> {
        let log = tempfile::NamedTempFile::new()?;
        let text = self.said(
            self.command()
                .args(["-t1", "-c16", "-m4"])
                .arg(format!("-D{}s", span.as_secs()))
                .arg(format!("--connect-to={address}"))
                .arg(format!("--log-file={}", log.path().display()))
                .arg(format!("https://{HOST}/{size}")),
        )?;
        let lines = std::fs::read_to_string(log.path())?;
        ensure!(text.contains("Application protocol: h2"), "h2load has not spoken HTTP/2: {text}");
        of_lines(&lines, span).with_context(|| format!("h2load has logged no response: {text}"))
    }

    fn command(&self) -> Command {
        let (program, arguments) = confined(self.processor, self.program.clone(), Vec::new());
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }

    fn said(&self, command: &mut Command) -> anyhow::Result<String> {
        let program = self.program.display();
        let output = command.output().with_context(|| format!("cannot start {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{program} has failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }
}

/// A program with its arguments, such that it runs on this processor alone if there is one.
pub(crate) fn confined(processor: Option<usize>, program: PathBuf, arguments: Vec<String>) -> (PathBuf, Vec<String>) {
    match processor {
        None => (program, arguments),
        Some(processor) => {
            let before = ["-c".to_owned(), processor.to_string(), program.display().to_string()];
            ("taskset".into(), before.into_iter().chain(arguments).collect())
        }
    }
}

/// What h2load has logged: for each request when it began, its status, and the microseconds until its end.
fn of_lines(lines: &str, span: Duration) -> Option<Outcome> {
    let mut bad = 0;
    let mut micros = Vec::new();
    for line in lines.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        match columns.as_slice() {
            [_, "200", took, ..] => micros.push(took.parse::<u64>().ok()?),
            _ => bad += 1,
        }
    }
    micros.sort_unstable();
    let at = |percent: usize| micros.get(micros.len() * percent / 100).map(|micros| *micros as f64 / 1e3);
    let (p50, p99) = (at(50)?, at(99)?);
    Some(Outcome { requests: micros.len() as u64, elapsed: span.as_secs_f64(), p50, p99, bad })
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
    fn what_h2load_logs_is_understood() {
        let lines: String =
            (1..=100).map(|took| format!("1\t200\t{took}000\n")).chain(["1\t-1\t5".to_owned()]).collect();
        let expected = Outcome { requests: 100, elapsed: 2.0, p50: 51.0, p99: 100.0, bad: 1 };
        assert_eq!(of_lines(&lines, Duration::from_secs(2)), Some(expected));
        assert_eq!(of_lines("", Duration::from_secs(2)), None);
    }

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
