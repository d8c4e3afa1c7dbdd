//! Subcommands and flags, as clap reads them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::map::{Map, MapError};
use crate::scenario::Scenario;
use crate::{netns, wan};

/// A wide-area network of CoralCDN nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "coral-testbed", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a map and list its sites and the distances between its regions.
    Map(MapArgs),
    /// The wide area by itself: run it, ask it, change it, check that it keeps its promises.
    #[command(subcommand)]
    Wan(wan::command::Command),
    /// Run an experiment with the network that is up, or with a network of node processes.
    #[command(subcommand)]
    Run(Scenario),
    /// Remove the network namespaces that a run which was killed has left.
    Sweep,
}

/// Which map.
#[derive(Debug, Clone, Default, Args)]
pub struct MapArgs {
    /// The file with regions and distances (TOML); without it, four regions with twelve nodes.
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
}

impl MapArgs {
    /// The map that is meant.
    ///
    /// # Errors
    ///
    /// As [`Map::load`].
    pub fn load(&self) -> Result<Map, MapError> {
        self.map.as_deref().map_or_else(|| Ok(Map::four_regions()), Map::load)
    }
}

/// Does what was asked for. `Ok(false)`: it was done, and what it found is not as it should be.
///
/// # Errors
///
/// What the user can mend, or what is wrong with this machine, in one line.
pub fn run(cli: &Cli) -> anyhow::Result<bool> {
    match &cli.command {
        Command::Map(args) => print!("{}", args.load()?.describe()),
        Command::Wan(command) => return command.run(),
        Command::Run(scenario) => return scenario.run(),
        Command::Sweep => {
            for name in netns::sweep()? {
                println!("removed the network namespace {name}");
            }
        }
    }
    Ok(true)
}
