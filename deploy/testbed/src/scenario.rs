//! Experiments with a testbed that is up. Each ends with a table, and says whether all was as it should be.

use clap::Subcommand;

pub mod browser;
pub mod resolvers;

/// Which experiment.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// All four resolvers at each client's site resolve a coralized name, and curl fetches pages through the answer.
    Resolvers,
    /// Chromium browses the coralized site: screenshots, and a waterfall of what came from where.
    Browser(browser::Options),
}
