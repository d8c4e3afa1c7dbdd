//! The binary `coral-testbed`: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use coral_testbed::cli::{self, Cli};

fn main() -> ExitCode {
    // clap itself exits with 2 when the command line is wrong.
    match cli::run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("coral-testbed: {e:#}");
            ExitCode::FAILURE
        }
    }
}
