//! The cache beside other caches, under the same load in one run: hits, which is what a cache does most.
//!
//! ```text
//! cargo build --release
//! cargo run --release --manifest-path coral-proxy/benches/peers/Cargo.toml -- [--rounds 5] [--seconds 3] [--check]
//!     [--over http|tls|http2] [--apart] [--only coral,haproxy,nginx,trafficserver,varnish] [--json FILE] [--coral FILE]
//! ```
//!
//! # What is compared with what
//!
//! | name | what | where objects are | access log |
//! |---|---|---|---|
//! | `coral` | the node as it is released, with its index, metrics and policy, 2 threads for connections | memory, blocks of 256 KiB of those above 1 MiB | a line a request |
//! | `nginx` | `proxy_cache`, 2 workers, `open_file_cache` and `sendfile` | files | a line a request |
//! | `varnish` | `malloc` | memory | its ring buffer |
//! | `trafficserver` | 2 network threads | RAM cache before a disk | a line a request |
//! | `haproxy` | `cache`, 2 threads | memory | a line a request |
//!
//! All come from Debian (`nginx-light varnish trafficserver haproxy wrk nghttp2-client`); those that are not installed are named and left out.
//!
//! # How
//!
//! - The load is wrk's, from the same machine: one thread, 64 connections that are kept alive, one URL at a time, of 1 KiB, 100 KiB
//!   and 10 MiB. On two cores it is in the servers' way, alike for all.
//! - `--apart` gives the servers one processor and the load another. Where three threads share two, one who needs less is not always served sooner: what
//!   waits is then the load's thread for a processor, and an idle one does not come to its help within so short a time. Apart, the server is the limit.
//! - `--over tls` is the same within TLS, on connections that are kept, so that what is measured is bytes and not handshakes; `--over http2` is HTTP/2, 4 requests at
//!   once on each of 16 connections, by h2load. Varnish speaks neither and is left out.
//! - CPU time is that of all the server's processes, as the kernel counts it, for each request: the figure to trust most.
//! - In each round every server has its turn, and ratios are taken within a round, so that a machine that is slower for a while is so
//!   for all. The table has medians of the rounds, least and most.
//! - The origin counts: a measurement in which it was asked, or in which a response was not 200, is an error.
//! - `--check` fails where the bounds that the project has set itself are broken.

mod load;
mod origin;
mod report;
mod servers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;

use load::{Load, Over};
use origin::Origin;
use report::Sample;

/// The cache beside other caches, under the same load in one run.
#[derive(Debug, Parser)]
struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// What responses come by.
    #[arg(long, value_enum, default_value_t = Over::Http)]
    over: Over,
    /// The servers on one processor, the load on another.
    #[arg(long)]
    apart: bool,
    /// Only these servers.
    #[arg(long, value_delimiter = ',', value_parser = servers::NAMES)]
    only: Vec<String>,
    /// Only objects of these sizes, in bytes.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Fail where a bound is broken.
    #[arg(long)]
    check: bool,
    /// Write every sample to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The node.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../target/release/coral"))]
    coral: PathBuf,
}

/// Sizes of the objects, in bytes.
const SIZES: [usize; 3] = [1 << 10, 100 << 10, 10 << 20];
/// What a server does before it is measured, so that it is as warm as it gets.
const WARM_UP: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let sizes = if options.sizes.is_empty() { SIZES.to_vec() } else { options.sizes.clone() };
    let [of_servers, of_load] = [1, 0].map(|processor| options.apart.then_some(processor));
    let load = Load::find(options.over, of_load)?;
    let folder = tempfile::tempdir()?;
    let origin = Origin::start()?;
    let wanted =
        servers::Wanted { only: &options.only, over: options.over, coral: &options.coral, processor: of_servers };
    let servers = servers::start(wanted, folder.path(), origin.address())?;
    ensure!(!servers.is_empty(), "nothing to measure");
    for server in &servers {
        server.warm(&sizes, &origin).with_context(|| server.last_words())?;
    }
    let before = coral_rig::load_average();
    let mut samples = Vec::new();
    for round in 1..=options.rounds {
        for server in &servers {
            eprintln!("round {round} of {}: {}", options.rounds, server.name);
            for &size in &sizes {
                let asked = origin.asked();
                load.run(server, size, WARM_UP)?;
                let cpu = server.process.cpu()?;
                let outcome = load.run(server, size, Duration::from_secs(options.seconds.into()))?;
                let cpu = server.process.cpu()? - cpu;
                ensure!(outcome.bad == 0, "{}: {} responses were errors", server.name, outcome.bad);
                ensure!(origin.asked() == asked, "{} has asked the origin for what it had", server.name);
                samples.push(Sample::new(round, server, size, &outcome, cpu));
            }
        }
    }
    println!("{}{}", report::table(&samples), report::ratios(&samples));
    println!("Load average: {before} before, {} after.", coral_rig::load_average());
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&samples)?).context("cannot write the figures")?;
    }
    if options.check {
        let broken = report::broken(&samples);
        ensure!(broken.is_empty(), "bounds broken:\n{}", broken.join("\n"));
    }
    Ok(())
}
