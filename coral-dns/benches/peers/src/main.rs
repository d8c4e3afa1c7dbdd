//! The nameserver beside other authoritative servers, under the same load in one run.
//!
//! ```text
//! cargo run --release --manifest-path coral-dns/benches/peers/Cargo.toml -- \
//!     [--rounds 5] [--seconds 2] [--only coral,gdnsd,knot,nsd,pdns-geoip,pdns-bind] [--json FILE] [--check]
//!     [--unmeasured SHARE] [--sockets]
//! ```
//!
//! # What is compared with what
//!
//! | name | what | decision for each client |
//! |---|---|---|
//! | `coral` | this nameserver, 64 live proxies | by round-trip time of the client's prefix |
//! | `gdnsd` | its geoip plugin | the same prefixes, as networks of three data centres |
//! | `pdns-geoip` | PowerDNS' geoip backend | the same again |
//! | `nsd`, `knot`, `pdns-bind` | a zone file with a wildcard | none: everybody gets the same addresses |
//!
//! All come from Debian (`nsd knot gdnsd pdns-server pdns-backend-bind pdns-backend-geoip`); those that are not installed are named
//! and left out. All have two workers, the zone `nyud.net`, three addresses in an answer, and names of 10,000 that a wildcard
//! stands for. In the columns *ECS* each query carries a /24 drawn from 100,000 prefixes that the server knows.
//!
//! # How
//!
//! - Everything happens in a network namespace without any way out, so that probes of made-up clients reach nobody (Linux only; it
//!   needs `unshare`, `setpriv` and `ip`, and root or user namespaces).
//! - One thread asks, from 20 ports. *Saturated*: 200 queries outstanding. *Paced*: open loop, a fixed rate, and latency counted from
//!   when a query was due, so that a stalled server is not asked less.
//! - CPU time is that of all the server's processes, as the kernel counts it, for each answer. On loopback, who sends pays
//!   for the delivery, so it holds the delivery of the answers and not that of the queries: alike for all.
//! - In each round every server has its turn, and ratios are taken within a round, so that a machine that is slower for a while is so
//!   for all. The table has medians of the rounds, least and most.
//! - `--check` fails where the bounds that the project has set itself are broken, or where answers are lost or wrong.
//! - `--unmeasured SHARE` looks at one thing alone: the latency of clients that are known, without and with that share of queries
//!   (0 to 1) being from prefixes that nobody knows.
//! - `--sockets` compares, in place of the servers, ways to read a socket that all answer nothing: what is left of a choice
//!   when DNS is taken out.

mod load;
mod ours;
mod report;
mod responders;
mod run;
mod servers;
mod traffic;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

const FLAGS: &str = "--rounds N, --seconds S, --only NAMES, --json FILE, --check, --unmeasured SHARE, --sockets";

/// What was asked for.
#[derive(Debug)]
struct Options {
    rounds: usize,
    /// Of each measurement.
    span: Duration,
    /// All that there are, if empty.
    only: Vec<String>,
    json: Option<PathBuf>,
    check: bool,
    unmeasured: Option<f64>,
    sockets: bool,
}

fn main() -> anyhow::Result<()> {
    let mut options = Options {
        rounds: 5,
        span: Duration::from_secs(2),
        only: Vec::new(),
        json: None,
        check: false,
        unmeasured: None,
        sockets: false,
    };
    let mut is_inside = false;
    let mut child = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--rounds" => options.rounds = value()?.parse().context("--rounds wants a number")?,
            "--seconds" => {
                let seconds: f64 = value()?.parse().context("--seconds wants a number")?;
                ensure!((0.1..=60.0).contains(&seconds), "--seconds wants 0.1 to 60");
                options.span = Duration::from_secs_f64(seconds);
            }
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--json" => options.json = Some(value()?.into()),
            "--check" => options.check = true,
            "--unmeasured" => {
                let share: f64 = value()?.parse().context("--unmeasured wants a number")?;
                ensure!((0.0..1.0).contains(&share), "--unmeasured wants a share from 0 up to 1");
                options.unmeasured = Some(share);
            }
            "--sockets" => options.sockets = true,
            "--inside" => is_inside = true,
            "--child" => child = Some((value()?, value()?.parse().context("a child wants a port")?)),
            _ => bail!("unknown: {flag}; there are {FLAGS}"),
        }
    }
    ensure!((1..=100).contains(&options.rounds), "--rounds wants 1 to 100");
    match child {
        Some((name, port)) if name == "coral" => ours::serve(port),
        Some((name, port)) => responders::serve(&name, port),
        None if is_inside => run::run(&options),
        None => enter_namespace(),
    }
}

/// Becomes the same program in a network namespace of its own.
fn enter_namespace() -> anyhow::Result<()> {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let error = command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).arg("--inside").exec();
    Err(error).context("cannot start unshare, which makes the network namespace")
}
