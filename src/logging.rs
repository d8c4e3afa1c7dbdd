//! The log: lines for people or for machines, on standard error, through `tracing`.

mod human;
mod lines;
mod record;
mod requests;
mod traces;

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

pub(crate) use self::lines::Lines;
pub use self::lines::Writing;
pub(crate) use self::requests::Requests;
pub(crate) use self::traces::{Sending, Traces};
use crate::config::{Log, LogFormat};

/// What a filter such as `info,coral_proxy::access=off` means.
pub fn parse_filter(text: &str) -> anyhow::Result<Targets> {
    let meant = || {
        // Left to itself, the parser takes a misspelt level for the name of a module, and then nothing is logged.
        for part in text.split(',').filter(|part| !part.contains('=')) {
            anyhow::ensure!(!part.trim().is_empty(), "an empty part");
            part.trim().parse::<LevelFilter>()?;
        }
        anyhow::Ok(text.parse()?)
    };
    meant().with_context(|| format!("`{text}` is no level (error, warn, info, debug, trace, off), nor module=level,…"))
}

/// Sends the log of this process to standard error from now on, until what this gives is dropped. Called once, by `main`.
pub fn start(config: &Log) -> anyhow::Result<Writing> {
    let filter = parse_filter(&config.filter)?;
    let lost = |to: &mut std::io::Stderr, lost| {
        // If whoever reads has gone, there is nobody to tell.
        let _ = writeln!(to, "coral: {lost} lines of the log were lost, as they are read too slowly");
    };
    let (lines, mut writing) =
        lines::start(std::io::stderr(), lost).context("the log has no thread to be written by")?;
    let is_terminal = std::io::stderr().is_terminal();
    if config.format == LogFormat::Human && !is_terminal && filter.would_enable(requests::TARGET, &Level::INFO) {
        writing.set_requests(lines.clone());
    }
    let layer = match config.format {
        LogFormat::Human => fmt::layer().with_writer(lines).with_ansi(is_terminal).boxed(),
        LogFormat::Json => fmt::layer().with_writer(lines).json().boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    subscriber.try_init().context("a log has been started before")?;
    Ok(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_one_for_each_module() {
        for good in ["info", "off", "warn,coral_proxy::access=off", "coral_dsht=debug"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "", "info,loud", "coral_proxy=loud"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
