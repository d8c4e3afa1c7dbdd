//! What an operator may set about the DNS server. Times read like `30s`, addresses and names are not here: the caller
//! binds the sockets and parses the suffixes.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use coral_dsht::Level;
use serde::{Deserialize, Serialize};

use crate::records::RecordConfig;

/// How this node answers for the suffix zones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses of proxies in one answer, at most. Default 3.
    ///
    /// More give a browser more to fall back on when a proxy dies within the TTL; fewer keep its requests together.
    pub addresses: NonZeroUsize,
    /// Proxies that a level must have for an answer to be taken from it; with fewer, the next farther level is used.
    /// Default 2.
    ///
    /// Higher spreads the load of a small cluster onto distant proxies; 1 sends everybody near to its one member.
    pub level_members: NonZeroUsize,
    /// How long a resolver may keep addresses taken from level 0 or 1. Default 30s \[C04 §3.1\].
    ///
    /// Shorter gets clients off a dead proxy sooner, and costs queries in proportion.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// How long a resolver may keep addresses taken from level 2 or nearer. Default 60s \[C04 §3.1\].
    #[serde(with = "humantime_serde")]
    pub near_ttl: Duration,
    /// Nameservers named at the apex of a suffix zone, or in a referral with this node among them, at most. Default 3.
    ///
    /// Each costs about 50 bytes of the answer with its address. When all near ones of a referral die at once, Unbound tries
    /// each of them for up to 3 s before this node: with two the first name takes 6 s at worst, with three longer than the
    /// 10 s that programs wait.
    pub nameservers: NonZeroUsize,
    /// How long a resolver may keep the names and addresses of nameservers. Default 300s.
    ///
    /// The paper has an hour; a resolver that holds only dead ones is lost for that long, hence less here.
    #[serde(with = "humantime_serde")]
    pub nameserver_ttl: Duration,
    /// How long a resolver that is referred asks the nameservers of level 1 near it, before it asks a distant one again.
    /// Default 60s.
    ///
    /// Longer saves distant queries, one for each label below the suffix; shorter lets a resolver find nearer nodes sooner.
    #[serde(with = "humantime_serde")]
    pub referral_ttl: Duration,
    /// The same for nameservers of level 2. Default 120s.
    #[serde(with = "humantime_serde")]
    pub near_referral_ttl: Duration,
    /// How slowly this node answers, as the last resort, resolvers that it has referred to others. Default 200ms, from the
    /// query's departure to the answer's arrival; 0s answers at once, and always.
    ///
    /// Resolvers prefer nameservers by their speed. A node that is slow to those who have nearer ones is asked less. To
    /// one that comes back for a second name at once while the nearer ones live it is three times as slow, and to one that comes all the time silent for some
    /// seconds, over UDP.
    #[serde(with = "humantime_serde")]
    pub last_resort: Duration,
    /// How long a resolver may remember that something is not there: the SOA's MINIMUM (RFC 2308 §4). Default 30s.
    ///
    /// It holds, for instance, for IPv6 addresses while no live proxy has one.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// How often the live proxies and nameservers are asked of the index. Default 1s.
    ///
    /// Queries never wait for it. Longer saves work on a busy index, and hands out dead proxies for longer.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
    /// Age beyond which that list is not used any more, should the index not answer; this node then names only itself.
    /// Default 10s. What is under twice `refresh` counts as that.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Whether names made of an IP address exist, such as `192.0.2.1.nyud.net`. Default false.
    ///
    /// The proxy refuses such URLs by default, too.
    pub ip_literals: bool,
    /// The largest answer over UDP in bytes, however much the client would take. Default 1232 (DNS flag day 2020);
    /// what is under 512 counts as 512 (RFC 6891 §6.2.3).
    ///
    /// More risks fragments, which are lost or forged; less sends resolvers to TCP.
    pub udp_payload: u16,
    /// Answers over UDP to one network (/24, /56) in a second, from those that have not proved their address by a cookie
    /// (RFC 7873). Default 1000; 0 has no limit.
    ///
    /// Beyond it every second query gets an empty answer that sends a resolver to TCP, and the others none. It bounds
    /// what forged source addresses can make this node send to somebody.
    pub rate: u32,
    /// The name of this server for who asks by NSID (RFC 5001) or for `id.server` (RFC 4892). Default: none, and it says
    /// nothing.
    pub nsid: Option<String>,
    /// The version to tell who asks for `version.bind` or `version.server` (RFC 4892). Default: none, and they are refused.
    pub version: Option<String>,
    /// What the proxies speak over TLS, by ALPN, such as `["h2", "http/1.1"]`: hosts below `s` get HTTPS records that say so
    /// (RFC 9460). Default: none, and no such records.
    ///
    /// Browsers never use plain HTTP with a host that has one.
    pub https: Vec<String>,
    /// Records to add to the zones, such as MX and CAA. Default: none.
    pub records: Vec<RecordConfig>,
    /// Files of the keys with which answers are signed (DNSSEC), PKCS#8 in PEM: the first one signs, any others are published for
    /// when they will. Default: none, and nothing is signed.
    ///
    /// All nodes of a network need the same, before the zone above has the DS record: what others say is then taken for forged.
    pub dnssec_keys: Vec<PathBuf>,
    /// TCP connections open at once; a further one takes the place of the oldest. Default 256.
    ///
    /// Each costs a file descriptor and at most about 8 KiB.
    pub tcp_connections: NonZeroUsize,
    /// How long a TCP connection may take to bring a whole query, and to take a whole answer. Default 10s.
    ///
    /// RFC 7766 §6.2.3 asks for a few seconds at least.
    #[serde(with = "humantime_serde")]
    pub tcp_idle: Duration,
    /// Measuring how far clients are; `None` leaves every client at level 0, that is, anywhere. Default on.
    pub probe: Option<ProbeConfig>,
}

impl Config {
    /// How long a resolver keeps a referral to nameservers of this level.
    pub fn referral_ttl(&self, level: Level) -> Duration {
        if level.number() >= 2 { self.near_referral_ttl } else { self.referral_ttl }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: const { NonZeroUsize::new(3).unwrap() },
            level_members: const { NonZeroUsize::new(2).unwrap() },
            ttl: Duration::from_secs(30),
            near_ttl: Duration::from_secs(60),
            nameservers: const { NonZeroUsize::new(3).unwrap() },
            nameserver_ttl: Duration::from_secs(300),
            referral_ttl: Duration::from_secs(60),
            near_referral_ttl: Duration::from_secs(120),
            last_resort: Duration::from_millis(200),
            negative_ttl: Duration::from_secs(30),
            refresh: Duration::from_secs(1),
            max_age: Duration::from_secs(10),
            ip_literals: false,
            udp_payload: 1232,
            rate: 1_000,
            nsid: None,
            version: None,
            https: Vec::new(),
            records: Vec::new(),
            dnssec_keys: Vec::new(),
            tcp_connections: const { NonZeroUsize::new(256).unwrap() },
            tcp_idle: Duration::from_secs(10),
            probe: Some(ProbeConfig::default()),
        }
    }
}

/// How the round-trip time to a client is measured: by ICMP echo \[C04 §3.1\].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// Echo requests in one measurement; the least round-trip time counts. Default 3.
    ///
    /// Delays on the way only ever add, so more give a truer figure, for as many packets.
    pub echoes: u16,
    /// How long to wait for each echo. Default 1s.
    ///
    /// Anything beyond the diameter of level 1 means level 0 all the same; the rest is for the curious.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a measurement of a prefix (/24, /48) is used, an unanswered one too. Default 10m.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Prefixes remembered, at most; the oldest give way. Default 65536, at about 100 bytes each.
    pub capacity: NonZeroUsize,
    /// Whether nodes near a client that is not near this one are looked for, and clients are sent there. Default true.
    ///
    /// It takes a traceroute to the client, a search of the index, and questions to a few nodes, again while it asks.
    pub search: bool,
    /// Searches under way at once. Default 16: some ten a second.
    pub searches: NonZeroUsize,
    /// How often nodes near a client that goes on asking are looked for again. Default 30s.
    ///
    /// Resolvers are referred to dead ones for that long at most, and do not hear of new ones.
    #[serde(with = "humantime_serde")]
    pub search_interval: Duration,
    /// Measurements under way at once; further clients wait for their next query. Default 64.
    ///
    /// It bounds what forged source addresses can make this node send: one packet for each of them a `timeout` to where
    /// nobody answers, and one a round trip, `echoes` in all for a prefix, to where somebody does.
    pub at_once: NonZeroUsize,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            echoes: 3,
            timeout: Duration::from_secs(1),
            ttl: Duration::from_secs(600),
            capacity: const { NonZeroUsize::new(65_536).unwrap() },
            search: true,
            searches: const { NonZeroUsize::new(16).unwrap() },
            search_interval: Duration::from_secs(30),
            at_once: const { NonZeroUsize::new(64).unwrap() },
        }
    }
}
