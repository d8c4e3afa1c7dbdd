//! The index beside other distributed hash tables written in Rust, doing the same work in one run.
//!
//! ```text
//! cargo run --release --manifest-path coral-dsht/benches/peers/Cargo.toml -- \
//!     [--nodes 64] [--only coral,coral-flat,mainline,kad] [--rounds 2] [--json FILE]
//! ```
//!
//! # What is compared with what
//!
//! | column | what | transport | copies of a value |
//! |---|---|---|---|
//! | `coral` | this index as it comes, with its three levels | UDP on loopback | one at each level |
//! | `coral-flat` | the same with the global level alone (`diameters = []`) | UDP on loopback | one |
//! | `mainline` | BitTorrent's table, K = 20 | UDP on loopback | 20 |
//! | `kad` | libp2p's, which IPFS uses, K = 20 | in memory, not encrypted | 20 |
//!
//! Each is used as its users use it, with its own defaults; where there was a choice, it was made in favour of the others: kad has
//! no sockets and no encryption to pay for, connections that stay open, and tables that know everybody from the start; its puts
//! count as done at the first copy, while mainline waits for all twenty, as its interface has it. A get ends at the first value,
//! with all of them. (mainline goes on searching by itself after that, which its request count shows.)
//!
//! What that means for reading the table:
//!
//! - One copy a level costs less than twenty, and is meant to: in an index of who has what, many nodes put under one key, and a value
//!   that is lost with its holder is put again by its owner. How many values are lost at once is a line of the table.
//! - On loopback all nodes are near each other, so the levels of `coral` are all the same nodes: they cost, and gain nothing.
//! - mainline looks at more nodes when all are in one network, as here. And it waits in steps of 50 ms: its idle times are those.
//! - Every round trip is next to nothing here. Time-outs, which are not, decide where nodes are silent.
//!
//! # How
//!
//! Each network is a process, so that CPU time and memory are its own, as the kernel counts them. Rounds of idle and of busy work are
//! done in turn by one process at a time, so that a machine that is slower for a while is so for all. Then every node puts one key
//! (`hot`), and at last three nodes of ten fall silent: their sockets stay bound but nobody answers.

mod bittorrent;
mod coral;
mod libp2p;
mod meter;
mod network;
mod parent;
mod report;
mod work;

use std::io::{BufRead as _, Write as _, stdin, stdout};

use anyhow::{Context as _, bail};

use network::Network;
use work::{Bench, Figures, Task};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut options = parent::Options::default();
    let mut child = None;
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{flag} wants a value; there are --nodes, --only, --rounds and --json"))?;
        match flag.as_str() {
            "--nodes" => options.nodes = value.parse().context("--nodes wants a number")?,
            "--rounds" => options.rounds = value.parse().context("--rounds wants a number")?,
            "--only" => options.names = value.split(',').map(str::to_owned).collect(),
            "--json" => options.json = Some(value.into()),
            "--child" => child = Some(value),
            _ => bail!("unknown: {flag}; there are --nodes, --only, --rounds and --json"),
        }
    }
    if options.nodes < 10 || options.rounds == 0 {
        bail!("ten nodes and one round at least");
    }
    let nodes = options.nodes;
    match child.as_deref() {
        None => parent::run(&options),
        Some("coral") => serve::<coral::ThreeLevels>(nodes),
        Some("coral-flat") => serve::<coral::OneLevel>(nodes),
        Some("mainline") => serve::<bittorrent::Mainline>(nodes),
        Some("kad") => serve::<libp2p::Kad>(nodes),
        Some(other) => bail!("unknown: {other}; there are coral, coral-flat, mainline and kad"),
    }
}

/// The process of one network: a task a line comes in, its figures go out.
fn serve<N: Network>(nodes: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut bench, figures) = runtime.block_on(runtime.spawn(Bench::<N>::start(nodes)))??;
    tell(&figures)?;
    for line in stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line?)?;
        tell(&runtime.block_on(bench.run(task)))?;
    }
    // Threads of nodes do not all end by themselves, nor need they.
    std::process::exit(0)
}

fn tell(figures: &Figures) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, figures)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
