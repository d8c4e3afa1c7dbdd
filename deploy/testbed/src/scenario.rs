//! Experiments with a network of nodes. Each ends with a table, a picture, and whether all was as it should be.
//!
//! Each has a file here, which says what is done and what must come of it; [`stage`] has what they share: the network they run
//! on, the progress bar, the files that they leave. How a report looks is [`coral::report`]'s, as it is for the simulator.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::MapArgs;
use crate::commands;
use stage::{Findings, Stage};

pub mod browser;
pub mod chance;
pub mod conformance;
pub mod cooperation;
pub mod flash_crowd;
pub mod join;
pub mod latency;
pub mod loss;
pub mod nearest;
pub mod redirection;
pub mod resolvers;
pub mod signed;
pub mod stage;

/// Which experiment.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// A client at each node asks for the same twelve files at the same moment, and goes on asking: the origin is asked once for each.
    FlashCrowd(Options),
    /// Whether nodes share the work of fetching: all asked at once, the one that fetches killed, an object larger than memory.
    Cooperation(Options),
    /// How long clients wait with a single level, with levels, and with levels and hints.
    Latency(Options),
    /// What clients see while a third of the nodes is killed, a region is cut off, and all nodes are restarted one by one.
    Loss(Options),
    /// How long it takes a node from its start to its first page for a client nearby.
    Join(Options),
    /// Whether resolvers that are sent to nodes near them ask those and no others, while these die, return, and new ones come.
    Redirection(redirection::Options),
    /// Which client is sent to which nodes, by its own resolver, by a distant one, by none that can be measured; against the map.
    Nearest(Options),
    /// Whether the suffix zone is one by the standards: single queries with dig, and Zonemaster's judgement.
    Conformance(Options),
    /// Whether a network that signs its answers is believed: by eight resolvers that validate, and by single queries.
    Signed(Options),
    /// All four resolvers at each client's site resolve a coralized name, and curl fetches pages through the answer.
    Resolvers,
    /// Chromium browses the coralized site: screenshots, and a waterfall of what came from where.
    Browser(browser::Options),
}

/// What each experiment can be told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Do less, in a minute or two.
    #[arg(long)]
    pub short: bool,
    /// Make a network of node processes for this run, instead of using the containers that are up.
    #[arg(long)]
    pub processes: bool,
    /// Where the processes stand.
    #[command(flatten)]
    pub map: MapArgs,
    /// Without a map: how many of PlanetLab's hosts they stand for; each experiment has its own default.
    #[arg(long, value_name = "N", conflicts_with = "map", value_parser = clap::value_parser!(u16).range(2..=370))]
    pub nodes: Option<u16>,
    /// Everything that is random in clients and places follows from this number.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// The program that nodes are; without it, the `coral` beside this program.
    #[arg(long, value_name = "PATH")]
    pub coral: Option<PathBuf>,
    /// Draw the picture into this file, instead of one in the directory `testbed` of the build.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the figures to this file: `rows` and a `summary`.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Scenario {
    /// Runs it and shows what it found. `Ok(false)`: not all was as it should be; that has been told.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or was interrupted. What it had begun has gone then.
    pub fn run(&self) -> anyhow::Result<bool> {
        let (name, options, work): (_, _, fn(&Stage) -> anyhow::Result<Findings>) = match self {
            Self::FlashCrowd(options) => ("flash-crowd", options, flash_crowd::run),
            Self::Cooperation(options) => ("cooperation", options, cooperation::run),
            Self::Latency(options) => ("latency", options, latency::run),
            Self::Loss(options) => ("loss", options, loss::run),
            Self::Nearest(options) => ("nearest", options, nearest::run),
            Self::Conformance(options) => ("conformance", options, conformance::run),
            Self::Signed(options) => ("signed", options, signed::run),
            Self::Join(options) => ("join", options, join::run),
            Self::Redirection(redirection::Options { common, release }) => {
                return Stage::run("redirection", common, |stage| redirection::run(stage, *release));
            }
            Self::Resolvers => return commands::resolvers(),
            Self::Browser(options) => return commands::browser(options),
        };
        Stage::run(name, options, work)
    }
}
