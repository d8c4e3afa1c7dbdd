//! Subcommands and flags, as clap reads them. No logic but turning flags into overrides of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Contact, LogFormat, Override, Suffix};
use crate::{demo, sim};

/// CoralCDN: many small nodes that together serve a web site when too many people come at once.
#[derive(Debug, Parser)]
#[command(name = "coral", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "To see it work, without any set-up: coral demo")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node until Ctrl-C or SIGTERM.
    #[command(after_help = NODE_HELP)]
    Node(RunArgs),
    /// Run a small network on this machine, play a flash crowd against it, and let you try it.
    #[command(after_help = DEMO_HELP)]
    Demo(demo::Options),
    /// Run an experiment with the index: thousands of nodes on virtual time, from one seed.
    #[command(after_help = SIM_HELP)]
    Sim(sim::Options),
    /// Print the coralized form of a URL.
    #[command(after_help = URL_HELP)]
    Url(UrlArgs),
    /// Ask a running node whom the index names for a URL.
    #[command(after_help = LOOKUP_HELP)]
    Lookup(SearchArgs),
    /// Ask a running node what becomes of the next request for a URL, and why: each rule, its field and its section.
    #[command(after_help = EXPLAIN_HELP)]
    Explain(LookupArgs),
    /// Have a running node walk through the network, and show the nodes that it can reach, by cluster and distance.
    #[command(after_help = MAP_HELP)]
    Map(MapArgs),
    /// Have what is cached of a URL, a prefix or a site asked for again, at all nodes of the network.
    #[command(after_help = PURGE_HELP)]
    Purge(PurgeArgs),
    /// Have a running node leave its network and then stop, without a visitor noticing.
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArgs),
    /// Make a key to sign purges with, unless there is one, and print what other nodes know it by.
    #[command(after_help = PURGE_KEY_HELP)]
    PurgeKey(PurgeKeyArgs),
    /// Watch a running node in the terminal: requests by source, what is popular, searches.
    #[command(after_help = TOP_HELP)]
    Top(TopArgs),
    /// Show a running node's clusters, neighbours, cache and traffic.
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Ask a running node whether it does its work; the exit status is 0 if so, else 1.
    #[command(after_help = HEALTH_HELP)]
    Health(HealthArgs),
    /// Make a key to sign names with (DNSSEC), unless there is one, and print the records that vouch for it.
    #[command(after_help = DNSSEC_KEY_HELP)]
    DnssecKey(DnssecKeyArgs),
    /// Test whether this host is ready to be a node, and say what to do where it is not.
    #[command(after_help = CHECK_HOST_HELP)]
    Check(CheckArgs),
    /// Read a configuration as `coral node` would, and print what results.
    #[command(after_help = CHECK_HELP)]
    CheckConfig(NodeArgs),
    /// Print the completions of a shell.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Write a manual page for each subcommand into a directory.
    #[command(after_help = MAN_HELP)]
    Man(ManArgs),
}

/// How a node is run.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Its configuration.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Take over from a running node, whose sockets come by standard input: how a node starts its successor.
    #[arg(long, hide = true)]
    pub take_over: bool,
}

/// Where a node's configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeArgs {
    /// The configuration file (TOML); deploy/coral.toml shows every option at its default.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one option of the file, whichever it is; may be given many times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The zones under which host names are coralized [key: suffixes].
    #[arg(long, value_name = "ZONE")]
    pub suffix: Vec<Suffix>,
    /// A node to join by; may be given many times [key: dsht.seeds].
    #[arg(long, value_name = "HOST:PORT")]
    pub seed: Vec<Contact>,
    /// Where the index listens, over UDP [key: dsht.listen].
    #[arg(long, value_name = "ADDR:PORT")]
    pub dsht_listen: Option<SocketAddr>,
    /// Where the nameserver listens, or `off` [key: dns.listen].
    #[arg(long, value_name = "ADDR:PORT")]
    pub dns_listen: Option<String>,
    /// Where the cache listens, or `off` [key: proxy.listen].
    #[arg(long, value_name = "ADDR:PORT")]
    pub proxy_listen: Option<String>,
    /// Where metrics, health and status are served, or `off` [key: admin.listen].
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin_listen: Option<String>,
    /// How a line of the log is written [key: log.format].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or `module=level,…` [key: log.filter].
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
}

impl NodeArgs {
    /// The flags as overrides: those with a name of their own first, so that `--set` has the last word.
    pub fn overrides(&self) -> anyhow::Result<Vec<Override>> {
        let mut all = Vec::new();
        let list = |items: Vec<String>| items.join(",");
        if !self.suffix.is_empty() {
            let suffixes = self.suffix.iter().map(ToString::to_string).collect();
            all.push(Override::flag("--suffix", "suffixes", list(suffixes)));
        }
        if !self.seed.is_empty() {
            let seeds = self.seed.iter().map(|seed| seed.as_str().to_owned()).collect();
            all.push(Override::flag("--seed", "dsht.seeds", list(seeds)));
        }
        let dsht_listen = self.dsht_listen.map(|addr| addr.to_string());
        let named = [
            ("--dsht-listen", "dsht.listen", &dsht_listen),
            ("--dns-listen", "dns.listen", &self.dns_listen),
            ("--proxy-listen", "proxy.listen", &self.proxy_listen),
            ("--admin-listen", "admin.listen", &self.admin_listen),
            ("--log-level", "log.filter", &self.log_level),
        ];
        for (flag, path, value) in named {
            all.extend(value.as_ref().map(|value| Override::flag(flag, path, value)));
        }
        if let Some(format) = self.log_format {
            let word = match format {
                LogFormat::Human => "human",
                LogFormat::Json => "json",
            };
            all.push(Override::flag("--log-format", "log.format", word));
        }
        for argument in &self.set {
            all.push(Override::set(argument)?);
        }
        Ok(all)
    }
}

/// Of `coral check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration that a node would have.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The resolver to ask about the delegation; without it, the system's.
    #[arg(long, value_name = "ADDR:PORT")]
    pub resolver: Option<SocketAddr>,
    /// The node that is to try the ports of this host, by the address of its cache; without it, one of the seeds or whom they know.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub from: Option<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Of `coral url`.
#[derive(Debug, Args)]
pub struct UrlArgs {
    /// The URL; without a scheme, http is meant.
    pub url: String,
    /// The zone to coralize under.
    #[arg(long, value_name = "ZONE", default_value = "nyud.net")]
    pub suffix: Suffix,
}

/// Of `coral lookup`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look up, and where.
    #[command(flatten)]
    pub lookup: LookupArgs,
    /// Show each hop of the search as well: which node was asked, how far it is from the key and from here, and what it said.
    #[arg(long)]
    pub trace: bool,
}

/// Of `coral lookup` and `coral explain`.
#[derive(Debug, Args)]
pub struct LookupArgs {
    /// The URL, plain or coralized.
    pub url: String,
    /// The admin address of the node to ask.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4161")]
    pub admin: SocketAddr,
    /// Print the node's JSON as it is.
    #[arg(long)]
    pub json: bool,
}

/// Of `coral status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The admin address of the node to ask.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4161")]
    pub admin: SocketAddr,
    /// Print the node's JSON as it is.
    #[arg(long)]
    pub json: bool,
}

/// Of `coral map`.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// The admin address of the node that is to walk.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4161")]
    pub admin: SocketAddr,
    /// Write a picture of it to this file, too.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print the node's JSON as it is.
    #[arg(long)]
    pub json: bool,
}

/// Of `coral purge`.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// A URL; a prefix, which ends in `*`; or a host name for a whole site. Plain or coralized.
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// The admin address of the node that is to purge and tell the others.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4161")]
    pub admin: SocketAddr,
    /// The file with that node's token [key: admin.token].
    #[arg(long, value_name = "FILE", default_value = "/etc/coral/admin.token")]
    pub token: PathBuf,
    /// At that node alone.
    #[arg(long)]
    pub here: bool,
    /// Print the node's JSON as it is.
    #[arg(long)]
    pub json: bool,
}

/// Of `coral drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The admin address of the node.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4161")]
    pub admin: SocketAddr,
    /// The file with that node's token [key: admin.token].
    #[arg(long, value_name = "FILE", default_value = "/etc/coral/admin.token")]
    pub token: PathBuf,
}

/// Of `coral purge-key`.
#[derive(Debug, Args)]
pub struct PurgeKeyArgs {
    /// The file of the key, which is made if it is not there.
    pub file: PathBuf,
}

/// Of `coral top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The admin address of the node to watch.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4161")]
    pub admin: SocketAddr,
    /// Print once and exit, as where the output is no terminal.
    #[arg(long)]
    pub once: bool,
    /// Print the node's JSON as it is, once.
    #[arg(long)]
    pub json: bool,
}

/// Of `coral health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The admin address of the node to ask.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4161")]
    pub admin: SocketAddr,
}

/// Of `coral dnssec-key`.
#[derive(Debug, Args)]
pub struct DnssecKeyArgs {
    /// The file of the key, which is made if it is not there.
    pub file: PathBuf,
    /// A zone that is to be signed by it; may be given many times.
    #[arg(long, value_name = "ZONE", default_value = "nyud.net")]
    pub suffix: Vec<Suffix>,
    /// How a new key signs.
    #[arg(long, value_name = "ALGORITHM", default_value = "ecdsa-p256")]
    pub algorithm: KeyAlgorithm,
}

/// Of `coral completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Of `coral man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory, which is made if it is not there.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// How a DNSSEC key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyAlgorithm {
    /// Number 13: all resolvers know it.
    EcdsaP256,
    /// Number 15: nearly all do.
    Ed25519,
}

const NODE_HELP: &str = "\
Every option can be set in the file, by a variable of the environment (CORAL_PROXY__LISTEN for
proxy.listen), or by a flag; a flag counts more than a variable, a variable more than the file.

Examples:
  coral node --config /etc/coral.toml
  coral node --dns-listen 127.0.0.1:5300 --proxy-listen 127.0.0.1:8080 --dsht-listen 127.0.0.1:4160
  coral node --seed node.example.org:4160 --set dsht.address=192.0.2.1";

const DEMO_HELP: &str = "\
Needs no root, no DNS set-up and no network: all of it is on loopback addresses.

Examples:
  coral demo
  coral demo --nodes 8 --once";

const SIM_HELP: &str = "\
Needs no network. The same seed gives the same figures, but for those of memory and speed.

Examples:
  coral sim hotspot
  coral sim hops --nodes 100000
  coral sim flash --seed 7 --json flash.json --svg flash.svg";

const URL_HELP: &str = "\
Examples:
  coral url http://www.example.com/page.html
  coral url https://www.example.com/ --suffix cdn.example.org";

const LOOKUP_HELP: &str = "\
Examples:
  coral lookup http://www.example.com/page.html
  coral lookup --trace http://www.example.com.nyud.net/ --admin 127.0.0.1:4161";

const EXPLAIN_HELP: &str = "\
It asks the node, which asks the index, and nobody asks the origin.

Examples:
  coral explain http://www.example.com/page.html
  coral explain www.example.com --admin 127.0.0.1:4161 --json";

const MAP_HELP: &str = "\
It takes some seconds: the node searches the index until it meets nobody new, 256 times at most. In a
large network a part of the nodes is met.

Examples:
  coral map
  coral map --admin 127.0.0.1:4161 --svg map.svg";

const PURGE_HELP: &str = "\
It ends with 0 when the node has purged and has told others, who follow within seconds. What their users have asked for
in the meantime comes from the origin, as does all that was purged.

Examples:
  coral purge http://www.example.com/page.html
  coral purge 'http://www.example.com/news/*' https://www.example.com/style.css
  coral purge www.example.com --token admin.token --here";

const DRAIN_HELP: &str = "\
It is named in no answer any more, serves who knows its address, and stops when what resolvers have been told before has run out.
SIGUSR1 does the same, without a token.

Examples:
  coral drain
  coral drain --admin 127.0.0.1:4161 --token admin.token";

const PURGE_KEY_HELP: &str = "\
Name the file at the node at which you purge (purge.key), and what is printed at all nodes (purge.operators).
Whoever has the file can have everything asked for again.

Examples:
  coral purge-key /etc/coral/purge.key";

const TOP_HELP: &str = "\
Ctrl-C ends it.

Examples:
  coral top
  coral top --admin 127.0.0.1:4161 --once";

const STATUS_HELP: &str = "\
Examples:
  coral status
  coral status --admin 127.0.0.1:4161 --json";

const HEALTH_HELP: &str = "\
For health checks where there is no shell and no curl, as in a container.

Examples:
  coral health
  coral health --admin 127.0.0.1:4161";

const DNSSEC_KEY_HELP: &str = "\
Copy the file to every node of the network, and name it there (dns.dnssec_keys). Once all of them sign,
give the DS record to the zone above: your registrar has a form for it.

Examples:
  coral dnssec-key /etc/coral/dnssec.key
  coral dnssec-key dnssec.key --suffix cdn.example.org --algorithm ed25519";

const CHECK_HOST_HELP: &str = "\
Looks at ports, address, seeds, the right to ping, the delegation of the zone, files, limits and the clock, and has a
node of the network try the ports from outside. Changes nothing. Run it as the user and with the configuration of the node; the exit status is 1 if it could not run.

Examples:
  coral check --config /etc/coral.toml
  coral check --config /etc/coral.toml --from node.example.org
  coral check --config /etc/coral.toml --resolver 9.9.9.9:53 --json";

const CHECK_HELP: &str = "\
Examples:
  coral check-config --config /etc/coral.toml
  coral check-config --set proxy.listen=127.0.0.1:8080";

const COMPLETIONS_HELP: &str = "\
To be kept where the shell looks: /etc/bash_completion.d/coral, ~/.config/fish/completions/coral.fish.

Examples:
  coral completions bash
  coral completions fish";

const MAN_HELP: &str = "\
Examples:
  coral man /usr/local/share/man/man1";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_overrides_and_set_is_last() {
        let cli = Cli::parse_from([
            "coral",
            "node",
            "--set",
            "proxy.listen=off",
            "--proxy-listen",
            "127.0.0.1:8080",
            "--seed",
            "a:1",
            "--seed",
            "b:2",
        ]);
        let Command::Node(args) = cli.command else {
            panic!("another subcommand");
        };
        let overrides = args.node.overrides().unwrap();
        let said: Vec<String> = overrides.iter().map(|o| format!("{} {}={}", o.origin, o.path, o.value)).collect();
        assert_eq!(
            said,
            [
                "--seed dsht.seeds=a:1,b:2",
                "--proxy-listen proxy.listen=127.0.0.1:8080",
                "--set proxy.listen proxy.listen=off",
            ]
        );
    }
}
