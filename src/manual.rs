//! `coral man` and `coral completions`: what packages install besides the binary, made from the definition of its command line.

use std::fs;
use std::io;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionsArgs, ManArgs};

/// Writes a manual page for the program and one for each subcommand into a directory.
pub fn man(args: &ManArgs) -> anyhow::Result<bool> {
    let folder = args.folder.display();
    fs::create_dir_all(&args.folder).with_context(|| format!("cannot make the directory {folder}"))?;
    clap_mangen::generate_to(Cli::command(), &args.folder).with_context(|| format!("cannot write into {folder}"))?;
    Ok(true)
}

/// Prints a shell's completions.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<bool> {
    clap_complete::generate(args.shell, &mut Cli::command(), "coral", &mut io::stdout());
    Ok(true)
}
