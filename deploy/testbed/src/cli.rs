//! Subcommands and flags, as clap reads them.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::map::{FOUR_REGIONS, Map, MapError};
use crate::scenario::Scenario;
use crate::{commands, netns, wan};

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
    /// Build the images and bring a network up; what is begun is taken down again if that fails or is interrupted.
    Up(MapArgs),
    /// Show nodes, clusters and traffic.
    Status,
    /// Run a program of the tools' image at a site: `testbed exec frankfurt-1 traceroute dallas-2`.
    Exec(ExecArgs),
    /// Take the network down, whatever is left of it.
    Down(DownArgs),
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

/// Of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The site.
    pub site: String,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

/// Of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Remove the images, too, those that are kept for the next time.
    #[arg(long)]
    pub images: bool,
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

    /// The same as a text.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn text(&self) -> anyhow::Result<String> {
        match &self.map {
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| format!("cannot read the map {}", file.display()))
            }
            None => Ok(FOUR_REGIONS.to_owned()),
        }
    }
}

/// Does what was asked for. `Ok(false)`: it was done, and what it found is not as it should be.
///
/// # Errors
///
/// What the user can mend, or what is wrong with this machine, in one line.
pub fn run(cli: &Cli) -> anyhow::Result<bool> {
    match &cli.command {
        Command::Up(args) => return commands::up(args),
        Command::Status => return commands::status(),
        Command::Exec(args) => return commands::exec(args),
        Command::Down(args) => return commands::down(args),
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
