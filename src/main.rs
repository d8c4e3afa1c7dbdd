//! The node binary `coral`: parse, run, exit code. What it does is in the library of the same package.

use std::process::ExitCode;

use clap::Parser as _;
use coral::cli::{Cli, Command};
use coral::{check, commands, demo, manual, sim, top};

/// Something was wrong with what the user gave or asked for, or with this machine.
const FAILURE: u8 = 1;
/// It ran, but did not end as it should.
const UNCLEAN: u8 = 3;

fn main() -> ExitCode {
    // clap itself exits with 2 when the command line is wrong.
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Node(args) => commands::node(&args),
        Command::Demo(options) => demo::run(&options),
        Command::Sim(options) => sim::run(&options),
        Command::Url(args) => commands::url(&args),
        Command::Lookup(args) => commands::lookup(&args),
        Command::Explain(args) => commands::explain(&args),
        Command::Drain(args) => commands::drain(&args),
        Command::Purge(args) => commands::purge(&args),
        Command::PurgeKey(args) => commands::purge_key(&args),
        Command::Map(args) => commands::map(&args),
        Command::Top(args) => top::run(&args),
        Command::Status(args) => commands::status(&args),
        Command::Health(args) => commands::health(&args),
        Command::DnssecKey(args) => commands::dnssec_key(&args),
        Command::Check(args) => check::run(&args),
        Command::CheckConfig(args) => commands::check_config(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(UNCLEAN),
        Err(e) => {
            eprintln!("coral: {e:#}");
            ExitCode::from(FAILURE)
        }
    }
}
