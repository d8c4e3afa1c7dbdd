//! `coral sim NAME`: experiments with the index in the simulator, each from one seed.
//!
//! Each experiment is a file here: it builds a network, lets something happen in it, and comes back with a report. This
//! file runs it and shows the report: as a table, as JSON for programs, as a chart for people. What each experiment has shown
//! is in `coral-dsht/RESULTS.md`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

mod attack;
mod clusters;
mod failures;
mod flash;
mod hops;
mod hotspot;
mod lab;
mod latency;
mod memory;
mod promise;

use lab::Lab;

/// What `coral sim` can be told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Which experiment.
    pub name: Experiment,
    /// Nodes of the network; each experiment has its own default. Experiments with several sizes stop at this one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    pub nodes: Option<u32>,
    /// Keys that are used; each experiment has its own default.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub keys: Option<u32>,
    /// Everything that is random follows from this number.
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
    /// Write the figures to this file: `rows` and a `summary`.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw a chart of them into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// The experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Experiment {
    /// All nodes put one key: how many puts reach the node nearest to it.
    Hotspot,
    /// How long a get takes with nearby clusters, and in a single global one.
    Latency,
    /// How many nodes a get asks.
    Hops,
    /// All nodes join at once, then a region splits off and returns: clusters, and what is in them.
    Clusters,
    /// Three in ten nodes vanish: gets that fail, and how long the others take.
    Failures,
    /// All nodes want the same few new objects in one instant: who goes to the origin, who fetches from whom.
    Flash,
    /// Some nodes drop, lie, or crowd a key: gets that fail, and wrong values accepted.
    Attack,
    /// What an idle node and a stored value take, and how fast the simulator is.
    Memory,
}

/// Runs one experiment and shows what it found: whether the index keeps what it promises.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    // Before the work: an hour's run must not end at a directory that is not there.
    let json = create(options.json.as_deref())?;
    let svg = create(options.svg.as_deref())?;
    let lab = Lab::new(options);
    let report = match options.name {
        Experiment::Hotspot => hotspot::run(&lab),
        Experiment::Latency => latency::run(&lab),
        Experiment::Hops => hops::run(&lab),
        Experiment::Clusters => clusters::run(&lab),
        Experiment::Failures => failures::run(&lab),
        Experiment::Flash => flash::run(&lab),
        Experiment::Attack => attack::run(&lab),
        Experiment::Memory => memory::run(&lab)?,
    };
    lab.finish();
    print!("{}", report.text());
    let broken = promise::broken(options.name, &report.summary);
    for promise in &broken {
        println!("promise broken: {promise}");
    }
    write(json, options.json.as_deref(), || report.json())?;
    write(svg, options.svg.as_deref(), || report.chart.svg())?;
    Ok(broken.is_empty())
}

fn create(path: Option<&Path>) -> anyhow::Result<Option<File>> {
    path.map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display()))).transpose()
}

fn write(file: Option<File>, path: Option<&Path>, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    if let (Some(mut file), Some(path)) = (file, path) {
        file.write_all(text().as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
