//! The configuration of a node: a TOML file with a section for each crate, overridden by environment and flags.
//!
//! A section holds what the node itself needs (the address to listen at) beside the `Config` of the crate that the
//! section is named after; [`Section`] keeps the two apart. Each key has a default, which `deploy/coral.toml` shows.
//! Reading is in [`layers`], the search for a misspelt key in `schema`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub mod layers;
mod schema;

pub use layers::Override;

use crate::purge::key::Operator;

/// All that a node can be told.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// The zones under which host names are coralized. Default: `nyud.net`.
    ///
    /// The first is the one that `coral url` appends. A node answers DNS and HTTP for all of them alike.
    pub suffixes: Vec<Suffix>,
    /// The index: where it listens, whom it joins by.
    pub dsht: Section<DshtNode, coral_dsht::Config>,
    /// The nameserver.
    pub dns: Section<DnsNode, coral_dns::Config>,
    /// The HTTP cache.
    pub proxy: Section<ProxyNode, coral_proxy::Config>,
    /// The operator's address: metrics, health, status.
    pub admin: Admin,
    /// Whose purges this node obeys, and with what its own are signed.
    pub purge: Purge,
    /// The node's own page.
    pub page: Page,
    /// Trying the ports of hosts that ask for it.
    pub reach: Reach,
    /// What is logged, and how.
    pub log: Log,
}

/// One section of the file. The node and the crate have no key in common.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Section<N, C> {
    /// What the node itself reads of it.
    #[serde(flatten)]
    pub node: N,
    /// What it hands to the crate of that name.
    #[serde(flatten)]
    pub part: C,
}

/// The node's share of `[dsht]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DshtNode {
    /// Where the index listens, over UDP. Default: `0.0.0.0:4160`, as an id has 160 bits.
    pub listen: SocketAddr,
    /// The address at which others reach this node, for all its services; `auto` finds it. Default: `auto`.
    ///
    /// It decides the node's id. `auto` is the listening address where that is a specific one, else the one from which
    /// this machine would speak to the first seed. A node behind address translation must be told.
    #[serde(with = "auto")]
    pub address: Option<IpAddr>,
    /// Nodes to join by, `host:port` each; names are looked up at the start. Default: none, the first of a network.
    pub seeds: Vec<Contact>,
    /// A file in which the node writes down peers, to join by when it starts again: so it comes back without its seeds.
    /// Default: none.
    pub state: Option<PathBuf>,
    /// Whether the node looks for the routers in front of it, at the start and every half hour, so that it finds its
    /// neighbours by them and they find it. Default: true.
    ///
    /// It takes no privilege, and two dozen small UDP packets towards nodes that it knows.
    pub trace: bool,
}

/// The node's share of `[dns]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsNode {
    /// Where the nameserver listens, over UDP and TCP; `off` runs none. Default: `0.0.0.0:53`.
    #[serde(with = "off")]
    pub listen: Option<SocketAddr>,
    /// Whether the round-trip time to clients is measured, as `[dns.probe]` says. Default: true.
    ///
    /// Without it every client counts as far away, and gets any of the nodes.
    pub measure: bool,
}

/// The node's share of `[proxy]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyNode {
    /// Where the cache listens, over HTTP; `off` runs none. Default: `0.0.0.0:80`.
    ///
    /// Browsers that come by DNS know no port: any other than 80 needs a forwarding in front.
    #[serde(with = "off")]
    pub listen: Option<SocketAddr>,
    /// Where it listens over TLS, if it has `certificates`; `off` does not. Default: `0.0.0.0:443`.
    #[serde(with = "off")]
    pub tls_listen: Option<SocketAddr>,
}

/// `[admin]`: the operator's address.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where it listens, over HTTP; `off` runs none. Default: `127.0.0.1:4161`.
    ///
    /// It asks for no password, and shows what the node does and holds: keep it on loopback or behind a firewall.
    #[serde(with = "off")]
    pub listen: Option<SocketAddr>,
    /// A file with the token by which `coral purge` may purge there, of 16 characters or more. Default: none, and nobody may.
    ///
    /// It is read at each purge, so it can be changed at any time.
    pub token: Option<PathBuf>,
}

/// `[purge]`: purges of the whole network. Whoever holds an operator's key can have all that is cached asked for again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Purge {
    /// The file of the key with which purges of this node's operator are signed, as `coral purge-key` makes it. Default: none,
    /// and he purges this node alone.
    pub key: Option<PathBuf>,
    /// Public keys of operators whose purges this node obeys, as `coral purge-key` prints them. Default: none.
    pub operators: Vec<Operator>,
}

/// `[page]`: the node's own page at the bare suffix, `http://nyud.net/`. The operator has all of it at the admin address.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Page {
    /// What everybody sees. Default: `figures`.
    pub public: PublicPage,
}

/// How much of the page everybody sees. Nobody sees there who asks, or for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublicPage {
    /// None: the bare suffix is an error, as any host without an origin.
    Off,
    /// The form that coralizes a URL, and what this is.
    Form,
    /// And the node's clusters, how many requests it answers and from where, and the bytes that origins were spared.
    #[default]
    Figures,
}

/// `[reach]`: trying the ports of hosts that are about to join, from here, for `coral check`. Only those of the host that asks are tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reach {
    /// Whether it is done. Default: true.
    pub serve: bool,
    /// Requests a minute for which it is done, five small tries each. Default: 60.
    pub per_minute: u32,
    /// Of one host, or IPv6 /64. Default: 6.
    pub per_minute_of_one: u32,
}

impl Default for Reach {
    fn default() -> Self {
        Self { serve: true, per_minute: 60, per_minute_of_one: 6 }
    }
}

/// `[log]`: what is logged to standard error.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `human`, or `json`: one object a line. Default: `human`.
    pub format: LogFormat,
    /// A level, or a level for each module: `info,coral_proxy::access=off`. Default: `info`.
    pub filter: String,
    /// What is logged of requests.
    pub access: AccessLog,
    /// Where the steps of requests are sent.
    pub traces: Traces,
}

/// `[log.traces]`: the steps of some requests, with their times, at all nodes that have to do with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traces {
    /// The collector, which takes OTLP over HTTP: `http://127.0.0.1:4318`, or https. Default: none, and nothing is traced.
    pub endpoint: Option<String>,
    /// PEM files with certificates that vouch for the collector besides the system's. Default: none.
    pub extra_ca: Vec<PathBuf>,
    /// The share of the requests of clients that are traced, from 0 to 1. Default: 0.01.
    ///
    /// Those of other nodes are traced if these trace them.
    pub share: f64,
}

impl Default for Traces {
    fn default() -> Self {
        Self { endpoint: None, extra_ca: Vec::new(), share: 0.01 }
    }
}

/// `[log.access]`: a line for each request that the cache has answered, when all is sent or the client has gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// How it is written. Default: `human`.
    pub format: AccessFormat,
    /// A file for the lines, opened again at SIGHUP. Default: none, and they go to standard error.
    ///
    /// It is made if it is missing; none but its owner and group can read it.
    pub path: Option<PathBuf>,
    /// Whether clients are named without their ports and the last 8 bits of an IPv4 address, or the last 80 of an IPv6 one. Default: false.
    pub anonymize: bool,
}

/// How a line of the access log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// For people. Without a file, as lines of the log, in its format, at level `info` under `coral_proxy::access`.
    #[default]
    Human,
    /// The Combined Log Format of Apache, for the tools that read it.
    Combined,
    /// One JSON object a line.
    Json,
    /// Not at all.
    Off,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line, for machines.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            suffixes: vec!["nyud.net".parse().expect("a suffix by its own rules")],
            dsht: Section::default(),
            dns: Section::default(),
            proxy: Section::default(),
            admin: Admin::default(),
            purge: Purge::default(),
            page: Page::default(),
            reach: Reach::default(),
            log: Log::default(),
        }
    }
}

impl Config {
    /// Takes over from `new` what a running node does, so that what is left of a difference waits for the next start.
    pub(crate) fn take_over(&mut self, new: &Self) {
        // No field is passed over in silence, so that whoever adds one decides about it.
        let Self {
            proxy: Section { node: ProxyNode { listen: _, tls_listen: _ }, part: proxy },
            admin: Admin { token, listen: _ },
            purge,
            suffixes: _,
            dsht: _,
            dns: _,
            page: _,
            reach: _,
            log: _,
        } = new;
        self.proxy.part.take_over(proxy);
        self.admin.token.clone_from(token);
        self.purge.clone_from(purge);
    }

    /// The keys under which `other` says something else, with their tables.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        schema::differences(self, other)
    }
}

impl Default for DshtNode {
    fn default() -> Self {
        Self { listen: anywhere(4160), address: None, seeds: Vec::new(), state: None, trace: true }
    }
}

impl Default for DnsNode {
    fn default() -> Self {
        Self { listen: Some(anywhere(53)), measure: true }
    }
}

impl Default for ProxyNode {
    fn default() -> Self {
        Self { listen: Some(anywhere(80)), tls_listen: Some(anywhere(443)) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 4161))), token: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            filter: "info".to_owned(),
            access: AccessLog::default(),
            traces: Traces::default(),
        }
    }
}

fn anywhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

/// A suffix, as the nameserver and as the cache understand it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Suffix {
    /// For the nameserver: the zone.
    pub dns: coral_dns::Suffix,
    /// For the cache: what is cut off a host name.
    pub proxy: coral_proxy::Suffix,
}

impl FromStr for Suffix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(Self { dns: text.parse()?, proxy: text.parse()? })
    }
}

impl TryFrom<String> for Suffix {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Suffix> for String {
    fn from(suffix: Suffix) -> Self {
        suffix.proxy.to_string()
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.proxy, f)
    }
}

/// A node to join by: `host:port`. The host is looked up when the node starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Contact(String);

impl Contact {
    /// As tokio's `lookup_host` takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Contact {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        let host = |host: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            !host.is_empty() && host.chars().all(plain)
        };
        match text.rsplit_once(':') {
            Some((name, port)) if host(name) && port.parse::<u16>().is_ok_and(|port| port != 0) => {
                Ok(Self(text.to_owned()))
            }
            _ => anyhow::bail!("`{text}` is no host:port, such as node.example.org:4160 or [2001:db8::1]:4160"),
        }
    }
}

impl TryFrom<String> for Contact {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Contact> for String {
    fn from(contact: Contact) -> Self {
        contact.0
    }
}

impl From<SocketAddr> for Contact {
    fn from(addr: SocketAddr) -> Self {
        Self(addr.to_string())
    }
}

/// A listening address, or the word `off`.
mod off {
    use super::{Deserializer, Serializer, SocketAddr, read, write};

    pub(super) fn serialize<S: Serializer>(value: &Option<SocketAddr>, to: S) -> Result<S::Ok, S::Error> {
        write(value.as_ref(), "off", to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
        read(from, "off", "an address and port such as 127.0.0.1:8080")
    }
}

/// An address, or the word `auto`.
mod auto {
    use super::{Deserializer, IpAddr, Serializer, read, write};

    pub(super) fn serialize<S: Serializer>(value: &Option<IpAddr>, to: S) -> Result<S::Ok, S::Error> {
        write(value.as_ref(), "auto", to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
        read(from, "auto", "an IP address such as 192.0.2.1")
    }
}

fn write<T: fmt::Display, S: Serializer>(value: Option<&T>, word: &str, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_str(word),
    }
}

fn read<'de, T: FromStr, D: Deserializer<'de>>(from: D, word: &str, what: &str) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(from)?;
    if text == word {
        return Ok(None);
    }
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(serde::de::Error::custom(format!("`{text}` is neither {what} nor `{word}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_running_node_takes_over_is_no_difference_any_more() {
        let old = Config::from_text("[proxy.bandwidth]\nsend = \"1 MB\"", "old", &[]).unwrap();
        let text = "
            [dsht]
            listen = \"0.0.0.0:4170\"
            [proxy]
            deny = \"/etc/coral/deny\"
            sites = [{ host = \"a.b\", origin = \"http://a.c\" }]
            memory = \"1 GiB\"
            bandwidth = { send = \"2 MB\", receive = \"2 MB\" }
            client = { requests_per_address = 10 }
            [admin]
            token = \"/etc/coral/token\"
            [purge]
            key = \"/etc/coral/key\"";
        let new = Config::from_text(text, "new", &[]).unwrap();
        assert_eq!(old.differences(&old), [""; 0]);
        let mut taken = old.clone();
        taken.take_over(&new);
        assert_eq!(taken.differences(&new), ["dsht.listen", "proxy.bandwidth.receive", "proxy.memory"]);
        assert!(old.differences(&new).len() > 3);
    }

    #[test]
    fn a_contact_has_a_host_and_a_port() {
        for good in ["192.0.2.1:4160", "[2001:db8::1]:4160", "node.example.org:4160"] {
            assert_eq!(good.parse::<Contact>().unwrap().as_str(), good);
        }
        for bad in ["", "node", "node:", "node:x", ":4160", "node:0", "http://node:4160", "no de:1"] {
            assert!(bad.parse::<Contact>().is_err(), "{bad}");
        }
    }
}
