//! `coral-testbed wan …`: the router from the command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::check;
use super::control::{AccessChange, Attachment, Client, Limit, LinkChange, Request};
use super::process::READY;
use super::server::Server;
use crate::cli::MapArgs;
use crate::map::parse_time;
use crate::netns::Netns;

/// What can be done with the wide area.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry packets between sites until told to stop.
    Run(RunArgs),
    /// Build a network of empty hosts from a map, and measure whether distances, losses and rates are what the map says.
    Check(check::Options),
    /// Print how a running router fares, as JSON.
    Status(ControlArgs),
    /// Print what went between whom since the start, as JSON.
    Counters(ControlArgs),
    /// Change the ways between two ends: sites, regions, or `*` for all.
    Link(LinkArgs),
    /// Change sites' own lines.
    Access(AccessArgs),
    /// Let nothing through between two ends, or between one and all others.
    Cut(EndsArgs),
    /// Undo a cut, or all of them.
    Heal(HealArgs),
    /// Give a site its device.
    Attach(AttachArgs),
    /// End the router.
    Stop(ControlArgs),
}

/// Where the router takes orders.
#[derive(Debug, Clone, Args)]
pub struct ControlArgs {
    /// The router's control socket.
    #[arg(long, value_name = "PATH", default_value = "/run/coral-testbed/wan.sock")]
    pub control: PathBuf,
}

/// `wan run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    map: MapArgs,
    #[command(flatten)]
    control: ControlArgs,
    /// A site and the namespace that is its host, by name or by process id; may be given many times.
    #[arg(long, value_name = "SITE=NAME|PID")]
    attach: Vec<Attachment>,
    /// End when the process that started this one does.
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

/// `wan link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// One end.
    a: String,
    /// The other end.
    b: String,
    /// The round trip, such as 80ms.
    #[arg(long, value_parser = parse_time)]
    rtt: Option<Duration>,
    /// The most that a packet is late on top, one way.
    #[arg(long, value_parser = parse_time)]
    jitter: Option<Duration>,
    /// The share of packets that are lost, one way.
    #[arg(long)]
    loss: Option<f64>,
    /// What one site can send to one other, such as "100 Mbit/s", or unlimited.
    #[arg(long)]
    rate: Option<Limit>,
    #[command(flatten)]
    control: ControlArgs,
}

/// `wan access`.
#[derive(Debug, Args)]
pub struct AccessArgs {
    /// Whose: a site, a region, or `*`.
    at: String,
    /// What a site can send, such as "384 kbit/s", or unlimited.
    #[arg(long)]
    up: Option<Limit>,
    /// What it can receive.
    #[arg(long)]
    down: Option<Limit>,
    /// For how long a packet may wait for the line.
    #[arg(long, value_parser = parse_time)]
    queue: Option<Duration>,
    #[command(flatten)]
    control: ControlArgs,
}

/// `wan cut`.
#[derive(Debug, Args)]
pub struct EndsArgs {
    /// One end.
    a: String,
    /// The other end; without it, all others.
    b: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
}

/// `wan heal`.
#[derive(Debug, Args)]
pub struct HealArgs {
    /// One end; without it, all cuts are undone.
    a: Option<String>,
    /// The other end.
    b: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
}

/// `wan attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// A site and the namespace that is its host, by name or by process id.
    #[arg(value_name = "SITE=NAME|PID", required = true)]
    sites: Vec<Attachment>,
    #[command(flatten)]
    control: ControlArgs,
}

impl FromStr for Attachment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (site, netns) = text.split_once('=').ok_or("a site and its namespace are needed, as in dallas-1=4711")?;
        let netns = netns.parse().map_or_else(|_| Netns::Name(netns.to_owned()), Netns::Pid);
        Ok(Self { site: site.to_owned(), netns })
    }
}

impl ControlArgs {
    fn tell(&self, request: &Request) -> anyhow::Result<bool> {
        Client::connect(&self.control)?.tell(request)?;
        Ok(true)
    }
}

impl Command {
    /// Does it. `Ok(false)`: the check found that the network is not as the map says.
    ///
    /// # Errors
    ///
    /// What the user can mend, or what is wrong with this machine.
    pub fn run(&self) -> anyhow::Result<bool> {
        match self {
            Self::Run(args) => args.run(),
            Self::Check(options) => check::run(options),
            Self::Status(control) => print(&Client::connect(&control.control)?.status()?),
            Self::Counters(control) => print(&Client::connect(&control.control)?.counters()?),
            Self::Link(LinkArgs { a, b, rtt, jitter, loss, rate, control }) => {
                let change = LinkChange { rtt: *rtt, jitter: *jitter, loss: *loss, rate: *rate };
                control.tell(&Request::Link { a: a.clone(), b: b.clone(), change })
            }
            Self::Access(AccessArgs { at, up, down, queue, control }) => {
                let change = AccessChange { up: *up, down: *down, queue: *queue };
                control.tell(&Request::Access { at: at.clone(), change })
            }
            Self::Cut(EndsArgs { a, b, control }) => control.tell(&Request::Cut { a: a.clone(), b: b.clone() }),
            Self::Heal(HealArgs { a: None, control, .. }) => control.tell(&Request::HealAll),
            Self::Heal(HealArgs { a: Some(a), b, control }) => {
                control.tell(&Request::Heal { a: a.clone(), b: b.clone() })
            }
            Self::Attach(AttachArgs { sites, control }) => control.tell(&Request::Attach { sites: sites.clone() }),
            Self::Stop(control) => control.tell(&Request::Stop),
        }
    }
}

impl RunArgs {
    fn run(&self) -> anyhow::Result<bool> {
        let map = self.map.load()?;
        let mut server = Server::new(map, &self.control.control)?;
        if self.die_with_parent {
            set_pdeathsig(Signal::SIGTERM).context("cannot ask to end with the parent")?;
        }
        server.attach(&self.attach)?;
        if let Err(e) = server.run_before_others() {
            eprintln!("coral-testbed: {e:#}");
        }
        println!("{READY}");
        server.run()?;
        Ok(true)
    }
}

fn print(what: &impl serde::Serialize) -> anyhow::Result<bool> {
    println!("{}", serde_json::to_string_pretty(what).context("cannot write it down")?);
    Ok(true)
}
