//! `coral demo`: a small network on loopback addresses, a web site, a flash crowd, and then time to try it by hand.
//!
//! Nothing of it is pretended: the nodes are those of `coral node`, their sockets are real, and the origin counts for
//! itself. Only the distances are missing: all nodes are near each other.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use crate::commands::{Signals, runtime};
use crate::config::Suffix;
use crate::logging;

mod chance;
mod crowd;
pub mod names;
mod network;
pub mod origin;
mod report;
pub mod site;

use network::Network;
use origin::Origin;

/// How long the nodes may take to find each other.
const JOIN: Duration = Duration::from_secs(30);

/// What `coral demo` can be told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many nodes; each has a loopback address of its own, from 127.0.0.1 up.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub nodes: u8,
    /// Exit after the tables; the status is not 0 if anything was wrong.
    #[arg(long)]
    pub once: bool,
    /// Requests of the flash crowd.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,
    /// Clients that ask at the same time.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub clients: u16,
    /// The port at which all nodes serve HTTP [default: 8080, or a free one]
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// The port at which all nodes serve DNS [default: 5300, or a free one]
    #[arg(long, value_name = "PORT")]
    pub dns_port: Option<u16>,
    /// The port of each node's admin address [default: 4161, or a free one]
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<u16>,
    /// The port of each node's index [default: 4160, or a free one]
    #[arg(long, value_name = "PORT")]
    pub dsht_port: Option<u16>,
    /// What the nodes log: a level, or `module=level,…`
    #[arg(long, value_name = "FILTER", default_value = "error")]
    pub log_level: String,
}

/// Runs the demonstration. False if it ran and anything was wrong.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let _log = logging::start(&crate::config::Log { filter: options.log_level.clone(), ..Default::default() })?;
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let disk = tempfile::tempdir().context("no directory for the nodes' large objects")?;
        let mut wrong = Vec::new();
        let shown = tokio::select! {
            shown = show(options, disk.path(), &mut wrong) => shown?,
            name = signals.next() => {
                println!("{name}: leaving in the middle of it");
                return Ok(false);
            }
        };
        if !options.once {
            print!("{}", report::what_to_try(&shown.network));
            signals.next().await;
            println!("\nStopping: the nodes withdraw what they have told the index.");
        }
        let endings = signals.or_force(shown.network.stop()).await;
        wrong.extend(endings);
        drop(shown.origin);
        print!("{}", report::verdict(&wrong));
        Ok(wrong.is_empty())
    })
}

/// What stays up.
struct Shown {
    network: Network,
    origin: Origin,
}

async fn show(options: &Options, disk: &Path, wrong: &mut Vec<String>) -> anyhow::Result<Shown> {
    let objects = site::objects();
    let origin = Origin::start(objects.clone()).await.context("no port for the origin")?;
    println!("The origin of http://{}/ runs at {}: {} objects.", site::HOST, origin.addr(), objects.len());

    let network = Network::start(options, origin.addr(), disk).await?;
    network.joined(JOIN).await?;
    print!("{}", report::network(&network));

    let first = crowd::first_instant(&network, &objects).await?;
    print!("{}", report::first_instant(&first));
    let crowd = crowd::play(&network, &objects, options).await?;
    let asked = origin.asked();
    print!("{}", report::crowd(&crowd));
    print!("{}", report::objects(&objects, &first, &crowd, &asked));

    let answers = names::ask_all(&network.nameservers(), &network.coralized_host()).await;
    print!("{}", report::names(&network.coralized_host(), &answers));

    wrong.extend(first.wrong());
    wrong.extend(crowd.wrong());
    wrong.extend(report::too_often(&objects, &asked));
    wrong.extend(names::wrong(&answers, &network.addresses()));
    Ok(Shown { network, origin })
}

/// The suffixes that the demonstration serves: the usual one, and one that browsers take to this machine without DNS
/// (RFC 6761 §6.3).
fn suffixes() -> Vec<Suffix> {
    let parse = |text: &str| text.parse().expect("a suffix by its own rules");
    vec![parse("nyud.net"), parse("nyud.localhost")]
}
