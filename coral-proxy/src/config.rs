//! Sizes, times and limits of the proxy. Every value has a default that suits a volunteer's small machine.
//!
//! Spans are written like `20s`, sizes like `256 MiB`. A running proxy keeps what it got, but for what [`crate::Proxy::reload`] takes
//! over.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use coral_dsht::NetworkKey;
use serde::{Deserialize, Serialize};

use crate::certificates::CertificateFiles;
use crate::url::Site;

/// The settings of a proxy: the section `[proxy]`. Where it listens is the caller's, who binds the socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Host names of the operator's own, each with its origin, which may be private. Default none.
    #[serde(deserialize_with = "distinct")]
    pub sites: Vec<Site>,
    /// Whether four numeric labels before a suffix may name an IPv4 address as origin. Default false [C04 §3.2].
    ///
    /// Private addresses stay refused. Names can be moved by their owner when abused, addresses cannot.
    pub allow_addresses: bool,
    /// A file of what this node does not serve. Default `None`.
    ///
    /// A line is a host name, which stands for all below it, or one with the beginning of a path: `example.com/path`. What follows
    /// a `#` is a comment. What is on it gets 403, cached or not; other nodes go on as their operators see fit.
    pub deny: Option<PathBuf>,
    /// Certificates for clients that speak TLS, each with its key, both PEM. Default none.
    ///
    /// A client is shown the first that is for the name it asks for, else the first of all. One for `*.s.` and the suffix is for every site.
    /// They are read again within seconds of a change.
    pub certificates: Vec<CertificateFiles>,
    /// Memory for whole objects, and for the parts of larger ones that are asked for most. Default 64 MiB.
    ///
    /// Buffers of transfers under way come on top: at most `memory_object_limit` for each.
    pub memory: ByteSize,
    /// Objects above this go to disk while they arrive, or are passed on without being stored. Default 1 MiB.
    pub memory_object_limit: ByteSize,
    /// Threads that serve connections, each those it was given. Default `None`: all are tasks of the runtime on which the
    /// proxy runs; a node then starts a thread for each processor.
    ///
    /// A hit takes less time than to wake another thread for it.
    pub threads: Option<NonZeroUsize>,
    /// How long requests under way may take to finish once the node is told to stop. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// How long they may take once another process has taken over the sockets. Default 10 min.
    #[serde(with = "humantime_serde")]
    pub hand_over: Duration,
    /// The disk tier.
    pub disk: Disk,
    /// How much may be sent and received.
    pub bandwidth: Bandwidth,
    /// What clients may do.
    pub client: Client,
    /// How origins are asked.
    pub origin: OriginLimits,
    /// How other nodes are asked.
    pub peer: PeerLimits,
    /// How long responses stay fresh.
    pub freshness: Freshness,
    /// How this node tells others what it has.
    pub reference: Reference,
    /// How this node tells others near which clients it is.
    pub hints: Hints,
    /// The secret of a closed network, by which its nodes know each other over HTTP, too. Default none.
    ///
    /// It is the index's as well, so it is no key of this section: whoever starts both hands it to both.
    #[serde(skip)]
    pub network_key: Option<NetworkKey>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sites: Vec::new(),
            allow_addresses: false,
            deny: None,
            certificates: Vec::new(),
            memory: ByteSize::mib(64),
            memory_object_limit: ByteSize::mib(1),
            threads: None,
            drain: Duration::from_secs(10),
            hand_over: Duration::from_secs(600),
            disk: Disk::default(),
            bandwidth: Bandwidth::default(),
            client: Client::default(),
            origin: OriginLimits::default(),
            peer: PeerLimits::default(),
            freshness: Freshness::default(),
            reference: Reference::default(),
            hints: Hints::default(),
            network_key: None,
        }
    }
}

impl Config {
    /// What of this configuration a running proxy takes over; all else waits for a restart.
    ///
    /// No field is passed over in silence, so that whoever adds one decides about it. Whoever moves one to [`Live`] is told of the
    /// places that make it so.
    pub(crate) fn live(&self) -> Live<'_> {
        let Self {
            sites,
            allow_addresses,
            deny,
            certificates,
            bandwidth: Bandwidth { send, receive, burst, patience: _ },
            client:
                Client {
                    max_connections_per_address,
                    requests_per_address,
                    header_timeout: _,
                    stall_timeout: _,
                    max_header: _,
                    max_headers: _,
                    max_connections: _,
                },
            memory: _,
            memory_object_limit: _,
            threads: _,
            drain: _,
            hand_over: _,
            disk: _,
            origin: _,
            peer: _,
            freshness: _,
            reference: _,
            hints: _,
            network_key: _,
        } = self;
        Live {
            sites,
            allow_addresses: *allow_addresses,
            deny,
            certificates,
            send: *send,
            receive: *receive,
            burst: *burst,
            max_connections_per_address: *max_connections_per_address,
            requests_per_address: *requests_per_address,
        }
    }

    /// Takes over from `new` what [`crate::Proxy::reload`] does, so that what is left of a difference waits for a restart.
    pub fn take_over(&mut self, new: &Self) {
        let Live {
            sites,
            allow_addresses,
            deny,
            certificates,
            send,
            receive,
            burst,
            max_connections_per_address,
            requests_per_address,
        } = new.live();
        self.sites.clone_from(sites);
        self.allow_addresses = allow_addresses;
        self.deny.clone_from(deny);
        if !self.certificates.is_empty() {
            self.certificates.clone_from(certificates);
        }
        for (has, new) in [(&mut self.bandwidth.send, send), (&mut self.bandwidth.receive, receive)] {
            *has = has.and(new).or(*has);
        }
        self.bandwidth.burst = burst;
        self.client.max_connections_per_address = max_connections_per_address;
        self.client.requests_per_address = requests_per_address;
    }
}

/// The settings that change while a proxy runs, see [`Config::live`].
#[derive(Debug)]
pub(crate) struct Live<'a> {
    pub(crate) sites: &'a Vec<Site>,
    pub(crate) allow_addresses: bool,
    pub(crate) deny: &'a Option<PathBuf>,
    /// If there were any before.
    pub(crate) certificates: &'a Vec<CertificateFiles>,
    /// If it was limited before, as `receive`.
    pub(crate) send: Option<ByteSize>,
    pub(crate) receive: Option<ByteSize>,
    pub(crate) burst: Duration,
    pub(crate) max_connections_per_address: NonZeroU32,
    pub(crate) requests_per_address: NonZeroU32,
}

/// The disk tier: the section `[proxy.disk]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// A directory for objects, which a restart finds again. Default `None`: objects are in memory only, and those above
    /// `memory_object_limit` pass through unstored.
    ///
    /// It is made if it is missing. One process uses it at a time; files of other names in it are left alone.
    pub path: Option<PathBuf>,
    /// The most that files there take. Default 4 GiB. Transfers under way come on top. Objects above half of it are not stored.
    ///
    /// Each object there takes about 115 bytes of memory: 400,000 of 10 KiB, which fill 4 GiB, 46 MB.
    pub capacity: ByteSize,
}

impl Default for Disk {
    fn default() -> Self {
        Self { path: None, capacity: ByteSize::gib(4) }
    }
}

/// The least bandwidth, a second.
const LEAST_RATE: ByteSize = ByteSize::kib(1);

/// How much may be sent and received: the section `[proxy.bandwidth]`.
///
/// What is counted is what HTTP is written in; the headers of TCP and IP add about 3 %. At a limit the domains that have had the most
/// in the last seconds are slowed first, and those that have had less than an equal part not at all \[C10\].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    /// Bytes a second to clients and other nodes. Default `None`: not limited. At least 1 KiB.
    #[serde(deserialize_with = "rate")]
    pub send: Option<ByteSize>,
    /// Bytes a second from origins and other nodes. Default `None`: not limited. At least 1 KiB.
    #[serde(deserialize_with = "rate")]
    pub receive: Option<ByteSize>,
    /// After a pause, as much may move at once as otherwise in this time. Default 100 ms; at least 8 KiB.
    ///
    /// Longer lets a small page through at once where large transfers leave room; the limit is kept over that longer time only.
    #[serde(with = "humantime_serde")]
    pub burst: Duration,
    /// How long the transfers of a domain may wait for their next piece before further requests for it are turned away. Default 2 s.
    ///
    /// Longer makes the transfers of a hot domain slower, and turns fewer away.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self { send: None, receive: None, burst: Duration::from_millis(100), patience: Duration::from_secs(2) }
    }
}

/// What clients may do: the section `[proxy.client]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// How long a connection may take for the head of a request, and may idle between requests. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a connection may take no byte of what is sent to it. Default 30 s.
    ///
    /// Longer is kinder to bad links; a stalled reader of an object that is not stored holds up the others of it.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// Bytes of a request's head. Default 16 KiB; more gets 431. At least 8 KiB.
    pub max_header: ByteSize,
    /// Header fields of a request. Default 100; more get 431.
    pub max_headers: NonZeroUsize,
    /// Connections at one time. Default 1024; a further one takes the place of the oldest that idles, or waits.
    pub max_connections: NonZeroUsize,
    /// Connections of one client address (an IPv6 /64) at one time. Default 256; more are closed at once.
    pub max_connections_per_address: NonZeroU32,
    /// Requests a second of one client address (an IPv6 /64), on all its connections. Default 10,000; more get 429.
    ///
    /// After a pause, those of two seconds may come at once. Many people may share an address, and other nodes are clients, too.
    pub requests_per_address: NonZeroU32,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            max_header: ByteSize::kib(16),
            max_headers: NonZeroUsize::new(100).expect("100 is not zero"),
            max_connections: NonZeroUsize::new(1024).expect("1024 is not zero"),
            max_connections_per_address: NonZeroU32::new(256).expect("256 is not zero"),
            requests_per_address: NonZeroU32::new(10_000).expect("10,000 is not zero"),
        }
    }
}

/// How origins are asked: the section `[proxy.origin]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginLimits {
    /// How long name resolution and connecting may take together. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the head of the response may take, connecting included. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// How long the body may pause. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// Bytes of a response's header fields. Default 64 KiB; more gets 502.
    pub max_header: ByteSize,
    /// Bytes of a response's body. Default 4 GiB; more gets 502, or breaks the transfer off.
    pub max_body: ByteSize,
    /// PEM files with certificates of authorities to trust besides the system's. Default none.
    ///
    /// For origins whose certificate a private authority has signed, or has none above it. They count for all origins:
    /// whoever holds such an authority's key can pose as any https origin towards this node. Read once, at the start;
    /// a file that cannot be read or holds no certificate keeps the node from starting.
    pub extra_ca: Vec<PathBuf>,
    /// How long an origin that failed is not asked again for the same URL. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// What may still be missing of a body that nobody reads any more for the fetch to be finished. Default 16 MiB.
    ///
    /// Higher serves the next visitor; lower spares the origin what was asked for and not wanted.
    pub finish_unread: ByteSize,
}

impl Default for OriginLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(20),
            max_header: ByteSize::kib(64),
            max_body: ByteSize::gib(4),
            extra_ca: Vec::new(),
            negative_ttl: Duration::from_secs(5),
            finish_unread: ByteSize::mib(16),
        }
    }
}

/// How other nodes are asked: the section `[proxy.peer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerLimits {
    /// How long the index may take to say who has an object. Default 2 s; then the origin is asked.
    #[serde(with = "humantime_serde")]
    pub index_timeout: Duration,
    /// How long connecting to a node may take. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a node may take for an answer, connecting included. Default 3 s.
    ///
    /// One that waits for the object itself says so in time and is asked again; one that says nothing has gone.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// How long other nodes that wait for the object themselves are waited for, in all. Default 25 s; then the origin is
    /// asked.
    ///
    /// Longer than an origin may take: else a whole crowd would turn to one that is only slow.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// How long a node's body may pause. Default 30 s; then it is continued from elsewhere, or breaks off.
    ///
    /// Longer than that of origins: a node that reads from one goes on before those who read from the node give it up.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// How long the first of several nodes may take before the next one is asked as well, at most. Default 500 ms.
    ///
    /// Mostly it is less, by how soon others have answered, but 20 ms. From `first_byte_timeout` on nodes are asked one after
    /// another.
    #[serde(with = "humantime_serde")]
    pub hedge: Duration,
    /// Nodes to ask before the origin is. Default 4.
    pub attempts: usize,
    /// How long a node that failed is not asked. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub set_aside: Duration,
    /// Of so many objects that nodes deliver, the origin is asked about one, by HEAD. Default 100; with 0, about none.
    pub verify: u32,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            index_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            first_byte_timeout: Duration::from_secs(3),
            patience: Duration::from_secs(25),
            stall_timeout: Duration::from_secs(30),
            hedge: Duration::from_millis(500),
            attempts: 4,
            set_aside: Duration::from_secs(30),
            verify: 100,
        }
    }
}

/// A bandwidth that something can move at: with less, a page would take longer than anybody waits.
fn rate<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    let rate = Option::<ByteSize>::deserialize(deserializer)?;
    match rate.filter(|rate| *rate < LEAST_RATE) {
        Some(rate) => Err(serde::de::Error::custom(format!("{rate} a second is less than {LEAST_RATE}"))),
        None => Ok(rate),
    }
}

/// Sites of which no two have one host: else it would be chance which of them is meant.
fn distinct<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Site>, D::Error> {
    let sites = Vec::<Site>::deserialize(deserializer)?;
    let mut hosts = std::collections::BTreeSet::new();
    match sites.iter().find(|site| !hosts.insert(&site.host)) {
        Some(twice) => Err(serde::de::Error::custom(format!("the site {} is there twice", twice.host))),
        None => Ok(sites),
    }
}

/// How long responses stay fresh: the section `[proxy.freshness]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Freshness {
    /// The lifetime of a response that says nothing at all. Default 12 h (the CoralCDN wiki).
    #[serde(with = "humantime_serde")]
    pub default: Duration,
    /// The part of its age, by Last-Modified, that a response stays fresh, in per cent. Default 10 (RFC 9111 §4.2.2).
    pub heuristic_percent: u32,
    /// The least that this part comes to. Default 1 min: a page that was changed just now is the very one that a crowd
    /// comes for, and 10 % of its age would ask the origin every few seconds. Higher shows changes later.
    #[serde(with = "humantime_serde")]
    pub heuristic_least: Duration,
    /// The most that this part comes to. Default 12 h.
    #[serde(with = "humantime_serde")]
    pub heuristic_limit: Duration,
    /// How long an expired copy is served while the origin fails. Default 24 h \[C10\].
    #[serde(with = "humantime_serde")]
    pub stale_if_error: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        Self {
            default: 12 * HOUR,
            heuristic_percent: 10,
            heuristic_least: Duration::from_secs(60),
            heuristic_limit: 12 * HOUR,
            stale_if_error: 24 * HOUR,
        }
    }
}

/// How this node tells others what it has: the section `[proxy.reference]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reference {
    /// How long a reference lives while the object is being fetched. Default 20 s, renewed until done [C04 §4.2].
    #[serde(with = "humantime_serde")]
    pub fetching_ttl: Duration,
    /// How long it lives once the object is whole. Default 1 h, renewed while cached and fresh [C04 §4.2].
    #[serde(with = "humantime_serde")]
    pub complete_ttl: Duration,
    /// How long withdrawing all references may take when the node stops. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub withdraw: Duration,
}

impl Default for Reference {
    fn default() -> Self {
        Self {
            fetching_ttl: Duration::from_secs(20),
            complete_ttl: Duration::from_secs(60 * 60),
            withdraw: Duration::from_secs(5),
        }
    }
}

/// How this node tells others near which clients it is: the section `[proxy.hints]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hints {
    /// Whether this node's hints are put under the networks (/24, /48) of clients that the kernel measures within the diameter
    /// of level 1 (design §3.2). Default true. Nameservers find a node near other clients of those networks by them.
    pub put: bool,
    /// Networks remembered, at most. Default 4096; the one longest without a client gives way.
    ///
    /// More costs as many hints in the index, while clients keep coming from all of them.
    pub prefixes: NonZeroUsize,
    /// Connections on which a request was answered before a network gets its hint, and again before each renewal. Default 2.
    pub connections: NonZeroU32,
    /// The least time between two puts. Default 500 ms: whoever has many networks cannot make the node busy.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            put: true,
            prefixes: NonZeroUsize::new(4096).expect("4096 is not zero"),
            connections: NonZeroU32::new(2).expect("2 is not zero"),
            interval: Duration::from_millis(500),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        toml::from_str::<Config>(text).unwrap_err().message().to_owned()
    }

    #[test]
    fn an_empty_section_is_the_default() {
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut config = Config::default();
        config.sites.push(Site::new("WWW.x.com.", "http://127.0.0.1:8000").unwrap());
        let site = Site::new("api.x.com", "http://127.0.0.1:8000").unwrap();
        config.sites.push(site.passing(&["authorization", "x-version"]).unwrap().setting_cookies());
        config.disk.path = Some("cache".into());
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{text}");
    }

    #[test]
    fn a_wrong_key_or_site_is_named() {
        assert!(error("memroy = \"1 MiB\"").contains("memroy"));
        let site = "[[sites]]\nhost = \"a.b\"\norigin = \"http://a\"\n";
        assert!(error(&site.repeat(2)).contains("there twice"));
        assert!(error("[bandwidth]\nsend = \"1000 B\"").contains("less than 1.0 KiB"));
        assert!(error("[[sites]]\nhost = \"a..b\"\norigin = \"http://a\"").contains("host name"));
        assert!(error("[[sites]]\nhost = \"a.b\"\norigin = \"ftp://a\"").contains("http and https"));
        assert!(error("[[sites]]\nhost = \"a.b\"\norigin = \"http://a/path\"").contains("host and port"));
        for never in ["cookie", "host", "if-none-match", "x-forwarded-for", "a b"] {
            let passing = format!("{site}pass = [\"x-fine\", \"{never}\"]");
            assert!(error(&passing).contains("never passes"), "{never}");
        }
    }
}
