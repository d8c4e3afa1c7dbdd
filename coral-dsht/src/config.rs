//! Each constant of the papers, and ours: unit, default, source, and what a change costs.
//!
//! All nodes of a network should agree on `diameters`, `full_values` and `loaded_puts_per_minute`; the rest is each
//! node's own affair.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::level::{Level, Levels, MAX_LEVELS};
use crate::seal::NetworkKey;

/// How a node takes part in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The diameter of each level from L1 inwards: the round-trip time within which the members of a cluster are meant
    /// to be. Default 60 ms for L1 and 20 ms for L2 [C04 §4.5]. At most three; none means a single global level.
    ///
    /// A wider level gathers more nodes, and with them more cached content, but farther away.
    #[serde(with = "diameters")]
    pub diameters: Vec<Duration>,

    /// Values under one key, each with at least half of a new one's TTL left, above which a node calls itself full:
    /// l in [C04 §4.2]. Default 4.
    ///
    /// Higher gives a get more to choose from near the key, and lets puts for a popular key come nearer to it.
    pub full_values: NonZeroU32,

    /// Puts for one key, per minute, above which a node calls itself loaded: β in [C04 §4.2]. Default 12.
    ///
    /// Higher shortens the path of a put and heats the node closest to a popular key, which then sees up to
    /// `loaded_puts_per_minute · ⌈log2 n⌉` puts a minute in a network of n nodes. A node also lets out at most so many
    /// puts of its own for one key in a minute, without which that bound does not hold.
    pub loaded_puts_per_minute: NonZeroU32,

    /// The most values that a node stores under one key at one level, above which the one that ends first makes room.
    /// Default 16. Bounds what one popular, or attacked, key costs.
    pub values_per_key: NonZeroU32,

    /// The most values that a node stores in all. Default 100,000. New ones are refused then,
    /// and go to the next node on the way.
    pub stored_values: u32,

    /// The most values that a node stores for one address once the store is half full. Default 2,000.
    ///
    /// Higher lets one node fill more of the others' memory; lower refuses busy caches, whose values then go to the next
    /// node on the way.
    pub values_per_address: NonZeroU32,

    /// The same for one network: a /24 of IPv4 or a /48 of IPv6. Default 10,000.
    pub values_per_prefix: NonZeroU32,

    /// The longest a value lives without being renewed, whatever its owner asks for. Default one day.
    #[serde(with = "span")]
    pub max_ttl: Duration,

    /// Values in the answer to one get. Default 4, at most 8: a reader needs a choice, not the whole list.
    pub values_per_answer: NonZeroU32,

    /// How many claimants are given the same value first, before the next one's turn comes. Default 4.
    ///
    /// A crowd that asks for one object becomes a tree in which each node serves so many others: lower makes it deeper,
    /// higher asks more of the upload of each.
    pub claim_fan_out: NonZeroU32,

    /// Peers in one answer. Default 4, at most 16.
    ///
    /// More gives a lookup more ways around dead nodes, and makes answers larger than requests.
    pub peers_per_answer: NonZeroU32,

    /// Peers remembered for each power of two of distance, in each cluster. Default 8.
    ///
    /// More shortens lookups a little; each costs a datagram in each `keepalive`.
    pub bucket_peers: NonZeroU32,

    /// Further peers that are remembered for a bucket that is full, to take the place of one that fails. Default 8.
    ///
    /// They have answered this node once, and cost memory only: nobody pings them.
    pub bucket_spares: u32,

    /// The time-out of the first request to a peer whose round-trip time is unknown, unless those of the other members of
    /// the cluster suggest a shorter one. Default 400 ms.
    ///
    /// RFC 6298 says 1 s, for a bulk transfer; a lookup loses less by asking somebody else meanwhile.
    #[serde(with = "span")]
    pub initial_rto: Duration,

    /// The least time after which a request is sent again, however near a peer is. Default 50 ms: a busy machine answers late,
    /// too. Somebody else is asked sooner.
    #[serde(with = "span")]
    pub min_rto: Duration,

    /// A peer not heard for so long is pinged. Default 20 s.
    #[serde(with = "span")]
    pub keepalive: Duration,

    /// A peer that answered within this time counts as first-hand verified [C04 §3.1]. Default 40 s.
    ///
    /// Shorter keeps dead proxies out of DNS answers sooner, and pings more.
    #[serde(with = "span")]
    pub verified: Duration,

    /// How often a random part of each table is looked up again, to learn of nodes that came. Default 5 min, as often
    /// as clusters are weighed [C04 §4.4]. A new node does so after 1 s, 2 s, 4 s … until it has reached this.
    #[serde(with = "span")]
    pub refresh: Duration,

    /// The secret that all nodes of a closed network share: 64 hexadecimal digits. Default: none, an open network.
    ///
    /// With one every datagram is authenticated, for 16 bytes and some microseconds each, and strangers are dropped before
    /// anything else is looked at. A node's cache knows other nodes by it as well.
    pub network_key: Option<NetworkKey>,

    /// Requests served a second for one network, a /24 of IPv4 or a /48 of IPv6, and twice as many in a burst. Default
    /// 10,000; more are dropped before they are looked at. Those of this machine itself are not counted.
    ///
    /// Lower leaves more of a small machine to others under a flood.
    pub requests_per_prefix: NonZeroU32,

    /// Requests of the application under way at once. Default 4,096; beyond it the handle's channel makes them wait.
    pub operations: u32,

    /// The rules against hot spots. All on, but in experiments that show what each is worth.
    #[serde(skip)]
    pub rules: Rules,
}

/// The rules that keep the nodes around a popular key from being overrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A lookup halves the distance with each hop, instead of going straight for the nearest node [C04 §4.1].
    pub halving: bool,
    /// A node that is full and loaded turns a put back [C04 §4.2].
    pub turn_back: bool,
    /// A node that is given what was turned back lets the next puts through more seldom (ours).
    pub push_back: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { halving: true, turn_back: true, push_back: true }
    }
}

impl Default for Config {
    fn default() -> Self {
        let count = |number| NonZeroU32::new(number).expect("the defaults are not zero");
        Self {
            diameters: vec![Duration::from_millis(60), Duration::from_millis(20)],
            full_values: count(4),
            loaded_puts_per_minute: count(12),
            values_per_key: count(16),
            stored_values: 100_000,
            values_per_address: count(2000),
            values_per_prefix: count(10_000),
            max_ttl: Duration::from_secs(24 * 60 * 60),
            values_per_answer: count(4),
            claim_fan_out: count(4),
            peers_per_answer: count(4),
            bucket_peers: count(8),
            bucket_spares: 8,
            initial_rto: Duration::from_millis(400),
            min_rto: Duration::from_millis(50),
            keepalive: Duration::from_secs(20),
            verified: Duration::from_secs(40),
            refresh: Duration::from_secs(300),
            network_key: None,
            requests_per_prefix: count(10_000),
            operations: 4096,
            rules: Rules::default(),
        }
    }
}

impl Config {
    /// The levels that the network has.
    pub fn levels(&self) -> Levels {
        Levels::first(1 + self.diameters.len())
    }

    /// `values_per_answer`, such that any answer fits into a datagram.
    pub(crate) fn values_in_answer(&self) -> usize {
        self.values_per_answer.get().min(8) as usize
    }

    /// `peers_per_answer`, such that any answer fits into a datagram.
    pub(crate) fn peers_in_answer(&self) -> usize {
        self.peers_per_answer.get().min(16) as usize
    }

    /// The time between two rounds of maintenance. Never zero, however the configuration was made.
    pub(crate) fn maintenance(&self) -> Duration {
        (self.keepalive / 4).max(Duration::from_millis(1))
    }

    /// The diameter of `level`; `None` for the global level, and for one that the network has not.
    pub fn diameter(&self, level: Level) -> Option<Duration> {
        self.diameters.get(level.index().checked_sub(1)?).copied()
    }
}

/// A span as people write it, such as `20s`. Zero has no meaning anywhere here.
mod span {
    use serde::{Deserializer, Serializer, de};

    use super::Duration;

    pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        humantime_serde::serialize(span, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let span: Duration = humantime_serde::deserialize(deserializer)?;
        if span < Duration::from_millis(1) { Err(de::Error::custom("at least 1ms")) } else { Ok(span) }
    }
}

/// A list of spans, each as people write it, checked as it is read.
mod diameters {
    use serde::{Deserializer, Serializer, de, ser::SerializeSeq as _};

    use super::{Deserialize, Duration, MAX_LEVELS, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Span(#[serde(with = "humantime_serde")] Duration);

    pub(super) fn serialize<S: Serializer>(spans: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(spans.len()))?;
        for span in spans {
            sequence.serialize_element(&Span(*span))?;
        }
        sequence.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        let spans: Vec<Duration> = Vec::<Span>::deserialize(deserializer)?.into_iter().map(|span| span.0).collect();
        if spans.len() >= MAX_LEVELS {
            return Err(de::Error::custom(format!("at most {} diameters", MAX_LEVELS - 1)));
        }
        if !spans.is_sorted_by(|wide, narrow| wide > narrow) {
            return Err(de::Error::custom("each diameter must be smaller than the one before it"));
        }
        Ok(spans)
    }
}
